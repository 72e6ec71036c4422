"""The settings that hold once every source has been read: flags, FLASHQ_* variables, a TOML file, defaults.

What there is to set is in settings.py. Nothing else in FlashQ reads the environment, and nothing here opens storage
or listens.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flashq.addresses import is_loopback
from flashq.errors import ConfigurationError
from flashq.settings import PREFIX, SETTINGS, NotAllowedError, ServerSettings, Setting

CONFIG_VARIABLE: Final = "FLASHQ_CONFIG"  # names the TOML file
URL_VARIABLE: Final = "FLASHQ_URL"  # belongs to clients
TOKEN_VARIABLE: Final = "FLASHQ_TOKEN"  # the token itself: no setting, so it is in no repr, no log and no flag  # noqa: S105
_VARIABLES_OF_OTHERS: Final = frozenset({CONFIG_VARIABLE, URL_VARIABLE, TOKEN_VARIABLE})

_MAX_TOKEN_BYTES: Final = 4096
_MAX_SHOWN: Final = 100  # characters of a refused value repeated in an error

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # what fits between `Bearer ` and the end of a header line

# Kubernetes sets these in every pod beside a service named flashq, unless the pod asks it not to.
_SERVICE_LINK: Final = re.compile(r"FLASHQ_(SERVICE_(HOST|PORT)(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?)")
_SERVICE_LINK_HINT: Final = (
    "Kubernetes sets this variable for a service named flashq; give the pod enableServiceLinks: false"
)


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

    `flags` maps setting names to text or typed values; None stands for a flag that was not given, and so does a list
    without items, for one that may be repeated. `config_file` goes before FLASHQ_CONFIG. Every source is checked, also
    where a stronger one overrides it.

    Raises `ConfigurationError` for an unknown name, a value that is not allowed, a file that cannot be read, a host
    beyond loopback with neither token nor `insecure`, and a certificate without key or a key without certificate.
    `details`: setting, value, source and allowed for a bad value; name, source and suggestion for an unknown one; never
    the value of an unknown name, which may be a mistyped secret.
    """
    given = {
        **_from_file(_config_path(environ, config_file)),
        **_from_environment(environ),
        **_from_flags(flags),
    }
    values: dict[str, Any] = {name: found.value for name, found in given.items()}
    settings = ServerSettings(**values)
    _check_exposure(settings, environ, given.get("host"))
    _check_tls_pair(settings)
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
        setting = SETTINGS[name]
        if setting.kind.is_list and isinstance(value, (list, tuple)):
            value = ",".join(value) or None
        if value is not None:
            given[name] = _checked(setting, value, f"flag {setting.flag}", is_text=isinstance(value, str))
    return given


def _checked(setting: Setting, value: object, source: str, *, is_text: bool) -> _Given:
    kind = setting.kind
    try:
        return _Given(kind.from_text(str(value)) if is_text else kind.from_value(value), source)
    except NotAllowedError as error:
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
    if has_token or settings.insecure or is_loopback(settings.host):
        return
    source = given.source if given else "default"
    raise ConfigurationError(
        f"host: {_shown(settings.host)} ({source}) is not loopback, so other machines may reach it, and no token "
        f"guards it; give a token by --token-file or {TOKEN_VARIABLE}, or listen on 127.0.0.1, or say --insecure to "
        "let everyone who reaches it read and write",
        setting="host", value=settings.host, source=source, allowed="a loopback address, unless there is a token",
    )  # fmt: skip


def _check_tls_pair(settings: ServerSettings) -> None:
    if (settings.tls_cert is None) is (settings.tls_key is None):
        return
    there, missing = ("tls_cert", "tls_key") if settings.tls_key is None else ("tls_key", "tls_cert")
    raise ConfigurationError(
        f"{there} is given without {missing}; TLS needs both: {SETTINGS['tls_cert'].flag} and "
        f"{SETTINGS['tls_key'].flag}",
        setting=missing,
    )


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
