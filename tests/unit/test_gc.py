"""Giving space back: what is dead goes, what is alive or open stays, whatever happens between two steps."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.model.comparison import audit, tables
from tests.simdisk import SimDisk
from tests.syncing import sync
from tests.unit.test_catalog import WRITER, open_store, purge_all, save
from vfs import blocks, catalog, check, content, gc, journal, snapshot
from vfs.catalog import Catalog
from vfs.disk import RealDisk, RealFile
from vfs.errors import Corrupt, DiskFailed, NoSpace
from vfs.folder import Folder
from vfs.model import Ino, ObjectInfo, Seq
from vfs.store import Store

SEGMENT_BYTES_MAX = 420_000


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", SEGMENT_BYTES_MAX)
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 0)  # what is read, is read from the disk
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
    monkeypatch.setattr(gc, "BLOCKS_PER_STEP_MAX", 4)
    monkeypatch.setattr(gc, "DEAD_MAX", 6)
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))  # the host does not lose power here
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "store")
    opened.create_bucket(b"bucket", uid=0, gid=0)
    yield opened
    opened.abandon()


def bucket_of(store: Store) -> Ino:
    return store.find_bucket(b"bucket")


@cache
def random_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def read(store: Store, name: bytes) -> bytes:
    ino = store.tree.find(bucket_of(store), name)
    assert ino is not None
    handle = store.files.open(ino, WRITER)
    try:
        return store.files.read(handle, 0, 1 << 30)
    finally:
        store.files.release(handle)


def purge(store: Store, name: bytes, keep: int = 0) -> None:
    """Purge all but the newest *keep* versions of a name."""
    key = store.core.catalog.key(bucket_of(store), name)
    assert key is not None
    for seq, _ in list(store.core.catalog.versions(key))[keep:]:
        store.history.purge(key, seq, WRITER)


def used(store: Store) -> int:
    return Folder.at(store.path / "blocks").used_bytes()


def check_clean(path: Path) -> None:
    problems: list[check.Problem] = []
    check.check(path, problems.append, lambda *_: None)
    assert problems == []


def test_a_store_that_was_purged_is_as_small_as_a_fresh_one(store: Store) -> None:
    fresh = Folder.at(store.path).used_bytes()
    for number in range(300):
        save(store, bucket_of(store), b"name-%d" % (number % 50), random_bytes(30_000, number))
    assert Folder.at(store.path).used_bytes() > fresh + 8_000_000
    purge_all(store)
    collected = gc.run(store)
    assert collected.freed > 8_000_000
    assert collected.journal > 0
    assert Folder.at(store.path).used_bytes() < fresh * 1.1
    assert store.core.catalog.segments() == []
    audit(store)
    store.close()
    check_clean(store.path)


def test_holes_are_punched_where_much_is_alive_and_segments_moved_where_little_is(store: Store) -> None:
    for number in range(40):  # of the first segments every second file stays, behind them one file
        save(store, bucket_of(store), b"name-%d" % number, random_bytes(50_000, number))
    alive = {*range(0, 20, 2), 25}
    for number in set(range(40)) - alive:
        store.tree.unlink(bucket_of(store), b"name-%d" % number, WRITER)
        purge(store, b"name-%d" % number)
    collected = gc.run(store)
    assert collected.freed > 40 * 50_000 - len(alive) * 60_000
    assert used(store) < len(alive) * 60_000
    assert 1 in store.core.blocks.segments()
    assert 4 not in store.core.blocks.segments()
    for number in alive:
        assert read(store, b"name-%d" % number) == random_bytes(50_000, number)
    assert gc.run(store).freed == 0, "all of it is done"
    store.close()
    check_clean(store.path)


def test_blocks_below_a_page_are_moved_together(store: Store) -> None:
    """One small file in each page keeps all pages: punching frees nothing."""
    for number in range(1000):
        save(store, bucket_of(store), b"name-%d" % number, random_bytes(900, number))
    for number in set(range(1000)) - set(range(0, 1000, 5)):
        store.tree.unlink(bucket_of(store), b"name-%d" % number, WRITER)
        purge(store, b"name-%d" % number)
    gc.run(store)
    assert used(store) < 200 * 1000 + 2 * 4096
    assert all(read(store, b"name-%d" % number) == random_bytes(900, number) for number in range(0, 1000, 5))
    audit(store)


def test_what_is_shared_stays(store: Store) -> None:
    data = random_bytes(400_000, 1)
    save(store, bucket_of(store), b"one", data)
    save(store, bucket_of(store), b"two", data + b"tail")
    store.tree.unlink(bucket_of(store), b"one", WRITER)
    purge(store, b"one")
    gc.run(store)
    assert read(store, b"two") == data + b"tail"
    audit(store)


def test_an_open_file_keeps_what_it_wrote(store: Store) -> None:
    """Whole blocks are stored before anything refers to them."""
    data = random_bytes(900_000, 2)
    ino, _ = store.tree.create(bucket_of(store), b"open", 0o644, 0, WRITER)
    handle = store.files.open(ino, WRITER, created=True)
    store.files.write(handle, 0, data)
    gc.run(store)
    assert store.files.read(handle, 0, 1 << 30) == data
    store.files.flush(handle)
    store.files.release(handle)
    gc.run(store)
    assert read(store, b"open") == data
    audit(store)


def test_a_file_unlinked_while_open_keeps_what_its_draft_had(store: Store) -> None:
    """Its blocks lose their last reference while the collection is under way."""
    data = random_bytes(1_200_000, 3)
    ino, _ = store.tree.create(bucket_of(store), b"open", 0o644, 0, WRITER)
    handle = store.files.open(ino, WRITER, created=True)
    store.files.write(handle, 0, data)
    store.files.flush(handle)
    gone = garbage(store)
    for count, _ in enumerate(stepping(store)):
        if count == 3:
            store.tree.unlink(bucket_of(store), b"open", WRITER)
            purge(store, b"open")
        assert store.files.read(handle, 0, 1 << 30) == data
    assert gone(), "what nobody has open went"
    store.files.release(handle)
    gc.run(store)
    assert store.core.catalog.segments() == []


def test_a_version_that_is_being_read_can_be_read_to_its_end(store: Store) -> None:
    data = random_bytes(1_200_000, 4)
    save(store, bucket_of(store), b"name", data)
    gone = garbage(store)
    key = store.core.catalog.key(bucket_of(store), b"name")
    assert key is not None
    _, version = next(store.core.catalog.versions(key))
    copy = store.files.open_version(version.content)
    for count, _ in enumerate(stepping(store)):
        if count == 3:
            store.tree.unlink(bucket_of(store), b"name", WRITER)
            purge(store, b"name")
        assert copy.read(0, 1 << 30) == data
    assert gone()
    store.files.close_version(copy)
    gc.run(store)
    assert store.core.catalog.segments() == []


def garbage(store: Store) -> Callable[[], bool]:
    """Put something dead into each segment, so that all are collected. Returns whether it is gone."""
    save(store, bucket_of(store), b"garbage", random_bytes(1_200_000, 99))
    blocks_of_it = {block for block, row in store.core.catalog.blocks() if row.place.segment >= 3}
    store.tree.unlink(bucket_of(store), b"garbage", WRITER)
    purge(store, b"garbage")
    dead = {block for block in blocks_of_it if store.core.catalog.block(block).references == 0}  # type: ignore[union-attr]
    assert dead
    return lambda: not any(store.core.catalog.block(block) for block in dead)


def test_content_that_comes_back_during_a_collection_stays(store: Store) -> None:
    """Some of its blocks are out of the index by then, others are next."""
    data = random_bytes(1_200_000, 5)
    collect, done = 0, False
    while not done:
        save(store, bucket_of(store), b"name", data)
        store.tree.unlink(bucket_of(store), b"name", WRITER)
        purge(store, b"name")
        done = True
        ino, handle = Ino(0), None
        for count, _ in enumerate(stepping(store)):
            if count == collect:  # written, but nothing refers to it yet
                done = False
                ino, _ = store.tree.create(bucket_of(store), b"again", 0o644, 0, WRITER)
                handle = store.files.open(ino, WRITER, created=True)
                store.files.write(handle, 0, data)
        if handle is not None:
            store.files.flush(handle)
            store.files.release(handle)
            assert read(store, b"again") == data, f"after step {collect}"
            store.tree.unlink(bucket_of(store), b"again", WRITER)
            purge(store, b"again")
        audit(store)
        collect += 1
    assert collect > 10


def stepping(store: Store) -> Iterator[gc.Step]:
    """A thorough collection, with everybody else's chance to do something after each step."""
    steps = gc.Collector(store, thorough=True).steps()
    result: Any = None
    try:
        while True:
            step = steps.send(result)
            result = step.call() if isinstance(step, gc.Work) else None
            if step is gc.Need.CHECKPOINT:
                store.checkpoint()
                sync(store)
            yield step
    except StopIteration:
        return
    finally:
        steps.close()


