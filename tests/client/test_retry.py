"""When a request is sent again, without a network: requests and pauses come out, answers and failures go in."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from flashq import AsyncClient, Client, Closed, ConnectionFailed, FlashQError, StorageFailed, StorageFull, TopicNotFound
from flashq.api.errors import STATUS, RequestError
from flashq.api.schemas import HealthReport, encode_json
from flashq.client import operations
from flashq.client.errors import GatewayFailed, Overloaded, TooManyConnections, Unauthorized, UnexpectedAnswer, error_of
from flashq.client.exchange import Answer, Request, Steps
from flashq.client.retry import Attempts, Backoff, Pause, talk

LOST = "lost"
REFUSED = "refused"
POSTED = Answer(200, {}, b'{"first_offset":7,"last_offset":7,"count":1}')


class Time:
    """A clock that moves by the pauses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now


def refusal(code: str, retry_after: str | None = None, **details: object) -> Answer:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    body = json.dumps({"error": code, "message": "no", "details": details}).encode()
    return Answer(STATUS.get(code, 503), headers, body)


def run(
    steps: Steps[object], answers: list[Answer | str], *, retries: int = 5, total_s: float = 30.0
) -> tuple[object, Time, list[Request]]:
    """The result, the times slept and the requests sent; the failure is raised, with the same as attributes."""
    time, sent = Time(), []
    backoff = Backoff(first_s=0.1, longest_s=1.0, total_s=total_s, random=lambda: 1.0, clock=time.clock)
    going = talk(steps, retries, backoff)
    said: Answer | ConnectionFailed | None = None
    left = list(answers)
    try:
        while True:
            step = going.send(said)
            if isinstance(step, Pause):
                time.now += step.seconds
                time.pauses.append(step.seconds)
                said = None
            else:
                sent.append(step)
                said = _said(left.pop(0))
    except StopIteration as end:
        assert not left, f"not asked for: {left}"
        return end.value, time, sent
    except FlashQError as error:
        assert not left, f"not asked for: {left}"
        error.add_note(f"{len(sent)} attempts, pauses {time.pauses}")
        raise


def _said(answer: Answer | str) -> Answer | ConnectionFailed:
    if isinstance(answer, Answer):
        return answer
    return ConnectionFailed("no", outcome="unknown" if answer == LOST else "not_applied")


def keyed() -> Steps[object]:
    return operations.post_record("t", "x", idempotency_key="k")


def unkeyed() -> Steps[object]:
    return operations.post_record("t", "x")


def test_waits_double_up_to_the_longest_and_are_random_below() -> None:
    _, time, sent = run(keyed(), [LOST, LOST, LOST, LOST, LOST, POSTED])
    assert time.pauses == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert len(sent) == 6
    assert Backoff(random=lambda: 0.25).wait_s(3) == pytest.approx(0.1)


def test_every_attempt_carries_the_same_key() -> None:
    result, _, sent = run(keyed(), [LOST, POSTED])
    assert result == 7
    assert [each.headers["Idempotency-Key"] for each in sent] == ["k", "k"]


def test_a_post_without_key_is_not_repeated_once_it_may_be_stored() -> None:
    with pytest.raises(ConnectionFailed) as caught:
        run(unkeyed(), [LOST])
    assert caught.value.outcome == "unknown"


def test_a_post_without_key_is_repeated_while_it_never_left() -> None:
    assert run(unkeyed(), [REFUSED, REFUSED, POSTED])[0] == 7


def test_a_refusal_after_a_lost_attempt_leaves_the_outcome_unknown() -> None:
    with pytest.raises(ConnectionFailed) as caught:
        run(keyed(), [LOST, REFUSED], retries=1)
    assert caught.value.outcome == "unknown"
    assert caught.value.message == str(caught.value)
    assert caught.value.message.endswith(". An earlier attempt was lost: whether that was carried out is not known")


def test_a_close_after_a_lost_attempt_leaves_the_outcome_unknown() -> None:
    with flaky_server() as url:
        client = Client(url, sleep=lambda _: client.close())
        with pytest.raises(Closed, match="not known") as caught:
            client.post_record("t", "a")
        assert caught.value.outcome == "unknown"
        with pytest.raises(Closed, match=r"nothing was sent$") as caught:
            client.post_record("t", "a")
        assert caught.value.outcome == "not_applied"


def test_an_async_close_after_a_lost_attempt_leaves_the_outcome_unknown() -> None:
    async def post(url: str) -> None:
        async def close_client(_: float) -> None:
            await client.close()

        client = AsyncClient(url, sleep=close_client)
        with pytest.raises(Closed) as caught:
            await client.post_record("t", "a")
        assert caught.value.outcome == "unknown"

    with flaky_server() as url:
        asyncio.run(post(url))


