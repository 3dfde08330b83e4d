"""Blocks: immutable, checksummed, content-addressed pieces of file content in append-only segments.

Owns the segment files under ``blocks/`` and a bounded cache of verified blocks. Where a block lies is kept by an index
(the catalog), which can be made again by `scan`. A block's id is the BLAKE3 of its bytes; the nodes of manifests hash
under another context, so that no file content can pass for a node. What is stored of a block is its bytes, or a zstd
frame of them: the id tells which, for only one of the two has it.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol

from blake3 import blake3

from vfs.compression import Compressor, decompress
from vfs.disk import Buffer, Disk, File, segments
from vfs.errors import Corrupt, DiskFailed, NoSpace
from vfs.model import BlockId

FOLDER = "blocks"
BLOCK_BYTES = 128 << 10  # the content of a block, at most
SEGMENT_BYTES_MAX = 256 << 20
CACHE_BYTES_MAX = 32 << 20
OPEN_SEGMENTS_MAX = 64
ID_BYTES = 32

_MAGIC = b"vfsB"
_HEADER = struct.Struct("<4sBBHI32s")  # magic, is a node, encoding, reserved, length, id
HEADER_BYTES = _HEADER.size
_NODE_CONTEXT = "vfs 2026-11 manifest node"
_OFFSET_END = 1 << 62
_SCAN_BYTES = 1 << 20
_HEADERS_BYTES = 16 << 10  # read at once where only headers are wanted
_CANDIDATES_BYTES = 64 << 10  # the same where headers may be anywhere


class Encoding(IntEnum):
    """How a block is stored."""

    RAW = 0
    ZSTD = 1


class Place(NamedTuple):
    """Where a block lies: segment number, offset in it, length in bytes, as it is stored."""

    segment: int
    offset: int
    length: int


LOST = Place(0, 0, 0)


class Index(Protocol):
    """Where each block is. Kept by the catalog."""

    def block_place(self, block: BlockId) -> Place | None: ...

    def set_block_place(self, block: BlockId, place: Place, *, node: bool) -> None: ...

    def find_room(self) -> bool:
        """Whether there is room for more, beside what is set aside."""


class End(NamedTuple):
    """Where the next block goes: every block before is in the index."""

    segment: int
    offset: int


class Found(NamedTuple):
    """A block met by `scan`; *end* is behind it."""

    block: BlockId
    node: bool
    place: Place
    end: End


class Blocks:
    """The open block store. Invariant: a block is in the index only after its bytes were written."""

    def __init__(self, disk: Disk, index: Index) -> None:
        self._disk = disk
        self._index = index
        self._current: File | None = None
        self._dirty: dict[int, File] = {}
        self._syncing: dict[int, File] = {}
        self._files: OrderedDict[int, File] = OrderedDict()
        self._cache: OrderedDict[BlockId, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._compressor = Compressor()
        self.is_full = False  # the last block that was to be stored found no room
        self.pins: set[BlockId] | None = None  # while a collection looks for what is dead: what open files may need
        self.end = End(0, 0)

    def put(self, data: Buffer, *, node: bool = False, compress: bool = False) -> BlockId:
        """Store a block once, and return its id. Raises NoSpace or DiskFailed.

        compress: where that pays. A block that is there already stays as it is.
        """
        block = identify(data, node=node)
        place = self._index.block_place(block)
        if place is None or place == LOST:
            frame = self._compressor.compress(data) if compress else None
            if frame is None:
                self.append(block, data, node=node)
            else:
                self.append(block, frame, node=node, encoding=Encoding.ZSTD)
            if node:
                self._remember(block, bytes(data))  # who counts its references asks for it next
        elif self.pins is not None:
            self.pins.add(block)
        return block

    def append(self, block: BlockId, stored: Buffer, *, node: bool, encoding: Encoding = Encoding.RAW) -> None:
        """Store a block, maybe once more, and let the index lead to this place. Raises NoSpace or DiskFailed.

        stored: its bytes in this encoding.
        """
        self.is_full = True
        if not self._index.find_room():
            raise NoSpace("no space left: what is free is set aside for deleting and purging")
        file = self._current
        if file is None or file.size >= SEGMENT_BYTES_MAX:
            file = self._next_segment()
        start = file.append((header_of(block, node=node, length=len(stored), encoding=encoding), stored))
        self.is_full = False
        segment = self.end.segment
        self.end = End(segment, file.size)
        self._dirty[segment] = file
        self._index.set_block_place(block, Place(segment, start + HEADER_BYTES, len(stored)), node=node)

    def segments(self) -> list[int]:
        """The numbers of the segments, in order. The last one is appended to."""
        return [int(name, 16) for name in segments(self._disk.list(FOLDER))]

    def roll(self) -> None:
        """Begin a new segment, if anything is in the last one. Raises NoSpace, DiskFailed."""
        if self._current is not None and self._current.size:
            self._next_segment()

    def open_segment(self, segment: int) -> File:
        """A segment for a thread of its own, to be closed by the caller."""
        return self._disk.open(_path(segment))

    def remove(self, segment: int) -> None:
        """Remove a segment that nothing in the index leads to."""
        if segment not in self._dirty and segment not in self._syncing:  # else a thread may be syncing it
            file = self._files.pop(segment, None)
            if file is not None:
                file.close()
        self._disk.remove(_path(segment))

    def _next_segment(self) -> File:
        number = max((int(name, 16) for name in segments(self._disk.list(FOLDER))), default=0) + 1
        file = self._disk.open(_path(number), create=True)
        self._current = file
        self._keep(number, file)
        self.end = End(number, 0)
        return file

    def get(self, block: BlockId, *, node: bool = False) -> bytes:
        """The verified bytes of a block. Raises Corrupt if they are not what was stored, or not there."""
        data = self._cache.get(block)
        if data is not None:
            self._cache.move_to_end(block)
            return data
        try:
            place = self._index.block_place(block)
            if place is None or place == LOST:
                raise Corrupt("blocks", expected=f"block {block.hex()}", found="no such block")
            data, _ = self._read(block, place, node=node)
        except (Corrupt, DiskFailed) as error:
            error.block = block
            raise
        self._remember(block, data)
        return data

    def _remember(self, block: BlockId, data: bytes) -> None:
        self._cached_bytes += len(data) - len(self._cache.get(block, b""))
        self._cache[block] = data
        while self._cached_bytes > CACHE_BYTES_MAX:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= len(old)

    def read_damaged(self, place: Place) -> bytes:
        """What is there, whatever it is. Raises Corrupt, DiskFailed if nothing can be read."""
        return read_place(self._file(place.segment), place)

    def verify(self, block: BlockId, place: Place, *, node: bool) -> Encoding:
        """Read a block from the disk, and tell how it is stored. Raises Corrupt if it is not intact."""
        return self._read(block, place, node=node).encoding

    def _read(self, block: BlockId, place: Place, *, node: bool) -> Decoded:
        return read_verified(self._file(place.segment), block, place, node=node)[1]

    def _file(self, segment: int) -> File:
        file = self._files.get(segment)
        if file is None:
            if _name(segment) not in self._disk.list(FOLDER):
                raise Corrupt(_path(segment), expected="a segment of blocks", found="no such file")
            file = self._disk.open(_path(segment))
            self._keep(segment, file)
        else:
            self._files.move_to_end(segment)
        return file

    def _keep(self, segment: int, file: File) -> None:
        self._files[segment] = file
        for old in list(self._files):
            if len(self._files) <= OPEN_SEGMENTS_MAX:
                break
            if self._files[old] is not self._current and old not in self._dirty and old not in self._syncing:
                self._files.pop(old).close()

    def scan(self, start: End) -> Iterator[Found]:
        """Every intact block from *start* on, in the order of writing; torn or damaged bytes are stepped over."""
        for name in segments(self._disk.list(FOLDER)):
            segment = int(name, 16)
            if segment < start.segment:
                continue
            file = self._disk.open(_path(segment))
            try:
                yield from _scan(file, segment, start.offset if segment == start.segment else 0)
            finally:
                file.close()

    def settle(self, start: End, end: End) -> int:
        """Drop what is behind the last intact block *end*, and go on appending there. Returns bytes dropped.

        *start*: where the scan began; what is behind it may only be in the page cache, and is synced next.
        """
        dropped = 0
        for name in segments(self._disk.list(FOLDER)):
            segment = int(name, 16)
            if segment < start.segment:
                continue
            file = self._file(segment)
            self._dirty[segment] = file
            if segment < end.segment:
                continue
            keep = end.offset if segment == end.segment else 0
            if file.size > keep:
                dropped += file.size - keep
                file.truncate(keep)
            if segment == end.segment:
                self._current = file
        self.end = end
        return dropped

    def since(self, offset: int) -> tuple[str, bytes]:
        """The path of the last segment, and its bytes from *offset* on. Raises DiskFailed."""
        data = self._current.read(offset, self.end.offset - offset) if self._current is not None else b""
        return _path(self.end.segment), data

    def unsynced(self) -> dict[int, File]:
        """What to sync, in any thread but one at a time, before calling `synced`."""
        self._syncing, self._dirty = self._dirty, {}
        return self._syncing

    def synced(self) -> None:
        """The files of `unsynced` were synced."""
        self._syncing = {}

    def not_synced(self) -> None:
        """The sync of the files of `unsynced` failed."""
        self._dirty = self._syncing | self._dirty
        self._syncing = {}

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._current = None


def identify(data: Buffer, *, node: bool = False) -> BlockId:
    """The id of a block with these bytes."""
    if node:
        return BlockId(blake3(data, derive_key_context=_NODE_CONTEXT).digest())
    return BlockId(blake3(data).digest())


class Decoded(NamedTuple):
    """The verified bytes of a block, and how they were stored."""

    data: bytes
    encoding: Encoding


def decode(block: BlockId, stored: bytes, *, node: bool) -> Decoded | None:
    """A block from what is stored of it, None if that is damaged. For any thread.

    Its header is not asked: that can be damaged while the block is intact, and content can begin like a frame.
    """
    data = None if node else decompress(stored, BLOCK_BYTES)
    if data is not None and identify(data) == block:
        return Decoded(data, Encoding.ZSTD)
    return Decoded(stored, Encoding.RAW) if identify(stored, node=node) == block else None


def read_place(file: File, place: Place) -> bytes:
    """The bytes at a place, which a damaged index may give any numbers. Raises Corrupt, DiskFailed."""
    if place.length > BLOCK_BYTES or place.offset > _OFFSET_END:
        raise Corrupt("the catalog", expected="the place of a block", found=f"{place}")
    return file.read(place.offset, place.length)


def read_verified(file: File, block: BlockId, place: Place, *, node: bool) -> tuple[bytes, Decoded]:
    """What is stored of a block, and what that says. For any thread. Raises Corrupt if it is not that block."""
    stored = read_place(file, place)
    decoded = decode(block, stored, node=node)
    if decoded is None:
        where = f"{_path(place.segment)} at byte {place.offset}, {place.length} bytes"
        raise Corrupt(where, expected=f"block {block.hex()}", found=identify(stored, node=node).hex())
    return stored, decoded


def headers(file: File, segment: int, offset: int, count: int) -> tuple[list[Found], int]:
    """Up to *count* blocks of a segment from *offset* on, by their headers alone, and the offset to go on from.

    What is between intact headers is stepped over. For any thread.
    """
    found: list[Found] = []
    while offset < file.size and len(found) < count:
        window = file.read(offset, _HEADERS_BYTES)
        at = 0
        while at + _HEADER.size <= len(window) and len(found) < count:
            magic, node, _, _, length, block = _HEADER.unpack_from(window, at)
            if magic != _MAGIC or length > BLOCK_BYTES:
                break
            place = Place(segment, offset + at + _HEADER.size, length)
            at += _HEADER.size + length
            found.append(Found(BlockId(block), bool(node), place, End(segment, offset + at)))
        offset = offset + at if at else _next_magic(file, offset + 1)
    return found, offset


def candidates(file: File, segment: int, offset: int, count: int) -> tuple[list[Found], int]:
    """The same for everything that looks like a header, also within what another one spans.

    Of a block that was freed, a part of a page can be left, and look like anything: its content may be such segments.
    """
    found: list[Found] = []
    while offset < file.size and len(found) < count:
        window = file.read(offset, _CANDIDATES_BYTES)
        at = window.find(_MAGIC)
        while at >= 0 and len(found) < count and at + _HEADER.size <= len(window):
            _, node, _, _, length, block = _HEADER.unpack_from(window, at)
            if length <= BLOCK_BYTES:
                place = Place(segment, offset + at + _HEADER.size, length)
                found.append(Found(BlockId(block), bool(node), place, End(segment, place.offset + length)))
            at = window.find(_MAGIC, at + 1)
        if at < 0:
            at = len(window) if offset + len(window) >= file.size else len(window) - len(_MAGIC) + 1
        elif not at:
            at = len(window)  # the end of the segment
        offset = file.next_data(offset + at)
    return found, offset


def header_of(block: BlockId, *, node: bool, length: int, encoding: Encoding = Encoding.RAW) -> bytes:
    """The header of a block of which *length* bytes are stored."""
    return _HEADER.pack(_MAGIC, node, encoding, 0, length, block)


def _name(segment: int) -> str:
    return f"{segment:08x}"


def _path(segment: int) -> str:
    return f"{FOLDER}/{_name(segment)}"


def _scan(file: File, segment: int, offset: int) -> Iterator[Found]:
    while offset < file.size:
        header = file.read(offset, _HEADER.size)
        found = None
        if len(header) == _HEADER.size and header.startswith(_MAGIC):
            _, node, encoding, _, length, block = _HEADER.unpack(header)
            start = offset + _HEADER.size
            if length <= BLOCK_BYTES and node in (0, 1):
                stored = file.read(start, length)
                decoded = decode(block, stored, node=bool(node)) if len(stored) == length else None
                if decoded is not None and decoded.encoding == encoding:
                    end = End(segment, start + length)
                    found = Found(BlockId(block), bool(node), Place(segment, start, length), end)
        if found is not None:
            yield found
            offset = found.end.offset
        else:
            offset = _next_magic(file, offset + 1)


def _next_magic(file: File, offset: int) -> int:
    while offset < file.size:
        chunk = file.read(offset, _SCAN_BYTES)
        at = chunk.find(_MAGIC)
        if at >= 0:
            return offset + at
        offset = file.next_data(offset + max(len(chunk) - len(_MAGIC) + 1, 1))
    return offset
