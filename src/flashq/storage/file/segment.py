"""One file of frames: written at its end, read anywhere.

`<20-digit base offset>.log`; the base offset is that of its first record. The last segment of a log is active, the
others are sealed: they never change again and have their index beside them. An active one may have room after its
frames: zeros, where the next frames go (`docs/decisions/0020-room-for-the-next-frames.md`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import attrgetter

from flashq.batch import Batch
from flashq.errors import DataCorruption
from flashq.storage.file import index as index_file
from flashq.storage.file import keys as keys_file
from flashq.storage.file.disk import NO_ROOM, Disk, OpenFile
from flashq.storage.file.index import INTERVAL_BYTES, SparseIndex
from flashq.storage.file.kernel_sync import Ended
from flashq.storage.file.recovery import READ_BYTES, Broken, EpochAt, Scan, scan, walk
from flashq.storage.interface import SMALL_READ_BYTES

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
KEYS_SUFFIX = ".keys"
_BASE_OFFSET = attrgetter("base_offset")
ROOM_BYTES = 1024 * 1024
ROOM_FROM_BYTES = 64 * 1024
"""A smaller segment gets no room, and a larger one no more than its own size."""
_WRITTEN_TWICE_BYTES = 64 * 1024
"""Room is written first as zeros, then as frames: of a larger write, that costs more than it saves."""
MOST_ROOM_BYTES = ROOM_BYTES + 64 * _WRITTEN_TWICE_BYTES
"""As many zeros as a crash leaves: room, and some writes into it that did not reach the disk."""
TAIL_BYTES = 128 * 1024
"""How much of the latest frames an active segment keeps in memory for those who follow it."""


def segment_path(directory: str, base_offset: int) -> str:
    return os.path.join(directory, f"{base_offset:020d}{LOG_SUFFIX}")


class Segment:
    """`size` bytes of frames from `base_offset`. `file` is open from a write until the log rests; then every read opens
    one of its own."""

    __slots__ = (
        "_index",
        "base_offset",
        "disk",
        "file",
        "max_timestamp_ms",
        "new_end",
        "new_entry",
        "path",
        "room_end",
        "room_from",
        "sealed",
        "size",
        "tail",
        "tail_bytes",
    )

    def __init__(self, disk: Disk, path: str, base_offset: int, size: int) -> None:
        self.disk = disk
        self.path = path
        self.base_offset = base_offset
        self.size = size
        self.room_end = size  # position
        self.room_from = ROOM_FROM_BYTES
        self.sealed = True
        self.file: OpenFile | None = None  # without one, nothing is unsynced
        self.max_timestamp_ms: int | None = None  # None: sealed, and nobody has asked yet
        self.new_entry = False  # its directory has not been synced since it was created
        self.new_end = False  # nor has the file since it was cut
        self._index: SparseIndex | None = None
        self.tail: list[Batch] = []  # appended to while others read it; cut by putting a new list in its place
        self.tail_bytes = 0

    @classmethod
    def create(cls, disk: Disk, path: str, base_offset: int) -> Segment:
        """An empty active segment; durable after `sync`."""
        segment = cls(disk, path, base_offset, 0)
        segment.sealed = False
        segment.file = disk.open(path, create=True, write=True)
        disk.truncate(segment.file, 0)
        segment.max_timestamp_ms = 0
        segment.new_entry = True
        segment._index = SparseIndex()
        return segment

    @classmethod
    def create_over(cls, disk: Disk, path: str, batches: Sequence[Batch]) -> Segment:
        """The active segment of a file that was just written, durably, with exactly these batches."""
        segment = cls(disk, path, batches[0].base_offset, 0)
        segment.sealed = False
        segment.file = disk.open(path, write=True)
        segment._index = SparseIndex()
        segment._account(batches)
        return segment

    @classmethod
    def recovered(cls, disk: Disk, path: str, base_offset: int, found: Scan) -> Segment:
        """The active segment as a scan found it, synced."""
        segment = cls(disk, path, base_offset, found.end)
        segment.sealed = False
        segment.max_timestamp_ms = found.max_timestamp_ms
        segment._index = found.index
        return segment

    # -- writing: the active segment, under its journal's lock

    def append(self, batches: Sequence[Batch], *, make_room: bool = False) -> None:
        """Write frames at the end with one system call. On OSError the file may hold a part of them: `cut_back`.

        `make_room`: a sync follows every write, and should be short.
        """
        if self.file is None:
            self.file = self._reopened()
        data = batches[0].frame if len(batches) == 1 else b"".join([batch.frame for batch in batches])
        self.disk.write(self.file, data, self.size)
        if make_room and self.size + len(data) > self.room_end and len(data) <= _WRITTEN_TWICE_BYTES:
            self._make_room(self.size + len(data))
        self._account(batches)

    def _make_room(self, end: int) -> None:
        """To sync bytes where the file had some takes the disk less time than to sync a file that has grown."""
        assert self.file is not None
        if end < self.room_from:
            return
        self.room_end = end + min(ROOM_BYTES, end)
        try:
            self.disk.write(self.file, bytes(self.room_end - end), end)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.disk.truncate(self.file, end)
            self.room_end = end
            self.room_from = end + ROOM_BYTES  # until then it goes without: what is left is for records

    def _reopened(self) -> OpenFile:
        file = self.disk.open(self.path, write=True)
        if self.disk.size(file) != self.size:
            raise OSError(errno.EIO, f"somebody else has changed {self.path}")
        return file

    def _account(self, batches: Sequence[Batch]) -> None:
        assert self._index is not None
        start = position = self.size
        for batch in batches:
            self._index.add(batch.base_offset, position, batch.timestamp_ms)
            position += len(batch.frame)
        self.max_timestamp_ms = batches[-1].timestamp_ms
        self._keep_tail(batches, position - start)
        self.size = position

    def cut_back(self) -> None:
        """Remove whatever is after the last good frame: room, or what a failed `append` left."""
        if self.file is not None:
            self.new_end = True
            self.disk.truncate(self.file, self.size)
            self.room_end = self.size

    def give_room_back(self) -> None:
        """Nothing more is written, for now. A crash may bring the room back until the next `sync`."""
        if self.room_end > self.size:
            self.cut_back()

    @property
    def is_as_synced(self) -> bool:
        """Whether the file, apart from records, is as a power cut would leave it: named, and with its end."""
        return not self.new_entry and not self.new_end and self.room_end <= self.size

    def sync(self) -> None:
        """Everything written before this call survives a power cut, and so do the file's name and its end."""
        if self.file is not None:
            self.disk.sync(self.file)
            self.new_end = False
        if self.new_entry:
            self.disk.sync_directory(os.path.dirname(self.path))
            self.new_entry = False

    def begin_sync(self, ended: Ended) -> bool:
        """`sync` on the event loop (`Disk.begin_sync`). False, and nothing begun, where that cannot be had."""
        return self.file is not None and not self.new_entry and self.disk.begin_sync(self.file, ended)

    def seal(self, next_offset: int) -> None:
        """Keep the index beside the data and let go of the file. The data must have been synced."""
        assert self._index is not None
        assert self.max_timestamp_ms is not None
        self._keep_beside(INDEX_SUFFIX, self._index.encode(self.size, next_offset, self.max_timestamp_ms))
        self.close()
        self.sealed = True

    def keep_keys(self, keys: Mapping[bytes, int]) -> None:
        """Note beside a sealed segment which idempotency keys it holds: base offsets by hash."""
        self._keep_beside(KEYS_SUFFIX, keys_file.encode(self.size, keys))

    def _keep_beside(self, suffix: str, data: bytes) -> None:
        """Not synced, and a failure does not matter: what did not survive is made again from the frames."""
        with contextlib.suppress(OSError, DataCorruption):
            file = self.disk.open(self._beside(suffix), create=True, write=True)
            self.disk.truncate(file, 0)
            self.disk.write(file, data, 0)

    def _keep_tail(self, batches: Sequence[Batch], size: int) -> None:
        self.tail.extend(batches)
        self.tail_bytes += size
        if self.tail_bytes > 2 * TAIL_BYTES:
            kept = self.tail_bytes
            for drop, batch in enumerate(self.tail, 1):
                kept -= len(batch.frame)
                if kept <= TAIL_BYTES:
                    self.tail, self.tail_bytes = self.tail[drop:], kept
                    break

    def close(self) -> None:
        """Let go of all that takes room: a closed log may lie about until the cycle collector comes."""
        self.file = self._index = None
        self.tail, self.tail_bytes = [], 0

    # -- reading: any thread, no lock

    def open(self) -> OpenFile:
        return self.file or self.disk.open(self.path)

    def read_tail(self, from_offset: int, to_offset: int, max_bytes: int | None) -> list[Batch]:
        """What `read` gives, where all of it is in memory and within `max_bytes`; else []. `to_offset` ends a batch
        or is inside the last one wanted."""
        tail = self.tail
        if not tail or tail[0].base_offset > from_offset or (max_bytes is not None and max_bytes < self.tail_bytes):
            return []
        last = tail[-1]
        if last.base_offset <= from_offset:
            return [last]
        first = bisect_right(tail, from_offset, key=_BASE_OFFSET) - 1
        return tail[first : bisect_left(tail, to_offset, lo=first + 1, key=_BASE_OFFSET)]

    def read(
        self, from_offset: int, to_offset: int, *, max_records: int | None, max_bytes: int | None, epoch_at: EpochAt
    ) -> list[Batch]:
        """Checked batches from the one that holds `from_offset`, below `to_offset`, until a limit is reached.

        Raises `Broken` if the first wanted batch is not good; stops before a later one that is not.
        """
        stop = to_offset if max_records is None else min(to_offset, from_offset + max_records)
        left = self.size if max_bytes is None else max_bytes
        found: list[Batch] = []
        try:
            for batch in self._batches_from(from_offset, stop, left, epoch_at):
                if batch.next_offset > from_offset:
                    found.append(batch)
                    left -= len(batch.frame)
                    if batch.next_offset >= stop or left <= 0:
                        break
        except Broken:
            if not found:
                raise
        return found

    def _batches_from(self, offset: int, stop: int, max_bytes: int, epoch_at: EpochAt) -> Iterable[Batch]:
        """Batches from the one with this offset, or from a little before it: from memory, else from the file, read as
        far as is wanted at once."""
        tail = self.tail
        if tail and tail[0].base_offset <= offset:
            at = bisect_right(tail, offset, key=_BASE_OFFSET) - 1
            return islice(tail, at, None)
        file, size = self.open(), self.size
        index = self.index(epoch_at)
        offset, position = index.find(offset)
        ahead = min(index.find_end(stop, size) - position, max_bytes + INTERVAL_BYTES, READ_BYTES)
        return (batch for _, batch in walk(self.disk, file, position, size, offset, epoch_at, ahead=ahead))

    def is_at_hand(self, offset: int, size: int) -> bool:
        """Whether `read` finds the first `size` bytes from there in memory: ours, or the system's."""
        tail, index = self.tail, self._index
        if tail and tail[0].base_offset <= offset:
            return True
        if index is None:
            return False
        try:
            _, position = index.find(offset)
            return self.disk.is_cached(self.open(), min(size, self.size - position), position)
        except (OSError, DataCorruption):
            return True  # there is nothing to wait for

    def bytes_from(self, offset: int) -> int:
        """How many bytes it has from there on, or a few more. Only where that is at hand."""
        index = self._index
        return self.size - (index.find(offset)[1] if index is not None else 0)

    def first_offset_at(self, timestamp_ms: int, epoch_at: EpochAt) -> int | None:
        """The base offset of the first batch as late as this, or None. Raises `Broken`."""
        index = self.index(epoch_at)
        if not index.offsets:
            return None
        file = self.open()
        offset, position = index.find_time(timestamp_ms)
        for _, batch in walk(self.disk, file, position, self.size, offset, epoch_at, ahead=SMALL_READ_BYTES):
            if batch.timestamp_ms >= timestamp_ms:
                return batch.base_offset
        return None

    def index(self, epoch_at: EpochAt) -> SparseIndex:
        """The index: held, loaded, or built again from the frames. Raises `Broken` if not even the first is good."""
        index = self._index  # another thread may drop it at any time
        if index is None:
            index = self._index = self._load_index() or self._rebuild_index(epoch_at)
        return index

    def latest_timestamp(self, epoch_at: EpochAt) -> int:
        """The time of its last record, Unix milliseconds; 0 if it holds none. Raises `Broken` if that is not known."""
        if self.max_timestamp_ms is None:
            self.index(epoch_at)
        if self.max_timestamp_ms is None:
            raise Broken(0, self.base_offset, "some of its records are damaged", cut=False)
        return self.max_timestamp_ms

    def drop_index(self) -> None:
        """Free a sealed segment's index; the next read loads it again."""
        if self.sealed:
            self._index = None

    def remove(self) -> None:
        """Delete the file, data first: an index without data is ignored. Does nothing the second time."""
        for path in (self.path, self._beside(INDEX_SUFFIX), self._beside(KEYS_SUFFIX)):
            with contextlib.suppress(FileNotFoundError):
                self.disk.unlink(path)

    def keys(self) -> Mapping[bytes, int]:
        """The idempotency keys of a sealed segment, base offsets by hash: as noted beside it, else from the frames.

        Raises `Broken` if the frames do not tell.
        """
        data = self._read_beside(KEYS_SUFFIX)
        found = keys_file.decode(data, self.size) if data is not None else None
        if found is None:
            found = keys_file.scan_keys(self.disk, self.open(), self.size, self.base_offset)
            self.keep_keys(found)
        return found

    def _beside(self, suffix: str) -> str:
        return self.path.removesuffix(LOG_SUFFIX) + suffix

    def _read_beside(self, suffix: str) -> bytes | None:
        try:
            file = self.disk.open(self._beside(suffix))
            return self.disk.read(file, self.disk.size(file), 0)
        except (OSError, DataCorruption):
            return None

    def _load_index(self) -> SparseIndex | None:
        data = self._read_beside(INDEX_SUFFIX)
        decoded = index_file.decode(data, self.base_offset, self.size) if data is not None else None
        if decoded is None:
            return None
        index, _, self.max_timestamp_ms = decoded
        return index

    def _rebuild_index(self, epoch_at: EpochAt) -> SparseIndex:
        found = scan(self.disk, self.open(), self.base_offset, epoch_at)
        if not found.frames:
            raise Broken(0, self.base_offset, found.why or "the file is empty", cut=True)
        if found.verdict == "clean":
            self.max_timestamp_ms = found.max_timestamp_ms
        return found.index
