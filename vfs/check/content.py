"""Whether all content is there: the blocks on the disk, the manifests above them, the references to them.

Every node with references is read, and all that refers to a block (contents, nodes) is written down in a temporary
SQLite file, which sorts it. So each node is read once, however many versions share it; and if every content's root and
every node's children are there, every content is there to its last block.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache, partial
from itertools import groupby, islice
from pathlib import Path

from vfs.blocks import HEADER_BYTES, LOST, Blocks
from vfs.catalog import BlockRow, Catalog, Segment
from vfs.check.findings import Findings, Kind
from vfs.check.names import path_of_key
from vfs.content import children
from vfs.disk import Disk
from vfs.errors import Corrupt, DiskFailed
from vfs.model import BlockId, Ino, KeyId, Seq, Upload
from vfs.names import format_version_id, show
from vfs.uploads import format_upload_id

ROWS_PER_INSERT = 10_000
BLOCKS_NAMED_MAX = 3  # of the damaged blocks of one content

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE refer (block BLOB, node BLOB, owner INTEGER, one INTEGER, two INTEGER);
CREATE TABLE damaged (block BLOB PRIMARY KEY) WITHOUT ROWID;
"""
# What a damaged block harms: the nodes above it, and the contents above those.
_HARMED = """
CREATE INDEX refer_block ON refer (block);
CREATE TEMP TABLE harmed AS WITH RECURSIVE harmed (block, cause) AS (
    SELECT block, block FROM damaged
    UNION SELECT refer.node, harmed.cause FROM refer JOIN harmed USING (block) WHERE refer.node IS NOT NULL
) SELECT * FROM harmed;
"""


class Owner(IntEnum):
    """Whose content it is, and so what the two numbers say that go with it."""

    VERSION = 1  # key, sequence
    DRAFT = 2  # inode, 0
    PART = 3  # upload, number of the part


# Block; then the node that refers to it, or the content: its owner, if it is to be named, and the owner's two numbers.
Reference = tuple[bytes, bytes | None, Owner | None, int | None, int | None]


