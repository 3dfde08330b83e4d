"""`vfs check` and `vfs rebuild`: is everything in a store what it should be, and the catalog made again if not.

A check opens nothing for writing but the lock. It makes the catalog a second time, from the journal and the blocks
alone (folding), compares the two row for row (rows), asks whether the rows make sense together (names), and whether
all content is there and counted (content). It streams: whatever grows with the store lies in a temporary directory.

Neither knows of doors; where they run, no daemon does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from vfs import synclog
from vfs.blocks import LOST, End
from vfs.catalog import DAMAGE, FILE, Catalog, fill_up
from vfs.check.behind import name_versions_behind
from vfs.check.content import check_content
from vfs.check.findings import Figures, Findings, Kind, Problem, Progress
from vfs.check.folding import Fold, ReadOnlyDisk, bytes_behind
from vfs.check.headers import mend_headers
from vfs.check.names import check_names
from vfs.check.probing import how_unreadable
from vfs.check.rebuilding import Rebuilt, hold, rebuild
from vfs.check.rows import compare
from vfs.disk import DAMAGED, Disk, RealFile, copy_with_holes
from vfs.errors import Corrupt, DiskFailed, LimitReached, NoSpace, Unsafe
from vfs.folder import Folder
from vfs.journal import Journal
from vfs.pages import missing_bytes
from vfs.replay import FOLDER as SET_ASIDE
from vfs.replay import every as every_aside
from vfs.store import CATALOG
from vfs.synclog import Redone

__all__ = ["Figures", "Kind", "Problem", "Rebuilt", "check", "mend_headers", "rebuild"]


def check(
    path: Path,
    report: Callable[[Problem], None],
    progress: Progress,
    *,
    disk: Disk | None = None,
    foreign: bool = False,
) -> Figures:
    """Read a store to its last byte and report every fault that is found. Changes nothing. foreign: see Store.open.

    The scratch files lie in $TMPDIR or /var/tmp and may grow as large as the catalog. Raises NotAStore, StoreInUse, and
    NoSpace if they have no room there.
    """
    findings = Findings(report, progress)
    probe = disk is None  # a simulated disk does not damage a catalog
    with hold(path, foreign=foreign, writing=False) as held, _scratch_directory() as scratch:
        disk = disk or ReadOnlyDisk(held.root)
        log = synclog.read(disk)
        _report_log(findings, log)
        disk = Redone(disk, log)
        catalog = _open_catalog(findings, held.root, scratch, probe=probe)
        try:
            try:
                fold, sound = Fold(_made(scratch, "catalog"), disk, progress), True
            except Corrupt as error:
                message = "is damaged: the catalog alone knows what it stands for, until `vfs gc` makes a new one"
                findings.add(Kind.SNAPSHOT, error.where, message)
                fold, sound = Fold(_made(scratch, "blocks"), disk, progress, alone=True), False
            try:
                figures = _check(findings, catalog, fold, disk, scratch / "references", sound=sound)
                for where, byte, pages in fold.disk.unreadable():
                    message = (
                        f"the disk cannot read {pages} pages, the first at byte {byte}; what that harms is told besides"
                    )
                    findings.add(Kind.DISK, where, message, harmless=True)
                return replace(figures, harmless=findings.harmless, opens=figures.opens and log.damage is None)
            finally:
                fold.close()
        finally:
            if catalog is not None:
                catalog.close()


def _report_log(findings: Findings, log: synclog.Contents) -> None:
    if log.damage is not None:
        reason = log.damage.found.partition(";")[0]  # without the advice for a store that cannot be opened
        message = (
            f"expected {log.damage.expected}, found {reason}; what was synced in the last seconds may be only there"
        )
        findings.add(Kind.SYNCLOG, log.damage.where, message)
    for place in log.passed_over:
        findings.add(Kind.SYNCLOG, synclog.FOLDER, f"{place}; nothing that is needed is there", harmless=True)


@contextlib.contextmanager
def _scratch_directory() -> Iterator[Path]:
    """A new directory, for nobody else; not in /tmp, which may be memory. Raises NoSpace, by name, if there is none, or
    no room in it. Nothing else is written to while it is there.
    """
    wanted = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())
    advice = "a check takes about as much as the catalog; TMPDIR=DIRECTORY names another place"
    try:
        made = tempfile.TemporaryDirectory(prefix="vfs-check-", dir=wanted)
    except OSError as error:
        raise NoSpace(f"no scratch files can be made in {wanted}: {error.strerror}; {advice}") from error
    with made as name:
        try:
            yield Path(name)
        except (NoSpace, OSError, sqlite3.OperationalError) as error:
            if _is_full(error):
                raise NoSpace(f"no space left for scratch files in {wanted}; {advice}") from error
            raise


def _is_full(error: Exception) -> bool:
    """Whether what a check wrote found no room; it writes to its scratch files only."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return not isinstance(error, LimitReached)


