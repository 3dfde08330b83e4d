"""Golden stores: small stores as vfs wrote them once, frozen, which every later vfs must read.

`tests/unit/golden` has each as `NAME.tar.xz`, with all that is in it in `NAME.json`. `tests/unit/test_golden.py` opens
copies and compares. They are never made again: what people have on their disks does not change either. Those that are
`early` were made of these plans by the vfs of 2026-11-21, whose records have fewer fields (commits c7c0373, cd9651d).
When a format gets a new number, or a store can hold something new, the plans below get one more, and

    scripts/golden

makes those that are not there yet, of today's vfs. It compares each with what was written before it is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import stat
import struct
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.syncing import sync
from vfs import gc
from vfs.blocks import BLOCK_BYTES
from vfs.check.names import path_of_key
from vfs.content import WorkingCopy
from vfs.lifecycle import DAY_US
from vfs.model import (
    STORE_ROOT,
    Checksum,
    Compression,
    Content,
    Filter,
    Ino,
    KeyId,
    Kind,
    LifecycleRule,
    LockMode,
    ObjectInfo,
    ObjectLock,
    PurgePolicy,
    Retention,
    Seq,
    State,
    Writer,
)
from vfs.names import format_version_id, show
from vfs.store import SYNCS_BEFORE_LOG, Store

FOLDER = Path(__file__).parent / "unit" / "golden"
START_NS = 1_795_694_400_000_000_000  # 2026-11-26 12:00 UTC
TICK_NS = 1_000_000
WRITER = Writer(1000, 4242, "golden")
STRANGER = Writer(1001, 4243, "stranger")
SHOWN_BYTES_MAX = 64  # of a content; more is told by its hash
LEFT_OUT = ("lock", "daemon.log")  # what says something of the machine

BIG = b"".join(b"%07d\n" % (number % 999) for number in range(2 * BLOCK_BYTES // 8)) + b"end"  # two leaves, a short one
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, who)
    for tag, rights, who in (
        (1, 6, 0xFFFFFFFF),
        (2, 4, 1001),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    )
)  # rw for its owner, r for user 1001 and the group, nothing for others
TEXT = b"".join(b"line %d of a text that can be compressed\n" % (number % 7) for number in range(1000))


class Making:
    """A store in the making. Invariant: `written` has the contents of all versions of each path, oldest first; None is
    a delete marker.
    """

    def __init__(self, path: Path) -> None:
        self.ticks = count(START_NS, TICK_NS)
        self.path = path
        self.store = Store.open(path, clock=lambda: next(self.ticks))
        self.written: dict[str, list[bytes | None]] = {}

    def tick(self, seconds: int) -> None:
        """Time passes, and what is written to open files is made safe."""
        next(islice(self.ticks, seconds * 1_000_000_000 // TICK_NS, None))
        for _ in self.store.files.interims.make():
            pass

    def bucket(self, name: bytes, state: State, **more: Any) -> Ino:
        return self.store.create_bucket(name, uid=1000, gid=1000, state=state, **more)

    def _note(self, parent: Ino, name: bytes, data: bytes | None) -> None:
        key = self.store.core.catalog.key(parent, name)
        assert key is not None
        self.written.setdefault(path_of_key(self.store.core.catalog, key), []).append(data)

    def write(self, parent: Ino, name: bytes, data: bytes, *, at: int = 0) -> Ino:
        """A version of a file."""
        ino = self.store.tree.find(parent, name)
        if ino is None:
            ino, _ = self.store.tree.create(parent, name, 0o640, 1000, WRITER)
            handle = self.store.files.open(ino, WRITER, created=True)
        else:
            handle = self.store.files.open(ino, WRITER, truncate=True)
        self.store.files.write(handle, at, data)
        self.store.files.flush(handle)
        self.store.files.release(handle)
        self._note(parent, name, bytes(at) + data)
        return ino

    def unlink(self, parent: Ino, name: bytes, *, marker: bool = True) -> None:
        self._note(parent, name, None)
        self.store.tree.unlink(parent, name, WRITER)
        if not marker:
            del self.written[next(path for path in self.written if path.endswith("/" + show(name)))]

    def content(self, bucket: Ino, data: bytes) -> Content:
        copy = self.store.objects.begin_content(bucket)
        copy.write(0, data)
        self.store.objects.end_content(copy)
        return copy.seal()

    def put(self, bucket: Ino, key: bytes, data: bytes, **info: Any) -> None:
        """A version of an object."""
        self.store.objects.put(bucket, key, self.content(bucket, data), ObjectInfo(**info), WRITER)
        name = show(self.store.bucket(bucket).name)
        self.written.setdefault(f"{name}/{show(key)}", []).append(data)


# -- the plans --------------------------------------------------------------------------------------------------------


def plain(making: Making) -> None:
    """Format 2: a mount's files, and what can become of them."""
    store, tree = making.store, making.store.tree
    docs = making.bucket(b"docs", State.ENABLED)
    for data in (b"one\n", b"two\n", b"", BIG, BIG[:-3] + b"END"):
        making.write(docs, b"report", data)
    tree.set_attributes(tree.lookup(docs, b"report")[0], mode=0o600)
    making.write(docs, b"sparse", b"behind a hole", at=5 * BLOCK_BYTES)
    making.write(docs, b"deleted", b"deleted later")
    making.unlink(docs, b"deleted")
    making.write(docs, b"n\xc3\xa4me\xff", b"no UTF-8")
    tree.symlink(docs, b"link", b"report", 1000, WRITER)
    tree.mknod(docs, b"fifo", stat.S_IFIFO | 0o600, 0, 1000, WRITER)
    tree.set_acl(tree.lookup(docs, b"report")[0], b"system.posix_acl_access", ACL, keep_setgid=True)
    directory, _ = tree.mkdir(docs, b"directory", 0o750, 1000, WRITER)
    below, _ = tree.mkdir(directory, b"below", 0o755, 1000, WRITER)
    file = making.write(below, b"file", b"in a directory that moves")
    tree.set_attribute(file, b"user.colour", b"red")
    making.written["docs/moved/below/file"] = making.written.pop("docs/directory/below/file")
    tree.rename(docs, b"directory", docs, b"moved", WRITER)
    tree.link(file, docs, b"second name", WRITER)
    making.written["docs/second name"] = [b"in a directory that moves"]
    gone, _ = tree.mkdir(docs, b"gone", 0o755, 1000, WRITER)
    making.write(gone, b"file", b"of a directory that was removed")
    making.unlink(gone, b"file")
    tree.rmdir(docs, b"gone", WRITER)
    past = making.bucket(b"suspended", State.ENABLED)
    making.write(past, b"file", b"while it was Enabled")
    store.set_versioning(past, State.SUSPENDED)
    making.write(past, b"file", b"null version")
    off = making.bucket(b"unversioned", State.UNVERSIONED)
    making.write(off, b"file", b"the only one")
    store.close()


