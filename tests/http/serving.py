"""Servers for raw-socket tests: an HttpServer on its own loop in a thread, and plain ways to talk to it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from flashq.http.head import Limits
from flashq.http.listener import HttpServer
from flashq.http.message import Handler, Request, Response

T = TypeVar("T")

G = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
H = b"POST /x HTTP/1.1\r\nHost: a\r\n"
"""A whole request, and the beginning of one: its head up to where more headers go."""


def echo(request: Request) -> Response:
    """Says what it was asked; /boom raises."""
    if request.path == "/boom":
        raise ValueError("secret")
    said = {"method": request.method, "path": request.path, "query": request.query, "size": len(request.body)}
    return Response(200, json.dumps(said).encode())


class Served:
    """A running server, seen from the test's thread."""

    def __init__(self, handler: Handler, limits: Limits, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = new_loop()
        self.errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.server = self.do(self._start(handler, limits))

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _start(self, handler: Handler, limits: Limits) -> HttpServer:
        server = HttpServer(handler, limits=limits, on_error=self.errors.append)
        await server.start("127.0.0.1", 0)
        return server

    def do(self, work: Coroutine[Any, Any, T], timeout_s: float = 15) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        self.loop.call_soon_threadsafe(function, *arguments)

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(10)
        try:
            client.connect(("127.0.0.1", self.server.port))
        except OSError:
            client.close()
            raise
        return client

    def ask(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send on a fresh connection and return all bytes until the server closes it."""
        with self.connect() as client:
            for piece in pieces:
                client.sendall(piece)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            return receive_all(client)

    def stop(self) -> None:
        self.do(self.server.drain(1))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@contextmanager
def serving(
    handler: Handler = echo,
    limits: Limits | None = None,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Iterator[Served]:
    served = Served(handler, limits or Limits(), new_loop)
    try:
        yield served
    finally:
        served.stop()


def receive_all(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    while part := client.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def receive_answers(client: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """`count` answers with a content-length; fails if the connection ends before."""
    data = b""
    while True:
        answers, rest = split_answers(data)
        if len(answers) >= count:
            assert rest == b""
            return answers
        part = client.recv(1 << 16)
        assert part, f"closed after {len(answers)} of {count} answers"
        data += part


def split_answers(data: bytes, *, bodiless: bool = False) -> tuple[list[tuple[int, bytes]], bytes]:
    """(status, body) of each whole answer, and what is left over."""
    answers = []
    while (end := data.find(b"\r\n\r\n") + 4) > 3:
        status = int(data[9:12])
        length = 0
        if match := re.search(rb"content-length: (\d+)", data[:end]):
            length = 0 if bodiless else int(match[1])
        if len(data) < end + length:
            break
        answers.append((status, data[end : end + length]))
        data = data[end + length :]
    return answers, data


def eventually(condition: Callable[[], object], timeout_s: float = 5) -> bool:
    """Waits for another thread's doing; False if it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
