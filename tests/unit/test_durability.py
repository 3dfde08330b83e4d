"""Durability: what is promised for the commit interval holds while somebody else has the commits; with "close" what was
answered is on the disk.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import lmdb
import pyfuse3
import pytest
import trio
import trio.testing

from tests.simdisk import SimDisk, fail_at, no_fault
from tests.syncing import sync
from tests.unit.doors import caller, door_to, fields
from tests.unit.test_catalog import WRITER, open_store, save
from vfs import acl, blocks, journal
from vfs.blocks import End
from vfs.catalog import Catalog
from vfs.check import check
from vfs.errors import DiskFailed, NoSpace
from vfs.fuse.nodes import Node
from vfs.fuse.nodes import number as number_of
from vfs.fuse.operations import Operations
from vfs.journal import Position
from vfs.model import STORE_ROOT, Ino, KeyId, PurgePolicy
from vfs.names import format_version_id
from vfs.service import durability as durability_module
from vfs.service.durability import INLINE_US_MAX, QUICK_WRITES, QUICK_WRITES_MAX, Durability, Pace
from vfs.store import Pending, Store, sync_files
from vfs.synclog import FOLDER, Entry

pytestmark = pytest.mark.usefixtures("small_sync_log")


def test_what_was_closed_is_synced_while_a_collection_holds_the_commits(tmp_path: Path) -> None:
    path = tmp_path / "store"
    open_store(path).close()
    (path / "config.toml").write_text("commit_interval = 0.01\n")
    store = open_store(path)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    durability = Durability(store)

    async def changed() -> None:
        save(store, bucket, b"name", b"content")
        number = store.core.journal.end.number
        durability.changed()
        with trio.fail_after(10):
            while store.core.journal.durable < number:  # noqa: ASYNC110 (nobody tells)
                await trio.sleep(0.01)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(durability.run)
            await durability.commits.acquire()
            known = store.core.catalog.checkpoint
            await changed()
            await changed()  # also when a commit is waiting already
            assert store.core.catalog.checkpoint == known
            durability.commits.release()
            with trio.fail_after(10):
                while store.core.catalog.checkpoint == known:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    store.close()


def logging_store(tmp_path: Path) -> tuple[Store, SimDisk]:
    """A store whose next sync goes to the sync log."""
    disk = SimDisk()
    store = Store.open(tmp_path / "store", disk=disk)
    save(store, store.create_bucket(b"bucket", uid=0, gid=0), b"first", b"of a segment")
    sync(store)
    assert len(disk.list(FOLDER)) == 2
    return store, disk


def synced(store: Store) -> bool:
    return store.core.journal.durable == store.core.journal.end.number


@pytest.mark.parametrize("seed", range(20))
def test_what_only_the_log_has_survives_the_power(tmp_path: Path, seed: int) -> None:
    store, disk = logging_store(tmp_path)
    bucket = store.find_bucket(b"bucket")
    syncs: list[str] = []
    disk.watch = lambda call, path: syncs.append(path) if call == "sync" else None
    for number in range(3):
        save(store, bucket, b"%d" % number, b"content %d" % number * 100)
        trio.run(Durability(store).sync)
        assert synced(store)
    assert len(syncs) == 3
    assert all(path.startswith(FOLDER) for path in syncs)
    found = disk.crash(random.Random(seed))
    store.abandon()
    problems: list[object] = []
    check(tmp_path / "store", problems.append, lambda *_: None, disk=found)
    assert problems == []
    again = Store.open(tmp_path / "store", disk=found)
    for number in range(3):
        handle = again.files.open(again.tree.lookup(bucket, b"%d" % number)[0], WRITER)
        assert again.files.read(handle, 0, 1000) == b"content %d" % number * 100
        again.files.release(handle)
    again.close()
    assert found.list(FOLDER) == []


def test_a_write_to_a_slow_disk_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = logging_store(tmp_path)
    bucket = store.find_bucket(b"bucket")
    durability = Durability(store)
    go_on = threading.Event()
    write = Entry.write

    def slow(entry: Entry) -> None:
        assert go_on.wait(10)
        write(entry)

    monkeypatch.setattr(Entry, "write", slow)

    async def main() -> None:
        save(store, bucket, b"name", b"content")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(durability.sync)
            await trio.testing.wait_all_tasks_blocked()
            save(store, bucket, b"other", b"meanwhile")  # the loop goes on
            assert not synced(store)
            go_on.set()
        assert not synced(store)  # what came meanwhile is not part of it
        await durability.sync()
        assert synced(store)

    trio.run(main)
    store.close()


def test_a_quick_disk_is_waited_for_inline_but_not_while_the_segments_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = logging_store(tmp_path)
    bucket = store.find_bucket(b"bucket")
    durability = Durability(store)
    threads = []
    write = Entry.write

    def watched(entry: Entry) -> None:
        threads.append(threading.current_thread() is threading.main_thread())
        write(entry)

    monkeypatch.setattr(Entry, "write", watched)
    monkeypatch.setattr(Pace, "is_quick", True)

    async def main() -> None:
        save(store, bucket, b"name", b"1")
        await durability.sync()
        async with durability._placing:
            save(store, bucket, b"name", b"2")
            await durability.sync()

    trio.run(main)
    assert threads == [True, False]
    store.close()


@pytest.mark.parametrize("sync", [sync, lambda store: trio.run(Durability(store).sync)])
@pytest.mark.parametrize(("error", "failed"), [(DiskFailed, True), (NoSpace, False)])
def test_the_log_cannot_be_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    failed: bool,
    sync: Callable[[Store], None],
) -> None:
    store, _ = logging_store(tmp_path)

    def refused(entry: Entry) -> None:
        raise error("simulated")

    monkeypatch.setattr(Entry, "write", refused)
    save(store, store.find_bucket(b"bucket"), b"name", b"content")
    if failed:
        with pytest.raises(DiskFailed):
            sync(store)
        assert store.core.failed
    else:  # a file system that writes to a new place each time: what is to be synced is where it belongs
        sync(store)
        assert synced(store)
    store.abandon()


def test_the_pace_of_a_disk() -> None:
    pace = Pace()
    quick, slow = INLINE_US_MAX * 1000, INLINE_US_MAX * 1000 + 1
    wanted = QUICK_WRITES
    for _ in range(20):
        for _ in range(wanted):
            assert not pace.is_quick
            pace.took(quick)
        assert pace.is_quick
        pace.took(slow)
        wanted = min(2 * wanted, QUICK_WRITES_MAX)
    pace.took(slow)
    assert not pace.is_quick


# -- what a sync and a checkpoint promise -----------------------------------------------------------------------------


class SlowSyncs:
    """Syncs of the segments that are done, and whose thread has yet to say so. begun: how many were begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.may_go_on = threading.Event()
        self._synced = threading.Event()
        sync_files = durability_module.sync_files

        def slow(pending: Pending) -> None:
            self.begun += 1
            sync_files(pending)
            self._synced.set()
            assert self.may_go_on.wait(10)

        monkeypatch.setattr(durability_module, "sync_files", slow)

    async def first_is_done(self) -> None:
        """What is written from now on is not part of the first one."""
        assert await trio.to_thread.run_sync(self._synced.wait, 10)


