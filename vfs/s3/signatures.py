"""Who signed a request: every scheme that the clients of the three dialects use. Pure.

Sources: "Authenticating Requests (AWS Signature Version 4)", "Signing and Authenticating REST Requests (Signature
Version 2)" of the S3 API reference; "Include a signature in the Authorization header" (V1, V2, V4) of the OSS API
reference; "User Signature Authentication" of the OBS API reference.

A request with an access key that nobody has is verified like any other, with a secret that nobody has, so that its
answer comes no sooner.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from vfs.s3.dialects import AMZ, OBS, OBS_AMZ, OSS, S3, Dialect
from vfs.s3.errors import S3Error
from vfs.s3.request import Request, to_bytes

SKEW_S_MAX = 900  # between the clocks of a client and this machine
EXPIRES_S_MAX = 604_800  # of a presigned request: a week

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_PRESIGNED4 = frozenset(
    f"x-amz-{word}"
    for word in (
        "algorithm",
        "credential",
        "date",
        "expires",
        "signedheaders",
        "signature",
        "security-token",
        "content-sha256",
    )
)
_NOBODYS_SECRET = "a key that nobody has"
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

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


class Payload(Enum):
    """How a body is vouched for. Values: as x-amz-content-sha256 has them, where it does."""

    UNSIGNED = "UNSIGNED-PAYLOAD"
    SHA256 = "sha256"  # its digest is in the signature
    CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"  # each chunk is signed
    CHUNKS_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"  # in chunks, with a checksum behind them

    @property
    def in_chunks(self) -> bool:
        return self not in (Payload.UNSIGNED, Payload.SHA256)

    @property
    def signed_chunks(self) -> bool:
        return self in (Payload.CHUNKS, Payload.CHUNKS_TRAILER)


class ChunkSigner(NamedTuple):
    """What the signatures of the chunks of a body are made with. seed: the request's own."""

    key: bytes
    moment: str
    scope: str
    seed: str

    def chunk(self, previous: str, sha256: str) -> str:
        """The signature of a chunk by the digest of its bytes, and the signature before."""
        return self._sign("AWS4-HMAC-SHA256-PAYLOAD", previous, f"{EMPTY_SHA256}\n{sha256}")

    def trailer(self, previous: str, lines: bytes) -> str:
        """The signature of the trailing headers."""
        return self._sign("AWS4-HMAC-SHA256-TRAILER", previous, hashlib.sha256(lines).hexdigest())

    def _sign(self, algorithm: str, previous: str, digest: str) -> str:
        text = "\n".join((algorithm, self.moment, self.scope, previous, digest))
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()


class Signed(NamedTuple):
    """A request whose signature is right. sha256: what the body must have, with `Payload.SHA256`. covers: whether a
    parameter of the query is signed. headers: those that a presigned request has in its query.
    """

    access_key: str
    dialect: Dialect
    payload: Payload = Payload.UNSIGNED
    sha256: str = ""
    chunks: ChunkSigner | None = None
    covers: Callable[[str], bool] = lambda _: True
    headers: Mapping[str, str] = NO_HEADERS


Secrets = Callable[[str], str | None]  # the secret of an access key; None if nobody has that key


def dialect_of(request: Request) -> Dialect:
    """What an answer to this is to be written in, whoever sent it."""
    scheme = (request.header("authorization") or "").partition(" ")[0]
    if scheme.startswith("OSS"):
        return OSS
    if scheme == "OBS":
        return OBS
    names = {name for name, _ in request.query}
    if not scheme and names & {"OSSAccessKeyId", "x-oss-signature-version"}:
        return OSS
    if not scheme and "AccessKeyId" in names:
        return OBS
    by_name = request.dialect_of_domain or S3
    if scheme.startswith("AWS") or names & {"AWSAccessKeyId", "X-Amz-Algorithm"}:
        return OBS_AMZ if by_name is OBS else S3
    return by_name


