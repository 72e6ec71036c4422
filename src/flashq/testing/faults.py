"""A FlashQ on files whose disk fails, fills up or loses its power when a test says so."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from flashq.broker.flashq import FlashQ
from flashq.errors import StorageFailed
from flashq.storage.file.backend import FileBackend
from flashq.storage.interface import DEFAULT_SEGMENT_BYTES, SyncMode, TopicConfig
from flashq.testing.faulty_disk import Fault
from flashq.testing.power_cut import PowerCutDisk

_SYNCS = frozenset({"sync", "sync_directory"})
_NEEDS_ROOM = frozenset({"create", "mkdir", "write"})
_BROKEN = Fault(errno.EIO)
_NO_ROOM = Fault(errno.ENOSPC)


class Faults:
    """A machine with one disk, and the FlashQ that runs on it: `flashq`, after a crash another one.

    The disk is simulated on real files. Nothing is fsynced for real, so posts cost microseconds, and what a power
    cut takes is known to the byte. Faults hit every thread that uses the FlashQ; call `open` and `crash` from one
    thread, while no other creates or deletes topics and groups.
    """

    flashq: FlashQ

    def __init__(self, directory: str | os.PathLike[str], clock_ms: Callable[[], int]) -> None:
        """Keeps everything in `directory`, which is made if it is not there; `clock_ms` stamps records."""
        self.data_dir = os.path.join(directory, "data")
        self._attic = os.path.join(directory, "removed")
        self._clock_ms = clock_ms
        self._syncs_to_fail = 0
        self._counting = threading.Lock()
        self._full = False
        self._process_died = False
        self._disk = PowerCutDisk(self._attic, self._decide)
        self._running = False
        self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A clean stop on a disk in order."""
        self._end_faults()
        self._stop()

    def open(
        self,
        sync_mode: SyncMode = "always",
        commit_threshold: int = 10,
        sync_interval_s: float = 1.0,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
    ) -> FlashQ:
        """A clean stop and a start on the same files, with the parameters of `FlashQ.open`; the new FlashQ."""
        defaults = TopicConfig(retention_ms=retention_ms, retention_bytes=retention_bytes, segment_bytes=segment_bytes)

        def start() -> FlashQ:
            backend = FileBackend(
                self.data_dir,
                sync_mode=sync_mode,
                commit_threshold=commit_threshold,
                sync_interval_s=sync_interval_s,
                disk=self._disk,
            )
            return FlashQ(backend, topic_defaults=defaults, clock_ms=self._clock_ms)

        if self._running:
            self._stop()
        self._start = start
        self.flashq = start()
        self._running = True
        return self.flashq

    # -- what goes wrong

    def fail_next_fsync(self) -> None:
        """The next fsync, of a file or a directory, reports an I/O error. Called twice: the next two do.

        What waited for it raises `StorageFailed`, outcome "unknown". The log then takes no more posts until `open`
        or `crash` has read back what is on the disk.
        """
        with self._counting:
            self._syncs_to_fail += 1

    def disk_full(self) -> None:
        """From now on, until `make_room`, nothing can be written: posts and commits raise `StorageFull`."""
        self._full = True

    def make_room(self) -> None:
        """The disk takes writes again."""
        self._full = False

    def crash(self, *, power_lost: bool = True) -> FlashQ:
        """The process dies now, and FlashQ starts again on what is left, opened as it was before; the new FlashQ.

        With `power_lost` everything that was not fsynced is gone: the worst a power cut can do. Without, it is a
        `kill -9`: what was written stays. Posts under way raise `StorageFailed`, and the old FlashQ raises `Closed`
        from then on. The new one begins on a disk in order: faults asked for before are over.
        """
        self._process_died = True  # first nothing reaches the disk any more, then threads and directory are let go
        self._stop()
        if power_lost:
            self._disk.cut_power(self.data_dir)
            self._disk = PowerCutDisk(self._attic, self._decide)
        self._end_faults()
        self.flashq = self._start()
        return self.flashq

    def _stop(self) -> None:
        with contextlib.suppress(StorageFailed):  # whoever posted or committed has been told
            self.flashq.close()

    def _end_faults(self) -> None:
        self._full = self._process_died = False
        self._syncs_to_fail = 0

    def _decide(self, operation: str, path: str) -> Fault | None:
        if self._process_died:
            return _BROKEN
        if self._full and operation in _NEEDS_ROOM:
            return _NO_ROOM
        return _BROKEN if operation in _SYNCS and self._fails_now() else None

    def _fails_now(self) -> bool:
        with self._counting:
            fails = self._syncs_to_fail > 0
            self._syncs_to_fail -= fails
        return fails
