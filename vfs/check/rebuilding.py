"""The catalog made again in place."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vfs import synclog
from vfs.blocks import LOST, Blocks
from vfs.catalog import Catalog
from vfs.check.findings import Progress
from vfs.check.folding import Fold, ReadOnlyDisk, bytes_behind, decode
from vfs.check.probing import how_unreadable
from vfs.disk import Disk, File, RealDisk, segments, sync_directory
from vfs.errors import Corrupt, NotAStore
from vfs.journal import FOLDER as JOURNAL
from vfs.journal import Journal, Position
from vfs.store import DESCRIPTION, Store, check_description, lock_store

BEFORE = "catalog.before-rebuild"
NEW = "catalog.new"
DAMAGED = "damaged"
COPY_BYTES = 1 << 20  # at once


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """events: replayed. lost: that the old catalog knew and the journal no longer has. before: where the old catalog
    is, if there was one. cut: where the end of the journal is, if it was cut. kept: damaged blocks put into DAMAGED.
    log: where the sync log is, if it could not be read. last_event: when the last event that is left happened, in µs
    since 1970; 0 if nobody can say.
    """

    events: int
    lost: int
    before: Path | None
    cut: Path | None
    kept: int = 0
    log: Path | None = None
    last_event: int = 0


@contextlib.contextmanager
def hold(path: Path, *, writing: bool = True) -> Iterator[int]:
    """Hold a store that exists; the descriptor of its lock. Raises NotAStore, StoreInUse.

    One that is not written to may lie on a read-only file system. In one that is, `empty_log` comes next.
    """
    if not (path / DESCRIPTION).is_file():
        raise NotAStore(f"{path} is no vfs store (it has no {DESCRIPTION}); name the directory of a store")
    check_description(path)
    try:
        lock_fd = lock_store(path, tell=writing or not _is_read_only(path))
    except OSError as error:
        raise NotAStore(f"{path} cannot be locked: {error.strerror}") from error
    try:
        yield lock_fd
    finally:
        os.close(lock_fd)


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def empty_log(path: Path, *, cut: bool = False) -> Path | None:
    """Put in its place what a crash left in the sync log. Raises Corrupt if there may be something that cannot be read.

    cut: the log goes to ``synclog.cut-<time>`` then, when the rest is in its place. Returns where it is, if so.
    """
    disk = RealDisk(path)
    contents = synclog.read(disk)
    synclog.redo(disk, contents, partly=cut)
    if contents.damage is None:
        return None
    aside = path / time.strftime("synclog.cut-%Y%m%dT%H%M%SZ", time.gmtime())
    os.rename(path / synclog.FOLDER, aside)
    sync_directory(path)
    return aside


def rebuild(path: Path, progress: Progress, *, cut: bool = False) -> Rebuilt:
    """Make the catalog of a store again from its journal and blocks, then open and close the store once with it.

    The new one is made beside the old one. When it is complete, the old one moves to ``catalog.before-rebuild`` (in
    place of an earlier one) and stays there: only somebody who has looked at the result can know that it may go.
    Blocks that are damaged stay damaged: their versions read as Corrupt. What is left of their bytes goes to
    ``damaged/<id>``, because nothing leads to it any more.

    Raises NotAStore, StoreInUse, and Corrupt if the journal is damaged before its end; then everything is as it was.
    cut: what is behind the damage goes to ``journal.cut-<time>`` instead, and with it what happened after. The same of
    a sync log that cannot be read: see `empty_log`; and of blocks that the disk cannot read, which stay where they are.
    """
    with hold(path) as lock_fd:
        log = empty_log(path, cut=cut)
        old = path / "catalog"
        had_old = old.exists()
        readable = not how_unreadable(old)
        known = _known_record(old) if readable else None
        shutil.rmtree(path / NEW, ignore_errors=True)
        fold = Fold(path / NEW, ReadOnlyDisk(path), progress)
        disk = fold.disk
        try:
            survey = _survey(disk, known, fold.journal.end)
            cut_to = None
            if survey.damage is not None:
                if not cut:
                    raise survey.damage
                cut_to = _cut(path, disk, survey.end)
            events = _make(fold, survey, cut=cut)
        except BaseException:
            fold.close()
            shutil.rmtree(path / NEW, ignore_errors=True)
            raise
        fold.close()
        sync_directory(path / NEW)
        kept = _keep_damaged(path, disk) if readable else 0
        if had_old:
            shutil.rmtree(path / BEFORE, ignore_errors=True)
            os.rename(old, path / BEFORE)
        os.rename(path / NEW, old)
        sync_directory(path)
        try:
            store = Store(path, RealDisk(path), time.time_ns, os.dup(lock_fd))
            store.close()
        except BaseException:
            os.rename(old, path / NEW)
            if had_old:
                os.rename(path / BEFORE, old)
            raise
    lost = max(0, (known or 0) - survey.end.number)
    return Rebuilt(
        events + store.recovered, lost, path / BEFORE if had_old else None, cut_to, kept, log, survey.last_event
    )


class _Survey(NamedTuple):
    """What the journal holds: where the records end that can be used, which of them are known to have been durable
    (a record number), the damage if that is not where the journal ends, and when the last event happened (µs).
    """

    end: Position
    durable: int
    damage: Corrupt | None
    last_event: int


def _known_record(old: Path) -> int | None:
    """The last record that the old catalog knows, None if it cannot say."""
    try:
        catalog = Catalog(old, read_only=True)
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
        try:
            last = decode(record).at
        except Corrupt as error:
            return _Survey(journal.end, min(durable, journal.end.number), error, last)
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


def _make(fold: Fold, survey: _Survey, *, cut: bool) -> int:
    """Fold what is known to have been durable into a new catalog. Returns how many events; recovery does the rest."""
    fold.scan_blocks()
    if not cut:
        _refuse_unreadable(fold)
    elif any(fold.disk.unreadable()):
        fold.pass_over_blocks()
    fold.replay(upto=survey.durable)
    fold.commit()
    return fold.applied


def _keep_damaged(path: Path, disk: Disk) -> int:
    """Copy the bytes of each block that the old catalog has and the new one has lost. Returns how many."""
    try:
        old = Catalog(path / "catalog", read_only=True)
    except Exception:  # missing or damaged: then nobody knows where they are
        return 0
    new = Catalog(path / NEW, read_only=True)
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
                (path / DAMAGED).mkdir(mode=0o700, exist_ok=True)
                (path / DAMAGED / block.hex()).write_bytes(data)
                kept += 1
    finally:
        blocks.close()
        new.close()
        old.close()
    return kept


def _cut(path: Path, disk: Disk, end: Position) -> Path:
    """Move what is behind *end* in the journal into a directory of its own, which is returned."""
    aside = path / time.strftime("journal.cut-%Y%m%dT%H%M%SZ", time.gmtime())
    aside.mkdir(mode=0o700)
    folder = path / JOURNAL
    behind = [name for name in segments(sorted(os.listdir(folder))) if int(name, 16) > end.segment]
    torn = folder / f"{end.segment:016x}"
    if torn.exists():
        _copy_tail(disk.open(f"{JOURNAL}/{torn.name}"), end.offset, aside / f"{torn.name}-from-byte-{end.offset}")
    sync_directory(aside)
    sync_directory(path)  # what was set aside is safe before anything is cut
    for name in behind:
        os.rename(folder / name, aside / name)
    sync_directory(aside)
    sync_directory(folder)
    if torn.exists():
        with torn.open("r+b") as file:
            file.truncate(end.offset)
            os.fsync(file.fileno())
    return aside


def _copy_tail(source: File, offset: int, target: Path) -> None:
    with contextlib.closing(source), target.open("xb") as writer:
        while data := source.read(offset, COPY_BYTES):
            writer.write(data)
            offset += len(data)
        writer.flush()
        os.fsync(writer.fileno())
