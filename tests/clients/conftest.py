"""Clients nobody here wrote. Where one is missing, its tests are skipped with a line that says how to get it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import Process, serving

NODE = Path(__file__).parent / "node"


@pytest.fixture(scope="module", params=["file", "memory"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("clients") / "data", "--storage", request.param) as running:
        yield running


def program(name: str) -> str:
    """The path of a program that is installed; the test is skipped without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: `make clients` installs what these tests talk with")
    return found


@pytest.fixture
def curl() -> str:
    return program("curl")


@pytest.fixture
def wrk() -> str:
    return program("wrk")


@pytest.fixture
def node() -> str:
    found = program("node")
    if not (NODE / "node_modules" / "eventsource").is_dir():
        pytest.skip("the npm package eventsource is not installed: `make clients` installs it")
    return found
