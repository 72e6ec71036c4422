"""What a machine does to a server: other starters, a clock that jumps, a pause, directories that are not its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.cli import exit_codes
from flashq.storage.file.directory_lock import LOCK_NAME
from tests.crash.checker import check, check_timestamps
from tests.crash.history import HistoryFile, read_history
from tests.crash.records import StoredRecord
from tests.crash.rounds import load_process, read_back, wait_until_ended, wait_until_loading
from tests.crash.wire import ConnectionLostError
from tests.server.running import JSON, SCRIPT, Process, flashq, serving

pytestmark = pytest.mark.crash
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take the place of another user or to mount")
STARTERS = 20
ON = ("--sync-mode", "periodic", "--data-dir")
"""A mode in which each start after a kill raises the epoch, once."""
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *SCRIPT)
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (Debian: faketime)")
HOUR_S, DAY_S, YEAR_S = 3600, 86_400, 365 * 86_400
SHIFTS_S = (0, -HOUR_S, -HOUR_S, YEAR_S, 0)
HEAD_S, IDLE_S = 0.5, 1.0
HURRIED = (
    sys.executable,
    "-c",
    f"""
import functools, sys
from flashq import server
from flashq.broker.retention import RetentionThread
from flashq.cli.main import main
server.Limits = functools.partial(server.Limits, head_timeout_s={HEAD_S}, idle_timeout_s={IDLE_S})
RetentionThread.__init__.__defaults__ = (0.05,)
sys.exit(main())
""",
)
"""The same server with short timeouts, and with retention at work twenty times a second."""
KEEPING = {
    "day": {"retention_ms": 1000 * DAY_S},
    "years": {"retention_ms": 2000 * YEAR_S},
    "none": {"retention_bytes": 1, "segment_bytes": 1024},
}


# -- starting


def test_of_twenty_that_start_on_one_directory_one_serves_and_the_others_say_who_and_change_nothing(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    data_dir = tmp_path / "data"
    winners, tellers = [], []
    for race in range(3):
        left_by_one = left_by_a_start_alone(data_dir, tmp_path / f"alone-{race}")
        with ExitStack() as stack:
            starters = [
                stack.enter_context(flashq(*ON, str(data_dir), log=tmp_path / f"{race}-{number}.log"))
                for number in range(STARTERS)
            ]
            lost = wait_for_losers(starters)
            (winner,) = [starter for starter in starters if starter not in lost]
            winner.wait_until_listening()
            for loser in lost:
                assert loser.wait() == exit_codes.LOCKED, loser.log()
                assert loser.log().count("\n") == 1
            unsure = [loser for loser in lost if "(process unknown)" in loser.log()]  # the winner was about to write it
            sure = [loser for loser in lost if f"(process {winner.pid})" in loser.log()]
            assert len(unsure) + len(sure) == len(lost), [loser.log() for loser in lost]
            assert sure
            assert everything_in(data_dir) == {**left_by_one, LOCK_NAME: b"%d\n" % winner.pid}
            assert winner.post("t", "stored")[0]["offset"] == race
            winners.append(starters.index(winner))
            tellers.append(len(sure))
            winner.kill()
    with FlashQ.open(data_dir) as flashq_:
        assert flashq_.high_water_mark("t") == 3
    tell(f"3 races, won by starters {winners}, whose process {tellers} of {STARTERS - 1} others named")


def left_by_a_start_alone(data_dir: Path, copy: Path) -> dict[str, bytes]:
    """What is in the directory once a server has started on it, found out with a copy."""
    if data_dir.exists():
        shutil.copytree(data_dir, copy)
    with flashq(*ON, str(copy), log=copy.with_suffix(".log")) as server:
        server.wait_until_listening()
        return everything_in(copy)


def wait_for_losers(starters: list[Process]) -> list[Process]:
    """The starters that have ended, once all but one have."""
    deadline_s = time.monotonic() + 120
    while len(lost := [each for each in starters if not each.is_running]) < len(starters) - 1:
        assert time.monotonic() < deadline_s, f"{len(lost)} of {len(starters)} have given up"
        time.sleep(0.05)
    return lost


def refused_to_start(data_dir: Path, log: Path, command: tuple[str, ...] = SCRIPT) -> str:
    """The one line a server says that cannot use this directory."""
    before = everything_in(data_dir)
    with flashq("--data-dir", str(data_dir), log=log, command=command) as server:
        assert server.wait(20) == exit_codes.STORAGE, server.log()
        assert server.log().count("\n") == 1, server.log()
    assert everything_in(data_dir) == before
    return server.log()


def everything_in(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"" for path in directory.rglob("*")
    }


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    run = partial(subprocess.run, check=True)
    run(["mount", "--bind", str(directory), str(directory)])
    try:
        run(["mount", "-o", "remount,ro,bind", str(directory)])
        yield
    finally:
        run(["umount", str(directory)])


@as_root
def test_a_read_only_directory_is_one_line_and_exit_code_5_and_serves_once_it_can_be_written(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir) as server:
        server.post("t", "kept")
    with read_only(data_dir):
        said = refused_to_start(data_dir, tmp_path / "log")
    with serving(data_dir) as server:
        assert [record["value"] for record in server.read_all("t")] == ["kept"]
    tell(said.strip().replace(f"{tmp_path}/", ""))


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("mode", [0o700, 0o755], ids=oct)
def test_a_directory_of_another_user_is_one_line_and_exit_code_5_and_untouched(
    mode: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    data_dir = tmp_path / "data"
    with serving(data_dir) as server:
        server.post("t", "kept")
    data_dir.chmod(mode)
    said = refused_to_start(data_dir, tmp_path / "log", command=NOBODY)
    with serving(data_dir) as server:
        assert [record["value"] for record in server.read_all("t")] == ["kept"]
    tell(said.strip().replace(f"{tmp_path}/", ""))


# -- time


class Clock:
    """That of a server, moved while it runs. `is_all`: also the monotonic one, which no real machine moves."""

    def __init__(self, path: Path, *, is_all: bool = False) -> None:
        self._path = path
        self.environ = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "0" if is_all else "1",
        }
        self.move(0)

    def move(self, shift_s: int) -> None:
        """So far from the clock of this machine."""
        self._path.write_text(f"{shift_s:+}")


@needs_faketime
def test_a_clock_an_hour_back_and_a_year_on_moves_no_timestamp_back_and_no_timeout(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    data_dir, clock = tmp_path / "data", Clock(tmp_path / "clock")
    stamps: list[str] = []
    with serving(data_dir, "--sync-mode", "periodic", environ=clock.environ) as server:
        for shift_s in SHIFTS_S:
            begun_s = time.monotonic()
            with server.connect() as waiting:
                waiting.send(waiting.encode("GET", f"/topics/t/records?from_offset={len(stamps)}&timeout_ms=700"))
                time.sleep(0.1)
                clock.move(shift_s)
                assert waiting.receive().status in (200, 404)
            if stamps:
                assert 0.6 < time.monotonic() - begun_s < 5
            stamps.append(server.post("t", f"{shift_s}")[0]["timestamp"])
    year = time.gmtime().tm_year
    assert [int(stamp[:4]) - year for stamp in stamps] == [0, 0, 0, 1, 1]
    with serving(data_dir) as server:  # with the clock of this machine, a year before its last record
        stamps.append(server.post("t", "after")[0]["timestamp"])
        stored = [StoredRecord.from_json(record) for record in server.read_all("t")]
    assert [record.timestamp for record in stored] == stamps
    assert list(check_timestamps(stored)) == []
    tell(f"clock moved by {', '.join(map(str, SHIFTS_S))} s: {', '.join(stamps)}")


@needs_faketime
def test_a_clock_that_jumps_closes_no_connection_early_or_late(tmp_path: Path, tell: Callable[[str], None]) -> None:
    clock = Clock(tmp_path / "clock")
    with serving(tmp_path / "data", environ=clock.environ, command=HURRIED) as server:
        closed = [closing_times_s(server, clock, shift_s) for shift_s in (-HOUR_S, YEAR_S)]
    assert [too_early_or_late(*each) for each in closed] == [[], []]
    tell(f"heads were given up and idle connections closed after {closed} s; {HEAD_S} and {IDLE_S} were set")


@needs_faketime
def test_a_monotonic_clock_that_jumps_would_be_noticed(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock", is_all=True)
    with serving(tmp_path / "data", environ=clock.environ, command=HURRIED) as server:
        assert too_early_or_late(*closing_times_s(server, clock, YEAR_S)) == ["head", "idle"]
        server.kill()  # it cannot tell any more how long to wait for whom


def closing_times_s(server: Process, clock: Clock, shift_s: int) -> tuple[float, float]:
    """After what time the server gives up a head that stops midway, and a client that has asked and says no more."""
    with server.connect() as idle, socket.create_connection(("127.0.0.1", server.port), IDLE_S + 10) as slow:
        assert idle.request("GET", "/health").status == 200
        begun_s = time.monotonic()
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        time.sleep(0.2)
        clock.move(shift_s)
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        head_s = time.monotonic() - begun_s
        with pytest.raises(ConnectionLostError):
            idle.receive()
        return round(head_s, 2), round(time.monotonic() - begun_s, 2)


def too_early_or_late(head_s: float, idle_s: float) -> list[str]:
    return [
        name
        for name, took_s, timeout_s in (("head", head_s, HEAD_S), ("idle", idle_s, IDLE_S))
        if not timeout_s - 0.1 < took_s < timeout_s + 1.5
    ]


@needs_faketime
def test_a_clock_that_jumps_has_retention_take_what_is_old_by_it_and_nothing_else(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    clock, kept = Clock(tmp_path / "clock"), dict[int, list[int]]()
    with serving(tmp_path / "data", environ=clock.environ, command=HURRIED) as server:
        for topic, settings in KEEPING.items():
            assert server.ask("PUT", f"/topics/{topic}", json.dumps(settings).encode(), JSON).status == 201
        for number, shift_s in enumerate(SHIFTS_S):
            clock.move(shift_s)
            wait_for_sweeps(server)
            for topic in ("day", "years"):
                assert server.post(topic, "x")[0]["offset"] == number
            wait_for_sweeps(server)
            assert len(server.read_all("years")) == number + 1
            start = server.ask("GET", "/topics/day").json()["log_start_offset"]
            kept[number] = [record["offset"] for record in server.poll("day", from_offset=start)["records"]]
    assert kept == {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [3], 4: [3, 4]}
    tell(f"of a topic that keeps a day: {list(kept.values())}")


def wait_for_sweeps(server: Process) -> None:
    """Two: one may have begun before. A topic that has room for nothing shows them, and comes after the others."""
    for _ in range(2):
        end = server.post("none", "x" * 2000)[0]["offset"]
        wait_until(lambda end=end: server.ask("GET", "/topics/none").json()["log_start_offset"] == end)  # type: ignore[misc]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline_s, "not so after 5 s"
        time.sleep(0.02)


@needs_faketime
def test_a_clock_that_jumps_stops_no_periodic_sync(tmp_path: Path, tell: Callable[[str], None]) -> None:
    clock, took_s = Clock(tmp_path / "clock"), list[float]()
    arguments = ("--sync-mode", "periodic", "--commit-threshold", "1000000", "--sync-interval-s", "0.4")
    with serving(tmp_path / "data", *arguments, environ=clock.environ) as server:
        for end, shift_s in enumerate(SHIFTS_S, start=1):
            begun_s = time.monotonic()
            server.post("t", "x")
            clock.move(shift_s)  # between a write and its sync
            wait_until(lambda end=end: server.ask("GET", "/topics/t").json()["durable_offset"] == end)  # type: ignore[misc]
            took_s.append(round(time.monotonic() - begun_s, 2))
    assert all(0.3 < each < 2 for each in took_s[1:]), took_s  # the first one makes the topic
    tell(f"on disk after {took_s} s; the interval is 0.4")


@pytest.mark.parametrize("sync_mode", ["always", "periodic"])
def test_a_server_stopped_for_ten_seconds_under_load_goes_on_and_loses_nothing(
    sync_mode: str, seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryFile(path) as history, serving(tmp_path / "data", "--sync-mode", sync_mode) as server:
        options = {"port": server.port, "topic": "t", "history": path, "run": "pause", "prefix": "", "seed": seed}
        with load_process(options) as load:
            wait_until_loading(load)
            time.sleep(0.5)
            os.kill(server.pid, signal.SIGSTOP)
            time.sleep(10)
            os.kill(server.pid, signal.SIGCONT)
            time.sleep(1)
            assert load.stdin is not None
            load.stdin.close()
            wait_until_ended(load)
        stored = read_back(server.port, "t", history, random.Random(seed))
        assert server.ask("GET", "/health").json()["status"] == "healthy"
    recorded = read_history(path)
    assert check(recorded, stored) == []
    fates = {post.fate for post in recorded.posts.values()}
    assert "unknown" not in fates
    tell(f"{len(recorded.posts)} posts, {len(stored)} records")
