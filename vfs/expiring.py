"""Carrying lifecycles out: a walk over each bucket that has rules, in bounded steps, between which anything may happen.

vfs.lifecycle decides, and locks after it (`Objects.purge`). Each action is a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from vfs import lifecycle, listing
from vfs.core import Changed
from vfs.errors import Locked
from vfs.lifecycle import Entry, Expire
from vfs.listing import Known, One
from vfs.model import NO_INFO, Bucket, Ino, Kind, Writer
from vfs.names import format_version_id, show
from vfs.store import Store

log = logging.getLogger("vfs.lifecycle")

KEYS_PER_STEP_MAX = 100  # looked at in one go
VERSIONS_PER_KEY_MAX = 1000  # looked at, the newest of a key; older ones expire when they are among them

WRITER = Writer(0, 0, "lifecycle")


class Done(NamedTuple):
    """One action that was carried out, or would be. what: "expire", "purge", "abort"; version_id: of a purge."""

    bucket: bytes
    key: bytes
    what: str
    rule: str
    version_id: str
    changed: list[Changed]


def run(store: Store, *, day_s: float = lifecycle.DAY_S, dry: bool = False) -> Iterator[list[Done]]:
    """Do what the rules of all buckets say, a step for each `next`, which gives what it did. dry: change nothing.

    Raises NoSpace, DiskFailed.
    """
    for ino, bucket in store.buckets():
        if bucket.lifecycle:
            yield from _run_bucket(store, ino, bucket, day_s=day_s, dry=dry)


def _run_bucket(store: Store, ino: Ino, bucket: Bucket, *, day_s: float, dry: bool) -> Iterator[list[Done]]:
    start: bytes | None = b""
    while start is not None and store.is_bucket(ino):
        walk = listing.walk_known(store.core.catalog, ino, start)
        behind = (known for known in walk if known.key >= start)  # not the directories on the way
        some = list(islice(behind, KEYS_PER_STEP_MAX))
        done = [
            action
            for known in some
            if not known.name.endswith(b"/")
            for action in _expire(store, ino, bucket, known, day_s=day_s, dry=dry)
        ]
        start = some[-1].key + b"\0" if len(some) == KEYS_PER_STEP_MAX else None
        if some and start is not None and some[-1].name.endswith(b"/"):
            start = some[-1].key  # whose key may also be that of an object, which comes next
        yield done
    if store.is_bucket(ino):
        yield _abort(store, ino, bucket, day_s=day_s, dry=dry)


def _expire(store: Store, ino: Ino, bucket: Bucket, known: Known, *, day_s: float, dry: bool) -> list[Done]:
    catalog = store.core.catalog
    newest = listing.newest_of(catalog, known.chain, known.name)
    versions = (one for one in listing.versions_of(catalog, known.chain) if listing.is_object(one.version))
    chain = list(islice(versions, VERSIONS_PER_KEY_MAX))
    if not chain or newest is None or chain[0].seq != newest.seq:
        return []  # something else than an object lives there
    now = store.core.clock() // 1000
    entries = [_entry(store, one) for one in chain]
    done = []
    for action in lifecycle.actions(bucket.lifecycle, known.key, entries, now, day_s):
        if isinstance(action, Expire):
            changed = [] if dry else store.objects.delete(ino, known.key, WRITER).changed
            done.append(Done(bucket.name, known.key, "expire", action.rule, "", changed))
        else:
            one = chain[action.at]
            version_id = format_version_id(one.seq, null=one.version.null)
            try:
                store.objects.check_purge(one.key_id, one.seq)
                changed = [] if dry else store.objects.purge(ino, known.key, version_id, WRITER).changed
            except Locked as error:
                log.debug("%s/%s %s stays: %s", show(bucket.name), show(known.key), version_id, error)
                continue
            done.append(Done(bucket.name, known.key, "purge", action.rule, version_id, changed))
    _tell(done, dry=dry)
    return done


def _entry(store: Store, one: One) -> Entry:
    info = store.core.catalog.object_info(one.key_id, one.seq) or NO_INFO
    return Entry(one.seq, one.version.kind is Kind.MARKER, one.version.content.size, info.tags)


def _abort(store: Store, ino: Ino, bucket: Bucket, *, day_s: float, dry: bool) -> list[Done]:
    """Give up the uploads that are due (there are at most UPLOADS_MAX of a bucket)."""
    done = []
    now = store.core.clock() // 1000
    for named in store.uploads.every(ino):
        rule = lifecycle.aborts(bucket.lifecycle, named.upload, now, day_s)
        if rule is not None:
            if not dry:
                store.uploads.abort(ino, named.upload.key, named.id)
            done.append(Done(bucket.name, named.upload.key, "abort", rule, "", []))
    _tell(done, dry=dry)
    return done


def _tell(done: list[Done], *, dry: bool) -> None:
    for action in done:
        where = f"{show(action.bucket)}/{show(action.key)} {action.version_id}".rstrip()
        log.log(logging.DEBUG if dry else logging.INFO, "lifecycle: %s %s (rule %r)", action.what, where, action.rule)
