"""A journal: batches on their way to the active segment. Number early, write together, answer when the promise holds.

    append   number and buffer                           (lock; no system call)
    write    everything buffered, one system call        (lock)
    sync     everything written, one fdatasync           (io lock; writes go on meanwhile)
    roll     to a new active segment, with nothing unsynced left behind

Under `always` an append is done after its sync, in the other modes after its write. Whoever holds `io` syncs for
all that wait for it. When the disk fails, the journal stops: it never retries an fsync, because the kernel may
have dropped the pages and report success the second time ("Can Applications Recover from fsync Failures?",
Rebello and others, ATC 2020).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial

from flashq.batch import Batch
from flashq.errors import Closed, DataCorruption, FlashQError, StorageFailed
from flashq.logging import get_logger
from flashq.storage.file.completion import Sync, call_back, fail, no_room, refused_since, stopped
from flashq.storage.file.disk import NO_DESCRIPTORS, NO_ROOM
from flashq.storage.file.flush import Flusher
from flashq.storage.file.segment import Segment
from flashq.storage.file.unsynced import Unsynced
from flashq.storage.interface import Append, Settler, not_at_end

log = get_logger(__name__)


class Journal(Settler):
    """The write side of one log. `readable` is its high water mark."""

    def __init__(
        self,
        what: str,
        segment: Segment,
        next_offset: int,
        flusher: Flusher,
        *,
        is_full: Callable[[Segment], bool],
        roll: Callable[[Segment, int], Segment],
        epoch: Callable[[int], int],
        on_settled: Callable[[Sequence[Append]], None] | None = None,
        on_advance: Callable[[], None] | None = None,
        topic: str = "",
        makes_room: bool = False,
    ) -> None:
        """`roll(sealed, next_offset)` makes the next active segment, durably; `epoch(offset)` may block once."""
        self.what = what
        self.topic = topic
        self._makes_room = makes_room  # where a sync follows every write (`Segment.append`)
        self.segment = segment
        self.next_offset = self.written_offset = self.durable_offset = self.readable = next_offset
        self.failure: StorageFailed | None = None
        self.lock = threading.Lock()
        self._io = threading.Lock()  # held while syncing and rolling; taken before `lock`
        self._flusher = flusher
        self._is_full, self._roll, self._epoch = is_full, roll, epoch
        self.on_settled, self._on_advance = on_settled, on_advance  # on_settled: under the lock
        self._last_timestamp_ms = segment.max_timestamp_ms or 0
        self._pending: list[Append] = []  # numbered, not written
        self._unsynced = Unsynced(flusher, partial(flusher.watch, self))
        self._followers: dict[Append, list[Append]] = {}  # by the append whose end they share
        self._rolling = False  # the active segment is full: nothing is written to it any more
        self.in_tick = False  # the loop will write at the end of its tick; the flusher's to set
        self._write_wanted = False  # by a worker: nobody else is going to
        self._has_worker = False
        self._closed = False
        self._is_idle = False  # nothing has been written since `rest` was asked the last time
        self._is_resting = True  # without a descriptor, until the next write
        if segment.file is not None:
            self._hold_descriptor()

    # -- appending

    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        """Number the batch and buffer it. `durable` waits for the sync whatever the mode."""
        with self.lock:
            if self._closed:
                raise Closed(f"{self.what} is closed; nothing was stored")
            if self.failure is not None:
                raise refused_since(self.failure)
            if if_next_offset is not None and if_next_offset != self.next_offset:
                raise not_at_end(self.topic, self.next_offset, if_next_offset)
            batch.place(self.next_offset, self._epoch(self.next_offset), self._last_timestamp_ms)
            self._last_timestamp_ms = batch.timestamp_ms
            self.next_offset += batch.count
            append = Append(batch, self, durable=durable)
            self._pending.append(append)
        self._flusher.appended(self)
        return append

    def follow(self, first: Append, durable: bool) -> Append:
        """An append of the batch of `first` that ends as `first` does; `durable` waits for the sync as well."""
        with self.lock:
            if first.done:
                append = self._appended_again(first.batch, durable, first.error)
            else:
                append = Append(first.batch, self, durable=durable)
                self._followers.setdefault(first, []).append(append)
        self._see_to(append)
        return append

    def repeat(self, batch: Batch, durable: bool) -> Append:
        """An append of a stored batch, whose promise holds already; `durable` waits for its sync."""
        with self.lock:
            if self._closed:
                raise Closed(f"{self.what} is closed; nothing was stored")
            append = self._appended_again(batch, durable, None)
        self._see_to(append)
        return append

    def _appended_again(self, batch: Batch, durable: bool, error: FlashQError | None) -> Append:
        append = Append(batch, self, durable=durable, error=error)
        append.done = error is not None or not self._waits_for_sync(append)
        return append

    def _waits_for_sync(self, append: Append) -> bool:
        """Queue a written append for the next sync, unless it has all it asked for or will never have it."""
        if not append.durable or append.batch.next_offset <= self.durable_offset:
            return False
        if self.failure is not None:
            append.error = self.failure
            return False
        self._unsynced.wait(append)
        return True

    def _see_to(self, append: Append) -> None:
        """Have somebody write and sync what this append waits for."""
        if append.done:
            return
        if self._flusher.is_loop_thread():
            self._flusher.appended(self)
        else:
            self._write_wanted = True
            self._flusher.submit(self)

    def settle(self, append: Append) -> None:
        self.write(sync_follows=True)
        if append.done and self._unsynced.is_sync_wanted:
            self._flusher.submit(self)
        while not append.done:
            self.sync()
            if not append.done:
                self.write()  # the thread that was writing it has been interrupted

    def notify(self, append: Append, callback: Callable[[Append], None]) -> None:
        with self.lock:
            done = append.done
            if not done:
                append.callback = callback
        if done:
            callback(append)
        elif not self._flusher.is_loop_thread():  # a loop writes at the end of its tick
            self._write_wanted = True
            self._flusher.submit(self)

    # -- writing

    def write(self, *, sync_follows: bool = False) -> None:
        """Write everything buffered with one system call; done is what needs no more than that. Never syncs.

        A sync that is wanted then is a worker's, unless the caller's own `sync_follows`.
        """
        with self.lock:
            before = self.readable
            done = self._write_pending()
            self._note_done(done)
            moved = self.readable != before
            worker = self._unsynced.is_sync_wanted and not self._has_worker and not sync_follows
        self._deliver(done, moved)
        if worker:
            self._flusher.submit(self)

    def _write_pending(self) -> list[Append]:
        if not self._pending or self._rolling:
            return []
        if self._is_full(self.segment):
            self._rolling = self._unsynced.is_sync_wanted = True
            return []
        self._is_idle = False
        if self._is_resting:
            self._hold_descriptor()
        pending, self._pending = self._pending, []
        try:
            batches = [append.batch for append in pending]
            self.segment.append(batches, make_room=self._makes_room)
        except OSError as error:
            return self._write_failed(pending, error)
        except DataCorruption as error:  # what is in the segment's place is no file of ours: nothing was written
            self._pending = pending
            return self._stop(error, unknown=[])
        except (
            BaseException
        ):  # an interrupt: nothing has been accounted for, so the next write puts them in the same place
            self._pending = pending
            raise
        return self._written(pending)

    def _written(self, written: list[Append]) -> list[Append]:
        """Note what has reached the operating system; the appends that are done with that."""
        records = self.next_offset - self.written_offset
        self.written_offset = self.next_offset
        if self._flusher.mode != "always":
            self.readable = self.written_offset
        return self._unsynced.written(written, records)

    def _write_failed(self, pending: list[Append], error: OSError) -> list[Append]:
        if error.errno in NO_ROOM | NO_DESCRIPTORS:
            try:
                self.segment.cut_back()
            except OSError as cut_error:
                error = cut_error
            else:
                return self._refuse_pending(pending, error)
        return self._stop(error, unknown=pending)

    def _refuse_pending(self, pending: list[Append], error: OSError) -> list[Append]:
        """There is no room; nothing of these was kept, and their offsets go to the next posts."""
        self.next_offset = self.written_offset
        self._flusher.descriptors.run_out()
        return fail(pending, no_room(self.what, error))

    # -- syncing

    def sync(self) -> None:
        """Make everything written so far durable, roll if it is time, and complete what waited for that. Blocks."""
        with self._io:
            sync = self._prepare_sync()
            error: OSError | None = None
            if self.failure is None and sync.is_needed:
                try:
                    if sync.rolling:
                        sync.segment.give_room_back()
                    sync.segment.sync()
                except OSError as caught:
                    error = caught
                except BaseException:  # an interrupt
                    self._put_back(sync)
                    raise
            done = self._finish_sync(sync, error)
            if sync.rolling and self.failure is None:
                done = done + self._roll_over(sync.segment)
            with self.lock:
                moved = self.readable != sync.readable
                # What waited for the roll has been written just now, perhaps with nobody left who would sync it.
                worker = sync.rolling and self._unsynced.is_sync_wanted and not self._has_worker
        self._deliver(done, moved)
        if worker:
            self._flusher.submit(self)

    def begin_sync(self) -> bool:
        """The worker's `sync` on the event loop, which goes on meanwhile. Its thread must not call `sync` then.

        False, and nothing begun, where a thread has to do it: to roll, to write, or since the kernel can't.
        """
        if self._write_wanted or not self._io.acquire(blocking=False):
            return False
        sync = self._prepare_sync()
        begun = not (sync.rolling or self._closed or self.failure is not None) and sync.segment.begin_sync(
            partial(self._end_sync, sync)
        )
        if not begun:
            self._put_back(sync)
            self._io.release()
        return begun

    def _end_sync(self, sync: Sync, error: OSError | None) -> None:
        """On the loop, with `_io` held since `begin_sync`. The next one begins before anybody is told of this one."""
        try:
            done = self._finish_sync(sync, error)
        except BaseException:
            self.release_worker()  # the next write finds another
            raise
        finally:
            self._io.release()
        with self.lock:
            moved = self.readable != sync.readable
            idle = self._has_no_work()
        if not idle and not self.begin_sync():
            self._flusher.submit_to_thread(self)
        self._deliver(done, moved)

    def _put_back(self, sync: Sync) -> None:
        with self.lock:
            self._unsynced.put_back(sync.waiting)

    def _prepare_sync(self) -> Sync:
        """Take what a sync will complete. Under `_io`."""
        with self.lock:
            return Sync(
                segment=self.segment,
                waiting=self._unsynced.take(),
                target=self.written_offset,
                records=self._unsynced.records,
                rolling=self._rolling,
                unsynced_since=self._unsynced.since,
                readable=self.readable,
                begun=self._flusher.clock(),
            )

    def _finish_sync(self, sync: Sync, error: OSError | None) -> list[Append]:
        """Note what a sync has come to; the appends that are done with that. Under `_io`."""
        with self.lock:
            if self.failure is not None:  # a write failed meanwhile
                done = fail(sync.waiting, self.failure)
            elif error is not None:
                done = self._stop(error, unknown=sync.waiting)
            else:
                done = sync.waiting
                self._synced(sync)
            self._note_done(done)
        if sync.is_needed and error is None:
            self._flusher.synced(sync.begun, sync.records)
        return done

    def roll_now(self, active: Segment) -> None:
        """Seal this segment if it is still the active one. Blocks."""
        with self.lock:
            if self._closed or self.segment is not active or self.failure is not None:
                return
            self._rolling = True
        self.sync()

    def _synced(self, sync: Sync) -> None:
        self.durable_offset = sync.target
        if self._flusher.mode == "always":
            self.readable = sync.target
        self._unsynced.synced(sync.records, sync.unsynced_since, sync.begun)

    def _roll_over(self, sealed: Segment) -> list[Append]:
        """Begin a new segment. Nothing is written meanwhile, so that a sealed segment never has an unsynced end."""
        error: OSError | DataCorruption | None = None
        try:
            segment = self._roll(sealed, self.written_offset)
        except (OSError, DataCorruption) as caught:  # DataCorruption: something that is no file of ours is in the way
            error = caught
        with self.lock:
            self._rolling = False
            if error is None:
                self.segment = segment
                self._hold_descriptor()
                done = self._write_pending()
            else:
                pending, self._pending = self._pending, []
                if isinstance(error, OSError) and error.errno in NO_ROOM | NO_DESCRIPTORS:
                    done = self._refuse_pending(pending, error)
                else:
                    done = self._stop(error, unknown=pending)
            self._note_done(done)
        return done

    # -- completing

    def _stop(self, error: OSError | DataCorruption, *, unknown: list[Append]) -> list[Append]:
        """The point of no return: what is on the disk is not known any more. A restart reads it back and goes on."""
        cause = (isinstance(error, OSError) and error.strerror) or str(error)
        self.failure = stopped(self.what, cause)
        log.error("storage_failed", what=self.what, cause=cause, durable_offset=self.durable_offset)
        self.readable = self.durable_offset
        pending, self._pending = self._pending, []
        return fail(unknown + self._unsynced.take(), self.failure) + fail(pending, refused_since(self.failure))

    def _note_done(self, done: list[Append]) -> None:
        """Under the lock: from here on `done` is true and callbacks are fixed."""
        if not done:
            return
        if self._followers:
            done += self._done_with(done)
        for append in done:
            append.done = True
        if self.on_settled is not None:
            self.on_settled(done)

    def _done_with(self, done: list[Append]) -> list[Append]:
        """The followers of these that wait for nothing more."""
        found: list[Append] = []
        for first in done:
            for append in self._followers.pop(first, ()):
                append.error = first.error
                if append.error is not None or not self._waits_for_sync(append):
                    found.append(append)
        return found

    def _deliver(self, done: list[Append], moved: bool) -> None:
        if moved and self._on_advance is not None:
            self._flusher.deliver(self._on_advance)
        if done and [append for append in done if append.callback is not None]:  # a generator takes twice as long
            self._flusher.deliver(partial(call_back, done))

    # -- the worker: at most one thread of the flusher at a time

    def claim_worker(self) -> bool:
        with self.lock:
            if self._has_worker or self._closed:
                return False
            self._has_worker = True
            return True

    def _has_no_work(self) -> bool:
        """Whether the worker is done; then there is none any more. Under the lock."""
        idle = self.failure is not None or not (self._unsynced.is_sync_wanted or self._write_wanted)
        self._has_worker = not idle
        return idle

    def release_worker(self) -> None:
        with self.lock:
            self._has_worker = False

    def work(self) -> None:
        """Do what is wanted until nothing is."""
        try:
            while True:
                if self._write_wanted:
                    self._write_wanted = False
                    self.write()
                if self._unsynced.is_sync_wanted:
                    self.sync()
                with self.lock:
                    if self._has_no_work():
                        return
        except BaseException:
            self.release_worker()  # the next write finds another thread
            log.exception("worker_failed", what=self.what)
            raise

    def due(self) -> float | None:
        """See `Unsynced.due`."""
        with self.lock:
            return self._unsynced.due()

    def _hold_descriptor(self) -> None:
        self._is_resting = False
        self._flusher.descriptors.hold(self)

    def rest(self) -> bool:
        """Let go of the descriptor until the next write, if this log has not been written to since it was asked last.

        Only with everything synced: the kernel tells of a failed write-back to those who had the file open.
        """
        if self._closed:
            return True
        if not self._is_idle:
            self._is_idle = True
            return False
        with self._io, self.lock:
            if self._may_rest():
                with contextlib.suppress(OSError):  # it is asked again
                    self.segment.give_room_back()
        if self.written_offset != self.durable_offset or self.segment.new_end:
            self.sync()
        with self._io, self.lock:
            if not self._may_rest() or self._unsynced.records or not self.segment.is_as_synced:
                return False
            self.segment.file = None
            self._is_resting = True
            return True

    def _may_rest(self) -> bool:
        """Under both locks."""
        return self._is_idle and not (self._pending or self._rolling or self._closed)

    def close(self) -> None:
        """Write and sync what there is, and take no more. Raises `StorageFailed` if that failed."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
        self.write()
        self.sync()
        while self._pending or self._unsynced.records or self._unsynced.waiting:  # a roll was due, or a post repeated
            if self.failure is not None:
                break
            self.write()
            self.sync()
        self._flusher.descriptors.release(self)
        with self._io, self.lock:
            with contextlib.suppress(OSError):  # the next start does it
                self.segment.give_room_back()
            self.segment.close()
        if self.failure is not None:
            raise self.failure
