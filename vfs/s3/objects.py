"""Objects: put, get, head, copy, delete, attributes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, closing
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote_to_bytes

import msgspec
import trio

from vfs import lifecycle
from vfs.content import WorkingCopy
from vfs.errors import ConditionFailed, NoSuchKey, VfsError
from vfs.lifecycle import Entry
from vfs.model import Bucket, Checksum, Content, Ino, ObjectInfo
from vfs.objects import Deleted, Object
from vfs.s3 import checksums, metadata, xml
from vfs.s3.body import THREAD_BYTES_LEAST
from vfs.s3.call import Call, http_date, quoted
from vfs.s3.checksums import Digests
from vfs.s3.errors import S3Error, translated
from vfs.s3.keys import Right
from vfs.s3.request import natural
from vfs.s3.response import Document, Response, Stream
from vfs.uploads import PARTS_MAX

READ_BYTES_MAX = 256 << 10  # of an object, in one go
DELETES_MAX = 1000  # keys of one DeleteObjects
PARTS_SHOWN_MAX = 1000  # of GetObjectAttributes

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")
_OVERRIDES = ("Content-Type", "Content-Language", "Expires", "Cache-Control", "Content-Disposition", "Content-Encoding")

Result = TypeVar("Result")


async def in_slices(work: Generator[None, None, Result], check: Callable[[], object] = lambda: None) -> Result:
    """The value of a generator of the engine; others have their turn between its slices. check: raises after such a
    turn if the work must not go on.
    """
    with closing(work):
        while True:
            try:
                next(work)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            await trio.lowlevel.checkpoint()
            check()


# -- put --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def new_content(call: Call, bucket: Ino) -> AsyncIterator[WorkingCopy]:
    """Something to write a body to; what was written and not put is let go of."""
    copy = call.store.objects.begin_content(bucket)
    try:
        yield copy
    finally:
        call.store.objects.end_content(copy)


def info_of_new(call: Call, headers: Mapping[str, str]) -> ObjectInfo:
    """What headers, or the fields of a form, say of a new object; its lock takes a right. Raises S3Error."""
    info = metadata.info_from(headers, call.dialect, call.who.owner_id, call.now)
    if info.retention is not None or info.legal_hold:
        call.require(Right.HOLD)
    return info


async def store_body(call: Call, copy: WorkingCopy, *, more: str = "") -> Content:
    """The body of a request as stored content. Raises S3Error, NoSpace."""
    at = 0
    async with aclosing(call.body.pieces(more=more)) as pieces:
        async for piece in pieces:
            at += copy.write(at, piece)
    return copy.seal()


async def put_object(call: Call) -> Response:
    """PutObject."""
    ino, _ = call.find(call.name, write=True)
    if call.body.length is None and "transfer-encoding" not in call.request.headers:
        raise S3Error("MissingContentLength", "You must provide the Content-Length HTTP header.")
    info = info_of_new(call, call.request.headers)
    condition = metadata.condition_from(call.request.headers)
    async with new_content(call, ino) as copy:
        content = await store_body(call, copy)
        summed = () if call.body.checksum is None else (call.body.checksum,)
        info = msgspec.structs.replace(info, etag=call.body.etag, checksums=summed)
        bucket = call.check_still(ino)
        try:
            added = call.store.objects.put(ino, call.key, content, info, call.writer, condition=condition)
        except ConditionFailed:
            if call.request.amz("forbid-overwrite"):
                raise S3Error("FileAlreadyExists", "The object you specified already exists") from None
            raise
    call.changed += added.changed
    entry = Entry(added.seq, False, content.size, added.info.tags)
    return Response(200, headers_of_new(added.info, added.version_id) | expiration(call, bucket, entry))


def headers_of_new(info: ObjectInfo, version_id: str | None) -> dict[str, str]:
    """What the answer to a put tells of the new version."""
    found = {"ETag": quoted(info.etag)}
    if version_id is not None:
        found["x-amz-version-id"] = version_id
    for checksum in info.checksums:
        found[checksums.header_of(checksum.algorithm)] = checksum.value
        found["x-amz-checksum-type"] = checksum.kind
    return found


def expiration(call: Call, bucket: Bucket, entry: Entry) -> dict[str, str]:
    """When a current version expires, and by which rule of the bucket."""
    found = lifecycle.expires(bucket.lifecycle, call.key, entry, call.settings.lifecycle_day)
    if found is None:
        return {}
    return {"x-amz-expiration": f'expiry-date="{http_date(found[0])}", rule-id="{quote(found[1], safe=" ")}"'}


# -- get --------------------------------------------------------------------------------------------------------------


class Range(NamedTuple):
    """A part of an object that was asked for."""

    start: int
    length: int


def find_object(call: Call, ino: Ino, key: bytes, version_id: str | None) -> Object:
    """The version that is named, or the current one. Raises S3Error."""
    if version_id is not None and version_id != "":
        return call.store.objects.version(ino, key, version_id)
    if version_id == "":
        raise S3Error("InvalidArgument", "Version id cannot be the empty string")
    return call.store.objects.current(ino, key)


def version_headers(call: Call, bucket: Bucket, item: Object) -> dict[str, str]:
    """The version's id, where versioning was ever on, or was asked for."""
    return {"x-amz-version-id": item.version_id} if bucket.state or call.request.parameter("versionId") else {}


