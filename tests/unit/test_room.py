"""Room set aside: what is accepted can be removed on the fullest disk, and who may use the room for that."""

from __future__ import annotations

import errno
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.comparison import audit
from tests.simdisk import SimDisk
from tests.unit.test_catalog import WRITER, open_store, save
from vfs import gc, journal, room
from vfs.catalog import Catalog
from vfs.disk import Buffer
from vfs.errors import NoSpace
from vfs.events import Event
from vfs.model import EMPTY, NO_INFO, BlockId, Ino, KeyId, Kind, Seq, State
from vfs.room import Use, removal_bytes, use_of
from vfs.store import Store

S3 = WRITER


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "store")
    yield opened
    opened.abandon()


@pytest.fixture
def bucket(store: Store) -> Ino:
    return store.create_bucket(b"bucket", uid=0, gid=0)


def uses(store: Store, action: Callable[[], object]) -> list[tuple[str, Use]]:
    """What each event of *action* is."""
    found = []
    taken = store.core.room.take

    def take(event: Event, size: int) -> None:
        found.append((event.operation, use_of(event, store.core.catalog)))
        taken(event, size)

    store.core.room.take = take  # type: ignore[method-assign]
    try:
        action()
    finally:
        store.core.room.take = taken  # type: ignore[method-assign]
    return found


def newest(store: Store, bucket: Ino, name: bytes) -> tuple[KeyId, Seq]:
    key = store.core.catalog.key(bucket, name)
    assert key is not None
    return key, next(store.core.catalog.versions(key))[0]


def test_what_removes_is_never_refused_and_what_adds_is(store: Store, bucket: Ino) -> None:
    tree, objects = store.tree, store.objects
    folder, _ = tree.mkdir(bucket, b"folder", 0o755, 0, WRITER)
    for name in (b"a", b"b", b"c", b"d", b"e"):
        save(store, bucket, name, b"1")
    assert uses(store, lambda: save(store, bucket, b"new", b"1")) == [
        ("create", Use.ADDS),
        ("draft", Use.ADDS),
        ("publish", Use.FREES),  # which a close promised
    ]
    ino = tree.find(bucket, b"a")
    assert ino is not None
    for action, use in (
        (lambda: tree.mkdir(bucket, b"more", 0o755, 0, WRITER), Use.ADDS),
        (lambda: tree.link(ino, bucket, b"link", WRITER), Use.ADDS),
        (lambda: tree.set_attribute(ino, b"user.a", b"1"), Use.ADDS),
        (lambda: tree.set_attributes(ino, mode=0o600), Use.CHANGES),
        (lambda: tree.remove_attribute(ino, b"user.a"), Use.FREES),
        (lambda: tree.rename(bucket, b"b", folder, b"b", WRITER), Use.CHANGES),
        (lambda: tree.rename(bucket, b"c", bucket, b"d", WRITER), Use.FREES),
        (lambda: tree.exchange(bucket, b"d", bucket, b"e", WRITER), Use.CHANGES),
        (lambda: tree.unlink(bucket, b"link", WRITER), Use.FREES),
        (lambda: tree.unlink(bucket, b"e", WRITER), Use.FREES),
        (lambda: store.history.purge(*newest(store, bucket, b"e"), WRITER), Use.FREES),  # undeletes
        (lambda: store.history.purge(*newest(store, bucket, b"e"), WRITER), Use.FREES),
        (lambda: tree.rmdir(bucket, b"more", WRITER), Use.FREES),
        (lambda: objects.delete(bucket, b"d", S3), Use.FREES),
        (lambda: objects.delete(bucket, b"d", S3), Use.ADDS),  # one more marker
        (lambda: objects.delete(bucket, b"never/was", S3), Use.ADDS),
        (lambda: objects.put(bucket, b"x/y", EMPTY, NO_INFO, S3), Use.ADDS),
        (lambda: objects.delete(bucket, b"x/y", S3), Use.FREES),  # and the directory that the key had made
        (lambda: store.set_versioning(bucket, State.SUSPENDED), Use.CHANGES),
        (lambda: objects.delete(bucket, b"x/y", S3), Use.ADDS),
        (lambda: objects.delete(bucket, b"x/y", S3), Use.ADDS),  # a null marker in place of a null marker
        (lambda: store.core.commit("checkpoint", []), Use.FREES),
    ):
        found = uses(store, action)
        assert [one for _, one in found] == [use], found


