"""mount.fuse.vfs on real mounts: called as mount(8) calls it, and once by mount(8) itself, from a line of fstab."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import REPO, TIMEOUT_S, run, wait_until

pytestmark = pytest.mark.fuse

HELPER = [sys.executable, "-P", "-c", "from vfs.cli.helper import main; main()"]
ENV = {**os.environ, "PYTHONPATH": str(REPO)}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "my store"


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    while os.path.ismount(path):
        subprocess.run(unmounting(path, "-l"), check=True, timeout=TIMEOUT_S)


def helper(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run([*HELPER, *map(str, arguments)], cwd=cwd, check=False, env=ENV)


def vfs(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "vfs", *map(str, arguments)], check=False, env=ENV)


def unmounting(path: Path, *flags: str) -> list[str]:
    """`umount` as people do it, which waits for nobody."""
    if os.geteuid() == 0:
        return ["umount", *flags, str(path)]
    return ["fusermount3", "-uz" if flags else "-u", str(path)]


def mount_line(mountpoint: Path) -> list[str]:
    """Source, type and options in /proc/mounts, escaped as there."""
    lines = [line.split(" ") for line in Path("/proc/mounts").read_text().splitlines()]
    (found,) = [line for line in lines if line[1] == str(mountpoint)]
    return [found[0], found[2], found[3]]


def test_it_returns_when_the_mount_answers_under_the_name_that_was_given(store: Path, mountpoint: Path) -> None:
    done = helper(store, mountpoint, "-n", "-o", "rw,noexec,nofail,x-systemd.automount,bucket=docs", "-t", "fuse.vfs")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (mountpoint / "file").write_text("in the bucket")
    source, kind, options = mount_line(mountpoint)
    assert (source, kind) == (str(store).replace(" ", "\\040"), "fuse.vfs")
    assert "noexec" in options.split(",")
    assert vfs("umount", mountpoint).returncode == 0
    assert "is clean" in vfs("check", store).stdout


@pytest.mark.parametrize("name", ["store", "./store", "st,or\\e"])
def test_a_relative_name_stays_as_it_is(tmp_path: Path, mountpoint: Path, name: str) -> None:
    assert helper(name, "mnt", cwd=tmp_path).returncode == 0
    assert mount_line(mountpoint)[0] == name.replace("\\", "\\134")
    assert (
        f'"Store":"{tmp_path / name!s}"'.replace("\\", "\\\\")
        in run(["getfattr", "--only-values", "-n", "user.vfs.status", str(mountpoint)]).stdout
    )
    assert vfs("umount", mountpoint).returncode == 0
    assert vfs("check", tmp_path / name).returncode == 0  # umount waited, though the source does not say for what


def test_umount_and_mount_at_once_lose_nothing(store: Path, mountpoint: Path) -> None:
    assert helper(store, mountpoint, "-o", "bucket=docs").returncode == 0
    for number in range(5):
        with (mountpoint / "file").open("w") as file:
            file.write(f"{number}" * 300_000)
        run(unmounting(mountpoint))
        done = helper(store, mountpoint, "-o", "bucket=docs")
        assert (done.returncode, done.stderr) == (0, "")
        assert (mountpoint / "file").read_text() == f"{number}" * 300_000
    run(unmounting(mountpoint))
    done = vfs("check", store)  # waits in the same way
    assert (done.returncode, done.stderr) == (0, "")


def test_a_daemon_that_is_slow_to_close_is_waited_for(store: Path, mountpoint: Path) -> None:
    assert helper(store, mountpoint).returncode == 0
    pid = int((store / "lock").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    run(unmounting(mountpoint, "-l"))
    second = subprocess.Popen([*HELPER, str(store), str(mountpoint)], env=ENV)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert second.wait(TIMEOUT_S) == 0
    assert os.path.ismount(mountpoint)
    assert vfs("umount", mountpoint).returncode == 0


def test_a_store_that_is_mounted_is_refused_at_once(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    assert helper(store, mountpoint).returncode == 0
    (tmp_path / "other").mkdir()
    done = helper(store, tmp_path / "other")
    assert done.returncode == 32
    pid = (store / "lock").read_text().split()[0]
    assert f"is in use by process {pid}, mounted on {mountpoint}; unmount it first" in done.stderr
    assert vfs("umount", mountpoint).returncode == 0


def test_errors_have_the_exit_codes_of_mount(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    for code, *arguments in (
        (1, store, mountpoint, "-o", "strange"),
        (1, store, mountpoint, "-o", "remount,ro"),
        (32, tmp_path / "missing/store", mountpoint),
        (32, store, tmp_path / "missing"),
        (32, Path("/etc"), mountpoint),
    ):
        done = helper(*arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("mount.fuse.vfs: ")
        assert done.stderr.count("\n") == 1
    assert not store.exists()
    assert not os.path.ismount(mountpoint)


def with_fstab(tmp_path: Path, line: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where mount(8) has that line of fstab, in `$FSTAB`.

    It finds the helper in /sbin only: so in a namespace of its own, with a copy of /sbin that has it (too).
    """
    (tmp_path / "fstab").write_bytes(os.fsencode(f"{line}\n"))
    (tmp_path / "helper").write_text(f'#!/bin/sh\nexec {" ".join(HELPER[:-1])} "{HELPER[-1]}" "$@"\n')
    (tmp_path / "helper").chmod(0o755)
    (tmp_path / "sbin").mkdir()
    begin = """
        set -eu
        mount -t tmpfs none sbin
        cp -a "$(readlink -f /sbin)/." sbin
        ln -sf "$PWD/helper" sbin/mount.fuse.vfs
        mount --bind sbin "$(readlink -f /sbin)"
        export FSTAB="$PWD/fstab"
    """
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", begin + script]
    return run(command, check=False, env=ENV, cwd=tmp_path)


