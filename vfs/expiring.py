"""What lifecycles have to do: a walk over each bucket that has rules, in bounded steps, between which anything may
happen; and doing it. vfs.lifecycle decides, and locks after it.

A step is planned first and carried out later, when it has been written to the log (vfs.audit). What has changed
meanwhile is left alone: the next walk looks at it again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from vfs import lifecycle, listing
from vfs.core import Changed
from vfs.errors import DiskFailed, Locked, NoSpace, NoSuchKey, NoSuchUpload, VfsError
from vfs.lifecycle import Entry, Expire
from vfs.listing import One
from vfs.model import NO_INFO, NOBODY_UID, Ino, Kind, LifecycleRule, Seq, Writer
from vfs.names import format_version_id, show, split_key
from vfs.store import Store

log = logging.getLogger("vfs.lifecycle")

KEYS_PER_STEP_MAX = 100  # looked at in one go
PASSED_NAMED_MAX = 20  # of what a pass cannot do; the rest is counted
KEY_SHOWN_CHARS_MAX = 200
VERSIONS_PER_STEP_MAX = 100  # of them in one go; a step may have twice as many

WRITER = Writer(NOBODY_UID, 0, "lifecycle")

Rules = tuple[LifecycleRule, ...]


class Due(NamedTuple):
    """One action that is due by a rule. what: "expire" (a current version), "purge" (a version or delete marker),
    "abort" (an upload). id: of the version or upload. size: bytes. rules: all of the bucket, when this was decided.
    """

    ino: Ino
    bucket: bytes
    key: bytes
    what: str
    rule: str
    id: str
    size: int
    rules: Rules


class Passed:
    """What a walk or its actions had to pass over. Invariant: all are counted, the first few are logged."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, what: str, error: Exception) -> None:
        """Something stays as it is; everything else has its turn."""
        self.count += 1
        if self.count <= PASSED_NAMED_MAX:
            log.warning("lifecycles pass over %s: %s", what, str(error) if isinstance(error, VfsError) else repr(error))


def plan(
    store: Store, *, day_s: float = lifecycle.DAY_S, only: Ino | None = None, passed: Passed | None = None
) -> Iterator[list[Due]]:
    """What is due now, a step for each `next`. Changes nothing. only: of that bucket. What cannot be looked at is told
    to *passed*, and keeps nothing else from its turn. Raises NoSpace, DiskFailed.
    """
    passed = Passed() if passed is None else passed
    for ino, bucket in store.buckets():
        if bucket.lifecycle and only in (None, ino):
            try:
                yield from _plan_bucket(store, ino, day_s, passed)
            except (NoSpace, DiskFailed):
                raise
            except Exception as error:  # damage on the way from key to key
                passed.add(f"the rest of {show(bucket.name)}", error)


def _plan_bucket(store: Store, ino: Ino, day_s: float, passed: Passed) -> Iterator[list[Due]]:
    """The keys by name, those of a step together; of a key with many versions a part in each step."""
    start: bytes | None = b""
    due: list[Due] = []
    looked = 0
    while start is not None and store.is_bucket(ino):
        walk = listing.walk_known(store.core.catalog, ino, start)
        behind = (known for known in walk if known.key >= start)  # not the directories on the way
        some = list(islice(behind, KEYS_PER_STEP_MAX))
        for known in some:
            if known.name.endswith(b"/"):
                continue
            for seen, found in _passing_over(store, ino, known.key, day_s, passed):
                due += found
                looked += seen
                if looked >= VERSIONS_PER_STEP_MAX:
                    yield due
                    due, looked = [], 0
        start = some[-1].key + b"\0" if len(some) == KEYS_PER_STEP_MAX else None
        if some and start is not None and some[-1].name.endswith(b"/"):
            start = some[-1].key  # whose key may also be that of an object, which comes next
        yield due
        due, looked = [], 0
    yield _plan_uploads(store, ino, day_s)


def _passing_over(store: Store, ino: Ino, key: bytes, day_s: float, passed: Passed) -> Iterator[tuple[int, list[Due]]]:
    """The same as `_plan_key`, of a key that may be too long for an object, or whose rows may be damaged."""
    try:
        yield from _plan_key(store, ino, key, day_s)
    except (NoSpace, DiskFailed):
        raise
    except Exception as error:
        passed.add(_shortened(key), error)


