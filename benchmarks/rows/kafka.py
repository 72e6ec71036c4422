"""FlashQ beside Apache Kafka, which is measured by its own tools: batches of 1,000 x 100 B, posted and polled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from benchmarks import load
from benchmarks.load import generate
from benchmarks.measure import Effort, Row, Work, compare, interleave
from benchmarks.peers import Durability
from benchmarks.peers.flashq_server import FlashQServer
from benchmarks.peers.kafka import Kafka

BATCH, SIZE = 1000, 100
COUNT = 1_000_000  # records a round, for a virtual machine to get warm
CONNECTIONS = 4


def rows(durability: Durability, effort: Effort) -> Iterator[Row]:
    """Posts, and polls of what they left."""
    flashq, kafka = FlashQServer(), Kafka()
    count = int(COUNT * effort.scale)
    with contextlib.ExitStack() as stack:
        posts: dict[str, Work] = {flashq.name: load.missing(), kafka.name: kafka.missing()}
        polls = dict(posts)
        if not load.missing():
            ours = stack.enter_context(flashq.serving(durability))
            posts[flashq.name] = partial(generate, ours, flashq.post(BATCH, SIZE), CONNECTIONS, effort.seconds)
            polls[flashq.name] = partial(generate, ours, flashq.poll([0, 5000], BATCH), CONNECTIONS, effort.seconds)
        if not kafka.missing():
            theirs = stack.enter_context(kafka.serving(durability))
            posts[kafka.name] = partial(kafka.post, theirs, count, BATCH, SIZE)
            polls[kafka.name] = partial(kafka.poll, theirs, count)
        what = f"of {BATCH:,} x {SIZE} B, {durability}, beside Kafka"
        yield compare(f"kafka/post/{durability}", f"posts {what}", "records/s", interleave(posts, effort))
        if durability == "periodic":
            yield compare("kafka/poll", f"polls {what}", "records/s", interleave(polls, effort))
