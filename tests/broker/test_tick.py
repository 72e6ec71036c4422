"""Posts of one tick share a batch; each keeps its offsets, its order and its own answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flashq.batch import Batch
from flashq.broker.terms import Terms
from flashq.broker.tick import MAX_SHARED_BYTES, MAX_SHARED_RECORDS, Tick
from flashq.errors import FlashQError, StorageFull
from flashq.record import Row
from flashq.storage.interface import Append, TopicConfig, TopicLog
from flashq.storage.memory import InMemoryTopicLog

Answer = tuple[int, FlashQError | None]


class Loop:
    """Calls later what it was asked to call soon."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for call in soon:
            call()

    def rest(self) -> None:
        while self.soon:
            self.turn()


class BrokenLog(InMemoryTopicLog):
    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        raise MemoryError


class FullLog(InMemoryTopicLog):
    def append(self, batch: Batch, *, durable: bool = False, if_next_offset: int | None = None) -> Append:
        raise StorageFull("no room")


@pytest.fixture
def loop() -> Loop:
    return Loop()


Post = tuple[int, list[Answer]]
"""How many records, and the list its answer goes to."""


def answer(log: TopicLog, posts: list[Post], batch: Batch | None, error: FlashQError | None) -> None:
    first = 0
    for count, answers in posts:
        answers.append((-1 if batch is None else batch.base_offset + first, error))
        first += count


@pytest.fixture
def tick(loop: Loop) -> Tick[Post]:
    return Tick(lambda call: loop.soon.append(call), lambda: 1, answer)


def log_named(name: str) -> InMemoryTopicLog:
    return InMemoryTopicLog(name, TopicConfig())


def post(tick: Tick[Post], log: TopicLog, rows: list[Row], size: int, answers: list[Answer]) -> None:
    tick.post(log, rows, size, (len(rows), answers))


def rows(*values: bytes) -> list[Row]:
    return [(None, value, []) for value in values]


def test_posts_of_a_tick_share_a_batch_and_keep_their_order(loop: Loop, tick: Tick[Post]) -> None:
    log, answers = log_named("news"), list[Answer]()
    post(tick, log, rows(b"a", b"b"), 10, answers)
    post(tick, log, rows(b"c"), 10, answers)
    assert log.next_offset == 0
    loop.rest()
    assert answers == [(0, None), (2, None)]
    assert [(batch.base_offset, batch.count) for batch in log.read(0)] == [(0, 3)]


def test_posts_of_another_tick_are_another_batch(loop: Loop, tick: Tick[Post]) -> None:
    log, answers = log_named("news"), list[Answer]()
    for _ in range(2):
        post(tick, log, rows(b"a"), 10, answers)
        loop.rest()
    assert answers == [(0, None), (1, None)]
    assert len(log.read(0)) == 2


def test_a_post_that_came_alone_is_stored_in_the_turn_it_came_in(loop: Loop, tick: Tick[Post]) -> None:
    answers = list[Answer]()
    post(tick, log_named("news"), rows(b"a", b"b"), 10, answers)
    loop.turn()
    assert answers == [(0, None)]


def test_where_several_came_those_of_the_next_turn_share_their_batch_and_no_later_ones(
    loop: Loop, tick: Tick[Post]
) -> None:
    log, answers = log_named("news"), list[Answer]()
    for stored in (0, 4, 4, 8):
        post(tick, log, rows(b"a"), 10, answers)
        post(tick, log, rows(b"b"), 10, answers)
        loop.turn()
        assert log.next_offset == stored
    assert [offset for offset, _ in answers] == list(range(8))
    assert [batch.count for batch in log.read(0)] == [4, 4]


def test_the_second_turn_is_not_owed_to_posts_that_did_not_wait(loop: Loop, tick: Tick[Post]) -> None:
    log, answers = log_named("news"), list[Answer]()
    post(tick, log, rows(b"a"), 10, answers)
    post(tick, log, rows(b"b"), 10, answers)
    loop.turn()
    tick.post_alone(log, rows(b"c"), Terms(), (1, answers))
    post(tick, log, rows(b"d"), 10, answers)
    loop.rest()
    assert answers == [(0, None), (1, None), (2, None), (3, None)]
    assert loop.soon == []


def test_topics_do_not_share(loop: Loop, tick: Tick[Post]) -> None:
    logs, answers = [log_named("a"), log_named("b")], list[Answer]()
    for log in (*logs, *logs):
        post(tick, log, rows(b"x"), 10, answers)
    assert len(loop.soon) == 1
    loop.rest()
    assert [log.next_offset for log in logs] == [2, 2]
    assert sorted(offset for offset, _ in answers) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("count", "size"), [(MAX_SHARED_RECORDS, 10), (1, MAX_SHARED_BYTES)], ids=["many records", "many bytes"]
)
def test_a_large_post_has_a_batch_of_its_own_in_its_place(loop: Loop, tick: Tick[Post], count: int, size: int) -> None:
    log, answers = log_named("news"), list[Answer]()
    post(tick, log, rows(b"before"), 10, answers)
    post(tick, log, rows(*[b"x"] * count), size, answers)
    post(tick, log, rows(b"after"), 10, answers)
    loop.rest()
    assert answers == [(0, None), (1, None), (count + 1, None)]
    assert [batch.count for batch in log.read(0)] == [1, count, 1]


