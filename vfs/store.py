"""The store: opens the pieces, recovers after a crash, syncs, and is the one facade that the doors use.

``store.tree`` is the live tree, ``store.files`` the open files, ``store.history`` the versions; buckets are here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
import tomllib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from vfs import acl, events, layout, locks, purging, replay, rules, settings, snapshot, synclog
from vfs.blocks import FOLDER as BLOCKS
from vfs.blocks import Blocks, End
from vfs.catalog import DAMAGE, FILE, Catalog
from vfs.core import Clock, Core
from vfs.disk import Disk, File, RealDisk
from vfs.errors import (
    BucketExists,
    BucketNotEmpty,
    Corrupt,
    DiskFailed,
    NoSpace,
    NoSuchBucket,
    NotAStore,
    TooManyBuckets,
    VfsError,
)
from vfs.files import Files
from vfs.folder import Folder
from vfs.history import History
from vfs.holding import LOCK, lock_store, tell_holder
from vfs.journal import Journal, Position, Record
from vfs.layout import DESCRIPTION
from vfs.model import STORE_ROOT, Bucket, Compression, Ino, Inode, KeyId, ObjectLock, PurgePolicy, State
from vfs.names import check_bucket_name, directory_key, show
from vfs.objects import Objects
from vfs.purging import Way
from vfs.replay import Aside, Replay
from vfs.settings import Settings
from vfs.synclog import Entry, Piece, SyncLog
from vfs.tree import Tree, handed_down
from vfs.uploads import Uploads

log = logging.getLogger("vfs.store")

EVENTS_PER_CHECKPOINT_MAX = 2_000  # bounds the catalog's uncommitted pages, and what a recovery replays
PORTION = 512  # events, or blocks, that are committed at a time where the catalog has no room for all at once
SYNCS_BEFORE_LOG = 8  # who does not ask for more pays for no sync log
BUCKETS_MAX = 10_000
FORMATS = (2, 3, 4, 5, 6)  # that this vfs reads; it writes the last
BEFORE_A_STORE = frozenset((LOCK, "daemon.log", "daemon.log.1", "config.toml", "s3-keys", DESCRIPTION + ".new"))
DESCRIPTION_BYTES_MAX = 64 << 10
CATALOG = "catalog"
RESTORED = "data.restored"  # an empty file beside a catalog that was a snapshot, while it is recovered
CATALOG_NEW = "data.new"  # a catalog that is written from a snapshot
CATALOG_COPY = "catalog.copy"  # a compact copy in the making, for a snapshot


class Store:
    """An open store. Invariants: one process has it open (flock); the catalog on disk never knows more than the
    journal and the blocks on disk (`checkpoint` syncs them first).
    """

    def __init__(self, root: Folder, disk: Disk, clock: Clock, lock_fd: int) -> None:
        self.path = path = root.path
        self.root = root
        self.disk = disk
        self._open = contextlib.ExitStack()
        self._open.callback(root.close)
        self._open.callback(os.close, lock_fd)
        self._lock_fd = lock_fd
        try:
            self.settings: Settings = settings.load(root)
            self._format = _format(root)
            self._redo(synclog.read(disk))
            self._log = SyncLog(disk)
            self._open.callback(self._log.close)
            self._syncs = 0  # in the segments' own place, that somebody waited for
            self._placed: Ends | None = None  # everything before is durable: in its own place, or in the log
            self._is_restored = self._restore_catalog()
            catalog = Catalog(root.folder(CATALOG, make=True))
            self._open.callback(catalog.close)
            journal = Journal(disk)
            self._open.callback(journal.close)
            blocks = Blocks(disk, catalog)
            self._open.callback(blocks.close)
            catalog.attach(blocks)
            self._core = Core(journal, blocks, catalog, clock)
            self._marked = 0  # the last record, if it only says that all before were durable
            self._marks = 0  # how many of those this process wrote
            self.files = Files(self._core)
            self.tree = Tree(self._core, self.files)
            self.history = History(self._core, self.files)
            self.objects = Objects(self._core, self.files, self.history)
            self.uploads = Uploads(self._core, self.objects)
            self._adopt()
            self.recovered = self._recover()
        except DAMAGE as error:
            self._open.close()
            found = f"{error!r}; `vfs rebuild {path}` makes the catalog again"
            raise Corrupt(f"the catalog of {path}", expected="rows that make sense", found=found) from error
        except BaseException:
            self._open.close()
            raise

    @classmethod
    def open(cls, path: Path, *, foreign: bool = False, disk: Disk | None = None, clock: Clock = time.time_ns) -> Self:
        """Open a store, or make one where there is nothing or an empty directory. Recovers by itself.

        foreign: also one that others than this process's user own. Raises NotAStore, StoreInUse, Corrupt.
        """
        root = _prepare(path, foreign=foreign)
        lock_fd = lock_store(root)
        try:
            check_description(root)
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(root, disk or RealDisk(root), clock, lock_fd)

    def _adopt(self) -> None:
        """Let a store of an earlier format have this one's, before anything is written that an earlier vfs would not
        obey. On a disk that is full, it stays for now.
        """
        try:
            if self._format != FORMATS[-1]:
                _describe(self.root, FORMATS[-1])
        except OSError as error:
            log.warning("the store keeps its format %d until it is opened again: %s", self._format, error)

    # -- recovery ---------------------------------------------------------------------------------------------

    def _redo(self, contents: synclog.Contents) -> None:
        """Put in its place what a crash left in the sync log. Raises Corrupt if there may be what cannot be read."""
        for place in contents.passed_over:
            log.warning("%s; the sync log has nothing there that is needed", place)
        synclog.redo(self.disk, contents)

    def _restore_catalog(self) -> bool:
        """Begin with the last snapshot if there is no catalog. Raises Corrupt if that is damaged.

        True: the catalog in place is a snapshot's, which has the blocks where they were then. So it is marked, until it
        has been committed as of now: that may take more than one start.
        """
        with self.root.folder(CATALOG, make=True) as folder:
            if folder.find(FILE) is not None:
                return folder.find(RESTORED) is not None
            complete = snapshot.complete(self.disk)
            if not complete:
                return False
            folder.remove(CATALOG_NEW, missing_ok=True)
            with open(folder.make(CATALOG_NEW), "wb") as new:
                snapshot.restore(self.disk, complete[-1], new)
                new.flush()
                os.fsync(new.fileno())
            os.close(folder.open_or_make(RESTORED, os.O_RDONLY))
            folder.sync()
            folder.rename(CATALOG_NEW, FILE)
        return True

    def _recover(self) -> int:
        """Bring the catalog up to the journal, drop what is torn, publish drafts. Returns events replayed."""
        core = self._core
        checkpoint = core.catalog.checkpoint
        if not core.journal.holds(core.journal.locate(checkpoint.journal)):
            what = "a journal that ends before" if checkpoint.journal.number else "a catalog that is empty"
            raise Corrupt(
                f"the journal of {self.path}",
                expected=f"record {checkpoint.journal.number}, which the catalog knows",
                found=f"{what}; `vfs rebuild` makes the catalog again from what is there",
            )
        blocks_start = self._known_blocks()
        blocks_end = max(self._find_blocks(), default=blocks_start)
        replayed = self._replay()
        core.journal.check_tail()
        dropped_blocks = core.blocks.settle(blocks_start, blocks_end)
        dropped = core.journal.settle()
        if core.catalog.find_inode(STORE_ROOT) is None:
            self._make_root()
        if dropped or dropped_blocks:
            log.info("dropped what a crash tore: %d bytes of journal, %d of blocks", dropped, dropped_blocks)
        self._tidy()
        published = self.files.recover()
        if replayed or published:
            log.info("recovered %d events; %d files were open and were published", replayed, published)
        self._checkpoint_if_room()
        return replayed

    def _known_blocks(self) -> End:
        """Up to where the catalog of the last checkpoint leads to the blocks."""
        return End(0, 0) if self._is_restored else self._core.catalog.checkpoint.blocks

    def _find_blocks(self) -> Iterator[End]:
        """Let the catalog of the last checkpoint lead to all blocks that there are. Gives the end of each."""
        catalog = self._core.catalog
        if self._is_restored:
            catalog.forget_blocks()
        for found in self._core.blocks.scan(self._known_blocks()):
            catalog.set_block_place(found.block, found.place, node=found.node)
            yield found.end
        if self._is_restored:
            catalog.recount()

    def _checkpoint_if_room(self) -> None:
        """A checkpoint that a full disk may refuse: what it would have committed is in the journal, and is replayed
        when the store is opened again. Raises DiskFailed.
        """
        try:
            self.checkpoint()
        except NoSpace as error:
            log.warning("%s; nothing is lost, the journal has it", error)

    def _tidy(self) -> None:
        """Remove what a crash left behind of a snapshot in the making, or of what one stands for."""
        with contextlib.suppress(OSError):
            self.root.remove_folder(CATALOG_COPY)
        complete = snapshot.complete(self.disk)
        for record in snapshot.every(self.disk):
            if record not in complete:
                snapshot.remove(self.disk, record)
        if complete:
            snapshot.secure(self.disk, complete[-1])  # what it stands for goes durably
            self.forget_before(complete[-1])

    def forget_before(self, number: int) -> None:
        """Remove the journal up to record *number*, for which there is a snapshot, and older snapshots.

        For any thread: large files go, to which nobody appends any more.
        """
        self._core.journal.forget(number, keep=self._core.catalog.checkpoint.journal.segment)
        for older in snapshot.every(self.disk):
            if older < number:
                snapshot.remove(self.disk, older)

    def replace_catalog(self, copy: Folder) -> None:
        """Put a copy of the catalog of the last checkpoint, without gaps, in its place. Raises NoSpace, DiskFailed."""
        try:
            self._core.catalog.replace(copy)
        except DiskFailed as error:
            self._core.fail(str(error))
            raise
        finally:
            self._apply_again()

    def _replay(self) -> int:
        """Apply what the journal has behind the catalog's checkpoint, as far as its content is there."""
        journal, catalog = self._core.journal, self._core.catalog
        start = journal.locate(catalog.checkpoint.journal)
        journal.end = start
        journal.durable = max((record.durable for record in journal.records(start)), default=0)
        replayed = 0
        records = Replay(catalog, self.disk)
        for record in journal.records(start):
            found = records.read(record)
            if record.number > journal.durable and not self._has_content(found):
                break  # its blocks went with the power: history ends before it
            if isinstance(found, Aside):
                self._set_aside(record, found)
            records.apply(record, found)
            journal.end = record.end
            replayed += isinstance(found, Aside) or bool(found.changes)
        return replayed

    def _set_aside(self, record: Record, aside: Aside) -> None:
        """A record that nobody can apply does not keep the store from opening."""
        replay.keep(self.disk, record, aside)
        where = self.path / replay.FOLDER
        log.warning("record %d (%s) is set aside, in %s: %s", aside.number, aside.operation, where, aside.reason)

    def _has_content(self, found: events.Event | Aside) -> bool:
        return all(self._core.catalog.missing(content) is None for content in replay.contents(found))

    def _make_root(self) -> None:
        now = self._core.clock()
        root = Inode(stat.S_IFDIR | 0o755, 2, os.getuid(), os.getgid(), 0, now, now, now, now, STORE_ROOT, KeyId(0))
        self._core.commit("init", [events.InodeSet(STORE_ROOT, root)])

    # -- durability -------------------------------------------------------------------------------------------

    def place(self) -> None:
        """Make every event so far survive a power loss, in the segments' own place: blocks, then the journal. Raises
        DiskFailed.
        """
        pending = self.begin_sync()
        try:
            sync_files(pending)
        except DiskFailed as error:
            self.fail(error)
            raise
        self.end_sync(pending)

    def begin_sync(self) -> Pending:
        """What to sync. `sync_files` may then run in another thread, one at a time; `end_sync` belongs to this one."""
        if self._core.failed:
            raise DiskFailed(self._core.failed)
        number, journal = self._core.journal.unsynced()
        return Pending(number, journal, self._core.blocks.unsynced(), self._ends(), self._log.settle())

    def end_sync(self, pending: Pending) -> None:
        """The files are on disk."""
        self._core.blocks.synced()
        self._core.journal.synced(pending.number)
        self._log.settled(pending.half)
        self._placed = pending.ends.after(self._placed)

    def _ends(self) -> Ends:
        return Ends(self._core.blocks.end, self._core.journal.end)

    def begin_logging(self) -> Logged | None:
        """A record of the sync log with all that is not durable yet; its entry may then be written in another thread,
        one at a time. `end_logging` belongs to this one. None: sync it in its own place. Raises DiskFailed.
        """
        core = self._core
        if core.failed:
            raise DiskFailed(core.failed)
        placed, ends = self._placed, self._ends()
        if placed is None or not self._log.is_made or not placed.shares_segments(ends):
            return None
        if placed.bytes_to(ends) > synclog.PIECES_BYTES_MAX:
            return None
        pieces = []
        for offset, since in ((placed.blocks.offset, core.blocks.since), (placed.journal.offset, core.journal.since)):
            path, data = since(offset)
            if data:
                pieces.append(Piece(path, offset, data))
        entry = self._log.place(pieces)
        return None if entry is None else Logged(core.journal.end.number, ends, entry)

    def end_logging(self, logged: Logged) -> None:
        """The entry is on disk."""
        self._core.journal.logged(logged.number)
        self._placed = logged.ends.after(self._placed)

    @property
    def wants_log(self) -> bool:
        """Whether there should be a sync log: to be told once per sync in its own place that somebody waited for."""
        self._syncs += 1
        return self._syncs == SYNCS_BEFORE_LOG and not self._log.is_made

    def make_log(self) -> Sequence[File]:
        """A new sync log, for `use_log`. For any thread. Raises NoSpace, DiskFailed."""
        return self._log.make()

    @property
    def log_is_half_full(self) -> bool:
        """Whether a checkpoint should come soon, so that the sync log has room for what follows."""
        return self._log.is_half_full

    def use_log(self, halves: Sequence[File]) -> None:
        """From now on."""
        self._log.use(halves)

    def fail(self, error: DiskFailed) -> None:
        """A sync failed: nobody can know what is on disk, so the store takes no more changes until it is reopened."""
        self._core.blocks.not_synced()
        self._core.fail(f"a sync failed: {error}")

    def checkpoint(self) -> None:
        """Sync, then commit the catalog as of now. Raises DiskFailed, NoSpace."""
        self.place()
        self.commit_catalog()

    def commit_catalog(self) -> None:
        """Commit the catalog; everything that it knows must have been synced. Nothing new: costs nothing.

        Then an event without changes is written: whoever replays the journal without the catalog sees by its header
        that everything before was durable, and takes what is missing for damage, not for a torn tail.
        """
        core = self._core
        end = core.journal.end
        known = core.catalog.checkpoint
        same = end.number == self._marked and end.segment == known.journal.segment and core.blocks.end == known.blocks
        if same and not core.catalog.index_changed:
            return
        try:
            core.catalog.commit(end, core.blocks.end)
        except NoSpace as error:
            self._commit_in_portions(error)
        except VfsError as error:
            core.fail(str(error))
            self._apply_again()
            raise
        if self._is_restored:
            self._is_restored = False
            with contextlib.suppress(OSError), self.root.folder(CATALOG) as folder:  # else the next start looks again
                folder.remove(RESTORED, missing_ok=True)
        core.room.renew()
        if end.number != self._marked and end.number > 1:
            with contextlib.suppress(NoSpace):
                core.commit("checkpoint", [])
                self._marks += 1
        self._marked = core.journal.end.number

    def _commit_in_portions(self, full: NoSpace) -> None:
        """The catalog fell back to its last checkpoint because all that came since needs more pages than there are. So
        commit a part of it at a time: the pages that a commit replaces serve the one after the next. Raises *full* if
        not even that can be done, with everything applied again; DiskFailed.
        """
        portion = 0 if self._is_restored else PORTION  # of an index that is made anew, no part is committed
        while portion:
            known = self._core.catalog.checkpoint
            try:
                self._apply_again(portion)
                self._core.catalog.commit(self._core.journal.end, self._core.blocks.end)
                return
            except NoSpace:
                if self._core.catalog.checkpoint == known:
                    portion //= 8
        self._apply_again()
        raise full

    def _apply_again(self, portion: int = 0) -> None:
        """The catalog fell back to its last checkpoint: bring it up to now again. *portion*: commit it after so many
        blocks or events each, but for what remains. Raises DiskFailed, and NoSpace from such a commit.
        """
        core = self._core
        known = core.catalog.checkpoint
        try:
            for count, end in enumerate(self._find_blocks(), 1):
                if portion and count % portion == 0:
                    core.catalog.commit(known.journal, end)
            number = known.journal.number
            records = Replay(core.catalog, self.disk)
            for count, record in enumerate(core.journal.records(known.journal), 1):
                records.apply(record, records.read(record))
                number = record.number
                if portion and count % portion == 0:
                    core.catalog.commit(record.end, core.blocks.end)
            if number != core.journal.end.number:
                raise Corrupt("the journal", expected=f"record {number + 1}", found="damaged bytes")
        except NoSpace:
            raise  # the caller knows what to do
        except Exception as error:  # a catalog that lacks something must never be committed
            core.fail(f"the catalog cannot be brought up to the journal again: {error!r}")
            raise DiskFailed(core.failed) from error

    @property
    def wants_checkpoint(self) -> bool:
        """Whether so much has happened since the last checkpoint that the next should not wait."""
        return self.events_since_checkpoint >= EVENTS_PER_CHECKPOINT_MAX or self._core.catalog.wants_commit

    @property
    def is_short(self) -> bool:
        """Whether the disk is so full that what adds something is refused, or was refused last."""
        return self._core.room.is_short or self._core.blocks.is_full

    @property
    def events_made(self) -> int:
        """A number that goes up with each change, and stays while nothing changes."""
        return self._core.journal.end.number - self._marks

    @property
    def events_since_checkpoint(self) -> int:
        return self._core.journal.end.number - self._core.catalog.checkpoint.journal.number

    def tell_use(self, mountpoint: str, options: Sequence[str]) -> None:
        """Record in the lock file where the store is mounted, and with which options, for whoever finds it in use, or
        a dead mount. mountpoint: empty if it is served without one.
        """
        tell_holder(self._lock_fd, mountpoint, options)

    def close(self) -> None:
        """Publish what is open, checkpoint, and let go of the store."""
        try:
            if not self._core.failed:
                self.files.close()
                self._checkpoint_if_room()
                self._log.remove()
        finally:
            self._open.close()

    def abandon(self) -> None:
        """Let go without writing anything, as a crash would."""
        self._open.close()

    # -- buckets ----------------------------------------------------------------------------------------------

    def create_bucket(
        self,
        name: bytes,
        *,
        uid: int,
        gid: int,
        mode: int = 0o755,
        umask: int | None = None,
        state: State | None = None,
        unversioned: list[bytes] | None = None,
        owner: str = "",
        location: str = "",
        lock: ObjectLock | None = None,
    ) -> Ino:
        """Make a bucket, in the store's default state unless told; the others from `unversioned` on are as in Bucket.
        The store's root hands down its group if it is setgid and, if *umask* is given, its default ACL (see Tree).
        Raises InvalidName, BucketExists, TooManyBuckets, InvalidState (a lock needs Enabled), NoSpace.
        """
        check_bucket_name(name)
        core = self._core
        if core.catalog.count("buckets") >= BUCKETS_MAX:
            raise TooManyBuckets(f"a store has at most {BUCKETS_MAX} buckets")
        if core.catalog.entry(STORE_ROOT, directory_key(name)) is not None:
            raise BucketExists(f"bucket {show(name)} exists")
        if state is None:
            state = State[self.settings.new_buckets.upper()]
        locks.check_bucket(state, lock)
        compression = Compression[self.settings.compression.upper()]
        bucket = Bucket(
            name,
            state,
            core.next_seq(),
            unversioned,
            compression=compression,
            owner=owner,
            location=location,
            lock=lock,
            purge=PurgePolicy[self.settings.new_buckets_purge.upper()],
        )
        now = core.clock()
        ino = Ino(core.new_id())
        root = core.catalog.inode(STORE_ROOT)
        mode, gid = handed_down(root, stat.S_IFDIR | stat.S_IMODE(mode), gid)
        inode = Inode(mode, 2, uid, gid, 0, now, now, now, now, ino, KeyId(0))
        default = None if umask is None else self.tree.inherit(STORE_ROOT, root, inode, umask)
        changes: list[events.Change] = [events.BucketSet(ino, bucket)]
        if default is not None:
            changes.append(events.AttributeSet(ino, acl.DEFAULT, default))
            inode.attributes = True
        changes.append(events.InodeSet(ino, inode))
        changes.append(events.EntrySet(STORE_ROOT, directory_key(name), ino))
        changes.append(events.DirectoryTouched(STORE_ROOT, now, 1))
        core.commit("create bucket", changes)
        return ino

    def find_bucket(self, name: bytes) -> Ino:
        """The root directory of a bucket. Raises NoSuchBucket."""
        ino = self._core.catalog.entry(STORE_ROOT, directory_key(name))
        if ino is None:
            raise NoSuchBucket(f"no bucket {show(name)}")
        return ino

    def bucket(self, ino: Ino) -> Bucket:
        """A bucket by its root directory. Raises NoSuchKey."""
        return self._core.catalog.bucket(ino)

    def is_bucket(self, ino: Ino) -> bool:
        """Whether an inode is the root directory of a bucket."""
        return self._core.catalog.find_bucket(ino) is not None

    def buckets(self) -> list[tuple[Ino, Bucket]]:
        """All buckets, by name."""
        return sorted(self._core.catalog.buckets(), key=lambda item: item[1].name)

    def delete_bucket(self, name: bytes) -> Ino:
        """Remove a bucket that has neither keys nor history. Raises NoSuchBucket, BucketNotEmpty."""
        core = self._core
        ino = self.find_bucket(name)
        self.files.publish_in(ino)
        if next(core.catalog.entries(ino), None) is not None:
            raise BucketNotEmpty(f"bucket {show(name)} is not empty")
        versions = core.catalog.bucket(ino).versions
        if versions:
            raise BucketNotEmpty(f"bucket {show(name)} has history: {versions} versions and delete markers")
        core.drop_bucket(name, ino)
        return ino

    def set_versioning(self, ino: Ino, state: State, *, is_root: bool = False) -> None:
        """Change a bucket's versioning state through the mount. Raises InvalidState, Locked, NotPermitted."""
        bucket = self._core.catalog.bucket(ino)
        wanted = rules.change_state(bucket.state, state)
        locks.check_bucket(wanted, bucket.lock)
        if wanted is not bucket.state:
            locks.check_code(bucket)
            changed = msgspec.structs.replace(bucket, state=wanted)
            purging.check_settings(bucket, changed, Way.COMMAND, is_root=is_root)
            self._core.commit("set versioning", [events.BucketSet(ino, changed)])

    def set_compression(self, ino: Ino, compression: Compression) -> None:
        """Change how files of a bucket that are opened from now on store what is written; what is stored stays as it
        is. Raises NoSpace, DiskFailed.
        """
        bucket = self._core.catalog.bucket(ino)
        if compression is not bucket.compression:
            changed = msgspec.structs.replace(bucket, compression=compression)
            self._core.commit("set compression", [events.BucketSet(ino, changed)])

    def set_purge_policy(self, ino: Ino, policy: PurgePolicy) -> None:
        """Change who may remove versions of a bucket for good, and how. Raises NoSpace, DiskFailed."""
        bucket = self._core.catalog.bucket(ino)
        if policy is not bucket.purge:
            changed = msgspec.structs.replace(bucket, purge=policy)
            self._core.commit("set purge policy", [events.BucketSet(ino, changed)])

    # -- numbers ----------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, int]:
        """What is in the store, in numbers: for `vfs status`."""
        catalog = self._core.catalog
        buckets = [bucket for _, bucket in self.buckets()]
        return {
            "Buckets": len(buckets),
            "Versions": sum(bucket.versions for bucket in buckets),
            "VersionBytes": shown_size(sum(bucket.size for bucket in buckets)),
            "LiveBytes": shown_size(sum(bucket.live for bucket in buckets)),
            "HistoryBytes": shown_size(max(sum(bucket.size - bucket.live for bucket in buckets), 0)),
            "ReclaimableBytes": max(self._used_by_blocks() - catalog.live_bytes(), 0),
            "Blocks": catalog.count("blocks"),
            "StoreBytes": self.root.used_bytes(),
            "Events": self._core.journal.end.number,
            "EventsUncommitted": self.events_since_checkpoint,
            "RecordsSetAside": catalog.count("aside"),
            "DraftsKept": len(self.files.kept),
        }

    def _used_by_blocks(self) -> int:
        with self.root.folder(BLOCKS) as folder:
            return folder.used_bytes()

    @property
    def core(self) -> Core:
        """The inside, for vfs.check and for tests."""
        return self._core


