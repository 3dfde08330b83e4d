"""What S3 doors, lifecycles and a mount do to objects, beside the reference model of tests.model.object_reference.

One operation may be several atomic changes. One of them is its turning point (the event that bears its name): before
it nothing of the operation can be seen, from it on everything.
"""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.model.comparison import audit, shown_at
from tests.model.lifetime import BLOCK_BYTES, PICK, Lifetime, fill, make_small
from tests.model.object_reference import UNKNOWN, Bucket, ObjectReference, Part, Version, compare_objects
from vfs import errors, expiring, gc, journal, objects
from vfs.content import WorkingCopy
from vfs.model import (
    STORE_ROOT,
    Compression,
    Content,
    Filter,
    Ino,
    LifecycleRule,
    LockMode,
    ObjectInfo,
    ObjectLock,
    PurgePolicy,
    Retention,
    Seq,
    State,
    Writer,
)
from vfs.names import format_version_id, is_shown, split_key
from vfs.objects import Added, Condition
from vfs.store import Store

S3, MOUNT = Writer(0, 0, "s3"), Writer(0, 1, "mount")
KEYS = st.sampled_from([b"a", b"b", b"a/b", b"a/b/c", b"a//c", b"d/e", b"d/f", b"g~"])
BUCKETS = (
    b"locked",
    b"plain",
    b"shared",
    b"spare",
)  # with object lock; for S3 alone; for a mount too; that goes and comes
SIZES = st.integers(0, 400)
FILLS = st.integers(0, 8)  # above 4: bytes that nothing else has
SECONDS = st.integers(-1, 12)  # of a retention from now on
MODES = st.sampled_from(LockMode)
DAY_S = 1.0  # of lifecycles here
EVER_NS = 100 * 365 * 86_400 * 1_000_000_000

RULES: tuple[tuple[LifecycleRule, ...], ...] = (
    (),
    (LifecycleRule("abort", True, abort_days=4),),
    (
        LifecycleRule("old", True, noncurrent_days=3, noncurrent_newer=1, abort_days=9),
        LifecycleRule("current", True, Filter(b"a"), expire_days=5),
        LifecycleRule("marker", True, expire_marker=True),
    ),
)


