"""`scripts/mount`: what it finds wrong before it installs anything, and what is there when it has run.

In a clone whose set-up only tells that it was called, and whose vfs is the one of these tests.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import REPO, needs_root, wait_until
from vfs.cli.mounts import all_mounts, is_dead, is_within

pytestmark = [pytest.mark.fuse, needs_root]

ADA = pwd.getpwnam("nobody").pw_uid  # fusermount3 mounts for users that have a name
ALONE = ("unshare", "--mount", "--mount-proc", "--pid", "--fork", "sh", "-ec")  # what is started there ends with it
OPEN_FUSE = "mount -t tmpfs none /mnt; mknod -m 666 /mnt/fuse c 10 229; mount --bind /mnt/fuse /dev/fuse;"
SET_UP = '#!/bin/sh\necho set up >>"$HOME/set-up"\n'
VFS = f'#!/bin/sh\nPYTHONPATH={REPO} exec {sys.executable} -m vfs "$@"\n'


class Home:
    """A user's home directory, with a clone in ~/vfs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vault = path / "vault"
        self.store = path / ".local/share/vfs"
        self.clone = path / "vfs"
        for place, text in {"scripts/setup": SET_UP, ".venv/bin/vfs": VFS}.items():
            (self.clone / place).parent.mkdir(parents=True, exist_ok=True)
            (self.clone / place).write_text(text)
            (self.clone / place).chmod(0o755)
        (self.clone / "scripts/mount").write_bytes((REPO / "scripts/mount").read_bytes())
        (self.clone / "scripts/mount").chmod(0o755)
        os.chown(self.clone, ADA, -1)  # so that root gets no link in /usr/local/bin

    def mount(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.clone / "scripts/mount", *arguments, **environment)

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, command)),
            env={"HOME": str(self.path), "PATH": "/usr/bin:/bin", **environment},
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def refuses(self, *arguments: object, **environment: str) -> str:
        """What it says when it refuses, before it has done anything."""
        done = self.mount(*arguments, **environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert not (self.path / "set-up").exists()
        return done.stderr

    def unmount(self) -> None:
        for mount in reversed(all_mounts()):
            if is_within(mount.mountpoint, str(self.path)):
                command = [self.clone / ".venv/bin/vfs", "umount"] if mount.is_vfs else ["umount"]
                subprocess.run([*command, mount.mountpoint], check=True, timeout=60)


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="vfs-test-") as folder:
        os.chmod(folder, 0o755)  # for other users, to whom pytest's own folders are closed
        made = Home(Path(folder, "ada"))
        yield made
        made.unmount()


def test_the_first_time_and_once_more(home: Home) -> None:
    first = home.mount()
    assert (first.returncode, first.stderr) == (0, "")
    assert max(map(len, first.stdout.splitlines())) < 80
    assert "~/vault is mounted, and forgets nothing; its store is ~/.local/share/vfs." in first.stdout
    assert (home.vault / "docs").is_dir()
    assert (home.store / "store.toml").is_file()
    (home.vault / "docs").rmdir()
    (home.vault / "mine").mkdir()
    again = home.mount()
    assert (again.returncode, again.stderr) == (0, "")
    assert "~/vault is already mounted" in again.stdout
    assert os.listdir(home.vault) == ["mine"]


