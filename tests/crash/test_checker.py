"""The checker finds nothing in a clean history and names each thing that is broken in any other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.crash.checker import check
from tests.crash.fake_server import fake_command
from tests.crash.history import Change, Cut, History, HistoryFile, Post, Read, Repeat, Sight, read_history
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
from tests.crash.records import Identity, Seen, SentRecord, StoredRecord, digest, make_record, read_identity
from tests.crash.rounds import load_process, read_back, wait_until_ended
from tests.crash.server_process import ServerProcess, flashq_command
from tests.crash.violations import Broken

RUN = "run"
KILLED_NS = 450
"""Between the fourth post, which it leaves unknown, and the fifth."""


class Case:
    """A history and a read-back that agree, for a test to break.

    Posts of three records each: a#0, a#1 and a#2 acknowledged, b#0 unknown and there, a#3 acknowledged, b#1 refused,
    b#2 unknown and absent. Post n begins at 100n and is answered at 100n + 50; a reader saw offsets 3 to 8 meanwhile.
    """

    def __init__(self) -> None:
        self.history = History(kills_ns=[KILLED_NS])
        self.stored: list[StoredRecord] = []
        for n, (client, sequence) in enumerate([("a", 0), ("a", 1), ("a", 2), ("b", 0), ("a", 3)]):
            post = self.send(client, sequence, begun_ns=100 * (n + 1))
            acknowledged = self.store(post)
            if client == "a":
                post.fate, post.ended_ns, post.acknowledged = "acknowledged", post.begun_ns + 50, acknowledged
                post.status = 200
        refused = self.send("b", 1, begun_ns=600)
        refused.fate, refused.ended_ns, refused.status, refused.outcome = "refused", 650, 400, "not_applied"
        self.send("b", 2, begun_ns=700)
        self.history.reads.append(self.read(from_offset=3, count=6, begun_ns=355, high_water_mark=9))

    def send(self, client: str, sequence: int, begun_ns: int) -> Post:
        records = [make_record(Identity(RUN, client, sequence, position, 3), 40) for position in range(3)]
        digests = tuple(digest(record.key, record.value, record.headers) for record in records)
        post = Post(client, sequence, RUN, digests, begun_ns)
        self.history.posts[post.id] = post
        return post

    def store(self, post: Post) -> tuple[Seen, ...]:
        """Append the post's records to the read-back; returns their acknowledgement."""
        first = len(self.stored)
        for position in range(len(post.digests)):
            record = make_record(Identity(RUN, post.client, post.sequence, position, 3), 40)
            self.stored.append(stored_record(first + position, f"2026-05-01T00:00:00.{first:03}Z", record))
        return tuple(Seen(record.offset, record.timestamp) for record in self.stored[first:])

    def read(self, from_offset: int, count: int, begun_ns: int, high_water_mark: int) -> Read:
        seen = tuple(Seen(r.offset, r.timestamp, r.digest) for r in self.stored[from_offset : from_offset + count])
        return Read("c", begun_ns, begun_ns + 5, from_offset, 200, seen, from_offset + len(seen), high_water_mark)

    def renumber(self) -> None:
        """Make the read-back dense again, whatever order its records are in."""
        self.stored = [replace(record, offset=offset) for offset, record in enumerate(self.stored)]

    def broken(self) -> set[Broken]:
        return {violation.broken for violation in check(self.history, self.stored, window_s=1.0)}


def stored_record(offset: int, timestamp: str, record: SentRecord) -> StoredRecord:
    parts = record.key, record.value, record.headers
    return StoredRecord(offset, timestamp, *parts, digest(*parts))


def forge(case: Case) -> None:
    """b#2, of which nothing is there, was acknowledged."""
    post = case.history.posts["b", 2]
    post.fate, post.ended_ns = "acknowledged", 750
    post.acknowledged = tuple(Seen(offset, "2026-05-01T00:00:00.015Z") for offset in (15, 16, 17))


def double_acknowledged(case: Case) -> None:
    case.store(case.history.posts["a", 1])


def double_unknown(case: Case) -> None:
    case.store(case.history.posts["b", 0])


def swap_records(case: Case) -> None:
    case.stored[6], case.stored[7] = case.stored[7], case.stored[6]
    case.renumber()


