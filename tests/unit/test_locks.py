"""Object lock, as its table says."""

from __future__ import annotations

import pytest

from vfs.errors import Locked
from vfs.locks import check_purge, check_retention, default_retention
from vfs.model import LockMode, ObjectInfo, ObjectLock, Retention, Seq
from vfs.names import format_version_id

G, C = LockMode.GOVERNANCE, LockMode.COMPLIANCE
NOW = 1_800_000_000_000_000  # 2027-01-15 08:00
LATER, PAST = Seq(NOW + 1), Seq(NOW)


@pytest.mark.parametrize(
    ("info", "bypass", "locked"),
    [
        (None, False, False),
        (ObjectInfo(), False, False),
        (ObjectInfo(retention=Retention(G, LATER)), False, True),
        (ObjectInfo(retention=Retention(G, LATER)), True, False),
        (ObjectInfo(retention=Retention(G, PAST)), False, False),
        (ObjectInfo(retention=Retention(C, LATER)), False, True),
        (ObjectInfo(retention=Retention(C, LATER)), True, True),
        (ObjectInfo(retention=Retention(C, PAST)), False, False),
        (ObjectInfo(legal_hold=True), True, True),
        (ObjectInfo(retention=Retention(G, PAST), legal_hold=True), True, True),
    ],
)
def test_purging(info: ObjectInfo | None, bypass: bool, locked: bool) -> None:
    if not locked:
        check_purge(info, NOW, bypass=bypass)
        return
    with pytest.raises(Locked) as error:
        check_purge(info, NOW, bypass=bypass)
    assert info is not None
    assert error.value.until == (None if info.legal_hold else LATER)


@pytest.mark.parametrize(
    ("old", "new", "bypass", "allowed"),
    [
        (None, Retention(C, LATER), False, True),
        (Retention(G, LATER), Retention(G, Seq(LATER + 1)), False, True),
        (Retention(G, Seq(LATER + 1)), Retention(G, LATER), False, False),
        (Retention(G, Seq(LATER + 1)), Retention(G, LATER), True, True),
        (Retention(G, LATER), None, False, False),
        (Retention(G, LATER), None, True, True),
        (Retention(G, LATER), Retention(C, LATER), False, False),
        (Retention(G, LATER), Retention(C, LATER), True, True),
        (Retention(C, LATER), Retention(C, Seq(LATER + 1)), False, True),
        (Retention(C, Seq(LATER + 1)), Retention(C, LATER), True, False),
        (Retention(C, LATER), Retention(G, Seq(LATER + 1)), True, False),
        (Retention(C, LATER), None, True, False),
        (Retention(C, PAST), None, False, True),
    ],
)
def test_changing_a_lock(old: Retention | None, new: Retention | None, bypass: bool, allowed: bool) -> None:
    if allowed:
        check_retention(old, new, NOW, bypass=bypass)
    else:
        with pytest.raises(Locked):
            check_retention(old, new, NOW, bypass=bypass)


@pytest.mark.parametrize(
    ("lock", "until"),
    [
        (ObjectLock(G, days=1), "20270116T080000.000000Z"),
        (ObjectLock(C, years=2), "20290115T080000.000000Z"),
        (ObjectLock(G, years=100_000), "99991231T235959.999999Z"),
    ],
)
def test_the_default_of_a_bucket(lock: ObjectLock, until: str) -> None:
    found = default_retention(lock, NOW)
    assert found is not None
    assert (found.mode, format_version_id(found.until)) == (lock.mode, until)


def test_the_29th_of_february() -> None:
    leap_day = 1_835_395_200_000_000  # 2028-02-29
    found = default_retention(ObjectLock(G, years=1), leap_day)
    assert found is not None
    assert format_version_id(found.until) == "20290228T000000.000000Z"


def test_no_default() -> None:
    assert default_retention(None, NOW) is None
    assert default_retention(ObjectLock(), NOW) is None
