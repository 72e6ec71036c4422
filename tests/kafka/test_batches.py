"""Kafka itself takes our batches as they are, and librdkafka reads them from there."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import NewTopic

from tests.kafka.broker_kills import wait_until
from tests.kafka.clean import emptied
from tests.kafka.cluster import Cluster
from tests.produced import TOPIC, assert_librdkafka_reads_ours

pytestmark = pytest.mark.kafka


def test_kafka_stores_our_batches_and_librdkafka_reads_them(cluster: Cluster) -> None:
    emptied(cluster).close()
    # Their times are of 2023, and retention would remove them.
    cluster.admin.create_topics([NewTopic(TOPIC, 1, 3, config={"retention.ms": "-1"})])[TOPIC].result()
    leaders: list[int] = []

    def is_led() -> bool:
        leaders.append(cluster.leader(TOPIC))
        return leaders[-1] > 0

    wait_until(is_led, "nobody leads the topic")
    leader = cluster.admin.list_topics(timeout=10).brokers[leaders[-1]]  # the next to be asked may not know it yet
    assert_librdkafka_reads_ours(leader.host, leader.port)
