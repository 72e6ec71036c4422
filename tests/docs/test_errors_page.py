"""The page on errors says of every code what the code says."""

from __future__ import annotations

import ast
import re
from contextlib import ExitStack
from pathlib import Path

import flashq
from flashq import errors
from flashq.api.errors import STATUS, RequestError
from flashq.cli import sources
from flashq.cli.exit_codes import EXIT_CODES, UNEXPECTED
from flashq.client import errors as client_errors
from flashq.errors import FlashQError
from tests.docs.walk import ROOT, Walk

SOURCE = Path(str(flashq.__file__)).parent
PAGE = ROOT / "docs" / "errors.md"

_ROW = re.compile(
    r"^\| `(\w+)` \| `(\w+)` \| (\d*) ?\| (not_applied|unknown|either) \| (yes|no) \| (\d+) \| (\S.*\S) \|$",
    re.MULTILINE,
)
_REFUSAL = re.compile(r'ProtocolError\(\s*(\d{3}), "(\w+)"')


def rows() -> dict[str, tuple[str, str, str, str, str]]:
    """By code: exception, status, outcome, retriable, exit code."""
    found = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    table = {row[0]: row[1:6] for row in found}
    assert len(table) == len(found)
    return table


def refusals_of_the_protocol() -> dict[str, int]:
    paths = SOURCE.joinpath("http").glob("*.py")
    return {code: int(status) for path in paths for status, code in _REFUSAL.findall(path.read_text("utf-8"))}


def kinds() -> dict[str, type[FlashQError]]:
    """The exception of each code that has one; a subclass of it that shares the code is a special case."""
    modules = (errors, client_errors, sources)
    found = [each for module in modules for each in vars(module).values() if isinstance(each, type)]
    ours = [each for each in found if issubclass(each, FlashQError) and each is not RequestError]
    return {each.code: each for each in sorted(ours, key=lambda each: -len(each.__mro__))}


def test_every_code_has_a_row_with_its_exception_status_retriability_and_exit_code() -> None:
    statuses = {**STATUS, **refusals_of_the_protocol()}
    assert set(rows()) == set(statuses) | set(kinds())
    for code, (exception, status, _, retriable, exit_code) in rows().items():
        kind = kinds().get(code, RequestError)
        assert exception == kind.__name__, code
        assert status == str(statuses.get(code, "")), code
        assert retriable == ("yes" if kind.retriable else "no"), code
        assert int(exit_code) == EXIT_CODES.get(code, UNEXPECTED), code


def test_only_a_write_that_may_have_been_carried_out_has_another_outcome_than_not_applied() -> None:
    unsure = {code: row[2] for code, row in rows().items() if row[2] != "not_applied"}
    assert unsure == {
        "internal_error": "unknown",
        "storage_failed": "either",
        "connection_failed": "either",
        "closed": "either",
        "unexpected_answer": "either",
        "storage_unavailable": "either",
        "not_confirmed": "unknown",
    }
    assert raised_as_unknown() == {
        "FlashQError",
        "StorageFailed",
        "StorageUnavailable",
        "ConnectionFailed",
        "Closed",  # a client or a producer, in the middle of a post
        "kind",
    }


def raised_as_unknown() -> set[str]:
    """What the code calls with an outcome that may be "unknown"; `kind` is UnexpectedAnswer or its subclass."""
    calls = (
        node
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    return {
        ast.unparse(call.func)
        for call in calls
        for argument in call.keywords
        if argument.arg == "outcome" and "'unknown'" in ast.unparse(argument.value)
    }


def test_the_example_prints_what_it_shows(tmp_path: Path) -> None:
    with ExitStack() as stack:
        walk = Walk(PAGE, tmp_path, stack)
        walk.to_the_end()
    assert walk.seen == {"python": 1}
