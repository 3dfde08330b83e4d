"""The extended attributes ``user.vfs.*``, which tell and steer (docs/semantics.md)."""

from __future__ import annotations

import json
import re
import stat

import msgspec
from pyfuse3 import RequestContext

from vfs import purging
from vfs.content import etag
from vfs.core import Changed, unversioned_patterns
from vfs.errors import (
    AccessDenied,
    CrossBucket,
    InvalidName,
    InvalidRule,
    InvalidState,
    Locked,
    NoSuchAttribute,
    NoSuchKey,
    NoSuchVersion,
    NotPermitted,
    ReadOnly,
    VfsError,
)
from vfs.fuse import callers
from vfs.fuse.callers import Caller
from vfs.fuse.nodes import Node, is_past, split
from vfs.fuse.past import VERSION_NODES, PastTree, timestamp, writer_fields
from vfs.model import (
    STORE_ROOT,
    Compression,
    Ino,
    Inode,
    KeyId,
    Kind,
    LifecycleRule,
    LockMode,
    ObjectLock,
    PurgePolicy,
    Seq,
    State,
    Version,
    Writer,
)
from vfs.names import format_version_id, parse_version_id, show
from vfs.purging import Way
from vfs.service.lifecycles import Lifecycles
from vfs.store import Store, shown_size

PREFIX = b"user.vfs."
_LOCK = re.compile(rb"(governance|compliance) ([1-9][0-9]{0,4}) (days|years)\Z")
RESTORER = "vfs"  # the program of what is restored, whoever asks for it
SEQ_DIGITS_MAX = 17  # of the number of a version: until the year 5138


