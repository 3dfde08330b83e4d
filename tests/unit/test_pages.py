"""The pages of LMDB's file: no commit takes more than the bound, and what does not fit is committed in portions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.comparison import audit
from tests.unit.test_catalog import WRITER, open_store, save
from vfs import blocks, content
from vfs.catalog import ENGINE, LATER_TABLES, Catalog
from vfs.errors import NoSpace
from vfs.model import EMPTY, Ino, KeyId, Kind, ObjectInfo
from vfs.pages import Pages, read_meta
from vfs.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "store")
    yield opened
    opened.abandon()


def pages_of(store: Store) -> Pages:
    pages = store.core.catalog._pages
    assert pages is not None
    return pages


class Batches:
    """Many changes of one kind at random places, as often as asked."""

    def __init__(self, store: Store, rng: random.Random) -> None:
        self._store, self._rng = store, rng
        self._bucket = store.create_bucket(b"bucket", uid=0, gid=0)
        self._folders = [store.tree.mkdir(self._bucket, b"folder-%d" % at, 0o755, 0, WRITER)[0] for at in range(5)]
        self._files: list[tuple[Ino, bytes]] = []
        self._count = 0

    def create(self) -> None:
        self._count += 1
        name = b"%d-" % self._count + bytes(self._rng.randint(97, 122) for _ in range(self._rng.choice((3, 20, 200))))
        place = self._rng.choice(self._folders)
        save(self._store, place, name, self._rng.randbytes(self._rng.choice((1, 100, 2000))))
        self._files.append((place, name))

    def overwrite(self) -> None:
        save(self._store, *self._any(), self._rng.randbytes(self._rng.choice((1, 100, 2000))))

    def rename(self) -> None:
        place, name = self._files.pop(self._rng.randrange(len(self._files)))
        target = self._rng.choice(self._folders)
        self._store.tree.rename(place, name, target, name + b"+"[: len(name) < 250], WRITER)
        self._files.append((target, name + b"+"[: len(name) < 250]))

    def attribute(self) -> None:
        ino = self._store.tree.find(*self._any())
        assert ino is not None
        name = self._rng.choice((b"user.a", b"user.b"))
        self._store.tree.set_attribute(ino, name, self._rng.randbytes(self._rng.choice((1, 500, 9000))))

    def unlink(self) -> None:
        place, name = self._files.pop(self._rng.randrange(len(self._files)))
        self._store.tree.unlink(place, name, WRITER)

    def purge(self) -> None:
        catalog = self._store.core.catalog
        last = catalog.last_seq
        found = next(catalog._scan(catalog._times, b"", (last - self._rng.randrange(10**7)).to_bytes(8, "big")), None)
        if found is None:
            return
        key = KeyId(int.from_bytes(found[1], "big"))
        for seq, version in list(catalog.versions(key)):
            if version.kind in (Kind.CONTENT, Kind.MARKER):
                self._store.history.purge(key, seq, WRITER)
        self._files = [file for file in self._files if self._store.tree.find(*file) is not None]

    def _any(self) -> tuple[Ino, bytes]:
        return self._rng.choice(self._files)


def commit(store: Store) -> tuple[int, int]:
    """The bound before a commit, and how many pages it took."""
    pages, catalog = pages_of(store), store.core.catalog
    catalog._add_references()
    catalog._write_changed()
    bound, out, freed = pages.bound(), pages._out, pages.freed
    store.checkpoint()
    return bound, pages._out - out + freed


kinds = st.sampled_from(("create", "overwrite", "rename", "attribute", "unlink", "purge"))


@settings(max_examples=15)
@given(st.integers(0, 1 << 32), st.lists(st.tuples(kinds, st.integers(1, 120)), min_size=5, max_size=12))
def test_no_commit_takes_more_pages_than_the_bound(
    tmp_path_factory: pytest.TempPathFactory, seed: int, batches: list[tuple[str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "BLOCK_BYTES", 64)  # so that there are trees
        patch.setattr(blocks, "BLOCK_BYTES", 64)
        store = open_store(tmp_path_factory.mktemp("pages") / "store")
        made = Batches(store, random.Random(seed))
        try:
            for kind, number in [("create", 300), *batches, ("create", 100), ("unlink", 50), ("purge", 50)]:
                for _ in range(number):
                    if kind == "create" or made._files:
                        getattr(made, kind)()
                bound, taken = commit(store)
                assert 0 < taken <= bound, kind
        finally:
            store.abandon()


def test_a_bound_counts_what_a_change_of_one_row_takes_along(store: Store) -> None:
    """The purge of a large file changes the references of all its blocks."""
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    ino = save(store, bucket, b"large", b"")
    handle = store.files.open(ino, WRITER)
    for number in range(300):
        store.files.write(handle, number * content.BLOCK_BYTES, b"%d" % number)
    store.files.flush(handle)
    store.files.release(handle)
    store.checkpoint()
    before = pages_of(store).bound()
    key = store.core.catalog.key(bucket, b"large")
    assert key is not None
    for seq, _ in list(store.core.catalog.versions(key)):
        store.history.purge(key, seq, WRITER)
    assert pages_of(store).rows >= 300
    assert pages_of(store).bound() > before


def test_what_lmdb_says_adds_up(store: Store) -> None:
    """Every page of the file is in use, or free; of the free ones the last commit's are known exactly."""
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    for number in range(500):
        save(store, bucket, b"name-%d" % number, b"%d" % number)
    store.checkpoint()
    pages = pages_of(store)
    with store.core.catalog.open_file() as file:
        meta = read_meta(file.fileno())
    assert meta is not None
    assert meta.pages == store.core.catalog._env.info()["last_pgno"] + 1
    assert meta.transaction == store.core.catalog._env.info()["last_txnid"]
    assert pages._use.pages + meta.own + pages._free == meta.pages
    assert 0 < pages.freed <= pages._free
    store.core.catalog._commit_again()
    assert 0 < pages.freed < 20, "what an empty commit replaces"
    assert pages._use.pages + meta.own <= pages._out


