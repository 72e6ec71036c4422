"""Query parameters as data: a struct for each set of them, and the one reader that is strict about all.

Numbers are plain digits, times are ISO 8601 or Unix milliseconds, names are known and given once. A refusal is an
`InvalidParameter` that names the parameter and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from flashq.api.schemas import DEFAULT_POLL_RECORDS, MAX_ANSWER_BYTES, MAX_POLL_RECORDS, MAX_TIMEOUT_MS
from flashq.api.times import parse_time
from flashq.errors import InvalidParameter

# Digits only, and no leading sign: int() alone also takes 1_0, +5 and the digits of other scripts.
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_MAX = (1 << 63) - 1
_MAX_PAIRS = 32

Offset = Annotated[int, Meta(ge=0, le=_MAX)]
Time = Annotated[
    int, Meta(description="ISO 8601 with Z or an offset, or Unix milliseconds", extra_json_schema={"time": True})
]
"""Unix milliseconds, once read."""


class PostQuery(msgspec.Struct, frozen=True):
    """Of a post. `sync` asks for more than the server's own sync mode."""

    sync: Literal["always"] | None = None


class StreamQuery(msgspec.Struct, frozen=True):
    """Of a stream. `from_offset` and `from_time` exclude each other."""

    from_offset: Offset | None = None
    from_time: Time | None = None


class PollQuery(msgspec.Struct, frozen=True):
    """Of a read. `from_offset` and `from_time` exclude each other."""

    from_offset: Offset | None = None
    from_time: Time | None = None
    max_records: Annotated[int, Meta(ge=1, le=MAX_POLL_RECORDS)] = DEFAULT_POLL_RECORDS
    max_bytes: Annotated[int, Meta(ge=1, le=_MAX)] = MAX_ANSWER_BYTES
    timeout_ms: Annotated[int, Meta(ge=0, le=MAX_TIMEOUT_MS)] = 0
    include_headers: bool = True


class NoQuery(msgspec.Struct, frozen=True):
    """Of an operation that takes no parameters."""


Q = TypeVar("Q", bound=msgspec.Struct)


def parse_query(query: str, kind: type[Q]) -> Q:
    """The parameters as a `kind`. Unknown or repeated ones are refused: a typo must not read as a default."""
    return cast(Q, _parsed(query, kind)) if query else kind()


@lru_cache(maxsize=1024)  # followers of a log's end ask the same again and again; a refusal is not kept
def _parsed(query: str, kind: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        pairs = _pairs(query)
    except ValueError as error:
        raise InvalidParameter(f"the query of the URL cannot be read: {error}", parameter="query") from error
    readers = _readers(kind)
    found: dict[str, object] = {}
    for name, text in pairs:
        read = readers.get(name)
        if read is None:
            known = f"known are {', '.join(sorted(readers))}" if readers else "none are taken"
            raise InvalidParameter(f"there is no parameter {name[:40]!r} here; {known}", parameter=name[:40])
        if name in found:
            raise InvalidParameter(f"parameter {name} is given twice", parameter=name)
        found[name] = read(text)
    if "from_offset" in found and "from_time" in found:
        raise InvalidParameter("from_offset and from_time exclude each other; give one", parameter="from_time")
    return kind(**found)


def _pairs(query: str) -> list[tuple[str, str]]:
    """Names and values in order. Raises ValueError where the query is not made of them."""
    if "%" in query or "+" in query or query.count("&") >= _MAX_PAIRS:
        return parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_MAX_PAIRS)
    pairs = []
    for part in query.split("&"):  # nothing is encoded: the same in a quarter of the time
        name, equals, text = part.partition("=")
        if not equals:
            raise ValueError(f"bad query field: {part!r}")
        pairs.append((name, text))
    return pairs


@cache
def _readers(kind: type[msgspec.Struct]) -> Mapping[str, Callable[[str], object]]:
    """What reads each parameter's text, made from the struct's own types: the same that the OpenAPI document shows."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return {field.encode_name: _reader(field.encode_name, field.type) for field in info.fields}


def _reader(name: str, shape: Any) -> Callable[[str], object]:
    if isinstance(shape, msgspec.inspect.UnionType):
        (shape,) = (each for each in shape.types if not isinstance(each, msgspec.inspect.NoneType))
    if isinstance(shape, msgspec.inspect.Metadata):
        return lambda text: _time(name, text)
    if isinstance(shape, msgspec.inspect.IntType):
        least, most = shape.ge or 0, shape.le if shape.le is not None else _MAX
        return lambda text: _number(name, text, least, most)
    if isinstance(shape, msgspec.inspect.BoolType):
        return lambda text: _choice(name, text, ("false", "true")) == "true"
    assert isinstance(shape, msgspec.inspect.LiteralType)
    return lambda text: _choice(name, text, tuple(str(value) for value in shape.values))


def _number(name: str, text: str, least: int, most: int) -> int:
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        allowed = f"{least} or more" if most == _MAX else f"{least} to {most}"
        raise InvalidParameter(f"{name} is {text[:40]!r}; it must be a whole number, {allowed}", parameter=name)
    return int(text)


def _time(name: str, text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise InvalidParameter(f"{name} is {text[:40]!r}; {error}", parameter=name) from error


def _choice(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise InvalidParameter(f"{name} is {text[:40]!r}; it must be {' or '.join(allowed)}", parameter=name)
    return text
