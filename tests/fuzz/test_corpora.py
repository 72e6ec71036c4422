"""What fuzzing has found worth keeping, run through the same checks; and that each check can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flashq import batch
from flashq.http.handlers import bodies as body_handlers
from flashq.http.message import Response
from flashq.http.router import Router
from fuzz import bodies, frames, requests, seeds
from fuzz.__main__ import CORPUS

CHECKS: dict[str, Callable[[bytes], None]] = {
    "frames": frames.check,
    "requests": requests.check,
    "bodies": bodies.check,
}


@pytest.mark.parametrize("target", CHECKS)
def test_every_input_of_the_corpus_keeps_the_promises(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert len(inputs) >= 15
    for path in inputs:
        try:
            CHECKS[target](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"python -m fuzz {target} --replay {path}") from error


def test_the_corpora_hold_what_fuzzing_starts_from() -> None:
    for target in (seeds.frames, seeds.requests, seeds.bodies):
        for name, data in target().items():
            assert (CORPUS / target.__name__ / name).read_bytes() == data, "run python -m fuzz.seeds"


def test_the_check_of_frames_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    one = seeds.frames()["log-as-is"]
    monkeypatch.setattr(frames, "decode", lambda found, make: batch.decode(found, make)[:-1])
    with pytest.raises(AssertionError, match="we read"):
        frames.check(one)


def test_the_check_of_frames_sees_memory_taken_on_a_length_s_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(found: batch.Batch, make: batch.MakeRecord[object]) -> list[object]:
        bytearray(1 << 20)
        return batch.decode(found, make)

    monkeypatch.setattr(frames, "decode", trusting)
    with pytest.raises(AssertionError, match="bytes were taken"):
        frames.check(seeds.frames()["log-as-is"])


def test_the_check_of_requests_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    route = Router.handle
    for broken, complaint in ((500, "500"), (200, "x-number|answers to")):
        monkeypatch.setattr(
            Router, "handle", lambda router, request, status=broken: _swapped(route(router, request), status)
        )
        with pytest.raises(AssertionError, match=complaint):
            requests.check(b"\0\0" + 2 * b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")


def _swapped(answer: object, status: int) -> Response:
    assert isinstance(answer, Response)
    return Response(status, answer.body, headers=((b"x-number", b"7"),) if status == 200 else ())


def test_the_check_of_bodies_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_handlers, "_is_one_a_line", lambda body, objects: True)
    with pytest.raises(ValueError, match="Extra data"):
        bodies.check(seeds.bodies()["lines-sharing"] + b'{"value":"d"}')
