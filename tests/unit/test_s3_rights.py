"""Who may do what at the S3 door: a key's rights, its buckets, and what nobody learns by asking."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.desk import ALL_RIGHTS, HOST, Answer, Asked, Desk, document, presign2, sign
from vfs.errors import NoSuchBucket, NotAStore
from vfs.folder import Folder
from vfs.model import State
from vfs.objects import Deleted
from vfs.s3 import keys, multipart
from vfs.s3 import objects as s3_objects
from vfs.s3.checksums import Digests
from vfs.s3.dialects import S3
from vfs.s3.door import _DECISIVE, ROUTES
from vfs.s3.errors import S3Error
from vfs.s3.keys import AccessKey, Right
from vfs.s3.request import Request
from vfs.s3.signed import Signed

READ, WRITE, PURGE, HOLD, BYPASS = Right
UNTIL = {"mode": "GOVERNANCE", "date": "2099-01-01T00:00:00Z"}
RETENTION = document("Retention", "<Mode>GOVERNANCE</Mode><RetainUntilDate>2099-01-01T00:00:00Z</RetainUntilDate>")
SHORTER = document("Retention", "<Mode>GOVERNANCE</Mode><RetainUntilDate>2098-01-01T00:00:00Z</RetainUntilDate>")
LOCK_HEADERS = {"x-amz-object-lock-mode": UNTIL["mode"], "x-amz-object-lock-retain-until-date": UNTIL["date"]}
HOLD_HEADERS = {"x-amz-object-lock-legal-hold": "ON"}
BYPASSES = {"x-amz-bypass-governance-retention": "true"}
LOCK = document("ObjectLockConfiguration", "<ObjectLockEnabled>Enabled</ObjectLockEnabled>")
RULE = document(
    "LifecycleConfiguration",
    "<Rule><Status>Enabled</Status><Filter/><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>"
    "</NoncurrentVersionExpiration></Rule>",
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def root(desk: Desk) -> AccessKey:
    """A key of ada's that may do everything."""
    return desk.key(*ALL_RIGHTS)


def versioning(word: str, mfa: str = "") -> bytes:
    more = f"<MfaDelete>{mfa}</MfaDelete>" if mfa else ""
    return document("VersioningConfiguration", f"<Status>{word}</Status>{more}")


async def locked(desk: Desk, root: AccessKey, name: str = "bucket") -> str:
    """Make a bucket with object lock and an object ``k``. Returns the id of its version."""
    made = await desk.ask(root, "PUT", f"/{name}", headers={"x-amz-bucket-object-lock-enabled": "true"})
    assert made.status == 200, made
    return await put(desk, root, f"/{name}/k")


async def put(desk: Desk, key: AccessKey, target: str, body: bytes = b"x", **headers: str) -> str:
    done = await desk.ask(key, "PUT", target, body, {name.replace("_", "-"): headers[name] for name in headers})
    assert done.status == 200, done
    return done.headers.get("x-amz-version-id", "")


async def allowed(desk: Desk, key: AccessKey, method: str, target: str, body: bytes = b"", **more: str) -> bool:
    """Whether the key may; whoever may, must succeed."""
    done = await desk.ask(key, method, target, body, more)
    assert (done.status, done.code) == (403, "AccessDenied") or done.status < 300, done
    return done.status < 300


# -- rights -----------------------------------------------------------------------------------------------------------

COMBINATIONS = [
    (READ,),
    (WRITE,),
    (WRITE, PURGE),
    (WRITE, HOLD),
    (WRITE, BYPASS),
    (WRITE, PURGE, HOLD),
    (WRITE, PURGE, BYPASS),
    (WRITE, HOLD, BYPASS),
    ALL_RIGHTS,
]


