"""The journal cut anywhere in its last 64 KiB: it opens into exactly the atomic changes before the cut, equal to the
reference model, with `vfs check` clean. (That every other byte is as one of these: test_crashes, test_journal.)
"""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

import lmdb
import pytest

from tests.crash.test_faults import steps
from tests.model.comparison import audit, compare
from tests.model.test_engine import Engine
from tests.simdisk import SimDisk
from vfs import blocks, check, content, events
from vfs.journal import FOLDER, START, Journal, Record
from vfs.model import State

TAIL_BYTES = 64 << 10
SEGMENT = f"{FOLDER}/{1:016x}"


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(content, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)


class Cut(Engine):
    """A long run of everything since the last checkpoint, and its end again and again."""

    def __init__(self, state: State, seed: int) -> None:
        super().__init__()
        self.start([state, State.ENABLED])
        compare(self.store, self.reference, self.ids)
        begin = self.store.core.journal.end.offset
        rng = random.Random(seed)
        while self.store.core.journal.end.offset < begin + TAIL_BYTES:
            for step in steps(self, rng):  # type: ignore[arg-type]
                self.clock.now += 1_000_000
                step()
                compare(self.store, self.reference, self.ids)
        self.store.abandon()
        self.before = (self.path, self.disk, self.kept, self.reference, self.checkpointed, self.ids.known)

    def after(self, disk: SimDisk, durable: int, folder: Path, *, rebuild: bool) -> None:
        """What opens from this disk is the model after so many events."""
        self.path, _, self.kept, self.reference, self.checkpointed, known = self.before
        self.ids.known = dict(known)
        shutil.copytree(self.path, folder)
        self.path, self.disk = folder, disk
        before = 0 if rebuild else self.checkpointed
        self._recovered(durable, rebuild=rebuild)
        assert before + self.store.recovered == durable
        compare(self.store, self.reference, self.ids)
        audit(self.store)
        self.store.close()
        problems: list[check.Problem] = []
        check.check(folder, problems.append, lambda what, done, total: None, disk=self.disk)
        assert [(problem.kind, problem.where, problem.message) for problem in problems] == []
        shutil.rmtree(folder)


def events_until(records: list[Record], size: int) -> int:
    """How many atomic changes lie wholly before a cut."""
    return sum(bool(events.decode(record.payload).changes) for record in records if record.end.offset <= size)


@pytest.mark.parametrize("cuts", [40, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("state", State)
def test_a_cut_is_a_prefix(state: State, cuts: int, tmp_path: Path) -> None:
    rng = random.Random(state)
    machine = Cut(state, state)
    disk = machine.disk
    whole = disk.contents(SEGMENT)
    records = list(Journal(disk).records(START))
    tail = [record.end.offset for record in records if record.end.offset > len(whole) - TAIL_BYTES]
    chosen = {size for end in tail for size in range(end - 3, end + 4) if size <= len(whole)}
    chosen |= {rng.randrange(len(whole) - TAIL_BYTES, len(whole)) for _ in range(500)}
    for size in rng.sample(sorted(chosen), min(cuts, len(chosen))):
        twin = disk.kill()
        twin.replace(SEGMENT, whole[:size])
        machine.after(twin, events_until(records, size), tmp_path / f"{size}", rebuild=size % 5 == 0)
    machine.home.cleanup()


@pytest.mark.parametrize("state", State)
def test_lost_blocks_end_history_before_the_first_change_that_needs_them(state: State, tmp_path: Path) -> None:
    """Nothing of it was synced: the journal is there, a block is not."""
    rng = random.Random(state)
    machine = Cut(state, 10 + state)
    disk = machine.disk
    path = f"{blocks.FOLDER}/{1:08x}"
    whole = disk.contents(path)
    first = machine.kept[0][0]
    seen = set()
    for at in sorted(rng.sample(range(len(whole) // 3, len(whole)), 12)):
        twin = disk.kill()
        twin.replace(path, whole[:at] + bytes(200) + whole[at + 200 :])
        folder = tmp_path / f"{at}"
        shutil.copytree(machine.before[0], folder)
        machine.path, _, machine.kept, machine.reference, machine.checkpointed, known = machine.before
        machine.ids.known = dict(known)
        machine.path, machine.disk = folder, twin
        machine._recovered(first, rebuild=False)
        seen.add(machine.store.recovered)
        compare(machine.store, machine.reference, machine.ids)
        audit(machine.store)
        machine.store.close()
        shutil.rmtree(folder)
    assert len(seen) > 5, "the later the damage, the longer the history"
    machine.home.cleanup()
