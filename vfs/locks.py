"""Object lock: whether a version may go, and how its lock may change. Pure rules; times in µs since 1970.

    lock                         purge            shorten, remove     another mode
    none, or until has passed    yes              yes                 yes
    GOVERNANCE                   with bypass      with bypass         with bypass
    COMPLIANCE                   no               no                  no
    legal hold (beside a lock)   no               (independent of retention)

Delete markers are never locked, and a delete that only stacks one removes nothing. Source: Amazon S3 User Guide,
"Locking objects with Object Lock".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vfs.errors import InvalidState, Locked, Unstorable
from vfs.model import SEQ_MAX, Bucket, LockMode, ObjectInfo, ObjectLock, Retention, Seq, State
from vfs.names import to_datetime, to_us

DAYS_MAX = 36_500
YEARS_MAX = 100


def check_bucket(state: State, lock: ObjectLock | None) -> None:
    """Raise InvalidState if a bucket of that state cannot have object lock, or nobody can have such a one."""
    if lock is None:
        return
    if state is not State.ENABLED:
        raise InvalidState("a bucket with object lock is Enabled, and stays so")
    if not 0 <= lock.days <= DAYS_MAX or not 0 <= lock.years <= YEARS_MAX or (lock.days and lock.years):
        raise InvalidState(f"new versions are locked for at most {DAYS_MAX} days, or {YEARS_MAX} years")
    if (lock.mode is None) != (not lock.days and not lock.years):
        raise InvalidState("a default retention has a mode, and days or years")


def check_moment(retention: Retention | None) -> None:
    """Raise Unstorable for a retention that ends outside of what a date can say."""
    if retention is not None and not 0 <= retention.until <= SEQ_MAX:
        raise Unstorable("a retention ends in the year 9999 at the latest")


def check_code(bucket: Bucket, *, code: bool = False) -> None:
    """Raise Locked if MFA delete asks for the code of its device, and nobody has shown it: to remove a version for
    good, and to change the versioning state.
    """
    if bucket.mfa_delete and not code:
        raise Locked(
            "the bucket has MFA delete: it takes the code of its device, which only a client of S3 can give", None
        )


def check_purge(info: ObjectInfo | None, now: int, *, bypass: bool = False) -> None:
    """Raise Locked if a version must not be removed for good."""
    if info is None:
        return
    if info.legal_hold:
        raise Locked("the version is under legal hold", None)
    _check_weaken(info.retention, now, bypass=bypass)


def check_retention(old: Retention | None, new: Retention | None, now: int, *, bypass: bool = False) -> None:
    """Raise Locked if a version's retention must not become *new*."""
    if old is None or (new is not None and new.mode is old.mode and new.until >= old.until):
        return
    _check_weaken(old, now, bypass=bypass)


def _check_weaken(retention: Retention | None, now: int, *, bypass: bool) -> None:
    if retention is None or retention.until <= now:
        return
    if retention.mode is LockMode.COMPLIANCE or not bypass:
        mode = retention.mode.name.lower()
        when = f"{to_datetime(retention.until):%Y-%m-%d %H:%M:%S}"
        raise Locked(f"the version is locked until {when} UTC ({mode})", retention.until)


def default_retention(lock: ObjectLock | None, now: int) -> Retention | None:
    """The retention of a version that is made now, if nobody says which."""
    if lock is None or lock.mode is None:
        return None
    moment = to_datetime(now)
    try:
        try:
            until = moment.replace(year=moment.year + lock.years) + timedelta(days=lock.days)
        except ValueError:  # the 29th of February
            until = moment.replace(year=moment.year + lock.years, day=28) + timedelta(days=lock.days)
    except (ValueError, OverflowError):
        until = datetime.max.replace(tzinfo=UTC)
    return Retention(lock.mode, Seq(to_us(until)))