DEAD = [number for number in range(60) if number % 7 and (number % 2 or number > 25)]


def fill(store: Store) -> dict[bytes, bytes]:
    """Files of which many are purged: more than half in the first segment, most behind. Returns what lives."""
    alive = {}
    for number in range(60):
        data = random_bytes(20_000, number)
        save(store, bucket_of(store), b"name-%d" % number, data)
        if number in DEAD:
            store.tree.unlink(bucket_of(store), b"name-%d" % number, WRITER)
            purge(store, b"name-%d" % number)
        else:
            alive[b"name-%d" % number] = data
    return alive


@pytest.mark.parametrize("end", ["kill", "crash"])
def test_a_collection_may_end_after_each_step(tmp_path: Path, end: str) -> None:
    path, disk = tmp_path / "store", SimDisk()
    opened = open_store(path, disk)
    opened.create_bucket(b"bucket", uid=0, gid=0)
    alive = fill(opened)
    opened.close()
    ends: Callable[[SimDisk, int], SimDisk] = {
        "kill": lambda disk, _: disk.kill(),
        "crash": lambda disk, seed: disk.crash(random.Random(seed)),
    }[end]
    count, done = 0, False
    while not done:
        here, disk_here = tmp_path / f"after-{count}", disk.kill()
        shutil.copytree(path, here)
        opened = open_store(here, disk_here)
        done = True
        for number, _ in enumerate(stepping(opened)):
            if number == count:
                done = False
                disk_here = ends(disk_here, count)  # before the collection tidies up
                break
        opened.abandon()
        opened = open_store(here, disk_here)
        for name, data in alive.items():
            assert read(opened, name) == data, f"after step {count}"
        for number in DEAD[count % 4 :: 4]:  # what was on its way out
            save(opened, bucket_of(opened), b"again", random_bytes(20_000, number))
            assert read(opened, b"again") == random_bytes(20_000, number), f"after step {count}"
        audit(opened)
        opened.tree.unlink(bucket_of(opened), b"again", WRITER)
        purge(opened, b"again")
        gc.run(opened)
        assert used_of(opened) < len(alive) * 20_000 * 1.3
        disk_here = opened.disk  # type: ignore[assignment]
        opened.close()
        shutil.rmtree(here / "catalog")
        opened = open_store(here, disk_here.kill())
        for name, data in alive.items():
            assert read(opened, name) == data, f"from the snapshot, after step {count}"
        audit(opened)
        opened.abandon()
        count += 1
    assert count > 10


