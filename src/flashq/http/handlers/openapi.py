"""`GET /openapi.json`: the contract, as the schemas that validate have it."""

from __future__ import annotations

from flashq.api.openapi import openapi_document
from flashq.api.schemas import encode_json
from flashq.http.message import Request, Response


class OpenApiHandler:
    """The document is made when it is first asked for."""

    def __init__(self) -> None:
        self._body: bytes | None = None

    def get(self, request: Request) -> Response:
        if self._body is None:
            self._body = encode_json(openapi_document())
        return Response(200, self._body)
