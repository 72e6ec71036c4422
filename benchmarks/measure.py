"""How things are measured: rounds interleaved, medians with their spread, ratios from one run."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Series:
    """The rates (a second) of one contender over the rounds of a run."""

    name: str
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """(max - min) / median: how much to believe."""
        return (max(self.rates) - min(self.rates)) / self.median


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Series]:
    """Each contender once a round, so that a noisy minute hits all of them."""
    series = {name: Series(name) for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            series[name].rates.append(run())
    return series


def median_ratio(ours: Series, theirs: Series) -> float:
    """The median of the ratios within each round: what the machine did to both cancels out."""
    return statistics.median(a / b for a, b in zip(ours.rates, theirs.rates, strict=True))


def rate(work: Callable[[], int]) -> float:
    """Things done a second, by one call that says how many it did."""
    start = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - start)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Row:
    """One line of the report: a figure, what it is compared with, and the ratio that is wanted (None: none)."""

    what: str
    figure: str
    against: str
    ratio: float | None
    wanted: float | None
    spread: float = 0.0

    @property
    def verdict(self) -> str:
        if self.ratio is None or self.wanted is None:
            return ""
        return "ok" if self.ratio >= self.wanted else "SHORT"


def report(rows: Sequence[Row]) -> str:
    """A table for people."""
    cells = [("what", "figure", "against", "ratio", "wanted", "spread", "")]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        wanted = "" if row.wanted is None else f"{row.wanted:.2f}"
        cells.append((row.what, row.figure, row.against, ratio, wanted, f"{row.spread:.0%}", row.verdict))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )
