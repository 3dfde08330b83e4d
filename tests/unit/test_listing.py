"""Walks and pages over the catalog itself: chains over several directories, common prefixes, where a page goes on.

The reference model compares whole listings; here each rule is asked for alone.
"""

from __future__ import annotations

import pytest

from tests.unit.test_catalog import save
from tests.unit.test_history import mkdir, remove_all
from tests.unit.test_objects import body, put
from vfs import blocks, content, listing, objects
from vfs.content import WorkingCopy
from vfs.errors import InvalidName, Locked, NoSuchKey
from vfs.listing import Listing, chain_of, following, walk_known, walk_live
from vfs.model import Ino, Kind, LockMode, ObjectInfo, ObjectLock, Retention, State, Writer
from vfs.names import format_version_id
from vfs.store import Store

WRITER, OTHER = Writer(0, 1, "test"), Writer(9, 9, "other")


def replaced(store: Store, bucket: Ino) -> None:
    """``rm -r src; mv src.new src``, where what was removed has the newest version of all: its delete marker."""
    old, new = mkdir(store, bucket, b"src"), mkdir(store, bucket, b"src.new")
    save(store, old, b"f", b"old")
    save(store, new, b"f", b"new")
    save(store, new, b"only", b"new")
    save(store, old, b"gone", b"old")
    remove_all(store, bucket, b"src")
    store.tree.rename(bucket, b"src.new", bucket, b"src", WRITER)


def two_removed(store: Store, bucket: Ino, state: State = State.ENABLED, key: bytes = b"a/k") -> list[str]:
    """A key whose history lies in two directories that were removed: of root, and of somebody else, who may not go on
    in root's. Returns its version ids, newest first.
    """
    store.set_versioning(bucket, state)
    folder, name = key.split(b"/")
    for writer in (WRITER, OTHER):
        directory = store.tree.mkdir(bucket, folder, 0o700, writer.uid, writer)[0]
        save(store, directory, name, b"of %d" % writer.uid)
        store.tree.unlink(directory, name, writer)
        store.tree.rmdir(bucket, folder, writer)
    assert len(store.objects._chain(bucket, key)[0]) == 2
    return [item.version_id for item in store.objects.versions(bucket, key)]


def held(store: Store, bucket: Ino, key: bytes) -> list[bytes | None]:
    """What the versions of a key hold, newest first; None: a delete marker."""
    return [
        None if item.is_marker else WorkingCopy(store.core.blocks, item.content).read(0, 100)
        for item in store.objects.versions(bucket, key)
    ]


# -- chains -----------------------------------------------------------------------------------------------------------


def test_a_living_name_comes_before_what_was_removed_there(store: Store, bucket: Ino) -> None:
    replaced(store, bucket)
    current = store.objects.current(bucket, b"src/f")
    assert WorkingCopy(store.core.blocks, current.content).read(0, 10) == b"new"
    assert [item.key for item in store.objects.list(bucket).objects] == [b"src/f", b"src/only"]
    assert held(store, bucket, b"src/f") == [None, b"new", b"old"], "by time: what was removed went last"
    told = [(item.version_id, item.is_current) for item in store.objects.list_versions(bucket, prefix=b"src/f").objects]
    assert [is_current for _, is_current in told] == [False, True, False], "no dead marker is current"
    for version_id, is_current in told:
        assert store.objects.version(bucket, b"src/f", version_id).is_current == is_current
    assert held(store, bucket, b"src/gone") == [None, b"old"]
    with pytest.raises(NoSuchKey) as error:
        store.objects.current(bucket, b"src/gone")
    assert error.value.marker is not None
    live = store.tree.lookup(bucket, b"src")[0]
    chain = chain_of(store.core.catalog, bucket, [b"src"], b"f")
    assert [place == live for place, _ in chain] == [True, False]
    assert store.history.past(bucket, b"src").directories[0] == live


def test_what_hangs_on_a_removed_directory_is_walked_below_too(store: Store, bucket: Ino) -> None:
    for name, data in ((b"a", b"old"), (b"b", b"new")):
        below = mkdir(store, mkdir(store, bucket, name), b"d")
        save(store, below, data, data)
    remove_all(store, bucket, b"a")
    store.tree.rename(bucket, b"b", bucket, b"a", WRITER)
    walked = [known.key for known in walk_known(store.core.catalog, bucket)]
    assert walked == [b"a/", b"a/d/", b"a/d/new", b"a/d/old", b"b/"]
    assert [live.key for live in walk_live(store.core.catalog, bucket)] == [b"a/", b"a/d/", b"a/d/new"]
    assert [known.key for known in walk_known(store.core.catalog, bucket, b"a/d/new\0")][-2:] == [b"a/d/old", b"b/"]


