"""Power losses and kills at every call to the disk, in the middle of it, and again while the store recovers."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import lmdb
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests import simdisk
from tests.crash.points import CrashPoints, FilePoints, Scenario, watch_commits
from tests.crash.test_faults import steps
from vfs import blocks, compression, content, gc, journal
from vfs.model import Writer

POINTS_AT_LENGTH = 10_000


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, and segments of few records, so that new ones are made at the crash points too."""
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(compression, "BYTES_LEAST", 1)
    monkeypatch.setattr(content, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", 1500)
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 0)
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 3000)
    monkeypatch.setattr(gc, "BLOCKS_PER_STEP_MAX", 3)
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
    monkeypatch.setattr(gc, "PAGE_BYTES", 16)
    monkeypatch.setattr(simdisk, "PAGE_BYTES", 16)
    monkeypatch.setattr(CrashPoints, "tried", Counter())
    watch_commits(monkeypatch)


def run(seed: int, chance: float) -> None:
    """The scenario of the fault tests, with syncs, checkpoints, collections and clean ends in between."""
    CrashPoints.seed, CrashPoints.chance = seed, chance
    machine = Scenario()
    rng = random.Random(seed)
    for step in steps(machine, rng):  # type: ignore[arg-type]
        machine.clock.now += 1_000_000
        step()
        machine.check()
        match rng.randrange(24):
            case 0 | 1 | 2:
                machine.sync()
            case 3 | 4 if not machine.holding:
                machine.checkpoint()
            case 5 | 6:
                machine.collect(True, rng.randrange(12))
            case 7:
                machine.collect_to_the_end()
            case 8:
                machine.reopen(rng.random() < 0.3)
            case 9:
                machine.kill(rng.random() < 0.3)
            case 10:
                machine.lose_power(rng.randrange(1 << 30), rng.random() < 0.3)
        machine.check()
    machine.teardown()


def test_crash_points_of_a_scenario() -> None:
    run(0, 0.5)
    assert CrashPoints.points() > 200


def test_crash_points_of_any_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Hypothesis drives them."""
    monkeypatch.setattr(CrashPoints, "chance", 0.2)
    run_state_machine_as_test(FilePoints, settings=settings(max_examples=25, stateful_step_count=30))
    assert CrashPoints.points() > 150


def test_crash_points_of_an_end_with_several_files_open() -> None:
    """They are published one after the other, in the same order whoever does it."""
    CrashPoints.seed, CrashPoints.chance = 0, 1.0
    machine = Scenario()
    inos = [file.ino for file in machine.reference.files()]
    for pick in sorted(range(len(inos)), key=inos.__getitem__, reverse=True):
        machine.open(pick=pick, writer=Writer(1000, 2, "user"), truncate=True)
    machine.reopen(False)
    machine.teardown()


@pytest.mark.slow
def test_every_crash_point_of_many_scenarios() -> None:
    seed = 0
    while CrashPoints.points() < POINTS_AT_LENGTH:
        seed += 1
        run(seed, 1.0)


@pytest.mark.slow
def test_crash_points_of_any_operations_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrashPoints, "chance", 0.1)
    run_state_machine_as_test(FilePoints, settings=settings(max_examples=300, stateful_step_count=40))
    assert CrashPoints.points() > 1000
