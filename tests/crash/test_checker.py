"""The checker finds nothing in a clean history and names each thing that is broken in any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.case import Case, changed, lose_power
from tests.crash.checker import check
from tests.crash.controls import CONTROLS, swap_posts, unknown_after_the_kill
from tests.crash.history import Change, Cut, History, Read, Sight
from tests.crash.violations import Broken


def test_a_clean_history_has_no_violation() -> None:
    assert check(Case().history, Case().stored) == []


def test_an_empty_history_has_no_violation() -> None:
    assert check(History(), []) == []


@pytest.mark.parametrize(("tamper", "broken"), [pytest.param(t, b, id=f"{t.__name__}-{b.name}") for t, b in CONTROLS])
def test_what_is_broken_is_named(tamper: Callable[[Case], None], broken: Broken) -> None:
    case = Case()
    tamper(case)
    assert broken in case.broken()


def test_every_kind_of_violation_has_a_control() -> None:
    assert {broken for _, broken in CONTROLS} == set(Broken)


@pytest.mark.parametrize("tamper", [swap_posts, unknown_after_the_kill], ids=lambda tamper: tamper.__name__)
def test_an_order_violation_is_found_by_the_order_alone(tamper: Callable[[Case], None]) -> None:
    case = Case()
    tamper(case)
    assert case.broken() == {Broken.ORDER}


def test_concurrent_posts_may_be_stored_in_either_order() -> None:
    case = Case()
    swap_posts(case)
    case.history.posts["a", 1].begun_ns = 120  # before a#0 was answered
    assert case.broken() == set()


def test_a_change_without_an_answer_may_be_there_or_not() -> None:
    case = Case()
    for seen in (3, 6):
        unanswered = Change(6, 20, is_durable=False)
        case.history.things["group g"] = [changed(0, 5), changed(3, 10), unanswered, Sight(seen, 30)]
        assert case.broken() == set()


def test_a_power_cut_may_take_the_end_of_the_log_where_the_mode_says_so() -> None:
    case = Case()
    lose_power(case, 12)
    case.history.things["group g"] = [changed(0, 5), changed(3, 10), changed(6, 20), Sight(3, 900)]
    assert case.broken() == set()


def test_a_topic_that_nobody_was_told_of_may_go_with_a_power_cut() -> None:
    history = History(cuts=[Cut(100, -1, -1)], reads=[Read("c", 110, 115, 0, 404, (), 0, 0)])
    assert check(history, []) == []


def test_an_answer_that_arrives_after_the_cut_began_says_nothing() -> None:
    case = Case()
    case.history.cuts.append(Cut(540))  # a#3 was answered at 550
    case.history.reads.append(case.read(from_offset=12, count=3, begun_ns=535, high_water_mark=15))
    del case.stored[12:]
    case.history.things["group g"] = [changed(0, 5), Change(3, 530, False, 545, "acknowledged"), Sight(0, 900)]
    assert case.broken() == set()


def test_what_was_answered_before_the_cut_is_a_promise() -> None:
    case = Case()
    case.history.cuts.append(Cut(560))
    del case.stored[12:]
    assert case.broken() == {Broken.LOST}


def test_retention_takes_whole_posts_from_the_start_and_nothing_else() -> None:
    case = Case()
    assert check(case.history, case.stored[3:], log_start=3) == []
    torn = {violation.broken for violation in check(case.history, case.stored[3:8] + case.stored[9:], log_start=3)}
    assert torn >= {Broken.HOLE, Broken.LOST}
