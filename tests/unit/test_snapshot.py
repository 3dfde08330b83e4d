"""Snapshots: the framing finds every fault, and what a power loss leaves of one is whole or worth nothing."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from tests.simdisk import SimDisk, fail_at
from vfs import snapshot
from vfs.errors import Corrupt, DiskFailed, NoSpace, VfsError

FRAME_BYTES_MAX = 64
HEADER_BYTES = 24
NUMBER = 0x2A
PATH = "snapshots/000000000000002a"
SIZE = 3 * FRAME_BYTES_MAX + 10  # four frames, and the empty one


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "FRAME_BYTES_MAX", FRAME_BYTES_MAX)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "data.mdb"
    file.write_bytes(random.Random(1).randbytes(SIZE))
    return file


def written(source: Path, disk: SimDisk | None = None) -> SimDisk:
    disk = disk or SimDisk()
    with source.open("rb") as file:
        for _ in snapshot.write(disk, NUMBER, file):
            pass
    return disk


def restored(disk: SimDisk, folder: Path) -> bytes:
    target = folder / "restored"
    target.unlink(missing_ok=True)
    with target.open("xb") as file:
        snapshot.restore(disk, NUMBER, file)
    return target.read_bytes()


def frames() -> list[int]:
    """Where each frame begins."""
    found, at, left = [], 0, SIZE
    while True:
        found.append(at)
        if not left:
            return found
        length = min(left, FRAME_BYTES_MAX)
        at += HEADER_BYTES + length
        left -= length


@pytest.mark.parametrize("size", [1, FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, SIZE])
def test_what_was_written_is_read(size: int, tmp_path: Path) -> None:
    file = tmp_path / "data.mdb"
    file.write_bytes(random.Random(size).randbytes(size))
    disk = SimDisk()
    assert sum(snapshot.write(disk, NUMBER, BytesIO(file.read_bytes()))) == size
    assert snapshot.every(disk) == snapshot.complete(disk) == [NUMBER]
    assert sum(snapshot.read(disk, NUMBER)) == size
    assert restored(disk, tmp_path) == file.read_bytes()
    snapshot.remove(disk, NUMBER)
    assert snapshot.every(disk) == []


def test_a_snapshot_that_is_cut_anywhere_is_not_complete(source: Path, tmp_path: Path) -> None:
    disk = written(source)
    data = disk.contents(PATH)
    assert len(data) == SIZE + len(frames()) * HEADER_BYTES
    for cut in range(len(data)):
        disk.replace(PATH, data[:cut])
        assert snapshot.every(disk) == [NUMBER]
        assert snapshot.complete(disk) == []
        with pytest.raises(Corrupt):
            restored(disk, tmp_path)
    disk.replace(PATH, data + b"\0")
    assert snapshot.complete(disk) == []


FIELDS = {"magic": 0, "length": 4, "length, high": 7, "offset": 8, "offset, high": 15, "checksum": 16, "end": 23}


@pytest.mark.parametrize("field", FIELDS)
def test_a_flipped_byte_in_a_header_is_found(field: str, source: Path, tmp_path: Path) -> None:
    for at in frames():
        for mask in (0x01, 0x80, 0xFF):
            disk = written(source)
            disk.flip(PATH, at + FIELDS[field], mask)
            assert snapshot.complete(disk) == ([] if at == frames()[-1] else [NUMBER])
            with pytest.raises(Corrupt, match=f"{PATH} at byte {at}:"):
                restored(disk, tmp_path)


def test_a_flipped_byte_of_the_catalog_is_found(source: Path) -> None:
    for at in frames()[:-1]:
        disk = written(source)
        disk.flip(PATH, at + HEADER_BYTES + 3)
        assert snapshot.complete(disk) == [NUMBER]
        with pytest.raises(Corrupt, match=f"{PATH} at byte {at}:"):
            sum(snapshot.read(disk, NUMBER))


def test_frames_that_changed_places_are_found(source: Path) -> None:
    disk = written(source)
    data = disk.contents(PATH)
    one, two, three = frames()[:3]
    disk.replace(PATH, data[two:three] + data[one:two] + data[three:])
    with pytest.raises(Corrupt, match="at byte 0:"):
        sum(snapshot.read(disk, NUMBER))


class Crash(Exception):
    """The power goes here."""


def die_at(number: int) -> Callable[[str, str], None]:
    seen = 0

    def watch(call: str, path: str) -> None:
        nonlocal seen
        if seen == number:  # also when it would tidy up
            raise Crash
        seen += 1

    return watch


def test_the_end_is_written_when_all_before_it_is_durable(source: Path) -> None:
    calls: list[str] = []
    disk = SimDisk()
    disk.watch = lambda call, _: calls.append(call)
    written(source, disk)
    changes = [call for call in calls if call in ("create", "append", "sync")]
    assert changes == ["create", *["append"] * 4, "sync", "append", "sync"]


def test_what_a_power_loss_leaves_is_whole_or_not_complete(source: Path, tmp_path: Path) -> None:
    number, done, whole = 0, False, 0
    while not done:
        disk = SimDisk()
        disk.watch = die_at(number)
        try:
            written(source, disk)
            done = True
        except Crash:
            pass
        for seed in range(40):
            found = disk.crash(random.Random(seed))
            if snapshot.complete(found):
                assert restored(found, tmp_path) == source.read_bytes()
                whole += 1
            assert whole or not done, "what was written to its end is there"
        number += 1
    assert number > 12
    assert whole > 40


@pytest.mark.parametrize(
    ("call", "error"), [("append", NoSpace), ("append", DiskFailed), ("sync", DiskFailed), ("create", NoSpace)]
)
def test_nothing_is_left_of_one_that_failed(call: str, error: type[VfsError], source: Path) -> None:
    count = {"append": 5, "sync": 2, "create": 1}[call]
    for number in range(1, count + 1):
        disk = SimDisk()
        disk.fault = fail_at(number, error, calls={call})
        with pytest.raises(error):
            written(source, disk)
        assert snapshot.every(disk) == []


def test_nothing_is_left_of_one_that_is_left_half_way(source: Path) -> None:
    disk = SimDisk()
    pieces = snapshot.write(disk, NUMBER, BytesIO(source.read_bytes()))
    assert [next(pieces), next(pieces)] == [FRAME_BYTES_MAX] * 2
    assert snapshot.every(disk) == [NUMBER]
    assert snapshot.complete(disk) == []
    pieces.close()
    assert snapshot.every(disk) == []


def test_the_remains_of_one_make_way(source: Path, tmp_path: Path) -> None:
    """It could not even be removed."""
    disk = SimDisk()
    disk.fault = fail_at(3, DiskFailed, calls={"append", "remove"}, lasting=True)
    with pytest.raises(DiskFailed):
        written(source, disk)
    assert snapshot.every(disk) == [NUMBER]
    disk = disk.kill()
    written(source, disk)
    assert restored(disk, tmp_path) == source.read_bytes()


def test_a_copy_that_cannot_be_read_is_an_error_of_the_disk() -> None:
    class Unreadable(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = SimDisk()
    with pytest.raises(DiskFailed):
        list(snapshot.write(disk, NUMBER, Unreadable()))
    assert snapshot.every(disk) == []


def test_one_that_only_the_page_cache_has_can_be_secured(source: Path, tmp_path: Path) -> None:
    disk = SimDisk()
    disk.watch = die_at(13)  # in the last sync
    with pytest.raises(Crash):
        written(source, disk)
    killed = disk.kill()
    assert snapshot.complete(killed) == [NUMBER]
    assert not all(snapshot.complete(killed.crash(random.Random(seed))) for seed in range(20))
    snapshot.secure(killed, NUMBER)
    for seed in range(20):
        assert restored(killed.crash(random.Random(seed)), tmp_path) == source.read_bytes()
