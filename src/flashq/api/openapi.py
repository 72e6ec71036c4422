"""The OpenAPI 3.1 document, made from the operations and the shapes that validate."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import UnionType
from typing import Any

import msgspec

from flashq import __version__
from flashq.api import schemas
from flashq.api.errors import STATUS
from flashq.api.operations import EVERYWHERE, JSON, NDJSON, OPERATIONS, Operation
from flashq.names import MAX_IDEMPOTENCY_KEY_CHARS

Document = dict[str, Any]

NAME_PATTERN = r"^(?!\.{1,2}$)[A-Za-z0-9._][A-Za-z0-9._-]{0,254}$"
_REF = "#/components/schemas/{name}"

_PROTOCOL_ERRORS: Mapping[int, str] = {
    400: "the request is malformed",
    408: "the request did not arrive in time",
    413: "the body is over its limit",
    414: "the request line is over its limit",
    417: "the only expectation understood is 100-continue",
    431: "the head is over its limit",
    501: "the only transfer coding understood is chunked",
    503: "too many connections or bodies at once; try again",
}
"""What any request can meet before it reaches an operation. Their codes are not those of `api/errors.py`."""

_REQUEST_HEADERS: Mapping[str, Document] = {
    "Idempotency-Key": {
        "schema": {"type": "string", "pattern": f"^[!-~]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}$"},
        "description": "The same key with the same records stores nothing again and gets the first answer.",
    },
    "If-Next-Offset": {
        "schema": {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1},
        "description": "Store only if the topic ends at this offset; 0 also if there is no such topic.",
    },
    "Last-Event-ID": {
        "schema": {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 2},
        "description": "Go on after this offset. Wins over the parameters.",
    },
}
_ANSWER_HEADERS: Mapping[str, Document] = {
    "X-FlashQ-Durability": {"schema": {"enum": ["fsynced", "written", "memory", "replicated"]}, "required": True},
    **{
        name: {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "description": "Of NDJSON answers."}
        for name in ("X-Next-Offset", "X-High-Water-Mark", "X-Log-Start-Offset", "X-Committed-Offset")
    },
}
_TIME: list[Document] = [
    {"type": "string", "pattern": "^[0-9]{1,15}$"},
    {"type": "string", "format": "date-time"},
]
# What the server checks beyond the types: sizes are bytes of UTF-8, which JSON Schema cannot count.
_LIMITS: Mapping[str, Mapping[str, Document]] = {
    "PostRecords": {"records": {"minItems": 1, "maxItems": schemas.MAX_BATCH_RECORDS}},
    "RecordIn": {
        "value": {"description": f"At most {schemas.MAX_VALUE_BYTES} bytes of UTF-8, or of what base64 holds."},
        "key": {"description": f"At most {schemas.MAX_KEY_BYTES} bytes."},
        "headers": {"description": f"Values of at most {schemas.MAX_HEADER_VALUE_BYTES} bytes each."},
    },
    "CommitOffset": {"metadata": {"description": f"At most {schemas.MAX_METADATA_BYTES} bytes."}},
}


def openapi_document() -> Document:
    """All operations of the contract."""
    shapes = [*dict.fromkeys(_shapes())]
    found, components = msgspec.json.schema_components(shapes, schema_hook=_anything, ref_template=_REF)
    schema_of = dict(zip(shapes, found, strict=True))
    for name, fields in _LIMITS.items():
        for field, limits in fields.items():
            components[name]["properties"][field].update(limits)
    components["ResetOffset"] = _reset_schema(components["ResetOffset"])
    paths: dict[str, Document] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FlashQ",
            "version": __version__,
            "summary": "A record log: topics, offsets, consumer groups.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _reset_schema(schema: Document) -> Document:
    """What goes with each `to`, which one struct cannot say."""
    dry_run = schema["properties"]["dry_run"]
    variants: list[tuple[list[str], Document]] = [
        (["earliest", "latest"], {}),
        (["offset"], {"offset": {"type": "integer"}}),
        (["time"], {"time": {"anyOf": _TIME}}),
    ]
    return {
        "title": schema["title"],
        "description": schema["description"],
        "oneOf": [
            {
                "type": "object",
                "properties": {"to": {"enum": to}, **needed, "dry_run": dry_run},
                "required": ["to", *needed],
                "additionalProperties": False,
            }
            for to, needed in variants
        ],
    }


def _shapes() -> list[Any]:
    """Every JSON shape of the contract that has a schema."""
    shapes: list[Any] = [schemas.ErrorBody]
    for operation in OPERATIONS:
        shapes += operation.bodies.values()
        for answer in operation.answers.values():
            for shape in answer.content.values():
                shapes += _one_of(shape) if shape is not None else ()
    return shapes


def _anything(kind: type) -> Document:
    """The schema of `object`: the details of an error are any JSON."""
    assert kind is object
    return {"description": "any JSON value"}


def _one_of(shape: Any) -> tuple[Any, ...]:
    """The members of a union: which of them comes depends on the request."""
    return shape.__args__ if isinstance(shape, UnionType) else (shape,)


def _operation(operation: Operation, schema_of: Mapping[Any, Document]) -> Document:
    described: Document = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation), *_header_parameters(operation)],
        "responses": {**_errors(operation, schema_of), **_answers(operation, schema_of)},
    }
    if operation.bodies:
        content = {kind: {"schema": _body_schema(kind, schema_of[shape])} for kind, shape in operation.bodies.items()}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    return described


def _path_parameters(operation: Operation) -> list[Document]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    schema = {"type": "string", "pattern": NAME_PATTERN, "minLength": 1, "maxLength": 255}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _query_parameters(operation: Operation) -> list[Document]:
    if operation.query is None:
        return []
    schema = msgspec.json.schema_components([operation.query], ref_template=_REF)[1][operation.query.__name__]
    parameters = []
    for name, shape in schema["properties"].items():
        shown = _without_null(shape)
        if shown.pop("time", False):
            shown = {"anyOf": _TIME, "description": shown["description"]}
        parameters.append({"name": name, "in": "query", "required": False, "schema": shown})
    return parameters


def _without_null(shape: Document) -> Document:
    """A parameter that is absent is not null."""
    if "anyOf" in shape:
        (kept,) = (each for each in shape["anyOf"] if each.get("type") != "null")
        return dict(kept)
    shown = {name: value for name, value in shape.items() if name != "default" or value is not None}
    if "enum" in shown:
        shown["enum"] = [value for value in shown["enum"] if value is not None]
    return shown


def _header_parameters(operation: Operation) -> list[Document]:
    return [
        {"name": name, "in": "header", "required": False, **_REQUEST_HEADERS[name]}
        for name in operation.request_headers
    ]


def _body_schema(kind: str, schema: Document) -> Document:
    """NDJSON is text to OpenAPI 3.1: the shape of a line can only be told."""
    if kind != NDJSON:
        return schema
    return {"type": "string", "description": "Lines, each of them JSON.", "x-line": schema}


def _answers(operation: Operation, schema_of: Mapping[Any, Document]) -> Document:
    answers: Document = {}
    for status, answer in operation.answers.items():
        shown: Document = {"description": HTTPStatus(status).phrase}
        if answer.content:
            shown["content"] = {
                kind: {"schema": _answer_schema(kind, shape, schema_of)} for kind, shape in answer.content.items()
            }
        if answer.headers:
            shown["headers"] = {name: _ANSWER_HEADERS[name] for name in answer.headers}
        answers[str(status)] = shown
    return answers


def _answer_schema(kind: str, shape: Any, schema_of: Mapping[Any, Document]) -> Document:
    if shape is None:
        return {"type": "string"}
    found = [_body_schema(kind, schema_of[each]) for each in _one_of(shape)]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _errors(operation: Operation, schema_of: Mapping[Any, Document]) -> Document:
    """Codes by status, those of the protocol layer among them."""
    by_status: dict[int, list[str]] = {}
    for code in (*EVERYWHERE, *operation.errors):
        by_status.setdefault(STATUS[code], []).append(code)
    content = {JSON: {"schema": schema_of[schemas.ErrorBody]}}
    errors: Document = {}
    for status in sorted({*by_status, *_PROTOCOL_ERRORS}):
        told = [f"`{code}`" for code in by_status.get(status, [])]
        if status in _PROTOCOL_ERRORS:
            told.append(_PROTOCOL_ERRORS[status])
        errors[str(status)] = {"description": ", ".join(told), "content": content}
    return errors
