"""The filesystems that scripts/bench compares: how each is mounted, unmounted and asked for its version."""

import os
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND_S_MAX = 600
MOUNT_S_MAX = 30
UNMOUNT_S_MAX = 60
LOG_CHARACTERS_MAX = 4000
VFS_BUCKET = "bench"


class PeerMissing(Exception):
    """This filesystem cannot be measured here; the message says why."""


def run(
    *command: str | Path, timeout_s: float = COMMAND_S_MAX, settings: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Run a command to its end and return what it printed; `subprocess.CalledProcessError` if it fails."""
    done = subprocess.run(
        command,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        env={**os.environ, **settings},
    )
    return done.stdout


def first_line_of(*command: str) -> str:
    """The first line that a command prints; `PeerMissing` if there is no such command or it fails."""
    try:
        output = run(*command, timeout_s=MOUNT_S_MAX)
    except FileNotFoundError:
        raise PeerMissing(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        last = (error.stdout.strip().splitlines() or ["no output"])[-1]
        raise PeerMissing(f"{shlex.join(command)}: {last}") from None
    return (output.strip().splitlines() or [""])[0]


class Peer(ABC):
    """One filesystem under test. Between `mount` and `unmount`, `root` is a directory in it.

    `store` is where it keeps its content on the disk; None if it keeps none.
    """

    name: ClassVar[str]
    keeps_content: ClassVar[bool] = True
    does_work: ClassVar[bool] = True
    """Whether real work is measured on it."""

    def __init__(self, work: Path) -> None:
        self.mountpoint = work / self.name / "mnt"
        self.mountpoint.mkdir(parents=True)
        self.store: Path | None = work / self.name / "store"
        self.store.mkdir()

    @property
    def root(self) -> Path:
        return self.mountpoint

    @abstractmethod
    def version(self) -> str:
        """What is measured; `PeerMissing` if it is not there."""

    @abstractmethod
    def mount(self) -> None: ...

    @abstractmethod
    def unmount(self) -> None:
        """Unmount, and return when its process has ended; nothing to do if it is not mounted."""

    def remount(self) -> None:
        self.unmount()
        self.mount()

    def restore(self, path: Path) -> Path:
        """Get the file as it was before its last change, and return where: here, a copy of the whole file."""
        restored = path.with_name(path.name + ".restored")
        run("cp", path, restored)
        return restored


class Plain(Peer):
    """A plain directory, no FUSE."""

    name = "ext4"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.store = self.mountpoint

    def version(self) -> str:
        return f"plain directory on {first_line_of('findmnt', '-no', 'FSTYPE', '-T', str(self.mountpoint))}"

    def mount(self) -> None:
        pass

    def unmount(self) -> None:
        pass


class Daemon(Peer):
    """A filesystem whose process we start and keep in the foreground: `_process` is None or ours and running."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self._log = work / self.name / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What serves the mount until it is unmounted."""

    def mount(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we unmount before it ends
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        give_up = time.monotonic() + MOUNT_S_MAX
        while not self.mountpoint.is_mount():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.unmount()
                raise PeerMissing(f"{self.name} does not mount: {self._log.read_text().strip() or 'no output'}")
            time.sleep(0.01)

    def unmount(self) -> None:
        process, self._process = self._process, None
        if self.mountpoint.is_mount():
            unmount_fuse(self.mountpoint)
        if process is None:
            return
        try:
            process.wait(UNMOUNT_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class Empty(Daemon):
    """The empty pyfuse3 filesystem of empty.py."""

    name = "empty"
    keeps_content = False

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.store = None
        self._state = work / self.name / "state"

    def version(self) -> str:
        return "pyfuse3 " + first_line_of(sys.executable, "-c", "import pyfuse3; print(pyfuse3.__version__)")

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, Path(__file__).with_name("empty.py"), "--state", self._state, self.mountpoint]


class Passthrough(Daemon):
    """passthrough.py: a directory through stock pyfuse3. It is compared in reading and in single operations; real work
    takes it several times as long as all others together.
    """

    name = "passthrough"
    does_work = False

    def version(self) -> str:
        return "pyfuse3 " + first_line_of(sys.executable, "-c", "import pyfuse3; print(pyfuse3.__version__)")

    def command(self) -> Sequence[str | Path]:
        assert self.store is not None
        return [sys.executable, Path(__file__).with_name("passthrough.py"), self.store, self.mountpoint]


class Bindfs(Daemon):
    """bindfs with its defaults."""

    name = "bindfs"

    def version(self) -> str:
        return first_line_of("bindfs", "--version")

    def command(self) -> Sequence[str | Path]:
        assert self.store is not None
        return ["bindfs", "-f", self.store, self.mountpoint]


class Gocryptfs(Daemon):
    """gocryptfs with its defaults (but a cheap password hash, which only the mount pays for)."""

    name = "gocryptfs"

    def version(self) -> str:
        return first_line_of("gocryptfs", "-version")

    def command(self) -> Sequence[str | Path]:
        assert self.store is not None
        password_file = self.store.with_name("password")
        if not password_file.exists():
            password_file.write_text("bench\n")
            run("gocryptfs", "-init", "-q", "-scryptn", "10", "-passfile", password_file, self.store)
        return ["gocryptfs", "-fg", "-q", "-passfile", password_file, self.store, self.mountpoint]


class Rclone(Daemon):
    """A local directory by rclone, which caches what is written in full, or programs could not write as they do."""

    name = "rclone"

    def version(self) -> str:
        return first_line_of("rclone", "version")

    def command(self) -> Sequence[str | Path]:
        assert self.store is not None
        cache = self.store.with_name("cache")
        settings = ["--config", os.devnull, "--vfs-cache-mode", "full", "--cache-dir", str(cache)]
        return ["rclone", "mount", *settings, self.store, self.mountpoint]


class Vfs(Peer):
    """vfs as it is in this checkout, through its command line."""

    name = "vfs"
    checkout: ClassVar[Path] = REPOSITORY

    def _vfs(self, *arguments: str | Path, timeout_s: float = COMMAND_S_MAX) -> None:
        run(sys.executable, "-m", "vfs", *arguments, timeout_s=timeout_s, settings={"PYTHONPATH": str(self.checkout)})

    @property
    def root(self) -> Path:
        return self.mountpoint / VFS_BUCKET

    def version(self) -> str:
        with_vfs_importable()
        first_line_of(sys.executable, "-m", "vfs", "mount", "--help")
        return "checkout " + first_line_of("git", "-C", str(self.checkout), "describe", "--always", "--dirty")

    @property
    def daemon(self) -> int:
        """The pid of what serves the mount."""
        assert self.store is not None
        return int((self.store / "lock").read_text().split()[0])

    def remount_with(self, settings: str) -> None:
        """Mount afresh with these lines as config.toml; none: with the defaults."""
        assert self.store is not None
        self.unmount()
        config = self.store / "config.toml"
        if settings:
            config.write_text(settings)
        else:
            config.unlink(missing_ok=True)
        self.mount()

    def collecting(self) -> "subprocess.Popen[bytes]":
        """Something that asks for one thorough collection after the other until it is killed."""
        loop = 'while "$@" >/dev/null 2>&1; do :; done'
        command = ["sh", "-c", loop, "sh", sys.executable, "-m", "vfs", "gc", str(self.mountpoint)]
        return subprocess.Popen(command, start_new_session=True)

    def mount(self) -> None:
        assert self.store is not None
        try:
            self._vfs("mount", self.store, self.mountpoint, timeout_s=MOUNT_S_MAX)
        except subprocess.CalledProcessError as error:
            daemon_log = self.store / "daemon.log"  # which is removed at the end
            error.stdout += daemon_log.read_text()[-LOG_CHARACTERS_MAX:] if daemon_log.exists() else ""
            raise
        self.root.mkdir(exist_ok=True)

    def unmount(self) -> None:
        if not self.mountpoint.is_mount():
            return
        try:
            self._vfs("umount", self.mountpoint, timeout_s=UNMOUNT_S_MAX)
        finally:
            if self.mountpoint.is_mount():
                unmount_fuse(self.mountpoint)

    def restore(self, path: Path) -> Path:
        oldest = min(os.listdir(path.parent / ".versions" / path.name))
        self._vfs("restore", path, oldest)
        return path


class Other(Vfs):
    """vfs as it is in another checkout, with the same Python and packages: what a change costs, or gains."""

    name = "other"


PEERS: tuple[type[Peer], ...] = (Plain, Empty, Passthrough, Bindfs, Gocryptfs, Rclone, Vfs, Other)


def with_vfs_importable() -> None:
    """Let ``python -m vfs`` find this checkout, wherever the benchmark is started."""
    paths = [str(REPOSITORY), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def unmount_fuse(mountpoint: Path) -> None:
    """Unmount; if it stays busy (somebody looks at it), take it out of the tree at least."""
    for _ in range(50):
        if subprocess.run(["fusermount3", "-u", mountpoint], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return
        time.sleep(0.1)
    run("fusermount3", "-uz", mountpoint)
