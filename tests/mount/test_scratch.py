"""Where the scratch files of a check, and the new catalog of a rebuild, find no room: that is no damage."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import REPO, TIMEOUT_S, run
from vfs.model import Writer
from vfs.store import Store

FILES = 1500
KIB_MAX = 8192  # are enough for all of it


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scratch") / "store"
    opened = Store.open(path)
    bucket = opened.create_bucket(b"docs", uid=0, gid=0)
    writer = Writer(0, 1, "test")
    for number in range(FILES):
        ino, _ = opened.tree.create(bucket, b"%0200d" % number, 0o644, 0, writer)
        handle = opened.files.open(ino, writer, created=True)
        opened.files.write(handle, 0, b"%d" % number)
        opened.files.flush(handle)
        opened.files.release(handle)
    opened.close()
    return path


@contextlib.contextmanager
def disk(folder: Path, kib: int) -> Iterator[Path]:
    """A small one."""
    path = folder / f"disk-{len(os.listdir(folder))}"
    path.mkdir()
    try:
        run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(path)])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"!! no small disk can be mounted here: {error.stderr}")
    try:
        yield path
    finally:
        run(["umount", "-l", str(path)])


def vfs(*arguments: object, scratch: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPO), "TMPDIR": str(scratch), "SQLITE_TMPDIR": str(scratch)}
    command = [sys.executable, "-m", "vfs", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_no_room_for_a_check_is_no_damage(store: Path, tmp_path: Path) -> None:
    """At any size: it ends at another place of the check each time."""
    seen = set()
    kib = 16
    while kib <= KIB_MAX:
        with disk(tmp_path, kib) as scratch:
            done = vfs("check", "--repair", store, scratch=scratch)
            seen.add(done.returncode)
            if done.returncode:
                assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
                assert f"not checked to its end: no space left for scratch files in {scratch}; " in done.stderr
                assert "TMPDIR=DIRECTORY names another place" in done.stderr
            assert os.listdir(scratch) == []
        kib += kib // 2
    assert seen == {0, 2}


def test_scratch_files_that_cannot_be_made(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for where, why in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path / "file", "Not a directory"),
        ("/proc", "No such file or directory"),
        ("a" * 5000, "File name too long"),
    ):
        done = vfs("check", store, scratch=where)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        assert f"no scratch files can be made in {where}: {why}; " in done.stderr
        assert vfs("rebuild", store, scratch=where).returncode == 0, "it makes none"


def test_no_room_for_a_new_catalog_leaves_the_old_one(store: Path, tmp_path: Path) -> None:
    failures = 0
    for kib in (0, 64, 512, 1024, 2048, KIB_MAX):
        with disk(tmp_path, 1 << 20) as small:
            run(["cp", "-a", "--sparse=always", str(store), str(small)])
            used = os.statvfs(small).f_blocks - os.statvfs(small).f_bfree
            run(["mount", "-o", f"remount,size={used * os.statvfs(small).f_frsize + (kib << 10)}", str(small)])
            copy = small / "store"
            before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != "lock"}
            done = vfs("rebuild", copy, scratch=tmp_path)
            if done.returncode:
                failures += 1
                assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
                assert "no space left" in done.stderr.lower(), done.stderr
                assert {path: path.read_bytes() for path in before} == before
            assert vfs("check", copy, scratch=tmp_path).returncode == 0
    assert 0 < failures < 6
