"""`FileConsumerGroup`: a group's committed offsets as a small log of its own, compacted when it has grown.

`groups/<name>.log`, frames as in a topic. The first record's value names the group; every other record has a topic's
id as key and, as value, JSON: {"topic", "offset", "timestamp_ms", "metadata"}; an offset of null forgets the topic.
The last record of a topic counts. The id, not the name, is the key: a topic that was deleted and created again is
another topic, and an old commit never applies to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from flashq.batch import Batch, decode, encode
from flashq.errors import DataCorruption, FlashQError
from flashq.record import NO_HEADERS, RecordWithOffset, Row
from flashq.storage.file.disk import Disk
from flashq.storage.file.flush import Flusher
from flashq.storage.file.journal import Journal
from flashq.storage.file.opening import UNKNOWN, Beforehand, Recovered, create_group_file, fetch_file, recover_file
from flashq.storage.file.segment import Segment
from flashq.storage.file.unreadable import UnreadableTopicLog
from flashq.storage.interface import Append, CommittedOffset, ConsumerGroup, TopicLog

GROUP_SUFFIX = ".log"
_COMPACT_BYTES = 64 * 1024
_COMPACT_GROWTH = 4


class _GroupName(msgspec.Struct):
    group: str


class Commit(msgspec.Struct):
    """The value of a record: up to where the group has read a topic; an offset of null forgets the topic."""

    topic: str
    offset: int | None
    timestamp_ms: int
    metadata: str | None = None


class FileConsumerGroup(ConsumerGroup):
    """See `ConsumerGroup`. `damage`: every use but deleting raises it."""

    def __init__(
        self,
        name: str,
        segment: Segment,
        next_offset: int,
        commits: dict[str, Commit],
        *,
        disk: Disk,
        flusher: Flusher,
        damage: DataCorruption | None = None,
    ) -> None:
        self.name = name
        self.path = segment.path
        self.damage = damage
        self._disk = disk
        self._commits = commits  # by topic id: those whose promise holds
        self._in_flight: dict[Batch, tuple[str, Commit]] = {}
        self._compact_at = _COMPACT_BYTES
        self.journal = Journal(
            f"group {name}",
            segment,
            next_offset,
            flusher,
            is_full=lambda active: active.size >= self._compact_at,
            roll=self._compact,
            epoch=lambda offset: 0,
            on_settled=self._settled,
        )

    @classmethod
    def create(cls, disk: Disk, path: str, name: str, flusher: Flusher) -> FileConsumerGroup:
        """A new group, durable on return."""
        first = _name_batch(name, 0)
        create_group_file(path, bytes(first.frame), disk=disk)
        segment = Segment.create_over(disk, path, [first])
        return cls(name, segment, first.next_offset, {}, disk=disk, flusher=flusher)

    @classmethod
    def open(
        cls, disk: Disk, path: str, flusher: Flusher, recovered: Recovered, known: Beforehand = UNKNOWN
    ) -> Iterator[FileConsumerGroup | None]:
        """The group in this file, `overlapped`. Raises `DataCorruption` if even its name cannot be read."""
        file = fetch_file(disk, path, known)
        yield None
        batches: list[Batch] = []
        found = recover_file(
            disk,
            file,
            None,
            lambda offset: 0,
            what=path,
            recovered=recovered,
            on_batch=lambda _, batch: batches.append(batch),
        )
        try:
            name, commits = read_commits(batches)
        except ValueError as error:
            raise _unreadable(path, str(error)) from error
        if name is None:
            raise _unreadable(path, found.why or "it does not begin with the group's name")
        damage = _unreadable(path, f"{found.why} at position {found.end}") if found.verdict == "damage" else None
        segment = Segment.recovered(disk, path, 0, found)
        yield cls(name, segment, found.next_offset, commits, disk=disk, flusher=flusher, damage=damage)

    def committed(self, log: TopicLog) -> CommittedOffset | None:
        self._check(log)
        commit = self._commits.get(log.topic_id)
        if commit is None or commit.offset is None:
            return None
        return CommittedOffset(commit.offset, commit.timestamp_ms, commit.metadata)

    def stands(self, logs: Mapping[str, TopicLog]) -> Iterator[tuple[TopicLog, CommittedOffset]]:
        self._check()
        for topic_id in list(self._commits):  # at once: another thread may change it
            committed = self.committed(logs[topic_id]) if topic_id in logs else None
            if committed is not None:
                yield logs[topic_id], committed

    def commit(self, log: TopicLog, committed: CommittedOffset) -> Append:
        self._check(log)
        assert committed.timestamp_ms is not None
        return self._append(
            log.topic_id, Commit(log.name, committed.offset, committed.timestamp_ms, committed.metadata)
        )

    def forget(self, log: TopicLog) -> None:
        if self.damage is None and log.topic_id in self._commits:
            with contextlib.suppress(FlashQError):  # it only saves room: no topic gets this id again
                self._append(log.topic_id, Commit(log.name, None, 0)).result()

    def _append(self, topic_id: str, commit: Commit) -> Append:
        batch = encode([(topic_id.encode(), msgspec.json.encode(commit), NO_HEADERS)], commit.timestamp_ms)
        self._in_flight[batch] = (topic_id, commit)
        try:
            return self.journal.append(batch)
        except BaseException:
            del self._in_flight[batch]
            raise

    def _settled(self, done: Sequence[Append]) -> None:
        for append in done:
            topic_id, commit = self._in_flight.pop(append.batch)
            if append.error is None:
                _apply(self._commits, topic_id, commit)

    def _compact(self, full: Segment, next_offset: int) -> Segment:
        """Write what counts as one batch that ends where the log goes on, and put it in the full file's place."""
        batch = compacted(self.name, self._commits, next_offset, full.max_timestamp_ms or 0)
        self._disk.replace_file(self.path, bytes(batch.frame))
        self._compact_at = max(_COMPACT_BYTES, _COMPACT_GROWTH * len(batch.frame))
        return Segment.create_over(self._disk, self.path, [batch])

    def _check(self, log: TopicLog | None = None) -> None:
        if self.damage is not None:
            raise self.damage.with_traceback(None)
        if isinstance(log, UnreadableTopicLog):  # its id is not known, so what was committed is neither
            raise log.damage.with_traceback(None)


