"""Who put a file where another one stood: the cases by name, and what earlier vfs wrote."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from tests.unit.test_tree import LIST
from vfs import acl, events
from vfs.check import check
from vfs.expiring import WRITER as LIFECYCLE
from vfs.model import NO_INFO, NOBODY, NOBODY_UID, Ino, KeyId, Kind, Rights, Seq, State, Writer
from vfs.rights import rights_of
from vfs.s3.call import Call
from vfs.store import Store

ANN, BEN, ROOT = Writer(1000, 2, "ann"), Writer(1001, 3, "ben"), Writer(0, 4, "root")
S3 = Writer(NOBODY_UID, 0, "s3:key")
CLOSED = Rights(1000, 1000, 0o600)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    ticks = count(1_800_000_000_000_000_000, 1_000_000)
    opened = Store.open(tmp_path / "store", clock=lambda: next(ticks))
    yield opened
    if opened.core.failed == "":
        opened.abandon()


@pytest.fixture
def bucket(store: Store) -> Ino:
    return store.create_bucket(b"bucket", uid=1000, gid=1000)


def write(store: Store, parent: Ino, name: bytes, mode: int, writer: Writer = ANN) -> Ino:
    ino = store.tree.create(parent, name, mode, writer.uid, writer)[0]
    handle = store.files.open(ino, writer, created=True)
    store.files.write(handle, 0, name)
    store.files.flush(handle)
    store.files.release(handle)
    return ino


def rights(store: Store, parent: Ino, name: bytes) -> list[Rights]:
    """Of each version, newest first: those that hold beside the key's."""
    key = store.core.catalog.key(parent, name)
    assert key is not None
    return [store.history.version_rights(key, seq, version) for seq, version in list(store.core.catalog.versions(key))]


def moved(store: Store, bucket: Ino, by: Writer) -> None:
    write(store, bucket, b"n", 0o644)
    store.tree.rename(bucket, b"n", bucket, b"s", by)


def removed_and_moved(store: Store, bucket: Ino, by: Writer) -> None:
    store.tree.unlink(bucket, b"s", by)
    moved(store, bucket, by)


def linked(store: Store, bucket: Ino, by: Writer) -> None:
    store.tree.unlink(bucket, b"s", by)
    store.tree.link(write(store, bucket, b"n", 0o644), bucket, b"s", by)


def exchanged(store: Store, bucket: Ino, by: Writer) -> None:
    write(store, bucket, b"n", 0o644)
    store.tree.exchange(bucket, b"n", bucket, b"s", by)


def moved_while_open(store: Store, bucket: Ino, by: Writer) -> None:
    """Its owner, who is still writing to it, makes its first version at a name where somebody else has put it."""
    ino = store.tree.create(bucket, b"n", 0o644, 1000, ANN)[0]
    handle = store.files.open(ino, ANN, created=True)
    store.files.write(handle, 0, b"x")
    store.tree.rename(bucket, b"n", bucket, b"s", by)
    assert rights(store, bucket, b"s")[-1] == (Rights(1000, 1000, 0o644) if by.uid != 1001 else CLOSED)
    store.files.release(handle)


WAYS = [moved, removed_and_moved, linked, exchanged, moved_while_open]


@pytest.mark.parametrize("by", [ANN, BEN, ROOT], ids=lambda writer: writer.program)
@pytest.mark.parametrize("way", WAYS)
def test_who_puts_another_file_of_the_same_owner_there(
    store: Store, bucket: Ino, way: Callable[[Store, Ino, Writer], None], by: Writer
) -> None:
    write(store, bucket, b"s", 0o600)
    way(store, bucket, by)
    found = rights(store, bucket, b"s")
    assert found[0] == Rights(1000, 1000, 0o644)
    assert found[-1] == (CLOSED if by is BEN else found[0])


def test_root_opens_nothing_of_another_owner(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"s", 0o600)
    write(store, bucket, b"n", 0o644, BEN)
    store.tree.rename(bucket, b"n", bucket, b"s", ROOT)
    assert rights(store, bucket, b"s")[-1] == CLOSED


def put(store: Store, bucket: Ino, name: bytes, writer: Writer) -> None:
    copy = store.objects.begin_content(bucket)
    copy.write(0, b"put")
    store.objects.put(bucket, name, copy.seal(), NO_INFO, writer)
    store.objects.end_content(copy)