def authenticate(request: Request, secrets: Secrets, now: datetime) -> Signed | None:
    """Who signed it; None if nobody did. Raises S3Error: AccessDenied, InvalidAccessKeyId, SignatureDoesNotMatch,
    RequestTimeTooSkewed, AuthorizationHeaderMalformed, AuthorizationQueryParametersError.
    """
    header = request.header("authorization")
    query = dict(request.query)
    in_query = [name for name in _IN_QUERY if name in query]
    if header is not None:
        if in_query:
            raise S3Error("InvalidArgument", "a request is signed in one way only")
        scheme, _, rest = header.partition(" ")
        verify = _IN_HEADER.get(scheme)
        if verify is None:
            raise S3Error("InvalidArgument", "the header Authorization names no scheme that is known here")
        return verify(request, rest.strip(), secrets, now)
    if in_query:
        return _IN_QUERY[in_query[0]](request, query, secrets, now)
    return None


# -- version 4 --------------------------------------------------------------------------------------------------------


class Scheme4(NamedTuple):
    """One of the two kinds of version 4."""

    dialect: Dialect
    algorithm: str
    secret_prefix: str
    services: tuple[str, ...]
    request: str


AWS4 = Scheme4(S3, "AWS4-HMAC-SHA256", "AWS4", ("s3",), "aws4_request")
OSS4 = Scheme4(OSS, "OSS4-HMAC-SHA256", "aliyun_v4", ("oss", "oss-cloudbox"), "aliyun_v4_request")


class Credential(NamedTuple):
    """access key / date / region / service / request"""

    access_key: str
    date: str
    region: str
    service: str
    request: str

    @property
    def scope(self) -> str:
        return "/".join(self[1:])

    def signing_key(self, scheme: Scheme4, secret: str) -> bytes:
        """The key of a day, a region and a service."""
        key = (scheme.secret_prefix + secret).encode()
        for part in self[1:]:
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key


def _credential(text: str, scheme: Scheme4, code: str) -> Credential:
    parts = text.rsplit("/", 4)
    if len(parts) != 5 or not re.fullmatch(r"\d{8}", parts[1]):
        raise S3Error(code, "the credential is <access key>/<yyyymmdd>/<region>/<service>/<request>")
    found = Credential(*parts)
    if found.service not in scheme.services or found.request != scheme.request:
        wanted = f"{scheme.services[0]}/{scheme.request}"
        raise S3Error(code, f"the credential ends in {wanted}, not in {found.service}/{found.request}")
    return found


