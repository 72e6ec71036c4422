"""Follows a page of documentation from top to bottom, as a reader would, and compares what comes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.server.running import Process, serving

ROOT = Path(__file__).parents[2]
SHOWN_SERVER = "http://127.0.0.1:8080"

_BLOCK = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def without_times(text: str) -> list[str]:
    """Lines with every time replaced, and the fields of a head in order of name."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME", text.replace("\r", ""))
    text = re.sub(r'"(timestamp|uptime|behind_s)":[\d.]+', r'"\1":0', text)
    text = re.sub(r" *\b(\d+s|\d+m( \d+s)?)\b *", " SPAN ", text)
    head, empty, body = text.rpartition("\n\n")
    return [*sorted(head.splitlines()), empty, *body.strip().splitlines()]


class Walk:
    """One reader of one page, in one directory. `seen` counts what was run, by the language of its block."""

    def __init__(self, page: Path, cwd: Path, stack: ExitStack, server: Process | None = None) -> None:
        self.seen: dict[str, int] = {}
        self._blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
        self._cwd = cwd
        self._stack = stack
        self._server = server

    def to_the_end(self) -> None:
        run: dict[str, Callable[[str], None]] = {"python": self._program, "console": self._console, "sh": self._shell}
        self._printed: str | None = None
        for language, text in self._blocks:
            if language == "text":
                assert self._printed == text
                self._printed = None
            elif language in run:
                assert not self._printed, "the page does not show what the program prints"
                run[language](text)
                self.seen[language] = self.seen.get(language, 0) + 1
        assert not self._printed, "the page does not show what the program prints"

    def _here(self, text: str) -> str:
        return text if self._server is None else text.replace(SHOWN_SERVER, f"http://127.0.0.1:{self._server.port}")

    def _program(self, text: str) -> None:
        ran = self._run([sys.executable, "-c", self._here(text)])
        assert (ran.returncode, ran.stderr) == (0, "")
        self._printed = ran.stdout

    def _console(self, text: str) -> None:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            ran = self._run(["sh", "-c", f"{{ {self._here(command)}; }} 2>&1"])
            assert [command, *without_times(ran.stdout)] == [command, *without_times(output)]

    def _shell(self, text: str) -> None:
        """A server is started or killed; any other command must succeed, and prints what nobody compares."""
        if text.startswith("flashq serve --data-dir "):
            data_dir = self._cwd / text.split()[3]
            self._server = self._stack.enter_context(serving(data_dir))
        elif text.startswith("kill -9 "):
            assert self._server is not None
            self._server.kill()
        else:
            ran = self._run(["sh", "-e", "-c", self._here(text)])
            assert ran.returncode == 0, (text, ran.stdout, ran.stderr)

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        if self._server is not None:
            environment["FLASHQ_URL"] = f"http://127.0.0.1:{self._server.port}"
        return subprocess.run(command, cwd=self._cwd, capture_output=True, text=True, timeout=60, env=environment)