def snapshot(making: Making) -> None:
    """The same with a snapshot in place of the journal's beginning, something after it, and no catalog."""
    docs = making.bucket(b"docs", State.ENABLED)
    for number in range(20):
        making.write(docs, b"%d" % (number % 5), b"content %d" % number)
    key = making.store.core.catalog.key(docs, b"0")
    assert key is not None
    oldest = list(making.store.history.versions(key))[-1][0]
    making.store.history.purge(key, oldest, WRITER)
    del making.written["docs/0"][0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
        gc.run(making.store)
    making.write(docs, b"later", b"behind the snapshot")
    making.store.close()
    shutil.rmtree(making.path / "catalog")


def compressed(making: Making) -> None:
    """Format 3: compressed blocks, and others."""
    docs = making.bucket(b"docs", State.ENABLED)
    making.write(docs, b"raw", TEXT)
    making.store.set_compression(docs, Compression.ZSTD)
    making.write(docs, b"text", TEXT * 5)
    making.write(docs, b"short", b"too short to gain")
    making.store.close()


def logged(making: Making) -> None:
    """Format 4, after a power loss: the last version of a file, and a draft, are in the sync log only."""
    store = making.store
    docs = making.bucket(b"docs", State.ENABLED)
    for number in range(SYNCS_BEFORE_LOG):
        making.write(docs, b"file", b"synced in its place, %d" % number)
        sync(store)
    ends = store.core.journal.end, store.core.blocks.end
    making.write(docs, b"file", b"in the sync log only")
    ino, _ = store.tree.create(docs, b"open", 0o644, 1000, WRITER)
    handle = store.files.open(ino, WRITER, created=True)
    store.files.write(handle, 0, b"never closed")
    store.files.flush(handle)
    sync(store)
    making.written["docs/open"] = [b"never closed"]
    store.abandon()
    os.truncate(making.path / f"journal/{ends[0].segment:016x}", ends[0].offset)
    os.truncate(making.path / f"blocks/{ends[1].segment:08x}", ends[1].offset)


def objects(making: Making) -> None:
    """Format 5: objects, locks, uploads under way, settings of buckets."""
    store = making.store
    lock = ObjectLock(LockMode.GOVERNANCE, days=1)
    media = making.bucket(b"media", State.ENABLED, owner="owner-1", location="eu-west-1", lock=lock)
    rule = LifecycleRule("rule", True, Filter(b"logs/", {"a": "b"}, 10, 20), "And", expire_days=3, noncurrent_newer=2)
    store.objects.configure(media, lifecycle=(rule,), tags={"team": "red"})
    making.put(
        media,
        b"film",
        b"a film",
        etag="0123456789abcdef0123456789abcdef",
        headers={"content-type": "video/mp4", "cache-control": "no-store"},
        metadata={"colour": "red"},
        tags={"kind": "film"},
        checksums=(Checksum("CRC32C", "AAAAAA=="),),
        owner="owner-2",
        acl="bucket-owner-full-control",
    )
    until = Seq(START_NS // 1000 + 365 * DAY_US)
    making.put(media, b"film", b"another", retention=Retention(LockMode.COMPLIANCE, until), legal_hold=True)
    making.put(media, b"a//hidden/", b"what no mount can show")
    store.objects.delete(media, b"film", WRITER)
    making.written["media/film"].append(None)
    done = store.uploads.create(media, b"whole", ObjectInfo(metadata={"in": "parts"}), checksum_algorithm="CRC32")
    for number in (1, 3):
        content = making.content(media, b"part %d, " % number)
        store.uploads.put_part(media, b"whole", done, number, content, f"etag-{number}")
    for _ in store.uploads.complete(media, b"whole", done, [(1, "etag-1"), (3, "etag-3")], WRITER, etag="whole-2"):
        pass
    making.written["media/whole"] = [b"part 1, part 3, "]
    begun = store.uploads.create(media, b"under/way", ObjectInfo(tags={"a": "b"}), checksum_algorithm="SHA256")
    for number, data in ((1, BIG), (10_000, b"the last one")):
        content = making.content(media, data)
        store.uploads.put_part(
            media, b"under/way", begun, number, content, f"etag-{number}", (Checksum("SHA256", "="),)
        )
    store.close()


def kept_open(making: Making) -> None:
    """Format 6: files that are open, displaced or not, when the daemon is killed; a purge policy; a stranger's file."""
    store = making.store
    docs = making.bucket(b"docs", State.ENABLED)
    store.set_purge_policy(docs, PurgePolicy.ROOT)
    ino, _ = store.tree.create(docs, b"log", 0o640, 1000, WRITER)
    log = store.files.open(ino, WRITER, created=True)
    for at in range(3):
        store.files.write(log, at * len(BIG), BIG)
        for _ in store.files.interims.make():
            pass
    store.files.write(log, 3 * len(BIG), b"the last line")
    making.tick(5)
    making.written["docs/log"] = [BIG * 3 + b"the last line"]
    for name, promised in ((b"displaced", True), (b"displaced-unpromised", False)):
        ino = making.write(docs, name, b"old")
        handle = store.files.open(ino, WRITER)
        making.put(docs, name, b"put over it")
        store.files.write(handle, 3, b", and written on")
        if promised:
            store.files.flush(handle)
        making.tick(5)
        making.written[f"docs/{show(name)}"].append(b"old, and written on")
    making.write(docs, b"secret", b"secret")
    store.tree.set_attributes(store.tree.lookup(docs, b"secret")[0], mode=0o600)
    making.write(docs, b"open", b"open to all")
    store.tree.rename(docs, b"open", docs, b"secret", STRANGER)
    making.written["docs/secret"].append(making.written.pop("docs/open")[0])
    store.abandon()


PLANS: dict[str, Callable[[Making], None]] = {
    "format-2": plain,
    "format-2-snapshot": snapshot,
    "format-3": compressed,
    "format-4-power-loss": logged,
    "format-5": objects,
    "format-6-killed": kept_open,
}


# -- what is in a store -----------------------------------------------------------------------------------------------


def tell(store: Store) -> dict[str, Any]:
    """All that is in a store, as JSON has it."""
    return {
        "buckets": [_plain(bucket) for _, bucket in store.buckets()],
        "versions": _versions(store),
        "live": {path: _live(store, ino) for path, ino in _walk(store, STORE_ROOT, "")},
        "objects": [
            [path_of_key(store.core.catalog, key), format_version_id(seq), _plain(info)]
            for key, seq, info in store.core.catalog.every_object()
        ],
        "uploads": [
            [show(bucket.name), named.id, _plain(named.upload), _parts(store, ino, named.upload.key, named.id)]
            for ino, bucket in store.buckets()
            for named in store.uploads.every(ino)
        ],
    }


def contents(store: Store) -> dict[str, list[bytes | None]]:
    """The contents of all versions of files, oldest first, by path; None is a delete marker."""
    found: dict[str, list[bytes | None]] = {}
    for key, _, version in store.core.catalog.every_version():  # newest first
        if version.kind in (Kind.CONTENT, Kind.MARKER) and stat.S_ISREG(version.mode):
            data = _read(store, version.content) if version.kind is Kind.CONTENT else None
            found.setdefault(path_of_key(store.core.catalog, key), []).insert(0, data)
    return found


def _versions(store: Store) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for key, seq, version in store.core.catalog.every_version():
        facts = _plain(version) | {"kind": version.kind.name, "content": _shown(_read(store, version.content))}
        path = path_of_key(store.core.catalog, KeyId(key))
        found.setdefault(path, []).append([format_version_id(seq, null=version.null), facts])
    return found


def _live(store: Store, ino: Ino) -> dict[str, Any]:
    inode = store.tree.inode(ino)
    attributes = {
        show(name): show(store.tree.find_attribute(ino, name) or b"") for name in store.tree.list_attributes(ino)
    }
    return _plain(inode) | {
        "mode": f"{inode.mode:o}",
        "content": _shown(_read(store, inode.content)),
        "attributes": attributes,
    }


def _walk(store: Store, parent: Ino, above: str) -> Iterator[tuple[str, Ino]]:
    for _, name, ino in store.tree.entries(parent):
        path = above + show(name)
        yield path, ino
        if store.tree.inode(ino).is_dir:
            yield from _walk(store, ino, path + "/")


def _parts(store: Store, bucket: Ino, key: bytes, upload_id: str) -> list[Any]:
    found = store.uploads.parts(bucket, key, upload_id).parts
    return [[number, _plain(part) | {"content": _shown(_read(store, part.content))}] for number, part in found]


def _read(store: Store, content: Content) -> bytes:
    return WorkingCopy(store.core.blocks, content).read(0, content.size)


def _shown(data: bytes) -> str:
    return (
        show(data) if len(data) <= SHOWN_BYTES_MAX else f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"
    )


def _plain(record: msgspec.Struct) -> dict[str, Any]:
    """The fields of a record by their names, but for those that have their default, as fields will that come later."""
    found = {}
    for field in msgspec.structs.fields(record):
        value = getattr(record, field.name)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if value != default:
            found[field.name] = value
    return dict(json.loads(json.dumps(found, default=_plainer)))


def _plainer(value: object) -> object:
    if isinstance(value, bytes):
        return show(value)
    return _plain(value) if isinstance(value, msgspec.Struct) else str(value)


# -- keeping it -------------------------------------------------------------------------------------------------------


def make(name: str, folder: Path) -> None:
    """Make a store by its plan, compare it with what was written, and keep it in a folder."""
    with tempfile.TemporaryDirectory(prefix="vfs-golden-") as scratch:
        making = Making(Path(scratch) / "store")
        PLANS[name](making)
        archive, copy = Path(scratch) / f"{name}.tar.xz", Path(scratch) / "copy"
        pack(making.path, archive)
        unpack(archive, copy)
        store = Store.open(copy, clock=lambda: START_NS)
        try:
            found = contents(store)
            wrong = {path for path in found | making.written if found.get(path) != making.written.get(path)}
            assert not wrong, f"{name} does not have what was written of {wrong}"
            told = json.dumps(tell(store), indent=1, sort_keys=True) + "\n"
        finally:
            store.close()
        (folder / f"{name}.json").write_text(told)
        shutil.copyfile(archive, folder / archive.name)


def pack(store: Path, archive: Path) -> None:
    """The files of a store in an archive that says nothing of where and when it was made."""
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(store.rglob("*")):
            if path.is_file() and path.name not in LEFT_OUT:
                member = tarfile.TarInfo(str(path.relative_to(store)))
                data = path.read_bytes()
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def unpack(archive: Path, store: Path) -> None:
    """A copy of a golden store."""
    store.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            (store / member.name).parent.mkdir(exist_ok=True)
            (store / member.name).write_bytes(file.read())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="which to make; all that are not there")
    parser.add_argument("--to", type=Path, default=FOLDER, help="where to")
    options = parser.parse_args()
    for name in options.names or PLANS:
        if name not in PLANS:
            sys.exit(f"there is no plan {name}; there are {', '.join(PLANS)}")
        if (options.to / f"{name}.tar.xz").exists():
            sys.stdout.write(f"{name} is there, and stays as it is\n")
            continue
        make(name, options.to)
        sys.stdout.write(f"{name} was made: {(options.to / f'{name}.tar.xz').stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