@pytest.mark.parametrize("rights", COMBINATIONS, ids=lambda rights: "+".join(right.value for right in rights))
async def test_each_operation_asks_for_its_right(desk: Desk, root: AccessKey, rights: tuple[Right, ...]) -> None:
    version = await locked(desk, root)
    key = desk.key(*rights)
    writes, purges, holds, bypasses = (right in rights for right in (WRITE, PURGE, HOLD, BYPASS))

    async def may(method: str, target: str, body: bytes = b"", **more: str) -> bool:
        return await allowed(desk, key, method, target, body, **more)

    assert await may("GET", "/bucket/k")
    assert await may("GET", f"/bucket/k?versionId={version}")
    assert await may("PUT", "/bucket/new", b"x") == writes
    assert await may("DELETE", "/bucket/new") == writes
    assert await may("PUT", "/bucket/copy", **{"x-amz-copy-source": "bucket/k"}) == writes
    assert await may("PUT", "/bucket?versioning", versioning("Enabled")) == writes
    assert await may("PUT", "/bucket?lifecycle", RULE) == purges
    assert await may("DELETE", "/bucket?lifecycle") == purges
    assert await may("PUT", "/bucket?object-lock", LOCK) == holds
    for headers in (LOCK_HEADERS, HOLD_HEADERS):
        assert await may("PUT", "/bucket/locked", b"x", **headers) == holds
        assert await may("POST", "/bucket/locked?uploads", **headers) == holds
        assert await may("PUT", "/bucket/locked", **headers, **{"x-amz-copy-source": "bucket/k"}) == holds
    where = f"versionId={version}"
    for status in ("ON", "OFF"):
        hold = document("LegalHold", f"<Status>{status}</Status>")
        assert await may("PUT", f"/bucket/k?legal-hold&{where}", hold) == holds
    assert await may("PUT", f"/bucket/k?retention&{where}", RETENTION) == holds
    if not holds:
        assert await allowed(desk, root, "PUT", f"/bucket/k?retention&{where}", RETENTION)
    assert not await may("PUT", f"/bucket/k?retention&{where}", SHORTER)
    assert await may("PUT", f"/bucket/k?retention&{where}", SHORTER, **BYPASSES) == (holds and bypasses)
    assert not await may("DELETE", f"/bucket/k?{where}")
    assert await may("DELETE", f"/bucket/k?{where}", **BYPASSES) == (purges and bypasses)
    there = (await desk.ask(root, "GET", f"/bucket/k?{where}")).status
    assert there == (404 if purges and bypasses else 200)


def test_what_sets_and_what_removes_asks_for_one_right() -> None:
    removing = {key: route for key, route in ROUTES.items() if key[0] == "DELETE" and key[2]}
    pairs = [
        (route.needs, ROUTES["PUT", *key[1:]].needs) for key, route in removing.items() if ("PUT", *key[1:]) in ROUTES
    ]
    assert len(pairs) >= 4
    assert all(one is other for one, other in pairs)


async def test_a_refusal_names_the_right(desk: Desk, root: AccessKey) -> None:
    """Also of one among many; of another owner's bucket it tells nothing."""
    assert (await desk.ask(root, "PUT", "/bucket")).status == 200
    assert (await desk.ask(root, "PUT", "/bucket?versioning", versioning("Enabled"))).status == 200
    version = await put(desk, root, "/bucket/k")
    reader, writer = desk.key(READ), desk.key(WRITE)
    wanted = document("Delete", f"<Object><Key>k</Key><VersionId>{version}</VersionId></Object>")
    refused = [
        (await desk.ask(reader, "PUT", "/bucket/k", b"x"), "write"),
        (await desk.ask(writer, "DELETE", f"/bucket/k?versionId={version}"), "purge"),
        (await desk.ask(writer, "POST", "/bucket?delete", wanted), "purge"),
        (await desk.ask(writer, "PUT", "/bucket/k", b"x", HOLD_HEADERS), "hold"),
    ]
    for answer, right in refused:
        assert f"this key has no right to {right}; see `vfs s3 key rights`".encode() in answer.body
    stranger = desk.key(*ALL_RIGHTS, owner="bob")
    assert b"<Message>Access Denied<" in (await desk.ask(stranger, "PUT", "/bucket/k", b"x")).body


@pytest.mark.parametrize("rights", COMBINATIONS, ids=lambda rights: "+".join(right.value for right in rights))
async def test_purging_many_at_once_asks_for_the_right(desk: Desk, root: AccessKey, rights: tuple[Right, ...]) -> None:
    assert (await desk.ask(root, "PUT", "/bucket")).status == 200
    assert (await desk.ask(root, "PUT", "/bucket?versioning", versioning("Enabled"))).status == 200
    version = await put(desk, root, "/bucket/k")
    key = desk.key(*rights)
    named = f"<Object><Key>k</Key><VersionId>{version}</VersionId></Object>"
    wanted = document("Delete", f"{named}<Object><Key>l</Key></Object>")
    done = await desk.ask(key, "POST", "/bucket?delete", wanted)
    if WRITE not in rights:
        assert (done.status, done.code) == (403, "AccessDenied")
    else:
        assert (b"<Error><Key>k</Key>" in done.body) == (PURGE not in rights)
        assert b"<Deleted><Key>l</Key>" in done.body
    assert (await desk.ask(root, "GET", f"/bucket/k?versionId={version}")).status == (404 if PURGE in rights else 200)


