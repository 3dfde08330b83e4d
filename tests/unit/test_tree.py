"""The live tree at the engine: what each operation refuses, and what it may not forget. The reference model tries them
in any order; here each rule is asked for alone, so that a failure shows near its cause.
"""

from __future__ import annotations

import stat

import pytest

from tests.unit.conftest import Clock
from tests.unit.test_catalog import save
from tests.unit.test_history import held, mkdir, remove_all
from tests.unit.test_objects import put
from vfs import acl, tree
from vfs.core import CAPABILITY
from vfs.errors import (
    AttributesFull,
    AttributeTooLarge,
    CrossBucket,
    DirectoryNotEmpty,
    Exists,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NoSuchAttribute,
    NoSuchKey,
    NotADirectory,
    NotPermitted,
    TooManyLinks,
    VfsError,
)
from vfs.history import Rights
from vfs.model import STORE_ROOT, Ino, Kind, LockMode, ObjectLock, Retention, State, Writer
from vfs.store import Store
from vfs.tree import ATTRIBUTE_BYTES_MAX, ATTRIBUTES_BYTES_MAX, LINKS_MAX, TARGET_BYTES_MAX

ROOT, ALICE, BOB = Writer(0, 1, "root"), Writer(1000, 2, "alice"), Writer(1001, 3, "bob")


def write(store: Store, parent: Ino, name: bytes, data: bytes, writer: Writer = ROOT, mode: int = 0o644) -> Ino:
    """A file by somebody, closed."""
    found = store.tree.find(parent, name)
    ino = store.tree.create(parent, name, mode, 0, writer)[0] if found is None else found
    handle = store.files.open(ino, writer, truncate=found is not None, created=found is None)
    store.files.write(handle, 0, data)
    store.files.flush(handle)
    store.files.release(handle)
    return ino


def unchanged(store: Store, error: type[VfsError], call: object) -> None:
    """A call that is refused, and changes nothing."""
    before = store.core.journal.end.number
    with pytest.raises(error):
        call()  # type: ignore[operator]
    assert store.core.journal.end.number == before


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["file", "directory", "symlink"])
def test_a_name_that_is_taken_stays(store: Store, bucket: Ino, taken: str) -> None:
    if taken == "directory":
        mkdir(store, bucket, b"n")
    elif taken == "file":
        save(store, bucket, b"n", b"kept")
    else:
        store.tree.symlink(bucket, b"n", b"t", 0, ROOT)
    other = save(store, bucket, b"other", b"x")
    for call in (
        lambda: store.tree.create(bucket, b"n", 0o644, 0, ROOT),
        lambda: store.tree.mknod(bucket, b"n", stat.S_IFIFO | 0o644, 0, 0, ROOT),
        lambda: store.tree.symlink(bucket, b"n", b"t", 0, ROOT),
        lambda: store.tree.mkdir(bucket, b"n", 0o755, 0, ROOT),
        lambda: store.tree.link(other, bucket, b"n", ROOT),
        lambda: store.tree.rename(bucket, b"other", bucket, b"n", ROOT, replace=False),
    ):
        unchanged(store, Exists, call)


def test_what_cannot_be_a_name(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"x")
    for name, error in (
        (b"", InvalidName),
        (b".", InvalidName),
        (b"..", InvalidName),
        (b"a/b", InvalidName),
        (b"a\0", InvalidName),
        (b".versions", InvalidName),
        (b".snapshots", InvalidName),
        (b"n" * 256, NameTooLong),
    ):
        for call in (
            lambda name=name: store.tree.create(bucket, name, 0o644, 0, ROOT),
            lambda name=name: store.tree.mkdir(bucket, name, 0o755, 0, ROOT),
            lambda name=name: store.tree.rename(bucket, b"f", bucket, name, ROOT),
        ):
            unchanged(store, error, call)


def test_the_root_of_a_store_holds_buckets_only(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"x")
    other = store.create_bucket(b"other", uid=0, gid=0)
    for call, error in (
        (lambda: store.tree.create(STORE_ROOT, b"f", 0o644, 0, ROOT), NotPermitted),
        (lambda: store.tree.link(ino, STORE_ROOT, b"f", ROOT), NotPermitted),
        (lambda: store.tree.rename(bucket, b"f", STORE_ROOT, b"f", ROOT), NotPermitted),
        (lambda: store.tree.rename(STORE_ROOT, b"bucket", bucket, b"x", ROOT), NotPermitted),
        (lambda: store.tree.rename(bucket, b"f", other, b"f", ROOT), CrossBucket),
        (lambda: store.tree.exchange(bucket, b"f", other, b"f", ROOT), CrossBucket),
        (lambda: store.tree.link(ino, other, b"f", ROOT), CrossBucket),
    ):
        unchanged(store, error, call)


