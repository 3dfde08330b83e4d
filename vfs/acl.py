"""POSIX access control lists: their stored form, and the rules that join them with permission bits (acl(5)). Pure.

A list is stored as the kernel hands it over: the value of an extended attribute. The permission bits of an inode are
the truth for its owner, its mask and all others; what the stored list says of those is as old as its last change. So a
chmod needs to know nothing of lists.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Collection
from enum import IntEnum
from typing import NamedTuple

from vfs.errors import InvalidName

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"  # of a directory: what is made in it begins with

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_ANY = 0xFFFFFFFF  # the id of entries that need none
_BITS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO


class Tag(IntEnum):
    """Whom an entry is for, as in the stored form; entries are in this order, then by id."""

    OWNER = 0x01
    USER = 0x02
    OWNING_GROUP = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


_ONCE = (Tag.OWNER, Tag.OWNING_GROUP, Tag.OTHER)
_NAMED = (Tag.USER, Tag.GROUP)


class Entry(NamedTuple):
    """What one user, group or class may: permission bits 0 to 7. id: of a user or a group."""

    tag: Tag
    id: int
    bits: int


Acl = tuple[Entry, ...]


def decode(value: bytes) -> Acl:
    """A list from its stored form. Raises InvalidName if it is none."""
    try:
        if _HEADER.unpack_from(value)[0] != _VERSION:
            raise ValueError("of another version")
        acl = tuple(sorted(Entry(Tag(tag), who, bits) for tag, bits, who in _ENTRY.iter_unpack(value[_HEADER.size :])))
    except (ValueError, struct.error) as error:
        raise InvalidName(f"not an access control list: {error}") from None
    tags = [entry.tag for entry in acl]
    named = [entry[:2] for entry in acl if entry.tag in _NAMED]
    complete = all(tags.count(tag) == 1 for tag in _ONCE) and (tags.count(Tag.MASK) == 1 or not named)
    if not complete or tags.count(Tag.MASK) > 1 or len(set(named)) < len(named) or any(e.bits > 7 for e in acl):
        raise InvalidName("not an access control list: entries are missing, twice there or unknown")
    return acl


def encode(acl: Acl) -> bytes:
    """The stored form of a list."""
    ids = ((entry, entry.id if entry.tag in _NAMED else _ANY) for entry in acl)
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(entry.tag, entry.bits, who) for entry, who in ids)


def groups(value: bytes) -> list[int]:
    """The groups that the stored list of an inode names."""
    return [entry.id for entry in decode(value) if entry.tag is Tag.GROUP] if value else []


def is_plain(acl: Acl) -> bool:
    """Whether a list says no more than permission bits can, so that none need be kept."""
    return all(entry.tag in _ONCE for entry in acl)


def _group_class(acl: Acl) -> Tag:
    """The entry that the group's permission bits stand for."""
    return Tag.MASK if any(entry.tag is Tag.MASK for entry in acl) else Tag.OWNING_GROUP


def with_mode(acl: Acl, mode: int) -> Acl:
    """The list of an inode with these permission bits."""
    bits = {Tag.OWNER: mode >> 6 & 7, _group_class(acl): mode >> 3 & 7, Tag.OTHER: mode & 7}
    return tuple(entry._replace(bits=bits.get(entry.tag, entry.bits)) for entry in acl)


def mode_with(acl: Acl, mode: int) -> int:
    """The mode of an inode that is given a list."""
    bits = {entry.tag: entry.bits for entry in acl if entry.tag not in _NAMED}
    return mode & ~_BITS | bits[Tag.OWNER] << 6 | bits[_group_class(acl)] << 3 | bits[Tag.OTHER]


def inherited(default: Acl, mode: int) -> tuple[Acl, int]:
    """The list and the mode of what is made with *mode* where *default* holds; no umask applies then."""
    group = _group_class(default)
    asked = {Tag.OWNER: mode >> 6, group: mode >> 3, Tag.OTHER: mode}
    acl = tuple(entry._replace(bits=entry.bits & asked.get(entry.tag, 7)) for entry in default)
    return acl, mode_with(acl, mode)


def shown(value: bytes, mode: int) -> bytes:
    """The stored list of an inode as it is with its permission bits; empty stays empty."""
    return encode(with_mode(decode(value), mode)) if value else b""


def for_listing(value: bytes) -> bytes:
    """The list of a directory that shows what a file was, for whoever may read the file."""
    if not value:
        return b""
    return encode(tuple(entry._replace(bits=5 if entry.bits & 4 else 0) for entry in decode(value)))


def mode_without(value: bytes, mode: int) -> int:
    """The mode of an inode where its list counts for nothing: it allows nobody more than with it."""
    if not value:
        return mode
    acl = with_mode(decode(value), mode)
    least = 7
    for entry in acl:
        if entry.tag not in (Tag.OWNER, Tag.OTHER):  # named or not: who had an entry is in another class now
            least &= entry.bits
    return mode & ~0o77 | least << 3 | (mode & least)


def allows(acl: Acl, wanted: int, uid: int, groups: Collection[int], owner: int, group: int) -> bool:
    """Whether somebody who is not root has the *wanted* bits on an inode of that owner and group."""
    mask = next((entry.bits for entry in acl if entry.tag is Tag.MASK), 7)
    in_group = False
    for tag, who, bits in acl:  # the first that fits decides, but of groups any that allows it
        match tag:
            case Tag.OWNER if uid == owner:
                return bits & wanted == wanted
            case Tag.USER if uid == who:
                return bits & mask & wanted == wanted
            case Tag.OWNING_GROUP | Tag.GROUP if (group if tag is Tag.OWNING_GROUP else who) in groups:
                if bits & mask & wanted == wanted:
                    return True
                in_group = True
            case Tag.OTHER:  # the last one
                return not in_group and bits & wanted == wanted
    raise AssertionError("every list ends with all others")
