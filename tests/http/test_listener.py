"""TLS, a burst of connections past the limit, and a process that runs out of descriptors."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from flashq.http.head import Limits
from flashq.http.listener import HttpServer
from flashq.http.message import Request, Response
from tests.http.serving import G, Served, echo, eventually, receive_answers, serving, split_answers

ONE_KEPT = Limits(max_connections=1, linger_timeout_s=60)  # whoever is refused may stay for long
BURST, TOLD = 100, 64

# Serves with few descriptors, and prints its port.
STARVING = """
import asyncio, resource, sys
from flashq.http.listener import HttpServer
from flashq.http.message import Response
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
async def main():
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    server = HttpServer(lambda request: Response(200, b"ok"))
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()
if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time of the server from /proc")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_out_of_descriptors_does_not_spin_and_recovers(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with subprocess.Popen([sys.executable, "-c", STARVING, loop], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(80)]
            time.sleep(0.2)
            before = cpu_s(process.pid)
            time.sleep(0.5)
            assert cpu_s(process.pid) - before < 0.2
            for client in clients:
                client.close()
            assert eventually(lambda: answers(port))
        finally:
            process.kill()


def answers(port: int) -> bool:
    """Asks once; while descriptors are short, uvloop accepts and hangs up."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(G)
            return receive_answers(client, 1) == [(200, b"ok")]
    except (ConnectionResetError, AssertionError):
        return False


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_of_a_burst_past_the_limit_64_are_told_and_the_rest_is_closed_without_an_answer() -> None:
    with serving(limits=ONE_KEPT) as served, served.connect() as kept, ExitStack() as stack:
        kept.sendall(G)
        receive_answers(kept, 1)
        burst = [stack.enter_context(served.connect()) for _ in range(BURST)]
        told = [what_it_is_told(client) for client in burst]
        assert (told.count(503), told.count(None)) == (TOLD, BURST - TOLD)
        assert served.server.counters.connections_refused == BURST
        assert len(served.server.connections) == 1
        for client in burst:
            client.close()
        assert eventually(lambda: what_the_next_is_told(served) == 503)
        kept.sendall(G)
        assert receive_answers(kept, 1)[0][0] == 200


def what_the_next_is_told(served: Served) -> int | None:
    with served.connect() as client:
        return what_it_is_told(client)


def what_it_is_told(client: socket.socket) -> int | None:
    """The status that comes unasked; None if the connection is closed without one."""
    data = b""
    try:
        while not (answers := split_answers(data)[0]):
            part = client.recv(4096)
            if not part:
                return None
            data += part
    except ConnectionResetError:
        return None
    return answers[0][0]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
def test_tls_is_served_and_handlers_are_told(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *make.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def talk() -> tuple[bytes, bytes]:
        server = HttpServer(lambda request: Response(200, request.scheme.encode()), limits=Limits(linger_timeout_s=0.1))
        await server.start("127.0.0.1", 0, ssl=context)
        trusting = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=trusting, server_hostname="localhost"
        )
        writer.write(G + b"GET /y HTTP/1.1\r\n\r\n")
        answers = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert await server.drain(5)
        return answers[-1:], answers.split(b"\r\n\r\n")[1][:5]

    assert asyncio.run(talk()) == (b"}", b"https")


def test_handlers_are_told_who_asks() -> None:
    seen: list[Request] = []

    def keep(request: Request) -> Response:
        seen.append(request)
        return echo(request)

    async def talk() -> None:
        server = HttpServer(keep, limits=Limits())
        await server.start("localhost", 0)
        host, port = server.addresses[0]
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /a%20b?c=d&e HTTP/1.1\r\nHost: a\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n")
        await reader.readuntil(b"}")
        writer.close()
        await writer.wait_closed()
        await server.drain(5)

    asyncio.run(talk())
    (request,) = seen
    assert (request.method, request.path, request.query, request.version) == ("GET", "/a%20b", "c=d&e", "1.1")
    assert request.headers == ((b"host", b"a"), (b"x-two", b"1"), (b"x-two", b"2"))
    assert request.header(b"x-two") == b"1, 2"
    assert request.header(b"none") is None
    assert request.client is not None
    assert request.scheme == "http"
    assert request.keep_alive


def test_a_connection_that_fails_when_its_deadlines_are_compared_is_the_end_of_no_sweep() -> None:
    limits = Limits(head_timeout_s=0.1)
    with serving(limits=limits) as served, served.connect() as failing:
        assert eventually(lambda: len(served.server.connections) == 1)
        (connection,) = served.server.connections
        transport, connection._transport = connection._transport, None  # type: ignore[assignment]
        assert eventually(lambda: len(served.errors) > 1)
        with served.connect() as late:
            assert late.recv(100) == b""
        connection._transport = transport
        assert failing.recv(100) == b""
