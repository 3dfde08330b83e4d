"""What ``.versions`` looks like: directories of names, directories of version ids, the versions as files.

Nothing here is remembered between requests: an inode number above the catalog's own says which of the four kinds of
node it is, and of which directory, key or version (docs/semantics.md).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec

from vfs.content import etag
from vfs.errors import InvalidName, NoSuchKey, NoSuchVersion, ReadOnly
from vfs.history import Past, Rights
from vfs.model import Ino, KeyId, Kind, Seq, Version, Writer
from vfs.names import format_version_id
from vfs.store import Store

_SHIFT = 60
_MASK = (1 << _SHIFT) - 1
LOG = b".log"
DELETED = b"(deleted)"


class Node(IntEnum):
    """The kinds of nodes under ``.versions``, and of what their number is."""

    DIRECTORY = 1  # the names of a directory (inode) that have history
    KEY = 2  # the version ids of a key
    VERSION = 3  # one version (sequence)
    LOG = 4  # the versions of a key as lines of JSON


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


def is_past(ino: int) -> bool:
    """Whether an inode number is that of a node under ``.versions``."""
    return ino > _MASK


def number(node: Node, of: int) -> int:
    """The inode number of a node."""
    return node << _SHIFT | of


def split(ino: int) -> tuple[Node, int]:
    """The kind of a node, and the inode, key or sequence it is of."""
    return Node(ino >> _SHIFT), ino & _MASK


class PastTree:
    """The nodes under ``.versions``, read from the history of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._history = store.history

    def lookup(self, parent: int, name: bytes) -> Stat:
        """The node of a name below a node. Raises NoSuchKey."""
        node, of = split(parent)
        if node is Node.DIRECTORY:
            return self._stat_past(self._history.past(Ino(of), name))
        if node is not Node.KEY:
            raise NoSuchKey("not a directory")
        key = KeyId(of)
        if name == LOG:
            return self.stat(number(Node.LOG, of))
        try:
            seq, _ = self._history.version(key, name.decode("ascii", "replace"))
        except (InvalidName, NoSuchVersion):
            below = self._also_directory(key)
            if below is None:
                raise NoSuchKey("no such version") from None
            return self.lookup(number(Node.DIRECTORY, below), name)
        return self.stat(number(Node.VERSION, seq))

    def _stat_past(self, past: Past) -> Stat:
        if past.keys:
            return self.stat(number(Node.KEY, past.keys[0]))
        return self.stat(number(Node.DIRECTORY, past.directories[0]))

    def _also_directory(self, key: KeyId) -> Ino | None:
        """The directory that stands or stood at the same name as a file's key."""
        where = self._store.core.catalog.key_name(key)
        return next(iter(self._history.past(where.parent, where.name).directories), None)

    def stat(self, ino: int) -> Stat:
        """What stat tells of a node: never easier to read than what it is the history of. Raises NoSuchKey."""
        node, of = split(ino)
        if node is Node.DIRECTORY:
            inode = self._store.core.catalog.inode(Ino(of))
            mode = stat.S_IFDIR | (inode.mode & 0o555)
            return Stat(ino, mode, inode.uid, inode.gid, 0, inode.mtime, inode.ctime)
        if node is Node.VERSION:
            key, version = self._history.find(Seq(of))
            return _stat_version(ino, Seq(of), version, self._history.rights(key))
        key = KeyId(of)
        rights = self._history.rights(key)
        time = (self._history.current(key) or 0) * 1000
        mode = stat.S_IFREG | (rights.mode & 0o444) if node is Node.LOG else stat.S_IFDIR | _directory_mode(rights.mode)
        return Stat(ino, mode, rights.uid, rights.gid, 0, time, time)

    def list(self, ino: int, after: int) -> Iterator[tuple[bytes, Stat, int]]:
        """(name, stat, cookie) of the names below a node behind cookie *after* (0: from the start)."""
        node, of = split(ino)
        if node is Node.DIRECTORY:
            yield from self._list_directory(Ino(of), after)
        elif node is Node.KEY:
            key = KeyId(of)
            if after < number(Node.DIRECTORY, 0):
                before = Seq(after) if after else None
                for seq, version in self._history.versions(key, before):
                    name = format_version_id(seq, null=version.null).encode()
                    yield name, self.stat(number(Node.VERSION, seq)), seq
            below = self._also_directory(key)
            if below is not None:
                yield from self._list_directory(below, after & _MASK if after > _MASK else 0)

    def _list_directory(self, directory: Ino, after: int) -> Iterator[tuple[bytes, Stat, int]]:
        catalog = self._store.core.catalog
        start = catalog.key_name(KeyId(after & _MASK)).name if after else b""
        places = self._history.places(directory)
        for sort_name, name, past in self._history.names(directory, start):
            row = next(key for place in places if (key := catalog.key(place, sort_name)) is not None)
            yield name, self._stat_past(past), number(Node.DIRECTORY, row)

    def read_log(self, key: KeyId) -> Iterator[bytes]:
        """The versions of a key, newest first, each as a line of JSON in S3's words.

        Those of its name in directories that stood there before come after its own.
        """
        where = self._store.core.catalog.key_name(key)
        inode = self._store.core.catalog.inode(where.parent)
        above = self._store.tree.path(where.parent)[1] if inode.key else b""
        path = (above + b"/" + where.name if above else where.name).decode("utf-8", "surrogateescape")
        current = self._history.current(key)
        for other in self._history.chain(key):
            for seq, version in self._store.core.catalog.versions(other):
                yield msgspec.json.encode(describe(path, seq, version, seq == current)) + b"\n"

    def version(self, ino: int) -> tuple[KeyId, Seq, Version]:
        """The version of a node. Raises NoSuchVersion, ReadOnly for other nodes."""
        node, of = split(ino)
        if node is not Node.VERSION:
            raise ReadOnly("history is read-only; only versions can be removed")
        key, version = self._history.find(Seq(of))
        return key, Seq(of), version


