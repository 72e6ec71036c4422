"""JSON and NDJSON bodies: their content type, their syntax, their shape, refused in this order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from flashq.api.errors import RequestError
from flashq.http.message import Request

T = TypeVar("T")
NDJSON = b"application/x-ndjson"
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


def check_unused(request: Request) -> None:
    """For operations that have no use for a body and do not look at one. Raises `RequestError`: 415 for a content type
    that a page of another origin could send without asking first."""
    if request.body and content_type(request) not in (_JSON, NDJSON):
        raise RequestError(
            "unsupported_media_type", "a body needs Content-Type: application/json, also where it is unused"
        )


def read_lines(request: Request, decoder: msgspec.json.Decoder[T]) -> list[T]:
    """NDJSON: each line decoded, empty ones left out. Raises `RequestError` with the number of the line (from 1)."""
    body = request.body
    try:
        found = decoder.decode_lines(body)
        if _is_one_a_line(body, len(found)):
            return found  # in half the time of decoding each; it also takes objects that share a line or span two
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # in which line, it does not say
    found = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(decoder.decode(line))
        except msgspec.ValidationError as error:
            _check_json(line, number)
            raise RequestError("invalid_body", f"line {number} has the wrong shape: {error}", line=number) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _not_json(error, number) from error
    return found


def _is_one_a_line(body: bytes, objects: int) -> bool:
    """Whether each of the objects that make up this body has a line of its own; False may be wrong.

    A line end between } and { is one between objects, wherever it stands: no string holds it, and no object.
    """
    lines = body.count(b"\n") + (not body.endswith(b"\n"))
    return objects == lines == 1 + body.count(b"}\n{") + body.count(b"}\r\n{")


def content_type(request: Request) -> bytes:
    """The media type of the body, in lower case, without its parameters; b"" where none is given."""
    return (request.header(b"content-type") or b"").split(b";", 1)[0].strip().lower()


def _check_json(body: bytes, line: int | None = None) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)  # reads all of it and builds nothing
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(error, line) from error


def _not_json(error: Exception, line: int | None = None) -> RequestError:
    if line is None:
        return RequestError("invalid_json", f"the body is not JSON: {error}")
    return RequestError("invalid_json", f"line {line} is not JSON: {error}", line=line)
