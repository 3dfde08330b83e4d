"""Contents that say by themselves who wrote them, whole: a mixture of two is seen as one, whoever reads it.

    saved     a head (token, length, what it replaced), then the token again and again: its every prefix is told too
    appended  records, a line each: who, the how manieth, when, and what the file held when its writer opened it
    paged     pages of 4 KiB, each with the content that its file began with (root), who wrote it, the how manieth

Each piece ends with a checksum. A record tells the size and digest of what was in the file before its writer came, so
it cannot be in any other; all pages of a file have one root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tests.torture.steps import digest

PAGE = 4096
RECORD_BYTES_MAX = 400


class Mixture(Exception):
    """Bytes that nobody wrote, or that are not of one writer."""


class Form(Enum):
    SAVED = "saved"
    APPENDED = "appended"
    PAGED = "paged"


@dataclass(frozen=True)
class Content:
    """What some bytes say. token: whose content it is, or began as. is_whole: nothing of it is missing.

    replaces: of a saved one, what its writer saw before. records: of each writer that appended, how many records.
    pages: (writer, number) of each page.
    """

    digest: str
    size: int
    token: str
    is_whole: bool
    replaces: str = ""
    records: dict[str, int] = field(default_factory=dict)
    pages: tuple[tuple[str, int], ...] = ()


def parse(form: Form, data: bytes) -> Content:
    """Raises Mixture."""
    match form:
        case Form.SAVED:
            return _parse_saved(data)
        case Form.APPENDED:
            return _parse_appended(data)
        case Form.PAGED:
            return _parse_paged(data)


def _sealed(text: str) -> bytes:
    """A line with its checksum."""
    return f"{text} {digest(text.encode())}\n".encode()


def _words(line: bytes) -> list[str]:
    """The words of such a line. Raises Mixture."""
    text, _, sum_ = line.decode("ascii", "replace").rstrip("\n").rpartition(" ")
    if not line.endswith(b"\n") or digest(text.encode()) != sum_:
        raise Mixture(f"a line that nobody wrote: {line[:200]!r}")
    return text.split(" ")


# -- saved ------------------------------------------------------------------------------------------------------------


def saved(token: str, size: int, replaces: str = "-") -> bytes:
    """At least a head; *size* bytes if that is more."""
    head = _sealed(f"S {token} {size} {replaces}")
    line = f"{token:.<31}\n".encode()
    return (head + line * ((size - len(head)) // len(line) + 1))[: max(size, len(head))]


def _parse_saved(data: bytes) -> Content:
    if not data:
        return Content(digest(data), 0, "", is_whole=False)
    words = _words(data[: data.find(b"\n") + 1])
    if words[0] != "S":
        raise Mixture(f"it begins with {data[:100]!r}")
    whole = saved(words[1], int(words[2]), words[3])
    if not whole.startswith(data):
        at = next((at for at, (a, b) in enumerate(zip(data, whole, strict=False)) if a != b), len(whole))
        raise Mixture(f"{words[1]} until byte {at}, where {data[at : at + 100]!r} follows; {len(data)} bytes")
    return Content(digest(data), len(data), words[1], len(data) == len(whole), replaces=words[3])


# -- appended ---------------------------------------------------------------------------------------------------------


def first_line(token: str) -> bytes:
    """What a file begins with that is put for others to append to."""
    return _sealed(f"P {token}")


def record(writer: str, number: int, before: bytes, now: int) -> bytes:
    """The *number*-th that a writer appends, from 0. before: what the file held when he opened it."""
    torn = b"\n" if not number and before and not before.endswith(b"\n") else b""
    padding = os.urandom(number * 7919 % 60).hex()
    return torn + _sealed(f"R {writer} {number} {now} {len(before)} {digest(before)} {padding}")


def _parse_appended(data: bytes) -> Content:
    token, records, torn = "", dict[str, int](), list[int]()
    befores = {0}
    for start, line in _lines(data):
        try:
            words = _words(line)
        except Mixture:
            torn.append(start + len(line.rstrip(b"\n")))
            continue
        if words[0] == "P":
            if start:
                raise Mixture(f"{words[1]} was put into what was there before, at byte {start} of {len(data)}")
            token = words[1]
            continue
        _, writer, number, _, size, before, _ = words
        if int(size) > start or digest(data[: int(size)]) != before:
            raise Mixture(f"{writer} wrote into another file, which had {size} bytes when he opened it")
        if int(number) != records.get(writer, 0):
            raise Mixture(f"record {number} of {writer} follows {records.get(writer, 0)} others of his")
        records[writer] = int(number) + 1
        befores.add(int(size))
    for end in torn:  # a write that goes on in another page comes in two requests, between which a kill may fall
        if end % PAGE or not (end == len(data) or end in befores):
            raise Mixture(f"a record is torn at byte {end} of {len(data)}")
    return Content(digest(data), len(data), token, not torn, records=records)


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    for line in data.splitlines(keepends=True):
        if line != b"\n":
            yield start, line
        start += len(line)


# -- paged ------------------------------------------------------------------------------------------------------------


def page(root: str, writer: str, number: int, index: int, count: int) -> bytes:
    """The *number*-th that a writer makes, for place *index* of *count*."""
    head = _sealed(f"G {root} {writer} {number} {index} {count}")
    line = f"{writer}/{number:.<20}\n".encode()
    return (head + line * (PAGE // len(line) + 1))[:PAGE]


def paged(token: str, count: int) -> bytes:
    """A file as it is put."""
    return b"".join(page(token, token, 0, index, count) for index in range(count))


def _parse_paged(data: bytes) -> Content:
    root, count, pages = "", len(data) // PAGE, []
    if not data or len(data) % PAGE:
        raise Mixture(f"{len(data)} bytes are no pages")
    for index in range(count):
        there = data[index * PAGE : (index + 1) * PAGE]
        words = _words(there[: there.find(b"\n") + 1])
        _, its_root, writer, number, its_index, its_count = words
        if (int(its_index), int(its_count)) != (index, count):
            raise Mixture(f"page {index} of {count} is page {its_index} of {its_count} of {its_root}")
        if there != page(its_root, writer, int(number), index, count):
            raise Mixture(f"page {index} is not what {writer} wrote")
        if root not in ("", its_root):
            raise Mixture(f"page {index} is of {its_root}, those before are of {root}")
        root = its_root
        pages.append((writer, int(number)))
    return Content(digest(data), len(data), root, is_whole=True, pages=tuple(pages))
