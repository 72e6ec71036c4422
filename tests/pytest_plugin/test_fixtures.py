"""The fixtures cost nothing until used, give every test its own, and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from flashq import Client, FlashQ
from flashq.testing.clock import Clock
from flashq.testing.server import Server

pytest_plugins = ["pytester"]


def test_pytest_finds_the_plugin_where_flashq_is_installed() -> None:
    (found,) = entry_points(group="pytest11", name="flashq")
    assert found.value == "flashq.pytest_plugin"


def test_a_run_that_uses_no_fixture_loads_no_engine() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import flashq.pytest_plugin; print(set(sys.modules) - before)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert eval(ran.stdout) == {"flashq", "flashq.errors", "flashq.pytest_plugin"}


def test_each_test_has_its_own_log_which_is_closed_after_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from flashq import Closed

        before = []

        def test_first(flashq):
            before.append(flashq)
            assert flashq.post_record("t", "x") == 0

        def test_second(flashq):
            assert flashq.topics() == []
            with pytest.raises(Closed):
                before[0].topics()
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_faults_left_on_at_the_end_of_a_test_harm_nobody(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from flashq import StorageFailed

        def test_full(flashq_faults):
            flashq_faults.flashq.post_record("t", "x")
            flashq_faults.disk_full()
            flashq_faults.fail_next_fsync()

        def test_failed(flashq_faults):
            flashq_faults.flashq.create_topic("t")
            flashq_faults.fail_next_fsync()
            with pytest.raises(StorageFailed):
                flashq_faults.flashq.post_record("t", "x")

        def test_after(flashq_faults):
            assert flashq_faults.flashq.topics() == []
        """
    )
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=3)


def test_a_server_and_its_clients_end_with_their_test_whatever_the_environment_says(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASHQ_TOKEN", "for another server")
    monkeypatch.setenv("FLASHQ_PORT", "no number")
    pytester.makepyfile(
        """
        import pytest
        from flashq import Client, ConnectionFailed

        before = []

        def test_first(flashq_server, tmp_path):
            before.append(flashq_server.url)
            assert flashq_server.client().post_record("t", "x") == 0
            assert list(tmp_path.rglob("*.log"))

        def test_second(flashq_server):
            assert flashq_server.client().topics() == []
            with Client(before[0], retries=0) as client, pytest.raises(ConnectionFailed):
                client.topics()
        """
    )
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=2)


def test_a_server_that_did_not_end_cleanly_is_told_of(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server._process.kill()
    with pytest.raises(RuntimeError, match=r"ended with -9\n.*listening"):
        server.close()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with FlashQ.open(tmp_path / "data"), pytest.raises(RuntimeError, match=r"ended by itself\n.*in use by another"):
        Server(tmp_path)


def test_clients_of_a_server_take_the_options_of_a_client(flashq_server: Server) -> None:
    client = flashq_server.client(retries=0)
    assert isinstance(client, Client)
    assert client.base_url.rstrip("/") == flashq_server.url
    assert (client._retries, flashq_server.client()._retries) == (0, 5)


def test_the_clock_stands_still_until_told_to_go_on_and_never_goes_back() -> None:
    clock = Clock()
    began = clock.now_ms
    assert clock.advance(0.0015) == clock.now_ms == began + 2
    assert clock.advance(3600) == began + 2 + 3_600_000
    with pytest.raises(ValueError, match=r"cannot go back by 0.5 s; it still shows"):
        clock.advance(-0.5)
    assert clock.now_ms == began + 2 + 3_600_000
