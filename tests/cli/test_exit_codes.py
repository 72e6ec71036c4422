"""Every error has an exit code, and the documentation tells the same codes."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from flashq import errors
from flashq.cli import exit_codes, sources
from flashq.cli.exit_codes import EXIT_CODES, exit_code
from flashq.client import errors as client_errors
from flashq.errors import FlashQError

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def family(root: type[FlashQError] = FlashQError) -> list[type[FlashQError]]:
    return [root, *(found for child in root.__subclasses__() for found in family(child))]


def test_every_error_of_the_family_has_a_row_and_every_row_an_error() -> None:
    modules = {errors.__name__, client_errors.__name__, sources.__name__}
    assert {kind.code for kind in family() if kind.__module__ in modules} == set(EXIT_CODES)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.FlashQError("x"), 1),
        (errors.ConfigurationError("x"), 2),
        (errors.InvalidParameter("x"), 2),
        (errors.DirectoryLocked("x"), 3),
        (errors.UnsupportedFormat("x"), 4),
        (errors.DataCorruption("x"), 4),
        (errors.StorageFull("x"), 5),
        (errors.StorageFailed("x"), 5),
        (client_errors.ConnectionFailed("x"), 7),
        (client_errors.Unauthorized("x"), 7),
        (client_errors.TooManyConnections("x"), 7),
        (client_errors.BodyTooLarge("x"), 2),
        (sources.RecordRefused(3, "x"), 8),
        (OSError(errno.EADDRINUSE, "x"), 6),
        (OSError(errno.EADDRNOTAVAIL, "x"), 6),
        (socket.gaierror(-2, "Name or service not known"), 6),
        (PermissionError(errno.EACCES, "x"), 6),
        (PermissionError(errno.EACCES, "x", "/data"), 5),
        (FileNotFoundError(errno.ENOENT, "x", "/data"), 5),
        (OSError(errno.EINVAL, "x"), 1),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1),
    ],
)
def test_an_error_maps_to_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_the_documentation_and_the_module_tell_the_same_codes() -> None:
    told = [line for line in str(exit_codes.__doc__).splitlines() if line.startswith("| ")]
    assert len(told) == 12
    assert "\n".join(told[1:]) in DOCS.read_text(encoding="utf-8")
    values = {value for value in vars(exit_codes).values() if isinstance(value, int)}
    assert {int(line.split("|")[1]) for line in told[1:]} == values
