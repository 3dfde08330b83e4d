"""The disk that a store lives on, as the few calls that the journal and the blocks need.

Passed in, so that tests run the engine on a simulated disk that loses, tears and refuses (tests/simdisk.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from vfs.errors import DiskFailed, LimitReached, NoSpace
from vfs.folder import Folder

Buffer = bytes | bytearray | memoryview

# What somebody can do about a limit that was reached.
LIMITS = {
    errno.EMFILE: "raise the limit of this process (ulimit -n, or LimitNOFILE= of its unit)",
    errno.ENFILE: "the whole machine has no more (sysctl fs.file-max)",
    errno.ENOMEM: "raise the limit of this process (ulimit -v, or LimitAS= and MemoryMax= of its unit)",
}

# What a disk answers for data that it no longer has. Anything else (no descriptors, no memory) says nothing of them.
DAMAGED = frozenset((errno.EIO, errno.ENOENT, errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO, errno.ENODATA))


class File(Protocol):
    """A file that is only appended to, but for the sync log's. Offsets and sizes are bytes."""

    size: int

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write *buffers* at the end, all or nothing, and return the offset where they begin.

        Survives the process when it returns. Raises NoSpace or DiskFailed, with nothing appended.
        """

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Put *buffers* anywhere, also over other bytes; what is between the end and *offset* reads as zeros.

        Survives the process when it returns. Raises NoSpace or DiskFailed; then any part may be there.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer only at the end of the file."""

    def next_data(self, offset: int) -> int:
        """The first place from *offset* on that may hold anything but zeros; the end of the file if there is none."""

    def sync(self) -> None:
        """Make everything appended so far survive a power loss (fdatasync). Raises DiskFailed."""

    def truncate(self, size: int) -> None:
        """Cut the file at *size* bytes."""

    def reserve(self, size: int) -> None:
        """Set room aside, so that the file can grow to *size* bytes whatever else fills the disk. Raises NoSpace.

        A file system that cannot do that is taken at its word: no room is set aside, and no error raised.
        """

    def release(self) -> None:
        """Give back what `reserve` set aside."""

    def punch(self, offset: int, length: int) -> None:
        """Give the room of these bytes back; they read as zeros from now on. Where that cannot be done, nothing is."""

    def allocated(self) -> int:
        """Bytes that the file takes on the disk."""

    def close(self) -> None: ...


class Disk(Protocol):
    """Folders of append-only files, by relative path."""

    def list(self, folder: str) -> list[str]:
        """The names in *folder*, sorted. A folder that is not there is made, durably."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open a file; *create* makes a new, empty one whose name survives a power loss."""

    def remove(self, path: str) -> None: ...

    def rename(self, path: str, new: str) -> None:
        """Give a file another name in its folder, which survives a power loss; what had that name goes."""


_SEGMENT = re.compile(r"[0-9a-f]{8}|[0-9a-f]{16}")
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2); Python's os has posix_fallocate only
_COPY_BYTES = 1 << 20
_GET_FLAGS, _SET_FLAGS, _NO_COW = 0x80086601, 0x40086602, 0x00800000  # ioctl_iflags(2), chattr +C
_FLAGS = struct.Struct("l")
_IN_PLACE = "journal"  # the folder of files that grow by less than a page at a time
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def set_aside(fd: int, offset: int, length: int) -> bool:
    """Allocate room behind the end of a file, whose length stays. False: the disk is full."""
    disk = os.fstatvfs(fd)  # asked first: some file systems take long to find out
    if offset + length - os.fstat(fd).st_blocks * 512 > disk.f_bfree * disk.f_frsize:
        return False
    error = _fallocate(fd, _KEEP_SIZE, offset, length)
    if error in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return False
    if error:
        raise OSError(error, os.strerror(error))
    return True


def write_in_place(fd: int) -> None:
    """Let an empty file, or new files of a directory, be written in place on a file system that otherwise copies what
    is written over (btrfs): room that is set aside is of no use there. The content is under checksums of our own.
    """
    with contextlib.suppress(OSError):  # of all others
        (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_FLAGS.size)))
        if not flags & _NO_COW:
            fcntl.ioctl(fd, _SET_FLAGS, _FLAGS.pack(flags | _NO_COW))


