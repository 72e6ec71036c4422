"""Checklists: every sentence and row of a page is proved by a test, and a file says which.

An unindented line of it quotes a sentence or row of the page, in the page's order (… stands for the rest); the
indented lines under it prove it:

    <file>::<test>            a test, under tests/
    says: <why>               nothing to test
"""

from __future__ import annotations

import ast
import re
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"

_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)  # examples: tests/docs runs them
_BLOCK_END = re.compile(r"\n\s*\n|\n(?=[|#]| *(?:-|\d\.) )")
_BULLET = re.compile(r"^(?:-|\d\.) ")
_SENTENCE_END = re.compile(r"(?<=[.?!]) (?=[A-Z`\"\[])")
_RULE = re.compile(r"[|\- ]+")


def statements(page: str) -> list[str]:
    """The titles, table rows and sentences of a page of Markdown, in order, each on one line."""
    found: list[str] = []
    for block in _BLOCK_END.split(_CODE.sub("", page)):
        line = " ".join(block.split())
        if line.startswith(("|", "##")):
            found += [line] * (not _RULE.fullmatch(line))
        elif not line.startswith("#"):
            found += _SENTENCE_END.split(_BULLET.sub("", line))
    return [each for each in found if each]


@dataclass(frozen=True)
class Checklist:
    """A page and the file that proves it."""

    page: Path
    path: Path

    def said(self) -> list[str]:
        return statements(self.page.read_text(encoding="utf-8"))

    def quotes(self) -> list[tuple[str, list[str]]]:
        """Quotes, each with its proofs."""
        found: list[tuple[str, list[str]]] = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                found[-1][1].append(line.strip())
            else:
                found.append((line, []))
        return found

    def check_order(self) -> None:
        """Every sentence and row of the page is quoted, in its order."""
        said, quotes = self.said(), [quote for quote, _ in self.quotes()]
        for sentence, quote in zip(said, quotes, strict=False):
            start, cut, _ = quote.partition(" …")
            matches = sentence.startswith(start) if cut else sentence == quote
            assert matches, f"the page: {sentence}\nthe checklist: {quote}"
        assert len(quotes) == len(said), (len(quotes), len(said))

    def check_proofs(self, others: Container[str] = ()) -> None:
        """Every quote but titles has proofs, each a test that is there, or one of `others`."""
        for quote, proofs in self.quotes():
            assert bool(proofs) != quote.startswith("##"), quote
            for proof in proofs:
                path, _, name = proof.partition("::")
                if name:
                    assert name in _named_in(TESTS / path), proof
                else:
                    assert proof in others or proof.startswith("says: "), proof


@cache
def _named_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}