async def test_a_key_that_only_writes_loses_no_version(desk: Desk, root: AccessKey) -> None:
    """Whatever it overwrites, deletes or sets, all versions stay, also those from before there was versioning."""
    assert (await desk.ask(root, "PUT", "/bucket")).status == 200
    await put(desk, root, "/bucket/k", b"null")
    assert (await desk.ask(root, "PUT", "/bucket?versioning", versioning("Enabled"))).status == 200
    one = await put(desk, root, "/bucket/k", b"one")
    key = desk.key(*keys.NEW_RIGHTS)
    assert not await allowed(desk, key, "PUT", "/bucket?versioning", versioning("Suspended"))
    assert await allowed(desk, key, "PUT", "/bucket/k", b"two")
    assert await allowed(desk, key, "DELETE", "/bucket/k")
    for version_id in ("null", one, "20260101T000000.000001Z"):
        assert not await allowed(desk, key, "DELETE", f"/bucket/k?versionId={version_id}")
    assert (await desk.ask(key, "DELETE", "/bucket")).code == "BucketNotEmpty"
    assert (await desk.ask(root, "GET", "/bucket/k?versionId=null")).body == b"null"
    assert (await desk.ask(root, "GET", f"/bucket/k?versionId={one}")).body == b"one"


async def test_a_form_asks_for_the_rights_too(desk: Desk, root: AccessKey) -> None:
    await locked(desk, root)
    for rights, plain, with_lock in ((), 403, 403), ((WRITE,), 204, 403), ((WRITE, HOLD), 204, 204):
        key = desk.key(*rights)
        assert (await desk.send(form(key, "bucket", "f"))).status == plain
        assert (await desk.send(form(key, "bucket", "f", HOLD_HEADERS))).status == with_lock


def form(key: AccessKey, bucket: str, name: str, more: dict[str, str] | None = None, file: bytes = b"f" * 99) -> Asked:
    """A form of a browser, its policy signed as for version 2."""
    fields = {"key": name, **(more or {})}
    conditions = [{"bucket": bucket}, *({field: fields[field]} for field in fields)]
    expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    policy = base64.b64encode(json.dumps({"expiration": expires, "conditions": conditions}).encode()).decode()
    signature = base64.b64encode(hmac.digest(key.secret.encode(), policy.encode(), "sha1")).decode()
    fields |= {"AWSAccessKeyId": key.id, "policy": policy, "signature": signature}
    lines = []
    for field in fields:
        lines += ["--x", f'Content-Disposition: form-data; name="{field}"', "", fields[field]]
    lines += ["--x", 'Content-Disposition: form-data; name="file"; filename="n"', "", ""]
    body = "\r\n".join(lines).encode() + file + b"\r\n--x--\r\n"
    headers = {"host": HOST, "content-type": "multipart/form-data; boundary=x", "content-length": str(len(body))}
    return Asked("POST", f"/{bucket}", headers, body)


# -- what nobody learns -----------------------------------------------------------------------------------------------

ABOUT = ["", "?versions", "?uploads", "?lifecycle", "?policy", "?acl", "?versioning", "?tagging", "?object-lock"]
ABOUT += ["/k", "/nothing", "/k?versionId=null", "/k?acl", "/k?tagging", "/k?retention", "/k?attributes"]
ABOUT += ["/k?uploadId=x"]