def swap_posts(case: Case) -> None:
    """a#0 and a#1 changed places, in the log and in what was acknowledged: only the order is wrong."""
    case.stored[0:6] = [*case.stored[3:6], *case.stored[0:3]]
    case.stored = [replace(r, timestamp="2026-05-01T00:00:00.015Z") for r in case.stored]
    case.renumber()
    case.history.reads.clear()
    for post in case.history.posts.values():
        post.acknowledged = tuple(replace(seen, timestamp="2026-05-01T00:00:00.015Z") for seen in post.acknowledged)
    first, second = case.history.posts["a", 0], case.history.posts["a", 1]
    first.acknowledged, second.acknowledged = second.acknowledged, first.acknowledged


def unknown_after_the_kill(case: Case) -> None:
    """b#0, unknown at the kill, was stored after a#3, which began after the kill."""
    case.stored[9:15] = [*case.stored[12:15], *case.stored[9:12]]
    case.stored = [replace(r, timestamp=case.stored[0].timestamp) for r in case.stored]
    case.renumber()
    case.history.reads.clear()
    for post in case.history.posts.values():
        post.acknowledged = tuple(replace(seen, timestamp=case.stored[0].timestamp) for seen in post.acknowledged)
    last = case.history.posts["a", 3]
    last.acknowledged = tuple(replace(seen, offset=seen.offset - 3) for seen in last.acknowledged)


def flip_value(case: Case) -> None:
    record = case.stored[4]
    flipped = record.value.replace("a|1", "a|2", 1)
    case.stored[4] = stored_record(4, record.timestamp, SentRecord(record.key, flipped, record.headers))


def change_key(case: Case) -> None:
    record = case.stored[4]
    case.stored[4] = stored_record(4, record.timestamp, SentRecord("other", record.value, record.headers))


def drop_last(case: Case) -> None:
    del case.stored[-1]


def drop_and_close_up(case: Case) -> None:
    del case.stored[7]
    case.renumber()


def drop_leaving_a_hole(case: Case) -> None:
    del case.stored[7]


def drop_the_first(case: Case) -> None:
    del case.stored[0:3]


def repeat_an_offset(case: Case) -> None:
    case.stored[14] = replace(case.stored[14], offset=13)


def change_timestamp(case: Case) -> None:
    case.stored[13] = replace(case.stored[13], timestamp="2026-05-01T00:00:00.014Z")


def timestamp_back(case: Case) -> None:
    """The timestamp of an unknown post, so that no acknowledgement tells of it."""
    case.stored[10] = replace(case.stored[10], timestamp="2026-04-01T00:00:00.000Z")


def timestamp_form(case: Case) -> None:
    case.stored[10] = replace(case.stored[10], timestamp="2026-05-01 00:00:00")


def store_refused(case: Case) -> None:
    case.store(case.history.posts["b", 1])


def store_unsent(case: Case) -> None:
    value = make_record(Identity(RUN, "z", 0, 0, 1), 10)
    case.stored.append(stored_record(15, "2026-05-01T00:00:00.015Z", value))


def store_another_run(case: Case) -> None:
    value = make_record(Identity("other", "b", 2, 0, 3), 10)
    case.stored.append(stored_record(15, "2026-05-01T00:00:00.015Z", value))


def tear_unknown(case: Case) -> None:
    case.store(case.history.posts["b", 2])
    del case.stored[-1]


def interleave_unknown(case: Case) -> None:
    """b#0 and b#2 are whole, one inside the other."""
    case.store(case.history.posts["b", 2])
    case.stored.append(case.stored.pop(9))
    case.renumber()


def read_another_value(case: Case) -> None:
    """A reader saw b#0 with other bytes before the kill."""
    read = case.read(from_offset=9, count=3, begun_ns=420, high_water_mark=12)
    changed = (replace(read.records[0], digest="0" * 16), *read.records[1:])
    case.history.reads.append(replace(read, records=changed))


def read_another_time(case: Case) -> None:
    read = case.read(from_offset=9, count=3, begun_ns=420, high_water_mark=12)
    changed = (replace(read.records[0], timestamp="2026-05-01T00:00:00.001Z"), *read.records[1:])
    case.history.reads.append(replace(read, records=changed))


def read_more_than_remains(case: Case) -> None:
    """A reader saw b#2 and it is gone."""
    case.store(case.history.posts["b", 2])
    case.history.reads.append(case.read(from_offset=15, count=3, begun_ns=760, high_water_mark=18))
    del case.stored[15:]


def promise_more_than_remains(case: Case) -> None:
    case.history.reads.append(case.read(from_offset=0, count=1, begun_ns=760, high_water_mark=16))


def read_too_little(case: Case) -> None:
    case.history.reads.append(case.read(from_offset=6, count=3, begun_ns=560, high_water_mark=9))


