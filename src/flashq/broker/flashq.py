"""`FlashQ`: topics and consumer groups on a storage backend. What the server serves and what a program embeds."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from types import TracebackType
from typing import Self, TypeVar

from flashq.batch import BadFrame, Batch, decode, encode
from flashq.broker.retention import RetentionThread
from flashq.broker.waiters import Waiters
from flashq.errors import (
    Closed,
    DataCorruption,
    FlashQError,
    GroupNotFound,
    InvalidOffset,
    InvalidParameter,
    TopicNotFound,
    ValidationError,
)
from flashq.record import MAX_VALUE_BYTES, NO_HEADERS, Postable, RecordWithOffset, Row, to_row
from flashq.storage.backend import Health, StorageBackend
from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import (
    DEFAULT_SEGMENT_BYTES,
    Append,
    CommittedOffset,
    ConsumerGroup,
    SyncMode,
    TopicConfig,
    TopicLog,
)
from flashq.storage.memory import InMemoryBackend

MAX_NAME_LENGTH = 255
T = TypeVar("T")
Headers = dict[str, bytes] | None
MakeRecord = Callable[[int, int, bytes | None, bytes, Headers], T]

_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,254}", re.ASCII)


class Polled(list[T]):
    """Records in order of offset, and where the topic stood when they were read.

    `next_offset` is where to read on; `lag` is how many records were readable from there.
    """

    __slots__ = ("high_water_mark", "log_start_offset", "next_offset")

    def __init__(self, records: Iterable[T], next_offset: int, high_water_mark: int, log_start_offset: int) -> None:
        super().__init__(records)
        self.next_offset = next_offset
        self.high_water_mark = high_water_mark
        self.log_start_offset = log_start_offset

    @property
    def lag(self) -> int:
        return max(self.high_water_mark - self.next_offset, 0)


PolledRecords = Polled[RecordWithOffset]


class FlashQ:
    """Topics of records with dense offsets, and consumer groups with committed offsets. Safe to use from any thread.

    `FlashQ()` lives in memory; `FlashQ.open(path)` on files, one process per directory. A post returns when its
    sync mode's promise holds (docs/durability.md): under `always`, the default, it survives a power cut.

    Every method raises `InvalidParameter` for a bad name or number and `Closed` after `close`; posts and commits
    also `StorageFull` (nothing stored; retriable) and `StorageFailed` (see `outcome`).
    """

    def __init__(
        self,
        backend: StorageBackend | None = None,
        *,
        topic_defaults: TopicConfig | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`topic_defaults` is how topics are kept that are created on first use; `clock_ms` stamps records."""
        self.backend = backend or InMemoryBackend()
        self.clock_ms = clock_ms
        self.waiters = Waiters()
        self._topic_defaults = topic_defaults or TopicConfig()
        self._lock = threading.Lock()
        self._closed = False
        self._retention: RetentionThread | None = None
        for log in self.backend.topics.values():
            self._adopt(log)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        sync_mode: SyncMode = "always",
        commit_threshold: int = 10,
        sync_interval_s: float = 1.0,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
    ) -> Self:
        """A FlashQ on the files of a directory, which is made if it is not there, and recovered if it is.

        `commit_threshold` (records) and `sync_interval_s` (seconds) say when `periodic` syncs; `segment_bytes` when
        a segment is sealed. Retention applies to topics created from now on. Raises `DirectoryLocked` if another
        process has the directory open, `UnsupportedFormat` if a newer FlashQ wrote it.
        """
        defaults = TopicConfig(retention_ms=retention_ms, retention_bytes=retention_bytes, segment_bytes=segment_bytes)
        backend = FileBackend(
            os.fspath(path), sync_mode=sync_mode, commit_threshold=commit_threshold, sync_interval_s=sync_interval_s
        )
        return cls(backend, topic_defaults=defaults)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write and sync everything, release the directory. Calling it again does nothing.

        Raises `StorageFailed` if the disk did not take it; the directory is released all the same.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._retention is not None:
            self._retention.close()
        self.backend.close()

    # -- records

    def post_record(self, topic: str, record: Postable) -> int:
        """Store one record; its offset, once the sync mode's promise holds. The topic is created on first use."""
        return self.append(topic, [to_row(record)]).result().batch.base_offset

    def post_records(self, topic: str, records: Iterable[Postable]) -> list[int]:
        """Store records together, all or nothing, contiguous; their offsets in order, once the promise holds.

        A plain text or bytes stands for a record. Raises `ValidationError` for an empty post or a bad record:
        nothing is stored then.
        """
        if isinstance(records, str | bytes):
            raise ValidationError("post_records takes a list of records; post_record takes one", field="records")
        rows = [  # plain bytes, the usual thing in bulk, without a call each
            (None, record, NO_HEADERS) if type(record) is bytes and len(record) <= MAX_VALUE_BYTES else to_row(record)
            for record in records
        ]
        batch = self.append(topic, rows).result().batch
        return list(range(batch.base_offset, batch.next_offset))

    def poll_records(
        self, topic: str, *, from_offset: int = 0, count: int | None = None, max_bytes: int | None = None
    ) -> PolledRecords:
        """Records from an offset on, in order; at most `count`, all there are without it. Changes nothing.

        At or past the end: no records. `max_bytes` caps keys, values and headers together, but gives one record at
        least. Raises `TopicNotFound`; `OffsetOutOfRange` below the log start; `DataCorruption` at damaged records.
        """
        log = self.log(topic)
        _at_least("from_offset", from_offset, 0)
        for name, value in (("count", count), ("max_bytes", max_bytes)):
            if value is not None:
                _at_least(name, value, 0)
        return self.read(log, from_offset, RecordWithOffset, max_records=count, max_bytes=max_bytes)

    def append(self, topic: str, rows: Sequence[Row]) -> Append:
        """Number and buffer one batch, creating the topic if need be; the handle is done when the promise holds."""
        return self.log_or_new(topic).append(encode(rows, self.clock_ms()))

    # -- topics

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        self._check_open()
        return sorted(self.backend.topics)

    def create_topic(
        self,
        topic: str,
        *,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        segment_bytes: int | None = None,
    ) -> bool:
        """Create a topic, durably; False if it was there (and stays as it is). None takes the default."""
        check_name("topic", topic)
        self._check_open()
        created = topic not in self.backend.topics
        given = {"retention_ms": retention_ms, "retention_bytes": retention_bytes, "segment_bytes": segment_bytes}
        changes = {name: value for name, value in given.items() if value is not None}
        self._create(topic, self._topic_defaults.with_changes(changes))
        return created

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and what groups have committed in it, for good, durably. Raises `TopicNotFound`."""
        log = self.log(topic)
        try:
            self.backend.delete_topic(topic)
        except KeyError:
            raise _no_topic(topic) from None
        for group in list(self.backend.groups.values()):
            group.forget(log)

    def high_water_mark(self, topic: str) -> int:
        """The first offset of a topic that readers may not yet see; 0 in an empty topic. Raises `TopicNotFound`."""
        return self.log(topic).high_water_mark

    def log(self, topic: str) -> TopicLog:
        """The topic's log. Raises `TopicNotFound`."""
        log = self.backend.topics.get(topic)
        if log is None or self._closed:
            self._check_open()
            check_name("topic", topic)
            raise _no_topic(topic)
        return log

    def log_or_new(self, topic: str) -> TopicLog:
        """The topic's log, created durably if it is not there: that blocks on the disk."""
        log = self.backend.topics.get(topic)
        if log is None or self._closed:
            self._check_open()
            check_name("topic", topic)
            log = self._create(topic, self._topic_defaults)
        return log

    # -- consumer groups

    def create_consumer_group(self, group: str) -> bool:
        """Create a group, durably; False if it was there."""
        check_name("group", group)
        self._check_open()
        created = group not in self.backend.groups
        self.backend.create_group(group)
        return created

    def delete_consumer_group(self, group: str) -> None:
        """Delete a group and its offsets, for good, durably. Raises `GroupNotFound`."""
        self.group(group)
        try:
            self.backend.delete_group(group)
        except KeyError:
            raise _no_group(group) from None

    def consumer_groups(self) -> list[str]:
        """Names of all groups, sorted."""
        self._check_open()
        return sorted(self.backend.groups)

    def consumer_group_offset(self, group: str, topic: str) -> int:
        """The offset a group reads next in a topic; 0 before its first commit."""
        committed = self.group(group).committed(self.log(topic))
        return committed.offset if committed is not None else 0

    def commit_offset(self, group: str, topic: str, offset: int, metadata: str | None = None) -> None:
        """Set the offset a group reads next; back is allowed. As durable on return as the sync mode says.

        Raises `InvalidOffset` beyond the high water mark, `GroupNotFound`, `TopicNotFound`.
        """
        self.commit(group, topic, offset, metadata).result()

    def commit(self, group: str, topic: str, offset: int, metadata: str | None = None) -> Append:
        """`commit_offset` as a handle that is done when the promise holds."""
        found, log = self.group(group), self.log(topic)
        _at_least("offset", offset, 0)
        end = log.high_water_mark
        if offset > end:
            raise InvalidOffset(
                f"offset {offset} is beyond the high water mark {end} of topic {topic}; nothing was committed",
                offset=offset,
                topic=topic,
                max_offset=end,
            )
        return found.commit(log, CommittedOffset(offset, self.clock_ms(), metadata))

    def poll_records_for_consumer_group(
        self, group: str, topic: str, *, count: int | None = None, max_bytes: int | None = None
    ) -> PolledRecords:
        """Records from the group's committed offset on. Never moves it: commit `next_offset` when done with them."""
        from_offset = self.consumer_group_offset(group, topic)
        return self.poll_records(topic, from_offset=from_offset, count=count, max_bytes=max_bytes)

    def group(self, group: str) -> ConsumerGroup:
        """The consumer group. Raises `GroupNotFound`."""
        found = self.backend.groups.get(group)
        if found is None or self._closed:
            self._check_open()
            check_name("group", group)
            raise _no_group(group)
        return found

    # -- the whole

    def health(self) -> Health:
        """Whether every log takes posts and can be read."""
        return self.backend.health()

    def apply_retention(self) -> int:
        """Remove now what topics no longer keep; bytes freed. Happens by itself every few seconds as well."""
        now_ms = self.clock_ms()
        freed = 0
        failed: Exception | None = None
        for log in list(self.backend.topics.values()):
            try:
                freed += log.retain(now_ms)
            except (OSError, FlashQError) as error:  # the other topics are kept as they should be all the same
                failed = failed or error
        if failed is not None:
            raise failed
        return freed

    def read(
        self,
        log: TopicLog,
        from_offset: int,
        make: MakeRecord[T],
        *,
        max_records: int | None = None,
        max_bytes: int | None = None,
    ) -> Polled[T]:
        """`poll_records` of a log, each record as `make(offset, timestamp_ms, key, value, headers)` has it."""
        start, end = log.log_start_offset, log.high_water_mark
        records: list[T] = []
        if max_records != 0:
            batches = log.read(from_offset, max_records=max_records, max_bytes=max_bytes)
            stop = batches[-1].next_offset if batches else from_offset
            if max_records is not None:
                stop = min(stop, from_offset + max_records)
            records = _decode(log, batches, from_offset, stop, make, max_bytes)
        next_offset = from_offset + len(records)
        return Polled(records, next_offset, max(end, next_offset if records else 0), start)

    def _create(self, topic: str, config: TopicConfig) -> TopicLog:
        log = self.backend.create_topic(topic, config)
        self._adopt(log)
        return log

    def _adopt(self, log: TopicLog) -> None:
        if log.config.retention_ms is not None or log.config.retention_bytes is not None:
            with self._lock:
                if self._retention is None and not self._closed:
                    self._retention = RetentionThread(self.apply_retention)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this FlashQ is closed; nothing was done")


