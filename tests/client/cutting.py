"""A TCP proxy that cuts connections at the worst time: the server has answered, and the client has not heard it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CuttingProxy:
    """Forwards to a server. While `cuts` is above 0, an answer to a request that begins with `to` is not finished.

    Of such an answer only the first `after_bytes` bytes go out; then both connections end.
    """

    def __init__(self, server_port: int, cuts: int, to: bytes, after_bytes: int) -> None:
        self.cuts = cuts
        self.connections = 0
        self._server_port = server_port
        self._to = to
        self._after_bytes = after_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            _end(each)
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [client, server]
            self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Requests one way; a client has one in flight on a connection, so what comes back answers the latest."""
        latest = [b""]
        self._start(self._answer, client, server, latest)
        try:
            while request := client.recv(1 << 20):
                if request[:5] in (b"GET /", b"POST ", b"PUT /", b"DELET"):
                    latest[0] = request
                server.sendall(request)
        except OSError:
            pass
        finally:
            _end(server)

    def _answer(self, client: socket.socket, server: socket.socket, latest: list[bytes]) -> None:
        left: int | None = None  # bytes that still go out of an answer to be cut
        try:
            while data := server.recv(1 << 16):
                if left is None and self.cuts > 0 and latest[0].startswith(self._to):
                    self.cuts -= 1
                    left = self._after_bytes
                client.sendall(data if left is None else data[:left])
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        return
        except OSError:
            pass
        finally:
            _end(client)
            _end(server)


def _end(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    each.close()


@contextmanager
def cutting(server_port: int, *, cuts: int, to: bytes = b"POST", after_bytes: int = 0) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server_port, cuts, to, after_bytes)
    try:
        yield proxy
    finally:
        proxy.close()