def used_of(store: Store) -> int:
    disk = store.disk
    assert isinstance(disk, SimDisk)
    return sum(disk.open(path).allocated() for path in disk.paths if path.startswith("blocks/"))


def test_a_damaged_header_keeps_its_segment(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    alive = fill(store)
    catalog = store.core.catalog
    row = next(row for _, row in catalog.blocks() if row.references and row.place.segment == 1)
    flip(store.path / "blocks/00000001", row.place.offset - blocks.HEADER_BYTES)
    gc.run(store)
    assert "no space is freed in blocks/00000001" in caplog.text
    assert all(read(store, name) == data for name, data in alive.items())


def test_a_damaged_block_keeps_its_segment_and_the_rest_is_moved(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    alive = fill(store)
    row = next(row for _, row in store.core.catalog.blocks() if row.references and row.place.segment == 2)
    flip(store.path / "blocks/00000002", row.place.offset + 1)
    gc.run(store)
    assert "no space is freed in blocks/00000002" in caplog.text
    damaged = 0
    for name, data in alive.items():
        try:
            assert read(store, name) == data
        except Corrupt:
            damaged += 1
    assert damaged == 1


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes((byte[0] ^ 0xFF,)))


def test_on_a_full_disk_holes_are_punched_instead_of_moving(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = fill(store)

    def full(self: RealFile, buffers: Any) -> int:
        raise NoSpace("simulated: the disk is full")

    store.checkpoint()
    before = used(store)
    with monkeypatch.context() as patch:
        patch.setattr(RealFile, "append", full)
        gc.run(store, thorough=False)
    assert used(store) < before - 400_000
    assert all(read(store, name) == data for name, data in alive.items())
    audit(store)


def test_where_no_file_can_be_made_holes_are_punched_in_the_last_segment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XFS has no room for a new name when it is full; and what is appended meanwhile stays."""
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", 1 << 30)
    alive = fill(store)
    before = used(store)
    open_file = RealDisk.open

    def full(self: RealDisk, path: str, *, create: bool = False) -> RealFile:
        if create:
            raise NoSpace("simulated: no room for a name")
        return open_file(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(RealDisk, "open", full)
        for number, _ in enumerate(stepping(store)):
            if number % 3 == 0:
                alive[b"new-%d" % number] = random_bytes(1000, number)
                save(store, bucket_of(store), b"new-%d" % number, alive[b"new-%d" % number])
    assert used(store) < before / 2
    assert all(read(store, name) == data for name, data in alive.items())
    audit(store)
    store.close()
    check_clean(store.path)


def test_what_the_catalog_took_back_is_not_punched(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commit fails, so it is that of the last checkpoint again, with the blocks that were on their way out."""
    alive = fill(store)
    store.checkpoint()
    steps = gc.Collector(store, thorough=True).steps()
    result: Any = None
    dead = iter(DEAD)
    back = {}
    while step := send(steps, result):
        result = step.call() if isinstance(step, gc.Work) else None
        if step is gc.Need.CHECKPOINT:
            with monkeypatch.context() as patch:
                patch.setattr(Catalog, "_write_changed", failing)
                with pytest.raises(NoSpace):
                    store.checkpoint()
            for number in (next(dead), next(dead)):
                back[b"back-%d" % number] = random_bytes(20_000, number)
                save(store, bucket_of(store), b"back-%d" % number, back[b"back-%d" % number])
    assert len(back) >= 6
    assert all(read(store, name) == data for name, data in (alive | back).items())
    audit(store)


def send(steps: gc.Steps, result: Any) -> gc.Step | None:
    try:
        return steps.send(result)
    except StopIteration:
        return None


def failing(self: Catalog) -> None:
    raise lmdb.DiskError("simulated: no space")


def test_a_file_whose_version_is_purged_while_it_is_being_changed(store: Store) -> None:
    """What is changed keeps what it was, with one byte of it in memory: by then no version has the rest of it."""
    data = random_bytes(1_200_000, 6)
    save(store, bucket_of(store), b"open", data)
    ino = store.tree.find(bucket_of(store), b"open")
    assert ino is not None
    handle = store.files.open(ino, WRITER)
    gone = garbage(store)
    for count, _ in enumerate(stepping(store)):
        if count == 1:
            store.files.write(handle, 600_000, b"x")
            purge(store, b"open")
    assert gone()
    store.files.flush(handle)
    store.files.release(handle)
    assert read(store, b"open") == data[:600_000] + b"x" + data[600_001:]
    audit(store)


class Crash(Exception):
    """The process ends here."""


def test_who_has_the_journal_alone_does_not_look_for_what_was_freed(tmp_path: Path) -> None:
    """The power goes right after the first bytes did, and the catalog with it: who else says that all was durable?"""
    path, disk = tmp_path / "store", SimDisk()
    store = open_store(path, disk)
    store.create_bucket(b"bucket", uid=0, gid=0)
    store.checkpoint()
    alive = fill(store)

    calls = []

    def die(call: str, where: str) -> None:
        calls.append(call)
        if call == "sync" and "punch" in calls:
            raise Crash

    disk.watch = die
    with pytest.raises(Crash):
        gc.run(store, thorough=False)
    store.abandon()
    shutil.rmtree(path / "catalog")
    for seed in range(5):
        here = tmp_path / f"after-{seed}"
        shutil.copytree(path, here)
        again = open_store(here, disk.crash(random.Random(seed)))
        assert all(read(again, name) == data for name, data in alive.items())
        audit(again)
        again.abandon()


@pytest.mark.parametrize(("call", "thorough"), [("punch", False), ("remove", True)])
def test_who_has_the_catalog_does_not_take_what_was_freed_for_stored(tmp_path: Path, call: str, thorough: bool) -> None:
    """The process dies right after the first bytes went. No event says that they did: the index must be committed."""
    path, disk = tmp_path / "store", SimDisk()
    store = open_store(path, disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    for number in range(60):
        save(store, bucket, b"name-%d" % number, random_bytes(20_000, number))
    gone = [number for number in range(45) if number % 2 or thorough]
    for number in gone:
        store.tree.unlink(bucket, b"name-%d" % number, WRITER)
        purge(store, b"name-%d" % number)
    store.checkpoint()
    freed = []

    def die(what: str, where: str) -> None:
        if freed:
            raise Crash
        if what == call and where.startswith("blocks/"):
            freed.append(where)

    disk.watch = die
    with pytest.raises(Crash):
        gc.run(store, thorough=thorough)
    assert freed
    store.abandon()
    again = open_store(path, disk.kill())
    for number in gone:
        save(again, bucket, b"again", random_bytes(20_000, number))
        assert read(again, b"again") == random_bytes(20_000, number)
    audit(again)
    again.abandon()


def test_what_is_left_of_a_freed_block_may_look_like_headers(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """As it does if somebody keeps the segments of another store in this one."""
    header = blocks.header_of(blocks.identify(b"somewhere else"), node=False, length=100_000)
    save(store, bucket_of(store), b"first", random_bytes(50_000, 1))
    save(store, bucket_of(store), b"second", header * 1100)
    for number in range(5):
        save(store, bucket_of(store), b"name-%d" % number, random_bytes(60_000, number))
    for name in (b"first", b"second", b"name-1"):  # one after the other: the third time others were freed
        store.tree.unlink(bucket_of(store), name, WRITER)
        purge(store, name)
        assert gc.run(store).freed > 40_000
    assert "no space is freed" not in caplog.text
    assert all(read(store, b"name-%d" % number) == random_bytes(60_000, number) for number in (0, 2, 3, 4))
    for number in (0, 2, 3, 4):
        store.tree.unlink(bucket_of(store), b"name-%d" % number, WRITER)
        purge(store, b"name-%d" % number)
    gc.run(store)
    assert used(store) == 0


def test_what_is_changed_in_the_index_is_committed_now_and_then(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the commit at the end of a segment of small blocks holds the loop."""
    monkeypatch.setattr(gc, "ROWS_PER_CHECKPOINT_MAX", 20)
    for number in range(300):
        save(store, bucket_of(store), b"name-%d" % number, random_bytes(900, number))
    purge_all(store)
    assert sum(step is gc.Need.CHECKPOINT for step in stepping(store)) > 12


# -- what the disk refuses ---------------------------------------------------------------------------------------


def test_a_sync_that_fails_when_the_journal_is_folded_ends_all_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next sync would succeed, and say nothing of what was lost."""
    save(store, bucket_of(store), b"name", b"not synced yet")
    file = store.core.journal._file
    assert file is not None
    with monkeypatch.context() as patch:
        patch.setattr(file, "sync", refusing(DiskFailed("simulated")))
        with pytest.raises(DiskFailed, match="simulated"):
            gc.run(store)
    with pytest.raises(DiskFailed, match="read-only"):
        save(store, bucket_of(store), b"name", b"more")


def refusing(error: Exception) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise error

    return refuse


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (lmdb.DiskError("mdb_txn_commit: No space left on device"), True),
        (lmdb.Error("mdb_txn_commit: Disk quota exceeded"), True),
        (lmdb.Error("mdb_txn_commit: Input/output error"), False),
        (lmdb.PanicError("mdb_txn_commit: MDB_PANIC"), False),
    ],
)
def test_a_commit_that_fails_is_tried_again_only_if_the_disk_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: lmdb.Error, full: bool, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, bucket_of(store), b"name", b"content")
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "_write_changed", refusing(error))
        with pytest.raises(NoSpace if full else DiskFailed, match="cannot be committed"):
            store.commit_catalog()
    assert read(store, b"name") == b"content", "as before"
    if full:
        store.checkpoint()
        save(store, bucket_of(store), b"name", b"more")
        audit(store)
    else:
        assert "the store is read-only: the catalog cannot be committed" in caplog.text
        with pytest.raises(DiskFailed):
            store.checkpoint()


def test_a_short_write_of_the_catalog_means_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB calls it an EIO."""
    save(store, bucket_of(store), b"name", b"content")
    monkeypatch.setattr(Catalog, "_write_changed", refusing(lmdb.Error("mdb_txn_commit: Input/output error")))
    monkeypatch.setattr("vfs.catalog.set_aside", lambda *_: False)
    with pytest.raises(NoSpace):
        store.commit_catalog()
    assert not store.core.failed


def test_lmdb_is_opened_again_if_it_takes_no_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not, once the write of a meta page has failed."""
    save(store, bucket_of(store), b"name", b"content")
    begin, begun = Catalog._begin, iter((False, True))

    def not_at_first(self: Catalog) -> None:
        if not next(begun, True):
            raise lmdb.PanicError("simulated")
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "_begin", not_at_first)
        patch.setattr(Catalog, "_write_changed", refusing(lmdb.Error("mdb_txn_commit: Input/output error")))
        with pytest.raises(DiskFailed):
            store.commit_catalog()
    assert read(store, b"name") == b"content"


