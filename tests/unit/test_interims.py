"""Interim drafts: what is safe of a file that stays open, when, and what it costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from vfs import content
from vfs.blocks import BLOCK_BYTES
from vfs.errors import Corrupt, NoSpace
from vfs.interims import MINUTE_NS, TAILS_BYTES_MAX
from vfs.model import Ino, State, Writer
from vfs.openfiles import Handle
from vfs.rules import ATOMIC_SAVE_WINDOW_US
from vfs.service.durability import Durability
from vfs.store import Store

WRITER = Writer(1000, 1, "log")
KIB, MIB = 1 << 10, 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000_000_000_000

    def __call__(self) -> int:
        self.now += 1000
        return self.now


class Files:
    """A store with open files by name. `kill` is a SIGKILL and the next start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.store = Store.open(path, clock=self.clock)
        self.bucket = self.store.create_bucket(b"bucket", uid=0, gid=0, state=State.ENABLED)
        self.handles: dict[bytes, Handle] = {}

    def open(self, name: bytes) -> Handle:
        ino, _ = self.store.tree.create(self.bucket, name, 0o644, 0, WRITER)
        self.handles[name] = self.store.files.open(ino, WRITER, created=True)
        return self.handles[name]

    def write(self, name: bytes, data: bytes, offset: int | None = None) -> None:
        handle = self.handles[name]
        self.store.files.write(handle, handle.file.copy.size if offset is None else offset, data)

    def tick(self, seconds: float = 5.0) -> None:
        """The clock makes safe what is due."""
        self.clock.now += int(seconds * 1e9)
        for _ in self.store.files.interims.make():
            pass

    @property
    def disk_bytes(self) -> int:
        """What was appended so far, to blocks and journal."""
        core = self.store.core
        return core.blocks.end.offset + core.journal.end.offset

    def kill(self) -> None:
        self.store.abandon()
        self.handles.clear()
        self.store = Store.open(self.path, clock=self.clock)

    def read(self, name: bytes) -> bytes:
        _, inode = self.store.tree.lookup(self.bucket, name)
        copy = self.store.files.open_version(inode.content)
        try:
            return copy.read(0, inode.content.size)
        finally:
            self.store.files.close_version(copy)

    def versions(self, name: bytes) -> int:
        key = self.store.core.catalog.key(self.bucket, name)
        return 0 if key is None else len(list(self.store.core.catalog.versions(key)))


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    found = Files(tmp_path / "store")
    yield found
    found.store.close()


@pytest.mark.parametrize("size", [0, 1, 5000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 77])
def test_what_a_log_had_at_the_last_tick_survives_a_kill(files: Files, size: int) -> None:
    files.open(b"log")
    written = bytes(number % 251 for number in range(size))
    files.write(b"log", written)
    files.tick()
    for number in range(20):
        line = b"%d\n" % number
        files.write(b"log", line)
        files.tick()
        written += line
    files.write(b"log", b"since the last tick")
    assert files.versions(b"log") == 0, "nothing is published"
    files.kill()
    assert files.read(b"log") == written
    assert files.versions(b"log") == 1


@pytest.mark.parametrize("again", [0, 7, BLOCK_BYTES, 3 * BLOCK_BYTES])
def test_changes_in_the_middle_and_cuts_survive_too(files: Files, again: int) -> None:
    files.open(b"data")
    expected = bytearray(bytes(3 * BLOCK_BYTES + 100))
    files.write(b"data", bytes(expected))
    files.tick()
    files.write(b"data", b"changed", again)
    expected[again : again + 7] = b"changed"
    files.tick(120)
    files.store.files.truncate(files.handles[b"data"], 2 * BLOCK_BYTES + 50)
    del expected[2 * BLOCK_BYTES + 50 :]
    files.tick(120)
    files.write(b"data", b"appended")
    files.tick(120)
    files.kill()
    assert files.read(b"data") == bytes(expected) + b"appended"


def test_what_is_changed_in_a_tail_survives_too(files: Files) -> None:
    files.open(b"f")
    files.write(b"f", b"x" * BLOCK_BYTES + b"a tail")
    files.tick()
    files.write(b"f", b"THE", BLOCK_BYTES)
    files.tick()
    files.kill()
    assert files.read(b"f") == b"x" * BLOCK_BYTES + b"THEail"


