"""The daemon: opens a store, mounts it, serves until it is unmounted or told to stop, and closes the store."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyfuse3
import trio

from vfs import __version__
from vfs.errors import VfsError
from vfs.fuse import polling
from vfs.fuse.durability import Durability
from vfs.fuse.operations import Operations
from vfs.model import STORE_ROOT, Ino
from vfs.names import check_bucket_name
from vfs.store import Store

log = logging.getLogger("vfs.daemon")

OPTIONS = {
    "allow_other": "other users may use the mount, as the permissions allow",
    "allow_root": "root may use a user's mount",
    "ro": "read-only",
    "noexec": "no programs are run from it",
    "suid": "set-user-id bits work (default: nosuid)",
    "dev": "device nodes work (default: nodev)",
    "noatime": "accepted: access times are never written",
    "rw": "accepted: the default",
    "nosuid": "accepted: the default",
    "nodev": "accepted: the default",
    "exec": "accepted: the default",
}
_IMPLIED = frozenset(("rw", "exec", "suid", "dev"))


class MountFailed(VfsError):
    """The kernel or fusermount3 refused the mount."""


def check_options(options: Sequence[str]) -> None:
    """Raise MountFailed for a mount option that vfs does not have."""
    for option in options:
        if option not in OPTIONS:
            raise MountFailed(f"unknown mount option {option!r}; known: {', '.join(sorted(OPTIONS))}")


def _fuse_options(store: Path, options: Sequence[str]) -> set[str]:
    source = str(store).replace("\\", "\\\\").replace(",", "\\,")
    wanted = {"default_permissions", f"fsname={source}", "subtype=vfs"}
    wanted |= {option for option in ("nosuid", "nodev") if option[2:] not in options}
    return wanted | (set(options) - _IMPLIED)


def serve(
    store: Path, mountpoint: Path, *, bucket: str | None, options: Sequence[str], on_ready: Callable[[], None]
) -> None:
    """Serve a store at a mount point until it is unmounted, or SIGTERM or SIGINT comes. *on_ready*: the mount answers.

    Raises VfsError if it cannot be opened or mounted. The store is closed when this returns.
    """
    check_options(options)
    opened = Store.open(store)
    try:
        root = STORE_ROOT if bucket is None else _bucket(opened, bucket)
        facts: dict[str, object] = {
            "Store": str(store),
            "Mountpoint": str(mountpoint),
            "Pid": os.getpid(),
            "Version": __version__,
            "Since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        durability = Durability(opened)
        operations = Operations(opened, durability, root, facts)
        try:
            pyfuse3.init(operations, str(mountpoint), _fuse_options(store, options))
        except RuntimeError as error:
            hint = "is it allowed here (root, or fusermount3 and /dev/fuse; allow_other needs user_allow_other)?"
            raise MountFailed(f"cannot mount on {mountpoint}: {hint}") from error
        clean = False
        try:
            polling.install(opened.settings.poll_us)
            trio.run(_main, durability, mountpoint, on_ready)
            clean = True
        finally:
            polling.uninstall()
            pyfuse3.close(unmount=clean)  # after a crash the dead mount stays: an empty directory would look like data
    finally:
        opened.close()
    log.info("the store is closed")


def _bucket(store: Store, name: str) -> Ino:
    """The bucket to mount, made if it is not there."""
    encoded = os.fsencode(name)
    check_bucket_name(encoded)
    for ino, bucket in store.buckets():
        if bucket.name == encoded:
            return ino
    return store.create_bucket(encoded, uid=os.getuid(), gid=os.getgid())


async def _main(durability: Durability, mountpoint: Path, on_ready: Callable[[], None]) -> None:
    gc.freeze()  # what is here stays: do not look through it again and again
    async with trio.open_nursery() as nursery:
        nursery.start_soon(durability.run)
        nursery.start_soon(_stop_on_signal, mountpoint)
        nursery.start_soon(_tell_when_ready, mountpoint, on_ready)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()
    log.info("%s is unmounted", mountpoint)


async def _tell_when_ready(mountpoint: Path, on_ready: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
    log.info("%s is mounted", mountpoint)
    on_ready()
    notify("READY=1", f"STATUS=serving {mountpoint}")


async def _stop_on_signal(mountpoint: Path) -> None:
    """Unmount. While somebody still has files open there, what they wrote so far is kept, and they get errors."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: unmounting %s", signal.Signals(number).name, mountpoint)
            notify("STOPPING=1")
            await trio.to_thread.run_sync(_unmount, mountpoint, abandon_on_cancel=True)
            pyfuse3.terminate()
            return


def _unmount(mountpoint: Path) -> None:
    """In a thread, while the loop serves what the kernel has yet to write."""
    done = subprocess.run(
        ["fusermount3", "-u", str(mountpoint)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        log.warning("%s; detaching it", done.stderr.strip())
        with contextlib.suppress(OSError):
            pyfuse3.syncfs(str(mountpoint))


def notify(*lines: str) -> None:
    """Tell systemd, if it started this and asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("cannot tell systemd: %s", error)