def test_a_catalog_that_lacks_something_is_never_committed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commit fails, and then the journal cannot be read."""
    save(store, bucket_of(store), b"name", b"content")
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "_write_changed", failing)
        patch.setattr(RealFile, "read", refusing(DiskFailed("simulated: cannot read")))
        with pytest.raises(DiskFailed):
            store.commit_catalog()
    with pytest.raises(DiskFailed, match="read-only"):
        store.checkpoint()
    path = store.path
    store.abandon()
    again = open_store(path)
    assert read(again, b"name") == b"content"
    again.abandon()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_catalog_that_cannot_be_replaced_stays(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    alive = fill(store)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "rename", refusing(OSError(number, os.strerror(number))))
        with pytest.raises(NoSpace if number == errno.ENOSPC else DiskFailed):
            gc.run(store)
    assert all(read(store, name) == data for name, data in alive.items())
    audit(store)
    assert bool(store.core.failed) == (number == errno.EIO)


def test_a_catalog_is_not_replaced_while_much_is_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came since its checkpoint is taken in at once, and nobody is served meanwhile."""
    monkeypatch.setattr(gc, "REPLAYED_EVENTS_MAX", 10)
    for number in range(400):
        save(store, bucket_of(store), b"name-%d" % number, b"%d" % number)
    purge_all(store)
    for busy in (True, False):
        before = os.stat(store.path / "catalog/data.mdb").st_ino
        held = False
        for step in stepping(store):
            if step is gc.Need.HOLD and busy:
                for number in range(20):
                    save(store, bucket_of(store), b"busy-%d" % number, b"%d" % number)
            held = step is gc.Need.HOLD or (held and step is not gc.Need.RELEASE)
            assert not (held and step is gc.Need.CHECKPOINT)
        assert (os.stat(store.path / "catalog/data.mdb").st_ino == before) == busy
        monkeypatch.setattr(gc, "REPLAYED_EVENTS_MAX", 1000)
        audit(store)
    assert read(store, b"busy-19") == b"19"
    store.close()
    check_clean(store.path)


