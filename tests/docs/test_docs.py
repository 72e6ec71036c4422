"""The documentation is true: examples answer what they show, links lead somewhere, tables are whole."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import flashq as package
from flashq.api.errors import STATUS
from flashq.cli import exit_codes
from tests.docs.walk import ROOT, SHOWN_SERVER, without_times
from tests.server.running import JSON, ask, serving

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ERROR_ROW = re.compile(r"^\| `(\w+)` \| (\d{3}) \|", re.MULTILINE)
_REFUSAL = re.compile(r'ProtocolError\(\s*(\d{3}), "(\w+)"')


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def examples(page: Path) -> Iterator[tuple[str, str]]:
    """Every `$ command` of the page's consoles, with the output shown under it."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def section(page: Path, title: str) -> str:
    return page.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_readme_begins_with_the_two_commands_and_make_knows_them() -> None:
    first = blocks(ROOT / "README.md", "sh")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make serve", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^serve:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)


@pytest.mark.skipif(not (ROOT / ".venv" / ".ready").exists(), reason="the tests were not started by make")
def test_make_serve_serves(tmp_path: Path) -> None:
    arguments = f"ARGS=--port 0 --data-dir {tmp_path / 'data'}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        make = subprocess.Popen(
            ["make", "serve", arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 20
        while not (said := re.search(r'"address": "\S+:(\d+)"', log.read_text(encoding="utf-8"))):
            assert make.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        answer = ask(int(said[1]), "POST", "/topics/t/records", b'{"records":[{"value":"v"}]}', JSON)
        assert (answer.status, answer.json()["offsets"][0]["offset"]) == (200, 0)
    finally:
        os.killpg(make.pid, signal.SIGTERM)
        make.wait(20)


def test_the_embedded_example_of_the_readme_prints_what_it_shows(tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    (program,), (shown,) = blocks(readme, "python"), blocks(readme, "text")
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == (shown, "")


def test_the_readme_fits_on_a_page_and_its_figures_are_those_of_the_page_on_performance() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 90
    figures = re.findall(r"\d[\d,.]*(?= (?:records/s|requests/s|MB|s)\b)", section(readme, "Figures"))
    assert len(figures) == 6
    measured = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert [figure for figure in figures if figure not in measured] == []


def test_every_page_is_in_the_list_of_pages() -> None:
    listed = {(ROOT / "docs" / link).resolve() for link in _LINK.findall((ROOT / "docs" / "README.md").read_text())}
    pages = {
        page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "decisions" and page.name != "README.md"
    }
    assert pages <= listed


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed, so its examples cannot be run")
@pytest.mark.parametrize("name", ["README.md", "docs/http-api.md"])
def test_every_curl_example_answers_what_it_shows(name: str, tmp_path: Path) -> None:
    shown = list(examples(ROOT / name))
    assert len(shown) >= 2
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with serving(tmp_path / "data") as server:
        for command, output in shown:
            arguments = shlex.split(command.replace(SHOWN_SERVER, f"http://127.0.0.1:{server.port}"))
            assert arguments[0] == "curl"
            ran = subprocess.run(arguments, capture_output=True, text=True, timeout=30, env=environment)
            stopped = 28 if "-m" in arguments else 0  # a stream, which does not end by itself
            assert ran.returncode == stopped, (command, ran.stderr)
            assert without_times(ran.stdout) == without_times(output), command


def test_the_commands_on_a_damaged_directory_print_what_the_operations_page_shows(tmp_path: Path) -> None:
    with package.FlashQ.open(tmp_path / "flashq-data") as flashq:
        for number in range(5):
            flashq.post_record("news", f"story {number}")
        flashq.create_consumer_group("readers")
    segment = tmp_path / "flashq-data" / "topics" / "news" / "0" / f"{0:020}.log"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    codes = []
    for command, output in examples(ROOT / "docs" / "operations.md"):
        arguments = [str(Path(sys.executable).with_name("flashq")), *shlex.split(command)[1:]]
        ran = subprocess.run(
            arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30
        )
        assert without_times(ran.stdout) == without_times(output), command
        codes.append(ran.returncode)
    assert codes == [4, 4, 0, 0, 0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_title_in_it(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_the_error_tables_list_exactly_what_the_server_answers() -> None:
    documented = _ERROR_ROW.findall(section(ROOT / "docs" / "http-api.md", "Errors"))
    sources = Path(str(package.__file__)).parent.joinpath("http").glob("*.py")
    refusals = {(code, status) for path in sources for status, code in _REFUSAL.findall(path.read_text("utf-8"))}
    assert len(refusals) >= 5
    table = [(code, str(status)) for code, status in STATUS.items()]
    assert documented[: len(table)] == table
    assert sorted(documented[len(table) :]) == sorted(refusals)


def test_the_table_of_exit_codes_is_that_of_the_command() -> None:
    told = [line for line in str(exit_codes.__doc__).splitlines() if line.startswith("|")]
    shown = [line for line in section(ROOT / "docs" / "operations.md", "Exit codes").splitlines() if line[:1] == "|"]
    assert shown == told
    values = {value for value in vars(exit_codes).values() if isinstance(value, int)}
    assert {int(line.split("|")[1]) for line in told[2:]} == values
