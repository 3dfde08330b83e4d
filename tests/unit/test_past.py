"""What a mount shows of the past, asked without a mount: `.snapshots`, `.versions`, `user.vfs.*`, and who asks."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyfuse3
import pytest

from tests.unit.conftest import Clock
from tests.unit.doors import Replies, caller, door_to
from tests.unit.test_catalog import save
from tests.unit.test_history import mkdir, remove_all
from tests.unit.test_objects import put
from tests.unit.test_tree import ALICE, BOB, LIST, ROOT, write
from vfs import acl
from vfs.errors import AccessDenied, CrossBucket, NoSuchKey, NotPermitted, VfsError
from vfs.fuse import callers, operations, snapshots
from vfs.fuse.callers import READ, SEARCH, WRITE, Caller, Callers
from vfs.fuse.nodes import Node, number, split
from vfs.fuse.past import PastTree
from vfs.history import Rights
from vfs.model import SEQ_MAX, STORE_ROOT, Ino, KeyId, Seq, State, Writer
from vfs.names import format_gmt, format_version_id
from vfs.store import Store

HOUR_S = 3600
AS_ROOT, AS_ALICE, AS_BOB = Caller(caller()), Caller(caller(1000, 1000)), Caller(caller(1001, 1001))


def key_of(store: Store, parent: Ino, name: bytes) -> KeyId:
    key = store.core.catalog.key(parent, name)
    assert key is not None
    return key


def sequences(store: Store, parent: Ino, name: bytes) -> list[Seq]:
    """Of the versions of a name, newest first."""
    return [seq for seq, _ in store.history.versions(key_of(store, parent, name))]


def moment(store: Store, bucket: Ino, past: PastTree, seq: Seq | None = None, who: Caller = AS_ROOT) -> int:
    """The node of a bucket as it was at a version, or as it is now."""
    name = format_version_id(seq or store.core.catalog.last_seq).encode()
    return past.lookup(number(Node.SNAPSHOTS, bucket), name, who).ino


# -- who asks ---------------------------------------------------------------------------------------------------------


def groups_of(monkeypatch: pytest.MonkeyPatch, found: dict[int, set[int]]) -> None:
    """The supplementary groups of processes; asking for those of any other fails as for one that has ended."""

    def get_sup_groups(pid: int) -> set[int]:
        if pid not in found:
            raise FileNotFoundError
        return found[pid]

    monkeypatch.setattr(callers, "get_sup_groups", get_sup_groups)


def test_the_groups_of_a_process_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened a listing may be gone when it is read: somebody else has the descriptor."""
    running = {7: {2000}}
    groups_of(monkeypatch, running)
    held, late, asked = (Caller(caller(5, 5, 7)) for _ in range(3))
    held.hold()
    assert asked.is_in(2000)
    del running[7]
    assert held.is_in(2000)
    assert asked.is_in(2000), "known since it was asked"
    assert not late.is_in(2000), "nobody can know, so no"
    assert late.is_in(5)
    assert not late.may(Rights(6, 2000, 0o040), READ)
    assert held.may(Rights(6, 2000, 0o040), READ)


def test_a_process_that_is_really_gone_has_no_groups() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert not Caller(caller(5, 5, process.pid)).hold().is_in(0)
    assert Callers().writer(caller(5, 5, process.pid)).program == ""


def test_a_listing_is_that_of_who_opened_it(store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch) -> None:
    running = {7: {2000}}
    groups_of(monkeypatch, running)
    made = store.tree.mkdir(bucket, b"d", 0o750, 2000, ALICE)[0]
    write(store, made, b"f", b"x", ALICE)
    remove_all(store, bucket, b"d")
    again = store.tree.mkdir(bucket, b"d", 0o755, 2000, BOB)[0]
    assert again != made
    past = PastTree(store)

    def listed(who: Caller) -> list[bytes]:
        return [name for name, _, _ in past.list(number(Node.DIRECTORY, again), 0, who)]

    member = Caller(caller(5, 5, 7)).hold()
    del running[7]
    assert listed(member) == [b"f"]
    assert listed(Caller(caller(5, 5, 7)).hold()) == []


@contextlib.contextmanager
def running(count: int) -> Iterator[list[int]]:
    """The numbers of so many processes of `cat`."""
    processes = [subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"x")
            process.stdin.flush()
            assert process.stdout.read(1) == b"x"  # it is cat by now, no longer a copy of this
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_the_name_of_a_program_is_that_of_the_process_that_has_the_number_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of its name is kept open, and tells when its process is gone."""
    known = Callers()
    with running(1) as (pid,):
        assert known.writer(caller(pid=pid)).program == "cat"
    real = os.open

    def instead(path: str, flags: int) -> int:
        return real("/proc/self/comm" if path == f"/proc/{pid}/comm" else path, flags)

    monkeypatch.setattr(os, "open", instead)
    assert known.writer(caller(pid=pid)).program == Path("/proc/self/comm").read_text().strip()


def test_so_many_names_of_programs_are_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "NAMES_OPEN_MAX", 2)
    known = Callers()
    with running(4) as pids:
        for pid in pids * 2:
            assert known.writer(caller(pid=pid)).program == "cat"
            assert len(known._names) <= 2


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "may"),
    [
        (1000, 5, 0o400, READ),
        (1000, 5, 0o047, 0),  # the owner's class decides, though others may
        (5, 1000, 0o040, READ),
        (5, 1000, 0o407, 0),  # and the group's
        (5, 5, 0o004, READ),
        (5, 5, 0o770, 0),
        (5, 5, 0o003, WRITE | SEARCH),
        (1000, 5, 0o700, READ | WRITE | SEARCH),
    ],
)
def test_what_permission_bits_allow(uid: int, gid: int, mode: int, may: int) -> None:
    owned = Rights(uid, gid, mode)
    for wanted in range(1, 8):
        assert AS_ALICE.may(owned, wanted) == (may & wanted == wanted), wanted
        assert AS_ROOT.may(owned, wanted)
    assert AS_ALICE.owns(owned) == (uid == 1000)
    assert AS_ROOT.owns(owned)


def test_a_group_that_a_list_names_is_also_the_callers_first() -> None:
    entries = acl.encode((*LIST[:3], acl.Entry(acl.Tag.GROUP, 77, 7), *LIST[3:]))
    owned = Rights(6, 6, 0o670, entries)
    assert Caller(caller(9, 77)).may(owned, WRITE)
    assert not Caller(caller(8, 78)).may(owned, READ)
    assert Caller(caller(5, 78)).may(owned, WRITE), "by name"
    assert not Caller(caller(5, 78)).may(owned._replace(mode=0o640), WRITE), "within the mask, which a chmod sets"


# -- moments ----------------------------------------------------------------------------------------------------------


def shown(store: Store, bucket: Ino) -> list[str]:
    past = PastTree(store)
    return [name.decode() for name, _, _ in past.list(number(Node.SNAPSHOTS, bucket), 0, AS_ROOT)]


def test_the_list_of_moments_is_bounded_and_of_what_changed(store: Store, bucket: Ino, clock: Clock) -> None:
    """A store of four months in which something changes every 50 minutes."""
    assert len(shown(store, bucket)) <= 2
    for _ in range(120 * 24 * 60 // 50):
        store.tree.set_attributes(bucket, mode=0o755)
        put(store, bucket, b"k")
        clock.pass_s(50 * 60)
    names = shown(store, bucket)
    most = sum(count for _, count in snapshots._SHOWN) + snapshots.LATEST_MAX
    assert most // 2 < len(names) <= most
    assert names == sorted(names, reverse=True), "newest first"
    assert len(set(names)) == len(names)
    clock.pass_s(365 * 24 * HOUR_S)
    last = [name for name, _ in zip(names, range(snapshots.LATEST_MAX), strict=False)]
    assert len(shown(store, bucket)) == len(last), "a year in which nothing changes leaves the last changes"


def test_only_hours_in_which_something_changed_are_listed(store: Store, bucket: Ino, clock: Clock) -> None:
    clock.now += -clock.now % (24 * HOUR_S * 10**9)
    put(store, bucket, b"k")
    clock.pass_s(3 * HOUR_S)
    put(store, bucket, b"k")
    clock.pass_s(2 * HOUR_S)
    hours = [name[-8:-6] for name in shown(store, bucket) if name.endswith(".00.00")]
    assert hours == ["04", "01"], "the ends of the hours of both"


def test_moments_that_are_none(store: Store, bucket: Ino, clock: Clock) -> None:
    past = PastTree(store)
    put(store, bucket, b"k")
    future = Seq(clock.now // 1000 + 10_000_000)
    for name in (b"x", b"", b"\xff", b"null", format_version_id(future).encode(), b"99991231T235959.999999Z"):
        with pytest.raises(NoSuchKey):
            past.lookup(number(Node.SNAPSHOTS, bucket), name, AS_ROOT)
    assert moment(store, bucket, past)


def test_no_moment_before_the_bucket_was_made(store: Store, bucket: Ino, clock: Clock) -> None:
    clock.pass_s(10)
    young = store.create_bucket(b"young", uid=0, gid=0)
    created = store.bucket(young).created
    past = PastTree(store)
    assert moment(store, young, past, created)
    for seq in (Seq(created - 1), Seq(1)):
        with pytest.raises(NoSuchKey):
            moment(store, young, past, seq)
    assert moment(store, bucket, past, Seq(created - 1)), "of another bucket it is one"


def test_up_to_the_last_version_is_no_future_though_the_clock_is_put_back(
    store: Store, bucket: Ino, clock: Clock
) -> None:
    put(store, bucket, b"k")
    clock.now -= HOUR_S * 10**9
    put(store, bucket, b"l")
    past = PastTree(store)
    node = moment(store, bucket, past)
    assert [name for name, _, _ in past.list(node, 0, AS_ROOT)] == [b"k", b"l"]
    with pytest.raises(NoSuchKey):
        moment(store, bucket, past, Seq(store.core.catalog.last_seq + 1))


def test_the_latest_changes_of_the_bucket_are_listed(store: Store, bucket: Ino, clock: Clock) -> None:
    clock.now += 10**9 - clock.now % 10**9 + HOUR_S * 10**9 + 123
    other = store.create_bucket(b"other", uid=0, gid=0)
    for _ in range(snapshots.LATEST_MAX + 5):
        for _ in range(3):
            put(store, bucket, b"k")
        put(store, other, b"k")
        clock.pass_s(1)
    put(store, other, b"k")
    clock.pass_s(0.5)
    put(store, bucket, b"k")
    names = shown(store, bucket)
    assert len(names) >= snapshots.LATEST_MAX
    past = PastTree(store)
    second = -(-sequences(store, bucket, b"k")[1] // 10**6) * 10**6
    expected = [format_gmt(second - back * 10**6) for back in range(snapshots.LATEST_MAX)]
    assert names[: snapshots.LATEST_MAX] == expected, "but this second, which is not over"
    assert past.lookup(number(Node.SNAPSHOTS, bucket), names[0].encode(), AS_ROOT)


def test_the_moments_that_were_not_used_for_longest_are_forgotten(
    store: Store, bucket: Ino, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MOMENTS_MAX", 3)
    monkeypatch.setattr(snapshots, "_SLOTS", 5)
    put(store, bucket, b"k")
    clock.pass_s(100)
    past = PastTree(store)
    start = store.core.catalog.last_seq
    kept = moment(store, bucket, past, start)
    (row,) = past.list(kept, 0, AS_ROOT)
    nodes = []
    for later in range(1, 20):
        nodes.append(moment(store, bucket, past, Seq(start + later)))
        assert past.stat(kept), "what is used stays"
        assert moment(store, bucket, past, start) == kept
        assert [one[0] for one in past.list(nodes[-1], 0, AS_ROOT)] == [row[0]]
    assert len(set(nodes)) < len(nodes), "numbers come again"
    with pytest.raises(NoSuchKey):
        past.stat(next(node for node in nodes if node not in nodes[-2:]))


def test_a_number_of_another_life_of_the_daemon_leads_nowhere(store: Store, bucket: Ino) -> None:
    past = PastTree(store)
    put(store, bucket, b"k")
    node = moment(store, bucket, past)
    assert past.stat(node).ino == node
    other = PastTree(store)
    for call in (
        lambda: other.stat(node),
        lambda: other.lookup(node, b"k", AS_ROOT),
        lambda: list(other.list(node, 0, AS_ROOT)),
    ):
        with pytest.raises(NoSuchKey):
            call()


def test_a_file_that_was_closed_to_others_through_an_open_directory(store: Store, bucket: Ino) -> None:
    """Whoever has the directory of a moment open, from when it could be read, reads no more of it than now."""
    directory = mkdir(store, bucket, b"d")
    ino = write(store, directory, b"f", b"secret", ALICE, 0o644)
    past = PastTree(store)
    then = past.lookup(moment(store, bucket, past), b"d", AS_BOB).ino
    node = past.lookup(then, b"f", AS_BOB).ino
    past.check_readable(node, AS_BOB)
    store.tree.set_attributes(ino, mode=0o600)
    for found in (past.stat(node), past.lookup(then, b"f", AS_BOB), *(one for _, one, _ in past.list(then, 0, AS_BOB))):
        assert stat.S_IMODE(found.mode) & 0o077 == 0
    with pytest.raises(AccessDenied):
        past.check_readable(node, AS_BOB)
    past.check_readable(node, AS_ALICE)


async def test_who_has_it_open_is_shown_nothing_more_after_a_chmod(
    store: Store, bucket: Ino, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel asked once, when it was opened."""
    directory = mkdir(store, bucket, b"d")
    ino = write(store, directory, b"f", b"x", ALICE)
    for inode in (bucket, directory):
        store.tree.set_attributes(inode, uid=ALICE.uid)
    clock.pass_s(2)
    replies = Replies(monkeypatch)
    door = door_to(store)
    then = door._past.lookup(moment(store, bucket, door._past), b"d", AS_BOB).ino
    key = key_of(store, directory, b"f")
    for node, closed in (
        (number(Node.DIRECTORY, directory), directory),
        (number(Node.KEY, key), ino),
        (number(Node.SNAPSHOTS, bucket), bucket),
        (then, directory),
    ):
        fh = await door.opendir(node, caller(1001, 1001))
        names = await replies.ask(door, fh, 0, 10)
        assert len(names) > 2, "more than . and .."
        cookie = names[1][1]
        mode = store.tree.inode(closed).mode
        store.tree.set_attributes(closed, mode=mode & ~0o077)
        with pytest.raises(pyfuse3.FUSEError) as refused:
            await replies.ask(door, fh, cookie, 10)
        assert refused.value.errno == errno.EACCES
        store.tree.set_attributes(closed, mode=mode)
        assert await replies.ask(door, fh, cookie, 10) == names[2:]
    log = (await door.open(number(Node.LOG, key), os.O_RDONLY, caller(1001, 1001))).fh
    assert await door.read(log, 0, 1000)
    store.tree.set_attributes(ino, mode=0o600)
    with pytest.raises(pyfuse3.FUSEError) as refused:
        await door.read(log, 0, 1000)
    assert refused.value.errno == errno.EACCES


