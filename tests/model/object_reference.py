"""The reference model of objects: buckets, chains of versions, locks and uploads with dicts and lists.

It knows no directories and no blocks. What the engine chooses (ids, moments) it is told with the result, and sees
that it makes sense. Errors are those of vfs.errors, raised before anything is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from msgspec.structs import replace as replace_info

from tests.model.comparison import IDS_APART_MAX, read
from vfs import errors
from vfs.model import NO_INFO, Ino, LifecycleRule, LockMode, ObjectInfo, ObjectLock, ObjectPart, Retention, Seq, State
from vfs.objects import Object
from vfs.store import Store

DAY_US = 86_400_000_000
JUNK_SUFFIX = b"~"  # of the default patterns, the one that the tests use
UNKNOWN = Seq(0)  # the id of a version that a recovery made, until it is seen


@dataclass(frozen=True)
class Version:
    """A version of a key. body: None is a delete marker."""

    seq: Seq
    body: bytes | None
    null: bool
    info: ObjectInfo = NO_INFO

    @property
    def is_marker(self) -> bool:
        return self.body is None


@dataclass(frozen=True)
class Part:
    """modified: µs; part of what it is, for a completion under way."""

    body: bytes
    etag: str
    modified: int


@dataclass
class Upload:
    """A multipart upload under way."""

    key: bytes
    info: ObjectInfo
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A version as the store showed it. what: all but its place."""

    key: bytes
    id: str
    is_current: bool
    is_marker: bool
    body: bytes
    info: ObjectInfo

    @property
    def what(self) -> tuple[bool, bytes, ObjectInfo]:
        return self.is_marker, self.body, self.info


@dataclass
class Bucket:
    """chains: newest first, none empty. drafts: what is safe of files that are being written through the mount.
    has_litter: a mount may have left empty directories. seen: what the store showed of a bucket that the model does
    not follow by itself. never: nothing is purged, by its policy.
    """

    name: bytes
    ino: Ino
    state: State
    lock: ObjectLock | None = None
    rules: tuple[LifecycleRule, ...] = ()
    chains: dict[bytes, list[Version]] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    drafts: dict[bytes, bytes] = field(default_factory=dict)
    has_litter: bool = False
    seen: dict[Seq, Seen] | None = None
    never: bool = False

    def current(self, key: bytes) -> Version | None:
        """The current object."""
        chain = self.chains.get(key)
        return chain[0] if chain and not chain[0].is_marker else None

    def find(self, key: bytes, seq: Seq) -> Version:
        for version in self.chains.get(key, ()):
            if version.seq == seq:
                return version
        raise errors.NoSuchVersion

    def state_for(self, key: bytes) -> State:
        if key.endswith(JUNK_SUFFIX) and self.lock is None:
            return State.UNVERSIONED
        return self.state

    @property
    def versions(self) -> list[tuple[bytes, Version]]:
        return [(key, version) for key in sorted(self.chains) for version in self.chains[key]]


