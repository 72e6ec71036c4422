"""`flashq health` and `flashq completion`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import COMMAND, environment, on_terminal, run
from tests.server.running import Process, serving


def completed(server: Process | None, words: str, number: int) -> list[str]:
    """What a bash offers for the word of that number, through the script of `flashq completion bash`."""
    script = f'eval "$(flashq completion bash)"; COMP_WORDS=({words}); COMP_CWORD={number}; _flashq_completion flashq; '
    variables = environment(server)
    variables["PATH"] = f"{Path(COMMAND).parent}:{variables['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True,
        text=True,
        env=variables,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_healthy_server_is_exit_code_0(server: Process) -> None:
    healthy = run(server, "health")
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in healthy.lines}
    assert (healthy.code, shown["status"]) == (0, "healthy")
    assert set(shown) == {"status", "version", "uptime", "topics", "groups"}
    report = json.loads(run(server, "health", "--json").out)
    assert (report["status"], report["service"]) == ("healthy", "flashq")
    code, seen = on_terminal(server, ["health"])
    assert (code, "\x1b[32mhealthy\x1b[0m" in seen) == (0, True)


def test_a_server_with_damaged_records_is_exit_code_9_and_says_what_is_wrong(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir) as process:
        run(process, "produce", "t", "a record")
    (segment,) = (data_dir / "topics" / "t").rglob("*.log")
    damaged = bytearray(segment.read_bytes())
    damaged[40] ^= 1
    segment.write_bytes(damaged + damaged)
    with serving(data_dir) as process:
        ended = run(process, "health")
        assert ended.code == 9
        assert [line.split()[0] for line in ended.lines] == [
            "status", "version", "uptime", "topics", "groups", "problem",
        ]  # fmt: skip
        assert json.loads(run(process, "health", "--json").out)["problems"]


def test_no_server_is_exit_code_7() -> None:
    ended = run(None, "health", "--server", "http://127.0.0.1:9")
    assert (ended.code, ended.out) == (7, b"")


def test_tab_completes_commands_topics_and_groups(server: Process) -> None:
    run(server, "topics", "create", "orders")
    run(server, "topics", "create", "other")
    run(server, "groups", "create", "billing")
    assert completed(server, "flashq top", 1) == ["topics"]
    assert completed(server, "flashq topics describe or", 3) == ["orders"]
    assert completed(server, "flashq consume o", 2) == ["orders", "other"]
    assert completed(server, "flashq groups reset b", 3) == ["billing"]
    assert completed(server, "flashq groups reset billing ot", 4) == ["other"]
    assert completed(server, "flashq consume orders --group b", 4) == ["billing"]


def test_a_command_that_talks_to_a_server_loads_no_engine_and_no_codec(server: Process) -> None:
    """They would take longer to load than all else."""
    program = """
import sys
from flashq.cli.main import main
assert main(["topics", "list"]) == 0
heavy = {"rich", "structlog", "pydantic", "asyncio.base_events", "aiokafka", "flashq.batch", "flashq.broker.flashq"}
sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(server), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
def test_a_table_whose_reader_has_gone_is_exit_code_0_and_one_for_a_full_disk_5(
    server: Process, buffered: bool
) -> None:
    variables = {**environment(server), "PYTHONUNBUFFERED": "" if buffered else "1"}
    reader, gone = os.pipe()
    os.close(reader)
    with open(gone, "wb") as pipe, open("/dev/full", "wb") as full:
        for arguments in (["topics", "list"], ["health", "--json"]):
            ended = [
                subprocess.run([COMMAND, *arguments], stdout=out, stderr=subprocess.PIPE, env=variables, timeout=60)
                for out in (pipe, full)
            ]
            assert [each.returncode for each in ended] == [0, 5]
            assert ended[0].stderr == b""
            assert ended[1].stderr == b"flashq: 'standard output': No space left on device\n"


def test_tab_is_silent_without_a_server() -> None:
    assert completed(None, "flashq --server x topics describe o", 5) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    ended = run(None, "completion", shell)
    assert (ended.code, ended.err) == (0, "")
    assert b"_FLASHQ_COMPLETE=complete_" + shell.encode() in ended.out


def test_another_shell_is_refused() -> None:
    assert run(None, "completion", "cmd").code == 2
