"""MFA delete: no version goes for good, and no versioning state changes, without the code of the bucket's device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.desk import ALL_RIGHTS, Desk, document, presign, sign, sign2
from vfs.errors import InvalidState, Locked
from vfs.folder import Folder
from vfs.model import Filter, Ino, LifecycleRule, State
from vfs.s3 import keys
from vfs.s3.keys import CODE_TAKEN_S, TOTP_STEP_S, AccessKey, Device, Right, totp

RULE = document(
    "LifecycleConfiguration",
    "<Rule><Status>Enabled</Status><Filter/><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>"
    "</NoncurrentVersionExpiration></Rule>",
)


def versioning(word: str, mfa: str) -> bytes:
    return document("VersioningConfiguration", f"<Status>{word}</Status><MfaDelete>{mfa}</MfaDelete>")


class Guarded:
    """A bucket with MFA delete and two versions of ``k``."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.key = desk.key(*ALL_RIGHTS)
        self.device = keys.create_device(desk.store.root, owner="ada")
        self.versions: list[str] = []

    async def make(self) -> Guarded:
        assert (await self.desk.ask(self.key, "PUT", "/bucket")).status == 200
        assert await self.set_versioning("Enabled", "Enabled", self.code())
        for body in (b"one", b"two"):
            done = await self.desk.ask(self.key, "PUT", "/bucket/k", body)
            self.versions.append(done.headers["x-amz-version-id"])
        return self

    @property
    def ino(self) -> Ino:
        return self.desk.store.find_bucket(b"bucket")

    @property
    def first(self) -> str:
        """What is asked of the first version."""
        return f"/bucket/k?versionId={self.versions[0]}"

    def code(self, device: Device | None = None, *, steps: int = 0) -> dict[str, str]:
        """The header, as the device has it now, or so many steps later."""
        device = device or self.device
        step = int(time.time() + self.desk.offset_s) // TOTP_STEP_S + steps
        return {"x-amz-mfa": f"{device.serial} {totp(device.secret, step)}"}

    async def set_versioning(self, status: str, mfa: str, headers: dict[str, str]) -> bool:
        done = await self.desk.ask(self.key, "PUT", "/bucket?versioning", versioning(status, mfa), headers)
        assert done.status == 200 or done.code == "AccessDenied", done
        return done.status == 200

    async def purges(self, headers: dict[str, str]) -> bool:
        done = await self.desk.ask(self.key, "DELETE", self.first, headers=headers)
        assert done.status == 204 or done.code == "AccessDenied", done
        return done.status == 204

    async def is_there(self) -> bool:
        return (await self.desk.ask(self.key, "GET", self.first)).status == 200


@pytest.fixture
async def guarded(tmp_path: Path) -> Iterator[Guarded]:
    desk = Desk(tmp_path)
    yield await Guarded(desk).make()
    desk.store.close()


async def wrong_codes(guarded: Guarded) -> dict[str, dict[str, str]]:
    """Headers that are not the code of the bucket's device."""
    serial, _, code = guarded.code()["x-amz-mfa"].rpartition(" ")
    mine = keys.create_device(guarded.desk.store.root, owner="ada")
    others = keys.create_device(guarded.desk.store.root, owner="bob")
    return {
        "none": {},
        "empty": {"x-amz-mfa": ""},
        "no code": {"x-amz-mfa": serial},
        "an empty code": {"x-amz-mfa": f"{serial} "},
        "a prefix": {"x-amz-mfa": f"{serial} {code[:5]}"},
        "a digit too many": {"x-amz-mfa": f"{serial} {code}0"},
        "another code": {"x-amz-mfa": f"{serial} {int(code) ^ 1:06}"},
        "a code alone": {"x-amz-mfa": code},
        "no serial": {"x-amz-mfa": f" {code}"},
        "another serial": {"x-amz-mfa": f"{serial}0 {code}"},
        "the code of another serial": {"x-amz-mfa": f"{mine.serial} {code}"},
        "another device of the owner": guarded.code(mine),
        "another device's code": {"x-amz-mfa": f"{serial} {guarded.code(mine)['x-amz-mfa'].split()[1]}"},
        "another owner's device": guarded.code(others),
        "too old": guarded.code(steps=-2),
        "too early": guarded.code(steps=2),
    }


async def test_codes_that_open_nothing(guarded: Guarded) -> None:
    named = f"<Object><Key>k</Key><VersionId>{guarded.versions[0]}</VersionId></Object>"
    for what, headers in (await wrong_codes(guarded)).items():
        assert not await guarded.purges(headers), what
        done = await guarded.desk.ask(guarded.key, "POST", "/bucket?delete", document("Delete", named), headers)
        assert b"<Code>AccessDenied</Code>" in done.body, what
        for status, mfa in (("Suspended", "Enabled"), ("Enabled", "Disabled"), ("Enabled", "Enabled")):
            assert not await guarded.set_versioning(status, mfa, headers), what
    assert await guarded.is_there()
    bucket = guarded.desk.store.bucket(guarded.ino)
    assert (bucket.state, bucket.mfa_delete, bucket.mfa_device) == (State.ENABLED, True, guarded.device.serial)


@pytest.mark.parametrize("steps", [-1, 0, 1])
async def test_a_code_of_now_or_a_moment_ago(guarded: Guarded, steps: int) -> None:
    assert await guarded.purges(guarded.code(steps=steps))
    assert not await guarded.is_there()


