"""Multipart uploads: parts that are kept until they are put together to an object, or given up."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from vfs.core import Core
from vfs.model import Checksum, Content, Ino, ObjectInfo, Part, Upload, Writer
from vfs.objects import Added, Condition, Objects

PARTS_MAX = 10_000  # S3's: numbers from 1
UPLOADS_MAX = 10_000  # under way in a bucket


@dataclass(frozen=True, slots=True)
class Named:
    """An upload with its id, which is opaque text."""

    id: str
    upload: Upload


@dataclass(frozen=True, slots=True)
class UploadsPage:
    """A page of uploads and common prefixes, by key, then by when they began. next_key, next_id: the next markers."""

    uploads: list[Named]
    prefixes: list[bytes]
    truncated: bool
    next_key: bytes = b""
    next_id: str = ""


@dataclass(frozen=True, slots=True)
class PartsPage:
    """A page of parts, by number. next: the marker of the next page."""

    parts: list[tuple[int, Part]]
    truncated: bool
    next: int = 0


class Uploads:
    """All multipart uploads. Every method that takes an upload id raises NoSuchUpload, also if it is another key's."""

    def __init__(self, core: Core, objects: Objects) -> None:
        self._core = core
        self._catalog = core.catalog
        self._objects = objects

    def create(
        self, bucket: Ino, key: bytes, info: ObjectInfo, *, checksum_algorithm: str = "", checksum_kind: str = ""
    ) -> str:
        """Begin one. *info*: what the object will have. Returns its id. Raises TooManyUploads, NoLock, InvalidName."""
        raise NotImplementedError

    def find(self, bucket: Ino, key: bytes, upload_id: str) -> Upload:
        """What is known of an upload."""
        raise NotImplementedError

    def put_part(
        self,
        bucket: Ino,
        key: bytes,
        upload_id: str,
        number: int,
        content: Content,
        etag: str,
        checksums: tuple[Checksum, ...] = (),
    ) -> Part:
        """Keep a part, in place of one of the same number. *content*: of `Objects.begin_content`, or another object's
        (a copy). Raises InvalidPart for a number that is none.
        """
        raise NotImplementedError

    def parts(self, bucket: Ino, key: bytes, upload_id: str, *, after: int = 0, limit: int = 1000) -> PartsPage:
        """The parts behind number *after*. Up to PARTS_MAX may be asked for at once."""
        raise NotImplementedError

    def complete(
        self,
        bucket: Ino,
        key: bytes,
        upload_id: str,
        parts: list[tuple[int, str]],
        writer: Writer,
        *,
        etag: str,
        checksums: tuple[Checksum, ...] = (),
        condition: Condition | None = None,
    ) -> Generator[None, None, Added]:
        """Put parts (number, ETag without quotes), in order, together to the new current version of the key, and drop
        the upload; all in one event, at the end. A generator, a slice of work for each `next`, whose value is Added.
        The number and ETag of each part are in `ObjectInfo.parts`. Raises InvalidPart, ConditionFailed, NoSuchKey.
        """
        raise NotImplementedError

    def abort(self, bucket: Ino, key: bytes, upload_id: str) -> None:
        """Give up an upload with its parts."""
        raise NotImplementedError

    def list(
        self,
        bucket: Ino,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        key_marker: bytes = b"",
        upload_id_marker: str = "",
        limit: int = 1000,
    ) -> UploadsPage:
        """The uploads behind the markers (without an id: behind all of that key)."""
        raise NotImplementedError
