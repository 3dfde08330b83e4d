"""`vfs status`, `vfs check`, `vfs rebuild`: what stores are mounted, and whether one is whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfs.cli import output
from vfs.cli.mounts import Mount, is_dead, mount_of, vfs_mounts
from vfs.cli.output import Cell, Column

if TYPE_CHECKING:
    from vfs.check import Figures, Problem

STATUS = "user.vfs.status"
PROBLEMS_IN_JSON_MAX = 10_000
_BAR_COLUMNS = 30

_COLUMNS = (
    Column("mount point"),
    Column("store"),
    Column("state"),
    Column("pid", right=True),
    Column("buckets", right=True),
    Column("versions", right=True),
    Column("on disk", right=True),
)


@click.command()
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, with every figure that there is.")
def status(path: str | None, as_json: bool) -> None:
    """Show all mounts of vfs with their figures, or only the one that PATH lies in. A daemon that died leaves a dead
    mount: mount the store again, and it works as before.
    """
    mounts = vfs_mounts() if path is None else [mount_of(os.path.realpath(path))]
    found = map(_status, mounts)
    if as_json:
        output.write_json_list(found)
    else:
        output.write_table(_COLUMNS, map(_row, found))


def _status(mount: Mount) -> dict[str, Any]:
    facts: dict[str, Any] = {"Mountpoint": mount.mountpoint, "Store": mount.source}
    try:
        facts |= {"State": "mounted"} | json.loads(os.getxattr(mount.mountpoint, STATUS))
    except OSError as error:
        facts["State"] = "dead" if is_dead(mount.mountpoint) else (error.strerror or "unknown").lower()
    return facts


def _row(facts: dict[str, Any]) -> list[Cell]:
    state = Cell(facts["State"], "green" if facts["State"] == "mounted" else "red")
    figures = [Cell(str(facts.get(name, "-"))) for name in ("Pid", "Buckets", "Versions")]
    size = Cell(output.human_size(facts["StoreBytes"]) if "StoreBytes" in facts else "-")
    return [Cell(facts["Mountpoint"], "blue"), Cell(facts["Store"]), state, *figures, size]


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="An object: Clean, Problems, Figures.")
@click.pass_context
def check(context: click.Context, store: str, as_json: bool) -> None:
    """Read STORE, which must not be mounted, to its last byte: the journal, every block, every row of the catalog.
    Reports what is damaged, with every version that this harms. Changes nothing. Exit code 1: there are problems.
    """
    from vfs.check import check as check_store

    problems: list[Problem] = []

    def report(problem: Problem) -> None:
        if not as_json:
            bar.clear()
            _write_problem(problem)
        elif len(problems) < PROBLEMS_IN_JSON_MAX:
            problems.append(problem)

    bar = Bar()
    figures = check_store(Path(store), report, bar.show)
    bar.clear()
    if as_json:
        output.write_json(
            {
                "Clean": not figures.problems,
                "Problems": [_title(asdict(problem)) for problem in problems],
                "Figures": _title(asdict(figures)),
            }
        )
    else:
        output.write(_summary(store, figures))
    if figures.problems:
        context.exit(output.FAILED)


def _title(fields: dict[str, Any]) -> dict[str, Any]:
    return {"".join(map(str.title, name.split("_"))): value for name, value in fields.items()}


def _write_problem(problem: Problem) -> None:
    word = Cell("note", "yellow") if problem.harmless else Cell(problem.kind.value, "red")
    output.write_coloured((word, Cell(f": {problem.where}: {problem.message}")))


def _summary(store: str, figures: Figures) -> str:
    size = output.human_size(figures.block_bytes)
    read = f"{figures.events} events, {figures.versions} versions, {figures.blocks} blocks ({size})"
    torn = f"; the next mount drops {figures.torn_bytes} bytes that a crash tore" if figures.torn_bytes else ""
    if figures.problems:
        return f"{store}: {figures.problems} problems in {read}{torn}"
    return f"{store} is clean: {read}{torn}"


@click.command()
@click.argument("store")
@click.option("--cut", is_flag=True, help="Move what is behind damage in the journal aside, and do without it.")
def rebuild(store: str, cut: bool) -> None:
    """Make the catalog of STORE, which must not be mounted, again from its journal and blocks. The old catalog is kept
    as catalog.before-rebuild in the store. If the journal is damaged, nothing is changed without --cut.
    """
    from vfs.check import rebuild as rebuild_store

    bar = Bar()
    done = rebuild_store(Path(store), bar.show, cut=cut)
    bar.clear()
    output.write(f"made the catalog of {store} again from {done.events} events")
    if done.lost:
        output.write(f"the old catalog knew {done.lost} events more, which the journal does not have any more")
    if done.cut is not None:
        output.write(f"the damaged end of the journal is in {done.cut}")
    if done.before is not None:
        output.write(f"the old catalog is in {done.before}; remove it when you have seen that all is well")


class Bar:
    """A progress bar on stderr, if that is a terminal. Invariant: `_shown` is what stands on the line."""

    def __init__(self) -> None:
        self._shown = ""
        self._wanted = output.errors_on_terminal()

    def show(self, what: str, done: int, total: int) -> None:
        """Draw it, if it looks any different."""
        if not self._wanted:
            return
        share = min(done / total, 1.0) if total else 1.0
        filled = "#" * int(share * _BAR_COLUMNS)
        text = f"[{filled:<{_BAR_COLUMNS}}] {int(share * 100):3d}% {what}"
        if text != self._shown:
            click.echo(f"\r{text}\x1b[K", err=True, nl=False, color=True)
            self._shown = text

    def clear(self) -> None:
        """Take it away."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False, color=True)
            self._shown = ""
