"""The core of the engine: the one way in which anything changes, and the building blocks of changes.

Owns the order "journal, then catalog", ids, time, and the chains of versions (by vfs.rules). tree, files and history
build lists of changes with it and hand them to `commit`. Everything here is synchronous and runs on one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from vfs import events, locks, rights, rules, sense
from vfs.blocks import Blocks
from vfs.catalog import Catalog, KeyName
from vfs.errors import DiskFailed, Exists, NoSuchVersion, TooLarge
from vfs.events import Change, Event
from vfs.journal import PAYLOAD_BYTES_MAX, Journal
from vfs.model import (
    NO_INFO,
    STORE_ROOT,
    Bucket,
    Ino,
    Inode,
    KeyId,
    Kind,
    ObjectInfo,
    Seq,
    State,
    Version,
    Writer,
)
from vfs.names import directory_key, format_version_id, show
from vfs.room import Room

log = logging.getLogger("vfs.core")

Attributes = tuple[tuple[bytes, bytes], ...]  # extended attributes: names and values
Clock = Callable[[], int]  # ns since 1970
CAPABILITY = b"security.capability"
NEW_KEYS_MAX = 1000  # remembered from when their files were made until those have a version


class Changed(NamedTuple):
    """A live name whose meaning changed behind the back of a door that caches it; the inodes before and after."""

    parent: Ino
    name: bytes
    before: Ino | None
    after: Ino | None


class Core:
    """Journal, catalog and blocks, changed together. Invariant: the catalog is the fold of the journal."""

    def __init__(self, journal: Journal, blocks: Blocks, catalog: Catalog, clock: Clock) -> None:
        self.journal = journal
        self.blocks = blocks
        self.catalog = catalog
        self.room = Room(journal, catalog)
        self.clock = clock
        self._last_seq = catalog.last_seq
        self._next_id = catalog.next_id
        # a key whose next version tells by itself whether it goes on, if it has this owner and this writer
        self._telling: tuple[KeyId, int, int] | None = None
        self._new_keys: set[KeyId] = set()  # made with their files, which have no version yet: nothing stood there
        self.failed = ""  # why the store takes no more changes
        self.on_failed: Callable[[str], None] | None = None  # told so, once

    def commit(self, operation: str, changes: list[Change]) -> None:
        """Make one atomic change. Survives the process when it returns. Raises NoSpace or DiskFailed; TooLarge or
        Unstorable for what could not be read again, or not be applied; unchanged.
        """
        if self.failed:
            raise DiskFailed(self.failed)
        event = Event(self.clock() // 1000, operation, changes)
        payload = events.record(event)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise TooLarge(f"a change of {len(payload)} bytes; the journal takes {PAYLOAD_BYTES_MAX}")
        sense.check(self.catalog, event)
        try:
            self.room.take(event, len(payload))
            self.journal.append(payload)
        except DiskFailed as error:
            self.fail(f"the journal cannot be written: {error}")
            raise
        try:
            self.catalog.apply(event, len(payload))
        except BaseException as error:  # a bug: the journal has what the catalog has not
            self.fail(f"a change was written that cannot be applied ({error!r}); run vfs check")
            raise

    def roll_journal(self) -> None:
        """Begin a new segment of the journal. Raises NoSpace or DiskFailed, unchanged."""
        try:
            self.journal.roll()
        except DiskFailed as error:  # perhaps of the sync of the last segment: nobody syncs that once more
            self.fail(f"the journal cannot be written: {error}")
            raise

    def fail(self, reason: str) -> None:
        """Nobody can know what is on the disk: no more changes until the store is opened again."""
        if self.failed:
            return
        self.failed = f"the store is read-only: {reason}"
        log.critical("%s", self.failed)
        if self.on_failed is not None:
            self.on_failed(self.failed)

    def next_seq(self) -> Seq:
        """The sequence for a new version (µs since 1970)."""
        self._last_seq = rules.next_seq(self.clock() // 1000, max(self._last_seq, self.catalog.last_seq))
        return self._last_seq

    def new_id(self) -> int:
        """A number for a new inode or key."""
        self._next_id = max(self._next_id, self.catalog.next_id)
        self._next_id += 1
        return self._next_id - 1

    # -- keys and chains --------------------------------------------------------------------------------------

    def state_for(self, bucket: Ino, name: bytes) -> State:
        """The versioning state that holds for a sort name of a bucket.

        Directories are no objects of S3: where there is versioning at all, their comings and goings are all kept.
        """
        found = self.catalog.bucket(bucket)
        if name.endswith(b"/"):
            return State.ENABLED if found.state is State.SUSPENDED else found.state
        if found.lock is not None:
            return found.state  # no name is exempt from object lock
        return rules.state_for(found.state, name, unversioned_patterns(found))

    def key_for(self, changes: list[Change], parent: Ino, name: bytes) -> KeyId:
        """The key of a sort name, made if it is new."""
        key = self.catalog.key(parent, name)
        if key is None:
            key = KeyId(self.new_id())
            changes.append(events.KeyMade(key, parent, name))
        return key

    def add_version(
        self,
        changes: list[Change],
        key: KeyId,
        name: bytes,
        ino: Ino,
        inode: Inode,
        writer: Writer,
        info: ObjectInfo | None = None,
    ) -> Seq:
        """The inode's content as the newest version of a key, as the bucket's state says. Returns its sequence.

        info: what an S3 door knows of it. A file in a bucket with a default retention gets that if it has none.
        """
        state = self.state_for(inode.bucket, name)
        null_version = None
        if state is not State.ENABLED and not self._is_new(changes, key):
            null_version = self.catalog.null_version(key)
        put = rules.put(state, null_version)
        if put.replaces is not None:
            self.remove_version(changes, key, put.replaces, inode.bucket)
        seq = self.next_seq()
        kind = Kind.DIRECTORY if inode.is_dir else Kind.CONTENT
        version = version_of(kind, put.null, ino, inode, writer)
        if put.replaces is not None or not (inode.seq and inode.key == key):
            version = self._judged(changes, key, version)
        changes.append(events.VersionAdded(key, seq, version, inode.bucket))
        lock = self.catalog.bucket(inode.bucket).lock
        if lock is not None and inode.is_file and (info is None or info.retention is None):
            retention = locks.default_retention(lock, seq)
            if retention is not None:
                info = msgspec.structs.replace(info or NO_INFO, retention=retention)
        if info is not None:
            changes.append(events.ObjectSet(key, seq, info))
        return seq

    def _is_new(self, changes: list[Change], key: KeyId) -> bool:
        return any(type(change) is events.KeyMade and change.key == key for change in changes)

    def add_delete(
        self, changes: list[Change], key: KeyId, name: bytes, ino: Ino, inode: Inode, writer: Writer
    ) -> None:
        """A delete of a key, as the bucket's state says. A key without any version just goes."""
        if not (inode.seq and inode.key == key):  # else what is deleted is published, and current
            newest = next(self.catalog.versions(key), None)
            if newest is None:
                changes.append(events.KeyGone(key))
                return
            if rules.removes_name(newest[1].kind):
                return  # what is deleted had never been published
        state = self.state_for(inode.bucket, name)
        null_version, others = None, True
        if state is not State.ENABLED:
            null_version = self.catalog.null_version(key)
            others = any(seq != null_version for seq, _ in self.catalog.versions(key))
            if inode.is_dir:
                others = others or self.has_keys(ino, changes) or bool(self.catalog.removed(key))
        rule = rules.delete(state, null_version, others=others)
        if rule.removes is not None:
            self.remove_version(changes, key, rule.removes, inode.bucket)
        if rule.marker_null is not None:
            kind = Kind.NO_DIRECTORY if inode.is_dir else Kind.MARKER
            marker = version_of(kind, rule.marker_null, ino, inode, writer, self.attributes_of(ino, inode))
            if rule.removes is not None or not (inode.seq and inode.key == key):
                marker = self._judged(changes, key, marker)
            if kind is Kind.MARKER:
                marker = msgspec.structs.replace(marker, mtime=self.clock())  # that of a deletion is its moment
            changes.append(events.VersionAdded(key, self.next_seq(), marker, inode.bucket))
        elif not others:
            changes.append(events.KeyGone(key))

    def attributes_of(self, ino: Ino, inode: Inode) -> Attributes:
        """The extended attributes of a file, which its delete marker keeps."""
        if inode.is_dir or not inode.attributes:
            return ()
        return tuple((name, self.catalog.attribute(ino, name) or b"") for name in self.catalog.attributes(ino))

    def drop_capability(self, ino: Ino) -> list[Change]:
        """Content chosen by anybody but root runs without the capabilities that root gave the file (capabilities(7));
        the kernel sees to that where it is written.
        """
        return [] if self.catalog.attribute(ino, CAPABILITY) is None else [events.AttributeGone(ino, CAPABILITY)]

    def set_attributes(self, changes: list[Change], ino: Ino, inode: Inode, attributes: Attributes) -> None:
        """Give a new inode the extended attributes of what it continues."""
        inode.attributes = bool(attributes)
        changes += [events.AttributeSet(ino, name, value) for name, value in attributes]

    def has_keys(self, directory: Ino, changes: list[Change]) -> bool:
        """Whether anything below a directory lives or has history, or an open file that was displaced from there may
        have some, when *changes* have taken keys away.
        """
        gone = {change.key for change in changes if type(change) is events.KeyGone}
        displaced = any(where.parent == directory for _, where in self.catalog.every_displaced())
        return displaced or any(key not in gone for _, key in self.catalog.keys(directory))

    def path(self, where: KeyName) -> bytes:
        """The key (path in its bucket) of a name, live or removed."""
        parts = [where.name]
        while (inode := self.catalog.peek(where.parent)).key:
            where = self.catalog.key_name(inode.key)
            parts.append(where.name.removesuffix(b"/"))
        return b"/".join(reversed(parts))

    def names_of(self, ino: Ino, inode: Inode) -> list[KeyId]:
        """The keys of all the names of an inode that has some."""
        if inode.nlink > 1 and not inode.is_dir:
            return self.catalog.links(ino)
        return [inode.key]

    # -- what stands at a key ---------------------------------------------------------------------------------

    def enter(
        self, changes: list[Change], parent: Ino, name: bytes, key: KeyId, ino: Ino, inode: Inode, writer: Writer
    ) -> None:
        """Let a name lead to a file. Whatever takes a key passes here, before it gets a version there: here it shows
        whether its rights hold for what stood there (vfs.rights). That, if it lives, is detached by the caller.
        """
        if not self._is_new(changes, key):
            self.part(changes, KeyName(parent, name), key, ino, inode, writer)
        else:
            if len(self._new_keys) >= NEW_KEYS_MAX:
                self._new_keys.clear()
            self._new_keys.add(key)
        changes.append(events.EntrySet(parent, name, ino))

    def part(self, changes: list[Change], where: KeyName, key: KeyId, ino: Ino, inode: Inode, writer: Writer) -> None:
        """Let the newest version of a key say what owner and mode its file had last; and, if what comes says nothing
        about what was there, whose rights hold for that version and those before it from now on.
        """
        seq, version = self._newest(changes, key)
        if version is None:
            return
        last = version
        standing = self.catalog.entry(*where)
        old: Inode | Version = version
        if standing is not None:
            old = self.catalog.peek(standing)
            if version.ino == standing:
                last = self._as_now(changes, key, seq, version, standing, old)
        file = version.ino if standing is None else standing
        self._telling = (key, inode.uid, writer.uid) if version.ino == file and (writer.uid or writer.pid) else None
        if last.rights is None and file != ino and not rights.goes_on(old, inode, writer):
            last = msgspec.structs.replace(last, rights=rights.rights_of(old))
        if last != version:
            self.replace_version(changes, key, seq, last, inode.bucket)

    def come_back(
        self, changes: list[Change], parent: Ino, name: bytes, key: KeyId, ino: Ino, inode: Inode, seq: Seq
    ) -> None:
        """Let a name lead to a file that continues a version, because what was put over that has been purged."""
        self.make_current(changes, key, seq, ino, inode)
        changes.append(events.EntrySet(parent, name, ino))

    def make_current(self, changes: list[Change], key: KeyId, seq: Seq, ino: Ino, inode: Inode) -> None:
        """Let a version that is current again be one of the file that has its content now, whose rights hold for it and
        those before it, as its own did before something else was put in its place.
        """
        version = self._version(changes, key, seq)
        last = msgspec.structs.replace(self._as_now(changes, key, seq, version, ino, inode), rights=None)
        if last != version:
            self.replace_version(changes, key, seq, last, inode.bucket)

    def _as_now(self, changes: list[Change], key: KeyId, seq: Seq, version: Version, ino: Ino, inode: Inode) -> Version:
        """A version as one of a file with the owner and mode that this has now. Whether it goes on with what was before
        it does not change by that.
        """
        now = msgspec.structs.replace(version, ino=ino, mode=inode.mode, uid=inode.uid, gid=inode.gid, acl=inode.acl)
        if (now.ino, now.uid) == (version.ino, version.uid):
            return now
        older_seq, older = self._newest(changes, key, seq)
        if older is not None and older.rights is None and not rights.went_on(older, version):
            older = msgspec.structs.replace(older, rights=rights.rights_of(older))
            self.replace_version(changes, key, older_seq, older, inode.bucket)
        return rights.judged(older, now)

    def remove_version(self, changes: list[Change], key: KeyId, seq: Seq, bucket: Ino) -> None:
        """Remove a version for good. What holds for those before it stays as it is."""
        self._telling = None
        older_seq, older = self._newest(changes, key, seq)
        if older is not None and older.rights is None:
            version = self._version(changes, key, seq)
            newer_seq, newer = next(self.catalog.newer_versions(key, seq), (seq, version))
            kept = version.rights
            if not rights.went_on(older, version):
                kept = rights.rights_of(older)
            elif kept is None and not rights.went_on(version, newer):
                kept = rights.rights_of(version)
            if kept is not None:
                self.replace_version(changes, key, older_seq, msgspec.structs.replace(older, rights=kept), bucket)
            elif rights.judged(older, newer) != newer:
                self.replace_version(changes, key, newer_seq, rights.judged(older, newer), bucket)
        changes.append(events.VersionGone(key, seq, bucket))

    def _judged(self, changes: list[Change], key: KeyId, version: Version) -> Version:
        """A new version that does not follow one of its own file."""
        writer = version.writer
        if version.kind not in (Kind.CONTENT, Kind.MARKER):
            return version
        if self._telling == (key, version.uid, writer.uid) and (writer.uid or writer.pid):
            return version
        if key in self._new_keys:
            self._new_keys.remove(key)
            return version
        return rights.judged(self._newest(changes, key)[1], version)

    def close(self, changes: list[Change], key: KeyId, seq: Seq, bucket: Ino) -> None:
        """Let a new version, which never stood at its key, be as hard to read as its file is."""
        version = self._version(changes, key, seq)
        closed = msgspec.structs.replace(version, rights=rights.rights_of(version))
        self.replace_version(changes, key, seq, closed, bucket)

    def replace_version(self, changes: list[Change], key: KeyId, seq: Seq, version: Version, bucket: Ino) -> None:
        """Let a version be this from now on."""
        infos = [change.info for change in changes if type(change) is events.ObjectSet and change.seq == seq]
        info = infos[-1] if infos else self.catalog.object_info(key, seq)
        changes.append(events.VersionGone(key, seq, bucket))
        changes.append(events.VersionAdded(key, seq, version, bucket))
        if info is not None:  # which went with the version
            changes.append(events.ObjectSet(key, seq, info))

    def _version(self, changes: list[Change], key: KeyId, seq: Seq) -> Version:
        """A version as *changes* leave it."""
        for change in reversed(changes):
            if type(change) is events.VersionAdded and change.seq == seq:
                return change.version
        version = self.catalog.version(key, seq)
        if version is None:
            raise NoSuchVersion(f"no version {format_version_id(seq)}")
        return version

    def _newest(self, changes: list[Change], key: KeyId, before: Seq | None = None) -> tuple[Seq, Version | None]:
        """The newest version of a key, of those older than *before* if given, that *changes* leave; not one that they
        add.
        """
        found = self.catalog.versions(key) if before is None else self.catalog.versions(key, before)
        for seq, version in found:
            for change in reversed(changes):
                if type(change) is events.VersionGone and change.seq == seq:
                    break
                if type(change) is events.VersionAdded and change.seq == seq:
                    return seq, change.version
            else:
                return seq, version
        return Seq(0), None

    # -- attaching and detaching inodes -----------------------------------------------------------------------

    def detach(
        self,
        changes: list[Change],
        key: KeyId,
        ino: Ino,
        inode: Inode,
        *,
        is_open: bool,
        displaced: KeyName | None = None,
    ) -> None:
        """Take one name away from a file's inode; it goes with its last name. While open it lives on, as an orphan or,
        if what is written to it shall be published there, as displaced from a name.
        """
        if inode.nlink > 1:
            inode.nlink -= 1
            left = [name for name in self.catalog.links(ino) if name != key]
            changes.append(events.LinkGone(ino, key))
            if len(left) == 1:
                changes.append(events.LinkGone(ino, left[0]))
            if inode.key == key:
                inode.key = left[0]
                newest = next(self.catalog.versions(left[0]), None)
                inode.seq = newest[0] if newest else Seq(0)
            inode.ctime = self.clock()
            changes.append(events.InodeSet(ino, inode))
            return
        inode.nlink = 0
        inode.ctime = self.clock()
        if is_open and displaced is not None:
            changes += [events.InodeSet(ino, inode), events.DisplacedSet(ino, *displaced)]
            return
        if self.catalog.draft(ino) is not None:
            changes.append(events.DraftGone(ino))
        if self.catalog.interim(ino) is not None:
            changes.append(events.InterimGone(ino))
        if is_open:
            changes += [events.InodeSet(ino, inode), events.OrphanSet(ino)]
        else:
            changes.append(events.InodeGone(ino))

    def is_unlinked(self, ino: Ino) -> bool:
        """Whether what is written to an open file goes with its last close: it has no name, and lost none to another
        door.
        """
        return self.catalog.peek(ino).nlink == 0 and self.catalog.displaced(ino) is None

    def revive(self, changes: list[Change], directory: Ino, writer: Writer, *, implicit: bool = False) -> list[Changed]:
        """Make sure that a directory lives, with those above it. Returns the names that appear. Raises Exists.

        implicit: for an object, whose key may also be the prefix of others, so that a file may be there.
        """
        removed: list[tuple[Ino, Inode]] = []
        while (inode := self.catalog.inode(directory)).nlink == 0:
            removed.append((directory, inode))
            directory = self.catalog.key_name(inode.key).parent
        appeared = []
        now = self.clock()
        for ino, inode in reversed(removed):
            where = self.catalog.key_name(inode.key)
            name = where.name.removesuffix(b"/")
            if not implicit:
                self.check_free(where.parent, name)
            elif self.catalog.entry(where.parent, where.name) is not None:
                raise Exists(f"{show(name)} exists")
            inode.implicit = implicit
            inode.nlink = 2
            inode.generation += 1
            inode.mtime = inode.ctime = now
            inode.seq = self.add_version(changes, inode.key, where.name, ino, inode, writer)
            changes.append(events.InodeSet(ino, inode))
            changes.append(events.EntrySet(where.parent, where.name, ino))
            changes.append(events.DirectoryTouched(where.parent, now, 1))
            appeared.append(Changed(where.parent, name, None, ino))
        return appeared

    def drop_directory(self, changes: list[Change], ino: Ino, inode: Inode) -> bool:
        """A directory without a name: gone, or (True) kept for the history below it."""
        if self.has_keys(ino, changes):
            inode.nlink = 0
            inode.ctime = self.clock()
            changes.append(events.InodeSet(ino, inode))
            return True
        changes.append(events.InodeGone(ino))
        return False

    def remove_directory(self, changes: list[Change], ino: Ino, inode: Inode, writer: Writer) -> bool:
        """Remove an empty directory. True: it is kept for the history below it."""
        where = self.catalog.key_name(inode.key)
        changes.append(events.EntryGone(where.parent, where.name))
        self.add_delete(changes, inode.key, where.name, ino, inode, writer)
        kept = self.drop_directory(changes, ino, inode)
        changes.append(events.DirectoryTouched(where.parent, self.clock(), -1))
        return kept

    def tidy(self, changes: list[Change], directory: Ino, name: bytes, writer: Writer) -> list[Changed]:
        """Let a directory that only keys had made go with the last name in it, *name*, which *changes* take away; and
        so those above it. Returns the names that disappear.
        """
        disappeared = []
        while (inode := self.catalog.inode(directory)).implicit and inode.nlink:
            if any(other != name for other, _ in self.catalog.entries(directory)):
                break
            where = self.catalog.key_name(inode.key)
            inode.mtime = self.clock()
            self.remove_directory(changes, directory, inode, writer)
            shown = where.name.removesuffix(b"/")
            disappeared.append(Changed(where.parent, shown, directory, self.catalog.entry(where.parent, shown)))
            directory, name = where
        return disappeared

    def drop_bucket(self, name: bytes, ino: Ino) -> None:
        """Remove a bucket, of which nothing is to be kept. Raises NoSpace, DiskFailed."""
        changes: list[Change] = [
            events.EntryGone(STORE_ROOT, directory_key(name)),
            events.BucketGone(ino),
            events.DirectoryTouched(STORE_ROOT, self.clock(), -1),
        ]
        self.commit("delete bucket", changes)

    def check_free(self, parent: Ino, name: bytes) -> None:
        """Raise Exists if the live name is taken, by a file or a directory."""
        if self.catalog.entry(parent, name) is not None or self.catalog.entry(parent, directory_key(name)) is not None:
            raise Exists(f"{show(name)} exists")


def unversioned_patterns(bucket: Bucket) -> tuple[bytes, ...]:
    """The patterns of names that behave as in an unversioned bucket."""
    return rules.UNVERSIONED_DEFAULT if bucket.unversioned is None else tuple(bucket.unversioned)


def version_of(kind: Kind, null: bool, ino: Ino, inode: Inode, writer: Writer, attributes: Attributes = ()) -> Version:
    """A version that records what *inode* is now."""
    if kind is not Kind.CONTENT:
        mode, uid, gid, mtime = inode.mode, inode.uid, inode.gid, inode.mtime
        return Version(kind, null, mode, uid, gid, mtime, writer, ino, attributes=attributes, acl=inode.acl)
    return Version(
        kind,
        null,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime,
        writer,
        ino,
        inode.content,
        inode.target,
        inode.rdev,
        acl=inode.acl,
    )
