"""Reads over many answers: in one list, one by one, in lines, and across lost connections."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from flashq import AsyncClient, Client, ConnectionFailed, InvalidParameter, OffsetOutOfRange, TopicNotFound
from flashq.client.exchange import Answer
from flashq.client.line_pages import LinePages
from flashq.client.retry import Backoff
from tests.client.cutting import cutting
from tests.server.running import Process

SOON = Backoff(first_s=0.01, longest_s=0.02)
MANY = 23_456


@pytest.fixture(scope="module")
def many(server: Process) -> str:
    """A topic of more records than two answers hold; each value is its offset."""
    with Client(f"http://127.0.0.1:{server.port}") as client, client.producer("many", batch_size=1000) as producer:
        for number in range(MANY):
            producer.send(str(number))
    return "many"


def numbers(lines: bytes) -> list[int]:
    return [int(json.loads(line)["value"]) for line in lines.splitlines()]


def test_one_poll_takes_all_there_is(client: Client, many: str) -> None:
    polled = client.poll_records(many)
    assert [int(record.text) for record in polled] == [*range(MANY)]
    assert (polled.next_offset, polled.high_water_mark, polled.lag, polled.log_start_offset) == (MANY, MANY, 0, 0)


def test_a_count_beyond_one_answer_is_kept(client: Client, many: str) -> None:
    polled = client.poll_records(many, from_offset=5, count=12_345)
    assert [record.offset for record in polled] == [*range(5, 12_350)]
    assert (polled.next_offset, polled.lag) == (12_350, MANY - 12_350)


def test_a_number_of_bytes_beyond_one_answer_is_kept(client: Client, topic: str) -> None:
    for _ in range(10):
        client.post_record(topic, b"\xff" * 1024 * 1024)
    polled = client.poll_records(topic, max_bytes=9 * 1024 * 1024 + 5)
    assert 8 <= len(polled) <= 9
    assert polled.next_offset == len(polled)
    assert len(client.poll_records(topic)) == 10


def test_a_poll_by_time_begins_with_the_first_record_then(client: Client, topic: str) -> None:
    client.post_records(topic, ["a", "b"])
    (first, _) = client.poll_records(topic)
    assert len(client.poll_records(topic, from_time_ms=first.timestamp_ms)) == 2
    assert client.poll_records(topic, from_time_ms=first.timestamp_ms + 3_600_000) == []
    with pytest.raises(InvalidParameter, match="exclude each other"):
        client.poll_records(topic, from_offset=0, from_time_ms=0)


def test_a_waiting_poll_is_answered_by_a_post(client: Client, url: str, topic: str) -> None:
    client.create_topic(topic)
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.extend(r.text for r in client.poll_records(topic, timeout_s=20)))
    waiting.start()
    with Client(url) as other:
        other.post_record(topic, "now")
    waiting.join(15)
    assert found == ["now"]


@pytest.mark.parametrize("timeout_s", [-1, 61])
def test_a_wait_outside_the_contract_is_refused(client: Client, timeout_s: float) -> None:
    with pytest.raises(InvalidParameter, match="timeout_s"):
        client.poll_records("t", timeout_s=timeout_s)


def test_a_stream_ends_where_the_log_ended_when_it_began(client: Client, topic: str) -> None:
    client.post_records(topic, [str(number) for number in range(10)])
    seen = []
    for record in client.stream(topic, page_records=3, from_offset=1):
        seen.append(record.offset)
        client.post_record(topic, "more")
    assert seen == [*range(1, 10)]


def test_a_stream_that_follows_gives_what_comes_later(client: Client, topic: str) -> None:
    client.post_record(topic, "0")
    stream = client.stream(topic, follow=True, wait_s=5)
    assert next(stream).text == "0"
    for number in range(1, 5):
        client.post_record(topic, str(number))
        assert next(stream).text == str(number)


def test_lines_come_whole_and_say_where_they_end(client: Client, many: str) -> None:
    reader = client.read_lines(many)
    chunks = [*reader]
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    assert numbers(b"".join(chunks)) == [*range(MANY)]
    assert (reader.next_offset, reader.high_water_mark) == (MANY, MANY)


def test_lines_end_where_the_log_ended_when_they_began() -> None:
    pages = LinePages(
        "t", group=None, from_offset=0, from_time_ms=None, max_records=None, follow=False, wait_s=0
    )  # no network: a log that grows meanwhile
    for asked, next_offset, end in ((10_000, 10_000, 10_500), (500, 10_500, 13_000)):
        request = pages.next_request()
        assert request is not None
        assert f"max_records={asked}&" in request.path
        pages.begin(Answer(200, {"x-next-offset": str(next_offset), "x-high-water-mark": str(end)}))
        pages.ended()
    assert pages.next_request() is None


def test_lines_can_be_a_part(client: Client, many: str) -> None:
    reader = client.read_lines(many, from_offset=7, max_records=10_010)
    assert numbers(b"".join(reader)) == [*range(7, 10_017)]
    assert reader.next_offset == 10_017
    assert [*client.read_lines(many, max_records=0)] == []
    assert [*client.read_lines(many, from_offset=MANY)] == []


def test_lines_can_begin_where_a_group_stands(client: Client, many: str, group: str) -> None:
    client.create_consumer_group(group)
    client.commit_offset(group, many, MANY - 2)
    assert numbers(b"".join(client.read_lines(many, group=group))) == [MANY - 2, MANY - 1]


@pytest.mark.parametrize("after_bytes", [0, 10, 400, 100_000, 300_001])
def test_lines_go_on_after_a_lost_connection_without_gap_and_without_repetition(
    server: Process, many: str, after_bytes: int
) -> None:
    with cutting(server.port, cuts=4, to=b"GET", after_bytes=after_bytes) as proxy:
        with Client(proxy.url, backoff=SOON) as through:
            assert numbers(b"".join(through.read_lines(many))) == [*range(MANY)]
        assert proxy.cuts == 0


def test_async_lines_go_on_after_a_lost_connection(server: Process, many: str) -> None:
    async def read(url: str) -> bytes:
        async with AsyncClient(url, backoff=SOON) as through:
            return b"".join([chunk async for chunk in through.read_lines(many)])

    with cutting(server.port, cuts=3, to=b"GET", after_bytes=200_000) as proxy:
        assert numbers(asyncio.run(read(proxy.url))) == [*range(MANY)]
        assert proxy.cuts == 0


def test_lines_that_bring_nothing_any_more_end_with_the_error(server: Process, many: str) -> None:
    with cutting(server.port, cuts=100, to=b"GET", after_bytes=0) as proxy:
        with Client(proxy.url, retries=2, backoff=SOON) as through, pytest.raises(ConnectionFailed):
            next(iter(through.read_lines(many)))
        assert proxy.cuts == 97


def anew(client: Client, topic: str) -> None:
    """The topic has one record now."""
    client.delete_topic(topic)
    client.post_record(topic, "new")


def went_to(offset: int) -> Any:
    return pytest.raises(OffsetOutOfRange, match=f"ends at offset 1, and went to {offset} before")


def fill(client: Client, topic: str, count: int) -> None:
    for first in range(0, count, 1000):
        client.post_records(topic, [b""] * min(count - first, 1000))


def test_lines_of_a_log_that_becomes_shorter_end_with_an_error(client: Client, topic: str) -> None:
    fill(client, topic, 10_500)
    lines = iter(client.read_lines(topic))
    seen = 0
    while seen < 10_000:  # as many as an answer has
        seen += next(lines).count(b"\n")
    anew(client, topic)
    with went_to(10_500):
        next(lines)


def test_lines_that_follow_a_log_that_becomes_shorter_end_with_an_error(client: Client, topic: str) -> None:
    fill(client, topic, 3)
    lines = iter(client.read_lines(topic, follow=True, wait_s=0.05))
    assert next(lines).count(b"\n") == 3
    anew(client, topic)
    with went_to(3):
        next(lines)


def test_lines_of_a_group_beyond_the_end_end_with_an_error() -> None:
    pages = LinePages("t", group="g", from_offset=None, from_time_ms=None, max_records=None, follow=False, wait_s=0)
    pages.begin(Answer(200, {"x-next-offset": "9", "x-high-water-mark": "3"}))  # no network: a log that lost records
    assert (pages.ends_early, pages.went_to) == (True, 9)


def test_lines_may_wait_for_an_offset_beyond_the_end(client: Client, topic: str) -> None:
    fill(client, topic, 2)
    lines = iter(client.read_lines(topic, from_offset=4, follow=True, wait_s=0.05))
    later = threading.Timer(0.3, lambda: fill(client, topic, 3))
    later.start()
    assert json.loads(next(lines))["offset"] == 4
    later.join()


@pytest.mark.parametrize("follow", [False, True])
def test_a_stream_of_a_log_that_becomes_shorter_ends_with_an_error(client: Client, topic: str, follow: bool) -> None:
    fill(client, topic, 9)
    records = client.stream(topic, page_records=5, follow=follow, wait_s=0.05)
    assert [next(records).offset for _ in range(5)] == [*range(5)]
    anew(client, topic)
    with went_to(5 if follow else 9):
        next(records)


def test_async_reads_of_a_log_that_becomes_shorter_end_with_an_error(url: str, client: Client, topic: str) -> None:
    async def read() -> None:
        async with AsyncClient(url) as remote:
            lines = aiter(remote.read_lines(topic, follow=True, wait_s=0.05))
            assert (await anext(lines)).count(b"\n") == 9
            records = remote.stream(topic, page_records=5)
            assert [(await anext(records)).offset for _ in range(5)] == [*range(5)]
            anew(client, topic)
            with went_to(9):
                await anext(records)
            with went_to(9):
                await anext(lines)

    fill(client, topic, 9)
    asyncio.run(asyncio.wait_for(read(), 20))


def test_lines_that_follow_wait_for_more(client: Client, topic: str) -> None:
    client.post_record(topic, "0")
    lines = iter(client.read_lines(topic, follow=True, wait_s=5))
    assert numbers(next(lines)) == [0]
    client.post_records(topic, ["1", "2"])
    assert numbers(next(lines)) == [1, 2]


def test_lines_of_a_topic_that_is_not_there_are_refused(client: Client) -> None:
    with pytest.raises(TopicNotFound):
        next(iter(client.read_lines("none")))


def test_a_ready_body_of_lines_is_posted_as_it_is(client: Client, topic: str) -> None:
    posted = client.post_lines(topic, b'{"value":"a"}\n{"value":"b","key":"k"}\n')
    assert (posted.first_offset, posted.last_offset, posted.count) == (0, 1, 2)
    assert [(record.text, record.key) for record in client.poll_records(topic)] == [("a", None), ("b", b"k")]


def test_an_async_stream_gives_all(url: str, many: str) -> None:
    async def read() -> int:
        async with AsyncClient(url) as client:
            return len([record async for record in client.stream(many, page_records=5000)])

    assert asyncio.run(read()) == MANY
