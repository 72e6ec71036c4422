"""Syncs that the kernel does while the event loop goes on: the same promises, told on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from flashq.batch import encode
from flashq.errors import StorageFailed
from flashq.record import NO_HEADERS
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.kernel_sync import MAX_IN_FLIGHT, Ended, KernelSync, error_of
from flashq.storage.interface import SYNC_MODES, Append, SyncMode, TopicConfig, TopicLog

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernel AIO is Linux's")


class CountingDisk(Disk):
    """Counts who syncs files, and may have the kernel's next sync fail with an errno."""

    def __init__(self) -> None:
        self.by_kernel = self.by_thread = 0
        self.fail_with: int | None = None

    def sync(self, file: OpenFile) -> None:
        self.by_thread += 1
        super().sync(file)

    def begin_sync(self, file: OpenFile, ended: Ended) -> bool:
        code, self.fail_with = self.fail_with, None
        failing: Ended = lambda error: ended(OSError(code, "injected")) if code else ended(error)  # noqa: E731
        begun = super().begin_sync(file, failing)
        self.by_kernel += begun
        return begun


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  a turn of the loop is what is waited for
            await asyncio.sleep(0)


def post(log: TopicLog, done: list[Append], value: bytes = b"x" * 100, *, durable: bool = False) -> None:
    log.append(encode([(None, value, NO_HEADERS)], 1), durable=durable).add_done_callback(done.append)


@pytest.mark.parametrize("mode", SYNC_MODES)
def test_what_waits_for_the_disk_is_synced_by_the_kernel_and_rolls_by_threads(tmp_path: Path, mode: SyncMode) -> None:
    disk = CountingDisk()
    backend = FileBackend(str(tmp_path), sync_mode=mode, disk=disk)

    async def main() -> None:
        backend.drive_from_loop(asyncio.get_running_loop())
        log, _ = backend.create_topic("t", TopicConfig(segment_bytes=4096))
        done: list[Append] = []
        for number in range(1, 201):
            post(log, done, durable=number % 7 == 0)
            if number % 3 == 0:
                await until(lambda number=number: len(done) == number)  # type: ignore[misc]
                if mode == "always":
                    assert log.durable_offset == log.high_water_mark == number
        await until(lambda: len(done) == 200)
        assert all(append.error is None for append in done)
        assert [append.batch.base_offset for append in log_order(done)] == list(range(200))
        backend.leave_loop()

    asyncio.run(main())
    assert disk.by_kernel > 10, "the loop's syncs must be the kernel's"
    assert disk.by_thread > 3, "each roll syncs what it seals"
    backend.close()
    with_all = FileBackend(str(tmp_path))
    assert with_all.topics["t"].high_water_mark == 200
    with_all.close()


def log_order(done: list[Append]) -> list[Append]:
    return sorted(done, key=lambda append: append.batch.base_offset)


def test_a_sync_that_fails_in_the_kernel_stops_the_log(tmp_path: Path) -> None:
    disk = CountingDisk()
    backend = FileBackend(str(tmp_path), disk=disk)

    async def main() -> None:
        backend.drive_from_loop(asyncio.get_running_loop())
        log, _ = backend.create_topic("t", TopicConfig())
        done: list[Append] = []
        post(log, done)
        await until(lambda: len(done) == 1)
        disk.fail_with = errno.EIO
        post(log, done)
        await until(lambda: len(done) == 2)
        assert isinstance(done[1].error, StorageFailed)
        assert done[1].error.outcome == "unknown"
        assert log.high_water_mark == 1, "what may be lost is not readable"
        with pytest.raises(StorageFailed) as refused:
            post(log, done)
        assert refused.value.outcome == "not_applied"
        backend.leave_loop()

    asyncio.run(main())
    with pytest.raises(StorageFailed):
        backend.close()


def test_other_threads_sync_delete_and_close_beside_the_loop(tmp_path: Path) -> None:
    backend = FileBackend(str(tmp_path))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        backend.drive_from_loop(loop)
        logs = [backend.create_topic(f"t{number}", TopicConfig(segment_bytes=2048))[0] for number in range(4)]
        done: list[Append] = []

        def from_a_thread() -> None:
            for _ in range(50):
                for log in logs:
                    log.append(encode([(None, b"y" * 50, NO_HEADERS)], 1)).result()

        threads = [threading.Thread(target=from_a_thread, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            for log in logs:
                post(log, done)
            await asyncio.sleep(0.001)
        await until(lambda: len(done) == 200 and not any(thread.is_alive() for thread in threads))
        assert [log.high_water_mark for log in logs] == [150] * 4
        post(logs[0], done)
        await loop.run_in_executor(None, backend.delete_topic, "t0")
        await until(lambda: len(done) == 201)
        for log in logs[1:]:
            post(log, done)
        await asyncio.sleep(0)  # written, and on its way to the disk
        backend.leave_loop()
        assert len(done) == 204, "nothing is under way any more"

    asyncio.run(main())
    backend.close()


def test_the_kernels_error_comes_as_its_errno() -> None:
    error = error_of((1 << 64) - errno.EIO)
    assert (error.errno, error.strerror) == (errno.EIO, os.strerror(errno.EIO))


def test_what_the_kernel_does_not_take_is_refused_and_nothing_is_owed(tmp_path: Path) -> None:
    async def main() -> None:
        kernel = KernelSync(asyncio.get_running_loop())
        heard: list[OSError | None] = []
        reading, writing = os.pipe()
        assert not kernel.begin(reading, heard.append), "a pipe cannot be synced"
        with (tmp_path / "file").open("wb") as file:
            begun = [kernel.begin(file.fileno(), heard.append) for _ in range(MAX_IN_FLIGHT + 1)]
            assert begun == [True] * MAX_IN_FLIGHT + [False]
            kernel.close()
            assert heard == [None] * MAX_IN_FLIGHT
            assert not kernel.begin(file.fileno(), heard.append)
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


class Failing:
    """A context whose next wait fails as io_getevents may."""

    def __init__(self, context: Any, code: int) -> None:
        self._context = context
        self._code: int | None = code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def process_events(self, *args: int, **kwargs: int) -> Any:
        code, self._code = self._code, None
        if code is not None:
            raise SystemError(code, os.strerror(code))
        return self._context.process_events(*args, **kwargs)


def test_a_signal_does_not_end_the_wait_for_what_is_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        for code, ends in ((errno.EINTR, True), (errno.EINVAL, False)):
            kernel = KernelSync(asyncio.get_running_loop())
            heard: list[OSError | None] = []
            with (tmp_path / "file").open("wb") as file:
                assert kernel.begin(file.fileno(), heard.append)
                kernel._context = cast("Any", Failing(kernel._context, code))
                with contextlib.nullcontext() if ends else pytest.raises(SystemError):
                    kernel.close()
                assert heard == [None] * ends
                kernel.close()
                assert heard == [None]

    asyncio.run(main())
