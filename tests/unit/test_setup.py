"""`scripts/setup`: what it asks apt and pip for, and when for nothing. Both are stand-ins that write down what they are
asked; the system has nothing but what a directory of these tests has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.mounted import REPO

PYTHON = Path("/usr/bin/python3")  # the first that it looks for
NEEDED = ("basename", "bash", "cat", "dirname", "env", "mktemp", "rm", "sha256sum", "tr")
STAND_IN = '#!/bin/bash\necho "$(basename "$0") $*" >>"$HOME/asked"\n'
HAVE = ("fusermount3", "pkg-config", "gcc", "x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc")  # whatever CC is called
FOR_TESTS = (
    "getfacl getfattr bindfs curl debootstrap git gocryptfs make openssl rclone restic rsync s3cmd s3fs sqlite3 strace "
    "systemd-analyze systemd-nspawn nsenter vim"
)

pytestmark = pytest.mark.skipif(
    not PYTHON.exists()
    or subprocess.run([PYTHON, "-c", "import ensurepip, sys; assert sys.version_info >= (3, 11)"]).returncode != 0,
    reason="needs a system's python3 with venv",
)


class Clone:
    """A clone whose .venv is there, and made of the system's Python."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bin = path / "bin"
        self.root = path / "vfs"
        for place in (self.bin, path / "tmp", self.root / "scripts", self.root / ".venv/bin"):
            place.mkdir(parents=True)
        shutil.copy(REPO / "scripts/setup", self.root / "scripts/setup")
        (path / "tmp").chmod(0o777)
        (self.root / "pyproject.toml").write_text("version 1")
        for name in NEEDED:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name in HAVE:
            self.stand_in(self.bin / name)
        self.stand_in(self.root / ".venv/bin/python")
        version = subprocess.run([PYTHON, "-VV"], capture_output=True, text=True, check=True).stdout
        (self.root / ".venv/stamp").write_text(f"{self.root} {version.replace(chr(10), ' ')}\n-\n\n")

    def stand_in(self, path: Path) -> None:
        path.write_text(STAND_IN)
        path.chmod(0o755)

    def set_up(self, *options: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        (self.path / "asked").write_text("")
        (self.path / "asked").chmod(0o666)
        return subprocess.run(
            [*before, self.root / "scripts/setup", *options],
            env={"HOME": str(self.path), "PATH": str(self.bin), "TMPDIR": str(self.path / "tmp")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def asked(self, program: str) -> list[str]:
        """What a program was asked for by the last `set_up`."""
        lines = (self.path / "asked").read_text().splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]

    def installs(self, *options: str) -> list[str]:
        """What pip is asked to install when this is set up."""
        done = self.set_up(*options)
        assert (done.returncode, done.stderr) == (0, "")
        assert self.asked("apt-get") == []
        return [line.rpartition(" ")[2].removeprefix(str(self.root)) for line in self.asked("python")]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_what_was_added_once_stays(clone: Clone) -> None:
    assert clone.installs() == [""]
    assert clone.installs() == []
    assert clone.installs("--s3") == ["[s3]"]
    assert clone.installs("--s3") == clone.installs() == []
    (clone.root / "pyproject.toml").write_text("version 2")
    assert clone.installs() == ["[s3]"]
    for program in FOR_TESTS.split():
        clone.stand_in(clone.bin / program)
    assert clone.installs("--test") == ["[dev]"]
    assert clone.installs("--s3") == clone.installs() == clone.installs("--test") == []
    (clone.root / "pyproject.toml").write_text("version 3")
    assert clone.installs("--s3") == ["[dev]"]


def test_what_pip_did_not_finish_is_done_again(clone: Clone) -> None:
    (clone.root / ".venv/bin/python").write_text("#!/bin/bash\necho no network; exit 1\n")
    done = clone.set_up()
    assert done.returncode == 1
    assert "no network\nsetup: pip could not install vfs\n" in done.stderr
    clone.stand_in(clone.root / ".venv/bin/python")
    assert clone.installs() == [""]


@pytest.mark.skipif(os.geteuid() != 0, reason="as somebody else it would ask sudo")
def test_apt_is_asked_for_what_is_not_there_and_no_more(clone: Clone) -> None:
    clone.stand_in(clone.bin / "apt-get")
    (clone.bin / "fusermount3").unlink()
    done = clone.set_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(" install ")[2] for line in clone.asked("apt-get")] == ["--no-install-recommends -y fuse3"]
    assert clone.asked("python") != []
    done = clone.set_up()  # what vfs is compiled with is needed no more, and asked for by nobody
    assert clone.asked("apt-get") != []
    (clone.bin / "pkg-config").unlink()
    clone.stand_in(clone.bin / "fusermount3")
    assert clone.installs() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_install_is_told_what_an_administrator_types() -> None:
    with tempfile.TemporaryDirectory(prefix="vfs-test-") as folder:
        os.chmod(folder, 0o755)
        clone = Clone(Path(folder))
        clone.stand_in(clone.bin / "apt-get")
        for program in HAVE:
            (clone.bin / program).unlink()
        done = clone.set_up(before=(str(shutil.which("setpriv")), "--reuid=54321", "--clear-groups"))
    assert (done.returncode, done.stdout) == (1, "")
    first, command, last = done.stderr.splitlines()
    assert first == "setup: this takes an administrator, who has to type:"
    words = command.split()
    assert words[:5] == ["setup:", "apt-get", "install", "--no-install-recommends", "-y"]
    assert {"fuse3", "gcc", "pkg-config", "libfuse3-dev"} <= set(words[5:])
    assert "python3" not in words
    assert last == "setup: Then run this again."


def test_without_apt_it_says_what_is_missing(clone: Clone) -> None:
    (clone.bin / "fusermount3").unlink()
    done = clone.set_up()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("there is no apt-get here:\nsetup:   fuse3\n")


@pytest.mark.parametrize("options", [("--into", "x"), ("--test", "--s3"), ("x",)])
def test_wrong_usage(clone: Clone, options: tuple[str, ...]) -> None:
    done = clone.set_up(*options)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "usage: scripts/setup [--s3 | --test]\n")
