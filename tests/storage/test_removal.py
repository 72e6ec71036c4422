"""Retention and deletion beside each other and beside readers: what is kept stays, and nobody is told of damage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flashq.batch import encode
from flashq.errors import Closed
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import OpenFile
from flashq.storage.file.segment import Segment
from flashq.storage.file.topic_log import FileTopicLog
from flashq.storage.interface import TopicConfig, TopicLog
from flashq.testing.faulty_disk import FaultyDisk
from tests.storage.rig import Rig, row


def post(log: TopicLog, value: bytes = b"x" * 1100, *, timestamp_ms: int = 1) -> None:
    log.append(encode(row(value), timestamp_ms)).result()


def test_two_threads_that_retain_at_once_remove_what_has_expired_and_nothing_else(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = rig(segment_bytes=1024)
    for timestamp_ms in (1, 1, 1, 5000):
        post(it.flashq.log_or_new("t"), timestamp_ms=timestamp_ms)
    log = it.log()
    log.configure(TopicConfig(retention_ms=1000, segment_bytes=1024))
    removing, judged = threading.Event(), threading.Event()
    is_too_old, size = log._is_too_old, log.size_bytes

    def hold_the_first(operation: str, path: str) -> None:
        if operation == "unlink" and path.endswith(f"{0:020}.log"):
            removing.set()
            assert judged.wait(10)

    def judge(segment: Segment, now_ms: int) -> bool:
        if removing.is_set() and segment.base_offset == 1:  # the other thread is not there yet
            judged.set()
        return is_too_old(segment, now_ms)

    it.disk.decide = hold_the_first
    monkeypatch.setattr(log, "_is_too_old", judge)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(log.retain, 5000)
        assert removing.wait(10)
        second = threads.submit(log.retain, 5000)
        freed = first.result(10) + second.result(10)
    assert (log.log_start_offset, log.next_offset) == (3, 4)
    assert log.size_bytes == size - freed
    assert log._segments == (log.journal.segment,)
    assert it.values() == [b"x" * 1100]
    it.reopen()
    assert it.values() == [b"x" * 1100]


def test_retention_of_a_deleted_topic_never_removes_files_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FileBackend(str(tmp_path), disk=FaultyDisk())
    old, _ = backend.create_topic("t", TopicConfig(segment_bytes=1024, retention_ms=1000))
    assert isinstance(old, FileTopicLog)
    for _ in range(5):
        post(old)
    asked = 0

    def delete_and_create_meanwhile(segment: Segment, now_ms: int) -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            backend.delete_topic("t")
            new, _ = backend.create_topic("t", TopicConfig(segment_bytes=1024))
            for number in range(5):
                post(new, b"%d" % number * 1100)
        return True

    monkeypatch.setattr(old, "_is_too_old", delete_and_create_meanwhile)
    old.retain(1 << 50)
    assert asked == 3
    with pytest.raises(Closed):
        old.configure(TopicConfig())
    backend.close()
    again = FileBackend(str(tmp_path), disk=FaultyDisk())
    assert [batch.base_offset for batch in again.topics["t"].read(0)] == [0, 1, 2, 3, 4]
    assert again.topics["t"].topic_id != old.topic_id
    again.close()


@pytest.mark.parametrize(
    "use",
    [lambda log: log.read(0), lambda log: log.offset_at(1), lambda log: log.load_keys()],
    ids=["read", "time", "keys"],
)
def test_who_reads_a_topic_while_it_is_deleted_is_told_that_and_not_of_damage(
    rig: Callable[..., Rig],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    use: Callable[[FileTopicLog], object],
) -> None:
    it = rig(segment_bytes=1024)
    for _ in range(2):
        post(it.flashq.log_or_new("t"))
    log = it.log()
    opening, deleted = threading.Event(), threading.Event()
    open_file = it.disk.open

    def hold(path: str, *, create: bool = False, write: bool = False) -> OpenFile:
        opening.set()
        assert deleted.wait(10)
        return open_file(path, create=create, write=write)

    with ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(it.disk, "open", hold)
        using = threads.submit(use, log)
        assert opening.wait(10)
        monkeypatch.undo()
        it.flashq.delete_topic("t")
        deleted.set()
        with pytest.raises(Closed):
            using.result(10)
    assert log.damage_read is None
    assert not any("data_corruption" in record.message for record in caplog.records)
