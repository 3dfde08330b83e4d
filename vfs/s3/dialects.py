"""The dialects that clients speak, as data: S3, OSS (Alibaba Cloud), OBS (Huawei Cloud).

Handlers know S3's words only. A request is translated when it comes in, its answer when it goes out, by the prefix of
the headers and the few words that differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from vfs.names import to_datetime

AMZ = "x-amz-"


class Dialect(NamedTuple):
    """prefix: of its headers. namespace: of its XML, `{host}` is the endpoint's name; empty: none. keys_default:
    how many a listing without max-keys gives. milliseconds: whether its XML has those of moments, or zeros.
    incoming: headers whose names differ by more than the prefix. unsaid: headers with a value that it leaves out.
    part_bytes_min: of all parts of an upload but the last. content_type: of objects put without one.
    """

    name: str
    prefix: str
    namespace: str
    keys_default: int = 1000
    milliseconds: bool = True
    incoming: Mapping[str, str] = {}
    unsaid: frozenset[tuple[str, str]] = frozenset()
    part_bytes_min: int = 5 << 20
    content_type: str = "binary/octet-stream"

    def to_amz(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers of a request in the words of S3. Those that S3 has for them are left out: nobody signed them."""
        if self.prefix == AMZ:
            return dict(headers)
        found = {name: value for name, value in headers.items() if not name.startswith(AMZ)}
        for name, value in headers.items():
            if name in self.incoming:
                found[self.incoming[name]] = value
            elif name.startswith(self.prefix):
                found[AMZ + name.removeprefix(self.prefix)] = value
        return found

    def from_amz(self, headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Headers of an answer in the words of this dialect."""
        for name, value in headers:
            if (name, value) in self.unsaid:
                continue
            if name.startswith(AMZ):
                yield self.prefix + name.removeprefix(AMZ), value
            else:
                yield name, value

    def moment(self, us: int) -> str:
        """A moment (µs since 1970) as its XML has it."""
        found = to_datetime(us)
        return f"{found:%Y-%m-%dT%H:%M:%S}.{us // 1000 % 1000 if self.milliseconds else 0:03}Z"


S3 = Dialect("S3", AMZ, "http://s3.amazonaws.com/doc/2006-03-01/")
OSS = Dialect(
    "OSS",
    "x-oss-",
    "",
    keys_default=100,
    milliseconds=False,
    incoming={"x-oss-object-acl": "x-amz-acl"},
    unsaid=frozenset({("x-amz-delete-marker", "false")}),
    part_bytes_min=100 << 10,
    content_type="application/octet-stream",
)
OBS = Dialect("OBS", "x-obs-", "http://{host}/doc/2015-06-30/", part_bytes_min=100 << 10)
OBS_AMZ = OBS._replace(prefix=AMZ)  # what OBS speaks with who signs as for S3

# The first label of an endpoint's name says what speaks there: obs.example.com, oss-cn-hangzhou.aliyuncs.com
_LABELS = {"s3": S3, "oss": OSS, "obs": OBS}


def by_label(label: str) -> Dialect | None:
    """The dialect of an endpoint whose name begins with this label."""
    return _LABELS.get(label.partition("-")[0])
