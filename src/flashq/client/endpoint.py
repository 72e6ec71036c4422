"""Where a server is and how it is reached: address, token, TLS, timeouts, in the terms of httpx2."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from flashq import __version__
from flashq.client.errors import ConnectionFailed
from flashq.client.exchange import Request
from flashq.errors import Closed, ConfigurationError, InvalidParameter

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "FLASHQ_URL"
TOKEN_VARIABLE = "FLASHQ_TOKEN"  # noqa: S105  its name

_KEEP_ALIVE_S = 60.0  # below the server's 75, so that it is seldom the server that ends an idle connection
_NEVER_LEFT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server. `timeout_s`: for the next bytes of an answer; `connect_timeout_s`: for a connection."""

    base_url: str
    token: str | None
    timeout_s: float
    connect_timeout_s: float
    verify: str | os.PathLike[str] | None
    proxy: str | None

    def http_options(self) -> dict[str, Any]:
        """What `httpx2.Client` and `httpx2.AsyncClient` are made with. Raises `InvalidParameter` for a bad address.

        The environment is not asked (`trust_env`): a proxy meant for the web would also get what goes to 127.0.0.1,
        token and records included. A proxy is an argument.
        """
        scheme = _scheme(self.base_url)
        return {
            "headers": self._headers(),
            "timeout": httpx2.Timeout(self.timeout_s, connect=self.connect_timeout_s),
            "verify": self._tls() if scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            "trust_env": False,
            "proxy": self.proxy,
            "limits": httpx2.Limits(keepalive_expiry=_KEEP_ALIVE_S),
        }

    def request_options(self, request: Request) -> dict[str, Any]:
        """What sends the request. One that asks to be held gets that time on top."""
        options: dict[str, Any] = {
            "method": request.method,
            "url": self.base_url.rstrip("/") + request.path,
            "content": request.body,
            "headers": request.headers,
        }
        if request.wait_s:
            options["timeout"] = httpx2.Timeout(self.timeout_s + request.wait_s, connect=self.connect_timeout_s)
        return options

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"flashq/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self.token is not None:
            if not self.token.isascii() or not self.token.isprintable() or " " in self.token:
                raise InvalidParameter("the token must be visible ASCII characters", parameter="token")
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def _tls(self) -> ssl.SSLContext:
        if self.verify is None:
            return httpx2.create_ssl_context(trust_env=False)
        try:
            return ssl.create_default_context(cafile=self.verify)
        except OSError as error:  # SSLError among them
            path = os.fspath(self.verify)
            raise ConfigurationError(
                f"verify: no certificates in PEM can be read from {path!r}: {error}", setting="verify", value=path
            ) from error


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`base_url` and `token` as FLASHQ_URL and FLASHQ_TOKEN have them. An empty variable counts as not set."""
    names = {"base_url": URL_VARIABLE, "token": TOKEN_VARIABLE}
    return {argument: environ[name] for argument, name in names.items() if environ.get(name)}


def client_closed() -> Closed:
    """What a client that has been closed makes of a request."""
    return Closed("this client is closed; nothing was sent")


def connection_failed(error: httpx2.TransportError, request: Request, base_url: str) -> ConnectionFailed:
    """What a lost or missing connection means for the request."""
    never_left = isinstance(error, _NEVER_LEFT)
    why = str(error) or type(error).__name__
    if never_left:
        return ConnectionFailed(f"no connection to {base_url}: {why}. The request was not sent", url=base_url)
    return ConnectionFailed(
        f"the connection to {base_url} was lost before the answer came: {why}"
        + (". Whether the request was carried out is not known" if request.is_write else ""),
        outcome="unknown" if request.is_write else "not_applied",
        url=base_url,
    )


def _scheme(base_url: str) -> str:
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as error:
        raise InvalidParameter(f"base_url is {base_url!r}: {error}", parameter="base_url") from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise InvalidParameter(
            f"base_url is {base_url!r}; it must be like {DEFAULT_URL}, with http or https", parameter="base_url"
        )
    return url.scheme
