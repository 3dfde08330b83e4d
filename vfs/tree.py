"""The live tree: names, directories, links, attributes. What a mount's namespace operations do.

Every method makes one atomic change (after publishing what a close has promised, see files). POSIX decides what is
legal; permissions are the door's (the kernel's `default_permissions`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from itertools import islice

import msgspec

from vfs import acl, events, locks, rules
from vfs.core import Core
from vfs.errors import (
    AttributesFull,
    AttributeTooLarge,
    CrossBucket,
    DirectoryNotEmpty,
    Exists,
    InvalidName,
    IsADirectory,
    Locked,
    NameTooLong,
    NoSuchAttribute,
    NoSuchKey,
    NotADirectory,
    NotPermitted,
    TooManyLinks,
)
from vfs.events import Change
from vfs.files import Files, setid_bits
from vfs.journal import PAYLOAD_BYTES_MAX
from vfs.model import EMPTY, STORE_ROOT, Draft, Ino, Inode, KeyId, Kind, Writer, clamp_time
from vfs.names import NAME_BYTES_MAX, check_name, directory_key, is_shown, show

LINKS_MAX = 4096  # names of one inode: a write makes a version under each
AMENDED_NAMES_MAX = 64  # of one inode whose mtime is set: with more of them their versions keep theirs
ATTRIBUTE_BYTES_MAX = 65536  # the kernel's XATTR_SIZE_MAX
ATTRIBUTES_BYTES_MAX = 1 << 20  # of one inode in all, names and values: a delete marker keeps them
TARGET_BYTES_MAX = 4095
VERSION_BYTES = 1024  # of a version in an event, at most, without its ACL
PUBLISHED_BYTES_MAX = PAYLOAD_BYTES_MAX - (1 << 20)  # of the versions under all the names of a file

Gone = tuple[Ino, Inode] | None  # an inode that went with its last name, as it was then: somebody may still hold it


class Tree:
    """Operations on live names."""

    def __init__(self, core: Core, files: Files) -> None:
        self._core = core
        self._catalog = core.catalog
        self._files = files

    # -- reading ----------------------------------------------------------------------------------------------

    def lookup(self, parent: Ino, name: bytes) -> tuple[Ino, Inode]:
        """The inode of a name. A directory hides a file of the same name (only an S3 client can make both)."""
        ino = self._existing(parent, name)
        return ino, self.inode(ino)

    def find(self, parent: Ino, name: bytes) -> Ino | None:
        """The inode of a name, None if there is none. Raises NameTooLong."""
        if len(name) > NAME_BYTES_MAX:
            raise NameTooLong(f"{show(name)!r} is longer than {NAME_BYTES_MAX} bytes")
        return self._catalog.entry(parent, name + b"/") or self._catalog.entry(parent, name)

    def _existing(self, parent: Ino, name: bytes) -> Ino:
        ino = self.find(parent, name)
        if ino is None:
            raise NoSuchKey(f"no {show(name)} here")
        return ino

    def inode(self, ino: Ino) -> Inode:
        """What stat tells, with what is open and not yet published. Raises NoSuchKey."""
        inode = self._catalog.inode(ino)
        return self._files.overlay(ino, inode) if inode.is_file else inode

    def entries(self, parent: Ino, after: bytes = b"") -> Iterator[tuple[bytes, bytes, Ino]]:
        """(sort name, name, inode) of the live entries behind sort name *after*, in S3's key order: of those that a
        mount can show.
        """
        for sort_name, ino in self._catalog.entries(parent, after):
            name = sort_name.removesuffix(b"/")
            if is_shown(name) and (name != sort_name or self._catalog.entry(parent, name + b"/") is None):
                yield sort_name, name, ino

    def parent(self, inode: Inode) -> Ino:
        """The directory above a directory."""
        return self._catalog.key_name(inode.key).parent if inode.key else STORE_ROOT

    def path(self, ino: Ino) -> tuple[Ino, bytes]:
        """The bucket and the key (path in it, one of its names) of an inode, live or removed."""
        inode = self._catalog.inode(ino)
        parts: list[bytes] = []
        while inode.key:
            where = self._catalog.key_name(inode.key)
            parts.append(where.name.removesuffix(b"/"))
            inode = self._catalog.inode(where.parent)
        return inode.bucket, b"/".join(reversed(parts))

    # -- making -----------------------------------------------------------------------------------------------

    def _directory(self, ino: Ino) -> Inode:
        """A directory in which names can be made, not to be changed."""
        inode = self._catalog.peek(ino)
        if not inode.is_dir:
            raise NotADirectory("not a directory")
        if ino == STORE_ROOT:
            raise NotPermitted("only buckets live at the root of a store; make a bucket (mkdir) and put it there")
        if inode.nlink == 0:
            raise NoSuchKey("the directory was removed")
        return inode

    def _new(self, parent: Inode, mode: int, uid: int, gid: int, key: KeyId) -> Inode:
        """A new inode below *parent*."""
        now = self._core.clock()
        mode, gid = handed_down(parent, mode, gid)
        return Inode(mode, 1, uid, gid, 0, now, now, now, now, parent.bucket, key)

    # umask: bits to leave out of the mode, unless the directory has a default ACL, which then holds instead. None: the
    # door has left them out already, and knows no ACLs.

    def create(
        self, parent: Ino, name: bytes, mode: int, gid: int, writer: Writer, umask: int | None = None
    ) -> tuple[Ino, Inode]:
        """A regular file, empty and without a version until it is published. The caller opens it."""
        return self._make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), gid, writer, umask=umask, publish=False)

    def mknod(
        self, parent: Ino, name: bytes, mode: int, rdev: int, gid: int, writer: Writer, umask: int | None = None
    ) -> tuple[Ino, Inode]:
        """A file of any type but directory and symlink; one version."""
        return self._make(parent, name, mode, gid, writer, umask=umask, rdev=rdev)

    def symlink(self, parent: Ino, name: bytes, target: bytes, gid: int, writer: Writer) -> tuple[Ino, Inode]:
        """A symbolic link; one version."""
        if not 1 <= len(target) <= TARGET_BYTES_MAX:
            raise InvalidName(f"the target of a symlink has 1 to {TARGET_BYTES_MAX} bytes")
        return self._make(parent, name, stat.S_IFLNK | 0o777, gid, writer, target=target)

    def _make(
        self,
        parent: Ino,
        name: bytes,
        mode: int,
        gid: int,
        writer: Writer,
        *,
        umask: int | None = None,
        rdev: int = 0,
        target: bytes = b"",
        publish: bool = True,
    ) -> tuple[Ino, Inode]:
        check_name(name)
        above = self._directory(parent)
        self._core.check_free(parent, name)
        changes: list[Change] = []
        key = self._core.key_for(changes, parent, name)
        ino = Ino(self._core.new_id())
        inode = self._new(above, mode, writer.uid, gid, key)
        if umask is not None:
            self.inherit(parent, above, inode, umask)
        inode.rdev = rdev
        inode.target = target
        self._core.enter(changes, parent, name, key, ino, inode, writer)
        if publish:
            inode.seq = self._core.add_version(changes, key, name, ino, inode, writer)
        else:
            changes.append(events.DraftSet(ino, Draft(EMPTY, inode.mtime, inode.ctime, writer)))
        changes.append(events.InodeSet(ino, inode))
        changes.append(events.DirectoryTouched(parent, inode.mtime, 0))
        self._core.commit("create", changes)
        return ino, inode

    def inherit(self, parent: Ino, above: Inode, inode: Inode, umask: int) -> bytes | None:
        """Give a new inode what the default ACL of its directory says, or else the umask (acl(5)). Returns that ACL."""
        default = self._catalog.attribute(parent, acl.DEFAULT) if above.attributes else None
        if default is None:
            inode.mode &= ~umask
        else:
            access, inode.mode = acl.inherited(acl.decode(default), inode.mode)
            inode.acl = b"" if acl.is_plain(access) else acl.encode(access)
        return default

    def mkdir(
        self, parent: Ino, name: bytes, mode: int, gid: int, writer: Writer, umask: int | None = None
    ) -> tuple[Ino, Inode]:
        """A directory; the history of one that was removed at this name goes on in it, if that opens it to nobody."""
        check_name(name)
        above = self._directory(parent)
        self._core.check_free(parent, name)
        changes: list[Change] = []
        key = self._core.key_for(changes, parent, directory_key(name))
        inode = self._new(above, stat.S_IFDIR | stat.S_IMODE(mode), writer.uid, gid, key)
        inode.nlink = 2
        default = None if umask is None else self.inherit(parent, above, inode, umask)
        known = [] if changes else self._catalog.removed(key)  # a key that was just made has no history
        removed = [ino for ino in known if _goes_on(self._catalog.inode(ino), inode)]
        if removed:
            ino = removed[0]
            inode.generation = self._catalog.inode(ino).generation + 1
            changes += [events.AttributeGone(ino, attribute) for attribute in self._catalog.attributes(ino)]
        else:
            ino = Ino(self._core.new_id())
        if default is not None:
            changes.append(events.AttributeSet(ino, acl.DEFAULT, default))
            inode.attributes = True
        inode.seq = self._core.add_version(changes, key, directory_key(name), ino, inode, writer)
        changes.append(events.InodeSet(ino, inode))
        changes.append(events.EntrySet(parent, directory_key(name), ino))
        changes.append(events.DirectoryTouched(parent, inode.mtime, 1))
        self._core.commit("mkdir", changes)
        return ino, inode

    def link(self, ino: Ino, parent: Ino, name: bytes, writer: Writer) -> Inode:
        """Another name for a file, which gets a version with the file's content."""
        check_name(name)
        above = self._directory(parent)
        self._files.publish_flushed(ino)
        inode = self._catalog.inode(ino)
        if inode.is_dir:
            raise NotPermitted("a directory has one name")
        if inode.nlink == 0:
            raise NoSuchKey("the file was removed")
        if inode.bucket != above.bucket:
            raise CrossBucket("a link cannot lead from one bucket into another")
        if inode.nlink >= LINKS_MAX:
            raise TooManyLinks(f"a file has at most {LINKS_MAX} names")
        if not _can_be_published(inode.nlink + 1, inode.acl):
            raise TooManyLinks(f"a file with an ACL of {len(inode.acl)} bytes has at most {inode.nlink} names")
        self._core.check_free(parent, name)
        changes: list[Change] = []
        key = self._core.key_for(changes, parent, name)
        if inode.nlink == 1:
            changes.append(events.LinkSet(ino, inode.key))
        changes.append(events.LinkSet(ino, key))
        inode.nlink += 1
        inode.ctime = self._core.clock()
        self._core.enter(changes, parent, name, key, ino, inode, writer)
        if inode.seq:
            self._core.add_version(changes, key, name, ino, inode, writer)
        changes.append(events.InodeSet(ino, inode))
        changes.append(events.DirectoryTouched(parent, inode.ctime, 0))
        self._core.commit("link", changes)
        return self.inode(ino)

    # -- removing ---------------------------------------------------------------------------------------------

    def unlink(self, parent: Ino, name: bytes, writer: Writer) -> Gone:
        """Delete a key. Works on until the last close for those who have it open."""
        self._directory(parent)
        ino = self._existing(parent, name)
        if self._catalog.peek(ino).is_dir:
            raise IsADirectory(f"{show(name)} is a directory")
        self._files.publish_at(parent, name)
        ino = self._existing(parent, name)
        self._files.publish_removed(ino)
        inode = self._catalog.inode(ino)
        changes: list[Change] = []
        key = self._key(parent, name, inode)
        changes.append(events.EntryGone(parent, name))
        self._core.add_delete(changes, key, name, ino, inode, writer)
        self._files.leave(changes, key, ino, inode)
        changes.append(events.DirectoryTouched(parent, self._core.clock(), 0))
        self._core.commit("unlink", changes)
        return self._gone(ino, inode)

    def _gone(self, ino: Ino, inode: Inode) -> Gone:
        """An inode that went with its last name, if it did: somebody may hold it otherwise than open."""
        return None if inode.nlink or self._files.is_open(ino) else (ino, inode)

    def _key(self, parent: Ino, name: bytes, inode: Inode) -> KeyId:
        """The key of a live name of *inode*."""
        if inode.nlink == 1 or inode.is_dir:
            return inode.key
        key = self._catalog.key(parent, name)
        assert key is not None, "every live entry has a key"
        return key

    def rmdir(self, parent: Ino, name: bytes, writer: Writer) -> Gone:
        """Remove an empty directory; the history below it stays."""
        self._directory(parent)
        ino, inode = self.lookup(parent, name)
        if not inode.is_dir:
            raise NotADirectory(f"{show(name)} is not a directory")
        self._check_empty(ino, name)
        changes: list[Change] = []
        kept = self._core.remove_directory(changes, ino, inode, writer)
        self._core.commit("rmdir", changes)
        return None if kept else _gone_directory(ino, inode, self._core.clock())

    def _check_empty(self, ino: Ino, name: bytes) -> None:
        if next(self._catalog.entries(ino), None) is not None:
            raise DirectoryNotEmpty(f"{show(name)} is not empty")

    # -- renaming ---------------------------------------------------------------------------------------------

    def rename(
        self,
        parent: Ino,
        name: bytes,
        new_parent: Ino,
        new_name: bytes,
        writer: Writer,
        *,
        replace: bool = True,
    ) -> Gone:
        """Give a file or a directory another name, in one event whatever the directory holds (rename(2)).

        Returns what went because it stood at the new name.

        replace=False: raise Exists if the new name is taken (RENAME_NOREPLACE).
        """
        check_name(new_name)
        above = self._directory(parent)
        if above.bucket != self._directory(new_parent).bucket:
            raise CrossBucket("a rename cannot lead from one bucket into another; copy instead")
        ino = self._existing(parent, name)
        is_dir = self._catalog.peek(ino).is_dir
        old_ino = self.find(new_parent, new_name)
        if old_ino is not None:
            if not replace:
                raise Exists(f"{show(new_name)} exists")
            if old_ino == ino:
                return None
            self._check_over(is_dir, old_ino, new_name)
            if not is_dir:
                self._files.publish_at(new_parent, new_name)
                old_ino = self._existing(new_parent, new_name)
                self._files.publish_removed(old_ino)
        if is_dir:
            return self._rename_directory(parent, name, new_parent, new_name, ino, writer)
        return self._rename_file(parent, name, new_parent, new_name, ino, writer)

    def _check_over(self, is_dir: bool, old_ino: Ino, new_name: bytes) -> None:
        if self._catalog.peek(old_ino).is_dir:
            if not is_dir:
                raise IsADirectory(f"{show(new_name)} is a directory")
            self._check_empty(old_ino, new_name)
        elif is_dir:
            raise NotADirectory(f"{show(new_name)} is not a directory")

    def _check_cycle(self, ino: Ino, directory: Ino) -> None:
        while directory != STORE_ROOT:
            if directory == ino:
                raise InvalidName("a directory cannot move into itself")
            directory = self.parent(self._catalog.inode(directory))

    def _rename_directory(
        self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, ino: Ino, writer: Writer
    ) -> Gone:
        self._check_cycle(ino, new_parent)
        changes: list[Change] = []
        inode = self._catalog.inode(ino)
        source, target = directory_key(name), directory_key(new_name)
        now = self._core.clock()
        old_ino = self._catalog.entry(new_parent, target)
        changes.append(events.EntryGone(parent, source))
        self._core.add_delete(changes, inode.key, source, ino, inode, writer)
        changes.append(events.DirectoryTouched(parent, now, -1))
        key = self._core.key_for(changes, new_parent, target)
        gone = None
        if old_ino is not None:
            old = self._catalog.inode(old_ino)
            kept = self._core.drop_directory(changes, old_ino, old)
            gone = None if kept else _gone_directory(old_ino, old, now)
        inode.key = key
        inode.ctime = now
        inode.seq = self._core.add_version(changes, key, target, ino, inode, writer)
        changes.append(events.InodeSet(ino, inode))
        changes.append(events.EntrySet(new_parent, target, ino))
        changes.append(events.DirectoryTouched(new_parent, now, 0 if old_ino is not None else 1))
        self._core.commit("rename", changes)
        return gone

    def _rename_file(
        self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, ino: Ino, writer: Writer
    ) -> Gone:
        self._files.publish_flushed(ino)
        changes: list[Change] = []
        inode = self._catalog.inode(ino)
        source = self._key(parent, name, inode)
        target = self._core.key_for(changes, new_parent, new_name)
        old_ino = self._catalog.entry(new_parent, new_name)
        gone = None
        if old_ino is not None:
            old = self._catalog.inode(old_ino)
            self._files.leave(changes, target, old_ino, old)
            gone = self._gone(old_ino, old)
        changes.append(events.EntryGone(parent, name))
        if inode.nlink > 1:
            changes.append(events.LinkGone(ino, source))
            changes.append(events.LinkSet(ino, target))
        self._core.enter(changes, new_parent, new_name, target, ino, inode, writer)
        seq = self._core.add_version(changes, target, new_name, ino, inode, writer) if inode.seq else inode.seq
        if old_ino is None or not self._is_atomic_save(changes, source, inode, new_name):
            self._core.add_delete(changes, source, name, ino, inode, writer)
        if inode.key == source:
            inode.key = target
            inode.seq = seq
        inode.ctime = self._core.clock()
        changes.append(events.InodeSet(ino, inode))
        changes.append(events.DirectoryTouched(parent, inode.ctime, 0))
        if new_parent != parent:
            changes.append(events.DirectoryTouched(new_parent, inode.ctime, 0))
        self._core.commit("rename", changes)
        return gone

    def _is_atomic_save(self, changes: list[Change], source: KeyId, inode: Inode, new_name: bytes) -> bool:
        """Whether a rename over an existing file is a save: then nothing stays of the name that the file leaves."""
        newest = list(islice(self._catalog.versions(source), 2))
        only = len(newest) == 1 and newest[0][1].kind is Kind.CONTENT
        age_us = self._core.clock() // 1000 - newest[0][0] if newest else 0
        if only:
            try:
                locks.check_purge(self._catalog.object_info(source, newest[0][0]), self._core.clock() // 1000)
            except Locked:
                only = False
        target = self._core.state_for(inode.bucket, new_name)
        if not rules.is_atomic_save(age_us=age_us, only_version=only, over_existing=True, target=target):
            return False
        changes.append(events.VersionGone(source, newest[0][0], inode.bucket))
        changes.append(events.KeyGone(source))
        return True

    def exchange(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, writer: Writer) -> None:
        """Swap two names atomically (RENAME_EXCHANGE): each gets what the other had as its new version."""
        if self._directory(parent).bucket != self._directory(new_parent).bucket:
            raise CrossBucket("an exchange cannot lead from one bucket into another")
        ino, inode = self.lookup(parent, name)
        other_ino, other = self.lookup(new_parent, new_name)
        if ino == other_ino:
            return
        if inode.is_dir:
            self._check_cycle(ino, new_parent)
        if other.is_dir:
            self._check_cycle(other_ino, parent)
        if inode.is_dir != other.is_dir:
            file_parent, file_name = (new_parent, new_name) if other.is_dir else (parent, name)
            if self._catalog.entry(file_parent, file_name) is not None:  # hidden by the directory that leaves
                raise Exists(f"{show(file_name)} is also a file, which only shows without the directory")
        self._files.publish_flushed(ino)
        self._files.publish_flushed(other_ino)
        inode, other = self._catalog.inode(ino), self._catalog.inode(other_ino)
        changes: list[Change] = []
        same = inode.is_dir == other.is_dir
        old_key = self._leave(changes, parent, name, ino, inode, writer, marker=not same)
        new_key = self._leave(changes, new_parent, new_name, other_ino, other, writer, marker=not same)
        self._arrive(changes, new_parent, new_name, ino, inode, old_key, writer)
        self._arrive(changes, parent, name, other_ino, other, new_key, writer)
        self._core.commit("exchange", changes)

    def _leave(
        self, changes: list[Change], parent: Ino, name: bytes, ino: Ino, inode: Inode, writer: Writer, *, marker: bool
    ) -> KeyId:
        sort_name = directory_key(name) if inode.is_dir else name
        key = self._key(parent, sort_name, inode)
        changes.append(events.EntryGone(parent, sort_name))
        if marker:
            self._core.add_delete(changes, key, sort_name, ino, inode, writer)
        changes.append(events.DirectoryTouched(parent, self._core.clock(), -1 if inode.is_dir else 0))
        return key

    def _arrive(
        self, changes: list[Change], parent: Ino, name: bytes, ino: Ino, inode: Inode, old_key: KeyId, writer: Writer
    ) -> None:
        sort_name = directory_key(name) if inode.is_dir else name
        key = self._core.key_for(changes, parent, sort_name)
        if inode.nlink > 1 and not inode.is_dir:
            changes.append(events.LinkGone(ino, old_key))
            changes.append(events.LinkSet(ino, key))
        if inode.is_dir:
            changes.append(events.EntrySet(parent, sort_name, ino))
        else:
            self._core.enter(changes, parent, sort_name, key, ino, inode, writer)
        seq = self._core.add_version(changes, key, sort_name, ino, inode, writer) if inode.seq else inode.seq
        if inode.key == old_key:
            inode.key = key
            inode.seq = seq
        inode.ctime = self._core.clock()
        changes.append(events.InodeSet(ino, inode))
        changes.append(events.DirectoryTouched(parent, inode.ctime, 1 if inode.is_dir else 0))

    # -- attributes -------------------------------------------------------------------------------------------

    def set_attributes(
        self,
        ino: Ino,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime: int | None = None,
        mtime: int | None = None,
    ) -> Inode:
        """chmod, chown, utimensat (times in ns): no version, they belong to the key. ctime becomes now. A time that
        cannot be stored becomes the nearest one that can, as on any file system. An mtime that is given to what is
        published is also that of the current version: many programs set it when they have closed.

        Nothing given: somebody is about to write who may not keep set-id bits; they go, as
        with a chown, of anything but a directory.
        """
        inode = self._catalog.inode(ino)
        if mode is not None:
            inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
        atime = None if atime is None else clamp_time(atime)
        mtime = None if mtime is None else clamp_time(mtime)
        chown = uid is not None or gid is not None
        if chown:
            inode.uid = inode.uid if uid is None else uid
            inode.gid = inode.gid if gid is None else gid
        if mode is None and not inode.is_dir and (chown or (atime is None and mtime is None)):
            inode.mode &= ~setid_bits(inode.mode)
        inode.atime = inode.atime if atime is None else atime
        if mtime is not None:
            inode.mtime = mtime
        inode.ctime = self._core.clock()
        changes: list[Change] = [events.InodeSet(ino, inode)]
        draft, interim = self._catalog.draft(ino), self._catalog.interim(ino)
        if draft is not None and mtime is not None:
            changes.append(events.DraftSet(ino, Draft(draft.content, mtime, draft.ctime, draft.writer)))
        if interim is not None and mtime is not None:
            changes.append(
                events.InterimSet(ino, msgspec.structs.replace(interim, mtime=mtime), interim.tail_bytes, b"")
            )
        if mtime is not None and not inode.is_dir and not self._files.has_changes(ino):
            self._amend(changes, ino, inode)
        self._core.commit("attributes", changes)
        if mtime is not None:
            self._files.set_mtime(ino, mtime)
        return self.inode(ino)

    def _amend(self, changes: list[Change], ino: Ino, inode: Inode) -> None:
        """Let the current version of each name of a file have the file's mtime."""
        if not 0 < inode.nlink <= AMENDED_NAMES_MAX:
            return
        for key in self._core.names_of(ino, inode):
            newest = next(self._catalog.versions(key), None)
            if newest is not None and newest[1].ino == ino and newest[1].mtime != inode.mtime:
                version = msgspec.structs.replace(newest[1], mtime=inode.mtime)
                self._core.replace_version(changes, key, newest[0], version, inode.bucket)

    def find_attribute(self, ino: Ino, name: bytes) -> bytes | None:
        """An extended attribute, None if it is not set."""
        return self._catalog.attribute(ino, name)

    def list_attributes(self, ino: Ino) -> list[bytes]:
        """The names of the extended attributes."""
        return self._catalog.attributes(ino)

    def set_attribute(self, ino: Ino, name: bytes, value: bytes) -> None:
        """Set an extended attribute; no version."""
        if len(value) > ATTRIBUTE_BYTES_MAX:
            raise AttributeTooLarge(f"an attribute has at most {ATTRIBUTE_BYTES_MAX} bytes")
        inode = self._catalog.inode(ino)
        others = self._core.attributes_of(ino, inode) if inode.attributes else ()
        if sum(len(other) + len(kept) for other, kept in others if other != name) + len(value) > ATTRIBUTES_BYTES_MAX:
            raise AttributesFull(f"the attributes of a file have at most {ATTRIBUTES_BYTES_MAX} bytes in all")
        inode.ctime = self._core.clock()
        inode.attributes = True
        self._core.commit("setxattr", [events.AttributeSet(ino, name, value), events.InodeSet(ino, inode)])

    def remove_attribute(self, ino: Ino, name: bytes) -> None:
        """Remove an extended attribute. Raises NoSuchAttribute."""
        if self._catalog.attribute(ino, name) is None:
            raise NoSuchAttribute(f"no attribute {show(name)}")
        inode = self._catalog.inode(ino)
        inode.ctime = self._core.clock()
        self._core.commit("removexattr", [events.AttributeGone(ino, name), events.InodeSet(ino, inode)])

    def find_acl(self, ino: Ino, name: bytes) -> bytes:
        """An ACL, acl.ACCESS or acl.DEFAULT, in its stored form; empty if there is none."""
        if name == acl.DEFAULT:
            return self._catalog.attribute(ino, name) or b""
        inode = self._catalog.inode(ino)
        return acl.shown(inode.acl, inode.mode)

    def set_acl(self, ino: Ino, name: bytes, value: bytes, *, keep_setgid: bool) -> None:
        """Give an inode an ACL, and the permission bits that go with it. Raises InvalidName if *value* is none.

        keep_setgid: the caller is root or in the inode's group; else a chmod takes that bit away, and so does this.
        """
        entries = acl.decode(value)
        if name == acl.DEFAULT:
            self.set_attribute(ino, name, value)
            return
        inode = self._catalog.inode(ino)
        inode.mode = acl.mode_with(entries, inode.mode)
        if not keep_setgid:
            inode.mode &= ~stat.S_ISGID
        self._set_access(ino, inode, b"" if acl.is_plain(entries) else acl.encode(entries))

    def remove_acl(self, ino: Ino, name: bytes) -> None:
        """Take an ACL away, if there is one; the permission bits stay."""
        if name == acl.ACCESS:
            self._set_access(ino, self._catalog.inode(ino), b"")
        elif self._catalog.attribute(ino, name) is not None:
            self.remove_attribute(ino, name)

    def _set_access(self, ino: Ino, inode: Inode, value: bytes) -> None:
        if len(value) > ATTRIBUTE_BYTES_MAX:
            raise AttributeTooLarge(f"an ACL has at most {ATTRIBUTE_BYTES_MAX} bytes")
        if not _can_be_published(inode.nlink, value) and len(value) > len(inode.acl):
            raise AttributesFull(f"an ACL of {len(value)} bytes is too large for a file with {inode.nlink} names")
        inode.acl = value
        inode.ctime = self._core.clock()
        self._core.commit("setxattr", [events.InodeSet(ino, inode)])


def handed_down(parent: Inode, mode: int, gid: int) -> tuple[int, int]:
    """Mode and group of what is made in a directory, which hands down its group if it is setgid (inode(7))."""
    if not parent.mode & stat.S_ISGID:
        return mode, gid
    return mode | (stat.S_ISGID if stat.S_ISDIR(mode) else 0), parent.gid


def _gone_directory(ino: Ino, inode: Inode, now: int) -> Gone:
    inode.nlink = 0
    inode.ctime = now
    return ino, inode


def _can_be_published(links: int, value: bytes) -> bool:
    """Whether a version under each name of a file, with its ACL, is one event that the journal takes."""
    return links * (VERSION_BYTES + len(value)) <= PUBLISHED_BYTES_MAX


def _goes_on(removed: Inode, made: Inode) -> bool:
    """Whether a removed directory's history may go on in a new one, which says who may look at it: its owner made that,
    or root did and lets nobody in who was kept out before.
    """
    if removed.uid == made.uid:
        return True
    mode = acl.mode_without(removed.acl, removed.mode)
    everybody = mode & (mode >> 3) & (mode >> 6) & 7
    return made.uid == 0 and not removed.acl and not ((made.mode | made.mode >> 3) & 7) & ~everybody
