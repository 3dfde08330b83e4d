"""The one table from the errors of the domain to errno."""

from __future__ import annotations

import errno

from vfs import errors

ERRNO: dict[type[errors.VfsError], int] = {
    errors.NoSuchBucket: errno.ENOENT,
    errors.NoSuchKey: errno.ENOENT,
    errors.NoSuchInode: errno.ESTALE,  # has the kernel look the name up again (path_openat, retry_estale)
    errors.NoSuchVersion: errno.ENOENT,
    errors.BucketExists: errno.EEXIST,
    errors.BucketNotEmpty: errno.ENOTEMPTY,
    errors.InvalidName: errno.EINVAL,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.InvalidState: errno.EINVAL,
    errors.InvalidRule: errno.EINVAL,
    errors.Exists: errno.EEXIST,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.DirectoryNotEmpty: errno.ENOTEMPTY,
    errors.CrossBucket: errno.EXDEV,
    errors.NotPermitted: errno.EPERM,
    errors.AccessDenied: errno.EACCES,
    errors.Locked: errno.EPERM,
    errors.NoLock: errno.EPERM,
    errors.ConditionFailed: errno.EPERM,
    errors.NoSuchUpload: errno.ENOENT,
    errors.InvalidPart: errno.EINVAL,
    errors.TooManyUploads: errno.EDQUOT,
    errors.ReadOnly: errno.EROFS,
    errors.TooLarge: errno.EFBIG,
    errors.Unstorable: errno.EINVAL,
    errors.TooManyLinks: errno.EMLINK,
    errors.TooManyBuckets: errno.EDQUOT,
    errors.AttributeTooLarge: errno.E2BIG,
    errors.AttributesFull: errno.ENOSPC,
    errors.NoSuchAttribute: errno.ENODATA,
    errors.NoSpace: errno.ENOSPC,
    errors.LimitReached: errno.ENFILE,
    errors.DiskFailed: errno.EIO,
    errors.Corrupt: errno.EIO,
    errors.NotAStore: errno.EINVAL,
    errors.Unsafe: errno.EIO,
    errors.StoreInUse: errno.EBUSY,
}
