"""The cluster the other tests stand on."""

from __future__ import annotations

import pytest

from tests.kafka.cluster import Cluster

pytestmark = pytest.mark.kafka


def test_three_brokers_are_up_and_one_that_is_killed_comes_back(cluster: Cluster) -> None:
    assert cluster.up == [1, 2, 3]
    cluster.kill(2)
    assert cluster.up == [1, 3]
    cluster.start(2)
    cluster.wait_until_up()
    assert cluster.up == [1, 2, 3]
