"""`vfs log`, `vfs restore`, `vfs purge`: the versions of one path, through ``.versions`` of its mount."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from vfs.cli import output
from vfs.cli.mounts import Place, locate
from vfs.cli.output import WRONG, Cell, Column, Failure
from vfs.cli.usage import Command
from vfs.errors import InvalidName
from vfs.names import parse_version_id

LOG = ".log"  # below the history of a name: its versions as lines of JSON
RESTORE = "user.vfs.restore"
SETTLED = "user.vfs.settled"
LOCK = "user.vfs.lock"
PURGE = "user.vfs.purge"
SEQUENCE_MASK = (1 << 60) - 1  # of the inode number of a version: its sequence

_COLUMNS = (
    Column("version id"),
    Column("when"),
    Column("size", right=True),
    Column("user"),
    Column("program"),
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
        Cell(output.exact_time(version["LastModified"])),
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
    if os.path.isdir(place.path):
        return Failure(f"{path} is a directory; name a file in it: `ls {path.rstrip('/')}/.versions` lists them", WRONG)
    if os.path.isdir(place.history):
        return Failure(
            f"{path} was a directory and is deleted; name a file that was in it: `ls {place.history}` lists them", WRONG
        )
    return Failure(f"{path} has no history; `ls {os.path.join(place.above, '.versions')}` lists the names that have")


@click.command(cls=Command)
@click.argument("path")
@click.argument("version_id", required=False)
@click.option("--to", "destination", metavar="DEST", help="Restore to this path (or into this directory) instead.")
def restore(path: str, version_id: str | None, destination: str | None) -> None:
    """Make a version of PATH its new current version; nothing is lost, and no content is copied.

    Without VERSION_ID: the version before the current one, or the last one before PATH was deleted. Directories that
    were removed with it come back.
    """
    place = locate(path)
    version = _choose(path, place, version_id)
    target, shown = _target(path, place, destination)
    if target.mount != place.mount:
        raise Failure(f"{shown} is on another mount; copy instead: cp {_version_path(place, version)} {shown}", WRONG)
    _restore(place, version, target, shown)
    size, when = output.human_size(version["Size"]), output.human_time(version["LastModified"])
    output.write(f"restored {shown} from version {version['VersionId']} ({size}, {when})")


def _target(path: str, place: Place, destination: str | None) -> tuple[Place, str]:
    """Where to restore to, and how to call it."""
    if destination is None:
        return place, path
    if os.path.isdir(destination):
        destination = os.path.join(destination, place.below[-1])
    return locate(destination), destination


def _version_path(place: Place, version: dict[str, Any]) -> str:
    return os.path.join(place.history, version["VersionId"])


def _choose(path: str, place: Place, version_id: str | None) -> dict[str, Any]:
    """The version to restore. Raises Failure."""
    versions = read_log(path, place)
    if version_id is not None:
        _check_id(version_id)
        version = next((version for version in versions if version["VersionId"] == version_id), None)
        if version is None:
            raise Failure(f"{path} has no version {version_id}; `vfs log {path}` lists those that it has")
        if version["DeleteMarker"]:
            raise Failure(f"version {version_id} of {path} says that it was deleted, and has no content to restore")
        return version
    newest = next(versions, None)
    older = (version for version in versions if not version["DeleteMarker"])
    version = next(older, None)
    if newest is None or version is None:
        reason = "only delete markers" if newest is None or newest["DeleteMarker"] else "only its current version"
        raise Failure(f"{path} has {reason}; there is nothing to go back to")
    return version


def _check_id(version_id: str) -> None:
    try:
        parse_version_id(version_id)
    except InvalidName as error:
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
                raise Failure(f"version {version_id} of {name} is gone; `vfs log {name}` lists those that are left")
            raise Failure(f"{name} cannot be restored to: the directory above it never was; make it (mkdir)")
        case errno.EACCES | errno.EPERM:
            raise Failure(f"{name}: permission denied: it takes reading the version and writing to the directory")
        case errno.EISDIR:
            raise Failure(f"{name} is a directory now; restore to another name (--to)", WRONG)
        case errno.EEXIST:
            raise Failure(f"{name}: a directory above it is a file now; restore to another name (--to)", WRONG)
        case errno.EXDEV:
            raise Failure(
                f"{name} is in another bucket; copy instead: cp {_version_path(place, version)} {name}", WRONG
            )
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
            return f"{path} has no version {version_id}; `vfs log {path}` lists those that it has"
        case errno.EACCES | errno.EPERM:
            return f"{path}: permission denied: version {version_id} stays"
        case _:
            return f"{path}: version {version_id} stays: {error.strerror}"
