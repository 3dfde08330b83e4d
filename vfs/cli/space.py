"""`vfs gc`: give the space of what was purged back to the disk."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfs.cli import output
from vfs.cli.mounting import when_closed
from vfs.cli.mounts import mounted_on, open_mount_of
from vfs.cli.options import foreign_owner
from vfs.cli.output import Failure
from vfs.cli.usage import Command
from vfs.errors import StoreInUse
from vfs.layout import DESCRIPTION

if TYPE_CHECKING:
    from vfs.gc import Collected

GC = "user.vfs.gc"  # of the root of a mount
POLL_S = 0.1


@click.command(cls=Command)
@click.argument("path")
@foreign_owner
@click.option("--json", "as_json", is_flag=True, help="An object: FreedBytes, JournalBytes.")
def gc(path: str, foreign: bool, as_json: bool) -> None:
    """Free what nothing needs any more, now and thoroughly: the content of purged and replaced versions, and the
    journal that a snapshot can stand for. PATH is a store, mounted or not, or any path on a mount. No version and no
    delete marker goes: for that there is `vfs purge`.

    A mounted store does the same by itself within a minute, a little at a time, where it pays. To have it done at once
    is for root and for who has mounted it.
    """
    if _is_store(path):
        try:
            collected = collect(Path(path), foreign=foreign)
            freed, journal = collected.freed, collected.journal
        except StoreInUse as error:
            # A store of somebody else may name any mount.
            mount = mounted_on(error.mountpoint) if error.mountpoint and not foreign else None
            if mount is None or not mount.is_vfs:
                raise
            freed, journal = _ask(error.mountpoint)
    else:
        freed, journal = _ask(open_mount_of(path).mountpoint)
    if as_json:
        output.write_json({"FreedBytes": freed, "JournalBytes": journal})
    else:
        output.write(f"freed {output.human_size(freed)} of blocks and {output.human_size(journal)} of journal")


def _is_store(path: str) -> bool:
    try:
        return (Path(path) / DESCRIPTION).is_file()
    except PermissionError:  # a mount that is closed to the caller, which `open_mount_of` says
        return False


def collect(store: Path, *, foreign: bool = False) -> Collected:
    """Collect a store that is not mounted. foreign: see Store.open. Raises StoreInUse, NotAStore, NoSpace."""
    from vfs.gc import run
    from vfs.store import Store

    opened = when_closed(lambda: Store.open(store, foreign=foreign))
    try:
        collected = run(opened)
    except BaseException:
        opened.abandon()
        raise
    opened.close()
    return collected


def _ask(mountpoint: str) -> tuple[int, int]:
    """Have the daemon of a mount collect, and wait for it. Returns the bytes freed, and those of the journal."""
    runs = _figures(mountpoint)["Runs"]
    try:
        os.setxattr(mountpoint, GC, b"")
    except PermissionError:
        told = f"only root and who has mounted {mountpoint} have it collected"
        raise Failure(f"{told}; the daemon frees what was purged by itself, within a minute") from None
    while (figures := _figures(mountpoint))["Running"]:
        time.sleep(POLL_S)
    if figures["Runs"] <= runs:
        raise Failure(f"the daemon of {mountpoint} ended before it was done; another one serves it now")
    if figures["Error"]:
        raise Failure(figures["Error"])
    return figures["FreedBytes"], figures["JournalBytes"]


def _figures(mountpoint: str) -> dict[str, Any]:
    """The collections of a mount, so far."""
    figures: dict[str, Any] = json.loads(os.getxattr(mountpoint, GC))
    return figures
