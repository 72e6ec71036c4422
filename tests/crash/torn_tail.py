"""Leaves behind a killed server what a write cut short leaves: the beginning of the next frame.

A kill seldom comes inside the copy of a write into the page cache, so the rounds help it along. What is appended was
never acknowledged and never read: the server must cut it, keep it aside, and lose nothing else. This is the one
place here that knows the file format: frames `[4-byte length][8-byte offset][batch]`, big-endian, where the length
counts the batch, whose last offset delta is at its byte 11.
"""

from __future__ import annotations

import random
from pathlib import Path
from struct import Struct

_FRAME = Struct(">iq")
_DELTA = Struct(">i")
_DELTA_POSITION = 11


def tear(log_dir: Path, choices: random.Random) -> bool:
    """Append part of a plausible next frame to the last segment; False when it has no frame or is torn already."""
    segment = max(log_dir.glob("*.log"), default=None)
    content = segment.read_bytes() if segment is not None else b""
    position, batch, offset = 0, b"", 0
    while position < len(content):
        if len(content) - position < _FRAME.size:
            return False
        length, offset = _FRAME.unpack_from(content, position)
        batch = content[position + _FRAME.size : position + _FRAME.size + length]
        if len(batch) < length:
            return False
        position += _FRAME.size + length
    if segment is None or not batch:
        return False
    (delta,) = _DELTA.unpack_from(batch, _DELTA_POSITION)
    frame = _FRAME.pack(len(batch), offset + delta + 1) + batch
    zeros = len(frame) - len(frame.lstrip(b"\0"))  # alone they would be room for the next frame, which is not kept
    with segment.open("ab") as file:
        file.write(frame[: choices.randrange(zeros + 1, len(frame))])
    return True
