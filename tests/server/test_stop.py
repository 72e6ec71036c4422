"""Stopping: SIGTERM under load, twice, and while clients wait; SIGINT. What was acknowledged is there afterwards."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashq.broker.flashq import FlashQ
from flashq.server import DRAIN_S
from tests.crash.wire import Connection, ConnectionLostError
from tests.server.running import SCRIPT, WITHOUT_UVLOOP, Process, serving

IN_FLIGHT = 16
LONG_MS = 20_000


@contextmanager
def load(server: Process, clients: int) -> Iterator[dict[int, str]]:
    """Clients that post, several posts in flight each, until the server goes; yields value by acknowledged offset."""
    acknowledged: dict[int, str] = {}
    wrong: list[str] = []

    def post(client: int) -> None:
        try:
            with Connection(server.port) as connection:
                for round_ in range(1_000_000):
                    posted = [f"{client}.{round_}.{at}" for at in range(IN_FLIGHT)]
                    connection.send(
                        b"".join(
                            connection.encode("POST", "/topics/t/records", {"records": [{"value": value}]})
                            for value in posted
                        )
                    )
                    for value in posted:
                        answer = connection.receive()
                        if answer.status == 200:
                            acknowledged[answer.json()["offsets"][0]["offset"]] = value
                        else:
                            wrong.append(f"{answer.status} {answer.body!r}")
        except ConnectionLostError:
            pass

    threads = [threading.Thread(target=post, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    yield acknowledged
    for thread in threads:
        thread.join(20)
    assert wrong == []


def assert_stored(data_dir: Path, acknowledged: dict[int, str]) -> None:
    with FlashQ.open(data_dir) as log:
        read = {record.offset: record.text for record in log.poll_records("t")}
    assert list(read) == list(range(len(read)))
    assert {offset: read.get(offset) for offset in acknowledged} == acknowledged
    assert len(set(read.values())) == len(read), "a post is there once or not at all"


@pytest.mark.parametrize("sync_mode", ["always", "periodic", "never"])
def test_sigterm_under_load_ends_with_0_and_loses_no_acknowledged_record(sync_mode: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir, "--sync-mode", sync_mode, "--segment-bytes", "64KiB") as server:
        with load(server, clients=4) as acknowledged:
            time.sleep(0.4)
            assert server.stop() == 0
        assert server.events("stopped")[0]["outcome"] == "clean"
        assert not server.events("connections_cut_off")
    assert len(acknowledged) > 4 * IN_FLIGHT
    assert_stored(data_dir, acknowledged)


@pytest.mark.parametrize(
    ("number", "command"),
    [pytest.param(signal.SIGTERM, SCRIPT, id="uvloop"), pytest.param(signal.SIGINT, WITHOUT_UVLOOP, id="asyncio")],
)
def test_signals_that_keep_coming_do_not_cut_the_stop_short(
    number: signal.Signals, command: tuple[str, ...], tmp_path: Path
) -> None:
    """One signal does no less; SIGINT is what a terminal sends, once for each impatient key."""
    data_dir = tmp_path / "data"
    with serving(data_dir, "--sync-mode", "never", command=command) as server:
        server.post("t", *[str(offset) for offset in range(1000)])
        while server.is_running:
            server.signal(number)
            time.sleep(0.001)
        assert server.wait() == 0
        assert server.events("stopped")[0]["outcome"] == "clean"
    assert_stored(data_dir, {offset: str(offset) for offset in range(1000)})


def test_what_has_begun_is_finished_also_after_a_second_sigterm(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir) as server, server.connect() as posting, server.connect() as idle:
        assert idle.request("GET", "/health").status == 200
        post = posting.encode("POST", "/topics/t/records", {"records": [{"value": "begun"}]})
        posting.send(post[:-10])
        time.sleep(0.1)
        for _ in range(2):
            server.signal(signal.SIGTERM)
            time.sleep(0.1)
        assert server.is_running
        with pytest.raises(ConnectionLostError):
            idle.request("GET", "/health")
        posting.send(post[-10:])
        answer = posting.receive()
        assert (answer.status, answer.headers.get("connection")) == (200, "close")
        assert server.wait() == 0
    assert_stored(data_dir, {0: "begun"})


def test_sigterm_answers_long_polls_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server, server.connect() as waiting, server.connect() as pipelined:
        server.post("t", "v")
        poll = waiting.encode("GET", f"/topics/t/records?from_offset=1&timeout_ms={LONG_MS}")
        waiting.send(poll)
        pipelined.send(poll * 3)
        time.sleep(0.1)
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        for answer in (waiting.receive(), *(pipelined.receive() for _ in range(3))):
            assert answer.status == 200
            assert (answer.json()["records"], answer.json()["next_offset"]) == ([], 1)
        assert server.wait() == 0
        assert time.monotonic() - begun < 5


def test_sigterm_ends_streams_also_those_that_wait_for_their_turn(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server, server.connect() as pipelined:
        server.post("t", "v")
        pipelined.send(pipelined.encode("GET", "/topics/t/stream?from_offset=1") * 3)
        time.sleep(0.2)
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        for _ in range(3):
            answer = pipelined.receive()
            assert (answer.status, answer.body) == (200, b"retry: 1000\n\n")
        assert server.wait() == 0
        assert time.monotonic() - begun < 5
        assert not server.events("connections_cut_off")


def test_a_client_that_never_finishes_holds_the_stop_no_longer_than_the_drain_lasts(tmp_path: Path) -> None:
    assert DRAIN_S <= 8, "2 of the 10 s are for the last flush"
    shorter = (
        sys.executable,
        "-c",
        "import sys, flashq.server; flashq.server.DRAIN_S = 0.5; from flashq.cli.main import main; sys.exit(main())",
    )
    with serving(tmp_path / "data", command=shorter) as server, server.connect() as stuck:
        stuck.send(stuck.encode("POST", "/topics/t/records", {"records": [{"value": "v"}]})[:-1])
        time.sleep(0.1)
        begun = time.monotonic()
        assert server.stop() == 0
        assert 0.4 < time.monotonic() - begun < 3
        assert len(server.events("connections_cut_off")) == 1


def test_signals_are_ignored_by_the_time_a_stop_waits_for_threads_and_the_disk(tmp_path: Path) -> None:
    asserting = (
        sys.executable,
        "-c",
        "import signal, sys\n"
        "from flashq.cli.main import main\n"
        "from flashq.storage.file.backend import FileBackend\n"
        "leave = FileBackend.leave_loop\n"
        "def leave_loop(backend):\n"
        "    assert {signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)} == {signal.SIG_IGN}\n"
        "    leave(backend)\n"
        "FileBackend.leave_loop = leave_loop\n"
        "sys.exit(main())",
    )
    with serving(tmp_path / "data", command=asserting) as server:
        assert server.stop() == 0