def test_purging_a_version_of_what_was_removed_changes_nothing_that_lives(store: Store, bucket: Ino) -> None:
    replaced(store, bucket)
    ino = store.tree.lookup(store.tree.lookup(bucket, b"src")[0], b"f")[0]
    marker, _, old = [item.version_id for item in store.objects.versions(bucket, b"src/f")]
    for version_id in (marker, old):
        assert store.objects.purge(bucket, b"src/f", version_id, WRITER).changed == []
    assert held(store, bucket, b"src/f") == [b"new"]
    assert store.tree.lookup(store.tree.lookup(bucket, b"src")[0], b"f")[0] == ino


def test_a_lock_holds_wherever_the_version_lies(store: Store, bucket: Ino) -> None:
    """Also in a directory that was removed, below a name that lives."""
    store.objects.configure(bucket, lock=ObjectLock())
    replaced(store, bucket)
    *_, old = store.objects.versions(bucket, b"src/f")
    store.objects.set_retention(old, Retention(LockMode.COMPLIANCE, old.seq + 1_000_000_000))  # type: ignore[arg-type]
    with pytest.raises(Locked):
        store.objects.purge(bucket, b"src/f", old.version_id, WRITER, bypass=True)
    assert held(store, bucket, b"src/f") == [None, b"new", b"old"]


@pytest.mark.parametrize("state", [State.ENABLED, State.SUSPENDED])
def test_two_removed_directories_are_gathered(store: Store, bucket: Ino, state: State) -> None:
    """Undeleting a key whose history lies in both. Of two null versions the newer one stays null."""
    ids = two_removed(store, bucket, state)
    before = held(store, bucket, b"a/k")
    if state is State.SUSPENDED:  # of each directory: the content was null, then the marker in its place
        assert ids == ["null", "null"]
    for item in list(store.objects.versions(bucket, b"a/k")):
        if item.is_marker:
            store.objects.purge(bucket, b"a/k", item.version_id, WRITER)
            break
    chain, _ = store.objects._chain(bucket, b"a/k")
    assert len(chain) == 1, "all of it is in one directory now"
    left = list(store.objects.versions(bucket, b"a/k"))
    assert held(store, bucket, b"a/k") == before[1:]
    assert len({item.version_id for item in left}) == len(left), "each can be named"
    for item in left:
        assert store.objects.version(bucket, b"a/k", item.version_id).seq == item.seq


def test_two_null_versions_that_are_gathered_can_both_be_named(store: Store, bucket: Ino) -> None:
    """Content from before versioning in one directory, and from while it was suspended in another."""
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    first = mkdir(store, plain, b"a")
    save(store, first, b"k", b"first")
    store.set_versioning(plain, State.ENABLED)
    store.tree.unlink(first, b"k", WRITER)
    store.tree.rmdir(plain, b"a", WRITER)
    store.set_versioning(plain, State.SUSPENDED)
    second = store.tree.mkdir(plain, b"a", 0o700, 9, OTHER)[0]
    save(store, second, b"k", b"second")
    store.set_versioning(plain, State.ENABLED)
    store.tree.unlink(second, b"k", OTHER)
    store.tree.rmdir(plain, b"a", OTHER)
    items = list(store.objects.versions(plain, b"a/k"))
    assert [(item.is_marker, item.version.null) for item in items] == [
        (True, False),
        (False, True),
        (True, False),
        (False, True),
    ]
    assert store.objects.version(plain, b"a/k", "null").seq == items[1].seq, "the newer one"
    store.objects.purge(plain, b"a/k", items[0].version_id, WRITER)
    assert held(store, plain, b"a/k") == [b"second", None, b"first"]
    found = list(store.objects.versions(plain, b"a/k"))
    assert [item.version.null for item in found] == [True, False, False]
    assert found[2].version_id == format_version_id(items[3].seq)
    assert WorkingCopy(store.core.blocks, store.objects.current(plain, b"a/k").content).read(0, 10) == b"second"
    store.objects.purge(plain, b"a/k", found[2].version_id, WRITER)
    assert held(store, plain, b"a/k") == [b"second", None]


