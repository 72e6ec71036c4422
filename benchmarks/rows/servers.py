"""Servers side by side, each with the same work in every round."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from benchmarks import load
from benchmarks.load import Load, generate
from benchmarks.measure import Contender, Effort, Figures, Work, interleave
from benchmarks.peers import Durability, Peer
from benchmarks.processes import Server


class Field:
    """Peers that run, and why the others do not."""

    def __init__(self, peers: Sequence[Peer], servers: Mapping[str, Server], missing: Mapping[str, str]) -> None:
        self.peers = {peer.name: peer for peer in peers}
        self.servers = servers
        self.missing = missing

    def race(
        self, loads: Mapping[str, Load], connections: int, effort: Effort, limits: Mapping[str, Work] | None = None
    ) -> list[Contender]:
        """The load of each contender, by name, on so many connections; and limits measured in the same rounds."""

        def post(name: str) -> Figures:
            return generate(self.servers[name], loads[name], connections, effort.seconds)

        return self.each(post, effort, limits)

    def each(
        self,
        run: Callable[[str], Figures],
        effort: Effort,
        limits: Mapping[str, Work] | None = None,
        figure: str = "rate",
    ) -> list[Contender]:
        """One run for each contender in each round, given its name; `figure` is what the row compares."""
        work: dict[str, Work] = {name: self.missing[name] or partial(run, name) for name in self.peers}
        return interleave(work | dict(limits or {}), effort, figure)


def race_to_post(
    peers: Sequence[Peer],
    durability: Durability,
    loads: Mapping[str, Load],
    connections: int,
    effort: Effort,
    limits: Mapping[str, Work] | None = None,
) -> list[Contender]:
    """The load of each peer, by name, on a server that is started anew for each of its rounds; and limits.

    One start of a server is not another, by several percent; and what earlier rounds have posted slows down whoever
    keeps it. Raises RuntimeError if a server acknowledged records that it has not stored.
    """

    def post(peer: Peer) -> Figures:
        os.sync()  # what the one before has written, and deleted
        with peer.serving(durability) as server:
            figures = generate(server, loads[peer.name], connections, effort.seconds)
            stored, acknowledged = peer.stored(server), figures["requests"] * loads[peer.name].records
        if stored is not None and stored < acknowledged:
            raise RuntimeError(f"{peer.name} acknowledged {acknowledged:,.0f} records and stored {stored:,}")
        return figures

    work: dict[str, Work] = {peer.name: _missing(peer) or partial(post, peer) for peer in peers}
    return interleave(work | dict(limits or {}), effort)


@contextlib.contextmanager
def serving(peers: Sequence[Peer], durability: Durability) -> Iterator[Field]:
    """Each of the peers that can run here, on its own port and directory."""
    missing = {peer.name: _missing(peer) for peer in peers}
    with contextlib.ExitStack() as stack:
        servers = {peer.name: stack.enter_context(peer.serving(durability)) for peer in peers if not missing[peer.name]}
        yield Field(peers, servers, missing)


def _missing(peer: Peer) -> str:
    """Why it cannot run here, or ""."""
    return load.missing() or peer.missing()
