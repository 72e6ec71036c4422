"""`flashq serve`: flags become settings, and what the server raises becomes an exit code."""

from __future__ import annotations

import errno
import json
import logging as standard
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from flashq import logging
from flashq.cli.main import main
from flashq.errors import DataCorruption, DirectoryLocked, FlashQError, StorageFull
from flashq.settings import SETTINGS, ServerSettings

Run = Callable[[ServerSettings, str | None], int]


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = standard.getLogger()
    handlers = list(root.handlers)
    monkeypatch.setattr(logging, "_output", None)
    yield
    root.handlers[:] = handlers


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    variables: dict[str, str] = {}
    monkeypatch.setattr("flashq.cli.serve.process_environment", lambda: variables)
    return variables


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> Callable[[Run], None]:
    """Puts a function in the place of `flashq.server.run`."""

    def install(run: Run) -> None:
        module = ModuleType("flashq.server")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "flashq.server", module)

    return install


@pytest.fixture
def runs(serving: Callable[[Run], None]) -> list[tuple[ServerSettings, str | None]]:
    """What the stand-in server was run with."""
    seen: list[tuple[ServerSettings, str | None]] = []

    def run(settings: ServerSettings, token: str | None) -> int:
        seen.append((settings, token))
        return 0

    serving(run)
    return seen


def test_without_flags_the_server_runs_with_the_defaults(runs: list[tuple[ServerSettings, str | None]]) -> None:
    assert main(["serve"]) == 0
    assert runs == [(ServerSettings(), None)]


def test_every_setting_has_a_flag_and_the_flag_reaches_the_server(
    runs: list[tuple[ServerSettings, str | None]], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    values = {
        "host": "::1", "port": "0", "storage": "memory", "data_dir": "d", "sync_mode": "periodic",
        "commit_threshold": "5", "sync_interval_s": "0.5", "segment_bytes": "1MiB", "retention_ms": "7d",
        "retention_bytes": "1GiB", "max_body_bytes": "2MiB", "max_connections": "7", "token_file": str(token),
        "kafka_bootstrap": "a:1,b:2", "kafka_config": "k.conf", "kafka_replication_factor": "2",
        "insecure": "", "allow_host": "a.example,b.example", "cors_origin": "https://c.example", "tls_cert": "c.pem",
        "tls_key": "k.pem", "log_level": "error", "log_format": "json",
    }  # fmt: skip
    assert set(values) == set(SETTINGS)
    arguments = [part for name, text in values.items() for part in (SETTINGS[name].flag, text) if part]
    assert main(["serve", *arguments]) == 0
    assert runs == [
        (
            ServerSettings(
                host="::1", port=0, storage="memory", data_dir="d", sync_mode="periodic", commit_threshold=5,
                sync_interval_s=0.5, segment_bytes=2**20, retention_ms=604_800_000, retention_bytes=2**30,
                kafka_bootstrap="a:1,b:2", kafka_config="k.conf", kafka_replication_factor=2,
                max_body_bytes=2**21, max_connections=7, token_file=str(token), insecure=True,
                allow_host=("a.example", "b.example"), cors_origin=("https://c.example",), tls_cert="c.pem",
                tls_key="k.pem", log_level="error", log_format="json",
            ),
            "secret",
        )
    ]  # fmt: skip


def test_variables_and_a_file_reach_the_server_and_no_insecure_takes_back(
    runs: list[tuple[ServerSettings, str | None]], environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "f.toml"
    file.write_text("port = 1\ncommit_threshold = 3")
    environ.update(FLASHQ_PORT="2", FLASHQ_INSECURE="1", FLASHQ_TOKEN="secret")
    assert main(["serve", "--config", str(file), "--no-insecure"]) == 0
    assert runs == [(ServerSettings(port=2, commit_threshold=3), "secret")]


def test_the_help_shows_every_flag_its_default_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS.values():
        assert f" {setting.flag} " in told
        if setting.default is not None and not setting.kind.is_switch:
            assert f"[default: {setting.default_text}]" in told
    assert "Example: flashq serve --port 9000" in told
    assert "--token " not in told


@pytest.mark.usefixtures("runs")
def test_a_token_file_open_to_others_is_warned_of_and_the_token_never_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("hush-hush")
    token.chmod(0o644)
    assert main(["serve", "--token-file", str(token), "--log-format", "json", "--log-level", "debug"]) == 0
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert json.loads(line)["level"] == "warning"
    assert "hush" not in captured.err + captured.out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            DirectoryLocked("held by process 7", hint="stop it first"),
            3,
            "flashq: held by process 7\nhint: stop it first\n",
        ),
        (DataCorruption("bad\nbytes\x1b[31m"), 4, "flashq: bad\\nbytes\\x1b[31m\n"),
        (StorageFull("no room"), 5, "flashq: no room\n"),
        (FlashQError("odd"), 1, "flashq: odd\n"),
        (OSError(errno.EADDRINUSE, "address in use"), 6, "flashq: address in use\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/d\n"), 5, "flashq: '/d\\n': Permission denied\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_the_server_raises_becomes_a_line_and_an_exit_code(
    serving: Callable[[Run], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def run(settings: ServerSettings, token: str | None) -> int:
        raise error

    serving(run)
    assert main(["serve"]) == code
    assert capsys.readouterr().err.lstrip("\n") == said


def test_the_exit_code_of_the_server_is_that_of_the_command(serving: Callable[[Run], None]) -> None:
    serving(lambda settings, token: 5)
    assert main(["serve"]) == 5


def test_a_mistake_of_ours_keeps_its_traceback(serving: Callable[[Run], None]) -> None:
    def run(settings: ServerSettings, token: str | None) -> int:
        raise ZeroDivisionError

    serving(run)
    with pytest.raises(ZeroDivisionError):
        main(["serve"])
