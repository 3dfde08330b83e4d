"""Access control lists: their stored form, their rules (acl(5)), and what they may never allow."""

from __future__ import annotations

import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs import acl
from vfs.acl import Acl, Entry, Tag
from vfs.errors import InvalidName

OWNER, GROUP = 1000, 2000
BITS = st.integers(0, 7)
IDS = st.integers(1000, 1003)
MODES = st.integers(0, 0o7777).map(lambda bits: stat.S_IFREG | bits)


@st.composite
def acls(draw: st.DrawFn) -> Acl:
    """Any list that can be stored."""
    named = {
        (tag, who): draw(BITS)
        for tag, who in draw(st.lists(st.tuples(st.sampled_from([Tag.USER, Tag.GROUP]), IDS), max_size=4))
    }
    entries = [Entry(tag, who, bits) for (tag, who), bits in named.items()]
    entries += [Entry(tag, acl._ANY, draw(BITS)) for tag in (Tag.OWNER, Tag.OWNING_GROUP, Tag.OTHER)]
    if entries[3:] or draw(st.booleans()):
        entries.append(Entry(Tag.MASK, acl._ANY, draw(BITS)))
    return tuple(sorted(entries))


def raw(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


PLAIN = ((1, 6, 0), (4, 4, 0), (0x20, 0, 0))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0",
        raw(),
        raw(*PLAIN, version=1),
        raw(*PLAIN)[:-1],
        raw(*PLAIN[1:]),
        raw(*PLAIN[:2]),
        raw(*PLAIN, PLAIN[0]),
        raw(*PLAIN, (2, 6, 5)),
        raw(*PLAIN, (0x10, 6, 0), (0x10, 6, 0)),
        raw(*PLAIN, (0x10, 6, 0), (2, 6, 5), (2, 4, 5)),
        raw(*PLAIN, (0x40, 6, 0)),
        raw(*PLAIN[:2], (0x20, 8, 0)),
    ],
)
def test_what_is_no_list(value: bytes) -> None:
    with pytest.raises(InvalidName):
        acl.decode(value)


@given(acls())
def test_stored_and_read_again(entries: Acl) -> None:
    again = acl.decode(acl.encode(entries))
    assert acl.encode(again) == acl.encode(entries)
    assert [entry[:1] + entry[2:] for entry in again] == [entry[:1] + entry[2:] for entry in entries]


def test_the_stored_form_is_the_kernels() -> None:
    """As setfacl -m u:1001:r sets it on a file of mode 0644."""
    value = bytes.fromhex("0200000001000600ffffffff02000400e903000004000400ffffffff10000400ffffffff20000400ffffffff")
    entries = acl.decode(value)
    assert [(entry.tag, entry.bits) for entry in entries] == [
        (Tag.OWNER, 6),
        (Tag.USER, 4),
        (Tag.OWNING_GROUP, 4),
        (Tag.MASK, 4),
        (Tag.OTHER, 4),
    ]
    assert acl.encode(entries) == value


@given(acls(), MODES)
def test_the_mode_is_the_truth(entries: Acl, mode: int) -> None:
    stepped = acl.with_mode(entries, mode)
    assert acl.mode_with(stepped, 0o7000) == 0o7000 | mode & 0o777
    assert acl.with_mode(stepped, mode) == stepped
    assert [entry for entry in stepped if entry.tag in (Tag.USER, Tag.GROUP)] == [
        entry for entry in entries if entry.tag in (Tag.USER, Tag.GROUP)
    ]
    assert acl.shown(acl.encode(entries), mode) == acl.encode(stepped)


@given(acls(), MODES)
def test_what_is_inherited_is_no_more_than_was_asked_for(default: Acl, mode: int) -> None:
    access, made = acl.inherited(default, mode)
    assert made & ~mode == 0
    assert made & ~0o777 == mode & ~0o777
    assert acl.mode_with(access, made) == made
    assert made & ~acl.mode_with(default, mode) == 0


