"""vfs.check on real stores: what is whole is clean, and whatever is damaged is found and named."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest

from tests.simdisk import SimDisk
from tests.syncing import sync
from vfs import check as checking
from vfs import gc
from vfs.blocks import BLOCK_BYTES
from vfs.catalog import TABLES, BlockRow, Catalog
from vfs.check import Figures, Kind, Problem, check, mend_headers, rebuild, rebuilding
from vfs.check.readthrough import ReadThrough
from vfs.disk import RealFile, segments
from vfs.errors import Corrupt, DiskFailed, LimitReached, NoSuchKey, NotAStore, StoreInUse
from vfs.folder import Folder
from vfs.journal import START
from vfs.model import BlockId, Ino, ObjectInfo, Seq, State, Writer
from vfs.names import format_version_id
from vfs.store import Store
from vfs.synclog import PAGE_BYTES

WRITER = Writer(0, 1, "test")
SEGMENT = "journal/0000000000000001"
BIG = b"".join(b"%07d\n" % number for number in range(3 * BLOCK_BYTES // 8)) + b"end"  # four blocks and a node


def write(store: Store, directory: Ino, name: bytes, data: bytes) -> Seq:
    """A version of a file; its sequence."""
    try:
        ino, _ = store.tree.lookup(directory, name)
        handle = store.files.open(ino, WRITER, truncate=True)
    except NoSuchKey:
        ino, _ = store.tree.create(directory, name, 0o644, 0, WRITER)
        handle = store.files.open(ino, WRITER, created=True)
    if data:
        store.files.write(handle, 0, data)
    store.files.flush(handle)
    store.files.release(handle)
    return store.tree.inode(ino).seq


def fill(store: Store) -> None:
    """Something of everything that a store can hold."""
    docs = store.create_bucket(b"docs", uid=0, gid=0)
    plain = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    directory, _ = store.tree.mkdir(docs, b"dir", 0o755, 0, WRITER)
    inner, _ = store.tree.mkdir(directory, b"inner", 0o755, 0, WRITER)
    for data in (b"one", b"two", b"", BIG):
        write(store, docs, b"report", data)
        write(store, directory, b"copy", data)
        write(store, plain, b"plain", data)
    write(store, inner, b"deep", b"deep")
    store.tree.unlink(directory, b"copy", WRITER)
    store.tree.symlink(docs, b"link", b"report", 0, WRITER)
    store.tree.link(store.tree.lookup(docs, b"report")[0], inner, b"hard", WRITER)
    store.tree.set_attribute(docs, b"user.colour", b"red")
    store.tree.rename(docs, b"dir", docs, b"moved", WRITER)
    gone, _ = store.tree.mkdir(docs, b"gone", 0o755, 0, WRITER)
    write(store, gone, b"file", b"of a removed directory")
    store.tree.unlink(gone, b"file", WRITER)
    store.tree.rmdir(docs, b"gone", WRITER)
    body = store.objects.begin_content(plain)
    body.write(0, b"part")
    upload = store.uploads.create(plain, b"up/load", ObjectInfo())
    store.uploads.put_part(plain, b"up/load", upload, 1, body.seal(), "e")
    store.objects.set_tags(store.objects.current(plain, b"plain"), {"colour": "red"})
    store.objects.end_content(body)
    store.set_versioning(docs, State.SUSPENDED)
    write(store, docs, b"null", b"null")
    write(store, docs, b"null", b"and another")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store with something of everything."""
    store = Store.open(tmp_path / "store")
    fill(store)
    store.close()
    return tmp_path / "store"


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Store]:
    """An open, empty store, abandoned at the end as in a crash."""
    store = Store.open(tmp_path / "store")
    yield store
    store.abandon()


def problems_of(path: Path) -> list[Problem]:
    problems: list[Problem] = []
    figures = check(path, problems.append, lambda what, done, total: None)
    assert figures.problems == sum(not problem.harmless for problem in problems)
    assert figures.harmless == sum(problem.harmless for problem in problems)
    return problems


def figures_of(path: Path) -> Figures:
    return check(path, lambda problem: pytest.fail(str(problem)), lambda what, done, total: None)


def again(path: Path, *, cut: bool = False) -> checking.Rebuilt:
    return rebuild(path, lambda what, done, total: None, cut=cut)


def kinds(problems: list[Problem]) -> set[Kind]:
    return {problem.kind for problem in problems}


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ 1,)))


def rows(path: Path) -> dict[str, list[tuple[bytes, bytes]]]:
    catalog = Catalog(Folder.at(path / "catalog"), read_only=True)
    found = {table: list(catalog.rows(table)) for table in TABLES if table != "meta"}
    catalog.close()
    return found


def all_blocks(path: Path) -> dict[BlockId, BlockRow]:
    catalog = Catalog(Folder.at(path / "catalog"), read_only=True)
    found = dict(catalog.blocks())
    catalog.close()
    return found


def edit(path: Path, table: str, change: Callable[[Any, Any], None]) -> None:
    """Change a table of the catalog behind everybody's back."""
    with lmdb.open(str(path / "catalog"), max_dbs=20, map_size=1 << 40, lock=False, lib_version=0) as env:
        database = env.open_db(table.encode())
        with env.begin(write=True, db=database) as transaction:
            change(transaction, transaction.cursor())


def contents_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock"
    }


# --- what is whole


def test_a_closed_store_is_clean(path: Path) -> None:
    figures = figures_of(path)
    assert figures.events > 30
    assert figures.versions == 16
    assert figures.block_bytes > len(BIG)
    assert figures.torn_bytes == figures.harmless == 0


