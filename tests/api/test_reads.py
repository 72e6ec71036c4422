"""Reads by time, as lines, and of groups, against a running server on each storage."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flashq.http.handlers.ndjson import prefers_lines
from tests.api.test_limits_and_statuses import assert_error
from tests.api.test_topics import SWEEPING, put, wait_for
from tests.server.running import JSON, Answer, Process, serving

LINES = {"Accept": "application/x-ndjson"}
_fresh = itertools.count()


@pytest.fixture
def topic() -> str:
    """A topic that is not there yet."""
    return f"reads-{next(_fresh)}"


@pytest.fixture
def group(server: Process) -> str:
    """A group that has committed nothing."""
    name = f"readers-{next(_fresh)}"
    assert server.ask("POST", f"/consumer/{name}").status == 200
    return name


def poll_lines(server: Process, target: str) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    """The records of an answer in lines, and its headers."""
    answer = server.ask("GET", target, None, LINES)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer
    assert answer.body.endswith(b"\n") or not answer.body
    return [json.loads(line) for line in answer.body.splitlines()], answer.headers


def commit(server: Process, group: str, topic: str, offset: int) -> None:
    body = json.dumps({"offset": offset}).encode()
    assert server.ask("POST", f"/consumer/{group}/topics/{topic}/offset", body, JSON).status == 200


def ask_later(server: Process, target: str, headers: Mapping[str, str] | None = None) -> tuple[list[Answer], Any]:
    """Ask from a thread; its answer, once it has been joined."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(server.ask("GET", target, None, headers)))
    thread.start()
    return answers, thread


# -- by time


@pytest.mark.parametrize("headers", [{}, LINES], ids=["JSON", "lines"])
def test_from_time_is_the_first_record_appended_then_or_later(
    server: Process, topic: str, headers: dict[str, str]
) -> None:
    times = []
    for value in "abc":
        times.append(server.post(topic, value, value)[0]["timestamp"])
        time.sleep(0.01)
    for number, moment in enumerate(times):
        answer = server.ask("GET", f"/topics/{topic}/records?from_time={moment}&max_records=1", None, headers)
        record = json.loads(answer.body) if headers else answer.json()["records"][0]
        assert (record["offset"], record["timestamp"]) == (2 * number, moment)


def test_from_time_takes_milliseconds_and_waits_when_it_is_in_the_future(server: Process, topic: str) -> None:
    server.post(topic, "old")
    assert [each["value"] for each in server.poll(topic, from_time=0)["records"]] == ["old"]
    begun = time.monotonic()
    answers, asking = ask_later(server, f"/topics/{topic}/records?from_time=2999-01-01&timeout_ms=15000")
    time.sleep(0.2)
    server.post(topic, "new")
    asking.join()
    assert time.monotonic() - begun < 5
    assert answers[0].json()["records"][0]["offset"] == 1


# -- as lines


def test_lines_are_the_records_of_the_json_answer(server: Process, topic: str) -> None:
    server.post(
        topic, "a\nb", {"value": "", "key": "", "headers": {"é": "ü"}}, {"value": "/wA=", "encoding": "base64"}, "z"
    )
    for query in ("", "?from_offset=1", "?max_records=2", "?include_headers=false", "?from_offset=1&max_bytes=1"):
        told = server.ask("GET", f"/topics/{topic}/records{query}").json()
        lines, headers = poll_lines(server, f"/topics/{topic}/records{query}")
        assert lines == told["records"]
        assert headers["x-next-offset"] == str(told["next_offset"])
        assert headers["x-high-water-mark"] == str(told["high_water_mark"])
        assert headers["x-log-start-offset"] == str(told["log_start_offset"])
        assert "x-committed-offset" not in headers
    assert poll_lines(server, f"/topics/{topic}/records?include_headers=false")[0][1]["headers"] is None


@pytest.mark.parametrize("offset", [1, 9])
def test_no_lines_at_or_past_the_end(server: Process, topic: str, offset: int) -> None:
    server.post(topic, "a")
    lines, headers = poll_lines(server, f"/topics/{topic}/records?from_offset={offset}")
    assert (lines, headers["x-next-offset"], headers["x-high-water-mark"]) == ([], str(offset), "1")


