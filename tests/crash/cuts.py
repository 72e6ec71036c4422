"""What a power cut does to a history: which answers say nothing, and what may be gone.

An answer that arrives after the cut began says nothing: on ext4 and XFS an fdatasync that overlaps the cut can return
0 and lose its bytes, and no server can know. What was answered before is a promise. Under `always` nothing of it may
go. In the other modes the log may end earlier than it did, at `Cut.survived`, and then:

- what was acknowledged past it is taken back, and must not come back later;
- a post that asked for its fsync is not among it, nor one that was acknowledged too long ago (`window_s`);
- what an earlier cut had left is still there, since the start after it synced everything;
- the topic's epoch has risen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf

from tests.crash.history import Change, Cut, History, Post, Sight
from tests.crash.violations import Broken, Violation


def settle(history: History) -> History:
    """The history with each answer as the cuts leave it; the same history when there was no cut."""
    cuts = history.cuts
    if not cuts:
        return history
    return replace(
        history,
        posts={post_id: _settle_post(post, cuts) for post_id, post in history.posts.items()},
        reads=[read for read in history.reads if not _says_nothing(read.begun_ns, read.ended_ns, cuts)],
        things={name: [_settle_change(each, cuts) for each in life] for name, life in history.things.items()},
    )


def _says_nothing(begun_ns: int, ended_ns: int, cuts: Sequence[Cut]) -> bool:
    """Whether an answer came between a cut and the end of the server, which was seen at `Cut.ended_ns`."""
    return any(begun_ns <= cut.ended_ns and cut.begun_ns <= ended_ns for cut in cuts)


def _settle_post(post: Post, cuts: Sequence[Cut]) -> Post:
    ended_ns = post.ended_ns
    if ended_ns is None or post.fate != "acknowledged":
        return post
    sent_ns = post.last_sent_ns if post.last_sent_ns < ended_ns else post.begun_ns
    if _says_nothing(sent_ns, ended_ns, cuts):
        return replace(post, fate="unknown", status=None, acknowledged=(), repeats=[])
    repeats = [each for each in post.repeats if not _says_nothing(ended_ns, each.ended_ns, cuts)]
    is_gone = kept_end(ended_ns, cuts) <= post.acknowledged[0].offset if post.acknowledged else False
    return replace(post, fate="taken back" if is_gone else "acknowledged", repeats=repeats)


def _settle_change(event: Change | Sight, cuts: Sequence[Cut]) -> Change | Sight:
    if isinstance(event, Change) and event.ended_ns is not None and _says_nothing(event.begun_ns, event.ended_ns, cuts):
        return replace(event, ended_ns=None, fate="unknown")
    return event


def kept_end(at_ns: int, cuts: Sequence[Cut]) -> float:
    """Where the part of the log ends that no cut after this time has taken back."""
    return min((cut.survived for cut in cuts if cut.survived is not None and cut.begun_ns > at_ns), default=inf)


def check_cuts(history: History, window_s: float) -> Iterator[Violation]:
    """What the cuts took is what they may take; `history` is a settled one."""
    for post in history.posts.values():
        if post.fate != "taken back" or post.ended_ns is None:
            continue
        cut = next(cut for cut in history.cuts if kept_end(post.ended_ns, [cut]) <= post.acknowledged[0].offset)
        age_s = (cut.begun_ns - post.ended_ns) / 1e9
        where = f"at offset {post.acknowledged[0].offset} {age_s:.3f} s before the cut"
        name = f"post {post.client}#{post.sequence}, acknowledged {where}"
        if post.is_durable:
            yield Violation(Broken.WINDOW, f"{name}, had asked for its fsync; the log ends at {cut.survived}")
        if age_s > window_s:
            yield Violation(Broken.WINDOW, f"{name}, more than {window_s} s; the log ends at {cut.survived}")
    lossy = [cut for cut in history.cuts if cut.survived is not None]
    for cut in lossy:
        if cut.survived == -1 and any(
            post.acknowledged and (post.ended_ns or inf) < cut.begun_ns for post in history.posts.values()
        ):
            yield Violation(Broken.PRESENCE, "the topic had records, and a power cut took all of it")
    for earlier, later in pairwise(lossy):
        if (later.survived or 0) < (earlier.survived or 0):
            why = f"a start had synced the log up to {earlier.survived}, and the next cut left {later.survived}"
            yield Violation(Broken.WINDOW, why)
        if (later.epoch or 0) <= (earlier.epoch or 0):
            yield Violation(Broken.EPOCH, f"epoch {earlier.epoch} after one cut and {later.epoch} after the next")