needs_namespace = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("findmnt") is None, reason="takes a mount namespace, and findmnt"
)


def wait_until_closed(store: Path) -> None:
    wait_until(lambda: "the store is closed" in (store / "daemon.log").read_text().splitlines()[-1], "the last daemon")


@needs_namespace
def test_a_line_of_fstab(tmp_path: Path) -> None:
    store, mountpoint = tmp_path / "store", tmp_path / "mnt"
    mountpoint.mkdir()
    line = f"{store} {mountpoint} fuse.vfs bucket=docs,allow_other,noauto,nofail,user,x-systemd.mount-timeout=0 0 0"
    script = f"""
        mount -T $FSTAB {mountpoint}
        findmnt -n -o SOURCE,FSTYPE {mountpoint}
        echo kept > {mountpoint}/file
        umount {mountpoint}
        mount -T $FSTAB -o ro {mountpoint}
        cat {mountpoint}/file
        ! mount -o remount,rw {mountpoint}
        umount {mountpoint}
        mount -t fuse.vfs {store} {mountpoint}
        ls {mountpoint}
        umount {mountpoint}
    """
    done = with_fstab(tmp_path, line, script)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [[str(store), "fuse.vfs"], ["kept"], ["docs"]]
    assert "cannot be remounted" in done.stderr
    wait_until_closed(store)
    assert vfs("check", store).returncode == 0


@needs_namespace
def test_a_line_of_fstab_with_any_paths_and_options(tmp_path: Path) -> None:
    """fstab(5) has octal escapes; what is not for the helper is a matter of mount(8)."""
    store, mountpoint = tmp_path / "a\tst ore\\,ü#\udcff", tmp_path / "m n\nt\\"
    mountpoint.mkdir()
    escapes = {ord(char): f"\\{ord(char):03o}" for char in " \t\n\\#"}
    options = 'defaults,sync,nosymfollow,strictatime,lazytime,dirsync,iversion,comment=x,X-a.b,context="a:b:c:d,e"'
    line = f"{str(store).translate(escapes)} {str(mountpoint).translate(escapes)} fuse.vfs {options} 0 0"
    script = """
        mount -a -T $FSTAB
        cd m*
        mkdir docs
        echo kept > docs/file
        ln -s file docs/link
        ! cat docs/link
        cat docs/file
        grep -Eo 'nosymfollow|dirsync|,sync' /proc/self/mountinfo | LC_ALL=C sort -u | xargs
        cd ..
        umount m*/
    """
    done = with_fstab(tmp_path, line, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "kept\n,sync dirsync nosymfollow\n"
    assert "Too many levels of symbolic links" in done.stderr
    wait_until_closed(store)
    assert vfs("check", store).returncode == 0
