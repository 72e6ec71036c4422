"""Large answers are one JSON document that is encoded as it is taken: nobody who reads slowly fills the server."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.api.test_reads import LINES
from tests.server.running import JSON, Process, serving

VALUE_BYTES = 100_000
COUNT = 40
DEAF = 60
GROWTH_BYTES = 40 * 1024 * 1024  # sixty whole answers have 240 MB


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("large") / "data") as server:
        for number in range(COUNT):
            record = {"key": f"k{number}", "value": chr(97 + number % 26) * VALUE_BYTES, "headers": {"h": str(number)}}
            server.post("t", record)
        server.ask("POST", "/consumer/g")
        server.ask("POST", "/consumer/g/topics/t/offset", b'{"offset":2}', JSON)
        yield server


@pytest.mark.parametrize("more", ["", "&include_headers=false", "&from_time=0"])
def test_a_large_document_holds_what_the_lines_hold_and_where_to_read_on(large: Process, more: str) -> None:
    target = f"/topics/t/records?max_records=30{more}"
    answer = large.ask("GET", target)
    assert answer.status == 200
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    lines = large.ask("GET", target, None, LINES).body
    assert told.pop("records") == [json.loads(line) for line in lines.splitlines()]
    assert told == {"next_offset": 30, "high_water_mark": COUNT, "lag": COUNT - 30, "log_start_offset": 0}


def test_a_group_is_shown_its_committed_offset(large: Process) -> None:
    told = large.ask("GET", "/consumer/g/topics/t?max_records=5").json()
    assert [record["offset"] for record in told["records"]] == [2, 3, 4, 5, 6]
    assert (told["next_offset"], told["committed_offset"]) == (7, 2)


def test_it_ends_before_the_record_that_would_pass_max_bytes(large: Process) -> None:
    told = large.ask("GET", f"/topics/t/records?max_bytes={10 * VALUE_BYTES + 500}").json()
    assert (len(told["records"]), told["next_offset"], told["lag"]) == (10, 10, COUNT - 10)


def test_http10_reads_it_to_the_end_of_the_connection_and_head_has_no_body(large: Process) -> None:
    for method, least in ((b"GET", COUNT * VALUE_BYTES), (b"HEAD", 0)):
        with socket.create_connection(("127.0.0.1", large.port), 10) as client:
            client.sendall(method + b" /topics/t/records HTTP/1.0\r\n\r\n")
            data = b"".join(iter(lambda: client.recv(1 << 20), b""))
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in head
        if least:
            assert json.loads(body)["next_offset"] == COUNT
        else:
            assert body == b""


def test_clients_that_ask_for_much_and_read_nothing_take_little_memory(large: Process) -> None:
    before = resident(large)
    with ExitStack() as stack:
        for _ in range(DEAF):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", large.port))
            client.sendall(b"GET /topics/t/records HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(20):
            assert large.ask("GET", "/health").status == 200
        assert resident(large) - before < GROWTH_BYTES


def test_damage_in_the_middle_ends_the_document_before_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, "--segment-bytes", "300000") as server:
        for _ in range(12):
            server.post("t", "x" * VALUE_BYTES)
    segments = sorted((data / "topics" / "t" / "0").glob("*.log"))
    at_offset = int(segments[2].name.removesuffix(".log"))
    damaged = bytearray(segments[2].read_bytes())
    damaged[100] ^= 1
    segments[2].write_bytes(damaged)
    with serving(data) as server:
        told = server.poll("t", from_offset=0)
        assert (len(told["records"]), told["next_offset"]) == (at_offset, at_offset)
        answer = server.ask("GET", f"/topics/t/records?from_offset={at_offset}")
        assert (answer.status, answer.json()["error"]) == (500, "data_corruption")


def resident(server: Process) -> int:
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
