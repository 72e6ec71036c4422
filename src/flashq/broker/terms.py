"""What a post may ask for beyond being stored, and how it is then appended: one code for programs and the server."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flashq.batch import encode, hash_of_key
from flashq.names import check_idempotency_key
from flashq.record import Row
from flashq.storage.interface import Append, TopicLog


class Terms(msgspec.Struct, frozen=True):
    """`durable`: done once synced, whatever the mode. `if_next_offset`: only if it ends there. `key_hash`: once."""

    durable: bool = False
    if_next_offset: int | None = None
    key_hash: bytes | None = None


def append_on(terms: Terms, log: TopicLog, rows: Sequence[Row], timestamp_ms: int) -> Append:
    """Append `rows` as a batch of its own. Blocks and raises as `TopicLog.append_once`, with a key."""
    batch = encode(rows, timestamp_ms, terms.key_hash)
    if terms.key_hash is None:
        return log.append(batch, durable=terms.durable, if_next_offset=terms.if_next_offset)
    return log.append_once(batch, durable=terms.durable, if_next_offset=terms.if_next_offset)


def hash_idempotency_key(key: str, parameter: str) -> bytes:
    """The hash of a good key. Raises `InvalidParameter`, which names `parameter`."""
    return hash_of_key(check_idempotency_key(key, parameter).encode("ascii"))