@pytest.mark.parametrize("state", [State.UNVERSIONED, State.ENABLED])
def test_a_put_over_something_is_never_what_only_removes(store: Store, state: State) -> None:
    """Though it replaces a version, and the file that stood there goes."""
    bucket = store.create_bucket(b"other", uid=0, gid=0, state=state)
    for number in range(3):
        found = uses(store, lambda: store.objects.put(bucket, b"key", EMPTY, NO_INFO, S3))
        assert [one for _, one in found] == [Use.CHANGES if number else Use.ADDS]
    ino = store.tree.find(bucket, b"key")
    assert ino is not None
    store.tree.set_attribute(ino, b"user.a", b"1")
    found = uses(store, lambda: store.objects.put(bucket, b"key", EMPTY, NO_INFO, S3))
    assert [one for _, one in found] == [Use.CHANGES]


def test_restoring_adds_nothing(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"name", b"1")
    _, seq = newest(store, bucket, b"name")
    save(store, bucket, b"name", b"2")
    found = uses(store, lambda: store.history.restore(seq, bucket, b"name", WRITER))
    assert {use for _, use in found} == {Use.CHANGES}


def test_a_draft_has_the_room_to_be_published_under_every_name(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"name", b"1")
    for number in range(50):
        store.tree.link(ino, bucket, b"link-%d" % number, WRITER)
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"2")
    before = removal_bytes(store.core.catalog)
    store.files.flush(handle)
    written = store.core.journal.end.offset
    assert removal_bytes(store.core.catalog) >= before + 51 * room.DRAFT_BYTES
    store.files.release(handle)
    assert store.core.journal.end.offset - written <= 51 * room.DRAFT_BYTES


def test_an_upload_has_the_room_to_be_given_up(store: Store, bucket: Ino) -> None:
    before = removal_bytes(store.core.catalog)
    uploads = [store.uploads.create(bucket, b"key", NO_INFO) for _ in range(100)]
    needed, written = removal_bytes(store.core.catalog) - before, store.core.journal.end.offset
    for upload in uploads:
        store.uploads.abort(bucket, b"key", upload)
        store.core.commit("checkpoint", [])
    assert store.core.journal.end.offset - written <= needed


def until_full(action: Callable[[int], object]) -> int:
    """How often it succeeds before the disk is full."""
    for number in range(100_000):
        try:
            action(number)
        except NoSpace:
            return number
    raise AssertionError("the disk is never full")


