"""Threads and clocks around one log: nobody waits for ever, nothing is done twice."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.batch import encode
from flashq.errors import DataCorruption, StorageFailed
from flashq.record import NO_HEADERS
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.topic_log import FileTopicLog
from flashq.storage.interface import SYNC_MODES, Append, SyncMode, TopicConfig, TopicLog
from flashq.testing.faulty_disk import FaultyDisk
from tests.http.serving import eventually


def post(log: TopicLog, value: bytes = b"x") -> Append:
    return log.append(encode([(None, value, NO_HEADERS)], 1))


@pytest.mark.parametrize("mode", SYNC_MODES)
def test_threads_that_wait_and_threads_that_are_called_back_all_hear_while_the_log_rolls(
    tmp_path: Path, mode: SyncMode
) -> None:
    backend = FileBackend(str(tmp_path), sync_mode=mode, commit_threshold=2, sync_interval_s=0.001, disk=FaultyDisk())
    log, _ = backend.create_topic("t", TopicConfig(segment_bytes=1024))
    heard = threading.Semaphore(0)
    count = 150

    def wait() -> None:
        for _ in range(count):
            post(log, b"w" * 200).result()
            heard.release()

    def listen() -> None:
        for _ in range(count):
            post(log, b"l" * 200).add_done_callback(lambda append: heard.release())

    threads = [threading.Thread(target=target, daemon=True) for target in (wait, wait, listen, listen)]
    for thread in threads:
        thread.start()
    for number in range(4 * count):
        assert heard.acquire(timeout=10), f"{number} of {4 * count} heard"
    for thread in threads:
        thread.join()
    backend.close()
    assert log.durable_offset == 4 * count


def test_the_interval_and_the_posts_never_wait_for_each_other(tmp_path: Path) -> None:
    """The watcher takes journals' locks and journals take the watcher's: once in opposite orders, for ever."""
    backend = FileBackend(
        str(tmp_path), sync_mode="periodic", commit_threshold=1, sync_interval_s=1e-5, disk=FaultyDisk()
    )
    flashq = FlashQ(backend)
    finished = threading.Semaphore(0)

    def run(topic: str) -> None:
        for _ in range(800):
            flashq.post_record(topic, "x")
        finished.release()

    for number in range(3):
        threading.Thread(target=run, args=(f"t{number}",), daemon=True).start()
    for _ in range(3):
        assert finished.acquire(timeout=20)
    flashq.close()


def test_under_periodic_the_interval_syncs_what_the_threshold_does_not(tmp_path: Path) -> None:
    synced = threading.Event()

    class Watched(FaultyDisk):
        def sync(self, file: OpenFile) -> None:
            super().sync(file)
            if armed:
                synced.set()

    armed = False
    backend = FileBackend(
        str(tmp_path), sync_mode="periodic", commit_threshold=1000, sync_interval_s=0.01, disk=Watched()
    )
    flashq = FlashQ(backend)
    flashq.create_topic("t")
    armed = True
    flashq.post_record("t", "x")
    assert synced.wait(10)
    flashq.close()
    assert flashq.backend.topics["t"].durable_offset == 1


def test_under_periodic_the_threshold_syncs_what_the_interval_does_not(tmp_path: Path) -> None:
    backend = FileBackend(
        str(tmp_path), sync_mode="periodic", commit_threshold=3, sync_interval_s=1000, disk=FaultyDisk()
    )
    with FlashQ(backend) as flashq:
        flashq.post_records("t", ["a", "b"])
        time.sleep(0.05)
        assert flashq.backend.topics["t"].durable_offset == 0
        flashq.post_record("t", "c")
        assert eventually(lambda: flashq.backend.topics["t"].durable_offset == 3)


def test_the_interval_is_looked_at_once_an_interval_not_once_a_sync(tmp_path: Path) -> None:
    """Each look wakes a thread, which a server under load pays for with its own turn at the interpreter."""
    looks: list[float | None] = []

    def due() -> float | None:
        looks.append(look())
        return looks[-1]

    backend = FileBackend(str(tmp_path), sync_mode="periodic", commit_threshold=1, sync_interval_s=0.2)
    flashq = FlashQ(backend)
    flashq.create_topic("t")
    log = backend.topics["t"]
    assert isinstance(log, FileTopicLog)
    look, log.journal.due = log.journal.due, due  # type: ignore[method-assign]
    began = time.monotonic()
    posts = 0
    while time.monotonic() < began + 1:
        flashq.post_record("t", "x")
        posts += 1
    intervals = (time.monotonic() - began) / 0.2
    assert 1 <= len(looks) <= intervals + 1
    assert posts > 10 * len(looks)
    flashq.close()


def test_one_sync_serves_all_who_waited_for_it(tmp_path: Path) -> None:
    class Gate(Disk):
        syncs = 0
        closed = False

        def sync(self, file: OpenFile) -> None:
            if self.closed:
                self.syncs += 1
                begun.set()
                assert gate.wait(10)

    begun, gate = threading.Event(), threading.Event()
    disk = Gate()
    backend = FileBackend(str(tmp_path), disk=disk)
    log, _ = backend.create_topic("t", TopicConfig())
    disk.closed = True
    first = post(log)
    threading.Thread(target=first.result).start()
    assert begun.wait(10)
    called = threading.Semaphore(0)
    later = [post(log) for _ in range(50)]
    for append in later:
        append.add_done_callback(lambda append: called.release())
    assert log.high_water_mark == 0
    assert log.read(0) == []
    assert not any(append.done for append in (first, *later))
    gate.set()
    for _ in later:
        assert called.acquire(timeout=10)
    assert disk.syncs <= 3
    assert log.high_water_mark == log.durable_offset == 51
    backend.close()


@pytest.mark.parametrize("mode", SYNC_MODES)
def test_closing_completes_what_nobody_has_waited_for_yet(tmp_path: Path, mode: SyncMode) -> None:
    backend = FileBackend(str(tmp_path), sync_mode=mode, disk=FaultyDisk())
    log, _ = backend.create_topic("t", TopicConfig(segment_bytes=1024))
    post(log, b"x" * 1100).result()
    appends = [post(log) for _ in range(5)]
    backend.close()
    assert [append.result().batch.base_offset for append in appends] == [1, 2, 3, 4, 5]
    assert log.durable_offset == 6
    again = FileBackend(str(tmp_path), disk=FaultyDisk())
    assert again.topics["t"].high_water_mark == 6
    again.close()


def test_closing_completes_a_repeated_post_that_wants_another_sync_than_the_last(tmp_path: Path) -> None:
    class Gate(FaultyDisk):
        closed = False

        def sync(self, file: OpenFile) -> None:
            if self.closed:
                syncing.set()
                assert gate.wait(10)

    syncing, gate = threading.Event(), threading.Event()
    disk = Gate()
    backend = FileBackend(str(tmp_path), sync_mode="never", disk=disk)
    log, _ = backend.create_topic("t", TopicConfig())
    assert isinstance(log, FileTopicLog)
    first = post(log).result()
    disk.closed = True
    closing = threading.Thread(target=log.close)
    closing.start()
    assert syncing.wait(10)
    again = log.journal.follow(first, durable=True)
    assert not again.done
    gate.set()
    closing.join()
    assert again.done
    assert again.error is None
    backend.close()


def test_what_is_posted_while_retention_rolls_is_synced_though_nobody_blocks_for_it(tmp_path: Path) -> None:
    class Slow(FaultyDisk):
        def open(self, path: str, *, create: bool = False, write: bool = False) -> OpenFile:
            if create and path.endswith(f"{1:020}.log"):
                rolling.set()
                assert go_on.wait(10)
            return super().open(path, create=create, write=write)

    rolling, go_on, called = threading.Event(), threading.Event(), threading.Event()
    backend = FileBackend(str(tmp_path), disk=Slow())
    log, _ = backend.create_topic("t", TopicConfig(retention_ms=1000))
    assert isinstance(log, FileTopicLog)
    post(log).result()
    retention = threading.Thread(target=log.retain, args=(1 << 50,))
    retention.start()
    assert rolling.wait(10)
    post(log).add_done_callback(lambda append: called.set())
    while log.journal._has_worker:  # it finds nothing that it could do, and leaves
        time.sleep(0.001)
    go_on.set()
    assert called.wait(10)
    retention.join()
    backend.close()


def test_an_error_that_is_raised_again_and_again_does_not_collect_its_callers(tmp_path: Path) -> None:
    def depth(error: BaseException) -> int:
        trace, depth = error.__traceback__, 0
        while trace is not None:
            trace, depth = trace.tb_next, depth + 1
        return depth

    with FlashQ.open(tmp_path) as flashq:
        flashq.post_record("t", "x")
        flashq.post_record("u", "x")
        flashq.create_consumer_group("g")
    log = tmp_path / "topics" / "t" / "0" / f"{0:020}.log"
    log.write_bytes(b"\xff" + log.read_bytes()[1:])
    (tmp_path / "topics" / "u" / "topic.json").write_bytes(b"")
    group = tmp_path / "groups" / "g.log"
    group.write_bytes(b"\xff" + group.read_bytes()[1:])
    with FlashQ.open(tmp_path) as flashq:
        for use in (
            lambda: flashq.poll_records("t"),
            lambda: flashq.poll_records("u"),
            lambda: flashq.consumer_group_offset("g", "t"),
        ):
            depths = []
            for _ in range(4):
                with pytest.raises(DataCorruption) as damaged:
                    use()
                depths.append(depth(damaged.value))
            assert depths[0] == depths[-1]


def test_a_write_that_fails_while_a_sync_runs_fails_once_and_answers_everyone(tmp_path: Path) -> None:
    class Torn(Disk):
        armed = False

        def sync(self, file: OpenFile) -> None:
            if self.armed:
                begun.set()
                assert gate.wait(10)
                raise OSError(5, "Input/output error")

        def write(self, file: OpenFile, data: bytes | bytearray, position: int) -> None:
            if self.armed and begun.is_set():
                raise OSError(5, "Input/output error")
            super().write(file, data, position)

    begun, gate = threading.Event(), threading.Event()
    disk = Torn()
    backend = FileBackend(str(tmp_path), disk=disk)
    log, _ = backend.create_topic("t", TopicConfig())
    disk.armed = True
    first = post(log)
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(StorageFailed):
            first.result()
        ended.set()

    threading.Thread(target=wait).start()
    assert begun.wait(10)
    second = post(log)
    log.journal.write()  # type: ignore[attr-defined]
    assert isinstance(second.error, StorageFailed)
    gate.set()
    assert ended.wait(10)
    assert first.error is second.error
    with pytest.raises(StorageFailed):
        backend.close()
