"""Posts of one record and of batches, in each durability: the same records, on as many connections."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Contender, Effort, Row, compare
from benchmarks.peers import Durability, Peer
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.peers.http_limit import HTTPLimit
from benchmarks.peers.nats import NATS
from benchmarks.peers.redis import Redis
from benchmarks.peers.starlette_app import Starlette
from benchmarks.peers.synced_http import SyncedHTTP
from benchmarks.rows.servers import race_to_post

SIZE = 100
CONNECTIONS = (1, 32, 128, 512)
LIMIT_WANTED = {
    ("memory", 32): 0.8,
    ("memory", 128): 0.8,
    ("periodic", 32): 0.75,
    ("periodic", 128): 0.75,
    ("always", 32): 0.35,
    ("always", 128): 0.5,
}


def single(durability: Durability, connections: int, effort: Effort) -> Iterator[Row]:
    """One record a request. Redis and NATS speak no HTTP; the bare server and Starlette keep nothing, the synced
    one has its records in a file that nobody can read."""
    peers: list[Peer] = [FlashQServer(), Redis(), NATS(), HTTPLimit()]
    if durability == "memory":
        peers.append(Starlette())
    elif durability == "always":
        peers.append(SyncedHTTP())
    wanted = {}
    if connections in (32, 128):
        wanted[Redis.name] = 1.0
        wanted[HTTPLimit.name] = LIMIT_WANTED[durability, connections]
    loads = {peer.name: peer.post(1, SIZE) for peer in peers}
    contenders = race_to_post(peers, durability, loads, connections, effort)
    what = f"single posts, {durability}, {connections} connection{'s' * (connections > 1)}"
    yield compare(f"single/{durability}/{connections}", what, "records/s", contenders, wanted=wanted)
    if connections == 32:
        yield cpu(f"cpu/single/{durability}", what, contenders)


def cpu(key: str, what: str, contenders: list[Contender]) -> Row:
    """The same rounds by what they cost the server."""
    unit, figure = "CPU s/million", "cpu_s_per_million"
    return compare(key, what, unit, contenders, figure=figure, less_is_better=True)
