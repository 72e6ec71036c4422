"""Reads of the latest batches come from memory: they must be what the file would give."""

from __future__ import annotations

import threading
from pathlib import Path

from flashq import FlashQ

SIZES = (1, 3, 1, 1, 40, 2, 1)  # records in a batch


def shape(log: FlashQ, at: int, count: int | None, max_bytes: int | None) -> list[tuple[int, int]]:
    batches = log.log("t").read(at, max_records=count, max_bytes=max_bytes)
    return [(batch.base_offset, batch.count) for batch in batches]


def test_what_comes_from_memory_is_what_the_file_holds(tmp_path: Path) -> None:
    end = sum(SIZES)
    asked = [
        (at, count, max_bytes)
        for at in range(end + 2)
        for count in (None, 0, 1, 2, 10, end, 2 * end)
        for max_bytes in (None, 1, 150, 700, 1 << 20)
    ]
    with FlashQ.open(tmp_path) as log:
        for size in SIZES:
            log.post_records("t", [b"v" * 20] * size)
        from_memory = [shape(log, *each) for each in asked]
    with FlashQ.open(tmp_path) as log:  # after a start nothing is in memory
        assert [shape(log, *each) for each in asked] == from_memory


def test_a_reader_of_the_end_is_not_disturbed_by_a_writer_and_rolls(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path, sync_mode="never", segment_bytes=4096) as log:
        log.post_record("t", b"0")
        writer = threading.Thread(target=lambda: [log.post_record("t", b"%d" % at) for at in range(1, 3000)])
        writer.start()
        reads = 0
        try:
            while writer.is_alive() or not reads:
                last = log.high_water_mark("t") - 1
                (record,) = log.poll_records("t", from_offset=last, count=1)
                assert (record.offset, record.value) == (last, b"%d" % last)
                reads += 1
        finally:
            writer.join()
