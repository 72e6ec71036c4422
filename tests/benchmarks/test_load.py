"""The load generator tells the truth: what it counts was answered, and what was late is late."""

from __future__ import annotations

import os
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks import load
from benchmarks.load import STARTED, Load, generate
from benchmarks.processes import Server

pytestmark = pytest.mark.skipif(bool(load.missing()), reason=load.missing() or "there is a C compiler")

PAUSE_S = 0.25


class _Answers(socketserver.StreamRequestHandler):
    """RESP: PING is answered, SLOW after a pause, BAD with an error. Times in requests are kept."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            word, _, started = line.strip().partition(b" ")
            self.server.started.append(started)  # type: ignore[attr-defined]
            if word == b"SLOW":
                time.sleep(PAUSE_S)
            self.wfile.write(b"-ERR no\r\n" if word == b"BAD" else b"*2\r\n$3\r\nabc\r\n:1\r\n")


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    started: list[bytes]


@pytest.fixture
def listener() -> Iterator[_Listener]:
    with _Listener(("127.0.0.1", 0), _Answers) as server:
        server.started = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _server(listener: _Listener) -> Server:
    return Server(listener.server_address[1], os.getpid())


def test_every_answer_counted_was_asked_for(listener: _Listener) -> None:
    figures = generate(_server(listener), Load("resp", [b"PING\r\n"], records=3), 2, 0.1)
    assert 0 < figures["requests"] <= len(listener.started)
    assert figures["rate"] == pytest.approx(3 * figures["requests"] / figures["seconds"])


def test_an_answer_that_is_an_error_ends_the_run(listener: _Listener) -> None:
    with pytest.raises(RuntimeError, match="-ERR no"):
        generate(_server(listener), Load("resp", [b"BAD\r\n"]), 1, 0.1)


def test_an_open_loop_counts_the_wait_for_a_free_connection(listener: _Listener) -> None:
    """One connection, 20 requests a second, 4 a second answered: the last has waited for those before it."""
    figures = generate(_server(listener), Load("resp", [b"SLOW\r\n"]), 1, 1.0, 20)
    assert figures["max_us"] > 2 * PAUSE_S * 1e6


def test_each_request_carries_the_time_it_started(listener: _Listener) -> None:
    before = time.monotonic_ns()
    generate(_server(listener), Load("resp", [b"PING " + STARTED + b"\r\n"]), 1, 0.05, 50)
    times = [int(started) for started in listener.started]
    assert times == sorted(times)
    assert before < times[0] < times[-1] < time.monotonic_ns()
