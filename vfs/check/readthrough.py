"""What can be read of a disk that cannot be read everywhere: the rest is zeros, and is judged by its checksums."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from vfs.disk import Disk, File, is_damage
from vfs.errors import DiskFailed

PAGE_BYTES = 4096
BAD_PAGES_MAX = 100_000  # remembered of a file; a disk takes seconds to say that it cannot read one


class ReadThrough:
    """A Disk that is only read. For whoever takes nothing for true without its checksum."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._bad: dict[str, set[int]] = {}  # pages of each file that cannot be read

    def list(self, folder: str) -> list[str]:
        return self._disk.list(folder)

    def open(self, path: str, *, create: bool = False) -> File:
        file = self._disk.open(path, create=create)
        return cast(File, _ReadThroughFile(file, self._bad.setdefault(path, set())))

    def remove(self, path: str) -> None:
        self._disk.remove(path)

    def rename(self, path: str, new: str) -> None:
        self._disk.rename(path, new)

    def unreadable(self) -> Iterator[tuple[str, int, int]]:
        """(path, the byte where the first unreadable page begins, how many there are) of each file that has such."""
        for path, pages in sorted(self._bad.items()):
            if pages:
                yield path, min(pages) * PAGE_BYTES, len(pages)


class _ReadThroughFile:
    """A file that is only read. bad: its unreadable pages that are known, of all who have it open."""

    def __init__(self, file: File, bad: set[int]) -> None:
        self._file = file
        self._bad = bad
        self.size = file.size
        self.allocated = file.allocated
        self.close = file.close

    def next_data(self, offset: int) -> int:
        return self._file.next_data(offset)

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        pages = range(offset // PAGE_BYTES, -(-end // PAGE_BYTES))
        if self._bad.isdisjoint(pages):
            try:
                return self._file.read(offset, length)
            except DiskFailed as error:
                if not is_damage(error):
                    raise
        return b"".join(
            self._read_in(page, max(offset, page * PAGE_BYTES), min(end, (page + 1) * PAGE_BYTES)) for page in pages
        )

    def _read_in(self, page: int, start: int, end: int) -> bytes:
        """The bytes from *start* to *end*, which lie in one page."""
        if page not in self._bad:
            try:
                return self._file.read(start, end - start)
            except DiskFailed as error:
                if not is_damage(error):
                    raise
                if len(self._bad) < BAD_PAGES_MAX:
                    self._bad.add(page)
        return bytes(end - start)
