"""The unit file by itself, and the daemon's side of Type=notify, through a notify socket of ours."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.systemd.conftest import NotifySocket

UNIT = Path(__file__).parents[2] / "systemd" / "vfs@.service"
SERVE = UNIT.with_name("vfs-serve@.service")
USER = UNIT.parent / "user" / "vfs.service"
VFS = Path(sys.executable).with_name("vfs")

# Each of these gives a service its own mount namespace (systemd.exec(5)): nobody else would see its mount.
NAMESPACED = {
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "ExtensionDirectories",
    "ExtensionImages",
    "InaccessiblePaths",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("which", [UNIT, SERVE, USER], ids=lambda which: which.name)
def test_systemd_analyze_verify(tmp_path: Path, which: Path) -> None:
    # verify looks for the program, which is installed only where the service is.
    unit = tmp_path / which.name
    unit.write_text(which.read_text().replace("/usr/local/bin/vfs", str(VFS)))
    verify = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    assert (verify.returncode, verify.stdout, verify.stderr) == (0, "", "")


def test_mount_is_made_in_the_namespace_of_everybody() -> None:
    settings = {line.split("=")[0] for line in UNIT.read_text().splitlines() if not line.startswith("#")}
    assert not settings & NAMESPACED


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    while is_mounted(path):
        subprocess.run(["fusermount3", "-uz", path], check=True, timeout=30)


@contextmanager
def daemon(store: Path, mountpoint: Path, notify: NotifySocket) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [VFS, "mount", "--foreground", store, mountpoint],
        env={**os.environ, "NOTIFY_SOCKET": notify.address},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_mounted(path: Path) -> bool:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(path) and " - fuse" in line for line in mounts)


def sh(command: str, cwd: Path) -> str:
    """What *command* prints. With a time limit: a mount that does not answer would hang us for good."""
    return subprocess.run(
        ["timeout", "-k", "5", "30", "sh", "-ec", command, "sh", cwd],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@pytest.mark.fuse
def test_ready_when_the_mount_answers_and_stopped_when_the_store_is_closed(
    tmp_path: Path, mountpoint: Path, notify: NotifySocket
) -> None:
    below = mountpoint.stat().st_dev
    for expected in ("", "docs\n"):
        with daemon(tmp_path / "store", mountpoint, notify) as process:
            notify.wait_for("READY=1", process)
            assert is_mounted(mountpoint)
            assert sh('stat -c %d "$1"', mountpoint) != f"{below}\n"
            # The second time round: the store was left unlocked, and with what was in it.
            assert sh('ls "$1"', mountpoint) == expected
            sh('mkdir -p "$1/docs"; echo kept >"$1/docs/note"', mountpoint)

            process.send_signal(signal.SIGTERM)
            notify.wait_for("STOPPING=1", process)
            assert process.wait(60) == 0
            assert not is_mounted(mountpoint)


@pytest.mark.fuse
def test_start_after_a_kill_clears_the_dead_mount(tmp_path: Path, mountpoint: Path, notify: NotifySocket) -> None:
    with daemon(tmp_path / "store", mountpoint, notify) as process:
        notify.wait_for("READY=1", process)
        sh('mkdir "$1/docs"; echo kept >"$1/docs/note"', mountpoint)
        process.kill()
    assert is_mounted(mountpoint), "an empty directory in its place would be taken for the data"

    with daemon(tmp_path / "store", mountpoint, notify) as process:
        notify.wait_for("READY=1", process)
        assert sh('cat "$1/docs/note"', mountpoint) == "kept\n"
        process.terminate()
        assert process.wait(60) == 0
    assert not is_mounted(mountpoint), "the dead mount was left below the new one"
