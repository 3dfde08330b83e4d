"""A full disk: whatever frees space, or keeps what was promised, may use the room that is set aside for it. All else is
refused, and changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simdisk import SimDisk
from tests.syncing import sync
from tests.unit.test_catalog import open_store, save
from tests.unit.test_objects import body, put
from tests.unit.test_tree import ROOT
from vfs import files
from vfs.errors import NoSpace
from vfs.model import ObjectInfo, Seq


class Full:
    """A store on a disk that is full, with something of each kind to be removed."""

    def __init__(self, path: Path) -> None:
        self.disk = SimDisk()
        self.store = open_store(path, self.disk)
        self.bucket = self.store.create_bucket(b"bucket", uid=0, gid=0)
        self.store.create_bucket(b"empty", uid=0, gid=0)
        tree = self.store.tree
        for name in (b"a", b"b", b"t", b"deleted"):
            save(self.store, self.bucket, name, b"content of " + name)
        tree.unlink(self.bucket, b"deleted", ROOT)
        self.directory = tree.mkdir(self.bucket, b"d", 0o755, 0, ROOT)[0]
        self.file = tree.lookup(self.bucket, b"a")[0]
        tree.set_attribute(self.file, b"user.a", b"x")
        put(self.store, self.bucket, b"e/k")
        self.upload = self.store.uploads.create(self.bucket, b"u", ObjectInfo())
        self.store.uploads.put_part(self.bucket, b"u", self.upload, 1, body(self.store, self.bucket, b"part"), "e")
        self.closed = self._opened(b"b")
        self.store.files.write(self.closed, 0, b"closed")
        self.store.files.flush(self.closed)
        self.orphan = self._opened(b"t")
        self._fill()

    def _opened(self, name: bytes) -> files.Handle:
        return self.store.files.open(self.store.tree.lookup(self.bucket, name)[0], ROOT)

    def _fill(self) -> None:
        self.disk.capacity = self.disk.used
        for size in (60_000, 1000, 1):
            for _ in range(100_000):
                if not self.takes(size):
                    break
            else:
                raise AssertionError("a disk that is never full")

    def takes(self, size: int) -> bool:
        """Whether there is room for an attribute of so many bytes."""
        try:
            self.store.tree.set_attribute(self.directory, b"user.big", bytes(size))
        except NoSpace:
            return False
        return True

    def seqs(self, name: bytes) -> list[Seq]:
        key = self.store.core.catalog.key(self.bucket, name)
        assert key is not None
        return [seq for seq, _ in self.store.core.catalog.versions(key)]

    def purge(self, name: bytes) -> object:
        key = self.store.core.catalog.key(self.bucket, name)
        assert key is not None
        return self.store.history.purge(key, self.seqs(name)[0], ROOT)


FREEING: dict[str, Callable[[Full], object]] = {
    "unlink": lambda at: at.store.tree.unlink(at.bucket, b"a", ROOT),
    "unlink of what is open": lambda at: at.store.tree.unlink(at.bucket, b"t", ROOT),
    "rmdir": lambda at: at.store.tree.rmdir(at.bucket, b"d", ROOT),
    "rename": lambda at: at.store.tree.rename(at.bucket, b"a", at.bucket, b"n", ROOT),
    "rename over": lambda at: at.store.tree.rename(at.bucket, b"a", at.bucket, b"b", ROOT),
    "exchange": lambda at: at.store.tree.exchange(at.bucket, b"a", at.bucket, b"t", ROOT),
    "removexattr": lambda at: at.store.tree.remove_attribute(at.file, b"user.a"),
    "purge of a version": lambda at: at.purge(b"a"),
    "purge of a marker": lambda at: at.purge(b"deleted"),
    "release of what was closed": lambda at: at.store.files.release(at.closed),
    "delete of an object": lambda at: at.store.objects.delete(at.bucket, b"e/k", ROOT),
    "purge of an object": lambda at: at.store.objects.purge(
        at.bucket, b"e/k", at.store.objects.current(at.bucket, b"e/k").version_id, ROOT
    ),
    "abort of an upload": lambda at: at.store.uploads.abort(at.bucket, b"u", at.upload),
    "rmdir of a bucket": lambda at: at.store.delete_bucket(b"empty"),
    "delete of a bucket": lambda at: at.store.objects.delete_bucket(b"empty"),
}


@pytest.mark.parametrize("what", FREEING)
def test_what_frees_space_goes_on(tmp_path: Path, what: str) -> None:
    full = Full(tmp_path / "store")
    before = full.store.core.journal.end.number
    FREEING[what](full)
    assert full.store.core.journal.end.number > before
    full.store.abandon()


def test_everything_can_be_removed(tmp_path: Path) -> None:
    """In the order in which people do: files, what is still open, directories, history, the bucket."""
    full = Full(tmp_path / "store")
    store = full.store
    store.tree.unlink(full.bucket, b"t", ROOT)
    store.files.release(full.orphan)
    store.files.release(full.closed)
    for name in (b"a", b"b"):
        store.tree.unlink(full.bucket, name, ROOT)
    store.tree.rmdir(full.bucket, b"d", ROOT)
    store.uploads.abort(full.bucket, b"u", full.upload)
    for item in [item for page in [store.objects.list_versions(full.bucket)] for item in page.objects]:
        store.objects.purge(full.bucket, item.key, item.version_id, ROOT)
    store.objects.delete_bucket(b"bucket")
    store.checkpoint()
    store.abandon()
    again = open_store(tmp_path / "store", full.disk.kill())
    assert [bucket.name for _, bucket in again.buckets()] == [b"empty"]
    again.abandon()


def test_a_power_loss_on_a_full_disk_loses_nothing_that_was_safe(tmp_path: Path) -> None:
    full = Full(tmp_path / "store")
    sync(full.store)
    disk = full.disk.kill()
    full.store.abandon()
    again = open_store(tmp_path / "store", disk)
    ino = again.tree.lookup(full.bucket, b"b")[0]
    handle = again.files.open(ino, ROOT)
    assert again.files.read(handle, 0, 6) == b"closed"
    again.abandon()


OTHERS: dict[str, Callable[[Full], object]] = {
    "create": lambda at: at.store.tree.create(at.bucket, b"n", 0o644, 0, ROOT),
    "mkdir": lambda at: at.store.tree.mkdir(at.bucket, b"n", 0o755, 0, ROOT),
    "symlink": lambda at: at.store.tree.symlink(at.bucket, b"n", b"t", 0, ROOT),
    "link": lambda at: at.store.tree.link(at.file, at.bucket, b"n", ROOT),
    "setxattr": lambda at: at.store.tree.set_attribute(at.file, b"user.b", bytes(1000)),
    "restore": lambda at: at.store.history.restore(at.seqs(b"a")[0], at.bucket, b"n", ROOT),
    "put": lambda at: put(at.store, at.bucket, b"n"),
    "create bucket": lambda at: at.store.create_bucket(b"another", uid=0, gid=0),
    "create upload": lambda at: at.store.uploads.create(at.bucket, b"n", ObjectInfo()),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_takes_space_is_refused_and_changes_nothing(tmp_path: Path, what: str) -> None:
    full = Full(tmp_path / "store")
    with contextlib.suppress(NoSpace):  # what takes a few bytes less than what filled the disk
        for number in range(1000):
            if what == "create bucket":
                full.store.create_bucket(b"small-%d" % number, uid=0, gid=0)
            elif what == "create upload":
                full.store.uploads.create(full.bucket, b"n", ObjectInfo())
            else:
                break
    before = full.store.core.journal.end
    with pytest.raises(NoSpace):
        OTHERS[what](full)
    assert full.store.core.journal.end == before
    assert full.store.tree.find(full.bucket, b"n") is None
    full.store.abandon()


def test_when_there_is_space_again_writing_goes_on(tmp_path: Path) -> None:
    full = Full(tmp_path / "store")
    with pytest.raises(NoSpace):
        put(full.store, full.bucket, b"n")
    full.disk.capacity = 1 << 62
    put(full.store, full.bucket, b"n")
    assert full.store.tree.find(full.bucket, b"n") is not None
    full.store.abandon()
