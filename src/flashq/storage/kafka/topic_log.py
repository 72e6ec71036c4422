"""`KafkaTopicLog`: a topic of one partition. Offsets are Kafka's; a post is one batch there, whole or not at all.

What it knows of its offsets is what it has last heard: `refresh` asks. Nothing else is remembered but batches read, and
those are given only where the cluster says the topic has them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from flashq.batch import Batch
from flashq.errors import Closed, InvalidParameter, OffsetOutOfRange, StorageUnavailable, TopicNotFound
from flashq.storage.interface import SMALL_READ_BYTES, Append, TopicConfig, TopicLog
from flashq.storage.kafka.cache import Cache
from flashq.storage.kafka.cluster import PROPAGATION_S, Cluster, Found
from flashq.storage.kafka.follower import Follower
from flashq.storage.kafka.lanes import Lanes
from flashq.storage.kafka.reader import Readers
from flashq.storage.kafka.settling import Completions
from flashq.storage.keys import PostKeys

KEY_LOOK_BACK = 100_000
"""Records in which a repeated idempotency key is found again, counted from the end of the topic."""
UNKNOWN_S = 120.0
"""After which, and the time that messages have, a post that was never confirmed cannot arrive any more: librdkafka has
given up on it, and brokers have, too."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the logs of a backend share."""

    cluster: Cluster
    lanes: Lanes
    durable_lanes: Lanes  # the same, unless the sync mode asks for less than `durable` does
    readers: Readers
    follower: Follower
    cache: Cache
    completions: Completions
    gone: Callable[[TopicLog], None]  # told of a log that the cluster does not have any more


