"""No verb and no option of `flashq` is left untried, undocumented or without what every other one has."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import typer

from flashq.cli.main import app
from tests.docs.walk import ROOT

# What a command of `flashq` is: its words, and its options by their longest names.
Verb = tuple[str, ...]
PAGES: dict[Verb, str] = {
    ("serve",): "configuration.md",
    ("verify",): "operations.md",
    ("repair",): "operations.md",
    ("dump",): "operations.md",
}
"""Where the options of a verb are, if not in cli.md."""
PRINTS_NO_RESULTS = {("serve",), ("demo",), ("completion",)}
"""Log lines, a tour and a script: there is nothing that --json could print."""


ROOT_COMMAND = typer.main.get_group(app)


def options_by_verb() -> dict[Verb, list[str]]:
    found: dict[Verb, list[str]] = {}

    def walk(command: typer.core.TyperGroup, words: Verb) -> None:
        for name, each in command.commands.items():
            if isinstance(each, typer.core.TyperGroup):
                walk(each, (*words, name))
            else:
                names = [option for parameter in each.params for option in (*parameter.opts, *parameter.secondary_opts)]
                found[(*words, name)] = [name for name in names if name.startswith("--") and name != "--help"]

    walk(ROOT_COMMAND, ())
    return found


VERBS = options_by_verb()


STARTS_A_SERVER = {"serving", "flashq", "flashq_server"}
"""Functions of the tests that give their arguments to `flashq serve`."""


@cache
def commands_in_docs() -> list[list[str]]:
    """Of the pages whose console blocks are run by tests, as words."""
    pages = [ROOT / "docs" / name for name in ("cli.md", "operations.md")]
    shown = re.findall(r"^\$ (.*flashq .*)$", "\n".join(page.read_text("utf-8") for page in pages), re.MULTILINE)
    return [shlex.split(line) for line in shown]


@cache
def words_of_tests() -> list[set[str]]:
    """The strings in each function of the tests and its decorators, and in constants of its module that it names."""
    found = []
    for path in [*ROOT.joinpath("tests").rglob("*.py")]:
        if path.name in ("test_every_option.py", "test_serve.py"):  # this one, and one without real servers
            continue
        module = ast.parse(path.read_text("utf-8"))
        constants = {
            target.id: set(_strings(node.value))
            for node in module.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef):
                named = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                serve = {"serve"} if named & STARTS_A_SERVER else set()
                found.append(set(_strings(node)).union(serve, *(constants[name] for name in named & set(constants))))
    return found


def _strings(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def is_tried(verb: Verb, option: str) -> bool:
    in_docs = any(_goes_with(verb, words) and option in words for words in commands_in_docs())
    return in_docs or any({*verb, option} <= words for words in words_of_tests())


def _goes_with(verb: Verb, words: list[str]) -> bool:
    return any(tuple(words[at : at + len(verb)]) == verb for at in range(len(words)))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_option_is_tried(verb: Verb) -> None:
    assert [option for option in VERBS[verb] if not is_tried(verb, option)] == []


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_option_is_in_the_docs(verb: Verb) -> None:
    page = PAGES.get(verb, "cli.md")
    written = set(re.findall(r"--[a-z][a-z-]*", (ROOT / "docs" / page).read_text("utf-8")))
    assert [option for option in VERBS[verb] if option not in written and not option.startswith("--no-")] == []


def test_every_verb_that_prints_results_prints_them_as_json_too() -> None:
    assert {verb for verb, options in VERBS.items() if "--json" not in options} == PRINTS_NO_RESULTS


def test_every_verb_has_help_and_every_option_says_what_it_is_for() -> None:
    for verb in VERBS:
        command: Any = ROOT_COMMAND
        for word in verb:
            command = command.commands[word]
        assert command.help, verb
        options = [each for each in command.params if each.param_type_name == "option"]
        assert [each.name for each in options if not each.help] == [], verb
