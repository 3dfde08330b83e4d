"""Power losses, cuts and damage on the simulated disk: what opens is a prefix of what happened, or is refused."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.simdisk import SimDisk
from tests.syncing import sync
from vfs import synclog
from vfs.check import check
from vfs.content import WorkingCopy
from vfs.errors import Corrupt
from vfs.journal import FOLDER, Journal, Position, Record
from vfs.model import Ino, Kind, Version, Writer
from vfs.store import Store

WRITER = Writer(1000, 1, "test")
TAIL_BYTES = 64 << 10
SEGMENT = f"{FOLDER}/{1:016x}"

Histories = dict[bytes, tuple[bytes | None, ...]]  # of each name: what its versions hold, oldest first; None: a marker


class Workload:
    """Random operations in an Enabled bucket, each with the histories that it must leave.

    `after[n]`: the histories when the journal ended with record n, between two operations. `during[n]`: what else may
    be found there, because recovery publishes what a file held that was open.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.disk = SimDisk()
        self.chance = random.Random(seed)
        ticks = itertools.count(1_700_000_000_000_000_000, 1_000_000)
        self.clock = lambda: next(ticks)
        self.folder = folder
        self.store = Store.open(folder, disk=self.disk, clock=self.clock)
        self.bucket = self.store.create_bucket(b"bucket", uid=0, gid=0)
        self.histories: Histories = {}
        self.after: dict[int, Histories] = {}
        self.during: dict[int, list[Histories]] = {}
        self.synced = 0
        self.note()

    @property
    def number(self) -> int:
        return self.store.core.journal.end.number

    def note(self) -> None:
        self.after[self.number] = dict(self.histories)

    def step(self) -> None:
        """One operation."""
        before = self.number
        names = [name for name, held in self.histories.items() if held[-1] is not None]
        started = dict(self.histories)
        match self.chance.choice(("put", "put", "put", "delete", "rename", "sync")):
            case "delete" if names:
                name = self.chance.choice(names)
                self.store.tree.unlink(self.bucket, name, WRITER)
                self.histories[name] += (None,)
            case "rename" if len(names) > 1:
                name, new = self.chance.sample(names, 2)
                held = self.histories[name]
                self.store.tree.rename(self.bucket, name, self.bucket, new, WRITER)
                self.histories[new] += (held[-1],)
                if len(held) == 1:
                    del self.histories[name]  # a save by renaming
                else:
                    self.histories[name] += (None,)
            case "sync":
                self.store.checkpoint() if self.chance.random() < 0.2 else sync(self.store)
                self.synced = self.number
            case _:
                name = b"name-%d" % self.chance.randrange(12)
                data = self.chance.randbytes(self.chance.choice((0, 1, 40, 300)))
                self._put(name, data)
                self.histories[name] = (*self.histories.get(name, ()), data)
        after = dict(self.histories)
        empty = {name: (*started.get(name, ()), b"") for name in after if after[name] != started.get(name)}
        for number in range(before, self.number + 1):
            self.during.setdefault(number, []).extend((started, after, started | empty))
        self.note()

    def _put(self, name: bytes, data: bytes) -> None:
        ino = self.store.tree.find(self.bucket, name)
        created = ino is None
        if ino is None:
            ino, _ = self.store.tree.create(self.bucket, name, 0o644, 0, WRITER)
        handle = self.store.files.open(ino, WRITER, truncate=not created, created=created)
        self.store.files.write(handle, 0, data)
        self.store.files.flush(handle)
        self.store.files.release(handle)

    def allowed(self, number: int) -> list[Histories]:
        """What may be found after recovery from a journal that ended with record *number*."""
        return [*self.during.get(number, ()), *([self.after[number]] if number in self.after else ())]


def histories_of(store: Store) -> Histories:
    """Everything that a store holds in the bucket, read to the last byte; {} without the bucket."""
    catalog = store.core.catalog
    found: Histories = {}
    bucket = next((ino for ino, _ in store.buckets()), None)
    for name, key in list(catalog.keys(Ino(bucket))) if bucket else ():
        held = [held_by(store, version) for _, version in catalog.versions(key)]
        found[name] = tuple(reversed(held))
    return found


def held_by(store: Store, version: Version) -> bytes | None:
    if version.kind is Kind.MARKER:
        return None
    return WorkingCopy(store.core.blocks, version.content).read(0, version.content.size)


