"""Servers under measurement: started on their cores, waited for, asked what they cost, stopped."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import SERVER_CORES, on_cores

_TICKS = os.sysconf("SC_CLK_TCK")
START_S = 60


@dataclass(frozen=True)
class Server:
    """A server that listens."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Seconds of CPU so far, of all its threads, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> int:
        """Bytes of memory it holds now."""
        return self._status("VmRSS")

    def most_resident(self) -> int:
        """Bytes of memory it has held at most."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise LookupError(f"process {self.pid} tells no {name}")


@contextlib.contextmanager
def running(command: Sequence[str], port: int, *, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """The command on the server's cores, from when it listens on the port. Raises RuntimeError with what it printed if
    it does not within a minute."""
    with tempfile.TemporaryFile() as output:
        with on_cores(SERVER_CORES):
            process = subprocess.Popen(
                command, env={**os.environ, **(environment or {})}, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            if not _listens(process, port):
                output.seek(0)
                said = output.read()[-2000:].decode(errors="replace")
                raise RuntimeError(f"{command[0]} does not listen on port {port}. It printed: {said}")
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return True
        except OSError:
            time.sleep(0.005)
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
