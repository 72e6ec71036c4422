"""What tests of several rooms share: one Kafka cluster for the whole run, made when a test first asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.kafka.cluster import MISSING_TOOLS, Cluster, missing_tools

# A shell starts what it puts in the background with SIGINT ignored, and whatever a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing_tools():
        pytest.skip(MISSING_TOOLS)
    with Cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster
