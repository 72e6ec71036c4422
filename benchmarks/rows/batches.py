"""Batches over the network: posts of 10, 100 and 1,000 records, polls of 1, 100 and 1,000, in three sizes of record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.load import generate
from benchmarks.machine import SERVER_CORES, on_cores
from benchmarks.measure import Effort, Figures, Row, compare, rate
from benchmarks.peers import Durability, Peer, codec
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.peers.http_limit import HTTPLimit
from benchmarks.peers.nats import NATS
from benchmarks.peers.redis import Redis
from benchmarks.rows.servers import Field, serving

CONNECTIONS = 4
"""A batch is work enough for its connection; these keep the server busy."""
POSTED_WANTED, POLLED_WANTED = 400_000, 600_000  # records/s of 100 B, a thousand a batch
FILLED = 100_000  # records in a log that is polled


def posts(durability: Durability, effort: Effort) -> Iterator[Row]:
    """Redis and NATS get as many commands in one write, and answer each."""
    flashq = FlashQServer()
    peers: list[Peer] = [flashq, Redis(), NATS()]
    for records, size in _shapes(effort):
        with serving(peers, durability) as field:
            loads = {peer.name: peer.post(records, size) for peer in peers}
            limit = codec.Codec(records, size)
            full = records == 1000 and size == 100
            contenders = field.race_to_post(
                loads, CONNECTIONS, effort, {codec.NAME_WITH_JSON: partial(_on_one_core, limit.post, effort)}
            )
            yield compare(
                f"batch/post/{durability}/{records}x{size}",
                f"posts of {records:,} x {size:,} B, {durability}",
                "records/s",
                contenders,
                wanted={codec.NAME_WITH_JSON: 0.5} if full else {},
                bounds={"400,000/s": POSTED_WANTED} if full else {},
            )


def polls(effort: Effort) -> Iterator[Row]:
    """From a log of 100,000 records (fewer if they are large) in files, from many places in it."""
    flashq, redis, nats = FlashQServer(), Redis(), NATS()
    for size in (100,) if effort.quick else (100, 1000, 10_000):
        filled = FILLED * 100 // size if size > 1000 else FILLED
        with serving([flashq, redis, nats], "periodic") as field:
            _fill(field, filled, size)
            for records in (1000,) if effort.quick else (1, 100, 1000):
                offsets = (
                    [offset % (filled - records) for offset in range(0, 64 * 7919, 7919)] if filled > records else [0]
                )
                loads = {peer.name: peer.poll(offsets, records) for peer in (flashq, redis, nats)}
                limit = codec.Codec(records, size)
                full = records == 1000 and size == 100
                contenders = field.race(
                    loads, CONNECTIONS, effort, {codec.NAME_WITH_JSON: partial(_on_one_core, limit.poll, effort)}
                )
                yield compare(
                    f"batch/poll/{records}x{size}",
                    f"polls of {records:,} x {size:,} B",
                    "records/s",
                    contenders,
                    wanted={codec.NAME_WITH_JSON: 0.5} if full else {},
                    bounds={"600,000/s": POLLED_WANTED} if full else {},
                )


def latest(effort: Effort) -> Iterator[Row]:
    """The one latest record, asked for again and again, as a dashboard does."""
    flashq, limit = FlashQServer(), HTTPLimit()
    with serving([flashq, limit], "periodic") as field:
        for peer in (flashq, limit):
            generate(field.servers[peer.name], peer.post(1, 100), 1, 0.1)
        end = flashq.stored(field.servers[flashq.name])
        loads = {peer.name: peer.poll([end - 1], 1) for peer in (flashq, limit)}
        yield compare(
            "latest/32",
            "GET of the latest record, 32 connections",
            "records/s",
            field.race(loads, 32, effort),
            wanted={limit.name: 0.7},
        )


def _shapes(effort: Effort) -> list[tuple[int, int]]:
    if effort.quick:
        return [(1000, 100)]
    return [(records, size) for size in (100, 1000, 10_000) for records in (10, 100, 1000)]


def _fill(field: Field, records: int, size: int) -> None:
    """The same records into each server that runs, Redis with ids we can ask for."""
    for name, server in field.servers.items():
        peer = field.peers[name]
        if isinstance(peer, Redis):
            peer.fill(server, records, size)
            continue
        batch = 100
        load = peer.post(batch, size)
        while (peer.stored(server) or 0) < records:
            generate(server, load, CONNECTIONS, 0.2)


def _on_one_core(work: Callable[[], int], effort: Effort) -> Figures:
    with on_cores(SERVER_CORES):
        return rate(work, effort.seconds)
