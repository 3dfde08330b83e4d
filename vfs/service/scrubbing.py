"""The task that keeps the online scrub going (vfs.scrub): when it reads, in which thread, and what it logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

import trio

from vfs.catalog import UNREADABLE
from vfs.model import BlockId, Seq
from vfs.scrub import Damage, Scrub, Target, read_blocks, read_parents
from vfs.service.health import Health
from vfs.store import Store

log = logging.getLogger("vfs.scrub")

TURNS_PER_PERIOD = 4320  # every ten minutes, with a period of 30 days
TURN_S_LEAST = 0.05
LOOK_S = 60.0  # between two looks whether what is damaged is still needed
BLOCKS_AGAIN = 16  # damaged ones that are read in one go when the store is opened
YIELD_S = 0.01  # between two looks at many rows of the catalog
REST = 9  # rests so many times as long as it took: it never has more than a tenth of a disk or core
SEARCHES_PER_PASS_MAX = 16  # for the versions that damage harms: each reads all manifests
VERSIONS_NAMED_MAX = 100  # per search
MOVES_MAX = 8  # how often a block is followed that moves whenever it is read

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class Scrubbing:
    """The scrub of one store. *facts*: of the mount, for its status; its entry ``Scrub`` is kept up to date."""

    def __init__(self, store: Store, facts: dict[str, object], health: Health) -> None:
        self._facts = facts
        self._health = health
        self._scrub = Scrub(store)  # remembers what is damaged, even if it reads nothing
        self._is_on = store.settings.scrub_period > 0
        self._searches = 0
        health.on_damage = self._met
        self._tell()

    def _tell(self) -> None:
        self._facts["Scrub"] = self._scrub.figures() if self._is_on else None
        self._health.scrubbed(self._scrub.damaged_blocks)

    def _met(self, block: bytes) -> bool:
        """A reader met a damaged block. Returns whether that is remembered."""
        before = self._scrub.damaged_blocks
        known = self._scrub.remember(BlockId(block))
        if self._scrub.damaged_blocks > before:
            self._scrub.save()
            self._tell()
        return known

    async def run(self) -> None:
        """Scrub for ever. A fault of the scrub itself is logged and ends it: the mount is worth more."""
        scrub = self._scrub
        try:
            is_new = True
            while True:
                try:
                    if is_new:
                        await self._look_again(scrub)
                        is_new = False
                    if self._is_on:
                        await self._turn(scrub)
                except (OSError, MemoryError) as error:  # no descriptors, no memory
                    log.warning("the scrub goes on later: %r", error)
                if self._is_on or scrub.damaged_blocks:
                    scrub.forget_mended((), ())
                    scrub.save()
                    self._tell()
                await trio.sleep(self._pause_s)
        except UNREADABLE as error:
            self._health.unreadable(error, "the scrub ends: ")
        except Exception:
            log.exception("the scrub ends; this is a bug in vfs")
        finally:
            scrub.save()

    @property
    def _pause_s(self) -> float:
        """Until the next turn; what is damaged may be purged at any time."""
        pause = max(self._scrub.period_s / TURNS_PER_PERIOD, TURN_S_LEAST) if self._is_on else LOOK_S
        return min(pause, LOOK_S) if self._scrub.damaged_blocks else pause

    async def _look_again(self, scrub: Scrub) -> None:
        """Forget what was mended while the store was closed."""
        before = scrub.damaged_blocks
        targets = scrub.damaged()
        for start in range(0, len(targets), BLOCKS_AGAIN):
            some = targets[start : start + BLOCKS_AGAIN]
            scrub.forget_mended(some, await _gently(read_blocks, scrub.folder, some))
        if scrub.damaged_blocks != before:
            scrub.save()
            self._tell()

    async def _turn(self, scrub: Scrub) -> None:
        """Read everything that is due."""
        before = scrub.figures()["LastPass"]
        while (targets := scrub.next_targets()) is not None:
            if not targets:
                await trio.sleep(YIELD_S)
                continue
            try:
                damages = await self._read(scrub, targets)
            except BaseException:  # also that the daemon ends
                scrub.put_back()
                raise
            scrub.forget_mended(targets, damages)
            if damages:
                await self._report(scrub, damages)
            self._tell()
        if scrub.figures()["LastPass"] != before:
            log.info("scrubbed: every block was read; damaged blocks: %s", scrub.figures()["DamagedBlocks"])
            self._searches = 0

    async def _read(self, scrub: Scrub, targets: list[Target]) -> list[Damage]:
        """Those of *targets* that are damaged."""
        damages = []
        for _ in range(MOVES_MAX):
            if not targets:
                break
            targets, found = scrub.judge(await _gently(read_blocks, scrub.folder, targets))
            damages += found
        return damages

    async def _report(self, scrub: Scrub, damages: Sequence[Damage]) -> None:
        """Log each damaged block, and the versions that it harms."""
        for damage in damages:
            log.error("damage: %s", damage)
        if self._searches == SEARCHES_PER_PASS_MAX:
            log.error("there is so much damage that the versions are not searched for; `vfs check` names them")
        self._searches += 1
        if self._searches > SEARCHES_PER_PASS_MAX:
            return
        harmed, count = await self._harmed(scrub, {damage.target.block for damage in damages})
        blocks = ", ".join(damage.target.block.hex() for damage in damages[:3]) + (", …" if len(damages) > 3 else "")
        for name in harmed:
            log.error("damage harms %s: it needs one of the damaged blocks %s", name, blocks)
        if count > len(harmed):
            log.error("damage harms %d versions more; `vfs check` names them", count - len(harmed))

    async def _harmed(self, scrub: Scrub, damaged: set[BlockId]) -> tuple[list[str], int]:
        """The names of the versions that need one of the blocks, the first VERSIONS_NAMED_MAX, and how many it are."""
        above = damaged
        while True:  # once per level of the deepest tree
            found: set[BlockId] = set()
            after: bytes | None = b""
            while after is not None:
                nodes, after = scrub.nodes(after)
                found.update(await _gently(read_parents, scrub.folder, nodes, above))
            if found <= above:
                break
            above = above | found
        names: list[str] = []
        count = 0
        seq: Seq | None = Seq(0)
        while seq is not None:
            more, seq = scrub.versions(seq, above)
            count += len(more)
            names += more[: VERSIONS_NAMED_MAX - len(names)]
            await trio.sleep(YIELD_S)
        return names, count


async def _gently(call: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """What *call* returns, from a thread, after a rest."""
    began = time.monotonic()
    result = await trio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True)
    await trio.sleep(REST * (time.monotonic() - began))
    return result
