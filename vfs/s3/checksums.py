"""Checksums of bodies: MD5 for the ETag, and those that clients of S3 ask for. Pure.

Source: "Checking object integrity" of the S3 user guide. Of an upload in parts there are two kinds: COMPOSITE is the
digest of the parts' digests, FULL_OBJECT that of all bytes, which CRCs can be combined to.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from awscrt import checksums as crt

from vfs.model import Checksum
from vfs.s3.errors import S3Error
from vfs.s3.signed import decode_base64

FULL, COMPOSITE = "FULL_OBJECT", "COMPOSITE"


class Digest(Protocol):
    """A checksum in the making."""

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, function: Callable[[bytes, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


_MAKERS: dict[str, Callable[[], Digest]] = {
    "CRC32": lambda: _Crc(crt.crc32, 4),
    "CRC32C": lambda: _Crc(crt.crc32c, 4),
    "CRC64NVME": lambda: _Crc(crt.crc64nvme, 8),
    "SHA1": lambda: hashlib.sha1(usedforsecurity=False),
    "SHA256": hashlib.sha256,
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
}
_COMBINERS: dict[str, tuple[Callable[[int, int, int], int], int]] = {
    "CRC32": (crt.combine_crc32, 4),
    "CRC32C": (crt.combine_crc32c, 4),
    "CRC64NVME": (crt.combine_crc64nvme, 8),
}
ALGORITHMS = tuple(name for name in _MAKERS if name != "MD5")
_PREFIX = "x-amz-checksum-"
_SIZES = {name: len(maker().digest()) for name, maker in _MAKERS.items()}
_KINDS = {
    "CRC32": (COMPOSITE, FULL),
    "CRC32C": (COMPOSITE, FULL),
    "CRC64NVME": (FULL,),
    "SHA1": (COMPOSITE,),
    "SHA256": (COMPOSITE,),
}


class Digests:
    """Several checksums of the same bytes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._made = {name: _MAKERS[name]() for name in dict.fromkeys(names)}

    def update(self, data: bytes) -> None:
        """For any thread, one call at a time."""
        for digest in self._made.values():
            digest.update(data)

    def digest(self, name: str) -> bytes:
        """The one of that name so far."""
        return self._made[name].digest()

    def base64(self, name: str) -> str:
        """The same as S3 shows it."""
        return base64.b64encode(self.digest(name)).decode()


def header_of(algorithm: str) -> str:
    """The header that a checksum is in."""
    return _PREFIX + algorithm.lower()


_HEADERS = frozenset(map(header_of, ALGORITHMS)) | {_PREFIX + word for word in ("algorithm", "mode", "type")}


def given(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """The checksum that headers, or fields of a form, say a body has: algorithm and value. Raises S3Error."""
    found = [(name, headers[header_of(name)]) for name in ALGORITHMS if header_of(name) in headers]
    for name in headers:
        if name.startswith(_PREFIX) and name not in _HEADERS:  # asked for, and so not to be passed over
            raise S3Error("InvalidRequest", f"the checksum algorithm is one of {', '.join(ALGORITHMS)}")
    if len(found) > 1:
        raise S3Error(
            "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    return (found[0][0], check_value(*found[0])) if found else None


def check(digests: Digests, algorithm: str, value: str) -> None:
    """Raise S3Error unless a body has the checksum that the client said."""
    if value != digests.base64(algorithm):
        raise S3Error("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.")


def check_algorithm(name: str) -> str:
    """The name of an algorithm as it is known here. Raises S3Error."""
    if name.upper() not in ALGORITHMS:
        raise S3Error("InvalidRequest", f"the checksum algorithm is one of {', '.join(ALGORITHMS)}")
    return name.upper()


def check_value(algorithm: str, value: str) -> str:
    """Raise S3Error unless *value* can be a checksum. One of parts has their number behind a dash."""
    raw = decode_base64(value.partition("-")[0])
    if raw is None or len(raw) != _SIZES[algorithm]:
        raise S3Error("BadDigest", f"Value for {header_of(algorithm)} header is invalid.")
    return value


def kind_for(algorithm: str, wanted: str) -> str:
    """How an upload in parts is summed up; what the client wants, if the algorithm has that. Raises S3Error."""
    kinds = _KINDS[algorithm]
    if not wanted:
        return kinds[0]
    if wanted not in kinds:
        raise S3Error("InvalidRequest", f"the checksum type {wanted} does not exist for {algorithm}")
    return wanted


def of_parts(algorithm: str, kind: str, parts: Sequence[tuple[str, int]]) -> Checksum:
    """The checksum of an upload by those of its parts and their sizes."""
    raw = [(base64.b64decode(value), size) for value, size in parts]
    if kind == COMPOSITE:
        made = _MAKERS[algorithm]()
        for digest, _ in raw:
            made.update(digest)
        return Checksum(algorithm, f"{base64.b64encode(made.digest()).decode()}-{len(raw)}", COMPOSITE)
    combine, length = _COMBINERS[algorithm]
    total = 0
    for digest, size in raw:
        total = combine(total, int.from_bytes(digest, "big"), size)
    return Checksum(algorithm, base64.b64encode(total.to_bytes(length, "big")).decode(), FULL)


def etag_of_parts(etags: Sequence[str]) -> str:
    """``md5ofmd5s-N`` (of an ETag that is no MD5, its text counts)."""
    made = hashlib.md5(usedforsecurity=False)
    for etag in etags:
        made.update(bytes.fromhex(etag) if len(etag) == 32 and "-" not in etag else etag.encode())
    return f"{made.hexdigest()}-{len(etags)}"
