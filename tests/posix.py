"""System calls for tests: those that Python has not, as other users, and what they answer as something to compare."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

AT_FDCWD = -100
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4  # flags of renameat2(2)
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # instead of ns, utimensat(2)

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]


class _Dirent(ctypes.Structure):
    _fields_ = [
        ("ino", ctypes.c_uint64),
        ("cookie", ctypes.c_int64),
        ("length", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    ]


_libc.opendir.restype = ctypes.c_void_p
_libc.opendir.argtypes = [ctypes.c_char_p]
_libc.readdir.restype = ctypes.POINTER(_Dirent)
_libc.readdir.argtypes = [ctypes.c_void_p]
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
_libc.seekdir.restype = None
_libc.closedir.argtypes = [ctypes.c_void_p]


def attempt(call: Callable[..., object], *arguments: object) -> object:
    """What a call returns, or the name of its errno."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def as_user(
    uid: int,
    call: Callable[..., object],
    *arguments: object,
    gid: int | None = None,
    groups: Sequence[int] = (),
    umask: int = 0o022,
) -> object:
    """The same in a process of that user. *gid*: by default the same number. What is returned must be plain."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads: the child has one
        pid = os.fork()
    if pid == 0:
        try:
            os.umask(umask)
            os.setgroups(groups)
            os.setgid(uid if gid is None else gid)
            os.setuid(uid)
            answer: object = attempt(call, *arguments)
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return pickle.loads(answer)


def check(result: int) -> int:
    """The result of a call of libc, whose errno becomes an OSError."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(source: Path, target: Path, flags: int) -> None:
    check(_libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags))


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """Times as (s, ns); ns may be UTIME_NOW or UTIME_OMIT."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    check(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, 0))


class Listing:
    """A directory stream of libc: readdir and seekdir."""

    def __init__(self, path: Path) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        assert self._stream

    def read(self, count: int | None = None) -> list[tuple[bytes, int]]:
        """The next names, each with the cookie for going on behind it; all that are left without *count*."""
        found: list[tuple[bytes, int]] = []
        while count is None or len(found) < count:
            entry = _libc.readdir(self._stream)
            if not entry:
                break
            found.append((entry.contents.name, entry.contents.cookie))
        return found

    def seek(self, cookie: int) -> None:
        _libc.seekdir(self._stream, cookie)

    def close(self) -> None:
        _libc.closedir(self._stream)


def names(found: Iterable[tuple[bytes, int]]) -> list[bytes]:
    """The names of a listing, without those of the directory itself."""
    return [name for name, _ in found if name not in (b".", b"..")]
