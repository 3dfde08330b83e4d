"""What is accepted can be read and applied again: a commit refuses everything else, and nothing has changed then."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crafted import BLOCK, SENSELESS, WRITER, Tree, info, write
from vfs import acl, check, events, tree
from vfs.errors import AttributesFull, TooLarge, TooManyLinks, Unstorable, VfsError
from vfs.events import Change, Event
from vfs.model import (
    SEQ_MAX,
    Content,
    Ino,
    KeyId,
    Kind,
    LockMode,
    ObjectInfo,
    ObjectLock,
    Retention,
    Seq,
    State,
    Version,
    Writer,
)
from vfs.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store")
    yield store
    store.abandon()


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
        events.record(Event(1, "many", [*some, events.DirectoryTouched(tree.bucket, 0, 1 << 40)]))
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
    with pytest.raises(AttributesFull):
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
    assert len(events.record(Event(1, "publish", changes))) < tree.VERSION_BYTES


def test_a_version_may_be_replaced_whose_rights_are_told_first(store: Store) -> None:
    """A put over a file whose mode was changed, in a bucket without versioning: its version goes, comes, and goes."""
    bucket = store.create_bucket(b"other", uid=0, gid=0, state=State.UNVERSIONED)
    write(store, bucket, b"f")
    body = store.objects.begin_content(bucket)
    store.objects.put(bucket, b"f", body.seal(), ObjectInfo("e"), WRITER)
    ino, _ = store.tree.lookup(bucket, b"f")
    store.tree.set_attributes(ino, mode=0o600)
    store.objects.put(bucket, b"f", body.seal(), ObjectInfo("f"), WRITER)
    store.objects.end_content(body)
    assert store.objects.current(bucket, b"f").info.etag == "f"
    unchanged(store)


def test_the_number_of_a_directory_may_end_in_a_slash(store: Store) -> None:
    """The key ``a/`` of an object has an empty name; in its row there is only the number of its directory."""
    bucket = store.create_bucket(b"other", uid=0, gid=0)
    body = store.objects.begin_content(bucket)
    made = set()
    for at in range(300):
        store.core.new_id() if at % 70 == 0 else None
        store.objects.put(bucket, b"%d/" % at, body.seal(), ObjectInfo(), WRITER)
        made.add(store.core.catalog.entry(bucket, b"%d/" % at) & 255)  # type: ignore[operator]
    store.objects.end_content(body)
    assert ord("/") in made
    unchanged(store)


def test_an_open_file_without_a_name_may_outlive_its_bucket(store: Store) -> None:
    store.create_bucket(b"other", uid=0, gid=0)
    bucket = store.create_bucket(b"gone", uid=0, gid=0, state=State.UNVERSIONED)
    ino = write(store, bucket, b"f")
    handle = store.files.open(ino, WRITER)
    store.tree.unlink(bucket, b"f", WRITER)
    store.delete_bucket(b"gone")
    assert store.tree.set_attributes(ino, mode=0o600).mode == stat.S_IFREG | 0o600
    store.files.write(handle, 0, b"more")
    assert store.files.read(handle, 0, 4) == b"more"
    store.files.release(handle)
    unchanged(store)
