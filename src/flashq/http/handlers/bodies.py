"""JSON bodies: their content type, their syntax, their shape, refused in this order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from flashq.api.errors import RequestError
from flashq.http.message import Request

T = TypeVar("T")
_JSON = b"application/json"


def read_json(request: Request, decode: Callable[[bytes], T]) -> T:
    """The body, decoded. Raises `RequestError`: 415 for another content type, 400 not JSON, 422 the wrong shape."""
    given = request.header(b"content-type")
    if given != _JSON and content_type(request) != _JSON:
        raise RequestError("unsupported_media_type", "this operation needs Content-Type: application/json")
    try:
        return decode(request.body)
    except msgspec.ValidationError as error:
        _check_json(request.body)  # the shape can be wrong before the JSON is
        raise RequestError("invalid_body", f"the body has the wrong shape: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(error) from error


def content_type(request: Request) -> bytes:
    """The media type of the body, in lower case, without its parameters; b"" where none is given."""
    return (request.header(b"content-type") or b"").split(b";", 1)[0].strip().lower()


def _check_json(body: bytes) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)  # reads all of it and builds nothing
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(error) from error


def _not_json(error: Exception) -> RequestError:
    return RequestError("invalid_json", f"the body is not JSON: {error}")
