"""What an operation costs does not depend on how much there is: rows of the catalog that are read and written, counted.

Never timed. `scripts/scale` measures times, on stores that `scripts/fill` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from vfs import store as store_module
from vfs.catalog import Catalog
from vfs.fuse import snapshots
from vfs.fuse.callers import Caller
from vfs.fuse.nodes import Node, number
from vfs.fuse.past import LOG_START, PastTree
from vfs.fuse.snapshots import MoreLater, Snapshots
from vfs.model import Ino, Seq, Writer
from vfs.names import format_version_id
from vfs.store import Store

WRITER = Writer(0, 1, "test")
FEW, MANY = 12, 700
START_NS = 1_800_000_000_000_000_000


def open_store(path: Path) -> Store:
    ticks = count(START_NS, 1_000_000)
    return Store.open(path, clock=lambda: next(ticks))


def save(store: Store, directory: Ino, name: bytes) -> None:
    found = store.tree.find(directory, name)
    ino = store.tree.create(directory, name, 0o644, 0, WRITER)[0] if found is None else found
    handle = store.files.open(ino, WRITER, truncate=found is not None, created=found is None)
    store.files.write(handle, 0, b"%d" % store.core.catalog.last_seq)
    store.files.flush(handle)
    store.files.release(handle)


def fill(path: Path, size: int) -> tuple[Store, Ino]:
    """A bucket with so many files, so many deleted ones, and so many versions of one."""
    store = open_store(path)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    for index in range(size):
        save(store, bucket, b"file-%04d" % index)
        save(store, bucket, b"deep")
        save(store, bucket, b"gone-%04d" % index)
        store.tree.unlink(bucket, b"gone-%04d" % index, WRITER)
    return store, bucket


class Work:
    """Counts what the catalog asks LMDB for."""

    def __init__(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        for name in ("_get", "_put", "_delete"):
            monkeypatch.setattr(catalog, name, self._counting(getattr(catalog, name)))
        scan = catalog._scan

        def counting_scan(*arguments: Any) -> Iterator[tuple[bytes, bytes]]:
            self.calls += 1
            for row in scan(*arguments):
                self.calls += 1
                yield row

        monkeypatch.setattr(catalog, "_scan", counting_scan)

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            return call(*arguments, **options)

        return counted


def a_moment(store: Store, bucket: Ino) -> Seq:
    """That of the tenth version of the deep file."""
    key = store.core.catalog.key(bucket, b"deep")
    assert key is not None
    return list(store.history.versions(key))[-10][0]


def operations(store: Store, bucket: Ino) -> dict[str, Callable[[], object]]:
    tree, history, catalog = store.tree, store.history, store.core.catalog
    deep = catalog.key(bucket, b"deep")
    assert deep is not None
    moment = a_moment(store, bucket)
    past = PastTree(store)
    root = Caller.__new__(Caller)
    root.uid = 0
    return {
        "lookup": lambda: tree.lookup(bucket, b"file-0005"),
        "overwrite": lambda: save(store, bucket, b"deep"),
        "create": lambda: save(store, bucket, b"new"),
        "rename": lambda: tree.rename(bucket, b"new", bucket, b"newer", WRITER),
        "rename over": lambda: tree.rename(bucket, b"newer", bucket, b"deep", WRITER),
        "unlink": lambda: tree.unlink(bucket, b"file-0003", WRITER),
        "mkdir": lambda: tree.mkdir(bucket, b"directory", 0o755, 0, WRITER),
        "rename of a directory": lambda: tree.rename(bucket, b"directory", bucket, b"other", WRITER),
        "rmdir": lambda: tree.rmdir(bucket, b"other", WRITER),
        "some entries": lambda: list(islice(tree.entries(bucket, b"file-0004"), 5)),
        "some names with history": lambda: list(islice(history.names(bucket, b"file-0004"), 5)),
        "a version by its id": lambda: history.version(deep, format_version_id(moment)),
        "as it was": lambda: history.lookup_at(bucket, b"deep", moment),
        "some versions": lambda: list(islice(history.versions(deep, moment), 5)),
        "stat of a version": lambda: past.stat(number(Node.VERSION, moment)),
        "the beginning of a log": lambda: past.read_log(deep, LOG_START._replace(before=moment), root),
        "restore": lambda: history.restore(moment, bucket, b"deep", WRITER),
        "purge": lambda: history.purge(deep, moment, WRITER),
        "figures": store.figures,
    }


def test_no_operation_works_more_in_a_larger_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, int]] = []
    for size in (FEW, MANY):
        store, bucket = fill(tmp_path / str(size), size)
        try:
            wanted = operations(store, bucket)
            store.checkpoint()
            for kept in ("_inode_cache", "_entry_cache", "_key_cache"):
                getattr(store.core.catalog, kept).clear()
            work = Work(store.core.catalog, monkeypatch)
            calls = {}
            for name, operation in wanted.items():
                before = work.calls
                operation()
                calls[name] = work.calls - before
            found.append(calls)
        finally:
            store.abandon()
    few, many = found
    assert many == few


def test_what_small_operations_ask_lmdb_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that were made just now: names that are known are not read, rows are written once."""
    store, bucket = fill(tmp_path, FEW)
    try:
        wanted: dict[str, Callable[[], object]] = {
            "create": lambda: save(store, bucket, b"new"),
            "overwrite": lambda: save(store, bucket, b"new"),
            "lookup": lambda: store.tree.lookup(bucket, b"new"),
            "rename": lambda: store.tree.rename(bucket, b"new", bucket, b"newer", WRITER),
            "unlink": lambda: store.tree.unlink(bucket, b"newer", WRITER),
            "mkdir": lambda: store.tree.mkdir(bucket, b"directory", 0o755, 0, WRITER),
        }
        work = Work(store.core.catalog, monkeypatch)
        calls = {}
        for name, operation in wanted.items():
            before = work.calls
            operation()
            calls[name] = work.calls - before
    finally:
        store.abandon()
    assert calls == {"create": 11, "overwrite": 5, "lookup": 0, "rename": 11, "unlink": 4, "mkdir": 8}


