"""The disk itself: fio for appends that are synced, and a loop for what one fdatasync takes."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from benchmarks.machine import scratch

NAME = "the disk (fio)"


def missing() -> str:
    return "" if shutil.which("fio") else "fio is not installed (make bench-peers)"


def synced_appends(size: int, seconds: float) -> float:
    """Appends of `size` bytes a second to a growing file, one at a time, an fdatasync after each."""
    with scratch() as directory:
        command = [
            "fio", "--name=append", f"--directory={directory}", "--rw=write", f"--bs={size}", "--size=4g",
            "--fdatasync=1", "--fallocate=none", "--create_on_open=1", "--ioengine=psync", "--time_based=1",
            f"--runtime={max(1, round(seconds))}", "--output-format=json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["jobs"][0]["write"]["iops"])


def fdatasync_us(count: int) -> float:
    """The median time of an fdatasync after an append of some 200 bytes, which is a small batch."""
    took = []
    with scratch() as directory:
        descriptor = os.open(Path(directory, "probe"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        for _ in range(count):
            os.write(descriptor, bytes(200))
            start = time.perf_counter()
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - start)
        os.close(descriptor)
    return statistics.median(took) * 1e6
