"""The task that carries lifecycles out (vfs.expiring), with rests, and lets other doors see what went."""

from __future__ import annotations

import logging
import time

import trio

from vfs import expiring
from vfs.catalog import UNREADABLE
from vfs.errors import DiskFailed, NoSpace
from vfs.service.process import Settle
from vfs.store import Store

log = logging.getLogger("vfs.lifecycle")

REST = 4  # times that it rests as long as a step took
REST_S_LEAST = 0.002


class Lifecycles:
    """The lifecycles of one store's buckets."""

    def __init__(self, store: Store, settle: Settle) -> None:
        self._store = store
        self._settle = settle

    async def run(self) -> None:
        """Look every `lifecycle_interval` seconds, for ever. A fault of its own is logged and ends it."""
        interval = self._store.settings.lifecycle_interval
        if not interval:
            return
        try:
            while True:
                await trio.sleep(interval)
                if any(bucket.lifecycle for _, bucket in self._store.buckets()):
                    await self._pass()
        except DiskFailed:
            return  # logged; the store is read-only from here on
        except UNREADABLE as error:
            log.error("lifecycles end: the catalog is damaged (%r); unmount, and run `vfs rebuild`", error)
        except Exception:
            log.exception("lifecycles end; this is a bug in vfs")

    async def _pass(self) -> None:
        steps = expiring.run(self._store, day_s=self._store.settings.lifecycle_day)
        while True:
            began = time.monotonic()
            try:
                done = next(steps, None)
            except NoSpace as error:
                log.warning("lifecycles go on later: %s", error)
                return
            if done is None:
                return
            if done:
                await self._settle([change for action in done for change in action.changed])
            await trio.sleep(max(REST * (time.monotonic() - began), REST_S_LEAST))
