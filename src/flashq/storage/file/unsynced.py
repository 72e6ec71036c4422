"""What a journal has written and not synced yet: who waits for a sync, and when one is wanted.

This is where sync modes differ. Under `always` every write waits for a sync; under `periodic` one is wanted after
`commit_threshold` records or `sync_interval_s`, and writes wait for one that is overdue; under `never` one is wanted
only for posts that ask for it.
"""

from __future__ import annotations

from collections.abc import Callable

from flashq.storage.file.flush import Flusher
from flashq.storage.interface import Append

_OVERDUE_INTERVALS = 3  # a sync is due after one; two more, and posts wait for it


class Unsynced:
    """Of one journal, and used under its lock. `is_sync_wanted` is for whoever syncs next to see."""

    __slots__ = ("_flusher", "_is_watched", "_watch", "is_sync_wanted", "records", "since", "waiting")

    def __init__(self, flusher: Flusher, watch: Callable[[float], None]) -> None:
        """`watch(deadline)` has `due` asked then."""
        self.is_sync_wanted = False
        self.waiting: list[Append] = []  # written, done only after a sync
        self.records = 0
        self.since: float | None = None  # monotonic seconds of the first write not yet synced
        self._flusher = flusher
        self._watch = watch
        self._is_watched = False

    def written(self, appends: list[Append], records: int) -> list[Append]:
        """Note what has reached the operating system; the appends that are done with that."""
        self.records += records
        mode = self._flusher.mode
        if mode == "always" or (mode == "periodic" and self._is_overdue()):
            self.waiting += appends
            self.is_sync_wanted = True
            return []
        durable = [append for append in appends if append.durable]
        if not durable:
            return appends
        self.waiting += durable
        self.is_sync_wanted = True
        return [append for append in appends if not append.durable]

    def wait(self, append: Append) -> None:
        """An append of what is written already waits for the next sync."""
        self.waiting.append(append)
        self.is_sync_wanted = True

    def take(self) -> list[Append]:
        """A sync begins: what waits for it. What is written from here on wants another."""
        self.is_sync_wanted = False
        waiting, self.waiting = self.waiting, []
        return waiting

    def put_back(self, waiting: list[Append]) -> None:
        """That sync has not been made: whoever else waits for one makes it."""
        self.waiting = waiting + self.waiting
        self.is_sync_wanted = True

    def synced(self, records: int, since: float | None, begun: float) -> None:
        """A sync that began then (`Flusher.clock`) with so many records unsynced `since` has ended well."""
        self.records -= records
        if self.since == since:
            self.since = None
            if self.records and self._flusher.mode == "periodic":
                self._start_clock(begun)  # what was written while the sync ran is not older than that

    def due(self) -> float | None:
        """Want a sync if the interval has passed for the first write not yet synced. Else when to ask again."""
        since, interval_s = self.since, self._flusher.sync_interval_s
        if since is not None and since + interval_s > self._flusher.clock():
            return since + interval_s
        self._is_watched = False
        self.is_sync_wanted = self.is_sync_wanted or since is not None
        return None

    def _is_overdue(self) -> bool:
        """Start the clock on the first unsynced write, want a sync at the threshold, and tell if one is too late."""
        now = self._flusher.clock()
        since = self.since
        if since is None:
            since = now
            self._start_clock(now)
        if self.records >= self._flusher.commit_threshold:
            self.is_sync_wanted = True
        return now - since > _OVERDUE_INTERVALS * self._flusher.sync_interval_s

    def _start_clock(self, since: float) -> None:
        """There is a write of that moment which is not synced. Watched once, not once a sync: under load there are
        thousands of them, and a thread that wakes for each takes the interpreter from the loop."""
        self.since = since
        if not self._is_watched:
            self._is_watched = True
            self._watch(since + self._flusher.sync_interval_s)
