"""History beyond what the reference model asks: names of several directories, refused restores, who is current."""

from __future__ import annotations

import pytest

from tests.unit.test_catalog import save
from tests.unit.test_objects import put
from vfs.content import WorkingCopy
from vfs.errors import Exists, InvalidName, IsADirectory, Locked, NoSuchKey, NoSuchVersion, NotADirectory, NotPermitted
from vfs.model import SEQ_MAX, STORE_ROOT, Ino, KeyId, Kind, LockMode, ObjectLock, Retention, Seq, State, Writer
from vfs.names import format_version_id
from vfs.store import Store

WRITER = Writer(0, 1, "test")


def mkdir(store: Store, parent: Ino, name: bytes) -> Ino:
    return store.tree.mkdir(parent, name, 0o755, 0, WRITER)[0]


def remove_all(store: Store, parent: Ino, name: bytes) -> None:
    directory = store.tree.lookup(parent, name)[0]
    for sort_name, below, _ in list(store.tree.entries(directory)):
        if sort_name.endswith(b"/"):
            remove_all(store, directory, below)
        else:
            store.tree.unlink(directory, below, WRITER)
    store.tree.rmdir(parent, name, WRITER)


def held(store: Store, directory: Ino, name: bytes) -> list[bytes | None]:
    """What the versions of a name hold, newest first; None: a delete marker."""
    key = store.history.past(directory, name).keys[0]
    return [
        None if version.kind is Kind.MARKER else WorkingCopy(store.core.blocks, version.content).read(0, 100)
        for _, version in store.history.versions(key)
    ]


def listed(store: Store, directory: Ino) -> list[bytes]:
    return [name for _, name, _ in store.history.names(directory)]


