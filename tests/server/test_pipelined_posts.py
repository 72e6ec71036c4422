"""More requests on a connection than it may have unanswered, on many at once: what answers let in is stored as well."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from flashq.broker.tick import MAX_SHARED_RECORDS
from flashq.http.head import Limits
from tests.server.running import Process, serving

CONNECTIONS = 20
POSTS = 2 * Limits().max_pipelined + 10
assert CONNECTIONS * Limits().max_pipelined > MAX_SHARED_RECORDS


def request_of(value: str) -> bytes:
    body = b'{"records":[{"value":"%b"}]}' % value.encode()
    head = b"POST /topics/news/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def offsets_in(client: socket.socket, count: int) -> list[int]:
    answers = b""
    while answers.count(b"}]}") < count:
        found = client.recv(1 << 16)
        assert found, answers[-300:]
        answers += found
    return [int(offset) for offset in re.findall(rb'"offset":(\d+)', answers)]


@pytest.mark.parametrize("mode", ["memory", "always", "periodic", "never"])
def test_each_acknowledged_post_is_stored_once_at_its_offset(tmp_path: Path, mode: str) -> None:
    arguments = ("--storage", "memory") if mode == "memory" else ("--sync-mode", mode)
    with serving(tmp_path / "data", *arguments) as server:
        check(server)


def check(server: Process) -> None:
    server.post("news", "first")
    names = [[f"{client}-{number}" for number in range(POSTS)] for client in range(CONNECTIONS)]
    clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in names]
    for client, values in zip(clients, names, strict=True):
        client.sendall(b"".join(map(request_of, values)))
    expected = {0: "first"}
    for client, values in zip(clients, names, strict=True):
        offsets = offsets_in(client, POSTS)
        assert offsets == sorted(offsets)
        expected |= dict(zip(offsets, values, strict=True))
        client.close()
    assert len(expected) == 1 + CONNECTIONS * POSTS
    stored: dict[int, str] = {}
    while len(stored) < len(expected):
        page = server.ask("GET", f"/topics/news/records?from_offset={len(stored)}&max_records=1000").json()
        stored |= {record["offset"]: record["value"] for record in page["records"]}
        assert page["high_water_mark"] == len(expected)
    assert stored == expected


@pytest.mark.parametrize("storage", ["memory", "file"])
def test_a_post_with_a_key_behind_long_polls_may_follow_in_the_turn_of_another(tmp_path: Path, storage: str) -> None:
    """The other one ends the long polls, and an answer lets in what is behind them."""
    polls, target, body = Limits().max_pipelined, "/topics/news/records", {"records": [{"value": "v"}]}
    with (
        serving(tmp_path / "data", "--storage", storage) as server,
        server.connect() as waiting,
        server.connect() as posting,
    ):
        server.post("news", "first")
        poll = waiting.encode("GET", f"{target}?from_offset=1&timeout_ms=20000")
        waiting.send(poll * polls + waiting.encode("POST", target, body, {"Idempotency-Key": "behind"}))
        time.sleep(0.2)
        posting.send(posting.encode("POST", target, body, {"Idempotency-Key": "other"}))
        asked = time.monotonic()
        assert server.ask("GET", "/health").status == 200
        assert time.monotonic() - asked < 2
        assert posting.receive().json()["offsets"][0]["offset"] == 1
        assert {waiting.receive().json()["records"][0]["offset"] for _ in range(polls)} == {1}
        assert waiting.receive().json()["offsets"][0]["offset"] == 2
