"""How things are compared: rounds interleaved, ratios within a round, medians with their spread, verdicts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

Figures = dict[str, float]
"""What one round measured, by name: rate, p50_us, p99_us, p999_us, cpu_s_per_million, ..."""

Work = Callable[[], Figures] | str
"""One round of a contender, or why it cannot run here."""

NOISE_BOUND = 0.25
"""A spread above this is too noisy to compare, and fails the run."""


class Effort(msgspec.Struct, frozen=True):
    """How much to measure: `rounds` of `seconds` each; `scale` is what sizes and counts are multiplied by."""

    rounds: int
    seconds: float
    scale: float
    quick: bool = False


FULL = Effort(rounds=5, seconds=1.0, scale=1.0)
QUICK = Effort(rounds=3, seconds=0.5, scale=0.1, quick=True)


class Contender(msgspec.Struct):
    """One side of a comparison, round by round. `missing` says why it could not run here."""

    name: str
    rounds: list[Figures] = []
    missing: str = ""

    def median(self, figure: str) -> float:
        return statistics.median(figures[figure] for figures in self.rounds)

    def spread(self, figure: str) -> float:
        return spread([figures[figure] for figures in self.rounds])


class Comparison(msgspec.Struct):
    """Us against one contender, or against a bound in the row's own unit. A ratio above 1 is in our favour."""

    against: str
    theirs: float | None
    ratio: float | None
    spread: float
    wanted: float | None
    missing: str = ""

    @property
    def verdict(self) -> Literal["ok", "SHORT", "NOISY", "MISSING", ""]:
        if self.ratio is None:
            return "MISSING"
        if self.spread > NOISE_BOUND:
            return "NOISY"
        if self.wanted is None:
            return ""
        return "ok" if self.ratio >= self.wanted else "SHORT"


class Row(msgspec.Struct):
    """The same work for us and for each contender, in the same rounds. The first contender is FlashQ."""

    key: str
    what: str
    unit: str
    contenders: list[Contender]
    comparisons: list[Comparison]
    figure: str = "rate"
    less_is_better: bool = False
    family: str = ""
    """What `--only` takes to measure it again."""

    @property
    def ours(self) -> Contender:
        return self.contenders[0]


def interleave(work: Mapping[str, Work], effort: Effort, figure: str = "rate") -> list[Contender]:
    """Each contender once a round, every other round in reverse, so that a noisy minute hits all of them and nobody
    always goes first. Up to twice the rounds while this figure of theirs is too noisy to compare, unless in a hurry. In
    place of work stands why it cannot be done."""
    found = {
        name: Contender(name, missing=run) if isinstance(run, str) else Contender(name) for name, run in work.items()
    }
    number = 0
    most = effort.rounds if effort.quick else 2 * effort.rounds
    while number < effort.rounds or (number < most and _is_noisy(list(found.values()), figure)):
        for name in list(work)[:: -1 if number % 2 else 1]:
            run = work[name]
            if not isinstance(run, str):
                found[name].rounds.append(run())
        number += 1
    return list(found.values())


def compare(
    key: str,
    what: str,
    unit: str,
    contenders: list[Contender],
    *,
    wanted: Mapping[str, float] | None = None,
    bounds: Mapping[str, float] | None = None,
    figure: str = "rate",
    less_is_better: bool = False,
) -> Row:
    """`wanted` is the least ratio by contender; `bounds` are values in the row's unit that we should reach, by name."""
    wanted = wanted or {}
    ours, *others = contenders
    mine = [figures[figure] for figures in ours.rounds]
    comparisons = []
    for other in others:
        if missing := ours.missing or other.missing:
            comparisons.append(Comparison(other.name, None, None, 0.0, wanted.get(other.name), missing))
            continue
        theirs = [figures[figure] for figures in other.rounds]
        ratios = [b / a if less_is_better else a / b for a, b in zip(mine, theirs, strict=True)]
        comparisons.append(
            Comparison(
                other.name,
                statistics.median(theirs),
                statistics.median(ratios),
                spread(ratios),
                wanted.get(other.name),
            )
        )
    for name, bound in (bounds or {}).items():
        if ours.missing:
            comparisons.append(Comparison(name, None, None, 0.0, 1.0, ours.missing))
            continue
        reached = statistics.median(mine)
        ratio = bound / reached if less_is_better else reached / bound
        comparisons.append(Comparison(name, bound, ratio, spread(mine), 1.0))
    return Row(key, what, unit, contenders, comparisons, figure, less_is_better)


def spread(values: list[float]) -> float:
    """The distance between the quartiles, as a share of the median: how much to believe. One bad round of five does not
    count, two do."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / statistics.median(values)


def _is_noisy(contenders: list[Contender], figure: str) -> bool:
    ours, *others = [[figures.get(figure, 1.0) for figures in each.rounds] for each in contenders if each.rounds]
    return any(spread([a / b for a, b in zip(ours, theirs, strict=True)]) > NOISE_BOUND for theirs in others)


def rate(work: Callable[[], int], seconds: float) -> Figures:
    """Things done a second by calls that say how many they did, for so long; and the CPU a million costs here."""
    start, cpu = time.perf_counter(), time.process_time()
    done, took = 0, 0.0
    while took < seconds:
        done += work()
        took = time.perf_counter() - start
    return {"rate": done / took, "cpu_s_per_million": (time.process_time() - cpu) / done * 1e6}
