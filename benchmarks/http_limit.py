"""The ceiling for one Python process over HTTP: httptools and uvloop, JSON in, JSON out, records in a list.

No routing, no validation, no limits, no storage. Argument: the port.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import msgspec
import uvloop


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


decode = msgspec.json.Decoder(Post).decode
encode = msgspec.json.Encoder().encode
log: list[Record] = []
FORGET_AT = 200_000  # records: a list that grows for ever would measure the allocator


def answer_to(body: bytes) -> bytes:
    offsets = []
    for record in decode(body).records:
        offsets.append(Offset(len(log), "2026-01-15T10:30:45.123Z"))
        log.append(record)
    if len(log) > FORGET_AT:
        log.clear()
    return encode(Answer(offsets))


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
        body = answer_to(self.body)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
