"""A simulated disk: vfs.disk.Disk in memory, which can lose power, die, fill up and break.

The fault model. A power loss keeps

- the names of files (Disk.open makes them durable when it creates), removed files stay removed;
- whatever was in a file when it was last synced, up to a later cut;
- of each append since then, independently of all others in this file and in every other file: all of it, none of it,
  or a part of it, torn at any byte: a prefix, a suffix, or a prefix followed by rubbish. So later data may survive
  where earlier data does not. What is missing in front of something that survived reads as zeros; what is missing at
  the end may be missing from the length too, or read as zeros;
- nothing more after a sync that failed: what it should have made durable may be lost although a later sync succeeds
  (Linux marks the pages clean and reports the error once), and is still read back until the power goes.

The death of the process (`kill`) loses nothing that was appended. Memory (`File.read`) always shows what was appended:
only `crash` looks at what was synced.

Calls that may fail (`append sync truncate create remove`) ask `fault` first, with the name of the call and the path;
what it raises is raised, with nothing changed. `fail_at` makes such a function for the n-th call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from vfs.disk import Buffer
from vfs.errors import DiskFailed, NoSpace, VfsError

Fault = Callable[[str, str], None]

CALLS = frozenset({"append", "sync", "truncate", "create", "remove"})


def no_fault(call: str, path: str) -> None:
    """A disk that works."""


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


class Stored:
    """The bytes of one file: `data` as written; what of it was not synced is in `appends` (start, end).

    `doomed`: appends that a failed sync has touched; no later sync saves them.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.appends: list[tuple[int, int]] = []
        self.doomed: list[tuple[int, int]] = []

    def copy(self) -> Stored:
        twin = Stored(self.data)
        twin.appends = list(self.appends)
        twin.doomed = list(self.doomed)
        return twin

    def cut(self, size: int) -> None:
        del self.data[size:]
        self.appends = [(start, min(end, size)) for start, end in self.appends if start < size]
        self.doomed = [(start, min(end, size)) for start, end in self.doomed if start < size]

    def after_power_loss(self, rng: random.Random) -> bytes:
        """What is found, by the fault model above."""
        unsafe = sorted(self.doomed + self.appends)
        found = bytearray(self.data)
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
        if call in CALLS:
            self._disk.fault(call, self._path)

    def append(self, buffers: Sequence[Buffer]) -> int:
        data = b"".join(buffers)
        self._check("append")
        if self._disk.used + len(data) > self._disk.capacity:
            raise NoSpace(f"simulated: {self._path} does not fit")
        start = len(self._stored.data)
        assert self.size == start, f"two writers of {self._path}"
        self._stored.data += data
        self._stored.appends.append((start, start + len(data)))
        self.size = start + len(data)
        return start

    def read(self, offset: int, length: int) -> bytes:
        self._check("read")
        return bytes(self._stored.data[offset : offset + length])

    def sync(self) -> None:
        try:
            self._check("sync")
        except DiskFailed:
            self._stored.doomed += self._stored.appends
            self._stored.appends.clear()
            raise
        self._stored.appends.clear()

    def truncate(self, size: int) -> None:
        self._check("truncate")
        self._stored.cut(size)
        self.size = size

    def close(self) -> None:
        self._open = False


class SimDisk:
    """A Disk in memory. *capacity*: bytes of all files together, from which on there is NoSpace."""

    def __init__(self, capacity: int = 1 << 62) -> None:
        self._folders: set[str] = set()
        self._files: dict[str, Stored] = {}
        self.capacity = capacity
        self.fault: Fault = no_fault

    # -- vfs.disk.Disk ----------------------------------------------------------------------------------------

    def list(self, folder: str) -> list[str]:
        self._folders.add(folder)
        return sorted(path.removeprefix(folder + "/") for path in self._files if path.startswith(folder + "/"))

    def open(self, path: str, *, create: bool = False) -> SimFile:
        if create:
            self.fault("create", path)
            if path in self._files or path.rpartition("/")[0] not in self._folders:
                raise DiskFailed(f"simulated: cannot create {path}")
            self._files[path] = Stored()
        if path not in self._files:
            raise DiskFailed(f"simulated: no {path}")
        return SimFile(self, path, self._files[path])

    def remove(self, path: str) -> None:
        self.fault("remove", path)
        if path not in self._files:
            raise DiskFailed(f"simulated: no {path}")
        del self._files[path]

    # -- for tests --------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        return sum(len(stored.data) for stored in self._files.values())

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

    def kill(self) -> SimDisk:
        """The disk as the next process finds it after this one died: everything is there, not everything is synced.

        The old disk's files stay as they are: nothing that the dead process may still do reaches the new one.
        """
        return self._twin(lambda stored: stored.copy())

    def crash(self, rng: random.Random) -> SimDisk:
        """The disk as found after a power loss. *rng* makes every choice of the fault model."""
        return self._twin(lambda stored: Stored(stored.after_power_loss(rng)))

    def _twin(self, of: Callable[[Stored], Stored]) -> SimDisk:
        twin = SimDisk(self.capacity)
        twin._folders = set(self._folders)
        twin._files = {path: of(self._files[path]) for path in sorted(self._files)}
        return twin
