"""Signatures of versions 1 and 2: of S3, OSS and OBS. Pure.

Sources: "Signing and Authenticating REST Requests (Signature Version 2)" of the S3 API reference; "Include a
signature in the Authorization header" (V1, V2) of the OSS API reference; "User Signature Authentication" of the OBS
API reference.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

from vfs.s3.dialects import OBS, OSS, S3, Dialect
from vfs.s3.errors import S3Error
from vfs.s3.request import Request, to_bytes
from vfs.s3.signed import (
    NOBODYS_SECRET,
    Secrets,
    Signed,
    any_date,
    canonical_query,
    check_skew,
    compare,
    encode_base64,
    fields_of,
    sent,
    text_of,
)

_RESPONSE_HEADERS = tuple(
    f"response-{name}"
    for name in (
        "content-type",
        "content-language",
        "expires",
        "cache-control",
        "content-disposition",
        "content-encoding",
    )
)
_SUBRESOURCES_S3 = frozenset(
    [
        "accelerate",
        "acl",
        "analytics",
        "cors",
        "defaultObjectAcl",
        "delete",
        "inventory",
        "lifecycle",
        "location",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "partNumber",
        "policy",
        "replication",
        "requestPayment",
        "restore",
        "select",
        "select-type",
        "storageClass",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "website",
    ]
).union(_RESPONSE_HEADERS)
_SUBRESOURCES_OBS = frozenset(  # in lower case; whatever begins with x-obs- is one too
    [
        "acl",
        "append",
        "backtosource",
        "bucketstatus",
        "cors",
        "customdomain",
        "delete",
        "deletebucket",
        "directcoldaccess",
        "dispolicy",
        "encryption",
        "inventory",
        "length",
        "lifecycle",
        "location",
        "logging",
        "metadata",
        "modify",
        "name",
        "notification",
        "object-lock",
        "obscompresspolicy",
        "orchestration",
        "partnumber",
        "policy",
        "policystatus",
        "position",
        "publicaccessblock",
        "quota",
        "rename",
        "replication",
        "requestpayment",
        "restore",
        "retention",
        "storageclass",
        "storageinfo",
        "storagepolicy",
        "tagging",
        "torrent",
        "truncate",
        "uploadid",
        "uploads",
        "versionid",
        "versioning",
        "versions",
        "website",
        "x-image-process",
        "x-image-save-bucket",
        "x-image-save-object",
        "x-oss-process",
    ]
).union(_RESPONSE_HEADERS)
_SUBRESOURCES_OSS = frozenset(
    [
        "accessPoint",
        "accessPointPolicy",
        "acl",
        "append",
        "asyncFetch",
        "bucketArchiveDirectRead",
        "bucketInfo",
        "callback",
        "callback-var",
        "cname",
        "comp",
        "continuation-token",
        "cors",
        "delete",
        "encryption",
        "endTime",
        "group",
        "httpsConfig",
        "img",
        "inventory",
        "inventoryId",
        "lifecycle",
        "link",
        "live",
        "location",
        "logging",
        "metaQuery",
        "objectInfo",
        "objectMeta",
        "partNumber",
        "policy",
        "position",
        "publicAccessBlock",
        "qos",
        "qosInfo",
        "qosRequester",
        "redundancyTransition",
        "referer",
        "regionList",
        "replication",
        "replicationLocation",
        "replicationProgress",
        "requestPayment",
        "requesterQosInfo",
        "resourceGroup",
        "resourcePool",
        "resourcePoolBuckets",
        "resourcePoolInfo",
        "restore",
        "security-token",
        "sequential",
        "startTime",
        "stat",
        "status",
        "style",
        "styleName",
        "symlink",
        "tagging",
        "transferAcceleration",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "vod",
        "website",
        "worm",
        "wormExtend",
        "wormId",
        "x-oss-ac-forward-allow",
        "x-oss-ac-source-ip",
        "x-oss-ac-subnet-mask",
        "x-oss-ac-vpc-id",
        "x-oss-access-point-name",
        "x-oss-async-process",
        "x-oss-process",
        "x-oss-redundancy-transition-taskid",
        "x-oss-request-payer",
        "x-oss-target-redundancy-type",
        "x-oss-traffic-limit",
        "x-oss-write-get-object-response",
    ]
).union(_RESPONSE_HEADERS)


class Scheme2(NamedTuple):
    """One of the kinds of version 2: what is signed, apart from method, Content-MD5, Content-Type and date."""

    dialect: Dialect
    parameters: tuple[str, str]  # of the access key and the signature, in a query

    def is_subresource(self, name: str) -> bool:
        """Whether a parameter is signed."""
        if self.dialect is OSS:
            return name in _SUBRESOURCES_OSS
        if self.dialect is OBS:
            return name.lower() in _SUBRESOURCES_OBS or name.lower().startswith("x-obs-")
        return name in _SUBRESOURCES_S3


AWS2 = Scheme2(S3, ("AWSAccessKeyId", "Signature"))
OSS1 = Scheme2(OSS, ("OSSAccessKeyId", "Signature"))
OBS2 = Scheme2(OBS, ("AccessKeyId", "Signature"))


def header2(scheme: Scheme2) -> Callable[[Request, str, Secrets, datetime], Signed]:
    """Verifies the header Authorization of a scheme."""

    def verify(request: Request, text: str, secrets: Secrets, now: datetime) -> Signed:
        access_key, colon, signature = text.partition(":")
        if not (access_key and colon and signature):
            raise S3Error("InvalidArgument", "the header Authorization is <scheme> <access key>:<signature>")
        own = request.header(scheme.dialect.prefix + "date")
        date = own or request.header("date")
        if date is None:
            raise S3Error("AccessDenied", "a signed request needs the header Date")
        check_skew(any_date(date), now)
        signed_date = date if scheme is OSS1 else ("" if own is not None else date)
        kind = _verify2(scheme, request, access_key, signed_date, signature, secrets)
        return Signed(access_key, scheme.dialect, covers=kind.is_subresource, signature=signature)

    return verify


def query2(scheme: Scheme2) -> Callable[[Request, dict[str, str], Secrets, datetime], Signed]:
    """Verifies what was presigned by a scheme."""

    def verify(request: Request, query: dict[str, str], secrets: Secrets, now: datetime) -> Signed:
        access_key, signature, expires = (query.get(name) for name in (*scheme.parameters, "Expires"))
        if not (access_key and signature and expires):
            needed = ", ".join((*scheme.parameters, "Expires"))
            raise S3Error("AccessDenied", f"a presigned request needs the parameters {needed}")
        if not re.fullmatch(r"\d{1,12}", expires):
            raise S3Error("AccessDenied", "Expires is a number of seconds since 1970")
        if now.timestamp() > int(expires):
            raise S3Error("AccessDenied", "Request has expired")
        kind = _verify2(scheme, request, access_key, expires, signature, secrets)
        return Signed(access_key, scheme.dialect, covers=kind.is_subresource, signature=signature)

    return verify


def _verify2(
    scheme: Scheme2, request: Request, access_key: str, date: str, signature: str, secrets: Secrets
) -> Scheme2:
    """Returns the scheme whose list of subresources was signed."""
    prefix = scheme.dialect.prefix
    own = sorted(name for name in request.headers if name.startswith(prefix))
    headers = "".join(f"{name}:{sent(request.headers[name])}\n" for name in own)
    content = (request.header("content-md5") or "", request.header("content-type") or "")
    start = "\n".join((request.method, *content, date, headers))
    resources = _resources2(scheme, request)
    texts = [start + resource for resource in resources]
    secret = secrets(access_key)
    key = (secret or NOBODYS_SECRET).encode()
    wanted = [encode_base64(hmac.new(key, to_bytes(text), hashlib.sha1).digest()) for text in texts]
    compare(secret, wanted, signature, texts[0])
    return resources[texts[wanted.index(signature)].removeprefix(start)]


def _paths2(scheme: Scheme2, request: Request) -> list[str]:
    """How the clients of a scheme write the bucket and the key of a request. No path is one of two keys: the Host is
    not signed, so the bucket always stands in front; OSS signs the key itself, the others sign it percent-encoded.
    """
    if request.bucket is None:
        return ["/"]
    name, key = text_of(request.bucket), text_of(request.key)
    if request.key is None:
        return [f"/{name}/", f"/{name}"]
    if scheme is OSS1:
        return [f"/{name}/{key}"]
    path = request.path.decode("utf-8", "surrogateescape")
    return [f"/{name}{path}" if request.host_style else path, f"/{name}/{quote(to_bytes(key), safe='/~')}"]


def _resources2(scheme: Scheme2, request: Request) -> dict[str, Scheme2]:
    """What a request is about, as it may have been signed: OBS's SDK has a list of subresources of its own, also when
    it signs as for S3.
    """
    paths = _paths2(scheme, request)
    schemes = [OBS2, scheme] if scheme is AWS2 else [scheme]
    resources: dict[str, Scheme2] = {}
    for kind in schemes:
        found = sorted((name, value) for name, value in request.query if kind.is_subresource(name))
        text = "&".join(f"{name}={value}" if value else name for name, value in found)
        resources |= {path + (f"?{text}" if text else ""): kind for path in paths}
    return resources


def oss2_header(request: Request, text: str, secrets: Secrets, now: datetime) -> Signed:
    """Authorization: OSS2."""
    fields = fields_of(text, ",", ":")
    if not fields.keys() >= {"AccessKeyId", "Signature"}:
        raise S3Error("InvalidArgument", "the header Authorization needs AccessKeyId and Signature")
    date = request.header("date")
    if date is None:
        raise S3Error("AccessDenied", "a signed request needs the header Date")
    check_skew(any_date(date), now)
    additional = fields.get("AdditionalHeaders", "")
    _verify_oss2(request, fields["AccessKeyId"], date, additional, fields["Signature"], secrets)
    return Signed(fields["AccessKeyId"], OSS, signature=fields["Signature"])


def oss2_query(request: Request, query: dict[str, str], secrets: Secrets, now: datetime) -> Signed:
    """Version 2 of OSS, presigned."""
    access_key, expires, signature = (
        query.get(f"x-oss-{name}", "") for name in ("access-key-id", "expires", "signature")
    )
    if not re.fullmatch(r"\d{1,12}", expires):
        raise S3Error("AccessDenied", "x-oss-expires is a number of seconds since 1970")
    if now.timestamp() > int(expires):
        raise S3Error("AccessDenied", "Request has expired")
    additional = query.get("x-oss-additional-headers", "")
    _verify_oss2(request, access_key, expires, additional, signature, secrets)
    return Signed(access_key, OSS, signature=signature)


def _verify_oss2(
    request: Request, access_key: str, date: str, additional: str, signature: str, secrets: Secrets
) -> None:
    more = sorted(name for name in additional.lower().split(";") if name)
    named = sorted(name for name in request.headers if name in more or name.startswith("x-oss-"))
    headers = [f"{name}:{sent(request.headers[name])}\n" for name in named]
    path = "/" if request.bucket is None else f"/{text_of(request.bucket)}/{text_of(request.key)}"
    query = canonical_query(request, ("x-oss-signature",), bare=True)
    content = (request.header("content-md5") or "", request.header("content-type") or "")
    resource = quote(to_bytes(path), safe="~") + (f"?{query}" if query else "")
    text = "\n".join((request.method, *content, date, "".join(headers) + ";".join(more), resource))
    secret = secrets(access_key)
    key = (secret or NOBODYS_SECRET).encode()
    compare(secret, [encode_base64(hmac.new(key, to_bytes(text), hashlib.sha256).digest())], signature, text)
