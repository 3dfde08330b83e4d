"""Objects beyond what the reference model asks: conditions, locks, hiding, what a mount is told, multipart uploads."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest

from tests.simdisk import SimDisk, no_fault
from tests.unit.test_catalog import save
from vfs import gc
from vfs.blocks import BLOCK_BYTES
from vfs.errors import (
    BucketNotEmpty,
    ConditionFailed,
    InvalidName,
    InvalidPart,
    InvalidState,
    Locked,
    NameTooLong,
    NoLock,
    NoSpace,
    NoSuchBucket,
    NoSuchInode,
    NoSuchKey,
    NoSuchUpload,
    NotPermitted,
)
from vfs.events import Change
from vfs.model import Content, Ino, LockMode, ObjectInfo, ObjectLock, Retention, Seq, State, Writer
from vfs.names import is_shown
from vfs.objects import Added, Condition, Deleted, Object
from vfs.store import Store

S3, MOUNT = Writer(0, 0, "s3"), Writer(0, 1, "mount")
START_NS = 1_800_000_000_000_000_000
FOREVER = Seq(4_000_000_000_000_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    ticks = count(START_NS, 1_000_000)
    opened = Store.open(tmp_path / "store", clock=lambda: next(ticks))
    yield opened
    opened.close()


@pytest.fixture
def bucket(store: Store) -> Ino:
    return store.create_bucket(b"bucket", uid=3, gid=4, state=State.ENABLED)


def body(store: Store, bucket: Ino, data: bytes) -> Content:
    copy = store.objects.begin_content(bucket)
    copy.write(0, data)
    store.objects.end_content(copy)
    return copy.seal()


def put(store: Store, bucket: Ino, key: bytes, data: bytes = b"x", **info: object) -> Added:
    made = ObjectInfo(**info)  # type: ignore[arg-type]
    return store.objects.put(bucket, key, body(store, bucket, data), made, S3)


def read(store: Store, item: Object) -> bytes:
    copy = store.objects.read(item)
    try:
        return copy.read(0, copy.size)
    finally:
        store.objects.end_content(copy)


def listed(store: Store, directory: Ino) -> list[bytes]:
    return [name for _, name, _ in store.tree.entries(directory)]


def test_what_a_put_makes_belongs_to_the_owner_of_the_bucket(store: Store, bucket: Ino) -> None:
    put(store, bucket, b"a/k")
    directory, inode = store.tree.lookup(bucket, b"a")
    assert (inode.uid, inode.gid, inode.mode & 0o777) == (3, 4, 0o755)
    _, inode = store.tree.lookup(directory, b"k")
    assert (inode.uid, inode.gid, inode.mode & 0o777) == (3, 4, 0o644)


def test_directories_of_keys_go_with_the_last_object_and_others_stay(store: Store, bucket: Ino) -> None:
    made, _ = store.tree.mkdir(bucket, b"made", 0o755, 0, MOUNT)
    put(store, bucket, b"made/x/y/k")
    put(store, bucket, b"made/x/l")
    store.objects.delete(bucket, b"made/x/y/k", S3)
    assert listed(store, store.tree.lookup(made, b"x")[0]) == [b"l"]
    changed = store.objects.delete(bucket, b"made/x/l", S3).changed
    assert listed(store, made) == []
    assert [change.name for change in changed] == [b"l", b"x"]
    assert listed(store, bucket) == [b"made"]
    marker = store.objects.list_versions(bucket, prefix=b"made/x/l").objects[0]
    store.objects.purge(bucket, b"made/x/l", marker.version_id, S3)
    assert store.objects.current(bucket, b"made/x/l").size == 1
    assert listed(store, store.tree.lookup(made, b"x")[0]) == [b"l"]


@pytest.mark.parametrize("key", [b"a/", b"a//b", b"./b", b"../b", b"n\0l", b"y" * 256, b"x/" + b"y" * 502])
def test_what_a_mount_cannot_show_is_hidden_and_there(store: Store, bucket: Ino, key: bytes) -> None:
    assert all(is_shown(change.name) for change in put(store, bucket, key).changed)
    assert read(store, store.objects.current(bucket, key)) == b"x"
    assert [item.key for item in store.objects.list(bucket).objects] == [key]
    shown = listed(store, bucket)
    assert shown in ([], [b"a"], [b"x"])
    for name in shown:
        assert listed(store, store.tree.lookup(bucket, name)[0]) == []
    names = [name for _, name, _ in store.history.names(bucket)]
    assert set(names) <= {b"a", b"x"}


def test_a_directory_hides_the_file_that_is_its_prefix(store: Store, bucket: Ino) -> None:
    put(store, bucket, b"a", b"file")
    file, _ = store.tree.lookup(bucket, b"a")
    changed = put(store, bucket, b"a/b").changed
    directory, _ = store.tree.lookup(bucket, b"a")
    assert (changed[0].name, changed[0].before, changed[0].after) == (b"a", file, directory)
    assert put(store, bucket, b"a", b"again").changed == []
    file = store.core.catalog.entry(bucket, b"a")
    moment = store.objects.current(bucket, b"a").seq
    shown = [name for name, _, found in store.history.list_at(bucket, moment) if found is not None]
    assert shown == [b"a/"]
    changed = store.objects.delete(bucket, b"a/b", S3).changed
    assert (changed[-1].name, changed[-1].before, changed[-1].after) == (b"a", directory, file)
    assert listed(store, bucket) == [b"a"]


@pytest.mark.parametrize("key", [b"", b".versions", b".snapshots/x", b"a/.versions/b"])
def test_keys_that_cannot_be(store: Store, bucket: Ino, key: bytes) -> None:
    with pytest.raises(InvalidName):
        put(store, bucket, key)


@pytest.mark.parametrize("key", [b"a" * 503, b"b/" + b"a" * 503 + b"/c", b"a/" * 512 + b"b"])
def test_keys_that_are_too_long(store: Store, bucket: Ino, key: bytes) -> None:
    with pytest.raises(NameTooLong):
        put(store, bucket, key)


def test_the_longest_key(store: Store, bucket: Ino) -> None:
    put(store, bucket, b"/" * 1024)
    assert [item.key for item in store.objects.list(bucket).objects] == [b"/" * 1024]
    assert [item.key for item in store.objects.list_versions(bucket).objects] == [b"/" * 1024]
    assert store.objects.list(bucket, delimiter=b"/").prefixes == [b"/"]


def test_links_of_all_kinds_are_no_objects(store: Store, bucket: Ino) -> None:
    store.tree.symlink(bucket, b"link", b"file", 0, MOUNT)
    assert store.objects.list(bucket).objects == store.objects.list_versions(bucket).objects == []
    with pytest.raises(NoSuchKey) as error:
        store.objects.current(bucket, b"link")
    assert error.value.marker is None
    put(store, bucket, b"link", b"object")
    assert store.tree.lookup(bucket, b"link")[1].is_file


def test_a_put_over_one_of_several_names_leaves_the_others(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"one", b"both")
    store.tree.link(ino, bucket, b"two", MOUNT)
    put(store, bucket, b"one", b"new")
    assert read(store, store.objects.current(bucket, b"one")) == b"new"
    assert read(store, store.objects.current(bucket, b"two")) == b"both"
    store.objects.delete(bucket, b"two", S3)
    assert [item.key for item in store.objects.list(bucket).objects] == [b"one"]


def told(store: Store, bucket: Ino) -> list[bytes]:
    """What the versions of the bucket's only key hold, newest first."""
    return [read(store, item) for item in store.objects.list_versions(bucket).objects]


