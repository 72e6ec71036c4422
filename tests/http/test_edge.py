"""Who is let in: Host, Origin, Sec-Fetch-Site, CORS and the token, at the router, without a socket."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from flashq.api.errors import STATUS, RequestError
from flashq.http.edge import Edge
from flashq.http.head import HeadParser, Limits
from flashq.http.message import Deferred, Peer, Request, Response, render_error
from flashq.http.router import Router, error_response
from tests.api.test_errors import family

OWN = b"127.0.0.1:8080"
PAGE = b"https://app.example"
CONTRACT = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
CODES = re.findall(r"^\| `(\w+)` \| (\d{3}) \|", CONTRACT, re.MULTILINE)
PASSING = re.findall(r"`(\w+)`", CONTRACT.partition("has `Retry-After`, in seconds:")[2].partition(".")[0])


class Calls:
    """The handlers of a router: they count, and answer at once or later."""

    def __init__(self) -> None:
        self.count = 0
        self.later: list[Deferred] = []

    def now(self, request: Request) -> Response:
        self.count += 1
        return Response(200, b"{}", headers=((b"x-a", b"b"),))

    def deferred(self, request: Request, topic: str) -> Deferred:
        self.count += 1
        self.later.append(Deferred())
        return self.later[-1]


def request(
    method: str = "GET", path: str = "/health", scheme: Literal["http", "https"] = "http", **fields: Any
) -> Request:
    """Fields by name with underscores; None leaves one out."""
    lines = [f"{method} {path} HTTP/1.1".encode()]
    for name, value in {"host": OWN, **fields}.items():
        if value is not None:
            lines.append(name.replace("_", "-").encode() + b": " + value)
    version = lines[0].replace(b"HTTP/1.1", b"HTTP/1.0") if fields.get("host", OWN) is None else lines[0]
    parser = HeadParser(Limits())
    raw = b"\r\n".join([version, *lines[1:], b"", b""])
    assert parser.feed(raw, 0) == len(raw)
    assert parser.head is not None
    return Request(parser.head, b"", Peer(("127.0.0.1", 1), scheme))


def answer(edge: Edge, asked: Request, calls: Calls | None = None) -> Response:
    calls = calls or Calls()
    answered = Router({"health": calls.now, "post_records": calls.deferred}, edge).handle(asked)
    if isinstance(answered, Deferred):
        answered.send(Response(200, b"{}"))
        assert answered.response is not None
        return answered.response
    return answered


def error(response: Response) -> Any:
    return json.loads(response.body)


# Host


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LOCALHOST:80", b"localhost.", b"localhost:", b"127.0.0.1", b"127.9.8.7:1", b"[::1]", b"[::1]:9",
     b"[::ffff:127.0.0.1]:9", b"[0:0:0:0:0:0:0:1]"],
)  # fmt: skip
def test_loopback_names_are_always_this_server(host: bytes) -> None:
    assert answer(Edge(), request(host=host)).status == 200
    assert answer(Edge(host="10.0.0.1", token="t"), request(host=host, authorization=b"Bearer t")).status == 200


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"evil.example:8080", b"localhost.evil.example", b"evil-localhost", b"127.0.0.1.evil.example",
     b"127.0.0.1@evil.example", b"10.0.0.1", b"[::2]", b"", b":8080", b"::1", b"[127.0.0.1]", b"[localhost]", b"127.1",
     b"2130706433", b"0x7f.1", b"127.0.0.1:8080:1", b"127.0.0.1:x", b"127.0.0.1 ,evil.example", b"localhost, localhost",
     b"l\xc3\xb6calhost", b"0.0.0.0", b"[::]", b"127.0.0.1/", b"[::1", b"[::1%lo]"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_any_other_name_is_misdirected_whatever_is_asked(host: bytes, method: str) -> None:
    path = "/topics/t/records" if method == "POST" else "/health"
    calls = Calls()
    refused = answer(Edge(cors_origins=["http://evil.example"]), request(method, path, host=host), calls)
    assert (refused.status, error(refused)["error"], calls.count) == (421, "misdirected_request", 0)
    assert error(refused)["details"] == {
        "host": host.decode("latin-1"), **({"outcome": "not_applied"} if method == "POST" else {}),
    }  # fmt: skip


def test_a_long_host_is_not_repeated_at_length() -> None:
    assert len(error(answer(Edge(), request(host=b"a" * 5000)))["details"]["host"]) == 200


def test_only_http10_may_come_without_host() -> None:
    assert answer(Edge(), request(host=None)).status == 200


def test_more_names_are_given_one_by_one() -> None:
    edge = Edge(allow_hosts=["flashq.example", "10.0.0.7", "[fd00::7]"])
    for host in (b"flashq.example", b"FlashQ.Example:443", b"flashq.example.", b"10.0.0.7:80", b"[fd00::7]:80"):
        assert answer(edge, request(host=host)).status == 200, host
    for host in (b"a.flashq.example", b"flashq.example.org", b"10.0.0.8", b"[fd00::8]"):
        assert answer(edge, request(host=host)).status == 421, host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "flashq.example"])
def test_beyond_loopback_any_address_is_this_server_but_names_are_not(host: str) -> None:
    edge = Edge(host=host)
    for address in (b"192.168.7.7:8080", b"[fd00::1]:8080", b"203.0.113.9", b"localhost"):
        assert answer(edge, request(host=address)).status == 200
    assert answer(edge, request(host=b"evil.example")).status == 421
    assert answer(edge, request(host=b"flashq.example")).status == (200 if host == "flashq.example" else 421)


# Origin and Sec-Fetch-Site


def test_pages_of_this_server_and_programs_come_in() -> None:
    all_fields: list[dict[str, Any]] = [
        {}, {"origin": b"http://" + OWN}, {"sec_fetch_site": b"same-origin"}, {"sec_fetch_site": b"none"},
        {"origin": b"http://" + OWN, "sec_fetch_site": b"same-origin"},
        {"host": b"localhost:80", "origin": b"http://localhost"}, {"host": b"LocalHost", "origin": b"http://localhost"},
    ]  # fmt: skip
    for fields in all_fields:
        assert answer(Edge(), request(**fields)).status == 200, fields
    assert answer(Edge(), request(scheme="https", host=b"localhost:443", origin=b"https://localhost")).status == 200


@pytest.mark.parametrize(
    "origin",
    [PAGE, b"null", b"", b"*", b"https://" + OWN, b"http://127.0.0.1", b"http://127.0.0.1:8081", b"http://localhost:8080",
     b"http://127.0.0.1:8080.evil.example", b"http://127.0.0.1:8080, http://127.0.0.1:8080", b"http://a@127.0.0.1:8080",
     b"http://127.0.0.1:8080/", b"127.0.0.1:8080", b"file://", b"\xff"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PATCH"])
def test_pages_of_other_origins_neither_read_nor_write(origin: bytes, method: str) -> None:
    path = "/topics/t/records" if method == "POST" else "/health"
    calls = Calls()
    refused = answer(Edge(cors_origins=["https://other.example"]), request(method, path, origin=origin), calls)
    assert (refused.status, error(refused)["error"], calls.count) == (403, "forbidden", 0)
    assert error(refused)["details"]["origin"] == origin.decode("latin-1")
    assert not [name for name, _ in refused.headers if name.startswith(b"access-control")]


def test_a_long_origin_is_not_repeated_at_length() -> None:
    refused = answer(Edge(), request(origin=b"http://" + b"a" * 5000))
    assert len(error(refused)["details"]["origin"]) == 200


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"", b"Same-Origin", b"none, none", b"x"])
def test_what_a_browser_sends_for_another_page_without_origin_is_refused(site: bytes) -> None:
    all_fields: list[dict[str, Any]] = [{}, {"origin": b"http://" + OWN}]
    for fields in all_fields:
        refused = answer(Edge(cors_origins=[PAGE.decode()]), request(sec_fetch_site=site, **fields))
        assert refused.status == 403
        assert error(refused)["details"]["sec_fetch_site"] == site.decode()


def test_null_comes_in_only_if_named() -> None:
    assert answer(Edge(cors_origins=["null"]), request(origin=b"null")).status == 200


# CORS


def cors(response: Response) -> dict[bytes, bytes]:
    return {name: value for name, value in response.headers if name.startswith(b"access-control") or name == b"vary"}


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", None])
def test_a_named_origin_reads_every_answer_at_once_or_later_or_an_error(site: bytes | None) -> None:
    edge = Edge(cors_origins=["https://other.example", PAGE.decode()], token="t")
    told: dict[str, Any] = {"origin": PAGE, "sec_fetch_site": site}
    known: dict[str, Any] = {**told, "authorization": b"Bearer t"}
    for asked, status in (
        (request(**known), 200),
        (request("POST", "/topics/t/records", **known), 200),
        (request(path="/nothing", **known), 404),
        (request("DELETE", **known), 405),
        (request(**told), 401),
    ):
        response = answer(edge, asked)
        assert response.status == status
        seen = cors(response)
        assert seen[b"access-control-allow-origin"] == PAGE
        assert seen[b"vary"] == b"Origin"
        exposed = seen[b"access-control-expose-headers"].split(b", ")
        assert {b"X-Next-Offset", b"X-High-Water-Mark", b"X-FlashQ-Durability", b"Retry-After"} <= set(exposed)
    assert (b"x-a", b"b") in answer(edge, request(**known)).headers


def test_without_a_named_origin_no_answer_has_cors_fields() -> None:
    edge = Edge(cors_origins=[PAGE.decode()])
    assert cors(answer(edge, request())) == {}
    assert cors(answer(edge, request(origin=b"http://" + OWN))) == {}


def preflight(**fields: Any) -> Request:
    asked: dict[str, Any] = {"origin": PAGE, "access_control_request_method": b"POST", "sec_fetch_site": b"cross-site"}
    return request("OPTIONS", "/topics/t/records", **{**asked, **fields})


def test_a_preflight_of_a_named_origin_is_answered_without_token() -> None:
    response = answer(Edge(cors_origins=[PAGE.decode()], token="t"), preflight())
    assert (response.status, response.body, response.content_type) == (204, b"", b"")
    seen = cors(response)
    assert seen[b"access-control-allow-origin"] == PAGE
    assert set(seen[b"access-control-allow-methods"].split(b", ")) == {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE"}
    assert {b"Authorization", b"Content-Type", b"Last-Event-ID"} <= set(
        seen[b"access-control-allow-headers"].split(b", ")
    )
    assert int(seen[b"access-control-max-age"]) > 0


def test_a_preflight_without_cors_of_another_origin_or_for_another_host_is_refused() -> None:
    edge = Edge(cors_origins=[PAGE.decode()])
    assert answer(Edge(), preflight()).status == 403
    assert answer(edge, preflight(origin=b"https://evil.example")).status == 403
    assert answer(edge, preflight(host=b"evil.example")).status == 421


def test_options_that_is_no_preflight_is_a_method_not_allowed_without_outcome() -> None:
    cases: list[tuple[Edge, dict[str, Any]]] = [(Edge(), {}), (Edge(cors_origins=[PAGE.decode()]), {"origin": PAGE})]
    for edge, fields in cases:
        response = answer(edge, request("OPTIONS", **fields))
        assert response.status == 405
        assert error(response)["details"] == {"allow": ["GET", "HEAD"]}


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "PUT", "TRACE", "PROPFIND", "PURGE"])
def test_methods_a_path_does_not_take_are_refused_with_allow_and_outcome(method: str) -> None:
    response = answer(Edge(), request(method))
    assert response.status == 405
    assert dict(response.headers)[b"allow"] == b"GET, HEAD"
    assert error(response)["details"] == {"allow": ["GET", "HEAD"], "outcome": "not_applied"}


def test_the_page_promises_five_codes_that_say_when_to_come_back() -> None:
    assert len(PASSING) == 5
    assert {code for code, _ in CODES} > set(PASSING)


@pytest.mark.parametrize(("code", "status"), CODES)
def test_what_passes_by_itself_says_when_to_come_back_and_nothing_else_does(code: str, status: str) -> None:
    response = refusal(code, int(status))
    assert (response.status, error(response)["error"]) == (int(status), code)
    told = [value for name, value in response.headers if name == b"retry-after"]
    assert told == ([b"1"] if code in PASSING else [])


def refusal(code: str, status: int) -> Response:
    """The answer with this code: of the protocol, of the engine, or of the edge."""
    if code not in STATUS:
        return render_error(status, code, "said", {})
    kinds = {kind.code: kind for kind in family()}
    refused = kinds[code]("said") if code in kinds else RequestError(code, "said", allow=["GET"])
    return error_response(refused, request("POST"))


# The token, and what is remembered


@pytest.mark.parametrize("told", [b"Bearer s3", b"bearer s3", b"BEARER   s3"])
def test_the_scheme_of_a_token_is_the_same_in_any_case(told: bytes) -> None:
    assert answer(Edge(token="s3"), request(authorization=told)).status == 200


@pytest.mark.parametrize("told", [None, b"", b"s3", b"Bearer", b"Bearer S3", b"Bearer s3 x", b"Bearers3", b"Basic s3",
                                  b"Bearer s3, Bearer s3", b"Bearer \xff", b"Bearer\ts3"])  # fmt: skip
def test_anything_but_the_token_is_unauthorized_also_where_there_is_nothing(told: bytes | None) -> None:
    for path in ("/health", "/nothing"):
        response = answer(Edge(token="s3"), request(path=path, authorization=told))
        assert (response.status, dict(response.headers)[b"www-authenticate"]) == (401, b"Bearer")


def test_a_head_let_in_once_is_not_checked_again_and_one_refused_never_comes_in() -> None:
    class Counting(Edge):
        checks = 0

        def check_sender(self, request: Request) -> None:
            self.checks += 1
            super().check_sender(request)

    edge, calls = Counting(token="t"), Calls()
    router = Router({"health": calls.now}, edge)
    good, bad = request(authorization=b"Bearer t"), request()
    statuses: Sequence[object] = [getattr(router.handle(each), "status", None) for each in (good, good, good, bad, bad)]
    assert statuses == [200, 200, 200, 401, 401]
    assert (edge.checks, calls.count) == (3, 3)
