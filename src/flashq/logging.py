"""Program messages, one line each: to the stream a program chose, or to the standard `logging` module.

Importing this configures nothing. Until `configure` is called, as in a program that embeds FlashQ, events go
to the standard loggers named `flashq...`, which show warnings and errors unless that program says otherwise.
A program that FlashQ owns (the server) calls `configure` once. Either way whatever a fact holds stays within
its line: no line breaks, no terminal escapes, no forged keys. Nothing is ever coloured, so NO_COLOR has
nothing left to switch off. structlog does the work of the configured path and is imported only there: its
import costs more than opening a log.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from flashq.errors import InvalidParameter

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

Format = Literal["auto", "console", "json"]
Facts = Mapping[str, object]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# Keys of the line, and a parameter of structlog's own.
_RESERVED: Final = frozenset({"timestamp", "level", "event", "logger", "exception", "exc_info", "method_name"})

# C0, DEL and C1 controls; line and paragraph separators; marks that reorder text on a screen; lone surrogates,
# which no stream can encode.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NOT_IN_KEYS: Final = re.compile(r"[^A-Za-z0-9_.-]")
_NEEDS_QUOTES: Final = re.compile(r"[\s=\"\\]|^$")


def one_line(text: str) -> str:
    """`text` with every character that could break a line or steer a terminal written as an escape."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def get_logger(name: str) -> Logger:
    """A logger that may be made at import; it follows `configure` whenever that comes. Names start with `flashq`."""
    return Logger(name, {})


class Logger:
    """Takes an event, which is constant text, and its facts. Facts named like a key of the line itself get a `_`.

    A level that is off costs one comparison. Thread-safe.
    """

    __slots__ = ("_facts", "_name", "_standard")

    def __init__(self, name: str, facts: Facts) -> None:
        self._name = name
        self._facts = facts
        self._standard = logging.getLogger(name)

    def bind(self, **facts: object) -> Logger:
        """A logger that adds `facts` to every event."""
        return Logger(self._name, {**self._facts, **facts})

    def is_enabled_for(self, level: Literal["debug", "info", "warning", "error"]) -> bool:
        """Whether events of this level go anywhere; ask before facts that are costly to make."""
        return self._is_on(_LEVELS[level])

    def debug(self, event: str, **facts: object) -> None:
        if self._is_on(logging.DEBUG):
            self._emit(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: object) -> None:
        if self._is_on(logging.INFO):
            self._emit(logging.INFO, event, facts)

    def warning(self, event: str, **facts: object) -> None:
        if self._is_on(logging.WARNING):
            self._emit(logging.WARNING, event, facts)

    def error(self, event: str, **facts: object) -> None:
        if self._is_on(logging.ERROR):
            self._emit(logging.ERROR, event, facts)

    def exception(self, event: str, **facts: object) -> None:
        """An error with the exception being handled and its traceback."""
        if self._is_on(logging.ERROR):
            self._emit(logging.ERROR, event, facts, sys.exception())

    def _is_on(self, level: int) -> bool:
        output = _output
        return self._standard.isEnabledFor(level) if output is None else level >= output.threshold

    def _emit(self, level: int, event: str, facts: Facts, error: BaseException | None = None) -> None:
        output = _output
        merged = {(f"{key}_" if key in _RESERVED else key): value for key, value in {**self._facts, **facts}.items()}
        if output is not None:
            output.write(level, self._name, event, merged, error)
        else:
            text = " ".join([one_line(event), *_pairs(merged)])
            # stacklevel: the record names the code that logged, not this method and the one that called it.
            self._standard.log(level, text, exc_info=error, stacklevel=3)


# The one piece of module state here: loggers are made at import, long before a program knows what to configure.
_output: _Output | None = None


def configure(format: Format = "auto", level: str = "info", stream: TextIO | None = None) -> None:  # noqa: A002
    """Send every event of FlashQ from `level` up to `stream` (default standard error), one line each.

    For a program that FlashQ owns: events of the standard `logging` module (asyncio's, say) then also come out
    as such lines, at the levels set there. `auto` is console on a terminal, else json. Timestamps are ISO 8601
    UTC. A stream that fails loses the line and nothing else. Calling again replaces what was configured; no
    configuration of structlog itself is touched.
    """
    global _output
    if level not in _LEVELS:
        raise InvalidParameter(f"log level {level!r} is not one of {', '.join(_LEVELS)}", parameter="level")
    if format not in ("auto", "console", "json"):
        raise InvalidParameter(f"log format {format!r} is not one of auto, console, json", parameter="format")
    target = sys.stderr if stream is None else stream
    is_console = format == "console" or (format == "auto" and target.isatty())
    output = _Output(_LEVELS[level], is_console, target)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _FromStandard)]:
        root.removeHandler(handler)
    root.addHandler(_FromStandard(output))
    _output = output


class _Output:
    """A structlog pipeline that ends in one stream."""

    def __init__(self, threshold: int, is_console: bool, stream: TextIO) -> None:
        import structlog

        self.threshold = threshold
        self._log: FilteringBoundLogger = structlog.wrap_logger(
            _Lines(stream),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                _render_console if is_console else _render_json,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(threshold),
            context_class=dict,
            cache_logger_on_first_use=True,
        ).bind()

    def write(self, level: int, name: str, event: str, facts: Facts, error: BaseException | None) -> None:
        if error is not None:
            facts = {**facts, "exc_info": error}
        self._log.log(level, event, logger=name, **facts)


class _Lines:
    """Writes each line whole, whichever thread it comes from."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            pass  # a full disk or a closed terminal under the messages must not stop the log of records

    debug = info = warning = error = critical = msg


class _FromStandard(logging.Handler):
    """Hands what other libraries log to the same output."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            error = record.exc_info[1] if record.exc_info else None
            # structlog knows the five standard levels only.
            level = min(50, max(10, record.levelno // 10 * 10))
            self._output.write(level, record.name, record.getMessage(), {}, error)
        except Exception:
            self.handleError(record)


def _render_console(_logger: object, _method: str, fields: Any) -> str:
    return " ".join(_pairs(_ordered(fields)))


def _render_json(_logger: object, _method: str, fields: Any) -> str:
    plain = {key: _plain(value) for key, value in _ordered(fields).items()}
    return json.dumps(plain, ensure_ascii=True)  # whatever is not printable ASCII comes out as an escape


def _ordered(fields: dict[str, object]) -> dict[str, object]:
    """Time, level, event and logger first, then the facts, then a traceback."""
    first: dict[str, object] = {
        key: fields.pop(key) for key in ("timestamp", "level", "event", "logger") if key in fields
    }
    last: dict[str, object] = {key: fields.pop(key) for key in ("exception",) if key in fields}
    return {**first, **fields, **last}


def _pairs(facts: Facts) -> list[str]:
    return [f"{_NOT_IN_KEYS.sub('_', key)}={_quoted(_text(value))}" for key, value in facts.items()]


def _quoted(text: str) -> str:
    """`text` as one word, or in double quotes in which backslashes and quotes are escaped, so that it reads one way."""
    safe = one_line(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{safe}"' if safe != text or _NEEDS_QUOTES.search(text) else text


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _plain(value: object) -> object:
    """`value` as JSON has it; what JSON has no word for becomes text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return _text(value)
