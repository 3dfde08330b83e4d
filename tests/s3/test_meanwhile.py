"""What happens to a bucket, an upload or a key while the body of a request is on its way."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from tests.mounted import REPO, run
from tests.served import Served, client

BODY = b"b" * 300_000


class Slow:
    """A presigned PUT whose handler waits for the body: the bucket was found, and the caller let in."""

    def __init__(self, s3: Any, what: str, **parameters: object) -> None:
        url = urlsplit(s3.generate_presigned_url(what, Params=parameters))
        self._socket = socket.create_connection((url.hostname or "", url.port or 0), timeout=60)
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(BODY)}\r\n"
        self._socket.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert self._socket.recv(1000).startswith(b"HTTP/1.1 100 ")

    def end(self) -> tuple[int, str]:
        """Send the body. Returns status and body of the answer."""
        self._socket.sendall(BODY)
        with HTTPResponse(self._socket) as answer:
            answer.begin()
            found = answer.status, answer.read().decode()
        self._socket.close()
        return found


@pytest.fixture
def other(served: Served) -> Iterator[Any]:
    """boto3 with a key of another owner."""
    with ExitStack() as stack:
        made = client(served.url, served.key("--owner", "other"))
        stack.callback(made.close)
        yield made


def test_a_bucket_that_goes(s3: Any, bucket: str) -> None:
    slow = Slow(s3, "put_object", Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    status, text = slow.end()
    assert (status, "<Code>NoSuchBucket<" in text) == (404, True), text


def test_a_bucket_that_is_another_owners_now(s3: Any, other: Any, bucket: str) -> None:
    slow = Slow(s3, "put_object", Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    other.create_bucket(Bucket=bucket)
    status, text = slow.end()
    assert (status, "<Code>AccessDenied<" in text) == (403, True), text
    assert "Contents" not in other.list_objects_v2(Bucket=bucket)


def test_a_bucket_that_was_made_again(s3: Any, bucket: str) -> None:
    slow = Slow(s3, "put_object", Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    status, text = slow.end()
    assert (status, "<Code>NoSuchBucket<" in text) == (404, True), text
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_state_that_changes(s3: Any, versioned: str) -> None:
    slow = Slow(s3, "put_object", Bucket=versioned, Key="k")
    s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Suspended"})
    assert slow.end()[0] == 200
    (version,) = s3.list_object_versions(Bucket=versioned)["Versions"]
    assert version["VersionId"] == "null"


def test_a_key_that_is_revoked(served: Served, s3: Any, bucket: str) -> None:
    key = served.key()
    revoked = client(served.url, key)
    slow = Slow(revoked, "put_object", Bucket=bucket, Key="k")
    run(["vfs", "s3", "key", "revoke", str(served.store), key["AccessKeyId"]], cwd=REPO)
    assert slow.end()[0] == 403
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        revoked.list_buckets()
    revoked.close()
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize("gone", ["aborted", "completed", "with its bucket"])
def test_an_upload_that_goes(s3: Any, bucket: str, gone: str) -> None:
    where = {"Bucket": bucket, "Key": "k", "UploadId": s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]}
    part = s3.upload_part(**where, PartNumber=1, Body=b"one")
    slow = Slow(s3, "upload_part", **where, PartNumber=2)
    match gone:
        case "aborted":
            s3.abort_multipart_upload(**where)
        case "completed":
            parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
            s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
        case _:
            s3.delete_bucket(Bucket=bucket)
    status, text = slow.end()
    assert (status, "<Code>NoSuch" in text) == (404, True), text