@given(acls(), st.integers(1, 7), IDS, st.sets(IDS | st.just(GROUP)))
def test_who_is_allowed(entries: Acl, wanted: int, uid: int, groups: set[int]) -> None:
    """Against the algorithm of acl(5), in its words."""
    mask = next((entry.bits for entry in entries if entry.tag is Tag.MASK), 7)

    def bits(tag: Tag, who: int | None = None) -> list[int]:
        return [entry.bits for entry in entries if entry.tag is tag and who in (None, entry.id)]

    in_groups = [bits(Tag.OWNING_GROUP)[0]] if GROUP in groups else []
    in_groups += [entry.bits for entry in entries if entry.tag is Tag.GROUP and entry.id in groups]
    if uid == OWNER:
        expected = bits(Tag.OWNER)[0] & wanted == wanted
    elif bits(Tag.USER, uid):
        expected = bits(Tag.USER, uid)[0] & mask & wanted == wanted
    elif in_groups:
        expected = any(found & mask & wanted == wanted for found in in_groups)
    else:
        expected = bits(Tag.OTHER)[0] & wanted == wanted
    assert acl.allows(entries, wanted, uid, groups, OWNER, GROUP) == expected


@given(acls(), MODES, st.integers(1, 7), IDS, st.sets(IDS | st.just(GROUP)))
def test_without_its_list_nobody_may_more(entries: Acl, mode: int, wanted: int, uid: int, groups: set[int]) -> None:
    strict = acl.mode_without(acl.encode(entries), mode)
    assert strict & ~0o77 == mode & ~0o77
    shift = 6 if uid == OWNER else 3 if GROUP in groups else 0
    if strict >> shift & wanted == wanted:
        assert acl.allows(acl.with_mode(entries, mode), wanted, uid, groups, OWNER, GROUP)


def test_an_inode_without_a_list() -> None:
    assert acl.shown(b"", 0o644) == acl.for_listing(b"") == b""
    assert acl.mode_without(b"", 0o644) == 0o644


@given(acls())
def test_who_may_list_the_versions_is_who_may_read(entries: Acl) -> None:
    found = acl.decode(acl.for_listing(acl.encode(entries)))
    assert [entry.bits for entry in found] == [5 if entry.bits & 4 else 0 for entry in entries]


def listed(owner: int, user: int, group: int, mask: int, other: int) -> Acl:
    """A list with one entry for user 7."""
    return (
        Entry(Tag.OWNER, 0, owner),
        Entry(Tag.USER, 7, user),
        Entry(Tag.OWNING_GROUP, 0, group),
        Entry(Tag.MASK, 0, mask),
        Entry(Tag.OTHER, 0, other),
    )


@pytest.mark.parametrize("user", range(8))
@pytest.mark.parametrize("mask", range(8))
def test_the_mask_bounds_users_and_groups_and_nobody_else(user: int, mask: int) -> None:
    """Every combination: few of those that are drawn at random have a named user who asks."""
    for wanted in range(1, 8):
        for others in (0, 7):
            entries = listed(7, user, user, mask, others)
            assert acl.allows(entries, wanted, 7, (), 1, 1) == (user & mask & wanted == wanted), "by name"
            assert acl.allows(entries, wanted, 8, (1,), 1, 1) == (user & mask & wanted == wanted), "by group"
            assert acl.allows(entries, wanted, 1, (), 1, 1), "the owner"
            assert acl.allows(entries, wanted, 8, (), 1, 1) == (others == 7)


@pytest.mark.parametrize("user", range(8))
@pytest.mark.parametrize("group", range(8))
def test_without_its_list_who_had_an_entry_may_no_more_than_with_it(user: int, group: int) -> None:
    """He is one of all others then, or in the group."""
    for mask in range(8):
        for other in range(8):
            value, mode = acl.encode(listed(7, user, group, mask, other)), 0o700 | mask << 3 | other
            strict = acl.mode_without(value, mode)
            assert strict & 0o7700 == mode & 0o7700
            assert strict & 7 & ~(user & mask) == 0, "user 7, as one of all others"
            assert strict >> 3 & 7 & ~(user & group & mask) == 0, "user 7 and all the group, as the group"
            assert strict & 7 & ~other == 0
