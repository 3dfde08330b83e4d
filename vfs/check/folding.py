"""The catalog made again, from the journal and the blocks alone: what `check` compares with, and what `rebuild` keeps.

Knows nothing of the store's own catalog but how far it had come. Writes only to the new catalog.
"""

from __future__ import annotations

from collections.abc import Callable

from vfs import snapshot
from vfs.blocks import FOLDER as BLOCKS
from vfs.blocks import Blocks, End
from vfs.catalog import FILE, Catalog
from vfs.check.findings import STEP, Progress
from vfs.check.readthrough import ReadThrough
from vfs.disk import Disk, RealFile, refusal, segment_sizes, split
from vfs.errors import ReadOnly
from vfs.events import Event
from vfs.folder import Folder
from vfs.journal import FOLDER as JOURNAL
from vfs.journal import Journal, Position, Record
from vfs.replay import Aside, Replay, contents

ASIDES_MAX = 1000  # records that are to be set aside, named by a check
ROWS_PER_COMMIT_MAX = 20_000  # blocks or events: bounds the pages of the new catalog that are in memory


class ReadOnlyDisk:
    """A Disk that is a directory of the host, and cannot be changed."""

    def __init__(self, root: Folder) -> None:
        self._root = root

    def list(self, folder: str) -> list[str]:
        try:
            with self._root.folder(folder) as opened:
                return opened.names()
        except FileNotFoundError:
            return []

    def open(self, path: str, *, create: bool = False) -> RealFile:
        if create:
            raise ReadOnly(f"{path} cannot be made on a disk that is only read")
        folder, name = split(path)
        where = self._root.path / path
        try:
            with self._root.folder(folder) as opened:
                return RealFile(where, opened.open(name))
        except OSError as error:
            raise refusal(f"cannot open {where}", error) from error

    def remove(self, path: str) -> None:
        raise ReadOnly(f"{path} cannot be removed from a disk that is only read")

    def rename(self, path: str, new: str) -> None:
        raise ReadOnly(f"{path} cannot be renamed on a disk that is only read")


class Fold:
    """A catalog in the making. Invariant: `catalog` is the fold of the records up to `journal.end`, over the places of
    the blocks up to `blocks_end`. `disk` is what it reads from.
    """

    def __init__(self, folder: Folder, disk: Disk, progress: Progress, *, alone: bool = False) -> None:
        """Begin with the last snapshot, if there is one and not *alone*, in an empty directory, which `close` closes.
        Raises Corrupt if that is damaged.

        What the disk cannot read is as damaged as what has a wrong checksum.
        """
        self.disk = disk = ReadThrough(disk)
        self._progress = progress
        snapshots = [] if alone else snapshot.complete(disk)
        if snapshots:
            with open(folder.make(FILE), "wb") as new:
                snapshot.restore(disk, snapshots[-1], new)
        self.catalog = Catalog(folder)
        self.blocks = Blocks(disk, self.catalog)
        self.catalog.attach(self.blocks)
        self.journal = Journal(disk)
        self._records = Replay(self.catalog, disk)
        self.blocks_end = End(0, 0)
        self.found = 0  # blocks
        self.found_bytes = 0  # of their content
        self.applied = 0  # events that change something
        self.last_event = 0  # when the last event happened, in µs since 1970
        self.behind: list[Aside] = []  # what was passed over, and is not kept yet
        self._uncommitted = 0
        self.journal.end = self.journal.locate(self.catalog.checkpoint.journal)
        self._recount = bool(snapshots)
        # When the last event was that a snapshot stands for, in µs since 1970.
        self.began_at = self.catalog.last_seq if snapshots else 0
        if snapshots:
            self.catalog.forget_blocks()  # the snapshot has them where they were then

    def close(self) -> None:
        """Close; what was not committed is lost."""
        self.catalog.close()
        self.blocks.close()

    def scan_blocks(self, upto: End | None = None) -> None:
        """Put the places of the intact blocks behind `blocks_end`, up to *upto*, into the catalog."""
        sizes = segment_sizes(self.disk, BLOCKS)
        total = sum(sizes.values())
        before = _offsets(sizes)
        for found in self.blocks.scan(self.blocks_end):
            if upto is not None and found.end > upto:
                break
            self.catalog.set_block_place(found.block, found.place, node=found.node)
            self.blocks_end = found.end
            self.found += 1
            self.found_bytes += found.place.length
            if self.found % STEP == 0:
                self._progress("blocks", before[found.end.segment] + found.end.offset, total)
            self._row_added()
        if self._recount:
            self.catalog.recount()
            self._recount = False
        self._progress("blocks", total, total)

    def pass_over_blocks(self) -> None:
        """Take all that the segments have for scanned: who opens the store would stumble over what cannot be read."""
        sizes = segment_sizes(self.disk, BLOCKS)
        if sizes:
            last = max(sizes)
            self.blocks_end = End(last, sizes[last])

    def replay(self, *, upto: int | None = None, keep: Callable[[Record, Aside], None] | None = None) -> None:
        """Apply the records behind `journal.end`: up to number *upto*, all of which are known to have been durable, or
        as far as a recovery would go. That ends before a record whose content is not there, if none tells that it was
        durable: its blocks went with the power.

        What nobody can apply is passed over, and noted in `behind`, or handed to *keep*. Raises Corrupt for a record
        that a newer vfs has written.
        """
        journal = self.journal
        if upto is None:
            known = (record.durable for record in journal.records(journal.end))
            journal.durable = max(known, default=journal.durable)
        elif upto <= journal.end.number:
            return
        else:
            journal.durable = max(journal.durable, upto)
        sizes = segment_sizes(self.disk, JOURNAL)
        total = sum(sizes.values())
        before = _offsets(sizes)
        for record in journal.records(journal.end):
            found = self._records.read(record)
            if record.number > journal.durable and self._lost(found):
                break
            self._records.apply(record, found)
            journal.end = record.end
            if isinstance(found, Aside):
                self._note(record, found, keep)
            else:
                self.applied += bool(found.changes)
                self.last_event = found.at
            if record.number % STEP == 0:
                self._progress("journal", before[record.end.segment] + record.end.offset, total)
            self._row_added()
            if record.number == upto:
                break
        self._progress("journal", total, total)

    def _lost(self, found: Event | Aside) -> bool:
        return any(self.catalog.missing(content) is not None for content in contents(found))

    def _note(self, record: Record, aside: Aside, keep: Callable[[Record, Aside], None] | None) -> None:
        if keep is not None:
            keep(record, aside)
        elif len(self.behind) < ASIDES_MAX and self._records.find(record) is None:
            self.behind.append(aside)

    def _row_added(self) -> None:
        self._uncommitted += 1
        if self._uncommitted >= ROWS_PER_COMMIT_MAX:
            self.commit()

    def commit(self) -> None:
        """Make the catalog durable as it is."""
        self.catalog.commit(self.journal.end, self.blocks_end)
        self._uncommitted = 0


def _offsets(sizes: dict[int, int]) -> dict[int, int]:
    """How many bytes lie in the segments before each."""
    before, total = {}, 0
    for segment, size in sizes.items():
        before[segment] = total
        total += size
    return before


def bytes_behind(disk: Disk, end: Position) -> int:
    """How many bytes lie in a journal behind *end*."""
    size = 0
    for segment, length in segment_sizes(disk, JOURNAL).items():
        if segment >= end.segment:
            size += length - (end.offset if segment == end.segment else 0)
    return size
