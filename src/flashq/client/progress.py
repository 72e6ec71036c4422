"""Where a consumer stands: what it has polled, handed out, seen completed and committed. No I/O."""

from __future__ import annotations

from collections import deque
from typing import Literal

from flashq.broker.polled import PolledRecords
from flashq.errors import InvalidParameter
from flashq.record import RecordWithOffset

StartAt = Literal["earliest", "latest"]


class Stopped(Exception):
    """The consumer was closed while a record was being worked on."""


class Progress:
    """Offsets are those of the next record: to `poll`, to hand out, to complete, to `commit`."""

    def __init__(self, offset: int, committed: int) -> None:
        self.position = offset
        self._handed = offset
        self.completed = offset
        self.committed = committed
        self._polled: deque[RecordWithOffset] = deque()
        self._in_work: RecordWithOffset | None = None

    def take(self) -> RecordWithOffset | None:
        """The next record that has been polled."""
        if not self._polled:
            return None
        record = self._in_work = self._polled.popleft()
        self._handed = record.offset + 1
        return record

    def give_back(self) -> None:
        """The record handed out last is the next again, unless it is done with."""
        if self._in_work is not None:
            self._polled.appendleft(self._in_work)
            self._handed = self._in_work.offset
            self._in_work = None

    def complete(self) -> None:
        """What has been handed out is done with."""
        self.completed = self._handed
        self._in_work = None

    def fill(self, polled: PolledRecords) -> None:
        """What comes next, when all else has been handed out."""
        self._polled.extend(polled)
        self.position = polled.next_offset

    @property
    def to_commit(self) -> int | None:
        """The offset to commit, if there is something new."""
        return self.completed if self.completed != self.committed else None


def check_start(from_: str) -> None:
    """Raises `InvalidParameter` if this is not where a new group may start."""
    if from_ not in ("earliest", "latest"):
        raise InvalidParameter(f"from_ is {from_!r}; it must be earliest or latest", parameter="from_")
