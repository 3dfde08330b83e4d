"""History: the versions of keys, purging and restoring them, and the tree at any moment of the past."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from heapq import merge
from itertools import groupby, islice
from typing import NamedTuple

from vfs import acl, events, locks, purging, rules
from vfs.core import Attributes, Changed, Core
from vfs.errors import IsADirectory, NameTooLong, NoSuchKey, NoSuchVersion, NotADirectory, NotPermitted
from vfs.events import Change
from vfs.files import SETID, Files
from vfs.model import EMPTY, STORE_ROOT, Ino, Inode, KeyId, Kind, Rights, Seq, Version, Writer
from vfs.names import (
    NAME_BYTES_MAX,
    check_name,
    directory_key,
    format_version_id,
    is_shown,
    parse_version_id,
    show,
)
from vfs.purging import Way
from vfs.rights import rights_of, went_on

ALL = (1 << 64) - 1  # older than the end of time


class Past(NamedTuple):
    """What a name has been: its keys with versions, and the directories whose history it leads to.

    There may be several of either, because a directory takes its history along when it is renamed: where another one
    stood before (`rm -rf src; mv src.new src`), the name has been both. What lives comes first.
    """

    keys: list[KeyId]
    directories: list[Ino]


class Run(NamedTuple):
    """Versions of a key that follow each other as those of one file, and whose rights are the same (None: those of the
    key), as of a record of the journal.
    """

    record: int
    key: KeyId
    first: Seq
    last: Seq
    rights: Rights | None


Reach = Callable[[Inode], bool]  # whether whoever asks gets into a directory that nothing live leads to


def everywhere(_: Inode) -> bool:
    """For whoever may see everything."""
    return True


class History:
    """Reading and changing what is not current."""

    def __init__(self, core: Core, files: Files) -> None:
        self._core = core
        self._catalog = core.catalog
        self._files = files
        self._run: Run | None = None  # the last one that was looked at: a listing asks for one version after the other

    # -- names ------------------------------------------------------------------------------------------------

    def places(self, directory: Ino, reach: Reach = everywhere) -> list[Ino]:
        """A directory, and those that stood where it stands or stood: itself first, removed ones after.

        Of the others, those that *reach* says yes to: whoever may enter a directory need not have been allowed into the
        one before it.
        """
        above: list[tuple[Ino, KeyId]] = []
        inode = self._catalog.inode(directory)
        while inode.key:
            above.append((directory, inode.key))
            directory = self._catalog.key_name(inode.key).parent
            inode = self._catalog.inode(directory)
        found = [directory]
        for directory, key in reversed(above):
            where = self._catalog.key_name(key)
            others = self._catalog.removed(key)
            for parent in found[1:]:
                live = self._catalog.entry(parent, where.name)
                removed = self._catalog.key(parent, where.name)
                others += [] if live is None else [live]
                others += [] if removed is None else self._catalog.removed(removed)
            others = [other for other in dict.fromkeys(others) if other != directory]
            found = [directory, *(other for other in others if reach(self._catalog.inode(other)))]
        return found

    def past(self, parent: Ino, name: bytes, reach: Reach = everywhere) -> Past:
        """What a name has been, in a directory and in those that stood there. Raises NoSuchKey if it has no history."""
        if len(name) > NAME_BYTES_MAX:
            raise NameTooLong(f"{show(name)!r} is longer than {NAME_BYTES_MAX} bytes")
        return self._past(self.places(parent, reach), name)

    def _past(self, places: list[Ino], name: bytes) -> Past:
        past = Past([], [])
        for place in places:
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

    def removal_of(self, directory: Ino) -> tuple[Seq, Version] | None:
        """The record by which a directory was removed, if it was."""
        inode = self._catalog.find_inode(directory)
        if inode is None or inode.nlink or not inode.key:
            return None
        records = self._catalog.versions(inode.key)
        return next((one for one in records if one[1].kind is Kind.NO_DIRECTORY and one[1].ino == directory), None)

    def names(self, parent: Ino, after: bytes = b"", reach: Reach = everywhere) -> Iterator[tuple[bytes, bytes, Past]]:
        """(sort name, name, past) of every name with history behind sort name *after*; deleted ones too."""
        places = self.places(parent, reach)
        found = merge(*(self._sort_names(place, after) for place in places))
        for sort_name, _ in groupby(found):
            name = sort_name.removesuffix(b"/")
            if not is_shown(name):
                continue
            try:
                past = self._past(places, name)
            except NoSuchKey:
                continue
            if bool(past.keys) != sort_name.endswith(b"/"):  # a name that was both is shown once, as the file's
                yield sort_name, name, past

    def _sort_names(self, directory: Ino, after: bytes) -> Iterator[bytes]:
        return (name for name, _ in self._catalog.keys(directory, after))

    # -- versions ---------------------------------------------------------------------------------------------

    def chain(self, key: KeyId, reach: Reach = everywhere) -> list[KeyId]:
        """A key, and those of its name in directories that stood at the same place."""
        where = self._catalog.key_name(key)
        return [key, *(other for other in self.past(where.parent, where.name, reach).keys if other != key)]

    def versions(
        self, key: KeyId, before: Seq | None = None, reach: Reach = everywhere
    ) -> Iterator[tuple[Seq, Version]]:
        """The versions of a key's whole chain, newest first; only those older than *before* if given."""
        limit = ALL if before is None else before
        return merge(*(self._catalog.versions(other, limit) for other in self.chain(key, reach)), key=_newest_first)

    def version(self, key: KeyId, version_id: str, reach: Reach = everywhere) -> tuple[Seq, Version]:
        """The version with that id in a key's chain. Raises NoSuchVersion; InvalidName for text that is no id."""
        seq = parse_version_id(version_id)
        for other in self.chain(key, reach):
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

    def uncovers(self, key: KeyId, seq: Seq) -> Version | None:
        """What a purge of a version makes current, if that is another one."""
        newest = list(islice(self._catalog.versions(key), 2))
        return newest[1][1] if len(newest) == 2 and newest[0][0] == seq else None

    def live(self, key: KeyId) -> Ino | None:
        """The inode that lives at a key."""
        where = self._catalog.key_name(key)
        return self._catalog.entry(where.parent, where.name)

    def rights(self, key: KeyId) -> Rights:
        """Owner, group and permission bits that hold for a key's history. Raises NoSuchKey."""
        return rights_of(self._holder(key)[1])

    def _holder(self, key: KeyId) -> tuple[Ino, Inode | Version]:
        """What the rights of a key are taken from: the live file, or the last version. Raises NoSuchKey."""
        ino = self.live(key)
        if ino is not None:
            return ino, self._catalog.inode(ino)
        newest = next(self._catalog.versions(key), None)
        if newest is None:
            raise NoSuchKey("no history")
        return newest[1].ino, newest[1]

    def version_rights(self, key: KeyId, seq: Seq, version: Version) -> Rights:
        """Owner, group and permission bits of a version, which hold beside those of its key: the same, unless something
        that says nothing about it was put at the key since (vfs.rights): then those that its file, or the last that
        went on with it, had by then.
        """
        return self._own_rights(key, seq, version) or self.rights(key)

    def _own_rights(self, key: KeyId, seq: Seq, version: Version) -> Rights | None:
        """The rights of a version if those of its key say nothing about it."""
        if version.ino == self._holder(key)[0]:
            return None
        run = self._run
        if run is not None and run[:2] != (self._core.journal.end.number, key):
            run = None
        newer = self._catalog.newer_versions(key, seq)
        last_seq, last = seq, version
        while last.rights is None:
            if run is not None and run.first <= last_seq <= run.last:
                last_seq, rights = run.last, run.rights
                break
            found = next(newer, None)
            if found is None:
                rights = None
                break
            if not went_on(last, found[1]):
                rights = rights_of(last)
                break
            last_seq, last = found
        else:
            rights = last.rights
        self._run = Run(self._core.journal.end.number, key, seq, last_seq, rights)
        return rights

    def last_rights(self, key: KeyId, seq: Seq, version: Version) -> Rights:
        """Owner, group and permission bits that a file or directory had when a version of it was last current, which
        the next entry of the key tells if it is of the same inode.
        """
        newer = next(self._catalog.newer_versions(key, seq), None)
        if newer is not None:
            return rights_of(newer[1] if newer[1].ino == version.ino else version)
        inode = self._catalog.find_inode(version.ino)
        return rights_of(version if inode is None else inode)

    # -- changing ---------------------------------------------------------------------------------------------

    def check_policy(self, key: KeyId, writer: Writer, way: Way) -> None:
        """Raise ReadOnly, Locked or NotPermitted if the bucket's policy has no version of a key purged in that way."""
        directory = self._catalog.key_name(key).parent
        bucket = self._catalog.bucket(self._catalog.peek(directory).bucket)
        purging.check(bucket, way, is_root=writer.uid == 0 and way.by_mount)

    def check_purge(self, key: KeyId, seq: Seq, writer: Writer, way: Way, *, bypass: bool = False) -> None:
        """The same, and raise Locked if the version is locked itself."""
        self.check_policy(key, writer, way)
        locks.check_purge(self._catalog.object_info(key, seq), self._core.clock() // 1000, bypass=bypass)

    def removal(self, key: KeyId, seq: Seq, writer: Writer, way: Way, *, bypass: bool = False) -> list[Change]:
        """The changes by which a version goes for good because somebody wants it: all such changes are made here, so
        that nothing that forbids it is passed over. Raises as `check_purge`.
        """
        self.check_purge(key, seq, writer, way, bypass=bypass)
        changes: list[Change] = []
        bucket = self._catalog.peek(self._catalog.key_name(key).parent).bucket
        self._core.remove_version(changes, key, seq, bucket)
        return changes

    def purge(
        self,
        key: KeyId,
        seq: Seq,
        writer: Writer,
        *,
        way: Way = Way.COMMAND,
        bypass: bool = False,
        implicit: bool = False,
    ) -> list[Changed]:
        """Remove a version for good. If it was current, the newest that remains is (a purged marker undeletes).

        bypass: of governance (vfs.locks). implicit: directories come back, and go, as for an object. Raises Locked,
        ReadOnly, NotPermitted.
        """
        self.check_policy(key, writer, way)
        core, catalog = self._core, self._catalog
        where = catalog.key_name(key)
        self._files.publish_at(*where)
        ino = catalog.entry(where.parent, where.name)
        if ino is not None and catalog.inode(ino).nlink > 1 and self._files.has_changes(ino):
            self._files.publish_all(ino)  # the other names shall have it too, before this one leads elsewhere
        version = catalog.version(key, seq)
        if version is None:
            raise NoSuchVersion(f"no version {format_version_id(seq)}")
        if version.kind not in (Kind.CONTENT, Kind.MARKER):
            raise NotPermitted("the record of a directory cannot be purged")
        changes = self.removal(key, seq, writer, way, bypass=bypass)
        newest = list(islice(catalog.versions(key), 2))
        if newest[0][0] != seq:
            core.commit("purge", changes)
            return []
        after = newest[1] if len(newest) > 1 else None
        if after is not None and after[1].kind is not Kind.CONTENT:
            after = None
        if ino is not None and self._files.has_changes(ino):  # what is being written will be current
            self._stand_on(changes, key, ino, after)
            core.commit("purge", changes)
            return []
        new = None
        changed = []
        old = None if ino is None else catalog.inode(ino)
        if after is not None:
            changed += core.revive(changes, where.parent, writer, implicit=implicit)
            new = self._attach(changes, key, *after, old, ino, version, writer)
        if ino is not None and old is not None:
            if new is None:
                changes.append(events.EntryGone(where.parent, where.name))
            self._files.leave(changes, key, ino, old, displaced=True)
        changes.append(events.DirectoryTouched(where.parent, core.clock(), 0))
        if len(newest) == 1:
            changes.append(events.KeyGone(key))
        changed.insert(0, Changed(where.parent, where.name, ino, new))
        if implicit and new is None:
            changed += core.tidy(changes, where.parent, where.name, writer)
        core.commit("purge", changes)
        return changed

    def _stand_on(self, changes: list[Change], key: KeyId, ino: Ino, current: tuple[Seq, Version] | None) -> None:
        """Let a live file that is being changed, and stays as it is, have another version as its published one (None:
        it is not published any more).
        """
        if current is not None and (self._own_rights(key, *current) is not None or not stat.S_ISREG(current[1].mode)):
            current = None  # it was another file's
        inode = self._catalog.inode(ino)
        inode.seq = current[0] if current else Seq(0)
        inode.content = current[1].content if current else EMPTY
        inode.ctime = self._core.clock()
        if current is not None:
            self._core.make_current(changes, key, current[0], ino, inode)
        changes.append(events.InodeSet(ino, inode))
        if current is None and self._catalog.draft(ino) is None:  # so that a recovery knows that it is unpublished
            changes.append(events.DraftSet(ino, self._files.empty_draft(ino)))

    def _attach(
        self,
        changes: list[Change],
        key: KeyId,
        seq: Seq,
        version: Version,
        old: Inode | None,
        ino: Ino | None,
        last: Version,
        writer: Writer,
    ) -> Ino:
        """A new inode for a version that is current again, with the rights and attributes the key had last, unless
        the version has rights of its own.
        """
        where = self._catalog.key_name(key)
        parent = self._catalog.inode(where.parent)
        now = self._core.clock()
        attributes = last.attributes if ino is None or old is None else self._core.attributes_of(ino, old)
        own = self._own_rights(key, seq, version)
        rights = own or rights_of(old if old is not None else last)
        mode = rights.mode if writer.uid == 0 else rights.mode & ~SETID
        new = Ino(self._core.new_id())
        inode = Inode(
            stat.S_IFMT(version.mode) | mode,
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
            acl=rights.acl,
        )
        self._core.set_attributes(changes, new, inode, () if own else _allowed(attributes, writer))
        changes.append(events.InodeSet(new, inode))
        self._core.come_back(changes, where.parent, where.name, key, new, inode, seq)
        return new

    def restore(self, seq: Seq, parent: Ino, name: bytes, writer: Writer, *, gid: int | None = None) -> list[Changed]:
        """Make a version's content the new current version of a name; content is shared, not copied.

        A live file keeps its attributes; a deleted one gets those it had last, a new one those of the version's key.
        But nobody except root makes a file that belongs to somebody else, or that has set-id bits: what would, belongs
        to the writer and the group *gid*. The directories above come back if they were removed. Raises NoSuchVersion,
        IsADirectory, NotADirectory, NotPermitted (a delete marker has no content), Exists.
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
            return self._files.replace(ino, version.content, writer)
        if ino is not None:
            self._files.publish_flushed(ino)
        changes: list[Change] = []
        changed = core.revive(changes, parent, writer)
        key = core.key_for(changes, parent, name)
        now = core.clock()
        bucket = catalog.inode(parent).bucket
        rights, attributes = self._rights_of_restored(key, source, seq, version, writer)
        if writer.uid not in (0, rights.uid):
            bits = acl.mode_without(rights.acl, rights.mode)
            rights = Rights(writer.uid, rights.gid if gid is None else gid, bits)
        mode = stat.S_IFMT(version.mode) | (rights.mode if writer.uid == 0 else rights.mode & ~SETID)
        if ino is not None:
            self._files.leave(changes, key, ino, catalog.inode(ino), displaced=True)
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
            acl=rights.acl,
        )
        core.set_attributes(changes, new, inode, attributes)
        core.enter(changes, parent, name, key, new, inode, writer)
        inode.seq = core.add_version(changes, key, name, new, inode, writer)
        changes.append(events.InodeSet(new, inode))
        changes.append(events.DirectoryTouched(parent, now, 0))
        core.commit("restore", changes)
        return [*changed, Changed(parent, name, ino, new)]

    def _rights_of_restored(
        self, key: KeyId, source: KeyId, seq: Seq, version: Version, writer: Writer
    ) -> tuple[Rights, Attributes]:
        """The rights and attributes that *key* had last, if they say anything about a file like *version*, which comes
        from the history of *source*: else those of the version.
        """
        newest = next(self._catalog.versions(key), None)
        if newest is None:
            return self.version_rights(source, seq, version), ()
        rights = self.rights(key)
        attributes = _allowed(newest[1].attributes, writer) if writer.uid in (0, rights.uid) else ()
        if key == source:
            return self.version_rights(key, seq, version), attributes
        if stat.S_ISLNK(self._holder(key)[1].mode) and not stat.S_ISLNK(version.mode):
            return self.version_rights(source, seq, version), ()
        return rights, attributes

    # -- the past ---------------------------------------------------------------------------------------------

    def version_at(self, key: KeyId, moment: Seq) -> tuple[Seq, Version] | None:
        """The version that was current at a moment (µs), None if the name was absent."""
        newest = next(self._catalog.versions(key, moment + 1), None)
        return None if newest is None or rules.removes_name(newest[1].kind) else newest

    def open_at(self, key: KeyId, moment: Seq) -> Ino | None:
        """The file at a key that stays open, if what is safe of it, and not published, was so at a moment."""
        ino = self.live(key)
        safe = None if ino is None else self._files.safe(ino)
        return ino if safe is not None and safe.at <= moment else None

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

    def list_at(
        self, parent: Ino, moment: Seq, after: bytes = b""
    ) -> Iterator[tuple[bytes, KeyId, tuple[Seq, Version] | None]]:
        """(sort name, key, version) of what a directory held at a moment, in S3's key order. None: a name of another
        time, or one that a mount cannot show, for whoever has to know how many of those were looked at.

        A version of kind DIRECTORY leads on through its inode. What was purged since is missing from its past.
        """
        for sort_name, key in self._catalog.keys(parent, after):
            found = self.version_at(key, moment) if is_shown(sort_name.removesuffix(b"/")) else None
            if found is not None and not sort_name.endswith(b"/"):
                directory = self._catalog.key(parent, directory_key(sort_name))
                if directory is not None and self.version_at(directory, moment) is not None:
                    found = None  # a directory hides a file of the same name
            yield sort_name, key, found


def _newest_first(item: tuple[Seq, Version]) -> int:
    return -item[0]


def _allowed(attributes: Attributes, writer: Writer) -> Attributes:
    """Those that a file may have whose content *writer* chose: others are root's, as capabilities are."""
    return attributes if writer.uid == 0 else tuple(item for item in attributes if item[0].startswith(b"user."))