class Ends(NamedTuple):
    """Where blocks and journal ended at some moment."""

    blocks: End
    journal: Position

    def after(self, other: Ends | None) -> Ends:
        """The later of two moments."""
        return self if other is None else max(self, other)

    def shares_segments(self, other: Ends) -> bool:
        """Whether no segment was begun in between."""
        return self.blocks.segment == other.blocks.segment and self.journal.segment == other.journal.segment

    def bytes_to(self, later: Ends) -> int:
        """Bytes that were appended in between, to the same segments."""
        return later.blocks.offset - self.blocks.offset + later.journal.offset - self.journal.offset


class Pending(msgspec.Struct, frozen=True):
    """A sync that was begun. half: of the sync log, which nobody needs when it is done."""

    number: int
    journal: list[File]
    blocks: dict[int, File]
    ends: Ends
    half: int | None


class Logged(NamedTuple):
    """A record of the sync log that was begun. number: of the last record of the journal that it makes durable."""

    number: int
    ends: Ends
    entry: Entry


def sync_files(pending: Pending) -> None:
    """The slow part of a sync, for any thread. Raises DiskFailed."""
    for file in pending.blocks.values():
        file.sync()
    for file in pending.journal:
        file.sync()


def shown_size(size: Decimal | int) -> int:
    """A sum of sizes in bytes as a number that JSON readers take; what is beyond 63 bits is shown as that."""
    return min(int(size), (1 << 63) - 1)


