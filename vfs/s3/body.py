"""The body of a request: decoded as it comes in, and seen to be what the client said it is."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import trio

from vfs.model import Checksum
from vfs.s3 import checksums
from vfs.s3.checksums import Digests
from vfs.s3.chunks import ChunkReader
from vfs.s3.dialects import S3
from vfs.s3.errors import S3Error
from vfs.s3.request import Request, natural
from vfs.s3.signed import Payload, Signed, decode_base64

OBJECT_BYTES_MAX = 50 << 40  # S3's
DOCUMENT_BYTES_MAX = 4 << 20  # of a body of XML: 10,000 parts with SHA-256
THREAD_BYTES_LEAST = 128 << 10  # digests of more are made in a worker thread

Receive = Callable[[], Awaitable[bytes]]  # the next piece of a body as it was sent; empty at its end


class Body:
    """What a request carries. Read it once, by `pieces` or `read`: at its end everything has been checked, and `etag`
    and `checksum` are known. Raises S3Error: BadDigest, XAmzContentSHA256Mismatch, IncompleteBody, EntityTooLarge…
    """

    def __init__(self, receive: Receive, request: Request, signed: Signed | None) -> None:
        self._receive = receive
        self._request = request
        self._signed = signed or Signed("", S3)
        payload = self._signed.payload
        encoding = request.header("content-encoding") or ""
        told = request.amz("decoded-content-length") is not None  # some say so, and send it as it is
        chunked = payload.in_chunks or (told and "aws-chunked" in [word.strip() for word in encoding.split(",")])
        self._chunks = ChunkReader(self._signed.chunks if payload.signed_chunks else None) if chunked else None
        self.length = _length(request, "x-amz-decoded-content-length" if chunked else "content-length")
        if chunked and self.length is None:
            raise S3Error("MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.")
        if self.length is not None and self.length > OBJECT_BYTES_MAX:
            raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size")
        self._sha256 = self._signed.sha256 or _sha256(request)
        self._md5 = request.header("content-md5")
        if self._md5 is not None and len(decode_base64(self._md5) or b"") != 16:
            raise S3Error("InvalidDigest", "The Content-MD5 you specified is not valid.")
        self._algorithm, self._value = self._asked_for()
        self.etag = ""
        self.checksum: Checksum | None = None

    def _asked_for(self) -> tuple[str, str | None]:
        """The checksum that the client sends: its algorithm, and its value unless that comes behind the body."""
        given = checksums.given(self._request.headers)
        if given is not None:
            return given
        wanted = self._request.amz("sdk-checksum-algorithm")
        trailer = (self._request.amz("trailer") or "").strip().lower()
        if trailer.startswith("x-amz-checksum-"):
            return checksums.check_algorithm(trailer.removeprefix("x-amz-checksum-")), None
        return (checksums.check_algorithm(wanted) if wanted else ""), None

    async def pieces(self, *, more: str = "") -> AsyncGenerator[bytes, None]:
        """The bytes, piece by piece. more: an algorithm of a checksum that is wanted whatever the client asked for."""
        wanted = [name for name in (self._algorithm or more,) if name]
        digests = Digests(["MD5", *wanted, *(["SHA256"] if self._sha256 else [])])
        size = 0
        while raw := await self._receive():
            for piece in self._chunks.feed(raw) if self._chunks else (raw,):
                size += len(piece)
                if size > (OBJECT_BYTES_MAX if self.length is None else self.length):
                    raise S3Error("IncompleteBody", "the body is longer than the request says")
                if len(piece) >= THREAD_BYTES_LEAST:
                    await trio.to_thread.run_sync(digests.update, piece)
                else:
                    digests.update(piece)
                yield piece
        self._check(digests, size)
        self.etag = digests.digest("MD5").hex()
        if wanted:
            self.checksum = Checksum(wanted[0], digests.base64(wanted[0]))

    def _check(self, digests: Digests, size: int) -> None:
        payload = self._signed.payload
        if self._chunks:
            self._chunks.finish(trailer=payload is Payload.CHUNKS_TRAILER)
        if self.length is not None and size != self.length:
            raise S3Error(
                "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header"
            )
        if self._sha256 and digests.digest("SHA256").hex() != self._sha256:
            raise S3Error(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
                fields={
                    "ClientComputedContentSHA256": self._sha256,
                    "S3ComputedContentSHA256": digests.digest("SHA256").hex(),
                },
            )
        if self._md5 is not None and digests.base64("MD5") != self._md5:
            raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
        if self._algorithm:
            value = self._value
            if value is None and self._request.amz("trailer"):
                trailers = self._chunks.trailers if self._chunks else {}
                value = trailers.get(checksums.header_of(self._algorithm))
                if value is None:
                    raise S3Error("InvalidRequest", "the checksum that x-amz-trailer announces did not come")
            if value is not None:
                checksums.check(digests, self._algorithm, value)

    async def read(self, *, about_itself: bool = True) -> bytes:
        """All of a document. about_itself: whether a checksum in the headers is that of the document, not of what it is
        about. Raises S3Error if it is too large.
        """
        if not about_itself:
            self._algorithm = ""
        if self.length is not None and self.length > DOCUMENT_BYTES_MAX:
            raise S3Error("MaxMessageLengthExceeded", "Your request was too big.")
        found = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                found += piece
                if len(found) > DOCUMENT_BYTES_MAX:
                    raise S3Error("MaxMessageLengthExceeded", "Your request was too big.")
        return bytes(found)


def _sha256(request: Request) -> str:
    """The digest of the body that a header tells, where the signature has none; empty: it tells none."""
    told = request.amz("content-sha256") or ""
    return told if re.fullmatch(r"[0-9a-f]{64}", told) else ""


def _length(request: Request, name: str) -> int | None:
    raw = request.header(name)
    if raw is None:
        return None
    found = natural(raw)
    if found is None:
        raise S3Error("InvalidArgument", f"{name} is a number of bytes")
    return found
