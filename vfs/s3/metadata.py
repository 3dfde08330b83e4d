"""What a client says of an object it puts, in headers or in the fields of a form: to an ObjectInfo and back. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from urllib.parse import parse_qsl

from vfs.model import LockMode, ObjectInfo, Retention
from vfs.names import to_datetime
from vfs.objects import Condition, Object
from vfs.s3 import checksums
from vfs.s3.call import http_date, quoted
from vfs.s3.dialects import Dialect
from vfs.s3.errors import S3Error
from vfs.s3.request import natural, parse_moment

METADATA_BYTES_MAX = 8 << 10  # OSS's; S3 has 2 KiB
TAGS_MAX = 10  # of an object
TAG_KEY_CHARS_MAX = 128
TAG_VALUE_CHARS_MAX = 256

META = "x-amz-meta-"
_KEPT = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
)
_CLASSES = frozenset(
    [
        "STANDARD",
        "REDUCED_REDUNDANCY",
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER",
        "DEEP_ARCHIVE",
        "GLACIER_IR",
        "EXPRESS_ONEZONE",
        "IA",
        "ARCHIVE",
        "COLDARCHIVE",
        "DEEPCOLDARCHIVE",
        "WARM",
        "COLD",
    ]
)
_ACLS = ("private", "bucket-owner-full-control", "default")
_ENCRYPTION = re.compile(r"x-amz-server-side-encryption|x-amz-copy-source-server-side-encryption")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")  # bytes of a query that are no UTF-8
_TAG = re.compile(r"[\w \t+\-=.:/@]*\Z")


def info_from(headers: Mapping[str, str], dialect: Dialect, owner: str, now: int) -> ObjectInfo:
    """What headers, by lower-case names, say of a new object. now: µs since 1970. Raises S3Error."""
    check_unsupported(headers)
    kept = {name: headers[name] for name in _KEPT if headers.get(name)}
    encodings = [
        word for word in kept.pop("content-encoding", "").split(",") if word.strip() not in ("", "aws-chunked")
    ]
    if encodings:
        kept["content-encoding"] = ",".join(encodings).strip()
    kept.setdefault("content-type", dialect.content_type)
    if kept.get("x-amz-storage-class", "STANDARD").upper() not in _CLASSES:
        raise S3Error("InvalidStorageClass", "The storage class you specified is not valid")
    if kept.get("x-amz-storage-class", "").upper() == "STANDARD":
        del kept["x-amz-storage-class"]
    metadata = {name.removeprefix(META): value for name, value in headers.items() if name.startswith(META)}
    if sum(len(name) + len(value) for name, value in metadata.items()) > METADATA_BYTES_MAX:
        raise S3Error("MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size")
    for name, value in (*kept.items(), *metadata.items()):
        check_header(name, value)
    tags = parse_tags(headers.get("x-amz-tagging", ""))
    retention = _retention(headers, now)
    hold = _legal_hold(headers.get("x-amz-object-lock-legal-hold"))
    return ObjectInfo(headers=kept, metadata=metadata, tags=tags, retention=retention, legal_hold=hold, owner=owner)


def check_header(name: str, value: str) -> None:
    """Raise S3Error for what no header can say: it may come from a form, or from a query."""
    if not _TOKEN.match(name) or _CONTROL.search(value) or _SURROGATE.search(value):
        raise S3Error("InvalidArgument", "the name or the value of a header has characters that it cannot have")


def check_unsupported(headers: Mapping[str, str]) -> None:
    """Raise S3Error for what would be promised and not kept: encryption, rights for others."""
    for name in headers:
        if _ENCRYPTION.match(name):
            raise S3Error("NotImplemented", f"content is not encrypted here: {name}")
        if name.startswith("x-amz-grant-"):
            raise S3Error("AccessControlListNotSupported", "The bucket does not allow ACLs")
    if headers.get("x-amz-acl", "private") not in _ACLS:
        raise S3Error("AccessControlListNotSupported", "The bucket does not allow ACLs")


def parse_tags(text: str) -> dict[str, str]:
    """Tags as a header has them. Raises S3Error."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=TAGS_MAX + 1)
    except ValueError:
        raise S3Error("InvalidArgument", "the header x-amz-tagging is a query: key=value&key=value") from None
    return check_tags(pairs)