def _made(scratch: Path, name: str) -> Folder:
    return Folder.at(scratch / name, make=True)


def _open_catalog(findings: Findings, root: Folder, scratch: Path, *, probe: bool) -> Catalog | None:
    mend = "`vfs rebuild` makes it again"
    try:
        folder = root.folder(CATALOG)
        is_there = folder.find(FILE) is not None
    except FileNotFoundError:
        is_there = False
    if not is_there:
        findings.add(Kind.CATALOG, "catalog", f"is missing; opening the store, or {mend}")
        return None
    try:
        whole = _whole(folder, scratch)
        if reason := how_unreadable(whole) if probe else "":
            findings.add(Kind.CATALOG, "catalog", f"cannot be read: {reason}; {mend}")
            return None
        return Catalog(whole, read_only=True)
    except (NoSpace, Unsafe):
        raise
    except Exception as error:  # Corrupt, or rows that cannot be decoded
        if isinstance(error, OSError) and error.errno not in DAMAGED:
            raise  # no room for a copy, or the like
        findings.add(Kind.CATALOG, "catalog", f"cannot be opened: {error}; {mend}")
        return None


def _whole(catalog: Folder, scratch: Path) -> Folder:
    """A catalog whose file has all its pages: itself, or a copy that is filled up. Raises Corrupt."""
    if not missing_bytes(catalog):
        return catalog
    copy = Folder.at(scratch / "whole", make=True)
    source = RealFile(catalog.path / FILE, catalog.open(FILE))
    with contextlib.closing(source), open(copy.make(FILE), "wb") as target:
        copy_with_holes(source, 0, target)
    fill_up(copy)
    return copy


def _check(
    findings: Findings, catalog: Catalog | None, fold: Fold, disk: Disk, scratch: Path, *, sound: bool
) -> Figures:
    """sound: the fold can be compared with; else it knows the blocks alone."""
    whole = sound
    if not sound:
        fold.scan_blocks()
        if catalog is not None:
            _check_tables(findings, catalog, fold, disk, scratch)
    elif catalog is not None:
        number = catalog.checkpoint.journal.number
        whole = _fold(findings, fold, blocks=catalog.checkpoint.blocks, upto=number)
        try:
            if whole:
                compare(findings, catalog, fold.catalog)
            _check_tables(findings, catalog, fold, disk, scratch)
        except DAMAGE as error:
            message = f"cannot be read to its end: {error!r}; `vfs rebuild` makes it again"
            findings.add(Kind.CATALOG, "catalog", message)
            catalog = None
    known = fold.journal.end.number
    if whole:
        whole = _fold(findings, fold)
    if catalog is None and sound:
        _check_tables(findings, fold.catalog, fold, disk, scratch)
    elif catalog is not None and whole and fold.journal.end.number > known:
        _check_what_came_since(findings, catalog, fold.catalog)
    _report_set_aside(findings, fold)
    torn_bytes = bytes_behind(disk, fold.journal.end) if whole else 0
    opens = whole or (catalog is not None and _opens(catalog, disk))
    return _figures(findings, catalog or fold.catalog, fold, torn_bytes, opens=opens)


