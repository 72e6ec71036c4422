"""Records that could not be handled, as they are posted to the dead-letter topic: where they came from, and why."""

from __future__ import annotations

from hashlib import sha256

from flashq.api.schemas import MAX_HEADER_VALUE_BYTES
from flashq.api.times import iso_timestamp
from flashq.names import check_name
from flashq.record import Record, RecordWithOffset

SUFFIX = ".dlq"


def topic_for(topic: str) -> str:
    """The topic for dead letters of a topic. Raises `InvalidParameter` if that name would be too long."""
    return check_name("topic", topic + SUFFIX)


def letter_of(record: RecordWithOffset, topic: str, group: str, error: Exception, attempts: int) -> Record:
    """The record with its key, value and headers, and `flashq-dlq-*` headers beside them."""
    headers: dict[str, str | bytes] = {
        **(record.headers or {}),
        "flashq-dlq-topic": topic,
        "flashq-dlq-offset": str(record.offset),
        "flashq-dlq-timestamp": iso_timestamp(record.timestamp_ms),
        "flashq-dlq-group": group,
        "flashq-dlq-error": _header_text(f"{type(error).__name__}: {error}"),
        "flashq-dlq-attempts": str(attempts),
    }
    return Record(record.value, record.key, headers)


def key_of(record: RecordWithOffset, topic: str, group: str) -> str:
    """The same for the same record of the same topic and group, so that its dead letter is stored once.

    Contents and timestamp are in it: in a topic deleted and made anew, other records come to the same offsets.
    """
    facts = (group, topic, record.offset, record.timestamp_ms, record.key, record.value)
    return f"dlq-{sha256(repr(facts).encode()).hexdigest()}"


def _header_text(text: str) -> str:
    """As much of a text as a header takes, without half a character at its end."""
    return text.encode(errors="backslashreplace")[:MAX_HEADER_VALUE_BYTES].decode(errors="ignore")
