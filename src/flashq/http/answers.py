"""The writing half of a connection: answers in the order of their requests, and streams as fast as they are read."""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from flashq.http.message import JSON, Deferred, Fields, Response, StreamSource, field_line, with_lines

if TYPE_CHECKING:
    from flashq.http.head import Head

_JOIN_BYTES = 64 * 1024  # answers are joined into one write up to this size: beyond it, copying costs more than a call
_PUMP_BYTES = 512 * 1024  # of one stream in one turn of the loop, so that a fast reader does not starve the others

# The constant parts of answers' heads, by what they depend on. Handlers use a handful; the cap is for one that makes
# content types up.
_begins: dict[tuple[int, bytes], bytes] = {}
_head_starts: dict[tuple[int, bytes, Fields], bytes] = {}
_REMEMBERED = 256


def _begin(status: int, content_type: bytes) -> bytes:
    """The status line and the content type."""
    begin = _begins.get((status, content_type))
    if begin is None:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        begin = b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())
        if content_type:
            begin += b"content-type: %b\r\n" % content_type
        if len(_begins) < _REMEMBERED:
            _begins[status, content_type] = begin
    return begin


def _head_start(status: int, content_type: bytes, headers: Fields) -> bytes:
    """The head up to the value of content-length; of no 204 and no 304."""
    start = _head_starts.get((status, content_type, headers))
    if start is None:
        fields = b"".join([field_line(name, value) for name, value in headers])
        start = b"%b%bcontent-length: " % (_begin(status, content_type), fields)
        # Only JSON: the headers of NDJSON hold offsets, and hardly one is seen twice.
        if content_type == JSON and len(_head_starts) < _REMEMBERED and all(len(value) < 64 for _, value in headers):
            _head_starts[status, content_type, headers] = start
    return start


# The ends of heads by the length of the body: most bodies are short.
_ENDS = [b"%d\r\n\r\n" % length for length in range(1024)]


def encode_whole(response: Response) -> bytes:
    """Head and body of an answer on a connection that stays open by default (HTTP/1.1)."""
    if response.whole:
        return response.whole
    if response.status in (204, 304):
        return encode_head(response, b"", False)
    start = _head_start(response.status, response.content_type, response.headers)
    body = response.body
    length = len(body)
    return b"".join((start, _ENDS[length] if length < len(_ENDS) else b"%d\r\n\r\n" % length, body))


def encode_head(response: Response, connection: bytes, chunked: bool) -> bytes:
    """The head alone. `connection` is the value of that field, b"" for none.

    204 and 304 have no length, a stream is chunked or ends with the connection.
    """
    status = response.status
    lines = [_begin(status, response.content_type)]
    if chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    elif response.stream is None and status not in (204, 304):
        lines.append(b"content-length: %d\r\n" % len(response.body))
    if connection:
        lines.append(b"connection: %b\r\n" % connection)
    lines += [field_line(name, value) for name, value in response.headers]
    lines.append(b"\r\n")
    return b"".join(lines)


