"""Handlers without a mount, where a mount cannot be brought to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pyfuse3
import pytest

from vfs.core import Changed
from vfs.errors import DiskFailed
from vfs.files import Handle
from vfs.fuse.operations import Operations
from vfs.model import STORE_ROOT, Writer
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
