"""Open files: handles, the working copy that all handles of an inode share, drafts and publishing.

Owns which inodes are open and what changed in them since the last version. A handle's life: open, read or write,
flush (at each close of a descriptor: a draft), release (once: the version). An open file at whose name another door put
something else is *displaced*: it goes on without a name, and what is written to it is published there (ADR 14).
"""

from __future__ import annotations

import contextlib
import logging
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from vfs import events, rules
from vfs.catalog import KeyName
from vfs.content import WorkingCopy
from vfs.core import CAPABILITY, Changed, Core
from vfs.errors import DiskFailed, IsADirectory, NoSpace, NoSuchKey, NotPermitted, VfsError
from vfs.events import Change
from vfs.interims import Interims
from vfs.model import EMPTY, NOBODY, Compression, Content, Draft, Ino, Inode, KeyId, ObjectInfo, Seq, State, Writer
from vfs.names import show
from vfs.openfiles import Handle, OpenFile

log = logging.getLogger("vfs.files")

LOOKED_BACK_MAX = 1000  # versions of a key that are looked at for the last one of an owner's
SETID = stat.S_ISUID | stat.S_ISGID


def setid_bits(mode: int) -> int:
    """The set-id bits of a mode, which a change by others takes away: S_ISGID without S_IXGRP is none (chmod(2))."""
    return SETID if mode & stat.S_IXGRP else stat.S_ISUID


class Safe(NamedTuple):
    """Content that is safe and not published. at: µs since 1970, when it was made so."""

    content: Content
    mtime: int
    at: Seq


