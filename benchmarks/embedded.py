"""The engine in a program: batches of 1,000 x 100 bytes, against the bare codec in the same rounds."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from benchmarks.measure import Row, interleave, median_ratio, rate
from flashq import FlashQ

BATCH = 1000
RECORDS = [b"x" * 100] * BATCH
TOPIC = "news"


def rows(rounds: int, batches: int, large: int) -> list[Row]:
    return _rates(rounds, batches) + _append_cost(batches, large)


def _rates(rounds: int, batches: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory, FlashQ.open(directory, sync_mode="periodic") as flashq:
        encoded = _encode()

        def post() -> int:
            for _ in range(batches):
                flashq.post_records(TOPIC, RECORDS)
            return batches * BATCH

        def poll() -> int:
            end = flashq.high_water_mark(TOPIC)
            offset = start = end - batches * BATCH
            while offset < end:
                offset = flashq.poll_records(TOPIC, from_offset=offset, count=BATCH).next_offset
            return offset - start

        def codec_encode() -> int:
            for _ in range(batches):
                _encode()
            return batches * BATCH

        def codec_decode() -> int:
            for _ in range(batches):
                _decode(encoded)
            return batches * BATCH

        contenders = {"encode": codec_encode, "post": post, "decode": codec_decode, "poll": poll}
        series = interleave({name: (lambda work=work: rate(work)) for name, work in contenders.items()}, rounds)  # type: ignore[misc]
    return [
        Row(
            f"embedded {ours} of 1,000 x 100 B, files",
            f"{series[ours].median:,.0f} records/s",
            f"bare codec {series[bare].median:,.0f}/s",
            median_ratio(series[ours], series[bare]),
            0.5,
            series[ours].spread,
        )
        for ours, bare in (("post", "encode"), ("poll", "decode"))
    ]


def _append_cost(batches: int, large: int) -> list[Row]:
    """The same posts to an empty log and to one of `large` records, side by side."""
    with tempfile.TemporaryDirectory() as directory, FlashQ.open(directory, sync_mode="never") as flashq:
        while large > 0:
            flashq.post_records("large", RECORDS)
            large -= BATCH
        full = flashq.high_water_mark("large")
        number = 0

        def fresh() -> int:
            nonlocal number
            number += 1
            return _post(flashq, f"empty-{number}", batches)

        series = interleave(
            {"empty": lambda: rate(fresh), "large": lambda: rate(lambda: _post(flashq, "large", batches))}, 5
        )
    return [
        Row(
            f"append at {full:,} records",
            f"{series['large'].median:,.0f} records/s",
            f"at 0 records {series['empty'].median:,.0f}/s",
            median_ratio(series["large"], series["empty"]),
            0.9,
            series["large"].spread,
        )
    ]


def open_time(gib: float) -> list[Row]:
    """Opening a directory of sealed segments."""
    with tempfile.TemporaryDirectory() as directory:
        with FlashQ.open(directory, sync_mode="never") as flashq:
            records = [b"x" * 1000] * BATCH
            while _bytes_in(directory) < gib * 1024**3:
                for _ in range(32):
                    flashq.post_records(TOPIC, records)
        stored = _bytes_in(directory)
        start = time.perf_counter()
        with FlashQ.open(directory):
            took = time.perf_counter() - start
    return [Row(f"open {stored / 1024**3:.1f} GiB", f"{took:.3f} s", "wanted under 1 s", 1 / took, 1.0)]


def _post(flashq: FlashQ, topic: str, batches: int) -> int:
    for _ in range(batches):
        flashq.post_records(topic, RECORDS)
    return batches * BATCH


def _decode(encoded: bytes) -> list[tuple[int, int, bytes | None, bytes | None]]:
    return [(record.offset, record.timestamp, record.key, record.value) for record in DefaultRecordBatch(encoded)]


def _encode() -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    append = builder.append
    for at, value in enumerate(RECORDS):
        append(at, 1_700_000_000_000, None, value, [])
    return bytes(builder.build())


def _bytes_in(directory: str) -> int:
    return sum(path.stat().st_size for path in Path(directory).rglob("*.log"))
