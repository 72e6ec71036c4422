"""Every sentence and row of docs/http-api.md is proved by a test: `checklist.txt` says which.

It is a checklist as in tests/checklists.py, with one more kind of proof:

    rows: <title>             a row of contract_rows.py, asked of both storages by test_conformance.py
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from flashq.broker.retention import RetentionThread
from flashq.http.handlers.streams import StreamHandler
from flashq.http.head import Limits
from flashq.http.listener import REFUSALS_AT_ONCE
from tests.api.contract_rows import SECTIONS
from tests.checklists import DOCS, Checklist

CHECKLIST = Checklist(DOCS / "http-api.md", Path(__file__).with_name("checklist.txt"))
ROWS = [f"rows: {title}" for section in SECTIONS.values() for title in section]
KIB, MIB = 1024, 1024 * 1024


def test_every_sentence_and_row_of_the_page_is_on_the_checklist_in_its_order() -> None:
    CHECKLIST.check_order()


def test_everything_on_the_checklist_is_proved_by_a_test_that_is_there() -> None:
    CHECKLIST.check_proofs(ROWS)


def test_every_row_of_the_conformance_suite_proves_something_on_the_checklist() -> None:
    used = {proof for _, proofs in CHECKLIST.quotes() for proof in proofs}
    assert [row for row in ROWS if row not in used] == []


def test_the_limits_on_the_page_are_those_of_a_server() -> None:
    page, limits = CHECKLIST.page.read_text(encoding="utf-8"), Limits()
    for row in (
        f"| body | {limits.max_body_bytes // MIB} MiB (`max_body_bytes`) |",
        f"| request line | {limits.max_request_line_bytes // KIB} KiB |",
        f"| head | {limits.max_head_bytes // KIB} KiB, {limits.max_headers} fields |",
        f"| connections | {limits.max_connections:,} (`max_connections`) |",
        f"| bodies over {limits.small_body_bytes // KIB} KiB in flight, all connections together "
        f"| {limits.max_in_flight_bytes // MIB} MiB |",
        f"| time for a head | {limits.head_timeout_s} s |",
        f"| time without a byte of a body | {limits.body_stall_timeout_s} s; "
        f"after that, a mean of {limits.min_body_bytes_per_s // KIB} KiB/s is asked for as well |",
        f"| idle connection | {limits.idle_timeout_s} s |",
        f"| client that takes nothing of its answers | {limits.write_stall_timeout_s} s |",
        f"No more than {REFUSALS_AT_ONCE} are told at one time: until they close their end, "
        f"for {limits.linger_timeout_s} s at most,",
    ):
        assert row in page


def test_the_intervals_on_the_page_are_those_of_a_server() -> None:
    page = CHECKLIST.said()
    assert (
        f"A comment, `: heartbeat`, comes after {default_of(StreamHandler.__init__, 'heartbeat_s'):.0f} s of silence."
        in page
    )
    assert default_of(RetentionThread.__init__, "interval_s") == 10
    assert "Retention runs by itself every ten seconds." in page


def default_of(function: Callable[..., object], name: str) -> float:
    value: float = inspect.signature(function).parameters[name].default
    return value
