"""A server for the commands that talk to one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.running import Process, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("server") / "data") as process:
        yield process
