"""What passes between the protocol and its handler: requests, responses, answers that come later, streams.

No I/O and no parsing here. Everything runs on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, final

import msgspec

if TYPE_CHECKING:
    from flashq.http.head import Head

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | None
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]


class Counts(Protocol):
    """Counts answers: when their requests came (time.perf_counter), and the status."""

    def answered(self, since: float, status: int) -> None:
        """One answer."""

    def answered_together(self, since: Sequence[float], status: int) -> None:
        """One or more that are given at the same moment, in the order their requests came."""


JSON = b"application/json"
RETRY_SOON: Fields = ((b"retry-after", b"1"),)  # seconds


class Peer:
    """Where requests come from: the parts that stay the same for a whole connection. A Unix socket has no `client`."""

    __slots__ = ("client", "scheme")

    def __init__(self, client: Address, scheme: Literal["http", "https"]) -> None:
        self.client = client
        self.scheme = scheme


class Request(msgspec.Struct, eq=False, gc=False):
    """One request with its whole body.

    `head` is shared by all requests whose heads are equal byte for byte, so what follows from the head alone
    (a route, a verdict on `Host`) may be remembered in `head.memo`.
    """

    head: Head
    body: bytes
    _peer: Peer

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        """The path of the target: ASCII, starts with one "/", still percent-encoded, without the query."""
        return self.head.path

    @property
    def query(self) -> str:
        """What follows the first "?", still percent-encoded; "" where there is none."""
        return self.head.query

    @property
    def headers(self) -> Headers:
        """All fields in the order they came, names in lower case, values without outer white space."""
        return self.head.headers

    def header(self, name: bytes) -> bytes | None:
        """The value of the field `name` (in lower case); repeated fields are joined with ", "."""
        return self.head.fields.get(name)

    @property
    def version(self) -> str:
        """ "1.0" or "1.1"."""
        return "1.1" if self.head.is_http11 else "1.0"

    @property
    def keep_alive(self) -> bool:
        return self.head.keep_alive

    @property
    def client(self) -> Address:
        return self._peer.client

    @property
    def scheme(self) -> Literal["http", "https"]:
        return self._peer.scheme


class StreamSource:
    """The bytes of a streamed answer, pulled by the connection as fast as the client reads and no faster.

    The connection calls `start` once, then `next_chunk` whenever its write buffer has room, and `close` exactly
    once: after the end, or when the client has gone. An answer to HEAD is closed without being started. Keep
    chunks at some 64 KiB: one chunk beyond the write buffer's high-water mark is the memory a slow reader holds.
    """

    def start(self, wake: Callable[[], None]) -> None:
        """Keep `wake` if chunks come later: call it (on the loop's thread) once there is something to pull."""

    def next_chunk(self) -> bytes | None:
        """The next bytes; b"" when there is nothing yet (then call `wake` later); None at the end.

        An exception ends the connection without an end mark, so that the client can tell a cut answer from a whole one.
        """
        raise NotImplementedError

    def drain(self) -> None:
        """The server is stopping: come to an end soon. Called only after `start`; once, or twice."""

    def close(self) -> None:
        """Let go of everything held."""


@final
class Response(msgspec.Struct, eq=False):
    """A whole answer, or the head of a streamed one if `stream` is given (then `body` is not used).

    The protocol adds content-length or transfer-encoding, and connection; `headers` must hold none of these.
    """

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: Fields = ()
    stream: StreamSource | None = None
    whole: bytes = b""
    """All of the answer but a field for the connection, encoded, in the place of the other parts but the status. For
    thousands of small ones that are nearly equal; to no HEAD request."""


NO_CONTENT = Response(204, content_type=b"")
"""Shared, as any answer may be: nobody changes one that was given."""


def field_line(name: bytes, value: bytes) -> bytes:
    """A header, encoded. Raises ValueError if its value holds a line end."""
    if b"\r" in value or b"\n" in value:
        raise ValueError("a header value must not hold a line end")
    return b"%b: %b\r\n" % (name, value)


def with_lines(whole: bytes, fields: Fields) -> bytes:
    """An encoded answer with more headers, behind its status line."""
    status, end, rest = whole.partition(b"\r\n")
    return b"".join((status, end, *(field_line(name, value) for name, value in fields), rest))


def with_fields(response: Response, fields: Fields) -> Response:
    """The same answer with more headers; `response` may be shared and stays as it is."""
    if response.whole:
        return Response(response.status, whole=with_lines(response.whole, fields))
    headers = (*response.headers, *fields)
    return Response(response.status, response.body, response.content_type, headers, response.stream)


class Deferred(msgspec.Struct, eq=False, kw_only=True):
    """An answer that comes later. The handler returns it; someone calls `send` once, on the loop's thread.

    `on_abandon` is called if the client goes away before the answer was sent: nobody waits any more.
    `on_drain` is called when the answer is wanted now (the server stops, or the client has ended its side and will
    ask nothing more): a long poll sends what it has, a write in flight sets no hook and sends when it is done.
    Each hook is called at most once and never after `send`.
    """

    on_abandon: Callable[[], None] | None = None
    on_drain: Callable[[], None] | None = None
    response: Response | None = None
    charge: int = 0
    fields: Fields = ()
    """Added to the headers of whatever is sent."""
    alone: bool = False
    """Begun, by `on_turn`, once every earlier request of the connection is answered; no later one is begun before it is
    answered. For what changes what the others meet."""
    on_turn: Callable[[], None] | None = None
    """Called once, when it is the turn of an answer that is `alone`; not at all if the client has gone by then."""
    since: float = 0.0
    """What `counts` is told: time.perf_counter when the request came, or when a wait it asked for was over."""
    counts: Counts | None = None
    """Where the answer is counted when it is sent; None until the handler has returned."""
    head: Head | None = None
    """Of the request this answers. None for protocol errors, and maybe for a plain request, whose answer needs none."""
    on_ready: Callable[[Deferred], None] | None = None
    """The connection's, as `head` is: from when the handler has returned, `send` calls it."""
    _abandoned: bool = False

    @property
    def abandoned(self) -> bool:
        """True once the client has gone; `send` then drops the response."""
        return self._abandoned

    def send(self, response: Response) -> None:
        """Answer. It is written once every earlier request of the connection has been answered.

        Raises RuntimeError if called twice.
        """
        if self.counts is not None and self.response is None:
            self.counts.answered(self.since, response.status)
        self.send_counted(response)

    def send_counted(self, response: Response) -> None:
        """`send`, of an answer that its giver counts (`Counts.answered_together`)."""
        if self.response is not None:
            raise RuntimeError("this request has already been answered")
        if self.fields:
            response = with_fields(response, self.fields)
        self.response = response
        on_ready = self.on_ready
        if on_ready is not None:
            on_ready(self)
        elif self._abandoned and response.stream is not None:
            response.stream.close()

    def abandon(self) -> None:
        """For the connection: the client has gone."""
        self._abandoned = True
        self.on_ready = None
        hook, self.on_abandon, self.on_drain = self.on_abandon, None, None
        if self.response is not None:
            if self.response.stream is not None:
                self.response.stream.close()
        elif hook is not None:
            hook()

    def take_turn(self) -> None:
        """For the connection: everything before it has been answered."""
        hook, self.on_turn = self.on_turn, None
        if hook is not None:
            hook()

    def hurry(self) -> None:
        """For the connection: the answer is wanted now."""
        hook, self.on_drain = self.on_drain, None
        if hook is not None and self.response is None:
            hook()


Handler: TypeAlias = Callable[[Request], "Response | Deferred"]
ErrorRenderer: TypeAlias = Callable[[int, str, str, dict[str, object]], Response]


def render_error(status: int, code: str, message: str, details: dict[str, object]) -> Response:
    """The JSON form of every error: {"error": code, "message": text, "details": {}}. What a 503 says passes soon."""
    body = msgspec.json.encode({"error": code, "message": message, "details": details})
    return Response(status, body, headers=RETRY_SOON if status == 503 else ())
