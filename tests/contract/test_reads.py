"""What a read promises on every backend: where it begins and ends, and how much it takes."""

from __future__ import annotations

import random

import pytest

from flashq import FlashQ, Record
from flashq.batch import encode
from tests.contract.conftest import Clock, rows


def test_a_poll_past_the_end_is_empty_and_says_where_the_topic_ends(flashq: FlashQ) -> None:
    flashq.post_records("t", ["a", "b"])
    for at in (2, 3, 1000, (1 << 63) - 1):
        found = flashq.poll_records("t", from_offset=at)
        assert list(found) == []
        assert (found.next_offset, found.high_water_mark, found.log_start_offset, found.lag) == (at, 2, 0, 0)


def test_a_poll_begins_anywhere_and_takes_what_it_is_asked_for(flashq: FlashQ) -> None:
    print("seed 5")
    rng = random.Random(5)
    values = [b"%d " % number * rng.randint(1, 40) for number in range(120)]
    at = 0
    while at < len(values):
        size = rng.randint(1, 9)
        flashq.post_records("t", values[at : at + size])
        at += size
    for _ in range(150):
        start, count = rng.randrange(125), rng.choice([0, 1, 2, 5, 30, 200])
        found = flashq.poll_records("t", from_offset=start, count=count)
        assert [record.value for record in found] == values[start : start + count]
        assert [record.offset for record in found] == list(range(start, start + len(found)))
        assert found.next_offset == start + len(found)
        assert found.lag == max(120 - found.next_offset, 0)


def test_max_bytes_caps_a_poll_but_gives_one_record_at_least(flashq: FlashQ) -> None:
    """It may give fewer than would fit: headers of batches count as well, and records of the first one before it."""
    for _ in range(10):
        flashq.post_records("t", [Record("v" * 60, key="k" * 30, headers={"h" * 5: "x" * 5})] * 3)
    for limit in (0, 1, 99, 100, 101, 199, 200, 250, 999, 2500, 1 << 40):
        for start in (0, 1, 2, 3, 20):
            found = flashq.poll_records("t", from_offset=start, max_bytes=limit)
            most = min(max(limit // 100, 1), 30 - start)
            assert 1 <= len(found) <= most
            assert found.next_offset == start + len(found)


def test_a_log_reads_whole_batches_and_stops_after_the_one_that_reaches_a_limit(flashq: FlashQ) -> None:
    if flashq.backend.is_remote:
        pytest.skip("Kafka's consumers are not told how records were batched")
    log = flashq.log_or_new("t")
    for _ in range(10):
        log.append(encode(rows("a", "b", "c"), 1)).result()
    size = len(log.read(0)[0].frame)
    bases = [batch.base_offset for batch in log.read(4)]
    assert bases == [3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert [batch.base_offset for batch in log.read(4, max_records=1)] == [3]
    assert [batch.base_offset for batch in log.read(4, max_records=2)] == [3]
    assert [batch.base_offset for batch in log.read(4, max_records=3)] == [3, 6]
    assert [batch.base_offset for batch in log.read(0, max_bytes=1)] == [0]
    assert [batch.base_offset for batch in log.read(0, max_bytes=size)] == [0]
    assert [batch.base_offset for batch in log.read(0, max_bytes=size + 1)] == [0, 3]
    assert log.size_bytes == 10 * size
    assert log.read(30) == log.read(31) == []


def test_offset_at_finds_the_first_record_as_late_as_asked(flashq: FlashQ, clock: Clock) -> None:
    start = clock.ms
    for number in range(40):
        clock.ms = start + 10 * (number // 2)  # two posts at each time
        flashq.post_records("t", ["x" * 100, "y"])
    log = flashq.log("t")
    assert log.offset_at(0) == log.offset_at(start) == 0
    for number in range(1, 20):
        assert log.offset_at(start + 10 * number) == log.offset_at(start + 10 * number - 9) == 4 * number
    assert log.offset_at(start + 191) == log.offset_at(1 << 60) == 80
    assert flashq.log_or_new("empty").offset_at(0) == 0
