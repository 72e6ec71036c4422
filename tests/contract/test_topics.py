"""What topics promise on every backend: made, listed, deleted, named, and closed with all the rest."""

from __future__ import annotations

import threading

import pytest

from flashq import FlashQ
from flashq.batch import encode
from flashq.errors import Closed, InvalidOffset, InvalidParameter, TopicNotFound
from flashq.storage.interface import TopicConfig
from tests.contract.conftest import rows


def test_a_topic_is_created_once_and_stays_as_it_is(flashq: FlashQ, small_segment: int) -> None:
    assert flashq.create_topic("t", retention_ms=70_000_000, segment_bytes=4 * small_segment) is True
    flashq.post_record("t", "kept")
    assert flashq.create_topic("t", retention_ms=90_000_000) is False
    assert flashq.log("t").config == TopicConfig(retention_ms=70_000_000, segment_bytes=4 * small_segment)
    assert flashq.poll_records("t")[0].text == "kept"


def test_threads_that_create_a_topic_by_posting_at_once_share_one(flashq: FlashQ) -> None:
    for attempt in range(10):
        start = threading.Barrier(8)
        offsets: list[int] = []

        def post(topic: str, start: threading.Barrier = start, offsets: list[int] = offsets) -> None:
            start.wait()
            offsets.append(flashq.post_record(topic, "x"))

        threads = [threading.Thread(target=post, args=(f"t{attempt}",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(offsets) == list(range(8))


def test_a_deleted_topic_is_gone_and_begins_anew(flashq: FlashQ) -> None:
    flashq.post_records("t", ["a", "b", "c"])
    old = flashq.log("t")
    flashq.delete_topic("t")
    assert flashq.topics() == []
    for use in (
        lambda: flashq.poll_records("t"),
        lambda: flashq.high_water_mark("t"),
        lambda: flashq.delete_topic("t"),
    ):
        with pytest.raises(TopicNotFound):
            use()
    with pytest.raises(Closed):
        old.append(encode(rows("late"), 1)).result()
    assert flashq.post_record("t", "anew") == 0
    assert [record.text for record in flashq.poll_records("t")] == ["anew"]
    assert flashq.log("t").topic_id != old.topic_id
    assert old.retain(1 << 60) == 0
    assert [record.text for record in flashq.poll_records("t")] == ["anew"]


def test_topics_are_listed_by_name(flashq: FlashQ) -> None:
    for name in ("b", "a.1", "A", "_", "Z-z"):
        flashq.create_topic(name)
    assert flashq.topics() == ["A", "Z-z", "_", "a.1", "b"]


@pytest.mark.parametrize("name", ["a", "A", ".a", "..a", "a" * 255, "A" * 255, "con", "a..b", "0", "a-_.b", "x.log"])
def test_a_valid_name_names_a_topic_and_a_group(flashq: FlashQ, name: str) -> None:
    if flashq.backend.kind == "kafka" and len(name) > 249:
        pytest.skip("Kafka's topics have names of at most 249 characters")
    assert flashq.post_record(name, "x") == 0
    flashq.create_consumer_group(name)
    flashq.commit_offset(name, name, 1)
    assert flashq.topics() == flashq.consumer_groups() == [name]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-a", "a/b", "a b", "a\n", "a\x00", "ü", "\uff11", "a" * 256, "a%b", "~", None, 7, b"a"],
)
def test_a_bad_name_is_refused_by_every_method(flashq: FlashQ, name: str) -> None:
    flashq.create_consumer_group("g")
    flashq.create_topic("t")
    for use in (
        lambda: flashq.post_record(name, "x"),
        lambda: flashq.post_records(name, ["x"]),
        lambda: flashq.poll_records(name),
        lambda: flashq.create_topic(name),
        lambda: flashq.delete_topic(name),
        lambda: flashq.high_water_mark(name),
        lambda: flashq.create_consumer_group(name),
        lambda: flashq.delete_consumer_group(name),
        lambda: flashq.consumer_group_offset(name, "t"),
        lambda: flashq.consumer_group_offset("g", name),
        lambda: flashq.commit_offset(name, "t", 0),
        lambda: flashq.commit_offset("g", name, 0),
        lambda: flashq.poll_records_for_consumer_group("g", name),
    ):
        with pytest.raises(InvalidParameter):
            use()
    assert flashq.topics() == ["t"]
    assert flashq.consumer_groups() == ["g"]


@pytest.mark.parametrize("number", [-1, 1 << 63, 1.0, "1", True, None])
def test_a_bad_number_is_refused(flashq: FlashQ, number: int) -> None:
    flashq.post_record("t", "x")
    flashq.create_consumer_group("g")
    with pytest.raises(InvalidParameter):
        flashq.poll_records("t", from_offset=number)
    with pytest.raises(InvalidOffset if type(number) is int else InvalidParameter):
        flashq.commit_offset("g", "t", number)
    if number is not None:
        with pytest.raises(InvalidParameter):
            flashq.poll_records("t", count=number)
        with pytest.raises(InvalidParameter):
            flashq.poll_records("t", max_bytes=number)
    for name in ("retention_ms", "retention_bytes"):
        if number not in (None, 1 << 63):
            with pytest.raises(InvalidParameter):
                flashq.create_topic("u", **{name: number})
    assert flashq.topics() == ["t"]


@pytest.mark.parametrize("size", [0, 1023, 2 * 1024**3 + 1, -1])
def test_a_segment_size_out_of_range_is_refused(flashq: FlashQ, size: int) -> None:
    with pytest.raises(InvalidParameter):
        flashq.create_topic("t", segment_bytes=size)


def test_once_closed_every_use_says_so_and_closing_again_does_nothing(flashq: FlashQ) -> None:
    flashq.post_record("t", "x")
    flashq.create_consumer_group("g")
    log = flashq.log("t")
    flashq.close()
    flashq.close()
    for use in (
        lambda: flashq.post_record("t", "x"),
        lambda: flashq.post_record("new", "x"),
        lambda: flashq.poll_records("t"),
        lambda: flashq.topics(),
        lambda: flashq.create_topic("u"),
        lambda: flashq.delete_topic("t"),
        lambda: flashq.high_water_mark("t"),
        lambda: flashq.create_consumer_group("h"),
        lambda: flashq.delete_consumer_group("g"),
        lambda: flashq.consumer_groups(),
        lambda: flashq.consumer_group_offset("g", "t"),
        lambda: flashq.commit_offset("g", "t", 0),
        lambda: flashq.poll_records_for_consumer_group("g", "t"),
        lambda: log.append(encode(rows("x"), 1)).result(),
        lambda: log.read(0),
    ):
        with pytest.raises(Closed):
            use()


def test_everything_is_healthy(flashq: FlashQ) -> None:
    flashq.post_record("t", "x")
    assert (flashq.health().status, flashq.health().problems) == ("healthy", [])


def test_closing_while_threads_post_answers_every_one_of_them(flashq: FlashQ) -> None:
    flashq.create_topic("t")
    told: list[int] = []
    ended = threading.Semaphore(0)

    def post() -> None:
        try:
            while True:
                told.append(flashq.post_record("t", "x"))
        except Closed:
            pass
        finally:
            ended.release()

    threads = [threading.Thread(target=post, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(told) < 50:
        ended.acquire(timeout=0.001)
    flashq.close()
    for _ in threads:
        assert ended.acquire(timeout=10)
    assert sorted(told) == list(range(len(told)))