async def test_a_version_is_opened_by_who_may_read_it_and_its_key(store: Store, bucket: Ino) -> None:
    """The kernel saw the mode of the version only, which was open; by now the name is Alice's, closed."""
    write(store, bucket, b"f", b"open then", BOB, 0o644)
    write(store, bucket, b"n", b"closed", ALICE, 0o600)
    seq = sequences(store, bucket, b"f")[0]
    store.tree.rename(bucket, b"n", bucket, b"f", ALICE)
    door = door_to(store)
    node = number(Node.VERSION, seq)
    assert door._past.stat(node).mode & 0o044, "as hard to read as the file itself was"
    with pytest.raises(pyfuse3.FUSEError):
        await door.open(node, os.O_RDONLY, caller(5, 5))
    with pytest.raises(pyfuse3.FUSEError):
        await door.getxattr(node, b"user.vfs.etag", caller(5, 5))
    info = await door.open(node, os.O_RDONLY, caller())
    assert await door.read(info.fh, 0, 100) == b"open then"
    await door.release(info.fh)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with pytest.raises(pyfuse3.FUSEError):
            await door.open(node, flags, caller())


def test_a_directory_that_moved_is_no_easier_to_get_into(store: Store, bucket: Ino) -> None:
    directory = mkdir(store, bucket, b"d")
    save(store, directory, b"f", b"x")
    closed = store.tree.mkdir(bucket, b"closed", 0o700, 0, ROOT)[0]
    inner = mkdir(store, closed, b"in")
    past = PastTree(store)
    node = moment(store, bucket, past)
    assert past.lookup(node, b"d", AS_BOB)
    store.tree.rename(bucket, b"d", inner, b"d", ROOT)
    with pytest.raises(AccessDenied):
        past.lookup(node, b"d", AS_BOB)
    assert past.lookup(node, b"d", AS_ROOT)
    store.tree.set_attributes(closed, mode=0o755)
    store.tree.set_attributes(inner, mode=0o700)
    with pytest.raises(AccessDenied):
        past.lookup(node, b"d", AS_BOB)


