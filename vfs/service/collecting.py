"""The task that gives space back while the store is mounted (vfs.gc): when, in which thread, and how gently."""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime
from typing import Any

import trio

from vfs.errors import VfsError
from vfs.gc import Collector, Need, Work
from vfs.service.durability import Durability
from vfs.store import Store

log = logging.getLogger("vfs.gc")

SHORT_S = 5.0  # between two collections on a full disk
REST = 4  # in the background it rests so many times as long as it had the loop


class Collecting:
    """The collections of one store, one at a time. *facts*: of the mount, for its status."""

    def __init__(self, store: Store, durability: Durability, facts: dict[str, object]) -> None:
        self._store = store
        self._durability = durability
        self._asked = trio.Event()
        self._facts = facts
        self._seen = 0
        self._runs = 0
        self._tell({"Runs": 0, "Running": False, "LastRun": None, "FreedBytes": 0, "JournalBytes": 0, "Error": None})

    def _tell(self, figures: dict[str, object]) -> None:
        self._figures = figures
        self._facts["Collection"] = figures

    def ask(self) -> None:
        """Begin a thorough collection soon. Its end is told by `Runs` and `Running` in the status."""
        self._tell(self._figures | {"Running": True})
        self._asked.set()

    async def run(self) -> None:
        """Look every interval whether there is garbage; collect thoroughly when asked, or when the disk is full."""
        interval = self._store.settings.gc_interval or math.inf
        while True:
            with trio.move_on_after(interval):
                await self._wait(soon=interval < math.inf)
            asked = self._asked.is_set()
            self._asked = trio.Event()
            made = self._store.events_made  # what is changed during the collection is looked at by the next
            if asked or made != self._seen:
                self._seen = made
                await self._collect(thorough=asked or self._store.is_short, gently=not asked)

    async def _wait(self, *, soon: bool) -> None:
        """Until somebody asks; *soon*: or something was changed while the disk is full, which may have freed space."""
        async with trio.open_nursery() as nursery:
            if soon:
                nursery.start_soon(self._wait_for_full, nursery.cancel_scope)
            await self._asked.wait()
            nursery.cancel_scope.cancel()

    async def _wait_for_full(self, scope: trio.CancelScope) -> None:
        await trio.sleep(SHORT_S)
        while not self._store.is_short or self._store.events_made == self._seen:
            await self._durability.full.wait()
            self._durability.full = trio.Event()
        scope.cancel()

    async def _collect(self, *, thorough: bool, gently: bool) -> None:
        collector = Collector(self._store, thorough=thorough)
        failed = None
        try:
            await self._drive(collector, gently=gently)
        except (VfsError, OSError, MemoryError) as error:
            failed = str(error) or repr(error)
            log.warning("no more space is freed for now: %s", failed)
            if isinstance(error, VfsError):
                self._durability.health.met(error)
        except Exception as error:  # the mount is worth more
            failed = f"{error!r}; this is a bug in vfs"
            log.exception("the collection ends; this is a bug in vfs")
        done = collector.collected
        if done.freed or done.journal:
            self._durability.health.collected()
            log.info("freed %d bytes of blocks and %d bytes of journal", done.freed, done.journal)
        self._runs += 1
        self._tell(
            {
                "Runs": self._runs,
                "Running": self._asked.is_set(),
                "LastRun": datetime.now(UTC).isoformat(timespec="seconds"),
                "FreedBytes": done.freed,
                "JournalBytes": done.journal,
                "Error": failed,
            }
        )

    async def _drive(self, collector: Collector, *, gently: bool) -> None:
        """Run the steps of a collection. Raises what they raise."""
        steps = collector.steps()
        result: Any = None
        error: VfsError | None = None
        held = False
        rest = 0.0
        try:
            while True:
                began = time.monotonic()
                try:
                    step = steps.send(result) if error is None else steps.throw(error)
                except StopIteration:
                    return
                result = error = None
                try:
                    if isinstance(step, Work):
                        result = await trio.to_thread.run_sync(step.call)
                        rest += step.size / self._store.settings.gc_rate / (1 << 20)
                    elif step is Need.CHECKPOINT:
                        await self._durability.checkpoint()
                        await self._durability.sync()
                    elif step is Need.HOLD:
                        await self._durability.commits.acquire()
                        held = True
                    elif step is Need.RELEASE:
                        self._durability.commits.release()
                        held = False
                except VfsError as failed:
                    error = failed
                rest = max(rest, REST * (time.monotonic() - began))
                if held:
                    await trio.lowlevel.checkpoint()  # others wait for it: the rest comes after
                else:
                    await trio.sleep(rest if gently else 0)
                    rest = 0.0
        finally:
            steps.close()
            if held:
                self._durability.commits.release()
