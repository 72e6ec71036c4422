"""An answer given as the bytes it goes out in is the answer that its parts make, on whatever connection."""

from __future__ import annotations

import asyncio

import pytest

from flashq.http.answers import encode_whole
from flashq.http.head import Limits
from flashq.http.message import JSON, Deferred, Request, Response, field_line, with_fields
from tests.http.serving import serving

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


def test_a_whole_answer_takes_more_fields() -> None:
    fields = ((b"access-control-allow-origin", b"https://a.example"), (b"vary", b"Origin"))
    whole, parts = (encode_whole(with_fields(response, fields)) for response in (WHOLE, PARTS))
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert lines(whole) == lines(parts)


def test_no_field_holds_a_line_end() -> None:
    for value in (b"a\r\nset-cookie: b", b"a\nb"):
        with pytest.raises(ValueError, match="line end"):
            field_line(b"x", value)
