"""Is a store what the reference model says? Everything a door can see, and whether the tables make sense together."""

from __future__ import annotations

import stat
from collections import Counter

import msgspec

from tests.model.reference import Bucket, Closing, Directory, File, Handle, Node, Reference, Version
from vfs import content, files, model
from vfs.content import WorkingCopy
from vfs.model import STORE_ROOT, BlockId, Compression, Content, Ino, Kind, Seq
from vfs.names import is_shown, split_key
from vfs.store import Store

IDS_APART_MAX = 1000  # µs: ids of one operation follow each other, in an order that the model does not know

Snapshot = dict[int, dict[bytes, int]]  # of each directory (inode): the newest version (serial) of each key


class Ids:
    """The id of each version (by serial), learned when it is first seen, then the same for ever."""

    def __init__(self) -> None:
        self.known: dict[int, int] = {}
        self.highest = 0

    def check(self, version: Version, seq: int) -> None:
        known = self.known.setdefault(version.serial, seq)
        assert seq == known, "the id of a version changed"
        assert abs(seq - version.at) <= IDS_APART_MAX, "an id is the time, and rises whatever the clock does"


def compare(store: Store, reference: Reference, ids: Ids) -> None:
    """The whole tree, and every version of every key."""
    known = set(ids.known)
    assert [bucket.name for _, bucket in store.buckets()] == sorted(reference.buckets)
    for bucket in reference.buckets.values():
        compressed = store.bucket(Ino(bucket.root.ino)).compression is Compression.ZSTD
        assert compressed == bucket.compressed
        _compare_bucket(store, reference, bucket)
    seen: set[int] = set()
    for directory in reference.directories():
        _compare_directory(store, reference, directory, ids, seen)
        if directory.live:
            _compare_names(store, reference, directory)
    new = sorted(seq for serial, seq in ids.known.items() if serial not in known)
    assert len(set(new)) == len(new)
    assert not new or new[0] > ids.highest, "ids rise"
    ids.highest = max([ids.highest, *new])
    assert store.core.catalog.last_seq >= ids.highest


def _compare_bucket(store: Store, reference: Reference, bucket: Bucket) -> None:
    found = store.bucket(Ino(bucket.root.ino))
    assert (found.state, found.purge) == (bucket.state, bucket.policy)
    assert (found.versions, found.size) == reference.counters(bucket)
    assert store.tree.lookup(STORE_ROOT, bucket.name)[0] == bucket.root.ino


def _compare_directory(store: Store, reference: Reference, directory: Directory, ids: Ids, seen: set[int]) -> None:
    catalog = store.core.catalog
    ino = Ino(directory.ino)
    _compare_node(store, directory)
    inode = store.tree.inode(ino)
    assert (inode.nlink, inode.mtime, inode.ctime) == (directory.links, directory.mtime, directory.ctime)
    shown = [(sort_name, entry) for sort_name, _, entry in store.tree.entries(ino)]
    hidden = {name for name in directory.entries if name + b"/" in directory.entries}  # by a directory of its name
    assert [name for name, _ in shown] == sorted(set(directory.entries) - hidden)
    found = dict(catalog.entries(ino))
    assert set(found) == set(directory.entries)
    assert set(shown) <= set(found.items())
    for sort_name, entry in directory.entries.items():
        entry.ino = entry.ino or found[sort_name]
        assert entry.ino == found[sort_name]
        if isinstance(entry, File) and entry.ino not in seen:
            seen.add(entry.ino)
            _compare_file(store, entry)
    keys = dict(catalog.keys(ino))
    chains = {name: chain for name, chain in directory.chains.items() if chain}
    assert set(keys) == {*chains, *directory.entries}
    for name, chain in chains.items():
        versions = list(catalog.versions(keys[name]))
        assert len(versions) == len(chain)
        for (seq, found_version), version in zip(versions, reversed(chain), strict=True):
            ids.check(version, seq)
            _compare_version(store, found_version, version)
        seqs = [ids.known[version.serial] for version in chain]
        assert seqs == sorted(seqs)
        nulls = [ids.known[version.serial] for version in chain if version.null]
        assert [catalog.null_version(keys[name])] == (nulls or [None])
        if not name.endswith(b"/"):
            rights: Node | Version = directory.entries.get(name, chain[-1])  # type: ignore[assignment]
            assert store.history.rights(keys[name])[:3] == (rights.uid, rights.gid, stat.S_IMODE(rights.mode))
            for version in chain:
                own: Node | Version | Closing = reference.own_rights(directory, name, version) or rights
                seq = Seq(ids.known[version.serial])
                found_rights = store.history.version_rights(keys[name], seq, store.history.find(seq)[1])
                assert found_rights[:3] == (own.uid, own.gid, stat.S_IMODE(own.mode))


