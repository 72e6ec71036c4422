"""Query parameters: strict numbers, known names, limits. `InvalidParameter` names the one and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from flashq.errors import InvalidParameter

# Digits only, and no leading sign: int() alone also takes 1_0, +5 and the digits of other scripts.
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_MAX = (1 << 63) - 1


def parse_query(query: str, allowed: frozenset[str]) -> Mapping[str, str]:
    """The parameters by name. Unknown or repeated ones are refused: a typo must not read as a default."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=32)
    except ValueError as error:
        raise InvalidParameter(f"the query of the URL cannot be read: {error}", parameter="query") from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            known = ", ".join(sorted(allowed))
            raise InvalidParameter(f"there is no parameter {name[:40]!r} here; known are {known}", parameter=name[:40])
        if name in found:
            raise InvalidParameter(f"parameter {name} is given twice", parameter=name)
        found[name] = value
    return found


def number(found: Mapping[str, str], name: str, default: int, least: int = 0, most: int = _MAX) -> int:
    """A whole number in `least..most`."""
    text = found.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        allowed = f"{least} or more" if most == _MAX else f"{least} to {most}"
        raise InvalidParameter(f"{name} is {text[:40]!r}; it must be a whole number, {allowed}", parameter=name)
    return int(text)


def flag(found: Mapping[str, str], name: str, default: bool) -> bool:
    """true or false."""
    text = found.get(name)
    if text is None:
        return default
    if text not in ("true", "false"):
        raise InvalidParameter(f"{name} is {text[:40]!r}; it must be true or false", parameter=name)
    return text == "true"