def test_null_versions_of_three_directories_are_gathered(store: Store) -> None:
    """Two of directories that are gone, into one whose own versions have ids."""
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    for number, writer in enumerate((WRITER, OTHER, Writer(10, 10, "third"))):
        directory = store.tree.mkdir(plain, b"a", 0o700, writer.uid, writer)[0]
        save(store, directory, b"k", b"%d" % number)
        store.set_versioning(plain, State.ENABLED)
        store.tree.unlink(directory, b"k", writer)
        store.tree.rmdir(plain, b"a", writer)
        if not number:
            store.set_versioning(plain, State.SUSPENDED)
    items = list(store.objects.versions(plain, b"a/k"))
    assert [item.version.null for item in items] == [False, False, False, True, False, True]
    store.objects.purge(plain, b"a/k", items[0].version_id, WRITER)
    found = list(store.objects.versions(plain, b"a/k"))
    assert [item.version.null for item in found] == [False, False, True, False, False]
    assert len({item.version_id for item in found}) == 5
    assert held(store, plain, b"a/k") == [b"2", None, b"1", None, b"0"]


def test_metadata_and_locks_come_along_when_history_is_gathered(store: Store, bucket: Ino) -> None:
    store.objects.configure(bucket, lock=ObjectLock())
    ids = two_removed(store, bucket)
    oldest = store.objects.version(bucket, b"a/k", ids[3])
    store.objects.set_tags(oldest, {"a": "b"})
    until = oldest.seq + 1_000_000_000
    store.objects.set_retention(oldest, Retention(LockMode.COMPLIANCE, until))  # type: ignore[arg-type]
    store.objects.purge(bucket, b"a/k", ids[0], WRITER)
    assert len(store.objects._chain(bucket, b"a/k")[0]) == 1
    again = store.objects.version(bucket, b"a/k", ids[3])
    assert (again.info.tags, again.info.retention) == ({"a": "b"}, Retention(LockMode.COMPLIANCE, until))  # type: ignore[arg-type]
    with pytest.raises(Locked):
        store.objects.purge(bucket, b"a/k", ids[3], WRITER, bypass=True)


def test_what_is_no_object_has_no_version_to_name(store: Store, bucket: Ino) -> None:
    ino = store.tree.symlink(bucket, b"link", b"target", 0, WRITER)[0]
    seq = store.tree.inode(ino).seq
    chain = chain_of(store.core.catalog, bucket, [], b"link")
    assert listing.find_version(store.core.catalog, chain, format_version_id(seq)) is None
    put(store, bucket, b"link", b"object")
    assert listing.find_version(store.core.catalog, chain, format_version_id(seq)) is None
    with pytest.raises(InvalidName):
        listing.find_version(store.core.catalog, chain, "latest")


def test_an_id_is_that_of_a_null_version_only_as_null(store: Store) -> None:
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    put(store, plain, b"k")
    item = store.objects.current(plain, b"k")
    chain = chain_of(store.core.catalog, plain, [], b"k")
    assert item.version_id == "null"
    assert listing.find_version(store.core.catalog, chain, format_version_id(item.seq)) is None
    found = listing.find_version(store.core.catalog, chain, "null")
    assert found is not None
    assert found.seq == item.seq


# -- common prefixes --------------------------------------------------------------------------------------------------


def prefixes(store: Store, bucket: Ino, **more: object) -> tuple[list[bytes], list[bytes]]:
    """The common prefixes of the current objects, and of the versions."""
    objects = store.objects.list(bucket, delimiter=b"/", **more)  # type: ignore[arg-type]
    versions = store.objects.list_versions(bucket, delimiter=b"/", **more)  # type: ignore[arg-type]
    return objects.prefixes, versions.prefixes


def test_a_prefix_without_objects_is_none(store: Store, bucket: Ino) -> None:
    """Neither of directories, nor of what is no object, nor of what lives no more."""
    mkdir(store, bucket, b"empty")
    store.tree.symlink(mkdir(store, bucket, b"links"), b"l", b"t", 0, WRITER)
    nested = mkdir(store, mkdir(store, bucket, b"nested"), b"deep")
    store.tree.mknod(nested, b"fifo", 0o010600, 0, 0, WRITER)
    gone = mkdir(store, bucket, b"gone")
    save(store, gone, b"f", b"1")
    store.tree.unlink(gone, b"f", WRITER)
    open_only = mkdir(store, bucket, b"unpublished")
    store.tree.create(open_only, b"f", 0o644, 0, WRITER)
    save(store, mkdir(store, bucket, b"there"), b"f", b"1")
    assert prefixes(store, bucket) == ([b"there/"], [b"gone/", b"there/"])
    store.tree.unlink(store.tree.lookup(bucket, b"links")[0], b"l", WRITER)
    assert prefixes(store, bucket) == ([b"there/"], [b"gone/", b"links/", b"there/"]), "a marker is told"


