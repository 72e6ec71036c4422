"""Reads of a topic, and of a group's topic: `GET .../records` and `GET /consumer/{group}/topics/{topic}`.

Runs on the event loop; a waiting reader costs a callback and a timer, no thread. Finding a time, and the end of a
large answer, is done off the loop, and so is reading what would have to come from the disk.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from time import perf_counter

from flashq.api.queries import PollQuery, parse_query
from flashq.api.schemas import MAX_ANSWER_BYTES
from flashq.broker.flashq import FlashQ
from flashq.errors import FlashQError
from flashq.http.handlers.blocking import Blocking, as_flashq_error
from flashq.http.handlers.large import element, large_answer
from flashq.http.handlers.latest import LatestAnswers
from flashq.http.handlers.ndjson import line, lines_answer, prefers_lines
from flashq.http.handlers.pieces import Pieces, end_of_read
from flashq.http.handlers.poll import SMALL_BYTES, Poll, group_start
from flashq.http.handlers.remote_reads import RemoteRead
from flashq.http.message import Deferred, Request, Response
from flashq.http.router import error_response
from flashq.metrics import Volume


class ReadHandler:
    """Reads of one FlashQ. What they answer is counted in `read`."""

    def __init__(self, flashq: FlashQ, loop: AbstractEventLoop, blocking: Blocking, read: Volume) -> None:
        self._flashq = flashq
        self._read = read
        self._latest = LatestAnswers()
        self._loop = loop
        self._blocking = blocking

    def poll_records(self, request: Request, topic: str) -> Response | Deferred:
        """Records from an offset or a time on; with `timeout_ms`, waits for the first."""
        query = parse_query(request.head.query, PollQuery)
        if self._blocking.is_remote:
            return self._begin_remote(lambda: self._topic_poll(topic, query), request)
        log = self._flashq.log(topic)
        at = query.from_offset or 0
        made = self._latest.find(log, at, query) if query.from_time is None else None
        if made is not None and not prefers_lines(request.head.fields.get(b"accept")):
            records, response = made
            self._read.add(records, len(response.body))
            return response
        return self._begin(Poll(self._flashq, log, query, at, None, self._read, self._latest), request)

    def poll_group(self, request: Request, group: str, topic: str) -> Response | Deferred:
        """The same from the group's committed offset on, which stays; from the log start before its first commit."""
        query = parse_query(request.query, PollQuery)
        if self._blocking.is_remote:
            return self._begin_remote(lambda: self._group_poll(group, topic, query), request)
        return self._begin(self._group_poll(group, topic, query), request)

    def _begin(self, poll: Poll, request: Request) -> Response | Deferred:
        in_lines = prefers_lines(request.header(b"accept"))
        if not in_lines and poll.query.from_time is None and not poll.is_to_wait and poll.log.is_at_hand(poll.at):
            response = poll.small_answer()
            if response is not None:
                return response
        return _Later(poll, request, self._loop, self._blocking, in_lines=in_lines).begin()

    def _begin_remote(self, find: Callable[[], Poll], request: Request) -> Deferred:
        in_lines = prefers_lines(request.header(b"accept"))
        return RemoteRead(find, request, self._loop, self._blocking, in_lines=in_lines).begin()

    def _topic_poll(self, topic: str, query: PollQuery) -> Poll:
        log = self._flashq.log(topic)
        return Poll(self._flashq, log, query, query.from_offset or 0, None, self._read, self._latest)

    def _group_poll(self, group: str, topic: str, query: PollQuery) -> Poll:
        found, log = self._flashq.group(group), self._flashq.log(topic)
        start, committed_offset = group_start(found.committed(log), log)
        if query.from_offset is not None:
            start = query.from_offset
        return Poll(self._flashq, log, query, start, committed_offset, self._read, self._latest)


