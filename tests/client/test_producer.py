"""Producers: order, batches, bounds, failures, and what leaving the `with` block promises."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flashq import AsyncClient, Client, Closed, ConnectionFailed, InvalidParameter, Record, ValidationError
from flashq.client.pending import Bounds, Pending
from flashq.client.retry import Backoff
from tests.client.cutting import cutting
from tests.http.serving import eventually
from tests.server.running import Process

SOON = Backoff(first_s=0.01, longest_s=0.02)
LONG_MS = 600_000.0


def bounds(**changes: float) -> Bounds:
    given = {
        "linger_ms": 5.0,
        "batch_size": 3,
        "batch_bytes": 100,
        "max_pending_records": 10,
        "max_pending_bytes": 1000,
        **changes,
    }
    return Bounds(**given)  # type: ignore[arg-type]


def batch_starts(server: Process, topic: str) -> int:
    """How many different timestamps the records have: batches posted at different times."""
    return len({record["timestamp"] for record in server.read_all(topic)})


class TestPending:
    def setup_method(self) -> None:
        self.pending: Pending[str] = Pending(bounds())

    def take(self, claim: Callable[[str], bool] = lambda _: True) -> list[str]:
        return self.pending.take(claim).futures

    def test_a_batch_is_due_when_it_has_lingered(self) -> None:
        assert self.pending.due_in(0.0) is None
        assert self.pending.add(b"a", "a", 1.0)
        assert not self.pending.add(b"b", "b", 1.004)
        assert self.pending.due_in(1.004) == pytest.approx(0.001)
        assert self.take() == ["a", "b"]
        assert self.pending.due_in(9.0) is None

    def test_a_batch_is_due_when_it_is_full_of_records_or_bytes(self) -> None:
        for name in "abcd":
            self.pending.add(b"x", name, 0.0)
        assert self.pending.due_in(0.0) == 0.0
        assert self.take() == ["a", "b", "c"]
        self.pending.add(b"x" * 99, "e", 0.0)
        assert self.pending.due_in(0.0) == 0.0
        self.pending.add(b"x" * 5, "f", 0.0)
        assert self.take() == ["d", "e"]
        assert self.take() == ["f"]

    def test_a_record_over_the_size_of_a_batch_goes_alone(self) -> None:
        self.pending.add(b"x" * 500, "large", 0.0)
        self.pending.add(b"x", "small", 0.0)
        assert self.take() == ["large"]

    def test_what_was_sent_before_a_hurry_does_not_linger_and_what_comes_after_does(self) -> None:
        self.pending.add(b"a", "a", 0.0)
        assert self.pending.hurry() == 1
        assert self.pending.due_in(0.0) == 0.0
        self.take()
        self.pending.add(b"b", "b", 0.0)
        assert self.pending.due_in(0.0) == pytest.approx(0.005)

    def test_room_is_taken_until_a_batch_is_settled(self) -> None:
        for number in range(10):
            assert self.pending.has_room(b"x")
            self.pending.add(b"x", str(number), 0.0)
        assert not self.pending.has_room(b"x")
        batch = self.pending.take(lambda _: True)
        assert not self.pending.has_room(b"x")
        self.pending.settle(batch)
        assert self.pending.has_room(b"x")
        assert not self.pending.has_room(b"x" * 1000)

    def test_a_record_larger_than_all_room_may_go_when_it_is_alone(self) -> None:
        assert self.pending.has_room(b"x" * 5000)
        self.pending.add(b"x" * 5000, "large", 0.0)
        assert not self.pending.has_room(b"x")

    def test_what_was_cancelled_is_left_out_and_leaves_no_room_behind(self) -> None:
        for name in "abc":
            self.pending.add(b"x" * 30, name, 0.0)
        batch = self.pending.take(lambda name: name != "b")
        assert batch.futures == ["a", "c"]
        assert batch.body == b"x" * 60
        self.pending.settle(batch)
        assert self.pending.settled == 3
        assert self.pending.has_room(b"x" * 1000)


def test_leaving_the_block_stores_everything_in_order(client: Client, topic: str) -> None:
    with client.producer(topic, linger_ms=LONG_MS, batch_size=7) as producer:
        futures = [producer.send(Record(str(number), key="k")) for number in range(100)]
    assert [future.result(0) for future in futures] == [*range(100)]
    assert [record.text for record in client.poll_records(topic)] == [str(number) for number in range(100)]


def test_a_record_is_stored_by_itself_after_lingering(client: Client, topic: str) -> None:
    with client.producer(topic, linger_ms=1) as producer:
        assert producer.send("a").result(20) == 0


def test_records_that_linger_together_share_a_batch(client: Client, server: Process, topic: str) -> None:
    with client.producer(topic, linger_ms=LONG_MS) as producer:
        for number in range(300):
            producer.send(str(number))
    assert batch_starts(server, topic) == 1


def test_flush_stores_what_was_sent_before(client: Client, topic: str) -> None:
    with client.producer(topic, linger_ms=LONG_MS) as producer:
        futures = [producer.send("a"), producer.send("b")]
        producer.flush()
        assert all(future.done() for future in futures)
        assert client.high_water_mark(topic) == 2


def test_send_blocks_while_too_much_is_on_its_way(client: Client, topic: str) -> None:
    gate = threading.Event()
    post_lines = client.post_lines

    def held(*arguments: object, **named: object) -> object:
        gate.wait(20)
        return post_lines(*arguments, **named)  # type: ignore[arg-type]

    client.post_lines = held  # type: ignore[assignment, method-assign]
    sent: list[int] = []
    with client.producer(topic, linger_ms=0, batch_size=5, max_pending_records=20) as producer:

        def send_all() -> None:
            for number in range(50):
                producer.send(str(number))
                sent.append(number)

        thread = threading.Thread(target=send_all)
        thread.start()
        assert eventually(lambda: len(sent) == 20)
        assert producer._pending.sent - producer._pending.settled == 20
        thread.join(0.1)
        assert len(sent) == 20
        gate.set()
        thread.join(20)
    assert [record.text for record in client.poll_records(topic)] == [str(number) for number in range(50)]


def test_a_record_no_post_could_carry_is_refused_and_harms_no_other(client: Client, topic: str) -> None:
    with client.producer(topic, linger_ms=LONG_MS) as producer:
        good = producer.send("good")
        for bad in (Record("v", key="k" * 1025), Record(b"x" * (1024 * 1024 + 1)), "\ud800", 5):
            with pytest.raises(ValidationError):
                producer.send(bad)  # type: ignore[arg-type]
    assert good.result(0) == 0


def test_a_batch_that_fails_fails_its_futures_and_the_next_flush(topic: str) -> None:
    with Client("http://127.0.0.1:1", retries=0) as client:
        producer = client.producer(topic, linger_ms=0)
        future = producer.send("a")
        assert isinstance(future.exception(20), ConnectionFailed)
        with pytest.raises(ConnectionFailed):
            producer.flush()
        producer.flush()  # told once
        with pytest.raises(ConnectionFailed), producer:
            producer.send("b")
        with pytest.raises(Closed):
            producer.send("c")


def test_the_error_of_the_program_is_the_one_that_leaves_the_block(topic: str) -> None:
    def produce() -> None:
        with Client("http://127.0.0.1:1", retries=0) as client, client.producer(topic) as producer:
            producer.send("a")
            raise KeyError

    with pytest.raises(KeyError):
        produce()


def test_a_cancelled_record_is_not_stored(client: Client, topic: str) -> None:
    with client.producer(topic, linger_ms=LONG_MS) as producer:
        kept, dropped, last = (producer.send(text) for text in ("kept", "dropped", "last"))
        assert dropped.cancel()
    assert (kept.result(0), last.result(0)) == (0, 1)
    assert [record.text for record in client.poll_records(topic)] == ["kept", "last"]


def test_batches_whose_answers_are_lost_are_stored_once_and_in_order(
    server: Process, client: Client, topic: str
) -> None:
    with cutting(server.port, cuts=5) as proxy:
        with Client(proxy.url, backoff=SOON) as through, through.producer(topic, batch_size=10) as producer:
            futures = [producer.send(str(number)) for number in range(100)]
        assert proxy.cuts == 0
    assert [future.result(0) for future in futures] == [*range(100)]
    assert [record.text for record in client.poll_records(topic)] == [str(number) for number in range(100)]


@pytest.mark.parametrize(
    "option",
    [
        {"linger_ms": -1},
        {"linger_ms": float("inf")},
        {"batch_size": 0},
        {"batch_size": 1001},
        {"batch_bytes": 0},
        {"max_pending_bytes": 0},
    ],
)
def test_a_bad_option_is_refused(client: Client, option: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        client.producer("t", **option)


def test_an_async_producer_stores_everything_in_order(url: str, client: Client, topic: str) -> None:
    async def produce() -> list[int]:
        async with AsyncClient(url) as remote:
            async with remote.producer(topic, batch_size=7, max_pending_records=20) as producer:
                futures = [await producer.send(str(number)) for number in range(100)]
            return [future.result() for future in futures]

    assert asyncio.run(produce()) == [*range(100)]
    assert [record.text for record in client.poll_records(topic)] == [str(number) for number in range(100)]


def test_an_async_producer_lingers_flushes_and_leaves_out_what_was_cancelled(
    url: str, client: Client, topic: str
) -> None:
    async def produce() -> None:
        async with AsyncClient(url) as remote, remote.producer(topic, linger_ms=1) as producer:
            assert await asyncio.wait_for(await producer.send("a"), 20) == 0
        async with AsyncClient(url) as remote, remote.producer(topic, linger_ms=LONG_MS) as producer:
            dropped = await producer.send("dropped")
            kept = await producer.send("kept")
            dropped.cancel()
            await producer.flush()
            assert kept.result() == 1

    asyncio.run(produce())
    assert [record.text for record in client.poll_records(topic)] == ["a", "kept"]


def test_an_async_batch_that_fails_fails_its_futures_and_the_close(topic: str) -> None:
    async def produce() -> None:
        async with AsyncClient("http://127.0.0.1:1", retries=0) as remote:
            producer = remote.producer(topic)
            future = await producer.send("a")
            with pytest.raises(ConnectionFailed):
                await producer.close()
            assert isinstance(future.exception(), ConnectionFailed)
            with pytest.raises(Closed):
                _ = await producer.send("b")

    asyncio.run(produce())


def test_an_async_producer_whose_task_is_cancelled_tells_everybody(url: str, client: Client, topic: str) -> None:
    async def produce() -> None:
        async with AsyncClient(url) as remote:
            producer = remote.producer(topic, linger_ms=LONG_MS)
            futures = [await producer.send("a"), await producer.send("b")]
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            with pytest.raises(Closed, match="not sent"):
                await asyncio.wait_for(producer.close(), 5)
            assert [type(future.exception()) for future in futures] == [Closed, Closed]
            with pytest.raises(Closed):
                _ = await producer.send("c")
            await asyncio.wait_for(producer.close(), 5)

    asyncio.run(produce())
    assert topic not in client.topics()


def test_an_async_producer_that_is_not_waited_for_any_longer_gives_up(topic: str) -> None:
    async def produce() -> None:
        async with silent_server() as url, AsyncClient(url) as remote:
            producer = remote.producer(topic, linger_ms=0, batch_size=1)
            futures = [await producer.send("a"), await producer.send("b")]
            await asyncio.sleep(0.1)  # the first is under way
            started = asyncio.get_running_loop().time()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await producer.close()
            assert asyncio.get_running_loop().time() - started < 5
            errors = [future.exception() for future in futures]
            assert [error.outcome for error in errors if isinstance(error, Closed)] == ["unknown", "not_applied"]

    asyncio.run(produce())


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Takes requests and never answers."""

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.close()

    async with await asyncio.start_server(read, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
