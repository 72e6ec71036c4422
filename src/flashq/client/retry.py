"""When a request is sent again: what passes by itself, and lost connections where a repetition does no harm.

The waits grow exponentially and are drawn at random below their bound, so that clients that failed together do not
come back together; `Retry-After` is a lower bound. Clock and randomness come from outside.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from flashq.client.errors import ConnectionFailed, error_of, is_error
from flashq.client.exchange import Answer, Request, Steps
from flashq.errors import Closed, FlashQError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a retry, in seconds: up to `first_s`, then twice that and so on, at most `longest_s`.

    `total_s` bounds the time from the first attempt to the last one's start.
    """

    first_s: float = 0.1
    longest_s: float = 5.0
    total_s: float = 30.0
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def wait_s(self, retry: int, at_least_s: float = 0.0) -> float:
        """Before the `retry`th retry, from 1."""
        bound = min(self.first_s * 2.0 ** min(retry - 1, 60), self.longest_s)
        return max(self.random() * bound, at_least_s)


def new_idempotency_key() -> str:
    """A key nobody else has."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait that is to be slept."""

    seconds: float


Talk: TypeAlias = Generator[Request | Pause, Answer | ConnectionFailed | Closed | None, T]
"""What a client performs: sends a request and says its answer or why there is none, or sleeps."""

_LOST = ". An earlier attempt was lost: whether that was carried out is not known"


def talk(steps: Steps[T], retries: int, backoff: Backoff) -> Talk[T]:
    """The operation, each of its requests retried. Raises what the server refused, or `ConnectionFailed`."""
    try:
        request = next(steps)
        while True:
            try:
                answer = yield from _attempts(request, retries, backoff)
            except FlashQError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def _attempts(request: Request, retries: int, backoff: Backoff) -> Talk[Answer]:
    attempts = Attempts(request, retries, backoff)
    while True:
        answer = yield request
        if isinstance(answer, Answer) and _is_good(request, answer):
            return answer
        assert answer is not None
        yield attempts.failed(answer)


def _is_good(request: Request, answer: Answer) -> bool:
    """Whether it is an answer of the operation. An error may have a status of these: 503, of /health."""
    return answer.status in request.operation.answers and not (answer.status >= 400 and is_error(answer.body))


class Attempts:
    """The attempts at one request."""

    def __init__(self, request: Request, retries: int, backoff: Backoff) -> None:
        self._request = request
        self._retries = retries
        self._backoff = backoff
        self._started = backoff.clock()
        self._failures = 0
        self._maybe_done = False

    def failed(self, answer: Answer | ConnectionFailed | Closed) -> Pause:
        """How long to wait before the next attempt. Raises the error if there is to be none."""
        error, at_least_s = _error_in(self._request, answer)
        self._failures += 1
        self._maybe_done |= error.outcome == "unknown"
        if self._maybe_done and error.outcome != "unknown":
            error.outcome = "unknown"  # the last attempt did nothing, an earlier one may have
            error.message += _LOST
            error.args = (error.message,)
        wait_s = self._backoff.wait_s(self._failures, at_least_s)
        if not self._may_repeat(error, wait_s):
            raise error
        return Pause(wait_s)

    def _may_repeat(self, error: FlashQError, wait_s: float) -> bool:
        if not error.retriable or self._failures > self._retries:
            return False
        if self._maybe_done and not self._request.repeatable:
            return False
        return self._backoff.clock() - self._started + wait_s <= self._backoff.total_s


def _error_in(request: Request, answer: Answer | ConnectionFailed | Closed) -> tuple[FlashQError, float]:
    """The error, and the seconds the server asks to wait."""
    if not isinstance(answer, Answer):
        return answer, 0.0
    retry_after = answer.headers.get("retry-after", "")
    seconds = float(retry_after) if retry_after.isdecimal() else 0.0
    return error_of(answer.status, answer.body, is_write=request.is_write), seconds
