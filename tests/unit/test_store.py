"""The store as a whole: what lies in its directory, and counters that never overflow."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vfs.check import check
from vfs.errors import NotAStore
from vfs.model import NOBODY
from vfs.store import FORMATS, Store


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
    store.checkpoint()
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
