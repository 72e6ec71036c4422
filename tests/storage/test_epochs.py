"""Epochs: raised where an unclean stop may have taken records back, and read beside each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashq.storage.interface import SyncMode
from tests.storage.crashing_disk import abandon
from tests.storage.written import EPOCH_POSITION, backend_of, open_at, segment_of


def epochs_on_disk(directory: Path) -> list[int]:
    data, at, found = segment_of(directory).read_bytes(), 0, []
    while at < len(data):
        found.append(int.from_bytes(data[at + EPOCH_POSITION : at + EPOCH_POSITION + 4], "big"))
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


@pytest.mark.parametrize(("mode", "raised"), [("always", 0), ("periodic", 1), ("never", 1)])
def test_an_unclean_stop_raises_the_epoch_where_records_may_have_been_taken_back(
    tmp_path: Path, mode: SyncMode, raised: int
) -> None:
    flashq = open_at(tmp_path, mode)
    flashq.post_record("t", "before")
    abandon(backend_of(flashq))
    for expected in (raised, raised):
        with open_at(tmp_path, mode) as flashq:
            assert flashq.log("t").epoch == expected
            flashq.post_record("t", "after")
    assert epochs_on_disk(tmp_path) == [0, raised, raised]
    with open_at(tmp_path, mode) as flashq:
        assert flashq.health().status == "healthy"
        assert [record.text for record in flashq.poll_records("t")] == ["before", "after", "after"]


def test_epochs_rise_with_every_crash_and_all_their_records_stay_readable(tmp_path: Path) -> None:
    for number in range(6):
        flashq = open_at(tmp_path, "periodic")
        assert flashq.log_or_new("t").epoch == number
        if number % 2:
            flashq.post_records("t", [str(number)] * number)
        abandon(backend_of(flashq))
    assert epochs_on_disk(tmp_path) == [1, 3, 5]
    with open_at(tmp_path) as flashq:
        assert [record.text for record in flashq.poll_records("t")] == ["1"] + ["3"] * 3 + ["5"] * 5


def test_epochs_that_began_past_a_log_that_has_become_shorter_do_not_confuse_it(tmp_path: Path) -> None:
    ends = []
    for _ in range(3):
        flashq = open_at(tmp_path, "periodic")
        flashq.post_record("t", "x")
        ends.append(segment_of(tmp_path).stat().st_size)
        abandon(backend_of(flashq))
    os.truncate(segment_of(tmp_path), ends[0])
    flashq = open_at(tmp_path, "periodic")
    flashq.post_records("t", ["y", "z"])
    abandon(backend_of(flashq))
    with open_at(tmp_path, "periodic") as flashq:
        assert flashq.health().status == "healthy"
        assert [record.text for record in flashq.poll_records("t")] == ["x", "y", "z"]
    assert epochs_on_disk(tmp_path) == [0, 3]
