"""A disk that fails to sync: nothing is called safe afterwards, what was safe stays, and reading goes on.

fsync is the promise on which databases rest. Linux reports a failed write-back once and marks the pages clean, so a
second fsync that succeeds proves nothing (the lesson of PostgreSQL, 2018).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import REPO, Mounted, run, wait_until

pytestmark = pytest.mark.fuse

# Stands between the daemon and libc: while a file of one name is there, the disk does not sync; while one of the other,
# it does not read the second page of a half of the sync log, where records begin.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int broken(void) { return access(getenv("VFS_TEST_BROKEN"), F_OK) == 0; }
static int unreadable(void) { return access(getenv("VFS_TEST_UNREADABLE"), F_OK) == 0; }
static int is_log(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return strstr(path, "/synclog/") != NULL;
}
ssize_t pread64(int fd, void *to, size_t count, off64_t at) {
    if (unreadable() && at < 8192 && at + (off64_t) count > 4096 && is_log(fd)) { errno = EIO; return -1; }
    return ((ssize_t (*)(int, void *, size_t, off64_t)) dlsym(RTLD_NEXT, "pread64"))(fd, to, count, at);
}
#define WRAP(name) int name(int fd) { \\
    if (broken()) { errno = EIO; return -1; } \\
    return ((int (*)(int)) dlsym(RTLD_NEXT, #name))(fd); }
WRAP(fsync)
WRAP(fdatasync)
"""


class Disk:
    """The switches of the shim, and its environment."""

    def __init__(self, switch: Path, unreadable: Path, library: Path) -> None:
        self._switch = switch
        self._unreadable = unreadable
        self.environment = {
            "VFS_TEST_BROKEN": str(switch),
            "VFS_TEST_UNREADABLE": str(unreadable),
            "LD_PRELOAD": str(library),
        }

    def spoil_log(self) -> None:
        self._unreadable.touch()

    def break_down(self) -> None:
        self._switch.touch()

    def recover(self) -> None:
        self._switch.unlink()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    source, library = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(SHIM)
    run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"])
    disk = Disk(tmp_path / "broken", tmp_path / "unreadable", library)
    for name, value in disk.environment.items():
        monkeypatch.setenv(name, value)
    return disk


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


def test_a_sync_log_that_cannot_be_read_is_told_and_given_up_by_word_only(mount: Mounted, disk: Disk) -> None:
    """The daemon was killed and the power stayed: so nothing is lost, but nobody can know that."""
    fd = os.open(mount.root / "file", os.O_CREAT | os.O_RDWR)
    written = b""

    def sync_more() -> None:
        nonlocal written
        written += os.urandom(1)
        os.pwrite(fd, written, 0)
        os.fsync(fd)

    def has_log() -> bool:
        """It is made in the background; its second half is made last."""
        sync_more()
        return (mount.store / "synclog" / "1").exists()

    wait_until(has_log, "the sync log")
    for _ in range(5):
        sync_more()
    os.close(fd)
    mount.kill()
    assert sorted(os.listdir(mount.store / "synclog")) == ["0", "1"]
    disk.spoil_log()

    def vfs(*arguments: str) -> subprocess.CompletedProcess[str]:
        order = [sys.executable, "-m", "vfs", *arguments]
        return run(order, cwd=REPO, check=False, env=os.environ | disk.environment)

    told = vfs("mount", str(mount.store), str(mount.root))
    assert told.returncode != 0
    assert "Input/output error; what programs had synced in the last seconds" in told.stderr
    checked = vfs("check", str(mount.store))
    assert checked.returncode == 1
    assert f"  vfs rebuild --cut {mount.store} " in checked.stdout
    assert vfs("rebuild", str(mount.store)).returncode == 1
    done = vfs("rebuild", "--cut", str(mount.store))
    assert done.returncode == 0, done.stderr
    assert [sorted(os.listdir(aside)) for aside in mount.store.glob("synclog.cut-*")] == [["0", "1"]]
    mount.start()
    assert (mount.root / "file").read_bytes() == written


def test_the_daemon_ends_and_says_so(mount: Mounted, disk: Disk) -> None:
    (mount.root / "file").write_bytes(b"x")
    disk.break_down()
    assert subprocess.run(["sync", str(mount.root / "file")], capture_output=True, timeout=30).returncode == 1
    mount.stop()
    disk.recover()
