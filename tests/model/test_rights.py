"""Who may read which version: the engine against the contract, in a few lines.

    A version of another file that stood at the name is as hard to read as that file was and as the key is now, unless
    the owner of both put the one in place of the other, or root did. What is no user of a mount is nobody.

What stands where, and which versions there are, is the business of the other model (`reference`): the store is asked.
"""

from __future__ import annotations

import shutil
import stat
import struct
import tempfile
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from vfs import files
from vfs.expiring import WRITER as LIFECYCLE
from vfs.fuse.callers import Caller
from vfs.fuse.past import PastTree
from vfs.model import NO_INFO, NOBODY, NOBODY_UID, Ino, Inode, KeyId, Kind, Rights, Seq, State, Version, Writer
from vfs.names import format_version_id
from vfs.store import Store

ANN, BEN, ROOT = Writer(1000, 2, "ann"), Writer(1001, 3, "ben"), Writer(0, 4, "root")
S3 = Writer(NOBODY_UID, 0, "s3:key")
READERS = (1000, 1001, 1002)  # the last is in the group of files and, perhaps, in an ACL
GROUP = 2000
NAMES = (b"a", b"b", b"c", b"d~")  # one that is not versioned

USERS = st.sampled_from([ANN, BEN, ROOT])
NAME = st.sampled_from(NAMES)
MODES = st.sampled_from([0o600, 0o640, 0o604, 0o644, 0o066, 0o4755])
PICK = st.integers(0, 1000)


# -- the contract -----------------------------------------------------------------------------------------------------


class Contract:
    """For each version the file that it is of, and whose rights hold beside the key's (None: nobody's)."""

    def __init__(self) -> None:
        self.file: dict[Seq, int] = {}
        self.closed: dict[Seq, list[Rights] | None] = {}  # those that were closed together share a list

    def put(self, versions: list[Seq], stood: Rights, link: bool, file: Rights, is_link: bool, by: Writer) -> None:
        """One file in place of another one, of which there are these versions and of those before."""
        root_or_owner = by.uid in (0, stood.uid)
        if stood.uid == file.uid and root_or_owner and (link or not is_link):
            return
        together = [stood]
        for seq in versions:
            if self.closed[seq] is None:
                self.closed[seq] = together

    def came_back(self, seq: Seq, file: int) -> None:
        """What had been put over a version was purged."""
        together = self.closed[seq]
        self.file[seq] = file
        for other in self.closed if together is not None else ():
            if self.closed[other] is together:
                self.closed[other] = None

    def may(self, uid: int, key: Rights, now: int, seq: Seq) -> bool:
        """Whether somebody may read a version of a key at which file *now* stands, or stood last."""
        beside = self.closed[seq]
        return allows(key, uid) and (beside is None or self.file[seq] == now or allows(beside[0], uid))


def allows(rights: Rights, uid: int) -> bool:
    """Whether a reader may read by a mode, or by an ACL that names reader 1002: then the group's bits are its mask."""
    if uid == rights.uid:
        return bool(rights.mode & 0o400)
    if uid == 1002 and rights.acl:
        return bool(rights.mode & 0o040)
    if uid == 1002 and not rights.acl and rights.gid == GROUP:
        return bool(rights.mode & 0o040)
    return bool(rights.mode & 0o004)


NAMED = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, who)
    for tag, bits, who in (
        (1, 6, 0xFFFFFFFF),
        (2, 4, 1002),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    )
)


def rights_of(what: Inode | Version) -> Rights:
    return Rights(what.uid, what.gid, stat.S_IMODE(what.mode), what.acl)


def reader(uid: int) -> Caller:
    caller = Caller(SimpleNamespace(uid=uid, gid=GROUP if uid == 1002 else uid, pid=1, umask=0))
    caller._groups = set()
    return caller


# -- what is done -----------------------------------------------------------------------------------------------------


class Stood(NamedTuple):
    """What stands at a name, or stood last, before something is done."""

    ino: int
    rights: Rights
    is_link: bool
    versions: list[Seq]


