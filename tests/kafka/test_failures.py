"""What clients are told when the cluster cannot, or will not: a status, and what became of their post."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from flashq import FlashQ, StorageUnavailable
from tests.kafka.cluster import USER, Cluster
from tests.kafka.serving import BY_NAME, serving_on
from tests.server.running import JSON, Answer, Process, flashq

pytestmark = pytest.mark.kafka
POST = b'{"records": [{"value": "x"}]}'


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving_on(cluster, tmp_path_factory.mktemp("served")) as running:
        yield running


def refusal(answer: Answer) -> tuple[int, str, Any]:
    told = answer.json()
    return answer.status, told["error"], told["details"].get("outcome")


def test_a_stored_post_is_said_to_be_replicated(server: Process) -> None:
    answer = server.ask("POST", "/topics/replicated/records", POST, JSON)
    assert (answer.status, answer.headers["x-flashq-durability"]) == (200, "replicated")
    answer = server.ask("POST", "/topics/replicated/records?sync=always", POST, JSON)
    assert (answer.status, answer.headers["x-flashq-durability"]) == (200, "replicated")


def test_without_waiting_for_replicas_a_post_is_written_and_one_that_asks_is_replicated(
    cluster: Cluster, tmp_path: Path
) -> None:
    with serving_on(cluster, tmp_path, "--sync-mode", "never") as server:
        answer = server.ask("POST", "/topics/one-replica/records", POST, JSON)
        assert (answer.status, answer.headers["x-flashq-durability"]) == (200, "written")
        answer = server.ask("POST", "/topics/one-replica/records?sync=always", POST, JSON)
        assert (answer.status, answer.headers["x-flashq-durability"]) == (200, "replicated")


def test_a_start_without_a_cluster_ends_and_says_so(tmp_path: Path) -> None:
    arguments = ("--storage", "kafka", "--kafka-bootstrap", "127.0.0.1:1", "--data-dir", str(tmp_path / "unused"))
    with flashq(*arguments, log=tmp_path / "log") as server:
        assert server.wait(60) == 5
        assert "no broker of 127.0.0.1:1 answers" in server.log()
    with pytest.raises(StorageUnavailable, match=r"no broker of 127\.0\.0\.1:1 answers"):
        FlashQ.open("kafka://127.0.0.1:1")


def test_a_condition_on_the_end_of_the_log_is_refused(server: Process) -> None:
    answer = server.ask("POST", "/topics/conditional/records", POST, {**JSON, "If-Next-Offset": "0"})
    assert refusal(answer) == (400, "invalid_parameter", "not_applied")
    assert "Kafka has no append on a condition" in answer.json()["message"]
    assert server.ask("GET", "/topics/conditional").status == 404


def test_a_post_above_the_topics_limit_is_refused_whole(cluster: Cluster, server: Process) -> None:
    topic = NewTopic("small", 1, 3, config={"max.message.bytes": "2000"})
    cluster.admin.create_topics([topic])["small"].result()
    assert server.try_post("small", "x" * 1000).status == 200
    answer = server.try_post("small", "x" * 1000, "x" * 1000)
    assert refusal(answer) == (400, "validation_error", "not_applied")
    assert answer.json()["details"]["max_size"] == 2000
    assert server.poll("small")["high_water_mark"] == 1


def test_what_the_cluster_does_not_let_this_user_do_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with serving_on(cluster, tmp_path, **BY_NAME) as server:
        server.post("guarded", "a")
        rules = [rule(operation) for operation in (AclOperation.READ, AclOperation.DESCRIBE_CONFIGS)]
        for made in cluster.admin.create_acls(rules).values():
            made.result()
        try:
            wait_for(lambda: server.try_post("guarded", "b").status == 403)
            assert refusal(server.try_post("guarded", "b")) == (403, "storage_refused", "not_applied")
            answer = server.ask("PUT", "/topics/guarded", b'{"retention_ms": 1000}', JSON)
            assert refusal(answer) == (403, "storage_refused", "not_applied")
            end = server.poll("guarded")["high_water_mark"]
            assert [each["value"] for each in server.poll("guarded")["records"]] == ["a", *["b"] * (end - 1)]
            assert server.post("unguarded", "c")
        finally:
            found = AclBindingFilter(
                ResourceType.TOPIC, "guarded", ResourcePatternType.LITERAL, None, None, AclOperation.ANY,
                AclPermissionType.ANY,
            )  # fmt: skip
            for removed in cluster.admin.delete_acls([found]).values():
                removed.result()
        wait_for(lambda: server.try_post("guarded", "b").status == 200)


def rule(operation: AclOperation) -> AclBinding:
    """It lets FlashQ do this with the topic, and nothing that has no rule."""
    return AclBinding(
        ResourceType.TOPIC, "guarded", ResourcePatternType.LITERAL, f"User:{USER}", "*", operation,
        AclPermissionType.ALLOW,
    )  # fmt: skip


def wait_for(holds: Callable[[], bool]) -> None:
    """The brokers hear of rules one after the other."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_topic_of_many_partitions_is_not_served(cluster: Cluster, server: Process) -> None:
    cluster.admin.create_topics([NewTopic("wide", 3, 3)])["wide"].result()
    answer = server.try_post("wide", "x")
    assert refusal(answer) == (400, "invalid_parameter", "not_applied")
    assert "3 partitions" in answer.json()["message"]
    assert "wide" not in [each["name"] for each in server.ask("GET", "/topics").json()["topics"]]


