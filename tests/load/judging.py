"""What the long runs call grown, slow and lost. Pure functions, so that a test can show that they fail."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

GROWTH = 1.05
SLACK_BYTES = 4 * 1024 * 1024
SLACK_DESCRIPTORS = 16
MOST_SLOWER = 2.0


@dataclass(frozen=True)
class Use:
    """Of a part of a process's life: the median of resident bytes, the most descriptors."""

    resident: int
    descriptors: int


@dataclass
class Life:
    """Samples of one process, from start to kill, one a second: resident bytes and open descriptors."""

    resident: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def quarter(self, number: int) -> Use:
        at = slice(len(self.resident) * number // 4, len(self.resident) * (number + 1) // 4)
        return Use(int(statistics.median(self.resident[at])), max(self.descriptors[at]))

    def growth(self) -> list[str]:
        """What has grown since the second quarter; the first is for warming up."""
        return growth(self.quarter(1), self.quarter(3))


def growth(early: Use, late: Use) -> list[str]:
    found = []
    if late.resident > GROWTH * early.resident + SLACK_BYTES:
        found.append(f"memory grew from {early.resident} to {late.resident}")
    if late.descriptors > early.descriptors + SLACK_DESCRIPTORS:
        found.append(f"descriptors grew from {early.descriptors} to {late.descriptors}")
    return found


def p99(taken: Sequence[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


def is_slow(p99_ms: float, usual_ms: float) -> bool:
    return p99_ms >= MOST_SLOWER * usual_ms


def losses(numbers: Sequence[int], acknowledged: int) -> list[str]:
    """What is wrong with a topic of numbered records: it has all below `acknowledged` but for those retention has
    taken from its start, in order, and those beyond once or not at all."""
    found = [f"{after} comes after {before}" for before, after in itertools.pairwise(numbers) if before >= after]
    if not numbers:
        return ["it is empty"]
    if numbers[-1] < acknowledged - 1:
        found.append(f"it ends with {numbers[-1]}, and {acknowledged} were acknowledged")
    missing = set(range(numbers[0], acknowledged)) - set(numbers)
    return [*found, f"{sorted(missing)[:10]} are missing"] if missing else found
