"""A server as a subprocess, started, killed and started again on the same data directory.

Only the process started here is ever signalled, by its own pid. Leaving the context always leaves no process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.crash.wire import Connection, ConnectionLostError

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 12.0
_POLL_S = 0.01
_ROOT = Path(__file__).parents[2]


class ServerFailedError(Exception):
    """The server ended, or did not get ready, when it should have; the message carries the end of its output."""


def flashq_command(
    data_dir: Path, *, sync_mode: str, commit_threshold: int = 10, segment_bytes: int = 64 * 1024
) -> list[str]:
    """The command line of the real server, all but the port. Small segments make it roll often."""
    return [
        *(str(Path(sys.executable).with_name("flashq")), "serve", "--storage", "file", "--data-dir", str(data_dir)),
        *("--sync-mode", sync_mode, "--commit-threshold", str(commit_threshold)),
        *("--segment-bytes", str(segment_bytes)),
    ]


_IN_A_HURRY = """
import sys
from flashq.broker.retention import RetentionThread
from flashq.cli.main import main
from flashq.storage.file import consumer_group
RetentionThread.__init__.__defaults__ = (0.1,)
consumer_group._COMPACT_BYTES = 8192
sys.exit(main())
"""


def in_a_hurry(command: list[str]) -> list[str]:
    """The same server, with retention at work ten times a second and files of groups compacted at 8 KiB."""
    return [sys.executable, "-c", _IN_A_HURRY, *command[1:]]


_IN_PLACE = """
from flashq.storage.file.disk import Disk
Disk.replace_file = Disk.write_file
"""


def writing_in_place(command: list[str]) -> list[str]:
    """The same in a hurry, with files overwritten that are to be replaced by a rename."""
    return [sys.executable, "-c", _IN_PLACE + _IN_A_HURRY, *command[1:]]


_DEAF = """
import contextlib
from flashq.storage.file.disk import Disk
write = Disk.write
def write_and_hope(disk, file, data, position):
    with contextlib.suppress(OSError):
        write(disk, file, data, position)
Disk.write = write_and_hope
"""


def deaf_to_errors(command: list[str]) -> list[str]:
    """The same in a hurry, with errors of writes taken for success."""
    return [sys.executable, "-c", _DEAF + _IN_A_HURRY, *command[1:]]


_WITHOUT_BACKGROUND_SYNCS = """
import sys, threading
from flashq.cli.main import main
from flashq.storage.file.disk import Disk
sync = Disk.sync
Disk.sync = lambda disk, file: threading.current_thread().name.startswith("flashq-sync") or sync(disk, file)
Disk.sync_from_loop = lambda disk, loop: None
sys.exit(main())
"""


def without_background_syncs(command: list[str]) -> list[str]:
    """The same server, whose threads report every sync of a file as done and make none; a start does make its own."""
    return [sys.executable, "-c", _WITHOUT_BACKGROUND_SYNCS, *command[1:]]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@cache
def program_environment() -> dict[str, str]:
    """The environment of every process these tests start.

    Without FLASHQ_*: those of the tests are not settings, and no setting is left to chance. Where Python is told not
    to write bytecode, it may, into a directory of this run: it makes a start take 0.5 s instead of 1.8.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASHQ_")}
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        bytecode = tempfile.mkdtemp(prefix="flashq-crash-bytecode-")
        atexit.register(shutil.rmtree, bytecode, ignore_errors=True)
        environment["PYTHONPYCACHEPREFIX"] = bytecode
    return environment


class ServerProcess:
    """One server at a time from `command` plus `--port`; its output is appended to `output`.

    Every start takes a new port, so that a client of an earlier start can never reach a later one.
    """

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self._command = list(command)
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.starts = 0
        self.status: int | None = None
        """Of a server that ended by itself or by SIGTERM; negative for a signal."""
        self.start_duration_s = 0.0
        """Of the latest start that came to its end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()

    def spawn(self) -> None:
        """Start the process and return at once."""
        if self._process is not None:
            raise RuntimeError("the server is already running")
        self.port = free_port()
        self.starts += 1
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env=program_environment(),
            )

    def wait_ready(self) -> dict[str, Any]:
        """The body of the first answer of GET /health. Raises ServerFailedError when there is none in time."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            try:
                with Connection(self.port) as connection:
                    health: dict[str, Any] = connection.request("GET", "/health").json()
                    return health
            except ConnectionLostError:
                self._fail_if_ended_within(_POLL_S)
        raise ServerFailedError(f"no answer within {START_TIMEOUT_S} s\n{self.output_tail()}")

    def start(self) -> dict[str, Any]:
        begun_s = time.monotonic()
        self.spawn()
        health = self.wait_ready()
        self.start_duration_s = time.monotonic() - begun_s
        return health

    def kill(self) -> None:
        """SIGKILL, then wait until the process is gone and its descriptors with it."""
        process, self._process = self._running(), None
        self._signal(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """SIGTERM; raises ServerFailedError unless the process ends with status 0 in time."""
        process = self._running()
        self._signal(process.pid, signal.SIGTERM)
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailedError(f"still running {STOP_TIMEOUT_S} s after SIGTERM\n{self.output_tail()}") from None
        self._process = None
        self.status = status
        if status != 0:
            raise ServerFailedError(f"status {status} after SIGTERM\n{self.output_tail()}")

    def fail_if_ended(self) -> None:
        """Raises ServerFailedError if the process has ended by itself."""
        self._fail_if_ended_within(0)

    def output_tail(self) -> str:
        return self._output.read_text(errors="replace")[-4000:] if self._output.exists() else ""

    def _signal(self, pid: int, number: signal.Signals) -> None:
        for server in self._server_pids(pid):
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its tracer is about to
                os.kill(server, number)

    def _server_pids(self, pid: int) -> list[int]:
        """The server itself: a tracer that dies leaves it running, and ends with it."""
        if self._command[0] != "strace":
            return [pid]
        with contextlib.suppress(FileNotFoundError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    def _fail_if_ended_within(self, time_s: float) -> None:
        process = self._running()
        try:
            status = process.wait(time_s)
        except subprocess.TimeoutExpired:
            return
        self._process = None
        self.status = status
        raise ServerFailedError(f"the server ended by itself with status {status}\n{self.output_tail()}")
