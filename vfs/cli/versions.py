"""`vfs log`, `vfs restore`, `vfs purge`: the versions of one path, through ``.versions`` of its mount."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click

from vfs.cli import output
from vfs.cli.mounts import SNAPSHOTS, VERSIONS, Place, locate
from vfs.cli.output import WRONG, Cell, Column, Failure, quoted
from vfs.cli.usage import Command
from vfs.errors import InvalidName
from vfs.names import parse_version_id

LOG = ".log"  # below the history of a name: its versions as lines of JSON
RESTORE = "user.vfs.restore"
SETTLED = "user.vfs.settled"
LOCK = "user.vfs.lock"
PURGE = "user.vfs.purge"
REMOVED = "user.vfs.removed"
VERSION_ID = "user.vfs.version_id"
RESTORER = "vfs"  # the program of what a restore made current, as the mount records it
SEQUENCE_MASK = (1 << 60) - 1  # of the inode number of a version: its sequence

# How long before the removal of a directory its files may all have been there still, to look for them.
_BEFORE = (timedelta(minutes=1), timedelta(seconds=10), timedelta(seconds=1), timedelta())

_COLUMNS = (
    Column("version id"),
    Column("local time"),
    Column("size", right=True),
    Column("user", fits=5),
    Column("program", fits=5),
    Column(""),
)


@click.command(cls=Command)
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="A list of objects with the names of S3's ListObjectVersions.")
def log(path: str, as_json: bool) -> None:
    """List the versions of PATH, newest first: id, when, size, who made it (user, program), and whether it is the
    current one or says that the file was deleted. PATH may be deleted, and so may the directories above it.
    """
    versions = read_log(path, locate(path))
    if as_json:
        output.write_json_list(versions)
    else:
        output.write_table(_COLUMNS, map(_row, versions))


def _row(version: dict[str, Any]) -> list[Cell]:
    deleted, current = version["DeleteMarker"], version["IsLatest"]
    writer = version["Writer"]
    mark = Cell("deleted", "red") if deleted else Cell("current", "green") if current else Cell("")
    return [
        Cell(version["VersionId"], "yellow"),
        Cell((output.human_time if output.on_terminal() else output.exact_time)(version["LastModified"])),
        Cell("-" if deleted else output.human_size(version["Size"])),
        Cell("-" if writer["Uid"] is None else output.user_name(writer["Uid"])),
        Cell(writer["Program"]),
        mark,
    ]


def read_log(path: str, place: Place) -> Iterator[dict[str, Any]]:
    """The versions of a path as objects, newest first. Raises Failure, before the first, if it has none."""
    try:
        with Path(place.history, LOG).open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except OSError as error:
        raise _no_history(path, place, error) from error


def _no_history(path: str, place: Place, error: OSError) -> Failure:
    if error.errno == errno.EACCES:
        return Failure(f"{path}: permission denied: the history of a file is as hard to read as the file")
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return Failure(f"{path}: {error.strerror}")
    bucket = place.bucket
    if not os.path.isdir(bucket):
        top = place.mount.mountpoint
        return Failure(f"{path} has no history: there is no bucket {bucket}; `ls {quoted(top)}` lists them", WRONG)
    if os.path.isdir(place.path):
        names = quoted(os.path.join(place.path, VERSIONS))
        return Failure(
            f"{path} is a directory, and this takes one file: `ls {names}` lists its files, old and new; what copies"
            f" all of it as it was: {_copy(place, None)}",
            WRONG,
        )
    if os.path.isdir(place.history):
        return Failure(_removed(path, place), WRONG)
    above = os.path.dirname(place.history)
    names = quoted(above if os.path.isdir(above) else os.path.join(place.above, VERSIONS))
    return Failure(f"{path} has no history; `ls {names}` lists the names that have")


def _removed(path: str, place: Place) -> str:
    """How a directory that was removed comes back: by a copy from before."""
    try:
        facts = json.loads(os.getxattr(place.history, REMOVED))
        removed = datetime.fromisoformat(facts["Time"]).astimezone()
        program, uid = facts["Writer"]["Program"], facts["Writer"]["Uid"]
    except (OSError, ValueError, LookupError, TypeError):  # a file was there, too; or another version of vfs
        return f"{path} was a directory and is deleted; to get it back, take a time before: {_copy(place, None)}"
    who = f"by {program}" + ("" if uid is None else f" of {output.user_name(uid)}")
    before = next((at for at in (removed - back for back in _BEFORE) if os.path.isdir(_then(place, at))), None)
    return (
        f"{path} was a directory, and was removed at {removed:%Y-%m-%d %H:%M:%S} {who}; what gets it back as it was "
        f"before: {_copy(place, before)} (if something is missing then, take an earlier time)"
    )


def _then(place: Place, at: datetime) -> str:
    """Where a path is in the snapshot of a moment: of the second that it is in."""
    below = os.path.relpath(place.path, place.bucket)
    return os.path.join(place.bucket, SNAPSHOTS, at.isoformat(" ", "seconds"), "" if below == "." else below)


def _copy(place: Place, at: datetime | None) -> str:
    """The command that copies a directory from the snapshot of a moment to where it was; None: of one that people
    choose, as they choose where to if something is there.
    """
    to = os.path.join(place.above, *place.below[:-1])
    make = "" if os.path.isdir(to) else f"mkdir -p {quoted(to)} && "
    if at is not None:
        return f"{make}cp -a {quoted(_then(place, at))} {quoted(to)}"
    below = quoted(os.path.relpath(place.path, place.bucket))
    dest = "DEST" if os.path.isdir(place.path) else quoted(to)
    return f"{make}cp -a {quoted(os.path.join(place.bucket, SNAPSHOTS))}/TIME/{below} {dest}"


@click.command(cls=Command)
@click.argument("path")
@click.argument("version_id", required=False)
@click.option("--to", "destination", metavar="DEST", help="Restore to this path (or into this directory) instead.")
def restore(path: str, version_id: str | None, destination: str | None) -> None:
    """Make a version of PATH its new current version; nothing is lost, and no content is copied.

    Without VERSION_ID: the last one before PATH was deleted, or the one before the current one; what has the same
    content is passed over, and if the current one comes from a restore, it goes on from there: once more is further
    back. Directories that were removed with it come back.
    """
    place = locate(path)
    version, why = _choose(path, place, version_id)
    target, shown = _target(path, place, destination)
    if target.mount != place.mount:
        raise Failure(f"{shown} is on another mount; copy instead: {_copy_version(place, version, shown)}", WRONG)
    former = None if destination is None else _current_id(target)
    _restore(place, version, target, shown)
    size, when = output.human_size(version["Size"]), output.human_time(version["LastModified"])
    if former is not None:
        kept = os.path.lexists(os.path.join(target.history, former))
        why += f"; what was there before is its version {former}" if kept else "; it replaced what was there"
    output.write(f"restored {shown} from version {version['VersionId']} ({size}, {when}){why}")


def _target(path: str, place: Place, destination: str | None) -> tuple[Place, str]:
    """Where to restore to, and how to call it."""
    if destination is None:
        return place, path
    if destination.endswith("/") and not os.path.isdir(destination):
        made = quoted(destination.rstrip("/") or "/")
        raise Failure(f"{destination} is no directory; make it (mkdir -p {made}), or leave out the slash", WRONG)
    if os.path.isdir(destination):
        destination = os.path.join(destination, place.below[-1])
    return locate(destination), destination


def _current_id(place: Place) -> str | None:
    """The id of the version that is current at a place, if there is one."""
    try:
        return os.getxattr(place.path, VERSION_ID, follow_symlinks=False).decode()
    except OSError:
        return None


def _copy_version(place: Place, version: dict[str, Any], to: str) -> str:
    return f"cp {quoted(_version_path(place, version))} {quoted(to)}"


def _version_path(place: Place, version: dict[str, Any]) -> str:
    return os.path.join(place.history, version["VersionId"])


def _choose(path: str, place: Place, version_id: str | None) -> tuple[dict[str, Any], str]:
    """The version to restore, and why that one if it is not the one before. Raises Failure."""
    versions = read_log(path, place)
    if version_id is not None:
        _check_id(version_id)
        version = next((version for version in versions if version["VersionId"] == version_id), None)
        if version is None:
            raise Failure(f"{path} has no version {version_id}; `vfs log {quoted(path)}` lists those that it has")
        if version["DeleteMarker"]:
            raise Failure(f"version {version_id} of {path} says that it was deleted, and has no content to restore")
        return version, ""
    found = list(versions)
    older = [version for version in found[1:] if not version["DeleteMarker"]]
    if not older:
        reason = "only its current version" if found and not found[0]["DeleteMarker"] else "only delete markers"
        raise Failure(f"{path} has {reason}; there is nothing to go back to")
    return (older[0], "") if found[0]["DeleteMarker"] else _further_back(path, place, found[0], older)


def _further_back(
    path: str, place: Place, current: dict[str, Any], older: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any], str]:
    """The newest version with other content than the current one; behind the one which that was restored from, if it
    was restored: or a second restore would take back the first.
    """
    content = _content(place, current)
    same = (at for at, version in enumerate(older) if _content(place, version) == content)
    source = next(same, None) if current["Writer"]["Program"] == RESTORER else None
    first = 0 if source is None else source + 1
    for at in range(first, len(older)):
        if _content(place, older[at]) != content:
            if source is not None:
                return older[at], ", which is further back than the restore before"
            return older[at], ", the last with other content than the current one" if at else ""
    name = f"name a version: `vfs log {quoted(path)}`"
    if source is not None:
        raise Failure(f"{path} was restored from {older[source]['VersionId']}, and nothing else is older; {name}")
    raise Failure(f"{path}: all older versions have the same content as the current one; {name}")


def _content(place: Place, version: dict[str, Any]) -> object:
    """What a version is compared by; versions whose content the caller may not know are all different."""
    if "ETag" not in version:
        return version["VersionId"]
    if version["Size"]:
        return version["ETag"]
    path = _version_path(place, version)
    try:
        return os.readlink(path) if os.path.islink(path) else stat.S_IFMT(os.lstat(path).st_mode)
    except OSError:  # purged meanwhile
        return version["VersionId"]


def _check_id(version_id: str) -> None:
    try:
        parse_version_id(version_id)
    except InvalidName as error:
        if os.path.lexists(version_id):
            raise Failure(f"{version_id} is no version id; name one file at a time", WRONG) from error
        raise Failure(str(error), WRONG) from error


def _restore(place: Place, version: dict[str, Any], target: Place, shown: str) -> None:
    try:
        sequence = os.lstat(_version_path(place, version)).st_ino & SEQUENCE_MASK
        value = b"%d\0%s" % (sequence, os.fsencode(os.path.join(*target.below)))
        os.setxattr(target.above, RESTORE, value)
    except OSError as error:
        _explain(place, version, target, shown, error)
    with contextlib.suppress(OSError):
        os.getxattr(target.above, SETTLED)  # returns when the kernel shows the restored file


def _explain(place: Place, version: dict[str, Any], target: Place, name: str, error: OSError) -> NoReturn:
    version_id = version["VersionId"]
    match error.errno:
        case errno.ENOENT | errno.ESTALE:
            if target.below == place.below and target.above == place.above:
                raise Failure(
                    f"version {version_id} of {name} is gone; `vfs log {quoted(name)}` lists those that are left"
                )
            raise Failure(f"{name} cannot be restored to: the directory above it never was; make it (mkdir)")
        case errno.EACCES | errno.EPERM:
            raise Failure(f"{name}: permission denied: it takes reading the version and writing to the directory")
        case errno.EISDIR:
            raise Failure(f"{name} is a directory now; restore to another name (--to)", WRONG)
        case errno.EEXIST:
            raise Failure(f"{name}: a directory above it is a file now; restore to another name (--to)", WRONG)
        case errno.EXDEV:
            raise Failure(f"{name} is in another bucket; copy instead: {_copy_version(place, version, name)}", WRONG)
        case errno.EINVAL:
            raise Failure(f"{name} is no name that a file can have", WRONG)
        case _:
            raise Failure(f"{name}: {error.strerror}")


@click.command(cls=Command)
@click.argument("path")
@click.argument("version_ids", metavar="VERSION_ID...", nargs=-1, required=True)
@click.pass_context
def purge(context: click.Context, path: str, version_ids: tuple[str, ...]) -> None:
    """Remove each version VERSION_ID of PATH for good: nothing brings it back. Removing the version that says that
    PATH was deleted undeletes it. Its other versions stay.

    This is for the owner of PATH, and root. Nothing else that is done in .versions removes anything, but a program that
    runs as the owner can run this, too. Against that helps a policy of the bucket, which only root takes back:
    `vfs bucket purge BUCKETPATH root` (root alone purges) or `never` (nobody does); and that the store belongs to
    another user than the one who works in it.

    It is not erasure: bytes may stay in the files of the store until their place is written again, and copies and
    snapshots of the store keep them (docs/backup.md).
    """
    place = locate(path)
    for version_id in version_ids:
        _check_id(version_id)
    failed = False
    for version_id in version_ids:
        try:
            os.setxattr(place.history, PURGE, version_id.encode())
        except OSError as error:
            output.write_error(_why_not_purged(path, version_id, error, _reason(place, version_id)))
            failed = True
        else:
            output.write(f"purged version {version_id} of {path}")
    if failed:
        context.exit(output.FAILED)


def _reason(place: Place, version_id: str) -> str:
    """What the bucket has against a purge, or what locks the version, if anything does."""
    for path, name in ((place.history, PURGE), (os.path.join(place.history, version_id), LOCK)):
        with contextlib.suppress(OSError):
            found = os.getxattr(path, name, follow_symlinks=False).decode()
            if found:
                return found
    return ""


def _why_not_purged(path: str, version_id: str, error: OSError, reason: str) -> str:
    match error.errno:
        case errno.EPERM if reason:
            return f"{path}: version {version_id} stays: {reason}"
        case errno.ENOENT | errno.ENOTDIR:
            return f"{path} has no version {version_id}; `vfs log {quoted(path)}` lists those that it has"
        case errno.EACCES | errno.EPERM:
            return f"{path}: permission denied: version {version_id} stays"
        case _:
            return f"{path}: version {version_id} stays: {error.strerror}"
