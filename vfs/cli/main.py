"""The `vfs` command: its subcommands, and one place where errors become one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence

import click

from vfs import __version__
from vfs.cli import mounts, output, usage
from vfs.cli.output import FAILED, WRONG, Failure
from vfs.errors import InvalidName, NotAStore, StoreInUse, VfsError

INTERRUPTED = 130  # as shells say it: 128 + SIGINT

# name: the module that has it, and one line about it
COMMANDS = {
    "mount": ("mounting", "Mount a store; make it if it is missing."),
    "serve": ("serving", "Serve a store over S3, without a mount."),
    "umount": ("mounting", "Unmount a store, and wait until it is closed."),
    "log": ("versions", "List the versions of a file, deleted or not."),
    "restore": ("versions", "Make an earlier version of a file current again."),
    "purge": ("versions", "Remove versions of a file for good."),
    "bucket": ("buckets", "List, make, remove and show buckets."),
    "lock": ("buckets", "Show or begin object lock in a bucket."),
    "lifecycle": ("lifecycles", "What becomes of old versions, by rules."),
    "versioning": ("buckets", "Show or change the versioning of a bucket."),
    "s3": ("serving", "Access keys of the S3 endpoint."),
    "status": ("stores", "Show what is mounted."),
    "trace": ("tracing", "Count and time what a mount is asked for."),
    "gc": ("space", "Give the space of what was purged back."),
    "check": ("checking", "Read a store to its last byte and report damage."),
    "rebuild": ("checking", "Make the catalog of a store again."),
    "install-service": ("installing", "Install vfs and its systemd units for this machine."),
}

# what other tools call it
MEANT = {
    "undelete": "restore",
    "undo": "restore",
    "revert": "restore",
    "history": "log",
    "versions": "log",
    "list": "log",
    "ls": "log",
}

_WRONG = (InvalidName, NotAStore, StoreInUse)  # the caller named the wrong thing
_WRONG_PATH = (errno.ENAMETOOLONG, errno.ELOOP)


class LazyGroup(usage.Group):
    """A group whose commands are imported when they are run or asked for help: `vfs --help` needs none of them."""

    others = MEANT

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, for help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"vfs.cli.{module}"), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, for help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vfs", message="%(prog)s %(version)s", help="Show the version of vfs.")
def cli() -> None:
    """Versioned buckets, mounted as a directory that forgets nothing.

    \b
    vfs mount STORE ~/vault   mounts a store, and makes it if it is not there
    vfs log FILE              shows the versions of a file
    vfs restore FILE          brings back the one before

    \b
    Exit codes:
      0  done
      1  the operation failed: no such version, permission denied, damage…
      2  wrong usage, store, mount point or option
    """


def main() -> None:
    """Entry point: run the command line of this process, and exit."""
    output.open_streams()
    code = run(sys.argv[1:])
    output.close_streams()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code. Errors that vfs knows become one line on stderr."""
    try:
        code = cli.main(args=list(arguments), prog_name="vfs", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return WRONG
    except click.UsageError as error:
        output.write_error(usage.explain(error))
        return WRONG
    except Failure as error:
        output.write_error(error.message)
        return error.code
    except VfsError as error:
        output.write_error(str(error))
        return WRONG if isinstance(error, _WRONG) else FAILED
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        lost = mounts.lost_directory() if error.filename is None else ""  # getcwd and abspath name no file
        output.write_error(lost or output.reason(error))
        return WRONG if error.errno in _WRONG_PATH else FAILED
    except MemoryError:
        output.write_error("out of memory; raise the limit of this process (ulimit -v)")
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