def test_a_directory_does_not_move_into_itself(store: Store, bucket: Ino) -> None:
    top = mkdir(store, bucket, b"a")
    below = mkdir(store, top, b"b")
    deep = mkdir(store, below, b"c")
    save(store, deep, b"f", b"x")
    for parent in (top, below, deep):
        unchanged(store, InvalidName, lambda parent=parent: store.tree.rename(bucket, b"a", parent, b"x", ROOT))
    unchanged(store, InvalidName, lambda: store.tree.exchange(bucket, b"a", below, b"c", ROOT))
    unchanged(store, InvalidName, lambda: store.tree.exchange(below, b"c", bucket, b"a", ROOT))
    unchanged(store, InvalidName, lambda: store.tree.exchange(bucket, b"a", deep, b"f", ROOT))
    unchanged(store, InvalidName, lambda: store.tree.exchange(deep, b"f", bucket, b"a", ROOT))
    store.tree.rename(top, b"b", bucket, b"b", ROOT)
    assert store.tree.path(deep) == (bucket, b"b/c")


def test_types_that_cannot_take_each_others_place(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    save(store, directory, b"in", b"x")
    mkdir(store, bucket, b"empty")
    save(store, bucket, b"f", b"x")
    for call, error in (
        (lambda: store.tree.rename(bucket, b"f", bucket, b"d", ROOT), IsADirectory),
        (lambda: store.tree.rename(bucket, b"d", bucket, b"f", ROOT), NotADirectory),
        (lambda: store.tree.rename(bucket, b"empty", bucket, b"d", ROOT), DirectoryNotEmpty),
        (lambda: store.tree.unlink(bucket, b"d", ROOT), IsADirectory),
        (lambda: store.tree.rmdir(bucket, b"f", ROOT), NotADirectory),
        (lambda: store.tree.rmdir(bucket, b"d", ROOT), DirectoryNotEmpty),
        (lambda: store.tree.link(directory, bucket, b"l", ROOT), NotPermitted),
        (lambda: store.tree.unlink(bucket, b"absent", ROOT), NoSuchKey),
        (lambda: store.tree.rename(bucket, b"absent", bucket, b"x", ROOT), NoSuchKey),
    ):
        unchanged(store, error, call)


def test_nothing_is_made_in_a_directory_that_was_removed(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    save(store, directory, b"f", b"x")
    remove_all(store, bucket, b"d")
    other = save(store, bucket, b"other", b"x")
    for call in (
        lambda: store.tree.create(directory, b"n", 0o644, 0, ROOT),
        lambda: store.tree.mkdir(directory, b"n", 0o755, 0, ROOT),
        lambda: store.tree.link(other, directory, b"n", ROOT),
        lambda: store.tree.rename(bucket, b"other", directory, b"n", ROOT),
    ):
        unchanged(store, NoSuchKey, call)


def test_limits_of_one_file(store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch) -> None:
    ino = save(store, bucket, b"f", b"x")
    unchanged(store, InvalidName, lambda: store.tree.symlink(bucket, b"l", b"", 0, ROOT))
    unchanged(store, InvalidName, lambda: store.tree.symlink(bucket, b"l", b"t" * (TARGET_BYTES_MAX + 1), 0, ROOT))
    store.tree.symlink(bucket, b"l", b"t" * TARGET_BYTES_MAX, 0, ROOT)
    store.tree.set_attribute(ino, b"user.a", bytes(ATTRIBUTE_BYTES_MAX))
    unchanged(
        store, AttributeTooLarge, lambda: store.tree.set_attribute(ino, b"user.b", bytes(ATTRIBUTE_BYTES_MAX + 1))
    )
    unchanged(store, NoSuchAttribute, lambda: store.tree.remove_attribute(ino, b"user.absent"))
    assert LINKS_MAX == 4096
    monkeypatch.setattr(tree, "LINKS_MAX", 3)
    store.tree.link(ino, bucket, b"2", ROOT)
    store.tree.link(ino, bucket, b"3", ROOT)
    unchanged(store, TooManyLinks, lambda: store.tree.link(ino, bucket, b"4", ROOT))
    assert store.tree.inode(ino).nlink == 3


def test_all_attributes_of_a_file_have_a_limit(store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ATTRIBUTES_BYTES_MAX == 1 << 20
    monkeypatch.setattr(tree, "ATTRIBUTES_BYTES_MAX", 100)
    ino = save(store, bucket, b"f", b"x")
    store.tree.set_attribute(ino, b"user.a", bytes(60))
    unchanged(store, AttributesFull, lambda: store.tree.set_attribute(ino, b"user.b", bytes(60)))
    store.tree.set_attribute(ino, b"user.a", bytes(90))  # in place of itself
    store.tree.remove_attribute(ino, b"user.a")
    store.tree.set_attribute(ino, b"user.b", bytes(60))


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_directory_hides_a_file_of_its_name(store: Store, bucket: Ino) -> None:
    """Which only S3 can make."""
    put(store, bucket, b"a", b"file")
    put(store, bucket, b"a/b", b"below")
    put(store, bucket, b"a!", b"between")
    directory = store.core.catalog.entry(bucket, b"a/")
    assert store.tree.find(bucket, b"a") == store.tree.lookup(bucket, b"a")[0] == directory
    assert [(sort_name, name) for sort_name, name, _ in store.tree.entries(bucket)] == [(b"a!", b"a!"), (b"a/", b"a")]
    unchanged(store, IsADirectory, lambda: store.tree.unlink(bucket, b"a", ROOT))


def test_every_name_of_a_file_gets_what_is_written(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    ino = save(store, bucket, b"a", b"one")
    store.tree.link(ino, bucket, b"b", ROOT)
    store.tree.link(ino, directory, b"c", ROOT)
    write(store, directory, b"c", b"two")
    for parent, name in ((bucket, b"a"), (bucket, b"b"), (directory, b"c")):
        assert held(store, parent, name) == [b"two", b"one"]
    seqs = [seq for seq, _ in store.core.catalog.every_time()]
    assert len(set(seqs)) == len(seqs)
    store.tree.unlink(bucket, b"a", ROOT)
    write(store, directory, b"c", b"three")
    assert held(store, bucket, b"a") == [None, b"two", b"one"]
    assert held(store, bucket, b"b") == [b"three", b"two", b"one"]
    store.tree.unlink(bucket, b"b", ROOT)
    inode = store.tree.inode(ino)
    assert inode.nlink == 1
    assert store.core.catalog.links(ino) == [], "a file of one name is in no list of links"
    assert inode.key == store.core.catalog.key(directory, b"c")
    assert inode.seq == store.history.current(inode.key), "what is current is that of the name that is left"


def test_ids_rise_though_the_clock_stands_still(store: Store, bucket: Ino, clock: Clock) -> None:
    clock.tick = 0
    ino = save(store, bucket, b"a", b"one")
    for name in (b"b", b"c", b"d"):
        store.tree.link(ino, bucket, name, ROOT)
    write(store, bucket, b"a", b"two")
    clock.now -= 10_000_000_000
    write(store, bucket, b"a", b"three")
    times = [seq for seq, _ in store.core.catalog.every_time()]
    assert len(times) == store.core.catalog.count("versions") == 12
    for name in (b"a", b"b", b"c", b"d"):
        assert held(store, bucket, name) == [b"three", b"two", b"one"]


# -- what a close promised, before something else becomes of the name -------------------------------------------------


def closed_not_released(store: Store, parent: Ino, name: bytes, data: bytes) -> object:
    """A file that was changed and closed, whose RELEASE is still to come."""
    ino = store.tree.lookup(parent, name)[0]
    handle = store.files.open(ino, ROOT, truncate=True)
    store.files.write(handle, 0, data)
    store.files.flush(handle)
    return handle


@pytest.mark.parametrize("what", ["unlink", "rename", "rename over it", "link", "exchange"])
def test_what_was_closed_is_published_first(store: Store, bucket: Ino, what: str) -> None:
    save(store, bucket, b"f", b"old")
    save(store, bucket, b"g", b"other")
    handle = closed_not_released(store, bucket, b"f", b"closed")
    ino = store.tree.lookup(bucket, b"f")[0]
    match what:
        case "unlink":
            store.tree.unlink(bucket, b"f", ROOT)
            wanted: list[bytes | None] = [None, b"closed", b"old"]
        case "rename":
            store.tree.rename(bucket, b"f", bucket, b"h", ROOT)
            wanted = [None, b"closed", b"old"]
            assert held(store, bucket, b"h") == [b"closed"]
        case "rename over it":
            store.tree.rename(bucket, b"g", bucket, b"f", ROOT)
            wanted = [b"other", b"closed", b"old"]
        case "link":
            store.tree.link(ino, bucket, b"l", ROOT)
            wanted = [b"closed", b"old"]
            assert held(store, bucket, b"l") == [b"closed"]
        case _:
            store.tree.exchange(bucket, b"f", bucket, b"g", ROOT)
            wanted = [b"other", b"closed", b"old"]
            assert held(store, bucket, b"g") == [b"closed", b"other"]
    assert held(store, bucket, b"f") == wanted
    store.files.release(handle)  # type: ignore[arg-type]
    assert held(store, bucket, b"f") == wanted, "and once only"


def test_both_sides_of_an_exchange_are_published_first(store: Store, bucket: Ino) -> None:
    for name in (b"f", b"g"):
        save(store, bucket, name, b"old " + name)
    handles = [closed_not_released(store, bucket, name, b"closed " + name) for name in (b"f", b"g")]
    store.tree.exchange(bucket, b"f", bucket, b"g", ROOT)
    assert held(store, bucket, b"f") == [b"closed g", b"closed f", b"old f"]
    assert held(store, bucket, b"g") == [b"closed f", b"closed g", b"old g"]
    for handle in handles:
        store.files.release(handle)  # type: ignore[arg-type]


# -- rights -----------------------------------------------------------------------------------------------------------


def rights(store: Store, parent: Ino, name: bytes) -> list[Rights]:
    """Of each version of a key, newest first, as recorded for it and as of the key."""
    key = store.core.catalog.key(parent, name)
    assert key is not None
    return [store.history.version_rights(key, seq, version) for seq, version in store.core.catalog.versions(key)]


@pytest.mark.parametrize("how", ["rename", "rename over a link", "exchange", "put over a link", "restore of a symlink"])
def test_what_is_displaced_keeps_the_rights_that_it_had_last(store: Store, bucket: Ino, how: str) -> None:
    """A chmod after the last version is in no version: it is recorded when something else takes the name."""
    ino = write(store, bucket, b"f", b"secret", ALICE, 0o644)
    store.tree.set_attributes(ino, mode=0o600)
    match how:
        case "rename":
            write(store, bucket, b"g", b"open", BOB)
            store.tree.rename(bucket, b"g", bucket, b"f", BOB)
        case "rename over a link":  # which is not the name that the inode knows itself by
            write(store, bucket, b"g", b"open", BOB)
            store.tree.set_attributes(ino, mode=0o644)
            store.tree.link(ino, bucket, b"l", ALICE)
            store.tree.rename(bucket, b"f", bucket, b"first", ALICE)
            store.tree.rename(bucket, b"l", bucket, b"f", ALICE)
            assert store.core.catalog.inode(ino).key != store.core.catalog.key(bucket, b"f")
            store.tree.set_attributes(ino, mode=0o600)
            store.tree.rename(bucket, b"g", bucket, b"f", BOB)
        case "exchange":
            write(store, bucket, b"g", b"open", BOB)
            store.tree.exchange(bucket, b"f", bucket, b"g", BOB)
        case "put over a link":
            store.tree.link(ino, bucket, b"l", ALICE)
            put(store, bucket, b"f", b"open")
        case _:
            link = store.tree.symlink(bucket, b"l", b"t", 0, BOB)[0]
            seq = store.tree.inode(link).seq
            store.history.restore(seq, bucket, b"f", BOB)
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    newest, displaced, *older = list(store.core.catalog.versions(key))
    assert newest[1].ino != displaced[1].ino
    assert (displaced[1].uid, stat.S_IMODE(displaced[1].mode)) == (1000, 0o600), "as it was last, not as it was made"
    for one in (displaced, *older):
        found = store.history.version_rights(key, *one)
        assert (found.uid, found.mode) == (1000, 0o600)


def test_whether_a_removed_directory_goes_on_in_a_new_one(store: Store, bucket: Ino) -> None:
    """Only if its owner made that, or root, who lets nobody in who was kept out."""
    closed = acl.encode(
        (
            acl.Entry(acl.Tag.OWNER, 0, 7),
            acl.Entry(acl.Tag.USER, 5, 0),
            acl.Entry(acl.Tag.OWNING_GROUP, 0, 5),
            acl.Entry(acl.Tag.MASK, 0, 5),
            acl.Entry(acl.Tag.OTHER, 0, 5),
        )
    )
    for number, (maker, mode, access, again, new_mode, goes_on) in enumerate(
        (
            (ALICE, 0o700, b"", ALICE, 0o777, True),
            (ALICE, 0o755, b"", BOB, 0o700, False),
            (ALICE, 0o755, b"", ROOT, 0o755, True),
            (ALICE, 0o755, b"", ROOT, 0o700, True),
            (ALICE, 0o750, b"", ROOT, 0o755, False),
            (ALICE, 0o750, b"", ROOT, 0o750, False),  # another group perhaps
            (ALICE, 0o700, b"", ROOT, 0o700, True),
            (ALICE, 0o705, b"", ROOT, 0o755, False),
            (ALICE, 0o755, closed, ROOT, 0o755, False),
            (ROOT, 0o700, b"", ROOT, 0o755, True),
        )
    ):
        name = b"d%d" % number
        made, _ = store.tree.mkdir(bucket, name, mode, 0, maker)
        if access:
            store.tree.set_acl(made, acl.ACCESS, access, keep_setgid=True)
        write(store, made, b"f", b"x", maker)
        store.tree.unlink(made, b"f", maker)
        store.tree.rmdir(bucket, name, maker)
        new, inode = store.tree.mkdir(bucket, name, new_mode, 0, again)
        assert (new == made) == goes_on, number
        if goes_on:
            assert inode.generation > 0, "the kernel must not take it for the old one"
            assert inode.acl == b""


def test_what_a_removed_directory_was_given_does_not_come_back(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    store.tree.set_attribute(directory, b"user.a", b"x")
    store.tree.set_attribute(directory, acl.DEFAULT, acl.encode(LIST))
    save(store, directory, b"f", b"x")
    remove_all(store, bucket, b"d")
    assert mkdir(store, bucket, b"d") == directory
    assert store.tree.list_attributes(directory) == []
    assert store.tree.find_acl(directory, acl.DEFAULT) == b""


LIST = (
    acl.Entry(acl.Tag.OWNER, 0, 7),
    acl.Entry(acl.Tag.USER, 5, 7),
    acl.Entry(acl.Tag.OWNING_GROUP, 0, 5),
    acl.Entry(acl.Tag.MASK, 0, 7),
    acl.Entry(acl.Tag.OTHER, 0, 0),
)


@pytest.mark.parametrize(("keep", "mode"), [(True, 0o6770), (False, 0o4770)])
def test_a_list_takes_setgid_away_from_who_is_not_in_the_group(
    store: Store, bucket: Ino, keep: bool, mode: int
) -> None:
    ino = save(store, bucket, b"f", b"x")
    store.tree.set_attributes(ino, mode=0o6755)
    store.tree.set_acl(ino, acl.ACCESS, acl.encode(LIST), keep_setgid=keep)
    assert stat.S_IMODE(store.tree.inode(ino).mode) == mode


def test_a_chown_takes_set_id_bits_away_but_of_directories(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"x")
    directory = mkdir(store, bucket, b"d")
    for node, left in ((ino, 0o755), (directory, 0o6755)):
        store.tree.set_attributes(node, mode=0o6755)
        store.tree.set_attributes(node, uid=5)
        assert stat.S_IMODE(store.tree.inode(node).mode) == left
        store.tree.set_attributes(node, mode=0o6755)
        store.tree.set_attributes(node, mtime=5)
        assert stat.S_IMODE(store.tree.inode(node).mode) == 0o6755, "not by touch"
        store.tree.set_attributes(node)
        assert stat.S_IMODE(store.tree.inode(node).mode) == left


def test_a_delete_marker_keeps_the_attributes_for_an_undelete(store: Store, bucket: Ino) -> None:
    ino = write(store, bucket, b"f", b"x", ALICE)
    store.tree.set_attribute(ino, b"user.a", b"kept")
    store.tree.set_attribute(ino, CAPABILITY, b"\1")
    store.tree.set_attributes(ino, mode=0o4711)
    store.tree.unlink(bucket, b"f", ALICE)
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    marker = store.history.current(key)
    assert marker is not None
    assert store.history.find(marker)[1].kind is Kind.MARKER
    store.history.purge(key, marker, ALICE)
    again, inode = store.tree.lookup(bucket, b"f")
    assert {name: store.tree.find_attribute(again, name) for name in store.tree.list_attributes(again)} == {
        b"user.a": b"kept"
    }, "without the capabilities that only root gives"
    assert stat.S_IMODE(inode.mode) == 0o711, "nor set-id bits, which are root's to give back"
    assert (inode.uid, held(store, bucket, b"f")) == (1000, [b"x"])


def test_an_mtime_that_was_set_while_a_file_is_open_is_that_of_its_version(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"old")
    handle = store.files.open(ino, ROOT)
    store.files.write(handle, 0, b"new")
    store.tree.set_attributes(ino, mtime=5)
    assert store.tree.inode(ino).mtime == 5
    store.files.flush(handle)
    store.tree.set_attributes(ino, mtime=6)  # and of a draft
    store.files.release(handle)
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    assert next(store.core.catalog.versions(key))[1].mtime == store.tree.inode(ino).mtime == 6


# -- saving by renaming -----------------------------------------------------------------------------------------------


def left_behind(store: Store, bucket: Ino, name: bytes) -> bool:
    key = store.core.catalog.key(bucket, name)
    return key is not None and next(store.core.catalog.versions(key), None) is not None


def test_a_save_by_renaming_leaves_nothing_at_the_temporary_name(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"old")
    save(store, bucket, b"f.tmp", b"new")
    store.tree.rename(bucket, b"f.tmp", bucket, b"f", ROOT)
    assert not left_behind(store, bucket, b"f.tmp")
    assert held(store, bucket, b"f") == [b"new", b"old"]


def test_a_rename_to_a_name_that_nothing_had_is_no_save(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"one")
    store.tree.rename(bucket, b"f", bucket, b"g", ROOT)
    assert (held(store, bucket, b"f"), held(store, bucket, b"g")) == ([None, b"one"], [b"one"])


@pytest.mark.parametrize("what", ["old", "locked", "held", "unversioned target"])
def test_what_a_rename_over_a_file_leaves_all_the_same(store: Store, bucket: Ino, clock: Clock, what: str) -> None:
    if what in ("locked", "held"):
        store.objects.configure(bucket, lock=ObjectLock())
    target = b"f~" if what == "unversioned target" else b"f"
    save(store, bucket, target, b"old")
    save(store, bucket, b"t", b"new")
    item = store.objects.current(bucket, b"t")
    if what == "old":
        clock.pass_s(61)
    elif what == "locked":
        store.objects.set_retention(item, Retention(LockMode.GOVERNANCE, item.seq + 1_000_000_000))  # type: ignore[arg-type]
    elif what == "held":
        store.objects.set_legal_hold(item, True)
    store.tree.rename(bucket, b"t", bucket, target, ROOT)
    assert held(store, bucket, b"t") == [None, b"new"], "its version is all there is of it"
    assert store.objects.version(bucket, b"t", item.version_id).size == 3


@pytest.mark.parametrize("state", State)
def test_what_a_state_keeps_of_a_file_and_a_directory(store: Store, state: State) -> None:
    made = store.create_bucket(b"another", uid=0, gid=0, state=State.UNVERSIONED)
    if state is not State.UNVERSIONED:
        store.set_versioning(made, State.ENABLED)
        store.set_versioning(made, state)
    directory = mkdir(store, made, b"d")
    save(store, directory, b"f", b"one")
    save(store, directory, b"f", b"two")
    wanted = {State.UNVERSIONED: [b"two"], State.ENABLED: [b"two", b"one"], State.SUSPENDED: [b"two"]}[state]
    assert held(store, directory, b"f") == wanted
    store.tree.unlink(directory, b"f", ROOT)
    if state is State.UNVERSIONED:
        assert store.core.catalog.key(directory, b"f") is None
    else:
        assert held(store, directory, b"f") == [None, *(wanted if state is State.ENABLED else [])]
    store.tree.rmdir(made, b"d", ROOT)
    assert (store.core.catalog.find_inode(directory) is None) == (state is State.UNVERSIONED), "kept for its history"
