"""What a consumer group promises on every backend."""

from __future__ import annotations

import threading

import pytest

from flashq import FlashQ
from flashq.errors import GroupNotFound, InvalidOffset, OffsetOutOfRange, TopicNotFound
from flashq.storage.interface import TopicConfig, by_id
from tests.contract.conftest import Clock


@pytest.fixture
def group(flashq: FlashQ) -> str:
    flashq.create_consumer_group("g")
    flashq.post_records("t", [str(number) for number in range(10)])
    return "g"


def test_a_group_reads_from_its_committed_offset_and_polling_does_not_move_it(flashq: FlashQ, group: str) -> None:
    assert flashq.consumer_group_offset(group, "t") == 0
    for _ in range(2):
        found = flashq.poll_records_for_consumer_group(group, "t", count=4)
        assert [record.text for record in found] == ["0", "1", "2", "3"]
    flashq.commit_offset(group, "t", found.next_offset)
    assert flashq.consumer_group_offset(group, "t") == 4
    assert flashq.poll_records_for_consumer_group(group, "t")[0].text == "4"


def test_a_commit_may_go_back_and_up_to_the_high_water_mark(flashq: FlashQ, group: str) -> None:
    for offset in (10, 3, 0, 10, 9):
        flashq.commit_offset(group, "t", offset)
        assert flashq.consumer_group_offset(group, "t") == offset
    with pytest.raises(InvalidOffset) as beyond:
        flashq.commit_offset(group, "t", 11)
    assert beyond.value.details["max_offset"] == 10
    assert flashq.consumer_group_offset(group, "t") == 9


def test_a_commit_keeps_its_note_and_its_time(flashq: FlashQ, group: str, clock: Clock) -> None:
    clock.ms += 5
    for note in ("", "Grüße 👋", None, "x" * 5000):
        flashq.commit_offset(group, "t", 3, note)
        committed = flashq.group(group).committed(flashq.log("t"))
        assert committed is not None
        assert (committed.offset, committed.timestamp_ms, committed.metadata) == (3, clock.ms, note)


def test_a_group_knows_in_which_topics_it_has_committed(flashq: FlashQ, group: str) -> None:
    for topic in ("a", "b", "c"):
        flashq.create_topic(topic)
    logs = by_id(flashq.logs())
    assert list(flashq.group(group).stands(logs)) == []
    for topic in ("b", "t", "a", "b"):
        flashq.commit_offset(group, topic, 0)
    assert {log.name for log, _ in flashq.group(group).stands(logs)} == {"a", "b", "t"}
    flashq.delete_topic("a")
    assert {log.name for log, _ in flashq.group(group).stands(by_id(flashq.logs()))} == {"b", "t"}


def test_groups_and_topics_do_not_mix(flashq: FlashQ, group: str) -> None:
    flashq.create_consumer_group("h")
    flashq.post_records("u", ["x"] * 5)
    flashq.commit_offset(group, "t", 7)
    flashq.commit_offset("h", "t", 2)
    flashq.commit_offset(group, "u", 5)
    assert flashq.consumer_group_offset(group, "t") == 7
    assert flashq.consumer_group_offset("h", "t") == 2
    assert flashq.consumer_group_offset(group, "u") == 5
    assert flashq.consumer_group_offset("h", "u") == 0


def test_many_commits_are_one_offset(flashq: FlashQ, group: str) -> None:
    flashq.post_records("u", ["x"] * 2000)
    for offset in range(1, 800):
        flashq.commit_offset(group, "u", offset, "n" * 200)
    flashq.commit_offset(group, "t", 1)
    assert flashq.consumer_group_offset(group, "u") == 799
    assert flashq.consumer_group_offset(group, "t") == 1


def test_a_topic_made_again_has_no_offsets_of_the_one_before(flashq: FlashQ, group: str) -> None:
    flashq.commit_offset(group, "t", 7)
    flashq.delete_topic("t")
    with pytest.raises(TopicNotFound):
        flashq.consumer_group_offset(group, "t")
    flashq.post_records("t", ["a"] * 10)
    assert flashq.consumer_group_offset(group, "t") == 0


def test_a_group_made_again_has_no_offsets_of_the_one_before(flashq: FlashQ, group: str) -> None:
    assert flashq.create_consumer_group(group) is False
    flashq.commit_offset(group, "t", 7)
    assert flashq.create_consumer_group(group) is False
    assert flashq.consumer_group_offset(group, "t") == 7
    flashq.delete_consumer_group(group)
    assert flashq.consumer_groups() == []
    for use in (
        lambda: flashq.consumer_group_offset(group, "t"),
        lambda: flashq.commit_offset(group, "t", 0),
        lambda: flashq.delete_consumer_group(group),
    ):
        with pytest.raises(GroupNotFound):
            use()
    assert flashq.create_consumer_group(group) is True
    assert flashq.consumer_group_offset(group, "t") == 0


def test_a_group_and_a_topic_have_to_be_there(flashq: FlashQ, group: str) -> None:
    with pytest.raises(GroupNotFound):
        flashq.commit_offset("nobody", "t", 0)
    with pytest.raises(TopicNotFound):
        flashq.commit_offset(group, "nothing", 0)
    with pytest.raises(TopicNotFound):
        flashq.poll_records_for_consumer_group(group, "nothing")
    assert flashq.topics() == ["t"]


def test_a_group_whose_records_were_removed_is_told_so(
    flashq: FlashQ, group: str, clock: Clock, own_retention: None
) -> None:
    flashq.commit_offset(group, "t", 0)
    flashq.log("t").configure(TopicConfig(retention_ms=0))
    clock.ms += 1
    flashq.apply_retention()
    with pytest.raises(OffsetOutOfRange):
        flashq.poll_records_for_consumer_group(group, "t")
    flashq.commit_offset(group, "t", 10)
    assert list(flashq.poll_records_for_consumer_group(group, "t")) == []


def test_a_group_that_has_never_committed_begins_at_the_log_start(
    flashq: FlashQ, group: str, clock: Clock, own_retention: None
) -> None:
    assert flashq.poll_records_for_consumer_group(group, "t")[0].offset == 0
    flashq.log("t").configure(TopicConfig(retention_ms=0))
    clock.ms += 1
    flashq.apply_retention()
    flashq.log("t").configure(TopicConfig())
    flashq.post_record("t", "new")
    assert [record.text for record in flashq.poll_records_for_consumer_group(group, "t")] == ["new"]
    assert flashq.consumer_group_offset(group, "t") == 0


def test_threads_commit_at_once_and_each_reads_its_own(flashq: FlashQ, group: str) -> None:
    wrong: list[object] = []

    def commit(number: int) -> None:
        topic = f"own{number}"
        flashq.post_records(topic, ["x"] * 60)
        for offset in range(1, 50):
            flashq.commit_offset(group, topic, offset)
            if flashq.consumer_group_offset(group, topic) != offset:
                wrong.append((topic, offset))

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [flashq.consumer_group_offset(group, f"own{number}") for number in range(6)] == [49] * 6
