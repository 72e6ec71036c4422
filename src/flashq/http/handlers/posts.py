"""`POST /topics/{topic}/records`. Runs on the event loop and never waits for the disk."""

from __future__ import annotations

import re
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache

import msgspec

from flashq.api.errors import RequestError
from flashq.api.queries import PostQuery, parse_query
from flashq.api.records import lines_body, posted_body, stamp_of, to_rows
from flashq.api.schemas import decode_post, line_decoder
from flashq.batch import Batch
from flashq.broker.flashq import FlashQ
from flashq.broker.terms import Terms, append_on, check_terms, hash_idempotency_key
from flashq.broker.tick import Tick
from flashq.errors import FlashQError, InvalidParameter, StorageFailed
from flashq.http.answers import encode_whole
from flashq.http.handlers.blocking import as_flashq_error, mistaken
from flashq.http.handlers.bodies import NDJSON, content_type, read_json, read_lines
from flashq.http.head import Head
from flashq.http.message import JSON, Deferred, Fields, Request, Response
from flashq.http.router import error_response
from flashq.logging import get_logger
from flashq.metrics import Volume
from flashq.names import check_name
from flashq.record import Row
from flashq.storage.interface import Append, TopicLog

logger = get_logger(__name__)

_IDEMPOTENCY_KEY = b"idempotency-key"
_IF_NEXT_OFFSET = b"if-next-offset"
_OFFSET = re.compile(rb"[0-9]{1,19}")
_MAX_OFFSET = (1 << 63) - 1
_SEVERAL = 4
"""Posts in a batch, for what their answers share to be worth making."""


