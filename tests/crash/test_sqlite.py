"""SQLite's transactions and the loss of power: those whose COMMIT had returned are there, whole.

With `synchronous = FULL`, SQLite does not sync the directory after it has unlinked the journal of journal_mode DELETE,
which is what commits there (`EXTRA` does; https://sqlite.org/pragma.html#pragma_synchronous). So the last transaction
may be rolled back after a power loss, on any file system that may lose an unlink; not with ``durability = "close"``.
"""

from __future__ import annotations

import itertools
import random
import shutil
from functools import partial
from pathlib import Path

import lmdb
import pytest

from tests.crash.recorded import Replay, record
from tests.simdisk import SimDisk, nobody
from tests.syncing import sync
from tests.torture.transactions import count_transactions
from vfs import blocks, journal
from vfs.content import WorkingCopy
from vfs.model import Ino
from vfs.store import Store

TRANSACTIONS = 8
CHANCE = 0.2  # of each moment to be tried
MODES = [
    ("WAL", "FULL", False),
    ("TRUNCATE", "FULL", False),
    ("PERSIST", "FULL", False),
    ("DELETE", "FULL", False),
    ("DELETE", "FULL", True),
    ("DELETE", "EXTRA", False),
]


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", 100_000)
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 5_000)


@pytest.mark.parametrize("chance", [CHANCE, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("mode", "synchronous", "sync_each"), MODES)
def test_committed_transactions_survive_a_power_loss(
    tmp_path: Path, mode: str, synchronous: str, sync_each: bool, chance: float
) -> None:
    rng = random.Random(1)
    calls = record(tmp_path / "recorded", mode, synchronous, TRANSACTIONS)
    assert sum(call.call == "committed" for call in calls) == TRANSACTIONS
    assert count_transactions(str(tmp_path / "recorded/db")) == TRANSACTIONS
    ticks = itertools.count(1_700_000_000_000_000_000, 1_000_000)
    disk = SimDisk()
    store = Store.open(tmp_path / "store", disk=disk, clock=lambda: next(ticks))
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    store.checkpoint()
    replay = Replay(store, bucket, sync_each=sync_each)
    slack = 1 if mode == "DELETE" and synchronous == "FULL" and not sync_each else 0
    tried = 0

    def crash(call: str, path: str) -> None:
        nonlocal tried
        if rng.random() < chance:
            tried += 1
            committed = replay.committed
            found = after_power_loss(tmp_path, disk, rng)
            assert committed - slack <= found <= committed + 1, f"{call} {path}: {found}, and {committed} committed"

    def between() -> None:
        if rng.random() < 0.02:
            store.checkpoint()

    disk.watch = crash
    replay.run(calls, between)
    disk.watch = nobody
    assert tried > 100 * chance
    sync(store)
    assert after_power_loss(tmp_path, disk, rng) == TRANSACTIONS
    store.abandon()


def after_power_loss(folder: Path, disk: SimDisk, rng: random.Random) -> int:
    """How many transactions SQLite finds in what the store has after a power loss."""
    copy, extracted = folder / "copy", folder / "extracted"
    shutil.copytree(folder / "store", copy)
    store = Store.open(copy, disk=disk.crash(rng), clock=lambda: 1_800_000_000_000_000_000)
    extracted.mkdir()
    bucket = store.find_bucket(b"bucket")
    for _, name, ino in store.tree.entries(bucket):
        content = store.core.catalog.inode(Ino(ino)).content
        (extracted / name.decode()).write_bytes(WorkingCopy(store.core.blocks, content).read(0, content.size))
    store.abandon()
    found = count_transactions(str(extracted / "db")) if (extracted / "db").exists() else 0
    shutil.rmtree(copy)
    shutil.rmtree(extracted)
    return found
