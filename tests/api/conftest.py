"""One server for each storage; tests keep apart by the names of their topics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.running import Process, serving


@pytest.fixture(scope="session", params=["file", "memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    data_dir = tmp_path_factory.mktemp("served") / "data"
    more: list[str] = []
    if request.param == "kafka":
        more = ["--kafka-bootstrap", request.getfixturevalue("cluster").bootstrap]
    with serving(data_dir, "--storage", request.param, *more) as running:
        yield running
