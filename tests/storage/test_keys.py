"""Idempotency keys on disk: noted in the frames, found again whatever is missing beside them."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq import FlashQ
from flashq.batch import KEY_HASH_BYTES, check, encode, hash_of_key, key_hash_in
from flashq.errors import DataCorruption, IdempotencyKeyReused, StorageFailed, StorageFull
from flashq.record import NO_HEADERS
from flashq.storage.file import keys as keys_file
from flashq.storage.file.backend import FileBackend
from flashq.storage.file.disk import OpenFile
from flashq.storage.interface import SYNC_MODES, Append, SyncMode, TopicConfig, TopicLog
from flashq.testing.faulty_disk import Fault, FaultyDisk
from tests.storage.crashing_disk import Nth

SMALL = TopicConfig(segment_bytes=1024)


def open_at(path: Path, disk: FaultyDisk | None = None, sync_mode: SyncMode = "always") -> FlashQ:
    return FlashQ(FileBackend(str(path), sync_mode=sync_mode, disk=disk or FaultyDisk()), topic_defaults=SMALL)


def fill(flashq: FlashQ, keys: int = 30) -> None:
    """Some segments of keyed and other posts."""
    for n in range(keys):
        flashq.post_records("t", [f"{n}" * 60] * 2, idempotency_key=f"key-{n}")
        flashq.post_record("t", "without")


def retry_all(flashq: FlashQ, keys: int = 30) -> list[int]:
    return [flashq.post_records("t", [f"{n}" * 60] * 2, idempotency_key=f"key-{n}")[0] for n in range(keys)]


# -- what is written


def test_the_hash_of_a_key_fills_the_producer_fields_and_nothing_else_changes() -> None:
    key_hash = hash_of_key(b"k")
    plain, keyed = (encode([(b"key", b"value", NO_HEADERS)], 5, each) for each in (None, key_hash))
    assert (plain.key_hash, keyed.key_hash) == (None, key_hash)
    at = keyed.frame.index(key_hash)
    assert keyed.frame[at + KEY_HASH_BYTES :] == plain.frame[at + KEY_HASH_BYTES :]
    assert plain.frame[at : at + KEY_HASH_BYTES] == b"\xff" * KEY_HASH_BYTES
    keyed.place(0, 0, 0)
    assert check(bytes(keyed.frame), 0, lambda _: 0).key_hash == key_hash


@given(st.binary(max_size=300))
def test_no_hash_reads_as_no_key_or_as_a_producer_kafka_would_not_have(key: bytes) -> None:
    key_hash = hash_of_key(key)
    batch = encode([(None, b"v", NO_HEADERS)], 1, key_hash)
    assert key_hash_in(batch.frame) == key_hash == batch.key_hash
    assert not (key_hash[0] | key_hash[8] | key_hash[10]) & 0x80


@given(st.dictionaries(st.binary(min_size=KEY_HASH_BYTES, max_size=KEY_HASH_BYTES), st.integers(0, 2**63 - 1)))
def test_a_keys_file_reads_as_written(keys: dict[bytes, int]) -> None:
    assert keys_file.decode(keys_file.encode(4711, keys), 4711) == keys


def test_a_keys_file_that_is_not_whole_and_of_this_segment_is_refused() -> None:
    good = keys_file.encode(4711, {hash_of_key(b"a"): 0, hash_of_key(b"b"): 7})
    assert keys_file.decode(good, 4712) is None
    assert keys_file.decode(good + b"\0", 4711) is None
    for cut in range(len(good)):
        assert keys_file.decode(good[:cut], 4711) is None
    for bit in range(len(good) * 8):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        assert keys_file.decode(bytes(flipped), 4711) is None, bit


def test_a_keys_file_is_written_as_it_is_documented() -> None:
    golden = "46514b59 00000001 0000000000001267 0000000000000001 d7740728" + "00" * 13 + "01" + "0000000000000007"
    assert keys_file.encode(4711, {b"\0" * 13 + b"\1": 7}) == bytes.fromhex(golden)


# -- what is found again


def test_keys_are_found_when_their_files_are_missing_torn_or_of_other_segments(tmp_path: Path) -> None:
    with open_at(tmp_path) as flashq:
        fill(flashq)
        first = retry_all(flashq)
    files = sorted((tmp_path / "topics/t/0").glob("*.keys"))
    assert len(files) > 5
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-1])
    files[2].write_bytes(files[3].read_bytes())
    files[4].write_bytes(b"")
    with open_at(tmp_path) as flashq:
        assert retry_all(flashq) == first
        assert flashq.high_water_mark("t") == 90
    with_all = [each.read_bytes() for each in files]
    with open_at(tmp_path) as flashq:
        assert retry_all(flashq) == first
    assert [each.read_bytes() for each in files] == with_all, "not made again once they are whole"


def test_keys_of_segments_that_have_only_large_frames_are_found_without_reading_their_records(tmp_path: Path) -> None:
    class Counting(FaultyDisk):
        read_bytes = 0

        def read(self, file: OpenFile, size: int, position: int) -> bytes:
            if file.path.endswith(".log"):
                self.read_bytes += size
            return super().read(file, size, position)

    with open_at(tmp_path) as flashq:
        for n in range(4):
            flashq.post_records("t", [b"x" * 1_000_000] * 4, idempotency_key=str(n))
    for each in (tmp_path / "topics/t/0").glob("*.keys"):
        each.unlink()
    disk = Counting()
    with open_at(tmp_path, disk) as flashq:
        before = disk.read_bytes
        flashq.log("t").load_keys()
        assert disk.read_bytes - before < 2_000_000
        assert [flashq.log("t").holds_key(hash_of_key(str(n).encode())) for n in range(5)] == [True] * 4 + [False]


def test_without_keyed_posts_no_keys_are_read(tmp_path: Path) -> None:
    with open_at(tmp_path) as flashq:
        fill(flashq)
    with open_at(tmp_path) as flashq:
        flashq.post_record("t", "plain")
        assert not flashq.log("t").keys_loaded


def test_a_damaged_segment_refuses_keyed_posts_and_takes_others(tmp_path: Path) -> None:
    """Nobody can say whether the key is in there: to store the records again might be a duplicate."""
    with open_at(tmp_path) as flashq:
        fill(flashq)
    first = min((tmp_path / "topics/t/0").glob("*.log"))
    first.with_suffix(".keys").unlink()
    data = bytearray(first.read_bytes())
    data[11] ^= 1  # of the first frame's offset
    first.write_bytes(data)
    with open_at(tmp_path) as flashq:
        with pytest.raises(DataCorruption) as caught:
            flashq.post_record("t", "new", idempotency_key="new")
        assert caught.value.details["topic"] == "t"
        assert flashq.post_record("t", "plain") == 90


def test_what_a_first_batch_says_cannot_be_compared_when_it_is_damaged(tmp_path: Path) -> None:
    with open_at(tmp_path) as flashq:
        fill(flashq)
    first = min((tmp_path / "topics/t/0").glob("*.log"))
    data = bytearray(first.read_bytes())
    data[90] ^= 1
    first.write_bytes(data)
    with open_at(tmp_path) as flashq, pytest.raises(DataCorruption):
        flashq.post_records("t", ["0" * 60] * 2, idempotency_key="key-0")


# -- what ends otherwise than well


def test_a_full_disk_leaves_the_key_free(tmp_path: Path) -> None:
    disk = FaultyDisk()
    with open_at(tmp_path, disk) as flashq:
        flashq.post_record("t", "first")
        disk.decide = Nth(1, Fault(errno.ENOSPC, written=10), "write")
        with pytest.raises(StorageFull):
            flashq.post_record("t", "a", idempotency_key="k")
        disk.decide = None
        assert flashq.post_record("t", "another body", idempotency_key="k") == 1
        with pytest.raises(IdempotencyKeyReused):
            flashq.post_record("t", "a", idempotency_key="k")


def test_a_retry_after_a_failed_sync_is_unknown_too_and_a_restart_tells(tmp_path: Path) -> None:
    disk = FaultyDisk()
    flashq = open_at(tmp_path, disk)
    flashq.post_record("t", "first")
    disk.decide = Nth(1, Fault(errno.EIO), "sync")
    for _ in range(2):
        with pytest.raises(StorageFailed) as caught:
            flashq.post_record("t", "a", idempotency_key="k")
        assert caught.value.outcome == "unknown"
    disk.decide = None
    with pytest.raises(StorageFailed):
        flashq.close()
    with open_at(tmp_path) as again:
        assert again.post_record("t", "a", idempotency_key="k") == 1
        assert [record.text for record in again.poll_records("t")] == ["first", "a"]


class SlowSyncs(FaultyDisk):
    """Syncs that wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self.fails = False

    def sync(self, file: OpenFile) -> None:
        assert self.go_on.wait(10)
        if self.fails:
            raise OSError(errno.EIO, "failed")
        super().sync(file)


