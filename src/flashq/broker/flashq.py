"""`FlashQ`: topics and consumer groups on a storage backend. What the server serves and what a program embeds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypedDict, TypeVar, Unpack

from flashq.batch import MakeRecord, encode
from flashq.broker.decoding import decode_range, offset_after
from flashq.broker.polled import Polled, PolledRecords
from flashq.broker.reset import ResetTo, reset_target, whole
from flashq.broker.retention import RetentionThread
from flashq.broker.terms import Terms, append_on, check_terms, hash_idempotency_key
from flashq.broker.waiters import Waiters
from flashq.errors import (
    Closed,
    FlashQError,
    GroupNotFound,
    InvalidOffset,
    InvalidParameter,
    TopicNotFound,
    ValidationError,
)
from flashq.names import check_name
from flashq.record import MAX_VALUE_BYTES, NO_HEADERS, Postable, RecordWithOffset, Row, to_row
from flashq.storage.backend import Health, StorageBackend
from flashq.storage.extras import KAFKA_SCHEME, import_kafka
from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import (
    DEFAULT_SEGMENT_BYTES,
    Append,
    CommittedOffset,
    ConsumerGroup,
    SyncMode,
    TopicConfig,
    TopicLog,
    not_at_end,
)
from flashq.storage.memory import InMemoryBackend

T = TypeVar("T")


class TopicChanges(TypedDict, total=False):
    """How a topic is to be kept: what is absent stays as it is, None keeps everything."""

    retention_ms: int | None
    retention_bytes: int | None
    segment_bytes: int


class Conditions(TypedDict, total=False):
    """What a post may ask for (`FlashQ.post_records`)."""

    if_next_offset: int | None
    idempotency_key: str | None
    durable: bool


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
        self._changing = threading.Lock()  # held while a topic or group is made, configured or removed
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
        kafka_config: Mapping[str, str] | None = None,
    ) -> Self:
        """A FlashQ on the files of a directory, which is made if it is not there, and recovered if it is.

        Or, for a path `kafka://host:9092,...`, on an Apache Kafka cluster (docs/how-to/kafka.md); `kafka_config` is
        then more settings of librdkafka. Raises `StorageUnavailable` if no broker answers.

        `commit_threshold` (records) and `sync_interval_s` (seconds) say when `periodic` syncs; `segment_bytes` when
        a segment is sealed. Retention applies to topics created from now on. Raises `DirectoryLocked` if another
        process has the directory open, `UnsupportedFormat` if a newer FlashQ wrote it.
        """
        defaults = TopicConfig(retention_ms=retention_ms, retention_bytes=retention_bytes, segment_bytes=segment_bytes)
        where = os.fspath(path)
        if where.startswith(KAFKA_SCHEME):
            kafka = import_kafka().KafkaBackend(
                where.removeprefix(KAFKA_SCHEME), config=kafka_config, sync_mode=sync_mode
            )
            return cls(kafka, topic_defaults=defaults)
        backend = FileBackend(
            where, sync_mode=sync_mode, commit_threshold=commit_threshold, sync_interval_s=sync_interval_s
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

    def post_record(self, topic: str, record: Postable, **conditions: Unpack[Conditions]) -> int:
        """Store one record; its offset, once the sync mode's promise holds. The topic is created on first use.

        `conditions` are those of `post_records`.
        """
        return self.append(topic, [to_row(record)], **conditions).result().batch.base_offset

    def post_records(self, topic: str, records: Iterable[Postable], **conditions: Unpack[Conditions]) -> list[int]:
        """Store records together, all or nothing, contiguous; their offsets in order, once the promise holds.

        A plain text or bytes stands for a record. `idempotency_key` (1 to 255 visible ASCII characters) makes a
        repetition harmless: while the first post with the key is in the topic, another returns its offsets.
        `if_next_offset`: only if the topic ends there (0: it may also not exist). `durable`: wait for the fsync
        whatever the sync mode. Raises, with nothing stored, `ValidationError` for an empty post or a bad record,
        `IdempotencyKeyReused` if the key came with other records, `PreconditionFailed` if the topic ends elsewhere.
        """
        if isinstance(records, str | bytes):
            raise ValidationError("post_records takes a list of records; post_record takes one", field="records")
        rows = [  # plain bytes, the usual thing in bulk, without a call each
            (None, record, NO_HEADERS) if type(record) is bytes and len(record) <= MAX_VALUE_BYTES else to_row(record)
            for record in records
        ]
        batch = self.append(topic, rows, **conditions).result().batch
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

    def append(self, topic: str, rows: Sequence[Row], **conditions: Unpack[Conditions]) -> Append:
        """Number and buffer one batch, creating the topic if need be; the handle is done when the promise holds.

        With a key it may block on the disk.
        """
        if not conditions:
            return self.log_or_new(topic).append(encode(rows, self.clock_ms()))
        terms = self._terms(**conditions)
        self.check_new(topic, terms)
        return append_on(terms, self.log_or_new(topic), rows, self.clock_ms())

    def check_new(self, topic: str, terms: Terms) -> None:
        """Raises `PreconditionFailed` if a post on these terms must not create the topic, which is not there."""
        if terms.if_next_offset and topic not in self.backend.topics:
            check_name("topic", topic)
            raise not_at_end(topic, 0, terms.if_next_offset)

    # -- topics

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        return [log.name for log in self.logs()]

    def logs(self) -> list[TopicLog]:
        """The logs of all topics as they are now, by name."""
        self._check_open()
        self.backend.refresh()
        return sorted(self.backend.topics.values(), key=lambda log: log.name)

    def create_topic(
        self,
        topic: str,
        *,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        segment_bytes: int | None = None,
    ) -> bool:
        """Create a topic, durably; False if it was there (and stays as it is). None takes the default."""
        given = {"retention_ms": retention_ms, "retention_bytes": retention_bytes, "segment_bytes": segment_bytes}
        changes = {name: value for name, value in given.items() if value is not None}
        return self._create(topic, self._topic_defaults.with_changes(changes))[1]

    def configure_topic(self, topic: str, **changes: Unpack[TopicChanges]) -> None:
        """Change how a topic is kept, durably: `retention_ms`, `retention_bytes` (None: for ever), `segment_bytes`.

        What is not given stays as it is. Raises `TopicNotFound`; `StorageFull` or `StorageFailed` when the disk does
        not take it: the topic is then kept as before, until a restart at least.
        """
        with self._changing:  # a change builds on the one before it
            log = self.log(topic)
            log.configure(log.config.with_changes(dict(changes)))  # type: ignore[arg-type]
        self._adopt(log)

    def put_topic(self, topic: str, **changes: Unpack[TopicChanges]) -> tuple[TopicLog, bool]:
        """`configure_topic`, or a new topic, durably, with defaults for what is not given; its log, and whether new."""
        with_defaults = self._topic_defaults.with_changes(dict(changes))  # type: ignore[arg-type]
        while True:
            log, created = self._create(topic, with_defaults)
            if created or not changes:
                return log, created
            try:
                self.configure_topic(topic, **changes)
            except TopicNotFound:  # deleted since
                continue
            return log, False

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and what groups have committed in it, for good, durably. Raises `TopicNotFound`."""
        with self._changing:
            log = self.log(topic)
            try:
                self.backend.delete_topic(topic)
            except KeyError:  # by another server, since
                raise _no_topic(topic) from None
        for group in list(self.backend.groups.values()):
            group.forget(log)

    def high_water_mark(self, topic: str) -> int:
        """The first offset of a topic that readers may not yet see; 0 in an empty topic. Raises `TopicNotFound`."""
        log = self.log(topic)
        log.refresh()
        return log.high_water_mark

    def log(self, topic: str) -> TopicLog:
        """The topic's log. Raises `TopicNotFound`."""
        log = self.backend.topics.get(topic)
        if log is None or self._closed:
            self._check_open()
            check_name("topic", topic)
            log = self.backend.find_topic(topic)
            if log is None:
                raise _no_topic(topic)
        return log

    def log_as_it_is(self, topic: str) -> TopicLog:
        """The topic's log, with its offsets and configuration as they are now. Raises `TopicNotFound`."""
        self._check_open()
        log = self.backend.find_topic(check_name("topic", topic))
        if log is None:
            raise _no_topic(topic)
        return log

    def log_or_new(self, topic: str) -> TopicLog:
        """The topic's log, created durably if it is not there: that blocks on the disk."""
        log = self.backend.topics.get(topic)
        if log is None or self._closed:
            log, _ = self._create(topic, self._topic_defaults)
        return log

    # -- consumer groups

    def create_consumer_group(self, group: str) -> bool:
        """Create a group, durably; False if it was there."""
        check_name("group", group)
        self._check_open()
        with self._changing:
            created = self.backend.find_group(group) is None
            self.backend.create_group(group)
        return created

    def delete_consumer_group(self, group: str) -> None:
        """Delete a group and its offsets, for good, durably. Raises `GroupNotFound`."""
        with self._changing:
            self.group(group)
            try:
                self.backend.delete_group(group)
            except KeyError:  # by another server, since
                raise _no_group(group) from None

    def consumer_groups(self) -> list[str]:
        """Names of all groups, sorted."""
        self._check_open()
        self.backend.refresh()
        return sorted(self.backend.groups)

    def consumer_group_offset(self, group: str, topic: str) -> int:
        """The offset a group reads next in a topic; 0 before its first commit."""
        committed = self.group(group).committed(self.log(topic))
        return committed.offset if committed is not None else 0

    def commit_offset(self, group: str, topic: str, offset: int, metadata: str | None = None) -> None:
        """Set the offset a group reads next; back is allowed. As durable on return as the sync mode says.

        Raises `InvalidOffset` below 0 or beyond the high water mark, `GroupNotFound`, `TopicNotFound`.
        """
        self.commit(group, topic, offset, metadata).result()

    def commit(
        self, group: str, topic: str, offset: int, metadata: str | None = None, *, timestamp_ms: int | None = None
    ) -> Append:
        """`commit_offset` as a handle that is done when the promise holds; `timestamp_ms` is now if not given."""
        found, log = self.group(group), self.log(topic)
        if whole("offset", offset) > log.high_water_mark:
            log.refresh()
        end = log.high_water_mark
        if offset > end or offset < 0:
            why = "below 0" if offset < 0 else f"beyond the high water mark {end} of topic {topic}"
            raise InvalidOffset(
                f"offset {offset} is {why}; nothing was committed", offset=offset, topic=topic, max_offset=end
            )
        stamp = self.clock_ms() if timestamp_ms is None else timestamp_ms
        return self._commit(found, log, CommittedOffset(offset, stamp, metadata))

    def reset_offset(
        self, group: str, topic: str, to: ResetTo, at: int | None = None, *, dry_run: bool = False
    ) -> tuple[int, int]:
        """Move a group to the "earliest" record, the "latest" (the end), an "offset" or a "time"; offset before, after.

        `at` is that offset, or that time in Unix milliseconds: the first record stored then or later, the end if
        there is none. As durable on return as a commit; `dry_run` commits nothing. May read the disk. Raises
        `InvalidOffset` outside the log (`details`: min_offset, max_offset), `InvalidParameter` for an `at` that is
        missing or does not belong, `GroupNotFound`, `TopicNotFound`, `DataCorruption`.
        """
        found, log = self.group(group), self.log(topic)
        before = found.committed(log)
        log.refresh()
        after = reset_target(log, to, at)
        if not dry_run:
            self._commit(found, log, CommittedOffset(after, self.clock_ms())).result()
        return before.offset if before is not None else 0, after

    def poll_records_for_consumer_group(
        self, group: str, topic: str, *, count: int | None = None, max_bytes: int | None = None
    ) -> PolledRecords:
        """Records from the group's committed offset on. Never moves it: commit `next_offset` when done with them.

        From the log start before its first commit. Raises as `poll_records`: also when retention has passed the group.
        """
        found, log = self.group(group), self.log(topic)
        committed = found.committed(log)
        log.refresh()
        from_offset = log.log_start_offset if committed is None else committed.offset
        return self.poll_records(topic, from_offset=from_offset, count=count, max_bytes=max_bytes)

    def group(self, group: str) -> ConsumerGroup:
        """The consumer group. Raises `GroupNotFound`."""
        self._check_open()
        found = self.backend.find_group(check_name("group", group))
        if found is None:
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
        log.refresh()
        start, end = log.log_start_offset, log.high_water_mark
        if max_records == 0:
            return Polled([], from_offset, end, start)
        batches = log.read(from_offset, max_records=max_records, max_bytes=max_bytes)
        if not batches:
            return Polled([], max(from_offset, end), end, start)
        first = max(from_offset, batches[0].base_offset)
        stop = batches[-1].next_offset if max_records is None else min(batches[-1].next_offset, first + max_records)
        records = decode_range(log, batches, first, stop, make, max_bytes)
        next_offset = offset_after(batches, first, len(records))
        return Polled(records, next_offset, max(end, next_offset), start)

    def _create(self, topic: str, config: TopicConfig) -> tuple[TopicLog, bool]:
        """The log there is, or a new one kept like this; and whether it is new."""
        check_name("topic", topic)
        self._check_open()
        with self._changing:
            log, created = self.backend.create_topic(topic, config)
        self._adopt(log)
        return log, created

    def _commit(self, group: ConsumerGroup, log: TopicLog, committed: CommittedOffset) -> Append:
        try:
            return group.commit(log, committed)
        except Closed:
            if self.backend.groups.get(group.name) is not group:
                raise _no_group(group.name) from None  # deleted since
            raise

    def _adopt(self, log: TopicLog) -> None:
        if self.backend.is_remote:  # which removes by itself
            return
        if log.config.retention_ms is not None or log.config.retention_bytes is not None:
            with self._lock:
                if self._retention is None and not self._closed:
                    self._retention = RetentionThread(self.apply_retention)

    def _terms(
        self, *, if_next_offset: int | None = None, idempotency_key: str | None = None, durable: bool = False
    ) -> Terms:
        if if_next_offset is not None:
            _at_least("if_next_offset", if_next_offset, 0)
        key_hash = None if idempotency_key is None else hash_idempotency_key(idempotency_key, "idempotency_key")
        terms = Terms(durable, if_next_offset, key_hash)
        check_terms(terms, self.backend, {"durable": "durable", "if_next_offset": "if_next_offset"})
        return terms

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this FlashQ is closed; nothing was done")


def _at_least(name: str, value: int, least: int) -> int:
    if type(value) is not int or not least <= value < 1 << 63:
        raise InvalidParameter(f"{name} is {value!r}; it must be a whole number, {least} or more", parameter=name)
    return value


def _no_topic(topic: str) -> TopicNotFound:
    return TopicNotFound(f"there is no topic {topic}; posting to it creates it", topic=topic)


def _no_group(group: str) -> GroupNotFound:
    return GroupNotFound(f"there is no consumer group {group}; create it first", group_id=group)