def read_commits(batches: Iterable[Batch]) -> tuple[str | None, dict[str, Commit]]:
    """The group's name, if its record is there, and by topic id what counts. Raises ValueError."""
    name = None
    commits: dict[str, Commit] = {}
    try:
        for batch in batches:
            for record in decode(batch, RecordWithOffset):
                if record.key is None:
                    name = msgspec.json.decode(record.value, type=_GroupName).group
                else:
                    _apply(commits, record.key.decode(), msgspec.json.decode(record.value, type=Commit))
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    return name, commits


def compacted(name: str, commits: Mapping[str, Commit], next_offset: int, timestamp_ms: int) -> Batch:
    """One batch of what counts, in the place of all the records before `next_offset`."""
    rows: list[Row] = [(None, msgspec.json.encode(_GroupName(name)), NO_HEADERS)]
    rows += [(key.encode(), msgspec.json.encode(commit), NO_HEADERS) for key, commit in commits.items()]
    batch = encode(rows, timestamp_ms)
    batch.place(next_offset - len(rows), 0, 0)  # never below 0: every row stands for a record written before
    return batch


def _apply(commits: dict[str, Commit], topic_id: str, commit: Commit) -> None:
    if commit.offset is None:
        commits.pop(topic_id, None)
    else:
        commits[topic_id] = commit


def _name_batch(name: str, offset: int) -> Batch:
    batch = encode([(None, msgspec.json.encode(_GroupName(name)), NO_HEADERS)], 0)
    batch.place(offset, 0, 0)
    return batch


def _unreadable(path: str, why: str) -> DataCorruption:
    return DataCorruption(
        f"the offsets in {path} cannot be read: {why}. Nothing was cut; delete the group, or stop and restore the file "
        "or see `flashq repair --dry-run`",
        path=path,
    )
