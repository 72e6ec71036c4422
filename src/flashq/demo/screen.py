"""How the tour talks: text, calls of the engine with what they give, tables, and questions.

With nobody at the keyboard questions answer themselves. Whatever a user typed is shown escaped.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flashq.logging import one_line

WIDTH: Final = 100
P = ParamSpec("P")
T = TypeVar("T")

_short = reprlib.Repr()
_short.maxlist = 2
_short.maxstring = _short.maxother = 70


class Left(Exception):
    """The user has had enough."""


class Screen:
    """A terminal, or a file that gets the same without colours. `is_typed`: somebody answers questions."""

    def __init__(self, *, is_typed: bool) -> None:
        console = Console(highlight=False, soft_wrap=False)
        console.width = min(console.width, WIDTH)
        self._console = console
        self._is_typed = is_typed
        if is_typed:
            with suppress(ImportError):
                import readline  # noqa: F401  (input() then has line editing and a history)

    def title(self, text: str) -> None:
        self._console.print()
        self._console.rule(Text(text, style="bold"), align="left", style="dim")
        self._console.print()

    def say(self, text: str) -> None:
        """A paragraph."""
        self._console.print(Text(one_line(text)))
        self._console.print()

    def event(self, text: str, style: str = "") -> None:
        """Something that happened, on a line."""
        self._line(Text(one_line(text), style=style))

    def gap(self) -> None:
        self._console.print()

    def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Shows a call as one would write it, makes it, and gives what it gives: what is seen is what was done."""
        shown = [*map(_short.repr, args), *(f"{name}={_short.repr(value)}" for name, value in kwargs.items())]
        owner = getattr(method, "__self__", None)
        name = "FlashQ" if isinstance(owner, type) else "flashq"
        text = f"{name}.{method.__name__}({', '.join(shown)})"
        self._line(Text.assemble((">>> ", "dim"), (one_line(text), "cyan")))
        return method(*args, **kwargs)

    def result(self, value: object) -> None:
        """What a call gave, as Python shows it."""
        self._line(Text(one_line(_short.repr(value))))
        self._console.print()

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Numbers stand to the right."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
        for column, title in enumerate(titles):
            is_number = bool(rows) and all(isinstance(row[column], int) for row in rows)
            table.add_column(title, justify="right" if is_number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(one_line(str(cell))) for cell in row))
        self._console.print(Padding(table, (1, 0, 1, 2), expand=False))

    def ask(self, question: str, default: str) -> str:
        """What is typed, or the default for an empty line. Raises `Left` at the end of the input."""
        if not self._is_typed:
            return default
        return self._typed(f"{question} [{default}]: ") or default

    def command(self, prompt: str) -> str:
        """A line that is typed at a prompt. Raises `Left` at the end of the input."""
        return self._typed(prompt)

    def pause(self) -> None:
        """Until Enter. Raises `Left` if q is typed, and at the end of the input."""
        if self._is_typed and self._typed("Enter goes on, q leaves: ").strip().lower() in ("q", "quit", "exit"):
            raise Left

    def _typed(self, prompt: str) -> str:
        try:
            return input(prompt)
        except EOFError:
            self._console.print()
            raise Left from None

    def _line(self, text: Text) -> None:
        self._console.print(Padding(text, (0, 0, 0, 2), expand=False))


def rows_of(records: Sequence[Any]) -> list[tuple[object, ...]]:
    """Offset, time and value of records, for a table."""
    return [
        (record.offset, record.timestamp.strftime("%H:%M:%S.%f")[:-3], shown_value(record.value)) for record in records
    ]


def shown_value(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= 60 else text[:57] + "..."
