"""`vfs mount`, `vfs umount`: starting and stopping the daemon of a store.

In the background, the daemon is `vfs mount --foreground --ready-fd N` in a session of its own. It writes one line into
that pipe: "ready", or its exit code and why it failed. Its output goes to ``daemon.log`` in the store from the moment
that everything the caller named has been found right.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import click

from vfs.cli import output
from vfs.cli.conf import conf_option
from vfs.cli.logs import LOG, log_to_file, log_to_stderr
from vfs.cli.mounts import STATUS, Mount, is_dead, is_within, lost_directory, mount_of, mounted_on, vfs_mounts
from vfs.cli.options import foreign_owner, split_options
from vfs.cli.output import FAILED, WRONG, Failure, quoted
from vfs.cli.usage import Command
from vfs.cli.users import caller, named, own_namespace, users_of
from vfs.errors import DiskFailed, InvalidName, NoSpace, StoreInUse, Unsafe, VfsError
from vfs.folder import Folder
from vfs.fuse import connection
from vfs.holding import LOCK, Holder, read_holder
from vfs.layout import DESCRIPTION
from vfs.names import check_bucket_name

if TYPE_CHECKING:
    from vfs.service.process import MoreDoor

READY = "ready"
CLOSE_SECONDS_MAX = 60.0  # that an unmounted store is waited for to be closed
POLL_SECONDS = 0.02
COPY_SECONDS = 1.0  # that closing takes before somebody is looked for who keeps a daemon from it
DEAD_MOUNTS_MAX = 16  # one upon the other
_PIPE: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}  # paths may hold anything

Result = TypeVar("Result")

log = logging.getLogger("vfs.mount")


class Order(NamedTuple):
    """What is to be mounted where, both absolute. source: what the table of mounts calls it, if not by its path.
    s3: the address of the S3 endpoint; empty: none. foreign: others may own the store.
    """

    store: Path
    mountpoint: Path
    bucket: str | None
    options: tuple[str, ...]
    source: str = ""
    s3: str = ""
    foreign: bool = False

    @property
    def command_options(self) -> list[str]:
        """What its command line has besides store and mount point."""
        found = [f"--bucket={self.bucket}"] if self.bucket is not None else []
        found += ["-o", ",".join(self.options)] if self.options else []
        found += [f"--s3={self.s3}"] if self.s3 else []
        return found + (["--foreign-owner"] if self.foreign else [])


@click.command(cls=Command)
@click.argument("store")
@click.argument("mountpoint")
@click.option("--bucket", metavar="NAME", help="Mount only this bucket, as the root; it is made if it is not there.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, and log to stderr.")
@click.option(
    "-o",
    "options",
    metavar="OPTION,...",
    multiple=True,
    help="Mount options: allow_other, allow_root, ro, noexec, suid, dev, acl, nosymfollow, sync, dirsync.",
)
@click.option("--s3", metavar="[ADDR:]PORT", default="", help="Serve the same buckets over S3 at an address.")
@foreign_owner
@conf_option("VFS_STORE", "VFS_MOUNTPOINT")
@click.option(
    "--ready-fd",
    type=click.IntRange(0, 1 << 20),
    hidden=True,
    help="For `vfs mount` itself: where to tell that the mount answers.",
)
@click.option("--source", hidden=True, help="For mount.fuse.vfs: what the table of mounts is to call the STORE.")
@click.pass_context
def mount(
    context: click.Context,
    store: str,
    mountpoint: str,
    bucket: str | None,
    foreground: bool,
    options: tuple[str, ...],
    s3: str,
    foreign: bool,
    ready_fd: int | None,
    source: str | None,
) -> None:
    """Mount STORE on MOUNTPOINT, an empty directory. STORE is made if it is missing or empty.

    Returns when the mount answers; the daemon goes on in the background, and its log is daemon.log in STORE. A dead
    mount that a daemon left behind at MOUNTPOINT is cleared away first.
    """
    wanted = tuple(option for text in options for option in split_options(text))
    places = Path(os.path.abspath(store)), Path(os.path.abspath(mountpoint))
    order = Order(*places, bucket, wanted, source or "", s3, foreign)
    _check_door(order)
    if ready_fd is not None:
        context.exit(_serve_in_background(order, ready_fd))
    free_from_killed(order.store)
    check_places(order.store, order.mountpoint, bucket)
    if foreground:
        log_to_stderr()
        _serve(order, door_of(order), lambda: None)
    else:
        spawn(order)


# -- before -----------------------------------------------------------------------------------------------------------


def free_from_killed(store: Path) -> None:
    """End the connection of a daemon of this store that was killed and cannot end: it keeps the store, and whoever
    looks at its mount hangs (docs/concurrency.md). Its guard does the same, unless that was killed too. Raises Failure.

    The lock file says which mount that is: one that others own may name any.
    """
    said = read_lock(store)
    if said is None or not (said.pid and connection.cannot_end(said.pid) and is_held(store)):
        return
    holder, mountpoint = said.pid, said.mountpoint
    there = mounted_on(mountpoint)
    device = connection.device_on(mountpoint) if there is not None and there.is_vfs else None
    told = f"process {holder}, which holds {store}, was killed and cannot end"
    if device is None or not connection.abort(device):
        raise Failure(f"{told}; end its connection as root: umount -f {quoted(mountpoint)}")
    output.write_error(f"{told}: ended its connection to {mountpoint}")
    _is_closed(store, CLOSE_SECONDS_MAX)


def check_places(store: Path, mountpoint: Path, bucket: str | None) -> None:
    """See that what the caller named can be right, without changing anything. Raises Failure."""
    if bucket is not None:
        try:
            check_bucket_name(os.fsencode(bucket))
        except InvalidName as error:
            raise Failure(str(error), WRONG) from error
    check_store(store)
    if _dead_mount(mountpoint) is None:
        _check_mountpoint(mountpoint)
    real_store, real_mountpoint = os.path.realpath(store), os.path.realpath(mountpoint)
    if is_within(real_store, real_mountpoint) or is_within(real_mountpoint, real_store):
        raise Failure(f"{store} and {mountpoint}: a store and its mount point cannot lie in one another", WRONG)


def check_store(store: Path) -> None:
    if store.is_dir():
        _check_writable(store, store)  # what is in it: see Store.open
        return
    if store.exists() or store.is_symlink():
        raise Failure(f"{store} is not a directory; name a store, or a directory to make", WRONG)
    if not store.parent.is_dir():
        above = store.parent
        raise Failure(
            f"{store} cannot be made: there is no directory {above}; make it: mkdir -p {quoted(str(above))}", WRONG
        )
    _check_writable(store, store.parent)


def _check_writable(store: Path, directory: Path) -> None:
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise Failure(
            f"{store} lies on a read-only file system; a store must be writable, also for a mount with -o ro", WRONG
        )
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        user = output.user_name(os.geteuid())
        raise Failure(f"{store}: permission denied: {directory} must be readable and writable for {user}", WRONG)


def _check_mountpoint(mountpoint: Path) -> None:
    if not mountpoint.exists():
        raise Failure(f"{mountpoint} does not exist; make it: mkdir {quoted(str(mountpoint))}", WRONG)
    if not mountpoint.is_dir():
        raise Failure(f"{mountpoint} is not a directory, which a mount point must be", WRONG)
    there = mounted_on(os.path.realpath(mountpoint))
    if there is not None and there.is_vfs:
        first = f"unmount it first: vfs umount {quoted(there.mountpoint)}"
        raise Failure(f"{mountpoint} is mounted already, from {there.source}; {first}", WRONG)
    try:
        names = os.listdir(mountpoint)
    except OSError as error:
        raise Failure(f"{mountpoint}: {error.strerror}", WRONG) from error
    if names:
        raise Failure(f"{mountpoint} is not empty (it has {names[0]}), and would be hidden; name another", WRONG)


def _dead_mount(mountpoint: Path) -> Mount | None:
    """What a daemon that died left mounted there. Raises Failure if it is not ours."""
    if not is_dead(str(mountpoint)):
        return None
    there = mounted_on(str(mountpoint)) or mounted_on(os.path.realpath(mountpoint))
    if there is None or not there.is_vfs:
        raise Failure(f"{mountpoint} is a dead mount, and not of vfs; unmount it first (fusermount3 -u)", WRONG)
    return there


def _clear_dead(mountpoint: Path) -> None:
    """Take away what daemons that died left mounted. Raises Failure if that cannot be."""
    for _ in range(DEAD_MOUNTS_MAX):
        dead = _dead_mount(mountpoint)
        if dead is None:
            break
        error = _unmount(dead.mountpoint, lazy=True)
        if error:
            raise Failure(f"{mountpoint} is a dead mount that cannot be cleared away: {error}")
        log.warning("cleared away the dead mount of %s on %s", dead.source, mountpoint)
    _check_mountpoint(mountpoint)


# -- the daemon -------------------------------------------------------------------------------------------------------


def _serve(order: Order, door: MoreDoor | None, on_ready: Callable[[], None]) -> None:
    from vfs.fuse import daemon

    _clear_dead(order.mountpoint)
    serve = functools.partial(
        daemon.serve,
        order.store,
        order.mountpoint,
        bucket=order.bucket,
        options=order.options,
        source=order.source or str(order.store),
        on_ready=on_ready,
        door=door,
        foreign=order.foreign,
        command_options=order.command_options,
    )
    try:
        when_closed(serve)
    except (NoSpace, DiskFailed):
        raise  # it may work the next time
    except VfsError as error:
        raise Failure(str(error), WRONG) from error


def _check_door(order: Order) -> None:
    """See that the S3 endpoint, if it is to be opened, can be there. Raises Failure."""
    from vfs.cli.serving import check_installed, parse_address

    if order.s3:
        check_installed()
        parse_address(order.s3)


def door_of(order: Order) -> MoreDoor | None:
    """The S3 endpoint that is to be opened, too; it listens from now on, before a store is made for it. Raises Failure,
    VfsError.
    """
    if not order.s3:
        return None
    from vfs.cli.serving import parse_address
    from vfs.s3.daemon import ListenFailed, bind, door_on

    address = parse_address(order.s3)

    def listen() -> MoreDoor:
        try:
            return door_on(bind(address), address)
        except ListenFailed as error:
            check_free(order.store)
            raise Failure(str(error), WRONG) from error

    return when_closed(listen)


def _warn_of_address(order: Order) -> None:
    """Tell on the terminal what the log of the daemon tells of its address."""
    if not order.s3:
        return
    from vfs.cli.serving import parse_address
    from vfs.s3.daemon import warning_of

    urls: list[str] = []
    with contextlib.suppress(OSError, ValueError, LookupError):
        urls = json.loads(os.getxattr(order.mountpoint, STATUS))["S3"]
    if warning := warning_of(parse_address(order.s3), over_tls=bool(urls) and urls[0].startswith("https:")):
        output.write_error(warning)


def _serve_in_background(order: Order, ready_fd: int) -> int:
    """The daemon's side of `spawn`. Returns its exit code."""
    os.set_inheritable(ready_fd, False)
    with os.fdopen(ready_fd, "w", **_PIPE) as pipe:

        def tell(text: str) -> None:
            if not pipe.closed:
                pipe.write(" ".join(text.split("\n")) + "\n")
                pipe.close()

        try:
            from vfs.fuse import daemon

            daemon.check_options(order.options)
            door = door_of(order)
            with Folder.at(order.store, foreign=order.foreign, make=True) as root:
                _check_is_store(root)
                log_to_file(root)
            os.chdir("/")
            _serve(order, door, lambda: tell(READY))
        except (VfsError, Failure, OSError, MemoryError) as error:
            code, message = _failure(error)
            if pipe.closed:
                log.critical("%s", message)
            tell(f"{code} {message}")
            return code
    return 0


