"""The errors of the domain: facts with data, neither errno nor HTTP codes.

Each door owns one table from these classes to its own codes (``vfs/fuse/errnos.py``).
"""

from __future__ import annotations


class VfsError(Exception):
    """Any error that vfs raises on purpose. ``str()`` is one line for a person."""


class NoSuchBucket(VfsError):
    """There is no bucket of that name."""


class NoSuchKey(VfsError):
    """No such name, inode or key: never made, deleted, or purged.

    marker: the version id of the delete marker that is current, for an object that was deleted.
    """

    def __init__(self, message: str = "", *, marker: str | None = None) -> None:
        super().__init__(message)
        self.marker = marker


class NoSuchInode(NoSuchKey):
    """There is no inode of that number any more: whoever asks has found it by a name that leads elsewhere by now."""


class NoSuchVersion(VfsError):
    """The key exists but has no version with that id."""


class BucketExists(VfsError):
    """A bucket of that name exists already."""


class BucketNotEmpty(VfsError):
    """The bucket still has keys or history."""


class InvalidName(VfsError):
    """A bucket name, file name or version id that breaks the rules of its kind."""


class InvalidState(VfsError):
    """A change of the versioning state that the state machine does not have."""


class InvalidRule(VfsError):
    """A rule of a lifecycle that says nothing, or what cannot be."""


class Exists(VfsError):
    """The name is taken."""


class NotADirectory(VfsError):
    """A directory was needed."""


class IsADirectory(VfsError):
    """Something other than a directory was needed."""


class DirectoryNotEmpty(VfsError):
    """The directory still has entries."""


class CrossBucket(VfsError):
    """A rename or link from one bucket into another."""


class NotPermitted(VfsError):
    """The contract forbids it for everybody (files at the root, renaming a bucket…)."""


class ReadOnly(VfsError):
    """A change of something that never changes (history), or of a store that stopped writing."""


class TooLarge(VfsError):
    """A file, or a single change, larger than it can be."""


class Unstorable(VfsError):
    """A change that could not be read again, or not be applied, if it were written down; nothing was changed."""


class NoSpace(VfsError):
    """The disk of the store is full; nothing was changed."""


class LimitReached(NoSpace):
    """A limit of this process or machine stood in the way, not the disk: open files, memory. Nothing was changed."""


class DiskFailed(VfsError):
    """The disk refused to write or to sync; the store takes no more changes until it is opened again. Or to read: block
    is the id of that which was asked for, if it was one.
    """

    block = b""


class NoSuchAttribute(VfsError):
    """The extended attribute is not set."""


class Corrupt(VfsError):
    """Stored bytes are not what was stored.

    where: file, offset and what it holds; expected and found: what the check compared. block: the id of that which was
    asked for, if it was one.
    """

    block = b""

    def __init__(self, where: str, *, expected: str, found: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}")
        self.where = where
        self.expected = expected
        self.found = found


class NotAStore(VfsError):
    """The directory is not a store that this version of vfs can open."""


class Unsafe(NotAStore):
    """The store belongs to somebody else, or has something in the place of a file that is none of its own."""


class StoreInUse(VfsError):
    """Another process holds the store. mountpoint: where it has, or had, mounted it; empty if nowhere. serves: it
    serves it over S3 only.
    """

    def __init__(self, path: str, pid: int, mountpoint: str = "", *, serves: bool = False) -> None:
        what = "; unmount it first (vfs umount), or wait until it is done"
        if mountpoint:
            what = f", mounted on {mountpoint}; unmount it first: vfs umount {mountpoint}"
        elif serves:
            what = f", which serves it over S3; end that first: kill {pid}"
        super().__init__(f"store {path} is in use by process {pid}{what}")
        self.pid = pid
        self.mountpoint = mountpoint


class NameTooLong(InvalidName):
    """A file name of more than 255 bytes."""


class TooManyLinks(VfsError):
    """The file has as many names as a file can have."""


class AttributesFull(VfsError):
    """The attributes of a file, or its ACL, have no room beside what is there. The disk has."""


class AttributeTooLarge(VfsError):
    """An extended attribute over the kernel's limit."""


class TooManyBuckets(VfsError):
    """The store has as many buckets as a store can have."""


class AccessDenied(VfsError):
    """The caller lacks a permission that the kernel could not check for us."""


class Locked(VfsError):
    """A version must not be removed for good, or its lock not be weakened; MFA delete asks for a code.

    until: µs since 1970; None: whenever what forbids it is taken away.
    """

    def __init__(self, message: str, until: int | None) -> None:
        super().__init__(message)
        self.until = until


class NoLock(VfsError):
    """The bucket has no object lock, which retention and legal holds need."""


class ConditionFailed(VfsError):
    """What is there is not what the caller made a condition of; nothing was changed."""


class NoSuchUpload(VfsError):
    """No multipart upload of that id: never begun, completed, or aborted."""


class InvalidPart(VfsError):
    """A part that was not uploaded, or is another one by now, or parts that are not in order."""


class TooManyUploads(VfsError):
    """The bucket has as many multipart uploads under way as a bucket can have."""
