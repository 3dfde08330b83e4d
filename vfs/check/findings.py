"""What a check finds: problems as data, counted on their way to whoever asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

STEP = 256  # rows between two calls of `progress`

Item = TypeVar("Item")
Progress = Callable[[str, int, int], None]  # what is being read, how much of it is done, how much there is


class Kind(StrEnum):
    """Where the fault lies."""

    JOURNAL = "journal"  # a record is damaged, missing, or makes no sense
    CATALOG = "catalog"  # a row is not what the journal gives, or the rows contradict each other: rebuild mends it
    BLOCK = "block"  # stored bytes are damaged or lost
    VERSION = "version"  # a version that cannot be read because of that
    REFERENCES = "references"  # a block's count of references is wrong


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault. where: the thing, in words that name it. harmless: nothing that anybody can read is affected."""

    kind: Kind
    where: str
    message: str
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """What was read, and how many problems were reported. torn_bytes: those at the journal's end that no open keeps."""

    events: int
    blocks: int
    block_bytes: int
    keys: int
    versions: int
    inodes: int
    torn_bytes: int
    problems: int
    harmless: int


class Findings:
    """Passes problems on. Invariant: `problems` and `harmless` count what was passed on."""

    def __init__(self, report: Callable[[Problem], None], progress: Progress) -> None:
        self._report = report
        self._progress = progress
        self.problems = 0
        self.harmless = 0

    def add(self, kind: Kind, where: str, message: str, *, harmless: bool = False) -> None:
        """Report a problem."""
        if harmless:
            self.harmless += 1
        else:
            self.problems += 1
        self._report(Problem(kind, where, message, harmless))

    def progress(self, what: str, done: int, total: int) -> None:
        """Tell how far it is."""
        self._progress(what, done, total)

    def track(self, what: str, total: int, items: Iterable[Item]) -> Iterator[Item]:
        """*items*, telling the progress now and then."""
        for done, item in enumerate(items):
            if done % STEP == 0:
                self._progress(what, done, max(done, total))
            yield item
        self._progress(what, total, total)