def make_objects_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `make_small`; and slices of what takes long, and segments of the journal, so small that there are many."""
    make_small(monkeypatch)
    monkeypatch.setattr(objects, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(objects, "LEAVES_PER_SLICE_MAX", 1)
    monkeypatch.setattr(objects, "COPIED_BYTES_PER_SLICE_MAX", 100)
    monkeypatch.setattr(journal, "SEGMENT_BYTES_MAX", 3000)


class Body(NamedTuple):
    """Content that is being made across other operations."""

    copy: WorkingCopy
    data: bytearray


class Completion(NamedTuple):
    """A completion under way. begun: the parts when it began."""

    steps: Generator[None, None, Added]
    bucket: bytes
    upload: str
    wanted: list[tuple[int, str]]
    begun: list[Part | None]
    etag: str


class ObjectEngine(Lifetime):
    """The state machine of objects."""

    reference: ObjectReference

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.completions: list[Completion] = []
        self.count = 0  # so that ETags are no two the same
        super().__init__()

    def new_model(self) -> ObjectReference:
        return ObjectReference()

    def compare(self) -> None:
        compare_objects(self.store, self.reference)
        audit(self.store)

    @initialize(state=st.sampled_from(State), compression=st.sampled_from(Compression))
    def start(self, state: State, compression: Compression = Compression.OFF) -> None:
        self._create_buckets()
        self.act(
            "set compression",
            lambda: self.store.set_compression(self.reference.buckets[b"plain"].ino, compression),
            lambda _: None,
        )
        for step in range(1, state + 1):
            for name in (b"plain", b"shared"):
                self.set_state(name, State(step))
        self.store.checkpoint()
        self.checkpointed = self.reference.events
        self._durable()

    def _create_buckets(self) -> None:
        for name in BUCKETS:
            self._create_bucket(name)

    def _after_opening(self) -> None:
        self.bodies.clear()
        self.completions.clear()
        super()._after_opening()

    # -- both sides -------------------------------------------------------------------------------------------

    def act(self, turning: str, engine: Callable[[], Any], reference: Callable[[Any], Any]) -> Any:
        """`do`, of an operation whose turning point is the event *turning*."""
        before = pickle.dumps(self.reference)
        self.operations.clear()

        unseen = False

        def follow(found: Any) -> Any:
            nonlocal unseen
            done = list(self.operations)
            turn = done.index(turning) if turning in done else len(done)
            after = self.reference
            then: ObjectReference = pickle.loads(before)
            then.now = self.clock.now
            then.after_event = None
            for operation in done[:turn]:
                if operation == "publish":  # of what a mount is writing, before something else becomes current
                    then.publish_drafts()
                    after.publish_drafts()
                then.on_event()
                self.kept.append((then.events, pickle.dumps(then)))
            after.events, after.last_us = then.events, then.last_us
            expected = reference(found)
            unseen = turning not in done and self.reference.buckets != then.buckets
            for _ in done[turn:]:
                after.on_event()
            return expected

        result = self.do(engine, follow)
        assert not unseen, f"something changed without the event {turning}: {self.operations}"
        return result

    def now_us(self) -> int:
        return self.clock.now // 1000

    def bucket(self, pick: int) -> Bucket:
        found = self.buckets()
        return found[pick % len(found)]

    def buckets(self) -> list[Bucket]:
        """Those that the model follows by itself."""
        return [bucket for bucket in self.reference.buckets.values() if bucket.seen is None]

    def chosen(self, pick: int) -> tuple[Bucket, bytes, Version] | None:
        found = [(bucket, *one) for bucket in self.reference.buckets.values() for one in bucket.versions]
        return found[pick % len(found)] if found else None

    def chosen_content(self, pick: int, *, locked: bool = False) -> tuple[Bucket, bytes, Version] | None:
        found = [
            (bucket, *one)
            for bucket in self.reference.buckets.values()
            for one in bucket.versions
            if not one[1].is_marker and (bucket.lock is not None or not locked)
        ]
        return found[pick % len(found)] if found else None

    def chosen_upload(self, pick: int) -> tuple[Bucket, str] | None:
        found = self._uploads()
        return found[pick % len(found)] if found else None

    def _uploads(self) -> list[tuple[Bucket, str]]:
        return [(bucket, one) for bucket in self.reference.buckets.values() for one in sorted(bucket.uploads)]

    def data(self, size: int, value: int) -> bytes:
        """A body: as other files have it, or one whose blocks nothing else has."""
        self.count += 1
        return fill(size, value) if value <= 4 else random.Random(self.count).randbytes(size)

    def new_etag(self) -> str:
        self.count += 1
        return f"{self.count:032x}"

    def info(self, bucket: Bucket, variant: int) -> ObjectInfo:
        """What an S3 door says of an object; in a bucket with object lock also that it is locked."""
        etag = self.new_etag()
        until = Seq(self.now_us() + 5_000_000)
        match variant % 6:
            case 0 if bucket.lock is not None:
                return ObjectInfo(etag, retention=Retention(LockMode.COMPLIANCE, until))
            case 1 if bucket.lock is not None:
                return ObjectInfo(etag, retention=Retention(LockMode.GOVERNANCE, until), legal_hold=True)
            case 2:
                return ObjectInfo(etag, legal_hold=True)
            case 3:
                return ObjectInfo(
                    etag, headers={"content-type": "text/plain"}, metadata={"x": "y" * 50}, tags={"t": "u"}
                )
            case _:
                return ObjectInfo(etag)

    def newest(self, bucket: Bucket, key: bytes) -> Seq:
        """The id of what was just made."""
        return next(self.store.objects.versions(bucket.ino, key)).seq

    # -- bodies -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def content(self, bucket: Bucket) -> Iterator[WorkingCopy]:
        """Something to write a body to, as long as it is needed."""
        copy = self.store.objects.begin_content(bucket.ino)
        try:
            yield copy
        finally:
            self.store.objects.end_content(copy)

    @contextlib.contextmanager
    def stored(self, bucket: Bucket, data: bytes) -> Iterator[Content]:
        """A body that came in in two pieces."""
        with self.content(bucket) as copy:
            half = len(data) // 2
            copy.write(0, data[:half])
            copy.write(half, data[half:])
            yield copy.seal()

    @rule(pick=PICK, size=SIZES, value=FILLS)
    def begin_body(self, pick: int, size: int, value: int) -> None:
        """A body that comes in slowly: collections and checkpoints come in between."""
        copy = self.store.objects.begin_content(self.bucket(pick).ino)
        self.bodies.append(Body(copy, bytearray()))
        self.write_body(-1, size, value)
        copy.seal()

    @precondition(lambda self: self.bodies)
    @rule(pick=PICK, size=SIZES, value=FILLS)
    def write_body(self, pick: int, size: int, value: int) -> None:
        body = self.bodies[pick % len(self.bodies)]
        data = self.data(size, value)
        body.copy.write(len(body.data), data)
        body.data.extend(data)

    @precondition(lambda self: self.bodies)
    @rule(pick=PICK, key=KEYS, variant=PICK, given_up=st.booleans())
    def end_body(self, pick: int, key: bytes, variant: int, given_up: bool) -> None:
        body = self.bodies[pick % len(self.bodies)]
        if not given_up:
            bucket = self.bucket(variant)
            info = self.info(bucket, variant)
            self._put(bucket, key, body.copy.seal(), bytes(body.data), info)
        self.store.objects.end_content(body.copy)
        self.bodies.remove(body)

    @rule(pick=PICK, key=KEYS, size=SIZES, variant=PICK)
    def slow_body(self, pick: int, key: bytes, size: int, variant: int) -> None:
        """A collection, all of it, while a body comes in."""
        self.begin_body(pick, size, 7)
        self.collect_to_the_end()
        self.write_body(-1, size, 7)
        self.collect_to_the_end()
        self.end_body(-1, key, variant, False)

    # -- objects ----------------------------------------------------------------------------------------------

    def _put(
        self, bucket: Bucket, key: bytes, content: Content, body: bytes, info: ObjectInfo, wanted: str | None = None
    ) -> None:
        condition = None
        if wanted is not None:
            condition = Condition(if_match=(wanted,)) if wanted else Condition(if_none_match=("*",))
        self.act(
            "put",
            lambda: self.store.objects.put(bucket.ino, key, content, info, S3, condition=condition),
            lambda added: self.reference.put(bucket, key, body, info, _seq(added), wanted=wanted),
        )

    @rule(pick=PICK, key=KEYS, size=SIZES, value=FILLS, variant=PICK)
    def put(self, pick: int, key: bytes, size: int, value: int, variant: int) -> None:
        bucket, data = self.bucket(pick), self.data(size, value)
        with self.stored(bucket, data) as content:
            self._put(bucket, key, content, data, self.info(bucket, variant))

    @rule(pick=PICK, key=KEYS, size=SIZES, value=FILLS, how=st.sampled_from(["new", "match", "other"]))
    def put_if(self, pick: int, key: bytes, size: int, value: int, how: str) -> None:
        bucket, data = self.bucket(pick), self.data(size, value)
        with self.stored(bucket, data) as content:
            self._put(bucket, key, content, data, ObjectInfo(self.new_etag()), self._wanted(bucket, key, how))

    def _wanted(self, bucket: Bucket, key: bytes, how: str) -> str:
        current = bucket.current(key)
        if how == "new":
            return ""
        if how == "match" and current is not None and current.info.etag:
            return current.info.etag
        return "another"

    @rule(pick=PICK, to=PICK, key=KEYS, variant=PICK)
    def copy(self, pick: int, to: int, key: bytes, variant: int) -> None:
        """Of any version, whatever bucket it is in: nothing is stored."""
        chosen = self.chosen_content(pick)
        if chosen is not None:
            source, from_key, version = chosen
            bucket = self.bucket(to)
            content = self.store.objects.version(source.ino, from_key, _id(version)).content
            assert version.body is not None
            self._put(bucket, key, content, version.body, self.info(bucket, variant))

    @rule(pick=PICK, key=KEYS)
    def delete(self, pick: int, key: bytes) -> None:
        self._delete(self.bucket(pick), key)

    @rule(pick=PICK)
    def delete_current(self, pick: int) -> None:
        chosen = self.chosen(pick)
        if chosen is not None:
            self._delete(*chosen[:2])

    @rule(pick=PICK, key=KEYS, how=st.sampled_from(["match", "other"]))
    def delete_if(self, pick: int, key: bytes, how: str) -> None:
        bucket = self.bucket(pick)
        self._delete(bucket, key, self._wanted(bucket, key, how))

    def _delete(self, bucket: Bucket, key: bytes, wanted: str | None = None) -> None:
        condition = None if wanted is None else Condition(if_match=(wanted,))

        def delete() -> Seq | None:
            deleted = self.store.objects.delete(bucket.ino, key, S3, condition=condition)
            return self.newest(bucket, key) if deleted.is_marker else None

        self.act("delete", delete, lambda seq: self.reference.delete(bucket, key, seq, wanted=wanted))

    @rule(pick=PICK, bypass=st.booleans())
    def purge(self, pick: int, bypass: bool) -> None:
        chosen = self.chosen(pick)
        if chosen is not None:
            self._purge(*chosen, bypass=bypass)

    @rule(pick=PICK)
    def purge_current(self, pick: int) -> None:
        chosen = self.chosen(pick)
        if chosen is not None:
            self._purge(*chosen[:2], chosen[0].chains[chosen[1]][0])

    def _purge(self, bucket: Bucket, key: bytes, version: Version, *, bypass: bool = False) -> None:
        self.act(
            "purge",
            lambda: self.store.objects.purge(bucket.ino, key, _id(version), S3, bypass=bypass),
            lambda _: self.reference.purge(bucket, key, self._named(bucket, key, version).seq, bypass=bypass),
        )

    def _named(self, bucket: Bucket, key: bytes, version: Version) -> Version:
        """The version that has the id of *version* now: what a close had promised may be the null version instead."""
        return next((one for one in bucket.chains.get(key, ()) if _id(one) == _id(version)), version)

    @rule(pick=PICK)
    def undelete(self, pick: int) -> None:
        """Purge the delete marker that is current."""
        found = [
            (bucket, key, chain[0])
            for bucket in self.reference.buckets.values()
            for key, chain in sorted(bucket.chains.items())
            if chain[0].is_marker
        ]
        if found:
            self._purge(*found[pick % len(found)])

    @rule(pick=PICK, key=KEYS)
    def purge_nothing(self, pick: int, key: bytes) -> None:
        """Of a version that never was: nothing happens."""
        bucket = self.bucket(pick)
        gone = self.act(
            "purge", lambda: self.store.objects.purge(bucket.ino, key, "20200101T000000.000000Z", S3), lambda _: None
        )
        assert gone[0].version_id is None

    # -- locks ------------------------------------------------------------------------------------------------

    @rule(pick=PICK, mode=MODES, seconds=SECONDS, bypass=st.booleans(), away=st.booleans())
    def set_retention(self, pick: int, mode: LockMode, seconds: int, bypass: bool, away: bool) -> None:
        chosen = self.chosen_content(pick, locked=pick % 4 > 0)
        if chosen is not None:
            bucket, key, version = chosen
            retention = None if away else Retention(mode, Seq(self.now_us() + seconds * 1_000_000))
            self.act(
                "object info",
                lambda: self.store.objects.set_retention(
                    self.store.objects.version(bucket.ino, key, _id(version)), retention, bypass=bypass
                ),
                lambda _: self.reference.set_retention(bucket, key, version.seq, retention, bypass=bypass),
            )

    @rule(pick=PICK, hold=st.booleans())
    def set_legal_hold(self, pick: int, hold: bool) -> None:
        chosen = self.chosen_content(pick, locked=pick % 4 > 0)
        if chosen is not None:
            bucket, key, version = chosen
            self.act(
                "object info",
                lambda: self.store.objects.set_legal_hold(
                    self.store.objects.version(bucket.ino, key, _id(version)), hold
                ),
                lambda _: self.reference.set_legal_hold(bucket, key, version.seq, hold),
            )

    @rule(pick=PICK, value=st.sampled_from(["u", "v"]))
    def set_tags(self, pick: int, value: str) -> None:
        chosen = self.chosen_content(pick)
        if chosen is not None:
            bucket, key, version = chosen
            self.act(
                "object info",
                lambda: self.store.objects.set_tags(
                    self.store.objects.version(bucket.ino, key, _id(version)), {"t": value}
                ),
                lambda _: self.reference.set_tags(bucket, key, version.seq, {"t": value}),
            )

    @rule(pick=PICK, policy=st.sampled_from([*PurgePolicy, *[PurgePolicy.COMMAND] * 3]))
    def set_purge_policy(self, pick: int, policy: PurgePolicy) -> None:
        bucket = self.bucket(pick)
        self.act(
            "set purge policy",
            lambda: self.store.set_purge_policy(bucket.ino, policy),
            lambda _: setattr(bucket, "never", policy is PurgePolicy.NEVER),
        )

    @rule(pick=PICK)
    def purge_locked(self, pick: int) -> None:
        """Every way in which a version that is locked now could go."""
        found = [
            (bucket, key, version)
            for bucket in self.reference.buckets.values()
            for key, version in bucket.versions
            if self.reference.is_locked(version)
        ]
        if found:
            bucket, key, version = found[pick % len(found)]
            self.reference.now = self.clock.now
            self._purge(bucket, key, version, bypass=pick % 2 > 0)
            key_id = self.store.history.find(version.seq)[0] if version in bucket.chains.get(key, ()) else None
            if key_id is not None:
                self.act(
                    "purge",
                    lambda: self.store.history.purge(key_id, version.seq, MOUNT),
                    lambda _: self.reference.purge(bucket, key, version.seq),
                )

    @rule(mode=st.sampled_from([None, *LockMode]), days=st.integers(1, 2))
    def set_default_lock(self, mode: LockMode | None, days: int) -> None:
        bucket = self.reference.buckets[b"locked"]
        lock = ObjectLock() if mode is None else ObjectLock(mode, days)
        self.act(
            "configure",
            lambda: self.store.objects.configure(bucket.ino, lock=lock),
            lambda _: setattr(bucket, "lock", lock),
        )

    # -- uploads ----------------------------------------------------------------------------------------------

    @rule(pick=PICK, key=KEYS, variant=PICK)
    def create_upload(self, pick: int, key: bytes, variant: int) -> None:
        bucket = self.bucket(pick)
        info = self.info(bucket, variant)
        self.act(
            "create upload",
            lambda: self.store.uploads.create(bucket.ino, key, info),
            lambda upload: self.reference.create_upload(bucket, key, info, upload),
        )

    @rule(pick=PICK, number=st.integers(1, 4), size=SIZES, value=FILLS)
    def put_part(self, pick: int, number: int, size: int, value: int) -> None:
        chosen = self.chosen_upload(pick)
        if chosen is not None:
            bucket, upload = chosen
            data = self.data(size, value)
            with self.stored(bucket, data) as content:
                self._put_part(bucket, upload, number, content, data)

    @rule(pick=PICK, of=PICK, number=st.integers(1, 4), offset=SIZES, size=SIZES)
    def copy_part(self, pick: int, of: int, number: int, offset: int, size: int) -> None:
        """A part of a range of an object."""
        chosen, source = self.chosen_upload(pick), self.chosen_content(of)
        if chosen is None or source is None or not source[2].body:
            return
        bucket, upload = chosen
        offset %= len(source[2].body)
        data = source[2].body[offset : offset + size]
        content = self.store.objects.version(source[0].ino, source[1], _id(source[2])).content
        with self.content(bucket) as copy:
            for _ in self.store.objects.append(copy, content, offset=offset, length=len(data)):
                self._step()
            self._put_part(bucket, upload, number, copy.seal(), data)

    def _put_part(self, bucket: Bucket, upload: str, number: int, content: Content, body: bytes) -> None:
        key, etag = bucket.uploads[upload].key, self.new_etag()
        self.act(
            "put part",
            lambda: self.store.uploads.put_part(bucket.ino, key, upload, number, content, etag),
            lambda _: self.reference.put_part(bucket, upload, number, body, etag),
        )

    @rule(pick=PICK, key=KEYS, size=SIZES, variant=PICK)
    def upload(self, pick: int, key: bytes, size: int, variant: int) -> None:
        """All of it: two parts, and put together."""
        bucket = self.bucket(pick)
        known = set(bucket.uploads)
        self.create_upload(pick, key, variant)
        new = set(bucket.uploads) - known
        if new:
            at = self._uploads().index((bucket, new.pop()))
            self.put_part(at, 1, size, 3)
            self.put_part(at, 3, size, 5)
            self.complete(at)

    @rule(pick=PICK, skip=st.integers(0, 4), wrong=st.integers(0, 8))
    def begin_completion(self, pick: int, skip: int, wrong: int) -> None:
        """With all parts, or all but one, or a wrong ETag."""
        chosen = self.chosen_upload(pick)
        if chosen is not None:
            bucket, upload = chosen
            key, parts = bucket.uploads[upload].key, bucket.uploads[upload].parts
            wanted = [(number, parts[number].etag) for number in sorted(parts) if number != skip]
            if wrong == 0 and wanted:
                wanted[0] = (wanted[0][0], "wrong")
            begun = [parts.get(number) for number, _ in wanted]
            etag = self.new_etag()
            steps = self.store.uploads.complete(bucket.ino, key, upload, wanted, S3, etag=etag)
            self.completions.append(Completion(steps, bucket.name, upload, wanted, begun, etag))
            self._go_on(self.completions[-1])

    @precondition(lambda self: self.completions)
    @rule(pick=PICK)
    def go_on_completing(self, pick: int) -> None:
        self._go_on(self.completions[pick % len(self.completions)])

    @rule(pick=PICK)
    def complete(self, pick: int) -> None:
        """Without a pause."""
        self.begin_completion(pick, 0, 1)
        while self.completions:
            self._go_on(self.completions[-1])

    def _go_on(self, completion: Completion) -> None:
        """A slice of work; at its end the object is there, or an error."""
        ended = False

        def slice_of_work() -> Added | None:
            nonlocal ended
            ended = True
            try:
                next(completion.steps)
                ended = False
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            return None

        def follow(added: Added | None) -> None:
            bucket = self.reference.buckets.get(completion.bucket)
            if ended:
                if bucket is None:
                    raise errors.NoSuchUpload
                seq = _seq(added)
                self.reference.complete(
                    bucket, completion.upload, completion.wanted, completion.begun, completion.etag, seq
                )

        self.act("put", slice_of_work, follow)
        if ended:
            self.completions.remove(completion)

    @rule(pick=PICK, wrong=st.integers(0, 8), meanwhile=st.sampled_from(["part", "abort", "delete", "bucket"]))
    def slow_completion(self, pick: int, wrong: int, meanwhile: str) -> None:
        """Collections while parts are being put together; and perhaps something that gets in the way."""
        chosen = self.chosen_upload(pick)
        if chosen is None:
            return
        bucket, upload = chosen
        running = len(self.completions)
        self.begin_completion(pick, 0, wrong)
        while len(self.completions) > running:
            self.collect(True, 3)
            match meanwhile if upload in bucket.uploads else "nothing":
                case "part" if wrong > 5:
                    self.put_part(pick, 2, 100, 6)
                case "abort" if wrong > 5:
                    self._abort(bucket, upload)
                case "delete":
                    self._delete(bucket, bucket.uploads[upload].key)
                case "bucket" if bucket.name == b"spare":
                    self.empty_bucket()
                    self.delete_bucket()
                case _:
                    self.sync()
            self._go_on(self.completions[-1])

    @precondition(lambda self: self.completions)
    @rule(pick=PICK)
    def leave_completion(self, pick: int) -> None:
        """The client went away."""
        self.completions.pop(pick % len(self.completions)).steps.close()

    @rule(pick=PICK)
    def abort(self, pick: int) -> None:
        chosen = self.chosen_upload(pick)
        if chosen is not None:
            self._abort(*chosen)

    def _abort(self, bucket: Bucket, upload: str) -> None:
        key = bucket.uploads[upload].key
        self.act(
            "abort upload",
            lambda: self.store.uploads.abort(bucket.ino, key, upload),
            lambda _: self.reference.abort(bucket, upload),
        )

    # -- lifecycles -------------------------------------------------------------------------------------------

    @rule(pick=PICK, which=st.integers(0, len(RULES) - 1))
    def set_rules(self, pick: int, which: int) -> None:
        bucket = self.bucket(pick)
        self.act(
            "configure",
            lambda: self.store.objects.configure(bucket.ino, lifecycle=RULES[which]),
            lambda _: self.reference.set_rules(bucket, RULES[which]),
        )

    @rule(most=st.integers(1, 5))
    def expire(self, most: int) -> None:
        """Some of what is due. A locked version never is, and not by a rule either."""
        due = [one for step in expiring.plan(self.store, day_s=DAY_S) for one in step][:most]
        for action in due:
            self._expire(action)

    def _expire(self, action: expiring.Due) -> None:
        bucket = self.reference.buckets[action.bucket]

        def carry_out() -> Seq | None:
            expiring.carry_out(self.store, [action])
            chain = self.store.objects.versions(bucket.ino, action.key)
            newest = next(chain, None)
            return newest.seq if newest is not None and newest.is_marker and action.what == "expire" else None

        def follow(seq: Seq | None) -> None:
            match action.what:
                case "abort":
                    self.reference.abort(bucket, action.id)
                case "purge":
                    version = next(one for one in bucket.chains[action.key] if _id(one) == action.id)
                    assert not bucket.never
                    assert not self.reference.is_locked(version), "a lifecycle has nothing to do with what is locked"
                    self.reference.purge(bucket, action.key, version.seq)
                case _:
                    current = bucket.current(action.key)
                    if current is not None and _id(current) == action.id:
                        self.reference.delete(bucket, action.key, seq)

        turning = {"abort": "abort upload", "purge": "purge", "expire": "delete"}[action.what]
        self.act(turning, carry_out, follow)

    # -- a mount ----------------------------------------------------------------------------------------------

    def _parent(self, bucket: Bucket, directories: list[bytes]) -> Ino | None:
        """The directory of a key, as mkdir -p; None if a file is in the way, or no mount shows it."""
        place = bucket.ino
        for name in directories:
            if not is_shown(name):
                return None
            found = self.store.tree.find(place, name)
            if found is None:
                bucket.has_litter = True
                make = partial(self.store.tree.mkdir, place, name, 0o755, 0, MOUNT)
                done = self.act("mkdir", make, lambda _: None)
                if done is None:
                    return None
                found = done[0][0]
            elif not self.store.tree.inode(found).is_dir:
                return None
            place = found
        return place

    @rule(key=KEYS, size=SIZES, value=FILLS, locked=st.booleans())
    def write(self, key: bytes, size: int, value: int, locked: bool) -> None:
        """echo … > file. A crash on the way leaves what a close or a create has promised."""
        bucket = self.reference.buckets[b"locked" if locked else b"shared"]
        directories, name = split_key(key)
        parent = self._parent(bucket, directories) if is_shown(name) else None
        if parent is None:
            return
        tree, files, data = self.store.tree, self.store.files, self.data(size, value)
        ino = tree.find(parent, name)
        created = ino is None
        if ino is None:
            done = self.act(
                "create",
                lambda: tree.create(parent, name, 0o644, 0, MOUNT)[0],
                lambda _: self.reference.store_draft(bucket, key, b""),
            )
            ino = done[0]
        elif tree.inode(ino).is_dir:
            return
        handle = files.open(ino, MOUNT, truncate=not created, created=created)
        files.write(handle, 0, data)
        self.act("draft", lambda: files.flush(handle), lambda _: self.reference.store_draft(bucket, key, data))

        def release() -> Seq:
            files.release(handle)
            return self.newest(bucket, key)

        self.act("publish", release, lambda seq: self.reference.publish(bucket, key, seq))

    def _shown(self, pick: int) -> tuple[Bucket, bytes, tuple[Ino, bytes]] | None:
        """A key that a mount shows as a file, and where."""
        found = [
            (bucket, key, where)
            for bucket in self.reference.buckets.values()
            for key in sorted(bucket.chains)
            if bucket.name in (b"locked", b"shared") and (where := shown_at(self.store, bucket.ino, key)) is not None
        ]
        return found[pick % len(found)] if found else None

    @rule(pick=PICK, mode=st.sampled_from([0o644, 0o600]))
    def chmod(self, pick: int, mode: int) -> None:
        """A version that becomes current again has the key's rights, and its own locks."""
        found = self._shown(pick)
        if found is not None:
            ino = self.store.tree.find(*found[2])
            assert ino is not None
            self.act("setattr", lambda: self.store.tree.set_attributes(ino, mode=mode), lambda _: None)

    @rule(pick=PICK, size=SIZES, what=st.sampled_from(["put", "delete", "purge"]))
    def write_meanwhile(self, pick: int, size: int, what: str) -> None:
        """A file is closed, which makes its content safe, and before its RELEASE comes S3 does something to the key."""
        found = self._shown(pick)
        if found is None:
            return
        bucket, key, where = found
        files, data, old = self.store.files, self.data(size, 6), bucket.chains[key][0].body or b""
        ino = self.store.tree.find(*where)
        assert ino is not None
        handle = files.open(ino, MOUNT)
        files.write(handle, 0, data)
        now = data + old[len(data) :]
        self.act("draft", lambda: files.flush(handle), lambda _: self.reference.store_draft(bucket, key, now))
        match what:
            case "put":
                with self.stored(bucket, data) as content:
                    self._put(bucket, key, content, data, self.info(bucket, pick))
            case "delete":
                self._delete(bucket, key)
            case _:
                self._purge(bucket, key, bucket.chains[key][0])
        drafted = key in bucket.drafts

        def release() -> Seq:
            files.release(handle)
            return self.newest(bucket, key) if drafted else UNKNOWN

        self.act("publish", release, lambda seq: self.reference.publish(bucket, key, seq) if drafted else None)

    @rule(pick=PICK)
    def unlink(self, pick: int) -> None:
        """rm: as a delete."""
        found = self._shown(pick)
        if found is None:
            return
        bucket, key, where = found
        bucket.has_litter = True

        def unlink() -> Seq | None:
            self.store.tree.unlink(*where, MOUNT)
            return None if bucket.state_for(key) is State.UNVERSIONED else self.newest(bucket, key)

        self.act("unlink", unlink, lambda seq: self.reference.delete(bucket, key, seq))

    # -- buckets ----------------------------------------------------------------------------------------------

    def _create_bucket(self, name: bytes) -> None:
        lock = None if name in (b"plain", b"shared", b"spare") else ObjectLock()
        state = State.UNVERSIONED if lock is None else State.ENABLED
        self.act(
            "create bucket",
            lambda: self.store.create_bucket(name, uid=0, gid=0, state=state, lock=lock, owner="somebody"),
            lambda ino: self.reference.create_bucket(name, ino, state, lock),
        )

    def set_state(self, name: bytes, state: State) -> None:
        bucket = self.reference.buckets[name]
        self.act(
            "set versioning",
            lambda: self.store.set_versioning(bucket.ino, state, is_root=True),
            lambda _: self.reference.set_state(bucket, state),
        )

    @rule(name=st.sampled_from([b"plain", b"shared", b"locked"]), state=st.sampled_from(State))
    def set_versioning(self, name: bytes, state: State) -> None:
        self.set_state(name, state)

    @rule()
    def delete_bucket(self) -> None:
        """With whatever uploads and empty directories it has; and made again if there is none."""
        bucket = self.reference.buckets.get(b"spare")
        if bucket is None:
            self._create_bucket(b"spare")
        else:
            self.act(
                "delete bucket",
                lambda: self.store.objects.delete_bucket(b"spare"),
                lambda _: self.reference.delete_bucket(bucket),
            )

    @rule()
    def empty_bucket(self) -> None:
        bucket = self.reference.buckets.get(b"spare")
        if bucket is not None:
            for key, version in bucket.versions:
                self._purge(bucket, key, version)

    # -- the end ----------------------------------------------------------------------------------------------

    def _rebuild_from_what_is_open(self) -> None:
        super()._rebuild_from_what_is_open()
        self._remove_everything()

    def _remove_everything(self) -> None:
        self.clock.now += EVER_NS
        empty(self.store)


