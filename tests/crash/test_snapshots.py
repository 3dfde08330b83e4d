"""Crashes around a snapshot that stands for the beginning of the journal: what crash points have found."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.crash.test_crashes import WRITER, Workload, assert_clean, histories_of, reopened
from tests.model.comparison import audit
from tests.simdisk import nobody
from vfs import blocks, gc


class Crash(Exception):
    """The process ends here."""


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workload:
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
    monkeypatch.setattr(gc, "PAGE_BYTES", 16)
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", 1000)
    workload = Workload(tmp_path / "store", seed=1)
    for _ in range(60):
        workload.step()
    return workload


def test_a_snapshot_is_durable_before_the_journal_goes(workload: Workload, tmp_path: Path) -> None:
    """The process dies when the snapshot is complete and not synced; the next one removes what it stands for, and then
    the power goes.
    """
    syncs = 0

    def die(call: str, path: str) -> None:
        nonlocal syncs
        syncs += call == "sync" and path.startswith("snapshots")
        if syncs == 2:
            raise Crash

    workload.disk.watch = die
    with pytest.raises(Crash):
        gc.run(workload.store)
    workload.store.abandon()
    killed = workload.disk.kill()

    def lose_power(call: str, path: str) -> None:
        if call == "removing" and path.startswith("journal"):
            raise Crash

    killed.watch = lose_power
    with pytest.raises(Crash):
        reopened(workload, killed, workload.folder)
    killed.watch = nobody
    for seed in range(20):
        folder = tmp_path / f"{seed}"
        shutil.copytree(workload.folder, folder)
        shutil.rmtree(folder / "catalog")
        disk = killed.crash(random.Random(seed))
        store = reopened(workload, disk, folder)
        assert histories_of(store) == workload.histories
        store.close()
        assert_clean(folder, disk)


def test_a_recovery_from_a_snapshot_may_take_several_starts(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks are not where they were when the snapshot was made, also when the first recovery does not end."""
    gc.run(workload.store)
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 1 << 40)
    key = workload.store.core.catalog.key
    for name in list(workload.histories)[::2]:
        found = key(workload.bucket, name)
        assert found is not None
        for seq, _ in list(workload.store.core.catalog.versions(found))[1:]:
            workload.store.history.purge(found, seq, WRITER)
    gc.run(workload.store)
    wanted = histories_of(workload.store)
    workload.store.close()
    shutil.rmtree(workload.folder / "catalog")
    disk = workload.disk.kill()

    def die(call: str, path: str) -> None:
        raise Crash

    for _ in range(3):
        disk.watch = die
        with pytest.raises(Crash):
            reopened(workload, disk, workload.folder)
        disk.watch = nobody
        disk = disk.kill()
    store = reopened(workload, disk, workload.folder)
    assert histories_of(store) == wanted
    audit(store)
    store.close()
    assert_clean(workload.folder, disk)
