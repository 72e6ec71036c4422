"""Clients nobody would like to have, in a process of their own so that they take no time from who measures.

    python -m tests.load.crowd PORT IDLE DRIPPING DEAF TARGET

IDLE ask once and keep the connection; DRIPPING send a head a byte a second, and come again when they are shed; DEAF
ask for TARGET, which is large, and read nothing. Prints `ready` when all are there; when standard input closes, prints
as JSON what has become of them.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import socket
import sys
import time
from collections import Counter

HEAD = b"GET /" + b"a" * 4000


class Crowd:
    """All in one thread; `counts` says what has happened."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._dripping: dict[socket.socket, int] = {}  # bytes sent
        self._idle: set[socket.socket] = set()
        self._deaf: list[socket.socket] = []
        self.counts: Counter[str] = Counter()

    def idle(self) -> None:
        client = self._connect()
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200"), "an idle client was not served"
        self._watch(client)
        self._idle.add(client)

    def drip(self) -> None:
        client = self._connect()
        self._watch(client)
        self._dripping[client] = 0

    def deaf(self, target: str) -> None:
        client = self._connect(receive_buffer=4096)
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self._deaf.append(client)

    def turn(self) -> None:
        """A second in the life of all of them."""
        begun = time.monotonic()
        clients = list(self._dripping)
        for at, client in enumerate(clients):
            self._lose(begun + at / len(clients) - time.monotonic())  # each at its own time of the second
            self._send_next(client)
        self._lose(begun + 1 - time.monotonic())

    def report(self) -> str:
        here = {"idle": len(self._idle), "dripping": len(self._dripping), "deaf": len(self._deaf)}
        return json.dumps({**here, **self.counts})

    def _connect(self, receive_buffer: int | None = None) -> socket.socket:
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        client.connect(("127.0.0.1", self._port))
        return client

    def _watch(self, client: socket.socket) -> None:
        client.setblocking(False)
        self._selector.register(client, selectors.EVENT_READ)

    def _send_next(self, client: socket.socket) -> None:
        sent = self._dripping.get(client)
        if sent is not None:
            try:
                client.send(HEAD[sent : sent + 1])
                self._dripping[client] = sent + 1
                self.counts["bytes dripped"] += 1
            except OSError:
                self._shed(client)

    def _lose(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
                assert isinstance(key.fileobj, socket.socket)
                self._shed(key.fileobj)
            if time.monotonic() >= until:
                return

    def _shed(self, client: socket.socket) -> None:
        """The server has had enough of it: an idle one is gone, a dripping one comes again."""
        self._selector.unregister(client)
        client.close()
        if client in self._idle:
            self._idle.remove(client)
            self.counts["idle shed"] += 1
        else:
            del self._dripping[client]
            self.counts["dripping shed"] += 1
            self.drip()


def main() -> None:
    port, idle, dripping, deaf = map(int, sys.argv[1:5])
    crowd = Crowd(port)
    for _ in range(idle):
        crowd.idle()
    for _ in range(deaf):
        crowd.deaf(sys.argv[5])
    for _ in range(dripping):
        crowd.drip()
    print("ready", flush=True)
    while not (select.select([0], [], [], 0)[0] and not os.read(0, 1)):
        crowd.turn()
    print(crowd.report(), flush=True)


if __name__ == "__main__":
    main()
