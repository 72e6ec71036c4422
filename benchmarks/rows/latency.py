"""How long a durable post takes when the server is half busy: an open loop at half the rate it can do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.load import generate
from benchmarks.measure import Effort, Figures, Row, compare
from benchmarks.peers import disk
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.peers.nats import NATS
from benchmarks.peers.redis import Redis
from benchmarks.peers.synced_http import SyncedHTTP
from benchmarks.rows.servers import Field, serving

CONNECTIONS = 32
PROBES = 200
WANTED = 6.0  # fdatasyncs


def durable(effort: Effort) -> Iterator[Row]:
    """The p99 from when a post was due to its answer, in fdatasyncs of the same disk in the same round: waiting for the
    one under way, then for one's own, is two."""
    with serving([FlashQServer(), Redis(), NATS(), SyncedHTTP()], "always") as field:
        yield compare(
            "latency/always",
            f"single posts, always, {CONNECTIONS} connections, at half the full rate, p99",
            "fdatasyncs",
            field.each(partial(_half_busy, field, effort), effort, figure="p99_fdatasyncs"),
            bounds={f"{WANTED:.0f} fdatasyncs": WANTED},
            figure="p99_fdatasyncs",
            less_is_better=True,
        )


def _half_busy(field: Field, effort: Effort, name: str) -> Figures:
    server, load = field.servers[name], field.peers[name].post(1, 100)
    full = generate(server, load, CONNECTIONS, effort.seconds)
    figures = generate(server, load, CONNECTIONS, 2 * effort.seconds, full["rate"] / 2)
    fdatasync_us = disk.fdatasync_us(PROBES)
    return {
        **figures,
        "full_rate": full["rate"],
        "fdatasync_us": fdatasync_us,
        "p99_fdatasyncs": figures["p99_us"] / fdatasync_us,
    }
