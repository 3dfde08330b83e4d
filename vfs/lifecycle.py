"""The rules of a lifecycle: what becomes of the versions of a key, and of uploads. Pure; times in µs since 1970.

    action                         of                               when
    Expiration Days                the current version              so many days after it was made
    Expiration Date                the current version              from that midnight on
    ExpiredObjectDeleteMarker      a delete marker                  it is all that is left of its key
    NoncurrentVersionExpiration    noncurrent versions, markers     so many days after the next newer one was made,
                                                                    beyond the newest so many (NewerNoncurrentVersions)
    AbortIncompleteMultipartUpload uploads                          so many days after they began

A day is over at the first midnight UTC after it: what was made at 10:00 with Days = 1 expires at 0:00 of the day after
the next. With a day of another length (a setting for tests), there is no rounding. The first action that is due is
taken; what follows from it is looked at the next time. Nothing here knows of locks: what is locked is passed over by
who carries it out. Source: Amazon S3 User Guide, "Lifecycle configuration elements".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vfs.model import Filter, LifecycleRule, Seq, Upload

DAY_S = 86_400


class Entry(NamedTuple):
    """A version of a key as the rules see it, by what its filter may ask."""

    made: Seq
    is_marker: bool
    size: int
    tags: dict[str, str]


class Expire(NamedTuple):
    """The current version expires: as a delete in the bucket's state. rule: its id, for the log."""

    rule: str


class Purge(NamedTuple):
    """A noncurrent version, or a delete marker that is alone, goes for good. at: its place in the chain."""

    rule: str
    at: int


def due(days: int, since: int, day_s: float = DAY_S) -> int:
    """The moment at which *days* after *since* are over."""
    if day_s != DAY_S:
        return since + int(days * day_s * 1_000_000)
    day_us = DAY_S * 1_000_000
    return -(-(since + days * day_us) // day_us) * day_us


def matches(rule: Filter, key: bytes, size: int, tags: dict[str, str]) -> bool:
    """Whether a rule with that filter is for an object."""
    if not key.startswith(rule.prefix) or any(tags.get(name) != value for name, value in rule.tags.items()):
        return False
    if rule.size_above is not None and size <= rule.size_above:
        return False
    return rule.size_below is None or size < rule.size_below


def actions(
    rules: Sequence[LifecycleRule], key: bytes, chain: Sequence[Entry], now: int, day_s: float = DAY_S
) -> list[Expire | Purge]:
    """What is due for a key whose versions are *chain*, newest first, the first one being current. The last ones first,
    so that places stay what they are while it is carried out.
    """
    found: list[Expire | Purge] = []
    applying = [rule for rule in rules if rule.enabled and key.startswith(rule.filter.prefix)]
    for at in range(len(chain) - 1, 0, -1):
        for rule in applying:
            if _noncurrent_is_due(rule, key, chain, at, now, day_s):
                found.append(Purge(rule.id, at))
                break
    if chain:
        for rule in applying:
            action = _of_current(rule, key, chain, now, day_s)
            if action is not None:
                found.append(action)
                break
    return found


def _noncurrent_is_due(
    rule: LifecycleRule, key: bytes, chain: Sequence[Entry], at: int, now: int, day_s: float
) -> bool:
    """Noncurrent since the next newer one was made; and not among the newest noncurrent ones that are kept."""
    entry = chain[at]
    if rule.noncurrent_days is None or at <= rule.noncurrent_newer:
        return False
    if not matches(rule.filter, key, entry.size, entry.tags):
        return False
    return due(rule.noncurrent_days, chain[at - 1].made, day_s) <= now


def _of_current(
    rule: LifecycleRule, key: bytes, chain: Sequence[Entry], now: int, day_s: float
) -> Expire | Purge | None:
    entry = chain[0]
    if entry.is_marker:
        if len(chain) > 1 or rule.filter.tags or rule.filter.size_above is not None:
            return None  # of a marker there are neither tags nor sizes
        by_age = rule.expire_days is not None and due(rule.expire_days, entry.made, day_s) <= now
        return Purge(rule.id, 0) if rule.expire_marker or by_age else None
    if not matches(rule.filter, key, entry.size, entry.tags):
        return None
    if rule.expire_date is not None and rule.expire_date <= now:
        return Expire(rule.id)
    if rule.expire_days is not None and due(rule.expire_days, entry.made, day_s) <= now:
        return Expire(rule.id)
    return None


def aborts(rules: Sequence[LifecycleRule], upload: Upload, now: int, day_s: float = DAY_S) -> str | None:
    """The id of the rule by which an upload is to be given up now."""
    for rule in rules:
        plain = not rule.filter.tags and rule.filter.size_above is None and rule.filter.size_below is None
        if not rule.enabled or rule.abort_days is None or not plain:
            continue
        if upload.key.startswith(rule.filter.prefix) and due(rule.abort_days, upload.initiated, day_s) <= now:
            return rule.id
    return None


def expires(rules: Sequence[LifecycleRule], key: bytes, entry: Entry, day_s: float = DAY_S) -> tuple[int, str] | None:
    """When a current version expires, and by which rule: for `x-amz-expiration`. None: it does not."""
    found = []
    for rule in rules:
        if rule.enabled and not entry.is_marker and matches(rule.filter, key, entry.size, entry.tags):
            if rule.expire_date is not None:
                found.append((rule.expire_date, rule.id))
            elif rule.expire_days is not None:
                found.append((due(rule.expire_days, entry.made, day_s), rule.id))
    return min(found, default=None)
