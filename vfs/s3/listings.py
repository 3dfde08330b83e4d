"""Listings: buckets, objects (both versions of the call), versions."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import trio

from vfs.model import Ino
from vfs.objects import Object, Page
from vfs.s3.call import STORAGE_CLASS, Call, is_allowed, quoted
from vfs.s3.dialects import OSS
from vfs.s3.errors import S3Error
from vfs.s3.request import text, to_bytes
from vfs.s3.response import Document
from vfs.store import BUCKETS_MAX

KEYS_MAX = 1000  # of a page, whatever was asked for


async def list_buckets(call: Call) -> Document:
    """The buckets that the caller may use."""
    prefix = to_bytes(call.request.parameter("prefix") or "")
    after = _untoken(call.request.parameter("continuation-token") or "")
    limit = call.number("max-buckets", BUCKETS_MAX, BUCKETS_MAX)
    truncated = False
    buckets: list[dict[str, Any]] = []
    for _, bucket in call.store.buckets():
        if bucket.name > after and is_allowed(call.who, bucket) and bucket.name.startswith(prefix):
            if len(buckets) == limit:
                truncated = True
                break
            item: dict[str, Any] = {"Name": text(bucket.name), "CreationDate": call.moment(bucket.created)}
            if call.dialect is OSS:
                item |= {"Location": bucket.location or "oss", "StorageClass": "Standard"}
                item |= {"ExtranetEndpoint": call.request.host, "IntranetEndpoint": call.request.host}
            buckets.append(item)
    content: dict[str, Any] = {"Owner": call.owner(""), "Buckets": {"Bucket": buckets}}
    content["ContinuationToken"] = _token(str(buckets[-1]["Name"]).encode()) if truncated and buckets else None
    return Document("ListAllMyBucketsResult", content)


def _common(call: Call) -> tuple[bytes, bytes, int]:
    prefix = to_bytes(call.request.parameter("prefix") or "")
    delimiter = to_bytes(call.request.parameter("delimiter") or "")
    return prefix, delimiter, call.number("max-keys", call.dialect.keys_default, KEYS_MAX)


def _entry(call: Call, item: Object, *, owner: bool, bucket_owner: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Key": call.shown(item.key),
        "LastModified": call.moment(item.modified),
        "ETag": quoted(item.etag),
        "Size": item.size,
        "StorageClass": storage_class(call, item),
        "Owner": call.owner(item.info.owner or bucket_owner) if owner else None,
    }
    if item.info.checksums:
        found["ChecksumAlgorithm"] = [checksum.algorithm for checksum in item.info.checksums]
        found["ChecksumType"] = item.info.checksums[0].kind
    if call.dialect is OSS:
        found["Type"] = "Multipart" if item.info.parts else "Normal"
    return found


def storage_class(call: Call, item: Object) -> str:
    """The storage class of an object, in the words of the dialect."""
    found = item.info.headers.get("x-amz-storage-class", STORAGE_CLASS)
    return found.title() if call.dialect is OSS else found


def _next_version(call: Call, page: Page) -> str | None:
    return page.next_version if page.truncated and (page.next_version or call.dialect is OSS) else None


def _delimiter(call: Call, delimiter: bytes) -> str | None:
    """The SDK of OSS needs it, also if there is none."""
    return call.shown(delimiter) if delimiter or call.dialect is OSS else None


def _prefixes(call: Call, page: Page) -> list[dict[str, str]]:
    return [{"Prefix": call.shown(prefix)} for prefix in page.prefixes]


async def list_objects(call: Call) -> Document:
    """ListObjects and ListObjectsV2."""
    ino, bucket = call.find(call.name, write=False)
    prefix, delimiter, limit = _common(call)
    second = call.request.parameter("list-type") == "2"
    if second:
        token = call.request.parameter("continuation-token")
        after = _untoken(token) if token else to_bytes(call.request.parameter("start-after") or "")
    else:
        after = to_bytes(call.request.parameter("marker") or "")
    page = Page([], [], False)
    await _publish_promised(call, ino, prefix)
    if limit:
        page = call.store.objects.list(ino, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
    owner = not second or call.request.parameter("fetch-owner") == "true"
    content: dict[str, Any] = {
        "Name": text(call.name),
        "Prefix": call.shown(prefix),
        "MaxKeys": limit,
        "IsTruncated": page.truncated,
        "Contents": [_entry(call, item, owner=owner, bucket_owner=bucket.owner) for item in page.objects],
        "CommonPrefixes": _prefixes(call, page),
        "Delimiter": _delimiter(call, delimiter),
        "EncodingType": "url" if call.encodes else None,
    }
    if second:
        content["KeyCount"] = len(page.objects) + len(page.prefixes)
        content["ContinuationToken"] = token
        content["StartAfter"] = _start_after(call)
        content["NextContinuationToken"] = _token(page.next) if page.truncated else None
    else:
        content["Marker"] = call.shown(after)
        content["NextMarker"] = call.shown(page.next) if page.truncated else None
    return Document("ListBucketResult", content)


async def _publish_promised(call: Call, ino: Ino, prefix: bytes) -> None:
    """What a close has promised is listed. Raises NoSuchBucket, AccessDenied if that is no more to be."""
    for _ in call.store.objects.publish_below(ino, prefix):
        await trio.lowlevel.checkpoint()
    call.check_still(ino, write=False)


def _start_after(call: Call) -> str | None:
    found = call.request.parameter("start-after")
    return None if not found else call.shown(to_bytes(found))


def _token(after: bytes) -> str:
    return base64.urlsafe_b64encode(after).decode()


def _untoken(token: str) -> bytes:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect") from None


async def list_versions(call: Call) -> Document:
    """ListObjectVersions: by key, then newest first."""
    ino, bucket = call.find(call.name, write=False)
    prefix, delimiter, limit = _common(call)
    key_marker = to_bytes(call.request.parameter("key-marker") or "")
    id_marker = call.request.parameter("version-id-marker") or ""
    if id_marker and not key_marker:
        raise S3Error(
            "InvalidArgument",
            "A version-id marker cannot be specified without a key marker.",
            fields={"ArgumentName": "version-id-marker", "ArgumentValue": id_marker},
        )
    page = Page([], [], False)
    await _publish_promised(call, ino, prefix)
    if limit:
        page = call.store.objects.list_versions(
            ino,
            prefix=prefix,
            delimiter=delimiter,
            key_marker=key_marker,
            version_id_marker=id_marker,
            limit=limit,
        )
    content: list[tuple[str, Any]] = [
        ("Name", text(call.name)),
        ("Prefix", call.shown(prefix)),
        ("KeyMarker", call.shown(key_marker)),
        ("VersionIdMarker", id_marker),
        ("NextKeyMarker", call.shown(page.next) if page.truncated else None),
        ("NextVersionIdMarker", _next_version(call, page)),
        ("MaxKeys", limit),
        ("Delimiter", _delimiter(call, delimiter)),
        ("EncodingType", "url" if call.encodes else None),
        ("IsTruncated", page.truncated),
    ]
    for item in page.objects:
        about: dict[str, Any] = {"VersionId": item.version_id, "IsLatest": item.is_current}
        if item.is_marker:
            about |= {"Key": call.shown(item.key), "LastModified": call.moment(item.modified)}
            about["Owner"] = call.owner(item.info.owner or bucket.owner)
            content.append(("DeleteMarker", about))
        else:
            content.append(("Version", about | _entry(call, item, owner=True, bucket_owner=bucket.owner)))
    content.append(("CommonPrefixes", _prefixes(call, page)))
    return Document("ListVersionsResult", content)
