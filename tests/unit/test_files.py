"""Open files at the engine: one working copy for all handles, what a close promises, what becomes a version and when,
and what a death leaves of it.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.model.comparison import audit
from tests.simdisk import SimDisk
from tests.syncing import sync
from tests.unit.conftest import Clock
from tests.unit.test_catalog import open_store, save
from tests.unit.test_history import held
from tests.unit.test_tree import ALICE, ROOT, write
from vfs import gc
from vfs.content import WorkingCopy
from vfs.core import CAPABILITY
from vfs.errors import DiskFailed, IsADirectory, NoSpace, NoSuchKey, NotPermitted
from vfs.files import Handle
from vfs.model import STORE_ROOT, Ino, Writer
from vfs.store import Store


def opened(store: Store, bucket: Ino, name: bytes, writer: Writer = ROOT, **how: bool) -> Handle:
    return store.files.open(store.tree.lookup(bucket, name)[0], writer, **how)


def close(store: Store, handle: Handle) -> None:
    store.files.flush(handle)
    store.files.release(handle)


# -- what becomes a version -------------------------------------------------------------------------------------------


def test_one_open_is_one_version_whatever_is_flushed_between(store: Store, bucket: Ino) -> None:
    ino, _ = store.tree.create(bucket, b"f", 0o644, 0, ROOT)
    handle = store.files.open(ino, ROOT, created=True)
    store.files.flush(handle)  # of a duplicate, which a shell closes
    store.files.write(handle, 0, b"one")
    store.files.flush(handle)
    store.files.write(handle, 3, b"two")
    assert store.core.catalog.key(bucket, b"f") is not None
    assert store.tree.inode(ino).seq == 0, "no version yet"
    close(store, handle)
    assert held(store, bucket, b"f") == [b"onetwo"]


def test_who_changes_nothing_makes_no_version(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"one")
    before = store.core.journal.end
    handle = opened(store, bucket, b"f")
    assert store.files.read(handle, 0, 10) == b"one"
    close(store, handle)
    assert store.core.journal.end == before


@pytest.mark.parametrize(
    "change",
    [
        lambda files, handle: files.write(handle, 0, b"x"),
        lambda files, handle: files.truncate(handle, 0),
        lambda files, handle: files.truncate(handle, 3),  # the length that it has: POSIX marks the times
    ],
)
def test_whatever_changes_it_makes_one(store: Store, bucket: Ino, change: Callable[[object, Handle], None]) -> None:
    save(store, bucket, b"f", b"one")
    handle = opened(store, bucket, b"f")
    change(store.files, handle)
    close(store, handle)
    assert len(held(store, bucket, b"f")) == 2


def test_a_reader_that_closes_publishes_nothing_of_a_writers(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"one")
    writer, reader = opened(store, bucket, b"f"), opened(store, bucket, b"f")
    store.files.write(writer, 0, b"two")
    assert store.files.read(reader, 0, 10) == b"two", "they share the working copy"
    close(store, reader)
    assert held(store, bucket, b"f") == [b"one"]
    close(store, writer)
    assert held(store, bucket, b"f") == [b"two", b"one"]


def test_the_last_one_to_close_publishes_what_nobody_has(store: Store, bucket: Ino) -> None:
    """A page of memory that was mapped is written back through whatever descriptor is left."""
    save(store, bucket, b"f", b"one")
    first, second = opened(store, bucket, b"f"), opened(store, bucket, b"f")
    store.files.write(first, 0, b"two")
    close(store, first)
    store.files.write(second, 0, b"TWO")
    store.files.release(second)  # without a flush: the daemon's copy is all there is
    assert held(store, bucket, b"f") == [b"TWO", b"two", b"one"]


def test_what_a_close_could_not_keep_is_tried_again_by_the_last_one(tmp_path: Path) -> None:
    disk = SimDisk()
    store = open_store(tmp_path / "store", disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"f", b"one")
    writer, reader = opened(store, bucket, b"f"), opened(store, bucket, b"f")
    store.files.write(writer, 0, b"two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.core.blocks, "put", refuse)
        with pytest.raises(NoSpace):
            store.files.flush(writer)
        with pytest.raises(NoSpace):
            store.files.release(writer)
    assert store.files.read(reader, 0, 10) == b"two"
    store.files.release(reader)
    assert held(store, bucket, b"f") == [b"two", b"one"]
    assert not store.files.is_open(reader.ino)
    store.abandon()


def refuse(*_: object, **__: object) -> None:
    raise NoSpace("simulated")


@pytest.mark.parametrize("flushed", [True, False])
def test_what_no_room_was_to_publish_is_published_before_a_rename_though_it_is_open_again(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch, flushed: bool
) -> None:
    save(store, bucket, b"f", b"one")
    writer = opened(store, bucket, b"f")
    store.files.write(writer, 0, b"two")
    if flushed:
        store.files.flush(writer)
    commit = store.core.commit
    with monkeypatch.context() as patch:
        patch.setattr(
            store.core, "commit", lambda what, changes: (refuse if what == "publish" else commit)(what, changes)
        )
        with pytest.raises(NoSpace):
            store.files.release(writer)
    reader = opened(store, bucket, b"f")
    assert store.files.read(reader, 0, 10) == b"two"
    store.tree.rename(bucket, b"f", bucket, b"g", ROOT)
    assert held(store, bucket, b"f") == [None, b"two", b"one"]
    store.files.release(reader)
    assert held(store, bucket, b"g") == [b"two"]


def test_what_is_written_between_a_close_and_a_rename_is_no_part_of_what_was_closed(store: Store, bucket: Ino) -> None:
    """Of two descriptors of one open file one was closed; then it is renamed, and others have it open."""
    save(store, bucket, b"f", b"one")
    writer, reader = opened(store, bucket, b"f"), opened(store, bucket, b"f")
    store.files.write(writer, 0, b"two")
    store.files.flush(writer)
    store.files.write(writer, 3, b", and three")
    store.tree.rename(bucket, b"f", bucket, b"g", ROOT)
    assert held(store, bucket, b"g") == [b"two"]
    close(store, writer)
    assert held(store, bucket, b"g") == [b"two, and three", b"two"]
    store.files.release(reader)
    assert held(store, bucket, b"g") == [b"two, and three", b"two"]
    assert held(store, bucket, b"f") == [None, b"two", b"one"]


def test_two_writers_make_a_version_each_of_what_was_there(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"....")
    first, second = opened(store, bucket, b"f", ROOT), opened(store, bucket, b"f", ALICE)
    store.files.write(first, 0, b"a")
    store.files.write(second, 1, b"b")
    close(store, first)
    assert held(store, bucket, b"f")[0] == b"ab.."
    store.files.write(second, 2, b"c")
    close(store, second)
    assert held(store, bucket, b"f") == [b"abc.", b"ab..", b"...."]
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    writers = [version.writer for _, version in store.core.catalog.versions(key)]
    assert writers[0] == ALICE, "who changed it last"


def test_what_was_published_by_another_is_not_published_again(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"..")
    first, second = opened(store, bucket, b"f"), opened(store, bucket, b"f")
    store.files.write(first, 0, b"a")
    store.files.write(second, 1, b"b")
    close(store, first)
    close(store, second)
    assert held(store, bucket, b"f") == [b"ab", b".."]


def test_what_was_promised_is_a_version_before_what_is_restored_over_it(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"one")
    key = store.history.past(bucket, b"f").keys[0]
    oldest = store.history.current(key)
    assert oldest is not None
    handle = opened(store, bucket, b"f")
    store.files.write(handle, 0, b"two")
    store.files.flush(handle)
    store.history.restore(oldest, bucket, b"f", ROOT)
    assert held(store, bucket, b"f") == [b"one", b"two", b"one"]
    store.files.release(handle)
    assert held(store, bucket, b"f") == [b"one", b"two", b"one"]


def test_truncate_by_path_is_one_version_at_once(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"one")
    store.files.truncate_path(ino, 2, ROOT)
    assert held(store, bucket, b"f") == [b"on", b"one"]
    reader = opened(store, bucket, b"f")
    store.files.truncate_path(ino, 1, ROOT)
    assert store.files.read(reader, 0, 10) == b"o"
    assert held(store, bucket, b"f") == [b"o", b"on", b"one"]
    store.files.release(reader)


def test_stat_tells_of_what_is_open(store: Store, bucket: Ino, clock: Clock) -> None:
    ino = save(store, bucket, b"f", b"one")
    before = store.tree.inode(ino)
    handle = opened(store, bucket, b"f")
    store.files.write(handle, 0, b"longer")
    inode = store.tree.inode(ino)
    assert (inode.content.size, inode.mtime > before.mtime, inode.ctime > before.ctime) == (6, True, True)
    store.files.flush(handle)  # a draft is told of as well
    assert store.tree.inode(ino).content.size == 6
    store.files.truncate(handle, 1)
    assert store.tree.inode(ino).content.size == 1
    assert store.core.catalog.inode(ino).content.size == 3, "nothing is published"
    close(store, handle)
    assert store.tree.inode(ino).content.size == store.core.catalog.inode(ino).content.size == 1


def test_what_is_no_regular_file_is_not_opened(store: Store, bucket: Ino) -> None:
    fifo = store.tree.mknod(bucket, b"p", stat.S_IFIFO | 0o644, 0, 0, ROOT)[0]
    link = store.tree.symlink(bucket, b"l", b"t", 0, ROOT)[0]
    for ino, error in ((bucket, IsADirectory), (STORE_ROOT, IsADirectory), (fifo, NotPermitted), (link, NotPermitted)):
        with pytest.raises(error):
            store.files.open(ino, ROOT)
        assert not store.files.is_open(ino)
    with pytest.raises(NoSuchKey):
        store.files.open(Ino(1 << 40), ROOT)


# -- rights that go with a change -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [ROOT, ALICE])
@pytest.mark.parametrize("how", ["write", "truncate", "truncate by path"])
def test_set_id_bits_go_with_a_change_by_anybody_but_root(store: Store, bucket: Ino, how: str, by: Writer) -> None:
    ino = write(store, bucket, b"f", b"x", ALICE)
    store.tree.set_attributes(ino, mode=0o6755)
    if how == "truncate by path":
        store.files.truncate_path(ino, 0, by)
    else:
        handle = opened(store, bucket, b"f", by)
        assert stat.S_IMODE(store.tree.inode(ino).mode) == 0o6755, "not by opening"
        if how == "write":
            store.files.write(handle, 0, b"y")
        else:
            store.files.truncate(handle, 0)
        assert stat.S_IMODE(store.tree.inode(ino).mode) == (0o6755 if by is ROOT else 0o755), "before it is closed"
        close(store, handle)
    assert stat.S_IMODE(store.tree.inode(ino).mode) == (0o6755 if by is ROOT else 0o755)


@pytest.mark.parametrize("by", [ROOT, ALICE])
def test_content_that_a_user_restores_has_no_privileges(store: Store, bucket: Ino, by: Writer) -> None:
    ino = write(store, bucket, b"f", b"chosen", ALICE)
    write(store, bucket, b"f", b"trusted", ROOT)
    store.tree.set_attributes(ino, mode=0o4755)
    store.tree.set_attribute(ino, CAPABILITY, b"\1")
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    oldest = [seq for seq, _ in store.core.catalog.versions(key)][-1]
    store.history.restore(oldest, bucket, b"f", by)
    now, inode = store.tree.lookup(bucket, b"f")
    kept = by is ROOT
    assert stat.S_IMODE(inode.mode) == (0o4755 if kept else 0o755)
    assert (store.tree.find_attribute(now, CAPABILITY) is not None) == kept


@pytest.mark.parametrize("by", [ROOT, ALICE])
def test_content_that_a_purge_brings_back_has_no_privileges(store: Store, bucket: Ino, by: Writer) -> None:
    ino = write(store, bucket, b"f", b"chosen", ALICE)
    write(store, bucket, b"f", b"trusted", ALICE)
    store.tree.set_attributes(ino, mode=0o4755)
    store.tree.set_attribute(ino, CAPABILITY, b"\1")
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    newest = store.history.current(key)
    assert newest is not None
    store.history.purge(key, newest, by)
    now, inode = store.tree.lookup(bucket, b"f")
    kept = by is ROOT
    assert stat.S_IMODE(inode.mode) == (0o4755 if kept else 0o755)
    assert (store.tree.find_attribute(now, CAPABILITY) is not None) == kept


# -- without a name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flushed", [False, True])
def test_unlinked_while_open_it_works_on_and_then_is_dropped(store: Store, bucket: Ino, flushed: bool) -> None:
    ino = save(store, bucket, b"f", b"one")
    handle = opened(store, bucket, b"f")
    store.tree.unlink(bucket, b"f", ROOT)
    store.files.write(handle, 0, b"two")
    if flushed:
        store.files.flush(handle)
    assert store.files.read(handle, 0, 10) == b"two"
    assert (store.tree.inode(ino).nlink, store.tree.inode(ino).content.size) == (0, 3)
    assert store.core.catalog.is_orphan(ino), "for a recovery, which drops it"
    assert store.core.catalog.draft(ino) is None, "nobody can ever ask for it again"
    second = store.files.open(ino, ROOT)  # by /proc/self/fd
    store.files.release(second)
    store.files.release(handle)
    assert store.core.catalog.find_inode(ino) is None
    assert list(store.core.catalog.orphans()) == []
    assert held(store, bucket, b"f") == [None, b"one"]
    audit(store)


def test_what_was_written_to_a_young_file_with_history_is_kept_when_it_is_unlinked(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"one")
    handle = opened(store, bucket, b"f")
    store.files.write(handle, 0, b"two")
    store.tree.unlink(bucket, b"f", ROOT)
    store.files.release(handle)
    assert held(store, bucket, b"f") == [None, b"two", b"one"]


def test_a_draft_of_what_was_unlinked_goes_with_its_name(store: Store, bucket: Ino) -> None:
    ino, _ = store.tree.create(bucket, b"f", 0o644, 0, ROOT)
    handle = store.files.open(ino, ROOT, created=True)
    store.files.write(handle, 0, b"x" * 1000)
    store.files._store_draft(ino, handle.file)  # as the timer does
    store.tree.unlink(bucket, b"f", ROOT)
    assert store.core.catalog.draft(ino) is None
    store.files.release(handle)
    assert store.core.catalog.count("drafts") == store.core.catalog.count("orphans") == 0
    audit(store)


# -- a death, and the end ---------------------------------------------------------------------------------------------


def test_after_a_death_what_was_safe_is_published_and_what_had_no_name_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    disk = SimDisk()
    store = open_store(path, disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"gone", b"x" * 500)
    for name in (b"f", b"g"):
        save(store, bucket, name, b"old")
    handles = [opened(store, bucket, name) for name in (b"f", b"g", b"gone")]
    for handle in handles:
        store.files.write(handle, 0, b"new")
    store.files.flush(handles[0])
    store.files.write(handles[0], 3, b", and more")  # after the close of a duplicate
    store.tree.unlink(bucket, b"gone", ROOT)
    store.abandon()
    again = open_store(path, disk.kill())
    assert held(again, bucket, b"f") == [b"new", b"old"]
    assert held(again, bucket, b"g") == [b"old"]
    for table in ("orphans", "drafts"):
        assert again.core.catalog.count(table) == 0
    audit(again)
    again.close()


def test_after_a_death_a_file_lives_whose_versions_were_purged_while_it_was_written(tmp_path: Path) -> None:
    """Nobody removed it: so it has a version again, of nothing, and its name leads to what is in its history."""
    path = tmp_path / "store"
    disk = SimDisk()
    store = open_store(path, disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"f", b"secret")
    handle = opened(store, bucket, b"f")
    store.files.write(handle, 0, b"new")
    key = store.history.past(bucket, b"f").keys[0]
    for seq, _ in list(store.history.versions(key)):
        store.history.purge(key, seq, ROOT)
    store.abandon()
    again = open_store(path, disk.kill())
    assert held(again, bucket, b"f") == [b""]
    assert again.tree.lookup(bucket, b"f")[1].content.size == 0
    audit(again)
    again.close()


def test_what_is_open_when_the_store_is_closed_is_published(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = open_store(path)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"f", b"old")
    save(store, bucket, b"gone", b"old")
    handle, orphan = opened(store, bucket, b"f"), opened(store, bucket, b"gone")
    store.files.write(handle, 0, b"written, not closed")
    store.tree.unlink(bucket, b"gone", ROOT)
    store.files.write(orphan, 0, b"nobody's")
    store.close()
    again = open_store(path)
    assert again.recovered == 0, "nothing is left to be done"
    assert held(again, bucket, b"f") == [b"written, not closed", b"old"]
    assert held(again, bucket, b"gone") == [None, b"old"]
    assert again.core.catalog.count("orphans") == 0
    audit(again)
    again.close()


def test_a_store_that_failed_takes_no_change_of_any_kind(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"old")
    handle = opened(store, bucket, b"f")
    store.files.write(handle, 0, b"new")
    end = store.core.journal.end
    store.fail(DiskFailed("simulated"))
    for call in (
        lambda: store.files.flush(handle),
        lambda: store.tree.unlink(bucket, b"f", ROOT),
        lambda: store.tree.mkdir(bucket, b"d", 0o755, 0, ROOT),
        lambda: store.tree.set_attributes(ino, mode=0o600),
        lambda: store.create_bucket(b"other", uid=0, gid=0),
        lambda: sync(store),
        lambda: store.place(),
        lambda: store.begin_sync(),
        lambda: store.begin_logging(),
    ):
        with pytest.raises(DiskFailed):
            call()
    assert store.core.journal.end == end
    assert store.files.read(handle, 0, 10) == b"new"


# -- content that is open and collections -----------------------------------------------------------------------------


def test_what_was_stored_early_of_a_file_that_is_being_written_is_not_collected(store: Store, bucket: Ino) -> None:
    """Whole leaves go to the disk at once, and nothing refers to them before there is a draft."""
    data = b"".join(b"%07d\n" % number for number in range(60_000))
    ino, _ = store.tree.create(bucket, b"f", 0o644, 0, ROOT)
    handle = store.files.open(ino, ROOT, created=True)
    for at in range(0, len(data), 1 << 17):
        store.files.write(handle, at, data[at : at + (1 << 17)])
    assert any(not row.references for _, row in store.core.catalog.blocks())
    gc.run(store)
    store.core.blocks._cache.clear()
    store.core.blocks._cached_bytes = 0
    assert store.files.read(handle, 0, len(data)) == data
    close(store, handle)
    gc.run(store)
    assert WorkingCopy(store.core.blocks, store.core.catalog.inode(ino).content).read(0, len(data)) == data


@pytest.mark.parametrize("what", ["a version", "an open file", "a body"])
def test_what_is_open_is_not_collected(store: Store, bucket: Ino, what: str) -> None:
    """Though nothing refers to it any more, or not yet."""
    data = b"".join(b"%07d\n" % number for number in range(60_000))
    ino = save(store, bucket, b"f", data)
    copy: WorkingCopy
    handle = None
    if what == "a version":
        copy = store.files.open_version(store.core.catalog.inode(ino).content)
    elif what == "a body":
        copy = store.objects.begin_content(bucket)
        copy.write(0, data[::-1])
        data = data[::-1]
        copy.seal()
    else:
        handle = opened(store, bucket, b"f")
        copy = handle.file.copy
    store.tree.unlink(bucket, b"f", ROOT)
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    for seq, _ in list(store.core.catalog.versions(key))[::-1]:
        store.history.purge(key, seq, ROOT)
    gc.run(store)
    store.core.blocks._cache.clear()
    store.core.blocks._cached_bytes = 0
    assert copy.read(0, len(data)) == data
    if handle is not None:
        store.files.release(handle)
    else:
        store.files.close_version(copy)
    assert gc.run(store).freed > 0, "and then it is"
    assert all(row.references for _, row in store.core.catalog.blocks())
