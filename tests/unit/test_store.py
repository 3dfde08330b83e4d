"""The store as a whole: what lies in its directory, and counters that never overflow."""

from __future__ import annotations

import logging
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.model.comparison import audit
from tests.simdisk import SimDisk
from tests.unit.test_catalog import open_store, purge_all, save
from vfs.check import check
from vfs.errors import BucketNotEmpty, NoSuchBucket, NotAStore
from vfs.model import NOBODY, Ino, ObjectInfo
from vfs.store import FORMATS, Store


def test_that_a_store_is_made_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where its disk is not mounted, nothing else tells why everything is gone."""
    caplog.set_level(logging.INFO)
    for _ in range(2):
        Store.open(tmp_path / "new").close()
    told = [record.message for record in caplog.records if record.name == "vfs.store"]
    assert told == [f"made a new store in {tmp_path}/new"]


def test_only_the_owner_may_enter(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    for path in (tmp_path / "store", *(tmp_path / "store").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, f"{path}: a directory that its owner cannot search cannot be opened but by root"
        elif path.name not in ("store.toml",):
            assert mode == 0o600, path


def test_versions_of_more_than_64_bits_in_all(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    bucket = store.create_bucket(b"sparse", uid=0, gid=0)
    for name in (b"a", b"b", b"c", b"d"):
        ino, _ = store.tree.create(bucket, name, 0o644, 0, NOBODY)
        handle = store.files.open(ino, NOBODY, created=True)
        store.files.truncate(handle, (1 << 63) - 1)
        store.files.flush(handle)
        store.files.release(handle)
    store.checkpoint()
    assert store.bucket(bucket).size == 4 * ((1 << 63) - 1)
    assert store.figures()["VersionBytes"] == (1 << 63) - 1
    store.close()
    store = Store.open(tmp_path / "store")
    assert store.bucket(bucket).size == 4 * ((1 << 63) - 1)
    store.close()
    problems: list[object] = []
    check(tmp_path / "store", problems.append, lambda *_: None)
    assert problems == []


def test_events_made_stands_still_while_nothing_changes(tmp_path: Path) -> None:
    """Else a collection of garbage would always find that something had happened: its own checkpoint."""
    store = Store.open(tmp_path / "store")
    store.checkpoint()
    before = store.events_made
    store.create_bucket(b"bucket", uid=0, gid=0)
    changed = store.events_made
    assert changed == before + 1
    number = store.core.journal.end.number
    store.checkpoint()
    assert store.core.catalog.checkpoint.journal.number == number, "what came without any block is committed too"
    store.checkpoint()
    assert store.events_made == changed
    store.close()


def test_a_store_of_a_later_format_is_refused_and_one_of_an_earlier_gets_this_one(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    description = tmp_path / "store" / "store.toml"
    assert f"format = {FORMATS[-1]}\n" in description.read_text()
    description.write_text('format = 2\nengine = "lmdb-0.9"\n')
    Store.open(tmp_path / "store").close()
    assert description.read_text() == f'format = {FORMATS[-1]}\nengine = "lmdb-0.9"\n'
    description.write_text(f'format = {FORMATS[-1] + 1}\nengine = "lmdb-0.9"\n')
    with pytest.raises(NotAStore, match=f"formats 2 to {FORMATS[-1]}"):
        Store.open(tmp_path / "store")


@pytest.mark.parametrize("left", ["a file", "a directory", "a version", "a marker", "an open file"])
def test_a_bucket_that_has_anything_stays(store: Store, bucket: Ino, left: str) -> None:
    before = len(store.buckets())
    if left == "a directory":
        store.tree.mkdir(bucket, b"d", 0o755, 0, NOBODY)
    elif left == "an open file":
        store.tree.create(bucket, b"f", 0o644, 0, NOBODY)
    else:
        save(store, bucket, b"f", b"x")
    if left in ("a version", "a marker"):
        store.tree.unlink(bucket, b"f", NOBODY)
        key = store.core.catalog.key(bucket, b"f")
        assert key is not None
        if left == "a marker":
            store.history.purge(key, list(store.core.catalog.versions(key))[-1][0], NOBODY)
    end = store.core.journal.end
    with pytest.raises(BucketNotEmpty):
        store.delete_bucket(b"bucket")
    assert store.core.journal.end == end
    assert len(store.buckets()) == before
    with pytest.raises(NoSuchBucket):
        store.delete_bucket(b"absent")


def test_a_bucket_whose_history_was_purged_goes(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"x")
    store.tree.unlink(bucket, b"f", NOBODY)
    purge_all(store)
    store.delete_bucket(b"bucket")
    assert store.buckets() == []


NUMBERED: dict[str, Callable[[Store, Ino], object]] = {
    "create": lambda store, bucket: store.tree.create(bucket, b"n", 0o644, 0, NOBODY),
    "rename": lambda store, bucket: store.tree.rename(bucket, b"f", bucket, b"n", NOBODY),
    "rename of a directory": lambda store, bucket: store.tree.rename(bucket, b"d", bucket, b"n", NOBODY),
    "link": lambda store, bucket: store.tree.link(store.tree.lookup(bucket, b"f")[0], bucket, b"n", NOBODY),
    "delete of what never was": lambda store, bucket: store.objects.delete(bucket, b"n", NOBODY),
    "upload": lambda store, bucket: store.uploads.create(bucket, b"n", ObjectInfo()),
    "bucket": lambda store, bucket: store.create_bucket(b"another", uid=0, gid=0),
}


@pytest.mark.parametrize("what", NUMBERED)
@pytest.mark.parametrize("rebuilt", [False, True])
def test_no_number_is_given_twice_after_a_death(tmp_path: Path, what: str, rebuilt: bool) -> None:
    """Whatever was the last to be given one: inodes, keys and uploads share a counter, which no event tells."""
    disk = SimDisk()
    store = open_store(tmp_path / "store", disk)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    save(store, bucket, b"f", b"x")
    store.tree.mkdir(bucket, b"d", 0o755, 0, NOBODY)
    store.checkpoint()
    NUMBERED[what](store, bucket)
    given = numbers(store)
    store.abandon()
    if rebuilt:
        shutil.rmtree(tmp_path / "store/catalog")
    again = open_store(tmp_path / "store", disk.kill())
    assert again.core.new_id() > max(given)
    save(again, bucket, b"more", b"y")
    again.uploads.create(bucket, b"more", ObjectInfo())
    assert len(numbers(again)) >= len(given) + 3
    audit(again)
    again.close()


def numbers(store: Store) -> set[int]:
    """Of all inodes, keys and uploads; none is twice there."""
    catalog = store.core.catalog
    found = [
        *(ino for ino, _ in catalog.every_inode()),
        *(key for key, _ in catalog.every_key_name()),
        *(number for _, number, _ in catalog.every_upload()),
    ]
    assert len(set(found)) == len(found)
    return set(found)
