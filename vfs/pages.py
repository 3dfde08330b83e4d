"""The pages of LMDB's file: how many the next commit can need, and how many are there for it on the fullest disk.

LMDB never writes over a page that is in use: a commit puts every page that it changes in another place, with those
above it up to the root. What it replaced is free for the commit after the next. So a commit needs pages even if it only
deletes. ADR 13 has the model. Owns the reading of LMDB's meta pages and of its list of free pages; knows no table.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from vfs.disk import set_aside
from vfs.errors import Corrupt
from vfs.folder import Folder

log = logging.getLogger("vfs.catalog")

FILE_NAME = "data.mdb"
BATCH = 1024  # pages that what is changed between two commits may need on a full disk
COMMIT_PAGES = 4 * BATCH  # that the next commit may need before it is due on a disk that has them
# Rows that may be changed between two looks at the room for them, beside as many that are kept decoded; all of them
# need less than BATCH.
LOOK_ROWS = 128
MISSING_BYTES_MAX = 1 << 30
PAGE_BYTES = mmap.PAGESIZE  # LMDB's too; the second page is a meta page, as the first

_MAGIC = 0xBEEFC0DE
# Of a meta page (mdb.c, MDB_meta): magic, page size; of the table of free pages its branches, leaves, overflow pages
# and root; the same pages of the table of tables; last page, transaction.
_META = struct.Struct("<16xI20xI4xQQQ8xQ8xQQQ16xQQ")
_META_BYTES = 2 * PAGE_BYTES
_PAGE = struct.Struct("<10xHHH")  # of any page: flags, end of the pointers to its nodes, beginning of the nodes
_BRANCH, _BIG = 1, 1  # flags of a page, of a node
_NODE = struct.Struct("<HHHH")  # of a node: low and high half of a size (of a page's number), flags, size of the key
_U64 = struct.Struct("<Q")
_NO_PAGE = (1 << 64) - 1
NO_END = 1 << 50


class Meta(NamedTuple):
    """What the newer of both meta pages says. own: pages of LMDB's own two tables, and the meta pages."""

    page_bytes: int
    pages: int
    transaction: int
    own: int
    free_root: int


def read_meta(fd: int) -> Meta | None:
    """None: there is no intact one."""
    found = None
    head = os.pread(fd, _META_BYTES, 0)
    for at in (0, PAGE_BYTES):
        if len(head) >= at + _META.size:
            magic, page_bytes, *tables, last, number = _META.unpack_from(head, at)
            if magic == _MAGIC and (found is None or number > found.transaction):
                own = 2 + sum(tables[:3]) + sum(tables[4:])
                found = Meta(page_bytes, last + 1, number, own, tables[3])
    return found


def missing_bytes(folder: Folder) -> int:
    """How many bytes an LMDB file is shorter than its meta page says. LMDB maps those too, and dies (SIGBUS) where it
    reads them. It never does in a sound file, in which the last pages can be free and unwritten: so this is no damage
    yet, but it has to be filled up. Raises Corrupt for more than can be missing in a sound one.
    """
    try:
        with folder.open_file(FILE_NAME) as opened:
            meta = read_meta(opened.fileno())
            size = os.fstat(opened.fileno()).st_size
    except FileNotFoundError:
        return 0
    missing = 0 if meta is None else max(meta.pages * meta.page_bytes - size, 0)
    if meta is not None and missing > MISSING_BYTES_MAX:
        found = f"{size} bytes; `vfs rebuild` makes it again"
        raise Corrupt(str(folder.path / FILE_NAME), expected=f"{meta.pages} pages", found=found)
    return missing


def freed_by_last(fd: int, meta: Meta) -> int:
    """How many pages the last commit replaced: they are in no use, and not to be taken by the next."""
    page = meta.free_root
    while page != _NO_PAGE:
        data = os.pread(fd, meta.page_bytes, page * meta.page_bytes)
        flags, lower, _ = _PAGE.unpack_from(data)
        (at,) = struct.unpack_from("<H", data, lower - 2)  # the last node: of the last transaction
        low, high, node_flags, key_bytes = _NODE.unpack_from(data, at)
        if flags & _BRANCH:
            page = low | high << 16 | node_flags << 32
            continue
        at += _NODE.size
        if _U64.unpack_from(data, at)[0] != meta.transaction:
            return 0
        (first,) = _U64.unpack_from(data, at + key_bytes)
        if node_flags & _BIG:  # the list is in pages of its own, and this is the number of the first
            data = os.pread(fd, _U64.size, first * meta.page_bytes + _PAGE.size)
            (first,) = _U64.unpack(data)
        return int(first)
    return 0


