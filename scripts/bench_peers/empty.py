#!/usr/bin/env python3
"""An empty filesystem: the floor under anything written with pyfuse3, to compare vfs with.

It keeps names and sizes in dicts, throws file data away, reads zeros, and answers every request without
awaiting anything. Its timeouts are long, it keeps the page cache, lets the kernel remember that a name
does not exist, and polls the FUSE descriptor as vfs does. What it takes is the price of FUSE and pyfuse3.

It runs in the foreground until it is unmounted or gets SIGTERM or SIGINT.
"""

import argparse
import errno
import os
import pickle
import signal
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, ModeT

from vfs.fuse import polling

TIMEOUT_S = 3600
READ_SIZE_MAX = 1 << 20
ZEROS = memoryview(bytes(READ_SIZE_MAX))
SIZE_LIMIT = 1 << 50


class Node:
    """An inode: the attributes as the kernel gets them and, for a directory, its names."""

    __slots__ = ("attributes", "listing", "names", "parent")

    def __init__(self, attributes: EntryAttributes, parent: InodeT, names: dict[FileNameT, InodeT]) -> None:
        self.attributes = attributes
        self.parent = parent
        self.names = names
        self.listing: list[tuple[FileNameT, InodeT]] = []


class EmptyOperations(pyfuse3.Operations):
    """File handles are inode numbers; nothing is ever forgotten, the process is short-lived."""

    def __init__(self, *, writeback: bool, xattrs: bool) -> None:
        super().__init__()
        self.enable_writeback_cache = writeback
        self._xattrs = xattrs
        self._nodes: dict[InodeT, Node] = {}
        self._inode_last = pyfuse3.ROOT_INODE - 1
        self._absent = EntryAttributes()
        self._absent.entry_timeout = TIMEOUT_S
        self._make(stat.S_IFDIR | 0o755, pyfuse3.ROOT_INODE, os.getuid(), os.getgid())

    def _make(self, mode: ModeT, parent: InodeT, uid: int, gid: int) -> Node:
        self._inode_last = inode = self._inode_last + 1
        now_ns = time.time_ns()
        attributes = EntryAttributes()
        attributes.st_ino = inode
        attributes.entry_timeout = attributes.attr_timeout = TIMEOUT_S
        attributes.st_mode = mode
        attributes.st_uid, attributes.st_gid = uid, gid
        attributes.st_nlink = 2 if stat.S_ISDIR(mode) else 1
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = now_ns
        node = self._nodes[inode] = Node(attributes, parent, {})
        return node

    def save(self, file: Path) -> None:
        """Keep the tree for a later mount."""
        rows = [(inode, node.attributes.__getstate__(), node.parent, node.names) for inode, node in self._nodes.items()]
        file.write_bytes(pickle.dumps(rows))

    def load(self, file: Path) -> None:
        for inode, state, parent, names in pickle.loads(file.read_bytes()):
            attributes = EntryAttributes()
            attributes.__setstate__(state)
            self._nodes[inode] = Node(attributes, parent, names)
            self._inode_last = inode

    def _add(self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext) -> Node:
        names = self._nodes[parent].names
        if name in names:
            raise FUSEError(errno.EEXIST)
        node = self._make(mode & ~ctx.umask, parent, ctx.uid, ctx.gid)
        names[name] = node.attributes.st_ino
        return node

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        parent = self._nodes[parent_inode]
        if name == b"..":
            return self._nodes[parent.parent].attributes
        inode = parent_inode if name == b"." else parent.names.get(name)
        return self._absent if inode is None else self._nodes[inode].attributes

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        pass

    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return self._nodes[inode].attributes

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        attributes = self._nodes[inode].attributes
        if fields.update_size:
            attributes.st_size = attr.st_size
        if fields.update_mode:
            attributes.st_mode = attr.st_mode
        if fields.update_uid:
            attributes.st_uid = attr.st_uid
        if fields.update_gid:
            attributes.st_gid = attr.st_gid
        if fields.update_mtime:
            attributes.st_mtime_ns = attr.st_mtime_ns
        if fields.update_atime:
            attributes.st_atime_ns = attr.st_atime_ns
        return attributes

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        return self._add(parent_inode, name, mode, ctx).attributes

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        if self._nodes[parent_inode].names.pop(name, None) is None:
            raise FUSEError(errno.ENOENT)

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        names = self._nodes[parent_inode].names
        if name not in names:
            raise FUSEError(errno.ENOENT)
        if self._nodes[names[name]].names:
            raise FUSEError(errno.ENOTEMPTY)
        del names[name]

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if flags:
            raise FUSEError(errno.EINVAL)
        inode = self._nodes[parent_inode_old].names.pop(name_old)
        self._nodes[parent_inode_new].names[name_new] = inode
        self._nodes[inode].parent = parent_inode_new

    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._add(parent_inode, name, stat.S_IFREG | mode, ctx)
        return FileInfo(fh=node.attributes.st_ino, keep_cache=True), node.attributes

    async def open(self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext) -> FileInfo:
        return FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        readable = min(size, self._nodes[fh].attributes.st_size - off, READ_SIZE_MAX)
        return ZEROS[: max(readable, 0)]  # type: ignore[return-value]  # pyfuse3 takes any buffer

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        attributes = self._nodes[fh].attributes
        end = off + len(buf)
        if end > attributes.st_size:
            attributes.st_size = end
        attributes.st_mtime_ns = time.time_ns()
        return len(buf)

    async def flush(self, fh: FileHandleT) -> None:
        pass

    async def release(self, fh: FileHandleT) -> None:
        pass

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        pass

    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        node = self._nodes[inode]
        node.listing = list(node.names.items())
        return inode

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._nodes[fh].listing
        for position in range(start_id, len(listing)):
            name, inode = listing[position]
            if not pyfuse3.readdir_reply(token, name, self._nodes[inode].attributes, position + 1):
                break

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = 4096
        answer.f_blocks = answer.f_bfree = answer.f_bavail = SIZE_LIMIT // 4096
        answer.f_files = answer.f_ffree = answer.f_favail = 1 << 40
        answer.f_namemax = 255
        return answer

    async def getxattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """None. The kernel asks for security.capability at each write; ENOSYS would stop that, but xattrs too."""
        raise FUSEError(pyfuse3.ENOATTR if self._xattrs else errno.ENOSYS)


async def serve() -> None:
    """Answer requests until the unmount or a signal."""
    async with trio.open_nursery() as nursery:

        async def stop_on_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    pyfuse3.terminate()

        nursery.start_soon(stop_on_signal)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mountpoint")
    parser.add_argument("--poll-us", type=int, default=polling.POLL_US_DEFAULT, help="0: stock pyfuse3 loop")
    parser.add_argument("--writeback", action="store_true", help="turn the kernel's writeback cache on")
    parser.add_argument("--no-xattrs", action="store_true", help="say that there is no such thing as xattrs")
    parser.add_argument("--state", type=Path, help="a file that keeps names and sizes from one mount to the next")
    arguments = parser.parse_args()
    if arguments.poll_us:
        polling.install(arguments.poll_us)
    operations = EmptyOperations(writeback=arguments.writeback, xattrs=not arguments.no_xattrs)
    if arguments.state and arguments.state.exists():
        operations.load(arguments.state)
    pyfuse3.init(operations, arguments.mountpoint, {*pyfuse3.default_options, "fsname=empty"})
    try:
        trio.run(serve)
    finally:
        pyfuse3.close()
        if arguments.state:
            operations.save(arguments.state)


if __name__ == "__main__":
    main()
