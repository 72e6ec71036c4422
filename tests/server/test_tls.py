"""TLS at a real server: what it speaks, what it does with clients that do not, and what is wrong with a certificate."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import Process, flashq, serving

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command for a certificate")

REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("pair"), "cert")


@pytest.fixture(scope="module")
def server(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    data_dir = tmp_path_factory.mktemp("tls") / "data"
    with serving(data_dir, "--tls-cert", str(pair[0]), "--tls-key", str(pair[1])) as process:
        yield process


def trusting(cert: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(cert))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def ask(port: int, context: ssl.SSLContext) -> tuple[bytes, str | None, str | None]:
    """Answer, protocol chosen, version of TLS."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(REQUEST)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts), client.selected_alpn_protocol(), client.version()


def test_it_says_https_and_speaks_http11_over_tls_12_and_13(server: Process, pair: tuple[Path, Path]) -> None:
    assert server.events("listening")[0]["address"] == f"https://127.0.0.1:{server.port}"
    answer, chosen, version = ask(server.port, trusting(pair[0]))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (chosen, version) == ("http/1.1", "TLSv1.3")
    context = trusting(pair[0])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert ask(server.port, context)[2] == "TLSv1.2"


def test_its_own_origin_is_https(server: Process, pair: tuple[Path, Path]) -> None:
    for scheme, status in (("https", 200), ("http", 403)):
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as plain,
            trusting(pair[0]).wrap_socket(plain, server_hostname="localhost") as client,
        ):
            origin = f"Origin: {scheme}://localhost\r\n\r\n".encode()
            client.sendall(REQUEST.removesuffix(b"\r\n") + origin)
            assert client.recv(12) == b"HTTP/1.1 %d" % status


def test_older_tls_is_refused(server: Process, pair: tuple[Path, Path]) -> None:
    context = trusting(pair[0])
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(server.port, context)
    assert ask(server.port, trusting(pair[0]))[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the curl command")
def test_curl_that_trusts_the_certificate_gets_an_answer_and_one_that_does_not_gets_none(
    server: Process, pair: tuple[Path, Path]
) -> None:
    url = f"https://localhost:{server.port}/health"
    command = ["curl", "-sS", "--noproxy", "*", "--max-time", "10", "--resolve", f"localhost:{server.port}:127.0.0.1"]
    good = subprocess.run([*command, "--cacert", str(pair[0]), url], capture_output=True, check=False)
    assert (good.returncode, b'"status":"healthy"' in good.stdout) == (0, True), good.stderr
    assert subprocess.run([*command, url], capture_output=True, check=False).returncode == 60


@pytest.mark.parametrize("said", [REQUEST, b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 100])
def test_what_is_not_tls_is_closed_and_harms_nobody(server: Process, pair: tuple[Path, Path], said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        try:
            answer = client.recv(65536)
        except ConnectionResetError:
            answer = b""
        assert not answer.startswith(b"HTTP/")
    assert ask(server.port, trusting(pair[0]))[0].startswith(b"HTTP/1.1 200 ")


def test_a_client_that_never_finishes_the_handshake_is_shed(server: Process, pair: tuple[Path, Path]) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), 20) as client:
        client.sendall(b"\x16\x03\x01")  # the first bytes of a handshake
        assert ask(server.port, trusting(pair[0]))[0].startswith(b"HTTP/1.1 200 ")
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
    assert 5 < time.monotonic() - begun < 15


def test_a_stop_does_not_wait_for_a_silent_client(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with (
        serving(tmp_path / "data", "--tls-cert", str(pair[0]), "--tls-key", str(pair[1])) as process,
        socket.create_connection(("127.0.0.1", process.port), 10) as plain,
        trusting(pair[0]).wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(REQUEST.replace(b"Connection: close\r\n", b""))
        assert client.recv(12) == b"HTTP/1.1 200"
        begun = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - begun < 6
        assert not process.events("connections_cut_off")


# What is wrong with a certificate


def refusal(folder: Path, *arguments: str) -> str:
    """The one line of a start that is a configuration error and touches nothing."""
    with flashq("--data-dir", str(folder / "data"), *arguments, log=folder / "log") as process:
        assert process.wait() == 2, process.log()
        (line,) = process.log().splitlines()
    assert not (folder / "data").exists()
    return line


def test_one_without_the_other_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert "without tls_key" in refusal(tmp_path, "--tls-cert", str(pair[0]))
    assert "without tls_cert" in refusal(tmp_path, "--tls-key", str(pair[1]))


def test_files_that_are_missing_not_pem_or_no_pair_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = map(str, pair)
    _, other = make_certificate(tmp_path, "other")
    text = tmp_path / "text"
    text.write_text("no certificate")
    missing = str(tmp_path / "missing")
    for given, told in (
        ((missing, key), f"tls_cert: cannot read '{missing}': No such file"),
        ((cert, missing), f"tls_key: cannot read '{missing}': No such file"),
        ((cert, str(tmp_path)), "Is a directory"),
        ((str(text), key), "no PEM certificate"),
        ((cert, str(text)), "no PEM certificate"),
        ((key, cert), "no PEM certificate"),
        ((cert, str(other)), "does not belong to the certificate"),
    ):
        assert told in refusal(tmp_path, "--tls-cert", given[0], "--tls-key", given[1])


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-in", str(pair[1]), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    assert "is encrypted" in refusal(tmp_path, "--tls-cert", str(pair[0]), "--tls-key", str(locked))
