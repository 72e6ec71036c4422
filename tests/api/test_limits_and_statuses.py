"""The limits and statuses of posting, polling and health, as a checklist: a row for each line of the contract.

Every refusal is checked whole: its status, its JSON, its details, and that it has changed nothing.
"""

from __future__ import annotations

import itertools
import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.server.running import JSON, Answer, Process

KEPT = "kept"  # has three records before every test
KIB = 1024
MIB = 1024 * 1024
_fresh = itertools.count()


def fresh_topic() -> str:
    return f"fresh-{next(_fresh)}"


@pytest.fixture(scope="module")
def seeded(server: Process) -> Process:
    server.post(KEPT, "first", "second", "third")
    return server


def body_of(*records: object) -> bytes:
    return json.dumps({"records": records}, ensure_ascii=False).encode()


def assert_error(answer: Answer, status: int, code: str, details: Mapping[str, object]) -> None:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert set(told) == {"error", "message", "details"}
    assert told["error"] == code
    assert isinstance(told["message"], str)
    assert told["message"]
    assert len(answer.body) < 1000, "an error does not repeat the request at length"
    assert {name: told["details"].get(name) for name in details} == details


def assert_nothing_stored(server: Process, topic: str) -> None:
    assert server.ask("GET", f"/topics/{topic}/records").status == 404
    assert server.poll(KEPT, from_offset=3) == {
        "records": [], "next_offset": 3, "high_water_mark": 3, "lag": 0, "log_start_offset": 0,
    }  # fmt: skip


# -- posts: what is taken

