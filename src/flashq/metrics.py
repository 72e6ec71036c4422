"""What a server counts while it works: plain numbers, read at a scrape (`http/handlers/metrics.py`).

Everything but `Syncs` is counted on the event loop's thread, without a lock. A scrape reads from another thread: it
may see a request in one number and not yet in the next, and never a number that is torn or goes back.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from time import perf_counter

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RECORDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)

NO_OPERATION = "none"
"""The operation of requests that came to none: unknown paths, wrong methods, senders that may not come in."""


class Histogram:
    """Values counted by size: `counts[i]` are above `bounds[i - 1]` and not above `bounds[i]`, the last above all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0  # sum of all values

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[float, int]]:
        """How many values are not above each bound; the last bound is infinity."""
        return list(zip((*self.bounds, float("inf")), accumulate(self.counts.copy()), strict=True))


class Requests:
    """Answered requests of one operation, by status, and how long their answers took."""

    __slots__ = ("by_status", "seconds")

    def __init__(self) -> None:
        self.by_status: defaultdict[int, int] = defaultdict(int)
        self.seconds = Histogram(SECONDS)

    def answered(self, since: float, status: int) -> None:
        """Count an answer to a request that came at `since` (time.perf_counter). Called for every request."""
        self.by_status[status] += 1
        seconds = self.seconds  # `observe`, without the call
        elapsed = perf_counter() - since
        seconds.counts[bisect_left(seconds.bounds, elapsed)] += 1
        seconds.total += elapsed

    def answered_together(self, since: Sequence[float], status: int) -> None:
        """Count answers that are given at the same moment, to requests that came at `since`, in ascending order. Most
        took about the same time, so are counted in one go."""
        self.by_status[status] += len(since)
        now, seconds = perf_counter(), self.seconds
        most = bisect_left(seconds.bounds, now - since[0])
        if most == bisect_left(seconds.bounds, now - since[-1]):
            seconds.counts[most] += len(since)
        else:
            for each in since:
                seconds.counts[bisect_left(seconds.bounds, now - each)] += 1
        seconds.total += now * len(since) - sum(since)


class Volume:
    """Records that went one way, and the bytes they took on the wire."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0

    def add(self, records: int, size: int) -> None:
        self.records += records
        self.bytes += size


class Syncs:
    """Fsyncs of logs. Called by any thread; the lock is taken once for each fsync, which may serve many posts."""

    def __init__(self) -> None:
        self.seconds = Histogram(SECONDS)
        self.records = Histogram(RECORDS)
        self._lock = threading.Lock()

    def add(self, seconds: float, records: int) -> None:
        with self._lock:
            self.seconds.observe(seconds)
            self.records.observe(records)


class Metrics:
    """The counts of one server, all zero at its start."""

    def __init__(self) -> None:
        self.requests: dict[str, Requests] = {NO_OPERATION: Requests()}
        self.posted = Volume()
        self.read = Volume()
        self.syncs = Syncs()

    def of(self, operation: str) -> Requests:
        """The requests of an operation, by its id. To be asked for all before the first scrape."""
        return self.requests.setdefault(operation, Requests())