@pytest.mark.parametrize("mode", SYNC_MODES)
@pytest.mark.parametrize("fails", [False, True], ids=["synced", "failed"])
def test_a_retry_ends_as_the_first_one_under_way_does(tmp_path: Path, mode: SyncMode, fails: bool) -> None:
    disk = SlowSyncs()
    flashq = open_at(tmp_path, disk, mode)
    flashq.create_topic("t")
    disk.go_on.clear()
    rows = [(None, b"a", NO_HEADERS)]
    first = flashq.append("t", rows, idempotency_key="k", durable=True)
    repeated = [flashq.append("t", rows, idempotency_key="k", durable=durable) for durable in (True, True, False)]
    with pytest.raises(IdempotencyKeyReused):
        flashq.append("t", [(None, b"b", NO_HEADERS)], idempotency_key="k")
    assert not first.done
    disk.fails = fails
    disk.go_on.set()
    assert [outcome(each) for each in (first, *repeated)] == [outcome(first)] * 4
    assert outcome(first) == ("unknown" if fails else 0)
    assert flashq.log("t").next_offset == 1
    disk.fails = False
    if fails:
        with pytest.raises(StorageFailed):
            flashq.close()
    else:
        flashq.close()


def outcome(append: Append) -> object:
    try:
        return append.result().batch.base_offset
    except StorageFailed as error:
        return error.outcome


