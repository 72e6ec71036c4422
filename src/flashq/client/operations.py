"""The operations of the contract, each as the requests it makes and what it reads in their answers. No I/O.

They have names, parameters, results and errors of `FlashQ`; where the contract adds something, so do they.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from flashq.api import schemas
from flashq.api.operations import NDJSON
from flashq.api.schemas import PostedLines, encode_json
from flashq.broker.reset import ResetTo, whole
from flashq.client.exchange import Request, Steps, read, request_for
from flashq.client.lines import encode_records
from flashq.errors import InvalidParameter, TopicNotFound
from flashq.names import check_idempotency_key
from flashq.record import Postable
from flashq.storage.interface import TopicConfig

if TYPE_CHECKING:
    from flashq.broker.flashq import Conditions, TopicChanges

_posted = msgspec.json.Decoder(PostedLines)
_topic = msgspec.json.Decoder(schemas.Topic)
_topics = msgspec.json.Decoder(schemas.Topics)
_group = msgspec.json.Decoder(schemas.Group)
_groups = msgspec.json.Decoder(schemas.Groups)
_created = msgspec.json.Decoder(schemas.GroupCreated)
_group_offset = msgspec.json.Decoder(schemas.GroupOffset)
_reset = msgspec.json.Decoder(schemas.Reset)
_health = msgspec.json.Decoder(schemas.HealthReport)
_document = msgspec.json.Decoder(dict[str, Any])

# -- posts


def post_record(topic: str, record: Postable, **conditions: Unpack[Conditions]) -> Steps[int]:
    """The record's offset."""
    posted = yield from post_lines(topic, encode_records([record]), **conditions)
    return posted.first_offset


def post_records(topic: str, records: Iterable[Postable], **conditions: Unpack[Conditions]) -> Steps[list[int]]:
    """Offsets in order."""
    posted = yield from post_lines(topic, encode_records(records), **conditions)
    return list(range(posted.first_offset, posted.last_offset + 1))


def post_lines(
    topic: str,
    body: bytes,
    *,
    idempotency_key: str | None = None,
    if_next_offset: int | None = None,
    durable: bool = False,
) -> Steps[PostedLines]:
    """Where the records of an NDJSON body were stored. Repeatable only with a key."""
    headers = {"Content-Type": NDJSON}
    if idempotency_key is not None:
        check_idempotency_key(idempotency_key, "idempotency_key")
        headers["Idempotency-Key"] = idempotency_key
    if if_next_offset is not None:
        headers["If-Next-Offset"] = str(at_least("if_next_offset", if_next_offset, 0))
    answer = yield request_for(
        "post_records",
        topic=topic,
        query={"sync": "always"} if durable else None,
        headers=headers,
        body=body,
        repeatable=idempotency_key is not None,
    )
    return read(answer, _posted, is_write=True)


# -- topics


def topics() -> Steps[list[str]]:
    """Names, sorted; also of those that cannot be read."""
    answer = read((yield request_for("list_topics")), _topics)
    return sorted([*(topic.name for topic in answer.topics), *(answer.unreadable or ())])


def topic_summaries() -> Steps[list[schemas.TopicSummary]]:
    answer = yield request_for("list_topics")
    return read(answer, _topics).topics


def describe_topic(topic: str) -> Steps[schemas.Topic]:
    answer = yield request_for("get_topic", topic=topic)
    return read(answer, _topic)


def high_water_mark(topic: str) -> Steps[int]:
    return (yield from describe_topic(topic)).high_water_mark


def create_topic(
    topic: str,
    *,
    retention_ms: int | None = None,
    retention_bytes: int | None = None,
    segment_bytes: int | None = None,
) -> Steps[bool]:
    """False if it was there. The contract's PUT would configure it anew: so with options, look first."""
    given = {"retention_ms": retention_ms, "retention_bytes": retention_bytes, "segment_bytes": segment_bytes}
    options = {name: value for name, value in given.items() if value is not None}
    TopicConfig().with_changes(options)
    if options:
        try:
            yield request_for("get_topic", topic=topic)
            return False
        except TopicNotFound:
            pass
    answer = yield _put_topic(topic, encode_json(options))
    return answer.status == 201


