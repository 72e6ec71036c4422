"""`kill -9` under load, in every sync mode, against the real server; and the same rounds against servers that lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.fake_server import fake_command
from tests.crash.rounds import Plan, run_rounds
from tests.crash.server_process import flashq_command
from tests.crash.violations import Broken

SYNC_MODES = ("always", "periodic", "never")
PARTS = 4
"""Of the many rounds, so that a part of them can be run alone."""
QUICK = Plan(rounds=3, ends_in_good_order=False, tears=True)
UNTIL_FOUND = Plan(rounds=20, is_plain=True)
"""More than enough for a kill to come after a fault has begun; the first violation ends the rounds."""


def kill_flashq(sync_mode: str, plan: Plan, seed: int, directory: Path, tell: Callable[[str], None]) -> None:
    summary = run_rounds(
        sync_mode, lambda data_dir: flashq_command(data_dir, sync_mode=sync_mode), plan, seed, directory
    )
    tell(str(summary))
    assert not summary.violations, summary.report()
    assert summary.rounds == plan.rounds
    assert summary.torn_tails >= summary.tails_torn, f"a torn tail was not kept: {summary}"


@pytest.mark.parametrize("sync_mode", SYNC_MODES)
def test_nothing_acknowledged_or_read_is_lost_when_the_server_is_killed_under_load(
    sync_mode: str, seed: int, tmp_path: Path
) -> None:
    kill_flashq(sync_mode, QUICK, seed, tmp_path, print)


@pytest.mark.crash
@pytest.mark.parametrize("part", range(1, PARTS + 1))
@pytest.mark.parametrize("sync_mode", SYNC_MODES)
def test_nothing_acknowledged_or_read_is_lost_over_many_kills_under_load(
    sync_mode: str, part: int, seed: int, rounds: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    kill_flashq(sync_mode, Plan(rounds // PARTS, longest_load_s=1.0, tears=True), seed, tmp_path, tell)


def test_kill_rounds_find_nothing_wrong_with_an_honest_server(seed: int, tmp_path: Path) -> None:
    summary = run_rounds("honest", fake_command, Plan(rounds=2, is_plain=True), seed, tmp_path)
    assert not summary.violations, summary.report()
    assert summary.posts["acknowledged"] > 0


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ("answer_first", Broken.LOST),
        ("show_first", Broken.TAKEN_BACK),
        ("split", Broken.TORN),
        ("restamp", Broken.RETIMED),
        ("reorder", Broken.MOVED),
    ],
    ids=lambda value: value.name if isinstance(value, Broken) else value,
)
def test_kill_rounds_report_a_server_with_a_fault(fault: str, broken: Broken, seed: int, tmp_path: Path) -> None:
    summary = run_rounds(fault, lambda data_dir: fake_command(data_dir, fault=fault), UNTIL_FOUND, seed, tmp_path)
    assert broken in {violation.broken for violation in summary.violations}, summary.report()
