"""One process per directory, and nothing in it trusted that is not ours."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashq import DirectoryLocked, FlashQ
from flashq.errors import DataCorruption, FlashQError
from flashq.storage.file.directory_lock import LOCK_NAME, check_not_locked
from flashq.storage.file.names import file_name

HOLD = """
import sys
from flashq import FlashQ
flashq = FlashQ.open(sys.argv[1])
flashq.post_record("t", "held")
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the directory open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def listing(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted([directory, *directory.rglob("*")])
    }


def test_a_second_process_is_told_who_holds_the_directory_and_changes_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / "data") as process:
        before = listing(tmp_path / "data")
        begun = time.monotonic()
        with pytest.raises(DirectoryLocked, match=rf"process {process.pid}\b") as locked:
            FlashQ.open(tmp_path / "data")
        assert time.monotonic() - begun < 1
        assert locked.value.details["holder_pid"] == str(process.pid)
        assert listing(tmp_path / "data") == before


def test_after_a_kill_the_next_start_needs_no_help(tmp_path: Path) -> None:
    with holder(tmp_path / "data") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with FlashQ.open(tmp_path / "data") as flashq:
            assert flashq.poll_records("t")[0].text == "held"
            assert (tmp_path / "data" / ".flashq.lock").read_text() == f"{os.getpid()}\n"


def test_the_process_id_in_the_lock_file_decides_nothing(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock = tmp_path / "data" / LOCK_NAME
    with holder(tmp_path / "data"):
        for left in (f"{ended.pid}\n", "no number", ""):
            lock.write_text(left)
            with pytest.raises(DirectoryLocked):
                FlashQ.open(tmp_path / "data")
            assert lock.read_text() == left
    for left in (f"{os.getppid()}\n", "no number", ""):
        lock.write_text(left)
        FlashQ.open(tmp_path / "data").close()


def test_a_second_opener_in_the_same_process_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path), pytest.raises(DirectoryLocked):
        FlashQ.open(tmp_path)
    FlashQ.open(tmp_path).close()


def test_a_starter_that_only_looks_is_not_taken_for_the_holder_by_another(tmp_path: Path) -> None:
    FlashQ.open(tmp_path).close()
    with (tmp_path / LOCK_NAME).open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        check_not_locked(str(tmp_path))
    with FlashQ.open(tmp_path), pytest.raises(DirectoryLocked):
        check_not_locked(str(tmp_path))


def test_a_start_that_fails_lets_go_of_the_directory(tmp_path: Path) -> None:
    FlashQ.open(tmp_path).close()
    good = (tmp_path / "flashq.json").read_bytes()
    (tmp_path / "flashq.json").write_bytes(b"{}")
    with pytest.raises(FlashQError):
        FlashQ.open(tmp_path)
    (tmp_path / "flashq.json").write_bytes(good)
    FlashQ.open(tmp_path).close()


