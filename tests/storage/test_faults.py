"""When the disk says no: full, broken, slow. The promises are those of docs/durability.md."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.batch import encode
from flashq.broker.retention import RetentionThread
from flashq.errors import DataCorruption, FlashQError, StorageFailed, StorageFull
from flashq.record import NO_HEADERS, Row
from flashq.storage.file import consumer_group
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.topic_log import FileTopicLog
from flashq.storage.interface import SYNC_MODES, Append, SyncMode, TopicConfig
from flashq.testing.faulty_disk import Fault, FaultyDisk
from tests.storage.crashing_disk import Nth, abandon

NO_SPACE = Fault(errno.ENOSPC)
BROKEN = Fault(errno.EIO)
FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
"""The disk, what its user may have of it, and what a file may be: each is no room, and no broken disk."""
ANY_WRITE = ("write", "create", "truncate", "mkdir", "rename")


class Rig:
    """A FlashQ on a disk that is told what to refuse, and can be opened again on a good one."""

    def __init__(self, directory: Path, mode: SyncMode = "always", *, segment_bytes: int = 1 << 20) -> None:
        self.directory = directory
        self.mode = mode
        self.disk = FaultyDisk()
        self.config = TopicConfig(segment_bytes=segment_bytes)
        self.flashq = self._open(self.disk)

    def _open(self, disk: Disk) -> FlashQ:
        backend = FileBackend(str(self.directory), sync_mode=self.mode, disk=disk, sync_interval_s=60)
        return FlashQ(backend, topic_defaults=self.config)

    @property
    def backend(self) -> FileBackend:
        assert isinstance(self.flashq.backend, FileBackend)
        return self.flashq.backend

    def log(self) -> FileTopicLog:
        log = self.flashq.log("t")
        assert isinstance(log, FileTopicLog)
        return log

    def reopen(self) -> FlashQ:
        try:
            self.flashq.close()
        except StorageFailed:
            pass
        self.flashq = self._open(FaultyDisk())
        return self.flashq

    def values(self) -> list[bytes]:
        records = self.flashq.poll_records("t", from_offset=self.log().log_start_offset)
        assert [record.offset for record in records] == list(range(self.log().log_start_offset, self.log().next_offset))
        return [record.value for record in records]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(mode: SyncMode = "always", *, segment_bytes: int = 1 << 20) -> Rig:
        made.append(Rig(tmp_path / "data", mode, segment_bytes=segment_bytes))
        return made[-1]

    yield make
    for each in made:
        try:
            each.flashq.close()
        except FlashQError:
            pass


def row(value: bytes) -> list[Row]:
    return [(None, value, NO_HEADERS)]


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


@pytest.mark.parametrize("mode", SYNC_MODES)
def test_a_broken_write_stops_the_log_and_reads_go_on(rig: Callable[..., Rig], mode: SyncMode) -> None:
    it = rig(mode)
    append = it.flashq.log_or_new("t").append(encode(row(b"first"), 1), durable=True)
    append.result()
    it.disk.decide = Nth(1, BROKEN, "write")
    with pytest.raises(StorageFailed) as unknown:
        it.flashq.post_record("t", "second")
    assert unknown.value.outcome == "unknown"
    with pytest.raises(StorageFailed) as refused:
        it.flashq.post_record("t", "third")
    assert refused.value.outcome == "not_applied"
    assert [record.value for record in it.flashq.poll_records("t")] == [b"first"]
    assert it.flashq.post_record("other", "works") == 0
    with pytest.raises(StorageFailed):
        it.flashq.close()
    it.reopen()
    assert it.values() == [b"first"]


def test_a_failed_sync_at_any_time_is_unknown_to_who_waits_and_final(tmp_path: Path) -> None:
    for nth in range(1, 100):
        it = Rig(tmp_path / str(nth), segment_bytes=1024)
        it.flashq.create_topic("t")
        it.disk.decide = fault = Nth(nth, BROKEN, "sync", "sync_directory", under="topics")
        told: list[bytes] = []
        outcomes: list[str] = []
        for number in range(8):
            value = b"%d " % number * 300
            try:
                it.flashq.post_record("t", value)
                assert outcomes == []
                told.append(value)
            except StorageFailed as error:
                outcomes.append(error.outcome)
        assert [record.value for record in it.flashq.poll_records("t")] == told
        assert it.log().high_water_mark == len(told)
        if fault.tripped:
            assert outcomes != []
            assert set(outcomes[1:]) <= {"not_applied"}
            assert it.flashq.health().status == "failed"
            with pytest.raises(StorageFailed):
                it.flashq.close()
        it.reopen()
        values = it.values()
        assert values[: len(told)] == told
        assert len(values) <= len(told) + outcomes.count("unknown")
        assert it.flashq.post_record("t", "goes on") == len(values)
        it.flashq.close()
        if not fault.tripped:
            assert nth > 6
            return
    raise AssertionError


@pytest.mark.parametrize("mode", ["periodic", "never"])
def test_after_a_failed_sync_only_what_is_durable_is_read(rig: Callable[..., Rig], mode: SyncMode) -> None:
    it = rig(mode)
    it.flashq.log_or_new("t").append(encode(row(b"durable"), 1), durable=True).result()
    it.flashq.post_record("t", "written")
    assert it.flashq.high_water_mark("t") == 2
    it.disk.decide = Nth(1, BROKEN, "sync")
    with pytest.raises(StorageFailed):
        it.log().append(encode(row(b"unknown"), 1), durable=True).result()
    assert it.flashq.high_water_mark("t") == it.log().durable_offset == 1
    assert [record.value for record in it.flashq.poll_records("t")] == [b"durable"]


def test_everyone_who_waited_for_a_failed_sync_hears_of_it(rig: Callable[..., Rig]) -> None:
    it = rig()
    log = it.flashq.log_or_new("t")
    heard: list[Append] = []
    all_heard = threading.Event()

    def hear(append: Append) -> None:
        heard.append(append)
        if len(heard) == 20:
            all_heard.set()

    appends = [log.append(encode(row(b"%d" % number), 1)) for number in range(20)]
    it.disk.decide = Nth(1, BROKEN, "sync", onwards=True)
    for append in appends:
        append.add_done_callback(hear)
    assert all_heard.wait(10)
    assert {type(append.error) for append in heard} == {StorageFailed}
    assert log.high_water_mark == 0
    assert log.read(0) == []


def test_what_was_not_written_when_a_sync_failed_is_not_applied(rig: Callable[..., Rig]) -> None:
    it = rig()
    log = it.flashq.log_or_new("t")
    later: list[Append] = []

    def fail_after_another_append(operation: str, path: str) -> Fault | None:
        if operation != "sync":
            return None
        later.append(log.append(encode(row(b"later"), 1)))
        return BROKEN

    it.disk.decide = fail_after_another_append
    with pytest.raises(StorageFailed) as unknown:
        log.append(encode(row(b"first"), 1)).result()
    assert unknown.value.outcome == "unknown"
    with pytest.raises(StorageFailed) as refused:
        later[0].result()
    assert refused.value.outcome == "not_applied"
    it.reopen()
    assert it.values() == [b"first"]


def test_one_line_is_logged_when_a_log_stops(rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture) -> None:
    it = rig()
    it.flashq.create_topic("t")
    it.disk.decide = Nth(1, BROKEN, "sync", onwards=True)
    for _ in range(5):
        with pytest.raises(StorageFailed):
            it.flashq.post_record("t", "x")
    assert sum("storage_failed" in record.message for record in caplog.records) == 1


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


def test_something_foreign_where_the_next_segment_goes_stops_the_log_and_nobody_hangs(
    rig: Callable[..., Rig], tmp_path: Path
) -> None:
    it = rig(segment_bytes=1024)
    it.flashq.post_record("t", "x" * 1100)
    (Path(it.log().directory) / "0" / f"{1:020}.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed):
        it.flashq.post_record("t", "y")
    assert not (tmp_path / "elsewhere").exists()
    assert it.flashq.health().status == "failed"


class SlowDisk(Disk):
    """Its syncs of segments take until they are let go."""

    def __init__(self) -> None:
        self.slow = False
        self.syncing = threading.Event()
        self.let_go = threading.Event()

    def sync(self, file: OpenFile) -> None:
        if self.slow and file.path.endswith(".log"):
            self.syncing.set()
            assert self.let_go.wait(30)


def test_under_periodic_a_sync_that_is_overdue_holds_posts_back(tmp_path: Path) -> None:
    disk = SlowDisk()
    backend = FileBackend(str(tmp_path / "data"), sync_mode="periodic", commit_threshold=1, disk=disk)
    flashq = FlashQ(backend)
    now = 100.0
    backend._flusher.clock = lambda: now
    flashq.create_topic("t")
    disk.slow = True
    assert flashq.post_record("t", "starts a sync") == 0
    assert disk.syncing.wait(10)
    assert flashq.post_record("t", "meanwhile") == 1
    now += 2.9  # of which the first is not overdue
    assert flashq.post_record("t", "still") == 2
    now += 0.2
    held = threading.Event()

    def post() -> None:
        flashq.post_record("t", "held back")
        held.set()

    poster = threading.Thread(target=post)
    poster.start()
    assert not held.wait(0.1)
    assert flashq.high_water_mark("t") >= 3
    disk.let_go.set()
    assert held.wait(10)
    poster.join()
    assert flashq.log("t").durable_offset == 4
    flashq.close()


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


def test_a_new_epoch_that_cannot_be_noted_refuses_the_post_and_is_noted_by_the_next(rig: Callable[..., Rig]) -> None:
    it = rig("periodic")
    it.flashq.post_record("t", "before")
    abandon(it.backend)
    it.flashq = it._open(it.disk)
    assert it.log().epoch == 1
    for fault, error in ((NO_SPACE, StorageFull), (BROKEN, StorageFailed)):
        it.disk.decide = Nth(1, fault, "write", under="topic.json")
        with pytest.raises(error):
            it.flashq.post_record("t", "refused")
    assert it.flashq.post_record("t", "after") == 1
    it.reopen()
    assert it.values() == [b"before", b"after"]
    assert it.flashq.health().status == "healthy"


@pytest.mark.parametrize("fault", [NO_SPACE, BROKEN])
def test_creating_and_deleting_on_a_failing_disk_raise_of_the_family_and_can_be_tried_again(
    rig: Callable[..., Rig], fault: Fault
) -> None:
    it = rig()
    error = StorageFull if fault is NO_SPACE else StorageFailed
    for operation in ("mkdir", "create", "write", "sync", "rename", "sync_directory"):
        it.disk.decide = Nth(1, fault, operation, onwards=True)
        with pytest.raises(error):
            it.flashq.create_topic("t")
        if operation != "mkdir":
            with pytest.raises(error):
                it.flashq.create_consumer_group("g")
    for operation in ("rename", "sync_directory"):
        it.disk.decide = None
        it.flashq.create_topic("t")
        it.flashq.create_consumer_group("g")
        it.disk.decide = Nth(1, fault, operation, "unlink", onwards=True)
        with pytest.raises(error):
            it.flashq.delete_topic("t")
        with pytest.raises(error):
            it.flashq.delete_consumer_group("g")
        it.disk.decide = None
        it.flashq.delete_topic("t")
        it.flashq.delete_consumer_group("g")
    it.reopen()
    assert it.flashq.topics() == it.flashq.consumer_groups() == []


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


def test_what_is_in_a_directory_that_was_renamed_cannot_be_deleted_and_a_group_whose_file_is_gone_can(
    tmp_path: Path,
) -> None:
    data_dir, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    with FlashQ.open(data_dir) as flashq:
        flashq.create_topic("t")
        flashq.create_consumer_group("g")
        data_dir.rename(elsewhere)
        with pytest.raises(StorageFailed):
            flashq.delete_topic("t")
        with pytest.raises(StorageFailed):
            flashq.delete_consumer_group("g")
        elsewhere.rename(data_dir)
        assert (flashq.topics(), flashq.consumer_groups()) == (["t"], ["g"])
        (file,) = (data_dir / "groups").iterdir()
        file.unlink()
        flashq.delete_consumer_group("g")
    with FlashQ.open(data_dir) as flashq:
        assert (flashq.topics(), flashq.consumer_groups()) == (["t"], [])


def test_a_topic_whose_disk_failed_can_be_deleted_and_made_again(rig: Callable[..., Rig]) -> None:
    it = rig()
    it.flashq.post_record("t", "first")
    it.disk.decide = Nth(1, BROKEN, "sync")
    with pytest.raises(StorageFailed):
        it.flashq.post_record("t", "second")
    it.flashq.delete_topic("t")
    assert it.flashq.health().status == "healthy"
    assert it.flashq.post_record("t", "anew") == 0
    it.reopen()
    assert it.values() == [b"anew"]


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


@pytest.mark.parametrize(("fault", "error"), [(NO_SPACE, StorageFull), (BROKEN, StorageFailed)])
@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
def test_a_configuration_that_cannot_be_saved_changes_nothing_and_can_be_given_again(
    rig: Callable[..., Rig], operation: str, fault: Fault, error: type[FlashQError]
) -> None:
    it = rig()
    it.flashq.post_record("t", "kept")
    it.disk.decide = Nth(1, fault, operation, under="topic.json")
    with pytest.raises(error):
        it.flashq.configure_topic("t", retention_ms=5)
    assert it.flashq.log("t").config == it.config
    it.flashq.configure_topic("t", retention_bytes=5)
    changed = TopicConfig(retention_bytes=5, segment_bytes=it.config.segment_bytes)
    assert it.flashq.log("t").config == changed
    assert it.reopen().log("t").config == changed


@pytest.mark.parametrize("fault", [NO_SPACE, BROKEN], ids=["no space", "broken"])
def test_a_configuration_whose_directory_cannot_be_synced_may_be_kept(rig: Callable[..., Rig], fault: Fault) -> None:
    it = rig()
    it.flashq.post_record("t", "kept")
    it.disk.decide = Nth(1, fault, "sync_directory", under="topics")
    with pytest.raises(StorageFailed) as refused:
        it.flashq.configure_topic("t", retention_ms=5)
    assert refused.value.outcome == "unknown"
    it.disk.decide = None
    assert it.reopen().log("t").config.retention_ms == 5  # no power was cut


def test_a_removal_that_fails_is_tried_again_and_leaves_no_hole(rig: Callable[..., Rig]) -> None:
    it = rig(segment_bytes=1024)
    for number in range(4):
        it.flashq.post_record("t", b"%d" % number * 1100)
    it.flashq.log("t").configure(TopicConfig(retention_bytes=100, segment_bytes=1024))
    for operation in ("unlink", "sync_directory"):
        it.disk.decide = Nth(1, BROKEN, operation)
        with pytest.raises(OSError, match="Input/output"):
            it.flashq.apply_retention()
    it.flashq.post_record("other", "x")
    assert it.flashq.apply_retention() > 3000
    assert it.log().log_start_offset == 3
    it.reopen()
    assert it.values() == [b"3" * 1100]


def test_retention_of_one_topic_that_fails_does_not_keep_the_others_from_theirs(rig: Callable[..., Rig]) -> None:
    it = rig(segment_bytes=1024)
    for topic in ("a", "b"):
        for _ in range(3):
            it.flashq.post_record(topic, "x" * 1100)
        it.flashq.log(topic).configure(TopicConfig(retention_bytes=100, segment_bytes=1024))
    it.disk.decide = Nth(1, BROKEN, "unlink", under="/a/", onwards=True)
    with pytest.raises(OSError, match="Input/output"):
        it.flashq.apply_retention()
    assert it.flashq.log("b").log_start_offset == 2


def test_a_sweep_that_fails_is_tried_again() -> None:
    tries = 0
    thrice = threading.Event()

    def sweep() -> int:
        nonlocal tries
        tries += 1
        if tries == 3:
            thrice.set()
        raise OSError(errno.EIO, "broken")

    thread = RetentionThread(sweep, interval_s=0.001)
    assert thrice.wait(10)
    thread.close()


def test_reading_a_sealed_segment_whose_medium_is_broken_is_corruption_or_an_os_error(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = rig(segment_bytes=1024)
    for number in range(4):
        it.flashq.post_record("t", b"%d" % number * 1100)

    def broken(file: OpenFile, size: int, position: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(it.disk, "read", broken)
    with pytest.raises((OSError, DataCorruption)):
        it.flashq.poll_records("t")
    assert it.flashq.poll_records("t", from_offset=3)[0].offset == 3


def test_a_stop_on_a_full_disk_is_a_stop(rig: Callable[..., Rig]) -> None:
    it = rig("periodic")
    it.flashq.post_record("t", "first")
    it.disk.decide = Nth(1, NO_SPACE, *ANY_WRITE, onwards=True)
    it.flashq.close()
    it.reopen()
    assert it.values() == [b"first"]
    assert it.log().epoch == 1


@pytest.mark.parametrize(("fault", "error"), [(NO_SPACE, StorageFull), (BROKEN, StorageFailed)])
@pytest.mark.parametrize("operation", ["write", "sync", "sync_directory"])
def test_a_start_on_a_failing_disk_names_the_directory_and_can_be_tried_again(
    rig: Callable[..., Rig], operation: str, fault: Fault, error: type[FlashQError]
) -> None:
    it = rig("periodic")
    it.flashq.post_record("t", "kept")
    it.flashq.close()
    it.disk.decide = Nth(1, fault, operation)
    with pytest.raises(error, match=f"the opening of {it.directory}"):
        it._open(it.disk)
    it.flashq = it._open(it.disk)
    assert it.values() == [b"kept"]


def test_an_interrupt_in_the_middle_of_a_write_or_sync_loses_no_offset_and_hangs_nobody(
    rig: Callable[..., Rig],
) -> None:
    for operation in ("write", "sync"):
        it = rig()
        it.flashq.post_record("t", operation)
        before = it.log().next_offset
        others = [it.log().append(encode(row(b"other"), 1)) for _ in range(3)]

        def interrupt(called: str, path: str, operation: str = operation, disk: FaultyDisk = it.disk) -> None:
            if called == operation:
                disk.decide = None
                raise KeyboardInterrupt

        it.disk.decide = interrupt
        with pytest.raises(KeyboardInterrupt):
            it.flashq.post_record("t", "interrupted")
        assert [append.result().batch.base_offset for append in others] == [before, before + 1, before + 2]
        assert it.flashq.post_record("t", "after") == before + 4
        it.reopen()
        assert it.values()[before:] == [b"other"] * 3 + [b"interrupted", b"after"]
        it.flashq.close()
