"""The disk refuses at the n-th call, for every n of a scenario: what was done stays done, nothing is done by half, and
it goes on when there is space again, or when the store is opened again.

The scenario runs on the store and on the reference model. An operation that fails is undone in the model, but for the
atomic changes that the store had made before.
"""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lmdb
import pytest

from tests.model.comparison import audit, compare, compare_handle
from tests.model.reference import Handle
from tests.model.test_engine import Engine, fill
from tests.simdisk import Count, Fault, fail_at, no_fault
from tests.syncing import sync
from vfs import blocks, content, errors, files, journal
from vfs.errors import DiskFailed, NoSpace
from vfs.model import State, Writer

ROOT, USER = Writer(0, 1, "root"), Writer(1000, 2, "user")
SEEDS = range(3)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, and segments of few records, so that new ones are made under the faults too."""
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(content, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", 2000)
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 4000)


class Faulty(Engine):
    """The engine beside the model, on a disk that refuses. `faults`: how many operations have failed."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = 0
        self.releasing: Handle | None = None
        self.trail: list[bytes] = []
        self.start([State.ENABLED, State.UNVERSIONED])
        self.check()

    def _state(self) -> bytes:
        return pickle.dumps((self.reference, [handle for _, handle in self.handles], self.releasing))

    def _after_event(self) -> None:
        super()._after_event()
        self.trail.append(self._state())

    def _go_back(self, state: bytes) -> None:
        self.reference, handles, self.releasing = pickle.loads(state)
        self.reference.after_event = self._after_event
        self.reference.now = self.clock.now
        self.handles = [(old[0], new) for old, new in zip(self.handles, handles, strict=True)]
        del self.kept[[number for number, _ in self.kept].index(self.reference.events) + 1 :]

    def _close_unheld(self) -> None:
        """A handle that was being closed is gone whatever failed."""
        for file in [*self.reference.files(), *self.reference.displaced]:
            if file.open is not None:
                file.open.handles = sum(handle.file is file for _, handle in self.handles)
                if not file.open.handles:
                    file.open = None

    def do(self, engine: Callable[[], Any], reference: Callable[[Any], Any]) -> Any:
        before, committed = self._state(), self.committed
        self.trail.clear()
        refused: errors.VfsError | None = None

        def attempt() -> Any:
            nonlocal refused
            self.reference.no_room = False
            try:
                return engine()
            except (NoSpace, DiskFailed) as error:
                refused = error
            finally:
                patch.undo()

        def watched(store: Callable[..., None], *args: Any) -> None:
            try:
                store(*args)
            except NoSpace:
                self.reference.no_room = True
                raise

        patch = pytest.MonkeyPatch()
        for name in ("_store_draft", "_draft_interim"):
            patch.setattr(self.store.files, name, partial(watched, getattr(self.store.files, name)))

        def follow(found: Any) -> Any:
            if refused is None:
                return reference(found)
            self.faults += 1
            done = self.committed - committed
            if done:
                with contextlib.suppress(
                    errors.VfsError
                ):  # what it comes to in the end, the disk did not let it come to
                    reference(found)
            self._go_back(self.trail[done - 1] if done else before)
            if self.releasing is None:
                self._close_unheld()
            return None

        done = super().do(attempt, follow)
        return None if refused is not None else done

    def release(self, pick: int) -> None:  # type: ignore[override]
        handle, self.releasing = self.handles.pop(pick % len(self.handles))
        faults = self.faults
        expected = self.releasing
        self.do(lambda: self.store.files.release(handle), lambda _: self.reference.release(expected))
        if self.faults > faults:  # the handle is gone all the same; what no flush has made safe is lost
            self._close_unheld()
        self.releasing = None

    def write(self, pick: int, offset: int, size: int, value: int) -> None:  # type: ignore[override]
        at = pick % len(self.handles)
        faults = self.faults
        super().write(at, offset, size, value)
        if self.faults > faults and not self.store.core.failed:
            self._half_done(*self.handles[at], offset, fill(size, value))

    def truncate_path(self, pick: int, size: int, writer: Writer) -> None:  # type: ignore[override]
        file = self.regular(pick)
        faults, events = self.faults, self.reference.events
        super().truncate_path(pick, size, writer)
        if self.faults > faults and self.reference.events == events and file is not None:
            for handle, expected in self.handles:
                if handle.ino == file.ino:
                    changed_at = expected.changed_at
                    self.reference.truncate(expected, size)
                    expected.changed_at = changed_at  # it was somebody else's change
                    expected.shared.writer = writer
                    break

    def _half_done(self, handle: files.Handle, expected: Handle, offset: int, data: bytes) -> None:
        """A write that failed counts as a change: each byte that it should have written is old or new, no other is."""
        old = bytes(expected.shared.data)
        found = self.store.files.read(handle, 0, 1 << 20)
        for at, byte in enumerate(found):
            new = data[at - offset] if offset <= at < offset + len(data) else None
            assert byte == new or byte == (old[at] if at < len(old) else 0)
        assert len(old) <= len(found) <= max(len(old), offset + len(data))
        self.reference.write(expected, 0, b"")
        expected.shared.data[:] = found

    def check(self) -> None:
        """As the invariant of the state machine."""
        compare(self.store, self.reference, self.ids)
        audit(self.store)
        for handle, expected in self.handles:
            compare_handle(self.store, handle, expected)
        self.sound = True

    def finish(self) -> None:
        """The disk is well again: everything goes on, and comes back the same from the journal alone."""
        self.disk.fault = no_fault
        if self.store.core.failed:
            self.store.abandon()
            self.disk = self.disk.kill()
            self._recovered(self.reference.events, rebuild=False)
            self.check()
        for step in steps(self, random.Random(99)):
            step()
            self.check()
        self.teardown()