def test_a_topic_deleted_under_the_server_is_gone_and_begins_anew(cluster: Cluster, server: Process) -> None:
    """The two posts have the same head, byte for byte, so that what was remembered of it is used."""
    server.post("fleeting", "old")
    assert len(server.poll("fleeting")["records"]) == 1
    cluster.admin.delete_topics(["fleeting"])["fleeting"].result()
    deadline = time.monotonic() + 20
    while (answer := server.ask("GET", "/topics/fleeting/records")).status != 404:
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    assert refusal(answer)[1] == "topic_not_found"
    deadline = time.monotonic() + 20
    while (answer := server.try_post("fleeting", "new")).status != 200:
        assert refusal(answer)[2] == "not_applied", answer
        assert time.monotonic() < deadline, answer
    assert [each["value"] for each in server.poll("fleeting")["records"]] == ["new"]


def test_retention_is_kafkas_and_a_read_below_it_is_410(server: Process) -> None:
    body = json.dumps({"retention_ms": 1000, "segment_bytes": 1024 * 1024}).encode()
    assert server.ask("PUT", "/topics/aging", body, JSON).status == 201
    server.post("aging", "old")
    deadline = time.monotonic() + 40
    while server.poll("aging", from_offset=1)["log_start_offset"] == 0:
        assert time.monotonic() < deadline, "nothing was removed"
        time.sleep(0.5)
    answer = server.ask("GET", "/topics/aging/records?from_offset=0")
    assert (answer.status, answer.json()["error"]) == (410, "offset_out_of_range")
    assert answer.json()["details"]["log_start_offset"] == 1


def test_a_stream_carries_what_another_server_posts(cluster: Cluster, server: Process, tmp_path: Path) -> None:
    server.post("streamed", "0")
    with serving_on(cluster, tmp_path) as other:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/topics/streamed/stream")
        stream = connection.getresponse()
        other.post("streamed", "1", "2")
        ids: list[bytes] = []
        while len(ids) < 3:
            line = stream.readline()
            ids += [line] if line.startswith(b"id: ") else []
        connection.close()
    assert ids == [b"id: 0\n", b"id: 1\n", b"id: 2\n"]


def test_metrics_tell_of_topics_and_groups(server: Process) -> None:
    server.post("measured", "a", "b", "c")
    server.ask("POST", "/consumer/meter")
    server.ask("POST", "/consumer/meter/topics/measured/offset", b'{"offset": 1}', JSON)
    text = server.ask("GET", "/metrics").body.decode()
    assert 'flashq_topic_high_water_mark{topic="measured"} 3.0' in text
    assert 'flashq_group_lag_records{group="meter",topic="measured"} 2.0' in text
    assert 'flashq_topic_size_bytes{topic="measured"}' not in text
    assert server.ask("GET", "/health").json()["status"] == "healthy"


def test_deleting_a_group_may_cost_a_helper_and_never_the_server(cluster: Cluster, tmp_path: Path) -> None:
    with serving_on(cluster, tmp_path) as server:

        def delete(group: str) -> int:
            server.ask("POST", f"/consumer/{group}")
            return server.ask("DELETE", f"/consumer/{group}").status

        assert children_of(server) == []
        assert delete("first") == 204
        (helper,) = children_of(server)
        os.kill(helper, signal.SIGSTOP)  # so that it is asked, and ends without an answer
        with ThreadPoolExecutor() as threads:
            second = threads.submit(delete, "second")
            wait_for(lambda: "second" in groups_of(server))
            time.sleep(0.5)
            os.kill(helper, signal.SIGABRT)
            os.kill(helper, signal.SIGCONT)
            assert second.result() == 204
        assert "second" not in groups_of(server)
        (another,) = children_of(server)
        assert another != helper
        assert "kafka_helper_ended" in server.log()
        server.kill()
        wait_for(lambda: not Path(f"/proc/{another}/cmdline").exists())


def groups_of(server: Process) -> list[str]:
    return [each["group_id"] for each in server.ask("GET", "/consumer").json()["groups"]]


def children_of(server: Process) -> list[int]:
    of_each_thread = Path(f"/proc/{server.pid}/task").glob("*/children")
    return [int(pid) for path in of_each_thread for pid in path.read_text().split()]