def _compare_node(store: Store, node: Node) -> None:
    inode = store.tree.inode(Ino(node.ino))
    assert (inode.mode, inode.uid, inode.gid, inode.atime) == (node.mode, node.uid, node.gid, node.atime)
    found = {name: store.tree.find_attribute(Ino(node.ino), name) for name in store.tree.list_attributes(Ino(node.ino))}
    assert found == node.attributes


def _compare_file(store: Store, file: File) -> None:
    _compare_node(store, file)
    inode = store.tree.inode(Ino(file.ino))
    assert inode.nlink == len(file.names)
    assert (inode.content.size, inode.mtime, inode.ctime) == file.shown
    assert (inode.rdev, inode.target) == (file.rdev, file.target)
    assert store.files.is_open(Ino(file.ino)) == (file.open is not None)
    if file.open is None:
        expected = file.data if file.safe is None else file.safe.data
        tail = store.core.catalog.tail(Ino(file.ino))
        assert read(store, inode.content)[: len(expected) - len(tail)] + tail == expected


def _compare_version(store: Store, found: model.Version, version: Version) -> None:
    assert (found.kind, found.null) == (version.kind, version.null)
    assert (found.mode, found.uid, found.gid) == (version.mode, version.uid, version.gid)
    assert (found.mtime, found.writer) == (version.mtime, version.writer)
    assert (found.target, found.rdev) == (version.target, version.rdev)
    assert read(store, found.content) == version.data
    assert dict(found.attributes) == version.attributes
    if version.directory is not None:
        assert found.ino == version.directory.ino


def _compare_names(store: Store, reference: Reference, directory: Directory) -> None:
    """What `.versions` lists: the names with history of a directory, and of those that were removed where it stands."""
    places = reference.places(directory)
    assert sorted(store.history.places(Ino(directory.ino))) == sorted(place.ino for place in places)
    expected: dict[bytes, tuple[set[int], set[int]]] = {}
    for place in places:
        keys = dict(store.core.catalog.keys(Ino(place.ino)))
        for name, chain in place.chains.items():
            if chain and not name.endswith(b"/"):
                expected.setdefault(name, (set(), set()))[0].add(keys[name])
        for entry in [*place.entries.values(), *place.removed]:
            if isinstance(entry, Directory):
                expected.setdefault(entry.name, (set(), set()))[1].add(entry.ino)
    found = list(store.history.names(Ino(directory.ino)))
    assert {name: (set(past.keys), set(past.directories)) for _, name, past in found} == expected
    assert len(found) == len(expected), "each once"
    assert [sort_name for sort_name, _, _ in found] == sorted(sort_name for sort_name, _, _ in found)


def compare_handle(store: Store, handle: files.Handle, expected: Handle) -> None:
    """What an open file description reads."""
    assert store.files.read(handle, 0, 1 << 20) == expected.shared.data
    assert (store.core.catalog.displaced(handle.ino) is None) == (expected.file.displaced is None)
    if not expected.file.names:
        inode = store.tree.inode(handle.ino)
        assert (inode.nlink, inode.content.size) == (0, len(expected.shared.data))


def read(store: Store, stored: Content) -> bytes:
    """The bytes of a content."""
    return WorkingCopy(store.core.blocks, stored).read(0, 1 << 20)


