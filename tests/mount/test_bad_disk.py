"""A disk that fails to sync: nothing is called safe afterwards, what was safe stays, and reading goes on.

fsync is the promise on which databases rest. Linux reports a failed write-back once and marks the pages clean, so a
second fsync that succeeds proves nothing (the lesson of PostgreSQL, 2018).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import Mounted, run, wait_until

pytestmark = pytest.mark.fuse

# Stands between the daemon and libc: while a file of that name is there, the disk does not sync.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int broken(void) { return access(getenv("VFS_TEST_BROKEN"), F_OK) == 0; }
#define WRAP(name) int name(int fd) { \\
    if (broken()) { errno = EIO; return -1; } \\
    return ((int (*)(int)) dlsym(RTLD_NEXT, #name))(fd); }
WRAP(fsync)
WRAP(fdatasync)
"""


class Disk:
    """The switch of the shim."""

    def __init__(self, switch: Path) -> None:
        self._switch = switch

    def break_down(self) -> None:
        self._switch.touch()

    def recover(self) -> None:
        self._switch.unlink()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    source, library = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(SHIM)
    run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"])
    monkeypatch.setenv("VFS_TEST_BROKEN", str(tmp_path / "broken"))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    return Disk(tmp_path / "broken")


@pytest.fixture
def mount(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounted]:
    mount = Mounted(tmp_path, "--bucket", "bucket")
    mount.store.mkdir()
    (mount.store / "config.toml").write_text("commit_interval = 0.1\n")
    try:
        mount.start()
        monkeypatch.delenv("LD_PRELOAD")
        yield mount
        mount.end(expected=["the store is read-only"])
    finally:
        mount.clean_up()


def refused(call: Callable[[], object]) -> bool:
    """Whether a call fails with EIO."""
    try:
        call()
    except OSError as error:
        return error.errno == errno.EIO
    return False


def test_after_a_failed_fsync_nothing_is_called_safe(mount: Mounted, disk: Disk) -> None:
    safe = mount.root / "safe"
    safe.write_bytes(b"safe")
    fd = os.open(mount.root / "file", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"before")
    os.fsync(fd)
    os.write(fd, b" and after")
    disk.break_down()
    assert refused(lambda: os.fsync(fd))
    disk.recover()
    assert refused(lambda: os.fsync(fd)), "the disk is well again, and what was lost is still lost"
    assert refused(lambda: (mount.root / "new").write_bytes(b""))
    assert refused(lambda: os.unlink(safe))
    assert safe.read_bytes() == b"safe"
    os.close(fd)
    assert "the store is read-only: a sync failed" in mount.log.read_text()
    mount.stop()
    mount.start()
    assert (mount.root / "file").read_bytes().startswith(b"before"), "it was synced before the disk broke down"
    assert safe.read_bytes() == b"safe"
    safe.write_bytes(b"goes on")


def test_a_failed_sync_in_the_background_is_told_to_the_next_writer(mount: Mounted, disk: Disk) -> None:
    (mount.root / "before").write_bytes(b"x")
    disk.break_down()
    (mount.root / "file").write_bytes(b"acknowledged, and not yet synced")
    wait_until(lambda: "a sync failed" in mount.log.read_text(), "the commit interval")
    disk.recover()
    fd = os.open(mount.root / "file", os.O_RDONLY)
    assert refused(lambda: os.fsync(fd)), "nobody may take it for safe"
    os.close(fd)
    assert refused(lambda: (mount.root / "other").write_bytes(b"x"))
    assert (mount.root / "file").read_bytes() == b"acknowledged, and not yet synced"


def test_sqlite_is_told(mount: Mounted, disk: Disk) -> None:
    """No transaction is acknowledged that the disk does not have; those before are there after a restart."""
    database = sqlite3.connect(mount.root / "db", isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE t (n INTEGER)")
    for number in range(5):
        database.execute("INSERT INTO t VALUES (?)", (number,))
    disk.break_down()
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        database.execute("INSERT INTO t VALUES (5)")
    disk.recover()
    with pytest.raises(sqlite3.OperationalError):
        database.execute("INSERT INTO t VALUES (6)")
    database.close()
    mount.stop()
    mount.start()
    with sqlite3.connect(mount.root / "db") as again:
        assert [n for (n,) in again.execute("SELECT n FROM t ORDER BY n")] == [0, 1, 2, 3, 4]
        assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()


def test_the_daemon_ends_and_says_so(mount: Mounted, disk: Disk) -> None:
    (mount.root / "file").write_bytes(b"x")
    disk.break_down()
    assert subprocess.run(["sync", str(mount.root / "file")], capture_output=True, timeout=30).returncode == 1
    mount.stop()
    disk.recover()