def test_opening_a_larger_store_reads_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    for size in (FEW, MANY):
        fill(tmp_path / str(size), size)[0].close()
        counted = 0
        scan = Catalog._scan

        def counting(self: Catalog, *arguments: Any, scan: Any = scan) -> Iterator[tuple[bytes, bytes]]:
            nonlocal counted
            for row in scan(self, *arguments):
                counted += 1
                yield row

        with monkeypatch.context() as patched:
            patched.setattr(Catalog, "_scan", counting)
            open_store(tmp_path / str(size)).close()
        rows.append(counted)
    assert rows[0] == rows[1]


def test_a_moment_before_many_names_lets_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "NAMES_PER_TURN_MAX", 50)
    store, bucket = fill(tmp_path / "store", 100)
    try:
        past = Snapshots(store, lambda: START_NS * 2)
        moment = format_version_id(a_moment(store, bucket)).encode()
        node = past.lookup(Node.SNAPSHOTS, bucket, moment, Caller.__new__(Caller))
        names: list[bytes] = []
        cookie = turns = 0
        while True:
            try:
                for name, _, _ in past.list(node, cookie):
                    names.append(name)  # what came before MoreLater counts
                break
            except MoreLater as more:
                cookie = more.cookie
                turns += 1
    finally:
        store.abandon()
    assert names == [b"deep", *(b"file-%04d" % index for index in range(10))]
    assert turns == (200 - 10) // 50


def test_a_bucket_of_many_directories_goes(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    try:
        bucket = store.create_bucket(b"bucket", uid=0, gid=0)
        for index in range(300):
            made = store.tree.mkdir(bucket, b"%d" % index, 0o755, 0, WRITER)[0]
            store.tree.mkdir(made, b"below", 0o755, 0, WRITER)
            store.tree.rmdir(made, b"below", WRITER)
            store.tree.rmdir(bucket, b"%d" % index, WRITER)
        store.delete_bucket(b"bucket")
        left = {table: store.core.catalog.count(table) for table in ("keys", "key_names", "versions", "removed")}
    finally:
        store.abandon()
    assert set(left.values()) == {0}


def test_a_checkpoint_is_wanted_after_so_many_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "EVENTS_PER_CHECKPOINT_MAX", 10)
    store = open_store(tmp_path / "store")
    try:
        bucket = store.create_bucket(b"bucket", uid=0, gid=0)
        store.checkpoint()
        while store.events_since_checkpoint < 10:
            assert not store.wants_checkpoint
            save(store, bucket, b"file")
        assert store.wants_checkpoint
        store.checkpoint()
        assert not store.wants_checkpoint
    finally:
        store.abandon()
