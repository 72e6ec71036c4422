"""The settings of a server: what there is to set, and the values that hold once every source has been read.

The fields of `ServerSettings` are the one table of settings. Flags, FLASHQ_* variables, TOML keys, the help
of `flashq serve` and the table in docs/configuration.md follow from it: a new setting is one more field.
Nothing else in FlashQ reads the environment, and nothing here opens storage or listens.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from flashq.errors import ConfigurationError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

PREFIX: Final = "FLASHQ_"
CONFIG_VARIABLE: Final = "FLASHQ_CONFIG"  # names the TOML file
URL_VARIABLE: Final = "FLASHQ_URL"  # belongs to clients
TOKEN_VARIABLE: Final = "FLASHQ_TOKEN"  # the token itself: no setting, so it is in no repr, no log and no flag  # noqa: S105
_VARIABLES_OF_OTHERS: Final = frozenset({CONFIG_VARIABLE, URL_VARIABLE, TOKEN_VARIABLE})

_MAX_TOKEN_BYTES: Final = 4096
_MAX_SHOWN: Final = 100  # characters of a refused value repeated in an error

# ASCII digits only: int() alone would also take 1_0, +5, surrounding blanks and the digits of other scripts.
_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,18})([A-Za-z]*)")
_DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,9})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # what fits between `Bearer ` and the end of a header line

# Kubernetes sets these in every pod beside a service named flashq, unless the pod asks it not to.
_SERVICE_LINK: Final = re.compile(r"FLASHQ_(SERVICE_(HOST|PORT)(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?)")
_SERVICE_LINK_HINT: Final = (
    "Kubernetes sets this variable for a service named flashq; give the pod enableServiceLinks: false"
)


class _NotAllowedError(ValueError):
    """A kind does not take this value."""


class Kind(ABC):
    """What values a setting takes, and how they are written in text (flags, variables) and in TOML."""

    metavar: str
    is_switch = False

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
            raise _NotAllowedError
        return text

    def from_value(self, value: object) -> str:
        if not isinstance(value, str):
            raise _NotAllowedError
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
            raise _NotAllowedError
        return text

    def from_value(self, value: object) -> str:
        if not isinstance(value, str):
            raise _NotAllowedError
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
            raise _NotAllowedError
        factor = {"": 1, **dict(self.units)}.get(match[2])
        if factor is None:
            raise _NotAllowedError
        return self._within(int(match[1]) * factor)

    def from_value(self, value: object) -> int | None:
        if isinstance(value, str) and self.units and not value[-1:].isdigit():
            return self.from_text(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _NotAllowedError
        return self._within(value)

    def _within(self, number: int) -> int:
        if not self.minimum <= number <= self.maximum:
            raise _NotAllowedError
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
            raise _NotAllowedError
        return self.from_value(float(text))

    def from_value(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _NotAllowedError
        if not self.minimum <= value <= self.maximum:  # false for nan and inf, which TOML can write
            raise _NotAllowedError
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
            raise _NotAllowedError
        return text in ("true", "1")

    def from_value(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise _NotAllowedError
        return value

    def show(self, value: object) -> str:
        return "true" if value else "false"


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

    None for a retention keeps everything. The token is not here: see `read_token`.
    """

    # fmt: off
    host: str = _setting(
        "127.0.0.1", Text("ADDRESS"), "Address or name to listen on. Any but loopback needs a token or `insecure`.")
    port: int = _setting(8080, Number(0, 65535, "PORT"), "TCP port to listen on; 0 takes a free one.")
    storage: Literal["file", "memory"] = _setting(
        "file", Choice(("file", "memory")), "Where records live; `memory` forgets everything on exit.")
    data_dir: str = _setting("./flashq-data", Text("DIRECTORY"), "Directory of the log files, for storage `file`.")
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


@dataclass(frozen=True)
class _Given:
    """A value and where it came from, in the words an error uses."""

    value: object
    source: str


