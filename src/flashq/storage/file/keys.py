"""The keys of a segment: which of its batches were posted with an idempotency key.

A sealed segment keeps them beside it as `<20-digit base offset>.keys`, big-endian, also when there are none, so that
it need not be looked through:

    magic          4s   "FQKY"
    version        u32  1
    segment_bytes  u64  size of the segment described
    count          u64  number of keys
    crc            u32  CRC-32 (zlib) of the fields above and the keys
    keys           count times: hash (14 bytes, as in the batch's header), base offset of the batch (u64)

The data decides: a file that is missing, torn or of another segment is made again from the headers of the frames.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from struct import Struct

from flashq.batch import HEADER, KEY_HASH_BYTES, MAGIC, MIN_LENGTH, PREFIX, key_hash_in
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.recovery import Broken

_FIELDS = Struct(">4sIQQ")
_CRC = Struct(">I")
_KEY = Struct(f">{KEY_HASH_BYTES}sQ")
_MAGIC = b"FQKY"
_VERSION = 1
_START = _FIELDS.size + _CRC.size
_READ_BYTES = 256 * 1024


def encode(segment_bytes: int, keys: Mapping[bytes, int]) -> bytes:
    """The content of a `.keys` file."""
    fields = _FIELDS.pack(_MAGIC, _VERSION, segment_bytes, len(keys))
    entries = b"".join([_KEY.pack(key_hash, offset) for key_hash, offset in keys.items()])
    return fields + _CRC.pack(zlib.crc32(entries, zlib.crc32(fields))) + entries


def decode(data: bytes, segment_bytes: int) -> dict[bytes, int] | None:
    """The keys in a file's bytes; None if they do not describe a segment of this size."""
    try:
        magic, version, size, count = _FIELDS.unpack_from(data)
        (crc,) = _CRC.unpack_from(data, _FIELDS.size)
    except struct.error:
        return None
    if (magic, version, size, len(data)) != (_MAGIC, _VERSION, segment_bytes, _START + count * _KEY.size):
        return None
    if crc != zlib.crc32(data[_START:], zlib.crc32(data[: _FIELDS.size])):
        return None
    return dict(_KEY.iter_unpack(data[_START:]))


def scan_keys(disk: Disk, file: OpenFile, size: int, base_offset: int) -> dict[bytes, int]:
    """The keys in the frames' headers. Records are not read where frames are large, and no CRC is checked.

    Raises `Broken` where the headers do not lead from one frame to the next.
    """
    found: dict[bytes, int] = {}
    data, start, position = b"", 0, 0  # data holds the file from `start`
    ahead = _READ_BYTES
    while position < size:
        at = position - start
        if len(data) - at < HEADER.size:
            data, start, at = disk.read(file, ahead, position), position, 0
            if len(data) < HEADER.size:
                raise Broken(position, base_offset, "the file ends inside a frame", cut=True)
        length, offset, _, magic, _, _, last_delta, *_, count = HEADER.unpack_from(data, at)
        if offset != base_offset or magic != MAGIC or length < MIN_LENGTH or count < 1 or last_delta != count - 1:
            raise Broken(position, base_offset, "a frame's header is damaged", cut=False)
        key_hash = key_hash_in(memoryview(data)[at : at + HEADER.size])
        if key_hash is not None:
            found.setdefault(key_hash, offset)
        position += PREFIX.size + length
        base_offset += count
        ahead = _READ_BYTES if length < _READ_BYTES else HEADER.size
    if position != size:
        raise Broken(position, base_offset, "the file ends inside a frame", cut=True)
    return found
