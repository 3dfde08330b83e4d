"""What lifecycles did: one line of JSON for each action, in ``lifecycle.log`` in the store's directory.

A line is written and synced before what it tells is done, so that nothing goes without a trace. After a crash, or where
a lock or a user was faster, a line may tell of what was not done; what is done later gets another line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vfs.disk import refusal

FILE = "lifecycle.log"
OLD = "lifecycle.log.1"
FILE_BYTES_MAX = 16 << 20  # then it becomes the old one, in place of the one before


def append(store: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Add lines, and make them survive a power loss. For any thread, one call at a time. Raises NoSpace, DiskFailed."""
    try:
        _append(store / FILE, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    except OSError as error:
        raise refusal(f"{store / FILE}", error) from error


def _append(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+b", buffering=0) as file:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # a crash tore the last line
        file.write(data)
        os.fdatasync(fd)
        if size + len(data) >= FILE_BYTES_MAX:
            path.rename(path.with_name(OLD))


def read(store: Path) -> Iterator[dict[str, Any]]:
    """The lines that there are, oldest first; torn ones are left out. Raises OSError."""
    for name in (OLD, FILE):
        try:
            file = (store / name).open("rb")
        except FileNotFoundError:
            continue
        with file:
            for line in file:
                try:
                    found = msgspec.json.decode(line)
                except msgspec.DecodeError:
                    continue
                if isinstance(found, dict):
                    yield found
