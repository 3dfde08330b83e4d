"""What a check finds: problems as data, counted on their way to whoever asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

TOLD_MAX = 10_000  # problems that are not told twice
STEP = 256  # rows between two calls of `progress`

Item = TypeVar("Item")
Progress = Callable[[str, int, int], None]  # what is being read, how much of it is done, how much there is


class Kind(StrEnum):
    """Where the fault lies."""

    SYNCLOG = "synclog"  # what was synced last before a crash cannot be read
    JOURNAL = "journal"  # a record is damaged or missing, or a newer vfs has written it
    RECORD = "record"  # one that nobody can apply: opening the store sets it aside
    SNAPSHOT = "snapshot"  # what stands for the beginning of the journal is damaged: a new one can be made
    CATALOG = "catalog"  # a row is not what the journal gives, or the rows contradict each other: rebuild mends it
    BLOCK = "block"  # stored bytes are damaged or lost
    HEADER = "header"  # a block is intact, and what tells a scan so is not: repair writes it again
    VERSION = "version"  # a version that cannot be read because of that
    PART = "part"  # the same of a part of a multipart upload under way
    DISK = "disk"  # a place that the disk cannot read; what that harms is told besides
    REFERENCES = "references"  # a block's count of references is wrong


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault. where: the thing, in words that name it. harmless: nothing that anybody can read is affected.

    block: the id of the block that it is about, in hex. path and version_id: the version, if it is one that
    `vfs purge` can name. bucket, key, upload_id, part_number: the part, as an S3 client names it. Empty, or None, where
    there is none.
    """

    kind: Kind
    where: str
    message: str
    harmless: bool = False
    block: str = ""
    path: str = ""
    version_id: str = ""
    bucket: str = ""
    key: str = ""
    upload_id: str = ""
    part_number: int | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What was read, and how many problems were reported. torn_bytes: those at the journal's end that no open keeps.
    opens: the store can be opened, whatever is wrong with its journal. last_event: when the last event that was read
    happened, in µs since 1970; 0 if none was.
    """

    events: int
    blocks: int
    block_bytes: int
    keys: int
    versions: int
    inodes: int
    torn_bytes: int
    problems: int
    harmless: int
    opens: bool = True
    last_event: int = 0


class Findings:
    """Passes problems on. Invariant: `problems` and `harmless` count what was passed on."""

    def __init__(self, report: Callable[[Problem], None], progress: Progress) -> None:
        self._report = report
        self._progress = progress
        self._told: set[Problem] = set()
        self.problems = 0
        self.harmless = 0

    def add(self, kind: Kind, where: str, message: str, *, harmless: bool = False) -> None:
        """Report a problem."""
        self._pass_on(Problem(kind, where, message, harmless))

    def add_block(self, kind: Kind, block: bytes, message: str, *, harmless: bool = False) -> None:
        """Report a problem of a block."""
        self._pass_on(Problem(kind, f"block {block.hex()}", message, harmless, block=block.hex()))

    def add_version(self, path: str, version_id: str, message: str) -> None:
        """Report a version that cannot be read."""
        where = f"{path} version {version_id}"
        self._pass_on(Problem(Kind.VERSION, where, message, path=path, version_id=version_id))

    def add_part(self, bucket: str, key: str, upload_id: str, number: int, message: str) -> None:
        """Report a part of an upload under way that cannot be read."""
        where = f"{bucket}/{key} upload {upload_id} part {number}"
        part = Problem(Kind.PART, where, message, bucket=bucket, key=key, upload_id=upload_id, part_number=number)
        self._pass_on(part)

    def _pass_on(self, problem: Problem) -> None:
        if problem in self._told:
            return  # of the catalog as it is, and as an opening will leave it
        if len(self._told) < TOLD_MAX:
            self._told.add(problem)
        if problem.harmless:
            self.harmless += 1
        else:
            self.problems += 1
        self._report(problem)

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
