"""Durability: what is promised for the commit interval holds while somebody else has the commits."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.simdisk import SimDisk
from tests.unit.test_catalog import WRITER, open_store, save
from vfs.check import check
from vfs.errors import DiskFailed, NoSpace
from vfs.service.durability import INLINE_US_MAX, QUICK_WRITES, QUICK_WRITES_MAX, Durability, Pace
from vfs.store import Store
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
    store.sync()
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


@pytest.mark.parametrize(("error", "failed"), [(DiskFailed, True), (NoSpace, False)])
def test_the_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], failed: bool
) -> None:
    store, _ = logging_store(tmp_path)

    def refused(entry: Entry) -> None:
        raise error("simulated")

    monkeypatch.setattr(Entry, "write", refused)
    save(store, store.find_bucket(b"bucket"), b"name", b"content")
    if failed:
        with pytest.raises(DiskFailed):
            trio.run(Durability(store).sync)
        assert store.core.failed
    else:  # a file system that writes to a new place each time: what is to be synced is where it belongs
        trio.run(Durability(store).sync)
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