def steps(machine: Faulty, rng: random.Random) -> Iterator[Callable[[], Any]]:
    """One of each operation, several times, in an order of its own for each seed; handles stay open across others."""

    def pick() -> int:
        return rng.randrange(10_000)

    names = [b"a", b"b", b"c", b"d~"]
    for _ in range(3):
        several: list[Callable[[], Any]] = [
            lambda: machine.save(pick(), rng.choice(names), rng.randrange(400), 1, ROOT, 0o644),
            lambda: machine.save_again(pick(), rng.randrange(400), 2, ROOT),
            lambda: machine.open(pick(), USER, False),
            lambda: machine.handles and machine.write(pick(), rng.randrange(50), 60, 3),
            lambda: machine.handles and machine.flush(pick()),
            lambda: machine.rename_over(pick(), pick(), ROOT, "replace"),
            lambda: machine.handles and machine.release(pick()),
            lambda: machine.mkdir(pick(), rng.choice(names[:3]), 0o755, ROOT),
            lambda: machine.link(pick(), pick(), rng.choice(names), ROOT),
            lambda: machine.rename(pick(), pick(), rng.choice(names), ROOT, True),
            lambda: machine.rename_over(pick(), pick(), ROOT, "exchange"),
            lambda: machine.rename_directory(pick(), pick(), rng.choice(names[:3]), ROOT, "replace"),
            lambda: machine.unlink(pick(), ROOT),
            lambda: machine.undelete(pick(), ROOT),
            lambda: machine.restore(pick(), pick(), rng.choice(names), True, ROOT),
            lambda: machine.purge(pick(), True, ROOT),
            lambda: machine.truncate_path(pick(), rng.randrange(300), ROOT),
            lambda: machine.open(pick(), USER, True),
            lambda: machine.handles and machine.write(pick(), rng.randrange(50), 60, 3),
            lambda: machine.make_interims(),
            lambda: machine.put(pick(), rng.randrange(300), 2),
            lambda: machine.set_attributes(pick(), 0o600, None, None, None, 5),
            lambda: machine.set_attribute(pick(), b"user.a", b"1"),
        ]
        rng.shuffle(several)
        yield from several


def run(machine: Faulty, seed: int) -> None:
    """The scenario, until the store takes no more changes."""
    for step in steps(machine, random.Random(seed)):
        if machine.store.core.failed:
            return
        machine.clock.now += 1_000_000
        step()
        machine.check()


def calls_of(seed: int, calls: set[str]) -> int:
    """How many of these calls a scenario makes."""
    machine = Faulty()
    machine.disk.fault = count = Count(calls)
    run(machine, seed)
    machine.disk.fault = no_fault
    machine.teardown()
    return count.seen


def told(fault: Fault, where: list[str]) -> Fault:
    """The same; *where*: the paths on which it refused something."""

    def tell(call: str, path: str) -> None:
        try:
            fault(call, path)
        except NoSpace:
            where.append(path)
            raise

    return tell


