"""The purge policy of a bucket: who may remove its versions for good, and how. Pure rules.

    policy     `rm` below .versions   `vfs purge`           S3 clients, lifecycles
    rm         the owner, root        the owner, root       yes
    command    nobody (EROFS)         the owner, root       yes
    root       nobody (EROFS)         root                  yes
    never      nobody (EROFS)         nobody                no

Each allows less than the one above, so "looser" and "tighter" are the order of the table. Root is uid 0 coming through
the mount; nobody else is. Who owns a version, and what a key of S3 may do, the doors know; locks hold beside this
(vfs.locks). With MFA delete a client of S3 gives a code, which a mount cannot: there nobody purges. What no policy is
about: a null version that another one replaces, and the name that a file has before it is saved by renaming.
"""

from __future__ import annotations

from enum import Enum, auto

from vfs.errors import Locked, NotPermitted, ReadOnly
from vfs.model import Bucket, PurgePolicy


class Way(Enum):
    """How somebody asks for a version to be removed for good."""

    RM = auto()  # `rm .versions/NAME/ID`
    COMMAND = auto()  # `vfs purge`
    REQUEST = auto()  # a client of S3, or a lifecycle


def check(bucket: Bucket, way: Way, *, is_root: bool) -> None:
    """Raise ReadOnly, Locked or NotPermitted unless the versions of a bucket can be purged in that way."""
    policy = bucket.purge
    if way is Way.RM and policy is not PurgePolicy.RM:
        raise ReadOnly("history is read-only; versions are removed for good by `vfs purge`")
    if policy is PurgePolicy.NEVER:
        raise Locked("the bucket's purge policy is never: nothing is removed for good", None)
    if way is Way.REQUEST:
        return
    if bucket.mfa_delete:
        raise Locked("the bucket has MFA delete, and a mount cannot give the code: purge through S3", None)
    if policy is PurgePolicy.ROOT and not is_root:
        raise NotPermitted("the bucket's purge policy is root: only root removes versions for good")


def check_policy(old: PurgePolicy, new: PurgePolicy, *, is_root: bool) -> None:
    """Raise NotPermitted unless a bucket's owner, who is root or not, may change its policy so."""
    if new < old and not is_root:
        raise NotPermitted("only root, through the mount, loosens a bucket's purge policy")
