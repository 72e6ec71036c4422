"""Out of descriptors: logs that are there go on, and no new ones are made."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.errors import StorageFull


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Take every descriptor this process may have. The limit is lowered first: there may be a million of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(fd) for fd in os.listdir("/proc/self/fd")) + 20, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_topic_rolls_and_is_read_and_a_group_commits(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path, segment_bytes=1024) as flashq:
        flashq.post_record("t", "first")
        flashq.create_consumer_group("g")
        with no_descriptors_left():
            for at in range(50):
                flashq.post_record("t", "x" * 500)
                flashq.commit_offset("g", "t", at)
            assert len(flashq.poll_records("t")) == 51
    with FlashQ.open(tmp_path) as flashq:
        assert flashq.poll_records("t")[0].text == "first"
        assert flashq.high_water_mark("t") == 51
        assert flashq.consumer_group_offset("g", "t") == 49


def test_a_new_topic_or_group_is_refused_and_can_be_made_once_there_are_some(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path) as flashq:
        flashq.post_record("there", "x")
        with no_descriptors_left(), no_longer_whole(flashq):
            with pytest.raises(StorageFull, match="no file descriptors are left for topic t"):
                flashq.post_record("t", "x")
            assert flashq.topics() == ["there"]
            flashq.post_record("there", "y")
            with pytest.raises(StorageFull):
                flashq.create_consumer_group("g")
        flashq.post_record("t", "x")
        flashq.create_consumer_group("g")


@contextmanager
def no_longer_whole(flashq: FlashQ) -> Iterator[None]:
    """Somebody else has taken what a roll had borrowed from the reserve."""
    spare = flashq.backend._disk._spare  # type: ignore[attr-defined]
    taken = spare.pop()
    yield
    del taken


def test_closing_gives_the_reserve_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    FlashQ.open(tmp_path).close()
    assert len(os.listdir("/proc/self/fd")) == before
