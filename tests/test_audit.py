"""What `make check` makes of a report on known vulnerabilities."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "audit.py"))
judge, main = AUDIT["judge"], AUDIT["main"]

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


@pytest.mark.parametrize(
    ("said", "complained", "code"),
    [
        (json.dumps({"dependencies": [FINE]}), "", 0),
        (json.dumps({"dependencies": [BAD]}), "Found 1 known vulnerability", 1),
        ("", "requests.exceptions.ConnectionError: refused", 0),
        ("", "Could not connect to PyPI's vulnerability feed", 0),
        ("", "Read timed out: ReadTimeout", 0),
        ("", "usage: pip-audit: unknown option", 2),
    ],
)
def test_what_pip_audit_says_and_complains_of_makes_the_exit_code(
    said: str,
    complained: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A program in the place of pip-audit, which here can reach nobody who knows anything."""
    told = tmp_path / "python"
    told.write_text(f"#!{sys.executable}\nimport sys\nprint({said!r})\nprint({complained!r}, file=sys.stderr)\n")
    told.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(told))
    assert main() == code
    shown = capfd.readouterr()
    assert ("nothing was audited" in shown.out) == (code == 0 and not said)
    assert shown.err.strip() == (complained if code == 2 else "")
