"""Eight producers, eight readers, eight groups and sixteen topics at once: threads on one FlashQ, and clients of one
server, which in one test is killed meanwhile. Controls show that the same threads and clients find what is broken."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Unpack

import pytest

from flashq import FlashQ, Record
from flashq.broker.flashq import Conditions
from flashq.broker.polled import PolledRecords
from flashq.record import Postable
from flashq.storage.interface import SyncMode
from tests.crash.at_once import GROUPS, TOPICS, clients_at_once, histories, violations_of_server
from tests.crash.embedded import threads_at_once, violations_of_flashq
from tests.crash.history import Fate, read_history
from tests.crash.proxy import (
    Tamper,
    TamperingProxy,
    double_a_post,
    forge_an_acknowledgement,
    refuse_what_was_stored,
)
from tests.crash.violations import Broken, Violation
from tests.server.running import serving

SEGMENTS = ("--segment-bytes", "8192")
MODES = {mode: ("--sync-mode", mode) for mode in ("always", "periodic", "never")}


def names(found: Iterable[Violation]) -> set[Broken]:
    return {violation.broken for violation in found}


# -- threads


@pytest.mark.parametrize("sync_mode", ["always", "periodic", "never", None], ids=lambda mode: mode or "memory")
def test_threads_on_one_flashq_see_every_promise_kept(sync_mode: SyncMode | None, tmp_path: Path) -> None:
    data = tmp_path / "data"
    flashq = FlashQ() if sync_mode is None else FlashQ.open(data, sync_mode=sync_mode, segment_bytes=8192)
    with flashq, histories(tmp_path, 0) as targets:
        threads_at_once(flashq, targets)
        assert violations_of_flashq(tmp_path, flashq, targets) == []
    if sync_mode is not None:
        with FlashQ.open(data) as again, histories(tmp_path, 0) as targets:
            assert violations_of_flashq(tmp_path, again, targets) == []


Post = Callable[..., list[int]]
Fault = Callable[[Post, str, list[Record], Mapping[str, object]], list[int]]
"""Takes the way to post and what is posted; returns the offsets to tell."""


def say_a_wrong_offset(post: Post, topic: str, records: list[Record], conditions: Mapping[str, object]) -> list[int]:
    return [offset + 1 for offset in post(topic, records, **conditions)]


def store_twice(post: Post, topic: str, records: list[Record], conditions: Mapping[str, object]) -> list[int]:
    offsets = post(topic, records, **conditions)
    post(topic, records)
    return offsets


def let_others_between(post: Post, topic: str, records: list[Record], conditions: Mapping[str, object]) -> list[int]:
    """Whoever posts alone never notices."""
    first = post(topic, records[:1], **conditions)
    time.sleep(0.05)
    return first + post(topic, records[1:]) if records[1:] else first


class FaultyPosts(FlashQ):
    """Every tenth post is not as it should be."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._fault, self._calls = fault, count(1)

    def post_records(self, topic: str, records: Iterable[Postable], **conditions: Unpack[Conditions]) -> list[int]:
        if next(self._calls) % 10:
            return super().post_records(topic, records, **conditions)
        return self._fault(super().post_records, topic, list(records), conditions)  # type: ignore[arg-type]


class FaultyPolls(FlashQ):
    """Some polls leave out a record in the middle."""

    polls = 0

    def poll_records(self, topic: str, **range_: Any) -> PolledRecords:
        polled = super().poll_records(topic, **range_)
        self.polls += 1
        if len(polled) > 2 and self.polls % 10 == 0:
            del polled[1]
        return polled


class FaultyCommits(FlashQ):
    """After some commits it keeps no more of them."""

    commits = 0

    def commit_offset(self, group: str, topic: str, offset: int, metadata: str | None = None) -> None:
        self.commits += 1
        if self.commits < 20:
            super().commit_offset(group, topic, offset, metadata)