def test_who_reads_a_file_goes_on_reading_it(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"old")
    handle = store.files.open(ino, MOUNT)
    added = put(store, bucket, b"f", b"new")
    assert [(change.name, change.before) for change in added.changed] == [(b"f", ino)]
    assert store.files.read(handle, 0, 10) == b"old"
    other, _ = store.tree.lookup(bucket, b"f")
    assert added.changed[0].after == other != ino
    store.files.release(handle)
    assert told(store, bucket) == [b"new", b"old"]
    with pytest.raises(NoSuchInode):
        store.tree.inode(ino)


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("created", [False, True])
def test_a_put_and_who_is_writing_do_not_mix(store: Store, bucket: Ino, created: bool, synced: bool) -> None:
    if created:
        ino, _ = store.tree.create(bucket, b"f", 0o644, 0, MOUNT)
        handle = store.files.open(ino, MOUNT, created=True)
    else:
        ino = save(store, bucket, b"f", b"old")
        handle = store.files.open(ino, MOUNT, truncate=True)
    if synced:
        store.files.write(handle, 0, b"w")
        store.files._store_draft(ino, handle.file)  # as fsync does
    put(store, bucket, b"f", b"what was put")
    assert read(store, store.objects.current(bucket, b"f")) == b"what was put"
    store.files.write(handle, 0, b"writ")
    store.files.write(handle, 4, b"ten")
    store.files.flush(handle)
    store.files.release(handle)
    assert told(store, bucket) == [b"written", b"what was put"] + [b"old"] * (not created)