def _refuse_marker(item: Object) -> None:
    if item.is_marker:
        headers = {
            "x-amz-delete-marker": "true",
            "Allow": "DELETE",
            "Last-Modified": http_date(item.modified),
            "x-amz-version-id": item.version_id,
        }
        raise S3Error(
            "MethodNotAllowed",
            "The specified method is not allowed against this resource.",
            headers=headers,
            fields={"Method": "GET", "ResourceType": "DeleteMarker"},
        )


async def get_object(call: Call) -> Response:
    """GetObject and HeadObject."""
    ino, bucket = call.find(call.name, write=False)
    item = find_object(call, ino, call.key, call.request.parameter("versionId"))
    _refuse_marker(item)
    wanted = _wanted(call, item)
    headers = metadata.headers_of(item, with_checksum=call.request.amz("checksum-mode") == "ENABLED" and wanted is None)
    headers |= version_headers(call, bucket, item)
    if item.is_current:
        headers |= expiration(call, bucket, Entry(item.seq, False, item.size, item.info.tags))
    check_conditions(call.request.headers, item, headers)
    for name in _OVERRIDES:
        value = call.request.parameter(f"response-{name.lower()}")
        if value is not None:
            metadata.check_header(name, value)
            headers[name] = value.encode("utf-8", "surrogateescape").decode("latin-1")
    status = 200
    start, length = 0, item.size
    if wanted is not None:
        status = 206
        start, length = wanted
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{item.size}"
    part = call.request.parameter("partNumber")
    if part is not None and item.info.parts:
        headers["x-amz-mp-parts-count"] = str(len(item.info.parts))
        if call.request.amz("checksum-mode") == "ENABLED" and item.info.checksums:
            for one in item.info.parts[int(part) - 1].checksums:
                headers[checksums.header_of(one.algorithm)] = one.value
            headers["x-amz-checksum-type"] = item.info.checksums[0].kind
    if call.request.method == "HEAD":
        return Response(status, headers | {"Content-Length": str(length)})
    if not length:
        return Response(status, headers)

    async def pieces() -> AsyncIterator[bytes]:
        copy = call.store.objects.read(item)
        try:
            at, end = start, start + length
            while at < end:
                piece = copy.read(at, min(READ_BYTES_MAX - at % READ_BYTES_MAX, end - at))
                at += len(piece)
                yield piece
        finally:
            call.store.objects.end_content(copy)

    return Response(status, headers, Stream(length, pieces))


