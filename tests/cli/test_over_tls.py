"""Every verb that talks to a server, over TLS with `--server` and `--ca-file`: they go before the environment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Ended, run
from tests.cli.test_every_option import VERBS
from tests.server.running import Process, serving
from tests.server.test_tls import make_certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command for a certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("pair"), "cert")


@pytest.fixture(scope="module")
def server(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    kept = ("--retention-ms", "7d", "--retention-bytes", "1GiB", "--sync-mode", "periodic", "--sync-interval-s", "0.5")
    tls = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    with serving(tmp_path_factory.mktemp("server") / "data", *kept, "--commit-threshold", "5", *tls) as process:
        yield process


def test_every_verb_finds_the_server_that_its_options_name(
    server: Process, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """The environment of the commands names no server, and none listens at the default address of theirs."""
    options = ("--server", f"https://localhost:{server.port}", "--ca-file", str(certificate[0]))
    exported = tmp_path / "orders.ndjson"
    done: set[tuple[str, ...]] = set()

    def told(verb: tuple[str, ...], *arguments: str) -> Ended:
        ended = run(None, *verb, *arguments, *options)
        assert ended.code == 0, (verb, ended)
        done.add(verb)
        return ended

    assert told(("health",)).lines[0].split() == ["status", "healthy"]
    told(("produce",), "orders", "one tea")
    told(("topics", "create"), "notes")
    described = json.loads(told(("topics", "describe"), "orders", "--json").out)
    assert (described["retention_ms"], described["retention_bytes"]) == (7 * 86_400_000, 1 << 30)
    assert json.loads(told(("topics", "set"), "notes", "--retention-ms", "1d", "--json").out)["name"] == "notes"
    assert len(told(("topics", "list"), "--json").lines) == 2
    assert told(("consume",), "orders", "--output", "value").out == b"one tea\n"
    told(("export",), "orders", "--file", str(exported))
    progress = ("--progress-file", str(tmp_path / "progress"))
    assert told(("import",), "again", "--file", str(exported), "--json", *progress).out
    told(("groups", "create"), "billing")
    told(("groups", "commit"), "billing", "orders", "1")
    assert told(("groups", "list"), "--json").lines == ['{"group_id":"billing","topics":1,"lag":0}']
    assert json.loads(told(("groups", "describe"), "billing", "--json").out)["committed_offset"] == 1
    assert told(("groups", "reset"), "billing", "orders", "--to", "earliest", "--json").out
    told(("groups", "delete"), "billing", "--yes")
    told(("topics", "delete"), "notes", "--yes")
    assert done == {verb for verb, options in VERBS.items() if "--ca-file" in options}


def test_a_certificate_that_nobody_vouches_for_is_refused_with_exit_code_7(server: Process) -> None:
    refused = run(None, "health", "--server", f"https://localhost:{server.port}")
    assert (refused.code, refused.out) == (7, b"")
    assert "certificate verify failed" in refused.err
