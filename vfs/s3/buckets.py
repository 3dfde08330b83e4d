"""Buckets: made, removed, versioning, tags; what is answered for settings that there are not."""

from __future__ import annotations

import re
from typing import Any

from vfs.core import Changed
from vfs.errors import BucketExists, InvalidName
from vfs.model import STORE_ROOT, ObjectLock, State
from vfs.names import check_bucket_name
from vfs.s3 import xml
from vfs.s3.call import Call, denied, is_named
from vfs.s3.dialects import OBS, OSS, S3
from vfs.s3.errors import S3Error
from vfs.s3.keys import Right
from vfs.s3.metadata import check_tags, check_unsupported
from vfs.s3.request import text
from vfs.s3.response import Document, Response

TAGS_MAX = 50  # of a bucket
REGION = "us-east-1"  # of a bucket that was made without a location

_LOCATION = re.compile(r"[A-Za-z0-9_:-]{0,64}\Z")


async def create_bucket(call: Call) -> Response:
    """CreateBucket. It starts unversioned, unless object lock is asked for."""
    if not is_named(call.who, call.name):
        raise denied()
    check_unsupported(call.request.headers)
    location = _location(await call.body.read())
    call.check_key()
    locked = (call.request.amz("bucket-object-lock-enabled") or "").lower() == "true"
    try:
        check_bucket_name(call.name)
    except InvalidName as error:
        raise S3Error("InvalidBucketName", str(error)) from None
    root = call.store.core.catalog.inode(STORE_ROOT)
    try:
        ino = call.store.create_bucket(
            call.name,
            uid=root.uid,
            gid=root.gid,
            state=State.ENABLED if locked else State.UNVERSIONED,
            unversioned=[],  # clients rely on a version id for every key
            owner=call.who.owner_id,
            location=location,
            lock=ObjectLock() if locked else None,
        )
    except BucketExists:
        bucket = call.store.bucket(call.store.find_bucket(call.name))
        if bucket.owner != call.who.owner_id:
            raise S3Error("BucketAlreadyExists", "The requested bucket name is not available.") from None
        if call.dialect is not S3 or (not location and not locked):  # as us-east-1 of AWS has it
            return Response(200, {"Location": f"/{text(call.name)}"})
        raise S3Error(
            "BucketAlreadyOwnedByYou", "Your previous request to create the named bucket succeeded."
        ) from None
    call.changed.append(Changed(STORE_ROOT, call.name, None, ino))
    return Response(200, {"Location": f"/{text(call.name)}"})


def _location(raw: bytes) -> str:
    if not raw.strip():
        return ""
    root = xml.parse(raw, "CreateBucketConfiguration")
    found = xml.text(root, "LocationConstraint") or xml.text(root, "Location")
    if not _LOCATION.match(found):
        raise S3Error("IllegalLocationConstraintException", "The specified location-constraint is not valid")
    return found


async def head_bucket(call: Call) -> Response:
    """HeadBucket."""
    _, bucket = call.find(call.name, write=False)
    return Response(200, {"x-amz-bucket-region": bucket.location or REGION})


async def delete_bucket(call: Call) -> Response:
    """DeleteBucket."""
    _, bucket = call.find(call.name, write=True)
    ino = call.store.objects.delete_bucket(bucket.name)
    call.changed.append(Changed(STORE_ROOT, call.name, ino, None))
    return Response(204)


async def get_location(call: Call) -> Document:
    """GetBucketLocation."""
    _, bucket = call.find(call.name, write=False)
    if call.dialect.name == OBS.name:
        return Document("Location", bucket.location)
    return Document("LocationConstraint", bucket.location or ("oss" if call.dialect is OSS else ""))


# -- versioning -------------------------------------------------------------------------------------------------------


async def get_versioning(call: Call) -> Document:
    """GetBucketVersioning: no status if it was never set, no MfaDelete if that was never."""
    _, bucket = call.find(call.name, write=False)
    content: dict[str, Any] = {}
    if bucket.state is not State.UNVERSIONED:
        content["Status"] = bucket.state.name.title()
    if bucket.mfa_device:
        content["MfaDelete"] = "Enabled" if bucket.mfa_delete else "Disabled"
    return Document("VersioningConfiguration", content)


async def put_versioning(call: Call) -> Response:
    """PutBucketVersioning. With MFA delete, before or after, it takes the code of the device."""
    raw = await call.body.read()
    ino, bucket = call.find(call.name, write=True)
    root = xml.parse(raw, "VersioningConfiguration")
    status, mfa = xml.text(root, "Status"), xml.text(root, "MfaDelete")
    if status not in ("Enabled", "Suspended"):
        raise S3Error("IllegalVersioningConfigurationException", "the status is Enabled or Suspended")
    if mfa not in ("", "Enabled", "Disabled"):
        raise S3Error("IllegalVersioningConfigurationException", "MfaDelete is Enabled or Disabled")
    if bucket.lock is not None and status != "Enabled":
        raise S3Error(
            "InvalidBucketState",
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
        )
    if status == "Suspended":
        call.require(Right.PURGE)  # what is null is replaced from then on, and so lost
    changes: dict[str, Any] = {"state": State[status.upper()]}
    wanted = mfa == "Enabled" if mfa else bucket.mfa_delete
    if bucket.mfa_delete or wanted:
        given = (call.request.amz("mfa") or "").rpartition(" ")[0]
        serial = bucket.mfa_device if bucket.mfa_delete else given
        device = call.require_code(serial)
        if device.owner != call.who.owner:
            raise S3Error("AccessDenied", "the device is another owner's")
        changes |= {"mfa_device": serial, "mfa_delete": wanted, "code": True}
    call.store.objects.configure(ino, **changes)
    return Response(200)


