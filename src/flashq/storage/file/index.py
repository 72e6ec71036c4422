"""The sparse index of a segment: where in the file to begin looking for an offset or a time.

One entry for every 4 KiB of frames, at a frame's start. A sealed segment keeps its index beside it as
`<20-digit base offset>.index`, big-endian:

    magic          4s   "FQIX"
    version        u32  1
    segment_bytes  u64  size of the segment described
    next_offset    u64  the offset after its last record
    max_ts         i64  its latest timestamp, Unix milliseconds
    count          u64  number of entries
    crc            u32  CRC-32 (zlib) of the fields above and the entries
    entries        count offsets (u64), then count positions (u64), then count timestamps (i64)

The data decides: an index that is missing, torn or of another segment is `None`, and is built again from the frames.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from struct import Struct

INTERVAL_BYTES = 4096
_FIELDS = Struct(">4sIQQqQ")
_CRC = Struct(">I")
_MAGIC = b"FQIX"
_VERSION = 1
_START = _FIELDS.size + _CRC.size


class SparseIndex:
    """Entries in order. Grows with `add`; lookups give a position at or before what is sought."""

    __slots__ = ("offsets", "positions", "timestamps")

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.positions = array("Q")
        self.timestamps = array("q")

    def add(self, offset: int, position: int, timestamp_ms: int) -> None:
        """Note a frame, if it is far enough from the last one noted."""
        if not self.positions or position - self.positions[-1] >= INTERVAL_BYTES:
            self.offsets.append(offset)
            self.positions.append(position)
            self.timestamps.append(timestamp_ms)

    def find(self, offset: int) -> tuple[int, int]:
        """Offset and position of the last noted frame at or before `offset`, which the segment must hold."""
        at = bisect_right(self.offsets, offset) - 1
        return self.offsets[at], self.positions[at]

    def find_end(self, stop: int, size: int) -> int:
        """A position at or behind the end of what is before offset `stop`, in a segment of `size` bytes."""
        at = bisect_left(self.offsets, stop)
        return self.positions[at] if at < len(self.positions) else size

    def find_time(self, timestamp_ms: int) -> tuple[int, int]:
        """Offset and position of a noted frame before which nothing is as late as `timestamp_ms`."""
        at = max(bisect_left(self.timestamps, timestamp_ms) - 1, 0)
        return self.offsets[at], self.positions[at]

    def encode(self, segment_bytes: int, next_offset: int, max_timestamp_ms: int) -> bytes:
        columns = (self.offsets, self.positions, self.timestamps)
        entries = b"".join(_big_endian(column).tobytes() for column in columns)
        fields = _FIELDS.pack(_MAGIC, _VERSION, segment_bytes, next_offset, max_timestamp_ms, len(self.offsets))
        return fields + _CRC.pack(zlib.crc32(entries, zlib.crc32(fields))) + entries


def decode(data: bytes, base_offset: int, segment_bytes: int) -> tuple[SparseIndex, int, int] | None:
    """Index, next offset and latest timestamp from a file's bytes; None if they do not describe this segment."""
    try:
        magic, version, size, next_offset, max_timestamp_ms, count = _FIELDS.unpack_from(data)
        (crc,) = _CRC.unpack_from(data, _FIELDS.size)
    except struct.error:
        return None
    width = 8 * count
    if (magic, version, size, len(data)) != (_MAGIC, _VERSION, segment_bytes, _START + 3 * width) or count == 0:
        return None
    if crc != zlib.crc32(data[_START:], zlib.crc32(data[: _FIELDS.size])):
        return None
    index = SparseIndex()
    for number, column in enumerate((index.offsets, index.positions, index.timestamps)):
        column.frombytes(data[_START + number * width : _START + (number + 1) * width])
        if sys.byteorder == "little":
            column.byteswap()
    if index.offsets[0] != base_offset or index.positions[0] != 0:
        return None
    return index, next_offset, max_timestamp_ms


def _big_endian(column: array[int]) -> array[int]:
    if sys.byteorder == "little":
        column = array(column.typecode, column)
        column.byteswap()
    return column
