"""The three versioning states through a mount, as the table of docs/semantics.md has them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.mounted import Mounted, bash, contents, purge, versions

pytestmark = pytest.mark.fuse

ATTRIBUTE = "user.vfs.versioning"


def names(path: Path) -> list[str]:
    return ["null" if version.name == "null" else "id" for version in versions(path)]


def suspend(bucket: Path) -> None:
    os.setxattr(bucket, ATTRIBUTE, b"Suspended")


@pytest.mark.parametrize(
    ("before", "then", "kinds", "held"),
    [
        # what was done while Enabled, then while Suspended: the ids of the versions and what they hold, oldest first
        ("", "echo a > f", ["null"], [b"a\n"]),
        ("", "echo a > f; echo b > f", ["null"], [b"b\n"]),
        ("echo a > f", "echo b > f", ["id", "null"], [b"a\n", b"b\n"]),
        ("echo a > f", "echo b > f; echo c > f", ["id", "null"], [b"a\n", b"c\n"]),
        ("echo a > f", "rm f", ["id", "null"], [b"a\n", None]),
        ("echo a > f", "echo b > f; rm f", ["id", "null"], [b"a\n", None]),
        ("", "echo a > f; rm f", ["null"], [None]),
        ("echo a > f; rm f", "echo b > f", ["id", "id", "null"], [b"a\n", None, b"b\n"]),
        ("echo a > f", "mv f g", ["id", "null"], [b"a\n", None]),
    ],
)
def test_suspended(bucket: Path, before: str, then: str, kinds: list[str], held: list[bytes | None]) -> None:
    bash(before, bucket)
    suspend(bucket)
    bash(then, bucket)
    assert names(bucket / "f") == kinds
    assert contents(bucket / "f") == held


def test_enabled_again_keeps_the_null_version(bucket: Path) -> None:
    suspend(bucket)
    bash("echo a > f", bucket)
    os.setxattr(bucket, ATTRIBUTE, b"Enabled")
    bash("echo b > f; rm f", bucket)
    assert sorted(names(bucket / "f")) == ["id", "id", "null"]
    assert (bucket / ".versions/f/null").read_text() == "a\n"


def test_attribute(bucket: Path) -> None:
    assert os.getxattr(bucket, ATTRIBUTE) == b"Enabled"
    suspend(bucket)
    assert os.getxattr(bucket, ATTRIBUTE) == b"Suspended"
    for value in (b"Unversioned", b"enabled", b"", b"x"):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            os.setxattr(bucket, ATTRIBUTE, value)
    (bucket / "d").mkdir()
    with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
        os.setxattr(bucket / "d", ATTRIBUTE, b"Enabled")


def test_junk_is_unversioned(bucket: Path) -> None:
    bash("echo a > .f.swp; echo b > .f.swp; echo a > 4913; rm 4913; echo a > 'x~'", bucket)
    assert names(bucket / ".f.swp") == ["null"]
    assert sorted(os.listdir(bucket / ".versions")) == [".f.swp", "x~"]


def test_unversioned(tmp_path: Path) -> None:
    mount = Mounted(tmp_path)
    mount.store.mkdir()
    (mount.store / "config.toml").write_text('new_buckets = "Unversioned"\n')
    try:
        mount.start()
        bucket = mount.root / "plain"
        bucket.mkdir()
        assert os.getxattr(bucket, ATTRIBUTE) == b"Unversioned"
        bash("echo a > f; echo b > f", bucket)
        assert (names(bucket / "f"), contents(bucket / "f")) == (["null"], [b"b\n"])
        bash("rm f; mkdir d; echo x > d/g; rm -r d", bucket)
        assert os.listdir(bucket / ".versions") == []
        bash("echo before > f", bucket)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            os.setxattr(bucket, ATTRIBUTE, b"Suspended")
        os.setxattr(bucket, ATTRIBUTE, b"Enabled")
        bash("echo after > f", bucket)
        assert sorted(names(bucket / "f")) == ["id", "null"]
        assert (bucket / ".versions/f/null").read_text() == "before\n"
        bash("rm f", bucket)
        for version in versions(bucket / "f"):
            purge(version)
        bucket.rmdir()
        mount.end()
    finally:
        mount.clean_up()