@pytest.mark.parametrize("mode", ["periodic", "never"])
def test_a_durable_retry_waits_for_the_sync_of_what_is_only_written(tmp_path: Path, mode: SyncMode) -> None:
    disk = SlowSyncs()
    flashq = FlashQ(FileBackend(str(tmp_path), sync_mode=mode, commit_threshold=1000, sync_interval_s=1000, disk=disk))
    flashq.create_topic("t")
    assert flashq.post_record("t", "a", idempotency_key="k") == 0
    disk.go_on.clear()
    retry = flashq.append("t", [(None, b"a", NO_HEADERS)], idempotency_key="k", durable=True)
    assert not retry.done
    disk.go_on.set()
    assert retry.result().batch.base_offset == 0
    assert flashq.log("t").durable_offset == 1
    flashq.close()


def test_a_roll_while_keys_are_under_way_loses_none(tmp_path: Path) -> None:
    """Threads post small batches through hundreds of rolls; then every key is where it was answered."""
    answered: dict[str, int] = {}

    def post(thread: int) -> None:
        for n in range(60):
            key = f"{thread}-{n}"
            answered[key] = flashq.post_record("t", key * 30, idempotency_key=key)

    with open_at(tmp_path, sync_mode="never") as flashq:
        threads = [threading.Thread(target=post, args=(number,)) for number in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    with open_at(tmp_path) as flashq:
        for key, offset in answered.items():
            assert flashq.post_record("t", key * 30, idempotency_key=key) == offset
        assert flashq.high_water_mark("t") == 240


def test_retention_forgets_keys_and_their_files(tmp_path: Path) -> None:
    with open_at(tmp_path) as flashq:
        fill(flashq)
        log: TopicLog = flashq.log("t")
        flashq.configure_topic("t", retention_bytes=1)
        flashq.apply_retention()
        held = [n for n in range(30) if log.holds_key(hash_of_key(f"key-{n}".encode()))]
        assert 0 not in held
        assert len(held) < 5
    logs, keys = ({path.stem for path in (tmp_path / "topics/t/0").glob(f"*.{kind}")} for kind in ("log", "keys"))
    assert keys < logs
