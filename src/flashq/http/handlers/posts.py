"""`POST /topics/{topic}/records`. Runs on the event loop and never waits for the disk."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from concurrent.futures import Executor, Future

from flashq.api.records import posted_body, to_rows
from flashq.api.schemas import decode_post
from flashq.batch import Batch
from flashq.broker.flashq import FlashQ, check_name
from flashq.broker.tick import Tick
from flashq.errors import FlashQError, StorageFailed
from flashq.http.handlers.bodies import read_json
from flashq.http.message import Deferred, Request, Response
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
        self._creating: dict[str, list[tuple[Deferred, Request, list[Row]]]] = {}  # posts to topics being made
        self._durability = {
            kind: ((b"x-flashq-durability", kind.encode()),) for kind in ("fsynced", "written", "memory", "replicated")
        }

    def post_records(self, request: Request, topic: str) -> Response | Deferred:
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


def _rows(request: Request) -> list[Row]:
    return to_rows(read_json(request, decode_post).records)


def _outcome_of(creation: Future[TopicLog]) -> TopicLog:
    try:
        return creation.result()
    except OSError as error:
        if isinstance(error, FlashQError):
            raise
        raise StorageFailed(f"the topic cannot be created: {error.strerror or error}. Nothing was stored") from error