def _shortened(key: bytes) -> str:
    text = show(key)
    return text if len(text) <= KEY_SHOWN_CHARS_MAX else f"{text[:KEY_SHOWN_CHARS_MAX]}…"


def _plan_key(store: Store, ino: Ino, key: bytes, day_s: float) -> Iterator[tuple[int, list[Due]]]:
    """What is due of a key: newest versions first, so many at a time as a step may have; how many were looked at."""
    catalog = store.core.catalog
    directories, name = split_key(key)
    before, count = listing.ALL, 0
    newer: Seq | None = None
    while store.is_bucket(ino):
        rules = catalog.bucket(ino).lifecycle
        chain = listing.chain_of(catalog, ino, directories, name)  # anew: what was done may have moved it
        versions = listing.versions_of(catalog, chain, before)
        some = list(islice((one for one in versions if listing.is_object(one.version)), VERSIONS_PER_STEP_MAX))
        newest = listing.newest_of(catalog, chain, name)
        if not some or newest is None or (newer is None and some[0].seq != newest.seq):
            return  # nothing is left, or something else than an object lives there
        entries = [_entry(store, one) for one in some]
        now = store.core.clock() // 1000
        found = []
        for action in lifecycle.actions(rules, key, entries, now, day_s, before=count, newer=newer):
            one = some[0 if isinstance(action, Expire) else action.at]
            what = "expire" if isinstance(action, Expire) else "purge"
            if what == "expire" or not _is_locked(store, one):
                version_id = format_version_id(one.seq, null=one.version.null)
                size = one.version.content.size
                found.append(Due(ino, catalog.bucket(ino).name, key, what, action.rule, version_id, size, rules))
        yield len(some), found
        if len(some) < VERSIONS_PER_STEP_MAX:
            return
        before, newer = some[-1].seq, some[-1].seq
        count += len(some)


def _is_locked(store: Store, one: One) -> bool:
    try:
        store.objects.check_purge(one.key_id, one.seq)
    except Locked:
        return True
    return False


def _entry(store: Store, one: One) -> Entry:
    info = store.core.catalog.object_info(one.key_id, one.seq) or NO_INFO
    return Entry(one.seq, one.version.kind is Kind.MARKER, one.version.content.size, info.tags)


def _plan_uploads(store: Store, ino: Ino, day_s: float) -> list[Due]:
    """The uploads that are to be given up (there are at most UPLOADS_MAX of a bucket)."""
    if not store.is_bucket(ino):
        return []
    bucket = store.bucket(ino)
    now = store.core.clock() // 1000
    due = []
    for named in store.uploads.every(ino):
        rule = lifecycle.aborts(bucket.lifecycle, named.upload, now, day_s)
        if rule is not None:
            due.append(Due(ino, bucket.name, named.upload.key, "abort", rule, named.id, 0, bucket.lifecycle))
    return due


def carry_out(store: Store, due: Sequence[Due], passed: Passed | None = None) -> list[Changed]:
    """Do what is due, unless the rules have changed, or what it is about. Returns what changed, for other doors. What
    cannot be done is told to *passed* and left for the next time. Raises NoSpace, DiskFailed.
    """
    passed = Passed() if passed is None else passed
    changed: list[Changed] = []
    for action in due:
        if not store.is_bucket(action.ino) or store.bucket(action.ino).lifecycle != action.rules:
            continue
        try:
            changed += _carry_out(store, action)
        except (NoSuchKey, NoSuchUpload, Locked):
            continue  # somebody was faster
        except (NoSpace, DiskFailed):
            raise
        except Exception as error:
            passed.add(f"{show(action.bucket)}/{_shortened(action.key)} {action.id}", error)
    return changed


def _carry_out(store: Store, action: Due) -> list[Changed]:
    ino, key = action.ino, action.key
    if action.what == "abort":
        store.uploads.abort(ino, key, action.id)
        return []
    if action.what == "purge":
        return store.objects.purge(ino, key, action.id, WRITER).changed
    if store.objects.current(ino, key).version_id != action.id:
        return []
    return store.objects.delete(ino, key, WRITER).changed
