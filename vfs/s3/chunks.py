"""The aws-chunked encoding of bodies: chunks with a signature each, and checksums that come behind the last. Pure.

Sources: "Transferring Payload in Multiple Chunks" of the S3 API reference (signed; with trailing headers; unsigned).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator

from vfs.s3.errors import S3Error
from vfs.s3.signed import ChunkSigner

LINE_BYTES_MAX = 4096  # of a chunk's head, or a trailing header
TRAILERS_MAX = 16

_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?\Z")


class ChunkReader:
    """Bytes as they come in, bytes of the body out. Invariant: nothing is kept but a line that is not complete.

    `trailers`: the headers behind the last chunk, by lower-case name, when `finish` has returned.
    """

    def __init__(self, signer: ChunkSigner | None) -> None:
        """signer: what chunks are signed with; None: they are not."""
        self._signer = signer
        self._previous = signer.seed if signer else ""
        self._line = bytearray()
        self._left = 0  # of the chunk that is being read
        self._signature = ""
        self._sha256 = hashlib.sha256()
        self._state = "head"
        self._signed_lines = b""
        self._trailer_signature = ""
        self.trailers: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes of the body that *data* completes; the iterator must be used up. Raises S3Error."""
        at = 0
        while at < len(data):
            if self._state == "data":
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if self._signer:
                    self._sha256.update(piece)
                yield piece
                if not self._left:
                    self._check_chunk()
                    self._state = "end"
                continue
            end = data.find(b"\n", at)
            self._line += data[at : end + 1 if end >= 0 else len(data)]
            at = end + 1 if end >= 0 else len(data)
            if len(self._line) > LINE_BYTES_MAX:
                raise _malformed("a line is too long")
            if end >= 0:
                if self._state == "end" and self._line != b"\r\n":
                    raise _malformed("a chunk is longer than it says")
                line = bytes(self._line.removesuffix(b"\n").removesuffix(b"\r"))
                self._line.clear()
                self._take(line)

    def _take(self, line: bytes) -> None:
        match self._state:
            case "head":
                found = _HEAD.match(line)
                if not found or (self._signer and not found[2]):
                    raise _malformed("a chunk begins with its size, and its signature")
                self._left = int(found[1], 16)
                self._signature = (found[2] or b"").decode()
                self._sha256 = hashlib.sha256()
                self._state = "data"
                if not self._left:
                    self._check_chunk()
                    self._state = "trailer"
            case "end":
                self._state = "head"
            case "trailer":
                self._take_trailer(line)
            case _:
                raise _malformed("something comes behind its end")

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            # The first empty line may only separate trailing headers from their signature.
            return
        if len(self.trailers) >= TRAILERS_MAX:
            raise _malformed("too many trailing headers")
        name, colon, value = line.decode("latin-1").partition(":")
        if name.lower() == "x-amz-trailer-signature":
            self._trailer_signature = value.strip()
            return
        name = name.lower().strip()
        if not colon or name in self.trailers:
            raise _malformed("a trailing header has a name of its own, and a value")
        self.trailers[name] = value.strip()
        self._signed_lines += line + b"\n"

    def _check_chunk(self) -> None:
        if self._signer:
            wanted = self._signer.chunk(self._previous, self._sha256.hexdigest())
            if not hmac.compare_digest(wanted, self._signature):
                raise S3Error("SignatureDoesNotMatch", "the signature of a chunk is wrong")
            self._previous = wanted

    def finish(self, *, trailer: bool) -> None:
        """No more comes. trailer: the trailing headers are signed, if chunks are. Raises S3Error."""
        if self._line:
            self._take(bytes(self._line))
            self._line.clear()
        if self._state != "trailer":
            raise S3Error("IncompleteBody", "the body ends before its last chunk")
        if self._signer and trailer:
            wanted = self._signer.trailer(self._previous, self._signed_lines)
            if not hmac.compare_digest(wanted, self._trailer_signature):
                raise S3Error("SignatureDoesNotMatch", "the signature of the trailing headers is wrong")


def _malformed(why: str) -> S3Error:
    return S3Error("InvalidRequest", f"the body is not aws-chunked: {why}")
