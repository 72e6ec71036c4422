"""The long runs can fail: what grows is called grown, what is slow slow, and what is lost lost."""

from __future__ import annotations

import pytest

from tests.load.judging import Life, Use, growth, is_slow, losses, p99

MIB = 1 << 20


def life(*, bytes_a_second: int = 0, descriptors_a_second: int = 0) -> Life:
    """Of 120 seconds, of which the first ten are for warming up."""
    return Life(
        [20 * MIB] * 10 + [60 * MIB + second * bytes_a_second + second % 3 * MIB // 2 for second in range(110)],
        [50 + second * descriptors_a_second + second % 5 for second in range(120)],
    )


def test_a_life_that_warms_up_and_wavers_has_not_grown() -> None:
    assert life().growth() == []


def test_memory_that_goes_up_all_the_time_has_grown() -> None:
    (said,) = life(bytes_a_second=MIB // 4).growth()
    assert said.startswith("memory grew from ")


def test_descriptors_that_go_up_all_the_time_have_grown() -> None:
    assert life(descriptors_a_second=1).growth() == ["descriptors grew from 113 to 173"]


def test_a_leak_of_each_life_shows_from_the_first_to_the_last() -> None:
    assert growth(Use(60 * MIB, 50), Use(66 * MIB, 66)) == []
    assert len(growth(Use(60 * MIB, 50), Use(68 * MIB, 67))) == 2


def test_one_slow_post_in_fifty_is_slow_and_one_in_a_thousand_is_not() -> None:
    usual = p99([1.0] * 1000)
    assert not is_slow(p99([1.0] * 999 + [50.0]), usual)
    assert is_slow(p99([1.0] * 980 + [2.0] * 20), usual)
    assert not is_slow(p99([1.0] * 980 + [1.9] * 20), usual)


@pytest.mark.parametrize("numbers", [range(10), range(4, 10), range(12)], ids=["all", "after retention", "unknown too"])
def test_what_may_be_in_a_topic_is_no_loss(numbers: range) -> None:
    assert losses(numbers, 10) == []


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([], "it is empty"),
        ([0, 1, 2, 3], "it ends with 3, and 6 were acknowledged"),
        ([0, 1, 3, 4, 5], "[2] are missing"),
        ([0, 1, 2, 2, 3, 4, 5], "2 comes after 2"),
        ([0, 1, 3, 2, 4, 5], "2 comes after 3"),
        ([0, 1, 2, 3, 4, 5, 6, 6], "6 comes after 6"),
    ],
    ids=["empty", "end lost", "gap", "doubled", "out of order", "unknown doubled"],
)
def test_what_is_lost_doubled_or_out_of_order_is_said(numbers: list[int], said: str) -> None:
    assert said in losses(numbers, 6)