def test_what_was_closed_before_a_put_is_the_version_before_it(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"old")
    handle = store.files.open(ino, MOUNT, truncate=True)
    store.files.write(handle, 0, b"closed")
    store.files.flush(handle)
    put(store, bucket, b"f", b"new")
    assert store.files.read(handle, 0, 10) == b"closed"
    store.files.release(handle)
    assert told(store, bucket) == [b"new", b"closed", b"old"]


def test_the_etag_of_what_a_mount_wrote_has_a_dash(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"data")
    assert "-" in store.objects.current(bucket, b"f").etag
    put(store, bucket, b"f", etag="e")
    assert store.objects.current(bucket, b"f").etag == "e"


def test_conditions(store: Store, bucket: Ino) -> None:
    content = body(store, bucket, b"x")

    def attempt(**condition: object) -> Added:
        info, wanted = ObjectInfo(etag="e"), Condition(**condition)  # type: ignore[arg-type]
        return store.objects.put(bucket, b"k", content, info, S3, condition=wanted)

    with pytest.raises(NoSuchKey):
        attempt(if_match=("*",))
    attempt(if_none_match=("*",))
    with pytest.raises(ConditionFailed):
        attempt(if_none_match=("*",))
    with pytest.raises(ConditionFailed):
        attempt(if_match=("f",))
    attempt(if_match=("f", "e"))
    with pytest.raises(ConditionFailed):
        store.objects.delete(bucket, b"k", S3, condition=Condition(size=2))
    assert store.objects.delete(bucket, b"k", S3, condition=Condition(size=1)).is_marker
    attempt(if_none_match=("*",))


def test_a_delete_may_ask_when_the_object_was_made(store: Store, bucket: Ino) -> None:
    added = put(store, bucket, b"k")
    for seconds in (-1, 1):
        with pytest.raises(ConditionFailed):
            store.objects.delete(bucket, b"k", S3, condition=Condition(modified=added.seq + seconds * 1_000_000))
    assert store.objects.current(bucket, b"k").version_id == added.version_id
    assert store.objects.delete(bucket, b"k", S3, condition=Condition(modified=added.seq)).is_marker
    with pytest.raises(NoSuchKey):
        store.objects.delete(bucket, b"k", S3, condition=Condition(modified=added.seq))


@pytest.mark.parametrize("state", [State.UNVERSIONED, State.SUSPENDED])
def test_a_delete_of_no_object_leaves_what_is_there(store: Store, state: State) -> None:
    """Where nothing would be left of it: a link, or a file that a mount has yet to close."""
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    if state is State.SUSPENDED:
        store.set_versioning(plain, State.ENABLED)
        store.set_versioning(plain, State.SUSPENDED)
    store.tree.symlink(plain, b"link", b"t", 0, MOUNT)
    ino, _ = store.tree.create(plain, b"new", 0o644, 0, MOUNT)
    handle = store.files.open(ino, MOUNT, created=True)
    store.files.write(handle, 0, b"being written")
    for key in (b"link", b"new"):
        assert store.objects.delete(plain, key, S3) == Deleted(None, False, [])
    store.files.flush(handle)
    store.files.release(handle)
    assert read(store, store.objects.current(plain, b"new")) == b"being written"
    assert store.tree.lookup(plain, b"link")[1].target == b"t"


def test_metadata_goes_with_its_version(store: Store, bucket: Ino) -> None:
    first = put(store, bucket, b"k", headers={"content-type": "text/plain"}, tags={"a": "b"})
    put(store, bucket, b"k")
    assert first.version_id is not None
    item = store.objects.version(bucket, b"k", first.version_id)
    store.objects.set_tags(item, {"c": "d"})
    item = store.objects.version(bucket, b"k", first.version_id)
    assert (item.info.headers, item.info.tags) == ({"content-type": "text/plain"}, {"c": "d"})
    assert store.core.catalog.count("objects") == 2
    store.objects.purge(bucket, b"k", first.version_id, S3)
    assert store.core.catalog.count("objects") == 1


