"""Polls of the end that are asked again: the answer is remembered, and never older than the log."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flashq.broker.flashq import FlashQ
from flashq.errors import OffsetOutOfRange
from flashq.http.handlers.blocking import Blocking
from flashq.http.handlers.reads import ReadHandler
from flashq.http.head import Head
from flashq.http.message import Peer, Request
from flashq.metrics import Volume
from tests.server.running import JSON, Process

LINES = {"Accept": "application/x-ndjson"}


def poll(server: Process, topic: str, query: str = "from_offset=1") -> Any:
    """Asked three times with one answer; what it says."""
    first, *others = [server.ask("GET", f"/topics/{topic}/records?{query}") for _ in range(3)]
    assert [(other.status, other.body) for other in others] == [(first.status, first.body)] * 2
    return first.json()


def values(polled: Any) -> list[str]:
    return [record["value"] for record in polled["records"]]


def test_an_answer_is_new_once_there_are_new_records(server: Process) -> None:
    topic = "latest-news"
    server.post(topic, "a", "b")
    for number in range(5):
        assert values(poll(server, topic)) == ["b"] + ["more"] * number
        server.post(topic, "more")
    polled = poll(server, topic, "from_offset=7")
    assert (values(polled), polled["lag"], polled["high_water_mark"]) == ([], 0, 7)


def test_each_question_has_its_own_answer(server: Process) -> None:
    topic = "latest-questions"
    server.post(topic, "a", {"value": "b", "headers": {"h": "1"}}, "c")
    for _ in range(2):
        assert values(poll(server, topic, "from_offset=0")) == ["a", "b", "c"]
        assert values(poll(server, topic, "from_offset=1")) == ["b", "c"]
        assert values(poll(server, topic, "from_offset=1&max_records=1")) == ["b"]
        assert poll(server, topic, "from_offset=1")["records"][0]["headers"] == {"h": "1"}
        assert poll(server, topic, "from_offset=1&include_headers=false")["records"][0]["headers"] is None
        assert values(poll(server, topic, "from_time=0")) == ["a", "b", "c"]
        assert poll(server, topic, "from_offset=3") == {
            "records": [], "next_offset": 3, "high_water_mark": 3, "lag": 0, "log_start_offset": 0
        }  # fmt: skip
        lines = server.ask("GET", f"/topics/{topic}/records?from_offset=1", headers=LINES)
        assert [json.loads(line)["value"] for line in lines.body.splitlines()] == ["b", "c"]
        head = server.ask("HEAD", f"/topics/{topic}/records?from_offset=1")
        assert (head.status, head.body) == (200, b"")


def test_a_group_is_told_its_own_offset(server: Process) -> None:
    topic = "latest-groups"
    server.post(topic, "a", "b")
    server.ask("POST", "/consumer/latest")
    for committed in (0, 1):
        body = json.dumps({"offset": committed}).encode()
        assert server.ask("POST", f"/consumer/latest/topics/{topic}/offset", body, JSON).status == 200
        assert "committed_offset" not in poll(server, topic, "from_offset=1")
        told = server.ask("GET", f"/consumer/latest/topics/{topic}?from_offset=1").json()
        assert (values(told), told["committed_offset"]) == (["b"], committed)


def test_who_asks_to_wait_waits_each_time(server: Process) -> None:
    topic = "latest-waits"
    server.post(topic, "a")
    for waits in ({}, {"timeout_ms": 100}, {"timeout_ms": 100}):
        began = time.monotonic()
        assert server.poll(topic, from_offset=1, **waits)["records"] == []
        # Kafka may take a tenth of a second, and more, to tell where the topic ends.
        assert waits.get("timeout_ms", 0) / 1000 <= time.monotonic() - began < 5


@pytest.mark.parametrize("kept", ["a", "b"])
def test_a_topic_of_the_same_name_has_its_own_answers(server: Process, kept: str) -> None:
    topic = f"latest-again-{kept}"
    for value in (kept, "another"):
        server.post(topic, "x", value)
        assert values(poll(server, topic)) == [value]
        assert server.ask("DELETE", f"/topics/{topic}").status == 204
        assert server.ask("GET", f"/topics/{topic}/records?from_offset=1").status == 404


def test_what_retention_has_removed_is_not_remembered() -> None:
    now_ms = 1_700_000_000_000
    flashq = FlashQ(clock_ms=lambda: now_ms)
    flashq.create_topic("t", retention_ms=1000)
    flashq.post_records("t", ["a", "b"])
    fields = {b"host": b"localhost"}
    head = Head("GET", "/topics/t/records", list(fields.items()), fields, True)

    async def ask() -> Any:
        loop = asyncio.get_running_loop()
        return ReadHandler(flashq, loop, Blocking(loop, ThreadPoolExecutor(1)), Volume()).poll_records

    poll_records = asyncio.run(ask())
    request = Request(head, b"", Peer(None, "http"))
    for _ in range(2):
        assert values(json.loads(poll_records(request, "t").body)) == ["a", "b"]
    now_ms += 2000
    assert flashq.apply_retention() > 0
    assert flashq.log("t").high_water_mark == 2
    with pytest.raises(OffsetOutOfRange):
        poll_records(request, "t")
    flashq.close()


def test_what_is_read_is_counted_also_when_it_was_remembered(server: Process) -> None:
    def counted() -> tuple[float, float]:
        lines = server.ask("GET", "/metrics").body.decode().splitlines()
        names = ("flashq_read_records_total ", "flashq_read_bytes_total ")
        records, size = [next(float(line.split()[1]) for line in lines if line.startswith(name)) for name in names]
        return records, size

    server.post("latest-counted", "a", "b")
    before = counted()
    size = len(server.ask("GET", "/topics/latest-counted/records").body)
    server.ask("GET", "/topics/latest-counted/records")
    assert counted() == (before[0] + 4, before[1] + 2 * size)