def reopened(workload: Workload, disk: SimDisk, folder: Path) -> Store:
    return Store.open(folder, disk=disk, clock=workload.clock)


def assert_clean(folder: Path, disk: SimDisk) -> None:
    problems: list[object] = []
    check(folder, problems.append, lambda *_: None, disk=disk)
    assert problems == []


def records_of(disk: SimDisk) -> list[Record]:
    return list(Journal(disk).records(Position(1, 0, 0)))


@pytest.fixture
def long_journal(tmp_path: Path) -> Workload:
    """A workload whose journal is longer than TAIL_BYTES, none of it in the catalog on disk."""
    workload = Workload(tmp_path / "store", seed=1)
    workload.store.checkpoint = partial(sync, workload.store)  # type: ignore[method-assign]
    while workload.store.core.journal.end.offset < TAIL_BYTES + 8000:
        workload.step()
    workload.store.abandon()
    return workload


def test_a_cut_at_every_byte_leaves_the_records_before_it(long_journal: Workload) -> None:
    disk = long_journal.disk
    whole = disk.contents(SEGMENT)
    records = records_of(disk)
    assert records[-1].end.offset == len(whole)
    ends = [0, *(record.end.offset for record in records)]
    at = len(ends) - 1
    for size in range(len(whole), len(whole) - TAIL_BYTES, -1):
        while ends[at] > size:
            at -= 1
        start = records[at - 2].end if at >= 2 else Position(1, 0, 0)
        disk.replace(SEGMENT, whole[:size])
        journal = Journal(disk)
        found = list(journal.records(start))
        assert [record.number for record in found] == [records[at - 1].number], f"cut at byte {size}"
        journal.end = found[-1].end
        journal.check_tail()
        assert journal.settle() == size - ends[at]
        assert len(disk.contents(SEGMENT)) == ends[at]
        journal.close()


@pytest.mark.parametrize("sample", [60, pytest.param(None, marks=pytest.mark.slow)])
def test_a_cut_opens_into_a_prefix(long_journal: Workload, tmp_path: Path, sample: int | None) -> None:
    """At, before and behind the end of every record of the tail: any other byte is as one of these (see above)."""
    disk = long_journal.disk
    whole = disk.contents(SEGMENT)
    ends = {
        record.end.offset: record.number for record in records_of(disk) if record.end.offset > len(whole) - TAIL_BYTES
    }
    cuts = sorted({size for end in ends for size in (end - 1, end, end + 1) if size <= len(whole)})
    if sample is not None:
        cuts = sorted(long_journal.chance.sample(cuts, sample))
    for size in cuts:
        number = max((number for end, number in ends.items() if end <= size), default=None)
        if number is None:
            continue
        folder = tmp_path / f"cut-{size}"
        shutil.copytree(long_journal.folder, folder)
        twin = disk.kill()
        twin.replace(SEGMENT, whole[:size])
        for half in twin.list(synclog.FOLDER):  # would bring back what is cut
            twin.remove(f"{synclog.FOLDER}/{half}")
        store = reopened(long_journal, twin, folder)
        assert histories_of(store) in long_journal.allowed(number), f"cut at byte {size}, record {number}"
        store.close()
        assert_clean(folder, twin)
        shutil.rmtree(folder)


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 2000), marks=pytest.mark.slow)])
def test_power_losses(tmp_path: Path, seeds: range) -> None:
    """Blocks and journal lost, torn, reordered: a prefix, with everything that was synced, and all of it readable."""
    for seed in seeds:
        workload = Workload(tmp_path / f"{seed}", seed)
        for _ in range(workload.chance.randrange(1, 40)):
            workload.step()
        last = workload.number
        synced = workload.synced
        workload.store.abandon()
        disk = workload.disk.crash(workload.chance)
        if seed % 2:  # the journal got to the disk first: its events miss their blocks
            for path in workload.disk.paths:
                if path.startswith(FOLDER):
                    disk.replace(path, workload.disk.contents(path))
        store = reopened(workload, disk, workload.folder)
        found = histories_of(store)
        prefixes = [number for number in range(synced, last + 1) if found in workload.allowed(number)]
        assert prefixes or (synced == 0 and found == {}), f"seed {seed}: no prefix of {last} records, {synced} synced"
        store.close()
        assert_clean(workload.folder, disk)
        shutil.rmtree(workload.folder)


