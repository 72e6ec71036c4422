"""Ways to break a history or its read-back, each with what the checker has to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.crash.case import RUN, Case, changed, lose_power, stored_record
from tests.crash.history import Change, Cut, Read, Repeat, Sight
from tests.crash.records import Identity, Seen, SentRecord, make_record
from tests.crash.violations import Broken


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


def stored_elsewhere(case: Case) -> None:
    """b#0, which was not answered, asked for offset 8 and is at 9."""
    case.history.posts["b", 0].at = 8


def repeated_differently(case: Case) -> None:
    post = case.history.posts["a", 2]
    post.repeats.append(Repeat(380, tuple(replace(seen, offset=seen.offset + 9) for seen in post.acknowledged)))


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