def _seq(added: Added | None) -> Seq:
    return UNKNOWN if added is None else added.seq


def _id(version: Version) -> str:
    return format_version_id(version.seq, null=version.null)


def empty(store: Store) -> None:
    """Remove whatever there is, when no retention holds any more, and collect: then nothing is left of it anywhere."""
    objects = store.objects
    for ino, bucket in store.buckets():
        for named in store.uploads.every(ino):
            store.uploads.abort(ino, named.upload.key, named.id)
        for item in objects.list_versions(ino).objects:
            if item.info.legal_hold:  # asked for again: a purge may have moved it to where others of its key are
                objects.set_legal_hold(objects.version(ino, item.key, item.version_id), False)
            objects.purge(ino, item.key, item.version_id, S3)
        objects.delete_bucket(bucket.name)
    gc.run(store)
    catalog = store.core.catalog
    left = {name: list(catalog.rows(name)) for name in catalog._db if name not in ("meta", "segments")}
    assert [ino for ino, _ in catalog.entries(STORE_ROOT)] == []
    assert len(left.pop("inodes")) == 1, "the root of the store"
    assert {name: rows for name, rows in left.items() if rows} == {}
    segments = set(store.core.blocks.segments()) - {store.core.blocks.end.segment}
    sizes = {segment: store.core.blocks.open_segment(segment).allocated() for segment in segments}
    assert not any(sizes.values()), f"blocks are left: {sizes}"
