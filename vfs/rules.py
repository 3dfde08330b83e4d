"""The rules of versioning, as tables. Pure: no I/O, no clock, no catalog.

The table of docs/semantics.md ("Versioning states") is this module and nothing else decides it:

    state        new content                    delete
    UNVERSIONED  replaces the null version      removes the null version; a null marker only over other history
    ENABLED      own id, everything stays       marker with its own id
    SUSPENDED    replaces the null version      removes the null version, marker with id null

Source: Amazon S3 User Guide, "Retaining multiple versions of objects with S3 Versioning"; OSS and OBS agree.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import NamedTuple

from vfs.errors import InvalidState
from vfs.model import Kind, Seq, State

ATOMIC_SAVE_WINDOW_US = 60_000_000
UNVERSIONED_DEFAULT = (b".*.sw?", b"*~", b"4913", b".~lock.*#", b"~$*", b".goutputstream-*", b".#*")


class Put(NamedTuple):
    """What adding content does: whether the new version is the null version, and which version it replaces."""

    null: bool
    replaces: Seq | None


class Delete(NamedTuple):
    """What a delete does: the null version that goes, and the marker that comes (None: none)."""

    removes: Seq | None
    marker_null: bool | None


_ADD = Put(null=False, replaces=None)
_MARK = Delete(removes=None, marker_null=False)
_TRANSITIONS = {
    (State.UNVERSIONED, State.ENABLED),
    (State.ENABLED, State.SUSPENDED),
    (State.SUSPENDED, State.ENABLED),
}


def put(state: State, null_version: Seq | None) -> Put:
    """New content for a key whose null version, if any, is *null_version*."""
    if state is State.ENABLED:
        return _ADD
    return Put(null=True, replaces=null_version)


def delete(state: State, null_version: Seq | None, *, others: bool) -> Delete:
    """A delete of a key; *others*: it has versions besides the null version."""
    if state is State.ENABLED:
        return _MARK
    if state is State.SUSPENDED:
        return Delete(removes=null_version, marker_null=True)
    return Delete(removes=null_version, marker_null=True if others else None)


def change_state(now: State, wanted: State) -> State:
    """The state after asking for *wanted*. Raises InvalidState for what S3 does not have."""
    if now is wanted or (now, wanted) in _TRANSITIONS:
        return wanted
    raise InvalidState(f"versioning cannot go from {now.name.title()} to {wanted.name.title()}")


def next_seq(now_us: int, last: Seq) -> Seq:
    """A sequence for a new version: the time, but always above the last one, whatever the clock does."""
    return Seq(max(now_us, last + 1))


def removes_name(kind: Kind) -> bool:
    """Whether a key whose current version is of *kind* is absent."""
    return kind is Kind.MARKER or kind is Kind.NO_DIRECTORY


def state_for(state: State, name: bytes, patterns: tuple[bytes, ...]) -> State:
    """The state that holds for *name*: names on the bucket's `unversioned` list behave as in such a bucket."""
    return State.UNVERSIONED if _matcher(patterns)(name) else state


def is_atomic_save(*, age_us: int, only_version: bool, over_existing: bool, target: State) -> bool:
    """Whether a rename is an editor's or tool's save through a temporary file, whose name is not worth a history.

    Not if the *target* keeps no history itself (`mv f f~`): then the source's is all there is.
    """
    return over_existing and only_version and age_us < ATOMIC_SAVE_WINDOW_US and target is not State.UNVERSIONED


@lru_cache(maxsize=1000)
def _matcher(patterns: tuple[bytes, ...]):  # type: ignore[no-untyped-def]
    alternatives = "|".join(f"(?:{fnmatch.translate(p.decode('latin-1'))})" for p in patterns)
    compiled = re.compile((alternatives or r"(?!)").encode("latin-1"), re.DOTALL)
    return compiled.match