@pytest.mark.parametrize("let_in", [1, MAX_SHARED_RECORDS], ids=["small", "large"])
@pytest.mark.parametrize("is_last_alone", [False, True], ids=["plain", "alone"])
def test_what_an_answer_lets_in_is_stored_once_wherever_it_comes(loop: Loop, let_in: int, is_last_alone: bool) -> None:
    """An answer makes room for its connection's next request, which is handed out at once: a log in memory is done with
    an append, and so answers, before `append` returns."""
    log, told = log_named("news"), list[tuple[int, int]]()  # first offset and number of records
    waiting = [rows(*[b"let in"] * let_in) for _ in range(5)]

    def answer_and_let_in(log: TopicLog, posts: list[int], batch: Batch | None, error: FlashQError | None) -> None:
        assert batch is not None
        first = batch.base_offset
        for count in posts:
            told.append((first, count))
            first += count
            if waiting:
                more = waiting.pop()
                sharing.post(log, more, 10, len(more))

    sharing = Tick[int](lambda call: loop.soon.append(call), lambda: 1, answer_and_let_in)
    for count in (1, 2, MAX_SHARED_RECORDS, 3):
        sharing.post(log, rows(*[b"x"] * count), 10, count)
    if is_last_alone:
        sharing.post_alone(log, rows(b"alone"), Terms(), 1)
    loop.rest()
    assert waiting == []
    assert len(told) == 9 + is_last_alone
    told.sort()
    ends = [first + count for first, count in told]
    assert [first for first, _ in told] == [0, *ends[:-1]]
    assert log.next_offset == ends[-1]


def test_a_post_on_terms_let_in_by_an_answer_follows_all_that_came_before(loop: Loop) -> None:
    log, stored = log_named("news"), list[bytes]()
    waiting = [b"on terms"]

    def answer_and_let_in(log: TopicLog, posts: list[bytes], batch: Batch | None, error: FlashQError | None) -> None:
        stored.extend(posts)
        while waiting:
            sharing.post_alone(log, rows(b"alone"), Terms(), waiting.pop())

    sharing = Tick[bytes](lambda call: loop.soon.append(call), lambda: 1, answer_and_let_in)
    sharing.post(log, rows(b"a"), 10, b"first")
    sharing.post(log, rows(b"b"), MAX_SHARED_BYTES, b"second")
    sharing.post(log, rows(b"c"), 10, b"third")
    loop.rest()
    assert stored == [b"first", b"second", b"third", b"on terms"]
    assert loop.soon == []


def test_a_refusal_reaches_everyone_who_shared_and_nobody_else(loop: Loop, tick: Tick[Post]) -> None:
    full, good = FullLog("full", TopicConfig()), log_named("good")
    refused, stored = list[Answer](), list[Answer]()
    post(tick, full, rows(b"a"), 10, refused)
    post(tick, good, rows(b"b"), 10, stored)
    post(tick, full, rows(b"c"), 10, refused)
    loop.rest()
    assert [type(error) for _, error in refused] == [StorageFull, StorageFull]
    assert stored == [(0, None)]


def test_a_mistake_of_ours_is_answered_as_unknown_and_reaches_no_other_topic(loop: Loop, tick: Tick[Post]) -> None:
    broken, good = BrokenLog("broken", TopicConfig()), log_named("good")
    refused, stored = list[Answer](), list[Answer]()
    post(tick, broken, rows(b"a"), 10, refused)
    post(tick, good, rows(b"b"), 10, stored)
    loop.rest()
    ((_, error),) = refused
    assert error is not None
    assert (error.code, error.outcome) == ("internal_error", "unknown")
    assert stored == [(0, None)]


def test_what_an_answer_that_raises_has_left_is_stored_in_the_next_turn(loop: Loop) -> None:
    logs, told = [log_named("a"), log_named("b")], list[str]()

    def answer(log: TopicLog, posts: list[str], batch: Batch | None, error: FlashQError | None) -> None:
        told.extend(posts)
        if log is logs[0]:
            raise RuntimeError("in a bad way")

    tick = Tick[str](lambda call: loop.soon.append(call), lambda: 1, answer)
    for log, name in zip(logs, ("a", "b"), strict=True):
        tick.post(log, rows(b"x"), 10, name)
    loop.turn()
    with pytest.raises(RuntimeError):
        loop.turn()
    tick.post(logs[1], rows(b"x"), 10, "later")
    loop.rest()
    assert told == ["a", "b", "later"]
    assert loop.soon == []
