"""Hostile stores: whatever is done to the files, what comes of it is an error that says so, or the right bytes.

Nothing else is raised, nothing hangs, no version is made up, and what a length says is not believed before it is
checked. A catalog can do worse, because LMDB maps it: see the second half.
"""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import shutil
import signal
import struct
import tempfile
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tests.unit.test_check import fill
from vfs import blocks, content, journal
from vfs.catalog import fill_up
from vfs.check import check, rebuild
from vfs.content import WorkingCopy
from vfs.disk import RealDisk
from vfs.errors import Corrupt, NotAStore, VfsError
from vfs.folder import Folder
from vfs.journal import Journal
from vfs.model import Ino
from vfs.pages import missing_bytes
from vfs.settings import load
from vfs.store import Store

MEMORY_BYTES_MAX = 600 << 20  # beyond what the process has, and the address space that LMDB takes
SECONDS_MAX = 60
EXAMPLES, EXAMPLES_LONG = 40, 3000
PAGE = resource.getpagesize()


REPLACED = (b"one", b"two", b"null")  # null versions of the sample that others replaced


class Sample(NamedTuple):
    """A closed store, and what each of its versions holds."""

    path: Path
    contents: dict[int, bytes]


@pytest.fixture(scope="module")
def sample() -> Iterator[Sample]:
    """Small blocks and segments, so that few bytes hold much of everything."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda _: None)
        for module in (content, blocks):
            patch.setattr(module, "BLOCK_BYTES", 64)
        patch.setattr(content, "FANOUT", 2)
        patch.setattr("tests.unit.test_check.BIG", b"".join(b"%03d\n" % number for number in range(70)))
        patch.setattr(blocks, "SEGMENT_BYTES_MAX", 1500)
        patch.setattr(journal, "SEGMENT_BYTES_MAX", 3000)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vfs-fuzz-")))
        store = Store.open(folder / "store")
        fill(store)
        contents = {seq: read(store, version) for _, seq, version in store.core.catalog.every_version()}
        store.close()
        yield Sample(folder / "store", contents)


def read(store: Store, version: object) -> bytes:
    return WorkingCopy(store.core.blocks, version.content).read(0, 1 << 20)  # type: ignore[attr-defined]


# -- what is done to a file ---------------------------------------------------------------------------------------

Mutation = Callable[[bytes], bytes]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """One change: bytes flipped, written over, spliced in, repeated, cut off or added. Places are parts of 2^16."""
    kind = draw(st.sampled_from(["flip", "overwrite", "splice", "repeat", "swap", "remove", "truncate", "extend"]))
    one, other = draw(st.integers(0, 65535)), draw(st.integers(0, 65535))
    length = draw(st.sampled_from([1, 4, 8, 32, 100, 1000, 4096]))
    data = draw(
        st.one_of(st.binary(min_size=1, max_size=60), st.sampled_from([b"\xff" * 8, bytes(40), b"vfsJ", b"vfsB"]))
    )
    bit = draw(st.integers(0, 7))

    def mutate(old: bytes) -> bytes:
        a, b = one * len(old) >> 16, other * len(old) >> 16
        piece = old[b : b + length]
        match kind:
            case "flip":
                return old[:a] + bytes((old[a] ^ 1 << bit,)) + old[a + 1 :] if old else old
            case "overwrite":
                return old[:a] + data + old[a + len(data) :]
            case "splice":
                return old[:a] + piece + old[a:]
            case "repeat":
                return old[: a + length] + old[a:]
            case "swap":
                return old[:a] + piece + old[a + len(piece) :]
            case "remove":
                return old[:a] + old[a + length :]
            case "truncate":
                return old[:a]
        return old + data * (length // len(data) + 1)

    return mutate


def seal(payload: bytes, number: int, durable: int) -> bytes:
    """A record that is intact, whatever it says."""
    head = struct.pack("<4sIQQ", b"vfsJ", len(payload), number, durable)
    return head + struct.pack("<Q", xxh3_64_intdigest(head + payload)) + payload


# -- what may come of it ------------------------------------------------------------------------------------------


def use(path: Path, contents: dict[int, bytes] | None) -> None:
    """Open a store and read all of it; whatever can be read must be right. Raises VfsError."""
    store = Store.open(path)
    try:
        for _, seq, version in store.core.catalog.every_version():
            try:
                found = read(store, version)
            except VfsError:
                continue
            if contents is not None:  # without the end of the journal, what was replaced or a draft then is there again
                assert contents.get(seq, found) == found, "wrong bytes"
                assert found in contents.values() or found in REPLACED, "invented bytes"
        for ino, inode in list(store.core.catalog.every_inode()):
            if inode.is_dir:
                walk(store, ino)
    finally:
        store.close()


def walk(store: Store, directory: Ino) -> None:
    try:
        list(store.tree.entries(directory))
        list(store.history.names(directory))
    except VfsError:
        pass


def judge(path: Path, contents: dict[int, bytes] | None) -> None:
    """Everything that a user would try, one after the other."""
    for attempt in (
        lambda: check(path, lambda _: None, lambda *_: None),
        lambda: use(path, contents),
        lambda: rebuild(path, lambda *_: None),
        lambda: use(path, contents),
        lambda: rebuild(path, lambda *_: None, cut=True),
        lambda: use(path, contents),
        lambda: check(path, lambda _: None, lambda *_: None),
    ):
        try:
            attempt()
        except VfsError:
            continue


def spoil(sample: Sample, folder: Path, choose: int, changes: list[Mutation]) -> Path:
    """A copy of the sample in which one file of a folder was changed; *choose*: which."""
    path = Path(tempfile.mkdtemp(prefix="vfs-fuzz-")) / "store"
    shutil.copytree(sample.path, path)
    files = sorted((path / folder).iterdir())
    file = files[choose % len(files)]
    data = file.read_bytes()
    for change in changes:
        data = change(data)
    file.write_bytes(data)
    return path


CHANGES = st.lists(mutations(), min_size=1, max_size=3)


def damaged(sample: Sample, folder: str, choose: int, changes: list[Mutation], *, catalog: bool) -> None:
    path = spoil(sample, Path(folder), choose, changes)
    try:
        if not catalog:
            shutil.rmtree(path / "catalog")
        judge(path, sample.contents)
    finally:
        shutil.rmtree(path.parent)


FUZZ = {"folder": st.sampled_from(["journal", "blocks"]), "choose": st.integers(0, 9), "changes": CHANGES}


@settings(max_examples=EXAMPLES)
@given(**FUZZ, catalog=st.booleans())
def test_damaged_journals_and_blocks(
    sample: Sample, folder: str, choose: int, changes: list[Mutation], catalog: bool
) -> None:
    damaged(sample, folder, choose, changes, catalog=catalog)


@pytest.mark.slow
@settings(max_examples=EXAMPLES_LONG, derandomize=False)
@given(**FUZZ, catalog=st.booleans())
def test_damaged_journals_and_blocks_for_long(
    sample: Sample, folder: str, choose: int, changes: list[Mutation], catalog: bool
) -> None:
    damaged(sample, folder, choose, changes, catalog=catalog)


# -- records that are intact and make no sense --------------------------------------------------------------------

ODD = st.one_of(
    st.sampled_from([0, 1, -1, 255, 1 << 31, 1 << 60, (1 << 63) - 1, (1 << 64) - 1, -(1 << 63)]),
    st.integers(0, 60),
    st.sampled_from([b"", b"/", b"a" * 600, bytes(32), b".versions", "", None, True, [], [[]], 1.5]),
)


def twisted(node: object, place: int, odd: object) -> object:
    """An event with one value in it replaced: the one at *place*, counted from the front."""
    count = 0

    def visit(value: object) -> object:
        nonlocal count
        count += 1
        if count - 1 == place:
            return odd
        return [visit(item) for item in value] if isinstance(value, list) else value

    return visit(node)


@settings(max_examples=EXAMPLES)
@given(twists=st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 40), ODD), min_size=1, max_size=3))
def test_senseless_events(sample: Sample, twists: list[tuple[int, int, object]]) -> None:
    """Checksums keep chance out, not somebody who can write to the store: no bytes to be right about, but no harm."""
    opened = Journal(RealDisk(Folder.at(sample.path)))
    payloads = [record.payload for record in opened.records(journal.START)]
    for chosen, place, odd in twists:
        at = chosen % len(payloads)
        payloads[at] = msgspec.msgpack.encode(twisted(msgspec.msgpack.decode(payloads[at]), place, odd))
    path = spoil(sample, Path("journal"), 0, [])
    try:
        shutil.rmtree(path / "catalog")
        shutil.rmtree(path / "journal")
        (path / "journal").mkdir()
        records = b"".join(seal(payload, number, number - 1) for number, payload in enumerate(payloads, 1))
        (path / f"journal/{1:016x}").write_bytes(records)
        judge(path, None)
    finally:
        shutil.rmtree(path.parent)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x93\x01\xa1x\xdd\xff\xff\xff\xff",  # 4 Gi changes
        b"\x93\x01\xdb\xff\xff\xff\xffabc",  # a word of 4 GiB
        b"\x94\x01\xa1x\x90" + b"\x91" * 100_000,  # arrays in arrays, in a field that nobody knows
        b"\x93\x01\xa1x\x91\x94\x08\x02\xc6\xff\xff\xff\xff",  # a name of 4 GiB
        b"\x93\x01\xa1\xff\x90",  # no UTF-8
        b"\x93\x01\xa1x\x91\x92\xcc\xff\x01",  # a change that nobody knows
    ],
    ids=["nothing", "changes", "word", "nested", "name", "text", "tag"],
)
def test_lengths_are_not_believed(sample: Sample, payload: bytes) -> None:
    path = spoil(sample, Path("journal"), 0, [])
    try:
        for file in (path / "journal").iterdir():
            file.unlink()
        shutil.rmtree(path / "catalog")
        (path / f"journal/{1:016x}").write_bytes(seal(payload, 1, 0))
        tracemalloc.start()
        assert check(path, lambda _: None, lambda *_: None).problems
        if payload.endswith(b"\xcc\xff\x01"):  # perhaps a later vfs wrote it
            for attempt in (Store.open, lambda path: rebuild(path, lambda *_: None)):
                with pytest.raises(Corrupt):
                    attempt(path)
        else:
            Store.open(path).close()
            rebuild(path, lambda *_: None)
            assert len(list((path / "set-aside").iterdir())) == 1, "it is kept, and takes nothing with it"
            assert check(path, lambda _: None, lambda *_: None).harmless
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
        shutil.rmtree(path.parent)


@pytest.mark.parametrize("header", [b"vfsB\x00\x00\x00\x00\xff\xff\xff\xff", b"vfsJ\xff\xff\xff\xff"])
def test_a_header_is_not_believed(sample: Sample, header: bytes) -> None:
    folder = "blocks" if header.startswith(b"vfsB") else "journal"
    path = spoil(sample, Path(folder), -1, [lambda old: old + (header + bytes(60)) * 2000])
    try:
        tracemalloc.start()
        judge(path, sample.contents)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
        shutil.rmtree(path.parent)


def test_strange_files_beside_the_segments(sample: Sample) -> None:
    """What is not ours is left alone."""
    path = spoil(sample, Path("journal"), 0, [])
    try:
        for folder in ("journal", "blocks"):
            for name in ("lost+found", "0000000000000001~", ".nfs0001", "zz", "1_0"):
                (path / folder / name).write_bytes(b"not a segment")
        found: list[object] = []
        check(path, found.append, lambda *_: None)
        assert found == []
        use(path, sample.contents)
        rebuild(path, lambda *_: None)
        use(path, sample.contents)
        assert (path / "journal/lost+found").read_bytes() == b"not a segment"
    finally:
        shutil.rmtree(path.parent)


@given(text=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_settings_are_understood_or_refused(sample: Sample, text: bytes) -> None:
    path = sample.path / "config.toml"
    path.write_bytes(text)
    try:
        with suppress(NotAStore):
            load(Folder.at(sample.path))
    finally:
        path.unlink()


SETTINGS = st.sampled_from(
    ["commit_interval", "durability", "new_buckets", "new_buckets_purge", "poll_us", "compression", "another"]
)
VALUES = st.sampled_from(["nan", "inf", "-1", "1e999", '"close"', '""', "[[1]]", "{}", "true", "2020-01-01", "9" * 400])


@given(name=SETTINGS, value=VALUES, rest=st.sampled_from(["", "\n[", "\n" + "a = [" * 3000, "\0"]))
def test_settings_of_odd_values(sample: Sample, name: str, value: str, rest: str) -> None:
    test_settings_are_understood_or_refused.hypothesis.inner_test(sample, f"{name} = {value}{rest}".encode())  # type: ignore[attr-defined]


# -- the catalog: derived, without checksums, and mapped by a library that trusts it -------------------------------


def in_a_child(attempt: Callable[[], None]) -> int:
    """How a process ends that tries something, with little memory and little time: 0, or 1 if it raised something else
    than VfsError (which is printed), or minus a signal.
    """
    child = os.fork()
    if child == 0:
        code = 1
        faulthandler.disable()  # a child that ends by a signal is no news
        try:
            with open("/proc/self/statm") as statm:
                has = int(statm.read().split()[0]) * resource.getpagesize()
            limit = has + (2 << 40) + MEMORY_BYTES_MAX  # the map of a catalog is 1 TiB of addresses, of two 2
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.alarm(SECONDS_MAX)
            attempt()
            code = 0
        except VfsError:
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def judge_catalog(path: Path, contents: dict[int, bytes], opening: Sequence[int] = (0,)) -> None:
    """`vfs check` ends, and `vfs rebuild` makes the store whole. *opening*: how a process may end that opens it."""
    assert in_a_child(lambda: check(path, lambda _: None, lambda *_: None) and None) == 0
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    assert in_a_child(lambda: Store.open(copy).close()) in opening
    assert in_a_child(lambda: rebuild(path, lambda *_: None) and None) == 0
    use(path, contents)
    problems: list[object] = []
    check(path, problems.append, lambda *_: None)
    assert problems == []


@pytest.mark.parametrize("size", [0, 1, 100, PAGE, 2 * PAGE, 3 * PAGE, 10 * PAGE, -PAGE, -1])
def test_a_catalog_that_was_cut(sample: Sample, size: int) -> None:
    path = spoil(sample, Path("catalog"), 0, [lambda old: old[:size]])
    try:
        judge_catalog(path, sample.contents)
    finally:
        shutil.rmtree(path.parent)


@pytest.mark.parametrize("what", ["zeros", "noise", "zeros behind the meta pages", "noise behind", "too long by far"])
def test_a_catalog_of_garbage(sample: Sample, what: str) -> None:
    noise = random.Random(what)

    def change(old: bytes) -> bytes:
        match what:
            case "zeros":
                return bytes(len(old))
            case "noise":
                return noise.randbytes(len(old))
            case "zeros behind the meta pages":
                return old[: 2 * PAGE] + bytes(len(old) - 2 * PAGE)
            case "noise behind":
                return old[: 2 * PAGE] + noise.randbytes(len(old) - 2 * PAGE)
        last = struct.pack("<Q", 1 << 40)  # by the meta pages
        return old[:136] + last + old[144 : PAGE + 136] + last + old[PAGE + 144 :]

    path = spoil(sample, Path("catalog"), 0, [change])
    try:
        judge_catalog(path, sample.contents)
    finally:
        shutil.rmtree(path.parent)


def test_a_sound_catalog_may_lack_its_last_pages(sample: Sample) -> None:
    """LMDB leaves free pages at the end unwritten: that is no damage, and nothing to report."""
    path = spoil(sample, Path("catalog"), 0, [lambda old: raise_last_page(old, by=3)])
    try:
        assert missing_bytes(Folder.at(path / "catalog")) == 3 * PAGE
        problems: list[object] = []
        check(path, problems.append, lambda *_: None)
        assert problems == []
        assert missing_bytes(Folder.at(path / "catalog")) == 3 * PAGE, "a check changes nothing"
        use(path, sample.contents)
        fill_up(Folder.at(path / "catalog"))
        assert missing_bytes(Folder.at(path / "catalog")) == 0
    finally:
        shutil.rmtree(path.parent)


def raise_last_page(data: bytes, *, by: int) -> bytes:
    for at in (136, PAGE + 136):
        last = struct.unpack_from("<Q", data, at)[0]
        data = data[:at] + struct.pack("<Q", last + by) + data[at + 8 :]
    return data


def damaged_catalog(sample: Sample, changes: list[Mutation]) -> None:
    path = spoil(sample, Path("catalog"), 0, changes)
    try:
        judge_catalog(path, sample.contents, (0, -signal.SIGBUS, -signal.SIGSEGV))  # nothing else can be asked of LMDB
    finally:
        shutil.rmtree(path.parent)


@settings(max_examples=12)
@given(changes=CHANGES)
def test_damaged_catalogs(sample: Sample, changes: list[Mutation]) -> None:
    damaged_catalog(sample, changes)


@pytest.mark.slow
@settings(max_examples=EXAMPLES_LONG, derandomize=False)
@given(changes=CHANGES)
def test_damaged_catalogs_for_long(sample: Sample, changes: list[Mutation]) -> None:
    damaged_catalog(sample, changes)
