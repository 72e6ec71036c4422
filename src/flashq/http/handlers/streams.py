"""Topics as Server-Sent Events: `GET .../stream`. `id` is the offset, `data` the record as JSON, on one line.

A stream reads its log as fast as its client takes the bytes. One that has caught up waits: it costs a callback among
the waiters of its topic and a place among those that are due a heartbeat, no thread and no timer of its own.
"""

from __future__ import annotations

import re
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

from flashq.api.errors import error_body
from flashq.api.queries import StreamQuery, parse_query
from flashq.api.schemas import RecordOut, encode_json
from flashq.broker.flashq import FlashQ
from flashq.errors import Closed, InvalidParameter
from flashq.http.handlers.blocking import Blocking, as_flashq_error
from flashq.http.handlers.pieces import Pieces, PiecesAhead
from flashq.http.handlers.poll import group_start
from flashq.http.message import Deferred, Fields, Request, Response, StreamSource
from flashq.metrics import Volume
from flashq.storage.interface import TopicLog

HEARTBEAT_S = 15.0

_SSE = b"text/event-stream"
_FIELDS: Fields = ((b"cache-control", b"no-store"),)
_OPENING = b"retry: 1000\n\n"  # ms; sent at once, so that everyone on the way sees an open stream
_HEARTBEAT = b": heartbeat\n\n"
_EVENT_ID = re.compile(rb"[0-9]{1,19}")
_LAST_OFFSET = (1 << 63) - 2


