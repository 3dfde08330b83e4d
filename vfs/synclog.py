"""The sync log: what the ends of the segments have in memory only, written down once more in a place that is ready.

To sync a file that grows, the file system has to commit its new length, and blocks and journal are two such files. The
sync log has its length beforehand, so that one sync of one file does for both. A record is a list of pieces: the bytes
that belong at an offset of a file. After a crash `read` finds them, and `redo` puts them there, before anything else
looks at the store.

It has two halves, which take turns: one is written over once everything in it was synced in its own place. Owns the
files under ``synclog/``; knows of the pieces only that they are of segments, which are only appended to: so it harms
nothing to redo a record that is not needed any more, and a record that names anything else is damage.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import struct
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import msgspec
from xxhash import xxh3_64

from vfs.disk import Buffer, Disk, File
from vfs.errors import Corrupt, DiskFailed, NoSpace

FOLDER = "synclog"
HALF_BYTES = 8 << 20
PIECES_BYTES_MAX = 1 << 20  # of one record; more is synced in its own place
PIECES_MAX = 2  # of one record: of the last segment of blocks, and of the last one of the journal
PAGE_BYTES = 4096  # records begin at multiples: to write one touches no byte of another

_HALVES = ("0", "1")
_MAGIC = b"vfsL"
_KEY = struct.Struct("<Q")  # in the first page of a half
_HEADER = struct.Struct("<4sIIQQ")  # magic, length of the table, of the bytes behind it, number, checksum
_SEALED = struct.Struct("<4sIIQ")  # what the checksum covers, with the table and the bytes
_ZEROS_BYTES = 1 << 20
_SEGMENT = re.compile(r"blocks/[0-9a-f]{8}|journal/[0-9a-f]{16}")


class Piece(NamedTuple):
    """Bytes that belong at an offset of a file."""

    path: str
    offset: int
    data: bytes


_table = msgspec.msgpack.Decoder(list[tuple[str, int, int]])  # path, offset, length


class Entry(NamedTuple):
    """A record that has its place in the log."""

    file: File
    offset: int
    record: Sequence[Buffer]

    def write(self) -> None:
        """Make it durable. For any thread, one at a time. Raises DiskFailed."""
        self.file.write(self.offset, self.record)
        self.file.sync()


class SyncLog:
    """The log of an open store, after `redo`. Invariant: a half that `settled` has not emptied holds, and
    keeps, every record that was written to it.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._halves: Sequence[File] = ()
        self._key = int.from_bytes(os.urandom(_KEY.size))  # what users wrote, and is left in a half, is no record
        self._used = [PAGE_BYTES, PAGE_BYTES]  # bytes of each half
        self._current = 0
        self._number = 0

    @property
    def is_made(self) -> bool:
        """Whether it takes records."""
        return bool(self._halves)

    @property
    def is_half_full(self) -> bool:
        """Whether something should be synced in its own place soon, so that there is always room."""
        return self._used[1 - self._current] > PAGE_BYTES

    def make(self) -> Sequence[File]:
        """New files for `use`, durable and full of zeros. Slow; for any thread. Raises NoSpace, DiskFailed."""
        self._disk.list(FOLDER)
        halves: list[File] = []
        try:
            for name in _HALVES:
                file = self._disk.open(f"{FOLDER}/{name}", create=True)
                halves.append(file)
                for offset in range(0, HALF_BYTES, _ZEROS_BYTES):
                    file.write(offset, [bytes(min(_ZEROS_BYTES, HALF_BYTES - offset))])
                file.write(0, [_KEY.pack(self._key)])
                file.sync()
        except NoSpace:
            for file in halves:
                file.close()
            _remove(self._disk)
            raise
        return halves

    def use(self, halves: Sequence[File]) -> None:
        """Take records from now on."""
        self._halves = halves

    def place(self, pieces: Sequence[Piece]) -> Entry | None:
        """The next record, to be written before another one is placed. None: there is no room, or no log."""
        if not self._halves or len(pieces) > PIECES_MAX or not all(_SEGMENT.fullmatch(piece.path) for piece in pieces):
            return None
        table = msgspec.msgpack.encode([(piece.path, piece.offset, len(piece.data)) for piece in pieces])
        size = sum(len(piece.data) for piece in pieces)
        length = _HEADER.size + len(table) + size
        padding = -length % PAGE_BYTES
        if self._used[self._current] + length + padding > HALF_BYTES:
            if self.is_half_full or PAGE_BYTES + length + padding > HALF_BYTES:
                return None
            self._current = 1 - self._current
        self._number += 1
        sealed = _SEALED.pack(_MAGIC, len(table), size, self._number)
        record = [table, *(piece.data for piece in pieces)]
        checksum = _checksum(self._key, sealed, record)
        offset = self._used[self._current]
        self._used[self._current] += length + padding
        return Entry(self._halves[self._current], offset, (sealed, checksum, *record, bytes(padding)))

    def settle(self) -> int | None:
        """Everything so far is about to be synced in its own place: the half that `settled` may empty then."""
        if not self.is_half_full:
            self._current = 1 - self._current  # what comes meanwhile goes there
        other = 1 - self._current
        return other if self._used[other] > PAGE_BYTES else None

    def settled(self, half: int | None) -> None:
        """It was synced."""
        if half is not None:
            self._used[half] = PAGE_BYTES

    def close(self) -> None:
        for file in self._halves:
            file.close()
        self._halves = ()

    def remove(self) -> None:
        """Everything was synced in its own place, and nothing follows. Raises DiskFailed."""
        self.close()
        _remove(self._disk)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a log holds.

    records: the pieces of every intact record, in the order of writing, also of those that are not needed any more.
    damage: it cannot be read at a place where there may be a record that is needed. passed_over: where it cannot be
    read, and nothing is needed, in words.
    """

    records: Sequence[list[Piece]]
    damage: Corrupt | None
    passed_over: Sequence[str]


def read(disk: Disk) -> Contents:
    """Read the log that a crash left, all of it into memory. Raises DiskFailed if it cannot be opened."""
    keys = {path: _read_key(disk, path) for path in _paths(disk)}
    key = next((key for key in keys.values() if isinstance(key, int)), None)  # it is in both
    size_of = functools.cache(functools.partial(_size_of, disk))
    halves = []
    for path, own in keys.items():
        half = _Half([], [own] if isinstance(own, _Gap) else [])
        if key is not None:
            _read_records(half, disk, path, own if isinstance(own, int) else key, size_of)
        halves.append(half)
    records = sorted(record for half in halves for record in half.records)
    numbers = {record.number for record in records}
    needed: list[_Gap] = []
    passed_over: list[_Gap] = []
    for half in halves:
        for gap in half.gaps:
            (needed if key is None or half.may_need(gap, numbers) else passed_over).append(gap)
    return Contents(
        [record.pieces for record in records],
        _damage(needed[0]) if needed else None,
        [gap.reason for gap in passed_over],
    )


def redo(disk: Disk, contents: Contents, *, partly: bool = False) -> int:
    """Put what the log has where it belongs, durably, and remove the log. Returns how many records there were.

    A file that is not there has been removed since. Raises NoSpace, DiskFailed; then it can be done again. Raises the
    damage of *contents* with nothing changed; *partly*: what can be read is put in its place, and the log stays.
    """
    if contents.damage is not None and not partly:
        raise contents.damage
    files: dict[str, File | None] = {}
    try:
        for piece in (piece for pieces in contents.records for piece in pieces):
            if piece.path not in files:
                files[piece.path] = disk.open(piece.path) if _is_there(disk, piece.path) else None
            file = files[piece.path]
            if file is not None:  # also if it reads so: after a sync that failed, memory has what the disk has not
                file.write(piece.offset, [piece.data])
        for file in files.values():
            if file is not None:
                file.sync()
    finally:
        for file in files.values():
            if file is not None:
                file.close()
    if contents.damage is None:
        _remove(disk)
    return len(contents.records)


class _Gap(NamedTuple):
    """A place of a half that cannot be read. number: of the record that its readable header says it has, else None."""

    path: str
    offset: int
    number: int | None
    reason: str


class _Half(NamedTuple):
    """What was found in a half."""

    records: list[_Record]
    gaps: list[_Gap]

    def may_need(self, gap: _Gap, numbers: Container[int]) -> bool:
        """Whether there may be a record in a gap that only the log has. *numbers*: of all records that can be read.

        The records of a half that may be needed follow each other from its beginning, by place and by number. Behind
        the last of them only older ones are left, from before the half was emptied.
        """
        last = max(self.records, default=None)
        end = PAGE_BYTES if last is None else last.offset + last.length
        if gap.offset < PAGE_BYTES or gap.offset > end:
            return False  # the key, which is in the other half too; or: at the end no record begins, or is a gap itself
        if gap.offset < end or last is None:
            return True
        following = last.number + 1
        return following not in numbers and gap.number in (following, None)


def _damage(gap: _Gap) -> Corrupt:
    return Corrupt(
        f"{gap.path} at byte {gap.offset}",
        expected="what was synced last before a crash",
        found=f"nothing that can be used: {gap.reason}; what programs had synced in the last seconds before the crash"
        " may be only there: try again, or put the file back from a copy of the store, or do without it by"
        " `vfs rebuild --cut`",
    )


def _read_key(disk: Disk, path: str) -> int | _Gap:
    file = disk.open(path)
    try:
        return int.from_bytes(file.read(0, _KEY.size), "little")
    except DiskFailed as error:
        return _Gap(path, 0, None, str(error))
    finally:
        file.close()


def _read_records(half: _Half, disk: Disk, path: str, key: int, size_of: Callable[[str], int | None]) -> None:
    """Find every intact record of a half, whatever lies between."""
    file = disk.open(path)
    try:
        offset = PAGE_BYTES
        while offset < min(file.size, HALF_BYTES):
            found = _read(file, path, offset, key)
            if isinstance(found, _Record) and (strange := _strangeness(found.pieces, size_of)):
                found = _Gap(path, offset, found.number, f"record {found.number} {strange}")
            if isinstance(found, _Record):
                half.records.append(found)
                offset += found.length
                continue
            if found is not None:
                half.gaps.append(found)
            offset += PAGE_BYTES
    finally:
        file.close()


class _Record(NamedTuple):
    """A record as read. length: in bytes, with what fills up its last page."""

    number: int
    offset: int
    length: int
    pieces: list[Piece]


def _read(file: File, path: str, offset: int, key: int) -> _Record | _Gap | None:
    """The record at *offset*; None if there is no intact one."""
    number = None
    try:
        header = file.read(offset, _HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            return None
        _, table_size, size, number, _ = _HEADER.unpack(header)
        length = _HEADER.size + table_size + size
        if length > HALF_BYTES:
            return None
        rest = file.read(offset + _HEADER.size, table_size + size)
    except DiskFailed as error:
        return _Gap(path, offset, number, str(error))
    if len(rest) < table_size + size or _checksum(key, header[: _SEALED.size], [rest]) != header[_SEALED.size :]:
        return None
    try:
        pieces = _cut_up(_table.decode(rest[:table_size]), rest[table_size:])
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError is one
        return _Gap(path, offset, number, f"record {number} has a table that makes no sense: {error}")
    return _Record(number, offset, length + -length % PAGE_BYTES, pieces)


def _cut_up(table: Sequence[tuple[str, int, int]], data: bytes) -> list[Piece]:
    """The pieces of a record. Raises ValueError if the lengths in its table are not those of its bytes."""
    if len(table) > PIECES_MAX or any(size < 0 for _, _, size in table):
        raise ValueError(f"{len(table)} pieces")
    ends = list(itertools.accumulate(size for _, _, size in table))
    if (ends[-1] if ends else 0) != len(data):
        raise ValueError("its lengths do not add up")
    return [Piece(path, offset, data[end - size : end]) for (path, offset, size), end in zip(table, ends, strict=True)]


def _strangeness(pieces: Sequence[Piece], size_of: Callable[[str], int | None]) -> str:
    """What no log of ours says: that bytes belong into what is no segment, or far behind the end of one. Else nothing.

    What is before a piece is durable in its own place, or in the log.
    """
    for path, offset, _ in pieces:
        if not _SEGMENT.fullmatch(path):
            return f"is for {path!r}, which is no segment"
        size = size_of(path)
        if size is not None and not 0 <= offset <= size + len(_HALVES) * HALF_BYTES:
            return f"is for byte {offset} of {path}, which has {size} bytes"
    return ""


def _size_of(disk: Disk, path: str) -> int | None:
    """How long a segment is; None if it was removed since."""
    if not _is_there(disk, path):
        return None
    file = disk.open(path)
    file.close()
    return file.size


def _checksum(key: int, sealed: bytes, rest: Sequence[Buffer]) -> bytes:
    state = xxh3_64(sealed, seed=key)
    for buffer in rest:
        state.update(buffer)
    return state.intdigest().to_bytes(8, "little")


def _paths(disk: Disk) -> list[str]:
    return [f"{FOLDER}/{name}" for name in disk.list(FOLDER) if name in _HALVES]


def _remove(disk: Disk) -> None:
    for path in _paths(disk):
        disk.remove(path)


def _is_there(disk: Disk, path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return name in disk.list(folder)


class Redone:
    """A Disk that is only read, as it will be when `redo` was done to it, partly or not: for who may change nothing."""

    def __init__(self, disk: Disk, contents: Contents) -> None:
        self._disk = disk
        self._pieces: dict[str, list[Piece]] = {}
        for pieces in contents.records:
            for piece in pieces:
                self._pieces.setdefault(piece.path, []).append(piece)

    def list(self, folder: str) -> list[str]:
        return self._disk.list(folder)

    def open(self, path: str, *, create: bool = False) -> File:
        file = self._disk.open(path, create=create)
        pieces = self._pieces.get(path)
        return cast(File, _RedoneFile(file, pieces)) if pieces else file

    def remove(self, path: str) -> None:
        self._disk.remove(path)

    def rename(self, path: str, new: str) -> None:
        self._disk.rename(path, new)


class _RedoneFile:
    """A file that is only read, with pieces put where they belong."""

    def __init__(self, file: File, pieces: list[Piece]) -> None:
        self._file = file
        self._pieces = pieces
        self.size = max(file.size, *(piece.offset + len(piece.data) for piece in pieces))
        self.allocated = file.allocated
        self.close = file.close

    def next_data(self, offset: int) -> int:
        pieces = [max(offset, piece.offset) for piece in self._pieces if piece.offset + len(piece.data) > offset]
        return (
            min([self._file.next_data(offset), *pieces]) if offset < self._file.size else min(pieces, default=self.size)
        )

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        data = bytearray(self._file.read(offset, length).ljust(max(0, end - offset), b"\0"))
        for piece in self._pieces:
            start, stop = max(offset, piece.offset), min(end, piece.offset + len(piece.data))
            if start < stop:
                data[start - offset : stop - offset] = piece.data[start - piece.offset : stop - piece.offset]
        return bytes(data)
