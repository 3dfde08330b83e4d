"""The purge policy of a bucket: the table, and that no way into the engine passes it over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.desk import ALL_RIGHTS, Desk, document
from tests.unit.test_objects import MOUNT, S3, put, read
from vfs import expiring, locks, purging
from vfs.errors import Locked, NotPermitted, ReadOnly, VfsError
from vfs.model import Bucket, Ino, LifecycleRule, PurgePolicy, Seq, State, Writer
from vfs.purging import Way
from vfs.store import Store

USER = Writer(1000, 1, "user")
RM, COMMAND, REQUEST, CODE = Way
BELOW = {PurgePolicy.RM: None, PurgePolicy.COMMAND: ReadOnly, PurgePolicy.ROOT: ReadOnly, PurgePolicy.NEVER: ReadOnly}


@pytest.mark.parametrize(
    ("way", "is_root", "expected"),
    [
        (RM, False, BELOW),
        (RM, True, BELOW),
        (COMMAND, False, {**dict.fromkeys(PurgePolicy), PurgePolicy.ROOT: NotPermitted, PurgePolicy.NEVER: Locked}),
        (COMMAND, True, {**dict.fromkeys(PurgePolicy), PurgePolicy.NEVER: Locked}),
        (REQUEST, False, {**dict.fromkeys(PurgePolicy), PurgePolicy.NEVER: Locked}),
        (CODE, False, {**dict.fromkeys(PurgePolicy), PurgePolicy.NEVER: Locked}),
    ],
)
@pytest.mark.parametrize("mfa", [False, True])
def test_who_purges(way: Way, is_root: bool, expected: dict[PurgePolicy, type[VfsError] | None], mfa: bool) -> None:
    for policy, error in expected.items():
        bucket = Bucket(b"docs", State.ENABLED, Seq(1), purge=policy, mfa_delete=mfa)
        if mfa and way is not CODE and error is not ReadOnly:
            error = Locked
        if error is None:
            purging.check(bucket, way, is_root=is_root)
        else:
            with pytest.raises(error):
                purging.check(bucket, way, is_root=is_root)


def test_only_root_loosens() -> None:
    order = [PurgePolicy.RM, PurgePolicy.COMMAND, PurgePolicy.ROOT, PurgePolicy.NEVER]
    assert sorted(PurgePolicy) == order
    for old in order:
        for new in order:
            purging.check_policy(old, new, is_root=True)
            if order.index(new) >= order.index(old):
                purging.check_policy(old, new, is_root=False)
            else:
                with pytest.raises(NotPermitted):
                    purging.check_policy(old, new, is_root=False)


def test_old_buckets_have_the_default(store: Store, bucket: Ino) -> None:
    assert store.bucket(bucket).purge is PurgePolicy.COMMAND


@pytest.mark.parametrize("policy", PurgePolicy)
def test_the_setting_for_new_buckets(tmp_path: Path, policy: PurgePolicy) -> None:
    place = tmp_path / "store"
    place.mkdir()
    (place / "config.toml").write_text(f'new_buckets_purge = "{policy.name.lower()}"\n')
    with contextlib.closing(Store.open(place)) as store:
        for name, state in ((b"by-mkdir", None), (b"by-s3", State.UNVERSIONED)):
            assert store.bucket(store.create_bucket(name, uid=9, gid=9, state=state)).purge is policy


# -- never ------------------------------------------------------------------------------------------------------------


def chain(store: Store, bucket: Ino) -> list[tuple[bytes, str]]:
    return [(item.key, item.version_id) for item in store.objects.list_versions(bucket).objects]


def test_never_binds_every_way(store: Store, bucket: Ino) -> None:
    ids = [put(store, bucket, b"d/k").version_id or "" for _ in range(2)]
    gone = put(store, bucket, b"e/k").version_id or ""
    store.objects.delete(bucket, b"e/k", S3)
    store.set_purge_policy(bucket, PurgePolicy.NEVER)
    before = chain(store, bucket)
    events = store.core.journal.end.number
    for key, version_id in [(b"d/k", version_id) for version_id in ids] + [(b"e/k", gone), before[-2]]:
        item = store.objects.version(bucket, key, version_id)
        attempts: list[Callable[[], object]] = [
            lambda key=key, version_id=version_id: store.objects.purge(bucket, key, version_id, S3, bypass=True),  # type: ignore[misc]
            *(
                lambda way=way, item=item: store.history.purge(item.key_id, item.seq, MOUNT, way=way, bypass=True)  # type: ignore[misc]
                for way in (COMMAND, REQUEST, CODE)
            ),
        ]
        for attempt in attempts:
            with pytest.raises(Locked):
                attempt()
    assert chain(store, bucket) == before
    assert store.core.journal.end.number == events, "nothing was changed on the way, either"
    put(store, bucket, b"d/k")
    store.objects.delete(bucket, b"d/k", S3)
    assert len(chain(store, bucket)) == len(before) + 2, "what adds goes on"


def test_what_is_refused_publishes_nothing(store: Store, bucket: Ino) -> None:
    put(store, bucket, b"k")
    item = store.objects.current(bucket, b"k")
    ino, _ = store.tree.lookup(bucket, b"k")
    handle = store.files.open(ino, USER)
    store.files.write(handle, 0, b"more")
    store.files.flush(handle)
    store.set_purge_policy(bucket, PurgePolicy.NEVER)
    events = store.core.journal.end.number
    for way in Way:
        with pytest.raises(VfsError):
            store.history.purge(item.key_id, item.seq, USER, way=way)
    for version_id in (item.version_id, "null"):
        with pytest.raises(Locked):
            store.objects.purge(bucket, b"k", version_id, S3)
    assert store.core.journal.end.number == events
    store.files.release(handle)


def test_never_of_a_directory_that_stood_there_before(store: Store, bucket: Ino) -> None:
    """The one purge that does not go through the key that lives."""
    old = put(store, bucket, b"d/k").version_id or ""
    store.objects.delete(bucket, b"d/k", S3)
    other = store.tree.mkdir(bucket, b"n", 0o755, 0, USER)[0]
    store.tree.create(other, b"k", 0o644, 0, USER)
    store.files.recover()
    store.tree.rename(bucket, b"n", bucket, b"d", USER)
    put(store, bucket, b"d/k")
    before = chain(store, bucket)
    assert (b"d/k", old) in before
    store.set_purge_policy(bucket, PurgePolicy.NEVER)
    with pytest.raises(Locked):
        store.objects.purge(bucket, b"d/k", old, S3, bypass=True)
    assert chain(store, bucket) == before
    store.set_purge_policy(bucket, PurgePolicy.ROOT)
    store.objects.purge(bucket, b"d/k", old, S3)
    assert (b"d/k", old) not in chain(store, bucket)


def test_a_purge_from_a_directory_that_stood_there_before_takes_no_other_version(store: Store, bucket: Ino) -> None:
    ids = [put(store, bucket, b"d/k", data).version_id or "" for data in (b"one", b"two")]
    store.objects.delete(bucket, b"d/k", S3)
    other = store.tree.mkdir(bucket, b"n", 0o755, 0, USER)[0]
    store.tree.create(other, b"k", 0o644, 0, USER)
    store.tree.rename(bucket, b"n", bucket, b"d", USER)
    put(store, bucket, b"d/k", b"three")
    before = chain(store, bucket)
    store.objects.purge(bucket, b"d/k", ids[0], S3)
    assert chain(store, bucket) == [one for one in before if one[1] != ids[0]]
    assert read(store, store.objects.version(bucket, b"d/k", ids[1])) == b"two"


def test_never_passes_lifecycles_over(store: Store, bucket: Ino) -> None:
    put(store, bucket, b"k")
    put(store, bucket, b"k")
    rule = LifecycleRule("keep none", True, noncurrent_days=1, expire_days=None)
    store.objects.configure(bucket, lifecycle=(rule,))

    def due() -> list[expiring.Due]:
        return [one for step in expiring.plan(store, day_s=0.0) for one in step]

    planned = due()
    assert [one.what for one in planned] == ["purge"]
    store.set_purge_policy(bucket, PurgePolicy.NEVER)
    assert due() == [], "also in what a preview shows"
    expiring.carry_out(store, planned)  # planned before
    assert len(chain(store, bucket)) == 2
    store.set_purge_policy(bucket, PurgePolicy.ROOT)
    expiring.carry_out(store, due())
    assert len(chain(store, bucket)) == 1


@pytest.mark.parametrize("state", [State.UNVERSIONED, State.SUSPENDED])
def test_never_keeps_no_null_version_from_being_replaced(store: Store, state: State) -> None:
    bucket = store.create_bucket(b"plain", uid=0, gid=0, state=State.UNVERSIONED)
    if state is State.SUSPENDED:
        store.set_versioning(bucket, State.ENABLED)
        put(store, bucket, b"k")
        store.set_versioning(bucket, State.SUSPENDED)
    store.set_purge_policy(bucket, PurgePolicy.NEVER)
    for _ in range(3):
        put(store, bucket, b"k")
    assert [version_id for _, version_id in chain(store, bucket)].count("null") == 1
    with pytest.raises(Locked):
        store.objects.purge(bucket, b"k", "null", S3)
    store.objects.delete(bucket, b"k", S3)
    kept = [version_id for _, version_id in chain(store, bucket)]
    assert len(kept) == (0 if state is State.UNVERSIONED else 2), "a delete does as the state says"


def test_a_lock_is_beside_every_policy(store: Store, bucket: Ino, monkeypatch: pytest.MonkeyPatch) -> None:
    item = store.objects.version(bucket, b"k", put(store, bucket, b"k").version_id or "")

    def locked(*_: object, **__: object) -> None:
        raise Locked("held", None)

    monkeypatch.setattr(locks, "check_purge", locked)
    for policy in PurgePolicy:
        store.set_purge_policy(bucket, policy)
        with pytest.raises(VfsError):
            store.objects.purge(bucket, b"k", item.version_id, S3)
        with pytest.raises(VfsError):
            store.history.purge(item.key_id, item.seq, MOUNT)
    assert len(chain(store, bucket)) == 1


def test_mfa_delete_closes_every_way_but_one(store: Store, bucket: Ino) -> None:
    item = store.objects.version(bucket, b"k", put(store, bucket, b"k").version_id or "")
    store.objects.configure(bucket, mfa_device="device", mfa_delete=True)
    for policy in (PurgePolicy.RM, PurgePolicy.COMMAND, PurgePolicy.ROOT):
        store.set_purge_policy(bucket, policy)
        with pytest.raises(Locked, match="MFA"):
            store.history.purge(item.key_id, item.seq, MOUNT)
        with pytest.raises(Locked, match="MFA"):
            store.objects.purge(bucket, b"k", item.version_id, S3)
    store.objects.purge(bucket, b"k", item.version_id, S3, code=True)
    assert chain(store, bucket) == []


# -- what has versions lost later -------------------------------------------------------------------------------------

KEEPS = (LifecycleRule("l", True, expire_days=1, abort_days=1), LifecycleRule("m", True, expire_marker=True))
PURGES = (LifecycleRule("r", True, noncurrent_newer=1), LifecycleRule("r", True, noncurrent_days=1))


@pytest.mark.parametrize("policy", PurgePolicy)
@pytest.mark.parametrize("is_root", [False, True])
@pytest.mark.parametrize("way", [COMMAND, REQUEST])
def test_who_has_versions_lost_later(store: Store, bucket: Ino, policy: PurgePolicy, way: Way, is_root: bool) -> None:
    store.set_purge_policy(bucket, policy)
    who = {"way": way, "is_root": is_root}
    allowed = is_root or policy in (PurgePolicy.RM, PurgePolicy.COMMAND) or (policy, way) == (PurgePolicy.ROOT, REQUEST)
    events = store.core.journal.end.number
    attempts: list[Callable[[], object]] = [
        *(lambda rule=rule: store.objects.configure(bucket, **who, lifecycle=(rule,)) for rule in PURGES),  # type: ignore[misc]
        lambda: store.objects.configure(bucket, **who, state=State.SUSPENDED),  # type: ignore[arg-type]
    ]
    if way is COMMAND:
        store.set_versioning(bucket, State.ENABLED)
        attempts.append(lambda: store.set_versioning(bucket, State.SUSPENDED, is_root=is_root))
    for attempt in attempts:
        if allowed:
            attempt()
        else:
            with pytest.raises(NotPermitted, match=f"policy is {policy.name.lower()}: only root"):
                attempt()
    assert (store.core.journal.end.number > events) == allowed


def test_what_loses_nothing_is_the_owners_to_set(store: Store, bucket: Ino) -> None:
    store.objects.configure(bucket, lifecycle=PURGES[:1], way=COMMAND, is_root=True)
    store.set_purge_policy(bucket, PurgePolicy.NEVER)
    disabled = LifecycleRule("r", False, noncurrent_days=1)
    for rules in ((*PURGES[:1], *KEEPS), (disabled, *KEEPS), KEEPS):  # with root's own rule, and less and less of it
        store.objects.configure(bucket, lifecycle=rules, way=COMMAND)
        assert store.bucket(bucket).lifecycle == rules
    with pytest.raises(NotPermitted, match="its rule r"):
        store.objects.configure(bucket, lifecycle=(*KEEPS, PURGES[0]), way=COMMAND)


# -- the S3 door ------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


@pytest.mark.parametrize("policy", PurgePolicy)
async def test_what_a_client_is_told(desk: Desk, policy: PurgePolicy) -> None:
    root = desk.key(*ALL_RIGHTS)
    await desk.ask(root, "PUT", "/bucket")
    await desk.ask(root, "PUT", "/bucket?versioning", document("VersioningConfiguration", "<Status>Enabled</Status>"))
    ids = [(await desk.ask(root, "PUT", "/bucket/k", b"x")).headers["x-amz-version-id"] for _ in range(2)]
    desk.store.set_purge_policy(desk.store.find_bucket(b"bucket"), policy)
    done = await desk.ask(root, "DELETE", f"/bucket/k?versionId={ids[0]}")
    never = policy is PurgePolicy.NEVER
    assert (done.status, done.code) == ((403, "AccessDenied") if never else (204, ""))
    wanted = document("Delete", f"<Object><Key>k</Key><VersionId>{ids[1]}</VersionId></Object>")
    done = await desk.ask(root, "POST", "/bucket?delete", wanted)
    assert done.status == 200
    assert (b"<Code>AccessDenied</Code>" in done.body) == never
    assert len(chain(desk.store, desk.store.find_bucket(b"bucket"))) == (2 if never else 0)
    assert (await desk.ask(root, "DELETE", "/bucket/k")).status == 204, "a delete marker is no purge"
