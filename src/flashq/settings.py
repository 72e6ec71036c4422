"""What there is to set: the kinds of values, and the one table of settings.

The fields of `ServerSettings` are the table. Flags, FLASHQ_* variables, TOML keys, the help of `flashq serve` and
docs/configuration.md follow from it: a new setting is one more field. How the sources are read is in config.py.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

PREFIX: Final = "FLASHQ_"

# ASCII digits only: int() alone would also take 1_0, +5, surrounding blanks and the digits of other scripts.
_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,18})([A-Za-z]*)")
_DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,9})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# What a Host field names, without a port; and a whole Origin field. Neither has patterns: each one is named.
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})|\[?[0-9A-Fa-f:]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?")
_ORIGIN: Final = re.compile(r"null|[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")


class NotAllowedError(ValueError):
    """A kind does not take this value."""


class Kind(ABC):
    """What values a setting takes, and how they are written in text (flags, variables) and in TOML."""

    metavar: str
    is_switch = False
    is_list = False

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The values this kind takes, in words that end an error message."""

    @abstractmethod
    def from_text(self, text: str) -> object: ...

    @abstractmethod
    def from_value(self, value: object) -> object:
        """The same from a typed value, as TOML has them. A number in quotes is a string and is refused."""

    def show(self, value: object) -> str:
        """`value` as a user would write it."""
        return "none" if value is None else str(value)


@dataclass(frozen=True)
class Text(Kind):
    metavar: str = "TEXT"

    @property
    def allowed(self) -> str:
        return "text, not empty and without control characters"

    def show(self, value: object) -> str:
        return "unset" if value is None else str(value)

    def from_text(self, text: str) -> str:
        if not text.strip() or _CONTROL.search(text):
            raise NotAllowedError
        return text

    def from_value(self, value: object) -> str:
        if not isinstance(value, str):
            raise NotAllowedError
        return self.from_text(value)


@dataclass(frozen=True)
class Choice(Kind):
    options: tuple[str, ...]

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return "|".join(self.options)

    @property
    def allowed(self) -> str:
        return f"{', '.join(self.options[:-1])} or {self.options[-1]}"

    def from_text(self, text: str) -> str:
        if text not in self.options:
            raise NotAllowedError
        return text

    def from_value(self, value: object) -> str:
        if not isinstance(value, str):
            raise NotAllowedError
        return self.from_text(value)


