"""Objects over the tree: what the S3 doors do with keys, versions and their metadata. Knows no HTTP.

A key is a path: ``a/b/c.txt`` is the entry ``c.txt`` in directory ``a/b``. What is put makes the directories that are
missing; those go again with the last object below (`Inode.implicit`). Content written through the mount is an object
like any other; symlinks, FIFOs, sockets and device nodes are none. What the mount cannot show (an empty segment, a key
that is also a prefix...) is hidden there (vfs.names).
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from vfs import events, lifecycle, listing, locks, purging, rules
from vfs.blocks import BLOCK_BYTES
from vfs.content import WorkingCopy, etag
from vfs.core import Changed, Core, version_of
from vfs.errors import (
    BucketNotEmpty,
    ConditionFailed,
    DiskFailed,
    InvalidState,
    NoLock,
    NoSpace,
    NoSuchBucket,
    NoSuchKey,
    NoSuchVersion,
)
from vfs.events import Change
from vfs.files import Files
from vfs.history import History
from vfs.listing import Chain, Item, Listing, One
from vfs.model import (
    EMPTY,
    NO_INFO,
    NOBODY,
    STORE_ROOT,
    Bucket,
    Content,
    Ino,
    Inode,
    KeyId,
    Kind,
    ObjectInfo,
    Retention,
    Rights,
    Seq,
    State,
    Version,
    Writer,
)
from vfs.names import directory_key, format_version_id, is_shown, show, split_key
from vfs.purging import Way
from vfs.rights import rights_of

LEAVES_PER_SLICE_MAX = 1024  # shared by `append` in one go, about 2 ms
COPIED_BYTES_PER_SLICE_MAX = 1 << 20  # copied by `append` in one go
DIRECTORY_MODE = stat.S_IFDIR | 0o755
FILE_MODE = stat.S_IFREG | 0o644
CONFIGURABLE = frozenset(("state", "owner", "lock", "lifecycle", "tags", "mfa_device", "mfa_delete"))

# `Objects.list` has taken the name of their type
Changes = list[Change]
AllChanged = list[Changed]
Segments = list[bytes]
Directories = list[Ino]


@dataclass(frozen=True, slots=True)
class Object:
    """A version of a key, which may be a delete marker. is_current: it is the newest."""

    bucket: Ino
    key: bytes
    key_id: KeyId
    seq: Seq
    version: Version
    info: ObjectInfo
    is_current: bool

    @property
    def version_id(self) -> str:
        """``null``, or the id of its own."""
        return format_version_id(self.seq, null=self.version.null)

    @property
    def is_marker(self) -> bool:
        return self.version.kind is Kind.MARKER

    @property
    def content(self) -> Content:
        return self.version.content

    @property
    def size(self) -> int:
        """Bytes."""
        return self.version.content.size

    @property
    def etag(self) -> str:
        """Without quotes."""
        return self.info.etag or etag(self.version.content)

    @property
    def modified(self) -> int:
        """When it was made, µs since 1970."""
        return self.seq


class Condition(NamedTuple):
    """What must be true of the current object for a change to be made. ETags without quotes; ``*`` is any object.

    None: no such condition. modified (µs, compared by whole seconds), size: of conditional deletes.
    """

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None
    modified: int | None = None
    size: int | None = None


class Added(NamedTuple):
    """What a put did. version_id: None in a bucket that is not Enabled."""

    version_id: str | None
    seq: Seq
    info: ObjectInfo
    changed: list[Changed]  # for vfs.fuse.invalidation


class Deleted(NamedTuple):
    """What a delete or purge did.

    version_id: of the delete marker that came, or of the version that was purged; None: neither.
    is_marker: a delete marker came, or what was purged was one.
    """

    version_id: str | None
    is_marker: bool
    changed: list[Changed]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: objects and common prefixes, each in key order (versions: newest first).

    next: the `after` (or key marker) of the next page, if truncated; next_version: its version id marker, of
    `list_versions` ("" if the page ends with a common prefix or between two keys). A page may be short and truncated.
    """

    objects: list[Object]
    prefixes: list[bytes]
    truncated: bool
    next: bytes = b""
    next_version: str = ""


