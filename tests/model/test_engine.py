"""The engine against the reference model: any operations in any order, and the process or the power dying in between.

After each step the whole tree and every version of every key are compared, and the tables audited; at the end of each
example every remembered moment of the past, the catalog made again, and `vfs check`.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import vfs.snapshot
from tests import simdisk
from tests.model.comparison import (
    IDS_APART_MAX,
    Ids,
    Snapshot,
    audit,
    compare,
    compare_handle,
    compare_past,
    snapshot,
    tables,
)
from tests.model.reference import Bucket, Directory, File, Handle, Node, Reference
from tests.simdisk import SimDisk
from vfs import blocks, check, compression, content, errors, events, files, gc
from vfs.catalog import Catalog
from vfs.content import WorkingCopy
from vfs.events import Change
from vfs.journal import START, Position
from vfs.model import Compression, Ino, Kind, Seq, State, Writer
from vfs.store import Store

SEGMENT_BYTES_MAX = 1500
BLOCK_BYTES, FANOUT = 64, 2  # trees of depth 3 from 257 bytes on
START_NS = 1_800_000_000_000_000_000
MOMENTS_MAX = 12

NAMES = st.sampled_from([b"a", b"b", b"c", b"a!", b"d~", b".e.swp"])
DIRECTORY_NAMES = st.sampled_from([b"a", b"b", b"c"])
WRITERS = st.sampled_from([Writer(0, 1, "root"), Writer(1000, 2, "user"), Writer(1001, 3, "other")])
MODES = st.sampled_from([0o644, 0o600, 0o4755, 0o2755, 0o2745, 0o6711])
PICK = st.integers(0, 10_000)
SIZES = st.integers(0, 400)
FILLS = st.integers(0, 4)


class Clock:
    """Stands still during an operation; goes back sometimes in between."""

    def __init__(self) -> None:
        self.now = START_NS

    def __call__(self) -> int:
        return self.now


def fill(length: int, value: int) -> bytes:
    """Zeros for 0, else bytes of which few blocks are equal; from 3 on such as can be compressed."""
    if value >= 3:
        return bytes((at // 32 + value * length) % 255 + 1 for at in range(length))
    return bytes((value * (at + 1) + at // 5) % 255 + 1 for at in range(length)) if value else bytes(length)


class Engine(RuleBasedStateMachine):
    """`do` runs each operation on both sides: the same result or the same error, the same number of atomic changes."""

    template: Path | None = None
    template_disk = SimDisk()

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory(prefix="vfs-model-")
        self.path = Path(self.home.name) / "store"
        self.clock = Clock()
        self.ids = Ids()
        self.reference = Reference()
        self.reference.after_event = self._after_event
        self.handles: list[tuple[files.Handle, Handle]] = []
        self.moments: list[tuple[Seq, int, Snapshot]] = []
        self.kept: list[tuple[int, bytes]] = []  # (number of events, the model then) since the last sync
        self.checkpointed = 0  # events of the model that the catalog on disk knows
        self.sound = False  # as of the last comparison; an operation that fails leaves it
        self.committed = 0
        self.steps: gc.Steps | None = None  # of a collection that is under way
        self.result: Any = None  # of its last step
        self.holding = False  # it wants no catalog checkpoints
        self.folds: dict[int, int] = {}  # how many events of the model a snapshot, by its number, stands for
        self.readers: list[tuple[WorkingCopy, bytes]] = []  # open versions, and what they hold
        self._open_new()

    # -- both sides -------------------------------------------------------------------------------------------

    def _open_new(self) -> None:
        """A copy of an empty store: making one costs more than most examples."""
        if Engine.template is None:
            Engine.template = Path(tempfile.mkdtemp(prefix="vfs-template-"))
            Store.open(Engine.template, disk=Engine.template_disk, clock=Clock()).close()
        shutil.copytree(Engine.template, self.path)
        self.disk = Engine.template_disk.kill()
        self.reference.events = 1  # the root of the store
        self._open()

    def _open(self) -> None:
        self.store = Store.open(self.path, disk=self.disk, clock=self.clock)
        core = self.store.core
        commit = core.commit

        def counted(operation: str, changes: list[Change]) -> None:
            commit(operation, changes)
            self.committed += bool(changes)

        core.commit = counted  # type: ignore[method-assign]

    def _durable(self) -> None:
        """Everything so far survives a power loss. The store may have written a record of its own, with the time."""
        last = self.store.core.catalog.last_seq
        assert last <= max(self.reference.last_us, self.clock.now // 1000) + IDS_APART_MAX
        self.reference.last_us = last
        self.kept = [(self.reference.events, pickle.dumps(self.reference))]

    def _after_event(self) -> None:
        self.kept.append((self.reference.events, pickle.dumps(self.reference)))

    def do(self, engine: Callable[[], Any], reference: Callable[[Any], Any]) -> Any:
        """Run an operation of the engine and of the model, which is given the engine's result. Returns both results,
        None for an error.
        """
        self.sound = False
        self.reference.now = self.clock.now
        before = self.committed
        events = self.reference.events
        found = expected = None
        error: type[errors.VfsError] | None = None
        try:
            found = engine()
        except errors.VfsError as raised:
            error = type(raised)
        try:
            expected = reference(found)
        except errors.VfsError as raised:
            assert error is type(raised), (  # noqa: PT017 (both sides are asked, neither is expected to raise)
                f"the model says {type(raised).__name__}, the engine {error and error.__name__}"
            )
        else:
            assert error is None, f"the model has no error, the engine {error and error.__name__}"
        assert self.committed - before == self.reference.events - events, "as many atomic changes as there should be"
        return None if error else (found, expected)

    def directory(self, pick: int) -> Directory:
        found = list(self.reference.directories())
        return found[pick % len(found)]

    def file(self, pick: int) -> tuple[Directory, bytes, File] | None:
        found = [
            (directory, name, entry)
            for directory in self.reference.directories()
            for name, entry in sorted(directory.entries.items())
            if isinstance(entry, File)
        ]
        return found[pick % len(found)] if found else None

    def regular(self, pick: int) -> File | None:
        found = [file for file in self.reference.files() if stat.S_ISREG(file.mode)]
        return found[pick % len(found)] if found else None

    def node(self, pick: int) -> Node | None:
        found: list[Node] = [*self.reference.files(), *(one for one in self.reference.directories() if one.live)]
        return found[pick % len(found)] if found else None

    def bucket(self, pick: int) -> Bucket:
        found = list(self.reference.buckets.values())
        return found[pick % len(found)]

    # -- buckets, time ----------------------------------------------------------------------------------------

    @initialize(
        states=st.lists(st.sampled_from(State), min_size=2, max_size=2), compression=st.sampled_from(Compression)
    )
    def start(self, states: list[State], compression: Compression = Compression.OFF) -> None:
        """Two buckets; in the first a/b/c, a/c and a/a (a link to c), and b, which was removed with its history."""
        for name, state in zip((b"one", b"two"), states, strict=True):
            self._create_bucket(name, State.UNVERSIONED if state is State.UNVERSIONED else State.ENABLED)
        self._set_compression(self.reference.buckets[b"one"], compression)
        writer = Writer(0, 1, "start")
        root = self.reference.buckets[b"one"].root
        self._mkdir(root, b"a", 0o755, writer)
        self._mkdir(root, b"b", 0o755, writer)
        a, b = (self.reference.lookup(root, name) for name in (b"a", b"b"))
        assert isinstance(a, Directory)
        assert isinstance(b, Directory)
        self._mkdir(a, b"b", 0o755, writer)
        below = self.reference.lookup(a, b"b")
        assert isinstance(below, Directory)
        for directory, name in ((root, b"c"), (root, b"c"), (a, b"c"), (below, b"c"), (b, b"a"), (b, b"c")):
            self._save(directory, name, 300, 4, writer, 0o644)
            self.clock.now += 1_000_000_000
        linked = self.reference.lookup(root, b"c")
        self._link(linked, a, b"a", writer)
        self._remove_all(b, writer)
        for name, state in zip((b"one", b"two"), states, strict=True):
            self._set_versioning(self.reference.buckets[name], state)
        self.store.checkpoint()
        self.checkpointed = self.reference.events
        self._durable()
        self.remember()

    def _create_bucket(self, name: bytes, state: State) -> None:
        self.do(
            lambda: self.store.create_bucket(name, uid=0, gid=0, state=state),
            lambda ino: self.reference.create_bucket(name, state, 0, 0, ino),
        )

    def _set_versioning(self, bucket: Bucket, state: State) -> None:
        self.do(
            lambda: self.store.set_versioning(Ino(bucket.root.ino), state),
            lambda _: self.reference.set_versioning(bucket, state),
        )

    @rule(pick=PICK, state=st.sampled_from(State))
    def set_versioning(self, pick: int, state: State) -> None:
        self._set_versioning(self.bucket(pick), state)

    @rule(pick=PICK, compression=st.sampled_from(Compression))
    def set_compression(self, pick: int, compression: Compression) -> None:
        self._set_compression(self.bucket(pick), compression)

    def _set_compression(self, bucket: Bucket, compression: Compression) -> None:
        self.do(
            lambda: self.store.set_compression(Ino(bucket.root.ino), compression),
            lambda _: self.reference.set_compression(bucket, compression is Compression.ZSTD),
        )

    @rule(seconds=st.sampled_from([-5, 0, 1, 1, 1, 200]), micros=st.integers(0, 5))
    def time_passes(self, seconds: int, micros: int) -> None:
        self.clock.now += seconds * 1_000_000_000 + micros * 1000

    # -- whole saves ------------------------------------------------------------------------------------------

    @rule(pick=PICK, name=NAMES, size=SIZES, value=FILLS, writer=WRITERS, mode=MODES)
    def save(self, pick: int, name: bytes, size: int, value: int, writer: Writer, mode: int) -> None:
        """echo … > name"""
        self._save(self.directory(pick), name, size, value, writer, mode)

    @rule(pick=PICK, size=SIZES, value=FILLS, writer=WRITERS)
    def save_again(self, pick: int, size: int, value: int, writer: Writer) -> None:
        found = self.file(pick)
        if found is not None:
            self._save(found[0], found[1], size, value, writer, 0o644)

    def _save(self, directory: Directory, name: bytes, size: int, value: int, writer: Writer, mode: int) -> None:
        handles = len(self.handles)
        entry = directory.entries.get(name)
        if entry is None and name + b"/" not in directory.entries and directory.live:
            self._create(directory, name, mode, writer)
        elif isinstance(entry, File) and stat.S_ISREG(entry.mode):
            self._open_file(entry, writer, truncate=True)
        if len(self.handles) == handles:
            return
        if size:
            self.write(-1, 0, size, value)
        self.flush(-1)
        self.release(-1)

    @rule(pick=PICK, size=SIZES, writer=WRITERS)
    def truncate_path(self, pick: int, size: int, writer: Writer) -> None:
        file = self.regular(pick)
        if file is not None:
            self.do(
                lambda: self.store.files.truncate_path(Ino(file.ino), size, writer),
                lambda _: self.reference.truncate_path(file, size, writer),
            )

    # -- names ------------------------------------------------------------------------------------------------

    @rule(pick=PICK, name=NAMES | st.sampled_from([b".versions", b".snapshots"]), mode=MODES, writer=WRITERS)
    def create(self, pick: int, name: bytes, mode: int, writer: Writer) -> None:
        self._create(self.directory(pick), name, mode, writer)

    def _create(self, directory: Directory, name: bytes, mode: int, writer: Writer) -> None:
        done = self.do(
            lambda: self.store.tree.create(Ino(directory.ino), name, mode, 7, writer),
            lambda found: self.reference.create(directory, name, mode, 7, writer),
        )
        if done is not None:
            done[1].ino = done[0][0]
            self._open_file(done[1], writer, created=True)

    @rule(pick=PICK, name=NAMES, writer=WRITERS, special=st.booleans(), leads_to=st.sampled_from([b"a", b"../x"]))
    def make_special(self, pick: int, name: bytes, writer: Writer, special: bool, leads_to: bytes) -> None:
        directory = self.directory(pick)
        if special:
            mode, rdev = stat.S_IFCHR | 0o620, 1
            self.do(
                lambda: self.store.tree.mknod(Ino(directory.ino), name, mode, rdev, 7, writer),
                lambda _: self.reference.make(directory, name, mode, 7, writer, rdev=rdev),
            )
        else:
            self.do(
                lambda: self.store.tree.symlink(Ino(directory.ino), name, leads_to, 7, writer),
                lambda _: self.reference.make(directory, name, stat.S_IFLNK | 0o777, 7, writer, target=leads_to),
            )

    @rule(pick=PICK, name=DIRECTORY_NAMES, mode=st.sampled_from([0o755, 0o700, 0o2775]), writer=WRITERS)
    def mkdir(self, pick: int, name: bytes, mode: int, writer: Writer) -> None:
        self._mkdir(self.directory(pick), name, mode, writer)

    def _mkdir(self, directory: Directory, name: bytes, mode: int, writer: Writer) -> None:
        self.do(
            lambda: self.store.tree.mkdir(Ino(directory.ino), name, mode, 7, writer)[0],
            lambda ino: self.reference.mkdir(directory, name, mode, 7, writer, ino),
        )

    @rule(pick=PICK, to=PICK, name=NAMES, writer=WRITERS)
    def link(self, pick: int, to: int, name: bytes, writer: Writer) -> None:
        found = self.file(pick)
        if found is not None:
            self._link(found[2], self.directory(to), name, writer)

    def _link(self, linked: File | Directory, directory: Directory, name: bytes, writer: Writer) -> None:
        self.do(
            lambda: self.store.tree.link(Ino(linked.ino), Ino(directory.ino), name, writer),
            lambda _: self.reference.link(linked, directory, name, writer),
        )

    @rule(pick=PICK, writer=WRITERS)
    def unlink(self, pick: int, writer: Writer) -> None:
        found = self.file(pick)
        if found is not None:
            self._unlink(found[0], found[1], writer)

    def _unlink(self, directory: Directory, name: bytes, writer: Writer) -> None:
        self.do(
            lambda: self.store.tree.unlink(Ino(directory.ino), name, writer),
            lambda _: self.reference.unlink(directory, name, writer),
        )

    @rule(pick=PICK, name=DIRECTORY_NAMES, writer=WRITERS)
    def rmdir(self, pick: int, name: bytes, writer: Writer) -> None:
        self._rmdir(self.directory(pick), name, writer)

    def _rmdir(self, directory: Directory, name: bytes, writer: Writer) -> None:
        self.do(
            lambda: self.store.tree.rmdir(Ino(directory.ino), name, writer),
            lambda _: self.reference.rmdir(directory, name, writer),
        )

    @rule(pick=PICK, writer=WRITERS)
    def remove_all(self, pick: int, writer: Writer) -> None:
        """rm -r of a directory."""
        directory = self.directory(pick)
        if directory.live and directory.parent is not None:
            self._remove_all(directory, writer)

    def _remove_all(self, directory: Directory, writer: Writer) -> None:
        for sort_name, entry in sorted(directory.entries.items()):
            if isinstance(entry, Directory):
                self._remove_all(entry, writer)
            else:
                self._unlink(directory, sort_name, writer)
        assert directory.parent is not None
        self._rmdir(directory.parent, directory.name, writer)

    @rule(pick=PICK, to=PICK, name=NAMES | st.just(b".versions"), writer=WRITERS, replace=st.booleans())
    def rename(self, pick: int, to: int, name: bytes, writer: Writer, replace: bool) -> None:
        found = self.file(pick)
        if found is not None:
            how = "replace" if replace else "noreplace"
            self._rename(found[0], found[1], self.directory(to), name, writer, how)

    @rule(pick=PICK, to=PICK, writer=WRITERS, how=st.sampled_from(["replace", "replace", "exchange"]))
    def rename_over(self, pick: int, to: int, writer: Writer, how: str) -> None:
        one, other = self.file(pick), self.file(to)
        if one is not None and other is not None:
            self._rename(one[0], one[1], other[0], other[1], writer, how)

    @rule(pick=PICK, to=PICK, name=DIRECTORY_NAMES, writer=WRITERS, how=st.sampled_from(["replace", "exchange"]))
    def rename_directory(self, pick: int, to: int, name: bytes, writer: Writer, how: str) -> None:
        directory = self.directory(pick)
        if directory.live and directory.parent is not None:
            self._rename(directory.parent, directory.name, self.directory(to), name, writer, how)

    def _rename(
        self, directory: Directory, name: bytes, to: Directory, new_name: bytes, writer: Writer, how: str
    ) -> None:
        parent, new_parent = Ino(directory.ino), Ino(to.ino)
        if how == "exchange":
            self.do(
                lambda: self.store.tree.exchange(parent, name, new_parent, new_name, writer),
                lambda _: self.reference.exchange(directory, name, to, new_name, writer),
            )
        else:
            replace = how == "replace"
            self.do(
                lambda: self.store.tree.rename(parent, name, new_parent, new_name, writer, replace=replace),
                lambda _: self.reference.rename(directory, name, to, new_name, writer, replace=replace),
            )

    @rule(
        what=st.sampled_from(["create bucket", "delete bucket", "link", "unlink", "rename", "exchange"]),
        pick=PICK,
        name=NAMES,
        to=PICK,
        new_name=NAMES,
        bucket=st.sampled_from([b"two", b"three"]),
        state=st.sampled_from([State.UNVERSIONED, State.ENABLED]),
    )
    def odd(self, what: str, pick: int, name: bytes, to: int, new_name: bytes, bucket: bytes, state: State) -> None:
        """What mostly fails."""
        directory, other, writer = self.directory(pick), self.directory(to), Writer(0, 4, "odd")
        match what:
            case "create bucket":
                self._create_bucket(bucket, state)
            case "delete bucket":
                self.do(lambda: self.store.delete_bucket(bucket), lambda _: self.reference.delete_bucket(bucket))
            case "link":
                self._link(directory, other, name, writer)
            case "unlink":
                self._unlink(directory, name, writer)
            case "rename":
                self._rename(directory, name, other, new_name, writer, "replace")
            case _:
                self._rename(directory, name, other, new_name, writer, "exchange")

    # -- attributes -------------------------------------------------------------------------------------------

    @rule(
        pick=PICK,
        mode=st.none() | MODES,
        uid=st.none() | st.just(1000),
        gid=st.none() | st.just(1000),
        atime=st.none() | st.just(5),
        mtime=st.none() | st.integers(1, 9),
    )
    def set_attributes(
        self, pick: int, mode: int | None, uid: int | None, gid: int | None, atime: int | None, mtime: int | None
    ) -> None:
        node = self.node(pick)
        if node is not None:
            changes = {"mode": mode, "uid": uid, "gid": gid, "atime": atime, "mtime": mtime}
            self.do(
                lambda: self.store.tree.set_attributes(Ino(node.ino), **changes),
                lambda _: self.reference.set_attributes(node, **changes),
            )

    @rule(pick=PICK, name=st.sampled_from([b"user.a", b"user.b"]), value=st.none() | st.binary(max_size=3))
    def set_attribute(self, pick: int, name: bytes, value: bytes | None) -> None:
        """None removes it."""
        node = self.node(pick)
        if node is None:
            return
        if value is None:
            self.do(
                lambda: self.store.tree.remove_attribute(Ino(node.ino), name),
                lambda _: self.reference.remove_attribute(node, name),
            )
        else:
            self.do(
                lambda: self.store.tree.set_attribute(Ino(node.ino), name, value),
                lambda _: self.reference.set_attribute(node, name, value),
            )

    # -- open files -------------------------------------------------------------------------------------------

    @rule(pick=PICK, writer=WRITERS, truncate=st.booleans())
    def open(self, pick: int, writer: Writer, truncate: bool) -> None:
        file = self.regular(pick)
        if file is not None:
            self._open_file(file, writer, truncate=truncate)

    def _open_file(self, file: File, writer: Writer, *, created: bool = False, truncate: bool = False) -> None:
        done = self.do(
            lambda: self.store.files.open(Ino(file.ino), writer, created=created, truncate=truncate),
            lambda _: self.reference.open(file, writer, created=created, truncate=truncate),
        )
        self.handles.append(done)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, offset=SIZES, size=st.integers(1, 200), value=FILLS)
    def write(self, pick: int, offset: int, size: int, value: int) -> None:
        handle, expected = self.handles[pick % len(self.handles)]
        self.do(
            lambda: self.store.files.write(handle, offset, fill(size, value)),
            lambda _: self.reference.write(expected, offset, fill(size, value)),
        )

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, size=SIZES)
    def truncate(self, pick: int, size: int) -> None:
        handle, expected = self.handles[pick % len(self.handles)]
        self.do(
            lambda: self.store.files.truncate(handle, size),
            lambda _: self.reference.truncate(expected, size),
        )

    @precondition(lambda self: self.handles)
    @rule(pick=PICK)
    def flush(self, pick: int) -> None:
        handle, expected = self.handles[pick % len(self.handles)]
        self.do(lambda: self.store.files.flush(handle), lambda _: self.reference.flush(expected))

    @precondition(lambda self: self.handles)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        handle, expected = self.handles.pop(pick % len(self.handles))
        self.do(lambda: self.store.files.release(handle), lambda _: self.reference.release(expected))

    # -- history ----------------------------------------------------------------------------------------------

    def _chosen(self, pick: int) -> tuple[Directory, bytes, int] | None:
        found = [
            (directory, name, at)
            for directory in self.reference.directories()
            for name, chain in sorted(directory.chains.items())
            for at in range(len(chain))
        ]
        return found[pick % len(found)] if found else None

    @rule(pick=PICK, current=st.booleans(), writer=WRITERS)
    def purge(self, pick: int, current: bool, writer: Writer) -> None:
        chosen = self._chosen(pick)
        if chosen is None:
            return
        directory, name, at = chosen
        chain = directory.chains[name]
        version = chain[-1 if current else at]
        key = self.store.core.catalog.key(Ino(directory.ino), name)
        assert key is not None
        seq = Seq(self.ids.known[version.serial])
        self.do(
            lambda: self.store.history.purge(key, seq, writer),
            lambda _: self.reference.purge(directory, name, version, writer),
        )

    @rule(pick=PICK, writer=WRITERS)
    def undelete(self, pick: int, writer: Writer) -> None:
        """Purge the delete marker of a key that is gone."""
        found = [
            (directory, name)
            for directory in self.reference.directories()
            for name, chain in sorted(directory.chains.items())
            if chain and chain[-1].kind is Kind.MARKER
        ]
        if found:
            directory, name = found[pick % len(found)]
            version = directory.chains[name][-1]
            key = self.store.core.catalog.key(Ino(directory.ino), name)
            assert key is not None
            self.do(
                lambda: self.store.history.purge(key, Seq(self.ids.known[version.serial]), writer),
                lambda _: self.reference.purge(directory, name, version, writer),
            )

    @rule(pick=PICK, to=PICK, name=NAMES, in_place=st.booleans(), writer=WRITERS)
    def restore(self, pick: int, to: int, name: bytes, in_place: bool, writer: Writer) -> None:
        chosen = self._chosen(pick)
        if chosen is None:
            return
        directory, from_name, at = chosen
        if from_name.endswith(b"/"):
            return
        version = directory.chains[from_name][at]
        target, new_name = (directory, from_name) if in_place else (self.directory(to), name)
        seq = Seq(self.ids.known[version.serial])
        self.do(
            lambda: self.store.history.restore(seq, Ino(target.ino), new_name, writer),
            lambda _: self.reference.restore(directory, from_name, version, target, new_name, writer),
        )

    # -- giving space back ------------------------------------------------------------------------------------

    @rule(thorough=st.booleans(), count=st.integers(0, 12))
    def collect(self, thorough: bool, count: int) -> None:
        """Some steps of a collection; other rules run in between."""
        if self.steps is None:
            self.steps = gc.Collector(self.store, thorough=thorough).steps()
        for _ in range(count):
            self._step()

    @rule()
    def collect_to_the_end(self) -> None:
        self.collect(True, 0)
        while self.steps is not None:
            self._step()

    def _step(self) -> None:
        if self.steps is None:
            return
        try:
            step = self.steps.send(self.result)
        except StopIteration:
            self._stop_collecting()
            return
        self.result = step.call() if isinstance(step, gc.Work) else None
        if step is gc.Need.CHECKPOINT:
            self.checkpoint()
            self.sync()
        elif step is gc.Need.RELEASE:
            self.holding = False
        elif step is gc.Need.HOLD:
            self.holding = True
            self.folds[self.store.core.catalog.checkpoint.journal.number] = self.checkpointed

    def _stop_collecting(self) -> None:
        if self.steps is not None:
            self.steps.close()
        self.steps = self.result = None
        self.holding = False

    @rule(pick=PICK)
    def open_version(self, pick: int) -> None:
        """For reading: it can be read to its end, whatever is purged and collected meanwhile."""
        rows = [row for row in self.store.core.catalog.every_version() if row[2].content.size]
        if rows:
            content = rows[pick % len(rows)][2].content
            copy = self.store.files.open_version(content)
            self.readers.append((copy, copy.read(0, content.size)))

    @rule(pick=PICK)
    @precondition(lambda self: self.readers)
    def close_version(self, pick: int) -> None:
        copy, _ = self.readers.pop(pick % len(self.readers))
        self.store.files.close_version(copy)

    # -- the end of the process, and of the power -------------------------------------------------------------

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self._durable()

    @rule()
    @precondition(lambda self: not self.holding)
    def checkpoint(self) -> None:
        self.store.checkpoint()
        self.checkpointed = self.reference.events
        self._durable()

    @rule()
    @precondition(lambda self: not self.holding)
    def fail_to_commit(self) -> None:
        """The disk is full: the catalog falls back to its last checkpoint, and is brought up to now again."""
        self.store.sync()
        self._durable()
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(errors.NoSpace):
            patch.setattr(Catalog, "_write_changed", _no_space)
            self.store.commit_catalog()

    @rule(rebuild=st.booleans())
    def reopen(self, rebuild: bool) -> None:
        """A clean end; with the catalog deleted, it is made again the same."""
        self.reference.now = self.clock.now
        self._stop_collecting()
        self.store.close()
        self.reference.close()
        self.disk = self.disk.kill()
        self._reopened()
        if rebuild:
            self._rebuild()

    @rule(rebuild=st.booleans())
    def kill(self, rebuild: bool) -> None:
        """SIGKILL: everything that was done is there, what was open and safe is published."""
        disk = self.disk.kill()  # before the collection tidies up
        self._stop_collecting()
        self.store.abandon()
        self.disk = disk
        events = self.reference.events
        self._recovered(events, rebuild=rebuild)

    @rule(seed=st.integers(0, 1 << 32), rebuild=st.booleans())
    def lose_power(self, seed: int, rebuild: bool) -> None:
        """A prefix of what happened, not shorter than what was synced."""
        disk = self.disk.crash(random.Random(seed))
        self._stop_collecting()
        self.store.abandon()
        self.disk = disk
        self._recovered(self.kept[0][0], rebuild=rebuild)

    def _recovered(self, durable: int, *, rebuild: bool) -> None:
        if rebuild:
            shutil.rmtree(self.path / "catalog")
            self.checkpointed = self._folded()
        self._open()
        events = self.checkpointed + self.store.recovered
        total = self.reference.events
        assert durable <= events <= total, f"{events} of {total} events, of which {durable} were promised"
        serial = self.reference.serial
        state = [kept for number, kept in self.kept if number == events][-1]
        self.reference = pickle.loads(state)
        self.reference.serial = serial
        self.reference.now = self.clock.now
        self.moments = [one for one in self.moments if one[1] <= events]
        self.ids.highest = 0 if events < total else self.ids.highest
        self.reference.recover()
        self._after_opening()

    def _reopened(self) -> None:
        self._open()
        self.reference.now = self.clock.now
        self._after_opening()

    def _after_opening(self) -> None:
        self.handles.clear()
        self.readers.clear()
        self.reference.after_event = self._after_event
        self.reference.events = self.committed = self._events_in_journal()
        self.checkpointed = self.reference.events
        self._durable()

    def _events_in_journal(self) -> int:
        """Atomic changes so far; recovery makes some that the model does not count (files without a name)."""
        journal = self.store.core.journal
        snapshots = vfs.snapshot.complete(self.disk)
        first = max([0, *snapshots])
        segment = min(journal.segments())
        start = START if segment == 1 else Position(segment, 0, segment - 1)
        records = [record for record in journal.records(start) if record.number > first]
        return self._folded() + sum(bool(events.decode(record.payload).changes) for record in records)

    def _folded(self) -> int:
        """How many events of the model the last snapshot stands for."""
        snapshots = vfs.snapshot.complete(self.disk)
        return self.folds[snapshots[-1]] if snapshots else 0

    def _rebuild(self) -> None:
        self.store.close()
        self.disk = self.disk.kill()
        self._reopened()
        before = self._tables_without_garbage()
        self.store.close()
        self.disk = self.disk.kill()
        shutil.rmtree(self.path / "catalog")
        self._reopened()
        after = self._tables_without_garbage()
        assert not [(name, set(rows) ^ set(after[name])) for name, rows in before.items() if rows != after[name]]

    def _tables_without_garbage(self) -> dict[str, Any]:
        """All rows but those of blocks that a collection has taken out, or will, and which may still be on the disk."""
        found: dict[str, Any] = dict(tables(self.store))
        catalog = self.store.core.catalog
        found["blocks"] = [(block, row.references, row.node) for block, row in catalog.blocks() if row.references]
        del found["segments"]  # audited
        return found

    # -- comparing --------------------------------------------------------------------------------------------

    @invariant()
    def same(self) -> None:
        self.sound = False
        compare(self.store, self.reference, self.ids)
        audit(self.store)
        for handle, expected in self.handles:
            compare_handle(self.store, handle, expected)
        for copy, data in self.readers:
            assert copy.read(0, copy.size) == data
        self.sound = True

    @rule()
    def remember(self) -> None:
        moment = self.store.core.catalog.last_seq
        self.moments.append((moment, self.reference.events, snapshot(self.reference)))
        del self.moments[:-MOMENTS_MAX]

    def teardown(self) -> None:
        try:
            if not self.sound:
                return  # what failed is being raised
            self._rebuild_from_what_is_open()
            for moment, _, then in self.moments:
                compare_past(self.store, self.reference, self.ids, moment, then)
            self.store.close()
            problems: list[check.Problem] = []
            check.check(self.path, problems.append, lambda what, done, total: None, disk=self.disk)
            assert [(problem.kind, problem.where, problem.message) for problem in problems] == []
        finally:
            self.store.abandon()
            self.home.cleanup()

    def _rebuild_from_what_is_open(self) -> None:
        self.reopen(rebuild=True)
        self.same()


def _no_space(catalog: Catalog) -> None:
    raise lmdb.DiskError("simulated: no space left")


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that little files have deep trees; a catalog that does not wait for the host's disk, which does
    not lose power here.
    """
    monkeypatch.setattr(lmdb, "open", partial(lmdb.open, sync=False))
    monkeypatch.setattr(content, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(compression, "BYTES_LEAST", 1)
    monkeypatch.setattr(content, "FANOUT", FANOUT)
    monkeypatch.setattr(blocks, "SEGMENT_BYTES_MAX", SEGMENT_BYTES_MAX)
    monkeypatch.setattr(blocks, "CACHE_BYTES_MAX", 0)
    monkeypatch.setattr(gc, "BLOCKS_PER_STEP_MAX", 3)
    monkeypatch.setattr(gc, "ROWS_PER_CHECKPOINT_MAX", 5)
    monkeypatch.setattr(gc, "DEAD_MAX", 4)
    monkeypatch.setattr(gc, "FOLD_THOROUGH_BYTES_MIN", 0)
    monkeypatch.setattr(gc, "PAGE_BYTES", 16)
    monkeypatch.setattr(simdisk, "PAGE_BYTES", 16)


def test_engine() -> None:
    run_state_machine_as_test(Engine, settings=settings(max_examples=60, stateful_step_count=40))


@pytest.mark.slow
def test_engine_at_length() -> None:
    run_state_machine_as_test(Engine, settings=settings(max_examples=3000, stateful_step_count=80))