# -- the past -----------------------------------------------------------------------------------------------------


def snapshot(reference: Reference) -> Snapshot:
    """What is current now, for `compare_past` later."""
    return {
        directory.ino: {name: chain[-1].serial for name, chain in directory.chains.items() if chain}
        for directory in reference.directories()
    }


def compare_past(store: Store, reference: Reference, ids: Ids, moment: Seq, then: Snapshot) -> None:
    """The tree at a moment: what was current then, or what was before it if that was purged since."""
    directories = {directory.ino: directory for directory in reference.directories()}
    waiting = [Ino(bucket.root.ino) for bucket in reference.buckets.values()]
    walked: set[int] = set()
    while waiting:
        ino = waiting.pop()
        found = {name: at for name, _, at in store.history.list_at(ino, moment) if at is not None}
        assert list(found) == sorted(found)
        expected = {}
        directory = directories.get(ino)
        for name, chain in directory.chains.items() if directory else ():
            current = _current_then(chain, then.get(ino, {}).get(name), ids, moment)
            if current is not None and not current.absent:
                expected[name] = ids.known[current.serial]
        expected = {name: seq for name, seq in expected.items() if name + b"/" not in expected}  # a directory hides it
        assert {name: seq for name, (seq, _) in found.items()} == expected
        for name, (seq, version) in found.items():
            assert store.history.lookup_at(ino, name, moment) == (seq, version) or name + b"/" in found
            if version.kind is Kind.DIRECTORY and version.ino not in walked:
                walked.add(version.ino)
                waiting.append(version.ino)


def _current_then(chain: list[Version], serial: int | None, ids: Ids, moment: Seq) -> Version | None:
    if serial is None:
        return None
    kept = [version for version in chain if version.serial == serial]
    earlier = [version for version in chain if ids.known[version.serial] <= moment]
    return kept[0] if kept else earlier[-1] if earlier else None


# -- the tables ---------------------------------------------------------------------------------------------------


