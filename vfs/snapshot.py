"""Snapshots: the catalog as it was at one record of the journal, in place of all records up to that one.

Owns the files under ``snapshots/`` and their framing (docs/format.md). The body is a compact copy of the catalog's
LMDB file. A snapshot counts from its last frame on: without that it is half written, and worth nothing.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Generator, Iterator
from typing import BinaryIO

from xxhash import xxh3_64_intdigest

from vfs.disk import Disk, File, refusal, segments
from vfs.errors import Corrupt, DiskFailed

FOLDER = "snapshots"
FRAME_BYTES_MAX = 1 << 20

_MAGIC = b"vfsS"
_HEADER = struct.Struct("<4sIQQ")  # magic, length, offset in the body, checksum; a length of 0 ends the snapshot
_SEALED = struct.Struct("<4sIQ")  # what the checksum covers, with the bytes


def write(disk: Disk, number: int, source: BinaryIO) -> Generator[int, None, None]:
    """Make the snapshot of record *number* from a copy of the catalog, durably, a frame at a time: yields its bytes.

    Nothing is left of one that is not written to its end. For any thread. Raises NoSpace or DiskFailed.
    """
    if number in every(disk):
        remove(disk, number)
    file = disk.open(_path(number), create=True)
    try:
        offset = 0
        while data := source.read(FRAME_BYTES_MAX):
            file.append((_header(data, offset), data))
            offset += len(data)
            yield len(data)
        file.sync()  # before the end is there, so that the end stands for all of it
        file.append((_header(b"", offset),))
        file.sync()
    except BaseException as error:
        with contextlib.suppress(DiskFailed):
            remove(disk, number)
        if isinstance(error, OSError):
            raise refusal("cannot read the copy of the catalog", error) from error
        raise
    finally:
        file.close()


def complete(disk: Disk) -> list[int]:
    """The record numbers of the snapshots, oldest first."""
    return [number for number in every(disk) if _is_complete(disk, number)]


def every(disk: Disk) -> list[int]:
    """The record numbers of the snapshots and of what was half written, in order."""
    return [int(name, 16) for name in segments(disk.list(FOLDER))]


def secure(disk: Disk, number: int) -> None:
    """Make a snapshot durable that is complete, but perhaps only in the page cache: who wrote it may have died."""
    file = disk.open(_path(number))
    try:
        file.sync()
    finally:
        file.close()


def remove(disk: Disk, number: int) -> None:
    """Remove a snapshot."""
    disk.remove(_path(number))


def restore(disk: Disk, number: int, target: BinaryIO) -> None:
    """Write the body of a snapshot to a new file. Raises Corrupt with the place of the damage."""
    for data in _body(disk, number):
        target.write(data)


def read(disk: Disk, number: int) -> Generator[int, None, None]:
    """Read a snapshot to its end, a frame at a time: yields its bytes. For any thread. Raises Corrupt."""
    for data in _body(disk, number):
        yield len(data)


def _body(disk: Disk, number: int) -> Iterator[bytes]:
    file = disk.open(_path(number))
    try:
        at = offset = 0
        while data := _frame(file, number, at, offset):
            yield data
            at += _HEADER.size + len(data)
            offset += len(data)
    finally:
        file.close()


def _path(number: int) -> str:
    return f"{FOLDER}/{number:016x}"


def _header(data: bytes, offset: int) -> bytes:
    return _HEADER.pack(_MAGIC, len(data), offset, xxh3_64_intdigest(_SEALED.pack(_MAGIC, len(data), offset) + data))


def _frame(file: File, number: int, at: int, offset: int) -> bytes:
    """The bytes of the frame at byte *at*, which belong at *offset* of the body."""
    header = file.read(at, _HEADER.size)
    if len(header) == _HEADER.size:
        magic, length, _, _ = _HEADER.unpack(header)
        if magic == _MAGIC and length <= FRAME_BYTES_MAX:
            data = file.read(at + _HEADER.size, length)
            if len(data) == length and header == _header(data, offset):
                return data
    raise Corrupt(f"{_path(number)} at byte {at}", expected="a frame of a snapshot", found="damaged bytes")


def _is_complete(disk: Disk, number: int) -> bool:
    file = disk.open(_path(number))
    try:
        at = file.size - _HEADER.size
        if at < 0:
            return False
        _, length, offset, _ = _HEADER.unpack(file.read(at, _HEADER.size))
        return length == 0 and file.read(at, _HEADER.size) == _header(b"", offset)
    finally:
        file.close()