async def test_a_sync_that_began_before_a_change_does_not_count_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimDisk()
    store = open_store(tmp_path / "store", disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    store.place()
    slow = SlowSyncs(monkeypatch)
    durability = Durability(store)
    save(store, bucket, b"before", b"x")
    before = store.core.journal.end.number
    async with trio.open_nursery() as nursery:
        nursery.start_soon(durability.sync)
        await slow.first_is_done()
        save(store, bucket, b"meanwhile", b"y")
        nursery.start_soon(durability.sync)
        await trio.testing.wait_all_tasks_blocked()
        slow.may_go_on.set()
    assert slow.begun == 2, "the second one shares no sync that began before its change"
    assert synced(store)
    assert store.core.journal.durable > before
    assert not unsynced(disk)
    store.abandon()


async def test_one_sync_serves_all_that_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store", SimDisk())
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    store.place()
    slow = SlowSyncs(monkeypatch)
    durability = Durability(store)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            save(store, bucket, b"%d" % number, b"x")
            nursery.start_soon(durability.sync)
            await trio.testing.wait_all_tasks_blocked()
        slow.may_go_on.set()
    assert slow.begun == 2, "the first one's, and one for all who came meanwhile"
    assert synced(store)
    store.abandon()


def unsynced(disk: SimDisk) -> list[str]:
    """The files, apart from the sync log's, of which a power loss would take something."""
    return [path for path in disk.paths if disk._files[path].appends and not path.startswith(FOLDER)]


@pytest.mark.parametrize("logged", [False, True])
async def test_a_checkpoint_syncs_again_before_the_catalog_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: bool
) -> None:
    """What came while it synced in the thread is in the catalog, too: so it must be in its own place before, also where
    the sync log has it.
    """
    store, disk = logging_store(tmp_path)
    bucket = store.find_bucket(b"bucket")
    durability = Durability(store)
    slow = SlowSyncs(monkeypatch)
    found: list[list[str]] = []
    commit = Catalog.commit

    def watched(catalog: Catalog, position: Position, blocks: End) -> None:
        found.append(unsynced(disk))
        assert position.number == store.core.journal.end.number
        commit(catalog, position, blocks)

    monkeypatch.setattr(Catalog, "commit", watched)
    save(store, bucket, b"before", b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(durability.checkpoint)
        await slow.first_is_done()
        save(store, bucket, b"meanwhile", b"y")
        if logged:
            await durability.sync()
            assert synced(store)
            assert unsynced(disk)
        slow.may_go_on.set()
    assert found == [[]]
    after = disk.crash(random.Random(1))
    store.abandon()
    again = Store.open(tmp_path / "store", disk=after)
    assert again.tree.find(bucket, b"meanwhile") is not None
    again.abandon()


@pytest.mark.parametrize("seed", range(10))
def test_the_log_has_what_came_while_the_segments_were_synced(tmp_path: Path, seed: int) -> None:
    """It begins where they had been synced to, not where they end by then."""
    store, disk = logging_store(tmp_path)
    bucket = store.find_bucket(b"bucket")
    save(store, bucket, b"before", b"x")
    pending = store.begin_sync()
    sync_files(pending)
    save(store, bucket, b"meanwhile", b"came in" * 100)
    store.end_sync(pending)
    assert not synced(store)
    sync(store)
    assert synced(store)
    assert unsynced(disk), "the log alone has it"
    after = disk.crash(random.Random(seed))
    store.abandon()
    again = Store.open(tmp_path / "store", disk=after)
    handle = again.files.open(again.tree.lookup(bucket, b"meanwhile")[0], WRITER)
    assert again.files.read(handle, 0, 1000) == b"came in" * 100
    again.abandon()


def test_blocks_are_synced_before_the_journal_and_both_before_the_catalog_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, disk = logging_store(tmp_path)
    done: list[str] = []
    disk.watch = lambda call, path: done.append(path.partition("/")[0]) if call == "sync" else None
    commit = Catalog.commit

    def watched(catalog: Catalog, position: Position, blocks: End) -> None:
        done.append("catalog")
        commit(catalog, position, blocks)

    monkeypatch.setattr(Catalog, "commit", watched)
    save(store, store.find_bucket(b"bucket"), b"name", b"content")
    store.checkpoint()
    assert done == ["blocks", "journal", "catalog"]
    store.abandon()


def log_all(store: Store) -> bool:
    """Make everything so far durable in the sync log, if that has room."""
    logged = store.begin_logging()
    if logged is not None:
        logged.entry.write()
        store.end_logging(logged)
    return logged is not None


def all_survives(store: Store, disk: SimDisk, names: list[bytes]) -> None:
    """Whatever the power takes of what was not synced."""
    bucket = store.find_bucket(b"bucket")
    store.abandon()
    for seed in range(10):
        here = store.path.with_name(f"after-{seed}")
        shutil.copytree(store.path, here)
        again = Store.open(here, disk=disk.crash(random.Random(seed)))
        for name in names:
            handle = again.files.open(again.tree.lookup(bucket, name)[0], WRITER)
            assert again.files.read(handle, 0, 10_000) == name * 1000
            again.files.release(handle)
        again.abandon()


def test_a_log_that_is_needed_until_a_sync_ends_is_not_written_over(tmp_path: Path) -> None:
    store, disk = logging_store(tmp_path)
    bucket = store.find_bucket(b"bucket")
    save(store, bucket, b"0", b"0" * 1000)
    assert log_all(store)
    store.begin_sync()
    names = [b"0"]
    while log_all(store):
        names.append(b"%d" % len(names))
        save(store, bucket, names[-1], names[-1] * 1000)
    assert len(names) > 5
    all_survives(store, disk, names[:-1])


def test_a_sync_empties_the_log_of_what_was_there_when_it_began(tmp_path: Path) -> None:
    store, disk = logging_store(tmp_path)
    bucket = store.find_bucket(b"bucket")
    save(store, bucket, b"before", b"before" * 1000)
    assert log_all(store)
    pending = store.begin_sync()
    sync_files(pending)
    save(store, bucket, b"meanwhile", b"meanwhile" * 1000)
    assert log_all(store)
    store.end_sync(pending)
    save(store, bucket, b"after", b"after" * 1000)
    assert log_all(store)
    all_survives(store, disk, [b"before", b"meanwhile", b"after"])


@pytest.mark.parametrize("module", [blocks, journal])
def test_what_begins_a_segment_is_synced_in_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    """The log goes on behind the end of one."""
    store, disk = logging_store(tmp_path)
    bucket = store.find_bucket(b"bucket")
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 1)
    names = [b"0", b"1", b"2"]
    for name in names:
        save(store, bucket, name, name * 1000)
        sync(store)
        assert synced(store)
    all_survives(store, disk, names)


