"""Nothing acknowledged is lost or doubled when brokers die."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.kafka.broker_kills import kill_leader, under_load, wait_until, wait_until_in_sync
from tests.kafka.cluster import Cluster
from tests.kafka.serving import serving_on

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]


def kill_leaders(cluster: Cluster, directory: Path, kills: int) -> None:
    with serving_on(cluster, directory, message_timeout_ms="15000") as server:
        topic = f"leaders-{kills}"

        def meanwhile() -> None:
            for _ in range(kills):
                kill_leader(cluster, topic, down_s=1.0)
                time.sleep(2)  # of load, before the next

        outcome = under_load(server, topic, directory, meanwhile)
        print(f"{kills} leaders killed: {outcome}")
    assert outcome.violations == []
    assert outcome.posts["acknowledged"] > 50 * kills


def test_the_leader_is_killed_twice_under_load(cluster: Cluster, tmp_path: Path) -> None:
    kill_leaders(cluster, tmp_path, 2)


@pytest.mark.crash
def test_the_leader_is_killed_twenty_times_under_load(cluster: Cluster, tmp_path: Path) -> None:
    kill_leaders(cluster, tmp_path, 20)


def test_with_two_of_three_brokers_down_posts_are_refused_and_nothing_is_lost_or_doubled(
    cluster: Cluster, tmp_path: Path
) -> None:
    with serving_on(cluster, tmp_path, message_timeout_ms="4000") as server:

        def meanwhile() -> None:
            time.sleep(1)
            leader = cluster.leader("two-down")
            others = [node for node in cluster.up if node != leader]
            for node in others:
                cluster.kill(node)
            time.sleep(12)
            for node in others:
                cluster.start(node)
            cluster.wait_until_up()
            wait_until_in_sync(cluster, "two-down")
            time.sleep(2)

        outcome = under_load(server, "two-down", tmp_path, meanwhile)
        print(f"two of three down: {outcome}")
        wait_until(lambda: server.ask("GET", "/health").json()["status"] == "healthy", "health stays bad")
    assert outcome.violations == []
    assert outcome.statuses[503] > 0
