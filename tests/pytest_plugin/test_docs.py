"""Every example of docs/testing.md is a test file that passes as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flashq.client.client
import flashq.pytest_plugin
import flashq.testing.faults

pytest_plugins = ["pytester"]

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FIXTURES = [name for name in vars(flashq.pytest_plugin) if name.startswith("flashq")]


def test_every_example_passes_as_it_stands(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**{f"test_{number}": example for number, example in enumerate(EXAMPLES)})
    ran = pytester.runpytest_subprocess("-W", "error")
    ran.assert_outcomes(passed="".join(EXAMPLES).count("def test_"))


def test_every_fixture_and_every_fault_has_an_example() -> None:
    assert sorted(FIXTURES) == ["flashq", "flashq_clock", "flashq_faults", "flashq_server"]
    shown = "".join(EXAMPLES)
    for name in FIXTURES:
        assert re.search(rf"def test_\w+\(.*\b{name}\b.*\)", shown), name
    for fault in ("fail_next_fsync()", "disk_full()", "make_room()", "crash()", "crash(power_lost=False)"):
        assert f"flashq_faults.{fault}" in shown, fault
