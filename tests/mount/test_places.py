"""Stores and mount points of any name, mounted by root and by a user, in any locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import REPO, TIMEOUT_S, run
from vfs.cli.mounts import all_mounts

pytestmark = pytest.mark.fuse

SELF, USER = -1, 65534
NAMES = {
    "letters": "müller 写真".encode(),
    "no UTF-8": b"x\xff\xfe",
    "separators": b" a,b\\,c\\\ta#\nb\r\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8\n",
    "quotes": b"-o 'a\" $(x)`y` %s ~ busy",
}
LOCALES = {"UTF-8": {"LC_ALL": "C.UTF-8"}, "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount with this, and be somebody else")
AS_USER = pytest.mark.skipif(
    os.geteuid() != 0 or os.stat("/dev/fuse").st_mode & 0o006 != 0o006,
    reason="not root, or /dev/fuse is closed to others",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Anybody may get there."""
    with tempfile.TemporaryDirectory(prefix="vfs-test-") as name:
        os.chmod(name, 0o777)
        yield Path(os.path.realpath(name))
        for mount in all_mounts():
            if mount.mountpoint.startswith(f"{os.path.realpath(name)}/"):
                run(["umount", "-l", "--", mount.mountpoint])


def answer(*arguments: str | Path, uid: int = SELF, locale: str = "UTF-8") -> subprocess.CompletedProcess[bytes]:
    other: dict[str, Any] = {} if uid == SELF else {"user": uid, "group": uid, "extra_groups": []}
    return subprocess.run(
        [sys.executable, "-P", "-m", "vfs", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPO), "TMPDIR": "/var/tmp", **LOCALES[locale]},
        cwd="/",
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        **other,
    )


def vfs(*arguments: str | Path, uid: int = SELF, locale: str = "UTF-8") -> str:
    """What a command prints; it must succeed, and say nothing else."""
    done = answer(*arguments, uid=uid, locale=locale)
    assert (done.returncode, done.stderr) == (0, b""), (arguments, done)
    return done.stdout.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("uid", [pytest.param(SELF, id="self"), pytest.param(USER, id="user", marks=AS_USER)])
@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("raw", NAMES.values(), ids=NAMES)
def test_any_name(folder: Path, raw: bytes, locale: str, uid: int) -> None:
    name = os.fsdecode(raw)
    os.mkdir(folder / name, 0o700)
    os.chown(folder / name, uid, uid)
    store, mountpoint = folder / name / f"store {name}", folder / name / name
    mountpoint.mkdir()
    os.chown(mountpoint, uid, uid)
    vfs("mount", store, mountpoint, uid=uid, locale=locale)
    (found,) = [mount for mount in all_mounts() if mount.mountpoint == str(mountpoint)]
    assert (found.fstype, found.source) == ("fuse.vfs", str(store))
    (status,) = json.loads(vfs("status", mountpoint, "--json", uid=uid, locale=locale))
    assert [os.fsencode(status[key]) for key in ("Store", "Mountpoint")] == [
        os.fsencode(store),
        os.fsencode(mountpoint),
    ]
    assert status["State"] == "mounted"
    vfs("bucket", "create", mountpoint / "docs", uid=uid, locale=locale)
    (listed,) = json.loads(vfs("bucket", "list", mountpoint, "--json", uid=uid, locale=locale))
    assert os.fsencode(listed["Path"]) == os.fsencode(mountpoint / "docs")
    refused = answer("mount", store, folder, uid=uid, locale=locale)
    assert (refused.returncode, refused.stderr.count(b"\n")) == (2, 1), refused
    vfs("umount", mountpoint, uid=uid, locale=locale)
    assert "is clean" in vfs("check", store, uid=uid, locale=locale)
    told = (store / "daemon.log").read_text("utf-8", "surrogateescape")
    assert not [word for word in ("Traceback", "WARNING", "ERROR", "CRITICAL") if word in told], told


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_mount_is_made_whatever_streams_there_are(folder: Path, closed: str) -> None:
    store, mountpoint = folder / "store", folder / "mnt"
    mountpoint.mkdir()
    line = f'"$0" -P -m vfs mount "$1" "$2" {closed}'
    script = ["bash", "-c", line, sys.executable, str(store), str(mountpoint)]
    run(script, env={**os.environ, "PYTHONPATH": str(REPO)})
    (mountpoint / "docs").mkdir()
    (mountpoint / "docs" / "file").write_text("kept")
    vfs("umount", mountpoint)
    assert "is clean" in vfs("check", store)
    assert "is mounted" in (store / "daemon.log").read_text()


# -- mount options ----------------------------------------------------------------------------------------------------


@ROOT
def test_no_symbolic_link_is_followed(folder: Path) -> None:
    store, mountpoint = folder / "store", folder / "mnt"
    mountpoint.mkdir()
    vfs("mount", store, mountpoint, "-o", "nosymfollow,noexec")
    docs = mountpoint / "docs"
    docs.mkdir()
    (docs / "file").write_text("text")
    (docs / "link").symlink_to("file")
    assert os.readlink(docs / "link") == "file"
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        (docs / "link").read_text()
    with pytest.raises(OSError, match="Operation not supported"):
        os.setxattr(
            docs / "file",
            "system.posix_acl_access",
            bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff"),
        )
    options = run(["findmnt", "-n", "-o", "OPTIONS", str(mountpoint)]).stdout.strip().split(",")
    assert {"nosymfollow", "noexec", "nosuid", "nodev"} <= set(options)
    vfs("umount", mountpoint)
    vfs("mount", store, mountpoint)
    assert (docs / "link").read_text() == "text"
    vfs("umount", mountpoint)
    assert "is clean" in vfs("check", store)


@ROOT
def test_only_root_mounts_without_following(folder: Path) -> None:
    mountpoint = folder / "mnt"
    mountpoint.mkdir()
    os.chown(mountpoint, USER, USER)
    done = answer("mount", "-o", "nosymfollow", folder / "store", mountpoint, uid=USER)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"only root can mount with nosymfollow" in done.stderr


@pytest.mark.parametrize(("options", "asked"), [("rw", 0), ("sync", 1), ("dirsync", 0)])
def test_writes_of_a_synchronous_mount_are_synced(folder: Path, options: str, asked: int) -> None:
    store, mountpoint = folder / "store", folder / "mnt"
    mountpoint.mkdir()
    vfs("mount", store, mountpoint, "-o", options)
    (mountpoint / "docs").mkdir()
    with (mountpoint / "docs" / "file").open("wb", buffering=0) as file:
        os.setxattr(mountpoint, "user.vfs.trace", b"on")
        file.write(b"text")
        os.setxattr(mountpoint, "user.vfs.trace", b"off")
    found = json.loads(os.getxattr(mountpoint, "user.vfs.trace"))
    assert (found["write"]["Count"], found.get("fsync", {}).get("Count", 0)) == (1, asked)
    vfs("umount", mountpoint)
    assert "is clean" in vfs("check", store)
