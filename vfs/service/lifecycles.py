"""The task that carries lifecycles out (vfs.expiring), with rests, and lets other doors see what went; and previews."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from vfs import audit, expiring
from vfs.catalog import UNREADABLE
from vfs.errors import DiskFailed, LimitReached, NoSpace, VfsError
from vfs.expiring import PASSED_NAMED_MAX, Due, Passed
from vfs.model import Ino
from vfs.names import show
from vfs.service.process import Settle
from vfs.store import Store

log = logging.getLogger("vfs.lifecycle")

REST = 4  # times that it rests as long as a step took
REST_S_LEAST = 0.002
PREVIEWS_MAX = 16  # kept, the last ones
PREVIEW_BYTES_MAX = 32 << 10  # of the actions that are told one by one; all are counted


class Lifecycles:
    """The lifecycles of one store's buckets. Invariant: one preview is made at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wanted, self._asked = trio.open_memory_channel[Ino](1)
        self._previews: dict[Ino, dict[str, Any]] = {}

    async def run(self, settle: Settle) -> None:
        """Look every `lifecycle_interval` seconds, and make previews, for ever: a fault of one pass is logged and ends
        that. settle: called after each step that changed something.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_previews)
                if self._store.settings.lifecycle_interval:
                    nursery.start_soon(self._run_passes, self._store.settings.lifecycle_interval, settle)
        except* DiskFailed as error:
            log.error("lifecycles end: %s", error.exceptions[0])

    async def _run_passes(self, interval: float, settle: Settle) -> None:
        while True:
            await trio.sleep(interval)
            if any(bucket.lifecycle for _, bucket in self._store.buckets()):
                with _logged("lifecycles go on at the next pass"):
                    await self._pass(settle)

    async def _pass(self, settle: Settle) -> None:
        counts: Counter[str] = Counter()
        passed = Passed()
        steps = expiring.plan(self._store, day_s=self._store.settings.lifecycle_day, passed=passed)
        try:
            while (due := await _next(steps)) is not None:
                await trio.to_thread.run_sync(audit.append, self._store.root, [_line(action) for action in due])
                began = time.monotonic()
                changed = expiring.carry_out(self._store, due, passed)
                await _rest(began)
                counts.update(action.what for action in due)
                await settle(changed)
        except NoSpace as error:
            log.warning("lifecycles go on later: %s", error)
        if passed.count > PASSED_NAMED_MAX:
            log.warning("lifecycles passed over %d keys and versions in all", passed.count)
        if counts:
            log.info("lifecycles: %s", ", ".join(f"{counts[what]} {what}" for what in sorted(counts)))

    # -- previews ---------------------------------------------------------------------------------------------

    def ask(self, bucket: Ino) -> None:
        """Begin a preview soon: what is due in a bucket now. Its end is told by `preview`. Raises LimitReached if
        others wait for theirs.
        """
        try:
            self._wanted.send_nowait(bucket)
        except trio.WouldBlock:
            raise LimitReached("other previews are being made; try again") from None
        self._tell(bucket, {"Running": True})

    def _tell(self, bucket: Ino, found: dict[str, Any]) -> None:
        self._previews.pop(bucket, None)
        self._previews[bucket] = found
        while len(self._previews) > PREVIEWS_MAX:
            del self._previews[next(iter(self._previews))]

    def preview(self, bucket: Ino) -> dict[str, Any] | None:
        """What the last preview of a bucket has found so far."""
        return self._previews.get(bucket)

    async def _run_previews(self) -> None:
        async for bucket in self._asked:
            found: dict[str, Any] = {"Expire": 0, "Purge": 0, "Abort": 0, "PurgeBytes": 0, "First": []}
            try:
                with _logged("the preview ends"):
                    await self._preview(bucket, found)
            finally:
                self._tell(bucket, {"Running": False, **found})

    async def _preview(self, bucket: Ino, found: dict[str, Any]) -> None:
        """Fill in what is due."""
        found["Error"] = "the preview could not be made to its end; the daemon's log says why"
        passed = Passed()
        room = 0
        steps = expiring.plan(self._store, day_s=self._store.settings.lifecycle_day, only=bucket, passed=passed)
        while (due := await _next(steps)) is not None:
            for action in due:
                found[action.what.capitalize()] += 1
                found["PurgeBytes"] += action.size if action.what == "purge" else 0
            for line in map(_line, due):
                room += len(msgspec.json.encode(line))
                if room <= PREVIEW_BYTES_MAX:
                    found["First"].append(line)
        del found["Error"]
        if passed.count:
            found["PassedOver"] = passed.count


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """A fault is logged, and does not end whoever comes next. Raises DiskFailed."""
    try:
        yield
    except DiskFailed:
        raise
    except UNREADABLE as error:
        log.error("%s: the catalog is damaged (%r); unmount, and run `vfs rebuild`", what, error)
    except (VfsError, OSError) as error:
        log.warning("%s: %s", what, error)
    except Exception:
        log.exception("%s; this is a bug in vfs", what)


async def _next(steps: Iterator[list[Due]]) -> list[Due] | None:
    """The next step that has something to do; None at the end."""
    while True:
        began = time.monotonic()
        due = next(steps, None)
        if due is None:
            return None
        await _rest(began)
        if due:
            return due


async def _rest(began: float) -> None:
    await trio.sleep(max(REST * (time.monotonic() - began), REST_S_LEAST))


def _line(action: Due) -> dict[str, Any]:
    """An action as the log tells it."""
    return {
        "Time": datetime.now(UTC).isoformat(timespec="seconds"),
        "Action": action.what,
        "Bucket": show(action.bucket),
        "Key": show(action.key),
        "Id": action.id,
        "Bytes": action.size,
        "Rule": action.rule,
    }
