"""Telling the kernel to drop what it caches of names that changed behind its back (by a purge or a restore).

Always in a thread: the kernel may have to wait for locks that are held by requests which the loop has yet to answer.
A handler may wait for it only if its own request holds no lock of a live directory (docs/concurrency.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pyfuse3
import trio

from vfs.core import Changed
from vfs.model import Ino

log = logging.getLogger("vfs.fuse")


class Invalidation:
    """The invalidations that are under way. *root*: the directory that the kernel knows as its root."""

    def __init__(self, root: Ino) -> None:
        self._root = root
        self._thread = trio.CapacityLimiter(1)
        self._under_way: list[Changed] = []
        self._all_done = trio.Event()

    def start(self, changed: list[Changed]) -> None:
        """Have the kernel drop what it knows of these names."""
        if changed:
            self._under_way += changed
            trio.lowlevel.spawn_system_task(self._run, changed)

    def concerns(self, ino: Ino) -> bool:
        """Whether the kernel is being told to drop what it knows of an inode: what it reads now may be dropped late."""
        return any(ino in (change.before, change.after) for change in self._under_way)

    def follow(self, name: tuple[Ino, bytes], new_name: tuple[Ino, bytes]) -> None:
        """A name is being renamed. If the kernel has yet to drop what it knows of it, it carries that along, and has to
        drop it there.
        """
        if self._under_way:
            known = [change for change in self._under_way if change[:2] == name]
            self.start([Changed(*new_name, change.before, change.after) for change in known])

    async def settled(self) -> None:
        """Return when the kernel has dropped everything that it was told to drop so far."""
        while self._under_way:
            await self._all_done.wait()

    async def _run(self, changed: list[Changed]) -> None:
        try:
            # In one thread of its own: it may wait for somebody who waits for a sync, which takes one of the others.
            # Cancelled when the daemon ends, which must not wait for anybody's lock.
            await trio.to_thread.run_sync(self._drop, changed, limiter=self._thread, abandon_on_cancel=True)
        finally:
            for change in changed:
                self._under_way.remove(change)
            if not self._under_way:
                self._all_done.set()
                self._all_done = trio.Event()

    def _drop(self, changed: list[Changed]) -> None:
        for change in changed:
            if change.before != change.after:  # else the name is right: no lock, and what is mounted on it stays
                parent = pyfuse3.ROOT_INODE if change.parent == self._root else change.parent
                _unless_unknown(pyfuse3.invalidate_entry, parent, change.name)
                _unless_unknown(pyfuse3.invalidate_inode, parent, True)  # its times: the kernel may not know the name
                for ino in (change.before, change.after):  # their links and times; the content of neither has changed
                    if ino is not None:
                        _unless_unknown(pyfuse3.invalidate_inode, ino, True)
            elif change.before is not None:
                _unless_unknown(pyfuse3.invalidate_inode, change.before)


def _unless_unknown(call: Callable[..., Any], *args: object) -> None:
    try:
        call(*args)
    except FileNotFoundError:
        pass  # the kernel had not cached it
    except OSError as error:
        log.warning("the kernel did not drop a cached name: %s", error)
