"""One request while it is answered: what the handlers share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from email.utils import format_datetime
from urllib.parse import quote

from vfs.core import Changed
from vfs.errors import NoSuchBucket
from vfs.model import NOBODY_UID, Bucket, Ino, Writer
from vfs.names import show, to_datetime
from vfs.s3.body import Body
from vfs.s3.dialects import Dialect
from vfs.s3.errors import S3Error
from vfs.s3.keys import AccessKey, Device, Keys, Right
from vfs.s3.request import Request, natural, text
from vfs.s3.signed import text_of
from vfs.settings import Settings
from vfs.store import Store

log = logging.getLogger("vfs.s3")

STORAGE_CLASS = "STANDARD"


@dataclass(slots=True)
class Call:
    """request: its headers in the words of S3. now: µs since 1970. changed: what the handler changed, for whoever
    caches live names. signature: the request's own.
    """

    store: Store
    keys: Keys
    settings: Settings
    request: Request
    dialect: Dialect
    who: AccessKey
    body: Body
    now: int
    signature: str
    changed: list[Changed] = field(default_factory=list)
    _shown: str = ""  # the device whose code the request carries

    # -- what it is about -------------------------------------------------------------------------------------

    @property
    def name(self) -> bytes:
        """Of the bucket."""
        assert self.request.bucket is not None, "the route has one"
        return self.request.bucket

    @property
    def key(self) -> bytes:
        assert self.request.key is not None, "the route has one"
        return self.request.key

    @property
    def writer(self) -> Writer:
        return Writer(NOBODY_UID, 0, f"s3:{self.who.id}")

    def find(self, name: bytes, *, write: bool) -> tuple[Ino, Bucket]:
        """A bucket that the caller may use. Raises NoSuchBucket, AccessDenied: to a key that names its buckets also for
        what is not there, so that it learns nothing of others.
        """
        if not is_named(self.who, name):
            raise denied()
        try:
            ino = self.store.find_bucket(name)
        except NoSuchBucket:
            raise S3Error(
                "NoSuchBucket", "The specified bucket does not exist", fields={"BucketName": show(name)}
            ) from None
        bucket = self.store.bucket(ino)
        self.check_right(bucket, write=write)
        return ino, bucket

    def check_still(self, ino: Ino, *, write: bool = True) -> Bucket:
        """After an await: the bucket that was found is still there, and the caller may still use it. What follows must
        be done without another await. Returns it as it is now. Raises NoSuchBucket, AccessDenied.
        """
        found, bucket = self.find(self.name, write=write)
        if found != ino:
            raise S3Error("NoSuchBucket", "The specified bucket was deleted", fields={"BucketName": show(self.name)})
        return bucket

    def check_right(self, bucket: Bucket, *, write: bool) -> None:
        """Raise AccessDenied unless the caller may read, or write to, a bucket."""
        self.check_key()
        if not is_allowed(self.who, bucket):
            raise denied()
        if write:
            self.require(Right.WRITE)

    def check_key(self) -> None:
        """Raise AccessDenied if the caller's key was revoked, or changed, while the body came in."""
        if self.keys.find(self.who.id) != self.who:
            raise denied()

    def require(self, right: Right) -> None:
        """Raise AccessDenied unless the caller has a right."""
        if right not in self.who.rights:
            raise S3Error("AccessDenied", f"this key has no right to {right.value}; see `vfs s3 key rights`")

    @property
    def bypasses(self) -> bool:
        """Whether the caller wants to bypass governance, and may."""
        wanted = (self.request.amz("bypass-governance-retention") or "").lower() == "true"
        return wanted and Right.BYPASS in self.who.rights

    def require_code(self, serial: str) -> Device:
        """Raise AccessDenied unless the request carries the code that a device shows now. A request carries one once:
        who repeats what another sent is refused. Returns the device.
        """
        given, _, code = (self.request.amz("mfa") or "").rpartition(" ")
        device = self.keys.device(given)
        refusal = S3Error("AccessDenied", "MFA Authentication must be used for this request")
        if device is None or given != serial or not device.takes(code, self.now / 1e6):
            raise refusal
        if self._shown != serial and not self.keys.is_first(self.signature, self.now / 1e6):
            raise refusal
        self._shown = serial
        return device

    # -- parameters -------------------------------------------------------------------------------------------

    def number(self, name: str, default: int, most: int) -> int:
        """A parameter that is a number from 0 on; at most *most*. Raises S3Error."""
        raw = self.request.parameter(name)
        if raw is None or raw == "":
            return default
        found = natural(raw)
        if found is None:
            raise S3Error("InvalidArgument", f"{name} is a number", fields={"ArgumentName": name, "ArgumentValue": raw})
        return min(found, most)

    @property
    def encodes(self) -> bool:
        """Whether keys are percent-encoded in the answer."""
        wanted = self.request.parameter("encoding-type")
        if wanted not in (None, "", "url"):
            raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")
        return wanted == "url"

    def shown(self, raw: bytes) -> str:
        """A key or prefix as the answer has it."""
        return quote(raw, safe="/~") if self.encodes else text(raw)

    # -- pieces of answers ------------------------------------------------------------------------------------

    def moment(self, us: int) -> str:
        """In XML."""
        return self.dialect.moment(us)

    def owner(self, owner_id: str) -> dict[str, str]:
        """An owner in XML; the caller, where nobody else is known."""
        found = owner_id or self.who.owner_id
        return {"ID": found, "DisplayName": self.keys.owner_name(found)}


def is_allowed(who: AccessKey, bucket: Bucket) -> bool:
    """Whether an access key may use a bucket at all: it is named by the key, or is its owner's or nobody's."""
    return is_named(who, bucket.name) and (who.buckets is not None or bucket.owner in ("", who.owner_id))


def is_named(who: AccessKey, name: bytes) -> bool:
    """Whether an access key may know of a bucket of that name: of each, unless it names its own."""
    return who.buckets is None or text_of(name) in who.buckets


def denied() -> S3Error:
    """The same whatever it was: a key that was revoked, somebody else's bucket, or one that there is not."""
    return S3Error("AccessDenied", "Access Denied")


def http_date(us: int) -> str:
    """A moment in a header."""
    return format_datetime(to_datetime(us).replace(microsecond=0), usegmt=True)


def quoted(etag: str) -> str:
    """An ETag as headers and XML have it."""
    return f'"{etag}"'
