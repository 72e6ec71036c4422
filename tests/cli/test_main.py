"""The `flashq` command as a process: help, version, wrong use, pipes and interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import flashq
from flashq.cli.main import main

COMMAND = str(Path(sys.executable).parent / "flashq")

# A process whose server is a stand-in that says it runs, then waits.
WAITING_SERVER = """
import sys, time, types
module = types.ModuleType("flashq.server")
def run(settings, token):
    print("running", flush=True)
    time.sleep(30)
    return 0
module.run = run
sys.modules["flashq.server"] = module
from flashq.cli.main import main
sys.exit(main(["serve"]))
"""


def flashq_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FLASHQ_")}
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, env={**environ, **variables}, timeout=30, check=False
    )


def test_version_prints_the_version() -> None:
    done = flashq_process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"flashq {flashq.__version__}\n", "")


def test_a_configuration_error_is_one_line_and_exit_code_2() -> None:
    done = flashq_process("serve", "--port", "99999")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "flashq: port: '99999' (flag --port) is not allowed; allowed: a whole number, from 0 to 65535\n"
    )


def test_an_error_with_advice_adds_a_hint_line() -> None:
    done = flashq_process("serve", FLASHQ_PORT="tcp://10.0.0.1:8080")
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("flashq: port: 'tcp://10.0.0.1:8080' (variable FLASHQ_PORT) is not allowed")
    assert second.startswith("hint: Kubernetes ")


def test_an_interrupt_ends_with_130_and_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING_SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in complaint


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("--version",)])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_goes_away_causes_no_traceback(arguments: tuple[str, ...], buffered: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environ = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    try:
        done = subprocess.run(
            [COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False, env=environ
        )
    finally:
        os.close(writer)
    assert done.stderr == b""


def test_help_loads_nothing_heavy() -> None:
    program = """
import sys
from flashq.cli.main import main
assert main(["--help"]) == 0
heavy = {"rich", "structlog", "pydantic", "asyncio", "aiokafka", "uvloop", "msgspec", "flashq.server"}
sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_flag_and_a_wrong_command_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--prot", "1"]) == 2
    assert "No such option" in capsys.readouterr().err
    assert main(["srve"]) == 2
    assert "No such command" in capsys.readouterr().err
    assert main(["serve", "extra"]) == 2
    assert main(["serve", "--port"]) == 2


def test_help_of_the_root_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "serve" in capsys.readouterr().out
