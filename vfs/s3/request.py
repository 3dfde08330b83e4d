"""What a request asks for: method, bucket, key, parameters, headers. Pure.

The bucket is in the path, or in the name of the host: of a domain that the settings name, of `localhost`, or of a name
whose label says what speaks there (`s3`, `oss`, `obs`, alone or followed by a dash: `b.obs.example.com`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from vfs.model import SEQ_MAX, Seq
from vfs.names import to_us
from vfs.s3.dialects import AMZ, Dialect, by_label
from vfs.s3.errors import S3Error

QUERY_FIELDS_MAX = 256

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:\d{1,5})?\Z")
_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}\Z|\[")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)(Z|[+-]\d\d:?\d\d)?\Z")
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

# Headers that say one thing: a second one with another value is a trick (request smuggling), not a list.
_SINGLE = frozenset(("host", "content-length", "authorization", "content-type", "date", "x-amz-date"))


class Request(NamedTuple):
    """path: as it was sent, without parameters. query: decoded, in the order sent; bytes that are no UTF-8 as
    surrogates. host: as it was sent; domain: without the bucket and the port. host_style: the bucket is in its name.
    """

    method: str
    path: bytes
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    host: str = ""
    domain: str = ""
    bucket: bytes | None = None
    key: bytes | None = None
    host_style: bool = False

    def parameter(self, name: str) -> str | None:
        """A parameter of the query; None if it is not there."""
        return next((value for key, value in self.query if key == name), None)

    def header(self, name: str) -> str | None:
        """A header, by its name in lower case."""
        return self.headers.get(name)

    def amz(self, name: str) -> str | None:
        """A header of S3 by its name without x-amz-."""
        return self.headers.get(AMZ + name)

    @property
    def dialect_of_domain(self) -> Dialect | None:
        return by_label(self.domain.partition(".")[0])


def parse(method: str, target: bytes, headers: Iterable[tuple[str, str]], domains: Sequence[str] = ()) -> Request:
    """A request by its first line and headers. Raises S3Error."""
    found = _joined(headers)
    if target.startswith((b"http://", b"https://")):  # as to a proxy (RFC 9112, 3.2.2)
        target = b"/" + target.split(b"/", 3)[3] if target.count(b"/") > 2 else b"/"
    if not target.startswith(b"/"):
        raise S3Error("InvalidURI", "the target of a request is a path")
    path, _, raw_query = target.partition(b"?")
    host = found.get("host", "")
    if host and not _HOST.match(host):
        raise S3Error("BadRequest", "the header Host is no name of a host")
    bucket_in_host, domain = split_host(re.sub(r":\d+\Z", "", host).lower(), domains)
    if bucket_in_host is not None:
        bucket: bytes | None = bucket_in_host.encode()
        rest = path[1:]
    else:
        first, _, rest = path[1:].partition(b"/")
        bucket = decoded(first) or None
        if bucket is None and rest:
            raise S3Error("InvalidURI", "the path names no bucket")
    if bucket is not None and b"/" in bucket:  # signed without its percent sign it would pass for another and a key
        raise S3Error("InvalidBucketName", "the name of a bucket has no slash")
    key = decoded(rest) or None
    return Request(method, path, parse_query(raw_query), found, host, domain, bucket, key, bucket_in_host is not None)


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        value = value.strip()
        if name not in found:
            found[name] = value
        elif name not in _SINGLE:
            found[name] += "," + value
        elif found[name] != value:
            raise S3Error("BadRequest", f"the header {name} is there twice")
    return found


def split_host(host: str, domains: Sequence[str]) -> tuple[str | None, str]:
    """The bucket in the name of a host, and the endpoint's own name."""
    if not host or _ADDRESS.match(host):
        return None, host
    for domain in sorted((*domains, "localhost"), key=len, reverse=True):
        if host == domain:
            return None, host
        if host.endswith("." + domain) and by_label(host.removesuffix("." + domain).rpartition(".")[2]) is None:
            return host.removesuffix("." + domain), domain
    labels = host.split(".")
    for at in range(1, len(labels)):
        if by_label(labels[0]) is None and by_label(labels[at]) is not None:
            return ".".join(labels[:at]), ".".join(labels[at:])
    return None, host


def decoded(raw: bytes) -> bytes:
    """Percent-encoded bytes as what they stand for. Raises S3Error."""
    if _ESCAPE.search(raw):
        raise S3Error("InvalidURI", "a percent sign is followed by two hexadecimal digits")
    return unquote_to_bytes(raw)


def natural(text: str) -> int | None:
    """A number from 0 on, of at most 18 digits (Python refuses to read very long ones); None if it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def parse_moment(text: str) -> Seq:
    """An ISO 8601 moment from 1970 to 9999, µs since 1970. Raises S3Error."""
    found = _MOMENT.match(text.strip())
    try:
        moment = datetime.fromisoformat(text.strip()) if found else None
    except ValueError:
        moment = None
    us = -1 if moment is None else to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    if not 0 <= us <= SEQ_MAX:
        raise S3Error("InvalidArgument", "the date looks like 2026-11-20T15:16:17Z, from 1970 to 9999")
    return Seq(us)


def parse_query(raw: bytes) -> tuple[tuple[str, str], ...]:
    """The parameters of a query. Raises S3Error."""
    if not raw:
        return ()
    if raw.count(b"&") >= QUERY_FIELDS_MAX:
        raise S3Error("InvalidURI", f"a request has at most {QUERY_FIELDS_MAX} parameters")
    found = []
    for field in raw.split(b"&"):
        if field:
            name, _, value = field.replace(b"+", b" ").partition(b"=")
            found.append((_text(name), _text(value)))
    if len(dict(found)) < len(set(found)):  # like a header of _SINGLE
        raise S3Error("InvalidArgument", "a parameter is there twice, with different values")
    return tuple(found)


def _text(raw: bytes) -> str:
    return decoded(raw).decode("utf-8", "surrogateescape")


def text(raw: bytes) -> str:
    """A name for XML; what is no UTF-8 as question marks."""
    return raw.decode("utf-8", "replace")


def to_bytes(text: str) -> bytes:
    """The bytes of a parameter, as they were sent."""
    return text.encode("utf-8", "surrogateescape")
