"""Directories in memory, since a real disk beneath simulated ones only costs time; and what tests find in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flashq.errors import FlashQError
from flashq.storage.interface import SyncMode
from tests.storage.rig import Rig
from tests.storage.written import POSTS, Segments, Written

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flashq-", dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def module_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flashq-", dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def written_once(module_path: Path) -> Written:
    return Written(module_path / "data", POSTS)


@pytest.fixture
def written(written_once: Written) -> Iterator[Written]:
    """One directory for all tests of a module; each finds its segment whole."""
    yield written_once
    written_once.with_data(written_once.data)


@pytest.fixture
def segments(tmp_path: Path) -> Segments:
    return Segments(tmp_path / "data")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(mode: SyncMode = "always", *, segment_bytes: int = 1 << 20) -> Rig:
        made.append(Rig(tmp_path / "data", mode, segment_bytes=segment_bytes))
        return made[-1]

    yield make
    for each in made:
        try:
            each.flashq.close()
        except FlashQError:
            pass
