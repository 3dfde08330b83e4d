"""The purge policy of a bucket: who may remove its versions for good, and how. Pure rules.

    policy     `rm` below .versions   `vfs purge`           S3 clients, lifecycles
    rm         the owner, root        the owner, root       yes
    command    nobody (EROFS)         the owner, root       yes
    root       nobody (EROFS)         root                  yes
    never      nobody (EROFS)         nobody                no

What has versions lost later asks for the same: a lifecycle rule that purges noncurrent versions, and suspending
versioning, after which new content replaces. Through the mount, a bucket's owner has a say in that under `rm` and
`command`, root alone under `root` and `never`; a client of S3 under all but `never`, with a key that may purge.

Each allows less than the one above, so "looser" and "tighter" are the order of the table. Root is uid 0 coming through
the mount; nobody else is. Who owns a version, and what a key of S3 may do, the doors know; locks hold beside this
(vfs.locks). With MFA delete only a client of S3 purges, and gives the code of a device. What no policy is about: a null
version that another one replaces, and the name that a file has before it is saved by renaming.
"""

from __future__ import annotations

from enum import Enum, auto

from vfs import locks
from vfs.errors import Locked, NotPermitted, ReadOnly
from vfs.model import Bucket, PurgePolicy, State


class Way(Enum):
    """How somebody asks for a version to be removed for good."""

    RM = auto()  # `rm .versions/NAME/ID`
    COMMAND = auto()  # `vfs purge`
    REQUEST = auto()  # a client of S3, or a lifecycle
    CODE = auto()  # a client of S3 that has shown the code of the bucket's device

    @property
    def by_mount(self) -> bool:
        """Whether a user of the mount asks, whose number says something."""
        return self in (Way.RM, Way.COMMAND)


def check(bucket: Bucket, way: Way, *, is_root: bool) -> None:
    """Raise ReadOnly, Locked or NotPermitted unless the versions of a bucket can be purged in that way."""
    policy = bucket.purge
    if way is Way.RM and policy is not PurgePolicy.RM:
        raise ReadOnly("history is read-only; versions are removed for good by `vfs purge`")
    if policy is PurgePolicy.NEVER:
        raise Locked("the bucket's purge policy is never: nothing is removed for good", None)
    locks.check_code(bucket, code=way is Way.CODE)
    if way.by_mount and policy is PurgePolicy.ROOT and not is_root:
        raise NotPermitted("the bucket's purge policy is root: only root removes versions for good")


def check_settings(old: Bucket, new: Bucket, way: Way, *, is_root: bool) -> None:
    """Raise NotPermitted if the settings of a bucket would become such that versions are lost, and who sets them so
    could not purge those.
    """
    if is_root or old.purge < PurgePolicy.ROOT or (old.purge is PurgePolicy.ROOT and not way.by_mount):
        return
    only = f"the bucket's purge policy is {old.purge.name.lower()}: only root"
    if new.state is State.SUSPENDED and old.state is State.ENABLED:
        raise NotPermitted(f"{only} suspends versioning")
    before = {rule.id: rule for rule in old.lifecycle}
    for rule in new.lifecycle:
        if rule.enabled and rule.purges and before.get(rule.id) != rule:
            raise NotPermitted(f"{only} has a lifecycle purge old versions, as its rule {rule.id} would")


def check_policy(old: PurgePolicy, new: PurgePolicy, *, is_root: bool) -> None:
    """Raise NotPermitted unless a bucket's owner, who is root or not, may change its policy so."""
    if new < old and not is_root:
        raise NotPermitted("only root, through the mount, loosens a bucket's purge policy")
