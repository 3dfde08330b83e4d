"""What is promised when things go wrong: kills, damage, a second daemon."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted import Mounted, bash, contents, run, versions

pytestmark = pytest.mark.fuse

# Writes files of random bytes into the directory argv[1], and prints name and digest of each as soon as its close
# returned 0. Ends when the mount dies.
LOAD = """
import hashlib, os, random, sys
chance = random.Random(int(sys.argv[2]))
for number in range(1_000_000):
    name = f"{sys.argv[1]}/{chance.randrange(20)}"
    data = chance.randbytes(chance.choice((0, 10, 4096, 200_000)))
    try:
        fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for at in range(0, len(data), 65536):
            os.write(fd, data[at : at + 65536])
        if chance.random() < 0.1:
            os.fsync(fd)
        os.close(fd)
    except OSError:
        break
    print(name, hashlib.sha256(data).hexdigest(), flush=True)
"""


def digests(path: Path) -> list[str | None]:
    return [None if data is None else hashlib.sha256(data).hexdigest() for data in contents(path)]


def kill_under_load(mount: Mounted, seed: int) -> None:
    """Start, load, kill after a random time; then everything that was acknowledged is there."""
    mount.start()
    folder = mount.root / "bucket" / str(seed)
    folder.mkdir(parents=True)
    load = subprocess.Popen([sys.executable, "-c", LOAD, str(folder), str(seed)], stdout=subprocess.PIPE, text=True)
    assert load.stdout is not None
    acknowledged: dict[str, list[str]] = {}
    for _ in range(random.Random(seed).randrange(1, 60)):
        name, digest = load.stdout.readline().split()
        acknowledged.setdefault(name, []).append(digest)
    mount.kill()
    for line in load.stdout:
        name, digest = line.split()
        acknowledged.setdefault(name, []).append(digest)
    load.stdout.close()
    load.wait(60)
    mount.start()
    for name, wanted in acknowledged.items():
        found = digests(Path(name))
        assert found[: len(wanted)] == wanted, f"{name} lost a version that was closed"
        assert len(found) <= len(wanted) + 1, f"{name} has more than the one that was being written"
    mount.stop()


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_under_load(tmp_path: Path, kills: int) -> None:
    mount = Mounted(tmp_path)
    try:
        for seed in range(kills):
            kill_under_load(mount, seed)
            mount.check_store()
        mount.end()
    finally:
        mount.clean_up()


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
    except OSError:
        raise
    finally:
        mount.clean_up()