def _failure(error: Exception) -> tuple[int, str]:
    """Exit code and message. What may work the next time is FAILED: systemd tries that again."""
    match error:
        case Failure():
            return error.code, error.message
        case OSError():
            return FAILED, output.reason(error)
        case MemoryError():
            return FAILED, "out of memory"
        case NoSpace() | DiskFailed():
            return FAILED, str(error)
    return WRONG, str(error)


def _check_is_store(root: Folder) -> None:
    """Write no log into a directory that is something else: Store.open would refuse it."""
    from vfs.store import check_empty

    names = root.names()
    if DESCRIPTION not in names:
        check_empty(root.path, names)


def spawn(order: Order) -> None:
    """Start the daemon in the background, and return when its mount answers. Raises Failure."""
    reader, writer = os.pipe()
    lost = lost_directory() != ""
    safe = [] if not lost and sys.path[0] == os.getcwd() else ["-P"]  # no modules from here, unless they are vfs
    command = [sys.executable, *safe, "-m", "vfs", "mount", "--foreground", "--ready-fd", str(writer)]
    command += [f"--source={order.source}"] if order.source else []
    command += order.command_options
    with os.fdopen(reader, **_PIPE) as pipe:
        try:
            child = subprocess.Popen(
                [*command, "--", str(order.store), str(order.mountpoint)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        answer = pipe.readline().rstrip("\n")
    if answer != READY:
        _report_failure(order.store, child.wait(), answer)
    child.returncode = 0  # it is to stay when this process goes, so nobody waits for it
    _warn_of_address(order)


def _report_failure(store: Path, code: int, answer: str) -> NoReturn:
    word, _, message = answer.partition(" ")
    if word.isdigit():
        raise Failure(message, int(word))
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    raise Failure(f"the daemon ended without a word ({how}); look into {store / LOG}", FAILED)


# -- unmounting -------------------------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.argument("mountpoint")
def umount(mountpoint: str) -> None:
    """Unmount what is mounted on MOUNTPOINT, and return when its daemon has closed the store."""
    there = _mounted(mountpoint)
    store = _store_of(there)
    device = connection.device_on(there.mountpoint)
    error = _unmount(there.mountpoint)
    if error.rstrip(".").endswith("busy"):
        raise Failure(f"{mountpoint} is busy: {_who_is_in(device, mountpoint)}; try again when that is done")
    if error:
        raise Failure(f"{mountpoint} cannot be unmounted: {error}")
    if _is_closed(store, COPY_SECONDS):
        return
    if device is not None:
        _check_bound(there, mountpoint, device)
        _end_for_copies(store, mountpoint, device)
    if not _is_closed(store, CLOSE_SECONDS_MAX):
        raise Failure(
            f"{mountpoint} is unmounted, and its store is not closed after {CLOSE_SECONDS_MAX:.0f} s; "
            f"look into {store / LOG}"
        )


def _is_closed(store: Path, seconds: float) -> bool:
    """Whether nobody holds a store any more, within so many seconds."""
    deadline = time.monotonic() + seconds
    while is_held(store):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _who_is_in(device: str | None, mountpoint: str) -> str:
    here = own_namespace()
    users = [] if device is None else [user for user in users_of(device) if user.opens and user.namespace == here]
    asking = caller()
    others = [user for user in users if user.pid not in asking.pids]
    told = []
    if len(others) < len(users):
        told.append(f"your {'shell stands' if asking.is_shell else 'working directory is'} in it (cd ~)")
    if others:
        told.append(f"{named(others)} {'has' if len(others) == 1 else 'have'} files or the working directory there")
    return " and ".join(told) or f"somebody has files open there; as root, `fuser -vm {quoted(mountpoint)}` shows who"


def _check_bound(gone: Mount, mountpoint: str, device: str) -> None:
    """See that what was unmounted is not mounted elsewhere here, too (mount --bind). Raises Failure."""
    for mount in vfs_mounts():
        if mount.source == gone.source and connection.device_on(mount.mountpoint) == device:
            raise Failure(
                f"{mountpoint} is unmounted, but part of it is mounted on {mount.mountpoint} (mount --bind), and the "
                f"daemon goes on; unmount that, too: vfs umount {quoted(mount.mountpoint)}"
            )


def _end_for_copies(store: Path, mountpoint: str, device: str) -> None:
    """End a daemon that goes on because another mount namespace (of a container, perhaps) has a copy of the mount.
    Raises Failure if somebody there uses it, or the daemon cannot be ended.
    """
    copies = users_of(device)
    if not copies:
        return
    daemon = read_lock(store)
    end = (
        f"kill {daemon.pid}" if daemon is not None and daemon.pid else f"that of the process that {store / LOCK} names"
    )
    using = [user for user in copies if user.opens]
    if using:
        uses = "uses" if len(using) == 1 else "use"
        raise Failure(
            f"{mountpoint} is unmounted here, but {named(using)} {uses} a copy of it in another mount namespace (a "
            f"container?), and the daemon goes on; end {'it' if len(using) == 1 else 'them'}, or the daemon: {end}"
        )
    try:
        if daemon is None or not daemon.pid:
            raise PermissionError
        os.kill(daemon.pid, signal.SIGTERM)
    except PermissionError:
        raise Failure(
            f"{mountpoint} is unmounted here, but {named(copies)} has a copy of it; end the daemon: {end}"
        ) from None
    except ProcessLookupError:
        pass  # it has just ended
    output.write_note(f"ended the daemon: {named(copies)} had a copy of {mountpoint} in another mount namespace")


def _store_of(mount: Mount) -> Path:
    """The store of a mount: its source, unless that is a relative path, which only the daemon knows how to take."""
    path = mount.source
    if not os.path.isabs(path):
        with contextlib.suppress(OSError):
            path = json.loads(os.getxattr(mount.mountpoint, STATUS))["Store"]
    return Path(path)


def _mounted(mountpoint: str) -> Mount:
    """The mount of vfs at a mount point. Raises Failure."""
    absolute = os.path.abspath(mountpoint)
    there = mounted_on(absolute) or mounted_on(os.path.realpath(absolute))
    if there is not None and there.is_vfs:
        return there
    if there is None and os.path.isdir(absolute):
        try:
            outer = mount_of(os.path.realpath(absolute))
        except Failure:
            pass
        else:
            raise Failure(
                f"{mountpoint} lies in a mount of vfs; unmount that: vfs umount {quoted(outer.mountpoint)}", WRONG
            )
    raise Failure(f"no vfs is mounted on {mountpoint}; `vfs status` lists the mounts that there are", WRONG)


def _unmount(mountpoint: str, *, lazy: bool = False) -> str:
    """Unmount. Returns why it failed, nothing if it did not."""
    if os.geteuid() == 0 or shutil.which("fusermount3") is None:
        command = ["umount", *(["-l"] if lazy else [])]
    else:
        command = ["fusermount3", "-uz" if lazy else "-u"]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run([*command, "--", mountpoint], capture_output=True, check=False, env=environment)
    return "" if done.returncode == 0 else " ".join(os.fsdecode(done.stderr).split()) or f"{command[0]} failed"


def when_closed(call: Callable[[], Result]) -> Result:
    """What *call* returns. While the store that it opens is in use by a daemon that was unmounted a moment ago, and has
    yet to close it, it is called again: `umount` alone does not wait for that. Raises StoreInUse.
    """
    deadline = time.monotonic() + CLOSE_SECONDS_MAX
    while True:
        try:
            return call()
        except StoreInUse as error:
            there = mounted_on(error.mountpoint) if error.mountpoint else None
            if not error.mountpoint or (there is not None and there.is_vfs) or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def read_lock(store: Path) -> Holder | None:
    """What the lock file of a store of this user's says; None if there is no such file."""
    try:
        with Folder.at(store) as root:
            fd = root.open(LOCK)
    except (OSError, Unsafe):
        return None
    try:
        return read_holder(fd)
    finally:
        os.close(fd)


def check_free(store: Path) -> None:
    """Raise StoreInUse if a process holds a store: it may be why an address is in use."""
    if is_held(store):
        raise (read_lock(store) or Holder(0, "")).in_use(store)


def is_held(store: Path) -> bool:
    """Whether a process holds a store, as far as this one can see."""
    try:
        with Folder.at(store, foreign=True) as root:
            fd = root.open(LOCK)
    except (OSError, Unsafe):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
