"""What is wrong with a store that is served: told once in the log, and always in `vfs status` and to systemd.

The doors and the tasks of the background hand in the errors that they meet; what those say about the store is decided
here. That a daemon has died it cannot tell itself: `vfs status` and systemd see that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

import trio

from vfs.errors import Corrupt, DiskFailed, LimitReached, NoSpace, VfsError
from vfs.service.process import notify
from vfs.store import Store

log = logging.getLogger("vfs.health")

LOOK_S = 2.0  # between two looks whether a full disk has room again
QUIET_S = 10.0  # without a refusal, before it is called well again
ROOM_BYTES = 16 << 20  # that must have been freed meanwhile, if nobody has tried to write
COLLECTED_BYTES = 1 << 20  # the same, by a collection
DAMAGES_MAX = 1000  # that are named in the log
UNNAMED = "something cannot be read"


class Trouble(StrEnum):
    """What can be wrong, in the words of `vfs status`."""

    FULL = "full"
    READ_ONLY = "read-only"
    DAMAGED = "damaged"


class Health:
    """The health of one store. Invariant: status and systemd name every trouble that there is; the log has one line
    when it begins, and one when it ends.

    facts: of the daemon, for its status; the entry ``Troubles`` is kept up to date. serving: where, for systemd. Both
    are seen by everybody, so names of files are for the log alone. on_damage: remembers a damaged block beyond this
    daemon, and tells by `scrubbed` how many there are; False: it cannot.
    """

    def __init__(self, store: Store, facts: dict[str, object] | None = None, *, serving: str = "") -> None:
        self._store = store
        self._facts: dict[str, object] = {} if facts is None else facts
        self._serving = serving
        self._troubles: dict[Trouble, dict[str, str]] = {}
        self._damages: set[str] = set()  # that were met, as the log has them
        self._shown: list[str] = []  # what others than the readers of the log see of those that are no block's
        self._blocks = 0
        self.on_damage: Callable[[bytes], bool] = lambda block: False
        self._filled = trio.Event()
        self._refused_at = 0.0
        self._free_then = 0
        store.core.on_failed = self._failed
        self._facts["Troubles"] = []

    @property
    def line(self) -> str:
        """What systemd shows."""
        told = [f"{trouble}: {found['Message']}" for trouble, found in self._troubles.items()]
        return " ".join("; ".join([f"serving {self._serving}", *told]).split())

    def _tell(self) -> None:
        self._facts["Troubles"] = list(self._troubles.values())
        notify(f"STATUS={self.line}")

    def _begin(self, trouble: Trouble, message: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        found = self._troubles.setdefault(trouble, {"Trouble": trouble.value, "Since": now, "Message": ""})
        if found["Message"] != message:
            found["Message"] = message
            self._tell()

    def _end(self, trouble: Trouble) -> None:
        if self._troubles.pop(trouble, None) is not None:
            self._tell()

    # -- what is met ------------------------------------------------------------------------------------------

    def met(self, error: VfsError, harmed: str = "") -> None:
        """Somebody met an error. harmed: what could not be read for it."""
        match error:
            case LimitReached():
                log.error("%s", error)
            case NoSpace():
                self._refused()
            case Corrupt() | DiskFailed():
                if not (isinstance(error, DiskFailed) and self._store.core.failed):
                    what, details = (f"damage harms {harmed}", f": {error}") if harmed else (str(error), "")
                    self.damaged(what, details, shown=UNNAMED if harmed else what, block=error.block)
            case _:
                log.error("%s%s", f"{harmed}: " if harmed else "", error)

    def damaged(self, what: str, details: str = "", *, shown: str = "", block: bytes = b"") -> None:
        """Somebody met damage: of a *block*, which is told until that is mended or purged; else until the daemon is
        started again. details: for the log alone. shown: to everybody, if that is not the same.
        """
        known = bool(block) and self.on_damage(block)
        if what in self._damages or len(self._damages) >= DAMAGES_MAX:
            return
        self._damages.add(what)
        log.error("%s%s", what, details)
        if len(self._damages) == DAMAGES_MAX:
            log.error("there is so much damage that no more of it is named here; `vfs check` names all of it")
        if not known:
            self._shown.append(shown or what)
            self._tell_damage()

    def unreadable(self, error: Exception, ended: str = "") -> None:
        """Somebody met damage of the catalog, and *ended* for it."""
        self.damaged(f"{ended}the catalog is damaged ({error!r}); unmount, and run `vfs rebuild`")

    def scrubbed(self, blocks: int) -> None:
        """So many blocks are known to be damaged, which the log names."""
        self._blocks = blocks
        self._tell_damage()

    def _tell_damage(self) -> None:
        told = [f"damaged blocks: {self._blocks}"] if self._blocks else []
        told += self._shown[:1]
        told += [f"{len(self._shown) - 1} more"] if len(self._shown) > 1 else []
        if told:
            self._begin(Trouble.DAMAGED, f"{', '.join(told)}; the log and `vfs check` name what is harmed")
        else:
            self._end(Trouble.DAMAGED)

    def _failed(self, reason: str) -> None:
        """The store takes no more changes, and has logged that."""
        told = reason.removeprefix("the store is read-only: ")
        self._begin(Trouble.READ_ONLY, f"{told}; mount it again when the disk is well")

    # -- a full disk ------------------------------------------------------------------------------------------

    def _refused(self) -> None:
        self._refused_at = time.monotonic()
        self._free_then = self._store.root.free_bytes()
        if Trouble.FULL not in self._troubles:
            message = "no space left on the disk of the store: delete and purge, or make room there"
            log.error("%s", message)
            self._begin(Trouble.FULL, message)
            self._filled.set()

    async def run(self) -> None:
        """Look for room while the disk is full, for ever. Sleeps while it is not."""
        if self._store.is_short:
            self._refused()
        while True:
            await self._filled.wait()
            await trio.sleep(LOOK_S)
            if self._has_room():
                self._end_full()

    def collected(self) -> None:
        """Space was given back: if it was enough to write something, nobody needs to wait for that."""
        if not self._store.is_short or self._freed_bytes >= COLLECTED_BYTES:
            self._end_full()

    def _end_full(self) -> None:
        if Trouble.FULL in self._troubles:
            self._filled = trio.Event()
            log.info("there is room on the disk of the store again")
            self._end(Trouble.FULL)

    def _has_room(self) -> bool:
        """Whether nothing was refused lately, and either something was written since, or much was freed."""
        quiet = time.monotonic() - self._refused_at > QUIET_S
        return quiet and (not self._store.is_short or self._freed_bytes >= ROOM_BYTES)

    @property
    def _freed_bytes(self) -> int:
        """How much more room there is than when something was refused last."""
        return self._store.root.free_bytes() - self._free_then
