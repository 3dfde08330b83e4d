"""The S3 API as boto3 uses it: everything but what the reference documents show (test_documents.py)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import re
import socket
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import oss2
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.served import Served, client

MIB = 1 << 20


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_buckets(s3: Any, name: str) -> None:
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] == "eu-west-1"
    assert name in [found["Name"] for found in s3.list_buckets()["Buckets"]]
    s3.head_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="a/b", Body=b"x")
    with pytest.raises(ClientError) as error:
        s3.delete_bucket(Bucket=name)
    assert code_of(error) == "BucketNotEmpty"
    s3.delete_object(Bucket=name, Key="a/b")
    s3.delete_bucket(Bucket=name)
    with pytest.raises(ClientError) as error:
        s3.list_objects_v2(Bucket=name)
    assert code_of(error) == "NoSuchBucket"


@pytest.mark.parametrize("wrong", ["AB", "with_underscore", "192.168.0.1"])
def test_names_of_buckets(served: Served, key: dict[str, Any], wrong: str) -> None:
    s3 = client(served.url, key, parameter_validation=False)
    with pytest.raises((ClientError, ValueError)):
        s3.create_bucket(Bucket=wrong)
    s3.close()


@pytest.mark.parametrize("key_name", ["a", "a/b/c.txt", "ü/ß ?&=+#%", "y/" * 200 + "y", "a//b", "dir/"])
def test_put_and_get(s3: Any, bucket: str, key_name: str) -> None:
    body = b"some content"
    put = s3.put_object(
        Bucket=bucket,
        Key=key_name,
        Body=body,
        ContentType="text/plain",
        Metadata={"colour": "red"},
        CacheControl="no-cache",
    )
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = s3.get_object(Bucket=bucket, Key=key_name)
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (body, "text/plain", {"colour": "red"})
    assert (got["CacheControl"], got["ETag"]) == ("no-cache", put["ETag"])
    assert "VersionId" not in got
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key_name]
    head = s3.head_object(Bucket=bucket, Key=key_name)
    assert head["ContentLength"] == len(body)


def test_ranges_and_conditions(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="f", Body=b"0123456789")["ETag"]
    for wanted, body in (("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-3", b"789"), ("bytes=5-99", b"56789")):
        got = s3.get_object(Bucket=bucket, Key="f", Range=wanted)
        assert (got["Body"].read(), got["ResponseMetadata"]["HTTPStatusCode"]) == (body, 206)
    for options, code in (
        ({"Range": "bytes=10-"}, "InvalidRange"),
        ({"IfMatch": '"other"'}, "PreconditionFailed"),
        ({"IfNoneMatch": etag}, "304"),
        ({"IfModifiedSince": datetime.now(UTC) + timedelta(days=1)}, "304"),
        ({"IfUnmodifiedSince": datetime.now(UTC) - timedelta(days=1)}, "PreconditionFailed"),
    ):
        with pytest.raises(ClientError) as error:
            s3.get_object(Bucket=bucket, Key="f", **options)
        assert code_of(error) == code
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="f", Body=b"", IfNoneMatch="*")
    assert code_of(error) == "PreconditionFailed"
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="f", Body=b"", IfNoneMatch=etag)
    assert code_of(error) == "PreconditionFailed"
    s3.put_object(Bucket=bucket, Key="f", Body=b"new", IfMatch=etag)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums(s3: Any, bucket: str, algorithm: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="f", Body=b"x" * 300_000, ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="f", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    found = s3.get_object_attributes(Bucket=bucket, Key="f", ObjectAttributes=["Checksum", "ObjectSize", "ETag"])
    assert (found["Checksum"][f"Checksum{algorithm}"], found["ObjectSize"]) == (put[f"Checksum{algorithm}"], 300_000)
    wrong = {f"Checksum{algorithm}": put[f"Checksum{algorithm}"]}
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="f", Body=b"y", **wrong)
    assert code_of(error) == "BadDigest"
    assert s3.get_object(Bucket=bucket, Key="f")["Body"].read() == b"x" * 300_000


def test_listing_with_prefix_and_delimiter(s3: Any, bucket: str) -> None:
    keys = ["a", "a/1", "a/2", "a0", "b/c/d", "b/e", "c"]
    for item in keys:
        s3.put_object(Bucket=bucket, Key=item, Body=b"")
    assert [item["Key"] for item in s3.list_objects(Bucket=bucket)["Contents"]] == sorted(keys)
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [item["Key"] for item in page["Contents"]] == ["a", "a0", "c"]
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["a/", "b/"]
    page = s3.list_objects_v2(Bucket=bucket, Prefix="b/", Delimiter="/")
    assert ([item["Key"] for item in page["Contents"]], page["CommonPrefixes"]) == (["b/e"], [{"Prefix": "b/c/"}])
    for call in ("list_objects_v2", "list_objects"):
        pages = s3.get_paginator(call).paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
        assert [item["Key"] for page in pages for item in page.get("Contents", [])] == sorted(keys)


def test_copy(s3: Any, versioned: str) -> None:
    first = s3.put_object(Bucket=versioned, Key="from ü", Body=b"one", Metadata={"a": "b"}, Tagging="k=v")
    s3.put_object(Bucket=versioned, Key="from ü", Body=b"two")
    source = {"Bucket": versioned, "Key": "from ü", "VersionId": first["VersionId"]}
    done = s3.copy_object(Bucket=versioned, Key="to", CopySource=source)
    assert done["CopySourceVersionId"] == first["VersionId"]
    got = s3.get_object(Bucket=versioned, Key="to")
    assert (got["Body"].read(), got["Metadata"], got["TagCount"]) == (b"one", {"a": "b"}, 1)
    s3.copy_object(Bucket=versioned, Key="to", CopySource=source, MetadataDirective="REPLACE", Metadata={"c": "d"})
    assert s3.head_object(Bucket=versioned, Key="to")["Metadata"] == {"c": "d"}
    with pytest.raises(ClientError) as error:
        s3.copy_object(Bucket=versioned, Key="to", CopySource={"Bucket": versioned, "Key": "to"})
    assert code_of(error) == "InvalidRequest"


def test_versions(s3: Any, versioned: str) -> None:
    ids = [s3.put_object(Bucket=versioned, Key="k", Body=bytes([number]))["VersionId"] for number in range(3)]
    marker = s3.delete_object(Bucket=versioned, Key="k")
    assert marker["DeleteMarker"]
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=versioned, Key="k")
    assert code_of(error) == "NoSuchKey"
    assert error.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=versioned, Key="k", VersionId=marker["VersionId"])
    assert code_of(error) == "MethodNotAllowed"
    headers = error.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["allow"], headers["x-amz-delete-marker"], "last-modified" in headers) == ("DELETE", "true", True)
    for wrong, code in (("20200101T000000.000001Z", "NoSuchVersion"), ("no-id", "InvalidArgument")):
        with pytest.raises(ClientError) as error:
            s3.get_object(Bucket=versioned, Key="k", VersionId=wrong)
        assert code_of(error) == code
    assert s3.get_object(Bucket=versioned, Key="k", VersionId=ids[0])["Body"].read() == b"\0"
    again = s3.delete_object(Bucket=versioned, Key="k")  # a marker over a marker
    assert again["VersionId"] != marker["VersionId"]
    for one in (again, marker):
        gone = s3.delete_object(Bucket=versioned, Key="k", VersionId=one["VersionId"])
        assert (gone["DeleteMarker"], gone["VersionId"]) == (True, one["VersionId"])
    assert s3.get_object(Bucket=versioned, Key="k")["Body"].read() == b"\2"
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[2])
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == ids[1]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[2])  # permanent deletes are idempotent


def test_every_name_has_versions(s3: Any, versioned: str) -> None:
    ids = {s3.put_object(Bucket=versioned, Key=key, Body=b"x")["VersionId"] for key in ("f~", "f~", ".f.swp")}
    assert len(ids) == 3


def test_suspended(s3: Any, versioned: str) -> None:
    kept = s3.put_object(Bucket=versioned, Key="k", Body=b"kept")["VersionId"]
    s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Suspended"})
    assert "VersionId" not in s3.put_object(Bucket=versioned, Key="k", Body=b"null one")
    marker = s3.delete_object(Bucket=versioned, Key="k")
    assert (marker["VersionId"], marker["DeleteMarker"]) == ("null", True)
    found = s3.list_object_versions(Bucket=versioned)
    assert [item["VersionId"] for item in found["Versions"]] == [kept]
    assert [item["VersionId"] for item in found["DeleteMarkers"]] == ["null"]


def test_deletes_with_conditions(s3: Any, versioned: str) -> None:
    made = s3.put_object(Bucket=versioned, Key="k", Body=b"x")
    where = {"Bucket": versioned, "Key": "k", "VersionId": made["VersionId"]}
    with pytest.raises(ClientError) as error:
        s3.delete_object(**where, IfMatch='"other"')
    assert code_of(error) == "PreconditionFailed"
    s3.delete_object(**where, IfMatch=made["ETag"])
    s3.delete_object(**where, IfMatch=made["ETag"])  # there is nothing any more: no error


def test_suspended_before_it_was_enabled(s3: Any, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Suspended"


def test_delete_objects(s3: Any, versioned: str) -> None:
    made = s3.put_object(Bucket=versioned, Key="a", Body=b"")
    wanted = [{"Key": "a"}, {"Key": "a", "VersionId": made["VersionId"]}, {"Key": "a", "VersionId": "wrong"}]
    done = s3.delete_objects(Bucket=versioned, Delete={"Objects": wanted})
    assert [item["Code"] for item in done["Errors"]] == ["InvalidArgument"]
    marker, purged = done["Deleted"]
    assert marker["DeleteMarker"]
    assert marker["DeleteMarkerVersionId"] != made["VersionId"]
    assert purged == {"Key": "a", "VersionId": made["VersionId"]}


def test_multipart(s3: Any, versioned: str) -> None:
    body = bytes(range(256)) * (11 * MIB // 256)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_fileobj(io.BytesIO(body), versioned, "big", Config=config)
    got = io.BytesIO()
    s3.download_fileobj(versioned, "big", got, Config=config)
    assert got.getvalue() == body
    head = s3.head_object(Bucket=versioned, Key="big", PartNumber=3)
    assert (head["PartsCount"], head["ContentLength"]) == (3, MIB)
    digests = b"".join(hashlib.md5(body[at : at + 5 * MIB]).digest() for at in range(0, len(body), 5 * MIB))
    assert head["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-3"'


def test_the_checksum_of_a_whole_upload(s3: Any, bucket: str) -> None:
    """In the headers of the completion, and not that of its XML."""
    where = {"Bucket": bucket, "Key": "k"}
    made = s3.create_multipart_upload(**where, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    where["UploadId"] = made["UploadId"]
    part = s3.upload_part(**where, PartNumber=1, Body=b"123456789", ChecksumAlgorithm="CRC32")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumCRC32": part["ChecksumCRC32"]}]}
    with pytest.raises(ClientError) as error:
        s3.complete_multipart_upload(**where, MultipartUpload=parts, ChecksumCRC32="AAAAAA==")
    assert code_of(error) == "BadDigest"
    done = s3.complete_multipart_upload(**where, MultipartUpload=parts, ChecksumCRC32="y/Q5Jg==")
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == ("y/Q5Jg==", "FULL_OBJECT")
    assert s3.head_object(Bucket=bucket, Key="k", PartNumber=1, ChecksumMode="ENABLED")["ChecksumCRC32"] == "y/Q5Jg=="


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_metadata_that_is_no_ascii(served: Served, s3: Any, key: dict[str, Any], bucket: str) -> None:
    auth = oss2.Auth(key["AccessKeyId"], key["SecretAccessKey"])
    oss = oss2.Bucket(auth, served.url, bucket)
    oss.put_object("k", b"", headers={"x-oss-meta-a": "ü"})
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"a": "ü"}
    oss.session.session.close()


def test_pages_of_buckets(s3: Any, bucket: str) -> None:
    s3.create_bucket(Bucket=f"{bucket}-2")
    pages = list(s3.get_paginator("list_buckets").paginate(Prefix=bucket, PaginationConfig={"PageSize": 1}))
    assert [found["Name"] for page in pages for found in page["Buckets"]] == [bucket, f"{bucket}-2"]


def test_multipart_by_hand(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="source", Body=b"s" * (6 * MIB))
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", Metadata={"a": "b"}, ChecksumAlgorithm="CRC32C")[
        "UploadId"
    ]
    where = {"Bucket": bucket, "Key": "k", "UploadId": upload}
    first = s3.upload_part(**where, PartNumber=1, Body=b"a" * (5 * MIB), ChecksumAlgorithm="CRC32C")
    copied = s3.upload_part_copy(
        **where, PartNumber=2, CopySource=f"{bucket}/source", CopySourceRange="bytes=1-5242880"
    )
    third = s3.upload_part(**where, PartNumber=3, Body=b"c", ChecksumAlgorithm="CRC32C")
    listed = s3.list_parts(**where)
    assert [(part["PartNumber"], part["Size"]) for part in listed["Parts"]] == [(1, 5 * MIB), (2, 5 * MIB), (3, 1)]
    assert [item["UploadId"] for item in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    parts = [
        {"PartNumber": 1, "ETag": first["ETag"], "ChecksumCRC32C": first["ChecksumCRC32C"]},
        {"PartNumber": 2, "ETag": copied["CopyPartResult"]["ETag"]},
        {"PartNumber": 3, "ETag": third["ETag"]},
    ]
    for wrong, code in (
        ([parts[1], parts[0]], "InvalidPartOrder"),
        ([parts[0] | {"ETag": '"0"'}], "InvalidPart"),
        ([parts[0], parts[2], {"PartNumber": 4, "ETag": first["ETag"]}], "InvalidPart"),
    ):
        with pytest.raises(ClientError) as error:
            s3.complete_multipart_upload(**where, MultipartUpload={"Parts": wrong})
        assert code_of(error) == code
    done = s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    again = s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    told = ("ETag", "Key", "ChecksumCRC32C", "ChecksumType")
    assert [again[word] for word in told] == [done[word] for word in told], "who lost the answer asks again"
    with pytest.raises(ClientError) as error:
        s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts[:1]})
    assert code_of(error) == "NoSuchUpload"
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["ETag"], got["Metadata"]) == (done["ETag"], {"a": "b"})
    assert got["Body"].read() == b"a" * (5 * MIB) + b"s" * (5 * MIB) + b"c"
    found = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts", "Checksum"])
    assert (found["ObjectParts"]["TotalPartsCount"], found["Checksum"]["ChecksumType"]) == (3, "COMPOSITE")
    other = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=other)
    with pytest.raises(ClientError) as error:
        s3.list_parts(Bucket=bucket, Key="k", UploadId=other)
    assert code_of(error) == "NoSuchUpload"


def test_tags(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    tags = [{"Key": "a", "Value": "b c"}]
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": tags})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == tags
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags


def test_object_lock(s3: Any, name: str) -> None:
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    days = {"Mode": "GOVERNANCE", "Days": 1}
    config = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": days}}
    s3.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=config)
    assert s3.get_object_lock_configuration(Bucket=name)["ObjectLockConfiguration"] == config
    made = {"Bucket": name, "Key": "k", "VersionId": s3.put_object(Bucket=name, Key="k", Body=b"x")["VersionId"]}
    assert s3.get_object_retention(**made)["Retention"]["Mode"] == "GOVERNANCE"
    assert s3.head_object(**made)["ObjectLockMode"] == "GOVERNANCE"
    with pytest.raises(ClientError) as error:
        s3.delete_object(**made)
    assert code_of(error) == "AccessDenied"
    with pytest.raises(ClientError) as error:
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    assert code_of(error) == "InvalidBucketState"
    s3.put_object_legal_hold(**made, LegalHold={"Status": "ON"})
    assert s3.get_object_legal_hold(**made)["LegalHold"] == {"Status": "ON"}
    with pytest.raises(ClientError) as error:
        s3.delete_object(**made, BypassGovernanceRetention=True)
    assert code_of(error) == "AccessDenied"
    s3.put_object_legal_hold(**made, LegalHold={"Status": "OFF"})
    s3.delete_object(Bucket=name, Key="k")  # a marker is always possible
    s3.delete_object(**made, BypassGovernanceRetention=True)


def test_lifecycle(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert code_of(error) == "NoSuchLifecycleConfiguration"
    rules = [
        {"ID": "one", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}},
        {
            "ID": "two",
            "Status": "Disabled",
            "Filter": {"And": {"Prefix": "x", "Tags": [{"Key": "a", "Value": "b"}]}},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 2, "NewerNoncurrentVersions": 5},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        },
    ]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == rules
    s3.delete_bucket_lifecycle(Bucket=bucket)


def test_when_an_object_expires(s3: Any, bucket: str) -> None:
    rules = [{"ID": 'a "rule" ü', "Status": "Enabled", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 2}}]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    put = s3.put_object(Bucket=bucket, Key="a/k", Body=b"x")
    found = re.fullmatch(r'expiry-date="([^"]*)", rule-id="(.*)"', put["Expiration"])
    assert found is not None
    left = parsedate_to_datetime(found[1]) - datetime.now(UTC)
    assert timedelta(days=2) < left <= timedelta(days=3)
    assert found[2] == "a %22rule%22 %C3%BC"
    assert s3.head_object(Bucket=bucket, Key="a/k")["Expiration"] == put["Expiration"]
    assert "Expiration" not in s3.put_object(Bucket=bucket, Key="b", Body=b"x")


def test_what_no_header_can_say(served: Served, s3: Any, bucket: str) -> None:
    import requests

    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="k", ResponseContentType="a\r\nSet-Cookie: b")
    assert code_of(error) == "InvalidArgument"
    form = s3.generate_presigned_post(bucket, "k", Conditions=[["starts-with", "$x-amz-meta-a", ""]])
    fields = {**form["fields"], "x-amz-meta-a": "b\r\nSet-Cookie: c"}
    answer = requests.post(f"{served.url}/{bucket}", data=fields, files={"file": b"x"}, timeout=60)
    assert (answer.status_code, "InvalidArgument" in answer.text) == (400, True)


def test_what_there_is_not(s3: Any, bucket: str) -> None:
    for call, code in (
        (s3.get_bucket_cors, "NoSuchCORSConfiguration"),
        (s3.get_bucket_policy, "NoSuchBucketPolicy"),
        (s3.get_bucket_website, "NoSuchWebsiteConfiguration"),
        (s3.get_bucket_encryption, "ServerSideEncryptionConfigurationNotFoundError"),
        (s3.get_bucket_tagging, "NoSuchTagSet"),
        (s3.get_object_lock_configuration, "ObjectLockConfigurationNotFoundError"),
    ):
        with pytest.raises(ClientError) as error:
            call(Bucket=bucket)
        assert code_of(error) == code
    with pytest.raises(ClientError) as error:
        s3.put_bucket_policy(Bucket=bucket, Policy="{}")
    assert code_of(error) == "NotImplemented"
    grants = s3.get_bucket_acl(Bucket=bucket)["Grants"]
    assert [grant["Permission"] for grant in grants] == ["FULL_CONTROL"]
    with pytest.raises(ClientError) as error:
        s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert code_of(error) == "AccessControlListNotSupported"


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_presigned(served: Served, key: dict[str, Any], bucket: str, version: str) -> None:
    s3 = client(served.url, key, signature_version=version)
    where = {"Bucket": bucket, "Key": "k ü"}
    put = s3.generate_presigned_url("put_object", Params=where)
    with urlopen(Request(put, data=b"hello", method="PUT", headers={"Content-Type": ""})) as answer:
        assert answer.status == 200
    with urlopen(s3.generate_presigned_url("get_object", Params=where)) as answer:
        assert answer.read() == b"hello"
    s3.close()


def test_signature_version_2(served: Served, key: dict[str, Any], bucket: str) -> None:
    s3 = client(served.url, key, signature_version="s3")
    s3.put_object(Bucket=bucket, Key="a b/ü", Body=b"hello", Metadata={"x": "y"})
    assert s3.get_object(Bucket=bucket, Key="a b/ü", ResponseContentType="a/b")["ContentType"] == "a/b"
    assert s3.list_object_versions(Bucket=bucket)["Versions"][0]["VersionId"] == "null"
    s3.close()


@pytest.mark.parametrize("more", ["legal-hold", "retention", "attributes"])
def test_another_operation_of_a_presigned_request(served: Served, key: dict[str, Any], bucket: str, more: str) -> None:
    s3 = client(served.url, key, signature_version="s3")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    with pytest.raises(HTTPError) as error, urlopen(Request(f"{url}&{more}", data=b"x", method="PUT"), timeout=60):
        pass
    assert error.value.code == 403
    error.value.close()
    s3.close()


def test_virtual_host_style(served: Served, key: dict[str, Any], bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: real("127.0.0.1", *more, **named))
    url = f"http://localhost:{served.port}"
    s3 = client(url, key, s3={"addressing_style": "virtual"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello")
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["Key"] == "k"
    s3.close()


def test_post_object(served: Served, s3: Any, key: dict[str, Any], bucket: str) -> None:
    import requests

    conditions: list[Any] = [["starts-with", "$x-amz-meta-a", ""], ["content-length-range", 1, 10]]
    form = s3.generate_presigned_post(bucket, "dir/${filename}", Conditions=conditions)
    fields = {**form["fields"], "x-amz-meta-a": "b"}
    url = f"{served.url}/{bucket}"
    answer = requests.post(url, data=fields, files={"file": ("name.txt", b"0123456789")}, timeout=60)
    assert answer.status_code == 204, answer.text
    got = s3.get_object(Bucket=bucket, Key="dir/name.txt")
    assert (got["Body"].read(), got["Metadata"]) == (b"0123456789", {"a": "b"})
    for wrong, data, code in (
        ({}, b"01234567890", "EntityTooLarge"),
        ({"x-amz-meta-z": "1"}, b"0", "AccessDenied"),
        ({"policy": "e30="}, b"0", "SignatureDoesNotMatch"),
    ):
        answer = requests.post(url, data={**fields, **wrong}, files={"file": ("n", data)}, timeout=60)
        assert f"<Code>{code}</Code>" in answer.text


def test_the_checksum_of_a_form(served: Served, s3: Any, bucket: str) -> None:
    import requests

    fields: dict[str, str] = s3.generate_presigned_post(bucket, "k")["fields"]
    told = base64.b64encode(hashlib.sha256(b"content").digest()).decode()
    for body, status in ((b"another", 400), (b"content", 204)):
        form = {**fields, "x-amz-checksum-sha256": told}
        answer = requests.post(f"{served.url}/{bucket}", data=form, files={"file": body}, timeout=60)
        assert answer.status_code == status, answer.text
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumSHA256"] == told


def test_a_lock_that_is_over_keeps_no_default_away(served: Served, s3: Any, name: str) -> None:
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    past = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": datetime(2020, 1, 1, tzinfo=UTC)}
    s3.put_object(Bucket=name, Key="k", Body=b"")
    for call in (
        lambda: s3.put_object(Bucket=name, Key="l", **past),
        lambda: s3.copy_object(Bucket=name, Key="l", CopySource=f"{name}/k", **past),
        lambda: s3.create_multipart_upload(Bucket=name, Key="l", **past),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert code_of(error) == "InvalidArgument"
    assert s3.list_objects_v2(Bucket=name)["KeyCount"] == 1


def test_the_policy_of_a_form_names_the_bucket(served: Served, s3: Any, key: dict[str, Any], bucket: str) -> None:
    import requests

    document = '{"expiration": "2099-01-01T00:00:00Z", "conditions": [["starts-with", "$key", ""]]}'
    policy = base64.b64encode(document.encode()).decode()
    secret = key["SecretAccessKey"].encode()
    signature = base64.b64encode(hmac.digest(secret, policy.encode(), "sha1")).decode()
    form = {"key": "k", "AWSAccessKeyId": key["AccessKeyId"], "policy": policy, "signature": signature}
    answer = requests.post(f"{served.url}/{bucket}", data=form, files={"file": b"x"}, timeout=60)
    assert (answer.status_code, "Extra input fields: bucket" in answer.text) == (403, True), answer.text


@pytest.mark.parametrize("digits", ["9" * 5000, "00000000199", "1" * 19])
def test_long_numbers(s3: Any, bucket: str, digits: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.meta.events.register("before-sign.s3", lambda request, **_: put_number(request, digits))
    for call in (
        lambda: s3.get_object(Bucket=bucket, Key="k"),
        lambda: s3.delete_object(Bucket=bucket, Key="k", IfMatchSize=1),
        lambda: s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"], MaxParts=1),
        lambda: s3.upload_part(Bucket=bucket, Key="k", UploadId="none", PartNumber=1, Body=b""),
    ):
        statuses = []
        try:
            call()
        except ClientError as error:
            statuses.append(error.response["ResponseMetadata"]["HTTPStatusCode"])
        assert not [status for status in statuses if status >= 500]


def put_number(request: Any, digits: str) -> None:
    """Instead of the number that a request has."""
    for name in ("x-amz-if-match-size", "x-amz-max-parts"):
        if name in request.headers:
            del request.headers[name]
            request.headers[name] = digits
    if "partNumber=1" in request.url:
        request.url = request.url.replace("partNumber=1", f"partNumber={digits}")
    elif request.method == "GET" and "?" not in request.url:
        request.url += f"?partNumber={digits}"


def test_rights(served: Served, s3: Any, key: dict[str, Any], bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    reader = client(served.url, served.key("--read-only"))
    stranger = client(served.url, served.key("--owner", "somebody"))
    limited = client(served.url, served.key("--owner", "somebody", "--bucket", bucket))
    assert reader.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    limited.put_object(Bucket=bucket, Key="l", Body=b"")
    for call in (
        lambda: reader.put_object(Bucket=bucket, Key="k", Body=b""),
        lambda: reader.delete_object(Bucket=bucket, Key="k"),
        lambda: reader.create_bucket(Bucket="another"),
        lambda: stranger.get_object(Bucket=bucket, Key="k"),
        lambda: stranger.delete_bucket(Bucket=bucket),
        lambda: limited.create_bucket(Bucket="another"),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert code_of(error) == "AccessDenied"
    assert stranger.list_buckets()["Buckets"] == []
    for one in (reader, stranger, limited):
        one.close()


def test_wrong_keys(served: Served, key: dict[str, Any]) -> None:
    for wrong, code in (
        ({"SecretAccessKey": "wrong"}, "SignatureDoesNotMatch"),
        ({"AccessKeyId": "VFSNOBODY"}, "InvalidAccessKeyId"),
    ):
        s3 = client(served.url, key | wrong)
        with pytest.raises(ClientError) as error:
            s3.list_buckets()
        assert code_of(error) == code
        s3.close()


def test_nobody(served: Served) -> None:
    from botocore import UNSIGNED
    from botocore.config import Config

    s3 = boto3.client("s3", endpoint_url=served.url, region_name="x", config=Config(signature_version=UNSIGNED))
    with pytest.raises(ClientError) as error:
        s3.list_buckets()
    assert code_of(error) == "AccessDenied"
    s3.close()
