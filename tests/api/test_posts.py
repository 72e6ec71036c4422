"""Posts in their other forms: lines of NDJSON, and posts that wait for the disk whatever the sync mode."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from tests.server.running import JSON, Answer, Process, serving

NDJSON = {"Content-Type": "application/x-ndjson"}


def post_lines(server: Process, topic: str, body: bytes) -> Answer:
    return server.ask("POST", f"/topics/{topic}/records", body, NDJSON)


@pytest.mark.parametrize(
    "body",
    [
        b'{"value":"a"}\n{"value":"b"}\n',
        b'{"value":"a"}\n{"value":"b"}',
        b'{"value":"a"}\r\n\r\n{"value":"b"}\r\n',
        b'\n  {"value": "a"}  \n\n\n{"value": "b"}\n',
    ],
    ids=["lines", "no last line end", "CR LF and an empty line", "white space"],
)
def test_a_record_a_line(server: Process, body: bytes) -> None:
    topic = f"lines-{abs(hash(body))}"
    answer = post_lines(server, topic, body)
    assert answer.json() == {"first_offset": 0, "last_offset": 1, "count": 2}
    assert [record["value"] for record in server.poll(topic)["records"]] == ["a", "b"]


def test_a_line_may_hold_what_a_record_may(server: Process) -> None:
    record = {"value": "\u2028é\x85\n🙂", "key": "k", "headers": {"h": "1"}}
    assert post_lines(server, "whole", json.dumps(record, ensure_ascii=False).encode()).status == 200
    assert server.poll("whole")["records"][0].items() >= record.items()


@pytest.mark.parametrize(
    ("body", "status", "code", "details"),
    [
        (b"", 400, "validation_error", {"field": "records", "actual_size": 0}),
        (b"\n\n", 400, "validation_error", {"field": "records", "actual_size": 0}),
        (b'{"value":"a"}\n{"value":\n', 400, "invalid_json", {"line": 2}),
        (b'{"value":"a"}\n\n{"value":1}\n', 422, "invalid_body", {"line": 3}),
        (b'[{"value":"a"}]', 422, "invalid_body", {"line": 1}),
        (b'{"value":"\xff"}', 400, "invalid_json", {"line": 1}),
        (b'{"value":"a"}{"value":"b"}\n{"value":\n"c"}\n', 400, "invalid_json", {"line": 1}),
        (b'{"value":"a"}\n' * 1001, 400, "validation_error", {"max_size": 1000, "actual_size": 1001}),
        (b'{"value":"a"}\n{"value":"a","key":"%b"}' % (b"k" * 1025), 400, "validation_error", {"max_size": 1024}),
    ],
    ids=[
        "nothing", "empty lines", "half a line", "wrong shape", "an array", "not UTF-8", "lines shared and spanned",
        "too many", "long key",
    ],
)  # fmt: skip
def test_one_bad_line_and_nothing_is_stored(
    server: Process, body: bytes, status: int, code: str, details: dict[str, object]
) -> None:
    answer = post_lines(server, "refused", body)
    assert answer.status == status, answer
    told = answer.json()
    assert told["error"] == code
    assert told["details"].items() >= {**details, "outcome": "not_applied"}.items()
    assert server.ask("GET", "/topics/refused").status == 404


def test_a_binary_key_comes_back_as_it_went(server: Process) -> None:
    record = {"value": "v", "key": b64encode(b"\xff\x00").decode(), "key_encoding": "base64"}
    server.post("binary-key", record)
    assert server.poll("binary-key")["records"][0].items() >= record.items()
    bad = {"value": "v", "key": "?", "key_encoding": "base64"}
    refused = server.try_post("binary-key", bad)
    assert (refused.status, refused.json()["details"]["field"]) == (400, "records[0].key")


@pytest.mark.parametrize("mode", ["periodic", "never", "always"])
def test_a_post_may_ask_for_the_disk_whatever_the_sync_mode(tmp_path: Path, mode: str) -> None:
    body = b'{"records":[{"value":"v"}]}'
    with serving(
        tmp_path / "data", "--sync-mode", mode, "--sync-interval-s", "3600", "--commit-threshold", "1000"
    ) as server:
        told = server.ask("POST", "/topics/t/records", body, JSON)
        assert told.headers["x-flashq-durability"] == ("fsynced" if mode == "always" else "written")
        told = server.ask("POST", "/topics/t/records?sync=always", body, JSON)
        assert told.headers["x-flashq-durability"] == "fsynced"
        assert told.json()["offsets"][0]["offset"] == 1
        assert server.ask("GET", "/topics/t").json()["durable_offset"] == 2


def test_posts_that_ask_for_the_disk_keep_their_place_among_others(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--sync-mode", "never") as server:
        server.post("t", "first")
        requests = b""
        for at in range(60):
            body = b'{"records":[{"value":"%d"}]}' % at
            query = b"?sync=always" if at % 3 == 0 else b""
            requests += (
                b"POST /topics/t/records%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (query, len(body), body)
            )
        with server.connect() as connection:
            connection.send(requests)
            for _ in range(60):
                assert connection.receive().status == 200
        values = [record["value"] for record in server.poll("t", max_records=1000)["records"]]
        assert values == ["first", *[str(at) for at in range(60)]]


def test_memory_cannot_be_asked_for_the_disk(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--storage", "memory") as server:
        refused = server.ask("POST", "/topics/t/records?sync=always", b'{"records":[{"value":"v"}]}', JSON)
        assert refused.status == 400
        assert refused.json()["details"] == {"parameter": "sync", "outcome": "not_applied"}
        assert server.ask("GET", "/topics/t").status == 404
