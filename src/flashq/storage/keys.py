"""Which keyed posts a log holds, and how a repeated one gets the first one's answer. The same for every backend.

A key is in the log itself: its hash is in the header of the batch (`batch.py`), and here is only where to find it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from flashq.batch import Batch, same_records
from flashq.errors import IdempotencyKeyReused, OffsetOutOfRange
from flashq.storage.interface import Append, TopicLog


class PostKeys:
    """Hashes of keys to the base offsets of their batches. About 180 bytes of memory for each key."""

    def __init__(
        self,
        log: TopicLog,
        *,
        load: Callable[[], Mapping[bytes, int]],
        follow: Callable[[Append, bool], Append],
        repeat: Callable[[Batch, bool], Append],
    ) -> None:
        """`follow(first, durable)` is an append that ends as one under way does, `repeat(batch, durable)` one of a
        batch that is stored; `load()` reads what was stored before the log was opened."""
        self.loaded = False
        self._log = log
        self._load, self._follow, self._repeat = load, follow, repeat
        self._order = threading.Lock()  # held from looking for a key to appending its batch
        self._lock = threading.Lock()  # held while the dictionaries are used; nothing else is taken under it
        self._offsets: dict[bytes, int] = {}  # of what is stored
        self._under_way: dict[bytes, Append] = {}

    def load(self) -> None:
        """Returns once `loaded`. May block on the disk."""
        if self.loaded:
            return
        with self._order:
            if not self.loaded:
                found = self._load()
                with self._lock:
                    self._offsets = {**found, **self._offsets}
                self.loaded = True

    def holds(self, key_hash: bytes) -> bool:
        offset = self._offsets.get(key_hash)
        return offset is not None and offset >= self._log.log_start_offset

    def append_once(self, batch: Batch, *, durable: bool, if_next_offset: int | None) -> Append:
        """See `TopicLog.append_once`."""
        key_hash = batch.key_hash
        assert key_hash is not None
        self.load()
        while True:
            with self._order:
                with self._lock:
                    first, offset = self._under_way.get(key_hash), self._offsets.get(key_hash)
                if first is None and offset is None:
                    return self._append(key_hash, batch, durable, if_next_offset)
            if first is not None:
                self._check_same(first.batch, batch)
                repeated = self._follow(first, durable)
                if repeated.error is None or repeated.error.outcome == "unknown":
                    return repeated
            elif offset is not None:
                stored = self._read(key_hash, offset)
                if stored is not None:
                    self._check_same(stored, batch)
                    return self._repeat(stored, durable)
            # Refused, or removed by retention, since it was found: the key is free again.

    def settled(self, done: Sequence[Append]) -> None:
        """Note appends that are done. One that may or may not be stored keeps its key: nobody knows what to answer."""
        for append in done:
            key_hash = append.batch.key_hash
            if key_hash is None:
                continue
            with self._lock:
                if append.error is None:
                    self._offsets[key_hash] = append.batch.base_offset
                elif append.error.outcome == "unknown":
                    continue
                if self._under_way.get(key_hash) is append:
                    del self._under_way[key_hash]

    def stored(self, key_hash: bytes, offset: int) -> None:
        """A batch of this key is in the log at this offset, whoever has put it there. The first one counts."""
        with self._lock:
            self._offsets.setdefault(key_hash, offset)
            first = self._under_way.get(key_hash)
            if first is not None and first.error is not None:  # it was not known whether it is stored; it is
                del self._under_way[key_hash]

    def release(self, key_hash: bytes) -> None:
        """The post of this key that may have been stored was not, and cannot be any more."""
        with self._lock:
            self._under_way.pop(key_hash, None)

    def drop_below(self, offset: int) -> None:
        """Forget the keys of batches that retention has removed."""
        with self._lock:
            gone = [key_hash for key_hash, base_offset in self._offsets.items() if base_offset < offset]
            for key_hash in gone:
                del self._offsets[key_hash]

    def _append(self, key_hash: bytes, batch: Batch, durable: bool, if_next_offset: int | None) -> Append:
        append = self._log.append(batch, durable=durable, if_next_offset=if_next_offset)
        with self._lock:
            if key_hash not in self._offsets:  # else it is stored already, and noted
                self._under_way[key_hash] = append
        if append.done or append.error is not None:  # noted already, perhaps before it was under way
            self.settled([append])
        return append

    def _read(self, key_hash: bytes, offset: int) -> Batch | None:
        """The batch of this key; None, and the key forgotten, if it is not there any more."""
        try:
            found = self._log.read(offset, max_records=1)
        except OffsetOutOfRange:
            found = []
        if found and found[0].base_offset == offset and found[0].key_hash == key_hash:
            return found[0]
        with self._lock:
            if self._offsets.get(key_hash) == offset:
                del self._offsets[key_hash]
        return None

    def _check_same(self, first: Batch, batch: Batch) -> None:
        if not same_records(first, batch):
            raise IdempotencyKeyReused(
                f"this idempotency key was used at offset {first.base_offset} of topic {self._log.name} "
                "for other records; nothing was stored",
                topic=self._log.name,
                offset=first.base_offset,
            )
