"""Opening many logs: one call makes all of them durable, where the system has one."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.broker.flashq import FlashQ as Engine
from flashq.storage.file import backend as file_backend
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.opening import _LOGS_AHEAD
from flashq.storage.file.root_file import read_root, save_root


class Noting(Disk):
    """Notes what opening does to the files of logs; `has_call`: whether one call syncs them all."""

    def __init__(self, *, has_call: bool) -> None:
        self.has_call = has_call
        self.done: list[str] = []

    def sync_file_system(self, path: str) -> bool:
        self.done.append("all")
        return self.has_call and super().sync_file_system(path)

    def sync(self, file: OpenFile) -> None:
        self._note("sync", file)
        super().sync(file)

    def forget_pages(self, file: OpenFile) -> None:
        self._note("forget", file)
        super().forget_pages(file)

    def read_ahead(self, file: OpenFile, size: int) -> None:
        self._note("ahead", file)
        super().read_ahead(file, size)

    def read(self, file: OpenFile, size: int, position: int) -> bytes:
        self._note("read", file)
        return super().read(file, size, position)

    def _note(self, what: str, file: OpenFile) -> None:
        if file.path.endswith(".log"):
            self.done.append(what)


@pytest.fixture(autouse=True)
def _two_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_backend, "_LOGS_SYNCED_SINGLY", 1)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A directory with a topic and a group, stopped in good order."""
    with FlashQ.open(tmp_path) as flashq:
        flashq.post_record("t", "x")
        flashq.create_consumer_group("g")
    return tmp_path


def opened(directory: Path, *, has_call: bool) -> list[str]:
    """What opening did, in order; without what comes after it."""
    disk = Noting(has_call=has_call)
    with Engine(FileBackend(str(directory), disk=disk)) as flashq:
        done = list(disk.done)
        assert flashq.poll_records("t")[0].text == "x"
    return done


def test_many_logs_are_synced_by_one_call_before_any_is_read(stopped: Path) -> None:
    done = opened(stopped, has_call=True)
    assert done[0] == "all"
    assert "sync" not in done
    assert "read" in done


def test_each_log_is_synced_before_it_is_read_where_there_is_no_such_call(stopped: Path) -> None:
    done = opened(stopped, has_call=False)
    assert done[0] == "all"
    assert done.count("sync") == 2
    assert done.index("sync") < done.index("read")


def test_a_few_logs_do_not_wait_for_what_is_not_theirs(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_backend, "_LOGS_SYNCED_SINGLY", 2)
    assert "all" not in opened(stopped, has_call=True)


def test_pages_are_dropped_before_reading_unless_the_last_stop_reached_the_disk(stopped: Path) -> None:
    assert "forget" not in opened(stopped, has_call=True)
    root = read_root(Disk(), str(stopped))
    root.clean = False
    save_root(Disk(), str(stopped), root)
    done = opened(stopped, has_call=True)
    assert done.count("forget") == 2
    assert done.index("forget") < done.index("read")


def test_other_logs_are_asked_of_the_disk_before_one_is_read(tmp_path: Path) -> None:
    topics = _LOGS_AHEAD + 10
    with FlashQ.open(tmp_path) as flashq:
        for number in range(topics):
            flashq.post_record(f"t{number}", str(number))
    disk = Noting(has_call=True)
    with Engine(FileBackend(str(tmp_path), disk=disk)) as flashq:
        done = [each for each in disk.done if each in ("ahead", "read")]
        assert done.index("read") == _LOGS_AHEAD + 1
        assert done.count("ahead") == topics
        assert [flashq.poll_records(f"t{number}")[0].text for number in range(topics)] == list(map(str, range(topics)))


def test_topics_that_are_deleted_take_no_memory_until_the_cycle_collector_comes(tmp_path: Path) -> None:
    value = b"x" * 1_000_000
    gc.disable()
    tracemalloc.start()
    try:
        with FlashQ.open(tmp_path) as flashq:
            for number in range(20):
                flashq.post_record(f"t{number}", value)
                flashq.delete_topic(f"t{number}")
            assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()
        gc.enable()