class PostHandler:
    """Posts to one FlashQ, counted in `posted`. `executor` runs what may block on the disk: creating a topic, looking
    for a key."""

    def __init__(
        self, flashq: FlashQ, loop: AbstractEventLoop, executor: Executor, posted: Volume | None = None
    ) -> None:
        self._flashq = flashq
        self._posted = posted or Volume()
        self._loop = loop
        self._executor = executor
        self._tick = Tick(loop.call_soon, flashq.clock_ms, self._answer_all, flashq.backend.together())
        self._held: dict[str, list[_Post]] = {}  # posts to topics that are being made, or their keys loaded
        is_remote = flashq.backend.is_remote
        self._durability = {
            kind: ((b"x-flashq-durability", kind.encode()),) for kind in ("fsynced", "written", "memory", "replicated")
        }
        self._durable = self._durability["replicated" if is_remote else "fsynced"]

    def prepare(self, head: Head, topic: str) -> Callable[[Request], Deferred]:
        """What stores all records of a body or none, for the requests that have this head."""
        has_terms = bool(head.query) or _IDEMPOTENCY_KEY in head.fields or _IF_NEXT_OFFSET in head.fields
        if has_terms or head.fields.get(b"content-type") != JSON:
            return lambda request: self._post_other(request, topic, has_terms)
        backend, held, tick = self._flashq.backend, self._held, self._tick

        def post_records(request: Request) -> Deferred:
            try:
                records = decode_post(request.body).records
            except (msgspec.MsgspecError, UnicodeDecodeError):
                records = read_json(request, decode_post).records  # which tells what is wrong with it
            rows = to_rows(records)
            post = _Post(request, rows, posted_body, None)
            log = backend.topics.get(topic)  # a mapping that some backends replace
            if log is None or (held and topic in held):
                self._wait_for_topic(post, topic)
            else:
                tick.post(log, rows, len(request.body), post)
            return post

        return post_records

    def _post_other(self, request: Request, topic: str, has_terms: bool) -> Deferred:
        """A post of lines, on terms, or whose content type has parameters or is none of ours."""
        rows, body = _read(request)
        terms = self._terms(request) if has_terms else None
        post = _Post(request, rows, body, terms)
        log = self._flashq.backend.topics.get(topic)
        if log is None or topic in self._held:
            self._wait_for_topic(post, topic)
        else:
            self._store(post, log)
        return post

    def _store(self, post: _Post, log: TopicLog) -> None:
        if post.terms is None:
            self._tick.post(log, post.rows, len(post.request.body), post)
        else:
            self._store_on_terms(post, log, post.terms)

    def _terms(self, request: Request) -> Terms:
        durable = parse_query(request.query, PostQuery).sync is not None
        key, offset = request.header(_IDEMPOTENCY_KEY), request.header(_IF_NEXT_OFFSET)
        key_hash = None if key is None else hash_idempotency_key(key.decode("latin-1"), "Idempotency-Key")
        terms = Terms(durable, None if offset is None else _offset_in(offset), key_hash)
        check_terms(terms, self._flashq.backend, {"durable": "sync=always", "if_next_offset": "If-Next-Offset"})
        return terms

    def _store_on_terms(self, post: _Post, log: TopicLog, terms: Terms) -> None:
        """With a key: on the loop if that needs no disk. Else posts that follow wait for the keys; a repetition
        stores nothing, so they need not wait for that. Of a remote log it is asked each time, and nobody waits."""
        if terms.key_hash is not None and self._flashq.backend.is_remote:
            self._executor.submit(self._append_once, post, log, terms)
        elif terms.key_hash is not None and not log.keys_loaded:
            self._hold(post, log.name)
        elif terms.key_hash is not None and log.holds_key(terms.key_hash):
            self._executor.submit(self._append_once, post, log, terms)
        else:
            self._tick.post_alone(log, post.rows, terms, post)

    def _append_once(self, post: _Post, log: TopicLog, terms: Terms) -> None:
        """In the executor: compare with what is stored; the answer is the loop's to give."""

        def done(append: Append) -> None:
            self._loop.call_soon_threadsafe(self._answer_all, log, [post], append.batch, append.error)

        try:
            append_on(terms, log, post.rows, self._flashq.clock_ms()).add_done_callback(done)
        except Exception as error:
            self._loop.call_soon_threadsafe(self._answer_all, log, [post], None, as_flashq_error(error))

    def _answer_all(self, log: TopicLog, posts: list[_Post], batch: Batch | None, error: FlashQError | None) -> None:
        """Answer the posts of a batch, in the order of their records."""
        if batch is None or error is not None:
            assert error is not None
            self._refuse_all(posts, error)
            return
        try:
            self._answer_stored(log, posts, batch)
        except Exception as mistake:
            self._refuse_all(posts, mistaken(mistake))

    def _answer_stored(self, log: TopicLog, posts: list[_Post], batch: Batch) -> None:
        terms = posts[0].terms  # a post with terms is alone in its batch
        durability = self._durable if terms is not None and terms.durable else self._durability[log.durability]
        stamp, offset, size = stamp_of(batch.timestamp_ms), batch.base_offset, 0
        before = after = b""
        give = _Post.send
        if len(posts) >= _SEVERAL:
            before, after = _around_offset(batch, stamp, durability)
            if _count_together(posts):
                give = _Post.send_counted
        for post in posts:
            count = len(post.rows)
            size += len(post.request.body)
            try:
                if count == 1 and before and post.body is posted_body:
                    answer = Response(200, whole=b"%b%d%b" % (before, offset, after))
                else:
                    answer = Response(200, post.body(offset, count, stamp), JSON, durability)
                give(post, answer)
            except Exception as mistake:  # must not keep the others from their answers
                self._refuse_all([post], mistaken(mistake))
            offset += count
        self._posted.add(batch.count, size)

    def _refuse_all(self, posts: list[_Post], error: FlashQError) -> None:
        """Tell of an error those that have no answer yet."""
        for post in posts:
            try:
                if post.response is None:
                    post.send(error_response(error, post.request))
            except Exception as mistake:
                logger.error("internal_error", exc_info=mistake)

    # -- posts that wait until their topic is ready, and those that follow

    def _wait_for_topic(self, post: _Post, topic: str) -> None:
        if topic in self._held:
            self._held[topic].append(post)
            return
        check_name("topic", topic)
        if post.terms is not None:
            self._flashq.check_new(topic, post.terms)
        post.alone, post.on_turn = True, lambda: self._make_topic(post, topic)

    def _make_topic(self, post: _Post, topic: str) -> None:
        """Its turn has come: have its topic made, unless another connection has meanwhile."""
        try:
            log = self._flashq.backend.topics.get(topic)
            if topic in self._held:
                self._held[topic].append(post)
            elif log is None:
                self._hold(post, topic)
            else:
                self._store(post, log)
        except Exception as error:  # on the connection's way, which must not end by it
            self._refuse_all([post], as_flashq_error(error))

    def _hold(self, post: _Post, topic: str) -> None:
        """Get the topic ready off the loop, then post. Posts that come meanwhile follow in the order they came."""
        ready = self._executor.submit(self._make_ready, topic)
        self._held[topic] = [post]  # once that is under way: had it raised, nobody would release them
        ready.add_done_callback(lambda ready: self._loop.call_soon_threadsafe(self._release, topic, ready))

    def _make_ready(self, topic: str) -> TopicLog:
        log = self._flashq.log_or_new(topic)
        log.load_keys()
        return log

    def _release(self, topic: str, ready: Future[TopicLog]) -> None:
        try:
            for post in self._held[topic]:  # grows if an answer lets in the next post of a client
                try:
                    self._store(post, self._log_for(post, topic, ready))
                except Exception as error:  # must not keep the others from their answers
                    self._refuse_all([post], as_flashq_error(error))
        finally:
            del self._held[topic]

    def _log_for(self, post: _Post, topic: str, ready: Future[TopicLog]) -> TopicLog:
        """The log that is ready. If its keys cannot be loaded, it still takes posts without."""
        is_keyed = post.terms is not None and post.terms.key_hash is not None
        log = None if is_keyed else self._flashq.backend.topics.get(topic)
        if log is not None and ready.exception() is not None:
            return log
        try:
            return ready.result()
        except OSError as error:
            if isinstance(error, FlashQError):
                raise
            raise StorageFailed(f"the topic cannot be opened: {error.strerror or error}. Nothing was stored") from error