def test_after_a_record_that_could_not_be_written_the_store_takes_nothing_more(tmp_path: Path) -> None:
    """Nobody knows what of it is on the disk."""
    disk = SimDisk()
    store = open_store(tmp_path / "store", disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    disk.fault = fail_at(1, DiskFailed, calls={"append"}, under="journal")
    for _ in range(2):
        with pytest.raises(DiskFailed):
            store.tree.mkdir(bucket, b"d", 0o755, 0, WRITER)
        disk.fault = no_fault
    store.abandon()


def test_after_a_change_that_was_written_and_not_applied_the_store_takes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug: what the catalog is then, nobody knows. The journal does."""
    store = open_store(tmp_path / "store")
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)

    def wrong(*_: object) -> None:
        raise ValueError("simulated")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "apply", wrong)
        with pytest.raises(ValueError, match="simulated"):
            store.tree.mkdir(bucket, b"d", 0o755, 0, WRITER)
    for call in (lambda: store.tree.mkdir(bucket, b"e", 0o755, 0, WRITER), store.checkpoint):
        with pytest.raises(DiskFailed):
            call()
    store.close()
    again = open_store(tmp_path / "store")
    assert [name for _, name, _ in again.tree.entries(bucket)] == [b"d"]
    again.close()


def test_a_catalog_is_not_brought_up_to_a_journal_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit fails, and of the journal from which it would be made again a record is damaged by then."""
    disk = SimDisk()
    store = open_store(tmp_path / "store", disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    store.checkpoint()
    known = store.core.catalog.checkpoint
    for number in range(5):
        save(store, bucket, b"%d" % number, b"content")
    segment = f"journal/{store.core.journal.end.segment:016x}"
    disk.flip(segment, (known.journal.offset + store.core.journal.end.offset) // 2)

    def full(catalog: Catalog) -> None:
        raise lmdb.DiskError("simulated: no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "_write_changed", full)
        with pytest.raises(DiskFailed):
            store.checkpoint()
    assert store.core.failed
    assert store.core.catalog.checkpoint == known
    with pytest.raises(DiskFailed):
        save(store, bucket, b"more", b"content")
    store.close()
    assert store.core.catalog.checkpoint == known, "nor at the end"


@pytest.mark.parametrize("what", ["sync", "checkpoint"])
async def test_after_a_sync_that_failed_the_store_takes_nothing_more(tmp_path: Path, what: str) -> None:
    """Also when a later sync would be answered with success."""
    disk = SimDisk()
    store = open_store(tmp_path / "store", disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    durability = Durability(store)
    disk.fault = fail_at(1, DiskFailed, calls={"sync"})
    with pytest.raises(DiskFailed):
        await getattr(durability, what)()
    disk.fault = no_fault
    assert store.core.failed
    end = store.core.journal.end
    for call in (durability.sync, durability.checkpoint):
        with pytest.raises(DiskFailed):
            await call()
    with pytest.raises(DiskFailed):
        store.tree.mkdir(bucket, b"d", 0o755, 0, WRITER)
    assert store.core.journal.end == end
    assert not synced(store)
    store.abandon()


# -- durability = "close" ---------------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """A bucket with a file `f` of two versions, another one `g`, an empty directory `d`, and an attribute of `f`."""

    door: Operations
    bucket: Ino
    file: Ino

    @property
    def store(self) -> Store:
        return self.door.store

    def key(self) -> KeyId:
        key = self.store.core.catalog.key(self.bucket, b"f")
        assert key is not None
        return key

    def versions(self) -> list[int]:
        """The sequences of the versions of `f`, newest first."""
        return [seq for seq, _ in self.store.core.catalog.versions(self.key())]


def prepare(path: Path, settings: str) -> Prepared:
    path.mkdir()
    (path / "config.toml").write_text(settings)
    store = open_store(path, SimDisk())
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"f", b"one")
    file = save(store, bucket, b"f", b"two")
    save(store, bucket, b"g", b"three")
    store.tree.mkdir(bucket, b"d", 0o755, 0, WRITER)
    store.create_bucket(b"empty", uid=0, gid=0)
    store.tree.set_attribute(file, b"user.kept", b"x")
    store.set_purge_policy(bucket, PurgePolicy.RM)
    store.place()
    door = door_to(store)
    door.enable_acl = True
    return Prepared(door, bucket, file)


def attributes(**values: int) -> pyfuse3.EntryAttributes:
    made = pyfuse3.EntryAttributes()
    for name, value in values.items():
        setattr(made, f"st_{name}", value)
    return made


async def close_after(at: Prepared, made: tuple[pyfuse3.FileInfo, object] | pyfuse3.FileInfo) -> None:
    """Write to what was opened, and close it: what close(2) waits for is FLUSH."""
    info = made[0] if isinstance(made, tuple) else made
    await at.door.write(info.fh, 0, b"written")
    await at.door.flush(info.fh)


async def close_a_new_file(at: Prepared) -> None:
    await close_after(at, await at.door.create(at.bucket, b"new", 0o644, os.O_WRONLY, ROOT))


async def close_after_truncating(at: Prepared) -> None:
    await close_after(at, await at.door.open(at.file, os.O_WRONLY | os.O_TRUNC, ROOT))


async def restore(at: Prepared) -> None:
    value = b"%d\0h" % at.versions()[-1]
    await at.door.setxattr(at.bucket, b"user.vfs.restore", value, ROOT)


async def purge(at: Prepared) -> None:
    name = format_version_id(at.versions()[-1]).encode()
    await at.door.setxattr(number_of(Node.KEY, at.key()), b"user.vfs.purge", name, ROOT)


async def purge_by_rm(at: Prepared) -> None:
    name = format_version_id(at.versions()[-1]).encode()
    await at.door.unlink(number_of(Node.KEY, at.key()), name, ROOT)


ROOT = caller()
LIST = acl.encode(
    (
        acl.Entry(acl.Tag.OWNER, 0, 7),
        acl.Entry(acl.Tag.USER, 5, 7),
        acl.Entry(acl.Tag.OWNING_GROUP, 0, 5),
        acl.Entry(acl.Tag.MASK, 0, 7),
        acl.Entry(acl.Tag.OTHER, 0, 0),
    )
)
CHANGES: dict[str, Callable[[Prepared], Awaitable[object]]] = {
    "mkdir of a bucket": lambda at: at.door.mkdir(STORE_ROOT, b"other", 0o755, ROOT),
    "rmdir of a bucket": lambda at: at.door.rmdir(STORE_ROOT, b"empty", ROOT),
    "mkdir": lambda at: at.door.mkdir(at.bucket, b"e", 0o755, ROOT),
    "rmdir": lambda at: at.door.rmdir(at.bucket, b"d", ROOT),
    "mknod": lambda at: at.door.mknod(at.bucket, b"fifo", stat.S_IFIFO | 0o600, 0, ROOT),
    "symlink": lambda at: at.door.symlink(at.bucket, b"link", b"f", ROOT),
    "link": lambda at: at.door.link(at.file, at.bucket, b"again", ROOT),
    "create": lambda at: at.door.create(at.bucket, b"new", 0o644, os.O_WRONLY, ROOT),
    "close of a new file": close_a_new_file,
    "close after O_TRUNC": close_after_truncating,
    "unlink": lambda at: at.door.unlink(at.bucket, b"f", ROOT),
    "rename": lambda at: at.door.rename(at.bucket, b"f", at.bucket, b"h", 0, ROOT),
    "rename over another": lambda at: at.door.rename(at.bucket, b"f", at.bucket, b"g", 0, ROOT),
    "rename of a directory": lambda at: at.door.rename(at.bucket, b"d", at.bucket, b"e", 0, ROOT),
    "exchange": lambda at: at.door.rename(at.bucket, b"f", at.bucket, b"g", pyfuse3.RENAME_EXCHANGE, ROOT),
    "chmod": lambda at: at.door.setattr(at.file, attributes(mode=stat.S_IFREG | 0o600), fields("mode"), None, ROOT),
    "utimensat": lambda at: at.door.setattr(at.file, attributes(mtime_ns=5), fields("mtime"), None, ROOT),
    "truncate": lambda at: at.door.setattr(at.file, attributes(size=1), fields("size"), None, ROOT),
    "setxattr": lambda at: at.door.setxattr(at.file, b"user.a", b"x", ROOT),
    "setxattr of a list": lambda at: at.door.setxattr(at.file, acl.ACCESS, LIST, ROOT),
    "removexattr": lambda at: at.door.removexattr(at.file, b"user.kept", ROOT),
    "purge policy": lambda at: at.door.setxattr(at.bucket, b"user.vfs.purge", b"never", ROOT),
    "versioning": lambda at: at.door.setxattr(at.bucket, b"user.vfs.versioning", b"Suspended", ROOT),
    "compression": lambda at: at.door.setxattr(at.bucket, b"user.vfs.compression", b"zstd", ROOT),
    "lock": lambda at: at.door.setxattr(at.bucket, b"user.vfs.lock", b"governance 1 days", ROOT),
    "lifecycle": lambda at: at.door.setxattr(at.bucket, b"user.vfs.lifecycle", b"[]", ROOT),
    "restore": restore,
    "purge": purge,
    "purge by rm": purge_by_rm,
}


@pytest.mark.parametrize("setting", ["close", "interval"])
@pytest.mark.parametrize("change", CHANGES)
async def test_what_was_answered_is_durable(tmp_path: Path, change: str, setting: str) -> None:
    at = prepare(tmp_path / "store", f'durability = "{setting}"\n')
    before = at.store.core.journal.end.number
    assert synced(at.store)
    await CHANGES[change](at)
    assert at.store.core.journal.end.number > before, "it changes something"
    assert synced(at.store) == (setting == "close")
    assert at.door.durability._changed.is_set(), "and a checkpoint is due"
    at.store.abandon()


async def test_fsync_makes_durable_what_was_written_and_all_else(tmp_path: Path) -> None:
    at = prepare(tmp_path / "store", "")
    info = await at.door.open(at.file, os.O_WRONLY, ROOT)
    await at.door.write(info.fh, 0, b"TWO")
    await at.door.mkdir(at.bucket, b"e", 0o755, ROOT)
    await at.door.fsync(info.fh, False)
    assert synced(at.store)
    draft = at.store.core.catalog.draft(at.file)
    assert draft is not None, "what was written is part of it"
    await at.door.mkdir(at.bucket, b"e2", 0o755, ROOT)
    await at.door.fsyncdir(0, False)
    assert synced(at.store)
    at.store.abandon()


async def test_what_a_release_publishes_is_due_within_the_interval(tmp_path: Path) -> None:
    at = prepare(tmp_path / "store", "")
    info = await at.door.open(at.file, os.O_WRONLY, ROOT)
    await close_after(at, info)
    at.door.durability._changed = trio.Event()
    await at.door.release(info.fh)
    assert at.door.durability._changed.is_set()
    at.store.abandon()


@pytest.mark.parametrize(
    ("settings", "waits"),
    [("", False), ('durability = "close"\n', True), ('s3_durability = "close"\n', True)],
)
async def test_what_another_door_changed_is_as_durable_as_the_settings_say(
    tmp_path: Path, settings: str, waits: bool
) -> None:
    at = prepare(tmp_path / "store", settings)
    save(at.store, at.bucket, b"f", b"by another door")
    await at.door.settle([])
    assert synced(at.store) == waits
    assert at.door.durability._changed.is_set()
    at.store.abandon()


async def test_much_that_changes_does_not_wait_for_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfs.store.EVENTS_PER_CHECKPOINT_MAX", 10)
    at = prepare(tmp_path / "store", "commit_interval = 3600\n")
    known = at.store.core.catalog.checkpoint.journal.number
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at.door.durability.run)
        with trio.fail_after(10):
            while at.store.core.catalog.checkpoint.journal.number == known:
                await at.door.setxattr(at.file, b"user.a", b"x", ROOT)
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    at.store.abandon()