def check_conditions(headers: Any, item: Object, found: dict[str, str], prefix: str = "") -> None:
    """Raise PreconditionFailed or NotModified as the headers If-… say (RFC 9110, 13.2.2)."""
    match = headers.get(prefix + "if-match")
    unmodified = headers.get(prefix + "if-unmodified-since")
    none_match = headers.get(prefix + "if-none-match")
    modified = headers.get(prefix + "if-modified-since")
    last = item.modified // 1_000_000 * 1_000_000
    failed = S3Error("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if match is not None:
        if not metadata.matches(match, item.etag):
            raise failed
    elif unmodified is not None:
        when = metadata.parse_http_date(unmodified)
        if when is not None and last > when:
            raise failed
    same = S3Error("NotModified", headers=found) if not prefix else failed
    if none_match is not None:
        if metadata.matches(none_match, item.etag):
            raise same
    elif modified is not None:
        when = metadata.parse_http_date(modified)
        if when is not None and last <= when:
            raise same


def part_number(raw: str) -> int:
    """The number of a part, as a request has it. Raises S3Error."""
    found = natural(raw)
    if found is None or not 1 <= found <= PARTS_MAX:
        raise S3Error("InvalidArgument", f"Part number must be an integer between 1 and {PARTS_MAX}, inclusive")
    return found


def _wanted(call: Call, item: Object) -> Range | None:
    """The range that the request asks for; None is everything."""
    raw = call.request.parameter("partNumber")
    if raw is not None:
        part = part_number(raw)
        sizes = [size.size for size in item.info.parts] or [item.size]
        if part > len(sizes):
            raise S3Error("InvalidPartNumber", "The requested partnumber is not satisfiable")
        return Range(sum(sizes[: part - 1]), sizes[part - 1]) if item.size else None
    text = call.request.header("range")
    return None if text is None else parse_range(text, item.size)


def parse_range(text: str, size: int) -> Range | None:
    """The bytes that a header Range means; None for what is to be passed over. Raises InvalidRange."""
    found = _RANGE.match(text.strip())
    if not found or found[1] == found[2] == "":
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start = int(found[1])
        end = min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise S3Error(
            "InvalidRange",
            "The requested range is not satisfiable",
            fields={"RangeRequested": text[:100], "ActualObjectSize": str(size)},
            headers={"Content-Range": f"bytes */{size}"},
        )
    return Range(start, end - start)


async def get_attributes(call: Call) -> Document:
    """GetObjectAttributes."""
    ino, bucket = call.find(call.name, write=False)
    item = find_object(call, ino, call.key, call.request.parameter("versionId"))
    _refuse_marker(item)
    asked = {word.strip() for word in (call.request.amz("object-attributes") or "").split(",")} - {""}
    known = {"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"}
    if not asked or asked - known:
        raise S3Error("InvalidArgument", "Invalid attribute name specified.")
    content: dict[str, Any] = {}
    if "ETag" in asked:
        content["ETag"] = item.etag
    if "Checksum" in asked and item.info.checksums:
        content["Checksum"] = _checksum_elements(item.info.checksums) | {"ChecksumType": item.info.checksums[0].kind}
    if "ObjectParts" in asked and item.info.parts:
        content["ObjectParts"] = _parts(call, item)
    if "StorageClass" in asked:
        content["StorageClass"] = item.info.headers.get("x-amz-storage-class", "STANDARD")
    if "ObjectSize" in asked:
        content["ObjectSize"] = item.size
    headers = {"Last-Modified": http_date(item.modified), **version_headers(call, bucket, item)}
    return Document("GetObjectAttributesResponse", content, headers)


def _checksum_elements(found: tuple[Checksum, ...]) -> dict[str, str]:
    return {f"Checksum{checksum.algorithm}": checksum.value for checksum in found}


def _parts(call: Call, item: Object) -> dict[str, Any]:
    wanted = natural(call.request.amz("max-parts") or "")
    limit = PARTS_SHOWN_MAX if wanted is None else min(wanted, PARTS_SHOWN_MAX)
    after = natural(call.request.amz("part-number-marker") or "") or 0
    found = [part for part in item.info.parts if part.number > after]
    shown = found[:limit]
    content: dict[str, Any] = {
        "PartsCount": len(item.info.parts),
        "PartNumberMarker": after,
        "NextPartNumberMarker": shown[-1].number if shown else after,
        "MaxParts": limit,
        "IsTruncated": len(found) > limit,
    }
    if any(part.checksums for part in shown):
        content["Part"] = [
            {"PartNumber": part.number, "Size": part.size, **_checksum_elements(part.checksums)} for part in shown
        ]
    return content


# -- copy -------------------------------------------------------------------------------------------------------------


def find_source(call: Call) -> tuple[Object, Bucket]:
    """The object that x-amz-copy-source names, its conditions met. Raises S3Error."""
    raw = call.request.amz("copy-source") or ""
    path, _, query = raw.partition("?")
    name, slash, key = unquote_to_bytes(path.encode("latin-1")).removeprefix(b"/").partition(b"/")
    version_id = query.removeprefix("versionId=") if query.startswith("versionId=") else None
    if not (name and slash and key) or (query and version_id is None):
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    ino, bucket = call.find(name, write=False)
    item = find_object(call, ino, key, version_id)
    if item.is_marker:
        raise S3Error(
            "InvalidRequest",
            "The source of a copy request may not specifically refer to a delete marker by version id.",
        )
    check_conditions(call.request.headers, item, {}, "x-amz-copy-source-")
    return item, bucket


def source_headers(source: Object, bucket: Bucket) -> dict[str, str]:
    """What the answer to a copy tells of its source."""
    return {"x-amz-copy-source-version-id": source.version_id} if bucket.state else {}


async def copy_object(call: Call) -> Document:
    """CopyObject: copies no content."""
    await call.body.read()
    ino, _ = call.find(call.name, write=True)
    source, source_bucket = find_source(call)
    info = _info_of_copy(call, source, same=source.bucket == ino and source.key == call.key)
    copy = call.store.objects.read(source)  # it stays, though it be purged meanwhile
    try:
        algorithm = call.request.amz("checksum-algorithm")
        if algorithm and checksums.check_algorithm(algorithm) not in [one.algorithm for one in info.checksums]:
            name = checksums.check_algorithm(algorithm)
            digests = await digests_of(copy, 0, source.size, [name])
            info = msgspec.structs.replace(info, checksums=(Checksum(name, digests.base64(name)),))
            call.check_still(ino)
        condition = metadata.condition_from(call.request.headers)
        added = call.store.objects.put(ino, call.key, source.content, info, call.writer, condition=condition)
    finally:
        call.store.objects.end_content(copy)
    call.changed += added.changed
    headers = headers_of_new(added.info, added.version_id) | source_headers(source, source_bucket)
    content = {"LastModified": call.moment(added.seq), "ETag": quoted(info.etag), **_checksum_elements(info.checksums)}
    return Document("CopyObjectResult", content, headers)


def _info_of_copy(call: Call, source: Object, *, same: bool) -> ObjectInfo:
    headers = call.request.headers
    given = info_of_new(call, headers)
    directive = call.request.amz("metadata-directive") or "COPY"
    tagging = call.request.amz("tagging-directive") or "COPY"
    if {directive.upper(), tagging.upper()} - {"COPY", "REPLACE"}:
        raise S3Error("InvalidArgument", "a directive is COPY or REPLACE")
    replaces = directive.upper() == "REPLACE"
    changes = replaces or "x-amz-storage-class" in headers or "x-amz-website-redirect-location" in headers
    by_id = "versionId=" in (call.request.amz("copy-source") or "")
    if same and source.is_current and not changes and not by_id:
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )
    kept = source.info
    storage = given.headers.get("x-amz-storage-class")
    if not replaces:
        own = {name: value for name, value in kept.headers.items() if name != "x-amz-storage-class"}
        given = msgspec.structs.replace(given, headers=own, metadata=kept.metadata)
        if storage:
            given.headers["x-amz-storage-class"] = storage
    if tagging.upper() == "COPY":
        given = msgspec.structs.replace(given, tags=kept.tags)
    whole = tuple(one for one in kept.checksums if one.kind == checksums.FULL)
    return msgspec.structs.replace(given, etag=source.etag, checksums=whole)


