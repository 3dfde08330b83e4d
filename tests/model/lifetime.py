"""A store on a simulated disk beside a model of what is in it: operations on both sides, collections, and the ends of
the process and of the power. What the operations are is the business of who inherits from `Lifetime`.
"""

from __future__ import annotations

import atexit
import contextlib
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import lmdb
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import vfs.snapshot
from tests import simdisk
from tests.model.comparison import IDS_APART_MAX, tables
from tests.simdisk import SimDisk
from tests.syncing import sync
from vfs import blocks, check, compression, content, errors, events, gc
from vfs.catalog import Catalog
from vfs.content import WorkingCopy
from vfs.events import Change
from vfs.journal import START, Position
from vfs.store import Store

SEGMENT_BYTES_MAX = 1500
BLOCK_BYTES, FANOUT = 64, 2  # trees of depth 3 from 257 bytes on
START_NS = 1_800_000_000_000_000_000
PICK = st.integers(0, 10_000)


class Model(Protocol):
    """A reference model, which can be pickled. now: ns, before each operation. events: atomic changes so far. last_us:
    the newest moment that an id may have.
    """

    now: int
    events: int
    last_us: int
    after_event: Callable[[], None] | None

    def close(self) -> None:
        """A clean end."""

    def recover(self) -> None:
        """A new process."""


class Clock:
    """Stands still during an operation; goes back sometimes in between."""

    def __init__(self) -> None:
        self.now = START_NS

    def __call__(self) -> int:
        return self.now