async def _answers(desk: Desk, key: AccessKey, name: str) -> list[tuple[int, bytes]]:
    """What a key is told of a bucket: with its name and the numbers of requests left out."""
    found: list[Answer] = []
    for what in ABOUT:
        found += [await desk.ask(key, method, f"/{name}{what}") for method in ("GET", "HEAD")]
    found.append(await desk.ask(key, "PUT", f"/{name}", b""))
    found.append(await desk.ask(key, "DELETE", f"/{name}"))
    found.append(await desk.ask(key, "DELETE", f"/{name}/k"))
    found.append(await desk.ask(key, "PUT", f"/{name}/k", b"x"))
    found.append(await desk.ask(key, "PUT", f"/{name}?lifecycle", RULE))
    found.append(await desk.ask(key, "POST", f"/{name}/k?uploads"))
    found.append(await desk.ask(key, "POST", f"/{name}?delete", document("Delete", "<Object><Key>k</Key></Object>")))
    found.append(await desk.ask(key, "PUT", "/own/k", headers={"x-amz-copy-source": f"{name}/k"}))
    found.append(await desk.ask(key, "PUT", "/own/k", headers={"x-amz-copy-source": f"/{name}/nothing"}))
    found.append(await desk.send(form(key, name, "f")))
    return [(one.status, _plain(one.body, name)) for one in found]


def _plain(body: bytes, name: str) -> bytes:
    for element in (b"RequestId", b"HostId"):
        start, end = body.find(b"<%s>" % element), body.find(b"</%s>" % element)
        body = body[:start] + body[end:] if start >= 0 else body
    return body.replace(name.encode(), b"NAME")


@pytest.mark.parametrize("rights", [(), (WRITE,), ALL_RIGHTS], ids=len)
@pytest.mark.parametrize("owner", ["ada", "bob"])
async def test_a_limited_key_learns_nothing_of_other_buckets(
    desk: Desk, root: AccessKey, owner: str, rights: tuple[Right, ...]
) -> None:
    """Not even whether there are any: of its owner, or of somebody else."""
    for name in ("own", "other"):
        assert (await desk.ask(root, "PUT", f"/{name}")).status == 200
    await put(desk, root, "/other/k", b"secret")
    key = desk.key(*rights, owner=owner, buckets=("own",))
    there, absent = await _answers(desk, key, "other"), await _answers(desk, key, "absent")
    assert there == absent
    assert {status for status, _ in there} == {403}
    listed = (await desk.ask(key, "GET", "/")).body
    assert b"<Name>own</Name>" in listed
    assert b"other" not in listed
    assert (await desk.ask(root, "GET", "/other/k")).body == b"secret"


async def test_another_owners_key_gets_in_nowhere(desk: Desk, root: AccessKey) -> None:
    assert (await desk.ask(root, "PUT", "/bucket")).status == 200
    await put(desk, root, "/bucket/k", b"secret")
    stranger = desk.key(*ALL_RIGHTS, owner="bob")
    assert (await desk.ask(stranger, "PUT", "/own")).status == 200
    told = await _answers(desk, stranger, "bucket")
    assert {status for status, _ in told} == {403, 409}  # the name is taken: so much CreateBucket must say
    assert [status for status, _ in told].count(409) == 1
    assert (await desk.ask(stranger, "GET", "/absent")).code == "NoSuchBucket"


async def test_whoever_may_not_learns_nothing_of_versions(desk: Desk, root: AccessKey) -> None:
    """A key without the right to purge or to hold hears the same of what is there and of what is not."""
    version = await locked(desk, root)
    key = desk.key(WRITE)
    absent = "20260101T000000.000001Z"
    for method, query, body in (
        ("DELETE", "versionId={}", b""),
        ("PUT", "retention&versionId={}", RETENTION),
        ("PUT", "legal-hold&versionId={}", document("LegalHold", "<Status>OFF</Status>")),
    ):
        answers = [
            await desk.ask(key, method, f"/bucket/{name}?{query.format(of)}", body)
            for name, of in (("k", version), ("k", absent), ("nothing", version), ("k", "nonsense"))
        ]
        assert {(one.status, one.code) for one in answers} == {(403, "AccessDenied")}


async def test_a_signature_for_one_dialect_carries_no_header_of_another(desk: Desk, root: AccessKey) -> None:
    """A PUT presigned by version 2 must not become a copy by a header that it does not cover."""
    for name in ("uploads", "private"):
        assert (await desk.ask(root, "PUT", f"/{name}")).status == 200
    await put(desk, root, "/private/secret", b"secret")
    asked = presign2(root, "PUT", "/uploads/mine")
    others = {"OSSAccessKeyId": "x-oss-", "AccessKeyId": "x-obs-", "x-oss-signature-version": "x-oss-"}
    for parameter, prefix in others.items():
        headers = {f"{prefix}copy_source": "/private/secret"}
        more = asked._replace(target=f"{asked.target}&{parameter}=x").with_headers(**headers)
        assert (await desk.send(more)).status >= 400
    for host, prefix in (("oss.example.com", "x_oss_"), ("obs.example.com", "x_obs_")):
        more = asked.with_headers(host=host, **{f"{prefix}copy_source": "/private/secret"})
        await desk.send(more)
        assert (await desk.ask(root, "GET", "/uploads/mine")).body != b"secret"


