"""`vfs status`: what stores are mounted or served, and whether they are well."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from vfs import daemons
from vfs.cli import conf, output
from vfs.cli.mounting import read_lock
from vfs.cli.mounts import STATUS, Mount, mount_of, vfs_mounts
from vfs.cli.output import FAILED, Cell, Column, Failure, quoted
from vfs.cli.usage import Command

MOUNTED, SERVED, DEAD, HUNG, PRIVATE, UNKNOWN = "mounted", "served", "dead", "no answer", "private", "unknown"
NOT_MOUNTED, NOT_SERVED = "not mounted", "not served"
ANSWER_S_MAX = 5.0  # that a mount may take, and all of them together

_COLUMNS = (
    Column("at", fits=8),
    Column("store", fits=8),
    Column("state"),
    Column("live", right=True),
    Column("history", right=True),
    Column("on disk", right=True),
)


class Scrubbed(msgspec.Struct):
    """How far the scrub is."""

    DamagedBlocks: int
    Progress: float
    LastPass: str | None


class Trouble(msgspec.Struct):
    """What is wrong with a store, as its daemon tells it."""

    Trouble: str
    Since: str
    Message: str


class Status(msgspec.Struct):
    """What there is to know of a mount or a daemon. What comes from a daemon may be anybody's: it is checked."""

    State: str
    Store: str = ""
    Mountpoint: str = ""
    S3: list[str] = []
    Unit: str = ""
    Pid: int | None = None
    Version: str = ""
    Since: str = ""
    Buckets: int | None = None
    Versions: int | None = None
    LiveBytes: int | None = None
    HistoryBytes: int | None = None
    StoreBytes: int | None = None
    ReclaimableBytes: int | None = None
    RecordsSetAside: int = 0
    DraftsKept: int = 0
    Scrub: Scrubbed | None = None
    Troubles: list[Trouble] = []

    @property
    def is_well(self) -> bool:
        """What is somebody else's is not ours to judge."""
        return self.State in (MOUNTED, SERVED, PRIVATE) and not self.Troubles

    @property
    def place(self) -> str:
        return self.Mountpoint or " ".join(self.S3) or self.Unit


@click.command(cls=Command)
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, with every figure that there is.")
@click.pass_context
def status(context: click.Context, path: str | None, as_json: bool) -> None:
    """Show all mounts of vfs and the stores that `vfs serve` serves, or all that there is to know of the one that PATH
    lies in; PATH may be a store, too.

    \b
    mounted, served       it is well
    full                  its disk is full: writing is refused
    read-only             its disk failed: no changes until it is mounted again
    damaged               something stored cannot be read
    dead                  its daemon has died: mount the store again
    no answer             its daemon lives, and does not answer
    not mounted/served    a service by /etc/vfs/NAME.conf that does not run
    private               another user's, and not for you to see

    Exit code 1 if anything of it is not well (all but the first and the last of these).
    """
    told = _every() if path is None else _at(path)
    if as_json:
        output.write_json_list(facts for facts, _ in told)
    else:
        found = [status for _, status in told]
        if path is None:
            output.write_table(_COLUMNS, map(_row, found))
            if not found:
                output.write_note("nothing is mounted or served")
        else:
            for status in found:
                output.write_table((Column(""), Column("")), _details(status))
        for status in found:
            for line in _lines(status):
                output.write(line)
    context.exit(0 if all(status.is_well for _, status in told) else FAILED)


Told = tuple[dict[str, Any], Status]  # as the daemon says it, and what is understood of that


def _every() -> list[Told]:
    found = _mounts(vfs_mounts()) + [_served(place, answer) for place, answer in daemons.ask_all()]
    return found + _missing([status for _, status in found])


def _missing(found: Sequence[Status]) -> list[Told]:
    """The services that should be there, because there are files of their settings, and are not."""
    mountpoints = [status.Mountpoint for status in found if status.Mountpoint]
    stores = {os.path.realpath(status.Store) for status in found if status.Store}
    # Only root can ask root's daemons; and of one that does not answer nobody knows what it serves.
    knows_served = os.geteuid() == 0 and all(status.Store for status in found)
    missing: list[Told] = []
    for unit in conf.units():
        known: dict[str, Any] = {"Store": unit.store, "Unit": unit.name}
        if unit.address and not unit.mountpoint:
            known |= {"S3": [unit.address], "State": NOT_SERVED}
            is_there = not knows_served or os.path.realpath(unit.store) in stores
        else:
            known |= {"Mountpoint": unit.mountpoint, "State": NOT_MOUNTED}
            is_there = any(map(unit.is_at, mountpoints))
        if not is_there:
            missing.append((known, Status(**known)))
    return missing


def _at(path: str) -> list[Told]:
    real = os.path.realpath(path)
    every = _every()
    found = [told for told in every if told[1].Store and os.path.realpath(told[1].Store) == real]
    missing = [told for told in every if told[1].State == NOT_MOUNTED]
    found = found or [told for told in missing if os.path.realpath(told[1].Mountpoint) == real]
    if found:
        return found
    try:
        return _mounts([mount_of(real)])
    except Failure:
        answer = daemons.ask_in(Path(real))
        if answer is None:
            raise
        return [_served(Path(real), answer)]


