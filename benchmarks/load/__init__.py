"""The load generator, compiled from load.c when first used, and what it sends."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.machine import LOAD_CORES, on_cores
from benchmarks.measure import Figures
from benchmarks.processes import Server

SOURCE = Path(__file__).with_name("load.c")
_BUILT = SOURCE.parent / ".built" / "load"
WARM_UP_S = 0.3  # as in load.c
CONNECTION = b"%CCCCCCCCC"
STARTED = b"%TTTTTTTTTTTTTTTTTTT"
"""In a request: where a name of the connection goes, and the time the request started."""


class Load(msgspec.Struct):
    """Requests to send in turn, each the same work."""

    protocol: Literal["http", "resp", "nats"]
    requests: list[bytes]
    records: int = 1
    """Records that one request posts or reads."""
    answers: int = 1
    """Protocol answers that one request has."""
    hello: bytes = b""


def generate(server: Server, load: Load, connections: int, seconds: float, rate: float = 0) -> Figures:
    """Send on so many connections for so long; `rate` requests a second make it an open loop.

    Gives `rate` in records a second, `requests`, percentiles as load.c does, and the server's `cpu_s_per_million`.
    Raises RuntimeError if an answer is an error.
    """
    with tempfile.TemporaryDirectory(prefix="flashq-load-") as directory:
        arguments = [str(binary()), load.protocol, str(server.port), str(connections), str(seconds), str(rate)]
        requests = Path(directory, "requests")
        requests.write_bytes(b"".join(struct.pack(">I", len(request)) + request for request in load.requests))
        arguments += [str(load.answers), str(requests)]
        if load.hello:
            hello = Path(directory, "hello")
            hello.write_bytes(load.hello)
            arguments.append(str(hello))
        cpu = server.cpu_s()
        with on_cores(LOAD_CORES):
            done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        cpu = server.cpu_s() - cpu
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    figures: Figures = json.loads(done.stdout)
    whole = (figures["seconds"] + WARM_UP_S) / figures["seconds"]  # the CPU counts the warm-up too
    figures["requests"] = figures["answers"]
    figures["rate"] *= load.records
    figures["cpu_s_per_million"] = cpu / (figures["answers"] * load.records * whole) * 1e6
    return figures


def missing() -> str:
    """Why there is no load generator here, or ""."""
    return "" if shutil.which("cc") else "no C compiler for benchmarks/load/load.c (apt-get install gcc libc6-dev)"


def binary() -> Path:
    """The generator, compiled if it is not yet or its source is newer."""
    if not _BUILT.exists() or _BUILT.stat().st_mtime < SOURCE.stat().st_mtime:
        _BUILT.parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(_BUILT), str(SOURCE)], check=True)
    return _BUILT
