"""A fuzz of the endpoint that follows coverage (Atheris): bytes of a connection in, inside this process.

    pip install atheris
    python -m tests.s3.fuzz CORPUS -max_total_time=600

Signatures are looked at and then taken for right, because no fuzzer makes one. The store grows while it runs. What
stops it: an answer that is an internal error, anything that is logged as one, an exception.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import trio
import trio.testing

from vfs.core import Changed
from vfs.errors import BucketExists
from vfs.model import State
from vfs.s3 import door, keys, server
from vfs.s3.dialects import S3
from vfs.s3.door import Door
from vfs.s3.errors import S3Error
from vfs.s3.request import Request
from vfs.s3.signatures import authenticate, dialect_of
from vfs.s3.signed import Payload, Secrets, Signed
from vfs.service.health import Health
from vfs.store import Store

TARGETS = {
    door.Level.SERVICE: "/",
    door.Level.BUCKET: "/bucket",
    door.Level.OBJECT: "/bucket/d/k",
}
DOCUMENTS = {
    "versioning": "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    "delete": "<Delete><Object><Key>k</Key><VersionId>null</VersionId></Object></Delete>",
    "tagging": "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>",
    "lifecycle": "<LifecycleConfiguration><Rule><Filter><And><Prefix>d/</Prefix><Tag><Key>a</Key><Value>b</Value></Tag>"
    "</And></Filter><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>",
    "object-lock": "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
    "<Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>",
    "retention": "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate>"
    "</Retention>",
    "legal-hold": "<LegalHold><Status>ON</Status></LegalHold>",
    "uploadId": "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag></Part>"
    "</CompleteMultipartUpload>",
}


TRAILER = "4\r\nabcd\r\n0\r\nx-amz-checksum-crc32:7YLNEQ==\r\n\r\n"  # a body in chunks, with its checksum behind it


def request(first: str, *headers: str, body: str = "") -> bytes:
    lines = (f"{first} HTTP/1.1", "Host: localhost", *headers, f"Content-Length: {len(body)}", "", body)
    return "\r\n".join(lines).encode()


def form_of(fields: Mapping[str, str]) -> str:
    """A form in the body of a POST, with the boundary x; its field `file` is one."""
    lines = []
    for name, value in fields.items():
        more = '; filename="f"' if name == "file" else ""
        lines += ["--x", f'Content-Disposition: form-data; name="{name}"{more}', "", value]
    return "\r\n".join([*lines, "--x--", ""])


def seeds() -> list[bytes]:
    """A request of each kind."""
    found = []
    for method, level, words in door.ROUTES:
        name = words.removesuffix("copy").strip()
        query = f"?{name}=1&partNumber=1" if name == "uploadId" else f"?{name}" * bool(name)
        source = ["x-amz-copy-source: bucket/k"] if words.endswith("copy") else []
        signed = ["Authorization: AWS fuzz:c2ln", "Date: Thu, 26 Nov 2026 12:00:00 GMT"]
        body = DOCUMENTS.get(name, "body") if method in ("PUT", "POST") and not source else ""
        found.append(request(f"{method} {TARGETS[level]}{query}", *source, *signed, body=body))
    chunked = ["Content-Encoding: aws-chunked", "x-amz-decoded-content-length: 4"]
    chunks = "4;chunk-signature=0\r\nabcd\r\n0;chunk-signature=0\r\n\r\n"
    policy = {"expiration": "2099-01-01T00:00:00Z", "conditions": [{"bucket": "bucket"}, ["starts-with", "$key", ""]]}
    told = base64.b64encode(json.dumps(policy).encode()).decode()
    fields = {"policy": told, "key": "k", "file": "f"}
    return [
        *found,
        request("GET /bucket?list-type=2&prefix=d&delimiter=%2F&max-keys=1&encoding-type=url"),
        request("GET /bucket/d/k?versionId=null", "Range: bytes=1-2", 'If-Match: "a"'),
        request("PUT /bucket/k", *chunked, f"x-amz-content-sha256: {Payload.CHUNKS.value}", body=chunks),
        request("PUT /bucket/k", *chunked, f"x-amz-content-sha256: {Payload.UNSIGNED_TRAILER.value}", body=TRAILER),
        request("POST /bucket", "Content-Type: multipart/form-data; boundary=x", body=form_of(fields)),
    ]


class Target:
    """The endpoint over a store of its own, in memory as far as the network goes."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder / "store")
        made = keys.create(self.store.root, owner="fuzz", created=datetime.now(UTC).isoformat(), rights=keys.Right)
        self._key = made.id
        door.authenticate = self._authenticate  # type: ignore[attr-defined]
        door.authenticate_form = lambda *_: Signed(made.id, S3)  # type: ignore[attr-defined]
        self._door = Door(self.store, self._settle, Health(self.store))
        self.logged: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.logged.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("vfs").addHandler(handler)
        logging.getLogger("vfs").propagate = False

    async def _settle(self, _: Sequence[Changed]) -> None:
        await trio.lowlevel.checkpoint()

    def _authenticate(self, request: Request, secrets: Secrets, now: datetime) -> Signed | None:
        if (request.header("content-type") or "").startswith("multipart/form-data"):
            return None
        with contextlib.suppress(S3Error):
            authenticate(request, secrets, now)
        payload = next((each for each in Payload if each.value == request.amz("content-sha256")), Payload.UNSIGNED)
        return Signed(self._key, dialect_of(request), payload=payload)

    def one(self, sent: bytes) -> bytes:
        """Have a connection bring these bytes, and return what it answered. Raises AssertionError."""
        with contextlib.suppress(BucketExists):
            self.store.create_bucket(b"bucket", uid=0, gid=0, state=State.ENABLED)
        return trio.run(self._one, sent, clock=trio.testing.MockClock(autojump_threshold=0))

    async def _one(self, sent: bytes) -> bytes:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(sent)
        await ours.send_eof()
        connection = server.Connection(theirs, lambda: None)
        with contextlib.suppress(
            trio.BrokenResourceError, trio.ClosedResourceError, server.Disconnected, server.TooSlow
        ):
            while await connection.serve_one(self._door.answer):
                pass
        await theirs.aclose()
        answer = b""
        while piece := await ours.receive_some():
            answer += piece
        first = answer.split(b"\r\n", 1)[0].split()
        assert not first or first[1] < b"500" or first[1] == b"501", (first, sent)
        assert not self.logged, (self.logged, sent)
        return answer


def main() -> None:
    import atheris

    with tempfile.TemporaryDirectory(prefix="vfs-fuzz-") as folder:
        corpus = Path(sys.argv[1])
        corpus.mkdir(exist_ok=True)
        for number, seed in enumerate(seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        target = Target(Path(folder))
        atheris.instrument_all()
        atheris.Setup(sys.argv, target.one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
