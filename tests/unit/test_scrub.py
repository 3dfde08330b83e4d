"""vfs.scrub on real stores: every block is read once in a period, and what is damaged is found, but nothing else."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfs import scrub as scrubbing
from vfs.blocks import BLOCK_BYTES, Place
from vfs.errors import NoSuchKey, NotAStore
from vfs.folder import Folder
from vfs.model import BlockId, Ino, Seq, Writer
from vfs.names import format_version_id
from vfs.scrub import Damage, Scrub, Target, read_blocks, read_parents
from vfs.settings import load
from vfs.store import Store

WRITER = Writer(0, 1, "test")
BIG = b"".join(b"%07d\n" % number for number in range(5 * BLOCK_BYTES // 8))  # five blocks and a node
DAY_S = 86_400.0


class Clock:
    """Seconds, as they are set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/config.toml").write_text("scrub_period = 10\n")
    store = Store.open(tmp_path / "store")
    docs = store.create_bucket(b"docs", uid=0, gid=0)
    for number in range(40):
        write(store, docs, b"small %d" % number, b"content %d" % number)
    write(store, docs, b"big", BIG)
    yield store
    store.abandon()


def write(store: Store, directory: Ino, name: bytes, data: bytes) -> Seq:
    try:
        ino, _ = store.tree.lookup(directory, name)
        handle = store.files.open(ino, WRITER, truncate=True)
    except NoSuchKey:
        ino, _ = store.tree.create(directory, name, 0o644, 0, WRITER)
        handle = store.files.open(ino, WRITER, created=True)
    store.files.write(handle, 0, data)
    store.files.flush(handle)
    store.files.release(handle)
    return store.tree.inode(ino).seq


def everything_due(scrub: Scrub) -> list[Target]:
    found: list[Target] = []
    while (targets := scrub.next_targets()) is not None:
        found += targets
    return found


def blocks_of(store: Store) -> set[BlockId]:
    return {block for block, row in store.core.catalog.blocks() if row.references}


def a_leaf(store: Store) -> tuple[BlockId, Place]:
    return next((block, row.place) for block, row in store.core.catalog.blocks() if row.place.length == BLOCK_BYTES)


def flip(store: Store, place: Place) -> None:
    with (store.path / f"blocks/{place.segment:08x}").open("r+b") as file:
        file.seek(place.offset + 7)
        byte = file.read(1)[0]
        file.seek(place.offset + 7)
        file.write(bytes((byte ^ 1,)))


# --- when


def test_nothing_is_due_at_first_and_everything_after_a_period(store: Store, clock: Clock) -> None:
    scrub = Scrub(store, clock=clock)
    assert scrub.next_targets() is None
    clock.now += 10 * DAY_S
    read = everything_due(scrub)
    assert {target.block for target in read} == blocks_of(store)
    assert len(read) == len(blocks_of(store))
    assert scrub.figures() == {
        "PeriodDays": 10.0,
        "Progress": 0.0,
        "PassBegan": "2027-01-25T08:00:00+00:00",
        "LastPass": "2027-01-25T08:00:00+00:00",
        "DamagedBlocks": 0,
    }
    assert scrub.next_targets() is None


def test_what_is_due_grows_with_time(store: Store, clock: Clock) -> None:
    scrub = Scrub(store, clock=clock)
    counts = []
    for _ in range(10):
        clock.now += DAY_S
        counts.append(len(everything_due(scrub)))
    assert sum(counts) == len(blocks_of(store))
    assert max(counts) < len(blocks_of(store)) / 2


def test_the_next_daemon_goes_on_where_the_last_one_was(store: Store, clock: Clock) -> None:
    scrub = Scrub(store, clock=clock)
    clock.now += 4 * DAY_S
    first = everything_due(scrub)
    scrub.save()
    clock.now += 6 * DAY_S
    rest = everything_due(Scrub(store, clock=clock))
    assert first
    assert rest
    assert sorted(first + rest) == sorted(set(first + rest))
    assert {target.block for target in first + rest} == blocks_of(store)


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"position": "xyz"}', b'{"damaged": [1]}', b"\xff"])
def test_a_state_that_cannot_be_read_begins_anew(store: Store, clock: Clock, content: bytes) -> None:
    (store.path / scrubbing.STATE).write_bytes(content)
    scrub = Scrub(store, clock=clock)
    assert scrub.figures()["Progress"] == 0
    assert scrub.next_targets() is None


