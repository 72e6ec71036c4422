"""What a client may send over one connection, cut into any pieces: the protocol with the real handlers behind it.

Whatever is sent: no 500, one answer for each request and in their order, the same requests are seen however the bytes
are cut (or the first of them, where the server stops while it does not read on), and once the client has ended its
side and the server drains, the connection closes and holds nothing.

The first byte of the input chooses limits, the second where the rest is cut.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flashq.broker.flashq import FlashQ
from flashq.http.edge import Edge
from flashq.http.head import Limits
from flashq.http.listener import Counters, HttpServer
from flashq.http.message import Deferred, Request, Response, render_error, with_fields
from flashq.http.protocol import Connection
from flashq.http.router import Router
from flashq.metrics import Metrics
from flashq.server import operation_handlers
from fuzz.answers import Answer, parse_answers

T = TypeVar("T")
MAX_BYTES = 2048
NOW_MS = 1_700_000_000_123
LIMITS = (
    Limits(),
    Limits(max_body_bytes=300, max_request_line_bytes=100, max_head_bytes=250, max_headers=6, max_pipelined=3),
    Limits(max_pipelined=2, max_held_bytes=100, small_body_bytes=10, max_in_flight_bytes=40),
)
_SINGLY_MAX_BYTES = 600
_TURNS = 30  # of the loop: more than any request here needs, be it held, done by a thread and answered

_loop = asyncio.new_event_loop()


def check(data: bytes) -> None:
    if len(data) < 3:
        return
    limits, stream = LIMITS[data[0] % len(LIMITS)], data[2:]
    whole = _talk([stream], limits)
    whole.check()
    for pieces in (_cut(stream, data[1]), _singly(stream)):
        cut = _talk(pieces, limits)
        cut.check()
        if whole.ended_by_stream or cut.ended_by_stream:
            continue
        assert cut.requests or not cut.interrupted, "the server stopped reading before the first request"
        seen = whole.requests[: len(cut.requests)] if cut.interrupted else whole.requests
        assert cut.requests == seen, f"cut into pieces: {cut.requests}, whole: {whole.requests}"
        if not cut.interrupted:
            # Of a head with several faults another one may be told.
            assert bool(cut.errors) == bool(whole.errors), f"cut into pieces: {cut.errors}, whole: {whole.errors}"


def _cut(stream: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    cuts = sorted({rng.randrange(1, len(stream) + 1) for _ in range(rng.randrange(1, 8))} | {len(stream)})
    return [stream[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False)]


def _singly(stream: bytes) -> list[bytes]:
    """A byte at a time, as far as that is quick."""
    head, rest = stream[:_SINGLY_MAX_BYTES], stream[_SINGLY_MAX_BYTES:]
    return [bytes([byte]) for byte in head] + ([rest] if rest else [])


@dataclass
class Talk:
    """What was seen of one connection, from both sides."""

    requests: list[tuple[object, ...]] = field(default_factory=list)  # as the handler got them, in order
    errors: list[tuple[int, str]] = field(default_factory=list)  # of the protocol: status and message
    written: bytes = b""
    closed: bool = False
    interrupted: bool = False  # the server was stopped before it had read everything: what it had not need not be seen
    failures: list[Exception] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    @property
    def ended_by_stream(self) -> bool:
        """An HTTP/1.0 client can only be told the end of a stream by closing; requests after it get no answer."""
        return bool(self.answers) and self.answers[-1].until_close

    def check(self) -> None:
        assert not self.failures, self.failures
        assert self.closed, "the connection stays open"
        assert len(self.errors) <= 1
        self.answers = parse_answers(self.written, [str(request[0]) for request in self.requests])
        assert all(answer.status != 500 for answer in self.answers), self.answers
        numbers = [answer.number for answer in self.answers]
        expected: list[int | None] = list(range(len(self.requests)))
        if self.errors:
            expected.append(None)
        if self.ended_by_stream:
            expected = expected[: len(numbers)]
        assert numbers == expected, f"answers to {numbers}, requests {expected}"


class Wire(asyncio.Transport):
    """Keeps what is written; the client takes it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = self.paused = False

    def write(self, data: Any) -> None:
        assert not self.closing, "written after closing"
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
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0


class AtOnce(Executor):
    """Does the work when it is submitted."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(work(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done


def _talk(pieces: list[bytes], limits: Limits) -> Talk:
    return _loop.run_until_complete(_conversation(pieces, limits))


async def _conversation(pieces: list[bytes], limits: Limits) -> Talk:
    talk, wire = Talk(), Wire()
    server = HttpServer(
        _numbering(_router(), talk), limits=limits, render=_rendering(talk), on_error=talk.failures.append
    )
    connection = Connection(server)
    connection.connection_made(wire)
    left = await _send(connection, wire, pieces)
    if not left:
        await _end(connection, wire)
    talk.interrupted = bool(left)
    server.draining = True
    connection.drain()
    if left:
        await _send(connection, wire, left)
        await _end(connection, wire)
    await _turns(_TURNS, lambda: wire.closing)
    talk.closed, talk.written = wire.closing, bytes(wire.written)
    connection.connection_lost(None)
    assert server.bytes_in_flight == 0, "an ended connection still counts as in flight"
    assert not server.connections
    return talk


async def _send(connection: Connection, wire: Wire, pieces: list[bytes]) -> list[bytes]:
    """Send until the server reads no more, with as many requests as it takes behind a long poll; what is left."""
    for at, piece in enumerate(pieces):
        if not await _turns(_TURNS, lambda: wire.closing or not wire.paused):
            return pieces[at:]
        if wire.closing:
            break
        connection.data_received(piece)
        await asyncio.sleep(0)
    return []


async def _end(connection: Connection, wire: Wire) -> None:
    """The client has no more to say."""
    if not await _turns(_TURNS, lambda: wire.closing):
        connection.eof_received()
        await _turns(_TURNS, lambda: wire.closing)


async def _turns(most: int, enough: Callable[[], bool]) -> bool:
    """Let the loop turn until it is enough; whether it was."""
    for _ in range(most):
        if enough():
            return True
        await asyncio.sleep(0)
    return enough()


def _router() -> Router:
    flashq = FlashQ(clock_ms=lambda: NOW_MS)
    return Router(operation_handlers(flashq, _loop, AtOnce(), Metrics(), Counters()), Edge())


def _numbering(router: Router, talk: Talk) -> Callable[[Request], Response | Deferred]:
    """The router, noting each request and putting its number into the answer."""

    def handle(request: Request) -> Response | Deferred:
        fields = ((b"x-number", b"%d" % len(talk.requests)),)
        head = request.head
        talk.requests.append((head.method, head.path, head.query, head.headers, head.is_http11, request.body))
        answer = router.handle(request)
        if isinstance(answer, Response):
            return with_fields(answer, fields)
        if answer.response is not None:
            answer.response = with_fields(answer.response, fields)
        answer.fields += fields
        return answer

    return handle


def _rendering(talk: Talk) -> Callable[[int, str, str, dict[str, object]], Response]:
    def render(status: int, code: str, message: str, details: dict[str, object]) -> Response:
        talk.errors.append((status, message))
        return render_error(status, code, message, details)

    return render
