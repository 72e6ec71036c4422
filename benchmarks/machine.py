"""This machine: which cores serve and which make load, and what a reader of the results must know about it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MIB = 1024 * 1024
_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = set(_CORES[: max(1, len(_CORES) // 2)])
LOAD_CORES = set(_CORES[len(_CORES) // 2 :])
"""Apart where there are two cores; else the same one."""


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What is started inside stays on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the disk that is measured: in $TMPDIR, else /tmp."""
    with tempfile.TemporaryDirectory(prefix="flashq-bench-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def facts() -> dict[str, str]:
    """What the figures depend on and a ratio does not cancel out."""
    model = _first_line(Path("/proc/cpuinfo"), "model name")
    return {
        "cpu": f"{len(_CORES)} x {model}",
        "servers on cores": _numbers(SERVER_CORES),
        "load on cores": _numbers(LOAD_CORES),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "disk": f"{_filesystem(tempfile.gettempdir())}, {shutil.disk_usage(tempfile.gettempdir()).free >> 30} GiB free",
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
        "commit": commit(),
    }


def _numbers(cores: set[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def _first_line(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"


def _filesystem(directory: str) -> str:
    """The type of the file system: tmpfs would make every fsync free."""
    found = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if os.path.realpath(directory).startswith(mount) and len(mount) >= len(found[0]):
            found = (mount, kind)
    return found[1]


@cache
def commit() -> str:
    """Of this checkout when first asked, before a report changes it; `-dirty` where it has changes."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
