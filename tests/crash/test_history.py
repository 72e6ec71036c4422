"""What clients write down comes back as it was: the history file, and the values and digests of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.case import RUN
from tests.crash.history import Change, HistoryFile, Read, read_history
from tests.crash.records import Identity, Seen, digest, make_record, read_identity


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
