"""The file of a unit's settings, /etc/vfs/NAME.conf. systemd reads it, and puts what it says into the environment of a
command and its arguments; here it is looked at whether that is what the command needs. `vfs status` reads the files of
all units, for what should be mounted or served.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from vfs.cli.output import FAILED, WRONG, Failure
from vfs.layout import DESCRIPTION

CONFIGURATION = Path("/etc/vfs")
FILE_BYTES_MAX = 1 << 16
EXAMPLES = {"VFS_STORE": "/var/lib/vfs/{}", "VFS_MOUNTPOINT": "/srv/{}", "VFS_S3": "9000"}
_PATHS = ("VFS_STORE", "VFS_MOUNTPOINT")
_OPTIONS, _NEW = "VFS_OPTIONS", "VFS_NEW"
_COMMENT = re.compile(r"\s#")


def conf_option(*needed: str) -> Callable[[Any], Any]:
    """For the units: the file that must have set *needed*. Looked at before the arguments, which come from there."""

    def check(context: click.Context, parameter: click.Parameter, conf: str | None) -> None:
        if conf is not None:
            check_conf(conf, needed)

    told = "For the units: the file of their settings."
    return click.option("--conf", hidden=True, is_eager=True, expose_value=False, callback=check, help=told)


def check_conf(conf: str, needed: Sequence[str]) -> None:
    """See that a file has set what is needed, and that the store is there if none is to be made. Raises Failure, which
    names all that is wrong.
    """
    examples = {name: f"{name}={EXAMPLES[name].format(Path(conf).stem)}" for name in needed}
    if not os.path.exists(conf):
        raise Failure(f"there is no {conf}; write it, with the lines {' and '.join(examples.values())}", WRONG)
    known = [*needed, *([_OPTIONS] if "VFS_MOUNTPOINT" in needed else []), _NEW]
    wrong = [told for name in needed if (told := _wrong(name, os.environ.get(name, ""), examples[name]))]
    wrong += [_behind(name) for name in known if _has_comment(os.environ.get(name, ""))]
    unknown = sorted(name for name in os.environ if name.startswith("VFS_") and name not in known)
    if unknown:
        wrong.append(f"it sets {' and '.join(unknown)}, which is not known; known: {', '.join(known)}")
    if os.environ.get(_NEW) not in (None, "", "yes", "no"):
        wrong.append(f"{_NEW} is yes or no")
    if wrong:
        raise Failure(f"{conf}: {'; '.join(wrong)}", WRONG)
    store = os.environ["VFS_STORE"]
    if os.environ.get(_NEW) == "no" and not os.path.exists(os.path.join(store, DESCRIPTION)):
        told = f"there is no store in {store}, and {_NEW}=no in {conf} has none made; is its disk mounted?"
        raise Failure(told, FAILED)  # when it is, the next attempt works


def _wrong(name: str, value: str, example: str) -> str:
    if not value:
        return f"it sets no {name}; add a line like {example}"
    if name in _PATHS and not os.path.isabs(value):
        return f"{name}={value} is no absolute path; write a line like {example}"
    return ""


def _has_comment(value: str) -> bool:
    return bool(_COMMENT.search(value)) and not os.path.lexists(value)


def _behind(name: str) -> str:
    return f"{name} has a comment behind its value; comments have lines of their own"


class Unit(NamedTuple):
    """A service of systemd, by its file. mountpoint: empty if it serves the store without a mount, at *address*."""

    name: str
    store: str
    mountpoint: str
    address: str

    def is_at(self, mountpoint: str) -> bool:
        """Whether it mounts there. Asks nothing of what is mounted there, which may not answer."""
        above, name = os.path.split(os.path.abspath(self.mountpoint))
        place = os.path.join(os.path.realpath(above), name)
        with contextlib.suppress(OSError):  # mostly it is no link
            place = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
        return self.mountpoint != "" and mountpoint == place


def units() -> list[Unit]:
    """The services that files describe, as far as this user may read them."""
    found = []
    for path in sorted(CONFIGURATION.glob("*.conf")):
        with contextlib.suppress(OSError):
            with path.open("rb") as file:
                said = _read(os.fsdecode(file.read(FILE_BYTES_MAX)))
            store, mountpoint, address = (said.get(name, "") for name in ("VFS_STORE", "VFS_MOUNTPOINT", "VFS_S3"))
            kind = "vfs-serve" if address and not mountpoint else "vfs"
            found.append(Unit(f"{kind}@{path.stem}", store, mountpoint, address))
    return found


def unit_at(mountpoint: str) -> Unit | None:
    """The service that mounts there."""
    return next((unit for unit in units() if unit.is_at(mountpoint)), None)


def mount_again(mountpoint: str) -> str:
    """What to do about a mount whose daemon has died."""
    unit = unit_at(mountpoint)
    if unit is None:
        return "mount the store again (vfs mount)"
    return f"systemd starts it again; if not: systemctl restart {unit.name}"


def _read(text: str) -> dict[str, str]:
    """The settings of a file, as systemd.exec(5) has them; what it means by backslashes is not looked at."""
    found = {}
    for line in map(str.strip, text.split("\n")):
        name, _, value = line.partition("=")
        if line[:1] not in ("#", ";"):
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            found[name.strip()] = value[1:-1] if quoted else value
    return found
