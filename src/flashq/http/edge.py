"""Who may come in: the name asked for, the page that asks, and the token. All of it follows from the head alone.

The order matters. `Host` first, since a page whose name was made to point here (DNS rebinding) is of the same origin
as the server in the browser's eyes: only the name gives it away, on loopback too. Then `Origin` and `Sec-Fetch-Site`,
which tell of pages of other origins. A preflight is answered before the token is asked for, because it carries none.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import Final

from flashq.addresses import is_address, is_loopback
from flashq.api.errors import RequestError
from flashq.api.operations import OPERATIONS
from flashq.http.message import Fields, Request, Response

_AUTHORITY: Final = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")
_MAX_SHOWN: Final = 200  # characters of a refused field repeated in an error
_DEFAULT_PORT: Final = {"http": b":80", "https": b":443"}
_PREFLIGHT_MAX_AGE_S: Final = 600


def _listed(names: set[str]) -> bytes:
    return ", ".join(sorted(names)).encode()


_METHODS = _listed({"HEAD", *(each.method for each in OPERATIONS)})
_REQUEST_FIELDS = _listed({"Authorization", "Content-Type", *(h for each in OPERATIONS for h in each.request_headers)})
_ANSWER_FIELDS = _listed(
    {"Allow", "Retry-After", *(h for each in OPERATIONS for answer in each.answers.values() for h in answer.headers)}
)


class Edge:
    """What one server lets in. The defaults: who asks for loopback by a loopback name, from no page but its own.

    `host` is the name or address that the server was told to listen on. `cors_origins` are compared as they are:
    there is no `*`, since a page nobody named has no business here, and no pattern, since patterns are got wrong.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        host: str = "127.0.0.1",
        allow_hosts: Sequence[str] = (),
        cors_origins: Sequence[str] = (),
    ) -> None:
        self._token = None if token is None else token.encode()
        self._hosts = {_plain(name) for name in (host, *allow_hosts)}
        # A server beyond loopback cannot know all addresses it is reached by (0.0.0.0, containers, NAT). It need not:
        # rebinding works on names, as the page's own host is what the browser writes into `Host`. An address there
        # means that the page came from that address, or that no page asks.
        self._any_address = not is_loopback(host)
        self._cors: dict[bytes, Fields] = {origin.encode(): _shared_with(origin.encode()) for origin in cors_origins}

    def check_sender(self, request: Request) -> None:
        """Raises RequestError (421, 403) unless `Host` names this server and no page of another origin asks."""
        host = request.header(b"host")
        # Only HTTP/1.0 may come without Host, and no browser speaks that.
        if host is not None and not self._is_ours(host):
            raise RequestError(
                "misdirected_request",
                "Host does not name this server; --allow-host gives it more names",
                host=_shown(host),
            )
        self._check_page(request, host)

    def check_token(self, request: Request) -> None:
        """Raises RequestError (401) unless the request carries the token, if there is one."""
        if self._token is None:
            return
        scheme, _, told = (request.header(b"authorization") or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(told.lstrip(b" "), self._token):
            raise RequestError("unauthorized", "this server needs a token: Authorization: Bearer <token>")

    def cors_fields(self, request: Request) -> Fields:
        """The fields that let the page read the answer, error or not; none unless a named origin asks."""
        return self._cors.get(request.header(b"origin") or b"", ()) if self._cors else ()

    def preflight(self, request: Request) -> Response | None:
        """The answer to a browser that asks what a named origin may do; None if the request is no such question."""
        fields = self.cors_fields(request) if request.method == "OPTIONS" else ()
        if not fields or request.header(b"access-control-request-method") is None:
            return None
        allowed = (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_FIELDS),
            (b"access-control-max-age", b"%d" % _PREFLIGHT_MAX_AGE_S),
        )
        return Response(204, content_type=b"", headers=(*fields, *allowed))

    def _is_ours(self, host: bytes) -> bool:
        match = _AUTHORITY.fullmatch(host)
        if match is None:
            return False
        bracketed = match[1] is not None
        name = _plain((match[1] or match[2]).decode())
        if is_address(name):
            if bracketed is not (":" in name):
                return False
            return is_loopback(name) or self._any_address or name in self._hosts
        return not bracketed and (is_loopback(name) or name in self._hosts)

    def _check_page(self, request: Request, host: bytes | None) -> None:
        origin = request.header(b"origin")
        named = origin is not None and origin in self._cors
        if origin is not None and not named and not _is_own(origin, request.scheme, host):
            raise RequestError(
                "forbidden",
                "pages of this origin may not use this server; --cors-origin names those that may",
                origin=_shown(origin),
            )
        site = request.header(b"sec-fetch-site")
        if site is not None and site not in (b"same-origin", b"none") and not named:
            told = {} if origin is None else {"origin": _shown(origin)}
            raise RequestError(
                "forbidden",
                "pages of other origins may not use this server; --cors-origin names those that may",
                sec_fetch_site=_shown(site),
                **told,
            )


def _plain(name: str) -> str:
    """Names are the same in any case, and with the dot that ends a full one; addresses also in brackets."""
    return name.lower().removesuffix(".").removeprefix("[").removesuffix("]")


def _is_own(origin: bytes, scheme: str, host: bytes | None) -> bool:
    """The page came from this server by the name it asks for now. Browsers leave out the default port."""
    if host is None:
        return False
    start, port = f"{scheme}://".encode(), _DEFAULT_PORT[scheme]
    return origin.startswith(start) and origin[len(start) :].lower().removesuffix(port) == host.lower().removesuffix(
        port
    )


def _shared_with(origin: bytes) -> Fields:
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _ANSWER_FIELDS),
        (b"vary", b"Origin"),
    )


def _shown(value: bytes) -> str:
    return value.decode("latin-1")[:_MAX_SHOWN]