def test_no_door_gets_around_a_lock(store: Store, bucket: Ino) -> None:
    with pytest.raises(NoLock):
        put(store, bucket, b"k", legal_hold=True)
    put(store, bucket, b"plain")
    with pytest.raises(NoLock):
        store.objects.set_legal_hold(store.objects.current(bucket, b"plain"), False)
    with pytest.raises(NoLock):
        store.objects.set_retention(store.objects.current(bucket, b"plain"), None)
    store.objects.configure(bucket, lock=ObjectLock())
    added = put(store, bucket, b"d/k", retention=Retention(LockMode.GOVERNANCE, FOREVER))
    item = store.objects.current(bucket, b"d/k")
    with pytest.raises(Locked) as error:
        store.history.purge(item.key_id, item.seq, MOUNT)
    assert error.value.until == FOREVER
    assert "locked until 2096-10-02 07:06:40 UTC (governance)" in str(error.value)
    with pytest.raises(Locked):
        store.objects.purge(bucket, b"d/k", added.version_id or "", S3)
    with pytest.raises(Locked):
        store.objects.set_retention(item, None)
    assert store.objects.delete(bucket, b"d/k", S3).is_marker
    with pytest.raises(BucketNotEmpty):
        store.objects.delete_bucket(b"bucket")
    store.objects.purge(bucket, b"d/k", added.version_id or "", S3, bypass=True)


def test_a_locked_bucket_stays_enabled_and_locked(store: Store, bucket: Ino) -> None:
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    with pytest.raises(InvalidState):
        store.objects.configure(plain, lock=ObjectLock())
    store.objects.configure(bucket, lock=ObjectLock())
    with pytest.raises(InvalidState):
        store.set_versioning(bucket, State.SUSPENDED)
    with pytest.raises(InvalidState):
        store.objects.configure(bucket, lock=None)


def test_a_bucket_is_made_with_its_owner_and_lock_or_not_at_all(store: Store) -> None:
    before = store.figures()["Events"]
    made = store.create_bucket(
        b"locked", uid=0, gid=0, state=State.ENABLED, owner="o", lock=ObjectLock(), unversioned=[]
    )
    assert store.figures()["Events"] == before + 1, "a crash leaves no bucket that nobody owns"
    found = store.bucket(made)
    assert (found.owner, found.lock, found.unversioned) == ("o", ObjectLock(), [])
    with pytest.raises(InvalidState):
        store.create_bucket(b"other", uid=0, gid=0, state=State.UNVERSIONED, lock=ObjectLock())
    with pytest.raises(NoSuchBucket):
        store.find_bucket(b"other")


def test_state_and_mfa_delete_change_together(store: Store) -> None:
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    before = store.figures()["Events"]
    store.objects.configure(plain, state=State.SUSPENDED, mfa_device="d", mfa_delete=True)
    assert store.figures()["Events"] == before + 1
    assert (store.bucket(plain).state, store.bucket(plain).mfa_delete) == (State.SUSPENDED, True)
    with pytest.raises(InvalidState):
        store.objects.configure(plain, state=State.UNVERSIONED)


def test_a_bucket_without_a_list_keeps_every_version_of_every_name(store: Store) -> None:
    exact = store.create_bucket(b"exact", uid=0, gid=0, state=State.ENABLED, unversioned=[])
    assert [put(store, exact, b"f~").version_id is None for _ in range(2)] == [False, False]
    assert len(store.objects.list_versions(exact).objects) == 2
    usual = store.create_bucket(b"usual", uid=0, gid=0, state=State.ENABLED)
    assert [put(store, usual, b"f~").version_id for _ in range(2)] == [None, None]
    assert len(store.objects.list_versions(usual).objects) == 1


def test_a_default_retention_holds_for_what_a_mount_writes(store: Store, bucket: Ino) -> None:
    store.objects.configure(bucket, lock=ObjectLock(LockMode.COMPLIANCE, days=1))
    save(store, bucket, b"f~", b"one")  # a name that has no history elsewhere
    save(store, bucket, b"f~", b"two")
    items = store.objects.list_versions(bucket).objects
    assert len(items) == 2
    for item in items:
        with pytest.raises(Locked):
            store.history.purge(item.key_id, item.seq, MOUNT)
    save(store, bucket, b"new", b"three")
    store.tree.rename(bucket, b"new", bucket, b"f~", MOUNT)  # a save by renaming
    assert [item.is_marker for item in store.objects.list_versions(bucket, prefix=b"new").objects] == [True, False]
    store.tree.set_attributes(store.tree.lookup(bucket, b"f~")[0], mode=0o600)
    store.tree.unlink(bucket, b"f~", MOUNT)
    save(store, bucket, b"f~", b"four")
    for item in store.objects.list_versions(bucket).objects:
        assert item.is_marker or item.info.retention is not None


