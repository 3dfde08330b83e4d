"""The records of the engine: what a bucket, an inode, a version, a draft consist of. Pure data.

Each ``Struct`` is stored as a msgpack array: fields may be appended with a default, never moved or removed
(docs/format.md).
"""

from __future__ import annotations

import stat
from decimal import Decimal
from enum import IntEnum
from typing import Annotated, NamedTuple, NewType

from msgspec import Meta, Struct

# What each field can be stands in its type: decoding refuses everything else, and so does a commit, which decodes what
# it has encoded. What a client may ask for is a part of that, and for the doors and the rules to say.
Number = Annotated[int, Meta(ge=0, le=(1 << 60) - 1)]  # above are the inodes of what is not live (vfs.fuse.nodes)
Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Word = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Whole = int  # any that msgpack can say: from -2^63 to 2^64 - 1
Time = Whole  # ns since 1970: from the year 1677 to 2554
Moment = Whole  # µs since 1970, as a client names it; that of a version is a Seq
Days = Annotated[int, Meta(ge=0, le=99_999)]
Text = Annotated[str, Meta(max_length=4 << 20)]  # no door takes a longer document
Texts = Annotated[dict[Text, Text], Meta(max_length=60_000)]
PartNumber = Annotated[int, Meta(ge=1, le=10_000)]  # S3's
Name = Annotated[bytes, Meta(max_length=503)]  # with a number, a key of LMDB
Key = Annotated[bytes, Meta(max_length=1024)]  # of an object; S3's limit
Value = Annotated[bytes, Meta(max_length=1 << 16)]  # of an extended attribute: the kernel's limit
Target = Annotated[bytes, Meta(max_length=4095)]  # of a symlink
SEQ_MAX = 253_402_300_799_999_999  # the end of the year 9999, the last that a version id can name

Ino = NewType("Ino", Number)  # an inode of the catalog, and of the kernel
KeyId = NewType("KeyId", Number)  # the number of a key: of (directory, name), whether it lives or is deleted
# the moment of a version, µs since 1970 UTC; unique and rising in a store
Seq = NewType("Seq", Annotated[int, Meta(ge=0, le=SEQ_MAX)])
BlockId = NewType("BlockId", Annotated[bytes, Meta(max_length=32)])  # BLAKE3 of a block, 32 bytes; empty = a hole

STORE_ROOT = Ino(1)  # the directory of buckets


def clamp_time(ns: int) -> int:
    """The nearest time (ns since 1970) that an inode can have."""
    return min(max(ns, -(1 << 63)), (1 << 64) - 1)


class State(IntEnum):
    """The versioning state of a bucket, as in S3."""

    UNVERSIONED = 0
    ENABLED = 1
    SUSPENDED = 2


class Compression(IntEnum):
    """How a bucket has its new content stored."""

    OFF = 0
    ZSTD = 1


class PurgePolicy(IntEnum):
    """Who may remove versions of a bucket for good, and how (vfs.purging): each allows less than the one before."""

    RM = 1
    COMMAND = 2
    ROOT = 3
    NEVER = 4


class Kind(IntEnum):
    """What a version says of its key."""

    CONTENT = 1  # a file of any type: regular, symlink, FIFO, socket, device
    MARKER = 2  # a delete marker
    DIRECTORY = 3  # a directory stood here from now on
    NO_DIRECTORY = 4  # it was removed, or moved away


class Content(Struct, array_like=True, frozen=True, gc=False):
    """The manifest of a file: its size in bytes and the root of its tree of blocks.

    depth 0: *root* is the only block. depth d: a node whose children have depth d-1. An empty root is a hole.
    holes: how many leaves are holes (0 also in what was stored before they were counted): what `du` leaves out.
    """

    size: Size
    root: BlockId
    depth: Annotated[int, Meta(ge=0, le=8)]
    holes: Size = 0


EMPTY = Content(0, BlockId(b""), 0)


class Writer(Struct, array_like=True, frozen=True, gc=False):
    """Who made a version, or puts something at a key. Root is uid 0 coming through the mount; whatever else acts is
    nobody, who owns nothing and may do nothing that is root's.
    """

    uid: Word
    pid: Word
    program: Text


