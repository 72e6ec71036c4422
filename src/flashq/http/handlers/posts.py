"""`POST /topics/{topic}/records`. Runs on the event loop and never waits for the disk."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import Executor, Future

from flashq.api.queries import PostQuery, parse_query
from flashq.api.records import lines_body, posted_body, to_rows
from flashq.api.schemas import decode_line, decode_post
from flashq.batch import Batch
from flashq.broker.flashq import FlashQ, check_name
from flashq.broker.tick import Tick
from flashq.errors import FlashQError, InvalidParameter, StorageFailed
from flashq.http.handlers.bodies import NDJSON, content_type, read_json, read_lines
from flashq.http.message import JSON, Deferred, Request, Response
from flashq.http.router import error_response
from flashq.record import Row
from flashq.storage.interface import TopicLog


class PostHandler:
    """Posts to one FlashQ. `executor` runs what may block on the disk: creating a topic."""

    def __init__(self, flashq: FlashQ, loop: AbstractEventLoop, executor: Executor) -> None:
        self._flashq = flashq
        self._loop = loop
        self._executor = executor
        self._tick = Tick(loop.call_soon, flashq.clock_ms)
        self._creating: dict[str, list[_Post]] = {}  # posts to topics being made
        self._durability = {
            kind: ((b"x-flashq-durability", kind.encode()),) for kind in ("fsynced", "written", "memory", "replicated")
        }

    def post_records(self, request: Request, topic: str) -> Response | Deferred:
        """Store all records of the body or none."""
        post = _Post(request, *_read(request), self._asks_for_sync(request) if request.query else False)
        log = self._flashq.backend.topics.get(topic)
        if log is None or topic in self._creating:
            return self._post_to_new_topic(post, topic)
        self._store(post, log)
        return post.deferred

    def _asks_for_sync(self, request: Request) -> bool:
        asked = parse_query(request.query, PostQuery).sync is not None
        if asked and self._flashq.backend.kind == "memory":
            raise InvalidParameter(
                "sync=always cannot be had: this server keeps records in memory. Nothing was stored", parameter="sync"
            )
        return asked

    def _store(self, post: _Post, log: TopicLog) -> None:
        def posted(batch: Batch | None, offset: int, error: FlashQError | None) -> None:
            if batch is None or error is not None:
                assert error is not None
                post.deferred.send(error_response(error, post.request))
            else:
                body = post.body(offset, len(post.rows), batch.timestamp_ms)
                durability = "fsynced" if post.durable else log.durability
                post.deferred.send(Response(200, body, headers=self._durability[durability]))

        size = len(post.request.body)
        if post.durable:
            self._tick.post_durably(log, post.rows, posted)
        else:
            self._tick.post(log, post.rows, size, posted)

    def _post_to_new_topic(self, post: _Post, topic: str) -> Deferred:
        """Create the topic off the loop, then post. Posts that come meanwhile follow in the order they came."""
        check_name("topic", topic)
        waiting = self._creating.setdefault(topic, [])
        waiting.append(post)
        if len(waiting) == 1:
            creation = self._executor.submit(self._flashq.log_or_new, topic)
            creation.add_done_callback(lambda creation: self._loop.call_soon_threadsafe(self._created, topic, creation))
        return post.deferred

    def _created(self, topic: str, creation: Future[TopicLog]) -> None:
        for post in self._creating[topic]:  # grows if an answer lets in the next post of a client
            try:
                self._store(post, _outcome_of(creation))
            except FlashQError as error:
                post.deferred.send(error_response(error, post.request))
        del self._creating[topic]


class _Post:
    """One request: its records, how its answer is written, whether it waits for the disk whatever the sync mode."""

    __slots__ = ("body", "deferred", "durable", "request", "rows")

    def __init__(
        self, request: Request, rows: list[Row], body: Callable[[int, int, int], bytes], durable: bool
    ) -> None:
        self.request = request
        self.rows = rows
        self.body = body
        self.durable = durable
        self.deferred = Deferred()


def _read(request: Request) -> tuple[list[Row], Callable[[int, int, int], bytes]]:
    """The records of the body, and what writes the answer."""
    if request.header(b"content-type") != JSON and content_type(request) == NDJSON:
        return to_rows(read_lines(request, decode_line)), lines_body
    return to_rows(read_json(request, decode_post).records), posted_body


def _outcome_of(creation: Future[TopicLog]) -> TopicLog:
    try:
        return creation.result()
    except OSError as error:
        if isinstance(error, FlashQError):
            raise
        raise StorageFailed(f"the topic cannot be created: {error.strerror or error}. Nothing was stored") from error
