"""Requests to handlers: paths, methods, who may come in, and errors as the contract shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import unquote

from flashq.api.errors import RequestError, error_body
from flashq.api.operations import BY_ID
from flashq.errors import FlashQError
from flashq.http.edge import Edge
from flashq.http.message import RETRY_SOON, Deferred, Fields, Request, Response, with_fields

OperationHandler = Callable[..., Response | Deferred]
"""Takes the request and the names in its path."""


class Router:
    """The server's one handler: requests that `edge` lets in, to the handlers of operations, given by operation id."""

    def __init__(self, handlers: Mapping[str, OperationHandler], edge: Edge | None = None) -> None:
        by_path: dict[str, dict[str, OperationHandler]] = {}
        for name, handler in handlers.items():
            by_path.setdefault(BY_ID[name].path, {})[BY_ID[name].method] = handler
        self._routes = [(template.split("/"), methods) for template, methods in by_path.items()]
        self._edge = edge or Edge()

    def __call__(self, request: Request) -> Response | Deferred:
        head = request.head
        try:
            resolved = head.memo
            if resolved is None:  # equal heads share one: routed and let in once
                resolved = head.memo = self._resolve(request)
            operation, names = resolved
            answer: Response | Deferred = operation(request, *names)
            return answer
        except FlashQError as error:
            refused = error_response(error, request)
        except RecursionError:
            refused = error_response(RequestError("invalid_json", "the JSON is nested too deeply"), request)
        fields = self._edge.cors_fields(request)
        return with_fields(refused, fields) if fields else refused

    def _resolve(self, request: Request) -> tuple[OperationHandler, tuple[str, ...]]:
        self._edge.check_sender(request)
        preflight = self._edge.preflight(request)
        if preflight is not None:
            return lambda _: preflight, ()
        self._edge.check_token(request)
        operation, names = self._route(request)
        fields = self._edge.cors_fields(request)
        return _adding(fields, operation) if fields else operation, names

    def _route(self, request: Request) -> tuple[OperationHandler, tuple[str, ...]]:
        for template, operations in self._routes:
            names = _match(template, request.path)
            if names is not None:
                operation = operations.get(request.method) or (
                    operations.get("GET") if request.method == "HEAD" else None
                )
                if operation is None:
                    allowed = sorted({*operations, *(["HEAD"] if "GET" in operations else [])})
                    raise RequestError(
                        "method_not_allowed",
                        f"{request.path} takes {', '.join(allowed)}, not {request.method}",
                        allow=allowed,
                    )
                return operation, names
        raise RequestError("not_found", "there is nothing at this path", path=request.path[:200])


def _adding(fields: Fields, operation: OperationHandler) -> OperationHandler:
    """The operation, with these headers in its answers."""

    def added(request: Request, *names: str) -> Response | Deferred:
        answer = operation(request, *names)
        if isinstance(answer, Response):
            return with_fields(answer, fields)
        if answer.response is not None:
            answer.response = with_fields(answer.response, fields)
        answer.fields = fields
        return answer

    return added


def error_response(error: FlashQError, request: Request) -> Response:
    """An error as JSON. Never holds more of the request than the error chose to repeat."""
    status, body = error_body(error, is_write=request.method not in ("GET", "HEAD", "OPTIONS"))
    headers: Fields = RETRY_SOON if error.retriable else ()
    if status == 405:
        headers = ((b"allow", ", ".join(error.details["allow"]).encode()),)  # type: ignore[arg-type]
    elif status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    return Response(status, body, headers=headers)


def _match(template: list[str], path: str) -> tuple[str, ...] | None:
    parts = path.split("/")
    if len(parts) != len(template):
        return None
    names: list[str] = []
    for expected, part in zip(template, parts, strict=True):
        if expected.startswith("{"):
            names.append(unquote(part, errors="replace"))
        elif expected != part:
            return None
    return tuple(names)
