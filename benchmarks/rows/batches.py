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
from benchmarks.rows.posts import cpu
from benchmarks.rows.servers import Field, race_to_post, serving

CONNECTIONS = 4
"""A batch is work enough for its connection; these keep the server busy."""
TARGET = (1000, 100)
POSTED_WANTED, POLLED_WANTED = 400_000, 600_000  # records/s at the target
FILLED = 100_000  # records in a log that is polled; a tenth of 10 kB


def posts(durability: Durability, size: int, effort: Effort) -> Iterator[Row]:
    """Redis and NATS get as many commands in one write, and answer each."""
    peers: list[Peer] = [FlashQServer(), Redis(), NATS()]
    for records in (1000,) if effort.quick or durability != "periodic" else (10, 100, 1000):
        loads = {peer.name: peer.post(records, size) for peer in peers}
        limits = {codec.NAME_WITH_JSON: partial(_on_one_core, codec.Codec(records, size).post, effort)}
        contenders = race_to_post(peers, durability, loads, CONNECTIONS, effort, limits)
        is_target = (records, size) == TARGET
        what = f"posts of {records:,} x {size:,} B, {durability}"
        yield compare(
            f"batch/post/{durability}/{records}x{size}",
            what,
            "records/s",
            contenders,
            wanted={codec.NAME_WITH_JSON: 0.5} if is_target else {},
            bounds={"400,000/s": POSTED_WANTED} if is_target else {},
        )
        if is_target:
            yield cpu(f"cpu/batch/{durability}", what, contenders)


def polls(size: int, effort: Effort) -> Iterator[Row]:
    """From a log in files, from many places in it."""
    filled = min(FILLED, FILLED * 1000 // size)
    with serving([FlashQServer(), Redis(), NATS()], "periodic") as field:
        _fill(field, filled, size)
        for records in (1000,) if effort.quick else (1, 100, 1000):
            offsets = [offset % (filled - records) for offset in range(0, 64 * 7919, 7919)]
            loads = {name: peer.poll(offsets, records) for name, peer in field.peers.items()}
            limits = {codec.NAME_WITH_JSON: partial(_on_one_core, codec.Codec(records, size).poll, effort)}
            is_target = (records, size) == TARGET
            yield compare(
                f"batch/poll/{records}x{size}",
                f"polls of {records:,} x {size:,} B",
                "records/s",
                field.race(loads, CONNECTIONS, effort, limits),
                wanted={codec.NAME_WITH_JSON: 0.5} if is_target else {},
                bounds={"600,000/s": POLLED_WANTED} if is_target else {},
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


def _fill(field: Field, records: int, size: int) -> None:
    """At least so many into each server that runs, Redis with ids we can ask for."""
    for name, server in field.servers.items():
        peer = field.peers[name]
        if isinstance(peer, Redis):
            peer.fill(server, records, size)
            continue
        while (peer.stored(server) or 0) < records:
            generate(server, peer.post(100, size), CONNECTIONS, 0.2)


def _on_one_core(work: Callable[[], int], effort: Effort) -> Figures:
    with on_cores(SERVER_CORES):
        return rate(work, effort.seconds)