async def test_an_old_signature_covers_no_new_operation(desk: Desk, root: AccessKey) -> None:
    """Version 2 signs the parameters that it knows; a PUT must not become one of a hold, or of a retention."""
    version = await locked(desk, root)
    hold, status = document("LegalHold", "<Status>ON</Status>"), b"<Status>OFF</Status>"
    for more, body in (("legal-hold", hold), ("retention", RETENTION), ("attributes", b"")):
        asked = presign2(root, "PUT", f"/bucket/k?versionId={version}")
        changed = asked._replace(target=f"{asked.target}&{more}", body=body)
        assert (await desk.send(changed)).code == "AccessDenied"
    assert status in (await desk.ask(root, "GET", f"/bucket/k?legal-hold&versionId={version}")).body


@pytest.mark.parametrize("name", sorted({*_DECISIVE, "partNumber", "versionId"}))
def test_what_decides_must_be_signed(desk: Desk, name: str) -> None:
    request = Request("PUT", b"/bucket/k", ((name, "1"),), {}, bucket=b"bucket", key=b"k")
    with pytest.raises(S3Error) as error:
        desk.door._route(request, Signed("VFSKEY", S3, covers=lambda covered: covered != name))
    assert error.value.code == "AccessDenied"


async def test_a_key_that_is_revoked_in_between(desk: Desk, root: AccessKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.door._keys, "secret", lambda _: root.secret)
    revoke(desk, root)
    assert (await desk.ask(root, "GET", "/")).code == "InvalidAccessKeyId"


# -- what a key may, in its file and while it is used ----------------------------------------------------------------


def test_keys_of_before_there_were_more_rights_keep_what_they_could_do(tmp_path: Path) -> None:
    old = {"id": "VFSOLD", "secret": "s", "owner": "ada", "created": "2026-01-01T00:00:00+00:00", "write": True}
    reads = old | {"id": "VFSREAD", "write": False, "bypass": True}
    bypasses = old | {"id": "VFSBYPASS", "bypass": True, "buckets": ["b"]}
    (tmp_path / keys.FILE).write_bytes(msgspec.json.encode({"keys": [old, reads, bypasses], "devices": []}))
    found = {key.id: key.rights for key in keys.every(Folder.at(tmp_path))}
    assert found == {"VFSOLD": {READ, WRITE, PURGE, HOLD}, "VFSREAD": {READ}, "VFSBYPASS": set(Right)}
    keys.set_rights(Folder.at(tmp_path), "VFSREAD", [WRITE])
    assert {key.id: key.rights for key in keys.every(Folder.at(tmp_path))} == found | {"VFSREAD": {READ, WRITE}}


def test_a_new_key_writes_and_purges_nothing(tmp_path: Path) -> None:
    made = keys.create(Folder.at(tmp_path), owner="ada", created="2026-01-01T00:00:00+00:00")
    assert made.rights == {READ, WRITE}
    assert keys.find(Folder.at(tmp_path), made.id) == made
    for wanted in ([PURGE], [HOLD], [BYPASS], [READ, BYPASS]):
        with pytest.raises(keys.InvalidRights):
            keys.set_rights(Folder.at(tmp_path), made.id, wanted)
    with pytest.raises(keys.NoSuchAccessKey):
        keys.set_rights(Folder.at(tmp_path), "VFSNOBODY", [READ])
    assert keys.find(Folder.at(tmp_path), made.id) == made
    for right in (PURGE, HOLD, BYPASS):
        assert keys.set_rights(Folder.at(tmp_path), made.id, [WRITE, right]).rights == {READ, WRITE, right}
        assert keys.find(Folder.at(tmp_path), made.id).words == ["read", "write", right.value]
    assert keys.set_rights(Folder.at(tmp_path), made.id, []).rights == {READ}
    path = tmp_path / keys.FILE
    path.write_bytes(path.read_bytes().replace(b'"hold"', b'"held"'))
    with pytest.raises(NotAStore):  # what is not understood opens nothing
        keys.every(Folder.at(tmp_path))


