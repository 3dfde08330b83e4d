"""Tags of objects; object lock, retention, legal holds. The rules are the engine's (vfs.locks)."""

from __future__ import annotations

from typing import Any

from vfs.errors import InvalidState
from vfs.model import LockMode, ObjectLock, State
from vfs.objects import Object
from vfs.s3 import metadata, xml
from vfs.s3.buckets import read_tags, tag_document
from vfs.s3.call import Call
from vfs.s3.errors import S3Error
from vfs.s3.objects import version_headers
from vfs.s3.response import Document, Response


def _object(call: Call, *, write: bool) -> tuple[Object, dict[str, str], bool]:
    """The version that is meant, what the answer tells of it, and whether its bucket has object lock."""
    ino, bucket = call.find(call.name, write=write)
    version_id = call.request.parameter("versionId")
    objects = call.store.objects
    item = objects.version(ino, call.key, version_id) if version_id else objects.current(ino, call.key)
    if item.is_marker:
        raise S3Error("MethodNotAllowed", "The specified method is not allowed against this resource.")
    return item, version_headers(call, bucket, item), bucket.lock is not None


# -- tags -------------------------------------------------------------------------------------------------------------


async def get_tags(call: Call) -> Document:
    """GetObjectTagging."""
    item, headers, _ = _object(call, write=False)
    return tag_document(item.info.tags)._replace(headers=headers)


async def put_tags(call: Call) -> Response:
    """PutObjectTagging."""
    tags = read_tags(await call.body.read(), metadata.TAGS_MAX)
    item, headers, _ = _object(call, write=True)
    call.store.objects.set_tags(item, tags)
    return Response(200, headers)


async def delete_tags(call: Call) -> Response:
    """DeleteObjectTagging."""
    item, headers, _ = _object(call, write=True)
    call.store.objects.set_tags(item, {})
    return Response(204, headers)


# -- the lock of a bucket ---------------------------------------------------------------------------------------------


async def get_lock(call: Call) -> Document:
    """GetObjectLockConfiguration."""
    _, bucket = call.find(call.name, write=False)
    lock = bucket.lock
    if lock is None:
        raise S3Error(
            "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket"
        )
    content: dict[str, Any] = {"ObjectLockEnabled": "Enabled"}
    if lock.mode is not None:
        length = {"Days": lock.days} if lock.days else {"Years": lock.years}
        content["Rule"] = {"DefaultRetention": {"Mode": lock.mode.name, **length}}
    return Document("ObjectLockConfiguration", content)


async def put_lock(call: Call) -> Response:
    """PutObjectLockConfiguration."""
    raw = await call.body.read()
    ino, bucket = call.find(call.name, write=True)
    root = xml.parse(raw, "ObjectLockConfiguration")
    if bucket.state is not State.ENABLED:
        raise S3Error(
            "InvalidBucketState", "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration"
        )
    if xml.text(root, "ObjectLockEnabled") != "Enabled":
        raise S3Error("MalformedXML", "ObjectLockEnabled is Enabled")
    rule = root.find("Rule")
    lock = ObjectLock()
    if rule is not None:
        default = rule.find("DefaultRetention")
        if default is None:
            raise S3Error("MalformedXML", "a rule has a DefaultRetention")
        days, years = xml.number(default, "Days"), xml.number(default, "Years")
        mode = metadata.parse_mode(xml.text(default, "Mode"), "MalformedXML")
        if (days is None) == (years is None):
            raise S3Error("MalformedXML", "a default retention has days or years, and not both")
        if not 0 < (days or 1) <= 36_500 or not 0 < (years or 1) <= 100 or 0 in (days, years):
            raise S3Error("InvalidRetentionPeriod", "Default retention period must be a positive integer value.")
        lock = ObjectLock(mode, days or 0, years or 0)
    try:
        call.store.objects.configure(ino, lock=lock)
    except InvalidState as error:
        raise S3Error("InvalidBucketState", str(error)) from error
    return Response(200)


# -- the lock of a version --------------------------------------------------------------------------------------------


def _require_lock(locks: bool) -> None:
    if not locks:
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")


async def get_retention(call: Call) -> Document:
    """GetObjectRetention."""
    item, headers, locks = _object(call, write=False)
    _require_lock(locks)
    found = item.info.retention
    if found is None:
        raise S3Error("NoSuchObjectLockConfiguration", "The specified object does not have a ObjectLock configuration")
    return Document("Retention", {"Mode": found.mode.name, "RetainUntilDate": call.moment(found.until)}, headers)


async def put_retention(call: Call) -> Response:
    """PutObjectRetention."""
    root = xml.parse(await call.body.read(), "Retention")
    item, headers, locks = _object(call, write=True)
    _require_lock(locks)
    mode, until = xml.text(root, "Mode"), xml.text(root, "RetainUntilDate")
    wanted = None
    if mode or until:
        if mode not in LockMode.__members__ or not until:
            raise S3Error("MalformedXML", "a retention has a mode and a date")
        wanted = metadata.new_retention(LockMode[mode], until, call.now)
    call.store.objects.set_retention(item, wanted, bypass=call.bypasses)
    return Response(200, headers)


async def get_legal_hold(call: Call) -> Document:
    """GetObjectLegalHold."""
    item, headers, locks = _object(call, write=False)
    _require_lock(locks)
    return Document("LegalHold", {"Status": "ON" if item.info.legal_hold else "OFF"}, headers)


async def put_legal_hold(call: Call) -> Response:
    """PutObjectLegalHold."""
    root = xml.parse(await call.body.read(), "LegalHold")
    item, headers, locks = _object(call, write=True)
    _require_lock(locks)
    status = xml.text(root, "Status")
    if status not in ("ON", "OFF"):
        raise S3Error("MalformedXML", "the status is ON or OFF")
    call.store.objects.set_legal_hold(item, status == "ON")
    return Response(200, headers)