def test_lines_wait_for_the_first_record(server: Process, topic: str) -> None:
    server.post(topic, "a")
    answers, asking = ask_later(server, f"/topics/{topic}/records?from_offset=1&timeout_ms=15000", LINES)
    time.sleep(0.2)
    server.post(topic, "b")
    asking.join()
    assert json.loads(answers[0].body)["value"] == "b"
    assert answers[0].headers["x-next-offset"] == "2"


def test_a_large_answer_in_lines_stops_at_max_bytes_or_max_records(server: Process, topic: str) -> None:
    """Streamed, and the header that was sent before the records tells where they ended."""
    for _ in range(10):
        server.post(topic, *["x" * 100_000] * 10)
    for query, count in [("", 83), ("&max_records=50", 50), ("&max_bytes=1000000", 10), ("&max_bytes=99000000", 100)]:
        lines, headers = poll_lines(server, f"/topics/{topic}/records?{query or 'max_records=100'}".replace("?&", "?"))
        assert [each["offset"] for each in lines] == list(range(count))
        assert headers["x-next-offset"] == str(count)
        assert headers["transfer-encoding"] == "chunked"
    middle, headers = poll_lines(server, f"/topics/{topic}/records?from_offset=35&max_bytes=2000000")
    assert [each["offset"] for each in middle] == list(range(35, 55))
    told = server.ask("GET", f"/topics/{topic}/records?max_bytes=99000000").json()
    assert told["next_offset"] <= 83, "an answer in JSON holds 8 MiB at most, whatever is asked"


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_lines_that_are_gone_before_they_are_read_cut_the_answer_off(storage: str, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--storage", storage, command=SWEEPING) as server:
        put(server, "t", segment_bytes=1024 * 1024)
        for _ in range(24):
            server.post("t", "x" * 1_000_000)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(15)
            client.connect(("127.0.0.1", server.port))
            client.sendall(
                b"GET /topics/t/records?max_bytes=99000000 HTTP/1.1\r\nHost: localhost\r\n"
                b"Accept: application/x-ndjson\r\n\r\n"
            )
            received = [client.recv(4096)]
            assert b"x-next-offset: 24\r\n" in received[0]
            put(server, "t", retention_ms=0)
            wait_for(lambda: server.ask("GET", "/topics/t").json()["log_start_offset"] == 24)
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(65536):
                    received.append(data)
        assert not b"".join(received).endswith(b"\r\n0\r\n\r\n")
        assert 1_000_000 < sum(map(len, received)) < 23_000_000
        assert [said["error"] for said in server.events("answer_cut_off")] == ["offset_out_of_range"]


def test_a_record_larger_than_a_piece_passes_whole(server: Process, topic: str) -> None:
    value = "é\x01" * 300_000
    server.post(topic, "before", value, "after")
    lines, _ = poll_lines(server, f"/topics/{topic}/records")
    assert [each["value"] for each in lines] == ["before", value, "after"]


@pytest.mark.parametrize(
    ("accept", "lines"),
    [
        (None, False),
        (b"*/*", False),
        (b"application/json", False),
        (b"application/x-ndjson", True),
        (b"Application/X-NDJSON; charset=utf-8", True),
        (b"application/x-ndjson;q=0", False),
        (b"application/x-ndjson;q=0.000, */*", False),
        (b"application/json, application/x-ndjson", True),
        (b"application/json;q=0.5, application/x-ndjson;q=0.5", True),
        (b"application/json;q=0.9, application/x-ndjson;q=0.8", False),
        (b"application/json, application/x-ndjson;q=0.9", False),
        (b"application/x-ndjson;q=0.5, */*;q=0.1", True),
        (b"application/x-ndjson;q=0.5, */*", False),
        (b"application/x-ndjson;q=nan", False),
        (b"application/x-ndjson;q=2", False),
        (b"application/x-ndjson;q=\x1c0.5", True),
        (b"application/x-ndjsonx", False),
        (b"text/html, ;;, application/x-ndjson ; q=1", True),
        (b"\xff", False),
        (b"", False),
    ],
)
def test_lines_are_for_those_who_name_them_and_do_not_rank_json_above(accept: bytes | None, lines: bool) -> None:
    assert prefers_lines(accept) is lines


@pytest.mark.parametrize("headers", [{}, LINES], ids=["JSON", "lines"])
def test_refusals_are_json_whatever_is_accepted(server: Process, topic: str, headers: dict[str, str]) -> None:
    assert_error(server.ask("GET", f"/topics/{topic}/records", None, headers), 404, "topic_not_found", {"topic": topic})
    server.post(topic, "a")
    for query, parameter in [
        ("from_offset=-1", "from_offset"), ("from_time=soon", "from_time"), ("from_time=0&from_offset=0", "from_time"),
        ("max_bytes=0", "max_bytes"),
    ]:  # fmt: skip
        answer = server.ask("GET", f"/topics/{topic}/records?{query}", None, headers)
        assert_error(answer, 400, "invalid_parameter", {"parameter": parameter})


# -- groups


def test_a_group_reads_from_where_it_stands_and_stays_there(server: Process, topic: str, group: str) -> None:
    server.post(topic, "a", "b", "c")
    at = f"/consumer/{group}/topics/{topic}"
    for committed in (0, 1, 3, 2):
        commit(server, group, topic, committed)
        for _ in range(2):
            told = server.ask("GET", at).json()
            assert (told["committed_offset"], told["next_offset"], told["lag"]) == (committed, 3, 0)
            assert [each["value"] for each in told["records"]] == list("abc")[committed:]
        lines, headers = poll_lines(server, at)
        assert lines == told["records"]
        assert (headers["x-committed-offset"], headers["x-next-offset"]) == (str(committed), "3")
    elsewhere = server.ask("GET", f"{at}?from_offset=0&max_records=1&include_headers=false").json()
    assert (elsewhere["committed_offset"], elsewhere["next_offset"], elsewhere["lag"]) == (2, 1, 2)
    assert len(server.ask("GET", f"{at}?from_time=0").json()["records"]) == 3


@pytest.mark.parametrize("headers", [{}, LINES], ids=["JSON", "lines"])
def test_a_group_waits_for_records_after_its_offset(
    server: Process, topic: str, group: str, headers: dict[str, str]
) -> None:
    server.post(topic, "a")
    commit(server, group, topic, 1)
    answers, asking = ask_later(server, f"/consumer/{group}/topics/{topic}?timeout_ms=15000", headers)
    time.sleep(0.2)
    server.post(topic, "b")
    asking.join()
    record = json.loads(answers[0].body) if headers else answers[0].json()["records"][0]
    assert (record["offset"], record["value"]) == (1, "b")


def test_unknown_groups_and_topics_are_404(server: Process, topic: str, group: str) -> None:
    assert_error(server.ask("GET", f"/consumer/{group}/topics/{topic}"), 404, "topic_not_found", {"topic": topic})
    server.post(topic, "a")
    assert_error(
        server.ask("GET", f"/consumer/x{group}/topics/{topic}"), 404, "group_not_found", {"group_id": f"x{group}"}
    )


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_what_retention_removes_is_410_except_for_a_group_that_has_never_committed(
    storage: str, tmp_path: Path
) -> None:
    with serving(tmp_path / "data", "--storage", storage, command=SWEEPING) as server:
        server.post("t", "a", "b")
        for group in ("new", "old"):
            server.ask("POST", f"/consumer/{group}")
        commit(server, "old", "t", 1)
        put(server, "t", retention_ms=0)
        wait_for(lambda: server.ask("GET", "/topics/t").json()["log_start_offset"] == 2)
        put(server, "t", retention_ms=None)
        server.post("t", "c")
        told = server.ask("GET", "/consumer/new/topics/t").json()
        assert (told["committed_offset"], told["next_offset"], told["records"][0]["value"]) == (0, 3, "c")
        for target in ("/consumer/old/topics/t", "/consumer/new/topics/t?from_offset=0", "/topics/t/records"):
            for headers in ({}, LINES):
                answer = server.ask("GET", target, None, headers)
                assert (answer.status, answer.json()["error"]) == (410, "offset_out_of_range")
                assert answer.json()["details"]["log_start_offset"] == 2
        assert server.poll("t", from_time=0)["records"][0]["offset"] == 2
        for target in ("/topics/t/stream", "/consumer/new/topics/t/stream", "/topics/t/stream?from_time=0"):
            assert server.ask("HEAD", target).status == 200
        for target in ("/topics/t/stream?from_offset=1", "/consumer/old/topics/t/stream"):
            assert_error(server.ask("GET", target), 410, "offset_out_of_range", {"log_start_offset": 2})
