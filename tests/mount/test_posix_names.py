"""Names and directories: lengths, errors, renaming over everything, links, listing (docs/semantics.md)."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import Mounted, bash, contents
from tests.posix import EXCHANGE, NOREPLACE, WHITEOUT, Listing, attempt, names, renameat2

pytestmark = pytest.mark.fuse

LONG = "n" * 255


def make(path: Path, kind: str) -> Path:
    """Something of a kind."""
    match kind:
        case "file":
            path.write_bytes(path.name.encode())
        case "empty directory":
            path.mkdir()
        case "full directory":
            path.mkdir()
            (path / "entry").write_bytes(b"")
        case "symlink":
            path.symlink_to("nothing")
        case "fifo":
            os.mkfifo(path)
        case "socket":
            _bind(path)
    return path


def _bind(path: Path) -> None:
    """A socket's name has at most 107 bytes."""
    with socket.socket(socket.AF_UNIX) as listening:
        there = os.open(path.parent, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{there}/{path.name}")
        os.close(there)


# -- lengths ----------------------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: path.write_bytes(b"x"),
    "mkdir": Path.mkdir,
    "symlink": lambda path: path.symlink_to("x"),
    "mkfifo": os.mkfifo,
    "link": lambda path: os.link(path.parent / "file", path),
    "rename": lambda path: os.rename(path.parent / "file", path),
}
LOOKERS: dict[str, Callable[[Path], object]] = {
    "stat": os.stat,
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "chmod": lambda path: path.chmod(0o600),
    "truncate": lambda path: os.truncate(path, 0),
    "readlink": os.readlink,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_name_has_at_most_255_bytes(bucket: Path, maker: str) -> None:
    make(bucket / "file", "file")
    assert attempt(MAKERS[maker], bucket / (LONG + "n")) == "ENAMETOOLONG"
    assert attempt(MAKERS[maker], bucket / ("ü" * 128)) == "ENAMETOOLONG"
    assert attempt(MAKERS[maker], bucket / LONG) not in ("ENAMETOOLONG", "EIO")
    assert LONG in os.listdir(bucket)


@pytest.mark.parametrize("looker", LOOKERS)
@pytest.mark.parametrize(
    ("name", "answer"),
    [(LONG + "n", "ENAMETOOLONG"), (LONG, "ENOENT"), ("nothing/below", "ENOENT"), ("file/below", "ENOTDIR"),
     ("loop/below", "ELOOP")],
)  # fmt: skip
def test_looking_where_nothing_is(bucket: Path, looker: str, name: str, answer: str) -> None:
    make(bucket / "file", "file")
    (bucket / "loop").symlink_to("loop")
    assert attempt(LOOKERS[looker], bucket / name) == answer


def test_a_path_has_at_most_4095_bytes(bucket: Path) -> None:
    os.chdir(bucket)
    try:
        part = "d" * 127
        deep = "/".join([part] * 31)  # 3967 bytes
        bash(f"mkdir -p {deep}", bucket)
        fits = f"{deep}/{'f' * 127}"
        assert len(fits) == 4095
        Path(fits).write_bytes(b"deep")
        assert Path(fits).read_bytes() == b"deep"
        os.rename(fits, f"{deep}/{'g' * 127}")
        assert attempt(os.stat, fits + "f") == "ENAMETOOLONG"
        assert attempt(os.mkdir, fits + "f") == "ENAMETOOLONG"
    finally:
        os.chdir("/")
    bash(f"rm -rf {part}", bucket)
    assert os.listdir(bucket) == []


def test_paths_can_be_longer_than_any_call_takes(bucket: Path) -> None:
    """By steps, a tree can be deeper than PATH_MAX."""
    here = os.open(bucket, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(LONG, dir_fd=here)
        below = os.open(LONG, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    assert os.listdir(here) == ["bottom"]
    os.close(here)
    bash(f"rm -rf {LONG}", bucket)
    assert os.listdir(bucket) == []


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\n", b" ", b"-", b"\\", "ü".encode(), b"*?[", b"...", b".\x01"])
def test_names_are_bytes(bucket: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(bucket), name)
    with open(path, "wb") as file:
        file.write(name)
    assert os.listdir(os.fsencode(bucket)) == [name]
    with open(path, "rb") as file:
        assert file.read() == name
    os.unlink(path)


@pytest.mark.parametrize("length", [1, 4095])
def test_a_symlink_leads_where_it_says(bucket: Path, length: int) -> None:
    (bucket / "link").symlink_to("x" * length)
    assert os.readlink(bucket / "link") == "x" * length
    assert (bucket / "link").lstat().st_size == length


@pytest.mark.parametrize(("target", "answer"), [("", "ENOENT"), ("x" * 4096, "ENAMETOOLONG")])
def test_symlinks_that_cannot_be(bucket: Path, target: str, answer: str) -> None:
    assert attempt(os.symlink, target, bucket / "link") == answer


# -- making and removing ----------------------------------------------------------------------------------------------

KINDS = ["file", "empty directory", "full directory", "symlink", "fifo", "socket"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", ["mkdir", "symlink", "mkfifo", "link"])
def test_a_name_is_taken(bucket: Path, kind: str, maker: str) -> None:
    make(bucket / "file", "file")
    assert attempt(MAKERS[maker], make(bucket / "there", kind)) == "EEXIST"


@pytest.mark.parametrize(
    ("kind", "unlink", "rmdir"),
    [
        ("file", None, "ENOTDIR"),
        ("empty directory", "EISDIR", None),
        ("full directory", "EISDIR", "ENOTEMPTY"),
        ("symlink", None, "ENOTDIR"),
        ("fifo", None, "ENOTDIR"),
        ("socket", None, "ENOTDIR"),
    ],
)
def test_unlink_and_rmdir(bucket: Path, kind: str, unlink: object, rmdir: object) -> None:
    assert attempt(os.unlink, make(bucket / "one", kind)) == unlink
    assert attempt(os.rmdir, make(bucket / "two", kind)) == rmdir
    assert (bucket / "one").is_symlink() is False
    assert os.path.lexists(bucket / "one") == (unlink is not None)
    assert os.path.lexists(bucket / "two") == (rmdir is not None)


@pytest.mark.parametrize(("name", "answer"), [(".", "EINVAL"), ("..", "ENOTEMPTY"), ("d/.", "EINVAL")])
def test_rmdir_of_dots(bucket: Path, name: str, answer: str) -> None:
    (bucket / "d").mkdir()
    assert attempt(os.rmdir, f"{bucket}/{name}") == answer


def test_the_number_of_links(bucket: Path) -> None:
    assert bucket.stat().st_nlink == 2
    (bucket / "d").mkdir()
    (bucket / "d" / "e").mkdir()
    (bucket / "f").write_bytes(b"")
    assert (bucket.stat().st_nlink, (bucket / "d").stat().st_nlink) == (3, 3)
    (bucket / "d" / "e").rename(bucket / "e")
    assert (bucket.stat().st_nlink, (bucket / "d").stat().st_nlink) == (4, 2)
    (bucket / "e").rename(bucket / "d")
    assert bucket.stat().st_nlink == 3
    (bucket / "d").rmdir()
    assert bucket.stat().st_nlink == 2


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo", "socket"])
def test_hard_links(bucket: Path, kind: str) -> None:
    one, two = make(bucket / "one", kind), bucket / "two"
    before = one.lstat()
    os.link(one, two, follow_symlinks=False)
    assert (two.lstat().st_ino, two.lstat().st_nlink) == (before.st_ino, 2)
    assert one.lstat().st_ctime_ns > before.st_ctime_ns
    os.rename(one, two)
    assert one.lstat().st_nlink == 2, "both are the same: nothing is done (rename(2))"
    os.unlink(one)
    assert two.lstat().st_nlink == 1


def test_a_link_to_a_directory_cannot_be(bucket: Path) -> None:
    assert attempt(os.link, make(bucket / "d", "empty directory"), bucket / "e") == "EPERM"


def test_a_socket_can_be_connected_to(bucket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as calling:
        os.chdir(bucket)
        try:
            listening.bind("s")
            listening.listen()
            assert stat.S_ISSOCK(os.stat("s").st_mode)
            calling.connect("s")
            calling.sendall(b"hello")
            with listening.accept()[0] as accepted:
                assert accepted.recv(5) == b"hello"
        finally:
            os.chdir("/")


def test_a_fifo_passes_bytes(bucket: Path) -> None:
    os.mkfifo(bucket / "p")
    assert bash("echo hello > p & cat p; wait", bucket) == "hello\n"


# -- renaming ---------------------------------------------------------------------------------------------------------


def over(source: str, target: str) -> str | None:
    """What rename(2) says to putting one kind in the place of another."""
    if source.endswith("directory"):
        return {"empty directory": None, "full directory": "ENOTEMPTY"}.get(target, "ENOTDIR")
    return "EISDIR" if target.endswith("directory") else None


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_rename_over(bucket: Path, source: str, target: str) -> None:
    (bucket / "a").mkdir()
    (bucket / "b").mkdir()
    one, two = make(bucket / "a" / "one", source), make(bucket / "b" / "two", target)
    before = one.lstat()
    answer = over(source, target)
    assert attempt(os.rename, one, two) == answer
    assert os.path.lexists(one) == (answer is not None)
    if answer is None:
        assert two.lstat().st_ino == before.st_ino
        assert stat.S_IFMT(two.lstat().st_mode) == stat.S_IFMT(before.st_mode)
        assert two.lstat().st_ctime_ns > before.st_ctime_ns


@pytest.mark.parametrize(
    ("source", "target", "answer"),
    [
        ("d", "d/e/f", "EINVAL"),
        ("d", "d/f", "EINVAL"),
        ("d/e", "d", "ENOTEMPTY"),
        ("nothing", "new", "ENOENT"),
        ("file", "nothing/new", "ENOENT"),
        ("file", "file/new", "ENOTDIR"),
        ("file/below", "new", "ENOTDIR"),
        ("d/.", "new", "EBUSY"),
        ("d/e/..", "new", "EBUSY"),
        ("file", "new/", "ENOTDIR"),
        ("d", "d", None),
        ("file", "file", None),
        ("d", "new/", None),
    ],
)
def test_rename(bucket: Path, source: str, target: str, answer: object) -> None:
    (bucket / "d" / "e").mkdir(parents=True)
    make(bucket / "file", "file")
    assert attempt(os.rename, f"{bucket}/{source}", f"{bucket}/{target}") == answer


@pytest.mark.parametrize(
    ("source", "target", "flags", "answer"),
    [
        ("one", "new", NOREPLACE, None),
        ("one", "two", NOREPLACE, "EEXIST"),
        ("one", "one", NOREPLACE, "EEXIST"),
        ("one", "two", EXCHANGE, None),
        ("one", "d", EXCHANGE, None),
        ("one", "new", EXCHANGE, "ENOENT"),
        ("d", "d/e", EXCHANGE, "EINVAL"),
        ("d/e", "d", EXCHANGE, "ENOTEMPTY"),
        ("one", "new", WHITEOUT, "EINVAL"),
        ("one", "two", NOREPLACE | EXCHANGE, "EINVAL"),
    ],
)
def test_renameat2(bucket: Path, source: str, target: str, flags: int, answer: object) -> None:
    (bucket / "d" / "e").mkdir(parents=True)
    one, two = make(bucket / source, "file") if source == "one" else bucket / source, bucket / target
    if target == "two":
        make(two, "file")
    before = [path.stat().st_ino if path.exists() else None for path in (one, two)]
    assert attempt(renameat2, one, two, flags) in (answer, "EINVAL" if answer == "ENOTEMPTY" else answer)
    after = [path.stat().st_ino if path.exists() else None for path in (one, two)]
    if answer is not None:
        assert after == before
    elif flags == EXCHANGE:
        assert after == before[::-1]
    else:
        assert after == [None, before[0]]


def test_an_exchange_is_a_version_of_each(bucket: Path) -> None:
    one, two = make(bucket / "one", "file"), make(bucket / "two", "file")
    renameat2(one, two, EXCHANGE)
    assert (contents(one), contents(two)) == ([b"one", b"two"], [b"two", b"one"])


# -- listing ----------------------------------------------------------------------------------------------------------


TAIL = "x" * 60 + "~"  # junk: nothing is left of it when it goes


@pytest.fixture
def many(bucket: Path) -> Path:
    """A directory with 1000 names that take several replies of the daemon to list."""
    for number in range(1000):
        os.mkfifo(bucket / f"{number:04}{TAIL}")
    return bucket


def test_a_listing_goes_on_where_it_was(many: Path) -> None:
    listing = Listing(many)
    everything = listing.read()
    assert len(names(everything)) == 1000
    assert sum(name in (b".", b"..") for name, _ in everything) == 2
    assert len({cookie for _, cookie in everything}) == 1002
    for at in (0, 1, 2, 300, 999, 1000):
        listing.seek(everything[at][1])
        assert listing.read() == everything[at + 1 :]
    listing.close()


def test_a_listing_goes_on_while_names_go(many: Path) -> None:
    """What stays is listed once, whatever is removed meanwhile, the last one listed included."""
    listing = Listing(many)
    begun = listing.read(400)
    for name in names(begun) + [f"{number:04}{TAIL}".encode() for number in range(900, 1000)]:
        os.unlink(os.fsencode(many) + b"/" + name)
    rest = names(listing.read())
    listing.close()
    assert len(rest) == len(set(rest))
    assert {os.fsencode(name) for name in os.listdir(many)} <= set(rest)


def test_a_position_stays_when_its_name_goes(many: Path) -> None:
    listing = Listing(many)
    everything = listing.read()
    for at in (10, 500, 900):
        os.unlink(os.fsencode(many) + b"/" + everything[at][0])
        listing.seek(everything[at][1])
        assert listing.read() == everything[at + 1 :]
        del everything[at]
    listing.close()


def test_a_listing_goes_on_while_names_come(many: Path) -> None:
    before = set(os.listdir(many))
    done = threading.Event()
    failures: list[OSError] = []

    def work() -> None:
        number = 0
        try:
            while not done.is_set():
                (many / f"new{number}").touch()
                (many / f"new{number}").rename(many / f"0new{number}")
                number += 1
        except OSError as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(5):
            listing = Listing(many)
            found = names(listing.read())
            listing.close()
            old = [os.fsdecode(name) for name in found if b"new" not in name]
            assert sorted(old) == sorted(before), "what was there all the time is listed once"
    finally:
        done.set()
        worker.join()
    assert not failures


def test_rm_rf_of_a_large_tree(many: Path) -> None:
    (many / "d").mkdir()
    bash("for n in {1..50}; do mkdir d/$n; touch d/$n/{1..5}; done; rm -rf d [0-9]*", many)
    assert os.listdir(many) == []


# -- reserved names, buckets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".versions", ".snapshots"])
def test_reserved_names(bucket: Path, name: str) -> None:
    (bucket / "d").mkdir()
    make(bucket / "file", "file")
    for folder in (bucket, bucket / "d"):
        for maker in MAKERS.values():
            make(folder / "file", "file")
            assert attempt(maker, folder / name) in ("EEXIST", "EINVAL", "EISDIR", "EROFS", "ENOTEMPTY")
    assert attempt(os.rmdir, bucket / name) == "EROFS"
    assert attempt(os.rename, bucket / name, bucket / "x") == "EROFS"
    assert name not in os.listdir(bucket)


def test_between_buckets(mounted: Mounted, bucket: Path) -> None:
    other = mounted.root / "other-bucket"
    other.mkdir()
    make(bucket / "f", "file")
    make(bucket / "d", "full directory")
    for call in (os.rename, os.link):
        assert attempt(call, bucket / "f", other / "f") == "EXDEV"
    assert attempt(os.rename, bucket / "d", other / "d") == "EXDEV"
    assert attempt(renameat2, bucket / "f", make(other / "g", "file"), EXCHANGE) == errno.errorcode[errno.EXDEV]
