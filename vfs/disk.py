"""The disk that a store lives on, as the few calls that the journal and the blocks need.

Passed in, so that tests run the engine on a simulated disk that loses, tears and refuses (tests/simdisk.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vfs.errors import DiskFailed, NoSpace

Buffer = bytes | bytearray | memoryview


class File(Protocol):
    """An append-only file. Offsets and sizes are bytes."""

    size: int

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write *buffers* at the end, all or nothing, and return the offset where they begin.

        Survives the process when it returns. Raises NoSpace or DiskFailed, with nothing appended.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer only at the end of the file."""

    def sync(self) -> None:
        """Make everything appended so far survive a power loss (fdatasync). Raises DiskFailed."""

    def truncate(self, size: int) -> None:
        """Cut the file at *size* bytes."""

    def close(self) -> None: ...


class Disk(Protocol):
    """Folders of append-only files, by relative path."""

    def list(self, folder: str) -> list[str]:
        """The names in *folder*, sorted. A folder that is not there is made, durably."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open a file; *create* makes a new, empty one whose name survives a power loss."""

    def remove(self, path: str) -> None: ...


class RealFile:
    """A File on the file system of the host. Invariant: `size` is the length of the file."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self._fd).st_size

    def append(self, buffers: Sequence[Buffer]) -> int:
        start = self.size
        wanted = sum(map(len, buffers))
        try:
            written = os.pwritev(self._fd, buffers, start)
            if written < wanted:  # a short write: the disk is full, or a limit; the rest tells which
                written += self._write_all(b"".join(buffers)[written:], start + written)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, start)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoSpace(f"no space left for {self._path}: {error.strerror}") from error
            raise DiskFailed(f"cannot write {self._path}: {error.strerror}") from error
        self.size = start + wanted
        return start

    def _write_all(self, data: bytes, offset: int) -> int:
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], offset + done)
        return done

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise DiskFailed(f"cannot read {self._path} at {offset}: {error.strerror}") from error
        return data

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise DiskFailed(f"cannot sync {self._path}: {error.strerror}") from error

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
            os.fdatasync(self._fd)
        except OSError as error:
            raise DiskFailed(f"cannot truncate {self._path}: {error.strerror}") from error
        self.size = size

    def close(self) -> None:
        os.close(self._fd)


class RealDisk:
    """A Disk that is a directory of the host."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, folder: str) -> list[str]:
        path = self._root / folder
        try:
            if not path.is_dir():
                path.mkdir(mode=0o700)
                sync_directory(self._root)
            return sorted(os.listdir(path))
        except OSError as error:
            raise DiskFailed(f"cannot list {path}: {error.strerror}") from error

    def open(self, path: str, *, create: bool = False) -> RealFile:
        where = self._root / path
        try:
            file = RealFile(where, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0))
            if create:
                sync_directory(where.parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"no space left for {where}: {error.strerror}") from error
            raise DiskFailed(f"cannot open {where}: {error.strerror}") from error
        return file

    def remove(self, path: str) -> None:
        where = self._root / path
        try:
            where.unlink()
            sync_directory(where.parent)
        except OSError as error:
            raise DiskFailed(f"cannot remove {where}: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