@pytest.mark.parametrize("owner", [0, 1000])
@pytest.mark.parametrize("by", [S3, NOBODY])
def test_nobody_opens_nothing(store: Store, owner: int, by: Writer) -> None:
    """What S3 puts belongs to whom the bucket belongs to, be it root: that is not who put it there."""
    bucket = store.create_bucket(b"other", uid=owner, gid=owner)
    write(store, bucket, b"s", 0o600, ROOT if owner == 0 else ANN)
    store.tree.unlink(bucket, b"s", ROOT)
    put(store, bucket, b"s", by)
    assert rights(store, bucket, b"s")[0] == Rights(owner, owner, 0o644)
    assert rights(store, bucket, b"s")[-1] == Rights(owner, owner, 0o600)


def test_what_nobody_puts_over_a_program_has_no_privileges(store: Store, bucket: Ino) -> None:
    ino = write(store, bucket, b"s", 0o4755, ROOT)
    store.tree.set_attribute(ino, b"security.capability", b"x")
    put(store, bucket, b"s", S3)
    ino = store.tree.lookup(bucket, b"s")[0]
    assert stat.S_IMODE(store.tree.inode(ino).mode) == 0o755
    assert store.tree.list_attributes(ino) == []


@pytest.mark.parametrize("by", [ANN, ROOT, S3])
def test_a_purge_in_between_opens_nothing(store: Store, bucket: Ino, by: Writer) -> None:
    write(store, bucket, b"s", 0o600)
    moved(store, bucket, BEN)  # which says nothing about it
    moved(store, bucket, ANN)  # which says something about that one
    key = store.core.catalog.key(bucket, b"s")
    assert key is not None
    _, between, _ = [seq for seq, _ in store.core.catalog.versions(key)]
    store.history.purge(key, between, by)
    assert [found.mode for found in rights(store, bucket, b"s")] == [0o644, 0o600]
    store.history.purge(key, store.history.current(key) or Seq(0), by)
    assert store.tree.lookup(bucket, b"s")[1].mode & 0o777 == 0o600, "and comes back with its own"


def test_a_null_version_in_between_that_is_replaced_opens_nothing(store: Store, bucket: Ino) -> None:

    write(store, bucket, b"s", 0o600)
    store.set_versioning(bucket, State.SUSPENDED)
    moved(store, bucket, BEN)
    for _ in range(3):
        moved(store, bucket, ANN)
        assert [found.mode for found in rights(store, bucket, b"s")] == [0o644, 0o600]


@pytest.mark.parametrize("how", ["deleted by a lifecycle", "written by the group"])
def test_a_null_version_that_goes_takes_nothing_along(store: Store, bucket: Ino, how: str) -> None:
    """Who puts the next one in its place did not put its file there."""
    write(store, bucket, b"s", 0o640)
    store.set_versioning(bucket, State.SUSPENDED)
    moved(store, bucket, ANN)
    if how == "written by the group":
        handle = store.files.open(store.tree.lookup(bucket, b"s")[0], BEN)
        store.files.write(handle, 0, b"x")
        store.files.flush(handle)
        store.files.release(handle)
    else:
        store.objects.delete(bucket, b"s", LIFECYCLE)
        write(store, bucket, b"s", 0o644)
    assert [found.mode for found in rights(store, bucket, b"s")][-1] == 0o644, "Ann says who may read what was hers"


def test_a_store_with_rights_of_its_own_is_whole(store: Store, bucket: Ino, tmp_path: Path) -> None:
    write(store, bucket, b"s", 0o600)
    moved(store, bucket, BEN)
    store.close()
    assert check(tmp_path / "store", lambda problem: pytest.fail(str(problem)), lambda what, done, total: None)
    again = Store.open(tmp_path / "store")
    assert rights(again, bucket, b"s") == [Rights(1000, 1000, 0o644), CLOSED]
    again.abandon()


