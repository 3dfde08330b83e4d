"""A disk that is full to the last byte: everything can be deleted and purged, in any order, and is given back."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.mounted import Mounted, run, wait_until

pytestmark = pytest.mark.fuse

FILES_PER_FOLDER = 1000


@contextlib.contextmanager
def disk_of(folder: Path, kind: str, mib: int) -> Iterator[Path]:
    """A file system of its own."""
    disk = folder / "disk"
    disk.mkdir()
    try:
        if kind == "tmpfs":
            run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", str(disk)])
        else:
            run(["truncate", "-s", f"{mib}M", str(folder / "image")])
            run([f"mkfs.{kind}", "-q", str(folder / "image")])
            run(["mount", "-o", "loop", str(folder / "image"), str(disk)])
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"!! no {kind} can be made and mounted here: {error}")
    try:
        yield disk
    finally:
        run(["umount", "-l", str(disk)])


def until_full(fd: int, sizes: Sequence[int]) -> None:
    """Write to a file until not a byte more fits, in pieces that become smaller."""
    for size in sizes:
        try:
            while os.write(fd, os.urandom(size)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    with contextlib.suppress(OSError):
        os.close(fd)


def fill(root: Path, files: int) -> list[Path]:
    """Small files in folders, and large ones until the disk is full."""
    names = []
    for number in range(files):
        folder = root / f"folder-{number // FILES_PER_FOLDER}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir()
        names.append(folder / f"file-{number}")
        names[-1].write_bytes(b"%d" % number)
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (root / f"large-{number}").write_bytes(os.urandom(1 << 20))
            names.append(root / f"large-{number}")
    return names


def purge(name: Path, rng: random.Random) -> None:
    """Every version and marker of a name below `.versions`, in one order or the other."""
    for version in sorted(os.listdir(name), reverse=rng.random() < 0.5):
        try:
            os.setxattr(name, "user.vfs.purge", version.encode())
        except OSError:
            os.unlink(name / version)


def everything_goes(folder: Path, kind: str, mib: int, files: int) -> None:
    """Fill the disk, delete everything in random order, kill the daemon, purge everything, write again."""
    rng = random.Random(files)
    with disk_of(folder, kind, mib) as disk:
        mount = Mounted(disk, "--bucket", "bucket")
        mount.root, mount.log = folder / "mnt", folder / "log"  # where there is room
        mount.root.mkdir()
        try:
            stranger = os.open(disk / "stranger", os.O_WRONLY | os.O_CREAT)
            mount.start()
            names = fill(mount.root, files)
            large = [name for name in names if name.name.startswith("large")]
            assert len(names) == files + len(large) > files
            until_full(stranger, (1 << 20, 4096, 1))
            rng.shuffle(names)
            half = len(names) // 2
            for name in names[:half]:
                name.unlink()
            mount.kill()
            mount.start()  # on the full disk
            assert all(name.exists() for name in names[half : half + 100])
            for name in names[half:]:
                name.unlink()
            for number in range(-(-files // FILES_PER_FOLDER)):
                (mount.root / f"folder-{number}").rmdir()
            mount.stop()
            mount.start()
            rng.shuffle(names)
            for name in names:
                purge(mount.root / ".versions" / name.relative_to(mount.root), rng)
            wait_until(lambda: can_write(mount.root / "again"), "space to be given back")
            mount.end(expected=["no space left", "nothing is lost", "cannot be committed"])
        finally:
            mount.clean_up()


def can_write(path: Path) -> bool:
    try:
        path.write_bytes(b"again" * 100_000)
        return True
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


@pytest.mark.parametrize(
    ("kind", "mib"),
    [
        ("tmpfs", 64),
        ("ext4", 64),
        pytest.param("xfs", 320, marks=pytest.mark.slow),
        pytest.param("btrfs", 256, marks=pytest.mark.slow),
    ],
)
def test_everything_can_be_deleted_and_purged(tmp_path: Path, kind: str, mib: int) -> None:
    everything_goes(tmp_path, kind, mib, 1200)


@pytest.mark.slow
@pytest.mark.parametrize(("files", "mib"), [(20_000, 160), (60_000, 400)])
def test_however_much_there_is(tmp_path: Path, files: int, mib: int) -> None:
    everything_goes(tmp_path, "ext4", mib, files)
