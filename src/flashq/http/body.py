"""Bodies of requests while they come in: by length or by chunks, within the bytes all connections may hold.

Chunk frames are read here, more strictly than llhttp reads them. Whatever the pieces bytes arrive in, the outcome
is the same. No sockets; clocks are the caller's, in seconds.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from flashq.http.head import CHUNKED, Head, Limits, ProtocolError, body_too_large

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_MAX_SIZE_LINE = 256  # bytes, with the extensions that nobody uses
_MAX_TRAILERS = 8192  # bytes
_FREE_CHUNKS = 4096  # this many may be as small as they like,
_MIN_MEAN_CHUNK = 16  # past them the mean has to be this many bytes: a chunk costs more to read than its bytes


def overloaded() -> ProtocolError:
    return ProtocolError(503, "overloaded", "too many request bodies are in flight; try again")


class Room:
    """The bytes in flight over all connections: bodies announced and not yet answered. Small ones do not count.

    A body of known length takes its whole room before it is read, or waits in line for it: those let in can always
    be finished, so the line moves.
    """

    __slots__ = ("_capacity", "_waiting", "used")

    def __init__(self, capacity: int) -> None:
        self.used = 0
        self._capacity = capacity
        self._waiting: deque[IncomingBody] = deque()

    def _fits(self, size: int) -> bool:
        return not self.used or self.used + size <= self._capacity  # one may always pass, however large

    def take(self, size: int) -> bool:
        if self._waiting or not self._fits(size):
            return False
        self.used += size
        return True

    def wait(self, body: IncomingBody) -> None:
        self._waiting.append(body)

    def leave(self, body: IncomingBody) -> None:
        """The body no longer waits; those behind it may fit."""
        self._waiting.remove(body)
        self.give_back(0)

    def give_back(self, size: int) -> None:
        self.used -= size
        while self._waiting and self._fits(self._waiting[0].head.length):
            body = self._waiting.popleft()
            self.used += body.head.length
            body.admit()


class IncomingBody:
    """The body being received on one connection, with its share of the room and its pace."""

    __slots__ = (
        "_admitted",
        "_body",
        "_charge",
        "_limits",
        "_moved_at",
        "_received",
        "_room",
        "_since",
        "head",
        "waits",
    )

    def __init__(self, head: Head, limits: Limits, room: Room, admitted: Callable[[], None], now: float) -> None:
        self.head = head
        self.waits = False  # for its room: nothing should be read until `admitted` is called
        self._body = ChunkedBody(limits) if head.length == CHUNKED else SizedBody(head.length)
        self._limits = limits
        self._room = room
        self._admitted = admitted
        self._charge = 0
        self._received = 0
        self.restart(now)
        if head.length > limits.small_body_bytes:
            if room.take(head.length):
                self._charge = head.length
            else:
                self.waits = True
                room.wait(self)

    @property
    def complete(self) -> bool:
        return self._body.complete

    def feed(self, data: bytes, position: int, now: float) -> int:
        """Read `data` from `position`; returns where the body ended, or len(data). Raises ProtocolError."""
        start = position
        position = self._body.feed(data, position)
        self._received += position - start
        self._moved_at = now
        size = self._body.size
        if self.head.length == CHUNKED and size > self._limits.small_body_bytes and size > self._charge:
            if not self._room.take(size - self._charge):
                raise overloaded()
            self._charge = size
        return position

    def finish(self) -> tuple[bytes, int]:
        """The whole body, and the room to give back once it is answered."""
        charge, self._charge = self._charge, 0
        self.cancel()
        return self._body.whole(), charge

    def cancel(self) -> None:
        """Give the room back."""
        if self.waits:
            self.waits = False
            self._room.leave(self)
        charge, self._charge = self._charge, 0
        if charge:
            self._room.give_back(charge)

    def admit(self) -> None:
        """For the room: it is taken for us."""
        self.waits = False
        self._charge = self.head.length
        self._admitted()

    def restart(self, now: float) -> None:
        """The time until now was not the client's."""
        self._since = self._moved_at = now
        self._received = 0

    def is_late(self, now: float) -> bool:
        """Nothing came (or no room was found) for too long, or all in all it comes too slowly."""
        stall_s = self._limits.body_stall_timeout_s
        due = (now - self._since - stall_s) * self._limits.min_body_bytes_per_s
        return now - self._moved_at > stall_s or (not self.waits and self._received < due)


