"""The records of the engine: what a bucket, an inode, a version, a draft consist of. Pure data.

Each ``Struct`` is stored as a msgpack array: fields may be appended with a default, never moved or removed
(docs/format.md).
"""

from __future__ import annotations

import stat
from decimal import Decimal
from enum import IntEnum
from typing import Annotated, NewType

from msgspec import Meta, Struct

# What a number or name can be is checked where a record is decoded: what is stored may be damaged, or made by somebody.
Number = Annotated[int, Meta(ge=0, le=(1 << 60) - 1)]  # above are the inodes of what is not live (vfs.fuse.nodes)
Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Word = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Name = Annotated[bytes, Meta(max_length=503)]  # with a number, a key of LMDB
SEQ_MAX = 253_402_300_799_999_999  # the end of the year 9999, the last that a version id can name

Ino = NewType("Ino", Number)  # an inode of the catalog, and of the kernel
KeyId = NewType("KeyId", Number)  # the number of a key: of (directory, name), whether it lives or is deleted
# the moment of a version, µs since 1970 UTC; unique and rising in a store
Seq = NewType("Seq", Annotated[int, Meta(ge=0, le=SEQ_MAX)])
BlockId = NewType("BlockId", Annotated[bytes, Meta(max_length=32)])  # BLAKE3 of a block, 32 bytes; empty = a hole

STORE_ROOT = Ino(1)  # the directory of buckets


class State(IntEnum):
    """The versioning state of a bucket, as in S3."""

    UNVERSIONED = 0
    ENABLED = 1
    SUSPENDED = 2


class Compression(IntEnum):
    """How a bucket has its new content stored."""

    OFF = 0
    ZSTD = 1


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
    holes: int = 0


EMPTY = Content(0, BlockId(b""), 0)


class Writer(Struct, array_like=True, frozen=True, gc=False):
    """Who made a version."""

    uid: int
    pid: int
    program: str


NOBODY = Writer(0, 0, "vfs")


class Bucket(Struct, array_like=True, gc=False):
    """A bucket. Its inode number is that of its root directory."""

    name: bytes
    state: State
    created: Seq
    unversioned: list[bytes] | None = None  # patterns; None: the store's defaults
    versions: int = 0  # versions and delete markers, kept by the catalog
    size: Decimal = Decimal(0)  # bytes: the sum of the sizes of all versions; sparse ones go beyond 64 bits
    live: Decimal = Decimal(0)  # bytes: the sum of the sizes of the files that live
    compression: Compression = Compression.OFF


class Inode(Struct, array_like=True, gc=False):
    """What stat tells, and where the content is. Times are ns since 1970.

    A directory that was removed keeps its row with nlink 0 for the sake of the history below it.
    """

    mode: Word
    nlink: int
    uid: Word
    gid: Word
    rdev: Size
    atime: int
    mtime: int
    ctime: int
    btime: int
    bucket: Ino
    key: KeyId  # one of its names (the only one unless nlink > 1); for a removed directory the last; 0: a bucket
    seq: Seq = Seq(0)  # the current version under `key`; 0: nothing published yet
    content: Content = EMPTY
    target: bytes = b""  # of a symlink
    generation: int = 0  # goes up when a removed directory is made again: the kernel must not take it for the old
    attributes: bool = False  # whether it has ever had extended attributes
    acl: bytes = b""  # an access ACL beside the permission bits (vfs.acl); empty: none

    def copy(self) -> Inode:
        """One to change."""
        return self.__copy__()  # type: ignore[attr-defined,no-any-return]

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


class Version(Struct, array_like=True, frozen=True, gc=False):
    """One entry of a key's chain. mode, uid, gid, acl: the key's when this was added (the rights of a deleted key).

    attributes: of a delete marker, the extended attributes that the key had; they come back with it.
    """

    kind: Kind
    null: bool
    mode: Word
    uid: Word
    gid: Word
    mtime: int
    writer: Writer
    ino: Ino
    content: Content = EMPTY
    target: bytes = b""
    rdev: int = 0
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    acl: bytes = b""


class Draft(Struct, array_like=True, frozen=True, gc=False):
    """Content made safe for an open file; not a version yet."""

    content: Content
    mtime: int
    ctime: int
    writer: Writer
