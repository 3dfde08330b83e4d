"""The journal: numbering, segments, what counts as a torn tail, and that damage never passes for one."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simdisk import SimDisk, fail_at, no_fault
from vfs import journal
from vfs.errors import Corrupt, DiskFailed, NoSpace, TooLarge
from vfs.journal import FOLDER, START, Journal, Position

HEADER_BYTES = 32
FIRST = f"{FOLDER}/{1:016x}"


def reopen(disk: SimDisk) -> tuple[Journal, list[bytes]]:
    """As recovery does: take what is intact, see that nothing durable is missing, drop the rest."""
    found = Journal(disk)
    records = list(found.records(START))
    found.durable = max((record.durable for record in records), default=0)
    found.end = records[-1].end if records else START
    found.check_tail()
    found.settle()
    return found, [record.payload for record in records]


def written(disk: SimDisk, payloads: list[bytes]) -> Journal:
    new, _ = reopen(disk)
    for payload in payloads:
        new.append(payload)
    return new


def synced(of: Journal) -> None:
    number, files = of.unsynced()
    for file in files:
        file.sync()
    of.synced(number)


@given(st.lists(st.binary(max_size=200), max_size=20), st.lists(st.binary(max_size=20), max_size=5))
def test_round_trip_and_going_on(payloads: list[bytes], more: list[bytes]) -> None:
    disk = SimDisk()
    written(disk, payloads).close()
    again, found = reopen(disk)
    assert found == payloads
    assert again.end.number == len(payloads)
    for payload in more:
        again.append(payload)
    assert reopen(disk)[1] == payloads + more


def test_records_are_numbered_from_one() -> None:
    disk = SimDisk()
    new, _ = reopen(disk)
    assert [new.append(b"x") for _ in range(3)] == [1, 2, 3]
    records = list(Journal(disk).records(START))
    assert [record.number for record in records] == [1, 2, 3]
    assert [record.start.number for record in records] == [0, 1, 2]
    assert [record.end for record in records][:-1] == [record.start for record in records][1:]
    assert records[-1].end == new.end


def test_reading_begins_at_any_position() -> None:
    disk = SimDisk()
    written(disk, [b"one", b"two", b"three"])
    first, second, _ = Journal(disk).records(START)
    assert [record.payload for record in Journal(disk).records(first.end)] == [b"two", b"three"]
    assert [record.payload for record in Journal(disk).records(second.end)] == [b"three"]


def test_a_record_says_what_was_durable_before_it() -> None:
    disk = SimDisk()
    new = written(disk, [b"1", b"2"])
    synced(new)
    new.append(b"3")
    assert [record.durable for record in Journal(disk).records(START)] == [0, 0, 2]


def test_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 100)
    disk = SimDisk()
    payloads = [bytes([at]) * 30 for at in range(10)]
    new = written(disk, payloads)
    assert new.segments() == [1, 3, 5, 7, 9]
    again, found = reopen(disk)
    assert found == payloads
    again.append(b"more")
    assert reopen(disk)[1] == [*payloads, b"more"]


def test_a_full_segment_is_synced_before_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the last is the only one that a power loss can harm."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 100)
    disk = SimDisk()
    calls: list[tuple[str, str]] = []
    disk.fault = lambda call, path: calls.append((call, path))
    written(disk, [b"x" * 90, b"y"])
    assert calls.index(("sync", FIRST)) < calls.index(("create", f"{FOLDER}/{2:016x}"))


def test_a_failed_sync_of_a_full_segment_leaves_no_half_made_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 100)
    disk = SimDisk()
    new = written(disk, [b"x" * 90])
    disk.fault = fail_at(1, DiskFailed, calls={"sync"})
    with pytest.raises(DiskFailed):
        new.append(b"y")
    assert new.segments() == [1]
    assert new.end.number == 1


def test_a_refused_append_changes_nothing() -> None:
    disk = SimDisk()
    new = written(disk, [b"1"])
    disk.fault = fail_at(1, NoSpace, calls={"append"})
    end = new.end
    with pytest.raises(NoSpace):
        new.append(b"2")
    assert new.end == end
    disk.fault = no_fault
    assert new.append(b"3") == 2
    assert reopen(disk)[1] == [b"1", b"3"]


def test_no_record_is_too_large_to_be_read_again() -> None:
    disk = SimDisk()
    new = written(disk, [])
    with pytest.raises(TooLarge):
        new.append(bytes(journal.PAYLOAD_BYTES_MAX + 1))
    new.append(bytes(journal.PAYLOAD_BYTES_MAX))
    assert len(reopen(disk)[1][0]) == journal.PAYLOAD_BYTES_MAX


def test_every_cut_leaves_the_records_before_it() -> None:
    disk = SimDisk()
    payloads = [b"a", b"bcd" * 20, b"", b"vfsJ" * 10, b"e"]
    written(disk, payloads)
    whole = disk.contents(FIRST)
    ends = [record.end.offset for record in Journal(disk).records(START)]
    for size in range(len(whole) + 1):
        disk.replace(FIRST, whole[:size])
        again, found = reopen(disk)
        assert found == payloads[: sum(end <= size for end in ends)]
        assert again.append(b"next") == len(found) + 1
        assert reopen(disk)[1] == [*found, b"next"]


def test_every_flipped_bit_in_what_was_durable_is_refused_and_nothing_dropped() -> None:
    disk = SimDisk()
    new = written(disk, [b"one", b"two", b"vfsJ three"])
    synced(new)
    new.append(b"four")
    whole = disk.contents(FIRST)
    starts = [record.start.offset for record in Journal(disk).records(START)]
    for at in range(starts[3]):
        for bit in range(8):
            disk.replace(FIRST, whole)
            disk.flip(FIRST, at, 1 << bit)
            place = max(start for start in starts if start <= at)
            with pytest.raises(Corrupt, match=f"{FIRST} at byte {place}") as raised:
                reopen(disk)
            assert raised.value.where == f"{FIRST} at byte {place}"
            assert len(disk.contents(FIRST)) == len(whole)


def test_what_nobody_knew_durable_is_a_torn_tail() -> None:
    """Later records may be there although an earlier one is not: they go too."""
    disk = SimDisk()
    new = written(disk, [b"one"])
    synced(new)
    for payload in (b"two", b"three", b"four"):
        new.append(payload)
    second = list(Journal(disk).records(START))[1]
    disk.flip(FIRST, second.start.offset + HEADER_BYTES)
    again, found = reopen(disk)
    assert found == [b"one"]
    assert len(disk.contents(FIRST)) == second.start.offset
    assert again.append(b"new two") == 2


def test_a_missing_durable_segment_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 100)
    disk = SimDisk()
    new = written(disk, [bytes([at]) * 90 for at in range(3)])
    synced(new)
    new.append(b"knows that 3 is durable")
    disk.remove(f"{FOLDER}/{2:016x}")
    with pytest.raises(Corrupt):
        reopen(disk)


def test_segments_behind_a_torn_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 100)
    disk = SimDisk()
    payloads = [bytes([at]) * 90 for at in range(4)]
    written(disk, payloads)
    disk.replace(f"{FOLDER}/{2:016x}", disk.contents(f"{FOLDER}/{2:016x}")[:-1])
    again, found = reopen(disk)
    assert found == payloads[:1]
    again.append(b"second")
    assert reopen(disk)[1] == [payloads[0], b"second"]


def test_an_empty_last_segment_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process died between making it and its first record."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 100)
    disk = SimDisk()
    written(disk, [b"x" * 90])
    disk.open(f"{FOLDER}/{2:016x}", create=True)
    again, found = reopen(disk)
    assert found == [b"x" * 90]
    again.append(b"y")
    assert reopen(disk)[1] == [b"x" * 90, b"y"]


def test_holds() -> None:
    disk = SimDisk()
    assert Journal(disk).holds(START)
    assert not Journal(disk).holds(Position(1, 50, 1))
    end = written(disk, [b"x"]).end
    assert Journal(disk).holds(end)
    assert Journal(disk).holds(START)
    assert not Journal(disk).holds(Position(1, end.offset + 1, 2))
    assert not Journal(disk).holds(Position(2, 0, 1))


def test_what_is_known_to_be_durable_stays_so() -> None:
    """A sync that ends after a later one, which was quicker: of the segments, and of the sync log."""
    disk = SimDisk()
    new = written(disk, [b"1", b"2", b"3"])
    early, files = new.unsynced()
    new.append(b"4")
    new.logged(4)
    for file in files:
        file.sync()
    new.synced(early)
    assert (early, new.durable) == (3, 4)
    new.append(b"5")
    assert list(Journal(disk).records(START))[-1].durable == 4


def test_only_segments_for_which_a_snapshot_stands_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 100)
    for number in range(12):
        for keep in (1, 4, 7, 10):
            disk = SimDisk()
            new = written(disk, [b"x" * 20] * 11)
            assert new.segments() == [1, 3, 5, 7, 9, 11]
            new.forget(number, keep=keep)
            left = new.segments()
            for first, last in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 11)):
                gone = last <= number and first < keep and last < 11
                assert (first not in left) == gone, (number, keep, first)
            new.close()


def test_a_record_of_another_number_is_none() -> None:
    """A segment that was put back from an older copy of the store, or twice."""
    disk = SimDisk()
    written(disk, [b"one", b"two", b"three"]).close()
    records = list(Journal(disk).records(START))
    raw = disk.contents(FIRST)
    one, two, three = (raw[record.start.offset : record.end.offset] for record in records)
    for pieces, wanted in (
        ((one, three), [b"one"]),
        ((two, three), []),
        ((one, one, two), [b"one"]),
        ((one, two, two, three), [b"one", b"two"]),
        ((one, two, three), [b"one", b"two", b"three"]),
    ):
        disk.replace(FIRST, b"".join(pieces))
        assert [record.payload for record in Journal(disk).records(START)] == wanted


# -- room set aside ---------------------------------------------------------------------------------------------------


def full(disk: SimDisk) -> SimDisk:
    """From now on there is only what was set aside."""
    disk.capacity = disk.used
    return disk


def test_a_full_disk_goes_on_in_the_spare_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ROOM_STEP_BYTES", 1000)
    disk = SimDisk()
    new = written(disk, [b"first"])
    new.set_aside(5000)
    assert new.room >= 5000
    full(disk)
    room, count = new.room, 0
    while True:
        try:
            new.append(b"x" * 68)
        except NoSpace:
            break
        count += 1
        assert new.room >= room - 100 * count - 100, "but for what is left at the end of a segment"
    assert count >= 48
    assert new.segments()[0] == 1
    assert len(new.segments()) == 2
    assert journal.SPARE not in disk.paths
    synced(new)
    assert reopen(disk.kill())[1] == [b"first"] + [b"x" * 68] * count


def test_a_spare_segment_is_found_again_and_is_no_segment() -> None:
    disk = SimDisk()
    new = written(disk, [b"first"])
    new.set_aside(5 << 20)
    room = new.room
    new.close()
    again, found = reopen(disk)
    assert found == [b"first"]
    assert again.segments() == [1]
    assert again.room >= room - 100


@pytest.mark.parametrize("seed", range(20))
def test_a_power_loss_while_the_spare_segment_gets_its_name(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ROOM_STEP_BYTES", 1000)
    disk = SimDisk()
    new = written(disk, [b"first"])
    new.set_aside(5000)
    full(disk)
    images = []

    def watch(call: str, path: str) -> None:
        if call in ("rename", "renaming"):
            images.append(disk.crash(Random(seed)))

    disk.watch = watch
    sent = [b"first"]
    while new.segments() == [1]:
        synced(new)
        new.append(b"x" * 68)
        sent.append(b"x" * 68)
    assert len(images) == 2
    for image in images:
        again, found = reopen(image)
        assert found == sent[:-1]
        again.append(b"more")
        assert reopen(image)[1] == [*sent[:-1], b"more"]


def test_an_empty_last_segment_gives_way_to_the_spare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ROOM_STEP_BYTES", 100)
    disk = SimDisk()
    new = written(disk, [b"first"])
    new.set_aside(5000)
    new.roll()
    full(disk)
    new.append(b"y" * 200)
    assert new.segments() == [1, 2]
    assert reopen(disk.kill())[1] == [b"first", b"y" * 200]


def test_room_that_is_not_needed_any_more_is_given_back() -> None:
    disk = SimDisk()
    new = written(disk, [b"first"])
    new.set_aside(50 << 20)
    used = disk.used
    new.set_aside(5 << 20)
    assert 5 << 20 <= new.room < 10 << 20
    assert disk.used < used - (40 << 20)
    disk.capacity = disk.used + (1 << 20)
    new.set_aside(50 << 20)
    assert 5 << 20 <= new.room < 10 << 20, "what there was"
