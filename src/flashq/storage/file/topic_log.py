"""`FileTopicLog`: a topic as a directory of segments, the last of them written through a journal.

<topic>/topic.json               name, id, configuration, epochs
<topic>/0/<base offset>.log      segments; the 0 is the partition
<topic>/0/<base offset>.index    sparse index of a sealed segment
<topic>/0/<base offset>.keys     its idempotency keys
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from flashq.batch import Batch
from flashq.errors import Closed, DataCorruption, OffsetOutOfRange
from flashq.logging import get_logger
from flashq.storage.file import checked_json
from flashq.storage.file.disk import NO_ROOM, Disk, Unconfirmed, on_disk
from flashq.storage.file.flush import Flusher
from flashq.storage.file.journal import Journal
from flashq.storage.file.recovery import Broken
from flashq.storage.file.segment import Segment, segment_path
from flashq.storage.interface import SMALL_READ_BYTES, Append, TopicConfig, TopicLog
from flashq.storage.keys import PostKeys

TOPIC_FILE = "topic.json"
PARTITION = "0"
_INDEXES_HELD = 8
log = get_logger(__name__)


class EpochStart(msgspec.Struct, array_like=True, frozen=True):
    """From `offset` on, batches carry `epoch`."""

    epoch: int
    offset: int


class TopicFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The content of topic.json."""

    name: str
    topic_id: str
    retention_ms: int | None = None
    retention_bytes: int | None = None
    segment_bytes: int
    epochs: list[EpochStart]
    not_before_ms: int = 0
    """Of the records that retention has removed, where it has removed all there were, the last one's time."""

    def config(self) -> TopicConfig:
        return TopicConfig(
            retention_ms=self.retention_ms, retention_bytes=self.retention_bytes, segment_bytes=self.segment_bytes
        )

    def epoch_at(self, offset: int) -> int:
        """The epoch of the batch that holds this offset."""
        at = bisect_right(self.epochs, offset, key=lambda start: start.offset) - 1
        return self.epochs[max(at, 0)].epoch


