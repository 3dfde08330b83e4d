"""`vfs check` and `vfs rebuild`: is everything in a store what it should be, and the catalog made again if not.

A check opens nothing for writing but the lock. It makes the catalog a second time, from the journal and the blocks
alone (folding), compares the two row for row (rows), asks whether the rows make sense together (names), and whether
all content is there and counted (content). It streams: whatever grows with the store lies in a temporary directory.

Neither knows of doors; where they run, no daemon does.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from vfs.blocks import End
from vfs.catalog import Catalog
from vfs.check.content import check_content
from vfs.check.findings import Figures, Findings, Kind, Problem, Progress
from vfs.check.folding import Fold, ReadOnlyDisk, bytes_behind
from vfs.check.names import check_names
from vfs.check.rebuilding import Rebuilt, hold, rebuild
from vfs.check.rows import compare
from vfs.disk import Disk
from vfs.errors import Corrupt

__all__ = ["Figures", "Kind", "Problem", "Rebuilt", "check", "rebuild"]


def check(path: Path, report: Callable[[Problem], None], progress: Progress, *, disk: Disk | None = None) -> Figures:
    """Read a store to its last byte and report every fault that is found. Changes nothing.

    The scratch files lie in $TMPDIR or /var/tmp and may grow as large as the catalog. Raises NotAStore, StoreInUse.
    """
    findings = Findings(report, progress)
    disk = disk or ReadOnlyDisk(path)
    with hold(path), tempfile.TemporaryDirectory(prefix="vfs-check-", dir=_scratch_directory()) as scratch:
        catalog = _open_catalog(findings, path)
        try:
            fold = Fold(Path(scratch) / "catalog", disk, progress)
            try:
                return _check(findings, catalog, fold, disk, Path(scratch) / "references")
            finally:
                fold.close()
        finally:
            if catalog is not None:
                catalog.close()


def _scratch_directory() -> str | None:
    """Not /tmp, which may be memory."""
    return os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)


def _open_catalog(findings: Findings, path: Path) -> Catalog | None:
    mend = "`vfs rebuild` makes it again"
    if not (path / "catalog" / "data.mdb").exists():
        findings.add(Kind.CATALOG, "catalog", f"is missing; opening the store, or {mend}")
        return None
    try:
        return Catalog(path / "catalog", read_only=True)
    except Exception as error:  # Corrupt, or rows that cannot be decoded
        findings.add(Kind.CATALOG, "catalog", f"cannot be opened: {error}; {mend}")
        return None


def _check(findings: Findings, catalog: Catalog | None, fold: Fold, disk: Disk, scratch: Path) -> Figures:
    whole = True
    if catalog is not None:
        number = catalog.checkpoint.journal.number
        whole = _fold(findings, fold, blocks=catalog.checkpoint.blocks, upto=number)
        if whole:
            compare(findings, catalog, fold.catalog)
        _check_tables(findings, catalog, fold, disk, scratch)
    if whole:
        whole = _fold(findings, fold)
    if catalog is None:
        _check_tables(findings, fold.catalog, fold, disk, scratch)
    return _figures(findings, catalog or fold.catalog, fold, bytes_behind(disk, fold.journal.end) if whole else 0)


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
        findings.add(Kind.JOURNAL, error.where, str(error).removeprefix(f"{error.where}: "))
        return False
    if upto is not None and fold.journal.end.number < upto:
        segment, offset, number = fold.journal.end
        message = f"record {number + 1} is damaged or missing, and the catalog knows the journal up to record {upto}"
        findings.add(Kind.JOURNAL, f"journal/{segment:016x} at byte {offset}", message)
        return False
    return True


def _figures(findings: Findings, catalog: Catalog, fold: Fold, torn_bytes: int) -> Figures:
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
    )
