"""`KafkaConsumerGroup`: the offsets Kafka keeps for a group of that name. Any Kafka tool sees and may move them.

Kafka keeps an offset and a text with it. FlashQ's text says what Kafka does not keep: when the offset was committed,
and in which topic, since another of that name may come:

    flashq:{"time": Unix milliseconds, "topic": the topic's id, "note": the client's metadata, or null}

Any other text is a note of whoever committed; when, is then not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from flashq.batch import Batch
from flashq.storage.interface import Append, CommittedOffset, ConsumerGroup, TopicLog
from flashq.storage.kafka.cluster import Cluster

_PREFIX = "flashq:"


class _Text(msgspec.Struct):
    time: int
    topic: str
    note: str | None = None


_decode = msgspec.json.Decoder(_Text).decode
_encode = msgspec.json.Encoder().encode


class KafkaConsumerGroup(ConsumerGroup):
    """See `ConsumerGroup`. Every method blocks for the network."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name = name
        self._cluster = cluster

    def committed(self, log: TopicLog) -> CommittedOffset | None:
        return _of(log, self._cluster.committed(self.name, [log.name]))

    def stands(self, logs: Mapping[str, TopicLog]) -> Iterator[tuple[TopicLog, CommittedOffset]]:
        told = self._cluster.committed(self.name, [log.name for log in logs.values()])
        for log in logs.values():
            committed = _of(log, told)
            if committed is not None:
                yield log, committed

    def commit(self, log: TopicLog, committed: CommittedOffset) -> Append:
        time_ms = committed.timestamp_ms or 0
        text = _PREFIX + _encode(_Text(time_ms, log.topic_id, committed.metadata)).decode()
        self._cluster.commit(self.name, log.name, committed.offset, text)
        return Append(Batch(b"", 1, time_ms, 0), done=True)

    def forget(self, log: TopicLog) -> None:
        """Nothing: Kafka forgets the offsets of a deleted topic."""


def _of(log: TopicLog, told: dict[str, tuple[int, str | None]]) -> CommittedOffset | None:
    """Where a group stands in this topic, not in one of the same name before it."""
    found = told.get(log.name)
    if found is None:
        return None
    offset, text = found
    if text is None or not text.startswith(_PREFIX):
        return CommittedOffset(offset, None, text or None)
    try:
        ours = _decode(text[len(_PREFIX) :])
    except msgspec.DecodeError:
        return CommittedOffset(offset, None, text)
    return CommittedOffset(offset, ours.time, ours.note) if ours.topic == log.topic_id else None
