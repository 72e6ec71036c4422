"""How posts wait for a cluster that is slow to answer, and what they are answered with."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from flashq.batch import decode, encode
from flashq.storage.interface import Append, TopicLog
from flashq.storage.kafka.backend import KafkaBackend
from flashq.storage.kafka.lanes import SLACK_S, _Lane
from flashq.storage.kafka.settling import Completions
from flashq.storage.kafka.topic_log import KafkaTopicLog
from tests.kafka.broker_kills import wait_until_in_sync
from tests.kafka.cluster import Cluster
from tests.kafka.serving import serving_on
from tests.server.running import JSON

pytestmark = pytest.mark.kafka
REQUEST_TIMEOUT_S = 0.5
MESSAGE_TIMEOUT_S = 3.0


def an_append(timestamp_ms: int) -> Append:
    return Append(encode([(None, b"x", [])], timestamp_ms), owner=Completions())


def send(lane: _Lane, log: KafkaTopicLog, appends: list[Append]) -> None:
    deadline = time.monotonic() + 20.0
    lane.send(log, [(append, deadline) for append in appends], lambda log, told: None)


def answered(appends: list[Append]) -> list[tuple[int, int]]:
    assert [append.error for append in appends] == [None] * len(appends)
    return [(append.batch.base_offset, append.batch.timestamp_ms) for append in appends]


def stored_in(log: TopicLog) -> list[tuple[int, int]]:
    return [
        row for batch in log.read(0) for row in decode(batch, lambda offset, timestamp_ms, *_: (offset, timestamp_ms))
    ]


@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
def test_a_batch_sent_twice_is_answered_with_the_times_its_records_have(cluster: Cluster, kind: str) -> None:
    """The broker stores it, cannot replicate it in time, says so, and is sent it again: that, it calls a duplicate."""
    topic = f"sent-twice-{kind}"
    config = {"message.timestamp.type": kind, "retention.ms": "-1"}  # records of 1970 are older than any other
    created = cluster.admin.create_topics([NewTopic(topic, 1, 3, config=config)])
    created[topic].result()
    backend = KafkaBackend(cluster.bootstrap, config={"request.timeout.ms": str(int(REQUEST_TIMEOUT_S * 1000))})
    try:
        log = backend.find_topic(topic)
        assert isinstance(log, KafkaTopicLog)
        lane = _Lane(backend.cluster.config.producer("all"), timeout_s=20.0)
        alone, together = [an_append(1_000)], [an_append(2_000), an_append(3_000)]
        send(lane, log, alone)
        leader = cluster.leader(topic)
        sending = threading.Thread(target=send, args=(lane, log, together))
        with cluster.frozen(*(node for node in cluster.up if node != leader)):
            sending.start()
            time.sleep(3 * REQUEST_TIMEOUT_S)
        sending.join()
        log.refresh()
        assert answered(alone) + answered(together) == stored_in(log)
        if kind == "CreateTime":
            assert answered(together) == [(1, 2_000), (2, 3_000)]
    finally:
        backend.close()


def test_no_post_waits_longer_than_messages_may_however_many_are_before_it(cluster: Cluster, tmp_path: Path) -> None:
    told: dict[str, tuple[float, str]] = {}
    with serving_on(cluster, tmp_path, message_timeout_ms=str(int(MESSAGE_TIMEOUT_S * 1000))) as server:
        server.post("waits", "before")

        def post(value: str) -> None:
            body = json.dumps({"records": [{"value": value}]}).encode()
            began = time.monotonic()
            answer = server.ask("POST", "/topics/waits/records", body, JSON)
            told[value] = time.monotonic() - began, answer.json()["details"]["outcome"]

        leader = cluster.leader("waits")
        posting = [threading.Thread(target=post, args=(f"post {n}",)) for n in range(15)]
        with cluster.frozen(*(node for node in cluster.up if node != leader)):
            for thread in posting:
                thread.start()
                time.sleep(0.1)
            for thread in posting:
                thread.join()
        wait_until_in_sync(cluster, "waits")
        stored = {record["value"] for record in server.read_all("waits")}
    print(told)
    assert max(waited_s for waited_s, _ in told.values()) < MESSAGE_TIMEOUT_S + SLACK_S + 0.5
    assert {outcome for _, outcome in told.values()} == {"unknown", "not_applied"}
    assert not stored & {value for value, (_, outcome) in told.items() if outcome == "not_applied"}
