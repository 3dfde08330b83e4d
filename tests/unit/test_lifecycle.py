"""Lifecycles: what is due as a table, and carrying it out in steps."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from vfs import audit, expiring
from vfs.errors import InvalidRule, NoSpace, Unsafe
from vfs.folder import Folder
from vfs.lifecycle import Entry, Expire, Purge, aborts, actions, due, expires, matches
from vfs.model import (
    SEQ_MAX,
    Filter,
    Ino,
    LifecycleRule,
    LockMode,
    ObjectInfo,
    ObjectLock,
    Retention,
    Seq,
    State,
    Upload,
    Writer,
)
from vfs.objects import Object
from vfs.service import lifecycles
from vfs.settings import Settings
from vfs.store import Store

DAY = 86_400_000_000
NOON = 1_800_000_000_000_000 // DAY * DAY + DAY // 2
S3 = Writer(0, 0, "s3")


def rule(**fields: object) -> LifecycleRule:
    return LifecycleRule("r", **{"enabled": True, **fields})  # type: ignore[arg-type]


MARKERS = LifecycleRule("markers", True, expire_marker=True)


def entry(made: int, marker: bool = False, size: int = 10, **tags: str) -> Entry:
    return Entry(Seq(made), marker, size, tags)


def test_a_day_ends_at_the_next_midnight() -> None:
    assert due(1, NOON) == NOON + DAY + DAY // 2
    assert due(0, NOON) == NOON + DAY // 2
    midnight = NOON + DAY // 2
    assert due(1, midnight) == midnight + DAY
    assert due(2, NOON, day_s=10) == NOON + 20_000_000


@pytest.mark.parametrize(
    ("filter", "matching"),
    [
        (Filter(), True),
        (Filter(b"a/"), True),
        (Filter(b"b"), False),
        (Filter(tags={"x": "1"}), True),
        (Filter(tags={"x": "2"}), False),
        (Filter(tags={"x": "1", "y": "1"}), False),
        (Filter(size_above=9), True),
        (Filter(size_above=10), False),
        (Filter(size_below=11), True),
        (Filter(size_below=10), False),
    ],
)
def test_filters(filter: Filter, matching: bool) -> None:  # noqa: A002
    assert matches(filter, b"a/k", 10, {"x": "1"}) == matching


OLD, NEW = entry(NOON), entry(NOON + 5 * DAY)
MARKER = entry(NOON, marker=True)


@pytest.mark.parametrize(
    ("rules", "chain", "days", "wanted"),
    [
        ([], [OLD], 100, []),
        ([rule(expire_days=3)], [OLD], 3, []),
        ([rule(expire_days=3)], [OLD], 4, [Expire("r")]),
        ([rule(expire_days=3, enabled=False)], [OLD], 4, []),
        ([rule(expire_days=3, filter=Filter(b"z"))], [OLD], 4, []),
        ([rule(expire_date=NOON + DAY)], [OLD], 0, []),
        ([rule(expire_date=NOON + DAY)], [OLD], 1, [Expire("r")]),
        ([rule(expire_marker=True)], [MARKER], 0, [Purge("r", 0)]),
        ([rule(expire_marker=True)], [entry(NOON + 1, marker=True), OLD], 9, []),
        ([rule(expire_days=1)], [MARKER], 4, [Purge("r", 0)]),
        ([rule(expire_days=1, filter=Filter(tags={"a": "b"}))], [MARKER], 4, []),
        ([rule(noncurrent_days=2)], [NEW, OLD], 7, []),
        ([rule(noncurrent_days=2)], [NEW, OLD], 8, [Purge("r", 1)]),
        ([rule(noncurrent_days=2, noncurrent_newer=1)], [NEW, OLD], 8, []),
        ([rule(noncurrent_days=2, noncurrent_newer=1)], [NEW, OLD, OLD], 8, [Purge("r", 2)]),
        ([rule(noncurrent_days=2, expire_days=2)], [NEW, OLD, OLD], 8, [Purge("r", 2), Purge("r", 1), Expire("r")]),
        ([rule(noncurrent_days=0)], [NEW, MARKER, OLD], 6, [Purge("r", 2), Purge("r", 1)]),
    ],
)
def test_what_is_due(rules: list[LifecycleRule], chain: list[Entry], days: int, wanted: list[Expire | Purge]) -> None:
    assert actions(rules, b"k", chain, NOON + days * DAY) == wanted


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_long_chain_in_pieces_is_the_same(cut: int) -> None:
    chain = [entry(NOON + (20 - at) * DAY, size=at) for at in range(8)]
    rules = [rule(noncurrent_days=7, noncurrent_newer=2), rule(noncurrent_newer=1, filter=Filter(size_below=4))]
    now = NOON + 25 * DAY
    whole = [action.at for action in actions(rules, b"k", chain, now) if isinstance(action, Purge)]
    assert whole == [7, 6, 5, 4, 3, 2], "three and two by the second rule"
    first = actions(rules, b"k", chain[:cut], now)
    rest = actions(rules, b"k", chain[cut:], now, before=cut, newer=chain[cut - 1].made)
    found = [cut + action.at for action in rest if isinstance(action, Purge)]
    found += [action.at for action in first if isinstance(action, Purge)]
    assert found == whole


@pytest.mark.parametrize(
    "wrong",
    [
        {"expire_days": 0},
        {"noncurrent_days": -1},
        {"abort_days": 40_000},
        {"expire_date": NOON},
        {"expire_days": 1, "expire_marker": True},
        {"noncurrent_newer": -1, "expire_days": 1},
        {},
    ],
)
def test_rules_that_cannot_be(store: Store, bucket: Ino, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRule):
        store.objects.configure(bucket, lifecycle=(rule(**wrong),))
    with pytest.raises(InvalidRule):
        store.objects.configure(bucket, lifecycle=(rule(expire_days=1), rule(expire_days=2)))
    assert store.bucket(bucket).lifecycle == ()


def test_uploads() -> None:
    upload = Upload(b"a/b", Seq(NOON), ObjectInfo())
    one = rule(abort_days=1, filter=Filter(b"a"))
    assert aborts([one], upload, NOON + DAY) is None
    assert aborts([one], upload, NOON + 2 * DAY) == "r"
    assert aborts([rule(abort_days=1, filter=Filter(b"b"))], upload, NOON + 9 * DAY) is None
    assert aborts([rule(abort_days=1, filter=Filter(tags={"a": "b"}))], upload, NOON + 9 * DAY) is None


def test_when_an_object_expires() -> None:
    assert expires([rule(expire_days=1)], b"k", OLD) == (NOON + DAY + DAY // 2, "r")
    assert expires([rule(expire_days=1, filter=Filter(b"z"))], b"k", OLD) is None


class Clock:
    def __init__(self) -> None:
        self.now = NOON * 1000

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store", clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def bucket(store: Store) -> Ino:
    return store.create_bucket(b"bucket", uid=0, gid=0, state=State.ENABLED)


def put(store: Store, bucket: Ino, key: bytes, **info: object) -> Object:
    copy = store.objects.begin_content(bucket)
    copy.write(0, key)
    store.objects.put(bucket, key, copy.seal(), ObjectInfo(**info), S3)  # type: ignore[arg-type]
    store.objects.end_content(copy)
    return store.objects.current(bucket, key)


def run(store: Store, *, dry: bool = False) -> list[tuple[str, bytes]]:
    done = []
    for step in expiring.plan(store):
        done += [(action.what, action.key) for action in step]
        if not dry:
            expiring.carry_out(store, step)
    return done


def test_everything_is_carried_out_and_nothing_else(
    store: Store, bucket: Ino, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "KEYS_PER_STEP_MAX", 3)
    keys = [b"a", b"a/", b"a/b/c/d/e", b"b", b"z/y"]
    for key in keys:
        put(store, bucket, key)
        put(store, bucket, key)
    store.uploads.create(bucket, b"up", ObjectInfo())
    store.objects.configure(bucket, lifecycle=(rule(noncurrent_days=1, abort_days=1, filter=Filter(b"")),))
    assert run(store) == []
    clock.now += 3 * DAY * 1000
    wanted = [*(("purge", key) for key in keys), ("abort", b"up")]
    assert run(store, dry=True) == wanted
    assert run(store) == wanted
    assert run(store) == []
    assert [item.key for item in store.objects.list_versions(bucket).objects] == keys


def test_what_expires_leaves_a_marker_which_goes_when_it_is_alone(store: Store, bucket: Ino, clock: Clock) -> None:
    put(store, bucket, b"d/k")
    store.objects.configure(bucket, lifecycle=(rule(expire_days=1, noncurrent_days=1), MARKERS))
    clock.now += 3 * DAY * 1000
    assert run(store) == [("expire", b"d/k")]
    clock.now += 3 * DAY * 1000
    assert run(store) == [("purge", b"d/k")]
    assert run(store) == [("purge", b"d/k")]
    assert store.objects.list_versions(bucket).objects == []
    assert list(store.tree.entries(bucket)) == []


def test_all_versions_of_a_key_are_looked_at(
    store: Store, bucket: Ino, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "VERSIONS_PER_STEP_MAX", 10)
    ids = [put(store, bucket, b"d/k").version_id for _ in range(57)]
    locked = store.objects.version(bucket, b"d/k", ids[3])
    store.objects.configure(bucket, lock=ObjectLock())
    store.objects.set_legal_hold(locked, True)
    store.objects.configure(bucket, lifecycle=(rule(noncurrent_days=1, noncurrent_newer=31),))
    clock.now += 3 * DAY * 1000
    steps = [step for step in expiring.plan(store) if step]
    assert [action.id for step in steps for action in reversed(step)] == [*ids[24:3:-1], *ids[2::-1]]
    assert max(map(len, steps)) <= 20
    for step in steps:
        expiring.carry_out(store, step)
    left = [item.version_id for item in store.objects.list_versions(bucket).objects]
    assert left == [*ids[:24:-1], ids[3]]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("days", [1, 4, 9])
def test_a_version_is_noncurrent_since_the_next_newer_one_was_made_wherever_a_step_ends(
    store: Store, bucket: Ino, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: int, days: int
) -> None:
    monkeypatch.setattr(expiring, "VERSIONS_PER_STEP_MAX", step)
    ids = []
    for _ in range(10):
        ids.append(put(store, bucket, b"k").version_id)
        clock.now += DAY * 1000
    store.objects.configure(bucket, lifecycle=(rule(noncurrent_days=days),))
    due_now = [action.id for found in expiring.plan(store) for action in found]
    # made at noon of each day, now is noon of the tenth: version n became noncurrent on day n + 1, and is due at the
    # second midnight after so many days
    assert sorted(due_now) == [one for at, one in enumerate(ids[:-1]) if at + 1 + days < 10]


def test_what_is_below_something_else_than_an_object_stays(store: Store, bucket: Ino, clock: Clock) -> None:
    """A symlink took the name: no rule knows of it, so none says what came before."""
    for _ in range(3):
        put(store, bucket, b"k")
    store.tree.symlink(bucket, b"n", b"target", 0, S3)
    store.tree.rename(bucket, b"n", bucket, b"k", S3)
    store.objects.configure(bucket, lifecycle=(rule(noncurrent_days=1, expire_days=1),))
    clock.now += 9 * DAY * 1000
    assert run(store) == []
    assert len(store.objects.list_versions(bucket).objects) == 3
    assert store.tree.lookup(bucket, b"k")[1].target == b"target"


def test_a_deleted_key_whose_history_is_in_two_directories(store: Store, bucket: Ino, clock: Clock) -> None:
    for _ in range(2):
        put(store, bucket, b"d/k")
        store.objects.delete(bucket, b"d/k", S3)
        store.tree.mkdir(bucket, b"d", 0o755, 0, S3)
        store.tree.rmdir(bucket, b"d", S3)
    store.objects.configure(bucket, lifecycle=(rule(noncurrent_days=1), MARKERS))
    clock.now += 3 * DAY * 1000
    while run(store):
        pass
    assert store.objects.list_versions(bucket).objects == []


def test_what_was_decided_is_left_alone_if_it_does_not_hold_any_more(store: Store, bucket: Ino, clock: Clock) -> None:
    put(store, bucket, b"k")
    put(store, bucket, b"k")
    store.uploads.create(bucket, b"up", ObjectInfo())
    rules = (rule(noncurrent_days=1, expire_days=2, abort_days=1),)
    store.objects.configure(bucket, lifecycle=rules)
    clock.now += 3 * DAY * 1000
    due = [action for step in expiring.plan(store) for action in step]
    assert [action.what for action in due] == ["purge", "expire", "abort"]
    store.objects.configure(bucket, lifecycle=())
    expiring.carry_out(store, due)
    assert len(store.objects.list_versions(bucket).objects) == 2, "the rules are gone"
    assert len(store.uploads.every(bucket)) == 1
    store.objects.configure(bucket, lifecycle=rules)
    newest = put(store, bucket, b"k")
    expiring.carry_out(store, due)
    assert store.objects.current(bucket, b"k") == newest, "it is another one that is current"
    expiring.carry_out(store, due)  # once more: nothing is left of it


def test_what_is_locked_stays(store: Store, bucket: Ino, clock: Clock) -> None:
    store.objects.configure(bucket, lock=ObjectLock())
    put(store, bucket, b"k", retention=Retention(LockMode.GOVERNANCE, Seq(NOON + 10 * DAY)))
    held = put(store, bucket, b"k", legal_hold=True)
    put(store, bucket, b"k")
    store.objects.configure(bucket, lifecycle=(rule(noncurrent_days=1),))
    clock.now += 5 * DAY * 1000
    assert run(store) == run(store, dry=True) == []
    clock.now += 6 * DAY * 1000
    assert run(store) == [("purge", b"k")]
    store.objects.set_legal_hold(held, False)
    assert run(store) == [("purge", b"k")]


def test_the_log_is_kept_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FILE_BYTES_MAX", 1000)
    assert list(audit.read(Folder.at(tmp_path))) == []
    for number in range(100):
        audit.append(Folder.at(tmp_path), [{"N": number, "Half": half} for half in range(2)])
    numbers = [line["N"] for line in audit.read(Folder.at(tmp_path))]
    assert numbers == sorted(numbers)
    assert numbers[-2:] == [99, 99]
    assert 1000 < sum(path.stat().st_size for path in tmp_path.iterdir()) < 2100
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_a_torn_line_of_the_log_harms_no_other(tmp_path: Path) -> None:
    audit.append(Folder.at(tmp_path), [{"N": 1}])
    with (tmp_path / audit.FILE).open("ab") as file:
        file.write(b'{"N": 2')
    audit.append(Folder.at(tmp_path), [{"N": 3}])
    assert [line["N"] for line in audit.read(Folder.at(tmp_path))] == [1, 3]


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / audit.FILE).symlink_to("/dev/full")
    with pytest.raises(Unsafe):
        audit.append(Folder.at(tmp_path), [{"N": 1}])
    (tmp_path / audit.FILE).unlink()
    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(NoSpace):
        audit.append(Folder.at(tmp_path), [{"N": 1}])


def deep_file(store: Store, bucket: Ino) -> bytes:
    """A file whose path is longer than the key of an object can be."""
    directory, path = bucket, b""
    for at in range(6):
        name = b"%d" % at + b"d" * 200
        directory, _ = store.tree.mkdir(directory, name, 0o755, 0, S3)
        path += name + b"/"
    ino, _ = store.tree.create(directory, b"f", 0o644, 0, S3)
    store.files.release(store.files.open(ino, S3, created=True))
    return path + b"f"


def test_what_cannot_be_expired_keeps_nothing_else_from_it(
    store: Store, bucket: Ino, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    other = store.create_bucket(b"other", uid=0, gid=0)
    for where in (bucket, other):
        put(store, where, b"a")
        put(store, where, b"z")
        store.objects.configure(where, lifecycle=(rule(expire_days=1, filter=Filter(b"")),))
    key = deep_file(store, bucket)
    broken = put(store, bucket, b"m")
    row = broken.key_id.to_bytes(8, "big") + ((1 << 64) - 1 - broken.seq).to_bytes(8, "big")
    store.core.catalog._put(row, b"?", db=store.core.catalog._objects)
    clock.now += 3 * DAY * 1000
    passed = expiring.Passed()
    due = [action for step in expiring.plan(store, passed=passed) for action in step]
    assert [(action.bucket, action.key) for action in due] == [
        (b"bucket", b"a"),
        (b"bucket", b"z"),
        (b"other", b"a"),
        (b"other", b"z"),
    ]
    expiring.carry_out(store, due, passed)
    assert passed.count == 2
    assert f"lifecycles pass over {key.decode()[:200]}…: a key has at most 1024 bytes" in caplog.text
    assert "lifecycles pass over m: " in caplog.text
    assert [item.key for item in store.objects.list(other).objects] == []


def test_an_action_that_fails_keeps_no_other_from_it(
    store: Store, bucket: Ino, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for key in (b"a", b"b", b"c"):
        put(store, bucket, key)
    store.objects.configure(bucket, lifecycle=(rule(expire_days=1),))
    clock.now += 3 * DAY * 1000
    delete = store.objects.delete

    def fails(ino: Ino, key: bytes, writer: Writer) -> object:
        if key == b"b":
            raise KeyError("a row that is not there")
        return delete(ino, key, writer)

    monkeypatch.setattr(store.objects, "delete", fails)
    run(store)
    assert [item.key for item in store.objects.list(bucket).objects] == [b"b"]
    assert "lifecycles pass over bucket/b" in caplog.text
    monkeypatch.undo()
    run(store)
    assert store.objects.list(bucket).objects == []


async def test_a_preview_ends_and_passes_go_on_whatever_they_meet(
    store: Store, bucket: Ino, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, bucket, b"a")
    deep_file(store, bucket)
    store.objects.configure(bucket, lifecycle=(rule(expire_days=1),))
    clock.now += 3 * DAY * 1000
    monkeypatch.setattr(store, "settings", Settings(lifecycle_interval=0.05))
    running = lifecycles.Lifecycles(store)

    async def until(is_so: Callable[[], object]) -> None:
        with trio.fail_after(20):
            while not is_so():  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def preview() -> dict[str, Any]:
        running.ask(bucket)
        await until(lambda: not (running.preview(bucket) or {"Running": True})["Running"])
        return running.preview(bucket) or {}

    async def settle(_: object) -> None:
        pass

    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as patch:
            patch.setattr(expiring, "plan", broken_plan)
            nursery.start_soon(running.run, settle)
            assert "Error" in await preview()
        with monkeypatch.context() as patch:
            patch.setattr(expiring, "carry_out", lambda *_: [])
            found = await preview()
            assert (found["Expire"], found["PassedOver"]) == (1, 1)
        await until(lambda: [item.key for item in store.objects.list(bucket).objects if item.key == b"a"] == [])
        nursery.cancel_scope.cancel()


def broken_plan(*_: object, **__: object) -> Iterator[list[expiring.Due]]:
    raise RuntimeError("a bug")
    yield []


@pytest.mark.parametrize(
    "wrong",
    [
        {"expire_date": -DAY},
        {"expire_date": (SEQ_MAX // DAY + 1) * DAY},
        {"expire_days": 36_501},
        {"noncurrent_newer": -1},
        {"noncurrent_newer": 1 << 40},
        {"filter": Filter(b"p" * 1025)},
        {"filter": Filter(size_above=-1)},
        {"filter": Filter(size_below=1 << 63)},
        {"filter": Filter(tags={"k" * 129: "v"})},
        {"filter": Filter(tags={"k": "v" * 257})},
        {"filter": Filter(tags={f"k{at}": "v" for at in range(101)})},
        {"form": "Something"},
    ],
)
def test_rules_at_their_edges_are_refused(store: Store, bucket: Ino, wrong: dict[str, object]) -> None:
    before = store.core.journal.end
    with pytest.raises(InvalidRule):
        store.objects.configure(bucket, lifecycle=(rule(**{"noncurrent_days": 1, **wrong}),))
    assert store.core.journal.end == before
