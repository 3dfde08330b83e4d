"""When things become durable: syncs that callers wait for, and the catalog checkpoints of the background.

Whoever waits for a sync that began after their change shares it. Most of them are one write to the sync log, and where
the disk has been quick that is done inline, for it takes less than to wake a thread and be woken by it. All others run
in a worker thread. A checkpoint syncs in the thread first, then once more inline what came in meanwhile (little), so
that the catalog commits nothing that is not in its own place: between that and the commit there is no await.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import trio

from vfs.errors import DiskFailed, NoSpace
from vfs.service.health import Health
from vfs.store import Store, sync_files

log = logging.getLogger("vfs.durability")

RETRY_S = 5.0  # between attempts when the disk is full
INLINE_US_MAX = 500  # what a write to the sync log may take to be done inline
QUICK_WRITES = 8  # in a row that were as quick as that, before one is done inline; doubled by each that was not
QUICK_WRITES_MAX = 4096  # so a disk that is slow now and then holds the loop up once in so many syncs


class Pace:
    """Whether the disk has been quick enough to wait for it inline. Invariant: after a slow write the next
    QUICK_WRITES are not done inline.
    """

    def __init__(self) -> None:
        self._quick = 0
        self._wanted = QUICK_WRITES

    @property
    def is_quick(self) -> bool:
        return self._quick >= self._wanted

    def took(self, ns: int) -> None:
        """A write took so long."""
        if ns <= INLINE_US_MAX * 1000:
            self._quick += 1
            return
        if self.is_quick:
            self._wanted = min(2 * self._wanted, QUICK_WRITES_MAX)
        self._quick = 0


class Durability:
    """Syncs and checkpoints of one store. Invariant: at most one write to the sync log and at most one sync of the
    segments run at a time.
    """

    def __init__(self, store: Store, health: Health | None = None) -> None:
        self._store = store
        self.health = Health(store) if health is None else health
        self._lock = trio.Lock()
        self._placing = trio.Lock()
        self._pace = Pace()
        self._log_wanted = trio.Event()
        self.commits = trio.Lock()  # whoever has it may rely on it that the catalog is not committed
        self._changed = trio.Event()
        self._urgent = trio.Event()
        self._dirty = trio.Event()
        self.full = trio.Event()  # set by a checkpoint of what was changed on a full disk; for who gives space back

    def changed(self) -> None:
        """Something was changed: a checkpoint is due within the commit interval, or at once if much has happened."""
        self._changed.set()
        if self._store.wants_checkpoint:
            self._urgent.set()

    def written(self) -> None:
        """Something was written to an open file: an interim draft is due within the commit interval."""
        self._dirty.set()

    async def sync(self) -> None:
        """Return when everything done before this call survives a power loss. Raises DiskFailed."""
        number = self._store.core.journal.end.number
        async with self._lock:
            if self._store.core.journal.durable < number and not await self._log():
                async with self._placing:
                    await self._place()
                if self._store.wants_log:
                    self._log_wanted.set()

    async def _log(self) -> bool:
        """Make everything so far durable in the sync log. False: that cannot be done. Raises DiskFailed."""
        logged = self._store.begin_logging()
        if logged is None:
            return False
        try:
            if self._pace.is_quick and not self._placing.locked():
                took = _timed(logged.entry.write)
            else:
                took = await trio.to_thread.run_sync(_timed, logged.entry.write)
        except NoSpace:  # from a file system that does not write in place
            return False
        except DiskFailed as error:
            self._store.fail(error)
            raise
        self._pace.took(took)
        self._store.end_logging(logged)
        self._changed.set()
        if self._store.log_is_half_full:
            self._urgent.set()
        return True

    async def _place(self) -> None:
        """Sync everything so far in its own place."""
        pending = self._store.begin_sync()
        try:
            await trio.to_thread.run_sync(sync_files, pending)
        except DiskFailed as error:
            self._store.fail(error)
            raise
        self._store.end_sync(pending)

    async def checkpoint(self) -> None:
        """Sync, and commit the catalog. Raises DiskFailed, NoSpace."""
        await self._acquire_commits()
        try:
            async with self._placing:
                await self._place()
                began = time.monotonic()
                self._store.checkpoint()
                log.debug("catalog checkpoint: the loop stood still for %.1f ms", (time.monotonic() - began) * 1e3)
        finally:
            self.commits.release()

    async def _acquire_commits(self) -> None:
        """While somebody else has them, what is closed becomes durable all the same within the commit interval."""
        while True:
            if self.commits.locked():
                await self.sync()
            with trio.move_on_after(self._store.settings.commit_interval):
                await self.commits.acquire()
                return

    async def run(self) -> None:
        """Checkpoint within the commit interval after a change, make interim drafts of what stays open within as much
        after a write, and the sync log when it is wanted, for ever. Sleeps while nothing changes.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._make_log)
            nursery.start_soon(self._make_interim_drafts)
            await self._keep_up()

    async def _make_log(self) -> None:
        await self._log_wanted.wait()
        try:
            self._store.use_log(await trio.to_thread.run_sync(self._store.make_log))
        except (NoSpace, DiskFailed) as error:
            log.warning("syncs stay slow until the next start: no sync log: %s", error)

    async def _make_interim_drafts(self) -> None:
        interims = self._store.files.interims
        while True:
            await self._dirty.wait()
            await trio.sleep(self._store.settings.commit_interval)
            self._dirty = trio.Event()
            try:
                for _ in interims.make():
                    await trio.lowlevel.checkpoint()
                self.changed()
            except NoSpace as error:  # what was written to open files is not safe until there is room
                self.health.met(error)
            except DiskFailed:
                await trio.sleep(math.inf)  # logged; the store is read-only from here on
            if interims.are_due:
                self._dirty.set()

    async def _keep_up(self) -> None:
        while True:
            await self._changed.wait()
            with trio.move_on_after(self._store.settings.commit_interval):
                await self._urgent.wait()
            self._changed = trio.Event()
            self._urgent = trio.Event()
            try:
                self._store.files.publish_left()
                await self.checkpoint()
                if self._store.is_short:
                    self.full.set()
                if not self._store.wants_checkpoint:  # what came while it was synced is committed too
                    self._urgent = trio.Event()
            except NoSpace as error:
                self.health.met(error)
                self._changed.set()
                await trio.sleep(RETRY_S)
            except DiskFailed:
                await trio.sleep(math.inf)  # logged; the store is read-only from here on


def _timed(write: Callable[[], None]) -> int:
    """How many ns it takes. For any thread."""
    began = time.perf_counter_ns()
    write()
    return time.perf_counter_ns() - began