def test_what_was_displaced_and_comes_back_opens_nothing(store: Store, bucket: Ino) -> None:
    """Its owner wrote to it, and did not put it where it is."""
    ino = write(store, bucket, b"s", 0o644)
    handle = store.files.open(ino, ANN)
    put(store, bucket, b"s", S3)
    live = store.tree.lookup(bucket, b"s")[0]
    assert live != ino
    store.tree.set_attributes(live, mode=0o600)
    store.tree.unlink(bucket, b"s", ANN)
    store.files.write(handle, 0, b"later")
    store.files.flush(handle)
    store.files.release(handle)
    marker, returned, *others = rights(store, bucket, b"s")
    assert (marker.mode, returned.mode) == (0o600, 0o600), "as closed as the key was, since"
    assert {found.mode for found in others} == {0o600}, "what was closed stays so, and what came before it"


def modes(store: Store, bucket: Ino) -> list[int]:
    return [found.mode for found in rights(store, bucket, b"s")]


def again(store: Store, bucket: Ino, by: Writer, name: bytes = b"s") -> None:
    """One more version of a file."""
    handle = store.files.open(store.tree.lookup(bucket, name)[0], by)
    store.files.write(handle, 0, b"again")
    store.files.flush(handle)
    store.files.release(handle)


def purge(store: Store, bucket: Ino, at: int, by: Writer = ROOT) -> None:
    """The version at a place, newest first."""
    key = store.core.catalog.key(bucket, b"s")
    assert key is not None
    store.history.purge(key, [seq for seq, _ in store.core.catalog.versions(key)][at], by)


def chmod(store: Store, bucket: Ino, mode: int) -> None:
    store.tree.set_attributes(store.tree.lookup(bucket, b"s")[0], mode=mode)


@pytest.mark.parametrize("way", [moved, moved_while_open])
def test_the_last_version_before_something_was_put_there_goes(
    store: Store, bucket: Ino, way: Callable[[Store, Ino, Writer], None]
) -> None:
    write(store, bucket, b"s", 0o600)
    again(store, bucket, ANN)
    way(store, bucket, BEN)
    purge(store, bucket, 1)
    assert modes(store, bucket) == [0o644, 0o600]


def test_the_first_version_of_what_was_put_there_goes(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"s", 0o640)
    moved(store, bucket, ANN)
    again(store, bucket, BEN)
    purge(store, bucket, 1)
    assert modes(store, bucket) == [0o644, 0o644], "Ben wrote, Ann put it there"


def test_what_is_closed_stays_as_it_was_closed(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"s", 0o600)
    moved_while_open(store, bucket, BEN)
    purge(store, bucket, 0)
    store.tree.create(bucket, b"o", 0o666, 1000, ANN)
    store.files.open(store.tree.lookup(bucket, b"o")[0], ANN, created=True)
    store.tree.rename(bucket, b"o", bucket, b"s", BEN)
    store.tree.create(bucket, b"p", 0o666, 1000, ANN)
    store.files.open(store.tree.lookup(bucket, b"p")[0], ANN, created=True)
    store.tree.rename(bucket, b"p", bucket, b"s", BEN)
    assert modes(store, bucket) == [0o600]


def test_what_comes_back_to_its_name_has_its_history(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"s", 0o640)
    moved(store, bucket, ANN)
    store.tree.rename(bucket, b"s", bucket, b"t", BEN)
    store.tree.rename(bucket, b"t", bucket, b"s", BEN)
    chmod(store, bucket, 0o604)
    assert set(modes(store, bucket)) == {0o604}


@pytest.mark.parametrize("by", [ANN, ROOT])
def test_a_symlink_says_nothing_about_a_file_and_a_file_all_about_a_symlink(
    store: Store, bucket: Ino, by: Writer
) -> None:
    write(store, bucket, b"s", 0o600)
    store.tree.symlink(bucket, b"n", b"target", 1000, ANN)
    store.tree.rename(bucket, b"n", bucket, b"s", by)
    assert modes(store, bucket) == [0o777, 0o600]
    moved(store, bucket, by)
    assert modes(store, bucket) == [0o644, 0o644, 0o600]


def test_what_is_closed_keeps_its_list(store: Store, bucket: Ino) -> None:
    """Without it the bits of the group, which bound the list, would be the group's."""
    ino = write(store, bucket, b"s", 0o600)
    store.tree.set_acl(ino, acl.ACCESS, acl.encode(LIST), keep_setgid=True)
    closed = rights_of(store.tree.inode(ino))
    assert closed.acl
    moved(store, bucket, BEN)
    assert rights(store, bucket, b"s")[-1] == closed
    purge(store, bucket, 0)
    assert rights_of(store.tree.lookup(bucket, b"s")[1]) == closed


