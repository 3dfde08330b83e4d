"""Who is calling: what the kernel tells of a request, as the engine's Writer, and permission checks by POSIX's rules.

The kernel checks permissions on everything that it can see (`default_permissions`). What is left to check here is what
a purge or a restore does elsewhere than where the kernel looked.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Protocol, Self

from pyfuse3 import RequestContext, get_sup_groups

from vfs import acl
from vfs.errors import AccessDenied
from vfs.model import Writer

READ, WRITE, SEARCH = 4, 2, 1
NAMES_OPEN_MAX = 64  # files of the names of callers


class Owned(Protocol):
    """Anything with an owner, a group, permission bits, and an ACL if that is not empty."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def mode(self) -> int: ...

    @property
    def acl(self) -> bytes: ...


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


class Caller:
    """Who sent a request. Its groups are read when they first matter, while it waits for the reply: for what is
    answered later, `hold` reads them at once. Those of a process that has been killed meanwhile, or that is in another
    pid namespace, cannot be read: it may do what it may whatever they are.
    """

    __slots__ = ("_gid", "_groups", "_pid", "_unknown", "uid")

    def __init__(self, ctx: RequestContext) -> None:
        self.uid = ctx.uid
        self._gid = ctx.gid
        self._pid = ctx.pid
        self._groups: set[int] | None = None
        self._unknown = False

    def hold(self) -> Self:
        """Of a caller that may be gone when it is asked about."""
        if self.uid != 0:
            self._all_groups()
        return self

    def _all_groups(self) -> set[int] | None:
        """Those of the caller besides its first one; None if nobody can know."""
        if self._groups is None and not self._unknown:
            self._groups = _groups(self._pid)
            self._unknown = self._groups is None
        return self._groups

    def is_in(self, gid: int) -> bool:
        """Whether the caller belongs to a group, as far as anybody can know."""
        return gid == self._gid or gid in (self._all_groups() or ())

    def may(self, owned: Owned, wanted: int) -> bool:
        """Whether the caller has the *wanted* bits. Root has them all (it may read and search all)."""
        if self.uid == 0:
            return True
        if self.uid == owned.uid:
            return owned.mode >> 6 & wanted == wanted
        if not owned.acl and self._gid == owned.gid:
            return owned.mode >> 3 & wanted == wanted
        groups = self._all_groups()
        if groups is not None:
            return _allows(owned, wanted, self.uid, {self._gid, *groups})
        named = {owned.gid, *acl.groups(owned.acl)}
        return all(_allows(owned, wanted, self.uid, {self._gid, gid}) for gid in (self._gid, *named))

    def enters(self, directory: Owned) -> bool:
        """Whether the caller may look up names in a directory."""
        return self.may(directory, SEARCH)

    def lists(self, directory: Owned) -> bool:
        """Whether the caller may list a directory, and look up what it finds."""
        return self.may(directory, READ | SEARCH)

    def check(self, owned: Owned, wanted: int) -> None:
        """Raise AccessDenied unless the caller has the *wanted* bits."""
        if not self.may(owned, wanted):
            raise AccessDenied("permission denied")

    def owns(self, owned: Owned) -> bool:
        """Whether the caller may do what only the owner may."""
        return self.uid in (0, owned.uid)


def _allows(owned: Owned, wanted: int, uid: int, groups: set[int]) -> bool:
    """Whether somebody who is neither root nor the owner has the *wanted* bits."""
    if owned.acl:
        entries = acl.with_mode(acl.decode(owned.acl), owned.mode)
        return acl.allows(entries, wanted, uid, groups, owned.uid, owned.gid)
    return owned.mode >> (3 if owned.gid in groups else 0) & wanted == wanted


def _groups(pid: int) -> set[int] | None:
    try:
        return get_sup_groups(pid)
    except (OSError, RuntimeError):
        return None
