"""What a signature that was found right says, and what all schemes are verified with. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

from vfs.s3.dialects import Dialect
from vfs.s3.errors import S3Error
from vfs.s3.request import Request, to_bytes

SKEW_S_MAX = 900  # between the clocks of a client and this machine
EXPIRES_S_MAX = 604_800  # of a presigned request: a week

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
NOBODYS_SECRET = "a key that nobody has"


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
    parameter of the query is signed. headers: those that a presigned request has in its query. signature: as it was
    sent; two requests that differ in what is signed have two.
    """

    access_key: str
    dialect: Dialect
    payload: Payload = Payload.UNSIGNED
    sha256: str = ""
    chunks: ChunkSigner | None = None
    covers: Callable[[str], bool] = lambda _: True
    headers: Mapping[str, str] = NO_HEADERS
    signature: str = ""


Secrets = Callable[[str], str | None]  # the secret of an access key; None if nobody has that key


def compare(secret: str | None, wanted: list[str], signature: str, text: str) -> None:
    """Raise InvalidAccessKeyId or SignatureDoesNotMatch, with what was to be signed: that is no secret."""
    given = to_bytes(signature)
    matches = [hmac.compare_digest(to_bytes(one), given) for one in wanted]  # all, in constant time
    if secret is None:
        raise S3Error("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    if not any(matches):
        message = "The request signature we calculated does not match the signature you provided."
        raise S3Error("SignatureDoesNotMatch", message, fields={"StringToSign": text})


def fields_of(text: str, separator: str, equals: str) -> dict[str, str]:
    """``a=b,c=d`` as names and values."""
    found = {}
    for part in text.split(separator):
        name, _, value = part.strip().partition(equals)
        found[name] = value.strip()
    return found


def sent(value: str) -> str:
    """A header as the client had it: what came was taken for Latin-1 (RFC 9110). Some send UTF-8, and some Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def text_of(raw: bytes | None) -> str:
    """A bucket or key, with surrogates for what is no UTF-8."""
    return (raw or b"").decode("utf-8", "surrogateescape")


def encode_base64(digest: bytes) -> str:
    """A digest as signatures have it."""
    return base64.b64encode(digest).decode()


def canonical_query(request: Request, without: tuple[str, ...], *, bare: bool = False) -> str:
    """bare: a parameter without a value has no equals sign."""
    found = []
    for name, value in request.query:
        if name not in without:
            equals = "=" if value or not bare else ""
            found.append((quote(to_bytes(name), safe="~"), equals + quote(to_bytes(value), safe="~")))
    return "&".join(name + value for name, value in sorted(found))


def http_date(text: str | None) -> datetime:
    """A date of HTTP (RFC 9110). Raises S3Error."""
    try:
        found = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        raise S3Error("AccessDenied", "a signed request needs a valid date") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def moment_of(text: str | None, code: str) -> datetime:
    """``20261120T151617Z``. Raises S3Error with *code*."""
    try:
        return datetime.strptime(text or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise S3Error(code, "the date looks like 20261120T151617Z") from None


def any_date(text: str) -> datetime:
    """A date in either of the forms that clients send. Raises S3Error."""
    if re.fullmatch(r"\d{8}T\d{6}Z", text):
        return moment_of(text, "AccessDenied")
    return http_date(text)


def check_skew(when: datetime, now: datetime) -> None:
    """Raise RequestTimeTooSkewed if the two clocks differ too much."""
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


def check_expires(text: str, when: datetime, now: datetime, code: str) -> None:
    """Raise S3Error unless a request presigned at *when* for so many seconds is valid now."""
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
