"""Requests to handlers: paths, methods, who may come in, and errors as the contract shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import NamedTuple
from urllib.parse import unquote

from flashq.api.errors import RequestError, error_body
from flashq.api.operations import BY_ID
from flashq.errors import FlashQError
from flashq.http.edge import Edge
from flashq.http.message import RETRY_SOON, Counts, Deferred, Fields, Request, Response, with_fields
from flashq.metrics import NO_OPERATION, Metrics

RequestHandler = Callable[[Request], Response | Deferred]
OperationHandler = Callable[..., Response | Deferred]
"""Takes the request and the names in its path."""


class PerHead(NamedTuple):
    """An operation that looks at a head once: `prepare(head, *names)` gives what answers the requests that have this
    head. It must not raise: what it has to refuse, what it gives refuses."""

    prepare: Callable[..., RequestHandler]


_Operation = tuple[OperationHandler | PerHead, Counts]


class Router:
    """The server's one handler: requests that `edge` lets in, to the handlers of operations, given by operation id.

    Every answer is counted in `metrics` under its operation: here, or by the `Deferred` that gives it later.
    """

    def __init__(
        self,
        handlers: Mapping[str, OperationHandler | PerHead],
        edge: Edge | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        by_path: dict[str, dict[str, _Operation]] = {}
        for name, handler in handlers.items():
            operation = handler, metrics.of(name)
            by_path.setdefault(BY_ID[name].path, {})[BY_ID[name].method] = operation
        self._routes = [(template.split("/"), methods) for template, methods in by_path.items()]
        self._edge = edge or Edge()
        self._unrouted: Counts = metrics.of(NO_OPERATION)

    def handle(self, request: Request) -> Response | Deferred:
        since = perf_counter()
        head, counts = request.head, self._unrouted
        answer: Response | Deferred
        try:
            resolved = head.memo
            if resolved is None:  # equal heads share one: routed and let in once
                resolved = head.memo = self._resolve(request)
            handler, counts = resolved
            answer = handler(request)
        except FlashQError as error:
            answer = self._refused(error_response(error, request), request)
        except RecursionError:
            too_deep = RequestError("invalid_json", "the JSON is nested too deeply")
            answer = self._refused(error_response(too_deep, request), request)
        except Exception:
            counts.answered(since, 500)  # which the caller makes of it
            raise
        if type(answer) is Response:  # isinstance would ask msgspec's abstract metaclass
            counts.answered(since, answer.status)
        elif answer.response is not None:
            counts.answered(since, answer.response.status)
        else:
            answer.since, answer.counts = since, counts
        return answer

    def _refused(self, refused: Response, request: Request) -> Response:
        fields = self._edge.cors_fields(request)
        return with_fields(refused, fields) if fields else refused

    def _resolve(self, request: Request) -> tuple[RequestHandler, Counts]:
        self._edge.check_sender(request)
        preflight = self._edge.preflight(request)
        if preflight is not None:
            return lambda _: preflight, self._unrouted
        self._edge.check_token(request)
        (operation, counts), names = self._route(request)
        handler: RequestHandler
        if isinstance(operation, PerHead):
            handler = operation.prepare(request.head, *names)
        else:
            handler = _with_names(operation, names)
        fields = self._edge.cors_fields(request)
        return _adding(fields, handler) if fields else handler, counts

    def _route(self, request: Request) -> tuple[_Operation, tuple[str, ...]]:
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


def _with_names(operation: OperationHandler, names: tuple[str, ...]) -> RequestHandler:
    return lambda request: operation(request, *names)


def _adding(fields: Fields, handler: RequestHandler) -> RequestHandler:
    """The handler, with these headers in its answers."""

    def added(request: Request) -> Response | Deferred:
        answer = handler(request)
        if type(answer) is Response:
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