def test_what_it_says_next_works_as_it_stands(home: Home) -> None:
    one, two, unmount, again = (line for line in home.mount().stdout.splitlines() if line.startswith("  "))
    script = f"{one}\n{two}\ncd\n{unmount}\nls vault\n{again}\ncat vault/docs/note"
    done = home.run("bash", "-ec", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2")  # vfs log: an id of this century
    assert done.stdout.splitlines()[-1] == "one"


def test_a_dead_mount_is_taken_up_again(home: Home) -> None:
    home.mount()
    (home.vault / "docs/note").write_text("kept")
    os.kill(int((home.store / "lock").read_text().split()[0]), signal.SIGKILL)
    wait_until(lambda: is_dead(str(home.vault)), "the dead mount")
    done = home.mount()
    assert (done.returncode, done.stderr) == (0, "")
    assert (home.vault / "docs/note").read_text() == "kept"


def test_from_a_directory_that_is_no_more(home: Home) -> None:
    home.mount()
    gone = home.path / "gone"
    enter = f"mkdir {gone}; cd {gone}; rmdir {gone}; {home.clone}/scripts/mount"
    done = home.run("sh", "-c", enter)
    assert done.returncode == 0
    assert "~/vault is already mounted" in done.stdout
    done = home.run("sh", "-c", f"{enter} store")
    assert done.returncode == 2
    assert "mount: the working directory was removed, or is in a dead mount: cd out of it" in done.stderr


def test_from_the_dead_mount(home: Home) -> None:
    home.mount()
    (home.vault / "docs/note").write_text("kept")
    command = f"""cd {home.vault}/docs; kill -9 $(head -n 1 {home.store}/lock)
        while stat -f {home.vault} >/dev/null 2>&1; do sleep .05; done; {home.clone}/scripts/mount"""
    done = home.run("sh", "-c", command)
    assert done.returncode == 0, done.stderr
    assert (home.vault / "docs/note").read_text() == "kept"


def test_other_places(home: Home) -> None:
    home.vault = home.path / "what I write"
    done = home.mount("my stores/one", home.vault)
    assert (done.returncode, done.stderr) == (0, "")
    assert "~/what\\ I\\ write is mounted, and forgets nothing; its store is ~/my\\ stores/one." in done.stdout
    assert "  ~/vfs/scripts/mount ~/my\\ stores/one ~/what\\ I\\ write\n" in done.stdout
    assert (home.path / "my stores/one/store.toml").exists()


@pytest.mark.parametrize("arguments", [("a", "b", "c"), ("--foreground", "b")])
def test_wrong_usage(home: Home, arguments: tuple[str, ...]) -> None:
    assert home.refuses(*arguments) == "usage: scripts/mount [STORE [MOUNTPOINT]]\n"


def test_help_does_nothing(home: Home) -> None:
    done = home.mount("--help")
    assert (done.returncode, done.stdout) == (0, "usage: scripts/mount [STORE [MOUNTPOINT]]\n")
    assert os.listdir(home.path) == ["vfs"]


NAME_ANOTHER = "mount: name another mount point: scripts/mount ~/.local/share/vfs MOUNTPOINT\n"


def test_a_mount_point_that_is_not_empty(home: Home) -> None:
    home.vault.mkdir()
    (home.vault / "thesis").touch()
    assert home.refuses() == f"mount: ~/vault is not empty: it has thesis, which a mount would hide\n{NAME_ANOTHER}"


def test_a_mount_point_that_is_no_directory(home: Home) -> None:
    home.vault.symlink_to("nowhere")
    assert home.refuses() == f"mount: ~/vault is not a directory\n{NAME_ANOTHER}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can close /dev/fuse")
def test_dev_fuse(home: Home) -> None:
    """What is missing needs another remedy than what is closed."""
    script = home.clone / "scripts/mount"
    subprocess.run(["chown", "-R", f"{ADA}:{ADA}", home.path], check=True)
    for mode, told in (
        ("touch /mnt/fuse", "mount: /dev/fuse is missing, and FUSE needs it\nmount: as root: modprobe fuse"),
        (
            "mknod -m 600 /mnt/fuse c 10 229",
            "mount: /dev/fuse is closed to you (crw------- root root), and FUSE needs it\n",
        ),
    ):
        there = f"mount -t tmpfs none /mnt; {mode}; mount --bind /mnt/fuse /dev/fuse;"
        become = f"setpriv --reuid={ADA} --regid={ADA} --clear-groups {script}"
        done = home.run("unshare", "--mount", "sh", "-ec", there + become)
        assert done.returncode == 2
        assert done.stderr.startswith(told)


def test_no_room_for_temporary_files(home: Home) -> None:
    (home.clone / "scripts/setup").write_bytes((REPO / "scripts/setup").read_bytes())
    done = home.mount(TMPDIR="/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: no temporary file can be made (TMPDIR): ")
    assert "/nowhere" in done.stderr


def test_a_mount_point_that_is_taken(home: Home) -> None:
    home.vault.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "something", home.vault], check=True)
    assert home.refuses() == f"mount: ~/vault is taken: something is mounted there (tmpfs)\n{NAME_ANOTHER}"


@pytest.mark.parametrize("dead", [False, True])
def test_a_mount_point_of_another_store(home: Home, dead: bool) -> None:
    home.mount("one", home.vault)
    (home.path / "set-up").unlink()
    if dead:
        os.kill(int((home.path / "one/lock").read_text().split()[0]), signal.SIGKILL)
        wait_until(lambda: is_dead(str(home.vault)), "the dead mount")
    told = home.refuses("two", home.vault)
    assert told.startswith(f"mount: ~/vault is taken: {home.path}/one is mounted there (fuse.vfs)\n")


