"""A simulated disk: vfs.disk.Disk in memory, which can lose power, die, fill up and break.

The fault model. A power loss keeps

- the names of files (Disk.open makes them durable when it creates), removed files stay removed; but a name that was
  being made or removed at that moment may be there or not, as its directory had not been synced;
- whatever was in a file when it was last synced, up to a later cut;
- of each append since then, independently of all others in this file and in every other file: all of it, none of it,
  or a part of it, torn at any byte: a prefix, a suffix, or a prefix followed by rubbish. So later data may survive
  where earlier data does not. What is missing in front of something that survived reads as zeros; what is missing at
  the end may be missing from the length too, or read as zeros;
- of each write over other bytes since then, independently: the new bytes, those from before, or new ones up to some
  byte or from some byte on, and old ones in the rest;
- of each range that was punched since then, independently: the zeros, or the bytes from before;
- nothing more after a sync that failed: what it should have made durable may be lost although a later sync succeeds
  (Linux marks the pages clean and reports the error once), and is still read back until the power goes. Only what is
  written once more, and then synced, is safe.

The death of the process (`kill`) loses nothing that was appended; an append that it dies in may be cut at any byte.
Memory (`File.read`) always shows what was appended: only `crash` looks at what was synced.

A crash can come at any moment: `watch` is called before each call that changes something, and again when it is half
done (`append` then `appending`, …); what it does with `crash` and `kill` of that moment is its business.

A page that is `spoiled` cannot be read any more, in this life or another one, until its file is removed.

Calls that may fail (those of CALLS, and `read`) ask `fault` first, with the name of the call and the path; what it
raises is raised, with nothing changed. `fail_at` makes such a function for one call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Collection, Iterator, Sequence

from vfs.disk import Buffer
from vfs.errors import DiskFailed, NoSpace, VfsError

Fault = Callable[[str, str], None]
Watch = Callable[[str, str], None]

CALLS = frozenset({"append", "write", "sync", "truncate", "create", "remove", "rename", "reserve", "punch"})
PAGE_BYTES = 4096


def no_fault(call: str, path: str) -> None:
    """A disk that works."""


def nobody(call: str, path: str) -> None:
    """Nobody watches."""


def fail_at(
    number: int, error: type[VfsError], *, calls: Collection[str] = CALLS, lasting: bool = False, under: str = ""
) -> Fault:
    """Fail at call *number* (from 1) of those among *calls* on paths *under* a folder; *lasting*: and ever after."""
    count = 0

    def fault(call: str, path: str) -> None:
        nonlocal count
        if call in calls and path.startswith(under):
            count += 1
            if count == number or (lasting and count > number):
                raise error(f"simulated: {call} number {count} on {path}")

    return fault


class Count:
    """A fault that refuses nothing: how many of these calls there have been."""

    def __init__(self, calls: Collection[str]) -> None:
        self.calls = calls
        self.seen = 0

    def __call__(self, call: str, path: str) -> None:
        self.seen += call in self.calls


class Stored:
    """The bytes of one file: `data` as written; what of it was not synced is in `appends` (start, end).

    `doomed`: appends that a failed sync has touched; no later sync saves them.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.appends: list[tuple[int, int]] = []
        self.doomed: list[tuple[int, int]] = []
        self.punched: list[tuple[int, bytes]] = []  # where, and what was there
        self.written: list[tuple[int, bytes]] = []  # the same of what was written over
        self.doomed_written: list[tuple[int, bytes]] = []
        self.rewritten: list[tuple[int, int]] = []  # what the next sync saves, also of the doomed
        self.reserved = 0  # room up to this size is set aside
        self.bad_pages: set[int] = set()

    def copy(self) -> Stored:
        twin = Stored(self.data)
        twin.bad_pages = set(self.bad_pages)
        twin.punched = list(self.punched)
        twin.written = list(self.written)
        twin.doomed_written = list(self.doomed_written)
        twin.rewritten = list(self.rewritten)
        twin.reserved = self.reserved
        twin.appends = list(self.appends)
        twin.doomed = list(self.doomed)
        return twin

    def cut(self, size: int) -> None:
        del self.data[size:]
        self.appends = [(start, min(end, size)) for start, end in self.appends if start < size]
        self.doomed = [(start, min(end, size)) for start, end in self.doomed if start < size]

    def synced(self) -> None:
        """All is safe but what is doomed, and of that what was written again since."""
        for offset, end in self.rewritten:
            self.doomed = [
                (start, stop)
                for one, other in self.doomed
                for start, stop in ((one, min(other, offset)), (max(one, end), other))
                if start < stop
            ]
            kept = []
            for at, old in self.doomed_written:
                kept.append((at, old[: max(0, offset - at)]))
                kept.append((max(at, end), old[max(0, end - at) :]))
            self.doomed_written = [(at, old) for at, old in kept if old]
        for unsafe in (self.appends, self.written, self.rewritten, self.punched):
            unsafe.clear()

    def not_synced(self) -> None:
        """Nothing of it is safe, nor will be."""
        self.doomed += self.appends
        self.doomed_written += self.written
        for unsafe in (self.appends, self.written, self.rewritten):
            unsafe.clear()

    def after_power_loss(self, rng: random.Random) -> Stored:
        """What is found, by the fault model above."""
        found = Stored(self._bytes_after_power_loss(rng))
        found.bad_pages = set(self.bad_pages)
        return found

    def _bytes_after_power_loss(self, rng: random.Random) -> bytes:
        unsafe = sorted(self.doomed + self.appends)
        found = bytearray(self.data)
        for at, old in reversed(self.punched):
            if rng.random() < 0.5 and at + len(old) <= len(found):
                found[at : at + len(old)] = old
        for at, old in reversed(self.doomed_written + self.written):
            if rng.random() < 0.7:
                old = old[: max(0, len(found) - at)]
                start = rng.choice((0, 0, rng.randint(0, len(old))))
                stop = rng.choice((len(old), len(old), rng.randint(start, len(old))))
                found[at + start : at + stop] = old[start:stop]
        reach = unsafe[0][0] if unsafe else len(found)  # everything before was synced
        for start, end in unsafe:
            kept = self._torn(rng, bytes(found[start:end]))
            found[start:end] = kept
            if any(kept):
                reach = max(reach, end if rng.random() < 0.5 else start + len(kept.rstrip(b"\0")))
        if rng.random() < 0.5:  # the length went with the data
            del found[reach:]
        return bytes(found)

    @staticmethod
    def _torn(rng: random.Random, data: bytes) -> bytes:
        at = rng.randint(0, len(data))
        match rng.choice(("all", "all", "none", "prefix", "suffix", "rubbish")):
            case "all":
                return data
            case "none":
                return bytes(len(data))
            case "prefix":
                return data[:at].ljust(len(data), b"\0")
            case "suffix":
                return bytes(at) + data[at:]
            case _:
                return data[:at] + bytes(rng.randrange(256) for _ in range(len(data) - at))


