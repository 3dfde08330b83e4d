"""A bucket as plain data: as seen through the mount (`observe`), and as the reference model says (`expect`).

To keep what a history node leads to plain, no name is both a file's and a directory's: names of directories begin
with ``d``, names of symlinks with ``l``, all others are files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.model.reference import Directory, File, Reference, Version
from tests.torture.steps import digest
from vfs.model import Kind

DELETED = "(deleted)"
Known = dict[str, tuple[int, str]]  # of each version id that was read before: size and digest


@dataclass
class View:
    """live: of each path, what is there. past: of each path below `.versions`, the names or the versions there.

    ids: of each path of versions, their ids, oldest first. versions: the same as the model's, but for those in
    `merged`: paths of keys of several directories, between whose versions the model knows no order (when one recovery
    publishes what was open in both).
    """

    live: dict[str, Any] = field(default_factory=dict)
    past: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, list[Version]] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)


def is_directory(name: str) -> bool:
    return name.startswith("d")


# -- through the mount --------------------------------------------------------------------------------------------


def observe(root: str, known: Known, read_again: Callable[[str], bool]) -> View:
    """What is in the bucket at *root*. A version that is in *known* is read only if *read_again* says so."""
    view = View()
    _observe_live(view, root, "")
    _observe_past(view, root, ".versions", known, read_again)
    return view


def _observe_live(view: View, root: str, below: str) -> None:
    where = os.path.join(root, below)
    names = sorted(os.listdir(where))
    view.live[below] = ("directory", stat.S_IMODE(os.lstat(where).st_mode), _attributes(where), names)
    for name in names:
        path = os.path.join(below, name)
        if is_directory(name):
            _observe_live(view, root, path)
            continue
        found = os.lstat(os.path.join(root, path))
        if stat.S_ISLNK(found.st_mode):
            view.live[path] = ("symlink", os.readlink(os.path.join(root, path)))
            continue
        data = _read(os.path.join(root, path))
        attributes = _attributes(os.path.join(root, path))
        facts = stat.S_IMODE(found.st_mode), found.st_nlink, found.st_size
        view.live[path] = ("file", *facts, len(data), digest(data), attributes)


def _attributes(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def _observe_past(view: View, root: str, below: str, known: Known, read_again: Callable[[str], bool]) -> None:
    names = sorted(os.listdir(os.path.join(root, below)))
    view.past[below] = names
    for name in names:
        path = os.path.join(below, name)
        if is_directory(name):
            _observe_past(view, root, path, known, read_again)
            continue
        ids = sorted(os.listdir(os.path.join(root, path)))
        view.ids[path] = ids
        view.past[path] = [_observe_version(os.path.join(root, path, one), one, known, read_again) for one in ids]


def _observe_version(path: str, version_id: str, known: Known, read_again: Callable[[str], bool]) -> Any:
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(path)
    if version_id not in known or read_again(version_id):
        data = _read(path)
        known[version_id] = (len(data), digest(data))
    return (found.st_size, *known[version_id])


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


# -- as the model says --------------------------------------------------------------------------------------------


def expect(reference: Reference) -> View:
    """What must be in the only bucket of the model, of which nothing is open."""
    view = View()
    [bucket] = reference.buckets.values()
    _expect_live(view, bucket.root, "")
    _expect_past(view, reference, [bucket.root], ".versions")
    return view


def _expect_live(view: View, directory: Directory, below: str) -> None:
    names = sorted(name.removesuffix(b"/").decode() for name in directory.entries)
    view.live[below] = ("directory", stat.S_IMODE(directory.mode), _decoded(directory.attributes), names)
    for sort_name, entry in directory.entries.items():
        path = os.path.join(below, sort_name.removesuffix(b"/").decode())
        if isinstance(entry, Directory):
            _expect_live(view, entry, path)
        elif stat.S_ISLNK(entry.mode):
            view.live[path] = ("symlink", entry.target.decode())
        else:
            size = len(entry.data)
            facts = stat.S_IMODE(entry.mode), len(entry.names), size
            view.live[path] = ("file", *facts, size, digest(entry.data), _decoded(entry.attributes))


def _decoded(attributes: dict[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in attributes.items()}


def _expect_past(view: View, reference: Reference, places: list[Directory], below: str) -> None:
    """*places*: the directories whose history is shown together, because they have stood at the same name."""
    versions: dict[str, list[Version]] = {}
    directories: dict[str, list[Directory]] = {}
    for place in places:
        for name, chain in place.chains.items():
            if chain and not name.endswith(b"/"):
                if name.decode() in versions:
                    view.merged.add(os.path.join(below, name.decode()))
                versions.setdefault(name.decode(), []).extend(chain)
        for entry in [*place.entries.values(), *place.removed]:
            if isinstance(entry, Directory):
                directories.setdefault(entry.name.decode(), []).append(entry)
    view.past[below] = sorted([*versions, *directories])
    for name, found in versions.items():
        path = os.path.join(below, name)
        view.versions[path] = sorted(found, key=lambda version: version.serial)
        view.past[path] = [_expect_version(version) for version in view.versions[path]]
    for name, below_it in directories.items():
        _expect_past(view, reference, below_it, os.path.join(below, name))


def _expect_version(version: Version) -> Any:
    if version.kind is Kind.MARKER:
        return DELETED
    if stat.S_ISLNK(version.mode):
        return version.target.decode()
    size = len(version.data)
    return (size, size, digest(version.data))


# -- comparing ----------------------------------------------------------------------------------------------------


def differences(found: View, expected: View) -> list[str]:
    """What is not as it must be, for people; nothing if all is well."""
    return [
        f"{path or 'the root'}: found {_shown(here.get(path))}, expected {_shown(there.get(path))}"
        for here, there in ((found.live, expected.live), (found.past, expected.past))
        for path in sorted({*here, *there})
        if not _is_same(here.get(path), there.get(path), ordered=path not in expected.merged)
    ]


def _is_same(found: Any, expected: Any, *, ordered: bool) -> bool:
    if not ordered and isinstance(found, list) and isinstance(expected, list):
        return sorted(found, key=repr) == sorted(expected, key=repr)
    return bool(found == expected)


def _shown(what: Any) -> str:
    return "nothing" if what is None else repr(what)


def places_of(directory: Directory) -> str:
    """The path of a directory below its bucket's root; of a removed one as of its last name."""
    parts: list[str] = []
    while directory.parent is not None:
        parts.append(directory.name.decode())
        directory = directory.parent
    return "/".join(reversed(parts))


def history_path(directory: Directory) -> str:
    """Where the history of a directory's names is, below its bucket's root."""
    return os.path.join(".versions", places_of(directory))


def shown_data(file: File) -> bytes:
    """What a reader of a file sees that is not open."""
    return file.data if file.draft is None else file.draft.data
