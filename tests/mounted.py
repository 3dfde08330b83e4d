"""A store mounted by a real daemon, for tests: started and stopped as a user would, and seen to be clean after."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

TIMEOUT_S = 60

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
DYING_S_MAX = 5
REPO = Path(__file__).parent.parent
_UNEXPECTED = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b")


class Daemon(Protocol):
    """A daemon under test."""

    def start(self) -> None: ...

    def end(self) -> None: ...

    def clean_up(self) -> None: ...


D = TypeVar("D", bound=Daemon)


@contextlib.contextmanager
def at_work(daemon: D) -> Iterator[D]:
    """A daemon, started; it must end well if the tests did, and whatever happens it leaves nothing behind."""
    try:
        daemon.start()
        yield daemon
        daemon.end()
    finally:
        daemon.clean_up()


class Mounted:
    """A daemon in the foreground of a process of its own. `root` is the mount point.

    program: what Python runs. stuck: how often a killed daemon could not die, because a thread of it waited in the
    kernel (uninterruptibly, to invalidate a name) for the lock of a directory whose holder waited for the daemon, and
    its guard (vfs/fuse/connection.py) did not end that.
    """

    program: Sequence[str] = ("-m", "vfs")

    def __init__(self, folder: Path, *options: str) -> None:
        self.store = folder / "store"
        self.root = folder / "mnt"
        self.log = folder / "log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.stuck = 0
        self.root.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Mount, and return when the daemon says that it answers: while it asks, it keeps the mount busy itself."""
        known = self.log.read_text().count(self._says_mounted) if self.log.exists() else 0
        process = self._spawn()

        def answers() -> bool:
            return self.log.read_text().count(self._says_mounted) > known and self._is_mounted()

        wait_until(lambda: process.poll() is not None or answers(), "the mount")
        assert process.poll() is None, f"the daemon ended: {self.log.read_text()}"

    def _spawn(self) -> subprocess.Popen[bytes]:
        order = ["mount", "--foreground", *self._options, str(self.store), str(self.root)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self.program, *order],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPO,
            )
        return self._process

    @property
    def _says_mounted(self) -> str:
        return f"{self.root} is mounted\n"

    def _is_mounted(self) -> bool:
        try:
            os.statvfs(self.root)  # asks the daemon; a stat may be answered from the cache of a dead mount
            return os.path.ismount(self.root)
        except OSError:  # a dead mount, about to be cleared
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def stop(self) -> None:
        """Unmount by SIGTERM; the daemon must end well."""
        assert self._process is not None, "not started"
        self._process.terminate()
        assert self._process.wait(TIMEOUT_S) == 0, self.log.read_text()

    def kill(self, *, clear: bool = True) -> None:
        """The end of the daemon without warning: SIGKILL. *clear*: away with the dead mount, which `start` does too."""
        assert self._process is not None, "not started"
        os.kill(self._process.pid, signal.SIGKILL)
        try:
            self._process.wait(DYING_S_MAX)
        except subprocess.TimeoutExpired:
            self.stuck += 1
            run(["umount", "-f", str(self.root)], check=False)  # aborts the connection, whatever it says
            self._process.wait(TIMEOUT_S)
        if clear:
            self.clear()

    def clear(self) -> None:
        """Away with the dead mount."""
        subprocess.run(["fusermount3", "-uz", str(self.root)], check=True, timeout=TIMEOUT_S)

    def start_and_kill(self, seconds: float) -> None:
        """A daemon that is killed so long after its start, wherever it is then."""
        self._spawn()
        time.sleep(seconds)
        self.kill(clear=False)

    def end(self, *, expected: Sequence[str] = ()) -> None:
        """After a test: stop if it runs, then see that the log warns of nothing but *expected* and that the store is
        intact.
        """
        if self._process is not None and self._process.poll() is None:
            self.stop()
        self.check_log(expected)
        self.check_store()

    def check_log(self, expected: Sequence[str] = ()) -> None:
        lines = self.log.read_text().splitlines()
        strange = [line for line in lines if _UNEXPECTED.search(line) and not any(word in line for word in expected)]
        assert not strange, f"the daemon's log says: {strange}"

    def check_store(self) -> None:
        """`vfs check` finds nothing."""
        done = run([sys.executable, "-m", "vfs", "check", str(self.store)], cwd=REPO, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def clean_up(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(TIMEOUT_S)
        with contextlib.suppress(subprocess.CalledProcessError):
            run(["fusermount3", "-uz", str(self.root)])


def run(
    command: Sequence[str], *, cwd: Path | None = None, check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program that must end in time: FUSE can hang whoever uses it."""
    return subprocess.run(
        command,
        cwd=cwd,
        check=check,
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )


def bash(script: str, cwd: Path) -> str:
    """What a script prints; it stops at the first failure."""
    return run(["bash", "-euc", script], cwd=cwd).stdout


def versions(path: Path) -> list[Path]:
    """The versions of a file as files, oldest first (`null` where its time puts it is last by name)."""
    return sorted((path.parent / ".versions" / path.name).iterdir(), key=lambda version: version.name)


def contents(path: Path) -> list[bytes | None]:
    """What the versions of a file hold, oldest first; None is a delete marker."""
    return [None if version.is_symlink() else version.read_bytes() for version in versions(path)]


def purge(version: Path) -> None:
    """What `vfs purge` does with a version below `.versions`."""
    os.setxattr(version.parent, "user.vfs.purge", version.name.encode())


def purge_command(version: Path) -> list[str]:
    """The same as a program to run, which ends when the daemon has answered."""
    return ["setfattr", "-n", "user.vfs.purge", "-v", version.name, str(version.parent)]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll for something that another process does; fails after TIMEOUT_S."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S} s for {what}"
        time.sleep(0.01)
