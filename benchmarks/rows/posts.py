"""Posts of one record and of batches, in each durability: the same records, on as many connections."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Effort, Row, compare
from benchmarks.peers import Durability, Peer
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.peers.http_limit import HTTPLimit
from benchmarks.peers.nats import NATS
from benchmarks.peers.redis import Redis
from benchmarks.peers.starlette_app import Starlette
from benchmarks.rows.servers import serving

SIZE = 100
CONNECTIONS = (1, 32, 128, 512)
LIMIT_WANTED = {"memory": 0.8, "periodic": 0.75}


def single(durability: Durability, effort: Effort) -> Iterator[Row]:
    """One record a request. Redis and NATS speak no HTTP; the bare server and Starlette keep nothing."""
    peers: list[Peer] = [FlashQServer(), Redis(), NATS(), HTTPLimit()]
    if durability == "memory":
        peers.append(Starlette())
    with serving(peers, durability) as field:
        for connections in (32,) if effort.quick else CONNECTIONS:
            wanted = {}
            if connections in (32, 128):
                wanted[Redis.name] = 1.0
                if durability in LIMIT_WANTED:
                    wanted[HTTPLimit.name] = LIMIT_WANTED[durability]
            yield compare(
                f"single/{durability}/{connections}",
                f"single posts, {durability}, {connections} connection{'s' * (connections > 1)}",
                "records/s",
                field.race_to_post({peer.name: peer.post(1, SIZE) for peer in peers}, connections, effort),
                wanted=wanted,
            )
