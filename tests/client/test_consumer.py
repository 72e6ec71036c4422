"""Consumers: what is committed when, and what becomes of records that cannot be handled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from flashq import (
    AsyncClient,
    Client,
    ConnectionFailed,
    InvalidParameter,
    OffsetOutOfRange,
    Record,
    RecordWithOffset,
    TopicNotFound,
)
from flashq.broker.polled import Polled
from flashq.client import dead_letters
from tests.http.serving import eventually


@pytest.fixture
def ten(client: Client, topic: str) -> str:
    """A topic of ten records."""
    client.post_records(topic, [Record(str(number), key=f"k{number}", headers={"h": "1"}) for number in range(10)])
    return topic


def committed(client: Client, group: str, topic: str) -> int:
    return client.consumer_group_offset(group, topic)


def test_it_gives_every_record_and_commits_the_end(client: Client, group: str, ten: str) -> None:
    with client.consumer(group, ten, follow=False, max_records=3) as consumer:
        assert [int(record.text) for record in consumer] == [*range(10)]
    assert committed(client, group, ten) == 10


def test_it_resumes_where_the_group_stands(client: Client, group: str, ten: str) -> None:
    client.create_consumer_group(group)
    client.commit_offset(group, ten, 7)
    with client.consumer(group, ten, follow=False, from_="latest") as consumer:
        assert [int(record.text) for record in consumer] == [7, 8, 9]


def test_a_batch_is_committed_when_the_next_is_asked_for(client: Client, group: str, ten: str) -> None:
    consumer = client.consumer(group, ten, max_records=4)
    seen = [(next(consumer).offset, committed(client, group, ten)) for _ in range(9)]
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 4), (5, 4), (6, 4), (7, 4), (8, 8)]


def test_leaving_the_loop_commits_through_the_record_of_the_moment(client: Client, group: str, ten: str) -> None:
    with client.consumer(group, ten) as consumer:
        for record in consumer:
            if record.offset == 4:
                break
    assert committed(client, group, ten) == 5


def test_a_record_whose_processing_raised_is_not_committed(client: Client, group: str, ten: str) -> None:
    def consume() -> None:
        with client.consumer(group, ten) as consumer:
            for record in consumer:
                failing_at(4)(record)

    with pytest.raises(RuntimeError, match="cannot handle 4"):
        consume()
    assert committed(client, group, ten) == 4
    with client.consumer(group, ten, follow=False) as consumer:
        assert next(consumer).offset == 4


def test_by_hand_only_what_is_committed_by_hand_is(client: Client, group: str, ten: str) -> None:
    with client.consumer(group, ten, auto_commit=False, follow=False, max_records=2) as consumer:
        for record in consumer:
            if record.offset == 5:
                consumer.commit()
    assert committed(client, group, ten) == 6


def test_a_new_group_can_start_at_the_end_and_keeps_that_start(client: Client, group: str, ten: str) -> None:
    with client.consumer(group, ten, from_="latest", follow=False) as consumer:
        assert [*consumer] == []
    client.post_record(ten, "new")
    with client.consumer(group, ten, from_="latest", follow=False) as consumer:
        assert [record.text for record in consumer] == ["new"]


def test_it_follows_until_it_is_closed_from_another_thread(client: Client, url: str, group: str, ten: str) -> None:
    seen: list[int] = []
    consumer = client.consumer(group, ten, wait_s=0.2)

    def consume() -> None:
        with consumer:
            seen.extend(record.offset for record in consumer)

    thread = threading.Thread(target=consume)
    thread.start()
    with Client(url) as other:
        other.post_record(ten, "later")
        assert eventually(lambda: committed_in(other, group) == 11)
    consumer.close()
    thread.join(20)
    assert not thread.is_alive()
    assert seen == [*range(11)]


def committed_in(client: Client, group: str) -> int | None:
    """The only commit of a group, neither of which may be there yet."""
    if group not in client.consumer_groups():
        return None
    topics = client.describe_consumer_group(group).topics
    return topics[0].committed_offset if topics else None


def test_a_topic_that_is_not_there_and_bad_options_are_refused(client: Client, group: str) -> None:
    with pytest.raises(TopicNotFound):
        next(client.consumer(group, "none"))
    with pytest.raises(InvalidParameter, match="from_"):
        client.consumer(group, "t", from_="middle")  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter):
        client.consumer(group, "t" * 252, follow=False).run(print)


def test_a_handler_is_called_again_until_it_takes_the_record(client: Client, group: str, ten: str) -> None:
    calls: list[int] = []

    def handle(record: RecordWithOffset) -> None:
        calls.append(record.offset)
        if record.offset == 3 and calls.count(3) < 3:
            raise RuntimeError("not yet")

    client.consumer(group, ten, follow=False).run(handle, backoff_s=0.001)
    assert calls == [0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9]
    assert committed(client, group, ten) == 10
    assert f"{ten}.dlq" not in client.topics()


def failing_at(offset: int) -> Callable[[RecordWithOffset], None]:
    def handle(record: RecordWithOffset) -> None:
        if record.offset == offset:
            raise RuntimeError(f"cannot handle {record.text}: {'ü' * 1000}")

    return handle


def test_a_record_that_cannot_be_handled_goes_to_the_dead_letters_with_its_story(
    client: Client, group: str, ten: str
) -> None:
    client.consumer(group, ten, follow=False).run(failing_at(3), retries=2, backoff_s=0)
    assert committed(client, group, ten) == 10
    (letter,) = client.poll_records(f"{ten}.dlq")
    assert (letter.value, letter.key) == (b"3", b"k3")
    assert letter.headers is not None
    error = letter.headers.pop("flashq-dlq-error")
    assert error.decode().startswith("RuntimeError: cannot handle 3: üü")
    assert 1022 < len(error) <= 1024
    assert letter.headers.pop("flashq-dlq-timestamp").endswith(b"Z")
    assert letter.headers == {
        "h": b"1",
        "flashq-dlq-topic": ten.encode(),
        "flashq-dlq-offset": b"3",
        "flashq-dlq-group": group.encode(),
        "flashq-dlq-attempts": b"3",
    }


def test_a_dead_letter_posted_before_a_crash_is_not_posted_again(client: Client, group: str, ten: str) -> None:
    record = client.poll_records(ten)[3]
    before = dead_letters.letter_of(record, ten, group, ValueError("the error of that time"), 4)
    client.post_record(f"{ten}.dlq", before, idempotency_key=dead_letters.key_of(record, ten, group))
    client.consumer(group, ten, follow=False).run(failing_at(3), retries=0)
    assert len(client.poll_records(f"{ten}.dlq")) == 1
    assert committed(client, group, ten) == 10


def test_a_topic_made_anew_has_dead_letters_of_its_own(client: Client, group: str, ten: str) -> None:
    client.consumer(group, ten, follow=False).run(failing_at(3), retries=0)
    client.delete_topic(ten)
    client.post_records(ten, [f"other {number}" for number in range(5)])
    client.consumer(group, ten, follow=False).run(failing_at(3), retries=0)
    assert [letter.text for letter in client.poll_records(f"{ten}.dlq")] == ["3", "other 3"]


def test_without_dead_letters_the_error_is_raised_and_the_record_not_committed(
    client: Client, group: str, ten: str
) -> None:
    with pytest.raises(RuntimeError, match="cannot handle 3"):
        client.consumer(group, ten, follow=False).run(failing_at(3), retries=1, backoff_s=0, dead_letter=False)
    assert committed(client, group, ten) == 3


@pytest.mark.parametrize("dead_letter", [False, True])
def test_a_program_that_goes_on_after_a_failed_record_has_not_committed_it(
    client: Client, group: str, ten: str, dead_letter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object, **__: object) -> None:
        raise ConnectionFailed("the dead letter cannot be posted")

    monkeypatch.setattr(client, "post_record", cannot)
    with client.consumer(group, ten, follow=False) as consumer:
        with pytest.raises((RuntimeError, ConnectionFailed)):
            consumer.run(failing_at(3), retries=0, dead_letter=dead_letter)
        assert committed(client, group, ten) == 3
    assert committed(client, group, ten) == 3
    with client.consumer(group, ten, follow=False) as consumer:
        assert next(consumer).offset == 3


def test_the_record_that_failed_is_the_next_of_the_same_consumer(client: Client, group: str, ten: str) -> None:
    with client.consumer(group, ten, follow=False) as consumer:
        with pytest.raises(RuntimeError):
            consumer.run(failing_at(3), retries=0, dead_letter=False)
        assert [record.offset for record in consumer] == list(range(3, 10))
    assert committed(client, group, ten) == 10


def test_an_async_program_that_goes_on_after_a_failed_record_has_not_committed_it(
    url: str, client: Client, group: str, ten: str
) -> None:
    async def handle(record: RecordWithOffset) -> None:
        failing_at(3)(record)

    async def consume() -> None:
        async with AsyncClient(url) as remote, remote.consumer(group, ten, follow=False) as consumer:
            with pytest.raises(RuntimeError):
                await consumer.run(handle, retries=0, dead_letter=False)

    asyncio.run(consume())
    assert committed(client, group, ten) == 3


def test_a_close_between_attempts_leaves_the_record_for_the_next_time(client: Client, group: str, ten: str) -> None:
    consumer = client.consumer(group, ten)

    def handle(record: RecordWithOffset) -> None:
        if record.offset == 3:
            consumer.close()
            raise RuntimeError

    with consumer:
        consumer.run(handle, backoff_s=60)
    assert committed(client, group, ten) == 3
    assert f"{ten}.dlq" not in client.topics()


def test_an_async_consumer_commits_and_closes_at_once(url: str, client: Client, group: str, ten: str) -> None:
    async def consume() -> list[int]:
        seen = []
        async with AsyncClient(url) as remote, remote.consumer(group, ten, max_records=3) as consumer:
            async for record in consumer:
                seen.append(record.offset)
                if record.offset == 9:  # the next poll would wait for 20 s
                    asyncio.get_running_loop().call_later(0.05, consumer.close)
        return seen

    assert asyncio.run(asyncio.wait_for(consume(), 10)) == [*range(10)]
    assert committed(client, group, ten) == 10


def test_a_log_made_anew_that_ends_before_the_consumer_is_told(client: Client, group: str, ten: str) -> None:
    consumer = client.consumer(group, ten, wait_s=0.05)
    assert [next(consumer).offset for _ in range(10)] == [*range(10)]
    consumer.commit()
    client.delete_topic(ten)
    client.post_records(ten, ["new", "newer"])
    with pytest.raises(OffsetOutOfRange, match=f"topic {ten} ends at offset 2, and went to 10 before") as caught:
        next(consumer)
    told = {name: caught.value.details[name] for name in ("topic", "offset", "high_water_mark", "log_start_offset")}
    assert told == {"topic": ten, "offset": 10, "high_water_mark": 2, "log_start_offset": 0}
    with client.consumer(group, ten, follow=False) as again:
        assert [record.text for record in again] == ["new", "newer"]


def test_an_async_consumer_is_told_of_a_log_made_anew(url: str, client: Client, group: str, ten: str) -> None:
    async def consume() -> None:
        async with AsyncClient(url) as remote:
            consumer = remote.consumer(group, ten, wait_s=0.05)
            async for record in consumer:
                if record.offset == 9:
                    await consumer.commit()
                    await remote.delete_topic(ten)
                    await remote.post_record(ten, "new")

    with pytest.raises(OffsetOutOfRange, match=f"topic {ten} ends at offset 1, and went to 10 before"):
        asyncio.run(asyncio.wait_for(consume(), 10))


def test_an_end_that_one_server_of_several_has_not_heard_of_yet_is_none(
    client: Client, group: str, ten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = client.consumer(group, ten, follow=False)
    assert [next(consumer).offset for _ in range(10)] == [*range(10)]
    behind = Polled[RecordWithOffset]([], 10, 7, 0)
    monkeypatch.setattr(client, "poll_records", lambda *_, **__: behind)
    assert [*consumer] == []


def test_an_async_consumer_leaves_a_failed_record_uncommitted(url: str, client: Client, group: str, ten: str) -> None:
    async def consume() -> None:
        async with AsyncClient(url) as remote, remote.consumer(group, ten) as consumer:
            async for record in consumer:
                if record.offset == 4:
                    raise RuntimeError("at 4")

    with pytest.raises(RuntimeError, match="at 4"):
        asyncio.run(consume())
    assert committed(client, group, ten) == 4


def test_an_async_consumer_that_waits_can_be_cancelled(url: str, client: Client, group: str, ten: str) -> None:
    async def consume() -> None:
        async with AsyncClient(url) as remote, remote.consumer(group, ten) as consumer:
            async for _ in consumer:
                pass

    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(), 1)

    asyncio.run(cancel())
    assert committed(client, group, ten) == 10


def test_an_async_handler_is_retried_and_its_failures_become_dead_letters(
    url: str, client: Client, group: str, ten: str
) -> None:
    async def handle(record: RecordWithOffset) -> None:
        failing_at(3)(record)

    async def consume() -> None:
        async with AsyncClient(url) as remote:
            await remote.consumer(group, ten, follow=False).run(handle, retries=1, backoff_s=0.001)

    asyncio.run(consume())
    (letter,) = client.poll_records(f"{ten}.dlq")
    assert letter.headers is not None
    assert (letter.text, letter.headers["flashq-dlq-attempts"]) == ("3", b"2")
    assert committed(client, group, ten) == 10


def test_an_async_close_between_attempts_leaves_the_record(url: str, client: Client, group: str, ten: str) -> None:
    async def consume() -> None:
        async with AsyncClient(url) as remote:
            consumer = remote.consumer(group, ten)

            async def handle(record: RecordWithOffset) -> None:
                if record.offset == 3:
                    consumer.close()
                    raise RuntimeError

            await consumer.run(handle, backoff_s=60)

    asyncio.run(asyncio.wait_for(consume(), 10))
    assert committed(client, group, ten) == 3
