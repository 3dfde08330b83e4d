"""The mounts of vfs that this process sees, and where a path is in them, also one that does not live any more."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import NamedTuple

from vfs.cli.conf import mount_again
from vfs.cli.output import WRONG, Failure, quoted
from vfs.layout import DESCRIPTION

FSTYPE = "fuse.vfs"
STATUS = "user.vfs.status"  # of the root of a mount
VERSIONS = ".versions"
SNAPSHOTS = ".snapshots"
_MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A line of mountinfo (proc(5)): where, what, and from where (the path of the store)."""

    mountpoint: str
    fstype: str
    source: str

    @property
    def is_vfs(self) -> bool:
        return self.fstype == FSTYPE


class Place(NamedTuple):
    """Where a path is. above: the nearest directory that lives, without symlinks; below: the names that lead on from
    there, through removed directories, to the path's own name.
    """

    mount: Mount
    above: str
    below: tuple[str, ...]

    @property
    def path(self) -> str:
        return os.path.join(self.above, *self.below)

    @property
    def history(self) -> str:
        """Where the versions of the path are."""
        return os.path.join(self.above, VERSIONS, *self.below)

    @property
    def bucket(self) -> str:
        """The directory of the bucket that the path lies in, if there is such a bucket; else of none."""
        top = self.mount.mountpoint
        if os.path.isdir(os.path.join(top, SNAPSHOTS)):  # mounted with --bucket
            return top
        return os.path.join(top, os.path.relpath(self.path, top).split("/")[0])


def all_mounts() -> list[Mount]:
    """Every mount, those that hide others last."""
    return parse_mountinfo(os.fsdecode(_MOUNTINFO.read_bytes()))


def vfs_mounts() -> list[Mount]:
    """Every mount of vfs."""
    return [mount for mount in all_mounts() if mount.is_vfs]


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts that the text of mountinfo lists."""
    found = []
    for line in filter(None, text.split("\n")):  # names may have what splitlines() takes for the end of a line
        before, _, after = line.partition(" - ")
        fstype, source = after.split(" ")[:2]
        found.append(Mount(_unescaped(before.split(" ")[4]), fstype, _unescaped(source)))
    return found


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def mounted_on(mountpoint: str) -> Mount | None:
    """What is mounted exactly there; the uppermost, if there are several."""
    return next((mount for mount in reversed(all_mounts()) if mount.mountpoint == mountpoint), None)


def mount_of(path: str) -> Mount:
    """The vfs mount that an absolute path without symlinks lies in. Raises Failure."""
    mount = _innermost(path)
    if mount is None or not mount.is_vfs:
        store = next(
            (above for above in (Path(path), *Path(path).parents) if os.path.isfile(above / DESCRIPTION)), None
        )
        if store is not None:
            hint = f"it is in the store {store}; name its place in a mount of that store, or do it over S3"
            raise Failure(f"{path} is not on a vfs mount: {hint}", WRONG)
        raise Failure(f"{path} is not on a vfs mount; `vfs status` lists those that there are", WRONG)
    return mount


def _innermost(path: str) -> Mount | None:
    inside = [mount for mount in all_mounts() if is_within(path, mount.mountpoint)]
    longest = max((len(mount.mountpoint) for mount in inside), default=0)  # in a chroot not even / is one
    return next((mount for mount in reversed(inside) if len(mount.mountpoint) == longest), None)


def open_mount_of(path: str) -> Mount:
    """The same, if the caller may use it: root may not, unless its user says so. Raises Failure."""
    mount = mount_of(os.path.realpath(path))
    check_open(path)
    return mount


def check_open(path: str) -> None:
    """Raise Failure for a path in a mount that is closed to the caller."""
    mount = _innermost(os.path.realpath(path))
    if mount is None or not mount.is_vfs:
        return
    try:
        os.stat(mount.mountpoint)
    except PermissionError:
        raise Failure(f"{path} is closed to you: it is in another user's mount without allow_other") from None
    except OSError:
        pass  # whoever asks for more of it says why


def check_is_no_mount(path: str) -> None:
    """Raise Failure for a mount point where a store is meant."""
    there = mounted_on(os.path.realpath(path))
    if there is not None and there.is_vfs:
        raise Failure(f"{path} is a mount; its store is {there.source}", WRONG)


def is_within(path: str, directory: str) -> bool:
    """Whether an absolute path is *directory* or below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def is_dead(path: str) -> bool:
    """Whether the daemon of the mount at a path has died."""
    try:
        os.statvfs(path)  # asks the daemon; stat may be answered from what the kernel cached
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def lost_directory() -> str:
    """Why the working directory cannot be used; empty if it can."""
    try:
        os.getcwd()
    except OSError:
        where = "is in a dead mount" if is_dead(".") else "was removed, or what it was in is not mounted any more"
        return f"the working directory {where}: cd out of it (cd ~), and again"
    return ""


def locate(path: str) -> Place:
    """Where the key of a path is, alive or not. Raises Failure."""
    lost = "" if os.path.isabs(path) else lost_directory()
    if lost:
        raise Failure(lost)
    check_open(path)
    trimmed = path.rstrip("/") or "/"
    if os.path.basename(trimmed) in ("", ".", ".."):
        trimmed = os.path.realpath(trimmed)
    above, name = os.path.split(trimmed)
    names = [name]
    while not os.path.isdir(above or "."):
        _check_lives(above)
        above, name = os.path.split(above)
        if name in ("", ".", ".."):
            raise Failure(f"{path}: there is no {os.path.join(above, name)}", WRONG)
        names.insert(0, name)
    _check_lives(above)
    real = os.path.realpath(above)
    try:
        mount = mount_of(real)
    except Failure:
        itself = mounted_on(os.path.realpath(trimmed))
        if itself is None or not itself.is_vfs:
            raise
        raise Failure(
            f"{path} is a mount of vfs; name a file in one of its buckets: `ls {quoted(path)}`", WRONG
        ) from None
    place = Place(mount, real, tuple(names))
    for word in (VERSIONS, SNAPSHOTS):
        if word in place.path[len(place.mount.mountpoint) :].split("/"):
            raise Failure(f"{path} lies in {word}; name the file itself, as it is or was outside", WRONG)
    return place


def _check_lives(directory: str) -> None:
    """Raise Failure if the daemon of the mount that a directory is in has died."""
    if is_dead(directory or "."):
        raise died(directory or ".")


def died(path: str) -> Failure:
    """What to say of a path in a mount whose daemon has died."""
    real = os.path.realpath(path)
    mount = _innermost(real)
    return Failure(f"{path}: the daemon of this mount has died; {mount_again(mount.mountpoint if mount else real)}")
