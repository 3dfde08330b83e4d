"""What a request is answered with. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from vfs.s3 import xml
from vfs.s3.dialects import Dialect
from vfs.s3.errors import S3Error
from vfs.s3.xml import Value

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Stream(NamedTuple):
    """A body that is made while it is sent. length: bytes."""

    length: int
    open: Callable[[], AsyncIterator[bytes]]


class Response(NamedTuple):
    """headers: in the words of S3, unless they are everybody's."""

    status: int = 200
    headers: Mapping[str, str] = NO_HEADERS
    body: bytes | Stream = b""


class Document(NamedTuple):
    """An answer in XML, before it is written in a dialect."""

    root: str
    content: Value
    headers: Mapping[str, str] = NO_HEADERS
    status: int = 200

    def written(self, dialect: Dialect, host: str) -> Response:
        """As bytes."""
        namespace = dialect.namespace.format(host=host or "obs.example.com")
        body = xml.document(self.root, self.content, namespace)
        return Response(self.status, {"Content-Type": "application/xml", **self.headers}, body)


def failed(error: S3Error, *, resource: str, request_id: str, host: str) -> Response:
    """The answer to a request that fails."""
    if error.status == 304:
        kept = {name: value for name, value in error.headers.items() if not name.startswith("x-amz-checksum-")}
        kept.pop("Content-Type", None)
        return Response(304, kept)
    content = {
        "Code": error.code,
        "Message": error.message or error.code,
        "Resource": resource,
        **error.fields,
        "RequestId": request_id,
        "HostId": host,
    }
    headers = {"Content-Type": "application/xml", **error.headers}
    return Response(error.status, headers, xml.document("Error", content))