def test_a_default_retention_holds_for_what_is_put_without_one(store: Store, bucket: Ino) -> None:
    store.objects.configure(bucket, lock=ObjectLock(LockMode.COMPLIANCE, days=1))
    own = Retention(LockMode.GOVERNANCE, FOREVER)
    for key, info in ((b"a", ObjectInfo()), (b"b", ObjectInfo(etag="e", tags={"t": "v"})), (b"c", None)):
        if info is None:
            put(store, bucket, key, retention=own)
        else:
            added = store.objects.put(bucket, key, body(store, bucket, b"x"), info, S3)
            assert added.info.retention is not None, "and it is told"
        item = store.objects.current(bucket, key)
        if info is None:
            assert item.info.retention == own
            continue
        assert item.info.retention == Retention(LockMode.COMPLIANCE, Seq(item.seq + 86_400_000_000))
        assert msgspec.structs.replace(item.info, retention=None) == info, "beside what is known of it"
        with pytest.raises(Locked):
            store.objects.purge(bucket, key, item.version_id, S3, bypass=True)
    made = upload(store, bucket, [b"part"])
    finish(store.uploads.complete(bucket, b"d/k", made, [(1, "e1")], S3, etag="m"))
    assert store.objects.current(bucket, b"d/k").info.retention is not None
    store.tree.symlink(bucket, b"link", b"t", 0, MOUNT)
    directory, _ = store.tree.mkdir(bucket, b"dir", 0o755, 0, MOUNT)
    assert directory
    locked = {key for key, _, info in store.core.catalog.every_object() if info.retention is not None}
    assert locked == {item.key_id for item in store.objects.list_versions(bucket).objects}


def test_a_lock_survives_that_the_rights_of_its_key_are_recorded(store: Store, bucket: Ino) -> None:
    """Which writes the version anew."""
    store.objects.configure(bucket, lock=ObjectLock())
    put(store, bucket, b"k", legal_hold=True)
    ino, _ = store.tree.lookup(bucket, b"k")
    store.tree.set_attributes(ino, mode=0o600)
    save(store, bucket, b"other", b"data")
    store.tree.rename(bucket, b"other", bucket, b"k", MOUNT)
    assert [item.info.legal_hold for item in store.objects.list_versions(bucket, prefix=b"k").objects] == [False, True]


def test_a_bucket_with_empty_directories_and_uploads_can_go(store: Store, bucket: Ino) -> None:
    inner, _ = store.tree.mkdir(bucket, b"a", 0o755, 0, MOUNT)
    store.tree.mkdir(inner, b"b", 0o755, 0, MOUNT)
    store.uploads.create(bucket, b"k", ObjectInfo())
    added = put(store, bucket, b"k")
    with pytest.raises(BucketNotEmpty):
        store.objects.delete_bucket(b"bucket")
    store.objects.purge(bucket, b"k", added.version_id or "", S3)
    store.objects.delete_bucket(b"bucket")
    for table in ("entries", "keys", "versions", "objects", "uploads", "parts", "removed"):
        assert store.core.catalog.count(table) == 0, table


def test_a_bucket_with_an_open_file_stays(store: Store, bucket: Ino) -> None:
    ino, _ = store.tree.create(bucket, b"f", 0o644, 0, MOUNT)
    with pytest.raises(BucketNotEmpty):
        store.objects.delete_bucket(b"bucket")
    assert store.objects.list(bucket).objects == []
    assert store.tree.inode(ino).nlink == 1


def finish(steps: Generator[None, None, Added]) -> Added:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Added = end.value
            return found


def upload(store: Store, bucket: Ino, parts: list[bytes]) -> str:
    made = store.uploads.create(bucket, b"d/k", ObjectInfo(metadata={"m": "n"}))
    for number, data in enumerate(parts, 1):
        store.uploads.put_part(bucket, b"d/k", made, number, body(store, bucket, data), f"e{number}")
    return made


