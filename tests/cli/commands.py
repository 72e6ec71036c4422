"""`flashq` as a process, plain or on a terminal. Only the processes started here are ever signalled."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.server.running import Process

COMMAND = str(Path(sys.executable).with_name("flashq"))
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command has printed, and its exit code."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


def environment(server: Process | None) -> dict[str, str]:
    """That of the tests without settings of FlashQ and of colours, and with the address of the server."""
    kept = {name: text for name, text in os.environ.items() if name != "NO_COLOR" and not name.startswith("FLASHQ_")}
    return kept if server is None else {**kept, "FLASHQ_URL": f"http://127.0.0.1:{server.port}"}


def run(server: Process | None, *arguments: str | Path, given: bytes = b"") -> Ended:
    """A command that talks to the server, with `given` as its input."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        input=given,
        capture_output=True,
        env=environment(server),
        timeout=TIMEOUT_S,
        check=False,
    )
    err = done.stderr.decode()
    assert "Traceback" not in err, err
    return Ended(done.returncode, done.stdout, err)


@contextmanager
def started(server: Process, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command under way, with pipes to all it reads and prints; killed at the end if it is still there."""
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(server),
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def on_terminal(
    server: Process | None,
    arguments: Sequence[str | Path],
    typed: str = "",
    interrupt_at: str | None = None,
    **variables: str,
) -> tuple[int, str]:
    """Exit code, and all that a terminal got to see; `typed` has been typed before the command asks.

    Ctrl-C comes when `interrupt_at` has been seen.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment(server), "TERM": "xterm-256color", "COLUMNS": "200", **variables},
    )
    os.close(slave)
    os.write(master, typed.encode())
    seen = b""
    while select.select([master], [], [], TIMEOUT_S)[0]:
        try:
            data = os.read(master, 65536)
        except OSError:  # the last process has closed the other end
            break
        if not data:
            break
        seen += data
        if interrupt_at is not None and interrupt_at.encode() in seen:
            interrupt_at = None
            wait_for_read_of_stdin(process.pid)
            process.send_signal(signal.SIGINT)
    os.close(master)
    return process.wait(TIMEOUT_S), seen.decode(errors="replace")


def wait_for_read_of_stdin(pid: int) -> None:
    """Until the process sleeps in it. A signal that comes just before is heard by Python only after the read."""
    deadline = time.monotonic() + TIMEOUT_S
    while Path(f"/proc/{pid}/syscall").read_text().split()[1:2] != ["0x0"]:  # a system call's first argument
        assert time.monotonic() < deadline, f"process {pid} does not read its input"
        time.sleep(0.002)


def next_offset(server: Process, topic: str) -> int:
    """Where a topic ends; 0 if it is not there."""
    answer = server.ask("GET", f"/topics/{topic}")
    return int(answer.json()["next_offset"]) if answer.status == 200 else 0


def wait_for_records(server: Process, topic: str, count: int) -> None:
    """Until the topic has so many."""
    deadline = time.monotonic() + TIMEOUT_S
    while next_offset(server, topic) < count:
        assert time.monotonic() < deadline, f"{topic} has not {count} records after {TIMEOUT_S} s"
        time.sleep(0.002)


def values(server: Process, topic: str) -> list[str]:
    """Of all records, in order."""
    return [record["value"] for record in server.read_all(topic)]
