"""Whether who may read a file at a key may read what stood there before it. Pure.

Whoever may write to a directory can put a file where another one stood, and need not be allowed to read that. So what
stands at a key says something about what stood there before only if its owner, who could read both, put it there, or
root did; whatever acts without being a user of the mount is nobody (`NOBODY_UID`), who can put anything anywhere.
"""

from __future__ import annotations

import stat

import msgspec

from vfs.model import Inode, Rights, Version, Writer


def rights_of(what: Inode | Version) -> Rights:
    """Owner, group, permission bits and ACL of a file, or those that a version says it had."""
    return Rights(what.uid, what.gid, stat.S_IMODE(what.mode), what.acl)


def goes_on(old: Inode | Version, new: Inode | Version, writer: Writer) -> bool:
    """Whether the rights of another file, which *writer* puts where *old* stands, hold for that and what was before it.
    Those of a symlink, whose mode nobody chose, say nothing about a file.
    """
    return old.uid == new.uid and writer.uid in (0, old.uid) and (stat.S_ISLNK(old.mode) or not stat.S_ISLNK(new.mode))


def went_on(old: Version, new: Version) -> bool:
    """The same of two versions that follow each other at a key. That *old* keeps rights of its own is another matter.

    Stores of formats before 6 tell no more than the owner and the writer of the first version that a file had at the
    key; there S3 and lifecycles wrote uid 0, as root does, and no pid.
    """
    if new.judged or old.ino == new.ino:
        return True
    writer = new.writer
    return (writer.uid != 0 or writer.pid != 0) and goes_on(old, new, writer)


def judged(old: Version | None, new: Version) -> Version:
    """*new*, which says that it goes on with *old* if nothing else tells."""
    if old is None or old.rights is not None or went_on(old, new):
        return new
    return msgspec.structs.replace(new, judged=True)