# -- snapshots -------------------------------------------------------------------------------------------------


def test_a_snapshot_stands_for_the_journal(store: Store) -> None:
    alive = fill(store)
    before = store.core.journal.size()
    gc.run(store)
    assert len(snapshot.complete(store.disk)) == 1
    assert store.core.journal.size() < before / 10
    save(store, bucket_of(store), b"later", b"later")
    wanted = tables(store)
    store.close()
    check_clean(store.path)
    for how in ("open", "rebuild"):
        shutil.rmtree(store.path / "catalog")
        if how == "rebuild":
            check.rebuild(store.path, lambda *_: None)
        again = open_store(store.path)
        found = tables(again)
        assert {name: found[name] for name in found if name not in ("blocks", "segments")} == {
            name: wanted[name] for name in wanted if name not in ("blocks", "segments")
        }
        assert all(read(again, name) == data for name, data in (alive | {b"later": b"later"}).items())
        audit(again)
        again.close()
        check_clean(store.path)


@pytest.mark.parametrize("counts", [1, 3, 20_000])
@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_snapshot_of_what_was_open_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rebuilt: bool, counts: int
) -> None:
    """Drafts of open files, parts of uploads, and versions refer to blocks, and to what is below nodes: all of it is
    counted when a store begins with a snapshot, however few counts there is room for.
    """
    for module in (blocks, content):
        monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)
    monkeypatch.setattr(catalog, "COUNTS_MAX", counts)
    store = open_store(tmp_path / "store")
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    for number in range(8):
        save(store, bucket, b"f%d" % number, random_bytes(300, number))
    handles = []
    for name, seed in ((b"f0", 100), (b"f1", 100), (b"new", 101)):  # two drafts are equal
        ino = store.tree.find(bucket, name) or store.tree.create(bucket, name, 0o644, 0, WRITER)[0]
        handle = store.files.open(ino, WRITER, truncate=True)
        store.files.write(handle, 0, random_bytes(400, seed))
        store.files.flush(handle)
        handles.append(handle)
    upload = store.uploads.create(bucket, b"u", ObjectInfo())
    for number in (1, 2):
        copy = store.objects.begin_content(bucket)
        copy.write(0, random_bytes(200, 200 + number))
        store.uploads.put_part(bucket, b"u", upload, number, copy.seal(), f"e{number}")
        store.objects.end_content(copy)
    gc.run(store)
    assert len(snapshot.complete(store.disk)) == 1
    assert store.core.catalog.count("drafts") == 3
    store.abandon()
    shutil.rmtree(store.path / "catalog")
    if rebuilt:
        check.rebuild(store.path, lambda *_: None)
    again = open_store(store.path)
    audit(again)
    assert [read(again, name) for name in (b"f0", b"f1", b"new")] == [random_bytes(400, s) for s in (100, 100, 101)]
    gc.run(again)
    for _ in again.uploads.complete(bucket, b"u", upload, [(1, "e1"), (2, "e2")], WRITER, etag="m"):
        pass
    assert read(again, b"u") == random_bytes(200, 201) + random_bytes(200, 202)
    audit(again)
    purge_all(again)
    audit(again)
    assert all(row.references == 0 for _, row in again.core.catalog.blocks())
    again.close()


