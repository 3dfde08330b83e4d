"""The reference model: what docs/semantics.md says, with dicts and lists, small enough to be read and believed.

It is told the time before each operation (`now`, ns) and knows no ids: versions have serial numbers, inodes are
objects. Whoever compares learns the store's ids once and sees that they stay. `after_event` is called after each atomic
change, so that the state after each record of the journal can be kept, for a crash to come back to.

A key is (directory, sort name); a directory's sort name ends in ``/``, as in the catalog. Errors are those of
vfs.errors, raised before anything is changed.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vfs import errors
from vfs.model import NOBODY, Kind, PurgePolicy, State, Writer
from vfs.purging import Way

JUNK_SUFFIX, JUNK_MIDDLE = b"~", b".sw"  # of the default patterns, those that the tests use
YOUNG_US = 60_000_000
SETID = stat.S_ISUID | stat.S_ISGID
PAGE_BYTES = 4096


@dataclass(frozen=True, eq=False, repr=False)
class Version:
    """One entry of a chain."""

    serial: int
    kind: Kind
    null: bool
    mode: int
    uid: int
    gid: int
    mtime: int
    writer: Writer
    at: int  # µs: when it was made, rising whatever the clock does
    data: bytes = b""
    target: bytes = b""
    rdev: int = 0
    directory: Directory | None = None
    attributes: dict[bytes, bytes] = field(default_factory=dict)  # of a delete marker: those that the key had
    file: File | None = None

    @property
    def absent(self) -> bool:
        return self.kind in (Kind.MARKER, Kind.NO_DIRECTORY)


@dataclass(eq=False, repr=False)
class Node:
    """What a file and a directory have in common. Times in ns."""

    mode: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    ino: int = 0  # learned


@dataclass(eq=False, repr=False)
class Directory(Node):
    """live: it has a name. removed: the directories that were removed here and are kept for the history below them."""

    bucket: Bucket | None = None
    parent: Directory | None = None
    name: bytes = b""
    live: bool = True
    entries: dict[bytes, File | Directory] = field(default_factory=dict)
    chains: dict[bytes, list[Version]] = field(default_factory=dict)
    removed: list[Directory] = field(default_factory=list)

    @property
    def sort_name(self) -> bytes:
        return self.name + b"/"

    @property
    def has_keys(self) -> bool:
        """Whether anything below lives or has history."""
        return bool(self.entries) or any(self.chains.values())

    @property
    def links(self) -> int:
        return 2 + sum(isinstance(entry, Directory) for entry in self.entries.values()) if self.live else 0


@dataclass(frozen=True)
class Draft:
    """Content made safe. changes: how many changes of the open file it has."""

    data: bytes
    mtime: int
    ctime: int
    writer: Writer
    changes: int


class Moment(NamedTuple):
    """A change of an open file, of which the clock may have made any state safe: *data* is being written at *offset* to
    what was there *before*, and the kernel may hand it over page by page.
    """

    before: bytes
    offset: int
    data: bytes
    mtime: int
    ctime: int
    writer: Writer
    changes: int

    def drafts(self) -> Iterator[Draft]:
        """What may have been made safe, all of it first."""
        end = self.offset + len(self.data)
        for cut in (end, *range(self.offset // PAGE_BYTES * PAGE_BYTES + PAGE_BYTES, end, PAGE_BYTES)):
            found = bytearray(self.before)
            found.extend(bytes(max(0, self.offset - len(found))))
            found[self.offset : cut] = self.data[: cut - self.offset]
            yield Draft(bytes(found), self.mtime, self.ctime, self.writer, self.changes)


@dataclass(eq=False, repr=False)
class Open:
    """What the handles of a file share. changes counts them; up to `safe` they are in the draft, up to `published` in
    a version. moments: if somebody notes them.
    """

    data: bytearray
    mtime: int
    ctime: int
    writer: Writer
    handles: int = 0
    dirty: bool = False
    flushed: bool = False
    unlinked: bool = False
    changes: int = 0
    safe: int = 0
    published: int = 0
    moments: list[Moment] = field(default_factory=list)

    def note(self, before: bytes, offset: int, data: bytes) -> None:
        """The last change was this."""
        self.moments = [moment for moment in self.moments if moment.changes > self.safe]
        self.moments.append(Moment(before, offset, data, self.mtime, self.ctime, self.writer, self.changes))


@dataclass(eq=False, repr=False)
class File(Node):
    """A file of any type but directory. published: `data` is the current version of its names."""

    data: bytes = b""
    target: bytes = b""
    rdev: int = 0
    published: bool = False
    names: list[tuple[Directory, bytes]] = field(default_factory=list)
    draft: Draft | None = None
    interim: Draft | None = None
    open: Open | None = None
    born: int = 0
    displaced: tuple[Directory, bytes] | None = None

    @property
    def has_changes(self) -> bool:
        drafts = self.draft is not None or self.interim is not None
        return drafts or (self.open is not None and self.open.dirty)

    @property
    def safe(self) -> Draft | None:
        """The newest content that is not published, of a file that a full disk kept from being."""
        return self.interim or self.draft

    @property
    def shown(self) -> tuple[int, int, int]:
        """Size, mtime and ctime as stat tells them: with what is open and not published."""
        if self.open is not None and self.open.dirty:
            return len(self.open.data), self.open.mtime, max(self.ctime, self.open.ctime)
        safe = self.draft if self.open is not None else self.safe
        if safe is not None:
            return len(safe.data), safe.mtime, max(self.ctime, safe.ctime)
        return len(self.data), self.mtime, self.ctime


@dataclass(frozen=True, eq=False)
class Closing:
    """Who may read the versions before something was put in their place: who could read what stood there last."""

    uid: int
    gid: int
    mode: int


@dataclass(eq=False, repr=False)
class Handle:
    """An open file description. changed_at: the number of its last change."""

    file: File
    writer: Writer
    changed_at: int = 0

    @property
    def shared(self) -> Open:
        assert self.file.open is not None
        return self.file.open

    @property
    def changed(self) -> bool:
        return self.changed_at > self.shared.published


@dataclass(eq=False, repr=False)
class Bucket:
    """A bucket, and its root directory."""

    name: bytes
    state: State
    root: Directory
    compressed: bool = False
    policy: PurgePolicy = PurgePolicy.COMMAND


class Reference:
    """The whole store."""

    def __init__(self) -> None:
        self.buckets: dict[bytes, Bucket] = {}
        self.now = 0
        self.last_us = 0
        self.displaced: list[File] = []  # those that are, in the order of their inodes
        self.serial = 0
        self.events = 0
        self.no_room = False  # the disk is too full for what was written to a file that is being removed
        self.closings: dict[int, Closing] = {}  # of versions, by their serial numbers
        self.after_event: Callable[[], None] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "after_event": None}

    def on_event(self) -> None:
        """One atomic change is done."""
        self.events += 1
        self.last_us = max(self.last_us, self.now // 1000)
        if self.after_event is not None:
            self.after_event()

    # -- looking ----------------------------------------------------------------------------------------------

    def directories(self) -> Iterator[Directory]:
        """Every directory that lives or is kept, from the top."""
        for bucket in self.buckets.values():
            yield from self._below(bucket.root)

    def _below(self, directory: Directory) -> Iterator[Directory]:
        yield directory
        for entry in [*directory.entries.values(), *directory.removed]:
            if isinstance(entry, Directory):
                yield from self._below(entry)

    def removed_at(self, directory: Directory, sort_name: bytes) -> list[Directory]:
        """The directories that were removed at a name and are kept."""
        return [one for one in directory.removed if one.sort_name == sort_name]

    def places(self, directory: Directory) -> list[Directory]:
        """A directory, and all that were removed where it stands: itself, or with one that it stands in."""
        if directory.parent is None:
            return [directory]
        found = [directory]
        for parent in self.places(directory.parent):
            live = parent.entries.get(directory.sort_name)
            here = [live] if isinstance(live, Directory) else []
            found += [one for one in here + self.removed_at(parent, directory.sort_name) if one not in found]
        return found

    def files(self) -> list[File]:
        """Every file with a name, once."""
        found: dict[int, File] = {}
        for directory in self.directories():
            for entry in directory.entries.values():
                if isinstance(entry, File):
                    found[id(entry)] = entry
        return list(found.values())

    def lookup(self, directory: Directory, name: bytes) -> File | Directory:
        entry = directory.entries.get(name + b"/") or directory.entries.get(name)
        if entry is None:
            raise errors.NoSuchKey
        return entry

    # -- the table of versioning states -----------------------------------------------------------------------

    def state_for(self, bucket: Bucket, sort_name: bytes) -> State:
        if sort_name.endswith(b"/"):  # directories are no objects: what is versioned at all keeps all their records
            return State.UNVERSIONED if bucket.state is State.UNVERSIONED else State.ENABLED
        if sort_name.endswith(JUNK_SUFFIX) or (sort_name.startswith(b".") and JUNK_MIDDLE in sort_name):
            return State.UNVERSIONED
        return bucket.state

    def _version(self, kind: Kind, node: Node, writer: Writer, *, null: bool) -> Version:
        self.serial += 1
        self.last_us = max(self.now // 1000, self.last_us + 1)
        made = Version(self.serial, kind, null, node.mode, node.uid, node.gid, node.mtime, writer, self.last_us)
        if isinstance(node, Directory):
            return replace(made, directory=node)
        assert isinstance(node, File)
        made = replace(made, file=node)
        if kind is Kind.CONTENT:
            return replace(made, data=node.data, target=node.target, rdev=node.rdev)
        return replace(made, attributes=dict(node.attributes), mtime=self.now)

    # -- whose versions they are ------------------------------------------------------------------------------

    def own_rights(self, directory: Directory, name: bytes, version: Version) -> Closing | None:
        """Whose rights hold for a version, if not the key's: something that says nothing about it came after it."""
        holder = directory.entries.get(name, directory.chains[name][-1])
        file = holder.file if isinstance(holder, Version) else holder
        return None if version.file is file else self.closings.get(version.serial)

    def _part(self, directory: Directory, name: bytes, file: File, writer: Writer) -> None:
        """Something is put at a name: what was there is closed to all who could not read it, unless root put it there,
        or the owner of both. A symlink's mode says nothing of a file.
        """
        chain = directory.chains.get(name)
        stood = directory.entries.get(name, chain[-1] if chain else None)
        if not chain or stood is None:
            return
        assert isinstance(stood, File | Version)
        if file is (stood.file if isinstance(stood, Version) else stood):
            return
        known_by = stood.uid == file.uid and writer.uid in (0, stood.uid)
        if not known_by or (stat.S_ISLNK(file.mode) and not stat.S_ISLNK(stood.mode)):
            closing = Closing(stood.uid, stood.gid, stood.mode)
            for version in chain:
                self.closings.setdefault(version.serial, closing)

    def _open_again(self, version: Version) -> None:
        """What had been put over it was purged."""
        closing = self.closings.get(version.serial)
        if closing is not None:
            self.closings = {serial: other for serial, other in self.closings.items() if other is not closing}

    def _record_rights(self, directory: Directory, name: bytes, at: int, file: File) -> None:
        chain = directory.chains[name]
        chain[at] = replace(chain[at], mode=file.mode, uid=file.uid, gid=file.gid, file=file)

    def _keep_rights(self, directory: Directory, name: bytes, file: File) -> None:
        """What the newest version says of its file's rights when something else takes the name."""
        if file.published:
            self._record_rights(directory, name, -1, file)

    def _put(self, directory: Directory, name: bytes, node: Node, writer: Writer) -> None:
        """New content: with an own id if versioning is enabled, else instead of the null version."""
        assert directory.bucket is not None
        chain = directory.chains.setdefault(name, [])
        null = self.state_for(directory.bucket, name) is not State.ENABLED
        if null:
            chain[:] = [version for version in chain if not version.null]
        kind = Kind.DIRECTORY if isinstance(node, Directory) else Kind.CONTENT
        chain.append(self._version(kind, node, writer, null=null))

    def _delete(self, directory: Directory, name: bytes, node: Node, writer: Writer, *, more: bool = False) -> None:
        """A delete, as the state says. *more*: there is history elsewhere that hangs on this key."""
        assert directory.bucket is not None
        chain = directory.chains.setdefault(name, [])
        if not chain or chain[-1].absent:
            return  # what went had never been published
        kind = Kind.NO_DIRECTORY if isinstance(node, Directory) else Kind.MARKER
        match self.state_for(directory.bucket, name):
            case State.ENABLED:
                chain.append(self._version(kind, node, writer, null=False))
            case State.SUSPENDED:
                chain[:] = [version for version in chain if not version.null]
                chain.append(self._version(kind, node, writer, null=True))
            case _:
                chain[:] = [version for version in chain if not version.null]
                if chain or more:
                    chain.append(self._version(kind, node, writer, null=True))

    # -- buckets ----------------------------------------------------------------------------------------------

    def create_bucket(self, name: bytes, state: State, uid: int, gid: int, ino: int) -> Bucket:
        if name in self.buckets:
            raise errors.BucketExists
        root = Directory(stat.S_IFDIR | 0o755, uid, gid, self.now, self.now, self.now, ino=ino, name=name)
        root.bucket = self.buckets[name] = Bucket(name, state, root)
        self.on_event()
        return root.bucket

    def delete_bucket(self, name: bytes) -> None:
        if name not in self.buckets:
            raise errors.NoSuchBucket
        root = self.buckets[name].root
        for file in list(self._all()):
            if self._bucket_of(file) is self.buckets[name]:
                self.publish_flushed(file)
        if root.entries or self.counters(self.buckets[name])[0]:
            raise errors.BucketNotEmpty
        del self.buckets[name]
        root.live = False
        self.on_event()

    def counters(self, bucket: Bucket) -> tuple[int, int]:
        """Versions and delete markers of files, and the sum of their sizes."""
        versions = [
            version
            for directory in self._below(bucket.root)
            for chain in directory.chains.values()
            for version in chain
            if version.kind in (Kind.CONTENT, Kind.MARKER)
        ]
        return len(versions), sum(len(version.data) for version in versions)

    def set_versioning(self, bucket: Bucket, state: State, *, is_root: bool) -> None:
        if state is bucket.state:
            return
        if state is State.UNVERSIONED or (bucket.state is State.UNVERSIONED and state is State.SUSPENDED):
            raise errors.InvalidState
        if state is State.SUSPENDED and bucket.policy in (PurgePolicy.ROOT, PurgePolicy.NEVER) and not is_root:
            raise errors.NotPermitted
        bucket.state = state
        self.on_event()

    def set_compression(self, bucket: Bucket, compressed: bool) -> None:
        if compressed is not bucket.compressed:
            bucket.compressed = compressed
            self.on_event()

    def set_purge_policy(self, bucket: Bucket, policy: PurgePolicy) -> None:
        if policy is not bucket.policy:
            bucket.policy = policy
            self.on_event()

    def check_policy(self, bucket: Bucket, way: Way, writer: Writer) -> None:
        """Who may purge at all."""
        if way is Way.RM and bucket.policy is not PurgePolicy.RM:
            raise errors.ReadOnly
        if bucket.policy is PurgePolicy.NEVER:
            raise errors.Locked("", None)
        if bucket.policy is PurgePolicy.ROOT and way is Way.COMMAND and writer.uid != 0:
            raise errors.NotPermitted

    # -- making -----------------------------------------------------------------------------------------------

    def _check_directory(self, directory: Directory) -> None:
        if not directory.live:
            raise errors.NoSuchKey

    def _check_free(self, directory: Directory, name: bytes) -> None:
        if name in directory.entries or name + b"/" in directory.entries:
            raise errors.Exists

    def _touch(self, directory: Directory) -> None:
        directory.mtime = directory.ctime = self.now

    def _check_name(self, name: bytes) -> None:
        if name in (b".versions", b".snapshots", b"", b".", b".."):
            raise errors.InvalidName

    def _new_file(self, directory: Directory, name: bytes, mode: int, gid: int, writer: Writer) -> File:
        self._check_name(name)
        self._check_directory(directory)
        self._check_free(directory, name)
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
        file = File(mode, writer.uid, gid, self.now, self.now, self.now, names=[(directory, name)], born=self.now)
        self._part(directory, name, file, writer)
        directory.entries[name] = file
        self._touch(directory)
        return file

    def create(self, directory: Directory, name: bytes, mode: int, gid: int, writer: Writer) -> File:
        """An empty regular file without a version."""
        file = self._new_file(directory, name, stat.S_IFREG | mode, gid, writer)
        file.draft = Draft(b"", self.now, self.now, writer, 0)
        self.on_event()
        return file

    def make(
        self,
        directory: Directory,
        name: bytes,
        mode: int,
        gid: int,
        writer: Writer,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> File:
        """A file of any type with one version at once (mknod, symlink)."""
        file = self._new_file(directory, name, mode, gid, writer)
        file.rdev, file.target = rdev, target
        self._publish_content(file, writer)
        self.on_event()
        return file

    def mkdir(self, directory: Directory, name: bytes, mode: int, gid: int, writer: Writer, ino: int) -> Directory:
        """A directory. *ino*: the store's choice, from which the model learns which removed one goes on."""
        self._check_name(name)
        self._check_directory(directory)
        self._check_free(directory, name)
        if directory.mode & stat.S_ISGID:
            gid, mode = directory.gid, mode | stat.S_ISGID
        removed = self.removed_at(directory, name + b"/")
        shared = (mode | mode >> 3) & 7
        goes_on = [
            one
            for one in removed
            if one.uid == writer.uid
            or (writer.uid == 0 and shared & one.mode & (one.mode >> 3) & (one.mode >> 6) == shared)
        ]
        made = next((one for one in goes_on if one.ino == ino), None)
        if made is None:
            assert not goes_on, "the history of a removed directory goes on"
            made = Directory(0, 0, 0, 0, 0, 0, bucket=directory.bucket, parent=directory, name=name)
        made.mode, made.uid, made.gid = stat.S_IFDIR | mode, writer.uid, gid
        made.atime = made.mtime = made.ctime = self.now
        made.attributes.clear()
        made.live, made.ino = True, ino
        directory.removed = [one for one in directory.removed if one is not made]
        self._put(directory, name + b"/", made, writer)
        directory.entries[name + b"/"] = made
        self._touch(directory)
        self.on_event()
        return made

    def link(self, file: File | Directory, directory: Directory, name: bytes, writer: Writer) -> None:
        self._check_name(name)
        self._check_directory(directory)
        if isinstance(file, File):
            self.publish_flushed(file)
        if isinstance(file, Directory):
            raise errors.NotPermitted
        if not file.names:
            raise errors.NoSuchKey
        if file.names[0][0].bucket is not directory.bucket:
            raise errors.CrossBucket
        self._check_free(directory, name)
        file.names.append((directory, name))
        file.ctime = self.now
        self._part(directory, name, file, writer)
        if file.published:
            self._put(directory, name, file, writer)
        directory.entries[name] = file
        self._touch(directory)
        self.on_event()

    # -- removing ---------------------------------------------------------------------------------------------

    def unlink(self, directory: Directory, name: bytes, writer: Writer) -> File:
        self._check_directory(directory)
        file = self.lookup(directory, name)
        if isinstance(file, Directory):
            raise errors.IsADirectory
        file = self._last_words(directory, name)
        del directory.entries[name]
        self._delete(directory, name, file, writer)
        self._detach(file, directory, name)
        self._touch(directory)
        self.on_event()
        return file

    def _last_words(self, directory: Directory, name: bytes) -> File:
        """Before a name goes: everything that is worth a version, of what lives there and of what was displaced."""
        self._publish_at(directory, name)
        file = directory.entries[name]
        assert isinstance(file, File)
        promised = file.open is None or file.open.flushed
        if promised or file.published or (self.now - file.born) // 1000 >= YOUNG_US:
            self.publish(file) if self.no_room and file.open is not None else self.publish_all(file)
        return file

    def _publish_at(self, directory: Directory, name: bytes) -> None:
        """What was promised, of what was displaced from a name and of what lives there."""
        for file in [one for one in self.displaced if one.displaced == (directory, name)]:
            self.publish_flushed(file)
        live = directory.entries.get(name)
        if isinstance(live, File):
            self.publish_flushed(live)

    def _detach(self, file: File, directory: Directory, name: bytes, *, displaced: bool = False) -> None:
        """A name less. Without any, what is open works on: displaced, or leaving nothing."""
        file.names.remove((directory, name))
        file.ctime = self.now
        if file.names:
            return
        left = file.open is None and file.interim is not None
        if left or (displaced and file.open is not None):
            file.displaced = (directory, name)
            self.displaced = sorted([*self.displaced, file], key=lambda one: one.ino)
            return
        file.draft = file.interim = None
        if file.open is not None:
            file.open.unlinked = True

    def _gone(self, file: File) -> None:
        """A displaced file that nobody has open any more."""
        self.displaced.remove(file)
        assert file.displaced is not None
        directory = file.displaced[0]
        file.displaced = None
        if not directory.live and directory.parent is not None and not self._is_kept(directory):
            directory.parent.removed = [one for one in directory.parent.removed if one is not directory]
        self.on_event()

    def _is_kept(self, directory: Directory) -> bool:
        """Whether a removed directory has history below, or may get some by what was displaced from there."""
        return directory.has_keys or any(file.displaced and file.displaced[0] is directory for file in self.displaced)

    def rmdir(self, directory: Directory, name: bytes, writer: Writer) -> None:
        self._check_directory(directory)
        removed = self.lookup(directory, name)
        if isinstance(removed, File):
            raise errors.NotADirectory
        if removed.entries:
            raise errors.DirectoryNotEmpty
        self._leave_directory(removed, writer)
        self._drop(removed)
        self._touch(directory)
        self.on_event()

    def _leave_directory(self, directory: Directory, writer: Writer) -> None:
        """A directory's name goes: the record of it."""
        parent = directory.parent
        assert parent is not None
        del parent.entries[directory.sort_name]
        more = self._is_kept(directory) or bool(self.removed_at(parent, directory.sort_name))
        self._delete(parent, directory.sort_name, directory, writer, more=more)

    def _drop(self, directory: Directory) -> None:
        """A directory without a name: kept if it has history."""
        directory.live = False
        directory.ctime = self.now
        if self._is_kept(directory):
            assert directory.parent is not None
            directory.parent.removed.append(directory)

    # -- renaming ---------------------------------------------------------------------------------------------

    def rename(
        self, directory: Directory, name: bytes, to: Directory, new_name: bytes, writer: Writer, *, replace: bool = True
    ) -> None:
        self._check_name(new_name)
        self._check_directory(directory)
        self._check_directory(to)
        if directory.bucket is not to.bucket:
            raise errors.CrossBucket
        moved = self.lookup(directory, name)
        old = to.entries.get(new_name + b"/") or to.entries.get(new_name)
        if old is not None:
            if not replace:
                raise errors.Exists
            if old is moved:
                return
            if isinstance(old, Directory):
                if isinstance(moved, File):
                    raise errors.IsADirectory
                if old.entries:
                    raise errors.DirectoryNotEmpty
            elif isinstance(moved, Directory):
                raise errors.NotADirectory
            else:
                old = self._last_words(to, new_name)
        if isinstance(moved, Directory):
            assert old is None or isinstance(old, Directory)
            self._rename_directory(moved, to, new_name, old, writer)
        else:
            assert old is None or isinstance(old, File)
            self._rename_file(moved, directory, name, to, new_name, old, writer)

    def _check_cycle(self, directory: Directory, to: Directory | None) -> None:
        while to is not None:
            if to is directory:
                raise errors.InvalidName
            to = to.parent

    def _rename_directory(
        self, moved: Directory, to: Directory, new_name: bytes, old: Directory | None, writer: Writer
    ) -> None:
        self._check_cycle(moved, to)
        assert moved.parent is not None
        self._touch(moved.parent)
        self._leave_directory(moved, writer)
        if old is not None:
            self._drop(old)
        moved.parent, moved.name, moved.ctime = to, new_name, self.now
        self._put(to, moved.sort_name, moved, writer)
        to.entries[moved.sort_name] = moved
        self._touch(to)
        self.on_event()

    def _rename_file(
        self,
        moved: File,
        directory: Directory,
        name: bytes,
        to: Directory,
        new_name: bytes,
        old: File | None,
        writer: Writer,
    ) -> None:
        self.publish_flushed(moved)
        if old is not None:
            self._keep_rights(to, new_name, old)
            self._detach(old, to, new_name)
        del directory.entries[name]
        moved.names[moved.names.index((directory, name))] = (to, new_name)
        self._part(to, new_name, moved, writer)
        if moved.published:
            self._put(to, new_name, moved, writer)
        self._leave_name(directory, name, to, new_name, moved, writer, over=old is not None)
        moved.ctime = self.now
        to.entries[new_name] = moved
        self._touch(directory)
        self._touch(to)
        self.on_event()

    def _leave_name(
        self,
        directory: Directory,
        name: bytes,
        to: Directory,
        new_name: bytes,
        moved: File,
        writer: Writer,
        *,
        over: bool,
    ) -> None:
        """A delete marker, but nothing at all when a young name without other history was saved over a kept one."""
        assert to.bucket is not None
        chain = directory.chains.setdefault(name, [])
        alone = len(chain) == 1 and chain[0].kind is Kind.CONTENT and self.now // 1000 - chain[0].at < YOUNG_US
        if over and alone and self.state_for(to.bucket, new_name) is not State.UNVERSIONED:
            chain.clear()
        else:
            self._delete(directory, name, moved, writer)

    def exchange(self, directory: Directory, name: bytes, to: Directory, new_name: bytes, writer: Writer) -> None:
        self._check_directory(directory)
        self._check_directory(to)
        if directory.bucket is not to.bucket:
            raise errors.CrossBucket
        one, other = self.lookup(directory, name), self.lookup(to, new_name)
        if one is other:
            return
        if isinstance(one, Directory):
            self._check_cycle(one, to)
        if isinstance(other, Directory):
            self._check_cycle(other, directory)
        for node, above, called in ((one, to, new_name), (other, directory, name)):
            if isinstance(node, File) and called in above.entries and called + b"/" in above.entries:
                raise errors.Exists  # a hidden file is in the way
        for node in (one, other):
            if isinstance(node, File):
                self.publish_flushed(node)
        same = type(one) is type(other)
        for node, above, called in ((one, to, new_name), (other, directory, name)):
            if isinstance(node, File):
                self._part(above, called, node, writer)
        for node, above, called in ((one, directory, name), (other, to, new_name)):
            sort_name = called + b"/" if isinstance(node, Directory) else called
            if same:
                del above.entries[sort_name]
                if isinstance(node, File):
                    self._keep_rights(above, sort_name, node)
            elif isinstance(node, Directory):
                self._leave_directory(node, writer)
            else:
                del above.entries[sort_name]
                self._delete(above, sort_name, node, writer)
        for node, above, called, left in (
            (one, to, new_name, (directory, name)),
            (other, directory, name, (to, new_name)),
        ):
            if isinstance(node, Directory):
                node.parent, node.name = above, called
                above.entries[node.sort_name] = node
                self._put(above, node.sort_name, node, writer)
            else:
                node.names[node.names.index(left)] = (above, called)
                above.entries[called] = node
                if node.published:
                    self._put(above, called, node, writer)
            node.ctime = self.now
        self._touch(directory)
        self._touch(to)
        self.on_event()

    # -- attributes -------------------------------------------------------------------------------------------

    def set_attributes(
        self,
        node: Node,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime: int | None = None,
        mtime: int | None = None,
    ) -> None:
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode
        nothing = mode is uid is gid is atime is mtime is None
        if nothing and not stat.S_ISDIR(node.mode):
            self._drop_setid(node)
        if uid is not None or gid is not None:
            node.uid = node.uid if uid is None else uid
            node.gid = node.gid if gid is None else gid
            if mode is None and not stat.S_ISDIR(node.mode):
                self._drop_setid(node)
        node.atime = node.atime if atime is None else atime
        if mtime is not None:
            node.mtime = mtime
            if isinstance(node, File):
                if node.open is not None:
                    node.open.mtime = mtime
                if node.draft is not None:
                    node.draft = replace(node.draft, mtime=mtime)
                if node.interim is not None:
                    node.interim = replace(node.interim, mtime=mtime)
                if not node.has_changes:
                    self._amend(node)
        node.ctime = self.now
        self.on_event()

    def _amend(self, file: File) -> None:
        """The current version of each name has the mtime that is set when it is published."""
        for directory, name in file.names:
            chain = directory.chains.get(name)
            if chain and chain[-1].file is file and chain[-1].kind is Kind.CONTENT:
                chain[-1] = replace(chain[-1], mtime=file.mtime)

    def _drop_setid(self, node: Node) -> None:
        node.mode &= ~(stat.S_ISUID | (stat.S_ISGID if node.mode & stat.S_IXGRP else 0))

    def set_attribute(self, node: Node, name: bytes, value: bytes) -> None:
        node.attributes[name] = value
        node.ctime = self.now
        self.on_event()

    def remove_attribute(self, node: Node, name: bytes) -> None:
        if name not in node.attributes:
            raise errors.NoSuchAttribute
        del node.attributes[name]
        node.ctime = self.now
        self.on_event()

    # -- open files -------------------------------------------------------------------------------------------

    def open(self, file: File, writer: Writer, *, created: bool = False, truncate: bool = False) -> Handle:
        if file.open is None:
            safe = file.safe
            data = file.data if safe is None else safe.data
            file.open = Open(bytearray(data), file.mtime, file.mtime, writer)
            if file.interim is not None:
                file.open.dirty, file.open.writer, file.open.mtime = True, file.interim.writer, file.interim.mtime
                file.open.ctime = file.interim.mtime
            file.open.flushed = file.draft is not None and not created  # what a full disk kept from being published
        file.open.handles += 1
        handle = Handle(file, writer)
        if created:
            file.open.changes += 1
            handle.changed_at = file.open.safe = file.open.changes
        if truncate:
            self.truncate(handle, 0)
        return handle

    def write(self, handle: Handle, offset: int, data: bytes) -> None:
        self._changed(handle)
        content = handle.shared.data
        if data:
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data

    def truncate(self, handle: Handle, size: int) -> None:
        self._changed(handle)
        content = handle.shared.data
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]

    def _changed(self, handle: Handle) -> None:
        shared = handle.shared
        if not handle.changed:
            self._written_by(handle.file, handle.writer)
        shared.changes += 1
        handle.changed_at = shared.changes
        shared.dirty = True
        shared.writer = handle.writer
        shared.mtime = shared.ctime = self.now

    def _written_by(self, file: File, writer: Writer) -> None:
        """What anybody but root writes loses its set-id bits."""
        before = file.mode
        if writer.uid != 0:
            self._drop_setid(file)
        if file.mode != before:
            self.on_event()

    def flush(self, handle: Handle) -> None:
        shared = handle.shared
        if shared.unlinked:
            return
        if shared.dirty:
            self._store_draft(handle.file)
        if shared.safe > shared.published:
            shared.flushed = True

    def _store_draft(self, file: File) -> None:
        shared = file.open
        assert shared is not None
        file.draft = Draft(bytes(shared.data), shared.mtime, shared.ctime, shared.writer, shared.changes)
        file.interim = None
        shared.dirty = False
        shared.safe = shared.changes
        self.on_event()

    def release(self, handle: Handle) -> None:
        file, shared = handle.file, handle.shared
        shared.handles -= 1
        last = shared.handles == 0
        if not shared.unlinked and (handle.changed or (last and shared.dirty)):
            if shared.dirty:
                self._store_draft(file)
            self.publish(file)
        if last:
            file.open = None
            if shared.unlinked:
                self.on_event()
            elif file.displaced is not None:
                self._gone(file)

    def make_interims(self) -> None:
        """The clock makes safe what was written to files that stay open, all of it at one moment."""
        due = [file for file in [*self.files(), *self.displaced] if file.open is not None and file.open.dirty]
        due = [file for file in due if file.interim is None or file.interim.changes != file.open.changes]  # type: ignore[union-attr]
        for file in due:
            shared = file.open
            assert shared is not None
            file.interim = Draft(bytes(shared.data), shared.mtime, shared.ctime, shared.writer, shared.changes)
        if due:
            self.on_event()

    def publish(self, file: File) -> None:
        """The draft becomes the current version of each name."""
        draft = file.draft
        if draft is None:
            return
        if file.displaced is not None:
            live = file.displaced[0].entries.get(file.displaced[1])
            if isinstance(live, File):
                self.publish_flushed(live)
        file.data, file.mtime = draft.data, draft.mtime
        file.ctime = max(file.ctime, draft.ctime)
        file.draft = None
        if file.displaced is None:
            self._publish_content(file, draft.writer)
        else:
            self._return(file, *file.displaced, draft.writer)
        if file.open is not None:
            file.open.flushed = False
            file.open.published = file.open.safe
        self.on_event()
        if file.open is None and file.displaced is not None and file.interim is None:
            self._gone(file)

    def _return(self, file: File, directory: Directory, name: bytes, writer: Writer) -> None:
        """What was written to a displaced file: it lives again in the place of another file of its owner's; else the
        history has it, and what lives there, or that nothing does, is newer.
        """
        if not any(directory is one for one in self.directories()):
            return
        assert directory.bucket is not None
        live = directory.entries.get(name)
        assert not isinstance(live, Directory)
        if live is not None and live.uid == file.uid and stat.S_ISREG(live.mode):
            self.displaced.remove(file)
            file.displaced = None
            self._take_place(file, live, list(live.names), writer, NOBODY)
        elif self.state_for(directory.bucket, name) is State.ENABLED:
            chain = directory.chains.get(name)
            before = chain[-1].writer if chain else writer
            last = next((version for version in reversed(chain or []) if version.uid == file.uid), None)
            mode = file.mode & stat.S_IRWXU if last is None else last.mode & 0o777
            file.mode = stat.S_IFMT(file.mode) | mode
            file.gid = file.gid if last is None else last.gid
            self._part(directory, name, file, NOBODY)
            self._put(directory, name, file, writer)
            if live is None:
                self._delete(directory, name, file, writer)
            else:
                self.closings[directory.chains[name][-1].serial] = Closing(file.uid, file.gid, file.mode)
                if live.published:
                    self._put(directory, name, live, before)

    def _inherit(self, file: File, old: File, writer: Writer) -> None:
        """A file in the place of another one: its owner, mode and attributes are that one's."""
        file.mode, file.uid, file.gid, file.attributes = old.mode, old.uid, old.gid, dict(old.attributes)
        if writer.uid != 0:
            self._drop_setid(file)

    def put(self, directory: Directory, name: bytes, data: bytes, writer: Writer) -> None:
        """An S3 client's put over a regular file: at this name only."""
        self._publish_at(directory, name)
        file = directory.entries[name]
        assert isinstance(file, File)
        self.replace(file, data, writer, [(directory, name)])

    def replace(
        self, old: File, data: bytes, writer: Writer, names: list[tuple[Directory, bytes]] | None = None
    ) -> None:
        """Another file in the place of one, at all its names or some; who has that open keeps it."""
        self.publish_flushed(old)
        new = File(0, 0, 0, self.now, self.now, self.now, born=self.now, data=data)
        self._take_place(new, old, names or list(old.names), writer, writer)
        self.on_event()

    def _take_place(
        self, new: File, old: File, names: list[tuple[Directory, bytes]], writer: Writer, by: Writer
    ) -> None:
        """Names of a file are another one's from now on. Who has it open is published at the first of them."""
        self._inherit(new, old, writer)
        for directory, name in sorted(names, key=lambda where: (where[0].ino, where[1]), reverse=True):
            self._keep_rights(directory, name, old)
            self._part(directory, name, new, by)
            self._detach(old, directory, name, displaced=True)
            new.names.append((directory, name))
            directory.entries[name] = new
            self._touch(directory)
        self._publish_content(new, writer)

    def _publish_content(self, file: File, writer: Writer) -> None:
        file.published = True
        for directory, name in file.names:
            self._put(directory, name, file, writer)

    def publish_flushed(self, file: File) -> None:
        """What a close has promised, before its name changes."""
        if file.open is None:
            self._publish_left(file)
        elif file.open.flushed:
            self.publish(file)

    def _publish_left(self, file: File) -> None:
        """What a full disk kept from being published."""
        if file.interim is not None and not self.no_room:
            file.draft, file.interim = file.interim, None
            self.on_event()
        self.publish(file)

    def publish_all(self, file: File) -> None:
        """What is being changed, before something else becomes current."""
        if file.open is None:
            self._publish_left(file)
            return
        if file.open.dirty and not file.open.unlinked:
            self._store_draft(file)
        self.publish(file)

    def truncate_path(self, file: File, size: int, writer: Writer) -> None:
        handle = self.open(file, writer)
        self.truncate(handle, size)
        self.flush(handle)
        self.release(handle)

    # -- history ----------------------------------------------------------------------------------------------

    def purge(
        self, directory: Directory, name: bytes, version: Version, writer: Writer, way: Way = Way.COMMAND
    ) -> None:
        assert directory.bucket is not None
        self.check_policy(directory.bucket, way, writer)
        chain = directory.chains[name]
        if version.kind in (Kind.DIRECTORY, Kind.NO_DIRECTORY):
            raise errors.NotPermitted
        self._publish_at(directory, name)
        file = directory.entries.get(name)
        assert file is None or isinstance(file, File)
        if file is not None and len(file.names) > 1 and file.has_changes:
            self.publish_all(file)
        found = next((one for one in chain if one.serial == version.serial), None)  # it may tell of other rights by now
        if found is None:
            raise errors.NoSuchVersion
        version = found
        if chain[-1] is not version:
            chain.remove(version)
            self.on_event()
            return
        now_current = chain[-2] if len(chain) > 1 and not chain[-2].absent else None
        own = None if now_current is None else self.own_rights(directory, name, now_current)
        if file is not None and file.has_changes:
            chain.remove(version)
            if now_current is not None and (own or not stat.S_ISREG(now_current.mode)):
                now_current = None  # what is being written can never become that
            file.published = now_current is not None
            file.data = now_current.data if now_current is not None else b""
            file.ctime = self.now
            if now_current is not None:
                self._open_again(now_current)
                self._record_rights(directory, name, -1, file)
            if now_current is None and file.draft is None:
                by = file.open or file.interim
                assert by is not None
                file.draft = Draft(b"", by.mtime, by.ctime, by.writer, 0)  # as if just created
        else:
            if now_current is not None:
                self._check_revivable(directory)
                self._revive(directory, writer)
                self._undelete(directory, name, now_current, file or version, own, writer)
            chain.remove(version)
            if file is not None:
                if now_current is None:
                    del directory.entries[name]
                self._detach(file, directory, name, displaced=stat.S_ISREG(file.mode))
            self._touch(directory)
        self.on_event()

    def _undelete(
        self,
        directory: Directory,
        name: bytes,
        version: Version,
        last: File | Version,
        own: Closing | None,
        writer: Writer,
    ) -> None:
        """A new file with a version's content, and the rights and attributes that the key had last, or its own."""
        rights = own or last
        mode = stat.S_IFMT(version.mode) | stat.S_IMODE(rights.mode)
        mode &= ~SETID if writer.uid != 0 else -1
        new = File(mode, rights.uid, rights.gid, self.now, version.mtime, self.now, names=[(directory, name)])
        new.born = self.now
        new.data, new.target, new.rdev, new.published = version.data, version.target, version.rdev, True
        new.attributes = {} if own else dict(last.attributes)
        directory.entries[name] = new
        self._open_again(version)
        self._record_rights(directory, name, directory.chains[name].index(version), new)

    def _check_revivable(self, directory: Directory) -> None:
        while not directory.live:
            assert directory.parent is not None
            if directory.parent.live:
                self._check_free(directory.parent, directory.name)
            directory = directory.parent

    def _revive(self, directory: Directory, writer: Writer) -> None:
        if directory.live:
            return
        parent = directory.parent
        assert parent is not None
        self._revive(parent, writer)
        directory.live = True
        parent.removed.remove(directory)
        self._touch(directory)
        self._put(parent, directory.sort_name, directory, writer)
        parent.entries[directory.sort_name] = directory
        self._touch(parent)

    def _rights(self, directory: Directory, name: bytes) -> File | Version | None:
        """Who owns a key's history: the live file, or the last version."""
        chain = directory.chains.get(name)
        entry = directory.entries.get(name)
        assert not isinstance(entry, Directory)
        return (entry or chain[-1]) if chain else None

    def restore(
        self, source: Directory, source_name: bytes, version: Version, directory: Directory, name: bytes, writer: Writer
    ) -> None:
        if version.kind is not Kind.CONTENT:
            raise errors.NotPermitted
        self._check_name(name)
        if name + b"/" in directory.entries:
            raise errors.IsADirectory
        file = directory.entries.get(name)
        assert file is None or isinstance(file, File)
        if file is not None:
            if stat.S_ISREG(file.mode) and stat.S_ISREG(version.mode):
                self.replace(file, version.data, writer)
                return
            self.publish_flushed(file)
        self._check_revivable(directory)
        self._revive(directory, writer)
        chain = directory.chains.get(name)
        last = self._rights(directory, name)
        rights = self.own_rights(source, source_name, version) or self._rights(source, source_name)
        attributes = chain[-1].attributes if chain else {}
        if last is not None and (directory, name) != (source, source_name):
            if stat.S_ISLNK(last.mode) and not stat.S_ISLNK(version.mode):
                attributes = {}
            else:
                rights = last
        assert rights is not None
        if file is not None:
            self._keep_rights(directory, name, file)
            self._detach(file, directory, name, displaced=stat.S_ISREG(file.mode))
        mode = stat.S_IFMT(version.mode) | stat.S_IMODE(rights.mode)
        mode &= ~SETID if writer.uid != 0 else -1
        foreign = writer.uid not in (0, rights.uid)
        uid = writer.uid if foreign else rights.uid
        new = File(mode, uid, rights.gid, self.now, self.now, self.now, names=[(directory, name)], born=self.now)
        new.data, new.target, new.rdev = version.data, version.target, version.rdev
        new.attributes = dict(attributes) if last is not None and writer.uid in (0, last.uid) else {}
        self._part(directory, name, new, writer)
        self._publish_content(new, writer)
        directory.entries[name] = new
        self._touch(directory)
        self.on_event()

    # -- the process ends -------------------------------------------------------------------------------------

    def close(self) -> None:
        """A clean end: what is open is published as its last release would."""
        for file in self._all():
            if file.open is not None and file.open.dirty:
                self._store_draft(file)
        self.recover()

    def _all(self) -> list[File]:
        return sorted([*self.files(), *self.displaced], key=lambda file: file.ino)

    def _bucket_of(self, file: File) -> Bucket | None:
        directory = file.displaced[0] if file.displaced is not None else file.names[0][0]
        return directory.bucket

    def recover(self) -> None:
        """A new process: nothing is open, drafts are published, files without a name are gone."""
        for file in self._all():
            file.open = None
        for file in self._all():
            if file.interim is not None:
                file.draft, file.interim = file.interim, None
                self.on_event()
        for file in self._all():
            self.publish(file)
        for file in list(self.displaced):
            self._gone(file)
