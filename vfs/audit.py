"""What lifecycles did: one line of JSON for each action, in ``lifecycle.log`` in the store's directory.

A line is written and synced before what it tells is done, so that nothing goes without a trace. After a crash, or where
a lock or a user was faster, a line may tell of what was not done; what is done later gets another line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from vfs.disk import refusal
from vfs.folder import Folder

FILE = "lifecycle.log"
OLD = "lifecycle.log.1"
FILE_BYTES_MAX = 16 << 20  # then it becomes the old one, in place of the one before
LINE_BYTES_MAX = 1 << 20  # what is longer is no line of ours


def append(root: Folder, lines: Sequence[dict[str, Any]]) -> None:
    """Add lines, and make them survive a power loss. For any thread, one call at a time. Raises NoSpace, DiskFailed."""
    try:
        _append(root, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    except OSError as error:
        raise refusal(f"{root.path / FILE}", error) from error


def _append(root: Folder, data: bytes) -> None:
    fd = root.open_or_make(FILE, os.O_RDWR | os.O_APPEND)
    with os.fdopen(fd, "r+b", buffering=0) as file:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # a crash tore the last line
        file.write(data)
        os.fdatasync(fd)
        if size + len(data) >= FILE_BYTES_MAX:
            root.rename(FILE, OLD)


def read(root: Folder) -> Iterator[dict[str, Any]]:
    """The lines that there are, oldest first; torn ones are left out. Raises OSError, Unsafe."""
    for name in (OLD, FILE):
        try:
            file = root.open_file(name)
        except FileNotFoundError:
            continue
        with file:
            while line := file.readline(LINE_BYTES_MAX):
                try:
                    found = msgspec.json.decode(line)
                except (msgspec.DecodeError, RecursionError):
                    continue
                if isinstance(found, dict):
                    yield found
