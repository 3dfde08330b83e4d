"""Mounting a store that somebody else made, or has something strange in it: refused in time, with nothing changed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.test_helper import helper, mountpoint, store, vfs
from tests.mounted import wait_until
from vfs.cli.mounting import is_held
from vfs.store import Store

__all__ = ["mountpoint", "store"]  # fixtures

pytestmark = pytest.mark.fuse

STRANGER = 12345
SECRET = b"mine: do not touch\n"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("made"))


def fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(SECRET)
    return path


@pytest.mark.parametrize("kind", [dangling_link, fifo])
@pytest.mark.parametrize(
    ("is_made", "name"),
    [
        *((True, name) for name in ("lock", "daemon.log", "store.toml", "catalog")),
        *((False, name) for name in ("lock", "daemon.log", "store.toml.new", "config.toml")),
    ],
)
def test_a_strange_store_is_not_mounted(
    store: Path, mountpoint: Path, victim: Path, is_made: bool, name: str, kind: Callable[[Path, Path], None]
) -> None:
    if is_made:
        Store.open(store).close()
        if name == "catalog":
            (store / name).rename(store / "was")
        else:
            (store / name).unlink(missing_ok=True)
    else:
        store.mkdir(0o700)
    kind(store / name, victim)
    for background in (True, False):
        done = vfs("mount", *([] if background else ["--foreground"]), store, mountpoint)
        assert done.returncode == 2
        assert str(store / name) in done.stderr
        assert done.stderr.count("\n") == 1
    assert helper(store, mountpoint).returncode == 32
    assert victim.read_bytes() == SECRET
    assert not victim.with_name("made").exists()
    assert not os.path.ismount(mountpoint)


def give_away(path: Path) -> None:
    for folder, folders, files in os.walk(path):
        for name in [*folders, *files]:
            os.chown(Path(folder, name), STRANGER, STRANGER)
    os.chown(path, STRANGER, STRANGER)


@AS_ROOT
def test_a_store_of_somebody_else_is_mounted_only_if_that_is_wanted(store: Path, mountpoint: Path) -> None:
    Store.open(store).close()
    give_away(store)
    for done, code in (
        (vfs("mount", store, mountpoint), 2),
        (vfs("serve", store, "--s3", "0"), 2),
        (helper(store, mountpoint), 32),
    ):
        assert done.returncode == code
        assert re.search(rf"{store} belongs to .*\buid {STRANGER}\b.*, and vfs runs as root \(uid 0\)", done.stderr)
        assert "--foreign-owner (in fstab: foreign_owner)" in done.stderr
    for mount in (
        lambda: vfs("mount", "--foreign-owner", store, mountpoint),
        lambda: helper(store, mountpoint, "-o", "rw,foreign_owner,nofail"),
    ):
        done = mount()
        assert done.returncode == 0, done.stderr
        assert os.path.ismount(mountpoint)
        (mountpoint / "docs").mkdir(exist_ok=True)
        (mountpoint / "docs" / "note").write_text("one")
        done = vfs("gc", "--foreign-owner", store)
        assert done.returncode == 2, "its lock may name any mount"
        subprocess.run(["umount", mountpoint], check=True, timeout=60)
        wait_until(lambda: not is_held(store), "the store to be closed")
    assert {path.lstat().st_uid for path in store.rglob("*")} == {STRANGER}
    assert vfs("check", "--foreign-owner", store).returncode == 0


def test_what_a_daemon_makes_while_it_runs_is_made_in_the_store(store: Path, mountpoint: Path, victim: Path) -> None:
    """Links that are put there meanwhile are replaced or refused, and never followed."""
    assert vfs("mount", store, mountpoint).returncode == 0
    for name in ("scrub.new", "store.toml.new", "s3-keys.new"):
        (store / name).symlink_to(victim)
    (mountpoint / "docs").mkdir()
    (mountpoint / "docs" / "note").write_text("one")
    assert vfs("s3", "key", "create", store).returncode == 0
    assert vfs("gc", mountpoint).returncode == 0
    assert vfs("umount", mountpoint).returncode == 0
    assert victim.read_bytes() == SECRET
    (store / "store.toml.new").unlink(missing_ok=True)
    assert vfs("check", store).returncode == 0
