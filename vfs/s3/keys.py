"""Access keys: who may use the endpoint, and for what. The file ``s3-keys`` in the store's directory, mode 0600.

The daemon reads it again when it has changed, so the command line works beside it. Secrets are never logged.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from enum import Enum

import msgspec
from msgspec import Struct

from vfs.errors import LimitReached, NotAStore, VfsError
from vfs.folder import Folder

FILE = "s3-keys"
FILE_NEW = "s3-keys.new"
KEYS_MAX = 10_000
FILE_BYTES_MAX = 16 << 20
TOTP_STEP_S = 30
TOTP_STEPS_OFF = 1  # a code of the step before or after is taken too
CODE_TAKEN_S = TOTP_STEP_S * (2 * TOTP_STEPS_OFF + 1)  # that a code is taken for
REQUESTS_WITH_CODE_MAX = 10_000  # in CODE_TAKEN_S


class NoSuchAccessKey(VfsError):
    """There is no access key of that id."""


class InvalidRights(VfsError):
    """No key can have just these rights."""


class Right(Enum):
    """What a key may do with the buckets that it may use. Values: as the command line has them."""

    READ = "read"
    WRITE = "write"  # add versions and delete markers, and replace null versions; nothing else goes
    PURGE = "purge"  # remove versions for good, also by a lifecycle, or by no longer keeping them
    HOLD = "hold"  # put and change retentions and legal holds, and take these away
    BYPASS = "bypass"  # bypass governance, in what it may purge or hold


NEW_RIGHTS = frozenset((Right.READ, Right.WRITE))  # of a key that is made without saying more


class AccessKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key with its secret. owner: a name; keys of one owner share their buckets. buckets: names; None: all that its
    owner has, and those that nobody owns. created: ISO 8601. The rest: `rights`; a key that only reads has no other,
    and one from before there was purge and hold has both.
    """

    id: str
    secret: str
    owner: str
    created: str
    write: bool = True
    bypass: bool = False
    buckets: tuple[str, ...] | None = None
    purge: bool = True
    hold: bool = True

    @property
    def rights(self) -> frozenset[Right]:
        """What it may do."""
        if not self.write:
            return frozenset((Right.READ,))
        more = {Right.PURGE: self.purge, Right.HOLD: self.hold, Right.BYPASS: self.bypass}
        return NEW_RIGHTS | {right for right, has in more.items() if has}

    @property
    def words(self) -> list[str]:
        """Its rights as the command line has them."""
        return [right.value for right in Right if right in self.rights]

    def with_rights(self, rights: Iterable[Right]) -> AccessKey:
        """The same with other rights. Raises InvalidRights."""
        wanted = frozenset(rights) | {Right.READ}
        if Right.WRITE not in wanted and len(wanted) > 1:
            raise InvalidRights("purge, hold and bypass are of use only with write")
        flags = {right.value: right in wanted for right in Right if right is not Right.READ}
        return msgspec.structs.replace(self, **flags)

    @property
    def owner_id(self) -> str:
        """The canonical user id of its owner."""
        return owner_id(self.owner)


class Device(Struct, frozen=True, forbid_unknown_fields=True):
    """A device that makes codes for MFA delete (RFC 6238). secret: base32, as authenticators take it."""

    serial: str
    secret: str
    owner: str

    def __post_init__(self) -> None:
        base64.b32decode(self.secret)  # raises ValueError

    def takes(self, code: str, now_s: float) -> bool:
        """Whether it shows that code now, or did a moment ago."""
        step = int(now_s) // TOTP_STEP_S
        steps = range(step - TOTP_STEPS_OFF, step + TOTP_STEPS_OFF + 1)
        return any(hmac.compare_digest(totp(self.secret, at).encode(), code.encode()) for at in steps)


class _Content(Struct, forbid_unknown_fields=True):
    keys: list[AccessKey] = []
    devices: list[Device] = []


def owner_id(name: str) -> str:
    """S3's canonical user id for an owner: 64 hexadecimal digits."""
    return hashlib.sha256(b"vfs owner " + name.encode()).hexdigest()


def totp(secret: str, step: int) -> str:
    """The six digits of a step (RFC 6238 with SHA-1, as all authenticators have it)."""
    digest = hmac.digest(base64.b32decode(secret), struct.pack(">Q", step), "sha1")
    at = digest[-1] & 15
    return f"{(int.from_bytes(digest[at : at + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06}"


