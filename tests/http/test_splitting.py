"""However the network cuts a stream of requests, the answers are the same bytes. In process, on a made-up transport."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flashq.http.head import Limits
from flashq.http.listener import HttpServer
from flashq.http.message import Deferred, Request, Response, StreamSource
from flashq.http.protocol import Connection
from tests.http.test_defences import ACCEPTED, REFUSED

ROOMY = Limits(max_body_bytes=100, max_request_line_bytes=500, max_head_bytes=600, max_headers=6)
LIMITS = Limits(max_body_bytes=100, max_request_line_bytes=60, max_head_bytes=160, max_headers=6, max_pipelined=3)


class Wire(asyncio.Transport):
    """Keeps what is written; the client takes it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        assert not self.closing
        self.written += data

    def close(self) -> None:
        self.closing = True

    abort = close

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Twice(StreamSource):
    """The same chunk two times."""

    def __init__(self, chunk: bytes) -> None:
        self._chunks = [chunk, chunk]

    def next_chunk(self) -> bytes | None:
        return self._chunks.pop() if self._chunks else None


class Handler:
    """Echoes; every third request is answered after the next one, every fifth by a stream, every seventh raises."""

    def __init__(self) -> None:
        self.count = 0
        self.waiting: list[tuple[Deferred, Response]] = []

    def __call__(self, request: Request) -> Response | Deferred:
        self.count += 1
        if self.count % 7 == 0:
            raise ValueError
        said = f"{request.method} {request.path}?{request.query} {request.headers}".encode() + request.body
        stream = Twice(said) if self.count % 5 == 0 else None
        answer = Response(200, said, b"text/plain", stream=stream)
        if self.count % 3:
            return answer
        deferred = Deferred()
        self.waiting.append((deferred, answer))
        return deferred

    def settle(self) -> None:
        while self.waiting:
            deferred, answer = self.waiting.pop()
            deferred.send(answer)


def answers_to(pieces: list[bytes], limits: Limits = LIMITS) -> tuple[bytes, bool]:
    """What comes back for `pieces`, each its own read, and whether the connection is closed in the end."""

    async def talk() -> tuple[bytes, bool]:
        handler = Handler()
        server = HttpServer(handler, limits=limits, on_error=lambda error: None)
        wire, connection = Wire(), Connection(server)
        connection.connection_made(wire)
        for piece in pieces:
            if not wire.closing:
                connection.data_received(piece)
                handler.settle()
        if not wire.closing:
            connection.eof_received()
            handler.settle()
        connection.connection_lost(None)
        assert server.bytes_in_flight == 0
        assert not server.connections
        return wire.written, wire.closing

    return asyncio.run(talk())


GOOD = [
    b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n\r\n\r\nab",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\nabcdef",
    b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\n\r\n\r\r\nA;x=y\r\n0123456789\r\n0\r\nT: u\r\n\r\n",
    b"\r\n\nGET / HTTP/1.1\r\nX:  spaced \t \r\nHost: a\r\nX: twice\r\n\r\n",
    b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /" + b"x" * 45 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nY: " + b"y" * 126 + b"\r\n\r\n",
]
REQUESTS = GOOD * 8 + [raw for raw in [*ACCEPTED.values(), *(raw for raw, _ in REFUSED.values())] if len(raw) < 700]


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_the_answers_do_not_depend_on_how_the_requests_were_cut(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=8))
    if data.draw(st.booleans()):  # damage one byte
        at = data.draw(st.integers(0, len(parts) - 1))
        place = data.draw(st.integers(0, len(parts[at]) - 1))
        byte = data.draw(st.sampled_from([b"\r", b"\n", b"\0", b" ", b":", b"0", b"\xff", b""]))
        parts[at] = parts[at][:place] + byte + parts[at][place + 1 :]
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    limits = data.draw(st.sampled_from([LIMITS, ROOMY]))
    whole = answers_to([stream], limits)
    assert answers_to(pieces, limits) == whole
    assert answers_to([bytes([byte]) for byte in stream], limits) == whole
    assert answers_to([part for part in parts if part], limits) == whole
    assert whole[1]


def test_what_the_answers_are_not_to_depend_on_is_not_trivial() -> None:
    written, closed = answers_to([b"".join(GOOD[:7])])
    assert closed
    assert written.count(b"HTTP/1.1 200 OK") == 6
    assert written.count(b"HTTP/1.1 500") == 1
    assert b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK" in written