@pytest.mark.parametrize("size", [60 * KIB, 3 * BLOCK_BYTES + 60 * KIB])
def test_a_line_costs_a_line(files: Files, size: int) -> None:
    files.open(b"log")
    files.write(b"log", b"x" * size)
    files.tick()
    before = files.disk_bytes
    for _ in range(100):
        files.write(b"log", b"a line of a log, of 33 characters")
        files.tick()
    assert (files.disk_bytes - before) / 100 < 300


def test_a_recording_is_stored_once(files: Files) -> None:
    files.open(b"video")
    written = 0
    before = files.disk_bytes
    for number in range(20):
        piece = number.to_bytes(4, "big") * 64 * KIB
        files.write(b"video", piece)
        written += len(piece)
        files.tick()
    assert files.disk_bytes - before < 1.1 * written


def test_scattered_changes_wait_within_their_bound_and_for_a_minute_at_most(files: Files) -> None:
    files.open(b"database")
    files.write(b"database", bytes(range(256)) * 512 * 40)  # 40 leaves
    files.tick()
    files.clock.now += 2 * MINUTE_NS
    before = files.disk_bytes
    for page in range(30):
        files.write(b"database", b"%04d" % page, page * BLOCK_BYTES)
    files.tick(1)
    assert files.disk_bytes - before < MIB, "30 leaves for 120 bytes are more than a MiB"
    files.tick(MINUTE_NS / 1e9 - 10)
    assert files.disk_bytes - before < MIB
    files.tick(11)
    assert files.disk_bytes - before > 30 * BLOCK_BYTES
    files.kill()
    assert files.read(b"database")[29 * BLOCK_BYTES :][:4] == b"0029"


@pytest.mark.parametrize("size", [200, 60 * KIB, 40 * BLOCK_BYTES])
def test_no_minute_writes_more_than_it_may(files: Files, size: int) -> None:
    files.open(b"file")
    files.write(b"file", b"1" * size)
    files.tick()
    before, written = files.disk_bytes, 0
    for tick in range(12):
        for change in range(3):
            files.write(b"file", b"%d" % tick, (tick * 7 + change * 13) * BLOCK_BYTES % size)
            written += len(b"%d" % tick)
        files.tick(4.9)
    bound = max(MIB, 2 * written)
    assert files.disk_bytes - before < 2 * bound, "two minutes were touched"


def test_all_that_is_due_is_one_event(files: Files) -> None:
    for number in range(50):
        files.open(b"%d" % number)
        files.write(b"%d" % number, b"x" * 1000)
    before = files.store.core.journal.end.number
    files.tick()
    assert files.store.core.journal.end.number == before + 1
    files.tick()
    assert files.store.core.journal.end.number == before + 1, "nothing has changed"


def test_more_tails_than_an_event_may_have_are_stored_as_blocks(files: Files) -> None:
    count = TAILS_BYTES_MAX // (100 * KIB) + 5
    for number in range(count):
        files.open(b"%d" % number)
        files.write(b"%d" % number, b"%d" % number * 100 * KIB)
    files.tick(120)
    files.kill()
    assert all(files.read(b"%d" % number) == b"%d" % number * 100 * KIB for number in range(count))


def test_what_a_close_promised_is_not_what_the_clock_made_safe(files: Files) -> None:
    handle = files.open(b"f")
    files.write(b"f", b"promised")
    files.store.files.flush(handle)
    files.write(b"f", b", and not")
    files.tick()
    files.store.files.publish_flushed(handle.ino)
    key = files.store.core.catalog.key(files.bucket, b"f")
    assert key is not None
    [(_, version)] = files.store.core.catalog.versions(key)
    assert version.content.size == len(b"promised")
    files.kill()
    assert files.read(b"f") == b"promised, and not"
    assert files.versions(b"f") == 2


def test_a_flush_makes_the_interim_draft_go(files: Files) -> None:
    handle = files.open(b"f")
    files.write(b"f", b"x" * 1000)
    files.tick()
    assert files.store.core.catalog.count("tails") == 1
    files.store.files.flush(handle)
    assert files.store.core.catalog.count("tails") == files.store.core.catalog.count("interim") == 0
    files.store.files.release(handle)
    assert files.versions(b"f") == 1


