"""What the loads of the torture have in common: steps that are written down before and after, and the process around.

A step is one call into the mount. Its intent is written to a log outside the mount before the call, its end after it.
So when the daemon dies, each load has at most one step of which it does not know whether it was done.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable
from hashlib import blake2b
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, TypeVar

# What a call returns when the daemon dies in it, or has died before.
DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.EIO})
# A directory of history is one node with several paths (`d/.versions` and `.versions/d`, and another after a rename of
# d). The kernel keeps one path per directory, moves it, and says ESTALE if somebody else is renaming at that moment.
STALE_MAX = 100
STALE_S = 0.01

T = TypeVar("T")


class Died(Exception):
    """The daemon died during a step. Whether it was right to die is for the parent to say."""


class Lost(Exception):
    """Something that was acknowledged is not there, or something else is wrong with the mount."""


class Log:
    """A load's record of what it did, on a disk that nobody kills. One write per line: it survives the load too."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._number = 0
        self.stale = 0  # calls that were repeated because they said ESTALE

    def write(self, text: str) -> None:
        os.write(self._fd, f"{text}\n".encode("utf-8", "backslashreplace"))

    def step(self, what: str, call: Callable[[], T]) -> T:
        """Run one step. Raises Died if it failed as calls on a dead mount do, Lost if it failed otherwise."""
        self._number += 1
        self.write(f"{self._number} {what}")
        try:
            result = self._repeated(call)
        except OSError as error:
            self.write(f"{self._number} failed: {error}")
            if error.errno in DEAD:
                raise Died(f"{what}: {error.strerror}") from error
            raise Lost(f"{what}: {error}") from error
        self.write(f"{self._number} done")
        return result

    def _repeated(self, call: Callable[[], T]) -> T:
        for _ in range(STALE_MAX):
            try:
                return call()
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                self.stale += 1
                time.sleep(STALE_S)
        return call()

    @property
    def steps(self) -> int:
        """How many were begun."""
        return self._number


class Load(Protocol):
    """Something that works on a mount and can tell afterwards what must be there."""

    log: Log
    figures: dict[str, int]

    def work(self) -> None:
        """One operation of several steps. Raises Died, Lost."""

    def verify(self, *, everything: bool) -> None:
        """After a new daemon has mounted the store: raise Lost unless everything acknowledged is there.

        everything: read all content again, also what was read by an earlier call.
        """

    def rest(self) -> None:
        """Close what is open, as the work is to end. Raises Died, Lost."""


def serve(make: Callable[[], Load], pipe: Connection) -> None:
    """The life of a load's process: does what the parent says, and answers (word, text, figures).

    "go": work until the daemon dies ("died") or the parent says "halt" ("halted"); "verify", "verify everything":
    "ok"; None: the end, at any time. Whatever goes wrong is "lost".
    """
    os.umask(0)
    sys.setrecursionlimit(100_000)  # pickle follows the tree of the model
    load: Load | None = None
    while (word := pipe.recv()) is not None:
        try:
            load = load or make()
            if word == "go":
                answer = _work(load, pipe)
            else:
                load.verify(everything=word == "verify everything")
                answer = ("ok", "")
        except Lost as error:
            answer = ("lost", str(error))
        except SystemExit:
            return
        except BaseException:
            answer = ("lost", traceback.format_exc())
        figures = {**load.figures, "steps": load.log.steps, "stale": load.log.stale} if load is not None else {}
        pipe.send((*answer, figures))


def _work(load: Load, pipe: Connection) -> tuple[str, str]:
    try:
        while not pipe.poll():
            load.work()
        if pipe.recv() != "halt":
            raise SystemExit  # the parent has given up
        load.rest()
    except Died as died:
        return "died", str(died)
    return "halted", ""


def digest(data: bytes) -> str:
    """A short name for some bytes."""
    return blake2b(data, digest_size=12).hexdigest()
