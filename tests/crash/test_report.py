"""The report says of each row what it ran on, and keeps rows of runs that did not know."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tests.crash.report import HEADING, Result, keep


def test_a_row_has_its_commit_and_one_of_an_older_run_stays_without(tmp_path: Path) -> None:
    kept, page = tmp_path / "kept.json", tmp_path / "page.md"
    older = asdict(Result("passed", "10 | 20", 7, 1.2, "2026-01-01"))
    del older["commit"]
    kept.write_text(json.dumps({"a.py::test_old": older}))
    page.write_text(f"By hand.\n\n{HEADING}gone\n")
    keep({"a.py::test_new[x]": Result("passed", "30", None, 2.0, "2026-01-02", "abc1234-dirty")}, kept, page)
    assert page.read_text().startswith(f"By hand.\n\n{HEADING}")
    assert page.read_text().splitlines()[-2:] == [
        "| New: x | passed |  | 30 (2 s, 2026-01-02, abc1234-dirty) |",
        "| Old | passed | 7 | 10 \\| 20 (1 s, 2026-01-01) |",
    ]
