"""How commands are called: what every argument must be, and errors that name what may have been meant."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping

import click

from vfs.cli.mounts import check_is_no_mount
from vfs.cli.output import WRONG, Failure

NEAR = 0.65  # what two words share at least to be taken for one another: `lst` and `list`, `ls` and `list`
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Command(click.Command):
    """A command whose arguments are given: neither empty nor elsewhere."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises Failure, UsageError."""
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            if isinstance(parameter, click.Argument):
                found = ctx.params[str(parameter.name)]
                for value in found if isinstance(found, tuple) else (found,):
                    if value == "":
                        raise click.BadParameter("it is empty", ctx, parameter)
                    if isinstance(value, str):
                        check_is_here(value)
                    if parameter.name == "store":
                        check_is_no_mount(value)
        return rest


class Group(click.Group):
    """A group of such commands, which names the nearest one where there is none of a name."""

    command_class = Command
    group_class = type
    others: Mapping[str, str] = {}  # what else a command is called elsewhere, and its name here

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises UsageError."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            meant = self.others.get(name)
            near = f", the nearest is {meant!r}" if meant else nearest(name, self.list_commands(ctx))
            raise click.UsageError(f"No such command {name!r}{near}", ctx)
        return super().resolve_command(ctx, args)


def explain(error: click.UsageError) -> str:
    """One line about wrong usage, and where to look."""
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        options = [one for one in error.ctx.command.get_params(error.ctx) if isinstance(one, click.Option)]
        names = (name for one in options if not one.hidden for name in one.opts)
        message = f"No such option {error.option_name!r}{nearest(error.option_name, names)}"
    if message.startswith("Got unexpected extra argument") and _takes_a_path(error.ctx):
        message += ", and this takes one file at a time"
    where = error.ctx.command_path if error.ctx else "vfs"
    return f"{message}; see `{where} --help`"


def _takes_a_path(context: click.Context | None) -> bool:
    return context is not None and any(one.name == "path" for one in context.command.params)


def nearest(word: str, known: Iterable[str]) -> str:
    """``, the nearest is 'list'`` if there is one that is near, or alone begins so."""
    by_name, word = {name.strip("-"): name for name in known}, word.strip("-")
    found = [name for name in by_name if word and name.startswith(word)]
    if len(found) != 1:
        found = difflib.get_close_matches(word, list(by_name), n=1, cutoff=NEAR)
    return f", the nearest is {by_name[found[0]]!r}" if found else ""


def check_is_here(path: str) -> None:
    """Raise Failure for a URL, unless that is the path of something."""
    if _URL.match(path) and not os.path.lexists(path):
        raise Failure(f"{path} is a URL, and there are no remote buckets yet; name a path of this machine", WRONG)
