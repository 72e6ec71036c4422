"""Every sentence and row of docs/durability.md is proved by a test: `checklist.txt` says which."""

from __future__ import annotations

from pathlib import Path

from flashq.http.head import Limits
from flashq.settings import ServerSettings
from flashq.storage.file.backend import _LOGS_SYNCED_SINGLY
from flashq.storage.file.disk import RESERVED_DESCRIPTORS
from tests.checklists import DOCS, Checklist

CHECKLIST = Checklist(DOCS / "durability.md", Path(__file__).with_name("checklist.txt"))


def test_every_sentence_and_row_of_the_page_is_on_the_checklist_in_its_order() -> None:
    CHECKLIST.check_order()


def test_everything_on_the_checklist_is_proved_by_a_test_that_is_there() -> None:
    CHECKLIST.check_proofs()


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    page, settings = " ".join(CHECKLIST.said()), ServerSettings()
    for words in (
        f"after `commit_threshold` records ({settings.commit_threshold})",
        f"or `sync_interval_s` ({settings.sync_interval_s:g} s)",
        f"With more than {_LOGS_SYNCED_SINGLY} topics and groups",
        f"Storage keeps {RESERVED_DESCRIPTORS} descriptors in reserve",
        f"past `max_connections` ({Limits().max_connections:,})",
    ):
        assert words in page