def test_a_moment_shows_what_was_there_and_nothing_else(store: Store, bucket: Ino) -> None:
    past = PastTree(store)
    directory = mkdir(store, bucket, b"d")
    save(store, directory, b"f", b"x")
    then = moment(store, bucket, past)
    remove_all(store, bucket, b"d")
    save(store, bucket, b"new", b"x")
    now = moment(store, bucket, past)
    assert [name for name, _, _ in past.list(then, 0, AS_ROOT)] == [b"d"]
    assert [name for name, _, _ in past.list(now, 0, AS_ROOT)] == [b"new"]
    below = past.lookup(then, b"d", AS_ROOT)
    assert stat.S_ISDIR(below.mode)
    (row,) = past.list(below.ino, 0, AS_ROOT)
    assert (row[0], split(row[1].ino)[0]) == (b"f", Node.SNAPSHOT_FILE)
    for name in (b"d", b"absent"):
        with pytest.raises(NoSuchKey):
            past.lookup(now, name, AS_ROOT)


def test_an_empty_directory_that_went_is_not_of_1970(store: Store, bucket: Ino, clock: Clock) -> None:
    past = PastTree(store)
    mkdir(store, bucket, b"d")
    then = moment(store, bucket, past)
    shown = past.lookup(then, b"d", AS_ROOT).mtime
    clock.pass_s(5)
    remove_all(store, bucket, b"d")
    assert store.core.clock() - past.lookup(then, b"d", AS_ROOT).mtime < 10 * 10**9
    assert past.lookup(then, b"d", AS_ROOT).mtime >= shown


