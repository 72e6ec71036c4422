"""What the benchmarks say about what they measured. Nothing here is timed."""

from __future__ import annotations

from itertools import cycle

import msgspec
import pytest

from benchmarks.measure import Comparison, Effort, Figures, Row, Work, compare, interleave, spread
from benchmarks.report import earlier, table

EFFORT = Effort(rounds=4, seconds=0, scale=1)


def _rates(*rates: float) -> Work:
    turn = cycle(rates)
    return lambda: {"rate": next(turn)}


def _row(ours: Work, theirs: Work, wanted: float = 1.0, **more: object) -> Row:
    contenders = interleave({"FlashQ": ours, "peer": theirs}, EFFORT)
    return compare("key", "a row", "records/s", contenders, wanted={"peer": wanted})


def test_contenders_take_turns_and_nobody_always_goes_first() -> None:
    order: list[str] = []

    def run(name: str) -> Figures:
        order.append(name)
        return {"rate": 1.0}

    interleave({"a": lambda: run("a"), "b": lambda: run("b")}, EFFORT)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_a_ratio_is_taken_within_each_round_so_that_a_slow_minute_of_the_machine_cancels_out() -> None:
    (found,) = _row(_rates(100, 10, 50, 100), _rates(50, 5, 25, 50)).comparisons
    assert (found.ratio, found.spread, found.verdict) == (2.0, 0.0, "ok")


def test_a_ratio_below_what_is_wanted_is_short() -> None:
    (found,) = _row(_rates(90), _rates(100)).comparisons
    assert found.verdict == "SHORT"


def test_noise_gets_more_rounds_and_then_no_verdict_but_noisy() -> None:
    row = _row(_rates(100, 300), _rates(100))
    assert len(row.ours.rounds) == 8
    assert [each.verdict for each in row.comparisons] == ["NOISY"]


def test_one_bad_round_of_five_is_not_noise_and_two_are() -> None:
    assert spread([1, 1, 1, 1, 9]) == 0
    assert spread([1, 1, 1, 9, 9]) > 1


def test_a_peer_that_is_missing_is_a_row_that_says_so() -> None:
    row = _row(_rates(100), "it is not installed")
    assert [each.verdict for each in row.comparisons] == ["MISSING"]
    assert "it is not installed" in table([row], {})


def test_without_our_own_figures_every_comparison_is_missing() -> None:
    row = _row("no C compiler", _rates(100))
    assert [(each.verdict, each.missing) for each in row.comparisons] == [("MISSING", "no C compiler")]
    assert "no C compiler" in table([row], {})


def test_noise_is_that_of_the_figure_a_row_compares() -> None:
    p99 = cycle([1.0, 9.0, 2.0, 30.0])
    work: dict[str, Work] = {
        "FlashQ": lambda: {"rate": 1.0, "p99_us": next(p99)},
        "peer": lambda: {"rate": 1.0, "p99_us": 1.0},
    }
    assert len(interleave(work, EFFORT)[0].rounds) == EFFORT.rounds
    assert len(interleave(work, EFFORT, "p99_us")[0].rounds) == 2 * EFFORT.rounds


def test_where_less_is_better_a_ratio_above_one_is_still_ours() -> None:
    contenders = interleave({"FlashQ": _rates(2.0), "peer": _rates(6.0)}, EFFORT)
    row = compare("key", "a row", "ms", contenders, bounds={"3 ms": 3.0}, less_is_better=True)
    assert [each.ratio for each in row.comparisons] == [3.0, 1.5]


def test_the_table_shows_the_ratio_of_the_run_before() -> None:
    from datetime import UTC, datetime

    from benchmarks.report import Run

    before = Run(datetime(2026, 1, 1, tzinfo=UTC), "", {}, [_row(_rates(300), _rates(100))])
    line = table([_row(_rates(200), _rates(100))], earlier([before])).splitlines()[1]
    assert line.split()[-3:] == ["0%", "3.00", "ok"]


@pytest.mark.parametrize("row", [_row(_rates(1), _rates(2)), _row(_rates(1), "missing")])
def test_a_row_comes_back_from_json_as_it_was(row: Row) -> None:
    assert msgspec.json.decode(msgspec.json.encode(row), type=Row) == row
    assert isinstance(row.comparisons[0], Comparison)
