"""Where a daemon without a mount can be found and asked how it is: a socket in a directory of its user's, or, where
there can be none, in the store.

A mount can be asked by its path. For a store that is only served, the socket says to whoever connects, which only its
user and root can, what `vfs status` shows. It is named after the store, so that the next daemon takes its place.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

ANSWER_BYTES_MAX = 1 << 20
ASK_S_MAX = 5.0
SOCKET = "status.sock"  # in a store


def listen(store: Path) -> socket.socket | None:
    """The socket of the daemon of a store; None where there is no directory for it."""
    place = _place(store)
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, exist_ok=True)
        if _is_own(place.parent, os.geteuid()):
            return _listen(place)
    return None


def listen_in(store: Path) -> socket.socket | None:
    """The socket in the store itself; None if there can be none."""
    with contextlib.suppress(OSError), _reached(store) as place:
        return _listen(place)
    return None


def _listen(place: Path) -> socket.socket:
    place.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(place))
        bound.listen()
    except OSError:
        bound.close()
        raise
    return bound


@contextlib.contextmanager
def _reached(store: Path) -> Iterator[Path]:
    """A path of the socket in a store, short enough to be a socket's, however long that of the store is."""
    directory = os.open(store, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{directory}/{SOCKET}")
    finally:
        os.close(directory)


def forget(store: Path) -> None:
    """The daemon of a store ends."""
    for place in (_place(store), store / SOCKET):
        with contextlib.suppress(OSError):
            place.unlink()


def ask_all() -> list[tuple[Path, bytes]]:
    """The socket of each daemon that this user may ask, and what it says: nothing if it does not in time. Root asks
    everybody's.
    """
    uid = os.geteuid()
    every = _directories() if uid == 0 else sorted({_directory(uid), _temporary(uid)})
    found: list[tuple[Path, bytes]] = []
    for directory in every:
        if _is_own(directory, uid):
            asked = [(place, _ask(place)) for place in sorted(directory.glob("*.sock"))]
            found += [(place, answer) for place, answer in asked if answer is not None]
    return found


def ask_in(store: Path) -> bytes | None:
    """What the daemon says that listens in a store; None if there is none."""
    with contextlib.suppress(OSError):
        if _is_own(store, os.geteuid()):
            with _reached(store) as place:
                return _ask(place)
    return None


def _place(store: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(store))).hexdigest()[:16]
    return _directory(os.geteuid()) / f"{name}.sock"


def _directory(uid: int) -> Path:
    if uid == 0:
        return Path("/run/vfs")
    runtime = Path(f"/run/user/{uid}")  # not by XDG_RUNTIME_DIR: su and cron do not set it
    return runtime / "vfs" if runtime.is_dir() else _temporary(uid)


def _temporary(uid: int) -> Path:
    """Where it is if the daemon was started before its user had a session."""
    return Path(f"/tmp/vfs-{uid}")


def _directories() -> list[Path]:
    return [Path("/run/vfs"), *map(Path, sorted(glob.glob("/run/user/*/vfs") + glob.glob("/tmp/vfs-*")))]


def _is_own(directory: Path, uid: int) -> bool:
    """Whether nobody but its user has put something there. Root asks everybody's, and believes nobody's."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022 and (found.st_uid == uid or uid == 0)


def _ask(place: Path) -> bytes | None:
    """What the daemon at a socket says; None if there is none any more."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(ASK_S_MAX)
        try:
            channel.connect(str(place))
        except OSError:
            return None
        with contextlib.suppress(OSError):
            while len(answer) < ANSWER_BYTES_MAX and (part := channel.recv(1 << 16)):
                answer += part
    return answer
