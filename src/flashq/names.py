"""What topics, groups and idempotency keys may be called."""

from __future__ import annotations

import re

from flashq.errors import InvalidParameter

MAX_NAME_LENGTH = 255
MAX_IDEMPOTENCY_KEY_CHARS = 255

_NAME = re.compile(rf"[A-Za-z0-9._][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}", re.ASCII)
_KEY = re.compile(rf"[!-~]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}")


def is_name(name: str) -> bool:
    """Whether a topic or a group may be called so."""
    return bool(_NAME.fullmatch(name)) and name not in (".", "..")


def check_name(kind: str, name: str) -> str:
    """A valid name of a topic or group. Raises `InvalidParameter`."""
    if not isinstance(name, str) or not is_name(name):  # type: ignore[redundant-expr]
        shown = repr(name)[:60]
        raise InvalidParameter(
            f"{shown} is not a {kind} name: 1 to {MAX_NAME_LENGTH} of A-Z a-z 0-9 . _ -, "
            "not beginning with -, not . or ..",
            parameter=kind,
        )
    return name


def check_idempotency_key(key: str, parameter: str) -> str:
    """A valid key. Raises `InvalidParameter`, which names `parameter`."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):  # type: ignore[redundant-expr]
        raise InvalidParameter(
            f"{parameter} must be 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters", parameter=parameter
        )
    return key
