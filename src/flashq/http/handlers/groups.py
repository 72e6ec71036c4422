"""`/consumer`: groups and the offsets they commit. Reads of a group are elsewhere; what blocks is done off the loop."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from flashq.api.errors import RequestError
from flashq.api.queries import NoQuery, parse_query
from flashq.api.schemas import (
    MAX_METADATA_BYTES,
    CommitOffset,
    Committed,
    Group,
    GroupCreated,
    GroupOffset,
    Groups,
    GroupSummary,
    GroupTopic,
    Reset,
    ResetOffset,
    encode_json,
)
from flashq.api.times import iso_timestamp, parse_time
from flashq.broker.flashq import FlashQ
from flashq.errors import ValidationError
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.bodies import check_unused, read_json
from flashq.http.message import NO_CONTENT, Deferred, Request, Response
from flashq.http.router import error_response
from flashq.storage.interface import Append, CommittedOffset, TopicLog

_decode_commit = msgspec.json.Decoder(CommitOffset).decode
_decode_reset = msgspec.json.Decoder(ResetOffset).decode


class GroupHandlers:
    """The consumer groups of one FlashQ."""

    def __init__(self, flashq: FlashQ, blocking: Blocking) -> None:
        self._flashq = flashq
        self._blocking = blocking

    def create_group(self, request: Request, group: str) -> Deferred:
        """Create a group, if it is not there."""
        parse_query(request.query, NoQuery)
        check_unused(request)
        return self._blocking.answer(
            request,
            lambda: self._flashq.create_consumer_group(group),
            lambda created: Response(200, encode_json(GroupCreated(group, created))),
        )

    def list_groups(self, request: Request) -> Response | Deferred:
        """All groups by name."""
        parse_query(request.query, NoQuery)
        return self._blocking.look_up(
            request,
            self._flashq.consumer_groups,
            lambda names: Response(200, encode_json(Groups([GroupSummary(name) for name in names]))),
        )

    def get_group(self, request: Request, group: str) -> Response | Deferred:
        """Where a group stands in each topic it has committed in, by name of topic."""
        parse_query(request.query, NoQuery)

        def stands() -> list[GroupTopic]:
            found = self._flashq.group(group)
            logs = self._flashq.logs()
            readable = {log.topic_id: log for log in logs if log.unreadable is None}  # of others, it is not known
            told = sorted(found.stands(readable), key=lambda stand: stand[0].name)
            return [_group_topic(log, committed) for log, committed in told]

        return self._blocking.look_up(request, stands, lambda topics: Response(200, encode_json(Group(group, topics))))

    def delete_group(self, request: Request, group: str) -> Deferred:
        """Delete a group and its offsets."""
        parse_query(request.query, NoQuery)
        check_unused(request)
        return self._blocking.answer(request, lambda: self._flashq.delete_consumer_group(group), lambda _: NO_CONTENT)

    def commit_offset(self, request: Request, group: str, topic: str) -> Deferred:
        """Set the offset a group reads next; answered once the sync mode's promise holds."""
        parse_query(request.query, NoQuery)
        body = read_json(request, _decode_commit)
        _check_metadata(body.metadata)
        now_ms = self._flashq.clock_ms()

        def committed() -> Response:
            told = Committed(group, topic, body.offset, body.offset, iso_timestamp(now_ms))
            return Response(200, encode_json(told))

        def commit() -> Append:
            return self._flashq.commit(group, topic, body.offset, body.metadata, timestamp_ms=now_ms)

        if self._blocking.is_remote:
            return self._blocking.answer(request, lambda: commit().result(), lambda _: committed())
        append = commit()
        deferred = Deferred()

        def done(append: Append) -> None:
            deferred.send(committed() if append.error is None else error_response(append.error, request))

        append.add_done_callback(done)
        return deferred

    def get_group_offset(self, request: Request, group: str, topic: str) -> Response | Deferred:
        """The committed offset of a group in a topic; 0 before the first commit."""
        parse_query(request.query, NoQuery)

        def stands() -> GroupOffset:
            found, log = self._flashq.group(group), self._flashq.log(topic)
            committed = found.committed(log)
            log.refresh()
            return _group_offset(group, log, committed)

        return self._blocking.look_up(request, stands, lambda stands: Response(200, encode_json(stands)))

    def reset_offset(self, request: Request, group: str, topic: str) -> Deferred:
        """Move a group to the start, the end, an offset or a time; `dry_run` only tells."""
        parse_query(request.query, NoQuery)
        body = read_json(request, _decode_reset)
        at = _reset_at(body)
        return self._blocking.answer(
            request,
            lambda: self._flashq.reset_offset(group, topic, body.to, at, dry_run=body.dry_run),
            lambda moved: Response(200, encode_json(Reset(*moved))),
        )


def _group_offset(group: str, log: TopicLog, committed: CommittedOffset | None) -> GroupOffset:
    end = log.high_water_mark
    if committed is None:
        return GroupOffset(group, log.name, 0, end, end)
    return GroupOffset(
        group,
        log.name,
        committed.offset,
        end,
        max(end - committed.offset, 0),
        None if committed.timestamp_ms is None else iso_timestamp(committed.timestamp_ms),
        UNSET if committed.metadata is None else committed.metadata,
    )


def _group_topic(log: TopicLog, committed: CommittedOffset) -> GroupTopic:
    end = log.high_water_mark
    return GroupTopic(
        log.name,
        committed.offset,
        end,
        max(end - committed.offset, 0),
        None if committed.timestamp_ms is None else iso_timestamp(committed.timestamp_ms),
        UNSET if committed.metadata is None else committed.metadata,
    )


def _check_metadata(metadata: str | None) -> None:
    size = 0 if metadata is None else len(metadata.encode())
    if size > MAX_METADATA_BYTES:
        raise ValidationError(
            f"metadata has {size} bytes; at most {MAX_METADATA_BYTES} are allowed. Nothing was committed",
            field="metadata",
            max_size=MAX_METADATA_BYTES,
            actual_size=size,
        )


def _reset_at(body: ResetOffset) -> int | None:
    """The offset or Unix milliseconds that go with `to`. Raises 422 for one that is missing or does not belong."""
    for name, value in (("offset", body.offset), ("time", body.time)):
        if (value is not None) != (body.to == name):
            what = "needs" if value is None else "takes no"
            raise RequestError("invalid_body", f'a reset to "{body.to}" {what} {name}; nothing was committed')
    if body.time is None:
        return body.offset
    try:
        return parse_time(str(body.time))
    except ValueError as error:
        raise RequestError("invalid_body", f"time cannot be read: {error}; nothing was committed") from error
