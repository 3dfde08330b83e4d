"""Who may do what, as POSIX says: the kernel checks it, from owners and modes that the daemon must tell rightly, and
what the daemon changes by itself (docs/semantics.md, "System calls").
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import Mounted
from tests.posix import as_user, attempt, utimensat

MOUNT_OPTIONS = "allow_other,suid,dev"
pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users, which takes root"),
]

OWNER, MEMBER, STRANGER, GROUP = 1000, 1001, 1002, 2000


@pytest.fixture(autouse=True)
def _no_umask() -> None:
    os.umask(0o022)


def owned(path: Path, mode: int, uid: int = OWNER, gid: int = GROUP) -> Path:
    """Give a path to somebody."""
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def read(path: Path) -> int:
    return len(path.read_bytes())


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


# -- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [4, 2, 1])
@pytest.mark.parametrize(("shift", "allowed"), [(6, OWNER), (3, MEMBER), (0, STRANGER)])
def test_each_class_has_its_own_bits(bucket: Path, bit: int, shift: int, allowed: int) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    owned(path, bit << shift)
    for uid in (OWNER, MEMBER, STRANGER):
        wanted = {4: os.R_OK, 2: os.W_OK, 1: os.X_OK}[bit]
        groups = (GROUP,) if uid == MEMBER else ()
        assert as_user(uid, os.access, path, wanted, groups=groups) == (uid == allowed)


@pytest.mark.parametrize(
    ("mode", "call", "answer"),
    [
        (0o755, lambda d: os.listdir(d), ["f"]),
        (0o711, lambda d: os.listdir(d), "EACCES"),
        (0o711, lambda d: read(d / "f"), 1),
        (0o744, lambda d: os.listdir(d), ["f"]),
        (0o744, lambda d: read(d / "f"), "EACCES"),
        (0o755, lambda d: (d / "g").touch(), "EACCES"),
        (0o757, lambda d: (d / "g").touch(), None),
        (0o756, lambda d: (d / "g").touch(), "EACCES"),
        (0o755, lambda d: os.unlink(d / "f"), "EACCES"),
        (0o757, lambda d: os.unlink(d / "f"), None),
        (0o757, lambda d: os.rename(d / "f", d / "g"), None),
        (0o755, lambda d: os.mkdir(d / "g"), "EACCES"),
        (0o757, lambda d: os.symlink("f", d / "g"), None),
        (0o757, lambda d: os.mkfifo(d / "g"), None),
        (0o757, lambda d: os.mknod(d / "g", stat.S_IFCHR | 0o600, os.makedev(1, 3)), "EPERM"),
    ],
)
def test_directories(bucket: Path, mode: int, call: Callable[[Path], object], answer: object) -> None:
    (bucket / "d").mkdir()
    (bucket / "d" / "f").write_bytes(b"x")
    owned(bucket / "d", mode)
    assert as_user(STRANGER, call, bucket / "d") == answer


@pytest.mark.parametrize(
    ("call", "of_owner", "of_writer", "of_stranger"),
    [
        (lambda f: os.chmod(f, 0o600), None, "EPERM", "EPERM"),
        (lambda f: os.chown(f, STRANGER, -1), "EPERM", "EPERM", "EPERM"),
        (lambda f: os.chown(f, -1, 12345), "EPERM", "EPERM", "EPERM"),
        (lambda f: os.chown(f, -1, GROUP), None, "EPERM", "EPERM"),
        (lambda f: os.utime(f, ns=(1, 1)), None, "EPERM", "EPERM"),
        (lambda f: os.utime(f), None, None, "EACCES"),
        (lambda f: utimensat(f, (0, (1 << 30) - 1), (0, (1 << 30) - 2)), None, "EPERM", "EPERM"),
        (lambda f: os.setxattr(f, "user.a", b""), None, None, "EACCES"),
        (lambda f: os.setxattr(f, "trusted.a", b""), "EPERM", "EPERM", "EPERM"),
        (lambda f: os.truncate(f, 0), None, None, "EACCES"),
        (append, None, None, "EACCES"),
    ],
)
def test_what_only_some_may_do(
    bucket: Path, call: Callable[[Path], object], of_owner: object, of_writer: object, of_stranger: object
) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    for uid, groups, answer in (
        (STRANGER, (), of_stranger),
        (MEMBER, (GROUP,), of_writer),
        (OWNER, (GROUP,), of_owner),
    ):
        owned(path, 0o664)
        assert as_user(uid, call, path, groups=groups) == answer


# -- sticky -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
@pytest.mark.parametrize(
    ("uid", "of_entry", "of_directory", "answer"),
    [
        (OWNER, OWNER, 0, None),
        (OWNER, STRANGER, OWNER, None),
        (MEMBER, OWNER, 0, "EPERM"),
        (STRANGER, OWNER, MEMBER, "EPERM"),
        (0, OWNER, OWNER, None),
    ],
)
@pytest.mark.parametrize("call", ["remove", "rename", "rename over"])
def test_sticky(bucket: Path, kind: str, uid: int, of_entry: int, of_directory: int, answer: object, call: str) -> None:
    folder = bucket / "d"
    folder.mkdir()
    owned(folder, 0o1777, of_directory)
    entry = folder / "entry"
    if kind == "directory":
        entry.mkdir()
    elif kind == "symlink":
        entry.symlink_to("x")
    else:
        entry.touch()
    os.lchown(entry, of_entry, of_entry)

    def do() -> None:
        match call:
            case "remove":
                entry.rmdir() if kind == "directory" else entry.unlink()
            case "rename":
                entry.rename(folder / "new")
            case _:
                mine = folder / "mine"
                mine.mkdir() if kind == "directory" else mine.touch()
                mine.rename(entry)

    assert as_user(uid, do, groups=(GROUP,)) == answer


# -- set-id bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o6755, 0o4755, 0o2755, 0o2745])
@pytest.mark.parametrize("call", [append, lambda f: os.truncate(f, 0)], ids=["write", "truncate"])
def test_a_write_takes_set_id_bits_away(bucket: Path, mode: int, call: Callable[[Path], object]) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    owned(path, mode | 0o022)
    assert as_user(MEMBER, call, path, groups=(GROUP,)) is None
    kept = stat.S_ISGID if mode & stat.S_ISGID and not mode & stat.S_IXGRP else 0  # not executed by the group: locking
    assert mode_of(path) == (mode | 0o022) & 0o777 | kept
    owned(path, mode)
    call(path)
    assert mode_of(path) & 0o777 == mode & 0o777


@pytest.mark.parametrize("uid", [0, OWNER])
def test_chown_takes_set_id_bits_away(bucket: Path, uid: int) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    owned(path, 0o6755)
    assert as_user(uid, os.chown, path, -1, GROUP, groups=(GROUP,)) is None
    assert mode_of(path) == 0o755


def test_chmod_by_a_stranger_to_the_group_takes_setgid_away(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    owned(path, 0o755)
    assert as_user(OWNER, os.chmod, path, 0o2755) is None
    assert mode_of(path) == 0o755
    assert as_user(OWNER, os.chmod, path, 0o2755, groups=(GROUP,)) is None
    assert mode_of(path) == 0o2755


@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
@pytest.mark.parametrize(("mode", "gid"), [(0o2777, GROUP), (0o777, STRANGER)])
def test_a_setgid_directory_hands_its_group_down(bucket: Path, kind: str, mode: int, gid: int) -> None:
    folder = bucket / "d"
    folder.mkdir()
    owned(folder, mode)
    made = folder / "x"
    call = {"file": made.touch, "directory": made.mkdir, "fifo": lambda: os.mkfifo(made)}[kind]
    assert as_user(STRANGER, call) is None
    assert (made.stat().st_uid, made.stat().st_gid) == (STRANGER, gid)
    assert bool(mode_of(made) & stat.S_ISGID) == (kind == "directory" and gid == GROUP)


@pytest.mark.parametrize(("umask", "asked", "mode"), [(0o022, 0o777, 0o755), (0o077, 0o666, 0o600), (0, 0o640, 0o640)])
@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_the_umask(bucket: Path, kind: str, umask: int, asked: int, mode: int) -> None:
    bucket.chmod(0o777)
    path = bucket / "x"

    def make() -> None:
        match kind:
            case "file":
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, asked))
            case "directory":
                path.mkdir(asked)
            case _:
                os.mkfifo(path, asked)

    assert as_user(STRANGER, make, umask=umask) is None
    assert mode_of(path) == mode


def test_a_bucket_is_made_with_the_umask(mounted: Mounted) -> None:
    os.chmod(mounted.root, 0o777)
    assert as_user(STRANGER, os.mkdir, mounted.root / "of-a-stranger", umask=0o027) is None
    assert mode_of(mounted.root / "of-a-stranger") == 0o750
    assert (mounted.root / "of-a-stranger").stat().st_uid == STRANGER


# -- with -o suid, -o dev ---------------------------------------------------------------------------------------------


def test_set_user_id_programs_run_as_their_owner(bucket: Path) -> None:
    program = bucket / "id"
    program.write_bytes(Path(shutil.which("id") or "").read_bytes())
    owned(program, 0o4755)
    answer = subprocess.run([program, "-u"], capture_output=True, check=True, user=STRANGER, extra_groups=[], text=True)
    assert answer.stdout.strip() == str(OWNER)


def test_device_nodes_work(bucket: Path) -> None:
    null, large = bucket / "null", bucket / "large"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(large, stat.S_IFBLK | 0o600, os.makedev(4095, 1_048_575))
    assert null.read_bytes() == b""
    null.write_bytes(b"gone")
    found = large.stat()
    assert (stat.S_ISBLK(found.st_mode), found.st_rdev) == (True, os.makedev(4095, 1_048_575))
    assert os.statvfs(bucket).f_flag & (os.ST_NOSUID | os.ST_NODEV) == 0
    assert attempt(os.open, large, os.O_RDONLY) in ("ENXIO", "ENODEV")
