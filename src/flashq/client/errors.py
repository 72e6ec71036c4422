"""What only a client can meet, and every error a server tells of as the class it has in an embedded FlashQ."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from flashq import errors
from flashq.api.errors import RequestError
from flashq.api.schemas import ErrorBody
from flashq.errors import FlashQError, Outcome


class ConnectionFailed(FlashQError, ConnectionError):
    """There was no connection, or it ended before the answer came, also by a timeout.

    `outcome` is "not_applied" if the request never left or asks for nothing to be written, else "unknown".
    """

    code = "connection_failed"
    retriable = True


class UnexpectedAnswer(FlashQError):
    """An answer that is not FlashQ's, from something in between or at the wrong address. `details`: status."""

    code = "unexpected_answer"


class Unauthorized(FlashQError, PermissionError):
    """The token is missing or wrong."""

    code = "unauthorized"


class Forbidden(FlashQError, PermissionError):
    """The server does not take requests from here."""

    code = "forbidden"


class BodyTooLarge(FlashQError, ValueError):
    """The body is over the server's cap (64 MiB unless it is configured). Post fewer records at a time."""

    code = "body_too_large"


class Overloaded(FlashQError):
    """The server has too much in flight; it passes by itself."""

    code = "overloaded"
    retriable = True


class TooManyConnections(Overloaded):
    """The server has all the connections it takes."""

    code = "too_many_connections"


class RequestTimeout(FlashQError, TimeoutError):
    """The request did not reach the server in time."""

    code = "request_timeout"
    retriable = True


class GatewayFailed(UnexpectedAnswer):
    """Something between client and server answered in the server's place, as if it may come back."""

    retriable: ClassVar[bool] = True


_OWN = (Unauthorized, Forbidden, BodyTooLarge, Overloaded, TooManyConnections, RequestTimeout)
_CLASSES: dict[str, type[FlashQError]] = {
    each.code: each
    for each in (*vars(errors).values(), *_OWN)
    if isinstance(each, type) and issubclass(each, FlashQError)
}
_GATEWAY = (429, 502, 503, 504)
_decode = msgspec.json.Decoder(ErrorBody).decode


def error_of(status: int, body: bytes, *, is_write: bool) -> FlashQError:
    """The error that an answer tells of. A code without a class of its own becomes a `RequestError` with that code."""
    try:
        told = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return unexpected(status, body, is_write=is_write)
    outcome: Outcome = "unknown" if told.details.pop("outcome", None) == "unknown" else "not_applied"
    kind = _CLASSES.get(told.error)
    error = RequestError(told.error, told.message) if kind is None else kind(told.message)
    error.outcome = outcome
    error.details = told.details
    return error


def is_error(body: bytes) -> bool:
    """Whether this is an error in the shape of the contract."""
    try:
        _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def unexpected(status: int, body: bytes, *, is_write: bool) -> UnexpectedAnswer:
    """An answer in no shape of the contract. A write may have been carried out, unless it was refused as a 4xx."""
    kind = GatewayFailed if status in _GATEWAY else UnexpectedAnswer
    is_refusal = 400 <= status < 500
    error = kind(
        f"the answer is not FlashQ's: status {status}, {body[:80]!r}; is this the address of a FlashQ server?",
        outcome="unknown" if is_write and not is_refusal else "not_applied",
    )
    error.details = {"status": status}
    return error
