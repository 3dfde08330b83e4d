"""A small store, and changes of it that make no sense: nothing writes them, and whoever finds them passes over them."""

from __future__ import annotations

import stat
from collections.abc import Callable

import msgspec

from vfs import acl, events
from vfs.events import Change
from vfs.model import (
    EMPTY,
    SEQ_MAX,
    STORE_ROOT,
    BlockId,
    Bucket,
    Content,
    Draft,
    Ino,
    Inode,
    Interim,
    KeyId,
    Kind,
    LockMode,
    ObjectInfo,
    Part,
    Retention,
    Seq,
    State,
    Upload,
    Version,
    Writer,
)
from vfs.store import Store

WRITER = Writer(1000, 7, "test")
BLOCK = BlockId(b"b" * 32)


class Tree:
    """A store with a bucket, a directory in it with another, a file and a removed file."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bucket = store.create_bucket(b"docs", uid=0, gid=0)
        self.other = store.create_bucket(b"other", uid=0, gid=0)
        self.directory, _ = store.tree.mkdir(self.bucket, b"d", 0o755, 0, WRITER)
        self.inner, _ = store.tree.mkdir(self.directory, b"i", 0o755, 0, WRITER)
        self.file = write(store, self.bucket, b"f")
        write(store, self.bucket, b"gone")
        store.tree.unlink(self.bucket, b"gone", WRITER)
        self.next = Ino(store.core.catalog.next_id)
        self.upload = 0
        self.displaced = Ino(0)

    def inode(self, ino: Ino) -> Inode:
        return self.store.core.catalog.inode(ino)

    def with_(self, ino: Ino, **fields: object) -> Inode:
        return msgspec.structs.replace(self.inode(ino), **fields)


def write(store: Store, directory: Ino, name: bytes, data: bytes = b"data") -> Ino:
    ino, _ = store.tree.create(directory, name, 0o644, 0, WRITER)
    handle = store.files.open(ino, WRITER, created=True)
    store.files.write(handle, 0, data)
    store.files.flush(handle)
    store.files.release(handle)
    return ino


def version(kind: Kind = Kind.CONTENT, content: Content = EMPTY) -> Version:
    return Version(kind, False, stat.S_IFREG | 0o644, 0, 0, 0, WRITER, Ino(1), content)


def info(until: int) -> ObjectInfo:
    return ObjectInfo(retention=Retention(LockMode.GOVERNANCE, until))


SENSELESS: dict[str, Callable[[Tree], list[Change]]] = {
    "a link count of -5": lambda t: [events.InodeSet(t.directory, t.with_(t.directory, nlink=-5))],
    "one link too few": lambda t: [events.DirectoryTouched(t.directory, 0, -7)],
    "2^63 holes": lambda t: [events.InodeSet(t.file, t.with_(t.file, content=Content(4, BLOCK, 0, 1 << 63)))],
    "a tree too deep": lambda t: [events.InodeSet(t.file, t.with_(t.file, content=Content(4, BLOCK, 3)))],
    "a short id": lambda t: [events.DraftSet(t.file, Draft(Content(4, BlockId(b"b"), 0), 0, 0, WRITER))],
    "no bytes in a block": lambda t: [events.DraftSet(t.file, Draft(Content(0, BLOCK, 0), 0, 0, WRITER))],
    "a generation of -1": lambda t: [events.InodeSet(t.file, t.with_(t.file, generation=-1))],
    "a time of 65 bits": lambda t: [events.InodeSet(t.file, t.with_(t.file, mtime=1 << 64))],
    "a time long before": lambda t: [events.InodeSet(t.file, t.with_(t.file, atime=-(1 << 63) - 1))],
    "a mode of 33 bits": lambda t: [events.InodeSet(t.file, t.with_(t.file, mode=1 << 32))],
    "no bucket": lambda t: [events.InodeSet(t.file, t.with_(t.file, bucket=Ino(999)))],
    "no such key": lambda t: [events.InodeSet(t.file, t.with_(t.file, key=KeyId(999)))],
    "a file that is a directory": lambda t: [events.InodeSet(t.file, t.with_(t.file, mode=stat.S_IFDIR))],
    "a long target": lambda t: [events.InodeSet(t.file, t.with_(t.file, target=b"t" * 4096))],
    "inode 0": lambda t: [events.InodeSet(Ino(0), t.inode(t.file))],
    "inode 2^60": lambda t: [events.InodeSet(Ino(1 << 60), t.inode(t.file))],
    "a name with a slash": lambda t: [
        events.KeyMade(KeyId(510), t.bucket, b"a/b"),
        events.EntrySet(t.bucket, b"a/b", t.file),
    ],
    "an entry to nothing": lambda t: [events.EntrySet(t.bucket, b"ghost", Ino(999))],
    "an entry without a key": lambda t: [events.EntrySet(t.bucket, b"ghost", t.file)],
    "another name of a file": lambda t: [
        events.KeyMade(KeyId(t.next), t.bucket, b"g"),
        events.EntrySet(t.bucket, b"g", t.file),
    ],
    "a directory without a slash": lambda t: [events.EntrySet(t.bucket, b"f", t.directory)],
    "a file without a name that has one": lambda t: [events.InodeSet(t.file, t.with_(t.file, nlink=0))],
    "a directory without a name that has one": lambda t: [events.InodeSet(t.directory, t.with_(t.directory, nlink=0))],
    "an inode of no type": lambda t: [events.InodeSet(t.file, t.with_(t.file, mode=0o644))],
    "an ACL that is none": lambda t: [events.InodeSet(t.file, t.with_(t.file, acl=b"acl"))],
    "a default ACL that is none": lambda t: [events.AttributeSet(t.directory, acl.DEFAULT, b"acl")],
    "a displaced file with a name": lambda t: [events.DisplacedSet(t.file, t.bucket, b"f")],
    "displaced from the root": lambda t: [
        events.EntryGone(t.bucket, b"f"),
        events.InodeSet(t.file, t.with_(t.file, nlink=0)),
        events.DisplacedSet(t.file, STORE_ROOT, b"f"),
    ],
    "a displaced directory": lambda t: [events.DisplacedSet(t.directory, t.bucket, b"f")],
    "nothing that is displaced": lambda t: [events.DisplacedSet(Ino(999), t.bucket, b"f")],
    "an interim draft of nothing": lambda t: [
        events.InterimSet(Ino(999), Interim(EMPTY, 0, 0, 0, WRITER, Seq(5)), 0, b"")
    ],
    "an interim draft with too short a tail": lambda t: [
        events.InterimSet(t.file, Interim(EMPTY, 5, 0, 0, WRITER, Seq(5)), 0, b"tail")
    ],
    "an interim draft that keeps what is not there": lambda t: [
        events.InterimSet(t.file, Interim(EMPTY, 5, 0, 0, WRITER, Seq(5)), 5, b"")
    ],
    "a bucket with names in it": lambda t: [events.BucketGone(t.bucket)],
    "a file of another bucket": lambda t: [events.InodeSet(t.file, t.with_(t.file, bucket=t.other))],
    "a file of the store's root": lambda t: [events.InodeSet(t.file, t.with_(t.file, bucket=STORE_ROOT))],
    "a new file of the store's root": lambda t: [events.InodeSet(Ino(t.next), t.with_(t.file, bucket=STORE_ROOT))],
    "a directory with content": lambda t: [
        events.InodeSet(t.directory, t.with_(t.directory, content=t.inode(t.file).content))
    ],
    "a root with content": lambda t: [
        events.InodeSet(STORE_ROOT, t.with_(STORE_ROOT, content=t.inode(t.file).content))
    ],
    "an entry in a file": lambda t: [events.EntrySet(t.file, b"f", t.file)],
    "an entry of another bucket": lambda t: [
        events.KeyMade(KeyId(t.next), t.other, b"f"),
        events.InodeSet(t.file, t.with_(t.file, key=KeyId(t.next))),
        events.EntrySet(t.other, b"f", t.file),
    ],
    "a file at the root": lambda t: [events.EntrySet(STORE_ROOT, b"x/", t.directory)],
    "a name that nobody has": lambda t: [events.EntryGone(t.bucket, b"nobody")],
    "the file of a name": lambda t: [events.InodeGone(t.file)],
    "the directory of a name": lambda t: [events.InodeGone(t.directory)],
    "the key of a name": lambda t: [events.KeyGone(t.inode(t.file).key)],
    "no key to go": lambda t: [events.KeyGone(KeyId(999))],
    "a key twice": lambda t: [events.KeyMade(t.inode(t.file).key, t.bucket, b"new")],
    "a name twice": lambda t: [events.KeyMade(KeyId(t.next), t.bucket, b"f")],
    "a key below nothing": lambda t: [events.KeyMade(KeyId(t.next), Ino(999), b"f")],
    "a key below a file": lambda t: [events.KeyMade(KeyId(t.next), t.file, b"f")],
    "a long name": lambda t: [events.KeyMade(KeyId(t.next), t.bucket, b"f" * 504)],
    "a version of no key": lambda t: [events.VersionAdded(KeyId(999), Seq(5), version(), t.bucket)],
    "a version of no bucket": lambda t: [
        events.VersionAdded(t.inode(t.file).key, t.store.core.next_seq(), version(), Ino(999))
    ],
    "a version twice": lambda t: [events.VersionAdded(t.inode(t.file).key, t.inode(t.file).seq, version(), t.bucket)],
    "a version after the end of time": lambda t: [
        events.VersionAdded(t.inode(t.file).key, Seq(SEQ_MAX + 1), version(), t.bucket)
    ],
    "a directory's version of a file": lambda t: [
        events.VersionAdded(t.inode(t.file).key, t.store.core.next_seq(), version(Kind.DIRECTORY), t.bucket)
    ],
    "no version to go": lambda t: [events.VersionGone(t.inode(t.file).key, Seq(5), t.bucket)],
    "metadata of nothing": lambda t: [events.ObjectSet(t.inode(t.file).key, Seq(5), ObjectInfo())],
    "a lone surrogate": lambda t: [
        events.ObjectSet(t.inode(t.file).key, t.inode(t.file).seq, ObjectInfo(etag="\udc80"))
    ],
    "a draft of a directory": lambda t: [events.DraftSet(t.directory, Draft(EMPTY, 0, 0, WRITER))],
    "a draft of nothing": lambda t: [events.DraftSet(Ino(999), Draft(EMPTY, 0, 0, WRITER))],
    "a link of nothing": lambda t: [events.LinkSet(Ino(999), t.inode(t.file).key)],
    "a link to no key": lambda t: [events.LinkSet(t.file, KeyId(999))],
    "an attribute of nothing": lambda t: [events.AttributeSet(Ino(999), b"user.a", b"")],
    "a large attribute": lambda t: [events.AttributeSet(t.file, b"user.a", bytes(65_537))],
    "an orphan with a name": lambda t: [events.OrphanSet(t.file)],
    "an upload of no bucket": lambda t: [events.UploadSet(Ino(999), 5, Upload(b"k", Seq(1), ObjectInfo()))],
    "a part of nothing": lambda t: [events.PartSet(999, 1, Part(EMPTY, "e", Seq(1)))],
    "part 0": lambda t: [events.PartSet(999, 0, Part(EMPTY, "e", Seq(1)))],
    "no bucket to go": lambda t: [events.BucketGone(Ino(999))],
    "a bucket of no directory": lambda t: [events.BucketSet(Ino(999), Bucket(b"new", State.ENABLED, Seq(1)))],
    "a bucket's other name": lambda t: [events.BucketSet(t.bucket, Bucket(b"new", State.ENABLED, Seq(1)))],
    "a state that there is not": lambda t: [
        events.BucketSet(t.bucket, Bucket(b"docs", 7, Seq(1)))  # type: ignore[arg-type]
    ],
    "a directory below itself": lambda t: [
        events.EntryGone(t.bucket, b"d/"),
        events.KeyMade(KeyId(t.next), t.inner, b"d/"),
        events.InodeSet(t.directory, t.with_(t.directory, key=KeyId(t.next))),
        events.EntrySet(t.inner, b"d/", t.directory),
    ],
    "two directories in each other": lambda t: [
        events.KeyMade(KeyId(t.next), Ino(t.next + 2), b"a/"),
        events.KeyMade(KeyId(t.next + 1), Ino(t.next + 3), b"b/"),
        events.InodeSet(Ino(t.next + 3), t.with_(t.directory, key=KeyId(t.next))),
        events.InodeSet(Ino(t.next + 2), t.with_(t.directory, key=KeyId(t.next + 1))),
    ],
}
