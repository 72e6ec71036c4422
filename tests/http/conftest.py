"""Both event loops a server may run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest


def uvloop_or_asyncio() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    try:
        import uvloop
    except ImportError:
        return [asyncio.new_event_loop]
    return [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(scope="module", params=uvloop_or_asyncio(), ids=lambda new_loop: new_loop.__module__)
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    chosen: Callable[[], asyncio.AbstractEventLoop] = request.param
    return chosen
