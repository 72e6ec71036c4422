"""`/topics/{topic}/records`: post and poll. Handlers run on the event loop and never wait for the disk."""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from concurrent.futures import Executor, Future

import msgspec

from flashq.api.errors import RequestError
from flashq.api.parameters import flag, number, parse_query
from flashq.api.schemas import (
    DEFAULT_POLL_RECORDS,
    MAX_POLL_BYTES,
    MAX_POLL_RECORDS,
    MAX_TIMEOUT_MS,
    Records,
    decode_post,
    encode_json,
    posted_body,
    to_record_out,
    to_rows,
)
from flashq.batch import Batch
from flashq.broker.flashq import FlashQ, check_name
from flashq.broker.tick import Tick
from flashq.errors import FlashQError, StorageFailed
from flashq.http.message import Deferred, Request, Response
from flashq.http.router import error_response
from flashq.record import Row
from flashq.storage.interface import TopicLog

_POLL_PARAMETERS = frozenset({"from_offset", "max_records", "max_bytes", "timeout_ms", "include_headers"})


class RecordHandlers:
    """Posts and polls of one FlashQ. `executor` runs what may block on the disk: creating a topic."""

    def __init__(self, flashq: FlashQ, loop: AbstractEventLoop, executor: Executor) -> None:
        self._flashq = flashq
        self._loop = loop
        self._executor = executor
        self._tick = Tick(loop.call_soon, flashq.clock_ms)
        self._creating: dict[str, list[tuple[Deferred, Request, list[Row]]]] = {}  # posts to topics being made
        self._durability = {
            kind: ((b"x-flashq-durability", kind.encode()),) for kind in ("fsynced", "written", "memory", "replicated")
        }

    # -- post

    def post(self, request: Request, topic: str) -> Response | Deferred:
        """Store all records of the body or none."""
        rows = _rows(request)
        log = self._flashq.backend.topics.get(topic)
        if log is None or topic in self._creating:
            return self._post_to_new_topic(request, topic, rows)
        deferred = Deferred()
        self._store(deferred, request, log, rows)
        return deferred

    def _store(self, deferred: Deferred, request: Request, log: TopicLog, rows: list[Row]) -> None:
        def posted(batch: Batch | None, offset: int, error: FlashQError | None) -> None:
            if batch is None or error is not None:
                assert error is not None
                deferred.send(error_response(error, request))
            else:
                body = posted_body(offset, len(rows), batch.timestamp_ms)
                deferred.send(Response(200, body, headers=self._durability[log.durability]))

        self._tick.post(log, rows, len(request.body), posted)

    def _post_to_new_topic(self, request: Request, topic: str, rows: list[Row]) -> Deferred:
        """Create the topic off the loop, then post. Posts that come meanwhile follow in the order they came."""
        check_name("topic", topic)
        deferred = Deferred()
        waiting = self._creating.setdefault(topic, [])
        waiting.append((deferred, request, rows))
        if len(waiting) == 1:
            creation = self._executor.submit(self._flashq.log_or_new, topic)
            creation.add_done_callback(lambda creation: self._loop.call_soon_threadsafe(self._created, topic, creation))
        return deferred

    def _created(self, topic: str, creation: Future[TopicLog]) -> None:
        for deferred, request, rows in self._creating[topic]:  # grows if an answer lets in the next post of a client
            try:
                self._store(deferred, request, _outcome_of(creation), rows)
            except FlashQError as error:
                deferred.send(error_response(error, request))
        del self._creating[topic]

    # -- poll

    def poll(self, request: Request, topic: str) -> Response | Deferred:
        """Records from an offset on; with `timeout_ms`, waits for the first."""
        found = parse_query(request.query, _POLL_PARAMETERS)
        poll = _Poll(
            self._flashq.log(topic),
            number(found, "from_offset", 0),
            number(found, "max_records", DEFAULT_POLL_RECORDS, 1, MAX_POLL_RECORDS),
            number(found, "max_bytes", MAX_POLL_BYTES, 1, MAX_POLL_BYTES),
            flag(found, "include_headers", True),
        )
        timeout_ms = number(found, "timeout_ms", 0, 0, MAX_TIMEOUT_MS)
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


def _rows(request: Request) -> list[Row]:
    _check_content_type(request)
    try:
        posted = decode_post(request.body)
    except msgspec.ValidationError as error:
        _check_json(request.body)  # the shape can be wrong before the JSON is
        raise RequestError("invalid_body", f"the body has the wrong shape: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(error) from error
    return to_rows(posted.records)


def _check_json(body: bytes) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)  # reads all of it and builds nothing
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(error) from error


def _not_json(error: Exception) -> RequestError:
    return RequestError("invalid_json", f"the body is not JSON: {error}")


def _check_content_type(request: Request) -> None:
    given = request.header(b"content-type")
    if given == b"application/json":
        return
    if given is None or given.split(b";", 1)[0].strip().lower() != b"application/json":
        raise RequestError("unsupported_media_type", "a post needs Content-Type: application/json")


def _outcome_of(creation: Future[TopicLog]) -> TopicLog:
    try:
        return creation.result()
    except OSError as error:
        if isinstance(error, FlashQError):
            raise
        raise StorageFailed(f"the topic cannot be created: {error.strerror or error}. Nothing was stored") from error
