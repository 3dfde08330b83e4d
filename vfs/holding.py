"""The lock file of a store: one process holds a store, and writes down who it is and where it has mounted it.

What the file says is for people, and for nothing else unless the store is known to be one's own: whoever can write to
it may say anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from typing import NamedTuple

from vfs.errors import NotAStore, StoreInUse
from vfs.folder import Folder

LOCK = "lock"
HOLDER_BYTES_MAX = 8192  # of the lock file: a pid, and a path of at most PATH_MAX
_PID = re.compile(r"[0-9]{1,10}")


def lock_store(root: Folder, *, tell: bool = True) -> int:
    """Hold the store. Raises StoreInUse with the holder's pid, and where it has mounted the store; NotAStore.

    tell: write down who holds it, which cannot be done on a read-only file system.
    """
    try:
        fd = root.open_or_make(LOCK, os.O_RDWR) if tell else root.open(LOCK)
    except OSError as error:
        raise NotAStore(f"{root.path} cannot be locked: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = read_holder(fd)
        os.close(fd)
        raise StoreInUse(str(root.path), holder.pid, holder.mountpoint) from None
    if tell:
        tell_holder(fd)
    return fd


def tell_holder(fd: int, mountpoint: str = "") -> None:
    """Write down who holds a store, and where it is mounted; on a full disk there may be no room for that."""
    holder = f"{os.getpid()}\n".encode() + (os.fsencode(mountpoint) + b"\n" if mountpoint else b"")
    with contextlib.suppress(OSError):
        os.pwrite(fd, holder, 0)  # over what was there: the room that it has stays
        os.ftruncate(fd, len(holder))


class Holder(NamedTuple):
    """Who holds a store, as its lock file says; whoever may write there may say anything. pid: 0 if it does not say."""

    pid: int
    mountpoint: str


def read_holder(fd: int) -> Holder:
    """What a lock file says."""
    pid, _, mountpoint = os.fsdecode(os.pread(fd, HOLDER_BYTES_MAX, 0)).removesuffix("\n").partition("\n")
    return Holder(int(pid) if _PID.fullmatch(pid) else 0, mountpoint)
