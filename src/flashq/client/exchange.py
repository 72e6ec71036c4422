"""One request and its answer as data, and how they make an operation. No I/O: `Client` and `AsyncClient` do that."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec

from flashq.api.operations import BY_ID, Operation
from flashq.client.errors import unexpected
from flashq.names import check_name

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. `repeatable`: done twice, it has done no more than once. `wait_s`: how long it asks to be held."""

    operation: Operation
    path: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    repeatable: bool
    wait_s: float = 0.0

    @property
    def method(self) -> str:
        return self.operation.method

    @property
    def is_write(self) -> bool:
        return self.operation.method != "GET"


class Answer(msgspec.Struct, frozen=True):
    """What came. `headers` can be asked in any case. The body of a streamed answer is not in it."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


Steps: TypeAlias = Generator[Request, Answer, T]
"""An operation: yields requests, is sent their (good) answers, returns its result. Refusals are thrown into it."""


def request_for(
    operation_id: str,
    *,
    topic: str | None = None,
    group: str | None = None,
    query: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    repeatable: bool = False,
    wait_s: float = 0.0,
) -> Request:
    """A request for an operation of the contract. Raises `InvalidParameter` for a bad name."""
    names = {kind: check_name(kind, name) for kind, name in (("group", group), ("topic", topic)) if name is not None}
    operation = BY_ID[operation_id]
    path = operation.path.format(**names)
    return Request(
        operation=operation,
        path=f"{path}?{urlencode(query)}" if query else path,
        headers=headers or {},
        body=body,
        repeatable=repeatable or operation.method == "GET",
        wait_s=wait_s,
    )


def read(answer: Answer, decoder: msgspec.json.Decoder[T], *, is_write: bool = False) -> T:
    """The body of a good answer. Raises `UnexpectedAnswer` if it has not the contract's shape."""
    try:
        return decoder.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unexpected(answer.status, answer.body, is_write=is_write) from error


def header_number(answer: Answer, name: str) -> int:
    """A whole number in a header. Raises `UnexpectedAnswer`."""
    text: Any = answer.headers.get(name, "")
    if not text.isdecimal():
        raise unexpected(answer.status, b"no " + name.encode(), is_write=False)
    return int(text)
