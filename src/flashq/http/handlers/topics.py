"""`/topics` and `/topics/{topic}`: list, create, configure, describe, delete. What blocks is done off the loop."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from flashq.api.queries import NoQuery, parse_query
from flashq.api.schemas import ConfigureTopic, Topic, Topics, TopicSummary, encode_json
from flashq.broker.flashq import FlashQ, TopicChanges
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.bodies import check_unused, read_json
from flashq.http.message import NO_CONTENT, Deferred, Request, Response
from flashq.storage.interface import TopicLog

_decode_configuration = msgspec.json.Decoder(ConfigureTopic).decode


class TopicHandlers:
    """The topics of one FlashQ."""

    def __init__(self, flashq: FlashQ, blocking: Blocking) -> None:
        self._flashq = flashq
        self._blocking = blocking

    def list_topics(self, request: Request) -> Response | Deferred:
        """All topics by name; of those that cannot be read, the names alone."""
        parse_query(request.query, NoQuery)
        return self._blocking.look_up(request, self._flashq.logs, _listed)

    def put_topic(self, request: Request, topic: str) -> Deferred:
        """Create a topic (201), or change how it is kept (200); without a body, nothing is changed."""
        parse_query(request.query, NoQuery)
        changes = _changes(read_json(request, _decode_configuration)) if request.body else TopicChanges()

        def respond(put: tuple[TopicLog, bool]) -> Response:
            log, created = put
            return Response(201 if created else 200, _described(log))

        return self._blocking.answer(request, lambda: self._flashq.put_topic(topic, **changes), respond)

    def get_topic(self, request: Request, topic: str) -> Response | Deferred:
        """A topic described."""
        parse_query(request.query, NoQuery)
        return self._blocking.look_up(
            request, lambda: self._flashq.log_as_it_is(topic), lambda log: Response(200, _described(log))
        )

    def delete_topic(self, request: Request, topic: str) -> Deferred:
        """Delete a topic and what groups have committed in it; who waits for its records is told."""
        parse_query(request.query, NoQuery)
        check_unused(request)

        def delete() -> TopicLog:
            log = self._flashq.log(topic)
            self._flashq.delete_topic(topic)
            return log

        def respond(log: TopicLog) -> Response:
            self._flashq.waiters.notify(log)
            return NO_CONTENT

        return self._blocking.answer(request, delete, respond)


def _listed(logs: list[TopicLog]) -> Response:
    unreadable = [log.name for log in logs if log.unreadable is not None]
    readable = [_summary(log) for log in logs if log.unreadable is None]
    return Response(200, encode_json(Topics(readable, unreadable or UNSET)))


def _changes(body: ConfigureTopic) -> TopicChanges:
    changes = TopicChanges()
    if body.retention_ms is not UNSET:
        changes["retention_ms"] = body.retention_ms
    if body.retention_bytes is not UNSET:
        changes["retention_bytes"] = body.retention_bytes
    if body.segment_bytes is not UNSET:
        changes["segment_bytes"] = body.segment_bytes
    return changes


def _summary(log: TopicLog) -> TopicSummary:
    return TopicSummary(log.name, log.log_start_offset, log.next_offset, log.high_water_mark, log.size_bytes)


def _described(log: TopicLog) -> bytes:
    if log.unreadable is not None:
        raise log.unreadable.with_traceback(None)
    config = log.config
    return encode_json(
        Topic(
            name=log.name,
            log_start_offset=log.log_start_offset,
            next_offset=log.next_offset,
            high_water_mark=log.high_water_mark,
            size_bytes=log.size_bytes,
            durable_offset=log.durable_offset,
            epoch=log.epoch,
            durability=log.durability,
            retention_ms=config.retention_ms,
            retention_bytes=config.retention_bytes,
            segment_bytes=config.segment_bytes,
        )
    )
