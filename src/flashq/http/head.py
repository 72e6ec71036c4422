"""Heads of requests, and the limits on all a client sends. No sockets, no clocks.

A head goes through llhttp (httptools), alone and counted: this module knows exactly where it ends, so a body is
cut out of what follows without passing through the parser, and what llhttp would drop or misplace (trailers, the
body after CONNECT) cannot be.

Whatever the pieces bytes arrive in, the outcome is the same; but of several faults of one head, which it is refused
for (llhttp tells of a field only once the next one has begun, or its bytes have run out).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httptools

CHUNKED = -1
END = b"\r\n\r\n"
REMEMBERED_BYTES = 2048  # heads up to this size are worth remembering
# Part of what llhttp and the checks below let through: fields mean the same after any such line.
_ORDINARY_LINE = re.compile(
    rb"(GET|POST|PUT|DELETE|HEAD) (/|/[\w.~!$&'()*+,;=:@%-][\w.~!$&'()*+,;=:@%/-]*)"
    rb"(?:\?([\w.~!$&'()*+,;=:@%/?-]*))? HTTP/1\.1\r\n"
)
_LINE_REST = len(b"  HTTP/1.1\r\n")


@dataclass(frozen=True)
class Limits:
    """What one server takes on. Sizes in bytes, times in seconds."""

    max_body_bytes: int = 64 * 1024 * 1024
    max_request_line_bytes: int = 8 * 1024
    max_head_bytes: int = 32 * 1024
    max_headers: int = 100
    max_connections: int = 1024
    max_in_flight_bytes: int = 256 * 1024 * 1024
    """Bodies above `small_body_bytes` that have been announced and not yet answered, over all connections. A body
    that does not fit waits, unread, until others are done (503 after `body_stall_timeout_s`); a chunked one, of
    unknown length, gets 503 when it no longer fits."""
    small_body_bytes: int = 64 * 1024
    max_pipelined: int = 64
    """Requests of one connection handed out and not answered; past it, reading from the connection pauses."""
    max_held_bytes: int = 256 * 1024
    """Answers of one connection that are ready and wait for an earlier one; past it, reading pauses."""
    head_timeout_s: float = 10
    """From the first byte of a head to its last; also from the connection to its first byte."""
    body_stall_timeout_s: float = 30
    """Without any byte of a body that is under way."""
    min_body_bytes_per_s: int = 4096
    """A body has to keep up this mean, counted after a grace of `body_stall_timeout_s`; else 408."""
    idle_timeout_s: float = 75
    write_stall_timeout_s: float = 60
    """A client that takes none of the bytes we have for it is cut off after this long."""
    linger_timeout_s: float = 2
    """After an error, how long the rest of what the client sends is read and dropped, so that it can read the answer
    (closing with unread bytes makes the system reset the connection)."""
    linger_bytes: int = 16 * 1024 * 1024

    @property
    def sweep_interval_s(self) -> float:
        """How often deadlines are looked at; a timeout fires at most two intervals late."""
        shortest = min(self.head_timeout_s, self.body_stall_timeout_s, self.idle_timeout_s, self.write_stall_timeout_s)
        return min(1.0, shortest / 4, self.linger_timeout_s / 2)


class ProtocolError(Exception):
    """The client broke the protocol or a limit. The answer is `status`, then the connection closes."""

    def __init__(self, status: int, code: str, message: str, **details: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details


class Head:
    """A request's head, checked. Shared between requests with equal heads: read only, but for `memo`.

    `length` is that of the body in bytes, or CHUNKED. `plain`: an HTTP/1.1 request that keeps the connection
    open, is no HEAD and expects no 100: its answer needs no special care.
    """

    __slots__ = (
        "expects_continue",
        "fields",
        "headers",
        "is_http11",
        "keep_alive",
        "length",
        "memo",
        "method",
        "path",
        "plain",
        "query",
    )

    def __init__(
        self, method: str, target: str, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes], is_http11: bool
    ) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = tuple(headers)
        self.fields = fields
        self.is_http11 = is_http11
        self.keep_alive = _keeps_alive(fields, is_http11)
        self.length = CHUNKED if b"transfer-encoding" in fields else int(fields.get(b"content-length", b"0"))
        self.expects_continue = is_http11 and b"expect" in fields and self.length != 0
        self.plain = is_http11 and self.keep_alive and method != "HEAD" and not self.expects_continue
        self.memo: Any = None

    def with_line(self, line: bytes) -> Head | None:
        """The head that has these fields after another request line; None for a line that is anything but ordinary."""
        match = _ORDINARY_LINE.fullmatch(line)
        if match is None or not self.is_http11:
            return None
        head = Head.__new__(Head)
        head.method = method = match[1].decode("ascii")
        head.path = match[2].decode("ascii")
        head.query = (match[3] or b"").decode("ascii")
        head.headers = self.headers
        head.fields = self.fields
        head.is_http11 = True
        head.keep_alive = self.keep_alive
        head.length = self.length
        head.expects_continue = self.expects_continue
        head.plain = self.keep_alive and method != "HEAD" and not self.expects_continue
        head.memo = None
        return head


def _keeps_alive(fields: dict[bytes, bytes], is_http11: bool) -> bool:
    options = fields.get(b"connection")
    if options is None:
        return is_http11
    tokens = [token.strip() for token in options.lower().split(b",")]
    return b"close" not in tokens and (is_http11 or b"keep-alive" in tokens)


class HeadParser:
    """Reads one head, whole or in pieces. `head` is set once the empty line at its end has been read."""

    __slots__ = ("_complete", "_headers", "_limits", "_line", "_parser", "_size", "_tail", "_url", "head")

    def __init__(self, limits: Limits) -> None:
        self.head: Head | None = None
        self._limits = limits
        self._headers: list[tuple[bytes, bytes]] = []
        self._url = b""
        self._size = 0  # bytes of the head read so far
        self._line = 0  # length of the request line once it is complete
        self._tail = b""  # the last bytes of the request line
        self._complete = False
        self._parser: Any = httptools.HttpRequestParser(self)

    def feed(self, data: bytes, position: int) -> int:
        """Read `data` from `position`; returns where the head ended, or len(data). Raises ProtocolError.

        After the end or an error the parser is of no more use.
        """
        try:
            if not self._line:
                position = self._feed_request_line(data, position)
            while self._line and not self._complete and position < len(data):
                position = self._feed_fields(data, position)
            if self._complete:
                self.head = self._checked()
                self._parser = None  # it holds our methods: without this, each head would wait for the cycle collector
        except httptools.HttpParserError as error:
            self._parser = None
            raise _protocol_error(error) from None
        except ProtocolError:
            self._parser = None
            raise
        return position

    def read_whole(self, raw: bytes) -> Head | None:
        """The head `raw` is, in one go; None if it is not exactly one good head: `feed` will tell why."""
        try:
            self._parser.feed_data(raw)
            self._line = raw.find(b"\n") + 1
            self._tail = raw[self._line - 10 : self._line]
            return self._checked() if self._complete else None
        except (httptools.HttpParserError, ProtocolError):
            return None
        finally:
            self._parser = None

    def _feed_request_line(self, data: bytes, position: int) -> int:
        stop = position + self._limits.max_request_line_bytes - self._size
        end = data.find(b"\n", position, stop) + 1
        piece = data[position : end or stop]
        self._size += len(piece)
        self._tail = (self._tail + piece[-10:])[-10:]
        self._parser.feed_data(piece)
        if end:
            self._line = self._size
        elif self._size == self._limits.max_request_line_bytes:
            raise ProtocolError(
                414, "uri_too_long", "the request line is too long", max_size=self._limits.max_request_line_bytes
            )
        return position + len(piece)

    def _feed_fields(self, data: bytes, position: int) -> int:
        """Feed to the end of the head if it is in sight, else line by line so as to know where it ends."""
        stop = position + self._limits.max_head_bytes - self._size
        end = data.find(END, position, stop)
        # The end found is right unless it straddles a piece fed before: then the parser is done sooner, at a line.
        if end >= 0 and self._size == self._line:
            end += 4
            if data[position] == 13:  # no fields at all: "\r\n\r\n" began with the request line
                end = position + 2
        else:
            end = data.find(b"\n", position, stop) + 1
        piece = data[position : end or stop]
        self._size += len(piece)
        self._parser.feed_data(piece)
        if not self._complete and self._size == self._limits.max_head_bytes:
            raise ProtocolError(
                431, "head_too_large", "the request head is too large", max_size=self._limits.max_head_bytes
            )
        return position + len(piece)

    # What llhttp calls. Exceptions come out of feed_data as the context of an HttpParserCallbackError.

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._headers) == self._limits.max_headers:
            raise ProtocolError(431, "head_too_large", "too many header fields", max_headers=self._limits.max_headers)
        self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade():
            raise ProtocolError(400, "bad_request", "CONNECT and Upgrade are not offered")
        self._complete = True

    def _checked(self) -> Head:
        method: str = self._parser.get_method().decode("ascii")
        target = self._url
        # llhttp also speaks RTSP and ICE, and takes a line without a version.
        version = self._tail[:-2]
        if version != b"HTTP/1.1" and version != b"HTTP/1.0":
            raise ProtocolError(400, "bad_request", "the version must be HTTP/1.0 or HTTP/1.1")
        if self._line != len(method) + len(target) + _LINE_REST:
            raise ProtocolError(400, "bad_request", "the request line must have single spaces")
        if target[:1] != b"/" or target[:2] == b"//" or b"#" in target or not target.isascii():
            raise ProtocolError(400, "bad_request", "the target must be a path that starts with one slash")
        is_http11 = version == b"HTTP/1.1"
        fields = _joined_fields(self._headers, is_http11)
        _check_framing(fields, is_http11)
        head = Head(method, target.decode("ascii"), self._headers, fields, is_http11)
        if head.length > self._limits.max_body_bytes:
            raise body_too_large(self._limits, head.length)
        return head


def _protocol_error(error: httptools.HttpParserError) -> ProtocolError:
    cause = error.__context__
    if isinstance(cause, ProtocolError):
        return cause
    # The parser's words are its own constants, never the client's bytes.
    return ProtocolError(400, "bad_request", f"malformed request: {error}")


def _joined_fields(headers: list[tuple[bytes, bytes]], is_http11: bool) -> dict[bytes, bytes]:
    """The fields by name, repeated ones joined. Raises ProtocolError unless there is one Host (HTTP/1.0 needs none)."""
    fields = dict(headers)
    if len(fields) != len(headers):
        fields = {}
        for name, value in headers:
            if name == b"host" and name in fields:
                raise ProtocolError(400, "bad_request", "a request must have one Host field")
            fields[name] = fields[name] + b", " + value if name in fields else value
    if is_http11 and b"host" not in fields:
        raise ProtocolError(400, "bad_request", "a request must have one Host field")
    return fields


def _check_framing(fields: dict[bytes, bytes], is_http11: bool) -> None:
    """Refuse what could be read as two different lengths, and what we do not understand."""
    length = fields.get(b"content-length")
    if length is not None and not length.isdigit():
        raise ProtocolError(400, "bad_request", "Content-Length must be a number")
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if not is_http11 or length is not None:
            raise ProtocolError(400, "bad_request", "Transfer-Encoding does not go with HTTP/1.0 or Content-Length")
        if coding.lower() != b"chunked":
            raise ProtocolError(501, "not_implemented", "the only transfer coding understood is chunked")
    expected = fields.get(b"expect")
    if expected is not None and is_http11 and expected.lower() != b"100-continue":
        raise ProtocolError(417, "expectation_failed", "the only expectation understood is 100-continue")


def body_too_large(limits: Limits, actual: int | None = None) -> ProtocolError:
    details: dict[str, object] = {"max_size": limits.max_body_bytes}
    if actual is not None:
        details["actual_size"] = actual
    return ProtocolError(413, "body_too_large", "the request body is too large", **details)
