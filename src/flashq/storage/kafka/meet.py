"""Getting to know a topic that may be new."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaException, Producer

_TIMEOUT_S = 1.0
_AGAIN_S = 0.01


def meet(client: Producer | Consumer, topic: str, topic_id: str, met: set[str]) -> None:
    """Let a client find a topic's leader: of one it does not know yet, librdkafka asks (again) after a second only.

    Once for each id in `met`, however that ends: other topics' work must not wait for a leader that is not there.
    """
    if topic_id in met:
        return
    met.add(topic_id)
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            partitions = client.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions
        except KafkaException:  # whatever is asked of it next will tell
            return
        if partitions and partitions[0].leader >= 0:
            return
        time.sleep(_AGAIN_S)
