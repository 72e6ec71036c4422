"""The event loop never waits for a disk that takes its time over what nobody has in memory."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flashq.broker.flashq import FlashQ
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.health import HealthHandler
from flashq.http.handlers.reads import ReadHandler
from flashq.http.handlers.streams import StreamHandler
from flashq.http.head import Head
from flashq.http.message import Deferred, Peer, Request, Response, StreamSource
from flashq.metrics import Volume
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from tests.http.serving import Served, serving

RECORDS = 300
LARGE_RECORDS = 800
LINES = {b"accept": b"application/x-ndjson"}


class SlowDisk(Disk):
    """Once `cold`, it has nothing in memory and gives nothing until `spun_up`; after that it is fast.

    Of segments it has those before `cold_from`.
    """

    def __init__(self) -> None:
        self.cold = False
        self.cold_from = 0
        self.asked = threading.Event()
        self.spun_up = threading.Event()

    def is_cached(self, file: OpenFile, size: int, position: int) -> bool:
        return not self._is_cold(file) or self.spun_up.is_set()

    def read(self, file: OpenFile, size: int, position: int) -> bytes:
        if self._is_cold(file):
            self.asked.set()
            assert self.spun_up.wait(20), "read by the loop, which was to go on"
        return super().read(file, size, position)

    def _is_cold(self, file: OpenFile) -> bool:
        stem = Path(file.path).stem
        return self.cold and (not stem.isdecimal() or int(stem) >= self.cold_from)


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


def filled(directory: Path, disk: SlowDisk, records: int, *, value_bytes: int, segment_bytes: int) -> Iterator[FlashQ]:
    """A topic and a group, opened anew on a disk that is cold."""
    with FlashQ.open(directory, "never", segment_bytes=segment_bytes) as warm:
        warm.create_consumer_group("g")
        for at in range(records):
            warm.post_record("t", f"{at:0{value_bytes}}")
    flashq = FlashQ(FileBackend(str(directory), disk=disk))
    disk.cold = True
    yield flashq
    disk.spun_up.set()
    flashq.close()


@pytest.fixture
def flashq(tmp_path: Path, disk: SlowDisk) -> Iterator[FlashQ]:
    """A topic of many sealed segments, none of which anyone has looked at since the start."""
    yield from filled(tmp_path, disk, RECORDS, value_bytes=100, segment_bytes=1024)


def poll_of(query: str, fields: dict[bytes, bytes]) -> Request:
    return request_of(f"/topics/t/records?{query}", fields)


def request_of(target: str, more: dict[bytes, bytes]) -> Request:
    fields = {b"host": b"localhost", **more}
    return Request(Head("GET", target, list(fields.items()), fields, True), b"", Peer(None, "http"))


def offsets_in(response: Response, in_lines: bool) -> list[int]:
    assert response.status == 200
    records = [json.loads(line) for line in response.body.splitlines()]
    return [record["offset"] for record in (records if in_lines else records[0]["records"])]


@pytest.mark.parametrize("fields", [{}, LINES], ids=["JSON", "lines"])
@pytest.mark.parametrize("query", ["", "&timeout_ms=60000", "&from_time=0"])
def test_a_poll_of_what_is_not_in_memory_is_answered_once_the_disk_has_it(
    flashq: FlashQ, disk: SlowDisk, query: str, fields: dict[bytes, bytes]
) -> None:
    start = "" if "from_time" in query else "from_offset=20"

    async def scenario() -> list[int]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as executor:
            reads = ReadHandler(flashq, loop, Blocking(loop, executor), Volume())
            answer = reads.poll_records(poll_of(f"{start}{query}&max_records=50".lstrip("&"), fields), "t")
            assert isinstance(answer, Deferred)
            assert answer.response is None
            disk.spun_up.set()
            return offsets_in(await sent(answer), bool(fields))

    first = 0 if "from_time" in query else 20
    assert asyncio.run(scenario()) == list(range(first, first + 50))


async def sent(answer: Deferred) -> Response:
    coming: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
    answer.on_ready = lambda answer: coming.set_result(answer.response)
    response = await asyncio.wait_for(coming, 20)
    assert response is not None
    return response


def test_a_poll_of_the_end_does_not_go_by_the_disk(flashq: FlashQ, disk: SlowDisk) -> None:
    flashq.post_record("t", "the latest")

    async def scenario() -> Any:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as executor:
            forbid(executor)
            return ReadHandler(flashq, loop, Blocking(loop, executor), Volume()).poll_records(
                poll_of(f"from_offset={RECORDS}", {}), "t"
            )

    answer = asyncio.run(scenario())
    assert isinstance(answer, Response)
    assert offsets_in(answer, in_lines=False) == [RECORDS]


def forbid(executor: ThreadPoolExecutor) -> None:
    submit: Callable[..., Any] = lambda *_: pytest.fail("off the loop, where there is nothing to wait for")  # noqa: E731
    executor.submit = submit  # type: ignore[method-assign]


def test_a_poll_of_damaged_records_is_refused_as_ever(flashq: FlashQ, disk: SlowDisk, tmp_path: Path) -> None:
    segment = min((tmp_path / "topics" / "t" / "0").glob("*.log"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    disk.spun_up.set()

    async def scenario() -> Response:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as executor:
            reads = ReadHandler(flashq, loop, Blocking(loop, executor), Volume())
            answer = reads.poll_records(poll_of("from_offset=6", {}), "t")
            assert isinstance(answer, Deferred)
            return await sent(answer)

    refused = asyncio.run(scenario())
    assert (refused.status, json.loads(refused.body)["error"]) == (500, "data_corruption")


# -- what is read as the client takes it


@pytest.fixture
def large(tmp_path: Path, disk: SlowDisk) -> Iterator[FlashQ]:
    """Some 800 KiB in thirteen segments, several pieces of an answer in each."""
    yield from filled(tmp_path, disk, LARGE_RECORDS, value_bytes=1000, segment_bytes=64 * 1024)


@pytest.fixture
def served(large: FlashQ) -> Iterator[Served]:
    """/health, reads and streams, with threads to spare."""

    def answer(request: Request) -> Response | Deferred:
        loop = asyncio.get_running_loop()
        blocking = Blocking(loop, executor)
        if request.path == "/health":
            return HealthHandler(large).get(request)
        if request.path == "/topics/t/records":
            return ReadHandler(large, loop, blocking, Volume()).poll_records(request, "t")
        streams = StreamHandler(large, loop, blocking, Volume())
        return (
            streams.stream_group(request, "g", "t") if "/g/" in request.path else streams.stream_records(request, "t")
        )

    with ThreadPoolExecutor(4) as executor, serving(answer) as served:
        yield served


@pytest.mark.parametrize("cold_from", [0, 500], ids=["all cold", "cold further on"])
@pytest.mark.parametrize(
    ("target", "accept"),
    [
        ("/topics/t/stream", "text/event-stream"),
        ("/consumer/g/topics/t/stream", "text/event-stream"),
        (f"/topics/t/records?from_offset=0&max_records={LARGE_RECORDS}&max_bytes=1000000000", "application/x-ndjson"),
        (f"/topics/t/records?from_offset=0&max_records={LARGE_RECORDS}&max_bytes=1000000", "application/x-ndjson"),
        (f"/topics/t/records?from_offset=0&max_records={LARGE_RECORDS}&max_bytes=1000000", "application/json"),
    ],
    ids=["stream", "stream of a group", "export of the whole log", "export up to a size", "large JSON"],
)
def test_others_are_answered_while_a_long_read_waits_for_the_disk(
    served: Served, disk: SlowDisk, target: str, accept: str, cold_from: int
) -> None:
    disk.cold_from = cold_from
    with ThreadPoolExecutor(1) as reader, served.connect() as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n\r\n".encode())
        coming = reader.submit(offsets_from, client)
        assert disk.asked.wait(10)
        try:
            assert b'"status":"healthy"' in served.ask(b"GET /health HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n")
            assert not coming.done()
        finally:
            disk.spun_up.set()
        assert coming.result(20) == list(range(LARGE_RECORDS))
    assert served.errors == []


def offsets_from(client: socket.socket) -> list[int]:
    data = b""
    while data.count(b'"offset":') < LARGE_RECORDS:
        part = client.recv(1 << 16)
        assert part, data[-200:]
        data += part
    return offsets_among(data)


def offsets_among(data: bytes | None) -> list[int]:
    return [int(offset) for offset in re.findall(rb'"offset":(\d+)', data or b"")]


def test_a_stream_that_follows_the_end_does_not_go_by_the_disk(flashq: FlashQ) -> None:
    flashq.post_record("t", "the latest")

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as executor:
            forbid(executor)
            streams = StreamHandler(flashq, loop, Blocking(loop, executor), Volume())
            answer = streams.stream_records(request_of(f"/topics/t/stream?from_offset={RECORDS}", {}), "t")
            assert isinstance(answer, Response)
            assert isinstance(answer.stream, StreamSource)
            answer.stream.start(lambda: None)
            assert answer.stream.next_chunk() == b"retry: 1000\n\n"
            assert offsets_among(answer.stream.next_chunk()) == [RECORDS]
            assert answer.stream.next_chunk() == b""
            flashq.post_record("t", "one more")
            assert offsets_among(answer.stream.next_chunk()) == [RECORDS + 1]
            answer.stream.close()

    asyncio.run(scenario())


def test_a_read_that_goes_on_into_a_cold_segment_is_not_at_hand(large: FlashQ, disk: SlowDisk, tmp_path: Path) -> None:
    _, second, *_ = sorted(int(path.stem) for path in tmp_path.glob("topics/t/0/*.log"))
    disk.cold_from = second
    log = large.log("t")
    assert not log.is_at_hand(0), "its index is not loaded"
    log.read(0, max_records=1)
    assert log.is_at_hand(second - 1, 1)
    assert not log.is_at_hand(second - 1, 64 * 1024)
    disk.spun_up.set()
    log.read(second, max_records=1)
    assert log.is_at_hand(second - 1, 64 * 1024)