def process_environment() -> Mapping[str, str]:
    """The variables of this process, for a program's outermost layer to pass down."""
    return os.environ


def load_settings(
    flags: Mapping[str, object], environ: Mapping[str, str], config_file: str | os.PathLike[str] | None
) -> ServerSettings:
    """The settings that hold: flags before FLASHQ_* variables before the TOML file before defaults.

    `flags` maps setting names to text or typed values; None stands for a flag that was not given. `config_file`
    goes before FLASHQ_CONFIG. Every source is checked, also where a stronger one overrides it.

    Raises `ConfigurationError` for an unknown name, a value that is not allowed, a file that cannot be read, and
    a host beyond loopback with neither token nor `insecure`. `details`: setting, value, source and allowed for a
    bad value; name, source and suggestion for an unknown one; never the value of an unknown name, which may be a
    mistyped secret.
    """
    given = {
        **_from_file(_config_path(environ, config_file)),
        **_from_environment(environ),
        **_from_flags(flags),
    }
    values: dict[str, Any] = {name: found.value for name, found in given.items()}
    settings = ServerSettings(**values)
    _check_exposure(settings, environ, given.get("host"))
    return settings


def _config_path(
    environ: Mapping[str, str], config_file: str | os.PathLike[str] | None
) -> tuple[str | os.PathLike[str], str] | None:
    """The TOML file to read and what named it."""
    if config_file is not None:
        return config_file, "flag --config"
    if CONFIG_VARIABLE in environ:
        return environ[CONFIG_VARIABLE], f"variable {CONFIG_VARIABLE}"
    return None


def _from_file(named: tuple[str | os.PathLike[str], str] | None) -> dict[str, _Given]:
    if named is None:
        return {}
    path, named_by = os.fspath(named[0]), named[1]
    import tomllib  # here, since most starts name no file

    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except (OSError, ValueError) as error:  # ValueError: bad TOML, bytes that are not UTF-8, a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(
            f"cannot read the configuration file {_shown(path)} ({named_by}): {reason}",
            source=named_by, value=path,
        ) from error  # fmt: skip
    given = {}
    for key, value in document.items():
        if key not in SETTINGS:
            raise _unknown(f"key {_shown(key)} in file {path}", key, {name: name for name in SETTINGS})
        given[key] = _checked(SETTINGS[key], value, f"file {path}, key {key}", is_text=False)
    return given


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    by_variable = {setting.variable: setting for setting in SETTINGS.values()}
    given = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in _VARIABLES_OF_OTHERS:
            continue
        setting = by_variable.get(variable)
        if setting is None:
            hint = _SERVICE_LINK_HINT if _SERVICE_LINK.fullmatch(variable) else None
            known = {name.removeprefix(PREFIX): name for name in sorted({*by_variable, *_VARIABLES_OF_OTHERS})}
            raise _unknown(f"variable {variable}", variable.removeprefix(PREFIX).upper(), known, hint)
        given[setting.name] = _checked(setting, environ[variable], f"variable {variable}", is_text=True)
    return given


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    given = {}
    for name, value in flags.items():
        if name not in SETTINGS:
            raise _unknown(f"flag {_shown(name)}", name, {known: s.flag for known, s in SETTINGS.items()})
        if value is not None:
            setting = SETTINGS[name]
            given[name] = _checked(setting, value, f"flag {setting.flag}", is_text=isinstance(value, str))
    return given


def _checked(setting: Setting, value: object, source: str, *, is_text: bool) -> _Given:
    kind = setting.kind
    try:
        return _Given(kind.from_text(str(value)) if is_text else kind.from_value(value), source)
    except _NotAllowedError as error:
        details: dict[str, Any] = {
            "setting": setting.name, "value": _shown(value), "source": source, "allowed": kind.allowed,
        }  # fmt: skip
        if source.startswith("variable") and str(value).startswith("tcp://"):
            details["hint"] = _SERVICE_LINK_HINT
        raise ConfigurationError(
            f"{setting.name}: {_shown(value)} ({source}) is not allowed; allowed: {kind.allowed}", **details
        ) from error


