"""What a post promises on every backend: offsets, order, what is refused, and when it is done."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from flashq import FlashQ, Record
from flashq.batch import encode
from flashq.errors import ValidationError
from flashq.record import MAX_VALUE_BYTES, Postable
from flashq.storage.interface import Append
from tests.contract.conftest import Clock, rows


def test_offsets_begin_at_zero_and_are_dense_across_posts_of_any_size(flashq: FlashQ) -> None:
    assert flashq.post_record("t", "a") == 0
    assert flashq.post_records("t", ["b", "c", "d"]) == [1, 2, 3]
    assert flashq.post_records("t", [Record("e")]) == [4]
    assert flashq.high_water_mark("t") == 5
    assert [(record.offset, record.text) for record in flashq.poll_records("t")] == list(enumerate("abcde"))


def test_topics_number_their_records_each_for_itself(flashq: FlashQ) -> None:
    assert [flashq.post_record(topic, "x") for topic in ("a", "b", "a", "b")] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "record",
    [
        Record(b""),
        Record("", key="", headers={"": ""}),
        Record("v", key=None, headers=None),
        Record(bytes(range(256)), key=bytes(range(255, -1, -1)), headers={"h": b"\x00\xff", "empty": b""}),
        Record("Grüße, 世界 👋", key="ключ", headers={"заголовок": "значение", "emoji 🎈": "✓"}),
        Record("x" * 5000, key="k" * 3000, headers={f"h{number}": "v" * 50 for number in range(40)}),
        Record("\n\x00\r"),
    ],
    ids=["empty", "all-empty", "none", "binary", "unicode", "large", "control"],
)
def test_a_record_reads_back_as_it_was_posted(flashq: FlashQ, record: Record, clock: Clock) -> None:
    flashq.post_records("t", ["before", record, "after"])
    found = flashq.poll_records("t", from_offset=1)[0]
    assert (found.value, found.key, found.headers) == (record.value, record.key, record.headers)
    assert (found.offset, found.timestamp_ms) == (1, clock.ms)


def test_what_was_polled_can_be_posted(flashq: FlashQ) -> None:
    flashq.post_record("t", Record("v", key="k", headers={"h": "x"}))
    flashq.post_records("copy", flashq.poll_records("t"))
    found = flashq.poll_records("copy")[0]
    assert (found.value, found.key, found.headers) == (b"v", b"k", {"h": b"x"})


@pytest.mark.parametrize(
    "post",
    [
        [],
        ["good", None],
        ["good", 7],
        [b"good", {"value": "x"}],
        ["good", "\ud800"],
        "text",
        b"bytes",
        [b"x" * (MAX_VALUE_BYTES + 1)],
    ],
    ids=["empty", "none", "number", "dict", "surrogate", "text", "bytes", "too-large"],
)
def test_a_post_with_a_bad_record_stores_nothing(flashq: FlashQ, post: list[Postable]) -> None:
    flashq.post_record("t", "first")
    with pytest.raises(ValidationError) as refused:
        flashq.post_records("t", post)
    assert refused.value.outcome == "not_applied"
    assert flashq.high_water_mark("t") == 1
    assert flashq.post_record("t", "second") == 1


def test_a_value_over_64_mib_is_refused_whatever_type_it_comes_as(flashq: FlashQ) -> None:
    large = b"x" * (MAX_VALUE_BYTES + 1)
    flashq.create_topic("t")
    for make in (lambda: flashq.post_record("t", large), lambda: Record(large), lambda: Record(large.decode())):
        with pytest.raises(ValidationError) as refused:
            make()
        assert refused.value.details["max_size"] == MAX_VALUE_BYTES
        assert refused.value.details["actual_size"] == MAX_VALUE_BYTES + 1
    assert flashq.high_water_mark("t") == 0


def test_a_value_of_64_mib_is_stored(flashq: FlashQ) -> None:
    flashq.create_topic("t", segment_bytes=2 * MAX_VALUE_BYTES)  # Kafka's segments must hold it
    value = random.Random(0).randbytes(1024) * (MAX_VALUE_BYTES // 1024)
    assert flashq.post_records("t", [value, "small"]) == [0, 1]
    found = flashq.poll_records("t")
    assert found[0].value == value
    assert found[1].text == "small"


@pytest.mark.parametrize(
    ("post", "complaint"),
    [
        (lambda: Record(7), "value"),  # type: ignore[arg-type]
        (lambda: Record("v", key=7), "key"),  # type: ignore[arg-type]
        (lambda: Record("v", headers=[("a", "b")]), "headers"),  # type: ignore[arg-type]
        (lambda: Record("v", headers={7: "b"}), "header name"),  # type: ignore[dict-item]
        (lambda: Record("v", headers={"h": None}), "header 'h'"),  # type: ignore[dict-item]
        (lambda: Record("v", headers={"\ud800": "b"}), "header name"),
    ],
)
def test_a_record_of_the_wrong_kind_says_what_is_wrong(post: Callable[[], Record], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        post()


def test_timestamps_never_go_back_with_the_clock(flashq: FlashQ, clock: Clock) -> None:
    start = clock.ms
    for change in (0, 10, -5000, 20, -100_000, 100_000):
        clock.ms += change
        flashq.post_records("t", [str(clock.ms)] * 2)
    clock.ms = -5
    flashq.post_record("t", "before 1970")
    found = [record.timestamp_ms for record in flashq.poll_records("t")]
    assert found == sorted(found)
    assert found[0] == start
    assert found[4:6] == [start + 10] * 2


def test_eight_threads_post_at_once_and_offsets_are_dense_and_each_keeps_its_order(flashq: FlashQ) -> None:
    told: dict[int, bytes] = {}
    start = threading.Barrier(8)

    def post(thread: int) -> None:
        start.wait()
        for number in range(30):
            values: list[Postable] = [b"%d %d %d" % (thread, number, part) for part in range(1 + number % 3)]
            offsets = flashq.post_records("t", values)
            assert offsets == list(range(offsets[0], offsets[0] + len(values)))
            told.update(zip(offsets, values, strict=True))  # type: ignore[arg-type]

    threads = [threading.Thread(target=post, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = flashq.poll_records("t")
    assert {record.offset: record.value for record in records} == told
    assert [record.offset for record in records] == list(range(len(told)))
    for number in range(8):
        own = [record.value for record in records if record.value.startswith(b"%d " % number)]
        assert own == [b"%d %d %d" % (number, at, part) for at in range(30) for part in range(1 + at % 3)]


def test_readers_beside_a_writer_see_a_growing_prefix_and_nothing_else(flashq: FlashQ) -> None:
    flashq.create_topic("t")
    stop = threading.Event()
    wrong: list[object] = []

    def follow() -> None:
        at = 0
        while not stop.is_set() or at < flashq.high_water_mark("t"):
            found = flashq.poll_records("t", from_offset=at, count=7)
            expected = list(range(at, at + len(found)))
            if [record.offset for record in found] != expected or [int(each.text) for each in found] != expected:
                wrong.append(found)
                return
            at = found.next_offset

    readers = [threading.Thread(target=follow) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(0, 300, 3):
        flashq.post_records("t", [str(number), str(number + 1), str(number + 2)])
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_a_done_append_calls_back_at_once_and_one_under_way_calls_back_once(flashq: FlashQ) -> None:
    log = flashq.log_or_new("t")
    called: list[Append] = []
    arrived = threading.Semaphore(0)

    def callback(append: Append) -> None:
        assert append.done
        called.append(append)
        arrived.release()

    appends = [log.append(encode(rows("a", "b"), 1)) for _ in range(20)]
    for append in appends:
        append.add_done_callback(callback)
    for _ in appends:
        assert arrived.acquire(timeout=10)
    assert {id(append) for append in called} == {id(append) for append in appends}
    appends[3].add_done_callback(callback)
    assert called[-1] is appends[3]
    assert len(called) == 21
    assert [append.result().batch.base_offset for append in appends] == list(range(0, 40, 2))


def test_a_callback_that_raises_takes_nobody_else_along(flashq: FlashQ) -> None:
    log = flashq.log_or_new("t")
    arrived = threading.Semaphore(0)

    def bad(append: Append) -> None:
        raise RuntimeError("a caller's mistake")

    def good(append: Append) -> None:
        arrived.release()

    for _ in range(3):
        appends = [log.append(encode(rows("a"), 1)) for _ in range(4)]
        for append, callback in zip(appends, (bad, good, bad, good), strict=True):
            try:
                append.add_done_callback(callback)
            except RuntimeError:
                assert append.done  # called here and now
        for _ in range(2):
            assert arrived.acquire(timeout=10)
    assert log.high_water_mark == 12


def test_an_append_that_asks_for_it_is_durable_when_done(flashq: FlashQ) -> None:
    log = flashq.log_or_new("t")
    log.append(encode(rows("a"), 1)).result()
    append = log.append(encode(rows("b", "c"), 1), durable=True).result()
    assert append.batch.next_offset == 3
    assert log.durable_offset >= 3
    called = threading.Event()
    log.append(encode(rows("d"), 1), durable=True).add_done_callback(lambda _: called.set())
    assert called.wait(10)
    assert log.durable_offset >= 4


def test_whoever_listens_hears_that_the_high_water_mark_has_moved(flashq: FlashQ) -> None:
    log = flashq.log_or_new("t")
    seen: list[int] = []
    log.on_advance = lambda: seen.append(log.high_water_mark)
    flashq.post_record("t", "a")
    flashq.post_records("t", ["b", "c"])
    assert seen[-1] == 3
