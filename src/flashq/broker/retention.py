"""Retention in the background: what topics no longer keep is removed a few times a minute."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flashq.logging import get_logger

log = get_logger(__name__)
INTERVAL_S = 10.0


class RetentionThread:
    """Calls `sweep` every `interval_s` seconds until closed. A failing sweep is logged and tried again."""

    def __init__(self, sweep: Callable[[], int], interval_s: float = INTERVAL_S) -> None:
        self._sweep = sweep
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flashq-retention", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._sweep()
            except Exception as error:
                log.error("retention_failed", why=str(error))
