"""Buckets as directories, and extended attributes that tell and steer."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from tests.mounted import Mounted, bash, purge, run, versions

pytestmark = pytest.mark.fuse


def fails(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=os.strerror(number))


def test_bucket_names(mounted: Mounted) -> None:
    for name in ("ab", "Upper", "under_score", "-dash", "dash-", "1.2.3.4", "a..b", "x" * 64, ".hidden"):
        with fails(errno.EINVAL):
            (mounted.root / name).mkdir()
    for name in ("abc", "a.b-c", "1234", "x" * 63):
        (mounted.root / name).mkdir()
        (mounted.root / name).rmdir()


def test_the_root_holds_buckets_only(mounted: Mounted, bucket: Path) -> None:
    (bucket / "f").touch()
    with fails(errno.EPERM):
        (mounted.root / "file").touch()
    with fails(errno.EPERM):
        os.symlink("x", mounted.root / "link")
    with fails(errno.EPERM):
        os.rename(bucket, mounted.root / "other-name")
    assert not os.path.lexists(mounted.root / ".versions")


def test_across_buckets_is_exdev(mounted: Mounted, bucket: Path) -> None:
    other = mounted.root / "the-other"
    other.mkdir()
    (bucket / "f").write_bytes(b"x")
    with fails(errno.EXDEV):
        os.rename(bucket / "f", other / "f")
    with fails(errno.EXDEV):
        os.link(bucket / "f", other / "f")
    bash(f"mv f {other}/f", bucket)
    assert (other / "f").read_bytes() == b"x"


def test_rmdir_of_a_bucket(mounted: Mounted) -> None:
    bucket = mounted.root / "short-lived"
    bucket.mkdir()
    bash("mkdir d; echo x > d/f", bucket)
    with fails(errno.ENOTEMPTY):
        bucket.rmdir()
    bash("rm -r d", bucket)
    with fails(errno.ENOTEMPTY):
        bucket.rmdir()
    for version in sorted((bucket / ".versions/d/f").iterdir()):
        purge(version)
    bucket.rmdir()
    assert "short-lived" not in os.listdir(mounted.root)
    bucket.mkdir()
    assert os.listdir(bucket) == []
    assert os.listdir(bucket / ".versions") == []


def test_facts_of_a_file_and_its_versions(bucket: Path) -> None:
    bash("echo one > f; echo two > f", bucket)
    old, new = versions(bucket / "f")
    assert os.getxattr(bucket / "f", "user.vfs.version_id").decode() == new.name
    for version in (old, new):
        assert os.getxattr(version, "user.vfs.version_id").decode() == version.name
        writer = json.loads(os.getxattr(version, "user.vfs.writer"))
        assert (writer["Program"], writer["Uid"]) == ("bash", os.getuid())
        assert writer["Pid"] > 0
    assert os.getxattr(bucket / "f", "user.vfs.etag") == os.getxattr(new, "user.vfs.etag")
    assert os.getxattr(old, "user.vfs.etag") != os.getxattr(new, "user.vfs.etag")
    assert b"-" in os.getxattr(old, "user.vfs.etag")
    for name in ("version_id", "etag", "writer", "anything"):
        with fails(errno.EPERM):
            os.setxattr(bucket / "f", f"user.vfs.{name}", b"x")
    assert os.listxattr(bucket / "f") == [], "they are not listed: cp -a and rsync -X would try to copy them"


def test_own_attributes_are_kept(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.b", b"2" * 60_000)
    with fails(errno.EEXIST):
        os.setxattr(path, "user.a", b"", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        os.setxattr(path, "user.c", b"", os.XATTR_REPLACE)
    if os.getuid() == 0:
        os.setxattr(path, "trusted.t", b"3")
    os.rename(path, bucket / "g")
    (bucket / "g").write_bytes(b"changed")
    assert os.getxattr(bucket / "g", "user.a") == b"1"
    assert os.getxattr(bucket / "g", "user.b") == b"2" * 60_000
    os.removexattr(bucket / "g", "user.b")
    assert "user.b" not in os.listxattr(bucket / "g")
    with fails(errno.ENODATA):
        os.getxattr(bucket / "g", "user.b")
    assert len(versions(bucket / "g")) == 2, "attributes make no versions"


def test_one_bucket_as_the_root(tmp_path: Path) -> None:
    mount = Mounted(tmp_path, "--bucket", "only-one")
    try:
        mount.start()
        bash("echo one > f; echo two > f; mkdir d; mv f d; ls -la .versions d/.versions", mount.root)
        assert sorted(os.listdir(mount.root / ".versions")) == ["d", "f"]
        assert os.getxattr(mount.root, "user.vfs.versioning") == b"Enabled"
        assert mount.root.stat().st_ino == 1
        mount.stop()
        mount.start()
        assert (mount.root / "d/f").read_text() == "two\n"
        mount.end()
    finally:
        mount.clean_up()


def test_statfs_shows_the_real_disk(mounted: Mounted) -> None:
    ours, disk = os.statvfs(mounted.root), os.statvfs(mounted.store)
    assert (ours.f_blocks, ours.f_frsize, ours.f_namemax) == (disk.f_blocks, disk.f_frsize, 255)


def test_attributes_come_back_with_a_deleted_file(bucket: Path) -> None:
    for name, undelete in (("f", "purge"), ("g", "restore")):
        path = bucket / name
        path.write_bytes(b"x")
        os.setxattr(path, "user.a", b"kept")
        path.unlink()
        if undelete == "purge":
            purge(versions(path)[-1])
        else:
            run([sys.executable, "-m", "vfs", "restore", str(path)])
        assert os.getxattr(path, "user.a") == b"kept"
        assert os.listxattr(path) == ["user.a"]
    path.write_bytes(b"second")
    purge(versions(path)[-1])
    assert os.getxattr(path, "user.a") == b"kept", "also when an older version is current again"


def test_attributes_have_a_limit(bucket: Path) -> None:
    path = bucket / "f"
    path.touch()
    with fails(errno.ENOSPC):
        for i in range(20):
            os.setxattr(path, f"user.{i}", bytes(60_000))
    assert len(os.listxattr(path)) == 17
