"""`python -m benchmarks.page`: the newest of each row in benchmarks/results/, into docs/performance.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from benchmarks import plots
from benchmarks.families import FAMILIES
from benchmarks.measure import Row
from benchmarks.report import Run, earlier, history, latest, lined_up, quantity, table

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURES = DOCS / "performance.md", DOCS / "performance"
BEGIN, END = "<!-- results: written by python -m benchmarks.page -->\n", "<!-- end of results -->\n"
FIGURES = {
    "rate": "records/s",
    "p50_us": "p50 us",
    "p99_us": "p99 us",
    "p999_us": "p999 us",
    "cpu_s_per_million": "CPU s/million",
}


def write() -> None:
    """Also says which rows there could be and are not, in one line."""
    runs = history()
    newest = latest(runs)
    sections: dict[str, list[tuple[Row, Run]]] = {}
    for family in FAMILIES:
        found = [(row, run) for row, run in newest.values() if row.family == family]
        sections.setdefault(family.split("/")[0], []).extend(found)
    parts = [_targets([row for found in sections.values() for row, _ in found], runs)]
    parts += [_section(name, found, runs) for name, found in sections.items() if found]
    missing = [family for family in FAMILIES if not any(row.family == family for row, _ in newest.values())]
    if missing:
        parts.append(f"Not measured in any run kept: {', '.join(f'`{name}`' for name in missing)}.\n")
    parts.append(_pictures([row for row, _ in newest.values()], runs))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(parts) + f"\n{END}{after}", encoding="utf-8")


def _targets(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """Every comparison that has a target, and no other."""
    wanted = [
        msgspec.structs.replace(row, comparisons=[each for each in row.comparisons if each.wanted is not None])
        for row in rows
    ]
    return f"### Targets\n\n```text\n{table(wanted, earlier(runs))}\n```\n"


def _section(name: str, found: Sequence[tuple[Row, Run]], runs: Sequence[Run]) -> str:
    rows = [row for row, _ in found]
    text = f"### {name}\n\n`make bench ARGS='--only {name}'`, measured {_when(run for _, run in found)}\n\n"
    text += f"```text\n{table(rows, earlier(runs))}\n```\n"
    details = _details(rows)
    return f"{text}\n```text\n{details}\n```\n" if details else text


def _when(runs: Iterable[Run]) -> str:
    """The runs by time and commit."""
    return ", ".join(sorted({f"{run.started:%Y-%m-%d %H:%M} at {run.machine['commit']}" for run in runs})) + "."


def _details(rows: Sequence[Row]) -> str:
    """A line for each contender of the rows that have latencies: medians of the rounds."""
    lines = [("what", "contender", *FIGURES.values())]
    for row in rows:
        for contender in row.contenders:
            if contender.rounds and "p50_us" in contender.rounds[0] and not row.key.startswith("cpu/"):
                figures = [contender.median(name) if name in contender.rounds[0] else None for name in FIGURES]
                cells = ("" if figure is None else quantity(figure) for figure in figures)
                lines.append((row.what, contender.name, *cells))
    return lined_up(lines) if len(lines) > 1 else ""


def _pictures(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    if find_spec("matplotlib") is None:
        return "Pictures were not drawn: matplotlib is not installed (`make bench-peers`).\n"
    drawn = plots.draw(rows, runs, PICTURES)
    images = "".join(f"![{title}](performance/{name})\n\n" for title, name in drawn)
    machine = "".join(f"- {name}: {fact}\n" for name, fact in runs[-1].machine.items() if name != "commit")
    heads = "### Pictures\n\nBars are medians, with the range of all rounds."
    return f"{heads}\n\n{images}### Machine of the last run\n\n{machine}"


if __name__ == "__main__":
    write()
    sys.exit(0)
