"""Working copies against a bytearray, with blocks so small that trees get deep; and the promises about cost."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.simdisk import SimDisk, fail_at, no_fault
from vfs import blocks, content
from vfs.blocks import Blocks, Place
from vfs.content import WorkingCopy, children, depth_for, etag, stored_bytes
from vfs.errors import Corrupt, DiskFailed, NoSpace, TooLarge
from vfs.model import EMPTY, BlockId, Content

BLOCK = 64  # bytes
FANOUT = 2
SIZE_MAX = 1500  # bytes: depth 5


@pytest.fixture
def small() -> Iterator[None]:
    """Tiny blocks and nodes, and next to no memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "BLOCK_BYTES", BLOCK)
        patch.setattr(blocks, "BLOCK_BYTES", BLOCK)
        patch.setattr(content, "FANOUT", FANOUT)
        patch.setattr(content, "DIRTY_LEAVES_MAX", 2)
        patch.setattr(content, "NODES_MAX", 3)
        yield


class Index:
    """Where blocks are, in a dict."""

    def __init__(self) -> None:
        self.places: dict[BlockId, Place] = {}

    def find_room(self) -> bool:
        return True

    def block_place(self, block: BlockId) -> Place | None:
        return self.places.get(block)

    def set_block_place(self, block: BlockId, place: Place, *, node: bool) -> None:
        self.places[block] = place


def new_blocks() -> tuple[Blocks, Index, SimDisk]:
    disk, index = SimDisk(), Index()
    return Blocks(disk, index), index, disk


def stored(store: Blocks, data: bytes) -> Content:
    """The content of these bytes, written in one go."""
    copy = WorkingCopy(store, EMPTY)
    copy.write(0, data)
    return copy.seal()


