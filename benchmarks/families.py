"""All there is to measure, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from benchmarks.measure import Effort, Row
from benchmarks.peers import Durability
from benchmarks.rows import (
    batches,
    command_line,
    embedded,
    following,
    footprint,
    generator,
    kafka,
    latency,
    log_size,
    posts,
    replicated,
)

DURABILITIES: tuple[Durability, ...] = ("memory", "periodic", "always")
FAMILIES: Mapping[str, Callable[[Effort], Iterator[Row]]] = {
    "generator": generator.rows,
    **{f"single/{mode}/{n}": partial(posts.single, mode, n) for mode in DURABILITIES for n in posts.CONNECTIONS},
    "latest": batches.latest,
    "latency": latency.durable,
    **{f"batch/post/{mode}/100": partial(batches.posts, mode, 100) for mode in DURABILITIES},
    "batch/post/periodic/1000": partial(batches.posts, "periodic", 1000),
    "batch/post/periodic/10000": partial(batches.posts, "periodic", 10_000),
    **{f"batch/poll/{size}": partial(batches.polls, size) for size in (100, 1000, 10_000)},
    "kafka/periodic": partial(kafka.rows, "periodic"),
    "kafka/always": partial(kafka.rows, "always"),
    "replicated": replicated.rows,
    "follow/periodic": partial(following.group, "periodic"),
    "follow/always": partial(following.group, "always"),
    **{f"fan-out/{readers}": partial(following.fan_out, readers) for readers in (1, 10, 100)},
    "embedded/post/periodic": partial(embedded.posts, "periodic"),
    "embedded/post/always": partial(embedded.posts, "always"),
    "embedded/poll": embedded.polls,
    "log-size/append": log_size.append,
    "log-size/open": log_size.opening,
    "command": command_line.rows,
    "footprint": footprint.rows,
}
"""Rows that share servers, by the beginning of their keys."""

QUICK_FAMILIES = (
    "single/memory/32",
    "single/periodic/32",
    "single/always/32",
    "latest",
    "batch/post/periodic/100",
    "batch/poll/100",
    "follow/periodic",
    "embedded",
)