class FileTopicLog(TopicLog):
    """See `TopicLog`. Built by `opening.py` from what is on disk."""

    def __init__(
        self,
        directory: str,
        about: TopicFile,
        sealed: list[Segment],
        active: Segment,
        next_offset: int,
        *,
        disk: Disk,
        flusher: Flusher,
        epoch: int,
        keys: Mapping[bytes, int] | None = None,
        damage: DataCorruption | None = None,
    ) -> None:
        """`epoch` is what new batches get, `keys` those in `active` (base offsets by hash); `damage`: nothing at or
        past `next_offset` can be read or appended."""
        self.name = about.name
        self.topic_id = about.topic_id
        self.config = about.config()
        self.durability: Literal["fsynced", "written"] = "fsynced" if flusher.mode == "always" else "written"
        self.directory = directory
        self.damage = damage
        self.damage_read: DataCorruption | None = None  # in a sealed segment: what a read has met last
        self._about = about
        self._disk = disk
        self._epoch = epoch
        self._segments = (*sealed, active)  # replaced as a whole, so that readers need no lock
        self._indexes_held: deque[Segment] = deque(maxlen=_INDEXES_HELD)
        self._closed = False
        self._changing = threading.Lock()  # held while `_segments`, its files or topic.json change
        self.journal = Journal(
            f"topic {self.name}",
            active,
            next_offset,
            flusher,
            is_full=lambda segment: segment.size >= self.config.segment_bytes,
            roll=self._roll,
            epoch=self._epoch_for_append,
            on_advance=self._advanced,
            topic=self.name,
            makes_room=flusher.mode == "always",
        )
        self._active_keys = dict(keys or {})  # of the active segment
        self._keys = PostKeys(self, load=self._read_keys, follow=self.journal.follow, repeat=self.journal.repeat)

    @property
    def log_start_offset(self) -> int:
        return self._segments[0].base_offset

    @property
    def high_water_mark(self) -> int:
        return self.journal.readable

    @property
    def next_offset(self) -> int:
        return self.journal.next_offset

    @property
    def durable_offset(self) -> int:
        return self.journal.durable_offset

    @property
    def size_bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    @property
    def epoch(self) -> int:
        return self._epoch

    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        if self.damage is not None:
            raise DataCorruption(
                f"topic {self.name} takes no records: {self.damage.message}",
                **self.damage.details,
                outcome="not_applied",
            )
        return self.journal.append(batch, durable=durable, if_next_offset=if_next_offset)

    def append_once(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        self._check_open()
        return self._keys.append_once(batch, durable=durable, if_next_offset=if_next_offset)

    @property
    def keys_loaded(self) -> bool:
        return self._keys.loaded

    def load_keys(self) -> None:
        self._keys.load()

    def holds_key(self, key_hash: bytes) -> bool:
        return self._keys.holds(key_hash)

    def read(self, from_offset: int, *, max_records: int | None = None, max_bytes: int | None = None) -> list[Batch]:
        self._check_open()
        end = self.journal.readable
        if from_offset < end and max_records != 0:  # most readers follow the end of the log
            stop = end if max_records is None else min(end, from_offset + max_records)
            recent = self._segments[-1].read_tail(from_offset, stop, max_bytes)
            if recent:
                return recent
        found: list[Batch] = []
        at = from_offset
        while at < end and (max_records is None or max_records > 0):
            try:
                batches = self._read_segment(at, end, max_records, max_bytes)
            except DataCorruption:
                if found:
                    break  # what is good comes first; the next read meets the damage
                raise
            if max_bytes is not None:
                max_bytes -= sum(len(batch.frame) for batch in batches)
            if max_records is not None:
                max_records -= batches[-1].next_offset - at
            at = batches[-1].next_offset
            found += batches
            if max_bytes is not None and max_bytes <= 0:
                break
        if not found:
            self._check_readable(from_offset)
        return found

    def is_at_hand(self, from_offset: int, max_bytes: int = SMALL_READ_BYTES) -> bool:
        end, segments = self.journal.readable, self._segments
        first = bisect_right(segments, from_offset, key=lambda segment: segment.base_offset) - 1
        if first < 0:
            return True
        for at in range(first, len(segments)):
            start = max(from_offset, segments[at].base_offset)
            if start >= end or max_bytes <= 0:
                break
            if not segments[at].is_at_hand(start, max_bytes):
                return False
            max_bytes -= segments[at].bytes_from(start)
        return True

    def offset_at(self, timestamp_ms: int) -> int:
        for segment in self._segments:
            try:
                if segment.latest_timestamp(self._about.epoch_at) >= timestamp_ms:
                    offset = segment.first_offset_at(timestamp_ms, self._about.epoch_at)
                    if offset is not None:
                        return min(offset, self.high_water_mark)
            except FileNotFoundError as error:
                if segment.base_offset >= self.log_start_offset:
                    raise self._gone(segment, segment.base_offset) from error
            except Broken as broken:
                raise self._corruption(segment, broken) from broken
        return self.high_water_mark

    def configure(self, config: TopicConfig) -> None:
        with self._changing, on_disk(f"the configuration of topic {self.name}"):
            self._check_open()
            try:
                self._save(
                    retention_ms=config.retention_ms,
                    retention_bytes=config.retention_bytes,
                    segment_bytes=config.segment_bytes,
                )
            except Unconfirmed as error:  # whatever the reason: not "nothing was done"
                raise OSError(errno.EIO, error.strerror) from error
            self.config = config

    def retain(self, now_ms: int) -> int:
        """Remove whole sealed segments. One whose records have all expired is sealed first."""
        keep_ms, keep_bytes = self.config.retention_ms, self.config.retention_bytes
        if self._closed or self.damage is not None or (keep_ms is None and keep_bytes is None):
            return 0
        active = self._segments[-1]
        if active.size and self._is_too_old(active, now_ms):
            self.journal.roll_now(active)
        freed = 0
        for segment in self._segments[:-1]:
            too_much = keep_bytes is not None and self.size_bytes - segment.size >= keep_bytes
            if not (too_much or self._is_too_old(segment, now_ms)) or not self._remove_first(segment):
                break
            freed += segment.size
        return freed

    def close(self) -> None:
        """Write and sync everything; raises `StorageFailed` if the disk does not take it."""
        with self._changing:  # from here on the topic's files may be another's: deleted, and created again
            self._closed = True
        self.journal.close()

    # -- reading

    def _read_segment(self, offset: int, end: int, max_records: int | None, max_bytes: int | None) -> list[Batch]:
        """At least one batch. Raises `OffsetOutOfRange` or `DataCorruption`."""
        segments = self._segments
        at = bisect_right(segments, offset, key=lambda segment: segment.base_offset) - 1
        if at < 0:
            raise self._out_of_range(offset)
        segment = segments[at]
        limit = end if at + 1 == len(segments) else min(end, segments[at + 1].base_offset)
        try:
            batches = segment.read(
                offset, limit, max_records=max_records, max_bytes=max_bytes, epoch_at=self._about.epoch_at
            )
        except FileNotFoundError as error:
            if offset < self.log_start_offset:
                raise self._out_of_range(offset) from error
            raise self._gone(segment, offset) from error
        except Broken as broken:
            raise self._corruption(segment, broken) from broken
        if not batches:
            why = f"the segment ends before it, and the log goes on at offset {limit}"
            raise self._corruption(segment, Broken(segment.size, offset, why, cut=True))
        self._hold_index(segment)
        return batches

    def _hold_index(self, segment: Segment) -> None:
        """Keep the indexes of the sealed segments read last; drop older ones."""
        held = self._indexes_held
        if segment.sealed and segment not in held:
            if len(held) == _INDEXES_HELD:
                held[0].drop_index()
            held.append(segment)

    def _check_readable(self, offset: int) -> None:
        if offset < self.log_start_offset:
            raise self._out_of_range(offset)
        if self.damage is not None:
            raise self.damage.with_traceback(None)  # one error, raised often: it would collect its callers

    def _out_of_range(self, offset: int) -> OffsetOutOfRange:
        start = self.log_start_offset
        return OffsetOutOfRange(
            f"offset {offset} of topic {self.name} is below the log start {start}: retention has removed it; "
            f"read from {start}",
            topic=self.name,
            log_start_offset=start,
        )

    def _gone(self, segment: Segment, offset: int) -> DataCorruption:
        return self._corruption(segment, Broken(0, offset, "the file is gone", cut=False))

    def _corruption(self, segment: Segment, broken: Broken) -> DataCorruption:
        """Raises `Closed` where the topic has been deleted meanwhile: its files are gone, or a successor's."""
        self._check_open()
        error = self.damage_read = corruption(self.name, segment.path, broken)
        log.error("data_corruption", **error.details, why=broken.why)
        return error

    # -- keys

    def _read_keys(self) -> dict[bytes, int]:
        """The keys of all segments. Of two batches with one key, the first counts."""
        found = dict(self._active_keys)  # before the segments: were it sealed in between, it would be read
        for segment in reversed(self._segments[:-1]):
            try:
                found.update(segment.keys())
            except FileNotFoundError as error:
                if segment.base_offset >= self.log_start_offset:
                    raise self._gone(segment, segment.base_offset) from error
            except Broken as broken:
                raise self._corruption(segment, broken) from broken
        self.journal.on_settled = self._note_keys  # until now no keyed batch can have been appended
        return found

    def _note_keys(self, done: Sequence[Append]) -> None:
        self._keys.settled(done)
        for append in done:
            key_hash = append.batch.key_hash
            if key_hash is not None and append.error is None:
                self._active_keys[key_hash] = append.batch.base_offset

    # -- writing

    def _advanced(self) -> None:
        if self.on_advance is not None:
            self.on_advance()

    def _roll(self, sealed: Segment, next_offset: int) -> Segment:
        """A crash after the file is made and before its directory is synced leaves no file, or an empty last one."""
        path = segment_path(os.path.dirname(sealed.path), next_offset)
        try:
            active = Segment.create(self._disk, path, next_offset)
            active.sync()
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(path)  # left there, the next start would take it for where the log goes on
            raise
        sealed.seal(next_offset)
        sealed.keep_keys(self._active_keys)  # nothing is under way: everything written has been synced
        with self._changing:
            self._segments = (*self._segments, active)
        self._active_keys = {}
        return active

    def _is_too_old(self, segment: Segment, now_ms: int) -> bool:
        keep_ms = self.config.retention_ms
        try:
            return keep_ms is not None and segment.latest_timestamp(self._about.epoch_at) < now_ms - keep_ms
        except Broken:
            return False  # how late its damaged records are is not known

    def _remove_first(self, segment: Segment) -> bool:
        """The directory is synced after each: were a later segment gone and an earlier one back, offsets had a hole."""
        with self._changing:
            if self._closed or self._segments[0] is not segment:  # another thread was faster
                return False
            if len(self._segments) == 2:
                self._note_time(segment)
            self._segments = self._segments[1:]
            try:
                segment.remove()
                self._disk.sync_directory(os.path.dirname(segment.path))
            except OSError:
                self._segments = (segment, *self._segments)
                raise
        self._keys.drop_below(self.log_start_offset)
        return True

    def _note_time(self, last_sealed: Segment) -> None:
        """Before it goes: the active segment may hold nothing that tells the time, or lose it with the power."""
        if self.journal.durable_offset > self._segments[-1].base_offset:
            return
        try:
            latest_ms = last_sealed.latest_timestamp(self._about.epoch_at)
        except (Broken, OSError):
            return  # it is not known
        try:
            self._save(not_before_ms=latest_ms)
        except OSError as error:
            if error.errno not in NO_ROOM:  # else to make room is what this is for
                raise

    def _epoch_for_append(self, offset: int) -> int:
        """An epoch that begins here, at the log's end, takes the place of those that never got a record."""
        epochs = self._about.epochs
        if epochs[-1].epoch != self._epoch:
            begun = [start for start in epochs if start.offset < offset]
            with self._changing, on_disk(f"records of topic {self.name}"):
                self._save(epochs=[*begun, EpochStart(self._epoch, offset)])
        return self._epoch

    def _save(self, **changes: object) -> None:
        about = msgspec.structs.replace(self._about, **changes)
        save(self._disk, self.directory, about)
        self._about = about

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"topic {self.name} is closed")


def save(disk: Disk, directory: str, about: TopicFile) -> None:
    """Write topic.json whole; durable on return."""
    disk.replace_file(os.path.join(directory, TOPIC_FILE), checked_json.encode(about))


def corruption(topic: str, path: str, broken: Broken) -> DataCorruption:
    return DataCorruption(
        f"records of topic {topic} from offset {broken.offset} on cannot be read: {broken.why} "
        f"(position {broken.position} of {path}). Nothing was cut; stop, then restore the file from a copy or see "
        "`flashq repair --dry-run`",
        topic=topic,
        offset=broken.offset,
        path=path,
        position=broken.position,
    )