class SimFile:
    """An open File of a SimDisk."""

    def __init__(self, disk: SimDisk, path: str, stored: Stored) -> None:
        self._disk = disk
        self._path = path
        self._stored = stored
        self._open = True
        self.size = len(stored.data)

    def _check(self, call: str) -> None:
        if not self._open:
            raise DiskFailed(f"simulated: {call} of {self._path}, which was closed")
        self._disk.fault(call, self._path)

    def append(self, buffers: Sequence[Buffer]) -> int:
        data = b"".join(buffers)
        self._check("append")
        start = len(self._stored.data)
        if self._disk.used + max(0, start + len(data) - max(start, self._stored.reserved)) > self._disk.capacity:
            raise NoSpace(f"simulated: {self._path} does not fit")
        assert self.size == start, f"two writers of {self._path}"
        self._disk.watch("append", self._path)
        self._stored.data += data
        self._stored.appends.append((start, start + len(data)))
        with self._disk.half_done("appending", self._path, start):
            self.size = start + len(data)
        return start

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(buffers)
        self._check("write")
        stored = self._stored
        size, end = len(stored.data), offset + len(data)
        if self._disk.used + max(0, end - max(size, stored.reserved)) > self._disk.capacity:
            raise NoSpace(f"simulated: {self._path} does not fit")
        self._disk.watch("write", self._path)
        before = stored.copy()
        if offset < size:
            stored.written.append((offset, bytes(stored.data[offset:end])))
            stored.rewritten.append((offset, end))
        if end > size:
            stored.data += bytes(end - size)
            stored.appends.append((size, end))
        stored.data[offset:end] = data
        with self._disk.half_done("writing", self._path, before):
            self.size = len(stored.data)

    def read(self, offset: int, length: int) -> bytes:
        self._check("read")
        for page in range(offset // PAGE_BYTES, -(-(offset + length) // PAGE_BYTES)):
            if page in self._stored.bad_pages:
                error = OSError(errno.EIO, os.strerror(errno.EIO))
                raise DiskFailed(f"simulated: cannot read {self._path} at {page * PAGE_BYTES}") from error
        return bytes(self._stored.data[offset : offset + length])

    def next_data(self, offset: int) -> int:
        return offset

    def sync(self) -> None:
        try:
            self._check("sync")
        except DiskFailed:
            self._stored.not_synced()
            raise
        self._disk.watch("sync", self._path)
        self._stored.synced()

    def truncate(self, size: int) -> None:
        self._check("truncate")
        self._disk.watch("truncate", self._path)
        before = self._stored.copy()
        self._stored.cut(size)
        with self._disk.half_done("truncating", self._path, before):
            self._stored.reserved = 0
        self.size = size

    def reserve(self, size: int) -> None:
        self._check("reserve")
        stored = self._stored
        if self._disk.used + max(0, size - max(len(stored.data), stored.reserved)) > self._disk.capacity:
            raise NoSpace(f"simulated: no room for {self._path}")
        stored.reserved = max(stored.reserved, size)

    def release(self) -> None:
        self._stored.reserved = 0

    def punch(self, offset: int, length: int) -> None:
        self._check("punch")
        self._disk.watch("punch", self._path)
        old = bytes(self._stored.data[offset : offset + length])
        self._stored.punched.append((offset, old))
        self._stored.data[offset : offset + length] = bytes(len(old))

    def allocated(self) -> int:
        data = bytes(self._stored.data)
        pages = sum(any(data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES))
        return max(pages * PAGE_BYTES, self._stored.reserved)

    def close(self) -> None:
        self._open = False


class SimDisk:
    """A Disk in memory. *capacity*: bytes of all files together, from which on there is NoSpace."""

    def __init__(self, capacity: int = 1 << 62) -> None:
        self._folders: set[str] = set()
        self._files: dict[str, Stored] = {}
        self.capacity = capacity
        self.fault: Fault = no_fault
        self.watch: Watch = nobody
        self._half: tuple[str, int | Stored | str] | None = (
            None  # of the call that is half done: its path, and what was
        )

    # -- vfs.disk.Disk ----------------------------------------------------------------------------------------

    def list(self, folder: str) -> list[str]:
        self._folders.add(folder)
        return sorted(path.removeprefix(folder + "/") for path in self._files if path.startswith(folder + "/"))

    def open(self, path: str, *, create: bool = False) -> SimFile:
        if create:
            self.fault("create", path)
            if path in self._files or path.rpartition("/")[0] not in self._folders:
                raise DiskFailed(f"simulated: cannot create {path}")
            self.watch("create", path)
            self._files[path] = Stored()
            with self.half_done("creating", path, 0):
                pass
        if path not in self._files:
            raise DiskFailed(f"simulated: no {path}")
        return SimFile(self, path, self._files[path])

    def remove(self, path: str) -> None:
        self.fault("remove", path)
        if path not in self._files:
            raise DiskFailed(f"simulated: no {path}")
        self.watch("remove", path)
        removed = self._files.pop(path)
        with self.half_done("removing", path, removed):
            pass

    def rename(self, path: str, new: str) -> None:
        self.fault("rename", new)
        if path not in self._files:
            raise DiskFailed(f"simulated: no {path}")
        self.watch("rename", new)
        self._files[new] = self._files.pop(path)
        with self.half_done("renaming", new, path):
            pass

    @contextlib.contextmanager
    def half_done(self, call: str, path: str, before: int | Stored | str) -> Iterator[None]:
        """*call* has changed *path*, and is not over. before: where an append begins, what was there, the old name."""
        self._half = path, before
        try:
            self.watch(call, path)
        finally:
            self._half = None
        yield

    # -- for tests --------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        return sum(max(len(stored.data), stored.reserved) for stored in self._files.values())

    @property
    def paths(self) -> list[str]:
        return sorted(self._files)

    def contents(self, path: str) -> bytes:
        """The bytes of a file, as the process would read them."""
        return bytes(self._files[path].data)

    def replace(self, path: str, data: bytes) -> None:
        """Put other bytes there, durable: damage, or a cut."""
        self._files[path] = Stored(data)

    def flip(self, path: str, offset: int, mask: int = 0xFF) -> None:
        """Damage one byte, whether it was synced or not."""
        self._files[path].data[offset] ^= mask

    def spoil(self, path: str, offset: int) -> None:
        """Make the page of one byte unreadable."""
        self._files[path].bad_pages.add(offset // PAGE_BYTES)

    def kill(self, rng: random.Random | None = None) -> SimDisk:
        """The disk as the next process finds it after this one died: everything is there, not everything is synced.

        The old disk's files stay as they are: nothing that the dead process may still do reaches the new one. *rng*
        says where an append is cut that is half done.
        """
        twin = self._twin(lambda stored: stored.copy())
        if self._half is not None and isinstance(self._half[1], int) and rng is not None:
            path, start = self._half
            stored = twin._files[path]
            stored.cut(rng.randint(start, len(stored.data)))
        return twin

    def crash(self, rng: random.Random) -> SimDisk:
        """The disk as found after a power loss. *rng* makes every choice of the fault model."""
        twin = self._twin(lambda stored: stored.after_power_loss(rng))
        if self._half is not None and rng.random() < 0.5:
            path, before = self._half
            if isinstance(before, Stored):  # the cut, or the removal of the name, is not on the disk
                twin._files[path] = before.after_power_loss(rng)
            elif isinstance(before, str):  # the file has its old name
                twin._files[before] = twin._files.pop(path)
            elif not self._files[path].data:  # the new name is not
                del twin._files[path]
        return twin

    def _twin(self, of: Callable[[Stored], Stored]) -> SimDisk:
        twin = SimDisk(self.capacity)
        twin._folders = set(self._folders)
        twin._files = {path: of(self._files[path]) for path in sorted(self._files)}
        return twin