def test_prefixes_count_towards_the_limit_and_none_comes_twice(store: Store, bucket: Ino) -> None:
    for key in (b"a/1", b"a/2", b"b", b"c/1", b"c/d/1", b"e"):
        put(store, bucket, key)
    told, after, pages = [], b"", 0
    while True:
        page = store.objects.list(bucket, delimiter=b"/", after=after, limit=2)
        told += sorted([*(item.key for item in page.objects), *page.prefixes])
        pages += 1
        assert len(page.objects) + len(page.prefixes) <= 2
        if not page.truncated:
            break
        after = page.next
    assert told == [b"a/", b"b", b"c/", b"e"]
    assert pages == 2, "a page that is full and the last one is not truncated"
    assert prefixes(store, bucket, prefix=b"c/") == ([b"c/d/"], [b"c/d/"])


def test_a_page_that_ends_early_ends_not_before_a_prefix_that_it_told(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next page would leave the prefix out, or begin within it."""
    monkeypatch.setattr(listing, "LOOKED_MAX", 1)
    for key in (b"a/1", b"a/2", b"a/3", b"b/1", b"b/2", b"c"):
        put(store, bucket, key)
        put(store, bucket, key)
    for fetch in ("list", "list_versions"):
        told: list[bytes] = []
        marker, version, turns = b"", "", 0
        while True:
            turns += 1
            assert turns < 50
            if fetch == "list":
                page = store.objects.list(bucket, delimiter=b"/", after=marker)
            else:
                page = store.objects.list_versions(bucket, delimiter=b"/", key_marker=marker, version_id_marker=version)
            told += [*page.prefixes, *(item.key for item in page.objects)]
            if not page.truncated:
                break
            marker, version = page.next, page.next_version
        assert sorted(told) == [b"a/", b"b/", *[b"c"] * (1 if fetch == "list" else 2)], fetch


def test_a_page_that_ends_early_does_not_end_at_what_would_pass_for_a_prefix(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is no object, and ends in the delimiter: the next page would pass over all that begin with it."""
    monkeypatch.setattr(listing, "LOOKED_MAX", 0)
    store.tree.symlink(bucket, b"x-", b"t", 0, WRITER)
    put(store, bucket, b"x-1")
    put(store, bucket, b"y")
    for fetch in ("list", "list_versions"):
        told: list[bytes] = []
        marker = b""
        for _ in range(20):
            if fetch == "list":
                page = store.objects.list(bucket, delimiter=b"-", after=marker)
            else:
                page = store.objects.list_versions(bucket, delimiter=b"-", key_marker=marker)
            told += [*page.prefixes, *(item.key for item in page.objects)]
            marker = page.next
            if not page.truncated:
                break
        assert told == [b"x-", b"y"], fetch


def test_what_is_behind_everything_with_a_prefix() -> None:
    assert following(b"a") == b"b"
    assert following(b"a\xff") == b"b"
    assert following(b"a\xff\xff") == b"b"
    assert following(b"\xff") is None
    assert following(b"") is None


def test_a_page_begins_behind_a_prefix_that_was_told() -> None:
    assert Listing(b"", b"/", 10, b"a/").start() == b"a0"
    assert Listing(b"", b"/", 10, b"a").start() == b"a\0"
    assert Listing(b"b", b"/", 10, b"a").start() == b"b"
    assert Listing(b"a/", b"/", 10, b"a/").start() == b"a/\0", "the prefix itself is no common one"
    assert Listing(b"", b"\xff", 10, b"\xff").start() is None
    assert Listing(b"", b"", 0, b"").start() is None


def test_a_page_of_versions_goes_on_where_the_null_version_went(store: Store) -> None:
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    put(store, plain, b"k", b"null")
    store.set_versioning(plain, State.ENABLED)
    ids = ["null", *(str(put(store, plain, b"k").version_id) for _ in range(3))][::-1]
    page = store.objects.list_versions(plain, limit=2)
    assert [item.version_id for item in page.objects] == ids[:2]
    rest = store.objects.list_versions(plain, key_marker=b"k", version_id_marker=ids[1])
    assert [item.version_id for item in rest.objects] == ids[2:]
    assert store.objects.list_versions(plain, key_marker=b"k", version_id_marker="null").objects == []
    assert store.objects.list_versions(plain, key_marker=b"k").objects == []
    store.objects.purge(plain, b"k", "null", WRITER)
    told = store.objects.list_versions(plain, key_marker=b"k", version_id_marker="null").objects
    assert [item.version_id for item in told] == ids[:3], "rather twice than never"


def test_current_objects_are_those_that_live_and_are_published(store: Store, bucket: Ino) -> None:
    save(store, bucket, b"a", b"1")
    store.tree.symlink(bucket, b"b", b"t", 0, WRITER)
    store.tree.mknod(bucket, b"c", 0o010600, 0, 0, WRITER)
    store.tree.create(bucket, b"d", 0o644, 0, WRITER)
    save(store, bucket, b"e", b"1")
    store.tree.unlink(bucket, b"e", WRITER)
    save(store, bucket, b"f", b"1")
    store.tree.unlink(bucket, b"f", WRITER)
    store.tree.create(bucket, b"f", 0o644, 0, WRITER)  # made again, and not yet closed
    assert [item.key for item in store.objects.list(bucket).objects] == [b"a"]
    kinds = [(item.key, item.version.kind) for item in store.objects.list_versions(bucket).objects]
    assert kinds == [
        (b"a", Kind.CONTENT),
        (b"e", Kind.MARKER),
        (b"e", Kind.CONTENT),
        (b"f", Kind.MARKER),
        (b"f", Kind.CONTENT),
    ]


# -- ranges that fall on a leaf ---------------------------------------------------------------------------------------


@pytest.fixture
def leaf(monkeypatch: pytest.MonkeyPatch) -> int:
    """The length of a leaf, small; trees of several levels."""
    for module in (blocks, content, objects):
        monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    monkeypatch.setattr(content, "FANOUT", 2)
    return 64


def numbered(length: int) -> bytes:
    return bytes((at * 7 + at // 64) % 255 + 1 for at in range(length))


def edges(leaf: int, end: int) -> list[int]:
    """Offsets on leaves, one before and one behind."""
    found = {at + more for at in range(0, end + 1, leaf) for more in (-1, 0, 1)} | {end - 1, end}
    return sorted(at for at in found if 0 <= at <= end)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 320, 330])
def test_any_range_is_read(store: Store, bucket: Ino, leaf: int, size: int) -> None:
    data = numbered(size)
    copy = WorkingCopy(store.core.blocks, body(store, bucket, data))
    for start in edges(leaf, size):
        for stop in edges(leaf, size + 2):
            if stop >= start:
                assert copy.read(start, stop - start) == data[start:stop], (start, stop)


@pytest.mark.parametrize("before", [0, 1, 63, 64, 128, 192])
def test_any_range_is_appended_behind_anything(store: Store, bucket: Ino, leaf: int, before: int) -> None:
    """Whole leaves are shared only where they fall on leaves, on both sides; nothing of what is beside comes along."""
    size = 5 * leaf + 10
    data, first = numbered(size), numbered(1000)[700 : 700 + before]
    source = body(store, bucket, data)
    for start in edges(leaf, size):
        for stop in edges(leaf, size):
            if stop < start:
                continue
            copy = store.objects.begin_content(bucket)
            copy.write(0, first)
            for _ in store.objects.append(copy, source, offset=start, length=stop - start):
                pass
            wanted = first + data[start:stop]
            assert copy.size == len(wanted), (start, stop)
            assert copy.read(0, copy.size + 1) == wanted, (start, stop)
            assert copy.seal() == body(store, bucket, wanted), "equal bytes, equal manifest"
            store.objects.end_content(copy)


def test_a_range_before_a_hole_and_behind_it(store: Store, bucket: Ino, leaf: int) -> None:
    data = numbered(leaf) + bytes(2 * leaf) + numbered(leaf) + bytes(5)
    source = body(store, bucket, data)
    assert source.holes == 3
    for start in edges(leaf, len(data)):
        copy = store.objects.begin_content(bucket)
        for _ in store.objects.append(copy, source, offset=start):
            pass
        assert copy.read(0, copy.size) == data[start:]
        assert copy.seal() == body(store, bucket, data[start:])
        store.objects.end_content(copy)


@pytest.mark.parametrize("sizes", [[64, 64, 10], [128, 1], [64, 65, 64], [1, 64], [63, 64, 64]])
def test_parts_of_any_length_are_put_together(store: Store, bucket: Ino, leaf: int, sizes: list[int]) -> None:
    upload = store.uploads.create(bucket, b"k", ObjectInfo())
    parts = [numbered(1000)[100 * at : 100 * at + size] for at, size in enumerate(sizes)]
    for number, data in enumerate(parts, 1):
        store.uploads.put_part(bucket, b"k", upload, number, body(store, bucket, data), f"e{number}")
    for _ in store.uploads.complete(
        bucket, b"k", upload, [(number, f"e{number}") for number in range(1, len(parts) + 1)], WRITER, etag="m"
    ):
        pass
    item = store.objects.current(bucket, b"k")
    assert WorkingCopy(store.core.blocks, item.content).read(0, 1000) == b"".join(parts)
    assert item.content == body(store, bucket, b"".join(parts))