@pytest.mark.parametrize("sizes", [[2 * BLOCK_BYTES, BLOCK_BYTES, 7], [5, BLOCK_BYTES, 3], [0, 3 * BLOCK_BYTES], [0]])
def test_parts_are_put_together(store: Store, bucket: Ino, sizes: list[int]) -> None:
    parts = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    made = upload(store, bucket, parts)
    before = store.core.blocks.end
    named = [(number, f"e{number}") for number in range(1, len(parts) + 1)]
    added = finish(store.uploads.complete(bucket, b"d/k", made, named, S3, etag="m-3"))
    item = store.objects.current(bucket, b"d/k")
    assert read(store, item) == b"".join(parts)
    assert item.content == body(store, bucket, b"".join(parts)), "equal bytes, equal manifest"
    assert (item.etag, item.info.metadata, item.version_id) == ("m-3", {"m": "n"}, added.version_id)
    assert [part.size for part in item.info.parts] == sizes
    if sizes[0] % BLOCK_BYTES == 0:
        assert store.core.blocks.end.offset - before.offset < BLOCK_BYTES, "no content was stored again"
    with pytest.raises(NoSuchUpload):
        store.uploads.find(bucket, b"d/k", made)
    assert store.core.catalog.count("parts") == 0
    again = store.uploads.completed(bucket, b"d/k", made)
    assert again == item, "for who asks again"
    assert store.uploads.completed(bucket, b"d/k", "") is None
    store.objects.purge(bucket, b"d/k", added.version_id or "", S3)
    assert store.uploads.completed(bucket, b"d/k", made) is None


def test_parts_that_are_not_there(store: Store, bucket: Ino) -> None:
    made = upload(store, bucket, [b"one", b"two"])
    for wanted in ([], [(3, "e3")], [(1, "other")], [(2, "e2"), (1, "e1")], [(1, "e1"), (1, "e1")], [(70_000, "")]):
        with pytest.raises(InvalidPart):
            finish(store.uploads.complete(bucket, b"d/k", made, wanted, S3, etag="m"))
    with pytest.raises(InvalidPart):
        store.uploads.put_part(bucket, b"d/k", made, 0, body(store, bucket, b""), "")
    for wrong in ("", "x", made[:-1] + "0", made.upper()):
        with pytest.raises(NoSuchUpload):
            store.uploads.find(bucket, b"d/k", wrong if wrong != made else "y")
    with pytest.raises(NoSuchUpload):
        store.uploads.find(bucket, b"other", made)
    page = store.uploads.parts(bucket, b"d/k", made, limit=1)
    assert ([number for number, _ in page.parts], page.truncated, page.next) == ([1], True, 1)
    page = store.uploads.parts(bucket, b"d/k", made, after=1, limit=1)
    assert ([number for number, _ in page.parts], page.truncated) == ([2], False)
    store.uploads.abort(bucket, b"d/k", made)


def test_listing_uploads(store: Store, bucket: Ino) -> None:
    keys = [b"b", b"a/x", b"a/y", b"b", b"c"]
    ids = [store.uploads.create(bucket, key, ObjectInfo()) for key in keys]
    wanted = [(keys[at], ids[at]) for at in (1, 2, 0, 3, 4)]
    found: list[tuple[bytes, str]] = []
    key, upload_id = b"", ""
    while True:
        page = store.uploads.list(bucket, key_marker=key, upload_id_marker=upload_id, limit=2)
        found += [(named.upload.key, named.id) for named in page.uploads]
        if not page.truncated:
            break
        key, upload_id = page.next_key, page.next_id
    assert found == wanted
    page = store.uploads.list(bucket, delimiter=b"/", limit=2)
    assert (page.prefixes, [named.upload.key for named in page.uploads], page.truncated) == ([b"a/"], [b"b"], True)
    page = store.uploads.list(bucket, delimiter=b"/", key_marker=b"a/")
    assert (page.prefixes, len(page.uploads)) == ([], 3)


def test_a_collection_keeps_parts_and_content_in_the_making(store: Store, bucket: Ino) -> None:
    made = upload(store, bucket, [b"part" * 50_000])
    copy = store.objects.begin_content(bucket)
    copy.write(0, b"body" * 50_000)
    content = copy.seal()
    gc.run(store)
    store.objects.put(bucket, b"k", content, ObjectInfo(), S3)
    store.objects.end_content(copy)
    finish(store.uploads.complete(bucket, b"d/k", made, [(1, "e1")], S3, etag="m-1"))
    gc.run(store)
    assert read(store, store.objects.current(bucket, b"k")) == b"body" * 50_000
    assert read(store, store.objects.current(bucket, b"d/k")) == b"part" * 50_000


