"""Power losses and kills at every call to the disk while S3 doors, lifecycles and a mount change objects.

After each of them what was acknowledged is there, as long as it was promised; a locked version is there whatever was
tried; an upload was completed or was not, and then its parts can be read; and when all is removed that can be, nothing
is left of it on the disk.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.crash.points import CrashPoints, watch_commits
from tests.model.comparison import audit
from tests.model.object_engine import EVER_NS, empty, make_objects_small
from tests.model.object_moves import MovingObjects
from tests.model.object_reference import ObjectReference, compare_objects
from vfs.model import Compression, LockMode, State
from vfs.store import Store

POINTS_AT_LENGTH = 10_000
EMPTIED = 0.2  # of the images


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_objects_small(monkeypatch)
    monkeypatch.setattr(CrashPoints, "tried", Counter())
    watch_commits(monkeypatch)


class ObjectPoints(CrashPoints, MovingObjects):
    """What is done to objects, with crash points. Of some images all is removed, as long after as locks hold."""

    def compare_image(self, store: Store, reference: ObjectReference) -> None:
        reference.recover()
        compare_objects(store, reference)
        audit(store)
        if self.rng.random() < EMPTIED:
            now = self.clock.now
            self.clock.now += EVER_NS
            try:
                empty(store)
            finally:
                self.clock.now = now
            self.tried["emptied"] += 1

    def _remove_everything(self) -> None:
        self.ready = False  # no more points: no model follows
        super()._remove_everything()


class Scenario(ObjectPoints):
    """A run without Hypothesis."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.start(state, Compression.ZSTD)
        self.same()


def steps(machine: Scenario, rng: random.Random) -> Iterator[Callable[[], Any]]:
    """One of each operation, several times, in an order of its own for each seed."""

    def pick() -> int:
        return rng.randrange(10_000)

    def size() -> int:
        return rng.randrange(400)

    keys = [b"a", b"b", b"a/b", b"a/b/c", b"a//c", b"d/e", b"g~"]
    moving, directories = [b"a/b", b"a/b/c", b"a/c/c", b"c/b", b"c"], [b"a", b"a/b", b"a/c", b"c"]
    meanwhile = ["part", "abort", "delete", "bucket"]
    for _ in range(3):
        several: list[Callable[[], Any]] = [
            *[lambda: machine.put(pick(), rng.choice(keys), size(), rng.randrange(9), pick())] * 4,
            lambda: machine.put_if(pick(), rng.choice(keys), size(), 1, "new"),
            lambda: machine.put_if(pick(), rng.choice(keys), size(), 2, "match"),
            lambda: machine.copy(pick(), pick(), rng.choice(keys), pick()),
            lambda: machine.delete(pick(), rng.choice(keys)),
            lambda: machine.delete_current(pick()),
            lambda: machine.delete_if(pick(), rng.choice(keys), "match"),
            lambda: machine.purge(pick(), rng.random() < 0.5),
            lambda: machine.purge_current(pick()),
            lambda: machine.purge_locked(pick()),
            lambda: machine.set_retention(pick(), rng.choice(list(LockMode)), 8, False, False),
            lambda: machine.set_retention(pick(), rng.choice(list(LockMode)), 1, True, rng.random() < 0.5),
            lambda: machine.set_legal_hold(pick(), rng.random() < 0.5),
            lambda: machine.set_tags(pick(), "v"),
            lambda: machine.set_default_lock(rng.choice([None, *LockMode]), 1),
            lambda: machine.begin_body(pick(), size(), 7),
            lambda: machine.bodies and machine.write_body(pick(), size(), 7),
            lambda: machine.bodies and machine.end_body(pick(), rng.choice(keys), pick(), rng.random() < 0.5),
            lambda: machine.slow_body(pick(), rng.choice(keys), size(), pick()),
            *[lambda: machine.create_upload(pick(), rng.choice(keys), pick())] * 3,
            *[lambda: machine.put_part(pick(), rng.randrange(1, 5), size(), rng.randrange(9))] * 6,
            *[lambda: machine.copy_part(pick(), pick(), rng.randrange(1, 5), size(), size())] * 2,
            *[lambda: machine.upload(pick(), rng.choice(keys), size(), pick())] * 2,
            *[lambda: machine.complete(pick())] * 2,
            lambda: machine.begin_completion(pick(), rng.randrange(9), rng.randrange(9)),
            lambda: machine.completions and machine.go_on_completing(pick()),
            *[lambda: machine.slow_completion(pick(), rng.randrange(9), rng.choice(meanwhile))] * 2,
            lambda: machine.abort(pick()),
            lambda: machine.set_rules(pick(), rng.randrange(3)),
            lambda: machine.set_rules(pick(), 2),
            *[lambda: machine.expire(3)] * 2,
            lambda: machine.write(rng.choice(keys), size(), 3, rng.random() < 0.5),
            lambda: machine.chmod(pick(), 0o600),
            *[lambda: machine.write_meanwhile(pick(), size(), rng.choice(["put", "delete", "purge"]))] * 2,
            lambda: machine.unlink(pick()),
            lambda: machine.undelete(pick()),
            lambda: machine.set_versioning(rng.choice([b"plain", b"shared"]), rng.choice(list(State))),
            *[lambda: machine.put_moving(rng.choice(moving), size(), rng.randrange(6))] * 4,
            lambda: machine.delete_moving(rng.choice(moving)),
            *[lambda: machine.purge_moving(pick(), True)] * 3,
            lambda: machine.hold_moving(pick(), rng.random() < 0.5),
            *[lambda: machine.rename_directory(rng.choice(directories), rng.choice(directories))] * 3,
            lambda: machine.make_directory(rng.choice(directories), False),
            *[lambda: machine.remove_directory(rng.choice(directories))] * 2,
            *[lambda: machine.gather(rng.choice(directories), rng.randrange(4))] * 2,
            lambda: machine.empty_bucket(),
            lambda: machine.delete_bucket(),
        ]
        rng.shuffle(several)
        yield from several


