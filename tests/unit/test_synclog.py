"""The sync log: what was written to it is where it belongs after `redo`, whatever else it holds."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from tests.simdisk import Count, SimDisk, fail_at, no_fault
from vfs import synclog
from vfs.disk import Disk, RealDisk
from vfs.errors import Corrupt, DiskFailed, NoSpace
from vfs.folder import Folder
from vfs.synclog import FOLDER, PAGE_BYTES, Piece, Redone, SyncLog, read

WHERE = "blocks/00000001"
OTHER = "journal/0000000000000001"


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    found: Disk = RealDisk(Folder.at(tmp_path)) if request.param == "real" else SimDisk()
    found.list("blocks")
    found.open(WHERE, create=True).close()
    return found


@pytest.fixture(autouse=True)
def few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synclog, "HALF_BYTES", 5 * PAGE_BYTES)


def made(disk: Disk) -> SyncLog:
    log = SyncLog(disk)
    log.use(log.make())
    return log


def redo(disk: Disk) -> int:
    return synclog.redo(disk, read(disk))


def write(log: SyncLog, offset: int, data: bytes, path: str = WHERE) -> bool:
    entry = log.place([Piece(path, offset, data)])
    if entry is not None:
        entry.write()
    return entry is not None


def contents(disk: Disk, path: str = WHERE) -> bytes:
    file = disk.open(path)
    data = file.read(0, file.size)
    file.close()
    return data


def test_what_was_written_is_put_where_it_belongs(disk: Disk) -> None:
    disk.list("journal")
    disk.open(OTHER, create=True).close()
    log = made(disk)
    entry = log.place([Piece(WHERE, 0, b"one"), Piece(OTHER, 2, b"two")])
    assert entry is not None
    entry.write()
    assert write(log, 3, b"three")
    log.close()
    assert redo(disk) == 2
    assert contents(disk) == b"onethree"
    assert contents(disk, OTHER) == b"\0\0two"
    assert disk.list(FOLDER) == []
    assert redo(disk) == 0


def test_a_log_that_was_not_made_takes_nothing(disk: Disk) -> None:
    log = SyncLog(disk)
    assert not write(log, 0, b"data")


def test_a_log_without_records_is_removed(disk: Disk) -> None:
    made(disk).remove()
    assert disk.list(FOLDER) == []
    made(disk).close()
    assert redo(disk) == 0
    assert disk.list(FOLDER) == []


def test_a_file_that_was_removed_stays_away(disk: Disk) -> None:
    log = made(disk)
    assert write(log, 0, b"data")
    log.close()
    disk.remove(WHERE)
    assert redo(disk) == 1
    assert disk.list("blocks") == []


def test_a_half_is_written_over_only_when_it_was_settled(disk: Disk) -> None:
    log = made(disk)
    for number in range(8):  # one page each
        assert write(log, number, b"%d" % number)
        assert log.is_half_full == (number >= 4)
    assert not write(log, 8, b"8")
    half = log.settle()
    assert half is not None
    assert not write(log, 8, b"8")
    log.settled(half)
    assert write(log, 8, b"8")
    log.close()
    assert redo(disk) == 8  # what is left of the first half harms nothing
    assert contents(disk)[1:] == b"12345678"


def test_while_something_is_settled_records_go_to_the_other_half(disk: Disk) -> None:
    log = made(disk)
    assert write(log, 0, b"0")
    half = log.settle()
    assert write(log, 1, b"1")
    log.settled(half)
    for number in range(2, 5):
        assert write(log, number, b"%d" % number)
    assert write(log, 5, b"5")  # in place of record 0
    log.close()
    assert redo(disk) == 5
    assert contents(disk)[1:] == b"12345"


def test_a_half_that_was_empty_when_settling_began_is_not_emptied(disk: Disk) -> None:
    log = made(disk)
    half = log.settle()
    for number in range(8):
        assert write(log, number, b"%d" % number)
    log.settled(half)
    assert not write(log, 8, b"8")


def test_a_record_larger_than_a_half_has_no_room(disk: Disk) -> None:
    log = made(disk)
    assert not write(log, 0, bytes(synclog.HALF_BYTES))
    assert write(log, 0, bytes(synclog.HALF_BYTES - PAGE_BYTES - 100))


@pytest.mark.parametrize("at", [0, 5, 20, 27, 40])
def test_a_damaged_record_is_passed_over_and_those_behind_it_are_not(at: int) -> None:
    disk = SimDisk()
    disk.list("blocks")
    disk.open(WHERE, create=True)
    log = made(disk)
    for number in range(3):
        assert write(log, number, b"%d" % number)
    log.close()
    disk.flip(f"{FOLDER}/0", 2 * PAGE_BYTES + at)
    assert redo(disk) == 2
    assert contents(disk) == b"0\x002"


def test_what_was_written_survives_the_power_and_what_was_not_is_whole_or_not_there() -> None:
    seen = set()
    for seed in range(200):
        disk = SimDisk()
        disk.list("blocks")
        disk.open(WHERE, create=True)
        log = made(disk)
        assert write(log, 0, b"a" * 5000)
        entry = log.place([Piece(WHERE, 5000, b"b" * 5000)])
        assert entry is not None
        entry.file.write(entry.offset, entry.record)
        found = disk.crash(random.Random(seed))
        redo(found)
        seen.add(contents(found))
    assert seen == {b"a" * 5000, b"a" * 5000 + b"b" * 5000}


def test_redo_can_be_done_again_after_the_power_went_in_it() -> None:
    for call in range(1, 30):
        disk = SimDisk()
        disk.list("blocks")
        disk.open(WHERE, create=True)
        log = made(disk)
        for number in range(5):
            assert write(log, number, b"%d" % number)
        disk.fault = fail_at(call, DiskFailed, lasting=True)
        try:
            redo(disk)
        except DiskFailed:
            found = disk.crash(random.Random(call))
            redo(found)
            assert contents(found) == b"01234"
            continue
        assert contents(disk) == b"01234"
        return
    raise AssertionError("redo takes more calls than that")


def test_what_a_failed_sync_left_in_memory_alone_is_redone_all_the_same() -> None:
    """It reads as it should, but no later sync makes it durable unless it is written again."""
    for seed in range(50):
        disk = SimDisk()
        disk.list("blocks")
        file = disk.open(WHERE, create=True)
        log = made(disk)
        for number, data in enumerate((b"first", b"again")):
            file.append([data])
            assert write(log, 5 * number, data)
            disk.fault = fail_at(1, DiskFailed, calls={"sync"}, under="blocks")
            with pytest.raises(DiskFailed):
                file.sync()
        disk.fault = fail_at(1, DiskFailed, calls={"sync"}, under="blocks")
        with pytest.raises(DiskFailed):
            redo(disk)
        disk.fault = no_fault
        redo(disk)
        assert contents(disk.crash(random.Random(seed))) == b"firstagain"


def test_what_users_wrote_is_never_taken_for_a_record(disk: Disk) -> None:
    """Of a half that is used again, pages are left that hold their bytes: one may look like a record."""
    disk.list("journal")
    disk.open(OTHER, create=True).close()
    forged = SyncLog(disk)
    forged._halves = (disk.open(WHERE),) * 2
    entry = forged.place([Piece(OTHER, 0, b"evil")])
    assert entry is not None
    log = made(disk)
    head = log.place([Piece(WHERE, 0, bytes(2 * PAGE_BYTES))])
    assert head is not None
    before = sum(map(len, head.record)) - 2 * PAGE_BYTES - len(head.record[-1])
    page = b"".join(entry.record)
    data = (bytes(PAGE_BYTES - before) + page).ljust(2 * PAGE_BYTES, b"x")
    log.settled(log.settle())
    assert write(log, 0, data)
    log.settled(log.settle())
    assert write(log, 0, b"short")
    log.settled(log.settle())
    assert write(log, 0, b"short")
    log.close()
    redo(disk)
    assert contents(disk, OTHER) == b""


def test_a_full_disk_makes_no_log() -> None:
    disk = SimDisk(capacity=6 * PAGE_BYTES)
    log = SyncLog(disk)
    with pytest.raises(NoSpace):
        log.make()
    assert disk.paths == []
    assert not log.is_made


def test_the_disk_as_it_will_be(disk: Disk) -> None:
    file = disk.open(WHERE)
    file.append([b"abc"])
    log = made(disk)
    assert write(log, 3, b"def")
    assert write(log, 8, b"x")
    log.close()
    seen = Redone(disk, read(disk)).open(WHERE)
    assert seen.size == 9
    assert seen.read(0, 100) == b"abcdef\0\0x"
    assert [seen.read(at, 3) for at in range(10)] == [
        b"abcdef\0\0x"[at : at + 3] for at in range(10)
    ]  # fmt: skip
    assert seen.read(20, 3) == b""
    assert [seen.next_data(at) for at in range(11)] == [0, 1, 2, 3, 4, 5, 8, 8, 8, 9, 9]
    seen.close()
    assert contents(disk) == b"abc"


# --- what no log of ours says


STRANGE = {
    "absolute": ([("/etc/file", 0, 1)], "is no segment"),
    "outside": ([("../blocks/00000001", 0, 1)], "is no segment"),
    "outside, by a segment's folder": ([("blocks/../../00000001", 0, 1)], "is no segment"),
    "not a segment": ([("store.toml", 0, 1)], "is no segment"),
    "of the other kind": ([("blocks/0000000000000001", 0, 1)], "is no segment"),
    "with a line feed": ([("blocks/00000001\n", 0, 1)], "is no segment"),
    "of the log itself": ([("synclog/1", 0, 1)], "is no segment"),
    "without a name": ([("", 0, 1)], "is no segment"),
    "the second": ([(WHERE, 0, 1), ("/etc/file", 0, 1)], "is no segment"),
    "far behind the end": ([(WHERE, 1 << 40, 1)], "has 0 bytes"),
    "just too far behind the end": ([(WHERE, 10 * PAGE_BYTES + 1, 1)], "has 0 bytes"),
    "before the beginning": ([(WHERE, -1, 1)], "has 0 bytes"),
    "as far as a number goes": ([(WHERE, (1 << 64) - 1, 1)], "has 0 bytes"),
    "longer than its bytes": ([(WHERE, 0, 5)], "do not add up"),
    "shorter than its bytes": ([(WHERE, 0, 0)], "do not add up"),
    "of a negative length": ([(WHERE, 0, 5), (WHERE, 0, -4)], "pieces"),
    "of many pieces": ([(WHERE, 0, 0)] * 3, "pieces"),
    "no table": ("table", "makes no sense"),
    "a table of other things": ([1, 2, 3], "makes no sense"),
}


@pytest.mark.parametrize("how", STRANGE)
@pytest.mark.parametrize("behind", [False, True])
def test_a_record_with_a_right_checksum_that_makes_no_sense_is_damage(disk: Disk, how: str, behind: bool) -> None:
    table, reason = STRANGE[how]
    log = made(disk)
    if behind:
        assert write(log, 0, b"")
    data = b"x" * (2 if how == "the second" else 1)
    forge(log, msgspec.msgpack.encode(table), data)
    log.close()
    found = read(disk)
    assert found.damage is not None
    assert reason in str(found.damage)
    assert len(found.records) == behind
    with pytest.raises(Corrupt):
        synclog.redo(disk, found)
    assert contents(disk) == b""
    assert synclog.redo(disk, found, partly=True) == behind
    assert contents(disk) == b""
    assert Redone(disk, found).open(WHERE).size == 0


def test_a_piece_may_lie_as_far_behind_the_end_as_the_log_has_room(disk: Disk) -> None:
    log = made(disk)
    forge(log, msgspec.msgpack.encode([(WHERE, 10 * PAGE_BYTES, 1)]), b"x")
    log.close()
    assert redo(disk) == 1
    assert contents(disk) == bytes(10 * PAGE_BYTES) + b"x"


def test_a_log_of_any_length_is_read_as_far_as_it_can_be_ours() -> None:
    disk = sim_disk()
    log = log_of(disk, 3)
    log.close()
    disk.replace(f"{FOLDER}/0", disk.contents(f"{FOLDER}/0") + bytes(100 * PAGE_BYTES))
    disk.fault = count = Count({"read"})
    assert len(read(disk).records) == 1
    assert count.seen < 15


def test_what_reading_would_refuse_is_not_written(disk: Disk) -> None:
    log = made(disk)
    assert log.place([Piece("blocks/1", 0, b"x")]) is None
    assert log.place([Piece(WHERE, 0, b"x")] * 3) is None


def forge(log: SyncLog, table: bytes, data: bytes) -> None:
    """Put a record with a right checksum behind those that there are."""
    entry = log.place([Piece(WHERE, 0, b"")])
    assert entry is not None
    sealed = synclog._SEALED.pack(b"vfsL", len(table), len(data), log._number)
    record = [sealed, synclog._checksum(log._key, sealed, [table, data]), table, data]
    entry.file.write(entry.offset, [b"".join(record)])


# --- what cannot be read


def sim_disk() -> SimDisk:
    disk = SimDisk()
    disk.list("blocks")
    disk.open(WHERE, create=True)
    return disk


def log_of(disk: SimDisk, *sizes: int) -> SyncLog:
    """A log with a record for each size, of as many bytes of its number, one behind the other in the file."""
    log = made(disk)
    offset = 0
    for number, size in enumerate(sizes):
        assert write(log, offset, b"%d" % number * size)
        offset += size
    return log


@pytest.mark.parametrize("page", [1, 2, 3, 4])
def test_a_record_that_cannot_be_read_is_damage_and_nothing_is_changed(page: int) -> None:
    """Also if only its second page cannot be; and a page behind the last record, where there may be one more."""
    disk = sim_disk()
    log_of(disk, 3, 5000).close()
    disk.spoil(f"{FOLDER}/0", page * PAGE_BYTES)
    before = {path: disk.contents(path) for path in disk.paths}
    found = read(disk)
    assert found.damage is not None
    assert found.damage.where == f"{FOLDER}/0 at byte {PAGE_BYTES * (2 if page == 3 else page)}"
    assert "vfs rebuild --cut" in str(found.damage)
    with pytest.raises(Corrupt, match="may be only there"):
        synclog.redo(disk, found)
    assert {path: disk.contents(path) for path in disk.paths} == before


def test_what_can_be_read_is_put_in_its_place_when_asked_and_the_log_stays() -> None:
    disk = sim_disk()
    log_of(disk, 3, 3, 3).close()
    disk.spoil(f"{FOLDER}/0", 2 * PAGE_BYTES)
    assert synclog.redo(disk, read(disk), partly=True) == 2
    assert contents(disk) == b"000\0\0\x00222"
    assert contents(disk.crash(random.Random(1))) == b"000\0\0\x00222"
    assert disk.list(FOLDER) == ["0", "1"]


def test_the_disk_as_it_will_be_has_what_can_be_read() -> None:
    disk = sim_disk()
    log_of(disk, 3, 3).close()
    disk.spoil(f"{FOLDER}/0", 2 * PAGE_BYTES)
    assert Redone(disk, read(disk)).open(WHERE).read(0, 10) == b"000"


@pytest.mark.parametrize(("half", "page"), [("0", 0), ("0", 4), ("1", 0), ("1", 2), ("1", 4)])
def test_where_no_record_can_be_that_is_needed_nothing_is_missed(half: str, page: int) -> None:
    """The key of a half is in the other one; behind the last record, a page that is read shows that none follows."""
    disk = sim_disk()
    log_of(disk, 3, 3).close()
    disk.spoil(f"{FOLDER}/{half}", page * PAGE_BYTES)
    found = read(disk)
    assert found.damage is None
    (place,) = found.passed_over
    assert f"{FOLDER}/{half}" in place
    assert synclog.redo(disk, found) == 2
    assert contents(disk) == b"000111"
    assert disk.list(FOLDER) == []


def test_without_the_key_nothing_is_known() -> None:
    disk = sim_disk()
    log_of(disk, 3).close()
    for half in "01":
        disk.spoil(f"{FOLDER}/{half}", 0)
    found = read(disk)
    assert found.records == []
    assert found.damage is not None


def test_behind_the_last_record_of_the_older_half_none_is_missed() -> None:
    """The one that would follow is in the other half."""
    disk = sim_disk()
    log = log_of(disk, 3, 3)
    log.settle()
    assert write(log, 6, b"222")
    log.close()
    disk.spoil(f"{FOLDER}/0", 3 * PAGE_BYTES)
    assert read(disk).damage is None
    assert redo(disk) == 3
    assert contents(disk) == b"000111222"


@pytest.mark.parametrize("followed", [False, True])
def test_a_header_tells_whether_an_unreadable_record_is_an_old_one(followed: bool) -> None:
    """Where a half is written over, the page behind its last record may begin an older one, or the next one."""
    disk = sim_disk()
    log = log_of(disk, 3, 5000)
    log.settled(log.settle())
    log.settled(log.settle())
    assert write(log, 5003, b"222")
    if followed:
        assert write(log, 5006, b"3" * 5000)
    log.close()
    disk.spoil(f"{FOLDER}/0", 3 * PAGE_BYTES)
    assert (read(disk).damage is not None) == followed


def test_whatever_cannot_be_read_nothing_that_is_needed_is_missed_silently() -> None:
    """Any use of a log, and any pages of it that cannot be read: damage, or all that only the log has is there."""
    damaged = passed_over = 0
    for seed in range(1500):
        rng = random.Random(seed)
        disk = sim_disk()
        log = made(disk)
        needed: list[tuple[int, Piece]] = []  # half, piece
        offset = 0
        for _ in range(rng.randrange(25)):
            if rng.random() < 0.2:
                half = log.settle()
                if rng.random() < 0.3:  # written meanwhile
                    offset = _write_some(log, rng, offset, needed)
                log.settled(half)
                needed = [(where, piece) for where, piece in needed if where != half]
            else:
                offset = _write_some(log, rng, offset, needed)
        log.close()
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            disk.spoil(f"{FOLDER}/{rng.randrange(2)}", rng.randrange(5) * PAGE_BYTES)
        found = read(disk)
        if found.damage is not None:
            damaged += 1
            continue
        passed_over += 1
        assert len(found.passed_over) >= 1
        there = [piece for pieces in found.records for piece in pieces]
        assert [piece for _, piece in needed if piece not in there] == [], f"seed {seed}"
    assert damaged > 300
    assert passed_over > 300


def _write_some(log: SyncLog, rng: random.Random, offset: int, needed: list[tuple[int, Piece]]) -> int:
    piece = Piece(WHERE, offset, bytes([rng.randrange(256)]) * rng.choice((10, 10, 10, 5000, 9000)))
    entry = log.place([piece])
    if entry is None:
        return offset
    entry.write()
    needed.append((log._halves.index(entry.file), piece))
    return offset + len(piece.data)
