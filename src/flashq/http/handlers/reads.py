"""Reads: `GET /topics/{topic}/records`. Runs on the event loop; a waiting reader costs a callback, no thread."""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

from flashq.api.queries import PollQuery, parse_query
from flashq.api.records import to_record_out
from flashq.api.schemas import MAX_ANSWER_BYTES, Records, encode_json
from flashq.broker.flashq import FlashQ
from flashq.errors import FlashQError
from flashq.http.message import Deferred, Request, Response
from flashq.http.router import error_response
from flashq.storage.interface import TopicLog


class ReadHandler:
    """Reads of one FlashQ."""

    def __init__(self, flashq: FlashQ, loop: AbstractEventLoop) -> None:
        self._flashq = flashq
        self._loop = loop

    def poll_records(self, request: Request, topic: str) -> Response | Deferred:
        """Records from an offset on; with `timeout_ms`, waits for the first."""
        query = parse_query(request.query, PollQuery)
        log = self._flashq.log(topic)
        from_offset = query.from_offset or 0
        max_bytes = min(query.max_bytes, MAX_ANSWER_BYTES)
        poll = _Poll(log, from_offset, query.max_records, max_bytes, query.include_headers)
        timeout_ms = query.timeout_ms
        if timeout_ms and poll.from_offset >= poll.log.high_water_mark:
            return self._wait(request, poll, timeout_ms)
        return Response(200, poll.answer(self._flashq))

    def _wait(self, request: Request, poll: _Poll, timeout_ms: int) -> Deferred:
        """Answer when the topic has moved past the offset, when time is up, or when the server stops."""
        waiting = _Waiting(self._loop, timeout_ms / 1000)

        def answer() -> None:
            waiting.stop()
            try:
                response = Response(200, poll.answer(self._flashq))
            except FlashQError as error:
                response = error_response(error, request)
            deferred.send(response)

        def moved() -> None:
            if poll.from_offset < poll.log.high_water_mark or poll.log.name not in self._flashq.backend.topics:
                answer()
            else:
                waiting.cancel = self._flashq.waiters.wait(poll.log, moved)

        deferred = Deferred(on_abandon=waiting.stop, on_drain=answer)
        waiting.cancel = self._flashq.waiters.wait(poll.log, moved)
        waiting.timer = self._loop.call_later(waiting.timeout_s, answer)
        return deferred


class _Waiting:
    """What a long poll holds until it is answered or abandoned: a place among the waiters, and a timer."""

    __slots__ = ("cancel", "loop", "timeout_s", "timer")

    def __init__(self, loop: AbstractEventLoop, timeout_s: float) -> None:
        self.loop = loop
        self.timeout_s = timeout_s
        self.cancel: Callable[[], None] = lambda: None
        self.timer: TimerHandle | None = None

    def stop(self) -> None:
        self.cancel()
        if self.timer is not None:
            self.timer.cancel()


class _Poll:
    """One read, as asked for."""

    __slots__ = ("from_offset", "include_headers", "log", "max_bytes", "max_records")

    def __init__(
        self, log: TopicLog, from_offset: int, max_records: int, max_bytes: int, include_headers: bool
    ) -> None:
        self.log = log
        self.from_offset = from_offset
        self.max_records = max_records
        self.max_bytes = max_bytes
        self.include_headers = include_headers

    def answer(self, flashq: FlashQ) -> bytes:
        polled = flashq.read(
            self.log, self.from_offset, to_record_out, max_records=self.max_records, max_bytes=self.max_bytes
        )
        if not self.include_headers:
            for record in polled:
                record.headers = None
        return encode_json(
            Records(polled, polled.next_offset, polled.high_water_mark, polled.lag, polled.log_start_offset)
        )
