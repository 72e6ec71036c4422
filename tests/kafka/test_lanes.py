"""What a batch is answered with that its broker was sent twice."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka.admin import NewTopic

from flashq.batch import decode, encode
from flashq.storage.interface import Append, TopicLog
from flashq.storage.kafka.backend import KafkaBackend
from flashq.storage.kafka.lanes import _Lane
from flashq.storage.kafka.settling import Completions
from flashq.storage.kafka.topic_log import KafkaTopicLog
from tests.kafka.cluster import Cluster

pytestmark = pytest.mark.kafka
REQUEST_TIMEOUT_S = 0.5


def an_append(timestamp_ms: int) -> Append:
    return Append(encode([(None, b"x", [])], timestamp_ms), owner=Completions())


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
    created = cluster.admin.create_topics([NewTopic(topic, 1, 3, config={"message.timestamp.type": kind})])
    created[topic].result()
    backend = KafkaBackend(cluster.bootstrap, config={"request.timeout.ms": str(int(REQUEST_TIMEOUT_S * 1000))})
    try:
        log = backend.find_topic(topic)
        assert isinstance(log, KafkaTopicLog)
        lane = _Lane(backend.cluster.config.producer("all"), timeout_s=20.0)
        alone, together = [an_append(1_000)], [an_append(2_000), an_append(3_000)]
        lane.send(log, alone)
        leader = cluster.leader(topic)
        sending = threading.Thread(target=lane.send, args=(log, together))
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
