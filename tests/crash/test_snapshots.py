"""Crashes around a snapshot that stands for the beginning of the journal: what crash points have found."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.crash.test_crashes import WRITER, Histories, Workload, assert_clean, histories_of, reopened
from tests.model.comparison import audit
from tests.simdisk import SimDisk, nobody
from vfs import blocks, gc
from vfs.catalog import FILE, Catalog
from vfs.errors import NoSpace
from vfs.folder import Folder
from vfs.store import RESTORED


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


def collected(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> tuple[SimDisk, Histories]:
    """A store without its catalog, of whose blocks only few are where they were when its snapshot was made; what it
    holds.
    """
    gc.run(workload.store)
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 1 << 40)
    key = workload.store.core.catalog.key
    for name in list(workload.histories)[::2]:
        found = key(workload.bucket, name)
        assert found is not None
        for seq, _ in list(workload.store.core.catalog.versions(found))[1:]:
            workload.store.history.purge(found, seq, WRITER)
    gc.run(workload.store, thorough=False)
    wanted = histories_of(workload.store)
    workload.store.close()
    shutil.rmtree(workload.folder / "catalog")
    return workload.disk.kill(), wanted


def test_a_recovery_from_a_snapshot_may_take_several_starts(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the first one does not end."""
    disk, wanted = collected(workload, monkeypatch)

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


def die(*_: object, **__: object) -> None:
    raise Crash


@pytest.mark.parametrize("at", ["the catalog is in place", "it is committed"])
def test_a_catalog_is_known_to_be_a_snapshots_until_its_recovery_is_committed(
    workload: Workload, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    disk, wanted = collected(workload, monkeypatch)
    rename = Folder.rename

    def rename_and_die(folder: Folder, name: str, to: str, other: Folder | None = None) -> None:
        rename(folder, name, to, other)
        if to == FILE:
            raise Crash

    with monkeypatch.context() as patch:
        if at == "it is committed":
            patch.setattr(Catalog, "commit", die)
        else:
            patch.setattr(Folder, "rename", rename_and_die)
        with pytest.raises(Crash):
            reopened(workload, disk, workload.folder)
    disk = disk.kill()
    store = reopened(workload, disk, workload.folder)
    assert histories_of(store) == wanted
    audit(store)
    store.close()
    assert not (workload.folder / "catalog" / RESTORED).exists(), "and no longer"
    assert_clean(workload.folder, disk)


@pytest.mark.parametrize("then", ["it goes on", "it dies"])
def test_a_recovery_from_a_snapshot_for_which_there_is_no_room(
    workload: Workload, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """The catalog is the snapshot's again, and is brought up to now once more. It must not lead to where a block was
    that has been purged since: whoever writes the same again would have nothing stored.
    """
    purged = {data for held in workload.histories.values() for data in held if data}
    disk, wanted = collected(workload, monkeypatch)

    def full(catalog: Catalog, *_: object) -> None:
        catalog._fall_back()
        raise NoSpace("simulated")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "commit", full)
        store = reopened(workload, disk, workload.folder)
    if then == "it dies":
        store.abandon()
        disk = disk.kill()
        store = reopened(workload, disk, workload.folder)
    assert histories_of(store) == wanted
    audit(store)
    workload.store = store
    for data in purged - {data for held in wanted.values() for data in held}:
        workload._put(b"again", data)
        assert histories_of(store)[b"again"][-1] == data
    store.close()
    assert_clean(workload.folder, disk)
