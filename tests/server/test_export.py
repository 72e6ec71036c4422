"""A large export as NDJSON: however slowly it is read, the server holds little of it."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from flashq.broker.flashq import FlashQ
from tests.server.running import Process, serving
from tests.server.test_waiting_readers import told

MIB = 1024 * 1024
RECORDS = 4096
MAX_RSS_KIB = 100 * 1024
SLOWLY_S = 2.0  # then at full speed
ENOUGH = 1 << 40


def fill(data_dir: Path, size: int, records: int, batch: int) -> None:
    """A topic of so many bytes in equal records, so many of them in a batch; each begins with its offset."""
    padding = b"x" * (size // records)
    with FlashQ.open(data_dir, sync_mode="never") as log:
        for start in range(0, records, batch):
            offsets = range(start, min(start + batch, records))
            log.post_records("t", [b"%010d" % offset + padding[10:] for offset in offsets])


def ask(server: Process, target: str, *headers: str) -> tuple[socket.socket, BinaryIO, dict[str, str]]:
    """A connection that has sent a request and read the head of the answer, with a small buffer for the rest."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.settimeout(20)
    client.connect(("127.0.0.1", server.port))
    lines = [f"GET {target} HTTP/1.1", "Host: localhost", *headers, "", ""]
    client.sendall("\r\n".join(lines).encode())
    stream = client.makefile("rb")
    assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
    head = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        head[name] = value
    return client, stream, head


def read_lines(stream: BinaryIO, slowly_s: float) -> tuple[int, int]:
    """Read a chunked body to its end mark, at first slowly; its lines and its bytes. Offsets must be without a gap."""
    slow_until = time.monotonic() + slowly_s
    rest, lines, size = b"", 0, 0
    while length := int(stream.readline(), 16):
        piece = stream.read(length)
        assert len(piece) == length
        assert stream.read(2) == b"\r\n"
        size += length
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            record = json.loads(line)
            assert (record["offset"], int(record["value"][:10])) == (lines, lines)
            lines += 1
        if time.monotonic() < slow_until:
            time.sleep(0.02)
    assert rest == b""
    return lines, size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("size", "records", "batch"),
    [
        pytest.param(256 * MIB, RECORDS, 16, id="256 MiB in batches of 1 MiB"),
        pytest.param(96 * MIB, 96, 32, id="96 MiB in batches of 32 MiB"),
        pytest.param(1024 * MIB, 2 * RECORDS, 8, id="1 GiB in batches of 1 MiB", marks=pytest.mark.load),
    ],
)
def test_a_slow_reader_of_a_large_export_holds_little_memory(
    size: int, records: int, batch: int, tmp_path: Path
) -> None:
    fill(tmp_path / "data", size, records, batch)
    with serving(tmp_path / "data") as server:
        target = f"/topics/t/records?max_records=10000&max_bytes={ENOUGH}"
        client, stream, head = ask(server, target, "Accept: application/x-ndjson")
        with client, stream:
            assert head["x-next-offset"] == head["x-high-water-mark"] == str(records)
            assert head["content-type"] == "application/x-ndjson"
            lines, sent = read_lines(stream, SLOWLY_S)
        assert lines == records
        assert sent > size
        peak = told(server.pid, "VmHWM")
        print(f"\n{sent / MIB:.0f} MiB exported, at most {peak / 1024:.0f} MiB RSS")
        assert peak < MAX_RSS_KIB


def test_the_default_of_max_bytes_is_8_mib_in_lines_as_well(tmp_path: Path) -> None:
    fill(tmp_path / "data", 20 * MIB, 200, 3)
    with serving(tmp_path / "data") as server:
        seen = pages(server)
    assert [sum(sizes) <= 8 * MIB for _, sizes in seen] == [True] * 3
    assert sum(len(sizes) for _, sizes in seen) == 200
    assert seen[0][0] == 8 * MIB // (20 * MIB // 200)


def pages(server: Process) -> list[tuple[int, list[int]]]:
    """`X-Next-Offset` and the sizes of the values of each answer, to the end of the topic."""
    found: list[tuple[int, list[int]]] = []
    at = 0
    while True:
        answer = server.ask(
            "GET", f"/topics/t/records?max_records=10000&from_offset={at}", None, {"Accept": "application/x-ndjson"}
        )
        records = [json.loads(line) for line in answer.body.splitlines()]
        if not records:
            return found
        at = int(answer.headers["x-next-offset"])
        assert records[-1]["offset"] + 1 == at
        found.append((at, [len(record["value"]) for record in records]))