GOOD_RECORDS: list[tuple[str, list[dict[str, Any]]]] = [
    ("a key of 1024 bytes", [{"value": "v", "key": "é" * 512}]),
    ("a header value of 1024 bytes", [{"value": "v", "headers": {"h": "é" * 512}}]),
    ("a value of 1 MiB", [{"value": "é" * (MIB // 2)}]),
    ("a batch of 1", [{"value": "v"}]),
    ("a batch of 1000", [{"value": str(at)} for at in range(1000)]),
    ("an empty value", [{"value": ""}]),
    ("an empty key", [{"value": "v", "key": ""}]),
    ("an empty header value", [{"value": "v", "headers": {"h": ""}}]),
    ("an empty header name", [{"value": "v", "headers": {"": "h"}}]),
    ("nulls for what is absent", [{"value": "v", "key": None, "headers": None}]),
    ("control characters", [{"value": "\x00\x01\n\r\t\x7f", "key": "\x00", "headers": {"\x00": "\x00"}}]),
    ("characters of four bytes", [{"value": "🙂", "key": "🙂" * 256, "headers": {"🙂": "🙂" * 256}}]),
]


@pytest.mark.parametrize(("says", "records"), GOOD_RECORDS, ids=[row[0] for row in GOOD_RECORDS])
def test_is_taken_and_comes_back_the_same(server: Process, says: str, records: list[dict[str, Any]]) -> None:
    topic = fresh_topic()
    assert [each["offset"] for each in server.post(topic, *records)] == list(range(len(records)))
    read = server.read_all(topic)
    assert [each["value"] for each in read] == [each["value"] for each in records]
    assert [each["key"] for each in read] == [each.get("key") for each in records]
    assert [each["headers"] for each in read] == [each.get("headers") for each in records]


GOOD_BODIES = [
    ("a body in pieces of white space", b' {\r\n\t"records" : [ { "value" : "v" } ] } \n', "application/json"),
    ("a content type with a charset", body_of({"value": "v"}), "application/json; charset=utf-8"),
    ("a content type in capitals", body_of({"value": "v"}), "Application/JSON"),
    ("escaped characters", rb'{"records":[{"value":"\u0076"}]}', "application/json"),
    ("the last of two equal keys", b'{"records":[{"value":"lost","value":"v"}]}', "application/json"),
    ("base64", b'{"records":[{"value":"dg==","encoding":"base64"}]}', "application/json"),
    ("encoding null", b'{"records":[{"value":"v","encoding":null}]}', "application/json"),
]


@pytest.mark.parametrize(("says", "body", "content_type"), GOOD_BODIES, ids=[row[0] for row in GOOD_BODIES])
def test_is_read_as_a_post(server: Process, says: str, body: bytes, content_type: str) -> None:
    topic = fresh_topic()
    answer = server.ask("POST", f"/topics/{topic}/records", body, {"Content-Type": content_type})
    assert answer.status == 200, answer
    assert [each["value"] for each in server.read_all(topic)] == ["v"]


# -- posts: what is refused


class Refused(NamedTuple):
    says: str
    body: bytes
    status: int
    error: str
    details: Mapping[str, object] = {}
    content_type: str | None = "application/json"


def too_large(says: str, field: str, limit: int, actual: int, *records: object) -> Refused:
    details = {"field": field, "max_size": limit, "actual_size": actual}
    return Refused(says, body_of(*records), 400, "validation_error", details)


def not_base64(says: str, value: str) -> Refused:
    record = {"value": value, "encoding": "base64"}
    return Refused(
        f"base64 {says}", body_of({"value": "v"}, record), 400, "validation_error", {"field": "records[1].value"}
    )


def not_json(says: str, body: bytes) -> Refused:
    return Refused(f"not JSON: {says}", body, 400, "invalid_json")


def wrong_shape(says: str, body: object) -> Refused:
    return Refused(f"wrong shape: {says}", json.dumps(body).encode(), 422, "invalid_body")


def wrong_record(says: str, record: object) -> Refused:
    return wrong_shape(says, {"records": [{"value": "good"}, record]})


def wrong_type(content_type: str | None) -> Refused:
    return Refused(
        f"content type {content_type}", body_of({"value": "v"}), 415, "unsupported_media_type", {}, content_type
    )


LONG = 100_000
REFUSED = [
    # Sizes are UTF-8 bytes.
    too_large("a key of 1025 bytes", "records[0].key", KIB, 1025, {"value": "v", "key": "é" * 512 + "x"}),
    too_large("a key of 513 characters", "records[0].key", KIB, 1026, {"value": "v", "key": "é" * 513}),
    too_large(
        "the fourth key too large", "records[3].key", KIB, 1025,
        *[{"value": "v"}] * 3, {"value": "v", "key": "x" * 1025},
    ),
    too_large(
        "a header value of 1025 bytes", "records[0].headers[h]", KIB, 1025,
        {"value": "v", "headers": {"g": "", "h": "é" * 512 + "x"}},
    ),
    too_large(
        "a header value too large under a long name", f"records[0].headers[{'n' * 100}]", KIB, 1025,
        {"value": "v", "headers": {"n" * 100_000: "x" * 1025}},
    ),
    too_large("a value of 1 MiB and 1", "records[0].value", MIB, MIB + 1, {"value": "é" * (MIB // 2) + "x"}),
    too_large(
        "a value of 1 MiB and 1 in base64", "records[1].value", MIB, MIB + 1,
        {"value": "v"}, {"value": b64encode(bytes(MIB + 1)).decode(), "encoding": "base64"},
    ),
    too_large("a batch of 0", "records", 1000, 0),
    too_large("a batch of 1001", "records", 1000, 1001, *[{"value": "v"}] * 1001),
    # Base64.
    not_base64("of other characters", "not base64"),
    not_base64("of the URL alphabet", "-_-_"),
    not_base64("of no alphabet", "é"),
    not_base64("without padding", "dg"),
    not_base64("with too little padding", "dg="),
    not_base64("of padding alone", "===="),
    not_base64("with a line end", "dg==\n"),
    # Not JSON: 400.
    not_json("nothing", b""),
    not_json("white space", b"  "),
    not_json("a word", b"nope"),
    not_json("single quotes", b"{'records':[{'value':'v'}]}"),
    not_json("cut off", b'{"records":[{"value":"v"}]'),
    not_json("cut off, and of the wrong shape before", b'{"records":[{"value":1}'),
    not_json("more after the end", b'{"records":[{"value":"v"}]}{}'),
    not_json("a trailing comma", b'{"records":[{"value":"v"},]}'),
    not_json("a comment", b'{"records":[{"value":"v"}]} // so'),
    not_json("a key without quotes", b'{records:[{"value":"v"}]}'),
    not_json("a byte order mark", b'\xef\xbb\xbf{"records":[{"value":"v"}]}'),
    not_json("UTF-16", '{"records":[{"value":"v"}]}'.encode("utf-16")),
    not_json("NaN for a value", b'{"records":[{"value":NaN}]}'),
    not_json("Infinity beside the value", b'{"records":[{"value":"v","x":Infinity}]}'),
    not_json("a line end inside a value", b'{"records":[{"value":"a\nb"}]}'),
    not_json("invalid UTF-8 in a value", b'{"records":[{"value":"\xff"}]}'),
    not_json("an overlong form in a value", b'{"records":[{"value":"\xc0\x80"}]}'),
    not_json("a surrogate as UTF-8 in a value", b'{"records":[{"value":"\xed\xa0\x80"}]}'),
    not_json("invalid UTF-8 in a key", b'{"records":[{"value":"v","key":"\xff"}]}'),
    not_json("invalid UTF-8 in a header name", b'{"records":[{"value":"v","headers":{"\xff":""}}]}'),
    not_json("invalid UTF-8 in a header value", b'{"records":[{"value":"v","headers":{"h":"\xff"}}]}'),
    not_json("a high surrogate alone", rb'{"records":[{"value":"\ud83d"}]}'),
    not_json("a high surrogate before a letter", rb'{"records":[{"value":"\ud83dx and more"}]}'),
    not_json("a low surrogate alone", rb'{"records":[{"value":"\ude42"}]}'),
    not_json("surrogates in the wrong order", rb'{"records":[{"value":"\ude42\ud83d"}]}'),
    not_json("a lone surrogate in a key", rb'{"records":[{"value":"v","key":"\ude42"}]}'),
    not_json("a lone surrogate in a header", rb'{"records":[{"value":"v","headers":{"h":"\ude42"}}]}'),
    not_json("100,000 brackets that do not close", b"[" * LONG),
    not_json("100,000 brackets in an unknown field", b'{"x":' + b"[" * LONG + b"]" * LONG + b',"records":[]}'),
    not_json("100,000 brackets for a value", b'{"records":[{"value":' + b"[" * LONG + b"]" * LONG + b"}]}"),
    not_json("100,000 objects", b'{"records":' + b'{"records":' * LONG + b"1" + b"}" * LONG + b"}"),
    # JSON of the wrong shape: 422.
    wrong_shape("null", None),
    wrong_shape("a number", 1),
    wrong_shape("a text", "records"),
    wrong_shape("a list", [{"value": "v"}]),
    wrong_shape("no records", {}),
    wrong_shape("records null", {"records": None}),
    wrong_shape("records an object", {"records": {"value": "v"}}),
    wrong_shape("records a text", {"records": "v"}),
    wrong_record("a record null", None),
    wrong_record("a record that is a text", "v"),
    wrong_record("a record that is a list", ["v"]),
    wrong_record("a missing value", {"key": "k"}),
    wrong_record("a null value", {"value": None}),
    wrong_record("a number for a value", {"value": 1}),
    wrong_record("a boolean for a value", {"value": True}),
    wrong_record("an object for a value", {"value": {}}),
    wrong_record("a list for a value", {"value": ["v"]}),
    wrong_record("a number for a key", {"value": "v", "key": 1}),
    wrong_record("a list of headers", {"value": "v", "headers": [["h", "v"]]}),
    wrong_record("a text for headers", {"value": "v", "headers": "h"}),
    wrong_record("a number for a header value", {"value": "v", "headers": {"h": 1}}),
    wrong_record("null for a header value", {"value": "v", "headers": {"h": None}}),
    wrong_record("a list for a header value", {"value": "v", "headers": {"h": ["v"]}}),
    wrong_record("an unknown encoding", {"value": "v", "encoding": "gzip"}),
    wrong_record("an encoding in capitals", {"value": "dg==", "encoding": "BASE64"}),
    wrong_record("a number for an encoding", {"value": "v", "encoding": 64}),
    # Wrong or no content type: 415.
    wrong_type(None),
    wrong_type(""),
    wrong_type("text/plain"),
    wrong_type("text/json"),
    wrong_type("application/jsonl"),
    wrong_type("application/x-www-form-urlencoded"),
    wrong_type("multipart/form-data; boundary=application/json"),
    wrong_type("application/octet-stream"),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSED, ids=[row.says for row in REFUSED])
def test_is_refused_and_nothing_is_stored(seeded: Process, row: Refused) -> None:
    headers = {} if row.content_type is None else {"Content-Type": row.content_type}
    new = fresh_topic()
    for topic in (new, KEPT):
        answer = seeded.ask("POST", f"/topics/{topic}/records", row.body, headers)
        assert_error(answer, row.status, row.error, {**row.details, "outcome": "not_applied"})
    assert_nothing_stored(seeded, new)


# -- names

GOOD_NAMES = [
    ("1 character", "a", "a"),
    ("255 characters", "n" * 255, "n" * 255),
    ("255 capitals", "N" * 255, "N" * 255),
    ("every kind of character", "aZ09._-", "aZ09._-"),
    ("percent-encoded letters", "%61%5A%30", "aZ0"),
    ("a dot first", ".hidden", ".hidden"),
    ("three dots", "...", "..."),
    ("an underscore first", "_", "_"),
    ("a hyphen last", "a-", "a-"),
]


@pytest.mark.parametrize(("says", "written", "name"), GOOD_NAMES, ids=[row[0] for row in GOOD_NAMES])
def test_is_a_name(server: Process, says: str, written: str, name: str) -> None:
    end = server.post(written, "v")[0]["offset"] + 1
    assert server.poll(name)["high_water_mark"] == end


def test_names_that_differ_in_case_are_two_topics(server: Process) -> None:
    server.post("Case", "upper")
    server.post("case", "lower")
    assert [each["value"] for each in server.read_all("Case")] == ["upper"]
    assert [each["value"] for each in server.read_all("case")] == ["lower"]


BAD_NAMES = [
    ("empty", ""),
    ("256 characters", "n" * 256),
    ("a hyphen first", "-x"),
    ("one dot", "."),
    ("two dots", ".."),
    ("two dots, percent-encoded", "%2e%2e"),
    ("a slash, percent-encoded", "a%2Fb"),
    ("a way out, percent-encoded", "..%2F..%2Fetc"),
    ("a backslash", "a%5Cb"),
    ("a letter beyond ASCII", quote("é")),
    ("digits of another script", quote("\uff11")),
    ("a blank", "a%20b"),
    ("a plus", "a+b"),
    ("a colon", "a:b"),
    ("a percent sign", "a%25b"),
    ("half a percent escape", "a%2"),
    ("encoded twice", "%2561"),
    ("a line end", "a%0A"),
    ("a NUL", "a%00"),
    ("invalid UTF-8", "%FF"),
]


@pytest.mark.parametrize(("says", "written"), BAD_NAMES, ids=[row[0] for row in BAD_NAMES])
def test_is_not_a_name(seeded: Process, says: str, written: str) -> None:
    topics_before = seeded.ask("GET", "/health").json()["topics_count"]
    posted = seeded.ask("POST", f"/topics/{written}/records", body_of({"value": "v"}), JSON)
    assert_error(posted, 400, "invalid_parameter", {"parameter": "topic", "outcome": "not_applied"})
    assert_error(seeded.ask("GET", f"/topics/{written}/records"), 400, "invalid_parameter", {"parameter": "topic"})
    assert seeded.ask("GET", "/health").json()["topics_count"] == topics_before


# -- the parameters of a poll

HUGE = "9" * 5000
GOOD_QUERIES = [
    ("none", "", [0, 1, 2]),
    ("max_records at least", "max_records=1", [0]),
    ("max_records at most", "max_records=10000", [0, 1, 2]),
    ("zeros before the number", "max_records=002", [0, 1]),
    ("timeout_ms at least", "timeout_ms=0&from_offset=9", []),
    ("timeout_ms at most, with records there", "timeout_ms=60000", [0, 1, 2]),
    ("max_bytes at least", "max_bytes=1", [0]),
    ("from_offset at least", "from_offset=0", [0, 1, 2]),
    ("from_offset in the middle", "from_offset=1", [1, 2]),
    ("from_offset at the end", "from_offset=3", []),
    ("from_offset past the end", "from_offset=4", []),
    ("the largest from_offset", f"from_offset={2**63 - 1}", []),
    ("percent-encoded", "max%5Frecords=%31", [0]),
    ("include_headers", "include_headers=true", [0, 1, 2]),
    ("several", "from_offset=1&max_records=1&max_bytes=100&timeout_ms=5&include_headers=false", [1]),
]


@pytest.mark.parametrize(("says", "query", "offsets"), GOOD_QUERIES, ids=[row[0] for row in GOOD_QUERIES])
def test_is_a_query(seeded: Process, says: str, query: str, offsets: list[int]) -> None:
    answer = seeded.ask("GET", f"/topics/{KEPT}/records?{query}".removesuffix("?"))
    assert answer.status == 200, answer
    assert [record["offset"] for record in answer.json()["records"]] == offsets


BAD_NUMBERS = ["-1", "+5", "%2B5", "1_0", quote("５"), quote("٣"), "1.0", "1e3", "0x10", "", "%201", "five", HUGE]  # noqa: RUF001
BAD_QUERIES = [
    ("max_records", "max_records=0"),
    ("max_records", "max_records=10001"),
    *[("max_records", f"max_records={number}") for number in BAD_NUMBERS],
    ("timeout_ms", "timeout_ms=60001"),
    *[("timeout_ms", f"timeout_ms={number}") for number in BAD_NUMBERS],
    ("max_bytes", "max_bytes=0"),
    *[("max_bytes", f"max_bytes={number}") for number in BAD_NUMBERS],
    ("from_offset", f"from_offset={2**63}"),
    *[("from_offset", f"from_offset={number}") for number in BAD_NUMBERS],
    *[("include_headers", f"include_headers={word}") for word in ("yes", "True", "1", "0", "")],
    ("max_record", "max_record=5"),
    ("Max_records", "Max_records=5"),
    ("max_records", "max_records=5&max_records=5"),
    ("query", "max_records"),
    ("query", "max_records=%FF"),
    ("query", "&".join(["max_records=1"] * 100)),
]


@pytest.mark.parametrize(("parameter", "query"), BAD_QUERIES, ids=[row[1][:40] for row in BAD_QUERIES])
def test_is_not_a_query(seeded: Process, parameter: str, query: str) -> None:
    answer = seeded.ask("GET", f"/topics/{KEPT}/records?{query}")
    assert_error(answer, 400, "invalid_parameter", {"parameter": parameter})


# -- bodies over the cap, paths and methods

CAP = 64 * MIB
_POST = f"POST /topics/{KEPT}/records HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()


@pytest.mark.parametrize(
    ("head", "details"),
    [
        pytest.param(b"Content-Length: %d\r\n\r\n" % (CAP + 1), {"actual_size": CAP + 1}, id="announced"),
        pytest.param(b"Content-Length: 999999999999\r\n\r\n", {"actual_size": 999999999999}, id="announced, and huge"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (CAP + 1), {}, id="chunked"),
    ],
)
def test_a_body_over_the_cap_is_413_before_it_has_been_sent(
    seeded: Process, head: bytes, details: Mapping[str, object]
) -> None:
    with seeded.connect() as connection:
        connection.send(_POST + head)
        message = connection.receive()
    answer = Answer(message.status, message.headers, message.body)
    assert_error(answer, 413, "body_too_large", {"max_size": CAP, "outcome": "not_applied", **details})
    assert_nothing_stored(seeded, fresh_topic())


def test_a_body_of_1000_large_records_below_the_cap_is_taken(server: Process) -> None:
    topic = fresh_topic()
    offsets = server.post(topic, *["x" * 20_000] * 1000)
    assert [each["offset"] for each in offsets] == list(range(1000))


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/topics/kept/record", "/topics/kept/records/", "/topics/kept/records/0", "/topics//kept/records",
     "/Health", "/health/", "/health/x", "/%68ealth"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_404(seeded: Process, method: str, path: str) -> None:
    answer = seeded.ask(method, path, body_of({"value": "v"}) if method == "POST" else None, JSON)
    assert_error(answer, 404, "not_found", {"path": path, **({"outcome": "not_applied"} if method == "POST" else {})})
    assert_nothing_stored(seeded, fresh_topic())


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *[(method, f"/topics/{KEPT}/records", "GET, HEAD, POST") for method in ("PUT", "DELETE", "PATCH", "OPTIONS")],
        *[(method, "/topics/none/records", "GET, HEAD, POST") for method in ("PUT", "DELETE")],
        *[(method, "/health", "GET, HEAD") for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")],
    ],
)
def test_another_method_is_405_and_tells_which_are_allowed(
    seeded: Process, method: str, path: str, allowed: str
) -> None:
    answer = seeded.ask(method, path, body_of({"value": "v"}), JSON)
    assert_error(answer, 405, "method_not_allowed", {"allow": allowed.split(", ")})
    assert answer.headers["allow"] == allowed
    assert_nothing_stored(seeded, fresh_topic())


@pytest.mark.parametrize("query", ["", "?from_offset=0", "?timeout_ms=60000", "?from_offset=99&timeout_ms=60000"])
def test_reading_an_unknown_topic_is_404_at_once_and_does_not_create_it(seeded: Process, query: str) -> None:
    topic = fresh_topic()
    for _ in range(2):
        answer = seeded.ask("GET", f"/topics/{topic}/records{query}")
        assert_error(answer, 404, "topic_not_found", {"topic": topic})


# -- health


def test_health_tells_what_the_contract_lists(server: Process) -> None:
    before = server.ask("GET", "/health")
    assert (before.status, before.headers["content-type"]) == (200, "application/json")
    server.post(fresh_topic(), "v")
    told = server.ask("GET", "/health").json()
    assert set(told) == {
        "status", "service", "timestamp", "version", "uptime", "topics_count", "consumer_groups_count",
    }  # fmt: skip
    assert (told["status"], told["service"]) == ("healthy", "flashq")
    assert told["consumer_groups_count"] == before.json()["consumer_groups_count"]
    assert told["topics_count"] == before.json()["topics_count"] + 1
    assert told["uptime"] >= before.json()["uptime"] >= 0
    assert isinstance(told["timestamp"], int)
