"""Bytes out of the program: standard output, for whoever reads along, and errors that name the file they are about."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import BinaryIO

import typer

from flashq.cli import exit_codes
from flashq.errors import FlashQError


@contextmanager
def bytes_out() -> Iterator[BinaryIO]:
    """Standard output. A reader that goes away (`| head`) ends the command well: it has what it wanted."""
    try:
        with named("standard output"):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        _forget_the_rest()
        raise typer.Exit(exit_codes.OK) from None
    except OSError as error:
        if not isinstance(error, FlashQError):
            _forget_the_rest()
        raise


def _forget_the_rest() -> None:
    """Python flushes once more when it exits, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def interrupt_held() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt` at the end of the block; a second one at once, should the block hang.

    For the main thread. What is written and what is noted about it stay together so.
    """
    is_interrupted = False
    usual = signal.getsignal(signal.SIGINT)

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if is_interrupted:
        raise KeyboardInterrupt


@contextmanager
def named(name: str) -> Iterator[None]:
    """An error of the system that names no file, such as a full disk, is about this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and not isinstance(error, FlashQError):
            error.filename = name
        raise