@pytest.mark.parametrize(
    ("faulty", "broken"),
    [
        pytest.param(partial(FaultyPosts, say_a_wrong_offset), Broken.MOVED, id="say_a_wrong_offset"),
        pytest.param(partial(FaultyPosts, store_twice), Broken.DOUBLED, id="store_twice"),
        pytest.param(partial(FaultyPosts, let_others_between), Broken.TORN, id="let_others_between"),
        pytest.param(FaultyPolls, Broken.HOLE, id="leave_a_record_out"),
        pytest.param(FaultyCommits, Broken.COMMIT_LOST, id="forget_commits"),
    ],
)
def test_threads_on_a_flashq_with_a_fault_find_it(faulty: Callable[[], FlashQ], broken: Broken, tmp_path: Path) -> None:
    with faulty() as flashq, histories(tmp_path, 0) as targets:
        threads_at_once(flashq, targets)
        assert broken in names(violations_of_flashq(tmp_path, flashq, targets))


# -- clients


@pytest.mark.parametrize("options", [*MODES.values(), ("--storage", "memory")], ids=lambda options: options[1])
def test_clients_of_one_server_see_every_promise_kept(options: tuple[str, ...], tmp_path: Path) -> None:
    with serving(tmp_path / "data", *SEGMENTS, *options) as server, histories(tmp_path, server.port) as targets:
        clients_at_once(targets)
        assert violations_of_server(tmp_path, targets) == []
    assert fates(tmp_path)["unknown"] == 0


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        (forge_an_acknowledgement, Broken.LOST),
        (double_a_post, Broken.DOUBLED),
        (refuse_what_was_stored, Broken.REFUSED_PRESENT),
    ],
    ids=lambda value: getattr(value, "name", None) or value.__name__,
)
def test_clients_behind_a_proxy_that_tampers_find_it(tamper: Tamper, broken: Broken, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "data", *SEGMENTS) as server,
        TamperingProxy(server.port, tamper) as proxy,
        histories(tmp_path, proxy.port) as targets,
    ):
        clients_at_once(targets)
        assert broken in names(violations_of_server(tmp_path, targets))


def test_groups_deleted_behind_the_backs_of_their_owners_are_found(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server, histories(tmp_path, server.port) as targets:
        clients_at_once(targets)
        for group in GROUPS.values():
            server.ask("DELETE", f"/consumer/{group}")
        assert names(violations_of_server(tmp_path, targets)) == {Broken.PRESENCE}


# -- a kill


def violations_after_a_kill(
    directory: Path, options: Sequence[str], after_s: float, damage: Callable[[], None] = lambda: None
) -> list[Violation]:
    """A server is killed under its clients; after `damage` another takes its place, with more of them."""
    data = directory / "data"
    with serving(data, *SEGMENTS, *options) as server, histories(directory, server.port) as targets:

        def kill() -> None:
            time.sleep(after_s)
            server.kill()
            for target in targets.values():
                target.history.server_killed()

        clients_at_once(targets, "before-", posts=sys.maxsize, strike=kill)
    assert fates(directory)["unknown"] > 0
    damage()
    with serving(data, *SEGMENTS, *options) as server, histories(directory, server.port) as targets:
        clients_at_once(targets, "after-", posts=10)
        return violations_of_server(directory, targets)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_a_kill_under_all_these_clients_loses_nothing(options: tuple[str, ...], seed: int, tmp_path: Path) -> None:
    after_s = random.Random(seed).uniform(0.1, 0.6)
    assert violations_after_a_kill(tmp_path, options, after_s) == []


def test_a_kill_that_takes_the_end_of_a_log_is_found(tmp_path: Path) -> None:
    def shorten() -> None:
        for topic in (tmp_path / "data" / "topics").iterdir():
            if last := max(topic.rglob("*.log"), default=None):
                content = last.read_bytes().rstrip(b"\0")
                last.write_bytes(content[: len(content) // 2])

    assert Broken.LOST in names(violations_after_a_kill(tmp_path, MODES["periodic"], 0.3, shorten))


def fates(directory: Path) -> Counter[Fate]:
    posts = [post for topic in TOPICS for post in read_history(directory / f"{topic}.jsonl").posts.values()]
    return Counter(post.fate for post in posts)