def fill(length: int, value: int) -> bytes:
    """Bytes of which no two blocks are equal, or zeros for value 0."""
    return bytes(length) if value == 0 else bytes((value * (at + 1) + at // 7) % 255 + 1 for at in range(length))


LENGTH = st.integers(0, 300) | st.sampled_from([BLOCK, 2 * BLOCK, 3 * BLOCK, BLOCK - 1, BLOCK + 1])
OFFSET = st.integers(0, SIZE_MAX) | st.integers(0, SIZE_MAX // BLOCK).map(lambda index: index * BLOCK)
STEP = st.one_of(
    st.tuples(st.just("write"), OFFSET, LENGTH, st.integers(0, 3)),
    st.tuples(st.just("truncate"), OFFSET),
    st.tuples(st.just("seal")),
    st.tuples(st.just("reopen")),
)


@given(st.lists(STEP, max_size=25))
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([("write", 0, 3 * BLOCK, 1), ("seal",), ("truncate", BLOCK + 1), ("truncate", 10 * BLOCK), ("seal",)])
@example([("write", 1400, 5, 1), ("truncate", 0), ("write", 1400, 5, 2), ("reopen",)])
def test_a_working_copy_is_a_bytearray(small: None, steps: list[tuple]) -> None:
    store, _, _ = new_blocks()
    copy = WorkingCopy(store, EMPTY)
    model = bytearray()
    for step in steps:
        match step:
            case ("write", offset, length, value):
                data = fill(length, value)
                if data and len(model) < offset:
                    model.extend(bytes(offset - len(model)))
                model[offset : offset + length] = data if data else model[offset:offset]
                assert copy.write(offset, data) == length
            case ("truncate", size):
                del model[size:]
                model.extend(bytes(size - len(model)))
                copy.truncate(size)
            case ("seal",):
                copy.seal()
            case ("reopen",):
                copy = WorkingCopy(store, copy.seal())
        assert copy.size == len(model)
        assert copy.read(0, SIZE_MAX * 2) == model
        for offset in range(0, len(model) + 1, 37):
            assert copy.read(offset, 100) == model[offset : offset + 100]
        assert len(copy._leaves) <= content.DIRTY_LEAVES_MAX
        assert len(copy._nodes) <= content.NODES_MAX + copy._depth
    sealed = copy.seal()
    assert sealed == stored(new_blocks()[0], bytes(model)), "equal bytes give equal roots, however they came about"
    assert sealed.depth == depth_for(len(model))
    leaves = [bytes(model[at : at + BLOCK]) for at in range(0, len(model), BLOCK)]
    assert sealed.holes == sum(not any(leaf) for leaf in leaves)
    assert WorkingCopy(store, sealed).read(0, SIZE_MAX * 2) == model
    assert copy.seal() == sealed


@given(st.lists(STEP, min_size=1, max_size=8), st.integers(1, 12))
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_full_disk_loses_nothing(small: None, steps: list[tuple], full_at: int) -> None:
    """Whichever append fails: other bytes stay, those being written are old or new, and trying again works."""
    store, _, disk = new_blocks()
    copy = WorkingCopy(store, EMPTY)
    model = bytearray()
    disk.fault = fail_at(full_at, NoSpace, calls={"append"})
    for step in steps:
        before = bytes(model)
        try:
            match step:
                case ("write", offset, length, value):
                    data = fill(length, value)
                    if data:
                        model.extend(bytes(max(0, offset - len(model))))
                        model[offset : offset + length] = data
                    copy.write(offset, data)
                case ("truncate", size):
                    del model[size:]
                    model.extend(bytes(size - len(model)))
                    copy.truncate(size)
                case _:
                    copy.seal()
        except NoSpace:
            found = copy.read(0, SIZE_MAX * 2)
            assert copy.size == len(found)
            assert len(before) <= len(found) <= max(len(before), len(model)) or step[0] == "truncate"
            if step[0] == "write":
                offset, length = step[1], step[2]
                old, new = before.ljust(len(found), b"\0"), bytes(model[: len(found)])
                for at, byte in enumerate(found):
                    assert byte == old[at] or (offset <= at < offset + length and byte == new[at])
            else:
                assert found in (before, bytes(model)), "a cut is done or not, sealing changes nothing"
            model = bytearray(found)
        assert copy.read(0, SIZE_MAX * 2) == model
    disk.fault = no_fault
    assert copy.seal() == stored(new_blocks()[0], bytes(model))


def test_a_failed_write_leaves_no_tail_of_zeros() -> None:
    store, _, disk = new_blocks()
    copy = WorkingCopy(store, EMPTY)
    copy.write(0, b"abc")
    disk.capacity = 100
    with pytest.raises(NoSpace):
        copy.write(3, fill(content.BLOCK_BYTES * 3, 1))
    assert copy.size <= content.BLOCK_BYTES
    assert copy.read(0, 3) == b"abc"
    assert copy.read(3, 1 << 20) == fill(copy.size - 3, 1), "as much as is there was written"


@pytest.mark.parametrize(
    ("leaves", "depth"),
    [(0, 0), (1, 0), (2, 1), (256, 1), (257, 2), (256**2, 2), (256**2 + 1, 3), (256**3, 3)],
)
def test_depth(leaves: int, depth: int) -> None:
    assert depth_for(leaves * content.BLOCK_BYTES) == depth
    if leaves:
        assert depth_for(leaves * content.BLOCK_BYTES - 1) == depth


def test_a_sparse_tebibyte_costs_nothing() -> None:
    store, index, disk = new_blocks()
    copy = WorkingCopy(store, EMPTY)
    copy.truncate(1 << 40)
    assert copy.seal() == Content(1 << 40, BlockId(b""), depth_for(1 << 40), (1 << 40) // content.BLOCK_BYTES)
    assert disk.used == 0
    copy.write((1 << 40) - 3, b"end")
    sealed = copy.seal()
    assert len(index.places) == 1 + sealed.depth
    assert stored_bytes(sealed) == content.BLOCK_BYTES
    assert disk.used < 300_000
    again = WorkingCopy(store, sealed)
    assert again.read((1 << 40) - 5, 100) == b"\0\0end"
    assert again.read(1 << 39, 10) == bytes(10)
    assert again.read(0, 300_000) == bytes(300_000)
    again.truncate(5)
    assert again.seal() == stored(new_blocks()[0], bytes(5))


def test_a_changed_byte_costs_one_path(small: None) -> None:
    store, index, _ = new_blocks()
    sealed = stored(store, fill(SIZE_MAX, 1))
    before = len(index.places)
    copy = WorkingCopy(store, sealed)
    copy.write(700, b"\xff")
    changed = copy.seal()
    assert changed.depth == 5
    assert len(index.places) == before + 1 + changed.depth
    assert WorkingCopy(store, sealed).read(0, SIZE_MAX) == fill(SIZE_MAX, 1), "the old content stays"


def test_equal_blocks_are_stored_once() -> None:
    store, index, _ = new_blocks()
    stored(store, b"x" * content.BLOCK_BYTES * 3)
    assert len(index.places) == 2, "one leaf, one node"


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, SIZE_MAX])
def test_zeros_are_holes(small: None, size: int) -> None:
    store, index, _ = new_blocks()
    sealed = stored(store, bytes(size))
    assert sealed == Content(size, BlockId(b""), depth_for(size), -(-size // BLOCK))
    assert stored_bytes(sealed) == 0
    assert not index.places
    assert WorkingCopy(store, sealed).read(0, SIZE_MAX) == bytes(size)


def test_memory_is_bounded_while_a_big_file_is_changed_everywhere() -> None:
    store, _, _ = new_blocks()
    copy = WorkingCopy(store, EMPTY)
    span = content.BLOCK_BYTES * content.FANOUT  # one node each
    copy.truncate(span * 600)
    for index in range(600):
        copy.write(index * span + 1, b"x")
        assert len(copy._leaves) <= content.DIRTY_LEAVES_MAX
        assert len(copy._nodes) <= content.NODES_MAX + copy._depth
    sealed = copy.seal()
    again = WorkingCopy(store, sealed)
    assert all(again.read(index * span, 3) == b"\0x\0" for index in range(600))


def test_limits() -> None:
    store, _, _ = new_blocks()
    copy = WorkingCopy(store, EMPTY)
    with pytest.raises(TooLarge):
        copy.truncate(content.FILE_BYTES_MAX + 1)
    with pytest.raises(TooLarge):
        copy.write(content.FILE_BYTES_MAX, b"x")
    assert copy.size == 0
    copy.truncate(content.FILE_BYTES_MAX)
    assert copy.read(content.FILE_BYTES_MAX - 1, 5) == b"\0"
    copy.write(content.FILE_BYTES_MAX - 1, b"x")
    assert WorkingCopy(store, copy.seal()).read(content.FILE_BYTES_MAX - 2, 5) == b"\0x"


def test_reading_outside_gives_nothing() -> None:
    store, _, _ = new_blocks()
    copy = WorkingCopy(store, stored(store, b"abc"))
    assert copy.read(3, 10) == b""
    assert copy.read(1 << 70, 10) == b""
    assert copy.read(0, 0) == b""
    assert copy.read(2, 1 << 40) == b"c"


def test_a_block_that_is_gone_is_corrupt_and_the_rest_reads(small: None) -> None:
    store, index, _ = new_blocks()
    sealed = stored(store, fill(4 * BLOCK, 1))
    index.places.pop(blocks.identify(fill(4 * BLOCK, 1)[BLOCK : 2 * BLOCK]))
    copy = WorkingCopy(Blocks(store._disk, index), sealed)
    assert copy.read(0, BLOCK) == fill(BLOCK, 1)
    with pytest.raises(Corrupt):
        copy.read(BLOCK, 1)
    assert copy.read(2 * BLOCK, 2 * BLOCK) == fill(4 * BLOCK, 1)[2 * BLOCK :]


def test_children_leave_holes_out() -> None:
    one, other = BlockId(b"1" * 32), BlockId(b"2" * 32)
    assert list(children(bytes(32) + one + bytes(32) + other)) == [one, other]
    assert list(children(b"")) == []


def test_etags() -> None:
    store, _, _ = new_blocks()
    small_one = stored(store, b"abc")
    assert etag(small_one) == etag(stored(new_blocks()[0], b"abc"))
    assert etag(small_one) != etag(stored(store, b"abd"))
    assert etag(stored(store, bytes(5))) != etag(stored(store, bytes(6))), "holes of other sizes"
    assert etag(small_one).endswith("-1")
    assert etag(Content(content.BLOCK_BYTES + 1, BlockId(b"x"), 1)).endswith("-2")
    assert etag(EMPTY).endswith("-1")
    assert len(etag(EMPTY).partition("-")[0]) == 32


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", range(0, 700, 37))
def test_a_cut_or_a_write_that_cannot_read_a_node_leaves_a_whole_tree(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its reads: what is stored afterwards can be read, and each byte is as it was or as it should be."""
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 0)
    old, data = fill(800, 1), fill(90, 2)
    for operation in ("truncate", "write"):
        number, failed = 1, True
        while failed:
            store, _, disk = new_blocks()
            copy = WorkingCopy(store, stored(store, old))
            copy.write(300, data)  # not stored yet
            before = old[:300] + data + old[390:]
            after = before[:size] if operation == "truncate" else before[:size] + data + before[size + len(data) :]
            disk.fault = fail_at(number, DiskFailed, calls={"read"})
            try:
                copy.truncate(size) if operation == "truncate" else copy.write(size, data)
                failed = False
            except DiskFailed:
                pass
            disk.fault = no_fault
            sealed = copy.seal()
            assert sealed.depth == depth_for(sealed.size)
            found = WorkingCopy(store, sealed).read(0, 1 << 20)
            if operation == "truncate" or not failed:
                assert found == (before if failed else after)
            else:
                assert all(byte in (before + data)[at : at + 1] + after[at : at + 1] for at, byte in enumerate(found))
            number += 1
