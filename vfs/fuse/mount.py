"""mount(2) itself, for mounts with a flag that libfuse cannot pass: so only root can make them.

- MS_POSIXACL, for ACLs: where a directory has a default ACL no umask applies (acl(5)), so the kernel must hand over
  modes as programs gave them.
- MS_NOSYMFOLLOW: it follows no symbolic link of the mount.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import stat
from collections.abc import Collection

_MS_POSIXACL = 1 << 16
_MNT_DETACH = 2
_FLAGS = {  # MS_*, mount(2)
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "nosymfollow": 256,
    "noatime": 1024,
    "acl": _MS_POSIXACL,
}
_DEFAULTS = (("suid", "nosuid"), ("dev", "nodev"))


def attach(mountpoint: str, source: str, options: Collection[str]) -> int:
    """Mount. Returns the descriptor of the connection, for `/dev/fd/N` as libfuse's mount point. Raises OSError."""
    flags = 0
    for name in options:
        flags |= _FLAGS.get(name, 0)
    for unless, name in _DEFAULTS:
        flags |= 0 if unless in options else _FLAGS[name]
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.stat(mountpoint).st_mode)
    data = f"fd={fd},rootmode={kind:o},user_id={os.getuid()},group_id={os.getgid()},default_permissions"
    if "allow_other" in options or "allow_root" in options:  # libfuse refuses the others with allow_root
        data += ",allow_other"
    data += "".join(f",{option}" for option in options if "context=" in option)
    try:
        _call(
            "mount", os.fsencode(source), os.fsencode(mountpoint), b"fuse.vfs", ctypes.c_ulong(flags), os.fsencode(data)
        )
    except OSError:
        os.close(fd)
        raise
    return fd


def detach(mountpoint: str, fd: int) -> None:
    """Unmount, unless that has been done: then the connection is at an end, and something else may be there."""
    poller = select.poll()
    poller.register(fd, 0)
    if not any(event & select.POLLERR for _, event in poller.poll(0)):
        with contextlib.suppress(OSError):  # it has been done here, but another mount namespace has a copy
            _call("umount2", os.fsencode(mountpoint), _MNT_DETACH)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno() or errno.EIO
        raise OSError(code, os.strerror(code))
