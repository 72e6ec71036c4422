"""What a log costs as it grows: appending, opening, and the memory of what has it open."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.machine import SERVER_CORES, on_cores, scratch
from benchmarks.measure import Contender, Effort, Figures, Row, compare, interleave, rate
from benchmarks.peers import value
from benchmarks.peers.flashq_embedded import TOPIC
from flashq import FlashQ

BATCH = 1000
LARGE = 5_000_000  # records
STEPS_GIB = (0.0625, 1, 4, 10, 20)
"""The first is one segment, which opening always reads."""
SPARE_GIB = 5
GIB = 1024**3
OPEN_WANTED_S = 1.0
FLAT = 0.9
OPEN = """
import json, sys, time
from flashq import FlashQ
start = time.perf_counter()
with FlashQ.open(sys.argv[1]):
    took = time.perf_counter() - start
    held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
    print(json.dumps({"open_s": took, "resident_mib": held / 1024}))
"""


def append(effort: Effort) -> Iterator[Row]:
    """The same posts to a log of many records and to one that is new in each round."""
    large = int(LARGE * effort.scale)
    values = [value(100)] * BATCH
    with scratch() as directory, FlashQ.open(directory, sync_mode="never") as flashq:
        for _ in range(large // BATCH):
            flashq.post_records("large", values)
        fresh = 0

        def post(topic: str) -> int:
            flashq.post_records(topic, values)
            return BATCH

        def to_new() -> Figures:
            nonlocal fresh
            fresh += 1
            return rate(partial(post, f"new-{fresh}"), effort.seconds)

        def to_large() -> Figures:
            return rate(partial(post, "large"), effort.seconds)

        yield compare(
            "log-size/append",
            f"embedded posts of 1,000 x 100 B after {large:,} records",
            "records/s",
            interleave({"FlashQ": to_large, "an empty log": to_new}, effort),
            wanted={"an empty log": FLAT},
        )


def opening(effort: Effort) -> Iterator[Row]:
    """Opening and what it holds, as a log grows by steps; each step against one segment, in rounds of its own."""
    steps = STEPS_GIB[:2] if effort.quick else STEPS_GIB
    with scratch() as small, scratch() as large:
        _grow(small, steps[0])
        for gib in steps[1:]:
            missing = _too_large(large, gib)
            if not missing:
                _grow(large, gib)
            work = {"FlashQ": missing or partial(_open, large), "a log of 64 MiB": partial(_open, small)}
            contenders = interleave(work, effort)
            yield _row(f"log-size/open/{gib}", f"opening a log of {gib} GiB", "s", "open_s", contenders, OPEN_WANTED_S)
            yield _row(f"log-size/memory/{gib}", f"memory with {gib} GiB open", "MiB", "resident_mib", contenders, None)


def _row(key: str, what: str, unit: str, figure: str, contenders: list[Contender], bound: float | None) -> Row:
    return compare(
        key,
        what,
        unit,
        contenders,
        wanted={} if bound else {"a log of 64 MiB": 0.8},
        bounds={f"{bound:.0f} {unit}": bound} if bound else {},
        figure=figure,
        less_is_better=True,
    )


def _too_large(directory: Path, gib: float) -> str:
    """Why a log of this size cannot be had here, or ""."""
    room = shutil.disk_usage(directory).free + _size(directory)
    return "" if room >= (gib + SPARE_GIB) * GIB else f"it needs {gib + SPARE_GIB} GiB of disk"


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.log"))


def _grow(directory: Path, gib: float) -> None:
    values = [value(10_000)] * 100  # of 10 MB buffers, the C library keeps one or not by what was freed before
    with FlashQ.open(directory, sync_mode="never") as flashq:
        while _size(directory) < gib * GIB:
            flashq.post_records(TOPIC, values)


def _open(directory: Path) -> Figures:
    """In a process of its own."""
    with on_cores(SERVER_CORES):
        command = [sys.executable, "-c", OPEN, str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures
