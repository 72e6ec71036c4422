"""A strict reader of what a server has written: whole answers and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Za-z' -]*")
_FIELD = re.compile(rb"([a-z0-9-]+): ([\x20-\x7e]*)")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """`number` is that of the request it answers, by its `x-number`; None for errors of the protocol."""

    status: int
    number: int | None
    body: bytes
    until_close: bool = False


def parse_answers(written: bytes, methods: list[str]) -> list[Answer]:
    """The answers in order; `methods` are those of the requests, by number. AssertionError if anything is odd."""
    answers: list[Answer] = []
    while written:
        if written.startswith(_CONTINUE):
            written = written[len(_CONTINUE) :]
            continue
        answer, written = _parse_answer(written, methods)
        answers.append(answer)
    return answers


def _parse_answer(written: bytes, methods: list[str]) -> tuple[Answer, bytes]:
    head, end, rest = written.partition(b"\r\n\r\n")
    assert end, f"an answer is cut short: {written[:200]!r}"
    line, *lines = head.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(line)
    assert status_line, f"not a status line: {line!r}"
    fields: dict[bytes, bytes] = {}
    for each in lines:
        match = _FIELD.fullmatch(each)
        assert match, f"not a field: {each!r}"
        assert match[1] not in fields, f"a field comes twice: {each!r}"
        fields[match[1]] = match[2]
    status = int(status_line[1])
    number = int(fields[b"x-number"]) if b"x-number" in fields else None
    if status in (204, 304) or (number is not None and methods[number] == "HEAD"):
        return Answer(status, number, b""), rest
    if b"content-length" in fields:
        length = int(fields[b"content-length"])
        assert len(rest) >= length, "a body is cut short"
        return Answer(status, number, rest[:length]), rest[length:]
    if fields.get(b"transfer-encoding") == b"chunked":
        body, rest = _dechunked(rest)
        return Answer(status, number, body), rest
    assert fields.get(b"connection") == b"close", "nothing tells where the body ends"
    return Answer(status, number, rest, until_close=True), b""


def _dechunked(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        assert end, "a chunk is cut short"
        length = int(size, 16)
        chunk, rest = rest[:length], rest[length:]
        assert rest[:2] == b"\r\n", "a chunk does not end where it says"
        body, rest = body + chunk, rest[2:]
        if not length:
            return body, rest
