"""One server for all; tests keep apart by the names of their topics and groups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from flashq import Client
from tests.server.running import Process, serving

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("served") / "data", "--sync-mode", "never") as running:
        yield running


@pytest.fixture
def url(server: Process) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def topic() -> str:
    return f"topic-{next(_numbers)}"


@pytest.fixture
def group() -> str:
    return f"group-{next(_numbers)}"
