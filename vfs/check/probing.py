"""Trying in another process what may end it: LMDB maps its file and trusts it, so a damaged one can kill who reads it
(SIGBUS, SIGSEGV), and that must stop neither the check that is to tell nor the rebuild that is to help.
"""

from __future__ import annotations

import os
import signal
import warnings

from vfs.catalog import read_through
from vfs.errors import LimitReached
from vfs.folder import Folder

_DEADLY = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)


def how_unreadable(catalog: Folder) -> str:
    """Why a catalog cannot be read to its last row; empty if it can."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the child asks nothing of them
        child = os.fork()
    if child == 0:
        _try(catalog, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        reason = answer.read().decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return reason or (f"reading it ended a process by {signal.Signals(-code).name}" if code < 0 else "")


def _try(catalog: Folder, writer: int) -> None:
    try:
        for number in _DEADLY:
            signal.signal(number, signal.SIG_DFL)
        read_through(catalog)
    except (MemoryError, LimitReached):
        pass  # no damage; whoever opens it next is told
    except BaseException as error:
        os.write(writer, repr(error).encode())
    finally:
        os._exit(0)