def test_behind_a_flush_interim_drafts_begin_anew(files: Files) -> None:
    handle = files.open(b"f")
    files.write(b"f", b"x" * 1000)
    files.tick()
    files.store.files.flush(handle)
    files.write(b"f", b"more")
    files.tick()
    files.kill()
    assert files.read(b"f") == b"x" * 1000 + b"more"


def test_what_found_no_room_is_due_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.open(b"f")
    files.write(b"f", b"precious")

    def full(*_: object) -> None:
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        patch.setattr(files.store.core, "commit", full)
        with pytest.raises(NoSpace):
            files.tick()
    assert files.store.files.interims.are_due
    files.tick()
    files.kill()
    assert files.read(b"f") == b"precious"


def test_a_clock_that_is_put_back_keeps_nothing_waiting(files: Files) -> None:
    files.open(b"database")
    files.write(b"database", bytes(range(256)) * 512 * 40)
    files.tick()
    files.clock.now += 2 * MINUTE_NS
    for page in range(30):
        files.write(b"database", b"%04d" % page, page * BLOCK_BYTES)
    files.tick(1)
    assert files.store.files.interims.are_due, "it is more than a minute may write"
    files.tick(-3600)
    assert not files.store.files.interims.are_due
    files.kill()
    assert files.read(b"database")[29 * BLOCK_BYTES :][:4] == b"0029"


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_what_an_unlink_keeps(files: Files, old: bool, drafted: bool) -> None:
    """A young file that was never closed leaves nothing, whatever drafts the clock has made."""
    handle = files.open(b"f")
    files.write(b"f", b"never closed")
    if drafted:
        files.tick()
    if old:
        files.clock.now += ATOMIC_SAVE_WINDOW_US * 1000
    files.store.tree.unlink(files.bucket, b"f", WRITER)
    assert files.versions(b"f") == (2 if old else 0)
    files.write(b"f", b"to nobody")
    files.tick()
    files.store.files.release(handle)
    assert files.versions(b"f") == (2 if old else 0)
    files.kill()
    assert files.versions(b"f") == (2 if old else 0)


def test_a_full_disk_keeps_no_unlink_from_happening(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handle = files.open(b"f")
    files.write(b"f", b"promised")
    files.store.files.flush(handle)
    files.write(b"f", b" more")

    def full(*_: object, **__: object) -> None:
        raise NoSpace("full")

    monkeypatch.setattr(content.WorkingCopy, "seal", full)
    with caplog.at_level(logging.WARNING):
        files.store.tree.unlink(files.bucket, b"f", WRITER)
    assert "goes with it" in caplog.text
    assert files.versions(b"f") == 2
    monkeypatch.undo()
    files.store.files.release(handle)


def test_a_damaged_leaf_keeps_no_other_file_from_being_safe(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (b"bad", b"good"):
        files.open(name)
        files.write(name, name)
    bad: Ino = files.handles[b"bad"].ino
    real = files.store.files.interims._interim

    def damaged(ino: Ino, *args: object, **more: object) -> object:
        if ino == bad:
            raise Corrupt("a block", expected="this", found="that")
        return real(ino, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(files.store.files.interims, "_interim", damaged)
    files.tick()
    assert "cannot be made safe" in caplog.text
    files.kill()
    assert files.read(b"good") == b"good"


def test_the_service_makes_them_and_sleeps_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "store"
    Store.open(path).close()
    (path / "config.toml").write_text("commit_interval = 0.05\n")
    store = Store.open(path)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    ino, _ = store.tree.create(bucket, b"log", 0o644, 0, WRITER)
    handle = store.files.open(ino, WRITER, created=True)
    durability = Durability(store)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(durability.run)
            await trio.sleep(0.3)
            assert store.core.catalog.interim(ino) is None
            await durability.commits.acquire()  # a collection is under way: that must not hold it up
            store.files.write(handle, 0, b"a line")
            durability.written()
            with trio.fail_after(10):
                while store.core.catalog.interim(ino) is None:  # noqa: ASYNC110 (nobody tells)
                    await trio.sleep(0.01)
            durability.commits.release()
            nursery.cancel_scope.cancel()

    trio.run(main)
    store.abandon()
    again = Store.open(path)
    found = again.tree.lookup(bucket, b"log")[1]
    assert found.content.size == len(b"a line")
    again.close()
