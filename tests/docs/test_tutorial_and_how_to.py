"""The tutorial and the how-to pages, followed by the letter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from flashq import Client, FlashQ
from tests.docs.walk import ROOT, Walk
from tests.server.running import serving

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed, so pages cannot be followed"
)


@needs_curl
def test_the_tutorial_works_from_top_to_bottom(tmp_path: Path) -> None:
    with ExitStack() as stack:
        walk = Walk(ROOT / "docs" / "tutorial.md", tmp_path, stack)
        walk.to_the_end()
    assert walk.seen == {"python": 3, "sh": 3, "console": 2}


def test_the_page_on_embedding_prints_what_it_shows(tmp_path: Path) -> None:
    with ExitStack() as stack:
        walk = Walk(ROOT / "docs" / "how-to" / "embed.md", tmp_path, stack)
        walk.to_the_end()
    assert walk.seen == {"python": 2}


@needs_curl
def test_the_page_on_groups_prints_what_it_shows(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "data"))
        walk = Walk(ROOT / "docs" / "how-to" / "groups.md", tmp_path, stack, server)
        walk.to_the_end()
    assert walk.seen == {"python": 1, "console": 1}


def steps_of(page: str, title: str) -> str:
    section = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8").split(f"\n## {title}\n")[1]
    return section.split("```sh\n")[1].split("```")[0]


def test_a_backup_of_a_running_server_restores_to_a_log_that_verify_accepts(tmp_path: Path) -> None:
    """Posts and commits go on, over many rolls, while the copy is made; what was acknowledged before it is in it."""
    data_dir, stop = tmp_path / "flashq-data", threading.Event()
    acknowledged = committed = 0

    def work(url: str) -> None:
        nonlocal acknowledged, committed
        with Client(url) as flashq:
            while not stop.is_set():
                acknowledged = flashq.post_records("news", [f"story {acknowledged + n}" for n in range(50)])[-1] + 1
                flashq.commit_offset("readers", "news", acknowledged)
                committed = acknowledged

    with serving(data_dir, "--segment-bytes", "16KiB", "--sync-mode", "never") as server:
        url = f"http://127.0.0.1:{server.port}"
        with Client(url) as flashq:
            flashq.create_consumer_group("readers")
        worker = threading.Thread(target=work, args=(url,))
        worker.start()
        try:
            while committed < 2000:
                assert worker.is_alive()
            before = acknowledged, committed
            steps = "\n".join(
                line for line in steps_of("backup.md", "A running server").splitlines() if "verify" not in line
            )
            subprocess.run(["sh", "-e", "-c", steps], cwd=tmp_path, check=True, timeout=60)
        finally:
            stop.set()
            worker.join()
    backup = tmp_path / "backup"
    assert verify_finds_nothing(backup)
    with FlashQ.open(backup) as restored:
        end = restored.high_water_mark("news")
        assert end >= before[0]
        assert before[1] <= restored.consumer_group_offset("readers", "news") <= end
        for start in range(0, end, 1000):
            polled = restored.poll_records("news", from_offset=start, count=1000)
            assert [record.text for record in polled] == [f"story {start + n}" for n in range(len(polled))]
        assert restored.post_record("news", "after the restore") == end


def verify_finds_nothing(directory: Path) -> bool:
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("flashq")), "verify", "--json", str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return all(json.loads(line).get("state", "ok") in ("ok", "torn") for line in ran.stdout.splitlines())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = (ROOT / "deploy" / "flashq.service").read_text(encoding="utf-8")
    here = tmp_path / "flashq.service"
    flashq = str(Path(sys.executable).with_name("flashq"))
    here.write_text(unit.replace("/opt/flashq/bin/flashq", flashq), encoding="utf-8")
    ran = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "flashq.service" not in ran.stderr, ran.stderr
