"""PostObject: a file from a form of a browser, with a signed policy that says what may be in it."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.message import Message
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from vfs.content import WorkingCopy
from vfs.model import Checksum
from vfs.names import to_datetime
from vfs.s3 import checksums, metadata
from vfs.s3.buckets import read_tags
from vfs.s3.call import Call
from vfs.s3.checksums import Digests
from vfs.s3.errors import S3Error
from vfs.s3.objects import headers_of_new, info_of_new, new_content
from vfs.s3.request import parse_moment, text, to_bytes
from vfs.s3.response import Document, Response
from vfs.s3.signed import text_of

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what clients send

FIELDS_MAX = 100
FIELDS_BYTES_MAX = 64 << 10  # of all fields but the file

_UNCONDITIONED = frozenset(
    ("x-amz-signature", "signature", "file", "policy", "awsaccesskeyid", "ossaccesskeyid", "accesskeyid")
)
# x-ignore-: by the documents. x-amz-checksum-: it lets less in, not more; Ceph does so, too.
_UNCONDITIONED_PREFIXES = ("x-ignore-", "x-amz-checksum-")


class Form:
    """The fields of a form, and what of its file has come. Fields behind the file are passed over, as in S3."""

    def __init__(self, content_type: str) -> None:
        about = Message()
        about["Content-Type"] = content_type
        boundary = about.get_param("boundary")
        if about.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
            raise S3Error("MalformedPOSTRequest", "the body of a POST is a form: multipart/form-data with a boundary")
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.in_file = False
        self.file_type = ""
        self._pieces: list[bytes] = []
        self._size = 0
        self._value = bytearray()
        self._header = ("", bytearray(), bytearray())
        self._headers: dict[str, str] = {}
        self._name = ""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[2].extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
            },
        )
        self._after_file = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take some of the body. Returns pieces of the file. Raises S3Error."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise S3Error("MalformedPOSTRequest", f"the form cannot be understood: {error}") from error
        pieces, self._pieces = self._pieces, []
        return pieces

    @property
    def has_file(self) -> bool:
        return self.in_file or self._after_file

    def _begin(self) -> None:
        self._headers = {}
        self._header = ("", bytearray(), bytearray())
        self._value.clear()

    def _end_header(self) -> None:
        self._count(len(self._header[1]) + len(self._header[2]))
        self._headers[self._header[1].decode("latin-1").lower()] = self._header[2].decode("utf-8", "replace")
        self._header = ("", bytearray(), bytearray())

    def _headers_finished(self) -> None:
        about = Message()
        about["Content-Disposition"] = self._headers.get("content-disposition", "")
        name = about.get_param("name", "", "content-disposition")
        self._name = str(name).lower()
        if self._name == "file" and not self._after_file:
            self.in_file = True
            self.filename = about.get_filename("") or ""
            self.file_type = self._headers.get("content-type", "")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self.in_file:
            self._pieces.append(data[start:end])
        else:
            self._count(end - start)
            self._value += data[start:end]

    def _end(self) -> None:
        if self.in_file:
            self.in_file, self._after_file = False, True
        elif not self._after_file:
            if len(self.fields) >= FIELDS_MAX:
                raise S3Error("MalformedPOSTRequest", f"a form has at most {FIELDS_MAX} fields")
            self.fields[self._name] = self._value.decode("utf-8", "surrogateescape")

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > FIELDS_BYTES_MAX:
            raise S3Error("MalformedPOSTRequest", "the fields of the form are too large")


async def post_object(
    call: Call, form: Form, first: list[bytes], receive: Callable[[], Awaitable[bytes]]
) -> Response | Document:
    """PostObject, from the moment that all fields before the file are there. first: what has come of the file."""
    ino, _ = call.find(call.name, write=True)
    fields = form.fields
    if "key" not in fields:
        raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'key'.")
    key = to_bytes(fields["key"].replace("${filename}", form.filename))
    now = datetime.fromtimestamp(call.now / 1e6, UTC)
    smallest, largest = check_policy({**fields, "key": text_of(key)}, text(call.name), now)
    headers = call.dialect.to_amz(fields)
    if "tagging" in headers:
        headers["x-amz-tagging"] = _tags_of_form(headers["tagging"])
    if "acl" in headers:
        headers["x-amz-acl"] = headers["acl"]
    info = info_of_new(call, headers)
    wanted = checksums.given(headers)
    digests = Digests(["MD5", *([wanted[0]] if wanted else [])])
    async with new_content(call, ino) as copy:
        size = await _store(form, copy, digests, first, receive, largest)
        if size < smallest:
            raise S3Error("EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
        summed: tuple[Checksum, ...] = ()
        if wanted is not None:
            checksums.check(digests, *wanted)
            summed = (Checksum(*wanted),)
        info = msgspec.structs.replace(info, etag=digests.digest("MD5").hex(), checksums=summed)
        content = copy.seal()
        call.check_still(ino)
        added = call.store.objects.put(ino, key, content, info, call.writer)
    call.changed += added.changed
    return _answer(call, form, key, headers_of_new(added.info, added.version_id))


async def _store(
    form: Form,
    copy: WorkingCopy,
    digests: Digests,
    pieces: list[bytes],
    receive: Callable[[], Awaitable[bytes]],
    largest: int | None,
) -> int:
    size = 0
    while True:
        for piece in pieces:
            if largest is not None and size + len(piece) > largest:
                raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
            digests.update(piece)
            size += copy.write(size, piece)
        raw = await receive()
        if not raw:
            break
        pieces = form.feed(raw)
    if form.in_file:
        raise S3Error("IncompleteBody", "the form ends within its file")
    return size


def _answer(call: Call, form: Form, key: bytes, headers: dict[str, str]) -> Response | Document:
    target = form.fields.get("success_action_redirect") or form.fields.get("redirect")
    if target and target.startswith(("http://", "https://")) and target.isascii() and target.isprintable():
        query = urlencode({"bucket": text(call.name), "key": text(key), "etag": headers["ETag"]})
        return Response(303, headers | {"Location": f"{target}{'&' if '?' in target else '?'}{query}"})
    location = f"http://{call.request.host}/{text(call.name)}/{quote(key)}"
    status = form.fields.get("success_action_status", "204")
    if status == "201":
        content = {"Location": location, "Bucket": text(call.name), "Key": text(key), "ETag": headers["ETag"]}
        return Document("PostResponse", content, headers | {"Location": location}, 201)
    return Response(200 if status == "200" else 204, headers | {"Location": location})


def _tags_of_form(raw: str) -> str:
    return urlencode(read_tags(raw.encode(), metadata.TAGS_MAX))


def check_policy(fields: Mapping[str, str], bucket: str, now: datetime) -> tuple[int, int | None]:
    """See that a form keeps to its policy. Returns the range of sizes of its file. Raises S3Error."""
    try:
        policy = json.loads(base64.b64decode(fields.get("policy", ""), validate=True))
        expires = to_datetime(parse_moment(policy["expiration"]))
        conditions = policy["conditions"]
        if not isinstance(conditions, list):
            raise TypeError
    except (binascii.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError, S3Error) as error:
        raise S3Error("InvalidPolicyDocument", "Invalid Policy: it has an expiration and conditions") from error
    if now > expires:
        raise S3Error("AccessDenied", "Invalid according to Policy: Policy expired.")
    values = {**fields, "bucket": bucket}
    smallest, largest = 0, None
    met: set[str] = set()
    for condition in conditions:
        if isinstance(condition, dict) and len(condition) == 1:
            ((name, value),) = condition.items()
            condition = ["eq", f"${name}", value]
        match condition:
            case [str(word), int(low), int(high)] if word.lower() == "content-length-range":
                smallest, largest = max(smallest, low), high if largest is None else min(largest, high)
            case [str(word), str(name), str(value)] if name.startswith("$") and word.lower() in ("eq", "starts-with"):
                name = name[1:].lower()
                met.add(name)
                _check_condition(word.lower(), name, value, values)
            case _:
                raise S3Error("InvalidPolicyDocument", "Invalid Policy: Invalid condition")
    for name in (*fields, "bucket"):
        if name not in met and name not in _UNCONDITIONED and not name.startswith(_UNCONDITIONED_PREFIXES):
            raise S3Error("AccessDenied", f"Invalid according to Policy: Extra input fields: {name}")
    return smallest, largest


def _check_condition(word: str, name: str, wanted: str, values: Mapping[str, Any]) -> None:
    found = values.get(name, "")
    parts = [part.strip() for part in found.split(",")] if name == "content-type" else [found]
    kept = found == wanted if word == "eq" else all(part.startswith(wanted) for part in parts)
    if not kept:
        raise S3Error(
            "AccessDenied", f'Invalid according to Policy: Policy Condition failed: ["{word}", "${name}", "{wanted}"]'
        )
