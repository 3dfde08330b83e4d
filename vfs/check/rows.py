"""Whether two catalogs hold the same rows."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from vfs.catalog import TABLES, Catalog
from vfs.check.findings import Findings, Kind
from vfs.model import Bucket, Draft, Inode, Interim, ObjectInfo, Part, Upload, Version
from vfs.names import format_version_id, show

COMPARED = tuple(table for table in TABLES if table not in ("meta", "blocks", "segments"))  # see vfs.check.content
SHOWN_CHARS_MAX = 160
_ALL_ONES = (1 << 64) - 1
_NAMED = {"entries": "directory", "keys": "directory", "attributes": "inode"}  # number, then a name
_NUMBERED = {"key_names": "key", "buckets": "bucket", "aside": "record"} | dict.fromkeys(
    ("inodes", "drafts", "orphans", "displaced", "interim"), "inode"
)
_RECORDS: dict[str, type[msgspec.Struct]] = {
    "buckets": Bucket,
    "inodes": Inode,
    "versions": Version,
    "drafts": Draft,
    "interim": Interim,
    "objects": ObjectInfo,
    "uploads": Upload,
    "parts": Part,
}
_PAIRED = {"links": ("inode", "key"), "removed": ("key", "inode"), "uploads": ("bucket", "upload")}

Row = tuple[bytes, bytes]


def compare(findings: Findings, catalog: Catalog, folded: Catalog) -> None:
    """Report every row that the catalog has, lacks, or has otherwise than the fold of the journal gives it."""
    for table in COMPARED:
        rows = findings.track(f"rows: {table}", folded.count(table), folded.rows(table))
        for key, found, wanted in differences(catalog.rows(table), rows):
            if found is not None and wanted is not None and _mean_the_same(table, found, wanted):
                continue
            if wanted is None:
                message = "the catalog has this row, and the journal does not give it"
            elif found is None:
                message = "the row is missing: the journal gives it, and the catalog does not have it"
            else:
                message = f"the catalog has {_show(found)}, the journal gives {_show(wanted)}"
            findings.add(Kind.CATALOG, name_row(table, key), message)


def _mean_the_same(table: str, found: bytes, wanted: bytes) -> bool:
    """Whether one row is only older: written without the fields that records have been given since."""
    record = _RECORDS.get(table)
    try:
        return record is not None and _decode(found, record) == _decode(wanted, record)
    except (msgspec.DecodeError, ValueError):
        return False


def _decode(row: bytes, record: type[msgspec.Struct]) -> msgspec.Struct:
    return msgspec.msgpack.decode(row, type=record)


def differences(found: Iterator[Row], wanted: Iterator[Row]) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key, value found, value wanted) of the rows that are not in both, from two sorted tables."""
    mine, other = next(found, None), next(wanted, None)
    while mine is not None or other is not None:
        if other is None or (mine is not None and mine[0] < other[0]):
            assert mine is not None, "one of the two is left"
            yield mine[0], mine[1], None
            mine = next(found, None)
        elif mine is None or other[0] < mine[0]:
            yield other[0], None, other[1]
            other = next(wanted, None)
        else:
            if mine[1] != other[1]:
                yield mine[0], mine[1], other[1]
            mine, other = next(found, None), next(wanted, None)


def name_row(table: str, key: bytes) -> str:
    """A row of a table in words."""
    try:
        if table in _NAMED:
            return f"{table}: {_NAMED[table]} {_number(key[:8])}, {show(key[8:])!r}"
        if table in _NUMBERED:
            return f"{table}: {_NUMBERED[table]} {_number(key)}"
        if table == "tails":
            return f"tails: inode {_number(key[:8])}, from byte {_number(key[8:])}"
        if table in ("versions", "objects"):
            return f"{table}: key {_number(key[:8])}, {format_version_id(_ALL_ONES - _number(key[8:]))}"
        if table == "parts":
            return f"parts: upload {_number(key[:8])}, part {int.from_bytes(key[8:], 'big')}"
        if table == "times":
            return f"times: {format_version_id(_number(key))}"
        if table in _PAIRED:
            one, other = _PAIRED[table]
            return f"{table}: {one} {_number(key[:8])}, {other} {_number(key[8:])}"
    except (struct.error, OverflowError):
        pass
    return f"{table}: {key.hex()}"


def _number(raw: bytes) -> int:
    number: int = struct.unpack(">Q", raw)[0]
    return number


def _show(value: bytes) -> str:
    try:
        text = repr(msgspec.msgpack.decode(value)) if value[:1] >= b"\x90" else value.hex()
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = value.hex()
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"