async def digests_of(copy: WorkingCopy, start: int, length: int, names: list[str]) -> Digests:
    """The digests of stored bytes."""
    digests = Digests(names)
    at, end = start, start + length
    while at < end:
        piece = copy.read(at, min(READ_BYTES_MAX, end - at))
        at += len(piece)
        if len(piece) >= THREAD_BYTES_LEAST:
            await trio.to_thread.run_sync(digests.update, piece)
        else:
            digests.update(piece)
            await trio.lowlevel.checkpoint()
    return digests


# -- delete -----------------------------------------------------------------------------------------------------------


def _delete(call: Call, ino: Ino, bucket: Bucket, key: bytes, version_id: str | None, condition: Any) -> Deleted:
    objects = call.store.objects
    try:
        if version_id is None:
            done = objects.delete(ino, key, call.writer, condition=condition)
        else:
            call.require(Right.PURGE)
            if bucket.mfa_delete:
                call.require_code(bucket.mfa_device)
            done = objects.purge(ino, key, version_id, call.writer, bypass=call.bypasses, condition=condition)
    except NoSuchKey:  # a condition on what is not there: a delete of that is no error
        return Deleted(None, False, [])
    call.changed += done.changed
    return done


async def delete_object(call: Call) -> Response:
    """DeleteObject: a delete marker, or with a version id the end of that version."""
    ino, bucket = call.find(call.name, write=True)
    version_id = call.request.parameter("versionId")
    if version_id == "":
        raise S3Error("InvalidArgument", "Version id cannot be the empty string")
    condition = metadata.delete_condition_from(call.request.headers)
    done = _delete(call, ino, bucket, call.key, version_id, condition)
    headers = {}
    if version_id or done.version_id:
        headers["x-amz-version-id"] = version_id or done.version_id or ""
    if done.is_marker:
        headers["x-amz-delete-marker"] = "true"
    return Response(204, headers)


