"""The rules of a lifecycle: what becomes of the versions of a key, and of uploads. Pure; times in µs since 1970.

    action                         of                               when
    Expiration Days                the current version              so many days after it was made
    Expiration Date                the current version              from that midnight on
    ExpiredObjectDeleteMarker      a delete marker                  it is all that is left of its key
    NoncurrentVersionExpiration    noncurrent versions, markers     so many days after the next newer one was made,
                                                                    beyond the newest so many (NewerNoncurrentVersions;
                                                                    without days, whatever their age)
    AbortIncompleteMultipartUpload uploads                          so many days after they began

A day is over at the first midnight UTC after it: what was made at 10:00 with Days = 1 expires at 0:00 of the day after
the next. With a day of another length (a setting for tests), there is no rounding. The first action that is due is
taken; what follows from it is looked at the next time. Nothing here knows of locks: what is locked is passed over by
who carries it out. Source: Amazon S3 User Guide, "Lifecycle configuration elements".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vfs.errors import InvalidRule
from vfs.model import SEQ_MAX, Filter, LifecycleRule, Seq, Upload
from vfs.names import OBJECT_KEY_BYTES_MAX

DAY_S = 86_400
DAY_US = DAY_S * 1_000_000
RULES_MAX = 1000
ID_CHARS_MAX = 255
DAYS_MAX = 36_500
NEWER_MAX = 1_000_000_000
TAGS_MAX = 100
TAG_KEY_CHARS_MAX = 128
TAG_VALUE_CHARS_MAX = 256
SIZE_MAX = (1 << 63) - 1
FORMS = ("", "Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan", "And", "Filter")


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


def check(rules: Sequence[LifecycleRule]) -> None:
    """Raise InvalidRule unless a bucket may have these rules."""
    if len(rules) > RULES_MAX:
        raise InvalidRule(f"a lifecycle has at most {RULES_MAX} rules")
    if len({rule.id for rule in rules}) != len(rules):
        raise InvalidRule("Rule ID must be unique. Found same ID for more than one rule")
    for rule in rules:
        _check_rule(rule)


def _check_rule(rule: LifecycleRule) -> None:
    if not 0 < len(rule.id) <= ID_CHARS_MAX:
        raise InvalidRule(f"the ID of a rule has 1 to {ID_CHARS_MAX} characters")
    for days in (rule.expire_days, rule.noncurrent_days, rule.abort_days):
        if days is not None and not 0 < days <= DAYS_MAX:
            raise InvalidRule(f"days are a positive integer, at most {DAYS_MAX}")
    if not 0 <= rule.noncurrent_newer <= NEWER_MAX:
        raise InvalidRule(f"NewerNoncurrentVersions is a positive integer, at most {NEWER_MAX}")
    if rule.expire_date is not None and (rule.expire_date % DAY_US or not 0 <= rule.expire_date <= SEQ_MAX):
        raise InvalidRule("'Date' must be at midnight GMT, from 1970 to 9999")
    _check_filter(rule)
    if sum((rule.expire_days is not None, rule.expire_date is not None, rule.expire_marker)) > 1:
        raise InvalidRule("an expiration has days, a date, or ExpiredObjectDeleteMarker")
    says = (rule.expire_days, rule.expire_date, rule.noncurrent_days, rule.abort_days)
    if all(word is None for word in says) and not rule.expire_marker and not rule.noncurrent_newer:
        raise InvalidRule(f"the rule {rule.id} does nothing")


def _check_filter(rule: LifecycleRule) -> None:
    found = rule.filter
    if rule.form not in FORMS:
        raise InvalidRule(f"a filter has one of {', '.join(FORMS[1:])}")
    if len(found.prefix) > OBJECT_KEY_BYTES_MAX:
        raise InvalidRule(f"a prefix has at most {OBJECT_KEY_BYTES_MAX} bytes")
    if len(found.tags) > TAGS_MAX:
        raise InvalidRule(f"a rule names at most {TAGS_MAX} tags")
    for key, value in found.tags.items():
        if not 0 < len(key) <= TAG_KEY_CHARS_MAX or len(value) > TAG_VALUE_CHARS_MAX:
            raise InvalidRule(f"a tag has 1 to {TAG_KEY_CHARS_MAX} characters, its value up to {TAG_VALUE_CHARS_MAX}")
    for size in (found.size_above, found.size_below):
        if size is not None and not 0 <= size <= SIZE_MAX:
            raise InvalidRule("a size is a number of bytes")


def due(days: int, since: int, day_s: float = DAY_S) -> int:
    """The moment at which *days* after *since* are over."""
    if day_s != DAY_S:
        return since + int(days * day_s * 1_000_000)
    return -(-(since + days * DAY_US) // DAY_US) * DAY_US


def matches(rule: Filter, key: bytes, size: int, tags: dict[str, str]) -> bool:
    """Whether a rule with that filter is for an object."""
    if not key.startswith(rule.prefix) or any(tags.get(name) != value for name, value in rule.tags.items()):
        return False
    if rule.size_above is not None and size <= rule.size_above:
        return False
    return rule.size_below is None or size < rule.size_below


def actions(
    rules: Sequence[LifecycleRule],
    key: bytes,
    chain: Sequence[Entry],
    now: int,
    day_s: float = DAY_S,
    *,
    before: int = 0,
    newer: Seq | None = None,
) -> list[Expire | Purge]:
    """What is due for a key whose versions are *chain*, newest first, the first one being current. The last ones first,
    so that places stay what they are while it is carried out.

    Of a long chain a piece may be given at a time: *before* versions are newer than the piece, the last of them made at
    *newer*. The first piece has all of a chain that has one version.
    """
    found: list[Expire | Purge] = []
    applying = [rule for rule in rules if rule.enabled and key.startswith(rule.filter.prefix)]
    for at in range(len(chain) - 1, -1, -1):
        since = chain[at - 1].made if at else newer
        if since is None:
            continue  # the current one
        for rule in applying:
            if _noncurrent_is_due(rule, key, chain[at], before + at, since, now, day_s):
                found.append(Purge(rule.id, at))
                break
    if chain and newer is None:
        for rule in applying:
            action = _of_current(rule, key, chain, now, day_s)
            if action is not None:
                found.append(action)
                break
    return found


def _noncurrent_is_due(
    rule: LifecycleRule, key: bytes, entry: Entry, newer: int, since: int, now: int, day_s: float
) -> bool:
    """Noncurrent since the next newer one was made; and not among the newest noncurrent ones that are kept."""
    if not rule.purges or newer <= rule.noncurrent_newer:
        return False
    if not matches(rule.filter, key, entry.size, entry.tags):
        return False
    return rule.noncurrent_days is None or due(rule.noncurrent_days, since, day_s) <= now


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
