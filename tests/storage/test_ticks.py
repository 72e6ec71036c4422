"""Logs that an event loop drives: what a tick has taken is written at its end, and one log's failure is its own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from flashq import FlashQ
from flashq.batch import Batch, encode
from flashq.errors import StorageFailed
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.segment import Segment
from flashq.storage.interface import SYNC_MODES, Append, SyncMode, TopicConfig, TopicLog
from flashq.testing.faulty_disk import FaultyDisk
from tests.storage.rig import row


class Loop:
    """As much of an event loop as the engine needs: calls put off to the next tick, from this thread or another.

    Without readers, so that threads sync.
    """

    def __init__(self) -> None:
        self.calls: deque[Callable[[], object]] = deque()
        self.woken = threading.Semaphore(0)

    def call_soon(self, call: Callable[..., object], *args: Any, context: Any = None) -> Any:
        self.calls.append(partial(call, *args))
        self.woken.release()

    call_soon_threadsafe = call_soon

    def add_reader(self, fd: int, callback: Callable[..., object]) -> None:
        raise NotImplementedError

    def run_until(self, done: Callable[[], bool], timeout_s: float = 10) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert self.woken.acquire(timeout=max(deadline - time.monotonic(), 0)), "nobody calls: a waiter hangs"
            self.calls.popleft()()


def post(log: TopicLog, value: bytes = b"x") -> Append:
    return log.append(encode(row(value), 1))


@pytest.mark.parametrize("mode", SYNC_MODES)
def test_on_a_loop_every_append_calls_back_on_the_loop_through_rolls_and_retention(
    tmp_path: Path, mode: SyncMode
) -> None:
    backend = FileBackend(str(tmp_path), sync_mode=mode, disk=FaultyDisk())
    loop = Loop()
    backend.drive_from_loop(cast(asyncio.AbstractEventLoop, loop))
    log, _ = backend.create_topic("t", TopicConfig(segment_bytes=1024, retention_ms=1 << 50))
    stop = threading.Event()

    def roll_all_the_time() -> None:
        while not stop.is_set():
            log.retain(1 << 51)

    retention = threading.Thread(target=roll_all_the_time)
    retention.start()
    threads: set[int] = set()
    done: list[int] = []

    def callback(append: Append) -> None:
        threads.add(threading.get_ident())
        assert append.error is None
        done.append(append.batch.base_offset)

    try:
        for tick in range(150):
            expected = len(done) + 1 + tick % 4
            for _ in range(1 + tick % 4):
                post(log, b"x" * 300).add_done_callback(callback)
            loop.run_until(lambda expected=expected: len(done) >= expected)  # type: ignore[misc]
    finally:
        stop.set()
        retention.join()
        backend.close()
    assert sorted(done) == list(range(len(done)))
    assert threads == {threading.get_ident()}


def test_what_is_appended_together_is_written_at_once_at_the_end_of_the_block(tmp_path: Path) -> None:
    writes: list[str] = []

    def decide(operation: str, path: str) -> None:
        if operation == "write" and path.endswith(".log"):
            writes.append(path)

    backend = FileBackend(str(tmp_path), sync_mode="never", disk=FaultyDisk(decide))
    loop = Loop()
    backend.drive_from_loop(cast(asyncio.AbstractEventLoop, loop))
    log, _ = backend.create_topic("t", TopicConfig())
    for turn in range(1, 3):
        with backend.together():
            appends = [post(log), post(log)]
            assert not any(append.done for append in appends)
        assert all(append.done for append in appends)
        assert len(writes) == turn
    assert not loop.calls
    alone = post(log)
    assert not alone.done
    loop.run_until(lambda: alone.done)
    backend.close()


@pytest.mark.parametrize("mode", SYNC_MODES)
@pytest.mark.parametrize("put", [lambda path: path.symlink_to("elsewhere"), os.mkfifo], ids=["link", "fifo"])
def test_something_foreign_in_the_place_of_a_file_stops_its_log_and_the_others_of_the_tick_go_on(
    tmp_path: Path, mode: SyncMode, put: Callable[[Path], None]
) -> None:
    with FlashQ(FileBackend(str(tmp_path), disk=FaultyDisk())) as flashq:
        flashq.post_record("t", "kept")
        flashq.post_record("u", "kept")
    backend = FileBackend(str(tmp_path), sync_mode=mode, disk=FaultyDisk())
    loop = Loop()
    backend.drive_from_loop(cast(asyncio.AbstractEventLoop, loop))
    active = tmp_path / "topics" / "t" / "0" / f"{0:020}.log"
    aside = active.rename(tmp_path / "aside")
    put(active)
    told: list[Append] = []
    posts = [post(backend.topics["t"]), post(backend.topics["u"])]
    for append in posts:
        append.add_done_callback(told.append)
    loop.run_until(lambda: len(told) == 2)
    post(backend.topics["u"]).add_done_callback(told.append)
    loop.run_until(lambda: len(told) == 3)
    assert isinstance(posts[0].error, StorageFailed)
    assert posts[0].error.outcome == "not_applied"
    assert [append.error for append in told if append is not posts[0]] == [None, None]
    with pytest.raises(StorageFailed):
        post(backend.topics["t"])
    with pytest.raises(StorageFailed):
        backend.close()
    aside.rename(active)
    again = FileBackend(str(tmp_path), disk=FaultyDisk())
    assert [again.topics[name].high_water_mark for name in ("t", "u")] == [1, 3]
    again.close()


def test_a_journal_that_cannot_write_does_not_keep_the_others_of_the_tick_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FileBackend(str(tmp_path), disk=FaultyDisk())
    loop = Loop()
    backend.drive_from_loop(cast(asyncio.AbstractEventLoop, loop))
    logs = [backend.create_topic(name, TopicConfig())[0] for name in ("t", "u")]
    told: list[Append] = []

    def out_of_memory(self: Segment, batches: Sequence[Batch], *, make_room: bool) -> None:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(Segment, "append", out_of_memory)
    for turn in range(1, 3):
        for log in logs:
            post(log).add_done_callback(told.append)
        loop.run_until(lambda turn=turn: len(told) == (1, 4)[turn - 1])  # type: ignore[misc]
    assert [log.durable_offset for log in logs] == [2, 2]
    assert not any(append.error for append in told)
    backend.close()


def test_a_reader_who_fails_on_hearing_of_a_post_costs_no_poster_the_answer(tmp_path: Path) -> None:
    def fail() -> None:
        failed.append(threading.get_ident())
        raise RuntimeError("a reader's mistake")

    failed: list[int] = []
    backend = FileBackend(str(tmp_path), sync_mode="never", disk=FaultyDisk())
    log, _ = backend.create_topic("t", TopicConfig())
    log.on_advance = fail
    assert post(log).result().batch.base_offset == 0
    loop = Loop()
    backend.drive_from_loop(cast(asyncio.AbstractEventLoop, loop))
    told: list[Append] = []
    post(log).add_done_callback(told.append)
    loop.run_until(lambda: len(told) == 1)
    assert len(failed) == 2
    backend.close()