def run(seed: int, chance: float) -> None:
    """The steps, with syncs, checkpoints, collections and ends in between."""
    CrashPoints.seed, CrashPoints.chance = seed, chance
    rng = random.Random(seed)
    machine = Scenario(State(seed % 3))
    for step in steps(machine, rng):
        machine.clock.now += rng.choice((1000, 1_000_000, 1_000_000_000))
        step()
        machine.same()
        match rng.randrange(24):
            case 0 | 1 | 2:
                machine.sync()
            case 3 if not machine.holding:
                machine.checkpoint()
            case 4 | 5:
                machine.collect(True, rng.randrange(12))
            case 6:
                machine.collect_to_the_end()
            case 7:
                machine.reopen(rng.random() < 0.3)
            case 8:
                machine.kill(rng.random() < 0.3)
            case 9:
                machine.lose_power(rng.randrange(1 << 30), rng.random() < 0.3)
        machine.same()
    machine.teardown()


def test_crash_points_of_objects() -> None:
    run(0, 0.06)
    assert CrashPoints.points() > 150
    assert CrashPoints.tried["emptied"] > 20


def test_crash_points_of_any_operations_on_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Hypothesis drives them."""
    monkeypatch.setattr(CrashPoints, "chance", 0.1)
    run_state_machine_as_test(ObjectPoints, settings=settings(max_examples=20, stateful_step_count=30))
    assert CrashPoints.points() > 100


@pytest.mark.slow
def test_every_crash_point_of_many_scenarios_of_objects() -> None:
    seed = 0
    while CrashPoints.points() < POINTS_AT_LENGTH:
        seed += 1
        run(seed, 1.0)


@pytest.mark.slow
def test_crash_points_of_any_operations_on_objects_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrashPoints, "chance", 0.1)
    run_state_machine_as_test(ObjectPoints, settings=settings(max_examples=300, stateful_step_count=40))
    assert CrashPoints.points() > 1000
