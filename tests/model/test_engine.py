"""The engine against the reference model: any operations in any order, and the process or the power dying in between.

After each step the whole tree and every version of every key are compared, and the tables audited; at the end of each
example every remembered moment of the past, the catalog made again, and `vfs check`.
"""

from __future__ import annotations

import stat

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from tests.model.comparison import Ids, Snapshot, audit, compare, compare_handle, compare_past, snapshot
from tests.model.lifetime import PICK, Lifetime, fill, make_small
from tests.model.reference import Bucket, Directory, File, Handle, Node, Reference
from vfs import catalog, files, gc
from vfs.model import NO_INFO, Compression, Ino, Kind, PurgePolicy, Seq, State, Writer
from vfs.purging import Way

MOMENTS_MAX = 12

NAMES = st.sampled_from([b"a", b"b", b"c", b"a!", b"d~", b".e.swp"])
DIRECTORY_NAMES = st.sampled_from([b"a", b"b", b"c"])
WRITERS = st.sampled_from([Writer(0, 1, "root"), Writer(1000, 2, "user"), Writer(1001, 3, "other")])
S3 = Writer(1002, 0, "s3:key")
WAYS = st.sampled_from([*Way, *[Way.COMMAND] * 3])
MODES = st.sampled_from([0o644, 0o600, 0o4755, 0o2755, 0o2745, 0o6711])
SIZES = st.integers(0, 400)
FILLS = st.integers(0, 4)


class Engine(Lifetime):
    """Everything that a mount can do."""

    reference: Reference

    def __init__(self) -> None:
        self.ids = Ids()
        self.handles: list[tuple[files.Handle, Handle]] = []
        self.moments: list[tuple[Seq, int, Snapshot]] = []
        super().__init__()

    def new_model(self) -> Reference:
        return Reference()

    # -- both sides -------------------------------------------------------------------------------------------

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

    def _set_versioning(self, bucket: Bucket, state: State, *, is_root: bool = True) -> None:
        self.do(
            lambda: self.store.set_versioning(Ino(bucket.root.ino), state, is_root=is_root),
            lambda _: self.reference.set_versioning(bucket, state, is_root=is_root),
        )

    @rule(pick=PICK, state=st.sampled_from(State), is_root=st.booleans())
    def set_versioning(self, pick: int, state: State, is_root: bool) -> None:
        self._set_versioning(self.bucket(pick), state, is_root=is_root)

    @rule(pick=PICK, compression=st.sampled_from(Compression))
    def set_compression(self, pick: int, compression: Compression) -> None:
        self._set_compression(self.bucket(pick), compression)

    def _set_compression(self, bucket: Bucket, compression: Compression) -> None:
        self.do(
            lambda: self.store.set_compression(Ino(bucket.root.ino), compression),
            lambda _: self.reference.set_compression(bucket, compression is Compression.ZSTD),
        )

    @rule(pick=PICK, policy=st.sampled_from([*PurgePolicy, *[PurgePolicy.COMMAND] * 4]))
    def set_purge_policy(self, pick: int, policy: PurgePolicy) -> None:
        bucket = self.bucket(pick)
        self.do(
            lambda: self.store.set_purge_policy(Ino(bucket.root.ino), policy),
            lambda _: self.reference.set_purge_policy(bucket, policy),
        )

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

    @rule(pick=PICK, size=SIZES, value=FILLS)
    def put(self, pick: int, size: int, value: int) -> None:
        """What an S3 client does to a file, whoever has it open."""
        found = self.file(pick)
        if found is None or not stat.S_ISREG(found[2].mode) or found[1] + b"/" in found[0].entries:
            return
        directory, name, _ = found
        bucket, above = self.store.tree.path(Ino(directory.ino))
        data = fill(size, value)
        key = above + b"/" + name if above else name
        copy = self.store.objects.begin_content(bucket)

        def put() -> None:
            copy.write(0, data)
            self.store.objects.put(bucket, key, copy.seal(), NO_INFO, S3)

        self.do(put, lambda _: self.reference.put(directory, name, data, S3))
        self.store.objects.end_content(copy)

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

    @rule()
    def make_interims(self) -> None:
        self.do(lambda: list(self.store.files.interims.make()), lambda _: self.reference.make_interims())

    # -- history ----------------------------------------------------------------------------------------------

    def _chosen(self, pick: int) -> tuple[Directory, bytes, int] | None:
        found = [
            (directory, name, at)
            for directory in self.reference.directories()
            for name, chain in sorted(directory.chains.items())
            for at in range(len(chain))
        ]
        return found[pick % len(found)] if found else None

    @rule(pick=PICK, current=st.booleans(), writer=WRITERS, way=WAYS)
    def purge(self, pick: int, current: bool, writer: Writer, way: Way = Way.COMMAND) -> None:
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
            lambda: self.store.history.purge(key, seq, writer, way=way),
            lambda _: self.reference.purge(directory, name, version, writer, way),
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

    # -- comparing --------------------------------------------------------------------------------------------

    def compare(self) -> None:
        compare(self.store, self.reference, self.ids)
        audit(self.store)
        for handle, expected in self.handles:
            compare_handle(self.store, handle, expected)

    @rule()
    def remember(self) -> None:
        moment = self.store.core.catalog.last_seq
        self.moments.append((moment, self.reference.events, snapshot(self.reference)))
        del self.moments[:-MOMENTS_MAX]

    def _went_back(self, before: Reference) -> None:
        self.reference.serial = before.serial
        self.moments = [one for one in self.moments if one[1] <= self.reference.events]
        self.ids.highest = 0 if self.reference.events < before.events else self.ids.highest

    def _after_opening(self) -> None:
        self.handles.clear()
        super()._after_opening()

    def _rebuild_from_what_is_open(self) -> None:
        super()._rebuild_from_what_is_open()
        for moment, _, then in self.moments:
            compare_past(self.store, self.reference, self.ids, moment, then)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    monkeypatch.setattr(gc, "ROWS_PER_CHECKPOINT_MAX", 5)
    monkeypatch.setattr(gc, "DEAD_MAX", 4)


def test_engine() -> None:
    run_state_machine_as_test(Engine, settings=settings(max_examples=60, stateful_step_count=40))


def tiny_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the catalog keeps in memory is written and read again all the time."""
    monkeypatch.setattr(catalog, "INODES_KEPT_MAX", 2)
    monkeypatch.setattr(catalog, "NAMES_KEPT_MAX", 2)
    monkeypatch.setattr(catalog, "COUNTS_MAX", 1)


def test_engine_with_tiny_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_caches(monkeypatch)
    run_state_machine_as_test(Engine, settings=settings(max_examples=25, stateful_step_count=30))


@pytest.mark.slow
def test_engine_with_tiny_caches_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_caches(monkeypatch)
    run_state_machine_as_test(Engine, settings=settings(max_examples=1000, stateful_step_count=60))


@pytest.mark.slow
def test_engine_at_length() -> None:
    run_state_machine_as_test(Engine, settings=settings(max_examples=3000, stateful_step_count=80))
