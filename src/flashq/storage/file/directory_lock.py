"""One process per data directory: flock on `.flashq.lock`.

The kernel lets go of the lock when its holder dies, so a kill -9 needs no cleaning up. The PID inside is for the
message only and never a reason to take the lock from somebody.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flashq.errors import DataCorruption, DirectoryLocked
from flashq.storage.file.disk import Disk, OpenFile

LOCK_NAME = ".flashq.lock"
_TRIES = 5
_BETWEEN_TRIES_S = 0.02


class DirectoryLock:
    """Held from construction to `release`. Raises `DirectoryLocked` within 0.1 s, having changed nothing."""

    def __init__(self, data_dir: str, disk: Disk) -> None:
        self.path = os.path.join(data_dir, LOCK_NAME)
        file = disk.open(self.path, create=True, write=True)
        for _ in range(_TRIES):
            if _try_lock(file):
                break
            time.sleep(_BETWEEN_TRIES_S)  # it may be held for a moment by `check_not_locked`
        else:
            raise _locked(data_dir, file)
        os.ftruncate(file.fd, 0)
        os.pwrite(file.fd, b"%d\n" % os.getpid(), 0)
        self._file: OpenFile | None = file

    def release(self) -> None:
        """Let go; does nothing the second time. Closing alone would not do: a forked child has the descriptor too."""
        if self._file is not None:
            fcntl.flock(self._file.fd, fcntl.LOCK_UN)
            self._file = None


def check_not_locked(data_dir: str) -> None:
    """Raise `DirectoryLocked` now rather than when the directory is opened. Makes and changes nothing.

    What is wrong with the lock file otherwise is said when the directory is opened.
    """
    path = os.path.join(data_dir, LOCK_NAME)
    try:
        file = Disk().open(path, write=True)
    except (OSError, DataCorruption):
        return
    if not _try_lock(file, fcntl.LOCK_SH):  # shared: others that only look are no holders
        raise _locked(data_dir, file)
    fcntl.flock(file.fd, fcntl.LOCK_UN)


@contextmanager
def kept_closed(data_dir: str) -> Iterator[None]:
    """Nobody can open the directory meanwhile; others may keep it closed too. Makes and changes nothing.

    Raises `DirectoryLocked` if it is open. Where there is no lock file, as in a copy, there is nothing to hold.
    """
    try:
        file = Disk().open(os.path.join(data_dir, LOCK_NAME))
    except FileNotFoundError:
        yield
        return
    if not _try_lock(file, fcntl.LOCK_SH):
        raise _locked(data_dir, file)
    try:
        yield
    finally:
        fcntl.flock(file.fd, fcntl.LOCK_UN)


def _try_lock(file: OpenFile, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file.fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked(data_dir: str, file: OpenFile) -> DirectoryLocked:
    holder = os.pread(file.fd, 32, 0).split(b"\n")[0].decode(errors="replace") or "unknown"
    return DirectoryLocked(
        f"{data_dir} is in use by another FlashQ (process {holder}). Nothing was touched; "
        "stop that process or choose another data directory",
        data_dir=data_dir,
        holder_pid=holder,
    )