def check_tags(pairs: list[tuple[str, str]], most: int = TAGS_MAX) -> dict[str, str]:
    """Raise S3Error unless tags follow S3's rules."""
    if len(pairs) > most:
        raise S3Error("InvalidTag", f"there are at most {most} tags")
    for key, value in pairs:
        if not 0 < len(key) <= TAG_KEY_CHARS_MAX or not _TAG.match(key):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid")
        if len(value) > TAG_VALUE_CHARS_MAX or not _TAG.match(value):
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid")
    found = dict(pairs)
    if len(found) != len(pairs):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    return found


def parse_mode(text: str, code: str = "InvalidArgument") -> LockMode:
    """GOVERNANCE or COMPLIANCE. Raises S3Error."""
    if text not in LockMode.__members__:
        raise S3Error(code, "the mode is GOVERNANCE or COMPLIANCE")
    return LockMode[text]


def new_retention(mode: LockMode, until: str, now: int) -> Retention:
    """A retention that begins now (µs since 1970). Raises S3Error, also if it would be over already: that would only
    keep the bucket's default one away.
    """
    found = Retention(mode, parse_moment(until))
    if found.until <= now:
        raise S3Error("InvalidArgument", "The retain until date must be in the future!")
    return found


def _retention(headers: Mapping[str, str], now: int) -> Retention | None:
    mode = headers.get("x-amz-object-lock-mode")
    until = headers.get("x-amz-object-lock-retain-until-date")
    if mode is None and until is None:
        return None
    if mode is None or until is None:
        raise S3Error(
            "InvalidArgument",
            "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
        )
    return new_retention(parse_mode(mode), until, now)


def _legal_hold(text: str | None) -> bool:
    if text not in (None, "ON", "OFF"):
        raise S3Error("InvalidArgument", "a legal hold is ON or OFF")
    return text == "ON"


def headers_of(item: Object, *, with_checksum: bool) -> dict[str, str]:
    """The headers that GET and HEAD tell of an object, in the words of S3."""
    info = item.info
    found = {
        "Last-Modified": http_date(item.modified),
        "ETag": quoted(item.etag),
        "Accept-Ranges": "bytes",
        "Content-Type": "binary/octet-stream",
    }
    for name, value in info.headers.items():
        found["-".join(word.capitalize() for word in name.split("-")) if not name.startswith("x-") else name] = value
    found |= {META + name: value for name, value in info.metadata.items()}
    if info.tags:
        found["x-amz-tagging-count"] = str(len(info.tags))
    if info.retention is not None:
        found["x-amz-object-lock-mode"] = info.retention.mode.name
        found["x-amz-object-lock-retain-until-date"] = _iso(info.retention.until)
    if info.legal_hold:
        found["x-amz-object-lock-legal-hold"] = "ON"
    if with_checksum:
        for checksum in info.checksums:
            found[checksums.header_of(checksum.algorithm)] = checksum.value
            found["x-amz-checksum-type"] = checksum.kind
    return found


def _iso(us: int) -> str:
    return f"{to_datetime(us):%Y-%m-%dT%H:%M:%SZ}"


def condition_from(headers: Mapping[str, str]) -> Condition | None:
    """What a put makes a condition of. Raises S3Error."""
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    if headers.get("x-amz-forbid-overwrite", "").lower() == "true":
        none_match = "*"
    if match is None and none_match is None:
        return None
    return Condition(_etags(match), _etags(none_match))


def delete_condition_from(headers: Mapping[str, str]) -> Condition | None:
    """What a delete makes a condition of. Raises S3Error."""
    match = headers.get("if-match")
    modified = headers.get("x-amz-if-match-last-modified-time")
    size = headers.get("x-amz-if-match-size")
    if match is None and modified is None and size is None:
        return None
    bytes_wanted = None if size is None else natural(size)
    if size is not None and bytes_wanted is None:
        raise S3Error("InvalidArgument", "x-amz-if-match-size is a number of bytes")
    when = None if modified is None else parse_http_date(modified)
    if modified is not None and when is None:
        when = parse_moment(modified)
    return Condition(_etags(match), None, when, bytes_wanted)


def parse_http_date(text: str) -> int | None:
    """A date of a header, µs since 1970; None if it is none."""
    from email.utils import parsedate_to_datetime

    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return int(found.timestamp()) * 1_000_000


def _etags(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(part.strip().removeprefix("W/").strip('"') for part in text.split(","))


def matches(text: str, etag: str) -> bool:
    """Whether an ETag is among those of a header If-Match or If-None-Match."""
    wanted = _etags(text) or ()
    return "*" in wanted or etag in wanted