async def test_rights_are_those_of_the_moment(desk: Desk, root: AccessKey) -> None:
    version = await locked(desk, root)
    key = desk.key(WRITE)
    assert not await allowed(desk, key, "DELETE", f"/bucket/k?versionId={version}")
    key = keys.set_rights(desk.store.root, key.id, [WRITE, PURGE])
    assert await allowed(desk, key, "DELETE", f"/bucket/k?versionId={version}")
    keys.revoke(desk.store.root, key.id)
    assert (await desk.ask(key, "GET", "/bucket/k")).code == "InvalidAccessKeyId"


# -- what happens meanwhile ------------------------------------------------------------------------------------------

Change = Callable[[Desk, AccessKey], object]


def revoke(desk: Desk, key: AccessKey) -> None:
    keys.revoke(desk.store.root, key.id)


def weaken(desk: Desk, key: AccessKey) -> None:
    keys.set_rights(desk.store.root, key.id, [])


def give_away(desk: Desk, _: AccessKey) -> None:
    desk.store.objects.configure(desk.store.find_bucket(b"bucket"), owner=keys.owner_id("bob"))


def drop(desk: Desk, _: AccessKey) -> None:
    desk.store.objects.delete_bucket(b"bucket")


def drop_and_make(desk: Desk, key: AccessKey) -> None:
    drop(desk, key)
    desk.store.create_bucket(b"bucket", uid=0, gid=0, state=State.UNVERSIONED, owner=key.owner_id)


MEANWHILE: dict[str, tuple[Change, str]] = {
    "revoked": (revoke, "AccessDenied"),
    "weakened": (weaken, "AccessDenied"),
    "given away": (give_away, "AccessDenied"),
    "dropped": (drop, "NoSuchBucket"),
    "made again": (drop_and_make, "NoSuchBucket"),
}


def keys_of(desk: Desk, name: bytes = b"bucket") -> list[bytes]:
    """The objects of a bucket, if there is one."""
    try:
        return [item.key for item in desk.store.objects.list(desk.store.find_bucket(name)).objects]
    except NoSuchBucket:
        return []


@pytest.mark.parametrize("what", MEANWHILE)
@pytest.mark.parametrize("by", ["put", "part", "form"])
async def test_a_body_that_comes_too_late(desk: Desk, root: AccessKey, by: str, what: str) -> None:
    assert (await desk.ask(root, "PUT", "/bucket")).status == 200
    key, (change, code) = desk.key(WRITE), MEANWHILE[what]
    target = "/bucket/k"
    if by == "part":
        begun = await desk.ask(key, "POST", "/bucket/k?uploads")
        target += f"?partNumber=1&uploadId={begun.body.split(b'UploadId>')[1].decode()[:-2]}"
    asked = form(key, "bucket", "k", file=b"b" * 100_000) if by == "form" else sign(key, "PUT", target, b"b" * 1000)
    done = await desk.send(asked, lambda: change(desk, key))
    assert done.code == code
    assert keys_of(desk) == []


