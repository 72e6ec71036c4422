"""Directories in memory: these disks are simulated, and a real one beneath them only costs time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flashq-", dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def module_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flashq-", dir=MEMORY) as directory:
        yield Path(directory)