async def test_deletes_of_many_versions_with_one_code(guarded: Guarded) -> None:
    named = "".join(f"<Object><Key>k</Key><VersionId>{one}</VersionId></Object>" for one in guarded.versions)
    done = await guarded.desk.ask(guarded.key, "POST", "/bucket?delete", document("Delete", named), guarded.code())
    assert done.body.count(b"<Deleted>") == 2
    assert b"<Error>" not in done.body


async def test_a_request_that_is_sent_again_by_somebody_else(guarded: Guarded) -> None:
    """Who has heard one does not change the state back with it, while its code is still taken."""
    off = sign(guarded.key, "PUT", "/bucket?versioning", versioning("Enabled", "Disabled"), guarded.code())
    assert (await guarded.desk.send(off)).status == 200
    assert await guarded.set_versioning("Enabled", "Enabled", guarded.code(steps=1))
    assert (await guarded.desk.send(off)).code == "AccessDenied"
    assert guarded.desk.store.bucket(guarded.ino).mfa_delete
    for asked in (
        presign(guarded.key, "DELETE", guarded.first, guarded.code()),
        sign2(guarded.key, "DELETE", guarded.first, guarded.code()),
    ):
        assert (await guarded.desk.send(asked)).status == 204
        assert (await guarded.desk.send(asked)).code == "AccessDenied"


def test_requests_with_a_code_are_remembered_while_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = keys.Keys(Folder.at(tmp_path))
    assert [known.is_first("a", now) for now in (0.0, 1.0, CODE_TAKEN_S - 1)] == [True, False, False]
    assert known.is_first("a", CODE_TAKEN_S + 1.0)
    monkeypatch.setattr(keys, "REQUESTS_WITH_CODE_MAX", 2)
    assert known.is_first("b", CODE_TAKEN_S + 1.0)
    with pytest.raises(keys.LimitReached):
        known.is_first("c", CODE_TAKEN_S + 1.0)
    assert known.is_first("c", 3.0 * CODE_TAKEN_S)


async def test_what_takes_no_code(guarded: Guarded) -> None:
    """A delete marker hides, and removes nothing; nor does a put, or reading."""
    assert (await guarded.desk.ask(guarded.key, "DELETE", "/bucket/k")).status == 204
    assert (await guarded.desk.ask(guarded.key, "PUT", "/bucket/k", b"three")).status == 200
    assert await guarded.is_there()


async def test_a_code_is_no_right(guarded: Guarded) -> None:
    key = guarded.desk.key(Right.WRITE)
    for method, target, body in (
        ("DELETE", guarded.first, b""),
        ("PUT", "/bucket?versioning", versioning("Suspended", "Enabled")),
    ):
        assert (await guarded.desk.ask(key, method, target, body, guarded.code())).code == "AccessDenied"
    assert await guarded.is_there()


async def test_a_lifecycle_and_mfa_delete_exclude_each_other(guarded: Guarded) -> None:
    """As in S3: nobody gives a code for what expires."""
    desk = guarded.desk
    assert (await desk.ask(guarded.key, "PUT", "/bucket?lifecycle", RULE, guarded.code())).code == "InvalidBucketState"
    assert desk.store.bucket(guarded.ino).lifecycle == ()
    assert await guarded.set_versioning("Enabled", "Disabled", guarded.code())
    assert (await desk.ask(guarded.key, "PUT", "/bucket?lifecycle", RULE)).status == 200
    done = await desk.ask(
        guarded.key, "PUT", "/bucket?versioning", versioning("Enabled", "Enabled"), guarded.code(steps=1)
    )
    assert done.code == "InvalidBucketState"
    assert not desk.store.bucket(guarded.ino).mfa_delete


# -- other doors ------------------------------------------------------------------------------------------------------


async def test_the_engine_asks_whoever_comes(guarded: Guarded) -> None:
    """By the mount, the command line or a task: what has no code changes no state."""
    store = guarded.desk.store
    for attempt in (
        lambda: store.set_versioning(guarded.ino, State.SUSPENDED),
        lambda: store.objects.configure(guarded.ino, state=State.SUSPENDED),
        lambda: store.objects.configure(guarded.ino, mfa_delete=False),
        lambda: store.objects.configure(guarded.ino, mfa_device="another"),
    ):
        with pytest.raises(Locked):
            attempt()
    with pytest.raises(InvalidState):
        store.objects.configure(guarded.ino, lifecycle=(rule(),))
    store.objects.configure(guarded.ino, tags={"a": "b"})
    assert await guarded.is_there()


def rule() -> LifecycleRule:
    return LifecycleRule("all", True, Filter(), "", noncurrent_days=1)


async def test_a_device_is_its_owners(guarded: Guarded) -> None:
    """Nobody guards a bucket with a device that he does not have."""
    desk = guarded.desk
    bob: AccessKey = desk.key(*ALL_RIGHTS, owner="bob", buckets=("bucket",))
    assert await guarded.set_versioning("Enabled", "Disabled", guarded.code())
    body = versioning("Enabled", "Enabled")
    assert (await desk.ask(bob, "PUT", "/bucket?versioning", body, guarded.code())).code == "AccessDenied"
    assert not desk.store.bucket(guarded.ino).mfa_delete
