"""Multipart uploads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from urllib.parse import quote

from vfs.errors import NoSuchUpload
from vfs.model import Checksum, Content, ObjectInfo, Part, Upload
from vfs.s3 import checksums, metadata, xml
from vfs.s3.call import Call, quoted
from vfs.s3.errors import S3Error
from vfs.s3.objects import (
    digests_of,
    find_source,
    headers_of_new,
    in_slices,
    info_of_new,
    new_content,
    parse_range,
    part_number,
    source_headers,
    store_body,
)
from vfs.s3.request import text, to_bytes
from vfs.s3.response import Document, Response
from vfs.uploads import PARTS_MAX

PAGE_MAX = 1000  # parts or uploads of a page


async def create(call: Call) -> Document:
    """CreateMultipartUpload."""
    await call.body.read()
    ino, _ = call.find(call.name, write=True)
    info = info_of_new(call, call.request.headers)
    algorithm, kind = call.request.amz("checksum-algorithm") or "", call.request.amz("checksum-type") or ""
    if algorithm:
        algorithm = checksums.check_algorithm(algorithm)
        kind = checksums.kind_for(algorithm, kind.upper())
    elif kind:
        raise S3Error("InvalidRequest", "x-amz-checksum-type needs x-amz-checksum-algorithm")
    found = call.store.uploads.create(ino, call.key, info, checksum_algorithm=algorithm, checksum_kind=kind)
    headers = {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind} if algorithm else {}
    content = {
        "Bucket": text(call.name),
        "Key": call.shown(call.key),
        "UploadId": found,
        "EncodingType": "url" if call.encodes else None,
    }
    return Document("InitiateMultipartUploadResult", content, headers)


def _upload_id(call: Call) -> str:
    return call.request.parameter("uploadId") or ""


async def put_part(call: Call) -> Response:
    """UploadPart."""
    ino, _ = call.find(call.name, write=True)
    number = part_number(call.request.parameter("partNumber") or "")
    upload = call.store.uploads.find(ino, call.key, _upload_id(call))
    async with new_content(call, ino) as copy:
        content = await store_body(call, copy, more=upload.checksum_algorithm)
        summed = () if call.body.checksum is None else (call.body.checksum,)
        if upload.checksum_algorithm and summed and summed[0].algorithm != upload.checksum_algorithm:
            raise S3Error(
                "InvalidRequest",
                f"Checksum Type mismatch occurred, expected checksum Type: {upload.checksum_algorithm.lower()}, "
                f"actual checksum Type: {summed[0].algorithm.lower()}",
            )
        call.check_still(ino)
        part = call.store.uploads.put_part(ino, call.key, _upload_id(call), number, content, call.body.etag, summed)
    headers = {"ETag": quoted(part.etag)}
    return Response(200, headers | {checksums.header_of(one.algorithm): one.value for one in part.checksums})


async def copy_part(call: Call) -> Document:
    """UploadPartCopy: content is read for its ETag, and copied only where blocks do not lie on blocks."""
    ino, _ = call.find(call.name, write=True)
    number = part_number(call.request.parameter("partNumber") or "")
    upload = call.store.uploads.find(ino, call.key, _upload_id(call))
    source, source_bucket = find_source(call)
    start, length = 0, source.size
    wanted = call.request.amz("copy-source-range")
    if wanted is not None:
        found = parse_range(wanted, source.size)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if found is None or not (first.isdecimal() and last.isdecimal()):
            raise S3Error("InvalidArgument", "The x-amz-copy-source-range value must be of the form bytes=first-last")
        if int(last) >= source.size:
            raise S3Error("InvalidRange", "The requested range is not satisfiable")
        start, length = found
    read = call.store.objects.read(source)
    try:
        async with new_content(call, ino) as copy:
            names = ["MD5", *([upload.checksum_algorithm] if upload.checksum_algorithm else [])]
            digests = await digests_of(read, start, length, names)
            summed = tuple(Checksum(name, digests.base64(name)) for name in names if name != "MD5")
            content: Content = source.content
            if (start, length) != (0, source.size):
                await in_slices(call.store.objects.append(copy, source.content, offset=start, length=length))
                content = copy.seal()
            etag = digests.digest("MD5").hex()
            call.check_still(ino)
            part = call.store.uploads.put_part(ino, call.key, _upload_id(call), number, content, etag, summed)
    finally:
        call.store.objects.end_content(read)
    about = {"LastModified": call.moment(part.modified), "ETag": quoted(part.etag), **_elements(part.checksums)}
    return Document("CopyPartResult", about, source_headers(source, source_bucket))


def _elements(found: tuple[Checksum, ...]) -> dict[str, str]:
    return {f"Checksum{one.algorithm}": one.value for one in found}


async def complete(call: Call) -> Document:
    """CompleteMultipartUpload."""
    raw = await call.body.read(about_itself=False)
    ino, _ = call.find(call.name, write=True)
    named = _named_parts(xml.parse(raw, "CompleteMultipartUpload"))
    upload_id = _upload_id(call)
    try:
        upload = call.store.uploads.find(ino, call.key, upload_id)
    except NoSuchUpload:
        before = call.store.uploads.completed(ino, call.key, upload_id)
        if before is None or before.etag != checksums.etag_of_parts([etag for _, etag, _ in named]):
            raise
        return _completed(call, before.info, None if before.version.null else before.version_id)
    there = dict(call.store.uploads.parts(ino, call.key, upload_id, limit=PARTS_MAX).parts)
    parts = [_named_part(there, number, etag, about) for number, etag, about in named]
    for part in parts[:-1]:
        if part.content.size < call.dialect.part_bytes_min:
            raise S3Error("EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
    summed = _sum(call, upload, parts)
    added = await in_slices(
        call.store.uploads.complete(
            ino,
            call.key,
            upload_id,
            [(number, part.etag) for (number, _, _), part in zip(named, parts, strict=True)],
            call.writer,
            etag=checksums.etag_of_parts([part.etag for part in parts]),
            checksums=summed,
            condition=metadata.condition_from(call.request.headers),
        ),
        lambda: call.check_still(ino),
    )
    call.changed += added.changed
    return _completed(call, added.info, added.version_id)


def _named_parts(root: xml.Element) -> list[tuple[int, str, xml.Element]]:
    """The parts that a completion names: number, ETag, and what else it says of each. Raises S3Error."""
    named = [
        (xml.number(part, "PartNumber") or 0, xml.text(part, "ETag").strip('"'), part) for part in root.findall("Part")
    ]
    if not named:
        raise S3Error("MalformedXML", "an upload is completed with its parts")
    if any(later[0] <= earlier[0] for earlier, later in pairwise(named)):
        raise S3Error(
            "InvalidPartOrder", "The list of parts was not in ascending order. Parts must be ordered by part number."
        )
    return named


def _completed(call: Call, info: ObjectInfo, version_id: str | None) -> Document:
    content: dict[str, Any] = {
        "Location": f"http://{call.request.host}/{text(call.name)}/{quote(call.key)}",
        "Bucket": text(call.name),
        "Key": call.shown(call.key),
        "ETag": quoted(info.etag),
        **_elements(info.checksums),
        "ChecksumType": info.checksums[0].kind if info.checksums else None,
        "EncodingType": "url" if call.encodes else None,
    }
    return Document("CompleteMultipartUploadResult", content, headers_of_new(info, version_id))


def _named_part(there: dict[int, Part], number: int, etag: str, about: xml.Element) -> Part:
    part = there.get(number)
    wrong = part is None or (etag != "" and etag != part.etag) or not etag
    if part is not None:
        own = {one.algorithm: one.value for one in part.checksums}
        for algorithm in checksums.ALGORITHMS:
            given = xml.text(about, f"Checksum{algorithm}")
            wrong = wrong or (given != "" and algorithm in own and given != own[algorithm])
    if part is None or wrong:
        raise S3Error(
            "InvalidPart",
            "One or more of the specified parts could not be found. The part may not have been uploaded, or the "
            "specified entity tag may not match the part's entity tag.",
            fields={"PartNumber": str(number), "ETag": etag},
        )
    return part


def _sum(call: Call, upload: Upload, parts: list[Part]) -> tuple[Checksum, ...]:
    algorithm = upload.checksum_algorithm
    if not algorithm:
        return ()
    values = []
    for part in parts:
        value = next((one.value for one in part.checksums if one.algorithm == algorithm), None)
        if value is None:
            return ()
        values.append((value, part.content.size))
    found = checksums.of_parts(algorithm, upload.checksum_kind, values)
    given = call.request.header(checksums.header_of(algorithm))
    if given is not None and given.partition("-")[0] != found.value.partition("-")[0]:
        raise S3Error("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.")
    return (found,)


async def abort(call: Call) -> Response:
    """AbortMultipartUpload."""
    ino, _ = call.find(call.name, write=True)
    call.store.uploads.abort(ino, call.key, _upload_id(call))
    return Response(204)


async def list_parts(call: Call) -> Document:
    """ListParts."""
    ino, bucket = call.find(call.name, write=False)
    upload = call.store.uploads.find(ino, call.key, _upload_id(call))
    after = call.number("part-number-marker", 0, PARTS_MAX)
    limit = call.number("max-parts", PAGE_MAX, PAGE_MAX)
    page = call.store.uploads.parts(ino, call.key, _upload_id(call), after=after, limit=limit)
    about = call.owner(upload.info.owner or bucket.owner)
    content = {
        "Bucket": text(call.name),
        "Key": call.shown(call.key),
        "UploadId": _upload_id(call),
        "Initiator": about,
        "Owner": about,
        "StorageClass": upload.info.headers.get("x-amz-storage-class", "STANDARD"),
        "PartNumberMarker": after,
        "NextPartNumberMarker": page.next if page.truncated else (page.parts[-1][0] if page.parts else 0),
        "MaxParts": limit,
        "IsTruncated": page.truncated,
        "EncodingType": "url" if call.encodes else None,
        "ChecksumAlgorithm": upload.checksum_algorithm or None,
        "ChecksumType": upload.checksum_kind or None,
        "Part": [
            {
                "PartNumber": number,
                "LastModified": call.moment(part.modified),
                "ETag": quoted(part.etag),
                "Size": part.content.size,
                **_elements(part.checksums),
            }
            for number, part in page.parts
        ],
    }
    return Document("ListPartsResult", content)


async def list_uploads(call: Call) -> Document:
    """ListMultipartUploads."""
    ino, bucket = call.find(call.name, write=False)
    prefix = to_bytes(call.request.parameter("prefix") or "")
    delimiter = to_bytes(call.request.parameter("delimiter") or "")
    key_marker = to_bytes(call.request.parameter("key-marker") or "")
    id_marker = call.request.parameter("upload-id-marker") or "" if key_marker else ""
    limit = call.number("max-uploads", PAGE_MAX, PAGE_MAX)
    page = call.store.uploads.list(
        ino, prefix=prefix, delimiter=delimiter, key_marker=key_marker, upload_id_marker=id_marker, limit=limit
    )
    uploads = []
    for named in page.uploads:
        about = call.owner(named.upload.info.owner or bucket.owner)
        uploads.append(
            {
                "Key": call.shown(named.upload.key),
                "UploadId": named.id,
                "Initiator": about,
                "Owner": about,
                "StorageClass": named.upload.info.headers.get("x-amz-storage-class", "STANDARD"),
                "Initiated": call.moment(named.upload.initiated),
                "ChecksumAlgorithm": named.upload.checksum_algorithm or None,
                "ChecksumType": named.upload.checksum_kind or None,
            }
        )
    content = {
        "Bucket": text(call.name),
        "KeyMarker": call.shown(key_marker),
        "UploadIdMarker": id_marker,
        "NextKeyMarker": call.shown(page.next_key) if page.truncated else "",
        "NextUploadIdMarker": page.next_id if page.truncated else "",
        "Prefix": call.shown(prefix),
        "Delimiter": call.shown(delimiter) if delimiter else None,
        "MaxUploads": limit,
        "IsTruncated": page.truncated,
        "EncodingType": "url" if call.encodes else None,
        "Upload": uploads,
        "CommonPrefixes": [{"Prefix": call.shown(one)} for one in page.prefixes],
    }
    return Document("ListMultipartUploadsResult", content)
