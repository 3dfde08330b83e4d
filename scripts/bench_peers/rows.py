"""What scripts/bench measures: each row of its table, and how.

A *group* does things to one mounted peer and yields (row key, value) as it goes; a value is in its row's unit.
System calls are made through `os` alone, so that no Python file object adds any.

*Uncached* names: as root the kernel's dentries are dropped, otherwise the peer is mounted afresh (which does
nothing for a plain directory). *Cold* content: mounted afresh after its store's pages have been evicted;
*fresh*: mounted afresh with the store in the page cache, so that no disk is in the way.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench_peers.peers import Peer

CHUNK_BYTES = 1 << 20
SMALL_BYTES = 4096
SETTLE_S = 0.02
"""Between two timed loops: what the kernel sends later than the call (RELEASE, FORGET) is over by then."""

DROP_CACHES = "/proc/sys/vm/drop_caches"


@dataclass(frozen=True, slots=True)
class Scale:
    """How many rounds there are, and how much of everything there is in one."""

    rounds: int = 7
    bulk_rounds: int = 2
    work_rounds: int = 2
    big_bytes: int = 1 << 30
    files: int = 200
    """In the rows that give the time of one operation."""
    entries: int = 10_000
    big_directory: int = 50_000
    small_files: int = 10_000
    git_files: int = 2000
    modules: int = 500
    c_files: int = 40
    transactions: int = 200
    syncs: int = 200
    packages: int = 100
    """That npm installs."""
    postgres_seconds: int = 3
    clients: int = 64
    """At most, at once."""
    client_seconds: int = 3


FULL = Scale()
QUICK = Scale(
    rounds=3,
    bulk_rounds=1,
    work_rounds=1,
    big_bytes=32 << 20,
    files=50,
    entries=500,
    big_directory=1000,
    small_files=200,
    git_files=200,
    modules=20,
    c_files=4,
    transactions=20,
    syncs=20,
    packages=3,
    postgres_seconds=1,
    clients=4,
    client_seconds=1,
)


@dataclass(frozen=True, slots=True)
class Row:
    """`title` may name fields of `Scale` in braces; ratios are to the peer `baseline`."""

    key: str
    title: str
    unit: str
    baseline: str = "empty"


def titled(row: Row, scale: Scale) -> Row:
    return replace(row, title=row.title.format_map(asdict(scale)))


SMALL_ROWS = (
    Row("create", "create + write 4 KiB + close", "µs"),
    Row("stat", "stat, uncached", "µs"),
    Row("read", "open + read 4 KiB + close, first", "µs"),
    Row("reread", "open + read 4 KiB + close, again", "µs"),
    Row("overwrite", "overwrite 4 KiB", "µs"),
    Row("rename", "rename", "µs"),
    Row("unlink", "unlink", "µs"),
    Row("mkdir", "mkdir", "µs"),
)
LIST_ROWS = (Row("list", "list and stat {entries:,} entries", "ms"),)
BULK_ROWS = (
    Row("write", "sequential write, new content", "s"),
    Row("read-warm", "sequential read, warm", "s"),
    Row("read-fresh", "sequential read, fresh mount", "s"),
    Row("read-cold", "sequential read, cold", "s"),
    Row("change", "4 KiB changed in the big file", "ms"),
    Row("change-disk", "... its new bytes on disk", "KiB"),
    Row("restore", "restore of the big file", "s"),
    Row("restore-disk", "... its new bytes on disk", "KiB"),
)

Value = tuple[str, float]


def small_files(peer: Peer, round_number: int, scale: Scale) -> Iterator[Value]:
    """One operation on each of `scale.files` files, one kind after the other."""
    directory = peer.root / f"small-{round_number}"
    directory.mkdir()
    paths = [str(directory / str(number)) for number in range(scale.files)]
    moved = [path + ".moved" for path in paths]
    before, after = ([os.urandom(SMALL_BYTES) for _ in paths] for _ in range(2))

    yield "create", each_us(create, paths, before)
    drop_names(peer)
    yield "stat", each_us(os.stat, paths)
    yield "read", each_us(read_small, paths)
    yield "reread", each_us(read_small, paths)
    yield "overwrite", each_us(overwrite, paths, after)
    yield "rename", each_us(os.rename, paths, moved)
    yield "unlink", each_us(os.unlink, moved)
    yield "mkdir", each_us(os.mkdir, paths)
    shutil.rmtree(directory)


def make_entries(peer: Peer, scale: Scale) -> None:
    """Make the directory that `listing` lists."""
    directory = peer.root / "entries"
    directory.mkdir()
    for number in range(scale.entries):
        os.close(os.open(directory / f"entry-{number}", os.O_CREAT | os.O_WRONLY, 0o644))


def listing(peer: Peer, scale: Scale) -> Iterator[Value]:
    directory = str(peer.root / "entries")
    drop_names(peer)
    start = time.perf_counter()
    with os.scandir(directory) as entries:
        seen = sum(entry.stat(follow_symlinks=False).st_size >= 0 for entry in entries)
    yield "list", (time.perf_counter() - start) * 1e3
    assert seen == scale.entries, f"{peer.name} lists {seen} of {scale.entries} entries"


def big_file(peer: Peer, round_number: int, content: bytes, wanted: set[str]) -> Iterator[Value]:
    """Write, read, change and restore one file with this content, which the peer must not know yet."""
    path = peer.root / f"big-{round_number}"
    yield "write", timed(lambda: write_content(path, content))
    settle(peer)
    if "read-warm" in wanted:
        read_content(path, len(content))
        yield "read-warm", timed(lambda: read_content(path, len(content)))
    if "read-fresh" in wanted:
        peer.remount()
        yield "read-fresh", timed(lambda: read_content(path, len(content)))
    if "read-cold" in wanted:
        mount_cold(peer)
        yield "read-cold", timed(lambda: read_content(path, len(content)))
    if wanted & {"change", "change-disk", "restore", "restore-disk"}:
        yield from measuring_disk(peer, "change", 1e3, lambda: change(path, len(content) // 2))
    if wanted & {"restore", "restore-disk"}:
        restored = [path]
        yield from measuring_disk(peer, "restore", 1, lambda: restored.append(peer.restore(path)))
        restored[-1].unlink()
    path.unlink(missing_ok=True)
    settle(peer)


def measuring_disk(peer: Peer, key: str, units_per_s: float, action: Callable[[], object]) -> Iterator[Value]:
    """How long it took, and by how much the store, closed before and after, has grown."""
    peer.unmount()
    bytes_before = disk_bytes(peer)
    peer.mount()
    yield key, timed(action) * units_per_s
    peer.unmount()
    if peer.store is not None:
        yield f"{key}-disk", (disk_bytes(peer) - bytes_before) / 1024
    peer.mount()


# One operation each


def create(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.write(fd, data)
    os.close(fd)


def overwrite(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, data)
    os.close(fd)


def read_small(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, SMALL_BYTES)
    os.close(fd)


def change(path: Path, offset: int) -> None:
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, os.urandom(SMALL_BYTES), offset)
    os.close(fd)


def write_content(path: Path, content: bytes) -> None:
    view = memoryview(content)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    position = 0
    while position < len(content):
        position += os.write(fd, view[position : position + CHUNK_BYTES])
    os.close(fd)


def read_content(path: Path, size: int) -> None:
    buffer = bytearray(CHUNK_BYTES)
    fd = os.open(path, os.O_RDONLY)
    position = 0
    while count := os.readv(fd, [buffer]):
        position += count
    os.close(fd)
    assert position == size, f"{path}: read {position} bytes of {size}"


# Time, caches and disk


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def each_us(operation: Callable[..., object], *columns: Sequence[object]) -> float:
    """The mean time of one call, over all; rounds, not calls, give the spread."""
    time.sleep(SETTLE_S)
    start = time.perf_counter()
    for arguments in zip(*columns, strict=True):
        operation(*arguments)
    return (time.perf_counter() - start) / len(columns[0]) * 1e6


def settle(peer: Peer) -> None:
    """Have what was written on the disk before the next thing is measured."""
    subprocess.run(["sync", "-f", peer.store or peer.root], check=True)
    time.sleep(SETTLE_S)


def drop_names(peer: Peer) -> None:
    time.sleep(SETTLE_S)
    try:
        fd = os.open(DROP_CACHES, os.O_WRONLY)
    except PermissionError:
        peer.remount()
        return
    os.write(fd, b"2")
    os.close(fd)


def mount_cold(peer: Peer) -> None:
    """Mount afresh, with nothing of the store in the page cache."""
    peer.unmount()
    for path in files_of(peer.store):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    peer.mount()


def disk_bytes(peer: Peer) -> int:
    return sum(os.stat(path, follow_symlinks=False).st_blocks * 512 for path in files_of(peer.store))


def files_of(store: Path | None) -> Iterator[str]:
    if store is None:
        return
    for directory, _, names in os.walk(store):
        yield from (os.path.join(directory, name) for name in names)
