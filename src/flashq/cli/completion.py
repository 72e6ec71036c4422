"""`flashq completion`: the script for a shell; and names of topics and groups, asked of the server."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from flashq.cli.remote import client_of
from flashq.errors import FlashQError

if TYPE_CHECKING:
    from flashq import Client

EPILOG = (
    'Example, for bash, in ~/.bashrc: eval "$(flashq completion bash)"\n\n'
    "Example, for fish: flashq completion fish > ~/.config/fish/completions/flashq.fish"
)

_TIMEOUT_S: Final = 0.25
"""Who presses Tab waits this long at most for a connection, and again for the answer."""

_IMPATIENT: Final = {"timeout_s": _TIMEOUT_S, "connect_timeout_s": _TIMEOUT_S, "retries": 0}

_VARIABLE: Final = "_FLASHQ_COMPLETE"
"""Typer's protocol: with source_SHELL in it, the program prints the script; that runs it with complete_SHELL."""


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Which shell it is for.")]) -> None:
    """Print the script that completes in a shell.

    It completes commands, options, and the names of topics and groups.
    """
    from flashq.cli.main import main

    os.environ[_VARIABLE] = f"source_{shell}"
    raise typer.Exit(main([]))


def prepare() -> None:
    """Where a shell asks, Typer gets to know the shells; else that would only take time."""
    if _VARIABLE in os.environ:
        # Typer has it for its own --install-completion, and does not export it.
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()


def _names(ask: Callable[[Client], list[str]]) -> list[str]:
    """None if the server does not answer, or not in time: whoever presses Tab has not asked for an error."""
    with suppress(FlashQError, OSError), client_of(None, None, **_IMPATIENT) as client:
        return ask(client)
    return []


def topic_names() -> list[str]:
    return _names(lambda client: client.topics())


def group_names() -> list[str]:
    return _names(lambda client: client.consumer_groups())


TopicName = Annotated[str, typer.Argument(metavar="TOPIC", autocompletion=topic_names)]
GroupName = Annotated[str, typer.Argument(metavar="GROUP", autocompletion=group_names)]
