"""A program moves from embedded to remote by changing one line: the same calls give the same results and errors."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flashq import AsyncClient, Client, FlashQ, FlashQError, Record, RecordWithOffset
from flashq.api.operations import OPERATIONS
from flashq.broker.polled import Polled
from flashq.client import exchange
from tests.server.running import Process, serving

Call = Callable[[Any], object]

SCENARIOS: dict[str, list[Call]] = {
    "post and poll": [
        lambda f: f.post_record("t", "a"),
        lambda f: f.post_records("t", ["b", b"c", Record("d", key="k", headers={"h": "1", "e": ""})]),
        lambda f: f.post_record("t", Record("", key="")),
        lambda f: f.post_record("t", Record(b"\xff\x00", key=b"\xfe")),
        lambda f: f.post_record("t", "Grüße \U0001f600\n\x00"),
        lambda f: f.poll_records("t"),
        lambda f: f.poll_records("t", from_offset=2, count=2),
        lambda f: f.poll_records("t", from_offset=99),
        lambda f: f.poll_records("t", count=0),
        lambda f: f.poll_records("t", max_bytes=0),
        lambda f: f.poll_records("t", max_bytes=4),
        lambda f: f.poll_records("t", from_offset=-1),
        lambda f: f.poll_records("t", from_offset="0"),
        lambda f: f.poll_records("t", count=-1),
        lambda f: f.poll_records("none"),
        lambda f: f.poll_records("none", count=0),
        lambda f: f.poll_records("a/b"),
        lambda f: f.poll_records(".."),
        lambda f: f.high_water_mark("t"),
        lambda f: f.high_water_mark("none"),
    ],
    "bad posts": [
        lambda f: f.post_record("", "a"),
        lambda f: f.post_record("-t", "a"),
        lambda f: f.post_record("t", 5),
        lambda f: f.post_record("t", "\ud800"),
        lambda f: f.post_records("t", "a"),
        lambda f: f.topics(),
    ],
    "conditions": [
        lambda f: f.post_record("t", "a", if_next_offset=1),
        lambda f: f.topics(),
        lambda f: f.post_record("t", "a", if_next_offset=0),
        lambda f: f.post_record("t", "b", if_next_offset=0),
        lambda f: f.post_record("t", "b", if_next_offset=-1),
        lambda f: f.post_records("t", ["b", "c"], idempotency_key="k"),
        lambda f: f.post_records("t", ["b", "c"], idempotency_key="k"),
        lambda f: f.post_records("t", ["b", "x"], idempotency_key="k"),
        lambda f: f.post_record("t", "b", idempotency_key="no spaces"),
        lambda f: f.post_record("t", "b", idempotency_key="ключ"),
        lambda f: f.high_water_mark("t"),
    ],
    "topics": [
        lambda f: f.topics(),
        lambda f: f.create_topic("b"),
        lambda f: f.create_topic("b"),
        lambda f: f.create_topic("a", retention_ms=1000, segment_bytes=2048),
        lambda f: f.create_topic("a", retention_ms=5),
        lambda f: f.create_topic("c", segment_bytes=1),
        lambda f: f.create_topic("c", retention_bytes=-1),
        lambda f: f.configure_topic("a", retention_bytes=10, retention_ms=None),
        lambda f: f.configure_topic("a"),
        lambda f: f.configure_topic("a", retention_ms=-1),
        lambda f: f.configure_topic("none", retention_ms=1),
        lambda f: f.topics(),
        lambda f: f.delete_topic("a"),
        lambda f: f.delete_topic("a"),
        lambda f: f.topics(),
    ],
    "groups": [
        lambda f: f.post_records("t", ["a", "b", "c"]),
        lambda f: f.create_consumer_group("g"),
        lambda f: f.create_consumer_group("g"),
        lambda f: f.create_consumer_group("g/h"),
        lambda f: f.consumer_groups(),
        lambda f: f.consumer_group_offset("g", "t"),
        lambda f: f.consumer_group_offset("g", "none"),
        lambda f: f.consumer_group_offset("none", "t"),
        lambda f: f.poll_records_for_consumer_group("g", "t"),
        lambda f: f.commit_offset("g", "t", 2, "a note"),
        lambda f: f.commit_offset("g", "t", 4),
        lambda f: f.commit_offset("g", "t", -1),
        lambda f: f.commit_offset("g", "t", "1"),
        lambda f: f.commit_offset("none", "t", 1),
        lambda f: f.consumer_group_offset("g", "t"),
        lambda f: f.poll_records_for_consumer_group("g", "t"),
        lambda f: f.poll_records_for_consumer_group("g", "t", count=0),
        lambda f: f.poll_records_for_consumer_group("g", "none"),
        lambda f: f.reset_offset("g", "t", "earliest", dry_run=True),
        lambda f: f.reset_offset("g", "t", "earliest"),
        lambda f: f.reset_offset("g", "t", "latest"),
        lambda f: f.reset_offset("g", "t", "offset", 1),
        lambda f: f.reset_offset("g", "t", "offset", 9),
        lambda f: f.reset_offset("g", "t", "offset"),
        lambda f: f.reset_offset("g", "t", "latest", 1),
        lambda f: f.reset_offset("g", "t", "time", 0),
        lambda f: f.reset_offset("g", "t", "elsewhere"),
        lambda f: f.delete_consumer_group("g"),
        lambda f: f.delete_consumer_group("g"),
        lambda f: f.consumer_groups(),
    ],
    "no records are left": [
        lambda f: f.create_topic("t"),
        lambda f: f.create_consumer_group("g"),
        lambda f: f.poll_records("t"),
        lambda f: f.poll_records_for_consumer_group("g", "t"),
        lambda f: f.poll_records_for_consumer_group("g", "t", count=0),
        lambda f: f.high_water_mark("t"),
    ],
}


class Waited:
    """An AsyncClient whose methods are called without `await`."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url)

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._client, name)
        return lambda *arguments, **named: self._runner.run(method(*arguments, **named))

    def end(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["Client", "AsyncClient"])
