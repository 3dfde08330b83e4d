"""The catalog made again, from the journal and the blocks alone: what `check` compares with, and what `rebuild` keeps.

Knows nothing of the store's own catalog but how far it had come. Writes only to the new catalog.
"""

from __future__ import annotations

from vfs import events, snapshot
from vfs.blocks import FOLDER as BLOCKS
from vfs.blocks import Blocks, End
from vfs.catalog import FILE, Catalog
from vfs.check.findings import STEP, Progress
from vfs.check.readthrough import ReadThrough
from vfs.disk import Disk, RealFile, refusal, segment_sizes, split
from vfs.errors import Corrupt, DiskFailed, NoSpace, ReadOnly
from vfs.events import Event
from vfs.folder import Folder
from vfs.journal import FOLDER as JOURNAL
from vfs.journal import Journal, Position, Record

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
        self.blocks_end = End(0, 0)
        self.found = 0  # blocks
        self.found_bytes = 0  # of their content
        self.applied = 0  # events that change something
        self.last_event = 0  # when the last event happened, in µs since 1970
        self._uncommitted = 0
        self.journal.end = self.journal.locate(self.catalog.checkpoint.journal)
        self._recount = bool(snapshots)
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

    def replay(self, *, upto: int | None = None) -> None:
        """Apply the records behind `journal.end`: up to number *upto*, all of which are known to have been durable, or
        as far as a recovery would go. That ends before a record whose content is not there, if none tells that it was
        durable: its blocks went with the power.

        Raises Corrupt for a record that is intact but cannot be understood or applied.
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
            event = decode(record)
            if record.number > journal.durable and self._lost(event):
                break
            self._apply(record, event)
            journal.end = record.end
            self.applied += bool(event.changes)
            self.last_event = event.at
            if record.number % STEP == 0:
                self._progress("journal", before[record.end.segment] + record.end.offset, total)
            self._row_added()
            if record.number == upto:
                break
        self._progress("journal", total, total)

    def _lost(self, event: Event) -> bool:
        return any(self.catalog.missing(content) is not None for content in events.contents(event))

    def _apply(self, record: Record, event: Event) -> None:
        try:
            self.catalog.apply(event)
        except (NoSpace, DiskFailed):
            raise
        except Exception as error:  # whatever a senseless event makes the tables stumble over
            raise Corrupt(
                _where(record), expected="changes that can be applied", found=f"{event.operation}: {error!r}"
            ) from error

    def _row_added(self) -> None:
        self._uncommitted += 1
        if self._uncommitted >= ROWS_PER_COMMIT_MAX:
            self.commit()

    def commit(self) -> None:
        """Make the catalog durable as it is."""
        self.catalog.commit(self.journal.end, self.blocks_end)
        self._uncommitted = 0


def decode(record: Record) -> Event:
    """The event of a record. Raises Corrupt."""
    try:
        return events.decode(record.payload)
    except Exception as error:  # msgspec.DecodeError, and ValueError for numbers that no enum has
        raise Corrupt(_where(record), expected="an event", found=str(error)) from error


def _where(record: Record) -> str:
    return f"journal record {record.number} (journal/{record.start.segment:016x} at byte {record.start.offset})"


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
