"""The catalog: references count to zero, a commit that fails loses nothing, a bucket leaves nothing behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.model.comparison import audit, tables
from tests.simdisk import SimDisk
from vfs import blocks, content
from vfs.content import WorkingCopy
from vfs.errors import Corrupt, NoSpace
from vfs.model import EMPTY, STORE_ROOT, BlockId, Ino, KeyId, Kind, State, Writer
from vfs.store import Store

WRITER = Writer(0, 1, "test")


def open_store(path: Path, disk: SimDisk | None = None) -> Store:
    ticks = count(1_800_000_000_000_000_000, 1_000_000)
    return Store.open(path, disk=disk, clock=lambda: next(ticks))


def save(store: Store, directory: Ino, name: bytes, data: bytes) -> Ino:
    found = store.tree.find(directory, name)
    ino = store.tree.create(directory, name, 0o644, 0, WRITER)[0] if found is None else found
    handle = store.files.open(ino, WRITER, truncate=found is not None, created=found is None)
    store.files.write(handle, 0, data)
    store.files.flush(handle)
    store.files.release(handle)
    return ino


def purge_all(store: Store) -> None:
    """Every version of every key, the oldest first, so that nothing becomes current."""
    for raw, _ in list(store.core.catalog.rows("key_names")):
        key = KeyId(int.from_bytes(raw, "big"))
        for seq, version in reversed(list(store.core.catalog.versions(key))):
            if version.kind in (Kind.CONTENT, Kind.MARKER):
                store.history.purge(key, seq, WRITER)


@pytest.mark.parametrize("state", State)
def test_after_purging_everything_nothing_is_referred_to(
    store: Store, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    for wanted in dict.fromkeys((State.ENABLED, state)):
        if wanted is not State.UNVERSIONED:
            store.set_versioning(bucket, wanted)
        directory = store.tree.lookup(bucket, b"d")[0] if wanted is not State.ENABLED else None
        directory = directory or store.tree.mkdir(bucket, b"d", 0o755, 0, WRITER)[0]
        for at in range(5):
            ino = save(store, directory, b"f", b"shared" * 100 + b"%d" % at)
        save(store, bucket, b"f~", b"shared" * 100)
        if store.tree.find(bucket, b"link") is None:
            store.tree.link(ino, bucket, b"link", WRITER)
        store.tree.unlink(directory, b"f", WRITER)
        store.tree.rename(bucket, b"link", directory, b"f", WRITER)
    audit(store)
    assert any(row.references > 1 for _, row in store.core.catalog.blocks())
    assert any(row.node for _, row in store.core.catalog.blocks())
    purge_all(store)
    audit(store)
    assert all(row.references == 0 for _, row in store.core.catalog.blocks())
    assert store.core.catalog.count("versions") == store.core.catalog.count("times")
    assert (store.bucket(bucket).versions, store.bucket(bucket).size) == (0, 0)


def test_contents_that_share_blocks_are_counted_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    same = bytes(range(64))
    save(store, bucket, b"twice", same * 2)
    save(store, bucket, b"once", same)
    row = store.core.catalog.block(blocks.identify(same))
    assert row is not None
    # "once": the file and its version; "twice": the two places in its node, which the file and its version share
    assert row.references == 2 + 2
    audit(store)


@pytest.mark.parametrize("state", State)
def test_a_deleted_bucket_leaves_nothing(store: Store, state: State) -> None:
    """Not even of the directories that were made, moved and removed in it."""
    before = {name: rows for name, rows in tables(store).items() if name not in ("inodes", "blocks", "segments")}
    bucket = store.create_bucket(b"bucket", uid=0, gid=0, state=State.UNVERSIONED)
    if state is not State.UNVERSIONED:
        store.set_versioning(bucket, State.ENABLED)
        store.set_versioning(bucket, state)
    for _ in range(2):
        directory, _ = store.tree.mkdir(bucket, b"d", 0o755, 0, WRITER)
        below, _ = store.tree.mkdir(directory, b"s", 0o755, 0, WRITER)
        store.tree.set_attribute(below, b"user.a", b"x")
        save(store, below, b"f", b"content")
        store.tree.rename(directory, b"s", directory, b"t", WRITER)
        store.tree.unlink(below, b"f", WRITER)
        store.tree.rmdir(directory, b"t", WRITER)
        store.tree.rmdir(bucket, b"d", WRITER)
        store.tree.mkdir(bucket, b"e", 0o755, 0, WRITER)
        store.tree.rename(bucket, b"e", bucket, b"d", WRITER)
        store.tree.rmdir(bucket, b"d", WRITER)
        audit(store)
    purge_all(store)
    store.delete_bucket(b"bucket")
    after = tables(store)
    assert {name: after[name] for name in before} == before
    assert [int.from_bytes(ino, "big") for ino, _ in after["inodes"]] == [STORE_ROOT]


def test_the_deepest_tree_can_be_removed_with_its_bucket(tmp_path: Path) -> None:
    """No recursion: the event is in the journal when it is applied, and must apply at every opening."""
    store = open_store(tmp_path / "store")
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    above = [bucket]
    for _ in range(1500):
        above.append(store.tree.mkdir(above[-1], b"d", 0o755, 0, WRITER)[0])
    save(store, above[-1], b"f", b"content")
    store.tree.unlink(above[-1], b"f", WRITER)
    for directory in reversed(above[:-1]):
        store.tree.rmdir(directory, b"d", WRITER)
    key = store.core.catalog.key(above[-1], b"f")
    assert key is not None
    marker = store.history.current(key)
    assert marker is not None
    store.history.purge(key, marker, WRITER)
    assert store.tree.lookup(above[-1], b"f"), "with all 1500 directories above"
    store.tree.unlink(above[-1], b"f", WRITER)
    for directory in reversed(above[:-1]):
        store.tree.rmdir(directory, b"d", WRITER)
    purge_all(store)
    store.delete_bucket(b"bucket")
    store.abandon()
    again = open_store(tmp_path / "store")
    assert again.buckets() == []
    assert again.core.catalog.count("inodes") == 1
    again.close()


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What the disk would say if it were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_commit_without_space_keeps_everything_and_can_be_tried_again(tmp_path: Path) -> None:
    disk = SimDisk()  # so that only the catalog meets the limit
    store = open_store(tmp_path / "store", disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    store.checkpoint()
    for at in range(300):
        save(store, bucket, b"%d" % at, b"content %d" % at)
    before = tables(store)
    size = (tmp_path / "store" / "catalog" / "data.mdb").stat().st_size
    with files_no_larger_than(size):
        with pytest.raises(NoSpace):
            store.checkpoint()
        assert tables(store) == before
        save(store, bucket, b"more", b"more")
        with pytest.raises(NoSpace):
            store.checkpoint()
        inode = store.tree.lookup(bucket, b"17")[1]
        assert WorkingCopy(store.core.blocks, inode.content).read(0, 100) == b"content 17"
    before = tables(store)
    store.checkpoint()
    assert store.core.catalog.checkpoint.journal.number > 900
    store.abandon()
    again = open_store(tmp_path / "store", disk.kill())
    assert again.recovered == 0
    assert tables(again) == before
    audit(again)
    again.close()


def test_a_lost_node_that_is_stored_again_counts_what_is_below(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage found while replaying; then somebody writes the same content."""
    monkeypatch.setattr(content, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)
    data = bytes(at % 251 for at in range(1000))
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"f", data)
    store.close()
    path = store.path / "blocks" / "00000001"
    root = root_of(data)
    raw = bytearray(path.read_bytes())
    raw[raw.index(root) + len(root)] ^= 1
    path.write_bytes(raw)
    for file in (store.path / "catalog").iterdir():
        file.unlink()
    again = open_store(store.path)
    bucket = again.find_bucket(b"bucket")
    inode = again.tree.lookup(bucket, b"f")[1]
    with pytest.raises(Corrupt):
        WorkingCopy(again.core.blocks, inode.content).read(0, 1000)
    save(again, bucket, b"g", data)
    assert WorkingCopy(again.core.blocks, inode.content).read(0, 1000) == data
    audit(again)
    again.abandon()