class Narrow:
    """Commits that need more than so many rows find no room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        self.rows, self.refused, self.committed = rows, 0, 0
        write = Catalog._write_changed

        def write_if_room(catalog: Catalog) -> None:
            pages = catalog._pages
            assert pages is not None
            if pages.rows + catalog._kept_rows() > self.rows:
                self.refused += 1
                raise lmdb.DiskError("simulated: No space left on device")
            write(catalog)

        commit = Catalog.commit

        def commit_if_room(catalog: Catalog, *positions: object) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(Catalog, "_write_changed", write_if_room)
                commit(catalog, *positions)  # type: ignore[arg-type]
            self.committed += 1

        monkeypatch.setattr(Catalog, "commit", commit_if_room)


@pytest.mark.parametrize("rows", [4000, 300, 60])
def test_what_finds_no_room_is_committed_in_portions(store: Store, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    store.checkpoint()
    narrow = Narrow(monkeypatch, rows)
    for number in range(1000):
        save(store, bucket, b"name-%d" % number, b"%d" % number)
        if number % 3 == 0:
            store.tree.unlink(bucket, b"name-%d" % number, WRITER)
    store.checkpoint()
    assert narrow.refused
    assert narrow.committed > 2
    assert store.events_since_checkpoint <= 1
    audit(store)


def test_opening_and_closing_need_no_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"name", b"content")
    store.checkpoint()
    with monkeypatch.context() as patch:
        narrow = Narrow(patch, 0)
        store.tree.unlink(bucket, b"name", WRITER)
        open_file = store.tree.create(bucket, b"open", 0o644, 0, WRITER)[0]
        handle = store.files.open(open_file, WRITER, created=True)
        store.files.write(handle, 0, b"draft")
        store.files.flush(handle)
        with pytest.raises(NoSpace):
            store.checkpoint()
        store.abandon()
        for _ in range(2):
            again = open_store(store.path)
            assert again.tree.find(bucket, b"name") is None
            ino = again.tree.find(bucket, b"open")
            assert ino is not None
            assert again.core.catalog.inode(ino).content != EMPTY, "published in memory and journal"
            again.close()
        assert narrow.refused
    assert "nothing is lost" in caplog.text
    last = open_store(store.path)
    assert last.events_since_checkpoint <= 1
    audit(last)
    last.abandon()


def test_a_store_of_an_earlier_vfs_opens_without_a_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it lacks tables: they are made by the first commit, and again if that fails."""
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"name", b"content")
    store.close()
    with lmdb.open(str(store.path / "catalog"), max_dbs=30, lock=False, map_size=1 << 30, lib_version=ENGINE) as env:
        for name in LATER_TABLES:
            table = env.open_db(name.encode())
            with env.begin(write=True) as txn:
                txn.drop(table)
        before = env.info()["last_txnid"]
    with monkeypatch.context() as patch:
        Narrow(patch, -1)
        again = open_store(store.path)
        assert again.core.catalog._env.info()["last_txnid"] == before
        again.objects.put(bucket, b"object", EMPTY, ObjectInfo(metadata={"a": "b"}), WRITER)
        with pytest.raises(NoSpace):
            again.checkpoint()
        assert again.objects.current(bucket, b"object").info.metadata == {"a": "b"}
    again.checkpoint()
    audit(again)
    again.close()
    last = open_store(store.path)
    assert last.objects.current(bucket, b"object").info.metadata == {"a": "b"}
    last.abandon()


def test_the_room_is_looked_at_before_it_is_used_up(store: Store) -> None:
    """However much comes with one event."""
    pages = pages_of(store)
    before = pages.room - pages.bound()
    pages.changed(0, 0, 16 << 20)
    assert pages.room >= pages.bound() + pages._use.kept
    assert before > 0
