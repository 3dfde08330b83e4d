"""Objects and their versions in S3's key order: walks that seek, so that a page costs a page wherever it begins.

A walk goes down the tree along the key it starts with, and on from there; sort names (vfs.names) give the order. A
common prefix is left by seeking behind it. Nothing may be changed while a walk is under way.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from vfs.catalog import Catalog
from vfs.model import Ino, KeyId, Kind, Seq, Version
from vfs.names import parse_version_id

LOOKED_MAX = 10_000  # names and versions looked at for a page; then it ends, truncated

ALL = (1 << 64) - 1  # older than the end of time

Chain = list[tuple[Ino, KeyId]]  # the directories in which a name has history, with its keys there; what lives first


class Live(NamedTuple):
    """A live name: its full key (a directory's ends with ``/``), where it is, and its inode."""

    key: bytes
    parent: Ino
    name: bytes
    ino: Ino


class Known(NamedTuple):
    """A name with a history, by its full key (a directory's ends with ``/``)."""

    key: bytes
    name: bytes
    chain: Chain


class One(NamedTuple):
    """A version with the key that it hangs on."""

    key_id: KeyId
    seq: Seq
    version: Version


def is_object(version: Version) -> bool:
    """Whether a version is an object or a delete marker: symlinks and special files are none."""
    return version.kind is Kind.MARKER or (version.kind is Kind.CONTENT and stat.S_ISREG(version.mode))


def walk_live(catalog: Catalog, bucket: Ino, start: bytes = b"") -> Iterator[Live]:
    """The live names of a bucket from key *start* on, directories before what is in them. Directories on the way to
    *start* come too.
    """
    stack = [(b"", bucket, start, _seek(catalog, bucket, start))]
    while stack:
        path, directory, rest, names = stack[-1]
        found = next(names, None)
        if found is None:
            stack.pop()
            continue
        name, ino = found
        yield Live(path + name, directory, name, ino)
        if name.endswith(b"/"):
            below = rest[len(name) :] if rest.startswith(name) else b""
            stack.append((path + name, ino, below, _seek(catalog, ino, below)))


def _seek(catalog: Catalog, directory: Ino, start: bytes) -> Iterator[tuple[bytes, Ino]]:
    head, slash, _ = start.partition(b"/")
    return catalog.seek_entries(directory, head + slash)


def walk_known(catalog: Catalog, bucket: Ino, start: bytes = b"") -> Iterator[Known]:
    """The names of a bucket that have a history, deleted ones too, from key *start* on; as `walk_live`.

    One path may lead to several directories: one that lives, and those that stood there (`History.places`).
    """
    stack = [(b"", start, _seek_known(catalog, [bucket], start))]
    while stack:
        path, rest, names = stack[-1]
        found = next(names, None)
        if found is None:
            stack.pop()
            continue
        name, chain = found
        yield Known(path + name, name, chain)
        if name.endswith(b"/"):
            places = places_below(catalog, [place for place, _ in chain], name)
            below = rest[len(name) :] if rest.startswith(name) else b""
            stack.append((path + name, below, _seek_known(catalog, places, below)))


def _seek_known(catalog: Catalog, places: list[Ino], start: bytes) -> Iterator[tuple[bytes, Chain]]:
    head, slash, _ = start.partition(b"/")
    if len(places) == 1:
        for name, key in catalog.seek_keys(places[0], head + slash):
            yield name, [(places[0], key)]
        return
    found = merge(*(_placed(catalog, place, number, head + slash) for number, place in enumerate(places)))
    for name, group in groupby(found, key=itemgetter(0)):
        yield name, [(places[number], key) for _, number, key in group]


def _placed(catalog: Catalog, place: Ino, number: int, start: bytes) -> Iterator[tuple[bytes, int, KeyId]]:
    return ((name, number, key) for name, key in catalog.seek_keys(place, start))


def places_below(catalog: Catalog, places: list[Ino], name: bytes) -> list[Ino]:
    """The directories that a sort name in some places leads to: what lives first, then those that stood there."""
    found: list[Ino] = []
    removed: list[Ino] = []
    for place in places:
        live = catalog.entry(place, name)
        if live is not None:
            found.append(live)
        key = catalog.key(place, name)
        if key is not None:
            removed += catalog.removed(key)
    return list(dict.fromkeys(found + removed))


def chain_of(catalog: Catalog, bucket: Ino, directories: list[bytes], name: bytes) -> Chain:
    """Where a key has history."""
    places = [bucket]
    for directory in directories:
        places = places_below(catalog, places, directory + b"/")
    found = ((place, catalog.key(place, name)) for place in places)
    return [(place, key) for place, key in found if key is not None]


def versions_of(catalog: Catalog, chain: Chain, before: int = ALL) -> Iterator[One]:
    """The versions of a chain older than sequence *before*, newest first."""
    if len(chain) == 1:
        return _versions(catalog, chain[0][1], before)
    return merge(*(_versions(catalog, key, before) for _, key in chain), key=lambda one: -one.seq)


def _versions(catalog: Catalog, key: KeyId, before: int) -> Iterator[One]:
    return (One(key, seq, version) for seq, version in catalog.versions(key, before))


def newest_of(catalog: Catalog, chain: Chain, name: bytes) -> One | None:
    """The current version of a chain: the newest of the key that lives, or else of all."""
    if len(chain) > 1:
        for place, key in chain:
            if catalog.entry(place, name) is not None:
                newest = next(catalog.versions(key), None)
                if newest is not None:
                    return One(key, *newest)
    return next(versions_of(catalog, chain), None)


def find_version(catalog: Catalog, chain: Chain, version_id: str) -> One | None:
    """The object or delete marker of a chain with that id. Raises InvalidName for text that is no id."""
    wanted = parse_version_id(version_id)
    for _, key in chain:
        seq = catalog.null_version(key) if wanted is None else Seq(wanted)
        version = None if seq is None else catalog.version(key, seq)
        if seq is not None and version is not None and version.null == (wanted is None) and is_object(version):
            return One(key, seq, version)
    return None


class Item(NamedTuple):
    """An object or version of a listing."""

    key: bytes
    one: One
    is_current: bool


class Listing:
    """A page in the making: what it holds, and where the next one goes on. Invariant: at most *limit* items and
    prefixes together.
    """

    def __init__(self, prefix: bytes, delimiter: bytes, limit: int) -> None:
        self.prefix = prefix
        self.delimiter = delimiter
        self.limit = limit
        self.items: list[Item] = []
        self.prefixes: list[bytes] = []
        self.truncated = False
        self.next = b""
        self.next_version: Seq | None = None
        self.looked = 0

    @property
    def is_full(self) -> bool:
        return len(self.items) + len(self.prefixes) >= self.limit

    def common(self, key: bytes) -> bytes | None:
        """The common prefix that a key falls under."""
        if not self.delimiter:
            return None
        at = key.find(self.delimiter, len(self.prefix))
        return None if at < 0 else key[: at + len(self.delimiter)]

    def start(self, after: bytes) -> bytes | None:
        """The first key that is behind *after* and may be in the page; None if none can be."""
        start = after + b"\0" if after else b""
        if after and after.startswith(self.prefix) and self.common(after) == after:
            behind = following(after)
            if behind is None:
                return None
            start = behind
        return max(start, self.prefix)

    def stop(self, last: bytes, version: Seq | None = None) -> None:
        """The page ends, and more follows."""
        self.truncated = True
        self.next = last
        self.next_version = version


def following(prefix: bytes) -> bytes | None:
    """The first bytes, in order, that are behind everything that begins with *prefix*."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def fill_live(catalog: Catalog, bucket: Ino, page: Listing, after: bytes) -> None:
    """Fill a page with current objects and common prefixes behind *after*."""
    start = page.start(after) if page.limit else None
    last = after
    while start is not None:
        start, last = _fill_live(catalog, bucket, page, start, last)


def _fill_live(catalog: Catalog, bucket: Ino, page: Listing, start: bytes, last: bytes) -> tuple[bytes | None, bytes]:
    """Go on from *start* until the end, or a common prefix. Returns where to go on, and how far everything is told."""
    directory = b""  # whose key may also be that of an object, which comes next
    for live in walk_live(catalog, bucket, start):
        if live.key > directory:
            last = max(last, directory)
        if not live.key.startswith(page.prefix):
            if live.key > page.prefix:
                return None, last
            continue
        page.looked += 1
        if page.looked > LOOKED_MAX:
            page.stop(last)
            return None, last
        if live.name.endswith(b"/"):
            directory = live.key
            continue
        item = _current(catalog, live)
        if item is None:
            last = live.key
            continue
        if page.is_full:
            page.stop(last)
            return None, last
        common = page.common(live.key)
        if common is not None:
            page.prefixes.append(common)
            return following(common), common
        page.items.append(item)
        last = live.key
    return None, last


def _current(catalog: Catalog, live: Live) -> Item | None:
    key = catalog.key(live.parent, live.name)
    newest = None if key is None else next(catalog.versions(key), None)
    if key is None or newest is None or newest[1].kind is not Kind.CONTENT or not is_object(newest[1]):
        return None
    return Item(live.key, One(key, *newest), True)


def fill_versions(catalog: Catalog, bucket: Ino, page: Listing, key_marker: bytes, version_marker: str) -> None:
    """Fill a page with versions, delete markers and common prefixes behind the markers. Raises InvalidName."""
    wanted = parse_version_id(version_marker) if version_marker else None
    start = page.start(key_marker) if page.limit else None
    if start is not None and version_marker and page.common(key_marker) is None:
        start = max(key_marker, page.prefix)
    last = key_marker
    while start is not None:
        start, last = _fill_versions(catalog, bucket, page, start, last, (key_marker, version_marker, wanted))


def _fill_versions(
    catalog: Catalog, bucket: Ino, page: Listing, start: bytes, last: bytes, marker: tuple[bytes, str, int | None]
) -> tuple[bytes | None, bytes]:
    directory = b""  # whose key may also be that of an object, which comes next
    for known in walk_known(catalog, bucket, start):
        if known.key > directory:
            last = max(last, directory)
        if not known.key.startswith(page.prefix):
            if known.key > page.prefix:
                return None, last
            continue
        page.looked += 1
        if page.looked > LOOKED_MAX:
            page.stop(last)
            return None, last
        if known.name.endswith(b"/"):
            directory = known.key
            continue
        before = ALL
        if marker[1] and known.key == marker[0]:
            before = _before(catalog, known.chain, marker[2])
        common = page.common(known.key)
        if common is not None:
            if any(is_object(one.version) for one in versions_of(catalog, known.chain)):
                if page.is_full:
                    page.stop(last)
                    return None, last
                page.prefixes.append(common)
                return following(common), common
        elif not _add_versions(catalog, page, known, before, last):
            return None, last
        last = known.key
    return None, last


def _before(catalog: Catalog, chain: Chain, wanted: int | None) -> int:
    """The sequence behind which a page goes on; all of the key if its null version, which it ended with, has gone."""
    if wanted is not None:
        return wanted
    found = find_version(catalog, chain, "null")
    return ALL if found is None else found.seq


def _add_versions(catalog: Catalog, page: Listing, known: Known, before: int, last: bytes) -> bool:
    """Add the versions of a key. Returns False if the page ends with one of them."""
    newest = newest_of(catalog, known.chain, known.name)
    previous: Seq | None = None if before == ALL else Seq(before)
    for one in versions_of(catalog, known.chain, before):
        page.looked += 1
        shown = is_object(one.version)
        if (shown and page.is_full) or page.looked > LOOKED_MAX:
            page.stop(known.key if previous is not None else last, previous)
            return False
        if shown:
            page.items.append(Item(known.key, one, newest is not None and newest.seq == one.seq))
        previous = one.seq
    return True
