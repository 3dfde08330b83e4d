"""Handlers without a mount, where a mount cannot be brought to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pyfuse3
import pytest
from pyfuse3 import FUSEError

from tests.unit.doors import Replies, caller, door_to
from vfs.core import Changed
from vfs.errors import DiskFailed
from vfs.files import Handle
from vfs.fuse.operations import Operations
from vfs.model import NOBODY, STORE_ROOT, Ino, Writer
from vfs.service.collecting import Collecting
from vfs.service.durability import Durability
from vfs.service.lifecycles import Lifecycles
from vfs.store import Store


async def test_what_could_not_be_kept_does_not_stay_in_the_kernels_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store")
    durability = Durability(store)
    operations = Operations(store, durability, Collecting(store, durability, {}), Lifecycles(store), STORE_ROOT, {})
    writer = Writer(0, 1, "test")
    bucket = store.create_bucket(b"bucket", uid=0, gid=0, mode=0o755)
    ino, _ = store.tree.create(bucket, b"file", 0o644, 0, writer)
    handle = store.files.open(ino, writer, created=True)
    fh = operations._keep(handle)

    def refuse(_: Handle) -> None:
        raise DiskFailed("on purpose")

    dropped: list[Changed] = []
    with monkeypatch.context() as patch:
        patch.setattr(store.files, "release", refuse)
        patch.setattr(operations.invalidation, "start", dropped.extend)
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await operations.release(fh)
    assert failed.value.errno == errno.EIO
    (change,) = dropped
    assert change.before == change.after == ino, "the inode, and no name"
    store.files.release(handle)
    store.close()


@pytest.mark.parametrize(("flags", "number"), [(os.O_CREAT, errno.ESTALE), (os.O_CREAT | os.O_EXCL, errno.EEXIST)])
async def test_a_file_that_another_door_made_is_looked_up_again(tmp_path: Path, flags: int, number: int) -> None:
    """The kernel asks for a new file where it has seen none. At ESTALE it looks again, and opens what it finds."""
    store = Store.open(tmp_path / "store")
    durability = Durability(store)
    operations = Operations(store, durability, Collecting(store, durability, {}), Lifecycles(store), STORE_ROOT, {})
    bucket = store.create_bucket(b"bucket", uid=0, gid=0, mode=0o755)
    store.tree.create(bucket, b"file", 0o644, 0, Writer(0, 1, "test"))
    caller = SimpleNamespace(uid=0, gid=0, pid=os.getpid(), umask=0)
    with pytest.raises(pyfuse3.FUSEError) as failed:
        await operations.create(bucket, b"file", 0o644, flags, caller)  # type: ignore[arg-type]
    assert failed.value.errno == number
    store.close()


async def test_a_row_that_cannot_be_read_hides_no_name(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a catalog that an earlier vfs has written: ls shows each name, and stat of the damaged ones fails."""
    door = door_to(store)
    inos = {}
    for name in (b"a", b"damaged", b"gone", b"z"):
        inos[name], _ = store.tree.mknod(bucket, name, 0o10644, 0, 0, NOBODY)
    catalog = store.core.catalog
    catalog._write_changed()
    catalog._inode_cache.clear()
    raw = msgspec.msgpack.decode(catalog._get(inos[b"damaged"].to_bytes(8, "big"), db=catalog._inodes))
    raw[1] = -5
    catalog._put(inos[b"damaged"].to_bytes(8, "big"), msgspec.msgpack.encode(raw), db=catalog._inodes)
    catalog._delete(inos[b"gone"].to_bytes(8, "big"), db=catalog._inodes)
    fh = await door.opendir(bucket, caller())
    replies = Replies(monkeypatch)
    listed = [name for name, _ in await replies.ask(door, fh, 0, 100)]
    assert listed == [b".", b"..", b"a", b"damaged", b"gone", b"z"]
    for name in (b"damaged", b"gone"):
        with pytest.raises(FUSEError):
            await door.lookup(bucket, name, caller())
        assert f"{name.decode()} leads to inode {inos[name]}, which cannot be read" in caplog.text
    await door.lookup(bucket, b"z", caller())
