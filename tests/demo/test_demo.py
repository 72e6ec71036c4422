"""`flashq demo` as a process: without a terminal, and on one with somebody who types."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashq import FlashQ, FlashQError
from flashq.demo.crash import BATCH_BYTES, crash
from flashq.storage.file.verify import verify_directory
from tests.cli.commands import COMMAND, environment, on_terminal
from tests.docs.walk import ROOT

# Makes the terminal on standard input that of this process, as a login does, then becomes the command.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_STYLES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def test_a_quick_tour_needs_no_terminal_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "demo", "--quick"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**environment(None), "TMPDIR": str(tmp_path)},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    titles = re.findall(r"^(?:\d\. )?([A-Z][\w :]+?) \u2500+$", done.stdout, re.MULTILINE)
    assert titles == ["FlashQ: a record log", "Post", "Poll", "Groups and lag", "Topics", "Crash"]
    assert re.search(r"topic +orders +9 +torn", done.stdout)
    assert "warning: torn_tail_cut what=orders offset=9" in done.stdout
    assert re.search(r"acknowledged before the kill +9\n +in the log now +9\n", done.stdout)
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    shown = page.split("$ flashq demo --quick | grep -A 2 begins\n")[1].split("```")[0]
    assert without_numbers(shown) in without_numbers(done.stdout)
    assert "\x1b" not in done.stdout
    assert os.listdir(tmp_path) == []


def test_it_asks_on_a_terminal_and_ends_at_a_prompt_to_play_at(tmp_path: Path) -> None:
    typed = [
        *("", "a pie", "", "", "", "", "", "", ""),
        *("post notes hello there", "read audit notes", "poll notes 0", "poll orders x", "topics", "quit"),
    ]
    code, seen = on_terminal(None, ["demo"], "".join(f"{line}\n" for line in typed), TMPDIR=str(tmp_path))
    shown = _STYLES.sub("", seen).replace("\r", "")
    assert code == 0, shown
    assert ">>> flashq.post_record('orders', 'a pie')" in shown
    assert "What would you like to order? [two coffees]: " in shown
    assert ">>> flashq.post_record('notes', 'hello there')" in shown
    assert ">>> flashq.commit_offset('audit', 'notes', 1)" in shown
    assert "audit is 0 behind in notes." in shown
    assert shown.count("post TOPIC VALUE") == 2, "what can be typed is told at first, and after what makes no sense"
    assert "The directory of the tour is removed." in shown
    assert "\x1b[1;31mkill -9" in seen
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("prompt", "keys", "code"),
    [
        pytest.param("q leaves: ", "q\n", 0, id="q"),
        pytest.param("q leaves: ", "\x04", 0, id="Ctrl-D"),
        pytest.param("q leaves: ", "\x03", 130, id="Ctrl-C"),
        pytest.param("[one tea]: ", "\x04", 0, id="Ctrl-D at a question"),
        pytest.param("[one tea]: ", "\x03", 130, id="Ctrl-C at a question"),
    ],
)
def test_leaving_early_is_no_accident_and_removes_the_directory(
    prompt: str, keys: str, code: int, tmp_path: Path
) -> None:
    with on_its_terminal(tmp_path) as (process, keyboard):
        seen = read_until(keyboard, "q leaves: ")
        if prompt != "q leaves: ":
            os.write(keyboard, b"\n")
            seen += read_until(keyboard, prompt)
        assert os.listdir(tmp_path) != []
        press(keyboard, keys)
        seen += read_until(keyboard, "removed." if code == 0 else "\n")
        assert process.wait(30) == code
    assert "Traceback" not in seen
    assert os.listdir(tmp_path) == []


def test_no_color_is_heeded(tmp_path: Path) -> None:
    code, seen = on_terminal(None, ["demo", "--quick"], TMPDIR=str(tmp_path), NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", seen)


def test_the_crash_is_a_real_one(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path) as flashq:
        flashq.post_record("orders", "before")
    happened = crash(str(tmp_path), "orders", 3)
    assert 0 < happened.written_bytes < BATCH_BYTES
    assert [log.state for log in verify_directory(tmp_path).logs] == ["torn"]
    with FlashQ.open(tmp_path) as flashq:
        end = flashq.high_water_mark("orders")
        assert happened.acknowledged[-3:] == [end - 3, end - 2, end - 1]
        assert flashq.poll_records("orders", from_offset=end - 1)[0].text == "order 3 of the child"
    (kept,) = (tmp_path / "topics" / "orders" / "0").glob("*.torn-*")
    assert kept.stat().st_size == happened.written_bytes


def test_a_child_that_cannot_write_is_an_error_that_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FlashQ.open(tmp_path) as flashq:
        flashq.post_record("orders", "before")
        with pytest.raises(FlashQError, match="the child process did not write its batch"):
            crash(str(tmp_path), "orders", 3)
    assert "is in use by another FlashQ" in capfd.readouterr().err


def without_numbers(text: str) -> str:
    return re.sub(r"[0-9]+", "0", text)


@contextmanager
def on_its_terminal(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The tour, with a terminal that is its own, so that Ctrl-C reaches it; and the other end of that."""
    keyboard, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, COMMAND, "demo"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**environment(None), "TMPDIR": str(tmp_path), "TERM": "xterm"},
    )
    os.close(slave)
    try:
        yield process, keyboard
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)


def press(terminal: int, keys: str) -> None:
    """Presses again when nothing happens: readline overlooks a Ctrl-C between its prompt and its waiting for a key."""
    for _ in range(6):
        os.write(terminal, keys.encode())
        if select.select([terminal], [], [], 5)[0]:
            return


def read_until(terminal: int, text: str) -> str:
    """What is shown up to this text, or to the end."""
    seen = b""
    while text.encode() not in seen:
        assert select.select([terminal], [], [], 30)[0], seen
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # the tour has ended
            break
    return seen.decode()
