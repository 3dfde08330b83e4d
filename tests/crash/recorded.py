"""What a real SQLite does to its files, recorded by strace, and done again to a store on the simulated disk.

The recorded program says on stderr when a COMMIT has returned. SQLite uses few calls on its files; any other one is an
error here, so that nothing is left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.syncing import sync
from vfs import files
from vfs.model import Ino, Writer
from vfs.store import Store

SQLITE = Writer(0, 1, "sqlite")

PROGRAM = """
import os, random, sys
from tests.torture.transactions import CREATE, connect, transact
database = connect(sys.argv[1], sys.argv[2])
database.execute(f"PRAGMA synchronous = {sys.argv[3]}")
database.execute("PRAGMA locking_mode = EXCLUSIVE" if sys.argv[2] == "WAL" else "SELECT 1")  # no shared memory
database.execute(CREATE)
for number in range(1, int(sys.argv[4]) + 1):
    transact(database, number, random.Random(number))
    os.write(2, b"committed %d" % number)
database.close()
"""
_CALLS = "openat,pwrite64,pwritev,write,fsync,fdatasync,ftruncate,fallocate,unlink,close,rename"
_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) = (-?\d+)")
_HEX = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class Call:
    """One call. name: of the file below the recorded folder, or empty for the folder itself."""

    call: str
    name: str
    descriptor: int = -1
    data: bytes = b""
    number: int = 0  # an offset or a size; of `committed`, the transaction


def record(folder: Path, mode: str, synchronous: str, transactions: int) -> list[Call]:
    """What SQLite does for some transactions in a new database, in order."""
    trace = folder.with_suffix(".trace")
    folder.mkdir()
    program = [sys.executable, "-c", PROGRAM, str(folder / "db"), mode, synchronous, str(transactions)]
    command = ["strace", "-f", "-y", "-xx", "-s", "1000000", "-e", f"trace={_CALLS}", "-o", str(trace), *program]
    subprocess.run(command, check=True, timeout=60, capture_output=True, cwd=Path(__file__).parent.parent.parent)
    calls = [call for line in trace.read_text().splitlines() if (call := _parse(line, str(folder))) is not None]
    assert calls[-1].call == "close"
    return calls


def _parse(line: str, folder: str) -> Call | None:
    """A line of strace, if it is about a file in the folder or tells a commit."""
    found = _LINE.match(line)
    if found is None:
        return None
    call, arguments, result = found[1], _HEX.sub(lambda one: chr(int(one[1], 16)), found[2]), int(found[3])
    if call == "write" and arguments.startswith("2<") and '"committed ' in arguments:
        return Call("committed", "", number=int(re.search(r'"committed (\d+)"', arguments)[1]))  # type: ignore[index]
    where = re.search(re.escape(folder) + r'(?:/([^">]*))?[">]', arguments)
    if where is None or result < 0:
        return None
    name = where[1] or ""
    descriptor = int(arguments.partition("<")[0]) if re.match(r"\d+<", arguments) else result
    match call:
        case "pwrite64":
            data, _, rest = arguments.partition('"')[2].rpartition('"')
            length, offset = (int(number) for number in rest.removeprefix(", ").split(", "))
            assert result == length == len(data)
            return Call(call, name, descriptor, data.encode("latin-1"), offset)
        case "ftruncate":
            return Call(call, name, descriptor, number=int(arguments.rpartition(", ")[2]))
        case "openat" | "fsync" | "fdatasync" | "unlink" | "close":
            return Call(call, name, descriptor)
        case _:
            raise AssertionError(f"not known how to repeat: {line[:200]}")


class Replay:
    """The recorded calls on a bucket of a store, as the mount would have them. committed: the last transaction told.

    sync_each: every change of a name waits for the disk, as with ``durability = "close"``.
    """

    def __init__(self, store: Store, bucket: Ino, *, sync_each: bool = False) -> None:
        self._store = store
        self._bucket = bucket
        self._sync_each = sync_each
        self._handles: dict[int, files.Handle] = {}
        self.committed = 0

    def run(self, calls: list[Call], between: Callable[[], None]) -> None:
        """Do all calls; *between* is called after each."""
        for call in calls:
            self._do(call)
            between()

    def _do(self, call: Call) -> None:
        store, handle, name = self._store, self._handles.get(call.descriptor), call.name.encode()
        match call.call:
            case "committed":
                self.committed = call.number
            case "openat" if name:
                self._handles[call.descriptor] = self._open(name)
            case "pwrite64":
                assert handle is not None
                store.files.write(handle, call.number, call.data)
            case "ftruncate":
                assert handle is not None
                store.files.truncate(handle, call.number)
            case "fsync" | "fdatasync":
                if handle is not None:
                    store.files.flush(handle)
                sync(store)
            case "unlink":
                store.tree.unlink(self._bucket, name, SQLITE)
                if self._sync_each:
                    sync(store)
            case "close" if handle is not None:
                del self._handles[call.descriptor]
                store.files.flush(handle)
                store.files.release(handle)

    def _open(self, name: bytes) -> files.Handle:
        ino = self._store.tree.find(self._bucket, name)
        created = ino is None
        if ino is None:
            ino, _ = self._store.tree.create(self._bucket, name, 0o644, 0, SQLITE)
            if self._sync_each:
                sync(self._store)
        return self._store.files.open(ino, SQLITE, created=created)
