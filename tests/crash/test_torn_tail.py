"""What the rounds append to a segment is the beginning of its next frame, and only where the last one is whole."""

from __future__ import annotations

import random
from pathlib import Path
from struct import pack

import pytest

from tests.crash.torn_tail import tear


def frame(offset: int, last_delta: int) -> bytes:
    batch = bytes(11) + pack(">i", last_delta) + bytes(40)
    return pack(">iq", len(batch), offset) + batch


@pytest.mark.parametrize("seed", range(100))
def test_a_torn_tail_is_part_of_the_next_frame(seed: int, tmp_path: Path) -> None:
    (tmp_path / f"{0:020}.log").write_bytes(frame(0, 0))
    last = tmp_path / f"{1:020}.log"
    whole = frame(1, 2) + frame(4, 4)
    last.write_bytes(whole)
    assert tear(tmp_path, random.Random(seed))
    tail = last.read_bytes().removeprefix(whole)
    following = frame(9, 4)
    assert len(tail) < len(following)
    assert any(tail), "zeros alone are room"
    assert following.startswith(tail)


@pytest.mark.parametrize("content", [None, b"", frame(0, 0)[:5], frame(0, 0)[:30], frame(0, 0) + frame(1, 0)[:-1]])
def test_a_segment_without_a_whole_last_frame_is_left_alone(content: bytes | None, tmp_path: Path) -> None:
    segment = tmp_path / f"{0:020}.log"
    if content is not None:
        segment.write_bytes(content)
    assert not tear(tmp_path, random.Random(1))
    assert content is None or segment.read_bytes() == content
