"""Objects over the tree: what the S3 doors do with keys, versions and their metadata. Knows no HTTP.

A key is a path: ``a/b/c.txt`` is the entry ``c.txt`` in directory ``a/b``. What is put makes the directories that are
missing; those go again with the last object below (`Inode.implicit`). Content written through the mount is an object
like any other; symlinks, FIFOs, sockets and device nodes are none. What the mount cannot show (an empty segment, a key
that is also a prefix...) is hidden there (vfs.names).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

from vfs.content import WorkingCopy, etag
from vfs.core import Changed, Core
from vfs.files import Files
from vfs.history import History
from vfs.model import Content, Ino, KeyId, Kind, ObjectInfo, Retention, Seq, Version, Writer
from vfs.names import format_version_id


@dataclass(frozen=True, slots=True)
class Object:
    """A version of a key, which may be a delete marker. is_current: it is the newest."""

    bucket: Ino
    key: bytes
    key_id: KeyId
    seq: Seq
    version: Version
    info: ObjectInfo
    is_current: bool

    @property
    def version_id(self) -> str:
        """``null``, or the id of its own."""
        return format_version_id(self.seq, null=self.version.null)

    @property
    def is_marker(self) -> bool:
        return self.version.kind is Kind.MARKER

    @property
    def content(self) -> Content:
        return self.version.content

    @property
    def size(self) -> int:
        """Bytes."""
        return self.version.content.size

    @property
    def etag(self) -> str:
        """Without quotes."""
        return self.info.etag or etag(self.version.content)

    @property
    def modified(self) -> int:
        """When it was made, µs since 1970."""
        return self.seq


class Condition(NamedTuple):
    """What must be true of the current object for a change to be made. ETags without quotes; ``*`` is any object.

    None: no such condition. modified (µs, compared by whole seconds), size: of conditional deletes.
    """

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None
    modified: int | None = None
    size: int | None = None


class Added(NamedTuple):
    """What a put did. version_id: None in a bucket that is not Enabled."""

    version_id: str | None
    seq: Seq
    info: ObjectInfo
    changed: list[Changed]  # for vfs.fuse.invalidation


class Deleted(NamedTuple):
    """What a delete or purge did.

    version_id: of the delete marker that came, or of the version that was purged; None: neither.
    is_marker: a delete marker came, or what was purged was one.
    """

    version_id: str | None
    is_marker: bool
    changed: list[Changed]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing: objects and common prefixes, each in key order (versions: newest first).

    next: the `after` (or key marker) of the next page, if truncated; next_version: its version id marker, of
    `list_versions` ("" if the page ends with a common prefix or between two keys). A page may be short and truncated.
    """

    objects: list[Object]
    prefixes: list[bytes]
    truncated: bool
    next: bytes = b""
    next_version: str = ""


