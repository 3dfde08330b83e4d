"""The file of a unit's settings, /etc/vfs/NAME.conf. systemd reads it, and puts what it says into the environment of a
command and its arguments; here it is looked at whether that is what the command needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from vfs.cli.output import WRONG, Failure

EXAMPLES = {"VFS_STORE": "/var/lib/vfs/{}", "VFS_MOUNTPOINT": "/srv/{}", "VFS_S3": "9000"}
_PATHS = ("VFS_STORE", "VFS_MOUNTPOINT")
_OPTIONS = "VFS_OPTIONS"


def conf_option(*needed: str) -> Callable[[Any], Any]:
    """For the units: the file that must have set *needed*. Looked at before the arguments, which come from there."""

    def check(context: click.Context, parameter: click.Parameter, conf: str | None) -> None:
        if conf is not None:
            check_conf(conf, needed)

    told = "For the units: the file of their settings."
    return click.option("--conf", hidden=True, is_eager=True, expose_value=False, callback=check, help=told)


def check_conf(conf: str, needed: Sequence[str]) -> None:
    """See that a file has set what is needed. Raises Failure."""
    examples = {name: f"{name}={EXAMPLES[name].format(Path(conf).stem)}" for name in needed}
    if not os.path.exists(conf):
        raise Failure(f"there is no {conf}; write it, with the lines {' and '.join(examples.values())}", WRONG)
    known = [*needed, _OPTIONS] if "VFS_MOUNTPOINT" in needed else list(needed)
    unknown = sorted(name for name in os.environ if name.startswith("VFS_") and name not in known)
    for name in needed:
        value = os.environ.get(name)
        if not value:
            hint = f" (it sets {unknown[0]}, which is not known)" if unknown else ""
            raise Failure(f"{conf} sets no {name}{hint}; add a line like {examples[name]}", WRONG)
        if name in _PATHS and not os.path.isabs(value):
            raise Failure(f"{conf}: {name}={value} is no absolute path; write a line like {examples[name]}", WRONG)
    if unknown:
        raise Failure(f"{conf} sets {unknown[0]}, which is not known; known: {', '.join(known)}", WRONG)
