"""JSON files that carry a checksum of themselves, as their last member: flashq.json and topic.json.

    {"format":1, ... ,"crc":"1c291ca3"}

The CRC-32C, in hexadecimal, of what the file would be without that member. A file without one is taken as it is, so
that a person may write it by hand: leave the member out.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from crc32c import crc32c

T = TypeVar("T")
_CHECKED = re.compile(rb'(.*),"crc":"([0-9a-f]{8})"\}', re.DOTALL)


def encode(value: msgspec.Struct) -> bytes:
    plain = msgspec.json.encode(value)
    return b'%b,"crc":"%08x"}' % (plain[:-1], crc32c(plain))


def decode(data: bytes, kind: type[T]) -> T:
    """Raises `msgspec.MsgspecError`, UnicodeDecodeError or RecursionError for what is none, or has changed.

    `kind` forbids unknown members: one whose name has changed is not to be taken for one that is not there.
    """
    match = _CHECKED.fullmatch(data)
    if match is None:
        return msgspec.json.decode(data, type=kind)
    plain = match[1] + b"}"
    if crc32c(plain) != int(match[2], 16):
        raise msgspec.DecodeError("its bytes do not match its checksum")
    return msgspec.json.decode(plain, type=kind)
