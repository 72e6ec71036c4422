"""A system that takes a few bytes at a time, as it may: `Disk.write` goes on until all of them are written."""

from __future__ import annotations

import os
from itertools import cycle
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.storage.file import consumer_group
from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import SYNC_MODES, SyncMode, TopicConfig
from flashq.testing.faulty_disk import FaultyDisk


@pytest.fixture
def short_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Writes take from one byte to seven, which are counted here."""
    whole, lengths, taken = os.pwrite, cycle(range(1, 8)), list[int]()

    def few(fd: int, data: bytes | bytearray | memoryview, position: int) -> int:
        taken.append(whole(fd, memoryview(data)[: next(lengths)], position))
        return taken[-1]

    monkeypatch.setattr(os, "pwrite", few)
    monkeypatch.setattr(consumer_group, "_COMPACT_BYTES", 500)
    return taken


def open_at(directory: Path, mode: SyncMode) -> FlashQ:
    backend = FileBackend(str(directory), sync_mode=mode, disk=FaultyDisk())
    return FlashQ(backend, topic_defaults=TopicConfig(segment_bytes=1024))


@pytest.mark.parametrize("mode", SYNC_MODES)
def test_every_record_and_commit_is_there_in_order(tmp_path: Path, mode: SyncMode, short_writes: list[int]) -> None:
    """Whatever is written: frames, one and many at once, indexes, commits, compacted groups, what describes a topic."""
    values = [b"%d " % number * (1 + number * 37 % 200) for number in range(40)]
    with open_at(tmp_path, mode) as flashq:
        flashq.create_consumer_group("g")
        for start in range(0, 40, 4):
            assert flashq.post_record("t", values[start]) == start
            assert flashq.post_records("t", values[start + 1 : start + 4]) == [start + 1, start + 2, start + 3]
            flashq.commit_offset("g", "t", start + 2)
            assert [record.value for record in flashq.poll_records("t")] == values[: start + 4]
    with open_at(tmp_path, mode) as flashq:
        assert flashq.health().status == "healthy"
        records = flashq.poll_records("t")
        assert [(record.offset, record.value) for record in records] == list(enumerate(values))
        assert flashq.consumer_group_offset("g", "t") == 38
    assert max(short_writes) == 7
    assert sum(short_writes) > sum(map(len, values))
