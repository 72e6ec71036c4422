"""Records on their way: how long from post to reader, for a consumer group and for streams of many readers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.load import STARTED, generate
from benchmarks.machine import LOAD_CORES, on_cores
from benchmarks.measure import Effort, Figures, Row, compare
from benchmarks.peers import Durability, Peer, value
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.peers.nats import NATS
from benchmarks.peers.redis import Redis
from benchmarks.processes import Server
from benchmarks.rows.servers import Field, serving

SIZE = 100
POSTERS = 32
RATE, FAN_OUT_RATE = 1000, 200  # posts a second
WAYS = {FlashQServer.name: "flashq", Redis.name: "redis", NATS.name: "nats"}


def group(durability: Durability, effort: Effort) -> Iterator[Row]:
    """A consumer group that follows a producer, and commits what it read."""
    with serving([FlashQServer(), Redis(), NATS()], durability) as field:
        yield compare(
            f"follow/{durability}/1000",
            f"post to group, {durability}, {RATE:,}/s, p50",
            "us",
            field.each(partial(_followed, field, "group", 1, RATE, effort), effort, figure="p50_us"),
            bounds={"1 ms": 1000},
            figure="p50_us",
            less_is_better=True,
        )
        if effort.quick:
            return
        yield compare(
            f"follow/{durability}/full",
            f"post to group, {durability}, {POSTERS} posters at full speed",
            "records/s",
            field.each(partial(_followed, field, "group", 1, 0, effort), effort),
        )


def fan_out(readers: int, effort: Effort) -> Iterator[Row]:
    """Every record to every reader."""
    with serving([FlashQServer(), Redis(), NATS()], "periodic") as field:
        yield compare(
            f"fan-out/{readers}",
            f"post to {readers} stream{'s' * (readers > 1)}, {FAN_OUT_RATE}/s, p99",
            "us",
            field.each(partial(_followed, field, "stream", readers, FAN_OUT_RATE, effort), effort, figure="p99_us"),
            figure="p99_us",
            less_is_better=True,
        )


def _followed(field: Field, way: str, readers: int, rate: int, effort: Effort, name: str) -> Figures:
    """Post for so long while the readers follow. `rate` is what reached each of them, in records a second."""
    server, peer = field.servers[name], field.peers[name]
    command = [sys.executable, "-m", "benchmarks.load.follow", f"{WAYS[name]}_{way}", str(server.port), str(readers)]
    with on_cores(LOAD_CORES):
        follower = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert follower.stdin is not None
    assert follower.stdout is not None
    with follower:
        if follower.stdout.readline() != "following\n":
            raise RuntimeError(f"nobody follows {name}")
        before = peer.stored(server) or 0
        posted = _post(server, peer, rate, effort)
        stored = (peer.stored(server) or 0) - before
        follower.stdin.close()
        figures: Figures = json.loads(follower.stdout.readline())
    if rate and figures["seen"] < 0.98 * stored * readers:
        raise RuntimeError(
            f"{name} stored {stored:,} records; {readers} readers saw {figures['seen']:,.0f} of them in all"
        )
    figures["rate"] = figures["records"] / posted["seconds"] / readers
    figures["posted"] = posted["rate"]
    return figures


def _post(server: Server, peer: Peer, rate: int, effort: Effort) -> Figures:
    load = peer.post(1, SIZE)
    marked = b"t=" + STARTED
    load.requests = [each.replace(value(SIZE), marked + value(SIZE)[len(marked) :]) for each in load.requests]
    posted = generate(server, load, POSTERS, effort.seconds, rate)
    time.sleep(0.1)  # for the last to arrive
    return posted