def _fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2). Returns the error, or 0; also where the file system cannot do it."""
    while _libc.fallocate(fd, mode, offset, length):
        error = ctypes.get_errno()
        if error in _UNSUPPORTED:
            break
        if error != errno.EINTR:  # a signal; tmpfs looks for one
            return error
    return 0


class RealFile:
    """A File on the file system of the host. Invariant: `size` is the length of the file."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def append(self, buffers: Sequence[Buffer]) -> int:
        start = self.size
        try:
            written = self._write_all(buffers, start)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, start)
            raise self._not_written(error) from error
        self.size = start + written
        return start

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        try:
            written = self._write_all(buffers, offset)
        except OSError as error:
            raise self._not_written(error) from error
        self.size = max(self.size, offset + written)

    def _write_all(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Write *buffers* at *offset*, and return how many bytes they are."""
        wanted = sum(map(len, buffers))
        done = os.pwritev(self._fd, buffers, offset)
        if done < wanted:  # a short write: the disk is full, or a limit; the rest tells which
            data = b"".join(buffers)
            while done < wanted:
                done += os.pwrite(self._fd, data[done:], offset + done)
        return wanted

    def _not_written(self, error: OSError) -> NoSpace | DiskFailed:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return NoSpace(f"no space left for {self._path}: {error.strerror}")
        return DiskFailed(f"cannot write {self._path}: {error.strerror}")

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

    def next_data(self, offset: int) -> int:
        try:
            return max(offset, os.lseek(self._fd, offset, os.SEEK_DATA))
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else offset

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

    def reserve(self, size: int) -> None:
        try:
            if size > self.size and not set_aside(self._fd, self.size, size - self.size):
                raise NoSpace(f"no space left for {self._path}")
        except OSError as error:
            raise DiskFailed(f"cannot set room aside for {self._path}: {error.strerror}") from error

    def release(self) -> None:
        with contextlib.suppress(OSError):  # room that stays set aside harms nothing
            os.ftruncate(self._fd, self.size)

    def write_in_place(self) -> None:
        """While it is empty: let it be (see above)."""
        write_in_place(self._fd)

    def punch(self, offset: int, length: int) -> None:
        error = _fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
        if error:
            raise DiskFailed(f"cannot free space in {self._path}: {os.strerror(error)}")

    def allocated(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        os.close(self._fd)


class RealDisk:
    """A Disk that is a directory of the host, held open as its folders are."""

    def __init__(self, root: Folder) -> None:
        self._root = root
        self._folders: dict[str, Folder] = {}

    def _folder(self, name: str, *, make: bool = False) -> Folder:
        folder = self._folders.get(name)
        if folder is None:
            folder = self._folders[name] = self._root.folder(name, make=make)
        return folder

    def list(self, folder: str) -> list[str]:
        try:
            return self._folder(folder, make=True).names()
        except OSError as error:
            raise refusal(f"cannot list {self._root.path / folder}", error) from error

    def open(self, path: str, *, create: bool = False) -> RealFile:
        name, where = split(path)[1], self._root.path / path
        try:
            place = split(path)[0]
            folder = self._folder(place)
            if not create:
                return RealFile(where, folder.open(name, os.O_RDWR))
            file = RealFile(where, folder.make(name))
            if place == _IN_PLACE:
                file.write_in_place()
            try:
                folder.sync()
            except OSError:
                file.close()
                with contextlib.suppress(OSError):
                    folder.remove(name)  # as if it had never been made
                raise
            return file
        except OSError as error:
            raise refusal(f"cannot {'make' if create else 'open'} {where}", error) from error

    def remove(self, path: str) -> None:
        folder, name = split(path)
        try:
            opened = self._folder(folder)
            opened.remove(name)
            opened.sync()
        except OSError as error:
            raise DiskFailed(f"cannot remove {self._root.path / path}: {error.strerror}") from error

    def rename(self, path: str, new: str) -> None:
        folder, name = split(path)
        try:
            with self._root.folder(folder) as opened:
                opened.rename(name, split(new)[1])
                opened.sync()
        except OSError as error:
            raise refusal(f"cannot rename {self._root.path / path}", error) from error


def split(path: str) -> tuple[str, str]:
    """The folder and the name of a path of a Disk."""
    folder, _, name = path.partition("/")
    return folder, name


def refusal(what: str, error: OSError) -> NoSpace | DiskFailed:
    """The error of the domain for what the system answered: the disk is full, a limit was reached, or it failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}: {error.strerror}")
    if error.errno in LIMITS:
        return LimitReached(f"{what}: {error.strerror}; {LIMITS[error.errno]}")
    return DiskFailed(f"{what}: {error.strerror}")


def is_damage(error: DiskFailed) -> bool:
    """Whether it says that data are lost, not only that they could not be had now."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in DAMAGED


def segments(names: Sequence[str]) -> list[str]:
    """Those of *names* that are segments': numbers in 8 or 16 digits. Whatever else lies beside them is not ours."""
    return [name for name in names if _SEGMENT.fullmatch(name)]


def segment_sizes(disk: Disk, folder: str) -> dict[int, int]:
    """The length in bytes of each segment of a folder (a few per GiB), in order."""
    sizes = {}
    for name in segments(disk.list(folder)):
        file = disk.open(f"{folder}/{name}")
        sizes[int(name, 16)] = file.size
        file.close()
    return sizes


def copy_with_holes(source: File, offset: int, target: BinaryIO) -> None:
    """Copy what a file has from *offset* on into a new one, which takes no more room for what is not there."""
    start = offset
    while (offset := source.next_data(offset)) < source.size:
        target.seek(offset - start)
        data = source.read(offset, _COPY_BYTES)
        if not data:
            break
        target.write(data)
        offset += len(data)
    target.truncate(max(0, source.size - start))
