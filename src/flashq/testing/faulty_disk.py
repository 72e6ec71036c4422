"""A disk that fails on demand, and syncs nothing for real."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from flashq.storage.file.disk import Disk, OpenFile
from flashq.storage.file.kernel_sync import Ended


@dataclass(frozen=True)
class Fault:
    """The call fails with this errno; a write has put its first `written` bytes on the disk by then."""

    errno: int
    written: int = 0

    def error(self, path: str | None) -> OSError:
        return OSError(self.errno, os.strerror(self.errno), path)


Decide = Callable[[str, str], Fault | None]


class FaultyDisk(Disk):
    """Asks `decide(operation, path)` before every call that changes or syncs something; it may return a fault.

    Operations: create, write, truncate, sync, sync_directory, mkdir, rename (of the old path), unlink, rmdir.
    """

    def __init__(self, decide: Decide | None = None) -> None:
        self.decide = decide

    def _ask(self, operation: str, path: str) -> Fault | None:
        return self.decide(operation, path) if self.decide is not None else None

    def _before(self, operation: str, path: str, *, is_named: bool = True) -> None:
        """`is_named`: the call is given the path, and its error has it; a call on a descriptor does not."""
        fault = self._ask(operation, path)
        if fault is not None:
            raise fault.error(path if is_named else None)

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OpenFile:
        if create and not os.path.exists(path):
            self._before("create", path)
        return super().open(path, create=create, write=write)

    def write(self, file: OpenFile, data: bytes | bytearray, position: int) -> None:
        fault = self._ask("write", file.path)
        if fault is None:
            super().write(file, data, position)
        else:
            super().write(file, data[: min(fault.written, len(data) - 1)], position)
            raise fault.error(None)

    def truncate(self, file: OpenFile, size: int) -> None:
        self._before("truncate", file.path, is_named=False)
        super().truncate(file, size)

    def sync(self, file: OpenFile) -> None:
        self._before("sync", file.path, is_named=False)

    def begin_sync(self, file: OpenFile, ended: Ended) -> bool:
        return False  # a thread asks `sync`

    def sync_file_system(self, path: str) -> bool:
        return False  # every file is asked for

    def sync_directory(self, path: str) -> None:
        self._before("sync_directory", path, is_named=False)

    def forget_pages(self, file: OpenFile) -> None:
        pass

    def mkdir(self, path: str) -> None:
        self._before("mkdir", path)
        super().mkdir(path)

    def rename(self, old: str, new: str) -> None:
        self._before("rename", old)
        super().rename(old, new)

    def unlink(self, path: str) -> None:
        self._before("unlink", path)
        super().unlink(path)

    def rmdir(self, path: str) -> None:
        self._before("rmdir", path)
        super().rmdir(path)
