"""The disk refuses at the n-th call of an opening, and at the n-th read of anything: an error, and no harm."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.crash.points import CrashPoints, Scenario, watch_commits, watching
from tests.crash.test_crashes import assert_clean
from tests.crash.test_faults import steps
from tests.model.comparison import audit
from tests.simdisk import CALLS, SimDisk, fail_at, no_fault, nobody
from tests.syncing import sync
from vfs import blocks, content, journal
from vfs.errors import Corrupt, DiskFailed, NoSpace, VfsError
from vfs.store import Store

STRIDES = [7, pytest.param(1, marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks and segments; nothing is cached, so that there is much to read."""
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(content, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 0)
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", 1500)
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 3000)
    monkeypatch.setattr(CrashPoints, "chance", 0.0)
    watch_commits(monkeypatch)


class Stopped(Exception):
    """A read failed."""


class Unreadable(Scenario):
    """Ends with the first operation in which a read fails."""

    def do(self, engine: Callable[[], Any], reference: Callable[[Any], Any]) -> Any:
        def attempt() -> Any:
            try:
                return engine()
            except DiskFailed:
                raise Stopped from None

        return super().do(attempt, reference)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("seed", range(2))
def test_a_read_fails(seed: int, stride: int) -> None:
    """Everything before that operation is there when the disk is well, and it did nothing by half: what it had written
    before is whole. (What that is, the model does not know: a write that fails counts as a change.)
    """
    number, done = 1 + seed, False
    while not done:
        machine = Unreadable()
        rng = random.Random(seed)
        fault = fail_at(number, DiskFailed, calls={"read"})
        done = True
        for step in steps(machine, rng):  # type: ignore[arg-type]
            machine.clock.now += 1_000_000
            machine.disk.fault = fault
            try:
                step()
            except Stopped:
                done = False
                break
            finally:
                machine.disk.fault = no_fault
            machine.check()
        machine.store.abandon()
        if not done:
            disk = machine.disk.kill()
            store = opened(machine, machine.path, disk)
            events = machine.known + store.recovered
            assert events >= machine.reference.events
            if events == machine.reference.events:
                machine._compare(store, events)
            audit(store)
            store.close()
            assert_clean(machine.path, disk)
        number += stride


def count_calls(machine: Scenario, disk: SimDisk, folder: Path) -> Counter[str]:
    """What an opening asks of the disk."""
    counted: Counter[str] = Counter()
    disk.fault = lambda call, path: counted.update([call])
    shutil.copytree(machine.path, folder)
    opened(machine, folder, disk).abandon()
    shutil.rmtree(folder)
    return counted


def opened(machine: Scenario, folder: Path, disk: SimDisk) -> Store:
    with watching(nobody):
        return Store.open(folder, disk=disk, clock=machine.clock)


@pytest.mark.usefixtures("small_sync_log")
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("error", [NoSpace, DiskFailed])
def test_the_disk_refuses_while_a_store_is_opened(
    error: type[VfsError], lasting: bool, stride: int, tmp_path: Path
) -> None:
    """Opening fails, or succeeds; the next opening, of a disk that is well, has everything."""
    machine = Scenario()
    rng = random.Random(1)
    for at, step in enumerate(steps(machine, rng)):  # type: ignore[arg-type]
        machine.clock.now += 1_000_000
        step()
        machine.check()  # which learns the numbers of what is new
        if at % 5 == 0:
            sync(machine.store)  # so that there is a sync log, and something that only that has
        if at == 25:
            break
    calls = CALLS | {"read"} if error is DiskFailed else {"append", "create"}
    for base in (machine.disk.kill(), machine.disk.crash(rng)):
        counted = count_calls(machine, base.kill(), tmp_path / "counted")
        shutil.copytree(machine.path, tmp_path / "whole")
        whole = opened(machine, tmp_path / "whole", base.kill())
        events = machine.known + whole.recovered
        whole.abandon()
        shutil.rmtree(tmp_path / "whole")
        for number in range(1, sum(counted[call] for call in calls) + 1, stride):
            folder = tmp_path / f"{number}"
            shutil.copytree(machine.path, folder)
            disk = base.kill()
            disk.fault = fail_at(number, error, calls=calls, lasting=lasting)
            with contextlib.suppress(NoSpace, DiskFailed, Corrupt):  # Corrupt: a sync log that cannot be read
                opened(machine, folder, disk).abandon()
            store = opened(machine, folder, disk.kill())
            machine._compare(store, events)
            store.abandon()
            shutil.rmtree(folder)
    machine.store.abandon()