def test_a_clock_that_went_back_does_not_stop_it(store: Store, clock: Clock) -> None:
    clock.now += 1000 * DAY_S
    Scrub(store, clock=clock).save()
    clock.now -= 1000 * DAY_S
    scrub = Scrub(store, clock=clock)
    clock.now += 10 * DAY_S
    assert len(everything_due(scrub)) == len(blocks_of(store))


def test_pieces_are_bounded(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "PIECE_BLOCKS_MAX", 3)
    monkeypatch.setattr(scrubbing, "ROWS_PER_TURN_MAX", 2)
    scrub = Scrub(store, clock=clock)
    clock.now += 10 * DAY_S
    sizes = []
    while (targets := scrub.next_targets()) is not None:
        sizes.append(len(targets))
    assert max(sizes) == 2
    assert sum(sizes) == len(blocks_of(store))


def test_what_could_not_be_read_is_due_again(store: Store, clock: Clock) -> None:
    scrub = Scrub(store, clock=clock)
    clock.now += 10 * DAY_S
    first = scrub.next_targets()
    scrub.put_back()
    assert scrub.next_targets() == first


def test_what_nobody_needs_is_not_read(store: Store, clock: Clock) -> None:
    docs = store.find_bucket(b"docs")
    write(store, docs, b"small 1", b"the next version")
    key = store.history.past(docs, b"small 1").keys[0]
    *_, (oldest, _) = store.history.versions(key)
    before = blocks_of(store)
    store.history.purge(key, oldest, WRITER)
    assert blocks_of(store) < before
    scrub = Scrub(store, clock=clock)
    clock.now += 10 * DAY_S
    assert {target.block for target in everything_due(scrub)} == blocks_of(store)


def test_a_store_without_blocks(tmp_path: Path, clock: Clock) -> None:
    store = Store.open(tmp_path / "empty")
    scrub = Scrub(store, clock=clock)
    clock.now += 31 * DAY_S
    assert scrub.next_targets() is None
    assert scrub.figures()["LastPass"] is not None
    store.close()


@pytest.mark.parametrize("days", ["-1", "0.000001", "3651", "nan", '"7"'])
def test_periods_that_cannot_be(tmp_path: Path, days: str) -> None:
    (tmp_path / "config.toml").write_text(f"scrub_period = {days}")
    with pytest.raises(NotAStore, match="scrub_period"):
        load(Folder.at(tmp_path))


# --- reading


def all_targets(store: Store) -> list[Target]:
    return [Target(block, row.place, row.node) for block, row in store.core.catalog.blocks()]


def test_intact_blocks_are_no_damage(store: Store) -> None:
    assert read_blocks(store.root.folder("blocks"), all_targets(store)) == []
    assert read_blocks(store.root.folder("blocks"), []) == []


def test_a_flipped_byte_a_short_segment_and_a_missing_one_are_damage(store: Store) -> None:
    folder = store.root.folder("blocks")
    block, place = a_leaf(store)
    flip(store, place)
    (damage,) = read_blocks(folder, all_targets(store))
    assert damage.target.block == block
    assert str(damage).startswith(f"blocks/00000001 at byte {place.offset}, {BLOCK_BYTES} bytes: expected block ")
    os.truncate(folder.path / "00000001", place.offset + 10)
    assert "its end missing" in {damage.found for damage in read_blocks(folder, all_targets(store))}
    (folder.path / "00000001").unlink()
    damages = read_blocks(folder, all_targets(store))
    assert len(damages) == len(all_targets(store))
    assert damages[0].found == "an error of the disk: No such file or directory"