class Objects:
    """Operations on objects. *bucket* is always the inode of a bucket's root directory (`Store.find_bucket`).

    All are synchronous; each changes everything or nothing. All raise NoSpace and DiskFailed when they change
    something, and InvalidName, NameTooLong for keys that cannot be: empty, of more than 1,024 bytes, with a segment of
    more than 502 bytes, with a segment ``.versions`` or ``.snapshots``.
    """

    def __init__(self, core: Core, files: Files, history: History) -> None:
        self._core = core
        self._catalog = core.catalog
        self._files = files
        self._history = history

    # -- content ----------------------------------------------------------------------------------------------

    def begin_content(self, bucket: Ino) -> WorkingCopy:
        """Something empty to write a body to, piece by piece; `seal()` it gives the Content for `put` and `put_part`.

        What is written stays until `end_content`, which must follow after the put, or if there is none.
        """
        return self._files.new_content(bucket)

    def end_content(self, copy: WorkingCopy) -> None:
        """Let go of what `begin_content` or `read` gave."""
        self._files.close_version(copy)

    def append(
        self, copy: WorkingCopy, content: Content, *, offset: int = 0, length: int | None = None
    ) -> Generator[None, None, None]:
        """Append stored content, or a range of it, to what is being made, a slice for each `next`. Nothing is read or
        copied where whole blocks (BLOCK_BYTES) come to lie on whole blocks. Raises Corrupt.
        """
        source = self._files.open_version(content)
        end = content.size if length is None else offset + length
        try:
            while offset < end:
                leaves = 0
                while offset < end and leaves < LEAVES_PER_SLICE_MAX and _falls_on_leaf(copy, content, offset, end):
                    offset += copy.append_leaf(source, offset // BLOCK_BYTES)
                    leaves += 1
                if not leaves:
                    data = source.read(offset, min(COPIED_BYTES_PER_SLICE_MAX, end - offset))
                    copy.write(copy.size, data)
                    offset += len(data)
                yield
        finally:
            self._files.close_version(source)

    def read(self, item: Object) -> WorkingCopy:
        """An object's content, for `read(offset, length)`; end with `end_content`. Stays though it be purged."""
        return self._files.open_version(item.version.content)

    # -- reading ----------------------------------------------------------------------------------------------

    def current(self, bucket: Ino, key: bytes) -> Object:
        """The current object. Raises NoSuchKey (with `marker`: the version id of the marker that is current)."""
        self._show_promised(bucket, key)
        found = self._newest(bucket, key)
        if found is not None and found.version.kind is Kind.CONTENT and listing.is_object(found.version):
            return self._object(bucket, Item(key, found, True))
        marker = None
        if found is not None and found.version.kind is Kind.MARKER:
            marker = format_version_id(found.seq, null=found.version.null)
        raise NoSuchKey(f"no object {show(key)}", marker=marker)

    def version(self, bucket: Ino, key: bytes, version_id: str) -> Object:
        """A version or delete marker by its id. Raises NoSuchVersion; InvalidName for text that is no id."""
        self._show_promised(bucket, key)
        chain, name = self._chain(bucket, key)
        found = listing.find_version(self._catalog, chain, version_id)
        if found is None:
            raise NoSuchVersion(f"no version {version_id} of {show(key)}")
        newest = listing.newest_of(self._catalog, chain, name)
        return self._object(bucket, Item(key, found, newest is not None and newest.seq == found.seq))

    def versions(self, bucket: Ino, key: bytes) -> Iterator[Object]:
        """The versions and delete markers of a key, newest first. Nothing may be changed meanwhile."""
        chain, name = self._chain(bucket, key)
        newest = listing.newest_of(self._catalog, chain, name)
        for one in listing.versions_of(self._catalog, chain):
            if listing.is_object(one.version):
                is_current = newest is not None and newest.seq == one.seq
                yield self._object(bucket, Item(key, one, is_current))

    def list(
        self, bucket: Ino, *, prefix: bytes = b"", delimiter: bytes = b"", after: bytes = b"", limit: int = 1000
    ) -> Page:
        """The current objects behind *after* (exclusive), in key order. Common prefixes count toward the limit; one
        that *after* is equal to is left out.
        """
        page = Listing(prefix, delimiter, limit, after)
        listing.fill_live(self._catalog, bucket, page)
        return self._page(bucket, page)

    def list_versions(
        self,
        bucket: Ino,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        key_marker: bytes = b"",
        version_id_marker: str = "",
        limit: int = 1000,
    ) -> Page:
        """Versions and delete markers, by key, then newest first, behind the markers (exclusive: that version of that
        key; without a version id, that key with all its versions). Raises InvalidName for an id that is none.
        """
        page = Listing(prefix, delimiter, limit, key_marker)
        listing.fill_versions(self._catalog, bucket, page, version_id_marker)
        return self._page(bucket, page)

    def _page(self, bucket: Ino, page: Listing) -> Page:
        found = [self._object(bucket, item) for item in page.items]
        version = "" if page.next_version is None else format_version_id(page.next_version)
        return Page(found, page.prefixes, page.truncated, page.next, version)

    def _object(self, bucket: Ino, item: Item) -> Object:
        key_id, seq, version = item.one
        info = self._catalog.object_info(key_id, seq) or NO_INFO
        return Object(bucket, item.key, key_id, seq, version, info, item.is_current)

    # -- what the mount has promised --------------------------------------------------------------------------

    def publish_promised(self, bucket: Ino, key: bytes) -> None:
        """Publish what a close or fsync has promised of a key: conditions, and whoever looks, come after that. Raises
        NoSpace, DiskFailed.
        """
        if self._files.promised():
            directories, name = split_key(key)
            place, missing = self._standing(bucket, directories)
            if not missing:
                self._files.publish_at(place, name)

    def _show_promised(self, bucket: Ino, key: bytes) -> None:
        """The same for who only reads, also in a store that takes no more changes."""
        with contextlib.suppress(NoSpace, DiskFailed):
            self.publish_promised(bucket, key)

    def publish_below(self, bucket: Ino, prefix: bytes) -> Iterator[None]:
        """The same for all keys that begin with *prefix*, a few for each `next`: before they are listed."""
        for ino in self._files.promised():
            with contextlib.suppress(NoSpace, DiskFailed):
                if any(key.startswith(prefix) for key in self._files.keys_of(ino, bucket)):
                    self._files.publish(ino)
            yield

    # -- where a key is ---------------------------------------------------------------------------------------

    def _chain(self, bucket: Ino, key: bytes) -> tuple[Chain, bytes]:
        """Where a key has history, and its name there."""
        directories, name = split_key(key)
        return listing.chain_of(self._catalog, bucket, directories, name), name

    def _newest(self, bucket: Ino, key: bytes) -> One | None:
        chain, name = self._chain(bucket, key)
        return listing.newest_of(self._catalog, chain, name)

    def _live(self, bucket: Ino, directories: Segments) -> Ino | None:
        """The live directory at a path."""
        found: Ino | None = bucket
        for directory in directories:
            found = None if found is None else self._catalog.entry(found, directory_key(directory))
        return found

    def _standing(self, bucket: Ino, directories: Segments) -> tuple[Ino, Segments]:
        """The directory that lives, or was the last one that stood, as far down a path as there is one; and the rest
        of the path. Whatever removed one it is, those above it live or would come back with it (`Core.revive`).
        """
        place = bucket
        for number, directory in enumerate(directories):
            name = directory_key(directory)
            below = self._catalog.entry(place, name)
            if below is None:
                key = self._catalog.key(place, name)
                removed = [] if key is None else self._catalog.removed(key)
                if not removed:
                    return place, directories[number:]
                below = removed[0]
            place = below
        return place, []

    def _make_directories(
        self, changes: Changes, bucket: Ino, directories: Segments, writer: Writer
    ) -> tuple[Ino, AllChanged]:
        """The directory of a key, made or brought back if it does not live; and the names that appear."""
        place, missing = self._standing(bucket, directories)
        appeared = self._core.revive(changes, place, writer, implicit=True)
        for directory in missing:
            name, ino, inode = self._new_directory(changes, bucket, place, directory)
            inode.nlink = 2
            inode.implicit = True
            inode.seq = self._core.add_version(changes, inode.key, name, ino, inode, writer)
            changes.append(events.InodeSet(ino, inode))
            changes.append(events.EntrySet(place, name, ino))
            changes.append(events.DirectoryTouched(place, inode.mtime, 1))
            appeared.append(Changed(place, directory, None, ino))
            place = ino
        return place, appeared

    def _note_directories(self, changes: Changes, bucket: Ino, directories: Segments, writer: Writer) -> Ino:
        """The directory of a key, living or not: for a delete marker where nothing ever was, it is made as one that was
        removed.
        """
        place, missing = self._standing(bucket, directories)
        for directory in missing:
            _, ino, inode = self._new_directory(changes, bucket, place, directory)
            inode.nlink = 0
            gone = version_of(Kind.NO_DIRECTORY, False, ino, inode, writer)
            changes.append(events.VersionAdded(inode.key, self._core.next_seq(), gone, bucket))
            changes.append(events.InodeSet(ino, inode))
            place = ino
        return place

    def _new_directory(self, changes: Changes, bucket: Ino, place: Ino, directory: bytes) -> tuple[bytes, Ino, Inode]:
        """The sort name, number and inode of a directory that has never been in *place*; its key is made."""
        name = directory_key(directory)
        key = self._core.key_for(changes, place, name)
        return name, Ino(self._core.new_id()), self._new_inode(bucket, DIRECTORY_MODE, key, self._core.clock())

    def _new_inode(self, bucket: Ino, mode: int, key: KeyId, now: int) -> Inode:
        """What is made belongs to whom the bucket's directory belongs to."""
        root = self._catalog.inode(bucket)
        return Inode(mode, 1, root.uid, root.gid, 0, now, now, now, now, bucket, key)

    # -- committing -------------------------------------------------------------------------------------------

    def _seen(self, parent: Ino, name: bytes) -> Ino | None:
        """What a mount shows at a name: a directory hides a file."""
        return self._catalog.entry(parent, directory_key(name)) or self._catalog.entry(parent, name)

    def _commit(self, operation: str, changes: Changes, touched: Iterable[tuple[Ino, bytes]]) -> AllChanged:
        """Commit, and tell which of the names *touched* a mount has to look at again."""
        before = [(parent, name, self._seen(parent, name)) for parent, name in touched if is_shown(name)]
        self._core.commit(operation, changes)
        after = [Changed(parent, name, ino, self._seen(parent, name)) for parent, name, ino in before]
        return [change for change in after if change.before != change.after]

    def _check(self, condition: Condition | None, found: Object | None) -> None:
        """Raise ConditionFailed, or NoSuchKey, if what is there is not what is wanted."""
        if condition is None:
            return
        wanted = (condition.if_match, condition.modified, condition.size)
        if found is None:
            if wanted != (None, None, None):
                raise NoSuchKey("no object to meet the condition")
            return
        if condition.if_match is not None and not _is_one_of(found.etag, condition.if_match):
            raise ConditionFailed(f"the ETag is {found.etag}")
        if condition.if_none_match is not None and _is_one_of(found.etag, condition.if_none_match):
            raise ConditionFailed(f"the ETag is {found.etag}")
        if condition.modified is not None and condition.modified // 1_000_000 != found.modified // 1_000_000:
            raise ConditionFailed("it was modified at another time")
        if condition.size is not None and condition.size != found.size:
            raise ConditionFailed(f"the size is {found.size}")

    def _check_current(self, condition: Condition | None, bucket: Ino, key: bytes) -> None:
        if condition is not None:
            try:
                found: Object | None = self.current(bucket, key)
            except NoSuchKey:
                found = None
            self._check(condition, found)

    def check_lockable(self, bucket: Ino, info: ObjectInfo) -> None:
        """Raise NoLock if a version would be locked in a bucket without object lock, Unstorable if until a moment that
        no date can say, NoSuchKey if the bucket is gone.
        """
        locks.check_moment(info.retention)
        lock = self._catalog.bucket(bucket).lock
        if lock is None and (info.retention is not None or info.legal_hold):
            raise NoLock("the bucket has no object lock")

    # -- changing ---------------------------------------------------------------------------------------------

    def put(
        self,
        bucket: Ino,
        key: bytes,
        content: Content,
        info: ObjectInfo,
        writer: Writer,
        *,
        condition: Condition | None = None,
        also: Changes | None = None,
    ) -> Added:
        """A new current version of a key, as the bucket's state says. Content of another object may be given (a copy).
        also: what changes with it in the same event (for vfs.uploads).

        If *info* has no retention and the bucket has a default one, the version gets that. Raises ConditionFailed,
        NoSuchKey (If-Match where nothing is), NoLock (a retention or hold in a bucket without object lock).
        """
        directories, name = split_key(key)
        self.publish_promised(bucket, key)
        self._check_current(condition, bucket, key)
        self.check_lockable(bucket, info)
        also = also or []
        core, catalog = self._core, self._catalog
        parent = self._live(bucket, directories)
        ino = None if parent is None else catalog.entry(parent, name)
        if parent is not None and ino is not None and catalog.peek(ino).is_file:
            hidden = not is_shown(name) or self._seen(parent, name) != ino
            moved = self._files.replace(
                ino, content, writer, where=(parent, name), operation="put", info=info, also=also
            )
            return self._added(bucket, parent, name, self._seq_at(parent, name), [] if hidden else moved)
        changes: Changes = []
        parent, appeared = self._make_directories(changes, bucket, directories, writer)
        key_id = core.key_for(changes, parent, name)
        if ino is not None:  # no regular file
            self._files.leave(changes, key_id, ino, catalog.inode(ino))
        now = core.clock()
        new = Ino(core.new_id())
        inode = self._new_inode(bucket, FILE_MODE, key_id, now)
        inode.content = content
        core.enter(changes, parent, name, key_id, new, inode, writer)
        inode.seq = core.add_version(changes, key_id, name, new, inode, writer, info)
        changes.append(events.InodeSet(new, inode))
        changes.append(events.DirectoryTouched(parent, now, 0))
        touched = [(change.parent, change.name) for change in appeared]
        changed = self._commit("put", changes + also, [*touched, (parent, name)])
        return self._added(bucket, parent, name, inode.seq, changed)

    def _seq_at(self, parent: Ino, name: bytes) -> Seq:
        ino = self._catalog.entry(parent, name)
        assert ino is not None, "it lives"
        return self._catalog.peek(ino).seq

    def _added(self, bucket: Ino, parent: Ino, name: bytes, seq: Seq, changed: AllChanged) -> Added:
        key = self._catalog.key(parent, name)
        assert key is not None, "it was put"
        info = self._catalog.object_info(key, seq) or NO_INFO
        own = self._core.state_for(bucket, name) is State.ENABLED
        return Added(format_version_id(seq) if own else None, seq, info, changed)

    def delete(self, bucket: Ino, key: bytes, writer: Writer, *, condition: Condition | None = None) -> Deleted:
        """Delete a key as the bucket's state says: Enabled and Suspended always stack a delete marker, also over one
        and where nothing was; Unversioned removes the object, if there is one. Raises ConditionFailed, NoSuchKey.
        """
        directories, name = split_key(key)
        self.publish_promised(bucket, key)
        self._check_current(condition, bucket, key)
        state = self._core.state_for(bucket, name)
        parent = self._live(bucket, directories)
        ino = None if parent is None else self._catalog.entry(parent, name)
        if parent is None or ino is None:
            return self._add_marker(bucket, directories, name, state, writer)
        inode = self._catalog.inode(ino)
        if state is not State.ENABLED and not (inode.is_file and self._is_published(ino, inode, parent, name)):
            return Deleted(None, False, [])  # no object, and nothing would be left of it
        self._files.publish_removed(ino)
        inode = self._catalog.inode(ino)
        key_id = self._catalog.key(parent, name)
        assert key_id is not None, "every live entry has a key"
        changes: Changes = [events.EntryGone(parent, name)]
        self._core.add_delete(changes, key_id, name, ino, inode, writer)
        self._files.leave(changes, key_id, ino, inode)
        changes.append(events.DirectoryTouched(parent, self._core.clock(), 0))
        disappeared = self._core.tidy(changes, parent, name, writer)
        changed = self._commit("delete", changes, [(parent, name)])
        return _deleted(changes, changed + _shown(disappeared))

    def _is_published(self, ino: Ino, inode: Inode, parent: Ino, name: bytes) -> bool:
        key = self._catalog.key(parent, name)
        newest = None if key is None else next(self._catalog.versions(key), None)
        return newest is not None and newest[1].kind is Kind.CONTENT

    def _add_marker(self, bucket: Ino, directories: Segments, name: bytes, state: State, writer: Writer) -> Deleted:
        """A delete of what does not live: one more delete marker, if there are any in this state."""
        if state is State.UNVERSIONED:
            return Deleted(None, False, [])
        changes: Changes = []
        parent = self._note_directories(changes, bucket, directories, writer)
        known = self._catalog.key(parent, name)
        key = self._core.key_for(changes, parent, name)
        rule = rules.delete(state, None if known is None else self._catalog.null_version(key), others=True)
        newest = None if known is None else next(self._catalog.versions(key), None)
        if newest is None:
            inode = self._new_inode(bucket, FILE_MODE, key, self._core.clock())
            marker = version_of(Kind.MARKER, bool(rule.marker_null), Ino(0), inode, writer)
        else:  # whose the key was, it stays
            last = newest[1]
            marker = msgspec.structs.replace(
                last,
                kind=Kind.MARKER,
                null=bool(rule.marker_null),
                writer=writer,
                content=EMPTY,
                target=b"",
                rdev=0,
                rights=None,
                judged=False,
                mtime=self._core.clock(),
            )
        if rule.removes is not None:
            self._core.remove_version(changes, key, rule.removes, bucket)
        changes.append(events.VersionAdded(key, self._core.next_seq(), marker, bucket))
        self._core.commit("delete", changes)
        return _deleted(changes, [])

    def purge(
        self,
        bucket: Ino,
        key: bytes,
        version_id: str,
        writer: Writer,
        *,
        bypass: bool = False,
        code: bool = False,
        condition: Condition | None = None,
    ) -> Deleted:
        """Remove a version or delete marker for good; nothing happens if there is none. If it was current, the newest
        that remains is. bypass: the caller has the right to bypass governance, and asks for it. code: he has shown that
        of the device of MFA delete. *condition* is about that version. Raises Locked; InvalidName for text that is no
        version id.
        """
        way = Way.CODE if code else Way.REQUEST
        purging.check(self._catalog.bucket(bucket), way, is_root=False)  # before anything is published
        self.publish_promised(bucket, key)
        chain, name = self._chain(bucket, key)
        found = listing.find_version(self._catalog, chain, version_id)
        newest = listing.newest_of(self._catalog, chain, name)
        item = None
        if found is not None:
            is_current = newest is not None and newest.seq == found.seq
            item = self._object(bucket, Item(key, found, is_current))
        self._check(condition, item)
        if item is None:
            return Deleted(None, False, [])
        self._history.check_purge(item.key_id, item.seq, writer, way, bypass=bypass)
        return Deleted(version_id, item.is_marker, self._purge(item, chain, name, writer, way, bypass=bypass))

    def check_purge(self, key_id: KeyId, seq: Seq) -> None:
        """Raise Locked if nobody must remove a version for good."""
        self._history.check_purge(key_id, seq, NOBODY, Way.REQUEST)

    def _purge(self, item: Object, chain: Chain, name: bytes, writer: Writer, way: Way, *, bypass: bool) -> AllChanged:
        key = item.key_id
        live = [other for place, other in chain if self._catalog.entry(place, name) is not None]
        if live and key not in live:  # of a directory that stood there before: nothing that lives changes
            changes = self._history.removal(key, item.seq, writer, way, bypass=bypass)
            self._drop_empty(changes, key, {item.seq})
            self._core.commit("purge", changes)
            return []
        if not live:
            key = self._gather(item, chain, writer)
        changed = self._history.purge(key, item.seq, writer, way=way, bypass=bypass, implicit=True)
        return _shown(changed)

    def _gather(self, item: Object, chain: Chain, writer: Writer) -> KeyId:
        """Let a key that does not live have all its history in one directory: what is current next may come from any of
        those that stood there. Returns its number in that one. Raises TooLarge if that is too much for one event.
        """
        directories, name = split_key(item.key)
        place, missing = self._standing(item.bucket, directories)
        if not missing and [where for where, _ in chain] == [place]:
            return item.key_id
        changes: Changes = []
        home = self._note_directories(changes, item.bucket, directories, writer)
        key = self._core.key_for(changes, home, name)
        others = [(where, other) for where, other in chain if other != key]
        has_null = any(other == key for _, other in chain) and self._catalog.null_version(key) is not None
        sealed = self._sealed(others, chain, home)
        for one in listing.versions_of(self._catalog, others):
            version = sealed.get(one.seq, one.version)
            if version.null and has_null:
                version = msgspec.structs.replace(version, null=False)  # one null version is a key's: this gets an id
            has_null = has_null or version.null
            info = self._catalog.object_info(one.key_id, one.seq)
            changes.append(events.VersionGone(one.key_id, one.seq, item.bucket))
            changes.append(events.VersionAdded(key, one.seq, version, item.bucket))
            if info is not None:
                changes.append(events.ObjectSet(key, one.seq, info))
        changes += [events.KeyGone(other) for _, other in others]
        self._core.commit("gather", changes)
        return key

    def _sealed(self, others: Chain, chain: Chain, home: Ino) -> dict[Seq, Version]:
        """The newest version of each key that is gathered, with rights of its own where moving it would open it and
        what was before it: its file had others than the key has now, or its directory let in others than *home* does,
        and then only its owner.
        """
        newest = next(listing.versions_of(self._catalog, chain), None)
        sealed = {}
        for place, other in others:
            found = next(self._catalog.versions(other), None)
            if found is None or newest is None:
                continue
            seq, version = found
            rights = version.rights or rights_of(version)
            if self._way(place) != self._way(home):
                rights = rights._replace(mode=rights.mode & stat.S_IRWXU, acl=b"")
            if rights != rights_of(newest.version):
                sealed[seq] = msgspec.structs.replace(version, rights=rights)
        return sealed

    def _way(self, directory: Ino) -> tuple[Rights, ...]:
        """Who gets into a directory, and into those above."""
        found: tuple[Rights, ...] = ()
        while (inode := self._catalog.peek(directory)).key:
            found += (rights_of(inode),)
            directory = self._catalog.key_name(inode.key).parent
        return found

    def _drop_empty(self, changes: Changes, key: KeyId, gone: set[Seq]) -> None:
        """The key goes with its last version."""
        if all(seq in gone for seq, _ in self._catalog.versions(key)):
            changes.append(events.KeyGone(key))

    def _set_info(self, item: Object, change: Callable[[ObjectInfo], ObjectInfo]) -> None:
        if self._catalog.version(item.key_id, item.seq) is None:
            raise NoSuchVersion(f"no version {item.version_id} of {show(item.key)}")
        info = change(self._catalog.object_info(item.key_id, item.seq) or NO_INFO)
        self.check_lockable(item.bucket, info)
        self._core.commit("object info", [events.ObjectSet(item.key_id, item.seq, info)])

    def set_tags(self, item: Object, tags: dict[str, str]) -> None:
        """Give a version other tags. Raises NoSuchVersion."""
        self._set_info(item, lambda info: msgspec.structs.replace(info, tags=tags))

    def set_retention(self, item: Object, retention: Retention | None, *, bypass: bool = False) -> None:
        """Lock a version until a moment; None: no longer. Raises Locked, NoLock, NoSuchVersion."""

        def change(info: ObjectInfo) -> ObjectInfo:
            locks.check_retention(info.retention, retention, self._core.clock() // 1000, bypass=bypass)
            return msgspec.structs.replace(info, retention=retention)

        if self._catalog.bucket(item.bucket).lock is None:
            raise NoLock("the bucket has no object lock")
        self._set_info(item, change)

    def set_legal_hold(self, item: Object, hold: bool) -> None:
        """Put a version under legal hold, or take that away. Raises NoLock, NoSuchVersion."""
        if self._catalog.bucket(item.bucket).lock is None:
            raise NoLock("the bucket has no object lock")
        self._set_info(item, lambda info: msgspec.structs.replace(info, legal_hold=hold))

    # -- buckets ----------------------------------------------------------------------------------------------

    def configure(
        self, bucket: Ino, *, code: bool = False, way: Way = Way.REQUEST, is_root: bool = False, **changes: object
    ) -> None:
        """Change settings of a bucket, in one event: owner, lock, lifecycle, tags, mfa_device, mfa_delete; and the
        state, which goes from Unversioned to Suspended by way of Enabled. code: the caller has shown that of the device
        of MFA delete. is_root: the caller is root, through the mount. Raises InvalidState: a state that does not
        follow, object lock in a bucket that is not Enabled, or taken away, a lifecycle beside MFA delete; InvalidRule;
        Locked: the code is needed; NotPermitted (vfs.purging).
        """
        unknown = changes.keys() - CONFIGURABLE
        if unknown:
            raise TypeError(f"no settings of a bucket: {sorted(unknown)}")
        old = self._catalog.bucket(bucket)
        new: Bucket = msgspec.structs.replace(old, **changes)
        if new.lock is None and old.lock is not None:
            raise InvalidState("object lock cannot be taken away from a bucket")
        if new.state is not old.state:
            rules.change_state(State.ENABLED if old.state is State.UNVERSIONED else old.state, new.state)
        if (new.state, new.mfa_device, new.mfa_delete) != (old.state, old.mfa_device, old.mfa_delete):
            locks.check_code(old, code=code)
        if new.mfa_delete and new.lifecycle and (new.lifecycle != old.lifecycle or not old.mfa_delete):
            raise InvalidState("a bucket has MFA delete or a lifecycle: nobody gives a code for what expires")
        locks.check_bucket(new.state, new.lock)
        lifecycle.check(new.lifecycle)
        purging.check_settings(old, new, way, is_root=is_root)
        self._core.commit("configure", [events.BucketSet(bucket, new)])

    def delete_bucket(self, name: bytes) -> Ino:
        """Remove a bucket that has neither objects nor versions, whatever directories and uploads are left. The door
        must let the kernel forget its name. The directories go before it, each by itself. Raises NoSuchBucket,
        BucketNotEmpty.
        """
        ino = self._catalog.entry(STORE_ROOT, directory_key(name))
        if ino is None:
            raise NoSuchBucket(f"no bucket {show(name)}")
        self._files.publish_in(ino)
        versions = self._catalog.bucket(ino).versions
        if versions:
            raise BucketNotEmpty(f"bucket {show(name)} has {versions} versions and delete markers")
        directories: Directories = []
        for live in listing.walk_live(self._catalog, ino):
            if not live.name.endswith(b"/"):
                raise BucketNotEmpty(f"bucket {show(name)} has {show(live.key)}")
            directories.append(live.ino)
        for directory in reversed(directories):
            changes: Changes = []
            self._core.remove_directory(changes, directory, self._catalog.inode(directory), NOBODY)
            self._core.commit("rmdir", changes)
        self._core.drop_bucket(name, ino)
        return ino


def _falls_on_leaf(copy: WorkingCopy, content: Content, offset: int, end: int) -> bool:
    """Whether a whole leaf of *content* comes next, and would be one of *copy*."""
    whole = offset + BLOCK_BYTES <= end or end == content.size
    return whole and offset % BLOCK_BYTES == 0 and copy.size % BLOCK_BYTES == 0


def _shown(changed: AllChanged) -> AllChanged:
    """Those names that a mount shows."""
    return [change for change in changed if is_shown(change.name)]


def _is_one_of(found: str, wanted: tuple[str, ...]) -> bool:
    return "*" in wanted or found in wanted


def _deleted(changes: list[Change], changed: list[Changed]) -> Deleted:
    """What a delete did, by its changes."""
    for change in changes:
        if isinstance(change, events.VersionAdded) and change.version.kind is Kind.MARKER:
            return Deleted(format_version_id(change.seq, null=change.version.null), True, changed)
    return Deleted(None, False, changed)
