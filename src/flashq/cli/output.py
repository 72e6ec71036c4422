"""How commands print: lines of JSON for programs, tables for people.

Results go to standard output, everything else (progress, questions, advice) to standard error. Whatever comes from a
user is escaped: it can neither steer a terminal nor break a line. Colour is for terminals only, and not where NO_COLOR
is set. rich is imported when there is something to animate.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Final, Literal, NamedTuple, TextIO

import typer

from flashq.cli.stdout import named, reader_gone
from flashq.errors import InvalidParameter
from flashq.logging import one_line

_ROWS_AT_ONCE: Final = 256
_PROGRESS_STEP_BYTES: Final = 256 * 1024
_COLOURS: Final[Mapping[str, str]] = {"red": "31", "green": "32", "yellow": "33"}


Colour = Literal["red", "green", "yellow"]


class Coloured(NamedTuple):
    """Text to be shown in a colour where there are colours."""

    text: str
    colour: Colour


Cell = str | int | Coloured | None


def printable(text: str | bytes) -> str:
    """User text on one line, without anything a terminal would obey; bytes that are not UTF-8 as `\\xff`."""
    return one_line(text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text)


def print_json(value: Mapping[str, object]) -> None:
    """One object on one line, in ASCII: safe on a terminal and in any locale."""
    _write(sys.stdout, json.dumps(value, separators=(",", ":")))


def print_line(text: str) -> None:
    _write(sys.stdout, printable(text))


def advise(text: str) -> None:
    """A line that is no result."""
    with _to(sys.stdout):
        sys.stdout.flush()
    _write(sys.stderr, printable(text))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Columns under titles, numbers to the right, the last column unpadded. Long tables come as they are made."""
    widths = [len(title) for title in titles]
    left = iter(rows)
    first = list(islice(left, _ROWS_AT_ONCE))
    _widen(widths, first)
    numeric = [bool(first) and isinstance(cell, int) for cell in (first[0] if first else titles)]
    _write(sys.stdout, _aligned(titles, widths, numeric))
    for chunk in chain([first], iter(lambda: list(islice(left, _ROWS_AT_ONCE)), [])):
        _widen(widths, chunk)
        for row in chunk:
            _write(sys.stdout, _aligned(row, widths, numeric))


def print_fields(fields: Mapping[str, object]) -> None:
    """A name and its value on each line, the values under each other. None is shown as none."""
    width = max(map(len, fields))
    for name, value in fields.items():
        cell = value if isinstance(value, Coloured) else "none" if value is None else str(value)
        _write(sys.stdout, f"{name.ljust(width)}  {_painted(cell)}".rstrip())


def counted(records: int) -> str:
    """1 record, 2 records."""
    return f"{records} record{'' if records == 1 else 's'}"


def span(seconds: int) -> str:
    """A time span in its two largest units: 45s, 3m 20s, 2h 5m, 4d 3h."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    parts = [(day, "d"), (hour, "h"), (minute, "m"), (second, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        del parts[0]
    return " ".join(f"{count}{unit}" for count, unit in parts[:2] if count) or "0s"


def _widen(widths: list[int], rows: Iterable[Sequence[Cell]]) -> None:
    for row in rows:
        widths[:] = [max(width, len(_text(cell))) for width, cell in zip(widths, row, strict=True)]


def _aligned(row: Sequence[Cell], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    cells = []
    for cell, width, is_number in zip(row, widths, numeric, strict=True):
        text = _text(cell)
        padding = " " * (width - len(text))
        cells.append(padding + _painted(cell) if is_number else _painted(cell) + padding)
    return "  ".join(cells).rstrip()


def _text(cell: Cell) -> str:
    if isinstance(cell, Coloured):
        return cell.text
    return "" if cell is None else printable(str(cell))


def _painted(cell: Cell) -> str:
    if isinstance(cell, Coloured) and _has_colours(sys.stdout):
        return f"\x1b[{_COLOURS[cell.colour]}m{cell.text}\x1b[0m"
    return _text(cell)


def _has_colours(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(stream: TextIO, line: str) -> None:
    with _to(stream):
        try:
            stream.write(line + "\n")
        except UnicodeEncodeError:  # a locale without these characters
            stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")


@contextmanager
def _to(stream: TextIO) -> Iterator[None]:
    """Raises `typer.Exit` if whoever read standard output has gone, and OSError that names the stream if it is full."""
    try:
        with named("standard output" if stream is sys.stdout else "standard error"):
            yield
    except BrokenPipeError:
        if stream is sys.stdout:
            raise reader_gone() from None


@contextmanager
def progress(label: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function that takes the bytes just done. On a terminal a bar with rate and time left; else nothing.

    No time left where the total is not known.
    """
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total_bytes)
        pending = 0

        def advance(size: int) -> None:
            nonlocal pending
            pending += size
            if pending >= _PROGRESS_STEP_BYTES:
                bar.advance(task, pending)
                pending = 0

        yield advance
        bar.advance(task, pending)


def is_agreed(question: str, instead: str) -> bool:
    """Asks on the terminal. Raises `InvalidParameter`, with what to give instead, where there is none.

    Ctrl-C is what it is elsewhere, `KeyboardInterrupt`, and it is told that nothing was done. The end of input is a no.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidParameter("nobody is here to ask. Nothing was done", hint=f"add {instead}")
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as abort:  # of either
        print(file=sys.stderr)  # the question has no line end yet
        if isinstance(abort.__context__, EOFError):
            return False
        advise("nothing was done")
        raise KeyboardInterrupt from None


def ask_before(question: str) -> None:
    """Ends the command, with exit code 0, unless the answer is yes. Raises `InvalidParameter` without a terminal."""
    if not is_agreed(question, "--yes"):
        advise("nothing was done")
        raise typer.Exit(0)