def remote(request: pytest.FixtureRequest, empty_server: Process) -> Iterator[Any]:
    url = f"http://127.0.0.1:{empty_server.port}"
    if request.param == "Client":
        with Client(url) as client:
            yield client
    else:
        waited = Waited(url)
        yield waited
        waited.end()


@pytest.fixture
def empty_server(whole_server: Process) -> Process:
    with Client(f"http://127.0.0.1:{whole_server.port}") as client:
        for topic in client.topics():
            client.delete_topic(topic)
        for group in client.consumer_groups():
            client.delete_consumer_group(group)
    return whole_server


@pytest.fixture(scope="module")
def whole_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("same") / "data", "--storage", "memory") as server:
        yield server


def outcome_of(call: Call, subject: object) -> object:
    """What the caller sees, without times."""
    try:
        result = call(subject)
    except FlashQError as error:
        return type(error), error.details, error.outcome
    if isinstance(result, Polled):
        return [_without_time(each) for each in result], result.next_offset, result.high_water_mark, result.lag
    return result


def _without_time(record: RecordWithOffset) -> tuple[object, ...]:
    return record.offset, record.key, record.value, record.headers


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_call_gives_what_the_embedded_one_gives(name: str, remote: Any) -> None:
    with FlashQ() as embedded:
        for number, call in enumerate(SCENARIOS[name]):
            expected = outcome_of(call, embedded)
            assert outcome_of(call, remote) == expected, f"call {number} of {name}"


def test_every_public_method_of_flashq_that_has_a_request_is_there_with_its_parameters() -> None:
    inside = {"open", "append", "apply_retention", "check_new", "commit", "group", "health", "log", "log_or_new"}
    inside |= {"put_topic", "read", "logs", "log_as_it_is"}
    for name, method in inspect.getmembers(FlashQ, inspect.isfunction):
        if name.startswith("_") or name in inside:
            continue
        parameters = inspect.signature(method).parameters
        offered = inspect.signature(getattr(Client, name)).parameters
        assert [*parameters] == [each for each in offered if each in parameters], name


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isroutine)
        return {n: [*inspect.signature(m).parameters] for n, m in methods if not n.startswith("_") or n == "__init__"}

    assert public(Client) == public(AsyncClient)


def test_every_operation_of_the_contract_is_used_but_event_streams_and_metrics(
    remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[str] = set()
    path_of = exchange.Request.method.fget  # type: ignore[attr-defined]

    def noting(request: exchange.Request) -> str:
        used.add(request.operation.id)
        return str(path_of(request))

    monkeypatch.setattr(exchange.Request, "method", property(noting))
    for calls in SCENARIOS.values():
        for call in calls:
            outcome_of(call, remote)
    remote.create_consumer_group("g")
    remote.describe_consumer_group("g")
    assert remote.health().status == "healthy"
    assert remote.openapi()["openapi"] == "3.1.0"
    assert {operation.id for operation in OPERATIONS} - used == {"stream_records", "stream_group", "metrics"}


def test_more_records_than_a_post_takes_are_refused_with_a_hint(remote: Any) -> None:
    with pytest.raises(FlashQError, match="producer") as caught:
        remote.post_records("t", ["x"] * 1001)
    assert caught.value.details == {"field": "records", "max_size": 1000, "actual_size": 1001}
    assert remote.topics() == []


def test_a_header_value_that_is_no_text_is_refused_before_it_is_sent(remote: Any) -> None:
    with pytest.raises(FlashQError, match="not UTF-8"):
        remote.post_record("t", Record("v", headers={"h": b"\xff"}))
    assert remote.topics() == []
