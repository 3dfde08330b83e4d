"""What is accepted can be read and applied again: a commit refuses everything else, and nothing has changed then."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from vfs import acl, check, events, tree
from vfs.errors import NoSpace, TooLarge, TooManyLinks, Unstorable, VfsError
from vfs.events import Change, Event
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
    KeyId,
    Kind,
    LockMode,
    ObjectInfo,
    ObjectLock,
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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store")
    yield store
    store.abandon()


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


def unchanged(store: Store) -> None:
    """The store goes on, and everything that it has been told can be read again."""
    assert not store.core.failed
    write(store, store.find_bucket(b"other"), b"after", b"acknowledged")
    store.abandon()
    again = Store.open(store.path)
    ino, _ = again.tree.lookup(again.find_bucket(b"other"), b"after")
    handle = again.files.open(ino, WRITER)
    assert again.files.read(handle, 0, 100) == b"acknowledged"
    again.files.release(handle)
    again.close()
    problems: list[check.Problem] = []
    check.check(store.path, problems.append, lambda what, done, total: None)
    assert problems == []


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


@pytest.mark.parametrize("name", SENSELESS)
def test_what_makes_no_sense_is_not_written(store: Store, name: str) -> None:
    tree = Tree(store)
    before = store.core.journal.end
    with pytest.raises(Unstorable):
        store.core.commit("senseless", SENSELESS[name](tree))
    assert store.core.journal.end == before
    unchanged(store)


def test_of_many_changes_each_is_looked_at(store: Store) -> None:
    tree = Tree(store)
    some: list[Change] = [events.AttributeSet(tree.file, b"user.%d" % at, b"") for at in range(3000)]
    with pytest.raises(Unstorable, match="many"):
        events.check_readable(Event(1, "many", [*some, events.DirectoryTouched(tree.bucket, 0, 1 << 40)]), b"")
    store.core.commit("many", [*some, events.InodeSet(tree.file, tree.with_(tree.file, attributes=True))])
    unchanged(store)


def test_a_change_that_is_too_large_is_not_written(store: Store) -> None:
    tree = Tree(store)
    with pytest.raises(TooLarge):
        store.core.commit(
            "large", [events.AttributeSet(tree.file, b"user.%d" % at, bytes(65_536)) for at in range(300)]
        )
    unchanged(store)


# --- doors


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (0, 0),
        (-1, -1),
        (1 << 63, 1 << 63),
        ((1 << 64) - 1, (1 << 64) - 1),
        (1 << 64, (1 << 64) - 1),
        (1 << 93, (1 << 64) - 1),
        (-(1 << 63), -(1 << 63)),
        (-(1 << 63) - 1, -(1 << 63)),
        (-(1 << 93), -(1 << 63)),
    ],
)
def test_a_time_that_cannot_be_stored_becomes_the_nearest(store: Store, given: int, kept: int) -> None:
    tree = Tree(store)
    handle = store.files.open(tree.file, WRITER)
    store.files.write(handle, 0, b"more")
    found = store.tree.set_attributes(tree.file, atime=given, mtime=given)
    assert (found.atime, found.mtime) == (kept, kept)
    store.files.flush(handle)
    store.files.release(handle)
    assert store.tree.inode(tree.file).mtime == kept
    unchanged(store)


@pytest.mark.parametrize("until", [-1, SEQ_MAX + 1, 1 << 63, 1 << 64])
def test_a_retention_ends_before_the_calendar_does(store: Store, until: int) -> None:
    Tree(store)
    locked = store.create_bucket(b"locked", uid=0, gid=0)

    store.objects.configure(locked, lock=ObjectLock())
    body = store.objects.begin_content(locked)
    content = body.seal()
    store.objects.end_content(body)
    before = store.core.journal.end
    for change in (
        lambda: store.objects.put(locked, b"k", content, info(until), WRITER),
        lambda: store.uploads.create(locked, b"k", info(until)),
    ):
        with pytest.raises(VfsError):
            change()
    assert store.core.journal.end == before
    store.objects.put(locked, b"k", content, info(SEQ_MAX), WRITER)
    with pytest.raises(VfsError):
        store.objects.set_retention(store.objects.current(locked, b"k"), Retention(LockMode.GOVERNANCE, until))
    unchanged(store)


def access_list(users: int) -> bytes:
    named = tuple(acl.Entry(acl.Tag.USER, 10_000 + at, 4) for at in range(users))
    ends = [acl.Entry(tag, 0, 6) for tag in (acl.Tag.OWNING_GROUP, acl.Tag.MASK, acl.Tag.OTHER)]
    return acl.encode((acl.Entry(acl.Tag.OWNER, 0, 6), *named, *ends))


def append(store: Store, ino: Ino) -> None:
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 4, b"more")
    store.files.flush(handle)
    store.files.release(handle)


def test_an_acl_and_links_are_never_more_than_can_be_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "PUBLISHED_BYTES_MAX", 100 << 10)
    made = Tree(store)
    for at in range(20):
        store.tree.link(made.file, made.bucket, b"l%d" % at, WRITER)
    with pytest.raises(NoSpace):
        store.tree.set_acl(made.file, acl.ACCESS, access_list(500), keep_setgid=True)
    store.tree.set_acl(made.file, acl.ACCESS, access_list(400), keep_setgid=True)
    for name in (b"more", b"still more", b"most"):
        store.tree.link(made.file, made.bucket, name, WRITER)
    with pytest.raises(TooManyLinks):
        store.tree.link(made.file, made.bucket, b"too many", WRITER)
    append(store, made.file)
    assert store.core.catalog.draft(made.file) is None
    store.tree.set_acl(made.file, acl.ACCESS, access_list(1), keep_setgid=True)
    unchanged(store)


def test_the_most_links_with_the_largest_acl_can_be_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures: a version takes less than VERSION_BYTES with the longest of its other fields."""
    longest = Version(
        Kind.CONTENT,
        False,
        (1 << 32) - 1,
        (1 << 32) - 1,
        (1 << 32) - 1,
        (1 << 64) - 1,
        Writer((1 << 32) - 1, (1 << 32) - 1, "p" * 255),
        Ino((1 << 60) - 1),
        Content((1 << 63) - 1, BLOCK, 8, (1 << 63) - 1),
        rdev=(1 << 63) - 1,
    )
    key, bucket = KeyId((1 << 60) - 1), Ino((1 << 60) - 1)
    changes: list[Change] = [
        events.VersionGone(key, Seq(SEQ_MAX), bucket),
        events.VersionAdded(key, Seq(SEQ_MAX), longest, bucket),
        events.ObjectSet(key, Seq(SEQ_MAX), info(SEQ_MAX)),
    ]
    assert len(events.pack(Event(1, "publish", changes))) < tree.VERSION_BYTES
