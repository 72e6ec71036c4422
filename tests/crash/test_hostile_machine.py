"""What a machine does to a server: other starters, a clock that jumps, a pause, directories that are not its own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.cli import exit_codes
from flashq.storage.file.directory_lock import LOCK_NAME
from tests.crash.checker import check
from tests.crash.history import HistoryFile, read_history
from tests.crash.rounds import load_process, read_back, wait_until_ended, wait_until_loading
from tests.http.serving import eventually
from tests.server.running import SCRIPT, Process, flashq, serving

pytestmark = pytest.mark.crash
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take the place of another user or to mount")
STARTERS = 20
ON = ("--sync-mode", "periodic", "--data-dir")
"""A mode in which each start after a kill raises the epoch, once."""
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *SCRIPT)
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
HOUR_S, YEAR_S = 3600, 365 * 86_400


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


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (Debian: faketime)")
def test_a_clock_an_hour_back_and_a_year_on_moves_no_timestamp_back_and_no_timeout(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    data_dir, clock = tmp_path / "data", tmp_path / "clock"
    environ = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    stamps: list[str] = []
    shifts = (0, -HOUR_S, -HOUR_S, YEAR_S, 0)
    clock.write_text("+0")
    by_interval = ("--sync-mode", "periodic", "--commit-threshold", "1000", "--sync-interval-s", "0.5")
    with serving(data_dir, *by_interval, environ=environ) as server:
        for shift in shifts:
            begun_s = time.monotonic()
            with server.connect() as waiting:
                waiting.send(waiting.encode("GET", f"/topics/t/records?from_offset={len(stamps)}&timeout_ms=700"))
                time.sleep(0.1)
                clock.write_text(f"{shift:+}")
                assert waiting.receive().status in (200, 404)
            if stamps:
                assert 0.6 < time.monotonic() - begun_s < 5
                assert eventually(partial(is_synced, server, "t", len(stamps)))
            stamps.append(server.post("t", f"{shift}")[0]["timestamp"])
    assert stamps == sorted(stamps)
    year = time.gmtime().tm_year
    assert [int(stamp[:4]) - year for stamp in stamps] == [0, 0, 0, 1, 1]
    with serving(data_dir) as server:  # with the clock of this machine, a year before its last record
        stamps.append(server.post("t", "after")[0]["timestamp"])
        assert [record["timestamp"] for record in server.read_all("t")] == stamps == sorted(stamps)
    tell(f"clock moved by {', '.join(map(str, shifts))} s: {', '.join(stamps)}")


def is_synced(server: Process, topic: str, records: int) -> bool:
    synced: int = server.ask("GET", f"/topics/{topic}").json()["durable_offset"]
    return synced == records


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
