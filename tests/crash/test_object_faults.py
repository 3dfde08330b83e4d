"""The disk refuses at the n-th call while S3 doors, lifecycles and a mount change objects: what fails has changed
nothing that can be seen, and all goes on when there is room again, or when the store is opened again.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.crash.test_crash_objects import steps
from tests.model.object_engine import make_objects_small
from tests.model.object_moves import MovingObjects
from tests.simdisk import CALLS, Count, fail_at, no_fault
from vfs.errors import DiskFailed, NoSpace
from vfs.model import Compression, State

STRIDES = [120, pytest.param(3, marks=pytest.mark.slow)]  # the seeds begin at calls of their own


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_objects_small(monkeypatch)


class Refused(Exception):
    """By the disk, in an operation whose model must not follow."""


class Faulty(MovingObjects):
    """On a disk that refuses. faults: how many operations have failed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.faults = 0
        self.start(State(seed % 3), Compression.ZSTD)
        self.same()

    def act(self, turning: str, engine: Callable[[], Any], reference: Callable[[Any], Any]) -> Any:
        refused = False

        def attempt() -> Any:
            nonlocal refused
            try:
                return engine()
            except (NoSpace, DiskFailed):
                refused = True
                return None

        def follow(found: Any) -> Any:
            if refused:
                assert turning not in self.operations, "what an operation is about was done, and it failed"
                return None
            return reference(found)

        done = super().act(turning, attempt, follow)
        if refused:
            self.faults += 1
            raise Refused
        return done

    def step(self, step: Callable[[], Any]) -> None:
        """One that may be refused: what it held in memory is let go of."""
        try:
            step()
        except (Refused, NoSpace, DiskFailed) as error:
            self.faults += not isinstance(error, Refused)
            self._stop_collecting()
            for body in self.bodies:
                self.store.objects.end_content(body.copy)
            self.bodies.clear()
            for completion in self.completions:
                completion.steps.close()
            self.completions.clear()

    def write(self, *arguments: Any, **named: Any) -> None:
        with self._well():
            super().write(*arguments, **named)

    def write_meanwhile(self, *arguments: Any, **named: Any) -> None:
        with self._well():
            super().write_meanwhile(*arguments, **named)

    @contextlib.contextmanager
    def _well(self) -> Iterator[None]:
        """The mount's own faults are the business of test_faults: what it had open would be published later."""
        fault, self.disk.fault = self.disk.fault, no_fault
        try:
            yield
        finally:
            self.disk.fault = fault

    def checkpoint(self) -> None:
        catalog = self.store.core.catalog
        known = catalog.checkpoint
        try:
            super().checkpoint()
        except DiskFailed:  # perhaps of the record that tells of it
            if catalog.checkpoint != known:
                self.checkpointed = self.reference.events
            raise


def run(machine: Faulty, seed: int) -> None:
    """The scenario, until the store takes no more changes."""
    rng = random.Random(seed)
    for step in steps(machine, rng):
        machine.clock.now += rng.choice((1000, 1_000_000, 1_000_000_000))
        machine.step(step)
        match rng.randrange(8):
            case 0:
                machine.step(machine.sync)
            case 1:
                machine.step(lambda: machine.collect(True, 6))
        machine.same()
        if machine.store.core.failed:
            return


def calls_of(seed: int, calls: set[str]) -> int:
    """How many of these calls a scenario makes."""
    machine = Faulty(seed)
    machine.disk.fault = count = Count(calls)
    run(machine, seed)
    machine.disk.fault = no_fault
    assert not machine.faults
    machine.teardown()
    return count.seen


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("seed", range(2))
def test_the_disk_is_full(seed: int, stride: int) -> None:
    """At the n-th append or new file; then somebody makes room."""
    calls = {"append", "create"}
    for number in range(1 + seed, calls_of(seed, calls) + 1, stride):
        machine = Faulty(seed)
        machine.disk.fault = fail_at(number, NoSpace, calls=calls)
        run(machine, seed)
        machine.disk.fault = no_fault
        machine.teardown()


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("seed", range(2))
def test_the_disk_fails(seed: int, stride: int) -> None:
    """At the n-th call that changes something. Then nothing may be changed any more until the store is opened again,
    and what was done before is there.
    """
    for number in range(1 + seed, calls_of(seed, set(CALLS)) + 1, stride):
        machine = Faulty(seed)
        machine.disk.fault = fail_at(number, DiskFailed)
        run(machine, seed)
        machine.disk.fault = no_fault
        if machine.store.core.failed:
            machine.kill(False)
            machine.same()
        machine.teardown()
