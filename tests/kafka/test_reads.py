"""How long a read takes."""

from __future__ import annotations

import statistics
import time

import pytest

from flashq.batch import encode
from flashq.storage.interface import TopicConfig
from flashq.storage.kafka.reader import MAX_CONSUMERS
from tests.kafka.clean import emptied
from tests.kafka.cluster import Cluster

pytestmark = pytest.mark.kafka


def test_the_first_read_of_a_topic_waits_for_no_timer_of_librdkafka(cluster: Cluster) -> None:
    """It takes a few milliseconds. A consumer that does not know who leads the topic looks again after a second."""
    backend = emptied(cluster)
    took: list[float] = []
    for number in range(2 * MAX_CONSUMERS):
        log, _ = backend.create_topic(f"first-read-{number}", TopicConfig())
        log.append(encode([(None, b"x", [])], 1)).result()
        began = time.monotonic()
        (batch,) = log.read(0)
        took.append(time.monotonic() - began)
        assert batch.count == 1
    backend.close()
    assert statistics.median(took) < 0.4
