"""Space comes back from a mounted store; a full disk stops writers, and nobody else."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import REPO, Mounted, needs_root, purge, run, versions, wait_until

pytestmark = pytest.mark.fuse

DISK_BYTES = 64 << 20
BLOCK = 128 << 10


def vfs(*arguments: str) -> str:
    return run([sys.executable, "-m", "vfs", *arguments], cwd=REPO).stdout


def status(mounted: Mounted) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.getxattr(mounted.root, "user.vfs.status"))
    return found


def test_gc_frees_what_was_purged_and_status_tells(mounted: Mounted, bucket: Path) -> None:
    file = bucket / "file"
    for _ in range(5):
        file.write_bytes(os.urandom(4 << 20))
    before = status(mounted)
    assert before["LiveBytes"] == 4 << 20
    assert before["HistoryBytes"] == 16 << 20
    for version in versions(file)[:-1]:
        purge(version)
    content = file.read_bytes()
    figures = status(mounted)
    assert figures["ReclaimableBytes"] > 16 << 20
    assert figures["HistoryBytes"] == 0
    freed = json.loads(vfs("gc", "--json", str(mounted.store)))  # the store is mounted: its daemon does it
    assert freed["FreedBytes"] > 16 << 20
    after = status(mounted)
    assert after["ReclaimableBytes"] < 1 << 20
    assert after["StoreBytes"] < before["StoreBytes"] - (16 << 20)
    assert file.read_bytes() == content
    assert vfs("gc", str(file)).startswith("freed 0 B of blocks")


@needs_root
def test_only_the_owner_of_the_mount_has_it_collect(mounted: Mounted) -> None:
    os.chmod(mounted.root, 0o777)
    script = "import os, sys; os.setuid(1234); os.setxattr(sys.argv[1], 'user.vfs.gc', b'')"
    done = subprocess.run([sys.executable, "-c", script, str(mounted.root)], capture_output=True, text=True, timeout=20)
    assert f"[Errno {errno.EPERM}]" in done.stderr
    user = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"]
    for mode in (0o777, 0o755):
        os.chmod(mounted.root, mode)
        done = subprocess.run(
            [*user, sys.executable, "-m", "vfs", "gc", str(mounted.root)], capture_output=True, text=True, timeout=20
        )
        assert f"only root and who has mounted {mounted.root} have it collected; the daemon frees" in done.stderr
        assert done.returncode == 1


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Mounted]:
    """A store on a small file system of its own, as the bucket's mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(disk)])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"!! no small disk can be mounted here: {error.stderr}")
    mount = Mounted(disk, "--bucket", "bucket")
    mount.root = tmp_path / "mnt"
    mount.root.mkdir()
    try:
        (disk / "store").mkdir()
        (disk / "store/config.toml").write_text("gc_interval = 0\n")
        mount.start()
        yield mount
        mount.end(expected=["no space left", "cannot be committed"])
    finally:
        mount.clean_up()
        run(["umount", "-l", str(disk)])


def until_full(action: Callable[[int], object]) -> int:
    """Do something again and again until the disk is full. Returns how often it succeeded."""
    for number in range(100_000):
        try:
            action(number)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return number
    raise AssertionError("the disk is never full")


def fill(root: Path) -> dict[str, bytes]:
    """Write files until the disk is full. Returns those whose close succeeded."""
    closed = {}

    def write(number: int) -> None:
        data = os.urandom(1_000_000)
        (root / f"file-{number}").write_bytes(data)
        closed[f"file-{number}"] = data

    until_full(write)
    return closed


def test_a_full_disk_harms_nothing_and_deleting_goes_on(small: Mounted) -> None:
    root = small.root
    closed = fill(root)
    fd = os.open(root / "synced", os.O_CREAT | os.O_WRONLY)
    until_full(lambda _: (os.write(fd, os.urandom(BLOCK // 2)), os.fsync(fd)))
    with contextlib.suppress(OSError):  # what no fsync promised
        os.close(fd)
    assert all((root / name).read_bytes() == data for name, data in closed.items())

    (root / "many").mkdir()
    made = until_full(lambda number: os.symlink("somewhere", root / "many" / str(number)))  # by events alone
    for number in range(made):
        os.unlink(root / "many" / str(number))
    names = list(closed)
    for name in names[:30]:
        (root / name).unlink()
    os.rename(root / names[31], root / "renamed")
    for name in names[:30]:
        for version in versions(root / name):
            purge(version)  # the marker, which undeletes it, then the content, or the other way round
    assert json.loads(vfs("gc", "--json", str(root)))["FreedBytes"] > 20_000_000
    assert json.loads(os.getxattr(root, "user.vfs.status"))["Troubles"] == [], "it is not full any more"
    (root / "again").write_bytes(b"writing goes on" * 100_000)
    assert (root / "again").read_bytes() == b"writing goes on" * 100_000
    assert (root / "renamed").read_bytes() == closed[names[31]]


def test_a_full_disk_lets_go_and_opens_again(small: Mounted) -> None:
    closed = fill(small.root)
    for number in range(3):
        if number == 1:
            small.kill()
        else:
            small.stop()
        small.check_store()
        small.start()
        assert all((small.root / name).read_bytes() == data for name, data in closed.items())
        (small.root / f"file-{number}").unlink()
        del closed[f"file-{number}"]


def leave_garbage(root: Path, *, purged: int, size: int) -> None:
    """Files of which all but the last are purged with every version."""
    for number in range(purged + 1):
        (root / f"file-{number}").write_bytes(os.urandom(size))
    for number in range(purged):
        (root / f"file-{number}").unlink()
        for version in versions(root / f"file-{number}"):
            purge(version)


@pytest.mark.parametrize("how", ["SIGTERM", "vfs umount"])
def test_a_collection_does_not_delay_the_end(tmp_path: Path, how: str) -> None:
    mount = Mounted(tmp_path, "--bucket", "bucket")
    try:
        mount.start()
        leave_garbage(mount.root, purged=3, size=40 << 20)
        os.setxattr(mount.root, "user.vfs.gc", b"")
        began = time.monotonic()
        if how == "SIGTERM":
            mount.stop()
        else:
            vfs("umount", str(mount.root))
        assert time.monotonic() < began + 15
        mount.end()
    finally:
        mount.clean_up()


def test_the_background_frees_what_pays(tmp_path: Path) -> None:
    mount = Mounted(tmp_path, "--bucket", "bucket")
    mount.store.mkdir()
    (mount.store / "config.toml").write_text("gc_interval = 0.2\ngc_rate = 1000\n")
    try:
        mount.start()
        leave_garbage(mount.root, purged=2, size=100 << 20)
        wait_until(lambda: status(mount)["StoreBytes"] < 240 << 20, "the first segment to be freed")
        assert os.stat(mount.root / "file-2").st_size == 100 << 20
        mount.end()
    finally:
        mount.clean_up()