NOBODY_UID = (1 << 32) - 1  # no user of Linux has it
NOBODY = Writer(NOBODY_UID, 0, "vfs")


class LockMode(IntEnum):
    """How a version is locked, as in S3."""

    GOVERNANCE = 1  # whoever has the right may bypass it
    COMPLIANCE = 2  # nobody may


class Retention(Struct, array_like=True, frozen=True, gc=False):
    """A version is locked until a moment (µs since 1970)."""

    mode: LockMode
    until: Moment


class ObjectLock(Struct, array_like=True, frozen=True, gc=False):
    """That a bucket has object lock, which it never loses, and what holds for new versions (None: no lock of theirs).

    Of days and years one is 0.
    """

    mode: LockMode | None = None
    days: Days = 0
    years: Days = 0


class Filter(Struct, array_like=True, frozen=True, gc=False):
    """Which objects a lifecycle rule is for: those of which all of it is true. Sizes in bytes, both exclusive."""

    prefix: bytes = b""
    tags: Texts = {}
    size_above: Whole | None = None
    size_below: Whole | None = None


class LifecycleRule(Struct, array_like=True, frozen=True, gc=False):
    """One rule of a bucket's lifecycle, as in S3. None, 0 or False: it does not do that.

    form: how the client wrote the filter, for whoever shows it: "" (a prefix beside it, or none), "Prefix", "Tag",
    "ObjectSizeGreaterThan", "ObjectSizeLessThan", "And", "Filter" (an empty one).
    """

    id: Text
    enabled: bool
    filter: Filter = Filter()
    form: Text = ""
    expire_days: Days | None = None  # of the current version
    expire_date: Moment | None = None  # at a midnight UTC
    expire_marker: bool = False  # a delete marker that is a key's only entry
    noncurrent_days: Days | None = None
    noncurrent_newer: Whole = 0  # so many noncurrent versions are kept, whatever their age
    abort_days: Days | None = None  # of multipart uploads

    @property
    def purges(self) -> bool:
        """Whether it has content lost: what expires gets a marker, and a marker alone stands for nothing."""
        return self.noncurrent_days is not None or self.noncurrent_newer > 0


class Checksum(Struct, array_like=True, frozen=True, gc=False):
    """A checksum that a client asked for. kind: "FULL_OBJECT" or "COMPOSITE"; value: base64, as S3 shows it."""

    algorithm: Text  # "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"; "CRC64ECMA" (OSS)
    value: Text
    kind: Text = "FULL_OBJECT"


Checksums = Annotated[tuple[Checksum, ...], Meta(max_length=100)]


class ObjectPart(Struct, array_like=True, frozen=True, gc=False):
    """A part of an object that was uploaded in parts. size: bytes."""

    number: PartNumber
    size: Size
    checksums: Checksums = ()


class ObjectInfo(Struct, array_like=True, frozen=True, gc=False):
    """What only the S3 doors know of a version, and its locks.

    etag: without quotes; empty: that of the content. headers: by lower-case names, those that GET gives back
    (content-type, cache-control, x-amz-storage-class, ...). metadata: by lower-case names without x-amz-meta-.
    """

    etag: Text = ""
    headers: Texts = {}
    metadata: Texts = {}
    tags: Texts = {}
    checksums: Checksums = ()
    parts: Annotated[tuple[ObjectPart, ...], Meta(max_length=10_000)] = ()
    retention: Retention | None = None
    legal_hold: bool = False
    owner: Text = ""  # an owner id of the door's keys; empty: the bucket's
    acl: Text = ""  # keeps its place; nothing sets it
    upload: Text = ""  # the id of the multipart upload that made it, if one did


NO_INFO = ObjectInfo()


class Upload(Struct, array_like=True, frozen=True, gc=False):
    """A multipart upload under way. info: what the object will have, without what only its completion tells."""

    key: Key
    initiated: Seq
    info: ObjectInfo
    checksum_algorithm: Text = ""  # as the client asked; empty: none
    checksum_kind: Text = ""


