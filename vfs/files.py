"""Open files: handles, the working copy that all handles of an inode share, drafts and publishing.

Owns which inodes are open and what changed in them since the last version. A handle's life: open, read or write,
flush (at each close of a descriptor: a draft), release (once: the version).
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable

from vfs import events
from vfs.content import WorkingCopy
from vfs.core import Core
from vfs.errors import IsADirectory, NoSpace, NotPermitted
from vfs.events import Change
from vfs.model import EMPTY, Compression, Content, Draft, Ino, Inode, ObjectInfo, Writer

log = logging.getLogger("vfs.files")

SETID = stat.S_ISUID | stat.S_ISGID


def setid_bits(mode: int) -> int:
    """The set-id bits of a mode, which a change by others takes away: S_ISGID without S_IXGRP is none (chmod(2))."""
    return SETID if mode & stat.S_IXGRP else stat.S_ISUID


class OpenFile:
    """An inode with at least one handle. Invariants: `dirty` means that `copy` has what no draft has; `flushed` that
    there is a draft which some close has promised. Changes are counted: `changes` were made since it was opened, those
    up to `drafted` are in a draft or a version, those up to `published` in a version.
    """

    __slots__ = (
        "changes",
        "copy",
        "ctime",
        "dirty",
        "drafted",
        "flushed",
        "handles",
        "mtime",
        "published",
        "unlinked",
        "writer",
    )

    def __init__(self, copy: WorkingCopy, writer: Writer, mtime: int) -> None:
        self.copy = copy
        self.handles = 0
        self.dirty = False
        self.flushed = False
        self.changes = self.drafted = self.published = 0
        self.unlinked = False
        self.writer = writer
        self.mtime = mtime  # ns; of the last change, or as set since
        self.ctime = mtime  # ns; of the last change


class Handle:
    """One open file description."""

    __slots__ = ("_changed_at", "file", "ino", "writer")

    def __init__(self, ino: Ino, file: OpenFile, writer: Writer) -> None:
        self.ino = ino
        self.file = file
        self.writer = writer
        self._changed_at = 0

    @property
    def changed(self) -> bool:
        """Whether something was changed through this handle that is in no version."""
        return self._changed_at > self.file.published

    def mark_changed(self) -> None:
        """Something is being changed through this handle."""
        self.file.changes += 1
        self._changed_at = self.file.changes


class Files:
    """All open files. Invariant: an inode has one OpenFile exactly while it has handles."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._open: dict[Ino, OpenFile] = {}
        self._versions: set[WorkingCopy] = set()

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
            draft = self._core.catalog.draft(ino)
            copy = self._working_copy(inode, draft.content if draft else inode.content)
            file = OpenFile(copy, writer, inode.mtime)
            file.unlinked = file.dirty = inode.nlink == 0
            self._open[ino] = file
        file.handles += 1
        handle = Handle(ino, file, writer)
        if created:
            handle.mark_changed()
            file.drafted = file.changes
        if truncate:
            self.truncate(handle, 0)
        return handle

    def _working_copy(self, inode: Inode, content: Content) -> WorkingCopy:
        bucket = self._core.catalog.find_bucket(inode.bucket)
        compress = bucket is not None and bucket.compression is Compression.ZSTD
        return WorkingCopy(self._core.blocks, content, compress=compress)

    def is_open(self, ino: Ino) -> bool:
        """Whether the inode has handles."""
        return ino in self._open

    def read(self, handle: Handle, offset: int, length: int) -> bytes:
        """Bytes of the shared working copy. Raises Corrupt."""
        return handle.file.copy.read(offset, length)

    def write(self, handle: Handle, offset: int, data: bytes) -> int:
        """Change bytes. Raises NoSpace, TooLarge, Corrupt; then the bytes at *offset* may be old or new."""
        self._changed(handle)
        return handle.file.copy.write(offset, data)

    def truncate(self, handle: Handle, size: int) -> None:
        """Set the length in bytes; counts as a change also if it was that already (POSIX ftruncate marks mtime)."""
        self._changed(handle)
        handle.file.copy.truncate(size)

    def _changed(self, handle: Handle) -> None:
        file = handle.file
        if not handle.changed:
            self._drop_setid(handle.ino, handle.writer)
        handle.mark_changed()
        file.dirty = True
        file.writer = handle.writer
        file.mtime = file.ctime = self._core.clock()

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
        elif (draft := self._core.catalog.draft(ino)) is not None:
            inode.content = draft.content
            inode.mtime = draft.mtime
            inode.ctime = max(inode.ctime, draft.ctime)
        return inode

    def flush(self, handle: Handle) -> None:
        """Make the content so far safe as a draft. Raises NoSpace, DiskFailed; then nothing is lost, try again."""
        file = handle.file
        if file.unlinked:
            return  # nobody can ever ask for it again
        if file.dirty:
            self._store_draft(handle.ino, file)
        if handle.changed:
            file.flushed = True

    def _store_draft(self, ino: Ino, file: OpenFile) -> None:
        draft = Draft(file.copy.seal(), file.mtime, file.ctime, file.writer)
        self._core.commit("draft", [events.DraftSet(ino, draft)])
        file.drafted = file.changes
        file.dirty = False

    def release(self, handle: Handle) -> None:
        """The last reference to the open file description is gone: what it changed becomes a version."""
        file, ino = handle.file, handle.ino
        file.handles -= 1
        last = file.handles == 0
        try:
            if not file.unlinked and (handle.changed or (last and file.dirty)):
                if file.dirty:
                    self._store_draft(ino, file)
                self.publish(ino)
        finally:
            if last:
                del self._open[ino]
        if last and file.unlinked:
            self._core.commit("drop", [*self._drop_draft(ino), events.InodeGone(ino)])

    def _drop_draft(self, ino: Ino) -> list[Change]:
        return [events.DraftGone(ino)] if self._core.catalog.draft(ino) is not None else []

    def publish(self, ino: Ino) -> None:
        """Make the draft of an inode, if it has one, the current version under each of its names."""
        draft = self._core.catalog.draft(ino)
        if draft is not None:
            self._publish("publish", ino, draft)

    def _publish(
        self,
        operation: str,
        ino: Ino,
        draft: Draft,
        info: ObjectInfo | None = None,
        also: Iterable[Change] = (),
        *,
        foreign: bool = False,
    ) -> None:
        """Make *draft* the current version under each name of an inode. foreign: it has nothing of what the handles
        changed, which is still to be published.
        """
        core = self._core
        changes: list[Change] = []
        inode = core.catalog.inode(ino)
        inode.content = draft.content
        inode.mtime = draft.mtime
        inode.ctime = max(inode.ctime, draft.ctime)
        for key in core.names_of(ino, inode):
            name = core.catalog.sort_name(key)
            seq = core.add_version(changes, key, name, ino, inode, draft.writer, info)
            if key == inode.key:
                inode.seq = seq
        changes.append(events.InodeSet(ino, inode))
        if core.catalog.draft(ino) is not None and not foreign:
            changes.append(events.DraftGone(ino))
        changes += also
        core.commit(operation, changes)
        file = self._open.get(ino)
        if file is not None and not foreign:
            file.flushed = False
            file.published = file.drafted

    def publish_all(self, ino: Ino) -> None:
        """Publish also what no close has promised yet, before something else becomes current."""
        file = self._open.get(ino)
        if file is not None and file.dirty and not file.unlinked:
            self._store_draft(ino, file)
        self.publish(ino)

    def has_changes(self, ino: Ino) -> bool:
        """Whether the inode has changes that are not published."""
        file = self._open.get(ino)
        return (file is not None and file.dirty) or self._core.catalog.draft(ino) is not None

    def _is_written(self, ino: Ino) -> bool:
        """Whether somebody is in the middle of writing: there are changes that no close has promised."""
        file = self._open.get(ino)
        if file is None:
            return False
        return file.dirty or (not file.flushed and self._core.catalog.draft(ino) is not None)

    def empty_draft(self, ino: Ino) -> Draft:
        """A draft of nothing, for an open file whose changes no draft has."""
        file = self._open[ino]
        return Draft(EMPTY, file.mtime, file.ctime, file.writer)

    def publish_flushed(self, ino: Ino) -> None:
        """Publish, under the names it has now, what some close has promised: its RELEASE may come after a rename."""
        file = self._open.get(ino)
        if file is None or file.flushed:
            self.publish(ino)

    def unlinked(self, ino: Ino) -> None:
        """The inode lost its last name while open: its bytes are in the working copy until the last release."""
        file = self._open[ino]
        file.unlinked = file.dirty = True

    def truncate_path(self, ino: Ino, size: int, writer: Writer) -> None:
        """truncate(2): one version at once."""
        handle = self.open(ino, writer)
        try:
            self.truncate(handle, size)
            self.flush(handle)
        finally:
            self.release(handle)

    def replace(
        self,
        ino: Ino,
        content: Content,
        writer: Writer,
        *,
        operation: str = "restore",
        info: ObjectInfo | None = None,
        also: Iterable[Change] = (),
        beside: bool = False,
    ) -> None:
        """Give a regular file stored content as its new current version, in one event: nothing is copied. also: what
        changes with it.

        Who has the file open sees it; what was changed there is published before. beside: who is just writing there
        goes on with its own content, which is the version after this one when it closes. So none is a mixture.
        """
        beside = beside and self._is_written(ino)
        if not beside:
            self.publish_all(ino)
        self._drop_setid(ino, writer)
        if writer.uid != 0 and (changes := self._core.drop_capability(ino)):
            self._core.commit("removexattr", changes)
        now = self._core.clock()
        self._publish(operation, ino, Draft(content, now, now, writer), info, also, foreign=beside)
        if not beside:
            self.reset(ino, content)

    def reset(self, ino: Ino, content: Content) -> None:
        """Something else is current now: whoever has the file open sees it."""
        file = self._open.get(ino)
        if file is not None:
            file.copy = self._working_copy(self._core.catalog.peek(ino), content)
            file.published = file.drafted = file.changes

    def recover(self) -> int:
        """After a crash: publish every draft, drop every orphan. Returns how many versions that made.

        On a full disk what is left stays as it is, and is safe, until the file is touched or the store is opened again.
        """
        core = self._core
        published = 0
        try:
            for ino in list(core.catalog.orphans()):
                core.commit("drop", [*self._drop_draft(ino), events.InodeGone(ino)])
            for ino in sorted(ino for ino, _ in core.catalog.drafts()):  # the same, however they came into memory
                self.publish(ino)
                published += 1
        except NoSpace as error:
            log.warning("files that were open are still to be published: %s", error)
        return published

    def close(self) -> None:
        """Publish whatever is still open, as its last release would."""
        for ino, file in sorted(self._open.items()):
            if file.dirty and not file.unlinked:
                self._store_draft(ino, file)
        self._open.clear()
        self.recover()
