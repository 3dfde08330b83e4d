"""What ``.versions`` looks like: directories of names, directories of version ids, the versions as files."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from vfs import acl
from vfs.content import etag, stored_bytes
from vfs.errors import AccessDenied, InvalidName, NoSuchKey, NoSuchVersion, ReadOnly
from vfs.fuse.callers import READ, Caller
from vfs.fuse.nodes import MASK, Node, Stat, number, shown_bits, split
from vfs.fuse.snapshots import Snapshots
from vfs.history import ALL, Past, Reach
from vfs.model import NOBODY_UID, Ino, KeyId, Kind, Rights, Seq, Version, Writer
from vfs.names import format_version_id, show
from vfs.store import Store

json = msgspec.json.encode

LOG = b".log"
DELETED = b"(deleted)"


class LogPosition(NamedTuple):
    """How far a log was read: which chain of the name, and the versions older than which are next."""

    chain: int
    before: int


_SNAPSHOT_NODES = (Node.SNAPSHOTS, Node.SNAPSHOT)
VERSION_NODES = (Node.VERSION, Node.SNAPSHOT_FILE)
LOG_START = LogPosition(0, ALL)
LOG_LINES_MAX = 256  # made in one go


class PastTree:
    """The nodes under ``.versions`` and ``.snapshots``, read from the history of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._history = store.history
        self._snapshots = Snapshots(store, store.core.clock)

    def lookup(self, parent: int, name: bytes, caller: Caller) -> Stat:
        """The node of a name below a node, which the caller may search. Raises NoSuchKey, AccessDenied."""
        node, of = split(parent)
        if node is Node.DIRECTORY:
            return self._stat_past(self._history.past(Ino(of), name, caller.enters))
        if node in _SNAPSHOT_NODES:
            return self.stat(self._snapshots.lookup(node, of, name, caller))
        if node is not Node.KEY:
            raise NoSuchKey("not a directory")
        key = KeyId(of)
        if name == LOG:
            return self.stat(number(Node.LOG, of))
        try:
            seq, _ = self._history.version(key, name.decode("ascii", "replace"), caller.enters)
        except (InvalidName, NoSuchVersion):
            below = self._also_directory(key, caller.enters)
            if below is None:
                raise NoSuchKey("no such version") from None
            return self.lookup(number(Node.DIRECTORY, below), name, caller)
        return self.stat(number(Node.VERSION, seq))

    def _stat_past(self, past: Past) -> Stat:
        if past.keys:
            return self.stat(number(Node.KEY, past.keys[0]))
        return self.stat(number(Node.DIRECTORY, past.directories[0]))

    def _also_directory(self, key: KeyId, reach: Reach) -> Ino | None:
        """The directory that stands or stood at the same name as a file's key, if *reach* says yes to it: the kernel
        checked what the file's mode allows only.
        """
        catalog = self._store.core.catalog
        where = catalog.key_name(key)
        found = next(iter(self._history.past(where.parent, where.name, reach).directories), None)
        return found if found is not None and reach(catalog.inode(found)) else None

    def stat(self, ino: int) -> Stat:
        """What stat tells of a node: never easier to read than what it is the history of. Raises NoSuchKey."""
        node, of = split(ino)
        if node is Node.DIRECTORY:
            inode = self._store.core.catalog.inode(Ino(of))
            mode = stat.S_IFDIR | shown_bits(inode.mode)
            return Stat(ino, mode, inode.uid, inode.gid, 0, inode.mtime, inode.ctime, acl=inode.acl)
        if node is Node.VERSION:
            key, version = self._history.find(Seq(of))
            return _stat_version(ino, Seq(of), version, self._history.version_rights(key, Seq(of), version))
        if node is Node.SNAPSHOT_FILE:
            key, version = self._history.find(Seq(of))
            return _stat_version(ino, Seq(of), version, self._history.last_rights(key, Seq(of), version))
        if node is Node.SNAPSHOT_OPEN:
            return self._stat_open(ino, Ino(of))
        if node in _SNAPSHOT_NODES:
            return self._snapshots.stat(ino)
        key = KeyId(of)
        rights = self._history.rights(key)
        time = (self._history.current(key) or 0) * 1000
        if node is Node.LOG:
            mode, access = stat.S_IFREG | (rights.mode & 0o444), rights.acl
        else:
            mode, access = stat.S_IFDIR | _directory_mode(rights.mode), acl.for_listing(rights.acl)
        return Stat(ino, mode, rights.uid, rights.gid, 0, time, time, acl=access)

    def _stat_open(self, ino: int, of: Ino) -> Stat:
        inode, safe = self._store.core.catalog.inode(of), self._store.files.safe(of)
        if safe is None:
            raise NoSuchKey("it is published by now")
        mode = stat.S_IFREG | shown_bits(inode.mode)
        holes = safe.content.size - stored_bytes(safe.content) if safe.content.holes else 0
        return Stat(ino, mode, inode.uid, inode.gid, safe.content.size, safe.mtime, safe.at * 1000, 0, holes, inode.acl)

    def check_open(self, of: Ino, caller: Caller) -> None:
        """Whether the caller may read a file that stays open. Raises AccessDenied."""
        caller.check(self._store.core.catalog.inode(of), READ)

    def check_still_open(self, ino: int, caller: Caller) -> None:
        """Whether the caller may still read a directory or log: the kernel asked when it was opened, and a chmod holds
        at once. Raises AccessDenied.
        """
        caller.check(self.stat(ino), READ)

    def list(self, ino: int, after: int, caller: Caller) -> Iterator[tuple[bytes, Stat, int]]:
        """(name, stat, cookie) of the names below a node behind cookie *after* (0: at the start). Raises MoreLater,
        AccessDenied.
        """
        node, of = split(ino)
        self.check_still_open(ino, caller)
        if node is Node.DIRECTORY:
            yield from self._list_directory(Ino(of), after, caller)
        elif node in _SNAPSHOT_NODES:
            self._snapshots.check_listing(ino, caller)
            for name, child, cookie in self._snapshots.list(ino, after):
                yield name, self.stat(child), cookie
        elif node is Node.KEY:
            key = KeyId(of)
            if after < number(Node.DIRECTORY, 0):
                before = Seq(after) if after else None
                for seq, version in self._history.versions(key, before, caller.lists):
                    name = format_version_id(seq, null=version.null).encode()
                    yield name, self.stat(number(Node.VERSION, seq)), seq
            below = self._also_directory(key, caller.lists)
            if below is not None:
                yield from self._list_directory(below, after & MASK if after > MASK else 0, caller)

    def _list_directory(self, directory: Ino, after: int, caller: Caller) -> Iterator[tuple[bytes, Stat, int]]:
        catalog = self._store.core.catalog
        places = self._history.places(directory, caller.lists)
        start = b""
        if after:
            where = catalog.key_name(KeyId(after & MASK))
            if where.parent not in places:
                raise NoSuchKey("a cookie of another directory")  # anybody can seek anywhere: it must not tell a name
            start = where.name
        for sort_name, name, past in self._history.names(directory, start, caller.lists):
            row = next(key for place in places if (key := catalog.key(place, sort_name)) is not None)
            yield name, self._stat_past(past), number(Node.DIRECTORY, row)

    def read_log(self, key: KeyId, start: LogPosition, caller: Caller) -> tuple[bytes, LogPosition | None]:
        """The versions of a key, newest first, as lines of JSON in S3's words: some of them, and where to go on.

        Those of its name in directories that stood there before come after its own. Of a version that the caller may
        not read there is no ETag: it would confirm a guess of the content.
        """
        catalog = self._store.core.catalog
        where = catalog.key_name(key)
        above = self._store.tree.path(where.parent)[1]
        path = show(above + b"/" + where.name if above else where.name)
        current = self._history.current(key)
        chain = self._history.chain(key, caller.lists)
        for position in range(start.chain, len(chain)):
            before = start.before if position == start.chain else ALL
            found = list(islice(catalog.versions(chain[position], before), LOG_LINES_MAX))
            if found:
                lines = [
                    json(
                        describe(
                            path,
                            seq,
                            version,
                            newest=seq == current,
                            readable=self._may_read(chain[position], seq, version, caller),
                        )
                    )
                    for seq, version in found
                ]
                return b"\n".join(lines) + b"\n", LogPosition(position, found[-1][0])
        return b"", None

    def _may_read(self, key: KeyId, seq: Seq, version: Version, caller: Caller) -> bool:
        return caller.uid == 0 or (
            caller.may(self._history.rights(key), READ)
            and caller.may(self._history.version_rights(key, seq, version), READ)
        )

    def check_readable(self, ino: int, caller: Caller) -> None:
        """Whether the caller may read a version: the kernel saw the mode of its node only, not its key's, on the way
        through a snapshot. Raises AccessDenied.
        """
        key, seq, version = self.version(ino)
        if not self._may_read(key, seq, version, caller):
            raise AccessDenied("permission denied")

    def version(self, ino: int) -> tuple[KeyId, Seq, Version]:
        """The version of a node. Raises NoSuchVersion, ReadOnly for other nodes."""
        node, of = split(ino)
        if node not in VERSION_NODES:
            raise ReadOnly("history is read-only")
        key, version = self._history.find(Seq(of))
        return key, Seq(of), version


