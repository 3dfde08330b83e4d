"""`.snapshots` as a user sees it (docs/semantics.md, "`.snapshots`")."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.mounted import Mounted, at_work, bash, contents, needs_root, run, versions

pytestmark = pytest.mark.fuse


def now() -> str:
    """The moment, as a version id is written."""
    time.sleep(0.002)
    text = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    time.sleep(0.002)
    return text


def as_user(uid: int, *command: str) -> bool:
    """Whether a command works for another user."""
    done = run(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command], check=False)
    return done.returncode == 0


def test_the_whole_bucket_as_it_was(bucket: Path) -> None:
    bash("mkdir -p d/sub; echo one > d/sub/f; echo gone > d/g; ln -s f d/sub/link", bucket)
    first = now()
    bash("mv d e; echo two > e/sub/f; rm e/g; mkdir d; echo other > d/h", bucket)
    second = now()
    bash("rm -r d e", bucket)
    then = bucket / ".snapshots" / first
    assert bash("find . -mindepth 1 | sort", then).split() == ["./d", "./d/g", "./d/sub", "./d/sub/f", "./d/sub/link"]
    assert (then / "d/sub/f").read_text() == "one\n"
    assert (then / "d/g").read_text() == "gone\n"
    assert os.readlink(then / "d/sub/link") == "f"
    later = bucket / ".snapshots" / second
    assert bash("find . -type f | sort", later).split() == ["./d/h", "./e/sub/f"]
    assert (later / "e/sub/f").read_text() == "two\n"
    assert bash("ls -A", bucket / ".snapshots" / now()) == ""
    bash(f"cp -r .snapshots/{first}/d .", bucket)
    assert (bucket / "d/sub/f").read_text() == "one\n"


def test_ways_to_write_a_moment(bucket: Path) -> None:
    (bucket / "f").write_text("x")
    time.sleep(1.1)
    moment = datetime.now(UTC)
    for form in ("%Y%m%dT%H%M%S", "%Y-%m-%dT%H:%M:%SZ", "@GMT-%Y.%m.%d-%H.%M.%S"):
        assert os.listdir(bucket / ".snapshots" / moment.strftime(form)) == ["f"], form
    for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S%z"):
        assert os.listdir(bucket / ".snapshots" / moment.astimezone().strftime(form)) == ["f"], form
    absent = ("20200101", "19691231", "0001-01-01", "9999-12-31T23:59:59-14:00", "2026-06-30T23:59:60Z")
    for wrong in ("yesterday", "20261301", "2999-01-01", "@GMT-2026", "x" * 200, *absent):
        with pytest.raises(FileNotFoundError):
            os.stat(bucket / ".snapshots" / wrong)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/St_Johns", "Europe/Berlin"])
def test_a_time_of_vfs_log_shows_what_was_current_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    with at_work(Mounted(tmp_path, "--bucket", "docs")) as mount:
        for text in ("one", "two", "three"):
            (mount.root / "f").write_text(text)
        (mount.root / "f").unlink()
        log = run([sys.executable, "-m", "vfs", "log", str(mount.root / "f")]).stdout
        rows = [line.split("\t") for line in log.splitlines()]
        assert len(rows) == 4
        for row, text in zip(rows, (None, "three", "two", "one"), strict=True):
            for moment in row[:2]:
                then = mount.root / ".snapshots" / moment
                assert [path.read_text() for path in then.iterdir()] == ([] if text is None else [text]), moment
        local = rows[3][1][: len("2026-11-20 15:16:17.000001")]
        assert (mount.root / ".snapshots" / local / "f").read_text() == "one", "without a zone: that of the daemon"
        compact = rows[3][0].removesuffix("Z")
        assert (mount.root / ".snapshots" / compact / "f").read_text() == "one", "ids are UTC also without their Z"
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # of the command alone
        away = run([sys.executable, "-m", "vfs", "log", str(mount.root / "f")]).stdout.splitlines()[3].split("\t")[1]
        assert away != rows[3][1]
        assert (mount.root / ".snapshots" / away / "f").read_text() == "one"


def test_no_moment_before_the_bucket_was_made(mounted: Mounted) -> None:
    before = now()
    bucket = mounted.root / "young"
    bucket.mkdir()
    assert not os.path.lexists(bucket / ".snapshots" / before)
    assert os.listdir(bucket / ".snapshots" / now()) == []
    bucket.rmdir()
    again = now()
    bucket.mkdir()
    assert not os.path.lexists(bucket / ".snapshots" / again), "it is another one"


def test_the_latest_changes_are_listed(bucket: Path) -> None:
    for text in ("one", "two"):
        (bucket / "f").write_text(text)
        time.sleep(1.1)
    found = sorted(os.listdir(bucket / ".snapshots"))
    assert (bucket / ".snapshots" / found[-1] / "f").read_text() == "two"
    assert (bucket / ".snapshots" / found[-2] / "f").read_text() == "one"


def test_read_only_and_not_listed(bucket: Path) -> None:
    (bucket / "f").write_text("x")
    (bucket / "d").mkdir()
    then = bucket / ".snapshots" / now()
    for attempt in (
        lambda: (then / "new").touch(),
        lambda: (then / "f").write_text("y"),
        lambda: (then / "f").unlink(),
        lambda: (then / "d").rmdir(),
        lambda: (bucket / ".snapshots" / "new").mkdir(),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            attempt()
    assert sorted(os.listdir(bucket)) == ["d", "f"]
    assert not os.path.lexists(bucket / "d/.snapshots"), "only a bucket's root has them"
    assert (bucket / "f").read_text() == "x"


def test_a_file_in_a_snapshot_keeps_its_rights(bucket: Path) -> None:
    (bucket / "f").write_text("secret")
    then = bucket / ".snapshots" / now()
    (bucket / "f").chmod(0o600)
    assert (then / "f").stat().st_mode & 0o777 == 0o600, "never looser than the key now"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@needs_root
def test_a_tree_copied_back_is_as_it_was(bucket: Path) -> None:
    bash(
        "mkdir -p d/e d/closed; echo 1 > d/f; echo 2 > d/x; echo 3 > d/e/ro; ln -s f d/l; mkfifo d/p;"
        "chmod 664 d/f; chmod 6755 d/x; chmod 444 d/e/ro; chmod 1777 d/closed; chmod 2750 d/e; chmod 666 d/p",
        bucket,
    )
    first = now()
    bash("mv d moved; echo more >> moved/f; rm -r moved; mkdir d; echo other > d/f; chmod 600 d d/f", bucket)
    then = bucket / ".snapshots" / first
    bash(f"cp -a .snapshots/{first}/d back", bucket)
    for tree in (then / "d", bucket / "back"):
        found = {name: mode(tree / name) for name in ("f", "x", "e", "closed", "p")}
        assert found == {"f": 0o664, "x": 0o755, "e": 0o750, "closed": 0o777, "p": 0o444}, tree
        assert mode(tree / "e/ro") == 0o444
    bash("echo more >> back/f; rm -r back", bucket)


@needs_root
def test_a_directory_in_a_snapshot_is_no_easier_to_get_into_than_now(bucket: Path) -> None:
    bash("mkdir -p d/e; echo secret > d/e/f", bucket)
    bucket.chmod(0o755)
    then = bucket / ".snapshots" / now()
    assert as_user(1001, "cat", str(then / "d/e/f"))
    assert as_user(1001, "ls", str(then / "d/e"))
    (bucket / "d/e").chmod(0o700)
    assert mode(then / "d/e") == 0o700, "what it is now, while what is shown is current"
    (bucket / "d/e").rename(bucket / "d/n")
    (bucket / "d/n").chmod(0o755)
    assert mode(then / "d/e") == 0o700, "what it was when it was moved away"
    assert not as_user(1001, "cat", str(then / "d/e/f"))
    bash("mkdir d/open; echo secret > d/open/f", bucket)
    then = bucket / ".snapshots" / now()
    bash("mv d/open d/o; chmod 700 d/o", bucket)
    assert mode(then / "d/open") == 0o755
    for command in (("cat", str(then / "d/open/f")), ("ls", str(then / "d/open")), ("stat", str(then / "d/open/f"))):
        assert not as_user(1001, *command), command
    (bucket / "d/o").chmod(0o711)
    assert as_user(1001, "cat", str(then / "d/open/f"))
    assert not as_user(1001, "ls", str(then / "d/open"))


@needs_root
def test_a_file_in_a_snapshot_opens_for_nobody_more_than_now(bucket: Path) -> None:
    (bucket / "f").write_text("one")
    bucket.chmod(0o755)
    then = bucket / ".snapshots" / now()
    (bucket / "f").write_text("two")
    (bucket / "f").chmod(0o600)
    assert mode(then / "f") == 0o644, "as a copy shall have it"
    assert not as_user(1001, "cat", str(then / "f"))
    assert (then / "f").read_text() == "one"


@pytest.mark.parametrize("uid", [0, 1000])
@needs_root
def test_every_change_is_erofs_for_the_owner_too(bucket: Path, uid: int) -> None:
    bash("mkdir d; echo one > d/f; echo two > d/g; chmod -R a+rwX .; chown -R 1000 .", bucket)
    moment = now()
    bash("chmod o+t d", bucket)
    files = f".snapshots/{moment}/d/f", f".versions/d/f/{versions(bucket / 'd/f')[0].name}"
    directories = ".", "d", f".snapshots/{moment}", f".snapshots/{moment}/d", ".snapshots", ".versions", ".versions/d/f"
    attempts = [
        *(
            f"import os; os.open('{path}', {flags})"
            for path in files
            for flags in ("1", "2", "512", "513", "66", "1025")
        ),
        *(
            f"import os; os.{call}"
            for path in files
            for call in (
                f"truncate('{path}', 0)",
                f"utime('{path}')",
                f"chmod('{path}', 0o600)",
                f"link('{path}', 'new')",
                f"setxattr('{path}', 'user.x', b'')",
                f"rename('{path}', 'new')",
                *([f"unlink('{path}')"] if "snap" in path else []),
            )
        ),
        *(
            f"import os; os.{call}"
            for path in directories[2:]
            for call in (
                f"mkdir('{path}/new')",
                f"mkfifo('{path}/new')",
                f"symlink('x', '{path}/new')",
                f"chmod('{path}', 0o700)",
                f"open('{path}/new', 65)",
                f"setxattr('{path}', 'user.x', b'')",
                f"rename('d/g', '{path}/new')",
                f"removexattr('{path}', 'user.vfs.x')",
            )
        ),
    ]
    for attempt in attempts:
        program = f"{attempt}"
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-c", program]
        done = run(command, cwd=bucket, check=False)
        assert "Errno 30" in done.stderr, (attempt, done.stderr)
    assert contents(bucket / "d/f") == [b"one\n"]
    assert (bucket / "d/g").read_text() == "two\n"
