"""The log of a daemon: to stderr, where systemd or a person reads it, or to ``daemon.log`` in the store.

Others can make a daemon log something: users of the mount, clients, programs that retry. So it is bounded: a file
begins anew at LOG_BYTES_MAX, with the one before kept beside it, and a warning is logged once in REPEAT_S.
"""

from __future__ import annotations

import logging
import os
import sys
import time

from vfs.folder import Folder

LOG = "daemon.log"
LOG_BEFORE = "daemon.log.1"
LOG_BYTES_MAX = 1 << 20
REPEAT_S = 60.0  # in which the same warning, or a traceback from the same place, is logged once
WARNINGS_MAX = 1000  # in REPEAT_S, whatever they say

_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # sd-daemon(3)


def log_to_stderr() -> None:
    """Log to stderr, wherever that leads."""
    _log_with(logging.StreamHandler())


def log_to_file(root: Folder) -> None:
    """From now on, all output of this process goes to the end of the store's log."""
    _log_with(FileHandler(root.again()))


def _log_with(handler: logging.Handler) -> None:
    if is_journal(sys.stderr.fileno()):
        handler.setFormatter(PriorityFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        )
    handler.addFilter(Repeats())
    logging.raiseExceptions = False  # a log that cannot be written to: nowhere else to say that
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def is_journal(fd: int) -> bool:
    """Whether a descriptor leads to systemd's journal, which adds the time itself (systemd.exec(5), JOURNAL_STREAM)."""
    found = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class PriorityFormatter(logging.Formatter):
    """Lines with a priority in front of each, as systemd's journal reads them (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        """One or more lines."""
        prefix = f"<{_PRIORITIES.get(record.levelname, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


class FileHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr, which leads to the store's log. Invariant: the log is at most one record longer than
    LOG_BYTES_MAX. Not logging.handlers.RotatingFileHandler, which opens by path, and knows nothing of what else is
    written to stderr.
    """

    def __init__(self, root: Folder) -> None:
        super().__init__()
        self._root = root
        self._open()

    def _open(self) -> None:
        fd = self._root.open_or_make(LOG, os.O_WRONLY | os.O_APPEND)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, into a new file if this one is full."""
        try:
            if os.fstat(2).st_size >= LOG_BYTES_MAX:
                self._root.rename(LOG, LOG_BEFORE)
                self._open()
        except OSError:
            pass  # a full disk: the old file goes on
        super().emit(record)


class Repeats(logging.Filter):
    """Passes each warning once in REPEAT_S, and a traceback by the place that it comes from, whatever is said of it."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        if len(self._passed) >= WARNINGS_MAX:
            self._passed = {key: at for key, at in self._passed.items() if now - at < REPEAT_S}
        key = _key(record)
        known = self._passed.get(key)
        if (known is None and len(self._passed) >= WARNINGS_MAX) or (known is not None and now - known < REPEAT_S):
            return False
        self._passed[key] = now
        return True


def _key(record: logging.LogRecord) -> tuple[object, ...]:
    if not record.exc_info or record.exc_info[2] is None:
        return (record.name, record.getMessage())
    trace = record.exc_info[2]
    while trace.tb_next is not None:
        trace = trace.tb_next
    return (record.name, record.exc_info[0], trace.tb_frame.f_code, trace.tb_lineno)
