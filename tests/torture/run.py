"""The torture: loads on a real mount, the daemon killed at random moments, everything acknowledged verified.

One store after the other, so that verifying stays quick: each takes `kills_per_store` kills, is then closed, checked,
rebuilt, and verified to the last byte of its history.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from tests.mounted import Mounted, run
from tests.torture.shared import PLACES, Shared
from tests.torture.steps import Load, Log, Lost, serve
from tests.torture.transactions import Transactions
from tests.torture.tree import Tree

ANSWER_S_MAX = 300  # until a worker has verified everything
LOAD_S = (0.02, 0.6)  # between two kills
STARTING_S = (0.0, 0.6)  # into the start of a daemon that is killed before it answers
KILL_WHILE_STARTING = 0.15
EXPECTED = ("dead mount", "cleared")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How long and how hard. kills, seconds: until the first is reached; None: no limit of this kind."""

    kills: int | None = None
    seconds: float | None = None
    seed: int = 0
    workers: int = 2
    kills_per_store: int = 25
    shared: bool = True
    transactions: bool = True


@dataclass
class Result:
    """What was done. stuck: see Mounted. figures: of all loads together."""

    kills: int = 0
    stuck: int = 0
    checks: int = 0
    seconds: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        what = ", ".join(f"{count} {name}" for name, count in sorted(self.figures.items()))
        return (
            f"{self.kills} kills ({self.stuck} stuck) in {self.seconds:.0f} s, {self.checks} times `vfs check`; {what}"
        )


class Worker:
    """A load in a process of its own."""

    def __init__(self, name: str, make: Callable[[], Load]) -> None:
        self.name = name
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(make, theirs), name=name, daemon=True)
        self._process.start()
        theirs.close()
        self.figures: dict[str, int] = {}

    def tell(self, word: str) -> None:
        self.pipe.send(word)

    def answer(self, *wanted: str) -> str:
        """What it says. Raises Lost if that is none of the *wanted* words."""
        if not self.pipe.poll(ANSWER_S_MAX):
            raise Lost(f"{self.name} hangs: no answer in {ANSWER_S_MAX} s")
        try:
            word, text, self.figures = self.pipe.recv()
        except EOFError:
            raise Lost(f"{self.name} ended without a word") from None
        if word not in wanted:
            raise Lost(f"{self.name}: {word}: {text}")
        return str(text)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(10)
        self.pipe.close()


class Torture:
    """Many stores, one after the other, below *folder*; the one that fails stays there."""

    def __init__(self, folder: Path, plan: Plan, say: Say, store: Path | None = None) -> None:
        self._folder = folder
        self._plan = plan
        self._say = say
        self._store = store
        self._chance = random.Random(plan.seed)
        self._began = time.monotonic()
        self.result = Result()

    def run(self) -> Result:
        """Torture until the plan is fulfilled. Raises Lost."""
        number = 0
        while not self._enough:
            home = self._folder / f"{number}"
            self._say(f"store {home}, {self.result}")
            self._one_store(home, f"{self._plan.seed}-{number}")
            if self._store is None:
                shutil.rmtree(home)
            number += 1
        return self.result

    @property
    def _enough(self) -> bool:
        self.result.seconds = time.monotonic() - self._began
        kills, seconds = self._plan.kills, self._plan.seconds
        return (kills is not None and self.result.kills >= kills) or (
            seconds is not None and self.result.seconds >= seconds
        )

    def _one_store(self, home: Path, seed: str) -> None:
        mount = Mounted(home)
        if self._store is not None:
            mount.store = self._store
        mount.store.mkdir(exist_ok=True)
        interval, durability = self._chance.choice((0.05, 0.3, 5.0)), self._chance.choice(("interval", "close"))
        config = mount.store / "config.toml"
        if self._store is None or not config.exists():
            config.write_text(f'commit_interval = {interval}\ndurability = "{durability}"\n')
        try:
            mount.start()
            with self._workers(mount, home, seed) as workers:
                self._kill_again_and_again(mount, workers)
                self._verify(workers, "verify everything")
                mount.stop()
                self._check(mount)
                run(["rm", "-r", str(mount.store / "catalog")])
                mount.start()
                self._verify(workers, "verify everything")
                for worker in workers:
                    self.result.figures.update(worker.figures)
            mount.end(expected=EXPECTED)
        except AssertionError as error:  # of tests.mounted
            raise Lost(str(error)) from error
        finally:
            self.result.stuck += mount.stuck
            mount.clean_up()

    @contextlib.contextmanager
    def _workers(self, mount: Mounted, home: Path, seed: str) -> Iterator[list[Worker]]:
        (home / "logs").mkdir()
        workers: list[Worker] = []
        try:
            for name, root, make in self._loads(mount, seed):
                if not root.exists():
                    root.mkdir()
                log = home / "logs" / name
                workers.append(Worker(name, lambda make=make, root=root, log=log: make(str(root), Log(log))))
            yield workers
        finally:
            for worker in workers:
                worker.end()

    def _loads(self, mount: Mounted, seed: str) -> Iterator[tuple[str, Path, Callable[[str, Log], Load]]]:
        stamp = f"{time.time_ns():x}"  # a store that was there before has other buckets
        for number in range(self._plan.workers):
            name = f"tree-{number}"
            yield name, mount.root / f"{name}-{stamp}", lambda root, log, name=name: Tree(root, log, seed + name)
        for number in range(self._plan.workers if self._plan.shared else 0):
            name, root = f"shared-{number}", mount.root / f"shared-{stamp}"
            for place in PLACES:
                (root / place).mkdir(parents=True, exist_ok=True)
            yield name, root, lambda root, log, name=name: Shared(root, log, seed + name, name)
        if self._plan.transactions:
            yield "sqlite", mount.root / f"sqlite-{stamp}", lambda root, log: Transactions(root, log, seed)

    # -- kills ------------------------------------------------------------------------------------------------

    def _kill_again_and_again(self, mount: Mounted, workers: list[Worker]) -> None:
        for _ in range(self._plan.kills_per_store):
            if self._enough:
                break
            for worker in workers:
                worker.tell("go")
            pause = self._chance.uniform(*LOAD_S)
            early = wait([worker.pipe for worker in workers], timeout=pause)
            if early:
                self._ended_early(early, workers)
            mount.kill(clear=False)
            self.result.kills += 1
            for worker in workers:
                worker.answer("died")
            if self._chance.random() < 0.5:
                mount.clear()  # else `vfs mount` does it
            self._check(mount)
            self._start(mount)
            self._verify(workers, "verify")
        for worker in workers:  # so that a clean end is seen too
            worker.tell("go")
        time.sleep(0.2)
        for worker in workers:
            worker.tell("halt")
        for worker in workers:
            worker.answer("halted")

    def _ended_early(self, early: list[object], workers: list[Worker]) -> None:
        for worker in workers:
            if worker.pipe in early:
                worker.answer("nothing")  # raises, with what it has to say

    def _start(self, mount: Mounted) -> None:
        """A daemon, perhaps after others that were killed while they recovered."""
        while self._chance.random() < KILL_WHILE_STARTING:
            mount.start_and_kill(self._chance.uniform(*STARTING_S))
            self.result.kills += 1
            self._check(mount)
        mount.start()

    def _check(self, mount: Mounted) -> None:
        mount.check_store()
        self.result.checks += 1

    def _verify(self, workers: list[Worker], word: str) -> None:
        for worker in workers:
            worker.tell(word)
        for worker in workers:
            worker.answer("ok")
