"""The connection between the kernel and a daemon: which one a mount has, and ending it when its daemon cannot.

A thread of the daemon may wait in the kernel, where no signal reaches it, for somebody who waits for an answer of this
same daemon (docs/concurrency.md, "Invalidation"). Killed in that moment the daemon neither runs nor ends: its thread
holds /dev/fuse open, so nobody gets an error, and the store stays locked. Ending the connection frees all of them. It
takes a process that outlives the daemon: the guard, which is this file, run by its path. It imports nothing of vfs, and
no site-packages, to be small.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

DYING_MS_MAX = 500
"""How long a killed daemon may take to end before its connection is ended."""

_CONNECTIONS = Path("/sys/fs/fuse/connections")
_PR_SET_PDEATHSIG = 1
_MNT_DETACH = 2


def device_on(mountpoint: str) -> str | None:
    """The number of the file system that is mounted there, as mountinfo has it (``0:41``); None if that is unknown.

    Asks nobody: neither a daemon that hangs nor a server that is away.
    """
    try:
        fd = os.open(mountpoint, os.O_PATH | os.O_CLOEXEC)
        try:
            facts = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
        finally:
            os.close(fd)
        mounts = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
    except OSError:
        return None
    number = facts[facts.index("mnt_id:") + 1].encode()
    return next((line.split(b" ", 3)[2].decode() for line in mounts if line.startswith(number + b" ")), None)


def abort(device: str) -> bool:
    """End the connection of a file system: all its requests fail, those under way too. What is mounted stays, dead.

    By its file in fusectl, which root and who mounted it may write to. Where fusectl is not mounted, which systemd sees
    to, root mounts it for this moment. Returns False if that was not possible.
    """
    file = _CONNECTIONS / device.partition(":")[2] / "abort"
    libc = ctypes.CDLL(None)
    place = os.fsencode(_CONNECTIONS)
    mounted = not os.path.exists(file) and libc.mount(b"fusectl", place, b"fusectl", 0, None) == 0
    try:
        file.write_text("1")
    except OSError:
        return False
    finally:
        if mounted:
            libc.umount2(place, _MNT_DETACH)
    return True


def cannot_end(pid: int) -> bool:
    """Whether a process was killed, and a thread of it goes on: its first one is gone, and others are not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(") ")[2][0]
        return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def start_guard(mountpoint: str, device: str) -> subprocess.Popen[bytes]:
    """Start the process that ends the connection when this one was killed and cannot end. It ends when this one does.

    To be called in the first thread, which is the one that a signal surely ends. Raises OSError.
    """
    command = [sys.executable, "-I", "-S", __file__, mountpoint, device, str(os.getpid())]
    guard = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/")
    guard.returncode = 0  # it outlives this process, so nobody waits for it
    return guard


def end_guard(guard: subprocess.Popen[bytes]) -> None:
    """Nothing is mounted any more: end it, before a service manager finds it left behind, and says that it kills it."""
    guard.returncode = None
    guard.kill()
    guard.wait()


def main(mountpoint: str, device: str, daemon: int) -> None:
    """Sleep until the first thread of the daemon has ended (PR_SET_PDEATHSIG: prctl(2)), then see that all have."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(daemon)  # readable when all threads have ended
        if os.getppid() == daemon and not cannot_end(daemon):
            signal.sigwait([signal.SIGUSR1])
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(DYING_MS_MAX):
            told = "ended its connection" if abort(device) else "its connection cannot be ended here; root: umount -f"
            sys.stderr.write(f"the daemon on {mountpoint} was killed and could not end: {told}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
