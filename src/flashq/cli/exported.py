"""Lines of an export as records to post: whether their offsets can be kept, and where their timestamps go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgspec

from flashq.api.schemas import RecordIn
from flashq.cli.sources import Batch, RecordRefused


class _Place(msgspec.Struct):
    """Where a record was."""

    offset: int


class _Exported(RecordIn, kw_only=True):
    """A record as exported."""

    timestamp: str


class _Posted(RecordIn, omit_defaults=True):
    """A record to post, without what is not there."""


_place_in: Final = msgspec.json.Decoder(_Place).decode
_places_in: Final = msgspec.json.Decoder(_Place).decode_lines
_record_in: Final = msgspec.json.Decoder(_Exported).decode
_encode: Final = msgspec.json.Encoder().encode


def at_their_offsets(batches: Iterator[Batch], expected: int | None) -> Iterator[Batch]:
    """Batches that are stored at the offsets they were exported with, or not at all.

    They must follow each other, from `expected` on if that is given. Raises `RecordRefused`, after what comes before.
    """
    for batch in batches:
        offsets, refused = _offsets(batch)
        first = offsets[0] if expected is None and offsets else expected
        good = 0 if first is None else _common(offsets, range(first, first + len(offsets)))
        if good:
            yield replace(batch if good == len(batch) else batch.before(good), first_offset=first)
        if good < len(offsets):
            assert first is not None
            raise RecordRefused(
                batch.line_of(good),
                f"offset {offsets[good]} comes where {first + good} should: offsets cannot be kept",
                "--allow-new-offsets gives the records new ones",
            )
        if refused is not None:
            raise refused
        assert first is not None
        expected = first + good


def with_timestamps(batches: Iterator[Batch], header: str) -> Iterator[Batch]:
    """Batches whose records have the exported timestamp in a header, unless they have that header from before.

    Raises `RecordRefused`, after what comes before.
    """
    for batch in batches:
        lines: list[bytes] = []
        refused: RecordRefused | None = None
        for line in batch.body.split(b"\n")[:-1]:
            try:
                lines.append(_with_timestamp(line, header))
            except msgspec.DecodeError as error:
                refused = _no_export(batch, len(lines), error)
                break
        if lines:
            kept = batch if refused is None else batch.before(len(lines))
            yield replace(kept, body=b"".join(lines))
        if refused is not None:
            raise refused


def _offsets(batch: Batch) -> tuple[list[int], RecordRefused | None]:
    """Of the records, up to one that has none."""
    try:
        return [place.offset for place in _places_in(batch.body)], None
    except msgspec.DecodeError:
        pass  # in which line, it does not say
    offsets: list[int] = []
    for line in batch.body.split(b"\n"):
        try:
            offsets.append(_place_in(line).offset)
        except msgspec.DecodeError as error:
            return offsets, _no_export(batch, len(offsets), error)
    raise AssertionError("lines that can be read one by one can be read together")


def _common(found: list[int], expected: range) -> int:
    """How many are the same, from the first on."""
    if found == list(expected):
        return len(found)
    return next(at for at, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)


def _with_timestamp(line: bytes, header: str) -> bytes:
    record = _record_in(line)
    record.headers = {header: record.timestamp, **(record.headers or {})}
    return _encode(_Posted(record.value, record.key, record.headers, record.encoding, record.key_encoding)) + b"\n"


def _no_export(batch: Batch, index: int, error: Exception) -> RecordRefused:
    hint = "flashq produce --file posts records that are no export"
    return RecordRefused(batch.line_of(index), f"this is no record of an export: {error}", hint)
