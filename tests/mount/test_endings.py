"""How a daemon ends when somebody is in its way: it must not hang, nor unmount what is not its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import REPO, Mounted, contents, purge, purge_command, run, versions, wait_until
from vfs.fuse import connection

pytestmark = pytest.mark.fuse

ENDING_S_MAX = 10
NEVER = """
import trio
from vfs.fuse.operations import Operations

def unless(handler, is_meant):
    async def waiting(self, *arguments):
        if is_meant(*arguments):
            await trio.sleep_forever()
        return await handler(self, *arguments)
    return waiting

Operations.mkdir = unless(Operations.mkdir, lambda parent, name, mode, ctx: name == b"never")
Operations.read = unless(Operations.read, lambda fh, offset, size: offset >= 1 << 20)

import vfs.__main__
"""
LONG = 2 << 20

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts other things")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    """A daemon that answers everything but `mkdir never`, and reads beyond 1 MiB."""
    script = tmp_path / "never.py"
    script.write_text(NEVER)
    mounted = Mounted(tmp_path)
    mounted.program = [str(script)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(REPO))
            mounted.start()
            (mounted.root / "bucket").mkdir()
            yield mounted
    finally:
        mounted.clean_up()


@contextlib.contextmanager
def running(*command: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed in the end; one that waits for the daemon ends when that has ended."""
    process = subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(ENDING_S_MAX)


def waits_in_the_kernel(pid: int) -> bool:
    states = [path.read_text().rpartition(") ")[2][0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return "D" in states


@contextlib.contextmanager
def name_in_use(mount: Mounted) -> Iterator[None]:
    """A thread of the daemon waits for the lock of a directory, whose holder waits for the daemon."""
    bucket = mount.root / "bucket"
    (bucket / "f").write_text("deleted")
    (bucket / "f").unlink()
    marker = versions(bucket / "f")[-1]
    with running("mkdir", str(bucket / "never")):
        time.sleep(0.3)  # it has the lock, which shows nowhere
        with running(*purge_command(marker)):
            wait_until(lambda: waits_in_the_kernel(mount.pid), "the thread")
            yield


def guard_of(mount: Mounted) -> int:
    """The process that ends the connection of a daemon that cannot end."""
    (child,) = Path(f"/proc/{mount.pid}/task/{mount.pid}/children").read_text().split()
    return int(child)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_a_killed_daemon_ends_though_a_thread_of_it_waits_in_the_kernel(mount: Mounted) -> None:
    with name_in_use(mount):
        mount.kill(clear=False)
        assert not mount.stuck
        with pytest.raises(OSError, match="not connected"):
            os.listdir(mount.root)
    assert "was killed and could not end: ended its connection" in mount.log.read_text()
    mount.start()
    assert (mount.root / "bucket/f").exists()
    mount.end(expected=["dead mount", "cleared"])


def test_sigterm_ends_a_daemon_though_a_thread_of_it_waits_in_the_kernel(mount: Mounted) -> None:
    with name_in_use(mount):
        guard = guard_of(mount)
        began = time.monotonic()
        mount.stop()
        assert time.monotonic() - began < ENDING_S_MAX
        assert not os.path.ismount(mount.root)
        assert os.listdir(mount.root) == []
    wait_until(lambda: not is_running(guard), "the guard")
    mount.end(expected=["busy", "unanswered", "No such file"])


def test_vfs_mount_frees_a_store_from_a_killed_daemon_that_cannot_end(mount: Mounted) -> None:
    """Its guard was killed as well."""
    with name_in_use(mount):
        daemon, guard = mount.pid, guard_of(mount)
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: not is_running(guard), "the guard's end")
        os.kill(daemon, signal.SIGKILL)
        wait_until(lambda: connection.cannot_end(daemon), "the daemon's first thread")
        said = run([sys.executable, "-m", "vfs", "mount", str(mount.store), str(mount.root)], cwd=REPO).stderr
        assert f"process {daemon}, which holds {mount.store}, was killed and cannot end: ended its connection" in said
        assert (mount.root / "bucket/f").read_text() == "deleted"
    run([sys.executable, "-m", "vfs", "umount", str(mount.root)], cwd=REPO)
    mount.check_store()


def test_syncs_go_on_though_many_names_wait_to_be_dropped(mount: Mounted) -> None:
    """More than trio has threads: whoever holds the lock may wait for a sync, which takes a thread."""
    bucket = mount.root / "bucket"
    for number in range(50):
        (bucket / f"f{number}").touch()
        (bucket / f"f{number}").unlink()
    markers = [versions(bucket / f"f{number}")[-1] for number in range(50)]
    with contextlib.ExitStack() as waiting:
        waiting.enter_context(running("mkdir", str(bucket / "never")))
        time.sleep(0.3)
        for marker in markers:
            waiting.enter_context(running(*purge_command(marker)))
        wait_until(lambda: waits_in_the_kernel(mount.pid), "a thread")
        waiting.callback(mount.kill, clear=False)
        time.sleep(0.5)  # all of them have asked
        run(["timeout", "10", sys.executable, "-c", f"import os; os.fsync(os.open({str(mount.root)!r}, os.O_RDONLY))"])
    assert not mount.stuck


def test_sigterm_ends_a_daemon_whose_mount_is_in_use_elsewhere(mount: Mounted) -> None:
    """An open file, a working directory, and a mount namespace of its own that holds a copy of the mount."""
    bucket = mount.root / "bucket"
    (bucket / "d").mkdir()
    fd = os.open(bucket / "f", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"written so far")
    private = ("unshare", "-m", "--propagation", "private", "sleep", "60") if os.geteuid() == 0 else ("sleep", "60")
    with running("sleep", "60", cwd=bucket / "d"), running(*private):
        time.sleep(0.2)
        guard = guard_of(mount)
        began = time.monotonic()
        mount.stop()
        assert time.monotonic() - began < ENDING_S_MAX
        mount.check_store()
        wait_until(lambda: not is_running(guard), "the guard")
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)
    mount.start()
    assert contents(bucket / "f") == [b"written so far"]
    mount.end(expected=["busy"])