class _Later:
    """A read on its way to an answer that may take a wait or a look at the disk."""

    __slots__ = ("_blocking", "_cancel", "_hurried", "_in_lines", "_loop", "_poll", "_request", "_timer", "deferred")

    def __init__(
        self, poll: Poll, request: Request, loop: AbstractEventLoop, blocking: Blocking, *, in_lines: bool
    ) -> None:
        self.deferred = Deferred(on_abandon=self._stop, on_drain=self._hurry)
        self._poll = poll
        self._request = request
        self._loop = loop
        self._blocking = blocking
        self._in_lines = in_lines
        self._hurried = False
        self._cancel: Callable[[], None] | None = None
        self._timer: TimerHandle | None = None

    def begin(self) -> Deferred:
        from_time = self._poll.query.from_time
        if from_time is None:
            self._wait_or_answer()
        else:
            self._blocking.run(lambda: self._poll.log.offset_at(from_time), self._begin_at, self._fail)
        return self.deferred

    def _begin_at(self, offset: int) -> None:
        self._poll.at = offset
        self._wait_or_answer()

    # -- waiting

    def _wait_or_answer(self) -> None:
        if self.deferred.abandoned:
            return
        if not self._poll.is_to_wait or self._hurried:
            self._answer()
            return
        self._timer = self._loop.call_later(self._poll.query.timeout_ms / 1000, self._answer)
        self._cancel = self._poll.flashq.waiters.wait(self._poll.log, self._moved)

    def _moved(self) -> None:
        poll = self._poll
        if poll.is_to_wait and poll.flashq.backend.topics.get(poll.log.name) is poll.log:
            self._cancel = poll.flashq.waiters.wait(poll.log, self._moved)
        else:
            self._answer()

    def _hurry(self) -> None:
        """The answer is wanted now: with what there is, if it waits for more."""
        self._hurried = True
        if self._timer is not None:
            self._answer()

    def _stop(self) -> None:
        if self._cancel is not None:
            self._cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._cancel = self._timer = None

    # -- answering

    def _answer(self) -> None:
        if self._timer is not None:
            self.deferred.since = perf_counter()  # how long the reader chose to wait tells nothing about the server
        self._stop()
        if self._poll.log.is_at_hand(self._poll.at):
            self._answer_now()
        else:
            self._blocking.run(self._poll.fetch, lambda _: self._answer_now(), self._fail)

    def _answer_now(self) -> None:
        try:
            self._poll.check_there()
            response = None if self._in_lines else self._poll.small_answer()
            if response is None:
                self._find_end()
            else:
                self.deferred.send(response)
        except Exception as error:  # nobody above answers this request
            self._fail(as_flashq_error(error))

    def _find_end(self) -> None:
        """Of an answer that may be large: with what is at hand if that tells, else off the loop."""
        poll, stop, max_bytes = self._poll, self._poll.stop, self._max_bytes
        limit = min(SMALL_BYTES, max_bytes)
        batches = poll.log.read(poll.at, max_records=poll.query.max_records, max_bytes=limit)
        end = batches[-1].next_offset if batches else poll.at
        frame_bytes = sum(len(batch.frame) for batch in batches)
        del batches
        if end >= stop and frame_bytes <= limit:
            self._send(stop, is_small=True)
        elif self._in_lines and poll.log.size_bytes is not None and max_bytes >= poll.log.size_bytes:
            self._send(stop, is_small=False)  # one document, though, tells of damage before it begins
        else:
            self._blocking.run(
                lambda: end_of_read(poll.log, poll.at, stop, max_bytes),
                lambda end: self._send(end, is_small=False),
                self._fail,
            )

    @property
    def _max_bytes(self) -> int:
        asked = self._poll.query.max_bytes
        return asked if self._in_lines else min(asked, MAX_ANSWER_BYTES)

    def _send(self, end: int, *, is_small: bool) -> None:
        poll = self._poll
        encode = line if self._in_lines else element
        pieces = Pieces(poll.log, poll.at, end, encode, poll.read, include_headers=poll.query.include_headers)
        if self._in_lines:
            self.deferred.send(
                lines_answer(poll.log, pieces, end, poll.committed_offset, self._blocking, is_small=is_small)
            )
        else:
            self.deferred.send(large_answer(poll.log, pieces, end, poll.committed_offset, self._blocking))

    def _fail(self, error: FlashQError) -> None:
        self.deferred.send(error_response(error, self._request))
