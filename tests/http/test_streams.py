"""Streams over real sockets: how they end, what wakes them, and how little of them a slow reader keeps in memory."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
import tracemalloc
from collections.abc import Callable

import pytest

from flashq.http.answers import encode_whole
from flashq.http.message import Deferred, Request, Response, StreamSource
from tests.http.handlers import Numbers
from tests.http.serving import G, eventually, receive_all, serving


def unchunked(data: bytes) -> bytes:
    """The content of a chunked body, which must be whole."""
    content = b""
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        content, data = content + data[:size], data[size + 2 :]
        if not size:
            assert data == b""
            return content


def test_a_stream_is_chunked_and_the_connection_goes_on() -> None:
    sources: list[Numbers] = []

    def stream(request: Request) -> Response:
        sources.append(Numbers(3, 10))
        return Response(200, content_type=b"application/x-ndjson", stream=sources[-1])

    with serving(stream) as served:
        answer = served.ask(G + G, half_close=True)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        first, _, second = rest.partition(b"HTTP/1.1 200 OK")
        assert unchunked(first) == b"n" * 30
        assert unchunked(second.partition(b"\r\n\r\n")[2]) == b"n" * 30
    assert [source.closed for source in sources] == [1, 1]


def test_a_stream_to_http10_ends_with_the_connection_and_to_head_never_begins() -> None:
    sources: list[Numbers] = []

    def stream(request: Request) -> Response:
        sources.append(Numbers(3, 10))
        return Response(200, stream=sources[-1])

    with serving(stream) as served:
        old = served.ask(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        assert old.count(b"HTTP/1.1") == 1
        assert old.partition(b"\r\n\r\n")[2] == b"n" * 30
        assert served.ask(b"HEAD" + G[3:], half_close=True).endswith(b"\r\n\r\n")
    assert sources[-1].left == 3
    assert all(source.closed == 1 for source in sources)


def test_a_stream_that_raises_is_cut_without_an_end_mark() -> None:
    class Bad(Numbers):
        def next_chunk(self) -> bytes | None:
            if self.left == 1:
                raise ValueError("no more")
            return super().next_chunk()

    source = Bad(3, 10)
    with serving(lambda request: Response(200, stream=source)) as served:
        with served.connect() as client:
            client.sendall(G)
            try:
                assert not receive_all(client).endswith(b"0\r\n\r\n")
            except ConnectionResetError:
                pass
        assert eventually(lambda: source.closed == 1)
        assert len(served.errors) == 1


class News(StreamSource):
    """What is told while the client waits; it ends with None."""

    def __init__(self) -> None:
        self.items: list[bytes | None] = []
        self.closed = False

    def start(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def next_chunk(self) -> bytes | None:
        return self.items.pop(0) if self.items else b""

    def tell(self, item: bytes | None) -> None:
        self.items.append(item)
        self.wake()

    def drain(self) -> None:
        self.tell(None)

    def close(self) -> None:
        self.closed = True


def test_a_stream_waits_for_news_and_is_woken() -> None:
    news = News()
    with serving(lambda request: Response(200, content_type=b"text/event-stream", stream=news)) as served:
        with served.connect() as client:
            client.sendall(G)
            assert client.recv(1000).endswith(b"\r\n\r\n")
            served.call(news.tell, b"one")
            assert client.recv(1000) == b"3\r\none\r\n"
            served.call(news.tell, b"three")
            assert client.recv(1000) == b"5\r\nthree\r\n"
        # Whoever has closed is found out by the next thing said.
        while not news.closed:
            served.call(news.tell, b"more")
            time.sleep(0.01)


def test_a_handler_that_fills_the_write_buffer_with_an_earlier_answer_is_given_no_more_until_it_is_read() -> None:
    first, second = Deferred(), Deferred()
    paths: list[str] = []

    def handle(request: Request) -> Response | Deferred:
        paths.append(request.path)
        if request.path == "/first":
            return first
        if request.path == "/second":
            first.send(Response(200, b"x" * 8_000_000))  # more than the sockets take
            return second
        return Response(200, b"third")

    with serving(handle) as served, served.connect() as client:
        for path in (b"/first", b"/second", b"/third"):
            client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            time.sleep(0.1)
        assert paths == ["/first", "/second"]
        served.call(second.send, Response(200, b"second"))
        client.shutdown(socket.SHUT_WR)
        rest = b"".join(iter(lambda: client.recv(1 << 20), b""))
    assert paths == ["/first", "/second", "/third"]
    assert rest.endswith(b"third")
    assert rest.index(b"second") < rest.index(b"third")


@pytest.mark.parametrize("deferred", [False, True], ids=["at once", "later"])
def test_what_is_asked_while_a_stream_is_written_is_answered_after_it(deferred: bool) -> None:
    news, waiting = News(), Deferred()

    def handle(request: Request) -> Response | Deferred:
        if request.path == "/stream":
            return Response(200, content_type=b"text/event-stream", stream=news)
        return waiting if deferred else Response(200, b"second")

    with serving(handle) as served, served.connect() as client:
        client.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).endswith(b"\r\n\r\n")
        served.call(news.tell, b"one")
        assert client.recv(1000) == b"3\r\none\r\n"
        client.sendall(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
        if deferred:
            time.sleep(0.1)
            served.call(waiting.send, Response(200, b"second"))
        time.sleep(0.1)
        served.call(news.tell, b"two")
        assert client.recv(1000) == b"3\r\ntwo\r\n"
        served.call(news.tell, None)
        client.shutdown(socket.SHUT_WR)
        rest = b"".join(iter(lambda: client.recv(1000), b""))
    assert rest.startswith(b"0\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert rest.endswith(b"\r\n\r\nsecond")


def test_a_stream_that_begins_while_the_server_drains_is_told_to_end() -> None:
    found = Deferred()
    with serving(lambda request: found) as served, served.connect() as client:
        client.sendall(G)
        assert eventually(lambda: served.server.requests == 1)
        drained = asyncio.run_coroutine_threadsafe(served.server.drain(5), served.loop)
        assert eventually(lambda: served.server.draining)
        served.call(found.send, Response(200, content_type=b"text/event-stream", stream=News()))
        assert receive_all(client).endswith(b"\r\n\r\n0\r\n\r\n")
        assert drained.result(5)


def test_a_slow_reader_of_a_long_stream_holds_little_memory(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    source = Numbers(4000)  # 262 MB
    with serving(lambda request: Response(200, stream=source), new_loop=new_loop) as served:
        with served.connect(receive_buffer=16384) as client:
            tracemalloc.start()
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            client.sendall(G)
            time.sleep(0.2)
            assert source.left > 3500  # it waits for the reader
            buffer, seen = bytearray(1 << 20), 0
            while seen < 262_144_000:
                seen += client.recv_into(buffer)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert eventually(lambda: source.closed == 1)
    assert peak < 4_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss < 30_000  # KiB; the kernel's buffers are not ours


def test_a_client_that_asks_and_does_not_read_is_handed_no_more_answers() -> None:
    seen, answer = [], Response(200, b"b" * 100_000)

    def big(request: Request) -> Response:
        seen.append(request)
        return answer

    with serving(big) as served, served.connect(receive_buffer=16384) as client:
        client.sendall(G * 5000)
        time.sleep(0.3)
        assert len(seen) < 200
        total, buffer = 0, bytearray(1 << 20)
        while total < 5000 * len(encode_whole(answer)):
            total += client.recv_into(buffer)
        assert len(seen) == 5000
