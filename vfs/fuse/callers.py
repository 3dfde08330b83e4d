"""Who is calling: what the kernel tells of a request, as the engine's Writer, and permission checks by POSIX's rules.

The kernel checks permissions on everything that it can see (`default_permissions`). What is left to check here is what
a purge or a restore does elsewhere than where the kernel looked.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Protocol

from pyfuse3 import RequestContext, get_sup_groups

from vfs.errors import AccessDenied
from vfs.model import Writer

READ, WRITE, SEARCH = 4, 2, 1
NAMES_OPEN_MAX = 64  # files of the names of callers


class Owned(Protocol):
    """Anything with an owner, a group and permission bits."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def mode(self) -> int: ...


class Callers:
    """Who the callers are. Keeps the files of their names open: a pread of one always tells the present name, also
    after an exec, and fails once the process is gone, so that nothing here can be out of date.
    """

    def __init__(self) -> None:
        self._names: OrderedDict[int, int] = OrderedDict()

    def writer(self, ctx: RequestContext) -> Writer:
        """The caller, with the name of its program (at most 15 bytes: the kernel's comm)."""
        return Writer(ctx.uid, ctx.pid, self._program(ctx.pid))

    def _program(self, pid: int) -> str:
        fd = self._names.get(pid)
        if fd is not None:
            try:
                return os.pread(fd, 32, 0)[:-1].decode("utf-8", "replace")
            except ProcessLookupError:
                os.close(self._names.pop(pid))
        try:
            fd = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
            self._names[pid] = fd
            if len(self._names) > NAMES_OPEN_MAX:
                os.close(self._names.popitem(last=False)[1])
            return os.pread(fd, 32, 0)[:-1].decode("utf-8", "replace")
        except OSError:
            return ""  # gone already, or in another pid namespace


def check(ctx: RequestContext, owned: Owned, wanted: int) -> None:
    """Raise AccessDenied unless the caller has the *wanted* bits. Root has them all (it may read and search all)."""
    if ctx.uid == 0:
        return
    if ctx.uid == owned.uid:
        shift = 6
    elif ctx.gid == owned.gid or owned.gid in _groups(ctx.pid):
        shift = 3
    else:
        shift = 0
    if (owned.mode >> shift) & wanted != wanted:
        raise AccessDenied("permission denied")


def _groups(pid: int) -> set[int]:
    try:
        return get_sup_groups(pid)
    except (OSError, RuntimeError):
        return set()
