"""The memory backend: batches in a list. Everything is held in this process and goes with it."""

from __future__ import annotations

import threading
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from flashq.batch import Batch
from flashq.errors import Closed, OffsetOutOfRange
from flashq.storage.backend import Deliver, Health, StorageBackend, deliver_here, deliver_on
from flashq.storage.interface import Append, CommittedOffset, ConsumerGroup, SyncMode, TopicConfig, TopicLog, not_at_end
from flashq.storage.keys import PostKeys

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class InMemoryTopicLog(TopicLog):
    """A topic as a list of batches. An append is done when `append` returns."""

    durability: Literal["memory"] = "memory"
    epoch = 0

    def __init__(self, name: str, config: TopicConfig, deliver: Deliver = deliver_here) -> None:
        """`deliver` runs `on_advance`. Where a loop drives the log, that is not inside an append: whoever is woken may
        append as well, and an append with a key holds a lock."""
        self.name = name
        self.topic_id = uuid.uuid4().hex
        self.config = config
        self._deliver = deliver
        self._lock = threading.Lock()
        self._batches: list[Batch] = []
        self._bases: list[int] = []  # base offset of each batch: bisect finds an offset's batch
        self._next_offset = 0
        self._start_offset = 0
        self._last_timestamp_ms = 0
        self._size_bytes = 0
        self._closed = False
        self._keys = PostKeys(self, load=dict, follow=lambda first, _: first, repeat=lambda batch, _: _done(batch))
        self._keys.load()

    @property
    def log_start_offset(self) -> int:
        return self._start_offset

    @property
    def high_water_mark(self) -> int:
        return self._next_offset

    next_offset = durable_offset = high_water_mark

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        with self._lock:
            if self._closed:
                raise Closed(f"topic {self.name} is closed; nothing was stored")
            offset = self._next_offset
            if if_next_offset is not None and if_next_offset != offset:
                raise not_at_end(self.name, offset, if_next_offset)
            batch.place(offset, 0, self._last_timestamp_ms)
            self._last_timestamp_ms = batch.timestamp_ms
            self._bases.append(offset)
            self._batches.append(batch)
            self._next_offset = offset + batch.count
            self._size_bytes += len(batch.frame)
        on_advance = self.on_advance
        if on_advance is not None:
            self._deliver(on_advance)
        return _done(batch)

    def append_once(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        return self._keys.append_once(batch, durable=durable, if_next_offset=if_next_offset)

    keys_loaded = True

    def load_keys(self) -> None:
        pass

    def holds_key(self, key_hash: bytes) -> bool:
        return self._keys.holds(key_hash)

    def read(self, from_offset: int, *, max_records: int | None = None, max_bytes: int | None = None) -> list[Batch]:
        with self._lock:
            if self._closed:
                raise Closed(f"topic {self.name} is closed")
            if from_offset < self._start_offset:
                raise OffsetOutOfRange(
                    f"offset {from_offset} of topic {self.name} is below the log start {self._start_offset}",
                    topic=self.name,
                    log_start_offset=self._start_offset,
                )
            if from_offset >= self._next_offset:
                return []
            first = bisect_right(self._bases, from_offset) - 1
            last = len(self._bases)
            if max_records is not None:
                last = min(last, bisect_left(self._bases, from_offset + max_records))
            if max_bytes is None:
                return self._batches[first:last]
            found: list[Batch] = []
            for at in range(first, last):
                found.append(self._batches[at])
                max_bytes -= len(self._batches[at].frame)
                if max_bytes <= 0:
                    break
            return found

    def offset_at(self, timestamp_ms: int) -> int:
        with self._lock:
            at = bisect_left(self._batches, timestamp_ms, key=lambda batch: batch.timestamp_ms)
            return self._bases[at] if at < len(self._bases) else self._next_offset

    def configure(self, config: TopicConfig) -> None:
        self.config = config

    def retain(self, now_ms: int) -> int:
        """Remove whole batches; the newest stays for a limit by size."""
        keep_ms, keep_bytes = self.config.retention_ms, self.config.retention_bytes
        with self._lock:
            drop = freed = 0
            for batch in self._batches:
                too_old = keep_ms is not None and batch.timestamp_ms < now_ms - keep_ms
                too_much = keep_bytes is not None and self._size_bytes - freed - len(batch.frame) >= keep_bytes
                if not (too_old or (too_much and drop < len(self._batches) - 1)):
                    break
                drop, freed = drop + 1, freed + len(batch.frame)
            if drop:
                del self._batches[:drop], self._bases[:drop]
                self._size_bytes -= freed
                self._start_offset = self._bases[0] if self._bases else self._next_offset
        if drop:
            self._keys.drop_below(self._start_offset)
        return freed

    def close(self) -> None:
        with self._lock:
            self._closed = True


def _done(batch: Batch) -> Append:
    return Append(batch, done=True)


class InMemoryConsumerGroup(ConsumerGroup):
    """A group as a dictionary of topic id to committed offset."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._committed: dict[str, CommittedOffset] = {}

    def committed(self, log: TopicLog) -> CommittedOffset | None:
        return self._committed.get(log.topic_id)

    def stands(self, logs: Mapping[str, TopicLog]) -> Iterator[tuple[TopicLog, CommittedOffset]]:
        for topic_id, committed in list(self._committed.items()):
            if topic_id in logs:
                yield logs[topic_id], committed

    def commit(self, log: TopicLog, committed: CommittedOffset) -> Append:
        assert committed.timestamp_ms is not None
        self._committed[log.topic_id] = committed
        return Append(Batch(b"", 1, committed.timestamp_ms, 0), done=True)

    def forget(self, log: TopicLog) -> None:
        self._committed.pop(log.topic_id, None)


class InMemoryBackend(StorageBackend):
    """Topics and groups in dictionaries."""

    kind = "memory"
    conditions = frozenset({"if_next_offset"})
    sync_mode: SyncMode = "never"

    def __init__(self) -> None:
        self.topics: dict[str, InMemoryTopicLog] = {}
        self.groups: dict[str, InMemoryConsumerGroup] = {}
        self._deliver: Deliver = deliver_here

    def create_topic(self, name: str, config: TopicConfig) -> tuple[TopicLog, bool]:
        new = InMemoryTopicLog(name, config, lambda run: self._deliver(run))  # a loop may be given later
        log = self.topics.setdefault(name, new)
        return log, log is new

    def delete_topic(self, name: str) -> None:
        self.topics.pop(name).close()

    def create_group(self, name: str) -> ConsumerGroup:
        return self.groups.setdefault(name, InMemoryConsumerGroup(name))

    def delete_group(self, name: str) -> None:
        del self.groups[name]

    def drive_from_loop(self, loop: AbstractEventLoop) -> None:
        self._deliver = deliver_on(loop)

    def health(self) -> Health:
        return Health()

    def close(self) -> None:
        for log in self.topics.values():
            log.close()
