"""What is accepted can be read again: every field of every change, rule and setting at its edges, through every door;
then the process dies, and the store is checked, opened and made again.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import msgspec
import pytest
from pyfuse3 import EntryAttributes, FUSEError

from tests.crafted import WRITER, Tree, version
from tests.edges import TEXTS, of_type, variants
from tests.unit.desk import ALL_RIGHTS, Desk, document
from tests.unit.doors import caller, door_to, fields
from vfs import check as checking
from vfs import events
from vfs.catalog import TABLES, Catalog
from vfs.errors import NoSuchKey, NotAStore, VfsError
from vfs.events import Change
from vfs.folder import Folder
from vfs.fuse.operations import Operations
from vfs.model import (
    EMPTY,
    STORE_ROOT,
    Checksum,
    Content,
    Draft,
    Filter,
    Ino,
    Interim,
    KeyId,
    LifecycleRule,
    LockMode,
    ObjectInfo,
    ObjectLock,
    ObjectPart,
    Part,
    Retention,
    Seq,
    Upload,
)
from vfs.settings import Settings, load
from vfs.store import Store

SAMPLE = 7  # of the variants of a large struct so many, for each run; all are tried by the long one

CHECKSUM = Checksum("CRC32", "AAAAAA==")
INFO = ObjectInfo(
    "e",
    {"content-type": "text/plain"},
    {"m": "1"},
    {"t": "1"},
    (CHECKSUM,),
    (ObjectPart(1, 5, (CHECKSUM,)),),
    Retention(LockMode.GOVERNANCE, 5),
)
RULE = LifecycleRule("r", True, Filter(b"p", {"t": "1"}, 1, 2), "And", expire_days=1)

BASES: dict[type, Callable[[Tree], Change]] = {
    events.BucketSet: lambda t: events.BucketSet(
        t.other,
        msgspec.structs.replace(
            t.store.bucket(t.other), lock=ObjectLock(LockMode.GOVERNANCE, 1), lifecycle=(RULE,), unversioned=[b"*~"]
        ),
    ),
    events.BucketGone: lambda t: events.BucketGone(Ino(t.store.core.new_id())),
    events.KeyMade: lambda t: events.KeyMade(KeyId(t.store.core.new_id()), t.other, b"k%d" % t.store.core.new_id()),
    events.KeyGone: lambda t: events.KeyGone(KeyId(t.store.core.new_id())),
    events.VersionAdded: lambda t: events.VersionAdded(
        t.inode(t.file).key,
        t.store.core.next_seq(),
        msgspec.structs.replace(
            version(content=Content(5, t.inode(t.file).content.root, 0)), attributes=((b"user.a", b""),)
        ),
        t.bucket,
    ),
    events.VersionGone: lambda t: events.VersionGone(t.inode(t.file).key, Seq(5), t.bucket),
    events.EntrySet: lambda t: events.EntrySet(t.bucket, b"f", t.file),
    events.EntryGone: lambda t: events.EntryGone(t.bucket, b"nobody"),
    events.InodeSet: lambda t: events.InodeSet(t.file, t.inode(t.file)),
    events.InodeGone: lambda t: events.InodeGone(Ino(t.store.core.new_id())),
    events.DirectoryTouched: lambda t: events.DirectoryTouched(t.directory, 5, 0),
    events.DraftSet: lambda t: events.DraftSet(t.file, Draft(t.inode(t.file).content, 5, 5, WRITER)),
    events.DraftGone: lambda t: events.DraftGone(t.file),
    events.DisplacedSet: lambda t: events.DisplacedSet(t.displaced, t.directory, b"displaced"),
    events.InterimSet: lambda t: events.InterimSet(t.file, Interim(EMPTY, 4, 5, 5, WRITER, Seq(5)), 0, b"tail"),
    events.InterimGone: lambda t: events.InterimGone(t.file),
    events.LinkSet: lambda t: events.LinkSet(t.file, t.inode(t.file).key),
    events.LinkGone: lambda t: events.LinkGone(t.file, t.inode(t.file).key),
    events.AttributeSet: lambda t: events.AttributeSet(t.file, b"user.a", b"v"),
    events.AttributeGone: lambda t: events.AttributeGone(t.file, b"user.a"),
    events.OrphanSet: lambda t: events.OrphanSet(t.file),
    events.ObjectSet: lambda t: events.ObjectSet(t.inode(t.file).key, t.inode(t.file).seq, INFO),
    events.UploadSet: lambda t: events.UploadSet(t.bucket, t.store.core.new_id(), Upload(b"k", Seq(5), INFO)),
    events.UploadGone: lambda t: events.UploadGone(t.bucket, t.store.core.new_id()),
    events.PartSet: lambda t: events.PartSet(t.upload, 1, Part(EMPTY, "e", Seq(5), (CHECKSUM,))),
}


NEVER = (  # each of their fields says what must be there
    events.BucketGone,
    events.KeyGone,
    events.VersionGone,
    events.EntrySet,
    events.EntryGone,
    events.OrphanSet,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store")
    yield store
    store.abandon()


def grown(store: Store) -> Tree:
    tree = Tree(store)
    tree.upload = store.core.new_id()
    tree.displaced = Ino(store.core.new_id())
    gone = msgspec.structs.replace(tree.inode(tree.file), nlink=0, content=EMPTY)
    made: list[Change] = [
        events.InodeSet(tree.displaced, gone),
        events.DisplacedSet(tree.displaced, tree.bucket, b"f"),
    ]
    store.core.commit("displace", made)
    store.core.commit("create upload", [events.UploadSet(tree.bucket, tree.upload, Upload(b"u", Seq(5), ObjectInfo()))])
    return tree


def test_every_change_has_a_base() -> None:
    assert set(BASES) == set(get_args(Change))


def look(store: Store, door: Operations) -> None:
    """Whatever can be read of a store is read: a name hides no other, and nobody stumbles."""
    directories = [STORE_ROOT]
    seen = set()
    while directories:
        directory = directories.pop()
        if directory in seen:
            continue
        seen.add(directory)
        for _, name, ino in store.tree.entries(directory):
            inode = store.tree.inode(ino)
            assert isinstance(door._entry(ino, inode), EntryAttributes)
            if inode.is_dir:
                directories.append(ino)
            elif inode.is_file:
                store.files.release(store.files.open(ino, WRITER))
            if directory != STORE_ROOT:
                with contextlib.suppress(NoSuchKey):  # it has never been published
                    for key in store.history.past(directory, name).keys:
                        for seq, _ in store.history.versions(key):
                            store.history.find(seq)
    for ino, bucket in store.buckets():
        store.objects.list(ino)
        store.objects.list_versions(ino)
        store.uploads.list(ino)
        assert bucket.name
    store.figures()


def rows(path: Path) -> dict[str, list[tuple[bytes, bytes]]]:
    catalog = Catalog(Folder.at(path / "catalog"), read_only=True)
    found = {table: list(catalog.rows(table)) for table in TABLES if table != "meta"}
    catalog.close()
    return found


def reads_again(store: Store, *, clean: bool) -> None:
    """The process dies. Everything that was accepted is read and applied: by opening, and by a rebuild."""
    assert not store.core.failed
    store.abandon()
    problems: list[checking.Problem] = []
    assert checking.check(store.path, problems.append, lambda what, done, total: None).opens
    assert [problem for problem in problems if clean or problem.kind in ("journal", "record")] == []
    opened = Store.open(store.path)
    assert opened.figures()["RecordsSetAside"] == opened.figures()["DraftsKept"] == 0
    look(opened, door_to(opened))
    opened.close()
    before = rows(store.path)
    shutil.rmtree(store.path / "catalog")
    Store.open(store.path).close()
    after = rows(store.path)
    assert {name: after[name] for name in after if name not in ("blocks", "segments")} == {
        name: before[name] for name in before if name not in ("blocks", "segments")
    }


def try_all(tree: Tree, kind: type, pick: Callable[[list[Any]], list[Any]]) -> int:
    """Commit a change with each of its fields at each edge; how many were accepted."""
    store, door = tree.store, door_to(tree.store)
    accepted = 0
    names = [name for name, _ in variants(BASES[kind](tree))]
    wanted = set(pick(names))
    for name in names:
        if name not in wanted:
            continue
        change = next(found for other, found in variants(BASES[kind](tree)) if other == name)
        before = store.core.journal.end
        try:
            store.core.commit("edge", [change])
        except VfsError:
            assert store.core.journal.end == before, f"{kind.__name__}{name}"
            assert not store.core.failed, f"{kind.__name__}{name}"
            continue
        accepted += 1
        try:
            look(store, door)
        except Exception as error:
            raise AssertionError(f"{kind.__name__}{name} was accepted, and cannot be read: {error!r}") from error
    return accepted


@pytest.mark.parametrize("kind", BASES, ids=lambda kind: kind.__name__)
def test_changes_at_their_edges(store: Store, kind: type) -> None:
    chance = random.Random(kind.__name__)
    accepted = try_all(grown(store), kind, lambda names: names if len(names) < 150 else chance.sample(names, 150))
    assert accepted or kind in NEVER
    reads_again(store, clean=False)


@pytest.mark.slow
def test_all_changes_at_all_edges_in_one_store(store: Store) -> None:
    tree = grown(store)
    for kind in BASES:
        try_all(tree, kind, lambda names: names)
    reads_again(store, clean=False)


# --- doors


async def tried(work: Awaitable[Any]) -> bool:
    """Whether a door takes it. It may refuse; it must not fail."""
    failed = 0
    try:
        await work
    except FUSEError as error:
        failed = error.errno
    assert failed != errno.EIO
    return not failed


async def test_the_mount_at_its_edges(store: Store) -> None:
    tree, door = grown(store), door_to(store)
    ctx = caller()
    ints = (-(1 << 63), -1, 0, 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)
    for seconds, nanos, what in itertools.product((*ints, 1 << 40), (0, 999_999_999), ("atime", "mtime")):
        attr = EntryAttributes()
        try:
            setattr(attr, f"st_{what}_ns", seconds * 1_000_000_000 + nanos)
        except OverflowError:
            continue  # the kernel's own type does not have it
        assert await tried(door.setattr(tree.file, attr, fields(what), None, ctx))
    for mode, number in itertools.product(("mode", "uid", "gid", "size"), ints):
        attr = EntryAttributes()
        try:
            setattr(attr, f"st_{mode}", number)
        except OverflowError:
            continue
        await tried(door.setattr(tree.file, attr, fields(mode), None, ctx))
    await tried(door.setattr(tree.file, attr, fields("size"), None, ctx))
    texts = [text.encode("utf-8", "surrogatepass") for text in TEXTS] + [b"\xff", b"[" * 60_000, bytes(65_536)]
    words = ("versioning", "compression", "lock", "lifecycle", "expiring", "restore", "trace", "bucket", "nothing", "")
    for where, word, value in itertools.product((tree.bucket, tree.file), words, texts):
        await tried(door.setxattr(where, b"user.vfs." + word.encode(), value, ctx))
    for days in (0, 1, 36_500, 36_501, 99_999, 100_000, 10**30):
        for unit in ("days", "years"):
            await tried(door.setxattr(tree.bucket, b"user.vfs.lock", f"governance {days} {unit}".encode(), ctx))
    for name, value in itertools.product((b"user.a", b"user." + b"n" * 250, b"trusted.\xff", b"security.x"), texts):
        await tried(door.setxattr(tree.file, name, value, ctx))
    for name in (b"", b".", b"..", b"a/b", b"\0", b"\xff", b"n" * 255, b"n" * 256, b".versions", b".snapshots", b"\n"):
        await tried(door.mkdir(tree.directory, name, 0o755, ctx))
        await tried(door.rmdir(tree.directory, name, ctx))
        await tried(door.mknod(tree.directory, name, 0o20644, (1 << 32) - 1, ctx))
        await tried(door.unlink(tree.directory, name, ctx))
        await tried(door.symlink(tree.directory, name, b"t" * 4095, ctx))
        await tried(door.unlink(tree.directory, name, ctx))
        assert not await tried(door.symlink(tree.directory, name, b"t" * 4096, ctx))
        await tried(door.link(tree.file, tree.directory, name, ctx))
        await tried(door.unlink(tree.directory, name, ctx))
        await tried(door.rename(tree.directory, b"i", tree.directory, name, 0, ctx))
    look(store, door)
    reads_again(store, clean=True)


async def test_rules_through_the_mount_at_their_edges(store: Store) -> None:
    tree, door = grown(store), door_to(store)
    for _, rule in variants(RULE):
        try:
            value = msgspec.json.encode((rule,))
        except (ValueError, OverflowError):
            continue
        if len(value) <= 65_536:
            await tried(door.setxattr(tree.bucket, b"user.vfs.lifecycle", value, caller()))
        await door.getxattr(tree.bucket, b"user.vfs.lifecycle", caller())
    reads_again(store, clean=True)


DATES = (
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "1969-12-31T23:59:59Z",
    "2038-01-19T03:14:08Z",
    "9999-12-31T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59.9999999Z",
    "10000-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "99999999999999999999",
)
NUMBERS = (
    "",
    "-1",
    "0",
    "1",
    "36500",
    "36501",
    "2147483648",
    "9223372036854775807",
    "9" * 18,
    "9" * 400,
    "1e3",
    "٣",
    "0x1",
)
STRINGS = ("", "a", "%00", "%ff", "%ED%A0%80", "é", "x" * 300, "x" * 9000, "%0a", "&amp;", "😀")


async def test_objects_at_their_edges(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    key = desk.key(*ALL_RIGHTS)
    lock_on = {"x-amz-bucket-object-lock-enabled": "true"}
    assert (await desk.ask(key, "PUT", "/lock", headers=lock_on)).status == 200
    assert (await desk.ask(key, "PUT", "/lock/k", b"1")).status == 200
    asked: list[tuple[str, str, bytes, dict[str, str]]] = []
    for date in DATES:
        headers = {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": date}
        asked += [("PUT", "/lock/a", b"x", headers), ("POST", "/lock/b?uploads", b"", headers)]
        asked.append(("PUT", "/lock/c", b"", {"x-amz-copy-source": "/lock/k", **headers}))
        body = document("Retention", f"<Mode>GOVERNANCE</Mode><RetainUntilDate>{date}</RetainUntilDate>")
        asked.append(("PUT", "/lock/k?retention", body, {}))
        asked.append(("PUT", "/lock?lifecycle", lifecycle(f"<Expiration><Date>{date}</Date></Expiration>"), {}))
        asked.append(("DELETE", "/lock/k", b"", {"x-amz-if-match-last-modified-time": date}))
    for number in NUMBERS:
        for unit in ("Days", "Years"):
            default = f"<Mode>GOVERNANCE</Mode><{unit}>{number}</{unit}>"
            rule = f"<Rule><DefaultRetention>{default}</DefaultRetention></Rule>"
            rule = f"<ObjectLockEnabled>Enabled</ObjectLockEnabled>{rule}"
            asked.append(("PUT", "/lock?object-lock", document("ObjectLockConfiguration", rule), {}))
        for action, word in (
            ("Expiration", "Days"),
            ("NoncurrentVersionExpiration", "NoncurrentDays"),
            ("NoncurrentVersionExpiration", "NewerNoncurrentVersions"),
            ("AbortIncompleteMultipartUpload", "DaysAfterInitiation"),
        ):
            body = lifecycle(f"<{action}><{word}>{number}</{word}></{action}>")
            asked.append(("PUT", "/lock?lifecycle", body, {}))
        size = f"<Filter><ObjectSizeGreaterThan>{number}</ObjectSizeGreaterThan></Filter>"
        asked.append(("PUT", "/lock?lifecycle", lifecycle("<Expiration><Days>1</Days></Expiration>", size), {}))
        asked.append(("PUT", f"/lock/u?partNumber={quote(number)}&uploadId={'0' * 30}", b"x", {}))
    for text in STRINGS:
        asked.append(
            ("PUT", f"/lock/s{text}", b"x", {}) if text.isascii() else ("PUT", f"/lock/{quote(text)}", b"x", {})
        )
        for name in ("x-amz-meta-m", "content-type", "cache-control", "x-amz-storage-class", "x-amz-tagging"):
            asked.append(("PUT", "/lock/h", b"x", {name: text if text.isascii() else quote(text)}))
        tags = f"<TagSet><Tag><Key>{text}</Key><Value>{text}</Value></Tag></TagSet>"
        asked += [("PUT", where, document("Tagging", tags), {}) for where in ("/lock/k?tagging", "/lock?tagging")]
        prefix = f"<Filter><Prefix>{text}</Prefix></Filter>"
        asked.append(("PUT", "/lock?lifecycle", lifecycle("<Expiration><Days>1</Days></Expiration>", prefix, text), {}))
        location = document("CreateBucketConfiguration", f"<LocationConstraint>{text}</LocationConstraint>")
        asked.append(("PUT", f"/b{len(asked)}", location, {}))
        asked.append(("POST", f"/lock/{quote(text)}?uploads", b"", {"x-amz-checksum-algorithm": quote(text)}))
    for body in (
        "<Tagging><TagSet><Tag><Key>\ud800</Key></Tag></TagSet></Tagging>".encode("utf-16-le", "surrogatepass"),
        b"\xff\xfe" + "<Tagging>\udc00</Tagging>".encode("utf-16-le", "surrogatepass"),
        "<Tagging>\ud800</Tagging>".encode("utf-8", "surrogatepass"),
        b"<Tagging>&#xD800;</Tagging>",
        b"<Tagging>&#0;</Tagging>",
    ):
        asked.append(("PUT", "/lock/k?tagging", body, {}))
    for method, target, body, headers in asked:
        answer = await desk.ask(key, method, target, body, headers)
        assert answer.status < 500 or answer.code == "NotImplemented", (method, target, body[:300], headers, answer)
        for read in ("/lock?versions", "/lock?list-type=2", "/lock?lifecycle", "/lock?object-lock", "/lock?uploads"):
            assert (await desk.ask(key, "GET", read)).status in (200, 404), (method, target, body[:300], headers)
    desk.store.core.clock()
    reads_again(desk.store, clean=True)


def lifecycle(action: str, about: str = "<Filter/>", name: str = "r") -> bytes:
    return document("LifecycleConfiguration", f"<Rule><ID>{name}</ID><Status>Enabled</Status>{about}{action}</Rule>")


def test_settings_at_their_edges(tmp_path: Path) -> None:
    """Each is taken, or named in an error; and nothing else happens."""
    info = msgspec.inspect.type_info(Settings)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        for name, value in of_type(field.type, None, field.name):
            (tmp_path / "config.toml").write_bytes(
                f"{field.name} = {in_toml(value)}\n".encode("utf-8", "surrogatepass")
            )
            with contextlib.suppress(NotAStore):
                assert isinstance(load(Folder.at(tmp_path)), Settings), name
    for text in (
        "[" * 5000,
        "a = " + "[" * 5000,
        "a = " + "9" * 5000,
        "a = {b = " * 2000,
        "\0",
        "a = 9999-99-99",
        "a.a.a = 1",
    ):
        (tmp_path / "config.toml").write_text(text)
        with pytest.raises(NotAStore, match=r"config\.toml"):
            load(Folder.at(tmp_path))


def in_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(in_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower()
