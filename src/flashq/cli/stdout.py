"""Bytes out of the program: standard output, for whoever reads along, and errors that name the file they are about."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import typer

from flashq.cli import exit_codes
from flashq.errors import FlashQError


class Out(Protocol):
    """What bytes go to: a file, or standard output."""

    def write(self, data: bytes, /) -> object:
        """All of it, before this returns."""


class _StandardOutput:
    """Without Python's buffer: what is not written yet when a command ends would be tried once more at its exit."""

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:  # a signal can end a call in the middle
            left = left[os.write(sys.stdout.fileno(), left) :]


@contextmanager
def bytes_out() -> Iterator[Out]:
    """Standard output. A reader that goes away (`| head`) ends the command well: it has what it wanted."""
    try:
        with named("standard output"):
            yield _StandardOutput()
    except BrokenPipeError:
        raise typer.Exit(exit_codes.OK) from None


def finish() -> None:
    """Flush what was printed. Whoever read along may have gone: then there is nothing to complain of.

    Raises OSError, about standard output, when that takes no more, as on a full disk. Afterwards nothing is left that
    the interpreter would try to write again at its exit.
    """
    try:
        with named("standard output"):
            sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError:
        _discard()
        raise


def reader_gone() -> typer.Exit:
    """What ends a command well whose reader has gone."""
    _discard()
    return typer.Exit(exit_codes.OK)


def _discard() -> None:
    """What is in the buffer of standard output goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    sys.stdout.flush()


@contextmanager
def interrupt_held() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt` at the end of the block; a second one at once, should the block hang.

    For the main thread. What is written and what is noted about it stay together: the first Ctrl-C, while a full pipe
    blocks the block, waits for the reader of the pipe.
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
