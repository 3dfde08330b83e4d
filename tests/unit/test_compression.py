"""Compressed blocks: any content comes back, damage and hostile frames are Corrupt, and everything that handles blocks
handles both kinds.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lmdb
import pytest
from backports import zstd
from hypothesis import example, given
from hypothesis import strategies as st

from tests.model.comparison import audit
from tests.simdisk import SimDisk
from tests.unit.test_blocks import FIRST, Index, rebuilt
from tests.unit.test_catalog import WRITER, save
from vfs import blocks, check, compression, gc, scrub
from vfs.blocks import BLOCK_BYTES, HEADER_BYTES, Blocks, Encoding, decode, identify
from vfs.check import Kind, mend_headers
from vfs.compression import BYTES_LEAST, Compressor, decompress
from vfs.errors import Corrupt
from vfs.folder import Folder
from vfs.model import BlockId, Compression, Ino
from vfs.store import Store

MAGIC = compression._MAGIC
TEXT = b"".join(b"line %07d\n" % number for number in range(BLOCK_BYTES // 13 + 1))[:BLOCK_BYTES]
BIG = b"".join(b"%07d\n" % number for number in range(4 * BLOCK_BYTES // 8)) + b"end"  # five blocks and a node
NOISE = random.Random(1).randbytes(BLOCK_BYTES)
CONTENTS = st.one_of(
    st.binary(max_size=3000),
    st.builds(
        lambda piece, times: (piece * times)[:BLOCK_BYTES], st.binary(min_size=1, max_size=40), st.integers(0, 4000)
    ),
)


# -- frames -----------------------------------------------------------------------------------------------------------


@given(st.lists(CONTENTS, max_size=4))
@example([bytes(BLOCK_BYTES), TEXT, NOISE, b""])
def test_a_frame_holds_what_was_compressed(contents: list[bytes]) -> None:
    compressor = Compressor()
    for data in contents:
        frame = compressor.compress(memoryview(data))
        if frame is not None:
            assert decompress(frame, len(data)) == data
            assert decompress(frame, len(data) - 1) is None
            assert len(data) - len(frame) >= len(data) // 8


def test_what_does_not_pay_is_not_compressed() -> None:
    compressor = Compressor()
    assert compressor.compress(bytes(BYTES_LEAST)) is not None
    assert compressor.compress(bytes(BYTES_LEAST - 1)) is None
    assert compressor.compress(NOISE) is None
    assert compressor.compress(NOISE[: 15 * BLOCK_BYTES // 16] + bytes(BLOCK_BYTES // 16)) is None, "too little"
    assert compressor.compress(NOISE[: BLOCK_BYTES // 2] + bytes(BLOCK_BYTES // 2)) is not None


def test_a_compressor_that_failed_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = Compressor()
    with pytest.raises(TypeError):
        compressor.compress(["no bytes"] * BYTES_LEAST)  # type: ignore[arg-type]
    frame = compressor.compress(TEXT)
    assert frame is not None
    assert decompress(frame, BLOCK_BYTES) == TEXT


def bomb(size: int) -> bytes:
    return zstd.compress(bytes(size), 19)


def window(log: int) -> bytes:
    """A frame that does not tell its size, and asks its reader for a window of 2^log bytes."""
    return MAGIC + bytes((0x00, (log - 10) << 3)) + b"\x01\x00\x00"


FRAME = zstd.compress(TEXT)
HOSTILE = {
    "nothing": b"",
    "the magic only": FRAME[:4],
    "cut": FRAME[:-1],
    "cut in half": FRAME[: len(FRAME) // 2],
    "something behind it": FRAME + b"\0",
    "two frames": zstd.compress(b"one") + zstd.compress(b"two"),
    "a skippable frame": b"\x50\x2a\x4d\x18\x04\0\0\0abcd",
    "one byte too much": bomb(BLOCK_BYTES + 1),
    "a bomb": bomb(1 << 30),
    "a claim of 2^60 bytes": MAGIC + b"\xe0" + (1 << 60).to_bytes(8, "little") + b"\x01\x00\x00",
    "a window of 128 MiB": window(27),
    "a window of 2 GiB": window(31),
    "a dictionary": zstd.compress(TEXT, zstd_dict=zstd.ZstdDict(TEXT[:1000], is_raw=True)) + b"",
    "a reserved bit": MAGIC + b"\x08" + FRAME[5:],
}


@pytest.mark.parametrize("what", set(HOSTILE) - {"a dictionary"})
def test_a_hostile_frame_is_none(what: str) -> None:
    assert decompress(HOSTILE[what], BLOCK_BYTES) is None


@given(st.binary(max_size=200), st.integers(0, len(FRAME) - 1), st.integers(1, 255))
def test_a_damaged_frame_is_none_or_other_bytes(tail: bytes, at: int, flip: int) -> None:
    decompress(MAGIC + tail, BLOCK_BYTES)
    damaged = bytearray(FRAME)
    damaged[at] ^= flip
    found = decompress(bytes(damaged), BLOCK_BYTES)
    assert found is None or len(found) <= BLOCK_BYTES


def test_a_bomb_takes_no_memory() -> None:
    """In a process of its own: the most memory that it ever had."""
    code = (
        "import resource, sys; from vfs.compression import decompress\n"
        "frames = [bytes.fromhex(line) for line in sys.stdin]\n"
        "decompress(frames[0][:4], 1)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"assert all(decompress(frame, {BLOCK_BYTES}) is None for frame in frames)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    frames = "\n".join(HOSTILE[what].hex() for what in HOSTILE if what != "a dictionary")
    assert resource.RUSAGE_SELF == 0
    done = subprocess.run([sys.executable, "-c", code], input=frames, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 << 10, "KiB"


def test_the_library_is_loaded_when_it_is_needed() -> None:
    code = (
        "import sys; from vfs.store import FORMATS, Store; import vfs.cli.main, vfs.blocks\n"
        "print(any('zstd' in name for name in sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


# -- blocks -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(CONTENTS, st.booleans(), st.booleans()), max_size=8))
def test_blocks_are_what_was_put_however_they_are_stored(puts: list[tuple[bytes, bool, bool]]) -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    wanted = {}
    for data, node, compress in puts:
        block = store.put(data, node=node, compress=compress and not node)
        wanted[block] = data
    again, found = rebuilt(disk)
    assert found.places == index.places
    for fresh in (Blocks(disk, index), again):
        for block, data in wanted.items():
            assert fresh.get(block, node=block in index.nodes) == data


def test_the_same_content_is_stored_once_compressed_or_not() -> None:
    for first in (False, True):
        disk = SimDisk()
        store = Blocks(disk, Index())
        block = store.put(TEXT, compress=first)
        used = disk.used
        assert store.put(TEXT, compress=not first) == block == identify(TEXT)
        assert disk.used == used
        assert (used < len(TEXT) // 2) == first


def test_content_that_is_a_frame_is_not_taken_for_one() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    ids = {
        store.put(data, compress=compress): data for compress in (False, True) for data in (FRAME, zstd.compress(FRAME))
    }
    ids[store.put(TEXT)] = TEXT
    again, found = rebuilt(disk)
    assert found.places == index.places
    for block, data in ids.items():
        assert again.get(block) == data


def test_every_damaged_byte_of_a_compressed_block_is_noticed() -> None:
    disk, index = SimDisk(), Index()
    block = Blocks(disk, index).put(b"some content " * 50, compress=True)
    place = index.places[block]
    assert place.length < 100
    for at in range(place.length):
        for bit in range(8):
            disk.flip(FIRST, place.offset + at, 1 << bit)
            named = True
            try:  # a frame has bits that mean nothing
                assert Blocks(disk, index).get(block) == b"some content " * 50
            except Corrupt as error:
                named = FIRST in error.where and block.hex() in error.expected
            assert named
            disk.flip(FIRST, place.offset + at, 1 << bit)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_block_is_corrupt(what: str) -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    store.append(identify(TEXT), HOSTILE[what], node=False, encoding=Encoding.ZSTD)
    with pytest.raises(Corrupt):
        store.get(identify(TEXT))
    assert rebuilt(disk)[1].places == {}


def test_a_frame_of_other_content_is_corrupt() -> None:
    disk, index = SimDisk(), Index()
    store = Blocks(disk, index)
    store.append(identify(b"other"), FRAME, node=False, encoding=Encoding.ZSTD)
    with pytest.raises(Corrupt):
        store.get(identify(b"other"))


def test_nodes_are_never_frames() -> None:
    node = identify(TEXT, node=True)
    assert decode(node, FRAME, node=True) is None
    assert decode(node, TEXT, node=True) == (TEXT, Encoding.RAW)


def test_a_header_with_another_encoding_is_damaged() -> None:
    for compress in (False, True):
        disk, index = SimDisk(), Index()
        block = Blocks(disk, index).put(TEXT, compress=compress)
        disk.flip(FIRST, 5, 1)
        assert rebuilt(disk.kill())[1].places == {}
        assert Blocks(disk, index).get(block) == TEXT, "which does not ask it"


# -- stores -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))  # the host does not lose power here


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store")
    opened.create_bucket(b"plain", uid=0, gid=0)
    packed = opened.create_bucket(b"packed", uid=0, gid=0)
    opened.set_compression(packed, Compression.ZSTD)
    yield opened
    opened.abandon()


@pytest.fixture
def path(store: Store) -> Path:
    """A closed store with compressed blocks, others, and one that both buckets have."""
    save(store, store.find_bucket(b"plain"), b"both", TEXT)
    for name, data in ((b"both", TEXT), (b"small", b"small"), (b"noise", NOISE), (b"big", BIG), (b"big", BIG[::-1])):
        save(store, store.find_bucket(b"packed"), name, data)
    store.close()
    return store.path


def read(store: Store, directory: Ino, name: bytes) -> bytes:
    handle = store.files.open(store.tree.lookup(directory, name)[0], WRITER)
    try:
        return store.files.read(handle, 0, 1 << 30)
    finally:
        store.files.release(handle)


def problems_of(path: Path) -> list[check.Problem]:
    found: list[check.Problem] = []
    check.check(path, found.append, lambda *_: None)
    return found


def flip(store: Path, segment: int, offset: int) -> None:
    with (store / f"blocks/{segment:08x}").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ 1,)))


def compressed(path: Path) -> tuple[BlockId, blocks.Place]:
    """One that nothing but a version in the bucket `packed` needs."""
    store = Store.open(path)
    block = identify(BIG[:BLOCK_BYTES])
    row = store.core.catalog.block(block)
    store.abandon()
    assert row is not None
    assert row.place.length < BLOCK_BYTES // 2
    return block, row.place


def test_buckets_with_different_settings_share_blocks(store: Store) -> None:
    plain, packed = store.find_bucket(b"plain"), store.find_bucket(b"packed")
    for first, second, data in ((plain, packed, BIG), (packed, plain, BIG[::-1])):
        save(store, first, b"file", data)
        count, live = store.core.catalog.count("blocks"), store.core.catalog.live_bytes()
        save(store, second, b"same", data)
        assert (store.core.catalog.count("blocks"), store.core.catalog.live_bytes()) == (count, live)
        assert read(store, second, b"same") == data
    audit(store)


def test_what_is_stored_stays_when_the_setting_changes(store: Store) -> None:
    packed = store.find_bucket(b"packed")
    save(store, packed, b"one", BIG)
    live = store.core.catalog.live_bytes()
    assert live < len(BIG) // 2
    store.set_compression(packed, Compression.OFF)
    assert store.core.catalog.live_bytes() == live
    save(store, packed, b"two", BIG[::-1])
    assert store.core.catalog.live_bytes() > live + len(BIG)
    assert read(store, packed, b"one") == BIG
    events = store.core.journal.end.number
    store.set_compression(packed, Compression.OFF)
    assert store.core.journal.end.number == events, "nothing changed"


def test_the_default_of_new_buckets(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/config.toml").write_text('compression = "zstd"\n')
    store = Store.open(tmp_path / "store")
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    assert store.bucket(bucket).compression is Compression.ZSTD
    store.close()


def test_a_crash_and_a_rebuild_keep_compressed_blocks(path: Path) -> None:
    assert problems_of(path) == []
    again = Store.open(path)
    save(again, again.find_bucket(b"packed"), b"late", TEXT[::-1])
    again.abandon()
    again = Store.open(path)
    assert read(again, again.find_bucket(b"packed"), b"late") == TEXT[::-1]
    again.close()
    check.rebuild(path, lambda *_: None)
    assert problems_of(path) == []
    again = Store.open(path)
    packed = again.find_bucket(b"packed")
    assert again.bucket(packed).compression is Compression.ZSTD
    assert [read(again, packed, name) for name in (b"both", b"small", b"noise")] == [TEXT, b"small", NOISE]
    assert read(again, packed, b"big") == BIG[::-1]
    again.close()


def test_a_damaged_compressed_block_is_named_with_its_versions(path: Path) -> None:
    block, place = compressed(path)
    flip(path, place.segment, place.offset + 100)
    problems = problems_of(path)
    assert {problem.kind for problem in problems} == {Kind.BLOCK, Kind.VERSION}
    assert block.hex() in {problem.block for problem in problems}
    store = Store.open(path)
    key = store.core.catalog.key(store.find_bucket(b"packed"), b"big")
    assert key is not None
    _, version = list(store.core.catalog.versions(key))[1]
    with pytest.raises(Corrupt, match=block.hex()):
        store.files.open_version(version.content).read(0, 10)
    store.close()
    assert check.rebuild(path, lambda *_: None).kept == 1
    assert (path / "damaged" / block.hex()).stat().st_size == place.length


def test_the_header_of_a_compressed_block_is_written_again_as_it_was(path: Path) -> None:
    block, place = compressed(path)
    before = (path / f"blocks/{place.segment:08x}").read_bytes()
    for offset in (0, 5, 12, 43):
        flip(path, place.segment, place.offset - HEADER_BYTES + offset)
        assert [problem.kind for problem in problems_of(path)] == [Kind.HEADER]
        assert mend_headers(path, [block.hex()]) == 1
        assert (path / f"blocks/{place.segment:08x}").read_bytes() == before
    assert problems_of(path) == []


def test_the_scrub_reads_compressed_blocks(path: Path) -> None:
    block, place = compressed(path)
    store = Store.open(path)
    targets = [scrub.Target(block, row.place, row.node) for block, row in store.core.catalog.blocks()]
    nodes = [target for target in targets if target.node]
    assert scrub.read_blocks(Folder.at(path / "blocks"), targets) == []
    flip(path, place.segment, place.offset + 100)
    (damage,) = scrub.read_blocks(Folder.at(path / "blocks"), targets)
    assert damage.target.block == block
    assert len(scrub.read_parents(Folder.at(path / "blocks"), nodes, {block})) == 1
    store.abandon()


def test_a_collection_moves_what_is_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is: also where the bucket has another setting by now, and where the header is damaged."""
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", 300_000)
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 0)
    packed = store.find_bucket(b"packed")
    save(store, packed, b"dead", random.Random(2).randbytes(299_000))
    save(store, packed, b"alive", TEXT)
    save(store, packed, b"more", random.Random(3).randbytes(400_000))
    row = store.core.catalog.block(identify(TEXT))
    assert row is not None
    stored = store.core.blocks.read_damaged(row.place)
    assert stored.startswith(MAGIC)
    flip(store.path, row.place.segment, row.place.offset - HEADER_BYTES + 5)
    store.set_compression(packed, Compression.OFF)
    key = store.core.catalog.key(packed, b"dead")
    assert key is not None
    for seq, _ in list(store.core.catalog.versions(key)):
        store.history.purge(key, seq, WRITER)
    gc.run(store)
    moved = store.core.catalog.block(identify(TEXT))
    assert moved is not None
    assert moved.place.segment > row.place.segment
    assert store.core.blocks.read_damaged(moved.place) == stored
    assert read(store, packed, b"alive") == TEXT
    audit(store)
    store.close()
    assert problems_of(store.path) == []