def test_a_directory_made_again_goes_on(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    save(store, directory, b"f", b"1")
    store.tree.set_attribute(directory, b"user.a", b"of the old one")
    remove_all(store, bucket, b"d")
    generation = store.tree.inode(directory).generation
    assert mkdir(store, bucket, b"d") == directory
    save(store, directory, b"f", b"2")
    assert held(store, directory, b"f") == [b"2", None, b"1"]
    assert store.tree.list_attributes(directory) == []
    assert store.tree.inode(directory).generation > generation, "the kernel must not take it for the old one"


def test_a_directory_moved_to_where_one_was_removed_shows_both_histories(store: Store, bucket: Ino) -> None:
    """rm -rf src; mv src.new src; also below, and below that."""
    for name, data in ((b"src", b"old"), (b"src.new", b"new")):
        top = mkdir(store, bucket, name)
        lib = mkdir(store, top, b"lib")
        for below in (top, lib, mkdir(store, lib, b"deep")):
            save(store, below, b"f", data)
            save(store, below, data, data)
    remove_all(store, bucket, b"src")
    store.tree.rename(bucket, b"src.new", bucket, b"src", WRITER)
    directory = store.tree.lookup(bucket, b"src")[0]
    for _ in range(3):
        assert set(listed(store, directory)) >= {b"f", b"new", b"old"}
        assert len(listed(store, directory)) == len(set(listed(store, directory)))
        assert held(store, directory, b"old") == [None, b"old"]
        assert held(store, directory, b"f") == [None, b"new", b"old"], "by time"
        key = store.history.past(directory, b"f").keys[0]
        assert store.history.live(key) == store.tree.find(directory, b"f"), "what lives comes first"
        current = store.history.current(key)
        assert current is not None
        version = store.history.find(current)[1]
        assert WorkingCopy(store.core.blocks, version.content).read(0, 10) == b"new", "no dead marker is current"
        directory = next(
            (ino for _, name, ino in store.tree.entries(directory) if name in (b"lib", b"deep")), directory
        )


def test_the_name_of_a_directory_that_moved_away_is_not_listed(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"a")
    save(store, directory, b"f", b"1")
    store.tree.rename(bucket, b"a", bucket, b"b", WRITER)
    assert listed(store, bucket) == [b"b"]
    with pytest.raises(NoSuchKey):
        store.history.past(bucket, b"a")


def test_a_name_that_was_a_file_and_a_directory_is_listed_once(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"x", b"1")
    store.tree.unlink(bucket, b"x", WRITER)
    directory = mkdir(store, bucket, b"x")
    save(store, directory, b"f", b"1")
    assert listed(store, bucket) == [b"x"]
    past = store.history.past(bucket, b"x")
    assert len(past.keys) == 1
    assert past.directories == [directory]
    remove_all(store, bucket, b"x")
    store.tree.create(bucket, b"x", 0o644, 0, WRITER)
    assert listed(store, bucket) == [b"x"], "also while a new file has no version"


def test_names_go_on_behind_any_name(store: Store, bucket: Ino) -> None:
    for name in (b"a", b"a!", b"a0", b"b"):
        save(store, bucket, name, b"1")
    mkdir(store, bucket, b"c")
    names = [(sort_name, name) for sort_name, name, _ in store.history.names(bucket)]
    for at, (sort_name, _) in enumerate(names):
        assert [(one, name) for one, name, _ in store.history.names(bucket, sort_name)] == names[at + 1 :]


def test_ids_find_versions(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"1")
    save(store, bucket, b"f", b"2")
    key = store.history.past(bucket, b"f").keys[0]
    for seq, version in store.history.versions(key):
        assert store.history.version(key, format_version_id(seq)) == (seq, version)
        assert store.history.find(seq) == (key, version)
        assert [older for older, _ in store.history.versions(key, seq)] == [
            other for other, _ in store.history.versions(key) if other < seq
        ]
    for text in ("null", "20261120T151617.000001Z"):
        with pytest.raises(NoSuchVersion):
            store.history.version(key, text)
    with pytest.raises(InvalidName):
        store.history.version(key, "latest")
    with pytest.raises(NoSuchVersion):
        store.history.find(Seq(5))
    with pytest.raises(NoSuchVersion):
        store.history.find(Seq(SEQ_MAX + 1))  # later than any date says


def test_what_cannot_be_restored(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"1")
    directory = mkdir(store, bucket, b"d")
    key = store.history.past(bucket, b"f").keys[0]
    seq = store.history.current(key)
    assert seq is not None
    for parent, name, error in (
        (STORE_ROOT, b"f", NotPermitted),
        (ino, b"f", NotADirectory),
        (bucket, b"d", IsADirectory),
        (directory, b".versions", InvalidName),
    ):
        with pytest.raises(error):
            store.history.restore(seq, parent, name, WRITER)
    store.tree.unlink(bucket, b"f", WRITER)
    marker = store.history.current(key)
    assert marker is not None
    with pytest.raises(NotPermitted):
        store.history.restore(marker, bucket, b"f", WRITER)
    with pytest.raises(NoSuchVersion):
        store.history.restore(Seq(5), bucket, b"f", WRITER)
    assert held(store, bucket, b"f") == [None, b"1"], "nothing was changed"


def test_restoring_costs_no_content(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"x" * 1_000_000)
    save(store, bucket, b"f", b"short")
    key = store.history.past(bucket, b"f").keys[0]
    blocks = store.core.blocks.end
    seq = list(store.history.versions(key))[-1][0]
    store.history.restore(seq, bucket, b"f", WRITER)
    assert store.core.blocks.end == blocks
    assert store.tree.lookup(bucket, b"f")[1].content.size == 1_000_000


def test_a_restored_file_brings_its_directories_back(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    below = mkdir(store, directory, b"e")
    save(store, below, b"f", b"1")
    key = store.history.past(below, b"f").keys[0]
    seq = store.history.current(key)
    assert seq is not None
    generation = store.tree.inode(directory).generation
    remove_all(store, bucket, b"d")
    changed = store.history.restore(seq, below, b"f", WRITER)
    assert [(change.parent, change.name) for change in changed] == [(bucket, b"d"), (directory, b"e"), (below, b"f")]
    assert store.tree.lookup(bucket, b"d")[0] == directory
    assert store.tree.inode(directory).generation > generation, "the kernel must not take it for the old one"
    assert store.tree.lookup(directory, b"e")[0] == below
    assert held(store, below, b"f") == [b"1", None, b"1"]


def test_a_directory_does_not_come_back_where_something_else_lives(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    save(store, directory, b"f", b"1")
    key = store.history.past(directory, b"f").keys[0]
    seq = store.history.current(key)
    assert seq is not None
    remove_all(store, bucket, b"d")
    marker = store.history.current(key)
    assert marker is not None
    save(store, bucket, b"d", b"a file")
    before = store.core.journal.end
    with pytest.raises(Exists):
        store.history.restore(seq, directory, b"f", WRITER)
    with pytest.raises(Exists):
        store.history.purge(key, marker, WRITER)
    assert store.core.journal.end == before
    assert held(store, bucket, b"d") == [b"a file"]


def test_purging_while_it_is_written_keeps_what_is_written(store: Store, bucket: Ino) -> None:
    """Whoever has the file open did not unlink it."""
    ino = save(store, bucket, b"f", b"1")
    save(store, bucket, b"f", b"2")
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"new")
    key = store.history.past(bucket, b"f").keys[0]
    for seq, _ in list(store.history.versions(key)):
        store.history.purge(key, seq, WRITER)
    store.files.flush(handle)
    store.files.release(handle)
    assert held(store, bucket, b"f") == [b"new"]
    assert store.tree.lookup(bucket, b"f")[0] == ino


def test_purged_content_does_not_come_back_by_another_name(store: Store, bucket: Ino) -> None:
    ino = save(store, bucket, b"f", b"secret")
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"public")
    reader = store.files.open(ino, WRITER)
    store.files.flush(reader)
    store.files.release(reader)
    key = store.history.past(bucket, b"f").keys[0]
    current = store.history.current(key)
    assert current is not None
    store.history.purge(key, current, WRITER)
    store.tree.link(ino, bucket, b"g", WRITER)
    store.tree.rename(bucket, b"f", bucket, b"h", WRITER)
    store.files.release(handle)
    for name in (b"g", b"h"):
        assert b"secret" not in held(store, bucket, name)


def test_purging_down_to_a_symlink_while_a_file_is_written(store: Store, bucket: Ino) -> None:
    store.tree.symlink(bucket, b"f", b"target", 0, WRITER)
    save(store, bucket, b"g", b"regular")
    store.tree.rename(bucket, b"g", bucket, b"f", WRITER)
    ino = store.tree.lookup(bucket, b"f")[0]
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"new")
    key = store.history.past(bucket, b"f").keys[0]
    current = store.history.current(key)
    assert current is not None
    store.history.purge(key, current, WRITER)
    assert store.core.catalog.inode(ino).seq == 0, "nothing that is published is current"


