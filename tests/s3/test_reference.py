"""What the reference documents show, done by their own clients, unmodified: each test is one of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
from collections.abc import Iterator
from email.utils import formatdate
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import oss2
import pytest
from botocore.exceptions import ClientError
from oss2.models import BatchDeleteObjectVersion, BatchDeleteObjectVersionList, BucketVersioningConfig, PartInfo

from tests.mounted import run
from tests.served import Served, environment, mfa_code

# The SDKs leave connections open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

OBS_SAMPLE = """<?xml version="1.0" encoding="UTF-8"?>
<VersioningConfiguration xmlns="http://obs.example.com/doc/2015-06-30/">%s</VersioningConfiguration>"""


@pytest.fixture(params=["V1", "V2", "V4"])
def oss(request: pytest.FixtureRequest, served: Served, key: dict[str, Any], name: str) -> Iterator[Any]:
    """A bucket as oss2 sees it, with each of the signatures that it has."""
    pair = key["AccessKeyId"], key["SecretAccessKey"]
    auth = {"V1": oss2.Auth, "V2": oss2.AuthV2, "V4": oss2.AuthV4}[request.param](*pair)
    bucket = oss2.Bucket(auth, served.url, name, region="cn-hangzhou")
    bucket.create_bucket()
    yield bucket
    bucket.session.session.close()


# -- 000: Alibaba OSS, the Python SDK -------------------------------------------------------------------------------


def test_000_versioning_by_oss2(oss: Any) -> None:
    assert oss.get_bucket_versioning().status is None
    for status in (oss2.BUCKET_VERSIONING_ENABLE, oss2.BUCKET_VERSIONING_SUSPEND):
        config = BucketVersioningConfig()
        config.status = status
        result = oss.put_bucket_versioning(config)
        assert result.status == 200
        assert oss.get_bucket_versioning().status == status


def test_000_what_else_oss2_does(oss: Any) -> None:
    put = oss.put_object("dir/ü key", b"hello", headers={"x-oss-meta-a": "b"})
    assert put.request_id
    got = oss.get_object("dir/ü key")
    assert (got.read(), got.headers["x-oss-meta-a"]) == (b"hello", "b")
    assert oss.get_object("dir/ü key", byte_range=(1, 3)).read() == b"ell"
    assert oss.head_object("dir/ü key").content_length == 5
    assert oss.object_exists("dir/ü key")
    assert [item.key for item in oss.list_objects(prefix="dir/").object_list] == ["dir/ü key"]
    assert [item.key for item in oss.list_objects_v2().object_list] == ["dir/ü key"]
    oss.copy_object(oss.bucket_name, "dir/ü key", "copy")
    upload = oss.init_multipart_upload("parts").upload_id
    parts = [PartInfo(number, oss.upload_part("parts", upload, number, b"p" * 102_400).etag) for number in (1, 2)]
    oss.complete_multipart_upload("parts", upload, parts)
    assert oss.get_object("parts").read() == b"p" * 204_800
    assert oss.get_bucket_info().name == oss.bucket_name
    assert oss.get_bucket_acl().acl == "private"
    with pytest.raises(oss2.exceptions.NoSuchKey) as error:
        oss.get_object("nothing")
    assert (error.value.status, error.value.code) == (404, "NoSuchKey")
    url = oss.sign_url("GET", "copy", 60, slash_safe=True)
    assert oss2.http.Session().do_request(oss2.http.Request("GET", url), 10).read() == b"hello"
    oss.batch_delete_objects(["dir/ü key", "copy", "parts"])
    oss.delete_bucket()


# -- 001: boto3 -------------------------------------------------------------------------------------------------------


def test_001_put_bucket_versioning(s3: Any, key: dict[str, Any], bucket: str) -> None:
    found = s3.get_bucket_versioning(Bucket=bucket)
    assert "Status" not in found
    assert "MFADelete" not in found
    enabled = {"MFADelete": "Disabled", "Status": "Enabled"}
    owner = "111122223333"
    response = s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=enabled, ExpectedBucketOwner=owner)
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"

    with_mfa = {"MFADelete": "Enabled", "Status": "Enabled"}
    for code in (None, f"{key['MfaSerial']} 000000", "nothing 123456"):
        options = {} if code is None else {"MFA": code}
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=with_mfa, **options)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=with_mfa, MFA=mfa_code(key))
    found = s3.get_bucket_versioning(Bucket=bucket)
    assert (found["Status"], found["MFADelete"]) == ("Enabled", "Enabled")

    version = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"]
    s3.delete_object(Bucket=bucket, Key="k")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket=bucket, Key="k", VersionId=version)
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.delete_object(Bucket=bucket, Key="k", VersionId=version, MFA=mfa_code(key))
    suspended = {"MFADelete": "Disabled", "Status": "Suspended"}
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=suspended, MFA=mfa_code(key))
    found = s3.get_bucket_versioning(Bucket=bucket)
    assert (found["Status"], found["MFADelete"]) == ("Suspended", "Disabled")


# -- 002: the aws command line ----------------------------------------------------------------------------------------


def test_002_aws_command_line(served: Served, key: dict[str, Any], name: str, tmp_path: Path) -> None:
    import json

    def aws(*words: str) -> str:
        aws_cli = str(Path(__import__("sys").executable).parent / "aws")
        command = [aws_cli, *words, f"--endpoint-url={served.url}"]
        done = run(command, env=environment(key), cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    region = "eu-central-1"
    where = ["--create-bucket-configuration", f"LocationConstraint={region}"]
    aws("s3api", "create-bucket", "--bucket", name, "--region", region, *where)
    aws("s3api", "put-bucket-versioning", "--bucket", name, "--versioning-configuration", "Status=Enabled")
    for text in ("first", "the second"):
        (tmp_path / "file").write_text(text)
        aws("s3", "cp", "file", f"s3://{name}/testfile")
    listed = json.loads(aws("s3api", "list-object-versions", "--bucket", name, "--prefix", "testfile"))
    new, old = listed["Versions"]
    fields = {"ETag", "Size", "StorageClass", "Key", "VersionId", "IsLatest", "LastModified", "Owner"}
    assert fields <= set(new)
    assert (new["IsLatest"], old["IsLatest"], new["Size"], old["Size"]) == (True, False, 10, 5)
    assert new["ETag"] == f'"{hashlib.md5(b"the second").hexdigest()}"'
    assert (new["Key"], new["StorageClass"], new["Owner"]["ID"]) == ("testfile", "STANDARD", key["OwnerId"])
    aws("s3api", "get-object", "--bucket", name, "--key", "testfile", "--version-id", old["VersionId"], "got")
    assert (tmp_path / "got").read_text() == "first"

    locked = f"{name}-locked"
    aws("s3api", "create-bucket", "--bucket", locked, "--object-lock-enabled-for-bucket")
    aws("s3", "cp", "file", f"s3://{locked}/testfile")
    until = "2099-01-01T00:00:00Z"
    retention = f"Mode=COMPLIANCE,RetainUntilDate={until}"
    aws("s3api", "put-object-retention", "--bucket", locked, "--key", "testfile", "--retention", retention)
    found = json.loads(aws("s3api", "get-object-retention", "--bucket", locked, "--key", "testfile"))
    assert found["Retention"]["Mode"] == "COMPLIANCE"


# -- 003: Huawei OBS, plain HTTP --------------------------------------------------------------------------------------


def test_003_obs_over_http(served: Served, s3: Any, key: dict[str, Any], bucket: str) -> None:
    def ask() -> tuple[int, str, Any]:
        date = formatdate(usegmt=True)
        text = f"GET\n\n\n{date}\n/{bucket}/?versioning"
        secret = key["SecretAccessKey"].encode()
        signature = base64.b64encode(hmac.digest(secret, text.encode(), "sha1")).decode()
        connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
        headers = {
            "User-Agent": "curl/7.29.0",
            "Host": f"{bucket}.obs.example.com",
            "Accept": "*/*",
            "Date": date,
            "Authorization": f"AWS {key['AccessKeyId']}:{signature}",
        }
        connection.request("GET", "/?versioning", headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body, answer.headers

    status, body, headers = ask()
    assert (status, body) == (200, OBS_SAMPLE % "")
    assert headers["Content-Type"] == "application/xml"
    assert headers["x-amz-request-id"]
    for word in ("Enabled", "Suspended"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": word})
        status, body, _ = ask()
        assert (status, body) == (200, OBS_SAMPLE % f"<Status>{word}</Status>")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("signature", ["obs", "v2", "v4"])
@pytest.mark.parametrize("host", ["127.0.0.1", "obs.localhost"])
def test_003_obs_by_its_sdk(
    served: Served, key: dict[str, Any], name: str, signature: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an address it takes the path, and signs as for S3; by a name it does as for OBS."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: real("127.0.0.1", *more, **named))
    from obs import CompleteMultipartUploadRequest, CompletePart, GetObjectRequest, ObsClient, PutObjectHeader

    obs = ObsClient(
        access_key_id=key["AccessKeyId"],
        secret_access_key=key["SecretAccessKey"],
        server=f"http://{host}:{served.port}",
        signature=signature,
        is_signature_negotiation=False,
        path_style=host == "127.0.0.1",
        max_retry_count=0,
    )

    def done(answer: Any) -> Any:
        assert answer.status < 300, (answer.errorCode, answer.errorMessage)
        return answer

    done(obs.createBucket(name))
    assert not done(obs.getBucketVersioning(name)).body
    done(obs.setBucketVersioning(name, "Enabled"))
    assert done(obs.getBucketVersioning(name)).body == "Enabled"
    first = done(obs.putContent(name, "dir/k ü", "one", metadata={"a": "b"})).body.versionId
    second = done(obs.putContent(name, "dir/k ü", "two", headers=PutObjectHeader(contentType="text/x"))).body.versionId
    listed = done(obs.listVersions(name)).body.versions
    assert [(item.versionId, item.isLatest) for item in listed] == [(second, True), (first, False)]
    got = done(
        obs.getObject(name, "dir/k ü", getObjectRequest=GetObjectRequest(versionId=first), loadStreamInMemory=True)
    )
    assert bytes(got.body.buffer) == b"one"
    upload = done(obs.initiateMultipartUpload(name, "parts")).body.uploadId
    parts = []
    part_bytes = 102_400 if (host, signature) == ("obs.localhost", "obs") else 5 << 20
    for number in (1, 2):
        etag = done(obs.uploadPart(name, "parts", number, upload, object="p" * part_bytes)).body.etag
        parts.append(CompletePart(partNum=number, etag=etag))
    done(obs.completeMultipartUpload(name, "parts", upload, CompleteMultipartUploadRequest(parts=parts)))
    done(obs.deleteObject(name, "dir/k ü"))
    assert obs.getObject(name, "dir/k ü", loadStreamInMemory=True).status == 404
    obs.close()


# -- 004: Alibaba OSS, versioned objects ------------------------------------------------------------------------------


@pytest.fixture
def versioned_oss(oss: Any) -> Any:
    oss.put_object("before", b"before")
    oss.put_bucket_versioning(BucketVersioningConfig(oss2.BUCKET_VERSIONING_ENABLE))
    return oss


def test_004_upload(versioned_oss: Any) -> None:
    oss = versioned_oss
    assert oss.head_object("before").versionid == "null"
    ids = [oss.put_object("example.jpg", number).versionid for number in (b"1", b"2")]
    replace = {"x-oss-metadata-directive": "REPLACE"}
    ids.append(oss.copy_object(oss.bucket_name, "example.jpg", "example.jpg", replace).versionid)
    upload = oss.init_multipart_upload("example.jpg").upload_id
    part = PartInfo(1, oss.upload_part("example.jpg", upload, 1, b"3").etag)
    ids.append(oss.complete_multipart_upload("example.jpg", upload, [part]).versionid)
    listed = oss.list_object_versions(prefix="example.jpg").versions
    assert [item.versionid for item in listed] == list(reversed(ids))
    assert len(set(ids)) == 4
    item = listed[0]
    assert (item.is_latest, item.type, item.storage_class) == (True, "Multipart", "Standard")
    assert item.owner.id
    assert isinstance(item.last_modified, int)


def test_004_download_delete_and_recover(versioned_oss: Any) -> None:
    oss = versioned_oss
    one, two, three = (oss.put_object("example.jpg", body).versionid for body in (b"1", b"2", b"3"))
    assert oss.get_object("example.jpg").read() == b"3"
    assert oss.get_object("example.jpg", params={"versionId": two}).read() == b"2"
    deleted = oss.delete_object("example.jpg")
    assert deleted.delete_marker
    with pytest.raises(oss2.exceptions.NoSuchKey) as error:
        oss.get_object("example.jpg")
    assert error.value.status == 404
    listed = oss.list_object_versions(prefix="example.jpg")
    assert [item.versionid for item in listed.delete_marker] == [deleted.versionid]
    assert [item.versionid for item in listed.versions] == [three, two, one]
    oss.copy_object(oss.bucket_name, "example.jpg", "example.jpg", params={"versionId": two})
    assert oss.get_object("example.jpg").read() == b"2"
    newest = oss.head_object("example.jpg").versionid
    assert newest not in (one, two, three)
    oss.delete_object("example.jpg", params={"versionId": newest})  # the marker is current again
    gone = oss.delete_object("example.jpg", params={"versionId": deleted.versionid})
    assert gone.delete_marker
    oss.delete_object("example.jpg", params={"versionId": three})
    assert oss.get_object("example.jpg").read() == b"2"
    both = BatchDeleteObjectVersionList([BatchDeleteObjectVersion("example.jpg", found) for found in (one, two)])
    oss.delete_object_versions(both)
    assert oss.list_object_versions(prefix="example.jpg").versions == []


def test_004_pages_of_900_and_500_versions(served: Served, key: dict[str, Any], s3: Any, versioned: str) -> None:
    """The example of the document: 900 versions of one key and 100 of the other on the first page."""
    made: dict[str, list[str]] = {"example.jpg": [], "photo.jpg": []}
    for name, count in (("example.jpg", 900), ("photo.jpg", 500)):
        for _ in range(count):
            made[name].append(s3.put_object(Bucket=versioned, Key=name, Body=b"")["VersionId"])
    wanted = [(name, found) for name in made for found in reversed(made[name])]
    auth = oss2.Auth(key["AccessKeyId"], key["SecretAccessKey"])
    oss = oss2.Bucket(auth, served.url, versioned)
    first = oss.list_object_versions(max_keys=1000)
    assert [(item.key, item.versionid) for item in first.versions] == wanted[:1000]
    assert first.is_truncated
    rest = oss.list_object_versions(
        max_keys=1000, key_marker=first.next_key_marker, versionid_marker=first.next_versionid_marker
    )
    assert [(item.key, item.versionid) for item in rest.versions] == wanted[1000:]
    assert not rest.is_truncated
    assert len(oss.list_object_versions().versions) == 100  # OSS's default
    s3.delete_object(Bucket=versioned, Key="example.jpg")
    current = s3.list_objects_v2(Bucket=versioned)["Contents"]
    assert [item["Key"] for item in current] == ["photo.jpg"]
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=versioned, PaginationConfig={"PageSize": 333})
    found = [(item["Key"], item["VersionId"]) for page in pages for item in page["Versions"]]
    assert found == wanted
    oss.session.session.close()


def test_004_lifecycle(versioned_oss: Any) -> None:
    rule = oss2.models.LifecycleRule(
        "rule", "logs/", status="Enabled", expiration=oss2.models.LifecycleExpiration(days=3)
    )
    rule.noncurrent_version_expiration = oss2.models.NoncurrentVersionExpiration(30)
    versioned_oss.put_bucket_lifecycle(oss2.models.BucketLifecycle([rule]))
    (found,) = versioned_oss.get_bucket_lifecycle().rules
    assert (found.id, found.prefix, found.status, found.expiration.days) == ("rule", "logs/", "Enabled", 3)
    assert found.noncurrent_version_expiration.noncurrent_days == 30
