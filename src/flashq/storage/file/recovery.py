"""Reading frames back with distrust, and telling a torn tail from damage.

`walk` yields the frames a log expects, one after the other, and stops with `Broken` at the first it does not.
`scan` does that for a whole file and judges the end:

- torn: what a crash leaves of a write that nobody was told had succeeded. The frame runs past the end of the file,
  or a disk sector of it was never written and reads as zeros (the rule of etcd's WAL, wal/decoder.go). May be cut.
- damage: everything else. Bytes that were once good have changed; cutting would delete committed records
  (Alagappan and others, "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018). Never cut here.

A length field that was flipped looks like a frame that runs past the end. Two questions tell: do the bytes up to
the end of the file match the frame's CRC, and does a good later frame follow? Either means damage.

Zeros from the end of a frame to that of the file are room for the next ones: the log ends before them, as it does at
the end of a file that has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from flashq.batch import HEADER, MAGIC, MIN_LENGTH, PREFIX, BadFrame, Batch, check, records_match_crc
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.index import SparseIndex

SECTOR_BYTES = 512
READ_BYTES = 1024 * 1024
_ZEROS_THAT_TELL = 16
_ZEROS_THAT_TELL_IN_TEXT = 2
"""A shorter run of zeros ends many good frames: a record without headers ends in one, a number before it has more."""
_LENGTH_BYTES = 4
_ZEROS_AT_AN_END = 64 * 1024
"""As many as a whole frame is thought to end in."""
_RESYNC_WINDOW = 1 << 32
_MOST_COMPARED_BYTES = 1 << 30
"""With CRCs, to find a later frame behind a torn one: a fraction of a second is spent on it."""

EpochAt = Callable[[int], int]
OnBatch = Callable[[int, Batch], None]


class Broken(Exception):
    """The frame at `position`, which should hold `offset`, is not good; `cut` if the file ends inside it."""

    def __init__(self, position: int, offset: int | None, why: str, *, cut: bool) -> None:
        super().__init__(why)
        self.position = position
        self.offset = offset
        self.why = why
        self.cut = cut


@dataclass(slots=True)
class Scan:
    """What a file holds up to `end` (bytes): the good frames, and what is wrong after them."""

    end: int
    next_offset: int
    max_timestamp_ms: int
    index: SparseIndex
    keys: dict[bytes, int] = field(default_factory=dict)
    """Hashes of idempotency keys, and the base offsets of their batches."""
    frames: int = 0
    verdict: Literal["clean", "torn", "damage"] = "clean"
    why: str = ""


def walk(
    disk: Disk,
    file: OpenFile,
    position: int,
    end: int,
    offset: int | None,
    epoch_at: EpochAt,
    *,
    ahead: int,
    may_have_room: bool = False,
) -> Iterator[tuple[int, Batch]]:
    """Position and batch of every frame in `[position, end)`; the first must hold `offset` (None takes any).

    Reads `ahead` bytes at a time, doubling up to 1 MiB, and a larger frame in one piece. Raises `Broken`, unless there
    `may_have_room` been made, and nothing but that follows.
    """
    data, start = b"", position  # data holds the file from `start`
    while position < end:
        at = position - start
        need = PREFIX.size
        if len(data) - at >= need:
            need += PREFIX.unpack_from(data, at)[0]
        if need > end - position:
            if may_have_room and is_room(disk, file, position, end):
                return
            raise Broken(position, offset, f"the file ends {need - (end - position)} bytes too early", cut=True)
        if len(data) - at < need:
            data, start = disk.read(file, min(max(need, ahead), end - position), position), position
            ahead = min(ahead * 2, READ_BYTES)
            if len(data) < need:
                raise Broken(position, offset, "the file has become shorter", cut=True)
            continue
        try:
            # A large frame is all that was read: it is not copied.
            batch = check(data if len(data) == need else memoryview(data)[at : at + need], offset, epoch_at)
        except BadFrame as error:
            if may_have_room and is_room(disk, file, position, end):
                return
            raise Broken(position, offset, str(error), cut=False) from error
        yield position, batch
        position += need
        offset = batch.next_offset


def is_room(disk: Disk, file: OpenFile, position: int, end: int) -> bool:
    """Whether `[position, end)` is all zeros."""
    while position < end:
        data = disk.read(file, min(READ_BYTES, end - position), position)
        if not data or data.count(0) < len(data):
            return False
        position += len(data)
    return True


def scan(
    disk: Disk,
    file: OpenFile,
    base_offset: int | None,
    epoch_at: EpochAt,
    *,
    position: int = 0,
    is_text: bool = False,
    on_batch: OnBatch | None = None,
) -> Scan:
    """Every frame of a file from `position` on, and a verdict on what follows the last good one.

    `is_text`: values are text, and there are no headers, so no good frame ends in two zeros. It has no room.
    `on_batch(position, batch)` sees each good frame before it counts; it may raise `Broken` to say that it is not.
    """
    size = disk.size(file)
    found = Scan(end=position, next_offset=base_offset or 0, max_timestamp_ms=0, index=SparseIndex())
    try:
        for at, batch in walk(
            disk, file, position, size, base_offset, epoch_at, ahead=READ_BYTES, may_have_room=not is_text
        ):
            if on_batch is not None:
                on_batch(at, batch)
            found.index.add(batch.base_offset, at, batch.timestamp_ms)
            found.end = at + len(batch.frame)
            found.next_offset = batch.next_offset
            found.max_timestamp_ms = max(found.max_timestamp_ms, batch.timestamp_ms)
            found.frames += 1
            key_hash = batch.key_hash
            if key_hash is not None:
                found.keys.setdefault(key_hash, batch.base_offset)
    except Broken as error:
        # Without the traceback, whose frames hold what was read: the rest of a file may be much.
        broken = Broken(error.position, error.offset, error.why, cut=error.cut)
    else:
        return found
    rest = disk.read(file, size - broken.position, broken.position)
    enough = _ZEROS_THAT_TELL_IN_TEXT if is_text else _ZEROS_THAT_TELL
    found.verdict = "torn" if _is_torn(rest, broken, epoch_at, enough) else "damage"
    found.why = broken.why
    return found


def _is_torn(rest: bytes, broken: Broken, epoch_at: EpochAt, zeros: int) -> bool:
    length = len(rest)
    if not broken.cut:
        length = max(PREFIX.size + PREFIX.unpack_from(rest)[0], HEADER.size)
    if records_match_crc(memoryview(rest)[:length]):
        return False  # all of it was written, and its numbering has changed since
    written = memoryview(rest)[: len(rest.rstrip(b"\0"))]
    if _has_unwritten_sector(written, length, broken.position, zeros, least=1):
        return True
    if not broken.cut and not _has_unwritten_sector(rest, length, broken.position, zeros, least=2):
        return False
    # It ends in zeros, or past the end of the file. A whole one does, too, whose length has changed.
    if records_match_crc(written, more_zeros=min(len(rest) - len(written), _ZEROS_AT_AN_END)):
        return False
    return not _shows_later_frame(rest, broken.offset or 0, epoch_at)


def _shows_later_frame(rest: bytes, offset: int, epoch_at: EpochAt) -> bool:
    """Whether one is there, or so much of `rest` looks like frames that to know would take long: a record may be made
    of the beginnings of thousands, each to be compared with its CRC to the end. Then it is for a person to judge."""
    budget = _MOST_COMPARED_BYTES + 4 * len(rest)
    for start, end in _apparent_frames(rest, offset, epoch_at):
        budget -= end - start
        if budget < 0 or _is_good(rest, start, end, epoch_at):
            return True
    return False


def _has_unwritten_sector(data: bytes | memoryview, length: int, position: int, zeros: int, *, least: int) -> bool:
    """Whether one disk sector's share of a frame is all zeros, as a sector that never reached the disk reads.

    The frame is the first `length` bytes of `data`, and lies at `position`. A whole sector tells, and a part of at
    least so many `zeros`; at the frame's start, where a length is never 0, four. At its end fewer tell, `least`, where
    the rest of that sector is zeros too: the next frame's length would begin there.
    """
    start, end = 0, min(length, len(data))
    while start < end:
        sector_end = start + SECTOR_BYTES - (position + start) % SECTOR_BYTES
        stop = min(sector_end, end)
        if not any(data[start:stop]):
            behind = data[stop:sector_end]
            is_end = len(behind) >= _LENGTH_BYTES and stop == length and not any(behind)
            enough = _LENGTH_BYTES if start == 0 else least if is_end else zeros
            if stop - start >= enough:
                return True
        start = stop
    return False


def later_frames(rest: bytes, offset: int, epoch_at: EpochAt) -> Iterator[int]:
    """Where in `rest` good frames of a later offset lie, epoch by epoch: the start of `rest` is damaged, not torn."""
    apparent = _apparent_frames(rest, offset, epoch_at)
    return (start for start, end in apparent if _is_good(rest, start, end, epoch_at))


def _apparent_frames(rest: bytes, offset: int, epoch_at: EpochAt) -> Iterator[tuple[int, int]]:
    """Start and end of what begins like a frame of a later offset, epoch by epoch."""
    for stated in range(epoch_at(offset), epoch_at(offset + _RESYNC_WINDOW) + 1):
        mark = stated.to_bytes(4, "big") + bytes([MAGIC])
        for match in re.finditer(re.escape(mark), rest):
            start = match.start() - PREFIX.size
            if start <= 0:
                continue
            length, later = PREFIX.unpack_from(rest, start)
            end = start + PREFIX.size + length
            if end <= len(rest) and length >= MIN_LENGTH and offset < later <= offset + _RESYNC_WINDOW:
                yield start, end


def _is_good(rest: bytes, start: int, end: int, epoch_at: EpochAt) -> bool:
    try:
        check(memoryview(rest)[start:end], None, epoch_at)
    except BadFrame:
        return False
    return True
