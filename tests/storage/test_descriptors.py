"""Out of descriptors: logs that are there go on, and no new ones are made."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.batch import Batch, encode
from flashq.errors import StorageFailed, StorageFull
from flashq.record import NO_HEADERS
from flashq.storage.file.disk import RESERVED_DESCRIPTORS, OpenFile
from flashq.storage.file.flush import Flusher
from flashq.storage.file.opening import create_topic
from flashq.storage.interface import TopicConfig
from flashq.testing.faulty_disk import FaultyDisk
from tests.http.serving import eventually


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Take every descriptor this process may have. The limit is lowered first: there may be a million of them."""
    gc.collect()  # what earlier tests have left would be given back meanwhile
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(fd) for fd in os.listdir("/proc/self/fd")) + 20, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_topic_rolls_and_is_read_and_a_group_commits(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path, segment_bytes=1024) as flashq:
        flashq.post_record("t", "first")
        flashq.create_consumer_group("g")
        with no_descriptors_left():
            for at in range(50):
                flashq.post_record("t", "x" * 500)
                flashq.commit_offset("g", "t", at)
            assert len(flashq.poll_records("t")) == 51
    with FlashQ.open(tmp_path) as flashq:
        assert flashq.poll_records("t")[0].text == "first"
        assert flashq.high_water_mark("t") == 51
        assert flashq.consumer_group_offset("g", "t") == 49


def test_a_new_topic_or_group_is_refused_and_can_be_made_once_there_are_some(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path) as flashq:
        flashq.post_record("there", "x")
        with no_descriptors_left(), no_longer_whole(flashq):
            with pytest.raises(StorageFull, match="no file descriptors are left for topic t"):
                flashq.post_record("t", "x")
            assert flashq.topics() == ["there"]
            flashq.post_record("there", "y")
            with pytest.raises(StorageFull):
                flashq.create_consumer_group("g")
        flashq.post_record("t", "x")
        flashq.create_consumer_group("g")


@contextmanager
def no_longer_whole(flashq: FlashQ) -> Iterator[None]:
    """Somebody else has taken what a roll had borrowed from the reserve."""
    spare = flashq.backend._disk._spare  # type: ignore[attr-defined]
    taken = spare.pop()
    yield
    del taken


def test_there_may_be_more_logs_than_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 32
    monkeypatch.setattr("flashq.storage.file.descriptors._MOST", most)  # however many the tests before hold

    def others_let_go() -> bool:
        """Soon: a thread has them do so. All logs in a row, with no time for it, would be more than there are."""
        return eventually(lambda: held_in(tmp_path) <= most + 1)  # and the lock

    with limited_to(100), FlashQ.open(tmp_path) as flashq:
        for at in range(60):
            flashq.post_record(f"t{at}", "first")
            flashq.create_consumer_group(f"g{at}")
            assert at % 10 or others_let_go()
        for at in range(60):
            flashq.commit_offset(f"g{at}", f"t{at}", 1)
            assert flashq.post_record(f"t{at}", "second") == 1
            assert at % 10 or others_let_go()
        flashq.post_record("last", "x")  # those that were in use when they were asked are asked again
        assert others_let_go()
    with limited_to(100), FlashQ.open(tmp_path, sync_mode="never") as flashq:
        for at in range(60):
            assert flashq.post_record(f"t{at}", "third") == 2
            assert [record.text for record in flashq.poll_records(f"t{at}")] == ["first", "second", "third"]
            assert flashq.consumer_group_offset(f"g{at}", f"t{at}") == 1
            assert at % 10 or others_let_go()


def test_a_log_that_rests_is_synced_first_and_wakes_with_the_next_write(tmp_path: Path) -> None:
    disk = Counting()
    flusher = Flusher("never", 10, 1.0)
    log = create_topic(str(tmp_path), "t", TopicConfig(), disk=disk, flusher=flusher, epoch=0)
    log.append(batch("one")).result()
    assert not log.journal.rest(), "it has just been written to"
    synced = disk.syncs
    assert log.journal.rest()
    assert (disk.syncs, log.durable_offset) == (synced + 1, 1)
    assert log.journal.segment.file is None
    log.append(batch("two")).result()
    assert log.journal.segment.file is not None
    assert [found.count for found in log.read(0)] == [1, 1]
    log.close()
    flusher.close()


def test_a_file_that_somebody_else_has_changed_meanwhile_is_not_written_to(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path) as flashq:
        flashq.post_record("t", "one")
    with contextlib.suppress(StorageFailed), FlashQ.open(tmp_path) as flashq:
        path = tmp_path / "topics/t/0/00000000000000000000.log"
        changed = path.read_bytes() + b"x"
        path.write_bytes(changed)
        with pytest.raises(StorageFailed):
            flashq.post_record("t", "two")
        assert path.read_bytes() == changed


def test_a_log_that_cannot_wake_refuses_the_post_and_takes_the_next(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path) as flashq:
        for at in range(RESERVED_DESCRIPTORS + 1):
            flashq.post_record(f"t{at}", "x")
    with FlashQ.open(tmp_path) as flashq:
        with no_descriptors_left():
            for at in range(RESERVED_DESCRIPTORS):
                assert flashq.post_record(f"t{at}", "y") == 1
            with pytest.raises(StorageFull, match="close some connections") as refused:
                flashq.post_record(f"t{RESERVED_DESCRIPTORS}", "y")
            assert refused.value.outcome == "not_applied"
        assert flashq.health().status == "healthy"
        assert flashq.post_record(f"t{RESERVED_DESCRIPTORS}", "y") == 1


@contextmanager
def limited_to(descriptors: int) -> Iterator[None]:
    """So many descriptors more than this process has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + descriptors, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def held_in(directory: Path) -> int:
    """The descriptors of files in a directory that this process holds."""
    held = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            held += os.readlink(f"/proc/self/fd/{fd}").startswith(str(directory))
    return held


class Counting(FaultyDisk):
    syncs = 0

    def sync(self, file: OpenFile) -> None:
        self.syncs += 1


def batch(value: str) -> Batch:
    return encode([(None, value.encode(), NO_HEADERS)], 0)


def test_closing_gives_the_reserve_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    FlashQ.open(tmp_path).close()
    assert len(os.listdir("/proc/self/fd")) == before
