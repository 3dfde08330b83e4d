"""The catalog: the LMDB index over the journal, and the only user of lmdb.

Owns the tables below. Derived: ``fold(apply, journal)`` over the places of the blocks gives every row. One write
transaction is open all the time, and everything reads through it; `commit` makes it durable together with the
positions that it stands for (a catalog checkpoint). What was not committed dies with the process and is replayed.
Rows that one operation after the other changes (inodes, drafts, buckets) are kept decoded, and written before they are
scanned or committed. So are the figures of the segments, of which there are few. Names that were looked up are kept.
References of small contents are summed up in memory, and added to the rows of blocks before anybody looks at those.

Tables, with their keys (integers big-endian, 8 bytes, so that they sort) and values (msgpack unless said):

    entries     directory, sort name      -> inode (8 bytes)                the live names
    inodes      inode                     -> Inode
    keys        directory, sort name      -> key, sequence of the null version or 0 (16 bytes)
    removed     key, inode                -> nothing                        directories kept for the history below
    key_names   key                       -> directory, sort name
    versions    key, ~sequence            -> Version                        newest first
    times       sequence                  -> key (8 bytes)                  every version, by time
    links       inode, key                -> nothing                        the names of an inode with several
    attributes  inode, name               -> value (bytes)
    drafts      inode                     -> Draft
    orphans     inode                     -> nothing                        without a name, still open
    displaced   inode                     -> directory, name                of an open file that was replaced there
    interim     inode                     -> Interim
    tails       inode, offset             -> bytes                          of the tail of an interim draft
    buckets     inode                     -> Bucket
    blocks      block id                  -> segment, offset, length, references, node (struct)
    objects     key, ~sequence            -> ObjectInfo                     of versions that the S3 doors know more of
    uploads     bucket, number            -> Upload                         multipart uploads under way
    parts       upload, number (2 bytes)  -> Part
    aside       record of the journal     -> [Content]                      of records that are not applied (vfs.replay)
    segments    segment of blocks         -> bytes that are in the index, bytes that have references (16 bytes)
    meta        word                      -> see commit()
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import PurePath
from typing import Any, BinaryIO, NamedTuple

import lmdb
import msgspec

from vfs import events
from vfs.blocks import HEADER_BYTES, LOST, Blocks, End, Place
from vfs.content import children
from vfs.disk import LIMITS, refusal, set_aside, write_in_place
from vfs.errors import Corrupt, DiskFailed, LimitReached, NoSpace, NoSuchInode, NoSuchKey
from vfs.events import Event
from vfs.folder import Folder
from vfs.journal import START, Position
from vfs.model import (
    STORE_ROOT,
    BlockId,
    Bucket,
    Content,
    Draft,
    Ino,
    Inode,
    Interim,
    KeyId,
    Kind,
    ObjectInfo,
    Part,
    Seq,
    Upload,
    Version,
)
from vfs.pages import BATCH, FILE_NAME, PAGE_BYTES, Pages, Use, missing_bytes

log = logging.getLogger("vfs.catalog")

INODES_KEPT_MAX = 8192  # decoded inodes in memory, about 6 MiB
NAMES_KEPT_MAX = 8192  # live names in memory, and once more as many of keys, about 1 MiB each
COUNTS_MAX = 20_000  # roots whose references are counted in memory
FILE = FILE_NAME
MAP_BYTES = 1 << 40  # of address space, not of memory or disk
ENGINE = 0  # LMDB 0.9 (data format v1): py-lmdb carries 1.0 too, whose files are not interchangeable
TABLES = (
    *("entries", "inodes", "keys", "key_names", "removed", "versions", "times", "links", "attributes", "drafts"),
    *("orphans", "buckets", "blocks", "segments", "meta", "objects", "uploads", "parts"),
    *("displaced", "interim", "tails", "aside"),
)
KEPT_INODE_BYTES = 256  # of a row of an inode
COMMIT_AGAIN_PAGES = 64  # replaced by a commit: on a full disk another one follows, after which they can be used
# which earlier catalogs may lack
LATER_TABLES = ("objects", "uploads", "parts", "displaced", "interim", "tails", "aside")

_U64 = struct.Struct(">Q")
_PAIR = struct.Struct(">QQ")
_BLOCK = struct.Struct(">IQIQB")
_PART = struct.Struct(">QH")
_ALL_ONES = (1 << 64) - 1
_UNKNOWN = Ino(-1)
_DEPTHS = [bytes((depth,)) for depth in range(256)]

KEY_BYTES_MAX = 511  # LMDB's

UNREADABLE = (lmdb.Error, struct.error, msgspec.DecodeError)
"""What nothing but damage to the catalog raises: no row has a checksum, and LMDB checks little."""
DAMAGE = (*UNREADABLE, ValueError, KeyError, OverflowError)
"""What reading a damaged catalog as a whole raises."""

ROWS_OF_ANY = 4
# How many rows a change touches at most: apart from those of blocks, which are counted as they change, from those that
# are kept decoded, and from what comes behind all others of its table, for which no page is touched that is not new.
_ROWS: dict[type[events.Change], int] = {
    events.BucketSet: 0,
    events.KeyMade: 1,
    events.KeyGone: 2,
    events.VersionAdded: 1,
    events.EntrySet: 1,
    events.EntryGone: 1,
    events.InodeSet: 0,
    events.InodeGone: 2,
    events.DirectoryTouched: 0,
    events.DraftSet: 0,
    events.DraftGone: 0,
    events.LinkSet: 1,
    events.LinkGone: 1,
    events.AttributeSet: 1,
    events.AttributeGone: 1,
    events.OrphanSet: 1,
    events.ObjectSet: 1,
    events.DisplacedSet: 1,
    events.InterimSet: 2,
    events.InterimGone: 1,
    events.UploadSet: 1,
    events.UploadGone: 1,
    events.PartSet: 1,
}

_encode = msgspec.msgpack.Encoder().encode
_decode_inode = msgspec.msgpack.Decoder(Inode).decode
_decode_version = msgspec.msgpack.Decoder(Version).decode
_decode_bucket = msgspec.msgpack.Decoder(Bucket).decode
_decode_draft = msgspec.msgpack.Decoder(Draft).decode
_decode_interim = msgspec.msgpack.Decoder(Interim).decode
_decode_object = msgspec.msgpack.Decoder(ObjectInfo).decode
_decode_upload = msgspec.msgpack.Decoder(Upload).decode
_decode_part = msgspec.msgpack.Decoder(Part).decode
_decode_contents = msgspec.msgpack.Decoder(list[Content]).decode
_u64 = _U64.pack
_pair = _PAIR.pack


def where_of(parent: Ino, name: bytes) -> bytes:
    """A directory and a sort name, as in a row of keys, of entries, and of the names of keys."""
    return _u64(parent) + name


def directory_of(where: bytes) -> Ino:
    """The directory of such a row."""
    return Ino(_U64.unpack_from(where)[0])


def _pages(stat: Any) -> int:
    """How many pages a table has."""
    return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])


def _key_name(raw: bytes) -> KeyName:
    return KeyName(Ino(_U64.unpack(raw[:8])[0]), raw[8:])


def _delta(item: tuple[bytes, int]) -> int:
    return -item[1]


def fill_up(folder: Folder) -> None:
    """Make an LMDB file as long as its meta page says; what is added is a hole, and no page that LMDB knows."""
    if missing := missing_bytes(folder):
        fd = folder.open(FILE, os.O_RDWR)
        try:
            os.ftruncate(fd, os.fstat(fd).st_size + missing)
        finally:
            os.close(fd)


def _open_env(folder: Folder, *, read_only: bool) -> Any:
    """The LMDB environment of a catalog. LMDB opens by path: so it is given the descriptor of a file that was found to
    be one. Raises LimitReached, OSError, Unsafe.
    """
    fd = folder.open(FILE) if read_only else folder.open_or_make(FILE, os.O_RDWR)
    try:
        return lmdb.open(
            f"/proc/self/fd/{fd}",
            subdir=False,
            map_size=MAP_BYTES,
            max_dbs=len(TABLES),
            lock=False,
            mode=0o600,
            readonly=read_only,
            create=not read_only,
            lib_version=ENGINE,
        )
    except lmdb.MemoryError as error:
        raise _no_room(folder.path) from error
    finally:
        os.close(fd)


def _open_tables(env: Any, *, create: bool) -> dict[str, Any]:
    """The tables by their names; None for one that a catalog of an earlier vfs does not have yet."""
    tables = {}
    for name in TABLES:
        try:
            tables[name] = env.open_db(name.encode(), create=create)
        except lmdb.NotFoundError:
            if create or name not in LATER_TABLES:
                raise
            tables[name] = None
    return tables


def _no_room(directory: PurePath) -> LimitReached:
    need = f"it takes {MAP_BYTES >> 40} TiB of address space, though not of memory"
    return LimitReached(f"cannot open {directory}: {need}; {LIMITS[errno.ENOMEM]}")


def read_through(folder: Folder) -> None:
    """Read every row of a catalog, as bytes. For a process of its own: LMDB trusts its file, and a damaged one can end
    who reads it. Raises Corrupt, or whatever else comes of damage.
    """
    missing_bytes(folder)
    rows_max = folder.file_bytes(FILE)  # damaged pages can lead in circles
    with _open_env(folder, read_only=True) as env:
        tables = [table for table in _open_tables(env, create=False).values() if table is not None]
        with env.begin() as txn:
            for table in tables:
                for count, _ in enumerate(txn.cursor(table)):
                    if count > rows_max:
                        raise Corrupt(str(folder.path), expected=f"at most {rows_max} rows", found="more")


class KeyName(NamedTuple):
    """Where a key is: its directory and its sort name (a directory's ends with ``/``)."""

    parent: Ino
    name: bytes


class BlockRow(NamedTuple):
    """A block's place, how many contents and nodes refer to it, and whether it is a node."""

    place: Place
    references: int
    node: bool


class Segment(NamedTuple):
    """Bytes of a segment of blocks, headers included: of blocks that are in the index, and of those in use."""

    indexed: int
    live: int


class Checkpoint(NamedTuple):
    """What a committed catalog stands for."""

    journal: Position
    blocks: End
    next_id: int
    last_seq: Seq


class Catalog:
    """The open catalog. Invariant: between two calls, the transaction is the fold of every event applied so far."""

    def __init__(self, folder: Folder, *, read_only: bool = False) -> None:
        """Open the catalog in a directory; one that is not only read is made if it is missing. Closes *folder* with it.

        Raises Corrupt, LimitReached, Unsafe.
        """
        self._folder = folder
        self._read_only = read_only
        handlers: dict[type[events.Change], Callable[[Any], None]] = {
            events.BucketSet: self._bucket_set,
            events.BucketGone: self._bucket_gone,
            events.KeyMade: self._key_made,
            events.KeyGone: self._key_gone,
            events.VersionAdded: self._version_added,
            events.VersionGone: self._version_gone,
            events.EntrySet: self._entry_set,
            events.EntryGone: self._entry_gone,
            events.InodeSet: self._inode_set,
            events.InodeGone: self._inode_gone,
            events.DirectoryTouched: self._directory_touched,
            events.DraftSet: self._draft_set,
            events.DraftGone: self._draft_gone,
            events.LinkSet: self._link_set,
            events.LinkGone: self._link_gone,
            events.AttributeSet: self._attribute_set,
            events.AttributeGone: self._attribute_gone,
            events.OrphanSet: self._orphan_set,
            events.ObjectSet: self._object_set,
            events.UploadSet: self._upload_set,
            events.UploadGone: self._upload_gone,
            events.PartSet: self._part_set,
            events.DisplacedSet: self._displaced_set,
            events.InterimSet: self._interim_set,
            events.InterimGone: self._interim_gone,
        }
        self._handlers = {kind: (handler, _ROWS.get(kind, ROWS_OF_ANY)) for kind, handler in handlers.items()}
        self._blocks: Blocks | None = None
        self.loads = 0  # how often what was not committed was dropped
        self._open()

    def _open(self) -> None:
        path, read_only = self._folder.path, self._read_only
        try:
            if not read_only:
                write_in_place(self._folder.fd)
                fill_up(self._folder)
            self._env = _open_env(self._folder, read_only=read_only)
            self._db = _open_tables(self._env, create=not read_only and not self._env.stat()["entries"])
        except lmdb.Error as error:
            if not read_only and self._is_full(error):
                raise NoSpace(f"no space left for {path}: the catalog cannot be made") from error
            raise Corrupt(str(path), expected="an LMDB catalog", found=str(error)) from error
        except FileNotFoundError as error:
            raise Corrupt(str(path), expected="an LMDB catalog", found="none") from error
        except OSError as error:
            raise refusal(f"cannot open {path / FILE}", error) from error
        self._new_tables = [name for name, table in self._db.items() if table is None and not read_only]
        self._name_tables()
        self._pages: Pages | None = None
        try:
            self._begin()
            if not read_only:
                self._pages = Pages(self._folder.open(FILE, os.O_RDWR), self._kept_rows)
            self._load()
        except DAMAGE as error:
            self._close()
            raise Corrupt(str(path), expected="an LMDB catalog", found=repr(error)) from error

    def _name_tables(self) -> None:
        db = self._db
        self._entries, self._inodes, self._keys = db["entries"], db["inodes"], db["keys"]
        self._key_names, self._versions, self._times = db["key_names"], db["versions"], db["times"]
        self._links, self._attributes, self._drafts = db["links"], db["attributes"], db["drafts"]
        self._orphans, self._buckets, self._removed = db["orphans"], db["buckets"], db["removed"]
        self._block_rows, self._segment_rows, self._meta = db["blocks"], db["segments"], db["meta"]
        self._objects, self._uploads, self._parts = db["objects"], db["uploads"], db["parts"]
        self._displaced, self._interim, self._tails = db["displaced"], db["interim"], db["tails"]
        self._aside = db["aside"]

    def _begin(self) -> None:
        """Begin the transaction that is open until the next commit; it makes the tables that are missing, so that a
        store of an earlier vfs opens on a full disk.
        """
        self._txn = self._env.begin(write=not self._read_only)
        for name in self._new_tables:
            self._db[name] = self._env.open_db(name.encode(), txn=self._txn, create=True)
        self._name_tables()
        self._get: Any = self._txn.get
        self._put: Any = self._txn.put
        self._delete: Any = self._txn.delete

    def _load(self) -> None:
        """What is kept in memory, as of the last checkpoint."""
        self.loads += 1
        self._references: dict[bytes, int] = {}  # to be added, by depth (one byte) and root
        self._nodes_referred = False  # among them
        self._inode_cache: dict[Ino, Inode] = {}
        self._entry_cache: dict[bytes, Ino | None] = {}  # rows of entries, None for what is not there
        self._key_cache: dict[KeyId, bytes] = {}  # rows of key_names
        self._no_key = b""  # the last row of keys that was looked for and is not there
        self._inodes_changed: set[Ino] = set()
        self._inodes_new = 0  # how many inodes have been made
        self._drafts_changed: set[Ino] = set()
        self._interim_changed: set[Ino] = set()
        self._buckets_changed: set[Ino] = set()
        self._draft_rows = {
            Ino(_U64.unpack(key)[0]): _decode_draft(value) for key, value in self._scan(self._drafts, b"", b"")
        }
        self._interim_rows = {
            Ino(_U64.unpack(key)[0]): _decode_interim(value) for key, value in self._scan(self._interim, b"", b"")
        }
        self._displaced_rows = {
            Ino(_U64.unpack(key)[0]): _key_name(value) for key, value in self._scan(self._displaced, b"", b"")
        }
        self._bucket_rows = {
            Ino(_U64.unpack(key)[0]): _decode_bucket(value) for key, value in self._scan(self._buckets, b"", b"")
        }
        self._indexed: dict[int, int] = {}
        self._live: dict[int, int] = {}
        for key, value in self._scan(self._segment_rows, b"", b""):
            segment = _U64.unpack(key)[0]
            self._indexed[segment], self._live[segment] = _PAIR.unpack(value)
        self._segments_changed: set[int] = set()
        self._shared: dict[Ino, int] | None = None  # of `shared_bytes`, by inode
        self._shared_changed: set[Ino] = set()
        self.index_changed = False  # blocks were taken out of the index since the checkpoint, which no event tells
        raw = self._get(b"checkpoint", db=self._meta)
        self.checkpoint = (
            msgspec.msgpack.decode(raw, type=Checkpoint)
            if raw
            else Checkpoint(START, End(0, 0), STORE_ROOT + 1, Seq(0))
        )
        self.next_id = self.checkpoint.next_id
        self.last_seq = self.checkpoint.last_seq
        self._look_at_pages()

    def attach(self, blocks: Blocks) -> None:
        """Where apply reads the nodes of manifests from, to count the references of what is below them."""
        self._blocks = blocks

    # -- committing -------------------------------------------------------------------------------------------

    def commit(self, journal: Position, blocks: End) -> None:
        """Make the catalog durable as of these positions, which must be durable already (blocks and journal synced).

        Raises NoSpace, DiskFailed; then this is the catalog of the last checkpoint again, and what came since must be
        replayed.
        """
        checkpoint = Checkpoint(journal, blocks, self.next_id, self.last_seq)
        try:
            self._add_references()
            self._write_changed()
            self._put(b"checkpoint", _encode(checkpoint), db=self._meta)
            self._txn.commit()
        except lmdb.Error as error:
            self._fall_back()
            if self._is_full(error):
                raise NoSpace(f"no space left for {self._folder.path}: the catalog cannot be committed") from error
            raise DiskFailed(f"the catalog cannot be committed: {error}") from error
        self.checkpoint = checkpoint
        self.index_changed = False
        self._new_tables.clear()
        self._begin()
        self._look_at_pages()
        if self._pages is not None and self._pages.is_short and self._pages.freed > COMMIT_AGAIN_PAGES:
            self._commit_again()

    def _commit_again(self) -> None:
        """The same once more: only after that can be used what the last commit replaced."""
        try:
            self._put(b"checkpoint", _encode(self.checkpoint), db=self._meta)
            self._txn.commit()
            self._begin()
            self._look_at_pages()
        except lmdb.Error:
            self._fall_back()  # to what has been committed

    def _kept_rows(self) -> int:
        """How many rows that are kept decoded a commit would write over others."""
        changed = len(self._inodes_changed) + len(self._drafts_changed) + len(self._buckets_changed)
        return max(changed - self._inodes_new, 0)

    def _look_at_pages(self) -> None:
        """See how many pages the next commit can take, and have as many as may be needed on a full disk."""
        if self._pages is not None:
            stats = {name: self._txn.stat(table) for name, table in self._db.items()}
            pages = {name: _pages(stat) for name, stat in stats.items()}
            # ADR 13: each row of blocks may change with one event; what lives may be deleted, which leaves markers.
            shared = self.shared_bytes() // PAGE_BYTES
            kept = (
                2 * shared
                + pages["blocks"]
                + pages["inodes"]
                + 2 * pages["attributes"]
                + stats["entries"]["entries"] // 32
            )
            branches = sum(stat["branch_pages"] for stat in stats.values())
            self._pages.committed(Use(sum(pages.values()), branches, kept))

    def sizes(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many rows each table has, and the bytes of its pages; what is kept decoded with a good guess."""
        stats = {name: self._txn.stat(table) for name, table in self._db.items() if table is not None}
        rows = {name: int(stat["entries"]) for name, stat in stats.items()}
        sizes = {name: _pages(stat) * PAGE_BYTES for name, stat in stats.items()}
        sizes["inodes"] += len(self._inodes_changed) * KEPT_INODE_BYTES
        return rows, sizes

    def shared_bytes(self) -> int:
        """Bytes of the attributes and ACLs of files with several names, once for each name but one."""
        if self._shared is None:
            self._shared = {}
            self._shared_changed.update(Ino(_PAIR.unpack(raw)[0]) for raw, _ in self._scan(self._links, b"", b""))
        for ino in self._shared_changed:
            inode = self.find_peek(ino)
            self._shared.pop(ino, None)
            if inode is not None and inode.nlink > 1 and (inode.attributes or inode.acl):
                names = self.attributes(ino)
                size = len(inode.acl) + sum(len(name) + len(self.attribute(ino, name) or b"") for name in names)
                self._shared[ino] = (inode.nlink - 1) * size
        self._shared_changed.clear()
        return sum(self._shared.values())

    def names_of_drafts(self) -> int:
        """How many names the files have together of which there are drafts."""
        return sum(max(self.peek(ino).nlink, 1) for ino in {*self._draft_rows, *self._interim_rows})

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages that a copy of the catalog would have."""
        return 0 if self._pages is None else self._pages.used * PAGE_BYTES

    @property
    def is_short(self) -> bool:
        """Whether the disk is too full to have all pages set aside that later commits may need."""
        return self._pages is not None and self._pages.is_short

    def find_room(self) -> bool:
        """Set aside what the disk has now. Whether that is enough for changes that free nothing."""
        if self._pages is not None and self._pages.is_short:
            self._pages.look()
        return not self.is_short

    @property
    def wants_commit(self) -> bool:
        """Whether what came since the last commit may soon need more pages than there are."""
        return self._pages is not None and self._pages.wants_commit

    def _fall_back(self) -> None:
        """Be the catalog of the last checkpoint again."""
        self._txn.abort()
        try:
            self._begin()
        except lmdb.Error:  # after a failed write of its meta page, LMDB takes nothing more until it is opened again
            self._close()
            self._open()
        else:
            self._load()

    def _is_full(self, error: lmdb.Error) -> bool:
        """Whether a write failed because the disk is full. LMDB takes a short write for an EIO, and that is how a disk
        becomes full: so then the disk is asked.
        """
        if isinstance(error, (lmdb.DiskError, lmdb.MapFullError)):
            return True
        if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
            return True
        return os.strerror(errno.EIO) in str(error) and not self._has_room()

    def _has_room(self) -> bool:
        """Whether as much as is set aside could be allocated now."""
        try:
            fd = self._folder.open(FILE, os.O_RDWR)
            try:
                room = set_aside(fd, os.fstat(fd).st_size, BATCH * PAGE_BYTES)
            finally:
                os.close(fd)
        except OSError:
            return True  # this disk has other troubles
        return room and self._folder.free_bytes() >= BATCH * PAGE_BYTES

    def _write_changed(self) -> None:
        """Bring the tables up to what is kept decoded; references apart, of which an event may not be through yet."""
        for ino in self._inodes_changed:
            self._put(_u64(ino), _encode(self._inode_cache[ino]), db=self._inodes)
        self._inodes_changed.clear()
        for ino in self._drafts_changed:
            draft = self._draft_rows.get(ino)
            if draft is None:
                self._delete(_u64(ino), db=self._drafts)
            else:
                self._put(_u64(ino), _encode(draft), db=self._drafts)
        self._drafts_changed.clear()
        for ino in self._interim_changed:
            interim = self._interim_rows.get(ino)
            if interim is None:
                self._delete(_u64(ino), db=self._interim)
            else:
                self._put(_u64(ino), _encode(interim), db=self._interim)
        self._interim_changed.clear()
        for ino in self._buckets_changed:
            bucket = self._bucket_rows.get(ino)
            if bucket is None:
                self._delete(_u64(ino), db=self._buckets)
            else:
                self._put(_u64(ino), _encode(bucket), db=self._buckets)
        self._buckets_changed.clear()
        for segment in self._segments_changed:
            if segment in self._indexed:
                self._put(_u64(segment), _pair(self._indexed[segment], self._live[segment]), db=self._segment_rows)
            else:
                self._delete(_u64(segment), db=self._segment_rows)
        self._segments_changed.clear()

    def copy(self, folder: Folder) -> None:
        """Write the catalog of the last checkpoint, without gaps, into an empty directory. For any thread, between
        commits. Raises NoSpace, DiskFailed.
        """
        try:
            write_in_place(folder.fd)
            fd = folder.make(FILE)
            try:
                self._env.copyfd(fd, compact=True)
                os.fsync(fd)  # LMDB leaves that to the system; it may take the place of the catalog
            finally:
                os.close(fd)
        except lmdb.Error as error:
            raise NoSpace(f"the catalog cannot be copied: {error}") from error
        except OSError as error:
            raise refusal("the catalog cannot be copied", error) from error

    def replace(self, folder: Folder) -> None:
        """Put a copy of the last checkpoint in the place of the catalog; what came since must be applied again, also if
        this fails. Raises NoSpace, DiskFailed.
        """
        self._close_env()
        try:
            folder.rename(FILE, FILE, self._folder)
            self._folder.sync()
        except OSError as error:
            raise refusal("the catalog cannot be replaced", error) from error
        finally:
            self._open()

    def file_bytes(self) -> int:
        """How long the one file is that a catalog is."""
        return self._folder.file_bytes(FILE)

    def open_file(self) -> BinaryIO:
        """That file, to be read."""
        return self._folder.open_file(FILE)

    def close(self) -> None:
        """Drop what was not committed, and close."""
        self._close_env()
        self._folder.close()

    def _close_env(self) -> None:
        self._txn.abort()
        self._close()

    def _close(self) -> None:
        self._env.close()
        if self._pages is not None:
            self._pages.close()
            self._pages = None

    # -- reading ----------------------------------------------------------------------------------------------

    def entry(self, parent: Ino, name: bytes) -> Ino | None:
        """The inode of a live name (a sort name: a directory's ends with ``/``)."""
        return self.entry_at(_u64(parent) + name)

    def entry_at(self, where: bytes) -> Ino | None:
        """The same by `where_of` both."""
        ino = self._entry_cache.get(where, _UNKNOWN)
        if ino == _UNKNOWN:
            raw = self._get(where, db=self._entries)
            ino = None if raw is None else Ino(_U64.unpack(raw)[0])
            self._keep_entry(where, ino)
        return ino

    def _keep_entry(self, where: bytes, ino: Ino | None) -> None:
        if len(self._entry_cache) >= NAMES_KEPT_MAX:
            self._entry_cache.clear()
        self._entry_cache[where] = ino

    def entries(self, parent: Ino, after: bytes = b"") -> Iterator[tuple[bytes, Ino]]:
        """The live sort names of a directory behind *after*, in order. Stop before changing anything."""
        for key, value in self._scan(self._entries, _u64(parent), after):
            yield key, Ino(_U64.unpack(value)[0])

    def seek_entries(self, parent: Ino, start: bytes) -> Iterator[tuple[bytes, Ino]]:
        """The live sort names of a directory from *start* on (inclusive), in order. Stop before changing anything."""
        for key, value in self._seek(self._entries, _u64(parent), start):
            yield key, Ino(_U64.unpack(value)[0])

    def find_inode(self, ino: Ino) -> Inode | None:
        """The inode, for the caller to change and put into an event."""
        inode = self.find_peek(ino)
        return None if inode is None else inode.copy()

    def inode(self, ino: Ino) -> Inode:
        """The same. Raises NoSuchKey."""
        return self.peek(ino).copy()

    def peek(self, ino: Ino) -> Inode:
        """The inode, not to be changed and not to be kept: the next event may change it. Raises NoSuchKey."""
        inode = self._inode_cache.get(ino)
        if inode is None:
            inode = self.find_peek(ino)
            if inode is None:
                raise NoSuchInode(f"no inode {ino}")
        return inode

    def find_peek(self, ino: Ino) -> Inode | None:
        """The same; None if there is none."""
        inode = self._inode_cache.get(ino)
        if inode is None:
            raw = self._get(_u64(ino), db=self._inodes)
            if raw is not None:
                inode = self._keep_inode(ino, _decode_inode(raw))
        return inode

    def _keep_inode(self, ino: Ino, inode: Inode) -> Inode:
        if len(self._inode_cache) >= INODES_KEPT_MAX:
            self._write_changed()
            self._inode_cache.clear()
        self._inode_cache[ino] = inode
        return inode

    def bucket(self, ino: Ino) -> Bucket:
        """A bucket, not to be changed. Raises NoSuchKey."""
        bucket = self._bucket_rows.get(ino)
        if bucket is None:
            raise NoSuchKey(f"no bucket with inode {ino}")
        return bucket

    def find_bucket(self, ino: Ino) -> Bucket | None:
        return self._bucket_rows.get(ino)

    def buckets(self) -> Iterator[tuple[Ino, Bucket]]:
        """All buckets (at most BUCKETS_MAX), not to be changed."""
        yield from self._bucket_rows.items()

    def key(self, parent: Ino, name: bytes) -> KeyId | None:
        """The key of a sort name, also of a deleted one."""
        return self.key_at(_u64(parent) + name)

    def key_at(self, where: bytes) -> KeyId | None:
        """The same by `where_of` both."""
        if where == self._no_key:
            return None
        raw = self._get(where, db=self._keys)
        if raw is None:
            self._no_key = where
            return None
        return KeyId(_PAIR.unpack(raw)[0])

    def keys(self, parent: Ino, after: bytes = b"") -> Iterator[tuple[bytes, KeyId]]:
        """The sort names of a directory that have a key, deleted ones too, behind *after*, in order."""
        for key, value in self._scan(self._keys, _u64(parent), after):
            yield key, KeyId(_PAIR.unpack(value)[0])

    def seek_keys(self, parent: Ino, start: bytes) -> Iterator[tuple[bytes, KeyId]]:
        """The sort names of a directory that have a key, deleted ones too, from *start* on (inclusive), in order."""
        for key, value in self._seek(self._keys, _u64(parent), start):
            yield key, KeyId(_PAIR.unpack(value)[0])

    def key_name(self, key: KeyId) -> KeyName:
        """Raises NoSuchKey."""
        return _key_name(self._where(key))

    def sort_name(self, key: KeyId) -> bytes:
        """The same without the directory."""
        return self._where(key)[8:]

    def _where(self, key: KeyId) -> bytes:
        """Directory and sort name of a key, as in the row."""
        where = self._key_cache.get(key)
        if where is None:
            where = self._get(_u64(key), db=self._key_names)
            if where is None:
                raise NoSuchKey(f"no key {key}")
            self._keep_key(key, where)
        return where

    def _keep_key(self, key: KeyId, where: bytes) -> None:
        if len(self._key_cache) >= NAMES_KEPT_MAX:
            self._key_cache.clear()
        self._key_cache[key] = where

    def null_version(self, key: KeyId) -> Seq | None:
        """The sequence of the key's version with id ``null``."""
        return Seq(_PAIR.unpack(self._get(self._where(key), db=self._keys))[1]) or None

    def version(self, key: KeyId, seq: Seq) -> Version | None:
        raw = self._get(_pair(key, _ALL_ONES - seq), db=self._versions)
        return None if raw is None else _decode_version(raw)

    def versions(self, key: KeyId, before: int = _ALL_ONES) -> Iterator[tuple[Seq, Version]]:
        """The versions of a key older than sequence *before*, newest first."""
        after = b"" if before == _ALL_ONES else _u64(_ALL_ONES - before)
        for raw, value in self._scan(self._versions, _u64(key), after):
            yield Seq(_ALL_ONES - _U64.unpack(raw)[0]), _decode_version(value)

    def newer_versions(self, key: KeyId, seq: Seq) -> Iterator[tuple[Seq, Version]]:
        """The versions of a key that are newer than the one with this sequence, oldest first."""
        prefix = _u64(key)
        with self._txn.cursor(self._versions) as cursor:
            found = cursor.set_key(prefix + _u64(_ALL_ONES - seq)) and cursor.prev()
            while found:
                raw, value = cursor.item()
                if raw[:8] != prefix:
                    return
                yield Seq(_ALL_ONES - _U64.unpack(raw[8:])[0]), _decode_version(value)
                found = cursor.prev()

    def object_info(self, key: KeyId, seq: Seq) -> ObjectInfo | None:
        """What the S3 doors know of a version."""
        raw = self._get(_pair(key, _ALL_ONES - seq), db=self._objects)
        return None if raw is None else _decode_object(raw)

    def upload(self, bucket: Ino, number: int) -> Upload | None:
        raw = self._get(_pair(bucket, number), db=self._uploads)
        return None if raw is None else _decode_upload(raw)

    def has_upload(self, number: int) -> bool:
        """Whether an upload is under way, in whatever bucket (of which there are at most BUCKETS_MAX)."""
        return any(self._get(_pair(bucket, number), db=self._uploads) is not None for bucket in self._bucket_rows)

    def uploads(self, bucket: Ino) -> Iterator[tuple[int, Upload]]:
        """The uploads of a bucket, by number, which is the order in which they began."""
        for key, value in self._scan(self._uploads, _u64(bucket), b""):
            yield _U64.unpack(key)[0], _decode_upload(value)

    def part(self, upload: int, number: int) -> Part | None:
        raw = self._get(_PART.pack(upload, number), db=self._parts)
        return None if raw is None else _decode_part(raw)

    def parts(self, upload: int, after: int = 0) -> Iterator[tuple[int, Part]]:
        """The parts of an upload behind number *after*, in order."""
        for key, value in self._scan(self._parts, _u64(upload), after.to_bytes(2, "big")):
            yield int.from_bytes(key, "big"), _decode_part(value)

    def key_of_version(self, seq: Seq) -> KeyId | None:
        raw = self._get(_u64(seq), db=self._times)
        return None if raw is None else KeyId(_U64.unpack(raw)[0])

    def first_version_after(self, seq: Seq) -> Seq:
        """The first version of the store, by time, that is newer; the end of time if there is none."""
        found = next(self._scan(self._times, b"", _u64(seq)), None)
        return Seq(_ALL_ONES) if found is None else Seq(_U64.unpack(found[0])[0])

    def versions_back(self, before: Seq) -> Iterator[tuple[Seq, KeyId]]:
        """The versions of the store that are not newer than *before*, newest first, and their keys."""
        if self._times is None:
            return
        with self._txn.cursor(self._times) as cursor:
            start = _u64(before)
            found = cursor.set_range(start)
            found = cursor.key() == start or cursor.prev() if found else cursor.last()
            while found:
                key, value = cursor.item()
                yield Seq(_U64.unpack(key)[0]), KeyId(_U64.unpack(value)[0])
                found = cursor.prev()

    def links(self, ino: Ino) -> list[KeyId]:
        """The names of an inode that has several (at most LINKS_MAX)."""
        return [KeyId(_U64.unpack(key)[0]) for key, _ in self._scan(self._links, _u64(ino), b"")]

    def attribute(self, ino: Ino, name: bytes) -> bytes | None:
        inode = self.find_peek(ino)
        if inode is None or not inode.attributes:
            return None
        value: bytes | None = self._get(_u64(ino) + name, db=self._attributes)
        return value

    def attributes(self, ino: Ino) -> list[bytes]:
        return [name for name, _ in self._scan(self._attributes, _u64(ino), b"")]

    def draft(self, ino: Ino) -> Draft | None:
        return self._draft_rows.get(ino)

    def drafts(self) -> Iterator[tuple[Ino, Draft]]:
        """All drafts: at most one per open file."""
        yield from self._draft_rows.items()

    def interim(self, ino: Ino) -> Interim | None:
        return self._interim_rows.get(ino)

    def interims(self) -> Iterator[tuple[Ino, Interim]]:
        """All interim drafts: at most one per open file."""
        yield from self._interim_rows.items()

    def tail(self, ino: Ino) -> bytes:
        """The bytes of an interim draft that follow its content."""
        return b"".join(value for _, value in self._scan(self._tails, _u64(ino), b""))

    def displaced(self, ino: Ino) -> KeyName | None:
        """Where an inode without a name is published."""
        return self._displaced_rows.get(ino)

    def every_displaced(self) -> Iterator[tuple[Ino, KeyName]]:
        """At most one per open file."""
        yield from self._displaced_rows.items()

    def removed(self, key: KeyId) -> list[Ino]:
        """The directories that were removed at this key and are kept for the history below, the last one first."""
        found = [Ino(_U64.unpack(raw)[0]) for raw, _ in self._scan(self._removed, _u64(key), b"")]
        return sorted(found, key=lambda ino: -self.inode(ino).ctime)

    def orphans(self) -> Iterator[Ino]:
        for key, _ in self._scan(self._orphans, b"", b""):
            yield Ino(_U64.unpack(key)[0])

    def is_orphan(self, ino: Ino) -> bool:
        return self._get(_u64(ino), db=self._orphans) is not None

    def block(self, block: BlockId) -> BlockRow | None:
        self._add_references()
        raw = self._get(block, db=self._block_rows)
        if raw is None:
            return None
        segment, offset, length, references, node = _BLOCK.unpack(raw)
        return BlockRow(Place(segment, offset, length), references, bool(node))

    def blocks(self, after: bytes = b"") -> Iterator[tuple[BlockId, BlockRow]]:
        self._add_references()
        for key, value in self._scan(self._block_rows, b"", after):
            segment, offset, length, references, node = _BLOCK.unpack(value)
            yield BlockId(key), BlockRow(Place(segment, offset, length), references, bool(node))

    # -- whole tables, in the order of their keys: for vfs.check ------------------------------------------------

    def every_entry(self) -> Iterator[tuple[KeyName, Ino]]:
        for key, value in self.rows("entries"):
            yield _key_name(key), Ino(_U64.unpack(value)[0])

    def every_inode(self) -> Iterator[tuple[Ino, Inode]]:
        for key, value in self.rows("inodes"):
            yield Ino(_U64.unpack(key)[0]), _decode_inode(value)

    def every_key(self) -> Iterator[tuple[KeyName, KeyId, Seq]]:
        """With the sequence of the null version, or 0."""
        for key, value in self.rows("keys"):
            number, null = _PAIR.unpack(value)
            yield _key_name(key), KeyId(number), Seq(null)

    def every_key_name(self) -> Iterator[tuple[KeyId, KeyName]]:
        for key, value in self.rows("key_names"):
            yield KeyId(_U64.unpack(key)[0]), _key_name(value)

    def every_version(self) -> Iterator[tuple[KeyId, Seq, Version]]:
        for key, value in self.rows("versions"):
            number, inverted = _PAIR.unpack(key)
            yield KeyId(number), Seq(_ALL_ONES - inverted), _decode_version(value)

    def every_time(self) -> Iterator[tuple[Seq, KeyId]]:
        for key, value in self.rows("times"):
            yield Seq(_U64.unpack(key)[0]), KeyId(_U64.unpack(value)[0])

    def every_link(self) -> Iterator[tuple[Ino, KeyId]]:
        for key, _ in self.rows("links"):
            ino, number = _PAIR.unpack(key)
            yield Ino(ino), KeyId(number)

    def every_removed(self) -> Iterator[tuple[KeyId, Ino]]:
        for key, _ in self.rows("removed"):
            number, ino = _PAIR.unpack(key)
            yield KeyId(number), Ino(ino)

    def every_attribute(self) -> Iterator[tuple[Ino, bytes]]:
        for key, _ in self.rows("attributes"):
            yield Ino(_U64.unpack(key[:8])[0]), key[8:]

    def every_object(self) -> Iterator[tuple[KeyId, Seq, ObjectInfo]]:
        for key, value in self.rows("objects"):
            number, inverted = _PAIR.unpack(key)
            yield KeyId(number), Seq(_ALL_ONES - inverted), _decode_object(value)

    def every_upload(self) -> Iterator[tuple[Ino, int, Upload]]:
        for key, value in self.rows("uploads"):
            bucket, number = _PAIR.unpack(key)
            yield Ino(bucket), number, _decode_upload(value)

    def every_part(self) -> Iterator[tuple[int, int, Part]]:
        for key, value in self.rows("parts"):
            upload, number = _PART.unpack(key)
            yield upload, number, _decode_part(value)

    def every_aside(self) -> Iterator[tuple[int, list[Content]]]:
        """The numbers of the records that were set aside, and their contents."""
        for key, value in self.rows("aside"):
            yield _U64.unpack(key)[0], _decode_contents(value)

    def find_key_name(self, key: KeyId) -> KeyName | None:
        raw = self.find_where(key)
        return None if raw is None else _key_name(raw)

    def find_where(self, key: KeyId) -> bytes | None:
        """Directory and sort name of a key as in a row (`where_of`)."""
        where: bytes | None = self._key_cache.get(key)
        if where is None and key < self.next_id:
            where = self._get(_u64(key), db=self._key_names)
        return where

    def has_link(self, ino: Ino, key: KeyId) -> bool:
        """Whether a key is one of the names of an inode that has several."""
        return self._get(_pair(ino, key), db=self._links) is not None

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Every raw row of a table, for comparing catalogs."""
        self._add_references()
        self._write_changed()
        yield from self._scan(self._db[table], b"", b"")

    def count(self, table: str) -> int:
        """How many rows a table has."""
        self._add_references()
        self._write_changed()
        return 0 if self._db[table] is None else int(self._txn.stat(self._db[table])["entries"])

    def _scan(self, db: Any, prefix: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows under *prefix* whose rest of the key is behind *after*, with that rest."""
        size = len(prefix)
        if db is None:
            return
        with self._txn.cursor(db) as cursor:
            found = cursor.set_range(prefix + after) if prefix or after else cursor.first()
            if found and after and cursor.key() == prefix + after:
                found = cursor.next()
            while found:
                key, value = cursor.item()
                if key[:size] != prefix:
                    return
                yield key[size:], value
                found = cursor.next()

    def _seek(self, db: Any, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The same, from *start* on, which is not passed over."""
        size = len(prefix)
        with self._txn.cursor(db) as cursor:
            found = cursor.set_range((prefix + start)[:KEY_BYTES_MAX])
            while found:
                key, value = cursor.item()
                if key[:size] != prefix:
                    return
                if key[size:] >= start:
                    yield key[size:], value
                found = cursor.next()

    # -- applying events --------------------------------------------------------------------------------------

    def apply(self, event: Event, size: int = 0) -> None:
        """Fold one event into the tables. Decides nothing; the same in a live operation and in recovery. *size*: of its
        record in bytes.
        """
        if event.at > self.last_seq:
            self.last_seq = Seq(event.at)
        rows = 0
        for change in event.changes:
            handler, touched = self._handlers[type(change)]
            handler(change)
            rows += touched
        if self._pages is not None:
            self._pages.changed(rows, len(event.changes), size)
        if self._nodes_referred or len(self._references) >= COUNTS_MAX:
            self._add_references()  # of nodes at once: those are read, and if that fails, this change fails

    def set_aside(self, number: int, found: list[Content]) -> None:
        """Pass over a record of the journal, and keep the blocks of the contents that it may have. What only looks like
        a content is none: its block is not there, or of the other kind.
        """
        kept = [content for content in found if self._is_there(content)]
        self._put(_u64(number), _encode(kept), db=self._aside)
        for content in kept:
            self._count(content, 1)
        self._add_references()

    def _is_there(self, content: Content) -> bool:
        row = self.block(content.root)
        return row is not None and row.place != LOST and row.node == (content.depth > 0)

    def _add_references(self) -> None:
        """Bring the rows of blocks up to the references that were noted."""
        if self._references:
            noted, self._references = self._references, {}
            self._nodes_referred = False
            for root, delta in sorted(noted.items(), key=_delta):  # gains first: what is shared never drops to 0
                if delta:
                    self._refer(BlockId(root[1:]), delta, root[0])

    def _count(self, content: Content, delta: int) -> None:
        """Note *delta* references to a content's root."""
        if content.root:
            root = _DEPTHS[content.depth] + content.root
            self._references[root] = self._references.get(root, 0) + delta
            if content.depth:
                self._nodes_referred = True

    def _refer(self, block: BlockId, delta: int, depth: int) -> None:
        """Add *delta* references; a node that gains its first or loses its last passes that on to its children."""
        self._count_rows(1)
        raw = self._get(block, db=self._block_rows)
        if raw is None:
            row = _BLOCK.pack(0, 0, 0, delta, depth > 0)  # lost: kept on the books, reading it is Corrupt
            self._put(block, row, db=self._block_rows)
            return
        segment, offset, length, references, node = _BLOCK.unpack(raw)
        now = references + delta
        if now or segment:
            self._put(block, _BLOCK.pack(segment, offset, length, now, node), db=self._block_rows)
        else:
            self._delete(block, db=self._block_rows)
        if segment and (references == 0 or now == 0):
            self._live[segment] += HEADER_BYTES + length if references == 0 else -HEADER_BYTES - length
            self._segments_changed.add(segment)
            if not now and self._blocks is not None and self._blocks.pins is not None:
                self._blocks.pins.add(block)  # whoever has it open needs it, and a collection is under way
            if depth:
                self._refer_children(block, 1 if references == 0 else -1, depth)

    def _count_rows(self, number: int) -> None:
        """So many rows are changed of which no event speaks."""
        if self._pages is not None:
            self._pages.changed(number, 0, 0)

    def _refer_children(self, block: BlockId, delta: int, depth: int) -> None:
        for child in self._children(block):
            self._refer(child, delta, depth - 1)

    def _children(self, block: BlockId) -> list[BlockId]:
        assert self._blocks is not None
        try:
            return list(children(self._blocks.get(block, node=True)))
        except Corrupt:
            return []  # damaged: what is below cannot be counted; `check` tells

    def missing(self, content: Content) -> BlockId | None:
        """The first block of a content that is not in the index, looking only where nothing referred before."""
        return self._missing(content.root, content.depth) if content.root else None

    def _missing(self, block: BlockId, depth: int) -> BlockId | None:
        row = self.block(block)
        if row is None or row.place == LOST:
            return block
        if depth and not row.references:
            for child in self._children(block):
                lost = self._missing(child, depth - 1)
                if lost is not None:
                    return lost
        return None

    def block_place(self, block: BlockId) -> Place | None:
        """Index of vfs.blocks."""
        raw = self._get(block, db=self._block_rows)
        return None if raw is None else Place(*_BLOCK.unpack(raw)[:3])

    def set_block_place(self, block: BlockId, place: Place, *, node: bool) -> None:
        """Index of vfs.blocks: a new block, a lost one that is stored again, or one that was moved."""
        self._count_rows(1)
        raw = self._get(block, db=self._block_rows)
        was, references = 0, 0
        if raw is not None:
            was, _, length, references, _ = _BLOCK.unpack(raw)
            self._count_bytes(was, -length - HEADER_BYTES, references)
        segment, offset, length = place
        self._put(block, _BLOCK.pack(segment, offset, length, references, node), db=self._block_rows)
        self._count_bytes(segment, length + HEADER_BYTES, references)
        if not was and node and references:  # it was lost
            self._refer_children(block, 1, self._depth_of(block))

    def _count_bytes(self, segment: int, size: int, references: int) -> None:
        """Keep the figures of a segment, into whose part of the index a block comes, or from which it goes."""
        if segment:
            indexed = self._indexed.get(segment, 0) + size
            if indexed:
                self._indexed[segment] = indexed
                self._live[segment] = self._live.get(segment, 0) + (size if references else 0)
            else:
                del self._indexed[segment], self._live[segment]
            self._segments_changed.add(segment)

    def segment(self, segment: int) -> Segment:
        """The figures of a segment of blocks."""
        self._add_references()
        return Segment(self._indexed.get(segment, 0), self._live.get(segment, 0))

    def segments(self) -> list[int]:
        """The segments of blocks that the index leads to."""
        return sorted(self._indexed)

    def live_bytes(self) -> int:
        """Bytes of all blocks that are in use, headers included."""
        self._add_references()
        return sum(self._live.values())

    def forget_block(self, block: BlockId) -> None:
        """Take a block without references out of the index; its bytes may go once this is committed."""
        row = self.block(block)
        assert row is not None, "no block"
        assert not row.references, "a block in use"
        self.index_changed = True
        self._count_rows(1)
        self._delete(block, db=self._block_rows)
        self._count_bytes(row.place.segment, -row.place.length - HEADER_BYTES, row.references)

    def forget_blocks(self) -> None:
        """Take all blocks out of the index, to make it anew: `set_block_place` for each, then `recount`."""
        self._references.clear()
        self._txn.drop(self._block_rows, delete=False)
        self._segments_changed |= set(self._indexed)
        self._indexed.clear()
        self._live.clear()

    def recount(self) -> None:
        """Count the references of an index that was made anew."""
        for _, _, version in self.every_version():
            self._count(version.content, 1)
            if len(self._references) >= COUNTS_MAX:
                self._add_references()
        for _, inode in self.every_inode():
            self._count(inode.content, 1)
            if len(self._references) >= COUNTS_MAX:
                self._add_references()
        for draft in self._draft_rows.values():
            self._count(draft.content, 1)
        for interim in self._interim_rows.values():
            self._count(interim.content, 1)
        for _, found in self.every_aside():
            for content in found:
                self._count(content, 1)
        for _, _, part in self.every_part():
            self._count(part.content, 1)
            if len(self._references) >= COUNTS_MAX:
                self._add_references()
        self._add_references()

    def _depth_of(self, node: BlockId) -> int:
        """How many levels are below a node: all its leaves are at one level."""
        child = next(iter(self._children(node)), None)
        row = None if child is None else self.block(child)
        return 1 + self._depth_of(child) if child is not None and row is not None and row.node else 1

    def _bucket_set(self, change: events.BucketSet) -> None:
        old = self._bucket_rows.get(change.ino)
        counters = (old.versions, old.size, old.live) if old else (0, Decimal(0), Decimal(0))
        bucket = msgspec.structs.replace(change.bucket, versions=counters[0], size=counters[1], live=counters[2])
        self._bucket_rows[change.ino] = bucket
        self._buckets_changed.add(change.ino)

    def _bucket_gone(self, change: events.BucketGone) -> None:
        """Every row of the history of directories goes too; there is no other history left."""
        directories = [change.ino]
        known = {change.ino}  # there can be very many side by side
        while directories:
            directory = directories.pop()
            below: list[Ino] = []
            for _, key in list(self.keys(directory)):
                self._count_rows(ROWS_OF_ANY)
                for seq, version in list(self.versions(key)):
                    self._count_rows(ROWS_OF_ANY)
                    inode = self.find_peek(version.ino)
                    if inode is not None and inode.is_dir and inode.key == key:
                        below.append(version.ino)
                    self._version_gone(events.VersionGone(key, seq, change.ino))
                below += self.removed(key)
                self._key_gone(events.KeyGone(key))
            directories += [ino for ino in dict.fromkeys(below) if ino not in known]
            known.update(below)
            self._inode_gone(events.InodeGone(directory))
        for number, _ in list(self.uploads(change.ino)):
            self._upload_gone(events.UploadGone(change.ino, number))
        del self._bucket_rows[change.ino]
        self._buckets_changed.add(change.ino)

    def _key_made(self, change: events.KeyMade) -> None:
        where = _u64(change.parent) + change.name
        self._put(where, _pair(change.key, 0), db=self._keys)
        self._no_key = b""
        self._put(_u64(change.key), where, db=self._key_names)
        self._keep_key(change.key, where)
        if change.key >= self.next_id:
            self.next_id = change.key + 1

    def _key_gone(self, change: events.KeyGone) -> None:
        self._delete(self._where(change.key), db=self._keys)
        self._delete(_u64(change.key), db=self._key_names)
        del self._key_cache[change.key]

    def _version_added(self, change: events.VersionAdded) -> None:
        key, seq, version = change.key, change.seq, change.version
        self._put(_pair(key, _ALL_ONES - seq), _encode(version), db=self._versions)
        self._put(_u64(seq), _u64(key), db=self._times)
        if version.null:
            self._count_rows(1)
            self._put(self._where(key), _pair(key, seq), db=self._keys)
        self._count(version.content, 1)
        self._add_to_bucket(change.bucket, version, 1)
        if seq > self.last_seq:
            self.last_seq = seq

    def _version_gone(self, change: events.VersionGone) -> None:
        key, seq = change.key, change.seq
        version = self.version(key, seq)
        if version is None:
            raise Corrupt("journal", expected=f"version {seq} of key {key}", found="none")
        self._delete(_pair(key, _ALL_ONES - seq), db=self._versions)
        self._delete(_u64(seq), db=self._times)
        self._delete(_pair(key, _ALL_ONES - seq), db=self._objects)
        if version.null:
            self._put(self._where(key), _pair(key, 0), db=self._keys)
        self._count(version.content, -1)
        self._add_to_bucket(change.bucket, version, -1)

    def _add_to_bucket(self, ino: Ino, version: Version, delta: int) -> None:
        """Keep the bucket's counters of versions; the comings and goings of directories do not count."""
        if version.kind is Kind.CONTENT or version.kind is Kind.MARKER:
            bucket = self._bucket_rows[ino]
            bucket.versions += delta
            bucket.size += delta * version.content.size
            self._buckets_changed.add(ino)

    def _entry_set(self, change: events.EntrySet) -> None:
        where = _u64(change.parent) + change.name
        self._put(where, _u64(change.ino), db=self._entries)
        self._keep_entry(where, change.ino)

    def _entry_gone(self, change: events.EntryGone) -> None:
        where = _u64(change.parent) + change.name
        self._delete(where, db=self._entries)
        self._keep_entry(where, None)

    def _inode_set(self, change: events.InodeSet) -> None:
        ino, inode = change.ino, change.inode
        old = self.find_peek(ino) if ino < self.next_id else None
        content = inode.content
        live = content.size if inode.nlink else 0
        if old is None:
            self.next_id = max(self.next_id, ino + 1)
            self._inodes_new += 1
            self._count(content, 1)
        else:
            live -= old.content.size if old.nlink else 0
            if content is not old.content:  # else it need not be counted: the same reference goes and comes
                self._count(old.content, -1)
                self._count(content, 1)
        if live:
            self._bucket_rows[inode.bucket].live += live
            self._buckets_changed.add(inode.bucket)
        self._keep_inode(ino, inode.copy())
        self._inodes_changed.add(ino)
        if inode.nlink and ino in self._displaced_rows:
            self._displaced_gone(ino)
        if inode.nlink > 1:
            self._shared_changed.add(ino)
        if inode.is_dir:
            self._count_rows(1)
            if old is not None and old.nlink == 0:
                self._delete(_pair(old.key, ino), db=self._removed)
            if inode.nlink == 0:
                self._put(_pair(inode.key, ino), b"", db=self._removed)

    def _inode_gone(self, change: events.InodeGone) -> None:
        ino = change.ino
        old = self.find_peek(ino)
        if old is None:
            return
        self._count(old.content, -1)
        if old.nlink and old.content.size:
            self._bucket_rows[old.bucket].live -= old.content.size
            self._buckets_changed.add(old.bucket)
        self._delete(_u64(ino), db=self._inodes)
        del self._inode_cache[ino]
        self._inodes_changed.discard(ino)
        if old.nlink == 0:
            if old.is_dir:
                self._delete(_pair(old.key, ino), db=self._removed)
            elif ino in self._displaced_rows:
                self._displaced_gone(ino)
            else:
                self._delete(_u64(ino), db=self._orphans)
        self._interim_gone(events.InterimGone(ino))
        if old.attributes:
            for name in self.attributes(ino):
                self._count_rows(1)
                self._delete(_u64(ino) + name, db=self._attributes)

    def _directory_touched(self, change: events.DirectoryTouched) -> None:
        inode = self.find_peek(change.ino)
        if inode is None:
            raise Corrupt("journal", expected=f"directory {change.ino}", found="none")
        inode.mtime = inode.ctime = change.time
        inode.nlink += change.links
        self._inodes_changed.add(change.ino)

    def _draft_set(self, change: events.DraftSet) -> None:
        old = self._draft_rows.get(change.ino)
        if old is not None:
            self._count(old.content, -1)
        self._count(change.draft.content, 1)
        self._draft_rows[change.ino] = change.draft
        self._drafts_changed.add(change.ino)

    def _draft_gone(self, change: events.DraftGone) -> None:
        old = self._draft_rows.pop(change.ino, None)
        if old is not None:
            self._count(old.content, -1)
            self._drafts_changed.add(change.ino)

    def _link_set(self, change: events.LinkSet) -> None:
        self._put(_pair(change.ino, change.key), b"", db=self._links)
        self._shared_changed.add(change.ino)

    def _link_gone(self, change: events.LinkGone) -> None:
        self._delete(_pair(change.ino, change.key), db=self._links)
        self._shared_changed.add(change.ino)

    def _attribute_set(self, change: events.AttributeSet) -> None:
        self._put(_u64(change.ino) + change.name, change.value, db=self._attributes)
        self._shared_changed.add(change.ino)

    def _attribute_gone(self, change: events.AttributeGone) -> None:
        self._delete(_u64(change.ino) + change.name, db=self._attributes)
        self._shared_changed.add(change.ino)

    def _orphan_set(self, change: events.OrphanSet) -> None:
        self._put(_u64(change.ino), b"", db=self._orphans)

    def _displaced_set(self, change: events.DisplacedSet) -> None:
        self._displaced_rows[change.ino] = KeyName(change.parent, change.name)
        self._put(_u64(change.ino), _u64(change.parent) + change.name, db=self._displaced)

    def _displaced_gone(self, ino: Ino) -> None:
        del self._displaced_rows[ino]
        self._delete(_u64(ino), db=self._displaced)

    def _interim_set(self, change: events.InterimSet) -> None:
        ino, interim = change.ino, change.interim
        old = self._interim_rows.get(ino)
        had = 0 if old is None else old.tail_bytes
        if change.kept not in (0, had) or change.kept + len(change.tail) != interim.tail_bytes:
            raise Corrupt("journal", expected=f"{had} or 0 bytes kept of a tail", found=str(change.kept))
        if old is not None:
            self._count(old.content, -1)
        if not change.kept:
            self._drop_tail(ino)
        self._count(interim.content, 1)
        if change.tail:
            self._put(_pair(ino, change.kept), change.tail, db=self._tails)
        self._interim_rows[ino] = interim
        self._interim_changed.add(ino)

    def _interim_gone(self, change: events.InterimGone) -> None:
        old = self._interim_rows.pop(change.ino, None)
        if old is not None:
            self._count(old.content, -1)
            self._drop_tail(change.ino)
            self._interim_changed.add(change.ino)

    def _drop_tail(self, ino: Ino) -> None:
        for offset in [key for key, _ in self._scan(self._tails, _u64(ino), b"")]:
            self._count_rows(1)
            self._delete(_u64(ino) + offset, db=self._tails)

    def _object_set(self, change: events.ObjectSet) -> None:
        self._put(_pair(change.key, _ALL_ONES - change.seq), _encode(change.info), db=self._objects)

    def _upload_set(self, change: events.UploadSet) -> None:
        self._put(_pair(change.bucket, change.number), _encode(change.upload), db=self._uploads)
        if change.number >= self.next_id:
            self.next_id = change.number + 1

    def _upload_gone(self, change: events.UploadGone) -> None:
        for number, part in list(self.parts(change.number)):
            self._count(part.content, -1)
            self._count_rows(1)
            self._delete(_PART.pack(change.number, number), db=self._parts)
        self._delete(_pair(change.bucket, change.number), db=self._uploads)

    def _part_set(self, change: events.PartSet) -> None:
        old = self.part(change.upload, change.number)
        if old is not None:
            self._count(old.content, -1)
        self._count(change.part.content, 1)
        self._put(_PART.pack(change.upload, change.number), _encode(change.part), db=self._parts)