class Part(Struct, array_like=True, frozen=True, gc=False):
    """An uploaded part. modified: µs since 1970."""

    content: Content
    etag: Text
    modified: Seq
    checksums: Checksums = ()


class Bucket(Struct, array_like=True, gc=False):
    """A bucket. Its inode number is that of its root directory."""

    name: Name
    state: State
    created: Seq
    unversioned: Annotated[list[bytes], Meta(max_length=60_000)] | None = None  # patterns; None: the store's defaults
    versions: Whole = 0  # versions and delete markers, kept by the catalog
    size: Decimal = Decimal(0)  # bytes: the sum of the sizes of all versions; sparse ones go beyond 64 bits
    live: Decimal = Decimal(0)  # bytes: the sum of the sizes of the files that live
    compression: Compression = Compression.OFF
    owner: Text = ""  # an owner id of the S3 doors' keys; empty: nobody's in particular
    lock: ObjectLock | None = None
    lifecycle: Annotated[tuple[LifecycleRule, ...], Meta(max_length=1000)] = ()
    tags: Texts = {}
    mfa_device: Text = ""  # the serial of the device of MFA delete; its secret is the door's
    mfa_delete: bool = False
    location: Text = ""  # the location constraint it was made with
    acl: Text = ""  # keeps its place; nothing sets it
    purge: PurgePolicy = PurgePolicy.COMMAND


class Inode(Struct, array_like=True, gc=False):
    """What stat tells, and where the content is. Times are ns since 1970.

    A directory that was removed keeps its row with nlink 0 for the sake of the history below it.
    """

    mode: Word
    nlink: Word
    uid: Word
    gid: Word
    rdev: Size
    atime: Time
    mtime: Time
    ctime: Time
    btime: Time
    bucket: Ino
    key: KeyId  # one of its names (the only one unless nlink > 1); for a removed directory the last; 0: a bucket
    seq: Seq = Seq(0)  # the current version under `key`; 0: nothing published yet
    content: Content = EMPTY
    target: Target = b""  # of a symlink
    generation: Size = 0  # goes up when a removed directory is made again: the kernel must not take it for the old
    attributes: bool = False  # whether it has ever had extended attributes
    acl: Value = b""  # an access ACL beside the permission bits (vfs.acl); empty: none
    implicit: bool = False  # a directory that the key of an object made, and that goes with the last one

    def copy(self) -> Inode:
        """One to change."""
        return self.__copy__()  # type: ignore[attr-defined,no-any-return]

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


class Rights(NamedTuple):
    """Who may read: owner, group, permission bits, and an access ACL beside them (vfs.acl) if that is not empty."""

    uid: Word
    gid: Word
    mode: Word
    acl: Value = b""


class Version(Struct, array_like=True, frozen=True, gc=False):
    """One entry of a key's chain. mode, uid, gid, acl: the key's when this was added (the rights of a deleted key).

    attributes: of a delete marker, the extended attributes that the key had; they come back with it.
    rights: of what stood at the key last, when something was put there that says nothing about it (vfs.rights); they
    hold for this version and those before it, beside the key's. judged: whoever put its file there had the right to say
    something about what was there before, although owner and writer of this version do not tell.
    """

    kind: Kind
    null: bool
    mode: Word
    uid: Word
    gid: Word
    mtime: Time
    writer: Writer
    ino: Ino
    content: Content = EMPTY
    target: Target = b""
    rdev: Size = 0
    attributes: tuple[tuple[Name, Value], ...] = ()
    acl: Value = b""
    rights: Rights | None = None
    judged: bool = False


class Draft(Struct, array_like=True, frozen=True, gc=False):
    """Content made safe for an open file, which some close or fsync has promised; not a version yet."""

    content: Content
    mtime: Time
    ctime: Time
    writer: Writer


class Interim(Struct, array_like=True, frozen=True, gc=False):
    """Content of a file that stays open, made safe by the clock: nobody has promised it. The file is *content* followed
    by a tail of *tail_bytes* bytes, which the events carry. at: when it was made, µs since 1970.
    """

    content: Content
    tail_bytes: Word
    mtime: Time
    ctime: Time
    writer: Writer
    at: Seq
