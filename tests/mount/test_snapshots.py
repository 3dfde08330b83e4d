"""`.snapshots` as a user sees it (docs/semantics.md, "`.snapshots`")."""

from __future__ import annotations

import errno
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.mounted import bash

pytestmark = pytest.mark.fuse


def now() -> str:
    """The moment, as a version id is written."""
    time.sleep(0.002)
    text = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    time.sleep(0.002)
    return text


def test_the_whole_bucket_as_it_was(bucket: Path) -> None:
    bash("mkdir -p d/sub; echo one > d/sub/f; echo gone > d/g; ln -s f d/sub/link", bucket)
    first = now()
    bash("mv d e; echo two > e/sub/f; rm e/g; mkdir d; echo other > d/h", bucket)
    second = now()
    bash("rm -r d e", bucket)
    then = bucket / ".snapshots" / first
    assert bash("find . -mindepth 1 | sort", then).split() == ["./d", "./d/g", "./d/sub", "./d/sub/f", "./d/sub/link"]
    assert (then / "d/sub/f").read_text() == "one\n"
    assert (then / "d/g").read_text() == "gone\n"
    assert os.readlink(then / "d/sub/link") == "f"
    later = bucket / ".snapshots" / second
    assert bash("find . -type f | sort", later).split() == ["./d/h", "./e/sub/f"]
    assert (later / "e/sub/f").read_text() == "two\n"
    assert bash("ls -A", bucket / ".snapshots" / now()) == ""
    bash(f"cp -r .snapshots/{first}/d .", bucket)
    assert (bucket / "d/sub/f").read_text() == "one\n"


def test_ways_to_write_a_moment(bucket: Path) -> None:
    (bucket / "f").write_text("x")
    time.sleep(1.1)
    moment = datetime.now(UTC)
    for form in ("%Y%m%dT%H%M%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "@GMT-%Y.%m.%d-%H.%M.%S"):
        assert os.listdir(bucket / ".snapshots" / moment.strftime(form)) == ["f"], form
    assert os.listdir(bucket / ".snapshots" / "20200101") == []
    for wrong in ("yesterday", "20261301", "2999-01-01", "@GMT-2026", "x" * 200):
        assert not os.path.lexists(bucket / ".snapshots" / wrong), wrong


def test_read_only_and_not_listed(bucket: Path) -> None:
    (bucket / "f").write_text("x")
    (bucket / "d").mkdir()
    then = bucket / ".snapshots" / now()
    for attempt in (
        lambda: (then / "new").touch(),
        lambda: (then / "f").write_text("y"),
        lambda: (then / "f").unlink(),
        lambda: (then / "d").rmdir(),
        lambda: (bucket / ".snapshots" / "new").mkdir(),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            attempt()
    assert sorted(os.listdir(bucket)) == ["d", "f"]
    assert not os.path.lexists(bucket / "d/.snapshots"), "only a bucket's root has them"
    assert (bucket / "f").read_text() == "x"


def test_a_file_in_a_snapshot_keeps_its_rights(bucket: Path) -> None:
    (bucket / "f").write_text("secret")
    then = bucket / ".snapshots" / now()
    (bucket / "f").chmod(0o600)
    assert (then / "f").stat().st_mode & 0o777 == 0o400, "never looser than the key now"
