"""What is promised when things go wrong: kills (see test_torture.py), damage, a second daemon."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.mounted import Mounted, bash, contents, run, versions

pytestmark = pytest.mark.fuse


def test_a_file_that_was_open_is_published_after_a_kill(tmp_path: Path) -> None:
    mount = Mounted(tmp_path)
    try:
        mount.start()
        (mount.root / "bucket").mkdir()
        fd = os.open(mount.root / "bucket/f", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"synced")
        os.fsync(fd)
        os.write(fd, b", and not")
        mount.kill()
        mount.start()
        assert contents(mount.root / "bucket/f") == [b"synced"]
        mount.end()
    finally:
        mount.clean_up()


def test_a_dead_mount_is_no_empty_directory_and_is_cleared(tmp_path: Path) -> None:
    mount = Mounted(tmp_path)
    try:
        mount.start()
        bash("mkdir bucket; echo x > bucket/f", mount.root)
        os.kill(mount.pid, 9)
        mount._process.wait()  # type: ignore[union-attr]
        with pytest.raises(OSError, match="not connected"):
            os.listdir(mount.root)
        mount.start()
        assert (mount.root / "bucket/f").read_text() == "x\n"
        mount.end(expected=["dead mount", "cleared"])
    finally:
        mount.clean_up()


def test_flipped_bytes_are_an_error_of_that_version_only(tmp_path: Path) -> None:
    mount = Mounted(tmp_path)
    try:
        mount.start()
        bucket = mount.root / "bucket"
        bucket.mkdir()
        (bucket / "f").write_bytes(b"first version " * 1000)
        (bucket / "f").write_bytes(b"second version " * 1000)
        (bucket / "g").write_bytes(b"another file " * 1000)
        bad, good = (version.name for version in versions(bucket / "f"))
        mount.stop()
        flip(mount.store / "blocks/00000001", b"first version ")
        mount.start()
        with pytest.raises(OSError, match="Input/output error"):
            (bucket / ".versions/f" / bad).read_bytes()
        assert (bucket / ".versions/f" / good).read_bytes() == b"second version " * 1000
        assert (bucket / "f").read_bytes() == b"second version " * 1000
        assert (bucket / "g").read_bytes() == b"another file " * 1000
        said = [line for line in mount.log.read_text().splitlines() if "ERROR" in line]
        assert said, "the log must tell"
        assert all(bad in line and "blocks/00000001" in line and "f version" in line for line in said)
        mount.stop()
        done = run([sys.executable, "-m", "vfs", "check", str(mount.store)], check=False)
        assert done.returncode == 1
        assert bad in done.stdout + done.stderr
    finally:
        mount.clean_up()


def flip(path: Path, at: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(at) + 3] ^= 0xFF
    path.write_bytes(data)


def test_catalog_deleted_and_rebuilt(tmp_path: Path) -> None:
    mount = Mounted(tmp_path)
    try:
        mount.start()
        bucket = mount.root / "bucket"
        bucket.mkdir()
        bash("for i in 1 2 3; do echo $i > f; done; mkdir d; mv f d; ln d/f g; rm g; setfattr -n user.x -v 1 d", bucket)
        before = bash("find . -ls; cat .versions/f/*Z d/.versions/f/* .versions/g/* 2>&1 || true", bucket)
        mount.stop()
        run(["rm", "-r", str(mount.store / "catalog")])
        run([sys.executable, "-m", "vfs", "rebuild", str(mount.store)])
        mount.start()
        assert bash("find . -ls; cat .versions/f/*Z d/.versions/f/* .versions/g/* 2>&1 || true", bucket) == before
        mount.end()
    finally:
        mount.clean_up()


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    mount = Mounted(tmp_path)
    try:
        mount.start()
        other = tmp_path / "other"
        other.mkdir()
        done = run([sys.executable, "-m", "vfs", "mount", str(mount.store), str(other)], check=False)
        assert done.returncode == 2
        assert f"in use by process {mount.pid}" in done.stderr
        assert done.stderr.count("\n") == 1
        mount.end()
    finally:
        mount.clean_up()


def test_sigterm_while_files_are_open_keeps_them(tmp_path: Path) -> None:
    mount = Mounted(tmp_path)
    try:
        mount.start()
        (mount.root / "bucket").mkdir()
        fd = os.open(mount.root / "bucket/f", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"written, not closed")
        mount.stop()
        mount.start()
        assert (mount.root / "bucket/f").read_bytes() == b"written, not closed"
        with pytest.raises(OSError, match="not connected"):
            os.close(fd)
        mount.end(expected=["busy", "detaching"])
    finally:
        mount.clean_up()
