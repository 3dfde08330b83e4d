"""History: the versions of keys, purging and restoring them, and the tree at any moment of the past."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from heapq import merge
from itertools import groupby, islice
from typing import NamedTuple

from vfs import events, rules
from vfs.core import Changed, Core
from vfs.errors import IsADirectory, NameTooLong, NoSuchKey, NoSuchVersion, NotADirectory, NotPermitted
from vfs.events import Change
from vfs.files import Files
from vfs.model import EMPTY, STORE_ROOT, Content, Ino, Inode, KeyId, Kind, Seq, Version, Writer
from vfs.names import NAME_BYTES_MAX, check_name, directory_key, format_version_id, parse_version_id, show

ALL = (1 << 64) - 1  # older than the end of time


class Past(NamedTuple):
    """What a name has been: its keys with versions, and the directories whose history it leads to.

    There may be several of either, because a directory takes its history along when it is renamed: where another one
    stood before (`rm -rf src; mv src.new src`), the name has been both. What lives comes first.
    """

    keys: list[KeyId]
    directories: list[Ino]


class Rights(NamedTuple):
    """Who may read a key's history: the live key's owner, group and permission bits, or the last ones it had."""

    uid: int
    gid: int
    mode: int


class History:
    """Reading and changing what is not current."""

    def __init__(self, core: Core, files: Files) -> None:
        self._core = core
        self._catalog = core.catalog
        self._files = files

    # -- names ------------------------------------------------------------------------------------------------

    def places(self, directory: Ino) -> list[Ino]:
        """A directory, and those that stood where it stands or stood: itself first, removed ones after."""
        inode = self._catalog.inode(directory)
        if not inode.key:
            return [directory]
        found = [directory, *self._catalog.removed(inode.key)]
        where = self._catalog.key_name(inode.key)
        for parent in self.places(where.parent)[1:]:
            live = self._catalog.entry(parent, where.name)
            key = self._catalog.key(parent, where.name)
            found += [] if live is None else [live]
            found += [] if key is None else self._catalog.removed(key)
        return list(dict.fromkeys(found))

    def past(self, parent: Ino, name: bytes) -> Past:
        """What a name has been, in a directory and in those that stood there. Raises NoSuchKey if it has no history."""
        if len(name) > NAME_BYTES_MAX:
            raise NameTooLong(f"{show(name)!r} is longer than {NAME_BYTES_MAX} bytes")
        past = Past([], [])
        for place in self.places(parent):
            key = self._catalog.key(place, name)
            if key is not None and next(self._catalog.versions(key), None) is not None:
                past.keys.append(key)
            live = self._catalog.entry(place, directory_key(name))
            if live is not None:
                past.directories.insert(0, live)
            key = self._catalog.key(place, directory_key(name))
            if key is not None:
                past.directories.extend(self._catalog.removed(key))
        if not past.keys and not past.directories:
            raise NoSuchKey(f"no history of {show(name)}")
        return past

    def names(self, parent: Ino, after: bytes = b"") -> Iterator[tuple[bytes, bytes, Past]]:
        """(sort name, name, past) of every name with history behind sort name *after*; deleted ones too."""
        found = merge(*(self._sort_names(place, after) for place in self.places(parent)))
        for sort_name, _ in groupby(found):
            name = sort_name.removesuffix(b"/")
            try:
                past = self.past(parent, name)
            except NoSuchKey:
                continue
            if bool(past.keys) != sort_name.endswith(b"/"):  # a name that was both is shown once, as the file's
                yield sort_name, name, past

    def _sort_names(self, directory: Ino, after: bytes) -> Iterator[bytes]:
        return (name for name, _ in self._catalog.keys(directory, after))

    # -- versions ---------------------------------------------------------------------------------------------

    def chain(self, key: KeyId) -> list[KeyId]:
        """A key, and those of its name in directories that stood at the same place."""
        where = self._catalog.key_name(key)
        return [key, *(other for other in self.past(where.parent, where.name).keys if other != key)]

    def versions(self, key: KeyId, before: Seq | None = None) -> Iterator[tuple[Seq, Version]]:
        """The versions of a key's whole chain, newest first; only those older than *before* if given."""
        limit = ALL if before is None else before
        return merge(*(self._catalog.versions(other, limit) for other in self.chain(key)), key=_newest_first)

    def version(self, key: KeyId, version_id: str) -> tuple[Seq, Version]:
        """The version with that id in a key's chain. Raises NoSuchVersion; InvalidName for text that is no id."""
        seq = parse_version_id(version_id)
        for other in self.chain(key):
            found = self._catalog.null_version(other) if seq is None else Seq(seq)
            version = None if found is None else self._catalog.version(other, found)
            if found is not None and version is not None and version.null == (seq is None):
                return found, version
        raise NoSuchVersion(f"no version {version_id}")

    def find(self, seq: Seq) -> tuple[KeyId, Version]:
        """A version by its sequence alone. Raises NoSuchVersion."""
        key = self._catalog.key_of_version(seq)
        version = None if key is None else self._catalog.version(key, seq)
        if key is None or version is None:
            raise NoSuchVersion(f"no version {format_version_id(seq)}")
        return key, version

    def current(self, key: KeyId) -> Seq | None:
        """The newest version of a key."""
        newest = next(self._catalog.versions(key), None)
        return newest[0] if newest else None

    def live(self, key: KeyId) -> Ino | None:
        """The inode that lives at a key."""
        where = self._catalog.key_name(key)
        return self._catalog.entry(where.parent, where.name)

    def rights(self, key: KeyId) -> Rights:
        """Owner, group and permission bits that hold for a key's history. Raises NoSuchKey."""
        ino = self.live(key)
        if ino is not None:
            inode = self._catalog.inode(ino)
            return Rights(inode.uid, inode.gid, stat.S_IMODE(inode.mode))
        newest = next(self._catalog.versions(key), None)
        if newest is None:
            raise NoSuchKey("no history")
        return Rights(newest[1].uid, newest[1].gid, stat.S_IMODE(newest[1].mode))

    # -- changing ---------------------------------------------------------------------------------------------

    def purge(self, key: KeyId, seq: Seq, writer: Writer) -> list[Changed]:
        """Remove a version for good. If it was current, the newest that remains is (a purged marker undeletes)."""
        core, catalog = self._core, self._catalog
        where = catalog.key_name(key)
        ino = catalog.entry(where.parent, where.name)
        if ino is not None and catalog.inode(ino).nlink > 1 and self._files.has_changes(ino):
            self._files.publish_all(ino)  # the other names shall have it too, before this one leads elsewhere
        version = catalog.version(key, seq)
        if version is None:
            raise NoSuchVersion(f"no version {format_version_id(seq)}")
        if version.kind not in (Kind.CONTENT, Kind.MARKER):
            raise NotPermitted("the record of a directory cannot be purged")
        bucket = catalog.inode(where.parent).bucket
        changes: list[Change] = [events.VersionGone(key, seq, bucket)]
        newest = list(islice(catalog.versions(key), 2))
        if newest[0][0] != seq:
            core.commit("purge", changes)
            return []
        after = newest[1] if len(newest) > 1 else None
        if after is not None and after[1].kind is not Kind.CONTENT:
            after = None
        changed = [Changed(where.parent, where.name, ino, ino)]
        reset = orphan = None
        if ino is not None and (self._files.has_changes(ino) or (after and self._can_take(ino, after[1]))):
            same_type = after is not None and stat.S_ISREG(after[1].mode)
            reset = self._set_current(changes, ino, after if same_type else None)
        else:
            new = None
            old = None if ino is None else catalog.inode(ino)
            if after is not None:
                changed += core.revive(changes, where.parent, writer)
                new = self._attach(changes, key, *after, old, ino, version)
            if ino is not None and old is not None:
                orphan = self._let_go(changes, key, ino, old, entry_stays=new is not None)
            changes.append(events.DirectoryTouched(where.parent, core.clock(), 0))
            if len(newest) == 1:
                changes.append(events.KeyGone(key))
            changed[0] = Changed(where.parent, where.name, ino, new)
        core.commit("purge", changes)
        if orphan is not None:
            self._files.unlinked(orphan)
        if ino is not None and reset is not None:
            self._files.reset(ino, reset)
        return changed

    def _can_take(self, ino: Ino, version: Version) -> bool:
        """Whether an inode can become what a version was, and stay the same inode for those who have it open."""
        inode = self._catalog.inode(ino)
        return inode.nlink == 1 and inode.is_file and stat.S_ISREG(version.mode)

    def _set_current(self, changes: list[Change], ino: Ino, current: tuple[Seq, Version] | None) -> Content | None:
        """Let a live file be what is current now (None: nothing is published any more).

        Returns the content for those who have it open, unless they are changing it: then that will be current.
        """
        inode = self._catalog.inode(ino)
        inode.seq = current[0] if current else Seq(0)
        inode.content = current[1].content if current else EMPTY
        inode.mtime = current[1].mtime if current else inode.mtime
        inode.ctime = self._core.clock()
        changes.append(events.InodeSet(ino, inode))
        if not self._files.has_changes(ino):
            return inode.content
        if current is None and self._catalog.draft(ino) is None:  # so that a recovery knows that it is unpublished
            changes.append(events.DraftSet(ino, self._files.empty_draft(ino)))
        return None

    def _attach(
        self,
        changes: list[Change],
        key: KeyId,
        seq: Seq,
        version: Version,
        old: Inode | None,
        ino: Ino | None,
        last: Version,
    ) -> Ino:
        """A new inode for a version that is current again, with the attributes the key had last."""
        where = self._catalog.key_name(key)
        parent = self._catalog.inode(where.parent)
        now = self._core.clock()
        rights = old if old is not None else last
        new = Ino(self._core.new_id())
        inode = Inode(
            stat.S_IFMT(version.mode) | stat.S_IMODE(rights.mode),
            1,
            rights.uid,
            rights.gid,
            version.rdev,
            now,
            version.mtime,
            now,
            now,
            parent.bucket,
            key,
            seq,
            version.content,
            version.target,
        )
        attributes = last.attributes if ino is None or old is None else self._core.attributes_of(ino, old)
        self._core.set_attributes(changes, new, inode, attributes)
        changes.append(events.InodeSet(new, inode))
        changes.append(events.EntrySet(where.parent, where.name, new))
        return new

    def _let_go(self, changes: list[Change], key: KeyId, ino: Ino, inode: Inode, *, entry_stays: bool) -> Ino | None:
        """Take a key away from the inode that lived there. Returns it if it is open (an orphan from now on)."""
        where = self._catalog.key_name(key)
        if not entry_stays:
            changes.append(events.EntryGone(where.parent, where.name))
        orphaned = inode.nlink == 1 and self._files.is_open(ino)
        self._core.detach(changes, key, ino, inode, is_open=orphaned)
        return ino if orphaned else None

    def restore(self, seq: Seq, parent: Ino, name: bytes, writer: Writer) -> list[Changed]:
        """Make a version's content the new current version of a name; content is shared, not copied.

        A live file keeps its attributes; a deleted one gets those it had last, a new one those of the version's key.
        The directories above come back if they were removed. Raises NoSuchVersion, IsADirectory, NotADirectory,
        NotPermitted (a delete marker has no content), Exists.
        """
        source, version = self.find(seq)
        core, catalog = self._core, self._catalog
        if version.kind is not Kind.CONTENT:
            raise NotPermitted("a delete marker has no content to restore")
        check_name(name)
        if parent == STORE_ROOT:
            raise NotPermitted("only buckets live at the root of a store")
        if not catalog.inode(parent).is_dir:
            raise NotADirectory("not a directory")
        if catalog.entry(parent, directory_key(name)) is not None:
            raise IsADirectory(f"{show(name)} is a directory")
        ino = catalog.entry(parent, name)
        old = None if ino is None else catalog.inode(ino)
        if ino is not None and old is not None and old.is_file and stat.S_ISREG(version.mode):
            self._files.replace(ino, version.content, writer)
            return [Changed(parent, name, ino, ino)]
        if ino is not None:
            self._files.publish_all(ino)
        changes: list[Change] = []
        changed = core.revive(changes, parent, writer)
        key = core.key_for(changes, parent, name)
        now = core.clock()
        bucket = catalog.inode(parent).bucket
        rights = self.rights(source if self.current(key) is None else key)
        mode = stat.S_IFMT(version.mode) | rights.mode
        orphan = None
        if ino is not None:
            orphan = self._let_go(changes, key, ino, catalog.inode(ino), entry_stays=True)
        new = Ino(core.new_id())
        inode = Inode(
            mode,
            1,
            rights.uid,
            rights.gid,
            version.rdev,
            now,
            now,
            now,
            now,
            bucket,
            key,
            Seq(0),
            version.content,
            version.target,
        )
        newest = next(catalog.versions(key), None)
        core.set_attributes(changes, new, inode, newest[1].attributes if newest else ())
        inode.seq = core.add_version(changes, key, name, new, inode, writer)
        changes.append(events.InodeSet(new, inode))
        changes.append(events.EntrySet(parent, name, new))
        changes.append(events.DirectoryTouched(parent, now, 0))
        core.commit("restore", changes)
        if orphan is not None:
            self._files.unlinked(orphan)
        return [*changed, Changed(parent, name, ino, new)]

    # -- the past ---------------------------------------------------------------------------------------------

    def version_at(self, key: KeyId, moment: Seq) -> tuple[Seq, Version] | None:
        """The version that was current at a moment (µs), None if the name was absent."""
        newest = next(self._catalog.versions(key, moment + 1), None)
        return None if newest is None or rules.removes_name(newest[1].kind) else newest

    def lookup_at(self, parent: Ino, name: bytes, moment: Seq) -> tuple[Seq, Version]:
        """What stood at a name of a directory at a moment. Raises NoSuchKey."""
        for sort_name in (directory_key(name), name):
            key = self._catalog.key(parent, sort_name)
            found = None if key is None else self.version_at(key, moment)
            if found is not None:
                return found
        raise NoSuchKey(f"no {show(name)} at {format_version_id(moment)}")

    def changed_between(self, start: Seq, end: Seq) -> bool:
        """Whether any version of the store is newer than *start* and not newer than *end*."""
        return self._catalog.first_version_after(start) <= end

    def list_at(self, parent: Ino, moment: Seq, after: bytes = b"") -> Iterator[tuple[bytes, Seq, Version]]:
        """(sort name, sequence, version) of what a directory held at a moment, in S3's key order.

        A version of kind DIRECTORY leads on through its inode. What was purged since is missing from its past.
        """
        for sort_name, key in self._catalog.keys(parent, after):
            found = self.version_at(key, moment)
            if found is not None:
                yield (sort_name, *found)


def _newest_first(item: tuple[Seq, Version]) -> int:
    return -item[0]
