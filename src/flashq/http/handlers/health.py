"""`GET /health`: is the service up, and can it store."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import UNSET

from flashq import __version__
from flashq.api.schemas import HealthReport, encode_json
from flashq.broker.flashq import FlashQ
from flashq.http.message import Request, Response


class HealthHandler:
    """200 while posts are stored (`degraded`: some records cannot be read), 503 once storage has failed."""

    def __init__(self, flashq: FlashQ, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._flashq = flashq
        self._clock = clock
        self._started = clock()

    def get(self, request: Request) -> Response:
        health = self._flashq.health()
        status = "unhealthy" if health.status == "failed" else health.status
        report = HealthReport(
            status=status,
            service="flashq",
            timestamp=int(time.time()),
            version=__version__,
            uptime=round(self._clock() - self._started, 3),
            topics_count=len(self._flashq.backend.topics),
            consumer_groups_count=len(self._flashq.backend.groups),
            problems=health.problems or UNSET,
        )
        return Response(503 if status == "unhealthy" else 200, encode_json(report))
