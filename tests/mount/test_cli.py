"""vfs.cli on a real mount, each command as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from vfs.cli.mounts import is_dead

pytestmark = pytest.mark.fuse

SECONDS_MAX = 60
ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z")

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}  # in any directory, installed or not

Done = subprocess.CompletedProcess[str]


def vfs(*arguments: object, cwd: Path | None = None) -> Done:
    command = [sys.executable, "-m", "vfs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, cwd=cwd, env=ENV)


def ok(*arguments: object, cwd: Path | None = None) -> str:
    done = vfs(*arguments, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def fails(code: int, *arguments: object) -> str:
    done = vfs(*arguments)
    assert done.returncode == code, done
    assert done.stderr.startswith("vfs: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def shell(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
    return done.stdout


def log(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok("log", "--json", path))
    return found


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def clear(mountpoint: Path) -> None:
    """Whatever a test left behind."""
    while os.path.ismount(mountpoint) or is_dead(str(mountpoint)):
        command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
        if subprocess.run([*command, mountpoint], capture_output=True, timeout=SECONDS_MAX, check=False).returncode:
            return


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "my store"


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mount point"
    path.mkdir()
    yield path
    clear(path)


@pytest.fixture
def mount(store: Path, mountpoint: Path) -> Iterator[Path]:
    """A mounted store with a bucket `docs`; must be clean at the end."""
    ok("mount", store, mountpoint)
    ok("bucket", "create", mountpoint / "docs")
    yield mountpoint
    if os.path.ismount(mountpoint):
        ok("umount", mountpoint)
    assert "is clean" in ok("check", store)
    assert_quiet(store)


def assert_quiet(store: Path) -> None:
    words = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")
    assert not [line for line in (store / "daemon.log").read_text().splitlines() if any(map(line.__contains__, words))]


@pytest.fixture
def docs(mount: Path) -> Path:
    return mount / "docs"


def status(mountpoint: Path) -> dict[str, Any]:
    (found,) = json.loads(ok("status", "--json", mountpoint))
    assert isinstance(found, dict)
    return found


# --- mount, umount, status


def test_mount_makes_the_store_and_returns_when_the_mount_answers(store: Path, mountpoint: Path) -> None:
    assert ok("mount", store, mountpoint) == ""
    assert os.path.ismount(mountpoint)
    assert (store / "daemon.log").stat().st_mode & 0o777 == 0o600
    assert store.stat().st_mode & 0o777 == 0o700
    assert ok("umount", mountpoint) == ""
    assert not os.path.ismount(mountpoint)
    assert "is clean" in ok("check", store)
    assert "the store is closed" in (store / "daemon.log").read_text()


def test_mount_takes_relative_paths_and_an_empty_directory(tmp_path: Path, store: Path, mountpoint: Path) -> None:
    store.mkdir()
    ok("mount", store.name, mountpoint.name, cwd=tmp_path)
    found = status(mountpoint)
    assert (found["Store"], found["Mountpoint"]) == (str(store), str(mountpoint))
    assert os.readlink(f"/proc/{found['Pid']}/cwd") == "/"
    ok("umount", mountpoint.name, cwd=tmp_path)


def test_what_was_written_is_there_after_mounting_again(mount: Path, store: Path) -> None:
    (mount / "docs" / "file").write_text("kept")
    ok("umount", mount)
    ok("mount", store, mount)
    assert (mount / "docs" / "file").read_text() == "kept"


def test_one_bucket_can_be_the_root(store: Path, mountpoint: Path) -> None:
    ok("mount", "--bucket", "only", store, mountpoint)
    (mountpoint / "file").write_text("one")
    (mountpoint / "file").write_text("two")
    assert len(log(mountpoint / "file")) == 2
    ok("restore", mountpoint / "file")
    assert (mountpoint / "file").read_text() == "one"
    assert [row[0] for row in lines(ok("bucket", "list", mountpoint))] == [str(mountpoint)]
    assert "Name\tonly\n" in ok("bucket", "show", mountpoint)
    assert "at the root of the mount of a whole store" in fails(2, "bucket", "create", mountpoint / "other")
    ok("umount", mountpoint)


def test_mount_options(store: Path, mountpoint: Path) -> None:
    ok("mount", "-o", "ro,noexec", store, mountpoint)
    options = shell(f"findmnt -n -o OPTIONS '{mountpoint}'").strip().split(",")
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(options)
    ok("umount", mountpoint)


def test_a_store_is_mounted_once(mount: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    pid = status(mount)["Pid"]
    assert f"in use by process {pid}" in fails(2, "mount", store, tmp_path / "other")
    hint = f"{mount} is mounted already, from {store}; unmount it first: vfs umount '{mount}'"
    assert hint in fails(2, "mount", tmp_path / "new", mount)
    assert f"in use by process {pid}" in fails(2, "check", store)
    assert f"in use by process {pid}" in fails(2, "rebuild", store)
    (tmp_path / "link").symlink_to(mount)
    assert "is mounted already, from" in fails(2, "mount", tmp_path / "new", tmp_path / "link")


def test_a_store_cannot_lie_in_a_mount_of_its_own(mount: Path, store: Path, tmp_path: Path) -> None:
    ok("umount", mount)
    assert "cannot lie in one another" in fails(2, "mount", mount / "store", mount)
    ok("mount", store, mount)


def test_foreground_logs_to_stderr_and_stops_at_sigterm(store: Path, mountpoint: Path) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-m", "vfs", "mount", "--foreground", store, mountpoint], stderr=subprocess.PIPE, text=True
    )
    assert daemon.stderr is not None
    for line in ("store: made a new store in .*", "daemon: .* is mounted"):
        assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d INFO vfs\.{line}\n", daemon.stderr.readline())
    (mountpoint / "docs").mkdir()
    daemon.send_signal(signal.SIGTERM)
    _, err = daemon.communicate(timeout=SECONDS_MAX)
    assert daemon.returncode == 0
    assert "the store is closed" in err
    assert not os.path.ismount(mountpoint)
    assert not (store / "daemon.log").exists()


def test_a_dead_mount_is_shown_and_cleared_by_the_next_mount(mount: Path, store: Path) -> None:
    (mount / "docs" / "file").write_text("kept")
    os.kill(status(mount)["Pid"], signal.SIGKILL)
    wait_for(lambda: is_dead(str(mount)))
    shown = vfs("status", mount)
    assert shown.returncode == 1
    assert ["state", "dead"] in lines(shown.stdout)
    assert f"its daemon has died; mount it again: vfs mount '{store}' '{mount}'" in shown.stdout
    assert f"{mount}\t{store}\tdead\t" in vfs("status").stdout
    assert "the daemon of this mount has died" in fails(1, "log", mount / "docs" / "file")
    ok("mount", store, mount)
    assert (mount / "docs" / "file").read_text() == "kept"
    ok("umount", mount)
    text = (store / "daemon.log").read_text()
    said = f" WARNING vfs.mount: cleared away the dead mount of {store} on {mount}\n"
    assert text.count(said) == 1
    (store / "daemon.log").write_text(text.replace(said, "\n"))


def test_a_dead_mount_can_be_unmounted(mount: Path) -> None:
    os.kill(status(mount)["Pid"], signal.SIGKILL)
    wait_for(lambda: is_dead(str(mount)))
    ok("umount", mount)
    assert os.listdir(mount) == []


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_daemon_that_dies_without_a_word(store: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, vfs.fuse.daemon as daemon; daemon.serve = lambda *args, **kwargs: os.abort()"
    site = mountpoint.parent / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nif '--ready-fd' in sys.argv or '--ready-fd' in sys.orig_argv: exec({code!r})\n"
    )
    monkeypatch.setitem(ENV, "PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
    err = fails(1, "mount", store, mountpoint)
    assert f"the daemon ended without a word (signal 6); look into {store}/daemon.log" in err


def test_umount_of_a_busy_mount_says_so(mount: Path) -> None:
    with (mount / "docs" / "open").open("w") as file:
        file.write("something")
        err = fails(1, "umount", mount)
        program = Path("/proc/self/comm").read_text().strip()
        assert f"is busy: process {os.getpid()} ({program}) has files or the working directory there" in err
    ok("umount", mount)


@pytest.mark.parametrize("wrapper", [[], ["timeout", "60"]])
def test_umount_from_a_shell_in_the_mount(mount: Path, wrapper: list[str]) -> None:
    command = [*wrapper, sys.executable, "-m", "vfs", "umount", str(mount)]
    script = ["bash", "-c", '"$@"; code=$?; cd /; exit $code', "bash", *command]
    done = subprocess.run(script, cwd=mount / "docs", env=ENV, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f"vfs: {mount} is busy: your shell stands in it (cd ~); try again when that is done\n"


def test_a_mount_from_the_dead_one_and_what_is_said_there(mount: Path, store: Path) -> None:
    os.kill(status(mount)["Pid"], signal.SIGKILL)
    wait_for(lambda: is_dead(str(mount)))
    words = f"{sys.executable} -P -m vfs"
    script = f"""cd '{mount}'; {words} log file; {words} mount '{store}' '{mount}'; echo $?
        {words} log file; {words} umount ../x; {words} umount '{mount}'; echo $?
        {words} mount '{store}' '{mount}'; echo $?"""
    done = subprocess.run(["bash", "-c", script], env=ENV, capture_output=True, text=True, timeout=60, check=False)
    lost = "vfs: the working directory is in a dead mount: cd out of it (cd ~), and again"
    died = "vfs: .: the daemon of this mount has died; mount the store again (vfs mount)"
    said = [line for line in done.stderr.splitlines() if line.startswith("vfs: ")]
    assert (done.stdout.split(), said) == (["0", "0", "0"], [died, lost, lost])
    text = (store / "daemon.log").read_text()
    (store / "daemon.log").write_text(text.replace(" WARNING vfs.mount: cleared away the dead mount", ""))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a /dev/fuse")
@pytest.mark.parametrize(
    ("device", "uid", "why"),
    [
        ("10 250", 0, "fuse: "),  # of no driver
        (
            "10 229",
            54321,
            "fusermount3: could not determine username; user 54321 has no name: give it one in /etc/passwd",
        ),
    ],
)
def test_why_it_could_not_be_mounted(device: str, uid: int, why: str) -> None:
    """As fusermount3 says it, or libfuse, and nobody else."""
    become = f"setpriv --reuid={uid} --regid={uid} --clear-groups"
    script = f"""mount -t tmpfs none /mnt; mknod -m 666 /mnt/fuse c {device}; mount --bind /mnt/fuse /dev/fuse
        mkdir -m 777 /mnt/store /mnt/mnt; chown {uid} /mnt/store /mnt/mnt
        {become} {sys.executable} -P -m vfs mount /mnt/store /mnt/mnt || echo $?
        cat /mnt/store/daemon.log"""
    alone = ["unshare", "--mount", "sh", "-ec", script]
    done = subprocess.run(alone, env=ENV, capture_output=True, text=True, timeout=60, check=False)
    code, _, logged = done.stdout.partition("\n")
    assert code == "2"
    assert done.stderr.startswith(f"vfs: cannot mount on /mnt/mnt: {why}")
    assert "is it allowed here" not in done.stderr
    assert why.partition(";")[0] in logged


@pytest.mark.skipif(os.geteuid() != 0, reason="only root loosens it")
def test_root_loosens_what_a_user_has_made_strict_in_a_mount_of_his_own() -> None:
    """As docs/backup.md tells people, of the store and mount in /mnt."""
    section = (ROOT / "docs/backup.md").read_text().partition("Know beforehand")[2].partition("## ")[0]
    places = {"sudo ~/.local/bin/vfs": "vfs", "~/.local/share/vfs": "/mnt/store", "~/vault": "/mnt/mnt"}
    told = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    lines = [line if line.startswith("sudo") else f"$me {line}" for line in told]
    for word, real in places.items():
        lines = [line.replace(word, real) for line in lines]
    script = f"""mount -t tmpfs none /mnt; mknod -m 666 /mnt/fuse c 10 229; mount --bind /mnt/fuse /dev/fuse
        mkdir -m 777 /mnt/store /mnt/mnt /mnt/bin; chown 65534 /mnt/store /mnt/mnt
        printf '#!/bin/sh\nexec {sys.executable} -P -m vfs "$@"\n' >/mnt/bin/vfs
        chmod +x /mnt/bin/vfs; PATH=/mnt/bin:$PATH
        me="setpriv --reuid=65534 --regid=65534 --clear-groups"
        $me vfs mount /mnt/store /mnt/mnt; $me mkdir /mnt/mnt/docs; $me vfs bucket purge /mnt/mnt/docs root
        ! $me vfs bucket purge /mnt/mnt/docs command
        {chr(10).join(lines)}
        $me sh -c 'echo one >/mnt/mnt/docs/f'; $me vfs bucket purge /mnt/mnt/docs; $me vfs umount /mnt/mnt"""
    alone = ["unshare", "--mount", "bash", "-ec", script]
    done = subprocess.run(alone, env=ENV, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["root", "command", "command"]


def test_umount_wants_the_mount_point_itself(mount: Path) -> None:
    assert f"unmount that: vfs umount '{mount}'" in fails(2, "umount", mount / "docs")
    assert os.path.ismount(mount)


def test_status(mount: Path, store: Path) -> None:
    (mount / "docs" / "file").write_text("1234")
    found = status(mount / "docs" / "file")
    assert found["State"] == "mounted"
    assert (store / "lock").read_text() == f"{found['Pid']}\n{mount}\n"
    assert (found["Buckets"], found["Versions"], found["VersionBytes"]) == (1, 1, 4)
    rows = [row for row in lines(vfs("status").stdout) if row[0] == str(mount)]
    assert [row[:4] for row in rows] == [[str(mount), str(store), "mounted", "4 B"]]
    details = dict(lines(ok("status", store)))
    assert (details["pid"], details["versions"], details["scrubbed"]) == (str(found["Pid"]), "1", "0% so far")
    assert found["Scrub"]["PeriodDays"] == 30
    assert (found["Scrub"]["LastPass"], found["Scrub"]["DamagedBlocks"]) == (None, 0)


# --- log


def test_log(docs: Path) -> None:
    file = docs / "file"
    began = time.time()
    shell(f"echo one > '{file}'; echo 'and two' > '{file}'; rm '{file}'; cp /etc/hostname '{file}'")
    rows = lines(ok("log", file))
    assert [row[5] for row in rows] == ["current", "deleted", "", ""]
    assert [row[4] for row in rows] == ["cp", "rm", "bash", "bash"]
    assert [row[2] for row in rows[1:]] == ["-", "8 B", "4 B"]
    assert len({row[3] for row in rows}) == 1
    ids = [row[0] for row in rows]
    assert all(map(ID.fullmatch, ids))
    assert ids == sorted(ids, reverse=True)
    found = log(file)
    assert [version["VersionId"] for version in found] == ids
    assert [version["IsLatest"] for version in found] == [True, False, False, False]
    assert [version["DeleteMarker"] for version in found] == [False, True, False, False]
    for version in found:
        assert {"Key", "VersionId", "IsLatest", "LastModified", "DeleteMarker", "Writer"} <= set(version)
        assert version["Key"] == "file"
        assert version["LastModified"].endswith("Z")
        assert abs(datetime.fromisoformat(version["LastModified"]).timestamp() - began) < SECONDS_MAX
        assert set(version["Writer"]) == {"Uid", "Pid", "Program"}
        assert version["Writer"]["Uid"] == os.getuid()
        assert ("ETag" in version, "Size" in version) == (not version["DeleteMarker"],) * 2


def test_log_of_what_is_gone_with_its_directories(docs: Path) -> None:
    deep = docs / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    shutil.rmtree(docs / "a")
    assert [version["DeleteMarker"] for version in log(deep / "file")] == [True, False]
    assert log(deep / "file")[0]["Key"] == "a/b/c/file"
    said = fails(2, "restore", docs / "a" / "b")
    assert "/b was a directory, and was removed at 20" in said
    assert f" by {Path('/proc/self/comm').read_text().strip()} of " in said
    assert "has no history" in fails(1, "log", deep / "never")


def test_log_of_many_versions(docs: Path) -> None:
    shell(f"for i in {{1..300}}; do echo $i > '{docs}/file'; done")
    assert len(lines(ok("log", docs / "file"))) == 300
    assert len(log(docs / "file")) == 300


def test_log_in_the_current_directory(docs: Path) -> None:
    (docs / "file").write_text("one")
    assert len(lines(ok("log", "file", cwd=docs))) == 1
    assert len(lines(ok("log", "./file", cwd=docs))) == 1


def test_log_of_names_of_any_bytes(docs: Path) -> None:
    for name in (b"caf\xe9", "文".encode(), b"new\nline", b" space ", b"-dash", b"%41\\x"):
        path = Path(os.fsdecode(os.fsencode(docs) + b"/" + name))
        path.write_text("one")
        path.write_text("two")
        assert len(log(path)) == 2
        ok("restore", path)
        assert path.read_text() == "one"


def test_log_on_a_terminal_is_aligned_and_coloured(docs: Path) -> None:
    (docs / "file").write_text("one")
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "vfs", "log", str(docs / "file")]
    env = {**ENV, "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    subprocess.run(command, stdout=terminal, timeout=SECONDS_MAX, check=True, env=env)
    os.close(terminal)
    text = os.read(controller, 10_000).decode()
    os.close(controller)
    title, row, *_ = re.sub(r"\x1b\[\d+m", "", text).splitlines()
    assert "\x1b[32mcurrent\x1b[0m" in text
    assert title.split() == ["version", "id", "local", "time", "size", "user", "program"]
    assert title.index("local time") == row.index(str(datetime.now().astimezone().year) + "-")


# --- restore


def test_restore_goes_back_and_on_and_forth(docs: Path) -> None:
    file = docs / "file"
    for text in ("one", "two", "three"):
        file.write_text(text)
    last, _, first = (version["VersionId"] for version in log(file))
    said = ok("restore", file)
    assert said.startswith(f"restored {file} from version {log(file)[2]['VersionId']} (3 B, ")
    assert file.read_text() == "two"
    assert ok("restore", file).endswith("), which is further back than the restore before\n")
    assert file.read_text() == "one"
    assert f"{file} was restored from {first}, and nothing else is older" in fails(1, "restore", file)
    ok("restore", file, last)
    assert file.read_text() == "three"
    assert len(log(file)) == 6


def test_restore_of_a_deleted_file_and_its_directories(docs: Path) -> None:
    deep = docs / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("one")
    (deep / "file").write_text("two")
    (deep / "file").chmod(0o640)
    shutil.rmtree(docs / "a")
    ok("restore", "a/b/file", cwd=docs)
    assert (deep / "file").read_text() == "two"
    assert (deep / "file").stat().st_mode & 0o777 == 0o640
    assert os.listdir(docs) == ["a"]
    (deep / "file").unlink()
    ok("restore", deep / "file", log(deep / "file")[-1]["VersionId"])
    assert (deep / "file").read_text() == "one"


def test_restore_to_somewhere_else(docs: Path) -> None:
    (docs / "dir").mkdir()
    file = docs / "file"
    file.write_text("one")
    file.write_text("two")
    first = log(file)[-1]["VersionId"]
    ok("restore", file, first, "--to", docs / "copy")
    ok("restore", file, first, "--to", docs / "dir")
    ok("restore", "file", first, "--to", "dir/named", cwd=docs)
    for path in (docs / "copy", docs / "dir" / "file", docs / "dir" / "named"):
        assert path.read_text() == "one"
    assert file.read_text() == "two"
    assert len(log(file)) == 2
    former = log(docs / "copy")[0]["VersionId"]
    said = ok("restore", file, "--to", docs / "copy")
    assert said.endswith(f"; what was there before is its version {former}\n")
    assert "is no directory; make it" in fails(2, "restore", file, "--to", f"{docs}/new/")
    assert not (docs / "new").exists()


def test_a_removed_directory_comes_back_as_the_message_says(docs: Path) -> None:
    tree = docs / "an old" / "tree"
    tree.mkdir(parents=True)
    (tree / "file").write_text("one")
    time.sleep(1.1 - time.time() % 1)  # so that a snapshot of a whole second has it
    shell(f"rm -r '{docs}/an old'")
    for path in (docs / "an old", tree):
        said = fails(2, "restore", path)
        assert " by rm of " in said
        command = re.search(r"as it was before: (.*) \(if something is missing", said)
        assert command
        shell(command[1])
        assert (tree / "file").read_text() == "one"
        shell(f"rm -r '{docs}/an old'")


def test_restore_of_a_symlink(docs: Path) -> None:
    (docs / "link").symlink_to("one")
    (docs / "link").unlink()
    ok("restore", docs / "link")
    assert os.readlink(docs / "link") == "one"


def test_restore_of_an_open_file_leaves_its_reader_what_it_had(docs: Path) -> None:
    file = docs / "file"
    file.write_text("one")
    file.write_text("two")
    with file.open() as reader:
        assert reader.read() == "two"
        ok("restore", file)
        reader.seek(0)
        assert reader.read() == "two"
    assert file.read_text() == "one"


def test_what_was_restored_says_so(docs: Path) -> None:
    (docs / "file").write_text("one")
    (docs / "file").unlink()
    ok("restore", docs / "file")
    assert log(docs / "file")[0]["Writer"]["Program"] == "vfs"


def test_restores_that_cannot_be(docs: Path, tmp_path: Path) -> None:
    file = docs / "file"
    file.write_text("one")
    assert "has only its current version" in fails(1, "restore", file)
    file.unlink()
    marker = log(file)[0]["VersionId"]
    assert "says that it was deleted" in fails(1, "restore", file, marker)
    assert "has no version" in fails(1, "restore", file, "20201120T151617.000001Z")
    assert "is no version id" in fails(2, "restore", file, "yesterday")
    assert "never was; make it (mkdir)" in fails(1, "restore", file, "--to", docs / "new" / "file")
    assert "is not on a vfs mount" in fails(2, "restore", file, "--to", tmp_path / "file")
    file.mkdir()
    assert "is a directory now" in fails(2, "restore", file, log(file)[-1]["VersionId"])


def test_restore_into_another_bucket_says_how_to_copy(mount: Path, docs: Path) -> None:
    ok("bucket", "create", mount / "other")
    (docs / "file").write_text("one")
    (docs / "file").write_text("two")
    err = fails(2, "restore", docs / "file", "--to", mount / "other" / "file")
    found = re.search(r"copy instead: (cp .*)", err)
    assert found is not None
    shell(found[1])
    assert (mount / "other" / "file").read_text() == "one"


def test_restore_of_a_large_file_copies_nothing(docs: Path, store: Path) -> None:
    size = 64 << 20
    shell(f"head -c {size} /dev/urandom > '{docs}/file'; sync; echo small > '{docs}/file'")
    blocks = sum(file.stat().st_size for file in (store / "blocks").iterdir())
    ok("restore", docs / "file")
    assert (docs / "file").stat().st_size == size
    assert sum(file.stat().st_size for file in (store / "blocks").iterdir()) == blocks


# --- purge


def test_purge_removes_for_good(docs: Path) -> None:
    file = docs / "file"
    for text in ("one", "two", "three"):
        file.write_text(text)
    ids = [version["VersionId"] for version in log(file)]
    assert ok("purge", file, ids[1], ids[2]).count("purged version") == 2
    assert [version["VersionId"] for version in log(file)] == ids[:1]
    assert "has no version" in fails(1, "purge", file, ids[1])


def test_purge_of_the_current_version_and_of_a_marker(docs: Path) -> None:
    file = docs / "file"
    file.write_text("one")
    file.write_text("two")
    ok("purge", file, log(file)[0]["VersionId"])
    assert file.read_text() == "one"
    file.unlink()
    ok("purge", file, log(file)[0]["VersionId"])
    assert file.read_text() == "one"


def test_purge_in_a_deleted_directory(docs: Path) -> None:
    (docs / "dir").mkdir()
    (docs / "dir" / "file").write_text("one")
    shutil.rmtree(docs / "dir")
    for version in log(docs / "dir" / "file"):
        ok("purge", docs / "dir" / "file", version["VersionId"])
    assert "has no history" in fails(1, "log", docs / "dir" / "file")


# --- buckets


def test_buckets_come_and_go(mount: Path) -> None:
    assert ok("bucket", "create", mount / "b.2") == f"made bucket {mount}/b.2, versioning Enabled\n"
    rows = lines(ok("bucket", "list", mount))
    assert [row[:5] for row in rows] == [[f"{mount}/{name}", "Enabled", "off", "0", "0 B"] for name in ("b.2", "docs")]
    found = json.loads(ok("bucket", "list", "--json", mount / "docs"))
    assert [facts["Name"] for facts in found] == ["b.2", "docs"]
    ok("bucket", "delete", mount / "b.2")
    assert [row[0] for row in lines(ok("bucket", "list", mount))] == [f"{mount}/docs"]


def test_a_bucket_is_shown(mount: Path, docs: Path) -> None:
    (docs / "file").write_text("1234")
    found = json.loads(ok("bucket", "show", "--json", docs))
    assert (found["Name"], found["Versioning"], found["Versions"], found["Bytes"]) == ("docs", "Enabled", 1, 4)
    assert "*~" in found["Unversioned"]
    assert abs(datetime.fromisoformat(found["Created"]).timestamp() - time.time()) < SECONDS_MAX
    text = ok("bucket", "show", docs)
    assert "Versioning\tEnabled\n" in text
    assert "Bytes\t4 (4 B)\n" in text


def test_buckets_that_cannot_be(mount: Path, docs: Path) -> None:
    assert "exists" in fails(1, "bucket", "create", docs)
    assert "is no bucket name" in fails(2, "bucket", "create", mount / "No")
    assert "at the root" in fails(2, "bucket", "create", docs / "inner")
    (docs / "file").write_text("one")
    assert "has 1 version; remove its files" in fails(1, "bucket", "delete", docs)
    (docs / "file").unlink()
    assert "has 2 versions" in fails(1, "bucket", "delete", docs)
    for words in (["bucket", "show"], ["bucket", "delete"], ["versioning"]):
        for path in (mount / "missing", mount, docs / "file"):
            assert "is no bucket" in fails(2, *words, path)


def test_versioning(docs: Path) -> None:
    assert ok("versioning", docs) == "Enabled\n"
    assert ok("versioning", docs, "suspended") == "Suspended\n"
    (docs / "file").write_text("one")
    (docs / "file").write_text("two")
    assert [version["VersionId"] for version in log(docs / "file")] == ["null"]
    (docs / "file").unlink()
    assert [version["VersionId"] for version in log(docs / "file")] == ["null"]
    ok("purge", docs / "file", "null")
    assert ok("versioning", docs, "ENABLED") == "Enabled\n"


def test_lock(mount: Path, docs: Path) -> None:
    assert ok("lock", docs) == "off\n"
    assert "take --days or --years" in fails(2, "lock", docs, "governance")
    done = vfs("lock", docs, "on")
    assert (done.returncode, done.stdout) == (0, "on\n")
    assert "for ever, and so it stays Enabled" in done.stderr
    assert ok("lock", docs, "Governance", "--days", 3) == "governance 3 days\n"
    assert "not even root removes it sooner" in fails(2, "lock", docs, "compliance", "--years", 2)
    assert ok("lock", docs) == "governance 3 days\n"
    assert ok("lock", docs, "compliance", "--years", 2, "--yes") == "compliance 2 years\n"
    assert "is no bucket" in fails(2, "lock", mount)


def test_compression(mount: Path, docs: Path) -> None:
    assert ok("bucket", "compress", docs) == "off\n"
    assert ok("bucket", "compress", docs, "ZSTD") == "zstd\n"
    assert json.loads(ok("bucket", "show", "--json", docs))["Compression"] == "zstd"
    assert [row[2] for row in lines(ok("bucket", "list", mount))] == ["zstd"]
    assert ok("bucket", "compress", docs, "off") == "off\n"
    assert "is not one of" in fails(2, "bucket", "compress", docs, "gzip")
    assert "is no bucket" in fails(2, "bucket", "compress", mount)


# --- what others may do


@pytest.fixture
def public() -> Iterator[Path]:
    """A mount point that everybody can reach."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "public"
        path.mkdir()
        yield path
        clear(path)


def as_nobody(*arguments: object) -> Done:
    code = (
        "import os, sys; from vfs.cli import main, versions;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main.run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, env=ENV)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_the_history_of_a_private_file_is_private(store: Path, public: Path) -> None:
    ok("mount", "-o", "allow_other", store, public)
    ok("bucket", "create", public / "docs")
    file = public / "docs" / "file"
    file.write_text("one")
    file.write_text("two")
    first = log(file)[-1]["VersionId"]
    file.chmod(0o600)
    done = as_nobody("log", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert "permission denied" in done.stderr
    file.chmod(0o644)
    assert len(as_nobody("log", file).stdout.splitlines()) == 2
    for words in (["restore", file], ["restore", file, "--to", file.with_name("new")], ["purge", file, first]):
        done = as_nobody(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "permission denied" in done.stderr
    assert len(log(file)) == 2
    ok("umount", public)
