"""Options that several commands have."""

from __future__ import annotations

import re

import click

_OPTION = re.compile(r'(?:[^,"]|"[^"]*"?)+')
FOREIGN_OWNER = "foreign_owner"  # in fstab

foreign_owner = click.option(
    "--foreign-owner",
    "foreign",
    is_flag=True,
    help="Open STORE although others than you own it: they can crash vfs, and change what is in there.",
)


def split_options(text: str) -> list[str]:
    """Mount options, which commas separate; a comma in double quotes belongs to an option, as in mount(8)."""
    return _OPTION.findall(text)
