"""What the long runs of `make crash` share: how long, from which seed, and where they tell what they came to."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.machine import commit
from tests.crash.report import Result, keep


def _from_environment(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """FLASHQ_CRASH_SEED when set, to send and fail as an earlier run did; else a new one, printed."""
    number = _from_environment("FLASHQ_CRASH_SEED", random.SystemRandom().randrange(1, 1 << 32))
    print(f"FLASHQ_CRASH_SEED={number}")
    request.node.user_properties.append(("seed", number))
    return number


@pytest.fixture
def rounds() -> int:
    """FLASHQ_CRASH_ROUNDS: how many kills under load in each sync mode."""
    return _from_environment("FLASHQ_CRASH_ROUNDS", 200)


@pytest.fixture
def cuts() -> int:
    """FLASHQ_CRASH_CUTS: how many power cuts under load in each sync mode."""
    return _from_environment("FLASHQ_CRASH_CUTS", 100)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes what a long run came to, for the report and for who is watching."""

    def note(outcome: str) -> None:
        print(outcome)
        request.node.user_properties.append(("came to", outcome))

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a test told once it has ended."""
    told: dict[str, Any] = dict(report.user_properties)
    if report.when == "call" and "came to" in told:
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        result = Result(report.outcome, told["came to"], told.get("seed"), report.duration, date, commit())
        keep({report.nodeid: result})
