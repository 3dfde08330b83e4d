"""What programs may do with open files (docs/semantics.md, "System calls")."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import multiprocessing
import os
import shutil
import signal
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import TIMEOUT_S, contents, run, wait_until
from tests.posix import attempt

pytestmark = pytest.mark.fuse

MIB = 1 << 20
TIB = 1 << 40


@contextlib.contextmanager
def opened(path: Path | str, flags: int, mode: int = 0o666) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def open_and_close(path: Path, flags: int) -> str:
    with opened(path, flags):
        return "ok"


@pytest.fixture
def kinds(bucket: Path) -> Path:
    """One of each kind of thing."""
    (bucket / "file").write_bytes(b"content")
    (bucket / "directory").mkdir()
    (bucket / "link").symlink_to("file")
    (bucket / "dangling").symlink_to("nothing")
    (bucket / "loop").symlink_to("loop")
    return bucket


@pytest.mark.parametrize(
    ("name", "flags", "answer"),
    [
        ("file", os.O_RDWR, "ok"),
        ("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, "EEXIST"),
        ("file", os.O_DIRECTORY, "ENOTDIR"),
        ("file", os.O_DIRECT | os.O_RDONLY, "ok"),
        ("nothing", os.O_RDONLY, "ENOENT"),
        ("new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, "ok"),
        ("directory", os.O_RDONLY, "ok"),
        ("directory", os.O_WRONLY, "EISDIR"),
        ("directory", os.O_RDWR, "EISDIR"),
        ("directory", os.O_CREAT | os.O_RDONLY, "EISDIR"),
        ("directory", os.O_TRUNC, "EISDIR"),
        ("directory", os.O_TMPFILE | os.O_RDWR, "ENOTSUP"),
        ("link", os.O_RDONLY, "ok"),
        ("link", os.O_NOFOLLOW, "ELOOP"),
        ("link", os.O_CREAT | os.O_EXCL | os.O_WRONLY, "EEXIST"),
        ("dangling", os.O_RDONLY, "ENOENT"),
        ("dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY, "EEXIST"),
        ("dangling", os.O_CREAT | os.O_WRONLY, "ok"),
        ("loop", os.O_RDONLY, "ELOOP"),
        ("file/below", os.O_RDONLY, "ENOTDIR"),
    ],
)
def test_open(kinds: Path, name: str, flags: int, answer: str) -> None:
    assert attempt(open_and_close, kinds / name, flags) == answer


def test_open_through_a_dangling_link_makes_the_target(kinds: Path) -> None:
    (kinds / "dangling").write_bytes(b"x")
    assert (kinds / "nothing").read_bytes() == b"x"


def test_only_one_process_makes_a_file_with_o_excl(bucket: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.map(_make_exclusively, [str(bucket)] * 4)
    assert sorted(sum(made) for made in zip(*won, strict=True)) == [1] * 50


def _make_exclusively(folder: str) -> list[int]:
    return [int(attempt(open_and_close, Path(folder, str(n)), os.O_CREAT | os.O_EXCL) == "ok") for n in range(50)]


def test_o_append_of_several_processes_loses_nothing(bucket: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_append, [(str(bucket / "log"), who) for who in range(3)])
    lines = (bucket / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{who} {n}" + "." * 200 for who in range(3) for n in range(100))


def _append(path: str, who: int) -> None:
    with opened(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY) as fd:
        for n in range(100):
            os.write(fd, f"{who} {n}".encode() + b"." * 200 + b"\n")


def test_o_append_writes_at_the_end_wherever_it_was(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(b"0123456789")
    with opened(path, os.O_APPEND | os.O_RDWR) as fd:
        assert os.pread(fd, 3, 2) == b"234"
        os.write(fd, b"A")
        os.pwrite(fd, b"B", 0)  # Linux appends here too: pwrite(2), BUGS
        assert os.lseek(fd, 0, os.SEEK_CUR) == 11
    assert path.read_bytes() == b"0123456789AB"


def test_unlinked_while_open(bucket: Path) -> None:
    path = bucket / "f"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"0123456789")
        path.unlink()
        os.ftruncate(fd, 20)
        os.pwrite(fd, b"end", 17)
        os.fchmod(fd, 0o640)
        os.utime(fd, ns=(5, 7))
        os.fsync(fd)
        found = os.fstat(fd)
        assert (found.st_nlink, found.st_size, stat.S_IMODE(found.st_mode)) == (0, 20, 0o640)
        assert (found.st_atime_ns, found.st_mtime_ns) == (5, 7)
        os.setxattr(fd, "user.a", b"b")
        assert os.getxattr(fd, "user.a") == b"b"
        path.write_bytes(b"another")
        with opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as again:
            assert os.read(again, 100) == b"0123456789" + bytes(7) + b"end"
        assert os.pread(fd, 3, 17) == b"end"
    assert path.read_bytes() == b"another"


def test_replaced_while_open(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"old")
    (bucket / "g").write_bytes(b"new")
    with opened(bucket / "f", os.O_RDWR) as fd:
        (bucket / "g").rename(bucket / "f")
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 9, 0) == b"old"
        os.pwrite(fd, b"lost", 0)
    assert (bucket / "f").read_bytes() == b"new"


def _make_fifo(path: Path) -> int:
    os.mkfifo(path)
    return os.open(path, os.O_RDWR)


def _make_directory(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _make_handle(path: Path) -> int:
    path.write_bytes(b"four")
    return os.open(path, os.O_PATH)


@pytest.mark.parametrize(
    ("make", "remove"),
    [
        (_make_fifo, os.unlink),
        (_make_directory, os.rmdir),
        (_make_handle, os.unlink),
        (_make_fifo, lambda path: os.rename(_other_file(path), path)),
        (_make_directory, lambda path: os.rename(_other_directory(path), path)),
    ],
    ids=["fifo", "directory", "o_path", "fifo-replaced", "directory-replaced"],
)
def test_removed_while_held(bucket: Path, make: Callable[[Path], int], remove: Callable[[Path], None]) -> None:
    """What the kernel opens without asking the daemon keeps its attributes too, until it is let go."""
    fd = make(bucket / "x")
    try:
        before = os.fstat(fd)
        remove(bucket / "x")
        after = os.fstat(fd)
        assert (after.st_nlink, after.st_ino, after.st_mode) == (0, before.st_ino, before.st_mode)
        if make is not _make_handle:
            os.fchmod(fd, 0o700)
            os.utime(fd, ns=(1, 2))
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o700
            assert os.fstat(fd).st_mtime_ns == 2
    finally:
        os.close(fd)


def _other_file(path: Path) -> Path:
    path.with_name("other").write_bytes(b"")
    return path.with_name("other")


def _other_directory(path: Path) -> Path:
    path.with_name("other").mkdir()
    return path.with_name("other")


def test_a_removed_working_directory(bucket: Path) -> None:
    (bucket / "d").mkdir()
    with opened(bucket / "d", os.O_RDONLY) as fd:
        (bucket / "d").rmdir()
        assert attempt(os.listdir, fd) in ("ENOENT", [])
        assert attempt(lambda: os.mkdir("e", dir_fd=fd)) == "ENOENT"
        assert attempt(lambda: os.open("e", os.O_CREAT | os.O_WRONLY, dir_fd=fd)) == "ENOENT"


def test_o_path_and_proc(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"content")
    with opened(bucket / "f", os.O_PATH) as fd:
        assert os.fstat(fd).st_size == 7
        assert attempt(os.read, fd, 1) == "EBADF"
        assert attempt(os.fchmod, fd, 0o600) == "EBADF"
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.read(again, 7) == b"content"


@pytest.mark.parametrize("opener", ["write", "truncate"])
def test_a_running_program_is_busy(bucket: Path, opener: str) -> None:
    program = bucket / "program"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as running:
        call = {
            "write": lambda: open_and_close(program, os.O_WRONLY),
            "truncate": lambda: os.truncate(program, 0),
        }[opener]
        assert attempt(call) == "ETXTBSY"
        running.kill()
    assert attempt(call) in ("ok", None)


def test_a_file_being_written_cannot_be_run(bucket: Path) -> None:
    program = bucket / "program"
    shutil.copy(shutil.which("true") or "", program)
    with opened(program, os.O_WRONLY):
        assert attempt(lambda: run([str(program)])) == "ETXTBSY"
    assert run([str(program)]).returncode == 0


# -- size and holes ---------------------------------------------------------------------------------------------------


def test_a_sparse_tebibyte_costs_nothing(bucket: Path) -> None:
    path = bucket / "big"
    path.touch()
    os.truncate(path, TIB)
    assert (path.stat().st_size, path.stat().st_blocks) == (TIB, 0)
    with opened(path, os.O_RDWR) as fd:
        assert os.pread(fd, 4096, TIB // 2) == bytes(4096)
        assert os.pwrite(fd, b"end", TIB - 3) == 3
        assert os.pread(fd, 10, TIB - 5) == b"\0\0end"
        assert os.fstat(fd).st_blocks * 512 <= MIB
    assert path.stat().st_blocks * 512 <= MIB, "du shows what it takes"
    assert max(version.stat().st_blocks * 512 for version in (bucket / ".versions" / "big").iterdir()) <= MIB
    os.truncate(path, TIB // 2)
    assert path.stat().st_blocks == 0, "the end was cut off"
    os.truncate(path, 5)
    assert path.read_bytes() == bytes(5)


@pytest.mark.parametrize("size", [0, 1, 4096, 200_000, 3 * MIB + 1])
def test_blocks_of_a_file_without_holes(bucket: Path, size: int) -> None:
    path = bucket / "f"
    path.write_bytes(b"x" * size)
    assert path.stat().st_blocks == -(-size // 512)
    assert path.stat().st_blksize == 4096


def test_writing_beyond_the_end_leaves_zeros(bucket: Path) -> None:
    path = bucket / "f"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"a")
        assert os.lseek(fd, 5 * MIB, os.SEEK_SET) == 5 * MIB
        assert os.fstat(fd).st_size == 1, "seeking changes nothing"
        os.write(fd, b"z")
        assert os.lseek(fd, -1, os.SEEK_END) == 5 * MIB
        assert os.lseek(fd, 9 * MIB, os.SEEK_SET) == 9 * MIB
        assert os.read(fd, 1) == b""
        assert attempt(os.lseek, fd, -1, os.SEEK_SET) == "EINVAL"
    assert path.read_bytes() == b"a" + bytes(5 * MIB - 1) + b"z"


def test_seek_hole_and_data(bucket: Path) -> None:
    """pyfuse3 has no lseek: the kernel says that all is data, which is always true enough."""
    path = bucket / "f"
    path.touch()
    os.truncate(path, MIB)
    with opened(path, os.O_RDONLY) as fd:
        assert os.lseek(fd, 10, os.SEEK_DATA) == 10
        assert os.lseek(fd, 10, os.SEEK_HOLE) == MIB
        assert attempt(os.lseek, fd, MIB, os.SEEK_DATA) == "ENXIO"
        assert attempt(os.lseek, fd, MIB, os.SEEK_HOLE) == "ENXIO"


@pytest.mark.parametrize(("size", "answer"), [(-1, "EINVAL"), (0, None), (2**63 - 1, None)])
def test_truncate_to(bucket: Path, size: int, answer: object) -> None:
    path = bucket / "f"
    path.write_bytes(b"x")
    assert attempt(os.truncate, path, size) == answer
    assert path.stat().st_size == (1 if answer else size)


def test_ftruncate_wants_a_writer(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"x")
    with opened(bucket / "f", os.O_RDONLY) as fd:
        assert attempt(os.ftruncate, fd, 0) == "EINVAL"


def test_fallocate(bucket: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with opened(bucket / "f", os.O_CREAT | os.O_RDWR) as fd:
        assert libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(100)) == -1
        os.posix_fallocate(fd, 0, 10_000)
    assert (bucket / "f").read_bytes() == bytes(10_000)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_shared_writable_memory(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(bytes(3 * mmap.PAGESIZE))
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as one, mmap.mmap(fd, 0) as two:
        one[5000:5005] = b"hello"
        assert two[5000:5005] == b"hello"
        one.flush()
        assert os.pread(fd, 5, 5000) == b"hello"
    assert path.read_bytes()[5000:5005] == b"hello"
    assert len(contents(path)) == 2


def test_memory_outlives_the_descriptor(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(bytes(mmap.PAGESIZE))
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as memory:
        os.close(fd)
        memory[:4] = b"late"
    wait_until(lambda: len(contents(path)) == 2, "the version of what was mapped")
    assert contents(path)[1] == b"late" + bytes(mmap.PAGESIZE - 4)


def test_private_memory_changes_nothing(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(b"kept" * 1024)
    with opened(path, os.O_RDONLY) as fd, mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as memory:
        memory[:4] = b"lost"
    assert path.read_bytes()[:4] == b"kept"


def test_a_writer_and_shared_memory_see_each_other(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as memory:
        os.pwrite(fd, b"written", 0)
        assert memory[:7] == b"written"


# -- locks ------------------------------------------------------------------------------------------------------------


def _hold(path: str, kind: str, exclusive: bool, ready: object, go: object) -> None:
    fd = os.open(path, os.O_RDWR)
    how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    fcntl.flock(fd, how) if kind == "flock" else fcntl.lockf(fd, how, 10, 0)
    ready.set()  # type: ignore[attr-defined]
    go.wait(TIMEOUT_S)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
@pytest.mark.parametrize(("theirs", "ours", "free"), [(True, True, False), (True, False, False), (False, False, True)])
def test_locks_between_processes(bucket: Path, kind: str, theirs: bool, ours: bool, free: bool) -> None:
    path = bucket / "f"
    path.write_bytes(bytes(100))
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(path), kind, theirs, ready, go))
    other.start()
    assert ready.wait(TIMEOUT_S)
    how = (fcntl.LOCK_EX if ours else fcntl.LOCK_SH) | fcntl.LOCK_NB
    try:
        with opened(path, os.O_RDWR) as fd:
            lock = (lambda: fcntl.flock(fd, how)) if kind == "flock" else (lambda: fcntl.lockf(fd, how, 10, 0))
            assert attempt(lock) == (None if free else "EAGAIN")
            if kind == "fcntl":
                assert attempt(lambda: fcntl.lockf(fd, how, 10, 50)) is None, "other bytes are free"
                answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0))
                assert struct.unpack("hhqqi4x", answer)[4] == other.pid
            go.set()
            other.join(TIMEOUT_S)
            assert attempt(lock) is None, "a lock goes with its process"
    finally:
        other.kill()
        other.join()


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_statvfs(bucket: Path) -> None:
    found = os.statvfs(bucket)
    assert found.f_namemax == 255
    assert found.f_frsize * found.f_blocks >= found.f_frsize * found.f_bfree >= found.f_frsize * found.f_bavail > 0
    assert found.f_files >= found.f_ffree > 0
    assert found.f_flag & os.ST_NOSUID


@pytest.mark.parametrize("size", [1, 4095, 4096, 131_072, 131_073, 3 * MIB + 7])
def test_vectors_and_positions(bucket: Path, size: int) -> None:
    path = bucket / "f"
    half = size // 2
    data = os.urandom(size)
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        assert os.pwritev(fd, [data[:half], data[half:]], 0) == size
        parts = [bytearray(half), bytearray(size - half), bytearray(9)]
        assert os.preadv(fd, parts, 0) == size
        assert b"".join(parts[:2]) == data
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    assert path.read_bytes() == data


def test_a_killed_writer_leaves_a_version(bucket: Path) -> None:
    path = bucket / "f"
    with subprocess.Popen(["bash", "-c", f"exec > '{path}'; echo begun; kill -STOP $$"]) as process:
        wait_until(lambda: path.exists() and path.stat().st_size == 6, "the writer")
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: contents(path) == [b"begun\n"], "the version")
