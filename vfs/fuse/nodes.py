"""The numbers of nodes that are no live inodes: history and snapshots.

An inode number above the catalog's own says which kind of node it is, and of which directory, key or version, so that
nothing is remembered between requests.
"""

from __future__ import annotations

import stat
from enum import IntEnum
from typing import NamedTuple

_SHIFT = 60
MASK = (1 << _SHIFT) - 1
_ASKED_FOR = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


class Node(IntEnum):
    """The kinds of nodes, and of what their number is."""

    DIRECTORY = 1  # the names of a directory (inode) that have history
    KEY = 2  # the version ids of a key
    VERSION = 3  # one version (sequence)
    LOG = 4  # the versions of a key as lines of JSON
    SNAPSHOTS = 5  # the moments of a bucket (inode)
    SNAPSHOT = 6  # a directory at a moment (see vfs.fuse.snapshots)
    SNAPSHOT_FILE = 7  # one version (sequence), as snapshots show it


class Stat(NamedTuple):
    """What stat tells of a node. Times in ns."""

    ino: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    ctime: int
    rdev: int = 0
    holes: int = 0  # bytes of the size that no disk holds
    acl: bytes = b""  # beside the mode, which bounds what it allows

    @property
    def stored(self) -> int:
        """The bytes of the size that are not in holes."""
        return self.size - self.holes


def shown_bits(mode: int) -> int:
    """The permission bits that history shows of a mode: with the write bits, so that what is copied from it is as it
    was, but no set-id or sticky bits. The daemon refuses to open a file for writing. Devices and FIFOs the kernel opens
    without asking it: nobody may write to those.
    """
    return mode & (0o777 if stat.S_IFMT(mode) in _ASKED_FOR else 0o555)


def is_past(ino: int) -> bool:
    """Whether an inode number is that of such a node."""
    return ino > MASK


def number(node: Node, of: int) -> int:
    """The inode number of a node."""
    return node << _SHIFT | of


def split(ino: int) -> tuple[Node, int]:
    """The kind of a node, and the inode, key or sequence it is of."""
    return Node(ino >> _SHIFT), ino & MASK