def test_an_empty_store_is_clean(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    assert figures_of(tmp_path / "store").versions == 0


def test_a_check_changes_nothing_in_the_store(path: Path) -> None:
    before = contents_of(path)
    figures_of(path)
    assert contents_of(path) == before


def test_a_crashed_store_is_clean_before_it_is_opened(open_store: Store) -> None:
    fill(open_store)
    open_store.checkpoint()
    docs = open_store.find_bucket(b"docs")
    write(open_store, docs, b"later", BIG + b"later")
    open_store.core.blocks.put(b"in no event")
    open_store.abandon()
    assert figures_of(open_store.path).torn_bytes == 0
    Store.open(open_store.path).abandon()
    figures_of(open_store.path)


@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("unlinked", [True, False])
def test_a_store_with_open_files_is_clean(open_store: Store, flushed: bool, unlinked: bool) -> None:
    docs = open_store.create_bucket(b"docs", uid=0, gid=0)
    ino, _ = open_store.tree.create(docs, b"file", 0o644, 0, WRITER)
    handle = open_store.files.open(ino, WRITER, created=True)
    open_store.files.write(handle, 0, BIG)
    if flushed:
        open_store.files.flush(handle)
    if unlinked:
        open_store.tree.unlink(docs, b"file", WRITER)
    open_store.checkpoint()
    open_store.abandon()
    figures_of(open_store.path)


def test_a_torn_end_of_the_journal_is_no_problem(open_store: Store) -> None:
    fill(open_store)
    open_store.abandon()
    segment = open_store.path / SEGMENT
    os.truncate(segment, segment.stat().st_size - 3)
    assert figures_of(open_store.path).torn_bytes > 0


def test_progress_comes_to_its_end(path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    check(path, lambda problem: None, lambda what, done, total: seen.update({what: (done, total)}))
    assert {"blocks", "journal", "rows: versions", "names: entries", "references: blocks"} <= set(seen)
    assert all(done == total for done, total in seen.values())


# --- what cannot be checked


def test_a_store_in_use_names_who_holds_it(open_store: Store) -> None:
    with pytest.raises(StoreInUse) as caught:
        problems_of(open_store.path)
    assert caught.value.pid == os.getpid()


def test_a_check_holds_the_store(path: Path) -> None:
    def look(what: str, done: int, total: int) -> None:
        with (path / "lock").open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    check(path, lambda problem: None, look)


@pytest.mark.parametrize("run", [problems_of, again])
def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path, run: Callable[[Path], object]) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path, tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(NotAStore):
            run(wrong)
    assert os.listdir(tmp_path) == ["file"]


# --- damaged blocks


def test_a_flipped_byte_in_a_block_names_every_version_that_needs_it(path: Path) -> None:
    leaf, row = next((block, row) for block, row in all_blocks(path).items() if row.place.length == BLOCK_BYTES)
    flip(path / f"blocks/{row.place.segment:08x}", row.place.offset + 5)
    problems = problems_of(path)
    damaged = [problem for problem in problems if problem.kind is Kind.BLOCK]
    assert [problem.where for problem in damaged] == [f"block {leaf.hex()}"]
    assert f"blocks/{row.place.segment:08x} at byte {row.place.offset}" in damaged[0].message
    harmed = [problem for problem in problems if problem.kind is Kind.VERSION]
    names = sorted(problem.where.split(" version ")[0] for problem in harmed)
    assert names == ["docs/moved/copy", "docs/moved/inner/hard", "docs/report", "plain/plain"]
    assert all(leaf.hex() in problem.message for problem in harmed)
    assert kinds(problems) == {Kind.BLOCK, Kind.VERSION}


def test_a_damaged_node_harms_the_versions_above_it_and_hides_counts_below(path: Path) -> None:
    node, row = next((block, row) for block, row in all_blocks(path).items() if row.node)
    flip(path / f"blocks/{row.place.segment:08x}", row.place.offset)
    problems = problems_of(path)
    assert kinds(problems) == {Kind.BLOCK, Kind.VERSION}
    assert len([problem for problem in problems if problem.kind is Kind.VERSION]) == 4
    assert any(problem.where == f"block {node.hex()}" for problem in problems)


def test_the_id_of_a_harmed_version_is_named(open_store: Store) -> None:
    docs = open_store.create_bucket(b"docs", uid=0, gid=0)
    seq = write(open_store, docs, b"file", b"one")
    write(open_store, docs, b"file", b"two")
    open_store.close()
    flip(open_store.path / "blocks/00000001", os.stat(open_store.path / "blocks/00000001").st_size - 1)
    current = [problem.where for problem in problems_of(open_store.path) if problem.kind is Kind.VERSION]
    assert len(current) == 1
    assert current != [f"docs/file version {format_version_id(seq)}"]


def test_a_missing_segment_of_blocks_is_found(path: Path) -> None:
    (path / "blocks/00000001").unlink()
    problems = problems_of(path)
    assert kinds(problems) == {Kind.BLOCK, Kind.VERSION, Kind.PART}
    assert any("docs/report" in problem.where for problem in problems)


def test_a_damaged_block_that_nothing_needs_is_harmless(open_store: Store) -> None:
    docs = open_store.create_bucket(b"docs", uid=0, gid=0)
    write(open_store, docs, b"file", b"purged soon")
    key = open_store.history.past(docs, b"file").keys[0]
    write(open_store, docs, b"file", b"stays")
    *_, (oldest, _) = open_store.history.versions(key)
    open_store.history.purge(key, oldest, WRITER)
    open_store.close()
    block, row = next((block, row) for block, row in all_blocks(open_store.path).items() if not row.references)
    flip(open_store.path / "blocks/00000001", row.place.offset)
    (problem,) = problems_of(open_store.path)
    assert problem.harmless
    assert block.hex() in problem.where


def test_a_damaged_header_is_found_though_the_block_can_be_read(path: Path) -> None:
    row = next(row for row in all_blocks(path).values() if row.place.length == BLOCK_BYTES)
    flip(path / f"blocks/{row.place.segment:08x}", row.place.offset - 30)
    (problem,) = problems_of(path)
    assert problem.kind is Kind.HEADER
    assert "header" in problem.message


def test_a_damaged_header_is_written_again_as_it_was(path: Path) -> None:
    block, row = next((block, row) for block, row in all_blocks(path).items() if row.place.length == BLOCK_BYTES)
    segment = path / f"blocks/{row.place.segment:08x}"
    before = segment.read_bytes()
    for offset in (-44, -30, -1):
        flip(segment, row.place.offset + offset)
    assert mend_headers(path, [block.hex()]) == 1
    assert segment.read_bytes() == before
    figures_of(path)


def test_the_header_of_a_damaged_block_is_left_alone(path: Path) -> None:
    block, row = next((block, row) for block, row in all_blocks(path).items() if row.place.length == BLOCK_BYTES)
    segment = path / f"blocks/{row.place.segment:08x}"
    flip(segment, row.place.offset - 30)
    flip(segment, row.place.offset)
    before = segment.read_bytes()
    assert mend_headers(path, [block.hex(), "00" * 32]) == 0
    assert segment.read_bytes() == before


def test_a_lost_block_that_is_on_the_disk_is_a_fault_of_the_catalog(path: Path) -> None:
    """A segment was put back from a copy."""
    segment = path / "blocks/00000001"
    whole = segment.read_bytes()
    row = next(row for row in all_blocks(path).values() if row.place.length == BLOCK_BYTES)
    flip(segment, row.place.offset)
    again(path)
    segment.write_bytes(whole)
    assert Kind.BLOCK not in kinds(problems_of(path))
    assert Kind.CATALOG in kinds(problems_of(path))
    again(path)
    figures_of(path)


def test_problems_name_blocks_and_versions_for_programs(path: Path) -> None:
    leaf, row = next((block, row) for block, row in all_blocks(path).items() if row.place.length == BLOCK_BYTES)
    flip(path / f"blocks/{row.place.segment:08x}", row.place.offset)
    problems = problems_of(path)
    assert {problem.block for problem in problems} == {leaf.hex(), ""}
    harmed = [problem for problem in problems if problem.kind is Kind.VERSION]
    assert {problem.path for problem in harmed} == {
        "docs/moved/copy",
        "docs/moved/inner/hard",
        "docs/report",
        "plain/plain",
    }
    assert all(problem.where == f"{problem.path} version {problem.version_id}" for problem in harmed)


def test_a_store_on_a_read_only_file_system_is_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "_is_read_only", lambda path: True)
    opened = os.open
    touched = []

    def spy(name: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT) and str(name).startswith(str(path)):
            touched.append(name)
        return opened(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    figures_of(path)
    assert touched == []


def test_a_limit_that_is_reached_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("vfs.check.folding.RealFile", refuse)
    with pytest.raises(LimitReached, match=r"ulimit -n"):
        problems_of(path)


def put_part(store: Store, bucket: Ino, key: bytes, upload_id: str, number: int, data: bytes) -> None:
    body = store.objects.begin_content(bucket)
    body.write(0, data)
    store.uploads.put_part(bucket, key, upload_id, number, body.seal(), "e")
    store.objects.end_content(body)


def damage_leaf_of(path: Path, data: bytes) -> str:
    """Flip a byte of the last block of a content; the block's id."""
    segment = path / "blocks/00000001"
    at = segment.read_bytes().index(data[-(len(data) % BLOCK_BYTES) :])
    flip(segment, at)
    return next(block.hex() for block, row in all_blocks(path).items() if row.place.offset == at)


def test_a_damaged_part_of_an_upload_is_named(open_store: Store) -> None:
    """In whichever bucket it is, and whatever its key looks like; those of other uploads and numbers are not."""
    for name in (b"aaa", b"media", b"zzz"):
        bucket = open_store.create_bucket(name, uid=0, gid=0, state=State.UNVERSIONED)
        upload = open_store.uploads.create(bucket, b"sound", ObjectInfo())
        put_part(open_store, bucket, b"sound", upload, 1, b"of %s, intact" % name)
    media = open_store.find_bucket(b"media")
    key = b"film\n\xff/reel"
    uploads = [open_store.uploads.create(media, key, ObjectInfo()) for _ in range(3)]
    for number in (1, 2, 10_000):
        put_part(open_store, media, key, uploads[1], number, BIG + b"%d" % number)
    put_part(open_store, media, key, uploads[0], 2, b"another's")
    open_store.close()
    block = damage_leaf_of(open_store.path, BIG + b"2")
    problems = problems_of(open_store.path)
    assert [(problem.kind, problem.where) for problem in problems] == [
        (Kind.BLOCK, f"block {block}"),
        (Kind.PART, f"media/film\\n\\xff/reel upload {uploads[1]} part 2"),
    ]
    part = problems[1]
    assert part.message == f"needs 1 damaged block: {block}"
    assert (part.bucket, part.key, part.upload_id, part.part_number) == (
        "media",
        "film\\n\\xff/reel",
        uploads[1],
        2,
    )
    assert (part.path, part.version_id) == ("", "")


def test_a_block_of_a_part_and_of_a_version_harms_both(open_store: Store) -> None:
    """And the parts of several uploads, each with every number that needs it."""
    docs = open_store.create_bucket(b"docs", uid=0, gid=0)
    seq = write(open_store, docs, b"file", BIG)
    uploads = [open_store.uploads.create(docs, b"file", ObjectInfo()) for _ in range(2)]
    for upload in uploads:
        for number in (3, 7):
            put_part(open_store, docs, b"file", upload, number, BIG)
    open_store.close()
    damage_leaf_of(open_store.path, BIG)
    harmed = [problem for problem in problems_of(open_store.path) if problem.kind is not Kind.BLOCK]
    assert [problem.where for problem in harmed] == [
        f"docs/file version {format_version_id(seq)}",
        *(f"docs/file upload {upload} part {number}" for upload in uploads for number in (3, 7)),
    ]


def test_a_part_that_was_replaced_or_given_up_is_not_named(open_store: Store) -> None:
    docs = open_store.create_bucket(b"docs", uid=0, gid=0)
    replaced, aborted = (open_store.uploads.create(docs, b"file", ObjectInfo()) for _ in range(2))
    for upload in (replaced, aborted):
        put_part(open_store, docs, b"file", upload, 1, BIG)
    put_part(open_store, docs, b"file", replaced, 1, b"again")
    open_store.uploads.abort(docs, b"file", aborted)
    open_store.close()
    damage_leaf_of(open_store.path, BIG)
    (problem,) = problems_of(open_store.path)
    assert problem.harmless


def test_a_damaged_part_without_an_upload_is_named_by_its_numbers(open_store: Store) -> None:
    docs = open_store.create_bucket(b"docs", uid=0, gid=0)
    upload = open_store.uploads.create(docs, b"file", ObjectInfo())
    put_part(open_store, docs, b"file", upload, 5, BIG)
    open_store.close()
    damage_leaf_of(open_store.path, BIG)
    edit(open_store.path, "uploads", lambda transaction, cursor: cursor.first() and cursor.delete())
    (part,) = [problem for problem in problems_of(open_store.path) if problem.kind is Kind.PART]
    assert part.where == f"part 5 of upload {int(upload[:16], 16)}"


# --- damaged journal


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
def test_a_flipped_byte_in_the_journal_is_found_wherever_it_is(path: Path, share: float) -> None:
    flip(path / SEGMENT, int((path / SEGMENT).stat().st_size * share))
    problems = problems_of(path)
    assert kinds(problems) == {Kind.JOURNAL}
    assert problems[0].where.startswith(SEGMENT)


def test_a_missing_segment_of_the_journal_is_found(path: Path) -> None:
    (path / SEGMENT).unlink()
    (problem,) = problems_of(path)
    assert problem.kind is Kind.JOURNAL
    assert "record 1" in problem.message


def test_a_missing_segment_in_the_middle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfs.journal.SEGMENT_BYTES_MAX", 2000)
    store = Store.open(tmp_path)
    fill(store)
    store.close()
    figures_of(tmp_path)
    first, second, third, *_ = sorted(segments(os.listdir(tmp_path / "journal")))
    (tmp_path / "journal" / second).unlink()
    (problem,) = problems_of(tmp_path)
    assert problem.where.startswith(f"journal/{first}")
    with pytest.raises(Corrupt, match="--cut"):
        again(tmp_path)
    done = again(tmp_path, cut=True)
    assert done.cut is not None
    assert third in os.listdir(done.cut)
    assert problems_of(tmp_path) == []


def test_versions_behind_damage_are_named(open_store: Store) -> None:
    docs = open_store.create_bucket(b"docs", uid=0, gid=0)
    write(open_store, docs, b"old", b"before")
    open_store.checkpoint()
    where = open_store.core.journal.end.offset
    write(open_store, docs, b"in between", b"its records are damaged")
    behind = [write(open_store, docs, b"old", b"after"), write(open_store, docs, b"new", b"after")]
    sync(open_store)
    open_store.checkpoint()
    open_store.abandon()
    shutil.rmtree(open_store.path / "catalog")
    flip(open_store.path / SEGMENT, where + 40)
    named = [(problem.path, problem.version_id) for problem in problems_of(open_store.path) if problem.path]
    assert ("docs/old", format_version_id(behind[0])) in named
    assert ("docs/new", format_version_id(behind[1])) in named
    assert not [name for name, _ in named if name == "docs/old" and _ != format_version_id(behind[0])]


# --- an unreadable sync log


@pytest.fixture
def logged(tmp_path: Path, small_sync_log: None) -> Path:
    """A store after a power loss: what was synced last, version "new" of a file, is in the sync log only."""
    store = Store.open(tmp_path / "store")
    docs = store.create_bucket(b"docs", uid=0, gid=0)
    write(store, docs, b"file", b"old")
    sync(store)
    ends = store.core.journal.end, store.core.blocks.end
    write(store, docs, b"file", b"new")
    sync(store)
    store.abandon()
    os.truncate(tmp_path / "store" / SEGMENT, ends[0].offset)
    os.truncate(tmp_path / "store/blocks/00000001", ends[1].offset)
    return tmp_path / "store"


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Make a byte of a file unreadable."""
    bad: list[tuple[Path, int]] = []
    read = RealFile.read

    def refuse(file: RealFile, offset: int, length: int) -> bytes:
        if any(file._path == path and offset <= at < offset + length for path, at in bad):
            error = OSError(errno.EIO, os.strerror(errno.EIO))
            raise DiskFailed(f"cannot read {file._path} at {offset}: {error.strerror}") from error
        return read(file, offset, length)

    monkeypatch.setattr(RealFile, "read", refuse)
    return lambda path, at: bad.append((path, at))


def file_in(path: Path) -> bytes:
    store = Store.open(path)
    ino, _ = store.tree.lookup(store.find_bucket(b"docs"), b"file")
    handle = store.files.open(ino, WRITER)
    data = store.files.read(handle, 0, 100)
    store.files.release(handle)
    store.close()
    return data


def test_what_only_the_sync_log_has_is_checked(logged: Path) -> None:
    assert figures_of(logged).block_bytes == len(b"old" + b"new")
    assert file_in(logged) == b"new"


def test_a_sync_log_that_cannot_be_read_is_named_and_refused(logged: Path, spoil: Callable[[Path, int], None]) -> None:
    spoil(logged / "synclog/0", PAGE_BYTES + 100)
    before = contents_of(logged)
    problems: list[Problem] = []
    figures = check(logged, problems.append, lambda what, done, total: None)
    (problem,) = problems
    assert (problem.kind, problem.where) == (Kind.SYNCLOG, f"synclog/0 at byte {PAGE_BYTES}")
    assert "Input/output error" in problem.message
    assert "in the last seconds" in problem.message
    assert not figures.opens
    for run in (Store.open, again, lambda path: mend_headers(path, ["00" * 32])):
        with pytest.raises(Corrupt, match=r"synclog/0 .*`vfs rebuild --cut`"):
            run(logged)
    assert contents_of(logged) == before


def test_a_sync_log_that_can_be_read_again_has_lost_nothing(
    logged: Path, spoil: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        spoil(logged / "synclog/0", PAGE_BYTES + 100)
        with pytest.raises(Corrupt):
            Store.open(logged)
        monkeypatch.undo()
    assert file_in(logged) == b"new"


def test_cut_does_without_a_sync_log_that_cannot_be_read(logged: Path, spoil: Callable[[Path, int], None]) -> None:
    log = contents_of(logged)["synclog/0"]
    spoil(logged / "synclog/0", PAGE_BYTES + 100)
    done = again(logged, cut=True)
    assert done.cut is None
    assert done.log is not None
    assert (done.log / "0").read_bytes() == log
    assert done.last_event > 0
    assert problems_of(logged) == []
    assert file_in(logged) == b"old"


def test_cut_keeps_what_can_be_read_of_a_sync_log(logged: Path, spoil: Callable[[Path, int], None]) -> None:
    """Of two records the second cannot be read."""
    store = Store.open(logged)
    docs = store.find_bucket(b"docs")
    write(store, docs, b"file", b"older")
    sync(store)
    for data in (b"kept", b"lost"):
        end = store.core.journal.end.offset
        write(store, docs, b"file", data)
        sync(store)
    store.abandon()
    spoil(logged / "synclog/0", 2 * PAGE_BYTES)
    os.truncate(logged / SEGMENT, end - 100)  # in the midst of what the first record has
    again(logged, cut=True)
    assert file_in(logged) == b"kept"


def test_a_place_of_a_sync_log_where_nothing_is_needed_is_a_note(
    logged: Path, spoil: Callable[[Path, int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The store opens with everything, and says so."""
    spoil(logged / "synclog/0", 5 * PAGE_BYTES)
    problems: list[Problem] = []
    figures = check(logged, problems.append, lambda what, done, total: None)
    assert [(problem.kind, problem.harmless) for problem in problems] == [(Kind.SYNCLOG, True)]
    assert (figures.problems, figures.opens) == (0, True)
    assert file_in(logged) == b"new"
    assert "synclog/0 at " in caplog.text
    assert problems_of(logged) == []


# --- an unreadable place of blocks, journal or snapshot


def test_a_block_that_the_disk_cannot_read_is_named_with_what_it_harms(
    path: Path, spoil: Callable[[Path, int], None]
) -> None:
    """And nothing else is, though a scan reads more than a page at once."""
    leaf, row = next((block, row) for block, row in all_blocks(path).items() if row.place.length == BLOCK_BYTES)
    segment = f"blocks/{row.place.segment:08x}"
    at = row.place.offset + 2 * PAGE_BYTES
    spoil(path / segment, at)
    problems = problems_of(path)
    (damaged,) = [problem for problem in problems if problem.kind is Kind.BLOCK]
    assert damaged.block == leaf.hex()
    assert "Input/output error" in damaged.message
    assert len([problem for problem in problems if problem.kind is Kind.VERSION]) == 4
    (place,) = [problem for problem in problems if problem.kind is Kind.DISK]
    assert (place.where, place.harmless) == (segment, True)
    assert f"1 pages, the first at byte {at - at % PAGE_BYTES};" in place.message
    assert kinds(problems) == {Kind.BLOCK, Kind.VERSION, Kind.DISK}


def test_what_cannot_be_read_is_asked_for_once_and_is_zeros_and_the_rest_is_there() -> None:
    disk = SimDisk()
    disk.list("folder")
    data = bytes(range(1, 101)) * 200
    disk.open("folder/file", create=True).append([data])
    disk.spoil("folder/file", PAGE_BYTES)
    asked: list[str] = []
    disk.fault = lambda call, path: asked.append(call)
    through = ReadThrough(disk)
    expected = data[:PAGE_BYTES] + bytes(PAGE_BYTES) + data[2 * PAGE_BYTES :]
    for start in (
        0,
        1,
        PAGE_BYTES - 1,
        PAGE_BYTES,
        2 * PAGE_BYTES - 1,
        2 * PAGE_BYTES,
        len(data) - 1,
        len(data),
        30_000,
    ):
        for length in (0, 1, PAGE_BYTES, PAGE_BYTES + 1, 30_000):
            assert through.open("folder/file").read(start, length) == expected[start : start + length]
    assert list(through.unreadable()) == [("folder/file", PAGE_BYTES, 1)]
    asked.clear()
    through.open("folder/file").read(PAGE_BYTES, PAGE_BYTES)
    assert asked == []


def test_a_record_that_the_disk_cannot_read_is_a_damaged_one(path: Path, spoil: Callable[[Path, int], None]) -> None:
    spoil(path / SEGMENT, PAGE_BYTES)
    assert [(problem.kind, problem.harmless) for problem in problems_of(path)] == [
        (Kind.JOURNAL, False),
        (Kind.DISK, True),
    ]


def test_a_snapshot_that_the_disk_cannot_read_is_a_damaged_one(
    path: Path, spoil: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
    store = Store.open(path)
    gc.run(store)
    store.close()
    (name,) = os.listdir(path / "snapshots")
    spoil(path / "snapshots" / name, 2 * PAGE_BYTES)
    assert kinds(problems_of(path)) == {Kind.SNAPSHOT}


def test_a_check_of_a_disk_that_has_no_memory_to_read_names_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: RealFile, offset: int, length: int) -> bytes:
        raise DiskFailed("cannot read") from OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(RealFile, "read", refuse)
    with pytest.raises(DiskFailed):
        problems_of(path)


def test_a_rebuild_does_without_what_the_disk_cannot_read_only_when_told(
    path: Path, spoil: Callable[[Path, int], None]
) -> None:
    """What the disk reads later is found by another rebuild."""
    block, row = next((block, row) for block, row in all_blocks(path).items() if row.place.length == BLOCK_BYTES)
    segment = path / f"blocks/{row.place.segment:08x}"
    at = row.place.offset + 2 * PAGE_BYTES
    spoil(segment, at)
    before = contents_of(path)
    with pytest.raises(Corrupt, match="that the disk cannot read"):
        again(path)
    assert contents_of(path) == before
    assert again(path, cut=True).kept == 1
    kept = (path / "damaged" / block.hex()).read_bytes()
    page = at - at % PAGE_BYTES - row.place.offset
    whole = segment.read_bytes()[row.place.offset : row.place.offset + BLOCK_BYTES]
    assert kept == whole[:page] + bytes(PAGE_BYTES) + whole[page + PAGE_BYTES :]
    assert kinds(problems_of(path)) == {Kind.BLOCK, Kind.VERSION, Kind.DISK}


@pytest.mark.parametrize("catalog", [True, False])
def test_the_last_blocks_that_the_disk_cannot_read_stay_for_when_it_can(
    path: Path, catalog: bool, spoil: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the store does not ask for them again, nor cuts them off."""
    store = Store.open(path)
    docs = store.find_bucket(b"docs")
    write(store, docs, b"last", b"".join(b"%06d\n" % number for number in range(10_000)))
    store.close()
    segment = path / "blocks/00000001"
    whole = segment.read_bytes()
    if not catalog:
        shutil.rmtree(path / "catalog")
    with monkeypatch.context():
        spoil(segment, len(whole) - 1)
        again(path, cut=True)
        store = Store.open(path)
        write(store, docs, b"new", b"written behind them")
        ino, _ = store.tree.lookup(docs, b"last")
        with pytest.raises(Corrupt):
            store.files.read(store.files.open(ino, WRITER), 0, 1)
        store.close()
        harmed = [problem.path for problem in problems_of(path) if problem.kind is Kind.VERSION]
        assert harmed == ["docs/last"]
        monkeypatch.undo()
    assert segment.read_bytes().startswith(whole)
    again(path)
    assert problems_of(path) == []


def test_cut_of_a_journal_that_the_disk_cannot_read_keeps_the_rest(
    path: Path, spoil: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (path / SEGMENT).read_bytes()
    with monkeypatch.context():
        spoil(path / SEGMENT, PAGE_BYTES)
        with pytest.raises(Corrupt, match="--cut"):
            again(path)
        done = again(path, cut=True)
        monkeypatch.undo()
    assert done.cut is not None
    (moved,) = done.cut.iterdir()
    kept = int(moved.name.rpartition("-")[2])
    damaged = whole[:PAGE_BYTES] + bytes(PAGE_BYTES) + whole[2 * PAGE_BYTES :]
    assert (path / SEGMENT).read_bytes()[:kept] + moved.read_bytes() == damaged
    assert problems_of(path) == []


# --- a wrong catalog


def test_a_wrong_count_of_references_is_found(path: Path) -> None:
    def change(transaction: Any, cursor: Any) -> None:
        cursor.first()
        segment, offset, length, references, node = struct.unpack(">IQIQB", cursor.value())
        transaction.put(cursor.key(), struct.pack(">IQIQB", segment, offset, length, references + 1, node))

    edit(path, "blocks", change)
    (problem,) = problems_of(path)
    assert problem.kind is Kind.REFERENCES
    assert problem.where == f"block {min(all_blocks(path)).hex()}"


def test_a_missing_block_row_is_found(path: Path) -> None:
    leaf = next(block for block, row in all_blocks(path).items() if row.place.length == BLOCK_BYTES)
    edit(path, "blocks", lambda transaction, cursor: transaction.delete(leaf))
    problems = problems_of(path)
    assert kinds(problems) == {Kind.CATALOG, Kind.VERSION}
    assert any(problem.kind is Kind.VERSION and "docs/report" in problem.where for problem in problems)


def test_wrong_figures_of_a_segment_are_found(path: Path) -> None:
    edit(path, "segments", lambda transaction, cursor: transaction.put(bytes(7) + b"\1", bytes(16)))
    problems = problems_of(path)
    assert kinds(problems) == {Kind.CATALOG}
    assert [problem.where for problem in problems] == ["blocks/00000001"]


@pytest.mark.parametrize("table", ["inodes", "versions", "buckets"])
def test_a_row_of_an_older_vfs_is_no_fault(path: Path, table: str) -> None:
    """It lacks the fields that were appended since, which have their defaults."""

    def change(transaction: Any, cursor: Any) -> None:
        cursor.first()
        fields = msgspec.msgpack.decode(cursor.value())
        transaction.put(cursor.key(), msgspec.msgpack.encode(fields[:-1]))

    edit(path, table, change)
    figures_of(path)


OF_BLOCKS = ("blocks", "segments")
OF_OPEN_FILES = ("drafts", "orphans", "displaced", "interim", "tails")
EMPTY = (*OF_OPEN_FILES, "aside")  # of a store that is well and closed


@pytest.mark.parametrize("table", [table for table in TABLES if table not in ("meta", *OF_BLOCKS, *EMPTY)])
def test_a_missing_row_is_found_and_named(path: Path, table: str) -> None:
    def change(transaction: Any, cursor: Any) -> None:
        cursor.last()
        transaction.delete(cursor.key())

    edit(path, table, change)
    problems = problems_of(path)
    assert Kind.CATALOG in kinds(problems)
    assert any(problem.where.startswith(f"{table}: ") and "missing" in problem.message for problem in problems)


def test_a_missing_entry_is_also_missed_by_its_inode(path: Path) -> None:
    edit(path, "entries", lambda transaction, cursor: cursor.set_range(b"\0" * 7 + b"\2link") and cursor.delete())
    problems = problems_of(path)
    assert any("'link'" in problem.where for problem in problems)
    assert any("docs/link" in problem.where and "does not lead to it" in problem.message for problem in problems)


@pytest.mark.parametrize("table", ["entries", "inodes", "keys", "key_names", "versions", "times", "buckets"])
def test_a_row_that_makes_no_sense_is_found(path: Path, table: str) -> None:
    def change(transaction: Any, cursor: Any) -> None:
        cursor.last()
        transaction.put(cursor.key(), b"\xc1")

    edit(path, table, change)
    assert Kind.CATALOG in kinds(problems_of(path))


@pytest.mark.parametrize("table", ["links", "attributes", "drafts", "orphans", "times", "key_names"])
def test_a_row_too_many_is_found_by_both_comparisons(path: Path, table: str) -> None:
    key = struct.pack(">QQ", 999, 998) if table in ("links", "attributes") else struct.pack(">Q", 999)
    value = {
        "times": struct.pack(">Q", 998),
        "key_names": struct.pack(">Q", 2) + b"strange",
        "drafts": b"\x94\x93\0\xc4\0\0\0\0\x93\0\0\xa0",
    }.get(table, b"")
    edit(path, table, lambda transaction, cursor: transaction.put(key, value))
    problems = problems_of(path)
    assert any(problem.where.startswith(f"{table}: ") for problem in problems)
    assert any(not problem.where.startswith(f"{table}: ") for problem in problems)


def test_wrong_counters_of_a_bucket_are_found(path: Path) -> None:
    def change(transaction: Any, cursor: Any) -> None:
        cursor.first()
        value = bytearray(cursor.value())
        value[value.rindex(b"\xa7") + 7] ^= 1  # in the sum of sizes
        transaction.put(cursor.key(), bytes(value))

    edit(path, "buckets", change)
    assert any(problem.where == "bucket docs" and "counts" in problem.message for problem in problems_of(path))


def test_without_a_catalog_everything_else_is_checked(path: Path) -> None:
    os.rename(path / "catalog", path / "elsewhere")
    (problem,) = problems_of(path)
    assert problem.kind is Kind.CATALOG
    flip(path / "blocks/00000001", os.stat(path / "blocks/00000001").st_size - 1)
    assert kinds(problems_of(path)) == {Kind.CATALOG, Kind.BLOCK, Kind.VERSION}


def test_a_catalog_that_cannot_be_opened_is_a_problem(path: Path) -> None:
    (path / "catalog/data.mdb").write_bytes(b"nonsense" * 2000)
    (problem,) = problems_of(path)
    assert problem.kind is Kind.CATALOG
    assert "rebuild" in problem.message


# --- rebuild


def test_a_rebuilt_catalog_is_the_same_row_for_row(path: Path) -> None:
    before, figures = rows(path), figures_of(path)
    done = again(path)
    assert rows(path) == before
    last = figures.last_event
    assert last > 0
    assert done == checking.Rebuilt(figures.events, 0, path / "catalog.before-rebuild", None, last_event=last)
    assert problems_of(path) == []


def test_a_wrong_catalog_is_mended_and_kept(path: Path) -> None:
    before = rows(path)
    edit(path, "entries", lambda transaction, cursor: cursor.first() and cursor.delete())
    wrong = contents_of(path)["catalog/data.mdb"]
    done = again(path)
    assert rows(path) == before
    assert done.before is not None
    assert (done.before / "data.mdb").read_bytes() == wrong
    again(path)
    assert rows(path) == before


@pytest.mark.parametrize("how", ["missing", "nonsense", "empty"])
def test_a_catalog_is_made_from_nothing(path: Path, how: str) -> None:
    before = rows(path)
    (path / "catalog/data.mdb").unlink()
    match how:
        case "missing":
            (path / "catalog").rmdir()
        case "nonsense":
            (path / "catalog/data.mdb").write_bytes(b"nonsense" * 2000)
    again(path)
    assert rows(path) == before


def test_a_rebuild_of_a_crashed_store_is_what_opening_it_would_give(open_store: Store) -> None:
    fill(open_store)
    open_store.checkpoint()
    docs = open_store.find_bucket(b"docs")
    ino, _ = open_store.tree.lookup(docs, b"report")
    handle = open_store.files.open(ino, WRITER)
    open_store.files.write(handle, 5, b"draft")
    open_store.files.flush(handle)
    open_store.abandon()
    again(open_store.path)
    assert problems_of(open_store.path) == []
    store = Store.open(open_store.path)
    assert store.recovered == 0
    handle = store.files.open(ino, WRITER)
    assert store.files.read(handle, 5, 5) == b"draft"
    store.files.release(handle)
    store.close()


def test_a_damaged_block_does_not_stop_a_rebuild(path: Path) -> None:
    row = next(row for row in all_blocks(path).values() if row.place.length == BLOCK_BYTES)
    flip(path / f"blocks/{row.place.segment:08x}", row.place.offset)
    before = rows(path)
    again(path)
    after = rows(path)
    assert {table: before[table] for table in before if table not in OF_BLOCKS} == {
        table: after[table] for table in after if table not in OF_BLOCKS
    }
    assert kinds(problems_of(path)) == {Kind.BLOCK, Kind.VERSION}


def test_a_rebuild_keeps_the_bytes_of_a_damaged_block(path: Path) -> None:
    block, row = next((block, row) for block, row in all_blocks(path).items() if row.place.length == BLOCK_BYTES)
    segment = path / f"blocks/{row.place.segment:08x}"
    flip(segment, row.place.offset)
    damaged = segment.read_bytes()[row.place.offset : row.place.offset + row.place.length]
    assert again(path).kept == 1
    assert (path / "damaged" / block.hex()).read_bytes() == damaged
    assert again(path).kept == 0


def test_storing_the_same_content_after_a_rebuild_mends_every_version(path: Path) -> None:
    row = next(row for row in all_blocks(path).values() if row.place.length == BLOCK_BYTES)
    flip(path / f"blocks/{row.place.segment:08x}", row.place.offset)
    again(path)
    store = Store.open(path)
    write(store, store.find_bucket(b"docs"), b"from elsewhere", BIG)
    store.close()
    figures_of(path)


def test_a_damaged_journal_stops_a_rebuild_and_leaves_everything(path: Path) -> None:
    flip(path / SEGMENT, (path / SEGMENT).stat().st_size // 2)
    before = contents_of(path)
    with pytest.raises(Corrupt, match="rebuild --cut"):
        again(path)
    assert contents_of(path) == before


@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_cut_keeps_what_is_before_the_damage_and_moves_the_rest(path: Path, share: float) -> None:
    whole = (path / SEGMENT).read_bytes()
    flip(path / SEGMENT, int(len(whole) * share))
    damaged = (path / SEGMENT).read_bytes()
    done = again(path, cut=True)
    assert done.cut is not None
    (moved,) = done.cut.iterdir()
    kept = int(moved.name.rpartition("-")[2])
    assert moved.read_bytes() == damaged[kept:]
    assert (path / SEGMENT).read_bytes()[:kept] == whole[:kept]
    assert done.lost > 0
    assert problems_of(path) == []


def test_cut_changes_nothing_where_nothing_is_damaged(path: Path) -> None:
    before = rows(path)
    assert again(path, cut=True).cut is None
    assert rows(path) == before


def test_a_journal_that_lost_its_end_can_be_rebuilt(path: Path) -> None:
    journal = path / SEGMENT
    catalog = Catalog(Folder.at(path / "catalog"), read_only=True)
    known = catalog.checkpoint.journal.number
    catalog.close()
    store = Store.open(path)
    (start,) = (record.start for record in store.core.journal.records(START) if record.number == known - 1)
    store.close()
    os.truncate(journal, start.offset)
    with pytest.raises(Corrupt, match="rebuild"):
        Store.open(path)
    assert again(path).lost >= 2
    assert problems_of(path) == []


def test_damage_that_may_be_a_torn_tail_is_not_dropped_silently_without_a_catalog(open_store: Store) -> None:
    docs = open_store.create_bucket(b"docs", uid=0, gid=0)
    for number in range(5):
        write(open_store, docs, b"%d" % number, b"data")
    open_store.abandon()
    journal = open_store.path / SEGMENT
    flip(journal, journal.stat().st_size // 2)
    for file in (open_store.path / "catalog").iterdir():
        file.unlink()
    before = contents_of(open_store.path)
    with pytest.raises(Corrupt, match="rebuild --cut"):
        again(open_store.path)
    assert contents_of(open_store.path) == before


def test_a_journal_that_is_damaged_where_the_catalog_knows_it_is_replaced_by_a_snapshot(path: Path) -> None:
    store = Store.open(path)
    docs = store.find_bucket(b"docs")
    for number in range(300):
        write(store, docs, b"%d" % number, b"data %d" % number)
    store.close()
    segment = path / SEGMENT
    flip(segment, 1500)
    figures = check(path, lambda problem: None, lambda what, done, total: None)
    assert (figures.problems, figures.opens) == (1, True)
    before = rows(path)
    store = Store.open(path)
    gc.run(store)
    store.close()
    figures_of(path)
    assert rows(path)["versions"] == before["versions"]
