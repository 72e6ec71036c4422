"""A forwarding proxy that tampers with what passes, to prove that the checker sees it.

It stands between the load and a server, request by request; `Tamper` decides what happens to every nth post that
has more than one record.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, BinaryIO, Self

from tests.crash.wire import Connection, ConnectionLostError, Message, encode_answer, read_message

Tamper = Callable[[Connection, Message], Message]
"""Takes the way to the server and a post to tamper with; returns the answer for the client."""

EVERY_NTH = 10
_PASSED_ON = ("idempotency-key", "if-next-offset")


def forward(server: Connection, request: Message) -> Message:
    """Pass a request on unchanged."""
    method, target, _ = request.start.split(" ", 2)
    headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
    return server.request(method, target, request.body or None, headers)


def forge_an_acknowledgement(server: Connection, request: Message) -> Message:
    """Answer in the server's place, with the offsets the post would have got; the server never hears of it."""
    count = len(json.loads(request.body)["records"])
    path = request.start.split(" ", 2)[1]
    answer = server.request("GET", f"{path}?from_offset=0&max_records=1")
    if answer.status != 200:  # no topic yet, or no disk any more
        return forward(server, request)
    end = answer.json()["high_water_mark"]
    stamped = [{"offset": end + n, "timestamp": "2026-01-01T00:00:00.000Z"} for n in range(count)]
    return _message(200, {"offsets": stamped})


def double_a_post(server: Connection, request: Message) -> Message:
    """Send the post twice, as a client that retries would, and give the first answer."""
    answer = forward(server, request)
    forward(server, request)
    return answer


def flip_a_byte(server: Connection, request: Message) -> Message:
    """Change one character of the second record on its way to the server."""
    body = json.loads(request.body)
    value = body["records"][1]["value"]
    body["records"][1]["value"] = ("X" if value[0] != "X" else "Y") + value[1:]
    return forward(server, Message(request.start, request.headers, json.dumps(body).encode()))


def swap_two_records(server: Connection, request: Message) -> Message:
    """Store the first two records of the post in the wrong order."""
    body = json.loads(request.body)
    body["records"][:2] = body["records"][1::-1]
    return forward(server, Message(request.start, request.headers, json.dumps(body).encode()))


def drop_a_record(server: Connection, request: Message) -> Message:
    """Keep the last record from the server and invent its acknowledgement."""
    body = json.loads(request.body)
    del body["records"][-1]
    answer = forward(server, Message(request.start, request.headers, json.dumps(body).encode()))
    if answer.status != 200:
        return answer
    offsets = answer.json()["offsets"]
    return _message(200, {"offsets": [*offsets, {**offsets[-1], "offset": offsets[-1]["offset"] + 1}]})


def answer_with_another_timestamp(server: Connection, request: Message) -> Message:
    """Acknowledge with a timestamp that is not the stored one."""
    answer = forward(server, request)
    if answer.status != 200:
        return answer
    return _message(
        200, {"offsets": [{**o, "timestamp": "2026-01-01T00:00:00.000Z"} for o in answer.json()["offsets"]]}
    )


def refuse_what_was_stored(server: Connection, request: Message) -> Message:
    """Store the post, then say that nothing was written."""
    forward(server, request)
    return _message(503, {"error": "unavailable", "message": "", "details": {"outcome": "not_applied"}})


def _message(status: int, body: Any) -> Message:
    return Message(f"HTTP/1.1 {status} Status", {}, json.dumps(body).encode())


class TamperingProxy:
    """Listens on `port` while the context is open and forwards to `server_port` of 127.0.0.1."""

    def __init__(self, server_port: int, tamper: Tamper) -> None:
        self._server_port = server_port
        self._tamper = tamper
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._posts = 0
        self.tampered = 0
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        socket.create_connection(("127.0.0.1", self.port)).close()  # wakes the accepting thread
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closing.is_set():
                client.close()
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, client.makefile("rb") as requests, Connection(self._server_port) as server:
                self._exchange(client, requests, server)
        except ConnectionLostError:  # there is no server any more
            pass

    def _exchange(self, client: socket.socket, requests: BinaryIO, server: Connection) -> None:
        try:
            while (request := read_message(requests)) is not None:
                answer = (self._tamper if self._is_due(request) else forward)(server, request)
                client.sendall(encode_answer(answer.status, answer.body))
        except (ConnectionLostError, OSError):
            pass

    def _is_due(self, request: Message) -> bool:
        if not request.start.startswith("POST /topics/") or len(json.loads(request.body)["records"]) < 2:
            return False
        with self._lock:
            self._posts += 1
            due = self._posts % EVERY_NTH == 0
            self.tampered += due
            return due
