"""Records: bytes in, bytes out, and text as a view."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from flashq import Record, RecordWithOffset


def test_text_becomes_utf_8_and_is_read_back_as_bytes_and_as_text() -> None:
    record = Record("Grüße", key="Schlüssel", headers={"naïve": "é"})
    assert record.value == "Grüße".encode()
    assert (record.text, record.key_text) == ("Grüße", "Schlüssel")
    assert record.headers == {"naïve": "é".encode()}


def test_an_absent_key_has_no_text_and_an_empty_one_an_empty_text() -> None:
    assert Record("v").key_text is None
    assert Record("v", key="").key_text == ""
    assert Record("v", headers={}).headers is None


def test_bytes_that_are_no_text_or_json_say_so_when_asked_for_it() -> None:
    record = Record(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        _ = record.text
    with pytest.raises(ValueError, match=r"utf-8|Expecting"):
        record.json()
    assert Record('{"a": [1, null]}').json() == {"a": [1, None]}
    with pytest.raises(json.JSONDecodeError):
        Record("{").json()


def test_records_are_equal_when_all_they_hold_is() -> None:
    assert Record("v", key="k", headers={"h": "x"}) == Record(b"v", key=b"k", headers={"h": b"x"})
    assert Record("v") != Record("v", key="")
    assert Record("v") != "v"
    assert hash(Record("v")) == hash(Record(b"v"))
    assert "b'v'" in repr(Record("v"))


def test_any_buffer_is_bytes() -> None:
    assert Record(bytearray(b"v"), key=memoryview(b"k")).value == b"v"  # type: ignore[arg-type]


def test_a_polled_record_knows_when_it_was_appended() -> None:
    record = RecordWithOffset(3, 1_700_000_000_123, None, b"v", None)
    assert record.timestamp == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
    assert record.text == "v"
