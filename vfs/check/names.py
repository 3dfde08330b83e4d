"""Whether the rows of a catalog agree with each other: entries, inodes, keys, versions, times, links, buckets.

One rule per table says what must hold for each of its rows, by looking up rows of the others; nothing is remembered
but two counters per bucket. Together the rules say: every name leads to an inode that has this name and no other,
every version hangs on a key that has a place in the tree, every directory is found from the root.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Callable, Iterator

from vfs.catalog import Catalog, KeyName
from vfs.check.findings import Findings, Kind
from vfs.content import depth_for
from vfs.model import STORE_ROOT, Content, Ino, Inode, KeyId, Seq, Version
from vfs.model import Kind as VersionKind
from vfs.names import format_version_id, show

Fault = tuple[str, str]  # which row, and what is wrong with it
Faults = Iterator[Fault | None]  # None: a row was looked at

_OF_DIRECTORIES = (VersionKind.DIRECTORY, VersionKind.NO_DIRECTORY)


def check_names(findings: Findings, catalog: Catalog) -> None:
    """Report every row that contradicts another."""
    for table, rule in RULES.items():
        try:
            for fault in findings.track(f"names: {table}", catalog.count(table), rule(catalog)):
                if fault is not None:
                    findings.add(Kind.CATALOG, *fault)
        except Exception as error:  # a row that cannot be decoded hides the rest of its table
            findings.add(Kind.CATALOG, f"table {table}", f"cannot be read to its end: {error!r}")


# -- words for people -------------------------------------------------------------------------------------------------


def path_of(catalog: Catalog, where: KeyName) -> str:
    """Bucket and path of a key, as far as the catalog can tell."""
    parts = [show(where.name)]
    above = where.parent
    for inode, ino in climb(catalog, above):
        if inode is None:
            return f"(inode {ino})/{''.join(reversed(parts))}"
        if inode.key == 0:
            bucket = catalog.find_bucket(ino)
            parts.append("" if bucket is None else show(bucket.name) + "/")
            break
        above_name = catalog.find_key_name(inode.key)
        parts.append(show(above_name.name) if above_name else f"(key {inode.key})/")
    return "".join(reversed(parts))


def path_of_key(catalog: Catalog, key: KeyId) -> str:
    """Bucket and path of a key by its number."""
    where = catalog.find_key_name(key)
    return f"key {key}" if where is None else path_of(catalog, where)


def climb(catalog: Catalog, ino: Ino) -> Iterator[tuple[Inode | None, Ino]]:
    """A directory and those above it; the last is a bucket or the root, unless something is wrong."""
    for _ in range(catalog.count("inodes") + 1):
        inode = catalog.find_inode(ino)
        yield inode, ino
        if inode is None or inode.key == 0:
            return
        where = catalog.find_key_name(inode.key)
        if where is None:
            return
        ino = where.parent


# -- the live tree ----------------------------------------------------------------------------------------------------


def _entries(catalog: Catalog) -> Faults:
    for where, ino in catalog.every_entry():
        yield None
        for fault in _entry(catalog, where, ino):
            yield path_of(catalog, where), fault


def _entry(catalog: Catalog, where: KeyName, ino: Ino) -> Iterator[str]:
    parent = catalog.find_inode(where.parent)
    if parent is None or not parent.is_dir or parent.nlink < 2:
        yield f"stands in inode {where.parent}, which is no living directory"
        return
    inode = catalog.find_inode(ino)
    if inode is None:
        yield f"leads to inode {ino}, which does not exist"
        return
    if inode.is_dir != where.name.endswith(b"/"):
        yield f"leads to inode {ino} of another type"
    if where.parent == STORE_ROOT:
        bucket = catalog.find_bucket(ino)
        if bucket is None or bucket.name + b"/" != where.name:
            yield f"leads to inode {ino}, which is not the bucket of this name"
        return
    if inode.bucket != parent.bucket:
        yield f"leads to inode {ino} of another bucket"
    key = catalog.key(*where)
    if key is None:
        yield "has no key"
    elif inode.is_dir or inode.nlink == 1:
        if inode.key != key:
            yield f"is key {key} and leads to inode {ino}, whose name is key {inode.key}"
    elif not catalog.has_link(ino, key):
        yield f"leads to inode {ino}, which does not have it among its names"


def _inodes(catalog: Catalog) -> Faults:
    for ino, inode in catalog.every_inode():
        yield None
        for fault in _directory(catalog, ino, inode) if inode.is_dir else _file(catalog, ino, inode):
            yield f"inode {ino} ({path_of_key(catalog, inode.key) if inode.key else 'a bucket or the root'})", fault


def _directory(catalog: Catalog, ino: Ino, inode: Inode) -> Iterator[str]:
    names = subdirectories = 0
    for name, _ in catalog.entries(ino):
        names += 1
        subdirectories += name.endswith(b"/")
    if inode.nlink == 0 and names:
        yield f"was removed, and {names} names live in it"
    elif inode.nlink == 0 and ino not in catalog.removed(inode.key):
        yield "was removed, and is not among the directories that were removed at its key"
    elif inode.nlink not in (0, 2 + subdirectories):
        yield f"has link count {inode.nlink}, and {subdirectories} directories in it (+ 2)"
    top, top_ino = deque(climb(catalog, ino), maxlen=1).pop()
    if top is None or top.key:
        yield f"is not found from the root: the way up ends at inode {top_ino}"
    elif top.bucket != inode.bucket:
        yield f"belongs to bucket {inode.bucket}, and lies in {top.bucket}"
    if ino == STORE_ROOT or inode.nlink == 0:
        return
    if inode.key == 0:
        bucket = catalog.find_bucket(ino)
        if bucket is None or catalog.entry(STORE_ROOT, bucket.name + b"/") != ino:
            yield "has no name, and is no bucket"
        return
    where = catalog.find_key_name(inode.key)
    if where is None or catalog.entry(*where) != ino:
        yield "lives, and its name does not lead to it"
    yield from _current(catalog, inode, inode.key, VersionKind.DIRECTORY)


def _file(catalog: Catalog, ino: Ino, inode: Inode) -> Iterator[str]:
    yield from _content(catalog, inode.content)
    if inode.nlink == 0:
        if not catalog.is_orphan(ino) and catalog.displaced(ino) is None:
            yield "has no name, and is not among those that are still open"
        return
    keys = catalog.links(ino) if inode.nlink > 1 else [inode.key]
    if len(keys) != inode.nlink or inode.key not in keys:
        yield f"has link count {inode.nlink} and key {inode.key}, and its names are keys {keys}"
    for key in keys:
        where = catalog.find_key_name(key)
        if where is None or catalog.entry(*where) != ino:
            yield f"has the name {path_of_key(catalog, key)}, which does not lead to it"
    draft = catalog.draft(ino)
    if draft is None:
        yield from _current(catalog, inode, inode.key, VersionKind.CONTENT)


def _current(catalog: Catalog, inode: Inode, key: KeyId, kind: VersionKind) -> Iterator[str]:
    """What a living inode without a draft shows is the newest version of its key."""
    newest = next(catalog.versions(key), None)
    if newest is None:
        yield "lives without a version and without a draft"
        return
    seq, version = newest
    if version.kind is not kind or seq != inode.seq:
        yield (
            f"shows version {format_version_id(inode.seq)}, and the newest of its key is "
            f"{format_version_id(seq)} ({version.kind.name.lower()})"
        )
    elif (version.content, version.target, version.rdev) != (inode.content, inode.target, inode.rdev) or stat.S_IFMT(
        version.mode
    ) != stat.S_IFMT(inode.mode):
        yield f"has other content than its current version {format_version_id(seq)}"


def _links(catalog: Catalog) -> Faults:
    for ino, key in catalog.every_link():
        yield None
        inode = catalog.find_inode(ino)
        if inode is None or inode.is_dir or inode.nlink < 2:
            yield f"inode {ino}, name {path_of_key(catalog, key)}", "is listed among several names, and there are none"


def _attributes(catalog: Catalog) -> Faults:
    for ino, name in catalog.every_attribute():
        yield None
        if catalog.find_inode(ino) is None:
            yield f"attribute {show(name)!r} of inode {ino}", "belongs to no inode"


def _drafts(catalog: Catalog) -> Faults:
    for ino, draft in catalog.drafts():
        yield None
        for fault in _unpublished(catalog, ino, draft.content):
            yield f"draft of inode {ino}", fault


def _interims(catalog: Catalog) -> Faults:
    for ino, interim in catalog.interims():
        yield None
        where = f"interim draft of inode {ino}"
        for fault in _unpublished(catalog, ino, interim.content):
            yield where, fault
        found = len(catalog.tail(ino))
        if found != interim.tail_bytes:
            yield where, f"has a tail of {found} bytes, and should have {interim.tail_bytes}"


def _unpublished(catalog: Catalog, ino: Ino, content: Content) -> Iterator[str]:
    """Of a draft of either kind."""
    inode = catalog.find_inode(ino)
    if inode is None or not inode.is_file:
        yield "belongs to no file"
    yield from _content(catalog, content)


def _displaced(catalog: Catalog) -> Faults:
    for ino, _ in catalog.every_displaced():
        yield None
        inode = catalog.find_inode(ino)
        if inode is None or inode.nlink or not inode.is_file:
            yield f"inode {ino}", "is listed as displaced, and has a name or is no file"


def _orphans(catalog: Catalog) -> Faults:
    for ino in catalog.orphans():
        yield None
        inode = catalog.find_inode(ino)
        if inode is None or inode.nlink:
            yield f"inode {ino}", "is listed as one without a name, and it has one or does not exist"


# -- keys and versions ------------------------------------------------------------------------------------------------


def _keys(catalog: Catalog) -> Faults:
    for where, key, null in catalog.every_key():
        yield None
        for fault in _key(catalog, where, key, null):
            yield path_of(catalog, where), fault


def _key(catalog: Catalog, where: KeyName, key: KeyId, null: Seq) -> Iterator[str]:
    if catalog.find_key_name(key) != where:
        yield f"is key {key}, and that key has another name"
    parent = catalog.find_inode(where.parent)
    if parent is None or not parent.is_dir:
        yield f"lies in inode {where.parent}, which is no directory"
    if null:
        version = catalog.version(key, null)
        if version is None or not version.null:
            yield f"has {format_version_id(null)} as null version, which is none"
    if next(catalog.versions(key), None) is None and catalog.entry(*where) is None:
        yield "has neither a version nor a living file"


def _removed(catalog: Catalog) -> Faults:
    for key, ino in catalog.every_removed():
        yield None
        inode = catalog.find_inode(ino)
        if inode is None or not inode.is_dir or inode.nlink or inode.key != key:
            yield (
                f"inode {ino}",
                f"is listed as a directory that was removed at {path_of_key(catalog, key)}, and is none",
            )


def _key_names(catalog: Catalog) -> Faults:
    for key, where in catalog.every_key_name():
        yield None
        if catalog.key(*where) != key:
            yield f"key {key}", f"has the name {path_of(catalog, where)}, which is another key"


def _versions(catalog: Catalog) -> Faults:
    for key, seq, version in catalog.every_version():
        yield None
        for fault in _version(catalog, key, seq, version):
            yield f"{path_of_key(catalog, key)} version {format_version_id(seq)}", fault


def _version(catalog: Catalog, key: KeyId, seq: Seq, version: Version) -> Iterator[str]:
    where = catalog.find_key_name(key)
    if where is None:
        yield f"belongs to key {key}, which does not exist"
    else:
        if (version.kind in _OF_DIRECTORIES) != where.name.endswith(b"/"):
            yield f"is of kind {version.kind.name.lower()}, which its key cannot have"
        if version.null != (catalog.null_version(key) == seq):
            yield "is a null version that its key does not know, or the other way round"
    if catalog.key_of_version(seq) != key:
        yield "is missing from the times"
    yield from _content(catalog, version.content)


def _content(catalog: Catalog, content: Content) -> Iterator[str]:
    """What a content says of itself. That its blocks are there: see vfs.check.content."""
    if content.depth != depth_for(content.size):
        yield f"has {content.size} bytes in a tree of depth {content.depth}"
    if not content.root:
        return
    if not content.size:
        yield "has no bytes, and a block"
    row = catalog.block(content.root)
    if row is not None and row.node != (content.depth > 0):
        yield f"has block {content.root.hex()} as root, which is {'a node' if row.node else 'no node'}"


def _times(catalog: Catalog) -> Faults:
    for seq, key in catalog.every_time():
        yield None
        if catalog.version(key, seq) is None:
            yield (
                f"time {format_version_id(seq)}",
                f"names a version of {path_of_key(catalog, key)} that does not exist",
            )


def _buckets(catalog: Catalog) -> Faults:
    counted = _count_versions(catalog)
    live = _count_live(catalog)
    for ino, bucket in catalog.buckets():
        yield None
        where = f"bucket {show(bucket.name)}"
        inode = catalog.find_inode(ino)
        if (
            inode is None
            or not inode.is_dir
            or inode.bucket != ino
            or catalog.entry(STORE_ROOT, bucket.name + b"/") != ino
        ):
            yield where, "has no directory at the root"
        versions, size = counted.pop(ino, (0, 0))
        if (bucket.versions, int(bucket.size)) != (versions, size):
            yield (
                where,
                f"counts {bucket.versions} versions of {bucket.size} bytes, and has {versions} of {size} bytes",
            )
        if int(bucket.live) != live.get(ino, 0):
            yield where, f"counts {bucket.live} bytes of files that live, and has {live.get(ino, 0)} bytes"
    for ino, (versions, _) in counted.items():
        yield f"bucket with inode {ino}", f"does not exist, and has {versions} versions"


def _objects(catalog: Catalog) -> Faults:
    for key, seq, _ in catalog.every_object():
        yield None
        version = catalog.version(key, seq)
        if version is None or version.kind in _OF_DIRECTORIES:
            where = f"{path_of_key(catalog, key)} version {format_version_id(seq)}"
            yield where, "has metadata of an object, and does not exist or is none"


def _uploads(catalog: Catalog) -> Faults:
    for bucket, number, upload in catalog.every_upload():
        yield None
        if catalog.find_bucket(bucket) is None:
            yield f"upload {number} of {show(upload.key)!r}", f"is one of bucket {bucket}, which does not exist"


def _parts(catalog: Catalog) -> Faults:
    uploads = {number for _, number, _ in catalog.every_upload()}
    for upload, number, part in catalog.every_part():
        yield None
        if upload not in uploads:
            yield f"part {number} of upload {upload}", "belongs to no upload"
        for fault in _content(catalog, part.content):
            yield f"part {number} of upload {upload}", fault


def _count_versions(catalog: Catalog) -> dict[Ino, tuple[int, int]]:
    """How many versions and delete markers each bucket has, and the sum of their sizes in bytes."""
    counted: dict[Ino, tuple[int, int]] = {}
    for key, _, version in catalog.every_version():
        if version.kind in _OF_DIRECTORIES:
            continue
        where = catalog.find_key_name(key)
        parent = None if where is None else catalog.find_inode(where.parent)
        if parent is not None:  # without one: reported already
            versions, size = counted.get(parent.bucket, (0, 0))
            counted[parent.bucket] = (versions + 1, size + version.content.size)
    return counted


def _count_live(catalog: Catalog) -> dict[Ino, int]:
    """The sum of the sizes in bytes of the files that live in each bucket."""
    live: dict[Ino, int] = {}
    for _, inode in catalog.every_inode():
        if inode.nlink and inode.content.size:
            live[inode.bucket] = live.get(inode.bucket, 0) + inode.content.size
    return live


RULES: dict[str, Callable[[Catalog], Faults]] = {
    "entries": _entries,
    "inodes": _inodes,
    "links": _links,
    "attributes": _attributes,
    "drafts": _drafts,
    "orphans": _orphans,
    "interim": _interims,
    "displaced": _displaced,
    "keys": _keys,
    "key_names": _key_names,
    "removed": _removed,
    "versions": _versions,
    "times": _times,
    "buckets": _buckets,
    "objects": _objects,
    "uploads": _uploads,
    "parts": _parts,
}