class ObjectReference:
    """All buckets. `now` (ns) is told before each operation; `after_event` is called after each atomic change."""

    def __init__(self) -> None:
        self.buckets: dict[bytes, Bucket] = {}
        self.now = 0
        self.last_us = 0
        self.events = 0
        self.after_event: Callable[[], None] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "after_event": None}

    @property
    def now_us(self) -> int:
        return self.now // 1000

    # -- objects ----------------------------------------------------------------------------------------------

    def put(
        self, bucket: Bucket, key: bytes, body: bytes, info: ObjectInfo, seq: Seq, *, wanted: str | None = None
    ) -> None:
        """wanted: the ETag that the current object must have; "" is: there must be none."""
        self._check_current(bucket, key, wanted)
        self._check_lockable(bucket, info)
        self._add(bucket, key, body, info, seq)

    def _check_current(self, bucket: Bucket, key: bytes, wanted: str | None) -> None:
        current = bucket.current(key)
        if wanted is None:
            return
        if wanted and current is None:
            raise errors.NoSuchKey
        if current is not None and current.info.etag != (wanted or None):
            raise errors.ConditionFailed

    def _check_lockable(self, bucket: Bucket, info: ObjectInfo) -> None:
        if bucket.lock is None and (info.retention is not None or info.legal_hold):
            raise errors.NoLock

    def _new_seq(self, seq: Seq) -> None:
        """A version that is made now has this id."""
        assert seq == UNKNOWN or abs(seq - max(self.now_us, self.last_us)) <= IDS_APART_MAX
        self.last_us = max(self.last_us, seq)

    def _add(self, bucket: Bucket, key: bytes, body: bytes | None, info: ObjectInfo, seq: Seq) -> None:
        """What is new is current: with an own id if versioning is enabled, else instead of the null version."""
        self._new_seq(seq)
        chain = bucket.chains.setdefault(key, [])
        null = bucket.state_for(key) is not State.ENABLED
        if null:
            self._drop(bucket, key, [version for version in chain if version.null])
        version = self._with_default(bucket, Version(seq, body, null, info))
        bucket.chains.setdefault(key, []).insert(0, version)

    def _with_default(self, bucket: Bucket, version: Version) -> Version:
        """With the retention that the bucket has for new versions."""
        lock = bucket.lock
        if version.seq == UNKNOWN or version.is_marker or lock is None or lock.mode is None or version.info.retention:
            return version
        retention = Retention(lock.mode, Seq(version.seq + lock.days * DAY_US))
        return replace(version, info=replace_info(version.info, retention=retention))

    def _drop(self, bucket: Bucket, key: bytes, gone: list[Version]) -> None:
        """Versions are lost for good. Whatever was done: none of them was locked."""
        for version in gone:
            assert not self.is_locked(version, bypass=True) or not self._is_kept_anyway(version), "a locked version"
        chain = bucket.chains[key]
        chain[:] = [version for version in chain if version not in gone]
        if not chain:
            del bucket.chains[key]

    def _is_kept_anyway(self, version: Version) -> bool:
        retention = version.info.retention
        return version.info.legal_hold or (retention is not None and retention.mode is LockMode.COMPLIANCE)

    def delete(self, bucket: Bucket, key: bytes, seq: Seq | None, *, wanted: str | None = None) -> None:
        """seq: of the delete marker, if one comes."""
        self._check_current(bucket, key, wanted)
        if bucket.state_for(key) is not State.UNVERSIONED:
            assert seq is not None, "a delete marker comes"
            self._add(bucket, key, None, NO_INFO, seq)
            return
        assert seq is None
        if bucket.current(key) is not None:
            self._drop(bucket, key, [version for version in bucket.chains[key] if version.null])

    def is_locked(self, version: Version, *, bypass: bool = False) -> bool:
        """Whether it must not go for good now."""
        return self.holds_lock(version.info, bypass=bypass)

    def holds_lock(self, info: ObjectInfo, *, bypass: bool = False) -> bool:
        """The same by what is known of it."""
        return info.legal_hold or self._holds(info.retention, bypass=bypass)

    def _holds(self, retention: Retention | None, *, bypass: bool) -> bool:
        if retention is None or retention.until <= self.now_us:
            return False
        return retention.mode is LockMode.COMPLIANCE or not bypass

    def purge(self, bucket: Bucket, key: bytes, seq: Seq, *, bypass: bool = False) -> None:
        version = bucket.find(key, seq)
        if bucket.never or self.is_locked(version, bypass=bypass):
            raise errors.Locked("", None)
        self._drop(bucket, key, [version])

    def set_rules(self, bucket: Bucket, rules: tuple[LifecycleRule, ...]) -> None:
        """By a client of S3."""
        if bucket.never and any(rule.noncurrent_days for rule in rules if rule not in bucket.rules):
            raise errors.NotPermitted
        bucket.rules = rules

    def set_retention(self, bucket: Bucket, key: bytes, seq: Seq, retention: Retention | None, *, bypass: bool) -> None:
        if bucket.lock is None:
            raise errors.NoLock
        old = bucket.find(key, seq).info.retention
        stronger = old is None or (
            retention is not None and (retention.mode, True) == (old.mode, retention.until >= old.until)
        )
        if not stronger and self._holds(old, bypass=bypass):
            raise errors.Locked("", None)
        self._set_info(bucket, key, seq, retention=retention)

    def set_legal_hold(self, bucket: Bucket, key: bytes, seq: Seq, hold: bool) -> None:
        if bucket.lock is None:
            raise errors.NoLock
        self._set_info(bucket, key, seq, legal_hold=hold)

    def set_tags(self, bucket: Bucket, key: bytes, seq: Seq, tags: dict[str, str]) -> None:
        self._set_info(bucket, key, seq, tags=tags)

    def _set_info(self, bucket: Bucket, key: bytes, seq: Seq, **changes: object) -> None:
        version = bucket.find(key, seq)
        chain = bucket.chains[key]
        chain[chain.index(version)] = replace(version, info=replace_info(version.info, **changes))

    # -- uploads ----------------------------------------------------------------------------------------------

    def upload(self, bucket: Bucket, upload: str) -> Upload:
        if upload not in bucket.uploads:
            raise errors.NoSuchUpload
        return bucket.uploads[upload]

    def create_upload(self, bucket: Bucket, key: bytes, info: ObjectInfo, upload: str) -> None:
        self._check_lockable(bucket, info)
        bucket.uploads[upload] = Upload(key, info)

    def put_part(self, bucket: Bucket, upload: str, number: int, body: bytes, etag: str) -> None:
        self.upload(bucket, upload).parts[number] = Part(body, etag, self.now_us)

    def complete(
        self,
        bucket: Bucket,
        upload: str,
        wanted: list[tuple[int, str]],
        begun: list[Part | None],
        etag: str,
        seq: Seq,
    ) -> None:
        """begun: the parts of that name when the completion began."""
        found = self.upload(bucket, upload)
        parts = [found.parts.get(number) for number, _ in wanted]
        if not wanted or parts != begun:
            raise errors.InvalidPart
        body, told = b"", []
        for (number, tag), part in zip(wanted, parts, strict=True):
            if part is None or part.etag != tag:
                raise errors.InvalidPart
            body += part.body
            told.append(ObjectPart(number, len(part.body)))
        self._add(bucket, found.key, body, replace_info(found.info, etag=etag, parts=tuple(told), upload=upload), seq)
        del bucket.uploads[upload]

    def abort(self, bucket: Bucket, upload: str) -> None:
        self.upload(bucket, upload)
        del bucket.uploads[upload]

    # -- the mount --------------------------------------------------------------------------------------------

    def store_draft(self, bucket: Bucket, key: bytes, body: bytes) -> None:
        bucket.drafts[key] = body

    def publish(self, bucket: Bucket, key: bytes, seq: Seq) -> None:
        self._add(bucket, key, bucket.drafts.pop(key), NO_INFO, seq)

    # -- buckets ----------------------------------------------------------------------------------------------

    def create_bucket(self, name: bytes, ino: Ino, state: State, lock: ObjectLock | None) -> Bucket:
        if name in self.buckets:
            raise errors.BucketExists
        self.buckets[name] = Bucket(name, ino, state, lock)
        return self.buckets[name]

    def delete_bucket(self, bucket: Bucket) -> None:
        if bucket.chains:
            raise errors.BucketNotEmpty
        del self.buckets[bucket.name]

    def set_state(self, bucket: Bucket, state: State) -> None:
        first = bucket.state is State.UNVERSIONED
        if state is not bucket.state and (state is State.UNVERSIONED or (first and state is State.SUSPENDED)):
            raise errors.InvalidState
        if bucket.lock is not None and state is not State.ENABLED:
            raise errors.InvalidState
        bucket.state = state

    # -- events, and the end of the process -------------------------------------------------------------------

    def on_event(self) -> None:
        """One atomic change is done."""
        self.events += 1
        self.last_us = max(self.last_us, self.now_us)
        if self.after_event is not None:
            self.after_event()

    def close(self) -> None:
        """A clean end."""
        self.recover()

    def recover(self) -> None:
        """A new process."""
        self.publish_drafts()

    def publish_drafts(self) -> None:
        """All of them, with ids that are still to be seen."""
        for bucket in self.buckets.values():
            for key in sorted(bucket.drafts):
                self.publish(bucket, key, UNKNOWN)


