"""The shapes and limits of the HTTP contract, as msgspec types: what validates bodies also makes the OpenAPI document.

Shared by server and client. Sizes are bytes of UTF-8; times are ISO 8601 UTC with milliseconds and Z. Bodies that
order something done (commit, reset, configure) take no unknown fields: a typo must not read as a default. Records
do, so that what was read can be posted as it is.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from flashq.storage.interface import MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES

MAX_KEY_BYTES = 1024
MAX_HEADER_VALUE_BYTES = 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_BATCH_RECORDS = 1000
MAX_POLL_RECORDS = 10_000
DEFAULT_POLL_RECORDS = 100
MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Of keys, values and headers in one JSON answer; `max_bytes` may ask for more only where the answer is streamed."""
MAX_TIMEOUT_MS = 60_000
MAX_METADATA_BYTES = 4096
SERVICE = "flashq"

Encoding = Literal["base64"]
Durability = Literal["fsynced", "written", "memory", "replicated"]
Offset = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
SomeOffset = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""As given: whether the log has it is for the log to say."""
Milliseconds = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


# -- records


class RecordIn(msgspec.Struct, gc=False):  # one for each posted record, and never in a cycle
    """A record as posted. `encoding` "base64" says what `value` is written in, `key_encoding` the same of `key`."""

    value: str
    key: str | None = None
    headers: dict[str, str] | None = None
    encoding: Encoding | None = None
    key_encoding: Encoding | None = None


class PostRecords(msgspec.Struct, gc=False):
    """The body of `POST /topics/{topic}/records`: 1 to 1,000 records."""

    records: list[RecordIn]


class Posted(msgspec.Struct):
    """Where a record has been stored, and when."""

    offset: int
    timestamp: str


class PostedRecords(msgspec.Struct):
    """The answer to a post: one for each record, in order."""

    offsets: list[Posted]


class PostedLines(msgspec.Struct):
    """The answer to a post of NDJSON lines."""

    first_offset: int
    last_offset: int
    count: int


class RecordOut(msgspec.Struct, gc=False):  # no cycles; else a poll of 1,000 has the collector run
    """A record as read. Text that is not UTF-8 comes in base64, and `encoding` or `key_encoding` says so."""

    key: str | None
    value: str
    headers: dict[str, str] | None
    offset: int
    timestamp: str
    encoding: Encoding | UnsetType = UNSET
    key_encoding: Encoding | UnsetType = UNSET


class Records(msgspec.Struct):
    """The answer to a read of a topic. `next_offset` is where to read on."""

    records: list[RecordOut]
    next_offset: int
    high_water_mark: int
    lag: int
    log_start_offset: int


class GroupRecords(Records):
    """The answer to a read of a group."""

    committed_offset: int


# -- topics


class TopicSummary(msgspec.Struct):
    """A line of the list of topics. `size_bytes` is null where the storage does not tell."""

    name: str
    log_start_offset: int
    next_offset: int
    high_water_mark: int
    size_bytes: int | None


class Topics(msgspec.Struct):
    """All topics by name. `unreadable` names those whose files cannot be read, where there are any."""

    topics: list[TopicSummary]
    unreadable: list[str] | UnsetType = UNSET


class ConfigureTopic(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /topics/{topic}`. What is absent stays as it is; null keeps everything for ever."""

    retention_ms: Milliseconds | UnsetType | None = UNSET
    retention_bytes: Bytes | UnsetType | None = UNSET
    segment_bytes: Annotated[int, Meta(ge=MIN_SEGMENT_BYTES, le=MAX_SEGMENT_BYTES)] | UnsetType = UNSET


class Topic(TopicSummary):
    """A topic described. A power cut may take records from `durable_offset` on; `epoch` rises when one may have."""

    durable_offset: int
    epoch: int
    durability: Durability
    retention_ms: int | None
    retention_bytes: int | None
    segment_bytes: int


# -- consumer groups


class GroupCreated(msgspec.Struct):
    """The answer to `POST /consumer/{group}`. `created` is false if it was there."""

    group_id: str
    created: bool


class GroupSummary(msgspec.Struct):
    """A line of the list of groups."""

    group_id: str


class Groups(msgspec.Struct):
    """All groups by name."""

    groups: list[GroupSummary]


class GroupTopic(msgspec.Struct):
    """Where a group stands in a topic. `last_commit_time` is null if another program committed and did not say."""

    topic: str
    committed_offset: int
    high_water_mark: int
    lag: int
    last_commit_time: str | None
    metadata: str | UnsetType = UNSET


class Group(msgspec.Struct):
    """A group described: the topics it has committed in."""

    group_id: str
    topics: list[GroupTopic]


class CommitOffset(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a commit: the offset to read next, and a note (at most 4,096 bytes)."""

    offset: SomeOffset
    metadata: str | None = None


class Committed(msgspec.Struct):
    """The answer to a commit."""

    group_id: str
    topic: str
    offset: int
    committed_offset: int
    timestamp: str


class GroupOffset(msgspec.Struct):
    """Where a group stands in a topic; 0 before the first commit. `last_commit_time` is absent before it, and null if
    another program committed and did not say."""

    group_id: str
    topic: str
    committed_offset: int
    high_water_mark: int
    lag: int
    last_commit_time: str | UnsetType | None = UNSET
    metadata: str | UnsetType = UNSET


class ResetOffset(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a reset. `offset` goes with "offset", `time` with "time"; `dry_run` only tells."""

    to: Literal["earliest", "latest", "offset", "time"]
    offset: SomeOffset | None = None
    time: str | int | None = None
    dry_run: bool = False


class Reset(msgspec.Struct):
    """The answer to a reset: the committed offset before and after."""

    before: int
    after: int


# -- service


class HealthReport(msgspec.Struct):
    """The answer to `GET /health`. `timestamp` is Unix seconds, `uptime` seconds."""

    status: Literal["healthy", "degraded", "unhealthy"]
    service: str
    timestamp: int
    version: str
    uptime: float
    topics_count: int
    consumer_groups_count: int
    problems: list[str] | UnsetType = UNSET


class ErrorBody(msgspec.Struct):
    """Every error there is, as JSON."""

    error: str
    message: str
    details: dict[str, object]


decode_post = msgspec.json.Decoder(PostRecords).decode
line_decoder = msgspec.json.Decoder(RecordIn)
encode_json = msgspec.json.Encoder().encode
