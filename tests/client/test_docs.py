"""The programs of docs/client.md run as they stand and print what they show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.running import Process

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
_PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = _PROGRAM.findall(PAGE.read_text(encoding="utf-8"))


def test_every_program_shows_its_output() -> None:
    assert len(PROGRAMS) == PAGE.read_text(encoding="utf-8").count("```python") >= 6


@pytest.mark.parametrize(("program", "shown"), PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_prints_what_it_shows(program: str, shown: str, server: Process, tmp_path: Path) -> None:
    program = program.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{server.port}")
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == (shown, "")