class KafkaTopicLog(TopicLog):
    """See `TopicLog`. Reading, `refresh`, keys and changes block for the network; `append` does not."""

    epoch = 0  # acknowledged records are on a majority of replicas; an unclean leader election is not told of

    def __init__(
        self, found: Found, bounds: tuple[int, int], parts: Parts, durability: Literal["replicated", "written"]
    ):
        self.name = found.name
        self.topic_id = found.topic_id
        self.durability = durability
        self.found_at = time.monotonic()
        self._parts = parts
        self._lock = threading.Lock()
        self._start, self._end = bounds
        self._last_timestamp_ms = 0
        self._on_advance: Callable[[], None] | None = None
        self._closed = ""  # why
        self._keys_order = threading.Lock()
        self._keys_known_to = -1
        self._unconfirmed: dict[bytes, float] = {}  # key hashes of posts that may be stored, and when they ended
        self._keys = PostKeys(self, load=dict, follow=self._follow, repeat=lambda batch, _: _done(batch))
        self._changed_at = -math.inf  # when a change made here was known to be done
        self._replaced: set[TopicConfig] = set()  # by changes made here of late
        self.described(found)

    def described(self, found: Found) -> None:
        """Take over how the cluster keeps the topic."""
        with self._lock:
            if not self._is_late(found):
                self.config = found.config
        self.max_batch_bytes = found.max_batch_bytes
        self.has_append_time = found.has_append_time
        self._may_cache = found.only_deletes

    def _is_late(self, found: Found) -> bool:
        """Asked before a change made here was done, or told by a broker that has not heard of it yet."""
        is_old_news = found.asked_at < self._changed_at + PROPAGATION_S and found.config in self._replaced
        return is_old_news or found.asked_at < self._changed_at

    # -- offsets

    @property
    def log_start_offset(self) -> int:
        return self._start

    @property
    def high_water_mark(self) -> int:
        return self._end

    next_offset = durable_offset = high_water_mark

    size_bytes = None

    def refresh(self) -> None:
        self._check_open()
        cluster = self._parts.cluster
        try:
            start, end = cluster.bounds(self.name)
            if end < self._end and self._is_another(cluster.describe([self.name]).get(self.name)):
                raise TopicNotFound(f"topic {self.name} has been deleted, and made anew", topic=self.name)
        except TopicNotFound:
            self._parts.gone(self)
            raise
        self.heard(start, end)

    def _is_another(self, found: Found | None) -> bool:
        return found is None or found.topic_id != self.topic_id

    def heard(self, start: int, end: int) -> None:
        """The cluster says the topic has `[start, end)`."""
        with self._lock:
            moved = end > self._end
            self._start, self._end = max(start, self._start), max(end, self._end)
        if moved:
            self._tell()

    def found(self, batches: list[Batch]) -> None:
        """The follower has read these at the end."""
        if self._may_cache:
            self._parts.cache.put(self.topic_id, batches)
        self.heard(0, batches[-1].next_offset)

    @property
    def on_advance(self) -> Callable[[], None] | None:
        return self._on_advance

    @on_advance.setter
    def on_advance(self, callback: Callable[[], None] | None) -> None:
        self._on_advance = callback
        if callback is None:
            self._parts.follower.unwatch(self)
        else:
            self._parts.follower.watch(self)

    def _tell(self) -> None:
        callback = self._on_advance
        if callback is not None:
            self._parts.completions.deliver(callback)

    # -- appending

    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        self._check_open("nothing was stored")
        if if_next_offset is not None:
            raise InvalidParameter(
                "if_next_offset cannot be had: Kafka has no conditional append. Nothing was stored",
                parameter="if_next_offset",
            )
        append = Append(batch, owner=self._parts.completions, durable=durable)
        lanes = self._parts.durable_lanes if durable else self._parts.lanes
        lanes.submit(self, append)
        return append

    def not_before(self, batch: Batch) -> int:
        """The time to which older records of a batch are moved up: the clock of this process may have gone back."""
        last = self._last_timestamp_ms
        self._last_timestamp_ms = max(last, batch.timestamp_ms)
        return last

    def settled(self, appends: Sequence[Append]) -> None:
        """These appends have an offset or an error; told before whoever waits for them is."""
        stored = [append.batch.next_offset for append in appends if append.error is None]
        if stored:
            self.heard(0, max(stored))
        self._keys.settled(appends)
        for append in appends:
            key_hash = append.batch.key_hash
            if key_hash is not None and append.error is not None and append.error.outcome == "unknown":
                self._unconfirmed[key_hash] = time.monotonic()
            if isinstance(append.error, TopicNotFound):
                self._parts.gone(self)

    # -- appending once

    def append_once(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        assert batch.key_hash is not None
        self._check_open("nothing was stored")
        with self._parts.cluster.in_time() as left_s:
            if not self._keys_order.acquire(timeout=left_s()):
                raise StorageUnavailable(
                    f"topic {self.name}: other posts with keys wait for the cluster. Nothing was stored",
                    topic=self.name,
                )
            try:
                self._catch_up()
            finally:
                self._keys_order.release()
        self._forget_unconfirmed(batch.key_hash)
        return self._keys.append_once(batch, durable=durable, if_next_offset=if_next_offset)

    keys_loaded = False  # other servers post as well: each time, the cluster has to be asked

    def load_keys(self) -> None:
        pass

    def holds_key(self, key_hash: bytes) -> bool:
        return self._keys.holds(key_hash)

    def _catch_up(self) -> None:
        """Know the keys of all late records that are in the topic now, whoever has posted them."""
        self.refresh()
        at = max(self._keys_known_to, self._start, self._end - KEY_LOOK_BACK)
        while at < self._end:
            before = self._end
            batches = self.read(at, max_bytes=1024 * 1024)
            for batch in batches:
                if batch.key_hash is not None:
                    self._keys.stored(batch.key_hash, batch.base_offset)
            at = batches[-1].next_offset if batches else before
        self._keys_known_to = at
        self._keys.drop_below(max(self._start, self._end - KEY_LOOK_BACK))

    def _forget_unconfirmed(self, key_hash: bytes) -> None:
        ended = self._unconfirmed.get(key_hash)
        if ended is None or time.monotonic() - ended <= self._parts.lanes.timeout_s + UNKNOWN_S:
            return
        if self._unconfirmed.pop(key_hash, None) is not None:  # else a repetition beside this one was first
            self._keys.release(key_hash)

    def _follow(self, first: Append, durable: bool) -> Append:
        completions = self._parts.completions
        follow = Append(first.batch, owner=completions, durable=durable)

        def ended(first: Append) -> None:
            follow.error = first.error
            completions.complete([follow])

        first.add_done_callback(ended)
        return follow

    # -- reading

    def read(self, from_offset: int, *, max_records: int | None = None, max_bytes: int | None = None) -> list[Batch]:
        self._check_open()
        stop = self._end
        if from_offset < self._start:
            raise self._out_of_range(from_offset)
        if from_offset >= stop:
            return []
        if not self._may_cache:
            return self._fetch(from_offset, stop, max_records, max_bytes)
        cache = self._parts.cache
        batches = cache.find(self.topic_id, from_offset, stop, max_records, max_bytes)
        at = batches[-1].next_offset if batches else from_offset
        records = None if max_records is None else max_records - (at - from_offset)
        size = None if max_bytes is None else max_bytes - sum(len(batch.frame) for batch in batches)
        if at < stop and (not batches or ((records is None or records > 0) and (size is None or size > 0))):
            fetched = self._fetch(at, stop, records, size)
            cache.put(self.topic_id, fetched)
            batches += fetched
        return batches

    def _fetch(self, from_offset: int, stop: int, max_records: int | None, max_bytes: int | None) -> list[Batch]:
        try:
            return self._parts.readers.read(self.name, self.topic_id, from_offset, stop, max_records, max_bytes)
        except OffsetOutOfRange:
            self.refresh()
            raise self._out_of_range(from_offset) from None
        except TopicNotFound:
            self._parts.gone(self)
            raise

    def is_at_hand(self, from_offset: int, max_bytes: int = SMALL_READ_BYTES) -> bool:
        return False

    def offset_at(self, timestamp_ms: int) -> int:
        self.refresh()
        offset = self._parts.cluster.offset_at(self.name, timestamp_ms)
        return self._end if offset is None else offset

    def _out_of_range(self, offset: int) -> OffsetOutOfRange:
        return OffsetOutOfRange(
            f"offset {offset} of topic {self.name} is below the log start {self._start}",
            topic=self.name,
            log_start_offset=self._start,
        )

    # -- keeping

    def configure(self, config: TopicConfig) -> None:
        self._check_open("nothing was changed")
        before = self.config
        self._parts.cluster.configure_topic(self.name, config)
        with self._lock:
            now = time.monotonic()
            if self._changed_at + PROPAGATION_S < now:
                self._replaced.clear()
            self._replaced.add(before)
            self.config, self._changed_at = config, now

    def retain(self, now_ms: int) -> int:
        """Nothing: Kafka removes what the topic's configuration no longer keeps."""
        return 0

    # -- the end

    @property
    def is_closed(self) -> bool:
        return bool(self._closed)

    def close(self, why: str) -> None:
        """Take nothing more; whoever waits for records is told to look."""
        self._closed = why
        self._tell()

    def _check_open(self, outcome: str = "") -> None:
        if self._closed:
            raise Closed(f"topic {self.name} {self._closed}" + (f"; {outcome}" if outcome else ""))


def _done(batch: Batch) -> Append:
    return Append(batch, done=True)
