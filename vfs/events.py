"""Events: one record of the journal each, one atomic change of the namespace each. Pure.

An event is a list of changes that somebody has decided (store); applying them decides nothing, so that a live
operation and a recovery end in the same catalog. Tags and field orders are the journal's format: append only.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vfs.errors import Unstorable
from vfs.model import (
    SEQ_MAX,
    Bucket,
    Content,
    Draft,
    Ino,
    Inode,
    Interim,
    KeyId,
    Name,
    Number,
    ObjectInfo,
    Part,
    PartNumber,
    Seq,
    Size,
    Text,
    Time,
    Upload,
    Value,
    Version,
)


class BucketSet(Struct, array_like=True, frozen=True, gc=False, tag=1):
    """The bucket's settings are now these (counters excluded: the catalog keeps them)."""

    ino: Ino
    bucket: Bucket


class BucketGone(Struct, array_like=True, frozen=True, gc=False, tag=2):
    """The bucket is removed, with every row of the history of its directories."""

    ino: Ino


class KeyMade(Struct, array_like=True, frozen=True, gc=False, tag=3):
    """(directory, name) has a number from now on. *name* is the sort key: a directory's ends with ``/``."""

    key: KeyId
    parent: Ino
    name: Name


class KeyGone(Struct, array_like=True, frozen=True, gc=False, tag=4):
    """The key has neither an entry nor history any more."""

    key: KeyId


class VersionAdded(Struct, array_like=True, frozen=True, gc=False, tag=5):
    """A version is the newest of its key."""

    key: KeyId
    seq: Seq
    version: Version
    bucket: Ino


class VersionGone(Struct, array_like=True, frozen=True, gc=False, tag=6):
    """A version is removed for good: purged, or replaced as the null version."""

    key: KeyId
    seq: Seq
    bucket: Ino


class EntrySet(Struct, array_like=True, frozen=True, gc=False, tag=7):
    """The live name leads to this inode."""

    parent: Ino
    name: Name
    ino: Ino


class EntryGone(Struct, array_like=True, frozen=True, gc=False, tag=8):
    """The live name is gone."""

    parent: Ino
    name: Name


class InodeSet(Struct, array_like=True, frozen=True, gc=False, tag=9):
    """The inode is now this."""

    ino: Ino
    inode: Inode


class InodeGone(Struct, array_like=True, frozen=True, gc=False, tag=10):
    """The inode is dropped, with its extended attributes."""

    ino: Ino


class DirectoryTouched(Struct, array_like=True, frozen=True, gc=False, tag=11):
    """Entries came or went: mtime and ctime of the directory (ns), and the change of its link count."""

    ino: Ino
    time: Time
    links: Annotated[int, Meta(ge=-(1 << 32), le=1 << 32)]


class DraftSet(Struct, array_like=True, frozen=True, gc=False, tag=12):
    """The open file's content so far is safe."""

    ino: Ino
    draft: Draft


class DraftGone(Struct, array_like=True, frozen=True, gc=False, tag=13):
    """The draft was published or dropped."""

    ino: Ino


class LinkSet(Struct, array_like=True, frozen=True, gc=False, tag=14):
    """One of the names of an inode that has several."""

    ino: Ino
    key: KeyId


class LinkGone(Struct, array_like=True, frozen=True, gc=False, tag=15):
    """That name is no longer one of them."""

    ino: Ino
    key: KeyId


class AttributeSet(Struct, array_like=True, frozen=True, gc=False, tag=16):
    """An extended attribute."""

    ino: Ino
    name: Name
    value: Value


class AttributeGone(Struct, array_like=True, frozen=True, gc=False, tag=17):
    """The extended attribute is removed."""

    ino: Ino
    name: Name


class OrphanSet(Struct, array_like=True, frozen=True, gc=False, tag=18):
    """The inode has no name any more but is open; recovery drops it."""

    ino: Ino


class ObjectSet(Struct, array_like=True, frozen=True, gc=False, tag=19):
    """What the S3 doors know of a version, and its locks, are now this. It goes with the version."""

    key: KeyId
    seq: Seq
    info: ObjectInfo


class UploadSet(Struct, array_like=True, frozen=True, gc=False, tag=20):
    """A multipart upload began. *number*: of the counter of inodes and keys."""

    bucket: Ino
    number: Number
    upload: Upload


class UploadGone(Struct, array_like=True, frozen=True, gc=False, tag=21):
    """It was completed or aborted; its parts go too."""

    bucket: Ino
    number: Number


class PartSet(Struct, array_like=True, frozen=True, gc=False, tag=22):
    """A part was uploaded, perhaps over another of its number."""

    upload: Number
    number: PartNumber
    part: Part


class DisplacedSet(Struct, array_like=True, frozen=True, gc=False, tag=23):
    """Something else was put where an open file stood, which has no name from now on; what is written to it is still
    published at (directory, name). Ends when the inode has a name again, or goes.
    """

    ino: Ino
    parent: Ino
    name: Name


class InterimSet(Struct, array_like=True, frozen=True, gc=False, tag=24):
    """The interim draft of an open file is now this; its tail are the first *kept* bytes that it had, and *tail*."""

    ino: Ino
    interim: Interim
    kept: Size
    tail: bytes


class InterimGone(Struct, array_like=True, frozen=True, gc=False, tag=31):
    """A draft has all that the interim draft had, or nobody wants it any more."""

    ino: Ino


CHANGES_AT_ONCE_MAX = 1000  # read again in one go

Change = (
    BucketSet
    | BucketGone
    | KeyMade
    | KeyGone
    | VersionAdded
    | VersionGone
    | EntrySet
    | EntryGone
    | InodeSet
    | InodeGone
    | DirectoryTouched
    | DraftSet
    | DraftGone
    | LinkSet
    | LinkGone
    | AttributeSet
    | AttributeGone
    | OrphanSet
    | ObjectSet
    | UploadSet
    | UploadGone
    | PartSet
    | DisplacedSet
    | InterimSet
    | InterimGone
)


class Event(Struct, array_like=True, frozen=True, gc=False):
    """at: µs since 1970. operation: its name, for people who read the journal."""

    at: Annotated[int, Meta(ge=-(1 << 63), le=SEQ_MAX)]
    operation: Text
    changes: list[Change]


def contents(event: Event) -> list[Content]:
    """Every content that the event refers to."""
    found = []
    for change in event.changes:
        match change:
            case VersionAdded():
                found.append(change.version.content)
            case InodeSet():
                found.append(change.inode.content)
            case DraftSet():
                found.append(change.draft.content)
            case PartSet():
                found.append(change.part.content)
            case InterimSet():
                found.append(change.interim.content)
            case _:
                pass
    return found


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Event).decode
_decode_change = msgspec.msgpack.Decoder(Change).decode


def record(event: Event) -> bytes:
    """The payload of an event, which can be read again: that was tried, in 1 to 5 µs for an event of a few changes. Of
    very many each is tried by itself, so that they are not all in memory twice. Raises Unstorable.
    """
    try:
        payload = encode(event)
        if len(event.changes) <= CHANGES_AT_ONCE_MAX:
            decode(payload)
        else:
            decode(encode(Event(event.at, event.operation, [])))
            for change in event.changes:
                _decode_change(encode(change))
    except (ValueError, OverflowError, TypeError) as error:  # of msgspec, and of what is no UTF-8
        raise Unstorable(f"{event.operation}: {error}") from error
    return payload
