"""The listening sockets and what all connections share: limits, counters, remembered heads, bytes in flight.

One timer sweeps all connections' deadlines. Writes no logs itself: `on_error` is told of handlers that raise.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl as ssl_module
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flashq.http.body import Room
from flashq.http.head import REMEMBERED_BYTES, Head, HeadParser, Limits, ProtocolError
from flashq.http.message import ErrorRenderer, Handler, Response, render_error
from flashq.http.protocol import Connection

REFUSALS_AT_ONCE = 64  # connections past the limit that are told so at one time; beyond, they are just closed
_REMEMBERED_HEADS = 1024

_logger = logging.getLogger("flashq.http")


def log_error(error: Exception) -> None:
    """The default for `on_error`. The traceback shows our code, not the client's bytes."""
    _logger.error("a request failed inside the server", exc_info=error)


@dataclass
class Counters:
    """Counts since the start."""

    connections: int = 0
    connections_closed: int = 0  # of those
    connections_refused: int = 0
    requests_closed: int = 0  # requests of connections that have closed
    handler_errors: int = 0
    protocol_errors: dict[int, int] = field(default_factory=dict)  # by status
    timeouts: dict[str, int] = field(default_factory=dict)  # by what was late: head, body, idle, write


class HttpServer:
    """Serves `handler` on any number of addresses, within one set of limits.

    `handler` is called on the loop's thread and must not block; an exception it raises becomes a 500 and is given
    to `on_error`. Make it inside a running loop.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits | None = None,
        render: ErrorRenderer = render_error,
        on_error: Callable[[Exception], None] = log_error,
        counters: Counters | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.render = render
        self.counters = counters or Counters()
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.room = Room(self.limits.max_in_flight_bytes)
        self.addresses: list[tuple[str, int]] = []  # where we listen: (host, port) each
        self.connections: set[Connection] = set()
        # Up to this size a head can break no limit but the number of fields.
        self._plain_head_bytes = min(REMEMBERED_BYTES, self.limits.max_request_line_bytes, self.limits.max_head_bytes)
        # Clients repeat their heads byte for byte: what one means is worked out once. Cleared when full.
        self.heads: dict[bytes, Head] = {}
        self._heads_by_fields: dict[bytes, Head] = {}  # by all that follows the request line
        self._on_error = on_error
        self._refused: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._all_closed = asyncio.Event()

    # Life.

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, ssl: ssl_module.SSLContext | None = None, backlog: int = 1024
    ) -> None:
        """Listen on every address `host` resolves to, but for families this machine lacks. Port 0 takes a free one, the
        same for all. May be called again for further hosts. Raises OSError, and then listens on none of them."""
        infos = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = _bound([(family, address) for family, _, _, _, address in infos])
        handshake_s = self.limits.head_timeout_s if ssl is not None else None
        shutdown_s = self.limits.linger_timeout_s if ssl is not None else None  # or a silent client holds up a stop
        for sock in listening:
            # asyncio tries to accept `backlog` times in a row, and out of descriptors it would schedule as many
            # retries: it is told 1, and the kernel the real number.
            server = await self.loop.create_server(
                lambda: Connection(self),
                sock=sock,
                ssl=ssl,
                backlog=1,
                ssl_handshake_timeout=handshake_s,
                ssl_shutdown_timeout=shutdown_s,
            )
            sock.listen(backlog)
            self._servers.append(server)
            self.addresses.append(sock.getsockname()[:2])
        if self._sweep_timer is None:
            self._sweep()

    @property
    def port(self) -> int:
        """The port of the first address."""
        return self.addresses[0][1]

    @property
    def requests(self) -> int:
        """Requests handed to the handler so far."""
        return self.counters.requests_closed + sum(connection.served for connection in self.connections)

    @property
    def bytes_in_flight(self) -> int:
        """Bodies announced and not yet answered, but for small ones."""
        return self.room.used

    def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    async def drain(self, timeout_s: float = 10) -> bool:
        """Stop accepting, answer what has begun, hurry what waits, close. After `timeout_s` the rest is cut off.

        Returns whether every connection ended by itself. The server cannot be started again.
        """
        self.draining = True
        self.stop_accepting()
        for connection in [*self.connections, *self._refused]:
            connection.drain()
        whole = await self._closed_within(timeout_s)
        for connection in [*self.connections, *self._refused]:
            connection.abort()
        await self._closed_within(1)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        return whole

    async def _closed_within(self, timeout_s: float) -> bool:
        if self.connections or self._refused:
            self._all_closed.clear()
            try:
                await asyncio.wait_for(self._all_closed.wait(), timeout_s)
            except TimeoutError:
                return False
        return True

    def _sweep(self) -> None:
        self._sweep_timer = self.loop.call_later(self.limits.sweep_interval_s, self._sweep)
        now = self.loop.time()
        for connection in [*self.connections, *self._refused]:
            try:
                connection.check(now)
            except Exception as error:  # must not keep the others from theirs
                self.failed(error)

    # What connections call.

    def opened(self, connection: Connection) -> bool:
        """Counts the connection in; False if it is one too many and shall be told so."""
        if len(self.connections) < self.limits.max_connections and not self.draining:
            self.counters.connections += 1
            self.connections.add(connection)
            return True
        self.counters.connections_refused += 1
        self._refused.add(connection)
        if len(self._refused) > REFUSALS_AT_ONCE:
            connection.abort()
        return False

    def closed(self, connection: Connection) -> None:
        self.counters.requests_closed += connection.served
        if connection in self.connections:
            self.counters.connections_closed += 1
            self.connections.remove(connection)
        self._refused.discard(connection)
        if not self.connections and not self._refused:
            self._all_closed.set()

    def failed(self, error: Exception) -> Response:
        """A handler or a stream raised: the client learns no more than that."""
        self.counters.handler_errors += 1
        self._on_error(error)
        return self.render(500, "internal_error", "the server failed to answer this request", {})

    def protocol_error(self, error: ProtocolError) -> None:
        errors = self.counters.protocol_errors
        errors[error.status] = errors.get(error.status, 0) + 1

    def timed_out(self, what: str) -> None:
        self.counters.timeouts[what] = self.counters.timeouts.get(what, 0) + 1

    def read_head(self, raw: bytes) -> Head | None:
        """A whole head that is not remembered yet; None if anything is special about it."""
        if not 4 <= len(raw) <= self._plain_head_bytes:
            return None
        line = raw.find(b"\n") + 1
        fields = raw[line:]
        known = self._heads_by_fields.get(fields)
        head = known.with_line(raw[:line]) if known is not None else None
        if head is None:
            head = HeadParser(self.limits).read_whole(raw)
            if head is None:
                return None
            if len(self._heads_by_fields) >= _REMEMBERED_HEADS:
                self._heads_by_fields.clear()
            self._heads_by_fields[fields] = head
        self.remember(raw, head)
        return head

    def remember(self, raw: bytes, head: Head) -> None:
        if len(raw) <= REMEMBERED_BYTES:
            if len(self.heads) >= _REMEMBERED_HEADS:
                self.heads.clear()
            self.heads[raw] = head


def _bound(addresses: list[tuple[int, tuple[Any, ...]]]) -> list[socket.socket]:
    """A bound socket for each address; if the first took a free port, the others take the same."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in dict.fromkeys(addresses):
        port = address[1] or (sockets[0].getsockname()[1] if sockets else 0)
        try:
            sockets.append(_bind(family, (address[0], port, *address[2:])))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                missing = error  # "localhost" has an IPv6 address even where there is no IPv6
                continue
            for sock in sockets:
                sock.close()
            raise OSError(error.errno, f"cannot listen on {address[0]} port {port}: {error.strerror}") from error
    if not sockets and missing is not None:
        raise missing
    return sockets


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
