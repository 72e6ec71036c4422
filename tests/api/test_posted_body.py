"""The bytes of the answer to a post, against what they are to say."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from flashq.api.records import lines_body, posted_body, stamp_of
from flashq.batch import MAX_OFFSET

TIME_MS, SHOWN = 1_768_473_045_123, "2026-01-15T10:30:45.123Z"


@given(st.integers(0, MAX_OFFSET - 1000), st.integers(1, 1000))
@example(0, 1)
@example(99_999, 2)
@example(MAX_OFFSET - 1000, 1000)
def test_each_record_has_its_offset_and_the_time_of_all(first: int, count: int) -> None:
    answer = json.loads(posted_body(first, count, stamp_of(TIME_MS)))
    assert answer == {"offsets": [{"offset": first + at, "timestamp": SHOWN} for at in range(count)]}


@given(st.integers(0, MAX_OFFSET - 1000), st.integers(1, 1000))
def test_lines_are_answered_with_the_first_and_the_last(first: int, count: int) -> None:
    answer = json.loads(lines_body(first, count, stamp_of(TIME_MS)))
    assert answer == {"first_offset": first, "last_offset": first + count - 1, "count": count}