def read_less_than_before(case: Case) -> None:
    """The second reader is shown less than the first, nothing of it acknowledged."""
    case.history.reads.append(case.read(from_offset=9, count=3, begun_ns=420, high_water_mark=12))
    case.history.reads.append(case.read(from_offset=0, count=3, begun_ns=430, high_water_mark=9))


def read_nothing(case: Case) -> None:
    case.history.reads.append(case.read(from_offset=9, count=0, begun_ns=560, high_water_mark=15))


def read_no_topic(case: Case) -> None:
    case.history.reads.append(Read("c", 560, 565, 0, 404, (), 0, 0))


def read_an_error(case: Case) -> None:
    case.history.reads.append(Read("c", 10, 15, 0, 500, (), 0, 0))


def read_with_a_gap(case: Case) -> None:
    read = case.history.reads[0]
    case.history.reads.append(replace(read, records=(*read.records[:2], *read.records[3:])))


def read_from_elsewhere(case: Case) -> None:
    case.history.reads.append(replace(case.history.reads[0], from_offset=2))


def wrong_next_offset(case: Case) -> None:
    case.history.reads.append(replace(case.history.reads[0], next_offset=10))


def acknowledge_too_few(case: Case) -> None:
    post = case.history.posts["a", 2]
    post.acknowledged = post.acknowledged[:-1]


def acknowledge_none(case: Case) -> None:
    case.history.posts["a", 2].acknowledged = ()


def refuse_without_an_outcome(case: Case) -> None:
    case.history.posts["b", 1].outcome = None


def topic_gone(case: Case) -> None:
    case.history.things["topic t"] = [changed(0, 10), Sight(None, 20)]


def topic_back(case: Case) -> None:
    case.history.things["topic t"] = [changed(0, 10), changed(None, 20), Sight(0, 30)]


def deleted_group_back_later(case: Case) -> None:
    """The deletion was not answered; the group was found gone, and then it was there."""
    deleting = Change(None, 30, is_durable=True)
    case.history.things["group g"] = [changed(0, 10), changed(3, 20), deleting, Sight(None, 40), Sight(3, 50)]


def commit_forgotten(case: Case) -> None:
    case.history.things["group g"] = [changed(0, 5), changed(3, 10), changed(6, 20), Sight(3, 30)]


def commit_invented(case: Case) -> None:
    case.history.things["group g"] = [changed(0, 5), Sight(3, 30)]


def refused_commit_there(case: Case) -> None:
    refused = Change(3, 10, is_durable=False, ended_ns=15, fate="refused")
    case.history.things["group g"] = [changed(0, 5), refused, Sight(3, 30)]


def changed(value: int | None, begun_ns: int) -> Change:
    is_durable = value is None or value == 0
    return Change(value, begun_ns, is_durable, ended_ns=begun_ns + 1, fate="acknowledged")


def stored_elsewhere(case: Case) -> None:
    """b#0, which was not answered, asked for offset 8 and is at 9."""
    case.history.posts["b", 0].at = 8


def repeated_differently(case: Case) -> None:
    post = case.history.posts["a", 2]
    post.repeats.append(Repeat(380, tuple(replace(seen, offset=seen.offset + 9) for seen in post.acknowledged)))


def lose_power(case: Case, survived: int, *, begun_ns: int = 800, epoch: int = 1) -> None:
    """Everything from this offset on went with a power cut that may take it."""
    case.history.cuts.append(Cut(begun_ns, survived, epoch))
    del case.stored[survived:]


def lose_half_a_post(case: Case) -> None:
    lose_power(case, 13)


def lose_what_asked_for_its_fsync(case: Case) -> None:
    case.history.posts["a", 3].is_durable = True
    lose_power(case, 12)


def lose_what_is_too_old(case: Case) -> None:
    lose_power(case, 12, begun_ns=550 + 2_000_000_000)


def come_back_after_a_loss(case: Case) -> None:
    post = case.history.posts["a", 3]
    lose_power(case, 12)
    case.store(post)


def lose_what_an_earlier_cut_had_left(case: Case) -> None:
    case.history.cuts.append(Cut(460, 12, 1))
    lose_power(case, 9, epoch=2)


def keep_the_epoch(case: Case) -> None:
    case.history.cuts.append(Cut(700, 15, 1))
    lose_power(case, 15)


def lose_the_topic(case: Case) -> None:
    lose_power(case, 0)
    case.history.cuts[0].survived = -1