def _check_what_came_since(findings: Findings, catalog: Catalog, folded: Catalog) -> None:
    """The rules between rows for what opening the store will apply, and the blocks that this needs."""
    check_names(findings, folded)
    for block, row in folded.blocks():
        if row.place == LOST and row.references and catalog.block(block) is None:
            message = "is not there, and what came since the catalog's checkpoint needs it"
            findings.add_block(Kind.BLOCK, block, message)


def _report_set_aside(findings: Findings, fold: Fold) -> None:
    """Records that nobody can apply: those that an opening will set aside, and those that one has."""
    for aside in fold.behind:
        where = f"journal record {aside.number} ({aside.operation})"
        message = f"makes no sense: {aside.reason}; opening the store sets it aside, with what builds on it"
        findings.add(Kind.RECORD, where, message)
    for aside in every_aside(fold.disk):
        where = f"journal record {aside.number} ({aside.operation})"
        message = f"was set aside: {aside.reason}; it is kept in {SET_ASIDE}/{aside.number:016x}"
        findings.add(Kind.RECORD, where, message, harmless=True)


def _opens(catalog: Catalog, disk: Disk) -> bool:
    """Whether what is damaged in the journal is known to the catalog, so that opening the store does not read it."""
    journal = Journal(disk)
    journal.end = journal.locate(catalog.checkpoint.journal)
    if not journal.holds(journal.end):
        return False
    try:
        for record in journal.records(journal.end):
            journal.durable = max(journal.durable, record.durable)
            journal.end = record.end
        journal.check_tail()
    except (Corrupt, DiskFailed):
        return False
    return True


def _check_tables(findings: Findings, catalog: Catalog, fold: Fold, disk: Disk, scratch: Path) -> None:
    check_names(findings, catalog)
    try:
        check_content(findings, catalog, fold.catalog, disk, scratch)
    except (struct.error, msgspec.DecodeError, ValueError) as error:
        message = f"cannot be read to its end, so that content was not checked to its end either: {error}"
        findings.add(Kind.CATALOG, "catalog", message)


def _fold(findings: Findings, fold: Fold, *, blocks: End | None = None, upto: int | None = None) -> bool:
    """Carry the fold on, to the catalog's checkpoint or to the end. False: it cannot come so far, as was reported."""
    fold.scan_blocks(blocks)
    try:
        fold.replay(upto=upto)
        if upto is None or fold.journal.end.number < upto:
            fold.journal.check_tail()
    except Corrupt as error:
        if upto is None:
            findings.add(Kind.JOURNAL, error.where, str(error).removeprefix(f"{error.where}: "))
            name_versions_behind(findings, fold)
        else:
            found = error.found.partition(";")[0]  # without the advice for a store that cannot be opened
            message = f"expected {error.expected}, found {found}; the catalog knows the journal up to record {upto}"
            findings.add(Kind.JOURNAL, error.where, message)
        return False
    if upto is not None and fold.journal.end.number < upto:
        segment, offset, number = fold.journal.end
        message = f"record {number + 1} is damaged or missing, and the catalog knows the journal up to record {upto}"
        findings.add(Kind.JOURNAL, f"journal/{segment:016x} at byte {offset}", message)
        return False
    return True


def _figures(findings: Findings, catalog: Catalog, fold: Fold, torn_bytes: int, *, opens: bool) -> Figures:
    return Figures(
        events=fold.applied,
        blocks=fold.found,
        block_bytes=fold.found_bytes,
        keys=catalog.count("keys"),
        versions=sum(bucket.versions for _, bucket in catalog.buckets()),
        inodes=catalog.count("inodes"),
        torn_bytes=torn_bytes,
        problems=findings.problems,
        harmless=findings.harmless,
        opens=opens,
        last_event=fold.last_event,
    )
