"""The report's pictures: bars for each contender with the range of its rounds, and ratios over the runs kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.report import Run


@dataclass(frozen=True)
class Chart:
    """Bars of one figure for the rows whose keys begin with `keys`, labelled with what they do not share."""

    name: str
    title: str
    keys: str
    figure: str = "rate"
    unit: str = "records/s"
    logarithmic: bool = False


_MODES = ("memory", "periodic", "always")
CHARTS = (
    *(Chart(f"single-{mode}", f"Single posts, {mode}, by connections", f"single/{mode}/", "rate") for mode in _MODES),
    *(
        Chart(
            f"single-{mode}-p99",
            f"p99 of single posts, {mode}, by connections",
            f"single/{mode}/",
            "p99_us",
            "us",
            True,
        )
        for mode in _MODES
    ),
    Chart("batch-post", "Posts of batches over the network, periodic", "batch/post/periodic/", logarithmic=True),
    Chart("batch-poll", "Polls over the network", "batch/poll/", logarithmic=True),
    Chart("follow", "Post to consumer group, p50 at 1,000/s", "follow/", "p50_us", "us"),
    Chart("fan-out", "Post to every stream, p99 at 200/s, by streams", "fan-out/", "p99_us", "us", True),
    Chart("embedded", "Posts inside a program", "embedded/post/", logarithmic=True),
    Chart("log-size", "Opening a log, by GiB", "log-size/open/", "open_s", "s"),
)


def draw(rows: Sequence[Row], runs: Sequence[Run], directory: Path) -> list[tuple[str, str]]:
    """SVG files in the directory, which holds nothing else. Gives the title and file name of each."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "flashq", "font.size": 8})
    directory.mkdir(exist_ok=True)
    for old in directory.glob("*.svg"):
        old.unlink()
    drawn = []
    for chart in CHARTS:
        shown = [row for row in rows if row.key.startswith(chart.keys) and _has(row, chart.figure)]
        if shown:
            _bars(chart, shown, directory / f"{chart.name}.svg")
            drawn.append((chart.title, f"{chart.name}.svg"))
    if _history(rows, runs, directory / "history.svg"):
        drawn.append(("Ratios over the runs kept, as shares of what is wanted", "history.svg"))
    return drawn


def _has(row: Row, figure: str) -> bool:
    return any(figure in figures for contender in row.contenders for figures in contender.rounds)


def _bars(chart: Chart, rows: Sequence[Row], path: Path) -> None:
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(contender.name for row in rows for contender in row.contenders))
    figure, axes = plt.subplots(figsize=(max(6, 1.1 * len(rows)), 3), layout="constrained")
    width = 0.8 / len(names)
    for at, name in enumerate(names):
        places, medians, below, above = [], [], [], []
        for place, row in enumerate(rows):
            found = next((each for each in row.contenders if each.name == name), None)
            if found is None or not found.rounds or chart.figure not in found.rounds[0]:
                continue
            values = [figures[chart.figure] for figures in found.rounds]
            middle = found.median(chart.figure)
            places.append(place + (at - len(names) / 2 + 0.5) * width)
            medians.append(middle)
            below.append(middle - min(values))
            above.append(max(values) - middle)
        axes.bar(places, medians, width, yerr=[below, above], label=name, error_kw={"elinewidth": 0.6})
    axes.set_xticks(range(len(rows)), [row.key.removeprefix(chart.keys) for row in rows])
    axes.set_ylabel(chart.unit)
    axes.set_title(chart.title)
    if chart.logarithmic:
        axes.set_yscale("log")
    axes.legend(fontsize=6)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _history(rows: Sequence[Row], runs: Sequence[Run], path: Path) -> bool:
    """A line for each comparison with a target that was made more than once: falling means slower than it was."""
    import matplotlib.pyplot as plt

    lines: dict[str, list[tuple[str, float]]] = {}
    for run in runs:
        for row in run.rows:
            for each in row.comparisons:
                if each.wanted and each.ratio:
                    reached = each.ratio / each.wanted
                    lines.setdefault(f"{row.key} / {each.against}", []).append((f"{run.started:%m-%d %H:%M}", reached))
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return False
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    for name, points in lines.items():
        axes.plot([when for when, _ in points], [reached for _, reached in points], marker=".", label=name)
    axes.axhline(1.0, color="black", linewidth=0.6)
    axes.set_yscale("log")
    axes.set_ylabel("ratio / wanted")
    axes.legend(fontsize=5, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True
