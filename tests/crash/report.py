"""The report of `make crash`: what each long run came to, kept between runs and written into docs/reliability.md.

A run of a part replaces the rows of that part. The page's text above `HEADING` is written by hand and left alone.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
KEPT = _ROOT / ".crash-results.json"
PAGE = _ROOT / "docs" / "reliability.md"
HEADING = "## The last run\n"


@dataclass(frozen=True, slots=True)
class Result:
    """One test: its outcome in pytest's words, what it told, when, how long and of which commit it ran."""

    outcome: str
    came_to: str
    seed: int | None
    duration_s: float
    date: str
    commit: str = ""
    """Not known of rows of older runs."""


def keep(results: Mapping[str, Result], kept: Path = KEPT, page: Path = PAGE) -> None:
    """Add these results, by test id, to those of earlier runs, and write the page."""
    known: dict[str, dict[str, object]] = json.loads(kept.read_text()) if kept.exists() else {}
    known |= {test: asdict(result) for test, result in results.items()}
    kept.write_text(json.dumps(known, indent=1))
    text = page.read_text(encoding="utf-8").partition(HEADING)[0]
    every = {test: Result(**facts) for test, facts in known.items()}  # type: ignore[arg-type]
    page.write_text(text + render(every), encoding="utf-8")


def render(results: Mapping[str, Result]) -> str:
    """The section with a row for each test, in the order of files and names."""
    machine = f"Linux {platform.release().split('-')[0]}, {os.cpu_count()} processors, Python {sys.version.split()[0]}"
    lines = [HEADING, f"On {machine}.", "", "| test | outcome | seed | what it came to |", "|---|---|---|---|"]
    for test, result in sorted(results.items()):
        when = ", ".join(filter(None, (f"{result.duration_s:.0f} s", result.date, result.commit)))
        what = f"{result.came_to} ({when})".replace("|", "\\|")
        lines.append(f"| {sentence(test)} | {result.outcome} | {result.seed or ''} | {what} |")
    return "\n".join([*lines, ""])


def sentence(test: str) -> str:
    """A test id as the sentence it is: `a/test_b.py::test_x_y[z]` is `X y: z`."""
    name, _, case = test.rpartition("::")[2].partition("[")
    words = re.sub(r"^test_", "", name).replace("_", " ")
    text = words[0].upper() + words[1:]
    return f"{text}: {case.rstrip(']')}" if case else text
