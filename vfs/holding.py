"""The lock file of a store: one process holds a store, and writes down who it is, where it has mounted it, and with
which options.

What the file says is for people, and for nothing else unless the store is known to be one's own: whoever can write to
it may say anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from vfs.errors import NotAStore, StoreInUse
from vfs.folder import Folder

LOCK = "lock"
HOLDER_BYTES_MAX = 8192  # of the lock file: a pid, a path of at most PATH_MAX, and options
_PID = re.compile(r"[0-9]{1,10}")


def lock_store(root: Folder, *, tell: bool = True) -> int:
    """Hold the store. Raises StoreInUse with the holder's pid, and what it does with the store; NotAStore.

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
        raise holder.in_use(root.path) from None
    if tell:
        tell_holder(fd)
    return fd


def tell_holder(fd: int, mountpoint: str = "", options: Sequence[str] = ()) -> None:
    """Write down who holds a store, where it is mounted, and with which options; on a full disk there may be no room
    for that.
    """
    holder = f"{os.getpid()}\n".encode() + (os.fsencode(mountpoint) + b"\n" if mountpoint else b"")
    holder += b"".join(b"\0" + os.fsencode(option) for option in options)
    with contextlib.suppress(OSError):
        os.pwrite(fd, holder, 0)  # over what was there: the room that it has stays
        os.ftruncate(fd, len(holder))


class Holder(NamedTuple):
    """Who holds a store, as its lock file says; whoever may write there may say anything. pid: 0 if it does not say.
    mountpoint: empty if it has mounted it nowhere. options: of its command line.
    """

    pid: int
    mountpoint: str
    options: tuple[str, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether it serves the store over S3, and has not mounted it."""
        return not self.mountpoint and any(option.startswith("--s3") for option in self.options)

    def in_use(self, store: PurePath) -> StoreInUse:
        """The error of whoever wants its store, too."""
        return StoreInUse(str(store), self.pid, self.mountpoint, serves=self.serves)


def read_holder(fd: int) -> Holder:
    """What a lock file says."""
    told, *options = os.fsdecode(os.pread(fd, HOLDER_BYTES_MAX, 0)).split("\0")
    pid, _, mountpoint = told.removesuffix("\n").partition("\n")
    return Holder(int(pid) if _PID.fullmatch(pid) else 0, mountpoint, tuple(options))
