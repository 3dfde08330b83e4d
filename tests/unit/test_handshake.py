"""The reply to INIT: which of its flags are changed."""

from __future__ import annotations

import struct

import pytest

from vfs.fuse.handshake import AUTO_INVAL_DATA, CACHE_SYMLINKS, HANDLE_KILLPRIV_V2, altered

BIG_WRITES = 1 << 5


def request(flags: int) -> bytes:
    return struct.pack("=40x4I12x", 7, 45, 1 << 20, flags)


def reply(flags: int) -> bytes:
    return struct.pack("=16x4I", 7, 38, 1 << 20, flags) + b"the rest"


@pytest.mark.parametrize(
    ("offered", "answered", "told"),
    [
        (-1 & 0xFFFFFFFF, BIG_WRITES, BIG_WRITES | CACHE_SYMLINKS | HANDLE_KILLPRIV_V2),
        (CACHE_SYMLINKS, BIG_WRITES, BIG_WRITES | CACHE_SYMLINKS),
        (0, BIG_WRITES, BIG_WRITES),
        (AUTO_INVAL_DATA, BIG_WRITES | AUTO_INVAL_DATA, BIG_WRITES),
    ],
)
def test_only_what_the_kernel_offers_is_asked_for(offered: int, answered: int, told: int) -> None:
    assert altered(request(offered), reply(answered)) == reply(told)


def test_a_refusal_is_passed_on() -> None:
    refusal = struct.pack("=IiQ", 16, -71, 2)
    assert altered(request(0), refusal) == refusal
