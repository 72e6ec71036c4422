"""The good frames of a file that may have damage in it: runs of them, and where the log goes on after each.

After damage the log is taken up again where the damaged frame says that it ends, if a good later frame begins there.
If its length is damaged too, good frames are sought byte by byte. A value may hold bytes that are good frames, so only
those are believed that lead, one after the other, exactly to the end of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flashq.batch import PREFIX, BadFrame, Batch, decode_each
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.recovery import READ_BYTES, Broken, EpochAt, Scan, later_frames, scan, walk

OnBatch = Callable[[Batch, list[int]], None]
"""Told of each good frame and the times of its records (Unix milliseconds)."""


@dataclass(frozen=True, slots=True)
class Run:
    """Good frames one after the other, from position `start` and offset `base_offset` up to the end of `scan`."""

    start: int
    base_offset: int
    scan: Scan

    @property
    def end(self) -> int:
        return self.scan.end

    @property
    def next_offset(self) -> int:
        return self.scan.next_offset

    @property
    def is_whole(self) -> bool:
        """Whether nothing follows it in the file."""
        return self.scan.verdict == "clean"


def runs(
    disk: Disk,
    file: OpenFile,
    base_offset: int | None,
    epoch_at: EpochAt,
    *,
    limit: int | None = None,
    on_batch: OnBatch | None = None,
) -> Iterator[Run]:
    """Every run; the first starts at 0, any may be empty, and all but the last are followed by damage.

    Good is what `walk` takes for good, whose records decode, and which lies below the offset `limit`.
    """

    def look_inside(position: int, batch: Batch) -> None:
        if limit is not None and batch.next_offset > limit:
            why = f"offset {batch.next_offset - 1} belongs into a later segment"
            raise Broken(position, batch.base_offset, why, cut=False)
        try:
            times = list(decode_each(batch, _timestamp_ms))
        except BadFrame as error:
            raise Broken(position, batch.base_offset, str(error), cut=False) from error
        if on_batch is not None:
            on_batch(batch, times)

    is_text = base_offset is None  # a group's file
    following: tuple[int, int | None] | None = (0, base_offset)
    while following is not None:
        start, base_offset = following
        found = scan(disk, file, base_offset, epoch_at, position=start, is_text=is_text, on_batch=look_inside)
        first = found.index.offsets[0] if found.frames else found.next_offset
        yield Run(start, first, found)
        if found.verdict == "clean" or (limit is not None and found.next_offset >= limit):
            return
        following = _next_start(disk, file, found, epoch_at, may_have_room=not is_text)


def _timestamp_ms(offset: int, timestamp_ms: int, *content: object) -> int:
    return timestamp_ms


def _next_start(
    disk: Disk, file: OpenFile, ended: Scan, epoch_at: EpochAt, *, may_have_room: bool
) -> tuple[int, int] | None:
    """Position and offset of the first good frame of this log after the damage at the end of a scan, or None."""
    position, size = ended.end, disk.size(file)
    prefix = disk.read(file, PREFIX.size, position)
    if len(prefix) == PREFIX.size:
        follower = position + PREFIX.size + PREFIX.unpack(prefix)[0]
        offset = _offset_at(disk, file, follower, size, epoch_at)
        if offset is not None and offset > ended.next_offset:
            return follower, offset
    rest = disk.read(file, size - position, position)
    astray: set[int] = set()
    for start in sorted(position + start for start in later_frames(rest, ended.next_offset, epoch_at)):
        if start not in astray and _leads_to_end(
            disk, file, start, size, epoch_at, astray, may_have_room=may_have_room
        ):
            return start, PREFIX.unpack_from(rest, start - position)[1]
    return None


def _offset_at(disk: Disk, file: OpenFile, position: int, size: int, epoch_at: EpochAt) -> int | None:
    """The offset of the frame at this position, if it is a good one."""
    try:
        for _, batch in walk(disk, file, position, size, None, epoch_at, ahead=PREFIX.size):
            return batch.base_offset
    except Broken:
        pass
    return None


def _leads_to_end(
    disk: Disk, file: OpenFile, start: int, size: int, epoch_at: EpochAt, astray: set[int], *, may_have_room: bool
) -> bool:
    """Whether frames follow each other from `start` to the end of the file. Those that do not are noted in `astray`."""
    passed: list[int] = []
    try:
        for position, _ in walk(disk, file, start, size, None, epoch_at, ahead=READ_BYTES, may_have_room=may_have_room):
            passed.append(position)
            if position in astray:
                break
        else:
            return True
    except Broken:
        pass
    astray.update(passed)
    return False
