"""Starting: what the first line tells, who may come in, and what a server that cannot start says."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashq import __version__
from flashq.broker.flashq import FlashQ
from tests.server.running import JSON, WITHOUT_UVLOOP, Process, assert_clean, flashq, serving

POST = b'{"records":[{"value":"v"}]}'
RSS_LIMIT_KB = 60 * 1024


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server with one record that nobody asks for."""
    with serving(tmp_path_factory.mktemp("idle") / "data") as server:
        server.post("t", "v")
        yield server


# -- what it tells


@pytest.mark.parametrize(
    ("sync_mode", "durability"), [("always", "fsynced"), ("periodic", "written"), ("never", "written")]
)
def test_the_first_line_tells_what_it_serves_and_each_sync_mode_serves(
    sync_mode: str, durability: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "there" / "not" / "yet"
    with flashq("--data-dir", str(data_dir), "--sync-mode", sync_mode, log=tmp_path / "log") as server:
        server.wait_until_listening()
        told = server.events()[0]
        assert (told["event"], told["level"]) == ("listening", "info")
        assert told["version"] == __version__
        assert told["address"] == f"http://127.0.0.1:{server.port}"
        assert (told["storage"], told["sync_mode"], told["data_dir"]) == ("file", sync_mode, str(data_dir))
        assert [told[fact] for fact in ("topics", "groups", "torn_tails", "damaged")] == [0, 0, 0, 0]
        assert 0 <= told["opened_in_s"] < 10
        answer = server.ask("POST", "/topics/t/records", POST, JSON)
        assert answer.headers["x-flashq-durability"] == durability
        assert [record["value"] for record in server.read_all("t")] == ["v"]
        assert server.stop() == 0
        assert [each["event"] for each in server.events()] == ["listening", "stopping", "stopped"]
        assert server.events("stopped")[0]["outcome"] == "clean"
        assert_clean(server)


def test_memory_storage_serves_leaves_no_files_and_forgets(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir, "--storage", "memory") as server:
        told = server.events()[0]
        assert told["storage"] == "memory"
        assert not {"sync_mode", "data_dir"} & set(told)
        answer = server.ask("POST", "/topics/t/records", POST, JSON)
        assert answer.headers["x-flashq-durability"] == "memory"
    assert not data_dir.exists()


def test_it_serves_the_same_without_uvloop(tmp_path: Path) -> None:
    with serving(tmp_path / "data", command=WITHOUT_UVLOOP) as server:
        server.post("t", "a", "b")
        with server.connect() as waiting:
            waiting.send(waiting.encode("GET", "/topics/t/records?from_offset=2&timeout_ms=20000"))
            time.sleep(0.05)
            server.post("t", "c")
            assert [record["value"] for record in waiting.receive().json()["records"]] == ["c"]
        assert server.stop() == 0


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with flashq("--data-dir", str(tmp_path / "data"), "--host", "::1", log=tmp_path / "log") as server:
        try:
            told = server.wait_until_listening()
        except AssertionError:
            assert server.wait() == 6
            pytest.skip("no ::1 here")
        assert told["address"] == f"http://[::1]:{server.port}"
        socket.create_connection(("::1", server.port), 5).close()
        assert server.stop() == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_an_idle_server_takes_less_than_60_mb(idle: Process) -> None:
    status = Path(f"/proc/{idle.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    assert int(found[1]) < RSS_LIMIT_KB


# -- who may come in


def test_with_a_token_only_those_who_know_it_come_in(tmp_path: Path) -> None:
    with serving(tmp_path / "data", environ={"FLASHQ_TOKEN": "open-sesame"}) as server:
        records = "/topics/t/records"
        for told in (None, "", "open-sesame", "Bearer", "Bearer ", "Bearer open-sesam", "Bearer open-sesame1",
                     "Bearer OPEN-SESAME", "Basic open-sesame", "Bearer \xff"):  # fmt: skip
            headers = {} if told is None else {"Authorization": told}
            for method, path, body in (
                ("GET", "/health", None), ("GET", records, None), ("POST", records, POST), ("GET", "/nothing", None),
            ):  # fmt: skip
                answer = server.ask(method, path, body, {**JSON, **headers})
                assert answer.status == 401, (told, method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                refused = answer.json()
                assert (refused["error"], set(refused)) == ("unauthorized", {"error", "message", "details"})
                assert refused["details"] == ({"outcome": "not_applied"} if method == "POST" else {})
        known = {"Authorization": "Bearer open-sesame"}
        assert server.ask("GET", records, headers=known).status == 404, "nothing was stored"
        assert server.ask("POST", records, POST, {**JSON, **known}).status == 200
        assert server.ask("GET", records, headers=known).status == 200
        assert server.ask("GET", "/health", headers=known).status == 200
        assert "sesame" not in server.log()


def test_flags_go_before_the_file_of_settings_and_a_token_may_come_from_a_file(tmp_path: Path) -> None:
    settings, token = tmp_path / "flashq.toml", tmp_path / "token"
    settings.write_text('insecure = true\nlog_level = "error"\nlog_format = "console"\nretention_ms = "7d"\n')
    token.write_text("open-sesame\n")
    token.chmod(0o600)
    flags = ("--config", str(settings), "--no-insecure", "--log-level", "info", "--log-format", "json")
    with serving(tmp_path / "data", *flags, "--token-file", str(token)) as server:
        assert server.events("listening"), "a line that the level of the file would have left out, and in JSON"
        known = {"Authorization": "Bearer open-sesame"}
        assert server.ask("GET", "/topics").status == 401
        assert server.ask("PUT", "/topics/t", b"{}", {**JSON, **known}).status == 201
        assert server.ask("GET", "/topics/t", headers=known).json()["retention_ms"] == 7 * 86_400_000
    with flashq("--data-dir", str(tmp_path / "no"), *flags, "--host", "0.0.0.0", log=tmp_path / "log") as refused:
        assert refused.wait() == 2
        assert "token" in refused.log()


# -- what cannot start


def test_a_port_in_use_is_exit_code_6_one_line_and_leaves_the_directory_free(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with flashq("--data-dir", str(data_dir), "--port", str(port), log=tmp_path / "log") as refused:
            assert refused.wait() == 6
            (line,) = refused.log().splitlines()
            assert line.startswith("flashq: ")
            assert f"127.0.0.1 port {port}" in line
            assert "in use" in line
    with FlashQ.open(data_dir) as log:
        assert log.topics() == []


@pytest.mark.alone
def test_a_directory_in_use_is_exit_code_3_within_a_second_one_line_and_nothing_touched(
    idle: Process, tmp_path: Path
) -> None:
    data_dir = Path(idle.events("listening")[0]["data_dir"])
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    took: list[float] = []
    while not took or (min(took) >= 1 and len(took) < 5):  # a busy machine may need a second to start Python
        begun = time.monotonic()
        with flashq("--data-dir", str(data_dir), log=tmp_path / f"log{len(took)}") as second:
            assert second.wait() == 3
        took.append(time.monotonic() - begun)
        (line,) = second.log().splitlines()
        assert line.startswith(f"flashq: {data_dir} is in use by another FlashQ (process {idle.pid}). ")
    assert min(took) < 1
    assert {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()} == before
    assert idle.post("t", "v")[0]["offset"] == 1