def describe(path: str, seq: Seq, version: Version, *, newest: bool, readable: bool) -> dict[str, object]:
    """A version in the words of S3's ListObjectVersions, and its writer. *readable*: with what tells of its content."""
    found: dict[str, object] = {
        "Key": path,
        "VersionId": format_version_id(seq, null=version.null),
        "IsLatest": newest,
        "LastModified": timestamp(seq),
        "DeleteMarker": version.kind is Kind.MARKER,
        "Writer": writer_fields(version.writer),
    }
    if version.kind is not Kind.MARKER:
        found["Size"] = version.content.size
        if readable:
            found["ETag"] = f'"{etag(version.content)}"'
    return found


def writer_fields(writer: Writer) -> dict[str, object]:
    """A writer as JSON fields; of what is no user of the mount, null as the number of the user."""
    return {"Uid": None if writer.uid == NOBODY_UID else writer.uid, "Pid": writer.pid, "Program": writer.program}


def timestamp(seq: Seq) -> str:
    """A sequence as ISO 8601 with microseconds: ``2026-11-20T15:16:17.000001Z``."""
    compact = format_version_id(seq)
    date, time = compact[:8], compact[9:]
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}"


def target(version: Version) -> bytes:
    """Where the symlink of a version points: a delete marker is a dangling one."""
    return DELETED if version.kind is Kind.MARKER else version.target


def _stat_version(ino: int, seq: Seq, version: Version, rights: Rights) -> Stat:
    mtime = version.mtime
    if version.kind is Kind.MARKER:
        mode, size = stat.S_IFLNK | 0o777, len(DELETED)
        mtime = seq * 1000  # the moment of the deletion; older stores have the file's own time in the marker
    else:
        kind = stat.S_IFMT(version.mode)
        mode = kind | shown_bits(kind | stat.S_IMODE(rights.mode))
        size = version.content.size or len(version.target)
    holes = version.content.size - stored_bytes(version.content) if version.content.holes else 0
    return Stat(ino, mode, rights.uid, rights.gid, size, mtime, seq * 1000, version.rdev, holes, rights.acl)


def _directory_mode(mode: int) -> int:
    """Who may read the key may list and search its versions; its owner may also try to purge (checked again then)."""
    bits = 0
    for shift in (6, 3, 0):
        if mode >> shift & 4:
            bits |= 5 << shift
    return bits | (0o200 if bits & 0o500 else 0)