CONTROLS: list[tuple[Callable[[Case], None], Broken]] = [
    (forge, Broken.LOST),
    (double_acknowledged, Broken.DOUBLED),
    (double_unknown, Broken.DOUBLED),
    (swap_records, Broken.MOVED),
    (swap_records, Broken.TORN),
    (swap_posts, Broken.ORDER),
    (unknown_after_the_kill, Broken.ORDER),
    (flip_value, Broken.DAMAGED),
    (change_key, Broken.DAMAGED),
    (drop_last, Broken.LOST),
    (drop_and_close_up, Broken.LOST),
    (drop_and_close_up, Broken.MOVED),
    (drop_leaving_a_hole, Broken.HOLE),
    (drop_the_first, Broken.HOLE),
    (repeat_an_offset, Broken.HOLE),
    (change_timestamp, Broken.RETIMED),
    (timestamp_back, Broken.CLOCK),
    (timestamp_form, Broken.MALFORMED),
    (store_refused, Broken.REFUSED_PRESENT),
    (store_unsent, Broken.UNSENT),
    (store_another_run, Broken.UNSENT),
    (tear_unknown, Broken.TORN),
    (interleave_unknown, Broken.TORN),
    (read_another_value, Broken.TAKEN_BACK),
    (read_another_time, Broken.TAKEN_BACK),
    (read_more_than_remains, Broken.TAKEN_BACK),
    (promise_more_than_remains, Broken.TAKEN_BACK),
    (read_too_little, Broken.STALE),
    (read_less_than_before, Broken.STALE),
    (read_nothing, Broken.STALE),
    (read_no_topic, Broken.STALE),
    (read_an_error, Broken.MALFORMED),
    (read_with_a_gap, Broken.HOLE),
    (read_from_elsewhere, Broken.HOLE),
    (wrong_next_offset, Broken.MALFORMED),
    (acknowledge_too_few, Broken.MALFORMED),
    (acknowledge_none, Broken.MALFORMED),
    (refuse_without_an_outcome, Broken.MALFORMED),
    (topic_gone, Broken.PRESENCE),
    (topic_back, Broken.PRESENCE),
    (deleted_group_back_later, Broken.PRESENCE),
    (lose_the_topic, Broken.PRESENCE),
    (commit_forgotten, Broken.COMMIT_LOST),
    (commit_invented, Broken.COMMIT_LOST),
    (refused_commit_there, Broken.COMMIT_LOST),
    (stored_elsewhere, Broken.CONDITION),
    (repeated_differently, Broken.REPEATED),
    (lose_half_a_post, Broken.TORN),
    (lose_what_asked_for_its_fsync, Broken.WINDOW),
    (lose_what_is_too_old, Broken.WINDOW),
    (lose_what_an_earlier_cut_had_left, Broken.WINDOW),
    (come_back_after_a_loss, Broken.REFUSED_PRESENT),
    (keep_the_epoch, Broken.EPOCH),
]


def test_a_clean_history_has_no_violation() -> None:
    assert check(Case().history, Case().stored) == []


def test_an_empty_history_has_no_violation() -> None:
    assert check(History(), []) == []


@pytest.mark.parametrize(("tamper", "broken"), [pytest.param(t, b, id=f"{t.__name__}-{b.name}") for t, b in CONTROLS])
def test_what_is_broken_is_named(tamper: Callable[[Case], None], broken: Broken) -> None:
    case = Case()
    tamper(case)
    assert broken in case.broken()


def test_every_kind_of_violation_has_a_control() -> None:
    assert {broken for _, broken in CONTROLS} == set(Broken)


@pytest.mark.parametrize("tamper", [swap_posts, unknown_after_the_kill], ids=lambda tamper: tamper.__name__)
def test_an_order_violation_is_found_by_the_order_alone(tamper: Callable[[Case], None]) -> None:
    case = Case()
    tamper(case)
    assert case.broken() == {Broken.ORDER}


def test_concurrent_posts_may_be_stored_in_either_order() -> None:
    case = Case()
    swap_posts(case)
    case.history.posts["a", 1].begun_ns = 120  # before a#0 was answered
    assert case.broken() == set()


def test_a_change_without_an_answer_may_be_there_or_not() -> None:
    case = Case()
    for seen in (3, 6):
        unanswered = Change(6, 20, is_durable=False)
        case.history.things["group g"] = [changed(0, 5), changed(3, 10), unanswered, Sight(seen, 30)]
        assert case.broken() == set()


def test_a_power_cut_may_take_the_end_of_the_log_where_the_mode_says_so() -> None:
    case = Case()
    lose_power(case, 12)
    case.history.things["group g"] = [changed(0, 5), changed(3, 10), changed(6, 20), Sight(3, 900)]
    assert case.broken() == set()


