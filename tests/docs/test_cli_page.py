"""The page on the command line, followed by the letter."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from flashq.cli.main import app
from tests.docs.walk import ROOT, Walk
from tests.server.running import serving

PAGE = ROOT / "docs" / "cli.md"


def test_every_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    """But for the post that is interrupted, a shell-session: where that stops is up to the machine."""
    (tmp_path / "orders.ndjson").write_text('{"value":"two coffees","key":"table-2"}\n{"value":"a cake"}\n')
    (tmp_path / "bad.ndjson").write_text('{"value":"a cake"}\n{"valu":"e"}\n')
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "data"))
        walk = Walk(PAGE, tmp_path, stack, server)
        walk.to_the_end()
    assert walk.seen == {"console": 8}


def test_every_command_has_its_place_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = [command.name for command in app.registered_commands]
    assert len(names) == 12
    assert {group.name for group in app.registered_groups} == {"topics", "groups"}
    for name in names:
        assert f"`{name}`" in text, name
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            assert f"flashq {group.name} {command.name}" in text, command.name
