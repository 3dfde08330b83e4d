"""What the kernel does not have to ask, and that it is right all the same: what is agreed on in the handshake."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import Mounted
from tests.posix import as_user, attempt

pytestmark = pytest.mark.fuse

MOUNT_OPTIONS = "allow_other,suid"
OWNER = 1234
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
PAGE = 4096


def requests(mounted: Mounted, action: Callable[[], object]) -> dict[str, int]:
    """How often the kernel asked for what; one GETXATTR of these is Python's first try to read the figures."""
    os.setxattr(mounted.root, "user.vfs.trace", b"on")
    action()
    found = json.loads(os.getxattr(mounted.root, "user.vfs.trace"))
    os.setxattr(mounted.root, "user.vfs.trace", b"off")
    return {name: figures["Count"] for name, figures in found.items()}


def test_capabilities_are_asked_for_once_per_file(mounted: Mounted, bucket: Path) -> None:
    with open(bucket / "log", "wb", buffering=0) as log:
        counted = requests(mounted, lambda: [log.write(b"a line\n") for _ in range(10)])
    assert counted == {"getxattr": 2, "write": 10}


def test_whole_pages_that_were_written_are_not_read(mounted: Mounted, bucket: Path) -> None:
    """Also after the kernel has learned the mtime of that write."""
    path = bucket / "f"
    content = os.urandom(3 * PAGE)
    path.write_bytes(content)
    path.stat()
    found: list[bytes] = []
    assert "read" not in requests(mounted, lambda: found.append(path.read_bytes()))
    assert found == [content]


def test_a_file_written_in_odd_pieces_is_read_ahead(mounted: Mounted, bucket: Path) -> None:
    path = bucket / "f"
    piece = os.urandom(1000)
    with open(path, "wb", buffering=0) as file:
        for _ in range(1000):
            file.write(piece)
    os.getxattr(mounted.root, "user.vfs.settled")  # comes after the RELEASE, and waits
    found: list[bytes] = []
    assert requests(mounted, lambda: found.append(path.read_bytes()))["read"] < 1_000_000 // PAGE // 4
    assert found == [piece * 1000]


def test_a_symlink_is_read_once(mounted: Mounted, bucket: Path) -> None:
    (bucket / "link").symlink_to("somewhere")
    counted = requests(mounted, lambda: [os.readlink(bucket / "link") for _ in range(5)])
    assert counted["readlink"] == 1
    (bucket / "link").unlink()
    (bucket / "link").symlink_to("elsewhere, and further away")
    assert os.readlink(bucket / "link") == "elsewhere, and further away"


def test_a_list_asks_for_no_label_twice(bucket: Path) -> None:
    """By ENOTSUP `ls -l` knows that it need not ask for the next file's."""
    (bucket / "f").write_bytes(b"")
    assert attempt(os.getxattr, bucket / "f", "security.selinux") == "ENOTSUP"
    assert attempt(os.getxattr, bucket / "f", "security.other") == errno.errorcode[errno.ENODATA]
    os.setxattr(bucket / "f", "security.selinux", b"label")
    assert os.getxattr(bucket / "f", "security.selinux") == b"label"


def executable(bucket: Path) -> Path:
    """A file with set-id bits that anybody may write to. The kernel knows that it has no capabilities."""
    path = bucket / "program"
    path.write_bytes(b"#!/bin/true\n")
    os.chown(path, OWNER, OWNER)
    os.chmod(path, 0o6777)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | flags)
    os.write(fd, b"x")
    os.close(fd)


@pytest.mark.parametrize("uid", [OWNER, 4321])
@pytest.mark.parametrize(
    "change",
    [
        lambda path: write(path, 0),
        lambda path: write(path, os.O_APPEND),
        lambda path: write(path, os.O_TRUNC),
        lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        lambda path: os.truncate(path, 3),
        lambda path: os.truncate(path, 300),
    ],
)
def test_set_id_bits_go_with_a_change_by_a_user(bucket: Path, uid: int, change: Callable[[Path], None]) -> None:
    path = executable(bucket)
    change(path)
    assert mode(path) == 0o6777, "root keeps them"
    assert as_user(uid, change, path) is None
    assert mode(path) == 0o777


@pytest.mark.parametrize("change", [lambda fd: os.write(fd, b"x"), lambda fd: os.ftruncate(fd, 1)])
def test_it_counts_who_writes_and_not_who_opened(bucket: Path, change: Callable[[int], object]) -> None:
    path = executable(bucket)
    fd = os.open(path, os.O_WRONLY)
    as_user(OWNER, change, fd)
    assert mode(path) == 0o777
    os.close(fd)


def test_set_id_bits_that_come_between_two_writes_go_with_the_second(bucket: Path) -> None:
    path = executable(bucket)

    def change() -> None:
        with open(path, "r+b", buffering=0) as file:
            file.write(b"1")
            os.chmod(path, 0o4777)
            file.write(b"2")

    assert as_user(OWNER, change) is None
    assert mode(path) == 0o777


def test_a_write_that_took_the_bits_away_keeps_the_program_from_running_with_them(bucket: Path) -> None:
    """Without a stat in between, from which the kernel would learn the mode."""
    path = executable(bucket)
    path.write_bytes(b"")
    as_user(4321, lambda: path.write_bytes(Path("/usr/bin/id").read_bytes()))
    out = bucket / "out"
    os.posix_spawn(
        path, ["id", "-u"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, out, os.O_CREAT | os.O_WRONLY, 0o600)]
    )
    os.wait()
    assert out.read_text() == "0\n"


def test_capabilities_go_with_a_write(bucket: Path) -> None:
    path = executable(bucket)
    with open(path, "r+b", buffering=0) as file:
        file.write(b"1")
        os.setxattr(path, "security.capability", CAPABILITY)
        assert os.listxattr(path) == ["security.capability"]
        file.write(b"2")
    assert os.listxattr(path) == []


def test_a_chown_to_nobody_takes_the_bits_away(bucket: Path) -> None:
    path = executable(bucket)
    os.chown(path, -1, -1)
    assert mode(path) == 0o777


def test_the_kernel_reads_far_ahead(bucket: Path) -> None:
    device = os.stat(bucket).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if os.getuid() != 0 or not os.access(setting, os.W_OK):
        pytest.skip("only root sets it, where /sys is writable")
    assert setting.read_text() == "1024\n"


def test_set_id_bits_go_with_a_chown_of_a_fifo(bucket: Path) -> None:
    fifo = bucket / "fifo"
    os.mkfifo(fifo)
    os.chown(fifo, OWNER, OWNER)
    fifo.chmod(0o6755)
    os.chown(fifo, OWNER, OWNER + 1)
    assert stat.S_IMODE(fifo.stat().st_mode) == 0o755
