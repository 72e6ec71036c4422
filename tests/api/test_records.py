"""Posting and polling as the contract tells it, against a running server on each storage."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.server.running import JSON, Process

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LONG_MS = 20_000  # a long poll that the test does not mean to wait for
_fresh = itertools.count()


@pytest.fixture
def topic() -> str:
    """A topic that is not there yet."""
    return f"topic-{next(_fresh)}"


def values(polled: dict[str, Any]) -> list[str]:
    return [record["value"] for record in polled["records"]]


def offsets(polled: dict[str, Any]) -> list[int]:
    return [record["offset"] for record in polled["records"]]


# -- what a record looks like


def test_a_record_read_has_the_five_fields_and_absent_ones_are_null(server: Process, topic: str) -> None:
    (posted,) = server.post(topic, "v")
    (record,) = server.read_all(topic)
    assert record == {"key": None, "value": "v", "headers": None, "offset": 0, "timestamp": posted["timestamp"]}


def test_empty_is_not_absent(server: Process, topic: str) -> None:
    server.post(topic, {"value": "", "key": "", "headers": {"": "", "h": ""}})
    (record,) = server.read_all(topic)
    assert (record["key"], record["value"], record["headers"]) == ("", "", {"": "", "h": ""})


def test_a_post_is_acknowledged_with_an_offset_and_a_timestamp_for_each_record(server: Process, topic: str) -> None:
    body = json.dumps({"records": [{"value": "a"}, {"value": "b"}]}).encode()
    answer = server.ask("POST", f"/topics/{topic}/records", body, JSON)
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"offsets"}
    assert [set(each) for each in answer.json()["offsets"]] == [{"offset", "timestamp"}] * 2
    assert [each["offset"] for each in answer.json()["offsets"]] == [0, 1]


def test_a_timestamp_has_milliseconds_and_is_the_same_in_the_answer_and_in_every_read(
    server: Process, topic: str
) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    posted = [*server.post(topic, "a", "b"), *server.post(topic, "c"), *server.post(topic, "d")]
    acknowledged = [each["timestamp"] for each in posted]
    assert all(TIMESTAMP.fullmatch(text) for text in acknowledged)
    assert acknowledged == sorted(acknowledged)
    assert before <= datetime.fromisoformat(acknowledged[0]) <= datetime.now(UTC)
    for parameters in ({}, {"include_headers": "false"}, {"max_bytes": 2}, {"max_records": 1}):
        one_by_one = [server.poll(topic, from_offset=at, **parameters)["records"][0] for at in range(4)]
        assert [record["timestamp"] for record in one_by_one] == acknowledged
    assert [record["timestamp"] for record in server.read_all(topic)] == acknowledged


ODD_TEXTS = [
    "é", "e\u0301", "\u1112\u1161\u11ab", "👩‍👩‍👧", "\u202eright to left", "\ufeffmark", "\ufffe\uffff", "\u2028\u2029",
    "\U0010ffff", "\x00", '"\\/\b\f\n\r\t', "\ufffd", "ﬁ", "İı", "x" * 70_000,
]  # fmt: skip


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "as UTF-8"])
def test_unicode_passes_unchanged(server: Process, topic: str, ascii_only: bool) -> None:
    records = [{"value": text, "key": text[:100], "headers": {text[:100]: text[:100]}} for text in ODD_TEXTS]
    body = json.dumps({"records": records}, ensure_ascii=ascii_only).encode()
    assert server.ask("POST", f"/topics/{topic}/records", body, JSON).status == 200
    read = server.read_all(topic)
    assert [{name: record[name] for name in ("value", "key", "headers")} for record in read] == records


def test_bytes_that_are_not_text_go_in_and_come_out_in_base64_and_text_comes_out_as_text(
    server: Process, topic: str
) -> None:
    sent = ["//79AA==", "gA==", "", "dGV4dA==", "w6k="]
    server.post(topic, *[{"value": value, "encoding": "base64"} for value in sent])
    read = [(record["value"], record.get("encoding")) for record in server.read_all(topic)]
    assert read == [("//79AA==", "base64"), ("gA==", "base64"), ("", None), ("text", None), ("é", None)]


def test_without_headers_asked_for_there_are_none(server: Process, topic: str) -> None:
    server.post(topic, {"value": "v", "key": "k", "headers": {"h": "x"}})
    assert server.poll(topic, include_headers="true") == server.poll(topic)
    (record,) = server.poll(topic, include_headers="false")["records"]
    assert (record["value"], record["key"], record["headers"]) == ("v", "k", None)


# -- offsets and order


def test_one_invalid_record_and_none_of_the_post_is_stored(server: Process, topic: str) -> None:
    server.post(topic, "before")
    refused = server.try_post(topic, *["good"] * 500, {"value": "bad", "key": "x" * 1025}, *["good"] * 499)
    assert refused.status == 400
    assert server.post(topic, "after")[0]["offset"] == 1
    assert values(server.poll(topic)) == ["before", "after"]


def post_together(server: Process, topic: str, count: int, *, at_once: int) -> list[int]:
    """The offsets of that many posts on one connection, sent in pieces of `at_once` without waiting for answers."""
    with server.connect() as connection:
        posts = [
            connection.encode("POST", f"/topics/{topic}/records", {"records": [{"value": str(number)}]})
            for number in range(count)
        ]
        for start in range(0, count, at_once):
            connection.send(b"".join(posts[start : start + at_once]))
        answers = [connection.receive() for _ in posts]
    assert [answer.status for answer in answers] == [200] * count
    return [answer.json()["offsets"][0]["offset"] for answer in answers]


@pytest.mark.parametrize("at_once", [1, 7, 300])
def test_posts_in_flight_on_one_connection_are_stored_and_answered_in_order(
    server: Process, topic: str, at_once: int
) -> None:
    server.post(topic, "first")
    assert post_together(server, topic, 300, at_once=at_once) == list(range(1, 301))
    assert values(server.poll(topic, from_offset=1, max_records=300)) == [str(number) for number in range(300)]


@pytest.mark.parametrize("at_once", [1, 7, 300])
def test_posts_in_flight_keep_their_order_while_their_topic_is_being_created(
    server: Process, topic: str, at_once: int
) -> None:
    for attempt in range(5):
        assert post_together(server, f"{topic}-{attempt}", 300, at_once=at_once) == list(range(300))


def test_posts_of_many_clients_to_a_new_topic_are_each_stored_whole_and_without_holes(
    server: Process, topic: str
) -> None:
    def post_some(client: int) -> None:
        for number in range(20):
            posted = [each["offset"] for each in server.post(topic, *[f"{client}.{number}.{at}" for at in range(5)])]
            assert posted == list(range(posted[0], posted[0] + 5))

    with ThreadPoolExecutor(6) as clients:
        list(clients.map(post_some, range(6)))
    read = server.read_all(topic)
    assert [record["offset"] for record in read] == list(range(600))
    stored = [record["value"].split(".") for record in read]
    assert all(part[2] == str(at % 5) for at, part in enumerate(stored))
    for client in range(6):
        numbers = [int(part[1]) for part in stored if part[0] == str(client)]
        assert numbers == sorted(numbers)


def test_a_read_begun_after_an_acknowledgement_sees_what_was_acknowledged(server: Process, topic: str) -> None:
    for number in range(50):
        (posted,) = server.post(topic, str(number))
        assert values(server.poll(topic, from_offset=posted["offset"])) == [str(number)]


# -- where a read stands


def test_next_offset_is_where_to_read_on_and_lag_is_what_is_left(server: Process, topic: str) -> None:
    server.post(topic, *"abcd")
    server.post(topic, *"efg")
    for start, count in itertools.product(range(9), (1, 3, 100)):
        polled = server.poll(topic, from_offset=start, max_records=count)
        expected = list(range(start, min(start + count, 7)))
        assert offsets(polled) == expected
        assert polled["next_offset"] == (expected[-1] + 1 if expected else start)
        assert polled["high_water_mark"] == 7
        assert polled["lag"] == max(7 - polled["next_offset"], 0)
        assert polled["log_start_offset"] == 0


def test_a_read_takes_100_records_unless_told_otherwise_and_changes_nothing(server: Process, topic: str) -> None:
    server.post(topic, *[str(number) for number in range(250)])
    first = server.poll(topic)
    assert offsets(first) == list(range(100))
    assert (first["next_offset"], first["lag"]) == (100, 150)
    assert server.poll(topic) == first
    assert offsets(server.poll(topic, max_records=10_000)) == list(range(250))


@pytest.mark.parametrize("in_one_post", [True, False], ids=["one post", "ten posts"])
def test_max_bytes_caps_a_read_and_lets_one_record_through(server: Process, topic: str, in_one_post: bool) -> None:
    records = [{"value": "v" * 700, "key": "k" * 200, "headers": {"h": "x" * 99}} for _ in range(10)]  # 1000 bytes each
    for post in [records] if in_one_post else [[record] for record in records]:
        server.post(topic, *post)
    assert len(server.poll(topic, max_bytes=1)["records"]) == 1
    assert len(server.poll(topic, max_bytes=999)["records"]) == 1
    assert 1 <= len(server.poll(topic, max_bytes=3000)["records"]) <= 3
    assert len(server.poll(topic, max_bytes=1_000_000)["records"]) == 10
    at = reads = 0
    while (polled := server.poll(topic, from_offset=at, max_bytes=3500))["records"]:
        assert offsets(polled) == list(range(at, polled["next_offset"]))
        at, reads = polled["next_offset"], reads + 1
    assert at == 10
    assert 4 <= reads <= 10


def test_an_answer_is_capped_at_8_mib_without_being_asked(server: Process, topic: str) -> None:
    for _ in range(10):
        server.post(topic, "x" * 1024 * 1024)
    polled = server.poll(topic)
    assert 7 <= len(polled["records"]) <= 8
    assert polled["lag"] == 10 - len(polled["records"])


# -- waiting


def test_a_long_poll_is_answered_at_once_when_there_are_records(server: Process, topic: str) -> None:
    server.post(topic, "v")
    begun = time.monotonic()
    assert values(server.poll(topic, timeout_ms=LONG_MS)) == ["v"]
    assert time.monotonic() - begun < LONG_MS / 2000


def test_a_long_poll_is_answered_when_a_record_comes(server: Process, topic: str) -> None:
    server.post(topic, "first")
    with server.connect() as waiting:
        waiting.send(waiting.encode("GET", f"/topics/{topic}/records?from_offset=1&timeout_ms={LONG_MS}"))
        time.sleep(0.05)
        begun = time.monotonic()
        (posted,) = server.post(topic, "second")
        polled = waiting.receive().json()
        assert time.monotonic() - begun < LONG_MS / 2000
    assert polled == {
        "records": [{"key": None, "value": "second", "headers": None, **posted}],
        "next_offset": 2, "high_water_mark": 2, "lag": 0, "log_start_offset": 0,
    }  # fmt: skip


def test_a_long_poll_is_answered_with_nothing_when_time_is_up(server: Process, topic: str) -> None:
    server.post(topic, "v")
    begun = time.monotonic()
    polled = server.poll(topic, from_offset=1, timeout_ms=200)
    assert 0.19 <= time.monotonic() - begun < 5
    assert (polled["records"], polled["next_offset"], polled["lag"]) == ([], 1, 0)


def test_a_long_poll_past_the_end_waits_for_its_own_offset(server: Process, topic: str) -> None:
    server.post(topic, "0")
    with server.connect() as waiting:
        waiting.send(waiting.encode("GET", f"/topics/{topic}/records?from_offset=3&timeout_ms={LONG_MS}"))
        for number in (1, 2, 3):
            time.sleep(0.02)
            server.post(topic, str(number))
        assert values(waiting.receive().json()) == ["3"]


def test_everyone_who_waits_is_answered(server: Process, topic: str) -> None:
    server.post(topic, "0")
    connections = [server.connect() for _ in range(20)]
    try:
        for waiting in connections:
            waiting.send(waiting.encode("GET", f"/topics/{topic}/records?from_offset=1&timeout_ms={LONG_MS}"))
        time.sleep(0.1)
        server.post(topic, "1")
        assert [values(waiting.receive().json()) for waiting in connections] == [["1"]] * 20
    finally:
        for waiting in connections:
            waiting.__exit__(None, None, None)


def test_requests_behind_a_long_poll_are_answered_after_it_and_a_post_among_them_ends_it(
    server: Process, topic: str
) -> None:
    server.post(topic, "0")
    with server.connect() as connection:
        connection.send(
            connection.encode("GET", f"/topics/{topic}/records?from_offset=1&timeout_ms={LONG_MS}")
            + connection.encode("POST", f"/topics/{topic}/records", {"records": [{"value": "1"}]})
            + connection.encode("GET", "/health")
        )
        polled, posted, health = (connection.receive().json() for _ in range(3))
    assert values(polled) == ["1"]
    assert posted["offsets"][0]["offset"] == 1
    assert health["status"] == "healthy"


def test_a_client_that_stops_waiting_does_no_harm(server: Process, topic: str) -> None:
    server.post(topic, "0")
    for _ in range(10):
        with server.connect() as leaving:
            leaving.send(leaving.encode("GET", f"/topics/{topic}/records?from_offset=1&timeout_ms={LONG_MS}"))
    server.post(topic, "1")
    assert values(server.poll(topic)) == ["0", "1"]


def test_a_reader_that_follows_sees_every_record_once_and_in_order(server: Process, topic: str) -> None:
    server.post(topic, "0")
    seen: list[str] = []

    def follow() -> None:
        at = 0
        while len(seen) < 200:
            polled = server.poll(topic, from_offset=at, timeout_ms=LONG_MS)
            seen.extend(values(polled))
            at = polled["next_offset"]

    reader = threading.Thread(target=follow)
    reader.start()
    for number in range(1, 200):
        server.post(topic, str(number))
    reader.join(20)
    assert seen == [str(number) for number in range(200)]


# -- HEAD


@pytest.mark.parametrize(
    "path",
    ["/health", "/topics/{topic}/records", "/topics/{topic}/records?max_records=0", "/topics/none/records", "/nothing"],
)
def test_head_has_the_status_and_headers_of_get_and_no_body(server: Process, topic: str, path: str) -> None:
    server.post(topic, "v" * 1000)
    path = path.format(topic=topic)
    asked = server.ask("GET", path)
    head = server.ask("HEAD", path)
    assert (head.status, head.body) == (asked.status, b"")
    assert head.headers["content-type"] == asked.headers["content-type"]
    if path != "/health":  # whose answer tells the time
        assert head.headers == asked.headers


def test_head_on_a_connection_does_not_disturb_the_next_answer(server: Process, topic: str) -> None:
    server.post(topic, "v")
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        for method in ("HEAD", "GET", "HEAD", "GET"):
            connection.request(method, f"/topics/{topic}/records")
            answer = connection.getresponse()
            assert answer.status == 200
            assert (answer.read() == b"") is (method == "HEAD")
