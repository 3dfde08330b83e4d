"""What people and programs see: errors, tables, JSON. Owns the exit codes.

On a terminal: a header, aligned columns, colours (unless NO_COLOR is set, or TERM is dumb). In a pipe: the same cells,
separated by tabs, without header and colours. Errors are one line on stderr; the commands in them can be typed as they
stand.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import NamedTuple

import click

FAILED = 1  # the operation failed
WRONG = 2  # wrong usage, store, mount point or option
WIDTH_ROWS = 200  # rows that decide how wide a column is; later ones may stick out
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class Failure(click.ClickException):
    """An error of one line: the thing, the reason, what to do. code: the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class Cell(NamedTuple):
    """A cell of a table: its text, and its colour on a terminal."""

    text: str
    colour: str | None = None


class Column(NamedTuple):
    """A column of a table; numbers stand to the right. fits: where a terminal is narrow it may be cut in the middle,
    to so many characters.
    """

    title: str
    right: bool = False
    fits: int | None = None


def open_streams() -> None:
    """See that there are standard streams, whoever started this: a file that is opened must not become one of them, and
    what is written to a closed one must fail. What they cannot encode is escaped.
    """
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:  # then its descriptor is the next that is free
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def close_streams() -> None:
    """Drop what could not be written: Python would try again when it ends, complain, and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def on_terminal() -> bool:
    """Whether a person reads the output."""
    return sys.stdout.isatty()


def errors_on_terminal() -> bool:
    """Whether a person reads the errors."""
    return sys.stderr.isatty()


def _echo(text: str, *, new_line: bool = True, color: bool | None = None) -> None:
    """Write and flush. Raises Failure, BrokenPipeError."""
    try:
        click.echo(text, nl=new_line, color=color)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"cannot write the output: {error.strerror}") from error


def _styled(text: str, colour: str | None, *, wanted: bool) -> str:
    wanted = wanted and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return click.style(text, fg=colour) if text and colour and wanted else text


def write(text: str) -> None:
    """A line of output."""
    _echo(printable(text))


def write_note(text: str) -> None:
    """A line about the output, on stderr: not for the program at the other end of a pipe."""
    click.echo(printable(text), err=True)


def write_coloured(cells: Iterable[Cell]) -> None:
    """A line of output in several colours."""
    wanted = on_terminal()
    _echo("".join(_styled(printable(cell.text), cell.colour, wanted=wanted) for cell in cells), color=True)


def write_error(message: str, *, program: str = "vfs") -> None:
    """A line on stderr."""
    prefix = _styled(f"{program}:", "red", wanted=errors_on_terminal())
    with contextlib.suppress(OSError):  # nobody can be told
        click.echo(f"{prefix} {printable(message.replace(chr(10), ' '))}", err=True, color=True)


def confirm(warning: str) -> None:
    """Ask on the terminal whether to go on. Raises Failure if the answer is no, or nobody is there to be asked."""
    if not (sys.stdin.isatty() and errors_on_terminal()):
        raise Failure(f"{warning} To go on without being asked, say --yes", WRONG)
    if not click.confirm(printable(f"{warning} Go on?"), err=True):
        raise Failure("nothing was changed")


def reason(error: OSError) -> str:
    """What the system answered, for people: the file, the reason, and what to do where that is known."""
    from vfs.disk import LIMITS

    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    advice = f"; {LIMITS[error.errno]}" if error.errno in LIMITS else ""
    return f"{where}{error.strerror or error}{advice}"


def write_json(value: object) -> None:
    """A JSON value, for programs; indented for people on a terminal."""
    _echo(_json(value, indent=2 if on_terminal() else None))


def write_json_list(values: Iterable[object]) -> None:
    """A JSON list, written as its items come."""
    separator = "["
    for value in values:
        _echo(f"{separator}{_json(value)}", new_line=False)
        separator = ",\n " if on_terminal() else ", "
    _echo("[]" if separator == "[" else "]")


def _json(value: object, indent: int | None = None) -> str:
    """JSON with the characters of names as they are, where they can be shown and encoded."""

    def escaped(char: re.Match[str]) -> str:
        if char[0].isprintable():
            with contextlib.suppress(UnicodeEncodeError):
                char[0].encode(sys.stdout.encoding)
                return char[0]
        return json.dumps(char[0])[1:-1]

    return re.sub(r"[^\x00-\x7e]", escaped, json.dumps(value, indent=indent, ensure_ascii=False))


def write_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    """Rows as they come; on a terminal the first ones decide the widths."""
    cells = ([Cell(printable(cell.text), cell.colour) for cell in row] for row in rows)
    if on_terminal():
        _write_aligned(columns, cells)
    else:
        for row in cells:
            _echo("\t".join(cell.text for cell in row))


def _write_aligned(columns: Sequence[Column], rows: Iterator[list[Cell]]) -> None:
    first = list(islice(rows, WIDTH_ROWS))
    if not first:
        return
    titles = [Cell(column.title, "bright_black") for column in columns]
    widths = [max(len(row[at].text) for row in [titles, *first]) for at in range(len(columns))]
    _narrow(columns, widths)
    for row in chain([titles], first, rows):
        line = ""
        for column, width, uncut in zip(columns, widths, row, strict=True):
            cell = uncut if column.fits is None else Cell(_cut(uncut.text, width), uncut.colour)
            padding = " " * (width - len(cell.text))
            text = _styled(cell.text, cell.colour, wanted=True)
            line += (padding + text if column.right else text + padding) + "  "
        _echo(line.rstrip(), color=True)


def _narrow(columns: Sequence[Column], widths: list[int]) -> None:
    """Take from the widest of the columns that may be cut until the terminal is wide enough."""
    over = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
    while over > 0:
        wide = [at for at, column in enumerate(columns) if column.fits is not None and widths[at] > column.fits]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
        over -= 1


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[-end:]}"


def printable(text: str) -> str:
    """*text* without what would move a terminal's cursor or cannot be encoded: names can hold any byte."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is no UTF-8 (surrogateescape)
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def counted(number: int, noun: str) -> str:
    """``1 day``, ``2 days``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def human_size(size: int) -> str:
    """Bytes for people: ``999 B``, ``1.2 MiB``."""
    if size < 1024:
        return f"{size} B"
    value, unit = float(size), 0
    while value >= 1023.95 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}"


def human_time(timestamp: str) -> str:
    """An ISO 8601 time as local time for people: ``2026-11-20 16:16:17``."""
    return f"{datetime.fromisoformat(timestamp).astimezone():%Y-%m-%d %H:%M:%S}"


def exact_time(timestamp: str) -> str:
    """The same to the last digit and with its zone, so that it names that moment wherever it is pasted:
    ``2026-11-20 16:16:17.000001+01:00``.
    """
    return datetime.fromisoformat(timestamp).astimezone().isoformat(" ", "microseconds")


def quoted(path: str) -> str:
    """A path as a shell takes it."""
    return shlex.quote(path)


def at_home(path: str) -> str:
    """A path as people type it: with ``~`` if it is in their home directory."""
    home = os.path.expanduser("~").rstrip("/")
    return "~" + path[len(home) :] if home and f"{path}/".startswith(f"{home}/") else path


def user_name(uid: int) -> str:
    """The name of a user, the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
