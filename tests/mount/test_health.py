"""Whoever runs a daemon sees when it is not well: in its log (once), in `vfs status` and in what systemd shows. Real
faults: a full disk, a byte that was flipped, a disk that does not sync, a daemon that hangs or has died.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.test_bad_disk import Disk, disk  # noqa: F401
from tests.mount.test_full_disk import disk_of
from tests.mount.test_scrub import flip
from tests.mounted import REPO, Mounted, run, versions, wait_until
from tests.systemd.conftest import NotifySocket, notify  # noqa: F401
from tests.typed import section

pytestmark = pytest.mark.fuse

SECONDS_MAX = 5  # until a fault is seen


class Watched(Mounted):
    """A daemon that tells what it would tell systemd."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


@pytest.fixture
def mount(tmp_path: Path, notify: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:  # noqa: F811
    monkeypatch.setenv("NOTIFY_SOCKET", notify.address)
    mount = Watched(tmp_path, "--bucket", "bucket")
    yield mount
    mount.clean_up()


def status(*arguments: object) -> tuple[int, str]:
    done = run([sys.executable, "-m", "vfs", "status", *map(str, arguments)], cwd=REPO, check=False)
    assert done.stderr in ("", "nothing is mounted or served\n")
    return done.returncode, done.stdout


def states(mount: Mounted) -> list[str]:
    """What `vfs status` calls a mount."""
    lines = [line.split("\t") for line in status()[1].splitlines()]
    return [line[2] for line in lines if line[0] == str(mount.root)]


def lines(mount: Mounted, word: str) -> list[str]:
    return [line for line in mount.log.read_text().splitlines() if word in line]


def check_told(mount: Mounted, state: str, told: str, *, logged: str) -> None:
    """`vfs status` shows a state that is not well, and tells more of that mount; the log has one line."""
    code, shown = status(mount.root)
    assert code == 1
    assert told in shown
    assert states(mount) == [state]
    assert len(lines(mount, logged)) == 1


def said(notify: NotifySocket, mount: Watched, word: str) -> str:  # noqa: F811
    """The next status that has a word in it, which comes in seconds."""
    return notify.wait_for_line(lambda line: word in line, mount.process, timeout_s=SECONDS_MAX)


def test_a_full_disk(tmp_path: Path, mount: Watched, notify: NotifySocket) -> None:  # noqa: F811
    with disk_of(tmp_path, "tmpfs", 64) as small:
        mount.store = small / "store"
        try:
            mount.start()
            (mount.root / "before").write_bytes(b"kept")
            stranger = small / "stranger"
            with contextlib.suppress(OSError):
                stranger.write_bytes(bytes(64 << 20))
            for number in range(200):
                with pytest.raises(OSError, match="No space left"):
                    (mount.root / f"refused-{number}").write_bytes(os.urandom(1 << 20))
            assert "no space left on the disk of the store" in said(notify, mount, "; full: ")
            check_told(mount, "full", "full since", logged="no space left on the disk")
            assert len(mount.log.read_text().splitlines()) < 20
            stranger.unlink()
            wait_until(lambda: states(mount) == ["mounted"], "room")
            assert said(notify, mount, "STATUS=").endswith(f"serving {mount.root}")
            assert status(mount.root)[0] == 0
            assert len(lines(mount, "there is room on the disk of the store again")) == 1
            mount.end(expected=["no space left", "no more space is freed", "nothing is lost", "no sync log"])
        finally:
            mount.clean_up()


def test_damage_that_a_reader_met(mount: Watched, notify: NotifySocket) -> None:  # noqa: F811
    mount.start()
    (mount.root / "file").write_bytes(b"some content " * 1000)
    (mount.root / "other").write_bytes(b"another " * 1000)
    mount.stop()
    flip(mount, b"some content ")
    mount.start()
    for _ in range(50):
        with pytest.raises(OSError, match="Input/output error"):
            (mount.root / "file").read_bytes()
    assert (mount.root / "other").read_bytes() == b"another " * 1000
    assert said(notify, mount, "; damaged: ").endswith(
        "; damaged: damaged blocks: 1; the log and `vfs check` name what is harmed"
    )
    code, shown = status(mount.root)
    assert code == 1
    assert "damaged blocks: 1" in shown
    assert "bucket/file" not in shown + status()[1], "what somebody may not list, systemctl does not tell him"
    assert states(mount) == ["damaged"]
    assert len(lines(mount, "damage harms bucket/file version")) == 1
    mount.stop()


@pytest.mark.parametrize("scrub_period", [0, 30])
def test_damage_is_told_until_it_is_mended_or_purged(
    mount: Watched, scrub_period: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")  # nobody listens there
    mount.start()
    (mount.store / "config.toml").write_text(f"scrub_period = {scrub_period}\n")
    (mount.root / "file").write_bytes(b"some content " * 1000)
    (mount.root / "purged").write_bytes(b"other content " * 1000)
    mount.stop()
    for content in (b"some content ", b"other content "):
        flip(mount, content)
    mount.start()
    for name in ("file", "purged"):
        with pytest.raises(OSError, match="Input/output error"):
            (mount.root / name).read_bytes()
    mount.stop()
    for _ in range(2):
        mount.start()
        assert "damaged blocks: 2;" in status(mount.root)[1], "nobody has read it since"
        mount.stop()
    flip(mount, bytes((b"s"[0] ^ 1,)) + b"ome content ")
    mount.start()
    wait_until(lambda: "damaged blocks: 1;" in status(mount.root)[1], "what is mended")
    (version,) = versions(mount.root / "purged")
    run([sys.executable, "-m", "vfs", "purge", str(mount.root / "purged"), version.name])
    mount.stop()
    mount.start()
    wait_until(lambda: status(mount.root)[0] == 0, "what was purged")
    assert (mount.root / "file").read_bytes() == b"some content " * 1000
    mount.end(expected=["damage harms"])


def test_a_disk_that_failed(
    mount: Watched,
    notify: NotifySocket,  # noqa: F811
    disk: Disk,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mount.start()
    monkeypatch.delenv("LD_PRELOAD")
    (mount.root / "file").write_bytes(b"content")
    disk.break_down()
    for number in range(50):
        fd = os.open(mount.root / "file", os.O_RDONLY)
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(fd)
        os.close(fd)
        with pytest.raises(OSError, match="Input/output error"):
            (mount.root / f"new-{number}").touch()
    assert "; read-only: a sync failed" in said(notify, mount, "; read-only: ")
    check_told(mount, "read-only", "mount it again when the disk is well", logged="the store is read-only")
    disk.recover()
    mount.stop()


def test_a_daemon_that_died_and_one_that_hangs(mount: Watched) -> None:
    mount.start()
    mount.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert status(mount.store)[0] == 1
        assert states(mount) == ["no answer"]
        assert time.monotonic() - began < 15
    finally:
        mount.process.send_signal(signal.SIGCONT)
    assert states(mount) == ["mounted"]
    mount.kill(clear=False)
    code, shown = status(mount.root)
    assert code == 1
    assert "its daemon has died; mount it again" in shown
    assert states(mount) == ["dead"]


def test_a_store_that_is_served_without_a_mount(tmp_path: Path, notify: NotifySocket) -> None:  # noqa: F811
    store = tmp_path / "store"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vfs", "serve", store, "--s3", "0"],
            cwd=REPO,
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": notify.address},
        )
    try:
        assert f"STATUS=serving {store} over S3" in notify.wait_for("READY=1", process)
        code, shown = status("--json", store)
        (facts,) = json.loads(shown)
        assert code == 0
        assert (facts["State"], facts["Pid"], facts["Troubles"]) == ("served", process.pid, [])
        assert f"{facts['S3'][0]}\t{store}\tserved\t0 B" in status()[1]
    finally:
        process.terminate()
        assert process.wait(30) == 0
    assert str(store) not in status()[1]


# -- umount -----------------------------------------------------------------------------------------------------------


def umount(mount: Mounted) -> tuple[int, str]:
    done = run([sys.executable, "-m", "vfs", "umount", str(mount.root)], cwd=REPO, check=False)
    return done.returncode, done.stderr


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def elsewhere(mount: Watched) -> Iterator[Any]:
    """Starts a process in a mount namespace of its own, which has a copy of the mount."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: str) -> int:
        mount.start()
        (mount.root / "file").write_bytes(b"content")
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{command}; echo; exec sleep 1000"],
            stdout=subprocess.PIPE,
            cwd="/",
            env={**os.environ, "ROOT": str(mount.root)},
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        end(process)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mount namespaces")
def test_umount_ends_the_daemon_that_only_a_copy_keeps(mount: Watched, elsewhere: Any) -> None:
    pid = elsewhere("true")
    code, told = umount(mount)
    assert code == 0
    where = f"process {pid} (sleep) had a copy of {mount.root} in another mount namespace"
    assert told == f"ended the daemon: {where}\n"
    assert mount.process.wait(5) == 0
    mount.check_store()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mount namespaces")
@pytest.mark.parametrize("command", ['cd "$ROOT"', 'exec 5<"$ROOT/file"'])
def test_umount_names_who_uses_a_copy(mount: Watched, elsewhere: Any, command: str) -> None:
    pid = elsewhere(command)
    code, told = umount(mount)
    assert code == 1
    assert f"{mount.root} is unmounted here, but process {pid} (sleep) uses a copy of it" in told
    assert told.endswith(f"end it, or the daemon: kill {mount.pid}\n")
    assert mount.process.poll() is None
    os.kill(mount.pid, signal.SIGTERM)
    assert mount.process.wait(20) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root binds mounts")
def test_umount_leaves_what_is_bound_elsewhere(mount: Watched, tmp_path: Path) -> None:
    mount.start()
    (mount.root / "folder").mkdir()
    bound = tmp_path / "bound"
    bound.mkdir()
    run(["mount", "--bind", str(mount.root / "folder"), str(bound)])
    try:
        code, told = umount(mount)
        assert code == 1
        assert told.endswith(f"and the daemon goes on; unmount that, too: vfs umount {bound}\n")
        (bound / "file").write_bytes(b"it works on")
        done = run([sys.executable, "-m", "vfs", "umount", str(bound)], cwd=REPO)
        assert (done.returncode, done.stderr) == (0, "")
        assert mount.process.wait(10) == 0
    finally:
        run(["umount", "-l", str(bound)], check=False)


@pytest.mark.parametrize("how", ["cwd", "file", "program"])
def test_umount_names_who_is_in_a_mount(mount: Watched, how: str) -> None:
    mount.start()
    (mount.root / "file").write_bytes(b"content")
    shutil.copy("/bin/sleep", mount.root / "program")
    command = {
        "cwd": f"cd {mount.root}; echo; exec sleep 1000",
        "file": f"exec 5<{mount.root}/file; echo; exec sleep 1000",
        "program": f"echo; exec {mount.root}/program 1000",
    }[how]
    user = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, cwd="/")
    program = Path(f"/proc/{user.pid}/comm")
    try:
        wait_until(lambda: program.read_text() != "sh\n", "the program")
        failed, told = umount(mount)
        assert failed == 1
        assert f"is busy: process {user.pid} ({program.read_text().strip()}) has files" in told
    finally:
        end(user)
    assert umount(mount)[0] == 0


# -- the mount's own root ---------------------------------------------------------------------------------------------

TEAM, MEMBER, STRANGER = 4000, 4001, 4002


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that everybody can reach."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts for others")
def test_a_team_makes_buckets_and_works_in_them(everybodys: Path) -> None:
    """As systemd/README.md has it: the group, mode and default ACL of the root last, and are handed down."""

    def as_member(command: str, uid: int = MEMBER) -> subprocess.CompletedProcess[str]:
        who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={TEAM if uid != STRANGER else STRANGER}"]
        return run([*who, "sh", "-c", f"umask 022; cd /; cd {mount.root} && {command}"], check=False)

    mount = Mounted(everybodys, "-o", "allow_other,acl")
    try:
        mount.start()
        assert "Permission denied" in as_member("mkdir docs").stderr
        run(["chgrp", str(TEAM), str(mount.root)])
        run(["chmod", "2770", str(mount.root)])
        run(["setfacl", "-d", "-m", f"g:{TEAM}:rwx,o::---", str(mount.root)])
        mount.stop()
        mount.start()
        assert (mount.root.stat().st_mode & 0o7777, mount.root.stat().st_gid) == (0o2770, TEAM)
        assert as_member("mkdir docs && echo one > docs/note && mkdir docs/sub").returncode == 0
        other = as_member("echo two > docs/note && echo x > docs/sub/more && cat docs/.versions/note/*", MEMBER + 10)
        assert (other.returncode, other.stdout) == (0, "one\ntwo\n")
        assert (mount.root / "docs").stat().st_mode & 0o7777 == 0o2770
        assert {path.stat().st_gid for path in (mount.root / "docs").rglob("*")} == {TEAM}
        assert "can't cd" in as_member("ls docs", STRANGER).stderr
        with pytest.raises(OSError, match="not permitted") as raised:
            (mount.root / "file").touch()
        assert raised.value.errno == errno.EPERM
        mount.end()
    finally:
        mount.clean_up()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts for others")
def test_a_bucket_for_each_and_one_for_all(everybodys: Path) -> None:
    """The lines of systemd/README.md, as they stand but for names and places."""
    text = section(REPO / "systemd/README.md", "For a team").partition("**If members")[0]
    lines = re.findall(r"^    (?:sudo )?(echo .*|(?:install|setfacl) .*)$", text, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["echo", "install", "install", "setfacl"]

    def by(uid: int, command: str) -> subprocess.CompletedProcess[str]:
        groups = f"{uid},{TEAM}" if uid != STRANGER else str(uid)
        who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={groups}"]
        python = f"{sys.executable} -m vfs"
        script = f'umask 022; cd /; vfs() {{ PYTHONPATH={REPO} {python} "$@"; }}; cd {mount.root}; {command}'
        return run([*who, "sh", "-c", script], check=False)

    mount = Mounted(everybodys, "-o", "allow_other,acl")
    try:
        mount.start()
        mount.stop()
        for number, line in enumerate(lines):
            if number == 1:
                mount.start()
            line = line.replace("sudo ", "").replace("/var/lib/vfs/docs", str(mount.store))
            line = line.replace("/srv/docs/ada", f"{mount.root}/hers").replace("/srv/docs", str(mount.root))
            run(["sh", "-ec", re.sub(r"\bada\b", str(MEMBER), re.sub(r"\bteam\b", str(TEAM), line))])
        assert by(MEMBER, "echo one >hers/note && echo two >hers/note && echo x >shared/note").returncode == 0
        assert (
            by(MEMBER + 10, "echo y >shared/note && mkdir shared/sub && cat shared/.versions/note/*").stdout == "x\ny\n"
        )
        assert by(MEMBER, "echo z >shared/sub/new && cat shared/note").stdout == "y\n"
        assert "Permission denied" in by(MEMBER + 10, "ls hers").stderr
        assert "Permission denied" in by(STRANGER, "ls shared").stderr
        for command in ("mkdir other", "rmdir hers", "mv hers mine"):
            assert by(MEMBER, command).returncode != 0
        assert (mount.root.stat().st_mode & 0o7777, mount.root.stat().st_uid) == (0o755, 0)
        first = versions(mount.root / "hers/note")[0].name
        for bucket in ("hers", "shared"):
            for words in ("lifecycle set {} --keep 1", "versioning {} suspended", "bucket purge {} command"):
                done = by(MEMBER, f"vfs {words.format(bucket)}")
                assert done.returncode == 1, words
                assert "only" in done.stderr
        assert by(MEMBER, f"vfs purge hers/note {first}").returncode == 1
        assert by(0, f"vfs purge hers/note {first}").returncode == 0
        mount.end()
    finally:
        mount.clean_up()
