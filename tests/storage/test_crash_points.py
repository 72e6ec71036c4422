"""A crash, or a power cut, before every call that changes the disk: what is left opens and keeps its promises."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.errors import FlashQError, TopicNotFound
from flashq.storage.file import consumer_group, segment
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import SyncMode, TopicConfig
from flashq.testing.faulty_disk import FaultyDisk
from flashq.testing.power_cut import PowerCutDisk
from tests.storage.crashing_disk import Crash, CrashingDisk, CrashingPowerCutDisk, abandon

DAY_MS = 86_400_000


@dataclasses.dataclass
class Told:
    """What callers asked for, and what they were told had been done."""

    clock_ms: int = 1_000_000
    posting: list[bytes] = dataclasses.field(default_factory=list)
    posted: dict[int, bytes] = dataclasses.field(default_factory=dict)
    committing: set[int] = dataclasses.field(default_factory=set)
    committed: int = 0
    begun: set[str] = dataclasses.field(default_factory=set)
    done: set[str] = dataclasses.field(default_factory=set)

    def do(self, what: str, call: Callable[[], object]) -> None:
        self.begun.add(what)
        call()
        self.done.add(what)

    def post(self, flashq: FlashQ, values: list[bytes]) -> None:
        self.posting = values
        for offset, value in zip(flashq.post_records("kept", values), values, strict=True):
            self.posted[offset] = value
        self.posting = []

    def commit(self, flashq: FlashQ, offset: int) -> None:
        self.committing.add(offset)
        flashq.commit_offset("kept", "kept", offset)
        self.committing = {offset}
        self.committed = offset


def open_flashq(directory: Path, disk: FaultyDisk, told: Told, mode: SyncMode) -> FlashQ:
    backend = FileBackend(str(directory), sync_mode=mode, commit_threshold=2, disk=disk)
    return FlashQ(backend, topic_defaults=TopicConfig(segment_bytes=1024), clock_ms=lambda: told.clock_ms)


def everything_once(flashq: FlashQ, told: Told) -> None:
    """Each thing that changes files: creating, posting, rolling, committing, compacting, retention, deleting."""
    told.do("create kept", lambda: flashq.create_topic("kept"))
    told.do("create group", lambda: flashq.create_consumer_group("kept"))
    for number in range(6):
        told.post(flashq, [b"%d-%d " % (number, at) * 40 for at in range(3)])
        told.commit(flashq, number)
    told.do("create gone", lambda: flashq.post_record("gone", "soon"))
    told.do("create gone group", lambda: flashq.create_consumer_group("gone"))
    flashq.commit_offset("kept", "gone", 1)
    told.do("delete gone", lambda: flashq.delete_topic("gone"))
    told.do("delete gone group", lambda: flashq.delete_consumer_group("gone"))
    told.clock_ms += DAY_MS
    told.post(flashq, [b"late"])
    config = dataclasses.replace(flashq.log("kept").config, retention_bytes=1500)
    told.do("configure", lambda: flashq.log("kept").configure(config))
    told.do("retention", flashq.apply_retention)
    flashq.log("kept").configure(dataclasses.replace(config, retention_bytes=None, retention_ms=DAY_MS // 2))
    told.clock_ms += DAY_MS
    told.do("retention of all", flashq.apply_retention)
    told.post(flashq, [b"last"])


def check(directory: Path, told: Told, mode: SyncMode, *, lost_power: bool) -> None:
    flashq = open_flashq(directory, FaultyDisk(), told, mode)
    assert flashq.health().problems == []
    check_kept(flashq, told, complete=mode == "always" or not lost_power)
    check_gone(flashq, told)
    if "create kept" in told.begun:
        flashq.create_topic("kept")
        end = flashq.high_water_mark("kept")
        assert flashq.post_record("kept", "after") == end
        survived = dict(zip(count(len(told.posted)), told.posting, strict=False)) | told.posted
        told.posted = {offset: survived[offset] for offset in range(end)} | {end: b"after"}
        told.posting = []
    else:
        assert flashq.topics() == []
    flashq.close()
    again = open_flashq(directory, FaultyDisk(), told, mode)
    assert again.backend.recovered.torn_tails == 0  # type: ignore[attr-defined]
    check_kept(again, told, complete=mode == "always" or not lost_power)
    again.close()
    assert verify_directory(directory).damage == []


def check_kept(flashq: FlashQ, told: Told, *, complete: bool) -> None:
    try:
        log = flashq.log("kept")
    except TopicNotFound:
        assert "create kept" not in told.done
        return
    start, end = log.log_start_offset, log.high_water_mark
    assert start == 0 or "retention" in told.begun
    records = flashq.poll_records("kept", from_offset=start)
    assert [record.offset for record in records] == list(range(start, end))
    expected = dict(told.posted)
    if end > len(told.posted):  # the post that was under way: whole or not at all
        assert end == len(told.posted) + len(told.posting)
        expected.update(zip(count(len(told.posted)), told.posting, strict=False))
    assert [record.value for record in records] == [expected[record.offset] for record in records]
    times = [record.timestamp_ms for record in records]
    assert times == sorted(times)
    if complete:
        assert end >= len(told.posted)
    if "create group" in told.done:
        offset = flashq.consumer_group_offset("kept", "kept")
        assert offset in {told.committed, *told.committing} or (not complete and offset <= told.committed)


def check_gone(flashq: FlashQ, told: Told) -> None:
    for kind, names in (("gone", flashq.topics()), ("gone group", flashq.consumer_groups())):
        if f"delete {kind}" in told.done:
            assert "gone" not in names
        elif f"create {kind}" in told.done and f"delete {kind}" not in told.begun:
            assert "gone" in names
    if "gone" in flashq.topics() and "create gone" in told.done:
        assert [record.value for record in flashq.poll_records("gone")] in ([b"soon"], [])


def power_cut_disk(crash_at: int, top: Path) -> CrashingPowerCutDisk:
    return CrashingPowerCutDisk(crash_at, attic=str(top.parent / f"attic-{crash_at}"))


def crash_at_every_call(
    tmp_path: Path,
    mode: SyncMode,
    make_disk: Callable[[int, Path], CrashingDisk],
    *,
    step: int = 1,
    between: Callable[[CrashingDisk, Path, Told], None] | None = None,
    rng: random.Random | None = None,
) -> int:
    for crash_at in count(1, step):
        directory = tmp_path / str(crash_at) / "data"
        disk, told = make_disk(crash_at, directory.parent), Told()
        directory.parent.mkdir(parents=True, exist_ok=True)
        flashq: FlashQ | None = None
        try:
            flashq = open_flashq(directory, disk, told, mode)
            everything_once(flashq, told)
            flashq.close()
        except Crash:
            pass
        if flashq is not None:
            assert isinstance(flashq.backend, FileBackend)
            abandon(flashq.backend)
        finished = not disk.crashed
        if between is not None:
            between(disk, directory, told)
        if isinstance(disk, PowerCutDisk):
            disk.cut_power(str(directory.parent), rng)
        try:
            check(directory, told, mode, lost_power=isinstance(disk, PowerCutDisk))
        except BaseException as error:
            error.add_note(f"crash at call {crash_at}, {disk.died_at}: {told}")
            raise
        if finished:
            return crash_at
    raise AssertionError


@pytest.fixture(autouse=True)
def compact_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_group, "_COMPACT_BYTES", 700)


@pytest.fixture(autouse=True)
def make_room_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "ROOM_FROM_BYTES", 200)
    monkeypatch.setattr(segment, "ROOM_BYTES", 600)


@pytest.mark.parametrize("mode", ["always", "periodic", "never"])
def test_a_kill_at_any_call_loses_nothing_acknowledged(tmp_path: Path, mode: SyncMode) -> None:
    step = 1 if mode == "always" else 3
    calls = crash_at_every_call(tmp_path, mode, lambda crash_at, _: CrashingDisk(crash_at), step=step)
    assert calls > 80


def test_a_kill_in_the_middle_of_any_write_leaves_a_torn_tail_at_most(tmp_path: Path) -> None:
    assert crash_at_every_call(tmp_path, "always", lambda crash_at, _: CrashingDisk(crash_at, half=True), step=2) > 80


@pytest.mark.parametrize("mode", ["always", "periodic", "never"])
def test_a_power_cut_at_any_call_takes_only_what_the_mode_says(tmp_path: Path, mode: SyncMode) -> None:
    step = 1 if mode == "always" else 2
    calls = crash_at_every_call(tmp_path, mode, power_cut_disk, step=step)
    assert calls > 80


def test_a_power_cut_that_lets_some_removals_happen_and_others_not_leaves_no_hole(tmp_path: Path) -> None:
    for seed in range(3):
        calls = crash_at_every_call(tmp_path / str(seed), "always", power_cut_disk, step=2, rng=random.Random(seed))
        assert calls > 80


def test_what_a_killed_server_left_is_durable_once_the_next_one_has_opened_it(tmp_path: Path) -> None:
    def go_on(disk: CrashingDisk, directory: Path, told: Told) -> None:
        disk.crash_at = 1 << 60  # the machine is still up, and so is all that the kernel was given
        flashq = open_flashq(directory, disk, told, "always")
        if "kept" in flashq.topics():
            found = [record.value for record in flashq.poll_records("kept", from_offset=start_of(flashq))]
            told.posted |= zip(count(start_of(flashq)), found, strict=False)
            told.posting = []
            told.done.add("create kept")
            told.post(flashq, [b"between"])
        assert isinstance(flashq.backend, FileBackend)
        abandon(flashq.backend)

    def start_of(flashq: FlashQ) -> int:
        return flashq.log("kept").log_start_offset

    calls = crash_at_every_call(tmp_path, "always", power_cut_disk, step=2, between=go_on)
    assert calls > 80


def test_a_disk_that_only_pretends_to_sync_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PowerCutDisk, "sync", FaultyDisk.sync)
    with pytest.raises((AssertionError, FlashQError)):
        crash_at_every_call(tmp_path, "always", power_cut_disk, step=7)
