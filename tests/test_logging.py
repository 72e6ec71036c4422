"""Program messages: one line each whatever they hold, and nothing configured by an import."""

from __future__ import annotations

import io
import json
import logging as standard
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from flashq import logging
from flashq.errors import InvalidParameter

HOSTILE = [
    "a\nlevel=error event=forged",
    "a\r\nb",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "tab\tnul\0del\x7f",
    "next\x85line\u2028sep\u2029par",
    "\u202eright to left\u2066",
    "lone\ud800surrogate",
    'quote" level="error',
    "back\\nslash",
    '"}\n{"event": "forged"}',
]
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test configures ends with it."""
    root = standard.getLogger()
    handlers = list(root.handlers)
    monkeypatch.setattr(logging, "_output", None)
    yield
    root.handlers[:] = handlers


def configured(format: Literal["auto", "console", "json"], level: str = "debug") -> io.StringIO:  # noqa: A002
    stream = io.StringIO()
    logging.configure(format, level, stream)
    return stream


def only_line(stream: io.StringIO) -> str:
    text = stream.getvalue()
    assert text.endswith("\n")
    line = text[:-1]
    assert UNSAFE.search(line) is None
    return line


# Formats


def test_console_lines_are_key_value_pairs_with_a_utc_timestamp() -> None:
    stream = configured("console")
    logging.get_logger("flashq.server").info(
        "now listening", host="127.0.0.1", port=8080, tls=False, name=None, empty=""
    )
    assert re.fullmatch(
        r"timestamp=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z level=info event=\"now listening\" logger=flashq.server "
        r"host=127\.0\.0\.1 port=8080 tls=false name=null empty=\"\"",
        only_line(stream),
    )


def test_json_lines_hold_typed_values() -> None:
    stream = configured("json")
    logging.get_logger("flashq.x").warning(
        "torn", position=7, ratio=0.5, bad=float("nan"), raw=b"\xff\n", both=[1, b"a"]
    )
    fields = json.loads(only_line(stream))
    assert list(fields)[:4] == ["timestamp", "level", "event", "logger"]
    assert fields.pop("timestamp").endswith("Z")
    assert fields == {
        "level": "warning", "event": "torn", "logger": "flashq.x", "position": 7, "ratio": 0.5, "bad": "nan",
        "raw": "\\xff\n", "both": [1, "a"],
    }  # fmt: skip


def test_auto_is_console_on_a_terminal_and_json_elsewhere() -> None:
    terminal = Terminal()
    logging.configure("auto", "info", terminal)
    logging.get_logger("flashq").info("a")
    assert terminal.getvalue().startswith("timestamp=")
    assert "\x1b" not in terminal.getvalue()
    stream = configured("auto")
    logging.get_logger("flashq").info("a")
    assert json.loads(only_line(stream))["event"] == "a"


def test_the_default_stream_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("console")
    logging.get_logger("flashq").info("a")
    logging.get_logger("flashq").debug("b")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


# Injection


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_one_console_value(text: str) -> None:
    stream = configured("console")
    logging.get_logger("flashq").info("a", value=text)
    match = re.fullmatch(
        r"timestamp=\S+ level=info event=a logger=flashq value=\"((?:[^\"\\]|\\.)*)\"", only_line(stream)
    )
    assert match is not None


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_unchanged_from_json(text: str) -> None:
    stream = configured("json")
    logging.get_logger("flashq").info("a", value=text)
    line = only_line(stream)
    assert line.isascii()
    assert json.loads(line)["value"] == text


@pytest.mark.parametrize("format", ["console", "json"])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_anywhere_stays_within_its_line(format: Literal["console", "json"], text: str) -> None:  # noqa: A002
    stream = configured(format)
    facts: dict[str, Any] = {text: "x"}
    logging.get_logger(f"flashq.{text}").info(text, value=text.encode("utf-8", "replace"), many=[text], **facts)
    line = only_line(stream)
    assert line.count("timestamp") == 1
    if format == "console":
        assert len(re.findall(r"(?:^| )level=", re.sub(r"\"(?:[^\"\\]|\\.)*\"", "", line))) == 1


def test_a_traceback_is_one_line_and_keeps_its_text() -> None:
    formats: tuple[Literal["console", "json"], ...] = ("console", "json")
    for format in formats:  # noqa: A001
        stream = configured(format)
        try:
            raise ValueError("first\n\x1b[31msecond")
        except ValueError:
            logging.get_logger("flashq").exception("failed", topic="t")
        line = only_line(stream)
        assert "Traceback (most recent call last)" in line
        assert "test_logging.py" in line
    assert json.loads(line)["exception"].endswith("second")
    assert json.loads(line)["level"] == "error"


def test_percent_signs_are_text() -> None:
    stream = configured("json")
    logging.get_logger("flashq").info("100%s %d", value="%s")
    assert json.loads(only_line(stream))["event"] == "100%s %d"


def test_a_fact_cannot_replace_a_key_of_the_line() -> None:
    stream = configured("json")
    facts: dict[str, Any] = {"timestamp": 5, "logger": "x", "level": "y", "exc_info": 1, "method_name": "m"}
    logging.get_logger("flashq").info("a", **facts)
    fields = json.loads(only_line(stream))
    assert (fields["level"], fields["logger"]) == ("info", "flashq")
    assert (fields["level_"], fields["logger_"], fields["timestamp_"]) == ("y", "x", 5)


# Levels and loggers


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_events_below_the_level_are_dropped(level: str, count: int) -> None:
    stream = configured("json", level)
    log = logging.get_logger("flashq")
    for emit in (log.debug, log.info, log.warning, log.error):
        emit("a")
    assert stream.getvalue().count("\n") == count
    assert log.is_enabled_for("debug") is (level == "debug")
    assert log.is_enabled_for("error")


def test_a_disabled_level_renders_no_fact() -> None:
    class Untouchable:
        def __str__(self) -> str:
            raise AssertionError("rendered")

    configured("console", "info")
    logging.get_logger("flashq").debug("a", value=Untouchable())


def test_unknown_levels_and_formats_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="log level 'loud'"):
        logging.configure("json", "loud")
    with pytest.raises(InvalidParameter, match="log format 'xml'"):
        logging.configure("xml")  # type: ignore[arg-type]
    assert logging._output is None


def test_a_logger_made_before_configuring_follows_and_keeps_bound_facts() -> None:
    log = logging.get_logger("flashq.storage").bind(topic="t", offset=1)
    stream = configured("json")
    log.info("a", offset=2)
    fields = json.loads(only_line(stream))
    assert (fields["topic"], fields["offset"]) == ("t", 2)


def test_configuring_again_replaces_the_stream() -> None:
    first = configured("json")
    second = configured("json")
    logging.get_logger("flashq").info("a")
    standard.getLogger("other").warning("b")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 2


def test_a_stream_that_fails_loses_the_line_and_raises_nothing() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    logging.configure("json", "info", Full())
    logging.get_logger("flashq").error("a")
    closed = configured("json")
    closed.close()
    logging.get_logger("flashq").error("a")


def test_threads_never_mix_their_lines() -> None:
    stream = configured("json")
    log = logging.get_logger("flashq")

    def work() -> None:
        for _ in range(50):
            log.info("a", value="x" * 500)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 200
    assert all(json.loads(line)["value"] == "x" * 500 for line in lines)


def test_other_libraries_come_out_as_lines_too_once_configured() -> None:
    stream = configured("json")
    try:
        raise ValueError("a\nb")
    except ValueError:
        standard.getLogger("asyncio").exception("unhandled\nforged %s", "x")
    fields = json.loads(only_line(stream))
    assert (fields["logger"], fields["level"], fields["event"]) == ("asyncio", "error", "unhandled\nforged x")
    assert "ValueError" in fields["exception"]
    standard.getLogger("odd").log(35, "between two levels")
    standard.getLogger("odd").log(99, "above all")
    assert stream.getvalue().count("\n") == 3


# Embedded


def test_without_configuring_events_go_to_the_standard_loggers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(standard.DEBUG, "flashq")
    logging.get_logger("flashq.storage").bind(topic="t").debug("torn\ntail", name="a b", value="x\x1b")
    (record,) = caplog.records
    assert (record.name, record.levelno, record.filename) == ("flashq.storage", standard.DEBUG, "test_logging.py")
    assert record.getMessage() == 'torn\\ntail topic=t name="a b" value="x\\x1b"'
    assert record.funcName.startswith("test_without_configuring")


def test_without_configuring_an_exception_reaches_the_standard_record(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("x")
    try:
        raise error
    except ValueError:
        logging.get_logger("flashq").exception("failed %s")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.getMessage() == "failed %s"


def test_an_embedding_program_is_quiet_below_warnings_and_nothing_is_configured_for_it() -> None:
    program = """
import logging, sys
before = list(logging.getLogger().handlers)
from flashq.logging import get_logger
log = get_logger("flashq.storage")
log.debug("d"); log.info("i"); log.warning("w", topic="t")
assert logging.getLogger().handlers == before
assert not logging.getLogger("flashq").handlers and not logging.getLogger("flashq.storage").handlers
assert logging.getLogger("flashq").level == 0
assert "structlog" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "w topic=t\n")