class StreamHandler:
    """The streams of one FlashQ. What they send is counted in `read`."""

    def __init__(
        self,
        flashq: FlashQ,
        loop: AbstractEventLoop,
        blocking: Blocking,
        read: Volume,
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._flashq = flashq
        self._read = read
        self._blocking = blocking
        self._heartbeats = _Heartbeats(loop, heartbeat_s)

    def stream_records(self, request: Request, topic: str) -> Response | Deferred:
        """A topic from an offset or a time on; from its log start if nothing else is said."""
        query = parse_query(request.query, StreamQuery)
        after = _last_event(request)

        def start() -> tuple[TopicLog, int]:
            log = self._flashq.log(topic)
            log.refresh()
            return log, log.log_start_offset

        return self._stream(request, start, query, after)

    def stream_group(self, request: Request, group: str, topic: str) -> Response | Deferred:
        """The same from the group's committed offset on, which stays."""
        query = parse_query(request.query, StreamQuery)
        after = _last_event(request)

        def start() -> tuple[TopicLog, int]:
            found, log = self._flashq.group(group), self._flashq.log(topic)
            log.refresh()
            return log, group_start(found.committed(log), log)[0]

        return self._stream(request, start, query, after)

    def _stream(
        self, request: Request, start: Callable[[], tuple[TopicLog, int]], query: StreamQuery, after: int | None
    ) -> Response | Deferred:
        """`start` finds the log and where its stream begins if the client does not say."""
        from_time = query.from_time

        def find() -> tuple[TopicLog, int]:
            log, at = start()
            if after is not None:
                at = after + 1
            elif query.from_offset is not None:
                at = query.from_offset
            elif from_time is not None:
                at = log.offset_at(from_time)
            return log, at

        if from_time is not None or self._blocking.is_remote:
            return self._blocking.answer(request, lambda: _readable(*find()), self._open)
        log, at = find()
        if log.is_at_hand(at):
            return self._open(_readable(log, at))
        return self._blocking.answer(request, lambda: _readable(log, at), self._open)

    def _open(self, place: tuple[TopicLog, int]) -> Response:
        log, at = place
        pieces = PiecesAhead(Pieces(log, at, None, _event, self._read), self._blocking)
        return Response(200, b"", _SSE, _FIELDS, _Events(self._flashq, log, pieces, self._heartbeats))


def _readable(log: TopicLog, at: int) -> tuple[TopicLog, int]:
    """The same; what cannot be read from there is an answer with a status, not a stream."""
    log.read(at, max_records=1, max_bytes=1)
    return log, at


def _last_event(request: Request) -> int | None:
    """The offset the client has seen last, by its Last-Event-ID."""
    given = request.header(b"last-event-id")
    if given is None:
        return None
    if not _EVENT_ID.fullmatch(given) or int(given) > _LAST_OFFSET:
        raise InvalidParameter(
            f"Last-Event-ID is {given[:40].decode('latin-1')!r}; it must be the id of an event, an offset",
            parameter="Last-Event-ID",
        )
    return int(given)


def _event(record: RecordOut) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (record.offset, encode_json(record))


class _Events(StreamSource):
    """One client's stream. Ends when the topic is deleted, when the server stops, and after an `error` event."""

    __slots__ = ("_cancel", "_ended", "_flashq", "_heartbeats", "_is_due", "_is_open", "_log", "_pieces", "_wake")

    def __init__(self, flashq: FlashQ, log: TopicLog, pieces: PiecesAhead, heartbeats: _Heartbeats) -> None:
        self._flashq = flashq
        self._log = log
        self._pieces = pieces
        self._heartbeats = heartbeats
        self._wake: Callable[[], None] = lambda: None
        self._cancel: Callable[[], None] | None = None  # takes it back that we wait
        self._is_open = False
        self._is_due = False  # a heartbeat
        self._ended = False

    # -- what the connection calls

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._pieces.wake = wake

    def next_chunk(self) -> bytes | None:
        if not self._is_open:
            self._is_open = True
            return _OPENING
        if self._ended:
            return None
        try:
            return self._pieces.take() or self._heartbeat_or_wait()
        except Closed:  # the topic has been deleted
            self._ended = True
            return None
        except Exception as error:
            self._ended = True
            _, body = error_body(as_flashq_error(error), is_write=False)
            return b"event: error\ndata: %b\n\n" % body

    def drain(self) -> None:
        self._ended = True
        self._wake()

    def close(self) -> None:
        self._ended = True
        self._heartbeats.forget(self)
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    # -- waiting

    def _heartbeat_or_wait(self) -> bytes | None:
        if self._is_gone():
            return None
        if self._is_due:
            self._is_due = False
            return _HEARTBEAT
        if self._cancel is None:
            self._cancel = self._flashq.waiters.wait(self._log, self._moved)
        self._heartbeats.expect(self)
        return self._pieces.take()  # what came before we were heard to wait

    def _moved(self) -> None:
        if self._pieces.at < self._log.high_water_mark or self._is_gone():
            self._cancel = None
            self._heartbeats.forget(self)
            self._wake()
        else:
            self._cancel = self._flashq.waiters.wait(self._log, self._moved)

    def beat(self) -> None:
        """It has been silent for long enough."""
        self._is_due = True
        self._wake()

    def _is_gone(self) -> bool:
        return self._flashq.backend.topics.get(self._log.name) is not self._log


class _Heartbeats:
    """Those that are silent, in the order in which they are due a heartbeat, on one timer."""

    def __init__(self, loop: AbstractEventLoop, interval_s: float) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._due: dict[_Events, float] = {}  # loop.time()
        self._timer: TimerHandle | None = None

    def expect(self, stream: _Events) -> None:
        """The stream has nothing more to send for now."""
        self._due.pop(stream, None)
        due = self._due[stream] = self._loop.time() + self._interval_s
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._beat)

    def forget(self, stream: _Events) -> None:
        """The stream has something to send, or is gone."""
        self._due.pop(stream, None)

    def _beat(self) -> None:
        now = self._loop.time()
        late = []
        for stream, due in self._due.items():
            if due > now:
                break
            late.append(stream)
        for stream in late:
            if self._due.pop(stream, None) is not None:
                stream.beat()  # which brings it back in as the last
        first = next(iter(self._due.values()), None)
        self._timer = None if first is None else self._loop.call_at(first, self._beat)