class Attributes:
    """What the attributes say and do. *facts*: of the mount, for its status."""

    def __init__(self, store: Store, past: PastTree, lifecycles: Lifecycles, facts: dict[str, object]) -> None:
        self._store = store
        self._tree = store.tree
        self._past = past
        self._lifecycles = lifecycles
        self._facts = facts

    def tell(self, ino: int, word: bytes, caller: Caller) -> bytes:
        """``user.vfs.WORD`` of a live inode or of a node of history. Raises NoSuchAttribute, AccessDenied."""
        version: Version | None = None
        seq = Seq(0)
        if not is_past(ino):
            inode = self._tree.inode(Ino(ino))
            if inode.is_dir:
                return self._tell_of_directory(Ino(ino), word, caller)
            seq, version = inode.seq, self._store.core.catalog.version(inode.key, inode.seq)
        elif split(ino)[0] is Node.KEY and word == b"purge":
            return self._tell_why_not(KeyId(split(ino)[1]), caller)
        elif split(ino)[0] is Node.DIRECTORY and word == b"removed":
            self._past.check_still_open(ino, caller)
            return self._tell_removal(Ino(split(ino)[1]))
        elif split(ino)[0] in VERSION_NODES:
            self._past.check_readable(ino, caller)
            _, seq, version = self._past.version(ino)
        if version is None:
            raise NoSuchAttribute("nothing is published")
        match word:
            case b"version_id":
                return format_version_id(seq, null=version.null).encode()
            case b"etag" if version.kind is Kind.CONTENT:
                return etag(version.content).encode()
            case b"writer":
                return msgspec.json.encode(writer_fields(version.writer))
            case b"lock":
                return self._tell_lock(seq)
        raise NoSuchAttribute(f"no attribute user.vfs.{show(word)}")

    def _tell_why_not(self, key: KeyId, caller: Caller) -> bytes:
        """``user.vfs.purge`` of a key's history: why the bucket does not let the caller purge it; empty if it does."""
        try:
            self._store.history.check_policy(key, Writer(caller.uid, 0, ""), Way.COMMAND)
        except VfsError as error:
            return str(error).encode()
        return b""

    def _tell_removal(self, directory: Ino) -> bytes:
        """``user.vfs.removed`` of a directory's history: when it was removed, and by whom. Raises NoSuchAttribute."""
        found = self._store.history.removal_of(directory)
        if found is None:
            raise NoSuchAttribute("the directory lives")
        seq, version = found
        return msgspec.json.encode({"Time": timestamp(seq), "Writer": writer_fields(version.writer)})

    def _tell_lock(self, seq: Seq) -> bytes:
        """``user.vfs.lock`` of a version: why it cannot be purged. Raises NoSuchAttribute."""
        key = self._store.core.catalog.key_of_version(seq)
        try:
            if key is not None:
                self._store.objects.check_purge(key, seq)
        except Locked as error:
            return str(error).encode()
        raise NoSuchAttribute("the version is not locked")

    def _tell_of_directory(self, ino: Ino, word: bytes, caller: Caller) -> bytes:
        if word == b"status":
            # not msgspec's: paths may have bytes that are no UTF-8
            return json.dumps(self._facts | self._store.figures(), separators=(",", ":")).encode()
        if word == b"gc":
            return msgspec.json.encode(self._facts["Collection"])
        if self._store.is_bucket(ino):
            bucket = self._store.bucket(ino)
            match word:
                case b"versioning":
                    return bucket.state.name.title().encode()
                case b"compression":
                    return bucket.compression.name.lower().encode()
                case b"purge":
                    return bucket.purge.name.lower().encode()
                case b"lock":
                    return _lock_text(bucket.lock).encode()
                case b"lifecycle":
                    return msgspec.json.encode(bucket.lifecycle)
                case b"expiring":
                    self._check_owner(ino, caller)  # it names keys
                    preview = self._lifecycles.preview(ino)
                    if preview is not None:
                        return msgspec.json.encode(preview)
                case b"bucket":
                    return msgspec.json.encode(
                        {
                            "Name": bucket.name.decode(),
                            "Versioning": bucket.state.name.title(),
                            "Created": timestamp(bucket.created),
                            "Versions": bucket.versions,
                            "Bytes": shown_size(bucket.size),
                            "Compression": bucket.compression.name.lower(),
                            "Purge": bucket.purge.name.lower(),
                            "MfaDelete": bucket.mfa_delete,
                            "Unversioned": [show(pattern) for pattern in unversioned_patterns(bucket)],
                        }
                    )
        raise NoSuchAttribute(f"no attribute user.vfs.{show(word)}")

    def set_versioning(self, ino: Ino, value: bytes, caller: Caller) -> None:
        """``user.vfs.versioning`` = Enabled or Suspended, by the bucket's owner. Raises NotPermitted, InvalidState."""
        self._check_owner(ino, caller)
        try:
            state = {b"Enabled": State.ENABLED, b"Suspended": State.SUSPENDED}[value]
        except KeyError:
            raise InvalidState("versioning is Enabled or Suspended") from None
        self._store.set_versioning(ino, state, is_root=caller.uid == 0)

    def set_compression(self, ino: Ino, value: bytes, caller: Caller) -> None:
        """``user.vfs.compression`` = zstd or off, by the bucket's owner. Raises NotPermitted, InvalidState, NoSpace."""
        self._check_owner(ino, caller)
        try:
            compression = {b"off": Compression.OFF, b"zstd": Compression.ZSTD}[value]
        except KeyError:
            raise InvalidState("compression is zstd or off") from None
        self._store.set_compression(ino, compression)

    def set_purge_policy(self, ino: Ino, value: bytes, caller: Caller) -> None:
        """``user.vfs.purge`` = a policy, by the owner, who may tighten it. Raises NotPermitted, InvalidState."""
        self._check_owner(ino, caller)
        try:
            policy = {one.name.lower().encode(): one for one in PurgePolicy}[value]
        except KeyError:
            raise InvalidState("the purge policy is rm, command, root or never") from None
        purging.check_policy(self._store.bucket(ino).purge, policy, is_root=caller.uid == 0)
        self._store.set_purge_policy(ino, policy)

    def purge(self, node: int, name: bytes, way: Way, ctx: RequestContext, writer: Writer) -> list[Changed]:
        """``user.vfs.purge`` = a version id, of a key below ``.versions``; or `rm` there: by the owner of the key (the
        kernel checked) and of the version, who may also delete the key where it is.
        """
        kind, of = split(node)
        if kind is not Node.KEY:
            if way is Way.RM:
                raise ReadOnly("history is read-only; only .versions/NAME/ID can be removed")
            raise NoSuchVersion("no version of a file")
        caller, history = Caller(ctx), self._store.history
        history.check_policy(KeyId(of), writer, way)
        if way is Way.COMMAND:
            parse_version_id(name.decode("ascii", "replace"))
        key, seq, version = self._past.version(self._past.lookup(node, name, caller).ino)
        directory = self._tree.inode(self._store.core.catalog.key_name(key).parent)
        if version.kind is Kind.MARKER:
            self.check_place(directory, caller)
        else:
            caller.check(directory, callers.WRITE | callers.SEARCH)
        if not (caller.owns(history.rights(key)) and caller.owns(history.version_rights(key, seq, version))):
            raise AccessDenied("the version is somebody else's")
        uncovered = history.uncovers(key, seq)
        if uncovered is not None:
            check_makes(uncovered, caller)
        return history.purge(key, seq, writer, way=way)

    def set_lock(self, ino: Ino, value: bytes, caller: Caller) -> None:
        """``user.vfs.lock`` = what `_lock_text` gives, by the bucket's owner. Raises NotPermitted, InvalidState."""
        self._check_owner(ino, caller)
        if value == b"on":
            lock = ObjectLock()
        elif found := _LOCK.match(value):
            count, mode = int(found[2]), LockMode[found[1].decode().upper()]
            lock = ObjectLock(mode, days=count) if found[3] == b"days" else ObjectLock(mode, years=count)
        else:
            raise InvalidState("a lock is on, or governance or compliance with a number of days or years")
        self._store.objects.configure(ino, lock=lock)

    def set_lifecycle(self, ino: Ino, value: bytes, caller: Caller) -> None:
        """``user.vfs.lifecycle`` = rules, as it tells them, by the bucket's owner. Raises NotPermitted, InvalidRule."""
        self._check_owner(ino, caller)
        try:
            rules = msgspec.json.decode(value, type=tuple[LifecycleRule, ...])
        except (ValueError, RecursionError) as error:  # also of what is no UTF-8, and of arrays in arrays in arrays
            raise InvalidRule(f"the rules cannot be understood: {error}") from None
        self._store.objects.configure(ino, way=Way.COMMAND, is_root=caller.uid == 0, lifecycle=rules)

    def preview_lifecycle(self, ino: Ino, caller: Caller) -> None:
        """``user.vfs.expiring`` = anything, by the bucket's owner: see what is due, which it then tells. Raises
        NotPermitted, LimitReached.
        """
        self._check_owner(ino, caller)
        self._lifecycles.ask(ino)

    def _check_owner(self, ino: Ino, caller: Caller) -> None:
        if not self._store.is_bucket(ino):
            raise NotPermitted("this attribute belongs to the directory of a bucket")
        if not caller.owns(self._tree.inode(ino)):
            raise NotPermitted("only its owner says what a bucket does")

    def restore(self, directory: Ino, value: bytes, ctx: RequestContext, writer: Writer) -> list[Changed]:
        """``user.vfs.restore`` = sequence of a version, NUL, where to (relative): makes it current there.

        The caller may write to *directory* (the kernel checked). What cp would ask for is checked here: to read the
        version, to search the directories on the way, and to write to the file, or to the directory that gets it. The
        attribute ``user.vfs.settled`` then waits until no cache is stale.
        """
        text, _, path = value.partition(b"\0")
        if not text.isdigit() or len(text) > SEQ_DIGITS_MAX or not path:
            raise InvalidName("user.vfs.restore is a version's number, NUL, and a relative path")
        caller = Caller(ctx)
        seq = Seq(int(text))
        key, version = self._readable(seq, caller)
        *above, name = path.split(b"/")
        for part in above:
            caller.check(self._tree.inode(directory), callers.SEARCH)
            directories = self._store.history.past(directory, part, caller.enters).directories
            if not directories:
                raise NoSuchKey(f"no directory {show(part)}")
            directory = directories[0]
        if self._tree.inode(directory).bucket != self._bucket_of(key):
            raise CrossBucket("a version cannot be restored into another bucket")
        check_makes(version, caller)
        self._check_writable(directory, name, version, caller)
        by = msgspec.structs.replace(writer, program=RESTORER)
        return self._store.history.restore(seq, directory, name, by, gid=ctx.gid)

    def _readable(self, seq: Seq, caller: Caller) -> tuple[KeyId, Version]:
        """A version that the caller may find and read: read permission on it and on its key, search permission on every
        directory above. Numbers can be guessed: of what is not there and of what the caller may not know, the answer is
        the same. Raises AccessDenied, and for root NoSuchVersion.
        """
        history = self._store.history
        try:
            key, version = history.find(seq)
        except NoSuchVersion:
            if caller.uid == 0:
                raise
            raise AccessDenied("permission denied") from None
        caller.check(history.version_rights(key, seq, version), callers.READ)
        caller.check(history.rights(key), callers.READ)
        directory = self._store.core.catalog.key_name(key).parent
        while directory != STORE_ROOT:
            inode = self._tree.inode(directory)
            caller.check(inode, callers.SEARCH)
            directory = self._tree.parent(inode)
        return key, version

    def _check_writable(self, directory: Ino, name: bytes, version: Version, caller: Caller) -> None:
        """For content into a file, what open(O_TRUNC) asks for. What makes a name, or gives it another type, asks for
        what a rename to it does.
        """
        found = self._tree.find(directory, name)
        inode = None if found is None else self._tree.inode(found)
        place = self._tree.inode(directory)
        if inode is not None and inode.is_file and stat.S_ISREG(version.mode):
            caller.check(place, callers.SEARCH)
            caller.check(inode, callers.WRITE)
            return
        self.check_place(place, caller)
        if inode is not None and place.mode & stat.S_ISVTX and not (caller.owns(place) or caller.owns(inode)):
            raise NotPermitted("the directory is sticky")

    def check_place(self, place: Inode, caller: Caller) -> None:
        """Whether the caller may make something in a directory: if that is removed, it comes back in the nearest one
        above that lives. Raises AccessDenied.
        """
        caller.check(place, callers.WRITE | callers.SEARCH)
        while place.nlink == 0:
            place = self._tree.inode(self._tree.parent(place))
            caller.check(place, callers.WRITE | callers.SEARCH)

    def _bucket_of(self, key: KeyId) -> Ino:
        return self._tree.inode(self._store.core.catalog.key_name(key).parent).bucket


def check_makes(version: Version, caller: Caller) -> None:
    """Raise NotPermitted unless the caller may make what a version is: a device is root's to make, but for one that
    leads to none (mknod(2)).
    """
    is_device = stat.S_ISBLK(version.mode) or (stat.S_ISCHR(version.mode) and version.rdev)
    if is_device and version.kind is Kind.CONTENT and caller.uid != 0:
        raise NotPermitted("only root makes devices")


def _lock_text(lock: ObjectLock | None) -> str:
    """What object lock a bucket has, and for how long new versions are locked."""
    if lock is None:
        return "off"
    if lock.mode is None:
        return "on"
    return f"{lock.mode.name.lower()} {lock.days or lock.years} {'days' if lock.days else 'years'}"