class AnswerQueue(asyncio.Protocol):
    """Holds what is to be answered, in request order; joins answers that are ready together into one write."""

    __slots__ = (
        "_chunked",
        "_held_bytes",
        "_out",
        "_out_bytes",
        "_paused_writing",
        "_pumping",
        "_queue",
        "_stream",
        "_transport",
    )

    def __init__(self) -> None:
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._queue: deque[Deferred] = deque()
        self._held_bytes = 0  # bodies in the queue that are ready
        self._out: list[bytes] = []  # encoded, to be written before control returns to the loop
        self._out_bytes = 0
        self._stream: StreamSource | None = None  # the answer being written; those in the queue come after it
        self._chunked = False
        self._pumping = False
        self._paused_writing = False

    def _run(self, data: bytes = b"") -> None:
        """Go on with whatever waits for answers to go out."""
        raise NotImplementedError

    def _is_last(self) -> bool:
        """No answer follows the one just taken off the queue, and the connection is to close."""
        raise NotImplementedError

    def _released(self, charge: int) -> None:
        """The body of an answered request no longer counts as in flight."""
        raise NotImplementedError

    def _report(self, error: Exception) -> None:
        """Code outside the protocol raised where no answer can say so."""
        raise NotImplementedError

    def _take_no_more(self) -> None:
        """Drop what the client has sent and will send: the connection ends with the answer being written."""
        raise NotImplementedError

    def _enqueue(self, head: Head | None, answer: Response | Deferred, charge: int) -> None:
        deferred = Deferred(response=answer) if type(answer) is Response else answer
        deferred.charge = charge
        deferred.head, deferred.on_ready = head, self._ready
        self._queue.append(deferred)
        if deferred.response is not None:
            self._held_bytes += len(deferred.response.body)

    def _ready(self, deferred: Deferred) -> None:
        """A deferred answer has been sent."""
        assert deferred.response is not None
        self._held_bytes += len(deferred.response.body)
        if self._queue[0] is deferred:
            self._run()

    def _flush(self) -> None:
        """Write every answer whose turn it is."""
        while self._queue and self._stream is None:
            deferred = self._queue[0]
            response = deferred.response
            if response is None:
                if deferred.alone:
                    deferred.take_turn()
                break
            self._queue.popleft()
            self._held_bytes -= len(response.body)
            if deferred.charge:
                self._released(deferred.charge)
            self._encode(deferred.head, response)
        self._write_out()

    def _encode(self, head: Head | None, response: Response) -> None:
        if response.status == 100:
            self._put(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        last = self._is_last()
        if (head is None or head.plain) and not last and response.stream is None:
            self._put(encode_whole(response))
            return
        self._chunked = response.stream is not None and (head is None or head.is_http11)
        close = last or (response.stream is not None and not self._chunked)
        if close and not last:
            self._take_no_more()
            self._drop_queue()
        connection = b"close" if close else b"keep-alive" if head is not None and not head.is_http11 else b""
        if response.whole:
            self._put(with_lines(response.whole, ((b"connection", connection),)) if connection else response.whole)
            return
        self._put(encode_head(response, connection, self._chunked))
        bodiless = (head is not None and head.method == "HEAD") or response.status in (204, 304)
        if response.stream is None:
            if not bodiless:
                self._put(response.body)
        elif bodiless:
            response.stream.close()
        else:
            self._begin_stream(response.stream)

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > _JOIN_BYTES:
            self._write_out()

    def _write_out(self) -> None:
        out, size = self._out, self._out_bytes
        if not out:
            return
        self._out, self._out_bytes = [], 0
        if len(out) == 1:
            self._transport.write(out[0])
        elif size <= _JOIN_BYTES:
            self._transport.write(b"".join(out))
        else:
            self._transport.writelines(out)

    def _begin_stream(self, stream: StreamSource) -> None:
        self._write_out()
        self._stream = stream
        try:
            stream.start(self._pump)
        except Exception as error:
            self._cut(error)
        self._pump()

    def _cut(self, error: Exception) -> None:
        """Close without an end mark, so that the client can tell that the answer is not whole."""
        self._report(error)
        self._transport.abort()

    def _pump(self) -> None:
        """Pull the stream while the client takes its bytes, in turns of the loop."""
        if self._stream is None or self._paused_writing or self._pumping or self._transport.is_closing():
            return
        self._pumping = True
        ended = False
        try:
            ended = self._pull(self._stream)
        except Exception as error:
            self._cut(error)
        finally:
            self._pumping = False
        if ended:
            self._end_stream()

    def _pull(self, stream: StreamSource) -> bool:
        """One turn; True at the end of the stream."""
        budget = _PUMP_BYTES
        while budget > 0 and not self._paused_writing:
            chunk = stream.next_chunk()
            if chunk is None:
                return self._stream is stream
            if not chunk or self._stream is not stream:
                return False
            budget -= len(chunk)
            if self._chunked:
                self._transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
            else:
                self._transport.write(chunk)
        if not self._paused_writing:
            asyncio.get_running_loop().call_soon(self._pump)
        return False

    def _end_stream(self) -> None:
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._close_stream()
        self._run()

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                stream.close()
            except Exception as error:
                self._report(error)

    def _hurry_answers(self) -> None:
        for deferred in list(self._queue):
            try:
                deferred.hurry()
            except Exception as error:
                self._report(error)

    def _drop_queue(self) -> None:
        """Nobody will read these answers: tell whoever would give them."""
        queue, self._queue = self._queue, deque()
        self._held_bytes = 0
        for deferred in queue:
            if deferred.charge:
                self._released(deferred.charge)
            try:
                deferred.abandon()
            except Exception as error:
                self._report(error)
