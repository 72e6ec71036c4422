"""Topics over HTTP as a checklist: list, create, configure, describe, delete; and what a restart keeps of it."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_limits_and_statuses import BAD_NAMES, assert_error
from tests.server.running import JSON, Answer, Process, serving

MIB = 1024 * 1024
MOST = 2**63 - 1
DEFAULTS = {"retention_ms": None, "retention_bytes": None, "segment_bytes": 64 * MIB}
SWEEPING = (
    sys.executable,
    "-c",
    "import sys; from flashq.broker.retention import RetentionThread; "
    "RetentionThread.__init__.__defaults__ = (0.02,); from flashq.cli.main import main; sys.exit(main())",
)
"""A server whose retention does not wait ten seconds."""
_fresh = itertools.count()


@pytest.fixture
def topic() -> str:
    """A topic that is not there yet."""
    return f"plain-{next(_fresh)}"


def put(server: Process, topic: str, **changes: object) -> Answer:
    return server.ask("PUT", f"/topics/{topic}", json.dumps(changes).encode(), JSON)


def describe(server: Process, topic: str) -> dict[str, Any]:
    answer = server.ask("GET", f"/topics/{topic}")
    assert answer.status == 200, answer
    told: dict[str, Any] = answer.json()
    return told


def kept(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in DEFAULTS}


def names(server: Process) -> list[str]:
    return [each["name"] for each in server.ask("GET", "/topics").json()["topics"]]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- create


def test_put_creates_a_topic_and_describes_it(server: Process, topic: str) -> None:
    answer = server.ask("PUT", f"/topics/{topic}")
    assert (answer.status, answer.headers["content-type"]) == (201, "application/json")
    durability = answer.json()["durability"]
    assert durability in ("fsynced", "memory")
    assert answer.json() == {
        "name": topic, "log_start_offset": 0, "next_offset": 0, "high_water_mark": 0, "size_bytes": 0,
        "durable_offset": 0, "epoch": 0, "durability": durability, **DEFAULTS,
    }  # fmt: skip
    assert describe(server, topic) == answer.json()
    assert server.poll(topic)["records"] == []


CREATED = [
    ("no body", None, {}, {}),
    ("no body, another content type", b"", {"Content-Type": "text/plain"}, {}),
    ("an empty object", b"{}", JSON, {}),
    ("nulls", b'{"retention_ms": null, "retention_bytes": null}', JSON, {}),
    ("zeros", b'{"retention_ms": 0, "retention_bytes": 0}', JSON, {"retention_ms": 0, "retention_bytes": 0}),
    (
        "the most there is",
        json.dumps({"retention_ms": MOST, "retention_bytes": MOST, "segment_bytes": 2**31}).encode(),
        JSON,
        {"retention_ms": MOST, "retention_bytes": MOST, "segment_bytes": 2**31},
    ),
    ("the smallest segments", b'{"segment_bytes": 1024}', JSON, {"segment_bytes": 1024}),
]


@pytest.mark.parametrize(("says", "body", "headers", "config"), CREATED, ids=[row[0] for row in CREATED])
def test_creates_with(
    server: Process, topic: str, says: str, body: bytes | None, headers: dict[str, str], config: dict[str, int]
) -> None:
    answer = server.ask("PUT", f"/topics/{topic}", body, headers)
    assert answer.status == 201, answer
    assert kept(answer.json()) == kept(describe(server, topic)) == {**DEFAULTS, **config}


def test_of_many_that_create_a_topic_at_once_one_does_and_all_settings_count(server: Process, topic: str) -> None:
    settings = [{"retention_ms": 10**9}, {"retention_bytes": 10**9}, {"segment_bytes": MIB}] * 4
    with ThreadPoolExecutor(len(settings)) as pool:
        statuses = list(pool.map(lambda each: put(server, topic, **each).status, settings))
    assert sorted(statuses) == [200] * (len(settings) - 1) + [201]
    assert kept(describe(server, topic)) == {
        "retention_ms": 10**9, "retention_bytes": 10**9, "segment_bytes": MIB,
    }  # fmt: skip


# -- configure


def test_put_changes_what_is_given_and_leaves_the_rest(server: Process, topic: str) -> None:
    put(server, topic, retention_ms=10**9, segment_bytes=MIB)
    server.post(topic, "stays")
    steps: list[tuple[dict[str, object], dict[str, object]]] = [
        ({"retention_bytes": 10**9}, {"retention_ms": 10**9, "retention_bytes": 10**9, "segment_bytes": MIB}),
        ({}, {"retention_ms": 10**9, "retention_bytes": 10**9, "segment_bytes": MIB}),
        ({"retention_ms": None}, {"retention_ms": None, "retention_bytes": 10**9, "segment_bytes": MIB}),
        ({"retention_bytes": None, "segment_bytes": 2048}, {**DEFAULTS, "segment_bytes": 2048}),
    ]
    for changes, expected in steps:
        answer = put(server, topic, **changes)
        assert (answer.status, kept(answer.json())) == (200, expected)
        assert kept(describe(server, topic)) == expected
    assert server.ask("PUT", f"/topics/{topic}").status == 200
    assert [record["value"] for record in server.read_all(topic)] == ["stays"]


REFUSED = [
    ("not JSON", b"{", JSON, 400, "invalid_json"),
    ("white space", b" ", JSON, 400, "invalid_json"),
    ("null", b"null", JSON, 422, "invalid_body"),
    ("a list", b"[]", JSON, 422, "invalid_body"),
    ("an unknown field", b'{"retention": 5}', JSON, 422, "invalid_body"),
    ("retention_ms below 0", b'{"retention_ms": -1}', JSON, 422, "invalid_body"),
    ("retention_ms too large", b'{"retention_ms": 9223372036854775808}', JSON, 422, "invalid_body"),
    ("retention_ms a text", b'{"retention_ms": "5"}', JSON, 422, "invalid_body"),
    ("retention_ms a fraction", b'{"retention_ms": 1.5}', JSON, 422, "invalid_body"),
    ("retention_ms a boolean", b'{"retention_ms": true}', JSON, 422, "invalid_body"),
    ("retention_bytes below 0", b'{"retention_bytes": -1}', JSON, 422, "invalid_body"),
    ("retention_bytes a text", b'{"retention_bytes": "1GiB"}', JSON, 422, "invalid_body"),
    ("segment_bytes null", b'{"segment_bytes": null}', JSON, 422, "invalid_body"),
    ("segment_bytes below 1 KiB", b'{"segment_bytes": 1023}', JSON, 422, "invalid_body"),
    ("segment_bytes over 2 GiB", b'{"segment_bytes": 2147483649}', JSON, 422, "invalid_body"),
    ("no content type", b"{}", {}, 415, "unsupported_media_type"),
    ("another content type", b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
]


@pytest.mark.parametrize(("says", "body", "headers", "status", "error"), REFUSED, ids=[row[0] for row in REFUSED])
def test_put_is_refused_and_changes_nothing(
    server: Process, topic: str, says: str, body: bytes, headers: dict[str, str], status: int, error: str
) -> None:
    answer = server.ask("PUT", f"/topics/{topic}", body, headers)
    assert_error(answer, status, error, {"outcome": "not_applied"})
    assert server.ask("GET", f"/topics/{topic}").status == 404
    put(server, topic, retention_ms=10**9)
    before = describe(server, topic)
    assert server.ask("PUT", f"/topics/{topic}", body, headers).status == status
    assert describe(server, topic) == before


# -- list and describe


def test_the_list_has_every_topic_by_name_with_its_offsets_and_bytes(server: Process, topic: str) -> None:
    server.ask("PUT", f"/topics/{topic}-b")
    server.post(f"{topic}-a", "one", "two")
    answer = server.ask("GET", "/topics")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    listed = answer.json()["topics"]
    assert names(server) == sorted(names(server))
    a, b = [each for each in listed if each["name"].startswith(f"{topic}-")]
    assert a.pop("size_bytes") > len("onetwo")
    assert a == {"name": f"{topic}-a", "log_start_offset": 0, "next_offset": 2, "high_water_mark": 2}
    assert b == {
        "name": f"{topic}-b", "log_start_offset": 0, "next_offset": 0, "high_water_mark": 0, "size_bytes": 0,
    }  # fmt: skip


def test_a_topic_made_by_its_first_post_is_described(server: Process, topic: str) -> None:
    server.post(topic, "one", "two")
    told = describe(server, topic)
    marks = ("log_start_offset", "next_offset", "high_water_mark", "durable_offset")
    assert [told[name] for name in marks] == [0, 2, 2, 2]
    assert told["size_bytes"] > 0
    assert kept(told) == DEFAULTS


@pytest.mark.parametrize("path", ["/topics", "/topics/{topic}"])
def test_head_is_answered_as_get_without_the_body(server: Process, topic: str, path: str) -> None:
    server.ask("PUT", f"/topics/{topic}")
    shown = server.ask("GET", path.format(topic=topic))
    head = server.ask("HEAD", path.format(topic=topic))
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(shown.body)))


# -- delete


def test_a_deleted_topic_is_gone_with_its_records(server: Process, topic: str) -> None:
    server.post(topic, "gone")
    answer = server.ask("DELETE", f"/topics/{topic}")
    assert (answer.status, answer.body) == (204, b"")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/records")):
        assert_error(server.ask(method, f"/topics/{topic}{path}"), 404, "topic_not_found", {"topic": topic})
    assert topic not in names(server)


def test_a_topic_made_again_begins_at_0_with_the_defaults(server: Process, topic: str) -> None:
    put(server, topic, retention_ms=10**9)
    server.post(topic, "old", "old")
    server.ask("DELETE", f"/topics/{topic}")
    assert server.post(topic, "new")[0]["offset"] == 0
    assert kept(describe(server, topic)) == DEFAULTS
    assert [record["value"] for record in server.read_all(topic)] == ["new"]


def test_the_offsets_of_its_groups_go_with_a_topic(server: Process, topic: str) -> None:
    at = f"/consumer/{topic}-group/topics/{topic}/offset"
    server.ask("POST", f"/consumer/{topic}-group")
    server.post(topic, "one", "two")
    assert server.ask("POST", at, b'{"offset": 2}', JSON).status == 200
    server.ask("DELETE", f"/topics/{topic}")
    assert server.ask("GET", f"/consumer/{topic}-group").json() == {"group_id": f"{topic}-group", "topics": []}
    assert_error(server.ask("GET", at), 404, "topic_not_found", {"topic": topic})
    server.post(topic, "one", "two")
    assert server.ask("GET", at).json()["committed_offset"] == 0


def test_who_waits_for_a_topic_that_is_deleted_is_answered_at_once(server: Process, topic: str) -> None:
    server.ask("PUT", f"/topics/{topic}")
    answers: list[Answer] = []
    reader = threading.Thread(
        target=lambda: answers.append(server.ask("GET", f"/topics/{topic}/records?timeout_ms=15000"))
    )
    begun = time.monotonic()
    reader.start()
    time.sleep(0.2)
    server.ask("DELETE", f"/topics/{topic}")
    reader.join()
    assert time.monotonic() - begun < 10
    assert answers[0].status in (200, 404, 503)


def test_create_delete_and_post_at_once_answer_as_if_one_after_the_other(
    server: Process, topic: str, request: pytest.FixtureRequest
) -> None:
    def work(number: int) -> set[tuple[str, int]]:
        done = set()
        for _ in range(15):
            method, path, body = [
                ("PUT", "", b'{"retention_ms": 1000000000}'), ("DELETE", "", None),
                ("POST", "/records", b'{"records": [{"value": "v"}]}'), ("GET", "", None),
            ][number % 4]  # fmt: skip
            done.add((method, server.ask(method, f"/topics/{topic}{path}", body, JSON).status))
        return done

    with ThreadPoolExecutor(8) as pool:
        seen = set().union(*pool.map(work, range(8)))
    allowed = {("PUT", 200), ("PUT", 201), ("DELETE", 204), ("DELETE", 404), ("GET", 200), ("GET", 404)}
    # Deleted between its arrival and its write: 503 closed; Kafka says that there is no such topic.
    deleted = {503, 404} if request.node.get_closest_marker("kafka") else {503}
    assert seen <= allowed | {("POST", status) for status in {200, *deleted}}
    assert put(server, topic).status in (200, 201)


# -- refused everywhere

ROUTES = [("PUT", "/topics/{topic}"), ("GET", "/topics/{topic}"), ("DELETE", "/topics/{topic}")]


def outcome(method: str) -> dict[str, object]:
    return {} if method == "GET" else {"outcome": "not_applied"}


@pytest.mark.parametrize(("method", "route"), ROUTES)
@pytest.mark.parametrize(("says", "written"), BAD_NAMES, ids=[row[0] for row in BAD_NAMES])
def test_a_bad_name_is_refused(server: Process, method: str, route: str, says: str, written: str) -> None:
    before = names(server)
    answer = server.ask(method, route.format(topic=written))
    assert_error(answer, 400, "invalid_parameter", {"parameter": "topic", **outcome(method)})
    assert names(server) == before


def test_a_name_is_percent_decoded(server: Process) -> None:
    assert server.ask("PUT", "/topics/%70%65rcent").json()["name"] == "percent"
    assert server.ask("DELETE", "/topics/percen%74").status == 204


@pytest.mark.parametrize(("method", "route"), [("GET", "/topics"), *ROUTES])
@pytest.mark.parametrize("query", ["retention_ms=5", "x", "x=1&x=2"])
def test_a_parameter_is_refused_and_nothing_is_done(
    server: Process, topic: str, method: str, route: str, query: str
) -> None:
    server.ask("PUT", f"/topics/{topic}")
    answer = server.ask(method, f"{route.format(topic=topic)}?{query}")
    assert_error(answer, 400, "invalid_parameter", outcome(method))
    assert kept(describe(server, topic)) == DEFAULTS


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *[(method, "/topics", "GET, HEAD") for method in ("POST", "PUT", "DELETE", "PATCH")],
        *[(method, "/topics/any", "DELETE, GET, HEAD, PUT") for method in ("POST", "PATCH", "OPTIONS")],
    ],
)
def test_another_method_is_405(server: Process, method: str, path: str, allowed: str) -> None:
    answer = server.ask(method, path)
    assert_error(answer, 405, "method_not_allowed", {"allow": allowed.split(", ")})
    assert answer.headers["allow"] == allowed


# -- what a restart keeps


def test_creations_settings_and_deletions_survive_a_kill(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        put(server, "kept", retention_ms=10**9, segment_bytes=MIB)
        put(server, "kept", retention_bytes=10**10, retention_ms=None)
        server.post("deleted", "gone")
        server.ask("DELETE", "/topics/deleted")
        server.post("again", "old", "old")
        server.ask("DELETE", "/topics/again")
        server.post("again", "new")
        before = server.ask("GET", "/topics").json(), describe(server, "kept")
        server.kill()
    with serving(tmp_path / "data") as server:
        assert (server.ask("GET", "/topics").json(), describe(server, "kept")) == before
        assert names(server) == ["again", "kept"]
        assert kept(describe(server, "kept")) == {
            "retention_ms": None, "retention_bytes": 10**10, "segment_bytes": MIB,
        }  # fmt: skip
        assert_error(server.ask("GET", "/topics/deleted"), 404, "topic_not_found", {})
        assert [record["value"] for record in server.read_all("again")] == ["new"]


def test_a_new_topic_takes_the_servers_defaults_for_what_is_not_given(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--retention-ms", "1000000000", "--segment-bytes", "1MiB") as server:
        assert kept(put(server, "plain").json()) == {**DEFAULTS, "retention_ms": 10**9, "segment_bytes": MIB}
        assert kept(put(server, "for-ever", retention_ms=None).json()) == {**DEFAULTS, "segment_bytes": MIB}
        assert kept(put(server, "plain").json())["retention_ms"] == 10**9


# -- retention


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_retention_runs_by_itself_once_a_topic_has_it(tmp_path: Path, storage: str) -> None:
    """By creation and by reconfiguration; the topics that keep everything keep it."""
    with serving(tmp_path / "data", "--storage", storage, command=SWEEPING) as server:
        for topic in ("plain", "later"):
            server.post(topic, "one", "two")
        assert put(server, "later", retention_ms=0).status == 200
        wait_for(lambda: describe(server, "later")["log_start_offset"] == 2)
        assert put(server, "at-once", retention_ms=0).status == 201
        server.post("at-once", "one")
        wait_for(lambda: describe(server, "at-once")["log_start_offset"] == 1)
        assert_error(server.ask("GET", "/topics/later/records"), 410, "offset_out_of_range", {"log_start_offset": 2})
        assert server.post("later", "three")[0]["offset"] == 2
        assert describe(server, "plain")["log_start_offset"] == 0
        assert len(server.read_all("plain")) == 2


def test_retention_goes_on_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path / "data", command=SWEEPING) as server:
        put(server, "t", retention_ms=0)
        server.kill()
    with serving(tmp_path / "data", command=SWEEPING) as server:
        server.post("t", "one")
        wait_for(lambda: describe(server, "t")["log_start_offset"] == 1)


def test_retention_by_size_keeps_the_newest(tmp_path: Path) -> None:
    with serving(tmp_path / "data", command=SWEEPING) as server:
        put(server, "t", retention_bytes=4096, segment_bytes=1024)
        server.post("t", "x" * 500)
        segment_size = describe(server, "t")["size_bytes"]
        for _ in range(39):
            server.post("t", "x" * 500)
        wait_for(lambda: describe(server, "t")["size_bytes"] < 4096 + segment_size)  # and then it stays
        told = describe(server, "t")
        assert told["size_bytes"] >= 4096
        assert 0 < told["log_start_offset"] < told["high_water_mark"] == 40
        assert len(server.poll("t", from_offset=told["log_start_offset"])["records"]) == 40 - told["log_start_offset"]


def test_a_post_that_makes_its_topic_is_done_after_what_is_before_it_and_before_what_is_behind(
    server: Process, topic: str
) -> None:
    with server.connect() as connection:
        for number in range(5):
            path = f"/topics/{topic}-{number}"
            post = ("POST", f"{path}/records", {"records": [{"value": "v"}]})
            requests = [("GET", path, None), post, ("GET", path, None), post, ("GET", f"{path}/records", None)]
            connection.send(b"".join(connection.encode(*request) for request in requests))
            answers = [connection.receive() for _ in requests]
            assert [answer.status for answer in answers] == [404, 200, 200, 200, 200]
            assert answers[2].json()["high_water_mark"] >= 1  # the second post may be there already


def test_requests_behind_one_that_makes_or_removes_a_topic_meet_what_it_has_made_of_it(
    server: Process, topic: str
) -> None:
    path, group = f"/topics/{topic}", "/consumer/pipelined"
    with server.connect() as connection:
        for _ in range(3):
            requests = [
                ("PUT", path, {"retention_ms": 60_000}),
                ("GET", path, None),
                ("POST", f"{path}/records", {"records": [{"value": "old"}]}),
                ("DELETE", path, None),
                ("GET", path, None),
                ("POST", f"{path}/records", {"records": [{"value": "new"}]}),
                ("POST", group, None),
                ("GET", group, None),
                ("DELETE", group, None),
                ("GET", group, None),
            ]
            connection.send(b"".join(connection.encode(*request) for request in requests))
            answers = [connection.receive() for _ in requests]
            assert [answer.status for answer in answers] == [201, 200, 200, 204, 404, 200, 200, 200, 204, 404]
            assert answers[5].json()["offsets"][0]["offset"] == 0
            assert [record["value"] for record in server.read_all(topic)] == ["new"]
            assert server.ask("DELETE", path).status == 204
