"""Nothing acknowledged is lost or doubled when brokers die."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from tests.kafka.broker_kills import kill_leader, under_load, wait_until, wait_until_in_sync
from tests.kafka.cluster import Cluster
from tests.kafka.serving import serving_on
from tests.kafka.test_migrate import migrate
from tests.server.running import Process

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]


def kill_leaders(cluster: Cluster, directory: Path, kills: int) -> None:
    # Eight seconds to ask for a key, these, and two: less than a client of the load waits for an answer.
    with serving_on(cluster, directory, message_timeout_ms="9000") as server:
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


def test_a_topic_without_a_leader_is_listed_as_it_was_heard_of_and_does_not_go_unsaid(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.admin.create_topics([NewTopic("orphan", 1, 1)])["orphan"].result()
    with serving_on(cluster, tmp_path / "before") as server:
        server.post("orphan", "a", "b")
        leader = cluster.leader("orphan")
        cluster.kill(leader)
        try:
            wait_until(lambda: health(server) == ("degraded", ["topic orphan has no leader"]), "health does not tell")
            assert end_of(server, "orphan") == 2
            with serving_on(cluster, tmp_path / "after") as another:
                assert health(another) == ("degraded", ["topic orphan has no leader"])
                assert end_of(another, "orphan") is None
            done = migrate(f"kafka://{cluster.bootstrap}", tmp_path / "copy")
            assert done.returncode == 5
            assert "topic orphan has no leader. Nothing was copied" in done.stderr
            assert not (tmp_path / "copy" / "topics").exists() or not list((tmp_path / "copy" / "topics").iterdir())
        finally:
            cluster.start(leader)
            cluster.wait_until_up()
        wait_until(lambda: health(server) == ("healthy", None), "health stays bad")
        assert [record["value"] for record in server.read_all("orphan")] == ["a", "b"]


def health(server: Process) -> tuple[str, list[str] | None]:
    told = server.ask("GET", "/health").json()
    return told["status"], told.get("problems")


def end_of(server: Process, topic: str) -> int | None:
    """The next offset of a topic, where the list tells."""
    ends = {each["name"]: each["next_offset"] for each in server.ask("GET", "/topics").json()["topics"]}
    return ends.get(topic)
