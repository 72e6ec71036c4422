"""Parts of storage on Kafka that need no cluster."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from flashq import ConfigurationError, FlashQ
from flashq.batch import Batch, encode, encode_stored, hash_of_key
from flashq.broker.decoding import offset_after
from flashq.errors import Closed, FlashQError, NotConfirmed, StorageUnavailable
from flashq.storage.interface import Append, TopicConfig
from flashq.storage.kafka import lanes
from flashq.storage.kafka.cache import Cache
from flashq.storage.kafka.cluster import Found
from flashq.storage.kafka.config import KafkaConfig, read_config_file
from flashq.storage.kafka.errors import refused
from flashq.storage.kafka.group_deletion import GroupDeletion
from flashq.storage.kafka.lanes import MAX_LANES, Lanes
from flashq.storage.kafka.reader import Readers
from flashq.storage.kafka.runs import POST_HEADER, Runs, rows_of
from flashq.storage.kafka.settling import Completions
from flashq.storage.kafka.topic_log import KafkaTopicLog
from flashq.storage.keys import PostKeys
from flashq.storage.memory import InMemoryTopicLog
from tests.http.serving import eventually


class Message:
    """What a consumer gives, as far as runs and reads look at it."""

    def __init__(
        self, offset: int, value: bytes, headers: list[tuple[str, bytes]] | None = None, error: KafkaError | None = None
    ) -> None:
        self._offset, self._value, self._headers, self._error = offset, value, headers, error

    def error(self) -> KafkaError | None:
        return self._error

    def offset(self) -> int:
        return self._offset

    def key(self) -> None:
        return None

    def value(self) -> bytes:
        return self._value

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 1, 1000 + self._offset


def batch(base_offset: int, count: int) -> Batch:
    return encode_stored(base_offset, [(1, None, b"x", [])] * count)


# -- settings


def test_a_config_file_is_lines_of_name_and_value(tmp_path: Path) -> None:
    path = tmp_path / "kafka.properties"
    path.write_text("# TLS\nsecurity.protocol = SSL\n\nssl.ca.location=/etc/ca=1.pem\n")
    assert read_config_file(str(path)) == {"security.protocol": "SSL", "ssl.ca.location": "/etc/ca=1.pem"}
    path.write_text("security.protocol=SSL\nnonsense\n")
    with pytest.raises(ConfigurationError, match="line 2: 'nonsense' is not name=value"):
        read_config_file(str(path))


@pytest.mark.parametrize("name", ["acks", "linger.ms", "enable.idempotence", "isolation.level", "group.id"])
def test_a_setting_that_promises_rest_on_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}: not to be set"):
        KafkaConfig("host:9092", {name: "0"})


def test_a_setting_librdkafka_does_not_know_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no\.such\.setting"):
        FlashQ.open("kafka://127.0.0.1:1", kafka_config={"no.such.setting": "1"})


# -- errors


@pytest.mark.parametrize(
    ("code", "is_post", "expected", "outcome"),
    [
        (KafkaError._MSG_TIMED_OUT, True, "not_confirmed", "unknown"),
        (KafkaError.REQUEST_TIMED_OUT, True, "not_confirmed", "unknown"),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, True, "not_confirmed", "unknown"),
        (KafkaError.NOT_ENOUGH_REPLICAS, True, "storage_unavailable", "not_applied"),
        (KafkaError._PURGE_QUEUE, True, "storage_unavailable", "not_applied"),
        (KafkaError._TRANSPORT, False, "storage_unavailable", "not_applied"),
        (KafkaError.MSG_SIZE_TOO_LARGE, True, "validation_error", "not_applied"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, True, "topic_not_found", "not_applied"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, True, "storage_refused", "not_applied"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, False, "storage_refused", "not_applied"),
        (KafkaError.UNKNOWN_MEMBER_ID, False, "group_in_use", "not_applied"),
        (KafkaError.INVALID_CONFIG, False, "invalid_parameter", "not_applied"),
    ],
)
def test_what_kafka_refuses_has_a_code_and_an_outcome(code: int, is_post: bool, expected: str, outcome: str) -> None:
    error = refused(KafkaError(code), "it", topic="t", is_post=is_post)
    assert (error.code, error.outcome) == (expected, outcome)


@pytest.mark.parametrize("code", [KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError._TRANSPORT])
def test_a_change_without_an_answer_may_be_done(code: int) -> None:
    error = refused(KafkaError(code), "it", topic="t", is_change=True)
    assert (error.code, error.outcome) == ("storage_unavailable", "unknown")
    assert refused(KafkaError(KafkaError.NOT_COORDINATOR), "it", is_change=True).outcome == "not_applied"


# -- reads


class Scripted:
    """A consumer that gives what it was told to give."""

    def __init__(self, *polled: list[Message]) -> None:
        self._polled = list(polled)

    def list_topics(self, topic: str, timeout: float) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def assign(self, partitions: list[TopicPartition]) -> None:
        pass

    unassign = close = lambda self: None

    def poll(self, timeout: float) -> Message:
        return self._polled[0].pop(0)

    def consume(self, count: int, timeout: float) -> list[Message]:
        given = self._polled.pop(0)
        assert len(given) <= count
        return given


def end_at(offset: int) -> Message:
    return Message(offset, b"", error=KafkaError(KafkaError._PARTITION_EOF))


def test_records_behind_an_end_that_has_moved_on_are_not_left_out() -> None:
    consumer = Scripted([Message(0, b"a"), end_at(1), Message(1, b"b")], [end_at(2)], [Message(2, b"c"), end_at(3)])
    (found,) = Readers(lambda: consumer).read("t", "id", 0, 3, None, None)
    assert (found.base_offset, found.count) == (0, 3)


def test_a_read_ends_where_records_were_promised_and_the_topic_ends() -> None:
    consumer = Scripted([Message(0, b"a"), end_at(2)])
    (found,) = Readers(lambda: consumer).read("t", "id", 0, 2, None, None)
    assert (found.base_offset, found.count) == (0, 1)


# -- runs


def test_a_hole_ends_a_run() -> None:
    runs = Runs()
    runs.add([Message(offset, b"v") for offset in (3, 4, 7, 8, 9)])
    assert [(each.base_offset, each.count) for each in runs.take()] == [(3, 2), (7, 3)]


def test_a_post_with_a_key_is_a_batch_of_its_own_again_without_the_header() -> None:
    key_hash = hash_of_key(b"k")
    posted = encode([(None, b"a", [("h", b"1")]), (None, b"b", [])], 5, key_hash)
    sent = rows_of(posted)
    assert [name for name, _ in sent[0][3]] == ["h", POST_HEADER]
    runs = Runs()
    messages = [Message(11 + at, value, headers) for at, (_, _, value, headers) in enumerate(sent)]
    runs.add([Message(10, b"before"), *messages, Message(13, b"after")])
    found = runs.take()
    assert [(each.base_offset, each.count, each.key_hash) for each in found] == [
        (10, 1, None),
        (11, 2, key_hash),
        (13, 1, None),
    ]
    assert rows_of(found[1]) == [(1011, None, b"a", [("h", b"1"), sent[0][3][1]]), (1012, None, b"b", [])]


def test_a_post_with_a_key_that_is_cut_does_not_stand_for_the_key() -> None:
    sent = rows_of(encode([(None, b"a", []), (None, b"b", [])], 5, hash_of_key(b"k")))
    runs = Runs()
    runs.add([Message(0, b"a", sent[0][3])])
    assert not runs.is_whole
    assert runs.take()[0].key_hash is None


def test_the_offset_after_some_records_steps_over_holes() -> None:
    batches = [batch(0, 2), batch(5, 3)]
    assert [offset_after(batches, 0, count) for count in (1, 2, 3, 5)] == [1, 2, 6, 8]


# -- the cache


def test_the_cache_gives_batches_without_hole_or_overlap() -> None:
    cache = Cache()
    cache.put("t", [batch(0, 10), batch(5, 10), batch(10, 5), batch(20, 5)])
    assert [each.base_offset for each in cache.find("t", 0, 100, None, None)] == [0, 10]
    assert [each.base_offset for each in cache.find("t", 7, 100, None, None)] == [5]
    assert cache.find("t", 16, 100, None, None) == []
    assert cache.find("u", 0, 100, None, None) == []
    assert [each.base_offset for each in cache.find("t", 0, 100, 3, None)] == [0]


def test_the_cache_keeps_within_its_bytes_and_drops_what_came_first() -> None:
    size = len(batch(0, 10).frame)
    cache = Cache(3 * size)
    for at in range(5):
        cache.put("t", [batch(at * 10, 10)])
    assert cache.find("t", 10, 100, None, None) == []
    assert [each.base_offset for each in cache.find("t", 20, 100, None, None)] == [20, 30, 40]


# -- lanes


class Log:
    """What lanes look at in a topic."""

    max_batch_bytes = 1 << 20

    def __init__(self, name: str) -> None:
        self.name = name

    def settled(self, appends: Sequence[Append]) -> None:
        pass


class DeadLane:
    """A producer of a cluster that never answers, and says so when the time of messages is over."""

    def __init__(self, settings: dict[str, object], timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def send(self, log: Log, waiting: Sequence[tuple[Append, float]], answer: Callable[..., None]) -> None:
        time.sleep(self._timeout_s)
        for append, _ in waiting:
            append.error = NotConfirmed("no answer")
        answer(log, [append for append, _ in waiting])


@pytest.fixture
def dead_lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Lanes, Completions]]:
    monkeypatch.setattr(lanes, "_Lane", DeadLane)
    completions = Completions()
    dead = Lanes({}, 0.4, completions.complete)
    yield dead, completions
    dead.close()


def an_append(completions: Completions) -> Append:
    return Append(encode([(None, b"x", [])], 1000), owner=completions)


def test_posts_to_more_topics_than_lanes_are_answered_in_time(dead_lanes: tuple[Lanes, Completions]) -> None:
    dead, completions = dead_lanes
    appends = [an_append(completions) for _ in range(5 * MAX_LANES)]
    began = time.monotonic()
    for number, append in enumerate(appends):
        dead.submit(Log(f"t{number}"), append)  # type: ignore[arg-type]
    for append in appends:
        completions.settle(append)
    assert time.monotonic() - began < 1.0
    outcomes = Counter(append.error.outcome for append in appends if append.error is not None)
    assert outcomes["unknown"] >= MAX_LANES
    assert outcomes["not_applied"] >= MAX_LANES
    assert sum(outcomes.values()) == len(appends)


def test_a_post_that_follows_the_refusal_of_another_is_answered_too(dead_lanes: tuple[Lanes, Completions]) -> None:
    dead, completions = dead_lanes
    log, again = Log("t"), an_append(completions)
    first, late = an_append(completions), an_append(completions)
    late.add_done_callback(lambda _: dead.submit(log, again))  # type: ignore[arg-type]
    dead.submit(log, first)  # type: ignore[arg-type]
    time.sleep(0.1)  # it is under way
    dead.submit(log, late)  # type: ignore[arg-type]
    for append in (first, late, again):
        completions.settle(append)
        assert append.error is not None


class GatedLane:
    """A producer whose cluster takes every post, once it may; it answers one post at a time, as the real one may."""

    gate: threading.Event

    def __init__(self, settings: dict[str, object], timeout_s: float) -> None:
        pass

    def send(self, log: Log, waiting: Sequence[tuple[Append, float]], answer: Callable[..., None]) -> None:
        self.gate.wait()
        for append, _ in waiting:
            answer(log, [append])


def test_posts_are_answered_also_once_the_loop_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    GatedLane.gate = threading.Event()
    monkeypatch.setattr(lanes, "_Lane", GatedLane)
    completions, loop, log = Completions(), asyncio.new_event_loop(), Log("t")
    completions.drive_from_loop(loop)
    loop.close()
    gated = Lanes({}, 60.0, completions.complete)
    appends = [an_append(completions) for _ in range(4)]
    for append in appends:  # those behind the first share a batch
        append.add_done_callback(lambda _: None)
        gated.submit(log, append)  # type: ignore[arg-type]
    GatedLane.gate.set()
    assert eventually(lambda: all(append.done for append in appends))
    assert [append.error for append in appends] == [None] * len(appends)
    last = an_append(completions)
    gated.submit(log, last)  # type: ignore[arg-type]
    gated.close()
    assert last.done


# -- keys


class QuickLog(InMemoryTopicLog):
    """A log whose posts are settled by another thread before `append` returns, and not yet said to be done."""

    def __init__(self, error: FlashQError | None) -> None:
        super().__init__("t", TopicConfig())
        self._error = error
        self.keys = PostKeys(self, load=dict, follow=self._follow, repeat=lambda batch, _: Append(batch, done=True))

    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        append = super().append(batch)
        append.done, append.error = False, self._error
        self.keys.settled([append])
        return append

    def _follow(self, first: Append, durable: bool) -> Append:
        raise AssertionError("the first one is not under way any more")


def keyed() -> Batch:
    return encode([(None, b"v", [])], 1, hash_of_key(b"k"))


def test_a_key_is_free_again_also_where_its_post_was_refused_before_it_was_noted() -> None:
    log = QuickLog(StorageUnavailable("no broker"))
    for at in range(2):
        assert log.keys.append_once(keyed(), durable=False, if_next_offset=None).batch.base_offset == at


def test_a_key_is_free_after_retention_also_where_its_post_was_stored_before_it_was_noted() -> None:
    log = QuickLog(None)
    assert [log.keys.append_once(keyed(), durable=False, if_next_offset=None).batch.base_offset for _ in "12"] == [0, 0]
    log.keys.drop_below(1)
    assert log.keys.append_once(keyed(), durable=False, if_next_offset=None).batch.base_offset == 1


def test_of_repetitions_at_once_after_a_post_was_given_up_one_frees_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[bytes] = []

    class TwoAtOnce(dict[bytes, float]):
        """Lets another repetition go first, between the look of one and what it does."""

        def get(self, key: bytes, default: float | None = None) -> float | None:  # type: ignore[override]
            ended = super().get(key, default)
            if ended is not None and not released:
                released.append(b"by now")
                log._forget_unconfirmed(key)
            return ended

    found = Found("t", "id", TopicConfig(), 1 << 20, only_deletes=True, has_append_time=False, asked_at=0.0)
    parts: Any = SimpleNamespace(lanes=SimpleNamespace(timeout_s=1.0))
    log = KafkaTopicLog(found, (0, 0), parts, "replicated")
    monkeypatch.setattr(log._keys, "release", released.append)
    log._unconfirmed = TwoAtOnce({b"key": time.monotonic() - 1e6})
    log._forget_unconfirmed(b"key")
    assert released == [b"by now", b"key"]


# -- deleting groups


def test_a_deletion_that_others_keep_waiting_says_that_nothing_was_done() -> None:
    deletion = GroupDeletion({})
    with deletion._asking, pytest.raises(StorageUnavailable, match="Nothing was done") as waited:
        deletion.delete("g", 0.05)
    assert waited.value.outcome == "not_applied"
    deletion.close()
    with pytest.raises(Closed):
        deletion.delete("g", 0.05)


def test_a_helper_that_cannot_be_asked_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    deletion = GroupDeletion({})
    for _ in range(2):
        with pytest.raises(KafkaException) as lost:
            deletion.delete("g", 1.0)
        assert lost.value.args[0].code() == KafkaError._TRANSPORT
    deletion.close()
