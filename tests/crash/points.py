"""Crash points: the engine beside the reference model, on a disk that may crash at every call, and in the middle of it.

At a crash point the disk and the catalog's directory are copied as they would be found after a power loss, or by the
next process after SIGKILL (an `Image`). The engine goes on; when the model has followed, each image is opened: what is
there must be the model after a number of events that the moment allows, and `vfs check` must be clean. While an image
recovers there are crash points too, and while those images recover again.

The catalog is LMDB's file on the host. Crash points lie before and behind its commit; that a commit is atomic and
durable is LMDB's own promise. So a power loss before it finds the catalog of the commit before. The whole catalog may
be lost at any moment: it is derived.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

import vfs.snapshot
from tests.model.comparison import Ids, audit, compare
from tests.model.lifetime import Lifetime
from tests.model.reference import Reference
from tests.model.test_engine import Engine
from tests.simdisk import SimDisk, Watch, nobody
from vfs import check
from vfs.blocks import End
from vfs.catalog import Catalog
from vfs.journal import Position
from vfs.model import Compression, State
from vfs.store import Store

DEPTH_MAX = 3  # crashes in a row, each while the one before is being recovered from
NESTED_CHANCE = 0.1  # of a crash at a point of a recovery
NESTED_MAX = 2  # of these per recovery
CATALOG_LOST = 0.15

_watching: list[Watch] = []  # who is told of the catalog's commits: the last one


def watch_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have crash points before and behind each commit of a catalog."""
    commit = Catalog.commit

    def watched(self: Catalog, journal: Position, blocks: End) -> None:
        if _watching:
            _watching[-1]("commit", "catalog")
        commit(self, journal, blocks)
        if _watching:
            _watching[-1]("committed", "catalog")

    monkeypatch.setattr(Catalog, "commit", watched)


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Tell *watch* of commits."""
    _watching.append(watch)
    try:
        yield
    finally:
        _watching.pop()


@dataclass
class Image:
    """A store as found after a crash. low, high: between how many events of the model it must be. durable: how many
    would be left after a power loss now. known: how many its catalog knows. what: the crash, and those it followed.
    """

    path: Path
    disk: SimDisk
    low: int
    high: int
    durable: int
    known: int
    power: bool
    what: str
    depth: int = 1


class CrashPoints(Lifetime):
    """A state machine with crash points. chance: of each point to be tried. tried: how many were, by kind."""

    chance = 1.0
    seed = 0
    tried: ClassVar[Counter[str]] = Counter()

    @classmethod
    def points(cls) -> int:
        """How many crash points were tried."""
        return cls.tried["power"] + cls.tried["kill"]

    @rule(seed=st.integers(0, 1 << 32))
    def choose_other_points(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def __init__(self) -> None:
        self.rng = random.Random(CrashPoints.seed)
        self.images: list[Image] = []
        self.images_home = tempfile.TemporaryDirectory(prefix="vfs-crash-")
        self.number = 0
        self.ready = False  # something is durable
        self.known = 1
        self.line = -1  # committed - events of the model, while neither is ahead
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(watching(self._point))

    # -- taking images ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.disk.watch = nobody
        with watching(nobody):
            super()._open()
        self.disk.watch = self._point

    @property
    def _events(self) -> int:
        """Atomic changes that were committed until now; the model may be behind."""
        return self.committed - self.line

    def _point(self, call: str, path: str) -> None:
        if call == "committed":
            self.known = self._events
        if self.ready and self.rng.random() < self.chance:
            power = self.rng.random() < 0.6
            durable = self.known if call == "committed" else self.kept[0][0]
            low = durable if power else self._events
            image = Image(self.path, self.disk, low, self._events + 1, durable, self.known, power, f"{call} {path}")
            self.images.append(self._taken(image))

    def _taken(self, image: Image) -> Image:
        """The image of a store that is still open: a copy, with what the crash does to it."""
        rng = self.rng
        self.number += 1
        copy = Path(self.images_home.name) / f"{self.number}"
        shutil.copytree(image.path, copy)
        known, what = image.known, f"{'power' if image.power else 'kill'} at {image.what}"
        found = image.disk.crash(rng) if image.power else image.disk.kill(rng)
        if rng.random() < CATALOG_LOST:
            shutil.rmtree(copy / "catalog", ignore_errors=True)  # lost before, if a recovery has just begun
            snapshots = vfs.snapshot.complete(found)
            known = self.folds[snapshots[-1]] if snapshots else 0
            what += ", catalog lost"
        durable = image.low if image.power else image.durable
        return replace(image, path=copy, disk=found, durable=durable, known=known, what=what)

    # -- when the model has followed --------------------------------------------------------------------------

    def do(self, engine: Callable[[], Any], reference: Callable[[Any], Any]) -> Any:
        done = super().do(engine, reference)
        self.line = self.committed - self.reference.events
        self._try_images()
        return done

    def _durable(self) -> None:
        self._try_images()
        super()._durable()
        self.ready = True

    def _after_opening(self) -> None:
        self.images.clear()
        super()._after_opening()
        self.line = 0
        self.known = self.reference.events

    def _recovered(self, durable: int, *, rebuild: bool) -> None:
        self._try_images()
        super()._recovered(durable, rebuild=rebuild)

    def _reopened(self) -> None:
        self._try_images()  # of the clean end, which the model has followed
        super()._reopened()

    def _try_images(self) -> None:
        images, self.images = self.images, []
        for image in images:
            self._try(image)

    def _try(self, image: Image) -> None:
        """Open an image, compare, check; crash while it recovers, and try what is found then."""
        try:
            self._try_image(image)
        except BaseException as error:
            error.add_note(f"{image.what}; events {image.low} to {image.high}, {image.known} in the catalog")
            raise

    def _try_image(self, image: Image) -> None:
        original = image.path.with_name(f"{image.path.name}-before")
        nested = image.depth < DEPTH_MAX and self.rng.random() < 0.5
        if nested:
            shutil.copytree(image.path, original)
            disk = image.disk.kill()
        with watching(nobody):
            store = Store.open(image.path, disk=image.disk, clock=self.clock)
            total = self.reference.events  # recovery and a clean end make some that the model does not count
            events = min(image.known + store.recovered, image.high, total)
            assert min(image.low, total) <= events, f"{events} events were found"
            self._compare(store, events)
            store.close()
        problems: list[check.Problem] = []
        check.check(image.path, problems.append, lambda what, done, total: None, disk=image.disk)
        told = [(problem.kind, problem.where, problem.message) for problem in problems]
        assert not problems, f"`vfs check` says {told}"
        shutil.rmtree(image.path)
        self.tried[f"depth {image.depth}"] += 1
        self.tried["power" if image.power else "kill"] += 1
        if nested:
            self._crash_while_recovering(image, original, disk, events)
            shutil.rmtree(original)

    def _compare(self, store: Store, events: int) -> None:
        kept = [state for number, state in self.kept if number == events]
        assert kept, f"{events} events: the model never had so many"
        reference = pickle.loads(kept[-1])
        reference.now = self.clock.now
        self.compare_image(store, reference)

    def compare_image(self, store: Store, reference: Any) -> None:
        """What a crash left is what the model was then, when that has recovered."""
        raise NotImplementedError

    def _crash_while_recovering(self, image: Image, path: Path, disk: SimDisk, events: int) -> None:
        """A second crash, anywhere in the recovery from the first. What the recovery adds does not count as events."""
        known = image.known
        taken: list[Image] = []

        def point(call: str, where: str) -> None:
            nonlocal known
            if call == "committed":
                known = events
            if len(taken) < NESTED_MAX and self.rng.random() < NESTED_CHANCE:
                power = self.rng.random() < 0.6
                durable = events if image.power or call == "committed" else image.durable
                low = durable if power else events
                what = f"{call} {where} of the recovery after {image.what}"
                depth = image.depth + 1
                taken.append(self._taken(Image(path, disk, low, events, durable, known, power, what, depth)))

        disk.watch = point
        with watching(point):
            store = Store.open(path, disk=disk, clock=self.clock)
        disk.watch = nobody
        store.abandon()
        for one in taken:
            self._try(one)

    # -- the end ----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.stack.close()
            self.images_home.cleanup()


class FilePoints(CrashPoints, Engine):
    """What a mount does, with crash points."""

    def compare_image(self, store: Store, reference: Reference) -> None:
        ids = Ids()
        ids.known = {serial: seq for serial, seq in self.ids.known.items() if serial <= reference.serial}
        reference.recover()
        compare(store, reference, ids)
        audit(store)


class Scenario(FilePoints):
    """A run without Hypothesis, for the steps of test_faults."""

    def __init__(self) -> None:
        super().__init__()
        self.start([State.ENABLED, State.UNVERSIONED], Compression.ZSTD)
        self.check()

    def check(self) -> None:
        """As the invariant of the state machine."""
        self.same()
