"""The handler of the limit server as a Starlette application on uvicorn (uvloop, httptools, no access log)."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator

from benchmarks.load import Load
from benchmarks.peers import Durability
from benchmarks.peers.flashq_server import PATH, FlashQServer
from benchmarks.peers.http_limit import answer_to
from benchmarks.processes import Server, free_port, running


class Starlette:
    name = "Starlette on uvicorn"

    def missing(self) -> str:
        found = all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn"))
        return "" if found else "starlette and uvicorn are not installed (make bench-peers)"

    @contextlib.contextmanager
    def serving(self, durability: Durability) -> Iterator[Server]:
        port = free_port()
        with running([sys.executable, "-m", "benchmarks.peers.starlette_app", str(port)], port) as server:
            yield server

    def post(self, records: int, size: int) -> Load:
        return FlashQServer().post(records, size)

    def poll(self, offsets: list[int], records: int) -> Load:
        raise NotImplementedError("it only takes records")

    def stored(self, server: Server) -> None:
        return None


def serve(port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette as Application
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def post(request: Request) -> Response:
        return Response(answer_to(await request.body()), media_type="application/json")

    application = Application(routes=[Route(PATH, post, methods=["POST"])])
    uvicorn.run(application, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
