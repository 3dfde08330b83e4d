"""Interim drafts: what is written to files that stay open is made safe by the clock (ADR 15).

Owns which open files have changes that nothing on disk has, and how often that is mended. What a log appends goes into
the record itself (a tail); what is changed elsewhere costs whole blocks, of which a file gets twice what was written to
it, or a MiB a minute; one that would cost more waits, for a minute at most.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vfs import events
from vfs.blocks import BLOCK_BYTES
from vfs.content import NODE_BYTES
from vfs.core import Core
from vfs.errors import Corrupt
from vfs.events import Change
from vfs.model import Ino, Interim, Seq
from vfs.openfiles import NOWHERE, OpenFile, Pace

log = logging.getLogger("vfs.files")

MINUTE_NS = 60_000_000_000
BYTES_A_MINUTE = 1 << 20  # that the interim drafts of a file may write, however little is written to it
REDONE_MAX = 2  # or so many times what was written to it
LEAVES_PER_SLICE_MAX = 8  # stored in one go, about 2 ms
TAILS_BYTES_MAX = 4 << 20  # in one event; the tails of more files are stored as blocks


class Interims:
    """The interim drafts of all open files."""

    def __init__(self, core: Core, files: Mapping[Ino, OpenFile]) -> None:
        self._core = core
        self._files = files
        self._unsafe: set[Ino] = set()

    @property
    def are_due(self) -> bool:
        """Whether any file has changes that are not safe."""
        return bool(self._unsafe)

    def note(self, ino: Ino, pace: Pace, now: int, offset: int, length: int) -> None:
        """*length* bytes at *offset* are being written, or everything behind *offset* is (now: ns)."""
        if not pace.since:
            pace.since = now
            self._unsafe.add(ino)
        if offset < pace.low:
            pace.low = offset
        pace.fresh += length

    def forget(self, ino: Ino, pace: Pace) -> None:
        """A draft has everything, or nobody wants it any more."""
        self._settled(ino, pace)
        pace.base, pace.tail = None, 0

    def _settled(self, ino: Ino, pace: Pace) -> None:
        pace.since, pace.low = 0, NOWHERE
        pace.written += pace.fresh
        pace.fresh = 0
        self._unsafe.discard(ino)

    def make(self) -> Iterator[None]:
        """Make what is due safe, all of it in one event at the end, so that it is of one moment; big changes are stored
        before, a slice for each `next`. Raises NoSpace, DiskFailed; then nothing is lost, try again.
        """
        due = [ino for ino in sorted(self._unsafe) if self._is_due(ino)]
        for ino in due:
            with self._damage_of(ino):
                while (file := self._files.get(ino)) is not None and file.copy.store_some(LEAVES_PER_SLICE_MAX):
                    yield
        self._commit([ino for ino in due if ino in self._unsafe])

    @contextmanager
    def _damage_of(self, ino: Ino) -> Iterator[None]:
        """What cannot be made safe because a stored piece is damaged keeps no other file from it."""
        try:
            yield
        except Corrupt as error:
            log.error("what was written to inode %d, which is open, cannot be made safe: %s", ino, error)
            self._settled(ino, self._files[ino].pace)  # until the next write

    def _commit(self, due: list[Ino]) -> None:
        changes: list[Change] = []
        made: list[tuple[Ino, Pace, Interim]] = []
        inline = 0
        for ino in due:
            file = self._files[ino]
            if self._core.is_unlinked(ino):
                self.forget(ino, file.pace)
                continue
            with self._damage_of(ino):
                change = self._interim(ino, file, inline=inline < TAILS_BYTES_MAX)
                inline += len(change.tail)
                changes.append(change)
                made.append((ino, file.pace, change.interim))
        if not changes:
            return
        self._core.commit("interim", changes)
        for ino, pace, interim in made:
            pace.base, pace.tail = interim.content, interim.tail_bytes
            pace.edits = self._files[ino].copy.edits
            self._settled(ino, pace)

    def _interim(self, ino: Ino, file: OpenFile, *, inline: bool) -> events.InterimSet:
        """The interim draft of a file as it is now."""
        copy, pace = file.copy, file.pace
        at = Seq(self._core.clock() // 1000)
        start = copy.tail_start() if inline else None
        if start is None:
            return events.InterimSet(ino, Interim(copy.seal(), 0, file.mtime, file.ctime, file.writer, at), 0, b"")
        kept = _kept(file, start)
        base = pace.base if kept is not None and pace.base is not None else copy.sealed_until(start)
        kept = kept or 0
        tail = copy.read(start + kept, copy.size - start - kept)
        interim = Interim(base, copy.size - start, file.mtime, file.ctime, file.writer, at)
        return events.InterimSet(ino, interim, kept, tail)

    def _is_due(self, ino: Ino) -> bool:
        """Whether what a file's interim draft would write is within its bounds, or it has waited for a minute."""
        file = self._files[ino]
        pace, now = file.pace, self._core.clock()
        if not 0 <= now - pace.minute < MINUTE_NS:
            pace.minute, pace.written, pace.redone = now, 0, 0
        cost = _cost(file)
        late = not 0 <= now - pace.since < MINUTE_NS
        if not late and pace.redone + cost > max(BYTES_A_MINUTE, REDONE_MAX * (pace.written + pace.fresh)):
            return False
        pace.redone += cost
        return True


def _kept(file: OpenFile, start: int) -> int | None:
    """How many bytes of its last interim draft's tail a file still has, if all before the tail is as it was: else
    None.
    """
    pace = file.pace
    if pace.base is None or pace.base.size != start or pace.edits != file.copy.edits:
        return None
    return pace.tail if pace.low >= start + pace.tail else 0


def _cost(file: OpenFile) -> int:
    """About how many bytes an interim draft would write now."""
    start = file.copy.tail_start()
    if start is None:
        return file.copy.unstored_leaves * BLOCK_BYTES + file.copy.unstored_nodes * NODE_BYTES
    kept = _kept(file, start)
    nodes = 0 if kept is not None else file.copy.unstored_nodes * NODE_BYTES
    return nodes + file.copy.size - start - (kept or 0)
