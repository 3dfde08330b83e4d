"""Who is calling: what the kernel tells of a request, as the engine's Writer, and permission checks by POSIX's rules.

The kernel checks permissions on everything that it can see (`default_permissions`). What is left to check here is what
a purge or a restore does elsewhere than where the kernel looked.
"""

from __future__ import annotations

import os
from typing import Protocol

from pyfuse3 import RequestContext, get_sup_groups

from vfs.errors import AccessDenied
from vfs.model import Writer

READ, WRITE, SEARCH = 4, 2, 1


class Owned(Protocol):
    """Anything with an owner, a group and permission bits."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def mode(self) -> int: ...


def writer(ctx: RequestContext) -> Writer:
    """The caller, with the name of its program (at most 15 bytes: the kernel's comm)."""
    program = ""
    try:
        fd = os.open(f"/proc/{ctx.pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            program = os.read(fd, 32).rstrip(b"\n").decode("utf-8", "replace")
        finally:
            os.close(fd)
    except OSError:
        pass  # gone already, or in another pid namespace
    return Writer(ctx.uid, ctx.pid, program)


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
