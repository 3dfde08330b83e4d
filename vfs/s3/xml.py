"""XML: answers written from plain values, and bodies read, with what S3's documents never have refused. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree.ElementTree import Element as Element
from xml.parsers import expat

from vfs.s3.errors import S3Error

DEPTH_MAX = 16
ELEMENTS_MAX = 60_000  # of a body: what names the parts of an upload has six for each of 10,000

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
Value = Any  # str, int, bool, a mapping, a list of them, or None for an element that is left out


def document(root: str, content: Value, namespace: str = "") -> bytes:
    """A document. Its content is text, a mapping, or pairs in order; a list makes one element for each of its items; a
    key beginning with @ is an attribute.
    """
    attribute = f' xmlns="{_quoted(namespace)}"' if namespace else ""
    pieces = [HEAD, f"<{root}{attribute}>"]
    if isinstance(content, str):
        pieces.append(_quoted(content))
    else:
        _write(pieces, content.items() if isinstance(content, Mapping) else content)
    pieces.append(f"</{root}>")
    return "".join(pieces).encode()


def _write(pieces: list[str], content: Iterable[tuple[str, Value]]) -> None:
    for name, value in content:
        for item in value if isinstance(value, list) else (value,):
            if item is None or name.startswith("@"):
                continue
            if isinstance(item, Mapping):
                attributes = "".join(f' {key[1:]}="{_quoted(item[key])}"' for key in item if key.startswith("@"))
                pieces.append(f"<{name}{attributes}>")
                _write(pieces, item.items())
                pieces.append(f"</{name}>")
            elif isinstance(item, bool):
                pieces.append(f"<{name}>{'true' if item else 'false'}</{name}>")
            else:
                pieces.append(f"<{name}>{_quoted(str(item))}</{name}>")


_ESCAPES: dict[int, str | None] = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;"}
_ESCAPES |= {ord(char): f"&#{ord(char)};" for char in "\t\n\r"}
# XML 1.0 has no way to say these: S3 gives listings with encoding-type=url to clients that have such keys.
_ESCAPES |= {code: "\ufffd" for code in range(0x20) if chr(code) not in "\t\n\r"}
_ESCAPES |= dict.fromkeys((65534, 65535), "�")


def _quoted(text: str) -> str:
    return text.translate(_ESCAPES).encode("utf-8", "replace").decode() if text else text


def parse(raw: bytes, *roots: str) -> Element:
    """The root element of a body, without namespaces. Raises S3Error unless it is one of *roots*."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.EntityDeclHandler = reader.refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.buffer_text = True
    try:
        parser.Parse(raw, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise S3Error("MalformedXML", f"The XML you provided was not well-formed: {error}") from error
    if reader.root is None or reader.root.tag not in roots:
        raise S3Error("MalformedXML", f"the root of the XML is {' or '.join(roots)}")
    return reader.root


class _Reader:
    """Builds elements; the namespace is whatever the client takes for right, so it is not looked at."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def refuse(self, *_: object) -> None:
        raise S3Error("MalformedXML", "no document type, and no entities, are taken here")

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._count += 1
        if len(self._open) >= DEPTH_MAX or self._count > ELEMENTS_MAX:
            raise S3Error("MalformedXML", "the XML is too deep, or has too many elements")
        element = Element(name.rpartition(":")[2], {key.rpartition(":")[2]: text for key, text in attributes.items()})
        if self._open:
            self._open[-1].append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _: str) -> None:
        self._open.pop()

    def text(self, data: str) -> None:
        if self._open and not len(self._open[-1]):
            self._open[-1].text = (self._open[-1].text or "") + data


def text(element: Element, name: str, default: str = "") -> str:
    """The text of a child, without space around it."""
    found = element.find(name)
    return default if found is None else (found.text or "").strip()


def key_text(element: Element, name: str) -> str | None:
    """The text of a child as it is; None if it is not there. For keys, where space counts."""
    found = element.find(name)
    return None if found is None else found.text or ""


def number(element: Element, name: str, default: int | None = None) -> int | None:
    """A child that is a number. Raises S3Error."""
    raw = text(element, name)
    if not raw:
        if element.find(name) is not None:
            raise S3Error("MalformedXML", f"{name} is a number")
        return default
    if not raw.removeprefix("-").isdecimal() or len(raw) > 18:
        raise S3Error("MalformedXML", f"{name} is a number")
    return int(raw)


def only(element: Element, names: Iterable[str]) -> None:
    """Raise S3Error if an element has a child that none of *names* is."""
    known = set(names)
    for child in element:
        if child.tag not in known:
            raise S3Error("MalformedXML", f"{element.tag} has no {child.tag[:80]}")
