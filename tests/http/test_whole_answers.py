"""An answer given as the bytes it goes out in is the answer that its parts make, on whatever connection."""

from __future__ import annotations

import asyncio

import pytest

from flashq.http.answers import encode_head, encode_whole
from flashq.http.head import Limits
from flashq.http.message import JSON, Deferred, Request, Response, field_line, with_fields
from tests.http.handlers import Later, Numbers
from tests.http.serving import G, eventually, receive_all, serving

PARTS = Response(200, b'{"offset":1}', JSON, ((b"x-flashq-durability", b"memory"),))
WHOLE = Response(200, whole=encode_whole(PARTS))
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
CONVERSATIONS = {
    "one": b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n",
    "closed": b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HTTP/1.0": b"GET /%b HTTP/1.0\r\n\r\n",
    "HTTP/1.0 kept": b"GET /%b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "pipelined": b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
}


def whole_or_parts(request: Request) -> Response | Deferred:
    response = WHOLE if "whole" in request.path else PARTS
    if "later" not in request.path:
        return response
    deferred = Deferred()
    asyncio.get_running_loop().call_soon(deferred.send, response)
    return deferred


def lines(answer: bytes) -> list[bytes]:
    """Those of the head may be in another order."""
    return sorted(answer.split(b"\r\n"))


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("kind", [b"", b"-later"], ids=["at once", "later"])
def test_a_whole_answer_is_that_of_its_parts(conversation: bytes, kind: bytes) -> None:
    with serving(whole_or_parts, Limits()) as served:
        whole, parts = (served.ask(conversation.replace(b"%b", name + kind) + LAST) for name in (b"whole", b"parts"))
    assert whole.count(b"HTTP/1.1 200 OK\r\n") >= conversation.count(b"GET")
    assert lines(whole) == lines(parts)


@pytest.mark.parametrize("answer", [WHOLE, PARTS], ids=["whole", "parts"])
def test_the_last_answer_of_a_server_that_stops_says_so(answer: Response) -> None:
    later = Later()
    with serving(later) as served, served.connect() as client:
        client.sendall(G)
        assert eventually(lambda: later.waiting)
        stopped = asyncio.run_coroutine_threadsafe(served.server.drain(5), served.loop)
        assert eventually(lambda: served.server.draining)
        served.call(later.waiting[0][1].send, answer)
        assert lines(receive_all(client)) == lines(encode_head(PARTS, b"close", False) + PARTS.body)
        assert stopped.result(5)


def test_a_streamed_answer_to_a_request_that_came_alone_is_chunked() -> None:
    later = Later()
    with serving(later) as served, served.connect() as client:
        client.sendall(G)
        assert eventually(lambda: later.waiting)
        served.call(later.waiting[0][1].send, Response(200, stream=Numbers(2, 4)))
        client.sendall(LAST)
        assert eventually(lambda: len(later.waiting) == 2)
        served.call(later.waiting[1][1].send, PARTS)
        answer = receive_all(client)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.split(b"\r\n")
    assert rest.startswith(b"4\r\nnnnn\r\n4\r\nnnnn\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_a_whole_answer_takes_more_fields() -> None:
    fields = ((b"access-control-allow-origin", b"https://a.example"), (b"vary", b"Origin"))
    whole, parts = (encode_whole(with_fields(response, fields)) for response in (WHOLE, PARTS))
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert lines(whole) == lines(parts)


def test_no_field_holds_a_line_end() -> None:
    for value in (b"a\r\nset-cookie: b", b"a\nb"):
        with pytest.raises(ValueError, match="line end"):
            field_line(b"x", value)
