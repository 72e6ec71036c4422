"""What a topic promises on every backend."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from flashq import FlashQ, Record
from flashq.batch import encode
from flashq.errors import (
    Closed,
    InvalidOffset,
    InvalidParameter,
    OffsetOutOfRange,
    TopicNotFound,
    ValidationError,
)
from flashq.record import MAX_VALUE_BYTES, NO_HEADERS, Postable, Row
from flashq.storage.interface import Append, TopicConfig
from tests.contract.conftest import Clock


def rows(*values: str) -> list[Row]:
    return [(None, value.encode(), NO_HEADERS) for value in values]


# -- posting


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


# -- reading


def test_a_poll_past_the_end_is_empty_and_says_where_the_topic_ends(flashq: FlashQ) -> None:
    flashq.post_records("t", ["a", "b"])
    for at in (2, 3, 1000, (1 << 63) - 1):
        found = flashq.poll_records("t", from_offset=at)
        assert list(found) == []
        assert (found.next_offset, found.high_water_mark, found.log_start_offset, found.lag) == (at, 2, 0, 0)


def test_a_poll_begins_anywhere_and_takes_what_it_is_asked_for(flashq: FlashQ) -> None:
    print("seed 5")
    rng = random.Random(5)
    values = [b"%d " % number * rng.randint(1, 40) for number in range(120)]
    at = 0
    while at < len(values):
        size = rng.randint(1, 9)
        flashq.post_records("t", values[at : at + size])
        at += size
    for _ in range(150):
        start, count = rng.randrange(125), rng.choice([0, 1, 2, 5, 30, 200])
        found = flashq.poll_records("t", from_offset=start, count=count)
        assert [record.value for record in found] == values[start : start + count]
        assert [record.offset for record in found] == list(range(start, start + len(found)))
        assert found.next_offset == start + len(found)
        assert found.lag == max(120 - found.next_offset, 0)


def test_max_bytes_caps_a_poll_but_gives_one_record_at_least(flashq: FlashQ) -> None:
    """It may give fewer than would fit: headers of batches count as well, and records of the first one before it."""
    for _ in range(10):
        flashq.post_records("t", [Record("v" * 60, key="k" * 30, headers={"h" * 5: "x" * 5})] * 3)
    for limit in (0, 1, 99, 100, 101, 199, 200, 250, 999, 2500, 1 << 40):
        for start in (0, 1, 2, 3, 20):
            found = flashq.poll_records("t", from_offset=start, max_bytes=limit)
            most = min(max(limit // 100, 1), 30 - start)
            assert 1 <= len(found) <= most
            assert found.next_offset == start + len(found)


def test_a_log_reads_whole_batches_and_stops_after_the_one_that_reaches_a_limit(flashq: FlashQ) -> None:
    if flashq.backend.is_remote:
        pytest.skip("Kafka's consumers are not told how records were batched")
    log = flashq.log_or_new("t")
    for _ in range(10):
        log.append(encode(rows("a", "b", "c"), 1)).result()
    size = len(log.read(0)[0].frame)
    bases = [batch.base_offset for batch in log.read(4)]
    assert bases == [3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert [batch.base_offset for batch in log.read(4, max_records=1)] == [3]
    assert [batch.base_offset for batch in log.read(4, max_records=2)] == [3]
    assert [batch.base_offset for batch in log.read(4, max_records=3)] == [3, 6]
    assert [batch.base_offset for batch in log.read(0, max_bytes=1)] == [0]
    assert [batch.base_offset for batch in log.read(0, max_bytes=size)] == [0]
    assert [batch.base_offset for batch in log.read(0, max_bytes=size + 1)] == [0, 3]
    assert log.size_bytes == 10 * size
    assert log.read(30) == log.read(31) == []


def test_offset_at_finds_the_first_record_as_late_as_asked(flashq: FlashQ, clock: Clock) -> None:
    start = clock.ms
    for number in range(40):
        clock.ms = start + 10 * (number // 2)  # two posts at each time
        flashq.post_records("t", ["x" * 100, "y"])
    log = flashq.log("t")
    assert log.offset_at(0) == log.offset_at(start) == 0
    for number in range(1, 20):
        assert log.offset_at(start + 10 * number) == log.offset_at(start + 10 * number - 9) == 4 * number
    assert log.offset_at(start + 191) == log.offset_at(1 << 60) == 80
    assert flashq.log_or_new("empty").offset_at(0) == 0


# -- retention


def fill(flashq: FlashQ, clock: Clock, posts: int = 12) -> list[bytes]:
    values = [b"%d " % number * 200 for number in range(posts)]
    for value in values:
        clock.ms += 1000
        flashq.post_record("t", value)
    return values


def test_retention_by_age_removes_what_is_older_and_nothing_else(
    flashq: FlashQ, clock: Clock, own_retention: None
) -> None:
    values = fill(flashq, clock)
    log = flashq.log("t")
    log.configure(TopicConfig(retention_ms=5500, segment_bytes=1024))
    assert flashq.apply_retention() > 0
    start = log.log_start_offset
    assert 3 <= start <= 6
    assert [record.value for record in flashq.poll_records("t", from_offset=start)] == values[start:]
    with pytest.raises(OffsetOutOfRange) as below:
        flashq.poll_records("t", from_offset=start - 1)
    assert below.value.details["log_start_offset"] == start
    assert flashq.apply_retention() == 0
    assert flashq.post_record("t", "next") == 12


def test_retention_by_age_empties_a_topic_and_its_offsets_go_on(
    flashq: FlashQ, clock: Clock, own_retention: None
) -> None:
    fill(flashq, clock, 3)
    log = flashq.log("t")
    log.configure(TopicConfig(retention_ms=0))
    clock.ms += 1
    flashq.apply_retention()
    assert (log.log_start_offset, log.high_water_mark, log.size_bytes) == (3, 3, 0)
    assert list(flashq.poll_records("t", from_offset=3)) == []
    assert log.offset_at(0) == 3
    assert flashq.post_record("t", "next") == 3
    assert flashq.poll_records("t", from_offset=3)[0].text == "next"


def test_retention_by_size_keeps_at_least_that_much_of_the_newest(
    flashq: FlashQ, clock: Clock, own_retention: None
) -> None:
    values = fill(flashq, clock)
    log = flashq.log("t")
    before = log.size_bytes
    assert before is not None
    log.configure(TopicConfig(retention_bytes=3000, segment_bytes=1024))
    freed = flashq.apply_retention()
    assert log.size_bytes == before - freed
    assert 3000 <= log.size_bytes < 3000 + 2048
    start = log.log_start_offset
    assert [record.value for record in flashq.poll_records("t", from_offset=start)] == values[start:]
    log.configure(TopicConfig(retention_bytes=0, segment_bytes=1024))
    flashq.apply_retention()
    assert flashq.poll_records("t", from_offset=log.log_start_offset)[-1].value == values[-1]


def test_without_limits_retention_removes_nothing(flashq: FlashQ, clock: Clock) -> None:
    fill(flashq, clock)
    clock.ms += 1 << 40
    assert flashq.apply_retention() == 0
    assert flashq.log("t").log_start_offset == 0


def test_readers_beside_retention_get_records_or_out_of_range(
    flashq: FlashQ, clock: Clock, own_retention: None
) -> None:
    flashq.create_topic("t", retention_bytes=2000)
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            try:
                start = flashq.log("t").log_start_offset
                records = flashq.poll_records("t", from_offset=start, count=20)
                wrong.extend(record for record in records if record.text.split()[0] != str(record.offset))
                flashq.log("t").offset_at(clock.ms)
            except OffsetOutOfRange:
                pass
            except BaseException as error:
                wrong.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(150):
        flashq.post_record("t", f"{number} " * 60)
        if number % 3 == 0:
            flashq.apply_retention()
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert flashq.log("t").log_start_offset > 100


# -- topics themselves


def test_a_topic_is_created_once_and_stays_as_it_is(flashq: FlashQ, small_segment: int) -> None:
    assert flashq.create_topic("t", retention_ms=7, segment_bytes=4 * small_segment) is True
    flashq.post_record("t", "kept")
    assert flashq.create_topic("t", retention_ms=9) is False
    assert flashq.log("t").config == TopicConfig(retention_ms=7, segment_bytes=4 * small_segment)
    assert flashq.poll_records("t")[0].text == "kept"


def test_threads_that_create_a_topic_by_posting_at_once_share_one(flashq: FlashQ) -> None:
    for attempt in range(10):
        start = threading.Barrier(8)
        offsets: list[int] = []

        def post(topic: str, start: threading.Barrier = start, offsets: list[int] = offsets) -> None:
            start.wait()
            offsets.append(flashq.post_record(topic, "x"))

        threads = [threading.Thread(target=post, args=(f"t{attempt}",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(offsets) == list(range(8))


def test_a_deleted_topic_is_gone_and_begins_anew(flashq: FlashQ) -> None:
    flashq.post_records("t", ["a", "b", "c"])
    old = flashq.log("t")
    flashq.delete_topic("t")
    assert flashq.topics() == []
    for use in (
        lambda: flashq.poll_records("t"),
        lambda: flashq.high_water_mark("t"),
        lambda: flashq.delete_topic("t"),
    ):
        with pytest.raises(TopicNotFound):
            use()
    with pytest.raises(Closed):
        old.append(encode(rows("late"), 1)).result()
    assert flashq.post_record("t", "anew") == 0
    assert [record.text for record in flashq.poll_records("t")] == ["anew"]
    assert flashq.log("t").topic_id != old.topic_id
    assert old.retain(1 << 60) == 0
    assert [record.text for record in flashq.poll_records("t")] == ["anew"]


def test_topics_are_listed_by_name(flashq: FlashQ) -> None:
    for name in ("b", "a.1", "A", "_", "Z-z"):
        flashq.create_topic(name)
    assert flashq.topics() == ["A", "Z-z", "_", "a.1", "b"]


@pytest.mark.parametrize("name", ["a", "A", ".a", "..a", "a" * 255, "A" * 255, "con", "a..b", "0", "a-_.b", "x.log"])
def test_a_valid_name_names_a_topic_and_a_group(flashq: FlashQ, name: str) -> None:
    if flashq.backend.kind == "kafka" and len(name) > 249:
        pytest.skip("Kafka's topics have names of at most 249 characters")
    assert flashq.post_record(name, "x") == 0
    flashq.create_consumer_group(name)
    flashq.commit_offset(name, name, 1)
    assert flashq.topics() == flashq.consumer_groups() == [name]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-a", "a/b", "a b", "a\n", "a\x00", "ü", "\uff11", "a" * 256, "a%b", "~", None, 7, b"a"],
)
def test_a_bad_name_is_refused_by_every_method(flashq: FlashQ, name: str) -> None:
    flashq.create_consumer_group("g")
    flashq.create_topic("t")
    for use in (
        lambda: flashq.post_record(name, "x"),
        lambda: flashq.post_records(name, ["x"]),
        lambda: flashq.poll_records(name),
        lambda: flashq.create_topic(name),
        lambda: flashq.delete_topic(name),
        lambda: flashq.high_water_mark(name),
        lambda: flashq.create_consumer_group(name),
        lambda: flashq.delete_consumer_group(name),
        lambda: flashq.consumer_group_offset(name, "t"),
        lambda: flashq.consumer_group_offset("g", name),
        lambda: flashq.commit_offset(name, "t", 0),
        lambda: flashq.commit_offset("g", name, 0),
        lambda: flashq.poll_records_for_consumer_group("g", name),
    ):
        with pytest.raises(InvalidParameter):
            use()
    assert flashq.topics() == ["t"]
    assert flashq.consumer_groups() == ["g"]


@pytest.mark.parametrize("number", [-1, 1 << 63, 1.0, "1", True, None])
def test_a_bad_number_is_refused(flashq: FlashQ, number: int) -> None:
    flashq.post_record("t", "x")
    flashq.create_consumer_group("g")
    with pytest.raises(InvalidParameter):
        flashq.poll_records("t", from_offset=number)
    with pytest.raises(InvalidOffset if type(number) is int else InvalidParameter):
        flashq.commit_offset("g", "t", number)
    if number is not None:
        with pytest.raises(InvalidParameter):
            flashq.poll_records("t", count=number)
        with pytest.raises(InvalidParameter):
            flashq.poll_records("t", max_bytes=number)
    for name in ("retention_ms", "retention_bytes"):
        if number not in (None, 1 << 63):
            with pytest.raises(InvalidParameter):
                flashq.create_topic("u", **{name: number})
    assert flashq.topics() == ["t"]


@pytest.mark.parametrize("size", [0, 1023, 2 * 1024**3 + 1, -1])
def test_a_segment_size_out_of_range_is_refused(flashq: FlashQ, size: int) -> None:
    with pytest.raises(InvalidParameter):
        flashq.create_topic("t", segment_bytes=size)


def test_once_closed_every_use_says_so_and_closing_again_does_nothing(flashq: FlashQ) -> None:
    flashq.post_record("t", "x")
    flashq.create_consumer_group("g")
    log = flashq.log("t")
    flashq.close()
    flashq.close()
    for use in (
        lambda: flashq.post_record("t", "x"),
        lambda: flashq.post_record("new", "x"),
        lambda: flashq.poll_records("t"),
        lambda: flashq.topics(),
        lambda: flashq.create_topic("u"),
        lambda: flashq.delete_topic("t"),
        lambda: flashq.high_water_mark("t"),
        lambda: flashq.create_consumer_group("h"),
        lambda: flashq.delete_consumer_group("g"),
        lambda: flashq.consumer_groups(),
        lambda: flashq.consumer_group_offset("g", "t"),
        lambda: flashq.commit_offset("g", "t", 0),
        lambda: flashq.poll_records_for_consumer_group("g", "t"),
        lambda: log.append(encode(rows("x"), 1)).result(),
        lambda: log.read(0),
    ):
        with pytest.raises(Closed):
            use()


def test_everything_is_healthy(flashq: FlashQ) -> None:
    flashq.post_record("t", "x")
    assert (flashq.health().status, flashq.health().problems) == ("healthy", [])


def test_closing_while_threads_post_answers_every_one_of_them(flashq: FlashQ) -> None:
    flashq.create_topic("t")
    told: list[int] = []
    ended = threading.Semaphore(0)

    def post() -> None:
        try:
            while True:
                told.append(flashq.post_record("t", "x"))
        except Closed:
            pass
        finally:
            ended.release()

    threads = [threading.Thread(target=post, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(told) < 50:
        ended.acquire(timeout=0.001)
    flashq.close()
    for _ in threads:
        assert ended.acquire(timeout=10)
    assert sorted(told) == list(range(len(told)))
