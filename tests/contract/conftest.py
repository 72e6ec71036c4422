"""Every backend there is, made when a test asks for it: one suite proves them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.storage.backend import StorageBackend
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import TopicConfig
from flashq.storage.memory import InMemoryBackend

BACKENDS: dict[str, Callable[[Path], StorageBackend]] = {
    "memory": lambda _: InMemoryBackend(),
    "file-always": lambda path: FileBackend(str(path), sync_mode="always"),
    "file-periodic": lambda path: FileBackend(str(path), sync_mode="periodic"),
    "file-never": lambda path: FileBackend(str(path), sync_mode="never"),
}


class Clock:
    """Unix milliseconds that move when told."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    make = BACKENDS[request.param]
    return make(tmp_path / "data")


@pytest.fixture
def flashq(backend: StorageBackend, clock: Clock) -> Iterator[FlashQ]:
    """Small segments, so that every test that posts a few kilobytes crosses from one to the next."""
    flashq = FlashQ(backend, topic_defaults=TopicConfig(segment_bytes=1024), clock_ms=clock)
    yield flashq
    flashq.close()
    if isinstance(backend, FileBackend):
        assert [log.findings for log in verify_directory(backend.data_dir).logs if log.findings] == []