def test_a_topic_that_nobody_was_told_of_may_go_with_a_power_cut() -> None:
    history = History(cuts=[Cut(100, -1, -1)], reads=[Read("c", 110, 115, 0, 404, (), 0, 0)])
    assert check(history, []) == []


def test_an_answer_that_arrives_after_the_cut_began_says_nothing() -> None:
    case = Case()
    case.history.cuts.append(Cut(540))  # a#3 was answered at 550
    case.history.reads.append(case.read(from_offset=12, count=3, begun_ns=535, high_water_mark=15))
    del case.stored[12:]
    case.history.things["group g"] = [changed(0, 5), Change(3, 530, False, 545, "acknowledged"), Sight(0, 900)]
    assert case.broken() == set()


def test_what_was_answered_before_the_cut_is_a_promise() -> None:
    case = Case()
    case.history.cuts.append(Cut(560))
    del case.stored[12:]
    assert case.broken() == {Broken.LOST}


def test_retention_takes_whole_posts_from_the_start_and_nothing_else() -> None:
    case = Case()
    assert check(case.history, case.stored[3:], log_start=3) == []
    torn = {violation.broken for violation in check(case.history, case.stored[3:8] + case.stored[9:], log_start=3)}
    assert torn >= {Broken.HOLE, Broken.LOST}


def test_a_value_says_who_sent_it_until_a_character_changes() -> None:
    identity = Identity(RUN, "a", 7, 2, 3)
    value = make_record(identity, 200).value
    assert read_identity(value) == identity
    for position, character in enumerate(value):
        changed = value[:position] + chr(ord(character) ^ 1) + value[position + 1 :]
        assert read_identity(changed) is None


def test_null_empty_and_absent_parts_have_different_digests() -> None:
    parts = [(None, "v", None), ("", "v", None), (None, "v", {}), (None, "v", {"h": ""}), (None, "", None)]
    assert len({digest(*part) for part in parts}) == len(parts)


def test_a_history_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    read = Read("c0", 10, 20, 0, 200, (Seen(0, "2026-05-01T00:00:00.000Z", "d0"),), 1, 1)
    first = (0, "2026-05-01T00:00:00.000Z")
    with HistoryFile(path) as file:
        for sequence in range(5):
            file.post_begins("a", sequence, RUN, [f"d{sequence}"], at=sequence, is_keyed=sequence in (0, 3))
        file.post_acknowledged("a", 0, [first])
        file.post_again("a", 0)
        file.post_acknowledged("a", 0, [first])
        file.post_refused("a", 1, 400, "not_applied")
        file.post_refused("a", 2, 503, "unknown")
        file.post_lost("a", 3)
        file.post_again("a", 3)
        file.post_refused("a", 3, 503, "not_applied")
        file.read_answered(read)
        file.change_begins("group g", 0, is_durable=True)
        file.change_answered("group g", is_done=True)
        file.change_begins("group g", 2, is_durable=False)
        file.change_answered("group g", is_done=False)
        file.change_begins("group g", None, is_durable=True)
        file.thing_seen("group g", 0)
        file.power_cut_begins()
        file.server_killed()
        file.power_cut_survived(1, 7)
    history = read_history(path)
    posts = list(history.posts.values())
    assert [post.fate for post in posts] == ["acknowledged", "refused", "unknown", "unknown", "unknown"]
    assert posts[0].acknowledged == posts[0].repeats[0].offsets == (Seen(*first),)
    assert [post.ended_ns is None for post in posts] == [False, False, False, False, True]
    assert [(post.at, post.is_keyed, post.is_durable) for post in posts[:2]] == [(0, True, False), (1, False, False)]
    assert history.reads == [read]
    life = [(e.value, e.fate) if isinstance(e, Change) else e.value for e in history.things["group g"]]
    assert life == [(0, "acknowledged"), (2, "refused"), (None, "unknown"), 0]
    assert len(history.kills_ns) == 1
    assert [(cut.survived, cut.epoch) for cut in history.cuts] == [(1, 7)]


@pytest.mark.parametrize(
    "lines",
    [
        '{"event":"lost","client":"a","sequence":0,"at_ns":1}\n',
        '{"event":"post","client":"a","sequence":0,"run":"r","digests":[],"asked":{},"at_ns":1}\n' * 2,
        '{"event":"post","client":"a"',
    ],
)
def test_a_history_file_that_makes_no_sense_is_an_error(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match=r"history\.jsonl:"):
        read_history(path)


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
