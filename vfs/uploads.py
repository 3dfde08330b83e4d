"""Multipart uploads: parts that are kept until they are put together to an object, or given up."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice, pairwise

import msgspec

from vfs import events
from vfs.core import Core
from vfs.errors import InvalidPart, NoSuchUpload, TooManyUploads
from vfs.events import Change
from vfs.listing import Listing
from vfs.model import Checksum, Content, Ino, ObjectInfo, ObjectPart, Part, Seq, Upload, Writer
from vfs.names import show, split_key
from vfs.objects import Added, Condition, Object, Objects

PARTS_MAX = 10_000  # S3's: numbers from 1
COMPLETED_LOOKED_MAX = 1000  # versions looked at for the one that an upload made
UPLOADS_MAX = 10_000  # under way in a bucket

_ID = re.compile(r"[0-9a-f]{30}\Z")


@dataclass(frozen=True, slots=True)
class Named:
    """An upload with its id, which is opaque text."""

    id: str
    upload: Upload


AllNamed = list[Named]  # `Uploads.list` has taken the name of the type


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
        """Begin one. *info*: what the object will have. Returns its id. Raises TooManyUploads, NoLock, InvalidName,
        NoSuchKey (the bucket is gone).
        """
        split_key(key)
        self._objects.check_lockable(bucket, info)
        if len(list(islice(self._catalog.uploads(bucket), UPLOADS_MAX))) == UPLOADS_MAX:
            raise TooManyUploads(f"a bucket has at most {UPLOADS_MAX} uploads under way")
        number = self._core.new_id()
        upload = Upload(key, Seq(self._core.clock() // 1000), info, checksum_algorithm, checksum_kind)
        self._core.commit("create upload", [events.UploadSet(bucket, number, upload)])
        return format_upload_id(number, upload)

    def find(self, bucket: Ino, key: bytes, upload_id: str) -> Upload:
        """What is known of an upload."""
        return self._find(bucket, key, upload_id)[1]

    def _find(self, bucket: Ino, key: bytes, upload_id: str) -> tuple[int, Upload]:
        if _ID.match(upload_id):
            number = int(upload_id[:16], 16)
            upload = self._catalog.upload(bucket, number)
            if upload is not None and upload.key == key and format_upload_id(number, upload) == upload_id:
                return number, upload
        raise NoSuchUpload(f"no upload {upload_id} of {show(key)}")

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
        upload, _ = self._find(bucket, key, upload_id)
        if not 1 <= number <= PARTS_MAX:
            raise InvalidPart(f"parts are numbered from 1 to {PARTS_MAX}")
        part = Part(content, etag, Seq(self._core.clock() // 1000), checksums)
        self._core.commit("put part", [events.PartSet(upload, number, part)])
        return part

    def parts(self, bucket: Ino, key: bytes, upload_id: str, *, after: int = 0, limit: int = 1000) -> PartsPage:
        """The parts behind number *after*. Up to PARTS_MAX may be asked for at once."""
        upload, _ = self._find(bucket, key, upload_id)
        found = list(islice(self._catalog.parts(upload, after), limit + 1))
        return PartsPage(found[:limit], len(found) > limit > 0, found[:limit][-1][0] if found[:limit] else after)

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
        The number and size of each part are in `ObjectInfo.parts`. Raises InvalidPart, ConditionFailed, NoSuchKey.
        """
        number, upload = self._find(bucket, key, upload_id)
        chosen = self._choose(number, parts)
        copy = self._objects.begin_content(bucket)
        try:
            for (which, _), part in zip(parts, chosen, strict=True):
                self._find(bucket, key, upload_id)  # others may have run meanwhile: what they took away is not kept
                if self._catalog.part(number, which) != part:
                    raise InvalidPart("a part was uploaded again meanwhile")
                yield from self._objects.append(copy, part.content)
            content = copy.seal()
            self._find(bucket, key, upload_id)
            if self._choose(number, parts) != chosen:
                raise InvalidPart("a part was uploaded again meanwhile")
            numbered = zip(parts, chosen, strict=True)
            told = tuple(ObjectPart(which, part.content.size, part.checksums) for (which, _), part in numbered)
            info = msgspec.structs.replace(upload.info, etag=etag, checksums=checksums, parts=told, upload=upload_id)
            gone: list[Change] = [events.UploadGone(bucket, number)]
            return self._objects.put(bucket, key, content, info, writer, condition=condition, also=gone)
        finally:
            self._objects.end_content(copy)

    def completed(self, bucket: Ino, key: bytes, upload_id: str) -> Object | None:
        """The version that an upload has made, if it is among the newest: for a client whose answer got lost, and who
        completes it again.
        """
        newest = islice(self._objects.versions(bucket, key), COMPLETED_LOOKED_MAX)
        return next((item for item in newest if item.info.upload == upload_id), None) if upload_id else None

    def _choose(self, upload: int, wanted: list[tuple[int, str]]) -> list[Part]:
        """The parts by their numbers and ETags. Raises InvalidPart."""
        if not wanted or any(a[0] >= b[0] for a, b in pairwise(wanted)):
            raise InvalidPart("parts are named at least once, by rising numbers")
        chosen = []
        for number, tag in wanted:
            part = self._catalog.part(upload, number) if 1 <= number <= PARTS_MAX else None
            if part is None or part.etag != tag:
                raise InvalidPart(f"no part {number} with ETag {tag}")
            chosen.append(part)
        return chosen

    def abort(self, bucket: Ino, key: bytes, upload_id: str) -> None:
        """Give up an upload with its parts."""
        number, _ = self._find(bucket, key, upload_id)
        self._core.commit("abort upload", [events.UploadGone(bucket, number)])

    def every(self, bucket: Ino) -> AllNamed:
        """All of a bucket, in the order in which they began."""
        return [Named(format_upload_id(number, upload), upload) for number, upload in self._catalog.uploads(bucket)]

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
        page = Listing(prefix, delimiter, limit, key_marker)
        found = sorted((upload.key, number, upload) for number, upload in self._catalog.uploads(bucket))
        start = page.start()
        behind = int(upload_id_marker[:16], 16) if _ID.match(upload_id_marker) else None
        chosen: list[Named] = []
        last = ""
        for key, number, upload in found:
            if not key.startswith(prefix):
                continue
            common = page.common(key)
            if common is not None and page.prefixes[-1:] == [common]:
                continue
            same = key == key_marker and behind is not None and number > behind
            if not same and (start is None or key < start or (common is not None and common == key_marker)):
                continue
            if len(chosen) + len(page.prefixes) >= limit:
                page.truncated = limit > 0
                break
            if common is not None:
                page.prefixes.append(common)
                page.next, last = common, ""
            else:
                chosen.append(Named(format_upload_id(number, upload), upload))
                page.next, last = key, chosen[-1].id
        return UploadsPage(chosen, page.prefixes, page.truncated, page.next, last)


def format_upload_id(number: int, upload: Upload) -> str:
    """Its id for clients. Number and beginning: numbers of what no recovery finds are given again."""
    return f"{number:016x}{upload.initiated:014x}"
