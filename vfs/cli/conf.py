"""The file of a unit's settings, /etc/vfs/NAME.conf. systemd reads it, and gives what it says to the command as
arguments; here it is looked at whether they came from there at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from vfs.cli.output import WRONG, Failure

EXAMPLES = {"VFS_STORE": "/var/lib/vfs/{}", "VFS_MOUNTPOINT": "/srv/{}", "VFS_S3": "9000"}
_PATHS = ("VFS_STORE", "VFS_MOUNTPOINT")
_OPTIONS = "VFS_OPTIONS"

conf_option = click.option("--conf", hidden=True, help="For the units: the file that STORE and the rest come from.")


def check_conf(conf: str, given: Mapping[str, str]) -> None:
    """See that a file sets what a unit needs. *given*: what reached the command. Raises Failure."""
    examples = {name: f"{name}={EXAMPLES[name].format(Path(conf).stem)}" for name in given}
    if not os.path.exists(conf):
        raise Failure(f"there is no {conf}; write it, with the lines {' and '.join(examples.values())}", WRONG)
    known = [*given, _OPTIONS] if "VFS_MOUNTPOINT" in given else list(given)
    unknown = sorted(name for name in os.environ if name.startswith("VFS_") and name not in known)
    for name, value in given.items():
        if not value:
            hint = f" (it sets {unknown[0]}, which is not known)" if unknown else ""
            raise Failure(f"{conf} sets no {name}{hint}; add a line like {examples[name]}", WRONG)
        if name in _PATHS and not os.path.isabs(value):
            raise Failure(f"{conf}: {name}={value} is no absolute path; write a line like {examples[name]}", WRONG)
    if unknown:
        raise Failure(f"{conf} sets {unknown[0]}, which is not known; known: {', '.join(known)}", WRONG)
