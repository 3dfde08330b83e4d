"""A store of the real engine, for tests of its pieces: on the host's disk, with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vfs.model import Ino
from vfs.store import Store

START_NS = 1_800_000_000_000_000_000
TICK_NS = 1_000_000


class Clock:
    """Goes on by a millisecond each time it is asked, unless it was told to stand still."""

    def __init__(self) -> None:
        self.now = START_NS
        self.tick = TICK_NS

    def __call__(self) -> int:
        self.now += self.tick
        return self.now

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store", clock=clock)
    yield opened
    opened.abandon()


@pytest.fixture
def bucket(store: Store) -> Ino:
    """The root directory of an Enabled bucket."""
    return store.create_bucket(b"bucket", uid=0, gid=0)
