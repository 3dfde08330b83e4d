"""Who uses a mount: processes that have something of it open, or that see a copy of it in another mount namespace.

Asks the kernel's tables alone, never the daemon, which may hang. Sees what the caller may see: as root, everybody.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

NAMED_MAX = 3
SHELLS = frozenset(("sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "csh", "tcsh", "ash", "busybox"))
WRAPPERS = frozenset(("sudo", "doas", "timeout", "env", "nice", "ionice", "nohup", "setsid", "time", "strace"))

_MOUNT_ID = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class User(NamedTuple):
    """A process that sees a file system. opens: it has files, a directory or a mapping of it open. namespace: the mount
    namespace in which it sees that.
    """

    pid: int
    program: str
    opens: bool
    namespace: str


class Asking(NamedTuple):
    """The processes that are there because somebody typed this command. is_shell: the last of them is a shell."""

    pids: frozenset[int]
    is_shell: bool


def caller() -> Asking:
    """This process, what it was run by (sudo, timeout…), and the shell above, if there is one."""
    pids, pid, is_shell = [os.getpid()], os.getppid(), False
    with contextlib.suppress(OSError):
        while pid > 1:
            before, _, after = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")
            program = before.partition("(")[2].lstrip("-")
            is_shell = program in SHELLS
            if not is_shell and program not in WRAPPERS:
                break
            pids.append(pid)
            if is_shell:
                break
            pid = int(after.split()[1])
    return Asking(frozenset(pids), is_shell)


def users_of(device: str) -> list[User]:
    """The processes that see the file system with a device's number, as mountinfo has it."""
    return list(_users(device))


def named(users: Sequence[User]) -> str:
    """Processes for people: ``process 4242 (vim)``."""
    told = ", ".join(f"process {user.pid} ({user.program})" for user in users[:NAMED_MAX])
    return told + (f" and {len(users) - NAMED_MAX} more" if len(users) > NAMED_MAX else "")


def own_namespace() -> str:
    """The mount namespace of this process."""
    return os.readlink("/proc/self/ns/mnt")


def _users(device: str) -> Iterator[User]:
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        process = Path("/proc", name)
        with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
            mounts = _mounts(process, device)
            if mounts:
                program = (process / "comm").read_text("utf-8", "replace").rstrip("\n")
                yield User(int(name), program, _opens(process, mounts, device), os.readlink(process / "ns/mnt"))


def _mounts(process: Path, device: str) -> set[str]:
    """The ids of the mounts of a file system that a process sees."""
    lines = (process / "mountinfo").read_bytes().split(b"\n")
    fields = (line.split(b" ", 3) for line in filter(None, lines))
    return {number.decode() for number, _, found, _ in fields if found == device.encode()}


def _opens(process: Path, mounts: set[str], device: str) -> bool:
    if any(_mount_of(process / link) in mounts for link in ("cwd", "root")):
        return True
    for fd in os.listdir(process / "fdinfo"):
        with contextlib.suppress(OSError):
            found = _MOUNT_ID.search((process / "fdinfo" / fd).read_text())
            if found and found[1] in mounts:
                return True
    major, _, minor = device.partition(":")
    mapped = f" {int(major):02x}:{int(minor):02x} "
    return mapped in (process / "maps").read_text("utf-8", "replace")


def _mount_of(link: Path) -> str | None:
    """The id of the mount that a link of /proc leads to."""
    try:
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = _MOUNT_ID.search(Path(f"/proc/self/fdinfo/{fd}").read_text())
        return found[1] if found else None
    finally:
        os.close(fd)
