"""The catalog made again in place."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vfs import events, layout, replay, synclog
from vfs.blocks import LOST, Blocks
from vfs.catalog import Catalog
from vfs.check.findings import Progress
from vfs.check.folding import Fold, ReadOnlyDisk, bytes_behind
from vfs.check.probing import how_unreadable
from vfs.disk import Disk, File, RealDisk, copy_with_holes, segments
from vfs.errors import Corrupt
from vfs.folder import Folder
from vfs.holding import LOCK, lock_store
from vfs.journal import FOLDER as JOURNAL
from vfs.journal import Journal, Position
from vfs.store import CATALOG, Store, check_description, open_root

BEFORE = "catalog.before-rebuild"
NEW = "catalog.new"
DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """events: replayed. lost: that the old catalog knew and the journal no longer has. before: where the old catalog
    is, if there was one. cut: where the end of the journal is, if it was cut. kept: damaged blocks put into DAMAGED.
    log: where the sync log is, if it could not be read. last_event: when the last event that is left happened, in µs
    since 1970; 0 if nobody can say. aside: records in ``set-aside/``, now and before. snapshot: when the last event was
    (as above) that a snapshot stands for, with all before it; 0 if there is no snapshot.
    """

    events: int
    lost: int
    before: Path | None
    cut: Path | None
    kept: int = 0
    log: Path | None = None
    last_event: int = 0
    aside: int = 0
    snapshot: int = 0


class Held(NamedTuple):
    """A store that nobody else can open: its directory, and the descriptor of its lock."""

    root: Folder
    lock_fd: int


@contextlib.contextmanager
def hold(path: Path, *, foreign: bool = False, writing: bool = True) -> Iterator[Held]:
    """Hold a store that exists. foreign: see Store.open. Raises NotAStore, StoreInUse.

    One that is not written to may lie on a read-only file system. In one that is, `empty_log` comes next.
    """
    with open_root(path, foreign=foreign) as root:
        layout.check(root, writing=writing)
        check_description(root)
        lock_fd = lock_store(root, tell=writing or _may_tell(root))
        try:
            yield Held(root, lock_fd)
        finally:
            os.close(lock_fd)


def _may_tell(root: Folder) -> bool:
    """Whether the lock file of a store that is only read may be written to: it is on a disk that can be, and no other
    copy of the store has the same.
    """
    lock = root.find(LOCK)
    return not _is_read_only(root) and (lock is None or lock.st_nlink == 1)


def _is_read_only(root: Folder) -> bool:
    return bool(os.statvfs(root.fd).f_flag & os.ST_RDONLY)


def empty_log(root: Folder, *, cut: bool = False) -> Path | None:
    """Put in its place what a crash left in the sync log. Raises Corrupt if there may be something that cannot be read.

    cut: the log goes to ``synclog.cut-<time>`` then, when the rest is in its place. Returns where it is, if so.
    """
    disk = RealDisk(root)
    contents = synclog.read(disk)
    synclog.redo(disk, contents, partly=cut)
    if contents.damage is None:
        return None
    aside = time.strftime("synclog.cut-%Y%m%dT%H%M%SZ", time.gmtime())
    root.rename(synclog.FOLDER, aside)
    root.sync()
    return root.path / aside


def rebuild(path: Path, progress: Progress, *, cut: bool = False, foreign: bool = False) -> Rebuilt:
    """Make the catalog of a store again from its journal and blocks, then open and close the store once with it.

    The new one is made beside the old one. When it is complete, the old one moves to ``catalog.before-rebuild`` (in
    place of an earlier one) and stays there: only somebody who has looked at the result can know that it may go.
    Blocks that are damaged stay damaged: their versions read as Corrupt. What is left of their bytes goes to
    ``damaged/<id>``, because nothing leads to it any more. Records that nobody can apply are set aside (vfs.replay), as
    when a store is opened; with *cut* also those that a newer vfs has written.

    Raises NotAStore, StoreInUse, and Corrupt if the journal is damaged before its end; then everything is as it was.
    cut: what is behind the damage goes to ``journal.cut-<time>`` instead, and with it what happened after. The same of
    a sync log that cannot be read: see `empty_log`; and of blocks that the disk cannot read, which stay where they are.
    foreign: see Store.open.
    """
    with hold(path, foreign=foreign) as (root, lock_fd):
        log = empty_log(root, cut=cut)
        had_old = root.find(CATALOG) is not None
        readable = had_old and not _how_unreadable(root)
        known = _known_record(root) if readable else None
        root.remove_folder(NEW)
        fold = Fold(root.folder(NEW, make=True), ReadOnlyDisk(root), progress)
        disk = fold.disk
        try:
            survey = _survey(disk, known, fold.journal.end)
            cut_to = None
            if survey.damage is not None:
                if not cut:
                    raise survey.damage
                cut_to = _cut(root, disk, survey.end)
            began_at = fold.began_at
            made = _make(fold, survey, RealDisk(root), cut=cut)
        except BaseException:
            fold.close()
            root.remove_folder(NEW)
            raise
        fold.close()
        with root.folder(NEW) as new:
            new.sync()
        kept = _keep_damaged(root, disk) if readable else 0
        if had_old:
            root.remove_folder(BEFORE)
            root.rename(CATALOG, BEFORE)
        root.rename(NEW, CATALOG)
        root.sync()
        try:
            store = Store(root.again(), RealDisk(root), time.time_ns, os.dup(lock_fd))
            store.close()
        except BaseException:
            root.rename(CATALOG, NEW)
            if had_old:
                root.rename(BEFORE, CATALOG)
            raise
        aside = len(replay.kept(RealDisk(root)))
    lost = max(0, (known or 0) - survey.end.number)
    return Rebuilt(
        made + store.recovered,
        lost,
        path / BEFORE if had_old else None,
        cut_to,
        kept,
        log,
        survey.last_event,
        aside,
        began_at,
    )


def _how_unreadable(root: Folder) -> str:
    with root.folder(CATALOG) as folder:
        return how_unreadable(folder)


class _Survey(NamedTuple):
    """What the journal holds: where the records end that can be used, which of them are known to have been durable
    (a record number), the damage if that is not where the journal ends, and when the last event happened (µs).
    """

    end: Position
    durable: int
    damage: Corrupt | None
    last_event: int


def _known_record(root: Folder) -> int | None:
    """The last record that the old catalog knows, None if it cannot say."""
    try:
        catalog = Catalog(root.folder(CATALOG), read_only=True)
    except Corrupt:
        return None
    number = catalog.checkpoint.journal.number
    catalog.close()
    return number


def _survey(disk: Disk, known: int | None, start: Position) -> _Survey:
    """Read the journal once, from where a snapshot ends.

    A torn tail, which a crash leaves, is no damage: opening the store drops it.
    Intact records behind damaged bytes can be either. Nobody can tell if the old catalog cannot: then it is damage.
    """
    journal = Journal(disk)
    journal.end = start
    durable, last = max(known or 0, start.number), 0
    for record in journal.records(start):
        with contextlib.suppress(ValueError, RecursionError):  # set aside, or a newer vfs's: `Fold.replay` tells
            last = events.decode(record.payload).at
        durable = max(durable, record.durable)
        journal.end = record.end
    lost = journal.end.number + 1
    intact_behind = False
    for record in journal.tail():
        intact_behind = True
        durable = max(durable, record.durable)
    damage = None
    if bytes_behind(disk, journal.end) and (durable >= lost or (known is None and intact_behind)):
        damage = Corrupt(
            f"journal/{journal.end.segment:016x} at byte {journal.end.offset}",
            expected=f"record {lost}",
            found="damaged bytes; restore the journal from a copy, or keep what is before with `vfs rebuild --cut`",
        )
    return _Survey(journal.end, min(durable, journal.end.number), damage, last)


def _refuse_unreadable(fold: Fold) -> None:
    """Raise Corrupt if the disk could not read everything: what it reads later would not be found by then."""
    for path, byte, pages in fold.disk.unreadable():
        raise Corrupt(
            f"{path} at byte {byte}",
            expected="bytes",
            found=f"{pages} pages that the disk cannot read; copy the store, as far as it can be read, to a disk that"
            " is well, or do without them by `vfs rebuild --cut`",
        )


def _make(fold: Fold, survey: _Survey, disk: Disk, *, cut: bool) -> int:
    """Fold what is known to have been durable into a new catalog. Returns how many events; recovery does the rest.

    disk: where what nobody can apply is kept. cut: also what a newer vfs has written, and nothing behind it.
    """
    fold.scan_blocks()
    if not cut:
        _refuse_unreadable(fold)
    elif any(fold.disk.unreadable()):
        fold.pass_over_blocks()
    if cut:
        _keep_unknown(fold, disk)
    fold.replay(upto=survey.durable, keep=lambda record, aside: replay.keep(disk, record, aside))
    fold.commit()
    return fold.applied


def _keep_unknown(fold: Fold, disk: Disk) -> None:
    """Set aside what a newer vfs has written."""
    for record in Journal(disk).records(fold.journal.end):
        try:
            replay.read(record)
        except Corrupt as error:
            replay.keep(disk, record, replay.unknown(record, error))


def _keep_damaged(root: Folder, disk: Disk) -> int:
    """Copy the bytes of each block that the old catalog has and the new one has lost. Returns how many."""
    try:
        old = Catalog(root.folder(CATALOG), read_only=True)
    except Exception:  # missing or damaged: then nobody knows where they are
        return 0
    new = Catalog(root.folder(NEW), read_only=True)
    blocks = Blocks(disk, old)
    kept = 0
    try:
        for block, row in new.blocks():
            if row.place != LOST:
                continue
            try:
                before = old.block(block)
                data = b"" if before is None or before.place == LOST else blocks.read_damaged(before.place)
            except Exception:  # a damaged catalog; or there are not even bytes
                continue
            if data:
                with root.folder(DAMAGED, make=True) as folder:
                    folder.replace(block.hex(), block.hex() + ".new", data, durably=False)
                kept += 1
    finally:
        blocks.close()
        new.close()
        old.close()
    return kept


def _cut(root: Folder, disk: Disk, end: Position) -> Path:
    """Move what is behind *end* in the journal into a directory of its own, which is returned."""
    name = time.strftime("journal.cut-%Y%m%dT%H%M%SZ", time.gmtime())
    with root.folder(name, make=True) as aside, root.folder(JOURNAL) as folder:
        behind = [segment for segment in segments(folder.names()) if int(segment, 16) > end.segment]
        torn = f"{end.segment:016x}"
        is_torn = folder.find(torn) is not None
        if is_torn:
            _copy_tail(disk.open(f"{JOURNAL}/{torn}"), end.offset, aside.make(f"{torn}-from-byte-{end.offset}"))
        aside.sync()
        root.sync()  # what was set aside is safe before anything is cut
        for segment in behind:
            folder.rename(segment, segment, aside)
        aside.sync()
        folder.sync()
        if is_torn:
            with open(folder.open(torn, os.O_RDWR), "r+b") as file:
                file.truncate(end.offset)
                os.fsync(file.fileno())
        return aside.path


def _copy_tail(source: File, offset: int, target: int) -> None:
    with contextlib.closing(source), open(target, "wb") as writer:
        copy_with_holes(source, offset, writer)
        writer.flush()
        os.fsync(writer.fileno())
