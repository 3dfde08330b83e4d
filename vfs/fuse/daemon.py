"""The daemon: opens a store, mounts it, serves until it is unmounted or told to stop, and closes the store."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyfuse3
import trio

from vfs.errors import VfsError
from vfs.fuse import connection, handshake, mount, polling
from vfs.fuse.operations import Operations
from vfs.model import STORE_ROOT, Ino
from vfs.names import check_bucket_name
from vfs.service.collecting import Collecting
from vfs.service.durability import Durability
from vfs.service.health import Health
from vfs.service.lifecycles import Lifecycles
from vfs.service.process import MoreDoor, Task, facts_of, notify, want_open_files
from vfs.service.scrubbing import Scrubbing
from vfs.store import Store

log = logging.getLogger("vfs.daemon")

READ_AHEAD_KIB = 1024
UNMOUNT_S_MAX = 5.0  # that unmounting may take after a signal; then it is detached
FINISH_S_MAX = 3.0  # that requests under way may take after that

OPTIONS = {
    "allow_other": "other users may use the mount, as the permissions allow",
    "allow_root": "root may use a user's mount",
    "ro": "read-only",
    "noexec": "no programs are run from it",
    "suid": "set-user-id bits work (default: nosuid)",
    "dev": "device nodes work (default: nodev)",
    "acl": "POSIX ACLs (root only)",
    "nosymfollow": "symbolic links in it are not followed (root only)",
    "sync": "every write, close and change of a name waits for the disk",
    "dirsync": "every close and change of a name waits for the disk",
    "noatime": "accepted: access times are never written",
    "rw": "accepted: the default",
    "nosuid": "accepted: the default",
    "nodev": "accepted: the default",
    "exec": "accepted: the default",
}
LABEL = "context=LABEL"  # also fscontext=, defcontext=, rootcontext=: of SELinux, see mount(8)
_LABEL = re.compile(r"(fs|def|root)?context=.")
_OWN = frozenset(("acl", "nosymfollow"))  # that libfuse does not know: `mount` sees to them
_IMPLIED = _OWN | {"rw", "exec", "nosuid", "nodev"}  # libfuse's own defaults
_SELINUX = Path("/sys/fs/selinux")  # is there where SELinux is on


class MountFailed(VfsError):
    """The kernel or fusermount3 refused the mount."""


class Place(NamedTuple):
    """Where the store is mounted. device: the number of the file system that was mounted there then (mountinfo)."""

    mountpoint: Path
    device: str | None

    @property
    def is_ours(self) -> bool:
        """Whether it is this file system that an unmount would meet there: the number is taken until this ends."""
        return connection.device_on(str(self.mountpoint)) == self.device


def is_option(word: str) -> bool:
    """Whether vfs has a mount option."""
    return word in OPTIONS or bool(_LABEL.match(word))


def _without_labels(options: Sequence[str]) -> list[str]:
    """The options; where SELinux is off without its labels, as mount(8) has it."""
    return [option for option in options if _SELINUX.is_dir() or not _LABEL.match(option)]


def check_options(options: Sequence[str]) -> None:
    """Raise MountFailed for a mount option that vfs does not have."""
    for option in options:
        if not is_option(option):
            raise MountFailed(f"unknown mount option {option!r}; known: {', '.join(sorted((*OPTIONS, LABEL)))}")


class _Bytes(str):
    """A text that pyfuse3 hands over to libfuse as the bytes that it stands for: it encodes what it is given as ASCII,
    and a path can be anything.
    """

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return os.fsencode(str(self))


def _fuse_options(source: str, options: Sequence[str]) -> set[str]:
    wanted = {"default_permissions", "subtype=vfs", f"fsname={source}"} | (set(options) - _IMPLIED)
    return {_Bytes(re.sub(r"[\\,]", r"\\\g<0>", option)) for option in wanted}  # libfuse's way to have a comma in one


def serve(
    store: Path,
    mountpoint: Path,
    *,
    bucket: str | None,
    options: Sequence[str],
    source: str,
    on_ready: Callable[[], None],
    door: MoreDoor | None = None,
    foreign: bool = False,
    command_options: Sequence[str] = (),
) -> None:
    """Serve a store at a mount point until it is unmounted, or SIGTERM or SIGINT comes. *source*: what the table of
    mounts calls it. *on_ready*: the mount answers. *door*: another one to the same buckets. *foreign*: see Store.open.
    *command_options*: what the mount is to be made with again, if this dies.

    Raises VfsError if it cannot be opened or mounted. The store is closed when this returns.
    """
    check_options(options)
    want_open_files()
    opened = Store.open(store, foreign=foreign)
    if not {"sync", "dirsync"}.isdisjoint(options):
        opened.settings = msgspec.structs.replace(opened.settings, durability="close")
    try:
        root = STORE_ROOT if bucket is None else _bucket(opened, bucket)
        facts = facts_of(opened) | {"Mountpoint": str(mountpoint)}
        health = Health(opened, facts, serving=str(mountpoint))
        durability = Durability(opened, health)
        scrubbing = Scrubbing(opened, facts, health)
        collecting = Collecting(opened, durability, facts)
        lifecycles = Lifecycles(opened)
        operations = Operations(opened, durability, collecting, lifecycles, root, facts)
        tasks: list[Task] = [health.run, durability.run, scrubbing.run, collecting.run]
        tasks += [partial(lifecycles.run, operations.settle)]
        tasks += [] if door is None else [door(opened, operations.settle, health, facts)]
        opened.tell_use(os.path.realpath(mountpoint), command_options)
        channel = _mount(operations, mountpoint, source, _without_labels(options))
        place = Place(mountpoint, connection.device_on(str(mountpoint)))
        clean = False
        guard = None
        try:
            guard = _start_guard(place)
            handshake.shake_hands()
            polling.install(opened.settings.poll_us)
            trio.run(_main, tasks, place, health, on_ready)
            clean = True
        finally:
            polling.uninstall()
            unmount = clean and place.is_ours  # after a crash it stays, dead: an empty directory would look like data
            if unmount and channel is not None:
                mount.detach(str(mountpoint), channel)
            pyfuse3.close(unmount=unmount)
            if guard is not None:
                connection.end_guard(guard)
    finally:
        opened.close()
        notify("STATUS=")
    log.info("the store is closed")


def _mount(operations: Operations, mountpoint: Path, source: str, options: Sequence[str]) -> int | None:
    """Mount, and begin a session of pyfuse3. Returns the connection if libfuse does not see to unmounting it."""
    channel, own, said = None, sorted(_OWN.intersection(options)), list[str]()
    try:
        if own:
            operations.enable_acl = "acl" in own
            channel = mount.attach(str(mountpoint), source, options)
        where = str(mountpoint) if channel is None else f"/dev/fd/{channel}"
        with _listening(said):
            pyfuse3.init(operations, where, _fuse_options(source, options))
    except (RuntimeError, OSError) as error:
        if channel is not None:
            mount.detach(str(mountpoint), channel)
        hint = "; ".join(said) or "is it allowed here (root, or fusermount3 and /dev/fuse)?"
        if "could not determine username" in hint:
            hint += f"; user {os.getuid()} has no name: give it one in /etc/passwd"
        if own and os.geteuid() != 0:
            hint = f"only root can mount with {' and '.join(own)}"
        raise MountFailed(f"cannot mount on {mountpoint}: {hint}") from error
    return channel


@contextlib.contextmanager
def _listening(said: list[str]) -> Iterator[None]:
    """Add what libfuse and fusermount3 write to stderr meanwhile: they say nowhere else why they cannot mount."""
    stderr, heard = os.dup(2), os.memfd_create("stderr")
    try:
        os.dup2(heard, 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            text = os.pread(heard, 1 << 16, 0)
            os.write(2, text)
            said += filter(None, map(str.strip, text.decode("utf-8", "replace").split("\n")))
    finally:
        os.close(heard)
        os.close(stderr)


def _start_guard(place: Place) -> subprocess.Popen[bytes] | None:
    try:
        if place.device is not None:
            return connection.start_guard(str(place.mountpoint), place.device)
    except OSError as error:
        log.warning("nothing will end the connection if this is killed and cannot end: %s", error)
    return None


def _want_read_ahead(device: str) -> None:
    """Have the kernel read further ahead than the 128 KiB that INIT can ask for. Only root may, and not in every
    container: where it cannot be done, reading a large file for the first time takes a fifth longer.
    """
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(READ_AHEAD_KIB))


def _bucket(store: Store, name: str) -> Ino:
    """The bucket to mount, made if it is not there."""
    encoded = os.fsencode(name)
    check_bucket_name(encoded)
    for ino, bucket in store.buckets():
        if bucket.name == encoded:
            return ino
    return store.create_bucket(encoded, uid=os.getuid(), gid=os.getgid())


async def _main(tasks: Sequence[Task], place: Place, health: Health, on_ready: Callable[[], None]) -> None:
    gc.freeze()  # what is here stays: do not look through it again and again
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        nursery.start_soon(_stop_on_signal, place, nursery.cancel_scope)
        nursery.start_soon(_tell_when_ready, place, health, on_ready)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()
    log.info("%s is unmounted", place.mountpoint)


async def _tell_when_ready(place: Place, health: Health, on_ready: Callable[[], None]) -> None:
    mountpoint = place.mountpoint
    await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
    if place.device is not None:
        _want_read_ahead(place.device)
    log.info("%s is mounted", mountpoint)
    on_ready()
    notify("READY=1", f"STATUS={health.line}")


async def _stop_on_signal(place: Place, serving: trio.CancelScope) -> None:
    """Unmount. While somebody still has files open there, what they wrote so far is kept, and they get errors.

    Ends in seconds, whoever holds on to the mount: another mount namespace may have a copy of it, and a request may
    wait for one that nobody takes any more.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: unmounting %s", signal.Signals(number).name, place.mountpoint)
            notify("STOPPING=1")
            with trio.move_on_after(UNMOUNT_S_MAX):
                await trio.to_thread.run_sync(_unmount, place, abandon_on_cancel=True)
            pyfuse3.terminate()
            await trio.sleep(FINISH_S_MAX)
            log.warning("requests are unanswered after %.0f s: ending the connection", FINISH_S_MAX)
            with trio.move_on_after(FINISH_S_MAX, shield=True):  # the loop may end meanwhile
                await trio.to_thread.run_sync(_abandon, place, abandon_on_cancel=True)
            serving.cancel()
            return


def _unmount(place: Place) -> None:
    """In a thread, while the loop serves what the kernel has yet to write."""
    if not place.is_ours:
        log.warning("something else is mounted on %s by now, or nothing; that is left alone", place.mountpoint)
        return
    mountpoint = str(place.mountpoint)
    done = subprocess.run(["fusermount3", "-u", mountpoint], capture_output=True, check=False)
    if done.returncode:
        log.warning("%s; detaching it", os.fsdecode(done.stderr).strip())
        with contextlib.suppress(OSError):
            pyfuse3.syncfs(mountpoint)


def _abandon(place: Place) -> None:
    """In a thread: let go of whoever still waits for an answer, or for whom a thread of this daemon waits."""
    if place.device is not None:
        connection.abort(place.device)  # before the number can become somebody else's
    if place.is_ours:
        subprocess.run(["fusermount3", "-uz", str(place.mountpoint)], capture_output=True, check=False)
