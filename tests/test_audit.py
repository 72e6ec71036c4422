"""What `make check` makes of a report on known vulnerabilities."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

judge = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "audit.py"))["judge"]

KNOWN: dict[str, Any] = {"id": "PYSEC-1", "fix_versions": ["2"]}
FINE: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
BAD: dict[str, Any] = {"name": "b", "version": "1", "vulns": [KNOWN]}
SKIPPED: dict[str, Any] = {"name": "c", "skip_reason": "not found"}


def test_a_known_vulnerability_fails_and_is_named() -> None:
    lines, code = judge({"dependencies": [FINE, BAD, SKIPPED]})
    assert code == 1
    assert "b 1 has PYSEC-1" in lines[0]
    assert "1 known vulnerabilities in 2 packages (1 not known" in lines[1]


def test_none_known_passes_and_says_of_how_many() -> None:
    assert judge({"dependencies": [FINE]}) == (
        ["audit: 0 known vulnerabilities in 1 packages (0 not known to pypi.org)"],
        0,
    )


def test_a_service_that_cannot_be_reached_fails_nothing_and_says_so_in_one_line() -> None:
    reports: list[dict[str, Any] | None] = [None, {"dependencies": [SKIPPED]}, {"dependencies": []}]
    for report in reports:
        (line,), code = judge(report)
        assert code == 0
        assert "nothing was audited" in line
