"""A disk that breaks, or is slow: who waited hears `unknown`, the log stops, and what was acknowledged stays."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.batch import encode
from flashq.errors import DataCorruption, FlashQError, StorageFailed, StorageFull
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.interface import SYNC_MODES, Append, SyncMode
from flashq.testing.faulty_disk import Fault, FaultyDisk
from tests.storage.crashing_disk import Nth
from tests.storage.rig import BROKEN, NO_SPACE, Rig, row


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
