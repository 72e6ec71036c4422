"""Retries that do not duplicate, and posts that ask where the log ends: the same on every backend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flashq import FlashQ, IdempotencyKeyReused, InvalidParameter, PreconditionFailed, Record
from flashq.record import NO_HEADERS
from tests.contract.conftest import Clock


def values(flashq: FlashQ, topic: str = "t") -> list[str]:
    return [record.text for record in flashq.poll_records(topic)]


def test_a_post_repeated_with_its_key_gets_the_first_offsets_and_stores_nothing(flashq: FlashQ) -> None:
    flashq.post_record("t", "before")
    assert flashq.post_records("t", ["a", "b"], idempotency_key="k") == [1, 2]
    flashq.post_record("t", "after")
    assert flashq.post_records("t", ["a", "b"], idempotency_key="k") == [1, 2]
    assert values(flashq) == ["before", "a", "b", "after"]


def test_keys_of_one_topic_mean_nothing_in_another(flashq: FlashQ) -> None:
    flashq.post_record("t", "a", idempotency_key="k")
    assert flashq.post_record("other", "b", idempotency_key="k") == 0
    assert values(flashq, "other") == ["b"]


def test_a_topic_made_anew_knows_no_keys_of_the_deleted_one(flashq: FlashQ) -> None:
    flashq.post_record("t", "a", idempotency_key="k")
    flashq.delete_topic("t")
    assert flashq.post_record("t", "b", idempotency_key="k") == 0
    assert values(flashq) == ["b"]


@pytest.mark.parametrize(
    "other",
    [
        [Record("other value", key=b"k", headers={"h": b"1"})],
        [Record("v", key=b"other key", headers={"h": b"1"})],
        [Record("v", key=b"", headers={"h": b"1"})],
        [Record("v", key=b"k")],
        [Record("v", key=b"k", headers={"h": b"2"})],
        [Record("v", key=b"k", headers={"h": b"1"})] * 2,
    ],
    ids=["value", "key", "empty key", "no headers", "header", "count"],
)
def test_a_key_with_other_records_is_refused_and_says_where_it_was_used(flashq: FlashQ, other: list[Record]) -> None:
    flashq.post_record("t", "before")
    flashq.post_record("t", Record("v", key=b"k", headers={"h": b"1"}), idempotency_key="k")
    with pytest.raises(IdempotencyKeyReused) as caught:
        flashq.post_records("t", other, idempotency_key="k")
    assert caught.value.details == {"topic": "t", "offset": 1}
    assert caught.value.outcome == "not_applied"
    assert values(flashq) == ["before", "v"]


def test_a_repetition_keeps_the_first_timestamp(flashq: FlashQ, clock: Clock) -> None:
    flashq.post_record("t", "a", idempotency_key="k")
    first = flashq.poll_records("t")[0].timestamp_ms
    clock.ms += 1000
    assert flashq.append("t", [(None, b"a", NO_HEADERS)], idempotency_key="k").result().batch.timestamp_ms == first


def test_a_key_is_good_for_as_long_as_its_records_are_kept(flashq: FlashQ, clock: Clock, own_retention: None) -> None:
    flashq.create_topic("t", retention_ms=1000)
    flashq.post_record("t", "a", idempotency_key="k")
    clock.ms += 900
    flashq.apply_retention()
    assert flashq.post_record("t", "a", idempotency_key="k") == 0
    for _ in range(40):
        flashq.post_record("t", "x" * 100)
    clock.ms += 2000
    flashq.apply_retention()
    assert flashq.log("t").log_start_offset > 0
    again = flashq.post_record("t", "another body", idempotency_key="k")
    assert again == 41
    assert flashq.post_record("t", "another body", idempotency_key="k") == 41


def test_many_threads_that_post_one_key_store_it_once(flashq: FlashQ) -> None:
    with ThreadPoolExecutor(8) as pool:
        posts = [pool.submit(flashq.post_records, "t", ["a", "b"], idempotency_key=f"k{n % 5}") for n in range(200)]
    offsets = {tuple(post.result()) for post in posts}
    assert len(offsets) == 5
    assert values(flashq) == ["a", "b"] * 5


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "tab\t", "é", "\x00"])
def test_a_bad_key_is_refused(flashq: FlashQ, key: str) -> None:
    with pytest.raises(InvalidParameter, match="idempotency_key must be 1 to 255 visible ASCII characters"):
        flashq.post_record("t", "a", idempotency_key=key)
    assert flashq.topics() == []


def test_a_post_can_ask_where_the_log_ends(flashq: FlashQ, conditions: None) -> None:
    assert flashq.post_records("t", ["a", "b"], if_next_offset=0) == [0, 1]
    with pytest.raises(PreconditionFailed) as caught:
        flashq.post_record("t", "c", if_next_offset=1)
    assert caught.value.details == {"topic": "t", "next_offset": 2}
    assert caught.value.outcome == "not_applied"
    assert flashq.post_record("t", "c", if_next_offset=2) == 2
    assert values(flashq) == ["a", "b", "c"]


def test_a_topic_that_is_not_there_ends_at_0_and_is_not_made_by_a_refused_post(
    flashq: FlashQ, conditions: None
) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        flashq.post_record("t", "a", if_next_offset=7)
    assert caught.value.details["next_offset"] == 0
    assert flashq.topics() == []


def test_of_many_who_post_at_one_offset_one_wins(flashq: FlashQ, conditions: None) -> None:
    def post(number: int) -> bool:
        try:
            flashq.post_record("t", str(number), if_next_offset=1)
        except PreconditionFailed:
            return False
        return True

    flashq.post_record("t", "first")
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(post, range(50))) == 1
    assert flashq.high_water_mark("t") == 2


def test_a_repetition_of_a_conditional_post_gets_its_answer_though_the_log_has_moved(
    flashq: FlashQ, conditions: None
) -> None:
    assert flashq.post_record("t", "a", if_next_offset=0, idempotency_key="k") == 0
    assert flashq.post_record("t", "a", if_next_offset=0, idempotency_key="k") == 0
    assert values(flashq) == ["a"]


def test_a_refused_post_leaves_its_key_free(flashq: FlashQ, conditions: None) -> None:
    flashq.post_record("t", "a")
    with pytest.raises(PreconditionFailed):
        flashq.post_record("t", "b", if_next_offset=0, idempotency_key="k")
    assert flashq.post_record("t", "c", if_next_offset=1, idempotency_key="k") == 1


@pytest.mark.parametrize("offset", [-1, 1 << 63, True, "0"])
def test_a_bad_offset_to_end_at_is_refused(flashq: FlashQ, offset: int) -> None:
    with pytest.raises(InvalidParameter, match="if_next_offset"):
        flashq.post_record("t", "a", if_next_offset=offset)


def test_a_durable_post_is_on_disk_when_it_returns_or_refused_in_memory(flashq: FlashQ) -> None:
    if flashq.backend.kind == "memory":
        with pytest.raises(InvalidParameter, match="durable cannot be had"):
            flashq.post_record("t", "a", durable=True)
        return
    flashq.post_record("t", "a", durable=True)
    assert flashq.log("t").durable_offset == 1
    flashq.post_record("t", "b", idempotency_key="k")
    flashq.post_record("t", "b", idempotency_key="k", durable=True)  # the repetition may ask for more
    assert flashq.log("t").durable_offset == 2


def test_keys_survive_a_restart_in_active_and_sealed_segments(flashq: FlashQ, tmp_path: Path) -> None:
    if flashq.backend.kind != "file":
        pytest.skip("a restart loses all there is in memory; Kafka has no directory to open again")
    keyed = {f"key-{n}": flashq.post_records("t", [f"{n}" * 60] * 3, idempotency_key=f"key-{n}") for n in range(30)}
    assert len(list((tmp_path / "data/topics/t/0").glob("*.log"))) > 3
    flashq.close()
    with FlashQ.open(tmp_path / "data", segment_bytes=1024) as again:
        for n in (29, 0, 15, *range(30)):
            assert again.post_records("t", [f"{n}" * 60] * 3, idempotency_key=f"key-{n}") == keyed[f"key-{n}"]
        with pytest.raises(IdempotencyKeyReused):
            again.post_record("t", "other", idempotency_key="key-3")
        assert again.high_water_mark("t") == 90