def tables(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every row of every table that is derived from the journal."""
    names = [name for name in store.core.catalog._db if name != "meta"]
    return {name: list(store.core.catalog.rows(name)) for name in names}


def audit(store: Store) -> None:
    """What holds between the tables whatever was done: numbers, names, links, references."""
    rows = {name: dict(found) for name, found in tables(store).items()}
    decode = msgspec.msgpack.decode
    inodes = {number(key): decode(value, type=model.Inode) for key, value in rows["inodes"].items()}
    versions = {
        (number(key[:8]), (1 << 64) - 1 - number(key[8:])): decode(value, type=model.Version)
        for key, value in rows["versions"].items()
    }
    drafts = {number(key): decode(value, type=model.Draft) for key, value in rows["drafts"].items()}
    interims = {number(key): decode(value, type=model.Interim) for key, value in rows["interim"].items()}
    tails = Counter[int]()
    for key, value in rows["tails"].items():
        assert number(key[8:]) == tails[number(key[:8])], "one piece of a tail follows the other"
        tails[number(key[:8])] += len(value)
    assert tails == {ino: interim.tail_bytes for ino, interim in interims.items() if interim.tail_bytes}
    _audit_names(rows, inodes, versions)
    assert set(drafts) | set(interims) <= set(inodes)
    parts = _audit_objects(rows, versions)
    safe = (*drafts.values(), *interims.values())
    roots = [entry.content.root for entry in (*inodes.values(), *versions.values(), *safe, *parts)]
    _audit_references(store, [root for root in roots if root])


def _audit_names(
    rows: dict[str, dict[bytes, bytes]], inodes: dict[int, model.Inode], versions: dict[tuple[int, int], model.Version]
) -> None:
    assert {seq: key for key, seq in versions} == {number(k): number(v) for k, v in rows["times"].items()}
    assert len(versions) == len(rows["times"]), "no id twice"
    assert {number(value[:8]): where for where, value in rows["keys"].items()} == {
        number(key): where for key, where in rows["key_names"].items()
    }
    nulls = {number(value[:8]): number(value[8:]) for value in rows["keys"].values() if number(value[8:])}
    assert nulls == {key: seq for (key, seq), version in versions.items() if version.null}
    names: dict[int, set[int]] = {}
    for where, value in rows["entries"].items():
        parent, ino = number(where[:8]), number(value)
        assert inodes[parent].nlink > 0
        assert inodes[ino].is_dir == where.endswith(b"/")
        names.setdefault(ino, set()).add(number(rows["keys"][where][:8]) if parent != STORE_ROOT else 0)
    links: dict[int, set[int]] = {}
    for row in rows["links"]:
        links.setdefault(number(row[:8]), set()).add(number(row[8:]))
    subdirectories = Counter(number(where[:8]) for where in rows["entries"] if where.endswith(b"/"))
    for ino, inode in inodes.items():
        if inode.is_dir:
            assert inode.nlink == (2 + subdirectories[ino] if ino in names or ino == STORE_ROOT else 0)
            kept = inode.key.to_bytes(8, "big") + ino.to_bytes(8, "big") in rows["removed"]
            assert kept == (inode.nlink == 0)
        else:
            assert inode.nlink == len(names.get(ino, ()))
            assert links.get(ino, set()) == (names[ino] if inode.nlink > 1 else set())
            row = ino.to_bytes(8, "big")
            assert (row in rows["orphans"]) + (row in rows["displaced"]) == (inode.nlink == 0)
        if ino in names:
            assert inode.key in names[ino]
        assert not inode.key or inode.key.to_bytes(8, "big") in rows["key_names"] or not (inode.nlink or inode.is_dir)
        if inode.nlink and inode.seq:
            newest = max(seq for key, seq in versions if key == inode.key)
            assert inode.seq == newest, "an inode knows its current version"
            assert inode.is_dir or inode.content == versions[inode.key, newest].content
    assert all(number(row[8:]) in inodes for row in rows["removed"])
    assert all(number(row[:8]) in inodes for row in rows["attributes"])
    assert all(number(row) in inodes for row in rows["buckets"])


def _audit_objects(
    rows: dict[str, dict[bytes, bytes]], versions: dict[tuple[int, int], model.Version]
) -> list[model.Part]:
    """What is known of objects goes with its version, a part with its upload, an upload with its bucket."""
    for where in rows["objects"]:
        assert (number(where[:8]), (1 << 64) - 1 - number(where[8:])) in versions
    uploads = {number(where[8:]): number(where[:8]) for where in rows["uploads"]}
    assert set(uploads.values()) <= {number(where) for where in rows["buckets"]}
    assert {number(where[:8]) for where in rows["parts"]} <= set(uploads)
    return [msgspec.msgpack.decode(value, type=model.Part) for value in rows["parts"].values()]


def _audit_references(store: Store, roots: list[BlockId]) -> None:
    """Each content's root counts once, each child of each node that is referred to once."""
    expected = Counter(roots)
    waiting = list(set(roots))
    while waiting:
        block = waiting.pop()
        row = store.core.catalog.block(block)
        assert row is not None
        if row.node:
            for child in content.children(store.core.blocks.get(block, node=True)):
                if not expected[child]:
                    waiting.append(child)
                expected[child] += 1
    assert {block: row.references for block, row in store.core.catalog.blocks() if row.references} == expected


def number(raw: bytes) -> int:
    """A number as the catalog writes it."""
    return int.from_bytes(raw, "big")


def shown_at(store: Store, bucket: Ino, key: bytes) -> tuple[Ino, bytes] | None:
    """Where a mount shows a file at a key of S3: its directory and name."""
    directories, name = split_key(key)
    place = bucket
    for directory in directories:
        found = store.tree.find(place, directory) if is_shown(directory) else None
        if found is None or not store.tree.inode(found).is_dir:
            return None
        place = found
    found = store.tree.find(place, name) if is_shown(name) else None
    return None if found is None or store.tree.inode(found).is_dir else (place, name)
