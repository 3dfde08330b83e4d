"""The journal: the ordered log of events, and the truth of a store.

Owns the segment files under ``journal/`` and the framing of their records (docs/format.md). Knows nothing of what a
payload means. A record survives the process when append returns, and a power loss when sync returned after it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from vfs.disk import Disk, File, segment_sizes, segments
from vfs.errors import Corrupt, NoSpace, TooLarge

FOLDER = "journal"
SEGMENT_BYTES_MAX = 64 << 20
PAYLOAD_BYTES_MAX = 16 << 20
SPARE = f"{FOLDER}/.spare"  # an empty file, for which room is set aside: on a full disk it becomes the next segment
ROOM_STEP_BYTES = 1 << 20  # set aside at once

_MAGIC = b"vfsJ"
_HEADER = struct.Struct("<4sIQQQ")  # magic, payload length, number, durable number, checksum
_SEALED = struct.Struct("<4sIQQ")  # what the checksum covers, with the payload
_SCAN_BYTES = 1 << 20


class Position(NamedTuple):
    """A place between two records: the segment's first record number, the offset in it, and the last record before."""

    segment: int
    offset: int
    number: int


START = Position(1, 0, 0)


class Record(NamedTuple):
    """A record as read: its number, the number known durable when it was written, its payload, where it ends."""

    number: int
    durable: int
    payload: bytes
    start: Position
    end: Position