def test_a_file_decides_about_its_own_versions(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"s", 0o600)
    write(store, bucket, b"n", 0o666, BEN)
    store.tree.exchange(bucket, b"n", bucket, b"s", BEN)
    store.tree.exchange(bucket, b"n", bucket, b"s", BEN)
    chmod(store, bucket, 0o604)
    assert modes(store, bucket) == [0o604, 0o666, 0o604]


def test_a_key_of_s3_is_nobody() -> None:
    call = SimpleNamespace(who=SimpleNamespace(id="key"))
    assert Call.writer.fget(call) == Writer(NOBODY_UID, 0, "s3:key")  # type: ignore[attr-defined]
    assert LIFECYCLE.uid == NOBODY.uid == NOBODY_UID


def test_what_is_current_again_decides_again(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"s", 0o600)
    again(store, bucket, ANN)
    moved(store, bucket, BEN)
    purge(store, bucket, 0)
    assert modes(store, bucket) == [0o600, 0o600]
    chmod(store, bucket, 0o604)
    assert modes(store, bucket) == [0o604, 0o604]
    again(store, bucket, BEN)
    assert modes(store, bucket) == [0o604, 0o604, 0o604]


def test_a_chown_does_not_change_who_put_it_there(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"s", 0o600, BEN)
    write(store, bucket, b"n", 0o640, BEN)
    store.tree.rename(bucket, b"n", bucket, b"s", BEN)
    store.tree.set_attributes(store.tree.lookup(bucket, b"s")[0], uid=1000)
    moved(store, bucket, ANN)
    assert [found.uid for found in rights(store, bucket, b"s")] == [1000, 1000, 1000]
    store.tree.unlink(bucket, b"s", ANN)
    ino = store.tree.create(bucket, b"s", 0o644, 1000, ANN)[0]
    handle = store.files.open(ino, ANN, created=True)
    for _ in range(3):  # down to what was Ben's
        purge(store, bucket, 0)
    store.files.flush(handle)
    store.files.release(handle)
    assert [(found.uid, found.mode) for found in rights(store, bucket, b"s")] == [(1000, 0o644)] * 2


def test_what_was_displaced_is_closed_below_what_lives(store: Store, bucket: Ino) -> None:
    ino = write(store, bucket, b"s", 0o600)
    handle = store.files.open(ino, ANN)
    fifo = store.tree.mknod(bucket, b"p", stat.S_IFIFO | 0o644, 0, 1000, ANN)[0]
    store.history.restore(store.tree.inode(fifo).seq, bucket, b"s", ANN)
    chmod(store, bucket, 0o644)
    store.files.write(handle, 0, b"later")
    store.files.flush(handle)
    store.files.release(handle)
    assert modes(store, bucket)[:2] == [0o644, 0o600]


def test_what_was_displaced_takes_its_name_again_by_nobody(store: Store, bucket: Ino) -> None:
    ino = write(store, bucket, b"s", 0o600)
    handle = store.files.open(ino, ANN)
    put(store, bucket, b"s", S3)
    store.files.write(handle, 0, b"later")
    store.files.flush(handle)
    store.files.release(handle)
    chmod(store, bucket, 0o644)
    assert modes(store, bucket)[:2] == [0o644, 0o600]


# -- what earlier vfs wrote -------------------------------------------------------------------------------------------


def earlier(store: Store, bucket: Ino, by: Writer) -> KeyId:
    """A key as an earlier vfs left it after `mv n s`: it tells who did that, and nothing else."""
    write(store, bucket, b"s", 0o600)
    moved(store, bucket, ANN)
    key = store.core.catalog.key(bucket, b"s")
    assert key is not None
    changes: list[events.Change] = []
    for seq, version in store.core.catalog.versions(key):
        plain = msgspec.structs.replace(version, rights=None, judged=False)
        if version.ino == store.tree.lookup(bucket, b"s")[0]:
            plain = msgspec.structs.replace(plain, writer=by)
        store.core.replace_version(changes, key, seq, plain, bucket)
    store.core.commit("test", changes)
    return key


