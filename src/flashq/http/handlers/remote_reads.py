"""A read of a log that is across a network: looked up, read and written out off the event loop.

A waiting reader costs a callback and a timer, no thread: the log's backend follows the topic for all that wait.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from time import perf_counter

from flashq.api.schemas import RecordOut
from flashq.broker.polled import Polled
from flashq.errors import FlashQError
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.ndjson import NDJSON, line, position_fields
from flashq.http.handlers.poll import Poll
from flashq.http.message import Deferred, Request, Response
from flashq.http.router import error_response


class RemoteRead:
    """One read on its way to an answer."""

    __slots__ = (
        "_blocking",
        "_cancel",
        "_find",
        "_hurried",
        "_in_lines",
        "_loop",
        "_poll",
        "_request",
        "_timer",
        "deferred",
    )

    def __init__(
        self, find: Callable[[], Poll], request: Request, loop: AbstractEventLoop, blocking: Blocking, *, in_lines: bool
    ) -> None:
        """`find` looks up what is to be read, off the loop."""
        self.deferred = Deferred(on_abandon=self._stop, on_drain=self._hurry)
        self._find = find
        self._request = request
        self._loop = loop
        self._blocking = blocking
        self._in_lines = in_lines
        self._hurried = False
        self._poll: Poll | None = None
        self._cancel: Callable[[], None] | None = None
        self._timer: TimerHandle | None = None

    def begin(self) -> Deferred:
        self._blocking.run(self._read_first, self._answer_or_wait, self._fail)
        return self.deferred

    # -- off the loop

    def _read_first(self) -> Response | None:
        """The answer; None if there is nothing to read yet and the reader wants to wait."""
        self._poll = poll = self._find()
        from_time = poll.query.from_time
        if from_time is not None:
            poll.at = poll.log.offset_at(from_time)
        polled = poll.polled()
        return self._respond(polled) if polled or not poll.query.timeout_ms else None

    def _read_again(self) -> Response:
        assert self._poll is not None
        self._poll.check_there()
        return self._respond(self._poll.polled())

    def _respond(self, polled: Polled[RecordOut]) -> Response:
        poll = self._poll
        assert poll is not None
        if not self._in_lines:
            return Response(200, poll.as_json(polled))
        body = b"".join([line(record) for record in polled])
        poll.read.add(len(polled), len(body))
        fields = position_fields(
            polled.next_offset, polled.high_water_mark, polled.log_start_offset, poll.committed_offset
        )
        return Response(200, body, NDJSON, fields)

    # -- on the loop

    def _answer_or_wait(self, response: Response | None) -> None:
        if response is not None:
            self.deferred.send(response)
        elif self.deferred.abandoned:
            return
        elif self._hurried:
            self._answer()
        else:
            assert self._poll is not None
            self._timer = self._loop.call_later(self._poll.query.timeout_ms / 1000, self._answer)
            self._wait()

    def _wait(self) -> None:
        poll = self._poll
        assert poll is not None
        self._cancel = poll.flashq.waiters.wait(poll.log, self._moved)
        if not poll.is_to_wait:  # moved before we were heard to wait
            self._answer()

    def _moved(self) -> None:
        poll = self._poll
        assert poll is not None
        if poll.is_to_wait and poll.flashq.backend.topics.get(poll.log.name) is poll.log:
            self._wait()
        else:
            self._answer()

    def _hurry(self) -> None:
        self._hurried = True
        if self._timer is not None:
            self._answer()

    def _stop(self) -> None:
        if self._cancel is not None:
            self._cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._cancel = self._timer = None

    def _answer(self) -> None:
        if self._timer is None and not self._hurried:
            return  # it is being answered
        if self._timer is not None:
            self.deferred.since = perf_counter()  # how long the reader chose to wait tells nothing about the server
        self._stop()
        self._blocking.run(self._read_again, self.deferred.send, self._fail)

    def _fail(self, error: FlashQError) -> None:
        self.deferred.send(error_response(error, self._request))
