"""What S3 clients made, on a real mount: what cannot be shown is hidden, and locks hold; lifecycles run."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Mounted, at_work, purge, run, wait_until
from vfs.model import LifecycleRule, ObjectInfo, ObjectLock, State, Writer
from vfs.store import Store

pytestmark = pytest.mark.fuse

HIDDEN = [b"a/", b"a//b", b"./b", b"n\0l", b"y" * 300, b"a"]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    mount = Mounted(tmp_path)
    store = Store.open(mount.store)
    bucket = store.create_bucket(b"bucket", uid=os.getuid(), gid=os.getgid(), state=State.ENABLED)

    def put(key: bytes, **info: object) -> None:
        copy = store.objects.begin_content(bucket)
        copy.write(0, b"x")
        store.objects.put(bucket, key, copy.seal(), ObjectInfo(**info), Writer(0, 0, "s3"))  # type: ignore[arg-type]
        store.objects.end_content(copy)

    store.objects.configure(bucket, lock=ObjectLock())
    for key in HIDDEN:
        put(key)
    put(b"a/held", legal_hold=True)
    put(b"old/k")
    put(b"old/k")
    store.objects.configure(bucket, lifecycle=(LifecycleRule("r", True, noncurrent_days=1),))
    store.close()
    (mount.store / "config.toml").write_text("lifecycle_interval = 0.05\nlifecycle_day = 0.01\n")
    with at_work(mount):
        yield mount


def test_a_mount_shows_what_it_can_and_keeps_the_rest(mount: Mounted) -> None:
    bucket = mount.root / "bucket"
    assert sorted(os.listdir(bucket)) == ["a", "old"]
    assert os.listdir(bucket / "a") == ["held"]
    assert sorted(os.listdir(bucket / ".versions")) == ["a", "old"]
    assert os.listdir(bucket / ".versions/a") == ["held"] or "held" in os.listdir(bucket / ".versions/a")
    (bucket / "a/held").unlink()
    with pytest.raises(OSError, match="not empty") as error:
        (bucket / "a").rmdir()
    assert error.value.errno == errno.ENOTEMPTY
    mount.stop()
    store = Store.open(mount.store)
    found = [item.key for item in store.objects.list(store.find_bucket(b"bucket")).objects]
    assert found == sorted([*HIDDEN, b"old/k"])
    store.close()


def test_rm_and_purge_of_what_is_locked(mount: Mounted) -> None:
    history = mount.root / "bucket/a/.versions/held"
    (version,) = os.listdir(history)
    with pytest.raises(PermissionError) as error:
        purge(history / version)
    assert error.value.errno == errno.EPERM
    done = run([sys.executable, "-m", "vfs", "purge", str(mount.root / "bucket/a/held"), version], check=False)
    assert done.returncode == 1
    assert "legal hold" in done.stderr


def test_lifecycles_run_in_the_daemon(mount: Mounted) -> None:
    history = mount.root / "bucket/old/.versions/k"
    wait_until(lambda: len(os.listdir(history)) == 1, "the noncurrent version to go")
