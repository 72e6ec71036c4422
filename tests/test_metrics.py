"""Counting by itself; what a scrape shows of it is in tests/server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq import metrics
from flashq.metrics import SECONDS, Requests

NOW = 1000.0


@given(st.lists(st.floats(0, 20) | st.sampled_from(SECONDS), min_size=1, max_size=20))
def test_answers_counted_together_are_counted_as_each_by_itself(took: list[float]) -> None:
    one_by_one, together = Requests(), Requests()
    since = sorted(NOW - seconds for seconds in took)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "perf_counter", lambda: NOW)
        for each in since:
            one_by_one.answered(each, 200)
        together.answered_together(since, 200)
    assert together.by_status == one_by_one.by_status == {200: len(took)}
    assert together.seconds.counts == one_by_one.seconds.counts
    assert together.seconds.total == pytest.approx(one_by_one.seconds.total)
