"""When things become durable: syncs that callers wait for, and the catalog checkpoints of the background.

Syncs run in a worker thread, one at a time; whoever waits for one that began after their change shares it. A
checkpoint syncs in the thread first, then once more inline what came in meanwhile (little), so that the catalog
commits nothing that is not durable: between that and the commit there is no await.
"""

from __future__ import annotations

import logging
import math
import time

import trio

from vfs.errors import DiskFailed, NoSpace
from vfs.store import Store, sync_files

log = logging.getLogger("vfs.durability")

RETRY_S = 5.0  # between attempts when the disk is full


class Durability:
    """Syncs and checkpoints of one store. Invariant: at most one sync runs at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = trio.Lock()
        self.commits = trio.Lock()  # whoever has it may rely on it that the catalog is not committed
        self._changed = trio.Event()
        self._urgent = trio.Event()

    def changed(self) -> None:
        """Something was changed: a checkpoint is due within the commit interval, or at once if much has happened."""
        self._changed.set()
        if self._store.wants_checkpoint:
            self._urgent.set()

    async def sync(self) -> None:
        """Return when everything done before this call survives a power loss. Raises DiskFailed."""
        number = self._store.core.journal.end.number
        async with self._lock:
            if self._store.core.journal.durable < number:
                await self._sync()

    async def _sync(self) -> None:
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
            async with self._lock:
                await self._sync()
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
        """Checkpoint within the commit interval after a change, for ever. Sleeps while nothing changes."""
        while True:
            await self._changed.wait()
            with trio.move_on_after(self._store.settings.commit_interval):
                await self._urgent.wait()
            self._changed = trio.Event()
            self._urgent = trio.Event()
            try:
                await self.checkpoint()
                if not self._store.wants_checkpoint:  # what came while it was synced is committed too
                    self._urgent = trio.Event()
            except NoSpace as error:
                log.error("%s; trying again in %d s", error, RETRY_S)
                self._changed.set()
                await trio.sleep(RETRY_S)
            except DiskFailed:
                await trio.sleep(math.inf)  # logged; the store is read-only from here on
