"""The HTTP contract as a checklist: a row for each sentence, a few requests each, as one would type them into curl.

`{t}` is a topic and `{g}` a group nobody else uses. An expected object lists what must be there; `...` is any value.
What a sentence says about time, load or restarts has tests of its own beside this one.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
LINES = {"Accept": "application/x-ndjson"}
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass(frozen=True)
class Step:
    """One request and what it must give."""

    line: str
    body: Any
    headers: dict[str, str]
    status: int
    gives: Any
    answer_headers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Begins:
    """An answer without end that begins like this; what follows is not waited for."""

    pattern: str


def ask(
    line: str,
    body: Any = None,
    status: int = 200,
    gives: Any = ...,
    headers: dict[str, str] | None = None,
    answer_headers: dict[str, Any] | None = None,
) -> Step:
    sent = dict(JSON if body is not None and not isinstance(body, bytes) else {}, **(headers or {}))
    return Step(line, body, sent, status, gives, answer_headers or {})


def post(*values: str, **more: Any) -> Step:
    return ask("POST /topics/{t}/records", {"records": [{"value": value} for value in values]}, **more)


def refused(line: str, status: int, code: str, body: Any = None, headers: Any = None, **details: Any) -> Step:
    shown = {"error": code, "message": ..., "details": details or ...}
    return ask(line, body, status, shown, headers)


def too_large(records: Any, field: str, limit: int, actual: int) -> Step:
    details = {"field": field, "max_size": limit, "actual_size": actual, "outcome": "not_applied"}
    return refused("POST /topics/{t}/records", 400, "validation_error", {"records": records}, **details)


def commit(offset: int, **more: Any) -> Step:
    return ask("POST /consumer/{g}/topics/{t}/offset", {"offset": offset}, **more)


GROUP = ask("POST /consumer/{g}")
POLL = "GET /topics/{t}/records"
READ_GROUP = "GET /consumer/{g}/topics/{t}"
OFFSET = "GET /consumer/{g}/topics/{t}/offset"
RESET = "POST /consumer/{g}/topics/{t}/offset/reset"


def values(*expected: str) -> dict[str, Any]:
    return {"records": [{"value": value} for value in expected]}


RECORDS: dict[str, list[Step]] = {
    "a post answers one offset and timestamp per record, in order; the topic is created on first use": [
        post("a", "b", gives={"offsets": [{"offset": 0, "timestamp": TIMESTAMP}, {"offset": 1, "timestamp": TIMESTAMP}]}),
        ask("GET /topics/{t}", gives={"name": "{t}", "next_offset": 2}),
    ],
    "NDJSON, a record a line, answers first_offset, last_offset and count": [
        post("a"),
        ask(
            "POST /topics/{t}/records",
            b'{"value":"b","key":"k"}\n{"value":"c"}\n',
            gives={"first_offset": 1, "last_offset": 2, "count": 2},
            headers=NDJSON,
        ),
        ask(POLL, gives=values("a", "b", "c")),
    ],
    "X-FlashQ-Durability tells what a stored post has become": [
        post("a", answer_headers={"x-flashq-durability": re.compile("fsynced|memory")}),
        ask("GET /topics/{t}", gives={"durability": re.compile("fsynced|memory")}),
        refused("POST /topics/{t}/records?sync=never", 400, "invalid_parameter", {"records": [{"value": "v"}]}, parameter="sync"),
    ],
    "a read answers the records, next_offset, high_water_mark, lag and log_start_offset": [
        post("a", "b", "c"),
        ask(
            POLL + "?from_offset=1&max_records=1",
            gives={**values("b"), "next_offset": 2, "high_water_mark": 3, "lag": 1, "log_start_offset": 0},
        ),
    ],
    "Accept: application/x-ndjson gives a line for each, and X-Next-Offset and X-High-Water-Mark": [
        post("a", "b"),
        ask(
            POLL + "?max_records=1",
            headers=LINES,
            gives=[{"key": None, "value": "a", "headers": None, "offset": 0, "timestamp": TIMESTAMP}],
            answer_headers={"x-next-offset": "1", "x-high-water-mark": "2", "content-type": "application/x-ndjson"},
        ),
    ],
    "from_time starts at the first record appended at or after that time": [
        post("a"),
        ask(POLL + "?from_time=2000-01-01T00:00:00Z", gives=values("a")),
        ask(POLL + "?from_time=0", gives=values("a")),
        ask(POLL + "?from_time=2999-12-31", gives={"records": [], "next_offset": 1}),
        refused(POLL + "?from_time=yesterday", 400, "invalid_parameter", parameter="from_time"),
        refused(POLL + "?from_time=0&from_offset=0", 400, "invalid_parameter"),
    ],
    "a record read is key, value, headers, offset and timestamp; an absent key and headers are null": [
        post("v"),
        ask(POLL, gives={"records": [{"key": None, "value": "v", "headers": None, "offset": 0, "timestamp": TIMESTAMP}]}),
    ],
    "include_headers=false leaves headers out": [
        ask("POST /topics/{t}/records", {"records": [{"value": "v", "headers": {"a": "1"}}]}),
        ask(POLL, gives={"records": [{"headers": {"a": "1"}}]}),
        ask(POLL + "?include_headers=false", gives={"records": [{"headers": None}]}),
    ],
    "base64 marks a binary value in both directions": [
        ask("POST /topics/{t}/records", {"records": [{"value": b64encode(b"\xff\x00").decode(), "encoding": "base64"}]}),
        ask(POLL, gives={"records": [{"value": b64encode(b"\xff\x00").decode(), "encoding": "base64"}]}),
    ],
    "base64 that holds text comes back as text": [
        ask("POST /topics/{t}/records", {"records": [{"value": b64encode("é".encode()).decode(), "encoding": "base64"}]}),
        ask(POLL, gives=values("é")),
    ],
    "a post is all or nothing": [
        post("a"),
        refused(
            "POST /topics/{t}/records", 400, "validation_error", {"records": [{"value": "b"}, {"value": "c", "key": "k" * 1025}]},
            field="records[1].key", max_size=1024, actual_size=1025, outcome="not_applied",
        ),
        ask(POLL, gives={"next_offset": 1}),
    ],
    "max_bytes caps an answer, at least one record": [
        post("x" * 600, "y" * 600, "z" * 600),
        ask(POLL + "?max_bytes=1", gives={"next_offset": 1, "lag": 2}),
        ask(POLL + "?max_bytes=1200", gives={"next_offset": 2}),
    ],
    "reading never changes anything": [
        post("a"),
        *[ask(POLL, gives={**values("a"), "next_offset": 1})] * 2,
    ],
    "a read at or past the end is 200 with no records; next_offset is the offset asked for": [
        post("a"),
        ask(POLL + "?from_offset=1", gives={"records": [], "next_offset": 1, "lag": 0}),
        ask(POLL + "?from_offset=99", gives={"records": [], "next_offset": 99, "lag": 0}),
    ],
    "with timeout_ms a read at the end waits, and answers empty when time is up": [
        post("a"),
        ask(POLL + "?from_offset=1&timeout_ms=50", gives={"records": [], "next_offset": 1}),
        ask(POLL + "?from_offset=0&timeout_ms=60000", gives=values("a")),
    ],
    "an empty value, key and header value are valid and are not null; Unicode passes unchanged": [
        ask("POST /topics/{t}/records", {"records": [{"value": "", "key": "", "headers": {"é": ""}}, {"value": "🙂\x00"}]}),
        ask(POLL, gives={"records": [{"value": "", "key": "", "headers": {"é": ""}}, {"value": "🙂\x00"}]}),
    ],
    "a stream is Server-Sent Events: id the offset, data the record": [
        post("a", "b"),
        ask(
            "GET /topics/{t}/stream?from_offset=1", answer_headers={"content-type": re.compile("text/event-stream.*")},
            gives=Begins(r'retry: \d+\n\nid: 1\ndata: {"key":null,"value":"b","headers":null,"offset":1,"timestamp":"[^"]+"}\n\n'),
        ),
        ask("GET /topics/{t}/stream", headers={"Last-Event-ID": "0"}, gives=Begins(r'retry: \d+\n\nid: 1\n')),
        GROUP,
        commit(1),
        ask("GET /consumer/{g}/topics/{t}/stream", gives=Begins(r'retry: \d+\n\nid: 1\n')),
    ],
    "what was read can be posted as it is": [
        ask(
            "POST /topics/{t}/records",
            {"records": [{"key": None, "value": "v", "headers": None, "offset": 7, "timestamp": "2026-01-01T00:00:00.000Z"}]},
            gives={"offsets": [{"offset": 0}]},
        ),
    ],
}  # fmt: skip

TOPICS: dict[str, list[Step]] = {
    "GET /topics lists names, offsets and bytes": [
        post("a"),
        ask("GET /topics", gives={"topics": ...}),
    ],
    "PUT creates with 201, reconfigures with 200": [
        ask(
            "PUT /topics/{t}", {"retention_ms": 60000, "segment_bytes": 4096}, 201,
            {"name": "{t}", "retention_ms": 60000, "retention_bytes": None, "segment_bytes": 4096, "next_offset": 0},
        ),
        ask("PUT /topics/{t}", {"retention_bytes": 1000}, gives={"retention_ms": 60000, "retention_bytes": 1000}),
        ask("PUT /topics/{t}", {"retention_ms": None}, gives={"retention_ms": None, "retention_bytes": 1000}),
        refused("PUT /topics/{t}", 422, "invalid_body", {"retention_hours": 1}),
        refused("PUT /topics/{t}", 422, "invalid_body", {"segment_bytes": 1}),
        ask("GET /topics/{t}", gives={"retention_ms": None, "retention_bytes": 1000, "segment_bytes": 4096}),
    ],
    "a topic is described with next_offset, high_water_mark, durable_offset, log_start_offset and epoch": [
        post("a"),
        ask(
            "GET /topics/{t}",
            gives={"next_offset": 1, "high_water_mark": 1, "durable_offset": ..., "log_start_offset": 0, "epoch": ...},
        ),
    ],
    "DELETE answers 204, and its groups' offsets go with it": [
        post("a", "b"),
        GROUP,
        commit(2),
        ask("DELETE /topics/{t}", status=204, gives=b"", answer_headers={"content-type": None, "content-length": None}),
        refused("GET /topics/{t}", 404, "topic_not_found"),
        refused(POLL, 404, "topic_not_found"),
        refused("DELETE /topics/{t}", 404, "topic_not_found", outcome="not_applied"),
        post("new", gives={"offsets": [{"offset": 0}]}),
        ask(OFFSET, gives={"committed_offset": 0}),
    ],
}  # fmt: skip

GROUPS: dict[str, list[Step]] = {
    "POST /consumer/{group} tells whether it made it; a body is tolerated": [
        ask("POST /consumer/{g}", gives={"group_id": "{g}", "created": True}),
        ask("POST /consumer/{g}", {"session": 1}, gives={"group_id": "{g}", "created": False}),
    ],
    "GET /consumer lists the groups, GET /consumer/{group} its topics": [
        GROUP,
        post("a", "b", "c"),
        ask("GET /consumer", gives={"groups": ...}),
        ask("GET /consumer/{g}", gives={"group_id": "{g}", "topics": []}),
        commit(1),
        ask(
            "GET /consumer/{g}",
            gives={"topics": [{"topic": "{t}", "committed_offset": 1, "high_water_mark": 3, "lag": 2, "last_commit_time": TIMESTAMP}]},
        ),
    ],
    "DELETE answers 204, and the offsets are gone": [
        GROUP,
        post("a"),
        commit(1),
        ask("DELETE /consumer/{g}", status=204, gives=b"", answer_headers={"content-type": None, "content-length": None}),
        refused("GET /consumer/{g}", 404, "group_not_found"),
        GROUP,
        ask(OFFSET, gives={"committed_offset": 0}),
    ],
    "a group reads from its committed offset, and never advances it": [
        GROUP,
        post("a", "b", "c"),
        ask(READ_GROUP, gives={**values("a", "b", "c"), "committed_offset": 0}),
        commit(1),
        *[ask(READ_GROUP + "?max_records=1", gives={**values("b"), "committed_offset": 1, "next_offset": 2})] * 2,
        ask(READ_GROUP + "?from_offset=2", gives={**values("c"), "committed_offset": 1}),
    ],
    "a commit answers group, topic, offset, committed_offset and timestamp; back is allowed": [
        GROUP,
        post("a", "b"),
        commit(2, gives={"group_id": "{g}", "topic": "{t}", "offset": 2, "committed_offset": 2, "timestamp": TIMESTAMP}),
        commit(0, gives={"committed_offset": 0}),
    ],
    "beyond the high water mark is 400 invalid_offset with offset, topic and max_offset": [
        GROUP,
        post("a"),
        refused(
            "POST /consumer/{g}/topics/{t}/offset", 400, "invalid_offset", {"offset": 2},
            offset=2, topic="{t}", max_offset=1, outcome="not_applied",
        ),
        refused("POST /consumer/{g}/topics/{t}/offset", 400, "invalid_offset", {"offset": -1}),
    ],
    "the offset is 0 before the first commit, and afterwards comes with its time and metadata": [
        GROUP,
        post("a", "b"),
        ask(OFFSET, gives={"group_id": "{g}", "topic": "{t}", "committed_offset": 0, "high_water_mark": 2, "lag": 2}),
        ask("POST /consumer/{g}/topics/{t}/offset", {"offset": 1, "metadata": "by me é"}),
        ask(OFFSET, gives={"committed_offset": 1, "lag": 1, "last_commit_time": TIMESTAMP, "metadata": "by me é"}),
    ],
    "a reset goes to earliest, latest, an offset or a time; dry_run only tells": [
        GROUP,
        post("a", "b", "c"),
        ask(RESET, {"to": "latest", "dry_run": True}, gives={"before": 0, "after": 3}),
        ask(OFFSET, gives={"committed_offset": 0}),
        ask(RESET, {"to": "latest"}, gives={"before": 0, "after": 3}),
        ask(RESET, {"to": "offset", "offset": 1}, gives={"before": 3, "after": 1}),
        ask(RESET, {"to": "time", "time": "2999-01-01T00:00:00Z"}, gives={"before": 1, "after": 3}),
        ask(RESET, {"to": "earliest"}, gives={"before": 3, "after": 0}),
        ask(OFFSET, gives={"committed_offset": 0}),
        refused(RESET, 400, "invalid_offset", {"to": "offset", "offset": 4}),
        refused(RESET, 422, "invalid_body", {"to": "offset"}),
        refused(RESET, 422, "invalid_body", {"to": "nowhere"}),
        refused(RESET, 422, "invalid_body", {"to": "latest", "dryrun": True}),
    ],
    "unknown groups and topics are 404, each by name": [
        post("a"),
        refused(READ_GROUP, 404, "group_not_found"),
        refused(OFFSET, 404, "group_not_found"),
        refused("POST /consumer/{g}/topics/{t}/offset", 404, "group_not_found", {"offset": 0}),
        GROUP,
        refused("GET /consumer/{g}/topics/no-such-topic", 404, "topic_not_found"),
        refused("GET /consumer/{g}/topics/no-such-topic/stream", 404, "topic_not_found"),
    ],
}  # fmt: skip

SERVICE: dict[str, list[Step]] = {
    "GET /health is 200 with status, service, timestamp, version, uptime and counts": [
        ask(
            "GET /health",
            gives={
                "status": "healthy", "service": "flashq", "timestamp": ..., "version": ..., "uptime": ...,
                "topics_count": ..., "consumer_groups_count": ...,
            },
        ),
    ],
    "GET /metrics is Prometheus text": [
        post("a"),
        ask(
            "GET /metrics", answer_headers={"content-type": re.compile(r"text/plain; version=[\d.]+.*")},
            gives=re.compile(r'(?m)^flashq_http_requests_total{operation="post_records",status="200"} \d'),
        ),
        ask("GET /metrics", gives=re.compile(r"(?m)^flashq_posted_records_total \d")),
        ask("HEAD /metrics", gives=b""),
        refused("POST /metrics", 405, "method_not_allowed"),
    ],
    "GET /openapi.json is OpenAPI 3.1": [
        ask("GET /openapi.json", gives={"openapi": re.compile(r"3\.1\.\d"), "paths": {"/topics/{topic}/records": ...}}),
    ],
}  # fmt: skip

LIMITS: dict[str, list[Step]] = {
    "names are 1 to 255 of A-Z a-z 0-9 . _ -, not starting with -, not . or ..": [
        ask("PUT /topics/{t}" + "x" * 200, status=201),
        *[
            refused(f"{method} /{kind}/{name}", 400, "invalid_parameter")
            for method in ("GET", "DELETE")
            for kind in ("topics", "consumer")
            for name in ("-x", "%2e", "%2e%2e", "a%2Fb", "a%20b", "%C3%A9", "x" * 256)
        ],
    ],
    "max_records is 1 to 10,000, timeout_ms 0 to 60,000, offsets whole numbers": [
        post("a"),
        *[
            refused(f"{POLL}?{name}={value}", 400, "invalid_parameter", parameter=name)
            for name, value in [
                ("max_records", "0"), ("max_records", "10001"), ("timeout_ms", "60001"), ("timeout_ms", "-1"),
                ("from_offset", "-1"), ("from_offset", "1_0"), ("from_offset", "%EF%BC%91"), ("max_bytes", "0"),
                ("include_headers", "yes"), ("max_record", "1"),
            ]
        ],
        ask(POLL + "?max_records=10000&timeout_ms=60000", gives=values("a")),
    ],
    "sizes are bytes of UTF-8; details tell field, max_size and actual_size": [
        post("é" * (512 * 1024)),
        too_large([{"value": "é" * (512 * 1024) + "x"}], "records[0].value", 1048576, 1048577),
        too_large([{"value": "v"}] * 3 + [{"value": "v", "key": "é" * 512 + "x"}], "records[3].key", 1024, 1025),
        too_large([{"value": "v", "headers": {"h": "x" * 1025}}], "records[0].headers[h]", 1024, 1025),
        too_large([{"value": "v"}] * 1001, "records", 1000, 1001),
        too_large([], "records", 1000, 0),
        ask("POST /topics/{t}/records", {"records": [{"value": "v", "key": "k" * 1024, "headers": {"h": "x" * 1024}}] * 1000}),
        ask("GET /topics/{t}", gives={"next_offset": 1001}),
    ],
    "not JSON is 400, the wrong shape 422, another content type 415": [
        refused("POST /topics/{t}/records", 400, "invalid_json", b"{", JSON, outcome="not_applied"),
        refused("POST /topics/{t}/records", 422, "invalid_body", {"records": [{"value": None}]}, outcome="not_applied"),
        refused("POST /topics/{t}/records", 422, "invalid_body", {"records": [{"value": 1}]}),
        refused("POST /topics/{t}/records", 422, "invalid_body", {"records": [{"key": "k"}]}),
        refused("POST /topics/{t}/records", 422, "invalid_body", {}),
        refused("POST /topics/{t}/records", 415, "unsupported_media_type", b"{}", {"Content-Type": "text/plain"}),
        refused("POST /topics/{t}/records", 415, "unsupported_media_type", b"{}"),
        refused(POLL, 404, "topic_not_found"),
    ],
    "a body nobody needs has a type all the same": [
        post("a"),
        GROUP,
        *[
            refused(line, 415, "unsupported_media_type", body, headers, outcome="not_applied")
            for line in ("POST /consumer/{g}-2", "DELETE /consumer/{g}", "DELETE /topics/{t}")
            for body, headers in [
                (b"{}", {}),
                (b"{}", {"Content-Type": "text/plain"}),
                (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}),
            ]
        ],
        refused("GET /consumer/{g}-2", 404, "group_not_found"),
        ask("POST /consumer/{g}-2", {"any": ["thing"]}, headers={"Content-Type": "Application/JSON; charset=utf-8"}),
        ask("POST /consumer/{g}-2", b"", headers={"Content-Type": "text/plain"}),
        ask("DELETE /consumer/{g}", {}, 204, b""),
        ask("DELETE /topics/{t}", b"anything", 204, b"", headers=NDJSON),
    ],
    "an unknown path is 404, a method 405 with Allow": [
        refused("GET /nothing", 404, "not_found"),
        refused("GET /topics/{t}/nothing", 404, "not_found"),
        ask("DELETE /health", status=405, gives={"error": "method_not_allowed"}, answer_headers={"allow": "GET, HEAD"}),
        ask("PATCH /topics/{t}", b"{}", 405, {"error": "method_not_allowed"}, JSON, {"allow": "DELETE, GET, HEAD, PUT"}),
    ],
    "an unknown topic or group is 404": [
        refused(POLL, 404, "topic_not_found"),
        refused("GET /topics/{t}/stream", 404, "topic_not_found"),
        refused("GET /consumer/{g}", 404, "group_not_found"),
        refused("DELETE /consumer/{g}", 404, "group_not_found"),
    ],
    "HEAD answers as GET does, without a body": [
        post("a"),
        ask("HEAD /topics/{t}/records", gives=b"", answer_headers={"content-type": "application/json"}),
        ask("HEAD /topics/{t}/stream", gives=b"", answer_headers={"content-type": ...}),
        ask("HEAD /health", gives=b""),
    ],
    "a page of another origin can neither read nor write": [
        post("a"),
        refused(POLL, 403, "forbidden", headers={"Origin": "https://evil.example"}),
        refused(POLL, 403, "forbidden", headers={"Sec-Fetch-Site": "cross-site"}),
        post("b", status=403, headers={"Origin": "https://evil.example"}, gives={"error": "forbidden"}),
        refused("POST /consumer/{g}", 403, "forbidden", headers={"Origin": "null"}),
        refused(POLL, 421, "misdirected_request", headers={"Host": "evil.example"}),
        refused("OPTIONS /topics/{t}/records", 405, "method_not_allowed"),
        ask(POLL, gives=values("a")),
    ],
}  # fmt: skip

RETRIES: dict[str, list[Step]] = {
    "the same Idempotency-Key and topic return the first answer": [
        post("a", headers={"Idempotency-Key": "k1"}, gives={"offsets": [{"offset": 0}]}),
        post("b"),
        post("a", headers={"Idempotency-Key": "k1"}, gives={"offsets": [{"offset": 0}]}),
        ask(POLL, gives=values("a", "b")),
    ],
    "the same key with another body is 422": [
        post("a", headers={"Idempotency-Key": "k1"}),
        post("b", headers={"Idempotency-Key": "k1"}, status=422, gives={"error": "idempotency_key_reused"}),
        ask(POLL, gives=values("a")),
    ],
    "a key or an offset that cannot be one is 400, by the name of its header": [
        *[
            refused(
                "POST /topics/{t}/records", 400, "invalid_parameter", {"records": [{"value": "v"}]}, {name: value},
                parameter=name, outcome="not_applied",
            )
            for name, value in [
                ("Idempotency-Key", ""), ("Idempotency-Key", "two words"), ("Idempotency-Key", "k" * 256),
                ("If-Next-Offset", ""), ("If-Next-Offset", "-1"), ("If-Next-Offset", "1_0"), ("If-Next-Offset", "9" * 20),
            ]
        ],
        refused("GET /topics/{t}", 404, "topic_not_found"),
    ],
    "If-Next-Offset appends only if the log ends there, else 412": [
        post("a", headers={"If-Next-Offset": "1"}, status=412, gives={"error": "precondition_failed"}),
        refused("GET /topics/{t}", 404, "topic_not_found"),
        post("a", headers={"If-Next-Offset": "0"}, gives={"offsets": [{"offset": 0}]}),
        post(
            "b", headers={"If-Next-Offset": "0"}, status=412,
            gives={"error": "precondition_failed", "details": {"next_offset": 1, "outcome": "not_applied"}},
        ),
        post("b", headers={"If-Next-Offset": "1"}, gives={"offsets": [{"offset": 1}]}),
    ],
}  # fmt: skip


SECTIONS = {
    "records": RECORDS, "retries": RETRIES, "topics": TOPICS, "groups": GROUPS, "service": SERVICE, "limits": LIMITS,
}  # fmt: skip