class Scratch:
    """Who refers to which block, and which blocks are damaged: on disk, in no order, sorted when asked."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Close; the file may go."""
        self._db.close()

    def add(self, references: Iterable[Reference]) -> None:
        """Note references."""
        self._db.executemany("INSERT INTO refer VALUES (?, ?, ?, ?, ?)", references)

    def add_damaged(self, block: BlockId) -> None:
        """Note a damaged or missing block."""
        self._db.execute("INSERT OR IGNORE INTO damaged VALUES (?)", (block,))

    def counts(self) -> Iterator[tuple[bytes, int]]:
        """(block, how many references it has), by block."""
        yield from self._db.execute("SELECT block, count(*) FROM refer GROUP BY block ORDER BY block")

    def harmed(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(owner, its two numbers, damaged block) of each content that needs a damaged block, by content."""
        self._db.execute("COMMIT")
        self._db.executescript(_HARMED)
        yield from self._db.execute(
            "SELECT DISTINCT owner, one, two, cause FROM refer JOIN harmed USING (block)"
            " WHERE owner IS NOT NULL ORDER BY owner, one, two, cause"
        )


def check_content(findings: Findings, catalog: Catalog, folded: Catalog, disk: Disk, scratch: Path) -> None:
    """Report damaged blocks with the versions they harm, and wrong references.

    *folded* knows where a scan of the disk found intact blocks, so that only what it did not find is read again.
    """
    blocks = Blocks(disk, catalog)
    notes = Scratch(scratch)
    try:
        damaged = _check_blocks(findings, catalog, folded, blocks, notes)
        notes.add(_contents(findings, catalog))
        unread = _read_nodes(findings, catalog, blocks, notes)
        damaged += _check_references(findings, catalog, folded, notes, unread=unread)
        if damaged:
            _report_harmed(findings, catalog, notes)
    finally:
        notes.close()
        blocks.close()


def _check_blocks(findings: Findings, catalog: Catalog, folded: Catalog, blocks: Blocks, notes: Scratch) -> int:
    """Compare the index with what a scan of the disk found. Returns how many blocks that somebody needs are damaged."""
    damaged = 0
    ours = findings.track("blocks: index", catalog.count("blocks"), catalog.blocks())
    for block, row, found in _paired(ours, folded.blocks()):
        if row is None:
            continue  # only on the disk: given up by `vfs gc`, its bytes are still to be freed
        if found is not None and found.place == row.place and row.place != LOST:
            if found.node != row.node:
                findings.add_block(Kind.CATALOG, block, "is a node, or not, and the catalog says otherwise")
            continue
        try:
            if row.place == LOST:
                raise Corrupt("blocks", expected="the block", found="none of its bytes: it was lost before")
            blocks.verify(block, row.place, node=row.node)
        except (Corrupt, DiskFailed) as error:
            harmless = row.references == 0
            tail = "; nothing refers to it any more" if harmless else ""
            if found is not None and found.place != LOST:
                message = f"is intact at {found.place}, and the catalog leads elsewhere{tail}"
                findings.add_block(Kind.CATALOG, block, message, harmless=harmless)
            else:
                findings.add_block(Kind.BLOCK, block, f"is damaged: {error}{tail}", harmless=harmless)
            if not harmless:
                notes.add_damaged(block)
                damaged += 1
        else:
            if found is None or found.place == LOST:
                message = "is intact, but its header is not: it can be read, and would be lost by `vfs rebuild`"
                findings.add_block(Kind.HEADER, block, message, harmless=row.references == 0)
    return damaged


def _paired(
    ours: Iterator[tuple[BlockId, BlockRow]], theirs: Iterator[tuple[BlockId, BlockRow]]
) -> Iterator[tuple[BlockId, BlockRow | None, BlockRow | None]]:
    """The rows of two indexes side by side, by block."""
    mine, other = next(ours, None), next(theirs, None)
    while mine is not None or other is not None:
        if other is None or (mine is not None and mine[0] < other[0]):
            assert mine is not None, "one of the two is left"
            yield *mine, None
            mine = next(ours, None)
        elif mine is None or other[0] < mine[0]:
            yield other[0], None, other[1]
            other = next(theirs, None)
        else:
            yield *mine, other[1]
            mine, other = next(ours, None), next(theirs, None)


def _contents(findings: Findings, catalog: Catalog) -> Iterator[Reference]:
    """What refers to the root of a content. An inode's is not named: its version or draft is."""
    for key, seq, version in findings.track("references: versions", catalog.count("versions"), catalog.every_version()):
        if version.content.root:
            yield version.content.root, None, Owner.VERSION, key, seq
    for _, inode in findings.track("references: inodes", catalog.count("inodes"), catalog.every_inode()):
        if inode.content.root:
            yield inode.content.root, None, None, None, None
    for ino, draft in catalog.drafts():
        if draft.content.root:
            yield draft.content.root, None, Owner.DRAFT, ino, 0
    for ino, interim in catalog.interims():
        if interim.content.root:
            yield interim.content.root, None, Owner.DRAFT, ino, 0
    for _, contents in catalog.every_aside():
        for content in contents:
            yield content.root, None, None, None, None
    for upload, number, part in findings.track("references: parts", catalog.count("parts"), catalog.every_part()):
        if part.content.root:
            yield part.content.root, None, Owner.PART, upload, number


def _read_nodes(findings: Findings, catalog: Catalog, blocks: Blocks, notes: Scratch) -> int:
    """Note what the nodes refer to. Returns how many of them cannot be read."""
    unread = 0
    references: list[Reference] = []
    for block, row in findings.track("references: nodes", catalog.count("blocks"), catalog.blocks()):
        if not row.node or not row.references:
            continue
        try:
            below = list(children(blocks.get(block, node=True)))
        except (Corrupt, DiskFailed):
            unread += 1
            continue
        references += [(child, block, None, None, None) for child in below]
        if len(references) >= ROWS_PER_INSERT:
            notes.add(references)
            references.clear()
    notes.add(references)
    return unread


def _check_references(findings: Findings, catalog: Catalog, folded: Catalog, notes: Scratch, *, unread: int) -> int:
    """Compare the index with what refers to blocks. Returns how many blocks are missing.

    What a node that cannot be read refers to cannot be counted, so with such nodes too few is no fault.
    """
    missing, before = 0, findings.problems + findings.harmless
    segments: dict[int, Segment] = {}
    counts = notes.counts()
    counted = next(counts, None)
    for block, row in findings.track("references: blocks", catalog.count("blocks"), catalog.blocks()):
        while counted is not None and counted[0] < block:
            missing += _report_missing(findings, folded, notes, counted)
            counted = next(counts, None)
        wanted = 0
        if counted is not None and counted[0] == block:
            wanted = counted[1]
            counted = next(counts, None)
        if row.place != LOST:
            size = HEADER_BYTES + row.place.length
            indexed, live = segments.get(row.place.segment, (0, 0))
            segments[row.place.segment] = Segment(indexed + size, live + (size if row.references else 0))
        if row.references < wanted or (row.references > wanted and not unread):
            message = f"has {row.references} references by the catalog, and {wanted} by a recount"
            findings.add_block(Kind.REFERENCES, block, message)
    while counted is not None:
        missing += _report_missing(findings, folded, notes, counted)
        counted = next(counts, None)
    if findings.problems + findings.harmless > before:
        return missing  # the sums would only say it again
    for segment in sorted(segments.keys() | set(catalog.segments())):
        kept, recounted = catalog.segment(segment), segments.get(segment, Segment(0, 0))
        if kept != recounted:
            message = f"is {kept} by the catalog, and {recounted} by a recount"
            findings.add(Kind.CATALOG, f"blocks/{segment:08x}", message)
    return missing


def _report_missing(findings: Findings, folded: Catalog, notes: Scratch, counted: tuple[bytes, int]) -> int:
    block, references = BlockId(counted[0]), counted[1]
    found = folded.block(block)
    if found is None or found.place == LOST:
        findings.add_block(Kind.BLOCK, block, f"is not in the index, and {references} contents or nodes need it")
    else:
        message = f"is on the disk and not in the index, and {references} contents or nodes need it"
        findings.add_block(Kind.CATALOG, block, message)
    notes.add_damaged(block)
    return 1


def _report_harmed(findings: Findings, catalog: Catalog, notes: Scratch) -> None:
    """Name every version, draft and part that cannot be read to its end."""
    find_upload = lru_cache(maxsize=1)(partial(_find_upload, catalog))  # its parts follow each other
    for (owner, one, two), rows in groupby(notes.harmed(), key=lambda row: row[:3]):
        needed = _needed(cause for *_, cause in rows)
        match Owner(owner):
            case Owner.VERSION:
                version = catalog.version(KeyId(one), Seq(two))
                version_id = format_version_id(two, null=version is not None and version.null)
                findings.add_version(path_of_key(catalog, KeyId(one)), version_id, needed)
            case Owner.DRAFT:
                inode = catalog.find_inode(Ino(one))
                path = path_of_key(catalog, inode.key) if inode is not None else f"inode {one}"
                findings.add(Kind.VERSION, f"{path}, not yet published", needed)
            case Owner.PART:
                found = find_upload(one)
                if found is None:  # reported already
                    findings.add(Kind.PART, f"part {two} of upload {one}", needed)
                else:
                    bucket, upload = found
                    findings.add_part(show(bucket), show(upload.key), format_upload_id(one, upload), two, needed)


def _needed(causes: Iterator[bytes]) -> str:
    named = [cause.hex() for cause in islice(causes, BLOCKS_NAMED_MAX)]
    more = sum(1 for _ in causes)
    count = len(named) + more
    return f"needs {count} damaged block{'s' if count > 1 else ''}: {', '.join(named)}{', …' if more else ''}"


def _find_upload(catalog: Catalog, number: int) -> tuple[bytes, Upload] | None:
    """An upload under way, with the name of its bucket."""
    for ino, bucket in catalog.buckets():
        upload = catalog.upload(ino, number)
        if upload is not None:
            return bucket.name, upload
    return None
