"""What vfs.fuse.daemon makes of mount options, before anything is mounted."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vfs.fuse import daemon, mount
from vfs.fuse.daemon import MountFailed, check_options
from vfs.holding import read_holder, tell_holder
from vfs.service.process import notify
from vfs.store import Store

LABEL = 'context="system_u:object_r:tmp_t:s0:c1,c2"'


@pytest.mark.parametrize(
    ("options", "durability"),
    [([], "interval"), (["rw"], "interval"), (["sync"], "close"), (["ro", "dirsync"], "close")],
)
def test_a_synchronous_mount_is_durable_at_each_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], durability: str
) -> None:
    def operations(store: Store, *_: object) -> None:
        raise MountFailed(store.settings.durability)

    monkeypatch.setattr(daemon, "Operations", operations)
    with pytest.raises(MountFailed, match=f"^{durability}$"):
        daemon.serve(tmp_path / "s", tmp_path, bucket=None, options=options, source="s", on_ready=lambda: None)


def test_options_as_libfuse_takes_them() -> None:
    found = {
        text.encode()
        for text in daemon._fuse_options("/s,\\ü\udcff", ["ro", "rw", "acl", "nosymfollow", "sync", LABEL])
    }
    assert found == {
        b"default_permissions",
        b"subtype=vfs",
        b"fsname=/s\\,\\\\\xc3\xbc\xff",
        b"ro",
        b"sync",
        LABEL.replace(",", "\\,").encode(),
    }


def test_labels_are_for_selinux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [LABEL, "fscontext=x", "defcontext=x", "rootcontext=x"]
    check_options(labels)
    monkeypatch.setattr(daemon, "_SELINUX", tmp_path)
    assert daemon._without_labels(["ro", *labels]) == ["ro", *labels]
    monkeypatch.setattr(daemon, "_SELINUX", tmp_path / "off")
    assert daemon._without_labels(["ro", *labels]) == ["ro"]
    for option in ("context=", "mycontext=x", "context"):
        with pytest.raises(MountFailed, match=r"unknown mount option .*context=LABEL"):
            check_options([option])


@pytest.mark.parametrize(
    ("options", "flags", "data"),
    [
        (["acl"], 0x10000 | 2 | 4, ""),
        (["nosymfollow"], 256 | 2 | 4, ""),
        (["nosymfollow", "suid", "dev", "sync", "dirsync", "ro"], 256 | 16 | 128 | 1, ""),
        (["acl", "nosymfollow", "noexec", LABEL], 0x10000 | 256 | 8 | 2 | 4, f",{LABEL}"),
    ],
)
def test_flags_of_our_own_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], flags: int, data: str
) -> None:
    seen = []

    def call(*arguments: object) -> None:
        seen.append(arguments)
        raise OSError(1, "")

    monkeypatch.setattr(mount, "_call", call)
    monkeypatch.setattr(mount.os, "open", lambda *_: 77)
    monkeypatch.setattr(mount.os, "close", lambda _: None)
    with pytest.raises(PermissionError):
        mount.attach(str(tmp_path), "/s\udcff", options)
    ((_, source, _, kind, told, text),) = seen
    assert (source, kind, told.value) == (b"/s\xff", b"fuse.vfs", flags)
    assert text.decode().endswith(f",default_permissions{data}")


def test_what_systemd_is_told_has_a_line_each_whatever_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1", "STATUS=serving /ü\nSTOPPING=1\udcff")
        assert channel.recv(4096).decode().split("\n") == ["READY=1", "STATUS=serving /ü\\nSTOPPING=1\\udcff"]


def test_the_mount_point_in_the_lock_file_may_end_in_a_newline(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        for mountpoint in ("", "/mnt", "/m\nn\n", "/\udcff"):
            for options in ((), ("--s3=9000", "-o", "ro", "--bucket=a\nb")):
                tell_holder(fd, mountpoint, options)
                assert read_holder(fd) == (os.getpid(), mountpoint, options)
    finally:
        os.close(fd)