# -- listings that go on ----------------------------------------------------------------------------------------------


def test_a_moment_shows_what_was_safe_of_a_file_that_stays_open(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"f", b"x")
    past = PastTree(store)
    before = moment(store, bucket, past)
    ino = store.tree.create(bucket, b"log", 0o600, 0, ALICE)[0]
    handle = store.files.open(ino, ALICE, created=True)
    store.files.write(handle, 0, b"a line\n")
    assert list(store.files.interims.make()) == []
    after = moment(store, bucket, past, Seq(store.core.clock() // 1000))
    store.files.write(handle, 7, b"another\n")
    found = past.lookup(after, b"log", AS_ALICE)
    assert (split(found.ino)[0], found.size, found.mode & 0o777) == (Node.SNAPSHOT_OPEN, 7, 0o600)
    copy = store.files.open_safe(ino)
    assert copy.read(0, 100) == b"a line\n"
    store.files.close_version(copy)
    past.check_open(ino, AS_ALICE)
    with pytest.raises(AccessDenied):
        past.check_open(ino, AS_BOB)
    with pytest.raises(NoSuchKey):
        past.lookup(before, b"log", AS_ALICE)
    store.files.release(handle)


@pytest.mark.parametrize("room", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("cookies", [1, 3, 4096])
async def test_a_listing_goes_on_though_names_go(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch, cookies: int, room: int
) -> None:
    """What stays is listed once, also when what was listed is removed without a trace (`rm -rf`)."""
    monkeypatch.setattr(operations, "COOKIES_MAX", cookies)
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    names = [b"%02d" % at for at in range(30)]
    for name in names:
        save(store, plain, name, b"x")
    replies = Replies(monkeypatch)
    door = door_to(store)
    fh = await door.opendir(plain, caller())
    told: list[bytes] = []
    cookie = 0
    while found := await replies.ask(door, fh, cookie, room):
        assert len(found) <= room
        for name, after in found:
            cookie = after
            if name in (b".", b".."):
                continue
            told.append(name)
            store.tree.unlink(plain, name, ROOT)
    assert told == names
    await door.releasedir(fh)


async def test_the_places_of_the_last_names_are_remembered_though_those_have_gone(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may seek back to any name that it was told lately (seekdir), also if that left nothing."""
    monkeypatch.setattr(operations, "COOKIES_MAX", 4)
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    names = [b"%02d" % at for at in range(40)]
    for name in names:
        save(store, plain, name, b"x")
    replies = Replies(monkeypatch)
    door = door_to(store)
    fh = await door.opendir(plain, caller())
    told: list[tuple[bytes, int]] = []
    cookie = 0
    while found := await replies.ask(door, fh, cookie, 3):
        told += [(name, after) for name, after in found if name not in (b".", b"..")]
        cookie = found[-1][1]
        for name, _ in told[-3:]:
            if store.tree.find(plain, name) is not None:
                store.tree.unlink(plain, name, ROOT)
        for name, after in told[-4:]:
            at = names.index(name) + 1
            left = [one for one in names[at:] if store.tree.find(plain, one) is not None]
            assert [one for one, _ in await replies.ask(door, fh, after, 2)] == left[:2], name
    assert [name for name, _ in told] == names


@pytest.mark.parametrize("room", [1, 5])
async def test_a_listing_goes_on_from_any_place_that_it_told(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(operations, "COOKIES_MAX", 2)
    for at in range(12):
        (mkdir if at % 3 == 0 else lambda *a: save(*a, b"x"))(store, bucket, b"%02d" % at)
    replies = Replies(monkeypatch)
    door = door_to(store)
    fh = await door.opendir(bucket, caller())
    everything: list[tuple[bytes, int]] = []
    cookie = 0
    while found := await replies.ask(door, fh, cookie, room):
        everything += found
        cookie = found[-1][1]
    assert [name for name, _ in everything] == [b".", b"..", *(b"%02d" % at for at in range(12))]
    for at, (_, cookie) in enumerate(everything):
        rest = []
        while found := await replies.ask(door, fh, cookie, room):
            rest += found
            cookie = found[-1][1]
        assert rest == everything[at + 1 :]


async def test_the_cookie_of_another_directory_tells_nothing(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = mkdir(store, bucket, b"closed")
    ino = save(store, closed, b"m", b"x")
    mine = mkdir(store, bucket, b"mine")
    for name in (b"a", b"z"):
        save(store, mine, name, b"x")
    key = store.core.catalog.inode(ino).key
    replies = Replies(monkeypatch)
    door = door_to(store)
    fh = await door.opendir(mine, caller())
    with pytest.raises(pyfuse3.FUSEError):
        await replies.ask(door, fh, key, 10)
    past = door._past
    for node, cookie in (
        (number(Node.DIRECTORY, mine), number(Node.DIRECTORY, key)),
        (past.lookup(moment(store, bucket, past), b"mine", AS_ROOT).ino, key),
    ):
        with pytest.raises(NoSuchKey):
            list(past.list(node, cookie, AS_ROOT))


@pytest.mark.parametrize("at", range(6))
def test_lists_of_the_past_go_on_behind_any_row(store: Store, bucket: Ino, at: int) -> None:
    for name in (b"a", b"b", b"c"):
        save(store, bucket, name, b"1")
        save(store, bucket, name, b"2")
    mkdir(store, bucket, b"d")
    past = PastTree(store)
    for node in (
        number(Node.DIRECTORY, bucket),
        number(Node.KEY, key_of(store, bucket, b"b")),
        moment(store, bucket, past),
        number(Node.SNAPSHOTS, bucket),
    ):
        rows = list(past.list(node, 0, AS_ROOT))
        if at < len(rows):
            assert list(past.list(node, rows[at][2], AS_ROOT)) == rows[at + 1 :]


# -- what the attributes do -------------------------------------------------------------------------------------------


def restoring(store: Store, who: tuple[int, int], directory: Ino, seq: Seq, path: bytes) -> None:
    """What `vfs restore` does, as somebody."""
    ctx = caller(*who)
    door_to(store)._attributes.restore(directory, b"%d\0%s" % (seq, path), ctx, Writer(who[0], 1, "test"))


BY_BOB, BY_ALICE = (1001, 1001), (1000, 1000)


def test_who_may_restore_what(store: Store, bucket: Ino) -> None:
    """What cp would ask for: to read the version, its key and all above; to search the way; to write to the target."""
    store.tree.set_attributes(bucket, mode=0o777)
    private = store.tree.mkdir(bucket, b"private", 0o700, 0, ALICE)[0]
    write(store, private, b"in", b"secret", ALICE, 0o644)
    write(store, bucket, b"closed", b"secret", ALICE, 0o600)
    write(store, bucket, b"open", b"old", ALICE, 0o644)
    write(store, bucket, b"mine", b"x", BOB, 0o644)
    hers = store.tree.mkdir(bucket, b"hers", 0o755, 0, ALICE)[0]
    shut = store.tree.mkdir(bucket, b"shut", 0o700, 0, ALICE)[0]
    below = store.tree.mkdir(shut, b"below", 0o777, 0, ALICE)[0]
    other = store.create_bucket(b"other", uid=1001, gid=0, mode=0o777)
    seqs = {name: sequences(store, bucket, name)[0] for name in (b"closed", b"open", b"mine")}
    hidden = sequences(store, private, b"in")[0]
    for seq, directory, path, error in (
        (hidden, bucket, b"copy", AccessDenied),  # a directory above is closed
        (seqs[b"closed"], bucket, b"copy", AccessDenied),  # the key is
        (seqs[b"open"], bucket, b"closed", AccessDenied),  # over what he may not write to
        (seqs[b"open"], bucket, b"hers/copy", AccessDenied),  # where he may make nothing
        (seqs[b"open"], bucket, b"shut/below/copy", AccessDenied),  # through what he may not search
        (seqs[b"open"], other, b"copy", CrossBucket),
        (seqs[b"open"], bucket, b"absent/copy", NoSuchKey),
    ):
        before = store.core.journal.end
        with pytest.raises(error):
            restoring(store, BY_BOB, directory, seq, path)
        assert store.core.journal.end == before, path
    restoring(store, BY_BOB, bucket, seqs[b"open"], b"copy")
    assert store.tree.lookup(bucket, b"copy")[1].uid == 1001
    restoring(store, BY_ALICE, bucket, hidden, b"hers/copy")
    assert store.tree.lookup(hers, b"copy")[1].uid == 1000
    assert store.tree.find(below, b"copy") is None


def test_a_version_of_a_closed_file_at_a_name_that_is_open_now_is_not_restored(store: Store, bucket: Ino) -> None:
    store.tree.set_attributes(bucket, mode=0o777)
    write(store, bucket, b"f", b"secret", ALICE, 0o600)
    seq = sequences(store, bucket, b"f")[0]
    write(store, bucket, b"n", b"open", BOB, 0o666)
    store.tree.rename(bucket, b"n", bucket, b"f", BOB)
    with pytest.raises(AccessDenied):
        restoring(store, BY_BOB, bucket, seq, b"copy")
    restoring(store, (0, 0), bucket, seq, b"copy")


def test_a_sticky_directory_keeps_what_others_have_there(store: Store, bucket: Ino) -> None:
    """Restoring over what is no regular file is a rename over it."""
    store.tree.set_attributes(bucket, mode=0o1777)
    store.tree.symlink(bucket, b"link", b"t", 0, ALICE)
    write(store, bucket, b"mine", b"x", BOB, 0o644)
    seq = sequences(store, bucket, b"mine")[0]
    with pytest.raises(NotPermitted):
        restoring(store, BY_BOB, bucket, seq, b"link")
    assert store.tree.inode(store.tree.lookup(bucket, b"link")[0]).target == b"t"
    store.tree.symlink(bucket, b"own", b"t", 0, BOB)
    restoring(store, BY_BOB, bucket, seq, b"own")


def test_a_directory_comes_back_only_where_its_restorer_may_make_it(store: Store, bucket: Ino) -> None:
    above = store.tree.mkdir(bucket, b"above", 0o755, 0, ALICE)[0]
    mine = store.tree.mkdir(above, b"mine", 0o777, 0, ALICE)[0]
    write(store, mine, b"f", b"x", ALICE, 0o644)
    seq = sequences(store, mine, b"f")[0]
    store.tree.unlink(mine, b"f", ALICE)
    store.tree.rmdir(above, b"mine", ALICE)
    with pytest.raises(AccessDenied):
        restoring(store, BY_BOB, bucket, seq, b"above/mine/f")
    assert store.tree.find(above, b"mine") is None
    restoring(store, BY_ALICE, bucket, seq, b"above/mine/f")
    assert store.tree.find(above, b"mine") == mine


async def test_only_its_owner_says_what_a_bucket_does(store: Store) -> None:
    made = store.create_bucket(b"hers", uid=1000, gid=1000)
    directory = mkdir(store, made, b"d")
    door = door_to(store)
    for word, value in (
        (b"versioning", b"Suspended"),
        (b"compression", b"zstd"),
        (b"lock", b"on"),
        (b"lifecycle", b"[]"),
        (b"expiring", b"x"),
    ):
        before = store.core.journal.end
        for ino, who in ((made, (1001, 1001)), (directory, (0, 0)), (STORE_ROOT, (0, 0))):
            with pytest.raises((NotPermitted, pyfuse3.FUSEError)):
                await door.setxattr(ino, b"user.vfs." + word, value, caller(*who))
        assert store.core.journal.end == before, word
    with pytest.raises(pyfuse3.FUSEError):
        await door.getxattr(made, b"user.vfs.expiring", caller(1001, 1001))  # it names keys
    await door.setxattr(made, b"user.vfs.compression", b"zstd", caller(1000, 1000))
    assert await door.getxattr(made, b"user.vfs.compression", caller(5, 5)) == b"zstd"


async def test_a_preview_names_keys_and_is_its_owners(store: Store) -> None:
    made = store.create_bucket(b"hers", uid=1000, gid=1000)
    door = door_to(store)
    door._attributes._lifecycles._tell(made, {"First": ["a key"]})
    assert b"a key" in await door.getxattr(made, b"user.vfs.expiring", caller(1000, 1000))
    with pytest.raises(pyfuse3.FUSEError) as failed:
        await door.getxattr(made, b"user.vfs.expiring", caller(1001, 1001))
    assert failed.value.errno == errno.EPERM


@pytest.mark.parametrize(("who", "kept"), [((1000, 5), False), ((1000, 2000), True), ((0, 0), True)])
async def test_a_list_set_by_who_is_not_in_the_group_takes_setgid_away(
    store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch, who: tuple[int, int], kept: bool
) -> None:
    groups_of(monkeypatch, {})
    ino = write(store, bucket, b"f", b"x", ALICE)
    store.tree.set_attributes(ino, gid=2000)
    store.tree.set_attributes(ino, mode=0o2770)
    door = door_to(store)
    door.enable_acl = True
    await door.setxattr(ino, acl.ACCESS, acl.encode(LIST), caller(*who))
    assert bool(store.tree.inode(ino).mode & stat.S_ISGID) == kept


async def test_what_resolves_everywhere_and_is_nowhere_cannot_be_removed_or_moved(store: Store, bucket: Ino) -> None:
    door = door_to(store)
    mkdir(store, bucket, b"d")
    for name in (b".versions", b".snapshots"):
        for call in (
            lambda name=name: door.rmdir(bucket, name, caller()),
            lambda name=name: door.rename(bucket, name, bucket, b"x", 0, caller()),
            lambda name=name: door.mkdir(number(Node.DIRECTORY, bucket), b"x", 0o755, caller()),
            lambda name=name: door.rmdir(number(Node.DIRECTORY, bucket), b"d", caller()),
            lambda name=name: door.create(number(Node.SNAPSHOTS, bucket), b"x", 0o644, 0, caller()),
        ):
            with pytest.raises(pyfuse3.FUSEError) as failed:
                await call()
            assert failed.value.errno == errno.EROFS


async def test_what_was_removed_is_told_of_until_the_kernel_forgets_it(store: Store, bucket: Ino) -> None:
    door = door_to(store)
    entry = await door.mknod(bucket, b"p", stat.S_IFIFO | 0o644, 0, caller())
    await door.unlink(bucket, b"p", caller())
    found = await door.getattr(entry.st_ino, caller())
    assert (found.st_nlink, found.st_mode) == (0, stat.S_IFIFO | 0o644)
    await door.forget([(entry.st_ino, 1)])
    with pytest.raises(pyfuse3.FUSEError) as failed:
        await door.getattr(entry.st_ino, caller())
    assert failed.value.errno in (errno.ENOENT, errno.ESTALE)


def test_who_may_read_a_file_may_list_its_versions(store: Store, bucket: Ino) -> None:
    past = PastTree(store)
    ino = write(store, bucket, b"f", b"x", ALICE)
    node = number(Node.KEY, key_of(store, bucket, b"f"))
    for mode in range(0o1000):
        store.tree.set_attributes(ino, mode=mode)
        found = past.stat(node).mode
        for shift in (6, 3, 0):
            assert (found >> shift) & 5 == (5 if mode >> shift & 4 else 0)


def test_a_name_that_was_a_file_and_is_a_closed_directory_leads_nobody_on(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"d", b"open", ALICE)
    store.tree.unlink(bucket, b"d", ALICE)
    closed = store.tree.mkdir(bucket, b"d", 0o700, 0, ALICE)[0]
    write(store, closed, b"f", b"secret", ALICE)
    past = PastTree(store)
    node = past.lookup(number(Node.DIRECTORY, bucket), b"d", AS_BOB).ino
    assert split(node)[0] is Node.KEY
    with pytest.raises(NoSuchKey):
        past.lookup(node, b"f", AS_BOB)
    assert b"f" not in [name for name, _, _ in past.list(node, 0, AS_BOB)]
    assert past.lookup(node, b"f", AS_ALICE)
    assert b"f" in [name for name, _, _ in past.list(node, 0, AS_ALICE)]


async def test_facts_are_read_only(store: Store, bucket: Ino) -> None:
    door = door_to(store)
    ino = save(store, bucket, b"f", b"x")
    before = store.core.journal.end
    for word in (b"etag", b"version_id", b"writer", b"status", b"bucket", b"settled", b"anything"):
        with pytest.raises(pyfuse3.FUSEError):
            await door.setxattr(ino, b"user.vfs." + word, b"x", caller())
        with pytest.raises(pyfuse3.FUSEError):
            await door.removexattr(ino, b"user.vfs." + word, caller())
    assert store.core.journal.end == before


def test_a_log_tells_no_etag_to_who_may_not_read(store: Store, bucket: Ino) -> None:
    write(store, bucket, b"f", b"guessable", ALICE, 0o600)
    write(store, bucket, b"n", b"open", BOB, 0o644)
    store.tree.rename(bucket, b"n", bucket, b"f", BOB)
    past = PastTree(store)
    key = key_of(store, bucket, b"f")
    for who, told in ((AS_BOB, 1), (AS_ROOT, 2)):
        lines, _ = past.read_log(key, operations.LOG_START, who)
        assert len(lines.splitlines()) == 2
        assert lines.count(b'"ETag"') == told


def test_errors_of_the_past_are_the_domains(store: Store, bucket: Ino) -> None:
    """Any node, of anything that is not there: an error that has an errno."""
    past = PastTree(store)
    save(store, bucket, b"f", b"x")
    for node in Node:
        for of in (0, 1, bucket, 99, 1 << 40, SEQ_MAX):
            for call in (
                lambda node=node, of=of: past.stat(number(node, of)),
                lambda node=node, of=of: past.lookup(number(node, of), b"f", AS_ROOT),
                lambda node=node, of=of: list(islice(past.list(number(node, of), 0, AS_ROOT), 5)),
                lambda node=node, of=of: past.version(number(node, of)),
            ):
                with contextlib.suppress(VfsError):
                    call()
