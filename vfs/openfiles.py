"""What is known of an open file and of each of its handles. Pure data, of vfs.files and vfs.interims."""

from __future__ import annotations

from vfs.content import WorkingCopy
from vfs.model import Content, Ino, Writer


class Pace:
    """How far the clock has made an open file safe, and what that cost. Invariant: `since` is 0 exactly while a draft,
    an interim draft or a version has everything.
    """

    __slots__ = ("base", "edits", "fresh", "low", "minute", "redone", "since", "tail", "written")

    def __init__(self) -> None:
        self.since = 0  # ns: when the first change was made that is not safe
        self.low = NOWHERE  # where in the file the first byte is that was changed since
        self.base: Content | None = None  # the content of the interim draft, which is followed by
        self.tail = 0  # so many bytes of a tail
        self.edits = 0  # of the working copy, when the interim draft was made
        self.fresh = 0  # bytes that were written since it was safe
        self.minute = 0  # ns: when the minute began in which
        self.written = 0  # bytes written to the file became safe, and
        self.redone = 0  # bytes were written for that by interim drafts


NOWHERE = (1 << 63) - 1


class OpenFile:
    """An inode with at least one handle. Invariants: `dirty` means that `copy` has what no draft has; `flushed` that
    there is a draft which some close or fsync has promised. Changes are counted: `changes` were made since it was
    opened, those up to `drafted` are in a draft or a version, those up to `published` in a version. `pace`: how far an
    interim draft has them.
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
        "pace",
        "published",
        "writer",
    )

    def __init__(self, copy: WorkingCopy, writer: Writer, mtime: int) -> None:
        self.copy = copy
        self.handles = 0
        self.dirty = False
        self.flushed = False
        self.changes = self.drafted = self.published = 0
        self.writer = writer
        self.mtime = mtime  # ns; of the last change, or as set since
        self.ctime = mtime  # ns; of the last change
        self.pace = Pace()


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
