"""The ceiling for one Python process over HTTP: httptools and uvloop, JSON in, JSON out, records in a list.

No routing, no validation, no limits, no storage. A POST adds the records of its body, a GET gives the latest one.
Argument: the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import cast

import httptools
import msgspec
import uvloop

from benchmarks.load import Load
from benchmarks.peers import Durability
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.processes import Server, free_port, running


class HTTPLimit:
    """Asked as FlashQ is."""

    name = "bare httptools"

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def serving(self, durability: Durability) -> Iterator[Server]:
        port = free_port()
        with running([sys.executable, "-m", "benchmarks.peers.http_limit", str(port)], port) as server:
            yield server

    def post(self, records: int, size: int) -> Load:
        return FlashQServer().post(records, size)

    def poll(self, offsets: list[int], records: int) -> Load:
        assert records == 1
        return FlashQServer().poll(offsets, 1)

    def stored(self, server: Server) -> None:
        return None


class Record(msgspec.Struct):
    value: str
    key: str | None = None
    headers: dict[str, str] | None = None


class Post(msgspec.Struct):
    records: list[Record]


class Offset(msgspec.Struct):
    offset: int
    timestamp: str


class Answer(msgspec.Struct):
    offsets: list[Offset]


class RecordRead(msgspec.Struct):
    key: str | None
    value: str
    headers: dict[str, str] | None
    offset: int
    timestamp: str


class Page(msgspec.Struct):
    records: list[RecordRead]
    next_offset: int
    high_water_mark: int
    lag: int
    log_start_offset: int


decode = msgspec.json.Decoder(Post).decode
encode = msgspec.json.Encoder().encode
log: list[Record] = []
FORGET_AT = 10_000  # records, many times a second: a list that grows for ever would measure the allocator
TIMESTAMP = "2026-01-15T10:30:45.123Z"


def answer_to(body: bytes) -> bytes:
    offsets = []
    for record in decode(body).records:
        offsets.append(Offset(len(log), TIMESTAMP))
        log.append(record)
    if len(log) > FORGET_AT:
        del log[:-1]
    return encode(Answer(offsets))


def latest() -> bytes:
    record, end = log[-1], len(log)
    return encode(Page([RecordRead(record.key, record.value, record.headers, end - 1, TIMESTAMP)], end, end, 0, 0))


class Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body = b""

    def on_url(self, url: bytes) -> None:
        pass

    def on_header(self, name: bytes, value: bytes) -> None:
        pass

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_message_complete(self) -> None:
        self.answer(self.body)

    def answer(self, posted: bytes) -> None:
        body = answer_to(posted) if posted else latest()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
