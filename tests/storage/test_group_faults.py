"""A disk that breaks under a group's log at any call: commits that were acknowledged are there after a restart."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from flashq.errors import StorageFailed, StorageFull
from flashq.storage.file import consumer_group
from flashq.storage.interface import SYNC_MODES, SyncMode
from flashq.testing.faulty_disk import Fault
from tests.storage.crashing_disk import Nth
from tests.storage.rig import BROKEN, FULL, Rig

ANY_CALL = ("write", "sync", "create", "truncate", "rename", "sync_directory")
TOPICS = ("t", "u")


class Commits:
    """What a group was asked to commit in two topics, in turn, and was told about it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.acknowledged = dict.fromkeys(TOPICS, 0)
        self.unknown: dict[str, set[int]] = {topic: set() for topic in TOPICS}
        self.outcomes: list[str] = []
        for topic in TOPICS:
            rig.flashq.post_records(topic, ["x"] * 30)
        rig.flashq.create_consumer_group("g")

    def commit_all(self) -> None:
        for number in range(2, 32):
            topic, offset = TOPICS[number % 2], number // 2
            try:
                self.rig.flashq.commit_offset("g", topic, offset)
                assert self.outcomes == []
                self.acknowledged[topic] = offset
            except StorageFailed as error:
                self.outcomes.append(error.outcome)
                if error.outcome == "unknown":
                    self.unknown[topic].add(offset)
            assert self.rig.flashq.consumer_group_offset("g", topic) == self.acknowledged[topic]

    def check_reopened(self) -> None:
        flashq = self.rig.reopen()
        assert flashq.health().status == "healthy"
        for topic in TOPICS:
            found = flashq.consumer_group_offset("g", topic)
            assert found in {self.acknowledged[topic], *self.unknown[topic]}, (topic, self.acknowledged, self.unknown)
            flashq.commit_offset("g", topic, 20)
        assert [self.rig.reopen().consumer_group_offset("g", topic) for topic in TOPICS] == [20, 20]


@pytest.mark.parametrize("operations", [("write",), ("sync",), ANY_CALL], ids=["write", "sync", "any call"])
@pytest.mark.parametrize("mode", SYNC_MODES)
def test_a_commit_that_was_acknowledged_is_there_whichever_call_failed(
    tmp_path: Path, mode: SyncMode, operations: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that was refused is not: only who heard `unknown` may find either."""
    monkeypatch.setattr(consumer_group, "_COMPACT_BYTES", 500)
    for nth in range(1, 200):
        rig = Rig(tmp_path / str(nth), mode)
        commits = Commits(rig)
        rig.disk.decide = fault = Nth(nth, Fault(errno.EIO, 60), *operations, under="groups")
        commits.commit_all()
        assert set(commits.outcomes[1:]) <= {"not_applied"}
        if commits.outcomes:
            assert rig.flashq.health().status == "failed"
        assert rig.flashq.post_record("t", "the topic works") == 30
        commits.check_reopened()
        rig.flashq.close()
        if not fault.tripped:
            assert nth > 10
            return
    raise AssertionError


@pytest.mark.parametrize("fault", [*map(Fault, FULL), BROKEN])
def test_a_compaction_that_fails_keeps_the_last_commit(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(consumer_group, "_COMPACT_BYTES", 500)
    for operation in ("create", "write", "sync", "rename", "sync_directory"):
        it = rig()
        it.flashq.post_records("t", ["x"] * 50)
        group = f"g-{operation}-{fault.errno}"
        it.flashq.create_consumer_group(group)
        it.disk.decide = lambda called, path, operation=operation: (
            fault if called == operation and (".new" in path or path.endswith("groups")) else None
        )
        committed = refused = 0
        for offset in range(1, 40):
            try:
                it.flashq.commit_offset(group, "t", offset)
                committed = offset
            except (StorageFull, StorageFailed):
                refused += 1
        assert refused > 0
        assert it.flashq.consumer_group_offset(group, "t") == committed
        it.disk.decide = None
        if fault is not BROKEN:
            it.flashq.commit_offset(group, "t", 45)
            committed = 45
        it.reopen()
        assert it.flashq.consumer_group_offset(group, "t") == committed
        it.flashq.close()


def test_a_group_whose_deletion_was_not_durable_is_there_as_it_was_after_a_restart(rig: Callable[..., Rig]) -> None:
    it = rig()
    it.flashq.post_record("t", "x")
    it.flashq.create_consumer_group("g")
    it.flashq.commit_offset("g", "t", 1)
    it.disk.decide = Nth(1, BROKEN, "sync_directory")
    with pytest.raises(StorageFailed):
        it.flashq.delete_consumer_group("g")
    assert it.flashq.consumer_group_offset("g", "t") == 1
    assert it.reopen().consumer_group_offset("g", "t") == 1
