"""Names and version ids: what is legal and how each is written. Pure.

Owns: bucket names (S3's rules), file names, version ids as text, the sort key of a directory entry.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from vfs.errors import InvalidName, NameTooLong

VERSIONS = b".versions"
SNAPSHOTS = b".snapshots"
RESERVED = frozenset((VERSIONS, SNAPSHOTS))
NAME_BYTES_MAX = 255
SEGMENT_BYTES_MAX = 502  # of an object's key: with a slash and a number, a key of LMDB
OBJECT_KEY_BYTES_MAX = 1024  # S3's
NULL_ID = "null"

_BUCKET = re.compile(rb"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_IP_ADDRESS = re.compile(rb"\d{1,3}(\.\d{1,3}){3}\Z")
_VERSION_ID = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\.(\d{6})Z\Z", re.ASCII)
_GMT = re.compile(r"@GMT-(\d{4})\.(\d\d)\.(\d\d)-(\d\d)\.(\d\d)\.(\d\d)\Z", re.ASCII)
_FOR_PEOPLE = re.compile(r"[-: ]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def check_bucket_name(name: bytes) -> None:
    """Raise InvalidName unless *name* follows S3's bucket naming rules (3 to 63 of a-z 0-9 . -)."""
    if not _BUCKET.match(name) or b".." in name or b".-" in name or b"-." in name or _IP_ADDRESS.match(name):
        raise InvalidName(
            f"{show(name)!r} is no bucket name: 3 to 63 of a-z 0-9 . -, letter or digit at both ends, "
            "no IP address (S3's rules)"
        )


def check_name(name: bytes) -> None:
    """Raise InvalidName unless *name* can be made as a directory entry."""
    if name in RESERVED:
        raise InvalidName(f"{show(name)} is reserved for history")
    if len(name) > NAME_BYTES_MAX:
        raise NameTooLong(f"{show(name)!r} is longer than {NAME_BYTES_MAX} bytes")
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise InvalidName(f"{show(name)!r} is no file name: 1 to {NAME_BYTES_MAX} bytes without / and NUL")


def is_shown(name: bytes) -> bool:
    """Whether a mount can show a name; what cannot be is hidden there: S3 has keys of any segments."""
    return 0 < len(name) <= NAME_BYTES_MAX and name not in (b".", b"..") and b"\0" not in name


def split_key(key: bytes) -> tuple[list[bytes], bytes]:
    """The directories of an object's key, and the name in the last one. Either may be empty, as in ``a//b`` and ``a/``.

    Raises InvalidName, NameTooLong for what can be no key of an object.
    """
    if not key:
        raise InvalidName("the empty key is none")
    if len(key) > OBJECT_KEY_BYTES_MAX:
        raise NameTooLong(f"a key has at most {OBJECT_KEY_BYTES_MAX} bytes")
    *directories, name = key.split(b"/")
    for segment in (*directories, name):
        if segment in RESERVED:
            raise InvalidName(f"{show(segment)} is reserved for history")
        if len(segment) > SEGMENT_BYTES_MAX:
            raise NameTooLong(f"between two / a key has at most {SEGMENT_BYTES_MAX} bytes")
    return directories, name


def directory_key(name: bytes) -> bytes:
    """The sort key of a directory's entry: a trailing ``/``, so that a walk of the tree gives S3's key order."""
    return name + b"/"


def show(name: bytes) -> str:
    """*name* as text for messages, on one line; what is no UTF-8 or cannot be printed becomes escapes."""
    text = name.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def to_datetime(us: int) -> datetime:
    """A moment in µs since 1970. What the calendar does not have, and may be stored, becomes its first or last one."""
    return _EPOCH + timedelta(microseconds=min(max(us, _FIRST), _LAST))


def to_us(moment: datetime) -> int:
    """The other way round, to the microsecond."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def format_version_id(seq: int, *, null: bool = False) -> str:
    """The id of the version with sequence *seq* (µs since 1970, UTC): ``20261120T151617.000001Z`` or ``null``."""
    if null:
        return NULL_ID
    moment = to_datetime(seq)
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond:06d}Z"


def format_gmt(moment: int) -> str:
    """A moment (µs since 1970) as Samba's shadow copies are named: ``@GMT-2026.11.20-15.16.00``."""
    return f"{to_datetime(moment):@GMT-%Y.%m.%d-%H.%M.%S}"


def parse_moment(text: str) -> int:
    """A moment in µs since 1970 (or before): a version id, ``@GMT-…``, or any ISO 8601 date and time.

    What says no zone is UTC if it is compact, as version ids are, and the local time of this process if it has dashes,
    colons or spaces. Raises InvalidName, also for a local time that never was, or was twice: clocks are put forward and
    back.
    """
    try:
        if match := _GMT.match(text):
            year, month, day, hour, minute, second = map(int, match.groups())
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = _local(moment) if _FOR_PEOPLE.search(text) else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):  # the last two of the C library, for years that it does not know
        raise InvalidName(f"{text!r} is no moment: it looks like 20261120T1516 or 2026-11-20 15:16") from None
    return to_us(moment)


def _local(written: datetime) -> datetime:
    """The moment at which the local clocks show a time. Raises ValueError if there is not exactly one."""
    either = {written.replace(fold=fold).astimezone() for fold in (0, 1)}
    (moment,) = [one for one in either if one.replace(tzinfo=None, fold=0) == written]
    return moment


def parse_version_id(text: str) -> int | None:
    """The sequence (µs since 1970) that *text* names, None for ``null``.

    Raises InvalidName for anything that format_version_id cannot have written.
    """
    if text == NULL_ID:
        return None
    match = _VERSION_ID.match(text)
    if match:
        year, month, day, hour, minute, second, micro = map(int, match.groups())
        try:
            moment = datetime(year, month, day, hour, minute, second, micro, tzinfo=UTC)
        except ValueError:
            pass
        else:
            seq = to_us(moment)
            if seq > 0:
                return seq
    raise InvalidName(f"{text!r} is no version id: it looks like 20261120T151617.000001Z, or null")
