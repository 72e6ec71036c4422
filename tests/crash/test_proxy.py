"""What a proxy tampers with between load and server is found by the checker, and called by its name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.crash.case import RUN
from tests.crash.checker import check
from tests.crash.fake_server import fake_command
from tests.crash.history import HistoryFile, read_history
from tests.crash.proxy import (
    Tamper,
    TamperingProxy,
    answer_with_another_timestamp,
    double_a_post,
    drop_a_record,
    flip_a_byte,
    forge_an_acknowledgement,
    forward,
    refuse_what_was_stored,
    swap_two_records,
)
from tests.crash.rounds import load_process, read_back, wait_until_ended
from tests.crash.server_process import ServerProcess, flashq_command
from tests.crash.violations import Broken


@pytest.fixture(
    scope="module",
    params=[fake_command, pytest.param(partial(flashq_command, sync_mode="periodic"), marks=pytest.mark.crash)],
    ids=["fake", "flashq"],
)
def server_port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server for all that the proxies do, a topic each."""
    directory = tmp_path_factory.mktemp("server")
    with ServerProcess(request.param(directory / "data"), directory / "server.log") as server:
        server.start()
        yield server.port


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        (forward, None),
        (forge_an_acknowledgement, Broken.LOST),
        (double_a_post, Broken.DOUBLED),
        (swap_two_records, Broken.MOVED),
        (flip_a_byte, Broken.DAMAGED),
        (drop_a_record, Broken.LOST),
        (answer_with_another_timestamp, Broken.RETIMED),
        (refuse_what_was_stored, Broken.REFUSED_PRESENT),
    ],
    ids=lambda value: getattr(value, "name", None) or getattr(value, "__name__", "clean"),
)
def test_what_a_proxy_tampers_with_between_load_and_server_is_named(
    tamper: Tamper, broken: Broken | None, server_port: int, tmp_path: Path
) -> None:
    topic, path = tamper.__name__, tmp_path / "history.jsonl"
    with HistoryFile(path) as history:
        with TamperingProxy(server_port, tamper) as proxy:
            options = {"port": proxy.port, "topic": topic, "history": path, "run": RUN, "prefix": "", "seed": 5}
            with load_process({**options, "posts": 40, "producers": 2, "plain": True}) as load:
                wait_until_ended(load)
        stored = read_back(server_port, topic, history, random.Random(5))
    recorded = read_history(path)
    found = {violation.broken for violation in check(recorded, stored)}
    assert {post.fate for post in recorded.posts.values()} >= {"acknowledged", "refused"}
    assert proxy.tampered > 0
    assert broken in found if broken else not found
