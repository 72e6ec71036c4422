"""The post handler by itself: posts to a topic that is being created keep their order, and each has its own answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from flashq.broker.flashq import FlashQ
from flashq.errors import StorageFull
from flashq.http.answers import encode_whole
from flashq.http.handlers import posts
from flashq.http.handlers.posts import PostHandler
from flashq.http.head import Head
from flashq.http.message import Deferred, Peer, Request, Response
from flashq.storage.memory import InMemoryBackend


class OneStepAtATime(Executor):
    """Runs what it was given when told to, and tells whoever waits for it only later, as a thread may."""

    def __init__(self) -> None:
        self._work: Callable[[], Any] = lambda: None
        self._future: Future[Any] = Future()

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        self._work = lambda: work(*arguments, **options)
        self._future = Future()
        return self._future

    def work(self) -> Any:
        return self._work()

    def tell(self, result: Any) -> None:
        if isinstance(result, BaseException):
            self._future.set_exception(result)
        else:
            self._future.set_result(result)


def post_of(value: str) -> Request:
    fields = {b"host": b"localhost", b"content-type": b"application/json"}
    head = Head("POST", "/topics/t/records", list(fields.items()), fields, True)
    return Request(head, json.dumps({"records": [{"value": value}]}).encode(), Peer(None, "http"))


def post(handlers: PostHandler, value: str) -> Deferred:
    """Of a connection that has asked nothing before: it is this one's turn."""
    answer = post_in_line(handlers, value)
    answer.take_turn()
    return answer


def post_in_line(handlers: PostHandler, value: str) -> Deferred:
    request = post_of(value)
    return handlers.prepare(request.head, "t")(request)


async def turns_of_the_loop() -> None:
    """The creation is told in one turn, the posts are stored at the end of the next, and answered in a third."""
    for _ in range(4):
        await asyncio.sleep(0)


def offset_in(answer: Response | Deferred) -> int:
    response = answer.response if isinstance(answer, Deferred) else answer
    assert response is not None
    assert response.status == 200
    head, _, body = encode_whole(response).partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: %d" % len(body) in head
    offset: int = json.loads(body)["offsets"][0]["offset"]
    return offset


def test_a_post_whose_turn_comes_while_others_make_its_topic_or_have_made_it_follows_theirs() -> None:
    async def scenario() -> None:
        executor = OneStepAtATime()
        handlers = PostHandler(FlashQ(), asyncio.get_running_loop(), executor)
        early, late = post_in_line(handlers, "early"), post_in_line(handlers, "late")
        assert early.alone
        assert late.alone
        first = post(handlers, "first")
        early.take_turn()
        executor.tell(executor.work())
        await turns_of_the_loop()
        assert [offset_in(answer) for answer in (first, early)] == [0, 1]
        assert late.response is None
        late.take_turn()
        await turns_of_the_loop()
        assert offset_in(late) == 2

    asyncio.run(scenario())


def test_a_post_that_comes_after_the_topic_is_there_and_before_that_is_known_follows_those_that_wait() -> None:
    async def scenario() -> None:
        executor = OneStepAtATime()
        handlers = PostHandler(FlashQ(), asyncio.get_running_loop(), executor)
        answers = [post(handlers, "0"), post(handlers, "1")]
        log = executor.work()
        answers.append(post(handlers, "2"))
        executor.tell(log)
        answers.append(post(handlers, "3"))
        await asyncio.sleep(0)
        answers.append(post(handlers, "4"))
        await turns_of_the_loop()
        assert [offset_in(answer) for answer in answers] == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_a_post_let_in_by_the_first_answer_follows_those_that_wait() -> None:
    async def scenario() -> None:
        executor = OneStepAtATime()
        handlers = PostHandler(FlashQ(), asyncio.get_running_loop(), executor)
        answers = [post(handlers, "0"), post(handlers, "1")]
        first = answers[0]
        assert isinstance(first, Deferred)
        first.on_ready = lambda _: answers.append(post(handlers, "2"))
        executor.tell(executor.work())
        await turns_of_the_loop()
        assert [offset_in(answer) for answer in answers] == [0, 1, 2]

    asyncio.run(scenario())


def test_posts_to_a_topic_that_cannot_be_created_are_refused_and_the_next_one_tries_again() -> None:
    async def scenario() -> None:
        executor = OneStepAtATime()
        flashq = FlashQ(InMemoryBackend())
        handlers = PostHandler(flashq, asyncio.get_running_loop(), executor)
        answers = [post(handlers, "0"), post(handlers, "1")]
        executor.tell(StorageFull("no room"))
        await asyncio.sleep(0)
        for answer in answers:
            assert isinstance(answer, Deferred)
            assert answer.response is not None
            assert answer.response.status == 507
            assert json.loads(answer.response.body)["details"]["outcome"] == "not_applied"
        assert flashq.topics() == []
        again = post(handlers, "2")
        executor.tell(executor.work())
        await turns_of_the_loop()
        assert offset_in(again) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("first", [0, 5, 9, 10, 95])
