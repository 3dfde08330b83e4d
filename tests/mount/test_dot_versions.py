"""`.versions` as a user sees it (docs/semantics.md, "`.versions`")."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from tests.mounted import Mounted, bash, contents, needs_root, purge, purge_command, run, versions

pytestmark = pytest.mark.fuse


def blocks_on_disk(mounted: Mounted) -> int:
    return sum(path.stat().st_size for path in (mounted.store / "blocks").iterdir())


def test_recover_by_copying(bucket: Path, mounted: Mounted) -> None:
    (bucket / "f").write_bytes(os.urandom(300_000))
    old = (bucket / "f").read_bytes()
    (bucket / "f").write_bytes(b"oops")
    before = blocks_on_disk(mounted)
    run(["cp", str(versions(bucket / "f")[0]), str(bucket / "f")])
    assert (bucket / "f").read_bytes() == old
    assert contents(bucket / "f") == [old, b"oops", old], "the copy is a new version, the others stay"
    assert blocks_on_disk(mounted) == before, "no content is stored twice"


def test_a_version_is_a_read_only_file(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"one")
    os.utime(bucket / "f", ns=(1, 12345))
    (bucket / "f").write_bytes(b"twice")
    first, second = versions(bucket / "f")
    assert (first.stat().st_size, second.stat().st_size) == (3, 5)
    assert stat.S_ISREG(first.stat().st_mode)
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        first.write_bytes(b"x")


@pytest.mark.parametrize(
    "how",
    ["touch -d @1000000000 f", "cp -p old f", "install -p old f", "rsync -a old f", "tar xf t.tar", "unzip -qo t.zip"],
)
def test_an_mtime_set_after_close_is_that_of_the_version(bucket: Path, how: str) -> None:
    if shutil.which(how.split()[0]) is None:
        pytest.skip(f"no {how.split()[0]} here")
    bash(
        "echo x > old; touch -d @1000000000 old; cp -p old f; tar cf t.tar f; python3 -m zipfile -c t.zip f; rm f",
        bucket,
    )
    bash(f"echo before > f; {how}", bucket)
    current = versions(bucket / "f")[-1]
    expected = (bucket / "f").stat().st_mtime_ns
    assert current.stat().st_mtime_ns == expected
    assert expected == 10**18 or how.startswith("unzip")
    bash("ln f g; touch -d @6 g", bucket)
    assert versions(bucket / "f")[-1].stat().st_mtime == versions(bucket / "g")[-1].stat().st_mtime == 6
    bash("rm f g", bucket)
    purge(versions(bucket / "f")[-1])
    assert (bucket / "f").stat().st_mtime == 6


def test_a_delete_marker_has_the_time_of_the_deletion(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"x")
    os.utime(bucket / "f", (1, 1))
    before = time.time_ns()
    (bucket / "f").unlink()
    marker = versions(bucket / "f")[1]
    assert before // 1000 <= marker.lstat().st_mtime_ns // 1000 <= time.time_ns() // 1000
    purge(marker)
    assert (bucket / "f").stat().st_mtime_ns == versions(bucket / "f")[0].stat().st_mtime_ns


@pytest.mark.parametrize("mode", [0o664, 0o755, 0o600, 0o444, 0o606, 0o000, 0o4755, 0o2770])
@needs_root
def test_what_is_copied_back_has_the_mode_that_it_had(bucket: Path, mode: int) -> None:
    path = bucket / "f"
    path.write_bytes(b"one")
    path.chmod(mode)
    version = versions(path)[0]
    assert stat.S_IMODE(version.stat().st_mode) == mode & 0o777, "no set-id bits"
    bash(f"rm -f f; cp -p .versions/f/{version.name} f", bucket)
    assert stat.S_IMODE(path.stat().st_mode) == mode & 0o777


@pytest.mark.parametrize(("make", "expected"), [("mkfifo -m 666", 0o444), ("install -m 666 /dev/null", 0o666)])
def test_a_fifo_of_the_past_lets_nobody_write(bucket: Path, make: str, expected: int) -> None:
    bash(f"{make} p", bucket)
    assert stat.S_IMODE(versions(bucket / "p")[0].lstat().st_mode) == expected


def test_directories_of_the_past_show_their_mode(bucket: Path) -> None:
    bash("mkdir d; echo x > d/f; chmod 3770 d", bucket)
    for path in (bucket / "d/.versions", bucket / ".versions/d"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o770


def test_everything_else_is_erofs(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"one")
    version = versions(bucket / "f")[0]
    history = bucket / ".versions"
    for attempt in (
        lambda: (history / "new").write_bytes(b""),
        lambda: (history / "f" / "new").write_bytes(b""),
        lambda: (history / "new").mkdir(),
        lambda: os.rename(version, bucket / "x"),
        lambda: os.rename(bucket / "f", history / "f2"),
        lambda: os.link(version, bucket / "x"),
        lambda: os.chmod(version, 0o644),
        lambda: os.utime(version),
        lambda: os.truncate(version, 0),
        lambda: os.setxattr(version, "user.x", b""),
        lambda: os.symlink("x", history / "x"),
        lambda: os.rmdir(history / "f"),
        lambda: os.unlink(history / "f" / ".log"),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            attempt()
    assert contents(bucket / "f") == [b"one"]


def test_dot_and_dot_dot(bucket: Path) -> None:
    bash("mkdir d; echo x > d/f", bucket)
    for folder in ("d", ".versions", ".versions/d", ".versions/d/f"):
        assert bash("ls -a", bucket / folder).split()[:2] == [".", ".."]
    assert bash("ls -a d", bucket).split() == [".", "..", "f"]


def test_never_listed(bucket: Path) -> None:
    bash("mkdir d; echo x > d/f; echo y > f", bucket)
    assert bash("ls -a; find . | sort; ls -aR d", bucket).count(".versions") == 0
    bash("rm -rf d", bucket)
    assert bash("cat .versions/d/f/*Z 2>/dev/null || true", bucket) == "x\n"


def test_reserved_names_cannot_be_made(bucket: Path) -> None:
    (bucket / "f").touch()
    (bucket / "d").mkdir()
    with pytest.raises(FileExistsError):
        (bucket / ".versions").mkdir()
    for attempt in (
        lambda: (bucket / "d/.snapshots").mkdir(),
        lambda: (bucket / "d/.snapshots").touch(),
        lambda: os.rename(bucket / "f", bucket / "d/.snapshots"),
        lambda: os.link(bucket / "f", bucket / "d/.snapshots"),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            attempt()


def test_delete_marker_and_undelete(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"precious")
    (bucket / "f").chmod(0o640)
    (bucket / "f").unlink()
    marker = versions(bucket / "f")[1]
    assert marker.is_symlink()
    assert os.readlink(marker) == "(deleted)"
    assert not marker.exists()
    purge(marker)
    assert (bucket / "f").read_bytes() == b"precious", "purging the marker undeletes"
    assert stat.S_IMODE((bucket / "f").stat().st_mode) == 0o640
    assert contents(bucket / "f") == [b"precious"]


def test_purging_the_current_version(bucket: Path) -> None:
    for text in (b"one", b"two", b"three"):
        (bucket / "f").write_bytes(text)
    purge(versions(bucket / "f")[2])
    assert (bucket / "f").read_bytes() == b"two", "the newest that remains is current"
    purge(versions(bucket / "f")[0])
    assert contents(bucket / "f") == [b"two"]
    purge(versions(bucket / "f")[0])
    assert not (bucket / "f").exists()
    assert not os.path.lexists(bucket / ".versions" / "f")


def test_purge_while_the_file_is_open(bucket: Path) -> None:
    (bucket / "f").write_bytes(b"one")
    (bucket / "f").write_bytes(b"two")
    with open(bucket / "f", "r+b") as file:
        assert file.read() == b"two"
        purge(versions(bucket / "f")[1])
        assert (bucket / "f").read_bytes() == b"one"
        file.seek(0)
        assert file.read() == b"two", "who has it open keeps it"
        file.write(b" and more")
    assert contents(bucket / "f") == [b"one", b"two and more"]


def test_purge_of_all_versions(bucket: Path) -> None:
    bash("for i in 1 2 3; do echo $i > f; done; rm f", bucket)
    for version in versions(bucket / "f"):
        purge(version)
    assert os.listdir(bucket / ".versions") == []


def test_a_renamed_directory_takes_its_history_along(bucket: Path) -> None:
    bash("mkdir -p d/sub; echo one > d/sub/f; echo two > d/sub/f; mv d e", bucket)
    assert contents(bucket / "e/sub/f") == [b"one\n", b"two\n"]
    assert [p.read_bytes() for p in sorted((bucket / ".versions/e/sub/f").iterdir())] == [b"one\n", b"two\n"]
    assert os.listdir(bucket / "e/.versions") == ["sub"]


def test_history_goes_on_in_a_directory_made_again(bucket: Path) -> None:
    bash("mkdir d; echo one > d/f; rm -r d; mkdir d; echo two > d/f", bucket)
    assert contents(bucket / "d/f") == [b"one\n", None, b"two\n"]


def test_a_directory_moved_over_a_removed_one_hides_nothing(bucket: Path) -> None:
    bash("mkdir d; echo old > d/f; echo only > d/g; rm -r d; mkdir n; echo new > n/f; mv n d", bucket)
    assert contents(bucket / "d/f") == [b"old\n", None, b"new\n"]
    assert sorted(os.listdir(bucket / "d/.versions")) == ["f", "g"]
    assert contents(bucket / "d/g") == [b"only\n", None]


def test_undelete_in_a_removed_directory(bucket: Path) -> None:
    bash("mkdir -p d/sub; echo one > d/sub/f; rm -r d", bucket)
    purge(max((bucket / ".versions/d/sub/f").iterdir()))
    assert (bucket / "d/sub/f").read_text() == "one\n", "the directories above come back"


def test_many_versions_are_all_listed(bucket: Path) -> None:
    path = bucket / "f"
    for i in range(300):
        path.write_bytes(b"%d" % i)
    assert contents(path) == [b"%d" % i for i in range(300)]


def test_many_names_are_all_listed(bucket: Path) -> None:
    for i in range(1000):
        (bucket / f"name-{i}").touch()
    bash("rm name-*", bucket)
    assert len(os.listdir(bucket / ".versions")) == 1000


def test_rm_rf_of_a_large_directory_while_it_is_listed(bucket: Path) -> None:
    (bucket / "d").mkdir()
    for i in range(3000):
        (bucket / "d" / f"name-{i}").touch()
    assert len(os.listdir(bucket / "d")) == 3000
    bash("rm -rf d", bucket)
    assert os.listdir(bucket) == []


def test_symlinks_and_special_files_have_history(bucket: Path) -> None:
    bash("ln -s one s; rm s; ln -s two s; mkfifo p; rm p", bucket)
    found = versions(bucket / "s")
    assert [os.readlink(version) for version in found] == ["one", "(deleted)", "two"]
    assert stat.S_ISFIFO(versions(bucket / "p")[0].lstat().st_mode)


@needs_root
def test_permissions_are_never_looser_than_the_keys(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(b"secret")
    bucket.chmod(0o755)
    os.chown(path, 1000, 1000)
    path.chmod(0o600)
    version = versions(path)[0]

    def can_read(uid: int) -> bool:
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "cat", str(version)]
        return run(command, check=False).returncode == 0

    assert can_read(1000)
    assert not can_read(1001)
    assert stat.S_IMODE(version.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert can_read(1001)
    path.unlink()
    assert can_read(1001), "the last mode holds for a deleted key"
    bucket.chmod(0o700)
    assert not can_read(1001), "search on the directories above is asked for as in the live tree"


@needs_root
def test_who_may_purge(bucket: Path) -> None:
    path = bucket / "f"
    path.write_bytes(b"one")
    os.chown(path, 1000, 1000)
    bucket.chmod(0o755)
    command = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", *purge_command(versions(path)[0])]
    assert run(command, check=False).returncode != 0, "who cannot delete the key cannot purge it"
    bucket.chmod(0o777)
    run(command)
    assert not path.exists()


def test_log_file(bucket: Path) -> None:
    import json

    bash("mkdir d; echo one > d/f; rm d/f", bucket)
    marker, first = (json.loads(line) for line in (bucket / "d/.versions/f/.log").read_text().splitlines())
    assert (marker["Key"], marker["DeleteMarker"], marker["IsLatest"]) == ("d/f", True, True)
    assert (first["Size"], first["DeleteMarker"], first["IsLatest"]) == (4, False, False)
    assert first["Writer"]["Program"] == "bash"
    assert first["Writer"]["Uid"] == os.getuid()
    assert "-" in first["ETag"]


def as_user(uid: int, *command: str) -> bool:
    """Whether a command works for another user."""
    done = run(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command], check=False)
    return done.returncode == 0


@needs_root
def test_who_may_restore(bucket: Path) -> None:
    bucket.chmod(0o777)
    path = bucket / "f"
    path.write_bytes(b"old")
    path.write_bytes(b"new")
    seq = versions(path)[0].stat().st_ino & ((1 << 60) - 1)

    def restore(uid: int, destination: str) -> bool:
        value = f"0x{(b'%d' % seq + bytes(1) + destination.encode()).hex()}"
        done = as_user(uid, "setfattr", "-n", "user.vfs.restore", "-v", value, str(bucket))
        os.getxattr(bucket, "user.vfs.settled")  # as `vfs restore` does: until no cache is stale
        return done

    path.chmod(0o4755)
    assert not restore(1001, "f"), "who may not write to a file cannot change it by restoring"
    assert path.read_bytes() == b"new"
    path.chmod(0o4757)
    assert restore(1001, "f")
    assert path.read_bytes() == b"old"
    assert not path.stat().st_mode & stat.S_ISUID, "set-id bits go when somebody else changes the file"
    (bucket / "closed").mkdir(0o700)
    (bucket / "closed/open").mkdir()
    (bucket / "closed/open").chmod(0o777)
    assert not restore(1001, "closed/open/f"), "the way there must be searchable"
    assert restore(1001, "mine")
    path.chmod(0o600)
    assert not restore(1001, "mine"), "history is as hard to read as the file"
