"""Thousands who wait for one topic: what they cost while nothing comes, and how soon they have what comes."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from tests.server.running import Process, descriptors, serving

pytestmark = pytest.mark.alone

READERS = 5000
MAX_RSS_KIB = 300 * 1024
WITHIN_S = 1.0
AT_ONCE = 250  # connections opened at a time
MARK = b"what they all wait for"


class Reader(asyncio.Protocol):
    """One client: sends its request, and notes when the record has come."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.received = b""
        self.came_at = 0.0
        self.opened = asyncio.get_running_loop().create_future()
        self.came = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.opened.done() and b"retry:" in self.received:
            self.opened.set_result(None)
        if not self.came.done() and MARK in self.received:
            self.came_at = time.monotonic()
            self.came.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        for waiting in (self.opened, self.came):
            if not waiting.done():
                waiting.set_exception(ConnectionError(f"closed after {self.received!r}"))
                waiting.exception()  # told to whoever asks, and to nobody else


def told(pid: int, name: str) -> int:
    """A number of /proc/<pid>/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def connect(port: int, requests: list[bytes]) -> list[Reader]:
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    for start in range(0, len(requests), AT_ONCE):
        opening = [
            loop.create_connection(lambda request=request: Reader(request), "127.0.0.1", port)  # type: ignore[misc]
            for request in requests[start : start + AT_ONCE]
        ]
        readers += [reader for _, reader in await asyncio.gather(*opening)]
    return readers


async def wait_and_be_told(server: Process) -> tuple[int, float, float]:
    """RSS (KiB) and CPU seconds in a second of waiting, and how long the last of all readers waited for the record."""
    head = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    poll = b"GET /topics/t/records?from_offset=1&timeout_ms=60000" + head
    stream = b"GET /topics/t/stream?from_offset=1" + head
    readers = await connect(server.port, [poll, stream] * (READERS // 2))
    await asyncio.gather(*[reader.opened for reader in readers[1::2]])
    await asyncio.sleep(0.5)
    used = cpu_s(server.pid)
    await asyncio.sleep(1)
    used = cpu_s(server.pid) - used
    rss = told(server.pid, "VmRSS")
    body = b'{"records":[{"value":"%b"}]}' % MARK
    posted_at = time.monotonic()
    poster = Reader(
        b"POST /topics/t/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await asyncio.get_running_loop().create_connection(lambda: poster, "127.0.0.1", server.port)
    await asyncio.wait_for(asyncio.gather(*[reader.came for reader in readers]), 15)
    took = max(reader.came_at for reader in readers) - posted_at
    rss = max(rss, told(server.pid, "VmRSS"))
    for reader in [*readers, poster]:
        reader.transport.abort()
    return rss, used, took


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("storage", ["file", "memory"])
def test_thousands_wait_for_little_and_all_are_told_at_once(storage: str, tmp_path: Path) -> None:
    arguments = ("--storage", storage, "--max-connections", str(READERS + 1000))
    with descriptors(READERS + 1000), serving(tmp_path / "data", *arguments) as server:
        server.post("t", "the first")
        rss, used_s, took_s = asyncio.run(wait_and_be_told(server))
        print(f"\n{READERS} readers: {rss / 1024:.0f} MiB RSS, {used_s:.2f} s CPU in 1 s, all told in {took_s:.2f} s")
        assert told(server.pid, "Threads") < 20
        assert rss < MAX_RSS_KIB
        assert used_s < 0.3
        assert took_s < WITHIN_S