@needs_root
@pytest.mark.parametrize("options", ["allow_other", "acl"])
def test_sigterm_leaves_alone_what_else_is_mounted_there_by_now(tmp_path: Path, options: str) -> None:
    mount = Mounted(tmp_path, "-o", options)
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").touch()
    try:
        mount.start()
        (mount.root / "bucket").mkdir()
        with running("sleep", "60", cwd=mount.root / "bucket"):
            run(["umount", "-l", str(mount.root)])
            run(["mount", "--bind", str(other), str(mount.root)])
            mount.stop()
            assert os.listdir(mount.root) == ["precious"]
        run(["umount", str(mount.root)])
        assert not os.path.ismount(mount.root)
        mount.end(expected=["something else is mounted"])
    finally:
        mount.clean_up()


@needs_root
def test_what_is_mounted_on_a_file_goes_when_the_file_is_replaced(mount: Mounted, tmp_path: Path) -> None:
    """As with a rename over it from elsewhere (docs/adr/0014-replaced-and-displaced.md)."""
    file = mount.root / "bucket/f"
    file.write_text("one")
    file.write_text("two")
    (tmp_path / "over").write_text("over")
    run(["mount", "--bind", str(tmp_path / "over"), str(file)])
    purge(versions(file)[-1])
    wait_until(lambda: file.read_text() == "one", "the name")
    assert not os.path.ismount(file)
    assert (tmp_path / "over").read_text() == "over"
    mount.end()


def test_a_directory_whose_name_came_back_unseen_has_its_new_time(mount: Mounted) -> None:
    bucket = mount.root / "bucket"
    (bucket / "f").touch()
    (bucket / "f").unlink()
    mount.stop()
    mount.start()  # the kernel has never heard of the name
    marker = versions(bucket / "f")[-1]
    before = bucket.stat().st_mtime_ns
    purge(marker)
    assert bucket.stat().st_mtime_ns > before
    mount.end()
