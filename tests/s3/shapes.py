"""Requests of every shape in S3's model (botocore's), and beside it; random numbers or the bytes of a fuzzer choose.

Most of what is drawn is nearly right: a name of a bucket that is there, an id that was in an earlier answer, a word
that the model allows. The rest is what no client sends.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore import model
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

BUCKETS = [f"fuzz-{number}" for number in range(6)]
KEYS = [
    "a",
    "a/b",
    "a/b/c",
    "d/",
    "e e+%41&?#",
    "ü☃",
    "..",
    "a//b",
    "x\x01y",
    "x\r\ny",
    "k" * 502,
    "<&>]]>",
    ".versions/a/1",
]
WORDS = [
    "",
    "a",
    "*",
    "/",
    "null",
    "0",
    "-1",
    "\x00",
    "ü",
    "a=b&c=d",
    '"',
    "<a>",
    "x" * 3000,
    "true",
    "Enabled",
    "bytes=0-1",
]
NUMBERS = [0, 1, 2, 3, 5, 1000, 10_000, 10_001, -1, 2**31, 2**63, 10**18]
HEADERS = [
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "x-amz-copy-source",
    "x-amz-copy-source-range",
    "x-amz-content-sha256",
    "x-amz-decoded-content-length",
    "x-amz-trailer",
    "x-amz-mfa",
    "x-amz-meta-a",
    "x-amz-tagging",
    "x-amz-checksum-crc32",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-oss-forbid-overwrite",
    "x-obs-acl",
    "content-encoding",
    "content-md5",
    "content-type",
]
PARAMETERS = [
    "versionId",
    "uploadId",
    "partNumber",
    "max-keys",
    "marker",
    "prefix",
    "delimiter",
    "list-type",
    "versions",
]
PARAMETERS += [
    "encoding-type",
    "response-content-type",
    "tagging",
    "acl",
    "x-oss-process",
    "lifecycle",
    "uploads",
    "delete",
]
NOT_S3 = {  # not sent to an endpoint, or asked of another service
    "CreateSession",
    "ListDirectoryBuckets",
    "SelectObjectContent",
    "WriteGetObjectResponse",
}


class Fault(Exception):
    """What an endpoint must never do, whatever it was sent."""


class Shapes:
    """Draws requests, sends them by a client of boto3 and judges the answers."""

    def __init__(self, chance: random.Random, client: Any) -> None:
        self.chance = chance
        self._client = client
        self._seen: deque[str] = deque(["null"], maxlen=40)
        self.statuses: dict[int, int] = {}
        names = set(client.meta.service_model.operation_names) - NOT_S3
        self._operations = sorted(names)
        self._usual = [name for name in self._operations if re.search("Object|Multipart|Part|BucketVersioning", name)]
        client.meta.events.register_last("before-sign.s3", self._mutate)

    def one(self) -> None:
        """Send one request. Raises Fault."""
        name = self.chance.choice(self._usual if self.chance.random() < 0.8 else self._operations)
        operation = self._client.meta.service_model.operation_model(name)
        parameters = self._structure(operation.input_shape) if operation.input_shape else {}
        try:
            answer = self._client._make_api_call(name, parameters)
            if "Body" in answer and hasattr(answer["Body"], "read"):
                answer["Body"].read()
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            code = error.response["Error"]["Code"]
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status >= 500 and code not in ("NotImplemented", "501"):
                raise Fault(f"{name} {parameters}: {status} {code}") from error
        except BotoCoreError as error:
            if type(error).__name__ in ("ResponseParserError", "ConnectionClosedError", "ReadTimeoutError"):
                raise Fault(f"{name} {parameters}: {error!r}") from error
            self.statuses[0] = self.statuses.get(0, 0) + 1  # never sent
        except (ValueError, TypeError, AttributeError, KeyError, UnicodeError):
            self.statuses[0] = self.statuses.get(0, 0) + 1
        else:
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            self.statuses[status] = self.statuses.get(status, 0) + 1
            self._remember(answer)

    # -- answers ----------------------------------------------------------------------------------------------------

    def _remember(self, answer: dict[str, Any]) -> None:
        """Ids, to be sent back."""
        for name, value in answer.items():
            if name in ("VersionId", "UploadId", "ETag", "NextContinuationToken") and isinstance(value, str):
                self._seen.append(value)
            elif isinstance(value, list):
                for item in value[:3]:
                    if isinstance(item, dict):
                        self._remember(item)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _structure(self, shape: model.StructureShape) -> dict[str, Any]:
        required = set(shape.required_members)
        found = {}
        for name, member in shape.members.items():
            if name == "ContentLength":
                continue  # who says more than it sends waits for itself
            if self.chance.random() < (0.98 if name in required else 0.15):
                found[name] = self._value(name, member)
        return found

    def _value(self, name: str, shape: model.Shape) -> Any:
        draw: dict[str, Callable[[], Any]] = {
            "structure": lambda: self._structure(shape),
            "list": lambda: [self._value(name, shape.member) for _ in range(self.chance.choice((0, 1, 1, 2, 5)))],
            "map": lambda: {self._text(name): self._text(name) for _ in range(self.chance.choice((0, 1, 3)))},
            "string": lambda: self._string(name, shape),
            "blob": self._bytes,
            "boolean": lambda: self.chance.random() < 0.5,
            "timestamp": self._moment,
            "integer": lambda: self.chance.choice(NUMBERS),
            "long": lambda: self.chance.choice(NUMBERS),
        }
        return draw[shape.type_name]()

    def _string(self, name: str, shape: model.StringShape) -> str:
        if shape.enum and self.chance.random() < 0.9:
            return self.chance.choice(shape.enum)
        return self._text(name)

    def _text(self, name: str) -> str:
        if self.chance.random() < 0.05:
            return self.chance.choice(WORDS)
        if name == "Bucket":
            return self.chance.choice(BUCKETS)
        if name in ("Key", "Prefix", "Marker", "KeyMarker", "StartAfter"):
            return self.chance.choice(KEYS)
        if name == "CopySource":
            return f"{self.chance.choice(BUCKETS)}/{self.chance.choice(KEYS)}" + self.chance.choice(
                ("", f"?versionId={self._id()}")
            )
        if name.endswith(("Id", "IdMarker", "Match", "ETag", "Token")):
            return self._id()
        return self.chance.choice(WORDS)

    def _id(self) -> str:
        return self._seen[self.chance.randrange(len(self._seen))]

    def _bytes(self) -> bytes:
        return self.chance.choice((b"", b"a", bytes(range(256)), b"x" * 70_000))

    def _moment(self) -> datetime:
        days = self.chance.choice((-20_000, -1, 0, 1, 4000, 2_000_000))
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days)

    def _mutate(self, request: AWSRequest, **_: object) -> None:
        """Make of a well-formed request one that is not, before it is signed."""
        while self.chance.random() < 0.25:
            where = self.chance.randrange(3)
            if where == 0:
                request.headers[self.chance.choice(HEADERS)] = (
                    self.chance.choice((*WORDS, self._id())).strip().replace("\0", "")
                )
            elif where == 1:
                sign = "&" if "?" in request.url else "?"
                request.url += (
                    f"{sign}{self.chance.choice(PARAMETERS)}={self.chance.choice(('', '1', '-1', '%00', '%FF'))}"
                )
            elif isinstance(request.data, bytes) and request.data:
                at = self.chance.randrange(len(request.data))
                cut = request.data[:at] + self.chance.choice((b"", b"<", b"\xff", b"&x;", b"0", b"<!DOCTYPE a>"))
                request.data = cut + request.data[at + self.chance.randrange(3) :]
                for name in [name for name in request.headers if re.match("content-md5|x-amz-checksum", name, re.I)]:
                    del request.headers[name]
