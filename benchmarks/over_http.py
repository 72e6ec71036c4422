"""Single-record posts over HTTP, against the limit server in the same rounds. Needs wrk (Debian: wrk)."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Row, free_port, interleave, median_ratio

POST_LUA = Path(__file__).with_name("post.lua")
WANTED = {32: {"memory": 0.75, "periodic": 0.65, "always": 0.35}, 128: {"always": 0.5}}


def rows(rounds: int, seconds: int) -> list[Row]:
    if shutil.which("wrk") is None:
        return [Row("posts over HTTP", "not measured", "wrk is not installed (apt-get install wrk)", None, None)]
    found: list[Row] = []
    with contextlib.ExitStack() as stack:
        urls = {"limit": stack.enter_context(limit_server())}
        for mode in ("memory", "periodic", "always"):
            urls[mode] = stack.enter_context(flashq_server(mode))
        for connections, wanted in WANTED.items():
            contenders = {name: partial(wrk, urls[name], connections, seconds) for name in ("limit", *wanted)}
            series = interleave(contenders, rounds)
            limit = series["limit"]
            for mode, ratio in wanted.items():
                found.append(
                    Row(
                        f"single posts, {mode}, {connections} connections",
                        f"{series[mode].median:,.0f}/s",
                        f"bare httptools {limit.median:,.0f}/s",
                        median_ratio(series[mode], limit),
                        ratio,
                        series[mode].spread,
                    )
                )
    return found


def wrk(url: str, connections: int, seconds: int) -> float:
    """Requests a second. Raises RuntimeError if any answer was not a 2xx."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(POST_LUA), f"{url}/topics/news/records"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(output)
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found is not None, output
    return float(found[1])


@contextlib.contextmanager
def limit_server() -> Iterator[str]:
    port = free_port()
    with running([sys.executable, "-m", "benchmarks.http_limit", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def flashq_server(mode: str, *arguments: str, data_dir: str | None = None) -> Iterator[str]:
    """A FlashQ of its own: `mode` is memory or a sync mode. Yields its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as temporary:
        directory = data_dir or temporary
        storage = ["--storage", "memory"] if mode == "memory" else ["--data-dir", directory, "--sync-mode", mode]
        flags = ["--port", str(port), "--log-level", "warning", *storage, *arguments]
        with running([sys.executable, "-m", "flashq", "serve", *flags], port):
            yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 30
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.connect()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.02)
            finally:
                connection.close()
        yield process
    finally:
        process.terminate()
        process.wait(20)
