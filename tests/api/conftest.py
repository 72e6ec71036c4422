"""One server for each storage; tests keep apart by the names of their topics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.running import Process, serving


@pytest.fixture(scope="session", params=["file", "memory"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    data_dir = tmp_path_factory.mktemp("served") / "data"
    with serving(data_dir, "--storage", request.param) as running:
        yield running
