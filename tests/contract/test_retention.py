"""What retention promises on every backend: what goes, what stays, and what readers meet meanwhile."""

from __future__ import annotations

import threading

import pytest

from flashq import FlashQ
from flashq.errors import OffsetOutOfRange
from flashq.storage.interface import TopicConfig
from tests.contract.conftest import Clock


def fill(flashq: FlashQ, clock: Clock, posts: int = 12) -> list[bytes]:
    values = [b"%d " % number * 200 for number in range(posts)]
    for value in values:
        clock.ms += 1000
        flashq.post_record("t", value)
    return values


def test_retention_by_age_removes_what_is_older_and_nothing_else(
    flashq: FlashQ, clock: Clock, own_retention: None
) -> None:
    values = fill(flashq, clock)
    log = flashq.log("t")
    log.configure(TopicConfig(retention_ms=5500, segment_bytes=1024))
    assert flashq.apply_retention() > 0
    start = log.log_start_offset
    assert 3 <= start <= 6
    assert [record.value for record in flashq.poll_records("t", from_offset=start)] == values[start:]
    with pytest.raises(OffsetOutOfRange) as below:
        flashq.poll_records("t", from_offset=start - 1)
    assert below.value.details["log_start_offset"] == start
    assert flashq.apply_retention() == 0
    assert flashq.post_record("t", "next") == 12


def test_retention_by_age_empties_a_topic_and_its_offsets_go_on(
    flashq: FlashQ, clock: Clock, own_retention: None
) -> None:
    fill(flashq, clock, 3)
    log = flashq.log("t")
    log.configure(TopicConfig(retention_ms=0))
    clock.ms += 1
    flashq.apply_retention()
    assert (log.log_start_offset, log.high_water_mark, log.size_bytes) == (3, 3, 0)
    assert list(flashq.poll_records("t", from_offset=3)) == []
    assert log.offset_at(0) == 3
    assert flashq.post_record("t", "next") == 3
    assert flashq.poll_records("t", from_offset=3)[0].text == "next"


def test_retention_by_size_keeps_at_least_that_much_of_the_newest(
    flashq: FlashQ, clock: Clock, own_retention: None
) -> None:
    values = fill(flashq, clock)
    log = flashq.log("t")
    before = log.size_bytes
    assert before is not None
    log.configure(TopicConfig(retention_bytes=3000, segment_bytes=1024))
    freed = flashq.apply_retention()
    assert log.size_bytes == before - freed
    assert 3000 <= log.size_bytes < 3000 + 2048
    start = log.log_start_offset
    assert [record.value for record in flashq.poll_records("t", from_offset=start)] == values[start:]
    log.configure(TopicConfig(retention_bytes=0, segment_bytes=1024))
    flashq.apply_retention()
    assert flashq.poll_records("t", from_offset=log.log_start_offset)[-1].value == values[-1]


def test_without_limits_retention_removes_nothing(flashq: FlashQ, clock: Clock) -> None:
    fill(flashq, clock)
    clock.ms += 1 << 40
    assert flashq.apply_retention() == 0
    assert flashq.log("t").log_start_offset == 0


def test_readers_beside_retention_get_records_or_out_of_range(
    flashq: FlashQ, clock: Clock, own_retention: None
) -> None:
    flashq.create_topic("t", retention_bytes=2000)
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            try:
                start = flashq.log("t").log_start_offset
                records = flashq.poll_records("t", from_offset=start, count=20)
                wrong.extend(record for record in records if record.text.split()[0] != str(record.offset))
                flashq.log("t").offset_at(clock.ms)
            except OffsetOutOfRange:
                pass
            except BaseException as error:
                wrong.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(150):
        flashq.post_record("t", f"{number} " * 60)
        if number % 3 == 0:
            flashq.apply_retention()
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert flashq.log("t").log_start_offset > 100