def _moment4(text: str | None, code: str) -> datetime:
    try:
        return datetime.strptime(text or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise S3Error(code, "the date looks like 20261120T151617Z") from None


def _aws4_header(request: Request, text: str, secrets: Secrets, now: datetime) -> Signed:
    malformed = "AuthorizationHeaderMalformed"
    fields = _fields(text, ",", "=")
    if not fields.keys() >= {"Credential", "SignedHeaders", "Signature"}:
        raise S3Error(malformed, "the header Authorization needs Credential, SignedHeaders and Signature")
    credential = _credential(fields["Credential"], AWS4, malformed)
    moment = request.amz("date")
    when = _moment4(moment, "AccessDenied") if moment is not None else _http_date(request.header("date"))
    moment = f"{when:%Y%m%dT%H%M%SZ}"
    if credential.date != moment[:8]:
        raise S3Error(malformed, f"the date of the credential is {credential.date}, that of the request {moment[:8]}")
    _check_skew(when, now)
    payload_hash = request.amz("content-sha256")
    if payload_hash is None:
        raise S3Error("InvalidRequest", "the header x-amz-content-sha256 is missing")
    signed = fields["SignedHeaders"].split(";")
    _check_all_signed(request, signed)
    text4 = _canonical4(request, signed, payload_hash, without=())
    chunks = _verify4(AWS4, credential, moment, text4, fields["Signature"], secrets)
    return _signed4(credential.access_key, payload_hash, chunks)


def _aws4_query(request: Request, query: dict[str, str], secrets: Secrets, now: datetime) -> Signed:
    wrong = "AuthorizationQueryParametersError"
    names = ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature")
    missing = [name for name in names if name not in query]
    if missing:
        raise S3Error(wrong, f"a presigned request needs the parameter {missing[0]}")
    if query["X-Amz-Algorithm"] != AWS4.algorithm:
        raise S3Error(wrong, f"X-Amz-Algorithm is {AWS4.algorithm}")
    credential = _credential(query["X-Amz-Credential"], AWS4, wrong)
    when = _moment4(query["X-Amz-Date"], wrong)
    if credential.date != query["X-Amz-Date"][:8]:
        raise S3Error(wrong, "X-Amz-Credential and X-Amz-Date have different dates")
    _check_expires(query["X-Amz-Expires"], when, now, wrong)
    signed = query["X-Amz-SignedHeaders"].split(";")
    _check_all_signed(request, signed)
    payload_hash = query.get("X-Amz-Content-Sha256") or request.amz("content-sha256") or Payload.UNSIGNED.value
    text4 = _canonical4(request, signed, payload_hash, without=("X-Amz-Signature",))
    chunks = _verify4(AWS4, credential, query["X-Amz-Date"], text4, query["X-Amz-Signature"], secrets)
    found = _signed4(credential.access_key, payload_hash, chunks)
    hoisted = {name.lower(): value for name, value in request.query if name.lower().startswith(AMZ)}
    return found._replace(headers={name: hoisted[name] for name in hoisted if name not in _PRESIGNED4})


def _signed4(access_key: str, payload_hash: str, chunks: ChunkSigner) -> Signed:
    if _HEX_SHA256.match(payload_hash):
        return Signed(access_key, S3, Payload.SHA256, payload_hash)
    try:
        payload = Payload(payload_hash)
    except ValueError:
        payload = Payload.SHA256
    if payload is Payload.SHA256:
        known = payload_hash.startswith("STREAMING-")
        code = "NotImplemented" if known else "InvalidArgument"
        raise S3Error(code, f"x-amz-content-sha256 is a SHA-256 in hexadecimal or a word, not {payload_hash[:80]!r}")
    return Signed(access_key, S3, payload, chunks=chunks if payload.in_chunks else None)


def _canonical4(request: Request, signed: Iterable[str], payload_hash: str, *, without: tuple[str, ...]) -> str:
    lines = []
    for name in signed:
        value = request.host if name == "host" else request.header(name)
        if value is None and name != "content-length":
            raise S3Error("SignatureDoesNotMatch", f"the header {name} is signed, and not there")
        lines.append(f"{name}:{_sent(' '.join((value or '').split()))}\n")
    return "\n".join(
        (
            request.method,
            quote(unquote_to_bytes(request.path), safe="/~"),
            _canonical_query(request, without),
            "".join(lines),
            ";".join(signed),
            payload_hash,
        )
    )


def _canonical_query(request: Request, without: tuple[str, ...], *, bare: bool = False) -> str:
    """bare: a parameter without a value has no equals sign."""
    found = []
    for name, value in request.query:
        if name not in without:
            equals = "=" if value or not bare else ""
            found.append((quote(to_bytes(name), safe="~"), equals + quote(to_bytes(value), safe="~")))
    return "&".join(name + value for name, value in sorted(found))


def _check_all_signed(request: Request, signed: list[str]) -> None:
    if "host" not in signed:
        raise S3Error("AccessDenied", "the header host is not signed")
    for name in request.headers:
        if name.startswith(AMZ) and name not in signed and name != "x-amz-content-sha256":
            raise S3Error("AccessDenied", f"there are headers that were not signed: {name}")


def _verify4(
    scheme: Scheme4, credential: Credential, moment: str, canonical: str, signature: str, secrets: Secrets
) -> ChunkSigner:
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    text = "\n".join((scheme.algorithm, moment, credential.scope, digest))
    secret = secrets(credential.access_key)
    key = credential.signing_key(scheme, secret or _NOBODYS_SECRET)
    wanted = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    _compare(secret, [wanted], signature, text)
    return ChunkSigner(key, moment, credential.scope, wanted)


def _oss4_header(request: Request, text: str, secrets: Secrets, now: datetime) -> Signed:
    malformed = "AuthorizationHeaderMalformed"
    fields = _fields(text, ",", "=")
    if not fields.keys() >= {"Credential", "Signature"}:
        raise S3Error(malformed, "the header Authorization needs Credential and Signature")
    credential = _credential(fields["Credential"], OSS4, malformed)
    moment = request.header("x-oss-date")
    when = _moment4(moment, "AccessDenied")
    _check_skew(when, now)
    if credential.date != f"{when:%Y%m%d}":
        raise S3Error(malformed, "the credential and x-oss-date have different dates")
    additional = [name for name in fields.get("AdditionalHeaders", "").lower().split(";") if name]
    canonical = _canonical_oss4(request, additional, without=())
    _verify4(OSS4, credential, moment or "", canonical, fields["Signature"], secrets)
    return Signed(credential.access_key, OSS)


def _oss4_query(request: Request, query: dict[str, str], secrets: Secrets, now: datetime) -> Signed:
    wrong = "AuthorizationQueryParametersError"
    names = ("x-oss-credential", "x-oss-date", "x-oss-expires", "x-oss-signature")
    missing = [name for name in names if name not in query]
    if missing:
        raise S3Error(wrong, f"a presigned request needs the parameter {missing[0]}")
    credential = _credential(query["x-oss-credential"], OSS4, wrong)
    when = _moment4(query["x-oss-date"], wrong)
    if credential.date != f"{when:%Y%m%d}":
        raise S3Error(wrong, "x-oss-credential and x-oss-date have different dates")
    _check_expires(query["x-oss-expires"], when, now, wrong)
    additional = [name for name in query.get("x-oss-additional-headers", "").lower().split(";") if name]
    canonical = _canonical_oss4(request, additional, without=("x-oss-signature",))
    _verify4(OSS4, credential, query["x-oss-date"], canonical, query["x-oss-signature"], secrets)
    return Signed(credential.access_key, OSS)


def _canonical_oss4(request: Request, additional: list[str], *, without: tuple[str, ...]) -> str:
    wanted = {"content-type", "content-md5", *additional}
    lines = sorted(
        f"{name}:{_sent(value)}\n"
        for name, value in request.headers.items()
        if name in wanted or name.startswith("x-oss-")
    )
    path = "/" if request.bucket is None else f"/{_name(request.bucket)}/{_name(request.key)}"
    return "\n".join(
        (
            request.method,
            quote(to_bytes(path), safe="/~"),
            _canonical_query(request, without, bare=True),
            "".join(lines),
            ";".join(sorted(additional)),
            request.header("x-oss-content-sha256") or Payload.UNSIGNED.value,
        )
    )


# -- versions 1 and 2 -------------------------------------------------------------------------------------------------


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


def _header2(scheme: Scheme2) -> Callable[[Request, str, Secrets, datetime], Signed]:
    def verify(request: Request, text: str, secrets: Secrets, now: datetime) -> Signed:
        access_key, colon, signature = text.partition(":")
        if not (access_key and colon and signature):
            raise S3Error("InvalidArgument", "the header Authorization is <scheme> <access key>:<signature>")
        own = request.header(scheme.dialect.prefix + "date")
        date = own or request.header("date")
        if date is None:
            raise S3Error("AccessDenied", "a signed request needs the header Date")
        _check_skew(_any_date(date), now)
        signed_date = date if scheme is OSS1 else ("" if own is not None else date)
        kind = _verify2(scheme, request, access_key, signed_date, signature, secrets)
        return Signed(access_key, scheme.dialect, covers=kind.is_subresource)

    return verify


def _query2(scheme: Scheme2) -> Callable[[Request, dict[str, str], Secrets, datetime], Signed]:
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
        return Signed(access_key, scheme.dialect, covers=kind.is_subresource)

    return verify


def _verify2(
    scheme: Scheme2, request: Request, access_key: str, date: str, signature: str, secrets: Secrets
) -> Scheme2:
    """Returns the scheme whose list of subresources was signed."""
    prefix = scheme.dialect.prefix
    headers = "".join(
        sorted(f"{name}:{_sent(value)}\n" for name, value in request.headers.items() if name.startswith(prefix))
    )
    content = (request.header("content-md5") or "", request.header("content-type") or "")
    start = "\n".join((request.method, *content, date, headers))
    resources = _resources2(scheme, request)
    texts = [start + resource for resource in resources]
    secret = secrets(access_key)
    key = (secret or _NOBODYS_SECRET).encode()
    wanted = [_base64(hmac.new(key, to_bytes(text), hashlib.sha1).digest()) for text in texts]
    _compare(secret, wanted, signature, texts[0])
    return resources[texts[wanted.index(signature)].removeprefix(start)]


def _resources2(scheme: Scheme2, request: Request) -> dict[str, Scheme2]:
    """How clients write what a request is about: with the path as sent, or decoded; OBS's SDK has a list of
    subresources of its own, also when it signs as for S3.
    """
    if request.bucket is None:
        paths = ["/"]
    else:
        name = _name(request.bucket)
        path = request.path.decode("utf-8", "surrogateescape")
        sent = f"/{name}{path}" if request.host_style else path
        paths = [sent, f"/{name}/{_name(request.key)}"]
        if request.key is None:
            paths.append(f"/{name}")
        if not request.host_style and request.domain:
            paths.append(f"/{request.domain}{path}")  # a client that takes the host's name for the bucket's (CNAME)
    schemes = [OBS2, scheme] if scheme is AWS2 else [scheme]
    resources: dict[str, Scheme2] = {}
    for kind in schemes:
        found = sorted((name, value) for name, value in request.query if kind.is_subresource(name))
        text = "&".join(f"{name}={value}" if value else name for name, value in found)
        resources |= {path + (f"?{text}" if text else ""): kind for path in paths}
    return resources


def _oss2_header(request: Request, text: str, secrets: Secrets, now: datetime) -> Signed:
    fields = _fields(text, ",", ":")
    if not fields.keys() >= {"AccessKeyId", "Signature"}:
        raise S3Error("InvalidArgument", "the header Authorization needs AccessKeyId and Signature")
    date = request.header("date")
    if date is None:
        raise S3Error("AccessDenied", "a signed request needs the header Date")
    _check_skew(_any_date(date), now)
    additional = fields.get("AdditionalHeaders", "")
    _verify_oss2(request, fields["AccessKeyId"], date, additional, fields["Signature"], secrets)
    return Signed(fields["AccessKeyId"], OSS)


def _oss_query(request: Request, query: dict[str, str], secrets: Secrets, now: datetime) -> Signed:
    """Presigned, version 2 or 4."""
    if query["x-oss-signature-version"] == OSS4.algorithm:
        return _oss4_query(request, query, secrets, now)
    access_key, expires, signature = (
        query.get(f"x-oss-{name}", "") for name in ("access-key-id", "expires", "signature")
    )
    if not re.fullmatch(r"\d{1,12}", expires):
        raise S3Error("AccessDenied", "x-oss-expires is a number of seconds since 1970")
    if now.timestamp() > int(expires):
        raise S3Error("AccessDenied", "Request has expired")
    additional = query.get("x-oss-additional-headers", "")
    _verify_oss2(request, access_key, expires, additional, signature, secrets)
    return Signed(access_key, OSS)


def _verify_oss2(
    request: Request, access_key: str, date: str, additional: str, signature: str, secrets: Secrets
) -> None:
    more = sorted(name for name in additional.lower().split(";") if name)
    headers = sorted(
        f"{name}:{_sent(value)}\n"
        for name, value in request.headers.items()
        if name in more or name.startswith("x-oss-")
    )
    path = "/" if request.bucket is None else f"/{_name(request.bucket)}/{_name(request.key)}"
    query = _canonical_query(request, ("x-oss-signature",), bare=True)
    content = (request.header("content-md5") or "", request.header("content-type") or "")
    resource = quote(to_bytes(path), safe="~") + (f"?{query}" if query else "")
    text = "\n".join((request.method, *content, date, "".join(headers) + ";".join(more), resource))
    secret = secrets(access_key)
    key = (secret or _NOBODYS_SECRET).encode()
    _compare(secret, [_base64(hmac.new(key, to_bytes(text), hashlib.sha256).digest())], signature, text)


# -- forms ------------------------------------------------------------------------------------------------------------


def authenticate_form(fields: Mapping[str, str], secrets: Secrets) -> Signed | None:
    """Who signed the policy of a form (PostObject), by its fields in lower case; None if nobody did. Raises S3Error."""
    policy = fields.get("policy")
    if policy is None:
        return None
    if "x-amz-signature" in fields:
        if fields.get("x-amz-algorithm") != AWS4.algorithm:
            raise S3Error("InvalidArgument", f"x-amz-algorithm is {AWS4.algorithm}")
        credential = _credential(fields.get("x-amz-credential", ""), AWS4, "InvalidArgument")
        secret = secrets(credential.access_key)
        key = credential.signing_key(AWS4, secret or _NOBODYS_SECRET)
        wanted = hmac.new(key, to_bytes(policy), hashlib.sha256).hexdigest()
        _compare(secret, [wanted], fields["x-amz-signature"], policy)
        return Signed(credential.access_key, S3)
    for scheme in (AWS2, OSS1, OBS2):
        access_key = fields.get(scheme.parameters[0].lower())
        if access_key is not None:
            secret = secrets(access_key)
            key = (secret or _NOBODYS_SECRET).encode()
            wanted = _base64(hmac.new(key, to_bytes(policy), hashlib.sha1).digest())
            if "signature" not in fields:
                raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'signature'.")
            _compare(secret, [wanted], fields["signature"], policy)
            return Signed(access_key, scheme.dialect)
    raise S3Error("InvalidArgument", "the form has a policy, and no signature")


# -- pieces -----------------------------------------------------------------------------------------------------------


def _compare(secret: str | None, wanted: list[str], signature: str, text: str) -> None:
    """Raise InvalidAccessKeyId or SignatureDoesNotMatch, with what was to be signed: that is no secret."""
    given = to_bytes(signature)
    matches = [hmac.compare_digest(to_bytes(one), given) for one in wanted]  # all, in constant time
    if secret is None:
        raise S3Error("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    if not any(matches):
        message = "The request signature we calculated does not match the signature you provided."
        raise S3Error("SignatureDoesNotMatch", message, fields={"StringToSign": text})


def _fields(text: str, separator: str, equals: str) -> dict[str, str]:
    found = {}
    for part in text.split(separator):
        name, _, value = part.strip().partition(equals)
        found[name] = value.strip()
    return found


def _sent(value: str) -> str:
    """A header as the client had it: what came was taken for Latin-1 (RFC 9110). Some send UTF-8, and some Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _name(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "surrogateescape")


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _http_date(text: str | None) -> datetime:
    try:
        found = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        raise S3Error("AccessDenied", "a signed request needs a valid date") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _any_date(text: str) -> datetime:
    if re.fullmatch(r"\d{8}T\d{6}Z", text):
        return _moment4(text, "AccessDenied")
    return _http_date(text)


def _check_skew(when: datetime, now: datetime) -> None:
    if abs((now - when).total_seconds()) > SKEW_S_MAX:
        raise S3Error(
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            fields={
                "RequestTime": f"{when:%Y%m%dT%H%M%SZ}",
                "ServerTime": f"{now:%Y-%m-%dT%H:%M:%SZ}",
                "MaxAllowedSkewMilliseconds": str(SKEW_S_MAX * 1000),
            },
        )


def _check_expires(text: str, when: datetime, now: datetime, code: str) -> None:
    if not re.fullmatch(r"\d{1,7}", text) or not 1 <= int(text) <= EXPIRES_S_MAX:
        raise S3Error(code, f"a presigned request is valid for 1 to {EXPIRES_S_MAX} seconds")
    if now > when + timedelta(seconds=int(text)):
        raise S3Error("AccessDenied", "Request has expired")
    if (when - now).total_seconds() > SKEW_S_MAX:
        raise S3Error("AccessDenied", "Request is not valid yet")


def decode_base64(text: str) -> bytes | None:
    """Strictly; None if it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


_IN_HEADER: dict[str, Callable[[Request, str, Secrets, datetime], Signed]] = {
    AWS4.algorithm: _aws4_header,
    "AWS": _header2(AWS2),
    "OBS": _header2(OBS2),
    "OSS": _header2(OSS1),
    "OSS2": _oss2_header,
    OSS4.algorithm: _oss4_header,
}
_IN_QUERY: dict[str, Callable[[Request, dict[str, str], Secrets, datetime], Signed]] = {
    "X-Amz-Algorithm": _aws4_query,
    "AWSAccessKeyId": _query2(AWS2),
    "OSSAccessKeyId": _query2(OSS1),
    "x-oss-signature-version": _oss_query,
    "AccessKeyId": _query2(OBS2),
}
