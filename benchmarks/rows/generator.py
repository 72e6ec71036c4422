"""Whether our load generator can be believed: it beside wrk on HTTP and redis-benchmark on Redis, each on the same
server."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.load import generate
from benchmarks.machine import LOAD_CORES, on_cores, scratch
from benchmarks.measure import Effort, Figures, Row, Work, compare, interleave
from benchmarks.peers import value
from benchmarks.peers.flashq_server import PATH, json_records
from benchmarks.peers.http_limit import HTTPLimit
from benchmarks.peers.redis import STREAM, Redis
from benchmarks.processes import Server

CONNECTIONS, SIZE = 32, 100
WANTED = 0.9


def rows(effort: Effort) -> Iterator[Row]:
    """Single posts in memory, closed loop."""
    http, redis = HTTPLimit(), Redis()
    ours = "benchmarks/load/load.c"
    with http.serving("memory") as server:
        work: dict[str, Work] = {
            ours: load.missing() or partial(generate, server, http.post(1, SIZE), CONNECTIONS, effort.seconds),
            "wrk": _missing("wrk") or partial(_wrk, server, effort.seconds),
        }
        yield compare(
            "generator/http", "load generator, HTTP", "records/s", interleave(work, effort), wanted={"wrk": WANTED}
        )
    if redis.missing():
        return
    with redis.serving("memory") as server:
        work = {
            ours: load.missing() or partial(generate, server, redis.post(1, SIZE), CONNECTIONS, effort.seconds),
            "redis-benchmark": _missing("redis-benchmark") or partial(_redis_benchmark, server, effort.seconds),
        }
        wanted = {"redis-benchmark": WANTED}
        yield compare("generator/redis", "load generator, Redis", "records/s", interleave(work, effort), wanted=wanted)


def _missing(tool: str) -> str:
    return "" if shutil.which(tool) else f"{tool} is not installed (make bench-peers)"


def _wrk(server: Server, seconds: float) -> Figures:
    with scratch() as directory:
        script = Path(directory, "post.lua")
        body = json_records(1, SIZE).decode()
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = 'application/json'\n"
        )
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
        said = _run([*command, f"http://127.0.0.1:{server.port}{PATH}"])
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    return {"rate": _found(r"Requests/sec:\s+([\d.]+)", said)}


def _redis_benchmark(server: Server, seconds: float) -> Figures:
    """It takes a count, not a time."""
    command = ["redis-benchmark", "-p", str(server.port), "-c", str(CONNECTIONS), "-n", str(int(50_000 * seconds))]
    said = _run([*command, "XADD", STREAM.decode(), "*", "value", value(SIZE).decode()])
    return {"rate": _found(r"throughput summary: ([\d.]+)", said)}


def _run(command: list[str]) -> str:
    with on_cores(LOAD_CORES):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _found(pattern: str, said: str) -> float:
    found = re.search(pattern, said)
    if found is None:
        raise RuntimeError(said)
    return float(found[1])
