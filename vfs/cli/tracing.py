"""`vfs trace`: what a mount is asked for, how often, and how long that takes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

import click

from vfs.cli import output
from vfs.cli.mounts import open_mount_of
from vfs.cli.output import WRONG, Cell, Column, Failure
from vfs.cli.usage import Command

TRACE = "user.vfs.trace"  # of any directory of a mount
SECONDS_DEFAULT = 10.0
SECONDS_MAX = 31_536_000  # a year

_COLUMNS = (
    Column("request"),
    Column("count", right=True),
    Column("mean", right=True),
    Column("p50", right=True),
    Column("p99", right=True),
    Column("max", right=True),
    Column("together", right=True),
)


@click.command(cls=Command)
@click.argument("path")
@click.option("--seconds", type=float, default=SECONDS_DEFAULT, help="For how long; Ctrl-C ends it.")
@click.option("--json", "as_json", is_flag=True, help="An object: by request, Count, MeanUs, P50Us, P99Us, MaxUs.")
def trace(path: str, seconds: float, as_json: bool) -> None:
    """Count and time the requests of the kernel to the mount that PATH lies in, by kind, in µs. What a request waits
    for (a disk, for instance) counts. Without it nothing is counted, and it costs nothing.
    """
    if not 0 <= seconds <= SECONDS_MAX:  # false for nan, too, which no range of click's is
        raise Failure(f"--seconds is 0 to {SECONDS_MAX}", WRONG)
    mountpoint = open_mount_of(path).mountpoint
    os.setxattr(mountpoint, TRACE, b"on")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(seconds)
    finally:
        os.setxattr(mountpoint, TRACE, b"off")
    found: dict[str, dict[str, Any]] = json.loads(os.getxattr(mountpoint, TRACE))
    if as_json:
        output.write_json(found)
    else:
        output.write_table(_COLUMNS, [_row(name, figures) for name, figures in found.items()])


def _row(name: str, figures: dict[str, Any]) -> list[Cell]:
    times = [Cell(f"{figures[key]:.1f}") for key in ("MeanUs", "P50Us", "P99Us", "MaxUs")]
    together = figures["Count"] * figures["MeanUs"] / 1e6
    return [Cell(name), Cell(str(figures["Count"])), *times, Cell(f"{together:.3f} s")]