class Keys:
    """The keys of a store. Looking one up costs a stat."""

    def __init__(self, root: Folder) -> None:
        self._root = root
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, AccessKey] = {}
        self._devices: dict[str, Device] = {}
        self._owners: dict[str, str] = {}
        self._with_code: dict[str, float] = {}  # signatures of requests, until when their codes are taken

    def is_first(self, signature: str, now_s: float) -> bool:
        """Whether a request that carries the code of a device comes for the first time. Raises LimitReached."""
        self._with_code = {known: until for known, until in self._with_code.items() if until > now_s}
        if signature in self._with_code:
            return False
        if len(self._with_code) >= REQUESTS_WITH_CODE_MAX:
            raise LimitReached("too many requests with the code of a device")
        self._with_code[signature] = now_s + CODE_TAKEN_S
        return True

    def find(self, access_key: str) -> AccessKey | None:
        """The key of an id."""
        self._refresh()
        return self._keys.get(access_key)

    def secret(self, access_key: str) -> str | None:
        """Its secret."""
        found = self.find(access_key)
        return None if found is None else found.secret

    def device(self, serial: str) -> Device | None:
        """The device of a serial number."""
        self._refresh()
        return self._devices.get(serial)

    def owner_name(self, owner: str) -> str:
        """The name of the owner of an id; the id itself if none is known."""
        self._refresh()
        return self._owners.get(owner, owner)

    def _refresh(self) -> None:
        found = self._root.find(FILE)
        stamp = None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp == self._stamp:
            return
        content = _read(self._root)
        self._keys = {key.id: key for key in content.keys}
        self._devices = {device.serial: device for device in content.devices}
        self._owners = {owner_id(key.owner): key.owner for key in content.keys}
        self._stamp = stamp


def every(root: Folder) -> list[AccessKey]:
    """All keys, in the order in which they were made. Raises NotAStore."""
    return _read(root).keys


def create(
    root: Folder,
    *,
    owner: str,
    created: str,
    rights: Iterable[Right] = NEW_RIGHTS,
    buckets: tuple[str, ...] | None = None,
) -> AccessKey:
    """Make a key. Raises InvalidRights, LimitReached, NotAStore, OSError."""
    number = base64.b32encode(secrets.token_bytes(11)).decode()[:17]
    key = AccessKey(f"VFS{number}", secrets.token_urlsafe(30), owner, created, buckets=buckets).with_rights(rights)
    with _changing(root) as content:
        if len(content.keys) >= KEYS_MAX:
            raise LimitReached(f"a store has at most {KEYS_MAX} access keys")
        content.keys.append(key)
    return key


def create_device(root: Folder, *, owner: str) -> Device:
    """Make a device for MFA delete. Raises LimitReached, NotAStore, OSError."""
    serial = f"arn:vfs:mfa::{secrets.token_hex(6)}"
    device = Device(serial, base64.b32encode(secrets.token_bytes(20)).decode(), owner)
    with _changing(root) as content:
        if len(content.devices) >= KEYS_MAX:
            raise LimitReached(f"a store has at most {KEYS_MAX} devices")
        content.devices.append(device)
    return device


def revoke(root: Folder, access_key: str) -> None:
    """Remove a key; its secret is of no use from the next request on. Raises NoSuchAccessKey, NotAStore, OSError."""
    with _changing(root) as content:
        content.keys.remove(_named(content.keys, access_key))


def set_rights(root: Folder, access_key: str, rights: Iterable[Right]) -> AccessKey:
    """Give a key other rights, from the next request on. Raises InvalidRights, NoSuchAccessKey, NotAStore, OSError."""
    with _changing(root) as content:
        old = _named(content.keys, access_key)
        new = content.keys[content.keys.index(old)] = old.with_rights(rights)
    return new


def find(root: Folder, access_key: str) -> AccessKey:
    """The key of an id. Raises NoSuchAccessKey, NotAStore."""
    return _named(every(root), access_key)


def _named(keys: list[AccessKey], access_key: str) -> AccessKey:
    for key in keys:
        if key.id == access_key:
            return key
    raise NoSuchAccessKey(f"there is no access key {access_key}; `vfs s3 key list` shows those that there are")


def _read(root: Folder) -> _Content:
    try:
        return msgspec.json.decode(root.read(FILE, FILE_BYTES_MAX), type=_Content)
    except FileNotFoundError:
        return _Content()
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotAStore(f"{root.path / FILE} cannot be understood: {error}") from error


@contextlib.contextmanager
def _changing(root: Folder) -> Iterator[_Content]:
    """What is in the file, to be changed; one process at a time. It is replaced in one
    step, and survives a power loss.
    """
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root.fd)  # opened anew: a lock of ours
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        content = _read(root)
        yield content
        root.replace(FILE, FILE_NEW, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    finally:
        os.close(directory)