class Files:
    """All open files. Invariant: an inode has one OpenFile exactly while it has handles."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._open: dict[Ino, OpenFile] = {}
        self._promised: set[Ino] = set()  # those that are `flushed`, or that a full disk kept from being published
        self._versions: set[WorkingCopy] = set()
        self.on_moved: Callable[[list[Changed]], None] | None = None  # told of names to which displaced files returned
        self.interims = Interims(core, self._open)
        self.kept: dict[Ino, str] = {}  # what a recovery could not publish or drop, and why

    def open_version(self, content: Content) -> WorkingCopy:
        """A version's content for reading; it can be read until `close_version`, though it be purged meanwhile."""
        copy = WorkingCopy(self._core.blocks, content)
        self._versions.add(copy)
        return copy

    def new_content(self, bucket: Ino) -> WorkingCopy:
        """Nothing, to write new content of a bucket to; what is written stays until `close_version`."""
        found = self._core.catalog.bucket(bucket)
        copy = WorkingCopy(self._core.blocks, EMPTY, compress=found.compression is Compression.ZSTD)
        self._versions.add(copy)
        return copy

    def close_version(self, copy: WorkingCopy) -> None:
        """Nobody reads it any more."""
        self._versions.discard(copy)

    def copies(self) -> list[WorkingCopy]:
        """All content that is open."""
        return [*(file.copy for file in self._open.values()), *self._versions]

    def open(self, ino: Ino, writer: Writer, *, truncate: bool = False, created: bool = False) -> Handle:
        """A handle for a regular file. *writer*: whose version it will be if it changes something.

        created: by this call of open(2), which is a change.
        """
        file = self._open.get(ino)
        if file is None:
            inode = self._core.catalog.peek(ino)
            if not inode.is_file:
                if inode.is_dir:
                    raise IsADirectory("a directory is not opened as a file")
                raise NotPermitted("only a regular file has content")
            file = self._reopened(ino, inode, writer)
            self._open[ino] = file
        file.handles += 1
        handle = Handle(ino, file, writer)
        if created:
            handle.mark_changed()
            file.drafted = file.changes
        if truncate:
            self.truncate(handle, 0)
        return handle

    def _reopened(self, ino: Ino, inode: Inode, writer: Writer) -> OpenFile:
        """A file with the newest content that is known of it: a crash and a full disk may have left drafts."""
        catalog = self._core.catalog
        draft, interim = catalog.draft(ino), catalog.interim(ino)
        if interim is not None:
            file = OpenFile(self._interim_copy(ino, inode), interim.writer, interim.mtime)
            file.dirty = True
            return file
        file = OpenFile(self._working_copy(inode, draft.content if draft else inode.content), writer, inode.mtime)
        file.flushed = ino in self._promised
        return file

    def _interim_copy(self, ino: Ino, inode: Inode) -> WorkingCopy:
        """The content of an interim draft. Raises NoSpace."""
        interim = self._core.catalog.interim(ino)
        assert interim is not None, "there is one"
        copy = self._working_copy(inode, interim.content)
        copy.write(interim.content.size, self._core.catalog.tail(ino))
        return copy

    def _working_copy(self, inode: Inode, content: Content) -> WorkingCopy:
        bucket = self._core.catalog.find_bucket(inode.bucket)
        compress = bucket is not None and bucket.compression is Compression.ZSTD
        return WorkingCopy(self._core.blocks, content, compress=compress)

    def safe(self, ino: Ino) -> Safe | None:
        """The newest content of a file that is safe and not published."""
        catalog = self._core.catalog
        interim = catalog.interim(ino)
        if interim is not None:
            size = interim.content.size + interim.tail_bytes
            return Safe(msgspec.structs.replace(interim.content, size=size), interim.mtime, interim.at)
        draft = catalog.draft(ino)
        return None if draft is None else Safe(draft.content, draft.mtime, Seq(draft.ctime // 1000))

    def open_safe(self, ino: Ino) -> WorkingCopy:
        """That content, for reading, as `open_version` gives a version's. Raises NoSuchKey."""
        catalog = self._core.catalog
        interim, draft = catalog.interim(ino), catalog.draft(ino)
        found = interim or draft
        if found is None:
            raise NoSuchKey("nothing is left to be published")
        copy = self.open_version(found.content)
        if interim is not None:
            copy.write(interim.content.size, catalog.tail(ino))
        return copy

    def is_open(self, ino: Ino) -> bool:
        """Whether the inode has handles."""
        return ino in self._open

    def read(self, handle: Handle, offset: int, length: int) -> bytes:
        """Bytes of the shared working copy. Raises Corrupt."""
        return handle.file.copy.read(offset, length)

    def write(self, handle: Handle, offset: int, data: bytes) -> int:
        """Change bytes. Raises NoSpace, TooLarge, Corrupt; then the bytes at *offset* may be old or new."""
        self._changed(handle, offset, len(data))
        return handle.file.copy.write(offset, data)

    def truncate(self, handle: Handle, size: int) -> None:
        """Set the length in bytes; counts as a change also if it was that already (POSIX ftruncate marks mtime)."""
        self._changed(handle, min(size, handle.file.copy.size), 0)
        handle.file.copy.truncate(size)

    def _changed(self, handle: Handle, offset: int, length: int) -> None:
        """Bytes from *offset* on are about to be changed, *length* of them written."""
        file = handle.file
        if not handle.changed:
            self._drop_setid(handle.ino, handle.writer)
        handle.mark_changed()
        file.dirty = True
        file.writer = handle.writer
        file.mtime = file.ctime = self._core.clock()
        self.interims.note(handle.ino, file.pace, file.mtime, offset, length)

    def _drop_setid(self, ino: Ino, writer: Writer) -> None:
        """A write by anybody but root takes the set-id bits away (POSIX write, chmod)."""
        if writer.uid == 0:
            return
        mode = self._core.catalog.peek(ino).mode
        if mode & setid_bits(mode):
            inode = self._core.catalog.inode(ino)
            inode.mode &= ~setid_bits(mode)
            self._core.commit("chmod", [events.InodeSet(ino, inode)])

    def set_mtime(self, ino: Ino, mtime: int) -> None:
        """Somebody set the mtime (ns) of a file that may be open: the version shall have it."""
        file = self._open.get(ino)
        if file is not None:
            file.mtime = mtime

    def overlay(self, ino: Ino, inode: Inode) -> Inode:
        """*inode* with the size and time of what is open and not published."""
        file = self._open.get(ino)
        if file is not None and file.dirty:
            inode.content = Content(file.copy.size, inode.content.root, inode.content.depth, file.copy.holes)
            inode.mtime = file.mtime
            inode.ctime = max(inode.ctime, file.ctime)
        elif (interim := self._core.catalog.interim(ino)) is not None:
            size = interim.content.size + interim.tail_bytes
            inode.content = Content(size, interim.content.root, interim.content.depth, interim.content.holes)
            inode.mtime = interim.mtime
            inode.ctime = max(inode.ctime, interim.ctime)
        elif (draft := self._core.catalog.draft(ino)) is not None:
            inode.content = draft.content
            inode.mtime = draft.mtime
            inode.ctime = max(inode.ctime, draft.ctime)
        return inode

    def flush(self, handle: Handle) -> None:
        """Promise the content so far: make it safe as a draft. Raises NoSpace, DiskFailed; then nothing is lost, try
        again.
        """
        file = handle.file
        if self._core.is_unlinked(handle.ino):
            return  # nobody can ever ask for it again
        if file.dirty:
            self._store_draft(handle.ino, file)
        if file.drafted > file.published:
            file.flushed = True
            self._promised.add(handle.ino)

    def _store_draft(self, ino: Ino, file: OpenFile) -> None:
        draft = Draft(file.copy.seal(), file.mtime, file.ctime, file.writer)
        self._core.commit("draft", [events.DraftSet(ino, draft), *self._drop_interim(ino)])
        file.drafted = file.changes
        file.dirty = False
        self.interims.forget(ino, file.pace)

    def _drop_interim(self, ino: Ino) -> list[Change]:
        return [events.InterimGone(ino)] if self._core.catalog.interim(ino) is not None else []

    def release(self, handle: Handle) -> None:
        """The last reference to the open file description is gone: what it changed becomes a version."""
        file, ino = handle.file, handle.ino
        file.handles -= 1
        last = file.handles == 0
        unlinked = self._core.is_unlinked(ino)
        try:
            if not unlinked and (handle.changed or (last and file.dirty)):
                if file.dirty:
                    self._store_draft(ino, file)
                self.publish(ino)
        finally:
            if last:
                del self._open[ino]
                self.interims.forget(ino, file.pace)
                if self.safe(ino) is not None:
                    self._promised.add(ino)  # the disk was full
        if last and (unlinked or self._core.catalog.displaced(ino) is not None):
            self._drop(ino)

    def _drop(self, ino: Ino) -> None:
        """Let an inode without a name go."""
        changes: list[Change] = [events.DraftGone(ino)] if self._core.catalog.draft(ino) is not None else []
        self._core.commit("drop", [*changes, events.InodeGone(ino), *self._drop_place(ino)])
        self._promised.discard(ino)

    def _drop_place(self, ino: Ino) -> list[Change]:
        """A removed directory goes that was only kept because a displaced file could have been published there."""
        catalog = self._core.catalog
        where = catalog.displaced(ino)
        inode = None if where is None else catalog.find_inode(where.parent)
        if where is None or inode is None or inode.nlink or next(catalog.keys(where.parent), None) is not None:
            return []
        others = any(other != ino and place.parent == where.parent for other, place in catalog.every_displaced())
        return [] if others else [events.InodeGone(where.parent)]

    # -- publishing -------------------------------------------------------------------------------------------

    def publish(self, ino: Ino) -> None:
        """Make the draft of an inode, if it has one, the current version under each of its names."""
        draft = self._core.catalog.draft(ino)
        if draft is None:
            return
        changes: list[Change] = []
        inode = self._core.catalog.inode(ino)
        inode.content = draft.content
        inode.mtime = draft.mtime
        inode.ctime = max(inode.ctime, draft.ctime)
        moved: list[Changed] = []
        where = self._core.catalog.displaced(ino)
        if where is None:
            for key in self._core.names_of(ino, inode):
                name = self._core.catalog.sort_name(key)
                seq = self._core.add_version(changes, key, name, ino, inode, draft.writer)
                if key == inode.key:
                    inode.seq = seq
        else:
            moved = self._return(changes, where, ino, inode, draft.writer)
        changes += [events.InodeSet(ino, inode), events.DraftGone(ino)]
        self._core.commit("publish", changes)
        file = self._open.get(ino)
        if file is not None:
            file.flushed = False
            file.published = file.drafted
        if file is not None or self.safe(ino) is None:
            self._promised.discard(ino)
        if moved and self.on_moved is not None:
            self.on_moved(moved)
        if file is None and self._core.catalog.displaced(ino) is not None and self.safe(ino) is None:
            self._drop(ino)

    def _return(self, changes: list[Change], where: KeyName, ino: Ino, inode: Inode, writer: Writer) -> list[Changed]:
        """Let a displaced file have a version where it stood. If what is there now is another one of its owner's, it
        takes that one's place, as that took its; returns the names. Else only the history has it: below what lives
        there, or below a delete marker.
        """
        core, catalog = self._core, self._core.catalog
        if catalog.find_inode(where.parent) is None or catalog.find_bucket(inode.bucket) is None:
            log.warning("%s was removed for good; so is what was written to it since", show(where.name))
            return []
        live = catalog.entry(*where)
        if live is not None:
            self.publish_flushed(live)
            old = catalog.inode(live)
            if old.is_file and old.uid == inode.uid:
                return self._take_place(changes, core.names_of(live, old), ino, inode, live, old, writer, by=NOBODY)
        if core.state_for(inode.bucket, where.name) is not State.ENABLED:
            return []  # where one version is kept, that is the one that lives, or none
        key = core.key_for(changes, where.parent, where.name)
        self._close(key, inode)
        core.part(changes, where, key, ino, inode, NOBODY)
        if live is None:
            inode.key, inode.seq = key, core.add_version(changes, key, where.name, ino, inode, writer)
            core.add_delete(changes, key, where.name, ino, inode, writer)
        else:
            seq = core.add_version(changes, key, where.name, ino, inode, writer)
            core.close(changes, key, seq, inode.bucket)
            self._add_again(changes, key, where.name, live, old)
        return []

    def _close(self, key: KeyId, inode: Inode) -> None:
        """Let a displaced file be as hard to read as the last file of its owner's at a key was, which may have been
        closed since; if that cannot be told, only its owner reads it.
        """
        versions = (version for _, version in self._core.catalog.versions(key))
        last = next((version for version in islice(versions, LOOKED_BACK_MAX) if version.uid == inode.uid), None)
        mode = inode.mode & stat.S_IRWXU if last is None else last.mode & 0o777
        inode.mode = stat.S_IFMT(inode.mode) | mode
        inode.gid, inode.acl = (inode.gid, b"") if last is None else (last.gid, last.acl)

    def _add_again(self, changes: list[Change], key: KeyId, name: bytes, ino: Ino, inode: Inode) -> None:
        """Let what lives at a key be its newest version once more."""
        newest = next(self._core.catalog.versions(key), None)
        if newest is None or not inode.seq:
            return  # it is not published yet
        info = self._core.catalog.object_info(key, newest[0])
        seq = self._core.add_version(changes, key, name, ino, inode, newest[1].writer, info)
        if inode.key == key:
            inode.seq = seq
            changes.append(events.InodeSet(ino, inode))

    def _inherit(self, changes: list[Change], ino: Ino, inode: Inode, old_ino: Ino, old: Inode, writer: Writer) -> None:
        """Owner, group, mode, ACL and attributes of the file whose place an inode takes; without what nobody keeps who
        is written to by *writer* (POSIX write, capabilities(7)).
        """
        root = writer.uid == 0
        inode.uid, inode.gid, inode.acl = old.uid, old.gid, old.acl
        inode.mode = old.mode if root else old.mode & ~setid_bits(old.mode)
        changes += [events.AttributeGone(ino, name) for name in self._core.catalog.attributes(ino)]
        kept = self._core.attributes_of(old_ino, old)
        self._core.set_attributes(changes, ino, inode, tuple(a for a in kept if root or a[0] != CAPABILITY))

    def publish_all(self, ino: Ino) -> None:
        """Publish also what no close has promised yet."""
        file = self._open.get(ino)
        if file is None:
            self._publish_left(ino)
            return
        if file.dirty and not self._core.is_unlinked(ino):
            self._store_draft(ino, file)
        self.publish(ino)

    def publish_flushed(self, ino: Ino) -> None:
        """Publish, under the names it has now, what some close or fsync has promised: its RELEASE may come later."""
        file = self._open.get(ino)
        if file is None:
            self._publish_left(ino)
        elif file.flushed:
            self.publish(ino)

    def _publish_left(self, ino: Ino) -> None:
        """Publish what a full disk kept a recovery, or the last close, from publishing. If it still does, it stays."""
        if self._core.catalog.interim(ino) is not None:
            try:
                self._draft_interim(ino)
            except NoSpace as error:
                log.warning("what was written to inode %d is still to be published: %s", ino, error)
        self.publish(ino)

    def publish_left(self) -> None:
        """The same of all files that nobody has open."""
        for ino in [ino for ino in self._promised if ino not in self._open]:
            self._publish_left(ino)

    def publish_removed(self, ino: Ino) -> None:
        """Before a file loses a name for good: publish what was promised, and what was written since, if the file has
        history or is no longer young (rules.ATOMIC_SAVE_WINDOW_US). A young file that was never closed leaves nothing.
        """
        file = self._open.get(ino)
        if file is not None and not file.flushed:
            inode = self._core.catalog.peek(ino)
            age_us = (self._core.clock() - inode.btime) // 1000
            if not inode.seq and age_us < rules.ATOMIC_SAVE_WINDOW_US:
                return
        try:
            self.publish_all(ino)
        except NoSpace as error:  # a delete gives space back, and must not fail for lack of it
            log.warning("what was written to a file since its last close goes with it: %s", error)
            self.publish(ino)

    def publish_at(self, parent: Ino, name: bytes) -> None:
        """Publish what was promised of the file at a name, and of those that were displaced from there."""
        if not self._promised:
            return
        catalog = self._core.catalog
        for ino in self._displaced_from(parent, name):
            if ino in self._promised:
                self.publish_flushed(ino)
        live = catalog.entry(parent, name)
        if live is not None and live in self._promised:
            self.publish_flushed(live)

    def _displaced_from(self, parent: Ino, name: bytes) -> list[Ino]:
        return sorted(ino for ino, where in self._core.catalog.every_displaced() if where == (parent, name))

    def keys_of(self, ino: Ino, bucket: Ino) -> Iterator[bytes]:
        """The paths in a bucket at which an inode is published."""
        catalog = self._core.catalog
        inode = catalog.find_inode(ino)
        if inode is None or inode.bucket != bucket:
            return
        displaced = catalog.displaced(ino)
        for where in (
            [catalog.key_name(key) for key in self._core.names_of(ino, inode)] if displaced is None else [displaced]
        ):
            yield self._core.path(where)

    def publish_in(self, bucket: Ino) -> None:
        """Publish what was promised of a bucket's files, before it is removed: of displaced ones, if it is empty."""
        for ino in self.promised():
            if self._core.catalog.peek(ino).bucket == bucket:
                self.publish_flushed(ino)

    def promised(self) -> list[Ino]:
        """The files of which something was promised that is not published."""
        return sorted(self._promised)

    def has_changes(self, ino: Ino) -> bool:
        """Whether the inode has changes that are not published."""
        file = self._open.get(ino)
        catalog = self._core.catalog
        return (file is not None and file.dirty) or catalog.draft(ino) is not None or catalog.interim(ino) is not None

    def empty_draft(self, ino: Ino) -> Draft:
        """A draft of nothing, for a file whose changes no draft has."""
        file = self._open.get(ino) or self._core.catalog.interim(ino)
        assert file is not None, "it has changes"
        return Draft(EMPTY, file.mtime, file.ctime, file.writer)

    def truncate_path(self, ino: Ino, size: int, writer: Writer) -> None:
        """truncate(2): one version at once."""
        handle = self.open(ino, writer)
        try:
            self.truncate(handle, size)
            self.flush(handle)
        finally:
            self.release(handle)

    # -- names that go ----------------------------------------------------------------------------------------

    def leave(self, changes: list[Change], key: KeyId, ino: Ino, inode: Inode, *, displaced: bool = False) -> None:
        """Take one name away from a file's inode, which goes with its last one; if it is open, it works on without.
        displaced: what is written to it is still published there.
        """
        left = ino not in self._open and self._core.catalog.interim(ino) is not None  # the disk is full
        where = self._core.catalog.key_name(key) if (displaced or left) and inode.is_file else None
        self._core.detach(changes, key, ino, inode, is_open=left or ino in self._open, displaced=where)

    def replace(
        self,
        ino: Ino,
        content: Content,
        writer: Writer,
        *,
        where: tuple[Ino, bytes] | None = None,
        operation: str = "restore",
        info: ObjectInfo | None = None,
        also: Iterable[Change] = (),
    ) -> list[Changed]:
        """Put another regular file with stored content in the place of one, as a rename over it would, in one event:
        nothing is copied. It takes owner, group, mode, ACL and attributes of the old one, and its names (where: only
        that one). also: what changes with it. Whoever has the old one open keeps it, displaced. Returns the names that
        lead elsewhere now.
        """
        core = self._core
        self.publish_flushed(ino)
        changes: list[Change] = []
        old = core.catalog.inode(ino)
        keys = core.names_of(ino, old) if where is None or old.nlink == 1 else [core.key_for(changes, *where)]
        now = core.clock()
        new = Ino(core.new_id())
        inode = Inode(old.mode, 1, 0, 0, 0, now, now, now, now, old.bucket, keys[0], content=content)
        moved = self._take_place(changes, keys, new, inode, ino, old, writer, info=info, by=writer)
        core.commit(operation, [*changes, events.InodeSet(new, inode), *also])
        return moved

    def _take_place(
        self,
        changes: list[Change],
        keys: list[KeyId],
        ino: Ino,
        inode: Inode,
        old_ino: Ino,
        old: Inode,
        writer: Writer,
        *,
        by: Writer,
        info: ObjectInfo | None = None,
    ) -> list[Changed]:
        """Give an inode names of another one, a version under each, and its rights. The other one is displaced. Returns
        the names. by: who puts it there.
        """
        core = self._core
        keys = sorted(keys, key=core.catalog.key_name)
        inode.nlink, inode.key, inode.seq = len(keys), keys[0], Seq(0)
        self._inherit(changes, ino, inode, old_ino, old, writer)
        moved = []
        for key in keys:
            where = core.catalog.key_name(key)
            core.enter(changes, where.parent, where.name, key, ino, inode, by)
            seq = core.add_version(changes, key, where.name, ino, inode, writer, info)
            inode.seq = inode.seq or seq
            changes.append(events.DirectoryTouched(where.parent, core.clock(), 0))
            if len(keys) > 1:
                changes += [events.LinkGone(old_ino, key), events.LinkSet(ino, key)]
            moved.append(Changed(where.parent, where.name, old_ino, ino))
        if len(keys) > 1:
            old.nlink = 1  # the names are all gone
        self.leave(changes, keys[0], old_ino, old, displaced=True)
        return moved

    def recover(self) -> int:
        """After a crash: publish every draft, drop every orphan. Returns how many versions that made.

        On a full disk what is left stays as it is, and is safe, until the file is touched or the store is opened again.
        """
        catalog = self._core.catalog
        published = 0
        self.kept.clear()
        try:
            for ino in list(catalog.orphans()):
                with self._keeping(ino):
                    self._drop(ino)
            for ino in sorted(ino for ino, _ in catalog.interims()):
                with self._keeping(ino), contextlib.suppress(NoSpace):  # a draft has room, where this has none
                    self._draft_interim(ino)
            for ino in sorted(ino for ino, _ in catalog.drafts()):  # the same, however they came into memory
                if ino not in self.kept:
                    with self._keeping(ino):
                        self.publish(ino)
                        published += 1
            for ino in sorted(ino for ino, _ in catalog.every_displaced()):
                if ino not in self.kept and self.safe(ino) is None:
                    self._drop(ino)
        except NoSpace as error:
            log.warning("files that were open are still to be published: %s", error)
        left = {ino for ino, _ in (*catalog.drafts(), *catalog.interims()) if ino not in self.kept}
        if left:
            log.warning("%d files that were open are published when there is room", len(left))
        self._promised |= left
        return published

    def _draft_interim(self, ino: Ino) -> None:
        """Make an interim draft, which is all that is left of a file that was open, the draft to publish."""
        interim = self._core.catalog.interim(ino)
        assert interim is not None, "there is one"
        content = self._interim_copy(ino, self._core.catalog.peek(ino)).seal()
        draft = Draft(content, interim.mtime, interim.ctime, interim.writer)
        self._core.commit("draft", [events.DraftSet(ino, draft), events.InterimGone(ino)])

    @contextlib.contextmanager
    def _keeping(self, ino: Ino) -> Iterator[None]:
        """What cannot be done with one file keeps no other from its turn: it stays as it is, and safe."""
        try:
            yield
        except (NoSpace, DiskFailed):
            raise
        except VfsError as error:
            self.kept[ino] = str(error)
            log.warning("what was written to inode %d stays unpublished: %s", ino, error)

    def close(self) -> None:
        """Publish whatever is still open, as its last release would."""
        self.on_moved = None  # no door is left
        for ino, file in sorted(self._open.items()):
            if file.dirty and not self._core.is_unlinked(ino):
                try:
                    self._store_draft(ino, file)
                except NoSpace as error:  # it may have an interim draft; and the others are to be kept
                    log.error("inode %d is kept as it last became safe, not as it is: %s", ino, error)
        self._open.clear()
        self.recover()