def test_kills_lose_nothing(tmp_path: Path) -> None:
    workload = Workload(tmp_path / "store", seed=3)
    for _ in range(30):
        for _ in range(5):
            workload.step()
        workload.store.abandon()
        workload.disk = workload.disk.kill()
        workload.store = reopened(workload, workload.disk, workload.folder)
        assert histories_of(workload.store) == workload.histories
    workload.store.close()
    assert_clean(workload.folder, workload.disk)


def test_the_catalog_deleted_and_made_again_is_the_same(tmp_path: Path) -> None:
    workload = Workload(tmp_path / "store", seed=4)
    for _ in range(200):
        workload.step()
    tables = ("entries", "inodes", "keys", "key_names", "removed", "versions", "times", "links", "buckets", "blocks")
    before = {table: list(workload.store.core.catalog.rows(table)) for table in tables}
    workload.store.close()
    shutil.rmtree(workload.folder / "catalog")
    store = reopened(workload, workload.disk, workload.folder)
    for table in tables:
        assert list(store.core.catalog.rows(table)) == before[table], table
    store.close()


@pytest.mark.parametrize("seed", range(20))
def test_damage_of_what_was_durable_is_refused_and_named(tmp_path: Path, seed: int) -> None:
    """A flipped byte of the journal is never taken for a torn tail if anything later proves that it was durable."""
    workload = Workload(tmp_path / "store", seed)
    for _ in range(60):
        workload.step()
    workload.store.close()  # everything is durable, and the last record says so
    shutil.rmtree(workload.folder / "catalog")
    disk = workload.disk
    records = records_of(disk)
    victim = workload.chance.choice(records[:-1])
    disk.flip(
        SEGMENT, workload.chance.randrange(victim.start.offset, victim.end.offset), 1 << workload.chance.randrange(8)
    )
    size = len(disk.contents(SEGMENT))
    with pytest.raises(Corrupt, match=f"{SEGMENT} at byte {victim.start.offset}"):
        reopened(workload, disk, workload.folder)
    assert len(disk.contents(SEGMENT)) == size, "nothing is thrown away"


def test_a_flipped_block_harms_its_version_only(tmp_path: Path) -> None:
    workload = Workload(tmp_path / "store", seed=5)
    for i in range(20):
        workload._put(b"f", b"content number %04d" % i)
    workload.store.close()
    path = "blocks/00000001"
    workload.disk.flip(path, workload.disk.contents(path).index(b"content number 0007"))
    for again in range(2):  # with the catalog, and with one made again
        store = reopened(workload, workload.disk, workload.folder)
        key = store.core.catalog.key(workload.bucket, b"f")
        assert key is not None
        held = []
        for _, version in store.core.catalog.versions(key):
            with contextlib.suppress(Corrupt):
                held.append(WorkingCopy(store.core.blocks, version.content).read(0, 100))
                continue
            held.append(b"damaged")
        expected = [b"content number %04d" % i for i in reversed(range(20))]
        expected[-8] = b"damaged"
        assert held == expected
        store.close()
        if not again:
            shutil.rmtree(workload.folder / "catalog")


def test_history_ends_before_content_that_was_lost_and_written_again(tmp_path: Path) -> None:
    """A block is damaged, and somebody writes the same; the power takes that, but not the record that tells of it."""
    workload = Workload(tmp_path / "store", seed=6)
    workload._put(b"f", b"content")
    workload._put(b"intact", b"behind it")
    workload.store.close()
    path = "blocks/00000001"
    workload.disk.flip(path, workload.disk.contents(path).index(b"content"))
    shutil.rmtree(workload.folder / "catalog")
    workload.store = reopened(workload, workload.disk, workload.folder)
    before = workload.disk.contents(path)
    workload._put(b"g", b"content")
    workload.store.abandon()
    disk = workload.disk.kill()
    disk.replace(path, before)
    store = reopened(workload, disk, workload.folder)
    key = store.core.catalog.key(workload.bucket, b"g")
    assert key is not None
    assert [held_by(store, version) for _, version in store.core.catalog.versions(key)] == [b""]
    store.abandon()