def test_a_range_of_an_object_is_appended_without_copying_where_blocks_fit(store: Store, bucket: Ino) -> None:
    data = b"".join(bytes([number]) * BLOCK_BYTES for number in range(4)) + b"tail"
    source = body(store, bucket, data)
    for offset, length in ((0, None), (BLOCK_BYTES, 2 * BLOCK_BYTES), (3, 10), (BLOCK_BYTES, None), (5, BLOCK_BYTES)):
        copy = store.objects.begin_content(bucket)
        for _ in store.objects.append(copy, source, offset=offset, length=length):
            pass
        end = len(data) if length is None else offset + length
        assert copy.read(0, copy.size) == data[offset:end]
        assert copy.seal() == body(store, bucket, data[offset:end])
        store.objects.end_content(copy)


def test_900_and_500_versions(store: Store, bucket: Ino) -> None:
    """The example of OSS's document: pages of 1,000, by key, then newest first."""
    ids = {
        key: [put(store, bucket, key).version_id for _ in range(number)] for key, number in ((b"a", 900), (b"b", 500))
    }
    page = store.objects.list_versions(bucket)
    assert [item.version_id for item in page.objects] == ids[b"a"][::-1] + ids[b"b"][:-101:-1]
    assert (page.truncated, page.next, page.next_version) == (True, b"b", ids[b"b"][400])
    page = store.objects.list_versions(bucket, key_marker=page.next, version_id_marker=page.next_version)
    assert [item.version_id for item in page.objects] == ids[b"b"][399::-1]
    assert not page.truncated


def test_the_record_of_a_directory_is_no_version(store: Store, bucket: Ino) -> None:
    put(store, bucket, b"d/k")
    key = store.core.catalog.key(bucket, b"d/")
    assert key is not None
    seq, _ = next(store.core.catalog.versions(key))
    with pytest.raises(NotPermitted):
        store.history.purge(key, seq, S3)


@pytest.mark.parametrize("state", State)
def test_a_delete_and_the_directories_that_go_with_it_are_one_event(tmp_path: Path, state: State) -> None:
    """So that a crash cannot leave them empty."""
    store = Store.open(tmp_path / "store")
    bucket = store.create_bucket(b"bucket", uid=3, gid=4, state=State(min(state, State.ENABLED)))
    store.set_versioning(bucket, state)
    put(store, bucket, b"a/b/c")
    before = store.events_made
    deleted = store.objects.delete(bucket, b"a/b/c", S3)
    assert store.events_made == before + 1
    assert [change.name for change in deleted.changed] == [b"c", b"b", b"a"]
    assert listed(store, bucket) == []
    if deleted.version_id is not None:
        store.objects.purge(bucket, b"a/b/c", deleted.version_id, S3)
    if state is State.ENABLED:
        assert listed(store, bucket) == [b"a"]
        for item in list(store.objects.versions(bucket, b"a/b/c")):
            before = store.events_made
            purged = store.objects.purge(bucket, b"a/b/c", item.version_id, S3)
            assert store.events_made == before + 1
            assert [change.name for change in purged.changed] == [b"c", b"b", b"a"]
    assert listed(store, bucket) == []
    store.objects.delete_bucket(b"bucket")
    store.close()


def test_a_file_shows_when_the_directory_that_hid_it_goes(store: Store, bucket: Ino) -> None:
    put(store, bucket, b"a")
    put(store, bucket, b"a/b")
    file = store.core.catalog.entry(bucket, b"a")
    directory = store.tree.find(bucket, b"a")
    for change in (
        store.objects.delete(bucket, b"a/b", S3).changed[-1],
        store.objects.purge(bucket, b"a/b", put(store, bucket, b"a/b").version_id or "", S3).changed[-1],
    ):
        assert (change.name, change.before, change.after) == (b"a", directory, file)
    assert store.tree.find(bucket, b"a") == file


