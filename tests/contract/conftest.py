"""Every backend there is, made when a test asks for it: one suite proves them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.record import NO_HEADERS, Row
from flashq.storage.backend import StorageBackend
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import TopicConfig
from flashq.storage.memory import InMemoryBackend
from tests.kafka.clean import emptied

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


def rows(*values: str) -> list[Row]:
    return [(None, value.encode(), NO_HEADERS) for value in values]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[*BACKENDS, pytest.param("kafka", marks=pytest.mark.kafka)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    if request.param == "kafka":
        return emptied(request.getfixturevalue("cluster"))
    make = BACKENDS[request.param]
    return make(tmp_path / "data")


@pytest.fixture
def small_segment(backend: StorageBackend) -> int:
    """Bytes of the smallest segment there is: on files, a post of a few kilobytes crosses from one to the next."""
    return 1024 * 1024 if backend.kind == "kafka" else 1024


@pytest.fixture
def own_retention(backend: StorageBackend) -> None:
    """For tests that remove records by hand. Kafka removes by itself, by its own clock: tests/kafka looks at that."""
    if backend.is_remote:
        pytest.skip("Kafka removes records itself")


@pytest.fixture
def conditions(backend: StorageBackend) -> None:
    """For tests of posts that ask where the log ends."""
    if "if_next_offset" not in backend.conditions:
        pytest.skip("Kafka has no append on a condition")


@pytest.fixture
def flashq(backend: StorageBackend, small_segment: int, clock: Clock) -> Iterator[FlashQ]:
    flashq = FlashQ(backend, topic_defaults=TopicConfig(segment_bytes=small_segment), clock_ms=clock)
    yield flashq
    flashq.close()
    if isinstance(backend, FileBackend):
        assert [log.findings for log in verify_directory(backend.data_dir).logs if log.findings] == []