async def delete_objects(call: Call) -> Document:
    """DeleteObjects: refusals go under Errors, the rest under Deleted."""
    raw = await call.body.read()
    ino, bucket = call.find(call.name, write=True)
    root = xml.parse(raw, "Delete")
    wanted = root.findall("Object")
    if not 0 < len(wanted) <= DELETES_MAX:
        raise S3Error("MalformedXML", f"a request names 1 to {DELETES_MAX} objects")
    quiet = xml.text(root, "Quiet").lower() == "true"
    content: list[tuple[str, Any]] = []
    if call.encodes:
        content.append(("EncodingType", "url"))
    for item in wanted:
        key = (xml.key_text(item, "Key") or "").encode()
        version_id = xml.text(item, "VersionId") or None
        about: dict[str, Any] = {"Key": call.shown(key), "VersionId": version_id}
        try:
            if not key:
                raise S3Error("MalformedXML", "an object to delete has a key")
            bucket = call.check_still(ino)
            done = _delete(call, ino, bucket, key, version_id, _condition_of(item))
        except (S3Error, VfsError) as error:
            failure = error if isinstance(error, S3Error) else translated(error)
            content.append(("Error", about | {"Code": failure.code, "Message": failure.message or failure.code}))
        else:
            if done.is_marker:
                about |= {"DeleteMarker": True, "DeleteMarkerVersionId": done.version_id or version_id}
            if not quiet:
                content.append(("Deleted", about))
        await trio.lowlevel.checkpoint()
    return Document("DeleteResult", content)


def _condition_of(item: xml.Element) -> Any:
    names = {"ETag": "if-match", "LastModifiedTime": "x-amz-if-match-last-modified-time", "Size": "x-amz-if-match-size"}
    found = {header: xml.text(item, name) for name, header in names.items() if item.find(name) is not None}
    return metadata.delete_condition_from(found)
