"""Bodies and parameters of requests: NDJSON, JSON, queries, times, and the header fields that carry a value.

Whatever the text: it is refused with an error of the contract, or what was read is what the standard library reads,
and a record comes back as it was posted.

The first byte of the input says what the rest is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from flashq.api.errors import RequestError
from flashq.api.queries import NoQuery, PollQuery, PostQuery, StreamQuery, parse_query
from flashq.api.records import to_record_out, to_rows
from flashq.api.schemas import (
    CommitOffset,
    ConfigureTopic,
    PostRecords,
    RecordIn,
    RecordOut,
    ResetOffset,
    decode_post,
    encode_json,
    line_decoder,
)
from flashq.api.times import iso_timestamp, parse_time
from flashq.batch import MAX_TIMESTAMP_MS, decode, encode
from flashq.broker.terms import hash_idempotency_key
from flashq.errors import InvalidParameter, ValidationError
from flashq.http.handlers.bodies import read_json, read_lines
from flashq.http.handlers.ndjson import prefers_lines
from flashq.http.head import Head
from flashq.http.message import Peer, Request

MAX_BYTES = 4096
_TIME_MS = 1_700_000_000_123
_REFUSED = (RequestError, ValidationError, RecursionError)  # the router answers a RecursionError as too deep a JSON


def check(data: bytes) -> None:
    if data:
        CHECKS[data[0] % len(CHECKS)](data[1:])


# -- records


def _check_lines(body: bytes) -> None:
    try:
        records = read_lines(_request(b"application/x-ndjson", body), line_decoder)
    except _REFUSED:
        return
    lines = [line for line in body.split(b"\n") if line.strip()]
    assert len(records) == len(lines), f"{len(records)} records of {len(lines)} lines"
    _compare(records, [_json(line) for line in lines])
    _check_stored(records)


def _check_post(body: bytes) -> None:
    try:
        records = read_json(_request(b"application/json", body), decode_post).records
    except _REFUSED:
        return
    _compare(records, _json(body)["records"])
    _check_stored(records)
    assert decode_post(encode_json(PostRecords(records))).records == records


def _json(text: bytes) -> Any:
    """As the standard library reads it. Fields of no meaning are skipped unread: they may hold what is no UTF-8."""
    return json.loads(text.decode(errors="replace"))


def _compare(records: list[RecordIn], expected: list[dict[str, object]]) -> None:
    for record, other in zip(records, expected, strict=True):
        for name in ("value", "key", "headers", "encoding", "key_encoding"):
            assert getattr(record, name) == other.get(name), f"{name}: {record} is {other}"


def _check_stored(records: list[RecordIn]) -> None:
    try:
        rows = to_rows(records)
    except ValidationError:
        return
    batch = encode(rows, _TIME_MS)
    batch.place(0, 0, 0)
    for record, out in zip(records, decode(batch, to_record_out), strict=True):
        encode_json(out)
        if record.encoding is None and record.key_encoding is None:
            posted = RecordOut(record.key, record.value, record.headers or None, out.offset, out.timestamp)
            assert out == posted, f"posted {posted}, came back as {out}"


def _check_other_bodies(body: bytes) -> None:
    kinds: tuple[type[msgspec.Struct], ...] = (ConfigureTopic, CommitOffset, ResetOffset)
    for kind in kinds:
        try:
            found = read_json(_request(b"application/json", body), msgspec.json.Decoder(kind).decode)
        except _REFUSED:
            continue
        expected = _json(body)
        for name in expected:
            assert getattr(found, name) == expected[name], f"{found} is {expected}"


# -- queries and fields


def _check_query(data: bytes) -> None:
    query = data.decode("ascii", "ignore")
    for kind in (PollQuery, PostQuery, StreamQuery, NoQuery):
        try:
            found = parse_query(query, kind)
        except InvalidParameter:
            continue
        given = dict(parse_qsl(query, keep_blank_values=True))
        shown = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in msgspec.structs.asdict(found).items()
            if name in given
        }
        assert shown.keys() == given.keys(), f"{given} reads as {found}"
        if not str(shown.get("from_time")).startswith("-"):  # before 1970, which only a date can say
            assert parse_query(urlencode(shown), kind) == found, f"{found} is not read again"


def _check_time(data: bytes) -> None:
    try:
        time_ms = parse_time(data.decode("latin-1"))
    except ValueError:
        return
    if 0 <= time_ms <= MAX_TIMESTAMP_MS:
        assert parse_time(iso_timestamp(time_ms)) == time_ms


def _check_fields(data: bytes) -> None:
    assert prefers_lines(data) in (True, False)
    try:
        hashed = hash_idempotency_key(data.decode("latin-1"), "Idempotency-Key")
    except InvalidParameter:
        return
    assert hashed is not None
    assert hashed[0] < 0x80


def _request(content_type: bytes, body: bytes) -> Request:
    fields = [(b"content-type", content_type)]
    return Request(Head("POST", "/topics/t/records", fields, dict(fields), True), body, Peer(None, "http"))


CHECKS: tuple[Callable[[bytes], None], ...] = (
    _check_lines,
    _check_post,
    _check_other_bodies,
    _check_query,
    _check_time,
    _check_fields,
)