class _Post(Deferred, eq=False):
    """The answer to one request: its records, how it is written, what the request asks for beyond being stored."""

    request: Request
    rows: list[Row]
    body: Callable[[int, int, bytes], bytes]
    terms: Terms | None


def _count_together(posts: list[_Post]) -> bool:
    """Count the answers to posts; False where it is for each of them to do so."""
    counts = posts[0].counts  # they are all of one operation
    if counts is not None:
        counts.answered_together([post.since for post in posts], 200)
    return counts is not None


def _around_offset(batch: Batch, stamp: bytes, headers: Fields) -> tuple[bytes, bytes]:
    """What stands before and after the offset in the whole answer to a post of one record, for all such posts of a
    batch; both empty where its offsets, and the next one, are not all of one length."""
    digits = len(str(batch.base_offset))
    if digits != len(str(batch.next_offset)):
        return b"", b""
    before, end = _around_number(digits, len(stamp), headers)
    return before, stamp + end


@cache
def _around_number(digits: int, stamp_bytes: int, headers: Fields) -> tuple[bytes, bytes]:
    """The whole answer up to an offset of so many digits, and from behind its stamp of so many bytes."""
    body = posted_body(10**digits - 1, 1, bytes(stamp_bytes))
    before, name, rest = encode_whole(Response(200, body, JSON, headers)).partition(b'"offset":')
    return before + name, rest[digits + stamp_bytes :]


def _read(request: Request) -> tuple[list[Row], Callable[[int, int, bytes], bytes]]:
    """The records of the body, and what writes the answer."""
    kind = content_type(request)
    if kind == NDJSON:
        return to_rows(read_lines(request, line_decoder)), lines_body
    if kind != JSON:
        raise RequestError(
            "unsupported_media_type", "posting needs Content-Type: application/json or application/x-ndjson"
        )
    return to_rows(read_json(request, decode_post).records), posted_body


def _offset_in(field: bytes) -> int:
    if not _OFFSET.fullmatch(field) or int(field) > _MAX_OFFSET:
        raise InvalidParameter(
            f"If-Next-Offset is {field[:40].decode('latin-1')!r}; it must be a whole number, 0 or more",
            parameter="If-Next-Offset",
        )
    return int(field)
