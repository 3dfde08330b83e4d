"""Real users on a mount with `allow_other`: nobody reaches content, names or history that the permissions deny
(docs/semantics.md, "`.versions`" and "Who may see what").
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pickle
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.mounted import Mounted, purge, run, versions

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users, which takes root"),
]

GROUP = 2000
SECRET = b"secret"
OK = 0
DENIED = {errno.EACCES, errno.EPERM}
ABSENT = {errno.ENOENT}


class User(NamedTuple):
    """Somebody to act as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def does(self, what: Callable[[], Any]) -> Any:
        """What a call returns in a process of this user; of one that fails, `Failed` with its errno."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            self._be(writer, what)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            result = answer.read()
        os.waitpid(child, 0)
        found = pickle.loads(result)
        if isinstance(found, Exception):
            raise found
        return found

    def _be(self, writer: int, what: Callable[[], Any]) -> None:
        try:
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            os.umask(0o022)
            result: Any = what()
        except OSError as error:
            result = Failed(error.errno or -1)
        except Exception as error:
            result = error
        os.write(writer, pickle.dumps(result))
        os._exit(0)


class Failed(NamedTuple):
    errno: int


ALICE = User(1000, 1000)
BOB = User(1001, 1001)
MEMBER = User(1002, GROUP)
EXTRA = User(1003, 1003, (GROUP,))
ROOT = User(0, 0)


def failed(result: Any, errnos: set[int] = DENIED) -> bool:
    return isinstance(result, Failed) and result.errno in errnos


def read(path: Path) -> Callable[[], bytes]:
    return path.read_bytes


def write(path: Path, data: bytes, mode: int = 0o644) -> Callable[[], None]:
    def act() -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)

    return act


def save_by_renaming(path: Path, data: bytes) -> Callable[[], None]:
    def act() -> None:
        new = path.with_name(path.name + ".new")
        new.write_bytes(data)
        os.rename(new, path)

    return act


def exchange(one: Path, other: Path) -> None:
    """renameat2 with RENAME_EXCHANGE, which Python does not have."""
    at_cwd, flag = -100, 2
    call = ctypes.CDLL(None, use_errno=True).renameat2
    if call(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), flag):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def sequence(version: Path) -> int:
    return version.lstat().st_ino & ((1 << 60) - 1)


def restore(version: Path, directory: Path, name: str) -> Callable[[], None]:
    value = b"%d\0%s" % (sequence(version), name.encode())

    def run() -> None:
        os.setxattr(directory, "user.vfs.restore", value)
        os.getxattr(directory, "user.vfs.settled")  # as `vfs restore` does: until no cache is stale

    return run


def first(path: Path) -> Path:
    """The oldest version, by its path outside of what may be closed."""
    return versions(path)[0]


def moment() -> str:
    """Now, as a name below `.snapshots`; nothing else happens in the same microsecond."""
    time.sleep(0.002)
    now = time.time_ns() // 1000
    time.sleep(0.002)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000)) + f".{now % 1_000_000:06d}"


# -- the table ----------------------------------------------------------------------------------------------------

CALLERS = {"owner": (ALICE, 6), "group": (MEMBER, 3), "supplementary": (EXTRA, 3), "other": (BOB, 0)}
DIRECTORY_MODES = (0o700, 0o711, 0o750, 0o755, 0o773, 0o007)
FILE_MODES = (0o600, 0o640, 0o604, 0o044)


@pytest.mark.parametrize("state", ["live", "deleted", "moved", "removed"])
@pytest.mark.parametrize("directory_mode", DIRECTORY_MODES, ids=oct)
def test_table(bucket: Path, state: str, directory_mode: int) -> None:
    """Each operation on the history, by each class of callers: exactly what the modes of directory and file say."""
    for file_mode in FILE_MODES:
        folder = bucket / f"{file_mode:o}"
        folder.mkdir()
        path = folder / "f"
        for data in (b"1", b"2", b"3", SECRET):
            path.write_bytes(data)
        os.chown(path, ALICE.uid, GROUP)
        path.chmod(file_mode)
        ids = [version.name for version in versions(path)]
        if state in ("deleted", "removed"):
            path.unlink()
        os.chown(folder, ALICE.uid, GROUP)
        folder.chmod(directory_mode)
        if state == "moved":
            folder = folder.rename(bucket / f"to-{file_mode:o}")
        history = folder / ".versions"
        if state == "removed":
            folder.rmdir()
            history = bucket / ".versions" / folder.name
        for name, (caller, shift) in CALLERS.items():
            at_directory, at_file = directory_mode >> shift & 7, file_mode >> shift & 7
            enters, lists, makes = bool(at_directory & 1), bool(at_directory & 4), at_directory & 3 == 3
            reads = enters and bool(at_file & 4)
            expected = {
                "list": lists,
                "list ids": reads,
                "stat": reads,
                "read": reads,
                "log": reads,
                "etag": reads,
                "restore": reads and makes and state != "removed",
                "purge": reads and makes and name == "owner",
            }
            seq = sequence(history / "f" / ids[-1])
            value = b"%d\0by-%s" % (seq, name.encode())

            tries = attempts(history, ids, folder, value)
            found = caller.does(lambda tries=tries: {what: works(attempt) for what, attempt in tries.items()})
            assert found == expected, f"{name}, directory {directory_mode:o}, file {file_mode:o}, {state}"


def attempts(history: Path, ids: list[str], folder: Path, value: bytes) -> dict[str, Callable[[], Any]]:
    newest = history / "f" / ids[-1]
    return {
        "list": lambda: os.listdir(history),
        "list ids": lambda: os.listdir(history / "f"),
        "stat": lambda: os.stat(newest),
        "read": newest.read_bytes,
        "log": (history / "f/.log").read_bytes,
        "etag": lambda: os.getxattr(newest, "user.vfs.etag"),
        "restore": lambda: os.setxattr(folder, "user.vfs.restore", value),
        "purge": lambda: purge(history / "f" / ids[0]),
    }


def works(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except OSError as error:
        if error.errno not in {*DENIED, *ABSENT}:
            raise RuntimeError(f"{error!r} is no denial") from error
        return False
    return True


# -- the key's mode decides ---------------------------------------------------------------------------------------


def test_chmod_opens_and_closes_all_versions(bucket: Path) -> None:
    path = bucket / "f"
    write(path, SECRET, 0o600)()
    version = first(path)
    assert failed(BOB.does(read(version)))
    path.chmod(0o644)
    assert BOB.does(read(version)) == SECRET
    when = moment()
    write(path, b"later")()
    path.chmod(0o600)
    for way in (version, bucket / ".snapshots" / when / "f"):
        assert failed(BOB.does(read(way))), "a moment when it was open is closed with it"
    path.unlink()
    assert failed(BOB.does(read(version))), "the last mode holds for a deleted key"


def test_a_hard_link_shows_the_history_of_its_own_name(bucket: Path) -> None:
    bucket.chmod(0o755)
    closed = bucket / "closed"
    closed.mkdir(0o700)
    write(closed / "f", SECRET)()
    os.link(closed / "f", bucket / "g")
    write(closed / "f", b"both")()
    assert BOB.does(lambda: [version.read_bytes() for version in versions(bucket / "g")]) == [SECRET, b"both"]
    assert failed(BOB.does(lambda: os.listdir(closed / ".versions")))
    assert failed(BOB.does(lambda: os.listdir(bucket / ".versions/closed")))
    (bucket / "g").chmod(0o600)
    assert failed(BOB.does(read(first(bucket / "g"))))


def test_whoever_is_inside_when_it_closes(bucket: Path) -> None:
    """Nothing of history is cached by the kernel: a working directory or a name looked up before opens nothing."""
    folder = bucket / "d"
    folder.mkdir()
    write(folder / "f", SECRET)()
    inside = folder / ".versions"

    def act() -> tuple[bool, bool, bool, bool]:
        os.chdir(inside)
        one = os.listdir("f")[0]
        opened = os.open("f", os.O_RDONLY | os.O_DIRECTORY)
        before = works(lambda: os.stat(f"f/{one}"))
        Path(folder, "close").touch()
        while os.stat(folder).st_mode & 0o077:
            time.sleep(0.01)
        return (
            before,
            works(lambda: os.stat(f"f/{one}")),
            works(lambda: os.listdir(".")),
            works(lambda: os.open(one, os.O_RDONLY, dir_fd=opened)),
        )

    folder.chmod(0o777)
    closer = os.fork()
    if closer == 0:
        while not (folder / "close").exists():
            time.sleep(0.01)
        (folder / "f").chmod(0o600)
        folder.chmod(0o700)
        os._exit(0)
    assert BOB.does(act) == (True, False, False, False)
    os.waitpid(closer, 0)


@pytest.mark.parametrize("how", ["chmod", "replaced"])
def test_whoever_has_a_directory_of_a_moment_open_when_a_file_in_it_closes(bucket: Path, how: str) -> None:
    """The version of another file may be as open as that was: its key, which is closed now, is on no path to it."""
    bucket.chmod(0o755)
    folder = bucket / "d"
    folder.mkdir(0o755)
    write(folder / "f", SECRET)()
    os.chown(folder / "f", EXTRA.uid, EXTRA.gid)
    write(folder / "n", b"closed", 0o600)()
    os.chown(folder / "n", ALICE.uid, ALICE.gid)
    then = bucket / ".snapshots" / moment() / "d"
    ready, go_on = os.pipe(), os.pipe()

    def act() -> tuple[bool, bool, bool, bool]:
        opened = os.open(then, os.O_RDONLY | os.O_DIRECTORY)
        os.chdir(then)
        before = works(lambda: os.open("f", os.O_RDONLY, dir_fd=opened))
        os.write(ready[1], b".")
        os.read(go_on[0], 1)
        return (
            before,
            works(lambda: os.open("f", os.O_RDONLY, dir_fd=opened)),
            works(lambda: os.open("f", os.O_RDONLY)),
            works(lambda: os.getxattr("f", "user.vfs.etag")),
        )

    closer = os.fork()
    if closer == 0:
        os.read(ready[0], 1)
        if how == "chmod":
            (folder / "f").chmod(0o600)
        else:
            (folder / "n").rename(folder / "f")
        os.write(go_on[1], b".")
        os._exit(0)
    assert BOB.does(act) == (True, False, False, False)
    os.waitpid(closer, 0)
    for end in (*ready, *go_on):
        os.close(end)


# -- somebody else's file at the name -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["saved over", "deleted and made", "exchanged", "deleted by the owner"])
@pytest.mark.parametrize("first_mode", [0o600, 0o644], ids=oct)
def test_taking_a_name_opens_nothing(bucket: Path, how: str, first_mode: int) -> None:
    """Who may write to the directory may put his file there, and does not so get at what others had there."""
    bucket.chmod(0o777)
    path = bucket / "f"
    ALICE.does(write(path, SECRET, first_mode))
    ALICE.does(lambda: path.chmod(0o600))
    when = moment()
    if how == "saved over":
        BOB.does(save_by_renaming(path, b"mine"))
    elif how == "exchanged":
        BOB.does(write(bucket / "b", b"mine"))
        BOB.does(lambda: exchange(bucket / "b", path))
    else:
        (ALICE if "owner" in how else BOB).does(path.unlink)
        BOB.does(write(path, b"mine"))
    mine = next(version for version in versions(path) if version.lstat().st_uid == BOB.uid and version.exists())
    old = first(path)
    assert (BOB.does(read(path)), BOB.does(read(mine))) == (b"mine", b"mine")
    for way in (old, bucket / ".snapshots" / when / "f"):
        assert failed(BOB.does(read(way)))
        assert failed(BOB.does(lambda way=way: os.getxattr(way, "user.vfs.etag")))
        assert ALICE.does(read(way)) == SECRET, "its owner may, as long as he may read what is there now"
    lines = [json.loads(line) for line in BOB.does(read(path.parent / ".versions/f/.log")).splitlines()]
    assert ["ETag" in line for line in lines if not line["DeleteMarker"]] == [True, False], "a digest confirms guesses"
    assert failed(BOB.does(restore(old, bucket, "copy")))
    assert failed(BOB.does(restore(old, bucket, "f")))
    assert failed(BOB.does(lambda: purge(old))), "nor may he purge it"
    path.chmod(0o600)
    assert failed(ALICE.does(read(old))), "and history is never easier to read than the key"
    path.chmod(0o644)
    for version in versions(path)[:0:-1]:  # down to the first
        if how != "deleted by the owner" or version.exists():
            purge(version)
    if path.exists():
        found = path.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ALICE.uid, 0o600), "what comes back is hers again"
        assert failed(BOB.does(read(path)))


def test_a_sticky_directory_keeps_what_was_deleted_there(bucket: Path) -> None:
    bucket.chmod(0o1777)
    ALICE.does(write(bucket / "tmp", SECRET, 0o600))
    ALICE.does((bucket / "tmp").unlink)
    BOB.does(write(bucket / "tmp", b"mine"))
    old, marker, _ = versions(bucket / "tmp")
    assert failed(BOB.does(read(old)))
    assert failed(BOB.does(lambda: purge(old)))
    assert failed(BOB.does(lambda: purge(marker)))


def test_those_who_share_a_file_share_its_history(bucket: Path) -> None:
    """Saving by renaming makes each save a file of whoever saved."""
    bucket.chmod(0o2777)
    os.chown(bucket, 0, GROUP)
    bucket.chmod(0o2777)
    path = bucket / "f"
    for user, data in ((MEMBER, b"1"), (EXTRA, b"2"), (MEMBER, b"3")):
        user.does(save_by_renaming(path, data))
        path.chmod(0o660)
    for user in (MEMBER, EXTRA):
        assert user.does(lambda: [version.read_bytes() for version in versions(path)]) == [b"1", b"2", b"3"]
    assert failed(BOB.does(read(first(path))))


def test_a_chown_takes_the_history_along(bucket: Path) -> None:
    bucket.chmod(0o755)
    path = bucket / "f"
    write(path, SECRET, 0o600)()
    os.chown(path, ALICE.uid, ALICE.gid)
    ALICE.does(write(path, b"hers"))
    assert ALICE.does(read(first(path))) == SECRET
    assert failed(BOB.does(read(first(path))))


def test_the_mode_of_a_symlink_opens_nothing(bucket: Path) -> None:
    bucket.chmod(0o777)
    path = bucket / "f"
    write(path, SECRET)()
    path.chmod(0o600)
    os.symlink("elsewhere", bucket / "link")
    os.rename(bucket / "link", path)
    old, link = versions(path)
    assert failed(BOB.does(read(old)))
    assert BOB.does(lambda: os.readlink(link)) == "elsewhere"
    assert failed(BOB.does(restore(old, bucket, "copy")))
    restore(old, bucket, "copy")()
    assert stat.S_IMODE((bucket / "copy").stat().st_mode) == 0o600
    path.unlink()
    assert failed(BOB.does(read(old))), "nor when the link is deleted"
    purge(versions(path)[-1])
    purge(versions(path)[-1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "purged down to the file"
    assert path.read_bytes() == SECRET


def test_purging_ones_own_version_makes_nobody_elses_file_ones_own(bucket: Path) -> None:
    bucket.chmod(0o777)
    path = bucket / "f"
    ALICE.does(write(path, SECRET, 0o600))
    BOB.does(save_by_renaming(path, b"mine"))
    BOB.does(lambda: purge(versions(path)[1]))
    found = path.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ALICE.uid, 0o600)
    assert failed(BOB.does(read(path)))
    assert ALICE.does(read(path)) == SECRET


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("who", ["alice", "bob", "root"])
@pytest.mark.parametrize("how", ["moved over", "removed and moved", "removed and linked", "exchanged"])
def test_another_file_of_the_same_owner_opens_what_its_owner_or_root_lets_it(
    bucket: Path, how: str, who: str, sticky: bool
) -> None:
    """What stood at a name was closed; something open of the same owner is put there: by whom decides."""
    user = {"alice": ALICE, "bob": BOB, "root": ROOT}[who]
    bucket.chmod(0o1777 if sticky else 0o777)
    path, other = bucket / "s", bucket / "n"
    ALICE.does(write(path, SECRET, 0o600))
    when = moment()
    ALICE.does(write(other, b"open"))
    ALICE.does(lambda: other.chmod(0o666))
    if "removed" in how:
        ALICE.does(path.unlink) if sticky else user.does(path.unlink)
    act: Callable[[], Any] = lambda: os.rename(other, path)  # noqa: E731
    if how == "exchanged":
        act = lambda: exchange(other, path)  # noqa: E731
    elif "linked" in how:
        act = lambda: os.link(other, path)  # noqa: E731
    may = not sticky or user is not BOB or "linked" in how  # whoever may write to a file may link to it
    assert failed(user.does(act)) is not may
    if not may:
        assert failed(BOB.does(read(path)), DENIED | ABSENT)
        return
    assert BOB.does(read(path)) == b"open"
    old = first(path)
    for way in (old, bucket / ".snapshots" / when / "s"):
        assert ALICE.does(read(way)) == SECRET
        if user is BOB:
            assert failed(BOB.does(read(way)))
            assert failed(BOB.does(lambda way=way: os.getxattr(way, "user.vfs.etag")))
        elif way is old:
            assert BOB.does(read(way)) == SECRET
        else:
            assert failed(BOB.does(read(way))), "a moment has its own modes"
    lines = [json.loads(line) for line in BOB.does(read(bucket / ".versions/s/.log")).splitlines()]
    assert ("ETag" in lines[-1]) is (user is not BOB)
    if not sticky:  # where the kernel lets nobody but the owner set an attribute
        assert failed(BOB.does(restore(old, bucket, "copy"))) is (user is BOB)
    path.chmod(0o600)
    assert failed(BOB.does(read(old)))
    assert ALICE.does(read(old)) == SECRET
    path.chmod(0o644)
    assert failed(BOB.does(read(old))) is (user is BOB), "a chmod of what came says nothing about what was closed"


# -- directories --------------------------------------------------------------------------------------------------


def closed_and_removed(bucket: Path) -> Path:
    """A directory that only Alice got into, with the history of a file that anybody could have read."""
    bucket.chmod(0o777)
    folder = bucket / "d"

    def act() -> None:
        folder.mkdir(0o700)
        write(folder / "f", SECRET, 0o644)()
        (folder / "f").unlink()
        folder.rmdir()

    ALICE.does(act)
    return folder


@pytest.mark.parametrize("how", ["made", "renamed to", "made by root"])
def test_a_directory_made_again_opens_nothing(bucket: Path, how: str) -> None:
    folder = closed_and_removed(bucket)
    when = moment()
    maker = ROOT if "root" in how else BOB
    if how == "renamed to":
        maker.does((bucket / "n").mkdir)
        maker.does(lambda: os.rename(bucket / "n", folder))
    else:
        maker.does(folder.mkdir)
    assert BOB.does(lambda: os.listdir(folder / ".versions")) == []
    assert failed(BOB.does(lambda: os.stat(folder / ".versions/f")), ABSENT)
    assert BOB.does(lambda: os.listdir(bucket / ".versions/d")) == []
    maker.does(write(folder / "f", b"mine"))
    assert BOB.does(lambda: [version.read_bytes() for version in versions(folder / "f")]) == [b"mine"]
    assert len(BOB.does(read(folder / ".versions/f/.log")).splitlines()) == 1
    old = ALICE.does(lambda: next(v for v in versions(folder / "f") if v.exists()))
    assert ALICE.does(read(old)) == SECRET, "who could get into both sees both"
    assert len(os.listdir(folder / ".versions/f")) == 3
    assert failed(BOB.does(read(old)), ABSENT)
    assert failed(BOB.does(restore(old, bucket, "copy")))
    assert failed(BOB.does(lambda: os.listdir(bucket / ".snapshots" / when / "d")), ABSENT)


def test_the_owner_goes_on_in_a_directory_made_again(bucket: Path) -> None:
    folder = closed_and_removed(bucket)
    ALICE.does(lambda: folder.mkdir(0o700))
    assert ALICE.does(lambda: os.listdir(folder / ".versions")) == ["f"]
    assert failed(BOB.does(lambda: os.listdir(folder / ".versions")))


def test_root_goes_on_where_everybody_could_look_anyway(bucket: Path) -> None:
    folder = closed_and_removed(bucket)
    ALICE.does(folder.mkdir)
    ALICE.does(lambda: folder.chmod(0o755))
    number = folder.stat().st_ino
    folder.rmdir()
    folder.mkdir(0o755)
    assert folder.stat().st_ino == number
    assert BOB.does(lambda: os.listdir(folder / ".versions")) == ["f"]


def test_a_name_that_was_a_file_and_is_a_closed_directory(bucket: Path) -> None:
    bucket.chmod(0o777)
    path = bucket / "d"
    ALICE.does(write(path, b"open"))
    ALICE.does(path.unlink)
    ALICE.does(lambda: path.mkdir(0o700))
    ALICE.does(write(path / "f", SECRET))
    history = bucket / ".versions/d"
    assert ALICE.does(lambda: "f" in os.listdir(history))
    assert BOB.does(lambda: "f" in os.listdir(history)) is False
    assert failed(BOB.does(lambda: os.listdir(history / "f")), ABSENT)
    assert failed(BOB.does(read(Path(history, "f", first(path / "f").name))), ABSENT)


def test_a_moment_does_not_lead_around_what_is_closed_now(bucket: Path) -> None:
    bucket.chmod(0o755)
    folder = bucket / "open/d"
    folder.mkdir(parents=True)
    write(folder / "f", SECRET)()
    (folder / "deeper").mkdir()
    when = moment()
    then = bucket / ".snapshots" / when / "open/d"
    assert BOB.does(read(then / "f")) == SECRET
    folder.chmod(0o700)
    assert failed(BOB.does(read(then / "f"))), "closed itself"
    folder.chmod(0o755)
    (bucket / "closed/in").mkdir(parents=True)
    folder.rename(bucket / "closed/in/d")
    assert BOB.does(read(then / "f")) == SECRET
    (bucket / "closed").chmod(0o700)
    assert failed(BOB.does(read(then / "f"))), "moved into what is closed"
    assert failed(BOB.does(lambda: os.listdir(then / "deeper")))
    assert (then / "f").read_bytes() == SECRET
    assert failed(BOB.does(lambda: os.listdir(bucket / "open/.versions/d")), ABSENT)


def test_seeking_in_a_listing_tells_no_names(bucket: Path) -> None:
    """Any number can be a cookie: one of a key elsewhere must not say where that would be in this directory."""
    bucket.chmod(0o755)
    closed, mine = bucket / "closed", bucket / "mine"
    closed.mkdir(0o700)
    write(closed / "m", SECRET)()
    mine.mkdir()
    os.chown(mine, BOB.uid, BOB.gid)
    for name in ("a", "z"):
        BOB.does(write(mine / name, b""))
    numbers = range(closed.stat().st_ino + 1, mine.stat().st_ino)
    for folder in (mine, mine / ".versions", bucket / ".snapshots" / moment() / "mine"):

        def listed(cookie: int, folder: Path = folder) -> list[str] | None:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.lseek(opened, cookie, os.SEEK_SET)
                return os.listdir(opened)
            except FileNotFoundError:
                return None
            finally:
                os.close(opened)

        for cookie in (*numbers, *((1 << 60) + n for n in numbers), 1 << 60, (1 << 62) + 7, (1 << 63) - 1):
            found = BOB.does(lambda cookie=cookie, listed=listed: listed(cookie))
            assert found in (None, []) or sorted(found)[:1] == ["a"], (folder, cookie)


# -- changing -----------------------------------------------------------------------------------------------------


def test_restoring_makes_nothing_of_somebody_else(bucket: Path) -> None:
    bucket.chmod(0o777)
    tool = bucket / "tool"
    write(tool, b"trusted")()
    os.setxattr(tool, "user.kept", b"x")
    os.setxattr(tool, "security.capability", bytes.fromhex("0000000200040000000000000000000000000000"))
    tool.chmod(0o6755)
    tool.unlink()
    BOB.does(write(bucket / "payload", b"payload"))
    BOB.does(restore(first(bucket / "payload"), bucket, "tool"))
    found = tool.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (BOB.uid, BOB.gid, 0o755)
    assert os.listxattr(tool) == []
    tool.unlink()
    BOB.does(restore(first(tool), bucket, "other"))
    found = (bucket / "other").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (BOB.uid, 0o755)
    restore(first(tool), bucket, "roots")()
    found = (bucket / "roots").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o6755), "root may make what root had"


@pytest.mark.parametrize("old_type", ["symlink", "fifo"])
@pytest.mark.parametrize("mode", [0o755, 0o1777], ids=oct)
def test_what_changes_the_type_of_a_name_asks_for_what_rename_asks(bucket: Path, old_type: str, mode: int) -> None:
    """Whoever may write to a file may change its content, and cannot make it a symlink through which others write."""
    bucket.chmod(0o777)
    BOB.does((bucket / "mine").mkdir)
    special = bucket / "mine/special"
    BOB.does(lambda: special.symlink_to("/etc/passwd") if old_type == "symlink" else os.mkfifo(special))
    closed = bucket / "closed"
    closed.mkdir()
    path = closed / "f"
    write(path, b"hers", 0o666)()
    path.chmod(0o666)
    os.chown(path, ALICE.uid, ALICE.gid)
    closed.chmod(mode)
    value = b"%d\0closed/f" % sequence(versions(special)[-1])
    before = path.lstat()
    for user in (BOB, MEMBER):
        assert failed(user.does(lambda: os.setxattr(bucket, "user.vfs.restore", value)))
    assert path.lstat() == before
    assert path.read_bytes() == b"hers"
    assert len(versions(path)) == 1
    name = b"%d\0closed/new" % sequence(versions(special)[-1])
    assert failed(BOB.does(lambda: os.setxattr(bucket, "user.vfs.restore", name))) is (mode == 0o755)
    write(bucket / "mine/text", b"his", 0o666)()
    BOB.does(restore(first(bucket / "mine/text"), bucket, "closed/f"))
    assert path.read_bytes() == b"his", "content goes where he may write"
    closed.chmod(0o777)
    BOB.does(restore(versions(special)[-1], bucket, "closed/f"))
    assert not path.is_file() or path.is_symlink(), "and so does the rest where he may rename"


def test_a_purge_changes_a_type_only_where_one_may_rename(bucket: Path) -> None:
    bucket.chmod(0o777)
    folder = bucket / "d"
    ALICE.does(folder.mkdir)
    ALICE.does(lambda: (folder / "f").symlink_to("elsewhere"))
    ALICE.does(save_by_renaming(folder / "f", b"hers"))
    os.chown(folder, 0, 0)
    newest = versions(folder / "f")[-1]
    assert failed(ALICE.does(lambda: purge(newest)))
    assert (folder / "f").read_bytes() == b"hers"


def test_only_root_makes_devices_of_their_versions(bucket: Path) -> None:
    bucket.chmod(0o777)
    node = bucket / "null"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    node.chmod(0o666)
    version = first(node)
    assert failed(BOB.does(restore(version, bucket, "copy")), {errno.EPERM})
    assert not (bucket / "copy").exists()
    write(bucket / "n", b"x")()
    (bucket / "n").rename(node)
    os.chown(node, BOB.uid, BOB.gid)
    assert failed(BOB.does(lambda: purge(versions(node)[-1])), {errno.EPERM}), "nor does a purge give him one"
    restore(version, bucket, "copy")()
    assert stat.S_ISCHR((bucket / "copy").stat().st_mode)


def test_restoring_tells_nothing_of_what_one_may_not_see(bucket: Path) -> None:
    """Any number can be tried: of versions that are not there and of those that are closed the answer is one."""
    bucket.chmod(0o777)
    closed = bucket / "closed"
    closed.mkdir(0o700)
    write(closed / "f", SECRET, 0o666)()
    write(bucket / "g", SECRET, 0o600)()
    ALICE.does(write(bucket / "s", SECRET, 0o600))
    BOB.does(save_by_renaming(bucket / "s", b"his"))
    (closed / "below").mkdir()
    known = [sequence(first(path)) for path in (closed / "f", bucket / "g", bucket / "s")]
    known.append((closed / "below").stat().st_ino)

    def asked(seq: int) -> Any:
        return BOB.does(lambda: os.setxattr(bucket, "user.vfs.restore", b"%d\0copy" % seq))

    answers = {asked(seq) for seq in (*known, *(seq + 1 for seq in known), 1, 10**16)}
    assert answers == {Failed(errno.EACCES)}
    ways = {
        BOB.does(lambda name=name: os.setxattr(bucket, "user.vfs.restore", b"%d\0closed/%s/x" % (known[0], name)))
        for name in (b"below", b"absent")
    }
    assert ways == {Failed(errno.EACCES)}


def test_content_that_a_user_chooses_has_no_privileges(bucket: Path) -> None:
    """A purge and a restore change what a file holds, as a write does: set-id bits and capabilities go."""
    bucket.chmod(0o777)
    path = bucket / "f"
    for how in ("purge", "restore", "undelete"):
        write(path, b"hers")()
        write(path, b"roots")()
        os.chown(path, ALICE.uid, GROUP)
        path.chmod(0o6755)
        os.setxattr(path, "security.capability", bytes.fromhex("0000000200040000000000000000000000000000"))
        old, new = versions(path)[-2:]
        if how == "purge":
            ALICE.does(lambda new=new: purge(new))
        elif how == "restore":
            ALICE.does(restore(old, bucket, "f"))
        else:
            path.unlink()
            purge(new)
            ALICE.does(lambda: purge(versions(path)[-1]))
        assert path.read_bytes() == b"hers"
        assert stat.S_IMODE(path.stat().st_mode) & 0o6000 == 0, how
        assert "security.capability" not in os.listxattr(path), how
        path.unlink()
        for version in versions(path):
            purge(version)


def test_undeleting_takes_writing_where_the_directory_comes_back(bucket: Path) -> None:
    bucket.chmod(0o755)
    folder = bucket / "d"
    folder.mkdir()
    os.chown(folder, ALICE.uid, ALICE.gid)
    ALICE.does(write(folder / "f", b"x"))
    (folder / "f").unlink()
    folder.rmdir()
    content, marker = sorted((bucket / ".versions/d/f").iterdir())
    assert failed(ALICE.does(lambda: purge(marker)))
    assert failed(ALICE.does(restore(content, bucket, "d/f")))
    assert not folder.exists()
    bucket.chmod(0o777)
    ALICE.does(lambda: purge(marker))
    assert (folder / "f").read_bytes() == b"x"


def test_only_the_owner_says_whether_a_bucket_keeps_versions(bucket: Path) -> None:
    bucket.chmod(0o777)
    assert failed(BOB.does(lambda: os.setxattr(bucket, "user.vfs.versioning", b"Suspended")))
    assert failed(BOB.does(lambda: os.setxattr(bucket, "user.vfs.compression", b"zstd")))
    assert BOB.does(lambda: os.getxattr(bucket, "user.vfs.versioning")) == b"Enabled"
    os.chown(bucket, BOB.uid, BOB.gid)
    BOB.does(lambda: os.setxattr(bucket, "user.vfs.versioning", b"Suspended"))
    assert os.getxattr(bucket, "user.vfs.versioning") == b"Suspended"
    bucket.chmod(0o700)
    for name in ("versioning", "bucket", "status"):
        assert failed(ALICE.does(lambda name=name: os.getxattr(bucket, f"user.vfs.{name}")))


def test_restoring_reaches_into_no_other_bucket(mounted: Mounted, bucket: Path) -> None:
    closed = mounted.root / "closed-bucket"
    closed.mkdir(0o700)
    write(closed / "f", SECRET)()
    bucket.chmod(0o777)
    version = first(closed / "f")
    assert failed(BOB.does(restore(version, bucket, "f")))
    assert failed(BOB.does(read(version)))
    closed.chmod(0o755)
    assert failed(BOB.does(restore(version, bucket, "f")), {errno.EXDEV})


def test_a_users_root_is_no_root(bucket: Path) -> None:
    """Root of a user namespace is the user outside of it."""
    bucket.chmod(0o755)
    write(bucket / "f", SECRET, 0o600)()
    version = first(bucket / "f")
    user = ["setpriv", "--reuid=1001", "--regid=1001", "--clear-groups", "unshare", "-Ur"]
    if run([*user, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    done = run([*user, "cat", str(version), str(bucket / "f")], check=False)
    assert done.stdout == ""


# -- mounts for one -----------------------------------------------------------------------------------------------


def test_without_allow_other_nobody_else_gets_in(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[: len(tmp_path.parents) - 2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    mount = Mounted(tmp_path)
    try:
        mount.start()
        (mount.root / "open").mkdir()
        (mount.root / "open").chmod(0o777)
        for what in (os.listdir, os.stat, os.statvfs):
            assert failed(BOB.does(lambda what=what: what(mount.root / "open")))
        mount.end()
    finally:
        mount.clean_up()
