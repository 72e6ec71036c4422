"""The system calls storage makes, in one place: what a test replaces to make a disk fail, fill up or stall.

Files are 0600, directories 0700. Nothing is opened through a link, and nothing but a regular file of our own.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from flashq.errors import DataCorruption, StorageFailed, StorageFull
from flashq.storage.file.kernel_sync import Ended, KernelSync

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

if sys.platform == "darwin":
    import fcntl

    def _sync(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync alone leaves the bytes in the drive's cache there
else:
    _sync = os.fdatasync

T = TypeVar("T")
_OPEN_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a FIFO must not hang

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a write that leave the disk in order: cut back, answer 507, go on."""

RESERVED_DESCRIPTORS = 16
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors of opening a file that leave everything as it was."""


class Unconfirmed(OSError):
    """It has been done, and whether it lasts is not known: only the last fsync failed."""


class OpenFile:
    """A descriptor that closes with its last reference: a reader may still hold it when its log lets go."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def __del__(self) -> None:
        os.close(self.fd)


class Disk:
    """The real disk. Every method raises OSError as the system call does."""

    _spare: list[OpenFile] | None = None
    _kernel_sync: KernelSync | None = None

    def reserve_descriptors(self) -> bool:
        """Keep `RESERVED_DESCRIPTORS` open for when the process has no more; whether all of them are there.

        Connections may take every descriptor there is: a log must still be able to roll, and to read a sealed segment.
        """
        spare = self._spare = [] if self._spare is None else self._spare
        try:
            while len(spare) < RESERVED_DESCRIPTORS:
                spare.append(OpenFile(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), os.devnull))
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
            return False
        return True

    def release_descriptors(self) -> None:
        self._spare = None

    def _open(self, path: str, flags: int) -> int:
        return self._with_spare(lambda: os.open(path, flags, 0o600))

    def entries(self, path: str) -> list[os.DirEntry[str]]:
        """What is in a directory."""
        return self._with_spare(lambda: list(os.scandir(path)))

    def _with_spare(self, opened: Callable[[], T]) -> T:
        """A call that opens something, with a reserved descriptor if there is no other. The reserve fills up again
        when it can."""
        while True:
            try:
                result = opened()
                break
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS or not self._take_spare():
                    raise
        if self._spare is not None and len(self._spare) < RESERVED_DESCRIPTORS:
            self.reserve_descriptors()
        return result

    def _take_spare(self) -> bool:
        try:
            (self._spare or []).pop()
        except IndexError:
            return False
        return True

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OpenFile:
        """Raises `DataCorruption` for a link, a device, a FIFO or a file of another user."""
        flags = _OPEN_FLAGS | (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if create else 0)
        try:
            fd = self._open(path, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise refused(path, "it is not a regular file") from error
            raise
        file = OpenFile(fd, path)
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise refused(path, "it is not a regular file")
        if about.st_uid != os.geteuid():
            raise refused(path, f"it belongs to user {about.st_uid}")
        return file

    def size(self, file: OpenFile) -> int:
        return os.fstat(file.fd).st_size

    def read(self, file: OpenFile, size: int, position: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        return os.pread(file.fd, size, position)

    def is_cached(self, file: OpenFile, size: int, position: int) -> bool:
        """Whether the system has these bytes in memory; True where it does not tell. Never waits."""
        try:
            return os.preadv(file.fd, [bytearray(size)], position, os.RWF_NOWAIT) == size
        except BlockingIOError:
            return False
        except (OSError, AttributeError):  # a file system, or a system, without it; whatever else it is, the read tells
            return True

    def write(self, file: OpenFile, data: bytes | bytearray, position: int) -> None:
        """All of it, or an OSError that leaves an unknown part written."""
        written = os.pwrite(file.fd, data, position)
        while written < len(data):
            written += os.pwrite(file.fd, memoryview(data)[written:], position + written)

    def truncate(self, file: OpenFile, size: int) -> None:
        os.ftruncate(file.fd, size)

    def clear_beyond_end(self, file: OpenFile) -> None:
        """Once synced, no bytes of an earlier write lie between the end of the file and that of its last block.

        ext4 may write a block and lose, with the power, that the file had grown into it. When it grows there again,
        and the power goes before that block is written again, the bytes of the first time are in the file. To
        truncate a file to the size it has zeroes the rest of its block.
        """
        self.truncate(file, self.size(file))

    def sync(self, file: OpenFile) -> None:
        _sync(file.fd)

    def sync_from_loop(self, loop: AbstractEventLoop) -> None:
        """Let `begin_sync` work, on this loop, where it can be had."""
        try:
            self._kernel_sync = KernelSync(loop)
        except (ImportError, NotImplementedError, OSError):
            pass

    def begin_sync(self, file: OpenFile, ended: Ended) -> bool:
        """`sync` on the loop: `ended` is told there, once. False, and nothing begun, where that cannot be had."""
        return self._kernel_sync is not None and self._kernel_sync.begin(file.fd, ended)

    def leave_loop(self) -> None:
        """Block until syncs begun on the loop have ended; begin no more there. On its thread."""
        if self._kernel_sync is not None:
            self._kernel_sync.close()
            self._kernel_sync = None

    def sync_directory(self, path: str) -> None:
        fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_file_system(self, path: str) -> bool:
        """Make everything on the file system of `path` durable; False where no one call does that (macOS)."""
        import ctypes  # here: no other command pays for loading it

        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            return False
        fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        finally:
            os.close(fd)
        return True

    def forget_pages(self, file: OpenFile) -> None:
        """Drop the file's clean pages, so that what is read next comes from the medium."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def read_ahead(self, file: OpenFile, size: int) -> None:
        """Ask for the first `size` bytes, to be read while the caller goes on."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fd, 0, size, os.POSIX_FADV_WILLNEED)

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o700)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def replace_file(self, path: str, data: bytes) -> None:
        """The file holds `data` or what it held before, also after a crash; durable on return. Raises
        `Unconfirmed` if it holds `data` now and, after a power cut, either."""
        temporary = path + ".new"
        self.write_file(temporary, data)
        self.rename(temporary, path)
        try:
            self.sync_directory(os.path.dirname(path))
        except OSError as error:
            raise Unconfirmed(error.errno, error.strerror) from error

    def write_file(self, path: str, data: bytes) -> None:
        """The file holds `data`; its content is durable on return, a new name is not."""
        file = self.open(path, create=True, write=True)
        self.truncate(file, 0)
        self.write(file, data, 0)
        self.sync(file)


def refused(path: str, why: str) -> DataCorruption:
    return DataCorruption(f"{path} is refused: {why}. Nothing was changed; move it away and start again", path=path)


@contextmanager
def on_disk(what: str) -> Iterator[None]:
    """What the disk refuses inside comes out as `StorageFull` or `StorageFailed`."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StorageFull(f"no room for {what}: {error.strerror}. Free some space and try again") from error
        raise StorageFailed(
            f"the disk failed under {what}: {error.strerror or error}. Look at it, then try again",
            outcome="unknown",
            cause=error.strerror or str(error),
        ) from error
