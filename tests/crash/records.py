"""Self-checking records: who sent one, and in which post, is in the value itself, under a checksum."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_FILLER = 'The quick brown fox; "quoted" \\ back\\slashed, tab\tnewline\n, żółć, 日本語, 😀, \u2028. '
_VALUE = re.compile(
    r"(?P<body>(?P<run>[^|]+)\|(?P<client>[^|]+)\|(?P<sequence>[0-9]+)\|(?P<position>[0-9]+)/(?P<count>[0-9]+)\|[^|]*)"
    r"\|(?P<checksum>[0-9a-f]{8})",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sent a record: read from the value itself, after its checksum was found right."""

    run: str
    client: str
    sequence: int
    position: int
    count: int


@dataclass(frozen=True, slots=True)
class SentRecord:
    """A record as it is posted; what a read returns must be equal in all three parts."""

    key: str | None
    value: str
    headers: Mapping[str, str] | None

    def as_json(self) -> dict[str, Any]:
        """The JSON of the HTTP contract, absent parts left out."""
        parts: dict[str, Any] = {"value": self.value}
        if self.key is not None:
            parts["key"] = self.key
        if self.headers is not None:
            parts["headers"] = dict(self.headers)
        return parts


def make_record(identity: Identity, filler_length: int) -> SentRecord:
    """The one record that has this identity and filler length (characters): same arguments, same bytes."""
    shift = (identity.sequence * 7 + identity.position) % len(_FILLER)
    filler = (_FILLER * (filler_length // len(_FILLER) + 2))[shift : shift + filler_length]
    head = f"{identity.run}|{identity.client}|{identity.sequence}|{identity.position}/{identity.count}"
    body = f"{head}|{filler}"
    value = f"{body}|{zlib.crc32(body.encode()):08x}"
    kind = (identity.sequence + identity.position) % 4
    key = (None, "", identity.client, "klucz-ż")[kind]
    headers = {"position": str(identity.position), "empty": ""} if kind == 2 else None
    return SentRecord(key, value, headers)


def read_identity(value: str) -> Identity | None:
    """The identity a value carries, or None when its checksum or form is wrong."""
    found = _VALUE.fullmatch(value)
    if found is None or f"{zlib.crc32(found['body'].encode(errors='replace')):08x}" != found["checksum"]:
        return None
    return Identity(found["run"], found["client"], int(found["sequence"]), int(found["position"]), int(found["count"]))


def digest(key: object, value: object, headers: object) -> str:
    """Sixteen hexadecimal digits over all three parts of a record; null, empty and absent are told apart."""
    canonical = json.dumps([key, value, headers], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as the server returned it."""

    offset: int
    timestamp: str
    key: str | None
    value: str
    headers: Mapping[str, str] | None
    digest: str

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> Self:
        key, value, headers = parts["key"], parts["value"], parts["headers"]
        return cls(parts["offset"], parts["timestamp"], key, value, headers, digest(key, value, headers))


@dataclass(frozen=True, slots=True)
class Seen:
    """One record of a read, or of an acknowledgement (which has no digest)."""

    offset: int
    timestamp: str | None
    digest: str = ""