# -- whose a version is, and what the cache of that remembers ---------------------------------------------------------

ALICE, BOB, CAROL = Writer(1000, 2, "alice"), Writer(1001, 3, "bob"), Writer(1002, 4, "carol")


def write(store: Store, parent: Ino, name: bytes, data: bytes, writer: Writer, mode: int) -> Ino:
    """A new file of somebody."""
    ino = store.tree.create(parent, name, mode, 0, writer)[0]
    handle = store.files.open(ino, writer, created=True)
    store.files.write(handle, 0, data)
    store.files.flush(handle)
    store.files.release(handle)
    return ino


def taken_over(store: Store, bucket: Ino) -> KeyId:
    """A key: Alice's file, closed, then one of Bob, then another one of Bob, and Carol's, which is open to all."""
    for number, (writer, mode) in enumerate(((ALICE, 0o600), (BOB, 0o640), (BOB, 0o600), (CAROL, 0o644))):
        write(store, bucket, b"n", b"%d" % number, writer, mode)
        store.tree.rename(bucket, b"n", bucket, b"f", writer)
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    return key


def all_rights(store: Store, key: KeyId) -> list[tuple[int, int]]:
    """Owner and mode of each version, newest first."""
    return [
        store.history.version_rights(key, seq, version)[0:3:2] for seq, version in list(store.history.versions(key))
    ]


def test_a_version_is_as_hard_to_read_as_its_own_file_was(store: Store, bucket: Ino) -> None:
    key = taken_over(store, bucket)
    assert all_rights(store, key) == [(1002, 0o644), (1001, 0o600), (1001, 0o600), (1000, 0o600)]
    store.tree.set_attributes(store.tree.lookup(bucket, b"f")[0], mode=0o666)
    assert all_rights(store, key) == [(1002, 0o666), (1001, 0o600), (1001, 0o600), (1000, 0o600)]


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("last", range(4))
def test_rights_are_right_after_a_purge(store: Store, bucket: Ino, last: int, at: int) -> None:
    """Whatever was looked at last before it: a listing asks for one version after the other, which is remembered."""
    key = taken_over(store, bucket)
    store.history.version_rights(key, *list(store.history.versions(key))[last])
    store.history.purge(key, list(store.history.versions(key))[at][0], Writer(0, 1, "root"))
    left = list(store.history.versions(key))
    found = {seq: store.history.version_rights(key, seq, version) for seq, version in left}
    for seq, version in left:
        store.history._run = None
        assert found[seq] == store.history.version_rights(key, seq, version), "as without what is remembered"


def test_what_is_remembered_of_rights_is_of_one_key(store: Store, bucket: Ino) -> None:
    first = taken_over(store, bucket)
    store.tree.rename(bucket, b"f", bucket, b"aside", ALICE)
    write(store, bucket, b"n", b"x", BOB, 0o666)
    store.tree.rename(bucket, b"n", bucket, b"aside", BOB)
    second = store.core.catalog.key(bucket, b"aside")
    assert second is not None
    for seq, version in list(store.history.versions(first)):
        store.history._run = None
        alone = store.history.version_rights(first, seq, version)
        for other in list(store.history.versions(second)):
            store.history.version_rights(second, *other)
            assert store.history.version_rights(first, seq, version) == alone