def test_a_damaged_snapshot_is_reported_and_the_store_opens(store: Store) -> None:
    fill(store)
    gc.run(store)
    (number,) = snapshot.complete(store.disk)
    store.close()
    flip(store.path / f"snapshots/{number:016x}", 5000)
    problems: list[check.Problem] = []
    check.check(store.path, problems.append, lambda *_: None)
    assert [problem.where for problem in problems] == [f"snapshots/{number:016x} at byte 0"]
    with pytest.raises(Corrupt, match="snapshots/"):
        check.rebuild(store.path, lambda *_: None)
    again = open_store(store.path)
    save(again, bucket_of(again), b"more", b"more")
    gc.run(again)  # a new snapshot, made of the catalog
    again.close()
    check_clean(store.path)
    shutil.rmtree(store.path / "catalog")
    open_store(store.path).close()


def test_a_snapshot_that_is_half_written_is_worth_nothing(store: Store) -> None:
    fill(store)
    gc.run(store)
    save(store, bucket_of(store), b"more", b"more")
    (number,) = snapshot.complete(store.disk)
    store.close()
    half = store.path / f"snapshots/{number + 1:016x}"
    half.write_bytes((store.path / f"snapshots/{number:016x}").read_bytes()[:-1])
    check_clean(store.path)
    open_store(store.path).close()
    assert snapshot.every(RealDisk(Folder.at(store.path))) == [number]


