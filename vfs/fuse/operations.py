"""The FUSE door: translates requests to the engine and errors to errno. It decides nothing.

Concurrency: a handler marked `@_quick` is a plain function, so nothing else runs between its first line and its
reply; whatever changes state is one. The few handlers that wait (for a sync, for the kernel to drop what it cached)
change state in one go before or after the waiting.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields

from vfs import acl
from vfs.catalog import UNREADABLE
from vfs.content import WorkingCopy, stored_bytes
from vfs.core import Changed
from vfs.disk import LIMITS
from vfs.errors import (
    Corrupt,
    DiskFailed,
    Exists,
    InvalidName,
    NoSpace,
    NoSuchKey,
    NotPermitted,
    ReadOnly,
    VfsError,
)
from vfs.files import SETID
from vfs.fuse import callers
from vfs.fuse.attributes import PREFIX, Attributes
from vfs.fuse.callers import Caller
from vfs.fuse.errnos import ERRNO
from vfs.fuse.invalidation import Invalidation
from vfs.fuse.nodes import Node, Stat, is_past, number, split
from vfs.fuse.past import LOG_START, LogPosition, PastTree, target
from vfs.fuse.snapshots import MoreLater
from vfs.fuse.tracing import Trace
from vfs.model import NOBODY, STORE_ROOT, Ino, Inode, KeyId, clamp_time
from vfs.names import NAME_BYTES_MAX, SNAPSHOTS, VERSIONS, format_version_id, show
from vfs.openfiles import Handle
from vfs.purging import Way
from vfs.service.collecting import Collecting
from vfs.service.durability import Durability
from vfs.service.health import UNNAMED, Health
from vfs.service.lifecycles import Lifecycles
from vfs.store import Store
from vfs.tree import Gone

log = logging.getLogger("vfs.fuse")

CACHE_S = 86_400.0  # how long the kernel may keep names and attributes: only this daemon changes them, and it tells
COOKIES_MAX = 4096  # names of an open directory that are remembered, and once more as many
RAGGED_WRITES_MAX = 64  # through a handle, of parts of pages; after more the kernel's cache of the file is dropped
_PAGE = 4096
_DOT, _DOT_DOT = (1 << 62) + 1, (1 << 62) + 2  # cookies of readdir: above those of names
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC

_ABSENT = EntryAttributes()
_ABSENT.st_ino = 0  # "no such name", which the kernel may keep like any other answer
_ABSENT.entry_timeout = CACHE_S

P = ParamSpec("P")
R = TypeVar("R")


def _fail(health: Health, error: Exception, name: str) -> NoReturn:
    """Turn an engine's error into the errno for the kernel."""
    if isinstance(error, FUSEError):
        raise error
    if isinstance(error, VfsError):
        if isinstance(error, Corrupt | NoSpace | DiskFailed):
            health.met(error)
        raise FUSEError(ERRNO[type(error)]) from error
    if isinstance(error, MemoryError):
        log.error("%s failed: out of memory; %s", name, LIMITS[errno.ENOMEM])
        raise FUSEError(errno.ENOMEM) from error
    if isinstance(error, UNREADABLE):
        health.unreadable(error)
    elif isinstance(error, OSError):
        log.error("%s failed: %s", name, error)
    else:
        log.error("%s failed; this is a bug in vfs", name, exc_info=error)
    raise FUSEError(errno.EIO) from error