def test_what_is_remembered_of_one_key_is_not_said_of_another_of_the_same_time(store: Store, bucket: Ino) -> None:
    """Versions of one follow each other as Alice's, closed; one of another came in between."""
    mine = write(store, bucket, b"f", b"1", ALICE, 0o600)
    write(store, bucket, b"other", b"x", BOB, 0o644)
    handle = store.files.open(mine, ALICE)
    store.files.write(handle, 0, b"2")
    store.files.flush(handle)
    store.files.release(handle)
    for name in (b"f", b"other"):
        write(store, bucket, b"n", b"x", CAROL, 0o666)
        store.tree.rename(bucket, b"n", bucket, name, CAROL)
    one, other = (store.history.past(bucket, name).keys[0] for name in (b"f", b"other"))
    versions = list(store.history.versions(one))
    assert versions[1][0] > list(store.history.versions(other))[1][0] > versions[2][0]
    assert all_rights(store, one) == [(1002, 0o666), (1000, 0o600), (1000, 0o600)]
    assert all_rights(store, other) == [(1002, 0o666), (1001, 0o644)]
    store.history.version_rights(one, *versions[2])
    assert all_rights(store, other) == [(1002, 0o666), (1001, 0o644)]


def test_what_is_current_again_has_the_rights_of_its_own_file(store: Store, bucket: Ino) -> None:
    """Not those of somebody else's that stood there in between."""
    ino = write(store, bucket, b"f", b"secret", ALICE, 0o600)
    store.tree.set_attribute(ino, b"user.of", b"alice")
    other = write(store, bucket, b"n", b"open", BOB, 0o666)
    store.tree.set_attribute(other, b"user.of", b"bob")
    store.tree.rename(bucket, b"n", bucket, b"f", BOB)
    key = store.core.catalog.key(bucket, b"f")
    assert key is not None
    newest = store.history.current(key)
    assert newest is not None
    store.history.purge(key, newest, BOB)
    again, inode = store.tree.lookup(bucket, b"f")
    assert (inode.uid, inode.mode & 0o777) == (1000, 0o600)
    assert store.tree.list_attributes(again) == [], "the attributes were of the other file"
    (version,) = [version for _, version in store.history.versions(key)]
    assert (version.uid, version.mode & 0o777) == (1000, 0o600)


@pytest.mark.parametrize(
    ("writer", "owner", "mode"), [(BOB, 1001, 0o755), (ALICE, 1000, 0o755), (WRITER, 1000, 0o4755)]
)
def test_nobody_but_root_makes_a_file_of_somebody_else(
    store: Store, bucket: Ino, writer: Writer, owner: int, mode: int
) -> None:
    ino = write(store, bucket, b"f", b"x", ALICE, 0o755)
    store.tree.set_attributes(ino, mode=0o4755)
    key = store.history.past(bucket, b"f").keys[0]
    seq = store.history.current(key)
    assert seq is not None
    store.tree.unlink(bucket, b"f", ALICE)
    store.history.restore(seq, bucket, b"f", writer, gid=77)
    _, inode = store.tree.lookup(bucket, b"f")
    assert (inode.uid, inode.mode & 0o7777) == (owner, mode)
    assert inode.gid == (77 if owner == 1001 else 0)


# -- the past ---------------------------------------------------------------------------------------------------------


def test_a_moment_is_up_to_and_with_its_version(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"f", b"1")
    save(store, bucket, b"f", b"2")
    store.tree.unlink(bucket, b"f", WRITER)
    key = store.history.past(bucket, b"f").keys[0]
    marker, two, one = [seq for seq, _ in store.history.versions(key)]
    for moment, wanted in (
        (one - 1, None),
        (one, one),
        (two - 1, one),
        (two, two),
        (marker - 1, two),
        (marker, None),
        (marker + 1, None),
    ):
        found = store.history.version_at(key, Seq(moment))
        assert (None if found is None else found[0]) == wanted
        if wanted is None:
            with pytest.raises(NoSuchKey):
                store.history.lookup_at(bucket, b"f", Seq(moment))
        else:
            assert store.history.lookup_at(bucket, b"f", Seq(moment))[0] == wanted
        listed_then = [name for name, _, found in store.history.list_at(bucket, Seq(moment)) if found is not None]
        assert listed_then == [b"f"] * (wanted is not None)
    assert store.history.changed_between(Seq(one - 1), one)
    assert not store.history.changed_between(one, Seq(one))
    assert not store.history.changed_between(marker, Seq(marker + 1_000_000_000))