class Machine(RuleBasedStateMachine):
    """Whoever does what he may not do in a mount, too: that is the door's business."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="vfs-rights-"))
        self.store: Store
        self.contract = Contract()
        self.written = count(1)
        self.handles: list[files.Handle] = []

    @initialize(owner=st.sampled_from([0, 1000]), state=st.sampled_from([State.ENABLED, State.SUSPENDED]))
    def start(self, owner: int, state: State) -> None:
        ticks = count(1_800_000_000_000_000_000, 1_000_000)
        self.store = Store.open(self.folder / "store", clock=lambda: next(ticks))
        self.bucket = self.store.create_bucket(b"bucket", uid=owner, gid=0)
        self.past = PastTree(self.store)
        self.catalog = self.store.core.catalog
        self.create(b"a", ANN, 0o600)
        if state is State.SUSPENDED:
            self.store.set_versioning(self.bucket, state)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.abandon()
        shutil.rmtree(self.folder)

    def key(self, name: bytes) -> KeyId | None:
        return self.catalog.key(self.bucket, name)

    def versions(self, name: bytes) -> list[tuple[Seq, Version]]:
        key = self.key(name)
        return [] if key is None else list(self.catalog.versions(key))

    def stands(self, name: bytes) -> Stood | None:
        ino = self.store.tree.find(self.bucket, name)
        versions = self.versions(name)
        if ino is not None:
            inode = self.catalog.inode(ino)
            return Stood(ino, rights_of(inode), stat.S_ISLNK(inode.mode), [seq for seq, _ in versions])
        if not versions:
            return None
        seq, newest = versions[0]
        return Stood(
            self.contract.file[seq], rights_of(newest), stat.S_ISLNK(newest.mode), [seq for seq, _ in versions]
        )

    def note(self) -> None:
        """Versions that are new are open to whom the key is."""
        for name in NAMES:
            for seq, version in self.versions(name):
                if seq not in self.contract.file:
                    self.contract.file[seq] = version.ino
                    self.contract.closed[seq] = None

    def put(self, name: bytes, by: Writer, stood: Stood | None) -> None:
        """Something was put at a name by somebody; it has its versions there since."""
        now = self.store.tree.find(self.bucket, name)
        if stood is not None and now is not None and now != stood.ino:
            inode = self.catalog.inode(now)
            there = [seq for seq in stood.versions if seq in dict(self.versions(name))]
            self.contract.put(there, stood.rights, stood.is_link, rights_of(inode), stat.S_ISLNK(inode.mode), by)
        self.note()

    @rule(name=NAME, by=USERS, mode=MODES)
    def create(self, name: bytes, by: Writer, mode: int) -> None:
        stood = self.stands(name)
        if self.store.tree.find(self.bucket, name) is not None:
            return
        ino = self.store.tree.create(self.bucket, name, mode, GROUP, by)[0]
        self.put(name, by, stood)
        self.write(ino, by)

    def write(self, ino: Ino, by: Writer) -> None:
        handle = self.store.files.open(ino, by, truncate=True)
        self.store.files.write(handle, 0, b"%d" % next(self.written))
        self.store.files.flush(handle)
        self.store.files.release(handle)
        self.note()

    @rule(name=NAME, by=USERS, mode=MODES)
    def leave_open(self, name: bytes, by: Writer, mode: int) -> None:
        """A new file that has no version while somebody writes to it."""
        if self.store.tree.find(self.bucket, name) is None:
            stood = self.stands(name)
            ino = self.store.tree.create(self.bucket, name, mode, GROUP, by)[0]
            handle = self.store.files.open(ino, by, created=True)
            self.store.files.write(handle, 0, b"%d" % next(self.written))
            self.handles.append(handle)
            self.put(name, by, stood)

    @rule(pick=PICK, by=USERS)
    def close(self, pick: int, by: Writer) -> None:
        if self.handles:
            handle = self.handles.pop(pick % len(self.handles))
            handle.writer = by  # whoever wrote last: not who put it there
            before = {name: self.stands(name) for name in NAMES}
            self.store.files.write(handle, 0, b"%d" % next(self.written))
            self.store.files.flush(handle)
            self.store.files.release(handle)
            for name, stood in before.items():
                self.come_back(name, stood)

    def come_back(self, name: bytes, stood: Stood | None) -> None:
        """What was displaced while open has got its version: nobody put it there."""
        new = [(seq, version) for seq, version in self.versions(name) if seq not in self.contract.file]
        if stood is not None and any(version.ino != stood.ino for _, version in new):
            there = [seq for seq in stood.versions if seq in dict(self.versions(name))]
            self.contract.put(there, stood.rights, stood.is_link, stood.rights, False, NOBODY)
        self.note()
        ino = self.store.tree.find(self.bucket, name)
        for seq, version in new:
            if ino not in (None, version.ino):  # it is below what lives there
                self.contract.closed[seq] = [rights_of(version)]

    @rule(name=NAME, by=USERS)
    def write_again(self, name: bytes, by: Writer) -> None:
        ino = self.store.tree.find(self.bucket, name)
        if ino is not None and self.catalog.inode(ino).is_file:
            self.write(ino, by)

    @rule(name=NAME, by=USERS)
    def symlink(self, name: bytes, by: Writer) -> None:
        stood = self.stands(name)
        if self.store.tree.find(self.bucket, name) is None:
            self.store.tree.symlink(self.bucket, name, b"target", GROUP, by)
            self.put(name, by, stood)

    @rule(name=NAME, to=NAME, by=USERS)
    def rename(self, name: bytes, to: bytes, by: Writer) -> None:
        stood = self.stands(to)
        if name != to and self.store.tree.find(self.bucket, name) is not None:
            self.store.tree.rename(self.bucket, name, self.bucket, to, by)
            self.put(to, by, stood)

    @rule(name=NAME, to=NAME, by=USERS)
    def exchange(self, name: bytes, to: bytes, by: Writer) -> None:
        if None in (self.store.tree.find(self.bucket, name), self.store.tree.find(self.bucket, to)):
            return
        both = [(name, self.stands(name)), (to, self.stands(to))]
        self.store.tree.exchange(self.bucket, name, self.bucket, to, by)
        for one, stood in both if name != to else ():
            self.put(one, by, stood)

    @rule(name=NAME, to=NAME, by=USERS)
    def link(self, name: bytes, to: bytes, by: Writer) -> None:
        ino, stood = self.store.tree.find(self.bucket, name), self.stands(to)
        if ino is not None and self.store.tree.find(self.bucket, to) is None:
            self.store.tree.link(ino, self.bucket, to, by)
            self.put(to, by, stood)

    @rule(name=NAME, by=USERS)
    def unlink(self, name: bytes, by: Writer) -> None:
        if self.store.tree.find(self.bucket, name) is not None:
            self.store.tree.unlink(self.bucket, name, by)
            self.note()

    @rule(name=NAME, mode=MODES)
    def chmod(self, name: bytes, mode: int) -> None:
        ino = self.store.tree.find(self.bucket, name)
        if ino is not None:
            self.store.tree.set_attributes(ino, mode=mode)

    @rule(name=NAME)
    def set_acl(self, name: bytes) -> None:
        ino = self.store.tree.find(self.bucket, name)
        if ino is not None and self.catalog.inode(ino).is_file:
            self.store.tree.set_acl(ino, b"system.posix_acl_access", NAMED, keep_setgid=True)

    @rule(name=NAME, to=st.sampled_from([1000, 1001]))
    def chown(self, name: bytes, to: int) -> None:
        ino = self.store.tree.find(self.bucket, name)
        if ino is not None:
            self.store.tree.set_attributes(ino, uid=to)

    @rule(name=NAME, to=NAME, by=USERS, pick=PICK)
    def restore(self, name: bytes, to: bytes, by: Writer, pick: int) -> None:
        found = [seq for seq, version in self.versions(name) if version.kind is Kind.CONTENT]
        stood = self.stands(to)
        if found:
            self.store.history.restore(found[pick % len(found)], self.bucket, to, by, gid=GROUP)
            self.put(to, by, stood)

    @rule(name=NAME)
    def put_by_s3(self, name: bytes) -> None:
        stood = self.stands(name)
        copy = self.store.objects.begin_content(self.bucket)
        copy.write(0, b"%d" % next(self.written))
        self.store.objects.put(self.bucket, name, copy.seal(), NO_INFO, S3)
        self.store.objects.end_content(copy)
        self.put(name, S3, stood)

    @rule(name=NAME, by=st.sampled_from([S3, LIFECYCLE]))
    def delete_by_nobody(self, name: bytes, by: Writer) -> None:
        self.store.objects.delete(self.bucket, name, by)
        self.note()

    @rule(name=NAME, by=st.sampled_from([ANN, BEN, ROOT, S3, LIFECYCLE]), pick=PICK)
    def purge(self, name: bytes, by: Writer, pick: int) -> None:
        versions, key = self.versions(name), self.key(name)
        if not versions or key is None:
            return
        seq, version = versions[pick % len(versions)]
        if by in (S3, LIFECYCLE):
            version_id = format_version_id(seq, null=version.null)
            self.store.objects.purge(self.bucket, name, version_id, by)
        else:
            self.store.history.purge(key, seq, by)
        self.note()
        left, now = self.versions(name), self.store.tree.find(self.bucket, name)
        if now is not None and left and seq == versions[0][0] and self.catalog.inode(now).seq == left[0][0]:
            self.contract.came_back(left[0][0], now)

    # -- the table --------------------------------------------------------------------------------------------------

    @invariant()
    def each_reads_what_he_may(self) -> None:
        for name in NAMES if hasattr(self, "store") else ():
            key, stands = self.key(name), self.stands(name)
            versions = self.versions(name)
            if not versions or key is None:
                continue
            assert stands is not None
            for seq, version in versions:
                found = {uid: self.past._may_read(key, seq, version, reader(uid)) for uid in READERS}
                wanted = {uid: self.contract.may(uid, stands.rights, stands.ino, seq) for uid in READERS}
                assert found == wanted, (name, seq)


def test_each_reads_what_he_may() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))


@pytest.mark.slow
def test_each_reads_what_he_may_at_length() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=2000, stateful_step_count=60, deadline=None))