@pytest.mark.parametrize(
    ("by", "opens"),
    [(ANN, True), (ROOT, True), (BEN, False), (Writer(0, 0, "s3:key"), False), (Writer(0, 0, "lifecycle"), False)],
)
def test_who_wrote_a_version_is_taken_for_who_put_it_there(store: Store, bucket: Ino, by: Writer, opens: bool) -> None:
    key = earlier(store, bucket, by)
    for _ in range(2):
        assert rights(store, bucket, b"s")[-1].mode == (0o644 if opens else 0o600)
        moved(store, bucket, ANN)  # as it says of what comes then
    between = [seq for seq, _ in store.core.catalog.versions(key)][1:-1]
    for seq in between:
        store.history.purge(key, seq, ROOT)
    assert rights(store, bucket, b"s")[-1].mode == (0o644 if opens else 0o600), "also when what lay between is purged"


def test_a_group_may_write_first(store: Store, bucket: Ino) -> None:
    """Who writes to a file before it has a version did not put it there."""
    write(store, bucket, b"s", 0o600)
    store.tree.unlink(bucket, b"s", ANN)
    ino = store.tree.create(bucket, b"s", 0o664, 1000, ANN)[0]
    handle = store.files.open(ino, BEN)
    store.files.write(handle, 0, b"x")
    store.files.flush(handle)
    store.files.release(handle)
    assert {found.mode for found in rights(store, bucket, b"s")} == {0o664}
    key = store.core.catalog.key(bucket, b"s")
    assert key is not None
    marker = next(seq for seq, version in store.core.catalog.versions(key) if version.kind is Kind.MARKER)
    store.history.purge(key, marker, ANN)
    assert {found.mode for found in rights(store, bucket, b"s")} == {0o664}


@pytest.mark.parametrize(("directory", "mode", "wanted"), [(0o700, 0o644, 0o600), (0o755, 0o600, 0o600)])
def test_history_that_is_gathered_is_no_easier_to_read(
    store: Store, bucket: Ino, directory: int, mode: int, wanted: int
) -> None:
    """A purge through S3 moves what stood in a directory of Ann's into one of Ben's that stood at its place."""
    store.tree.set_attributes(bucket, mode=0o777)
    for who, way, bits in ((ANN, directory, mode), (BEN, 0o755, 0o644)):
        ino, _ = store.tree.mkdir(bucket, b"d", way, 0, who)
        write(store, ino, b"f", bits, who)
        store.tree.unlink(ino, b"f", who)
        store.tree.rmdir(bucket, b"d", who)
    newest = next(store.objects.versions(bucket, b"d/f"))
    store.objects.purge(bucket, b"d/f", newest.version_id, S3)
    [place] = {store.core.catalog.key_name(one.key_id).parent for one in store.objects.versions(bucket, b"d/f")}
    found = {right[:3] for right in rights(store, place, b"f") if right.uid == ANN.uid}
    assert {(uid, mode) for uid, _, mode in found} == {(ANN.uid, wanted)}


def test_of_null_versions_that_are_gathered_one_stays_null(store: Store, bucket: Ino, tmp_path: Path) -> None:
    """A key has no more than one; the others get the ids of when they were made, and stay."""
    store.tree.set_attributes(bucket, mode=0o777)
    for who in (ANN, BEN):
        ino, _ = store.tree.mkdir(bucket, b"d", 0o755, 0, who)
        if who is ANN:
            write(store, ino, b"f", 0o644, who)
            store.tree.unlink(ino, b"f", who)
            store.set_versioning(bucket, State.SUSPENDED)
        write(store, ino, b"f", 0o644, who)
        store.tree.unlink(ino, b"f", who)
        store.tree.rmdir(bucket, b"d", who)
    *stay, oldest = store.objects.versions(bucket, b"d/f")
    assert [one.version_id for one in stay].count("null") == len({one.key_id for one in stay}) == 2
    store.objects.purge(bucket, b"d/f", oldest.version_id, S3)
    found = list(store.objects.versions(bucket, b"d/f"))
    assert len({one.key_id for one in found}) == 1
    assert [one.seq for one in found] == [one.seq for one in stay]
    assert [one.version_id for one in found].count("null") == 1
    store.close()
    assert check(tmp_path / "store", lambda problem: pytest.fail(str(problem)), lambda what, done, total: None)
