"""Limits on time, connections and memory, over real sockets."""

from __future__ import annotations

import time

from flashq.http.head import Limits
from flashq.http.message import Response
from tests.http.handlers import Later, Numbers
from tests.http.serving import G, H, eventually, receive_all, receive_answers, serving, split_answers

QUICK = Limits(
    head_timeout_s=0.2,
    body_stall_timeout_s=0.2,
    idle_timeout_s=0.3,
    write_stall_timeout_s=0.4,
    linger_timeout_s=0.3,
    min_body_bytes_per_s=1000,
)


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
