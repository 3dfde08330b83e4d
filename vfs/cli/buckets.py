"""`vfs bucket`, `vfs versioning`, `vfs lock`: buckets, as the directories at the root of a mount."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from typing import Any

import click

from vfs.cli import output
from vfs.cli.mounts import Mount, died, locate, open_mount_of, vfs_mounts
from vfs.cli.output import WRONG, Cell, Column, Failure, quoted
from vfs.cli.usage import Command, Group
from vfs.errors import InvalidName
from vfs.names import check_bucket_name

BUCKET = "user.vfs.bucket"
VERSIONING = "user.vfs.versioning"
COMPRESSION = "user.vfs.compression"
LOCK = "user.vfs.lock"
DAY_CHARS = len("2026-11-20")
PURGE = "user.vfs.purge"

_COLUMNS = (
    Column("bucket", fits=True),
    Column("versioning"),
    Column("compression"),
    Column("versions", right=True),
    Column("size", right=True),
    Column("created"),
)
_FACTS: dict[str, type] = {
    "Versioning": str,
    "Compression": str,
    "Versions": int,
    "Bytes": int,
    "Created": str,
    "Purge": str,
    "MfaDelete": bool,
    "Unversioned": list,
}
_COLOURS = {"Enabled": "green", "Suspended": "yellow", "Unversioned": "red"}


@click.group(cls=Group)
def bucket() -> None:
    """List, make and remove buckets. A bucket is a directory at the root of a mount."""


@bucket.command("list", short_help="List the buckets of a mount, or of all.")
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="A list of objects.")
@click.pass_context
def list_buckets(context: click.Context, mountpoint: str | None, as_json: bool) -> None:
    """List the buckets of the mount that MOUNTPOINT lies in, or of all mounts: path, versioning, compression, number
    of versions, sum of their sizes, day of creation.

    What is closed to you is passed over, and named on stderr. So is what cannot be read for another reason, but then
    the exit code is 1.
    """
    failures: list[Failure] = []
    found = _of_all_mounts(failures) if mountpoint is None else _buckets(open_mount_of(mountpoint), failures)
    if as_json:
        output.write_json_list(found)
    else:
        output.write_table(_COLUMNS, map(_row, found))
    if failures:
        context.exit(output.FAILED)


def _of_all_mounts(failures: list[Failure]) -> Iterator[dict[str, Any]]:
    for mount in vfs_mounts():
        with _passing_over(failures):
            yield from _buckets(mount, failures)


def _buckets(mount: Mount, failures: list[Failure]) -> Iterator[dict[str, Any]]:
    own = _read(mount.mountpoint)
    if own is not None:  # mounted with --bucket
        yield own
        return
    try:
        names = sorted(os.listdir(mount.mountpoint))
    except OSError as error:
        raise _unreadable(mount.mountpoint, error) from error
    for name in names:
        with _passing_over(failures):
            facts = _read(os.path.join(mount.mountpoint, name))
            if facts is not None:
                yield facts


@contextlib.contextmanager
def _passing_over(failures: list[Failure]) -> Iterator[None]:
    """Tell of what cannot be read, and go on; add it to *failures*, unless it is closed to the caller."""
    try:
        yield
    except Failure as failure:
        output.write_error(failure.message)
        if not isinstance(failure.__cause__, PermissionError):
            failures.append(failure)


def _read(path: str) -> dict[str, Any] | None:
    """What a bucket's directory tells of it, None if *path* is no bucket. Raises Failure."""
    try:
        raw = os.getxattr(path, BUCKET)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise _unreadable(path, error) from error
    try:
        facts = {"Path": path, **json.loads(raw)}
        output.human_time(facts["Created"])
    except (ValueError, TypeError, KeyError, RecursionError):
        facts = {}
    if not all(isinstance(facts.get(name), kind) for name, kind in _FACTS.items()):
        raise Failure(f"{path}: another version of vfs serves this mount; mount the store again")
    return facts


def _unreadable(path: str, error: OSError) -> Failure:
    if error.errno == errno.ENOTCONN:
        return died(path)
    return Failure(f"{path}: {error.strerror}")


def _row(facts: dict[str, Any]) -> list[Cell]:
    return [
        Cell(facts["Path"], "blue"),
        Cell(facts["Versioning"], _COLOURS.get(facts["Versioning"])),
        Cell(facts["Compression"]),
        Cell(str(facts["Versions"])),
        Cell(output.human_size(facts["Bytes"])),
        Cell(output.human_time(facts["Created"])[:DAY_CHARS]),
    ]


