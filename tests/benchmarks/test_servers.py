"""Rounds of posts: each on a server that was started for it, and none that lost what it acknowledged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from benchmarks import load
from benchmarks.load import Load
from benchmarks.measure import Effort, Figures
from benchmarks.peers import Durability
from benchmarks.processes import Server
from benchmarks.rows import servers

LOAD = Load("http", [b"post"], records=10)
EFFORT = Effort(rounds=3, seconds=0.0, scale=1.0)


class Peer:
    """Keeps `kept` of what it is sent."""

    def __init__(self, name: str, kept: int = 10_000, missing: str = "") -> None:
        self.name = name
        self.starts = 0
        self.serves = False
        self._kept = kept
        self._missing = missing

    def missing(self) -> str:
        return self._missing

    @contextlib.contextmanager
    def serving(self, durability: Durability) -> Iterator[Server]:
        self.starts += 1
        self.serves = True
        yield Server(self.starts, os.getpid())
        self.serves = False

    def post(self, records: int, size: int) -> Load:
        return LOAD

    def poll(self, offsets: list[int], records: int) -> Load:
        raise NotImplementedError

    def stored(self, server: Server) -> int:
        assert self.serves
        return self._kept


@pytest.fixture(autouse=True)
def _generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand requests answered, as fast as the number of the start says."""

    def generate(server: Server, load: Load, connections: int, seconds: float) -> Figures:
        return {"rate": 100.0 + server.port, "requests": 1000.0}

    monkeypatch.setattr(servers, "generate", generate)
    monkeypatch.setattr(load, "missing", lambda: "")


def test_each_round_has_a_start_of_its_own() -> None:
    peers = [Peer("a"), Peer("b"), Peer("c", missing="not installed")]
    found = servers.race_to_post(peers, "memory", {peer.name: LOAD for peer in peers}, 1, EFFORT)
    assert [[figures["rate"] for figures in contender.rounds] for contender in found] == [[101, 102, 103]] * 2 + [[]]
    assert [contender.missing for contender in found] == ["", "", "not installed"]
    assert not any(peer.serves for peer in peers)


def test_a_server_that_lost_what_it_acknowledged_ends_the_run() -> None:
    peers = [Peer("a"), Peer("b", kept=9_999)]
    with pytest.raises(RuntimeError, match="b acknowledged 10,000 records and stored 9,999"):
        servers.race_to_post(peers, "memory", {peer.name: LOAD for peer in peers}, 1, EFFORT)
