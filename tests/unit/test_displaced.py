"""Files that lost their name while they were open, or while the disk was full: nothing is lost, and nothing opened."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.unit.test_tree import LIST
from vfs import acl, content
from vfs.errors import BucketNotEmpty, NoSpace, NoSuchInode
from vfs.model import NO_INFO, NOBODY_UID, Ino, Kind, State, Version, Writer
from vfs.store import Store

ANN = Writer(1000, 2, "ann")
S3 = Writer(NOBODY_UID, 0, "s3:key")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path)
    opened.create_bucket(b"bucket", uid=1000, gid=1000)
    yield opened
    opened.abandon()


def open_store(path: Path) -> Store:
    ticks = count(1_800_000_000_000_000_000, 1_000_000)
    return Store.open(path / "store", clock=lambda: next(ticks))


@pytest.fixture
def bucket(store: Store) -> Ino:
    return store.find_bucket(b"bucket")


def write(store: Store, parent: Ino, name: bytes, data: bytes, mode: int = 0o644) -> Ino:
    ino = store.tree.create(parent, name, mode, 1000, ANN)[0]
    handle = store.files.open(ino, ANN, created=True)
    store.files.write(handle, 0, data)
    store.files.flush(handle)
    store.files.release(handle)
    return ino


def put(store: Store, bucket: Ino, key: bytes, data: bytes) -> None:
    copy = store.objects.begin_content(bucket)
    copy.write(0, data)
    store.objects.put(bucket, key, copy.seal(), NO_INFO, S3)
    store.objects.end_content(copy)


def history(store: Store, parent: Ino, name: bytes) -> list[Version]:
    """Newest first."""
    key = store.core.catalog.key(parent, name)
    return [] if key is None else [version for _, version in store.core.catalog.versions(key)]


def text(store: Store, version: Version) -> bytes | None:
    if version.kind is Kind.MARKER:
        return None
    copy = store.files.open_version(version.content)
    try:
        return copy.read(0, version.content.size)
    finally:
        store.files.close_version(copy)


def full(_: object) -> None:
    raise NoSpace("full")


@pytest.mark.parametrize("first", ["write", "rmdir"])
def test_a_directory_stays_known_while_something_open_was_displaced_from_it(
    store: Store, bucket: Ino, first: str
) -> None:
    directory, _ = store.tree.mkdir(bucket, b"d", 0o755, 1000, ANN)
    handle = store.files.open(write(store, directory, b"f", b"one"), ANN)
    key = store.core.catalog.key(directory, b"f")
    assert key is not None
    store.history.purge(key, store.core.catalog.peek(handle.ino).seq, ANN)
    if first == "rmdir":
        store.tree.rmdir(bucket, b"d", ANN)
    store.files.write(handle, 3, b", and more")
    store.files.flush(handle)
    if first == "write":
        store.tree.rmdir(bucket, b"d", ANN)
    store.files.release(handle)
    assert [text(store, version) for version in history(store, directory, b"f")] == [None, b"one, and more"]


def test_a_directory_goes_with_the_last_that_was_displaced_from_it(store: Store, bucket: Ino) -> None:
    directory, _ = store.tree.mkdir(bucket, b"d", 0o755, 1000, ANN)
    handle = store.files.open(write(store, directory, b"f", b"one"), ANN)
    key = store.core.catalog.key(directory, b"f")
    assert key is not None
    store.history.purge(key, store.core.catalog.peek(handle.ino).seq, ANN)
    store.tree.rmdir(bucket, b"d", ANN)
    assert store.core.catalog.peek(directory).nlink == 0
    store.files.release(handle)
    with pytest.raises(NoSuchInode):
        store.core.catalog.peek(directory)


def test_a_directory_stays_known_until_all_that_was_displaced_from_it_is_closed(store: Store, bucket: Ino) -> None:
    directory, _ = store.tree.mkdir(bucket, b"d", 0o755, 1000, ANN)
    handles = []
    for name in (b"f", b"g"):
        handles.append(store.files.open(write(store, directory, name, b"one"), ANN))
        key = store.core.catalog.key(directory, name)
        assert key is not None
        store.history.purge(key, store.core.catalog.peek(handles[-1].ino).seq, ANN)
    store.tree.rmdir(bucket, b"d", ANN)
    store.files.release(handles[0])
    store.files.write(handles[1], 3, b", and more")
    store.files.flush(handles[1])
    store.files.release(handles[1])
    assert [text(store, version) for version in history(store, directory, b"g")] == [None, b"one, and more"]


def test_what_is_written_after_a_file_was_given_to_another_group_is_that_groups(store: Store, bucket: Ino) -> None:
    """And its list of who may read it is that which it had then."""
    handle = store.files.open(write(store, bucket, b"f", b"one", 0o640), ANN)
    put(store, bucket, b"f", b"put")
    ino, _ = store.tree.lookup(bucket, b"f")
    store.tree.set_attributes(ino, gid=2000)
    store.tree.set_acl(ino, acl.ACCESS, acl.encode(LIST), keep_setgid=True)
    inode = store.tree.inode(ino)
    store.tree.unlink(bucket, b"f", ANN)
    store.files.write(handle, 3, b", SECRET")
    store.files.flush(handle)
    store.files.release(handle)
    marker, later, *_ = history(store, bucket, b"f")
    assert text(store, later) == b"one, SECRET"
    assert {(one.gid, one.acl) for one in (marker, later)} == {(2000, inode.acl)}


def test_s3_sees_what_was_promised_of_a_displaced_file(store: Store, bucket: Ino) -> None:
    handle = store.files.open(write(store, bucket, b"f", b"one"), ANN)
    put(store, bucket, b"f", b"put")
    store.files.write(handle, 3, b", promised")
    store.files.flush(handle)
    assert text(store, store.objects.current(bucket, b"f").version) == b"one, promised"
    store.files.release(handle)
    assert [text(store, version) for version in history(store, bucket, b"f")] == [b"one, promised", b"put", b"one"]


def test_what_was_written_to_a_file_with_history_is_kept_when_s3_deletes_it(store: Store, bucket: Ino) -> None:
    handle = store.files.open(write(store, bucket, b"f", b"one"), ANN)
    store.files.write(handle, 3, b", open")
    store.objects.delete(bucket, b"f", S3)
    store.files.release(handle)
    assert [text(store, version) for version in history(store, bucket, b"f")] == [None, b"one, open", b"one"]


def test_a_purge_of_the_null_version_is_of_what_was_promised(store: Store) -> None:
    bucket = store.create_bucket(b"plain", uid=1000, gid=1000, state=State.UNVERSIONED)
    handle = store.files.open(write(store, bucket, b"f", b"one"), ANN)
    store.files.write(handle, 3, b", promised")
    store.files.flush(handle)
    store.objects.purge(bucket, b"f", "null", S3)
    assert history(store, bucket, b"f") == []
    store.files.release(handle)
    assert history(store, bucket, b"f") == []


@pytest.mark.parametrize("door", ["mount", "s3"])
def test_a_bucket_stays_for_what_was_promised_of_a_displaced_file(store: Store, bucket: Ino, door: str) -> None:
    handle = store.files.open(write(store, bucket, b"f", b"one"), ANN)
    store.objects.purge(bucket, b"f", store.objects.current(bucket, b"f").version_id, S3)
    store.files.write(handle, 3, b", promised")
    store.files.flush(handle)
    delete = store.delete_bucket if door == "mount" else store.objects.delete_bucket
    with pytest.raises(BucketNotEmpty):
        delete(b"bucket")
    assert [text(store, version) for version in history(store, bucket, b"f")] == [None, b"one, promised"]
    store.files.release(handle)


@pytest.mark.parametrize("gone", [False, True])
def test_what_no_draft_has_of_a_displaced_file_is_not_dropped_with_its_draft(
    tmp_path: Path, store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """The disk is so full that a recovery can publish what was closed, and not what was written since."""
    handle = store.files.open(write(store, bucket, b"f", b"one"), ANN)
    put(store, bucket, b"f", b"put")
    if gone:
        store.tree.unlink(bucket, b"f", ANN)
    store.files.write(handle, 3, b", closed")
    store.files.flush(handle)
    store.files.write(handle, 11, b", PRECIOUS")
    assert list(store.files.interims.make()) == []
    store.abandon()

    with monkeypatch.context() as patch:
        patch.setattr(content.WorkingCopy, "seal", full)
        again = open_store(tmp_path)
    told = [text(again, version) for version in history(again, bucket, b"f")]
    assert told[:2] == ([None, b"one, closed"] if gone else [b"one, closed", b"put"])
    again.files.publish_left()
    told = [text(again, version) for version in history(again, bucket, b"f")]
    assert told[:2] == ([None, b"one, closed, PRECIOUS"] if gone else [b"one, closed, PRECIOUS", b"one, closed"])
    again.close()


@pytest.mark.parametrize("then", ["unlink", "rename", "somebody else's"])
def test_what_is_written_after_a_file_was_closed_to_others_is_closed(store: Store, bucket: Ino, then: str) -> None:
    handle = store.files.open(write(store, bucket, b"f", b"one"), ANN)
    put(store, bucket, b"f", b"put")
    ino, _ = store.tree.lookup(bucket, b"f")
    store.tree.set_attributes(ino, mode=0o600)
    if then == "rename":
        store.tree.rename(bucket, b"f", bucket, b"f.1", ANN)
    else:
        store.tree.unlink(bucket, b"f", ANN)
    if then == "somebody else's":
        other = store.tree.create(bucket, b"f", 0o644, 1001, Writer(1001, 3, "ben"))[0]
        mine = store.files.open(other, Writer(1001, 3, "ben"), created=True)
        store.files.release(mine)
    store.files.write(handle, 3, b", SECRET")
    store.files.flush(handle)
    store.files.release(handle)
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    found = {
        text(store, version): stat.S_IMODE(store.history.version_rights(key, seq, version).mode)
        for seq, version in list(store.core.catalog.versions(key))
        if version.uid == ANN.uid and version.kind is Kind.CONTENT
    }
    assert found[b"one, SECRET"] == found[b"put"] == 0o600


@pytest.mark.parametrize("then", ["unlink", "rename", "put", "delete", "restore", "purge"])
def test_what_a_full_disk_left_unpublished_is_not_lost(
    store: Store, bucket: Ino, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Whatever is done to its name, before there is room again."""
    ino = write(store, bucket, b"f", b"old")
    write(store, bucket, b"n", b"new")
    handle = store.files.open(ino, ANN)
    store.files.write(handle, 3, b", PRECIOUS")
    assert list(store.files.interims.make()) == []
    store.abandon()

    with monkeypatch.context() as patch:
        patch.setattr(content.WorkingCopy, "seal", full)
        again = open_store(tmp_path)
        key = again.core.catalog.key(bucket, b"f")
        assert key is not None
        match then:
            case "unlink":
                again.tree.unlink(bucket, b"f", ANN)
            case "rename":
                again.tree.rename(bucket, b"n", bucket, b"f", ANN)
            case "delete":
                again.objects.delete(bucket, b"f", S3)
            case "purge":
                again.history.purge(key, again.core.catalog.peek(ino).seq, ANN)
            case "restore":
                again.history.restore(again.core.catalog.peek(ino).seq, bucket, b"f", ANN)
            case _:
                new = again.objects.version(bucket, b"n", again.objects.current(bucket, b"n").version_id)
                again.objects.put(bucket, b"f", new.content, NO_INFO, S3)
    again.files.publish_left()
    told = [text(again, version) for version in history(again, bucket, b"f")]
    assert b"old, PRECIOUS" in told
    if then in ("unlink", "delete"):
        assert told[0] is None, "nothing reappears"
    again.close()


def test_what_a_full_disk_left_unpublished_is_kept_by_an_unlink_though_it_is_open_again(
    store: Store, bucket: Ino, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = write(store, bucket, b"f", b"old")
    store.files.write(store.files.open(ino, ANN), 3, b", PRECIOUS")
    assert list(store.files.interims.make()) == []
    store.abandon()
    with monkeypatch.context() as patch:
        patch.setattr(content.WorkingCopy, "seal", full)
        again = open_store(tmp_path)
    reader = again.files.open(ino, ANN)
    again.tree.unlink(bucket, b"f", ANN)
    again.files.release(reader)
    assert [text(again, version) for version in history(again, bucket, b"f")] == [None, b"old, PRECIOUS", b"old"]
    again.close()
