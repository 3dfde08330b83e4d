"""A directory of a store, held open. What lies in it is opened here, by name, and nothing is ever followed.

A store can come from somebody else, who put a symbolic link, a FIFO, a device or another user's file in the place of
what vfs reads and writes, and may do so at any moment. So a name is first held as what it is (O_PATH), looked at, and
only what was looked at is opened, through /proc/self/fd: no path is walked twice, and nothing but a regular file is
ever opened for reading or writing. A path that somebody typed is walked once, to the store's own directory.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path
from typing import BinaryIO, Self

from vfs.errors import Unsafe

_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
}


class Folder:
    """A directory that is open. Closed with `close`, or when nobody has it any more.

    path: what it is called in messages. foreign: others than this process's user may own it and what is in it.
    """

    def __init__(self, fd: int, path: Path, *, foreign: bool) -> None:
        self._fd = fd
        self.path = path
        self.foreign = foreign

    @classmethod
    def at(cls, path: Path, *, foreign: bool = False, make: bool = False) -> Self:
        """The directory of a path, which is followed as any path is; it may itself be a symbolic link of this user's.
        make: if it is missing; an empty one is closed to what others could write. Raises OSError, Unsafe.
        """
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        link = os.lstat(path)
        if stat.S_ISLNK(link.st_mode) and link.st_uid != 0:
            _check_owner(link, path, foreign=foreign)
        folder = cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path, foreign=foreign)
        found = os.fstat(folder.fd)
        if make and found.st_mode & _BY_OTHERS and found.st_uid == os.geteuid() and not folder.names():
            os.fchmod(folder.fd, stat.S_IMODE(found.st_mode) & ~_BY_OTHERS)
            found = os.fstat(folder.fd)
        _check(found, path, directory=True, foreign=foreign, writing=True)
        return folder

    @property
    def fd(self) -> int:
        """The descriptor. Raises ValueError if it is closed."""
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        return self._fd

    def close(self) -> None:
        """Let go of it; does nothing the second time."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def again(self) -> Self:
        """The same directory, to be closed by somebody else. Raises OSError."""
        return type(self)(os.dup(self.fd), self.path, foreign=self.foreign)

    # -- what is in it ----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Sorted. Raises OSError."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)  # with an offset of its own
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def find(self, name: str) -> os.stat_result | None:
        """What stands at a name, itself; None if nothing does. Raises OSError."""
        try:
            return os.stat(_plain(name), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def file_bytes(self, name: str) -> int:
        """How long a file is. Raises OSError, FileNotFoundError among them."""
        return os.stat(_plain(name), dir_fd=self.fd, follow_symlinks=False).st_size

    def is_own(self, name: str) -> bool:
        """Whether what stands at a name belongs to this process's user, or to root, whatever *foreign* allows."""
        found = self.find(name)
        return found is not None and found.st_uid in (os.geteuid(), 0)

    def check(self, name: str, *, directory: bool = False, writing: bool = True) -> None:
        """See that a name is free, or leads to a file (a *directory*) that may be opened. Raises Unsafe, OSError."""
        found = self.find(name)
        if found is not None:
            _check(found, self.path / name, directory=directory, foreign=self.foreign, writing=writing)

    def folder(self, name: str, *, make: bool = False) -> Self:
        """A directory in this one. make: if it is missing, durably. Raises OSError, Unsafe."""
        made = False
        if make and self.find(name) is None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_plain(name), 0o700, dir_fd=self.fd)
                made = True
            self.sync()
        fd = self._open(name, os.O_RDONLY | os.O_DIRECTORY, directory=True)
        if made:
            self._give(fd)
        return type(self)(fd, self.path / name, foreign=self.foreign)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of a regular file, which must be there. Raises OSError, Unsafe."""
        return self._open(name, flags, directory=False)

    def _open(self, name: str, flags: int, *, directory: bool) -> int:
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        held = -1
        try:
            held = os.open(_plain(name), _HOLD, dir_fd=self.fd)
            _check(os.fstat(held), self.path / name, directory=directory, foreign=self.foreign, writing=writing)
            return os.open(f"/proc/self/fd/{held}", flags | os.O_CLOEXEC)
        except OSError as error:
            error.filename = str(self.path / name)
            raise
        finally:
            if held >= 0:
                os.close(held)

    def open_file(self, name: str) -> BinaryIO:
        """A regular file, to be read. Raises OSError, Unsafe."""
        return open(self.open(name), "rb")

    def make(self, name: str) -> int:
        """A descriptor of a new, empty file. Raises OSError."""
        fd = os.open(_plain(name), _MAKE, 0o600, dir_fd=self.fd)
        self._give(fd)
        return fd

    def _give(self, fd: int) -> None:
        """Let what was made here belong to who owns the directory, if that can be: who opens it next can, too."""
        owner = os.fstat(self.fd)
        if self.foreign and owner.st_uid != os.geteuid():
            with contextlib.suppress(PermissionError):
                os.fchown(fd, owner.st_uid, owner.st_gid)

    def open_or_make(self, name: str, flags: int) -> int:
        """A descriptor of a regular file, which is made if it is missing. Raises OSError, Unsafe."""
        try:
            return self.open(name, flags)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # somebody else was faster
                os.close(self.make(name))
            return self.open(name, flags)

    def read(self, name: str, limit: int) -> bytes:
        """What is in a file. Raises OSError, FileNotFoundError among them, and Unsafe, also for more than *limit*."""
        with self.open_file(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Unsafe(f"{self.path / name} is larger than {limit} bytes, which it never is in a store")
        return data

    # -- changing it ------------------------------------------------------------------------------------------

    def replace(self, name: str, new: str, data: bytes, *, durably: bool = True) -> None:
        """Put *data* in the place of a file, in one step, by way of the name *new*. Raises OSError."""
        self.remove(new, missing_ok=True)
        with open(self.make(new), "wb") as file:
            file.write(data)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        self.rename(new, name)
        if durably:
            self.sync()

    def rename(self, name: str, to: str, folder: Folder | None = None) -> None:
        """Move what stands at a name, itself, maybe to another directory. Raises OSError."""
        target = self if folder is None else folder
        os.rename(_plain(name), _plain(to), src_dir_fd=self.fd, dst_dir_fd=target.fd)

    def remove(self, name: str, *, missing_ok: bool = False) -> None:
        """Remove what stands at a name, itself, but a directory. Raises OSError."""
        try:
            os.unlink(_plain(name), dir_fd=self.fd)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_folder(self, name: str) -> None:
        """Remove a directory in this one with the files in it, if it is there. Raises OSError, Unsafe."""
        with contextlib.suppress(FileNotFoundError):
            with self.folder(name) as folder:
                for inner in folder.names():
                    folder.remove(inner)
            os.rmdir(_plain(name), dir_fd=self.fd)

    def sync(self) -> None:
        """Make the names in it survive a power loss. Raises OSError."""
        os.fsync(self.fd)

    def free_bytes(self) -> int:
        """What the file system has left for users."""
        disk = os.statvfs(self.fd)
        return disk.f_bavail * disk.f_frsize

    def used_bytes(self) -> int:
        """What the files in it take on the disk, those in directories below included."""
        total = 0
        for _, _, files, fd in os.fwalk(".", dir_fd=self.fd):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512
        return total


def _plain(name: str) -> str:
    """A name that stands in the directory itself. Raises ValueError for any other: no name leads on from there."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no name in a directory")
    return name


