"""HTTP/1.1 as these tests need it: whole messages on a blocking socket, in the order they are sent.

Written for the tests alone, so that a fault in the server's parser is not shared by its judge, and so that several
requests can be in flight on one connection. What a server may send is understood: a Content-Length or chunks.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self

ANSWER_TIMEOUT_S = 20.0


class ConnectionLostError(Exception):
    """The other side is gone; whatever was not answered in full has an unknown outcome."""


class NotHTTPError(Exception):
    """Whole bytes arrived and they are not the message the contract describes."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer: the first line, headers by lower-case name, and the whole body."""

    start: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        parts = self.start.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdecimal():
            raise NotHTTPError(f"status line {self.start!r}")
        return int(parts[1])

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise NotHTTPError(f"{self.start!r} with a body that is not JSON: {self.body[:200]!r}") from error


def encode_request(
    method: str, target: str, host: str, body: object = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of one request; a body other than None is sent as JSON."""
    fields = {"Host": host, **(headers or {})}
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    if body is None:
        return f"{head}\r\n".encode()
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def encode_answer(status: int, body: object) -> bytes:
    """The bytes of one JSON answer."""
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    head = f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def read_message(stream: BinaryIO) -> Message | None:
    """The next whole message, None at a clean end. Raises ConnectionLostError when it stops midway."""
    start = stream.readline()
    if not start:
        return None
    headers: dict[str, str] = {}
    while (line := _line(stream)) != "":
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b"".join(_chunks(stream))
    else:
        body = _exactly(stream, int(headers.get("content-length", "0")))
    return Message(start.decode("latin-1").rstrip("\r\n"), headers, body)


def _line(stream: BinaryIO) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ConnectionLostError("the connection ended inside a line")
    return line.decode("latin-1").rstrip("\r\n")


def _exactly(stream: BinaryIO, length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise ConnectionLostError(f"the connection ended after {len(content)} of {length} bytes")
    return content


def _chunks(stream: BinaryIO) -> list[bytes]:
    chunks: list[bytes] = []
    while length := int(_line(stream).partition(";")[0], 16):
        chunks.append(_exactly(stream, length))
        _line(stream)
    while _line(stream) != "":
        pass
    return chunks


class Connection:
    """One keep-alive connection to 127.0.0.1. Raises ConnectionLostError when it cannot be made or breaks.

    A server that is there and says nothing for `ANSWER_TIMEOUT_S` is a TimeoutError, which nothing here forgives.
    """

    def __init__(self, port: int) -> None:
        self._host = f"127.0.0.1:{port}"
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLostError(str(error)) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def encode(self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None) -> bytes:
        """A request for this server, to be sent later and perhaps together with others."""
        return encode_request(method, target, self._host, body, headers)

    def send(self, requests: bytes) -> None:
        try:
            self._socket.sendall(requests)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLostError(str(error)) from error

    def receive(self) -> Message:
        """The answer to the oldest request that has none."""
        try:
            answer = read_message(self._stream)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLostError(str(error)) from error
        if answer is None:
            raise ConnectionLostError("the connection was closed before the answer")
        return answer

    def request(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Message:
        self.send(self.encode(method, target, body, headers))
        return self.receive()
