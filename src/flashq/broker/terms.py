"""What a post may ask for beyond being stored, and how it is then appended: one code for programs and the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from flashq.batch import encode, hash_of_key
from flashq.errors import InvalidParameter
from flashq.names import check_idempotency_key
from flashq.record import Row
from flashq.storage.backend import Condition, StorageBackend
from flashq.storage.interface import Append, TopicLog

_WHY_NOT = {"memory": "records are kept in memory", "kafka": "Kafka has no append on a condition"}


class Terms(msgspec.Struct, frozen=True):
    """`durable`: done once synced, whatever the mode. `if_next_offset`: only if it ends there. `key_hash`: once."""

    durable: bool = False
    if_next_offset: int | None = None
    key_hash: bytes | None = None


def check_terms(terms: Terms, backend: StorageBackend, names: Mapping[Condition, str]) -> None:
    """Raises `InvalidParameter` for what this storage cannot promise; `names` says what the caller calls it."""
    asked: dict[Condition, bool] = {"durable": terms.durable, "if_next_offset": terms.if_next_offset is not None}
    for condition, is_asked in asked.items():
        if is_asked and condition not in backend.conditions:
            raise InvalidParameter(
                f"{names[condition]} cannot be had: {_WHY_NOT[backend.kind]}. Nothing was stored",
                parameter=names[condition].partition("=")[0],
            )


def append_on(terms: Terms, log: TopicLog, rows: Sequence[Row], timestamp_ms: int) -> Append:
    """Append `rows` as a batch of its own. Blocks and raises as `TopicLog.append_once`, with a key."""
    batch = encode(rows, timestamp_ms, terms.key_hash)
    if terms.key_hash is None:
        return log.append(batch, durable=terms.durable, if_next_offset=terms.if_next_offset)
    return log.append_once(batch, durable=terms.durable, if_next_offset=terms.if_next_offset)


def hash_idempotency_key(key: str, parameter: str) -> bytes:
    """The hash of a good key. Raises `InvalidParameter`, which names `parameter`."""
    return hash_of_key(check_idempotency_key(key, parameter).encode("ascii"))
