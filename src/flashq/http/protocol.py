"""One client's connection: bytes in, requests to the handler, answers out in the order of their requests.

Every request found in one `data_received` call is handed to the handler before the call returns, up to
`max_pipelined` unanswered ones. Knows no topics and no routes; writes no logs. Body bytes are never parsed: the
head says how many there are. Deadlines are compared by one sweep for all connections (`check`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from flashq.http.answers import AnswerQueue, encode_whole
from flashq.http.body import IncomingBody, overloaded
from flashq.http.head import END, REMEMBERED_BYTES, Head, HeadParser, ProtocolError
from flashq.http.message import Deferred, Peer, Request, Response, StreamSource

if TYPE_CHECKING:
    from flashq.http.listener import HttpServer

_CONTINUE = Response(100)

# What the next byte from the client belongs to. (Plain numbers: reading a member of an Enum costs five times as much.)
_HEAD, _BODY = 1, 2
_NOTHING = 0  # it is dropped: no more requests are taken, and the connection closes once all answers are out


class Connection(AnswerQueue):
    """The protocol object asyncio makes for each client. All calls on the loop's thread."""

    __slots__ = (
        "_backlog",
        "_body",
        "_closed",
        "_dropped_bytes",
        "_eof",
        "_fresh",
        "_handler",
        "_head_since",
        "_heads",
        "_idle_since",
        "_last_end",
        "_last_head",
        "_last_raw",
        "_last_size",
        "_limits",
        "_linger",
        "_linger_until",
        "_max_pipelined",
        "_moved",
        "_moved_at",
        "_parser",
        "_paused_reading",
        "_peer",
        "_reading",
        "_running",
        "_served_seen",
        "_server",
        "_unsent_seen",
        "served",
    )

    def __init__(self, server: HttpServer) -> None:
        super().__init__()
        # for good
        self._server = server
        self._limits = server.limits
        self._max_pipelined = self._limits.max_pipelined  # looked at with each request
        self._handler = server.handler
        self._heads = server.heads
        self._peer = Peer(None, "http")
        self.served = 0  # requests handed to the handler
        # the last plain request that came on its own: its head as bytes and read, the sizes of head and request
        self._last_raw, self._last_head = b"", cast(Head, None)
        self._last_end = self._last_size = 0
        # the request being read
        self._reading = _HEAD
        self._parser: HeadParser | None = None  # of a head that has begun
        self._body: IncomingBody | None = None
        # what has been read and waits for answers to go out; whether we may go straight from bytes to handler
        self._backlog = b""
        self._fresh = True
        self._running = False
        # the transport
        self._paused_reading = False
        self._eof = False
        self._linger = False
        self._linger_until: float | None = None
        self._dropped_bytes = 0
        self._closed = False
        # for the sweep; loop.time()
        self._head_since = self._idle_since = server.loop.time()
        self._served_seen = 0
        self._moved_at = self._idle_since  # the client took some bytes
        self._unsent_seen = 0
        self._moved = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("sslcontext") is not None
        client = transport.get_extra_info("peername")
        self._peer = Peer(client if isinstance(client, tuple) else None, "https" if tls else "http")
        if not self._server.opened(self):
            self._fail(ProtocolError(503, "too_many_connections", "the server has too many connections; try again"))
            self._run()

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        self._fresh = False
        self._take_no_more()
        self._server.closed(self)
        self._close_stream()
        self._drop_queue()

    def data_received(self, data: bytes) -> None:
        if self._fresh:
            # The usual case: exactly one request, most often with the head of the one before. No state, one write.
            if len(data) == self._last_size and data.startswith(self._last_raw):
                end = self._last_end
            else:
                end = self._find_plain(data)
            if end:
                head = self._last_head
                self.served += 1
                try:
                    answer = self._handler(Request(head, data[end:], self._peer))
                except Exception as error:
                    answer = self._server.failed(error)
                if type(answer) is Response:
                    if not self._queue and answer.stream is None:
                        self._transport.write(encode_whole(answer))
                        return
                elif answer.response is None:
                    answer.on_ready = self._ready_plain
                    queue = self._queue
                    queue.append(answer)
                    if len(queue) >= self._max_pipelined:
                        self._fresh = False
                    if answer.alone:
                        self._run()
                    return
                self._enqueue(head, answer, 0)
                self._run()
                return
        self._run(data)

    def _find_plain(self, data: bytes) -> int:
        """Where the head ends, if `data` is exactly one plain request: the head is the last one now. Else 0."""
        end = data.find(END) + 4
        raw = data[:end]
        head = self._heads.get(raw) or self._server.read_head(raw)
        if head is None or not head.plain or end + head.length != len(data):
            return 0
        # What begins with these bytes has this head: they end as a head does, and hold no other end.
        self._last_raw, self._last_head = raw, head
        self._last_end, self._last_size = end, len(data)
        return end

    def eof_received(self) -> bool:
        self._eof = True
        self._run()
        # A TLS transport closes whatever we say. Else stay half open until the answers are out.
        return self._peer.scheme == "http" and not self._closed and not self._transport.is_closing()

    def pause_writing(self) -> None:
        self._paused_writing = True
        self._fresh = False

    def resume_writing(self) -> None:
        self._paused_writing = False
        self._moved = True
        self._pump()
        self._run()

    # What the listener calls.

    def drain(self) -> None:
        """Take no further requests; finish those that have begun, hurry what waits, then close."""
        if self._stream is not None:
            self._stream.drain()
        self._run()

    def abort(self) -> None:
        """Close now; unsent answers are lost."""
        self._transport.abort()

    def check(self, now: float) -> None:
        """Compare deadlines; `now` is loop.time()."""
        limits = self._limits
        unsent = self._transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent_seen or self._moved:
            self._moved_at = now
        self._unsent_seen, self._moved = unsent, False
        if now - self._moved_at > limits.write_stall_timeout_s:
            self._server.timed_out("write")
            self._transport.abort()
        elif self._linger_until is not None:
            if now > self._linger_until:
                self._transport.close()
        elif self._reading == _HEAD:
            self._check_head(now)
        elif self._body is not None:
            self._check_body(self._body, now)

    def _check_head(self, now: float) -> None:
        limits = self._limits
        busy = self._queue or self._stream is not None or self._backlog
        if self.served != self._served_seen or busy:
            self._served_seen = self.served
            self._idle_since = now
        if self._parser is not None:
            if not self._paused_reading and now - self._head_since > limits.head_timeout_s:
                self._time_out("head", "the request head did not arrive in time")
        elif now - self._idle_since > (limits.idle_timeout_s if self.served else limits.head_timeout_s):
            self._server.timed_out("idle")
            self._reading = _NOTHING
            self._run()

    def _check_body(self, body: IncomingBody, now: float) -> None:
        if self._paused_reading and not body.waits:
            body.restart(now)
        elif body.is_late(now):
            if body.waits:
                self._fail(overloaded())
                self._run()
            else:
                self._time_out("body", "the request body did not arrive in time")

    def _time_out(self, what: str, message: str) -> None:
        self._server.timed_out(what)
        self._fail(ProtocolError(408, "request_timeout", message))
        self._run()

    # From bytes to requests.

    def _run(self, data: bytes = b"") -> None:
        """Read what can be read, write what can be written, until neither moves. The one place that does both."""
        if data:
            self._backlog = self._backlog + data if self._backlog else data
        if self._running or self._closed:
            return
        self._running = True
        self._fresh = False
        try:
            while True:
                if self._backlog:
                    data, self._backlog = self._backlog, b""
                    self._consume(data)
                if self._eof and not self._backlog:
                    self._end_of_input()
                if self._eof or self._server.draining:
                    self._hurry_answers()
                self._flush()
                if not self._backlog or self._blocked() or self._closed:
                    break
        finally:
            self._running = False
        self._settle()

    def _blocked(self) -> bool:
        """No new request is begun while this is so."""
        return (
            self._paused_writing
            or len(self._queue) >= self._max_pipelined
            or self._held_bytes > self._limits.max_held_bytes
            or (bool(self._queue) and self._queue[-1].alone and self._queue[-1].response is None)
        )

    def _consume(self, data: bytes) -> None:
        position, size = 0, len(data)
        while position < size:
            if self._reading == _HEAD:
                if self._blocked():
                    self._backlog = data[position:] if position else data
                    return
                position = self._take_head(data, position)
            elif self._body is not None:
                try:
                    position = self._take_body(self._body, data, position)
                except ProtocolError as error:
                    self._fail(error)
            else:
                self._dropped_bytes += size - position
                return

    def _take_head(self, data: bytes, position: int) -> int:
        raw = b""
        if self._parser is None:
            if data[position] in b"\r\n":  # empty lines between requests are allowed
                return position + 1
            raw = data[position : data.find(END, position, position + REMEMBERED_BYTES) + 4]
            head = self._heads.get(raw)
            if head is not None:
                self._begin(head)
                return position + len(raw)
            self._parser = HeadParser(self._limits)
            self._head_since = self._server.loop.time()
        start = position
        try:
            position = self._parser.feed(data, position)
        except ProtocolError as error:
            self._fail(error)
            return len(data)
        head = self._parser.head
        if head is not None:
            self._parser = None
            if len(raw) == position - start:
                self._server.remember(raw, head)
            self._begin(head)
        return position

    def _begin(self, head: Head) -> None:
        if head.length == 0:
            self._dispatch(head, b"")
            return
        if head.expects_continue:
            self._enqueue(head, _CONTINUE, 0)
        self._reading = _BODY
        self._body = IncomingBody(head, self._limits, self._server.room, self._admitted, self._server.loop.time())

    def _admitted(self) -> None:
        """The body has the room it waited for."""
        if self._body is not None:
            self._body.restart(self._server.loop.time())
        self._run()

    def _take_body(self, body: IncomingBody, data: bytes, position: int) -> int:
        position = body.feed(data, position, self._server.loop.time())
        if body.complete:
            whole, charge = body.finish()
            self._body = None
            self._reading = _HEAD
            self._dispatch(body.head, whole, charge)
        return position

    def _dispatch(self, head: Head, body: bytes, charge: int = 0) -> None:
        self.served += 1
        if not head.keep_alive:
            self._reading = _NOTHING
        try:
            answer = self._handler(Request(head, body, self._peer))
        except Exception as error:
            answer = self._server.failed(error)
        self._enqueue(head, answer, charge)

    def _fail(self, error: ProtocolError) -> None:
        """Answer a broken request in its turn; everything after it is dropped."""
        self._server.protocol_error(error)
        self._take_no_more()
        self._linger = True
        self._enqueue(None, self._server.render(error.status, error.code, error.message, error.details), 0)

    def _take_no_more(self) -> None:
        self._parser = None
        body, self._body = self._body, None
        if body is not None:
            body.cancel()
        self._reading = _NOTHING
        self._backlog = b""

    def _end_of_input(self) -> None:
        if self._reading == _NOTHING:
            return
        if self._parser is not None or self._reading != _HEAD:
            self._fail(ProtocolError(400, "bad_request", "the request is incomplete"))
        self._reading = _NOTHING

    def _ready_plain(self, deferred: Deferred) -> None:
        """The answer to a plain request without a charge: most often, it has been the only one since."""
        response = deferred.response
        assert response is not None
        if self._fresh and len(self._queue) == 1 and response.stream is None:
            self._queue.clear()
            self._transport.write(response.whole or encode_whole(response))
        else:
            self._ready(deferred)

    def _ready(self, deferred: Deferred) -> None:
        super()._ready(deferred)
        if deferred.alone or self._held_bytes > self._limits.max_held_bytes:
            self._run()  # also if its own answer is not to go out yet

    def _begin_stream(self, stream: StreamSource) -> None:
        super()._begin_stream(stream)
        if self._server.draining and self._stream is stream:  # it was not there yet for `drain`
            stream.drain()

    def _released(self, charge: int) -> None:
        self._server.room.give_back(charge)

    def _report(self, error: Exception) -> None:
        self._server.failed(error)

    def _is_last(self) -> bool:
        """The answer just taken off the queue is the last one: nothing has begun after it and the server stops."""
        if self._queue:
            return False
        if self._server.draining and self._reading == _HEAD and self._parser is None and not self._backlog:
            self._reading = _NOTHING
        return self._reading == _NOTHING

    def _settle(self) -> None:
        """After every change: may we read, may we take the fast path, is it time to close?"""
        if self._closed:
            return
        at_head = self._reading == _HEAD and self._parser is None
        if at_head and self._server.draining and not self._backlog:
            self._reading = _NOTHING
        if self._reading == _NOTHING and not self._queue and self._stream is None:
            self._close()
            return
        blocked = self._blocked()
        free = self._stream is None and not blocked and not self._backlog
        self._fresh = at_head and free and not self._server.draining
        self._pause_reading(blocked or bool(self._backlog) or (self._body is not None and self._body.waits))

    def _pause_reading(self, pause: bool) -> None:
        if pause is self._paused_reading or self._eof or self._transport.is_closing():
            return
        self._paused_reading = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._head_since = self._server.loop.time()  # what we did not read is not the client's delay
            self._transport.resume_reading()

    def _close(self) -> None:
        if not self._linger or self._eof or self._dropped_bytes > self._limits.linger_bytes:
            self._transport.close()
        elif self._linger_until is None:
            self._linger_until = self._server.loop.time() + self._limits.linger_timeout_s
            self._pause_reading(False)
            if self._transport.can_write_eof():
                self._transport.write_eof()
