"""Disks that fail on demand. They sync nothing for real: what would survive a power cut is kept in the books."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import Disk, OpenFile

MUTATING = frozenset({"create", "write", "truncate", "sync", "sync_directory", "mkdir", "rename", "unlink", "rmdir"})


class Crash(BaseException):
    """The process is gone: nothing in the engine catches it."""


@dataclass(frozen=True)
class Fault:
    """The call fails with this errno; a write has put its first `written` bytes on the disk by then."""

    errno: int
    written: int = 0

    def error(self, path: str) -> OSError:
        return OSError(self.errno, os.strerror(self.errno), path)


Decide = Callable[[str, str], Fault | None]


class FaultyDisk(Disk):
    """Asks `decide(operation, path)` before every call that changes or syncs something; it may return a fault."""

    def __init__(self, decide: Decide | None = None) -> None:
        self.decide = decide
        self.calls: list[tuple[str, str]] = []

    def _ask(self, operation: str, path: str) -> Fault | None:
        self.calls.append((operation, path))
        return self.decide(operation, path) if self.decide is not None else None

    def _before(self, operation: str, path: str) -> None:
        fault = self._ask(operation, path)
        if fault is not None:
            raise fault.error(path)

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
            raise fault.error(file.path)

    def truncate(self, file: OpenFile, size: int) -> None:
        self._before("truncate", file.path)
        super().truncate(file, size)

    def sync(self, file: OpenFile) -> None:
        self._before("sync", file.path)

    def sync_directory(self, path: str) -> None:
        self._before("sync_directory", path)

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


@dataclass
class CrashingDisk(FaultyDisk):
    """The process dies at its nth changing call (from 1) and at every later one. `half`: a write gets half way."""

    crash_at: int
    half: bool = False
    count: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def crashed(self) -> bool:
        return self.count >= self.crash_at

    def _ask(self, operation: str, path: str) -> Fault | None:
        with self._counting:
            self.count += 1
            if self.crashed:
                raise Crash(f"{operation} {path}")
        return None

    def write(self, file: OpenFile, data: bytes | bytearray, position: int) -> None:
        already = self.crashed
        try:
            super().write(file, data, position)
        except Crash:
            if self.half and not already:
                Disk.write(self, file, data[: len(data) // 2], position)
            raise


class PowerCutDisk(CrashingDisk):
    """Knows what has been synced; `cut_power` takes away everything else: bytes, new names, renames and removals."""

    def __init__(self, crash_at: int, attic: str) -> None:
        """`attic`: a directory on the same file system for what was removed and may have to come back."""
        super().__init__(crash_at)
        self._attic = attic
        self._removals: set[Callable[[], None]] = set()
        self._synced_bytes: dict[int, int] = {}  # by inode
        self._undo: list[tuple[set[str], Callable[[], None]]] = []  # directories not yet synced since, oldest first
        os.makedirs(attic, exist_ok=True)

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OpenFile:
        new = create and not os.path.exists(path)
        file = super().open(path, create=create, write=write)
        if new:
            self._synced_bytes[os.fstat(file.fd).st_ino] = 0
            self._changed(lambda: os.unlink(path), os.path.dirname(path))
        return file

    def sync(self, file: OpenFile) -> None:
        super().sync(file)
        about = os.fstat(file.fd)
        self._synced_bytes[about.st_ino] = about.st_size

    def sync_directory(self, path: str) -> None:
        super().sync_directory(path)
        for directories, _ in self._undo:
            directories.discard(path)
        self._undo = [(directories, undo) for directories, undo in self._undo if directories]

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        self._changed(lambda: shutil.rmtree(path), os.path.dirname(path))

    def rename(self, old: str, new: str) -> None:
        replaced = self._keep(new) if os.path.isfile(new) else None
        super().rename(old, new)

        def undo() -> None:
            os.rename(new, old)
            if replaced is not None:
                os.link(replaced, new)

        self._changed(undo, os.path.dirname(old), os.path.dirname(new))

    def unlink(self, path: str) -> None:
        kept = self._keep(path)
        super().unlink(path)

        def undo() -> None:
            os.link(kept, path)

        self._removals.add(undo)
        self._changed(undo, os.path.dirname(path))

    def rmdir(self, path: str) -> None:
        super().rmdir(path)
        self._changed(lambda: os.mkdir(path, 0o700), os.path.dirname(path))

    def cut_power(self, root: str, rng: random.Random | None = None) -> None:
        """With `rng` some removals that were not synced have happened all the same, as disks like to have it."""
        for _, undo in reversed(self._undo):
            if rng is not None and undo in self._removals and rng.random() < 0.5:
                continue
            with contextlib.suppress(FileNotFoundError):  # what was removed with its directory needs no undoing
                undo()
        for directory, _, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                about = os.lstat(path)
                synced = self._synced_bytes.get(about.st_ino, about.st_size)
                if synced < about.st_size:
                    os.truncate(path, synced)

    def _changed(self, undo: Callable[[], None], *directories: str) -> None:
        self._undo.append((set(directories), undo))

    def _keep(self, path: str) -> str:
        kept = os.path.join(self._attic, str(len(os.listdir(self._attic))))
        os.link(path, kept)
        return kept


def abandon(backend: FileBackend) -> None:
    """Leave a backend as a killed process does: nothing more is written, the kernel takes the lock back."""
    backend._flusher.close()
    backend._directory_lock.release()