def test_headers_finds_what_a_scan_finds(store: Store) -> None:
    for number in range(200):
        save(store, bucket_of(store), b"name-%d" % number, random_bytes(random.Random(number).randrange(9000), number))
    for segment in store.core.blocks.segments():
        file = store.core.blocks.open_segment(segment)
        found, offset = [], 0
        while offset < file.size:
            some, offset = blocks.headers(file, segment, offset, 7)
            found += some
        scanned = [one for one in store.core.blocks.scan(blocks.End(segment, 0)) if one.place.segment == segment]
        assert found == scanned
        file.close()


def test_the_sequence_of_versions_goes_on_after_everything_was_folded(store: Store) -> None:
    save(store, bucket_of(store), b"name", b"1")
    last = store.core.catalog.last_seq
    purge_all(store)
    gc.run(store)
    store.close()
    shutil.rmtree(store.path / "catalog")
    again = open_store(store.path)
    assert again.core.next_seq() > Seq(last)
    again.close()


def test_nothing_is_left_of_a_snapshot_for_which_there_is_no_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    size = store.core.journal.size()
    append = RealFile.append

    def full(self: RealFile, buffers: Any) -> int:
        if "snapshots" in str(self._path) and self.size:
            raise NoSpace("simulated: the disk is full")
        return append(self, buffers)

    with monkeypatch.context() as patch:
        patch.setattr(RealFile, "append", full)
        with pytest.raises(NoSpace):
            gc.run(store)
    assert snapshot.every(store.disk) == []
    assert not (store.path / "catalog.copy").exists()
    assert store.core.journal.size() >= size
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "free_bytes", lambda _: 4096)
        assert gc.run(store).journal == 0, "it is not even tried"
    assert gc.run(store).journal > size / 2


