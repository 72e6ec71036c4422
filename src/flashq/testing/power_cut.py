"""A disk that knows what has been synced, and can lose everything else."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Callable

from flashq.storage.file.disk import OpenFile
from flashq.storage.file.recovery import SECTOR_BYTES
from flashq.testing.faulty_disk import Decide, FaultyDisk

Undo = Callable[[], None]


class PowerCutDisk(FaultyDisk):
    """Keeps books of what is durable; `cut_power` takes away the rest: bytes, new names, renames and removals.

    Bytes are durable that a file had at its last sync, in their place: of what was written over them since, and of
    what a file has grown by, nothing is. What was there before this disk is durable.
    """

    def __init__(self, attic: str, decide: Decide | None = None) -> None:
        """`attic`: a directory on the same file system for what was removed and may have to come back."""
        super().__init__(decide)
        self._attic = attic
        self._lock = threading.Lock()  # syncs of different files overlap
        self._removals: set[Undo] = set()
        self._synced_bytes: dict[int, int] = {}  # by inode
        self._replaced: dict[int, list[tuple[int, bytes]]] = {}  # positions and synced bytes that are no more there
        self._undo: list[tuple[set[str], Undo]] = []  # directories not yet synced since, oldest first
        os.makedirs(attic, exist_ok=True)

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OpenFile:
        new = create and not os.path.exists(path)
        file = super().open(path, create=create, write=write)
        if new:
            self._synced_bytes[os.fstat(file.fd).st_ino] = 0
            self._replaced.pop(os.fstat(file.fd).st_ino, None)  # a number may come again
            self._changed(lambda: os.unlink(path), os.path.dirname(path))
        return file

    def write(self, file: OpenFile, data: bytes | bytearray, position: int) -> None:
        self._keep_bytes(file, position, position + len(data))
        super().write(file, data, position)

    def truncate(self, file: OpenFile, size: int) -> None:
        self._keep_bytes(file, size, self.size(file))
        super().truncate(file, size)

    def sync(self, file: OpenFile) -> None:
        inode = os.fstat(file.fd).st_ino
        with self._lock:
            replaced = self._replaced.pop(inode, [])
        try:
            super().sync(file)
        except BaseException:
            with self._lock:
                self._replaced[inode] = replaced + self._replaced.get(inode, [])
            raise
        self._synced_bytes[inode] = self.size(file)

    def sync_directory(self, path: str) -> None:
        super().sync_directory(path)
        with self._lock:
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
        """Leave in `root` what has been synced; nobody may be at work on this disk any more.

        With `rng` some removals that were not synced have happened all the same, as disks like to have it.
        """
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
                self._put_back(path, self._replaced.get(about.st_ino, []), rng)

    def _put_back(self, path: str, replaced: list[tuple[int, bytes]], rng: random.Random | None) -> None:
        """With `rng` some sectors have been written over all the same."""
        if not replaced:
            return
        fd = os.open(path, os.O_WRONLY)
        for position, data in reversed(replaced):
            start = 0
            while start < len(data):
                stop = min(start + SECTOR_BYTES - (position + start) % SECTOR_BYTES, len(data))
                if rng is None or rng.random() < 0.5:
                    os.pwrite(fd, data[start:stop], position + start)
                start = stop
        os.close(fd)

    def _keep_bytes(self, file: OpenFile, start: int, stop: int) -> None:
        inode = os.fstat(file.fd).st_ino
        synced = self._synced_bytes.setdefault(inode, self.size(file))
        if start < min(stop, synced):
            data = self.read(file, min(stop, synced) - start, start)
            with self._lock:
                self._replaced.setdefault(inode, []).append((start, data))

    def _changed(self, undo: Undo, *directories: str) -> None:
        with self._lock:
            self._undo.append((set(directories), undo))

    def _keep(self, path: str) -> str:
        with self._lock:
            kept = os.path.join(self._attic, str(len(os.listdir(self._attic))))
            os.link(path, kept)
        return kept
