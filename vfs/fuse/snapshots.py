"""What ``.snapshots`` looks like: a bucket as it was at any moment, read-only.

The number of a directory's node holds its key (of the bucket's own: its inode; no number is both) and a slot for the
moment (µs do not fit beside it). A moment keeps its slot until MOMENTS_MAX others were used since. Whoever still has a
number with it is told that it is gone, and looks it up again; a million moments later another one has the slot.

What is shown has the owner and mode that it had then, so that a copy has them; the kernel asks for those, and the
daemon, at each look-up and opening, for those of now.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from vfs.errors import InvalidName, NoSuchKey
from vfs.fuse.callers import READ, SEARCH, Caller
from vfs.fuse.nodes import MASK, Node, Stat, number, shown_bits, split
from vfs.model import SEQ_MAX, STORE_ROOT, Ino, KeyId, Kind, Rights, Seq, Version
from vfs.names import format_gmt, is_shown, parse_moment
from vfs.store import Store

MOMENTS_MAX = 100_000  # that have a slot: those that were used last
NAMES_PER_TURN_MAX = 1000  # that were not there at a moment, looked at in one go: about 5 ms
_SLOT_SHIFT = 40
_SLOTS = 1 << 20
_NUMBER_MASK = (1 << _SLOT_SHIFT) - 1

_HOUR = 3_600_000_000
LATEST_MAX = 10  # changes of a bucket that are listed, whatever the hour
LOOKED_AT_MAX = 200  # versions of the store, to find them: about 1 ms
_SECOND = 1_000_000
_SHOWN = ((_HOUR, 24), (24 * _HOUR, 14), (7 * 24 * _HOUR, 8))  # of hours, days, weeks: the length in µs, how many


class MoreLater(Exception):
    """So many names were looked at in vain that others shall run before the list goes on behind *cookie*."""

    def __init__(self, cookie: int) -> None:
        super().__init__(cookie)
        self.cookie = cookie


class Directory(NamedTuple):
    """A directory at a moment. rights: those that it had then; None: of a bucket's own, which has those of now."""

    moment: Seq
    ino: Ino
    rights: Rights | None


