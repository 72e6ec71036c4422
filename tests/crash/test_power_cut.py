"""The power is cut under load, on a file system of its own, in every sync mode; and controls that must be caught."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from flashq import FlashQ
from flashq.cli.exit_codes import STORAGE
from tests.crash.machine import power_cut_machine, why_no_power_cut
from tests.crash.proxy import forge_an_acknowledgement
from tests.crash.rounds import Plan, Summary, run_rounds
from tests.crash.server_process import flashq_command, without_background_syncs
from tests.crash.strace import why_no_strace, without_syncs
from tests.crash.violations import Broken
from tests.server.running import JSON, flashq

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
    segment_bytes: int = 64 * 1024,
) -> Summary:
    return run_rounds(
        f"{sync_mode}-power",
        lambda data_dir: wrap(
            [
                *flashq_command(data_dir, sync_mode=sync_mode, segment_bytes=segment_bytes),
                *("--sync-interval-s", str(SYNC_INTERVAL_S)),
            ]
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
    assert summary.past_window == (cuts // 2 if sync_mode == "periodic" else 0)


@pytest.mark.skipif(bool(why_no_strace()), reason=f"no lying fsync: {why_no_strace()}")
@pytest.mark.parametrize(
    ("sync_mode", "broken"),
    [("always", {Broken.LOST, Broken.TAKEN_BACK, Broken.PRESENCE}), ("periodic", {Broken.WINDOW, Broken.PRESENCE})],
    ids=["always", "periodic"],
)
def test_an_fsync_that_lies_is_found_out_by_a_power_cut(
    sync_mode: str, broken: set[Broken], seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    plan = Plan(20, longest_load_s=2.0, may_lose=sync_mode != "always", window_s=WINDOWS[sync_mode])
    summary = cut_power(sync_mode, plan, seed, tmp_path, wrap=without_syncs)
    tell(f"found in round {summary.rounds}: {next(iter(summary.violations), None)}")
    assert broken & {violation.broken for violation in summary.violations}, summary.report()


def test_records_older_than_the_window_that_were_not_synced_behind_the_posts_are_found_out_by_a_power_cut(
    seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    plan = Plan(4, is_plain=True, may_lose=True, window_s=WINDOW_S)
    one_segment = 256 << 20  # a roll that syncs nothing would leave a gap, which is found out before the window is
    summary = cut_power("periodic", plan, seed, tmp_path, wrap=without_background_syncs, segment_bytes=one_segment)
    tell(f"found in round {summary.rounds}: {next(iter(summary.violations), None)}")
    assert summary.violations, summary.report()
    for violation in summary.violations:
        assert violation.broken is Broken.WINDOW, summary.report()
        assert f"s before the cut, more than {WINDOW_S} s; the log ends at" in violation.detail


def test_a_forged_acknowledgement_is_found_out_by_a_power_cut(
    seed: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    plan = Plan(20, is_plain=True, tamper=forge_an_acknowledgement)
    summary = cut_power("always", plan, seed, tmp_path)
    tell(f"found in round {summary.rounds}: {next(iter(summary.violations), None)}")
    assert Broken.LOST in {violation.broken for violation in summary.violations}, summary.report()


@pytest.mark.parametrize("sync_mode", ["always", "never"])
def test_while_the_disk_is_gone_posts_are_refused_reads_go_on_and_health_says_so(
    sync_mode: str, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    with power_cut_machine(tmp_path / "machine") as machine:
        log = tmp_path / "server.log"
        with flashq("--data-dir", str(machine.data_dir), "--sync-mode", sync_mode, log=log) as server:
            server.wait_until_listening()
            posted = server.ask("POST", "/topics/t/records?sync=always", b'{"records":[{"value":"kept"}]}', JSON)
            assert posted.status == 200
            machine.cut()
            answers = [server.try_post("t", "refused") for _ in range(3)]
            assert [answer.status for answer in answers] == [503] * 3
            assert {answer.json()["error"] for answer in answers} == {"storage_failed"}
            outcomes = [answer.json()["details"]["outcome"] for answer in answers]
            assert outcomes == ["unknown", "not_applied", "not_applied"]
            assert [record["value"] for record in server.read_all("t")] == ["kept"]
            health = server.ask("GET", "/health")
            assert (health.status, health.json()["status"]) == (503, "unhealthy")
            assert len(server.events("storage_failed")) == 1
            assert server.stop() == STORAGE
        machine.come_back()
        with FlashQ.open(machine.data_dir) as again:
            assert [record.text for record in again.poll_records("t")] == ["kept"]
    tell(f"outcomes {', '.join(outcomes)}")
