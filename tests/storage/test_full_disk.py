"""No room on the disk: refused whole, and over once there is room. The promises are those of docs/durability.md."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from flashq.errors import StorageFailed, StorageFull
from flashq.storage.file import consumer_group
from flashq.storage.interface import SYNC_MODES, SyncMode, TopicConfig
from flashq.testing.faulty_disk import Fault
from tests.storage.crashing_disk import Nth
from tests.storage.rig import BROKEN, FULL, NO_SPACE, Rig

ANY_WRITE = ("write", "create", "truncate", "mkdir", "rename")


@pytest.mark.parametrize("full", FULL, ids=errno.errorcode.get)
@pytest.mark.parametrize("mode", SYNC_MODES)
@pytest.mark.parametrize("written", [0, 1, 30, 90, 10_000])
def test_a_full_disk_refuses_the_post_whole_and_goes_on_when_there_is_room(
    rig: Callable[..., Rig], mode: SyncMode, written: int, full: int
) -> None:
    it = rig(mode)
    it.flashq.post_record("t", "first")
    size = it.log().size_bytes
    it.disk.decide = Nth(1, Fault(full, written), "write", onwards=True)
    for _ in range(3):
        with pytest.raises(StorageFull) as refused:
            it.flashq.post_records("t", ["refused", "refused too"])
        assert (refused.value.outcome, refused.value.retriable) == ("not_applied", True)
    assert it.log().size_bytes == size
    assert (it.log().next_offset, it.log().high_water_mark) == (1, 1)
    assert it.flashq.health().status == "healthy"
    it.disk.decide = None
    assert it.flashq.post_record("t", "second") == 1
    assert it.values() == [b"first", b"second"]
    it.reopen()
    assert it.values() == [b"first", b"second"]


@pytest.mark.parametrize("full", FULL, ids=errno.errorcode.get)
@pytest.mark.parametrize("mode", SYNC_MODES)
def test_no_room_at_any_call_leaves_dense_offsets_and_all_that_was_acknowledged(
    tmp_path: Path, mode: SyncMode, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_group, "_COMPACT_BYTES", 500)
    for nth in range(1, 200):
        it = Rig(tmp_path / str(nth), mode, segment_bytes=1024)
        it.disk.decide = fault = Nth(nth, Fault(full, 40), *ANY_WRITE)
        told: list[bytes] = []
        committed = 0
        group = topic = False
        for number in range(14):
            value = b"%d " % number * 60
            try:
                assert it.flashq.post_record("t", value) == len(told)
                told.append(value)
                topic = True
            except StorageFull:
                pass
            try:
                group = group or it.flashq.create_consumer_group("g")
                if topic:
                    it.flashq.commit_offset("g", "t", len(told))
                    committed = len(told)
            except StorageFull:
                pass
            if number == 8 and topic:
                it.flashq.log("t").retain(0)
        assert it.flashq.health().status == "healthy", it.flashq.health()
        it.disk.decide = None
        for _ in range(2):
            assert it.values() == told
            assert it.flashq.consumer_group_offset("g", "t") == committed
            assert it.flashq.health().status == "healthy"
            it.reopen()
        it.flashq.close()
        if not fault.tripped:
            assert nth > 20
            return
    raise AssertionError


def test_when_even_the_cut_fails_the_log_stops_and_a_restart_cuts(rig: Callable[..., Rig]) -> None:
    it = rig()
    it.flashq.post_record("t", "first")
    it.disk.decide = lambda operation, _: (
        Fault(errno.ENOSPC, 30) if operation == "write" else BROKEN if operation == "truncate" else None
    )
    with pytest.raises(StorageFailed) as unknown:
        it.flashq.post_record("t", "second")
    assert unknown.value.outcome == "unknown"
    it.disk.decide = None
    with pytest.raises(StorageFailed) as refused:
        it.flashq.post_record("t", "third")
    assert refused.value.outcome == "not_applied"
    assert it.flashq.health().status == "failed"
    it.reopen()
    assert it.values() == [b"first"]
    assert it.backend.recovered.torn_tails == 1
    assert it.flashq.post_record("t", "second") == 1


@pytest.mark.parametrize("full", FULL, ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", ["create", "truncate", "sync", "sync_directory"])
def test_a_roll_without_room_refuses_and_then_recovers(rig: Callable[..., Rig], operation: str, full: int) -> None:
    it = rig(segment_bytes=1024)
    told = [b"x" * 1100]
    it.flashq.post_record("t", told[0])
    it.disk.decide = lambda called, path: (
        Fault(full) if called == operation and f"{1:020}" in path + f"{1:020}" * (called == "sync_directory") else None
    )
    for _ in range(3):
        with pytest.raises(StorageFull) as refused:
            it.flashq.post_record("t", "refused")
        assert refused.value.outcome == "not_applied"
    it.disk.decide = None
    for _ in range(2):
        assert it.flashq.post_record("t", "y") == len(told)
        told.append(b"y")
        assert it.values() == told
        it.reopen()


@pytest.mark.parametrize("full", FULL, ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", ["create", "truncate", "sync", "sync_directory"])
def test_sealing_an_expired_segment_without_room_loses_nothing_posted_afterwards(
    rig: Callable[..., Rig], operation: str, full: int
) -> None:
    it = rig("periodic")
    it.flashq.post_record("t", "old")
    it.flashq.log("t").configure(TopicConfig(retention_ms=1000))
    it.disk.decide = lambda called, path: (
        Fault(full) if called == operation and (f"{1:020}" in path or called == "sync_directory") else None
    )
    it.flashq.log("t").retain(1 << 50)
    it.disk.decide = None
    assert it.flashq.post_record("t", "new") == 1
    it.reopen()
    assert it.values() == [b"old", b"new"]


def test_an_index_that_cannot_be_written_is_nobodys_error(rig: Callable[..., Rig]) -> None:
    it = rig(segment_bytes=1024)
    it.flashq.create_topic("t")
    it.disk.decide = lambda _, path: NO_SPACE if path.endswith(".index") else None
    told = [b"%d" % number * 600 for number in range(6)]
    for value in told:
        it.flashq.post_record("t", value)
    assert it.values() == told
    it.reopen()
    assert it.values() == told


def test_what_could_not_be_made_for_want_of_room_is_not_there_after_a_restart(rig: Callable[..., Rig]) -> None:
    for operation in ("create", "write", "sync", "rename", "sync_directory"):
        it = rig()
        for create in (it.flashq.create_topic, it.flashq.create_consumer_group):
            it.disk.decide = Nth(1, NO_SPACE, operation)
            with pytest.raises(StorageFull):
                create("new")
        it.disk.decide = None
        it.reopen()
        assert it.flashq.topics() == it.flashq.consumer_groups() == [], operation
        it.flashq.close()


def test_a_stop_on_a_full_disk_is_a_stop(rig: Callable[..., Rig]) -> None:
    it = rig("periodic")
    it.flashq.post_record("t", "first")
    it.disk.decide = Nth(1, NO_SPACE, *ANY_WRITE, onwards=True)
    it.flashq.close()
    it.reopen()
    assert it.values() == [b"first"]
    assert it.log().epoch == 1
