"""POSIX ACLs, with `-o acl` (docs/semantics.md, "POSIX ACLs")."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import REPO, Mounted, bash, purge, run, versions
from tests.posix import as_user, attempt

MOUNT_OPTIONS = "allow_other,acl"
pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount with ACLs"),
]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, NAMED, MEMBER, STRANGER, GROUP, OTHER_GROUP = 1000, 1001, 1002, 1003, 2000, 2001
_TAGS = {"u:": 1, "u": 2, "g:": 4, "g": 8, "m:": 0x10, "o:": 0x20}
_WORDS = {tag: word for word, tag in _TAGS.items()}


def packed(text: str) -> bytes:
    """An ACL as setfacl takes it, in words like `u::rw- u:1001:r-- g::--- m::r-- o::---`, as the kernel wants it."""
    found = []
    for word in text.split():
        kind, who, letters = word.split(":")
        bits = sum(value for letter, value in zip("rwx", (4, 2, 1), strict=True) if letter in letters)
        found.append((_TAGS[kind if who else f"{kind}:"], bits, int(who) if who else 0xFFFFFFFF))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(found, key=lambda e: e[0]))


def told(path: Path, name: str = ACCESS) -> str:
    """The same of what is there."""
    found = []
    for tag, bits, who in struct.iter_unpack("<HHI", os.getxattr(path, name)[4:]):
        letters = "".join(letter if bits & value else "-" for letter, value in zip("rwx", (4, 2, 1), strict=True))
        found.append(f"{_WORDS[tag].rstrip(':')}:{who if tag in (2, 8) else ''}:{letters}")
    return " ".join(found)


def give(path: Path, text: str, name: str = ACCESS) -> Path:
    os.setxattr(path, name, packed(text))
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def file(bucket: Path) -> Path:
    """A private file in a public bucket."""
    path = bucket / "f"
    path.write_bytes(b"secret")
    os.chown(path, OWNER, GROUP)
    path.chmod(0o640)
    return path


def can(uid: int, path: Path, wanted: int = os.R_OK, *groups: int) -> object:
    return as_user(uid, os.access, path, wanted, groups=groups)


# -- the list and the mode --------------------------------------------------------------------------------------------


def test_an_acl_and_the_mode_keep_in_step(file: Path) -> None:
    give(file, "u::rw- u:1001:rw- g::r-- m::rw- o::---")
    assert mode_of(file) == 0o660
    file.chmod(0o604)
    assert told(file) == "u::rw- u:1001:rw- g::r-- m::--- o::r--"
    file.chmod(0o4755)
    assert told(file) == "u::rwx u:1001:rw- g::r-- m::r-x o::r-x"
    os.chown(file, OWNER, OTHER_GROUP)
    assert told(file) == "u::rwx u:1001:rw- g::r-- m::r-x o::r-x"


def test_an_acl_of_three_entries_is_a_mode(file: Path) -> None:
    give(file, "u::rw- u:1001:rw- g::r-- m::rw- o::---")
    give(file, "u::r-- g::-w- o::--x")
    assert mode_of(file) == 0o421
    assert attempt(os.getxattr, file, ACCESS) == "ENODATA"
    assert os.listxattr(file) == []


def test_removing_an_acl(file: Path) -> None:
    give(file, "u::rw- u:1001:rw- g::r-- m::rw- o::---")
    assert os.listxattr(file) == [ACCESS]
    os.removexattr(file, ACCESS)
    os.removexattr(file, ACCESS)
    assert os.listxattr(file) == []
    assert mode_of(file) == 0o660


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        (ACCESS, packed("u::rw- u:1001:rw- g::r-- o::---"), "EINVAL"),  # a named entry takes a mask
        (ACCESS, packed("u::rw- g::r--"), "EINVAL"),
        (ACCESS, packed("u::rw- u:1:r-- u:1:r-- g::r-- m::r-- o::---")[:-3], "EINVAL"),
        (ACCESS, b"nonsense", "ENOTSUP"),
        (DEFAULT, packed("u::rw- g::r-- o::---"), "EACCES"),  # only directories have one
        ("system.other", b"", "ENOTSUP"),
    ],
)
def test_acls_that_cannot_be(file: Path, name: str, value: bytes, answer: str) -> None:
    assert attempt(os.setxattr, file, name, value) in (answer, "EINVAL")
    assert mode_of(file) == 0o640


def test_who_may_set_one(file: Path) -> None:
    text = "u::rw- u:1001:rw- g::r-- m::rw- o::---"
    assert as_user(NAMED, lambda: give(file, text)) == "EPERM"
    assert as_user(OWNER, lambda: give(file, text)) == file
    assert as_user(NAMED, lambda: give(file, text)) == "EPERM", "who may write may not say who else may"


def test_setgid_goes_when_a_stranger_to_the_group_sets_one(file: Path) -> None:
    text = "u::rwx u:1001:rwx g::r-x m::rwx o::---"
    file.chmod(0o2750)
    assert as_user(OWNER, lambda: give(file, text), groups=(GROUP,)) == file
    assert mode_of(file) == 0o2770
    assert as_user(OWNER, lambda: give(file, text)) == file
    assert mode_of(file) == 0o770


# -- what it allows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "uid", "groups", "bits"),
    [
        ("u::rw- u:1001:r-- g::--- m::rwx o::---", OWNER, (), 6),
        ("u::rw- u:1001:r-- g::--- m::rwx o::---", NAMED, (), 4),
        ("u::rw- u:1001:rwx g::--- m::r-- o::---", NAMED, (), 4),
        ("u::rw- u:1001:--- g::rw- m::rw- o::rw-", NAMED, (GROUP,), 0),
        ("u::rw- u:1001:r-- g::rw- m::rw- o::---", MEMBER, (GROUP,), 6),
        ("u::rw- g:2001:-w- g::r-- m::rw- o::---", MEMBER, (GROUP,), 4),
        ("u::rw- g:2001:-w- g::r-- m::rw- o::---", MEMBER, (OTHER_GROUP,), 2),
        ("u::rw- g:2001:--- g::r-- m::rw- o::rw-", MEMBER, (OTHER_GROUP,), 0),
        ("u::rw- u:1001:rw- g::rw- m::rw- o::---", STRANGER, (), 0),
        ("u::rw- u:1001:rw- g::rw- m::rw- o::r--", STRANGER, (), 4),
    ],
)
def test_whom_it_lets_in(file: Path, text: str, uid: int, groups: tuple[int, ...], bits: int) -> None:
    """In the live tree and in the history, where nobody may write; and what the daemon checks by itself."""
    give(file, text)
    for bit in (4, 2, 1):
        assert can(uid, file, bit, *groups) == bool(bits & bit), bit
    version = versions(file)[0]
    assert can(uid, version, os.R_OK, *groups) == bool(bits & 4)
    assert can(uid, version.parent / ".log", os.R_OK, *groups) == bool(bits & 4)
    writing = as_user(uid, os.open, version, os.O_WRONLY, groups=groups)
    assert writing == ("EROFS" if bits & 6 == 6 else "EACCES")
    assert isinstance(as_user(uid, os.listdir, version.parent, groups=groups), list) == bool(bits & 4)
    restore = f"{_number(version)}\0g".encode()
    file.parent.chmod(0o777)
    answer = as_user(uid, os.setxattr, file.parent, "user.vfs.restore", restore, groups=groups)
    assert answer == (None if bits & 4 else "EACCES")


def _number(version: Path) -> int:
    return version.stat().st_ino & ((1 << 60) - 1)


def test_a_directory_opens_with_its_history(bucket: Path) -> None:
    folder = bucket / "d"
    folder.mkdir()
    (folder / "f").write_bytes(b"x")
    folder.chmod(0o700)
    assert not can(NAMED, folder / "f")
    give(folder, "u::rwx u:1001:r-x g::--- m::r-x o::---")
    for path in (folder / "f", versions(folder / "f")[0], bucket / ".versions" / "d" / "f"):
        assert can(NAMED, path)
        assert not can(STRANGER, path)
    assert as_user(NAMED, os.listdir, folder / ".versions") == ["f"]
    give(folder, "u::rwx u:1001:r-x g::r-x m::--- o::---")
    assert not can(NAMED, versions(folder / "f")[0])


def test_closing_a_file_closes_its_history(file: Path) -> None:
    give(file, "u::rw- u:1001:rw- g::r-- m::rw- o::---")
    version = versions(file)[0]
    assert can(NAMED, version)
    file.chmod(0o600)
    assert not can(NAMED, version)
    assert not can(NAMED, version.parent / ".log")
    file.chmod(0o660)
    assert can(NAMED, version)
    give(file, "u::rw- g::r-- o::---")
    assert not can(NAMED, version)


def test_a_deleted_file_keeps_its_acl(file: Path) -> None:
    text = "u::rw- u:1001:rw- g::--- m::rw- o::---"
    give(file, text)
    file.unlink()
    first, marker = versions(file)
    assert can(NAMED, first)
    assert not can(MEMBER, first, os.R_OK, GROUP), "the mask is no right of the group"
    purge(marker)
    assert (told(file), mode_of(file)) == (text, 0o660)
    file.unlink()
    os.setxattr(file.parent, "user.vfs.restore", f"{_number(first)}\0f".encode())
    os.getxattr(file.parent, "user.vfs.settled")
    assert (told(file), mode_of(file)) == (text, 0o660)


def test_what_another_restores_gets_no_more_rights(file: Path) -> None:
    """As a file of his own, without the list: then its mode lets nobody in whom the list kept out."""
    give(file, "u::rw- u:1001:r-- u:1003:--- g::--- m::rw- o::r--")
    file.parent.chmod(0o777)
    value = f"{_number(versions(file)[0])}\0mine".encode()
    assert as_user(NAMED, os.setxattr, file.parent, "user.vfs.restore", value) is None
    os.getxattr(file.parent, "user.vfs.settled")
    mine = file.parent / "mine"
    assert mine.stat().st_uid == NAMED
    assert attempt(os.getxattr, mine, ACCESS) == "ENODATA"
    assert mode_of(mine) & 0o077 == 0


def test_moving_and_linking_take_it_along(file: Path) -> None:
    text = "u::rw- u:1001:rw- g::--- m::rw- o::---"
    give(file, text)
    os.link(file, file.with_name("g"))
    file.rename(file.with_name("h"))
    assert told(file.with_name("g")) == told(file.with_name("h")) == text
    assert not can(MEMBER, versions(file)[0], os.R_OK, GROUP)
    assert can(NAMED, versions(file)[0])


# -- inheritance ------------------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[Path, int], object]] = {
    "file": lambda path, mode: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode)),
    "directory": lambda path, mode: os.mkdir(path, mode),
    "fifo": lambda path, mode: os.mkfifo(path, mode),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("default", "asked", "mode", "access"),
    [
        ("u::rwx u:1001:rwx g::r-x m::rwx o::r-x", 0o666, 0o664, "u::rw- u:1001:rwx g::r-x m::rw- o::r--"),
        ("u::rwx u:1001:rwx g::r-x m::rwx o::r-x", 0o777, 0o775, "u::rwx u:1001:rwx g::r-x m::rwx o::r-x"),
        ("u::rwx u:1001:rwx g::r-x m::rwx o::---", 0o600, 0o600, "u::rw- u:1001:rwx g::r-x m::--- o::---"),
        ("u::rwx g::rwx o::---", 0o666, 0o660, None),
        ("u::rwx g::rwx o::rwx", 0o666, 0o666, None),
    ],
)
def test_a_default_acl_takes_the_place_of_the_umask(
    bucket: Path, maker: str, default: str, asked: int, mode: int, access: str | None
) -> None:
    give(bucket, default, DEFAULT)
    bucket.chmod(0o777)
    path = bucket / "x"
    assert as_user(STRANGER, MAKERS[maker], path, asked, umask=0o077) is None
    assert mode_of(path) == mode
    assert attempt(told, path) == (access or "ENODATA")
    assert attempt(told, path, DEFAULT) == (default if maker == "directory" else "ENODATA")


@pytest.mark.parametrize("maker", MAKERS)
def test_without_a_default_acl_the_umask_applies(bucket: Path, maker: str) -> None:
    give(bucket, "u::rwx u:1001:rwx g::rwx m::rwx o::rwx")
    assert as_user(STRANGER, MAKERS[maker], bucket / "x", 0o777, umask=0o027) is None
    assert mode_of(bucket / "x") == 0o750
    give(bucket, "u::rwx g::rwx o::rwx", DEFAULT)
    os.removexattr(bucket, DEFAULT)
    os.removexattr(bucket, DEFAULT)
    assert as_user(STRANGER, MAKERS[maker], bucket / "y", 0o777, umask=0o027) is None
    assert mode_of(bucket / "y") == 0o750


def test_a_directory_made_again_inherits_anew(bucket: Path) -> None:
    (bucket / "d").mkdir()
    (bucket / "d" / "f").write_bytes(b"x")
    give(bucket / "d", "u::rwx u:1001:rwx g::r-x m::rwx o::r-x", DEFAULT)
    give(bucket / "d", "u::rwx u:1001:rwx g::r-x m::rwx o::r-x")
    shutil.rmtree(bucket / "d")
    (bucket / "d").mkdir()
    assert attempt(told, bucket / "d") == attempt(told, bucket / "d", DEFAULT) == "ENODATA"
    (bucket / "d").rmdir()
    give(bucket, "u::rwx u:1003:rwx g::r-x m::rwx o::r-x", DEFAULT)
    (bucket / "d").mkdir()
    assert told(bucket / "d") == told(bucket / "d", DEFAULT) == "u::rwx u:1003:rwx g::r-x m::rwx o::r-x"


def test_the_umask_of_a_bucket(mounted: Mounted) -> None:
    os.chmod(mounted.root, 0o777)
    assert as_user(STRANGER, os.mkdir, mounted.root / "strange", umask=0o027) is None
    assert mode_of(mounted.root / "strange") == 0o750


# -- programs, mounts -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="there is no setfacl")
def test_setfacl_and_cp(file: Path) -> None:
    bash(
        "setfacl -m u:1001:rw,g:2001:r f; cp -p f g; cp -a f h; mkdir d; setfacl -m d:u:1001:rw d; touch d/i",
        file.parent,
    )
    text = "u::rw- u:1001:rw- g::r-- g:2001:r-- m::rw- o::---"
    assert told(file) == told(file.with_name("g")) == told(file.with_name("h")) == text
    assert bash("getfacl -cn --skip-base d/i", file.parent).startswith("user::rw-\nuser:1001:rw-\n")
    bash("setfacl -b f; setfacl -k d", file.parent)
    assert os.listxattr(file) == os.listxattr(file.parent / "d") == []


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vfs-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_mount_without_acls_opens_nothing(folder: Path) -> None:
    """What an ACL says outlives the mount, a crash too; where it cannot be obeyed, the mode shown is as strict."""
    with_acls, without = Mounted(folder, "-o", "allow_other,acl"), Mounted(folder, "-o", "allow_other")
    text = "u::rw- u:1001:rw- g::--- m::rw- o::r--"
    try:
        with_acls.start()
        bucket = with_acls.root / "bucket"
        bucket.mkdir()
        (bucket / "f").write_bytes(b"secret")
        os.chown(bucket / "f", OWNER, GROUP)
        give(bucket / "f", text)
        give(bucket, "u::rwx u:1001:rwx g::r-x m::rwx o::r-x", DEFAULT)
        with_acls.kill()
        without.start()
        version = versions(bucket / "f")[0]
        assert (mode_of(bucket / "f"), mode_of(version)) == (0o600, 0o600)
        for path in (bucket / "f", version):
            assert not can(MEMBER, path, os.R_OK, GROUP)
            assert attempt(os.getxattr, path, ACCESS) == "ENOTSUP"
        assert attempt(os.setxattr, bucket / "f", ACCESS, packed(text)) == "ENOTSUP"
        assert os.listxattr(bucket) == os.listxattr(bucket / "f") == []
        (bucket / "g").touch(0o666)
        without.stop()
        with_acls.start()
        assert told(bucket / "f") == text
        assert attempt(told, bucket / "g") == "ENODATA"
        with_acls.end()
    finally:
        with_acls.clean_up()
        without.clean_up()


def test_only_root_mounts_with_acls(folder: Path) -> None:
    (folder / "mnt").mkdir()
    os.chmod(folder, 0o777)
    os.chown(folder / "mnt", STRANGER, STRANGER)
    command = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    mount = [sys.executable, "-m", "vfs", "mount", "--foreground", "-o", "acl", f"{folder}/s", f"{folder}/mnt"]
    done = run([*command, *mount], cwd=REPO, check=False)
    assert (done.returncode, "only root can mount with acl" in done.stderr) == (2, True), done.stderr


def test_a_mount_with_acls_ends_as_any_other(folder: Path) -> None:
    mount = Mounted(folder, "-o", "acl,ro,noexec")
    try:
        mount.start()
        line = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(mount.root) in line)
        assert {"ro", "noexec", "nosuid", "nodev", "default_permissions"} <= set(line.split()[3].split(","))
        assert line.split()[2] == "fuse.vfs"
        assert attempt(os.setxattr, mount.root, ACCESS, packed("u::rwx g::r-x o::---")) == "EROFS"
        mount.stop()
        assert not os.path.ismount(mount.root)
    finally:
        mount.clean_up()