def test_a_lock_file_that_is_a_link_is_refused_and_not_followed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (data / ".flashq.lock").symlink_to(victim)
    with pytest.raises(DataCorruption):
        FlashQ.open(data)
    assert victim.read_text() == "precious"
    assert os.listdir(data) == [".flashq.lock"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with FlashQ.open(tmp_path / "data") as flashq:
        for topic in ("bad", "good"):
            flashq.post_record(topic, "kept")
        flashq.create_consumer_group("bad")
    return tmp_path / "data"


def replace_by_link(path: Path) -> None:
    data = next(parent for parent in path.parents if parent.name == "data")
    elsewhere = data.with_name(f"moved-{path.name}")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replace_by_fifo(path: Path) -> None:
    path.rename(f"{path}.aside")
    os.mkfifo(path)


def replace_by_directory(path: Path) -> None:
    path.rename(f"{path}.aside")
    path.mkdir()


def give_away(path: Path) -> None:
    os.chown(path, 12345, -1, follow_symlinks=False)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.mark.parametrize(
    "replace",
    [replace_by_link, replace_by_fifo, replace_by_directory, pytest.param(give_away, marks=needs_root)],
)
@pytest.mark.parametrize("name", ["topic.json", f"0/{0:020}.log", "0", "."])
def test_a_file_that_is_not_ours_makes_its_topic_unreadable_and_no_other(
    data: Path, replace: Callable[[Path], None], name: str
) -> None:
    path = data / "topics" / "bad" / name
    if name in ("0", ".") and replace is replace_by_directory:
        pytest.skip("it is a directory")
    if name == "." and replace is replace_by_fifo:
        pytest.skip("a FIFO there is no topic")
    replace(path)
    with FlashQ.open(data) as flashq:
        assert flashq.health().status == "degraded"
        assert flashq.poll_records("good")[0].text == "kept"
        for use in (lambda: flashq.poll_records("bad"), lambda: flashq.post_record("bad", "x")):
            with pytest.raises(DataCorruption):
                use()
        assert flashq.post_record("good", "goes on") == 1


def test_a_linked_topic_is_not_touched_where_it_leads(data: Path) -> None:
    topic = data / "topics" / "bad"
    log = topic / "0" / f"{0:020}.log"
    log.write_bytes(log.read_bytes() + b"torn")
    replace_by_link(topic)
    before = log.read_bytes()
    FlashQ.open(data).close()
    assert log.read_bytes() == before
    assert os.listdir(log.parent) == [log.name]


@pytest.mark.parametrize("replace", [replace_by_link, replace_by_fifo, pytest.param(give_away, marks=needs_root)])
def test_a_group_file_that_is_not_ours_makes_that_group_unreadable(data: Path, replace: Callable[[Path], None]) -> None:
    replace(data / "groups" / "bad.log")
    with FlashQ.open(data) as flashq:
        with pytest.raises(DataCorruption):
            flashq.consumer_group_offset("bad", "good")
        assert flashq.health().status == "degraded"


def test_unknown_files_are_ignored_and_kept(data: Path) -> None:
    unknown = [
        data / "README",
        data / "topics" / "notes.txt",
        data / "topics" / "bad" / "notes.txt",
        data / "topics" / "bad" / "0" / "notes.txt",
        data / "topics" / "bad" / "0" / "1.log",
        data / "topics" / "bad" / "0" / f"{5:020}.log.bak",
        data / "groups" / "notes.txt",
    ]
    for path in unknown:
        path.write_text("mine")
    with FlashQ.open(data) as flashq:
        assert flashq.health().status == "healthy"
        assert flashq.topics() == ["bad", "good"]
        assert flashq.consumer_groups() == ["bad"]
        flashq.post_record("bad", "x")
    assert all(path.read_text() == "mine" for path in unknown)


def test_what_is_foreign_but_named_as_ours_cannot_be_read_and_is_left_alone(data: Path) -> None:
    foreign = [
        data / "topics" / "mine" / "topic.json",
        data / "topics" / "mine too" / "0" / "x",
        data / "groups" / "x.log",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    with FlashQ.open(data) as flashq:
        assert flashq.health().status == "degraded"
        assert len(flashq.health().problems) == len(foreign)
        assert flashq.post_record("good", "goes on") == 1
    assert [path.read_text() for path in foreign] == ["mine"] * len(foreign)


def test_what_a_crash_left_of_creating_and_deleting_is_removed_at_the_next_start(data: Path) -> None:
    topics = [data / "topics" / ".~new-x", data / "topics" / ".~deleted-123"]
    for path in topics:
        (path / "0").mkdir(parents=True)
        (path / "0" / f"{0:020}.log").write_bytes(b"x")
        (path / "link").symlink_to(data / "topics" / "good")
    groups = [data / "groups" / ".~new-x.log.new", data / "groups" / ".~deleted-123"]
    for path in groups:
        path.write_bytes((data / "groups" / "bad.log").read_bytes())
    with FlashQ.open(data) as flashq:
        assert flashq.poll_records("good")[0].text == "kept"
        assert flashq.consumer_groups() == ["bad"]
    assert not any(path.exists() for path in (*topics, *groups))


def test_names_that_differ_only_in_case_stay_apart_on_any_file_system(tmp_path: Path) -> None:
    names = ["news", "News", "NEWS", "nEwS", "n" * 255, "N" * 255, ".news", ".News"]
    assert len({file_name(name).lower() for name in names}) == len(names)
    assert max(len(file_name(name)) for name in names) <= 255 - len(".log.torn-20260101T000000Z-18446744073709551615")
    with FlashQ.open(tmp_path) as flashq:
        for name in names:
            flashq.post_record(name, name)
            flashq.create_consumer_group(name)
            flashq.commit_offset(name, name, 1)
    with FlashQ.open(tmp_path) as flashq:
        assert flashq.topics() == flashq.consumer_groups() == sorted(names)
        for name in names:
            assert [record.text for record in flashq.poll_records(name)] == [name]
            assert flashq.consumer_group_offset(name, name) == 1
        flashq.delete_topic("News")
        assert flashq.poll_records("news")[0].text == "news"


def test_files_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with FlashQ.open(tmp_path / "a" / "b" / "data", segment_bytes=1024) as flashq:
            for _ in range(4):
                flashq.post_record("t", "x" * 1100)
            flashq.create_consumer_group("g")
            flashq.commit_offset("g", "t", 1)
        log = tmp_path / "a" / "b" / "data" / "topics" / "t" / "0" / f"{3:020}.log"
        log.write_bytes(log.read_bytes()[:-3])
        FlashQ.open(tmp_path / "a" / "b" / "data").close()
    finally:
        os.umask(before)
    found = [tmp_path / "a", *(tmp_path / "a").rglob("*")]
    assert len(found) > 14
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_closed_flashq_holds_no_file_and_no_thread(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests have dropped goes now, not while this one counts
    files, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    opened = []
    for number in range(5):
        flashq = FlashQ.open(tmp_path / str(number), "periodic", segment_bytes=1024, retention_ms=1 << 40)
        for _ in range(3):
            flashq.post_records("t", ["x" * 600] * 12)
            flashq.poll_records("t")
        flashq.create_consumer_group("g")
        flashq.commit_offset("g", "t", 1)
        flashq.delete_topic("t")
        flashq.post_record("u", "x")
        flashq.close()
        opened.append(flashq)
    assert len(os.listdir("/proc/self/fd")) == files
    assert [thread.name for thread in set(threading.enumerate()) - threads] == []
