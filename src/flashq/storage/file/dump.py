"""The content of one storage file as it stands, good or not, without the log around it. Reads only.

Nothing here decides what is damage: a frame is compared with what it says of itself, since a file alone tells neither
the offset nor the epoch that a log expects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from flashq.batch import HEADER, PREFIX, BadFrame, Batch, check, key_hash_in
from flashq.errors import DataCorruption
from flashq.storage.file import index as index_file
from flashq.storage.file import keys as keys_file
from flashq.storage.file.disk import Disk
from flashq.storage.file.index import SparseIndex
from flashq.storage.file.recovery import is_room

_STATED = Struct(">4sIQ")  # index and keys files both begin with magic, version and the size of their segment


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's header as written. `problem` says what is wrong with it; only without one is there a `batch`."""

    position: int
    size_bytes: int
    base_offset: int
    epoch: int = 0
    count: int = 0
    base_timestamp_ms: int = 0
    max_timestamp_ms: int = 0
    crc: int = 0
    key_hash: bytes | None = None
    problem: str | None = None
    batch: Batch | None = None


def frames(path: str) -> Iterator[Frame]:
    """Every frame from the start of the file, as far as each says where the next begins. Room is none."""
    disk = Disk()
    file = disk.open(path)
    position, size = 0, disk.size(file)
    while position < size:
        prefix = disk.read(file, PREFIX.size, position)
        if not any(prefix) and is_room(disk, file, position, size):
            return
        if len(prefix) < PREFIX.size:
            yield Frame(position, len(prefix), 0, problem="the file ends inside a frame")
            return
        length, base_offset = PREFIX.unpack(prefix)
        need = PREFIX.size + length
        if need > size - position:
            why = f"the file ends {need - (size - position)} bytes too early"
            yield Frame(position, size - position, base_offset, problem=why)
            return
        yield _frame(position, disk.read(file, need, position))
        position += need


def _frame(position: int, data: bytes) -> Frame:
    if len(data) < HEADER.size:
        return Frame(position, len(data), PREFIX.unpack_from(data)[1], problem=f"{len(data)} bytes are too few")
    _, base_offset, epoch, _, crc, _, _, base_ms, max_ms, *_, count = HEADER.unpack_from(data)
    problem, batch = None, None
    try:
        batch = check(data, base_offset, lambda offset: epoch)
    except BadFrame as error:
        problem = str(error)
    return Frame(
        position, len(data), base_offset, epoch, count, base_ms, max_ms, crc, key_hash_in(data), problem, batch
    )


def index_entries(path: str) -> SparseIndex:
    """The entries of an `.index` file. Raises `DataCorruption`."""
    data = _read(path)
    stem = os.path.basename(path).partition(".")[0]
    decoded = index_file.decode(data, int(stem) if stem.isdecimal() else 0, _stated_size(path, data))
    if decoded is None:
        raise _not_whole(path)
    return decoded[0]


def key_entries(path: str) -> dict[bytes, int]:
    """Base offsets by the hash of their key, of a `.keys` file. Raises `DataCorruption`."""
    data = _read(path)
    keys = keys_file.decode(data, _stated_size(path, data))
    if keys is None:
        raise _not_whole(path)
    return keys


def _read(path: str) -> bytes:
    disk = Disk()
    file = disk.open(path)
    return disk.read(file, disk.size(file), 0)


def _stated_size(path: str, data: bytes) -> int:
    if len(data) < _STATED.size:
        raise _not_whole(path)
    size: int = _STATED.unpack_from(data)[2]
    return size


def _not_whole(path: str) -> DataCorruption:
    return DataCorruption(
        f"{path} is not whole. Nothing was changed; FlashQ makes it again from its segment", path=path
    )
