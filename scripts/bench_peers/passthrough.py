#!/usr/bin/env python3
"""A directory as a pyfuse3 filesystem, each request answered by the system calls it stands for.

It is what pyfuse3's own example of a passthrough does, written anew for scripts/bench: pyfuse3's loop as it comes,
the writeback cache on, nothing kept by the kernel (timeouts of 0). It shows what Python and FUSE cost when the data
is real. It must be the only one to change the directory.

It runs in the foreground until it is unmounted or gets SIGTERM or SIGINT.
"""

import argparse
import errno
import functools
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

import pyfuse3
import trio
from empty import serve
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, ModeT, RequestContext

Place = tuple[InodeT, FileNameT]
"""A directory and a name in it."""
STAT_FIELDS = tuple(
    f"st_{name}"
    for name in (
        *("mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"),
        *("atime_ns", "mtime_ns", "ctime_ns"),
    )
)
STATVFS_FIELDS = tuple(
    f"f_{name}" for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax")
)

P = ParamSpec("P")
R = TypeVar("R")


def telling_errno(operation: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """What a system call refuses is the answer to the request."""

    @functools.wraps(operation)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await operation(*args, **kwargs)
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None

    return answer


def for_reading_too(flags: int) -> int:
    """The kernel's writeback cache reads what it writes to, and appends by itself."""
    if flags & os.O_ACCMODE == os.O_WRONLY:
        flags = flags & ~os.O_ACCMODE | os.O_RDWR
    return flags & ~(os.O_APPEND | os.O_NOFOLLOW)


class PassthroughOperations(pyfuse3.Operations):
    """Inode numbers are those of the directory's filesystem (there must be only one); handles are descriptors."""

    enable_writeback_cache = True

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = os.fsencode(directory)
        self._root_ino = os.stat(directory).st_ino
        self._inodes: dict[Place, InodeT] = {}
        self._places: dict[InodeT, dict[Place, None]] = {}
        self._lookups: dict[InodeT, int] = {}
        self._open: dict[InodeT, list[int]] = {}
        self._listings: dict[FileHandleT, tuple[InodeT, list[FileNameT]]] = {}

    def _path(self, inode: InodeT) -> bytes:
        if inode == pyfuse3.ROOT_INODE:
            return self._directory
        if not self._places.get(inode):  # unlinked: what is open can be reached
            if inode not in self._open:
                raise OSError(errno.ESTALE, "unlinked and closed")
            return b"/proc/self/fd/%d" % self._open[inode][-1]
        return self._path_at(*next(iter(self._places[inode])))

    def _path_at(self, parent: InodeT, name: FileNameT) -> bytes:
        return self._path(parent) + b"/" + name

    def _leave(self, place: Place) -> InodeT | None:
        inode = self._inodes.pop(place, None)
        if inode is not None:
            self._places[inode].pop(place)
        return inode

    def _enter(self, place: Place, inode: InodeT) -> None:
        if self._inodes.get(place) != inode:
            self._leave(place)
            self._inodes[place] = inode
            self._places.setdefault(inode, {})[place] = None

    def _attributes(self, path: bytes) -> EntryAttributes:
        found = os.stat(path, follow_symlinks=path.startswith(b"/proc/self/fd/"))
        attributes = EntryAttributes()
        for name in [
            "st_mode",
            "st_nlink",
            "st_uid",
            "st_gid",
            "st_rdev",
            "st_size",
            "st_blksize",
            "st_blocks",
            "st_atime_ns",
            "st_mtime_ns",
            "st_ctime_ns",
        ]:
            setattr(attributes, name, getattr(found, name))
        attributes.st_ino = pyfuse3.ROOT_INODE if found.st_ino == self._root_ino else found.st_ino
        attributes.entry_timeout = attributes.attr_timeout = 0
        return attributes

    def _found(self, parent: InodeT, name: FileNameT) -> EntryAttributes:
        """Look a name up, which the kernel will forget once."""
        attributes = self._attributes(self._path_at(parent, name))
        self._enter((parent, name), attributes.st_ino)
        self._lookups[attributes.st_ino] = self._lookups.get(attributes.st_ino, 0) + 1
        return attributes

    @telling_errno
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._found(parent_inode, name)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            left = self._lookups.pop(inode, 0) - count
            if left > 0:
                self._lookups[inode] = left
            elif inode != pyfuse3.ROOT_INODE:
                for place in self._places.pop(inode, {}):
                    del self._inodes[place]

    @telling_errno
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._path(inode))

    @telling_errno
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        path = self._path(inode)
        follow = path.startswith(b"/proc/self/fd/")
        if fields.update_size:
            os.truncate(path if fh is None else fh, attr.st_size)
        if fields.update_mode:
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            uid, gid = attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1
            os.chown(path, uid, gid, follow_symlinks=follow)
        if fields.update_atime or fields.update_mtime:
            now = os.stat(path, follow_symlinks=follow)
            atime_ns = attr.st_atime_ns if fields.update_atime else now.st_atime_ns
            mtime_ns = attr.st_mtime_ns if fields.update_mtime else now.st_mtime_ns
            os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=follow)
        return self._attributes(self._path(inode))

    @telling_errno
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(os.readlink(self._path(inode)))

    @telling_errno
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        os.symlink(target, self._path_at(parent_inode, name))
        return self._found(parent_inode, name)

    @telling_errno
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        os.link(self._path(inode), self._path_at(new_parent_inode, new_name), follow_symlinks=False)
        return self._found(new_parent_inode, new_name)

    @telling_errno
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        os.mknod(self._path_at(parent_inode, name), mode & ~ctx.umask, rdev)
        return self._found(parent_inode, name)

    @telling_errno
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        os.mkdir(self._path_at(parent_inode, name), mode & ~ctx.umask)
        return self._found(parent_inode, name)

    @telling_errno
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        os.unlink(self._path_at(parent_inode, name))
        self._leave((parent_inode, name))

    @telling_errno
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        os.rmdir(self._path_at(parent_inode, name))
        self._leave((parent_inode, name))

    @telling_errno
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if flags:
            raise FUSEError(errno.EINVAL)
        os.rename(self._path_at(parent_inode_old, name_old), self._path_at(parent_inode_new, name_new))
        inode = self._leave((parent_inode_old, name_old))
        if inode is not None:
            self._enter((parent_inode_new, name_new), inode)

    @telling_errno
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        path = self._path_at(parent_inode, name)
        fd = os.open(path, for_reading_too(flags) | os.O_CREAT, mode & ~ctx.umask)
        attributes = self._found(parent_inode, name)
        self._opened(attributes.st_ino, fd)
        return FileInfo(fh=FileHandleT(fd)), attributes

    @telling_errno
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        fd = os.open(self._path(inode), for_reading_too(flags))
        self._opened(inode, fd)
        return FileInfo(fh=FileHandleT(fd))

    def _opened(self, inode: InodeT, fd: int) -> None:
        self._open.setdefault(inode, []).append(fd)

    @telling_errno
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return os.pread(fh, size, off)

    @telling_errno
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return os.pwrite(fh, buf, off)

    @telling_errno
    async def flush(self, fh: FileHandleT) -> None:
        os.close(os.dup(fh))

    @telling_errno
    async def release(self, fh: FileHandleT) -> None:
        inode = InodeT(os.fstat(fh).st_ino)
        self._open[inode].remove(fh)
        if not self._open[inode]:
            del self._open[inode]
        os.close(fh)

    @telling_errno
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        (os.fdatasync if datasync else os.fsync)(fh)

    @telling_errno
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        fh = FileHandleT(os.open(self._path(inode), os.O_RDONLY | os.O_DIRECTORY))
        self._listings[fh] = inode, [FileNameT(os.fsencode(name)) for name in os.listdir(fh)]
        return fh

    @telling_errno
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        parent, names = self._listings[fh]
        for position in range(start_id, len(names)):
            try:
                attributes = self._found(parent, names[position])
            except FileNotFoundError:  # since the listing
                continue
            if not pyfuse3.readdir_reply(token, names[position], attributes, position + 1):
                await self.forget([(attributes.st_ino, 1)])
                break

    @telling_errno
    async def releasedir(self, fh: FileHandleT) -> None:
        del self._listings[fh]
        os.close(fh)

    @telling_errno
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        os.fsync(fh)

    @telling_errno
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        found = os.statvfs(self._directory)
        answer = pyfuse3.StatvfsData()
        for name in [
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
            "f_namemax",
        ]:
            setattr(answer, name, getattr(found, name))
        return answer

    @telling_errno
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        return os.getxattr(self._path(inode), name)

    @telling_errno
    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        os.setxattr(self._path(inode), name, value)

    @telling_errno
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self._path(inode))]

    @telling_errno
    async def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        os.removexattr(self._path(inode), name)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("mountpoint")
    arguments = parser.parse_args()
    os.umask(0)
    operations = PassthroughOperations(arguments.directory)
    pyfuse3.init(operations, arguments.mountpoint, {*pyfuse3.default_options, "fsname=passthrough"})
    try:
        trio.run(serve)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
