"""The first exchange with the kernel (INIT), in which a daemon says what it can do: libfuse cannot say all of it.

What to ask the kernel for, and why:

- `HANDLE_KILLPRIV_V2`: that set-id bits go with a write is seen to here (`Operations.setattr`). Then the kernel
  remembers that a file has no capabilities, where it would ask before each write (GETXATTR security.capability).
- `CACHE_SYMLINKS`: an inode's target never changes.
- no `AUTO_INVAL_DATA`: with it the kernel drops all cached pages of a file when it learns of a new mtime, so also after
  each write of its own. Nobody else changes content but by a purge or a restore, and those tell it.

How: while pyfuse3 serves this one request its descriptor is a socket, which got the kernel's question. The answer that
libfuse writes there is altered and handed on to the kernel, and the descriptor is ``/dev/fuse`` again before anything
else happens. Nothing stands in between after that.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import struct

import pyfuse3
import trio

from vfs.fuse.polling import PollingLowlevel, PollingTrio

AUTO_INVAL_DATA = 1 << 12
CACHE_SYMLINKS = 1 << 23
HANDLE_KILLPRIV_V2 = 1 << 28
WANTED = CACHE_SYMLINKS | HANDLE_KILLPRIV_V2
UNWANTED = AUTO_INVAL_DATA

REQUEST_BYTES_MAX = 2 << 20
"""The kernel lets nobody read who has no room for its largest request."""

log = logging.getLogger("vfs.daemon")

# linux/fuse.h: a header, then major, minor, max_readahead, flags
_FLAGS = struct.Struct("=I")
_REQUEST_FLAGS_AT = 40 + 12
_REPLY_FLAGS_AT = 16 + 12

_DEVICE = os.makedev(10, 229)  # /dev/fuse, wherever it was opened


def altered(request: bytes, reply: bytes) -> bytes:
    """The reply to INIT with other flags, as far as the kernel offers them; an error as it is."""
    if len(reply) < _REPLY_FLAGS_AT + _FLAGS.size:
        return reply
    offered = _FLAGS.unpack_from(request, _REQUEST_FLAGS_AT)[0]
    flags = _FLAGS.unpack_from(reply, _REPLY_FLAGS_AT)[0]
    changed = bytearray(reply)
    _FLAGS.pack_into(changed, _REPLY_FLAGS_AT, flags & ~UNWANTED | offered & WANTED)
    return bytes(changed)


def shake_hands() -> None:
    """Answer INIT; between ``pyfuse3.init`` and ``pyfuse3.main``. If the mount is gone by then, ``main`` will find out.

    Raises OSError if the kernel does not take the answer.
    """
    found = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_fuse(fd)]
    if len(found) != 1:  # a process has one session; somebody else's connection was handed down to this one
        log.warning("this process has %d FUSE descriptors, so some requests will not be saved", len(found))
        return
    try:
        _exchange(found[0])
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENOENT, errno.ECONNABORTED):
            raise


def _exchange(fd: int) -> None:
    kernel = os.dup(fd)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        try:
            request = os.read(kernel, REQUEST_BYTES_MAX)
            ours.send(request)
            os.dup2(theirs.fileno(), fd, inheritable=False)
            _serve_one_request()
            os.write(kernel, altered(request, ours.recv(REQUEST_BYTES_MAX)))
        finally:
            os.dup2(kernel, fd, inheritable=False)
            os.close(kernel)


def _is_fuse(fd: int) -> bool:
    try:
        facts = os.fstat(fd)
    except OSError:  # of the listing itself, closed by now
        return False
    return stat.S_ISCHR(facts.st_mode) and facts.st_rdev == _DEVICE


class _OneRequest(PollingLowlevel):
    """Lets pyfuse3 read once; then its loop ends, as if the descriptor were about to be closed."""

    def __init__(self) -> None:
        super().__init__(poll_us=0)
        self._taken = False

    async def wait_readable(self, fd: int) -> None:
        if self._taken:
            raise trio.ClosedResourceError
        self._taken = True


def _serve_one_request() -> None:
    before = pyfuse3.trio  # type: ignore[attr-defined]
    stand_in = PollingTrio(0)  # pyfuse3 keeps the lock that it makes now
    stand_in.lowlevel = _OneRequest()
    pyfuse3.trio = stand_in  # type: ignore[attr-defined]
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.trio = before  # type: ignore[attr-defined]
