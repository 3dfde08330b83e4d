"""What handlers refuse, asked at the door without a network: conditions, locks, parts, forms, rights for others."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.desk import ALL_RIGHTS, HOST, Answer, Asked, Desk, document
from vfs.model import LockMode
from vfs.s3.errors import S3Error
from vfs.s3.keys import AccessKey
from vfs.s3.metadata import new_retention

DATA = b"0123456789"
MIB = 1 << 20


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
async def key(desk: Desk) -> AccessKey:
    """Of the owner of ``bucket``, which keeps versions, and of ``locks``, which has object lock."""
    made = desk.key(*ALL_RIGHTS)
    for name, headers in (("bucket", {}), ("locks", {"x-amz-bucket-object-lock-enabled": "true"})):
        assert (await desk.ask(made, "PUT", f"/{name}", headers=headers)).status == 200
    body = document("VersioningConfiguration", "<Status>Enabled</Status>")
    assert (await desk.ask(made, "PUT", "/bucket?versioning", body)).status == 200
    return made


async def put(desk: Desk, key: AccessKey, target: str, body: bytes = DATA, **headers: str) -> Answer:
    done = await desk.ask(key, "PUT", target, body, {name.replace("_", "-"): headers[name] for name in headers})
    assert done.status == 200, done
    return done


# -- conditions -------------------------------------------------------------------------------------------------------


async def test_conditions_of_a_put(desk: Desk, key: AccessKey) -> None:
    async def attempt(body: bytes, **headers: str) -> str:
        return (
            await desk.ask(key, "PUT", "/bucket/k", body, {name.replace("_", "-"): headers[name] for name in headers})
        ).code

    assert await attempt(b"x", if_match='"0"') == "NoSuchKey"
    assert await attempt(b"one", if_none_match="*") == ""
    etag = hashlib.md5(b"one").hexdigest()
    assert await attempt(b"two", if_none_match="*") == "PreconditionFailed"
    assert await attempt(b"two", if_match='"0"') == "PreconditionFailed"
    assert await attempt(b"two", if_none_match=f'"{etag}"') == "PreconditionFailed"
    assert (await desk.ask(key, "GET", "/bucket/k")).body == b"one"
    assert await attempt(b"two", if_match=f'"{etag}"') == ""
    assert await attempt(b"three", if_match=f'"{etag}"') == "PreconditionFailed"
    assert await attempt(b"three", x_amz_forbid_overwrite="true") == "FileAlreadyExists"
    assert (await desk.ask(key, "GET", "/bucket/k")).body == b"two"


async def test_conditions_of_a_copy(desk: Desk, key: AccessKey) -> None:
    etag = (await put(desk, key, "/bucket/source")).headers["ETag"]
    await put(desk, key, "/bucket/target", b"kept")

    async def attempt(**headers: str) -> str:
        more = {name.replace("_", "-"): headers[name] for name in headers}
        return (
            await desk.ask(key, "PUT", "/bucket/target", headers={"x-amz-copy-source": "bucket/source", **more})
        ).code

    assert await attempt(if_none_match="*") == "PreconditionFailed"
    assert await attempt(if_match='"0"') == "PreconditionFailed"
    assert await attempt(x_amz_copy_source_if_match='"0"') == "PreconditionFailed"
    assert await attempt(x_amz_copy_source_if_none_match=etag) == "PreconditionFailed"
    assert await attempt(x_amz_copy_source_if_modified_since="Fri, 20 Nov 2099 00:00:00 GMT") == "PreconditionFailed"
    assert await attempt(x_amz_copy_source_if_unmodified_since="Fri, 20 Nov 2020 00:00:00 GMT") == "PreconditionFailed"
    assert (await desk.ask(key, "GET", "/bucket/target")).body == b"kept"
    assert await attempt(x_amz_copy_source_if_match=etag) == ""
    assert (await desk.ask(key, "GET", "/bucket/target")).body == DATA


async def test_conditions_of_deletes(desk: Desk, key: AccessKey) -> None:
    done = await put(desk, key, "/bucket/k")
    version = f"/bucket/k?versionId={done.headers['x-amz-version-id']}"
    wrong = ({"if-match": '"0"'}, {"x-amz-if-match-size": "11"})
    for headers in (*wrong, {"x-amz-if-match-last-modified-time": "Fri, 20 Nov 2020 00:00:00 GMT"}):
        for target in ("/bucket/k", version):
            assert (await desk.ask(key, "DELETE", target, headers=headers)).code == "PreconditionFailed"
    named = "<Object><Key>k</Key><ETag>0</ETag></Object><Object><Key>k</Key><Size>11</Size></Object>"
    done_of_many = await desk.ask(key, "POST", "/bucket?delete", document("Delete", named))
    assert done_of_many.body.count(b"<Code>PreconditionFailed</Code>") == 2
    assert (await desk.ask(key, "GET", "/bucket/k")).body == DATA
    right = {"if-match": done.headers["ETag"], "x-amz-if-match-size": "10"}
    assert (await desk.ask(key, "DELETE", version, headers=right)).status == 204
    assert (await desk.ask(key, "GET", version)).code == "NoSuchVersion"


async def test_conditions_of_a_get(desk: Desk, key: AccessKey) -> None:
    etag = (await put(desk, key, "/bucket/k")).headers["ETag"]
    past, future = "Fri, 20 Nov 2020 00:00:00 GMT", "Fri, 20 Nov 2099 00:00:00 GMT"
    for headers, status in (
        ({"if-match": etag}, 200),
        ({"if-match": '"0"'}, 412),
        ({"if-none-match": etag}, 304),
        ({"if-none-match": '"0"'}, 200),
        ({"if-unmodified-since": past}, 412),
        ({"if-unmodified-since": future}, 200),
        ({"if-modified-since": past}, 200),
        ({"if-modified-since": future}, 304),
        ({"if-match": etag, "if-unmodified-since": past}, 200),
    ):
        done = await desk.ask(key, "GET", "/bucket/k", headers=headers)
        assert (done.status, done.body == DATA) == (status, status == 200), headers


async def test_an_empty_version_id_is_no_version(desk: Desk, key: AccessKey) -> None:
    await put(desk, key, "/bucket/k")
    for method in ("GET", "DELETE"):
        assert (await desk.ask(key, method, "/bucket/k?versionId=")).code == "InvalidArgument"
    assert (await desk.ask(key, "GET", "/bucket/k")).body == DATA


@pytest.mark.parametrize(("text", "wanted"), [("bytes=0-0", b"0"), ("bytes=3-5", b"345"), ("bytes=-2", b"89")])
async def test_ranges(desk: Desk, key: AccessKey, text: str, wanted: bytes) -> None:
    await put(desk, key, "/bucket/k")
    done = await desk.ask(key, "GET", "/bucket/k", headers={"range": text})
    assert (done.status, done.body) == (206, wanted)


async def test_a_marker_is_no_source(desk: Desk, key: AccessKey) -> None:
    await put(desk, key, "/bucket/k")
    marker = (await desk.ask(key, "DELETE", "/bucket/k")).headers["x-amz-version-id"]
    source = {"x-amz-copy-source": f"bucket/k?versionId={marker}"}
    assert (await desk.ask(key, "PUT", "/bucket/copy", headers=source)).code == "InvalidRequest"
    assert (await desk.ask(key, "GET", "/bucket/copy")).code == "NoSuchKey"


# -- locks ------------------------------------------------------------------------------------------------------------


def later(**more: float) -> str:
    return (datetime.now(UTC) + timedelta(**more)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_put_with_its_lock(desk: Desk, key: AccessKey) -> None:
    until = later(days=1)
    how = {"x_amz_object_lock_mode": "COMPLIANCE", "x_amz_object_lock_retain_until_date": until}
    locked = (await put(desk, key, "/locks/k", **how)).headers["x-amz-version-id"]
    held = (await put(desk, key, "/locks/h", x_amz_object_lock_legal_hold="ON")).headers["x-amz-version-id"]
    told = (await desk.ask(key, "HEAD", "/locks/k")).headers
    assert (told["x-amz-object-lock-mode"], told["x-amz-object-lock-retain-until-date"]) == ("COMPLIANCE", until)
    assert (await desk.ask(key, "HEAD", "/locks/h")).headers["x-amz-object-lock-legal-hold"] == "ON"
    bypass = {"x-amz-bypass-governance-retention": "true"}
    for name, version in (("k", locked), ("h", held)):
        done = await desk.ask(key, "DELETE", f"/locks/{name}?versionId={version}", headers=bypass)
        assert done.code == "AccessDenied"


async def test_locks_that_are_none(desk: Desk, key: AccessKey) -> None:
    for headers in (
        {"x-amz-object-lock-mode": "COMPLIANCE"},
        {"x-amz-object-lock-retain-until-date": later(days=1)},
        {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-object-lock-retain-until-date": later(seconds=-1)},
        {"x-amz-object-lock-mode": "compliance", "x-amz-object-lock-retain-until-date": later(days=1)},
        {"x-amz-object-lock-legal-hold": "yes"},
    ):
        assert (await desk.ask(key, "PUT", "/locks/k", DATA, headers)).code == "InvalidArgument"
    assert (await desk.ask(key, "GET", "/locks/k")).code == "NoSuchKey"


async def test_the_lock_of_a_bucket(desk: Desk, key: AccessKey) -> None:
    rule = "<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>3</Days></DefaultRetention></Rule>"
    lock = document("ObjectLockConfiguration", f"<ObjectLockEnabled>Enabled</ObjectLockEnabled>{rule}")
    await put(desk, key, "/locks?object-lock", lock)
    told = (await desk.ask(key, "GET", "/locks?object-lock")).body
    assert b"<Mode>GOVERNANCE</Mode><Days>3</Days>" in told
    version = (await put(desk, key, "/locks/k")).headers["x-amz-version-id"]
    assert (await desk.ask(key, "DELETE", f"/locks/k?versionId={version}")).code == "AccessDenied"
    for target in ("/bucket/k?retention", "/bucket/k?legal-hold"):
        await put(desk, key, "/bucket/k")
        body = document("LegalHold", "<Status>ON</Status>")
        if "retention" in target:
            body = document("Retention", f"<Mode>GOVERNANCE</Mode><RetainUntilDate>{later(days=1)}</RetainUntilDate>")
        assert (await desk.ask(key, "PUT", target, body)).code == "InvalidRequest"
    suspended = document("VersioningConfiguration", "<Status>Suspended</Status>")
    assert (await desk.ask(key, "PUT", "/locks?versioning", suspended)).code == "InvalidBucketState"


# -- what would be promised and not kept ------------------------------------------------------------------------------


async def test_nothing_is_for_others(desk: Desk, key: AccessKey) -> None:
    await put(desk, key, "/bucket/k")
    other = desk.key(owner="bob")

    def grant(owner: str, right: str) -> bytes:
        grantee = f"<Grantee><ID>{owner}</ID></Grantee><Permission>{right}</Permission>"
        return document("AccessControlPolicy", f"<AccessControlList><Grant>{grantee}</Grant></AccessControlList>")

    for target in ("/bucket?acl", "/bucket/k?acl"):
        for headers in ({"x-amz-acl": "public-read"}, {"x-amz-grant-read": "id=x"}):
            assert (await desk.ask(key, "PUT", target, headers=headers)).code == "AccessControlListNotSupported"
        for body in (grant(other.owner_id, "FULL_CONTROL"), grant(key.owner_id, "READ")):
            assert (await desk.ask(key, "PUT", target, body)).code == "AccessControlListNotSupported"
        assert (await desk.ask(key, "PUT", target, grant(key.owner_id, "FULL_CONTROL"))).status == 200
        assert (await desk.ask(other, "PUT", target, grant(other.owner_id, "FULL_CONTROL"))).code == "AccessDenied"
    assert (await desk.ask(key, "PUT", "/bucket/k", DATA, {"x-amz-acl": "public-read"})).status == 400
    for name in ("x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-key"):
        assert (await desk.ask(key, "PUT", "/bucket/e", DATA, {name: "AES256"})).code == "NotImplemented"
    assert (await desk.ask(key, "GET", "/bucket/e")).code == "NoSuchKey"


async def test_another_owners_bucket_is_not_ones_own(desk: Desk, key: AccessKey) -> None:
    other = desk.key(*ALL_RIGHTS, owner="bob")
    assert (await desk.ask(other, "PUT", "/bucket")).code == "BucketAlreadyExists"
    assert (await desk.ask(key, "PUT", "/bucket")).status == 200


# -- uploads in parts -------------------------------------------------------------------------------------------------


async def upload_of(desk: Desk, key: AccessKey, **headers: str) -> str:
    more = {name.replace("_", "-"): headers[name] for name in headers}
    begun = await desk.ask(key, "POST", "/bucket/k?uploads", headers=more)
    return f"/bucket/k?uploadId={begun.body.split(b'UploadId>')[1].decode()[:-2]}"


async def complete(desk: Desk, key: AccessKey, target: str, parts: list[tuple[int, str]], **headers: str) -> Answer:
    named = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    more = {name.replace("_", "-"): headers[name] for name in headers}
    return await desk.ask(key, "POST", target, document("CompleteMultipartUpload", named), more)


async def test_what_an_upload_is_completed_with(desk: Desk, key: AccessKey) -> None:
    target = await upload_of(desk, key)
    bodies = [b"a" * (5 * MIB), b"b" * (5 * MIB - 1), b"c"]
    etags = [
        (await put(desk, key, f"{target}&partNumber={at + 1}", body)).headers["ETag"] for at, body in enumerate(bodies)
    ]
    one, two, three = ((at + 1, etag) for at, etag in enumerate(etags))
    for parts, code in (
        ([], "MalformedXML"),
        ([(1, '"0"')], "InvalidPart"),
        ([(1, "")], "InvalidPart"),
        ([(1, etags[2])], "InvalidPart"),
        ([one, (4, etags[0])], "InvalidPart"),
        ([three, one], "InvalidPartOrder"),
        ([one, one], "InvalidPartOrder"),
        ([one, two, three], "EntityTooSmall"),
    ):
        assert (await complete(desk, key, target, parts)).code == code, parts
    for headers, code in (({"if_match": '"0"'}, "NoSuchKey"), ({"if_match": "*"}, "NoSuchKey")):
        assert (await complete(desk, key, target, [one, three], **headers)).code == code
    assert (await desk.ask(key, "GET", "/bucket/k")).code == "NoSuchKey"
    await put(desk, key, "/bucket/k", b"before")
    assert (await complete(desk, key, target, [one, three], if_none_match="*")).code == "PreconditionFailed"
    assert (await complete(desk, key, target, [one, three])).status == 200
    assert (await desk.ask(key, "GET", "/bucket/k")).body == bodies[0] + bodies[2]


async def test_the_checksum_of_an_upload(desk: Desk, key: AccessKey) -> None:
    target = await upload_of(desk, key, x_amz_checksum_algorithm="CRC32", x_amz_checksum_type="FULL_OBJECT")
    etag = (await put(desk, key, f"{target}&partNumber=1", DATA)).headers["ETag"]
    right, wrong = "poTHxg==", "AAAAAA=="
    assert (await complete(desk, key, target, [(1, etag)], x_amz_checksum_crc32=wrong)).code == "BadDigest"
    done = await complete(desk, key, target, [(1, etag)], x_amz_checksum_crc32=right)
    assert done.status == 200, done


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", "", "1.0", "9" * 19])
async def test_numbers_of_parts(desk: Desk, key: AccessKey, number: str) -> None:
    target = await upload_of(desk, key)
    assert (await desk.ask(key, "PUT", f"{target}&partNumber={number}", DATA)).code == "InvalidArgument"
    assert b"<Part>" not in (await desk.ask(key, "GET", target)).body


@pytest.mark.parametrize(
    ("text", "code"),
    [("bytes=0-9", ""), ("bytes=9-9", ""), ("bytes=0-10", "InvalidRange"), ("bytes=0-", "InvalidArgument")],
)
async def test_parts_that_are_copied(desk: Desk, key: AccessKey, text: str, code: str) -> None:
    await put(desk, key, "/bucket/source")
    target = await upload_of(desk, key)
    headers = {"x-amz-copy-source": "bucket/source", "x-amz-copy-source-range": text}
    assert (await desk.ask(key, "PUT", f"{target}&partNumber=1", headers=headers)).code == code


# -- forms ------------------------------------------------------------------------------------------------------------


def form(key: AccessKey, conditions: list[object], fields: dict[str, str], *, expires: str = "", **more: str) -> Asked:
    """A form with a policy; more: fields beside it, as a changed form has them."""
    expires = expires or later(hours=1)
    policy = base64.b64encode(json.dumps({"expiration": expires, "conditions": conditions}).encode()).decode()
    signature = base64.b64encode(hmac.digest(key.secret.encode(), policy.encode(), "sha1")).decode()
    every = fields | {"AWSAccessKeyId": key.id, "policy": policy, "signature": signature} | more
    lines = []
    for name, value in every.items():
        lines += ["--x", f'Content-Disposition: form-data; name="{name}"', "", value]
    lines += ["--x", 'Content-Disposition: form-data; name="file"; filename="n"', "", ""]
    body = "\r\n".join(lines).encode() + DATA + b"\r\n--x--\r\n"
    return Asked("POST", "/bucket", {"host": HOST, "content-type": "multipart/form-data; boundary=x"}, body)


BUCKET, KEY = {"bucket": "bucket"}, {"key": "k"}


@pytest.mark.parametrize(
    ("conditions", "fields", "more", "code"),
    [
        ([BUCKET, KEY], {"key": "k"}, {}, ""),
        ([BUCKET, ["starts-with", "$key", "up/"]], {"key": "up/k"}, {}, ""),
        ([BUCKET, ["starts-with", "$key", "up/"]], {"key": "k"}, {}, "AccessDenied"),
        ([BUCKET, ["eq", "$key", "k"]], {"key": "kk"}, {}, "AccessDenied"),
        ([KEY], {"key": "k"}, {}, "AccessDenied"),
        ([{"bucket": "other"}, KEY], {"key": "k"}, {}, "AccessDenied"),
        ([{"bucket": "other"}, KEY], {"key": "k"}, {"bucket": "other"}, "AccessDenied"),
        ([BUCKET, KEY], {"key": "k"}, {"x-amz-meta-a": "b"}, "AccessDenied"),
        ([BUCKET, KEY], {"key": "k"}, {"signature": "AAAA"}, "SignatureDoesNotMatch"),
        ([BUCKET, KEY], {"key": "k"}, {"AWSAccessKeyId": "VFSNOBODY"}, "InvalidAccessKeyId"),
        ([BUCKET, KEY, ["content-length-range", 10, 10]], {"key": "k"}, {}, ""),
        ([BUCKET, KEY, ["content-length-range", 0, 9]], {"key": "k"}, {}, "EntityTooLarge"),
        ([BUCKET, KEY, ["content-length-range", 11, 20]], {"key": "k"}, {}, "EntityTooSmall"),
        (
            [BUCKET, KEY, ["content-length-range", 0, 9], ["content-length-range", 0, 99]],
            {"key": "k"},
            {},
            "EntityTooLarge",
        ),
        (
            [BUCKET, KEY, ["content-length-range", 11, 99], ["content-length-range", 0, 99]],
            {"key": "k"},
            {},
            "EntityTooSmall",
        ),
        ([BUCKET, KEY], {"key": "k"}, {"x-amz-checksum-crc32": "poTHxg=="}, ""),
        ([BUCKET, KEY], {"key": "k"}, {"x-amz-checksum-crc32": "AAAAAA=="}, "BadDigest"),
    ],
)
async def test_forms(
    desk: Desk, key: AccessKey, conditions: list[object], fields: dict[str, str], more: dict[str, str], code: str
) -> None:
    done = await desk.send(form(key, conditions, fields, **more))
    assert done.code == code, done
    there = desk.store.objects.list(desk.store.find_bucket(b"bucket")).objects
    assert [item.size for item in there] == ([] if code else [10])


async def test_a_policy_that_is_over(desk: Desk, key: AccessKey) -> None:
    for seconds, status in ((-2, 403), (100, 204)):
        asked = form(key, [BUCKET, KEY], {"key": "k"}, expires=later(seconds=seconds))
        assert (await desk.send(asked)).status == status


def test_a_retention_begins_in_the_future() -> None:
    for until, over in (("2026-11-20T00:00:00Z", True), ("2026-11-20T00:00:01Z", False)):
        moment = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp() * 1e6)
        if over:
            with pytest.raises(S3Error):
                new_retention(LockMode.COMPLIANCE, until, moment)
        else:
            assert new_retention(LockMode.COMPLIANCE, until, moment).until == moment + 1_000_000


async def test_a_form_that_is_cut(desk: Desk, key: AccessKey) -> None:
    asked = form(key, [BUCKET, KEY], {"key": "k"})
    for cut in (4, 12, 15):
        assert (await desk.send(asked._replace(body=asked.body[:-cut]))).code == "IncompleteBody"
    assert desk.store.objects.list(desk.store.find_bucket(b"bucket")).objects == []
    assert (await desk.send(asked)).status == 204


async def test_a_form_signed_by_version_4(desk: Desk, key: AccessKey) -> None:
    conditions = [BUCKET, KEY, ["starts-with", "$x-amz-credential", ""], ["starts-with", "$x-amz-algorithm", ""]]
    policy = base64.b64encode(json.dumps({"expiration": later(hours=1), "conditions": conditions}).encode()).decode()
    credential = f"{key.id}/20261120/r/s3/aws4_request"
    signing = f"AWS4{key.secret}".encode()
    for part in credential.split("/")[1:]:
        signing = hmac.digest(signing, part.encode(), "sha256")
    fields = {"key": "k", "policy": policy, "x-amz-credential": credential, "x-amz-algorithm": "AWS4-HMAC-SHA256"}
    right = hmac.digest(signing, policy.encode(), "sha256").hex()
    for changes, code in (
        ({"x-amz-signature": "0" * 64}, "SignatureDoesNotMatch"),
        ({"x-amz-signature": right, "x-amz-algorithm": "none"}, "InvalidArgument"),
        ({"x-amz-signature": right, "policy": policy[:-4] + "AAAA"}, "SignatureDoesNotMatch"),
        ({"x-amz-signature": right}, ""),
    ):
        lines = []
        for name, value in (fields | changes).items():
            lines += ["--x", f'Content-Disposition: form-data; name="{name}"', "", value]
        lines += ["--x", 'Content-Disposition: form-data; name="file"; filename="n"', "", "f\r\n--x--\r\n"]
        headers = {"host": HOST, "content-type": "multipart/form-data; boundary=x"}
        assert (await desk.send(Asked("POST", "/bucket", headers, "\r\n".join(lines).encode()))).code == code


async def test_nobody_is_asked_nothing(desk: Desk, key: AccessKey) -> None:
    await put(desk, key, "/bucket/k")
    for method, target in (("GET", "/"), ("GET", "/bucket/k"), ("PUT", "/bucket/k"), ("POST", "/bucket?delete")):
        asked = Asked(method, target, {"host": HOST, "content-length": "1"}, b"x")
        assert (await desk.send(asked)).code == "AccessDenied"
    asked = form(key, [BUCKET, KEY], {"key": "k"})
    body = asked.body.replace(b'name="policy"', b'name="polish"')
    assert (await desk.send(asked._replace(body=body))).code == "AccessDenied"
