"""`vfs status`: what stores are mounted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import click

from vfs.cli import output
from vfs.cli.mounts import STATUS, Mount, is_dead, mount_of, vfs_mounts
from vfs.cli.output import Cell, Column
from vfs.cli.usage import Command

_COLUMNS = (
    Column("mount point"),
    Column("store"),
    Column("state"),
    Column("pid", right=True),
    Column("buckets", right=True),
    Column("versions", right=True),
    Column("live", right=True),
    Column("history", right=True),
    Column("on disk", right=True),
    Column("reclaimable", right=True),
    Column("scrubbed"),
)


@click.command(cls=Command)
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, with every figure that there is.")
def status(path: str | None, as_json: bool) -> None:
    """Show all mounts of vfs with their figures, or only the one that PATH lies in. A daemon that died leaves a dead
    mount: mount the store again, and it works as before.
    """
    mounts = vfs_mounts() if path is None else [mount_of(os.path.realpath(path))]
    found = list(map(_status, mounts))
    if as_json:
        output.write_json_list(found)
        return
    output.write_table(_COLUMNS, map(_row, found))
    for facts in found:
        for line in _set_aside(facts):
            output.write(line)


def _status(mount: Mount) -> dict[str, Any]:
    facts: dict[str, Any] = {"Mountpoint": mount.mountpoint, "Store": mount.source}
    try:
        facts |= {"State": "mounted"} | json.loads(os.getxattr(mount.mountpoint, STATUS))
    except OSError as error:
        facts["State"] = "dead" if is_dead(mount.mountpoint) else (error.strerror or "unknown").lower()
    return facts


def _set_aside(facts: dict[str, Any]) -> Iterator[str]:
    """What opening a store had to pass over."""
    store = facts["Store"]
    if records := facts.get("RecordsSetAside"):
        yield f"{store}: {records} records that nobody can apply are set aside, in {store}/set-aside"
    if drafts := facts.get("DraftsKept"):
        yield f"{store}: {drafts} files have changes that could not be published; the daemon's log says why"


def _row(facts: dict[str, Any]) -> list[Cell]:
    state = Cell(facts["State"], "green" if facts["State"] == "mounted" else "red")
    figures = [Cell(str(facts.get(name, "-"))) for name in ("Pid", "Buckets", "Versions")]
    sizes = [_size(facts, name) for name in ("LiveBytes", "HistoryBytes", "StoreBytes", "ReclaimableBytes")]
    return [Cell(facts["Mountpoint"], "blue"), Cell(facts["Store"]), state, *figures, *sizes, _scrubbed(facts)]


def _size(facts: dict[str, Any], name: str) -> Cell:
    return Cell(output.human_size(facts[name]) if name in facts else "-")


def _scrubbed(facts: dict[str, Any]) -> Cell:
    """When the daemon had last read every block, and what it found damaged."""
    if "Pid" not in facts:
        return Cell("-")
    scrub = facts.get("Scrub")
    if scrub is None:
        return Cell("off")
    if scrub["DamagedBlocks"]:
        return Cell(f"{scrub['DamagedBlocks']} damaged blocks; see its log", "red")
    if scrub["LastPass"] is None:
        return Cell(f"{scrub['Progress']:.0%} so far")
    return Cell(output.human_time(scrub["LastPass"]))
