"""Giving space back: blocks that nothing refers to, and a journal that a snapshot can stand for.

Owns the decision what may go, and the order in which it goes (docs/format.md, "Space"). It is written as generators of
steps, so that whoever drives them says where the slow parts run and how much they may disturb: the daemon runs them in
a thread, with pauses; `run` does all of it at once. Between two steps anything may happen to the store. What a step
raises is thrown into the generator.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from vfs import snapshot
from vfs.blocks import HEADER_BYTES, Found, headers, identify
from vfs.content import WorkingCopy, children
from vfs.disk import File
from vfs.errors import Corrupt, NoSpace, VfsError
from vfs.model import BlockId
from vfs.store import CATALOG_COPY, Store

log = logging.getLogger("vfs.gc")

BLOCKS_PER_STEP_MAX = 500  # looked up in the index in one go, about 2 ms
MOVED_BYTES_PER_STEP_MAX = 1 << 20
PUNCHES_PER_STEP_MAX = 500
PINS_MAX = 1_000_000  # blocks of open files that nothing refers to yet: 128 GiB; with more, nothing is collected
PAGE_BYTES = 4096  # what a disk gives back; a smaller page would only waste less
FOLD_BYTES_MIN = 64 << 20  # a journal below that is left alone
FOLD_THOROUGH_BYTES_MIN = 64 << 10  # the same when everything is to be given back
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

    CHECKPOINT = auto()
    HOLD = auto()  # no catalog checkpoint from here to the end of the steps


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
    """One collection. Invariant: a block leaves the index before its bytes go, and its bytes go only after a checkpoint
    without it is durable; `pins` has every block that nothing refers to and that open content needs.
    """

    def __init__(self, store: Store, *, thorough: bool) -> None:
        self._store = store
        self._core = store.core
        self._files = store.files
        self._thorough = thorough
        self._pins: set[BlockId] = set()
        self._walked: set[WorkingCopy] = set()
        self.collected = Collected()

    def steps(self) -> Steps:
        """Free what can be freed. thorough: all of it, whatever it costs; else where it pays. Raises NoSpace."""
        store = self._core.blocks
        store.pins = self._pins
        try:
            if self._thorough and self._pays(store.end.segment):
                store.roll()
                yield Need.CHECKPOINT
            segments = [segment for segment in store.segments() if segment < store.end.segment]
            for copy in self._files.copies():  # what is stored from here on is pinned, or lies behind these segments
                yield from self._pin(copy)
            for segment in segments:
                yield from self._segment(segment)
        except TooManyPins:
            log.warning("open files have more than %d blocks that are not published: no space is freed", PINS_MAX)
        finally:
            store.pins = None
        yield from self._fold()

    # -- what is open -----------------------------------------------------------------------------------------

    def _pin(self, copy: WorkingCopy) -> Steps:
        """Pin what open content needs and nothing refers to: written early, or purged while it is being read."""
        catalog = self._core.catalog
        below = copy.stored()
        count = 0
        while below:
            block, depth = below.pop()
            count += 1
            if count % BLOCKS_PER_STEP_MAX == 0:
                yield Pause()
            row = catalog.block(block)
            if row is None or row.references or block in self._pins:
                continue
            self._pins.add(block)
            if len(self._pins) > PINS_MAX:
                raise TooManyPins
            if depth:
                below += [(child, depth - 1) for child in children(self._core.blocks.get(block, node=True))]

    def _pin_loose(self) -> Steps:
        """The same for content that may have lost its last reference since it was opened, until there is no more."""
        while loose := [copy for copy in self._files.loose_copies() if self._is_loose(copy)]:
            for copy in loose:
                self._walked.add(copy)
                yield from self._pin(copy)

    def _is_loose(self, copy: WorkingCopy) -> bool:
        if copy in self._walked:
            return False
        rows = (self._core.catalog.block(block) for block, _ in copy.stored())
        return any(row is not None and not row.references for row in rows)

    # -- segments ---------------------------------------------------------------------------------------------

    def _segment(self, segment: int) -> Steps:
        """Free what is dead in a segment that is not appended to any more."""
        if not self._pays(segment):
            return
        file = self._core.blocks.open_segment(segment)
        try:
            loads = self._core.catalog.loads
            kept = _Extents()
            yield from self._sort_out(segment, file, kept)
            yield Need.CHECKPOINT
            if self._core.catalog.loads != loads:
                return  # the catalog fell back to its last checkpoint: what was taken out is in again
            before = file.allocated()
            sparse = kept.size * 4 < file.size
            if kept.size and not sparse and kept.waste <= kept.size // (8 if self._thorough else 1):
                yield from self._punch(file, kept)
                sparse = file.allocated() > 2 * kept.size + 2 * PAGE_BYTES  # a disk that cannot punch
                self.collected.freed += before - file.allocated()
            else:
                sparse = True
            if sparse:
                try:
                    yield from self._move(segment, file)
                except NoSpace:  # then at least what is in whole pages
                    yield from self._punch(file, kept)
                    self.collected.freed += before - file.allocated()
        except Corrupt as error:
            log.error("no space is freed in blocks/%08x: %s; run vfs check", segment, error)
        finally:
            file.close()

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

    def _sort_out(self, segment: int, file: File, kept: _Extents) -> Steps:
        """Take what is dead out of the index; note where the rest is. Raises Corrupt if not all headers are there."""
        catalog = self._core.catalog
        offset = 0
        while offset < file.size:
            found, offset = yield Work(partial(headers, file, segment, offset, BLOCKS_PER_STEP_MAX))
            yield from self._pin_loose()
            for block in found:  # no step in here: what is decided must still be so when it is done
                row = catalog.block(block.block)
                if row is None or row.place != block.place:
                    continue
                if row.references or block.block in self._pins:
                    kept.add(block.place.offset - HEADER_BYTES, block.end.offset)
                else:
                    catalog.forget_block(block.block)
            yield Pause()
        indexed = catalog.segment(segment).indexed
        if kept.size != indexed:
            raise Corrupt(f"blocks/{segment:08x}", expected=f"{indexed} bytes of blocks", found=f"{kept.size}")

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
        while offset < file.size:
            found, offset = yield Work(partial(headers, file, segment, offset, BLOCKS_PER_STEP_MAX))
            there = [block for block in found if self._is_at(block)]
            while there:
                some, there = _some(there)
                contents = yield Work(partial(_read, file, some), sum(block.place.length for block in some))
                for block, data in zip(some, contents, strict=True):
                    if self._is_at(block):
                        core.blocks.append(block.block, data, node=block.node)
                        moved += HEADER_BYTES + len(data)
                yield Pause()
        yield Need.CHECKPOINT
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
        size, room = core.journal.size(), core.catalog.file.stat().st_size
        damaged = []
        if self._thorough:
            for number in snapshot.complete(store.disk):
                intact = yield Work(partial(snapshot.is_intact, store.disk, number))
                damaged += [] if intact else [number]
        least = FOLD_THOROUGH_BYTES_MIN if self._thorough else max(FOLD_BYTES_MIN, FOLD_FACTOR * room)
        if size < least and not damaged:
            return
        core.journal.roll()
        yield Need.CHECKPOINT
        yield Need.HOLD
        for number in damaged:  # the catalog has all that it stands for
            snapshot.remove(store.disk, number)
        number = core.catalog.checkpoint.journal.number
        if number in snapshot.complete(store.disk):
            return
        copy = store.path / CATALOG_COPY
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(mode=0o700)
        try:
            yield Work(partial(core.catalog.copy, copy), room)
            copied = (copy / core.catalog.file.name).stat().st_size
            yield Work(partial(snapshot.write, store.disk, number, copy / core.catalog.file.name), room)
            store.forget_before(number)
            if self._thorough or room > 2 * copied:
                store.replace_catalog(copy)
            self.collected.journal += size - core.journal.size()
        finally:
            shutil.rmtree(copy, ignore_errors=True)


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


def _some(found: list[Found]) -> tuple[list[Found], list[Found]]:
    """The first few blocks, of MOVED_BYTES_PER_STEP_MAX or one more than that, and the rest."""
    size = 0
    for count, block in enumerate(found, 1):
        size += block.place.length
        if size >= MOVED_BYTES_PER_STEP_MAX:
            return found[:count], found[count:]
    return found, []


def _read(file: File, some: list[Found]) -> list[bytes]:
    """The verified bytes of blocks. For any thread. Raises Corrupt."""
    contents = []
    for block in some:
        data = file.read(block.place.offset, block.place.length)
        if identify(data, node=block.node) != block.block:
            where = f"blocks/{block.place.segment:08x} at byte {block.place.offset}"
            raise Corrupt(where, expected=f"block {block.block.hex()}", found="other bytes")
        contents.append(data)
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
            except VfsError as failed:
                error = failed
    except StopIteration:
        return collector.collected
    finally:
        steps.close()
