"""Which call marks which time, and how exactly (docs/semantics.md, "System calls")."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import Mounted, versions
from tests.posix import UTIME_NOW, UTIME_OMIT, attempt, utimensat

pytestmark = pytest.mark.fuse

NOTHING = frozenset[str]()
CTIME = frozenset({"ctime"})
BOTH = frozenset({"ctime", "mtime"})


def times(path: Path) -> dict[str, int]:
    found = path.lstat()
    return {"atime": found.st_atime_ns, "mtime": found.st_mtime_ns, "ctime": found.st_ctime_ns}


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def _write_nothing(path: Path) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(b"")


# What a call does to the times of `f` and of the directory that it is in.
CALLS: dict[str, tuple[Callable[[Path], object], frozenset[str], frozenset[str]]] = {
    "read": (Path.read_bytes, NOTHING, NOTHING),
    "stat": (Path.stat, NOTHING, NOTHING),
    "list": (lambda f: os.listdir(f.parent), NOTHING, NOTHING),
    "write": (_append, BOTH, NOTHING),
    "write nothing": (_write_nothing, NOTHING, NOTHING),
    "open with O_TRUNC": (lambda f: f.write_bytes(b""), BOTH, NOTHING),
    "truncate": (lambda f: os.truncate(f, 1), BOTH, NOTHING),
    "truncate to what it is": (lambda f: os.truncate(f, 4), BOTH, NOTHING),
    "chmod": (lambda f: f.chmod(0o600), CTIME, NOTHING),
    "chown": (lambda f: os.chown(f, os.getuid(), os.getgid()), CTIME, NOTHING),
    "setxattr": (lambda f: os.setxattr(f, "user.a", b""), CTIME, NOTHING),
    "link": (lambda f: os.link(f, f.with_name("g")), CTIME, BOTH),
    "unlink of a link": (lambda f: f.with_name("h").unlink(), CTIME, BOTH),
    "rename": (lambda f: f.rename(f.with_name("g")), CTIME, BOTH),
    "create": (lambda f: f.with_name("g").touch(), NOTHING, BOTH),
    "mkdir": (lambda f: f.with_name("g").mkdir(), NOTHING, BOTH),
    "symlink": (lambda f: f.with_name("g").symlink_to("f"), NOTHING, BOTH),
    "mkfifo": (lambda f: os.mkfifo(f.with_name("g")), NOTHING, BOTH),
    "rmdir": (lambda f: f.with_name("d").rmdir(), NOTHING, BOTH),
    "create where something is": (lambda f: attempt(os.mkdir, f), NOTHING, NOTHING),
    "unlink of nothing": (lambda f: attempt(os.unlink, f.with_name("no")), NOTHING, NOTHING),
    "rename to itself": (lambda f: f.rename(f.with_name("h")), NOTHING, NOTHING),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_a_call_marks(bucket: Path, call: str) -> None:
    do, of_file, of_directory = CALLS[call]
    path = bucket / "f"
    path.write_bytes(b"four")
    os.link(path, bucket / "h")
    (bucket / "d").mkdir()
    fd = os.open(path, os.O_PATH)
    began = time.time_ns()
    before = {"file": _times_of(fd), "directory": times(bucket)}
    do(path)
    after = {"file": _times_of(fd), "directory": times(bucket)}
    os.close(fd)
    for what, marked in (("file", of_file), ("directory", of_directory)):
        changed = {name for name in ("mtime", "ctime") if after[what][name] != before[what][name]}
        assert changed == marked, what
        assert all(began - 20_000_000 <= after[what][name] <= time.time_ns() for name in changed), what
        assert after[what]["atime"] == before[what]["atime"], "reading is not noted"


def _times_of(fd: int) -> dict[str, int]:
    found = os.fstat(fd)
    return {"atime": found.st_atime_ns, "mtime": found.st_mtime_ns, "ctime": found.st_ctime_ns}


@pytest.mark.parametrize("maker", ["file", "directory", "symlink", "fifo"])
def test_what_is_made_is_new(bucket: Path, maker: str) -> None:
    path = bucket / "x"
    began = time.time_ns() - 20_000_000  # the kernel's clock for files may be a tick behind
    {
        "file": path.touch,
        "directory": path.mkdir,
        "symlink": lambda: path.symlink_to("y"),
        "fifo": lambda: os.mkfifo(path),
    }[maker]()
    found = times(path)
    assert began <= found["mtime"] == found["ctime"] <= time.time_ns()
    assert began <= found["atime"] <= time.time_ns()
    assert times(bucket)["mtime"] >= found["mtime"]


@pytest.mark.parametrize(
    ("atime", "mtime"),
    [
        ((1, 1), (2, 2)),
        ((0, 0), (0, 0)),
        ((1_700_000_000, 999_999_999), (1_700_000_001, 1)),
        ((-1, 500_000_000), (-86_400 * 365 * 60, 7)),
        ((1 << 34, 3), (1 << 33, 999_999_999)),  # beyond what ext4 can hold
    ],
)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_times_are_kept_to_the_nanosecond(
    mounted: Mounted, bucket: Path, kind: str, atime: tuple[int, int], mtime: tuple[int, int]
) -> None:
    path = bucket / "x"
    path.mkdir() if kind == "directory" else path.write_bytes(b"x")
    before = times(path)
    utimensat(path, atime, mtime)
    found = times(path)
    assert (found["atime"], found["mtime"]) == tuple(s * 10**9 + ns for s, ns in (atime, mtime))
    assert found["ctime"] > before["ctime"]


@pytest.mark.parametrize(
    ("atime", "mtime", "changed"),
    [
        ((0, UTIME_OMIT), (5, 5), {"mtime", "ctime"}),
        ((5, 5), (0, UTIME_OMIT), {"atime", "ctime"}),
        ((0, UTIME_OMIT), (0, UTIME_OMIT), set()),
        ((0, UTIME_NOW), (0, UTIME_OMIT), {"atime", "ctime"}),
        ((0, UTIME_NOW), (0, UTIME_NOW), {"atime", "mtime", "ctime"}),
    ],
)
def test_utime_now_and_omit(bucket: Path, atime: tuple[int, int], mtime: tuple[int, int], changed: set[str]) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    os.utime(path, ns=(10**9, 10**9))
    before, began = times(path), time.time_ns() - 20_000_000
    utimensat(path, atime, mtime)
    after = times(path)
    assert {name for name in after if after[name] != before[name]} == changed
    for name, given in (("atime", atime), ("mtime", mtime)):
        if given[1] == UTIME_NOW:
            assert began <= after[name] <= time.time_ns()


def test_times_of_a_symlink_are_its_own(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"x")
    (bucket / "link").symlink_to("f")
    before = times(bucket / "f")
    os.utime(bucket / "link", ns=(1, 2), follow_symlinks=False)
    assert (times(bucket / "link")["atime"], times(bucket / "link")["mtime"]) == (1, 2)
    assert times(bucket / "f") == before


def test_a_version_has_the_time_that_was_set_before_the_close(bucket: Path) -> None:
    path = bucket / "f"
    with open(path, "wb") as file:
        file.write(b"x")
        file.flush()
        os.utime(file.fileno(), ns=(5, 7))
    assert times(path)["mtime"] == 7
    assert times(versions(path)[0])["mtime"] == 7


def test_an_open_file_shows_its_times(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    with open(path, "ab", buffering=0) as file:
        before = times(path)
        file.write(b"y")
        during = times(path)
        assert during["mtime"] > before["mtime"]
        assert during["ctime"] > before["ctime"]
    assert times(path) == during, "a close marks nothing"


def test_the_root_of_the_mount_has_times(mounted: Mounted, bucket: Path) -> None:
    before = times(mounted.root)
    (mounted.root / "another-bucket").mkdir()
    assert times(mounted.root)["mtime"] >= before["mtime"]
