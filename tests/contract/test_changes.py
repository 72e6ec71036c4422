"""Topics configured anew and groups moved, on every backend, by the methods a program embeds."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flashq import FlashQ, GroupNotFound, InvalidOffset, InvalidParameter, TopicNotFound
from flashq.broker.retention import RetentionThread
from flashq.storage.interface import TopicConfig
from tests.contract.conftest import Clock

# -- topics


def test_a_change_leaves_what_is_not_given(flashq: FlashQ, small_segment: int) -> None:
    flashq.create_topic("t", retention_ms=5)
    flashq.configure_topic("t", retention_bytes=7)
    flashq.configure_topic("t")
    assert flashq.log("t").config == TopicConfig(retention_ms=5, retention_bytes=7, segment_bytes=small_segment)
    flashq.configure_topic("t", retention_ms=None, segment_bytes=2 * small_segment)
    assert flashq.log("t").config == TopicConfig(retention_bytes=7, segment_bytes=2 * small_segment)


def test_a_bad_change_is_refused_and_nothing_is_changed(flashq: FlashQ) -> None:
    flashq.create_topic("t", retention_ms=5)
    for changes in ({"retention_ms": -1}, {"retention_bytes": 1.5}, {"segment_bytes": None}, {"segment_bytes": 5}):
        with pytest.raises(InvalidParameter):
            flashq.configure_topic("t", **changes)
        for topic in ("t", "new"):
            with pytest.raises(InvalidParameter):
                flashq.put_topic(topic, **changes)
    with pytest.raises(TopicNotFound):
        flashq.configure_topic("new", retention_ms=5)
    assert flashq.topics() == ["t"]
    assert flashq.log("t").config.retention_ms == 5


def test_put_creates_or_changes_and_says_which(flashq: FlashQ, small_segment: int) -> None:
    log, created = flashq.put_topic("t", retention_ms=5)
    assert (log is flashq.log("t"), created, log.config.retention_ms) == (True, True, 5)
    assert flashq.put_topic("t") == (log, False)
    assert flashq.put_topic("t", retention_ms=None) == (log, False)
    assert log.config == TopicConfig(segment_bytes=small_segment)


def test_changes_made_at_once_all_count(flashq: FlashQ, small_segment: int) -> None:
    created: list[bool] = []
    segment_bytes = 2 * small_segment
    changes: list[dict[str, Any]] = [{"retention_ms": 5}, {"retention_bytes": 7}, {"segment_bytes": segment_bytes}]
    threads = [
        threading.Thread(target=lambda each=each: created.append(flashq.put_topic("t", **each)[1]))
        for each in changes * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 11 + [True]
    assert flashq.log("t").config == TopicConfig(retention_ms=5, retention_bytes=7, segment_bytes=segment_bytes)


@pytest.mark.parametrize("how", ["configure", "put"])
def test_retention_given_later_runs_by_itself(
    flashq: FlashQ, clock: Clock, monkeypatch: pytest.MonkeyPatch, how: str, own_retention: None
) -> None:
    monkeypatch.setattr(RetentionThread.__init__, "__defaults__", (0.005,))
    flashq.post_record("t", "x")
    clock.ms += 1
    if how == "configure":
        flashq.configure_topic("t", retention_ms=0)
    else:
        flashq.put_topic("t", retention_ms=0)
    for _ in range(2000):
        if flashq.log("t").log_start_offset == 1:
            return
        threading.Event().wait(0.005)
    pytest.fail("nothing was removed in ten seconds")


# -- groups


@pytest.fixture
def group(flashq: FlashQ, clock: Clock) -> str:
    """A group at 3 of ten records, two in each second."""
    flashq.create_consumer_group("g")
    for number in range(5):
        flashq.post_records("t", [str(number)] * 2)
        clock.ms += 1000
    flashq.commit_offset("g", "t", 3, "a note")
    return "g"


START_MS = Clock().ms
RESETS = [
    ("earliest", None, 0), ("latest", None, 10), ("offset", 0, 0), ("offset", 10, 10), ("offset", 7, 7),
    ("time", 0, 0), ("time", START_MS, 0), ("time", START_MS + 1, 2), ("time", START_MS + 4000, 8),
    ("time", START_MS + 4001, 10), ("time", (1 << 63) - 1, 10),
]  # fmt: skip


@pytest.mark.parametrize(("to", "at", "after"), RESETS)
def test_a_reset_goes_where_it_says(flashq: FlashQ, group: str, to: Any, at: int | None, after: int) -> None:
    assert flashq.reset_offset(group, "t", to, at, dry_run=True) == (3, after)
    assert flashq.consumer_group_offset(group, "t") == 3
    assert flashq.reset_offset(group, "t", to, at) == (3, after)
    assert flashq.consumer_group_offset(group, "t") == after


def test_a_reset_stays_inside_the_log(flashq: FlashQ, group: str, clock: Clock, own_retention: None) -> None:
    flashq.configure_topic("t", retention_ms=0)
    flashq.apply_retention()
    flashq.post_record("t", "10")
    assert flashq.reset_offset(group, "t", "earliest") == (3, 10)
    assert flashq.reset_offset(group, "t", "time", 0) == (10, 10)
    for offset in (-1, 9, 12, 1 << 63):
        with pytest.raises(InvalidOffset) as refused:
            flashq.reset_offset(group, "t", "offset", offset)
        assert (refused.value.details["min_offset"], refused.value.details["max_offset"]) == (10, 11)
    assert flashq.consumer_group_offset(group, "t") == 10


@pytest.mark.parametrize(
    ("to", "at"),
    [("start", None), (None, None), ("earliest", 0), ("latest", 0), ("offset", None), ("time", None), ("offset", "1"),
     ("time", 1.5), ("offset", True)],
)  # fmt: skip
def test_a_reset_to_nowhere_is_refused(flashq: FlashQ, group: str, to: Any, at: Any) -> None:
    with pytest.raises(InvalidParameter):
        flashq.reset_offset(group, "t", to, at)
    assert flashq.consumer_group_offset(group, "t") == 3


def test_a_reset_needs_its_group_and_topic(flashq: FlashQ, group: str) -> None:
    with pytest.raises(GroupNotFound):
        flashq.reset_offset("nobody", "t", "latest")
    with pytest.raises(TopicNotFound):
        flashq.reset_offset(group, "nothing", "latest")


def test_a_commit_to_a_group_that_is_deleted_meanwhile_says_so(
    flashq: FlashQ, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On files the group's log is closed by then; in memory the commit goes with the group; in Kafka, groups of one
    name are one."""
    found, take = flashq.group(group), flashq.group(group).commit

    def delete_first(*arguments: Any) -> Any:
        flashq.delete_consumer_group(group)
        flashq.create_consumer_group(group)
        return take(*arguments)

    monkeypatch.setattr(found, "commit", delete_first)
    if flashq.backend.kind == "file":
        with pytest.raises(GroupNotFound):
            flashq.commit_offset(group, "t", 5)
    else:
        flashq.commit_offset(group, "t", 5)
    assert flashq.consumer_group_offset(group, "t") == (5 if flashq.backend.kind == "kafka" else 0)
