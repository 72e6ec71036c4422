"""The event loop never waits for a disk that takes its time over what nobody has in memory."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flashq.broker.flashq import FlashQ
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.reads import ReadHandler
from flashq.http.head import Head
from flashq.http.message import Deferred, Peer, Request, Response
from flashq.metrics import Volume
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile

RECORDS = 300
LINES = {b"accept": b"application/x-ndjson"}


class SlowDisk(Disk):
    """Once `cold`, it has nothing in memory and gives nothing until `spun_up`; after that it is fast."""

    def __init__(self) -> None:
        self.cold = False
        self.spun_up = threading.Event()

    def is_cached(self, file: OpenFile, size: int, position: int) -> bool:
        return not self.cold or self.spun_up.is_set()

    def read(self, file: OpenFile, size: int, position: int) -> bytes:
        if self.cold:
            assert self.spun_up.wait(20), "read by the loop, which was to go on"
        return super().read(file, size, position)


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
def flashq(tmp_path: Path, disk: SlowDisk) -> Iterator[FlashQ]:
    """A topic of many sealed segments, none of which anyone has looked at since the start."""
    with FlashQ.open(tmp_path, segment_bytes=1024) as filled:
        for at in range(RECORDS):
            filled.post_record("t", f"{at:0100}")
    flashq = FlashQ(FileBackend(str(tmp_path), disk=disk))
    disk.cold = True
    yield flashq
    disk.spun_up.set()
    flashq.close()


def poll_of(query: str, fields: dict[bytes, bytes]) -> Request:
    fields = {b"host": b"localhost", **fields}
    return Request(
        Head("GET", f"/topics/t/records?{query}", list(fields.items()), fields, True), b"", Peer(None, "http")
    )


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
        submit: Callable[..., Any] = lambda *_: pytest.fail("off the loop, where there is nothing to wait for")  # noqa: E731
        with ThreadPoolExecutor(1) as executor:
            executor.submit = submit  # type: ignore[method-assign]
            return ReadHandler(flashq, loop, Blocking(loop, executor), Volume()).poll_records(
                poll_of(f"from_offset={RECORDS}", {}), "t"
            )

    answer = asyncio.run(scenario())
    assert isinstance(answer, Response)
    assert offsets_in(answer, in_lines=False) == [RECORDS]


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