def existing(path: str) -> dict[str, Any]:
    """What there is to know of the bucket at a path. Raises Failure."""
    mount = open_mount_of(path)
    real = os.path.realpath(path)
    facts = _read(real) if os.path.isdir(real) else None
    if facts is None:
        raise Failure(
            f"{path} is no bucket; `vfs bucket list {quoted(mount.mountpoint)}` lists those that there are", WRONG
        )
    return facts


def why_not_set(facts: dict[str, Any], error: OSError) -> str:
    """Why the caller could not set what a bucket does with versions."""
    if error.errno not in (errno.EPERM, errno.EACCES):
        return str(error.strerror)
    if facts["Purge"] in ("root", "never") and os.stat(facts["Path"]).st_uid == os.geteuid():
        return f"its purge policy is {facts['Purge']}, so only root sets what has old versions lost"
    return "only the bucket's owner and root set that"


@bucket.command("create", short_help="Make a bucket.")
@click.argument("path")
def create(path: str) -> None:
    """Make a bucket. PATH is a name at the root of a mount; it follows S3's rules: 3 to 63 of a-z 0-9 . -"""
    place = locate(path)
    name = place.below[-1]
    if place.path != os.path.join(place.mount.mountpoint, name) or _read(place.above) is not None:
        raise Failure(f"{path}: buckets are made at the root of the mount of a whole store", WRONG)
    try:
        check_bucket_name(os.fsencode(name))
    except InvalidName as error:
        raise Failure(str(error), WRONG) from error
    try:
        os.mkdir(place.path)
    except FileExistsError:
        raise Failure(f"{path} exists") from None
    except PermissionError:
        top = place.mount.mountpoint
        raise Failure(
            f"{path}: you may not write to {top}; its owner lets others make buckets: chgrp, chmod g+w {quoted(top)}"
        ) from None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    output.write(f"made bucket {path}, versioning {existing(path)['Versioning']}")


@bucket.command("delete", short_help="Remove an empty bucket.")
@click.argument("path")
def delete(path: str) -> None:
    """Remove the bucket at PATH, which must have neither files nor history."""
    facts = existing(path)
    try:
        os.rmdir(facts["Path"])
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            count = facts["Versions"]
            reason = f"has {output.counted(count, 'version')}" if count else "is not empty"
            raise Failure(f"{path} {reason}; remove its files, and purge their versions (vfs purge), first") from error
        raise Failure(f"{path}: {error.strerror}") from error
    output.write(f"removed bucket {path}")


@bucket.command("show", short_help="Show what there is to know of a bucket.")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="An object.")
def show(path: str, as_json: bool) -> None:
    """Show what there is to know of the bucket at PATH. Unversioned: names whose old versions are not kept."""
    facts = existing(path)
    if as_json:
        output.write_json(facts)
        return
    facts["Bytes"] = f"{facts['Bytes']} ({output.human_size(facts['Bytes'])})"
    facts["Created"] = output.human_time(facts["Created"])
    facts["Unversioned"] = " ".join(facts["Unversioned"])
    output.write_table((Column(""), Column("")), ([Cell(name, "blue"), Cell(str(facts[name]))] for name in facts))


@bucket.command("compress", short_help="Show or change the compression of a bucket.")
@click.argument("path")
@click.argument("how", type=click.Choice(("zstd", "off"), case_sensitive=False), required=False)
def compress(path: str, how: str | None) -> None:
    """Show whether the bucket at PATH has new content compressed, or change it: [zstd|off]. What is stored stays as it
    is, and so do files that are open until they are opened again.
    """
    facts = existing(path)
    if how is not None:
        try:
            os.setxattr(facts["Path"], COMPRESSION, how.encode())
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}") from error
        facts = existing(path)
    output.write(facts["Compression"])