class SizedBody:
    """Reads a body of known length, whole or in pieces."""

    __slots__ = ("_body", "_missing", "_whole", "complete")

    def __init__(self, length: int) -> None:
        self.complete = False
        self._missing = length
        self._body = bytearray()
        self._whole: bytes | None = None  # came in one piece

    @property
    def size(self) -> int:
        """Bytes held so far."""
        return len(self._body)

    def feed(self, data: bytes, position: int) -> int:
        """Read `data` from `position`; returns where the body ended, or len(data)."""
        end = min(len(data), position + self._missing)
        piece = data[position:end]
        self._missing -= len(piece)
        self.complete = not self._missing
        if self.complete and not self._body:
            self._whole = piece
        else:
            self._body += piece
        return end

    def whole(self) -> bytes:
        return self._whole if self._whole is not None else bytes(self._body)


class ChunkedBody:
    """Reads a chunked body, whole or in pieces; `complete` after the last trailer (all are ignored).

    Extensions, trailers and swarms of tiny chunks are capped.
    """

    __slots__ = ("_body", "_chunks", "_left", "_limits", "_line", "_state", "_trailers", "complete")

    def __init__(self, limits: Limits) -> None:
        self._body = bytearray()
        self.complete = False
        self._limits = limits
        self._chunks = 0
        self._left = 0  # of the chunk's data
        self._trailers = 0  # bytes of them so far
        self._line = b""  # a line that has not ended yet
        self._state = self._read_size

    @property
    def size(self) -> int:
        """Bytes held so far."""
        return len(self._body)

    def whole(self) -> bytes:
        return bytes(self._body)

    def feed(self, data: bytes, position: int) -> int:
        """Read `data` from `position`; returns where the body ended, or len(data). Raises ProtocolError."""
        size = len(data)
        while position < size and not self.complete:
            position = self._state(data, position)
        return position

    def _take_line(self, data: bytes, position: int, limit: int) -> tuple[bytes, int]:
        """A whole line with its end, or b"" if it has not ended yet."""
        stop = position + limit - len(self._line)
        end = data.find(b"\n", position, stop) + 1
        self._line += data[position : end or stop]
        if end:
            line, self._line = self._line, b""
            return line, end
        if len(self._line) >= limit:
            raise ProtocolError(400, "bad_request", "a chunk extension or trailer is too long")
        return b"", min(stop, len(data))

    def _read_size(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position, _MAX_SIZE_LINE)
        if not line:
            return position
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(400, "bad_request", "malformed chunk size")
        self._left = int(match[1], 16)
        self._chunks += 1
        if len(self._body) + self._left > self._limits.max_body_bytes:
            raise body_too_large(self._limits)
        if self._chunks > _FREE_CHUNKS and len(self._body) < (self._chunks - 1) * _MIN_MEAN_CHUNK and self._left:
            raise ProtocolError(400, "bad_request", "the chunks are too small")
        self._state = self._read_data if self._left else self._read_trailer
        return position

    def _read_data(self, data: bytes, position: int) -> int:
        piece = data[position : position + self._left]
        self._body += piece
        self._left -= len(piece)
        if not self._left:
            self._state = self._read_data_end
        return position + len(piece)

    def _read_data_end(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position, 2)
        if line:
            if line != b"\r\n":
                raise ProtocolError(400, "bad_request", "chunk data must end with CR LF")
            self._state = self._read_size
        return position

    def _read_trailer(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position, _MAX_TRAILERS - self._trailers)
        self._trailers += len(line)
        if line == b"\r\n":
            self.complete = True
        elif line and (_TRAILER_LINE.fullmatch(line) is None or self._trailers >= _MAX_TRAILERS):
            raise ProtocolError(400, "bad_request", "malformed trailer")
        return position