class Use(NamedTuple):
    """What the tables use, in pages: all of them, branches alone, and what must stay for what comes (ADR 13)."""

    pages: int
    branches: int
    kept: int


class Pages:
    """The pages of the open catalog. Invariant: `room` is what the open transaction can take, however full the disk is:
    pages that are free in the file, and those set aside behind its end.

    rows, size: what the open transaction has changed: rows that are not kept decoded, and bytes of the events that say
    so. kept_rows: how many of the others it has changed. is_short: the disk is too full to have the pages that must
    stay beside what the open transaction may need.
    """

    def __init__(self, fd: int, kept_rows: Callable[[], int]) -> None:
        self._fd = fd
        self._kept_rows = kept_rows
        self._there = 0  # pages of the file from its beginning that are on the disk, or set aside there
        self._out = 0  # those of them that the open transaction cannot take: used, or free for the one after it
        self._free = 0  # in the file
        self._use = Use(0, 0, 0)
        self.freed = 0  # by the last commit
        self.is_short = False
        self.wants_commit = False  # what was changed should be committed before much more is
        self.begin()

    def begin(self) -> None:
        """A transaction begins, in which nothing has been changed."""
        self.rows = self.size = 0
        self._unlooked = 0  # until the next look, in 1/256 of a row
        self.wants_commit = False

    def changed(self, rows: int, kept: int, size: int) -> None:
        """An event was applied that changed so many rows, and so many that are kept decoded, at most, and has so many
        bytes.
        """
        self.rows += rows
        self.size += size
        self._unlooked -= (max(rows, kept) << 8) + size
        if self._unlooked < 0:
            self.look()

    def committed(self, use: Use) -> None:
        """A commit was made, or this is the first look at the file."""
        meta = read_meta(self._fd)
        assert meta is not None, "LMDB has opened it"
        self._use = use
        self.freed = freed_by_last(self._fd, meta)
        used = use.pages + meta.own
        self._out = used + self.freed
        self._free = max(meta.pages - used, 0)
        self.begin()
        self.look()

    @property
    def room(self) -> int:
        return self._there - self._out

    @property
    def used(self) -> int:
        """Pages in use at the last commit."""
        return self._out - self.freed

    def bound(self) -> int:
        """How many pages the open transaction can need at most, if it is committed now."""
        rows, use = self.rows + self._kept_rows(), self._use
        leaves = min(rows, 2 * use.pages)  # copied; what is merged or split makes up for rows that share a page
        new = (self.size + 64 * rows) // 1024
        branches = min(rows, use.branches + new // 16)
        lists = (leaves + branches + self._free) // 256
        return leaves + new + branches + lists + 32

    def look(self) -> None:
        """Have room for what has been changed, for what may be before the next look, and what must stay."""
        bound = self.bound()
        wanted = bound + BATCH + self._use.kept
        self.is_short = self.room < wanted and not self._extend(wanted + BATCH // 4) and self.room < wanted
        self.wants_commit = bound > (BATCH * 5 // 8 if self.is_short else COMMIT_PAGES)
        self._unlooked = LOOK_ROWS << 8

    def _extend(self, room: int) -> bool:
        """Set pages aside behind the end, so that there is *room*. False: the disk does not have as many."""
        there = self._out + room
        try:
            done = set_aside(self._fd, self._there * PAGE_BYTES, (there - self._there) * PAGE_BYTES)
        except OSError as error:
            log.warning("no room can be set aside for the catalog: %s", error.strerror)
            there, done = NO_END, True
        if done:
            self._there = there
            return True
        self._there = max(self._there, os.fstat(self._fd).st_blocks * 512 // PAGE_BYTES)
        return False

    def close(self) -> None:
        os.close(self._fd)