def test_posts_that_share_a_batch_are_each_answered_with_their_offset(first: int) -> None:
    async def scenario() -> None:
        flashq = FlashQ()
        flashq.create_topic("t")
        for _ in range(first):
            flashq.post_record("t", "before")
        handlers = PostHandler(flashq, asyncio.get_running_loop(), OneStepAtATime())
        answers = [post(handlers, str(number)) for number in range(8)]
        await turns_of_the_loop()
        assert [offset_in(answer) for answer in answers] == list(range(first, first + 8))

    asyncio.run(scenario())


@pytest.mark.parametrize("first", [0, 11, 123])
def test_a_post_that_shares_its_batch_is_answered_as_one_that_is_alone(first: int) -> None:
    """Byte for byte, but for the offset: of two batches, with times of their own."""

    async def scenario() -> None:
        now = 1_768_473_045_123
        flashq = FlashQ(clock_ms=lambda: now)
        flashq.create_topic("t")
        for _ in range(first):
            flashq.post_record("t", "before")
        handlers = PostHandler(flashq, asyncio.get_running_loop(), OneStepAtATime())
        for _ in range(2):
            now += 12_345
            alone = post(handlers, "alone")
            await turns_of_the_loop()
            answers = [post(handlers, str(number)) for number in range(8)]
            await turns_of_the_loop()
            offset = b'"offset":%d,' % offset_in(alone)
            assert alone.response is not None
            for number, answer in enumerate(answers, offset_in(alone) + 1):
                assert answer.response is not None
                expected = encode_whole(alone.response).replace(offset, b'"offset":%d,' % number)
                grown = len(str(number)) - len(str(offset_in(alone)))
                length = len(alone.response.body)
                expected = expected.replace(b"length: %d\r" % length, b"length: %d\r" % (length + grown))
                assert encode_whole(answer.response) == expected

    asyncio.run(scenario())


def test_an_answer_that_fails_does_not_keep_the_others_from_theirs() -> None:
    def fail(_: Deferred) -> None:
        raise RuntimeError("the connection is in a bad way")

    async def scenario() -> None:
        flashq = FlashQ()
        flashq.create_topic("t")
        handlers = PostHandler(flashq, asyncio.get_running_loop(), OneStepAtATime())
        answers = [post(handlers, value) for value in ("0", "1")]
        assert isinstance(answers[0], Deferred)
        answers[0].on_ready = fail
        await turns_of_the_loop()
        assert [offset_in(answer) for answer in answers] == [0, 1]

    asyncio.run(scenario())


@pytest.mark.parametrize(("part", "count"), [("stamp_of", 2), ("posted_body", 2), ("_around_offset", 5)])
def test_posts_whose_answers_cannot_be_made_are_answered_all_the_same(
    part: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError

    async def scenario() -> None:
        flashq = FlashQ()
        flashq.create_topic("t")
        handlers = PostHandler(flashq, asyncio.get_running_loop(), OneStepAtATime())
        monkeypatch.setattr(posts, part, fail)
        answers = [post(handlers, str(value)) for value in range(count)]
        await turns_of_the_loop()
        assert flashq.high_water_mark("t") == count
        for answer in answers:
            assert answer.response is not None
            assert answer.response.status == 500
            assert json.loads(answer.response.body)["details"]["outcome"] == "unknown"

    asyncio.run(scenario())


class TooBusy(OneStepAtATime):
    """Cannot take the first thing it is given: there is no thread for it."""

    def __init__(self) -> None:
        super().__init__()
        self._refuses = True

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        if self._refuses:
            self._refuses = False
            raise RuntimeError("can't start new thread")
        return super().submit(work, *arguments, **options)


def test_a_post_to_a_new_topic_for_which_there_is_no_thread_does_not_keep_the_next_one_waiting() -> None:
    async def scenario() -> None:
        executor = TooBusy()
        handlers = PostHandler(FlashQ(), asyncio.get_running_loop(), executor)
        refused = post(handlers, "0").response
        assert refused is not None
        assert refused.status == 500
        again = post(handlers, "1")
        executor.tell(executor.work())
        await turns_of_the_loop()
        assert offset_in(again) == 0

    asyncio.run(scenario())


def test_posts_to_a_topic_whose_creation_fails_in_an_unexpected_way_are_told_and_the_next_one_tries_again() -> None:
    async def scenario() -> None:
        executor = OneStepAtATime()
        handlers = PostHandler(FlashQ(), asyncio.get_running_loop(), executor)
        answers = [post(handlers, "0"), post(handlers, "1")]
        executor.tell(MemoryError())
        await turns_of_the_loop()
        for answer in answers:
            assert answer.response is not None
            assert json.loads(answer.response.body)["details"]["outcome"] == "unknown"
        again = post(handlers, "2")
        executor.tell(executor.work())
        await turns_of_the_loop()
        assert offset_in(again) == 0

    asyncio.run(scenario())
