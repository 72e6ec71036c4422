"""Room for the next frames: made where syncs wait, given back, and never taken for records or for damage."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.broker.flashq import FlashQ as Engine
from flashq.errors import StorageFull
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.dump import frames
from flashq.storage.file.segment import MOST_ROOM_BYTES, ROOM_BYTES, ROOM_FROM_BYTES
from flashq.storage.file.topic_log import FileTopicLog
from flashq.storage.file.verify import verify_directory
from flashq.storage.interface import SyncMode, TopicConfig
from flashq.testing.faulty_disk import Fault, FaultyDisk
from flashq.testing.power_cut import PowerCutDisk
from tests.http.serving import eventually
from tests.storage.crashing_disk import abandon

VALUE = "x" * 1000
POSTS = ROOM_FROM_BYTES // 1000 + 1


def opened(
    directory: Path, mode: SyncMode = "always", disk: Disk | None = None, segment_bytes: int = 1 << 30
) -> FlashQ:
    backend = FileBackend(str(directory), sync_mode=mode, disk=disk or Disk())
    return Engine(backend, topic_defaults=TopicConfig(segment_bytes=segment_bytes))


def log_of(flashq: FlashQ) -> FileTopicLog:
    log = flashq.backend.topics["t"]
    assert isinstance(log, FileTopicLog)
    return log


def path_of(directory: Path) -> Path:
    (path,) = (directory / "topics" / "t" / "0").glob("*.log")
    return path


def room_in(directory: Path) -> int:
    """Bytes after the last frame."""
    path = path_of(directory)
    return path.stat().st_size - sum(frame.size_bytes for frame in frames(str(path)))


def post_until_room(flashq: FlashQ) -> None:
    for _ in range(POSTS):
        flashq.post_record("t", VALUE)


def test_a_log_that_is_synced_with_every_write_has_room_and_no_more_than_it_is_long(tmp_path: Path) -> None:
    with opened(tmp_path) as flashq:
        flashq.post_record("t", VALUE)
        assert room_in(tmp_path) == 0
        post_until_room(flashq)
        assert 0 < room_in(tmp_path) <= ROOM_FROM_BYTES + 2000
        for _ in range(20):
            flashq.post_record("t", "y" * 60_000)
        assert path_of(tmp_path).stat().st_size < 2 * log_of(flashq).size_bytes
        assert log_of(flashq).size_bytes == sum(frame.size_bytes for frame in frames(str(path_of(tmp_path))))
    assert room_in(tmp_path) == 0


@pytest.mark.parametrize("mode", ["periodic", "never"])
def test_where_no_sync_is_waited_for_there_is_none(tmp_path: Path, mode: SyncMode) -> None:
    with opened(tmp_path, mode) as flashq:
        post_until_room(flashq)
        assert room_in(tmp_path) == 0


def test_a_large_write_makes_none_and_uses_what_there_is(tmp_path: Path) -> None:
    with opened(tmp_path) as flashq:
        flashq.post_record("t", "x" * (2 * ROOM_BYTES))
        assert room_in(tmp_path) == 0
        flashq.post_record("t", VALUE)
        assert room_in(tmp_path) == ROOM_BYTES
        flashq.post_record("t", "x" * (ROOM_BYTES // 2))
        assert ROOM_BYTES // 4 < room_in(tmp_path) < ROOM_BYTES // 2
        flashq.post_record("t", "x" * (2 * ROOM_BYTES))
        assert room_in(tmp_path) == 0


def sealed(flashq: FlashQ, directory: Path) -> None:
    log = log_of(flashq)
    log.journal.roll_now(log.journal.segment)


def rested(flashq: FlashQ, directory: Path) -> None:
    assert [log_of(flashq).journal.rest() for _ in range(2)] == [False, True]


def stopped(flashq: FlashQ, directory: Path) -> None:
    flashq.close()


@pytest.mark.parametrize("done", [sealed, rested, stopped])
def test_it_is_given_back_by_a_log_that_is(tmp_path: Path, done: Callable[[FlashQ, Path], None]) -> None:
    with opened(tmp_path) as flashq:
        post_until_room(flashq)
        path, size = path_of(tmp_path), log_of(flashq).size_bytes
        assert path.stat().st_size > size
        done(flashq, tmp_path)
        assert path.stat().st_size == size
        if done is not stopped:
            flashq.post_record("t", VALUE)
    with opened(tmp_path) as flashq:
        assert len(flashq.poll_records("t", max_bytes=1 << 30)) == POSTS + (done is not stopped)


def test_what_a_kill_leaves_is_no_torn_tail_and_no_frame(tmp_path: Path) -> None:
    flashq = opened(tmp_path)
    post_until_room(flashq)
    assert isinstance(flashq.backend, FileBackend)
    abandon(flashq.backend)
    assert room_in(tmp_path) > 0
    report = verify_directory(tmp_path)
    assert (report.damage, [about.findings for about in report.logs]) == ([], [[]])
    assert len(list(frames(str(path_of(tmp_path))))) == POSTS
    with opened(tmp_path) as again:
        assert isinstance(again.backend, FileBackend)
        assert (again.backend.recovered.torn_tails, room_in(tmp_path)) == (0, 0)
        assert len(again.poll_records("t", max_bytes=1 << 30)) == POSTS
        assert again.post_record("t", VALUE) == POSTS


class FullForRoom(Disk):
    """Takes frames, and of room only a part, with an error."""

    is_full = True

    def write(self, file: OpenFile, data: bytes | bytearray, position: int) -> None:
        if self.is_full and not any(data):
            super().write(file, data[:4096], position)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(file, data, position)


def test_a_disk_with_no_room_for_room_takes_records(tmp_path: Path) -> None:
    disk = FullForRoom()
    with opened(tmp_path, disk=disk) as flashq:
        post_until_room(flashq)
        assert room_in(tmp_path) == 0
        disk.is_full = False
        flashq.post_record("t", VALUE)
        assert room_in(tmp_path) == 0
        flashq.post_record("t", "x" * ROOM_BYTES)
        flashq.post_record("t", VALUE)
        assert room_in(tmp_path) > 0
    with opened(tmp_path) as again:
        assert len(again.poll_records("t", max_bytes=1 << 30)) == POSTS + 3


@pytest.mark.parametrize("how", ["rested", "started"])
def test_a_segment_sealed_without_another_write_has_its_end_after_a_power_cut(tmp_path: Path, how: str) -> None:
    directory, disk = tmp_path / "data", PowerCutDisk(str(tmp_path / "attic"))
    flashq = opened(directory, disk=disk)
    post_until_room(flashq)
    if how == "rested":
        rested(flashq, directory)
    else:
        assert isinstance(flashq.backend, FileBackend)
        abandon(flashq.backend)
        flashq = opened(directory, disk=disk)
    path, size = path_of(directory), log_of(flashq).size_bytes
    sealed(flashq, directory)
    assert isinstance(flashq.backend, FileBackend)
    abandon(flashq.backend)
    disk.cut_power(str(directory))
    assert path.stat().st_size == size
    with opened(directory) as again:
        assert again.post_record("t", VALUE, idempotency_key="k") == POSTS


def test_a_disk_without_space_gets_the_room_of_logs_that_are_quiet(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with opened(tmp_path, disk=disk) as flashq:
        post_until_room(flashq)
        flashq.post_record("other", VALUE)
        disk.decide = lambda operation, path: Fault(errno.ENOSPC) if operation == "write" and "other" in path else None
        with pytest.raises(StorageFull):
            flashq.post_record("other", VALUE)
        disk.decide = None
        assert eventually(lambda: room_in(tmp_path) == 0)


def test_zeros_that_are_more_than_room_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as flashq:
        flashq.post_record("t", VALUE)
    for zeros, is_told in ((ROOM_BYTES, False), (MOST_ROOM_BYTES + 1, True)):
        with path_of(tmp_path).open("ab") as file:
            file.truncate(file.tell() + zeros)
        with opened(tmp_path) as flashq:
            assert len(flashq.poll_records("t")) == 1
        assert any("zeros_cut" in record.message for record in caplog.records) == is_told
