"""Who signed a request: every scheme that the clients of the three dialects use. Pure.

A request with an access key that nobody has is verified like any other, with a secret that nobody has, so that its
answer comes no sooner.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime

from vfs.s3.dialects import OBS, OBS_AMZ, OSS, S3, Dialect
from vfs.s3.errors import S3Error
from vfs.s3.request import Request, to_bytes
from vfs.s3.signatures2 import AWS2, OBS2, OSS1, header2, oss2_header, oss2_query, query2
from vfs.s3.signatures4 import AWS4, OSS4, aws4_header, aws4_query, credential_of, oss4_header, oss4_query
from vfs.s3.signed import NOBODYS_SECRET, Secrets, Signed, compare, encode_base64


def dialect_of(request: Request) -> Dialect:
    """What a refusal of this is to be written in, whoever sent it."""
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


def dialect_for(request: Request, signed: Signed) -> Dialect:
    """What a signed request speaks: its signature decides, which covers its own dialect's headers and no others."""
    return OBS_AMZ if signed.dialect is S3 and request.dialect_of_domain is OBS else signed.dialect


def authenticate(request: Request, secrets: Secrets, now: datetime) -> Signed | None:
    """Who signed it; None if nobody did. Raises S3Error: AccessDenied, InvalidAccessKeyId, SignatureDoesNotMatch,
    RequestTimeTooSkewed, AuthorizationHeaderMalformed, AuthorizationQueryParametersError.
    """
    header = request.header("authorization")
    query = dict(request.query)
    in_query = [name for name in _IN_QUERY if name in query]
    if len(in_query) + (header is not None) > 1:
        raise S3Error("InvalidArgument", "a request is signed in one way only")
    if header is not None:
        scheme, _, rest = header.partition(" ")
        verify = _IN_HEADER.get(scheme)
        if verify is None:
            raise S3Error("InvalidArgument", "the header Authorization names no scheme that is known here")
        return verify(request, rest.strip(), secrets, now)
    if in_query:
        return _IN_QUERY[in_query[0]](request, query, secrets, now)
    return None


def _oss_query(request: Request, query: dict[str, str], secrets: Secrets, now: datetime) -> Signed:
    """Presigned, version 2 or 4."""
    if query["x-oss-signature-version"] == OSS4.algorithm:
        return oss4_query(request, query, secrets, now)
    return oss2_query(request, query, secrets, now)


def authenticate_form(fields: Mapping[str, str], secrets: Secrets) -> Signed | None:
    """Who signed the policy of a form (PostObject), by its fields in lower case; None if nobody did. Raises S3Error."""
    policy = fields.get("policy")
    if policy is None:
        return None
    if "x-amz-signature" in fields:
        if fields.get("x-amz-algorithm") != AWS4.algorithm:
            raise S3Error("InvalidArgument", f"x-amz-algorithm is {AWS4.algorithm}")
        credential = credential_of(fields.get("x-amz-credential", ""), AWS4, "InvalidArgument")
        secret = secrets(credential.access_key)
        key = credential.signing_key(AWS4, secret or NOBODYS_SECRET)
        wanted = hmac.new(key, to_bytes(policy), hashlib.sha256).hexdigest()
        compare(secret, [wanted], fields["x-amz-signature"], policy)
        return Signed(credential.access_key, S3)
    for scheme in (AWS2, OSS1, OBS2):
        access_key = fields.get(scheme.parameters[0].lower())
        if access_key is not None:
            secret = secrets(access_key)
            key = (secret or NOBODYS_SECRET).encode()
            wanted = encode_base64(hmac.new(key, to_bytes(policy), hashlib.sha1).digest())
            if "signature" not in fields:
                raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'signature'.")
            compare(secret, [wanted], fields["signature"], policy)
            return Signed(access_key, scheme.dialect)
    raise S3Error("InvalidArgument", "the form has a policy, and no signature")


_IN_HEADER: dict[str, Callable[[Request, str, Secrets, datetime], Signed]] = {
    AWS4.algorithm: aws4_header,
    "AWS": header2(AWS2),
    "OBS": header2(OBS2),
    "OSS": header2(OSS1),
    "OSS2": oss2_header,
    OSS4.algorithm: oss4_header,
}
_IN_QUERY: dict[str, Callable[[Request, dict[str, str], Secrets, datetime], Signed]] = {
    "X-Amz-Algorithm": aws4_query,
    "AWSAccessKeyId": query2(AWS2),
    "OSSAccessKeyId": query2(OSS1),
    "x-oss-signature-version": _oss_query,
    "AccessKeyId": query2(OBS2),
}
