"""The directory of a running server is taken from it under load: nothing can be written there, or it is elsewhere."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from flashq.cli.exit_codes import STORAGE
from flashq.storage.file.verify import verify_directory
from tests.crash.checker import check
from tests.crash.history import History, HistoryFile, Post, read_history
from tests.crash.machine import power_cut_machine, why_no_power_cut
from tests.crash.records import StoredRecord
from tests.crash.rounds import load_process, read_back, wait_until_ended, wait_until_loading
from tests.crash.things import look, things_beside
from tests.crash.wire import Connection
from tests.server.running import Process, assert_clean, flashq, serving

pytestmark = pytest.mark.crash
TOPIC = "t"
SMALL_SEGMENTS = ("--segment-bytes", "8192")
BEFORE_S, AFTER_S = 0.5, 1.0


@contextmanager
def under_load(server: Process, path: Path, seed: int) -> Iterator[None]:
    """Clients are at work from some time before the body until some time after."""
    options = {"port": server.port, "topic": TOPIC, "history": path, "run": "lost", "prefix": "", "seed": seed}
    with load_process(options) as load:
        wait_until_loading(load)
        time.sleep(BEFORE_S)
        yield
        time.sleep(AFTER_S)
        assert load.stdin is not None
        load.stdin.close()
        wait_until_ended(load)


def posts_since(path: Path, begun_ns: int) -> list[Post]:
    return [post for post in read_history(path).posts.values() if post.begun_ns > begun_ns]


def assert_refused_for_the_disk(posts: list[Post]) -> None:
    """But for those that no disk would take: unknown while the first write fails, and from then on not applied."""
    refused = [post for post in posts if post.status not in (400, 412)]
    assert {post.status for post in refused} == {503}, {post.status for post in posts}
    known_ns = first_not_applied_ns(refused)
    assert {post.outcome for post in refused if post.begun_ns > known_ns} == {"not_applied"}


def first_not_applied_ns(posts: list[Post]) -> float:
    """When the first answer came that refuses a post without a try."""
    return min(post.ended_ns or inf for post in posts if (post.status, post.outcome) == (503, "not_applied"))


def assert_unhealthy(server: Process, why: str) -> None:
    health = server.ask("GET", "/health")
    assert (health.status, health.json()["status"]) == (503, "unhealthy")
    assert why in health.body.decode()


def told(posts: list[Post]) -> str:
    fates = Counter(post.fate for post in posts)
    return ", ".join(f"{number} {fate}" for fate, number in fates.items())


def read_again(data_dir: Path, path: Path, history: HistoryFile, seed: int) -> tuple[History, list[StoredRecord]]:
    """All that was told, and what a new server on the directory has."""
    assert verify_directory(data_dir).damage == []
    with serving(data_dir) as server:
        stored = read_back(server.port, TOPIC, history, random.Random(seed))
        with Connection(server.port) as connection:
            for thing in things_beside(TOPIC):
                look(connection, history, thing)
        assert server.ask("GET", "/health").json()["status"] == "healthy"
        assert server.post(TOPIC, "goes on")[0]["offset"] == len(stored)
    return read_history(path), stored


@pytest.mark.skipif(bool(why_no_power_cut()), reason=f"no file system of its own: {why_no_power_cut()}")
def test_on_a_file_system_that_becomes_read_only_posts_are_refused_reads_go_on_and_nothing_is_lost(
    seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    path = tmp_path / "history.jsonl"
    with power_cut_machine(tmp_path / "machine") as machine, HistoryFile(path) as history:
        with flashq("--data-dir", str(machine.data_dir), log=tmp_path / "server.log") as server:
            server.wait_until_listening()
            with under_load(server, path, seed):
                history.power_cut_begins()  # a sync that is under way may or may not last
                machine.make_read_only()
                read_only_ns = time.monotonic_ns()
            since = posts_since(path, read_only_ns)
            assert_refused_for_the_disk(since)
            reads = [read for read in read_history(path).reads if read.begun_ns > read_only_ns]
            assert reads
            assert {read.status for read in reads} == {200}
            assert_unhealthy(server, "Read-only file system")
            assert server.stop() == STORAGE
            assert_clean(server)
        history.server_killed()
        machine.come_back()
        recorded, stored = read_again(machine.data_dir, path, history, seed)
    assert check(recorded, stored) == []
    tell(f"{len(recorded.posts)} posts, {len(since)} of them since: {told(since)}; {len(reads)} reads meanwhile")


def test_a_directory_that_is_renamed_under_its_server_loses_nothing_and_posts_are_refused_once_a_file_cannot_be_made(
    seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    data_dir, elsewhere, path = tmp_path / "data", tmp_path / "elsewhere", tmp_path / "history.jsonl"
    with HistoryFile(path) as history:
        with flashq(*SMALL_SEGMENTS, "--data-dir", str(data_dir), log=tmp_path / "server.log") as server:
            server.wait_until_listening()
            with under_load(server, path, seed):
                data_dir.rename(elsewhere)
                renamed_ns = time.monotonic_ns()
            since = posts_since(path, renamed_ns)
            assert_refused_for_the_disk([post for post in since if post.status != 200])
            known_ns = first_not_applied_ns(since)
            assert 200 not in {post.status for post in since if post.begun_ns > known_ns}
            assert_unhealthy(server, "No such file or directory")
            assert server.stop() == STORAGE
            assert_clean(server)
        assert not data_dir.exists()
        recorded, stored = read_again(elsewhere, path, history, seed)
    of_the_active_segment = [read for read in recorded.reads if read.status == 200]
    lost = {read.status for read in recorded.reads if read.begun_ns > renamed_ns} - {200}
    assert lost <= {500}, "a sealed segment is opened when it is read, and is not where it was"
    assert check(replace(recorded, reads=of_the_active_segment), stored) == []
    tell(f"{len(recorded.posts)} posts, {len(since)} of them since: {told(since)}; reads refused with {lost}")