class Snapshots:
    """The nodes under ``.snapshots``. Invariant: `_moments` and `_slots` are each other's inverse."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._moments: dict[int, Seq] = {}
        self._slots: OrderedDict[Seq, int] = OrderedDict()  # those that were used last at the end
        self._next_slot = 0

    def lookup(self, node: Node, of: int, name: bytes, caller: Caller) -> int:
        """The number of a name below a node. Raises NoSuchKey, AccessDenied."""
        if node is Node.SNAPSHOTS:
            try:
                moment = parse_moment(name.decode("ascii", "replace"))
            except InvalidName:
                raise NoSuchKey("not a moment") from None
            if moment < self._store.bucket(Ino(of)).created:
                raise NoSuchKey("that is before the bucket was made")
            if moment > self._now():
                raise NoSuchKey("that is in the future")
            return self._number(Seq(moment), Ino(of))
        moment, directory, _ = self._split(of)
        self._check_now(directory, SEARCH, caller)
        is_open = self._open_at(directory, name, moment)
        if is_open is not None:
            return is_open
        seq, version = self._store.history.lookup_at(directory, name, moment)
        if version.kind is Kind.DIRECTORY:
            self._check_way(directory, version.ino, caller)
        return self._node(moment, seq, version)

    def _open_at(self, directory: Ino, name: bytes, moment: Seq) -> int | None:
        """The number of a file that was open at a moment and still is, with what was safe of it then."""
        key = None if self._hidden(directory, name, moment) else self._store.core.catalog.key(directory, name)
        ino = None if key is None else self._store.history.open_at(key, moment)
        return None if ino is None else number(Node.SNAPSHOT_OPEN, ino)

    def _check_now(self, directory: Ino, wanted: int, caller: Caller) -> None:
        """A directory is no easier to get into, or to list, than it is now, or was last. Raises AccessDenied."""
        inode = self._store.core.catalog.find_inode(directory)
        if inode is not None:
            caller.check(inode, wanted)

    def _check_way(self, parent: Ino, directory: Ino, caller: Caller) -> None:
        """A directory that is elsewhere now, or was last, is no easier to get into than there. Raises AccessDenied."""
        catalog = self._store.core.catalog
        inode = catalog.find_inode(directory)
        if inode is None or not inode.key:
            return
        above = catalog.key_name(inode.key).parent
        while above not in (parent, STORE_ROOT):  # the kernel checked *parent*, and so did this what is above it
            inode = catalog.inode(above)
            caller.check(inode, SEARCH)
            above = self._store.tree.parent(inode)

    def _node(self, moment: Seq, seq: Seq, version: Version) -> int:
        if version.kind is not Kind.DIRECTORY:
            return number(Node.SNAPSHOT_FILE, seq)
        key = self._store.core.catalog.key_of_version(seq)
        assert key is not None, "it was just found"
        return self._number(moment, key)

    def _now(self) -> int:
        """The present, in µs. Ids rise also while the clock is behind them: up to the last version is no future."""
        return max(self._clock() // 1000, self._store.core.catalog.last_seq)

    def _number(self, moment: Seq, of: Ino | KeyId) -> int:
        if moment not in self._slots:
            if len(self._slots) >= MOMENTS_MAX:
                del self._moments[self._slots.popitem(last=False)[1]]
            while self._next_slot in self._moments:
                self._next_slot = (self._next_slot + 1) % _SLOTS
            self._moments[self._next_slot] = moment
            self._slots[moment] = self._next_slot
            self._next_slot = (self._next_slot + 1) % _SLOTS
        self._slots.move_to_end(moment)
        return number(Node.SNAPSHOT, self._slots[moment] << _SLOT_SHIFT | of)

    def _split(self, of: int) -> Directory:
        """What a directory's node is of. Raises NoSuchKey."""
        slot, of = of >> _SLOT_SHIFT, of & _NUMBER_MASK
        if slot not in self._moments:
            raise NoSuchKey("of another life of the daemon, or of long ago")
        moment = self._moments[slot]
        self._slots.move_to_end(moment)
        if self._store.is_bucket(Ino(of)):
            return Directory(moment, Ino(of), None)
        key = KeyId(of)
        found = self._store.history.version_at(key, moment)
        if found is None:
            raise NoSuchKey("the directory's history is gone")
        seq, version = found
        return Directory(moment, version.ino, self._store.history.last_rights(key, seq, version))

    def stat(self, ino: int) -> Stat:
        """What stat tells of a directory. Raises NoSuchKey."""
        node, of = split(ino)
        last = Directory(Seq(SEQ_MAX), Ino(of), None)
        moment, directory, rights = last if node is Node.SNAPSHOTS else self._split(of)
        inode = self._store.core.catalog.find_inode(directory)
        owned = rights or inode
        if owned is None:
            raise NoSuchKey("the bucket is gone")
        # Of what was made and removed without anything ever below, there are only records, which tell no time.
        time = moment * 1000 if inode is None else min(inode.mtime, moment * 1000)
        mode = stat.S_IFDIR | shown_bits(stat.S_IFDIR | stat.S_IMODE(owned.mode))
        return Stat(ino, mode, owned.uid, owned.gid, 0, time, time, acl=owned.acl)

    def check_listing(self, ino: int, caller: Caller) -> None:
        """Raise AccessDenied if a directory must not be listed by its mode of now: the kernel saw that of then."""
        node, of = split(ino)
        if node is Node.SNAPSHOT:
            self._check_now(self._split(of).ino, READ, caller)

    def list(self, ino: int, after: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, number, cookie) of what is below a node behind cookie *after*. Raises MoreLater."""
        node, of = split(ino)
        if node is Node.SNAPSHOTS:
            for cookie, moment in enumerate(self._shown(Ino(of)), 1):
                if cookie > after:
                    yield format_gmt(moment).encode(), self._number(moment, Ino(of)), cookie
            return
        moment, directory, _ = self._split(of)
        catalog = self._store.core.catalog
        start = b""
        if after:
            where = catalog.key_name(KeyId(after & MASK))
            if where.parent != directory:
                raise NoSuchKey("a cookie of another directory")  # anybody can seek anywhere: it must not tell a name
            start = where.name
        in_vain = 0
        for sort_name, key, found in self._store.history.list_at(directory, moment, start):
            name = sort_name.removesuffix(b"/")
            is_open = self._open_at(directory, name, moment) if name == sort_name and is_shown(name) else None
            if is_open is not None:
                yield name, is_open, key
                continue
            if found is None or (name == sort_name and self._hidden(directory, name, moment)):
                in_vain += 1
                if in_vain >= NAMES_PER_TURN_MAX:
                    raise MoreLater(key)
                continue
            yield name, self._node(moment, *found), key

    def _hidden(self, directory: Ino, name: bytes, moment: Seq) -> bool:
        """Whether a directory stood at a file's name, and hides it as it does in the live tree."""
        key = self._store.core.catalog.key(directory, name + b"/")
        return key is not None and self._store.history.version_at(key, moment) is not None

    def _shown(self, bucket: Ino) -> Sequence[Seq]:
        """The moments after the latest changes of a bucket, and whole hours, days and weeks (UTC) of late before which
        something changed; newest first.
        """
        now = self._clock() // 1000
        found = self._latest(bucket, now)
        for length, count in _SHOWN:
            last = now - now % length
            for moment in range(last, last - count * length, -length):
                if self._store.history.changed_between(Seq(moment - length), Seq(moment)):
                    found.add(moment)
        created = self._store.bucket(bucket).created
        return [Seq(moment) for moment in sorted(found, reverse=True) if moment >= created]

    def _latest(self, bucket: Ino, now: int) -> set[int]:
        """The ends of the last seconds (they have names) in which something changed in a bucket."""
        catalog = self._store.core.catalog
        found: set[int] = set()
        for seq, key in islice(catalog.versions_back(Seq(now)), LOOKED_AT_MAX):
            end = -(-seq // _SECOND) * _SECOND
            if end <= now and catalog.peek(catalog.key_name(key).parent).bucket == bucket:
                found.add(end)
                if len(found) >= LATEST_MAX:
                    break
        return found
