"""Options that several commands have."""

from __future__ import annotations

import click

FOREIGN_OWNER = "foreign_owner"  # in fstab

foreign_owner = click.option(
    "--foreign-owner",
    "foreign",
    is_flag=True,
    help="Open STORE although others than you own it: they can crash vfs, and change what is in there.",
)