def test_a_damaged_snapshot_stays_until_there_is_another(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    gc.run(store)
    (number,) = snapshot.complete(store.disk)
    flip(store.path / f"snapshots/{number:016x}", 5000)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "write", refusing(NoSpace("simulated")))
        with pytest.raises(NoSpace):
            gc.run(store)
    assert snapshot.complete(store.disk) == [number]
    gc.run(store)
    (another,) = snapshot.complete(store.disk)
    assert another > number


def test_a_snapshot_that_went_is_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the journal is: without its beginning the catalog alone knows what was there."""
    alive = fill(store)
    gc.run(store)
    store.close()
    shutil.rmtree(store.path / "snapshots")
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 1 << 30)
    again = open_store(store.path)
    gc.run(again, thorough=False)
    again.close()
    check_clean(store.path)
    shutil.rmtree(store.path / "catalog")
    again = open_store(store.path)
    assert all(read(again, name) == data for name, data in alive.items())
    again.close()


def test_a_snapshot_may_end_where_a_segment_of_the_journal_does(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """That segment goes, and with it the place by whose name the snapshot goes on."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 1)  # one record each
    steps = gc.Collector(store, thorough=True).steps()
    result: Any = None
    while step := send(steps, result):
        result = step.call() if isinstance(step, gc.Work) else None
        if step is gc.Need.CHECKPOINT:
            save(store, bucket_of(store), b"name", b"behind the new segment")
            store.checkpoint()
            sync(store)
    path = store.path
    store.close()
    open_store(path).close()
    check_clean(path)
    shutil.rmtree(path / "catalog")
    again = open_store(path)
    assert read(again, b"name") == b"behind the new segment"
    again.close()
    check.rebuild(path, lambda *_: None)
    check_clean(path)
