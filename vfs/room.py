"""The room that is set aside on the disk: how much of it must be there, and who may use it on a full one (ADR 13).

Whatever is accepted has the room for its own removal set aside: journal for the events that delete and purge it, pages
for the commits that follow. So what only removes is never refused, however full the disk is and however much there is.
What changes and adds nothing has a bounded room besides. Decides by the changes of an event, not by its name.
"""

from __future__ import annotations

import logging
from enum import Enum, auto

from vfs import events
from vfs.catalog import Catalog
from vfs.errors import NoSpace
from vfs.events import Event
from vfs.journal import Journal
from vfs.model import Ino, Kind

log = logging.getLogger("vfs.room")

CHANGES_BYTES = 4 << 20  # of journal, beside what removing needs, for what changes on a full disk and adds nothing
GRANT_BYTES = 128 << 10  # of journal that may be written between two looks at the room
GROWTH = 8  # bytes that must be set aside for the removal of what an event of one byte adds, at most
HEADER_BYTES = 64  # of a record and its mark, beside its payload, and a little more

# Bytes of journal that removing a row takes beside the bytes of the row itself: its events, and a share of the marks.
ENTRY_BYTES = 480  # a delete: of an open file two events, and the marker is to be purged
VERSION_BYTES = 160  # a purge
DRAFT_BYTES = 512  # publishing it under one name


_ADDING = {events.DraftSet, events.InterimSet, events.UploadSet, events.PartSet}
_PUBLISHING = {events.DraftGone, events.InterimGone}
_REMOVING = {events.KeyGone, events.UploadGone, events.BucketGone, events.AttributeGone, events.InodeGone}


class Use(Enum):
    """What an event is, on a full disk."""

    FREES = auto()  # it removes, or publishes what was promised: never refused
    CHANGES = auto()  # it adds neither a name nor content
    ADDS = auto()


class Room:
    """Whether there is room for an event. Invariant: as long as nothing was refused, journal and catalog have set aside
    what removing everything takes.
    """

    def __init__(self, journal: Journal, catalog: Catalog) -> None:
        self._journal = journal
        self._catalog = catalog
        self._granted = 0  # bytes of payloads that may still come before the next look
        self._is_short = False

    @property
    def is_short(self) -> bool:
        """Whether the disk is full, or was when it was last looked at."""
        return self._is_short or self._catalog.is_short

    def take(self, event: Event, size: int) -> None:
        """See that an event of *size* bytes may be written. Raises NoSpace."""
        self._granted -= size
        if self._granted < 0 or self._catalog.is_short:
            self._look(event, size)

    def _look(self, event: Event, size: int) -> None:
        needed = removal_bytes(self._catalog)
        wanted = needed + CHANGES_BYTES + GROWTH * (size + GRANT_BYTES)
        if self._journal.room < wanted:
            self._journal.set_aside(wanted + GROWTH * GRANT_BYTES)
        pages = self._catalog.find_room()
        self._is_short = self._journal.room < wanted
        self._granted = 0 if self._is_short else GRANT_BYTES
        if not self.is_short:
            return
        use = use_of(event, self._catalog)
        kept = needed + size + HEADER_BYTES
        if use is Use.ADDS and (not pages or self._journal.room < kept + CHANGES_BYTES + GROWTH * size):
            raise NoSpace("no space left: what is free is set aside for deleting and purging")
        if use is Use.CHANGES and self._journal.room < kept:
            raise NoSpace("no space left: the rest is set aside for deleting and purging")

    def renew(self) -> None:
        """Set aside what the disk has, after something was freed; give back what is not needed any more."""
        self._journal.set_aside(removal_bytes(self._catalog) + CHANGES_BYTES + 2 * GROWTH * GRANT_BYTES)
        self._granted = 0


def removal_bytes(catalog: Catalog) -> int:
    """How many bytes of journal it takes, at most, to delete all that lives, and then to purge everything."""
    rows, table_bytes = catalog.sizes()
    names = catalog.names_of_drafts()
    return (
        ENTRY_BYTES * rows["entries"]
        + VERSION_BYTES * (rows["times"] + rows["uploads"])
        + sum(table_bytes[table] for table in ("entries", "inodes", "versions", "objects"))
        # A marker keeps the attributes of a file, and gives them back to what is undeleted: each name's marker.
        + 2 * table_bytes["attributes"]
        + 3 * catalog.shared_bytes()
        + DRAFT_BYTES * names
    )


def use_of(event: Event, catalog: Catalog) -> Use:
    """What an event is, before it is applied."""
    live: dict[tuple[Ino, bytes], bool] = {}
    versions = 0
    kinds = {type(change) for change in event.changes}
    stacks = False
    for change in event.changes:
        match change:
            case events.EntrySet() | events.EntryGone():
                live[change.parent, change.name] = type(change) is events.EntrySet
            case events.VersionAdded():
                versions += change.version.kind in (Kind.CONTENT, Kind.MARKER)
                stacks = stacks or change.version.kind is Kind.MARKER
            case events.VersionGone():
                versions -= 1
            case _:
                pass
    names = sum(after - (catalog.entry(*where) is not None) for where, after in live.items())
    if not kinds or names < 0 or versions < 0:
        return Use.FREES  # also a purge that brings something back, with the directories above it
    if names > 0 or kinds & _ADDING:
        return Use.ADDS
    if kinds & _PUBLISHING or (kinds & _REMOVING and versions == 0 and events.EntrySet not in kinds):
        return Use.FREES
    # An attribute that is set, not taken over by what takes a file's place; a marker over nothing: no end to those.
    return Use.ADDS if not live and (stacks or events.AttributeSet in kinds) else Use.CHANGES
