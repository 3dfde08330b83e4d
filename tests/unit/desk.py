"""The S3 door over a store of its own, without a network: requests signed by botocore, and what each is answered."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import trio
from botocore import auth as aws
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from vfs.core import Changed
from vfs.s3 import keys
from vfs.s3.door import Door
from vfs.s3.keys import AccessKey, Right
from vfs.s3.response import Stream
from vfs.s3.server import Incoming
from vfs.service.health import Health
from vfs.store import Store

HOST = "localhost:9000"
ALL_RIGHTS = tuple(Right)
MADE = "2026-11-20T00:00:00+00:00"

Headers = Mapping[str, str]


class Asked(NamedTuple):
    """A request, ready to be sent. Header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    def with_headers(self, **more: str) -> Asked:
        """With others, which nobody signed; underscores are dashes."""
        return self._replace(headers=self.headers | {name.replace("_", "-"): more[name] for name in more})


class Answer(NamedTuple):
    """code: of an error; empty if there is none."""

    status: int
    code: str
    headers: dict[str, str]
    body: bytes


class Desk:
    """offset_s: how far the clock of the store is from that of the clients. settled: how often a change was told."""

    def __init__(self, folder: Path) -> None:
        self.offset_s = 0.0
        self.store = Store.open(folder / "store", clock=lambda: int((time.time() + self.offset_s) * 1e9))
        self.door = Door(self.store, self._settle, Health(self.store))
        self.settled = 0

    async def _settle(self, _: Sequence[Changed]) -> None:
        self.settled += 1
        await trio.lowlevel.checkpoint()

    def key(self, *rights: Right, owner: str = "ada", buckets: tuple[str, ...] | None = None) -> AccessKey:
        """A new access key; without rights one that reads only."""
        return keys.create(self.store.root, owner=owner, created=MADE, rights=rights, buckets=buckets)

    async def ask(
        self, key: AccessKey, method: str, target: str, body: bytes = b"", headers: Headers | None = None
    ) -> Answer:
        """Sign a request and send it."""
        return await self.send(sign(key, method, target, body, headers))

    async def send(self, asked: Asked, meanwhile: Callable[[], object] = lambda: None) -> Answer:
        """Send a request, its body in two pieces. meanwhile: happens when the door has begun to wait for the second."""
        half = len(asked.body) // 2
        pieces = [piece for piece in (asked.body[:half], asked.body[half:]) if piece]
        asked_for = 0

        async def receive() -> bytes:
            nonlocal asked_for
            await trio.lowlevel.checkpoint()
            asked_for += 1
            if asked_for == 2:
                meanwhile()
            return pieces.pop(0) if pieces else b""

        headers = list(asked.headers.items())
        made = await self.door.answer(Incoming(asked.method, asked.target.encode(), headers, receive, lambda: None))
        content = made.body
        if isinstance(content, Stream):
            content = b"".join([piece async for piece in content.open()])
        code = re.search(rb"<Code>(\w+)</Code>", content) if made.status >= 300 else None
        return Answer(made.status, code[1].decode() if code else "", dict(made.headers), content)


def sign(key: AccessKey, method: str, target: str, body: bytes = b"", headers: Headers | None = None) -> Asked:
    """By version 4, in the header, the digest of the body included."""
    return signed_by(aws.S3SigV4Auth(_credentials(key), "s3", "r"), method, target, body, headers)


def presign(key: AccessKey, method: str, target: str, headers: Headers | None = None, *, seconds: int = 60) -> Asked:
    """By version 4, in the query; its body is sent as it is."""
    return signed_by(aws.S3SigV4QueryAuth(_credentials(key), "s3", "r", seconds), method, target, b"", headers)


def sign2(key: AccessKey, method: str, target: str, headers: Headers | None = None) -> Asked:
    """By version 2, in the header."""
    return signed_by(aws.HmacV1Auth(_credentials(key)), method, target, b"", headers)


def presign2(key: AccessKey, method: str, target: str, headers: Headers | None = None) -> Asked:
    """By version 2, in the query."""
    return signed_by(aws.HmacV1QueryAuth(_credentials(key)), method, target, b"", headers)


def _credentials(key: AccessKey) -> Credentials:
    return Credentials(key.id, key.secret)


def signed_by(signer: aws.BaseSigner, method: str, target: str, body: bytes, headers: Headers | None) -> Asked:
    """By any signer of botocore."""
    request = AWSRequest(method, f"http://{HOST}{target}", headers=dict(headers or {}), data=body)
    request.auth_path = None
    signer.add_auth(request)
    made = request.prepare()
    parts = urlsplit(made.url)
    found = {name.lower(): value if isinstance(value, str) else value.decode() for name, value in made.headers.items()}
    found |= {"host": HOST, "content-length": str(len(body))}
    return Asked(method, parts.path + (f"?{parts.query}" if parts.query else ""), found, body)


def document(root: str, content: str) -> bytes:
    """A body of XML."""
    return f"<{root}>{content}</{root}>".encode()


def lines(raw: Iterable[bytes]) -> bytes:
    """Lines of HTTP."""
    return b"".join(line + b"\r\n" for line in raw)
