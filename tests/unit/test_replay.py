"""What nobody can read or apply takes nothing with it: it is set aside, named and kept, and the rest opens."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.crafted import SENSELESS, WRITER, Tree, version, write
from tests.simdisk import SimDisk
from vfs import check as checking
from vfs import core, events, gc, replay
from vfs.content import WorkingCopy
from vfs.errors import Corrupt
from vfs.events import Event
from vfs.journal import Position, Record
from vfs.model import EMPTY, Draft, Ino, Inode, KeyId, ObjectInfo, Seq
from vfs.replay import Aside
from vfs.store import Store

UNREADABLE: dict[str, Callable[[Tree], Any]] = {
    "no array": lambda t: "event",
    "no changes": lambda t: [5, "craft"],
    "an operation that is no text": lambda t: [5, b"\xff", []],
    "a moment after the end of time": lambda t: [1 << 62, "craft", []],
    "a change of one field": lambda t: [5, "craft", [[9, t.file]]],
    "a number that is a text": lambda t: [5, "craft", [[10, "five"]]],
    "a version id of the year 10000": lambda t: [5, "craft", [[6, t.inode(t.file).key, 1 << 62, t.bucket]]],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store")
    yield store
    store.abandon()


def payloads(tree: Tree) -> Iterator[tuple[str, bytes]]:
    for name, found in UNREADABLE.items():
        yield name, msgspec.msgpack.encode(found(tree))
    for name, senseless in SENSELESS.items():
        try:
            yield name, events.encode(Event(5, "craft", senseless(tree)))
        except (ValueError, OverflowError):
            continue  # msgpack cannot say it either


def put_behind(store: Store, payload: bytes) -> int:
    """What an earlier vfs has written, or somebody made."""
    return store.core.journal.append(payload)


def read(store: Store, name: bytes) -> bytes:
    ino, _ = store.tree.lookup(store.find_bucket(b"docs"), name)
    handle = store.files.open(ino, WRITER)
    try:
        return store.files.read(handle, 0, 100)
    finally:
        store.files.release(handle)


def problems_of(path: Path) -> tuple[list[str], list[str]]:
    """What is wrong, and what is harmless."""
    found: list[checking.Problem] = []
    checking.check(path, found.append, lambda what, done, total: None)
    wrong, harmless = ([str(problem) for problem in found if problem.harmless is which] for which in (False, True))
    return wrong, harmless


def again(path: Path, *, cut: bool = False) -> checking.Rebuilt:
    return checking.rebuild(path, lambda what, done, total: None, cut=cut)


def all_is_there(store: Store, asides: int) -> None:
    assert store.figures()["RecordsSetAside"] == asides
    names = [name for _, name, _ in store.tree.entries(store.find_bucket(b"docs"))]
    assert names == [b"d", b"f", *(b"later-%03d" % at for at in range(asides))]
    for at in range(asides):
        assert read(store, b"later-%03d" % at) == b"acknowledged"
    assert read(store, b"f") == b"data"


def test_what_makes_no_sense_is_set_aside_by_whoever_finds_it(store: Store) -> None:
    tree = Tree(store)
    bad: dict[int, bytes] = {}
    names: dict[int, str] = {}
    for at, (name, payload) in enumerate(payloads(tree)):
        number = put_behind(store, payload)
        bad[number], names[number] = payload, name
        write(store, tree.bucket, b"later-%03d" % at, b"acknowledged")
    store.abandon()
    wrong, harmless = problems_of(store.path)
    assert [number for number in bad if not any(f"record {number} " in line for line in wrong)] == []
    assert len(wrong) == len(bad), [line for line in wrong if "makes no sense" not in line]
    assert harmless == []
    once = Store.open(store.path)
    all_is_there(once, len(bad))
    once.abandon()
    for number, payload in bad.items():
        kept = (store.path / replay.FOLDER / f"{number:016x}").read_bytes()
        assert kept.endswith(payload), names[number]
        assert json.loads(kept.partition(b"\n")[0])["Record"] == number
    wrong, harmless = problems_of(store.path)
    assert wrong == []
    assert [number for number in bad if not any(f"record {number} " in line for line in harmless)] == []
    assert again(store.path).lost == 0
    assert problems_of(store.path)[0] == []
    shutil.rmtree(store.path / "catalog")
    twice = Store.open(store.path)
    all_is_there(twice, len(bad))
    twice.close()
    assert problems_of(store.path)[0] == []
    assert "format = 6" in (store.path / "store.toml").read_text(), "an older vfs would stumble over it"


def test_a_rebuild_sets_aside_no_more_than_opening(store: Store) -> None:
    tree = Tree(store)
    count = 0
    for count, (_, payload) in enumerate(payloads(tree)):
        put_behind(store, payload)
        write(store, tree.bucket, b"later-%03d" % count, b"acknowledged")
    store.abandon()
    done = again(store.path)
    assert (done.cut, done.lost) == (None, 0)
    opened = Store.open(store.path)
    all_is_there(opened, count + 1)
    opened.close()
    assert problems_of(store.path)[0] == []


def test_what_builds_on_it_is_set_aside_with_it(store: Store) -> None:
    """A file that was made by a record that cannot be applied: its versions, its rename, its end."""
    tree = Tree(store)
    key, ino = KeyId(tree.next), Ino(tree.next + 1)
    inode = msgspec.structs.replace(tree.inode(tree.file), key=key)
    put_behind(
        store,
        events.encode(
            Event(
                5,
                "create",
                [
                    events.KeyMade(key, tree.bucket, b"new"),
                    events.InodeSet(ino, inode),
                    events.EntrySet(tree.bucket, b"new", ino),
                    events.ObjectSet(key, Seq(7), ObjectInfo("of no version")),
                ],
            )
        ),
    )
    later = [
        [events.VersionAdded(key, store.core.next_seq(), version(), tree.bucket), events.InodeSet(ino, inode)],
        [events.AttributeSet(ino, b"user.a", b"")],
        [events.EntryGone(tree.bucket, b"new"), events.InodeGone(ino)],
    ]
    for changes in later:
        put_behind(store, events.encode(Event(6, "later", changes)))
    write(store, tree.bucket, b"later-000", b"acknowledged")
    store.abandon()
    opened = Store.open(store.path)
    assert opened.figures()["RecordsSetAside"] == 4
    assert [name for _, name, _ in opened.tree.entries(tree.bucket)] == [b"d", b"f", b"later-000"]
    opened.close()
    assert problems_of(store.path)[0] == []


def test_a_record_of_a_newer_vfs_is_given_up_only_if_told_to(store: Store) -> None:
    tree = Tree(store)
    write(store, tree.bucket, b"later-000", b"acknowledged")
    number = put_behind(store, msgspec.msgpack.encode([5, "future", [[99, 1, 2]]]))
    write(store, tree.bucket, b"later-001", b"acknowledged")
    store.abandon()
    before = (store.path / "journal" / f"{1:016x}").read_bytes()
    with pytest.raises(Corrupt, match="tag 99: a newer vfs"):
        Store.open(store.path)
    with pytest.raises(Corrupt, match="--cut"):
        again(store.path)
    assert (store.path / "journal" / f"{1:016x}").read_bytes() == before
    assert "tag 99" in str(problems_of(store.path)[0])
    assert again(store.path, cut=True).lost == 0
    opened = Store.open(store.path)
    assert opened.figures()["RecordsSetAside"] == 1
    assert read(opened, b"later-000") == read(opened, b"later-001") == b"acknowledged"
    assert [found.number for found in replay.every(opened.disk)] == [number]
    opened.close()
    assert problems_of(store.path)[0] == []


def test_the_blocks_of_what_is_set_aside_are_kept(store: Store) -> None:
    tree = Tree(store)
    copy = WorkingCopy(store.core.blocks, EMPTY)
    copy.write(0, random.Random(1).randbytes(1 << 20))
    content = copy.seal()
    put_behind(store, events.encode(Event(5, "craft", [events.DraftSet(Ino(999), Draft(content, 0, 0, WRITER))])))
    write(store, tree.bucket, b"later-000", b"acknowledged")
    store.abandon()
    opened = Store.open(store.path)
    gc.run(opened)
    found = WorkingCopy(opened.core.blocks, content)
    assert found.read(0, 1 << 20) == random.Random(1).randbytes(1 << 20)
    opened.close()
    assert problems_of(store.path)[0] == []
    again(store.path)
    assert problems_of(store.path)[0] == []
    shutil.rmtree(store.path / "catalog")
    Store.open(store.path).close()
    assert problems_of(store.path)[0] == []


def test_its_number_may_be_another_records_after_a_power_loss(store: Store) -> None:
    tree = Tree(store)
    number = put_behind(store, b"no event")
    store.abandon()
    opened = Store.open(store.path)
    path = store.path / replay.FOLDER / f"{number:016x}"
    kept = path.read_bytes()
    path.rename(path.with_name(f"{opened.core.journal.end.number + 1:016x}"))
    write(opened, tree.bucket, b"later-000", b"acknowledged")
    opened.abandon()
    opened = Store.open(store.path)
    assert read(opened, b"later-000") == b"acknowledged"
    path.write_bytes(kept[:10])
    assert [found.reason for found in replay.every(opened.disk) if found.number == number] == ["nothing is told of it"]


def test_what_is_kept_is_durable_and_may_take_the_place_of_what_lost_its_record() -> None:
    disk = SimDisk()
    for at in range(2):
        record = Record(7, 0, b"payload %d" % at, Position(1, 0, 6), Position(1, 40, 7))
        aside = Aside(7, "test", f"reason {at}")
        replay.keep(disk, record, aside)
        for seed in range(10):
            assert replay.find(disk.crash(random.Random(seed)), record) == aside


def test_a_draft_that_cannot_be_published_keeps_no_other_from_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tree = Tree(store)
    store.tree.link(tree.file, tree.bucket, b"g", WRITER)
    for name in (b"f", b"later-000"):
        if name != b"f":
            write(store, tree.bucket, name)
        ino, _ = store.tree.lookup(tree.bucket, name)
        handle = store.files.open(ino, WRITER)
        store.files.write(handle, 0, b"acknowledged")
        store.files.flush(handle)
    store.abandon()
    monkeypatch.setattr(core, "PAYLOAD_BYTES_MAX", 300)
    opened = Store.open(store.path)
    assert opened.figures()["DraftsKept"] == 1
    assert opened.core.catalog.draft(tree.file) is not None
    assert read(opened, b"f") == read(opened, b"later-000") == b"acknowledged"
    assert f"inode {tree.file} stays unpublished" in caplog.text
    opened.abandon()
    monkeypatch.undo()
    opened = Store.open(store.path)
    assert opened.figures()["DraftsKept"] == 0
    assert opened.core.catalog.draft(tree.file) is None
    opened.close()
    assert problems_of(store.path)[0] == []


def test_what_lies_behind_the_checkpoint_is_checked_as_well(store: Store) -> None:
    """A wrong count breaks nothing, so it is applied; and it is found before the store is opened."""
    tree = Tree(store)
    inode: Inode = tree.inode(tree.directory)
    inode.nlink = 9
    store.checkpoint()
    put_behind(store, events.encode(Event(5, "craft", [events.InodeSet(tree.directory, inode)])))
    store.abandon()
    wrong, _ = problems_of(store.path)
    assert any("link count 9" in line for line in wrong)
    assert len(wrong) == 1
