"""What a server runs on and how that fails: a directory whose server is killed, a disk whose power is cut."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.crash.history import HistoryFile
from tests.crash.server_process import ServerProcess

_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_UNMOUNT_TRIES = 50


class Machine(Protocol):
    """Where the data is, and one way for it to lose its server."""

    data_dir: Path

    def strike(self, server: ServerProcess, history: HistoryFile) -> None:
        """Leave no server, and the data as the fault leaves it."""
        ...


class Killed:
    """`kill -9`: the machine stays up."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def strike(self, server: ServerProcess, history: HistoryFile) -> None:
        server.kill()
        history.server_killed()


class PowerCut:
    """An ext4 file system in a file, mounted at `mount`. The cut keeps what was flushed, and nothing else."""

    def __init__(self, image: Path, mount: Path) -> None:
        self._image = image
        self._mount = mount
        self.data_dir = mount / "data"

    def strike(self, server: ServerProcess, history: HistoryFile) -> None:
        history.power_cut_begins()
        self.cut()
        server.kill()
        history.server_killed()
        self.come_back()

    def cut(self) -> None:
        """Nothing reaches the disk any more."""
        descriptor = os.open(self._mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def make_read_only(self) -> None:
        """What ext4 does when it finds an error in itself; it takes `come_back` to write again.

        No `mount -o remount,ro` would do: it is refused while a file is open for writing.
        """
        _run("mount", "-o", "remount,errors=remount-ro", str(self._mount))
        device = os.stat(self._mount).st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")

    def come_back(self) -> None:
        """Mounted again, with nothing in the page cache; nobody may have a file open."""
        self.unmount()
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self._mount))

    def unmount(self) -> None:
        for attempt in range(_UNMOUNT_TRIES):  # the kernel may not have closed the files of a killed process yet
            try:
                _run("umount", str(self._mount))
                return
            except subprocess.CalledProcessError:
                if attempt == _UNMOUNT_TRIES - 1:
                    raise
                time.sleep(0.05)


@contextmanager
def power_cut_machine(directory: Path, size_mb: int = 256) -> Iterator[PowerCut]:
    """A new file system in `directory`, gone at the end. Needs root and a loop device."""
    image, mount = directory / "disk.img", directory / "disk"
    mount.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    _run("mkfs.ext4", "-q", "-F", str(image))
    machine = PowerCut(image, mount)
    machine.mount()
    try:
        yield machine
    finally:
        machine.unmount()
        image.unlink()


def why_no_power_cut() -> str:
    """Why the power cannot be cut here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root, to mount a file system of its own"
    if not os.path.exists("/dev/loop-control"):
        return "needs loop devices"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
