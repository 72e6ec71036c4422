"""Each guard of the protocol layer, tripped over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from flashq.http.head import Limits
from flashq.http.message import Deferred
from tests.http.serving import G, H, Served, eventually, serving, split_answers

CHUNKED = H + b"Transfer-Encoding: chunked\r\n\r\n"
LIMITS = Limits(max_body_bytes=100_000, head_timeout_s=5)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(limits=LIMITS) as server:
        yield server


REFUSED = {
    "no version": (b"GET /\r\nHost: a\r\n\r\n", 400),
    "no version nor fields": (b"GET /\r\n\r\n", 400),
    "version 0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400),
    "version 1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "version 2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "another protocol": (b"OPTIONS / RTSP/1.0\r\nHost: a\r\n\r\n", 400),
    "ICE": (b"SOURCE / ICE/1.0\r\nHost: a\r\n\r\n", 400),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "unknown method": (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "no Host but a field": (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
    "absolute target": (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "target with two slashes": (b"GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "raw UTF-8 in the target": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400),
    "Upgrade": (H + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc", 400),
    "folded value": (H + b"A: b\r\n c\r\n\r\n", 400),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "space before the colon": (H + b"Content-Length : 3\r\n\r\nabc", 400),
    "field without colon": (H + b"A\r\n\r\n", 400),
    "NUL in a value": (H + b"A: b\0c\r\n\r\n", 400),
    "bare LF after a field": (b"GET / HTTP/1.1\r\nHost: a\n\n", 400),
    "bare LF after the line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare CR in a value": (H + b"A: b\rc\r\n\r\n", 400),
    "both lengths": (H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "both lengths, other order": (H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "the same length twice": (H + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "list of lengths": (H + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "signed length": (H + b"Content-Length: +3\r\n\r\nabc", 400),
    "negative length": (H + b"Content-Length: -3\r\n\r\nabc", 400),
    "hexadecimal length": (H + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "empty length": (H + b"Content-Length:\r\n\r\n", 400),
    "endless length": (H + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "Transfer-Encoding in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and then gzip": (H + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "gzip, chunked": (H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "signed chunk size": (CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", 400),
    "prefixed chunk size": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with underscore": (CHUNKED + b"1_0\r\nabc\r\n0\r\n\r\n", 400),
    "empty chunk size": (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", 400),
    "huge chunk size": (CHUNKED + b"ffffffffffffffffff\r\n", 400),
    "bare LF after a chunk size": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400),
    "no CR LF after a chunk": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    "bare LF after a chunk": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", 400),
    "long chunk extension": (CHUNKED + b"3;" + b"x" * 5000, 400),
    "endless trailers": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 5000, 400),
    "folded trailer": (CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n", 400),
    "bare LF in a trailer": (CHUNKED + b"0\r\nA: b\n\r\n", 400),
    "a swarm of tiny chunks": (CHUNKED + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n", 400),
    "length above the cap": (H + b"Content-Length: 100001\r\n\r\n", 413),
    "chunks above the cap": (CHUNKED + b"186a1\r\n", 413),
    "many chunks above the cap": (CHUNKED + (b"4e20\r\n" + b"x" * 20_000 + b"\r\n") * 6, 413),
    "long request line": (b"GET /" + b"x" * 8192, 414),
    "long request line, whole": (b"GET /" + b"x" * 8179 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "unknown expectation": (H + b"Expect: tea\r\nContent-Length: 3\r\n\r\n", 417),
    "expecting to go above the cap": (H + b"Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n", 413),
    "long head": (H + b"A: " + b"x" * 33_000, 431),
    "long head, whole": (H + (b"A: " + b"x" * 995 + b"\r\n") * 33 + b"\r\n", 431),
    "many fields": (H + b"A: b\r\n" * 100 + b"\r\n", 431),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_the_protocol_is_refused_in_json_and_the_connection_closed(served: Served, name: str) -> None:
    raw, status = REFUSED[name]
    ((seen, body),), rest = split_answers(served.ask(raw))
    answer = json.loads(body)
    assert (seen, rest) == (status, b"")
    assert sorted(answer) == ["details", "error", "message"]
    assert isinstance(answer["error"], str)
    assert isinstance(answer["details"], dict)


@pytest.mark.parametrize("name", REFUSED)
def test_requests_before_a_broken_one_are_answered_first(served: Served, name: str) -> None:
    raw, status = REFUSED[name]
    answers, rest = split_answers(served.ask(G + G + raw + G))
    assert [seen for seen, _ in answers] == [200, 200, status]
    assert rest == b""


ACCEPTED = {
    "as long a line as allowed": b"GET /" + b"x" * 8176 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "as long a head as allowed": G[:-2] + b"A: " + b"x" * (32768 - len(G) - 5) + b"\r\n\r\n",
    "as many fields as allowed": G[:-2] + b"A: b\r\n" * 99 + b"\r\n",
    "as long a body as allowed": H + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000,
    "empty lines before": b"\r\n\r\n" + G,
    "chunked in capitals": H + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    "extensions": CHUNKED + b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n',
    "trailers": CHUNKED + b"3\r\nabc\r\n0\r\nHost: other\r\nA: b\r\n\r\n",
    "Upgrade nobody asked for": G[:-2] + b"Upgrade: h2c\r\n\r\n",
    "HTTP/1.0 without Host": b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_just_within_the_limits_is_served_and_the_connection_stays(served: Served, name: str) -> None:
    answers, _ = split_answers(served.ask(ACCEPTED[name] + G, half_close=True))
    assert [seen for seen, _ in answers] == [200, 200]


def test_a_body_above_the_cap_is_refused_before_it_is_sent_and_the_client_can_read_the_answer(served: Served) -> None:
    with served.connect() as client:
        client.sendall(H + b"Content-Length: 500000\r\n\r\n")
        client.sendall(b"x" * 500_000)
        answers, _ = split_answers(client.recv(65536))
    assert answers[0][0] == 413
    assert json.loads(answers[0][1])["details"] == {"max_size": 100_000, "actual_size": 500_000}


@pytest.mark.parametrize(
    "second",
    [CHUNKED + b"30d40\r\n" + b"x" * 200_000, H + b"Content-Length: 200000\r\n\r\n"],
    ids=["chunked", "announced"],
)
def test_a_body_that_finds_no_room_beside_those_in_flight_is_told_to_come_back(second: bytes) -> None:
    limits = Limits(max_in_flight_bytes=800_000, small_body_bytes=1000, body_stall_timeout_s=0.3)
    with serving(lambda _: Deferred(), limits) as served, served.connect() as first:
        first.sendall(H + b"Content-Length: 700000\r\n\r\n" + b"x" * 700_000)
        assert eventually(lambda: served.server.bytes_in_flight == 700_000)
        answer = served.ask(second)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "overloaded"


def test_an_error_tells_nothing_of_what_the_client_sent(served: Served) -> None:
    answer = served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\nbad header secret\r\n\r\n")
    assert b"secret" not in answer


def test_errors_are_counted_by_status(served: Served) -> None:
    before = served.server.counters.protocol_errors.get(414, 0)
    served.ask(REFUSED["long request line"][0])
    assert served.server.counters.protocol_errors[414] == before + 1
