"""`vfs check`, `vfs rebuild`: whether a store is whole, and what can be made again if it is not."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from vfs.cli import output
from vfs.cli.mounting import when_closed
from vfs.cli.options import foreign_owner
from vfs.cli.output import WRONG, Cell, Failure
from vfs.cli.space import collect
from vfs.cli.usage import Command
from vfs.errors import NoSpace

if TYPE_CHECKING:
    import rich.progress

    from vfs.check import Figures, Kind, Problem, Rebuilt

PROBLEMS_IN_JSON_MAX = 10_000
MENDED_MAX = 100_000  # headers of blocks that one repair writes again
PURGES_SHOWN_MAX = 20  # versions
_REFRESH_S = 0.1


@click.command(cls=Command)
@click.argument("store")
@click.option("--repair", "wanted", is_flag=True, help="Make again what can be derived: catalog, counts, headers.")
@foreign_owner
@click.option("--json", "as_json", is_flag=True, help="An object: Clean, Repaired, Problems, Figures.")
@click.pass_context
def check(context: click.Context, store: str, wanted: bool, foreign: bool, as_json: bool) -> None:
    """Read STORE, which must not be mounted, to its last byte: the journal, every block, every row of the catalog.
    Reports what is damaged, with every version that this harms. Exit code 1: there are problems; 2: the store could not
    be checked. Scratch files are made in $TMPDIR, or /var/tmp.

    Changes nothing without --repair. With it, the catalog is made again from the journal, and the headers of blocks
    from their contents, if they are wrong. That gives up nothing: what is damaged and cannot be derived stays as it is,
    and you are told how to give it up by name. Exit code 1: there are problems left.
    """
    done: list[str] = []
    seen = _check(store, foreign, as_json)
    if wanted and seen.figures.problems + seen.figures.harmless:
        done = _repair(store, foreign, seen)
        if not as_json:
            for line in done:
                output.write(f"repaired: {line}")
        if done:
            seen = _check(store, foreign, as_json)
    if as_json:
        output.write_json(
            {
                "Clean": not seen.figures.problems,
                "Repaired": done,
                "Problems": [_title(asdict(problem)) for problem in seen.problems],
                "Figures": _title(asdict(seen.figures)),
            }
        )
    else:
        output.write(_summary(store, seen.figures))
        for line in _advice(store, seen, repaired=wanted):
            output.write(line)
    if seen.figures.problems:
        context.exit(output.FAILED)


class Seen:
    """What a check found, as far as it is told or repaired. Invariant: `kinds` are those of all problems; `log_unread`
    says whether one is that there may be something in the sync log that cannot be read.
    """

    figures: Figures

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self.problems: list[Problem] = []
        self.headers: list[str] = []
        self.lost: list[Problem] = []
        self.log_unread = False

    def add(self, problem: Problem) -> None:
        """Note a problem."""
        self.kinds[problem.kind] += 1
        if len(self.problems) < PROBLEMS_IN_JSON_MAX:
            self.problems.append(problem)
        if problem.kind == "header" and len(self.headers) < MENDED_MAX:
            self.headers.append(problem.block)
        if problem.kind == "version" and len(self.lost) < PURGES_SHOWN_MAX:
            self.lost.append(problem)
        if problem.kind == "synclog" and not problem.harmless:
            self.log_unread = True


def _check(store: str, foreign: bool, as_json: bool) -> Seen:
    """Check, and tell each problem when it is found, unless it will be told as JSON."""
    from vfs.check import check as check_store

    seen = Seen()

    def report(problem: Problem) -> None:
        seen.add(problem)
        if not as_json:
            bar.clear()
            _write_problem(problem)

    try:
        with Bar() as bar:
            seen.figures = when_closed(lambda: check_store(Path(store), report, bar.show, foreign=foreign))
    except (NoSpace, OSError) as error:
        what = output.reason(error) if isinstance(error, OSError) else str(error)
        raise Failure(f"{store} was not checked to its end: {what}", WRONG) from error
    return seen


def _repair(store: str, foreign: bool, seen: Seen) -> list[str]:
    """Make again what can be derived from what is intact. Returns what was done, in words."""
    from vfs.check import Kind, mend_headers
    from vfs.check import rebuild as rebuild_store

    if seen.kinds[Kind.JOURNAL] or seen.log_unread:
        return []  # what the catalog, or the sync log, knows may be nowhere else
    if seen.kinds[Kind.DISK]:
        return []  # what the disk cannot read now it may read later
    done = []
    if seen.kinds[Kind.SNAPSHOT] and not seen.kinds[Kind.CATALOG]:
        collect(Path(store), foreign=foreign)
        done.append("made a new snapshot of the catalog, in place of the beginning of the journal")
    if seen.headers:
        mended = mend_headers(
            Path(store), seen.headers, foreign=foreign
        )  # first: a rebuild finds blocks by their headers
        done.append(f"wrote the headers of {mended} blocks again")
    if seen.kinds[Kind.CATALOG] or seen.kinds[Kind.REFERENCES]:
        with Bar() as bar:
            rebuilt = rebuild_store(Path(store), bar.show, foreign=foreign)
        done.append(f"made the catalog again {_made_from(rebuilt)}, and with it every count")
        done += _what_is_kept(store, rebuilt)
    return done


def _made_from(rebuilt: Rebuilt) -> str:
    if not rebuilt.snapshot:
        return f"from {rebuilt.events} events"
    return f"from the snapshot of {_time(rebuilt.snapshot)} and {rebuilt.events} events after it"


def _time(at: int) -> str:
    return output.human_time(datetime.fromtimestamp(at / 1e6, UTC).isoformat())


def _what_is_kept(store: str, rebuilt: Rebuilt) -> Iterator[str]:
    if rebuilt.before is not None:
        yield f"the old catalog is in {rebuilt.before}; remove it when you have seen that all is well"
    if rebuilt.aside:
        where = Path(store) / "set-aside"
        yield f"{rebuilt.aside} records that nobody can apply are in {where}; nothing of what they say is done"
    if rebuilt.kept:
        yield f"the bytes of {rebuilt.kept} damaged blocks are in {Path(store) / 'damaged'}"


def _advice(store: str, seen: Seen, *, repaired: bool) -> Iterator[str]:
    """What somebody can do about what was found."""
    from vfs.check import Kind

    kinds = seen.kinds
    quoted = shlex.quote(store)
    if seen.log_unread:
        yield "The sync log cannot be read where it is named above, and the store cannot be mounted like this: what was"
        yield "synced in the last seconds before a crash may be only there." + _last_event(seen.figures.last_event)
        yield "Try again: what a disk cannot read now, it may read later. Or put that file back from a copy."
        yield "To give up what is only there, and nothing else:"
        yield f"  vfs rebuild --cut {quoted}   puts the rest of the log in its place, and moves the log aside"
    if kinds[Kind.JOURNAL]:
        yield "The journal is damaged. If there is a copy of the store, write its segments over those named above (dd"
        yield "conv=notrunc; not in their place: an older copy ends sooner)."
        yield "Without it nothing is repaired: what the catalog knows may be nowhere else. Keep a copy of all of it."
        if seen.figures.opens and kinds[Kind.CATALOG]:
            yield "The store can be mounted, and its files copied to a new one, but for what is wrong in the catalog."
        elif seen.figures.opens:
            yield "The catalog knows what was in the damaged part: mount the store, and every file is there as before."
            yield "  vfs gc MOUNTPOINT   then puts a snapshot of the catalog in its place, if it has more than 64 KiB"
            yield "`vfs rebuild --cut` instead would give up all that came after the damage."
        else:
            yield "The store cannot be mounted like this. To give up the versions named above as behind the damage:"
            yield f"  vfs rebuild --cut {quoted}   goes on without what is behind, and moves it aside"
    elif not (repaired or seen.log_unread or kinds[Kind.DISK]) and (
        kinds[Kind.SNAPSHOT] or kinds[Kind.CATALOG] or kinds[Kind.REFERENCES] or kinds[Kind.HEADER]
    ):
        yield f"  vfs check --repair {quoted}   makes the catalog, the counts and the headers again; gives up nothing"
    if kinds[Kind.RECORD]:
        yield "Nobody can apply the records named above. Mounting the store sets them aside, with those that build on"
        yield "them, in its directory set-aside; everything else is there. Keep a copy of the store as it is."
    if kinds[Kind.DISK]:
        yield "The disk cannot read all of the store. Copy it, as far as it can be read, to a disk that is well (as"
        yield "ddrescue does), and check the copy: nothing is repaired here."
    if kinds[Kind.BLOCK] and seen.lost:
        yield "The versions named above cannot be read to their end; everything else can. To mend them, write the"
        yield "segments of a copy of the store over those named above (dd conv=notrunc; not in their place: an older"
        yield "copy ends sooner). Or, if their content is still somewhere else:"
        yield f"  vfs rebuild {quoted}   then mount the store, and copy that content into any bucket"
        yield "To give up versions for good, and nothing else, mount the store:"
        for path, problems in groupby(seen.lost, key=lambda problem: problem.path):
            ids = " ".join(problem.version_id for problem in problems if problem.version_id)
            if ids:
                yield f"  vfs purge {shlex.quote(f'MOUNTPOINT/{path}')} {ids}"
        if kinds[Kind.VERSION] > len(seen.lost):
            yield f"  … and so on, for {kinds[Kind.VERSION] - len(seen.lost)} versions more"
    if kinds[Kind.PART]:
        yield "The parts of uploads named above cannot be put together to an object. Who uploads them can send them"
        yield "again, under the same numbers, or give the upload up (AbortMultipartUpload)."


def _last_event(at: int) -> str:
    return f" The last event that is left was at {_time(at)}." if at > 0 else ""


def _title(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "".join(map(str.title, name.split("_"))): value for name, value in fields.items() if value not in ("", None)
    }


def _write_problem(problem: Problem) -> None:
    word = Cell("note", "yellow") if problem.harmless else Cell(problem.kind.value, "red")
    output.write_coloured((word, Cell(f": {problem.where}: {problem.message}")))


def _summary(store: str, figures: Figures) -> str:
    size = output.human_size(figures.block_bytes)
    read = f"{figures.events} events, {figures.versions} versions, {figures.blocks} blocks ({size})"
    torn = f"; the next mount drops {figures.torn_bytes} bytes that a crash tore" if figures.torn_bytes else ""
    if figures.problems:
        return f"{store}: {figures.problems} problems in {read}{torn}"
    return f"{store} is clean: {read}{torn}"


@click.command(cls=Command)
@click.argument("store")
@click.option("--cut", is_flag=True, help="Move damage in the journal, with all behind it, or in the sync log aside.")
@foreign_owner
def rebuild(store: str, cut: bool, foreign: bool) -> None:
    """Make the catalog of STORE, which must not be mounted, again from its journal and blocks. The old catalog is kept
    as catalog.before-rebuild in the store. If the journal is damaged, or a sync log that a crash left cannot be read,
    nothing is changed without --cut, which does without what is lost by that.
    """
    from vfs.check import rebuild as rebuild_store

    with Bar() as bar:
        done = when_closed(lambda: rebuild_store(Path(store), bar.show, cut=cut, foreign=foreign))
    output.write(f"made the catalog of {store} again {_made_from(done)}")
    if done.log is not None:
        output.write(f"the sync log, which cannot be read to its end, is in {done.log}.{_last_event(done.last_event)}")
    if done.lost:
        output.write(f"the old catalog knew {done.lost} events more, which the journal does not have any more")
    if done.cut is not None:
        output.write(f"the damaged end of the journal is in {done.cut}")
    for line in _what_is_kept(store, done):
        output.write(line)


class Bar:
    """A progress bar on stderr, if that is a terminal, drawn at most every _REFRESH_S. Leaves nothing behind."""

    def __init__(self) -> None:
        self._progress: rich.progress.Progress | None = None
        self._what = ""
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        if output.errors_on_terminal():
            import rich.console
            import rich.progress as progress

            console = rich.console.Console(stderr=True, force_terminal=True)
            percentage = "[progress.percentage]{task.percentage:>3.0f}% {task.description}"
            columns = (progress.BarColumn(), percentage, progress.TimeElapsedColumn(), progress.TimeRemainingColumn())
            self._progress = progress.Progress(*columns, console=console, transient=True, auto_refresh=False)
            self._task = self._progress.add_task("", total=None)
        return self

    def __exit__(self, *exception: object) -> None:
        self.clear()

    def show(self, what: str, done: int, total: int) -> None:
        """Draw it: *what* is being read, how much of it is done, how much there is."""
        now = time.monotonic()
        if self._progress is None or not total or now < self._drawn_at + _REFRESH_S:
            return
        if what != self._what:
            self._progress.reset(self._task, total=total, completed=done, description=what)
        self._progress.update(self._task, total=total, completed=done)
        self._what, self._drawn_at = what, now
        self._progress.start()
        self._progress.refresh()

    def clear(self) -> None:
        """Take it away, until it is drawn again."""
        if self._progress is not None:
            self._progress.stop()
