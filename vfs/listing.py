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
    """A page in the making: what it holds, and where the next one goes on. Invariants: at most *limit* items and
    prefixes together; everything up to `next` is told, if the page is truncated.
    """

    def __init__(self, prefix: bytes, delimiter: bytes, limit: int, after: bytes) -> None:
        self.prefix = prefix
        self.delimiter = delimiter
        self.limit = limit
        self.after = after
        self.items: list[Item] = []
        self.prefixes: list[bytes] = []
        self.truncated = False
        self.next = after
        self.next_version: Seq | None = None
        self._looked = 0

    def common(self, key: bytes) -> bytes | None:
        """The common prefix that a key falls under."""
        if not self.delimiter:
            return None
        at = key.find(self.delimiter, len(self.prefix))
        return None if at < 0 else key[: at + len(self.delimiter)]

    def start(self) -> bytes | None:
        """The first key that is behind *after* and may be in the page; None if none can be."""
        if not self.limit:
            return None
        start: bytes | None = self.after + b"\0" if self.after else b""
        if self.after.startswith(self.prefix) and self.common(self.after) == self.after:
            start = following(self.after)
        return None if start is None else max(start, self.prefix)

    def has_room(self) -> bool:
        """Whether one more may be told; else the page ends here, and there is more."""
        if len(self.items) + len(self.prefixes) < self.limit:
            return True
        self.truncated = True
        return False

    def add(self, item: Item) -> None:
        """Tell an object or version."""
        self.items.append(item)
        self.next, self.next_version = item.key, item.one.seq

    def add_common(self, common: bytes) -> None:
        """Tell a common prefix, for all keys below it."""
        self.prefixes.append(common)
        self.next, self.next_version = common, None

    def enough(self, told: bytes, version: Seq | None = None) -> bool:
        """One more name or version was looked at. Everything up to *told* is told: whether the page ends here because
        that was many. Not where the next page would take *told* for a common prefix that was told.
        """
        self._looked += 1
        if self._looked <= LOOKED_MAX or told <= self.next or self.common(told) == told:
            return False
        self.truncated = True
        self.next, self.next_version = told, version
        return True


def following(prefix: bytes) -> bytes | None:
    """The first bytes, in order, that are behind everything that begins with *prefix*."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def fill_live(catalog: Catalog, bucket: Ino, page: Listing) -> None:
    """Fill a page with current objects and common prefixes."""
    start = page.start()
    while start is not None:
        start = _fill_live(catalog, bucket, page, start)


def _fill_live(catalog: Catalog, bucket: Ino, page: Listing, start: bytes) -> bytes | None:
    """Go on from *start* to the end of the page or a common prefix. Returns where to go on behind that."""
    for live in walk_live(catalog, bucket, start):
        if not live.key.startswith(page.prefix):
            if live.key > page.prefix:
                return None
            continue
        if live.name.endswith(b"/"):
            if page.enough(live.key[:-1]):
                return None
            continue
        item = _current(catalog, live)
        if item is not None:
            if not page.has_room():
                return None
            common = page.common(live.key)
            if common is not None:
                page.add_common(common)
                return following(common)
            page.add(item)
        if page.enough(live.key):
            return None
    return None


def _current(catalog: Catalog, live: Live) -> Item | None:
    key = catalog.key(live.parent, live.name)
    newest = None if key is None else next(catalog.versions(key), None)
    if key is None or newest is None or newest[1].kind is not Kind.CONTENT or not is_object(newest[1]):
        return None
    return Item(live.key, One(key, *newest), True)


def fill_versions(catalog: Catalog, bucket: Ino, page: Listing, version_marker: str) -> None:
    """Fill a page with versions, delete markers and common prefixes. *version_marker*: of the key that the page begins
    behind, the version; empty: behind all of them. Raises InvalidName.
    """
    wanted = parse_version_id(version_marker) if version_marker else None
    start = page.start()
    within = bool(version_marker) and page.common(page.after) is None
    if start is not None and within:
        start = max(page.after, page.prefix)
    while start is not None:
        start = _fill_versions(catalog, bucket, page, start, within=within, wanted=wanted)


def _fill_versions(
    catalog: Catalog, bucket: Ino, page: Listing, start: bytes, *, within: bool, wanted: int | None
) -> bytes | None:
    for known in walk_known(catalog, bucket, start):
        if not known.key.startswith(page.prefix):
            if known.key > page.prefix:
                return None
            continue
        if known.name.endswith(b"/"):
            if page.enough(known.key[:-1]):
                return None
            continue
        common = page.common(known.key)
        if common is None:
            before = _before(catalog, known.chain, wanted) if within and known.key == page.after else ALL
            if not _add_versions(catalog, page, known, before):
                return None
        elif any(is_object(one.version) for one in versions_of(catalog, known.chain)):
            if not page.has_room():
                return None
            page.add_common(common)
            return following(common)
        if page.enough(known.key):
            return None
    return None


def _before(catalog: Catalog, chain: Chain, wanted: int | None) -> int:
    """The sequence behind which a page goes on; all of the key if its null version, which it ended with, has gone."""
    if wanted is not None:
        return wanted
    found = find_version(catalog, chain, "null")
    return ALL if found is None else found.seq


def _add_versions(catalog: Catalog, page: Listing, known: Known, before: int) -> bool:
    """Add the versions of a key. Returns False if the page ends among them."""
    newest = newest_of(catalog, known.chain, known.name)
    for one in versions_of(catalog, known.chain, before):
        if is_object(one.version):
            if not page.has_room():
                return False
            page.add(Item(known.key, one, newest is not None and newest.seq == one.seq))
        if page.enough(known.key, one.seq):
            return False
    return True
