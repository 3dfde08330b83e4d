"""The online scrub: reads every block that something needs, over and over, and tells what is damaged.

Owns how far it has come and what it has found (``scrub.json`` in the store), and decides what is due. It follows the
catalog's rows in the order of the blocks' ids. Ids are hashes, so an id also tells which share of the blocks lies
before it: a block is due when that share of the period has passed.

Blocks move and go while it reads. So it asks the catalog again before it takes anything for damage. Knows no trio:
everything here belongs to the thread of the engine, but `read_blocks` and `read_parents`, which run in any thread and
touch nothing but files that they open themselves.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from vfs.blocks import BLOCK_BYTES, FOLDER, ID_BYTES, LOST, Place, decode, identify
from vfs.catalog import BlockRow
from vfs.check.names import path_of_key
from vfs.content import children
from vfs.disk import DAMAGED
from vfs.errors import Unsafe
from vfs.folder import Folder
from vfs.model import BlockId, KeyId, Seq
from vfs.names import format_version_id
from vfs.store import Store

STATE = "scrub.json"
STATE_NEW = "scrub.new"
STATE_BYTES_MAX = 1 << 20
SECONDS_PER_DAY = 86_400
PIECE_BYTES_MAX = 2 << 20  # read in one go of a thread
PIECE_BLOCKS_MAX = 256
ROWS_PER_TURN_MAX = 1024  # of the catalog, looked at in one go
DAMAGED_KEPT_MAX = 1000  # damaged blocks that are remembered; more are only logged

_PAGE = 4096
_NO_MORE_VERSIONS = (1 << 64) - 1


class Target(NamedTuple):
    """A block to read."""

    block: BlockId
    place: Place
    node: bool


class Damage(NamedTuple):
    """A target that is not what it should be, and what it is instead."""

    target: Target
    found: str

    def __str__(self) -> str:
        if self.target.place == LOST:
            return f"expected block {self.target.block.hex()}, found {self.found}"
        segment, offset, length = self.target.place
        return (
            f"{FOLDER}/{segment:08x} at byte {offset}, {length} bytes: "
            f"expected block {self.target.block.hex()}, found {self.found}"
        )


class State(msgspec.Struct):
    """What is remembered. position: the id of the last block that was read in this pass, in hex. began, finished:
    this pass and the last one, in s since 1970. damaged: ids in hex.
    """

    position: str = ""
    began: float = 0.0
    finished: float | None = None
    damaged: list[str] = []

    def check(self, now: float) -> None:
        """Raise ValueError for what no scrub remembers."""
        blocks = [bytes.fromhex(text) for text in self.damaged]
        if len(bytes.fromhex(self.position)) not in (0, ID_BYTES) or any(len(block) != ID_BYTES for block in blocks):
            raise ValueError("an id of another length")
        if len(blocks) > DAMAGED_KEPT_MAX:
            raise ValueError("more damaged blocks than are remembered")
        if not (self.began >= 0 and 0 <= (self.finished or 0) <= now + SECONDS_PER_DAY):
            raise ValueError("a time that cannot have been")


class Scrub:
    """One pass after the other over the blocks of a store. Invariant: all blocks up to `position` that something needed
    when this pass came to them were intact then, or are among `damaged`.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._catalog = store.core.catalog
        self._root = store.root
        self._clock = clock
        self.folder = store.root.folder(FOLDER)
        self.period_s = store.settings.scrub_period * SECONDS_PER_DAY
        state = self._load()
        self._position = self._before = bytes.fromhex(state.position)
        self._began = min(state.began or clock(), clock())
        self._finished = state.finished
        self._damaged = {BlockId(bytes.fromhex(block)) for block in state.damaged}

    def _load(self) -> State:
        """What the last daemon remembered; if that cannot be read or makes no sense, all begins anew."""
        try:
            state = msgspec.json.decode(self._root.read(STATE, STATE_BYTES_MAX), type=State)
            state.check(self._clock())
        except (OSError, ValueError, Unsafe):  # msgspec.DecodeError is a ValueError
            return State()
        return state

    def save(self) -> None:
        """Remember how far it is. Not synced: a power loss costs some reading again."""
        state = State(self._position.hex(), self._began, self._finished, sorted(block.hex() for block in self._damaged))
        with contextlib.suppress(OSError):  # a full disk: the same
            self._root.replace(STATE, STATE_NEW, msgspec.json.encode(state), durably=False)

    @property
    def damaged_blocks(self) -> int:
        """How many are known to be damaged."""
        return len(self._damaged)

    def figures(self) -> dict[str, object]:
        """For `vfs status`: how far this pass is, when it began and the last one ended, and what is damaged."""
        return {
            "PeriodDays": self.period_s / SECONDS_PER_DAY,
            "Progress": round(_share(self._position), 4) if self._position else 0.0,
            "PassBegan": _time(self._began),
            "LastPass": None if self._finished is None else _time(self._finished),
            "DamagedBlocks": self.damaged_blocks,
        }

    # -- what to read -----------------------------------------------------------------------------------------

    def next_targets(self) -> list[Target] | None:
        """The next blocks that are due, and from now on takes them for read; None if nothing is due any more.

        An empty list: there were only blocks that nobody needs. Ends the pass where there are no more.
        """
        self._before = self._position
        due = (self._clock() - self._began) / self.period_s
        targets: list[Target] = []
        size = 0
        for looked_at, (block, row) in enumerate(self._catalog.blocks(self._position)):
            if _share(block) > due:
                return targets or None
            if looked_at == ROWS_PER_TURN_MAX or size >= PIECE_BYTES_MAX or len(targets) == PIECE_BLOCKS_MAX:
                return targets
            self._position = block
            if row.references:
                targets.append(_target(block, row))
                size += row.place.length
        if targets or due < 1:
            return targets or None
        self._finished = self._clock()
        self._began = self._finished
        self._position = b""
        return None

    def put_back(self) -> None:
        """The last of `next_targets` could not be read now: they are due again."""
        self._position = self._before

    def judge(self, damages: Sequence[Damage]) -> tuple[list[Target], list[Damage]]:
        """What to read once more, because it moved meanwhile, and what is damage, which is remembered."""
        moved, real = [], []
        for damage in damages:
            block = damage.target.block
            row = self._catalog.block(block)
            if row is None or not row.references:
                continue
            target = _target(block, row)
            if target.place != damage.target.place:
                moved.append(target)
                continue
            self._add(block)
            real.append(damage)
        return moved, real

    def _add(self, block: BlockId) -> None:
        if len(self._damaged) < DAMAGED_KEPT_MAX:
            self._damaged.add(block)

    def remember(self, block: BlockId) -> bool:
        """Somebody found a block damaged. Returns whether that is remembered."""
        row = self._catalog.block(block)
        if row is not None and row.references:
            self._add(block)
        return block in self._damaged

    def damaged(self) -> list[Target]:
        """The blocks that are known to be damaged, to be read again."""
        self.forget_mended((), ())
        rows = ((block, self._catalog.block(block)) for block in sorted(self._damaged))
        return [_target(block, row) for block, row in rows if row is not None]

    def forget_mended(self, read: Sequence[Target], damages: Sequence[Damage]) -> None:
        """Of what was damaged before, forget what is intact now, and what nobody needs any more."""
        if not self._damaged:
            return
        self._damaged -= {target.block for target in read} - {damage.target.block for damage in damages}
        for block in list(self._damaged):
            row = self._catalog.block(block)
            if row is None or not row.references:
                self._damaged.discard(block)

    # -- what damage harms ------------------------------------------------------------------------------------

    def nodes(self, after: bytes) -> tuple[list[Target], bytes | None]:
        """Some nodes behind an id, and the id to go on from, None at the end."""
        found: list[Target] = []
        for looked_at, (block, row) in enumerate(self._catalog.blocks(after)):
            if looked_at == ROWS_PER_TURN_MAX or len(found) == PIECE_BLOCKS_MAX:
                return found, after
            after = block
            if row.node and row.references and row.place != LOST:
                found.append(_target(block, row))
        return found, None

    def versions(self, after: Seq, roots: set[BlockId]) -> tuple[list[str], Seq | None]:
        """Of some versions behind a sequence those whose root is one of *roots*, by name, and the sequence to go on
        from, None at the end. Then, those that are not published.
        """
        harmed: list[str] = []
        for _ in range(ROWS_PER_TURN_MAX):
            seq = self._catalog.first_version_after(after)
            if seq == _NO_MORE_VERSIONS:
                return harmed + list(self._drafts(roots)), None
            after = seq
            key = self._catalog.key_of_version(seq)
            version = None if key is None else self._catalog.version(key, seq)
            if key is not None and version is not None and version.content.root in roots:
                harmed.append(self._named(key, f"version {format_version_id(seq, null=version.null)}"))
        return harmed, after

    def _drafts(self, roots: set[BlockId]) -> Iterator[str]:
        drafts = [(ino, draft.content) for ino, draft in self._catalog.drafts()]
        for ino, content in [*drafts, *((ino, interim.content) for ino, interim in self._catalog.interims())]:
            inode = self._catalog.find_inode(ino)
            if content.root in roots and inode is not None:
                yield self._named(inode.key, "not yet published")

    def _named(self, key: KeyId, what: str) -> str:
        return f"{path_of_key(self._catalog, key)} {what}"


