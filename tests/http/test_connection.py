"""Keep-alive, order, streams, timeouts and shutdown, over real sockets."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from flashq.http.answers import encode_whole
from flashq.http.head import Limits
from flashq.http.message import Deferred, Request, Response, StreamSource
from tests.http.serving import Served, echo, eventually, receive_all, receive_answers, serving, split_answers

G = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
H = b"POST /x HTTP/1.1\r\nHost: a\r\n"
QUICK = Limits(
    head_timeout_s=0.2,
    body_stall_timeout_s=0.2,
    idle_timeout_s=0.3,
    write_stall_timeout_s=0.4,
    linger_timeout_s=0.3,
    min_body_bytes_per_s=1000,
)


def uvloop_or_asyncio() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    try:
        import uvloop
    except ImportError:
        return [asyncio.new_event_loop]
    return [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(scope="module", params=uvloop_or_asyncio(), ids=lambda new_loop: new_loop.__module__)
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    chosen: Callable[[], asyncio.AbstractEventLoop] = request.param
    return chosen


@pytest.fixture(scope="module")
def served(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Served]:
    with serving(new_loop=new_loop) as server:
        yield server


class Later:
    """A handler that keeps every request waiting until the test answers it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Deferred]] = []
        self.abandoned: list[str] = []
        self.answers_on_drain = False
        self.turns = 0

    def _take_turn(self) -> None:
        self.turns += 1

    def __call__(self, request: Request) -> Deferred:
        path = request.path
        deferred = Deferred(on_abandon=lambda: self.abandoned.append(path))
        if path == "/alone":
            deferred.alone, deferred.on_turn = True, self._take_turn
        if self.answers_on_drain:
            deferred.on_drain = lambda: deferred.send(Response(200, b"early"))
        self.waiting.append((path, deferred))
        return deferred


class Numbers(StreamSource):
    """`count` chunks of `size` bytes; notes what became of it."""

    def __init__(self, count: int, size: int = 65536) -> None:
        self.left = count
        self.chunk = b"n" * size
        self.closed = 0

    def next_chunk(self) -> bytes | None:
        self.left -= 1
        return self.chunk if self.left >= 0 else None

    def close(self) -> None:
        self.closed += 1


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


# Requests and answers.


def test_a_connection_is_kept_for_further_requests(served: Served) -> None:
    with served.connect() as client:
        for _ in range(3):
            client.sendall(G)
            assert receive_answers(client, 1)[0][0] == 200


def test_pipelined_requests_are_answered_in_order_whatever_their_kind(served: Served) -> None:
    chunked = (
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: 1\r\n\r\n"
    )
    sized = b"POST /s?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd"
    with served.connect() as client:
        client.sendall((chunked + G + sized) * 200)
        bodies = [body for _, body in receive_answers(client, 600)]
    assert bodies[:3] == [
        b'{"method": "POST", "path": "/c", "query": "", "size": 5}',
        b'{"method": "GET", "path": "/x", "query": "", "size": 0}',
        b'{"method": "POST", "path": "/s", "query": "q=1", "size": 4}',
    ]
    assert bodies == bodies[:3] * 200


def test_connection_close_is_obeyed_and_said(served: Served) -> None:
    answer = served.ask(G[:-2] + b"Connection: close\r\n\r\n" + G)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"connection: close\r\n" in answer


def test_http10_closes_unless_asked_to_stay(served: Served) -> None:
    old = b"GET /x HTTP/1.0\r\n\r\n"
    stay = b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = served.ask(stay + old + old)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"connection: keep-alive") < answer.index(b"connection: close")


def test_head_has_the_head_of_get_and_no_body(served: Served) -> None:
    got = served.ask(G, half_close=True)
    headed = served.ask(b"HEAD" + G[3:], half_close=True)
    assert headed.endswith(b"\r\n\r\n")
    assert headed.count(b"\r\n\r\n") == 1
    assert b"content-length: %d\r\n" % (len(got.partition(b"\r\n\r\n")[2]) + 1) in headed


