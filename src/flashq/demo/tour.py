"""The tour: post, poll, groups and lag, topics, a crash and what is there after it; then a prompt to play at."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from flashq.broker.flashq import FlashQ
from flashq.demo.crash import BATCH_BYTES, BATCH_RECORDS, crash
from flashq.demo.play import play
from flashq.demo.screen import Left, Screen, rows_of
from flashq.errors import FlashQError
from flashq.storage.file.verify import verify_directory

TOPIC: Final = "orders"
ORDERS: Final = ("one tea", "two coffees", "a cake")
PAYMENTS: Final = 1000
ORDERS_OF_THE_CHILD: Final = 5
MIB: Final = 1024 * 1024


def run(*, is_typed: bool) -> None:
    """The whole tour, in a directory that is gone afterwards. Without `is_typed` nothing is asked."""
    screen = Screen(is_typed=is_typed)
    with tempfile.TemporaryDirectory(prefix="flashq-demo-") as data_dir, Tour(screen, data_dir) as tour:
        try:
            tour.chapters()
            if is_typed:
                screen.title("Your turn")
                play(tour)
        except Left:
            pass
        except KeyboardInterrupt:
            screen.gap()  # the cursor is behind a question
            raise
    screen.say("The directory of the tour is removed. On from here: docs/tutorial.md, or a server with make serve.")


class Tour:
    """The chapters, on a FlashQ in `data_dir` that is closed and opened again as the story goes."""

    def __init__(self, screen: Screen, data_dir: str) -> None:
        self.screen = screen
        self.data_dir = data_dir
        self.flashq = FlashQ.open(data_dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.flashq.close()

    def chapters(self) -> None:
        self.screen.title("FlashQ: a record log")
        self.screen.say(
            "The tour takes three minutes. All you see happens, in the directory below: each line behind >>> is a call "
            "of the engine, made as it stands there. No server, no network."
        )
        self.screen.event(f"data directory  {self.data_dir}", "dim")
        self.screen.gap()
        self.screen.pause()
        chapters = (
            ("Post", self._post),
            ("Poll", self._poll),
            ("Groups and lag", self._groups),
            ("Topics", self._topics),
            ("Crash", self.crash),
        )
        for number, (title, chapter) in enumerate(chapters, 1):
            self.screen.title(f"{number}. {title}")
            chapter()
            self.screen.pause()

    def _post(self) -> None:
        self.screen.say(
            "A topic is a log: records are added at its end and never change. The first post makes the topic."
        )
        for default in ORDERS:
            self._post_one(default)
        self.screen.say(
            "Each record has an offset, its number in the topic, which never goes to another record. When post_record "
            "returns, the record is on the disk and an fsync has seen to it."
        )

    def _post_one(self, default: str) -> None:
        while True:
            order = self.screen.ask("What would you like to order?", default)
            try:
                self.screen.result(self.screen.call(self.flashq.post_record, TOPIC, order))
            except FlashQError as error:  # text that is none, say
                self.screen.say(error.message)
            else:
                return

    def _poll(self) -> None:
        polled = self.screen.call(self.flashq.poll_records, TOPIC, from_offset=1)
        self.screen.table(("OFFSET", "TIME (UTC)", "VALUE"), rows_of(polled))
        self.screen.say(
            "Reading takes nothing away: the same call gives the same records, to anybody, from any offset, as often "
            "as they like."
        )

    def _groups(self) -> None:
        self.screen.say(
            "A consumer group is a name that remembers, for each topic, the offset it reads next. Two groups read the "
            "same orders, each at its own pace."
        )
        flashq, screen = self.flashq, self.screen
        for group in ("billing", "kitchen"):
            screen.call(flashq.create_consumer_group, group)
        polled = screen.call(flashq.poll_records_for_consumer_group, "kitchen", TOPIC, count=2)
        screen.event(f"{len(polled)} records; next offset {polled.next_offset}")
        screen.call(flashq.commit_offset, "kitchen", TOPIC, polled.next_offset)
        self.show_groups()
        screen.say("LAG is how many records a group has not committed. Another order, and it grows for both:")
        screen.call(flashq.post_record, TOPIC, "a glass of water")
        self.show_groups()
        screen.say(
            "Polling does not move a group, committing does. Commit when the work is done: after a crash in between, "
            "the work is done again, not lost."
        )

    def _topics(self) -> None:
        self.screen.say("Many records may go in one post. They are stored together, or not at all:")
        payments = [f"payment {number}" for number in range(PAYMENTS)]
        began = time.perf_counter()
        self.screen.call(self.flashq.post_records, "payments", payments)
        took_ms = 1000 * (time.perf_counter() - began)
        self.screen.event(f"{PAYMENTS} records, one write, one fsync: {took_ms:.1f} ms with the making of the topic")
        self.show_topics()

    def crash(self) -> None:
        """A child is killed while it writes to the orders, and the log is opened again."""
        screen = self.screen
        screen.say(
            "A data directory belongs to one process at a time, so we close ours and give it to a child process. It "
            f"posts orders, and then one batch of {BATCH_BYTES // MIB} MiB. As soon as the file grows by some of that, "
            "we send SIGKILL, which no program can catch."
        )
        expected = self._end()
        screen.call(self.flashq.close)
        happened = crash(self.data_dir, TOPIC, ORDERS_OF_THE_CHILD)
        for offset in happened.acknowledged:
            screen.event(f"child {happened.pid}  acknowledged: order at offset {offset}")
        screen.event(f"child {happened.pid}  begins to write a batch of {BATCH_RECORDS} records")
        screen.event(f"kill -9 {happened.pid}", "bold red")
        written = f"{happened.written_bytes / MIB:.1f} of {BATCH_BYTES / MIB:.1f} MiB"
        screen.event(f"{written} of it are in the file" if happened.is_mid_write else "it had written all just before")
        screen.gap()
        self._show_what_is_found()
        self._open_again(expected + len(happened.acknowledged))

    def _show_what_is_found(self) -> None:
        self.screen.event("What flashq verify finds in the directory, before anything is opened:")
        logs = verify_directory(self.data_dir).logs
        rows = [(log.kind, log.name, log.records, log.state) for log in logs]
        self.screen.table(("LOG", "NAME", "RECORDS", "STATE"), rows)
        for log in logs:
            for finding in log.findings:
                self.screen.event(f"{log.name}, position {finding.position}: {finding.why}", "yellow")
        self.screen.gap()

    def _open_again(self, acknowledged: int) -> None:
        screen = self.screen
        began = time.perf_counter()
        with _warnings() as logged:
            self.flashq = screen.call(FlashQ.open, self.data_dir)
        took_ms = 1000 * (time.perf_counter() - began)
        for line in logged:
            screen.event(f"warning: {line}", "yellow")
        screen.event(f"open after {took_ms:.0f} ms")
        end = self._end()
        rows = [("acknowledged before the kill", acknowledged), ("in the log now", end)]
        screen.table(("ORDERS", "RECORDS"), rows)
        screen.say(
            "All that was acknowledged is there. Of the batch that was cut short nothing is: a post is in the log "
            "whole or not at all. Its bytes are kept beside the log, should somebody want to look."
            if end == acknowledged
            else "All that was acknowledged is there. So is the last batch, whole: it was written before the kill."
        )
        screen.result(screen.call(self.flashq.post_record, TOPIC, "life goes on"))
        self.show_groups()

    def show_groups(self) -> None:
        """Every group and what it has not read yet of the orders."""
        end = self._end()
        rows = []
        for group in self.flashq.consumer_groups():
            committed = self.flashq.consumer_group_offset(group, TOPIC)
            rows.append((group, TOPIC, committed, end, end - committed))
        self.screen.table(("GROUP", "TOPIC", "COMMITTED", "END", "LAG"), rows)

    def show_topics(self) -> None:
        rows = []
        for topic in self.flashq.topics():
            log = self.flashq.log(topic)
            rows.append((topic, log.next_offset - log.log_start_offset, log.next_offset, log.size_bytes))
        self.screen.table(("TOPIC", "RECORDS", "NEXT OFFSET", "BYTES"), rows)

    def _end(self) -> int:
        return self.flashq.high_water_mark(TOPIC)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the engine warns of, which a program that embeds it would find on standard error."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Keep(logging.WARNING), logging.getLogger("flashq")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
