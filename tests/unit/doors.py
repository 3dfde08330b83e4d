"""The FUSE door without a mount: its handlers over an open store, asked as the kernel asks them."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest

from vfs.fuse import operations
from vfs.fuse.operations import Operations
from vfs.model import STORE_ROOT, Ino
from vfs.service.collecting import Collecting
from vfs.service.durability import Durability
from vfs.service.lifecycles import Lifecycles
from vfs.store import Store


def door_to(store: Store, root: Ino = STORE_ROOT) -> Operations:
    """The handlers of a mount of a store. There is no kernel that would have to drop what it cached."""
    durability = Durability(store)
    door = Operations(store, durability, Collecting(store, durability, {}), Lifecycles(store), root, {})
    door.invalidation._drop = lambda changed: None  # type: ignore[method-assign]
    return door


def caller(uid: int = 0, gid: int = 0, pid: int = 0) -> Any:
    """Who asks, as pyfuse3 tells it; *pid*: this process unless told."""
    return SimpleNamespace(uid=uid, gid=gid, pid=pid or os.getpid(), umask=0o022)


def fields(*names: str) -> Any:
    """Which fields of a setattr the kernel sends: of size, mode, uid, gid, atime, mtime."""
    known = ("size", "mode", "uid", "gid", "atime", "mtime")
    return SimpleNamespace(**{f"update_{name}": name in names for name in known})


class Replies:
    """What readdir answers, at most so many names at a time, as the kernel's buffer has room for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._found: list[tuple[bytes, int]] = []
        self._room = 0
        monkeypatch.setattr(operations.pyfuse3, "readdir_reply", self._reply)

    def _reply(self, token: object, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        if not self._room:
            return False
        self._room -= 1
        self._found.append((name, cookie))
        return True

    async def ask(self, door: Operations, fh: int, cookie: int, room: int) -> list[tuple[bytes, int]]:
        """One reply: names with their cookies, behind a cookie."""
        self._found, self._room = [], room
        await door.readdir(fh, cookie, None)  # type: ignore[arg-type]
        return self._found
