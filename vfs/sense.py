"""Whether an event makes sense over a catalog: then applying it cannot fail, and what it leaves can be read.

A change is written down only if it makes sense, and one that was written is applied only if it does. So nothing that
has been accepted can keep a store from opening; and of what an earlier vfs accepted, or somebody made, only the record
itself is passed over, with those that build on it (vfs.replay).

The rules are those without which somebody would stumble: every name leads to an inode of its type that has this name,
every version hangs on a key, nothing lies below itself. The rest, such as whether counts are right, `vfs check` tells.

They run in each commit, 1 to 5 µs of it, so they are written for speed: few calls, rows as the catalog keeps them, and
LMDB is asked only for what can be there. `where`: a directory and a sort name, as in a row of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vfs import acl, events
from vfs.blocks import ID_BYTES
from vfs.catalog import Catalog, directory_of, where_of
from vfs.content import depth_for
from vfs.errors import InvalidName, Unstorable
from vfs.events import Event
from vfs.model import EMPTY, STORE_ROOT, Content, Ino, Inode, KeyId, Kind, Seq
from vfs.names import show

_FORMAT = 0o170000  # the type of a file in its mode
_DIRECTORY = 0o040000
_FILE = 0o100000
_FORMATS = frozenset((_FILE, _DIRECTORY, 0o120000, 0o010000, 0o140000, 0o020000, 0o060000))
_WORD = (1 << 32) - 1
_NAME_AT = 8  # in a row: behind the number of the directory, whose last byte may be a slash


def check(catalog: Catalog, event: Event) -> None:
    """Raise Unstorable unless the event makes sense. Changes nothing."""
    if event.changes:
        view = _View(catalog)
        for change in event.changes:
            _CHECKS[type(change)](view, change)
        for rule, about in view.at_end:
            rule(view, about)


class _View:
    """The catalog as the changes looked at so far leave it, and what must be true when all of them are done."""

    _acl = b""  # the last one that was found to be one
    _content = EMPTY  # the same
    _buckets: Mapping[Ino, bool] = {}  # those are seldom needed
    _interims_gone: tuple[Ino, ...] = ()
    _links: Mapping[tuple[Ino, KeyId], bool] = {}

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._next_id = catalog.next_id
        self._inodes: dict[Ino, Inode | None] = {}
        self._entries: dict[bytes, Ino | None] = {}
        self._keys: dict[KeyId, bytes | None] = {}
        self._places: dict[bytes, KeyId | None] = {}
        self._versions: dict[Seq, KeyId | None] = {}
        self.at_end: list[tuple[Callable[[_View, Any], object], Any]] = []

    # -- the state so far ---------------------------------------------------------------------------------------

    def _inode(self, ino: Ino) -> Inode | None:
        inode = self._inodes.get(ino)
        if inode is None and ino < self._next_id and ino not in self._inodes:
            return self._catalog.find_peek(ino)
        return inode

    def _where(self, key: KeyId) -> bytes:
        """Raises Unstorable if there is no such key."""
        where = self._keys[key] if key in self._keys else self._catalog.find_where(key)
        if where is None:
            raise Unstorable(f"no key {key}")
        return where

    def _key(self, where: bytes) -> KeyId | None:
        return self._places[where] if where in self._places else self._catalog.key_at(where)

    def _entry(self, where: bytes) -> Ino | None:
        return self._entries[where] if where in self._entries else self._catalog.entry_at(where)

    def _key_of_version(self, seq: Seq) -> KeyId | None:
        if seq in self._versions:
            return self._versions[seq]
        return self._catalog.key_of_version(seq) if seq <= self._catalog.last_seq else None

    def _need_bucket(self, ino: Ino) -> None:
        is_there = self._buckets.get(ino)
        if not is_there and (is_there is False or self._catalog.find_bucket(ino) is None):
            raise Unstorable(f"no bucket with inode {ino}")

    def _need_inode(self, ino: Ino) -> Inode:
        inode = self._inode(ino)
        if inode is None:
            raise Unstorable(f"no inode {ino}")
        return inode

    def _need_directory(self, ino: Ino) -> Inode:
        inode = self._inode(ino)
        if inode is None or inode.mode & _FORMAT != _DIRECTORY:
            raise Unstorable(f"inode {ino} is no directory")
        return inode

    # -- one change ---------------------------------------------------------------------------------------------

    def bucket_set(self, change: events.BucketSet) -> None:
        old = self._catalog.find_bucket(change.ino)
        if old is not None and old.name != change.bucket.name:
            raise Unstorable(f"bucket {change.ino} gets another name")
        self._buckets = {**self._buckets, change.ino: True}
        self.at_end.append((_View._need_directory, change.ino))

    def bucket_gone(self, change: events.BucketGone) -> None:
        self._need_bucket(change.ino)
        if next(self._catalog.entries(change.ino), None) is not None:
            raise Unstorable(f"bucket {change.ino} goes, and names live in it")
        self._buckets = {**self._buckets, change.ino: False}
        self._inodes[change.ino] = None

    def key_made(self, change: events.KeyMade) -> None:
        key, name = change.key, change.name
        if b"/" in name and name.index(b"/") < len(name) - 1:
            raise Unstorable(f"the name {show(name)} has a slash")
        where = where_of(change.parent, name)
        known = key in self._keys or (key < self._next_id and self._catalog.find_where(key) is not None)
        if not key or known or self._key(where) is not None:
            raise Unstorable(f"key {key} is made, and its number or its name is taken")
        self._keys[key] = where
        self._places[where] = key
        if change.parent not in self._inodes:
            self.at_end.append((_View._need_directory, change.parent))

    def key_gone(self, change: events.KeyGone) -> None:
        where = self._where(change.key)
        self._keys[change.key] = self._places[where] = None
        self.at_end.append((_View._check_dead, where))

    def version_added(self, change: events.VersionAdded) -> None:
        key, seq, version = change.key, change.seq, change.version
        kind = version.kind
        if (kind is Kind.DIRECTORY or kind is Kind.NO_DIRECTORY) != self._where(key).endswith(b"/", _NAME_AT):
            raise Unstorable(f"key {key} cannot have a version of kind {kind.name.lower()}")
        if (seq <= self._catalog.last_seq or seq in self._versions) and self._key_of_version(seq) is not None:
            raise Unstorable(f"there is a version {seq} already")
        self._need_bucket(change.bucket)
        self._check_content(version.content)
        if version.acl:
            self._check_acl(version.acl)
        if version.rights is not None:
            self._check_acl(version.rights.acl)
        self._versions[seq] = key

    def version_gone(self, change: events.VersionGone) -> None:
        if self._key_of_version(change.seq) != change.key:
            raise Unstorable(f"key {change.key} has no version {change.seq}")
        self._where(change.key)
        self._need_bucket(change.bucket)
        self._versions[change.seq] = None

    def entry_set(self, change: events.EntrySet) -> None:
        self._entries[where_of(change.parent, change.name)] = change.ino
        self.at_end.append((_View._check_entry, change))

    def entry_gone(self, change: events.EntryGone) -> None:
        where = where_of(change.parent, change.name)
        if self._entry(where) is None:
            raise Unstorable(f"no name {show(change.name)} lives in directory {change.parent}")
        self._entries[where] = None

    def inode_set(self, change: events.InodeSet) -> None:
        ino, inode = change.ino, change.inode
        old = self._inode(ino)
        kind = inode.mode & _FORMAT
        if kind not in _FORMATS:
            raise Unstorable(f"inode {ino} is of a type that there is not")
        if not ino or (old is not None and (old.mode & _FORMAT == _DIRECTORY) != (kind == _DIRECTORY)):
            raise Unstorable(f"inode {ino} is none, or becomes a directory, or ceases to be one")
        if old is not None and old.bucket != inode.bucket:
            raise Unstorable(f"inode {ino} comes into another bucket")
        if ino != STORE_ROOT and (inode.nlink or (old is not None and old.nlink)):
            self._need_bucket(inode.bucket)  # what is open and has no name may outlive its bucket
        if kind == _DIRECTORY and inode.content.size:
            raise Unstorable(f"directory {ino} has content")
        self._check_content(inode.content)
        if inode.acl and (old is None or inode.acl != old.acl):
            self._check_acl(inode.acl)
        self._inodes[ino] = inode
        if not inode.nlink and old is not None:
            self._loses_name(ino, old)
        if inode.nlink and inode.key and (old is None or old.key != inode.key or not old.nlink):
            self.at_end.append((_View._check_name_of, ino))

    def inode_gone(self, change: events.InodeGone) -> None:
        old = self._inode(change.ino)
        if old is not None:
            self._loses_name(change.ino, old)
        self._inodes[change.ino] = None

    def _loses_name(self, ino: Ino, old: Inode) -> None:
        where = self._keys.get(old.key) or self._catalog.find_where(old.key)
        if where is not None and old.nlink:
            self.at_end.append((_View._check_unnamed, (where, ino)))

    def directory_touched(self, change: events.DirectoryTouched) -> None:
        inode = self._need_directory(change.ino)
        if change.links:
            links = inode.nlink + change.links
            if not 0 <= links <= _WORD:
                raise Unstorable(f"directory {change.ino} would have {links} links")
            touched = inode.copy()
            touched.nlink = links
            self._inodes[change.ino] = touched

    def draft_set(self, change: events.DraftSet) -> None:
        self._check_content(change.draft.content)
        self.at_end.append((_View._check_file, change.ino))

    def displaced_set(self, change: events.DisplacedSet) -> None:
        inode = self._inode(change.ino)
        if inode is None or inode.mode & _FORMAT != _FILE or inode.nlink:
            raise Unstorable(f"inode {change.ino} has a name, or is no file")
        if b"/" in change.name:
            raise Unstorable(f"the name {show(change.name)} has a slash")
        if change.parent == STORE_ROOT:
            raise Unstorable("only buckets stand at the root of a store")
        self.at_end.append((_View._need_directory, change.parent))

    def interim_set(self, change: events.InterimSet) -> None:
        old = self._catalog.interim(change.ino)
        had = 0 if old is None or change.ino in self._interims_gone else old.tail_bytes
        if change.kept not in (0, had) or change.kept + len(change.tail) != change.interim.tail_bytes:
            raise Unstorable(f"inode {change.ino} keeps {change.kept} bytes of a tail of {had}")
        self._check_content(change.interim.content)
        self.at_end.append((_View._check_file, change.ino))

    def interim_gone(self, change: events.InterimGone) -> None:
        self._interims_gone = (*self._interims_gone, change.ino)

    def link_set(self, change: events.LinkSet) -> None:
        self._where(change.key)
        self._links = {**self._links, (change.ino, change.key): True}
        self.at_end.append((_View._need_inode, change.ino))

    def link_gone(self, change: events.LinkGone) -> None:
        self._links = {**self._links, (change.ino, change.key): False}

    def attribute_set(self, change: events.AttributeSet) -> None:
        if change.name == acl.DEFAULT:
            self._check_acl(change.value)
        self.at_end.append((_View._need_inode, change.ino))

    def _check_acl(self, value: bytes) -> None:
        """Whoever shows a file or asks for its rights decodes its ACL; that of all its names is one."""
        if value and value is not self._acl:
            try:
                acl.decode(value)
            except InvalidName as error:
                raise Unstorable(str(error)) from error
            self._acl = value

    def orphan_set(self, change: events.OrphanSet) -> None:
        inode = self._inode(change.ino)
        if inode is None or inode.is_dir or inode.nlink:
            raise Unstorable(f"inode {change.ino} has a name, or is none")

    def object_set(self, change: events.ObjectSet) -> None:
        if self._key_of_version(change.seq) != change.key:  # which may go again: what is replaced says its rights first
            raise Unstorable(f"key {change.key} has no version {change.seq}")

    def upload_set(self, change: events.UploadSet) -> None:
        self._need_bucket(change.bucket)

    def part_set(self, change: events.PartSet) -> None:
        self._check_content(change.part.content)
        if not self._catalog.has_upload(change.upload):
            raise Unstorable(f"no upload {change.upload}")

    def anything(self, _: object) -> None:
        """For what does nothing where there is nothing."""

    def _check_content(self, content: Content) -> None:
        """What a content says of itself. (More holes than leaves: an earlier vfs miscounted; `vfs check` tells.)"""
        if content is self._content:
            return
        size, root = content.size, content.root
        if content.depth != depth_for(size):
            raise Unstorable(f"a content has {size} bytes in a tree of depth {content.depth}")
        if root and (not size or len(root) != ID_BYTES):
            raise Unstorable(f"a content of {size} bytes has a root with an id of {len(root)} bytes")
        self._content = content

    # -- when all changes are known -------------------------------------------------------------------------------

    def _check_file(self, ino: Ino) -> None:
        inode = self._inode(ino)
        if inode is None or inode.mode & _FORMAT != _FILE:
            raise Unstorable(f"a draft of inode {ino}, which is no file")

    def _check_dead(self, where: bytes) -> None:
        """No name lives without a key."""
        if self._key(where) is None and self._entry(where) is not None:
            raise Unstorable(f"the key of {show(where[8:])} goes, and the name lives")

    def _check_unnamed(self, about: tuple[bytes, Ino]) -> None:
        """No name leads to an inode that has gone, or says that it has no name."""
        where, ino = about
        inode = self._inode(ino)
        if (inode is None or not inode.nlink) and self._entry(where) == ino:
            raise Unstorable(f"inode {ino} goes, and the name {show(where[8:])} leads to it")

    def _check_entry(self, change: events.EntrySet) -> None:
        """A live name leads to an inode of its type, which has that name."""
        parent, name, ino = change.parent, change.name, change.ino
        where = where_of(parent, name)
        if self._entries[where] != ino:
            return  # it went elsewhere since
        above, inode = self._need_directory(parent), self._need_inode(ino)
        is_dir = inode.mode & _FORMAT == _DIRECTORY
        if is_dir != name.endswith(b"/"):
            raise Unstorable(f"the name {show(name)} leads to inode {ino} of another type")
        if parent == STORE_ROOT:
            self._need_bucket(ino)
            return
        key = self._key(where)
        if key is None or inode.bucket != above.bucket:
            raise Unstorable(f"the name {show(name)} has no key, or leads to inode {ino} of another bucket")
        if is_dir or inode.nlink < 2:
            has = inode.key == key and inode.nlink > 0
        else:
            has = self._links[ino, key] if (ino, key) in self._links else self._catalog.has_link(ino, key)
        if not has:
            raise Unstorable(f"the name {show(name)} leads to inode {ino}, which does not have it")

    def _check_name_of(self, ino: Ino) -> None:
        """An inode that lives has a key, and a directory does not lie below itself."""
        inode = self._inode(ino)
        if inode is None or not inode.nlink or not inode.key:
            return
        where = self._where(inode.key)
        if inode.mode & _FORMAT == _DIRECTORY:
            is_new = ino >= self._next_id or self._catalog.find_peek(ino) is None
            self._check_above(ino, directory_of(where), is_new=is_new)

    def _check_above(self, ino: Ino, above: Ino, *, is_new: bool) -> None:
        """What is above a directory that comes to another place ends at a bucket."""
        seen = {ino}
        while above not in seen:
            seen.add(above)
            if is_new and above not in self._inodes:
                return  # what was there before cannot lie below something new
            inode = self._need_directory(above)
            if not inode.key:
                return
            above = directory_of(self._where(inode.key))
        raise Unstorable(f"directory {ino} comes to lie below itself")


_CHECKS: dict[type[events.Change], Callable[[_View, Any], None]] = {
    events.BucketSet: _View.bucket_set,
    events.BucketGone: _View.bucket_gone,
    events.KeyMade: _View.key_made,
    events.KeyGone: _View.key_gone,
    events.VersionAdded: _View.version_added,
    events.VersionGone: _View.version_gone,
    events.EntrySet: _View.entry_set,
    events.EntryGone: _View.entry_gone,
    events.InodeSet: _View.inode_set,
    events.InodeGone: _View.inode_gone,
    events.DirectoryTouched: _View.directory_touched,
    events.DraftSet: _View.draft_set,
    events.DraftGone: _View.anything,
    events.DisplacedSet: _View.displaced_set,
    events.InterimSet: _View.interim_set,
    events.InterimGone: _View.interim_gone,
    events.LinkSet: _View.link_set,
    events.LinkGone: _View.link_gone,
    events.AttributeSet: _View.attribute_set,
    events.AttributeGone: _View.anything,
    events.OrphanSet: _View.orphan_set,
    events.ObjectSet: _View.object_set,
    events.UploadSet: _View.upload_set,
    events.UploadGone: _View.anything,
    events.PartSet: _View.part_set,
}