def _target(block: BlockId, row: BlockRow) -> Target:
    return Target(block, row.place, row.node)


def _share(block: bytes) -> float:
    """The share of all blocks that lies before an id."""
    return int.from_bytes(block[:8].ljust(8, b"\0")) / (1 << 64)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


# -- in any thread ----------------------------------------------------------------------------------------------------


def read_blocks(folder: Folder, targets: Sequence[Target]) -> list[Damage]:
    """Read blocks from the disk. Returns those that are not what they should be. Raises OSError."""
    return [Damage(target, found) for target, found in _read(folder, targets) if not isinstance(found, bytes)]


def read_parents(folder: Folder, nodes: Sequence[Target], below: set[BlockId]) -> list[BlockId]:
    """Those of *nodes* that have one of *below* among their children. Raises OSError."""
    return [
        target.block
        for target, data in _read(folder, nodes)
        if isinstance(data, bytes) and not below.isdisjoint(children(data))
    ]


def _read(folder: Folder, targets: Sequence[Target]) -> Iterator[tuple[Target, bytes | str]]:
    """Each target with its bytes, or with what is there instead; in the order of the disk."""
    fd, opened = -1, -1
    try:
        for target in sorted(targets, key=lambda target: target.place):
            segment, offset, length = target.place
            if target.place == LOST:
                yield target, "none of its bytes: it was lost before"
                continue
            if length > BLOCK_BYTES:
                yield target, "a place of a length that no block has"
                continue
            try:
                if segment != opened:
                    if fd >= 0:
                        os.close(fd)
                    fd, opened = -1, -1
                    fd = folder.open(f"{segment:08x}")
                    opened = segment
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # read ahead nothing
                stored = _read_from_disk(fd, offset, length)
            except OSError as error:
                if error.errno not in DAMAGED:
                    raise
                yield target, f"an error of the disk: {error.strerror}"
                continue
            except (Unsafe, OverflowError) as error:
                yield target, str(error)
                continue
            decoded = decode(target.block, stored, node=target.node)
            if decoded is not None:
                yield target, decoded.data
            else:
                found = identify(stored, node=target.node).hex()
                yield target, found if len(stored) == length else "its end missing"
    finally:
        if fd >= 0:
            os.close(fd)


def _read_from_disk(fd: int, offset: int, length: int) -> bytes:
    """Not from the page cache, which would say nothing of the disk; and leaving nothing there, which would take the
    place of what somebody reads more often than once in a period.
    """
    start = offset - offset % _PAGE
    end = offset + length + -(offset + length) % _PAGE
    os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)
    parts, done = [], 0
    while done < length and (part := os.pread(fd, length - done, offset + done)):
        parts.append(part)
        done += len(part)
    os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)
    return b"".join(parts)
