"""`mount.fuse.vfs`: what mount(8) runs for the type fuse.vfs, so that a line in /etc/fstab works. It owes mount(8) its
arguments and exit codes, and mounts as `vfs mount` does. umount(8) needs no helper.
"""

from __future__ import annotations

import getopt
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vfs.cli import output
from vfs.cli.options import FOREIGN_OWNER, split_options
from vfs.cli.output import Failure
from vfs.cli.usage import check_is_here

NAME = "mount.fuse.vfs"
USAGE, SYSTEM, MOUNT_FAILED = 1, 2, 32  # mount(8), EXIT STATUS
BUCKET = "bucket="

# What mount(8), systemd and fstab say to each other; what asks for nothing but what vfs does anyway; and what means
# nothing here: access times, which vfs never writes, and what Linux has no more.
_NOT_FOR_US = re.compile(
    r"defaults|(no)?auto|(no)?users?|user=.*|(no)?owner|(no)?group|nofail|_netdev|comment=.*|[xX]-.*|u?helper=.*|"
    r"async|symfollow|silent|loud|default_permissions|seclabel|"
    r"(no)?(atime|diratime|relatime|strictatime|lazytime|iversion|mand)"
)
_CONTRARY = {
    "ro": "rw",
    "exec": "noexec",
    "suid": "nosuid",
    "dev": "nodev",
    "sync": "async",
    "symfollow": "nosymfollow",
}
_CONTRARIES = _CONTRARY | {other: option for option, other in _CONTRARY.items()}


class Request(NamedTuple):
    """What mount(8) asks for. bucket: None is the whole store. foreign: others may own it. fake: do nothing."""

    source: str
    target: str
    bucket: str | None
    options: tuple[str, ...]
    fake: bool
    verbose: bool
    foreign: bool = False


def main() -> None:
    """Entry point: mount what the arguments of this process say, and exit."""
    output.open_streams()
    code = run(sys.argv[1:])
    output.close_streams()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Mount. Returns an exit code of mount(8) when the mount answers, or cannot be made."""
    try:
        request = parse(arguments)
        if not request.fake:
            _mount(request)
    except Failure as error:
        output.write_error(error.message, program=NAME)
        return error.code
    except OSError as error:
        output.write_error(output.reason(error), program=NAME)
        return SYSTEM
    return 0


def parse(arguments: Sequence[str]) -> Request:
    """What ``SOURCE TARGET [-sfnv] [-o OPTIONS] [-t TYPE]`` asks for. Raises Failure."""
    usage = f"usage: {NAME} STORE MOUNTPOINT [-sfnv] [-o OPTION,...]"
    try:
        flags, places = getopt.gnu_getopt(list(arguments), "sfnvo:t:N:")
    except getopt.GetoptError as error:
        raise Failure(f"{error}; {usage}", USAGE) from error
    if len(places) != 2 or not all(places):
        raise Failure(usage, USAGE)
    source, target = places
    given = dict(flags)
    if given.get("-t", "fuse.vfs") not in ("fuse.vfs", "vfs"):
        raise Failure(f"this mounts what is of type fuse.vfs, not {given['-t']}", USAGE)
    if "-N" in given:
        raise Failure("vfs is not mounted into another namespace; enter it first: nsenter --mount", USAGE)
    words = [word for flag, text in flags if flag == "-o" for word in split_options(text)]
    if "remount" in words:
        raise Failure(f"{target} cannot be remounted; unmount it, and mount it with other options", USAGE)
    bucket = next((word.removeprefix(BUCKET) for word in reversed(words) if word.startswith(BUCKET)), None)
    foreign = FOREIGN_OWNER in words
    options = [word for word in words if not (word.startswith(BUCKET) or word == FOREIGN_OWNER)]
    known = _known(options, sloppy="-s" in given)
    return Request(source, target, bucket, known, "-f" in given, "-v" in given, foreign)


def _known(options: Sequence[str], *, sloppy: bool) -> tuple[str, ...]:
    """The options; of two that contradict each other, the last. sloppy: unknown ones are passed over."""
    from vfs.fuse.daemon import LABEL, OPTIONS, is_option

    kept: dict[str, None] = {}
    for option in options:
        kept.pop(_CONTRARIES.get(option, ""), None)
        if _NOT_FOR_US.fullmatch(option):
            continue
        if is_option(option):
            kept[option] = None
        elif not sloppy:
            known = ", ".join(sorted((*OPTIONS, LABEL, f"{BUCKET}NAME", FOREIGN_OWNER)))
            raise Failure(f"unknown mount option {option!r}; known: {known}, and those of fstab itself", USAGE)
    return tuple(kept)


def _mount(request: Request) -> None:
    from vfs.cli import mounting

    store, mountpoint = Path(os.path.abspath(request.source)), Path(os.path.abspath(request.target))
    try:
        check_is_here(request.source)
        mounting.free_from_killed(store)
        mounting.check_places(store, mountpoint, request.bucket)
        order = mounting.Order(store, mountpoint, request.bucket, request.options, request.source)
        mounting.spawn(order._replace(foreign=request.foreign))
    except Failure as error:
        raise Failure(error.message, MOUNT_FAILED) from error
    if request.verbose:
        output.write(f"{NAME}: {request.source} is mounted on {request.target}")
