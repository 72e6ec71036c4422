"""The OpenAPI document holds for the running server: schemathesis asks every operation, with all its checks."""

from __future__ import annotations

import itertools
import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
import requests  # schemathesis sends with it
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode

from flashq.api.openapi import openapi_document
from flashq.api.operations import OPERATIONS, Operation
from flashq.api.queries import NoQuery
from flashq.names import is_name
from tests.server.running import Process, serving

FOLLOWS = {operation.id for operation in OPERATIONS if operation.id.startswith("stream_")}
"""Endless answers."""
MAX_WAIT_MS = 20
TOPIC, GROUP = "described", "describing"
TOKEN = "secret"
_fresh = itertools.count()


@schemathesis.hook
def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """A long poll that waits a minute tells no more than one that waits a moment."""
    if query and str(query.get("timeout_ms", "")).isdecimal() and int(query["timeout_ms"]) <= 60_000:
        query["timeout_ms"] = str(int(query["timeout_ms"]) % MAX_WAIT_MS)
    return query


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Half of what is asked for is there. What is no name stays so: it is what makes a case invalid."""
    for name, known in (("topic", TOPIC), ("group", GROUP)):
        asked = str((path_parameters or {}).get(name, ""))
        if path_parameters and is_name(asked) and len(asked) % 2:
            path_parameters[name] = known
    return path_parameters


@pytest.fixture
def described(server: Process) -> Any:
    server.post(TOPIC, "a", {"value": "b", "key": "k", "headers": {"h": "1"}})
    assert server.ask("POST", f"/consumer/{GROUP}").status == 200
    return loaded(server)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a server that wants a token."""
    data_dir = tmp_path_factory.mktemp("guarded") / "data"
    with serving(data_dir, "--storage", "memory", environ={"FLASHQ_TOKEN": TOKEN}) as server:
        yield loaded(server, {"Authorization": f"Bearer {TOKEN}"})


def loaded(server: Process, headers: dict[str, str] | None = None) -> Any:
    found = schemathesis.openapi.from_dict(server.ask("GET", "/openapi.json", headers=headers).json())
    found.config.update(base_url=f"http://127.0.0.1:{server.port}")
    refusals = found.config.checks.negative_data_rejection
    refusals.expected_statuses = [*refusals.expected_statuses, "414"]  # of what may be a long list, too
    return found


def sound(body: Any) -> Any:
    """What a schema cannot say: 1.0 is no integer to us, base64 must be base64, an offset must be there."""
    if isinstance(body, list):
        return [sound(each) for each in body]
    if isinstance(body, dict):
        body = {name: sound(value) for name, value in body.items()}
        for name, encoding in (("value", "encoding"), ("key", "key_encoding")):
            if body.get(encoding) and isinstance(body.get(name), str):
                body[name] = b64encode(body[name].encode("utf-8", "replace")).decode()
        if isinstance(body.get("offset"), int):
            body["offset"] %= 2
        return body
    return int(body) if isinstance(body, float) and body.is_integer() else body


def make_sound(case: Any, server: Process, left_out: set[str]) -> None:
    """Have a valid case meet what a document cannot say."""
    if "from_offset" in (case.query or {}):
        left_out = {*left_out, "from_time"}  # they exclude each other
    case.query = {name: value for name, value in (case.query or {}).items() if name not in left_out}
    if isinstance(case.body, dict):
        case.body = sound(case.body)
    headers = case.headers or {}
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = f"fresh-{next(_fresh)}"
    if "If-Next-Offset" in headers:
        told = server.ask("GET", f"/topics/{case.path_parameters['topic']}")
        headers["If-Next-Offset"] = str(told.json()["next_offset"] if told.status == 200 else 0)


def send(case: Any) -> None:
    """Ask, and have all checks of schemathesis look at the answer. Of an endless one they see the beginning."""
    if case.operation.definition.raw["operationId"] not in FOLLOWS:
        case.call_and_validate(timeout=10)
        return
    with requests.request(**case.as_transport_kwargs(), stream=True, timeout=10) as answer:
        if answer.status_code == 200:
            beginning = answer.raw.read1()
            assert beginning.startswith(b"retry: ")
            answer._content = beginning  # what `content` gives; to read it would wait for the end
            answer._content_consumed = True
        case.validate_response(answer)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.id)
def test_every_operation_answers_as_described(
    server: Process, described: Any, operation: Operation, mode: GenerationMode, request: pytest.FixtureRequest
) -> None:
    left_out = set() if request.node.callspec.params["server"] == "file" else {"sync"}  # which needs files
    sent: set[str] = set()
    found = described[operation.path][operation.method]
    if mode is GenerationMode.NEGATIVE and operation.query in (None, NoQuery) and not operation.bodies:
        mode = GenerationMode.POSITIVE  # there is nothing to be wrong about

    @given(case=found.as_strategy(generation_mode=mode))
    @settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            make_sound(case, server, left_out)
            sent.update(case.query, case.headers or {})
        send(case)

    ask()
    if mode is GenerationMode.POSITIVE and operation.id == "post_records":
        assert sent == {"sync", "Idempotency-Key", "If-Next-Offset"} - left_out


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.id)
def test_without_the_token_every_operation_answers_401_as_described(guarded: Any, operation: Operation) -> None:
    @given(case=guarded[operation.path][operation.method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    @settings(max_examples=3, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: Any) -> None:
        answer = case.call_and_validate(timeout=10)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == ["Bearer"]

    ask()


def test_the_document_has_every_operation_and_no_other(server: Process) -> None:
    document = server.ask("GET", "/openapi.json").json()
    assert document == json.loads(json.dumps(openapi_document()))
    documented = {
        (method.upper(), path, about["operationId"])
        for path, methods in document["paths"].items()
        for method, about in methods.items()
    }
    assert documented == {(operation.method, operation.path, operation.id) for operation in OPERATIONS}


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.id in FOLLOWS], ids=lambda each: each.id)
def test_a_stream_answers_as_described_up_to_its_head(server: Process, described: Any, operation: Operation) -> None:
    answers = openapi_document()["paths"][operation.path]["get"]["responses"]
    target = operation.path.format(topic=TOPIC, group=GROUP)
    for query, headers, status in [
        ("", {}, 200),
        ("?from_offset=1", {"Last-Event-ID": "0"}, 200),
        ("?from_offset=x", {}, 400),
        ("?unknown=1", {}, 400),
        ("", {"Last-Event-ID": "x"}, 400),
    ]:
        answer = server.ask("HEAD", target + query, headers=headers)
        assert answer.status == status
        assert answer.headers["content-type"] in answers[str(status)]["content"]
    assert server.ask("GET", operation.path.format(topic="none", group=GROUP)).status == 404
