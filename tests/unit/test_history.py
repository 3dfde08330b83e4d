"""History beyond what the reference model asks: names of several directories, refused restores, who is current."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.unit.test_catalog import save
from vfs.content import WorkingCopy
from vfs.errors import InvalidName, IsADirectory, NoSuchKey, NoSuchVersion, NotADirectory, NotPermitted
from vfs.model import STORE_ROOT, Ino, Kind, Seq, Writer
from vfs.names import format_version_id
from vfs.store import Store

WRITER = Writer(0, 1, "test")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    ticks = count(1_800_000_000_000_000_000, 1_000_000)
    opened = Store.open(tmp_path / "store", clock=lambda: next(ticks))
    yield opened
    opened.abandon()


@pytest.fixture
def bucket(store: Store) -> Ino:
    return store.create_bucket(b"bucket", uid=0, gid=0)


def mkdir(store: Store, parent: Ino, name: bytes) -> Ino:
    return store.tree.mkdir(parent, name, 0o755, 0, WRITER)[0]


def remove_all(store: Store, parent: Ino, name: bytes) -> None:
    directory = store.tree.lookup(parent, name)[0]
    for sort_name, below, _ in list(store.tree.entries(directory)):
        if sort_name.endswith(b"/"):
            remove_all(store, directory, below)
        else:
            store.tree.unlink(directory, below, WRITER)
    store.tree.rmdir(parent, name, WRITER)


def held(store: Store, directory: Ino, name: bytes) -> list[bytes | None]:
    """What the versions of a name hold, newest first; None: a delete marker."""
    key = store.history.past(directory, name).keys[0]
    return [
        None if version.kind is Kind.MARKER else WorkingCopy(store.core.blocks, version.content).read(0, 100)
        for _, version in store.history.versions(key)
    ]


def listed(store: Store, directory: Ino) -> list[bytes]:
    return [name for _, name, _ in store.history.names(directory)]


def test_a_directory_made_again_goes_on(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    save(store, directory, b"f", b"1")
    store.tree.set_attribute(directory, b"user.a", b"of the old one")
    remove_all(store, bucket, b"d")
    generation = store.tree.inode(directory).generation
    assert mkdir(store, bucket, b"d") == directory
    save(store, directory, b"f", b"2")
    assert held(store, directory, b"f") == [b"2", None, b"1"]
    assert store.tree.list_attributes(directory) == []
    assert store.tree.inode(directory).generation > generation, "the kernel must not take it for the old one"


def test_a_directory_moved_to_where_one_was_removed_shows_both_histories(store: Store, bucket: Ino) -> None:
    """rm -rf src; mv src.new src; also below, and below that."""
    for name, data in ((b"src", b"old"), (b"src.new", b"new")):
        top = mkdir(store, bucket, name)
        lib = mkdir(store, top, b"lib")
        for below in (top, lib, mkdir(store, lib, b"deep")):
            save(store, below, b"f", data)
            save(store, below, data, data)
    remove_all(store, bucket, b"src")
    store.tree.rename(bucket, b"src.new", bucket, b"src", WRITER)
    directory = store.tree.lookup(bucket, b"src")[0]
    for _ in range(3):
        assert set(listed(store, directory)) >= {b"f", b"new", b"old"}
        assert len(listed(store, directory)) == len(set(listed(store, directory)))
        assert held(store, directory, b"old") == [None, b"old"]
        assert held(store, directory, b"f") == [None, b"new", b"old"], "by time"
        key = store.history.past(directory, b"f").keys[0]
        assert store.history.live(key) == store.tree.find(directory, b"f"), "what lives comes first"
        current = store.history.current(key)
        assert current is not None
        version = store.history.find(current)[1]
        assert WorkingCopy(store.core.blocks, version.content).read(0, 10) == b"new", "no dead marker is current"
        directory = next(
            (ino for _, name, ino in store.tree.entries(directory) if name in (b"lib", b"deep")), directory
        )


def test_the_name_of_a_directory_that_moved_away_is_not_listed(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"a")
    save(store, directory, b"f", b"1")
    store.tree.rename(bucket, b"a", bucket, b"b", WRITER)
    assert listed(store, bucket) == [b"b"]
    with pytest.raises(NoSuchKey):
        store.history.past(bucket, b"a")


def test_a_name_that_was_a_file_and_a_directory_is_listed_once(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"x", b"1")
    store.tree.unlink(bucket, b"x", WRITER)
    directory = mkdir(store, bucket, b"x")
    save(store, directory, b"f", b"1")
    assert listed(store, bucket) == [b"x"]
    past = store.history.past(bucket, b"x")
    assert len(past.keys) == 1
    assert past.directories == [directory]
    remove_all(store, bucket, b"x")
    store.tree.create(bucket, b"x", 0o644, 0, WRITER)
    assert listed(store, bucket) == [b"x"], "also while a new file has no version"


def test_names_go_on_behind_any_name(store: Store, bucket: Ino) -> None:
    for name in (b"a", b"a!", b"a0", b"b"):
        save(store, bucket, name, b"1")
    mkdir(store, bucket, b"c")
    names = [(sort_name, name) for sort_name, name, _ in store.history.names(bucket)]
    for at, (sort_name, _) in enumerate(names):
        assert [(one, name) for one, name, _ in store.history.names(bucket, sort_name)] == names[at + 1 :]


def test_ids_find_versions(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"1")
    save(store, bucket, b"f", b"2")
    key = store.history.past(bucket, b"f").keys[0]
    for seq, version in store.history.versions(key):
        assert store.history.version(key, format_version_id(seq)) == (seq, version)
        assert store.history.find(seq) == (key, version)
        assert [older for older, _ in store.history.versions(key, seq)] == [
            other for other, _ in store.history.versions(key) if other < seq
        ]
    for text in ("null", "20261120T151617.000001Z"):
        with pytest.raises(NoSuchVersion):
            store.history.version(key, text)
    with pytest.raises(InvalidName):
        store.history.version(key, "latest")
    with pytest.raises(NoSuchVersion):
        store.history.find(Seq(5))


def test_what_cannot_be_restored(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"1")
    directory = mkdir(store, bucket, b"d")
    key = store.history.past(bucket, b"f").keys[0]
    seq = store.history.current(key)
    assert seq is not None
    for parent, name, error in (
        (STORE_ROOT, b"f", NotPermitted),
        (ino, b"f", NotADirectory),
        (bucket, b"d", IsADirectory),
        (directory, b".versions", InvalidName),
    ):
        with pytest.raises(error):
            store.history.restore(seq, parent, name, WRITER)
    store.tree.unlink(bucket, b"f", WRITER)
    marker = store.history.current(key)
    assert marker is not None
    with pytest.raises(NotPermitted):
        store.history.restore(marker, bucket, b"f", WRITER)
    with pytest.raises(NoSuchVersion):
        store.history.restore(Seq(5), bucket, b"f", WRITER)
    assert held(store, bucket, b"f") == [None, b"1"], "nothing was changed"


def test_restoring_costs_no_content(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"x" * 1_000_000)
    save(store, bucket, b"f", b"short")
    key = store.history.past(bucket, b"f").keys[0]
    blocks = store.core.blocks.end
    seq = list(store.history.versions(key))[-1][0]
    store.history.restore(seq, bucket, b"f", WRITER)
    assert store.core.blocks.end == blocks
    assert store.tree.lookup(bucket, b"f")[1].content.size == 1_000_000


def test_a_restored_file_brings_its_directories_back(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    below = mkdir(store, directory, b"e")
    save(store, below, b"f", b"1")
    key = store.history.past(below, b"f").keys[0]
    seq = store.history.current(key)
    assert seq is not None
    remove_all(store, bucket, b"d")
    changed = store.history.restore(seq, below, b"f", WRITER)
    assert [(change.parent, change.name) for change in changed] == [(bucket, b"d"), (directory, b"e"), (below, b"f")]
    assert store.tree.lookup(bucket, b"d")[0] == directory
    assert store.tree.lookup(directory, b"e")[0] == below
    assert held(store, below, b"f") == [b"1", None, b"1"]


def test_purging_while_it_is_written_keeps_what_is_written(store: Store, bucket: Ino) -> None:
    """Whoever has the file open did not unlink it."""
    ino = save(store, bucket, b"f", b"1")
    save(store, bucket, b"f", b"2")
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"new")
    key = store.history.past(bucket, b"f").keys[0]
    for seq, _ in list(store.history.versions(key)):
        store.history.purge(key, seq, WRITER)
    store.files.flush(handle)
    store.files.release(handle)
    assert held(store, bucket, b"f") == [b"new"]
    assert store.tree.lookup(bucket, b"f")[0] == ino


def test_purged_content_does_not_come_back_by_another_name(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"secret")
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"public")
    reader = store.files.open(ino, WRITER)
    store.files.flush(reader)
    store.files.release(reader)
    key = store.history.past(bucket, b"f").keys[0]
    current = store.history.current(key)
    assert current is not None
    store.history.purge(key, current, WRITER)
    store.tree.link(ino, bucket, b"g", WRITER)
    store.tree.rename(bucket, b"f", bucket, b"h", WRITER)
    store.files.release(handle)
    for name in (b"g", b"h"):
        assert b"secret" not in held(store, bucket, name)


def test_purging_down_to_a_symlink_while_a_file_is_written(store: Store, bucket: Ino) -> None:
    store.tree.symlink(bucket, b"f", b"target", 0, WRITER)
    save(store, bucket, b"g", b"regular")
    store.tree.rename(bucket, b"g", bucket, b"f", WRITER)
    ino = store.tree.lookup(bucket, b"f")[0]
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"new")
    key = store.history.past(bucket, b"f").keys[0]
    current = store.history.current(key)
    assert current is not None
    store.history.purge(key, current, WRITER)
    assert store.core.catalog.inode(ino).seq == 0, "nothing that is published is current"