def _quick(
    handler: Callable[Concatenate[Operations, P], R],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """A handler that runs in one go."""

    @functools.wraps(handler)
    async def wrapper(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handler(self, *args, **kwargs)
        except Exception as error:
            _fail(self._health, error, handler.__name__)

    return wrapper


def _change(
    handler: Callable[Concatenate[Operations, P], R],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """A handler that runs in one go and changes the store; with `durability = "close"` its reply waits for the disk."""

    @functools.wraps(handler)
    async def wrapper(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = handler(self, *args, **kwargs)
            self.durability.changed()
            if self.sync_each:
                await self.durability.sync()
            return result
        except Exception as error:
            _fail(self._health, error, handler.__name__)

    return wrapper


def _waiting(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """A handler that waits for something."""

    @functools.wraps(handler)
    async def wrapper(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except Exception as error:
            _fail(self._health, error, handler.__name__)

    return wrapper


def _check_real(name: bytes) -> None:
    """Raise ReadOnly for what can be looked up everywhere and is nowhere."""
    if name in (VERSIONS, SNAPSHOTS):
        raise ReadOnly("history stays where it is")


def _changed(gone: Inode, attr: EntryAttributes, fields: SetattrFields) -> Inode:
    """chmod, chown, utimensat of what has no name any more, by whoever still holds it: nothing to store."""
    if fields.update_mode:
        gone.mode = stat.S_IFMT(gone.mode) | stat.S_IMODE(attr.st_mode)
    gone.uid = attr.st_uid if fields.update_uid else gone.uid
    gone.gid = attr.st_gid if fields.update_gid else gone.gid
    gone.atime = clamp_time(attr.st_atime_ns) if fields.update_atime else gone.atime
    gone.mtime = clamp_time(attr.st_mtime_ns) if fields.update_mtime else gone.mtime
    gone.ctime = time.time_ns()
    return gone


class OpenDirectory:
    """A directory being listed. Remembers the names of the last replies, for a listing that goes on behind a name
    that has gone and left nothing.
    """

    def __init__(self, ino: int, caller: Caller | None = None) -> None:
        self.ino = ino
        self.caller = caller  # of a node of history: what is listed depends on who asks
        self.cookies: dict[int, bytes] = {}
        self._older: dict[int, bytes] = {}

    def begin_reply(self) -> None:
        """Forget what was listed long ago."""
        if len(self.cookies) > COOKIES_MAX:
            self._older, self.cookies = self.cookies, {}

    def name(self, cookie: int) -> bytes | None:
        """The sort name that a cookie stands for, if it is remembered."""
        return self.cookies.get(cookie) or self._older.get(cookie)


class OpenVersion:
    """An old version being read."""

    def __init__(self, copy: WorkingCopy, what: str) -> None:
        self.copy = copy
        self.what = what


class OpenLog:
    """The log of a key being read, from the front. Invariant: `_data` are the bytes from `_offset` on that were made
    and not yet asked for.
    """

    def __init__(self, past: PastTree, key: KeyId, caller: Caller) -> None:
        self._past = past
        self._key = key
        self._caller = caller
        self._restart()

    def _restart(self) -> None:
        self._offset = 0
        self._data = b""
        self._next: LogPosition | None = LOG_START

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at *offset*; what lies before is forgotten, and made again if somebody seeks back. Raises
        AccessDenied.
        """
        self._past.check_still_open(number(Node.LOG, self._key), self._caller)
        if offset < self._offset:
            self._restart()
        while self._next is not None and self._offset + len(self._data) < offset + size:
            lines, self._next = self._past.read_log(self._key, self._next, self._caller)
            self._data += lines
            skipped = min(max(offset - self._offset, 0), len(self._data))
            self._data = self._data[skipped:]
            self._offset += skipped
        start = offset - self._offset
        return self._data[start : start + size]


class Operations(pyfuse3.Operations):
    """The request handlers. *root*: the directory that the mount shows as its own root."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False  # set by the daemon for a mount with -o acl

    def __init__(
        self,
        store: Store,
        durability: Durability,
        collecting: Collecting,
        lifecycles: Lifecycles,
        root: Ino,
        facts: dict[str, object],
    ) -> None:
        super().__init__()
        self.store = store
        self._collecting = collecting
        self._trace = Trace(self)
        self.durability = durability
        self._health = durability.health
        self.sync_each = store.settings.durability == "close"
        self._tree = store.tree
        self._files = store.files
        self._past = PastTree(store)
        self._callers = callers.Callers()
        self._attributes = Attributes(store, self._past, lifecycles, facts)
        self.invalidation = Invalidation(root)
        self._files.on_moved = self.invalidation.start
        self._root = root
        self._handles: dict[int, Handle | OpenDirectory | OpenVersion | OpenLog] = {}
        self._next_handle = 1
        self._ragged: dict[int, int] = {}  # handles to how many writes began inside a page
        # Removed from the store, but maybe held: an open FIFO, somebody's working directory. Until the kernel forgets.
        self._gone: dict[int, Inode] = {}

    async def settle(self, changed: Sequence[Changed]) -> None:
        """For another door to the same buckets, which holds no lock of the kernel: return when what it changed is as
        safe as the settings say, and seen through the mount.
        """
        self.durability.changed()
        self.invalidation.start(list(changed))
        if self.sync_each or self.store.settings.s3_durability == "close":
            await self.durability.sync()
        await self.invalidation.settled()

    # -- numbers and attributes -------------------------------------------------------------------------------

    def _ino(self, ino: int) -> Ino:
        """The catalog's number for the kernel's: they differ for the root of a bucket's mount only."""
        return self._root if ino == pyfuse3.ROOT_INODE else Ino(ino)

    def _live(self, ino: int) -> Ino:
        """The same for what is about to change: history is read-only."""
        if is_past(ino):
            raise ReadOnly("history is read-only")
        return self._ino(ino)

    def _entry(self, ino: Ino, inode: Inode) -> EntryAttributes:
        entry = EntryAttributes()
        content = inode.content
        size = content.size or len(inode.target)
        entry.st_ino = pyfuse3.ROOT_INODE if ino == self._root else ino
        entry.generation = inode.generation
        entry.entry_timeout = CACHE_S
        entry.attr_timeout = CACHE_S
        entry.st_mode = self._mode(inode) if inode.acl else inode.mode
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = inode.rdev
        entry.st_size = size
        entry.st_blocks = ((stored_bytes(content) if content.holes else size) + 511) >> 9
        entry.st_atime_ns = inode.atime
        entry.st_mtime_ns = inode.mtime
        entry.st_ctime_ns = inode.ctime
        return entry

    def _mode(self, of: Inode | Stat) -> int:
        """The mode of what has an ACL: if the kernel is not told of that, one that allows nobody more."""
        return of.mode if self.enable_acl else acl.mode_without(of.acl, of.mode)

    def _past_entry(self, found: Stat) -> EntryAttributes:
        """A node of history: asked for each time, because what it shows follows the live key."""
        entry = EntryAttributes()
        entry.st_ino = found.ino
        entry.entry_timeout = entry.attr_timeout = 0
        entry.st_mode = self._mode(found) if found.acl else found.mode
        entry.st_nlink = 2 if stat.S_ISDIR(found.mode) else 1
        entry.st_uid = found.uid
        entry.st_gid = found.gid
        entry.st_rdev = found.rdev
        entry.st_size = found.size
        entry.st_blocks = (found.stored + 511) >> 9
        entry.st_atime_ns = found.mtime
        entry.st_mtime_ns = found.mtime
        entry.st_ctime_ns = found.ctime
        return entry

    # -- names ------------------------------------------------------------------------------------------------

    @_quick
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if is_past(parent):
            return self._past_entry(self._past.lookup(parent, name, Caller(ctx)))
        directory = self._ino(parent)
        if name == VERSIONS and directory != STORE_ROOT:
            return self._past_entry(self._past.stat(number(Node.DIRECTORY, directory)))
        if name == SNAPSHOTS and self.store.is_bucket(directory):
            return self._past_entry(self._past.stat(number(Node.SNAPSHOTS, directory)))
        ino = self._tree.find(directory, name)
        return _ABSENT if ino is None else self._entry(ino, self._tree.inode(ino))

    @_quick
    def getattr(self, ino: int, ctx: RequestContext) -> EntryAttributes:
        if is_past(ino):
            return self._past_entry(self._past.stat(ino))
        real = self._ino(ino)
        return self._entry(real, self._gone[real] if real in self._gone else self._tree.inode(real))

    def _keep_gone(self, gone: Gone) -> None:
        if gone is not None:
            self._gone[gone[0]] = gone[1]

    @_change
    def setattr(
        self, ino: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        real = self._live(ino)
        if real in self._gone:
            return self._entry(real, _changed(self._gone[real], attr, fields))
        if fields.update_size:
            handle = None if fh is None else self._handles.get(fh)
            if isinstance(handle, Handle):
                self._files.truncate(handle, attr.st_size)
                self.durability.written()
            else:
                self._files.truncate_path(real, attr.st_size, self._callers.writer(ctx))
        chown = fields.update_uid or fields.update_gid
        given = chown or fields.update_mode or fields.update_atime or fields.update_mtime
        # Before a write that takes set-id bits away the kernel sends no field at all; when it truncates, only the size.
        if given or not fields.update_size or (ctx.uid != 0 and self._tree.inode(real).mode & SETID):
            inode = self._tree.set_attributes(
                real,
                mode=attr.st_mode if fields.update_mode else None,
                uid=attr.st_uid if fields.update_uid else None,
                gid=attr.st_gid if fields.update_gid else None,
                atime=attr.st_atime_ns if fields.update_atime else None,
                mtime=attr.st_mtime_ns if fields.update_mtime else None,
            )
        else:
            inode = self._tree.inode(real)
        return self._entry(real, inode)

    @_quick
    def readlink(self, ino: int, ctx: RequestContext) -> bytes:
        if is_past(ino):
            return target(self._past.version(ino)[2])
        return self._tree.inode(self._ino(ino)).target

    def _umask(self, ctx: RequestContext) -> int | None:
        """What is left to do for the engine: without ACLs the kernel has applied the umask."""
        return ctx.umask if self.enable_acl else None

    @_change
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(
            *self._tree.mknod(
                self._live(parent), name, mode, rdev, ctx.gid, self._callers.writer(ctx), self._umask(ctx)
            ),
        )

    @_change
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        directory = self._live(parent)
        if directory == STORE_ROOT:
            ino = self.store.create_bucket(name, uid=ctx.uid, gid=ctx.gid, mode=mode, umask=self._umask(ctx))
            return self._entry(ino, self._tree.inode(ino))
        writer = self._callers.writer(ctx)
        return self._entry(*self._tree.mkdir(directory, name, mode, ctx.gid, writer, self._umask(ctx)))

    @_change
    def symlink(self, parent: int, name: bytes, where: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._entry(*self._tree.symlink(self._live(parent), name, where, ctx.gid, self._callers.writer(ctx)))

    @_change
    def link(self, ino: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        real = self._live(ino)
        return self._entry(real, self._tree.link(real, self._live(parent), name, self._callers.writer(ctx)))

    @_waiting
    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        if is_past(parent):
            self.invalidation.start(self._attributes.purge(parent, name, Way.RM, ctx, self._callers.writer(ctx)))
            self.durability.changed()
            await self.invalidation.settled()  # the lock that the caller holds is of a node of history
        else:
            self._keep_gone(self._tree.unlink(self._ino(parent), name, self._callers.writer(ctx)))
            self.durability.changed()
        if self.sync_each:
            await self.durability.sync()

    @_change
    def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        directory = self._live(parent)
        _check_real(name)
        if directory == STORE_ROOT:
            self.store.delete_bucket(name)
        else:
            self._keep_gone(self._tree.rmdir(directory, name, self._callers.writer(ctx)))

    @_change
    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext
    ) -> None:
        source, destination = self._live(parent), self._live(new_parent)
        _check_real(name)
        if flags == pyfuse3.RENAME_EXCHANGE:
            self._tree.exchange(source, name, destination, new_name, self._callers.writer(ctx))
            self.invalidation.follow((source, name), (destination, new_name))
            self.invalidation.follow((destination, new_name), (source, name))
        elif flags in (0, pyfuse3.RENAME_NOREPLACE):
            writer = self._callers.writer(ctx)
            self._keep_gone(self._tree.rename(source, name, destination, new_name, writer, replace=flags == 0))
            self.invalidation.follow((source, name), (destination, new_name))
        else:
            raise InvalidName(f"rename flags {flags:#x} are not known")

    # -- directories ------------------------------------------------------------------------------------------

    def _keep(self, handle: Handle | OpenDirectory | OpenVersion | OpenLog) -> int:
        fh = self._next_handle
        self._next_handle += 1
        self._handles[fh] = handle
        return fh

    @_quick
    def opendir(self, ino: int, ctx: RequestContext) -> int:
        return self._keep(OpenDirectory(ino, Caller(ctx).hold()) if is_past(ino) else OpenDirectory(self._ino(ino)))

    @_waiting
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        directory = self._handles[fh]
        assert isinstance(directory, OpenDirectory)
        for name, cookie in ((b".", _DOT), (b"..", _DOT_DOT)):
            if start_id < cookie and (start_id == 0 or start_id >= _DOT):
                dot = EntryAttributes()
                dot.st_ino = directory.ino  # for `ls -i`; the kernel asks for neither by this
                dot.st_mode = stat.S_IFDIR
                if not pyfuse3.readdir_reply(token, name, dot, cookie):
                    return
        start_id = 0 if start_id >= _DOT else start_id
        if directory.caller is not None:
            while True:
                try:
                    for name, found, cookie in self._past.list(directory.ino, start_id, directory.caller):
                        if not pyfuse3.readdir_reply(token, name, self._past_entry(found), cookie):
                            return
                    return
                except MoreLater as more:
                    start_id = more.cookie
                await trio.lowlevel.checkpoint()
        ino = Ino(directory.ino)
        after = self._resume(directory, start_id) if start_id else b""
        directory.begin_reply()
        for sort_name, name, child in self._tree.entries(ino, after):
            cookie, entry = self._listed(ino, sort_name, child)
            if not pyfuse3.readdir_reply(token, name, entry, cookie):
                return
            directory.cookies[cookie] = sort_name

    def _listed(self, directory: Ino, sort_name: bytes, child: Ino) -> tuple[int, EntryAttributes]:
        """The cookie of a name, and what it leads to. A damaged row hides no name, its own included: stat fails."""
        key = self.store.core.catalog.key
        try:
            inode = self._tree.inode(child)
            only_name = inode.is_dir or inode.nlink == 1
            return (inode.key if only_name else key(directory, sort_name)) or child, self._entry(child, inode)
        except (NoSuchKey, InvalidName, OverflowError, *UNREADABLE) as error:
            what = f"{show(sort_name)} leads to inode {child}, which cannot be read: {error}"
            self._health.damaged(what, shown=UNNAMED)
        damaged = EntryAttributes()
        damaged.st_ino = child
        damaged.st_mode = stat.S_IFDIR if sort_name.endswith(b"/") else stat.S_IFREG
        damaged.entry_timeout = damaged.attr_timeout = 0
        return key(directory, sort_name) or child, damaged

    def _resume(self, directory: OpenDirectory, cookie: int) -> bytes:
        """The sort name that a cookie stands for: of the last replies, or of any key that still exists."""
        sort_name = directory.name(cookie)
        if sort_name is None and directory.ino == STORE_ROOT:
            sort_name = next((name for name, _, ino in self._tree.entries(STORE_ROOT) if ino == cookie), b"")
        if sort_name is not None:
            return sort_name
        where = self.store.core.catalog.key_name(KeyId(cookie))
        if where.parent != directory.ino:
            raise NoSuchKey("a cookie of another directory")  # anybody can seek anywhere: it must not tell a name
        return where.name

    @_quick
    def releasedir(self, fh: int) -> None:
        del self._handles[fh]

    @_waiting
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.durability.sync()

    # -- files ------------------------------------------------------------------------------------------------

    @_change
    def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        writer = self._callers.writer(ctx)
        try:
            ino, inode = self._tree.create(self._live(parent), name, mode, ctx.gid, writer, self._umask(ctx))
        except Exists as error:
            if flags & os.O_EXCL:
                raise
            # Another door made it after the kernel had looked. ESTALE has the kernel look again, and open what it finds
            # if the caller may (path_openat, LOOKUP_REVAL).
            raise FUSEError(errno.ESTALE) from error
        handle = self._files.open(ino, writer, created=True)
        return FileInfo(fh=self._keep(handle), keep_cache=True), self._entry(ino, inode)

    @_quick
    def open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        if is_past(ino):
            return self._open_past(ino, flags, Caller(ctx))
        writing = flags & _WRITE_FLAGS
        writer = self._callers.writer(ctx) if writing else NOBODY
        handle = self._files.open(self._ino(ino), writer, truncate=bool(flags & os.O_TRUNC))
        if flags & os.O_TRUNC:
            self.durability.changed()
            self.durability.written()
        return FileInfo(fh=self._keep(handle), keep_cache=not self.invalidation.concerns(handle.ino))

    def _open_past(self, ino: int, flags: int, caller: Caller) -> FileInfo:
        if flags & _WRITE_FLAGS:
            raise ReadOnly("history is read-only")
        node, of = split(ino)
        if node is Node.LOG:
            return FileInfo(fh=self._keep(OpenLog(self._past, KeyId(of), caller.hold())), direct_io=True)
        if node is Node.SNAPSHOT_OPEN:
            self._past.check_open(Ino(of), caller)
            return FileInfo(fh=self._keep(OpenVersion(self._files.open_safe(Ino(of)), "a file that is open")))
        self._past.check_readable(ino, caller)
        key, seq, version = self._past.version(ino)
        what = f"{show(self.store.core.catalog.key_name(key).name)} version {format_version_id(seq)}"
        copy = self._files.open_version(version.content)
        return FileInfo(fh=self._keep(OpenVersion(copy, what)), keep_cache=True)

    @_quick
    def read(self, fh: int, off: int, size: int) -> bytes:
        handle = self._handles[fh]
        try:
            if isinstance(handle, Handle):
                return self._files.read(handle, off, size)
            if isinstance(handle, OpenVersion):
                return handle.copy.read(off, size)
        except (Corrupt, DiskFailed) as error:
            self._health.met(error, self._what(handle))
            raise FUSEError(errno.EIO) from error
        assert isinstance(handle, OpenLog)
        return handle.read(off, size)

    def _what(self, handle: Handle | OpenVersion | OpenDirectory | OpenLog) -> str:
        if isinstance(handle, OpenVersion):
            return handle.what
        assert isinstance(handle, Handle)
        bucket, path = self._tree.path(handle.ino)
        inode = self._tree.inode(handle.ino)
        return f"{show(self.store.bucket(bucket).name)}/{show(path)} version {format_version_id(inode.seq)}"

    def _file(self, fh: int) -> Handle:
        handle = self._handles[fh]
        assert isinstance(handle, Handle)
        return handle

    @_quick
    def write(self, fh: int, off: int, buf: bytes) -> int:
        if off % _PAGE:
            self._ragged[fh] = self._ragged.get(fh, 0) + 1
        written = self._files.write(self._file(fh), off, buf)
        self.durability.written()
        return written

    @_waiting
    async def flush(self, fh: int) -> None:
        handle = self._handles[fh]
        if isinstance(handle, Handle) and handle.changed:
            self._files.flush(handle)
            self.durability.changed()
            if self.sync_each:
                await self.durability.sync()

    @_waiting
    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self._handles[fh]
        if isinstance(handle, Handle):
            self._files.flush(handle)
        await self.durability.sync()

    @_quick
    def release(self, fh: int) -> None:
        handle = self._handles.pop(fh)
        if isinstance(handle, Handle):
            events_made = self.store.events_made
            # The kernel reads the pages that were written in parts one by one, where it would read ahead.
            if self._ragged.pop(fh, 0) > RAGGED_WRITES_MAX:
                self._drop_content(handle.ino)
            try:
                self._files.release(handle)
            except VfsError:  # what could not be kept (close said so) is in the kernel's cache
                self._drop_content(handle.ino)
                raise
            if self.store.events_made != events_made:
                self.durability.changed()
        elif isinstance(handle, OpenVersion):
            self._files.close_version(handle.copy)

    def _drop_content(self, ino: Ino) -> None:
        """Have the kernel forget what it has of a file's content."""
        self.invalidation.start([Changed(STORE_ROOT, b"", ino, ino)])

    # -- extended attributes ----------------------------------------------------------------------------------

    @_waiting
    async def getxattr(self, ino: int, name: bytes, ctx: RequestContext) -> bytes:
        if name.startswith(PREFIX):
            if name == PREFIX + b"settled":
                await self.invalidation.settled()
                return b""
            if name == PREFIX + b"trace":
                return self._trace.figures()
            word = name[len(PREFIX) :]
            return self._attributes.tell(ino if is_past(ino) else self._ino(ino), word, Caller(ctx))
        value: bytes | None
        if self._is_acl(name):
            value = self._find_acl(ino, name) or None
        else:
            value = None if is_past(ino) else self._tree.find_attribute(self._ino(ino), name)
        if value is None:
            # Asked often, so no error of the engine, which would cost more. `ls -l` asks each file for its label unless
            # it is told once that there is no such thing here.
            raise FUSEError(errno.ENOTSUP if name == b"security.selinux" else errno.ENODATA)
        return value

    def _is_acl(self, name: bytes) -> bool:
        """Whether an attribute is an ACL that is obeyed. There are no others (ENOTSUP, as on any mount without acl)."""
        if not name.startswith(b"system."):
            return False
        if not self.enable_acl or name not in (acl.ACCESS, acl.DEFAULT):
            raise FUSEError(errno.ENOTSUP)
        return True

    def _find_acl(self, ino: int, name: bytes) -> bytes:
        found: Stat | Inode | None = self._past.stat(ino) if is_past(ino) else self._gone.get(ino)
        if found is None:
            return self._tree.find_acl(self._ino(ino), name)
        return acl.shown(found.acl, found.mode) if name == acl.ACCESS else b""

    @_quick
    def listxattr(self, ino: int, ctx: RequestContext) -> list[bytes]:
        if is_past(ino):
            return []
        real = self._ino(ino)
        names = self._tree.list_attributes(real)
        if not self.enable_acl:
            return [name for name in names if name != acl.DEFAULT] if acl.DEFAULT in names else names
        return [*names, acl.ACCESS] if self._tree.find_acl(real, acl.ACCESS) else names

    @_waiting
    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        changed = self._set_attribute(ino, name, value, ctx)
        self.durability.changed()
        try:
            if self.sync_each:
                await self.durability.sync()
        finally:
            # With the reply, not before it: the caller holds the directory's lock, and a daemon that is killed while a
            # thread of it waits for that lock cannot die.
            self.invalidation.start(changed)
        if is_past(ino):
            await self.invalidation.settled()  # the lock that the caller holds is of a node of history

    def _set_attribute(self, ino: int, name: bytes, value: bytes, ctx: RequestContext) -> list[Changed]:
        """What names lead elsewhere now."""
        if is_past(ino) and name == PREFIX + b"purge":
            return self._attributes.purge(ino, value, Way.COMMAND, ctx, self._callers.writer(ctx))
        real = self._live(ino)
        if self._is_acl(name):
            caller = Caller(ctx)
            keep_setgid = caller.uid == 0 or caller.is_in(self._tree.inode(real).gid)
            self._tree.set_acl(real, name, value, keep_setgid=keep_setgid)
        elif name == PREFIX + b"versioning":
            self._attributes.set_versioning(real, value, Caller(ctx))
        elif name == PREFIX + b"compression":
            self._attributes.set_compression(real, value, Caller(ctx))
        elif name == PREFIX + b"purge":
            self._attributes.set_purge_policy(real, value, Caller(ctx))
        elif name == PREFIX + b"lock":
            self._attributes.set_lock(real, value, Caller(ctx))
        elif name == PREFIX + b"lifecycle":
            self._attributes.set_lifecycle(real, value, Caller(ctx))
        elif name == PREFIX + b"expiring":
            self._attributes.preview_lifecycle(real, Caller(ctx))
        elif name == PREFIX + b"restore":
            return self._attributes.restore(real, value, ctx, self._callers.writer(ctx))
        elif name in (PREFIX + b"gc", PREFIX + b"trace"):
            if ctx.uid not in (0, os.getuid()):
                raise NotPermitted(f"only who has mounted the store, or root, sets {show(name)}")
            if name == PREFIX + b"gc":
                self._collecting.ask()
            elif value == b"on":
                self._trace.start()
            else:
                self._trace.stop()
        elif name.startswith(PREFIX):
            raise NotPermitted(f"{show(name)} is read-only")
        else:
            self._tree.set_attribute(real, name, value)
        return []

    @_change
    def removexattr(self, ino: int, name: bytes, ctx: RequestContext) -> None:
        real = self._live(ino)
        if self._is_acl(name):
            self._tree.remove_acl(real, name)
        elif name.startswith(PREFIX):
            raise NotPermitted(f"{show(name)} cannot be removed")
        else:
            self._tree.remove_attribute(real, name)

    # -- the rest ---------------------------------------------------------------------------------------------

    @_quick
    def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        disk = os.statvfs(self.store.root.fd)
        data = pyfuse3.StatvfsData()
        data.f_bsize = disk.f_bsize
        data.f_frsize = disk.f_frsize
        data.f_blocks = disk.f_blocks
        data.f_bfree = disk.f_bfree
        data.f_bavail = disk.f_bavail
        data.f_files = disk.f_files
        data.f_ffree = disk.f_ffree
        data.f_favail = disk.f_favail
        data.f_namemax = NAME_BYTES_MAX
        return data

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel holds these no longer. Nothing is remembered per inode but what was removed meanwhile."""
        if self._gone:
            for ino, _ in inode_list:
                self._gone.pop(ino, None)
