"""Blocks: stored once, verified whenever they are read from the disk, found again by scanning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blake3 import blake3

from tests.simdisk import SimDisk, fail_at, no_fault
from vfs import blocks
from vfs.blocks import FOLDER, LOST, Blocks, End, Place, identify
from vfs.errors import Corrupt, NoSpace
from vfs.model import BlockId

FIRST = f"{FOLDER}/{1:08x}"
START = End(0, 0)


class Index:
    """Where blocks are, in a dict; nodes by themselves."""

    def __init__(self) -> None:
        self.places: dict[BlockId, Place] = {}
        self.nodes: set[BlockId] = set()

    def find_room(self) -> bool:
        return True

    def block_place(self, block: BlockId) -> Place | None:
        return self.places.get(block)

    def set_block_place(self, block: BlockId, place: Place, *, node: bool) -> None:
        self.places[block] = place
        if node:
            self.nodes.add(block)


@pytest.fixture
def small_segments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SEGMENT_BYTES_MAX", 100)
        yield


def rebuilt(disk: SimDisk, start: End = START) -> tuple[Blocks, Index]:
    """As recovery does: the places by scanning, what is behind the last intact block dropped."""
    index = Index()
    found = Blocks(disk, index)
    end = start
    for one in found.scan(start):
        index.set_block_place(one.block, one.place, node=one.node)
        end = one.end
    found.settle(start, end)
    return found, index


def test_equal_bytes_are_stored_once() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    first = store.put(b"abc")
    used = disk.used
    assert store.put(b"abc") == first
    assert store.put(memoryview(b"xabcx")[1:4]) == first
    assert store.put(bytearray(b"abc")) == first
    assert disk.used == used
    assert store.put(b"abd") != first


def test_ids() -> None:
    assert identify(b"abc") == blake3(b"abc").digest()
    assert identify(b"abc", node=True) != identify(b"abc"), "no content can pass for a node"


def test_get_is_what_was_put() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    data = [bytes([at]) * (at * 1000) for at in range(1, 20)]
    ids = [store.put(one) for one in data]
    assert [store.get(one) for one in ids] == data
    node = store.put(b"n" * 64, node=True)
    assert store.get(node, node=True) == b"n" * 64
    assert index.nodes == {node}


def test_what_is_not_there_is_corrupt_and_named() -> None:
    store = Blocks(SimDisk(), Index())
    block = identify(b"abc")
    with pytest.raises(Corrupt, match=block.hex()):
        store.get(block)


def test_a_lost_block_is_stored_again() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    block = identify(b"abc")
    index.places[block] = LOST
    with pytest.raises(Corrupt, match=block.hex()):
        store.get(block)
    assert store.put(b"abc") == block
    assert store.get(block) == b"abc"


def test_every_flipped_bit_is_noticed() -> None:
    disk, index = SimDisk(), Index()
    block = Blocks(disk, index).put(b"some content")
    place = index.places[block]
    for at in range(place.length):
        for bit in range(8):
            disk.flip(FIRST, place.offset + at, 1 << bit)
            with pytest.raises(Corrupt) as raised:
                Blocks(disk, index).get(block)
            assert FIRST in raised.value.where
            assert block.hex() in raised.value.expected
            disk.flip(FIRST, place.offset + at, 1 << bit)
    assert Blocks(disk, index).get(block) == b"some content"


def test_verify_reads_the_disk_whatever_is_cached() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    block = store.put(b"some content")
    assert store.get(block) == b"some content"
    place = index.places[block]
    store.verify(block, place, node=False)
    disk.flip(FIRST, place.offset)
    assert store.get(block) == b"some content", "cached"
    with pytest.raises(Corrupt):
        store.verify(block, place, node=False)
    with pytest.raises(Corrupt):
        Blocks(disk, index).verify(block, place._replace(length=3), node=False)


def test_a_segment_that_is_gone_is_corrupt() -> None:
    disk, index = SimDisk(), Index()
    block = Blocks(disk, index).put(b"abc")
    disk.remove(FIRST)
    with pytest.raises(Corrupt, match=FIRST):
        Blocks(disk, index).get(block)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 1000)
    store = Blocks(SimDisk(), Index())
    ids = [store.put(bytes([at]) * 300) for at in range(10)]
    for block in ids * 2:
        store.get(block)
        assert sum(map(len, store._cache.values())) == store._cached_bytes <= 1000


def test_places_are_rebuilt_by_scanning(small_segments: None) -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    for at in range(20):
        store.put(b"block %d vfsB" % at, node=at % 3 == 0)
    again, found = rebuilt(disk)
    assert found.places == index.places
    assert found.nodes == index.nodes
    assert again.end == store.end
    assert len(disk.paths) > 5


def test_a_scan_begins_anywhere(small_segments: None) -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    for at in range(5):
        store.put(b"early %d" % at)
    middle = store.end
    late = {store.put(b"late %d" % at) for at in range(5)}
    assert set(rebuilt(disk, middle)[1].places) == late


def test_a_scan_steps_over_damage() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    ids = [store.put(b"content %d vfsB" % at) for at in range(5)]
    for header in (False, True):
        for at in range(5):
            twin = disk.kill()
            place = index.places[ids[at]]
            twin.flip(FIRST, place.offset - (20 if header else 0))
            again, found = rebuilt(twin)
            assert set(found.places) == set(ids) - {ids[at]}
            assert all(again.get(block) for block in found.places)


def test_every_cut_leaves_the_blocks_before_it() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    ends = {}
    for at in range(5):
        block = store.put(b"content %d" % at)
        ends[block] = store.end.offset
    whole = disk.contents(FIRST)
    for size in range(len(whole) + 1):
        twin = disk.kill()
        twin.replace(FIRST, whole[:size])
        again, found = rebuilt(twin)
        assert set(found.places) == {block for block, end in ends.items() if end <= size}
        block = again.put(b"new")
        after, index = rebuilt(twin)
        assert index.places == found.places
        assert after.get(block) == b"new"


def test_a_block_that_does_not_fit_is_not_in_the_index() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    store.put(b"first")
    disk.fault = fail_at(1, NoSpace, calls={"append"})
    with pytest.raises(NoSpace):
        store.put(b"second")
    assert identify(b"second") not in index.places
    disk.fault = no_fault
    assert store.get(store.put(b"second")) == b"second"
    assert rebuilt(disk)[1].places == index.places


def test_what_was_put_is_synced_once(small_segments: None) -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    for at in range(6):
        store.put(b"content of block %d, long enough" % at)
    pending = store.unsynced()
    assert {f"{FOLDER}/{segment:08x}" for segment in pending} == set(disk.paths)
    store.synced()
    assert store.unsynced() == {}
    store.put(b"one more")
    assert len(store.unsynced()) == 1


def test_after_a_failed_sync_all_of_it_is_to_be_synced_again(small_segments: None) -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    store.put(b"x" * 90)
    pending = store.unsynced()
    store.put(b"y" * 90)
    store.not_synced()
    assert set(store.unsynced()) == {*pending, 2}


def test_recovery_syncs_every_segment_that_it_scanned(small_segments: None) -> None:
    """After a kill they may be in the page cache only, the full ones too."""
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    for at in range(6):
        store.put(b"content of block %d, long enough" % at)
    again, _ = rebuilt(disk.kill())
    assert len(again.unsynced()) == len(disk.paths) > 2


def test_a_segment_is_not_closed_while_it_is_synced(small_segments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "OPEN_SEGMENTS_MAX", 2)
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 0)
    store = Blocks(SimDisk(), Index())
    ids = [store.put(bytes([at]) * 90) for at in range(8)]
    pending = store.unsynced()
    for block in ids * 2:
        store.get(block)
    for file in pending.values():
        file.sync()
    store.synced()
    for block in ids * 2:
        assert len(store.get(block)) == 90