def root_of(data: bytes) -> BlockId:
    """The root of a content, computed beside the store."""

    class Index(dict[BlockId, blocks.Place]):
        def find_room(self) -> bool:
            return True

        def block_place(self, block: BlockId) -> blocks.Place | None:
            return self.get(block)

        def set_block_place(self, block: BlockId, place: blocks.Place, *, node: bool) -> None:
            self[block] = place

    copy = WorkingCopy(blocks.Blocks(SimDisk(), Index()), EMPTY)
    copy.write(0, data)
    return copy.seal().root


@pytest.mark.parametrize("state", [State.UNVERSIONED, State.SUSPENDED])
def test_a_null_version_that_went_is_no_longer_pointed_to(store: Store, state: State) -> None:
    """Else the next one would take it for what it replaces, and no event could be applied that says so."""
    bucket = store.create_bucket(b"bucket", uid=0, gid=0, state=State.UNVERSIONED)
    if state is State.SUSPENDED:
        store.set_versioning(bucket, State.ENABLED)
        save(store, bucket, b"f", b"kept")
        store.set_versioning(bucket, State.SUSPENDED)
    save(store, bucket, b"f", b"one")
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    null = store.core.catalog.null_version(key)
    assert null is not None
    if state is State.SUSPENDED:
        store.history.purge(key, null, WRITER)
        assert store.core.catalog.null_version(key) is None
        audit(store)
    for data in (b"two", b"three"):
        save(store, bucket, b"f", data)
        now = store.core.catalog.null_version(key)
        assert now is not None
        assert now > null
        null = now
    assert len(list(store.core.catalog.versions(key))) == (2 if state is State.SUSPENDED else 1)
    audit(store)


def test_of_directories_that_were_removed_at_a_name_the_last_one_is_first(store: Store) -> None:
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    made = []
    for uid in (1, 2, 3):
        writer = Writer(uid, 1, "test")
        directory = store.tree.mkdir(bucket, b"d", 0o700, 0, writer)[0]
        save(store, directory, b"f", b"%d" % uid)
        store.tree.unlink(directory, b"f", writer)
        store.tree.rmdir(bucket, b"d", writer)
        made.append(directory)
    key = store.core.catalog.key(bucket, b"d/")
    assert key is not None
    assert store.core.catalog.removed(key) == made[::-1]
    store.tree.mkdir(bucket, b"d", 0o700, 0, Writer(1, 1, "test"))
    store.tree.rmdir(bucket, b"d", Writer(1, 1, "test"))
    assert store.core.catalog.removed(key) == [made[0], made[2], made[1]]
    assert store.history.past(bucket, b"d").directories == [made[0], made[2], made[1]]
