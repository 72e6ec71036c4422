"""`flashq.json`, the file that says what a data directory is.

    {"format": 1, "epoch": 0, "clean": false, "sync_mode": "always", "crc": "..."}

`format` is looked at before anything else. `clean` is true after a close in which every log reached the disk;
`sync_mode` is that of the process that opened the directory last. Replaced whole (`Disk.replace_file`).
"""

from __future__ import annotations

import os

import msgspec

from flashq.errors import UnsupportedFormat
from flashq.storage.file import checked_json
from flashq.storage.file.disk import Disk
from flashq.storage.interface import SyncMode

FORMAT = 1
ROOT_FILE = "flashq.json"
_MAX_BYTES = 1 << 16


class RootFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The content of flashq.json."""

    format: int
    epoch: int = 0
    clean: bool = False
    sync_mode: SyncMode = "always"


def read_root(disk: Disk, data_dir: str) -> RootFile:
    """Raises `FileNotFoundError` if there is none, `UnsupportedFormat` for another format or what is none."""
    path = os.path.join(data_dir, ROOT_FILE)
    file = disk.open(path)
    try:
        data = disk.read(file, _MAX_BYTES, 0)
        version = msgspec.json.decode(data)["format"]
        if version != FORMAT:
            raise UnsupportedFormat(
                f"{data_dir} has format {version!r}; this FlashQ reads format {FORMAT}. Nothing was touched; "
                "open it with the FlashQ that wrote it, or a newer one",
                format=version,
            )
        return checked_json.decode(data, RootFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise UnsupportedFormat(f"{path} cannot be read: {error}. Nothing was touched; restore it") from error


def save_root(disk: Disk, data_dir: str, root: RootFile) -> None:
    """Durable on return."""
    disk.replace_file(os.path.join(data_dir, ROOT_FILE), checked_json.encode(root))