def _prepare(path: Path, *, foreign: bool) -> Folder:
    """Make the directory of a new store, or see that it is one. Raises NotAStore."""
    try:
        root = Folder.at(path, foreign=foreign, make=True)
        layout.check(root)
        names = root.names()
    except NotADirectoryError:
        raise NotAStore(f"{path} is not a directory; name a store, or a directory to make") from None
    except OSError as error:
        raise NotAStore(f"{path}: {error.strerror}") from error
    if DESCRIPTION not in names:
        check_empty(path, names)
        _describe(root, FORMATS[-1])
        log.info("made a new store in %s", path)
    return root


def open_root(path: Path, *, foreign: bool = False) -> Folder:
    """The directory of a store that exists. foreign: see Store.open. Raises NotAStore."""
    try:
        root = Folder.at(path, foreign=foreign)
        is_store = root.find(DESCRIPTION) is not None
    except (FileNotFoundError, NotADirectoryError):
        is_store = False
    except OSError as error:
        raise NotAStore(f"{path}: {error.strerror}") from error
    if not is_store:
        raise NotAStore(f"{path} is no vfs store (it has no {DESCRIPTION}); name the directory of a store")
    return root


def check_empty(path: Path, names: Sequence[str]) -> None:
    """See that a directory holds nothing but what may lie in a store before it is made. Raises NotAStore."""
    strangers = sorted(set(names) - BEFORE_A_STORE)
    if strangers:
        raise NotAStore(f"{path} is no vfs store and not empty (it has {strangers[0]}); name another directory")


def _describe(root: Folder, number: int) -> None:
    """Name the format of a store."""
    root.replace(DESCRIPTION, DESCRIPTION + ".new", f'format = {number}\nengine = "lmdb-0.9"\n'.encode())


def _description(root: Folder) -> dict[str, object]:
    try:
        return tomllib.loads(root.read(DESCRIPTION, DESCRIPTION_BYTES_MAX).decode())
    except (ValueError, RecursionError, OSError) as error:  # TOML's and UTF-8's errors are ValueErrors
        raise NotAStore(f"{root.path / DESCRIPTION}: {error}") from error


def _format(root: Folder) -> int:
    found = _description(root).get("format")
    return found if isinstance(found, int) else FORMATS[0]


def check_description(root: Folder) -> None:
    """See that this vfs can read the store. Raises NotAStore."""
    description = _description(root)
    number, engine = description.get("format"), description.get("engine")
    if number not in FORMATS or engine != "lmdb-0.9":
        found = f"format {number} with {engine}" if isinstance(number, int) and isinstance(engine, str) else "no format"
        known = f"formats {FORMATS[0]} to {FORMATS[-1]}"
        raise NotAStore(f"{root.path} has {found}, and this vfs reads {known} with lmdb-0.9")
