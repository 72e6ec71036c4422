"""Keep-alive, order, answers that come later, and shutdown, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from flashq.http.head import Limits
from flashq.http.message import Deferred, Request, Response
from tests.http.handlers import Later
from tests.http.serving import G, H, Served, echo, eventually, receive_all, receive_answers, serving, split_answers


@pytest.fixture(scope="module")
def served(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Served]:
    with serving(new_loop=new_loop) as server:
        yield server


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


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_the_cap_holds_for_requests_that_come_one_by_one(cap: int) -> None:
    later = Later()
    with serving(later, Limits(max_pipelined=cap)) as served, served.connect() as client:
        for number in range(cap):
            client.sendall(G)
            assert eventually(lambda number=number: len(later.waiting) > number)  # type: ignore[misc]
        client.sendall(G)
        time.sleep(0.05)
        assert len(later.waiting) == cap
        for number in range(cap + 1):
            assert eventually(lambda number=number: len(later.waiting) > number)  # type: ignore[misc]
            served.call(later.waiting[number][1].send, Response(200, b"%d" % number))
        assert [body for _, body in receive_answers(client, cap + 1)] == [b"%d" % number for number in range(cap + 1)]


def test_reading_pauses_where_answers_that_wait_for_an_earlier_one_hold_too_much() -> None:
    later = Later()
    with serving(later, Limits(max_held_bytes=100)) as served, served.connect() as client:
        for number in range(4):
            client.sendall(G)
            assert eventually(lambda number=number: len(later.waiting) > number)  # type: ignore[misc]
        for number in (1, 2, 3):
            served.call(later.waiting[number][1].send, Response(200, b"%d" % number * 40))
        client.sendall(G)
        time.sleep(0.05)
        assert len(later.waiting) == 4
        served.call(later.waiting[0][1].send, Response(200, b"0"))
        assert eventually(lambda: len(later.waiting) == 5)
        served.call(later.waiting[4][1].send, Response(200, b"4"))
        bodies = [body for _, body in receive_answers(client, 5)]
        assert bodies == [b"0", b"1" * 40, b"2" * 40, b"3" * 40, b"4"]


def test_a_client_that_leaves_at_the_cap_abandons_its_waiting_requests() -> None:
    later = Later()
    with serving(later, Limits(max_pipelined=1)) as served:
        with served.connect() as client:
            client.sendall(G)
            assert eventually(lambda: later.waiting)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert eventually(lambda: later.abandoned == ["/x"])


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
        half.sendall(G + G[:10])  # in one piece, so that the second has begun once the first is there
        assert eventually(lambda: len(later.waiting) == 2)
        done = asyncio.run_coroutine_threadsafe(served.server.drain(5), served.loop)
        time.sleep(0.1)
        half.sendall(G[10:])
        assert eventually(lambda: len(later.waiting) == 3)
        for _, deferred in later.waiting:
            served.call(deferred.send, Response(200, b"done"))
        assert split_answers(receive_all(client))[0] == [(200, b"done")]
        assert split_answers(receive_all(half))[0] == [(200, b"done")] * 2
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
