"""Objects against a dict of key -> versions: what S3 clients and a mount do to the same bucket, in any order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.model.comparison import shown_at
from vfs import catalog, check, listing
from vfs.check import rebuilding
from vfs.errors import NoSuchKey, NoSuchVersion, VfsError
from vfs.model import Content, Ino, ObjectInfo, State, Writer
from vfs.names import is_shown
from vfs.objects import Deleted, Page
from vfs.store import Store

MOUNT, S3 = Writer(0, 1, "mount"), Writer(0, 0, "s3")
START_NS, STEP_NS = 1_800_000_000_000_000_000, 100_000_000_000  # so that no rename is a save (rules.is_atomic_save)

PHASES = (Phase.explicit, Phase.generate)  # shrinking takes minutes

segments = st.sampled_from((b"a", b"b", b"a-", b"", b".", b"n\0l", b"y" * 300))
keys = st.lists(segments, min_size=1, max_size=4).map(b"/".join).filter(bool)
bodies = st.binary(max_size=3)


class One(NamedTuple):
    """A version as the reference has it. body: None is a delete marker."""

    body: bytes | None
    null: bool
    etag: str = ""


class Machine(RuleBasedStateMachine):
    """The store and the dict."""

    @initialize(state=st.sampled_from(State))
    def begin(self, state: State) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vfs-objects-"))
        self.clock = count(START_NS, STEP_NS)
        self.open()
        self.bucket = self.store.create_bucket(b"bucket", uid=0, gid=0, state=State.UNVERSIONED)
        self.state = State.UNVERSIONED
        self.known: dict[bytes, list[One]] = {}
        self.uploads: dict[str, tuple[bytes, dict[int, bytes]]] = {}
        for step in range(1, state + 1):
            self.set_state(State(step))

    def open(self) -> None:
        self.store = Store.open(self.folder / "store", clock=lambda: next(self.clock))
        self.objects = self.store.objects

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            problems: list[object] = []
            check.check(self.folder / "store", problems.append, lambda *_: None)
            assert not problems
            shutil.rmtree(self.folder)

    # -- the reference ----------------------------------------------------------------------------------------

    def add(self, key: bytes, body: bytes | None, etag: str = "") -> None:
        chain = self.known.setdefault(key, [])
        null = self.state is not State.ENABLED
        if null:
            chain[:] = [one for one in chain if not one.null]
        if not (body is None and self.state is State.UNVERSIONED and not chain):
            chain.insert(0, One(body, null, etag))
        if not chain:
            del self.known[key]

    def lives(self, key: bytes) -> bool:
        chain = self.known.get(key)
        return bool(chain) and chain[0].body is not None  # type: ignore[index]

    # -- S3 ---------------------------------------------------------------------------------------------------

    def store_body(self, body: bytes) -> Content:
        copy = self.objects.begin_content(self.bucket)
        copy.write(0, body)
        self.objects.end_content(copy)  # nothing collects meanwhile
        return copy.seal()

    @rule(key=keys, body=bodies, etag=st.sampled_from(("", "e", "f")))
    def put(self, key: bytes, body: bytes, etag: str) -> None:
        added = self.objects.put(self.bucket, key, self.store_body(body), ObjectInfo(etag=etag), S3)
        assert (added.version_id is None) == (self.state is not State.ENABLED)
        self.add(key, body, etag)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        deleted = self.objects.delete(self.bucket, key, S3)
        if self.state is State.UNVERSIONED:
            assert deleted[:2] == (None, False)
            if self.lives(key):
                self.add(key, None)
        else:
            assert deleted.is_marker
            assert (deleted.version_id == "null") == (self.state is State.SUSPENDED)
            self.add(key, None)

    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        if not self.known:
            return
        key = data.draw(st.sampled_from(sorted(self.known)))
        at = data.draw(st.integers(0, len(self.known[key]) - 1))
        found = [item for item in every_version(self.store, self.bucket, 100) if item[0] == key][at]
        gone = self.known[key].pop(at)
        assert self.objects.purge(self.bucket, key, found[1], S3)[:2] == (found[1], gone.body is None)
        if not self.known[key]:
            del self.known[key]
        assert self.objects.purge(self.bucket, key, found[1], S3) == Deleted(None, False, [])

    @rule(data=st.data(), onto=keys)
    def copy(self, data: st.DataObject, onto: bytes) -> None:
        sources = [key for key in sorted(self.known) if self.lives(key)]
        if sources:
            source = self.objects.current(self.bucket, data.draw(st.sampled_from(sources)))
            body = self.known[source.key][0].body
            self.objects.put(self.bucket, onto, source.content, ObjectInfo(), S3)
            self.add(onto, body)

    @rule(key=keys)
    def begin_upload(self, key: bytes) -> None:
        upload = self.store.uploads.create(self.bucket, key, ObjectInfo())
        self.uploads[upload] = key, {}

    @rule(data=st.data(), number=st.integers(1, 4), body=bodies)
    def put_part(self, data: st.DataObject, number: int, body: bytes) -> None:
        if self.uploads:
            upload = data.draw(st.sampled_from(sorted(self.uploads)))
            key, parts = self.uploads[upload]
            self.store.uploads.put_part(self.bucket, key, upload, number, self.store_body(body), f"p{number}")
            parts[number] = body

    @rule(data=st.data(), abort=st.booleans())
    def finish_upload(self, data: st.DataObject, abort: bool) -> None:
        ready = [upload for upload, (_, parts) in sorted(self.uploads.items()) if parts or abort]
        if ready:
            upload = data.draw(st.sampled_from(ready))
            key, parts = self.uploads.pop(upload)
            if abort:
                self.store.uploads.abort(self.bucket, key, upload)
                return
            named = [(number, f"p{number}") for number in sorted(parts)]
            for _ in self.store.uploads.complete(self.bucket, key, upload, named, S3, etag="m-1"):
                pass
            self.add(key, b"".join(parts[number] for number in sorted(parts)), "m-1")

    # -- a mount ----------------------------------------------------------------------------------------------

    def directory(self, names: list[bytes]) -> Ino | None:
        """The directory at a path, as mkdir -p; None if there can be none."""
        place = self.bucket
        for name in names:
            if not is_shown(name):
                return None
            found = self.store.tree.find(place, name)
            if found is None:
                found = self.store.tree.mkdir(place, name, 0o755, 0, MOUNT)[0]
            elif not self.store.tree.inode(found).is_dir:
                return None
            place = found
        return place

    @rule(key=keys, body=bodies)
    def write(self, key: bytes, body: bytes) -> None:
        *above, name = key.split(b"/")
        parent = self.directory(above) if is_shown(name) else None
        if parent is None:
            return
        tree, files = self.store.tree, self.store.files
        ino = tree.find(parent, name)
        if ino is not None and tree.inode(ino).is_dir:
            return
        created = ino is None
        if ino is None:
            ino = tree.create(parent, name, 0o644, 0, MOUNT)[0]
        handle = files.open(ino, MOUNT, truncate=True, created=created)
        files.write(handle, 0, body)
        files.flush(handle)
        files.release(handle)
        self.add(key, body)

    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        shown = [key for key in sorted(self.known) if shown_at(self.store, self.bucket, key) is not None]
        if shown:
            key = data.draw(st.sampled_from(shown))
            where = shown_at(self.store, self.bucket, key)
            assert where is not None
            self.store.tree.unlink(*where, MOUNT)
            self.add(key, None)

    @rule(data=st.data(), onto=keys)
    def rename(self, data: st.DataObject, onto: bytes) -> None:
        shown = [key for key in sorted(self.known) if shown_at(self.store, self.bucket, key) is not None]
        *above, name = onto.split(b"/")
        if not shown or not is_shown(name):
            return
        source = data.draw(st.sampled_from(shown))
        parent = self.directory(above)
        where = shown_at(self.store, self.bucket, source)
        assert where is not None
        if parent is None or source == onto:
            return
        old = self.store.tree.find(parent, name)
        if old is None or not self.store.tree.inode(old).is_dir:
            self.store.tree.rename(*where, parent, name, MOUNT)
            body = self.known[source][0].body
            self.add(onto, body)
            self.add(source, None)

    @rule(names=st.lists(segments, min_size=1, max_size=3))
    def rmdir(self, names: list[bytes]) -> None:
        where = self.seen_directory(names)
        if where is not None and next(self.store.core.catalog.entries(where[2]), None) is None:
            self.store.tree.rmdir(*where[:2], MOUNT)

    def seen_directory(self, names: list[bytes]) -> tuple[Ino, bytes, Ino] | None:
        place = parent = self.bucket
        for name in names:
            found = self.store.tree.find(place, name) if is_shown(name) else None
            if found is None or not self.store.tree.inode(found).is_dir:
                return None
            parent, place = place, found
        return parent, names[-1], place

    # -- both -------------------------------------------------------------------------------------------------

    @rule(state=st.sampled_from((State.ENABLED, State.SUSPENDED)))
    def set_state(self, state: State) -> None:
        if not (self.state is State.UNVERSIONED and state is State.SUSPENDED):
            self.store.set_versioning(self.bucket, state)
            self.state = state

    @rule(clean=st.booleans(), rebuild=st.booleans())
    def reopen(self, clean: bool, rebuild: bool) -> None:
        if clean:
            self.store.close()
        else:
            self.store.abandon()
        if rebuild:
            rebuilding.rebuild(self.folder / "store", lambda *_: None)
        self.open()

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "store"):
            return
        store, bucket = self.store, self.bucket
        for limit in (1, 3, 100):
            told = [(key, body, null, etag) for key, _, body, null, etag, _ in every_version(store, bucket, limit)]
            wanted = [(key, *one) for key in sorted(self.known) for one in self.known[key]]
            assert told == wanted
        for key, version_id, _, _, _, is_current in every_version(store, bucket, 100):
            assert self.objects.version(bucket, key, version_id).is_current == is_current
        live = [key for key in sorted(self.known) if self.lives(key)]
        for prefix in (b"", b"a", b"a/", b"/"):
            for delimiter in (b"", b"/", b"-", b"a/"):
                for limit in (1, 4):
                    self.compare_pages(live, prefix, delimiter, limit)
        for key, chain in self.known.items():
            if self.lives(key):
                assert self.objects.current(bucket, key).is_current
            else:
                with pytest.raises(NoSuchKey) as error:
                    self.objects.current(bucket, key)
                assert error.value.marker == ("null" if chain[0].null else every_id(store, bucket, key)[0])
        assert all(is_shown(name) for _, name, _ in store.tree.entries(bucket))
        ids = [named.id for named in store.uploads.list(bucket).uploads]
        assert ids == sorted(self.uploads, key=lambda upload: (self.uploads[upload][0], upload))

    def compare_pages(self, live: list[bytes], prefix: bytes, delimiter: bytes, limit: int) -> None:
        wanted: list[bytes] = []
        for key in live:
            if key.startswith(prefix):
                at = key.find(delimiter, len(prefix)) if delimiter else -1
                wanted.append(key if at < 0 else key[: at + len(delimiter)])
        told: list[bytes] = []
        after = b""
        while True:
            page = self.objects.list(self.bucket, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
            told += sorted([*(item.key for item in page.objects), *page.prefixes])
            assert len(page.objects) + len(page.prefixes) <= limit
            if not page.truncated:
                break
            assert (page.next, page.prefixes) != (after, [])
            after = page.next
        assert told == list(dict.fromkeys(wanted))


def every_version(store: Store, bucket: Ino, limit: int) -> Iterator[tuple[bytes, str, bytes | None, bool, str, bool]]:
    page = Page([], [], True)
    while page.truncated:
        page = store.objects.list_versions(
            bucket, key_marker=page.next, version_id_marker=page.next_version, limit=limit
        )
        for item in page.objects:
            copy = store.objects.read(item)
            body = None if item.is_marker else copy.read(0, 100)
            store.objects.end_content(copy)
            yield item.key, item.version_id, body, item.version.null, item.info.etag, item.is_current


def every_id(store: Store, bucket: Ino, key: bytes) -> list[str]:
    return [version_id for found, version_id, *_ in every_version(store, bucket, 100) if found == key]


def test_objects_and_the_mount_against_a_dict() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=30, phases=PHASES))


def test_pages_that_look_at_few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that ends before it is full goes on where it ended."""
    monkeypatch.setattr(listing, "LOOKED_MAX", 9)
    run_state_machine_as_test(Machine, settings=settings(max_examples=20, stateful_step_count=20, phases=PHASES))


