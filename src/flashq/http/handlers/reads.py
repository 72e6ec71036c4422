"""Reads of a topic, and of a group's topic: `GET .../records` and `GET /consumer/{group}/topics/{topic}`.

Runs on the event loop; a waiting reader costs a callback and a timer, no thread. Finding a time, and the end of a
large answer, is done off the loop, and so is reading what would have to come from the disk.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from time import perf_counter

from flashq.api.queries import PollQuery, parse_query
from flashq.api.records import to_record_out
from flashq.api.schemas import MAX_ANSWER_BYTES, GroupRecords, Records, encode_json
from flashq.broker.flashq import FlashQ
from flashq.errors import FlashQError, TopicNotFound
from flashq.http.handlers.blocking import Blocking, as_flashq_error
from flashq.http.handlers.large import element, large_answer
from flashq.http.handlers.latest import LatestAnswers
from flashq.http.handlers.ndjson import line, lines_answer, prefers_lines
from flashq.http.handlers.pieces import PIECE_BYTES, Pieces, end_of_read
from flashq.http.message import Deferred, Request, Response
from flashq.http.router import error_response
from flashq.metrics import Volume
from flashq.storage.interface import CommittedOffset, TopicLog

SMALL_BYTES = 4 * PIECE_BYTES
"""An answer from no more than these is made at once; a larger one is streamed."""


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
        log = self._flashq.log(topic)
        at = query.from_offset or 0
        made = self._latest.find(log, at, query) if query.from_time is None else None
        if made is not None and not prefers_lines(request.head.fields.get(b"accept")):
            records, response = made
            self._read.add(records, len(response.body))
            return response
        return self._poll(_Poll(self._flashq, log, query, at, None, self._read, self._latest), request)

    def poll_group(self, request: Request, group: str, topic: str) -> Response | Deferred:
        """The same from the group's committed offset on, which stays; from the log start before its first commit."""
        query = parse_query(request.query, PollQuery)
        found, log = self._flashq.group(group), self._flashq.log(topic)
        start, committed_offset = group_start(found.committed(log), log)
        if query.from_offset is not None:
            start = query.from_offset
        return self._poll(_Poll(self._flashq, log, query, start, committed_offset, self._read, self._latest), request)

    def _poll(self, poll: _Poll, request: Request) -> Response | Deferred:
        in_lines = prefers_lines(request.header(b"accept"))
        if not in_lines and poll.query.from_time is None and not poll.is_to_wait and poll.log.is_at_hand(poll.at):
            response = poll.small_answer()
            if response is not None:
                return response
        return _Later(poll, request, self._loop, self._blocking, in_lines=in_lines).begin()


def group_start(committed: CommittedOffset | None, log: TopicLog) -> tuple[int, int]:
    """Where a group begins to read, and the committed offset it is shown: 0 before the first commit."""
    return (log.log_start_offset, 0) if committed is None else (committed.offset, committed.offset)


class _Poll:
    """One read, as asked for, from offset `at`."""

    __slots__ = ("at", "committed_offset", "flashq", "latest", "log", "query", "read")

    def __init__(
        self,
        flashq: FlashQ,
        log: TopicLog,
        query: PollQuery,
        at: int,
        committed_offset: int | None,
        read: Volume,
        latest: LatestAnswers,
    ) -> None:
        self.flashq = flashq
        self.log = log
        self.query = query
        self.at = at
        self.committed_offset = committed_offset
        self.read = read
        self.latest = latest

    @property
    def is_to_wait(self) -> bool:
        return bool(self.query.timeout_ms) and self.at >= self.log.high_water_mark

    def fetch(self) -> None:
        """Read what the answer is made of and drop it: then it is in memory. May wait for the disk."""
        query = self.query
        self.log.read(self.at, max_records=query.max_records, max_bytes=min(query.max_bytes, SMALL_BYTES))

    def check_there(self) -> None:
        """Raises `TopicNotFound` once the topic has been deleted; another of its name is not what was asked for."""
        if self.flashq.log(self.log.name) is not self.log:
            raise TopicNotFound(f"topic {self.log.name} has been deleted", topic=self.log.name)

    @property
    def stop(self) -> int:
        """Where it ends if no limit of bytes ends it sooner."""
        return max(min(self.at + self.query.max_records, self.log.high_water_mark), self.at)

    def small_answer(self) -> Response | None:
        """The records there are, as JSON; None if they are more than a client may leave lying in our memory."""
        made = self.latest.find(self.log, self.at, self.query) if self.committed_offset is None else None
        made = made or self._make()
        if made is None:
            return None
        records, response = made
        self.read.add(records, len(response.body))
        return response

    def _make(self) -> tuple[int, Response] | None:
        query = self.query
        max_bytes = min(query.max_bytes, SMALL_BYTES)
        polled = self.flashq.read(self.log, self.at, to_record_out, max_records=query.max_records, max_bytes=max_bytes)
        if max_bytes < query.max_bytes and polled.next_offset < self.stop:
            return None
        if not query.include_headers:
            for record in polled:
                record.headers = None
        start, end = polled.log_start_offset, polled.high_water_mark
        facts = (polled, polled.next_offset, end, polled.lag, start)
        if self.committed_offset is not None:
            return len(polled), Response(200, encode_json(GroupRecords(*facts, self.committed_offset)))
        response = Response(200, encode_json(Records(*facts)))
        self.latest.keep(self.log, self.at, query, start, end, len(polled), response)
        return len(polled), response


class _Later:
    """A read on its way to an answer that may take a wait or a look at the disk."""

    __slots__ = ("_blocking", "_cancel", "_hurried", "_in_lines", "_loop", "_poll", "_request", "_timer", "deferred")

    def __init__(
        self, poll: _Poll, request: Request, loop: AbstractEventLoop, blocking: Blocking, *, in_lines: bool
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
        batches = poll.log.read(poll.at, max_records=poll.query.max_records, max_bytes=SMALL_BYTES)
        end = batches[-1].next_offset if batches else poll.at
        frame_bytes = sum(len(batch.frame) for batch in batches)
        del batches
        if end >= stop and frame_bytes <= min(SMALL_BYTES, max_bytes):
            self._send(stop, is_small=True)
        elif self._in_lines and max_bytes >= poll.log.size_bytes:  # one document tells of damage before it begins
            self._send(stop, is_small=False)
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
            self.deferred.send(lines_answer(poll.log, pieces, end, poll.committed_offset, is_small=is_small))
        else:
            self.deferred.send(large_answer(poll.log, pieces, end, poll.committed_offset))

    def _fail(self, error: FlashQError) -> None:
        self.deferred.send(error_response(error, self._request))
