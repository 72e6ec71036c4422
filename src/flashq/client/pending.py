"""Records on their way through a producer: when they make a batch, and how many there may be. No I/O, no locks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from flashq.client.operations import at_least
from flashq.errors import InvalidParameter

F = TypeVar("F")

DEFAULT_BATCH_RECORDS = 500
DEFAULT_BATCH_BYTES = 1024 * 1024
DEFAULT_PENDING_RECORDS = 50_000
DEFAULT_PENDING_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of a batch, and of what has been sent and is not stored yet. Bytes are those of the lines."""

    linger_ms: float
    batch_size: int
    batch_bytes: int
    max_pending_records: int
    max_pending_bytes: int

    def __post_init__(self) -> None:
        if not 0 <= self.linger_ms < inf:
            raise InvalidParameter(f"linger_ms is {self.linger_ms}; it must be 0 or more", parameter="linger_ms")
        for name in ("batch_size", "batch_bytes", "max_pending_records", "max_pending_bytes"):
            at_least(name, getattr(self, name), 1)
        if self.batch_size > 1000:
            raise InvalidParameter(
                f"batch_size is {self.batch_size}; a post has at most 1000 records", parameter="batch_size"
            )


@dataclass(frozen=True, slots=True)
class PendingBatch(Generic[F]):
    """Records that are posted together: the body of the post, and the future of each."""

    body: bytes
    futures: list[F]
    taken: int  # records taken for it, those cancelled among them


class Pending(Generic[F]):
    """What has been sent and is not settled, in order. Times are those of the caller's clock, in seconds."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._waiting: deque[tuple[bytes, F, float]] = deque()
        self._waiting_bytes = 0
        self._records = 0  # waiting or in flight
        self._bytes = 0
        self.sent = 0
        self.settled = 0
        self._wanted = 0  # what was sent before this number is not to linger

    def has_room(self, line: bytes) -> bool:
        """Whether one more may be sent now. A record over all bounds may when it is alone."""
        bounds = self._bounds
        return self._records == 0 or (
            self._records < bounds.max_pending_records and self._bytes + len(line) <= bounds.max_pending_bytes
        )

    def add(self, line: bytes, future: F, now: float) -> bool:
        """The next record; whether the one who posts has to look anew at when a batch is due."""
        self._waiting.append((line, future, now))
        self._waiting_bytes += len(line)
        self._records += 1
        self._bytes += len(line)
        self.sent += 1
        return len(self._waiting) == 1 or self._is_full()

    def hurry(self) -> int:
        """What has been sent so far does not linger; how many that were."""
        self._wanted = self.sent
        return self.sent

    def due_in(self, now: float) -> float | None:
        """Seconds until a batch is to be posted: 0 or less is now; None if nothing waits."""
        if not self._waiting:
            return None
        if self._is_full() or self.sent - len(self._waiting) < self._wanted:
            return 0.0
        return self._waiting[0][2] + self._bounds.linger_ms / 1000 - now

    def take(self, claim: Callable[[F], bool]) -> PendingBatch[F]:
        """The next batch, of at least one record; those whose future cannot be claimed any more are left out."""
        lines: list[bytes] = []
        futures: list[F] = []
        size = taken = cancelled_bytes = 0
        while self._waiting and taken < self._bounds.batch_size:
            line, future, _ = self._waiting[0]
            if taken and size + len(line) > self._bounds.batch_bytes:
                break
            self._waiting.popleft()
            taken += 1
            if claim(future):
                lines.append(line)
                futures.append(future)
                size += len(line)
            else:
                cancelled_bytes += len(line)
        self._waiting_bytes -= size + cancelled_bytes
        self._bytes -= cancelled_bytes
        return PendingBatch(b"".join(lines), futures, taken)

    def settle(self, batch: PendingBatch[F]) -> None:
        """A batch has been stored or has failed: its room is free."""
        self._records -= batch.taken
        self._bytes -= len(batch.body)
        self.settled += batch.taken

    def _is_full(self) -> bool:
        return len(self._waiting) >= self._bounds.batch_size or self._waiting_bytes >= self._bounds.batch_bytes