@pytest.mark.parametrize(
    ("store", "mountpoint", "why"),
    [
        ("s", "s", "~/s and ~/s: one lies in the other"),
        ("s", "s/mnt", "~/s and ~/s/mnt: one lies in the other"),
        ("m/store", "m", "~/m/store and ~/m: one lies in the other"),
        ("vfs/store", "m", "~/vfs/store and ~/vfs: one lies in the other, which is vfs itself"),
        ("s", "vfs", "~/vfs and ~/vfs: one lies in the other, which is vfs itself"),
        ("s", "vfs/mnt", "~/vfs/mnt and ~/vfs: one lies in the other, which is vfs itself"),
        ("s", ".", "one lies in the other"),
        ("link/store", "m", "one lies in the other, which is vfs itself"),
    ],
)
def test_places_in_one_another(home: Home, store: str, mountpoint: str, why: str) -> None:
    (home.path / "link").symlink_to("vfs")
    assert why in home.refuses(store, home.path / mountpoint)


def test_a_store_that_is_something_else(home: Home) -> None:
    home.store.mkdir(parents=True)
    (home.store / "photo").touch()
    assert "~/.local/share/vfs is not empty, and no store" in home.refuses()
    (home.path / "file").touch()
    assert "~/file is not a directory; name a store, or one to make" in home.refuses("file")
    assert "~/file/store cannot be made: ~/file is not a directory" in home.refuses("file/store")
    assert "~/file/mnt cannot be made: ~/file is not a directory" in home.refuses("store", "file/mnt")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to others")
def test_what_belongs_to_others(home: Home) -> None:
    home.store.mkdir(parents=True)
    os.chown(home.store, 54321, -1)
    assert "~/.local/share/vfs belongs to somebody else" in home.refuses()
    home.store.rmdir()
    assert "run this as yourself, without sudo" in home.refuses(SUDO_UID="12345")


@pytest.fixture
def ada(home: Home) -> Home:
    """The home of somebody who is not root, with a clone of that user's. What is run there has a /dev/fuse that is open
    to everybody, as it should be, and ends with the command.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    subprocess.run(["chown", "-R", f"{ADA}:{ADA}", home.path], check=True)
    as_root = home.run
    become = f'setpriv --reuid={ADA} --regid={ADA} --clear-groups "$@"'
    alone = (*ALONE, OPEN_FUSE + become, "sh")
    home.run = lambda *command, **environment: as_root(*alone, *command, **environment)  # type: ignore[method-assign]
    return home


@pytest.mark.parametrize(
    ("closed", "why"),
    [
        ("vault", "~/vault is a directory that you may not write to"),
        (".local/share/vfs", "~/.local/share/vfs belongs to somebody else"),
        (".local/share", "~/.local/share/vfs cannot be made: ~/.local/share is not a directory that you may write to"),
        (".", "~/vault cannot be made: ~ is not a directory that you may write to"),
    ],
)
def test_what_the_user_may_not_write_to(ada: Home, closed: str, why: str) -> None:
    (ada.path / closed).mkdir(parents=True, exist_ok=True)
    os.chown(ada.path / closed, 0, 0)
    assert why in ada.refuses()


def test_the_command_can_be_typed_from_anywhere(ada: Home) -> None:
    first = ada.mount()
    assert (first.returncode, first.stderr) == (0, "")
    assert (
        "~/.local/bin is not on your PATH yet; log in again, or type:\n  export PATH=~/.local/bin:$PATH\n"
        in first.stdout
    )
    link = ada.path / ".local/bin/vfs"
    assert os.readlink(link) == str(ada.clone / ".venv/bin/vfs")
    again = ada.mount(PATH=f"{link.parent}:/usr/bin:/bin")
    assert "PATH" not in again.stdout
    assert "\n  vfs log note; vfs restore note; " in again.stdout


def test_a_command_of_that_name_which_is_there_stays(ada: Home) -> None:
    link = ada.path / ".local/bin/vfs"
    link.parent.mkdir(parents=True)
    link.write_text("something else")
    subprocess.run(["chown", "-R", f"{ADA}:{ADA}", ada.path / ".local"], check=True)
    done = ada.mount()
    assert (done.returncode, done.stderr) == (0, "")
    assert link.read_text() == "something else"
    assert "\n  ~/vfs/.venv/bin/vfs log note;" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a link there")
@pytest.mark.parametrize(("owner", "links"), [(0, "vfs\n"), (ADA, "")])
def test_roots_command_is_not_code_of_a_user(home: Home, owner: int, links: str) -> None:
    """A link in /usr/local/bin would make root run what the owner of the clone can write to."""
    os.chown(home.clone, owner, owner)
    done = home.run(
        *ALONE, 'mount -t tmpfs none /usr/local/bin; "$@" >&2; ls /usr/local/bin', "sh", "vfs/scripts/mount"
    )
    assert (done.returncode, done.stdout) == (0, links)
