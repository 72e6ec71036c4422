"""How far the post of a source has come, and the file that knows it after an interrupt or a crash.

A run has a random id, and each of its posts an idempotency key of that id and the batch's position in the source. The
id is on disk before the first post; the place is written after each. So a run that goes on repeats one post at most,
under the same key and with the same records, and the server stores those once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from types import TracebackType
from typing import Final, Self

import msgspec

from flashq.cli.sources import Batch, Place
from flashq.cli.stdout import named
from flashq.client.retry import new_idempotency_key
from flashq.errors import InvalidParameter

_FORMAT: Final = 1
_MARK_BYTES: Final = 4096


class _State(msgspec.Struct):
    """The content of a progress file. `what` is what the run posts, and where; `mark` recognises the source."""

    flashq_progress: int
    what: dict[str, str | None]
    run: str
    position: int = 0
    line: int = 1
    records: int = 0
    first_offset: int | None = None
    last_offset: int | None = None
    mark: str = ""


_decode = msgspec.json.Decoder(_State).decode
_encode = msgspec.json.Encoder().encode


class Run:
    """A run that cannot go on once it ends: its source is a pipe."""

    path: str | None = None

    def __init__(self, what: dict[str, str | None]) -> None:
        self._state = _State(_FORMAT, what, new_idempotency_key())
        self.records_before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def place(self) -> Place:
        """Where the source is read on: everything before is stored."""
        return Place(self._state.position, self._state.line)

    @property
    def records(self) -> int:
        """Stored so far, also by earlier attempts."""
        return self._state.records

    @property
    def first_offset(self) -> int | None:
        return self._state.first_offset

    @property
    def last_offset(self) -> int | None:
        return self._state.last_offset

    def key_of(self, batch: Batch) -> str:
        """The idempotency key of its post."""
        return f"{self._state.run}-{batch.start.position}"

    def stored(self, batch: Batch, first_offset: int, last_offset: int) -> None:
        """A batch is stored, and all before it."""
        state = self._state
        position, line = batch.end
        self._keep(
            msgspec.structs.replace(
                state,
                position=position,
                line=line,
                records=state.records + len(batch),
                first_offset=first_offset if state.first_offset is None else state.first_offset,
                last_offset=last_offset,
            )
        )

    def _keep(self, state: _State) -> None:
        """In one step: Ctrl-C comes between any two."""
        self._state = state

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier attempt began it, whose last post may have been stored without being noted."""
        return False

    def remember(self) -> None:
        """After an interrupt: what is remembered is what this run knows."""

    def finish(self) -> None:
        """All of the source is stored: the next run begins anew."""

    def close(self) -> None:
        """Calling it again does nothing."""


class FileRun(Run):
    """A run over a file; what it knows is in a progress file, which is locked while it is open."""

    def __init__(self, what: dict[str, str | None], source: int, path: str) -> None:
        """`source`: a descriptor of the file to post. An earlier run found at `path` is gone on with.

        Raises `InvalidParameter` if that is under way, was of something else, or if the file is not the one it was.
        """
        super().__init__(what)
        self.path = path
        self._source = source
        self._size = 0  # of the progress file
        self._is_resumed = False
        self._file: int | None = _opened(path)
        try:
            self._lock(self._file)
            if found := os.pread(self._file, 1 << 20, 0):
                self._take_up(found)
            else:
                self._write()
                os.fsync(self._file)
                sync_directory(path)
        except BaseException:
            self.close()
            raise

    def _keep(self, state: _State) -> None:
        state.mark = self._mark(state.position)
        super()._keep(state)
        # Not synced: after a power cut an earlier place may be found here, from where everything is posted again
        # under the keys it had.
        self._write()

    @property
    def is_resumed(self) -> bool:
        return self._is_resumed

    def remember(self) -> None:
        self._write()

    def finish(self) -> None:
        assert self.path is not None
        os.unlink(self.path)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = os.fstat(file).st_nlink == 0  # finished since it was opened: its state is of no use any more
        except BlockingIOError:
            is_held = True
        if is_held:
            raise InvalidParameter(
                f"another run holds {self.path}: it posts the same file to the same topic. Nothing was posted",
                hint="wait for it to end, or name another file with --progress-file",
            )

    def _take_up(self, found: bytes) -> None:
        what = self._state.what
        try:
            self._state = state = _decode(found)
        except msgspec.DecodeError as error:
            raise self._refused("is no progress file") from error
        if state.flashq_progress != _FORMAT:
            raise self._refused("is a progress file of another version of flashq")
        other = [name for name in what if what[name] != state.what.get(name)]
        if other:
            told = ", ".join(f"{name} {state.what.get(name)!r}, not {what[name]!r}" for name in other)
            raise self._refused(f"is of an earlier run with {told}")
        if os.fstat(self._source).st_size < state.position or self._mark(state.position) != state.mark:
            raise self._refused(f"says that {state.position} bytes are posted, and the file now begins otherwise")
        self._size = len(found)
        self._is_resumed = True
        self.records_before = state.records

    def _refused(self, why: str) -> InvalidParameter:
        return InvalidParameter(
            f"{self.path} {why}. Nothing was posted",
            hint="the same file, topic and options as then go on with it; "
            f"to post from the beginning, delete {self.path}",
        )

    def _mark(self, position: int) -> str:
        """Of the first bytes of the source and the last before the place: enough to tell another file by."""
        if position == 0:
            return ""
        first = os.pread(self._source, min(_MARK_BYTES, position), 0)
        start = max(position - _MARK_BYTES, 0)
        last = os.pread(self._source, position - start, start)
        return hashlib.blake2b(first + last, digest_size=16).hexdigest()

    def _write(self) -> None:
        assert self._file is not None
        assert self.path is not None
        text = _encode(self._state).ljust(self._size) + b"\n"
        with named(self.path):
            os.pwrite(self._file, text, 0)
        self._size = len(text) - 1


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidParameter(
            f"{path} cannot be written: {error.strerror}. Nothing was posted",
            hint="--progress-file names another file to remember the place in",
        ) from error


def sync_directory(path: str) -> None:
    """The name of a file is on disk once this returns."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