def _unknown(what: str, name: str, known: Mapping[str, str], hint: str | None = None) -> ConfigurationError:
    """`known` maps each name that could have been meant to the way it is written."""
    suggestion = _nearest(name, known)
    asked = f"; did you mean {suggestion}?" if suggestion else "; flashq serve --help lists every setting"
    details: dict[str, Any] = {"name": name, "source": what, "suggestion": suggestion}
    if name.lower() == "token":
        hint = f"a token comes from {SETTINGS['token_file'].flag} or {TOKEN_VARIABLE}"
    if hint is not None:
        details["hint"] = hint
    return ConfigurationError(f"unknown {what}{asked}", **details)


def _nearest(name: str, known: Mapping[str, str]) -> str | None:
    import difflib  # here, since only a mistake needs it

    found: Iterable[str] = difflib.get_close_matches(name, known, n=1)
    return next((known[match] for match in found), None)


def _shown(value: object) -> str:
    """`value` on one line and not at length, control characters escaped."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _check_exposure(settings: ServerSettings, environ: Mapping[str, str], given: _Given | None) -> None:
    """Refuse to be open to other machines by accident."""
    has_token = settings.token_file is not None or bool(environ.get(TOKEN_VARIABLE, "").strip())
    if has_token or settings.insecure or _is_loopback(settings.host):
        return
    source = given.source if given else "default"
    raise ConfigurationError(
        f"host: {_shown(settings.host)} ({source}) is not loopback, so other machines may reach it, and no token "
        f"guards it; give a token by --token-file or {TOKEN_VARIABLE}, or listen on 127.0.0.1, or say --insecure to "
        "let everyone who reaches it read and write",
        setting="host", value=settings.host, source=source, allowed="a loopback address, unless there is a token",
    )  # fmt: skip


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name may resolve to anything
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def read_token(settings: ServerSettings, environ: Mapping[str, str]) -> str | None:
    """The token that requests must carry, without surrounding blanks; None when none is asked for.

    `token_file` goes before FLASHQ_TOKEN, which a client in the same shell may have set for itself. Raises
    `ConfigurationError` for a token that is empty, longer than 4,096 bytes or not visible ASCII (a header could
    not carry it), and for a file that cannot be read. No error repeats the token.
    """
    if settings.token_file is not None:
        source = f"file {settings.token_file}"
        content = _read_token_file(settings.token_file)
    elif TOKEN_VARIABLE in environ:
        source = f"variable {TOKEN_VARIABLE}"
        content = os.fsencode(environ[TOKEN_VARIABLE])
    else:
        return None
    token = content.strip().decode("latin-1")
    if not token:
        raise ConfigurationError(f"the token is empty ({source})", source=source)
    if len(content) > _MAX_TOKEN_BYTES:
        raise ConfigurationError(f"the token is longer than {_MAX_TOKEN_BYTES} bytes ({source})", source=source)
    if _TOKEN.fullmatch(token) is None:
        raise ConfigurationError(
            f"the token holds blanks or characters that are not visible ASCII ({source})", source=source
        )
    return token


def _read_token_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the token file {_shown(path)}: {error.strerror}", setting="token_file", value=path
        ) from error


def token_file_warning(settings: ServerSettings) -> str | None:
    """What to log at warning level when users other than the owner may read the token file; else None."""
    if settings.token_file is None:
        return None
    try:
        mode = stat.S_IMODE(os.stat(settings.token_file).st_mode)
    except OSError:
        return None  # reading it is what fails, in `read_token`
    if not mode & (stat.S_IRGRP | stat.S_IROTH):
        return None
    return f"the token file {_shown(settings.token_file)} is readable by other users (mode {mode:04o}); chmod 600 it"