class Zoo:
    """A store with something of everything, at its edges."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self.store, self.rng = store, rng
        self.bucket = store.create_bucket(b"bucket", uid=0, gid=0)
        self.folders = [self.bucket]
        self.names: list[tuple[Ino, bytes]] = []
        self.handles = []  # type: ignore[var-annotated]
        for number in range(60):
            self.make(number)

    def make(self, number: int) -> None:
        store, tree, rng = self.store, self.store.tree, self.rng
        place = rng.choice(self.folders)
        name = b"%d-" % number + b"n" * rng.choice((0, 10, 240))
        match rng.choice(("file", "file", "file", "folder", "symlink", "attributes", "link", "open", "versions")):
            case "folder":
                self.folders.append(tree.mkdir(place, name, 0o755, 0, WRITER)[0])
            case "symlink":
                tree.symlink(place, name, b"t" * rng.choice((1, 4000)), 0, WRITER)
                self.names.append((place, name))
            case kind:
                ino = save(store, place, name, rng.randbytes(rng.choice((0, 5, 300))))
                self.names.append((place, name))
                if kind == "attributes":
                    for one in range(rng.randrange(1, 4)):
                        tree.set_attribute(ino, b"user.%d" % one, rng.randbytes(rng.choice((1, 3000, 60_000))))
                elif kind == "link":
                    for one in range(rng.randrange(3)):
                        tree.set_attribute(ino, b"user.%d" % one, rng.randbytes(rng.choice((1, 3000, 20_000))))
                    for one in range(rng.randrange(1, 20)):
                        tree.link(ino, place, name[:200] + b"-link-%d" % one, WRITER)
                        self.names.append((place, name[:200] + b"-link-%d" % one))
                elif kind == "open":
                    self.handles.append(store.files.open(ino, WRITER))
                elif kind == "versions":
                    for one in range(rng.randrange(1, 20)):
                        save(store, place, name, b"%d" % one)

    def delete_all(self) -> None:
        self.rng.shuffle(self.names)
        for place, name in self.names:
            self.store.tree.unlink(place, name, WRITER)
        for handle in self.handles:
            self.store.files.release(handle)
        for folder in reversed(self.folders[1:]):
            where = self.store.core.catalog.key_name(self.store.core.catalog.inode(folder).key)
            self.store.tree.rmdir(where.parent, where.name.removesuffix(b"/"), WRITER)

    def purge_all(self, order: str) -> None:
        catalog = self.store.core.catalog
        keys = [KeyId(int.from_bytes(raw, "big")) for raw, _ in catalog.rows("key_names")]
        self.rng.shuffle(keys)
        for key in keys:
            chain = [(seq, one) for seq, one in catalog.versions(key) if one.kind in (Kind.CONTENT, Kind.MARKER)]
            for seq, _ in reversed(chain) if order == "oldest" else chain:
                self.store.history.purge(key, seq, WRITER)


def journal_bytes(store: Store) -> int:
    return store.core.journal.size()


@settings(max_examples=25)
@given(st.integers(0, 1 << 32), st.sampled_from(("oldest", "newest")))
def test_removing_everything_takes_no_more_than_was_set_aside(
    tmp_path_factory: pytest.TempPathFactory, seed: int, order: str
) -> None:
    store = open_store(tmp_path_factory.mktemp("room") / "store")
    try:
        zoo = Zoo(store, random.Random(seed))
        needed, before = removal_bytes(store.core.catalog), journal_bytes(store)
        assert store.core.journal.room >= needed
        zoo.delete_all()
        assert journal_bytes(store) - before <= needed
        zoo.purge_all(order)
        assert journal_bytes(store) - before <= needed
    finally:
        store.abandon()


def test_each_delete_of_an_open_file_may_be_followed_by_a_mark(store: Store, bucket: Ino) -> None:
    """A checkpoint writes one, and there may be a checkpoint after each event."""
    handles = [store.files.open(save(store, bucket, b"%d" % number, b""), WRITER) for number in range(300)]
    needed, before = removal_bytes(store.core.catalog), journal_bytes(store)
    for number, handle in enumerate(handles):
        store.tree.unlink(bucket, b"%d" % number, WRITER)
        store.core.commit("checkpoint", [])
        store.files.release(handle)
        store.core.commit("checkpoint", [])
    for raw, _ in list(store.core.catalog.rows("key_names")):
        key = KeyId(int.from_bytes(raw, "big"))
        for _ in range(2):
            store.history.purge(key, next(store.core.catalog.versions(key))[0], WRITER)
            store.core.commit("checkpoint", [])
    assert journal_bytes(store) - before <= needed


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("seed", range(6))
def test_a_full_disk_lets_everything_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, order: str) -> None:
    """A disk without a byte left but what was set aside."""
    monkeypatch.setattr(journal, "ROOM_STEP_BYTES", 16 << 10)
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 256 << 10)
    monkeypatch.setattr(room, "CHANGES_BYTES", 64 << 10)
    monkeypatch.setattr(room, "GRANT_BYTES", 4 << 10)
    disk = SimDisk()
    store = open_store(tmp_path / "store", disk)
    zoo = Zoo(store, random.Random(seed))
    disk.capacity = disk.used
    until_full(lambda number: save(store, zoo.bucket, b"full-%d" % number, b""))
    for name, _ in store.core.catalog.entries(zoo.bucket):
        if name.startswith(b"full-"):
            zoo.names.append((zoo.bucket, name))
    zoo.delete_all()
    store.checkpoint()
    store.abandon()
    disk = disk.kill()
    store = zoo.store = open_store(tmp_path / "store", disk)
    zoo.purge_all(order)
    with pytest.raises(NoSpace):
        save(store, zoo.bucket, b"new", b"x" * 200_000)
    audit(store)
    disk.capacity += 1 << 20
    gc.run(store)
    save(store, zoo.bucket, b"new", b"x")
    audit(store)
    store.close()


def test_changes_that_add_nothing_end_before_the_room_of_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ROOM_STEP_BYTES", 16 << 10)
    monkeypatch.setattr(room, "CHANGES_BYTES", 64 << 10)
    monkeypatch.setattr(room, "GRANT_BYTES", 4 << 10)
    disk = SimDisk()
    store = open_store(tmp_path / "store", disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    for number in range(200):
        save(store, bucket, b"name-%d" % number, b"%d" % number)
    disk.capacity = disk.used
    names = (b"name-0", b"other")
    assert until_full(lambda at: store.tree.rename(bucket, names[at % 2], bucket, names[1 - at % 2], WRITER)) > 100
    with pytest.raises(NoSpace):
        store.tree.set_attributes(store.tree.find(bucket, b"name-1") or Ino(0), mode=stat.S_IRUSR)
    for name in [name for name, _ in store.core.catalog.entries(bucket)]:
        store.tree.unlink(bucket, name, WRITER)
    zoo = Zoo.__new__(Zoo)
    zoo.store, zoo.rng = store, random.Random(1)
    zoo.purge_all("newest")
    audit(store)
    store.abandon()


def test_a_block_is_refused_before_the_pages_of_the_catalog_run_out(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = save(store, bucket, b"name", b"1")
    monkeypatch.setattr("vfs.pages.set_aside", lambda *_: False)
    monkeypatch.setattr(Catalog, "find_room", lambda _: False)
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"x")
    with pytest.raises(NoSpace):
        store.files.flush(handle)
    assert store.is_short
    monkeypatch.undo()
    store.files.write(handle, 0, b"x" * 200_000)
    store.files.flush(handle)
    store.files.release(handle)
    assert not store.is_short
    audit(store)


def test_where_pages_are_short_nothing_is_added_though_the_journal_has_room(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, bucket, b"name", b"1")
    monkeypatch.setattr(Catalog, "is_short", True)
    monkeypatch.setattr(Catalog, "find_room", lambda _: False)
    with pytest.raises(NoSpace):
        store.tree.mkdir(bucket, b"d", 0o755, 0, WRITER)
    store.tree.unlink(bucket, b"name", WRITER)


def test_one_file_that_finds_no_room_at_the_end_takes_no_other_with_it(
    tmp_path: Path, store: Store, bucket: Ino, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.path
    names = (b"a", b"b", b"c")
    for name in names:
        ino = save(store, bucket, name, b"before")
        store.files.write(store.files.open(ino, WRITER), 0, name * 3)
    stored = store.core.blocks.append

    def append(block: BlockId, data: Buffer, **what: Any) -> None:
        if bytes(data).startswith(b"b"):
            raise NoSpace("simulated")
        stored(block, data, **what)

    store.core.blocks.append = append  # type: ignore[method-assign]
    store.close()
    assert "is kept as it last became safe" in caplog.text
    again = open_store(path)
    for name in names:
        ino = again.tree.lookup(bucket, name)[0]
        handle = again.files.open(ino, WRITER)
        assert again.files.read(handle, 0, 10) == (b"before" if name == b"b" else name * 3 + b"ore")
        again.files.release(handle)
    assert again.events_since_checkpoint <= 1
    again.abandon()


def test_a_full_disk_tells_nobody_who_holds_the_store(
    tmp_path: Path, bucket: Ino, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On btrfs not even the length of a file can be changed."""
    store.close()
    for call in ("pwrite", "ftruncate"):
        with monkeypatch.context() as patch:
            patch.setattr(f"vfs.holding.os.{call}", refuse)
            again = open_store(store.path)
            again.tell_use("/somewhere", ["--s3=9000"])
            assert again.is_bucket(bucket)
            again.abandon()


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "simulated")