def _check(found: os.stat_result, path: Path, *, directory: bool, foreign: bool, writing: bool) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != (stat.S_IFDIR if directory else stat.S_IFREG):
        wanted = "directory" if directory else "regular file"
        raise Unsafe(
            f"{path} is {_KINDS.get(kind, 'of no known kind')}, where a store has a {wanted}; nothing of it is opened:"
            " see who put it there, and put back what was there"
        )
    if not directory and writing and found.st_nlink > 1:
        raise Unsafe(
            f"{path} has {found.st_nlink} names (hard links), and what is written to it would be seen under all of"
            f" them; give the store a copy of its own: cp {path} {path}.own && mv {path}.own {path}"
        )
    _check_owner(found, path, foreign=foreign)
    if directory and found.st_mode & stat.S_IWOTH and not foreign:
        raise Unsafe(f"everybody may write to {path}; take that away: chmod o-w {path}")


def _check_owner(found: os.stat_result, path: Path, *, foreign: bool) -> None:
    user = os.geteuid()
    if found.st_uid != user and not foreign:
        raise Unsafe(
            f"{path} belongs to {_named(found.st_uid)}, and vfs runs as {_named(user)}: run it as"
            f" {_named(found.st_uid)}, or give the whole store to {_named(user)} (chown -R), or, if you trust whoever"
            " can write to it, say --foreign-owner (in fstab: foreign_owner)"
        )


def _named(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
