"""`flashq demo`: the tour of `flashq.demo`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

EPILOG = "Example: flashq demo --quick"


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Ask nothing and go through to the end; so it is without a terminal too.")
    ] = False,
) -> None:
    """Take a tour of the engine, with a real crash.

    Posting, polling, groups and lag; no server. Nothing is left behind.
    """
    from flashq.demo.tour import run  # here, so that --help does not pay for the engine

    run(is_typed=not quick and sys.stdin.isatty())
