"""Events: every change survives the journal, has a tag of its own, and is known to the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from msgspec import DecodeError

from vfs import events
from vfs.catalog import Catalog
from vfs.events import Change, Event
from vfs.folder import Folder
from vfs.model import (
    EMPTY,
    BlockId,
    Bucket,
    Checksum,
    Content,
    Draft,
    Ino,
    Inode,
    Interim,
    KeyId,
    Kind,
    LockMode,
    ObjectInfo,
    Part,
    Retention,
    Seq,
    State,
    Upload,
    Version,
    Writer,
)

CONTENT = Content(5, BlockId(b"r" * 32), 2)
WRITER = Writer(1000, 77, "prógram")
INODE = Inode(0o100644, 2, 1, 2, 3, 4, 5, 6, 7, Ino(8), KeyId(9), Seq(10), CONTENT, b"\xff", 11, True)
VERSION = Version(
    Kind.CONTENT, True, 1, 2, 3, 4, WRITER, Ino(5), CONTENT, b"target", 6, ((b"user.a", b"\x00"), (b"user.b", b""))
)

EACH: list[Change] = [
    events.BucketSet(Ino(1), Bucket(b"b", State.SUSPENDED, Seq(1), [b"*~"], 3, 1 << 40)),
    events.BucketSet(Ino(1), Bucket(b"b", State.ENABLED, Seq(1))),
    events.BucketGone(Ino(1)),
    events.KeyMade(KeyId(1), Ino(2), b"\xff\n/"),
    events.KeyGone(KeyId(1)),
    events.VersionAdded(KeyId(1), Seq(2), VERSION, Ino(3)),
    events.VersionGone(KeyId(1), Seq(2), Ino(3)),
    events.EntrySet(Ino(1), b"n", Ino(2)),
    events.EntryGone(Ino(1), b"n"),
    events.InodeSet(Ino(1), INODE),
    events.InodeGone(Ino(1)),
    events.DirectoryTouched(Ino(1), 5, -1),
    events.DraftSet(Ino(1), Draft(CONTENT, 1, 2, WRITER)),
    events.DraftGone(Ino(1)),
    events.LinkSet(Ino(1), KeyId(2)),
    events.LinkGone(Ino(1), KeyId(2)),
    events.AttributeSet(Ino(1), b"user.x", b"\0\xff"),
    events.AttributeGone(Ino(1), b"user.x"),
    events.OrphanSet(Ino(1)),
    events.ObjectSet(KeyId(1), Seq(2), ObjectInfo("e", {"a": "b"}, retention=Retention(LockMode.COMPLIANCE, Seq(5)))),
    events.UploadSet(Ino(1), 7, Upload(b"a/b", Seq(1), ObjectInfo(tags={"t": "u"}), "CRC32", "COMPOSITE")),
    events.UploadGone(Ino(1), 7),
    events.PartSet(7, 10_000, Part(CONTENT, "e", Seq(1), (Checksum("CRC32", "AAAAAA=="),))),
    events.DisplacedSet(Ino(1), Ino(2), b"name"),
    events.InterimSet(Ino(1), Interim(CONTENT, 7, 8, 9, WRITER, Seq(10)), 3, b"tail"),
    events.InterimGone(Ino(1)),
]


def test_there_is_one_of_each_here() -> None:
    assert {type(change) for change in EACH} == set(get_args(Change))


@pytest.mark.parametrize("change", EACH, ids=lambda change: type(change).__name__)
def test_round_trip(change: Change) -> None:
    event = Event(1_800_000_000_000_000, "test", [change])
    found = events.decode(events.encode(event))
    assert found == event
    assert type(found.changes[0]) is type(change)


@pytest.mark.parametrize("change", EACH, ids=lambda change: type(change).__name__)
def test_a_recovery_asks_for_whatever_content_a_change_has(change: Change) -> None:
    """History ends before an event whose blocks went with the power (Store._replay)."""
    event = Event(5, "test", [change])
    has_content = CONTENT.root in events.encode(event)
    assert events.contents(event) == ([CONTENT] if has_content else [])


def test_several_changes_in_order_and_none() -> None:
    event = Event(5, "all", list(EACH))
    assert events.decode(events.encode(event)) == event
    assert events.decode(events.encode(Event(5, "none", []))) == Event(5, "none", [])


def test_tags_are_the_format() -> None:
    """A tag never changes its meaning: journals outlive this version."""
    tags = {kind.__name__: kind.__struct_config__.tag for kind in get_args(Change)}
    assert tags == {
        "BucketSet": 1,
        "BucketGone": 2,
        "KeyMade": 3,
        "KeyGone": 4,
        "VersionAdded": 5,
        "VersionGone": 6,
        "EntrySet": 7,
        "EntryGone": 8,
        "InodeSet": 9,
        "InodeGone": 10,
        "DirectoryTouched": 11,
        "DraftSet": 12,
        "DraftGone": 13,
        "LinkSet": 14,
        "LinkGone": 15,
        "AttributeSet": 16,
        "AttributeGone": 17,
        "OrphanSet": 18,
        "ObjectSet": 19,
        "UploadSet": 20,
        "UploadGone": 21,
        "PartSet": 22,
        "DisplacedSet": 23,
        "InterimSet": 24,
        "InterimGone": 31,
    }


def test_the_catalog_has_a_handler_for_each(tmp_path: Path) -> None:
    catalog = Catalog(Folder.at(tmp_path / "catalog", make=True))
    assert set(catalog._handlers) == set(get_args(Change))
    catalog.close()


def test_every_content_of_an_event_is_found() -> None:
    has_content = events.VersionAdded | events.InodeSet | events.DraftSet | events.PartSet | events.InterimSet
    one, other, third = (Content(1, BlockId(bytes([at]) * 32), 0) for at in range(3))
    event = Event(
        1,
        "test",
        [
            events.VersionAdded(
                KeyId(1), Seq(1), Version(Kind.CONTENT, False, 0, 0, 0, 0, WRITER, Ino(1), one), Ino(1)
            ),
            events.InodeSet(Ino(1), Inode(0, 1, 0, 0, 0, 0, 0, 0, 0, Ino(1), KeyId(1), content=other)),
            events.DraftSet(Ino(1), Draft(third, 0, 0, WRITER)),
            events.DraftSet(Ino(2), Draft(EMPTY, 0, 0, WRITER)),
            events.PartSet(7, 1, Part(other, "e", Seq(1))),
            events.InterimSet(Ino(3), Interim(one, 0, 0, 0, WRITER, Seq(1)), 0, b""),
            *[change for change in EACH if not isinstance(change, has_content)],
        ],
    )
    assert events.contents(event) == [one, other, third, EMPTY, other, one]


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x93\x01\xa1x", b"\x90", b"\x93\x01\xa1x\x91\x92\x63\x01"])
def test_what_is_no_event_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        events.decode(raw)