# -- tags -------------------------------------------------------------------------------------------------------------


async def get_tags(call: Call) -> Document:
    """GetBucketTagging."""
    _, bucket = call.find(call.name, write=False)
    if not bucket.tags:
        raise S3Error("NoSuchTagSet", "The TagSet does not exist")
    return tag_document(bucket.tags)


async def put_tags(call: Call) -> Response:
    """PutBucketTagging."""
    raw = await call.body.read()
    ino, _ = call.find(call.name, write=True)
    call.store.objects.configure(ino, tags=read_tags(raw, TAGS_MAX))
    return Response(200 if call.dialect is OSS else 204)


async def delete_tags(call: Call) -> Response:
    """DeleteBucketTagging."""
    ino, _ = call.find(call.name, write=True)
    call.store.objects.configure(ino, tags={})
    return Response(204)


def tag_document(tags: dict[str, str]) -> Document:
    """Tags in XML."""
    return Document("Tagging", {"TagSet": {"Tag": [{"Key": key, "Value": value} for key, value in tags.items()]}})


def read_tags(raw: bytes, most: int) -> dict[str, str]:
    """Tags of a body. Raises S3Error."""
    tag_set = xml.parse(raw, "Tagging").find("TagSet")
    if tag_set is None:
        raise S3Error("MalformedXML", "Tagging has a TagSet")
    found = tag_set.findall("Tag")
    return check_tags([(xml.key_text(tag, "Key") or "", xml.key_text(tag, "Value") or "") for tag in found], most)


# -- rights, and what there is not ------------------------------------------------------------------------------------


async def get_acl(call: Call) -> Document:
    """GetBucketAcl, GetObjectAcl: the owner may do everything, and nobody else anything."""
    ino, bucket = call.find(call.name, write=False)
    owner = bucket.owner
    if call.request.key is not None:
        version_id = call.request.parameter("versionId")
        objects = call.store.objects
        found = objects.version(ino, call.key, version_id) if version_id else objects.current(ino, call.key)
        if found.is_marker:
            raise S3Error("MethodNotAllowed", "The specified method is not allowed against this resource.")
        owner = found.info.owner or owner
    about = call.owner(owner)
    if call.dialect is OSS:
        return Document("AccessControlPolicy", {"Owner": about, "AccessControlList": {"Grant": "private"}})
    kind = {"@xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance", "@xsi:type": "CanonicalUser"}
    grant = {"Grantee": kind | about, "Permission": "FULL_CONTROL"}
    return Document("AccessControlPolicy", {"Owner": about, "AccessControlList": {"Grant": [grant]}})


async def put_acl(call: Call) -> Response:
    """PutBucketAcl, PutObjectAcl: nothing but what holds anyway."""
    call.find(call.name, write=True)
    check_unsupported(call.request.headers)
    raw = await call.body.read()
    if raw.strip():
        root = xml.parse(raw, "AccessControlPolicy")
        for grant in root.iter("Grant"):
            grantee = grant.find("Grantee")
            who = "" if grantee is None else xml.text(grantee, "ID")
            if who != call.who.owner_id or xml.text(grant, "Permission") != "FULL_CONTROL":
                raise S3Error("AccessControlListNotSupported", "The bucket does not allow ACLs")
    return Response(200)


# What GET is answered with for settings that a bucket cannot have: an error that clients know, or a document.
ABSENT: dict[str, str] = {
    "cors": "NoSuchCORSConfiguration",
    "policy": "NoSuchBucketPolicy",
    "policyStatus": "NoSuchBucketPolicy",
    "website": "NoSuchWebsiteConfiguration",
    "encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "replication": "ReplicationConfigurationNotFoundError",
    "publicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
}
EMPTY: dict[str, tuple[str, dict[str, Any]]] = {
    "accelerate": ("AccelerateConfiguration", {}),
    "logging": ("BucketLoggingStatus", {}),
    "notification": ("NotificationConfiguration", {}),
    "requestPayment": ("RequestPaymentConfiguration", {"Payer": "BucketOwner"}),
    "ownershipControls": ("OwnershipControls", {"Rule": {"ObjectOwnership": "BucketOwnerEnforced"}}),
}


async def get_absent(call: Call) -> Document:
    """GET of a setting that there is not."""
    call.find(call.name, write=False)
    name = next(name for name, _ in call.request.query if name in ABSENT or name in EMPTY)
    if name in ABSENT:
        raise S3Error(ABSENT[name], f"The bucket has no {name} configuration")
    return Document(*EMPTY[name])


async def delete_absent(call: Call) -> Response:
    """DELETE of one: done."""
    call.find(call.name, write=True)
    return Response(204)


async def get_info(call: Call) -> Document:
    """OSS's GetBucketInfo."""
    _, bucket = call.find(call.name, write=False)
    content = {
        "Bucket": {
            "CreationDate": call.moment(bucket.created),
            "ExtranetEndpoint": call.request.host,
            "IntranetEndpoint": call.request.host,
            "Location": bucket.location or "oss",
            "Name": text(bucket.name),
            "StorageClass": "Standard",
            "Versioning": bucket.state.name.title() if bucket.state else None,
            "Owner": call.owner(bucket.owner),
            "AccessControlList": {"Grant": "private"},
        }
    }
    return Document("BucketInfo", content)