STRIDES = [18, pytest.param(1, marks=pytest.mark.slow)]  # 1: every call; the seeds begin at calls of their own


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_disk_is_full_once(seed: int, stride: int) -> None:
    """At the n-th append or new file; then somebody makes room."""
    total = calls_of(seed, {"append", "create"})
    assert total > 80
    for number in range(1 + seed, total + 1, stride):
        machine = Faulty()
        where: list[str] = []
        machine.disk.fault = told(fail_at(number, NoSpace, calls={"append", "create"}), where)
        run(machine, seed)
        assert machine.faults or where[0].startswith("journal/") or number > total - 10  # there is a spare segment
        assert not machine.store.core.failed
        machine.finish()


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_disk_is_full_from_now_on(seed: int, stride: int) -> None:
    """Everything that needs space fails and harms nothing, the rest can be read; then somebody makes room."""
    for number in range(1 + seed, calls_of(seed, {"append", "create"}), 2 * stride):
        machine = Faulty()
        machine.disk.fault = fail_at(number, NoSpace, calls={"append", "create"}, lasting=True)
        run(machine, seed)
        assert machine.faults > 1 or number > 60
        machine.finish()


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_write_fails(seed: int, stride: int) -> None:
    """An input/output error at the n-th append: consistent, readable, and well again when the store is opened again."""
    for number in range(1 + seed, calls_of(seed, {"append"}), stride):
        machine = Faulty()
        machine.disk.fault = fail_at(number, DiskFailed, calls={"append"})
        run(machine, seed)
        assert machine.faults or number > 60
        machine.finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sync_fails(seed: int) -> None:
    """Nothing is taken for durable that may not be: no more changes, and the power loss may come at once."""
    for at_which, place in enumerate(range(3, 50, 9)):
        machine = Faulty()
        for at, step in enumerate(steps(machine, random.Random(seed))):
            machine.clock.now += 1_000_000
            step()
            machine.check()
            if at == place // 2:
                machine.sync()
            if at == place:
                break
        machine.save(0, b"fresh", 100 + place, 3, ROOT, 0o644)
        machine.check()
        under = ("blocks", "journal", "")[at_which % 3]
        machine.disk.fault = fail_at(1, DiskFailed, calls={"sync"}, under=under)
        with pytest.raises(DiskFailed):
            machine.store.place() if under else sync(machine.store)
        machine.disk.fault = no_fault
        assert machine.store.core.failed
        for again in (partial(sync, machine.store), machine.store.checkpoint):
            with pytest.raises(DiskFailed):
                again()
        faults = machine.faults
        machine.save(0, b"refused", 10, 1, ROOT, 0o644)
        assert machine.faults == faults + 1
        machine.check()
        machine.lose_power(seed * 100 + place, rebuild=bool(place % 2))
        machine.check()
        machine.finish()


def test_a_sync_fails_while_a_segment_is_retired() -> None:
    """The journal syncs a full segment before it begins the next: that failure counts too."""
    machine = Faulty()
    machine.disk.fault = fail_at(1, DiskFailed, calls={"sync"})
    rng = random.Random(1)
    while not machine.store.core.failed:
        machine.clock.now += 1_000_000
        machine.save(rng.randrange(1000), rng.choice([b"a", b"c"]), 100, 1, ROOT, 0o644)
    with pytest.raises(DiskFailed):
        sync(machine.store)
    machine.check()
    machine.lose_power(7, rebuild=False)
    machine.finish()


def test_a_store_opens_on_a_full_disk() -> None:
    """What was open is published when there is room; until then it is safe and can be read."""
    machine = Faulty()
    root = machine.reference.buckets[b"one"].root
    machine._create(root, b"new", 0o644, ROOT)
    machine.write(-1, 0, 100, 1)
    machine.flush(-1)
    machine.store.abandon()
    full = machine.disk.kill()
    full.fault = fail_at(1, NoSpace, calls={"append", "create"}, lasting=True)
    machine.disk = full
    machine._open()
    machine.checkpointed = machine.reference.events
    ino = machine.store.tree.lookup(machine.store.find_bucket(b"one"), b"new")[0]
    handle = machine.store.files.open(ino, ROOT)
    assert machine.store.files.read(handle, 0, 1000) == bytes(machine.handles[0][1].shared.data)
    machine.store.files.release(handle)
    machine.store.abandon()
    machine.disk = full.kill()
    machine._recovered(machine.reference.events, rebuild=False)
    machine.check()
    machine.finish()
