"""Every sentence and row of docs/http-api.md is proved by a test: `checklist.txt` says which.

An unindented line of the checklist quotes a sentence or row of the page, in the page's order (… stands for the rest);
the indented lines under it prove it:

    rows: <title>             a row of contract_rows.py, asked of both storages by test_conformance.py
    <file>::<test>            a test, under tests/
    says: <why>               nothing to test
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from flashq.broker.retention import RetentionThread
from flashq.http.handlers.streams import StreamHandler
from flashq.http.head import Limits
from flashq.http.listener import REFUSALS_AT_ONCE
from tests.api.contract_rows import SECTIONS

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "http-api.md"
CHECKLIST = Path(__file__).with_name("checklist.txt")

_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)  # examples: tests/docs runs them
_BLOCK_END = re.compile(r"\n\s*\n|\n(?=[|#]|- )")
_SENTENCE_END = re.compile(r"(?<=[.?!]) (?=[A-Z`\"\[])")
_RULE = re.compile(r"[|\- ]+")
KIB, MIB = 1024, 1024 * 1024


def statements(page: str) -> list[str]:
    """The titles, table rows and sentences of a page of Markdown, in order, each on one line."""
    found: list[str] = []
    for block in _BLOCK_END.split(_CODE.sub("", page)):
        line = " ".join(block.split())
        if line.startswith(("|", "##")):
            found += [line] * (not _RULE.fullmatch(line))
        elif not line.startswith("#"):
            found += _SENTENCE_END.split(line.removeprefix("- "))
    return [each for each in found if each]


def checklist() -> list[tuple[str, list[str]]]:
    """Quotes, each with its proofs."""
    found: list[tuple[str, list[str]]] = []
    for line in CHECKLIST.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            found[-1][1].append(line.strip())
        else:
            found.append((line, []))
    return found


@cache
def named_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_every_sentence_and_row_of_the_page_is_on_the_checklist_in_its_order() -> None:
    said = statements(PAGE.read_text(encoding="utf-8"))
    quotes = [quote for quote, _ in checklist()]
    for sentence, quote in zip(said, quotes, strict=False):
        start, cut, _ = quote.partition(" …")
        assert sentence.startswith(start) if cut else sentence == quote, f"the page: {sentence}\nthe checklist: {quote}"
    assert len(quotes) == len(said)


def test_everything_on_the_checklist_is_proved_by_a_test_that_is_there() -> None:
    rows = {f"rows: {title}" for section in SECTIONS.values() for title in section}
    for quote, proofs in checklist():
        assert bool(proofs) != quote.startswith("##"), quote
        for proof in proofs:
            path, _, name = proof.partition("::")
            if name:
                assert name in named_in(TESTS / path), proof
            else:
                assert proof in rows or proof.startswith("says: "), proof


def test_every_row_of_the_conformance_suite_proves_something_on_the_checklist() -> None:
    used = {proof for _, proofs in checklist() for proof in proofs}
    assert [title for section in SECTIONS.values() for title in section if f"rows: {title}" not in used] == []


def test_the_limits_on_the_page_are_those_of_a_server() -> None:
    page, limits = PAGE.read_text(encoding="utf-8"), Limits()
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
    page = statements(PAGE.read_text(encoding="utf-8"))
    assert (
        f"A comment, `: heartbeat`, comes after {default_of(StreamHandler.__init__, 'heartbeat_s'):.0f} s of silence."
        in page
    )
    assert default_of(RetentionThread.__init__, "interval_s") == 10
    assert "Retention runs by itself every ten seconds." in page


def default_of(function: Callable[..., object], name: str) -> float:
    value: float = inspect.signature(function).parameters[name].default
    return value
