"""What becomes of requests when connections end, and how a client is pointed at a server."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from flashq import AsyncClient, Client, Closed, ConfigurationError, ConnectionFailed, InvalidParameter
from flashq.client.endpoint import DEFAULT_URL
from flashq.client.errors import Unauthorized
from flashq.client.retry import Backoff
from tests.client.cutting import cutting
from tests.server.running import Process, serving
from tests.server.test_tls import make_certificate

SOON = Backoff(first_s=0.01, longest_s=0.02)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_a_post_whose_answer_is_lost_is_stored_once(server: Process, client: Client, topic: str) -> None:
    with cutting(server.port, cuts=3) as proxy, Client(proxy.url, backoff=SOON) as through:
        assert through.post_records(topic, ["a", "b"]) == [0, 1]
        assert proxy.cuts == 0
    assert [record.text for record in client.poll_records(topic)] == ["a", "b"]


def test_an_async_post_whose_answer_is_lost_is_stored_once(server: Process, client: Client, topic: str) -> None:
    async def post(url: str) -> list[int]:
        async with AsyncClient(url, backoff=SOON) as through:
            return await through.post_records(topic, ["a", "b"])

    with cutting(server.port, cuts=3) as proxy:
        assert asyncio.run(post(proxy.url)) == [0, 1]
        assert proxy.cuts == 0
    assert client.high_water_mark(topic) == 2


def test_without_retries_a_lost_answer_is_an_unknown_outcome(server: Process, client: Client, topic: str) -> None:
    with cutting(server.port, cuts=1) as proxy, Client(proxy.url, retries=0) as through:
        with pytest.raises(ConnectionFailed, match="not known") as caught:
            through.post_record(topic, "a")
        assert caught.value.outcome == "unknown"
    assert client.high_water_mark(topic) == 1


def test_a_lost_answer_to_a_read_is_read_again(server: Process, client: Client, topic: str) -> None:
    client.post_record(topic, "a")
    with cutting(server.port, cuts=2, to=b"GET") as proxy, Client(proxy.url, backoff=SOON) as through:
        assert [record.text for record in through.poll_records(topic)] == ["a"]


def test_where_nobody_listens_nothing_was_sent() -> None:
    slept: list[float] = []
    backoff = Backoff(first_s=0.5, longest_s=8.0, random=lambda: 1.0)
    client = Client(f"http://127.0.0.1:{closed_port()}", retries=3, backoff=backoff, sleep=slept.append)
    with client, pytest.raises(ConnectionFailed, match="was not sent") as caught:
        client.post_record("t", "a")
    assert caught.value.outcome == "not_applied"
    assert isinstance(caught.value, ConnectionError)
    assert slept == [0.5, 1.0, 2.0]


def test_a_server_that_does_not_answer_in_time_leaves_a_post_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(silent, timeout_s=0.05, retries=0) as client:
            with pytest.raises(ConnectionFailed) as caught:
                client.post_record("t", "a")
            assert caught.value.outcome == "unknown"
            with pytest.raises(ConnectionFailed) as caught:
                client.topics()
            assert caught.value.outcome == "not_applied"


def test_a_long_poll_may_take_longer_than_the_timeout(url: str, topic: str) -> None:
    with Client(url, timeout_s=0.3, retries=0) as client:
        client.create_topic(topic)
        assert client.poll_records(topic, timeout_s=0.5) == []


def test_a_wrong_token_is_refused_and_the_right_one_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "data", environ={"FLASHQ_TOKEN": "s3cret"}) as server:
        url = f"http://127.0.0.1:{server.port}"
        with Client(url, token="wrong") as client, pytest.raises(Unauthorized):
            client.post_record("t", "a")
        monkeypatch.setenv("FLASHQ_URL", url)
        monkeypatch.setenv("FLASHQ_TOKEN", "s3cret")
        with Client.from_env() as client:
            assert client.post_record("t", "a") == 0
        with Client.from_env(token="wrong") as client, pytest.raises(Unauthorized):
            client.topics()


def test_an_unset_environment_leaves_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHQ_URL", "")
    monkeypatch.delenv("FLASHQ_TOKEN", raising=False)
    with Client.from_env() as client:
        assert client.base_url == DEFAULT_URL


def test_a_proxy_of_the_environment_is_not_used(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"http://127.0.0.1:{closed_port()}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, nobody)
    monkeypatch.delenv("no_proxy", raising=False)
    with Client(url) as client:
        assert client.health().status == "healthy"
    with Client(url, proxy=nobody, retries=0) as client, pytest.raises(ConnectionFailed):
        client.health()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command for a certificate")
def test_tls_is_checked_against_the_certificates_it_is_given(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "cert")
    with serving(tmp_path / "data", "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        url = f"https://localhost:{server.port}"
        with Client(url, verify=cert) as client:
            assert client.post_record("t", "a") == 0
        with Client(url, retries=0) as client, pytest.raises(ConnectionFailed, match=r"(?i)certificate") as caught:
            client.topics()
        assert caught.value.outcome == "not_applied"


@pytest.mark.parametrize("bad", ["", "localhost:8080", "ftp://host", "http://", "http://host/?q=1"])
def test_a_bad_address_is_refused_at_once(bad: str) -> None:
    with pytest.raises(InvalidParameter, match="base_url"):
        Client(bad)


def test_bad_options_are_refused_and_a_token_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="verify"):
        Client("https://localhost", verify=tmp_path / "none.pem")
    with pytest.raises(InvalidParameter, match="retries"):
        Client(retries=-1)
    with pytest.raises(InvalidParameter, match="token") as caught:
        Client(token="s3cret\n")
    assert "s3cret" not in str(caught.value)


def test_an_address_may_have_a_path(server: Process) -> None:
    with Client(f"http://127.0.0.1:{server.port}/") as client:
        assert client.health().status == "healthy"


def test_a_closed_client_says_so(url: str) -> None:
    client = Client(url)
    client.close()
    client.close()
    with pytest.raises(Closed, match="this client is closed"):
        client.topics()
    with pytest.raises(Closed):
        next(iter(client.read_lines("t")))
