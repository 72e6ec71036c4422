"""The error table of the contract is complete: every error that can reach a client has a status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import flashq
from flashq import errors
from flashq.api.errors import STATUS, RequestError, error_body
from flashq.cli.exit_codes import EXIT_CODES
from flashq.errors import FlashQError, StorageFailed

SOURCE = Path(str(flashq.__file__)).parent


def family(root: type[FlashQError] = FlashQError) -> list[type[FlashQError]]:
    """Every error of `flashq.errors`."""
    found = [root, *(each for child in root.__subclasses__() for each in family(child))]
    return [each for each in found if each.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", family(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_an_exit_code(kind: type[FlashQError]) -> None:
    assert kind.code in STATUS
    assert kind.code in EXIT_CODES


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in family()]
    assert len(set(codes)) == len(codes)


def test_every_code_the_edge_refuses_with_has_a_status() -> None:
    used = {
        code
        for path in SOURCE.rglob("*.py")
        for code in re.findall(r'RequestError\(\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert len(used) >= 6
    assert used <= set(STATUS)


def test_every_status_says_whose_fault_it_is_and_every_row_belongs_to_an_error() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())
    edge = {
        "forbidden",
        "invalid_body",
        "invalid_json",
        "method_not_allowed",
        "misdirected_request",
        "not_found",
        "unauthorized",
        "unsupported_media_type",
    }
    assert set(STATUS) - {kind.code for kind in family()} == edge


def test_a_refused_write_says_what_became_of_it_and_a_refused_read_does_not() -> None:
    for error, outcome in (
        (RequestError("not_found", "x"), "not_applied"),
        (StorageFailed("x", outcome="unknown"), "unknown"),
    ):
        assert json.loads(error_body(error, is_write=True)[1])["details"]["outcome"] == outcome
        assert "outcome" not in json.loads(error_body(error, is_write=False)[1])["details"]


def test_an_error_keeps_its_facts() -> None:
    status, body = error_body(errors.InvalidOffset("too far", offset=7, max_offset=3), is_write=False)
    assert (status, json.loads(body)) == (
        400,
        {"error": "invalid_offset", "message": "too far", "details": {"offset": 7, "max_offset": 3}},
    )