class Objects:
    """Operations on objects. *bucket* is always the inode of a bucket's root directory (`Store.find_bucket`).

    All are synchronous; each changes everything or nothing. All raise NoSpace and DiskFailed when they change
    something, and InvalidName, NameTooLong for keys that cannot be: empty, of more than 1,024 bytes, with a segment of
    more than 502 bytes, with a segment ``.versions`` or ``.snapshots``.
    """

    def __init__(self, core: Core, files: Files, history: History) -> None:
        self._core = core
        self._catalog = core.catalog
        self._files = files
        self._history = history

    # -- content ----------------------------------------------------------------------------------------------

    def begin_content(self, bucket: Ino) -> WorkingCopy:
        """Something empty to write a body to, piece by piece; `seal()` it gives the Content for `put` and `put_part`.

        What is written stays until `end_content`, which must follow after the put, or if there is none.
        """
        raise NotImplementedError

    def end_content(self, copy: WorkingCopy) -> None:
        """Let go of what `begin_content` or `read` gave."""
        raise NotImplementedError

    def append(
        self, copy: WorkingCopy, content: Content, *, offset: int = 0, length: int | None = None
    ) -> Generator[None, None, None]:
        """Append stored content, or a range of it, to what is being made, a slice for each `next`. Nothing is read or
        copied where whole blocks (BLOCK_BYTES) come to lie on whole blocks. Raises Corrupt.
        """
        raise NotImplementedError

    def read(self, item: Object) -> WorkingCopy:
        """An object's content, for `read(offset, length)`; end with `end_content`. Stays though it be purged."""
        raise NotImplementedError

    # -- reading ----------------------------------------------------------------------------------------------

    def current(self, bucket: Ino, key: bytes) -> Object:
        """The current object. Raises NoSuchKey (with `marker`: the version id of the marker that is current)."""
        raise NotImplementedError

    def version(self, bucket: Ino, key: bytes, version_id: str) -> Object:
        """A version or delete marker by its id. Raises NoSuchVersion; InvalidName for text that is no id."""
        raise NotImplementedError

    def list(
        self, bucket: Ino, *, prefix: bytes = b"", delimiter: bytes = b"", after: bytes = b"", limit: int = 1000
    ) -> Page:
        """The current objects behind *after* (exclusive), in key order. Common prefixes count toward the limit; one
        that *after* is equal to is left out.
        """
        raise NotImplementedError

    def list_versions(
        self,
        bucket: Ino,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        key_marker: bytes = b"",
        version_id_marker: str = "",
        limit: int = 1000,
    ) -> Page:
        """Versions and delete markers, by key, then newest first, behind the markers (exclusive: that version of that
        key; without a version id, that key with all its versions). Raises InvalidName for an id that is none.
        """
        raise NotImplementedError

    # -- changing ---------------------------------------------------------------------------------------------

    def put(
        self,
        bucket: Ino,
        key: bytes,
        content: Content,
        info: ObjectInfo,
        writer: Writer,
        *,
        condition: Condition | None = None,
    ) -> Added:
        """A new current version of a key, as the bucket's state says. Content of another object may be given (a copy).

        If *info* has no retention and the bucket has a default one, the version gets that. Raises ConditionFailed,
        NoSuchKey (If-Match where nothing is), NoLock (a retention or hold in a bucket without object lock).
        """
        raise NotImplementedError

    def delete(self, bucket: Ino, key: bytes, writer: Writer, *, condition: Condition | None = None) -> Deleted:
        """Delete a key as the bucket's state says: Enabled and Suspended always stack a delete marker, also over one
        and where nothing was; Unversioned removes the object, if there is one. Raises ConditionFailed, NoSuchKey.
        """
        raise NotImplementedError

    def purge(
        self,
        bucket: Ino,
        key: bytes,
        version_id: str,
        writer: Writer,
        *,
        bypass: bool = False,
        condition: Condition | None = None,
    ) -> Deleted:
        """Remove a version or delete marker for good; nothing happens if there is none. If it was current, the newest
        that remains is. bypass: the caller has the right to bypass governance, and asks for it. *condition* is about
        that version. Raises Locked; InvalidName for text that is no version id.
        """
        raise NotImplementedError

    def set_tags(self, item: Object, tags: dict[str, str]) -> None:
        """Give a version other tags. Raises NoSuchVersion."""
        raise NotImplementedError

    def set_acl(self, item: Object, acl: str) -> None:
        """Give a version another canned ACL. Raises NoSuchVersion."""
        raise NotImplementedError

    def set_retention(self, item: Object, retention: Retention | None, *, bypass: bool = False) -> None:
        """Lock a version until a moment; None: no longer. Raises Locked, NoLock, NoSuchVersion."""
        raise NotImplementedError

    def set_legal_hold(self, item: Object, hold: bool) -> None:
        """Put a version under legal hold, or take that away. Raises NoLock, NoSuchVersion."""
        raise NotImplementedError

    # -- buckets ----------------------------------------------------------------------------------------------

    def configure(self, bucket: Ino, **changes: object) -> None:
        """Change settings of a bucket: owner, lock, lifecycle, tags, mfa_device, mfa_delete, location, acl.

        (The state: `Store.set_versioning`.) Raises InvalidState: object lock in a bucket that is not Enabled, or taken
        away.
        """
        raise NotImplementedError

    def delete_bucket(self, name: bytes) -> Ino:
        """Remove a bucket that has neither objects nor versions, whatever directories and uploads are left. The door
        must let the kernel forget its name. Raises NoSuchBucket, BucketNotEmpty.
        """
        raise NotImplementedError
