"""The power is cut under load, on a file system of its own, in every sync mode; and controls that must be caught."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from tests.crash.machine import power_cut_machine, why_no_power_cut
from tests.crash.proxy import forge_an_acknowledgement
from tests.crash.rounds import Plan, Summary, run_rounds
from tests.crash.server_process import flashq_command
from tests.crash.strace import why_no_strace, without_syncs
from tests.crash.violations import Broken

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(bool(why_no_power_cut()), reason=f"no power cut: {why_no_power_cut()}"),
]
SYNC_INTERVAL_S = 0.1
WINDOW_S = 3 * SYNC_INTERVAL_S + 1.0
"""What a power cut may take under `periodic`: one interval, two more until an overdue sync holds posts back, and a
second for the sync itself and for the answer on its way."""
WINDOWS = {"always": 0.0, "periodic": WINDOW_S, "never": inf}


def cut_power(
    sync_mode: str,
    plan: Plan,
    seed: int,
    directory: Path,
    wrap: Callable[[list[str]], list[str]] = lambda command: command,
) -> Summary:
    return run_rounds(
        f"{sync_mode}-power",
        lambda data_dir: wrap(
            [*flashq_command(data_dir, sync_mode=sync_mode), "--sync-interval-s", str(SYNC_INTERVAL_S)]
        ),
        plan,
        seed,
        directory,
        power_cut_machine,
    )


@pytest.mark.parametrize("sync_mode", WINDOWS)
def test_a_power_cut_under_load_takes_only_what_the_mode_says(
    sync_mode: str, seed: int, cuts: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    plan = Plan(cuts, longest_load_s=1.5, may_lose=sync_mode != "always", window_s=WINDOWS[sync_mode])
    summary = cut_power(sync_mode, plan, seed, tmp_path)
    tell(str(summary))
    assert not summary.violations, summary.report()
    assert summary.rounds == cuts


@pytest.mark.skipif(bool(why_no_strace()), reason=f"no lying fsync: {why_no_strace()}")
@pytest.mark.parametrize(
    ("sync_mode", "broken"),
    [("always", {Broken.LOST, Broken.TAKEN_BACK, Broken.PRESENCE}), ("periodic", {Broken.WINDOW, Broken.PRESENCE})],
)
def test_an_fsync_that_lies_is_found_out_by_a_power_cut(
    sync_mode: str, broken: set[Broken], seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    plan = Plan(20, longest_load_s=2.0, may_lose=sync_mode != "always", window_s=WINDOWS[sync_mode])
    summary = cut_power(sync_mode, plan, seed, tmp_path, wrap=without_syncs)
    tell(f"found after {summary.rounds} rounds: {summary.violations[:1]}")
    assert broken & {violation.broken for violation in summary.violations}, summary.report()


def test_a_forged_acknowledgement_is_found_out_by_a_power_cut(
    seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    plan = Plan(20, is_plain=True, tamper=forge_an_acknowledgement)
    summary = cut_power("always", plan, seed, tmp_path)
    tell(f"found after {summary.rounds} rounds: {summary.violations[:1]}")
    assert Broken.LOST in {violation.broken for violation in summary.violations}, summary.report()