@pytest.mark.parametrize("what", MEANWHILE)
@pytest.mark.parametrize("by", ["copy", "copy of a part"])
async def test_a_copy_that_ends_too_late(
    desk: Desk, root: AccessKey, by: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read for its checksum, and others have their turn."""
    for name in ("bucket", "source"):
        assert (await desk.ask(root, "PUT", f"/{name}")).status == 200
    await put(desk, root, "/source/k", b"s" * 1000)
    key, (change, code) = desk.key(WRITE), MEANWHILE[what]
    target = "/bucket/k"
    if by == "copy of a part":
        begun = await desk.ask(key, "POST", "/bucket/k?uploads")
        target += f"?partNumber=1&uploadId={begun.body.split(b'UploadId>')[1].decode()[:-2]}"
    real = s3_objects.digests_of

    async def digests_of(*arguments: Any) -> Digests:
        found = await real(*arguments)
        change(desk, key)
        return found

    for module in (s3_objects, multipart):
        monkeypatch.setattr(module, "digests_of", digests_of)
    headers = {"x-amz-copy-source": "source/k", "x-amz-checksum-algorithm": "SHA256"}
    done = await desk.ask(key, "PUT", target, headers=headers)
    assert done.code == code
    assert keys_of(desk) == []


@pytest.mark.parametrize("what", MEANWHILE)
async def test_deletes_that_come_too_late(
    desk: Desk, root: AccessKey, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a DeleteObjects is done, the rest is refused."""
    assert (await desk.ask(root, "PUT", "/bucket")).status == 200
    dropped = MEANWHILE[what][1] == "NoSuchBucket"
    for name in ("a",) if dropped else ("a", "b"):
        await put(desk, root, f"/bucket/{name}")
    key, (change, code) = desk.key(WRITE), MEANWHILE[what]
    real = desk.store.objects.delete

    def delete(*arguments: Any, **more: Any) -> Deleted:
        done = real(*arguments, **more)
        change(desk, key)
        return done

    monkeypatch.setattr(desk.store.objects, "delete", delete)
    wanted = document("Delete", "<Object><Key>a</Key></Object><Object><Key>b</Key></Object>")
    done = await desk.ask(key, "POST", "/bucket?delete", wanted)
    assert b"<Deleted><Key>a</Key></Deleted>" in done.body
    assert f"<Error><Key>b</Key><Code>{code}</Code>".encode() in done.body
    assert keys_of(desk) == ([] if dropped else [b"b"])


@pytest.mark.parametrize("what", MEANWHILE)
async def test_an_upload_that_is_completed_too_late(
    desk: Desk, root: AccessKey, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await desk.ask(root, "PUT", "/bucket")).status == 200
    key, (change, code) = desk.key(WRITE), MEANWHILE[what]
    begun = await desk.ask(key, "POST", "/bucket/k?uploads")
    target = f"/bucket/k?uploadId={begun.body.split(b'UploadId>')[1].decode()[:-2]}"
    etag = (await desk.ask(key, "PUT", f"{target}&partNumber=1", b"part")).headers["ETag"]
    real = desk.store.objects.append

    def append(*arguments: Any, **more: Any) -> Generator[None, None, None]:
        yield from real(*arguments, **more)
        change(desk, key)
        yield

    monkeypatch.setattr(desk.store.objects, "append", append)
    parts = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    done = await desk.ask(key, "POST", target, document("CompleteMultipartUpload", parts))
    assert done.code == code
    assert keys_of(desk) == []


DEFAULT = "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Years>9</Years></DefaultRetention></Rule>"
SETTINGS = {
    "?versioning": versioning("Enabled"),
    "?tagging": document("Tagging", "<TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet>"),
    "?lifecycle": RULE,
    "?object-lock": document("ObjectLockConfiguration", f"<ObjectLockEnabled>Enabled</ObjectLockEnabled>{DEFAULT}"),
    "/k?tagging": document("Tagging", "<TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet>"),
    "/k?retention": RETENTION,
    "/k?legal-hold": document("LegalHold", "<Status>ON</Status>"),
}


@pytest.mark.parametrize("what", ["revoked", "weakened", "given away"])
@pytest.mark.parametrize("setting", SETTINGS)
async def test_settings_that_come_too_late(desk: Desk, root: AccessKey, setting: str, what: str) -> None:
    await locked(desk, root)
    key = desk.key(*ALL_RIGHTS)
    before = desk.store.bucket(desk.store.find_bucket(b"bucket"))
    told = (await desk.ask(root, "GET", f"/bucket{setting}")).body
    asked = sign(key, "PUT", f"/bucket{setting}", SETTINGS[setting])
    assert (await desk.send(asked, lambda: MEANWHILE[what][0](desk, key))).code == "AccessDenied"
    after = desk.store.bucket(desk.store.find_bucket(b"bucket"))
    assert msgspec.structs.replace(after, owner=before.owner) == before
    desk.store.objects.configure(desk.store.find_bucket(b"bucket"), owner=root.owner_id)
    same = (await desk.ask(root, "GET", f"/bucket{setting}")).body
    assert _plain(same, "bucket") == _plain(told, "bucket")


@pytest.mark.parametrize("what", ["revoked", "weakened"])
async def test_a_bucket_that_is_made_too_late(desk: Desk, root: AccessKey, what: str) -> None:
    key = desk.key(*ALL_RIGHTS)
    place = document("CreateBucketConfiguration", "<LocationConstraint>eu-west-1</LocationConstraint>")
    asked = sign(key, "PUT", "/bucket", place)
    assert (await desk.send(asked, lambda: MEANWHILE[what][0](desk, key))).code == "AccessDenied"
    assert (await desk.ask(root, "HEAD", "/bucket")).status == 404