def test_objects_with_tiny_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in (("INODES_KEPT_MAX", 2), ("NAMES_KEPT_MAX", 2), ("COUNTS_MAX", 1)):
        monkeypatch.setattr(catalog, name, limit)
    run_state_machine_as_test(Machine, settings=settings(max_examples=15, stateful_step_count=25, phases=PHASES))


class Renaming(Machine):
    """With directories that are renamed, and made by others: one key's history may lie in several. Then only what must
    hold anyhow is asked for, and that everything can be purged.
    """

    @rule(names=st.lists(segments, min_size=1, max_size=2), onto=st.lists(segments, min_size=1, max_size=2))
    def rename_directory(self, names: list[bytes], onto: list[bytes]) -> None:
        where = self.seen_directory(names)
        above = self.directory(onto[:-1])
        if where is not None and above is not None and is_shown(onto[-1]):
            try:
                self.store.tree.rename(*where[:2], above, onto[-1], MOUNT)
            except VfsError:
                return
            self.learn()

    @rule(names=st.lists(segments, min_size=1, max_size=2))
    def make_as_somebody(self, names: list[bytes]) -> None:
        above = self.directory(names[:-1])
        if above is not None and is_shown(names[-1]) and self.store.tree.find(above, names[-1]) is None:
            self.store.tree.mkdir(above, names[-1], 0o700, 9, Writer(9, 9, "other"))

    def learn(self) -> None:
        """Take what is there for what should be."""
        self.known = {}
        for key, _, body, null, etag, _ in every_version(self.store, self.bucket, 100):
            self.known.setdefault(key, []).append(One(body, null, etag))

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "store"):
            return
        told = list(every_version(self.store, self.bucket, 100))
        assert told == list(every_version(self.store, self.bucket, 1))
        live = {item.key: item.version_id for item in self.objects.list(self.bucket).objects}
        current = {key: version_id for key, version_id, body, *_, is_current in told if is_current and body is not None}
        assert live == current
        self.learn()

    def lives(self, key: bytes) -> bool:
        try:
            self.objects.current(self.bucket, key)
        except NoSuchKey:
            return False
        return True

    @rule()
    def purge(self) -> None:  # type: ignore[override]
        told = list(every_version(self.store, self.bucket, 100))
        if told:
            key, version_id, *_ = told[len(told) // 2]
            self.objects.purge(self.bucket, key, version_id, S3)
            left = list(every_version(self.store, self.bucket, 100))
            assert len(left) == len(told) - 1

    def teardown(self) -> None:
        if hasattr(self, "store"):
            while told := list(every_version(self.store, self.bucket, 1000)):
                for key, version_id, *_ in told:
                    self.objects.purge(self.bucket, key, version_id, S3)
                    with pytest.raises(NoSuchVersion):
                        self.objects.version(self.bucket, key, version_id)
            self.objects.delete_bucket(b"bucket")
        super().teardown()


def test_directories_that_are_renamed() -> None:
    run_state_machine_as_test(Renaming, settings=settings(max_examples=40, stateful_step_count=30, phases=PHASES))
