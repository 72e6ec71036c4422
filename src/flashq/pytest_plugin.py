"""Fixtures for the tests of programs that use FlashQ: docs/testing.md shows each of them.

pytest imports this in every run where FlashQ is installed, so nothing heavy is imported before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flashq.broker.flashq import FlashQ
    from flashq.testing.clock import Clock
    from flashq.testing.faults import Faults
    from flashq.testing.server import Server


@pytest.fixture
def flashq_clock() -> Clock:
    """A clock that stands still until `advance(seconds)`: `flashq` and `flashq_faults` stamp records with `now_ms`."""
    from flashq.testing.clock import Clock

    return Clock()


@pytest.fixture
def flashq(flashq_clock: Clock) -> Iterator[FlashQ]:
    """A FlashQ in memory, empty and of this test alone."""
    from flashq import FlashQ

    with FlashQ(clock_ms=lambda: flashq_clock.now_ms) as flashq:
        yield flashq


@pytest.fixture
def flashq_faults(flashq_clock: Clock, tmp_path: Path) -> Iterator[Faults]:
    """`.flashq` on files, and what can go wrong: `fail_next_fsync()`, `disk_full()`, `make_room()`, `crash()`."""
    from flashq.testing.faults import Faults

    with Faults(tmp_path / "flashq-faults", clock_ms=lambda: flashq_clock.now_ms) as faults:
        yield faults


@pytest.fixture
def flashq_server(tmp_path: Path) -> Iterator[Server]:
    """A real server in a process of its own, on a free port: its `.url`, and `.client()` for a `flashq.Client`."""
    from flashq.testing.server import Server

    with Server(tmp_path / "flashq-server") as server:
        yield server
