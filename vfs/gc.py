"""Giving space back: blocks that nothing refers to, and a journal that a snapshot can stand for.

Owns the decision what may go, and the order in which it goes (docs/format.md, "Space"). It is written as generators of
steps, so that whoever drives them says where the slow parts run and how much they may disturb: the daemon runs them in
a thread, with pauses; `run` does all of it at once. Between two steps anything may happen to the store. What a step
raises is thrown into the generator.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from vfs import snapshot
from vfs.blocks import HEADER_BYTES, Encoding, Found, candidates, headers, read_verified
from vfs.catalog import FILE
from vfs.content import WorkingCopy, children
from vfs.disk import File, refusal
from vfs.errors import Corrupt, NoSpace, VfsError
from vfs.folder import Folder
from vfs.model import BlockId
from vfs.store import CATALOG_COPY, Store

log = logging.getLogger("vfs.gc")

BLOCKS_PER_STEP_MAX = 500  # looked up in the index in one go, about 2 ms
MOVED_BYTES_PER_STEP_MAX = 1 << 20
PUNCHES_PER_STEP_MAX = 500
DEAD_MAX = 200_000  # blocks that are to be taken out of the index, in memory: 15 MB
ROWS_PER_CHECKPOINT_MAX = 2000  # of the index, changed between two commits, which hold the loop
REPLAYED_EVENTS_MAX = 1000  # that a new catalog takes in, in one go; with more it does not take the old one's place
REPLAYED_BYTES_MAX = 8 << 20  # the same, of blocks
PINS_MAX = 1_000_000  # blocks of open files that nothing refers to yet: 128 GiB; with more, nothing is collected
PAGE_BYTES = 4096  # what a disk gives back; a smaller page would only waste less
FOLD_BYTES_MIN = 64 << 20  # a journal below that is left alone
FOLD_THOROUGH_BYTES_MIN = 64 << 10  # the same when everything is to be given back
SCARCE_FACTOR = 4  # with so many times the room free that a snapshot takes, the journal is folded before it is too late
FOLD_FACTOR = 2  # a journal of so many times the catalog's size is folded


class Pause:
    """Others may run now."""


@dataclass(frozen=True, slots=True)
class Work:
    """Something slow for any thread; the generator wants its result. size: the bytes that it reads or writes."""

    call: Callable[[], Any]
    size: int = 0


class Need(Enum):
    """What the driver has to do before it goes on."""

    CHECKPOINT = auto()  # of the catalog, and then a sync of the journal, whose last record tells of it
    HOLD = auto()  # no catalog checkpoint until RELEASE, or the end of the steps
    RELEASE = auto()


Step = Pause | Work | Need
Steps = Generator[Step, Any, None]


@dataclass(slots=True)
class Collected:
    """What a collection did, in bytes: freed on the disk, moved to do so; journal: what folding removed of it."""

    freed: int = 0
    moved: int = 0
    journal: int = 0


class TooManyPins(Exception):
    """So much is open and unpublished that nobody can tell what is garbage."""


class Collector:
    """One collection. Invariants: a block leaves the index before its bytes go, and its bytes go only after a catalog
    checkpoint without it is durable, and a record that tells of that: so who has the journal alone does not look for
    them. While blocks leave the index, those that nothing refers to and that open content needs are pinned.
    """

    def __init__(self, store: Store, *, thorough: bool) -> None:
        self._store = store
        self._core = store.core
        self._files = store.files
        self._thorough = thorough
        self._changed = 0  # rows of the index since the last checkpoint
        self.collected = Collected()

    def steps(self) -> Steps:
        """Free what can be freed. thorough: all of it, whatever it costs; else where it pays. Raises NoSpace."""
        store = self._core.blocks
        try:
            last = store.end.segment
            if self._thorough and self._pays(last):
                try:
                    store.roll()
                    yield Need.CHECKPOINT
                except NoSpace:  # not even for a name: then holes are punched in the last one too
                    last += 1
            for segment in [segment for segment in store.segments() if segment < max(last, store.end.segment)]:
                yield from self._segment(segment)
                yield Pause()
        except TooManyPins:
            log.warning("open files have more than %d blocks that are not published: no space is freed", PINS_MAX)
        try:
            yield from self._fold()
        except OSError as error:
            raise refusal("the journal cannot be folded", error) from error

    # -- what is open -----------------------------------------------------------------------------------------

    def _pin_what_is_open(self, pins: set[BlockId]) -> Steps:
        """Pin what open content needs and nothing refers to: written early, or purged while it is being read.

        What is opened or stored meanwhile, and what loses its last reference, is pinned by whoever does it.
        """
        for count, copy in enumerate(self._files.copies(), 1):
            yield from self._pin(copy, pins)
            if count % BLOCKS_PER_STEP_MAX == 0:
                yield Pause()

    def _pin(self, copy: WorkingCopy, pins: set[BlockId]) -> Steps:
        catalog = self._core.catalog
        below = copy.stored()
        nodes: set[BlockId] = set()
        count = 0
        while below:
            block, depth = below.pop()
            count += 1
            if count % BLOCKS_PER_STEP_MAX == 0:
                yield Pause()
            row = catalog.block(block)
            if row is None or row.references or block in nodes:
                continue
            pins.add(block)
            if len(pins) > PINS_MAX:
                raise TooManyPins
            if depth:  # also if it is pinned: who pinned it may have stored its children before there were pins
                nodes.add(block)
                below += [(child, depth - 1) for child in children(self._core.blocks.get(block, node=True))]

    # -- segments ---------------------------------------------------------------------------------------------

    def _segment(self, segment: int) -> Steps:
        """Free what is dead in a segment that is not appended to any more."""
        if not self._pays(segment):
            return
        file = self._core.blocks.open_segment(segment)
        try:
            yield from self._collect(segment, file)
        except BaseException:
            file.close()
            raise
        yield Work(file.close)  # the last close of a file that was removed frees its room, which takes a while

    def _collect(self, segment: int, file: File) -> Steps:
        loads = self._core.catalog.loads
        try:
            kept = yield from self._sort_out(segment, file)
            yield from self._checkpoint()
            if self._core.catalog.loads != loads:
                return  # the catalog fell back to its last checkpoint: what was taken out is in again
            before = file.allocated()
            last = segment == self._core.blocks.end.segment
            sparse = kept.size * 4 < file.size
            if last or (kept.size and not sparse and kept.waste <= kept.size // (8 if self._thorough else 1)):
                yield from self._punch(file, kept)
                sparse = file.allocated() > 2 * kept.size + 2 * PAGE_BYTES  # a disk that cannot punch
                self.collected.freed += before - file.allocated()
            else:
                sparse = True
            if sparse and not last:
                try:
                    yield from self._move(segment, file)
                except NoSpace:  # then at least what is in whole pages
                    yield from self._punch(file, kept)
                    self.collected.freed += before - file.allocated()
        except Corrupt as error:
            if self._core.catalog.loads == loads:
                log.error("no space is freed in blocks/%08x: %s; run vfs check", segment, error)

    def _pays(self, segment: int) -> bool:
        """Whether there is enough garbage in a segment: blocks, or room beside them that was not given back."""
        if not segment:
            return False
        file = self._core.blocks.open_segment(segment)
        allocated = file.allocated()
        file.close()
        indexed, live = self._core.catalog.segment(segment)
        room = allocated - live - 2 * PAGE_BYTES
        if self._thorough:
            return indexed != live or not live or room * 8 > live
        return (indexed - live) * 8 > allocated or not live or room > live

    def _sort_out(self, segment: int, file: File) -> Generator[Step, Any, _Extents]:
        """Take what is dead out of the index. Returns where the rest is. Raises Corrupt if headers are missing."""
        pins = self._core.blocks.pins = set()
        try:
            yield from self._pin_what_is_open(pins)
            indexed = -1
            for find in (headers, candidates):  # the second one finds what the first is led past by what was freed
                kept = _Extents()
                dead: list[BlockId] = []
                offset = 0
                while offset < file.size:
                    found, offset = yield _looking(find, file, segment, offset)
                    dead += self._sort(found, pins, kept)
                    yield Pause()
                    if offset >= file.size or len(dead) >= DEAD_MAX:
                        yield from self._forget(segment, dead, pins)
                        dead.clear()
                indexed = self._core.catalog.segment(segment).indexed
                if segment == self._core.blocks.end.segment:
                    indexed -= self._core.blocks.end.offset - file.size  # what came behind since
                if kept.size == indexed:
                    return kept
        finally:
            self._core.blocks.pins = None
        raise Corrupt(f"blocks/{segment:08x}", expected=f"{indexed} bytes of blocks", found=f"{kept.size}")

    def _sort(self, found: list[Found], pins: set[BlockId], kept: _Extents) -> list[BlockId]:
        """Those of *found* that are in the index and that nobody needs; note where the others are."""
        if len(pins) > PINS_MAX:
            raise TooManyPins
        dead = []
        for block in found:
            row = self._core.catalog.block(block.block)
            if row is None or row.place != block.place:
                continue
            if row.references or block.block in pins:
                kept.add(block.place.offset - HEADER_BYTES, block.end.offset)
            else:
                dead.append(block.block)
        return dead

    def _forget(self, segment: int, dead: list[BlockId], pins: set[BlockId]) -> Steps:
        """Take blocks out of the index that still lie in this segment and that still nobody needs: some may have come
        back, which the sum of what is left tells. In the order of the index, so that a commit has few pages to write.
        """
        catalog = self._core.catalog
        dead.sort()
        for at in range(0, len(dead), BLOCKS_PER_STEP_MAX):
            for block in dead[at : at + BLOCKS_PER_STEP_MAX]:
                row = catalog.block(block)
                if row is not None and row.place.segment == segment and not row.references and block not in pins:
                    catalog.forget_block(block)
                    self._changed += 1
            yield from self._checkpoint_if_much()

    def _checkpoint(self) -> Steps:
        self._changed = 0
        yield Need.CHECKPOINT

    def _checkpoint_if_much(self) -> Steps:
        if self._changed >= ROWS_PER_CHECKPOINT_MAX:
            yield from self._checkpoint()
        else:
            yield Pause()

    def _punch(self, file: File, kept: _Extents) -> Steps:
        gaps = kept.gaps(file.size)
        for at in range(0, len(gaps), PUNCHES_PER_STEP_MAX):
            some = gaps[at : at + PUNCHES_PER_STEP_MAX]
            yield Work(partial(_punch, file, some))
        yield Work(file.sync)

    def _move(self, segment: int, file: File) -> Steps:
        """Store what is left in a segment once more, at the end, and remove the segment."""
        core = self._core
        loads = core.catalog.loads
        offset = moved = 0
        while offset < file.size and core.catalog.segment(segment).indexed:
            found, offset = yield _looking(candidates, file, segment, offset)
            there = [block for block in found if self._is_at(block)]
            while there:
                some, there = _some(there)
                contents = yield Work(partial(_read, file, some), sum(block.place.length for block in some))
                for block, (stored, encoding) in zip(some, contents, strict=True):
                    if self._is_at(block):
                        core.blocks.append(block.block, stored, node=block.node, encoding=encoding)
                        moved += HEADER_BYTES + len(stored)
                        self._changed += 1
                yield from self._checkpoint_if_much()
        yield from self._checkpoint()
        if core.catalog.loads == loads and not core.catalog.segment(segment).indexed:
            self.collected.freed += file.allocated() - moved
            core.blocks.remove(segment)

    def _is_at(self, block: Found) -> bool:
        row = self._core.catalog.block(block.block)
        return row is not None and row.place == block.place

    # -- the journal ------------------------------------------------------------------------------------------

    def _fold(self) -> Steps:
        """Let a snapshot of the catalog stand for the journal so far, and write the catalog anew without its gaps."""
        core, store = self._core, self._store
        size, room = core.journal.size(), core.catalog.file_bytes()
        damaged = yield from self._is_beginning_damaged()
        needed = 2 * core.catalog.used_bytes  # for a copy, and the snapshot of it
        free = store.root.free_bytes()
        scarce = free < SCARCE_FACTOR * needed  # soon there may be no room for it
        least = FOLD_THOROUGH_BYTES_MIN if self._thorough else max(FOLD_BYTES_MIN, FOLD_FACTOR * room)
        if scarce:
            least = min(least, max(FOLD_THOROUGH_BYTES_MIN, needed // 2))
        if size < least and not damaged:
            return
        if free < needed:
            log.info("the journal stays as it is: a snapshot may take %d bytes, and %d are free", needed, free)
            return
        if damaged:
            core.commit("checkpoint", [])  # a number that no snapshot has yet
        try:
            core.roll_journal()
        except NoSpace as error:
            log.info("the journal stays as it is: %s", error)
            return
        yield from self._checkpoint()
        try:
            number = yield from self._copy(room)
            if number not in snapshot.complete(store.disk):
                with store.root.folder(CATALOG_COPY) as copy, copy.open_file(FILE) as source:
                    yield from _in_pieces(snapshot.write(store.disk, number, source))
                yield Work(partial(store.forget_before, number))
        finally:
            self._remove_copy()
        self.collected.journal += size - core.journal.size()

    def _is_beginning_damaged(self) -> Generator[Step, Any, bool]:
        """Whether there is neither the beginning of the journal nor an intact snapshot in its place. Then the catalog
        alone has what they would have told.
        """
        disk = self._store.disk
        complete = snapshot.complete(disk)
        if not complete:
            return self._core.journal.segments()[:1] != [1]
        if self._thorough:
            try:
                yield from _in_pieces(snapshot.read(disk, complete[-1]))
            except Corrupt:
                return True
        return False

    def _copy(self, room: int) -> Generator[Step, Any, int]:
        """Copy the catalog of the last checkpoint, and put a copy in its place if that has much to give back. Returns
        the number of the last record that it knows.
        """
        core, store = self._core, self._store
        yield Need.HOLD
        number = core.catalog.checkpoint.journal.number
        with self._new_copy() as copy:
            yield Work(partial(core.catalog.copy, copy), room)
            gaps = room - copy.file_bytes(FILE)
            replaced = False
            if gaps > room // (8 if self._thorough else 2):
                if replaced := self._can_replace():
                    with core.catalog.open_file() as old:
                        store.replace_catalog(copy)
                        yield Work(old.close)  # as above
                else:
                    log.info("the catalog keeps %d bytes that are free in it: too much is being changed", gaps)
        if replaced:
            with self._new_copy() as copy:
                yield Work(partial(core.catalog.copy, copy), room - gaps)
        yield Need.RELEASE
        return number

    def _new_copy(self) -> Folder:
        """An empty directory for a copy. Raises NoSpace, DiskFailed."""
        try:
            self._store.root.remove_folder(CATALOG_COPY)
            return self._store.root.folder(CATALOG_COPY, make=True)
        except OSError as error:
            raise refusal("the catalog cannot be copied", error) from error

    def _remove_copy(self) -> None:
        with contextlib.suppress(OSError):  # the next one begins with that
            self._store.root.remove_folder(CATALOG_COPY)

    def _can_replace(self) -> bool:
        """Whether so little was changed since the checkpoint that a copy of it can take that in at once."""
        end, known = self._core.blocks.end, self._core.catalog.checkpoint.blocks
        few = self._store.events_since_checkpoint <= REPLAYED_EVENTS_MAX
        return few and end.segment == known.segment and end.offset - known.offset <= REPLAYED_BYTES_MAX


class _Extents:
    """The kept parts of a segment, in order. size: their bytes. waste: what their pages hold besides."""

    def __init__(self) -> None:
        self._extents: list[tuple[int, int]] = []
        self.size = 0

    def add(self, start: int, end: int) -> None:
        if self._extents and self._extents[-1][1] == start:
            self._extents[-1] = (self._extents[-1][0], end)
        else:
            self._extents.append((start, end))
        self.size += end - start

    @property
    def waste(self) -> int:
        pages, last = 0, -1
        for start, end in self._extents:
            first = max(start // PAGE_BYTES, last + 1)
            last = (end - 1) // PAGE_BYTES
            pages += last + 1 - first
        return pages * PAGE_BYTES - self.size

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """Offset and length of the whole pages between them, up to *size*."""
        found, at = [], 0
        for start, end in [*self._extents, (size, size)]:
            first, last = -(-at // PAGE_BYTES) * PAGE_BYTES, start // PAGE_BYTES * PAGE_BYTES
            if start == size:
                last = size
            if first < last:
                found.append((first, last - first))
            at = end
        return found


def _looking(find: Callable[..., tuple[list[Found], int]], file: File, segment: int, offset: int) -> Work:
    return Work(partial(find, file, segment, offset, BLOCKS_PER_STEP_MAX), BLOCKS_PER_STEP_MAX * PAGE_BYTES)


def _in_pieces(pieces: Generator[int, None, None]) -> Steps:
    """Slow work that can be left between two pieces. Each tells how many bytes it read or wrote."""
    size = snapshot.FRAME_BYTES_MAX
    try:
        while size:
            size = yield Work(partial(next, pieces, 0), size)
    finally:
        pieces.close()


def _some(found: list[Found]) -> tuple[list[Found], list[Found]]:
    """The first few blocks, of MOVED_BYTES_PER_STEP_MAX or one more than that, and the rest."""
    size = 0
    for count, block in enumerate(found, 1):
        size += block.place.length
        if size >= MOVED_BYTES_PER_STEP_MAX:
            return found[:count], found[count:]
    return found, []


def _read(file: File, some: list[Found]) -> list[tuple[bytes, Encoding]]:
    """What is stored of blocks, verified, and its encoding. For any thread. Raises Corrupt."""
    contents = []
    for block in some:
        stored, decoded = read_verified(file, block.block, block.place, node=block.node)
        contents.append((stored, decoded.encoding))
    return contents


def _punch(file: File, gaps: list[tuple[int, int]]) -> None:
    for offset, length in gaps:
        file.punch(offset, length)


def run(store: Store, *, thorough: bool = True) -> Collected:
    """Collect a store that nobody else uses, all at once. Raises NoSpace, DiskFailed."""
    collector = Collector(store, thorough=thorough)
    steps = collector.steps()
    result: Any = None
    error: VfsError | None = None
    try:
        while True:
            step = steps.send(result) if error is None else steps.throw(error)
            result = error = None
            try:
                if isinstance(step, Work):
                    result = step.call()
                elif step is Need.CHECKPOINT:
                    store.checkpoint()
                    store.place()
            except VfsError as failed:
                error = failed
    except StopIteration:
        return collector.collected
    finally:
        steps.close()