class Journal:
    """The open journal. Invariants: records are numbered 1, 2, 3… without a gap across segments; every record up to
    `durable` has been synced; only the last segment is appended to.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._file: File | None = None
        self._retired: list[File] = []
        self._room = 0  # how far the last segment can grow in the room that is set aside for it
        self._spare = 0  # bytes set aside in the spare file
        self.end = START
        self.durable = 0

    def segments(self) -> list[int]:
        """The first record number of each segment, in order."""
        return [int(name, 16) for name in segments(self._disk.list(FOLDER))]

    def locate(self, position: Position) -> Position:
        """*position*, by the segment that begins there if the one that ends there was removed (`forget`)."""
        found = self.segments()
        following = position.number + 1
        if position.segment not in found and following in found:
            return Position(following, 0, position.number)
        return position

    def holds(self, position: Position) -> bool:
        """Whether the journal reaches as far as *position*."""
        segments = self.segments()
        if position.segment not in segments:
            return position == START and not segments
        file = self._disk.open(_path(position.segment))
        file.close()
        return file.size >= position.offset

    def records(self, position: Position) -> Iterator[Record]:
        """The intact records from *position* on, up to the first gap. Changes nothing."""
        end = position
        segments = self.segments()
        if position.segment not in segments:
            segments = []
        for segment in segments[segments.index(position.segment) :] if segments else ():
            if segment not in (end.segment, end.number + 1):
                break  # what is between was lost with the power: check_tail decides
            file = self._disk.open(_path(segment))
            try:
                offset = end.offset if segment == position.segment else 0
                while (record := _read(file, segment, offset, end.number + 1)) is not None:
                    end = record.end
                    offset = end.offset
                    yield record
                torn = offset < file.size
            finally:
                file.close()
            if torn:
                break

    def settle(self) -> int:
        """Drop everything behind `end`, which recovery accepted, and make `end` appendable. Returns bytes dropped.

        Call check_tail before.
        """
        dropped = 0
        for segment in reversed(self.segments()):
            if segment > self.end.segment:
                file = self._disk.open(_path(segment))
                dropped += file.size
                file.close()
                self._disk.remove(_path(segment))
        if self.end.segment in self.segments():
            self._file = self._disk.open(_path(self.end.segment))
            if self._file.size > self.end.offset:
                dropped += self._file.size - self.end.offset
                self._file.truncate(self.end.offset)
            self._room = max(self._file.allocated(), self._file.size)
        if self._has_spare():
            spare = self._disk.open(SPARE)
            self._spare = spare.allocated()
            spare.close()
        return dropped

    def _has_spare(self) -> bool:
        return SPARE.removeprefix(FOLDER + "/") in self._disk.list(FOLDER)

    def check_tail(self) -> None:
        """Raise Corrupt if a later good record knew a number behind `end` to be durable: damage, not a torn tail."""
        lost = self.end.number + 1
        if self.durable >= lost:
            raise self._damaged(lost)
        for record in self.tail():
            if record.durable >= lost and record.number > lost:
                raise self._damaged(lost)

    def tail(self) -> Iterator[Record]:
        """Every intact record behind `end`, whatever lies between."""
        for segment in self.segments():
            if segment < self.end.segment:
                continue
            file = self._disk.open(_path(segment))
            try:
                yield from _scan(file, segment, self.end.offset if segment == self.end.segment else 0)
            finally:
                file.close()

    def _damaged(self, number: int) -> Corrupt:
        return Corrupt(
            f"{_path(self.end.segment)} at byte {self.end.offset}",
            expected=f"record {number}, which was durable",
            found="damaged bytes; restore the journal from a copy, or keep what is before with `vfs rebuild --cut`",
        )

    def append(self, payload: bytes) -> int:
        """Add a record and return its number. Raises NoSpace or DiskFailed, with nothing added.

        It may take what room is set aside (`room`): whoever must leave that to others asks before.
        """
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise TooLarge(f"a change of {len(payload)} bytes; the journal takes {PAYLOAD_BYTES_MAX}")
        file = self._file
        if file is None or file.size >= SEGMENT_BYTES_MAX:
            file = self._next_segment_if_room(file)
        number = self.end.number + 1
        length = len(payload)
        if file.size + _HEADER.size + length > self._room:
            self._grow(file, _HEADER.size + length)
        checksum = xxh3_64_intdigest(_SEALED.pack(_MAGIC, length, number, self.durable) + payload)
        header = _HEADER.pack(_MAGIC, length, number, self.durable, checksum)
        try:
            file.append((header, payload))
        except NoSpace:
            if self._spare < len(header) + length:
                raise
            file = self._use_spare()
            file.append((header, payload))
        self.end = Position(self.end.segment, file.size, number)
        return number

    def _grow(self, file: File, length: int) -> None:
        """Set room aside for *length* bytes more, and some. If the disk does not have it, it may have the bytes."""
        room = file.size + length + ROOM_STEP_BYTES
        try:
            file.reserve(room)
            self._room = room
        except NoSpace:
            pass

    def _next_segment_if_room(self, file: File | None) -> File:
        """A new segment; on a full disk the last one goes on, in the room that is set aside for it."""
        try:
            return self.roll()
        except NoSpace:
            if file is None:
                raise
            return file

    def roll(self) -> File:
        """Begin a new segment. Raises NoSpace or DiskFailed, with nothing changed."""
        segment = self.end.number + 1
        if self._file is not None and not self._file.size:
            return self._file
        if self._file is not None:
            self._file.sync()  # so that only the last segment ever has something to sync
        file = self._disk.open(_path(segment), create=True)
        try:
            file.reserve(ROOM_STEP_BYTES)
        except NoSpace:
            file.close()
            self._disk.remove(_path(segment))
            raise
        return self._begin(file, ROOM_STEP_BYTES)

    def _use_spare(self) -> File:
        """Begin a new segment in the room of the spare file, which nobody else can take meanwhile."""
        if self._file is not None:
            self._file.sync()
        file = self._disk.open(SPARE)
        try:
            self._disk.rename(SPARE, _path(self.end.number + 1))  # perhaps over an empty one
        except NoSpace:
            file.close()
            raise
        room, self._spare = self._spare, 0
        return self._begin(file, room)

    def _begin(self, file: File, room: int) -> File:
        """Append to another segment from now on."""
        if self._file is not None:
            self._file.release()
            self._retired.append(self._file)  # a sync in another thread may still hold it
        self._file = file
        self._room = room
        self.end = Position(self.end.number + 1, 0, self.end.number)
        return file

    @property
    def room(self) -> int:
        """Bytes of records that can be appended in the room that is set aside."""
        last = self._file
        return self._spare + max(self._room - (0 if last is None else last.size), 0)

    def set_aside(self, room: int) -> None:
        """Have so much room set aside as the disk has, and give back what is much more than that. Raises DiskFailed."""
        wanted = room - (self.room - self._spare)
        if self._spare >= wanted and self._spare <= 2 * wanted + ROOM_STEP_BYTES:
            return
        try:
            file = self._disk.open(SPARE, create=not self._has_spare())
        except NoSpace:
            return
        wanted = max(wanted, 0) + ROOM_STEP_BYTES // 2
        try:
            if wanted < self._spare:
                file.release()
            file.reserve(wanted)
            self._spare = wanted
        except NoSpace:
            self._spare = file.allocated()
        finally:
            file.close()

    def forget(self, number: int, *, keep: int) -> None:
        """Remove the segments before *keep* that hold nothing behind record *number*: a snapshot stands for them."""
        for first, following in pairwise(self.segments()):
            if following <= number + 1 and first < keep:
                self._disk.remove(_path(first))

    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment_sizes(self._disk, FOLDER).values())

    def since(self, offset: int) -> tuple[str, bytes]:
        """The path of the last segment, and its bytes from *offset* on. Raises DiskFailed."""
        data = self._file.read(offset, self.end.offset - offset) if self._file is not None else b""
        return _path(self.end.segment), data

    def unsynced(self) -> tuple[int, list[File]]:
        """What to sync, in any thread but one at a time, before calling `synced` with the number returned here."""
        return self.end.number, [] if self._file is None else [self._file]

    def synced(self, number: int) -> None:
        """The blocks and then the files of `unsynced` were synced: all up to *number* survives a power loss."""
        self.logged(number)
        for file in self._retired:
            file.close()
        self._retired.clear()

    def logged(self, number: int) -> None:
        """The sync log has what a power loss would take of the records up to *number*, and of their blocks."""
        self.durable = max(self.durable, number)

    def close(self) -> None:
        for file in (*self._retired, *([self._file] if self._file else [])):
            file.close()
        self._file = None
        self._retired.clear()


def raw(record: Record) -> bytes:
    """A record as it lies in a segment."""
    number, durable, payload = record.number, record.durable, record.payload
    checksum = xxh3_64_intdigest(_SEALED.pack(_MAGIC, len(payload), number, durable) + payload)
    return _HEADER.pack(_MAGIC, len(payload), number, durable, checksum) + payload


def _path(segment: int) -> str:
    return f"{FOLDER}/{segment:016x}"


def _read(file: File, segment: int, offset: int, number: int | None) -> Record | None:
    """The record at *offset*, None if there is no intact one (with that *number*, if given)."""
    header = file.read(offset, _HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, length, found, durable, checksum = _HEADER.unpack(header)
    if magic != _MAGIC or length > PAYLOAD_BYTES_MAX or (number is not None and found != number):
        return None
    payload = file.read(offset + _HEADER.size, length)
    if len(payload) < length or xxh3_64_intdigest(header[: _SEALED.size] + payload) != checksum:
        return None
    end = Position(segment, offset + _HEADER.size + length, found)
    return Record(found, durable, payload, Position(segment, offset, found - 1), end)


def _scan(file: File, segment: int, offset: int) -> Iterator[Record]:
    """Every intact record from *offset* on, whatever lies between."""
    while offset < file.size:
        chunk = file.read(offset, _SCAN_BYTES)
        at = chunk.find(_MAGIC)
        if at < 0:
            offset = file.next_data(offset + max(len(chunk) - len(_MAGIC) + 1, 1))
            continue
        record = _read(file, segment, offset + at, None)
        if record is None:
            offset += at + 1
        else:
            yield record
            offset = record.end.offset