def compare_objects(store: Store, reference: ObjectReference) -> None:
    """Everything that an S3 door can see. Ids that the model does not know yet, it learns."""
    assert [bucket.name for _, bucket in store.buckets()] == sorted(reference.buckets)
    for bucket in reference.buckets.values():
        found = store.bucket(bucket.ino)
        assert (found.state, found.lock, found.lifecycle) == (bucket.state, bucket.lock, bucket.rules)
        if bucket.seen is not None:
            assert seen(store, bucket) == bucket.seen
            continue
        _compare_versions(store, reference, bucket)
        _compare_uploads(store, bucket)
        if not bucket.has_litter:
            _compare_directories(store, bucket)


def seen(store: Store, bucket: Bucket) -> dict[Seq, Seen]:
    """Every version of a bucket, as S3 doors see them."""
    return {
        item.seq: Seen(item.key, item.version_id, item.is_current, item.is_marker, _body(store, item), item.info)
        for item in store.objects.list_versions(bucket.ino).objects
    }


def _compare_versions(store: Store, reference: ObjectReference, bucket: Bucket) -> None:
    found = store.objects.list_versions(bucket.ino).objects
    told = [(item.key, item.seq, item.version.null, item.is_marker) for item in found]
    expected = bucket.versions
    for item, (key, version) in zip(found, expected, strict=False):
        if version.seq == UNKNOWN and key == item.key:
            chain = bucket.chains[key]
            learned = reference._with_default(bucket, replace(version, seq=item.seq))
            chain[chain.index(version)] = learned
    expected = bucket.versions
    assert told == [(key, version.seq, version.null, version.is_marker) for key, version in expected]
    for item, (key, version) in zip(found, expected, strict=True):
        assert item.info == version.info
        upload = version.info.upload
        if upload:  # whoever completes it again, because no answer came, is told of this one
            assert upload not in bucket.uploads
            completed = store.uploads.completed(bucket.ino, key, upload)
            assert completed is not None
            assert completed.seq == item.seq
        assert item.is_current == (bucket.chains[key][0] is version)
        if version.body is not None:
            assert _body(store, item) == version.body
    live = [item.key for item in store.objects.list(bucket.ino).objects]
    assert live == [key for key in sorted(bucket.chains) if bucket.current(key) is not None]
    size = sum(len(version.body or b"") for _, version in expected)
    kept = store.bucket(bucket.ino)
    assert (kept.versions, kept.size) == (len(expected), size)


