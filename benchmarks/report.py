"""The report: a table for people, JSON for machines and for later runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from benchmarks.measure import Comparison, Row

RESULTS = Path(__file__).parent / "results"


Earlier = dict[tuple[str, str], list[float]]
"""Ratios by the key of a row and what it was compared with."""


class Run(msgspec.Struct):
    """One run: when, where, how, and what it found."""

    started: datetime
    command: str
    machine: dict[str, str]
    rows: list[Row]


def save(run: Run) -> Path:
    """Add to the history."""
    path = RESULTS / f"{run.started:%Y-%m-%dT%H%M%SZ}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    return path


def history() -> list[Run]:
    """All runs kept, oldest first."""
    return [msgspec.json.decode(path.read_bytes(), type=Run) for path in sorted(RESULTS.glob("*.json"))]


def latest(runs: Iterable[Run]) -> dict[str, tuple[Row, Run]]:
    """Of every row the newest measurement, with its run."""
    return {row.key: (row, run) for run in runs for row in run.rows}


def earlier(runs: Sequence[Run]) -> Earlier:
    """The ratios of every comparison in these runs, oldest first."""
    found: Earlier = {}
    for run in runs:
        for row in run.rows:
            for each in row.comparisons:
                if each.ratio is not None:
                    found.setdefault((row.key, each.against), []).append(each.ratio)
    return found


def table(rows: Sequence[Row], before: Earlier) -> str:
    """A line for each comparison. `before` has the ratios of earlier runs, which may include this one."""
    heads = ("what", "ours", "against", "theirs", "ratio", "wanted", "spread", "before", "")
    return lined_up([heads, *(_cells(row, each, before) for row in rows for each in row.comparisons)])


def lined_up(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(row: Row, comparison: Comparison, before: Earlier) -> tuple[str, ...]:
    ours = "" if row.ours.missing else f"{quantity(row.ours.median(row.figure))} {row.unit}"
    ratios = [ratio for ratio in before.get((row.key, comparison.against), []) if ratio != comparison.ratio]
    return (
        row.what,
        ours,
        comparison.against,
        comparison.missing if comparison.theirs is None else quantity(comparison.theirs),
        "" if comparison.ratio is None else f"{comparison.ratio:.2f}",
        "" if comparison.wanted is None else f"{comparison.wanted:.2f}",
        "" if comparison.ratio is None else f"{comparison.spread:.0%}",
        f"{ratios[-1]:.2f}" if ratios else "",
        comparison.verdict,
    )


def quantity(value: float) -> str:
    """Three significant digits or whole numbers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