def test_a_client_that_asks_for_100_gets_it_before_it_sends_the_body(served: Served) -> None:
    with served.connect() as client:
        client.sendall(H + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert b'"size": 3' in receive_answers(client, 1)[0][1]


def test_a_handler_that_raises_gives_500_without_its_words_and_the_others_their_answers(served: Served) -> None:
    with served.connect() as client:
        client.sendall(G + b"GET /boom HTTP/1.1\r\nHost: a\r\n\r\n" + G)
        answers = receive_answers(client, 3)
    assert [status for status, _ in answers] == [200, 500, 200]
    assert b"internal_error" in answers[1][1]
    assert b"secret" not in answers[1][1]
    assert isinstance(served.errors[-1], ValueError)


def test_half_closing_after_a_request_still_gets_the_answer(served: Served) -> None:
    answers, rest = split_answers(served.ask(G + G, half_close=True))
    assert ([status for status, _ in answers], rest) == ([200, 200], b"")


def test_half_closing_within_a_request_is_refused(served: Served) -> None:
    for part in (G[:20], H + b"Content-Length: 3\r\n\r\nab"):
        answers, _ = split_answers(served.ask(part, half_close=True))
        assert [status for status, _ in answers] == [400]


def test_a_large_body_arrives_whole() -> None:
    bodies = []

    def keep(request: Request) -> Response:
        bodies.append(request.body)
        return Response(200)

    body = bytes(range(256)) * 20_000
    with serving(keep) as served, served.connect() as client:
        client.sendall(H + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        receive_answers(client, 1)
        client.sendall(H + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
        receive_answers(client, 1)
        assert served.server.bytes_in_flight == 0
    assert bodies == [body, body]


# Answers that come later.


def test_answers_given_out_of_order_go_out_in_order(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    later = Later()
    with serving(later, new_loop=new_loop) as served, served.connect() as client:
        client.sendall(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(5)))
        assert eventually(lambda: len(later.waiting) == 5)
        for number in (3, 1, 4, 0, 2):
            served.call(later.waiting[number][1].send, Response(200, b"%d" % number))
        assert [body for _, body in receive_answers(client, 5)] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("at_once", [True, False], ids=["in one go", "one by one"])
def test_what_changes_what_others_meet_is_done_after_those_before_it_and_before_those_behind_it(at_once: bool) -> None:
    later = Later()
    with serving(later) as served, served.connect() as client:
        requests = [
            b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % name for name in (b"0", b"1", b"alone", b"2", b"alone", b"3")
        ]
        for request in [b"".join(requests)] if at_once else requests:
            client.sendall(request)
            time.sleep(0.02)
        for begun, turns, answered in ((3, 0, [1, 0]), (3, 1, [2]), (5, 1, [3]), (5, 2, [4]), (6, 2, [5])):
            assert eventually(lambda seen=(begun, turns): (len(later.waiting), later.turns) == seen)  # type: ignore[misc]
            time.sleep(0.05)
            assert (len(later.waiting), later.turns) == (begun, turns)
            for number in answered:
                served.call(later.waiting[number][1].send, Response(200, b"%d" % number))
        assert [body for _, body in receive_answers(client, 6)] == [b"%d" % number for number in range(6)]


def test_a_deferred_answer_cannot_be_given_twice() -> None:
    deferred = Deferred()
    deferred.send(Response(200))
    with pytest.raises(RuntimeError):
        deferred.send(Response(200))


def test_reading_pauses_at_the_cap_of_unanswered_requests_and_goes_on_below_it() -> None:
    later = Later()
    with serving(later, Limits(max_pipelined=4)) as served, served.connect() as client:
        client.sendall(G * 10)
        assert eventually(lambda: len(later.waiting) == 4)
        time.sleep(0.05)
        assert len(later.waiting) == 4
        for number in range(10):
            assert eventually(lambda number=number: len(later.waiting) > number)  # type: ignore[misc]
            served.call(later.waiting[number][1].send, Response(200, b"%d" % number))
        assert [body for _, body in receive_answers(client, 10)] == [b"%d" % number for number in range(10)]


def test_a_client_that_leaves_abandons_its_waiting_requests() -> None:
    later = Later()
    with serving(later) as served:
        with served.connect() as client:
            client.sendall(G + G)
            assert eventually(lambda: len(later.waiting) == 2)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert eventually(lambda: later.abandoned == ["/x", "/x"])
        assert later.waiting[0][1].abandoned
        served.call(later.waiting[0][1].send, Response(200))  # too late, and harmless
        assert eventually(lambda: not served.server.connections)
        assert served.errors == []


def test_a_client_that_ends_its_side_is_answered_at_once_with_what_there_is() -> None:
    later = Later()
    later.answers_on_drain = True
    with serving(later) as served:
        assert split_answers(served.ask(G, half_close=True))[0] == [(200, b"early")]


# Streams.


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


# Limits on time, connections and memory.


def test_a_head_that_trickles_is_answered_408_at_its_deadline() -> None:
    with serving(limits=QUICK) as served, served.connect() as client:
        begun = time.monotonic()
        for byte in G[:-2] * 1000:
            try:
                client.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
            if time.monotonic() - begun > 0.6:
                break
        answers, _ = split_answers(receive_all(client))
        assert [status for status, _ in answers] == [408]
        assert served.server.counters.timeouts == {"head": 1}


def test_a_client_that_says_nothing_and_one_that_has_no_more_to_say_are_closed_silently() -> None:
    with serving(limits=QUICK) as served:
        assert served.ask() == b""
        assert len(split_answers(served.ask(G))[0]) == 1
        assert served.server.counters.timeouts == {"idle": 2}


def test_a_body_that_stalls_is_answered_408() -> None:
    with serving(limits=QUICK) as served:
        answers, _ = split_answers(served.ask(H + b"Content-Length: 10\r\n\r\nabc"))
        assert [status for status, _ in answers] == [408]


def test_a_body_that_trickles_is_answered_408_though_it_never_stalls() -> None:
    with serving(limits=QUICK) as served, served.connect() as client:
        client.sendall(H + b"Content-Length: 10000\r\n\r\n")
        try:
            for _ in range(12):
                client.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            pass
        answers, _ = split_answers(receive_all(client))
        assert [status for status, _ in answers] == [408]


def test_a_waiting_answer_is_not_timed_out() -> None:
    later = Later()
    with serving(later, QUICK) as served, served.connect() as client:
        client.sendall(G)
        time.sleep(0.8)
        served.call(later.waiting[0][1].send, Response(200, b"late"))
        assert receive_answers(client, 1) == [(200, b"late")]


def test_a_client_that_never_reads_is_cut_off() -> None:
    source = Numbers(1 << 30)
    with (
        serving(lambda request: Response(200, stream=source), QUICK) as served,
        served.connect(receive_buffer=16384) as client,
    ):
        client.sendall(G)
        assert eventually(lambda: source.closed == 1)
        assert served.server.counters.timeouts == {"write": 1}


def test_a_slow_client_that_does_read_is_not_cut_off() -> None:
    source = Numbers(100)
    with (
        serving(lambda request: Response(200, stream=source), QUICK) as served,
        served.connect(receive_buffer=65536) as client,
    ):
        client.sendall(G)
        seen = 0
        while seen < 6_553_600:
            part = client.recv(1 << 17)
            assert part
            seen += len(part)
            time.sleep(0.015)


def test_connections_past_the_cap_get_503_and_leave_room_for_others_later() -> None:
    with serving(limits=Limits(max_connections=2)) as served:
        first, second = served.connect(), served.connect()
        for client in (first, second):
            client.sendall(G)
            receive_answers(client, 1)
        answers, _ = split_answers(served.ask(G))
        assert [status for status, _ in answers] == [503]
        assert served.server.counters.connections_refused == 1
        first.close()
        assert eventually(lambda: len(served.server.connections) == 1)
        assert split_answers(served.ask(G, half_close=True))[0][0][0] == 200
        second.close()


def test_a_body_waits_unread_until_those_in_flight_are_answered() -> None:
    later = Later()
    limits = Limits(max_in_flight_bytes=1_000_000, small_body_bytes=1000)
    big = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 700000\r\n\r\n" + b"x" * 700_000
    with serving(later, limits) as served, served.connect() as first, served.connect() as second:
        first.sendall(big % 1)
        assert eventually(lambda: len(later.waiting) == 1)
        second.sendall((big % 2)[:100_000])
        time.sleep(0.1)
        assert served.server.bytes_in_flight == 700_000
        served.call(later.waiting[0][1].send, Response(200))
        second.sendall((big % 2)[100_000:])
        assert eventually(lambda: len(later.waiting) == 2)
        assert served.server.bytes_in_flight == 700_000
        served.call(later.waiting[1][1].send, Response(200))
        assert receive_answers(first, 1) == receive_answers(second, 1)
        assert served.server.bytes_in_flight == 0


def test_a_body_that_finds_no_room_in_time_and_chunks_that_find_none_get_503() -> None:
    later = Later()
    limits = Limits(max_in_flight_bytes=1_000_000, small_body_bytes=1000, body_stall_timeout_s=0.2)
    sized = H + b"Content-Length: 700000\r\n\r\n"
    with serving(later, limits) as served, served.connect() as first:
        first.sendall(sized + b"x" * 700_000)
        assert eventually(lambda: len(later.waiting) == 1)
        chunks = H + b"Transfer-Encoding: chunked\r\n\r\n61a80\r\n" + b"x" * 400_000 + b"\r\n0\r\n\r\n"
        for request in (chunks, sized):
            answers, _ = split_answers(served.ask(request))
            assert [status for status, _ in answers] == [503]
        assert served.server.bytes_in_flight == 700_000
    assert served.server.bytes_in_flight == 0


# Shutting down.


def test_draining_answers_what_waits_closes_what_is_idle_and_takes_no_more() -> None:
    later = Later()
    later.answers_on_drain = True
    with serving(later) as served:
        idle, waiting = served.connect(), served.connect()
        waiting.sendall(G)
        assert eventually(lambda: len(later.waiting) == 1 and len(served.server.connections) == 2)
        assert served.do(served.server.drain(5))
        assert receive_all(idle) == b""
        answer = receive_all(waiting)
        assert split_answers(answer)[0] == [(200, b"early")]
        assert b"connection: close" in answer
        with pytest.raises(ConnectionRefusedError):
            served.connect()
        idle.close()
        waiting.close()


def test_draining_lets_a_write_finish_and_a_request_that_has_begun_arrive() -> None:
    later = Later()
    with serving(later) as served, served.connect() as client, served.connect() as half:
        client.sendall(G)
        half.sendall(G[:10])
        assert eventually(lambda: len(later.waiting) == 1 and len(served.server.connections) == 2)
        done = asyncio.run_coroutine_threadsafe(served.server.drain(5), served.loop)
        time.sleep(0.1)
        half.sendall(G[10:])
        assert eventually(lambda: len(later.waiting) == 2)
        for _, deferred in later.waiting:
            served.call(deferred.send, Response(200, b"done"))
        assert split_answers(receive_all(client))[0] == split_answers(receive_all(half))[0] == [(200, b"done")]
        assert done.result(5)


def test_draining_cuts_off_what_does_not_end_in_time() -> None:
    later = Later()
    with serving(later) as served, served.connect() as client:
        client.sendall(G)
        assert eventually(lambda: len(later.waiting) == 1)
        assert not served.do(served.server.drain(0.1))
        assert later.abandoned == ["/x"]


def test_listening_twice_on_one_port_says_which_port_it_was() -> None:
    with serving() as served:

        async def again() -> None:
            from flashq.http.listener import HttpServer

            await HttpServer(echo).start("127.0.0.1", served.server.port)

        with pytest.raises(OSError, match=str(served.server.port)):
            served.do(again())
