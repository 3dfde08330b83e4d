"""What every daemon needs of its process, and the shape of a door that is opened beside another."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vfs import __version__
from vfs.core import Changed
from vfs.disk import LIMITS
from vfs.errors import LimitReached
from vfs.store import Store

if TYPE_CHECKING:
    from vfs.service.health import Health

log = logging.getLogger("vfs.daemon")

OPEN_FILES_LEAST = 256  # blocks.OPEN_SEGMENTS_MAX, callers.NAMES_OPEN_MAX, and some more

Settle = Callable[[Sequence[Changed]], Awaitable[None]]
"""Called by a door after each change: returns when it is as safe as the settings say, and seen through other doors."""


Task = Callable[[], Awaitable[None]]  # runs until it is cancelled
MoreDoor = Callable[[Store, Settle, "Health", dict[str, object]], Task]
"""Opens another door to a store, and adds to the facts of its status; the task serves who comes. Raises VfsError if it
cannot be opened.
"""


def want_open_files() -> None:
    """Take as many open files as this process may have. Raises LimitReached if those are too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # the soft limit will do
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES_LEAST:
        told = f"a daemon takes {OPEN_FILES_LEAST} open files, and this one may have {hard}"
        raise LimitReached(f"{told}; {LIMITS[errno.EMFILE]}")


def facts_of(store: Store) -> dict[str, object]:
    """What every daemon tells of itself in its status, when it starts."""
    return {
        "Store": str(store.path),
        "Pid": os.getpid(),
        "Version": __version__,
        "Since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def notify(*lines: str) -> None:
    """Tell systemd, if it started this and asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            text = "\n".join(line.replace("\n", "\\n") for line in lines)  # a path may hold anything
            channel.sendto(text.encode("utf-8", "backslashreplace"), address)
        except OSError as error:
            log.warning("cannot tell systemd: %s", error)
