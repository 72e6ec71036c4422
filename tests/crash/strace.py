"""Faults at a system call of a real process, by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

CHANGES = ("pwrite64", "io_submit", "fdatasync", "fsync", "ftruncate", "rename", "unlink", "mkdir", "rmdir")
"""The system calls by which storage changes a disk. Creating a file is not among them: a truncate follows each."""

_SYNCS = frozenset({"fdatasync", "fsync"})
_BY_THREADS = ["-e", "inject=io_setup:error=ENOSYS"]
"""Else the kernel makes most of a server's fdatasyncs, asked by io_submit."""


_PATH = re.compile(r"""[<"](/[^>"]*)[>"]""")
"""Of a descriptor (`-y`) or in quotes."""


@cache
def why_no_strace() -> str:
    """Why strace cannot inject faults here; empty when it can."""
    if shutil.which("strace") is None:
        return "needs strace"
    tried = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True)
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.decode()[-100:]}"


def injecting(
    command: list[str], fault: str, *calls: str, trace: Path = Path(os.devnull), only: Path | None = None
) -> list[str]:
    """The command under strace, with a fault in strace's words (`error=EIO:when=3`) for these system calls.

    Calls are counted by name and by thread, `only` those on that path if one is given: an error meets the nth call of
    every thread, a signal that kills only that of the first thread to get there. `trace` gets a line for each; see
    `injected`. Where a sync is to fail, on whatever path, every one is made by fdatasync or fsync.
    """
    by_threads = _BY_THREADS if _SYNCS & set(calls) else []
    on_path = ["-P", str(only)] if only else []
    faults = [*by_threads, *on_path, "-e", f"inject={','.join(calls)}:{fault}"]
    return [*tracing([], *calls, *(["io_setup"] if by_threads else []), trace=trace), *faults, *command]


def tracing(command: list[str], *calls: str, trace: Path) -> list[str]:
    """The command under strace, with a line in `trace` for each of these system calls."""
    return ["strace", "-f", "-y", "-qq", "-o", str(trace), "-e", f"trace={','.join(calls)}", *command]


def injected(trace: Path) -> list[str]:
    """The path in each call that has failed as it was told to; empty for one that names none."""
    found: list[str] = []
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[thread] = call
        elif "(INJECTED)" in call and "io_setup" not in call:
            path = _PATH.search(begun.get(thread, "") if "resumed>" in call else call)
            found.append(path[1] if path else "")
    return found


def paths(trace: Path) -> list[str]:
    """The path each call names first, in the order they began."""
    lines = trace.read_text(errors="replace").splitlines()
    return [path[1] for line in lines if " resumed>" not in line and (path := _PATH.search(line))]


def without_syncs(command: list[str]) -> list[str]:
    """The command on a disk that reports every flush as done and makes none."""
    return injecting(command, "retval=0", "fsync", "fdatasync")