@dataclass(frozen=True)
class Number(Kind):
    """A whole number, both bounds included; with `units`, one may follow the digits (64MiB, 7d)."""

    minimum: int
    maximum: int = 2**63 - 1
    metavar: str = "NUMBER"
    units: tuple[tuple[str, int], ...] = ()  # smallest first
    base: str = ""  # what the number counts when no unit follows
    optional: bool = False  # takes `none`

    @property
    def allowed(self) -> str:
        if self.maximum == 2**63 - 1:
            bounds = f"{self.show(self.minimum)} or more"
        else:
            bounds = f"from {self.show(self.minimum)} to {self.show(self.maximum)}"
        names = [name for name, _ in self.units]
        written = f", in {self.base} or followed by {', '.join(names[:-1])} or {names[-1]}" if names else ""
        return f"a whole number, {bounds}{written}{', or none' if self.optional else ''}"

    def from_text(self, text: str) -> int | None:
        if self.optional and text == "none":
            return None
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise NotAllowedError
        factor = {"": 1, **dict(self.units)}.get(match[2])
        if factor is None:
            raise NotAllowedError
        return self._within(int(match[1]) * factor)

    def from_value(self, value: object) -> int | None:
        if isinstance(value, str) and self.units and not value[-1:].isdigit():
            return self.from_text(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise NotAllowedError
        return self._within(value)

    def _within(self, number: int) -> int:
        if not self.minimum <= number <= self.maximum:
            raise NotAllowedError
        return number

    def show(self, value: object) -> str:
        if isinstance(value, int):
            for name, factor in reversed(self.units):
                if value and value % factor == 0:
                    return f"{value // factor}{name}"
        return super().show(value)


@dataclass(frozen=True)
class Seconds(Kind):
    minimum: float
    maximum: float
    metavar: str = "SECONDS"

    @property
    def allowed(self) -> str:
        return f"a number of seconds from {self.minimum:g} to {self.maximum:g}"

    def from_text(self, text: str) -> float:
        if _DECIMAL.fullmatch(text) is None:
            raise NotAllowedError
        return self.from_value(float(text))

    def from_value(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NotAllowedError
        if not self.minimum <= value <= self.maximum:  # false for nan and inf, which TOML can write
            raise NotAllowedError
        return float(value)


@dataclass(frozen=True)
class Switch(Kind):
    metavar: str = ""
    is_switch = True

    @property
    def allowed(self) -> str:
        return "true, false, 1 or 0"

    def from_text(self, text: str) -> bool:
        if text not in ("true", "false", "1", "0"):
            raise NotAllowedError
        return text in ("true", "1")

    def from_value(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise NotAllowedError
        return value

    def show(self, value: object) -> str:
        return "true" if value else "false"


@dataclass(frozen=True)
class Listed(Kind):
    """Any number of items: separated by commas in text, a list in TOML, a flag for each."""

    item: re.Pattern[str]
    items: str  # what they are, in words
    metavar: str = "TEXT"
    is_list = True

    @property
    def allowed(self) -> str:
        return f"{self.items}, or none"

    def show(self, value: object) -> str:
        return ",".join(value) if isinstance(value, tuple) and value else "none"

    def from_text(self, text: str) -> tuple[str, ...]:
        return () if text == "none" else self._checked(text.split(","))

    def from_value(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise NotAllowedError
        return self._checked(value)

    def _checked(self, items: list[object] | list[str]) -> tuple[str, ...]:
        found = [item.strip().lower() for item in items if isinstance(item, str)]
        if len(found) < len(items) or not all(map(self.item.fullmatch, found)):
            raise NotAllowedError
        return tuple(found)


def _size(minimum: int, maximum: int = 2**63 - 1, *, optional: bool = False) -> Number:
    units = (("KiB", KIB), ("MiB", MIB), ("GiB", GIB))
    return Number(minimum, maximum, metavar="SIZE", units=units, base="bytes", optional=optional)


def _duration_ms() -> Number:
    units = (("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000))
    return Number(1, metavar="DURATION", units=units, base="milliseconds", optional=True)


_T = TypeVar("_T")


def _setting(default: _T, kind: Kind, meaning: str) -> _T:
    made: _T = field(default=default, metadata={"kind": kind, "meaning": meaning})
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Every setting of a server. `load_settings` checks values; the constructor does not.

    None for a retention keeps everything. The token is not here: see `config.read_token`.
    """

    # fmt: off
    host: str = _setting(
        "127.0.0.1", Text("ADDRESS"), "Address or name to listen on. Any but loopback needs a token or `insecure`.")
    port: int = _setting(8080, Number(0, 65535, "PORT"), "TCP port to listen on; 0 takes a free one.")
    storage: Literal["file", "memory", "kafka"] = _setting(
        "file", Choice(("file", "memory", "kafka")),
        "Where records live; `memory` forgets everything on exit, `kafka` is a cluster.")
    data_dir: str = _setting("./flashq-data", Text("DIRECTORY"), "Directory of the log files, for storage `file`.")
    kafka_bootstrap: str | None = _setting(
        None, Text("HOST:PORT,..."), "Brokers of the cluster to begin with, for storage `kafka`.")
    kafka_config: str | None = _setting(
        None, Text("FILE"), "More settings of librdkafka (TLS, SASL), one name=value a line, for storage `kafka`.")
    kafka_replication_factor: int = _setting(
        3, Number(1, 32767), "Replicas of new topics, at most one for each broker, for storage `kafka`.")
    sync_mode: Literal["always", "periodic", "never"] = _setting(
        "always", Choice(("always", "periodic", "never")),
        "When the disk is told to keep records: before each answer, in the background, or on roll and close only.")
    commit_threshold: int = _setting(10, Number(1), "Records after which a sync starts early.")
    sync_interval_s: float = _setting(
        1.0, Seconds(0.001, 86_400), "Longest time between syncs, for sync mode `periodic`.")
    segment_bytes: int = _setting(64 * MIB, _size(KIB, 2 * GIB), "Size at which a log rolls to its next segment file.")
    retention_ms: int | None = _setting(
        None, _duration_ms(), "Age past which records of a topic may go, unless the topic says otherwise; "
        "`none` keeps everything.")
    retention_bytes: int | None = _setting(
        None, _size(1, optional=True), "Size past which the oldest records of a topic may go, unless the topic says "
        "otherwise; `none` keeps everything.")
    max_body_bytes: int = _setting(
        64 * MIB, _size(KIB, 2 * GIB), "Largest request body taken; beyond it the answer is 413.")
    max_connections: int = _setting(
        1024, Number(1, 1_000_000), "Connections open at once; beyond it the answer is 503.")
    token_file: str | None = _setting(
        None, Text("FILE"), "File whose content is the token that every request must carry.")
    insecure: bool = _setting(False, Switch(), "Listen beyond loopback without a token.")
    allow_host: tuple[str, ...] = _setting(
        (), Listed(_HOST, "names or addresses without port, separated by commas", "NAME"),
        "More names that `Host` may give this server, such as that of a proxy in front of it.")
    cors_origin: tuple[str, ...] = _setting(
        (), Listed(_ORIGIN, "origins (scheme://host or scheme://host:port, or null), separated by commas", "ORIGIN"),
        "Other origins whose pages may read and write.")
    tls_cert: str | None = _setting(
        None, Text("FILE"), "PEM file of the certificate, and of those between it and a root. Needs `tls_key`.")
    tls_key: str | None = _setting(
        None, Text("FILE"), "PEM file of the certificate's private key, not encrypted. Needs `tls_cert`.")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", Choice(("debug", "info", "warning", "error")), "The least severe events that are logged.")
    log_format: Literal["auto", "console", "json"] = _setting(
        "auto", Choice(("auto", "console", "json")),
        "`console` logs key=value lines, `json` JSON lines, `auto` console on a terminal and json elsewhere.")
    # fmt: on


@dataclass(frozen=True)
class Setting:
    """One field of `ServerSettings` under all its names. Its TOML key is `name`."""

    name: str
    kind: Kind
    default: object
    meaning: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        return self.kind.show(self.default)


def _described(made: dataclasses.Field[Any]) -> Setting:
    return Setting(made.name, made.metadata["kind"], made.default, made.metadata["meaning"])


SETTINGS: Final[Mapping[str, Setting]] = {made.name: _described(made) for made in dataclasses.fields(ServerSettings)}