@bucket.command("purge", short_help="Show or change who may remove versions for good.")
@click.argument("path")
@click.argument("policy", type=click.Choice(("rm", "command", "root", "never"), case_sensitive=False), required=False)
def purge(path: str, policy: str | None) -> None:
    """Show who may remove versions in the bucket at PATH for good, and how, or change it: [rm|command|root|never].

    \b
    command  the owner of a file and root, by `vfs purge`: as a bucket begins
    rm       the same, and by `rm .versions/NAME/ID`, too
    root     root alone, by `vfs purge`
    never    nobody, neither by S3 nor by a lifecycle; but new content still
             takes the place of a null version

    With root and never, only root suspends versioning, or has a lifecycle purge old versions.

    The owner of the bucket may make it stricter (in the order rm, command, root, never), only root less so: in a mount
    of your own, root gets in when you have unmounted it, and root has mounted it with --foreign-owner (docs/backup.md).
    """
    facts = existing(path)
    if policy is not None:
        try:
            os.setxattr(facts["Path"], PURGE, policy.lower().encode())
        except OSError as error:
            if error.errno == errno.EPERM:
                message = f"{path}: only root makes a policy less strict, and only the bucket's owner makes it stricter"
                raise Failure(message) from error
            raise Failure(f"{path}: {error.strerror}") from error
        facts = existing(path)
        if facts["Purge"] == "never" and facts["Versioning"] != "Enabled":
            output.write_note(
                f"{path} is {facts['Versioning']}: what is overwritten or deleted there is lost all the same; "
                f"what keeps it: vfs versioning {quoted(path)} enabled"
            )
    output.write(facts["Purge"])


@click.command(cls=Command)
@click.argument("path", metavar="BUCKETPATH")
@click.argument("state", type=click.Choice(("enabled", "suspended"), case_sensitive=False), required=False)
def versioning(path: str, state: str | None) -> None:
    """Show whether the bucket at BUCKETPATH keeps versions, or change it: [enabled|suspended]. Suspended: what is there
    stays, and new content of a file replaces the one before.
    """
    facts = existing(path)
    if state is not None:
        try:
            os.setxattr(facts["Path"], VERSIONING, state.title().encode())
        except OSError as error:
            if error.errno == errno.EINVAL and os.getxattr(facts["Path"], LOCK) != b"off":
                message = f"{path} has object lock, which is for ever, and needs every version: it stays Enabled"
                raise Failure(message) from error
            if error.errno == errno.EINVAL:
                message = f"{path} is {facts['Versioning']}, which cannot become {state.title()}"
                raise Failure(message) from error
            if error.errno == errno.EPERM and facts["MfaDelete"]:
                message = f"{path} has MFA delete: its state changes through S3 only, with the code of the device"
                raise Failure(message) from error
            raise Failure(f"{path}: {why_not_set(facts, error)}") from error
        facts = existing(path)
    output.write(facts["Versioning"])


@click.command(cls=Command)
@click.argument("path", metavar="BUCKETPATH")
@click.argument("rule", type=click.Choice(("on", "governance", "compliance"), case_sensitive=False), required=False)
@click.option("--days", type=click.IntRange(1, 36_500), help="How long each new version is locked.")
@click.option("--years", type=click.IntRange(1, 100), help="The same, in years.")
@click.option("--yes", is_flag=True, help="Do not ask before what nobody can take back: compliance.")
def lock(path: str, rule: str | None, days: int | None, years: int | None, yes: bool) -> None:
    """Show whether versions in the bucket at BUCKETPATH can be locked, or let them be: [on|governance|compliance].

    That is for ever: a bucket with object lock keeps it, and stays Enabled. With a mode and a time, each new version is
    locked for that long, also from who wrote it; in mode compliance nobody can take that back.
    """
    facts = existing(path)
    if (rule in (None, "on")) != (days is None and years is None) or (days and years):
        raise Failure("governance and compliance take --days or --years, and nothing else does", WRONG)
    if rule is not None:
        value = rule if rule == "on" else f"{rule} {days or years} {'days' if days else 'years'}"
        if rule == "compliance" and not yes:
            stays = output.counted(days or years or 0, "day" if days else "year")
            output.confirm(
                f"From now on, what is written to {path} stays for {stays}; not even root removes it sooner."
            )
        begins = os.getxattr(facts["Path"], LOCK) == b"off"
        try:
            os.setxattr(facts["Path"], LOCK, value.encode())
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise Failure(f"{path} is {facts['Versioning']}; only an Enabled bucket can have locks") from error
            raise Failure(f"{path}: {error.strerror}") from error
        if begins:
            output.write_note(f"{path} has object lock now, for ever, and so it stays Enabled")
    mode, *time = os.getxattr(facts["Path"], LOCK).decode().split()
    output.write(f"{mode} {output.counted(int(time[0]), time[1].removesuffix('s'))}" if time else mode)
