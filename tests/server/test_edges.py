"""The edges of a real server, over raw sockets: names, pages, methods, malformed requests, too many connections."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.http.test_defences import REFUSED
from tests.server.running import JSON, Process, descriptors, serving

POST = b'{"records":[{"value":"v"}]}'
RECORDS = "/topics/t/records"
PAGE = "https://app.example"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONNECTIONS = 1024  # by default


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    arguments = ("--max-body-bytes", "100000", "--allow-host", "a.example", "--allow-host", "b.example")
    data_dir = tmp_path_factory.mktemp("edges") / "data"
    with serving(data_dir, *arguments, "--cors-origin", PAGE, environ={"FLASHQ_TOKEN": "t"}) as process:
        yield process


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("default") / "data") as process:
        yield process


def talk(port: int, raw: bytes) -> bytes:
    """All that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(raw)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


def error(answer: bytes) -> tuple[int, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head[9:12]), json.loads(body)


# Names and pages


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"Host": "evil.example"}, 421, "misdirected_request"),
        ({"Host": "10.0.0.1:8080"}, 421, "misdirected_request"),
        ({"Origin": "http://evil.example"}, 403, "forbidden"),
        ({"Origin": "null"}, 403, "forbidden"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "forbidden"),
        ({"Sec-Fetch-Site": "same-site"}, 403, "forbidden"),
        ({"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 421,
         "misdirected_request"),
    ],
)  # fmt: skip
def test_a_page_of_another_origin_neither_reads_nor_writes_at_a_default_server(
    default: Process, fields: dict[str, str], status: int, code: str
) -> None:
    before = default.post("t", "kept")[0]["offset"]
    for method, path, body in (("GET", RECORDS, None), ("POST", RECORDS, POST), ("GET", "/health", None)):
        answer = default.ask(method, path, body, {**JSON, **fields})
        assert (answer.status, answer.json()["error"]) == (status, code)
        assert answer.json()["details"].get("outcome") == ("not_applied" if method == "POST" else None)
        assert "access-control-allow-origin" not in answer.headers
    assert default.post("t", "kept")[0]["offset"] == before + 1


def test_the_names_a_server_was_given_are_its_own(server: Process) -> None:
    known = {"Authorization": "bearer t"}
    for host, status in (("a.example", 200), ("b.example:80", 200), ("c.example", 421), ("localhost", 200)):
        assert server.ask("GET", "/health", headers={**known, "Host": host}).status == status


def test_beyond_loopback_addresses_come_in_and_names_do_not(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--host", "0.0.0.0", "--insecure") as process:
        for host, status in (("192.0.2.1:8080", 200), ("[2001:db8::1]", 200), ("evil.example", 421)):
            assert process.ask("GET", "/health", headers={"Host": host}).status == status
        assert process.ask("GET", "/health", headers={"Origin": "http://192.0.2.1"}).status == 403


def test_a_named_origin_asks_first_and_then_posts_and_polls(server: Process) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Sec-Fetch-Site": "cross-site"}
    first = server.ask("OPTIONS", RECORDS, headers=asked)
    assert (first.status, first.body, first.headers["access-control-allow-origin"]) == (204, b"", PAGE)
    assert "POST" in first.headers["access-control-allow-methods"]
    assert "Authorization" in first.headers["access-control-allow-headers"]
    told = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer t", **JSON}
    for method, body, status in (("POST", POST, 200), ("POST", POST, 200), ("GET", None, 200), ("POST", b"{", 400)):
        answer = server.ask(method, RECORDS, body, told)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, PAGE)
        assert answer.headers["vary"] == "Origin"
    late = server.ask("GET", f"{RECORDS}?from_offset=2&timeout_ms=50", headers=told)
    assert (late.status, late.headers["access-control-allow-origin"]) == (200, PAGE)
    assert server.ask("OPTIONS", RECORDS, headers={**asked, "Origin": "https://evil.example"}).status == 403


def test_without_cors_there_is_no_preflight(default: Process) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    assert default.ask("OPTIONS", RECORDS, headers=asked).status == 403
    answer = default.ask("OPTIONS", RECORDS)
    assert (answer.status, answer.json()["details"].get("outcome")) == (405, None)


@pytest.mark.parametrize("method", ["PATCH", "PURGE", "TRACE", "REPORT"])
def test_methods_nothing_takes_are_405_in_json_with_allow_and_an_outcome(default: Process, method: str) -> None:
    answer = default.ask(method, RECORDS, POST, JSON)
    assert (answer.status, answer.json()["error"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert answer.json()["details"]["outcome"] == "not_applied"


# Broken requests and too many of them


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_the_protocol_is_refused_in_json_with_an_outcome_and_closed(server: Process, name: str) -> None:
    raw, expected = REFUSED[name]
    status, refused = error(talk(server.port, raw))
    assert status == expected
    assert refused["details"]["outcome"] == "not_applied"


def test_nothing_smuggled_behind_a_refused_request_is_done(default: Process) -> None:
    before = default.post("smuggled", "v")[0]["offset"]
    inner = (
        f"POST /topics/smuggled/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
Content-Length: {len(POST)}\r\n\r\n".encode()
        + POST
    )
    start = b"POST /topics/t/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for fields in (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        b"X: y\nContent-Length: 0\r\n\r\n",
    ):
        answer = talk(default.port, start + fields + inner)
        assert answer.count(b"HTTP/1.1 ") == 1, fields
        assert error(answer)[0] in (400, 501), fields
    assert default.post("smuggled", "v")[0]["offset"] == before + 1


def test_connections_past_the_cap_are_told_to_come_back_and_the_others_go_on(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--max-connections", "3") as process:
        open_ones = [socket.create_connection(("127.0.0.1", process.port), 10) for _ in range(3)]
        for client in open_ones:
            client.sendall(HEALTH)
            assert client.recv(12) == b"HTTP/1.1 200"
        answer = talk(process.port, HEALTH)
        assert error(answer)[0] == 503
        assert error(answer)[1]["error"] == "too_many_connections"
        assert b"\r\nretry-after: 1\r\n" in answer
        for client in open_ones:
            client.close()
        assert process.ask("GET", "/health").status == 200


def test_by_default_1024_connections_are_served_and_the_next_is_told_to_come_back(tmp_path: Path) -> None:
    with (
        descriptors(CONNECTIONS + 200),
        serving(tmp_path / "data", "--storage", "memory") as process,
        ExitStack() as stack,
    ):
        address = ("127.0.0.1", process.port)
        clients = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(CONNECTIONS)]
        assert ask_each(clients) == {b"HTTP/1.1 200"}
        assert error(talk(process.port, HEALTH))[1]["error"] == "too_many_connections"
        assert ask_each(clients) == {b"HTTP/1.1 200"}


def ask_each(clients: list[socket.socket]) -> set[bytes]:
    for client in clients:
        client.sendall(HEALTH)
    return {client.recv(4096)[:12] for client in clients}