def test_a_version_is_purged_on_a_full_disk_wherever_the_history_of_its_key_lies(tmp_path: Path) -> None:
    """Also where that is first gathered in one directory: which is an event before."""
    disk = SimDisk()
    store = Store.open(tmp_path / "store", disk=disk)
    bucket = store.create_bucket(b"bucket", uid=3, gid=4, state=State.ENABLED)
    put(store, bucket, b"a/b", b"first")
    store.objects.delete(bucket, b"a/b", S3)
    store.tree.mkdir(bucket, b"a", 0o700, 9, Writer(9, 9, "other"))  # another one
    put(store, bucket, b"a/b", b"second")
    last = store.objects.delete(bucket, b"a/b", S3).version_id
    store.tree.rmdir(bucket, b"a", Writer(9, 9, "other"))
    assert last is not None
    disk.fault = fail_reserving
    for size in (60_000, 1):
        while True:
            try:
                put(store, bucket, b"c", metadata={"x": "y" * size})
            except NoSpace:
                break
    operations = []
    commit = store.core.commit

    def told(operation: str, changes: list[Change]) -> None:
        commit(operation, changes)
        operations.append(operation)

    store.core.commit = told  # type: ignore[method-assign]
    store.objects.purge(bucket, b"a/b", last, S3)
    assert operations == ["gather", "purge"]
    assert read(store, store.objects.current(bucket, b"a/b")) == b"second"
    disk.fault = no_fault
    store.close()


def fail_reserving(call: str, path: str) -> None:
    """A disk that has only the room that was set aside."""
    if call in ("reserve", "create"):
        raise NoSpace(f"simulated: no room for {path}")


def test_nothing_is_made_in_a_bucket_that_went(store: Store, bucket: Ino) -> None:
    """While a body came in, say. An upload there would be nobody's, and its parts kept for ever."""
    upload = store.uploads.create(bucket, b"k", ObjectInfo())
    content = body(store, bucket, b"x")
    store.objects.delete_bucket(b"bucket")
    before = store.events_made
    for refused in (
        lambda: store.objects.put(bucket, b"k", content, ObjectInfo(), S3),
        lambda: store.objects.put(bucket, b"a/k", content, ObjectInfo(), S3),
        lambda: store.objects.delete(bucket, b"k", S3),
        lambda: store.uploads.create(bucket, b"k", ObjectInfo()),
    ):
        with pytest.raises(NoSuchKey):
            refused()
    with pytest.raises(NoSuchUpload):
        store.uploads.put_part(bucket, b"k", upload, 1, content, "e")
    assert store.events_made == before
    assert list(store.core.catalog.every_upload()) == []


@pytest.mark.parametrize("again", [False, True])
def test_a_part_goes_while_others_before_it_are_put_together(store: Store, bucket: Ino, again: bool) -> None:
    """With its upload, or because it is uploaded again: its blocks may be collected at once, which is no damage."""
    made = upload(store, bucket, [b"first", b"second", b"third"])
    steps = store.uploads.complete(bucket, b"d/k", made, [(1, "e1"), (2, "e2"), (3, "e3")], S3, etag="m-3")
    next(steps)
    if again:
        store.uploads.put_part(bucket, b"d/k", made, 2, body(store, bucket, b"another"), "e2")
    else:
        store.uploads.abort(bucket, b"d/k", made)
    gc.run(store)
    with pytest.raises(InvalidPart if again else NoSuchUpload):
        finish(steps)


def test_a_part_is_uploaded_again_after_it_was_put_together(store: Store, bucket: Ino) -> None:
    """With the same ETag, as of a client that tries again: the object must not have a part that is no longer one."""
    made = upload(store, bucket, [b"first", b"second"])
    steps = store.uploads.complete(bucket, b"d/k", made, [(1, "e1"), (2, "e2")], S3, etag="m-2")
    next(steps)
    store.uploads.put_part(bucket, b"d/k", made, 1, body(store, bucket, b"another"), "e1")
    with pytest.raises(InvalidPart):
        finish(steps)
    with pytest.raises(NoSuchKey):
        store.objects.current(bucket, b"d/k")
    finish(store.uploads.complete(bucket, b"d/k", made, [(1, "e1"), (2, "e2")], S3, etag="m-2"))
    assert read(store, store.objects.current(bucket, b"d/k")) == b"anothersecond"


def test_a_completion_has_conditions_too(store: Store, bucket: Ino) -> None:
    made = upload(store, bucket, [b"part"])
    put(store, bucket, b"d/k", b"there", etag="e")
    for condition in (Condition(if_none_match=("*",)), Condition(if_match=("other",))):
        with pytest.raises(ConditionFailed):
            finish(store.uploads.complete(bucket, b"d/k", made, [(1, "e1")], S3, etag="m", condition=condition))
    assert read(store, store.objects.current(bucket, b"d/k")) == b"there"
    condition = Condition(if_match=("e",))
    finish(store.uploads.complete(bucket, b"d/k", made, [(1, "e1")], S3, etag="m", condition=condition))
    assert read(store, store.objects.current(bucket, b"d/k")) == b"part"
