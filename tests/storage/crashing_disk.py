"""Disks under a process that dies, and faults at the nth call."""

from __future__ import annotations

import threading
from typing import Any

from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.recovery import SECTOR_BYTES
from flashq.testing.faulty_disk import Fault, FaultyDisk
from flashq.testing.power_cut import PowerCutDisk


class Crash(BaseException):
    """The process is gone: nothing in the engine catches it."""


class Nth:
    """A fault at the nth call of some operations (from 1), once or from then on."""

    def __init__(self, nth: int, fault: Fault, *operations: str, onwards: bool = False, under: str = "") -> None:
        self.left = nth
        self.fault = fault
        self.operations = operations
        self.onwards = onwards
        self.under = under
        self._lock = threading.Lock()

    def __call__(self, operation: str, path: str) -> Fault | None:
        if operation not in self.operations or self.under not in path:
            return None
        with self._lock:
            self.left -= 1
            return self.fault if self.left == 0 or (self.onwards and self.left < 0) else None

    @property
    def tripped(self) -> bool:
        return self.left <= 0


class CrashingDisk(FaultyDisk):
    """The process dies at its nth changing call (from 1) and at every later one. `half`: a write gets half way, and
    where the file had bytes, whole sectors do."""

    def __init__(self, crash_at: int, *, half: bool = False, **disk: Any) -> None:
        super().__init__(**disk)
        self.crash_at = crash_at
        self.half = half
        self.count = 0
        self.died_at = ""
        self._counting = threading.Lock()

    @property
    def crashed(self) -> bool:
        return self.count >= self.crash_at

    def _ask(self, operation: str, path: str) -> Fault | None:
        with self._counting:
            self.count += 1
            if self.crashed:
                self.died_at = self.died_at or f"{operation} {path}"
                raise Crash(f"{operation} {path}")
        return None

    def write(self, file: OpenFile, data: bytes | bytearray, position: int) -> None:
        already = self.crashed
        try:
            super().write(file, data, position)
        except Crash:
            if self.half and not already:
                stop = position + len(data) // 2
                if stop < self.size(file):
                    stop = max(stop - stop % SECTOR_BYTES, position)
                Disk.write(self, file, data[: stop - position], position)
            raise


class CrashingPowerCutDisk(CrashingDisk, PowerCutDisk):
    """A process that dies on a machine that may lose its power with it."""


def abandon(backend: FileBackend) -> None:
    """Leave a backend as a killed process does: nothing more is written, the kernel takes the lock back."""
    backend._flusher.close()
    backend._directory_lock.release()
