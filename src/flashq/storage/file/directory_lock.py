"""One process per data directory: flock on `.flashq.lock`.

The kernel lets go of the lock when its holder dies, so a kill -9 needs no cleaning up. The PID inside is for the
message only and never a reason to take the lock from somebody.
"""

from __future__ import annotations

import fcntl
import os

from flashq.errors import DirectoryLocked
from flashq.storage.file.disk import Disk

LOCK_NAME = ".flashq.lock"


class DirectoryLock:
    """Held from construction to `release`. Raises `DirectoryLocked` at once, having changed nothing."""

    def __init__(self, data_dir: str, disk: Disk) -> None:
        self.path = os.path.join(data_dir, LOCK_NAME)
        self._file = disk.open(self.path, create=True, write=True)
        try:
            fcntl.flock(self._file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file.fd, 32, 0).split(b"\n")[0].decode(errors="replace") or "unknown"
            raise DirectoryLocked(
                f"{data_dir} is in use by another FlashQ (process {holder}). Nothing was touched; "
                "stop that process or choose another data directory",
                data_dir=data_dir,
                holder_pid=holder,
            ) from error
        os.ftruncate(self._file.fd, 0)
        os.pwrite(self._file.fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        fcntl.flock(self._file.fd, fcntl.LOCK_UN)