@contextmanager
def flaky_server() -> Iterator[str]:
    """Takes a request and goes away without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_retry_after_is_a_lower_bound() -> None:
    assert run(keyed(), [refusal("storage_full", "3"), POSTED])[1].pauses == [3.0]
    assert run(keyed(), [refusal("overloaded", "0"), POSTED])[1].pauses == [0.1]


def test_it_ends_after_the_retries() -> None:
    with pytest.raises(StorageFull) as caught:
        run(keyed(), [refusal("storage_full")] * 3, retries=2)
    assert caught.value.__notes__ == ["3 attempts, pauses [0.1, 0.2]"]


def test_it_ends_before_a_wait_that_goes_past_the_total_time() -> None:
    with pytest.raises(Overloaded) as caught:
        run(keyed(), [refusal("overloaded", "20"), refusal("overloaded", "20")], total_s=30)
    assert caught.value.__notes__ == ["2 attempts, pauses [20.0]"]


def test_the_retries_last_as_long_as_the_documentation_says() -> None:
    assert lasts_s(retries=5, random=1.0) == pytest.approx(3.1)
    assert 25 < lasts_s(retries=20, random=0.5) <= 30
    assert 25 < lasts_s(retries=20, random=1.0) <= 30


def lasts_s(*, retries: int, random: float) -> float:
    """How long a client with the usual waits tries to connect."""
    time = Time()
    attempts = Attempts(next(keyed()), retries, Backoff(random=lambda: random, clock=time.clock))
    with suppress(ConnectionFailed):
        while True:
            time.now += attempts.failed(_said(REFUSED)).seconds
    return time.now


def test_what_does_not_pass_by_itself_is_not_tried_again() -> None:
    for code, kind in (("topic_not_found", TopicNotFound), ("unauthorized", Unauthorized)):
        with pytest.raises(kind):
            run(operations.describe_topic("t"), [refusal(code)])


def test_deleting_is_not_repeated_once_it_may_be_done_but_while_it_never_left() -> None:
    with pytest.raises(ConnectionFailed):
        run(operations.delete_topic("t"), [LOST])
    run(operations.delete_topic("t"), [REFUSED, Answer(204, {})])
    with pytest.raises(ConnectionFailed):
        run(operations.reset_offset("g", "t", "latest"), [LOST])
    run(operations.commit_offset("g", "t", 1), [LOST, Answer(200, {})])


@pytest.mark.parametrize("code", [code for code in STATUS if code != "internal_error"])
def test_every_code_of_the_contract_comes_back_as_itself_with_details_and_outcome(code: str) -> None:
    answer = refusal(code, outcome="unknown", topic="t", offset=3)
    error = error_of(answer.status, answer.body, is_write=True)
    assert (error.code, error.details, error.outcome) == (code, {"topic": "t", "offset": 3}, "unknown")
    assert isinstance(error, RequestError) or type(error).code == code


def test_the_outcome_of_a_failed_storage_is_told() -> None:
    with pytest.raises(StorageFailed) as caught:
        run(keyed(), [refusal("storage_failed", outcome="unknown")])
    assert caught.value.outcome == "unknown"


@pytest.mark.parametrize(
    ("status", "body", "kind", "outcome"),
    [
        (502, b"<html>bad gateway", GatewayFailed, "unknown"),
        (429, b"slow down", GatewayFailed, "not_applied"),
        (404, b"<html>not here", UnexpectedAnswer, "not_applied"),
        (302, b"", UnexpectedAnswer, "unknown"),
        (200, b"hello", UnexpectedAnswer, "unknown"),
    ],
)
def test_an_answer_that_is_not_flashqs_says_so(status: int, body: bytes, kind: type[FlashQError], outcome: str) -> None:
    with pytest.raises(kind, match="is this the address of a FlashQ server") as caught:
        run(keyed(), [Answer(status, {}, body)], retries=0)
    assert type(caught.value) is kind
    assert (caught.value.outcome, caught.value.details) == (outcome, {"status": status})


def test_a_refusal_in_the_middle_of_an_operation_can_be_the_answer_it_looks_for() -> None:
    made: Callable[[], Steps[object]] = lambda: operations.create_topic("t", retention_ms=1)  # noqa: E731
    assert run(made(), [refusal("topic_not_found"), Answer(201, {})])[0] is True
    assert run(made(), [Answer(200, {})])[0] is False


def test_an_error_with_a_status_that_health_answers_with_is_an_error() -> None:
    full = refusal("too_many_connections", "1")
    with pytest.raises(TooManyConnections) as caught:
        run(operations.health(), [full, full], retries=1)
    assert caught.value.__notes__ == ["2 attempts, pauses [1.0]"]
    report = HealthReport("unhealthy", "flashq", 1, "0.1.0", 1.0, 3, 0, ["the disk"])
    assert run(operations.health(), [full, Answer(503, {}, encode_json(report))])[0] == report