def describe(path: str, seq: Seq, version: Version, newest: bool) -> dict[str, object]:
    """A version in the words of S3's ListObjectVersions, and its writer."""
    found: dict[str, object] = {
        "Key": path.encode("utf-8", "replace").decode(),
        "VersionId": format_version_id(seq, null=version.null),
        "IsLatest": newest,
        "LastModified": timestamp(seq),
        "DeleteMarker": version.kind is Kind.MARKER,
        "Writer": writer_fields(version.writer),
    }
    if version.kind is not Kind.MARKER:
        found |= {"Size": version.content.size, "ETag": f'"{etag(version.content)}"'}
    return found


def writer_fields(writer: Writer) -> dict[str, object]:
    """A writer as JSON fields."""
    return {"Uid": writer.uid, "Pid": writer.pid, "Program": writer.program}


def timestamp(seq: Seq) -> str:
    """A sequence as ISO 8601 with microseconds: ``2026-11-20T15:16:17.000001Z``."""
    compact = format_version_id(seq)
    date, time = compact[:8], compact[9:]
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}"


def target(version: Version) -> bytes:
    """Where the symlink of a version points: a delete marker is a dangling one."""
    return DELETED if version.kind is Kind.MARKER else version.target


def _stat_version(ino: int, seq: Seq, version: Version, rights: Rights) -> Stat:
    if version.kind is Kind.MARKER:
        mode, size = stat.S_IFLNK | 0o777, len(DELETED)
    else:
        mode = stat.S_IFMT(version.mode) | (rights.mode & 0o555)
        size = version.content.size or len(version.target)
    return Stat(ino, mode, rights.uid, rights.gid, size, version.mtime, seq * 1000, version.rdev)


def _directory_mode(mode: int) -> int:
    """Who may read the key may list and search its versions; its owner may also try to purge (checked again then)."""
    bits = 0
    for shift in (6, 3, 0):
        if mode >> shift & 4:
            bits |= 5 << shift
    return bits | (0o200 if bits & 0o500 else 0)