def fill(length: int, value: int) -> bytes:
    """Zeros for 0, else bytes of which few blocks are equal; from 3 on such as can be compressed."""
    if value >= 3:
        return bytes((at // 32 + value * length) % 255 + 1 for at in range(length))
    return bytes((value * (at + 1) + at // 5) % 255 + 1 for at in range(length)) if value else bytes(length)


class Lifetime(RuleBasedStateMachine):
    """`do` runs each operation on both sides: the same result or the same error, the same number of atomic changes."""

    template: Path | None = None
    template_disk = SimDisk()
    reference: Any  # a Model

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory(prefix="vfs-model-")
        self.path = Path(self.home.name) / "store"
        self.clock = Clock()
        self.reference = self.new_model()
        self.reference.after_event = self._after_event
        self.kept: list[tuple[int, bytes]] = []  # (number of events, the model then) since the last sync
        self.checkpointed = 0  # events of the model that the catalog on disk knows
        self.sound = False  # as of the last comparison; an operation that fails leaves it
        self.committed = 0
        self.operations: list[str] = []  # their names
        self.steps: gc.Steps | None = None  # of a collection that is under way
        self.result: Any = None  # of its last step
        self.holding = False  # it wants no catalog checkpoints
        self.folds: dict[int, int] = {}  # how many events of the model a snapshot, by its number, stands for
        self.readers: list[tuple[WorkingCopy, bytes]] = []  # open versions, and what they hold
        self._open_new()

    def new_model(self) -> Model:
        """Of an empty store."""
        raise NotImplementedError

    def compare(self) -> None:
        """The store is what the model says."""
        raise NotImplementedError

    def _open_new(self) -> None:
        """A copy of an empty store: making one costs more than most examples."""
        if Lifetime.template is None:
            Lifetime.template = Path(tempfile.mkdtemp(prefix="vfs-template-"))
            atexit.register(shutil.rmtree, Lifetime.template)
            Store.open(Lifetime.template, disk=Lifetime.template_disk, clock=Clock()).close()
        shutil.copytree(Lifetime.template, self.path)
        self.disk = Lifetime.template_disk.kill()
        self.reference.events = 1  # the root of the store
        self._open()

    def _open(self) -> None:
        self.store = Store.open(self.path, disk=self.disk, clock=self.clock)
        core = self.store.core
        commit = core.commit

        def counted(operation: str, changes: list[Change]) -> None:
            commit(operation, changes)
            if changes:
                self.committed += 1
                self.operations.append(operation)

        core.commit = counted  # type: ignore[method-assign]

    def _durable(self) -> None:
        """Everything so far survives a power loss. The store may have written a record of its own, with the time."""
        last = self.store.core.catalog.last_seq
        assert last <= max(self.reference.last_us, self.clock.now // 1000) + IDS_APART_MAX
        self.reference.last_us = last
        self.kept = [(self.reference.events, pickle.dumps(self.reference))]

    def _after_event(self) -> None:
        self.kept.append((self.reference.events, pickle.dumps(self.reference)))

    def do(self, engine: Callable[[], Any], reference: Callable[[Any], Any]) -> Any:
        """Run an operation of the engine and of the model, which is given the engine's result. Returns both results,
        None for an error.
        """
        self.sound = False
        self.reference.now = self.clock.now
        before = self.committed
        events = self.reference.events
        found = expected = None
        error: type[errors.VfsError] | None = None
        try:
            found = engine()
        except errors.VfsError as raised:
            error = type(raised)
        try:
            expected = reference(found)
        except errors.VfsError as raised:
            assert error is type(raised), (  # noqa: PT017 (both sides are asked, neither is expected to raise)
                f"the model says {type(raised).__name__}, the engine {error and error.__name__}"
            )
        else:
            assert error is None, f"the model has no error, the engine {error and error.__name__}"
        assert self.committed - before == self.reference.events - events, "as many atomic changes as there should be"
        return None if error else (found, expected)

    # -- time -------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([-5, 0, 1, 1, 1, 200]), micros=st.integers(0, 5))
    def time_passes(self, seconds: int, micros: int) -> None:
        self.clock.now += seconds * 1_000_000_000 + micros * 1000

    # -- giving space back ------------------------------------------------------------------------------------

    @rule(thorough=st.booleans(), count=st.integers(0, 12))
    def collect(self, thorough: bool, count: int) -> None:
        """Some steps of a collection; other rules run in between."""
        if self.steps is None:
            self.steps = gc.Collector(self.store, thorough=thorough).steps()
        for _ in range(count):
            self._step()

    @rule()
    def collect_to_the_end(self) -> None:
        self.collect(True, 0)
        while self.steps is not None:
            self._step()

    def _step(self) -> None:
        if self.steps is None:
            return
        try:
            step = self.steps.send(self.result)
        except StopIteration:
            self._stop_collecting()
            return
        self.result = step.call() if isinstance(step, gc.Work) else None
        if step is gc.Need.CHECKPOINT:
            self.checkpoint()
            self.sync()
        elif step is gc.Need.RELEASE:
            self.holding = False
        elif step is gc.Need.HOLD:
            self.holding = True
            self.folds[self.store.core.catalog.checkpoint.journal.number] = self.checkpointed

    def _stop_collecting(self) -> None:
        if self.steps is not None:
            self.steps.close()
        self.steps = self.result = None
        self.holding = False

    @rule(pick=PICK)
    def open_version(self, pick: int) -> None:
        """For reading: it can be read to its end, whatever is purged and collected meanwhile."""
        rows = [row for row in self.store.core.catalog.every_version() if row[2].content.size]
        if rows:
            content = rows[pick % len(rows)][2].content
            copy = self.store.files.open_version(content)
            self.readers.append((copy, copy.read(0, content.size)))

    @rule(pick=PICK)
    @precondition(lambda self: self.readers)
    def close_version(self, pick: int) -> None:
        copy, _ = self.readers.pop(pick % len(self.readers))
        self.store.files.close_version(copy)

    # -- the end of the process, and of the power -------------------------------------------------------------

    @rule()
    def sync(self) -> None:
        sync(self.store)
        self._durable()

    @rule()
    @precondition(lambda self: not self.holding)
    def checkpoint(self) -> None:
        self.store.checkpoint()
        self.checkpointed = self.reference.events
        self._durable()

    @rule(times=st.sampled_from([1, 2, 3, 100]))
    @precondition(lambda self: not self.holding)
    def fail_to_commit(self, times: int) -> None:
        """The disk is full for so many commits: the catalog falls back to its last checkpoint, and is brought up to now
        again, in portions if that can be committed.
        """
        sync(self.store)
        self._durable()
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(errors.NoSpace):
            patch.setattr(Catalog, "commit", _without_space(Catalog.commit, times))
            self.store.commit_catalog()
        self.checkpointed = self._events_in_journal(self.store.core.catalog.checkpoint.journal.number)

    @rule(rebuild=st.booleans())
    def reopen(self, rebuild: bool) -> None:
        """A clean end; with the catalog deleted, it is made again the same."""
        self.reference.now = self.clock.now
        self._stop_collecting()
        self.store.close()
        self.reference.close()
        self.disk = self.disk.kill()
        self._reopened()
        if rebuild:
            self._rebuild()

    @rule(rebuild=st.booleans())
    def kill(self, rebuild: bool) -> None:
        """SIGKILL: everything that was done is there, what was open and safe is published."""
        disk = self.disk.kill()  # before the collection tidies up
        self._stop_collecting()
        self.store.abandon()
        self.disk = disk
        events = self.reference.events
        self._recovered(events, rebuild=rebuild)

    @rule(seed=st.integers(0, 1 << 32), rebuild=st.booleans())
    def lose_power(self, seed: int, rebuild: bool) -> None:
        """A prefix of what happened, not shorter than what was synced."""
        disk = self.disk.crash(random.Random(seed))
        self._stop_collecting()
        self.store.abandon()
        self.disk = disk
        self._recovered(self.kept[0][0], rebuild=rebuild)

    def _recovered(self, durable: int, *, rebuild: bool) -> None:
        if rebuild:
            shutil.rmtree(self.path / "catalog")
            self.checkpointed = self._folded()
        self._open()
        events = self.checkpointed + self.store.recovered
        total = self.reference.events
        assert durable <= events <= total, f"{events} of {total} events, of which {durable} were promised"
        before = self.reference
        self.reference = pickle.loads([kept for number, kept in self.kept if number == events][-1])
        self.reference.now = self.clock.now
        self._went_back(before)
        self.reference.recover()
        self._after_opening()

    def _went_back(self, before: Any) -> None:
        """The model is what it was after some event; *before*: what it had become."""

    def _reopened(self) -> None:
        self._open()
        self.reference.now = self.clock.now
        self._after_opening()

    def _after_opening(self) -> None:
        self.readers.clear()
        self.reference.after_event = self._after_event
        self.reference.events = self.committed = self._events_in_journal()
        self.checkpointed = self.reference.events
        self._durable()

    def _events_in_journal(self, last: int | None = None) -> int:
        """Atomic changes so far, or up to a record; recovery makes some that the model does not count (files without a
        name).
        """
        journal = self.store.core.journal
        snapshots = vfs.snapshot.complete(self.disk)
        first = max([0, *snapshots])
        segment = min(journal.segments())
        start = START if segment == 1 else Position(segment, 0, segment - 1)
        numbers = range(first + 1, sys.maxsize if last is None else last + 1)
        records = [record for record in journal.records(start) if record.number in numbers]
        return self._folded() + sum(bool(events.decode(record.payload).changes) for record in records)

    def _folded(self) -> int:
        """How many events of the model the last snapshot stands for."""
        snapshots = vfs.snapshot.complete(self.disk)
        return self.folds[snapshots[-1]] if snapshots else 0

    def _rebuild(self) -> None:
        self.store.close()
        self.disk = self.disk.kill()
        self._reopened()
        before = self._tables_without_garbage()
        self.store.close()
        self.disk = self.disk.kill()
        shutil.rmtree(self.path / "catalog")
        self._reopened()
        after = self._tables_without_garbage()
        assert not [(name, set(rows) ^ set(after[name])) for name, rows in before.items() if rows != after[name]]

    def _tables_without_garbage(self) -> dict[str, Any]:
        """All rows but those of blocks that a collection has taken out, or will, and which may still be on the disk."""
        found: dict[str, Any] = dict(tables(self.store))
        catalog = self.store.core.catalog
        found["blocks"] = [(block, row.references, row.node) for block, row in catalog.blocks() if row.references]
        del found["segments"]  # audited
        return found

    # -- comparing --------------------------------------------------------------------------------------------

    @invariant()
    def same(self) -> None:
        self.sound = False
        self.compare()
        for copy, data in self.readers:
            assert copy.read(0, copy.size) == data
        self.sound = True

    def teardown(self) -> None:
        try:
            if not self.sound:
                return  # what failed is being raised
            self._rebuild_from_what_is_open()
            self.store.close()
            problems: list[check.Problem] = []
            check.check(self.path, problems.append, lambda what, done, total: None, disk=self.disk)
            assert [(problem.kind, problem.where, problem.message) for problem in problems] == []
        finally:
            self.store.abandon()
            self.home.cleanup()

    def _rebuild_from_what_is_open(self) -> None:
        self.reopen(rebuild=True)
        self.same()


def _without_space(commit: Callable[..., None], times: int) -> Callable[..., None]:
    """A commit for which there is no room, so many times. What follows it may have to write rows of its own."""
    left = times

    def fails(catalog: Catalog, *where: Any) -> None:
        nonlocal left
        if not left:
            commit(catalog, *where)
            return
        left -= 1
        with pytest.MonkeyPatch.context() as patch:
            fall_back = catalog._fall_back

            def with_space() -> None:
                patch.undo()
                fall_back()

            patch.setattr(catalog, "_write_changed", _no_space)
            patch.setattr(catalog, "_fall_back", with_space)
            commit(catalog, *where)

    return fails


def _no_space() -> None:
    raise lmdb.DiskError("simulated: no space left")


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that little files have deep trees; a catalog that does not wait for the host's disk, which does
    not lose power here.
    """
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(content, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(compression, "BYTES_LEAST", 1)
    monkeypatch.setattr(content, "FANOUT", FANOUT)
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", SEGMENT_BYTES_MAX)
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 0)
    monkeypatch.setattr(gc, "BLOCKS_PER_STEP_MAX", 3)
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
    monkeypatch.setattr(gc, "PAGE_BYTES", 16)
    monkeypatch.setattr(simdisk, "PAGE_BYTES", 16)
