"""Deleting a group, in a process of its own, because that may abort.

What the admin client of librdkafka asks a group's coordinator ends the whole process when the connection is lost in a
certain moment (https://github.com/confluentinc/librdkafka/pull/5397). Here a helper is lost, not the server, and the
next deletion starts another. The first one starts with the first deletion.

A helper reads settings and then, each in a line of JSON, a group and a time limit; it answers with Kafka's code. It
ends when its input does, also when that is because its parent was killed.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from flashq.errors import Closed, StorageUnavailable
from flashq.logging import get_logger

logger = get_logger(__name__)
_START_S = 3.0


class GroupDeletion:
    """Asks the helper, one group at a time. Any thread may ask."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        """`settings` are of an admin client, and can be written as JSON."""
        self._settings = settings
        self._asking = threading.Lock()
        self._closed = False
        self._helper: subprocess.Popen[str] | None = None

    def delete(self, group: str, timeout_s: float) -> None:
        """Raises KafkaException (`_TRANSPORT`, as where a connection was lost, if the helper ended), and
        `StorageUnavailable` where others took the time."""
        if not self._asking.acquire(timeout=timeout_s):
            raise StorageUnavailable(f"group {group}: other groups wait to be deleted. Nothing was done")
        try:
            if self._closed:
                raise Closed(f"group {group} is closed; nothing was done")
            try:
                code, why = _ask(self._running(), [group, timeout_s], timeout_s + _START_S)
            except (OSError, ValueError) as error:
                exit_code = self._end()
                logger.warning("kafka_helper_ended", group=group, exit_code=exit_code, why=str(error))
                raise KafkaException(KafkaError(KafkaError._TRANSPORT, "librdkafka ended while it waited")) from error
        finally:
            self._asking.release()
        if code != KafkaError.NO_ERROR:
            raise KafkaException(KafkaError(code, why))

    def close(self) -> None:
        with self._asking:
            self._closed = True
            self._end()

    def _end(self) -> int | None:
        helper, self._helper = self._helper, None
        if helper is None:
            return None
        helper.kill()
        with suppress(OSError):  # of what it did not read any more
            helper.communicate()
        return helper.returncode

    def _running(self) -> subprocess.Popen[str]:
        if self._helper is not None and self._helper.poll() is None:
            return self._helper
        self._end()
        self._helper = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable or "python3", "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            start_new_session=True,  # a Ctrl-C is for the server, which may still have something to delete
        )
        _tell(self._helper, self._settings)
        return self._helper


def _ask(helper: subprocess.Popen[str], question: object, timeout_s: float) -> tuple[int, str]:
    """Raises OSError or ValueError if there is no answer."""
    assert helper.stdout is not None
    _tell(helper, question)
    with selectors.DefaultSelector() as waiting:
        waiting.register(helper.stdout, selectors.EVENT_READ)
        if not waiting.select(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s:.0f} s")
    code, why = json.loads(helper.stdout.readline())
    return code, why


def _tell(helper: subprocess.Popen[str], what: object) -> None:
    assert helper.stdin is not None
    helper.stdin.write(json.dumps(what) + "\n")
    helper.stdin.flush()


def _main() -> None:
    admin = AdminClient(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        group, timeout_s = json.loads(line)
        try:
            admin.delete_consumer_groups([group], request_timeout=timeout_s)[group].result()
            told = KafkaError.NO_ERROR, ""
        except KafkaException as error:
            told = error.args[0].code(), error.args[0].str()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    _main()
