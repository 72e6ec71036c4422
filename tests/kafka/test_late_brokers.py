"""What a broker tells that has not heard yet of what was just done here. Here, the cluster's answers are made late."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from confluent_kafka import KafkaError, KafkaException

from flashq import FlashQ, TopicNotFound
from flashq.storage.interface import TopicConfig
from flashq.storage.kafka.backend import KafkaBackend
from flashq.storage.kafka.cluster import PROPAGATION_S, Found
from tests.kafka.broker_kills import wait_until
from tests.kafka.cluster import Cluster

pytestmark = pytest.mark.kafka


@pytest.fixture
def flashq(cluster: Cluster) -> Iterator[FlashQ]:
    """Its topics must have names of their own: it may hear late that one of an earlier test is gone."""
    with FlashQ(KafkaBackend(cluster.bootstrap, look_interval_s=1000.0)) as flashq:
        yield flashq


class Answers:
    """Descriptions that the cluster gives, the next ones first; then what it really says."""

    def __init__(self, flashq: FlashQ, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(flashq.backend, KafkaBackend)
        self.next: list[dict[str, Found]] = []
        self._describe = flashq.backend.cluster.describe
        monkeypatch.setattr(flashq.backend.cluster, "describe", self.describe)

    def describe(self, names: Iterable[str]) -> dict[str, Found]:
        return self.next.pop(0) if self.next else self._describe(names)

    def of(self, name: str) -> Found:
        """What the cluster really says, once whoever is asked has heard of the topic."""
        while not (found := self._describe([name])):
            time.sleep(0.02)
        return found[name]


@pytest.fixture
def answers(flashq: FlashQ, monkeypatch: pytest.MonkeyPatch) -> Answers:
    return Answers(flashq, monkeypatch)


def test_a_new_topic_is_there_also_where_a_broker_has_not_heard_of_it(flashq: FlashQ, answers: Answers) -> None:
    flashq.post_record("new", "x")
    new = flashq.log("new")
    answers.next = [{}, {}]
    assert flashq.log_as_it_is("new") is new
    assert answers.next == []
    assert flashq.post_record("new", "y") == 1


def test_a_topic_made_anew_is_there_also_where_a_broker_tells_of_the_deleted_one(
    flashq: FlashQ, answers: Answers
) -> None:
    flashq.create_topic("anew")
    deleted = {"anew": answers.of("anew")}
    flashq.delete_topic("anew")
    flashq.create_topic("anew")
    anew = flashq.log("anew")
    answers.next = [deleted]
    assert flashq.log_as_it_is("anew") is anew
    assert answers.next == []


def test_a_change_is_seen_and_built_on_also_where_a_broker_has_not_heard_of_it(
    flashq: FlashQ, answers: Answers
) -> None:
    flashq.create_topic("changed", retention_ms=70_000_000)
    before = answers.of("changed")
    flashq.put_topic("changed", retention_ms=80_000_000)
    late = [{"changed": before}, {"changed": replace(before, asked_at=time.monotonic())}]
    answers.next = [*late]
    for _ in late:
        assert flashq.log_as_it_is("changed").config.retention_ms == 80_000_000
    answers.next = [*late]
    for segment_bytes in (1 << 20, 1 << 21):
        flashq.put_topic("changed", segment_bytes=segment_bytes)
    assert answers.next == []
    after = TopicConfig(retention_ms=80_000_000, segment_bytes=1 << 21)
    wait_until(lambda: answers.of("changed").config == after, "one of the changes is not there")
    # By then all have heard of it: another server has changed it back.
    answers.next = [{"changed": replace(before, asked_at=time.monotonic() + PROPAGATION_S)}]
    assert flashq.log_as_it_is("changed").config == before.config


def test_who_asks_about_a_topic_while_it_is_deleted_here_is_told_at_once(
    flashq: FlashQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    flashq.create_topic("deleted")
    log = flashq.log("deleted")
    asked: list[str] = []

    def offset(topic: str, *_: object) -> int:
        if not asked:
            flashq.delete_topic(topic)
        asked.append(topic)
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))

    assert isinstance(flashq.backend, KafkaBackend)
    monkeypatch.setattr(flashq.backend.cluster, "_offset", offset)
    with pytest.raises(TopicNotFound):
        log.refresh()
    assert asked == ["deleted"]
