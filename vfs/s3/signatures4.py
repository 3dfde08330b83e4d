"""Signatures of version 4, of S3 and of OSS. Pure.

Sources: "Authenticating Requests (AWS Signature Version 4)" of the S3 API reference; "Include a signature in the
Authorization header" (V4) of the OSS API reference.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from vfs.s3.dialects import AMZ, OSS, S3, Dialect
from vfs.s3.errors import S3Error
from vfs.s3.request import Request, to_bytes
from vfs.s3.signed import (
    NOBODYS_SECRET,
    ChunkSigner,
    Payload,
    Secrets,
    Signed,
    canonical_query,
    check_expires,
    check_skew,
    compare,
    fields_of,
    http_date,
    moment_of,
    sent,
    text_of,
)

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
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


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


def credential_of(text: str, scheme: Scheme4, code: str) -> Credential:
    """The credential of a request. Raises S3Error with *code*."""
    parts = text.rsplit("/", 4)
    if len(parts) != 5 or not re.fullmatch(r"\d{8}", parts[1]):
        raise S3Error(code, "the credential is <access key>/<yyyymmdd>/<region>/<service>/<request>")
    found = Credential(*parts)
    if found.service not in scheme.services or found.request != scheme.request:
        wanted = f"{scheme.services[0]}/{scheme.request}"
        raise S3Error(code, f"the credential ends in {wanted}, not in {found.service}/{found.request}")
    return found


def aws4_header(request: Request, text: str, secrets: Secrets, now: datetime) -> Signed:
    """Authorization: AWS4-HMAC-SHA256."""
    malformed = "AuthorizationHeaderMalformed"
    fields = fields_of(text, ",", "=")
    if not fields.keys() >= {"Credential", "SignedHeaders", "Signature"}:
        raise S3Error(malformed, "the header Authorization needs Credential, SignedHeaders and Signature")
    credential = credential_of(fields["Credential"], AWS4, malformed)
    moment = request.amz("date")
    when = moment_of(moment, "AccessDenied") if moment is not None else http_date(request.header("date"))
    moment = f"{when:%Y%m%dT%H%M%SZ}"
    if credential.date != moment[:8]:
        raise S3Error(malformed, f"the date of the credential is {credential.date}, that of the request {moment[:8]}")
    check_skew(when, now)
    payload_hash = request.amz("content-sha256")
    if payload_hash is None:
        raise S3Error("InvalidRequest", "the header x-amz-content-sha256 is missing")
    signed = fields["SignedHeaders"].split(";")
    _check_all_signed(request, signed)
    text4 = _canonical4(request, signed, payload_hash, without=())
    chunks = _verify4(AWS4, credential, moment, text4, fields["Signature"], secrets)
    return _signed4(credential.access_key, payload_hash, chunks)


def aws4_query(request: Request, query: dict[str, str], secrets: Secrets, now: datetime) -> Signed:
    """Presigned by version 4 of S3."""
    wrong = "AuthorizationQueryParametersError"
    names = ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature")
    missing = [name for name in names if name not in query]
    if missing:
        raise S3Error(wrong, f"a presigned request needs the parameter {missing[0]}")
    if query["X-Amz-Algorithm"] != AWS4.algorithm:
        raise S3Error(wrong, f"X-Amz-Algorithm is {AWS4.algorithm}")
    credential = credential_of(query["X-Amz-Credential"], AWS4, wrong)
    when = moment_of(query["X-Amz-Date"], wrong)
    if credential.date != query["X-Amz-Date"][:8]:
        raise S3Error(wrong, "X-Amz-Credential and X-Amz-Date have different dates")
    check_expires(query["X-Amz-Expires"], when, now, wrong)
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
        return Signed(access_key, S3, Payload.SHA256, payload_hash, signature=chunks.seed)
    try:
        payload = Payload(payload_hash)
    except ValueError:
        payload = Payload.SHA256
    if payload is Payload.SHA256:
        known = payload_hash.startswith("STREAMING-")
        code = "NotImplemented" if known else "InvalidArgument"
        raise S3Error(code, f"x-amz-content-sha256 is a SHA-256 in hexadecimal or a word, not {payload_hash[:80]!r}")
    return Signed(access_key, S3, payload, chunks=chunks if payload.in_chunks else None, signature=chunks.seed)


def _canonical4(request: Request, signed: Iterable[str], payload_hash: str, *, without: tuple[str, ...]) -> str:
    lines = []
    for name in signed:
        value = request.host if name == "host" else request.header(name)
        if value is None and name != "content-length":
            raise S3Error("SignatureDoesNotMatch", f"the header {name} is signed, and not there")
        lines.append(f"{name}:{' '.join(sent(value or '').split())}\n")
    return "\n".join(
        (
            request.method,
            quote(unquote_to_bytes(request.path), safe="/~"),
            canonical_query(request, without),
            "".join(lines),
            ";".join(signed),
            payload_hash,
        )
    )


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
    key = credential.signing_key(scheme, secret or NOBODYS_SECRET)
    wanted = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    compare(secret, [wanted], signature, text)
    return ChunkSigner(key, moment, credential.scope, wanted)


def oss4_header(request: Request, text: str, secrets: Secrets, now: datetime) -> Signed:
    """Authorization: OSS4-HMAC-SHA256."""
    malformed = "AuthorizationHeaderMalformed"
    fields = fields_of(text, ",", "=")
    if not fields.keys() >= {"Credential", "Signature"}:
        raise S3Error(malformed, "the header Authorization needs Credential and Signature")
    credential = credential_of(fields["Credential"], OSS4, malformed)
    moment = request.header("x-oss-date")
    when = moment_of(moment, "AccessDenied")
    check_skew(when, now)
    if credential.date != f"{when:%Y%m%d}":
        raise S3Error(malformed, "the credential and x-oss-date have different dates")
    additional = [name for name in fields.get("AdditionalHeaders", "").lower().split(";") if name]
    canonical = _canonical_oss4(request, additional, without=())
    _verify4(OSS4, credential, moment or "", canonical, fields["Signature"], secrets)
    return Signed(credential.access_key, OSS, signature=fields["Signature"])


def oss4_query(request: Request, query: dict[str, str], secrets: Secrets, now: datetime) -> Signed:
    """Presigned by version 4 of OSS."""
    wrong = "AuthorizationQueryParametersError"
    names = ("x-oss-credential", "x-oss-date", "x-oss-expires", "x-oss-signature")
    missing = [name for name in names if name not in query]
    if missing:
        raise S3Error(wrong, f"a presigned request needs the parameter {missing[0]}")
    credential = credential_of(query["x-oss-credential"], OSS4, wrong)
    when = moment_of(query["x-oss-date"], wrong)
    if credential.date != f"{when:%Y%m%d}":
        raise S3Error(wrong, "x-oss-credential and x-oss-date have different dates")
    check_expires(query["x-oss-expires"], when, now, wrong)
    additional = [name for name in query.get("x-oss-additional-headers", "").lower().split(";") if name]
    canonical = _canonical_oss4(request, additional, without=("x-oss-signature",))
    _verify4(OSS4, credential, query["x-oss-date"], canonical, query["x-oss-signature"], secrets)
    return Signed(credential.access_key, OSS, signature=query["x-oss-signature"])


def _canonical_oss4(request: Request, additional: list[str], *, without: tuple[str, ...]) -> str:
    wanted = {"content-type", "content-md5", *additional}
    named = sorted(name for name in request.headers if name in wanted or name.startswith("x-oss-"))
    lines = [f"{name}:{sent(request.headers[name])}\n" for name in named]
    path = "/" if request.bucket is None else f"/{text_of(request.bucket)}/{text_of(request.key)}"
    return "\n".join(
        (
            request.method,
            quote(to_bytes(path), safe="/~"),
            canonical_query(request, without, bare=True),
            "".join(lines),
            ";".join(sorted(additional)),
            request.header("x-oss-content-sha256") or Payload.UNSIGNED.value,
        )
    )
