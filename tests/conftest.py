"""What tests of several rooms share: one Kafka cluster for the whole run, made when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kafka.cluster import MISSING_TOOLS, Cluster, missing_tools


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing_tools():
        pytest.skip(MISSING_TOOLS)
    with Cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster
