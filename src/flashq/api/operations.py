"""The operations of the HTTP contract as data: what the router serves, the OpenAPI document shows and clients call.

Errors are listed by code (`api/errors.py` has their statuses); those any operation can meet are in `EVERYWHERE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from flashq.api import schemas
from flashq.api.queries import NoQuery, PollQuery, PostQuery, StreamQuery

JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

_REMOTE = ("storage_unavailable", "storage_refused")  # of storage on a cluster
EVERYWHERE = ("unauthorized", "forbidden", "misdirected_request", "internal_error", "closed", *_REMOTE)
_WRITE = ("storage_full", "storage_failed", "not_confirmed")
_BODY = ("invalid_json", "invalid_body", "unsupported_media_type")
_READ = ("invalid_parameter", "offset_out_of_range", "data_corruption", "storage_failed")
_POST = (
    "invalid_parameter",
    "validation_error",
    "precondition_failed",
    "idempotency_key_reused",
    "data_corruption",
    *_BODY,
    *_WRITE,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: its shape by content type (None: no JSON shape), and the names of its own headers."""

    content: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `bodies` maps content types to shapes: for NDJSON, the shape of a line."""

    id: str
    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    summary: str
    query: type[Any] | None = NoQuery  # None: whatever comes is ignored
    request_headers: tuple[str, ...] = ()
    bodies: Mapping[str, Any] = field(default_factory=dict)
    body_required: bool = True
    answers: Mapping[int, Answer]
    errors: tuple[str, ...] = ()


def _json(shape: Any) -> Answer:
    return Answer({JSON: shape})


_READ_HEADERS = ("X-Next-Offset", "X-High-Water-Mark", "X-Log-Start-Offset")  # of NDJSON
_RECORDS = Answer({JSON: schemas.Records, NDJSON: schemas.RecordOut}, _READ_HEADERS)
_GROUP_RECORDS = Answer({JSON: schemas.GroupRecords, NDJSON: schemas.RecordOut}, (*_READ_HEADERS, "X-Committed-Offset"))
_STREAM = Answer({SSE: None})
_NOTHING = Answer()

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        id="post_records",
        method="POST",
        path="/topics/{topic}/records",
        summary="Store records, all or none. The topic is created on first use.",
        query=PostQuery,
        request_headers=("Idempotency-Key", "If-Next-Offset"),
        bodies={JSON: schemas.PostRecords, NDJSON: schemas.RecordIn},
        answers={200: Answer({JSON: schemas.PostedRecords | schemas.PostedLines}, ("X-FlashQ-Durability",))},
        errors=_POST,
    ),
    Operation(
        id="poll_records",
        method="GET",
        path="/topics/{topic}/records",
        summary="Read records from an offset or a time on; with timeout_ms, wait for the first.",
        query=PollQuery,
        answers={200: _RECORDS},
        errors=("topic_not_found", *_READ),
    ),
    Operation(
        id="stream_records",
        method="GET",
        path="/topics/{topic}/stream",
        summary="Follow a topic as Server-Sent Events.",
        query=StreamQuery,
        request_headers=("Last-Event-ID",),
        answers={200: _STREAM},
        errors=("topic_not_found", *_READ),
    ),
    Operation(
        id="list_topics",
        method="GET",
        path="/topics",
        summary="All topics, with their offsets and sizes.",
        answers={200: _json(schemas.Topics)},
        errors=("invalid_parameter",),
    ),
    Operation(
        id="put_topic",
        method="PUT",
        path="/topics/{topic}",
        summary="Create a topic (201), or change how it is kept (200).",
        bodies={JSON: schemas.ConfigureTopic},
        body_required=False,
        answers={200: _json(schemas.Topic), 201: _json(schemas.Topic)},
        errors=("invalid_parameter", "data_corruption", *_BODY, *_WRITE),
    ),
    Operation(
        id="get_topic",
        method="GET",
        path="/topics/{topic}",
        summary="Describe a topic: offsets, sizes, retention.",
        answers={200: _json(schemas.Topic)},
        errors=("invalid_parameter", "topic_not_found", "data_corruption"),
    ),
    Operation(
        id="delete_topic",
        method="DELETE",
        path="/topics/{topic}",
        summary="Delete a topic and what groups have committed in it, for good.",
        answers={204: _NOTHING},
        errors=("invalid_parameter", "topic_not_found", "unsupported_media_type", *_WRITE),
    ),
    Operation(
        id="create_group",
        method="POST",
        path="/consumer/{group}",
        summary="Create a consumer group, if it is not there. A body is tolerated.",
        bodies={JSON: Any},
        body_required=False,
        answers={200: _json(schemas.GroupCreated)},
        errors=("invalid_parameter", "unsupported_media_type", *_WRITE),
    ),
    Operation(
        id="list_groups",
        method="GET",
        path="/consumer",
        summary="All consumer groups.",
        answers={200: _json(schemas.Groups)},
        errors=("invalid_parameter",),
    ),
    Operation(
        id="get_group",
        method="GET",
        path="/consumer/{group}",
        summary="Where a group stands in each topic it has committed in.",
        answers={200: _json(schemas.Group)},
        errors=("invalid_parameter", "group_not_found", "data_corruption"),
    ),
    Operation(
        id="delete_group",
        method="DELETE",
        path="/consumer/{group}",
        summary="Delete a group and its offsets, for good.",
        answers={204: _NOTHING},
        errors=("invalid_parameter", "group_not_found", "group_in_use", "unsupported_media_type", *_WRITE),
    ),
    Operation(
        id="poll_group",
        method="GET",
        path="/consumer/{group}/topics/{topic}",
        summary="Read from where the group stands. Never moves it.",
        query=PollQuery,
        answers={200: _GROUP_RECORDS},
        errors=("group_not_found", "topic_not_found", *_READ),
    ),
    Operation(
        id="stream_group",
        method="GET",
        path="/consumer/{group}/topics/{topic}/stream",
        summary="Follow a topic from where the group stands, as Server-Sent Events.",
        query=StreamQuery,
        request_headers=("Last-Event-ID",),
        answers={200: _STREAM},
        errors=("group_not_found", "topic_not_found", *_READ),
    ),
    Operation(
        id="commit_offset",
        method="POST",
        path="/consumer/{group}/topics/{topic}/offset",
        summary="Set the offset the group reads next.",
        bodies={JSON: schemas.CommitOffset},
        answers={200: _json(schemas.Committed)},
        errors=(
            "invalid_parameter",
            "invalid_offset",
            "validation_error",
            "group_not_found",
            "group_in_use",
            "topic_not_found",
            "data_corruption",
            *_BODY,
            *_WRITE,
        ),
    ),
    Operation(
        id="get_group_offset",
        method="GET",
        path="/consumer/{group}/topics/{topic}/offset",
        summary="The committed offset of a group in a topic.",
        answers={200: _json(schemas.GroupOffset)},
        errors=("invalid_parameter", "group_not_found", "topic_not_found", "data_corruption"),
    ),
    Operation(
        id="reset_offset",
        method="POST",
        path="/consumer/{group}/topics/{topic}/offset/reset",
        summary="Move a group to the start, the end, an offset or a time; dry_run only tells.",
        bodies={JSON: schemas.ResetOffset},
        answers={200: _json(schemas.Reset)},
        errors=(
            "invalid_parameter",
            "invalid_offset",
            "group_not_found",
            "group_in_use",
            "topic_not_found",
            "data_corruption",
            *_BODY,
            *_WRITE,
        ),
    ),
    Operation(
        id="health",
        method="GET",
        path="/health",
        summary="Whether the server takes posts and can read all it has.",
        query=None,
        answers={200: _json(schemas.HealthReport), 503: _json(schemas.HealthReport)},
    ),
    Operation(
        id="metrics",
        method="GET",
        path="/metrics",
        summary="Counts of the server and the state of its logs, for Prometheus.",
        query=None,
        answers={200: Answer({PROMETHEUS: None})},
    ),
    Operation(
        id="openapi",
        method="GET",
        path="/openapi.json",
        summary="This document.",
        query=None,
        answers={200: _json(dict[str, Any])},
    ),
)
BY_ID: Mapping[str, Operation] = MappingProxyType({operation.id: operation for operation in OPERATIONS})