def _mounts(mounts: Sequence[Mount]) -> list[Told]:
    """All are asked at once, in threads: one that does not answer keeps no other from being shown."""
    answers: list[bytes | OSError | None] = [None] * len(mounts)

    def ask(at: int, mountpoint: str) -> None:
        try:
            answers[at] = os.getxattr(mountpoint, STATUS)
        except OSError as error:
            answers[at] = error

    threads = [threading.Thread(target=ask, args=(at, one.mountpoint), daemon=True) for at, one in enumerate(mounts)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ANSWER_S_MAX
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return [_mounted(mount, answer) for mount, answer in zip(mounts, answers, strict=True)]


def _mounted(mount: Mount, answer: bytes | OSError | None) -> Told:
    known: dict[str, Any] = {"Mountpoint": mount.mountpoint, "Store": mount.source, "State": MOUNTED}
    match answer:
        case bytes():
            return _understood(known, answer)
        case None:
            known["State"] = HUNG
        case OSError(errno=errno.ENOTCONN):
            known["State"] = DEAD
            if (unit := conf.unit_at(mount.mountpoint)) is not None:
                known["Unit"] = unit.name
        case OSError(errno=errno.EACCES):
            known["State"] = PRIVATE
        case _:
            known["State"] = (answer.strerror or UNKNOWN).lower()
    return known, Status(**known)


def _served(place: Path, answer: bytes) -> Told:
    if answer:
        return _understood({"State": SERVED}, answer)
    known: dict[str, Any] = {"State": HUNG, "S3": [str(place)]}
    return known, Status(**known)


def _understood(known: dict[str, Any], answer: bytes) -> Told:
    try:
        facts = known | json.loads(answer)  # not msgspec's: paths may have bytes that are no UTF-8
        facts |= {name: known[name] for name in ("Mountpoint", "State") if name in known}
        return facts, msgspec.convert(facts, Status)
    except (ValueError, TypeError, RecursionError):  # of another vfs, or of something that says it is one
        known["State"] = UNKNOWN
        return known, Status(**known)


def _row(status: Status) -> list[Cell]:
    sizes = [_size(size) for size in (status.LiveBytes, status.HistoryBytes, status.StoreBytes)]
    shown = output.at_home if output.on_terminal() else str
    return [Cell(shown(status.place), "blue"), Cell(shown(status.Store)), _state(status), *sizes]


def _details(status: Status) -> Iterator[list[Cell]]:
    figures = {
        "mount point": status.Mountpoint,
        "S3": " ".join(status.S3),
        "store": status.Store,
        "unit": status.Unit,
        "pid": _number(status.Pid),
        "since": output.human_time(status.Since) if status.Since else "",
        "version": status.Version,
        "buckets": _number(status.Buckets),
        "versions": _number(status.Versions),
        "live": _size(status.LiveBytes).text,
        "history": _size(status.HistoryBytes).text,
        "on disk": _size(status.StoreBytes).text,
        "reclaimable": _size(status.ReclaimableBytes).text,
        "scrubbed": _scrubbed(status),
    }
    yield [Cell("state", "blue"), _state(status)]
    for name, text in figures.items():
        if text:
            yield [Cell(name, "blue"), Cell(text)]


def _state(status: Status) -> Cell:
    words = [trouble.Trouble for trouble in status.Troubles] or [status.State]
    return Cell(", ".join(words), "green" if status.is_well else "red")


def _number(number: int | None) -> str:
    return "" if number is None else str(number)


def _size(size: int | None) -> Cell:
    return Cell("-" if size is None else output.human_size(size))


def _scrubbed(status: Status) -> str:
    """When the daemon had last read every block, and what it found damaged."""
    scrub = status.Scrub
    if scrub is None:
        return "off" if status.Pid else ""
    if scrub.DamagedBlocks:
        return f"damaged blocks: {scrub.DamagedBlocks}; see its log"
    if scrub.LastPass is None:
        return f"{scrub.Progress:.0%} so far"
    return output.human_time(scrub.LastPass)


def _options(status: Status) -> Sequence[str]:
    """The options with which a mount was made, as far as the lock file of its store says."""
    holder = read_lock(Path(status.Store)) if os.path.isabs(status.Store) else None
    known = holder is not None and holder.mountpoint == os.path.realpath(status.Mountpoint)
    return holder.options if holder is not None and known else ()


def _lines(status: Status) -> Iterator[str]:
    """What is wrong, and what opening a store had to pass over."""
    for trouble in status.Troubles:
        yield f"{status.place}: {trouble.Trouble} since {output.human_time(trouble.Since)}: {trouble.Message}"
    if status.State in (NOT_MOUNTED, NOT_SERVED):
        told = (
            f"/etc/vfs/{status.Unit.partition('@')[2]}.conf says that it should be {status.State.removeprefix('not ')}"
        )
        yield f"{status.place}: {told}; see why it is not: systemctl status {status.Unit}"
    if status.State == DEAD and status.Unit:
        yield f"{status.place}: its daemon has died; {conf.mount_again(status.Mountpoint)}"
    elif status.State == DEAD:
        options = "".join(f" {quoted(option)}" for option in _options(status))
        places = f"{quoted(status.Store)} {quoted(status.Mountpoint)}"
        yield f"{status.place}: its daemon has died; mount it again: vfs mount {places}{options}"
    if status.RecordsSetAside:
        yield (
            f"{status.Store}: {status.RecordsSetAside} records that nobody can apply are set aside, in "
            f"{status.Store}/set-aside"
        )
    if status.DraftsKept:
        yield (
            f"{status.Store}: {status.DraftsKept} files have changes that could not be published; the daemon's log "
            "says why"
        )
