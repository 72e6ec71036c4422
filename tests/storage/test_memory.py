"""Logs in memory whose appends wake whoever waits: on the loop, never inside the append."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flashq.batch import Batch, encode, hash_of_key
from flashq.storage.interface import TopicConfig, TopicLog
from flashq.storage.memory import InMemoryBackend


def a_batch(key: bytes) -> Batch:
    return encode([(None, b"v", [])], 1, hash_of_key(key))


def driven() -> TopicLog:
    """A log that was there before the loop of the caller drives its backend."""
    backend = InMemoryBackend()
    log, _ = backend.create_topic("t", TopicConfig())
    backend.drive_from_loop(asyncio.get_running_loop())
    return log


@pytest.mark.timeout(10)
def test_whoever_an_append_with_a_key_wakes_may_append_with_a_key() -> None:
    async def scenario() -> None:
        log, woken = driven(), asyncio.Event()

        def append_once_more() -> None:
            log.on_advance = woken.set
            log.append_once(a_batch(b"second"))

        log.on_advance = append_once_more
        log.append_once(a_batch(b"first"))
        assert log.next_offset == 1
        await asyncio.wait_for(woken.wait(), 5)
        assert [batch.key_hash for batch in log.read(0)] == [hash_of_key(b"first"), hash_of_key(b"second")]

    asyncio.run(scenario())


def test_an_append_on_another_thread_wakes_on_the_loop() -> None:
    async def scenario() -> None:
        log, told, woken = driven(), list[int](), asyncio.Event()

        def note() -> None:
            told.append(threading.get_ident())
            woken.set()

        log.on_advance = note
        await asyncio.to_thread(log.append_once, a_batch(b"key"))
        await asyncio.wait_for(woken.wait(), 5)
        assert told == [threading.get_ident()]

    asyncio.run(scenario())


def test_an_append_after_the_loop_has_closed_is_done() -> None:
    async def scenario() -> TopicLog:
        return driven()

    log = asyncio.run(scenario())
    log.on_advance = lambda: None
    assert log.append(a_batch(b"key")).done


def test_without_a_loop_an_append_wakes_before_it_returns() -> None:
    log, _ = InMemoryBackend().create_topic("t", TopicConfig())
    seen = list[int]()
    log.on_advance = lambda: seen.append(log.high_water_mark)
    log.append(a_batch(b"key"))
    assert seen == [1]