def configure_topic(topic: str, **changes: Unpack[TopicChanges]) -> Steps[None]:
    """The contract's PUT would create a topic that is not there: so look first."""
    yield request_for("get_topic", topic=topic)
    TopicConfig().with_changes(dict(changes))  # type: ignore[arg-type]
    yield _put_topic(topic, encode_json(changes))


def delete_topic(topic: str) -> Steps[None]:
    """Not repeatable: a post may have made the topic anew in between."""
    yield request_for("delete_topic", topic=topic)


def _put_topic(topic: str, body: bytes) -> Request:
    return request_for("put_topic", topic=topic, headers=_JSON_BODY, body=body, repeatable=True)


# -- consumer groups


def create_consumer_group(group: str) -> Steps[bool]:
    answer = yield request_for("create_group", group=group, repeatable=True)
    return read(answer, _created, is_write=True).created


def delete_consumer_group(group: str) -> Steps[None]:
    """Not repeatable, as `delete_topic`."""
    yield request_for("delete_group", group=group)


def consumer_groups() -> Steps[list[str]]:
    answer = yield request_for("list_groups")
    return [group.group_id for group in read(answer, _groups).groups]


def describe_consumer_group(group: str) -> Steps[schemas.Group]:
    answer = yield request_for("get_group", group=group)
    return read(answer, _group)


def describe_consumer_group_offset(group: str, topic: str) -> Steps[schemas.GroupOffset]:
    answer = yield request_for("get_group_offset", group=group, topic=topic)
    return read(answer, _group_offset)


def consumer_group_offset(group: str, topic: str) -> Steps[int]:
    return (yield from describe_consumer_group_offset(group, topic)).committed_offset


def commit_offset(group: str, topic: str, offset: int, metadata: str | None = None) -> Steps[None]:
    body = schemas.CommitOffset(whole("offset", offset), metadata)
    yield request_for(
        "commit_offset", group=group, topic=topic, headers=_JSON_BODY, body=encode_json(body), repeatable=True
    )


def reset_offset(
    group: str, topic: str, to: ResetTo, at: int | None = None, *, dry_run: bool = False
) -> Steps[tuple[int, int]]:
    """Offset before and after. Not repeatable: what was before would be lost."""
    if to not in ("earliest", "latest", "offset", "time"):
        raise InvalidParameter(f"to is {to!r}; it must be earliest, latest, offset or time", parameter="to")
    if (at is not None) != (to in ("offset", "time")):
        raise InvalidParameter(f"a reset to {to} {'needs' if at is None else 'takes no'} at", parameter="at")
    body: dict[str, object] = {"to": to, "dry_run": dry_run}
    if at is not None:
        body[to] = whole("at", at)
    answer = yield request_for(
        "reset_offset", group=group, topic=topic, headers=_JSON_BODY, body=encode_json(body), repeatable=dry_run
    )
    moved = read(answer, _reset, is_write=True)
    return moved.before, moved.after


# -- the whole


def health() -> Steps[schemas.HealthReport]:
    """Also of a server that is unhealthy."""
    answer = yield request_for("health")
    return read(answer, _health)


def openapi() -> Steps[dict[str, Any]]:
    answer = yield request_for("openapi")
    return read(answer, _document)


_JSON_BODY = {"Content-Type": "application/json"}


def at_least(name: str, value: int, least: int) -> int:
    """A whole number in bounds. Raises `InvalidParameter`."""
    if type(value) is not int or not least <= value < 1 << 63:
        raise InvalidParameter(f"{name} is {value!r}; it must be a whole number, {least} or more", parameter=name)
    return value
