"""`make bench`: FlashQ side by side with its peers and with the limits of this machine, as ratios within one run."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial

from benchmarks.machine import facts
from benchmarks.measure import FULL, NOISE_BOUND, QUICK, Effort, Row
from benchmarks.peers import Durability
from benchmarks.report import Run, history, latest, save, table
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


def main() -> int:
    asked = _arguments()
    wanted = tuple(asked.only.split(",")) if asked.only else QUICK_FAMILIES if asked.quick else ("",)
    families = {name: rows for name, rows in FAMILIES.items() if name.startswith(wanted)}
    if not families:
        print(f"No rows begin with {asked.only}. There are {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    before = latest(history())
    run = Run(datetime.now(UTC), shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), facts(), [])
    failed = []
    for name, rows in families.items():
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            for row in rows(QUICK if asked.quick else FULL):
                run.rows.append(row)
        except (RuntimeError, OSError, subprocess.SubprocessError):
            failed.append(name)
            traceback.print_exc()
    print(table(run.rows, before))
    if asked.keep:
        print(f"kept in {save(run)}", file=sys.stderr)
    if failed:
        print(f"FAILED, see above: {', '.join(failed)}", file=sys.stderr)
        return 4
    return _outcome(run.rows)


def _outcome(rows: list[Row]) -> int:
    """0; 1 if a target was missed; 3 if the machine was too noisy to say."""
    verdicts = [comparison.verdict for row in rows for comparison in row.comparisons]
    noisy, short = verdicts.count("NOISY"), verdicts.count("SHORT")
    if short:
        print(f"{short} of {len(verdicts)} comparisons fall short of their target.", file=sys.stderr)
    if noisy:
        print(
            f"{noisy} of {len(verdicts)} comparisons were TOO NOISY to mean anything: their ratios spread by more than "
            f"{NOISE_BOUND:.0%}. Run them again with nothing else on this machine.",
            file=sys.stderr,
        )
        return 3
    return 1 if short else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: under two minutes")
    parser.add_argument("--only", default="", metavar="ROWS", help="families that begin so, with commas between")
    parser.add_argument("--keep", action="store_true", help="add the run to benchmarks/results/")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
