"""Records of the journal, read and applied to a catalog again; and those set aside that nobody can apply.

A vfs of today writes no such record (Core.commit). An earlier one may have, or somebody made it. Opening a store, `vfs
check` and `vfs rebuild` all pass over it in the same way, with the records that build on it: those do not make sense
without it either. Owns ``set-aside/``, where what was passed over is kept, and named: a line of JSON, and the record as
the journal has it. What is there stays set aside, whatever a later vfs could make of it: history went on without it.

The blocks of what is set aside are kept as well: the catalog counts them (its table `aside`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import msgspec

from vfs import events, sense
from vfs.catalog import DAMAGE, Catalog
from vfs.disk import Disk, segments
from vfs.errors import Corrupt, DiskFailed, NoSpace, NoSuchKey, Unstorable
from vfs.events import Change, Event
from vfs.journal import Record, raw
from vfs.model import BlockId, Content

log = logging.getLogger("vfs.replay")

FOLDER = "set-aside"
LINE_BYTES_MAX = 4096  # of what is told of a record
REASON_CHARS_MAX = 1000
_TAGS = frozenset(kind.__struct_config__.tag for kind in get_args(Change))
_DEEPEST = 8
_ID_BYTES = 32


class Aside(NamedTuple):
    """A record that is not applied: its number, what it was to do (for people), and why not."""

    number: int
    operation: str
    reason: str


class Replay:
    """Reads records of the journal for a catalog, and applies them, one after the other."""

    def __init__(self, catalog: Catalog, disk: Disk) -> None:
        self._catalog = catalog
        self._disk = disk
        self._kept = kept(disk)

    def read(self, record: Record) -> Event | Aside:
        """The event of a record, if it can be applied now. Raises Corrupt for one that a newer vfs has written."""
        if (aside := self.find(record)) is not None:
            return aside
        found = read(record)
        if isinstance(found, Event):
            try:
                sense.check(self._catalog, found)
            except Unstorable as error:
                return Aside(record.number, found.operation, str(error))
        return found

    def find(self, record: Record) -> Aside | None:
        """What is kept of a record that has been set aside."""
        return find(self._disk, record) if record.number in self._kept else None

    def apply(self, record: Record, found: Event | Aside) -> None:
        """What was read is applied, or passed over. Raises Corrupt if the catalog is damaged."""
        try:
            if isinstance(found, Event):
                self._catalog.apply(found, len(record.payload))
            else:
                self._catalog.set_aside(record.number, list(contents_of(record.payload)))
        except (NoSpace, DiskFailed):
            raise
        except (AttributeError, TypeError, AssertionError, NoSuchKey, *DAMAGE) as error:
            raise Corrupt(
                name(record),
                expected="changes that can be applied",
                found=f"{found.operation}: {error!r}; `vfs rebuild` makes the catalog again",
            ) from error


def read(record: Record) -> Event | Aside:
    """The event of a record, if it is one at all. Raises Corrupt for one that a newer vfs has written."""
    try:
        return events.decode(record.payload)
    except (ValueError, RecursionError) as error:  # of msgspec; of what is no UTF-8; of arrays in arrays in arrays
        return _unreadable(record, error)


def name(record: Record) -> str:
    """A record, for people."""
    return f"journal record {record.number} (journal/{record.start.segment:016x} at byte {record.start.offset})"


def contents(found: Event | Aside) -> list[Content]:
    """The contents that are needed for it to be applied."""
    return events.contents(found) if isinstance(found, Event) else []


# -- what cannot be read ----------------------------------------------------------------------------------------------


def _unreadable(record: Record, error: Exception) -> Aside:
    found = _decode(record.payload)
    tags = _tags(found)
    if tags - _TAGS:
        raise Corrupt(
            name(record),
            expected="changes that this vfs knows",
            found=f"one with tag {min(tags - _TAGS)}: a newer vfs has written it; open the store with that, or give up"
            " this record by `vfs rebuild --cut`",
        ) from error
    return Aside(record.number, _operation(found), str(error)[:REASON_CHARS_MAX])


def unknown(record: Record, error: Corrupt) -> Aside:
    """A record that a newer vfs has written, as one to be set aside."""
    return Aside(record.number, _operation(_decode(record.payload)), error.found[:REASON_CHARS_MAX])


def _decode(payload: bytes) -> Any:
    """The arrays of a payload, whatever they are; None if it is none."""
    try:
        return msgspec.msgpack.decode(payload)
    except (ValueError, RecursionError):
        return None


def _operation(found: Any) -> str:
    return found[1] if isinstance(found, list) and len(found) > 1 and isinstance(found[1], str) else "unknown"


def _tags(found: Any) -> set[int]:
    changes = found[2] if isinstance(found, list) and len(found) > 2 and isinstance(found[2], list) else []
    first = (change[0] for change in changes if isinstance(change, list) and change)
    return {tag for tag in first if isinstance(tag, int)}


def contents_of(payload: bytes) -> Iterator[Content]:
    """What looks like a content in a payload that may make no sense: size, root, depth."""
    open_lists = [_decode(payload)]
    while open_lists:
        found = open_lists.pop()
        if not isinstance(found, list):
            continue
        match found:
            case [int(size), bytes(root), int(depth), *_] if len(root) == _ID_BYTES and 0 <= depth <= _DEEPEST:
                yield Content(max(size, 0), BlockId(root), depth)
            case _:
                open_lists += found


# -- what is kept -----------------------------------------------------------------------------------------------------


def kept(disk: Disk) -> frozenset[int]:
    """The numbers of the records that are kept."""
    return frozenset(int(number, 16) for number in segments(disk.list(FOLDER)))


def keep(disk: Disk, record: Record, aside: Aside) -> None:
    """Keep a record that is set aside, durably. Raises NoSpace, DiskFailed."""
    path = f"{FOLDER}/{record.number:016x}"
    if record.number in kept(disk):
        disk.remove(path)
    about = {"Record": aside.number, "Operation": aside.operation[:200], "Reason": aside.reason[:REASON_CHARS_MAX]}
    file = disk.open(path, create=True)
    try:
        file.append((json.dumps(about).encode() + b"\n", raw(record)))
        file.sync()
    finally:
        file.close()


def find(disk: Disk, record: Record) -> Aside | None:
    """What is kept of a record, if it is this one: a power loss may have taken that, and its number is another's."""
    line, _, found = _read(disk, record.number).partition(b"\n")
    return _about(record.number, line) if found == raw(record) else None


def every(disk: Disk) -> Iterator[Aside]:
    """What is kept, by number."""
    for number in sorted(kept(disk)):
        yield _about(number, _read(disk, number, LINE_BYTES_MAX).partition(b"\n")[0])


def _read(disk: Disk, number: int, length: int | None = None) -> bytes:
    file = disk.open(f"{FOLDER}/{number:016x}")
    try:
        return file.read(0, file.size if length is None else length)
    finally:
        file.close()


def _about(number: int, line: bytes) -> Aside:
    try:
        about = json.loads(line)
        return Aside(number, str(about["Operation"]), str(about["Reason"]))
    except (ValueError, KeyError, TypeError):
        return Aside(number, "unknown", "nothing is told of it")
