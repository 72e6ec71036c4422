"""Every row of `contract_rows.py` against a server of either storage."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from tests.api.contract_rows import SECTIONS, Begins, Step
from tests.server.running import Answer, Process

_names = itertools.count()
ROWS = [(section, says, steps) for section, rows in SECTIONS.items() for says, steps in rows.items()]


@pytest.mark.parametrize(("section", "says", "steps"), ROWS, ids=[f"{section}: {says}" for section, says, _ in ROWS])
def test_the_contract(server: Process, section: str, says: str, steps: list[Step]) -> None:
    number = next(_names)
    names = {"{t}": f"conforms-{number}", "{g}": f"conforms-{number}"}
    for step in steps:
        method, target = fill(step.line, names).split(" ", 1)
        body = step.body if step.body is None or isinstance(step.body, bytes) else json.dumps(step.body).encode()
        wanted = re.compile(step.gives.pattern) if isinstance(step.gives, Begins) else None
        answer = server.ask(method, target, body, step.headers, until=wanted)
        assert answer.status == step.status, (step.line, answer)
        compare(step, answer, names)


def fill(template: Any, names: dict[str, str]) -> Any:
    for mark, name in names.items():
        template = template.replace(mark, name)
    return template


def compare(step: Step, answer: Answer, names: dict[str, str]) -> None:
    for name, expected in step.answer_headers.items():
        if expected is None:
            assert name not in answer.headers, (step.line, name)
            continue
        assert name in answer.headers
        assert matches(answer.headers[name], expected, names), (step.line, name, answer.headers[name])
    if step.gives is ... or step.gives == b"...":
        assert answer.body
    elif isinstance(step.gives, Begins):
        assert re.match(step.gives.pattern, answer.body.decode()), (step.line, answer.body)
    elif isinstance(step.gives, re.Pattern):
        assert step.gives.search(answer.body.decode()), (step.line, answer.body)
    elif isinstance(step.gives, bytes):
        assert answer.body == step.gives, step.line
    elif isinstance(step.gives, list):
        lines = [json.loads(line) for line in answer.body.splitlines()]
        assert matches(lines, step.gives, names), (step.line, lines)
    else:
        assert answer.headers["content-type"] == "application/json"
        assert matches(answer.json(), step.gives, names), (step.line, answer.body)


def matches(found: Any, expected: Any, names: dict[str, str]) -> bool:
    """Whether everything expected is found; lists must be of one length."""
    if expected is ...:
        return found is not None
    if isinstance(expected, re.Pattern):
        return expected.fullmatch(found) is not None
    if isinstance(expected, dict):
        return all(name in found and matches(found[name], value, names) for name, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(
            matches(one, other, names) for one, other in zip(found, expected, strict=True)
        )
    wanted = fill(expected, names) if isinstance(expected, str) else expected
    return bool(found == wanted and type(found) is type(wanted))