def test_a_directory_hid_a_file_of_its_name_then(store: Store, bucket: Ino) -> None:
    put(store, bucket, b"a", b"file")
    before = store.core.catalog.last_seq
    put(store, bucket, b"a/b", b"below")
    both = store.core.catalog.last_seq
    store.objects.delete(bucket, b"a/b", WRITER)
    after = store.core.catalog.last_seq
    for moment, wanted in ((before, b"a"), (both, b"a/"), (after, b"a")):
        found = [name for name, _, then in store.history.list_at(bucket, moment) if then is not None]
        assert found == [wanted]
        kind = store.history.lookup_at(bucket, b"a", moment)[1].kind
        assert kind is (Kind.DIRECTORY if wanted == b"a/" else Kind.CONTENT)


def test_where_somebody_may_not_go_his_places_end(store: Store, bucket: Ino) -> None:
    """A directory in place of a removed one shows the history of that to those who may get into both."""
    closed = store.tree.mkdir(bucket, b"d", 0o700, 0, ALICE)[0]
    write(store, closed, b"f", b"secret", ALICE, 0o644)
    remove_all(store, bucket, b"d")
    made = store.tree.mkdir(bucket, b"d", 0o755, 0, BOB)[0]
    assert made != closed
    assert store.history.places(made) == [made, closed]
    assert store.history.places(made, lambda inode: inode.uid == 1001) == [made]
    assert [name for _, name, _ in store.history.names(made)] == [b"f"]
    assert list(store.history.names(made, b"", lambda inode: inode.uid == 1001)) == []
    with pytest.raises(NoSuchKey):
        store.history.past(made, b"f", lambda inode: inode.uid == 1001)


def test_purging_one_name_of_a_file_that_is_being_changed_keeps_that_under_the_others(
    store: Store, bucket: Ino
) -> None:
    ino = save(store, bucket, b"a", b"one")
    store.tree.link(ino, bucket, b"b", WRITER)
    handle = store.files.open(ino, WRITER)
    store.files.write(handle, 0, b"new")
    key = store.history.past(bucket, b"a").keys[0]
    current = store.history.current(key)
    assert current is not None
    store.history.purge(key, current, WRITER)
    assert b"new" in held(store, bucket, b"b")
    store.files.flush(handle)
    store.files.release(handle)
    assert held(store, bucket, b"b")[0] == b"new"


def test_the_record_of_a_directory_is_not_purged(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    save(store, directory, b"f", b"x")
    key = store.core.catalog.key(bucket, b"d/")
    assert key is not None
    seq = store.history.current(key)
    assert seq is not None
    with pytest.raises(NotPermitted):
        store.history.purge(key, seq, WRITER)
    remove_all(store, bucket, b"d")
    seq = store.history.current(key)
    assert seq is not None
    with pytest.raises(NotPermitted):
        store.history.purge(key, seq, WRITER)
    assert held(store, directory, b"f") == [None, b"x"]


@pytest.mark.parametrize("state", [State.SUSPENDED, State.ENABLED])
def test_a_null_version_is_found_by_that_word_alone(store: Store, state: State) -> None:
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    save(store, plain, b"f", b"1")
    store.set_versioning(plain, State.ENABLED)
    save(store, plain, b"f", b"2")
    store.set_versioning(plain, state)
    key = store.history.past(plain, b"f").keys[0]
    (two, _), (one, _) = list(store.history.versions(key))
    assert store.history.version(key, "null")[0] == one
    assert store.history.version(key, format_version_id(two))[0] == two
    with pytest.raises(NoSuchVersion):
        store.history.version(key, format_version_id(one))


def test_a_purge_asks_for_its_lock(store: Store, bucket: Ino) -> None:
    store.objects.configure(bucket, lock=ObjectLock())
    for name, mode, bypass, goes in (
        (b"a", LockMode.GOVERNANCE, False, False),
        (b"b", LockMode.GOVERNANCE, True, True),
        (b"c", LockMode.COMPLIANCE, False, False),
        (b"d", LockMode.COMPLIANCE, True, False),
    ):
        save(store, bucket, name, b"x")
        item = store.objects.current(bucket, name)
        store.objects.set_retention(item, Retention(mode, Seq(item.seq + 1_000_000_000)))
        try:
            store.history.purge(item.key_id, item.seq, WRITER, bypass=bypass)
        except Locked:
            assert not goes
            assert held(store, bucket, name) == [b"x"]
        else:
            assert goes
            assert store.core.catalog.key(bucket, name) is None