def test_having_no_descriptors_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    folder = store.root.folder("blocks")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many"):
        read_blocks(folder, all_targets(store))


def test_the_page_cache_is_left_as_it_was_for_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each range that is read is dropped before, so that the disk is asked, and after."""
    dropped: list[tuple[int, int]] = []

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:
            dropped.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    target = next(target for target in all_targets(store) if target.place.length == BLOCK_BYTES)
    read_blocks(store.root.folder("blocks"), [target])
    ((offset, length),) = set(dropped)
    assert len(dropped) == 2
    assert offset % 4096 == length % 4096 == 0
    assert offset <= target.place.offset
    assert offset + length >= target.place.offset + BLOCK_BYTES


# --- judging


def test_damage_is_remembered_until_it_is_mended(store: Store, clock: Clock) -> None:
    block, place = a_leaf(store)
    flip(store, place)
    scrub = Scrub(store, clock=clock)
    targets = all_targets(store)
    moved, damages = scrub.judge(read_blocks(scrub.folder, targets))
    assert (moved, [damage.target.block for damage in damages]) == ([], [block])
    scrub.forget_mended(targets, damages)
    assert scrub.figures()["DamagedBlocks"] == 1
    scrub.save()
    assert json.loads((store.path / scrubbing.STATE).read_text())["damaged"] == [block.hex()]
    scrub = Scrub(store, clock=clock)
    assert scrub.figures()["DamagedBlocks"] == 1
    flip(store, place)
    scrub.forget_mended(targets, read_blocks(scrub.folder, targets))
    assert scrub.figures()["DamagedBlocks"] == 0


def test_a_block_that_moved_while_it_was_read_is_read_again(store: Store, clock: Clock) -> None:
    block, place = a_leaf(store)
    elsewhere = Damage(Target(block, Place(7, place.offset, place.length), False), "nothing")
    moved, damages = Scrub(store, clock=clock).judge([elsewhere])
    assert (moved, damages) == ([Target(block, place, False)], [])


def test_a_block_that_went_while_it_was_read_is_no_damage(store: Store, clock: Clock) -> None:
    gone = Damage(Target(BlockId(bytes(32)), Place(1, 44, 10), False), "nothing")
    assert Scrub(store, clock=clock).judge([gone]) == ([], [])


# --- what is harmed


def harmed(scrub: Scrub, damaged: set[BlockId]) -> list[str]:
    """As vfs.service.scrubbing does it, in one go."""
    above = damaged
    while True:
        found: set[BlockId] = set()
        after: bytes | None = b""
        while after is not None:
            nodes, after = scrub.nodes(after)
            found.update(read_parents(scrub.folder, nodes, above))
        if found <= above:
            break
        above = above | found
    names: list[str] = []
    seq: Seq | None = Seq(0)
    while seq is not None:
        more, seq = scrub.versions(seq, above)
        names += more
    return names


def test_every_version_that_needs_a_block_is_named(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "ROWS_PER_TURN_MAX", 5)
    docs = store.find_bucket(b"docs")
    first = store.tree.inode(store.tree.lookup(docs, b"big")[0]).seq
    longer = write(store, docs, b"big", BIG + b"more")
    write(store, docs, b"other", b"nothing of it")
    block, _ = a_leaf(store)
    assert harmed(Scrub(store, clock=clock), {block}) == [
        f"docs/big version {format_version_id(first)}",
        f"docs/big version {format_version_id(longer)}",
    ]


def test_an_open_file_that_needs_a_block_is_named(store: Store, clock: Clock) -> None:
    docs = store.find_bucket(b"docs")
    ino, _ = store.tree.create(docs, b"open", 0o644, 0, WRITER)
    handle = store.files.open(ino, WRITER, created=True)
    store.files.write(handle, 0, b"a draft")
    store.files.flush(handle)
    draft = store.core.catalog.draft(ino)
    assert draft is not None
    assert harmed(Scrub(store, clock=clock), {draft.content.root}) == ["docs/open not yet published"]
