"""Who does the writing and syncing, and when: per event-loop tick in a server, by the caller's thread otherwise.

A `Flusher` serves all journals of a backend: a few threads for what may block (fdatasync, roll), one that watches
the clock for `periodic`, and the list of journals that this tick has to write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from flashq.logging import get_logger
from flashq.storage.backend import Deliver, SyncObserver, deliver_on
from flashq.storage.file.descriptors import Descriptors
from flashq.storage.interface import SyncMode

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from flashq.storage.file.journal import Journal

SYNC_THREADS = 4
"""fdatasync of different files overlap in the kernel; a file has one at a time."""
log = get_logger(__name__)


class Flusher:
    """Sync policy and threads. `sync_interval_s` and the clock are seconds on the monotonic clock."""

    def __init__(
        self,
        mode: SyncMode,
        commit_threshold: int,
        sync_interval_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode = mode
        self.commit_threshold = commit_threshold
        self.sync_interval_s = sync_interval_s
        self.clock = clock
        self.on_sync: SyncObserver | None = None
        self._threads = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="flashq-sync")
        self.descriptors = Descriptors(self._threads.submit)
        self._call_soon: Deliver | None = None
        self._on_loop: Deliver | None = None
        self._loop_thread = 0
        self._tick: list[Journal] = []
        self.together = _Together(self)
        self.is_held = False  # `together` will write
        self._watched: list[tuple[float, int, Journal]] = []  # a heap, by deadline
        self._watch_number = count()
        self._watch_changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._closed = False

    def drive_from_loop(self, loop: AbstractEventLoop) -> None:
        """Write at the end of each tick of this thread's event loop, sync there if it can be, run callbacks there."""
        self._call_soon, self._on_loop = loop.call_soon, deliver_on(loop)
        self._loop_thread = threading.get_ident()

    def appended(self, journal: Journal) -> None:
        """A journal has something to write."""
        if journal.in_tick or self._call_soon is None or not self.is_loop_thread():
            return  # off the loop, whoever waits for it, or asks to be called back, does the work
        journal.in_tick = True
        if not self._tick and not self.is_held:
            self._call_soon(self.write_tick)
        self._tick.append(journal)

    def is_loop_thread(self) -> bool:
        """Whether the caller is on the event loop that writes."""
        return threading.get_ident() == self._loop_thread

    def submit(self, journal: Journal) -> None:
        """Have the loop or a thread write and sync this journal until nothing is asked of it."""
        if journal.claim_worker() and not (self.is_loop_thread() and journal.begin_sync()):
            self.submit_to_thread(journal)

    def submit_to_thread(self, journal: Journal) -> None:
        """Hand over the work on a journal, which the caller has claimed."""
        try:
            self._threads.submit(journal.work)
        except RuntimeError:  # closing: `Journal.close` does the rest
            journal.release_worker()

    def synced(self, begun: float, records: int) -> None:
        """Tell `on_sync` of a sync that began then (`clock`) and has made `records` durable."""
        if self.on_sync is not None:
            self.on_sync(self.clock() - begun, records)

    def deliver(self, run: Callable[[], None]) -> None:
        """Run callbacks where callers expect them: on the loop if there is one, else here."""
        if self._on_loop is None or self.is_loop_thread():
            try:
                run()
            except Exception:  # a mistake of theirs: whoever is told next waits for it
                log.exception("callback_failed")
        else:
            self._on_loop(run)

    def watch(self, journal: Journal, deadline: float) -> None:
        """Ask the journal at this time (`clock`) whether a sync is due. Wakes nobody unless it is the next deadline."""
        with self._watch_changed:
            heappush(self._watched, (deadline, next(self._watch_number), journal))
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="flashq-interval", daemon=True)
                self._watcher.start()
            elif self._watched[0][2] is journal:
                self._watch_changed.notify()

    def close(self) -> None:
        """Stop the threads; every journal has been closed before."""
        with self._watch_changed:
            self._closed = True
            self._watch_changed.notify()
        if self._watcher is not None:
            self._watcher.join()
        self._threads.shutdown()

    def write_tick(self) -> None:
        """Write what has been appended since the last time."""
        tick, self._tick = self._tick, []
        for journal in tick:
            journal.in_tick = False
            try:
                journal.write()
            except Exception:  # whoever posts to the others waits for an answer too
                log.exception("write_failed", what=journal.what)

    def _watch(self) -> None:
        while (due := self._wait_for_due()) is not None:
            for journal in due:
                later = journal.due()
                if later is None:
                    self.submit(journal)
                else:
                    self.watch(journal, later)

    def _wait_for_due(self) -> list[Journal] | None:
        """The journals whose deadline has passed; None when closing. Journals call `watch` under their own lock,
        so nothing of theirs is called under this one."""
        with self._watch_changed:
            while not self._closed:
                now = self.clock()
                due: list[Journal] = []
                while self._watched and self._watched[0][0] <= now:
                    due.append(heappop(self._watched)[2])
                if due:
                    return due
                self._watch_changed.wait(self._watched[0][0] - now if self._watched else None)
            return None


class _Together:
    """`StorageBackend.together`: a block that writes at its end, and saves the loop a turn."""

    __slots__ = ("_flusher",)

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher

    def __enter__(self) -> None:
        self._flusher.is_held = True

    def __exit__(self, *_: object) -> None:
        self._flusher.is_held = False
        self._flusher.write_tick()