def check_name(kind: str, name: str) -> str:
    """A valid name of a topic or group. Raises `InvalidParameter`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):  # type: ignore[redundant-expr]
        shown = repr(name)[:60]
        raise InvalidParameter(
            f"{shown} is not a {kind} name: 1 to {MAX_NAME_LENGTH} of A-Z a-z 0-9 . _ -, "
            "not beginning with -, not . or ..",
            parameter=kind,
        )
    return name


def _decode(
    log: TopicLog, batches: Sequence[Batch], from_offset: int, stop: int, make: MakeRecord[T], max_bytes: int | None
) -> list[T]:
    """The records `[from_offset:stop)` of these batches, cut where they pass `max_bytes`, one at least."""
    keep = make
    sizes: list[int] = []
    if max_bytes is not None and sum(len(batch.frame) for batch in batches) > max_bytes:

        def keep(offset: int, timestamp_ms: int, key: bytes | None, value: bytes, headers: Headers) -> T:
            in_headers = sum(len(name.encode()) + len(data) for name, data in headers.items()) if headers else 0
            sizes.append(len(value) + len(key or b"") + in_headers)
            return make(offset, timestamp_ms, key, value, headers)

    records: list[T] = []
    for batch in batches:
        try:
            records += decode(batch, keep, max(from_offset - batch.base_offset, 0), stop - batch.base_offset)
        except BadFrame as error:
            if records:
                break
            raise DataCorruption(
                f"topic {log.name} at offset {batch.base_offset}: {error}", topic=log.name, offset=batch.base_offset
            ) from error
    if max_bytes is not None and sizes:
        within = sum(1 for total in accumulate(sizes) if total <= max_bytes)
        return records[: max(within, 1)]
    return records


def _at_least(name: str, value: int, least: int) -> int:
    if type(value) is not int or not least <= value < 1 << 63:
        raise InvalidParameter(f"{name} is {value!r}; it must be a whole number, {least} or more", parameter=name)
    return value


def _no_topic(topic: str) -> TopicNotFound:
    return TopicNotFound(f"there is no topic {topic}; posting to it creates it", topic=topic)


def _no_group(group: str) -> GroupNotFound:
    return GroupNotFound(f"there is no consumer group {group}; create it first", group_id=group)
