"""Objects whose directories a mount renames, removes and makes again as somebody else: the history of one key may lie
in several directories, and is gathered in one before a purge.

What that gives is too much for a model. The store is asked after each operation, and what must hold anyhow is asserted:
so many versions came, went and changed, and none that was locked. What a crash leaves must be what was seen then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model.lifetime import PICK
from tests.model.object_engine import MOUNT, S3, ObjectEngine
from tests.model.object_reference import Bucket, seen
from vfs.errors import VfsError
from vfs.model import Ino, LockMode, ObjectInfo, Retention, Seq, Writer

MOVING = b"moving"
KEYS = st.sampled_from([b"a/b", b"a/b/c", b"a/c/c", b"c/b", b"c"])
DIRECTORIES = st.sampled_from([b"a", b"a/b", b"a/c", b"c"])
OTHER = Writer(9, 9, "other")


class MovingObjects(ObjectEngine):
    """With a bucket of such objects, which has object lock."""

    def _create_buckets(self) -> None:
        super()._create_buckets()
        self._create_bucket(MOVING)
        self.moving.seen = {}

    @property
    def moving(self) -> Bucket:
        return self.reference.buckets[MOVING]

    def move(
        self, turning: str, engine: Callable[[], Any], *, added: int = 0, removed: int = 0, changed: int = 0
    ) -> None:
        """Do something that may be refused, and see that it did no more than it should."""
        self.count += 1

        def attempt() -> bool:
            try:
                engine()
            except VfsError:
                return False
            return True

        def learn(done: bool) -> None:
            bucket = self.moving
            before, bucket.seen = bucket.seen, seen(self.store, bucket)
            assert before is not None
            new, gone = bucket.seen.keys() - before.keys(), before.keys() - bucket.seen.keys()
            different = [seq for seq in before.keys() & bucket.seen.keys() if before[seq].what != bucket.seen[seq].what]
            assert (len(new), len(gone), len(different)) in ((added, removed, changed), (0, 0, 0))
            assert done or not (new or gone or different)
            for seq in gone:
                assert not self.reference.holds_lock(before[seq].info), "a locked version"

        self.act(turning, attempt, learn)

    def _chosen_id(self, pick: int, *, current: bool = False) -> tuple[bytes, str] | None:
        found = [one for _, one in sorted((self.moving.seen or {}).items()) if one.is_current or not current]
        if not found:
            return None
        one = found[pick % len(found)]
        return one.key, one.id

    @rule(key=KEYS, size=st.integers(0, 200), lock=st.integers(0, 3))
    def put_moving(self, key: bytes, size: int, lock: int) -> None:
        modes = {0: LockMode.GOVERNANCE, 1: LockMode.COMPLIANCE}
        retention = Retention(modes[lock], Seq(self.now_us() + 3_000_000)) if lock in modes else None
        info = ObjectInfo(self.new_etag(), retention=retention)
        with self.stored(self.moving, self.data(size, 5)) as content:
            self.move("put", lambda: self.store.objects.put(self.moving.ino, key, content, info, S3), added=1)

    @rule(key=KEYS)
    def delete_moving(self, key: bytes) -> None:
        self.move("delete", lambda: self.store.objects.delete(self.moving.ino, key, S3), added=1)

    @rule(pick=PICK, current=st.booleans())
    def purge_moving(self, pick: int, current: bool) -> None:
        chosen = self._chosen_id(pick, current=current)
        if chosen is not None:
            self.move("purge", lambda: self.store.objects.purge(self.moving.ino, *chosen, S3), removed=1)

    @rule(pick=PICK, hold=st.booleans())
    def hold_moving(self, pick: int, hold: bool) -> None:
        chosen = self._chosen_id(pick)
        if chosen is not None:
            version = self.store.objects.version(self.moving.ino, *chosen)
            if not version.is_marker:
                changed = int(version.info.legal_hold != hold)
                self.move("object info", lambda: self.store.objects.set_legal_hold(version, hold), changed=changed)

    @rule(path=DIRECTORIES, lock=st.integers(0, 3))
    def gather(self, path: bytes, lock: int) -> None:
        """A key that has history in two directories, neither of which lives, gets back what it had in the first one."""
        key = path + b"/b"
        for other in (False, True):
            if other:
                self.make_directory(path, False)
            self.put_moving(key, 100, lock)
            self.delete_moving(key)
        self.remove_directory(path)
        for _ in range(3):
            self._purge_current(key)

    def _purge_current(self, key: bytes) -> None:
        found = [one.id for one in (self.moving.seen or {}).values() if one.key == key and one.is_current]
        if found:
            self.move("purge", lambda: self.store.objects.purge(self.moving.ino, key, found[0], S3), removed=1)

    def _place(self, path: bytes) -> tuple[Ino, bytes] | None:
        """The parent that lives, and the name there."""
        *above, name = path.split(b"/")
        place = self.moving.ino
        for directory in above:
            found = self.store.tree.find(place, directory)
            if found is None or not self.store.tree.inode(found).is_dir:
                return None
            place = found
        return place, name

    @rule(path=DIRECTORIES, onto=DIRECTORIES)
    def rename_directory(self, path: bytes, onto: bytes) -> None:
        source, target = self._place(path), self._place(onto)
        found = None if source is None else self.store.tree.find(*source)
        if source is None or target is None or found is None or not self.store.tree.inode(found).is_dir:
            return
        where, to = source, target
        self.move("rename", lambda: self.store.tree.rename(*where, *to, MOUNT))

    @rule(path=DIRECTORIES, mine=st.booleans())
    def make_directory(self, path: bytes, mine: bool) -> None:
        place = self._place(path)
        if place is not None:
            parent, name = place
            writer = MOUNT if mine else OTHER
            self.move("mkdir", lambda: self.store.tree.mkdir(parent, name, 0o700, writer.uid, writer))

    @rule(path=DIRECTORIES)
    def remove_directory(self, path: bytes) -> None:
        place = self._place(path)
        if place is not None:
            parent, name = place
            self.move("rmdir", lambda: self.store.tree.rmdir(parent, name, MOUNT))