def _body(store: Store, item: Object) -> bytes:
    copy = store.objects.read(item)
    try:
        return copy.read(0, item.size + 1)
    finally:
        store.objects.end_content(copy)


def _compare_uploads(store: Store, bucket: Bucket) -> None:
    """Every upload is there with its parts, which can be read."""
    found = {named.id: named.upload for named in store.uploads.every(bucket.ino)}
    assert {upload: (one.key, one.info) for upload, one in found.items()} == {
        upload: (one.key, one.info) for upload, one in bucket.uploads.items()
    }
    for upload, one in bucket.uploads.items():
        parts = store.uploads.parts(bucket.ino, one.key, upload).parts
        told = {number: Part(read(store, part.content), part.etag, part.modified) for number, part in parts}
        assert told == one.parts


def _compare_directories(store: Store, bucket: Bucket) -> None:
    """Directories that keys have made stand exactly where something below lives."""
    wanted = {
        key[: at + 1] for key in bucket.chains if bucket.current(key) for at, byte in enumerate(key) if byte == 47
    }
    found: set[bytes] = set()
    waiting = [(bucket.ino, b"")]
    while waiting:
        ino, path = waiting.pop()
        for name, entry in store.core.catalog.entries(ino):
            if name.endswith(b"/"):
                found.add(path + name)
                waiting.append((entry, path + name))
    assert found == wanted
