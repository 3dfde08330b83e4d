"""History: the versions of keys, purging and restoring them, and the tree at any moment of the past."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import NamedTuple

from vfs import events, rules
from vfs.core import Changed, Core
from vfs.errors import IsADirectory, NoSuchKey, NoSuchVersion, NotPermitted
from vfs.events import Change
from vfs.files import Files
from vfs.model import Ino, Inode, KeyId, Kind, Seq, Version, Writer
from vfs.names import check_name, directory_key, format_version_id, parse_version_id, show


class Past(NamedTuple):
    """What a name has been: the key of its files, and the directory whose history it leads to."""

    key: KeyId | None
    directory: Ino | None


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

    def past(self, parent: Ino, name: bytes) -> Past:
        """What a name of a directory has been. Raises NoSuchKey if it has no history."""
        key = self._catalog.key(parent, name)
        if key is not None and next(self._catalog.versions(key), None) is None:
            key = None
        directory_row = self._catalog.key(parent, directory_key(name))
        directory = None if directory_row is None else self._directory_at(parent, name, directory_row)
        if key is None and directory is None:
            raise NoSuchKey(f"no history of {show(name)}")
        return Past(key, directory)

    def _directory_at(self, parent: Ino, name: bytes, key: KeyId) -> Ino | None:
        live = self._catalog.entry(parent, directory_key(name))
        return live if live is not None else self._core.removed_directory(key)

    def names(self, parent: Ino, after: bytes = b"") -> Iterator[tuple[bytes, bytes, Past]]:
        """(sort name, name, past) of every name with history behind sort name *after*; deleted ones too."""
        for sort_name, _ in self._catalog.keys(parent, after):
            name = sort_name.removesuffix(b"/")
            if sort_name.endswith(b"/") and self._catalog.key(parent, name) is not None:
                continue  # shown with the file of that name
            try:
                yield sort_name, name, self.past(parent, name)
            except NoSuchKey:
                continue

    # -- versions ---------------------------------------------------------------------------------------------

    def versions(self, key: KeyId, before: Seq | None = None) -> Iterator[tuple[Seq, Version]]:
        """The versions of a key, newest first; only those older than *before* if given."""
        return self._catalog.versions(key) if before is None else self._catalog.versions(key, before)

    def version(self, key: KeyId, version_id: str) -> tuple[Seq, Version]:
        """The version with that id. Raises NoSuchVersion, also for text that is no id."""
        seq = parse_version_id(version_id)
        if seq is None:
            seq = self._catalog.null_version(key)
        version = None if seq is None else self._catalog.version(key, Seq(seq))
        if seq is None or version is None or version.null != (version_id == "null"):
            raise NoSuchVersion(f"no version {version_id}")
        return Seq(seq), version

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

    def to_restore(self, key: KeyId) -> tuple[Seq, Version]:
        """The version that `restore` means without an id: the last one with content that is not current."""
        versions = self._catalog.versions(key)
        newest = next(versions, None)
        for seq, version in versions:
            if version.kind is Kind.CONTENT:
                return seq, version
        if newest is None or newest[1].kind is not Kind.CONTENT or self.live(key) is None:
            raise NoSuchVersion("no version to go back to")
        raise NoSuchVersion("there is only one version, the current one")

    # -- changing ---------------------------------------------------------------------------------------------

    def purge(self, key: KeyId, seq: Seq, writer: Writer) -> list[Changed]:
        """Remove a version for good. If it was current, the newest that remains is (a purged marker undeletes)."""
        core, catalog = self._core, self._catalog
        version = catalog.version(key, seq)
        if version is None:
            raise NoSuchVersion(f"no version {format_version_id(seq)}")
        if version.kind not in (Kind.CONTENT, Kind.MARKER):
            raise NotPermitted("the record of a directory cannot be purged")
        changes: list[Change] = [events.VersionGone(key, seq)]
        changed: list[Changed] = []
        newest = [found for _, found in zip(range(2), catalog.versions(key), strict=False)]
        after = newest[1][1] if len(newest) > 1 else None
        orphan = None
        if newest[0][0] == seq:
            where = catalog.key_name(key)
            ino = catalog.entry(where.parent, where.name)
            if ino is None or catalog.draft(ino) is None:  # with a draft: what is being written will be current
                new_ino = None
                old = None if ino is None else catalog.inode(ino)
                if after is not None and after.kind is Kind.CONTENT:
                    if old is None:
                        changed += core.revive(changes, where.parent, writer)
                    new_ino = self._attach(changes, key, newest[1][0], after, old, ino, version)
                if ino is not None and old is not None:
                    orphan = self._let_go(changes, key, ino, old, entry_stays=new_ino is not None)
                changes.append(events.DirectoryTouched(where.parent, core.clock(), 0))
                if after is None:
                    changes.append(events.KeyGone(key))
                changed.append(Changed(where.parent, where.name, ino, new_ino))
        core.commit("purge", changes)
        if orphan is not None:
            self._files.unlinked(orphan)
        return changed

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
        changes.append(events.InodeSet(new, inode))
        changes.append(events.EntrySet(where.parent, where.name, new))
        if ino is not None:
            changes += [
                events.AttributeSet(new, name, self._catalog.attribute(ino, name) or b"")
                for name in self._catalog.attributes(ino)
            ]
        return new

    def _let_go(self, changes: list[Change], key: KeyId, ino: Ino, inode: Inode, *, entry_stays: bool) -> Ino | None:
        """Take a key away from the inode that lived there. Returns it if it is open (an orphan from now on)."""
        where = self._catalog.key_name(key)
        if not entry_stays:
            changes.append(events.EntryGone(where.parent, where.name))
        orphaned = inode.nlink == 1 and self._files.is_open(ino)
        self._core.detach(changes, key, ino, inode, is_open=orphaned)
        return ino if orphaned else None

    def restore(self, version: Version, parent: Ino, name: bytes, writer: Writer) -> list[Changed]:
        """Make a version's content the new current version of a name; content is shared, not copied.

        A live file keeps its attributes; a deleted or new one gets those of the version. The directories above come
        back if they were removed. Raises IsADirectory, NotPermitted (a delete marker has no content), Exists.
        """
        core, catalog = self._core, self._catalog
        if version.kind is not Kind.CONTENT:
            raise NotPermitted("a delete marker has no content to restore")
        check_name(name)
        if catalog.entry(parent, directory_key(name)) is not None:
            raise IsADirectory(f"{show(name)} is a directory")
        ino = catalog.entry(parent, name)
        old = None if ino is None else catalog.inode(ino)
        if ino is not None and old is not None and old.is_file and stat.S_ISREG(version.mode):
            self._files.publish_flushed(ino)
            self._files.replace(ino, version.content, writer)
            return [Changed(parent, name, ino, ino)]
        changes: list[Change] = []
        changed = core.revive(changes, parent, writer)
        key = core.key_for(changes, parent, name)
        now = core.clock()
        bucket = catalog.inode(parent).bucket
        mode, uid, gid = version.mode, version.uid, version.gid
        orphan = None
        if ino is not None and old is not None:
            orphan = self._let_go(changes, key, ino, old, entry_stays=True)
        new = Ino(core.new_id())
        inode = Inode(
            mode, 1, uid, gid, version.rdev, now, now, now, now, bucket, key, Seq(0), version.content, version.target
        )
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

    def list_at(self, parent: Ino, moment: Seq, after: bytes = b"") -> Iterator[tuple[bytes, Seq, Version]]:
        """(sort name, sequence, version) of what a directory held at a moment, in S3's key order.

        A version of kind DIRECTORY leads on through its inode. What was purged since is missing from its past.
        """
        for sort_name, key in self._catalog.keys(parent, after):
            found = self.version_at(key, moment)
            if found is not None:
                yield (sort_name, *found)
