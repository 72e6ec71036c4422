"""What a server costs before it does anything, and while it is read from: start-up, memory."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.machine import MIB, scratch
from benchmarks.measure import Effort, Figures, Row, Work, compare, interleave
from benchmarks.peers import Peer, value
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.peers.nats import NATS
from benchmarks.peers.redis import Redis
from benchmarks.processes import Server
from flashq import FlashQ

IDLE_WANTED_MIB, READ_WANTED_MIB = 57.2, 47.7  # 60 MB and 50 MB
READ_BYTES = 1_073_000_000
TOPIC = "big"


def rows(effort: Effort) -> Iterator[Row]:
    """From no process to one that answers, on an empty directory; what it holds then; what more while it is read."""
    peers: list[Peer] = [FlashQServer(), Redis(), NATS()]
    work: dict[str, Work] = {peer.name: peer.missing() or partial(_start, peer) for peer in peers}
    contenders = interleave(work, effort)
    yield compare(
        "footprint/start", "start-up until it answers", "s", contenders, figure="start_s", less_is_better=True
    )
    yield compare(
        "footprint/idle",
        "memory of an idle server",
        "MiB",
        contenders,
        figure="resident_mib",
        less_is_better=True,
        bounds={"60 MB": IDLE_WANTED_MIB},
    )
    read = int(READ_BYTES * effort.scale)
    yield compare(
        "footprint/read",
        f"memory more while {read / 1e9:.2f} GB are read",
        "MiB",
        interleave({"FlashQ": partial(_read_through, read)}, Effort(1, effort.seconds, effort.scale)),
        figure="grown_mib",
        less_is_better=True,
        bounds={"50 MB": READ_WANTED_MIB},
    )


def _start(peer: Peer) -> Figures:
    began = time.perf_counter()
    with peer.serving("periodic") as server:
        return {"start_s": time.perf_counter() - began, "resident_mib": server.resident() / MIB}


def _read_through(read: int) -> Figures:
    with scratch() as directory:
        with FlashQ.open(directory, sync_mode="never") as flashq:
            for _ in range(read // 1_000_000):
                flashq.post_records(TOPIC, [value(1000)] * 1000)
        with FlashQServer().serving("periodic", directory) as server:
            idle = server.resident()
            return {"grown_mib": (_most_while_read(server) - idle) / MIB}


def _most_while_read(server: Server) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    offset = 0
    while True:
        connection.request("GET", f"/topics/{TOPIC}/records?from_offset={offset}&max_records=10000")
        answer = json.loads(connection.getresponse().read())
        if not answer["records"]:
            return server.most_resident()
        offset = answer["next_offset"]
