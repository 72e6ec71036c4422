"""The log inside a program: posts and polls of batches and of single records, from one thread and from four."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.machine import scratch
from benchmarks.measure import Effort, Figures, Row, Work, compare, interleave, rate
from benchmarks.peers import Durability, EmbeddedLog, EmbeddedPeer, codec, disk, value
from benchmarks.peers.flashq_embedded import FlashQEmbedded
from benchmarks.peers.litequeue import LiteQueue
from benchmarks.peers.persist_queue import PersistQueue
from benchmarks.peers.sqlite import SQLite

BATCH, SIZE = 1000, 100
READ_FROM = 100_000


def posts(durability: Durability, effort: Effort) -> Iterator[Row]:
    """Batches of 1,000 and single records. What is on SQLite has a durability of its own."""
    queues: list[EmbeddedPeer] = []
    wanted = {}
    if durability == "periodic":
        queues = [LiteQueue(transactions=False), LiteQueue(transactions=True), PersistQueue()]
        wanted = {SQLite.name: 2.0, "litequeue": 50.0, codec.NAME: 0.5}
    yield _posts(durability, BATCH, 1, effort, queues, wanted)
    if not effort.quick:
        yield _posts(durability, BATCH, 4, effort)
        yield _posts(durability, 1, 1, effort, queues)
        yield _posts(durability, 1, 4, effort)


def polls(effort: Effort) -> Iterator[Row]:
    """Batches of 1,000 from a log of 100,000 records, in the order of offsets."""
    for threads in (1,) if effort.quick else (1, 4):
        with _opened([FlashQEmbedded(), SQLite()], "periodic") as logs:
            work: dict[str, Work] = {}
            for name, log in logs.items():
                for _ in range(READ_FROM // BATCH):
                    log.append([value(SIZE)] * BATCH)
                work[name] = partial(_in_threads, partial(_reader, log), threads, effort.seconds)
            if threads == 1:
                work[codec.NAME] = partial(rate, codec.Codec(BATCH, SIZE).decode, effort.seconds)
            yield compare(
                f"embedded/poll/{BATCH}/{threads}",
                f"embedded polls of {BATCH:,} x {SIZE} B{_threads(threads)}",
                "records/s",
                interleave(work, effort),
                wanted={codec.NAME: 0.5},
            )


def _posts(
    durability: Durability,
    batch: int,
    threads: int,
    effort: Effort,
    more: Sequence[EmbeddedPeer] = (),
    wanted: dict[str, float] | None = None,
) -> Row:
    values = [value(SIZE)] * batch
    peers: list[EmbeddedPeer] = [FlashQEmbedded(), SQLite(), *more]
    with _opened(peers, durability) as logs:
        work: dict[str, Work] = {peer.name: peer.missing() for peer in peers}
        for name, log in logs.items():
            work[name] = partial(_in_threads, partial(_poster, log, values), threads, effort.seconds)
        if batch > 1 and threads == 1 and durability == "periodic":
            work[codec.NAME] = partial(rate, codec.Codec(batch, SIZE).encode, effort.seconds)
        if durability == "always" and threads == 1:
            work[disk.NAME] = disk.missing() or partial(_disk, batch, effort.seconds)
        return compare(
            f"embedded/post/{durability}/{batch}/{threads}",
            f"embedded posts of {batch:,} x {SIZE} B, {durability}{_threads(threads)}",
            "records/s",
            interleave(work, effort),
            wanted=wanted,
        )


@contextlib.contextmanager
def _opened(peers: Sequence[EmbeddedPeer], durability: Durability) -> Iterator[dict[str, EmbeddedLog]]:
    """The logs of those that can run here."""
    with contextlib.ExitStack() as stack:
        yield {
            peer.name: stack.enter_context(peer.opened(stack.enter_context(scratch()), durability))
            for peer in peers
            if not peer.missing()
        }


def _poster(log: EmbeddedLog, values: list[bytes]) -> Callable[[], int]:
    def post() -> int:
        log.append(values)
        return len(values)

    return post


def _reader(log: EmbeddedLog) -> Callable[[], int]:
    """What reads the next batch at each call, from the first again after the last."""
    offset = 0

    def read() -> int:
        nonlocal offset
        found = log.read(offset, BATCH)
        assert found == BATCH
        offset = (offset + BATCH) % READ_FROM
        return found

    return read


def _in_threads(work: Callable[[], Callable[[], int]], threads: int, seconds: float) -> Figures:
    """The rates of as many threads, each with work of its own, together."""
    if threads == 1:
        return rate(work(), seconds)
    found: list[Figures] = []
    running = [threading.Thread(target=lambda: found.append(rate(work(), seconds))) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if len(found) < threads:
        raise RuntimeError("a thread failed; what it raised is above")
    return {"rate": sum(figures["rate"] for figures in found)}


def _disk(batch: int, seconds: float) -> Figures:
    """As bytes, a batch as FlashQ writes it; figures in records."""
    stored = len(codec.encode_batch([value(SIZE)] * batch))
    return {"rate": disk.synced_appends(stored, seconds) * batch}


def _threads(threads: int) -> str:
    return f", {threads} threads" if threads > 1 else ""
