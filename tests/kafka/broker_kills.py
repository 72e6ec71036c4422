"""Brokers killed under load: every answer written down, everything read back, and the whole history checked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException

from tests.crash.checker import check
from tests.crash.history import HistoryFile, read_history
from tests.crash.load import read_page
from tests.crash.records import StoredRecord
from tests.crash.rounds import load_process, wait_until_loading
from tests.crash.things import look, things_beside
from tests.crash.violations import Violation
from tests.crash.wire import Connection
from tests.kafka.cluster import Cluster
from tests.server.running import Process

_END_TIMEOUT_S = 90.0
_READ_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    posts: Counter[str]
    statuses: Counter[int | None]
    reads_refused: int
    records: int
    violations: list[Violation]

    def __str__(self) -> str:
        return (
            f"posts {dict(self.posts)}, refused with {dict(self.statuses)}, {self.reads_refused} reads refused, "
            f"{self.records} records, {len(self.violations)} violations {self.violations[:10]}"
        )


def under_load(server: Process, topic: str, directory: Path, meanwhile: Callable[[], None]) -> Outcome:
    """Post to and read a topic, with groups and topics beside it, while `meanwhile` runs; then look and check."""
    path = directory / f"{topic}.jsonl"
    options = {"port": server.port, "topic": topic, "history": path, "run": topic, "prefix": "r", "seed": topic}
    things = things_beside(topic)
    with Connection(server.port) as connection:
        for thing in things:  # of an earlier run on this cluster
            assert thing.ask(connection, None).status in (204, 404)
    with HistoryFile(path) as history:
        with load_process({**options, "producers": 3, "readers": 1}) as load:
            wait_until_loading(load)
            meanwhile()
            assert server.is_running, f"the server has ended by itself\n{server.log()[-4000:]}"
            _end(load)
        assert server.is_running, f"the server has ended by itself\n{server.log()[-4000:]}"
        stored = _read_back(server, topic, history)
        with Connection(server.port) as connection:
            for thing in things:
                look(connection, history, thing)
    finished = read_history(path)
    unanswered = [read for read in finished.reads if read.status == 503]  # no leader: that says nothing of the log
    finished.reads[:] = [read for read in finished.reads if read.status != 503]
    posts = list(finished.posts.values())
    return Outcome(
        Counter(post.fate for post in posts),
        Counter(post.status for post in posts if post.status not in (None, 200)),
        len(unanswered),
        len(stored),
        check(finished, stored),
    )


def kill_leader(cluster: Cluster, topic: str, down_s: float) -> None:
    """`kill -9` of the broker that leads the topic; it comes back after `down_s`, and catches up."""
    leader = cluster.leader(topic)
    cluster.kill(leader)
    print(f"killed broker {leader}", file=sys.stderr)
    time.sleep(down_s)
    wait_until(lambda: cluster.leader(topic) not in (leader, -1), "no other broker leads")
    cluster.start(leader)
    wait_until_in_sync(cluster, topic)


def wait_until_in_sync(cluster: Cluster, topic: str) -> None:
    wait_until(lambda: cluster.in_sync(topic) == [1, 2, 3] and cluster.leader(topic) > 0, "the brokers do not catch up")


def wait_until(holds: Callable[[], bool], complaint: str) -> None:
    """For what comes by itself once brokers are back: a server looks at the cluster every three seconds."""
    deadline = time.monotonic() + 90
    while True:
        try:
            if holds():
                return
        except KafkaException:  # no broker answers yet
            pass
        assert time.monotonic() < deadline, complaint
        time.sleep(0.3)


def _end(load: subprocess.Popen[str]) -> None:
    assert load.stdin is not None
    load.stdin.close()
    assert load.wait(_END_TIMEOUT_S) == 0, "a client met what is no answer of the contract"


def _read_back(server: Process, topic: str, history: HistoryFile) -> list[StoredRecord]:
    stored: list[StoredRecord] = []
    deadline = time.monotonic() + _READ_TIMEOUT_S
    with Connection(server.port) as connection:
        while True:
            read, records = read_page(connection, topic, history, "read-back", len(stored), 1000)
            stored += records
            if read.status == 200 and not records:
                return stored
            assert time.monotonic() < deadline, f"reading back got {read.status}"
